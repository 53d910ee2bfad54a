/* The tables of kernels and which one this processor gets. A table is taken whole: "avx512" needs every extension in `needs`, so that
 * there are two tables to test and not thirty-two. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <string.h>

static const struct mm_ops plain_fast = {
    .panel = {[LAYOUT_F32] = panel_exact, [LAYOUT_BF16] = panel_fast_bf16, [LAYOUT_Q8] = panel_fast_q8, [LAYOUT_Q4] = panel_fast_q4},
    .shrink = lora_shrink_bf16,
    .expand = lora_expand_bf16,
    .element = 2,
};

static const struct mm_ops plain_exact = {
    .panel = {panel_exact, panel_exact, panel_exact, panel_exact},
    .shrink = lora_shrink_f32,
    .expand = lora_expand_f32,
    .element = 4,
};

static void matmul_plain_fast(struct kthread *t, const struct mm *m) { matmul_run(t, m, &plain_fast); }
static void matmul_plain_exact(struct kthread *t, const struct mm *m) { matmul_run(t, m, &plain_exact); }

static const struct kernels plain[] = {
    [PREC_FAST] = {"plain", PREC_FAST, embed_plain, rmsnorm_plain, matmul_plain_fast, rope_store_plain, attention_plain, swiglu_plain},
    [PREC_EXACT] = {"plain", PREC_EXACT, embed_plain, rmsnorm_plain, matmul_plain_exact, rope_store_plain, attention_plain,
                    swiglu_plain},
};

const struct kernels *kernels_pick(const char *want, enum precision prec)
{
    bool any = !want || strcmp(want, "auto") == 0;
    if (any || strcmp(want, "plain") == 0) return &plain[prec];
    return NULL;
}
