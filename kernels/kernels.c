/* The tables of kernels and which one this processor gets: the first in `ways` that it can run.
 *
 *   avx512    F, BW, VL, DQ, VNNI and BF16: Zen 4, Sapphire Rapids and later
 *   avxvnni   avx2 with the integer products on AVX-VNNI: Alder Lake and later without AVX-512
 *   avx2      AVX2, FMA and F16C: Haswell, Zen and later
 *   plain     everything; what the others are tested against
 *
 * A table is taken whole: it needs every extension that its row asks for, so that there are four tables to test and not
 * thirty-two. */
#include "kernels/act.h"
#include "kernels/avx2.h"
#include "kernels/avx512.h"
#include "kernels/logits.h"
#include "kernels/matmul.h"
#include <string.h>

static const struct mm_ops plain_fast = {
    .panel = {[LAYOUT_F32] = panel_exact,
              [LAYOUT_BF16] = panel_fast_bf16,
              [LAYOUT_Q8] = panel_fast_q8,
              [LAYOUT_Q4] = panel_fast_q4,
              [LAYOUT_Q8F] = panel_fast_q8f,
              [LAYOUT_Q4Z] = panel_fast_q4z,
              [LAYOUT_T4] = panel_fast_t4,
              [LAYOUT_F8] = panel_fast_f8,
              [LAYOUT_Q2] = panel_fast_q2,
              [LAYOUT_S24] = panel_fast_bf16},
    .store = store_plain,
    .gate = gate_plain,
    .shrink = lora_shrink_bf16,
    .expand = lora_expand_bf16,
    .element = 2,
};

static const struct mm_ops plain_exact = {
    .panel = {[0 ... LAYOUTS - 1] = panel_exact},
    .store = store_plain,
    .gate = gate_plain,
    .shrink = lora_shrink_f32,
    .expand = lora_expand_f32,
    .element = 4,
};

static void matmul_plain_fast(struct kthread *t, const struct mm *m)
{
    matmul_run(t, m, 1, &plain_fast);
}
static void list_plain_fast(struct kthread *t, const struct mm *m, int n)
{
    matmul_run(t, m, n, &plain_fast);
}
static void matmul_plain_exact(struct kthread *t, const struct mm *m)
{
    matmul_run(t, m, 1, &plain_exact);
}
static void list_plain_exact(struct kthread *t, const struct mm *m, int n)
{
    matmul_run(t, m, n, &plain_exact);
}

static const struct kernels plain[] = {
    [PREC_FAST] =
        {
            .name = "plain",
            .prec = PREC_FAST,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_plain,
            .rmsnorm_add = rmsnorm_add_plain,
            .matmul = matmul_plain_fast,
            .matmul_list = list_plain_fast,
            .rope_store = rope_store_plain,
            .attention = attention_plain,
            .softcap = softcap_plain,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
    [PREC_EXACT] =
        {
            .name = "plain",
            .prec = PREC_EXACT,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_plain,
            .rmsnorm_add = rmsnorm_add_plain,
            .matmul = matmul_plain_exact,
            .matmul_list = list_plain_exact,
            .rope_store = rope_store_plain,
            .attention = attention_plain,
            .softcap = softcap_plain,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
};

static const struct mm_ops avx512_fast = {
    .panel = {[LAYOUT_F32] = panel_exact_avx512,
              [LAYOUT_BF16] = panel_bf16_avx512,
              [LAYOUT_Q8] = panel_q8_avx512,
              [LAYOUT_Q4] = panel_q4_avx512,
              [LAYOUT_Q8F] = panel_q8f_avx512,
              [LAYOUT_Q4Z] = panel_q4z_avx512,
              [LAYOUT_T4] = panel_t4_avx512,
              [LAYOUT_F8] = panel_f8_avx512,
              [LAYOUT_Q2] = panel_q2_avx512,
              [LAYOUT_S24] = panel_s24_avx512},
    .pair = {[LAYOUT_BF16] = pair_bf16_avx512},
    .store = store_avx512,
    .gate = gate_avx512,
    .shrink = lora_shrink_bf16_avx512,
    .expand = lora_expand_bf16_avx512,
    .element = 2,
};

static const struct mm_ops avx512_exact = {
    .panel = {[0 ... LAYOUTS - 1] = panel_exact_avx512},
    .store = store_avx512,
    .gate = gate_avx512,
    .shrink = lora_shrink_f32_avx512,
    .expand = lora_expand_f32_avx512,
    .element = 4,
};

static void matmul_avx512_fast(struct kthread *t, const struct mm *m)
{
    matmul_run(t, m, 1, &avx512_fast);
}
static void list_avx512_fast(struct kthread *t, const struct mm *m, int n)
{
    matmul_run(t, m, n, &avx512_fast);
}
static void matmul_avx512_exact(struct kthread *t, const struct mm *m)
{
    matmul_run(t, m, 1, &avx512_exact);
}
static void list_avx512_exact(struct kthread *t, const struct mm *m, int n)
{
    matmul_run(t, m, n, &avx512_exact);
}

static const struct kernels avx512[] = {
    [PREC_FAST] =
        {
            .name = "avx512",
            .prec = PREC_FAST,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_avx512,
            .rmsnorm_add = rmsnorm_add_avx512,
            .matmul = matmul_avx512_fast,
            .matmul_list = list_avx512_fast,
            .rope_store = rope_store_avx512,
            .attention = attention_fast_avx512,
            .softcap = softcap_avx512,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
    [PREC_EXACT] =
        {
            .name = "avx512",
            .prec = PREC_EXACT,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_avx512,
            .rmsnorm_add = rmsnorm_add_avx512,
            .matmul = matmul_avx512_exact,
            .matmul_list = list_avx512_exact,
            .rope_store = rope_store_avx512,
            .attention = attention_exact_avx512,
            .softcap = softcap_avx512,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
};

static const struct mm_ops avx2_fast = {
    .panel = {[LAYOUT_F32] = panel_exact_avx2,
              [LAYOUT_BF16] = panel_bf16_avx2,
              [LAYOUT_Q8] = panel_q8_avx2,
              [LAYOUT_Q4] = panel_q4_avx2,
              [LAYOUT_Q8F] = panel_q8f_avx2,
              [LAYOUT_Q4Z] = panel_q4z_avx2,
              [LAYOUT_T4] = panel_t4_avx2,
              [LAYOUT_F8] = panel_f8_avx2,
              [LAYOUT_Q2] = panel_q2_avx2,
              [LAYOUT_S24] = panel_fast_bf16},
    .store = store_plain,
    .gate = gate_avx2,
    .shrink = lora_shrink_bf16_avx2,
    .expand = lora_expand_bf16_avx2,
    .element = 2,
};

static const struct mm_ops avxvnni_fast = {
    .panel = {[LAYOUT_F32] = panel_exact_avx2,
              [LAYOUT_BF16] = panel_bf16_avx2,
              [LAYOUT_Q8] = panel_q8_avxvnni,
              [LAYOUT_Q4] = panel_q4_avxvnni,
              [LAYOUT_Q8F] = panel_q8f_avxvnni,
              [LAYOUT_Q4Z] = panel_q4z_avxvnni,
              [LAYOUT_T4] = panel_t4_avx2,
              [LAYOUT_F8] = panel_f8_avx2,
              [LAYOUT_Q2] = panel_q2_avxvnni,
              [LAYOUT_S24] = panel_fast_bf16},
    .store = store_plain,
    .gate = gate_avx2,
    .shrink = lora_shrink_bf16_avx2,
    .expand = lora_expand_bf16_avx2,
    .element = 2,
};

static const struct mm_ops avx2_exact = {
    .panel = {[0 ... LAYOUTS - 1] = panel_exact_avx2},
    .store = store_plain,
    .gate = gate_avx2,
    .shrink = lora_shrink_f32_avx2,
    .expand = lora_expand_f32_avx2,
    .element = 4,
};

static void matmul_avx2_fast(struct kthread *t, const struct mm *m)
{
    matmul_run(t, m, 1, &avx2_fast);
}
static void list_avx2_fast(struct kthread *t, const struct mm *m, int n)
{
    matmul_run(t, m, n, &avx2_fast);
}
static void matmul_avxvnni_fast(struct kthread *t, const struct mm *m)
{
    matmul_run(t, m, 1, &avxvnni_fast);
}
static void list_avxvnni_fast(struct kthread *t, const struct mm *m, int n)
{
    matmul_run(t, m, n, &avxvnni_fast);
}
static void matmul_avx2_exact(struct kthread *t, const struct mm *m)
{
    matmul_run(t, m, 1, &avx2_exact);
}
static void list_avx2_exact(struct kthread *t, const struct mm *m, int n)
{
    matmul_run(t, m, n, &avx2_exact);
}

static const struct kernels avx2[] = {
    [PREC_FAST] =
        {
            .name = "avx2",
            .prec = PREC_FAST,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_avx2,
            .rmsnorm_add = rmsnorm_add_avx2,
            .matmul = matmul_avx2_fast,
            .matmul_list = list_avx2_fast,
            .rope_store = rope_store_avx2,
            .attention = attention_fast_avx2,
            .softcap = softcap_avx2,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
    [PREC_EXACT] =
        {
            .name = "avx2",
            .prec = PREC_EXACT,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_avx2,
            .rmsnorm_add = rmsnorm_add_avx2,
            .matmul = matmul_avx2_exact,
            .matmul_list = list_avx2_exact,
            .rope_store = rope_store_avx2,
            .attention = attention_exact_avx2,
            .softcap = softcap_avx2,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
};

static const struct kernels avxvnni[] = {
    [PREC_FAST] =
        {
            .name = "avxvnni",
            .prec = PREC_FAST,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_avx2,
            .rmsnorm_add = rmsnorm_add_avx2,
            .matmul = matmul_avxvnni_fast,
            .matmul_list = list_avxvnni_fast,
            .rope_store = rope_store_avx2,
            .attention = attention_fast_avx2,
            .softcap = softcap_avx2,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
    [PREC_EXACT] =
        {
            .name = "avxvnni",
            .prec = PREC_EXACT,
            .embed = embed_plain,
            .rmsnorm = rmsnorm_avx2,
            .rmsnorm_add = rmsnorm_add_avx2,
            .matmul = matmul_avx2_exact,
            .matmul_list = list_avx2_exact,
            .rope_store = rope_store_avx2,
            .attention = attention_exact_avx2,
            .softcap = softcap_avx2,
            .moe_route = moe_route_plain,
            .moe_gather = moe_gather_plain,
            .moe_combine = moe_combine_plain,
        },
};

static bool has_plain(void)
{
    return true;
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static bool has_avxvnni(void)
{
    return has_avx2() && __builtin_cpu_supports("avxvnni");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

/* The fastest first. */
static const struct {
    const struct kernels *table; /* by precision */
    bool (*runs_here)(void);
} ways[] = {{avx512, has_avx512}, {avxvnni, has_avxvnni}, {avx2, has_avx2}, {plain, has_plain}};

const struct kernels *kernels_pick(const char *want, enum precision prec)
{
    bool any = !want || strcmp(want, "auto") == 0;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if ((any || strcmp(want, ways[i].table->name) == 0) && ways[i].runs_here()) return &ways[i].table[prec];
    return NULL;
}

const struct logits_ops *logits_pick(void)
{
    return has_avx512() ? &logits_avx512 : &logits_plain;
}
