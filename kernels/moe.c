/* Mixture of experts: which experts a row takes, the rows in the order of experts, and the sum of what they gave
 * (Shazeer et al. 2017; the top-k of a softmax as in Mixtral and Qwen3).
 *
 *   route (rows dealt) -> moe_order() -> gather (places dealt) -> products per expert -> combine (rows dealt)
 *
 * A `pair` is a row with one of its experts; a row's pairs stand in the order of the experts' ids, so that the sum over
 * them has one order. A `place` is where a pair lies among the gathered rows: sorted by expert, then by row, so that
 * rows of one adapter stay consecutive within an expert.
 *
 * Batch invariance: a row's experts, weights and sum depend on its own logits only. Guarantees: whatever the logits are,
 * `used` different experts are chosen; a logit that is not finite makes the row's weights NaN, so that the row's result
 * shows it. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <assert.h>
#include <math.h>
#include <string.h>

/* The largest logit that is not taken yet; ties: the smaller id. */
static int next_best(const float *logit, const bool *taken, int experts)
{
    int best = -1;
    for (int e = 0; e < experts; e++)
        if (!taken[e] && (best < 0 || logit[e] > logit[best])) best = e;
    return best;
}

/* The factor that makes weights of exponentials: 1 / their sum, over all experts or over the chosen ones. */
static double normalizer(const float *logit, const bool *taken, int experts, bool chosen_only, float most)
{
    double sum = 0;
    bool finite = true;
    for (int e = 0; e < experts; e++) {
        finite = finite && isfinite(logit[e]);
        if (!chosen_only || taken[e]) sum += exp((double)logit[e] - most);
    }
    return finite ? 1 / sum : NAN;
}

static void route_row(const struct moe *m, int row)
{
    const float *logit = m->logits + (size_t)row * (size_t)m->experts;
    int *expert = m->expert + (size_t)row * (size_t)m->used;
    float *weight = m->weight + (size_t)row * (size_t)m->used;
    bool taken[EXPERTS_MAX] = {false};
    int first = 0;
    for (int i = 0; i < m->used; i++) {
        int e = next_best(logit, taken, m->experts);
        taken[e] = true;
        if (i == 0) first = e;
    }
    double factor = normalizer(logit, taken, m->experts, m->norm_topk, logit[first]);
    for (int e = 0, i = 0; e < m->experts; e++) {
        if (!taken[e]) continue;
        expert[i] = e;
        weight[i++] = (float)(exp((double)logit[e] - logit[first]) * factor);
    }
}

void moe_route_plain(struct kthread *t, const struct moe *m)
{
    assert(m->experts <= EXPERTS_MAX && m->used >= 1 && m->used <= m->experts);
    int lo, hi;
    pool_share(t, m->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) route_row(m, row);
}

void moe_order(const struct moe *m)
{
    int pairs = m->rows * m->used;
    memset(m->first, 0, sizeof *m->first * ((size_t)m->experts + 1));
    for (int i = 0; i < pairs; i++) m->first[m->expert[i] + 1]++;
    for (int e = 0; e < m->experts; e++) m->first[e + 1] += m->first[e];
    for (int i = 0; i < pairs; i++) {
        m->place[i] = m->first[m->expert[i]]++;
        m->row_of[m->place[i]] = i / m->used;
    }
    /* Filling moved each start to the next one's. */
    memmove(m->first + 1, m->first, sizeof *m->first * (size_t)m->experts);
    m->first[0] = 0;
}

static void copy_row(const struct act *in, size_t from, struct act *out, size_t to, size_t k)
{
    if (out->x) memcpy(out->x + to * k, in->x + from * k, k * sizeof *out->x);
    if (out->bf16) memcpy(out->bf16 + to * k, in->bf16 + from * k, k * sizeof *out->bf16);
    if (!out->q8 || k % GROUP) return;
    size_t groups = k / GROUP;
    memcpy(out->q8 + to * k, in->q8 + from * k, k);
    memcpy(out->q8_scale + to * groups, in->q8_scale + from * groups, groups * sizeof *out->q8_scale);
    memcpy(out->q8_sum + to * groups, in->q8_sum + from * groups, groups * sizeof *out->q8_sum);
}

void moe_gather_plain(struct kthread *t, const struct moe *m, const struct act *in, int k, struct act *out)
{
    int lo, hi;
    pool_share(t, m->rows * m->used, &lo, &hi);
    for (int place = lo; place < hi; place++) copy_row(in, (size_t)m->row_of[place], out, (size_t)place, (size_t)k);
}

#define CHUNK 256 /* columns summed at once: they stay in registers and the first-level cache */

/* y[0..n) of one row: the sum in the order of its pairs. */
static void sum_pairs(const struct moe *m, int row, const float *y, int k, int c0, int n, float *sum)
{
    for (int i = 0; i < m->used; i++) {
        size_t pair = (size_t)row * (size_t)m->used + (size_t)i;
        const float *from = y + (size_t)m->place[pair] * (size_t)k + c0;
        float weight = m->weight[pair];
        if (i == 0)
            for (int c = 0; c < n; c++) sum[c] = weight * from[c];
        else
            for (int c = 0; c < n; c++) sum[c] += weight * from[c];
    }
}

void moe_combine_plain(struct kthread *t, const struct moe *m, const float *y, int k, float *x, bool add)
{
    int blocks = (k + CHUNK - 1) / CHUNK, lo, hi;
    pool_share(t, m->rows * blocks, &lo, &hi);
    for (int i = lo; i < hi; i++) {
        float sum[CHUNK];
        int row = i / blocks, c0 = i % blocks * CHUNK, n = k - c0 < CHUNK ? k - c0 : CHUNK;
        float *to = x + (size_t)row * (size_t)k + c0;
        sum_pairs(m, row, y, k, c0, n, sum);
        for (int c = 0; c < n; c++) to[c] = add ? to[c] + sum[c] : sum[c];
    }
}

struct act act_rows(const struct act *a, int row0, int rows, int k)
{
    size_t at = (size_t)row0 * (size_t)k;
    struct act view = {.rows_max = rows, .k_max = k};
    if (a->x) view.x = a->x + at;
    if (a->bf16) view.bf16 = a->bf16 + at;
    if (a->q8) {
        view.q8 = a->q8 + at;
        view.q8_scale = a->q8_scale + at / GROUP;
        view.q8_sum = a->q8_sum + at / GROUP;
    }
    return view;
}
