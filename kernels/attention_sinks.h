/* Private to kernels/attention*.c: the first positions of a sequence, which those far behind them see besides their window.
 *
 * Xiao et al. (2023) keep them because much of the softmax rests on them, and number positions inside the cache: the row is
 * position sinks+window-1 there, however far it has come. Keys lie in the cache as they were rotated, so it is the query that is
 * turned: by the difference between its own position and that one. Scores within the window are what they were, since rotation only
 * shows differences. */
#pragma once
#include "kernels/attention_avx512.h"
#include <string.h>

/* Position `pos` sees sinks and a window with a gap between them. */
static inline bool attn_sees_sinks(const struct attn *a, int pos)
{
    return a->sinks > 0 && a->window > 0 && pos >= a->sinks + a->window;
}

/* A head's query, rotated by `pos`, as it meets the sinks: out [head_dim]. Tables may be scaled (yarn): both have the same scale. */
static inline void attn_sinks_turn(const struct attn *a, int pos, const float *q, float *out)
{
    int rotary = attn_rotary(a), half = rotary / 2;
    const float *from = a->rope + (size_t)pos * (size_t)rotary, *to = a->rope + (size_t)(a->sinks + a->window - 1) * (size_t)rotary;
    float unit = 1 / (from[0] * from[0] + from[1] * from[1]);
    memcpy(out, q, sizeof *out * (size_t)a->kv->head_dim);
    for (int i = 0; i < half; i++) {
        float c = (from[2 * i] * to[2 * i] + from[2 * i + 1] * to[2 * i + 1]) * unit;
        float s = (from[2 * i] * to[2 * i + 1] - from[2 * i + 1] * to[2 * i]) * unit;
        out[i] = q[i] * c - q[i + half] * s;
        out[i + half] = q[i + half] * c + q[i] * s;
    }
}

/* The state (attention_avx512.h) of query head `head` of the row at `pos` over the sinks. */
void attn_sinks_plain(const struct attn *a, const struct attn_seq *seq, int pos, int head, float *state);
void attn_sinks_avx512(const struct attn *a, const struct attn_seq *seq, int pos, int head, float *state);

/* The weighted sum of values out [head_dim], against its largest score *most and with the sum of weights *sum, is joined by `state`. */
void attn_sinks_join(const float *state, int head_dim, float *most, float *sum, float *out);
