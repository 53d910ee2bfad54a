/* sched_prefix: prompts that begin as others did take over their pages.
 *
 * Idea: after each step the pages that a sequence has completed are published under their keys (kv_prefix.c): of prompts and of answers, so
 * that the next turn of a conversation finds the last one. A sequence that is admitted, or comes back after it was preempted, takes the longest
 * chain of published pages; so do sequences in prefill whenever others have completed their next page meanwhile. And one whose
 * next page is just being computed by another waits for it: n answers to one prompt cost one prefill.
 *
 * Guarantees: the last token of a sequence is never taken from the cache, for its logits are needed. Pages are shared only when everything
 * that they depend on is equal: tokens, salt, adapters with their weights, and where these begin (rows before an aLoRA's invocation are base
 * rows, and shared as such). Bits don't depend on who computed a page, as no row of a step depends on another.
 *
 * A request that must not read the cache, or whose prompt's log-probabilities are asked, computes all itself; what it computes is published
 * all the same.
 *
 * Step thread; what runs with the lock held says so. */
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <string.h>

/* --- keys --- */

/* Which adapters begin in the page: their place in the sum, row, digest and weight. False: none. */
static bool begins(const struct gen *g, int page, struct kv_key *out)
{
    bool any = false;
    struct sha256 h;
    sha256_init(&h);
    for (int32_t i = 0; i < g->npins; i++) {
        const struct gen_pin *p = &g->pin[i];
        if (p->from / KV_PAGE != page) continue;
        int32_t row = p->from % KV_PAGE;
        sha256_add(&h, &i, sizeof i);
        sha256_add(&h, &row, sizeof row);
        sha256_add(&h, p->digest, sizeof p->digest);
        sha256_add(&h, &p->weight, sizeof p->weight);
        any = true;
    }
    sha256_end(&h, out->b);
    return any;
}

/* Keys of the first n pages; their tokens are known. */
static void know_keys(struct gen *g, int n)
{
    for (; g->nkeys < n; g->nkeys++) {
        int i = g->nkeys;
        struct kv_key who;
        bool any = begins(g, i, &who);
        kv_key_next(&g->key[i], i ? &g->key[i - 1] : &g->root, g->ids + (size_t)i * KV_PAGE, any ? &who : NULL);
    }
}

static bool reads(const struct sched *s, const struct gen *g)
{
    return s->o.prefix_cache && !g->no_cache && g->told >= g->nprompt;
}

/* Pages that it may take over: all that are full without its last token. */
static int takeable(const struct gen *g)
{
    return (g->nids - 1) / KV_PAGE;
}

/* --- taking --- */

void prefix_take(struct sched *s, struct gen *g)
{
    if (!reads(s, g)) return;
    know_keys(g, takeable(g));
    if (s->keep.window > 0) {
        evict_take(s, g, takeable(g));
        return;
    }
    for (int i = 0; i < takeable(g); i++) {
        int page = kv_prefix_find(&s->kv, &g->key[i]);
        if (page < 0) break;
        kv_seq_share(&s->kv, &g->kv, page);
    }
}

/* It is admitted with the pages that it holds: with the lock held. */
static void note_taken(struct sched *s, struct gen *g, int to)
{
    int from = g->done > g->high ? g->done : g->high, end = to < g->nprompt ? to : g->nprompt;
    if (end > from) {
        g->cached += end - from;
        s->prefix_hits += (uint64_t)(end - from);
        note_add(s, M_PREFIX_HITS, NULL, end - from);
    }
    if (to > g->high) g->high = to;
    g->done = to;
    g->npublic = to / KV_PAGE;
}

void prefix_begin(struct sched *s, struct gen *g, int pages)
{
    if (reads(s, g) && !g->looked) {
        g->looked = true;
        s->prefix_queries += (uint64_t)g->nprompt;
        note_add(s, M_PREFIX_QUERIES, NULL, g->nprompt);
    }
    note_taken(s, g, pages * KV_PAGE);
}

int prefix_catch_up(struct sched *s, struct gen *g)
{
    int before = g->cached;
    if (!reads(s, g)) return 0;
    while (g->done % KV_PAGE == 0 && g->done / KV_PAGE < takeable(g) && g->done / KV_PAGE + 1 < g->kv.npages) {
        int i = g->done / KV_PAGE, page;
        know_keys(g, i + 1);
        if ((page = kv_prefix_find(&s->kv, &g->key[i])) < 0) break;
        kv_seq_swap(&s->kv, &g->kv, i, page);
        note_taken(s, g, g->done + KV_PAGE);
    }
    return g->cached - before;
}

bool prefix_awaits(struct sched *s, struct gen *g)
{
    int page = g->done / KV_PAGE;
    if (!reads(s, g) || g->done % KV_PAGE || page >= takeable(g)) return false;
    know_keys(g, page + 1);
    for (int i = 0; i < s->plan->nparts; i++) {
        struct gen *o = s->plan->part[i].g;
        if (o->done / KV_PAGE > page || o->nids / KV_PAGE <= page) continue;
        know_keys(o, page + 1);
        if (memcmp(&o->key[page], &g->key[page], sizeof g->key[page]) == 0) return true;
    }
    return false;
}

/* --- giving --- */

void prefix_publish(struct sched *s, struct gen *g)
{
    if (!s->o.prefix_cache) return;
    int full = g->done / KV_PAGE;
    know_keys(g, full);
    for (; g->npublic < full; g->npublic++) {
        const struct kv_key *k = &g->key[g->npublic];
        if (kv_prefix_publish(&s->kv, g->kv.page[g->npublic], k) || !reads(s, g)) continue;
        kv_seq_swap(&s->kv, &g->kv, g->npublic, kv_prefix_find(&s->kv, k)); /* a twin: one of the two is enough */
    }
}

void prefix_forget(struct sched *s, struct gen *g)
{
    for (int i = 0; i < g->npublic; i++) {
        int page = g->kv.page[i] >= 0 ? g->kv.page[i] : kv_prefix_find(&s->kv, &g->key[i]);
        if (page >= 0) kv_prefix_forget(&s->kv, page);
    }
}
