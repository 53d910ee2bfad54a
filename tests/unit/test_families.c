/* Tests of the model families: each folder of tests/golden/families holds a tiny model, adapters on it and the logits that
 * transformers and PEFT compute in float32 (make_families.py). A new folder is a new test.
 *
 * Of every folder, for the base and each adapter: EXACT is within TOLERANCE of the golden logits (they are of a few units); a
 * prompt in chunks gives the same bits as in one piece; FAST is near by Kullback-Leibler divergence and mostly chooses the same
 * token. All folders are tried before the test fails, so that one run shows the whole table.
 *
 * The frequencies of rotary positions are compared with transformers' own in tests/golden/rope.json. */
#include "base/json.h"
#include "base/log.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/lora.h"
#include "engine/model_family.h"
#include "engine/packed.h"
#include "tests/unit/device_ready.h"
#include "tests/unit/pin_folder.h"
#include "tests/unit/tables.h"
#include "tests/unit/thin.h"
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ROOT "tests/golden/families"
#define FOLDERS_MAX 64
#define RUNS_MAX 4
#define PROMPTS_MAX 4
#define ROWS_MAX 128
#define CHUNK 7
#define TOLERANCE 1e-4
#define KL_MAX 1e-2
#define KL_EXPERTS 1e-1 /* a rounding may choose another expert */
#define THREADS 2

struct golden {
    char name[256], model[600], adapters[600]; /* paths */
    int max_context, positions, vocab, nruns, nprompts;
    char run[RUNS_MAX][64]; /* names of adapters' folders */
    int32_t ids[PROMPTS_MAX][ROWS_MAX];
    int n[PROMPTS_MAX];
    float *logits; /* [runs][prompts][positions][vocab] */
};

static int failures;

static void complain(const struct golden *g, const char *run, const char *what)
{
    printf("  FAILED %s, %s: %s\n", g->name, run, what);
    failures++;
}

/* --- golden files --- */

static void read_logits(struct golden *g)
{
    char path[400];
    size_t n = (size_t)g->nruns * (size_t)g->nprompts * (size_t)g->positions * (size_t)g->vocab;
    snprintf(path, sizeof path, ROOT "/%s/golden.bin", g->name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    g->logits = malloc(n * sizeof *g->logits);
    assert_non_null(g->logits);
    assert_int_equal(fread(g->logits, sizeof *g->logits, n, f), n);
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
}

static int number(const json_t *j, const char *key)
{
    return (int)json_integer_value(json_object_get(j, key));
}

static void read_golden(struct golden *g, const char *name)
{
    char path[400];
    json_error_t why;
    memset(g, 0, sizeof *g);
    snprintf(g->name, sizeof g->name, "%s", name);
    snprintf(path, sizeof path, ROOT "/%s/golden.json", name);
    json_t *j = json_load_file(path, 0, &why);
    if (!j) fail_msg("%s: %s", path, why.text);
    snprintf(g->model, sizeof g->model, ROOT "/%s/%s", name, json_string_value(json_object_get(j, "model")));
    snprintf(g->adapters, sizeof g->adapters, ROOT "/%s/%s", name, json_string_value(json_object_get(j, "adapters")));
    g->max_context = number(j, "max_context");
    g->positions = number(j, "positions");
    g->vocab = number(j, "vocab");
    const json_t *runs = json_object_get(j, "runs"), *prompts = json_object_get(j, "prompts");
    g->nruns = (int)json_array_size(runs);
    g->nprompts = (int)json_array_size(prompts);
    assert_in_range(g->nruns, 1, RUNS_MAX);
    assert_in_range(g->nprompts, 1, PROMPTS_MAX);
    for (int i = 0; i < g->nruns; i++)
        snprintf(g->run[i], sizeof g->run[i], "%s", json_string_value(json_array_get(runs, (size_t)i)));
    for (int i = 0; i < g->nprompts; i++) {
        const json_t *ids = json_array_get(prompts, (size_t)i);
        g->n[i] = (int)json_array_size(ids);
        assert_in_range(g->n[i], g->positions, ROWS_MAX);
        for (int t = 0; t < g->n[i]; t++) g->ids[i][t] = (int32_t)json_integer_value(json_array_get(ids, (size_t)t));
    }
    json_decref(j);
    read_logits(g);
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
};

static const char device_table[] = "device";
static int ranks = 1; /* devices that share the model */

static const struct kernels *table_of(const struct engine *e, enum precision prec)
{
    return e->device ? device_kernels(e->device) : kernels_pick(current_table, prec);
}

/* The model on a device, where that is the table; keys and values are there then. */
static int start_device(struct engine *e, struct err *err)
{
    const struct model_device_options o = {.kv_type = KV_BF16,
                                           .max_rows = ROWS_MAX,
                                           .max_seqs = 1,
                                           .max_logits = ROWS_MAX,
                                           .max_segs = 2,
                                           .max_rank = 64,
                                           .slots = RUNS_MAX,
                                           .adapter_bytes = 16 << 20,
                                           .kv_bytes = 4 << 20};
    if (current_table != device_table) return kv_pool_init(&e->kv, e->m, 4 << 20, 1, err);
    device_library();
    if (device_shared(&e->device, e->m, &o, ranks, &e->plan, err)) return -1;
    return kv_pool_init_on(&e->kv, e->m, KV_BF16, &e->plan, device_room(e->device, ROOM_KV), err);
}

static int engine_open(struct engine *e, const struct golden *g, enum precision prec)
{
    struct err err = {0};
    struct lora_options o = {.max_slots = RUNS_MAX, .max_known = RUNS_MAX, .wait_ms = 1000, .max_rank = 64};
    memset(e, 0, sizeof *e);
    int rc = model_load(&e->m, g->model, NULL, prec, g->max_context, &err) || start_device(e, &err);
    o.device = e->device;
    if (rc && err.code == ERR_USAGE) return -1; /* more than can share it */
    if (rc || lora_set_new(&e->loras, e->m, &o, &err) || pool_new(&e->pool, ranks > THREADS ? ranks : THREADS, &err) ||
        forward_new(&e->f, e->m, table_of(e, prec), e->pool, &e->kv.cache, ROWS_MAX, ROWS_MAX, 64, &err)) {
        complain(g, prec == PREC_EXACT ? "exact" : "fast", err.msg);
        return -1;
    }
    assert_int_equal(e->m->vocab, g->vocab);
    return 0;
}

static void engine_close(struct engine *e)
{
    forward_free(e->f);
    kv_pool_close(&e->kv);
    pool_free(e->pool);
    lora_set_free(e->loras);
    device_close(e->device);
    model_free(e->m);
}

/* The adapter of that folder, pinned; NULL after a complaint. */
static struct lora_slot *pin(struct engine *e, const struct golden *g, const char *run)
{
    char rel[700], digest[SHA256_HEX];
    struct lora_slot *slot = NULL;
    struct err why = {0};
    snprintf(rel, sizeof rel, "%s/%s", g->adapters, run);
    char *dir = realpath(rel, NULL);
    assert_non_null(dir);
    if (pin_folder(e->loras, &e->m->desc, dir, digest, &slot, &why)) complain(g, run, why.msg);
    free(dir);
    return slot;
}

/* Logits of the last positions of a prompt, run in pieces of at most `chunk` rows. */
static void run(struct engine *e, const struct golden *g, int prompt, struct lora_slot *slot, int chunk, float *out)
{
    struct err err = {0};
    struct kv_seq seq;
    int n = g->n[prompt], done = 0;
    assert_int_equal(kv_seq_init(&seq, n, &err), 0);
    assert_true(kv_seq_reserve(&e->kv, &seq, n));
    while (done < n) {
        int rows = n - done < chunk ? n - done : chunk, wanted[ROWS_MAX], nwanted = 0, first = n - g->positions;
        for (int i = 0; i < rows; i++)
            if (done + i >= first) wanted[nwanted++] = i;
        const struct attn_seq at = {.rows = rows, .pos0 = done, .page = seq.page};
        struct lora_seg seg = {.rows = rows};
        struct forward_batch b = {.rows = rows,
                                  .token = g->ids[prompt] + done,
                                  .nseq = 1,
                                  .seq = &at,
                                  .nlogits = nwanted,
                                  .logit_row = wanted};
        if (slot) {
            seg.nuse = 1;
            seg.use[0] = (struct lora_use){&slot->table, 1};
            b.lora = (struct lora_batch){.nseg = 1, .seg = &seg, .modules = LORA_MODULES, .experts = e->m->experts};
            b.max_rank = lora_rank_pad(slot->max_rank);
        }
        const float *logits = forward_run(e->f, &b);
        if (!logits) fail_msg("%s", forward_error(e->f)->msg);
        if (nwanted) {
            memcpy(out, logits, (size_t)nwanted * (size_t)g->vocab * sizeof *out);
            out += nwanted * g->vocab;
        }
        done += rows;
    }
    kv_seq_release(&e->kv, &seq);
    kv_seq_close(&seq);
}

/* --- comparing --- */

struct score {
    double worst, kl;
    int rows, agree;
    bool same_bits;
};

static double log_sum(const float *x, int n, int *best)
{
    double sum = 0;
    *best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[*best]) *best = i;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - (double)x[*best]);
    return (double)x[*best] + log(sum);
}

static void score_row(const float *want, const float *got, int n, struct score *s)
{
    int a, b;
    double lw = log_sum(want, n, &a), lg = log_sum(got, n, &b);
    for (int i = 0; i < n; i++) {
        double d = fabs((double)want[i] - (double)got[i]);
        if (!(d <= s->worst)) s->worst = d; /* NaN counts as worst */
        s->kl += exp((double)want[i] - lw) * ((double)want[i] - lw - ((double)got[i] - lg));
    }
    s->rows++;
    s->agree += a == b;
}

static struct score score_run(struct engine *e, const struct golden *g, int r, struct lora_slot *slot)
{
    struct score s = {.same_bits = true};
    size_t floats = (size_t)g->positions * (size_t)g->vocab;
    float *got = malloc(floats * sizeof *got), *again = malloc(floats * sizeof *again);
    assert_non_null(got);
    assert_non_null(again);
    for (int p = 0; p < g->nprompts; p++) {
        const float *want = g->logits + ((size_t)r * (size_t)g->nprompts + (size_t)p) * floats;
        run(e, g, p, slot, ROWS_MAX, got);
        run(e, g, p, slot, CHUNK, again);
        s.same_bits &= memcmp(got, again, floats * sizeof *got) == 0;
        for (int i = 0; i < g->positions; i++) score_row(want + i * g->vocab, got + i * g->vocab, g->vocab, &s);
    }
    free(got);
    free(again);
    s.kl /= s.rows;
    return s;
}

static void judge(const struct golden *g, const char *run, enum precision prec, bool experts, const struct score *s)
{
    char why[120];
    if (!s->same_bits && current_table != device_table)
        complain(g, run, prec == PREC_EXACT ? "exact chunks differ" : "fast chunks differ");
    if (prec == PREC_EXACT && !(s->worst <= TOLERANCE)) {
        snprintf(why, sizeof why, "exact logits differ by %.2e", s->worst);
        complain(g, run, why);
    }
    if (prec == PREC_FAST && !(s->kl <= (experts ? KL_EXPERTS : KL_MAX) && s->agree * 10 >= s->rows * 8)) {
        snprintf(why, sizeof why, "fast: KL %.2e, %d of %d rows choose the same", s->kl, s->agree, s->rows);
        complain(g, run, why);
    }
}

static void try_folder(const struct golden *g, enum precision prec)
{
    struct engine e;
    if (engine_open(&e, g, prec) == 0)
        for (int r = 0; r < g->nruns; r++) {
            struct lora_slot *slot = r ? pin(&e, g, g->run[r]) : NULL;
            if (r && !slot) continue;
            struct score s = score_run(&e, g, r, slot);
            printf("  %-22s %-16s %-5s worst %.1e  KL %.1e  top-1 %d/%d\n", g->name, g->run[r],
                   prec == PREC_EXACT ? "exact" : "fast", s.worst, s.kl, s.agree, s.rows);
            judge(g, g->run[r], prec, e.m->experts > 0, &s);
            if (slot) lora_unpin(e.loras, slot);
        }
    engine_close(&e);
}

/* In a group: what has something to share that others lack. */
static bool is_shared(const char *name)
{
    static const char *const names[] = {"gemma2", "llama-biases", "llama-head", "mixtral", "qwen2"};
    bool found = false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) found |= strcmp(name, names[i]) == 0;
    return found;
}

static int is_folder(const struct dirent *d)
{
    const char *only = getenv("FAMILY");
    if (ranks > 1 && !is_shared(d->d_name)) return 0;
    return d->d_name[0] != '.' && (!only || strcmp(d->d_name, only) == 0);
}

static void try_all(enum precision prec)
{
    struct dirent **list;
    int n = scandir(ROOT, &list, is_folder, alphasort);
    assert_in_range(n, 1, FOLDERS_MAX);
    failures = 0;
    printf("  %s\n", current_table);
    for (int i = 0; i < n; i++) {
        static struct golden g;
        if (current_table != device_table || !thin_skips(i + ranks)) {
            read_golden(&g, list[i]->d_name);
            try_folder(&g, prec);
            free(g.logits);
        }
        free(list[i]);
    }
    free(list);
    assert_int_equal(failures, 0);
}

static void test_exact_logits_of_every_family_equal_transformers(void **state)
{
    (void)state;
    assert_true(for_each_table(PREC_EXACT, try_all) > 0);
}

static void test_fast_logits_of_every_family_are_near_transformers(void **state)
{
    (void)state;
    assert_true(for_each_table(PREC_FAST, try_all) > 0);
}

static void on_devices(int n)
{
    const char *before = current_table;
    char there[8];
    snprintf(there, sizeof there, "%d", n);
    setenv("WEFT_SIMT_DEVICES", there, 1);
    current_table = device_table;
    ranks = n;
    try_all(PREC_FAST);
    ranks = 1;
    current_table = before;
}

static void test_logits_of_every_family_on_a_device_are_near_transformers(void **state)
{
    (void)state;
    on_devices(1);
}

/* Two have a head of keys each, of four each is held twice. */
static void test_logits_of_every_family_in_a_group_are_near_transformers(void **state)
{
    (void)state;
    on_devices(2);
    on_devices(4);
}

/* --- a folder for files that are made here --- */

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/weft-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

/* --- packed files --- */

static void add(struct packed_writer *w, const struct weight *m, enum place at, int layer, int expert)
{
    struct err e = {0};
    char name[SOURCE_PLACE_MAX];
    if (!m->n) return;
    source_place_name(&(struct spot){.at = at, .layer = layer, .expert = expert}, name);
    if (packed_writer_add_weight(w, name, m, &e)) fail_msg("%s: %s", name, e.msg);
}

static void pack_model(const struct model *m, const char *from, const char *to)
{
    struct err e = {0};
    struct source *s;
    struct packed_writer *w;
    json_t *meta = json_object();
    if (source_open(&s, from, &e) || packed_writer_new(&w, to, &e) || source_pack(s, w, &e)) fail_msg("%s", e.msg);
    add(w, &m->embed, AT_EMBED, 0, 0);
    add(w, &m->head_own, AT_HEAD, 0, 0);
    for (int l = 0; l < m->layers; l++) {
        for (int i = 0; i < LORA_MODULES; i++) add(w, &m->layer[l].module[i], (enum place)(AT_Q + i), l, 0);
        add(w, &m->layer[l].router, AT_ROUTER, l, 0);
        for (int x = 0; m->layer[l].expert && x < m->experts; x++)
            for (int i = 0; i < 3; i++) add(w, &m->layer[l].expert[x].part[i], (enum place)(AT_EXPERT_GATE + i), l, x);
    }
    if (packed_writer_finish(w, meta, &e)) fail_msg("%s", e.msg);
    packed_writer_free(w);
    source_close(s);
    json_decref(meta);
}

static void test_a_packed_file_answers_as_what_it_was_made_of(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-biases",   "gemma3",          "phi3-long",
                                        "qwen3moe-dense", "llama3-gguf-f16", "mixtral-gguf-q8_0"};
    static struct golden g;
    failures = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct engine e;
        read_golden(&g, names[i]);
        size_t floats = (size_t)g.positions * (size_t)g.vocab;
        float *want = malloc(floats * sizeof *want), *got = malloc(floats * sizeof *got);
        assert_non_null(want);
        assert_non_null(got);
        assert_int_equal(engine_open(&e, &g, PREC_FAST), 0);
        run(&e, &g, 0, NULL, ROWS_MAX, want);
        char packed[128];
        snprintf(packed, sizeof packed, "%s/model.weft", folder);
        pack_model(e.m, g.model, packed);
        engine_close(&e);
        snprintf(g.model, sizeof g.model, "%s", packed);
        if (engine_open(&e, &g, PREC_FAST) == 0) {
            run(&e, &g, 0, NULL, ROWS_MAX, got);
            if (memcmp(want, got, floats * sizeof *got)) complain(&g, "packed", "logits differ");
            assert_non_null(e.m->tok);
        }
        engine_close(&e);
        assert_int_equal(unlink(packed), 0);
        free(want);
        free(got);
        free(g.logits);
    }
    assert_int_equal(failures, 0);
}

/* --- frequencies --- */

static void test_frequencies_equal_those_of_transformers(void **state)
{
    (void)state;
    json_error_t why;
    json_t *list = json_load_file("tests/golden/rope.json", 0, &why), *row;
    if (!list) fail_msg("tests/golden/rope.json: %s", why.text);
    size_t i;
    assert_true(json_array_size(list) > 10);
    json_array_foreach(list, i, row)
    {
        struct err e = {0};
        struct meta c;
        struct rope_spec r;
        float freq[64];
        const json_t *config = json_object_get(row, "config"), *want = json_object_get(row, "frequencies");
        int own = number(config, "max_position_embeddings"), n = (int)json_array_size(want), context;
        if (family_of_config(config, config, &c, &e) || rope_read(&c, NULL, own, 128, false, &r, &e))
            fail_msg("row %zu: %s", i, e.msg);
        assert_int_equal(n, (int)(128 * r.partial) / 2);
        context = number(row, "context") ? number(row, "context") : r.normal;
        assert_in_range(context, 1, r.reach);
        rope_frequencies(&r, context, 2 * n, freq);
        for (int k = 0; k < n; k++) {
            double w = json_number_value(json_array_get(want, (size_t)k)), d = fabs((double)freq[k] - w);
            if (!(d <= 3e-7 * w)) fail_msg("row %zu: frequency %d is %.9g, not %.9g", i, k, (double)freq[k], w);
        }
        assert_true(fabs(r.attention - json_number_value(json_object_get(row, "attention"))) < 1e-9);
        rope_spec_close(&r);
    }
    json_decref(list);
}

/* --- directories that are changed a little --- */

static const char *const files[] = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
                                    "generation_config.json"};
#define FILES 5

/* DIR becomes the model of that family, its config.json changed by `patch`. */
static void make_dir(const char *dir, const char *family, const char *patch)
{
    char from[700], to[700];
    json_error_t why;
    assert_int_equal(mkdir(dir, 0700), 0);
    for (int i = 1; i < FILES; i++) {
        snprintf(from, sizeof from, ROOT "/%s/%s", family, files[i]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i]);
        char *full = realpath(from, NULL);
        assert_non_null(full);
        assert_int_equal(symlink(full, to), 0);
        free(full);
    }
    snprintf(from, sizeof from, ROOT "/%s/config.json", family);
    snprintf(to, sizeof to, "%s/config.json", dir);
    json_t *config = json_load_file(from, 0, &why), *change = json_loads(patch, 0, &why);
    if (!change) fail_msg("%s: %s", patch, why.text);
    json_t *text = json_object_get(change, "text_config"); /* of a composite: into it, not in its place */
    if (text) assert_int_equal(json_object_update(json_object_get(config, "text_config"), text), 0);
    if (text) json_object_del(change, "text_config");
    assert_int_equal(json_object_update(config, change), 0);
    assert_int_equal(json_dump_file(config, to, 0), 0);
    json_decref(config);
    json_decref(change);
}

static void remove_dir(const char *dir)
{
    char path[700];
    for (int i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
}

static void test_settings_that_are_not_served_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *family, *patch, *says;
    } row[] = {
        {"llama3", "{\"architectures\": [\"LlamaForSequenceClassification\"]}",
         "config.json: the architecture \"LlamaForSequenceClassification\" is not served; a model of one of these"},
        {"llama3", "{\"model_type\": \"falcon\", \"architectures\": [\"FalconForCausalLM\"]}",
         "\"FalconForCausalLM\" is not served; a model of one of these is needed: Llama"},
        {"llama3", "{\"model_type\": null, \"architectures\": null}",
         "config.json has neither model_type nor architectures"},
        {"llama3", "{\"hidden_act\": \"gelu\"}",
         "config.json: hidden_act is gelu: for LlamaForCausalLM only silu is served; a model"},
        {"llama3", "{\"hidden_size\": \"64\"}", "hidden_size"},
        {"llama3", "{\"hidden_size\": 48}", "hidden_size"},
        {"llama3", "{\"num_attention_heads\": 5}",
         "config.json: num_attention_heads is 5 and config.json: num_key_value_heads 2"},
        {"llama3", "{\"num_hidden_layers\": 3}", "layers.2"},
        {"llama3", "{\"architectures\": 3}", "config.json: architectures is not a list of names"},
        {"llama3", "{\"model_type\": 5}", "config.json: model_type is not a name"},
        {"llama3", "{\"head_dim\": 15}", "config.json: head_dim: a head size of 15 is not served"},
        {"llama3", "{\"num_local_experts\": 0, \"num_key_value_heads\": -1}",
         "config.json: num_key_value_heads is -1: 1 to"},
        {"qwen2", "{\"num_experts\": 4}",
         "config.json: num_experts is 4: mixtures of experts are not served for Qwen2ForCausalLM"},
        {"llama3",
         "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, \"beta_fast\": 1, \"beta_slow\": 32}}",
         "config.json: rope_parameters: yarn rope scaling from beta_fast 1 to beta_slow 32: the first must be"},
        {"llama3", "{\"rope_parameters\": {\"mrope_section\": [1]}}",
         "config.json: rope_parameters: the rope setting \"mrope_section\" is not known"},
        {"llama3", "{\"num_hidden_layers\": 1}", "layers.1"},
        {"llama3", "{\"num_hidden_layers\": 1e9}", "num_hidden_layers"},
        {"llama3", "{\"vocab_size\": 300}", "vocab_size"},
        {"llama3", "{\"attention_bias\": true}", "q_proj.bias"},
        {"llama3", "{\"attention_bias\": 1}", "attention_bias"},
        {"llama3", "{\"is_causal\": false}", "is_causal"},
        {"llama3", "{\"tie_word_embeddings\": false}", "lm_head"},
        {"llama3", "{\"rms_norm_eps\": 0}", "rms_norm_eps"},
        {"llama3", "{\"rope_parameters\": {\"rope_type\": \"ntk\"}}", "ntk"},
        {"llama3", "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"llama_4_scaling_beta\": 0.1}}",
         "llama_4_scaling_beta"},
        {"llama3", "{\"rope_parameters\": {\"rope_type\": \"linear\"}}",
         "config.json: rope_parameters: factor is missing"},
        {"llama3", "{\"rope_parameters\": {\"rope_theta\": -1}}", "rope_theta"},
        {"llama3", "{\"rope_parameters\": {\"partial_rotary_factor\": 0.5}}",
         "config.json: partial_rotary_factor: rope over 8 of 16 dimensions of a head is not served; of this family "
         "all"},
        {"llama3", "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 5}}}", "per layer type"},
        {"llama-biases", "{\"mlp_bias\": false}", "bias"},
        {"gemma3", "{\"attn_logit_softcapping\": 50}",
         "attn_logit_softcapping is 50: this family has no such cap; set it to null"},
        {"gemma3", "{\"use_bidirectional_attention\": true}",
         "use_bidirectional_attention is true, which is not served; a model"},
        {"gemma3", "{\"layer_types\": [\"chunked_attention\", \"full_attention\", \"full_attention\"]}",
         "chunked_attention"},
        {"gemma3", "{\"rope_parameters\": {\"rope_theta\": 10000}}", "per layer type"},
        {"qwen2", "{\"layer_types\": [\"full_attention\"]}", "layer_types"},
        {"phi3", "{\"rope_scaling\": {\"type\": \"su\", \"short_factor\": [1], \"long_factor\": [1]}}", "short_factor"},
        {"phi3", "{\"rope_scaling\": {\"type\": \"longrope\", \"partial_rotary_factor\": 2}}", "partial_rotary_factor"},
        {"smollm3-window", "{\"sliding_window\": null}",
         "layer_types has sliding_attention, and sliding_window is not"},
        {"qwen2", "{\"use_sliding_window\": false}",
         "layer_types has sliding_attention, and use_sliding_window is false"},
        {"llama3", "{\"layer_types\": 3}", "config.json: layer_types is not a list of names"},
        {"gemma3-vision", "{\"text_config\": {\"final_logit_softcapping\": 9}}",
         "text_config: final_logit_softcapping is 9"},
        {"llama3", "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4}}",
         "all weights are plain; take"},
        {"llama3", "{\"quantization_config\": {\"quant_method\": \"bitsandbytes\"}}", "all weights are plain; take"},
        {"llama-head", "{\"tie_word_embeddings\": false}", "model.embed_tokens.weight is missing"},
        {"llama-head", "{\"tie_word_embeddings\": null}", "are not both there; set it to true where they are one"},
        {"smollm3", "{\"no_rope_layers\": [1]}", "no_rope_layers"},
        {"mixtral", "{\"num_experts_per_tok\": 9}", "num_experts_per_tok"},
        {"mixtral", "{\"num_local_experts\": 5}", "5 x 64"},
        {"qwen3moe", "{\"moe_intermediate_size\": null}", "moe_intermediate_size"},
        {"qwen3moe", "{\"decoder_sparse_step\": 0}", "decoder_sparse_step"},
    };
    char dir[128];
    snprintf(dir, sizeof dir, "%s/m", folder);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct err e = {0};
        struct model *m = NULL;
        make_dir(dir, row[i].family, row[i].patch);
        if (model_load(&m, dir, NULL, PREC_FAST, 0, &e) == 0) {
            model_free(m);
            printf("row %zu: %s with %s was loaded\n", i, row[i].family, row[i].patch);
            fail();
        }
        remove_dir(dir);
        if (e.code != ERR_MODEL || !strstr(e.msg, row[i].says))
            fail_msg("row %zu: \"%s\" does not say \"%s\"", i, e.msg, row[i].says);
    }
}

static void test_a_context_is_the_models_own_or_what_its_scaling_reaches(void **state)
{
    (void)state;
    static const struct {
        const char *family;
        int usual, reach;
    } row[] = {{"llama3", 128, 128}, {"qwen2", 128, 128}, {"qwen3", 64, 256}, {"phi3", 32, 128}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char path[200];
        struct err e = {0};
        struct model *m;
        snprintf(path, sizeof path, ROOT "/%s", row[i].family);
        if (model_load(&m, path, NULL, PREC_FAST, 0, &e)) fail_msg("%s", e.msg);
        assert_int_equal(m->max_context, row[i].usual);
        model_free(m);
        if (model_load(&m, path, NULL, PREC_FAST, row[i].reach, &e)) fail_msg("%s", e.msg);
        assert_int_equal(m->max_context, row[i].reach);
        model_free(m);
        assert_int_equal(model_load(&m, path, NULL, PREC_FAST, row[i].reach + 1, &e), -1);
        assert_int_equal(e.code, ERR_USAGE);
    }
}

static void test_a_million_positions_are_not_made_unasked(void **state)
{
    (void)state;
    char dir[128];
    struct err e = {0};
    struct model *m;
    snprintf(dir, sizeof dir, "%s/m", folder);
    make_dir(dir, "mistral", "{\"max_position_embeddings\": 1048576}");
    if (model_load(&m, dir, NULL, PREC_FAST, 0, &e)) fail_msg("%s", e.msg);
    assert_int_equal(m->max_context, 131072);
    assert_int_equal(m->layer[0].window, 8);
    model_free(m);
    remove_dir(dir);
}

static void test_a_directory_tells_names_vocabulary_and_template(void **state)
{
    (void)state;
    char dir[128], slashed[140];
    struct err e = {0};
    struct model *m;
    snprintf(dir, sizeof dir, "%s/Tiny-3.2-Instruct", folder);
    make_dir(dir, "phi3", "{\"_name_or_path\": \"someone/Tiny-Base\"}");
    snprintf(slashed, sizeof slashed, "%s/", dir);
    if (model_load(&m, slashed, NULL, PREC_EXACT, 0, &e)) fail_msg("%s", e.msg);
    assert_string_equal(m->name, "tiny-3.2-instruct");
    assert_string_equal(m->desc.also[0], "someone/Tiny-Base");
    assert_true(sha256_is_hex(m->desc.digest));
    assert_true(m->desc.fused_qkv && m->desc.fused_gate_up);
    assert_int_equal(m->desc.vocab, m->vocab);
    assert_int_equal(m->desc.hidden, 64);
    assert_true(m->tokens < m->vocab); /* the embedding is padded */
    assert_true(tokenizer_is_end(m->tok, tokenizer_eos(m->tok)));
    assert_non_null(m->chat);
    assert_ptr_equal(m->head, &m->embed);
    model_free(m);
    remove_dir(dir);
}

static void test_a_snapshot_in_the_hubs_cache_is_named_by_its_repository(void **state)
{
    (void)state;
    char repository[128], snapshots[160], dir[200];
    struct err e = {0};
    struct model *m;
    snprintf(repository, sizeof repository, "%s/models--Org--Some-Model-1B", folder);
    snprintf(snapshots, sizeof snapshots, "%s/snapshots", repository);
    snprintf(dir, sizeof dir, "%s/0123abcd", snapshots);
    assert_int_equal(mkdir(repository, 0700), 0);
    assert_int_equal(mkdir(snapshots, 0700), 0);
    make_dir(dir, "llama3", "{}");
    if (model_load(&m, dir, NULL, PREC_FAST, 0, &e)) fail_msg("%s", e.msg);
    assert_string_equal(m->name, "some-model-1b");
    model_free(m);
    remove_dir(dir);
    assert_int_equal(rmdir(snapshots), 0);
    assert_int_equal(rmdir(repository), 0);
}

int main(void)
{
    log_init("test", LOG_WARN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_logits_of_every_family_equal_transformers),
        cmocka_unit_test(test_fast_logits_of_every_family_are_near_transformers),
        cmocka_unit_test(test_logits_of_every_family_on_a_device_are_near_transformers),
        cmocka_unit_test(test_logits_of_every_family_in_a_group_are_near_transformers),
        cmocka_unit_test(test_a_packed_file_answers_as_what_it_was_made_of),
        cmocka_unit_test(test_frequencies_equal_those_of_transformers),
        cmocka_unit_test(test_settings_that_are_not_served_are_refused_by_name),
        cmocka_unit_test(test_a_context_is_the_models_own_or_what_its_scaling_reaches),
        cmocka_unit_test(test_a_million_positions_are_not_made_unasked),
        cmocka_unit_test(test_a_directory_tells_names_vocabulary_and_template),
        cmocka_unit_test(test_a_snapshot_in_the_hubs_cache_is_named_by_its_repository),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
