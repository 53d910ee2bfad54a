/* weft-steps: what a forward pass costs, without scheduler, sampling and HTTP: the cases that llama-bench and llama-batched-bench time,
 * and those whose roofline `bench` computes.
 *
 *     weft-steps [--exact] [--threads N] [--rounds N] [--adapter FOLDER]... MODEL CASE...
 *
 *     prefill:ROWS[:ADAPTERS]                   one pass over a prompt; the logits of its last row
 *     decode:STREAMS:CONTEXT:STEPS[:ADAPTERS]   passes of one row of each stream, the first at position CONTEXT; the logits of all rows
 *
 * ADAPTERS: so many of the given ones, dealt to the streams in equal runs (0: the base alone). Keys and values of the context are computed
 * once, by the base, and copied. The cases take turns, --rounds times. Prints one JSON object: the model's shape, and for each case the
 * median, the mean and the least seconds of a pass and the tokens of one, so that tokens / seconds is the rate. Each round of a case also tells what
 * plain loops read and multiplied right before it, since the machine changes within seconds (0 where it has no AVX-512).
 *
 * Bounds: CASES_MAX cases, STREAMS_MAX streams, ADAPTERS_MAX adapters, contexts within the model's. Exit codes: 0, 2 bad arguments, 3 the
 * model or an adapter was refused. */
#include "adapters/adapter.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/lora.h"
#include "tests/kernels/probe.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CASES_MAX 32
#define ROUNDS_MAX 64
#define STREAMS_MAX 256
#define ADAPTERS_MAX 256
#define ROWS_MAX 8192
#define RANK_MAX 512
#define LOAD_WAIT_MS 10000
#define CHUNK 256 /* rows of a pass that fills a context */
#define PROBES 3  /* of which the middle one counts */
#define PROBE_N 20000
#define PROBE_BYTES ((size_t)128 << 20)
#define USAGE "usage: weft-steps [--exact] [--threads N] [--rounds N] [--adapter FOLDER]... MODEL CASE...\n"

enum { DONE = 0, BAD_USAGE = 2, BAD_MODEL = 3 };

struct timing {
    const char *name;
    bool prefill;
    int streams, context, steps, adapters; /* of a prefill: streams 1, context its rows */
    struct turn {
        double seconds, mean, least;  /* of a pass: the median, the mean, the least */
        double read, f32, bf16, int8; /* right before: bytes and operations a second */
    } turn[ROUNDS_MAX];
};

struct steps {
    enum precision prec;
    int threads, rounds;
    const char *model, *folder[ADAPTERS_MAX];
    struct timing timing[CASES_MAX];
    int nfolders, ncases;
    int most_streams, most_context, most_rows; /* over all cases */

    struct model *m;
    struct lora_set *loras;
    struct lora_slot *slot[ADAPTERS_MAX];
    struct pool *pool;
    struct kv_pool kv;
    struct kv_seq seq[STREAMS_MAX];
    struct forward *f;
    int32_t token[ROWS_MAX];
    char *block; /* of PROBE_BYTES, to read; NULL: no AVX-512 */
};

/* --- arguments --- */

static int most(int a, int b)
{
    return a > b ? a : b;
}

static int read_case(struct steps *s, const char *text)
{
    struct timing *c = &s->timing[s->ncases];
    *c = (struct timing){.name = text, .streams = 1, .steps = 1};
    if (s->ncases == CASES_MAX) return -1;
    if (sscanf(text, "prefill:%d:%d", &c->context, &c->adapters) >= 1)
        c->prefill = true;
    else if (sscanf(text, "decode:%d:%d:%d:%d", &c->streams, &c->context, &c->steps, &c->adapters) < 3)
        return -1;
    if (c->streams < 1 || c->streams > STREAMS_MAX || c->context < c->prefill || c->context > ROWS_MAX ||
        c->steps < 1 || c->steps > ROWS_MAX || c->adapters < 0 || c->adapters > s->nfolders || c->adapters > c->streams)
        return -1;
    s->most_streams = most(s->most_streams, c->streams);
    s->most_context = most(s->most_context, c->context + c->steps);
    s->most_rows = most(s->most_rows, most(c->streams, c->prefill ? c->context : CHUNK));
    s->ncases++;
    return 0;
}

static int read_arguments(struct steps *s, int argc, char **argv)
{
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--exact") == 0)
            s->prec = PREC_EXACT;
        else if (i + 1 == argc)
            return -1;
        else if (strcmp(argv[i], "--threads") == 0)
            s->threads = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--rounds") == 0)
            s->rounds = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--adapter") == 0 && s->nfolders < ADAPTERS_MAX)
            s->folder[s->nfolders++] = argv[++i];
        else
            return -1;
    }
    if (i < argc) s->model = argv[i++];
    for (; i < argc; i++)
        if (read_case(s, argv[i])) return -1;
    return s->ncases && s->rounds > 0 && s->rounds <= ROUNDS_MAX && s->threads >= 0 && s->threads <= POOL_THREADS_MAX
               ? 0
               : -1;
}

/* --- adapters --- */

struct waited {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool came;
    struct err err;
    struct lora_slot *slot;
};

static void arrived(struct waited *w, struct lora_slot *slot, const struct err *e)
{
    pthread_mutex_lock(&w->lock);
    w->slot = slot;
    if (e) w->err = *e;
    w->came = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void on_load(void *u, const struct err *e)
{
    arrived(u, NULL, e);
}

static void on_pin(void *u, struct lora_slot *slot, bool cold, const struct err *e)
{
    (void)cold;
    arrived(u, slot, e);
}

static void await(struct waited *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->came) pthread_cond_wait(&w->cond, &w->lock);
    w->came = false;
    pthread_mutex_unlock(&w->lock);
}

static int pin(struct steps *s, int i, struct err *e)
{
    struct adapter *a;
    struct waited w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    char *dir = realpath(s->folder[i], NULL), digest[SHA256_HEX];
    if (!dir) return err_errno(e, "no such folder: %s", s->folder[i]);
    if (adapter_open(&a, dir, &s->m->desc, NULL, &w.err) == 0) {
        memcpy(digest, a->digest, sizeof digest);
        adapter_close(a);
        lora_load(s->loras, digest, dir, on_load, &w);
        await(&w);
    }
    if (!w.err.code) {
        lora_pin(s->loras, digest, on_pin, &w);
        await(&w);
    }
    free(dir);
    s->slot[i] = w.slot;
    if (w.err.code) *e = w.err;
    return w.err.code ? -1 : 0;
}

/* --- passes --- */

/* Runs of streams with one adapter each. Returns the largest rank. */
static int deal(const struct steps *s, const struct timing *c, int rows, struct lora_seg *seg)
{
    int max_rank = 0;
    for (int i = 0; i < c->adapters; i++) {
        int from = rows * i / c->adapters, to = rows * (i + 1) / c->adapters;
        seg[i] = (struct lora_seg){.row0 = from, .rows = to - from, .nuse = 1, .use = {{&s->slot[i]->table, 1}}};
        max_rank = most(max_rank, lora_rank_pad(s->slot[i]->max_rank));
    }
    return max_rank;
}

/* Rows pos .. pos+rows-1 of each of `streams` sequences; logits of the last of each. c NULL: the base alone. */
static double pass(struct steps *s, const struct timing *c, const struct kv_seq *kv, int streams, int pos, int rows)
{
    static struct attn_seq seq[STREAMS_MAX];
    static struct lora_seg seg[ADAPTERS_MAX];
    static int last[STREAMS_MAX];
    for (int i = 0; i < streams; i++) {
        seq[i] = (struct attn_seq){.row0 = i * rows, .rows = rows, .pos0 = pos, .page = kv[i].page};
        last[i] = (i + 1) * rows - 1;
    }
    struct forward_batch b = {.rows = streams * rows,
                              .token = s->token,
                              .nseq = streams,
                              .seq = seq,
                              .nlogits = streams,
                              .logit_row = last,
                              .max_rank = c ? deal(s, c, streams * rows, seg) : 0};
    if (b.max_rank)
        b.lora =
            (struct lora_batch){.nseg = c->adapters, .seg = seg, .modules = LORA_MODULES, .experts = s->m->experts};
    int64_t start = clock_mono_us();
    forward_run(s->f, &b);
    return (double)(clock_mono_us() - start) / 1e6;
}

/* Keys and values of what comes before the first step of each case: the first stream's are computed, the others' copied. */
static void fill_contexts(struct steps *s)
{
    const struct kv_cache *kv = &s->kv.cache;
    int upto = 0;
    for (int i = 0; i < s->ncases; i++)
        if (!s->timing[i].prefill) upto = most(upto, s->timing[i].context);
    for (int pos = 0; pos < upto; pos += CHUNK) pass(s, NULL, s->seq, 1, pos, upto - pos < CHUNK ? upto - pos : CHUNK);
    for (int i = 1; i < s->most_streams; i++)
        for (int at = 0; at < kv_pages_of(upto) * kv->layers; at++) {
            char *layer = kv->base + (size_t)(at % kv->layers) * (size_t)kv->pages * kv->page_bytes;
            int page = at / kv->layers;
            memcpy(layer + (size_t)s->seq[i].page[page] * kv->page_bytes,
                   layer + (size_t)s->seq[0].page[page] * kv->page_bytes, kv->page_bytes);
        }
}

/* --- what plain loops reach --- */

static volatile float sink;

static void do_read(struct kthread *t, void *block)
{
    size_t each = PROBE_BYTES / (size_t)t->n / 512 * 512;
    sink = (float)probe_read((const char *)block + each * (size_t)t->id, each);
}

static void do_f32(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_fma(PROBE_N);
}

static void do_bf16(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_bf16(PROBE_N);
}

static void do_int8(struct kthread *t, void *arg)
{
    (void)t, (void)arg, sink = probe_int8(PROBE_N);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static double probe(struct steps *s, void (*loop)(struct kthread *t, void *arg), double work)
{
    double seconds[PROBES];
    for (int i = 0; i < PROBES; i++) {
        int64_t start = clock_mono_us();
        pool_run(s->pool, loop, s->block);
        seconds[i] = (double)(clock_mono_us() - start + 1) / 1e6;
    }
    return work / median(seconds, PROBES);
}

static void probe_all(struct steps *s, struct turn *t)
{
    const double vectors = 2.0 * PROBE_N * PROBE_CHAINS * pool_threads(s->pool);
    *t = (struct turn){0};
    if (!s->block) return;
    t->read = probe(s, do_read, (double)PROBE_BYTES);
    t->f32 = probe(s, do_f32, 16 * vectors);
    t->bf16 = probe(s, do_bf16, 32 * vectors);
    t->int8 = probe(s, do_int8, 64 * vectors);
}

static char *new_block(void)
{
    if (!kernels_pick("avx512", PREC_FAST)) return NULL;
    char *block = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return NULL;
    madvise(block, PROBE_BYTES, MADV_HUGEPAGE);
    return memset(block, 1, PROBE_BYTES);
}

/* --- turns --- */

static void run_case(struct steps *s, const struct timing *c, struct turn *t)
{
    static double seconds[ROWS_MAX];
    probe_all(s, t);
    t->mean = 0;
    for (int i = 0; i < c->steps; i++) {
        seconds[i] =
            c->prefill ? pass(s, c, s->seq, 1, 0, c->context) : pass(s, c, s->seq, c->streams, c->context + i, 1);
        t->mean += seconds[i] / c->steps;
    }
    t->seconds = median(seconds, c->steps);
    t->least = seconds[0];
}

/* The first round warms up and doesn't count. A prefill overwrites the first stream's context, with the same tokens. */
static void run_all(struct steps *s)
{
    struct turn warm;
    for (int i = 0; i < s->ncases; i++) run_case(s, &s->timing[i], &warm);
    for (int r = 0; r < s->rounds; r++)
        for (int i = 0; i < s->ncases; i++) run_case(s, &s->timing[i], &s->timing[i].turn[r]);
}

/* --- whole --- */

static int open_engine(struct steps *s, struct err *e)
{
    const struct lora_options o = {
        .max_slots = most(s->nfolders, 1), .max_known = ADAPTERS_MAX, .wait_ms = LOAD_WAIT_MS, .max_rank = RANK_MAX};
    const struct kernels *k = kernels_pick(getenv("WEFT_KERNELS"), s->prec);
    if (!k) return err_set(e, ERR_USAGE, "the kernels that WEFT_KERNELS names cannot run here");
    if (model_load(&s->m, s->model, NULL, s->prec, 0, e)) return -1;
    if (s->most_context > s->m->max_context)
        return err_set(e, ERR_USAGE, "%d positions, in a context of %d", s->most_context, s->m->max_context);
    for (int i = 0; i < s->most_rows; i++) s->token[i] = 100 + i * 7919 % (s->m->tokens - 100);
    int64_t token_bytes = (int64_t)s->m->layers * s->m->kv_heads * s->m->head_dim * 2 * (s->prec == PREC_FAST ? 2 : 4);
    int64_t bytes = token_bytes * (s->most_context + KV_PAGE) * (s->most_streams + 1);
    if (lora_set_new(&s->loras, s->m, &o, e) || pool_new(&s->pool, s->threads, e)) return -1;
    if (kv_pool_init(&s->kv, s->m, bytes, s->most_streams, e)) return -1;
    for (int i = 0; i < s->most_streams; i++) {
        if (kv_seq_init(&s->seq[i], s->most_context, e)) return -1;
        if (!kv_seq_reserve(&s->kv, &s->seq[i], s->most_context))
            return err_set(e, ERR_NO_MEMORY, "no pages for %d streams", i + 1);
    }
    if (forward_new(&s->f, s->m, k, s->pool, &s->kv.cache, s->most_rows, s->most_streams, RANK_MAX, e)) return -1;
    for (int i = 0; i < s->nfolders; i++)
        if (pin(s, i, e)) return -1;
    s->block = new_block();
    return 0;
}

static void close_engine(struct steps *s)
{
    for (int i = 0; i < s->nfolders; i++)
        if (s->slot[i]) lora_unpin(s->loras, s->slot[i]);
    for (int i = 0; i < s->most_streams; i++)
        if (s->seq[i].page) kv_seq_release(&s->kv, &s->seq[i]), kv_seq_close(&s->seq[i]);
    if (s->f) forward_free(s->f);
    if (s->kv.refs) kv_pool_close(&s->kv);
    if (s->pool) pool_free(s->pool);
    if (s->loras) lora_set_free(s->loras);
    if (s->m) model_free(s->m);
    if (s->block) munmap(s->block, PROBE_BYTES);
}

static json_t *tell_case(const struct timing *c, int rounds)
{
    double seconds[ROUNDS_MAX], mean = 0, least = c->turn[0].least;
    json_t *turns = json_array();
    for (int r = 0; r < rounds; r++) {
        const struct turn *t = &c->turn[r];
        seconds[r] = t->seconds;
        mean += t->mean / rounds;
        least = t->least < least ? t->least : least;
        json_array_append_new(turns, json_pack("{s:f, s:f, s:f, s:f, s:f}", "seconds", t->seconds, "read_gb_s",
                                               t->read / 1e9, "fma_gflop_s", t->f32 / 1e9, "bf16_gflop_s",
                                               t->bf16 / 1e9, "int8_gop_s", t->int8 / 1e9));
    }
    return json_pack("{s:s, s:i, s:f, s:f, s:f, s:i, s:o}", "case", c->name, "tokens",
                     c->prefill ? c->context : c->streams, "seconds", median(seconds, rounds), "mean", mean, "least",
                     least, "passes", c->steps * rounds, "turns", turns);
}

/* `matrices`: multiplications of one row in all projections. Experts count as often as a row uses them. */
static void tell(const struct steps *s)
{
    const struct model *m = s->m;
    double matrices = 0;
    for (int l = 0; l < m->layers; l++) {
        for (int i = 0; i < LORA_MODULES; i++) matrices += (double)m->layer[l].module[i].n * m->layer[l].module[i].k;
        for (int i = 0; m->layer[l].expert && i < 3; i++)
            matrices += (double)m->layer[l].expert[0].part[i].n * m->layer[l].expert[0].part[i].k * m->experts_used;
    }
    size_t idle = m->head == &m->embed ? 0 : m->embed.bytes;
    json_t *adapters = json_array(), *cases = json_array();
    for (int i = 0; i < s->nfolders; i++) json_array_append_new(adapters, json_integer((json_int_t)s->slot[i]->bytes));
    for (int i = 0; i < s->ncases; i++) json_array_append_new(cases, tell_case(&s->timing[i], s->rounds));
    json_t *told =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:o, s:o}", "model", m->name, "layers", m->layers,
                  "hidden", m->hidden, "heads", m->heads, "kv_heads", m->kv_heads, "head_dim", m->head_dim, "vocab",
                  m->vocab, "matrices", matrices, "read_bytes", (double)(m->weight_bytes - idle), "head_bytes",
                  (double)m->head->bytes, "adapter_bytes", adapters, "cases", cases);
    json_dumpf(told, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(told);
}

int main(int argc, char **argv)
{
    static struct steps s = {.prec = PREC_FAST, .rounds = 3};
    struct err e = {0};
    if (read_arguments(&s, argc, argv)) return fputs(USAGE, stderr), BAD_USAGE;
    log_init("weft-steps", LOG_ERROR);
    json_start();
    int rc = open_engine(&s, &e);
    if (rc == 0) fill_contexts(&s);
    if (rc == 0) run_all(&s);
    if (rc == 0) tell(&s);
    if (rc) fprintf(stderr, "weft-steps: %s\n", e.msg);
    close_engine(&s);
    return rc == 0 ? DONE : e.code == ERR_USAGE ? BAD_USAGE : BAD_MODEL;
}
