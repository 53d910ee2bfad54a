/* Tests of loading and of the forward pass: a tiny model is written as converters write it, loaded, run, and compared
 * with a plain forward pass in double that is written here, from the weights in Hugging Face's order. What the loader
 * must refuse is a table. */
#include "base/log.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/lora.h"
#include "tests/unit/tiny_gguf.h"

#define ROWS 12
#define Q (4 * 16)
#define KV (2 * 16)

static char folder[64], file[96];

static int make_folder(void **state)
{
    (void)state;
    tiny_folder(folder);
    snprintf(file, sizeof file, "%s/model.gguf", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    tiny_remove(folder);
    return 0;
}

static struct model *load(const struct tiny *t, enum precision prec)
{
    struct err e = {0};
    struct model *m;
    tiny_gguf(file, t);
    if (model_load(&m, file, NULL, prec, 0, &e)) fail_msg("%s", e.msg);
    return m;
}

/* --- the reference --- */

struct plain {
    const struct tiny *t;
    const struct tiny_adapter *a;
    double x[ROWS][64], q[ROWS][Q], k[2][ROWS][KV], v[2][ROWS][KV];
};

static void linear(const struct plain *p, int module, int layer, const double *x, double *y)
{
    int n, k;
    tiny_shape(module, &n, &k);
    for (int o = 0; o < n; o++) {
        y[o] = p->t->arch && module <= LM_V ? (double)tiny_weight(p->t->seed, TINY_BIAS + module, layer, 0, o) : 0;
        for (int i = 0; i < k; i++) y[o] += (double)tiny_weight(p->t->seed, module, layer, o, i) * x[i];
    }
    if (!p->a || !(p->a->modules >> module & 1)) return;
    for (int j = 0; j < p->a->rank; j++) {
        double s = 0;
        for (int i = 0; i < k; i++) s += (double)tiny_a(p->a, module, layer, (int64_t)j * k + i) * x[i];
        for (int o = 0; o < n; o++)
            y[o] += p->a->alpha / p->a->rank * s * (double)tiny_b(p->a, module, layer, (int64_t)o * p->a->rank + j);
    }
}

static void norm(const struct plain *p, int tensor, int layer, const double *x, double *y)
{
    double sum = 0;
    for (int i = 0; i < 64; i++) sum += x[i] * x[i];
    for (int i = 0; i < 64; i++)
        y[i] = x[i] / sqrt(sum / 64 + 1e-5) * (double)tiny_weight(p->t->seed, tensor, layer, 0, i);
}

static void rotate(const struct plain *p, double *head, int pos)
{
    for (int i = 0; i < 8; i++) {
        double f = pow(10000, -2.0 * i / 16) / (p->t->freqs ? 1 + i : 1);
        if (p->t->scaling) f /= p->t->value;
        double c = cos(pos * f), s = sin(pos * f), a = head[i], b = head[i + 8];
        head[i] = a * c - b * s;
        head[i + 8] = b * c + a * s;
    }
}

static void attend(const struct plain *p, int layer, int row, double *out)
{
    for (int h = 0; h < 4; h++) {
        double w[ROWS], sum = 0;
        for (int j = 0; j <= row; j++) {
            w[j] = 0;
            for (int d = 0; d < 16; d++) w[j] += p->q[row][h * 16 + d] * p->k[layer][j][h / 2 * 16 + d];
            sum += w[j] = exp(w[j] / 4);
        }
        for (int d = 0; d < 16; d++) {
            out[h * 16 + d] = 0;
            for (int j = 0; j <= row; j++) out[h * 16 + d] += w[j] / sum * p->v[layer][j][h / 2 * 16 + d];
        }
    }
}

static void plain_row(struct plain *p, int row, int token, double logits[TINY_VOCAB])
{
    double *x = p->x[row], h[64], a[96], g[96], u[96], y[64];
    for (int i = 0; i < 64; i++) x[i] = (double)tiny_weight(p->t->seed, TINY_EMBED, 0, token, i);
    for (int l = 0; l < 2; l++) {
        norm(p, TINY_ATTN_NORM, l, x, h);
        linear(p, LM_Q, l, h, p->q[row]);
        linear(p, LM_K, l, h, p->k[l][row]);
        linear(p, LM_V, l, h, p->v[l][row]);
        for (int i = 0; i < 4; i++) rotate(p, p->q[row] + i * 16, row);
        for (int i = 0; i < 2; i++) rotate(p, p->k[l][row] + i * 16, row);
        attend(p, l, row, a);
        linear(p, LM_O, l, a, y);
        for (int i = 0; i < 64; i++) x[i] += y[i];
        norm(p, TINY_FFN_NORM, l, x, h);
        linear(p, LM_GATE, l, h, g);
        linear(p, LM_UP, l, h, u);
        for (int i = 0; i < 96; i++) a[i] = g[i] / (1 + exp(-g[i])) * u[i];
        linear(p, LM_DOWN, l, a, y);
        for (int i = 0; i < 64; i++) x[i] += y[i];
    }
    norm(p, TINY_OUT_NORM, 0, x, h);
    for (int o = 0; o < TINY_VOCAB; o++) {
        logits[o] = 0;
        for (int i = 0; i < 64; i++)
            logits[o] += (double)tiny_weight(p->t->seed, p->t->untied ? TINY_OUTPUT : TINY_EMBED, 0, o, i) * h[i];
    }
}

static const int32_t tokens[ROWS] = {5, 250, 17, 17, 99, 0, 296, 42, 131, 77, 8, 200};

/* --- the engine's --- */

struct outcome {
    float logits[ROWS][TINY_VOCAB];
};

static void run(const struct model *m, const char *kernels, int threads, const struct lora_mod *mod, int rank,
                struct outcome *out)
{
    struct err e = {0};
    struct pool *pool;
    struct kv_pool kv;
    struct kv_seq seq;
    struct forward *f;
    int all[ROWS];
    const struct kernels *k = kernels_pick(kernels, m->prec);
    assert_int_equal(pool_new(&pool, threads, &e), 0);
    assert_int_equal(kv_pool_init(&kv, m, 0, 1, &e), 0);
    assert_int_equal(kv_seq_init(&seq, ROWS, &e), 0);
    assert_true(kv_seq_reserve(&kv, &seq, ROWS));
    assert_int_equal(forward_new(&f, m, k, pool, &kv.cache, ROWS, ROWS, 64, &e), 0);
    for (int i = 0; i < ROWS; i++) all[i] = i;
    const struct attn_seq at = {.rows = ROWS, .page = seq.page};
    const struct lora_table table = {.mod = mod};
    const struct lora_seg seg = {.rows = ROWS, .nuse = 1, .use = {{&table, 1}}};
    const struct forward_batch b = {.rows = ROWS,
                                    .token = tokens,
                                    .nseq = 1,
                                    .seq = &at,
                                    .nlogits = ROWS,
                                    .logit_row = all,
                                    .max_rank = rank,
                                    .lora = {.nseg = mod != NULL, .seg = &seg, .modules = LORA_MODULES}};
    memcpy(out->logits, forward_run(f, &b), sizeof out->logits);
    forward_free(f);
    kv_seq_release(&kv, &seq);
    kv_seq_close(&seq);
    kv_pool_close(&kv);
    pool_free(pool);
}

/* The largest difference of a logit; *rms gets their root mean square. */
static double compare(const struct plain *start, const struct outcome *got, double *rms)
{
    static struct plain p;
    double worst = 0, sum = 0, want[TINY_VOCAB];
    p = *start;
    for (int row = 0; row < ROWS; row++) {
        plain_row(&p, row, tokens[row], want);
        for (int i = 0; i < TINY_VOCAB; i++) {
            double d = fabs(want[i] - (double)got->logits[row][i]);
            if (!(d <= worst)) worst = d;
            sum += d * d;
        }
    }
    *rms = sqrt(sum / (ROWS * TINY_VOCAB));
    return worst;
}

static void test_exact_logits_equal_a_plain_forward_pass_in_double(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        struct tiny t;
    } row[] = {{"llama, tied", {.seed = 1}},
               {"llama, own head", {.seed = 2, .untied = true}},
               {"llama, rope divisors", {.seed = 3, .freqs = true}},
               {"llama, linear scaling", {.seed = 4, .scaling = "linear", .key = "rope.scaling.factor", .value = 4}},
               {"qwen2 with biases", {.seed = 5, .arch = "qwen2"}}};
    static struct outcome got;
    double rms;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct model *m = load(&row[i].t, PREC_EXACT);
        for (int threads = 1; threads <= 2; threads++) {
            run(m, threads == 1 ? "plain" : NULL, threads, NULL, 0, &got);
            double worst = compare(&(struct plain){.t = &row[i].t}, &got, &rms);
            if (!(worst < 1e-4)) fail_msg("%s, %d threads: logits differ by %g", row[i].what, threads, worst);
        }
        model_free(m);
    }
}

static void test_fast_logits_are_near_those_of_a_plain_pass(void **state)
{
    (void)state;
    static struct outcome got;
    const struct tiny t = {.seed = 6};
    struct model *m = load(&t, PREC_FAST);
    run(m, NULL, 2, NULL, 0, &got);
    double rms, worst = compare(&(struct plain){.t = &t}, &got, &rms);
    if (!(rms < 0.2 && worst < 2)) fail_msg("logits of about 5 differ by %g, at most %g", rms, worst);
    model_free(m);
}

static void test_an_adapter_in_peft_order_fits_the_unshuffled_q_and_k(void **state)
{
    (void)state;
    static struct outcome got;
    static struct lora_mod mod[2][LORA_MODULES];
    const struct tiny t = {.seed = 7};
    const struct tiny_adapter a = {.seed = 70, .rank = 5, .alpha = 10, .modules = 0x7F};
    struct model *m = load(&t, PREC_EXACT);
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < LORA_MODULES; i++) {
            int n, k;
            static float fa[5 * 96], fb[96 * 5];
            tiny_shape(i, &n, &k);
            for (int j = 0; j < 5 * k; j++) fa[j] = tiny_a(&a, i, l, j);
            for (int j = 0; j < 5 * n; j++) fb[j] = tiny_b(&a, i, l, j);
            void *at = big_alloc(lora_mod_bytes(LORA_F32, 5, n, k));
            lora_mod_pack(&mod[l][i], LORA_F32, at, 5, n, k, 2, T_F32, fa, fb, NULL);
        }
    run(m, NULL, 2, mod[0], 5, &got);
    double rms, worst = compare(&(struct plain){.t = &t, .a = &a}, &got, &rms);
    if (!(worst < 1e-4)) fail_msg("logits differ by %g", worst);
    for (int l = 0; l < 2; l++)
        for (int i = 0; i < LORA_MODULES; i++) {
            int n, k;
            tiny_shape(i, &n, &k);
            big_free((void *)mod[l][i].a, lora_mod_bytes(LORA_F32, 5, n, k));
        }
    model_free(m);
}

static void test_quantized_files_load_in_their_own_layout(void **state)
{
    (void)state;
    const struct {
        enum tiny_type type;
        enum layout layout;
        double within;
    } row[] = {{TINY_F32, LAYOUT_BF16, 0.01}, {TINY_Q8_0, LAYOUT_Q8, 0.01}, {TINY_Q4_1, LAYOUT_Q4, 0.08}};
    for (size_t i = 0; i < 3; i++) {
        struct model *m = load(&(struct tiny){.seed = 8, .type = row[i].type}, PREC_FAST);
        float w[64];
        assert_int_equal(m->layer[1].module[LM_Q].layout, row[i].layout);
        for (int r = 0; r < Q; r++) {
            weight_row(&m->layer[1].module[LM_Q], r, w);
            for (int c = 0; c < 64; c++)
                assert_true(fabs((double)w[c] - (double)tiny_weight(8, LM_Q, 1, r, c)) < row[i].within);
        }
        model_free(m);
    }
}

static void test_a_model_is_described_by_its_file(void **state)
{
    (void)state;
    struct err e = {0};
    struct model *m = load(&(struct tiny){.seed = 9}, PREC_EXACT), *n;
    assert_string_equal(m->name, "model");
    assert_string_equal(m->desc.also[0], "Tiny Test");
    assert_true(sha256_is_hex(m->desc.digest));
    assert_int_equal(m->max_context, 256);
    assert_int_equal(m->desc.in[LM_DOWN], 96);
    assert_int_equal(m->desc.out[LM_K], KV);
    assert_int_equal(model_load(&n, file, "given", PREC_EXACT, 100, &e), 0);
    assert_string_equal(n->desc.name, "given");
    assert_int_equal(n->max_context, 100);
    model_free(n);
    model_free(m);
}

static void test_names_come_from_the_file_without_its_type(void **state)
{
    (void)state;
    static const struct {
        const char *file, *name;
    } row[] = {{"SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"},
               {"Llama-3.2-1B-f16.gguf", "llama-3.2-1b"},
               {"mistral-7b-v0.3.gguf", "mistral-7b-v0.3"},
               {"A.gguf", "a"},
               {"x-IQ4_NL.gguf", "x"},
               {"plain", "plain"}};
    tiny_gguf(file, &(struct tiny){.seed = 9});
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char path[160];
        struct err e = {0};
        struct model *m;
        snprintf(path, sizeof path, "%s/%s", folder, row[i].file);
        assert_int_equal(rename(file, path), 0);
        if (model_load(&m, path, NULL, PREC_FAST, 0, &e)) fail_msg("%s", e.msg);
        assert_string_equal(m->name, row[i].name);
        model_free(m);
        assert_int_equal(rename(path, file), 0);
    }
}

static void test_what_is_not_served_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        struct tiny t;
        const char *says;
    } row[] = {
        {{.arch = "gpt2"}, "general.architecture: the architecture \"gpt2\" is not served; a model of one of these"},
        {{.arch = "gemma3"}, "post_attention_norm"},
        {{.drop = "blk.1.ffn_up.weight"}, "blk.1.ffn_up.weight is missing; convert the model again"},
        {{.drop = "blk.0.attn_norm.weight"}, "blk.0.attn_norm.weight"},
        {{.drop = "output_norm.weight"}, "output_norm.weight"},
        {{.drop = "token_embd.weight"}, "token_embd.weight"},
        {{.arch = "qwen2", .drop = "blk.0.attn_k.bias"}, "blk.0.attn_k.bias"},
        {{.bad_shape = "blk.1.attn_q.weight"}, "blk.1.attn_q.weight"},
        {{.bad_shape = "blk.0.ffn_norm.weight"}, "blk.0.ffn_norm.weight"},
        {{.bad_shape = "token_embd.weight"}, "tokens"},
        {{.extra = "blk.0.attn_q_norm.weight"}, "attn_q_norm"},
        {{.extra = "blk.0.attn_q.bias"}, "attn_q.bias"},
        {{.extra = "blk.2.attn_norm.weight"},
         "blk.2.attn_norm.weight has no place in this model: it would be passed over; take"},
        {{.key = "block_count", .value = 3}, "blk.2."},
        {{.key = "block_count", .value = 0}, "block_count"},
        {{.key = "embedding_length", .value = 65}, "multiple of 32"},
        {{.key = "attention.head_count", .value = 5}, "5"},
        {{.key = "attention.head_count_kv", .value = 3},
         "llama.attention.head_count_kv 3: 4 heads cannot share 3 key-value"},
        {{.key = "attention.value_length", .value = 32}, "values of 32"},
        {{.key = "rope.dimension_count", .value = 8}, "llama.rope.dimension_count: rope over 8 of 16"},
        {{.key = "context_length", .value = 3e9}, "context_length"},
        {{.key = "attention.layer_norm_rms_epsilon", .value = 0}, "epsilon"},
        {{.key = "rope.freq_base", .value = 0}, "freq_base"},
        {{.key = "expert_count", .value = 8}, "expert_used_count"},
        {{.arch = "qwen2", .key = "expert_count", .value = 8}, "experts"},
        {{.arch = "qwen2", .key = "attention.sliding_window", .value = 64}, "sliding_window_pattern"},
        {{.key = "attention.max_alibi_bias", .value = 8},
         "max_alibi_bias is 8: it changes the answers and is not served; 0, or none, is"},
        {{.key = "final_logit_softcapping", .value = 30}, "softcapping"},
        {{.key = "vocab_size", .value = 7}, "vocab_size"},
        {{.scaling = "ntk"}, "llama.rope.scaling.type: the rope scaling \"ntk\""},
        {{.scaling = "longrope"}, "rope_factors_short"},
        {{.scaling = "yarn", .key = "rope.scaling.yarn_ext_factor", .value = 2}, "yarn_ext_factor"},
        {{.scaling = "linear", .key = "rope.scaling.factor", .value = 0}, "factor"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct err e = {0};
        struct model *m = NULL;
        tiny_gguf(file, &row[i].t);
        if (model_load(&m, file, NULL, PREC_FAST, 0, &e) == 0) fail_msg("row %zu was loaded", i);
        assert_int_equal(e.code, ERR_MODEL);
        if (!strstr(e.msg, row[i].says)) fail_msg("row %zu: \"%s\" does not say \"%s\"", i, e.msg, row[i].says);
        assert_null(m);
    }
}

static void test_a_context_beyond_the_models_is_refused_and_a_window_is_kept(void **state)
{
    (void)state;
    struct err e = {0};
    struct model *m;
    tiny_gguf(file, &(struct tiny){.seed = 1, .key = "attention.sliding_window", .value = 64});
    assert_int_equal(model_load(&m, file, NULL, PREC_FAST, 257, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    err_clear(&e);
    assert_int_equal(model_load(&m, file, NULL, PREC_FAST, 0, &e), 0);
    assert_int_equal(m->max_context, 256);
    assert_int_equal(m->layer[1].window, 64);
    model_free(m);
    assert_int_equal(model_load(&m, file, NULL, PREC_FAST, 60, &e), 0);
    assert_int_equal(m->layer[1].window, 0); /* one that sees the whole context is none */
    model_free(m);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact_logits_equal_a_plain_forward_pass_in_double),
        cmocka_unit_test(test_fast_logits_are_near_those_of_a_plain_pass),
        cmocka_unit_test(test_an_adapter_in_peft_order_fits_the_unshuffled_q_and_k),
        cmocka_unit_test(test_quantized_files_load_in_their_own_layout),
        cmocka_unit_test(test_a_model_is_described_by_its_file),
        cmocka_unit_test(test_names_come_from_the_file_without_its_type),
        cmocka_unit_test(test_what_is_not_served_is_refused_by_name),
        cmocka_unit_test(test_a_context_beyond_the_models_is_refused_and_a_window_is_kept),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
