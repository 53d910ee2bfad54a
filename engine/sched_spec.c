/* sched_spec: tokens guessed ahead.
 *
 * Idea (Leviathan et al. 2023; prompt lookup after Saxena 2023): a step with a few rows costs hardly more than one with a single row, for
 * both read all weights. So a sequence that decodes may bring guesses of its next tokens; sched_sample.c keeps those that are what it
 * chooses anyway. Guesses come from the sequence's own past: what followed the last occurrence of its last few tokens; where nothing is
 * found, from a draft model if there is one.
 *
 * Guarantees: answers are those without guesses. No guesses when more than SEQUENCES run, since then the rows are worth more to others; a
 * sequence whose guesses fail makes shorter ones and then waits, twice as long each time, so that one without repetitions pays next to nothing.
 * The search looks at SCAN tokens at most.
 *
 * Step thread, without the lock. */
#include "engine/sched_impl.h"

#define SEQUENCES 4  /* that run */
#define SCAN 4096    /* tokens looked back */
#define GRAM 3       /* tokens that should be equal; fewer are taken where no more are, unless there is a draft model */
#define GRAM_MIN 2   /* of a sequence whose last guess failed */
#define PAUSE_MAX 32 /* tokens */

/* How many tokens before and at `at` equal the last ones, up to GRAM. */
static int equal_before(const int32_t *ids, int n, int at)
{
    int k = 0;
    while (k < GRAM && k <= at && ids[at - k] == ids[n - 1 - k]) k++;
    return k;
}

/* Copies what followed the nearest of the longest matches behind the tokens; it may run into the copy itself. */
static int look_up(struct gen *g, int want, int least)
{
    int best = -1, len = least - 1, stop = g->nids - 1 - SCAN;
    for (int i = g->nids - 2; i >= 0 && i >= stop && len < GRAM; i--) {
        if (g->ids[i] != g->ids[g->nids - 1]) continue;
        int k = equal_before(g->ids, g->nids, i);
        if (k <= len) continue;
        best = i;
        len = k;
    }
    if (best < 0) return 0;
    for (int i = 0; i < want; i++) g->ids[g->nids + i] = g->ids[best + 1 + i];
    return want;
}

static int wanted(const struct sched *s, const struct gen *g)
{
    int left = g->p.max_tokens - g->nout - 1, n = g->spec.len < s->o.speculate ? g->spec.len : s->o.speculate;
    if (g->nids - g->done != 1 || g->nout < g->spec.again) return 0;
    return n < left ? n : left;
}

void spec_guess(struct sched *s)
{
    struct gen *ask[SEQUENCES];
    int want[SEQUENCES], n = 0;
    if (s->o.speculate == 0 || s->running.n > SEQUENCES) return;
    for (struct gen *g = s->running.first; g; g = g->next) {
        int most = wanted(s, g);
        if (most <= 0) continue;
        g->spec.n = look_up(g, most, s->draft ? GRAM : g->spec.pause ? GRAM_MIN : 1);
        if (g->spec.n) continue;
        ask[n] = g;
        want[n++] = most;
    }
    if (s->draft && n) draft_guess(s->draft, ask, want, n);
}

void spec_learn(struct gen *g, int guessed, int right)
{
    struct gen_spec *p = &g->spec;
    if (g->nids - 1 < p->done) p->done = g->nids - 1; /* behind it the draft model's cache holds wrong guesses */
    if (guessed == 0) return;
    if (right == guessed) {
        p->len = 2 * p->len < SPECULATE_MAX ? 2 * p->len : SPECULATE_MAX;
        p->pause = 0;
    } else if (right > 0) {
        p->len = right + 1;
        p->pause = 0;
    } else {
        p->len = p->len > 1 ? p->len / 2 : 1;
        p->pause = p->pause ? 2 * p->pause : 1;
        if (p->pause > PAUSE_MAX) p->pause = PAUSE_MAX;
        p->again = g->nout + p->pause;
    }
}
