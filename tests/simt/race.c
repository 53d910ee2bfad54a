/* The build that looks for races: kernels are compiled with -fsanitize=thread, whose calls end here instead of in its
 * library, and every byte of shared memory and of unsealed buffers has a cell that knows who touched it last.
 *
 * Clocks. Each thread counts its steps; a step ends when it gives what it has seen to a barrier. Thread t has seen a
 * step of u if its clock says so; an access must have seen the last write of each byte, and a write also the reads since.
 * Shuffles give nothing: they order no memory. Bulk copies are agents, one per mbarrier, with a count of their own: who
 * waits for the mbarrier sees them. A copy on its way is the step PENDING, which nobody has seen.
 *
 * Blocks of different clusters (serial numbers) can't see each other within a launch; but a block that does an atomic on
 * the same counter as one before, both behind a dev_fence(), has seen that one: "the last block sums up".
 *
 * Beyond races, as they cost the same look: a peer's shared memory is touched only when the toucher has seen a thread of
 * it, and all touches must be seen by its threads when the peer ends; a launch with pdl touches nothing unsealed before
 * dev_pdl_wait(), and nothing unsealed at all by read-only loads, which compilers move across it; those read what the
 * launch never writes; vectors are aligned; what a bulk copy reads has been fenced since it was stored.
 *
 * What is forgotten: of more than READERS threads that read a byte at once, some. */
#include "tests/simt/run.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define READERS 3
#define STEP_BITS 18
#define STEP_MAX ((1u << STEP_BITS) - 2)
#define ATOMIC (1u << STEP_BITS)
#define WHO_SHIFT (STEP_BITS + 1)
#define PENDING 0xffffffffu
#define MAX_WHO (PENDING >> WHO_SHIFT)
#define MANY (1u << 31) /* in `reader`: clusters before it read too */
#define MAX_VECTORS 65536
#define MEMO 16 /* more than the blocks of a cluster, whose threads see alike */
#define MAX_SITES 65536
#define SITE_SHIM (1u << 31) /* a site of the table, not an address of code */
#define MAX_COUNTERS 64
#define MAX_CLUSTERS 65536 /* of a launch, where counters order them */

struct cell {
    uint32_t writer, write, write_site; /* cluster, who and step, where */
    uint32_t reader, read[READERS], read_site;
    uint32_t read_only; /* cluster */
};

struct counter {
    const void *at;
    uint8_t *released; /* [MAX_CLUSTERS/8] */
};

struct race_vector {
    int users;
    uint64_t id;                 /* memory is used again, an id is not */
    uint64_t merged[MEMO], turn; /* the last vectors that were merged into it */
    uint32_t step[];             /* [who] */
};

/* What a thread knows: others' steps, its own; the vector that it gave to last, and what it had seen then (ids). */
struct known {
    struct race_vector *seen;
    uint32_t step;
    uint64_t gave_to, gave;
};

enum access { READ = 1, WRITE = 2, BOTH_ATOMIC = 4 };

extern const char __executable_start[];

static struct cell *cells;
static int whos;
static uint32_t serial, launch_first;
static uint32_t agent_step[MAX_CLUSTER * MAX_MBARS];
static uint32_t remote[MAX_CLUSTER][MAX_FIBERS]; /* last step of a thread that touched the block's memory */
static uint32_t pdl_step[MAX_FIBERS];
static bool pdl_seen[MAX_FIBERS];
static uint32_t fenced_async[MAX_FIBERS]; /* what a thread stored before this step, bulk copies see */
static struct known known[MAX_FIBERS];
static struct race_vector *spare[MAX_VECTORS];
static int spares, vectors;
static char *vector_memory;
static uint64_t vector_id;
static struct question { /* of both() */
    uint64_t a, b;
    struct race_vector *out;
} asked[MEMO];
static struct simt_site site[MAX_SITES];
static uint32_t sites;
static struct counter counter[MAX_COUNTERS];
static int counters;
static uint8_t acquired[MAX_CLUSTERS / 8]; /* clusters of this launch that this one has seen */

bool simt_finds_races(void)
{
    return true;
}

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) run_fail("no range of addresses");
    return p;
}

/* --- clocks: what a thread has seen is a vector that it may share with others, but for its own step. A vector changes
 * only while it collects what threads give; who takes it shares it, which makes a barrier of n threads n steps of work
 * and not n^2. --- */

static uint32_t now(const struct fiber *f)
{
    return (uint32_t)f->index << WHO_SHIFT | known[f->index].step;
}

static uint32_t seen_of(const struct fiber *f, uint32_t who)
{
    const struct known *k = &known[f->index];
    return who == (uint32_t)f->index ? k->step : k->seen ? k->seen->step[who] : 0;
}

static bool has_seen(const struct fiber *f, uint32_t step)
{
    return step != PENDING && seen_of(f, step >> WHO_SHIFT) >= (step & (ATOMIC - 1));
}

static struct race_vector *vector_new(void)
{
    if (!spares && vectors == MAX_VECTORS) run_fail("more than %d clocks", MAX_VECTORS);
    size_t bytes = sizeof(struct race_vector) + (size_t)whos * sizeof(uint32_t);
    struct race_vector *v =
        spares ? spare[--spares]
               : (struct race_vector *)(vector_memory + (size_t)vectors++ * ((bytes + 15) & ~(size_t)15));
    memset(v, 0, bytes);
    v->users = 1, v->id = ++vector_id;
    return v;
}

static void vector_drop(struct race_vector *v)
{
    if (v && !--v->users) spare[spares++] = v;
}

static void merge(struct race_vector *to, const struct race_vector *from)
{
    for (int i = 0; i < whos; i++) to->step[i] = to->step[i] > from->step[i] ? to->step[i] : from->step[i];
}

static void collect(struct race_vector *to, const struct race_vector *from)
{
    if (!from) return;
    for (int i = 0; i < MEMO; i++)
        if (to->merged[i] == from->id) return;
    to->merged[to->turn++ % MEMO] = from->id;
    merge(to, from);
}

void race_give(struct race_clock *c, struct fiber *f)
{
    struct known *k = &known[f->index];
    if (!c->vector) c->vector = vector_new();
    uint64_t seen = k->seen ? k->seen->id : 0;
    collect(c->vector, k->seen);
    c->vector->step[f->index] = k->step;
    k->gave_to = c->vector->id, k->gave = seen;
    if (++k->step > STEP_MAX) run_fail("more than %u steps: a smaller shape, please", STEP_MAX);
}

/* What either has seen; threads that wait for one thing often ask for the same. */
static struct race_vector *both(const struct race_vector *a, const struct race_vector *b)
{
    struct question *q = &asked[a->id % MEMO];
    if (!q->out || q->a != a->id || q->b != b->id) {
        vector_drop(q->out);
        *q = (struct question){a->id, b->id, vector_new()};
        merge(q->out, a);
        merge(q->out, b);
    }
    q->out->users++;
    return q->out;
}

void race_take(const struct race_clock *c, struct fiber *f)
{
    struct known *k = &known[f->index];
    if (!c->vector || c->vector == k->seen) return;
    struct race_vector *v = c->vector;
    if (!k->seen || (k->gave_to == v->id && k->gave == k->seen->id)) {
        v->users++;
    } else {
        v = both(k->seen, v);
    }
    vector_drop(k->seen);
    k->seen = v;
}

void race_clear(struct race_clock *c)
{
    vector_drop(c->vector);
    c->vector = NULL;
}

void race_move(struct race_clock *to, struct race_clock *from)
{
    race_clear(to);
    *to = *from;
    from->vector = NULL;
}

void race_launch(void)
{
    if (!cells) {
        cells = reserve(MEMORY_SPAN * sizeof *cells);
        vector_memory = reserve((size_t)MAX_VECTORS * (MAX_WHO + 128) * sizeof(uint32_t));
    }
    launch_first = serial + 1;
    for (int i = 0; i < counters; i++) free(counter[i].released);
    counters = 0;
}

void race_cluster(void)
{
    int agents = run.ctas * MAX_MBARS;
    serial++;
    whos = run.fibers + agents;
    if (whos >= (int)MAX_WHO) run_fail("the race build has room for %d threads a cluster", (int)MAX_WHO - agents - 1);
    for (int i = 0; i < run.fibers; i++) known[i] = (struct known){.step = 1};
    memset(agent_step, 0, sizeof agent_step);
    memset(remote, 0, sizeof remote);
    memset(pdl_step, 0, sizeof pdl_step);
    memset(fenced_async, 0, sizeof fenced_async);
    memset(acquired, 0, sizeof acquired);
    for (int i = 0; i < run.fibers; i++) pdl_seen[i] = !run.launch->pdl;
    spares = vectors = 0;
    memset(asked, 0, sizeof asked);
}

/* --- places in the source --- */

static uint32_t code_site(const void *pc)
{
    return (uint32_t)((const char *)pc - __executable_start) & ~SITE_SHIM;
}

static uint32_t call_site(const struct fiber *f)
{
    for (uint32_t i = sites; i-- > 0;)
        if (site[i].line == f->at.line && site[i].file == f->at.file) return i | SITE_SHIM;
    if (sites == MAX_SITES) return (sites - 1) | SITE_SHIM;
    site[sites] = f->at;
    return sites++ | SITE_SHIM;
}

/* The lines of an address, innermost first, as addr2line says. */
static void code_lines(uint32_t at, char *out, size_t size)
{
    char exe[512], address[32];
    int fd[2];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    snprintf(address, sizeof address, "%#x", at - 1);
    snprintf(out, size, "code at %s", address);
    if (n < 0 || pipe(fd)) return;
    exe[n] = 0;
    pid_t pid = fork();
    if (!pid) {
        dup2(fd[1], STDOUT_FILENO);
        execlp("addr2line", "addr2line", "-i", "-e", exe, address, (char *)NULL);
        _exit(1);
    }
    close(fd[1]);
    char text[1024];
    n = read(fd[0], text, sizeof text - 1);
    close(fd[0]);
    waitpid(pid, NULL, 0);
    if (n <= 1) return;
    text[n - 1] = 0;
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' ';
    char *tail = strstr(text, " (discriminator");
    if (tail) *tail = 0;
    snprintf(out, size, "%s", text);
}

static const char *site_name(uint32_t s, char *out, size_t size)
{
    if (s & SITE_SHIM)
        snprintf(out, size, "%s:%d", site[s & ~SITE_SHIM].file, site[s & ~SITE_SHIM].line);
    else
        code_lines(s, out, size);
    return out;
}

/* --- messages --- */

static const char *who_name(uint32_t step, uint32_t cluster, char *out, size_t size)
{
    uint32_t who = step >> WHO_SHIFT;
    if (step == PENDING)
        snprintf(out, size, "a copy that is on its way");
    else if ((cluster & ~MANY) != serial)
        snprintf(out, size, "thread %u of another block", who % run.launch->threads);
    else if (who >= (uint32_t)run.fibers)
        snprintf(out, size, "a bulk copy");
    else
        snprintf(out, size, "thread %u of rank %u", who % run.launch->threads, who / run.launch->threads);
    return out;
}

static void report(const void *p, int how, uint32_t here, uint32_t step, uint32_t cluster, uint32_t there,
                   bool was_write)
{
    char place[160], who[64], mine[1100], other[1100];
    run_fail("data race: %s of %s at %s, not ordered with the %s by %s at %s", how & WRITE ? "write" : "read",
             memory_name(p, place, sizeof place), site_name(here, mine, sizeof mine), was_write ? "write" : "read",
             who_name(step, cluster, who, sizeof who), site_name(there, other, sizeof other));
}

/* --- one byte --- */

static bool cluster_seen(uint32_t cluster)
{
    uint32_t i = cluster - launch_first;
    return cluster < launch_first || (i < MAX_CLUSTERS && acquired[i / 8] >> i % 8 & 1);
}

static void check_write_seen(const struct fiber *f, const struct cell *c, bool shared, const void *p, int how,
                             uint32_t at)
{
    if ((how & BOTH_ATOMIC) && c->write & ATOMIC) return;
    bool seen = c->writer == serial ? has_seen(f, c->write) : shared || cluster_seen(c->writer);
    if (!seen) report(p, how, at, c->write, c->writer, c->write_site, true);
}

static void check_reads_seen(const struct fiber *f, const struct cell *c, bool shared, const void *p, int how,
                             uint32_t at)
{
    uint32_t cluster = c->reader & ~MANY;
    if (!shared && c->read_only >= launch_first) report(p, how, at, 0, c->read_only, c->read_site, false);
    if (cluster == serial) {
        for (int i = 0; i < READERS; i++)
            if (c->read[i] && !has_seen(f, c->read[i])) report(p, how, at, c->read[i], serial, c->read_site, false);
        if (!shared && c->reader & MANY) report(p, how, at, 0, 0, c->read_site, false);
    } else if (!shared && !cluster_seen(cluster)) {
        report(p, how, at, c->read[0], cluster, c->read_site, false);
    }
}

static void note_read(const struct fiber *f, struct cell *c, uint32_t step, uint32_t at)
{
    if ((c->reader & ~MANY) != serial) {
        bool others = c->reader && !cluster_seen(c->reader & ~MANY);
        c->reader = serial | (others ? MANY : 0);
        memset(c->read, 0, sizeof c->read);
    }
    int slot = -1;
    for (int i = 0; i < READERS; i++)
        if (!c->read[i] || (c->read[i] != PENDING && (has_seen(f, c->read[i])))) slot = i;
    if (slot < 0) slot = (int)run_random(READERS);
    if (c->read[slot] == PENDING) slot = (slot + 1) % READERS;
    c->read[slot] = step;
    c->read_site = at;
}

static void note_write(struct cell *c, uint32_t step, uint32_t at)
{
    c->writer = serial, c->write = step, c->write_site = at;
}

/* --- ranges --- */

static struct cell *cells_at(const void *p)
{
    return cells + memory_offset(p);
}

static void check_pdl(struct fiber *f, const void *p, uint32_t at)
{
    if (pdl_seen[f->index]) return;
    for (int t = 0; t < run.fibers && !pdl_seen[f->index]; t++)
        if (pdl_step[t] && seen_of(f, (uint32_t)t) >= pdl_step[t]) pdl_seen[f->index] = true;
    if (pdl_seen[f->index]) return;
    char place[160], where[1100];
    run_fail("touches %s before dev_pdl_wait(), at %s", memory_name(p, place, sizeof place),
             site_name(at, where, sizeof where));
}

static void check_peer(const struct fiber *f, int rank)
{
    unsigned threads = run.launch->threads;
    bool seen = false;
    for (unsigned t = 0; t < threads && !seen; t++) seen = seen_of(f, (unsigned)rank * threads + t) > 0;
    if (!seen) run_fail("touches the shared memory of rank %d, which may not have started", rank);
    remote[rank][f->index] = known[f->index].step;
}

/* -> whether the bytes are watched, and whether they are shared memory. */
static bool watched(struct fiber *f, const void *p, uint32_t at, bool *shared)
{
    enum memory_kind kind = memory_kind(p);
    *shared = kind == MEMORY_SHARED;
    if (kind == MEMORY_GLOBAL) check_pdl(f, p, at);
    if (*shared && memory_rank(p) >= 0 && memory_rank(p) != (int)f->here.rank) check_peer(f, memory_rank(p));
    return kind == MEMORY_GLOBAL || *shared;
}

static void touch(struct fiber *f, const void *p, size_t bytes, int how, uint32_t at)
{
    bool shared;
    if (!watched(f, p, at, &shared)) return;
    struct cell *c = cells_at(p);
    uint32_t step = now(f) | (how & BOTH_ATOMIC ? ATOMIC : 0);
    for (size_t i = 0; i < bytes; i++, c++) {
        if (c->writer >= launch_first && !(c->writer == serial && c->write == step))
            check_write_seen(f, c, shared, (const char *)p + i, how, at);
        if (how & WRITE) {
            if (c->reader || c->read_only) check_reads_seen(f, c, shared, (const char *)p + i, how, at);
            note_write(c, step, at);
        } else {
            note_read(f, c, step, at);
        }
    }
}

void race_access(struct fiber *f, const void *p, size_t bytes, bool write)
{
    touch(f, p, bytes, write ? WRITE : READ, call_site(f));
}

void race_seen(struct fiber *f, const void *p, size_t bytes)
{
    bool shared;
    uint32_t at = call_site(f);
    if (!watched(f, p, at, &shared)) return;
    const struct cell *c = cells_at(p);
    for (size_t i = 0; i < bytes; i++)
        if (c[i].writer == serial) check_write_seen(f, &c[i], shared, p, READ, at);
}

void race_read_only(const void *p, size_t bytes)
{
    if (memory_kind(p) != MEMORY_GLOBAL) return;
    if (run.launch->pdl)
        run_fail("a read-only load of what a kernel in front may write: no dev_pdl_wait() holds it back");
    struct cell *c = cells_at(p);
    for (size_t i = 0; i < bytes; i++) {
        if (c[i].writer >= launch_first) run_fail("a read-only load of what this launch writes");
        c[i].read_only = serial;
    }
}

/* --- atomics --- */

static struct counter *counter_at(const void *p)
{
    int i = 0;
    while (i < counters && counter[i].at != p) i++;
    if (i < counters) return &counter[i];
    if (counters == MAX_COUNTERS) run_fail("more than %d counters", MAX_COUNTERS);
    counter[counters] = (struct counter){.at = p, .released = calloc(1, sizeof acquired)};
    if (!counter[counters].released) run_fail("no memory");
    return &counter[counters++];
}

void race_atomic(struct fiber *f, void *p)
{
    touch(f, p, 4, WRITE | BOTH_ATOMIC, call_site(f));
    if (!f->fenced || memory_rank(p) >= 0) return;
    struct counter *c = counter_at(p);
    uint32_t me = serial - launch_first;
    for (size_t i = 0; i < sizeof acquired; i++) c->released[i] |= acquired[i], acquired[i] = c->released[i];
    if (me < MAX_CLUSTERS) c->released[me / 8] |= (uint8_t)(1 << me % 8);
}

/* --- copies --- */

void race_copy_begins(struct fiber *f, void *to, const void *from, size_t to_bytes, size_t from_bytes, bool hold_source)
{
    bool shared;
    uint32_t at = call_site(f);
    touch(f, to, to_bytes, WRITE, at);
    if (watched(f, to, at, &shared))
        for (size_t i = 0; i < to_bytes; i++) note_write(cells_at(to) + i, PENDING, at);
    if (from_bytes) touch(f, from, from_bytes, READ, at); /* a copy of zeros reads nothing, wherever it points */
    if (hold_source && watched(f, from, at, &shared))
        for (size_t i = 0; i < from_bytes; i++) cells_at(from)[i].read[0] = PENDING;
}

void race_copy_source_free(struct fiber *f, const void *from, size_t bytes)
{
    if (memory_kind(from) != MEMORY_SHARED) return;
    for (size_t i = 0; i < bytes; i++)
        for (int r = 0; r < READERS; r++)
            if (cells_at(from)[i].read[r] == PENDING) cells_at(from)[i].read[r] = now(f);
}

void race_copy_ends(struct fiber *f, struct mbar *b, void *to, size_t bytes)
{
    enum memory_kind kind = memory_kind(to);
    uint32_t step;
    if (f) {
        step = now(f);
    } else {
        uint32_t who = (uint32_t)(run.fibers + b->agent), count = ++agent_step[b->agent];
        if (!b->clock.vector) b->clock.vector = vector_new();
        b->clock.vector->step[who] = count;
        step = who << WHO_SHIFT | count;
    }
    if (kind != MEMORY_GLOBAL && kind != MEMORY_SHARED) return;
    for (size_t i = 0; i < bytes; i++) cells_at(to)[i].write = step;
}

/* --- between stores and bulk copies --- */

void race_fence_async(struct fiber *f)
{
    struct known *k = &known[f->index];
    if (++k->step > STEP_MAX) run_fail("more than %u steps: a smaller shape, please", STEP_MAX);
    fenced_async[f->index] = k->step;
}

void race_fenced_async(const struct fiber *f, const void *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        const struct cell *c = cells_at(p) + i;
        uint32_t who = c->write >> WHO_SHIFT;
        if (c->writer != serial || c->write == PENDING || who >= (uint32_t)run.fibers) continue;
        if ((c->write & (ATOMIC - 1)) < fenced_async[who] || !has_seen(f, c->write)) continue; /* unseen: a race */
        char place[160], where[1100];
        run_fail("a bulk copy of %s, which thread %u stored at %s without dev_fence_async_shared() since",
                 memory_name((const char *)p + i, place, sizeof place), who % run.launch->threads,
                 site_name(c->write_site, where, sizeof where));
    }
}

/* --- ends --- */

void race_pdl_wait(struct fiber *f)
{
    pdl_seen[f->index] = true;
    pdl_step[f->index] = known[f->index].step;
}

void race_cta_ends(struct cta *c)
{
    unsigned threads = run.launch->threads;
    for (int t = 0; t < run.fibers && run.ctas > 1; t++) {
        bool seen = !remote[c->rank][t];
        for (unsigned i = 0; i < threads && !seen; i++)
            seen = seen_of(&run.fiber[c->rank * threads + i], (uint32_t)t) >= remote[c->rank][t];
        if (!seen)
            run_fail("rank %u ends, but has not waited for thread %u of rank %u, which touched its shared memory",
                     c->rank, (unsigned)t % threads, (unsigned)t / threads);
    }
}

/* --- what -fsanitize=thread calls --- */

static void touched(const void *p, size_t bytes, int how, const void *pc)
{
    if (run.me) touch(run.me, p, bytes, how, code_site(pc));
}

static void touched_aligned(const void *p, size_t bytes, int how, const void *pc)
{
    char place[160], where[1100];
    if (run.me && (uintptr_t)p % bytes)
        run_fail("%zu bytes at once at %s, which is misaligned, at %s", bytes, memory_name(p, place, sizeof place),
                 site_name(code_site(pc), where, sizeof where));
    touched(p, bytes, how, pc);
}

#define PC __builtin_return_address(0)
#define TOUCH(name, bytes, how, call)                                                                                  \
    void __tsan_##name(void *p);                                                                                       \
    void __tsan_##name(void *p)                                                                                        \
    {                                                                                                                  \
        call(p, bytes, how, PC);                                                                                       \
    }
TOUCH(read1, 1, READ, touched)
TOUCH(read2, 2, READ, touched_aligned)
TOUCH(read4, 4, READ, touched_aligned)
TOUCH(read8, 8, READ, touched_aligned)
TOUCH(read16, 16, READ, touched_aligned)
TOUCH(write1, 1, WRITE, touched)
TOUCH(write2, 2, WRITE, touched_aligned)
TOUCH(write4, 4, WRITE, touched_aligned)
TOUCH(write8, 8, WRITE, touched_aligned)
TOUCH(write16, 16, WRITE, touched_aligned)
TOUCH(unaligned_read2, 2, READ, touched)
TOUCH(unaligned_read4, 4, READ, touched)
TOUCH(unaligned_read8, 8, READ, touched)
TOUCH(unaligned_read16, 16, READ, touched)
TOUCH(unaligned_write2, 2, WRITE, touched)
TOUCH(unaligned_write4, 4, WRITE, touched)
TOUCH(unaligned_write8, 8, WRITE, touched)
TOUCH(unaligned_write16, 16, WRITE, touched)

#define RANGE(name, how)                                                                                               \
    void __tsan_##name(void *p, long bytes);                                                                           \
    void __tsan_##name(void *p, long bytes)                                                                            \
    {                                                                                                                  \
        touched(p, (size_t)bytes, how, PC);                                                                            \
    }
RANGE(read_range, READ)
RANGE(write_range, WRITE)

#define NOTHING(name, ...)                                                                                             \
    void __tsan_##name(__VA_ARGS__);                                                                                   \
    void __tsan_##name(__VA_ARGS__) {}
NOTHING(init, void)
NOTHING(func_entry, void *pc __attribute__((unused)))
NOTHING(func_exit, void *pc __attribute__((unused)))
