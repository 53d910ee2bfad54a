/* sched_follow: the step behind the one that a device runs, made before that one's tokens are known.
 *
 * Idea: of nearly every step the next one is known but for its tokens: the same sequences, one position further. So it is
 * begun while the device computes, and takes its tokens from where they are chosen (kernels/device.h); what the host does
 * with the tokens of a step (text, stop strings, events) and what it does to begin one, the device does not wait for.
 *
 *     plan_make --> begin --+--> follow_make --> begin the other plan --+--> finish, take ---> the other plan --+
 *                           ^        |                                  |                                       |
 *                           |        +--NULL--> finish, take --> plan_make                                      |
 *                           +-----------------------------------------------------------------------------------+
 *
 * One step is ahead at most. A sequence that ends with step n (an end token, a stop string, a value that isn't finite) is
 * in step n+1 already: its row is computed for nobody, follow_forget() takes it out of the plan, and nothing is told,
 * charged or published for it. That row writes where the sequence's own pages were; whoever gets these computes behind it
 * in the stream, as everything that touches pages does. Adapters' memory is not written there: kernels/cuda/adapters.c.
 *
 * The planner keeps the say: no step follows while somebody could be admitted, asks for a slot, is cancelled, failed or
 * late; when a prompt has rows to come; when a sequence is chosen for here (grammars, penalties, log-probabilities); when
 * a guess might be made; when pages are short. Then the device waits for the host once. So a newcomer waits for the end of
 * one decoding step more than without.
 *
 * Step thread, with the lock held. */
#include "engine/sched_impl.h"

static bool planner_wanted(struct sched *s)
{
    return s->stop || s->cancelled || s->failed.first || sched_now(s) >= s->next_deadline_us || spec_may_guess(s) ||
           slots_wanted(s) || room_wanted(s);
}

/* One token will come of it, chosen on the device. */
static bool chooses_there(const struct plan *p, const struct part *a)
{
    return a->chooses && a->drafts == 0 && a->given == 0 && p->choice[p->job[a->job0].logit].here;
}

static bool ends_surely(const struct gen *g)
{
    return g->nout + 1 >= g->p.max_tokens;
}

/* All that run are in the step, and what becomes of each is known but for its token. A place that comes free is for who waits. */
static bool is_clear(const struct sched *s, const struct plan *p)
{
    int there = 0, end = 0;
    for (int i = 0; i < p->nparts; i++) {
        const struct part *a = &p->part[i];
        if (!a->g) continue;
        there++;
        end += ends_surely(a->g);
        if (!chooses_there(p, a) || (!ends_surely(a->g) && !sample_is_plain(a->g, a->g->nout + 1))) return false;
    }
    return there == s->running.n && (end == 0 || s->waiting + s->put_off == 0);
}

struct plan *follow_make(struct sched *s)
{
    const struct plan *p = s->plan;
    struct plan *next = &s->turn[p == &s->turn[0]];
    if (!s->kernels->device || !s->o.follow || !is_clear(s, p) || planner_wanted(s)) return NULL;
    plan_clear(next, true);
    for (int i = 0; i < p->nparts; i++) {
        const struct part *a = &p->part[i];
        struct gen *g = a->g;
        if (!g || ends_surely(g)) continue;
        if (!kv_seq_reserve(&s->kv, &g->kv, g->nids + 1)) return NULL;
        plan_add_next(next, g, p->job[a->job0].logit);
    }
    if (next->nparts == 0) return NULL;
    plan_settle(s, next);
    budget_follow(s, next);
    return next;
}

void follow_forget(struct plan *next, const struct gen *g)
{
    for (int i = 0; i < next->nparts; i++) {
        struct part *a = &next->part[i];
        if (a->g != g) continue;
        next->discarded += a->rows;
        next->job[a->job0].g = a->g = NULL;
    }
}
