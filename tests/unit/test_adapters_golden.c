/* Tests of adapters against PEFT: tests/golden/adapters holds tiny models, adapters of every kind that PEFT writes, and the
 * logits that transformers and PEFT compute with them in float32 (make_adapters.py). A new case there is a new test here.
 *
 * Each case alone: EXACT is within TOLERANCE. All cases of a model in one step: the same bits as alone. The self-test: near
 * in both precisions, and it measures what the adapter adapts. All cases are tried before a test fails. */
#include "base/json.h"
#include "base/log.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/lora.h"
#include "tests/unit/device_ready.h"
#include "tests/unit/pin_folder.h"
#include "tests/unit/tables.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define ROOT "tests/golden/adapters"
#define CASES_MAX 64
#define PROMPTS_MAX 3
#define PROMPT_MAX 48
#define ROWS_MAX 1024
#define SEQS_MAX 96
#define SLOTS 32
#define RANK_MAX 64
#define TOLERANCE 1e-4
#define NEAR 0.05 /* of the largest logit: bf16 activations */
#define THREADS 2
#define COLUMNS_ROWS 48 /* of a step, where adapters are columns */

struct golden_case {
    char name[64], model[64];
    int nuse, nprompts, n[PROMPTS_MAX];
    char dir[LORA_STACK][64];
    float weight[LORA_STACK];
    int32_t ids[PROMPTS_MAX][PROMPT_MAX];
    const float *want; /* [prompts][positions][vocab] */
};

static struct {
    struct golden_case c[CASES_MAX];
    int n, positions, vocab;
    float *logits;
} golden;

static int failures;

static void complain(const char *name, const char *what)
{
    printf("  FAILED %s: %s\n", name, what);
    failures++;
}

/* --- golden files --- */

static void read_case(struct golden_case *c, const json_t *j)
{
    const json_t *uses = json_object_get(j, "adapters"), *prompts = json_object_get(j, "prompts");
    snprintf(c->name, sizeof c->name, "%s", json_string_value(json_object_get(j, "name")));
    snprintf(c->model, sizeof c->model, "%s", json_string_value(json_object_get(j, "model")));
    c->nuse = (int)json_array_size(uses);
    c->nprompts = (int)json_array_size(prompts);
    assert_in_range(c->nuse, 0, LORA_STACK);
    assert_in_range(c->nprompts, 1, PROMPTS_MAX);
    for (int i = 0; i < c->nuse; i++) {
        const json_t *u = json_array_get(uses, (size_t)i);
        snprintf(c->dir[i], sizeof c->dir[i], "%s", json_string_value(json_object_get(u, "dir")));
        c->weight[i] = (float)json_number_value(json_object_get(u, "weight"));
    }
    for (int p = 0; p < c->nprompts; p++) {
        const json_t *ids = json_array_get(prompts, (size_t)p);
        c->n[p] = (int)json_array_size(ids);
        assert_in_range(c->n[p], golden.positions, PROMPT_MAX);
        for (int t = 0; t < c->n[p]; t++) c->ids[p][t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
    }
}

static size_t case_floats(const struct golden_case *c)
{
    return (size_t)c->nprompts * (size_t)golden.positions * (size_t)golden.vocab;
}

static int read_golden(void **state)
{
    (void)state;
    json_error_t why;
    size_t floats = 0, at = 0;
    json_t *j = json_load_file(ROOT "/golden.json", 0, &why), *list = json_object_get(j, "cases");
    if (!j) fail_msg("golden.json: %s", why.text);
    golden.positions = (int)json_integer_value(json_object_get(j, "positions"));
    golden.vocab = (int)json_integer_value(json_object_get(j, "vocab"));
    golden.n = (int)json_array_size(list);
    assert_in_range(golden.n, 1, CASES_MAX);
    for (int i = 0; i < golden.n; i++) {
        read_case(&golden.c[i], json_array_get(list, (size_t)i));
        floats += case_floats(&golden.c[i]);
    }
    json_decref(j);
    FILE *f = fopen(ROOT "/golden.bin", "rb");
    assert_non_null(f);
    golden.logits = malloc(floats * sizeof *golden.logits);
    assert_non_null(golden.logits);
    assert_int_equal(fread(golden.logits, sizeof *golden.logits, floats, f), floats);
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
    for (int i = 0; i < golden.n; at += case_floats(&golden.c[i++])) golden.c[i].want = golden.logits + at;
    return 0;
}

static int free_golden(void **state)
{
    (void)state;
    free(golden.logits);
    return 0;
}

/* --- the engine, without scheduler --- */

struct engine {
    struct model *m;
    struct lora_set *loras;
    struct pool *pool;
    struct kv_pool kv;
    struct forward *f;
    struct device *device;
    struct device_plan plan;
    struct {
        char dir[64], digest[SHA256_HEX];
        struct lora_slot *slot;
    } pinned[SLOTS];
    int npinned;
};

static const char device_table[] = "device";
static int columns_slots; /* > 0: so many, which are columns of a device's products; else SLOTS */
static int ranks = 1;     /* devices that share the model */

static const struct kernels *table_of(const struct engine *e, enum precision prec)
{
    return e->device ? device_kernels(e->device) : kernels_pick(current_table, prec);
}

/* The model on a device, where that is the table; keys and values are there then. */
static int start_device(struct engine *e, struct err *err)
{
    const struct model_device_options o = {.kv_type = KV_BF16,
                                           .max_rows = columns_slots ? COLUMNS_ROWS : ROWS_MAX,
                                           .max_seqs = SEQS_MAX,
                                           .max_logits = SEQS_MAX * 3,
                                           .max_segs = SEQS_MAX,
                                           .max_rank = LORA_STACK * RANK_MAX,
                                           .slots = columns_slots ? columns_slots : SLOTS,
                                           .adapter_bytes = 64 << 20,
                                           .kv_bytes = 32 << 20,
                                           .augment = columns_slots ? AUGMENT_ON : AUGMENT_OFF};
    if (current_table != device_table) return kv_pool_init(&e->kv, e->m, 32 << 20, 1, err);
    device_library();
    if (device_shared(&e->device, e->m, &o, ranks, &e->plan, err)) return -1;
    return kv_pool_init_on(&e->kv, e->m, KV_BF16, &e->plan, device_room(e->device, ROOM_KV), err);
}

/* -1: more devices than can share it. */
static int engine_open(struct engine *e, const char *model, enum precision prec)
{
    struct err err = {0};
    char path[200];
    int slots = columns_slots ? columns_slots : SLOTS;
    struct lora_options o = {.max_slots = slots, .max_known = SLOTS, .wait_ms = 1000, .max_rank = RANK_MAX};
    memset(e, 0, sizeof *e);
    snprintf(path, sizeof path, ROOT "/%s", model);
    int rc = model_load(&e->m, path, NULL, prec, 0, &err) || start_device(e, &err);
    o.device = e->device;
    if (rc && err.code == ERR_USAGE) return -1;
    if (rc || lora_set_new(&e->loras, e->m, &o, &err) || pool_new(&e->pool, ranks > THREADS ? ranks : THREADS, &err) ||
        forward_new(&e->f, e->m, table_of(e, prec), e->pool, &e->kv.cache, ROWS_MAX, SEQS_MAX * 3,
                    LORA_STACK * RANK_MAX, &err))
        fail_msg("%s: %s", model, err.msg);
    assert_int_equal(e->m->vocab, golden.vocab);
    return 0;
}

static void engine_close(struct engine *e)
{
    for (int i = 0; i < e->npinned; i++) lora_unpin(e->loras, e->pinned[i].slot);
    forward_free(e->f);
    kv_pool_close(&e->kv);
    pool_free(e->pool);
    lora_set_free(e->loras);
    device_close(e->device);
    model_free(e->m);
}

/* The index of the folder's adapter among the pinned ones; -1 after a complaint. */
static int pin(struct engine *e, const char *name)
{
    char rel[200];
    struct err why = {0};
    for (int i = 0; i < e->npinned; i++)
        if (strcmp(e->pinned[i].dir, name) == 0) return i;
    assert_true(e->npinned < SLOTS);
    snprintf(rel, sizeof rel, ROOT "/%s", name);
    char *dir = realpath(rel, NULL);
    assert_non_null(dir);
    int rc = pin_folder(e->loras, &e->m->desc, dir, e->pinned[e->npinned].digest, &e->pinned[e->npinned].slot, &why);
    free(dir);
    if (rc) complain(name, why.msg);
    if (rc) return -1;
    snprintf(e->pinned[e->npinned].dir, sizeof e->pinned[0].dir, "%s", name);
    return e->npinned++;
}

/* --- a step --- */

struct step {
    int32_t token[ROWS_MAX];
    struct attn_seq seq[SEQS_MAX];
    struct kv_seq kv[SEQS_MAX];
    struct lora_seg seg[SEQS_MAX];
    int logit_row[SEQS_MAX * 3];
    struct forward_batch b;
};

/* Where the adapter begins: after what comes before the last occurrence of the tokens that wake it. */
static int first_row(const struct lora_slot *s, const int32_t *ids, int n)
{
    if (!s->ninvocation) return 0;
    for (int at = n - s->ninvocation; at >= 0; at--)
        if (memcmp(ids + at, s->invocation, (size_t)s->ninvocation * sizeof *ids) == 0) return at;
    return n;
}

static void add_segment(struct engine *e, struct step *s, const struct golden_case *c, const int *use, int prompt)
{
    struct lora_seg *seg = &s->seg[s->b.lora.nseg];
    int rank = 0, first = 0;
    *seg = (struct lora_seg){.nuse = c->nuse};
    for (int i = 0; i < c->nuse; i++) {
        const struct lora_slot *slot = e->pinned[use[i]].slot;
        seg->use[i] = (struct lora_use){&slot->table, c->weight[i]};
        rank += lora_rank_pad(slot->max_rank);
        first = first_row(slot, c->ids[prompt], c->n[prompt]);
        assert_true(c->nuse == 1 || !slot->table.alone);
    }
    seg->row0 = s->b.rows + first;
    seg->rows = c->n[prompt] - first;
    if (rank > s->b.max_rank) s->b.max_rank = rank;
    if (c->nuse && seg->rows) s->b.lora.nseg++;
}

/* False after a complaint. */
static bool add_prompts(struct engine *e, struct step *s, const struct golden_case *c, int from, int to)
{
    struct err err = {0};
    int use[LORA_STACK];
    for (int i = 0; i < c->nuse; i++)
        if ((use[i] = pin(e, c->dir[i])) < 0) return false;
    for (int p = from; p < to; p++) {
        int at = s->b.nseq++, n = c->n[p];
        assert_true(at < SEQS_MAX && s->b.rows + n <= ROWS_MAX);
        assert_int_equal(kv_seq_init(&s->kv[at], n, &err), 0);
        assert_true(kv_seq_reserve(&e->kv, &s->kv[at], n));
        s->seq[at] = (struct attn_seq){.row0 = s->b.rows, .rows = n, .page = s->kv[at].page};
        memcpy(s->token + s->b.rows, c->ids[p], (size_t)n * sizeof *s->token);
        add_segment(e, s, c, use, p);
        s->b.rows += n;
        for (int i = golden.positions; i > 0; i--) s->logit_row[s->b.nlogits++] = s->b.rows - i;
    }
    return true;
}

static bool add_case(struct engine *e, struct step *s, const struct golden_case *c)
{
    return add_prompts(e, s, c, 0, c->nprompts);
}

static struct step *step_new(const struct engine *e)
{
    struct step *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->b = (struct forward_batch){.token = s->token,
                                  .seq = s->seq,
                                  .logit_row = s->logit_row,
                                  .lora = {.seg = s->seg, .modules = LORA_MODULES, .experts = e->m->experts}};
    return s;
}

static float *step_run(struct engine *e, struct step *s)
{
    size_t bytes = (size_t)s->b.nlogits * (size_t)golden.vocab * sizeof(float);
    float *out = malloc(bytes);
    assert_non_null(out);
    const float *logits = forward_run(e->f, &s->b);
    if (!logits) fail_msg("%s", forward_error(e->f)->msg);
    memcpy(out, logits, bytes);
    for (int i = 0; i < s->b.nseq; i++) {
        kv_seq_release(&e->kv, &s->kv[i]);
        kv_seq_close(&s->kv[i]);
    }
    free(s);
    return out;
}

static float *run_alone(struct engine *e, const struct golden_case *c)
{
    struct step *s = step_new(e);
    if (add_case(e, s, c)) return step_run(e, s);
    free(s);
    return NULL;
}

/* --- tests --- */

static double largest_difference(const float *a, const float *b, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d; /* NaN counts as worst */
    }
    return worst;
}

static void try_alone(struct engine *e, const struct golden_case *c)
{
    char why[80];
    float *got = run_alone(e, c);
    if (!got) return;
    double worst = largest_difference(got, c->want, case_floats(c));
    snprintf(why, sizeof why, "logits differ by %.2e", worst);
    printf("  %-16s %s\n", c->name, why);
    if (!(worst <= TOLERANCE)) complain(c->name, why);
    free(got);
}

/* Each model once: its cases stand together or not. */
static bool first_of_model(int i)
{
    for (int k = 0; k < i; k++)
        if (strcmp(golden.c[k].model, golden.c[i].model) == 0) return false;
    return true;
}

static void for_each_model(enum precision prec, void (*each)(struct engine *e, const char *model))
{
    failures = 0;
    for (int i = 0; i < golden.n; i++) {
        struct engine e;
        if (!first_of_model(i)) continue;
        if (engine_open(&e, golden.c[i].model, prec) == 0) each(&e, golden.c[i].model);
        engine_close(&e);
    }
    assert_int_equal(failures, 0);
}

static void alone(struct engine *e, const char *model)
{
    for (int i = 0; i < golden.n; i++)
        if (strcmp(golden.c[i].model, model) == 0) try_alone(e, &golden.c[i]);
}

static void mixed(struct engine *e, const char *model)
{
    struct step *s = step_new(e);
    for (int i = 0; i < golden.n; i++)
        if (strcmp(golden.c[i].model, model) == 0) add_case(e, s, &golden.c[i]);
    float *all = step_run(e, s), *at = all;
    for (int i = 0; i < golden.n; i++) {
        const struct golden_case *c = &golden.c[i];
        if (strcmp(c->model, model) != 0) continue;
        float *got = run_alone(e, c);
        if (got && memcmp(got, at, case_floats(c) * sizeof *got) != 0) complain(c->name, "other bits in a mixed step");
        at += got ? case_floats(c) : 0;
        free(got);
    }
    free(all);
}

static double selftest_limit;

static void selftest(struct engine *e, const char *model)
{
    char why[120];
    for (int i = 0; i < golden.n; i++) {
        const struct golden_case *c = &golden.c[i];
        double worst[LORA_CHECKS];
        struct err err = {0};
        int at;
        if (strcmp(c->model, model) != 0 || c->nuse != 1 || (at = pin(e, c->dir[0])) < 0) continue;
        int measured = 0;
        if (lora_selftest(e->loras, e->pinned[at].digest, worst, &err)) complain(c->name, err.msg);
        for (int k = 0; !err.code && k < LORA_CHECKS; k++) {
            measured += worst[k] >= 0;
            if (worst[k] <= selftest_limit) continue; /* not NaN */
            snprintf(why, sizeof why, "the self-test of %s finds %.2e", lora_check_name[k], worst[k]);
            complain(c->name, why);
        }
        if (!measured) complain(c->name, "the self-test measured nothing");
    }
}

/* On a device, alone and all in one step. Of the rows of a case all but one choose the same at least, and the logits are near. */
static void judge_near(const struct golden_case *c, const float *got, const char *how)
{
    size_t rows = case_floats(c) / (size_t)golden.vocab, same = 0;
    double worst = largest_difference(got, c->want, case_floats(c)), most = 0;
    char why[120];
    for (size_t i = 0; i < case_floats(c); i++)
        if (fabs((double)c->want[i]) > most) most = fabs((double)c->want[i]);
    for (size_t r = 0; r < rows; r++) {
        const float *x = c->want + r * (size_t)golden.vocab, *y = got + r * (size_t)golden.vocab;
        int a = 0, b = 0;
        for (int i = 1; i < golden.vocab; i++) {
            if (x[i] > x[a]) a = i;
            if (y[i] > y[b]) b = i;
        }
        same += a == b;
    }
    snprintf(why, sizeof why, "%s on a device: logits differ by %.1e of %.1f, %zu of %zu choose the same", how, worst,
             most, same, rows);
    printf("  %-16s %s\n", c->name, why);
    if (!(worst <= NEAR * most) || same + 1 < rows) complain(c->name, why);
}

static void near(struct engine *e, const char *model)
{
    struct step *s = step_new(e);
    for (int i = 0; i < golden.n; i++)
        if (strcmp(golden.c[i].model, model) == 0) add_case(e, s, &golden.c[i]);
    float *all = step_run(e, s), *at = all;
    for (int i = 0; i < golden.n; i++) {
        const struct golden_case *c = &golden.c[i];
        if (strcmp(c->model, model) != 0) continue;
        float *got = run_alone(e, c);
        if (!got) continue;
        judge_near(c, got, "alone");
        judge_near(c, at, "in a mixed step");
        at += case_floats(c);
        free(got);
    }
    free(all);
}

static void on_devices(int n)
{
    const char *before = current_table;
    char there[8];
    snprintf(there, sizeof there, "%d", n);
    setenv("WEFT_SIMT_DEVICES", there, 1);
    current_table = device_table;
    ranks = n;
    for_each_model(PREC_FAST, near);
    ranks = 1;
    current_table = before;
}

static void test_logits_of_every_kind_on_a_device_are_near_pefts(void **state)
{
    (void)state;
    on_devices(1);
}

/* Two have a head of keys each, of four each is held twice. */
static void test_logits_of_every_kind_in_a_group_are_near_pefts(void **state)
{
    (void)state;
    on_devices(2);
    on_devices(4);
}

/* --- adapters as columns of a device's products --- */

/* No more adapters than there are slots, most of them plain ones: others go their own way beside these. */
static const char *const sets[][6] = {{"base", "plain", "rslora", "dora", "two", "half"},
                                      {"base", "alora", "layers", "saved", "all-linear", "layers"}};
#define COLUMNS_SLOTS 4

static const struct golden_case *case_named(const char *name)
{
    for (int i = 0; i < golden.n; i++)
        if (strcmp(golden.c[i].name, name) == 0) return &golden.c[i];
    fail_msg("no case %s", name);
    return NULL;
}

/* Elsewhere a library's products may have other bits with columns, and do without. */
static bool on_the_shim(const struct engine *e)
{
    struct device_about about;
    device_about(e->device, &about);
    return strcmp(about.name, "SIMT shim") == 0;
}

/* The logits of the first's first prompt beside the second's second one. */
static float *run_beside(struct engine *e, const struct golden_case *a, const struct golden_case *b)
{
    struct step *s = step_new(e);
    assert_true(add_prompts(e, s, a, 0, 1) && add_prompts(e, s, b, 1, 2));
    return step_run(e, s);
}

/* All steps have as many rows but alora's, whose prompt is shorter; so one bucket has all of them. */
static void beside_all(struct engine *e, const char *const set[6])
{
    size_t bytes = (size_t)golden.positions * (size_t)golden.vocab * sizeof(float);
    for (int i = 0; i < 6; i++) {
        const struct golden_case *a = case_named(set[i]);
        float *first = run_beside(e, a, case_named(set[0]));
        for (int k = 1; k < 6; k++) {
            float *other = run_beside(e, a, case_named(set[k]));
            if (memcmp(first, other, bytes) != 0) complain(a->name, set[k]);
            free(other);
        }
        free(first);
    }
}

static void test_columns_of_a_device_s_products_are_pefts_and_nobody_s_neighbours_show(void **state)
{
    (void)state;
    const char *before = current_table;
    failures = 0;
    current_table = device_table;
    columns_slots = COLUMNS_SLOTS;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        struct engine e;
        engine_open(&e, "base", PREC_FAST);
        assert_int_equal(e.plan.measured.augment_ranks, 16);
        assert_true(e.plan.measured.augment_taken > 0 || !on_the_shim(&e));
        for (int k = 0; k < 6; k++) {
            const struct golden_case *c = case_named(sets[i][k]);
            float *got = run_alone(&e, c);
            if (got) judge_near(c, got, "as columns");
            free(got);
        }
        beside_all(&e, sets[i]);
        engine_close(&e);
    }
    columns_slots = 0;
    current_table = before;
    assert_int_equal(failures, 0);
}

static void alone_in(enum precision prec)
{
    for_each_model(prec, alone);
}

static void mixed_in(enum precision prec)
{
    for_each_model(prec, mixed);
}

static void test_exact_logits_of_every_kind_of_adapter_are_pefts(void **state)
{
    (void)state;
    assert_true(for_each_table(PREC_EXACT, alone_in) > 0);
}

static void test_every_kind_in_one_step_has_the_bits_that_it_has_alone(void **state)
{
    (void)state;
    assert_true(for_each_table(PREC_EXACT, mixed_in) > 0);
    assert_true(for_each_table(PREC_FAST, mixed_in) > 0);
}

static void test_the_self_test_finds_every_kind_well(void **state)
{
    (void)state;
    selftest_limit = 1e-5;
    for_each_model(PREC_EXACT, selftest);
    selftest_limit = 0.05;
    for_each_model(PREC_FAST, selftest);
}

/* --- files that were changed --- */

#define CONFIG "adapter_config.json"
#define WEIGHTS "adapter_model.safetensors"

/* The adapter of ROOT/from in `dir`, with `patch` on its config and another first value of `tensor`. */
static void write_changed(const char *dir, const char *from, const char *patch, const char *tensor)
{
    char path[300], name[128];
    json_error_t why;
    snprintf(path, sizeof path, ROOT "/%s/" CONFIG, from);
    json_t *config = json_load_file(path, 0, &why), *more = json_loads(patch, 0, &why);
    assert_int_equal(json_object_update(config, more), 0);
    snprintf(path, sizeof path, "%s/" CONFIG, dir);
    assert_int_equal(json_dump_file(config, path, 0), 0);
    json_decref(config);
    json_decref(more);

    static char bytes[1 << 20];
    uint64_t header;
    snprintf(path, sizeof path, ROOT "/%s/" WEIGHTS, from);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    memcpy(&header, bytes, sizeof header);
    snprintf(name, sizeof name, "\"%s\"", tensor);
    char *at = memmem(bytes + 8, header, name, strlen(name)), *offset = at ? strstr(at, "data_offsets\":[") : NULL;
    assert_non_null(offset);
    bytes[8 + header + strtoull(offset + 15, NULL, 10)] ^= 1;
    snprintf(path, sizeof path, "%s/" WEIGHTS, dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

static void expect_refusal(const char *model, const char *dir, const char *says)
{
    struct engine e;
    struct lora_slot *slot = NULL;
    struct err why = {0};
    char digest[SHA256_HEX];
    assert_int_equal(engine_open(&e, model, PREC_EXACT), 0);
    if (pin_folder(e.loras, &e.m->desc, dir, digest, &slot, &why) == 0) lora_unpin(e.loras, slot);
    engine_close(&e);
    if (!strstr(why.msg, says)) fail_msg("\"%s\" does not say \"%s\"", why.msg, says);
}

static void test_wholes_that_peft_would_compute_otherwise_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *model, *from, *patch, *tensor, *says;
    } row[] = {
        {"base-tied", "along", "{}", "base_model.model.lm_head.weight",
         "differ, and in base-tied they are one matrix; save the adapter with save_embedding_layers=False"},
        {"base", "along", "{\"alora_invocation_tokens\": [17], \"task_type\": \"CAUSAL_LM\"}",
         "base_model.model.lm_head.weight", "base_model.model.lm_head.weight has other values than base"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char dir[] = "/tmp/weft-golden-XXXXXX", path[64];
        assert_non_null(mkdtemp(dir));
        write_changed(dir, row[i].from, row[i].patch, row[i].tensor);
        expect_refusal(row[i].model, dir, row[i].says);
        snprintf(path, sizeof path, "%s/" CONFIG, dir);
        unlink(path);
        snprintf(path, sizeof path, "%s/" WEIGHTS, dir);
        unlink(path);
        assert_int_equal(rmdir(dir), 0);
    }
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_logits_of_every_kind_of_adapter_are_pefts),
        cmocka_unit_test(test_every_kind_in_one_step_has_the_bits_that_it_has_alone),
        cmocka_unit_test(test_the_self_test_finds_every_kind_well),
        cmocka_unit_test(test_logits_of_every_kind_on_a_device_are_near_pefts),
        cmocka_unit_test(test_columns_of_a_device_s_products_are_pefts_and_nobody_s_neighbours_show),
        cmocka_unit_test(test_logits_of_every_kind_in_a_group_are_near_pefts),
        cmocka_unit_test(test_wholes_that_peft_would_compute_otherwise_are_refused),
    };
    return cmocka_run_group_tests(tests, read_golden, free_golden);
}
