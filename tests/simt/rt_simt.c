/* rt_simt: the runtime of the backend without a GPU. Device memory is memory of this process that nothing else points
 * to, fresh from the system and filled with 0xff (NaN), a stream runs what it is given at once, and a graph is the list
 * of what was enqueued while it was recorded: rt_enqueue() calls with their ops copied, copies and fills. While a stream
 * records, nothing runs, so what a step leaves out of the graph or bakes into it shows as it would on a device.
 *
 * Ranks of a group are devices of one process as well: WEFT_SIMT_DEVICES (1) says how many there are. A collective
 * waits for all ranks' threads, and goes on; so each rank needs a thread of its own. A group ends when no graph holds its
 * collectives any more, and waits for that; a graph that runs outlives rt_graph_free().
 *
 * WEFT_SIMT_STREAMS=1 gives each stream a thread that does what it is given beside the caller, as a device does: for tests
 * of what may be done while a step runs. A failure then comes with the next wait.
 *
 * WEFT_SIMT_TIMED=1 lets the backend time its products at start, as on hardware; WEFT_SIMT_SPLIT=1 lets products add up
 * halves of k, as libraries do where rows are few; WEFT_SIMT_FP8=0 is a device without
 * products of e4m3. WEFT_SIMT_MB and WEFT_SIMT_CC say which device this is, WEFT_SIMT_GROUP_MB
 * what a group takes of it. A device that breaks or hangs: fault.h;
 * WEFT_SIMT_FAULT_ON=D: only device D does. */
#include "kernels/convert.h"
#include "kernels/cuda/rt.h"
#include "tests/simt/fault.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define DEVICES_MAX 8
#define POISON 0xff
#define PAGE 4096
#define MEET_S 20    /* a rank that has not come by then never will */
#define HELD_MS 5000 /* nor will a graph be freed */

/* --- errors, devices --- */

const char *rt_error_text(int code)
{
    static const struct {
        int code;
        const char *text;
    } texts[] = {{0, "no error"},
                 {RT_NO_LIBRARY, "a library of the device's is missing"},
                 {RT_BAD_SHAPE, "a kernel was asked for a shape that it does not take"},
                 {RT_NOT_HERE, "this device has no such operation"},
                 {RT_PRODUCT, "a dense product failed"},
                 {RT_GROUP, "a collective operation failed"},
                 {RT_LATER, "it still runs"},
                 {FAULT_CODE, "a test asked for this fault"},
                 {2, "out of memory"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].code == code) return texts[i].text;
    return "unknown error";
}

static long env_number(const char *name, long otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtol(s, NULL, 10) : otherwise;
}

static int devices_there(void)
{
    long n = env_number("WEFT_SIMT_DEVICES", 1);
    return n < 0 ? 0 : n > DEVICES_MAX ? DEVICES_MAX : (int)n;
}

int rt_count(int *devices)
{
    *devices = devices_there();
    return fault_at(FAULT_OPEN);
}

static struct rt_group *the_group; /* whose ranks wait for each other */

int rt_about(int device, struct rt_info *out)
{
    (void)device;
    size_t mb = (size_t)env_number("WEFT_SIMT_MB", 1024);
    *out = (struct rt_info){.memory = mb << 20,
                            .free = mb << 20,
                            .cc = (int)env_number("WEFT_SIMT_CC", 90),
                            .sms = (int)env_number("WEFT_SIMT_SMS", 2),
                            .shared_block = 227 << 10,
                            .l2_bytes = 1 << 20};
    if (the_group) out->free -= (size_t)env_number("WEFT_SIMT_GROUP_MB", 0) << 20;
    out->timed = env_number("WEFT_SIMT_TIMED", 0) != 0;
    out->clusters = out->cc >= 90;
    snprintf(out->name, sizeof out->name, "SIMT shim");
    return 0;
}

static _Thread_local int device_now;

int rt_use(int device)
{
    if (device < 0 || device >= devices_there()) return RT_BAD_SHAPE;
    device_now = device;
    return 0;
}

/* --- memory: its size stands in a page of its own before it --- */

int rt_alloc(void **out, size_t bytes)
{
    size_t all = PAGE + (bytes + PAGE - 1) / PAGE * PAGE;
    int rc = fault_at(FAULT_ALLOC);
    if (rc) return rc;
    char *p = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return 2;
    memcpy(p, &all, sizeof all);
    memset(p + PAGE, POISON, bytes);
    *out = p + PAGE;
    return 0;
}

void rt_free(void *p)
{
    size_t all;
    if (!p) return;
    memcpy(&all, (char *)p - PAGE, sizeof all);
    munmap((char *)p - PAGE, all);
}

int rt_host_alloc(void **out, size_t bytes)
{
    *out = calloc(1, bytes ? bytes : 1);
    return *out ? 0 : 2;
}

void rt_host_free(void *p)
{
    free(p);
}

/* --- streams and graphs --- */

struct item {
    int (*fn)(const void *op, void *stream);
    void *op;
};

struct graph {
    struct item *item;
    int n, room;
    bool collective; /* its group waits for its end */
    atomic_int held; /* by who made it, and each launch that is not over */
};

struct task {
    struct item item;
    struct task *next;
};

struct stream {
    struct graph *noting; /* NULL: what comes is run, at once or by the thread */
    bool urgent;          /* that of steps */
    int device;
    bool threaded;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t change;
    struct task *first, **last; /* the first is being run */
    uint64_t given, done;       /* tasks */
    bool over;
    int rc; /* of the first failure; nothing is run behind it */
};

static atomic_int graphs_of_group;         /* that hold collectives */
static void end_group(struct rt_group *g); /* one of them will not come */

/* WEFT_SIMT_FAULT_ON: streams of other devices know no fault. */
static int fault_on(enum fault_point p, const struct stream *s)
{
    long on = env_number("WEFT_SIMT_FAULT_ON", -1);
    return on < 0 || on == s->device ? fault_at(p) : 0;
}

static int note(struct graph *g, int (*fn)(const void *op, void *stream), const void *op, size_t bytes)
{
    if (g->n == g->room) {
        int room = g->room ? 2 * g->room : 64;
        struct item *more = realloc(g->item, (size_t)room * sizeof *more);
        if (!more) return 2;
        g->item = more;
        g->room = room;
    }
    void *copy = malloc(bytes ? bytes : 1);
    if (!copy) return 2;
    memcpy(copy, op, bytes);
    g->item[g->n++] = (struct item){fn, copy};
    return 0;
}

static int run_graph(const void *op, void *stream);

static void graph_let_go(struct graph *g)
{
    if (!g || atomic_fetch_sub(&g->held, 1) > 1) return;
    for (int i = 0; i < g->n; i++) free(g->item[i].op);
    if (g->collective) atomic_fetch_sub(&graphs_of_group, 1);
    free(g->item);
    free(g);
}

/* A task behind a failure: it is not run. */
static int pass_by(const struct item *it, int rc)
{
    if (it->fn == run_graph) graph_let_go(*(struct graph *const *)it->op);
    return rc;
}

/* Ends when the stream is over and nothing is left. */
static void *work(void *stream)
{
    struct stream *s = stream;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->first && !s->over) pthread_cond_wait(&s->change, &s->lock);
        struct task *t = s->first;
        if (!t) break;
        int rc = s->rc;
        pthread_mutex_unlock(&s->lock);
        rc = rc ? pass_by(&t->item, rc) : t->item.fn(t->item.op, s);
        pthread_mutex_lock(&s->lock);
        s->rc = rc;
        s->done++;
        if (!(s->first = t->next)) s->last = &s->first;
        pthread_cond_broadcast(&s->change);
        free(t->item.op);
        free(t);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int give(struct stream *s, int (*fn)(const void *op, void *stream), const void *op, size_t bytes)
{
    struct task *t = calloc(1, sizeof *t);
    if (!t) return 2;
    *t = (struct task){.item = {fn, malloc(bytes ? bytes : 1)}};
    if (!t->item.op) return 2;
    memcpy(t->item.op, op, bytes);
    pthread_mutex_lock(&s->lock);
    *s->last = t;
    s->last = &t->next;
    s->given++;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* What an operation enqueues while it is run is a part of it. */
int rt_enqueue(int (*fn)(const void *op, void *stream), const void *op, size_t bytes, void *stream)
{
    struct stream *s = stream;
    if (s->threaded && pthread_equal(pthread_self(), s->thread)) return fn(op, stream);
    if (s->noting) return note(s->noting, fn, op, bytes);
    return s->threaded ? give(s, fn, op, bytes) : fn(op, stream);
}

int rt_stream_new(void **out, bool urgent)
{
    struct stream *s = *out = calloc(1, sizeof *s);
    if (!s) return 2;
    s->last = &s->first;
    s->urgent = urgent;
    s->device = device_now;
    s->threaded = env_number("WEFT_SIMT_STREAMS", 0) != 0;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->change, NULL);
    return s->threaded && pthread_create(&s->thread, NULL, work, s) ? 2 : 0;
}

void rt_graph_free(void *graph)
{
    graph_let_go(graph);
}

void rt_stream_free(void *stream)
{
    struct stream *s = stream;
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->over = true;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    if (s->threaded) pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->change);
    rt_graph_free(s->noting);
    free(s);
}

/* Until it has done so many. */
static int wait_for(struct stream *s, uint64_t done)
{
    pthread_mutex_lock(&s->lock);
    while (s->done < done) pthread_cond_wait(&s->change, &s->lock);
    int rc = s->rc;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static uint64_t given_to(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    uint64_t n = s->given;
    pthread_mutex_unlock(&s->lock);
    return n;
}

int rt_stream_sync(void *stream)
{
    struct stream *s = stream;
    if (!s) return 0; /* the default one's work is done at once */
    int rc = s->urgent ? fault_at(FAULT_WAIT) : 0;
    return rc ? rc : wait_for(s, given_to(s));
}

int rt_capture_begin(void *stream)
{
    struct stream *s = stream;
    s->noting = calloc(1, sizeof *s->noting);
    if (s->noting) atomic_store(&s->noting->held, 1);
    return s->noting ? 0 : 2;
}

int rt_capture_end(void *stream, void **graph)
{
    struct stream *s = stream;
    *graph = s->noting;
    s->noting = NULL;
    return *graph ? 0 : RT_BAD_SHAPE;
}

static int run_graph(const void *op, void *stream)
{
    struct graph *g = *(struct graph *const *)op;
    int rc = 0;
    for (int i = 0; i < g->n && !rc; i++) {
        rc = fault_on(FAULT_OP, stream);
        if (!rc) rc = g->item[i].fn(g->item[i].op, stream);
    }
    if (rc) end_group(the_group); /* what a device would leave to the host: here its wait stands in the stream */
    graph_let_go(g);
    return rc;
}

int rt_graph_launch(void *graph, void *stream)
{
    struct graph *g = graph;
    int rc = fault_on(FAULT_LAUNCH, stream);
    if (!rc) atomic_fetch_add(&g->held, 1);
    return rc ? rc : rt_enqueue(run_graph, &graph, sizeof graph, stream);
}

/* --- copies --- */

struct copy {
    void *to;
    const void *from;
    size_t bytes;
    int byte;
};

static int run_copy(const void *op, void *stream)
{
    const struct copy *c = op;
    (void)stream;
    if (c->from)
        memcpy(c->to, c->from, c->bytes);
    else
        memset(c->to, c->byte, c->bytes);
    return 0;
}

static int enqueue_copy(void *to, const void *from, size_t bytes, int byte, void *stream)
{
    const struct copy c = {to, from, bytes, byte};
    return bytes ? rt_enqueue(run_copy, &c, sizeof c, stream) : 0;
}

int rt_copy_in(void *to, const void *host, size_t bytes, void *stream)
{
    const struct stream *s = stream;
    int rc = s->noting ? 0 : fault_at(s->urgent ? FAULT_IN : FAULT_SIDE);
    return rc ? rc : enqueue_copy(to, host, bytes, 0, stream);
}

int rt_copy_out(void *host, const void *from, size_t bytes, void *stream)
{
    const struct stream *s = stream;
    int rc = s->noting ? 0 : fault_at(FAULT_OUT);
    return rc ? rc : enqueue_copy(host, from, bytes, 0, stream);
}

int rt_copy(void *to, const void *from, size_t bytes, void *stream)
{
    return enqueue_copy(to, from, bytes, 0, stream);
}

int rt_fill(void *to, int byte, size_t bytes, void *stream)
{
    return enqueue_copy(to, NULL, bytes, byte, stream);
}

/* --- events: so many tasks of a stream --- */

struct event {
    struct stream *s; /* NULL: it was never recorded, and has come */
    uint64_t done;
};

static pthread_mutex_t events = PTHREAD_MUTEX_INITIALIZER;

int rt_event_new(void **event)
{
    *event = calloc(1, sizeof(struct event));
    return *event ? 0 : 2;
}

void rt_event_free(void *event)
{
    free(event);
}

int rt_event_record(void *event, void *stream)
{
    const struct event now = {stream, given_to(stream)};
    pthread_mutex_lock(&events);
    *(struct event *)event = now;
    pthread_mutex_unlock(&events);
    return 0;
}

static struct event read_event(const void *event)
{
    pthread_mutex_lock(&events);
    struct event e = *(const struct event *)event;
    pthread_mutex_unlock(&events);
    return e;
}

static int run_wait(const void *op, void *stream)
{
    const struct event *e = op;
    (void)stream;
    return e->s ? wait_for(e->s, e->done) : 0;
}

int rt_event_wait(void *stream, void *event)
{
    const struct event e = read_event(event);
    return rt_enqueue(run_wait, &e, sizeof e, stream);
}

int rt_event_sync(void *event)
{
    const struct event e = read_event(event);
    int rc = e.s && e.s->urgent ? fault_at(FAULT_WAIT) : 0;
    return rc ? rc : run_wait(&e, NULL);
}

int rt_event_query(void *event)
{
    const struct event e = read_event(event);
    if (!e.s) return 0;
    pthread_mutex_lock(&e.s->lock);
    int rc = e.s->done < e.done ? RT_LATER : e.s->rc;
    pthread_mutex_unlock(&e.s->lock);
    return rc;
}

/* --- dense products: float32 sums in the order of k --- */

struct rt_dense {
    int unused;
};

int rt_dense_new(struct rt_dense **out, void *workspace, size_t bytes)
{
    (void)workspace, (void)bytes;
    *out = calloc(1, sizeof **out);
    return *out ? 0 : 2;
}

void rt_dense_free(struct rt_dense *d)
{
    free(d);
}

int rt_dense_plan(struct rt_dense *d, const struct rt_product *p, void *stream)
{
    (void)d, (void)p, (void)stream;
    return 0;
}

int rt_dense_plan_as(struct rt_dense *d, const struct rt_product *p, const struct rt_product *like)
{
    (void)d, (void)p, (void)like;
    return 0;
}

int rt_dense_has(struct rt_dense *d, const struct rt_product *p)
{
    (void)d;
    return p->in == RT_E4M3 && env_number("WEFT_SIMT_FP8", 1) == 0 ? RT_PRODUCT : 0;
}

static float element(const struct rt_product *p, const void *x, size_t i)
{
    return p->in == RT_BF16 ? f32_of_bf16(((const uint16_t *)x)[i]) : f32_of_e4m3(((const uint8_t *)x)[i]);
}

static void put(const struct rt_product *p, size_t at, float sum)
{
    if (p->scale != 0) sum *= p->scale;
    if (p->out == RT_F32) {
        float *y = (float *)p->y + at;
        *y = p->add ? *y + sum : sum;
    } else {
        uint16_t *y = (uint16_t *)p->y + at;
        *y = bf16_of_f32(p->add ? f32_of_bf16(*y) + sum : sum);
    }
}

static int run_product(const void *op, void *stream)
{
    const struct rt_product *p = op;
    bool split = env_number("WEFT_SIMT_SPLIT", 0) != 0;
    (void)stream;
    for (size_t b = 0; b < (size_t)(p->batch > 1 ? p->batch : 1); b++)
        for (size_t i = 0; i < (size_t)p->m; i++)
            for (size_t j = 0; j < (size_t)p->n; j++) {
                size_t x = b * p->step_x + i * (size_t)p->ldx, w = b * p->step_w + j * (size_t)p->ldw;
                size_t half = split ? (size_t)p->k / 2 : (size_t)p->k;
                float sum = 0, rest = 0;
                for (size_t k = 0; k < half; k++) sum += element(p, p->x, x + k) * element(p, p->w, w + k);
                for (size_t k = half; k < (size_t)p->k; k++) rest += element(p, p->x, x + k) * element(p, p->w, w + k);
                sum += rest;
                if (p->scale_x) sum *= p->scale_x[i] * p->scale_w[j];
                put(p, b * p->step_y + i * (size_t)p->ldy + j, sum);
            }
    return 0;
}

int rt_dense_run(struct rt_dense *d, const struct rt_product *p, void *stream)
{
    (void)d;
    return p->in == RT_F32 ? RT_BAD_SHAPE : rt_enqueue(run_product, p, sizeof *p, stream);
}

int rt_dense_share(struct rt_dense *to, const struct rt_dense *from)
{
    (void)to, (void)from;
    return 0;
}

/* --- groups --- */

struct rt_group {
    int n, here; /* ranks that stand at the meeting */
    unsigned met;
    bool ended;
    pthread_mutex_t lock;
    pthread_cond_t all;
    const void *part[DEVICES_MAX]; /* what each rank brought */
};

static void end_group(struct rt_group *g)
{
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    g->ended = true;
    pthread_cond_broadcast(&g->all);
    pthread_mutex_unlock(&g->lock);
}

/* All ranks are here; RT_GROUP: one will not come. */
static int meet(struct rt_group *g)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += MEET_S;
    pthread_mutex_lock(&g->lock);
    unsigned met = g->met;
    if (++g->here == g->n) {
        g->here = 0;
        g->met++;
        pthread_cond_broadcast(&g->all);
    }
    int late = 0;
    while (g->met == met && !g->ended && !late) late = pthread_cond_timedwait(&g->all, &g->lock, &until);
    int rc = g->met == met ? RT_GROUP : 0;
    pthread_mutex_unlock(&g->lock);
    return rc;
}

int rt_group_new(struct rt_group **out, const int *devices, int n)
{
    (void)devices;
    if (n < 1 || n > DEVICES_MAX) return RT_GROUP;
    struct rt_group *g = calloc(1, sizeof *g);
    if (!g) return 2;
    g->n = n;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->all, NULL);
    *out = the_group = g;
    return 0;
}

int rt_group_state(const struct rt_group *g)
{
    return g->ended ? RT_GROUP : 0;
}

/* As NCCL's ends wait: for ever, but that a test wants to be told. */
static void wait_for_graphs(void)
{
    const struct timespec tick = {.tv_nsec = 1000000};
    for (int ms = 0; atomic_load(&graphs_of_group) > 0; ms++, nanosleep(&tick, NULL)) {
        if (ms < HELD_MS) continue;
        fprintf(stderr, "simt: a group is ended, and %d graphs hold its collectives\n", atomic_load(&graphs_of_group));
        abort();
    }
}

void rt_group_abort(struct rt_group *g)
{
    end_group(g);
    wait_for_graphs();
}

void rt_group_free(struct rt_group *g)
{
    if (!g) return;
    wait_for_graphs();
    pthread_cond_destroy(&g->all);
    pthread_mutex_destroy(&g->lock);
    the_group = NULL;
    free(g);
}

struct collective {
    struct rt_group *g;
    int rank;
    const void *part;
    void *out;
    size_t n;
};

static int run_gather(const void *op, void *stream)
{
    const struct collective *c = op;
    struct rt_group *g = c->g;
    (void)stream;
    g->part[c->rank] = c->part;
    int rc = meet(g);
    for (int r = 0; !rc && r < g->n; r++) {
        char *to = (char *)c->out + (size_t)r * c->n;
        if (to != g->part[r]) memcpy(to, g->part[r], c->n);
    }
    return rc ? rc : meet(g);
}

static int run_exchange(const void *op, void *stream)
{
    const struct collective *c = op;
    struct rt_group *g = c->g;
    (void)stream;
    g->part[c->rank] = c->part;
    int rc = meet(g);
    for (int r = 0; !rc && r < g->n; r++)
        memcpy((char *)c->out + (size_t)r * c->n, (const char *)g->part[r] + (size_t)c->rank * c->n, c->n);
    return rc ? rc : meet(g);
}

static int enqueue_collective(int (*fn)(const void *op, void *stream), const struct collective *c, void *stream)
{
    struct graph *into = ((struct stream *)stream)->noting;
    if (into && !into->collective) atomic_fetch_add(&graphs_of_group, 1);
    if (into) into->collective = true;
    return rt_enqueue(fn, c, sizeof *c, stream);
}

int rt_all_gather(struct rt_group *g, int rank, const void *part, void *all, size_t bytes, void *stream)
{
    const struct collective c = {g, rank, part, all, bytes};
    return enqueue_collective(run_gather, &c, stream);
}

int rt_exchange(struct rt_group *g, int rank, const void *parts, void *all, size_t bytes, void *stream)
{
    const struct collective c = {g, rank, parts, all, bytes};
    return enqueue_collective(run_exchange, &c, stream);
}
