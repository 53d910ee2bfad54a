/* sched_sample: from logits to tokens, on every thread of the pool, right after the last product of a step.
 *
 * A job is the logits of one sequence: usually one row. With guesses it is several, and they are gone through in order: a token is chosen
 * from the row exactly as if no guess had been made, and only when it is the guessed one does the next row mean anything. So what is chosen never
 * depends on guesses, neither greedy nor sampled. A prompt's token that is told is a job of its own.
 *
 * On a device most rows are chosen from where they are, by the same rule and draw; the logits of the others came back, and are sampled here:
 * penalties, biases, grammars, log-probabilities, the typical set.
 *
 * A thread that has a job owns its sequence for the time: it reads its tokens and moves the state of its grammar. The step thread takes
 * over when the pool is done. */
#include "base/clock.h"
#include "engine/sched_impl.h"
#include <string.h>

/* --- what a device chooses --- */

/* Nothing but the logits, temperature, top_k, top_p, min_p and the draw decides. */
bool sample_is_plain(const struct gen *g, int index)
{
    const struct sample_params *p = &g->p.sample;
    return !g->grammar && g->p.nbias == 0 && (index >= g->p.min_tokens || g->nbanned == 0) && p->logprobs < 0 &&
           (p->repetition_penalty == 1 || p->repetition_penalty == 0) && p->presence_penalty == 0 &&
           p->frequency_penalty == 0 && !(p->typical_p > 0 && p->typical_p < 1);
}

static struct device_choice choice_of(const struct gen *g, int index)
{
    const struct sample_params *p = &g->p.sample;
    return (struct device_choice){.here = sample_is_plain(g, index),
                                  .temperature = p->temperature,
                                  .top_p = p->top_p,
                                  .min_p = p->min_p,
                                  .top_k = p->top_k,
                                  .seed = p->seed,
                                  .index = (uint64_t)index};
}

void sample_leave(struct plan *p)
{
    int ahead = p->follows; /* tokens that are on their way */
    for (int i = 0; i < p->njobs; i++) {
        const struct job *j = &p->job[i];
        for (int k = 0; k < j->n; k++)
            p->choice[j->logit + k] =
                j->given ? (struct device_choice){.here = false} : choice_of(j->g, j->g->nout + ahead + k);
    }
    p->batch.choice = p->choice;
}

/* The device's choice of a row; false: it made none. */
static bool chosen_there(const struct sched *s, int at, struct sample *out, enum sample_rc *rc)
{
    const struct device_result *r = forward_chosen(s->forward);
    if (!r || !s->plan->choice[at].here) return false;
    *out = (struct sample){.id = r->id[at]};
    *rc = r->finite[at] ? SAMPLE_OK : SAMPLE_NOT_FINITE;
    return true;
}

/* --- what is chosen here --- */

/* The tokens that the grammar allows next, in the thread's own words. */
static enum sample_rc allow(struct sched *s, int thread, struct gen *g, struct sample_input *in)
{
    int words = grammar_mask_words(s->m->vocab);
    if (!g->grammar) return SAMPLE_OK;
    int64_t began = grammar_mask_known(g->grammar) ? 0 : clock_mono_us();
    if (grammar_mask(g->grammar, s->mask[thread])) return SAMPLE_NO_MEMORY;
    if (began) g->mask_us = clock_mono_us() - began;
    in->mask = s->mask[thread];
    for (int i = 0; i < words; i++)
        if (s->mask[thread][i]) return SAMPLE_OK;
    return SAMPLE_NOTHING;
}

static enum sample_rc choose(struct sched *s, int thread, const struct job *j, const float *logits, struct sample *out)
{
    struct gen *g = j->g;
    int index = g->nout + j->chosen;
    struct sample_input in = {.p = &g->p.sample,
                              .index = (uint64_t)index,
                              .ids = g->ids,
                              .nprompt = g->nprompt,
                              .nids = g->nids + j->chosen,
                              .bias = g->bias,
                              .nbias = g->p.nbias,
                              .banned = g->banned,
                              .nbanned = index < g->p.min_tokens ? g->nbanned : 0};
    enum sample_rc rc = allow(s, thread, g, &in);
    if (rc) return rc;
    return sample_token(s->sampler[thread], logits, &in, out) ? SAMPLE_NOT_FINITE : SAMPLE_OK;
}

/* The row of the guess that `id`, chosen from row `row`, is; 0: of none. */
static int guessed_row(const struct job *j, int row, int32_t id)
{
    const int32_t *guess = j->g->ids + j->g->nids;
    if (j->tree) return 1 + medusa_tree_child(j->tree, row - 1, guess, id);
    return row + 1 < j->n && guess[row] == id ? row + 1 : 0;
}

/* Guesses stand in ids[nids ..]; of a tree those that are right move to the front of these, where nothing is left that could
 * still be asked for (engine/medusa_tree.c). */
static void choose_all(struct sched *s, int thread, struct job *j, const float *logits)
{
    struct gen *g = j->g;
    for (int row = 0, next = 1; next; row = next) {
        int at = j->logit + row;
        struct sample *out = &s->plan->sample[j->logit + j->chosen];
        if (!chosen_there(s, at, out, &j->rc))
            j->rc = choose(s, thread, j, logits + (size_t)at * (size_t)s->m->vocab, out);
        if (j->rc) return;
        bool end = gen_is_stop_id(g, out->id);
        next = guessed_row(j, row, out->id);
        if (g->grammar) j->over = !grammar_accept(g->grammar, out->id) || grammar_is_over(g->grammar);
        if (next) g->ids[g->nids + j->chosen] = out->id;
        j->chosen++;
        j->last = row;
        if (end || j->over) return;
    }
}

void sample_jobs(struct kthread *t, void *sched, const float *logits)
{
    struct sched *s = sched;
    struct plan *p = s->plan;
    if (t->id == 0) s->computed_us = sched_now(s);
    pool_claim_begin(t);
    for (int i; (i = pool_claim(t, p->njobs, 1)) >= 0;) {
        struct job *j = &p->job[i];
        if (!j->g) continue; /* it is over */
        if (!j->given) {
            choose_all(s, t->id, j, logits);
            continue;
        }
        const float *row = logits + (size_t)j->logit * (size_t)s->m->vocab;
        if (sample_given(s->sampler[t->id], row, &j->g->p.sample, j->g->ids[j->given], &p->sample[j->logit]))
            j->rc = SAMPLE_NOT_FINITE;
    }
}
