/* Attention to a sequence's first positions, plain (kernels/attention_sinks.h says why they are apart). A row's sinks are summed by
 * the thread that has its window, after it, so bits depend on nothing but the row. */
#include "kernels/attention_sinks.h"
#include <math.h>

static float score(const struct attn *a, const float *q, const float *k)
{
    float sum = 0;
    for (int d = 0; d < a->kv->head_dim; d++) sum += q[d] * k[d];
    sum *= a->scale;
    return a->softcap > 0 ? a->softcap * tanhf(sum / a->softcap) : sum;
}

static const char *head_of(const struct attn *a, const struct attn_seq *seq, int pos, int head)
{
    return kv_head_at(a->kv, a->layer, seq->page[pos / KV_PAGE], head / (a->heads / a->kv->kv_heads));
}

void attn_sinks_plain(const struct attn *a, const struct attn_seq *seq, int pos, int head, float *state)
{
    int hd = a->kv->head_dim;
    size_t row = (size_t)(seq->row0 + pos - seq->pos0);
    float q[HEAD_DIM_MAX], x[HEAD_DIM_MAX], s[ATTN_SINKS_MAX], most = -INFINITY, sum = 0;
    attn_sinks_turn(a, pos, a->q + (row * (size_t)a->heads + (size_t)head) * (size_t)hd, q);
    for (int j = 0; j < a->sinks; j++) {
        kv_load_plain(a->kv, head_of(a, seq, j, head), j % KV_PAGE, false, x);
        s[j] = score(a, q, x);
        most = s[j] > most ? s[j] : most;
    }
    memset(state + ATTN_OUT, 0, sizeof *state * (size_t)hd);
    for (int j = 0; j < a->sinks; j++) {
        float p = expf(s[j] - most);
        kv_load_plain(a->kv, head_of(a, seq, j, head), j % KV_PAGE, true, x);
        for (int d = 0; d < hd; d++) state[ATTN_OUT + d] += p * x[d];
        sum += p;
    }
    state[ATTN_MOST] = most;
    state[ATTN_SUM] = sum;
}

void attn_sinks_join(const float *state, int head_dim, float *most, float *sum, float *out)
{
    float larger = state[ATTN_MOST] > *most ? state[ATTN_MOST] : *most;
    float keep = expf(*most - larger), gain = expf(state[ATTN_MOST] - larger);
    for (int d = 0; d < head_dim; d++) out[d] = out[d] * keep + state[ATTN_OUT + d] * gain;
    *sum = *sum * keep + state[ATTN_SUM] * gain;
    *most = larger;
}
