/* Tests of bases whose layers differ in heads and widths, cut out of the tiny llama3 of tests/golden/families.
 *
 * The oracle is the even base whose missing heads and channels are zeros: both compute the same sums, so logits are held to rounding, in
 * both precisions and on every table; what this file cuts it cuts by itself. */
#include "engine/checkpoint.h"
#include "engine/gguf.h"
#include "engine/lora.h"
#include "engine/model_device.h"
#include "engine/model_family.h"
#include "engine/source_impl.h"
#include "tests/unit/pin_folder.h"
#include "tests/unit/pruned_room.h"
#include <math.h>

/* --- a base with layers of their own, and the same with zeros --- */

/* What stays of each layer; layer 0 loses its first key-value head and some channels, layer 1 other channels. */
struct kept {
    int kv_from, kv, mlp_from, mlp;
};
static const struct kept own[LAYERS] = {{1, 1, 32, 64}, {0, 2, 0, 32}};
static const struct kept no_attention[LAYERS] = {{0, 0, 0, 96}, {0, 2, 0, 0}};

static bool stays(const struct kept *k, int module, bool row, int i)
{
    int group = DIM * (HEADS / KV);
    if (module == LM_Q && row) return i >= k->kv_from * group && i < (k->kv_from + k->kv) * group;
    if (module == LM_O && !row) return i >= k->kv_from * group && i < (k->kv_from + k->kv) * group;
    if ((module == LM_K || module == LM_V) && row) return i >= k->kv_from * DIM && i < (k->kv_from + k->kv) * DIM;
    if (((module == LM_GATE || module == LM_UP) && row) || (module == LM_DOWN && !row))
        return i >= k->mlp_from && i < k->mlp_from + k->mlp;
    return true;
}

struct cut_matrix {
    float w[MLP * HIDDEN]; /* [n][k] */
    int n, k;
};

static const int module_rows[LORA_MODULES] = {HEADS * DIM, KV * DIM, KV * DIM, HIDDEN, MLP, MLP, HIDDEN},
                 module_cols[LORA_MODULES] = {HIDDEN, HIDDEN, HIDDEN, HEADS * DIM, HIDDEN, HIDDEN, MLP};

/* cut: what does not stay is left out; else it is 0. */
static void add_row(struct cut_matrix *to, const struct kept *k, int module, int o, const float *row, bool cut)
{
    bool here = stays(k, module, true, o);
    float *w = to->w + to->n * to->k;
    if (cut && !here) return;
    to->k = 0;
    for (int i = 0; i < module_cols[module]; i++) {
        bool stay = stays(k, module, false, i);
        if (!cut || stay) w[to->k++] = here && stay ? row[i] : 0;
    }
    to->n++;
}

static void add_module(struct checkpoint *c, const struct source *s, const struct kept *k, int layer, int module, bool cut)
{
    const struct spot at = {.at = (enum place)(AT_Q + module), .layer = layer};
    struct err e = {0};
    struct located where;
    struct source_matrix from;
    char name[TENSOR_NAME_MAX + 8];
    float row[MLP];
    struct cut_matrix m = {.n = 0};
    or_fail(source_matrix(s, &at, module_rows[module], module_cols[module], &from, &e), &e);
    for (int o = 0; o < module_rows[module]; o++) {
        or_fail(from.src.read(&from.src, o, &(struct weight_row){.f = row}, &e), &e);
        add_row(&m, k, module, o, row, cut);
    }
    source_matrix_close(&from);
    assert_true(names_locate(s, &at, &where));
    snprintf(name, sizeof name, "%s.weight", where.stem);
    if (m.n && m.k) or_fail(checkpoint_add(c, name, "F32", (int64_t[]){m.n, m.k}, 2, m.w, (size_t)(m.n * m.k) * sizeof *m.w, &e), &e);
}

static void set_config(struct checkpoint *c, const struct source *s, const char *patch)
{
    struct err e = {0};
    json_error_t why;
    json_t *config = json_deep_copy(source_config(s)), *change = json_loads(patch, 0, &why);
    if (!change) fail_msg("%s: %s", patch, why.text);
    json_object_update(config, change);
    char *text = json_dumps(config, 0);
    or_fail(checkpoint_text(c, "config.json", text, strlen(text), &e), &e);
    free(text);
    json_decref(config);
    json_decref(change);
}

static bool is_norm_of_nothing(const struct kept *k, const char *name, bool cut)
{
    for (int l = 0; l < LAYERS && cut; l++) {
        char attn[80], mlp[80];
        snprintf(attn, sizeof attn, "model.layers.%d.input_layernorm.weight", l);
        snprintf(mlp, sizeof mlp, "model.layers.%d.post_attention_layernorm.weight", l);
        if ((!k[l].kv && !strcmp(name, attn)) || (!k[l].mlp && !strcmp(name, mlp))) return true;
    }
    return false;
}

/* The base in a directory of that name: cut down to what stays, or of its full widths with zeros. */
static void make_base(const char *name, const struct kept k[LAYERS], bool cut, const char *patch)
{
    struct err e = {0};
    struct source *s;
    struct checkpoint *c;
    char dir[256];
    at_room(name, dir);
    or_fail(source_open(&s, BASE, &e), &e);
    or_fail(checkpoint_new(&c, dir, 64, &e), &e);
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < LORA_MODULES; i++) add_module(c, s, &k[l], l, i, cut);
    for (int i = 0; i < s->ntensors; i++) {
        const struct tensor *t = &s->tensor[i];
        if (strstr(t->name, "_proj.") || is_norm_of_nothing(k, t->name, cut)) continue;
        or_fail(checkpoint_add(c, t->name, dtype_name[t->dtype], t->dim, t->ndim, t->data, t->bytes, &e), &e);
    }
    for (int i = 0; i < TEXT_FILES; i++) {
        const char *text;
        size_t len;
        if (source_file(s, source_text_files[i], &text, &len))
            or_fail(checkpoint_text(c, source_text_files[i], text, len, &e), &e);
    }
    set_config(c, s, patch);
    or_fail(checkpoint_finish(c, &e), &e);
    checkpoint_free(c);
    source_close(s);
}

#define LISTS "{\"intermediate_size\": [64, 32], \"num_attention_heads\": [2, 4], \"num_key_value_heads\": [1, 2]}"
#define BLOCKS                                                                                                         \
    "{\"model_type\": \"nemotron-nas\", \"architectures\": [\"DeciLMForCausalLM\"], \"intermediate_size\": null, "        \
    "\"num_key_value_heads\": null, \"block_configs\": ["                                                               \
    "{\"attention\": {\"no_op\": true, \"n_heads_in_group\": null}, \"ffn\": {\"no_op\": false, \"intermediate_size\": 96}}, "  \
    "{\"attention\": {\"no_op\": false, \"n_heads_in_group\": 2, \"replace_with_linear\": false}, "                     \
    "\"ffn\": {\"no_op\": true, \"ffn_mult\": null}}]}"

static double largest_difference(const float *a, const float *b, int vocab)
{
    double most = 0;
    for (int i = 0; i < (TOKENS - 1) * vocab; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= most)) most = d; /* NaN counts as worst */
    }
    return most;
}

static void compare_bases(enum precision prec)
{
    struct model *narrow = open_model("narrow", prec), *wide = open_model("wide", prec);
    float *a = logits_of(narrow), *b = logits_of(wide);
    double d = largest_difference(a, b, wide->vocab);
    printf("  %s: narrow and wide differ by %.1e\n", current_table, d);
    assert_true(narrow->uneven && !wide->uneven);
    assert_true(narrow->weight_bytes < wide->weight_bytes);
    if (!(d <= 1e-5)) fail_msg("logits differ by %g", d);
    free(a);
    free(b);
    model_free(narrow);
    model_free(wide);
}

static void compare_kept(const struct kept k[LAYERS], const char *patch)
{
    make_base("narrow", k, true, patch);
    make_base("wide", k, false, "{}");
    assert_true(for_each_table(PREC_EXACT, compare_bases) > 0);
    assert_true(for_each_table(PREC_FAST, compare_bases) > 0);
    drop_dir("narrow");
    drop_dir("wide");
}

static void test_layers_of_their_own_widths_equal_full_layers_with_zeros(void **state)
{
    (void)state;
    compare_kept(own, LISTS);
}

static void test_blocks_without_attention_or_mlp_equal_full_layers_with_zeros(void **state)
{
    (void)state;
    compare_kept(no_attention, BLOCKS);
}

/* --- keys and values, adapters, devices --- */

static void test_pages_hold_what_each_layer_has(void **state)
{
    (void)state;
    make_base("narrow", own, true, LISTS);
    struct model *m = open_model("narrow", PREC_EXACT);
    size_t one = kv_page_bytes(KV_F32, 1, DIM), two = kv_page_bytes(KV_F32, 2, DIM);
    struct kv_pool p;
    struct err e = {0};
    assert_int_equal(kv_bytes_of(m, KV_F32), one + two);
    or_fail(kv_pool_init_as(&p, m, KV_F32, (int64_t)(one + two) * 5, 1, &e), &e);
    assert_int_equal(p.cache.pages, 5);
    assert_ptr_equal(p.cache.own[1].base, p.cache.base + 5 * one);
    kv_pool_close(&p);
    model_free(m);
    drop_dir("narrow");
}

static void test_a_description_of_uneven_layers_travels_as_json(void **state)
{
    (void)state;
    struct err e = {0};
    struct base_desc back;
    make_base("narrow", own, true, LISTS);
    struct model *m = open_model("narrow", PREC_FAST);
    json_t *j = base_desc_to_json(&m->desc);
    or_fail(base_desc_from_json(&back, j, &e), &e);
    assert_int_equal(base_desc_check(&back, &e), 0);
    assert_int_equal(base_desc_out(&back, 0, LM_Q), 32);
    assert_int_equal(base_desc_in(&back, 0, LM_O), 32);
    assert_int_equal(base_desc_out(&back, 1, LM_K), 32);
    assert_int_equal(base_desc_in(&back, 1, LM_DOWN), 32);
    json_array_clear(json_array_get(json_object_get(j, "widths"), 0));
    assert_int_equal(base_desc_from_json(&back, j, &e), -1);
    assert_string_equal(e.param, "widths");
    json_decref(j);
    model_free(m);
    drop_dir("narrow");
}

/* An adapter of layer 1's up_proj with `rows` rows of B. */
static void make_adapter(int rows)
{
    struct err e = {0};
    struct checkpoint *c;
    char dir[256];
    static float value[MLP * 4];
    static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"target_modules\": [\"up_proj\"], "
                                 "\"layers_to_transform\": [1]}";
    for (int i = 0; i < MLP * 4; i++) value[i] = (float)(i % 7) / 16;
    at_room("adapter", dir);
    or_fail(checkpoint_new(&c, dir, 2, &e), &e);
    or_fail(checkpoint_text(c, "adapter_config.json", config, sizeof config - 1, &e), &e);
    or_fail(checkpoint_add(c, "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight", "F32", (int64_t[]){4, HIDDEN}, 2,
                           value, sizeof(float) * 4 * HIDDEN, &e), &e);
    or_fail(checkpoint_add(c, "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight", "F32", (int64_t[]){rows, 4}, 2,
                           value, sizeof(float) * 4 * (size_t)rows, &e), &e);
    or_fail(checkpoint_finish(c, &e), &e);
    checkpoint_free(c);
    char from[400], to[400];
    snprintf(from, sizeof from, "%s/model.safetensors", dir);
    snprintf(to, sizeof to, "%s/adapter_model.safetensors", dir);
    assert_int_equal(rename(from, to), 0);
}

static void test_adapters_are_held_to_the_layers_own_shape(void **state)
{
    (void)state;
    char dir[256], digest[SHA256_HEX];
    make_base("narrow", own, true, LISTS);
    struct model *m = open_model("narrow", PREC_FAST);
    struct lora_set *set;
    struct lora_options o = {.max_slots = 2, .max_known = 2, .wait_ms = 1000, .max_rank = 16};
    struct err e = {0};
    or_fail(lora_set_new(&set, m, &o, &e), &e);
    at_room("adapter", dir);
    for (int rows = 32; rows <= 64; rows += 32) { /* 32 is layer 1's own; 64 is the largest of all, which must not do for it */
        struct lora_slot *slot = NULL;
        e = (struct err){0};
        make_adapter(rows);
        int rc = pin_folder(set, &m->desc, dir, digest, &slot, &e);
        assert_int_equal(rc == 0, rows == 32);
        if (slot) lora_unpin(set, slot);
        if (rc) assert_non_null(strstr(e.msg, "64 rows"));
        drop_dir("adapter");
    }
    lora_set_free(set);
    model_free(m);
    drop_dir("narrow");
}

static void test_a_device_refuses_layers_of_their_own(void **state)
{
    (void)state;
    struct err e = {0};
    struct device_plan plan;
    make_base("narrow", own, true, LISTS);
    struct model *m = open_model("narrow", PREC_FAST);
    assert_int_equal(model_to_device(m, NULL, &(struct model_device_options){0}, &plan, &e), -1);
    assert_non_null(strstr(e.msg, "--device cpu"));
    model_free(m);
    drop_dir("narrow");
}

/* --- what is refused --- */

static void test_lists_that_say_something_else_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *patch, *why;
    } row[] = {
        {"{\"intermediate_size\": [64]}", "intermediate_size names 1 layers of 2"},
        {"{\"intermediate_size\": [64, 33]}", "intermediate_size: layer 1"},
        {"{\"intermediate_size\": [64, -32]}", "intermediate_size: layer 1"},
        {"{\"intermediate_size\": [0, 0]}", "no layer has an MLP"},
        {"{\"num_key_value_heads\": [0, 2]}", "layer 0 has 4 heads and 0 key-value heads"},
        {"{\"num_attention_heads\": [3, 4], \"num_key_value_heads\": [2, 2]}", "3 heads cannot share 2"},
        {"{\"num_attention_heads\": [2, 4], \"head_dim\": null}", "head_dim is missing"},
        {"{\"block_configs\": []}", "block_configs does not name 2 layers"},
        {"{\"block_configs\": [{\"attention\": {\"replace_with_linear\": true}, \"ffn\": {}}, {}]}",
         "block_configs[0].attention.replace_with_linear"},
        {"{\"block_configs\": [{\"attention\": {\"n_heads_in_group\": 3}, \"ffn\": {}}, {}]}",
         "block_configs[0].attention.n_heads_in_group"},
        {"{\"block_configs\": [{\"attention\": {\"no_op\": true}, \"ffn\": {\"ffn_mult\": 1e30}}, {}]}",
         "block_configs[0].ffn.ffn_mult"},
        {"{\"block_configs\": [{\"attention\": {\"no_op\": true}, \"ffn\": {\"moe\": {\"n\": 4}}}, {}]}",
         "block_configs[0].ffn.moe"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct model *m = NULL;
        struct err e = {0};
        char path[256];
        make_base("odd", own, true, row[i].patch);
        at_room("odd", path);
        assert_int_equal(model_load(&m, path, NULL, PREC_FAST, 0, &e), -1);
        if (!strstr(e.msg, row[i].why)) fail_msg("%s: %s", row[i].patch, e.msg);
        drop_dir("odd");
    }
}

/* --- arrays of a GGUF --- */

#define GGUF_UINT32 4
#define GGUF_ARRAY 9

struct bytes {
    uint8_t at[1024] __attribute__((aligned(8)));
    size_t n;
};

static void put(struct bytes *b, const void *p, size_t n)
{
    memcpy(b->at + b->n, p, n);
    b->n += n;
}

static void put_number(struct bytes *b, uint64_t v, size_t bytes)
{
    put(b, &v, bytes);
}

static void put_array(struct bytes *b, const char *key, const uint32_t *v, size_t n)
{
    put_number(b, strlen(key), 8);
    put(b, key, strlen(key));
    put_number(b, GGUF_ARRAY, 4);
    put_number(b, GGUF_UINT32, 4);
    put_number(b, n, 8);
    put(b, v, n * sizeof *v);
}

static int widths_of_gguf(const uint32_t heads[3], const uint32_t kv[3], size_t n, struct model *m, struct model_plan *p, struct err *e)
{
    struct bytes b = {.n = 0};
    struct meta c = {.arch = "deci"};
    struct gguf *g;
    put(&b, "GGUF", 4);
    put_number(&b, 3, 4), put_number(&b, 0, 8), put_number(&b, 3, 8);
    put_array(&b, "deci.feed_forward_length", (const uint32_t[]){64, 0, 96}, 3);
    put_array(&b, "deci.attention.head_count", heads, n);
    put_array(&b, "deci.attention.head_count_kv", kv, n);
    while (b.n % 32) put_number(&b, 0, 1);
    *m = (struct model){.layers = 3, .hidden = 64};
    or_fail(gguf_open_memory(&g, b.at, b.n, e), e);
    c.g = g;
    int rc = family_widths(&c, m, p, e);
    gguf_close(g);
    return rc;
}

static void test_arrays_of_a_gguf_say_what_each_layer_has(void **state)
{
    (void)state;
    struct model m;
    struct model_plan p = {0};
    struct err e = {0};
    or_fail(widths_of_gguf((const uint32_t[]){4, 2, 0}, (const uint32_t[]){2, 1, 0}, 3, &m, &p, &e), &e);
    assert_true(m.uneven);
    assert_int_equal(m.heads, 4);
    assert_int_equal(m.kv_heads, 2);
    assert_int_equal(m.mlp, 96);
    assert_int_equal(p.layer[1].heads, 2);
    assert_int_equal(p.layer[1].kv_heads, 1);
    assert_int_equal(p.layer[1].mlp, 0);
    assert_int_equal(p.layer[2].heads, 0);
    model_plan_close(&p);
    assert_int_equal(widths_of_gguf((const uint32_t[]){4, 2, 4}, (const uint32_t[]){2, 1, 0}, 3, &m, &p, &e), -1);
    assert_non_null(strstr(e.msg, "layer 2 has 4 heads and 0 key-value heads"));
    model_plan_close(&p);
    e = (struct err){0};
    assert_int_equal(widths_of_gguf((const uint32_t[]){4, 2, 4}, (const uint32_t[]){2, 1, 0}, 2, &m, &p, &e), -1);
    assert_non_null(strstr(e.msg, "deci.attention.head_count names 2 layers of 3"));
    model_plan_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers_of_their_own_widths_equal_full_layers_with_zeros),
        cmocka_unit_test(test_blocks_without_attention_or_mlp_equal_full_layers_with_zeros),
        cmocka_unit_test(test_pages_hold_what_each_layer_has),
        cmocka_unit_test(test_a_description_of_uneven_layers_travels_as_json),
        cmocka_unit_test(test_adapters_are_held_to_the_layers_own_shape),
        cmocka_unit_test(test_a_device_refuses_layers_of_their_own),
        cmocka_unit_test(test_arrays_of_a_gguf_say_what_each_layer_has),
        cmocka_unit_test(test_lists_that_say_something_else_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, make_room, drop_room);
}
