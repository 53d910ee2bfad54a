/* Memory that the shim hands out: the shared memory of a cluster's blocks, and the buffers of tests.
 *
 * One range of addresses (MEMORY_SPAN), so that the race build finds what it knows of a byte by its offset:
 *
 *     block 0: | static arrays, 48 KB | guard | dynamic, at the end | guard |   block 1: ...   buffers, each between guards
 *
 * Nothing is aligned better than dev.h promises, or what relies on more would only show on a device.
 *
 * Fresh memory is 0xff in every byte: NaN as a float or a bf16, -1 as an int. Shared memory is made new when a block's
 * first thread starts; before that and after its last one ended, a cluster's peers find it without access. A buffer ends
 * at its guard page, but for the bytes up to the next multiple of 16; those and what is in front of it on its first page
 * must still be 0xff in the end. */
#include "tests/simt/run.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define PAGES(n) (((n) + PAGE - 1) & ~(PAGE - 1))
#define FRESH 0xff
#define DYN_ALIGN 128 /* and no more: dynamic memory begins at an odd multiple of it, arrays of theirs */
#define ARRAY_ALIGN 16
#define ARRAY_GAP 32 /* between static arrays */
#define MAX_STATIC 64
#define MAX_BUFFERS 1024
#define DYN_BYTES PAGES(MAX_SHARED)
#define SLOT (MAX_STATIC_SHARED + PAGE + DYN_BYTES + PAGE)
#define BUFFERS_AT PAGES(MAX_CLUSTER *SLOT + PAGE)

struct array {
    const void *key;
    size_t at, bytes;
};

struct buffer {
    const char *name;
    char *pages, *data;
    size_t bytes, page_bytes;
    bool sealed;
};

static char *base;
static size_t used; /* of the range */
static struct array array[MAX_STATIC];
static int arrays;
static bool slot0_open; /* without clusters it stays so; the others are open while their block lives */
static size_t static_used, dyn_at;
static struct buffer buffer[MAX_BUFFERS];
static int buffers;
static uint8_t page_kind[MEMORY_SPAN / 4096];

static void memory_make(void)
{
    if (base) return;
    base = mmap(NULL, MEMORY_SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) run_fail("no range of addresses");
    used = BUFFERS_AT;
    memset(page_kind, MEMORY_SHARED, BUFFERS_AT / PAGE);
}

/* Length of the run of fresh bytes at p, up to n. */
static size_t fresh_run(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] == (char)FRESH) i++;
    return i;
}

/* --- shared memory --- */

static char *slot_of(unsigned rank)
{
    return base + rank * SLOT;
}

static char *dyn_of(unsigned rank)
{
    return slot_of(rank) + MAX_STATIC_SHARED + PAGE + dyn_at;
}

static void slot_access(unsigned rank, int prot)
{
    mprotect(slot_of(rank), MAX_STATIC_SHARED, prot);
    mprotect(slot_of(rank) + MAX_STATIC_SHARED + PAGE, DYN_BYTES, prot);
}

void memory_launch(void)
{
    memory_make();
    size_t bytes = run.launch->shared;
    if (bytes > MAX_SHARED) run_fail("launch at %s:%d: %zu bytes of shared memory", run.at.file, run.at.line, bytes);
    dyn_at = DYN_BYTES - (bytes + DYN_ALIGN - 1) / DYN_ALIGN * DYN_ALIGN;
    if (dyn_at % (2 * DYN_ALIGN) == 0) dyn_at -= DYN_ALIGN;
    arrays = 0, static_used = 0;
    if (slot0_open != (run.ctas == 1)) slot_access(0, run.ctas == 1 ? PROT_READ | PROT_WRITE : PROT_NONE);
    slot0_open = run.ctas == 1;
}

void memory_cta_starts(struct cta *c)
{
    if (run.ctas > 1) slot_access(c->rank, PROT_READ | PROT_WRITE);
    memset(slot_of(c->rank), FRESH, MAX_STATIC_SHARED);
    memset(dyn_of(c->rank), FRESH, DYN_BYTES - dyn_at);
}

static void check_gap(const struct cta *c, const char *gap, size_t n, const char *what)
{
    size_t at = fresh_run(gap, n);
    if (at < n)
        run_fail("block (%u, %u, %u): written %zu bytes behind the end of %s", c->block.x, c->block.y, c->block.z, at,
                 what);
}

void memory_cta_ends(struct cta *c)
{
    char *slot = slot_of(c->rank);
    for (int i = 0; i < arrays; i++) {
        char *end = slot + array[i].at + array[i].bytes,
             *next = i + 1 < arrays ? slot + array[i + 1].at : end + ARRAY_GAP;
        if (next <= slot + MAX_STATIC_SHARED) check_gap(c, end, (size_t)(next - end), "a SHARED array");
    }
    char *end = dyn_of(c->rank) + run.launch->shared;
    check_gap(c, end, (size_t)(slot + MAX_STATIC_SHARED + PAGE + DYN_BYTES - end), "the launch's shared memory");
    if (run.ctas > 1) slot_access(c->rank, PROT_NONE);
}

void *simt_shared(const void *key, size_t bytes, struct simt_site at)
{
    int i = 0;
    while (i < arrays && array[i].key != key) i++;
    if (i == arrays) {
        if (arrays == MAX_STATIC) run_fail("%s:%d: more than %d SHARED arrays", at.file, at.line, MAX_STATIC);
        size_t start = (static_used + ARRAY_GAP) / (2 * ARRAY_ALIGN) * (2 * ARRAY_ALIGN) + ARRAY_ALIGN;
        start += start < static_used + ARRAY_GAP ? 2 * ARRAY_ALIGN : 0;
        if (start + bytes > MAX_STATIC_SHARED || start + bytes + run.launch->shared > MAX_SHARED)
            run_fail("%s:%d: more shared memory than a block may have", at.file, at.line);
        array[arrays++] = (struct array){key, start, bytes};
        static_used = start + bytes;
    }
    return slot_of(run.me->cta->rank) + array[i].at;
}

void *simt_dyn_shared(struct simt_site at)
{
    if (!run.launch->shared) run_fail("%s:%d: DYN_SHARED, but the launch gave no bytes", at.file, at.line);
    return dyn_of(run.me->cta->rank);
}

int memory_rank(const void *p)
{
    size_t at = (size_t)((const char *)p - base);
    return at < MAX_CLUSTER * SLOT ? (int)(at / SLOT) : -1;
}

void *memory_map(struct fiber *f, const void *shared, unsigned rank)
{
    if (memory_rank(shared) != (int)f->here.rank) run_fail("dev_cluster_map: not this block's shared memory");
    return (char *)shared + ((ptrdiff_t)rank - (ptrdiff_t)f->here.rank) * (ptrdiff_t)SLOT;
}

/* --- buffers --- */

void *simt_buffer(const char *name, size_t bytes)
{
    memory_make();
    size_t page_bytes = PAGES(bytes + !bytes);
    if (buffers == MAX_BUFFERS || used + page_bytes + 2 * PAGE > MEMORY_SPAN) run_fail("no room for buffer %s", name);
    struct buffer *b = &buffer[buffers++];
    b->name = name, b->bytes = bytes, b->page_bytes = page_bytes, b->sealed = false;
    b->pages = base + used;
    b->data = b->pages + page_bytes - (bytes + 15) / 16 * 16;
    used += page_bytes + PAGE; /* the guard behind is the next one's in front */
    mprotect(b->pages, page_bytes, PROT_READ | PROT_WRITE);
    memset(b->pages, FRESH, page_bytes);
    memset(page_kind + (b->pages - base) / PAGE, MEMORY_GLOBAL, page_bytes / PAGE);
    return b->data;
}

static struct buffer *buffer_at(const void *p)
{
    for (int i = 0; i < buffers; i++)
        if ((const char *)p >= buffer[i].pages - PAGE &&
            (const char *)p < buffer[i].pages + buffer[i].page_bytes + PAGE)
            return &buffer[i];
    return NULL;
}

static void buffer_seal(void *data, bool sealed)
{
    struct buffer *b = buffer_at(data);
    if (!b) run_fail("not a buffer");
    b->sealed = sealed;
    mprotect(b->pages, b->page_bytes, sealed ? PROT_READ : PROT_READ | PROT_WRITE);
    memset(page_kind + (b->pages - base) / PAGE, sealed ? MEMORY_SEALED : MEMORY_GLOBAL, b->page_bytes / PAGE);
}

void simt_seal(void *data)
{
    buffer_seal(data, true);
}

void simt_unseal(void *data)
{
    buffer_seal(data, false);
}

void *simt_sealed(const char *name, const void *from, size_t bytes)
{
    void *data = simt_buffer(name, bytes);
    memcpy(data, from, bytes);
    simt_seal(data);
    return data;
}

void simt_check_guards(void)
{
    for (int i = 0; i < buffers; i++) {
        const struct buffer *b = &buffer[i];
        size_t front = (size_t)(b->data - b->pages), back = b->page_bytes - front - b->bytes;
        if (fresh_run(b->pages, front) < front) run_fail("written in front of %s", b->name);
        if (fresh_run(b->data + b->bytes, back) < back) run_fail("written behind the end of %s", b->name);
    }
}

/* --- what is known of an address --- */

enum memory_kind memory_kind(const void *p)
{
    size_t at = (size_t)((const char *)p - base);
    return at < MEMORY_SPAN ? page_kind[at / PAGE] : MEMORY_OTHER;
}

uint64_t memory_offset(const void *p)
{
    return (uint64_t)((const char *)p - base);
}

const char *memory_name(const void *p, char *buf, size_t size)
{
    int rank = memory_rank(p);
    const struct buffer *b = rank < 0 ? buffer_at(p) : NULL;
    if (rank >= 0) {
        const char *slot = slot_of((unsigned)rank), *c = p;
        bool dyn = c >= slot + MAX_STATIC_SHARED;
        snprintf(buf, size, "%s shared memory of rank %d + %td", dyn ? "dynamic" : "static", rank,
                 c - (dyn ? dyn_of((unsigned)rank) : slot));
    } else if (b) {
        snprintf(buf, size, "%s[%zu] + %td%s", b->name, b->bytes, (const char *)p - b->data,
                 b->sealed ? ", sealed" : "");
    } else {
        snprintf(buf, size, "%p", p);
    }
    return buf;
}

/* --- faults --- */

static void on_fault(int signal, siginfo_t *info, void *context)
{
    char name[160];
    (void)context;
    memory_name(info->si_addr, name, sizeof name);
    run_fail("signal %d: no access to %s (a fault without an address is a misaligned vector)", signal, name);
}

void memory_catch_faults(void)
{
    static char stack[64 << 10];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&alternate, NULL);
    sigaction(SIGSEGV, &act, NULL);
    sigaction(SIGBUS, &act, NULL);
}
