/* Attention over pages, plain: for each row and head an online softmax (Milakov and Gimelshein 2018) over the positions
 * in order, float32, reading only the slots that the row sees: those of its window, where there is one. Rows are dealt to
 * the threads. */
#include "kernels/act.h"
#include "kernels/attention_sinks.h"
#include "kernels/kv.h"
#include "kernels/matmul.h"
#include <assert.h>
#include <math.h>
#include <string.h>

static float dot(const float *a, const float *b, int n)
{
    float sum = 0;
    for (int d = 0; d < n; d++) sum += a[d] * b[d];
    return sum;
}

/* out [head_dim] */
static void attend(const struct attn *a, const struct attn_seq *seq, int pos, int h, const float *q, float *out)
{
    const struct kv_cache *kv = a->kv;
    float most = -INFINITY, sum = 0, x[HEAD_DIM_MAX];
    memset(out, 0, sizeof *out * (size_t)kv->head_dim);
    for (int p = attn_first(a, pos); p <= pos; p++) {
        const char *head = kv_head_at(kv, a->layer, seq->page[p / KV_PAGE], h / (a->heads / kv->kv_heads));
        kv_load_plain(kv, head, p % KV_PAGE, false, x);
        float s = a->scale * dot(x, q, kv->head_dim);
        if (a->softcap > 0) s = a->softcap * tanhf(s / a->softcap);
        float larger = s > most ? s : most;
        float keep = expf(most - larger), e = expf(s - larger);
        kv_load_plain(kv, head, p % KV_PAGE, true, x);
        for (int d = 0; d < kv->head_dim; d++) out[d] = out[d] * keep + e * x[d];
        sum = sum * keep + e;
        most = larger;
    }
    if (attn_sees_sinks(a, pos)) {
        float state[ATTN_OUT + HEAD_DIM_MAX];
        attn_sinks_plain(a, seq, pos, h, state);
        attn_sinks_join(state, kv->head_dim, &most, &sum, out);
    }
    for (int d = 0; d < kv->head_dim; d++) out[d] /= sum;
}

void attention_plain(struct kthread *t, const struct attn *a, struct act *out)
{
    int hd = a->kv->head_dim, k = a->heads * hd, lo, hi;
    float *y = t->scratch;
    assert((size_t)k * sizeof *y <= t->scratch_bytes);
    pool_share(t, a->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        const struct attn_seq *seq = attn_seq_of(a, row);
        if (!seq) continue;
        for (int h = 0; h < a->heads; h++) {
            const float *q = a->q + (size_t)row * (size_t)k + h * hd;
            attend(a, seq, seq->pos0 + row - seq->row0, h, q, y + h * hd);
        }
        act_put(out, row, k, 0, k, y);
    }
}

/* A decoding row and the rows that are guessed ahead of it. */
#define CUT_ROWS 4

size_t attn_partial_floats(int heads, int head_dim, int positions)
{
    return (size_t)(CUT_ROWS * heads) * (size_t)(attn_segment_of(positions - 1) + 1) * attn_state_floats(head_dim);
}
