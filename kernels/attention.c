/* Attention over pages, plain: for each row and head an online softmax (Milakov and Gimelshein 2018) over the positions
 * in order, float32, reading only the slots that the row sees: those of its window, where there is one. Rows are dealt to the threads. */
#include "kernels/act.h"
#include "kernels/convert.h"
#include "kernels/kv.h"
#include "kernels/matmul.h"
#include <math.h>

static float score(const struct kv_cache *kv, const char *head, int slot, const float *q)
{
    float sum = 0;
    for (int d = 0; d < kv->head_dim; d++)
        sum += q[d] * (kv->prec == PREC_FAST ? f32_of_bf16(((const uint16_t *)head)[kv_k_bf16(d, slot)])
                                             : ((const float *)head)[kv_k_f32(d, slot)]);
    return sum;
}

static void add_value(const struct kv_cache *kv, const char *head, int slot, float keep, float p, float *out)
{
    const char *v = head + kv_v_offset(kv);
    for (int d = 0; d < kv->head_dim; d++)
        out[d] = out[d] * keep + p * (kv->prec == PREC_FAST
                                          ? f32_of_bf16(((const uint16_t *)v)[kv_v_bf16(kv->head_dim, d, slot)])
                                          : ((const float *)v)[kv_v_f32(kv->head_dim, d, slot)]);
}

static void attend(const struct attn *a, const struct attn_seq *seq, int pos, int h, const float *q, float *out)
{
    const struct kv_cache *kv = a->kv;
    float most = -INFINITY, sum = 0;
    memset(out, 0, sizeof *out * (size_t)kv->head_dim);
    for (int p = attn_first(a, pos); p <= pos; p++) {
        const char *head = kv_head_at(kv, a->layer, seq->page[p / KV_PAGE], h / (a->heads / kv->kv_heads));
        float s = a->scale * score(kv, head, p % KV_PAGE, q);
        if (a->softcap > 0) s = a->softcap * tanhf(s / a->softcap);
        float larger = s > most ? s : most;
        float keep = expf(most - larger), e = expf(s - larger);
        add_value(kv, head, p % KV_PAGE, keep, e, out);
        sum = sum * keep + e;
        most = larger;
    }
    for (int d = 0; d < kv->head_dim; d++) out[d] /= sum;
}

void attention_plain(struct kthread *t, const struct attn *a, struct act *out)
{
    int hd = a->kv->head_dim, k = a->heads * hd, lo, hi;
    pool_share(t, a->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const struct attn_seq *seq = attn_seq_of(a, row);
        if (!seq) continue;
        for (int h = 0; h < a->heads; h++) {
            size_t at = (size_t)row * (size_t)k + (size_t)(h * hd);
            attend(a, seq, seq->pos0 + row - seq->row0, h, a->q + at, out->x + at);
        }
        act_round(out, row, k, 0, k);
    }
}
