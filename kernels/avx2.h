/* Private to kernels/: the operations for processors with AVX2, FMA and F16C, among them the products of integer codes
 * in a second body for those with AVX-VNNI. Only files named *_avx2.c and *_avxvnni.c may call the inline functions of
 * vector_avx2.h and of the tiles: nothing else is compiled for such a processor. */
#pragma once
#include "kernels/matmul.h"

panel_fn panel_exact_avx2, panel_bf16_avx2, panel_t4_avx2, panel_f8_avx2;
panel_fn panel_q8_avx2, panel_q8f_avx2, panel_q4_avx2, panel_q4z_avx2, panel_q2_avx2;
panel_fn panel_q8_avxvnni, panel_q8f_avxvnni, panel_q4_avxvnni, panel_q4z_avxvnni, panel_q2_avxvnni;

/* How a quantized layout's group of 32 inputs becomes float32, out[32 inputs][32 outputs], 32-byte aligned. */
extern const struct dequant_avx2 {
    int group_bytes;
    void (*group)(const struct weight *w, const uint8_t *group, float *out);
} dequant_avx2[LAYOUTS];

lora_shrink_fn lora_shrink_bf16_avx2, lora_shrink_f32_avx2;
lora_expand_fn lora_expand_bf16_avx2, lora_expand_f32_avx2;

void rmsnorm_avx2(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight, float eps,
                  struct act *out);
void rmsnorm_add_avx2(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x);
void rope_store_avx2(struct kthread *t, const struct attn *a);
void attention_fast_avx2(struct kthread *t, const struct attn *a, struct act *out);
void attention_exact_avx2(struct kthread *t, const struct attn *a, struct act *out);
gate_fn gate_avx2;
void softcap_avx2(struct kthread *t, float *x, size_t n, float cap);

/* As act_put(), bit for bit. */
void act_put_avx2(struct act *out, int row, int k, int c0, int n, const float *x);
