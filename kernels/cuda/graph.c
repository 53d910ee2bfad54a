/* graph: a step from begin to finish.
 *
 *     begin    the step's bucket; its metadata into a pinned buffer; is there a graph for the bucket?
 *                no:  enter (capture begins) .. the operations .. leave (sampling, capture ends), on each rank's thread
 *     launch   metadata over, graph, results back, an event; on each rank's thread
 *     finish   waits for the oldest step's events; what the device chose, and whole rows of logits for the CPU's sampler
 *
 * Idea: a bucket is all that a launch may depend on: rows and logits rounded up, prompts or decoding only, what adapters
 * need. A graph is made once per bucket and replayed for every step that falls into it, with whatever sequences, tokens,
 * pages and adapters its metadata names. So a new adapter or a longer context never makes a graph.
 *
 * Two steps take turns with all that the host reads and writes beside the device: while one runs the next is begun, and
 * what the one before chose is read. On the device they share everything, for the stream runs one behind the other:
 * metadata, workspace, and the chosen tokens, which the next step's first kernel reads and its last one writes. Every
 * rank chooses, so that each has the tokens that the next step looks up. The logits that come back have one buffer, so a
 * step that leaves some to the CPU has no other beside it.
 *
 * Bounds: GRAPHS_MAX graphs, the longest unused goes first. Step thread; enter, leave and launch on the rank's. */
#include "kernels/cuda/cuda.h"
#include <stdlib.h>
#include <string.h>

/* Rows of a bucket; from the last on, multiples of it. */
static const int row_steps[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128};
#define ROWS_BEYOND 64

#define NO_MEMORY 2 /* the runtime's code */

/* Sums of ranks of a bucket: kernels take shared memory by it. */
static const int rank_steps[] = {16, 32, 64, 128, 256};

int cuda_rows_of(int rows)
{
    for (size_t i = 0; i < sizeof row_steps / sizeof *row_steps; i++)
        if (rows <= row_steps[i]) return row_steps[i];
    return (rows + ROWS_BEYOND - 1) / ROWS_BEYOND * ROWS_BEYOND;
}

static int ranks_of(const struct device *d, int ranks)
{
    for (size_t i = 0; i < sizeof rank_steps / sizeof *rank_steps; i++)
        if (ranks <= rank_steps[i]) return rank_steps[i] < d->shape.max_rank ? rank_steps[i] : d->shape.max_rank;
    return d->shape.max_rank;
}

static struct cuda_bucket bucket_of(const struct device *d, const struct device_step *s)
{
    struct cuda_bucket b = {.rows = cuda_rows_of(s->rows), .logits = s->nlogits ? cuda_rows_of(s->nlogits) : 0};
    b.prompts = s->nseq < s->rows;
    b.seqs = cuda_rows_of(s->nseq);
    if (!b.prompts) b.seqs = b.rows;
    if (b.logits > b.rows) b.logits = b.rows;
    int ranks = 0;
    adapters_need(d, s->lora, &b.lora, &ranks);
    if (!b.prompts && b.lora == LORA_COLUMNS) b.lora = LORA_PLAIN;
    if (b.lora != LORA_NONE) b.ranks = ranks_of(d, ranks);
    return b;
}

static bool same(const struct cuda_bucket *a, const struct cuda_bucket *b)
{
    return a->rows == b->rows && a->logits == b->logits && a->seqs == b->seqs && a->ranks == b->ranks &&
           a->prompts == b->prompts && a->lora == b->lora;
}

static void drop_graph(struct device *d, struct cuda_graph *g)
{
    for (int r = 0; r < d->ranks; r++) {
        if (!g->exec[r]) continue;
        rt_use(d->rank[r].device);
        rt_graph_free(g->exec[r]);
    }
    *g = (struct cuda_graph){.used = 0};
}

/* The bucket's graph, or an empty one for it. */
static struct cuda_graph *graph_of(struct device *d, const struct cuda_bucket *b)
{
    struct cuda_steps *s = &d->steps;
    struct cuda_graph *oldest = NULL;
    for (int i = 0; i < s->n; i++) {
        if (same(&s->graph[i].key, b)) return &s->graph[i];
        if (!oldest || s->graph[i].used < oldest->used) oldest = &s->graph[i];
    }
    struct cuda_graph *g = s->n < GRAPHS_MAX ? &s->graph[s->n++] : oldest;
    drop_graph(d, g);
    g->key = *b;
    for (int r = 0; r < d->ranks; r++) g->meta[r] = meta_layout(b, arena_address(d, r, AREA_META));
    return g;
}

/* --- failures --- */

void cuda_failed(struct device *d, const char *what, int code)
{
    int none = 0;
    if (code && atomic_compare_exchange_strong(&d->code, &none, code)) atomic_store(&d->where, what);
}

bool cuda_outcome(const struct device *d, struct err *e)
{
    int code = atomic_load(&d->code);
    const char *where = atomic_load(&d->where);
    if (!code) return false;
    err_set(e, ERR_UNAVAILABLE, "the device failed (%s): %s", where ? where : "somewhere", rt_error_text(code));
    return true;
}

static int outcome(const struct device *d, struct err *e)
{
    return cuda_outcome(d, e) ? -1 : 0;
}

void cuda_enqueue(int rank, const char *what, int (*fn)(const void *op, void *stream), const void *op, size_t bytes)
{
    struct device *d = cuda_device;
    if (atomic_load_explicit(&d->code, memory_order_relaxed)) return;
    cuda_failed(d, what, rt_enqueue(fn, op, bytes, d->rank[rank].stream));
}

/* --- a step --- */

static struct cuda_turn *turn_of(struct cuda_steps *t, uint64_t number)
{
    return &t->turn[number % TURNS];
}

/* The one that was begun last. */
static struct cuda_turn *newest(struct device *d)
{
    return turn_of(&d->steps, atomic_load(&d->steps.begun));
}

static bool all_here(const struct device_step *s)
{
    for (int i = 0; i < s->nlogits; i++)
        if (!s->choice || !s->choice[i].here) return false;
    return true;
}

/* Is there a turn for it? */
static int check_turn(struct cuda_steps *t, const struct device_step *s, struct err *e)
{
    uint64_t begun = atomic_load(&t->begun), under_way = begun - atomic_load(&t->finished);
    if (under_way == 0 || (under_way < TURNS && turn_of(t, begun)->chooses && all_here(s))) return 0;
    return err_set(e, ERR_INTERNAL, "a step was begun beside one that it can't run behind");
}

int steps_begin(struct device *d, const struct device_step *s, struct device_walk *walk, struct err *e)
{
    struct cuda_steps *t = &d->steps;
    struct cuda_bucket b = bucket_of(d, s);
    uint64_t number = atomic_load(&t->begun) + 1;
    struct cuda_turn *u = turn_of(t, number);
    if (outcome(d, e) || check_turn(t, s, e)) return -1;
    if (meta_write(d, s, &b, u->pinned, &u->meta_bytes, e)) return -1;
    adapters_use(d, s->lora, number);
    u->step = s;
    u->nlogits = s->nlogits;
    u->chooses = all_here(s);
    u->graph = t->now = graph_of(d, &b);
    t->now->used = ++t->clock;
    atomic_store(&t->begun, number);
    *walk = (struct device_walk){.needed = !t->now->exec[0], .rows = b.rows, .nlogits = b.logits};
    *(walk->needed ? &t->walks : &t->replays) += 1;
    return 0;
}

void steps_enter(struct device *d, int rank)
{
    struct cuda_rank *r = &d->rank[rank];
    r->meta = &d->steps.now->meta[rank];
    r->pending = (struct cuda_pending){.lora = false};
    cuda_failed(d, "choosing a device", rt_use(r->device));
    cuda_failed(d, "beginning a graph", rt_capture_begin(r->stream));
}

static int run_choose(const void *op, void *stream)
{
    return launch_choose(op, stream);
}

static void choose(struct device *d, int rank)
{
    const struct cuda_bucket *b = &d->steps.now->key;
    if (!b->logits) return;
    struct op_choose op = {.meta = *d->rank[rank].meta,
                           .logits = b->logits,
                           .vocab = d->dim.vocab,
                           .tokens = d->shape.tokens,
                           .x = arena_address(d, rank, AREA_LOGITS),
                           .scratch = arena_address(d, rank, AREA_CHOOSE),
                           .out = arena_address(d, rank, AREA_CHOSEN)};
    cuda_enqueue(rank, "choose", run_choose, &op, sizeof op);
}

void steps_leave(struct device *d, int rank)
{
    struct cuda_graph *g = d->steps.now;
    choose(d, rank);
    cuda_failed(d, "making a graph", rt_capture_end(d->rank[rank].stream, &g->exec[rank]));
}

/* Rows of logits that the CPU's sampler takes, in runs. */
static int copy_logits(struct device *d, const struct device_step *s, void *stream)
{
    size_t vocab = (size_t)d->dim.vocab;
    const float *from = arena_address(d, 0, AREA_LOGITS);
    for (int i = 0, n; i < s->nlogits; i += n) {
        bool here = s->choice && s->choice[i].here;
        for (n = 1; i + n < s->nlogits && (s->choice && s->choice[i + n].here) == here;) n++;
        int rc = here ? 0
                      : rt_copy_out(d->steps.logits + (size_t)i * vocab, from + (size_t)i * vocab,
                                    (size_t)n * vocab * sizeof(float), stream);
        if (rc) return rc;
    }
    return 0;
}

static int copy_results(struct device *d, const struct cuda_turn *u, void *stream)
{
    if (!u->nlogits) return 0;
    const void *from = arena_address(d, 0, AREA_CHOSEN);
    int rc = rt_copy_out(u->chosen, from, (size_t)u->nlogits * sizeof *u->chosen, stream);
    return rc || u->chooses ? rc : copy_logits(d, u->step, stream);
}

void steps_launch(struct device *d, int rank)
{
    struct cuda_turn *u = newest(d);
    void *stream = d->rank[rank].stream;
    if (atomic_load(&d->code)) return;
    int rc = rt_use(d->rank[rank].device);
    if (!rc) rc = rt_copy_in(arena_address(d, rank, AREA_META), u->pinned, u->meta_bytes, stream);
    cuda_failed(d, "bringing a step's metadata over", rc);
    if (!rc) cuda_failed(d, "running a graph", rc = rt_graph_launch(u->graph->exec[rank], stream));
    if (!rc && rank == 0) rc = copy_results(d, u, stream);
    if (!rc) rc = rt_event_record(u->done[rank], stream);
    cuda_failed(d, "bringing results back", rc);
}

int steps_finish(struct device *d, struct device_result *out, struct err *e)
{
    struct cuda_steps *t = &d->steps;
    struct cuda_turn *u = turn_of(t, atomic_load(&t->finished) + 1);
    if (d->ranks > 1)
        group_wait(d, u->done);
    else if (!atomic_load(&d->code))
        cuda_failed(d, "a step", rt_event_sync(u->done[0]));
    if (outcome(d, e)) return -1;
    for (int i = 0; i < u->nlogits; i++) {
        u->id[i] = u->chosen[i].id;
        u->finite[i] = u->chosen[i].finite;
    }
    *out = (struct device_result){.logits = t->logits, .id = u->id, .finite = u->finite};
    u->step = NULL;
    atomic_fetch_add(&t->finished, 1);
    return 0;
}

int steps_hold(struct device *d, int rank, uint64_t step)
{
    struct cuda_steps *t = &d->steps;
    if (step <= atomic_load(&t->finished)) return 0;
    return rt_event_wait(d->rank[rank].side, turn_of(t, step)->done[rank]);
}

/* --- start and end --- */

static int turn_new(struct device *d, struct cuda_turn *u, size_t logits)
{
    int rc = rt_use(d->rank[0].device);
    if (!rc) rc = rt_host_alloc((void **)&u->pinned, d->arena.bytes[AREA_META]);
    if (!rc) rc = rt_host_alloc((void **)&u->chosen, logits * sizeof *u->chosen);
    for (int r = 0; r < d->ranks && !rc; r++) {
        rc = rt_use(d->rank[r].device);
        if (!rc) rc = rt_event_new(&u->done[r]);
    }
    u->id = calloc(logits, sizeof *u->id);
    u->finite = calloc(logits, sizeof *u->finite);
    return rc || (u->id && u->finite) ? rc : NO_MEMORY;
}

static void turn_free(struct device *d, struct cuda_turn *u)
{
    for (int r = 0; r < d->ranks; r++) rt_event_free(u->done[r]);
    rt_host_free(u->pinned);
    rt_host_free(u->chosen);
    free(u->id);
    free(u->finite);
}

int steps_new(struct device *d, struct err *e)
{
    struct cuda_steps *s = &d->steps;
    size_t logits = (size_t)(d->shape.max_logits > 0 ? d->shape.max_logits : 1);
    int rc = rt_use(d->rank[0].device);
    if (!rc) rc = rt_host_alloc((void **)&s->logits, logits * (size_t)d->dim.vocab * sizeof *s->logits);
    for (int i = 0; i < TURNS && !rc; i++) rc = turn_new(d, &s->turn[i], logits);
    return rc ? err_set(e, ERR_NO_MEMORY, "no pinned memory for the steps: %s", rt_error_text(rc)) : 0;
}

void steps_drain(struct device *d)
{
    for (int i = 0; i < TURNS; i++) group_drain(d, d->steps.turn[i].done);
}

void steps_forget(struct device *d)
{
    for (int i = 0; i < d->steps.n; i++) drop_graph(d, &d->steps.graph[i]);
}

void steps_free(struct device *d)
{
    struct cuda_steps *s = &d->steps;
    steps_forget(d);
    for (int i = 0; i < TURNS; i++) turn_free(d, &s->turn[i]);
    rt_host_free(s->logits);
    *s = (struct cuda_steps){.n = 0};
}
