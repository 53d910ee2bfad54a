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

#define EACH_V(V, call)                                                                                                \
    switch (V) {                                                                                                       \
    case 1:                                                                                                            \
        call(1);                                                                                                       \
        break;                                                                                                         \
    case 2:                                                                                                            \
        call(2);                                                                                                       \
        break;                                                                                                         \
    case 3:                                                                                                            \
        call(3);                                                                                                       \
        break;                                                                                                         \
    case 4:                                                                                                            \
        call(4);                                                                                                       \
        break;                                                                                                         \
    case 5:                                                                                                            \
        call(5);                                                                                                       \
        break;                                                                                                         \
    default:                                                                                                           \
        call(6);                                                                                                       \
    }

static __attribute__((noinline)) void part_of(struct work *w, const struct block *b, int first, int n, unsigned u0,
                                              unsigned u1, int d, int D)
{
    if (u0 >= u1) return;
#define PART(V) D == 4 ? values_part(w, b, first, u0, u1, d, V, 4) : values_part(w, b, first, u0, u1, d, V, 1)
    EACH_V(n, PART)
#undef PART
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
#define SCORES(V) scores(w, g, b, V)
    EACH_V(g->n, SCORES)
#undef SCORES
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
                                                const struct span *span){
#define SOFTEN(V) soften_whole(w, g, b, span, V)
    EACH_V(g->n, SOFTEN)
#undef SOFTEN
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
#define VALUES(V) all_values(w, g, b, span, V)
    EACH_V(g->n, VALUES)
#undef VALUES
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

/* --- an item --- */

struct tile {
    const struct attn *a;
    const struct attn_item *it;
    struct work *w;      /* of two groups */
    int each;            /* vectors of a kv head */
    int groups_each;     /* groups of a kv head */
    struct group *group; /* [kv_heads][groups_each] */
    float *total;        /* [kv_heads][each][state] over the segments before */
};

static void *carve(char **at, size_t bytes)
{
    void *p = *at;
    *at += (bytes + 63) / 64 * 64;
    return p;
}

/* The most that lay_out() takes. */
_Static_assert(2 * sizeof(struct work) + ATTN_VECTORS * (sizeof(struct group) + 3 * (2 * 64 + HEAD_DIM_MAX * 4)) <=
                   KERNEL_SCRATCH,
               "an item fits the scratch memory");

static struct tile lay_out(const struct attn *a, const struct attn_item *it, void *scratch)
{
    char *at = scratch;
    size_t hd = (size_t)a->kv->head_dim;
    struct tile t = {.a = a, .it = it, .each = it->rows * it->heads};
    t.groups_each = (t.each + TOGETHER - 1) / TOGETHER;
    t.w = carve(&at, 2 * sizeof *t.w);
    t.group = carve(&at, sizeof *t.group * (size_t)(t.groups_each * it->kv_heads));
    t.total = carve(&at, attn_state_floats((int)hd) * 4 * (size_t)(t.each * it->kv_heads));
    for (int i = 0; i < t.groups_each * it->kv_heads; i++) {
        struct group *g = &t.group[i];
        int n = i % t.groups_each;
        g->kv = i / t.groups_each;
        g->first = t.each * n / t.groups_each;
        g->n = t.each * (n + 1) / t.groups_each - g->first;
        g->q = carve(&at, hd * 4 * (size_t)g->n);
        g->out = carve(&at, hd * 4 * (size_t)g->n);
    }
    return t;
}

/* Where vector v (of its kv head) of a group stands. */
static int row_of(const struct tile *t, int v)
{
    return t->it->seq->row0 + t->it->row + v / t->it->heads;
}

static int head_of(const struct tile *t, const struct group *g, int v)
{
    return t->it->head + g->kv * (t->a->heads / t->a->kv->kv_heads) + v % t->it->heads;
}

static void clear_group(struct group *g, int hd)
{
    for (int i = 0; i < LANES; i++) g->most[i] = -INFINITY;
    for (int i = 0; i < g->n; i++) g->sum[i] = _mm512_setzero_ps();
    memset(g->out, 0, sizeof *g->out * (size_t)hd * (size_t)g->n);
}

/* The queries of a row's heads, for all rows at once: they lie far apart. */
static void fetch_queries(const struct attn *a, const struct attn_item *it)
{
    size_t hd = (size_t)a->kv->head_dim, row = (size_t)a->heads * hd;
    const float *q = a->q + (size_t)(it->seq->row0 + it->row) * row + (size_t)it->head * hd;
    for (int r = 0; r < it->rows; r++, q += row)
        for (size_t i = 0; i < (size_t)(it->heads * it->kv_heads) * hd; i += 16)
            _mm_prefetch((const char *)(q + i), _MM_HINT_T0);
}

static void begin(const struct tile *t)
{
    int hd = t->a->kv->head_dim;
    for (int n = 0; n < t->groups_each * t->it->kv_heads; n++) {
        struct group *g = &t->group[n];
        clear_group(g, hd);
        for (int i = 0; i < g->n; i++) {
            size_t row = (size_t)row_of(t, g->first + i), head = (size_t)head_of(t, g, g->first + i);
            put_query(t->a->q + (row * (size_t)t->a->heads + head) * (size_t)hd, g, i, hd);
        }
    }
    for (int v = 0; v < t->each * t->it->kv_heads; v++) attn_clear(t->total + (size_t)v * attn_state_floats(hd), hd);
}

/* The segment is over: its states go where they are added up. */
static void end_segment(const struct tile *t, int segment)
{
    const struct attn_item *it = t->it;
    int hd = t->a->kv->head_dim;
    size_t state_floats = attn_state_floats(hd);
    float local[ATTN_OUT + HEAD_DIM_MAX];
    for (int n = 0; n < t->groups_each * it->kv_heads; n++) {
        struct group *g = &t->group[n];
        for (int i = 0; i < g->n; i++) {
            size_t v = (size_t)(g->kv * t->each + g->first + i);
            size_t slot = v * (size_t)it->segments + (size_t)(segment - it->segment0);
            float *state = it->partial ? it->partial + slot * state_floats : local;
            state[ATTN_MOST] = g->most[i] * (1 / UNIT);
            state[ATTN_SUM] = fold(g->sum[i]);
            memcpy(state + ATTN_OUT, g->out + (size_t)i * (size_t)hd, sizeof *state * (size_t)hd);
            if (!it->partial) attn_join(t->total + v * state_floats, state, hd);
        }
        clear_group(g, hd);
    }
}

static void end(const struct tile *t, struct act *out)
{
    size_t state_floats = attn_state_floats(t->a->kv->head_dim);
    for (int n = 0; !t->it->partial && n < t->groups_each * t->it->kv_heads; n++) {
        const struct group *g = &t->group[n];
        for (int v = g->first; v < g->first + g->n; v++)
            attn_finish(t->a, row_of(t, v), head_of(t, g, v), t->total + (size_t)(g->kv * t->each + v) * state_floats,
                        out);
    }
}

/* Page j of the block at `base`, or the nearest that the item sees. */
static int page_at(const struct attn_item *it, int base, int j)
{
    int page = base / KV_PAGE + j;
    page = page > it->last / KV_PAGE ? it->last / KV_PAGE : page;
    return it->seq->page[page < it->first / KV_PAGE ? it->first / KV_PAGE : page];
}

static void find_pages(const struct tile *t, int kv, struct block *b)
{
    const struct kv_cache *c = t->a->kv;
    for (int j = 0; j < PAGES; j++) {
        const char *head = kv_head_at(c, t->a->layer, page_at(t->it, b->base, j), t->it->kv_head + kv);
        b->key[j] = kv_elements(c->type, head);
        b->value[j] = kv_elements(c->type, head + kv_part_bytes(c->type, c->head_dim));
    }
}

/* What to bring in while kv head `kv` of one block is computed: as much of the block at `base` of an item as a kv head
 * has, in the order of addresses (the memory is a third slower otherwise). */
static void find_ahead(const struct attn *a, const struct attn_item *it, int base, int kv, struct block *b)
{
    const struct kv_cache *c = a->kv;
    size_t head = 2 * kv_part_bytes(c->type, c->head_dim);
    for (int i = 0; i < PAGES && kv < it->kv_heads; i++) {
        int at = kv * PAGES + i;
        b->ahead[i] = kv_head_at(c, a->layer, page_at(it, base, at / it->kv_heads), it->kv_head) +
                      (size_t)(at % it->kv_heads) * head;
    }
}

/* The largest scale of V among the tokens seen; NaN counts as more than all. */
INLINE float v_largest(const struct block *b, uint64_t seen)
{
    __m512i most = _mm512_setzero_si512();
    for (int j = 0; j < PAGES; j++) {
        __m512i bits = _mm512_maskz_loadu_epi32((__mmask16)(seen >> j * KV_PAGE), b->value[j] - 64);
        most = _mm512_max_epi32(most, bits);
    }
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(_mm512_reduce_max_epi32(most))));
}

/* What the row at position `pos` sees of the block. */
static struct span span_of(const struct attn *a, const struct block *b, int pos)
{
    int from = attn_first(a, pos) - b->base, to = pos + 1 - b->base;
    if (to <= 0 || from >= ATTN_BLOCK) return (struct span){0};
    struct span s = {.from = from > 0 ? (unsigned)from : 0, .to = to < ATTN_BLOCK ? (unsigned)to : ATTN_BLOCK};
    s.seen = ~(uint64_t)0 << s.from & ~(uint64_t)0 >> (ATTN_BLOCK - s.to);
    if (a->kv->type == KV_INT8) s.v_largest = v_largest(b, s.seen);
    return s;
}

static void run_partly(const struct tile *t, struct group *g, const struct block *b)
{
    int first = t->it->seq->pos0 + t->it->row, row = -1;
    bool any = false;
    for (int i = 0; i < g->n; i++) {
        int r = (g->first + i) / t->it->heads;
        t->w->span[i] = r == row ? t->w->span[i - 1] : span_of(t->a, b, first + r);
        any = any || t->w->span[i].to;
        row = r;
    }
    if (any) run_mixed(t->w, g, b);
}

/* The groups of one kv head. */
static void run_block(const struct tile *t, int kv, struct block *b)
{
    const struct attn_item *it = t->it;
    int first = it->seq->pos0 + it->row, last = first + it->rows - 1;
    bool whole = first >= b->base + ATTN_BLOCK - 1 && attn_first(t->a, last) <= b->base;
    struct span all = whole ? span_of(t->a, b, first) : (struct span){0};
    struct group *g = t->group + (size_t)kv * (size_t)t->groups_each;
    for (int n = 0, step; n < t->groups_each; n += step, g += step) {
        step = whole && n + 1 < t->groups_each ? 2 : 1;
        if (whole)
            run_whole(t->w, g, step, b, &all);
        else
            run_partly(t, g, b);
        memcpy(b->ahead, b->key, sizeof b->key); /* once is enough */
    }
}

static bool run_item(const struct attn *a, const struct attn_item *it, struct attn_walk *walk, struct attn_item *next,
                     void *scratch, struct act *out)
{
    struct tile t = lay_out(a, it, scratch);
    struct block b = {.hd = a->kv->head_dim, .scale = a->scale, .softcap = a->softcap};
    int last_base = it->last / ATTN_BLOCK * ATTN_BLOCK, segment = attn_segment_of(it->first);
    bool more = false;
    begin(&t);
    for (b.base = it->first / ATTN_BLOCK * ATTN_BLOCK; b.base <= last_base; b.base += ATTN_BLOCK) {
        bool is_last = b.base == last_base;
        if (b.base >= attn_segment_start(segment + 1)) end_segment(&t, segment++);
        if (is_last && (more = attn_claim(walk, next))) fetch_queries(a, next);
        for (int kv = 0; kv < it->kv_heads; kv++) {
            find_pages(&t, kv, &b);
            memcpy(b.ahead, b.key, sizeof b.key);
            if (!is_last)
                find_ahead(a, it, b.base + ATTN_BLOCK, kv, &b);
            else if (more)
                find_ahead(a, next, next->first / ATTN_BLOCK * ATTN_BLOCK, kv, &b);
            run_block(&t, kv, &b);
        }
    }
    end_segment(&t, segment);
    end(&t, out);
    return more;
}
