/* Rotary positions, plain: norm each head of q and k where the model has such norms, rotate its leading dimensions by
 * the row's position (Su et al. 2021, halves of what rotates as pairs) and store k and v into the row's page. Rows are
 * dealt to the threads; a row writes only its own slot. */
#include "kernels/act.h"
#include "kernels/kv.h"
#include "kernels/matmul.h"
#include <assert.h>
#include <math.h>

static void rotate(float *x, int rotary, const float *rope)
{
    int half = rotary / 2;
    for (int i = 0; i < half; i++) {
        float c = rope[2 * i], s = rope[2 * i + 1], a = x[i], b = x[i + half];
        x[i] = a * c - b * s;
        x[i + half] = b * c + a * s;
    }
}

static void norm_head(float *x, int n, const float *weight, float eps)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float factor = (float)(1 / sqrt(sum / n + eps));
    for (int i = 0; i < n; i++) x[i] = x[i] * factor * weight[i];
}

static void turn_heads(const struct attn *a, float *x, int heads, const float *norm, const float *rope)
{
    for (int h = 0, hd = a->kv->head_dim; h < heads; h++, x += hd) {
        if (norm) norm_head(x, hd, norm, a->norm_eps);
        rotate(x, attn_rotary(a), rope);
    }
}

void rope_store_plain(struct kthread *t, const struct attn *a)
{
    int hd = a->kv->head_dim, lo, hi;
    assert(hd % 2 == 0 && hd <= HEAD_DIM_MAX && attn_rotary(a) % 2 == 0 && attn_rotary(a) <= hd);
    pool_share(t, a->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const struct attn_seq *seq = attn_seq_of(a, row);
        if (!seq) continue;
        int pos = seq->pos0 + row - seq->row0;
        const float *rope = a->rope + (size_t)pos * (size_t)attn_rotary(a);
        size_t k0 = (size_t)row * (size_t)(a->kv->kv_heads * hd);
        turn_heads(a, a->q + (size_t)row * (size_t)(a->heads * hd), a->heads, a->q_norm, rope);
        turn_heads(a, a->k + k0, a->kv->kv_heads, a->k_norm, rope);
        for (int h = 0; h < a->kv->kv_heads; h++) {
            size_t at = k0 + (size_t)(h * hd);
            kv_store_plain(a->kv, kv_head_at(a->kv, a->layer, seq->page[pos / KV_PAGE], h), pos % KV_PAGE, a->k + at,
                           a->v + at);
        }
    }
}
