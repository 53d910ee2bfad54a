/* Barriers of blocks, warps and clusters; what lanes of a warp do together; dependent launch; atomics.
 *
 * A rendezvous: who arrives is noted, the last one does the work for all, hands what all have seen to each and makes them
 * ready. Threads that meet at one barrier must come from one line of the source, and threads that have ended can't come
 * any more: both are reported as divergence, because the device promises nothing about them. */
#include "tests/simt/run.h"
#include <stdio.h>
#include <string.h>

/* --- barriers of a block --- */

static bool same_site(struct simt_site a, struct simt_site b)
{
    return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

static void barrier_opens(struct barrier *b)
{
    for (struct fiber *f = b->waiting; f; f = f->next) {
        race_take(&b->clock, f);
        f->vote = b->votes;
    }
    run_wake(&b->waiting);
    race_clear(&b->clock);
    b->arrived = b->votes = 0;
}

/* -> whether the barrier is open now. */
static bool barrier_arrive(struct barrier *b, struct fiber *f, int need, bool one_place)
{
    if (b->arrived && one_place && !same_site(b->at, f->at))
        run_fail("divergent barrier: other threads of the block are at %s:%d", b->at.file, b->at.line);
    if (b->arrived && b->need != need)
        run_fail("barrier for %d threads, but %s:%d is for %d", need, b->at.file, b->at.line, b->need);
    b->at = f->at, b->need = need;
    race_give(&b->clock, f);
    return ++b->arrived == need;
}

int simt_sync(enum simt_vote vote, int pred, struct simt_site at)
{
    if (place_left_out(vote == SIMT_VOTE_NONE ? "dev_sync" : "dev_sync with a vote", at)) return pred != 0;
    struct fiber *f = run_enter("dev_sync", at);
    struct barrier *b = &f->cta->barrier[0];
    int threads = (int)run.launch->threads;
    if (f->cta->live != threads)
        run_fail("divergent barrier: %d threads of the block have ended", threads - f->cta->live);
    bool open = barrier_arrive(b, f, threads, true);
    b->votes += pred != 0;
    if (open) {
        f->vote = b->votes;
        race_take(&b->clock, f);
        barrier_opens(b);
    } else {
        run_wait(&b->waiting);
    }
    return vote == SIMT_VOTE_COUNT ? f->vote : vote == SIMT_VOTE_AND ? f->vote == threads : f->vote > 0;
}

void simt_sync_named(int id, int threads, bool wait, struct simt_site at)
{
    if (wait && place_left_out("dev_sync_named", at)) return;
    struct fiber *f = run_enter(wait ? "dev_sync_named" : "dev_arrive_named", at);
    if (id < 1 || id >= MAX_BARRIERS || threads < LANES || threads % LANES || threads > (int)run.launch->threads)
        run_fail("named barrier %d for %d threads", id, threads);
    struct barrier *b = &f->cta->barrier[id];
    if (barrier_arrive(b, f, threads, false)) {
        if (wait) race_take(&b->clock, f);
        barrier_opens(b);
    } else if (wait) {
        run_wait(&b->waiting);
    }
}

/* --- lanes of a warp --- */

enum { WARP_SYNC, WARP_SHFL, WARP_BALLOT, WARP_MATRIX };

/* The group of lanes that f belongs to with this mask. */
static struct group *group_of(struct fiber *f, uint32_t mask, int op)
{
    struct warp *w = f->warp;
    int at = -1;
    for (int i = 0; i < w->groups; i++) {
        struct group *g = &w->group[i];
        if (!g->here) {
            at = i;
        } else if (g->mask == mask) {
            if (g->op != op || !same_site(g->at, f->at))
                run_fail("divergent warp: lanes of mask %08x wait at %s:%d", mask, g->at.file, g->at.line);
            return g;
        } else if (g->mask & mask) {
            run_fail("divergent warp: mask %08x, but lanes of it wait with mask %08x at %s:%d", mask, g->mask,
                     g->at.file, g->at.line);
        }
    }
    if (at < 0) at = w->groups++;
    struct group *g = &w->group[at];
    g->mask = mask, g->op = op, g->at = f->at;
    g->lane = f - f->lane;
    return g;
}

/* The lanes of `mask` meet; `all` is called once, by the last of them. */
static void warp_meet(struct fiber *f, uint32_t mask, int op, void (*all)(struct group *g))
{
    uint32_t me = 1u << f->lane;
    if (!(mask & me)) run_fail("mask %08x without lane %d itself", mask, f->lane);
    struct group *g = group_of(f, mask, op);
    g->here |= me;
    if (op == WARP_SYNC) race_give(&g->clock, f);
    if (g->here != mask) {
        run_block();
        return;
    }
    all(g);
    g->here = 0;
    for (int i = 0; i < LANES; i++) {
        if (!(mask >> i & 1)) continue;
        if (op == WARP_SYNC) race_take(&g->clock, &g->lane[i]);
        if (&g->lane[i] != f) run_ready(&g->lane[i]);
    }
    race_clear(&g->clock);
}

static void all_nothing(struct group *g)
{
    (void)g;
}

void simt_sync_warp(uint32_t mask, struct simt_site at)
{
    if (place_left_out("dev_sync_warp", at)) return;
    warp_meet(run_enter("dev_sync_warp", at), mask, WARP_SYNC, all_nothing);
}

static void all_shfl(struct group *g)
{
    for (int i = 0; i < LANES; i++) {
        if (!(g->mask >> i & 1)) continue;
        int from = g->lane[i].from;
        if (!(g->mask >> from & 1))
            run_fail("lane %d reads lane %d, which takes no part (mask %08x)", i, from, g->mask);
        g->lane[i].got = g->lane[from].post;
    }
}

uint64_t simt_shfl(uint32_t mask, uint64_t v, int lane, struct simt_site at)
{
    struct fiber *f = run_enter("dev_shfl", at);
    f->post = v, f->from = lane;
    warp_meet(f, mask, WARP_SHFL, all_shfl);
    return f->got;
}

static void all_ballot(struct group *g)
{
    uint32_t votes = 0;
    for (int i = 0; i < LANES; i++)
        if (g->mask >> i & 1 && g->lane[i].post) votes |= 1u << i;
    for (int i = 0; i < LANES; i++)
        if (g->mask >> i & 1) g->lane[i].got = votes;
}

uint32_t simt_ballot(uint32_t mask, int pred, struct simt_site at)
{
    struct fiber *f = run_enter("dev_ballot", at);
    f->post = pred != 0;
    warp_meet(f, mask, WARP_BALLOT, all_ballot);
    return (uint32_t)f->got;
}

static void all_matrix(struct group *g)
{
    g->lane->matrix(g->lane);
}

void sync_matrix(struct fiber *f, void (*all)(struct fiber *lane))
{
    (f - f->lane)->matrix = all;
    warp_meet(f, 0xffffffff, WARP_MATRIX, all_matrix);
}

/* --- clusters --- */

void *simt_cluster_map(const void *shared, unsigned rank, struct simt_site at)
{
    struct fiber *f = run_enter("dev_cluster_map", at);
    if (rank >= f->here.ranks) run_fail("rank %u of a cluster of %u", rank, f->here.ranks);
    return memory_map(f, shared, rank);
}

/* Left out together with the wait that belongs to it. */
void simt_cluster_arrive(struct simt_site at)
{
    if (place_left_out("the cluster's barrier", at)) {
        run.me->cluster_left_out = true;
        return;
    }
    struct fiber *f = run_enter("dev_cluster_arrive", at);
    if (f->cluster_arrived) run_fail("arrives twice without dev_cluster_wait");
    if (run.live != run.fibers) run_fail("divergent cluster barrier: %d threads have ended", run.fibers - run.live);
    f->cluster_arrived = true, f->cluster_phase = run.cluster_phase;
    race_give(&run.cluster_clock[run.cluster_phase & 1], f);
    if (++run.cluster_arrived < run.fibers) return;
    run.cluster_arrived = 0;
    run.cluster_phase++;
    race_clear(&run.cluster_clock[run.cluster_phase & 1]);
    run_wake(&run.cluster_waiting);
}

void simt_cluster_wait(struct simt_site at)
{
    if (run.me->cluster_left_out) {
        run.me->cluster_left_out = false;
        return;
    }
    struct fiber *f = run_enter("dev_cluster_wait", at);
    if (!f->cluster_arrived) run_fail("waits without dev_cluster_arrive");
    if (f->cluster_phase == run.cluster_phase) run_wait(&run.cluster_waiting);
    f->cluster_arrived = false;
    race_take(&run.cluster_clock[f->cluster_phase & 1], f);
}

/* --- dependent launch, atomics --- */

void simt_fence(struct simt_site at)
{
    if (place_left_out("dev_fence", at)) return;
    run_enter("dev_fence", at)->fenced = true;
}

void simt_pdl_wait(struct simt_site at)
{
    if (place_left_out("dev_pdl_wait", at)) return;
    struct fiber *f = run_enter("dev_pdl_wait", at);
    run.pdl_waited = true;
    race_pdl_wait(f);
}

uint32_t simt_atomic(enum simt_atomic op, void *p, uint32_t v, uint32_t expected, struct simt_site at)
{
    struct fiber *f = run_enter("an atomic", at);
    uint32_t *to = p, old = *to;
    race_atomic(f, p);
    bool more = op == SIMT_MAX_INT ? (int32_t)v > (int32_t)old : v > old;
    if (op == SIMT_ADD) *to = old + v;
    if (op == SIMT_CAS && old == expected) *to = v;
    if ((op == SIMT_MAX_INT || op == SIMT_MAX_UNSIGNED) && more) *to = v;
    return old;
}

/* --- ends and messages --- */

/* A barrier that others wait at can't open any more. */
void sync_ended(struct fiber *f)
{
    const struct barrier *b = &f->cta->barrier[0];
    if (b->arrived) run_fail("divergent barrier: this thread ends while others wait at %s:%d", b->at.file, b->at.line);
    if (f->cluster_arrived && run.ctas > 1 && run.cluster_phase == f->cluster_phase && run.cluster_waiting)
        run_fail("ends between dev_cluster_arrive and dev_cluster_wait");
}

/* Threads in groups of the same block and place. */
void sync_describe(void)
{
    for (int i = 0, from = 0; i < run.fibers; i = from) {
        const struct fiber *f = &run.fiber[i];
        for (from = i + 1; from < run.fibers; from++) {
            const struct fiber *g = &run.fiber[from];
            if (g->cta != f->cta || g->ended != f->ended || !same_site(f->at, g->at)) break;
        }
        fprintf(stderr, "  block (%u, %u, %u) threads %u..%u: %s %s:%d\n", f->here.block.x, f->here.block.y,
                f->here.block.z, f->here.thread.x, run.fiber[from - 1].here.thread.x, f->ended ? "ended," : f->what,
                f->at.file, f->at.line);
    }
}
