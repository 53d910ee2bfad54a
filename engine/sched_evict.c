/* sched_evict: sequences that keep a part of their pages.
 *
 * Idea: where every layer sees its last positions (and some first ones) only, a page that slid out of all windows is read by nobody who
 * comes later: rows are computed in order of position, and a guess that was wrong goes back to a position that was not done. So before each
 * step a sequence gives back what lies behind the first position that its next row sees, and is given pages for the rows of one step
 * instead of for its whole prompt. What it holds is bounded by the window, the sinks and the rows of a step, however far it goes.
 *
 *     page:    0 .. kept-1     kept .. gone-1      gone .. npages-1
 *              sinks           given back (-1)     window, and what the step writes
 *
 * The prefix cache: a page that is given back is published already, so it lies idle there until the pool needs it. Who begins as that one did
 * takes the longest beginning whose sinks and last window are still found; what lies between is looked at by nobody, and need not be there.
 *
 * Guarantees: answers are those of the same model with all pages kept, bit for bit. With keep.window 0 nothing here does anything.
 *
 * What "holds all of its pages before it begins" gave is given up: two prompts may want pages that the other one has, and then the later one
 * is preempted (sched_room.c), as when they decode.
 *
 * Step thread with the lock held, but for those that look only. */
#include "engine/sched_impl.h"

int evict_target(const struct sched *s, const struct gen *g, int done)
{
    if (s->keep.window == 0) return g->nids;
    int64_t ahead = (int64_t)done + s->o.step_tokens;
    return ahead < g->nids ? (int)ahead : g->nids;
}

int evict_most(const struct sched *s, int tokens)
{
    return kv_keep_most(&s->keep, tokens, s->o.step_tokens);
}

int evict_looked(const struct sched *s, int pos)
{
    int most = s->keep.window + s->keep.sinks;
    return most > 0 && pos > most ? most : pos;
}

void evict_behind(struct sched *s, struct gen *g)
{
    if (s->keep.window > 0) kv_seq_evict(&s->kv, &g->kv, &s->keep, g->done);
}

/* Of so many pages whose keys are known, those behind which it may go on. */
static int resume(struct sched *s, const struct gen *g, int pages)
{
    int sinks = kv_keep_sinks(&s->keep), run = 0, best = 0; /* pages run .. i were found */
    for (int i = 0; i < pages; i++) {
        if (kv_prefix_find(&s->kv, &g->key[i]) < 0) {
            if (i < sinks) break;
            run = i + 1;
        } else if (run <= sinks || run <= kv_keep_first(&s->keep, (i + 1) * KV_PAGE)) {
            best = i + 1;
        }
    }
    return best;
}

void evict_take(struct sched *s, struct gen *g, int pages)
{
    int n = resume(s, g, pages), sinks = kv_keep_sinks(&s->keep), first = kv_keep_first(&s->keep, n * KV_PAGE);
    for (int i = 0; i < n; i++) {
        if (i >= sinks && i < first)
            kv_seq_skip(&g->kv, sinks);
        else
            kv_seq_share(&s->kv, &g->kv, kv_prefix_find(&s->kv, &g->key[i]));
    }
}
