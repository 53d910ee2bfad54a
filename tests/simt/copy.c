/* Copies that run beside the threads: cp.async, bulk copies, and the mbarriers that count them.
 *
 * When a copy lands is chance: at once, or as late as the program allows. A cp.async or a bulk copy to global memory lands
 * when it is issued or when its thread waits for its group; a bulk copy to shared memory at any switch, at the latest when
 * nobody can go on without it. Its bytes are read when it lands. So a missing wait reads what was there before, and a
 * copy issued too early overwrites what is still in use. */
#include "tests/simt/run.h"
#include <stdlib.h>
#include <string.h>

#define OPEN 0x7fffffff /* the group of copies that are not committed yet */
#define UNIT 16         /* bytes that bulk copies are multiples of */

struct copy {
    struct copy *next;
    int group;
    bool bulk, landed, source_free;
    void *to;
    const void *from;
    uint32_t bytes, read; /* the rest is zeros */
    struct mbar *mbar;
    struct cta *cta;
};

static struct copy *spare, *in_flight; /* in_flight: to shared memory, by mbarrier */
static int flights;

static struct copy *copy_new(struct copy **list)
{
    struct copy *c = spare;
    if (c)
        spare = c->next;
    else if (!(c = malloc(sizeof *c)))
        run_fail("no memory");
    memset(c, 0, sizeof *c);
    c->next = *list;
    *list = c;
    return c;
}

static void copy_free(struct copy **link)
{
    struct copy *c = *link;
    *link = c->next;
    c->next = spare;
    spare = c;
}

static void land(struct copy *c)
{
    if (c->landed) return;
    c->landed = true;
    memcpy(c->to, c->from, c->read);
    memset((char *)c->to + c->read, 0, c->bytes - c->read);
}

static void must_be_aligned(const void *p, size_t unit, const char *what)
{
    if ((uintptr_t)p % unit) run_fail("%s is not a multiple of %zu bytes", what, unit);
}

static void must_be_shared(const struct fiber *f, const void *p)
{
    if (memory_rank(p) != (int)f->here.rank) run_fail("not in this block's shared memory");
}

/* --- cp.async --- */

void simt_cp_async(void *shared, const void *global, unsigned bytes, unsigned read, struct simt_site at)
{
    struct fiber *f = run_enter("dev_cp_async", at);
    must_be_shared(f, shared);
    must_be_aligned(shared, bytes, "the target");
    if (read) must_be_aligned(global, bytes, "the source");
    struct copy *c = copy_new(&f->copies);
    c->group = OPEN, c->to = shared, c->from = global, c->bytes = bytes, c->read = read;
    race_copy_begins(f, shared, global, bytes, read, false);
    if (!run.seed || run_random(2)) land(c);
}

void simt_cp_async_commit(struct simt_site at)
{
    struct fiber *f = run_enter("dev_cp_async_commit", at);
    f->cp_groups++;
    for (struct copy *c = f->copies; c; c = c->next)
        if (!c->bulk && c->group == OPEN) c->group = f->cp_groups;
}

void simt_cp_async_wait(int behind, struct simt_site at)
{
    if (place_left_out("dev_cp_async_wait", at)) return;
    struct fiber *f = run_enter("dev_cp_async_wait", at);
    for (struct copy **link = &f->copies; *link;) {
        struct copy *c = *link;
        if (c->bulk || c->group > f->cp_groups - behind) {
            link = &c->next;
            continue;
        }
        land(c);
        race_copy_ends(f, NULL, c->to, c->bytes);
        copy_free(link);
    }
}

/* --- mbarriers --- */

static struct mbar *mbar_at(struct cta *cta, const void *p)
{
    for (int i = 0; i < cta->mbars; i++)
        if (cta->mbar[i].at == p) return &cta->mbar[i];
    run_fail("no mbarrier was made here");
}

void simt_mbar_init(void *p, unsigned arrivals, struct simt_site at)
{
    struct fiber *f = run_enter("dev_mbar_init", at);
    struct cta *cta = f->cta;
    must_be_shared(f, p);
    must_be_aligned(p, 8, "the mbarrier");
    if (!arrivals) run_fail("an mbarrier of no arrivals");
    int i = 0;
    while (i < cta->mbars && cta->mbar[i].at != p) i++;
    if (i == MAX_MBARS) run_fail("more than %d mbarriers", MAX_MBARS);
    if (i == cta->mbars) cta->mbars++;
    race_access(f, p, 8, true);
    cta->mbar[i] = (struct mbar){
        .at = p, .maker = f, .arrivals = arrivals, .pending = arrivals, .agent = (int)cta->rank * MAX_MBARS + i};
}

void simt_mbar_fence_init(struct simt_site at)
{
    if (place_left_out("dev_mbar_fence_init", at)) return;
    struct fiber *f = run_enter("dev_mbar_fence_init", at);
    for (int i = 0; i < f->cta->mbars; i++)
        if (f->cta->mbar[i].maker == f) f->cta->mbar[i].fenced = true;
}

static void mbar_look(struct mbar *b)
{
    if (b->pending || b->bytes) return;
    b->phase++;
    b->pending = b->arrivals;
    race_move(&b->seen, &b->clock);
    for (struct fiber *f = b->waiting; f; f = f->next) race_take(&b->seen, f);
    run_wake(&b->waiting);
}

void simt_mbar_arrive(void *p, unsigned expect, struct simt_site at)
{
    struct fiber *f = run_enter("dev_mbar_arrive", at);
    must_be_shared(f, p);
    struct mbar *b = mbar_at(f->cta, p);
    race_seen(f, p, 8);
    if (!b->pending) run_fail("more arrivals than the mbarrier counts (%u)", b->arrivals);
    b->bytes += expect;
    b->pending--;
    race_give(&b->clock, f);
    mbar_look(b);
}

void simt_mbar_wait(void *p, unsigned parity, struct simt_site at)
{
    if (place_left_out("dev_mbar_wait", at)) return;
    struct fiber *f = run_enter("dev_mbar_wait", at);
    if (parity > 1) run_fail("parity %u", parity);
    struct mbar *b = mbar_at(f->cta, p);
    race_seen(f, p, 8);
    if ((b->phase & 1) == parity)
        run_wait(&b->waiting);
    else
        race_take(&b->seen, f);
}

/* --- bulk copies --- */

static void bulk_check(const void *to, const void *from, uint32_t bytes)
{
    must_be_aligned(to, UNIT, "the target");
    must_be_aligned(from, UNIT, "the source");
    if (!bytes || bytes % UNIT) run_fail("a bulk copy of %u bytes", bytes);
}

static void flight_lands(struct copy **link)
{
    struct copy *c = *link;
    struct mbar *b = c->mbar;
    land(c);
    race_copy_ends(NULL, b, c->to, c->bytes);
    b->bytes -= c->bytes;
    copy_free(link);
    flights--;
    mbar_look(b);
}

bool copy_land_some(bool must)
{
    if (!in_flight || (!must && run.seed && run_random(run.land_odds))) return false;
    struct copy **link = &in_flight;
    for (uint32_t n = run_random((uint32_t)flights); n; n--) link = &(*link)->next;
    flight_lands(link);
    return true;
}

void simt_bulk_g2s(void *shared, const void *global, uint32_t bytes, void *p, struct simt_site at)
{
    struct fiber *f = run_enter("dev_bulk_g2s", at);
    must_be_shared(f, shared);
    bulk_check(shared, global, bytes);
    struct mbar *b = mbar_at(f->cta, p);
    race_seen(f, p, 8);
    if (!b->fenced) run_fail("the mbarrier's maker did not call dev_mbar_fence_init()");
    race_fenced_async(f, shared, bytes);
    struct copy *c = copy_new(&in_flight);
    flights++;
    c->to = shared, c->from = global, c->bytes = c->read = bytes, c->mbar = b, c->cta = f->cta;
    race_copy_begins(f, shared, global, bytes, bytes, false);
}

void simt_bulk_s2g(void *global, const void *shared, uint32_t bytes, struct simt_site at)
{
    struct fiber *f = run_enter("dev_bulk_s2g", at);
    must_be_shared(f, shared);
    bulk_check(global, shared, bytes);
    race_fenced_async(f, shared, bytes);
    struct copy *c = copy_new(&f->copies);
    c->bulk = true, c->group = OPEN, c->to = global, c->from = shared, c->bytes = c->read = bytes;
    race_copy_begins(f, global, shared, bytes, bytes, true);
    if (!run.seed || run_random(2)) land(c);
}

void simt_fence_async(struct simt_site at)
{
    race_fence_async(run_enter("dev_fence_async_shared", at));
}

void simt_bulk_commit(struct simt_site at)
{
    struct fiber *f = run_enter("dev_bulk_commit", at);
    f->bulk_groups++;
    for (struct copy *c = f->copies; c; c = c->next)
        if (c->bulk && c->group == OPEN) c->group = f->bulk_groups;
}

static void source_read(struct fiber *f, struct copy *c)
{
    land(c);
    if (!c->source_free) race_copy_source_free(f, c->from, c->bytes);
    c->source_free = true;
}

static void bulk_wait(struct fiber *f, int last, bool read_only)
{
    for (struct copy **link = &f->copies; *link;) {
        struct copy *c = *link;
        if (!c->bulk || c->group > last) {
            link = &c->next;
            continue;
        }
        source_read(f, c);
        if (read_only) {
            link = &c->next;
            continue;
        }
        race_copy_ends(f, NULL, c->to, c->bytes);
        copy_free(link);
    }
}

void simt_bulk_wait(int behind, bool read_only, struct simt_site at)
{
    if (place_left_out("dev_bulk_wait", at)) return;
    struct fiber *f = run_enter("dev_bulk_wait", at);
    bulk_wait(f, f->bulk_groups - behind, read_only);
}

void simt_prefetch(const void *p, size_t bytes, struct simt_site at)
{
    run_enter("dev_prefetch_bulk_l2", at);
    must_be_aligned(p, UNIT, "the address");
    if (bytes % UNIT) run_fail("a prefetch of %zu bytes", bytes);
    if (!bytes) return;
    const volatile char *c = p;
    (void)c[0], (void)c[bytes - 1];
}

void simt_read_only(const void *p, size_t bytes, struct simt_site at)
{
    struct fiber *f = run.me;
    f->at = at, f->what = "a read-only load";
    if ((uintptr_t)p % bytes) run_fail("an address that is no multiple of %zu", bytes);
    if (memory_rank(p) >= 0) run_fail("a read-only load of shared memory");
    race_read_only(p, bytes);
}

/* --- ends --- */

/* A thread ends: what it issued lands all the same, but a bulk copy's source must have been read by then. */
void copy_ended(struct fiber *f)
{
    while (f->copies) {
        struct copy *c = f->copies;
        if (c->bulk && !c->source_free)
            run_fail("ends without dev_bulk_wait_read(): its shared memory may be gone before the copy has read it");
        land(c);
        race_copy_ends(f, NULL, c->to, c->bytes);
        copy_free(&f->copies);
    }
}

void copy_cta_ends(struct cta *cta)
{
    for (const struct copy *c = in_flight; c; c = c->next)
        if (c->cta == cta) run_fail("the block ends while a bulk copy to its shared memory is on its way");
}

void copy_cluster(void)
{
    if (in_flight) run_fail("copies are on their way when a cluster begins");
}
