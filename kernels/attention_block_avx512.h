/* Private to kernels/: attention of one item, for all types of cache. Each file that includes this gives what its type
 * is: how K and V are loaded and multiplied, how queries and weights are rounded.
 *
 * The query heads of an item's rows are its vectors; up to 6 of them (a group) share the loads of K and V. For each block
 * of four pages, in order, and each group:
 *
 *   scores    6 vectors x 4 pages = 24 accumulators; lanes are tokens, a step is one load of each page and 6 broadcasts
 *   weights   softmax against the largest score of the block
 *   values    6 vectors x 64 dimensions = 24 accumulators; lanes are dimensions, a step is 4 loads and 6 broadcasts
 *   join      state = state * a + block * b, one of a and b being 1
 *
 * A vector reads 4 bytes of K and V from the first-level cache for each of its products with both: with 24 accumulators
 * per 10 loads the multipliers are the bound, not the loads. The first group of a block and kv head asks for lines of the
 * next block while it computes: a decoding row has no other group to hide the memory behind.
 *
 * Batch invariance: what a vector computes is set by its position and the window alone: the blocks that hold positions it
 * sees, in each the pairs of tokens that it sees, one accumulator per score and per output. Blocks that all rows see
 * whole take one way; in the others the pairs that all rows of a group see are summed together, those before and behind
 * row by row: the same operations in the same order.
 *
 * Never used: slots behind a row's position or before its window (their scores are dropped, half a pair of values is
 * masked). Never read: pages without a slot that the item sees. */
#pragma once
#include "kernels/act.h"
#include "kernels/attention_avx512.h"
#include "kernels/avx512.h"
#include "kernels/vector.h"
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define TOGETHER 6 /* vectors of a group */
#define LANES 8    /* floats of a group, with room */
#define CHUNK 64   /* dimensions of values summed together */
#define PAGES ATTN_BLOCK_PAGES
#define LINES (LOAD / 16) /* brought in per step of the scores; half of a block's */

/* What a row sees of a block: tokens from .. to-1 (to 0: nothing). */
struct span {
    unsigned from, to;
    uint64_t seen;   /* their bits */
    float v_largest; /* int8: the largest scale of V among them */
};

/* A block. Pages that the item does not see stand for one that it does. */
struct block {
    int base, hd;
    float scale, softcap;
    const char *key[PAGES], *value[PAGES];
    const char *ahead[PAGES]; /* to be brought in: of each as much as K and V of a page have */
};

struct group {
    int n, first;      /* vectors first .. first+n-1 of those of its kv head in the item, [rows][heads] */
    int kv;            /* which of the item's */
    float most[LANES]; /* of the segment so far, in the units of power() */
    __m512 sum[TOGETHER];
    float q_scale[LANES];
    uint32_t *q; /* [hd/STEP][n] */
    float *out;  /* [n][hd] of the segment so far */
};

/* What a group leaves behind between its steps. */
struct work {
    _Alignas(64) float s[TOGETHER][ATTN_BLOCK]; /* scores */
    uint32_t p[TOGETHER][ATTN_BLOCK];           /* weights, STEP tokens each */
    float acc[TOGETHER][CHUNK];
    __m512 sum[TOGETHER]; /* of the block, as is `most` */
    float most[LANES];
    float keep[LANES], gain[LANES]; /* a and b of the join */
    struct span span[TOGETHER];     /* by vector */
};

/* --- what a type is --- */

/* STEP: dimensions of K (tokens of V) in a lane of 4 bytes. LOAD: bytes of a load of 16 lanes. UNIT: power(x) is
 * e^(x / UNIT). */
INLINE __m512i load(const char *p);
INLINE __m512 dot(__m512 sum, __m512i w, __m512i x);
INLINE __m512 power(__m512 x);
INLINE void put_query(const float *q, struct group *g, int i, int hd); /* vector i of the group */
INLINE __m512 score(__m512 raw, const struct block *b, int page);      /* without the query's scale */
INLINE void put_weights(const __m512 p[PAGES], const struct block *b, const struct span *s, uint32_t *out);
INLINE __m512 value(__m512 raw);          /* of an accumulator */
INLINE float worth(const struct span *s); /* of a unit of it */

/* --- scores --- */

INLINE void scores(struct work *w, const struct group *g, const struct block *b, const int V)
{
    __m512 s[TOGETHER][PAGES];
    const uint32_t *q = g->q;
#pragma GCC unroll 6
    for (int i = 0; i < V; i++)
#pragma GCC unroll 4
        for (int j = 0; j < PAGES; j++) s[i][j] = _mm512_setzero_ps();
    size_t half = (size_t)b->hd / STEP / 2 * LOAD, at = 0;
    for (int h = 0; h < 2; h++) {
        const char *ahead = b->ahead[h];
        for (size_t end = at + half; at < end; at += LOAD, q += V, ahead += LINES * 64) {
            __m512i key[PAGES];
#pragma GCC unroll 4
            for (int j = 0; j < PAGES; j++) key[j] = load(b->key[j] + at);
#pragma GCC unroll 4
            for (int j = 0; j < LINES; j++) _mm_prefetch(ahead + j * 64, _MM_HINT_T0);
#pragma GCC unroll 6
            for (int i = 0; i < V; i++) {
                __m512i x = _mm512_set1_epi32((int)q[i]);
#pragma GCC unroll 4
                for (int j = 0; j < PAGES; j++) s[i][j] = dot(s[i][j], key[j], x);
            }
        }
    }
#pragma GCC unroll 6
    for (int i = 0; i < V; i++)
#pragma GCC unroll 4
        for (int j = 0; j < PAGES; j++) _mm512_store_ps(w->s[i] + j * 16, s[i][j]);
}

/* --- weights --- */

/* Scores become softcap tanh(score / softcap). Apart, because its registers would cost those who have no cap. */
static __attribute__((noinline)) void cap_scores(struct work *w, const struct group *g, const struct block *b)
{
    __m512 cap = _mm512_set1_ps(b->softcap);
    for (int i = 0; i < g->n; i++)
        for (int j = 0; j < PAGES; j++) {
            __m512 s = score(_mm512_load_ps(w->s[i] + j * 16), b, j);
            s = _mm512_mul_ps(s, _mm512_set1_ps(b->scale * g->q_scale[i]));
            _mm512_store_ps(w->s[i] + j * 16, _mm512_mul_ps(tanh16(_mm512_div_ps(s, cap)), cap));
        }
}

INLINE float largest16(__m512 x)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

/* The lanes of page j that are seen. */
INLINE __mmask16 seen_of(const struct span *s, int j)
{
    return (__mmask16)(s->seen >> j * KV_PAGE);
}

/* How scores of the cache become exponents. */
INLINE float unit_of(const struct group *g, int i, const struct block *b)
{
    return b->softcap > 0 ? UNIT : b->scale * g->q_scale[i] * UNIT;
}

/* Scores as they enter the softmax; those that are not seen are -infinity. */
INLINE __m512 score_at(const struct work *w, int i, int j, const struct block *b, const struct span *span,
                       const bool whole)
{
    __m512 s = _mm512_load_ps(w->s[i] + j * 16);
    if (b->softcap <= 0) s = score(s, b, j);
    return whole ? s : _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen_of(span, j), s);
}

/* The largest score of vector i in the block. */
INLINE void find_most(struct work *w, const struct group *g, int i, const struct block *b, const struct span *span,
                      const bool whole)
{
    __m512 most = score_at(w, i, 0, b, span, whole);
#pragma GCC unroll 4
    for (int j = 1; j < PAGES; j++) most = _mm512_max_ps(most, score_at(w, i, j, b, span, whole));
    w->most[i] = largest16(most) * unit_of(g, i, b);
}

/* p and their sum of vector i. */
INLINE void weights(struct work *w, const struct group *g, int i, const struct block *b, const struct span *span,
                    const bool whole)
{
    __m512 p[PAGES], unit = _mm512_set1_ps(unit_of(g, i, b)), most = _mm512_set1_ps(w->most[i]);
#pragma GCC unroll 4
    for (int j = 0; j < PAGES; j++) {
        p[j] = power(_mm512_fmsub_ps(score_at(w, i, j, b, span, whole), unit, most));
        if (!whole) p[j] = _mm512_maskz_mov_ps(seen_of(span, j), p[j]);
    }
    w->sum[i] = _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
    put_weights(p, b, span, w->p[i]);
}

/* The factors of the join, and the group's new maxima. A vector that sees nothing of the block has -infinity here: its
 * factors mean nothing and its maximum stays. */
INLINE void factors(struct work *w, struct group *g)
{
    __m256 old = _mm256_loadu_ps(g->most), block = _mm256_loadu_ps(w->most), most = _mm256_max_ps(old, block);
    __m512 both = _mm512_insertf32x8(_mm512_castps256_ps512(old), block, 1);
    __m512 f = power(_mm512_sub_ps(both, _mm512_insertf32x8(_mm512_castps256_ps512(most), most, 1)));
    _mm256_storeu_ps(w->keep, _mm512_castps512_ps256(f));
    _mm256_storeu_ps(w->gain, _mm512_extractf32x8_ps(f, 1));
    _mm256_storeu_ps(g->most, most);
}

INLINE void join_sum(struct work *w, struct group *g, int i)
{
    __m512 block = _mm512_mul_ps(w->sum[i], _mm512_set1_ps(w->gain[i]));
    g->sum[i] = _mm512_fmadd_ps(g->sum[i], _mm512_set1_ps(w->keep[i]), block);
}

/* out = out * keep + acc * gain */
INLINE void join_out(float *out, __m512 keep, __m512 gain, __m512 acc)
{
    _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_loadu_ps(out), keep, _mm512_mul_ps(value(acc), gain)));
}

/* --- values --- */

/* acc[i][e] += p V of the steps u0 .. u1-1 of one page, 16 D dimensions from v on; p stands at the page's first. */
INLINE void add_steps(__m512 acc[TOGETHER][CHUNK / 16], const char *v, const char *ahead, const uint32_t *p, size_t row,
                      unsigned u0, unsigned u1, const int V, const int D)
{
    v += row * u0;
    for (unsigned u = u0; u < u1; u++, v += row, ahead += D * LOAD) {
        __m512i x[CHUNK / 16];
#pragma GCC unroll 4
        for (int e = 0; e < D; e++) x[e] = load(v + e * LOAD);
#pragma GCC unroll 4
        for (int e = 0; e < D * LOAD; e += 64) _mm_prefetch(ahead + e, _MM_HINT_T0);
#pragma GCC unroll 6
        for (int i = 0; i < V; i++) {
            __m512i weight = _mm512_set1_epi32((int)p[i * ATTN_BLOCK + u]);
#pragma GCC unroll 4
            for (int e = 0; e < D; e++) acc[i][e] = dot(acc[i][e], x[e], weight);
        }
    }
}

/* 16 D dimensions from d on of a block that all rows see whole. */
INLINE void values_whole(struct work *w, struct group *g, const struct block *b, const struct span *span, int d,
                         const int V, const int D)
{
    __m512 acc[TOGETHER][CHUNK / 16];
    size_t row = (size_t)b->hd * LOAD / 16, at = (size_t)d * LOAD / 16;
#pragma GCC unroll 6
    for (int i = 0; i < V; i++)
#pragma GCC unroll 4
        for (int e = 0; e < D; e++) acc[i][e] = _mm512_setzero_ps();
    for (unsigned j = 0; j < PAGES; j++) {
        const char *ahead = b->ahead[2 + j / 2] + (j % 2 * row + at) * (KV_PAGE / STEP);
        add_steps(acc, b->value[j] + at, ahead, w->p[0] + j * KV_PAGE / STEP, row, 0, KV_PAGE / STEP, V, D);
    }
#pragma GCC unroll 6
    for (int i = 0; i < V; i++) {
        __m512 keep = _mm512_set1_ps(w->keep[i]), gain = _mm512_set1_ps(w->gain[i] * worth(span));
        float *out = g->out + (size_t)i * (size_t)b->hd + d;
#pragma GCC unroll 4
        for (int e = 0; e < D; e++) join_out(out + e * 16, keep, gain, acc[i][e]);
    }
}

/* Tokens of a block that are summed together: steps u0 .. u1-1 of its BLOCK / STEP; those of pairs half of which is not
 * seen are summed by half_step(). */
INLINE void values_part(struct work *w, const struct block *b, int first, unsigned u0, unsigned u1, int d, const int V,
                        const int D)
{
    __m512 acc[TOGETHER][CHUNK / 16];
    size_t row = (size_t)b->hd * LOAD / 16, at = (size_t)d * LOAD / 16;
#pragma GCC unroll 6
    for (int i = 0; i < V; i++)
#pragma GCC unroll 4
        for (int e = 0; e < D; e++) acc[i][e] = _mm512_load_ps(w->acc[first + i] + e * 16);
    for (unsigned each = KV_PAGE / STEP, j = u0 / each; j * each < u1; j++) {
        unsigned lo = u0 > j * each ? u0 - j * each : 0, hi = u1 < (j + 1) * each ? u1 - j * each : each;
        add_steps(acc, b->value[j] + at, b->value[j], w->p[first] + j * each, row, lo, hi, V, D);
    }
#pragma GCC unroll 6
    for (int i = 0; i < V; i++)
#pragma GCC unroll 4
        for (int e = 0; e < D; e++) _mm512_store_ps(w->acc[first + i] + e * 16, acc[i][e]);
}

/* Step u, of whose pair only one token is seen, for one vector. */
INLINE void half_step(struct work *w, const struct block *b, int i, unsigned u, uint32_t mask, int d, const int D)
{
    unsigned each = KV_PAGE / STEP;
    const char *v = b->value[u / each] + ((size_t)b->hd * (u % each) + (size_t)d) * LOAD / 16;
    __m512i weight = _mm512_set1_epi32((int)w->p[i][u]), half = _mm512_set1_epi32((int)mask);
    for (int e = 0; e < D; e++) {
        float *acc = w->acc[i] + e * 16;
        __m512i x = _mm512_and_si512(load(v + e * LOAD), half);
        _mm512_store_ps(acc, dot(_mm512_load_ps(acc), x, weight));
    }
}

/* Numbers of vectors that a group may have: the loops are compiled for each. */
#define GROUPS(X) X(1) X(2) X(3) X(4) X(5) X(6)

static __attribute__((noinline)) void part_of(struct work *w, const struct block *b, int first, int n, unsigned u0,
                                              unsigned u1, int d, int D)
{
    if (u0 >= u1) return;
    switch (n) {
#define X(V)                                                                                                           \
    case V:                                                                                                            \
        if (D == CHUNK / 16)                                                                                           \
            values_part(w, b, first, u0, u1, d, V, CHUNK / 16);                                                        \
        else                                                                                                           \
            values_part(w, b, first, u0, u1, d, V, 1);                                                                 \
        break;
        GROUPS(X)
#undef X
    }
}

/* The vectors of one row, first .. first+n-1, over the tokens that it sees of the block but for the steps
 * common0 .. common1-1: those before (`ends` false) or behind. */
static void row_part(struct work *w, const struct block *b, int first, int n, unsigned common0, unsigned common1,
                     bool behind, int d, int D)
{
    const struct span *s = &w->span[first];
    unsigned u0 = (s->from + STEP - 1) / STEP, u1 = s->to / STEP;
    bool odd_from = s->from % STEP, odd_to = s->to % STEP;
    if (!behind && odd_from)
        for (int i = 0; i < n; i++) half_step(w, b, first + i, s->from / STEP, 0xffff0000, d, D);
    if (!behind) part_of(w, b, first, n, u0, common0 < u1 ? common0 : u1, d, D);
    if (behind) part_of(w, b, first, n, common1 > u0 ? common1 : u0, u1, d, D);
    if (behind && odd_to)
        for (int i = 0; i < n; i++) half_step(w, b, first + i, s->to / STEP, 0x0000ffff, d, D);
}

/* The end of the run of vectors that see the same, from i on. */
INLINE int run_end(const struct work *w, int n, int i)
{
    int e = i + 1;
    while (e < n && w->span[e].from == w->span[i].from && w->span[e].to == w->span[i].to) e++;
    return e;
}

/* 16 D dimensions from d on of a block that rows see in part. */
static void values_mixed(struct work *w, struct group *g, const struct block *b, int d, int D)
{
    unsigned c0 = 0, c1 = ATTN_BLOCK / STEP;
    for (int i = 0; i < g->n; i++) {
        const struct span *s = &w->span[i];
        unsigned lo = (s->from + STEP - 1) / STEP, hi = s->to / STEP;
        c0 = lo > c0 ? lo : c0, c1 = hi < c1 ? hi : c1;
        memset(w->acc[i], 0, sizeof w->acc[i]);
    }
    if (c1 < c0) c1 = c0;
    for (int i = 0, e; i < g->n; i = e)
        if (e = run_end(w, g->n, i), w->span[i].to) row_part(w, b, i, e - i, c0, c1, false, d, D);
    part_of(w, b, 0, g->n, c0, c1, d, D);
    for (int i = 0, e; i < g->n; i = e)
        if (e = run_end(w, g->n, i), w->span[i].to) row_part(w, b, i, e - i, c0, c1, true, d, D);
    for (int i = 0; i < g->n; i++) {
        if (!w->span[i].to) continue;
        __m512 keep = _mm512_set1_ps(w->keep[i]), gain = _mm512_set1_ps(w->gain[i] * worth(&w->span[i]));
        float *out = g->out + (size_t)i * (size_t)b->hd + d;
        for (int x = 0; x < D; x++) join_out(out + x * 16, keep, gain, _mm512_load_ps(w->acc[i] + x * 16));
    }
}

/* --- a block --- */

static __attribute__((noinline)) void scores_of(struct work *w, const struct group *g, const struct block *b)
{
    switch (g->n) {
#define X(V)                                                                                                           \
    case V:                                                                                                            \
        scores(w, g, b, V);                                                                                            \
        break;
        GROUPS(X)
#undef X
    }
    if (b->softcap > 0) cap_scores(w, g, b);
}

/* In turns, because each is a chain of operations that wait for each other. */
INLINE void soften_whole(struct work *w, struct group *g, const struct block *b, const struct span *span, const int V)
{
#pragma GCC unroll 6
    for (int i = 0; i < V; i++) find_most(w, g, i, b, span, true);
    factors(w, g);
#pragma GCC unroll 2
    for (int i = 0; i < V; i++) weights(w, g, i, b, span, true);
#pragma GCC unroll 6
    for (int i = 0; i < V; i++) join_sum(w, g, i);
}

static __attribute__((noinline)) void soften_of(struct work *w, struct group *g, const struct block *b,
                                                const struct span *span)
{
    switch (g->n) {
#define X(V)                                                                                                           \
    case V:                                                                                                            \
        soften_whole(w, g, b, span, V);                                                                                \
        break;
        GROUPS(X)
#undef X
    }
}

INLINE void all_values(struct work *w, struct group *g, const struct block *b, const struct span *span, const int V)
{
    int d = 0;
    for (; d + CHUNK <= b->hd; d += CHUNK) values_whole(w, g, b, span, d, V, CHUNK / 16);
    for (; d < b->hd; d += 16) values_whole(w, g, b, span, d, V, 1);
}

static __attribute__((noinline)) void values_of(struct work *w, struct group *g, const struct block *b,
                                                const struct span *span)
{
    switch (g->n) {
#define X(V)                                                                                                           \
    case V:                                                                                                            \
        all_values(w, g, b, span, V);                                                                                  \
        break;
        GROUPS(X)
#undef X
    }
}

/* n groups (1 or 2) that see the whole block: one's scores while the other's are softened, as far as the processor looks
 * ahead. */
static void run_whole(struct work *w, struct group *g, int n, struct block *b, const struct span *span)
{
    scores_of(&w[0], &g[0], b);
    if (n > 1) {
        const char *ahead[2] = {b->ahead[0], b->ahead[1]};
        b->ahead[0] = b->ahead[1] = b->key[0];
        scores_of(&w[1], &g[1], b);
        b->ahead[0] = ahead[0], b->ahead[1] = ahead[1];
    }
    for (int i = 0; i < n; i++) soften_of(&w[i], &g[i], b, span);
    for (int i = 0; i < n; i++) values_of(&w[i], &g[i], b, span);
}

/* The group's rows see different parts of the block, w->span[]. */
static __attribute__((noinline)) void run_mixed(struct work *w, struct group *g, const struct block *b)
{
    scores_of(w, g, b);
    for (int i = 0; i < LANES; i++) w->most[i] = -INFINITY;
    for (int i = 0; i < g->n; i++)
        if (w->span[i].to) find_most(w, g, i, b, &w->span[i], false);
    factors(w, g);
    for (int i = 0; i < g->n; i++)
        if (w->span[i].to) {
            weights(w, g, i, b, &w->span[i], false);
            join_sum(w, g, i);
        }
    int d = 0;
    for (; d + CHUNK <= b->hd; d += CHUNK) values_mixed(w, g, b, d, CHUNK / 16);
    for (; d < b->hd; d += 16) values_mixed(w, g, b, d, 1);
}
