/* Tests of `weft-engine prune` and of sparse-24-bitmask, on the tiny llama3 of tests/golden/families: rows against what was counted by hand,
 * norms against what a norm must be, files against each other. */
#include "engine/model_device.h"
#include "engine/prune.h"
#include "engine/source_impl.h"
#include "tests/unit/pruned_room.h"
#include <math.h>

/* --- rows --- */

static void test_of_each_four_the_two_larger_stay(void **state)
{
    (void)state;
    float w[8] = {1, -4, 3, 2, 5, 5, 5, 5}, norm[8] = {9, 1, 1, 1, 1, 1, 1, 2}, v[8];
    memcpy(v, w, sizeof v);
    prune_row(v, NULL, 8, PRUNE_24, 0, NULL);
    assert_memory_equal(v, ((float[]){0, -4, 3, 0, 5, 5, 0, 0}), sizeof v);
    memcpy(v, w, sizeof v);
    prune_row(v, norm, 8, PRUNE_24, 0, NULL);
    assert_memory_equal(v, ((float[]){1, -4, 0, 0, 5, 0, 0, 5}), sizeof v);
}

static void test_of_a_row_the_least_become_zeros(void **state)
{
    (void)state;
    float w[5] = {1, -4, 3, 2, 3}, norm[5] = {9, 1, 1, 1, 1};
    struct prune_scored scratch[5];
    prune_row(w, norm, 5, PRUNE_LOOSE, 0.4, scratch);
    assert_memory_equal(w, ((float[]){1, -4, 3, 0, 0}), sizeof w);
}

/* --- whole --- */

static struct prune_options options_to(const char *name, char path[256])
{
    at_room(name, path);
    return (struct prune_options){.in = BASE, .out = path, .pattern = PRUNE_24, .ratio = 0.5, .width = 1, .heads = 1,
                                  .calibration = "tests/README.md", .tokens = 64, .context = 32, .kernels = "auto"};
}

static void same_matrices(const struct model *a, const struct model *b)
{
    float x[MLP], y[MLP];
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < LORA_MODULES; i++) {
            const struct weight *w = &a->layer[l].module[i];
            for (int o = 0; o < w->n; o++) {
                weight_row(w, o, x);
                weight_row(&b->layer[l].module[i], o, y);
                assert_memory_equal(x, y, (size_t)w->k * sizeof *x);
                for (int k = 0; k < w->k; k += 4) assert_true((x[k] != 0) + (x[k + 1] != 0) + (x[k + 2] != 0) + (x[k + 3] != 0) <= 2);
            }
        }
}

static void test_a_bitmask_says_the_same_as_zeros(void **state)
{
    (void)state;
    char path[256];
    struct err e = {0};
    struct prune_options o = options_to("mask", path);
    or_fail(prune(&o, &e), &e);
    o = options_to("zeros", path);
    o.zeros = true;
    or_fail(prune(&o, &e), &e);
    struct model *a = open_model("mask", PREC_EXACT), *b = open_model("zeros", PREC_EXACT);
    same_matrices(a, b);
    model_free(a);
    model_free(b);
    drop_dir("mask");
    drop_dir("zeros");
}

static void test_a_damaged_bitmask_is_refused_by_name(void **state)
{
    (void)state;
    char path[256], file[300];
    struct err e = {0};
    struct model *m = NULL;
    struct prune_options o = options_to("mask", path);
    or_fail(prune(&o, &e), &e);
    struct source *s;
    or_fail(source_open(&s, path, &e), &e);
    const struct tensor *t = hf_find(s, "model.layers.1.mlp.up_proj.bitmask");
    long at = t->data - s->shard[t->shard].p;
    source_close(s);
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    FILE *f = fopen(file, "r+b");
    fseek(f, at, SEEK_SET);
    fputc(0x37, f);
    fclose(f);
    assert_int_equal(model_load(&m, path, NULL, PREC_FAST, 0, &e), -1);
    assert_non_null(strstr(e.msg, "up_proj.bitmask"));
    assert_non_null(strstr(e.msg, "inputs 0 to 3"));
    drop_dir("mask");
}

/* Wanda's norms, against a sum over the pass's own inputs made another way: that of q is the norm of what its matrix is given. */
static void test_norms_weigh_what_the_text_brings(void **state)
{
    (void)state;
    char path[256];
    struct err e = {0};
    struct prune_options o = options_to("unused", path);
    struct prune_norms n[2];
    struct model *m = NULL;
    or_fail(model_load(&m, BASE, NULL, PREC_EXACT, 0, &e), &e);
    for (int i = 0; i < 2; i++) {
        o.threads = 1 + i;
        or_fail(prune_calibrate(&o, m, &n[i], &e), &e);
    }
    for (int i = 0; i < PRUNE_INPUTS; i++)
        assert_memory_equal(n[0].norm[i], n[1].norm[i], (size_t)LAYERS * (size_t)n[0].k[i] * sizeof(float));
    /* A normed row has the length sqrt(k) before it is weighted: over all rows the weighted sum of squares is rows k. */
    double sum = 0;
    for (int i = 0; i < HIDDEN; i++) {
        double x = (double)n[0].norm[INPUT_Q][i] / (double)m->layer[0].attn_norm[i];
        sum += x * x;
    }
    double rows = sum / HIDDEN;
    assert_true(rows > 61.9 && rows < 62.01); /* two windows of 32, less the last token of each */
    for (int i = 0; i < 2; i++) prune_norms_close(&n[i]);
    model_free(m);
}

static void prune_and_score(const char *name, bool wanda, double width, double heads, struct prune_options o, int *mlp)
{
    char path[256];
    struct err e = {0};
    at_room(name, path);
    o.out = path;
    o.wanda = wanda;
    o.width = width;
    o.heads = heads;
    o.pattern = PRUNE_NONE;
    or_fail(prune(&o, &e), &e);
    struct model *m = open_model(name, PREC_EXACT);
    *mlp = 0;
    for (int l = 0; l < LAYERS; l++) {
        *mlp += model_mlp(m, l);
        assert_int_equal(model_mlp(m, l) % 32, 0);
        assert_true(model_kv_heads(m, l) >= 1 && model_heads(m, l) == 2 * model_kv_heads(m, l));
    }
    float *logits = logits_of(m);
    for (int i = 0; i < (TOKENS - 1) * m->vocab; i++) assert_true(isfinite(logits[i]));
    free(logits);
    model_free(m);
    drop_dir(name);
}

static void test_a_narrower_base_is_written_and_loads(void **state)
{
    (void)state;
    char path[256];
    int all, half;
    current_table = "auto";
    prune_and_score("narrow", false, 1, 0.5, options_to("narrow", path), &all);
    assert_int_equal(all, LAYERS * MLP);
    prune_and_score("narrow", true, 0.5, 1, options_to("narrow", path), &half);
    assert_true(half < all && half >= 2 * 32);
}

static void test_what_is_there_already_is_not_overwritten(void **state)
{
    (void)state;
    char path[256];
    struct err e = {0};
    struct prune_options o = options_to("mask", path);
    or_fail(prune(&o, &e), &e);
    assert_int_equal(prune(&o, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    drop_dir("mask"); /* and is whole still */
}

static void test_a_quantized_base_is_refused(void **state)
{
    (void)state;
    char path[256];
    struct err e = {0};
    struct prune_options o = options_to("mask", path);
    or_fail(prune(&o, &e), &e);
    struct prune_options again = options_to("twice", path);
    char first[256];
    at_room("mask", first);
    again.in = first;
    assert_int_equal(prune(&again, &e), -1);
    assert_non_null(strstr(e.msg, "is quantized"));
    drop_dir("mask");
}

static float *logits_in(const char *name, enum precision prec, int *vocab, enum layout *up)
{
    struct model *m = open_model(name, prec);
    float *logits = logits_of(m);
    *vocab = m->vocab;
    *up = m->layer[0].module[LM_UP].layout;
    model_free(m);
    return logits;
}

/* In EXACT both are the same float32 matrices, in FAST the sums have another order. */
static void test_a_sparse_file_answers_as_one_with_zeros(void **state)
{
    (void)state;
    static const char *const names[] = {"zeros", "sparse"};
    char path[256];
    struct err e = {0};
    current_table = "auto";
    for (int i = 0; i < 2; i++) {
        struct prune_options o = options_to(names[i], path);
        o.in = "tests/golden/families/llama3-gguf-f16/llama3.gguf";
        o.sparse = i;
        or_fail(prune(&o, &e), &e);
    }
    for (int prec = PREC_FAST; prec <= PREC_EXACT; prec++) {
        enum layout up[2];
        int vocab;
        double most = 0;
        float *a = logits_in("zeros", (enum precision)prec, &vocab, &up[0]), *b = logits_in("sparse", (enum precision)prec, &vocab, &up[1]);
        assert_true(up[0] == LAYOUT_BF16 && up[1] == LAYOUT_S24);
        for (int i = 0; i < (TOKENS - 1) * vocab; i++) {
            assert_true(isfinite(a[i]) && isfinite(b[i]));
            most = fmax(most, fabs((double)a[i] - (double)b[i]));
        }
        printf("  %s: %.1e of %g\n", prec == PREC_EXACT ? "exact" : "fast", most, (double)a[0]);
        assert_true(most <= (prec == PREC_EXACT ? 0 : 0.05));
        free(a);
        free(b);
    }
    struct model *m = open_model("sparse", PREC_FAST);
    struct device_plan plan;
    assert_int_equal(model_to_device(m, NULL, &(struct model_device_options){0}, &plan, &e), -1);
    assert_non_null(strstr(e.msg, "--device cpu"));
    model_free(m);
    for (int i = 0; i < 2; i++) {
        at_room(names[i], path);
        unlink(path);
    }
}

static void test_a_base_is_not_written_over_itself(void **state)
{
    (void)state;
    char path[256], link_to[256];
    struct err e = {0};
    struct prune_options o = options_to("base.gguf", path);
    FILE *from = fopen("tests/golden/families/llama3-gguf-f16/llama3.gguf", "rb"), *to = fopen(path, "wb");
    for (int c; (c = fgetc(from)) != EOF;) fputc(c, to);
    fclose(from);
    fclose(to);
    at_room("link.gguf", link_to);
    assert_int_equal(symlink(path, link_to), 0);
    o.in = link_to;
    int rc = prune(&o, &e);
    unlink(link_to);
    unlink(path);
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, ERR_USAGE);
    assert_non_null(strstr(e.msg, "over itself"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_each_four_the_two_larger_stay),
        cmocka_unit_test(test_of_a_row_the_least_become_zeros),
        cmocka_unit_test(test_a_bitmask_says_the_same_as_zeros),
        cmocka_unit_test(test_a_sparse_file_answers_as_one_with_zeros),
        cmocka_unit_test(test_a_damaged_bitmask_is_refused_by_name),
        cmocka_unit_test(test_norms_weigh_what_the_text_brings),
        cmocka_unit_test(test_a_narrower_base_is_written_and_loads),
        cmocka_unit_test(test_what_is_there_already_is_not_overwritten),
        cmocka_unit_test(test_a_quantized_base_is_refused),
        cmocka_unit_test(test_a_base_is_not_written_over_itself),
    };
    return cmocka_run_group_tests(tests, make_room, drop_room);
}
