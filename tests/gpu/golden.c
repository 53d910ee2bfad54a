/* golden: the numeric path on a device against the CPU's, and against what transformers and PEFT chose
 * (tests/golden/demo.json: 48 prompts, three adapters and none, greedy).
 *
 *     golden [--cases N] MODEL        in the top of the tree; the device is "cuda" (WEFT_DEVICE_LIB)
 *
 *     forced    prompt and golden answer go through in one pass; each row's best token beside the next golden one, and
 *               beside the CPU's best (FAST) for the same row: one disagreement costs one token
 *     answers   all prompts at once through the scheduler, adapters mixed: tokens up to the first that differs
 *
 * Passes with FORCED_SHARE of forced tokens like the golden ones and like the CPU's, and ANSWER_SHARE of the answers'. Both
 * sides round (bf16 rows here, int8 there), so neither is all. Exit codes: 0, 1 failed, 2 bad arguments. */
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/model_device.h"
#include "engine/sched.h"
#include "tests/unit/pin_folder.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CASES 48
#define ANSWER_MAX 40
#define ROWS_MAX 512
#define ADAPTERS 3
#define RANK_MAX 64
#define CONTEXT 512
#define FORCED_SHARE 0.97
#define ANSWER_SHARE 0.85

static const char *const adapter_name[ADAPTERS] = {"triage", "sql", "pirate"};

struct golden {
    int adapter; /* -1: base */
    int nprompt, ntokens;
    int32_t ids[ROWS_MAX]; /* prompt, then answer */
    int32_t best[2][ANSWER_MAX];
};

static struct golden cases[CASES];
static int ncases;

static void die(const char *what, const char *why)
{
    printf("result: %s: %s\n", what, why);
    exit(1);
}

/* --- the golden file --- */

static int read_ids(const json_t *a, int32_t *out)
{
    for (size_t i = 0; i < json_array_size(a); i++) out[i] = (int32_t)json_integer_value(json_array_get(a, i));
    return (int)json_array_size(a);
}

static void read_case(const json_t *j, struct golden *g)
{
    const char *name = json_string_value(json_object_get(j, "adapter"));
    const json_t *prompt = json_object_get(j, "prompt_ids"), *tokens = json_object_get(j, "tokens");
    g->adapter = -1;
    for (int i = 0; name && i < ADAPTERS; i++)
        if (!strcmp(name, adapter_name[i])) g->adapter = i;
    if (json_array_size(prompt) + ANSWER_MAX > ROWS_MAX || json_array_size(tokens) > ANSWER_MAX)
        die("tests/golden/demo.json", "a case is too long");
    g->nprompt = read_ids(prompt, g->ids);
    g->ntokens = read_ids(tokens, g->ids + g->nprompt);
}

static void read_golden(int most)
{
    json_error_t why;
    json_t *j = json_load_file("tests/golden/demo.json", 0, &why);
    if (!j) die("tests/golden/demo.json", why.text);
    const json_t *list = json_object_get(j, "cases");
    for (size_t i = 0; i < json_array_size(list) && ncases < most; i++)
        read_case(json_array_get(list, i), &cases[ncases++]);
    json_decref(j);
}

/* --- one side: the CPU, or the device --- */

struct side {
    struct model *m;
    struct device *device; /* NULL: the CPU */
    struct device_plan plan;
    struct lora_set *loras;
    char digest[ADAPTERS][SHA256_HEX];
    struct lora_slot *slot[ADAPTERS];
};

static const struct sched_options sched_asked = {
    .max_running = CASES, .max_waiting = 64, .step_tokens = ROWS_MAX, .kv_type = KV_BF16};

static void start_device(struct side *s, struct err *e)
{
    const struct sched_options *o = &sched_asked;
    const struct model_device_options mo = {.kv_type = KV_BF16,
                                            .max_rows = sched_rows(o),
                                            .max_seqs = o->max_running,
                                            .max_logits = sched_logits(o) > ANSWER_MAX ? sched_logits(o) : ANSWER_MAX,
                                            .max_segs = sched_segments(o),
                                            .max_rank = lora_rank_pad(RANK_MAX),
                                            .slots = ADAPTERS,
                                            .adapter_bytes = 256 << 20};
    if (device_open(&s->device, "cuda", 1, e) || model_to_device(s->m, s->device, &mo, &s->plan, e))
        die("the device", e->msg);
}

static void load_adapters(struct side *s, struct err *e)
{
    const struct lora_options o = {
        .max_slots = ADAPTERS, .max_known = 8, .wait_ms = 10000, .max_rank = RANK_MAX, .device = s->device};
    if (lora_set_new(&s->loras, s->m, &o, e)) die("adapters", e->msg);
    for (int i = 0; i < ADAPTERS; i++) {
        char rel[64], *dir;
        snprintf(rel, sizeof rel, "ops/demo/%s", adapter_name[i]);
        dir = realpath(rel, NULL);
        if (!dir) die(rel, "is not there");
        if (pin_folder(s->loras, &s->m->desc, dir, s->digest[i], &s->slot[i], e)) die(rel, e->msg);
        free(dir);
    }
}

/* --- forced --- */

struct runner {
    struct pool *pool;
    struct kv_pool kv;
    struct forward *f;
};

static void runner_open(struct runner *r, const struct side *s)
{
    struct err e = {0};
    int bad = pool_new(&r->pool, 0, &e);
    if (!bad)
        bad = s->device ? kv_pool_init_on(&r->kv, s->m, KV_BF16, &s->plan, device_room(s->device, ROOM_KV), &e)
                        : kv_pool_init_as(&r->kv, s->m, KV_BF16, 0, 1, &e);
    const struct kernels *k = s->device ? device_kernels(s->device) : kernels_pick(NULL, PREC_FAST);
    if (!bad) bad = forward_new(&r->f, s->m, k, r->pool, &r->kv.cache, ROWS_MAX, ANSWER_MAX, RANK_MAX, &e);
    if (bad) die("passes", e.msg);
}

static void runner_close(struct runner *r)
{
    forward_free(r->f);
    kv_pool_close(&r->kv);
    pool_free(r->pool);
}

static int32_t best_of(const float *logits, int vocab)
{
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static void force(const struct side *s, struct runner *r, struct golden *g, int32_t *best)
{
    struct err e = {0};
    struct kv_seq seq;
    int rows = g->nprompt + g->ntokens - 1, wanted[ANSWER_MAX];
    if (kv_seq_init(&seq, rows, &e) || !kv_seq_reserve(&r->kv, &seq, rows)) die("pages", e.msg);
    for (int t = 0; t < g->ntokens; t++) wanted[t] = g->nprompt - 1 + t;
    const struct attn_seq at = {.rows = rows, .page = seq.page};
    struct lora_seg seg = {.rows = rows};
    struct forward_batch b = {
        .rows = rows, .token = g->ids, .nseq = 1, .seq = &at, .nlogits = g->ntokens, .logit_row = wanted};
    if (g->adapter >= 0) {
        seg.nuse = 1;
        seg.use[0] = (struct lora_use){&s->slot[g->adapter]->table, 1};
        b.lora = (struct lora_batch){.nseg = 1, .seg = &seg, .modules = LORA_MODULES};
        b.max_rank = s->slot[g->adapter]->max_rank;
    }
    const float *logits = forward_run(r->f, &b);
    if (!logits) die("a pass", forward_error(r->f)->msg);
    for (int t = 0; t < g->ntokens; t++) best[t] = best_of(logits + (size_t)t * (size_t)s->m->vocab, s->m->vocab);
    kv_seq_release(&r->kv, &seq);
    kv_seq_close(&seq);
}

static void force_all(const struct side *s)
{
    struct runner r = {0};
    runner_open(&r, s);
    for (int i = 0; i < ncases; i++) force(s, &r, &cases[i], cases[i].best[s->device != NULL]);
    runner_close(&r);
}

/* --- answers --- */

struct answer {
    struct crowd *crowd;
    int32_t ids[ANSWER_MAX];
    int n;
};

struct crowd {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int left;
    struct answer a[CASES];
};

static void on_event(void *u, const struct gen_event *ev)
{
    struct answer *a = u;
    if (ev->kind == GEN_TOKEN) {
        a->ids[a->n++] = ev->sample->id;
        return;
    }
    pthread_mutex_lock(&a->crowd->lock);
    if (--a->crowd->left == 0) pthread_cond_signal(&a->crowd->cond);
    pthread_mutex_unlock(&a->crowd->lock);
}

static void submit(const struct side *s, struct sched *sched, const struct golden *g, struct answer *a)
{
    struct err e = {0};
    struct gen *gen;
    const struct gen_request r = {.prompt = g->ids,
                                  .nprompt = g->nprompt,
                                  .weight = 1,
                                  .on_event = on_event,
                                  .user = a,
                                  .tenant = "golden",
                                  .digest = g->adapter >= 0 ? s->digest[g->adapter] : NULL,
                                  .p = {.max_tokens = g->ntokens, .sample = {.top_p = 1, .logprobs = -1}}};
    if (sched_submit(sched, &r, &gen, &e)) die("a request", e.msg);
}

/* -> tokens up to the first that differs, over all answers. */
static int answers(const struct side *s)
{
    static struct crowd c = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct sched_options o = sched_asked;
    struct sched *sched;
    struct err e = {0};
    int same = 0;
    o.device = s->device, o.plan = &s->plan, c.left = ncases;
    for (int i = 0; i < ADAPTERS; i++) lora_unpin(s->loras, s->slot[i]);
    if (sched_new(&sched, s->m, s->loras, &o, NULL, &e)) die("the scheduler", e.msg);
    for (int i = 0; i < ncases; i++) {
        c.a[i].crowd = &c;
        submit(s, sched, &cases[i], &c.a[i]);
    }
    pthread_mutex_lock(&c.lock);
    while (c.left) pthread_cond_wait(&c.cond, &c.lock);
    pthread_mutex_unlock(&c.lock);
    sched_free(sched);
    for (int i = 0; i < ncases; i++)
        for (int t = 0; t < c.a[i].n && c.a[i].ids[t] == cases[i].ids[cases[i].nprompt + t]; t++) same++;
    return same;
}

/* --- the verdict --- */

static double agree(const int32_t *(*with)(const struct golden *g), int *tokens)
{
    int same = 0;
    *tokens = 0;
    for (int i = 0; i < ncases; i++)
        for (int t = 0; t < cases[i].ntokens; t++, ++*tokens) same += cases[i].best[1][t] == with(&cases[i])[t];
    return (double)same / *tokens;
}

static const int32_t *golden_tokens(const struct golden *g)
{
    return g->ids + g->nprompt;
}

static const int32_t *cpu_tokens(const struct golden *g)
{
    return g->best[0];
}

int main(int argc, char **argv)
{
    struct side cpu = {0}, dev = {0};
    struct err e = {0};
    int most = CASES, tokens;
    if (argc == 4 && !strcmp(argv[1], "--cases")) most = (int)strtol(argv[2], NULL, 10);
    if ((argc != 2 && argc != 4) || most < 1 || most > CASES) {
        fprintf(stderr, "usage: golden [--cases N] MODEL\n");
        return 2;
    }
    read_golden(most);
    if (model_load(&cpu.m, argv[argc - 1], NULL, PREC_FAST, CONTEXT, &e)) die(argv[argc - 1], e.msg);
    dev.m = cpu.m;
    start_device(&dev, &e);
    load_adapters(&cpu, &e);
    load_adapters(&dev, &e);
    force_all(&cpu);
    force_all(&dev);
    double golden = agree(golden_tokens, &tokens), both = agree(cpu_tokens, &tokens);
    double answered = (double)answers(&dev) / tokens;
    struct device_counts counts;
    device_counts(dev.device, &counts);
    printf("result: of %d tokens %.2f %% are the golden ones, %.2f %% the CPU's; answers: %.2f %% up to the first that "
           "differs; %llu graphs, %llu replays\n",
           tokens, 100 * golden, 100 * both, 100 * answered, (unsigned long long)counts.graphs,
           (unsigned long long)counts.replays);
    for (int i = 0; i < ADAPTERS; i++) lora_unpin(cpu.loras, cpu.slot[i]);
    lora_set_free(dev.loras);
    lora_set_free(cpu.loras);
    device_close(dev.device);
    model_free(cpu.m);
    return golden >= FORCED_SHARE && both >= FORCED_SHARE && answered >= ANSWER_SHARE ? 0 : 1;
}
