/* Private to kernels/: the operations for processors with AVX-512 (F, BW, VL, DQ, VNNI, BF16), and the vector helpers
 * that they share. Only files named *_avx512.c may call the inline functions: nothing else is compiled for such a
 * processor. */
#pragma once
#include "kernels/matmul.h"

panel_fn panel_exact_avx512, panel_bf16_avx512, panel_q8_avx512, panel_q4_avx512, panel_q8f_avx512, panel_q4z_avx512,
    panel_t4_avx512, panel_f8_avx512, panel_q2_avx512, panel_s24_avx512;

pair_fn pair_bf16_avx512;

/* How a quantized layout's group of 32 inputs becomes float32, out[32 inputs][32 outputs], 64-byte aligned. */
extern const struct dequant_avx512 {
    int group_bytes;
    void (*group)(const struct weight *w, const uint8_t *group, float *out);
} dequant_avx512[LAYOUTS];

store_fn store_avx512;
gate_fn gate_avx512;
lora_shrink_fn lora_shrink_bf16_avx512, lora_shrink_f32_avx512;
lora_expand_fn lora_expand_bf16_avx512, lora_expand_f32_avx512;

void rmsnorm_avx512(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                    float eps, struct act *out);
void rmsnorm_add_avx512(struct kthread *t, const float *y, int rows, int k, const float *weight, float eps, float *x);
void rope_store_avx512(struct kthread *t, const struct attn *a);
void kv_store_avx512(const struct kv_cache *kv, char *head, int slot, const float *k, const float *v);
void attention_fast_avx512(struct kthread *t, const struct attn *a, struct act *out);
void attention_exact_avx512(struct kthread *t, const struct attn *a, struct act *out);
void softcap_avx512(struct kthread *t, float *x, size_t n, float cap);
