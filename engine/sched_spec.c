/* sched_spec: tokens guessed ahead.
 *
 * Idea (Leviathan et al. 2023; prompt lookup after Saxena 2023): a step with a few rows costs hardly more than one with a single row, for
 * both read all weights. So a sequence that decodes may bring guesses of its next tokens; sched_sample.c keeps those that are what it
 * chooses anyway. Guesses are what followed the last occurrence of its last few tokens, in its own past or in answers before it (sched_past.c),
 * wherever more of them are the same; where nothing is found, a draft model's or those of Medusa heads (sched_medusa.c) if there are any.
 *
 * Guarantees: answers are those without guesses. No guesses when more than SPEC_SEQUENCES run (with three nothing was won, with four it cost 4 %), and not more than SPEC_ROWS in all, since further rows cost their full price; a
 * sequence whose guesses fail makes shorter ones and then waits, twice as long each time, so that one without repetitions pays next to nothing.
 * The search looks at SCAN tokens at most.
 *
 * Step thread, without the lock. */
#include "engine/sched_impl.h"

#define SCAN 4096 /* tokens looked back */
#define LEAST 1   /* tokens that must be equal */
#define LEAST_PAUSED 2 /* in a sequence whose last guess failed */
#define LEAST_DRAFT 3  /* where a draft model can be asked instead */
#define PAUSE_MAX 32   /* tokens */

/* Tokens that may be copied, and where those stand that are like a sequence's last ones. */
struct match {
    const int32_t *in; /* [n] */
    int n, at, len;    /* in[at - len + 1 .. at] are the last len tokens; at < 0: none */
};

/* How many tokens before and at `at` equal the sequence's last ones, up to SPEC_GRAM. */
static int equal_before(const struct match *m, int at, const struct gen *g)
{
    int k = 0;
    while (k < SPEC_GRAM && k <= at && k < g->nids && m->in[at - k] == g->ids[g->nids - 1 - k]) k++;
    return k;
}

/* The nearest of the longest that are longer than m->len. */
static void search(struct match *m, const struct gen *g)
{
    int last = g->ids[g->nids - 1], stop = m->n - SCAN > 0 ? m->n - SCAN : 0;
    m->at = -1;
    for (int i = m->n - 2; i >= stop && m->len < SPEC_GRAM; i--) {
        if (m->in[i] != last) continue;
        int k = equal_before(m, i, g);
        if (k <= m->len) continue;
        m->at = i;
        m->len = k;
    }
}

/* Copies what followed; in its own past it may run into the copy itself. */
static int copy(struct gen *g, const struct match *m, int want)
{
    int n = 0;
    for (int i = m->at + 1; n < want && (m->in == g->ids || i < m->n) && m->in[i] >= 0; i++)
        g->ids[g->nids + n++] = m->in[i];
    return n;
}

static int look_up(struct sched *s, struct gen *g, int want, int least)
{
    struct match own = {.in = g->ids, .n = g->nids, .len = least - 1}, past = {.at = -1};
    search(&own, g);
    if (!g->no_cache && (past.in = pasts_of(s->pasts, g, &past.n))) {
        past.len = own.len;
        search(&past, g);
    }
    if (past.at >= 0) return copy(g, &past, want);
    return own.at >= 0 ? copy(g, &own, want) : 0;
}

static int min_of(int a, int b)
{
    return a < b ? a : b;
}

static int wanted(const struct sched *s, const struct gen *g)
{
    if (g->nids - g->done != 1 || g->nout < g->spec.again) return 0;
    int share = (SPEC_ROWS - s->running.n) / s->running.n;
    return min_of(min_of(g->spec.len, s->o.speculate), min_of(share, g->p.max_tokens - g->nout - 1));
}

bool spec_may_guess(const struct sched *s)
{
    if (s->o.speculate == 0 || s->running.n > SPEC_SEQUENCES) return false;
    for (const struct gen *g = s->running.first; g; g = g->next)
        if (g->nout + 1 >= g->spec.again) return true;
    return false;
}

void spec_guess(struct sched *s)
{
    struct gen *ask[SPEC_SEQUENCES], *bare[SPEC_SEQUENCES];
    int want[SPEC_SEQUENCES], n = 0, nbare = 0;
    bool helped = s->draft || s->guesser;
    if (s->o.speculate == 0 || s->running.n > SPEC_SEQUENCES) return;
    for (struct gen *g = s->running.first; g; g = g->next) {
        int most = wanted(s, g);
        if (s->guesser) bare[nbare++] = g;
        if (most <= 0) continue;
        g->spec.tree = false;
        g->spec.n = look_up(s, g, most, helped ? LEAST_DRAFT : g->spec.pause ? LEAST_PAUSED : LEAST);
        if (g->spec.n && s->guesser) nbare--;
        if (g->spec.n) continue;
        ask[n] = g;
        want[n++] = most;
    }
    if (s->draft && n) draft_guess(s->draft, ask, want, n);
    if (nbare) guesser_guess(s->guesser, bare, nbare);
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
