/* Attention over pages: online softmax in blocks of 64 positions, from the first that the window reaches.
 *
 * An item of work is one kv head of a sequence and a tile of its rows; the query heads that share the kv head and the
 * tile's rows are its `vectors`. For each block of four pages, in order: scores of up to 8 vectors at once (lanes are
 * tokens), largest score, exponentials, then values (lanes are dimensions). In FAST q and the exponentials are rounded
 * to bf16 for vdpbf16ps; sums are float32. EXACT is float32 throughout.
 *
 * Batch invariance: what a row computes is set by its position p and the window alone: blocks (first position
 * seen)/64 .. p/64, of each the tokens that p sees, one accumulator per score and per output. Blocks that every row of
 * the tile sees whole are computed for 8 vectors together, the others row by row: the same operations in the same order.
 *
 * Never used: slots behind a row's position or before its window (scores of a page's unused lanes are dropped before
 * anything uses them; a pair of values with an unused half is masked), other heads. Never read: other pages. */
#include "kernels/act.h"
#include "kernels/avx512.h"
#include "kernels/kv.h"
#include "kernels/vector.h"
#include <math.h>
#include <string.h>

#define BLOCK 64 /* positions */
#define BLOCK_PAGES (BLOCK / KV_PAGE)
#define TOGETHER 8   /* vectors that share the loads of K and V */
#define VECTORS 24   /* of an item, wished */
#define HEADS_MAX 32 /* query heads of an item */

struct vector {
    float most;
    __m512 sum; /* 16 partial sums of exponentials */
    float s[BLOCK];
    union {
        float f32[BLOCK];
        uint32_t pair[BLOCK / 2]; /* bf16 */
    } p;
    float keep; /* what the block before is worth now */
    union {
        float f32[HEAD_DIM_MAX];
        uint32_t pair[HEAD_DIM_MAX / 2];
    } q;
    float out[HEAD_DIM_MAX];
};

_Static_assert(sizeof(struct vector) * HEADS_MAX <= KERNEL_SCRATCH, "the vectors of an item fit the scratch memory");

/* One item: rows first_row .. of a sequence, query heads h0 .. of one kv head. */
struct item {
    const struct attn_seq *seq;
    int row, rows; /* within the sequence */
    int kv_head, head, heads;
};

/* What a row sees of a block, tokens from .. to-1, and how scores are made. */
struct span {
    unsigned from, to;
    uint64_t seen; /* their bits */
    float scale, softcap;
};

static struct span span_of(const struct attn *a, unsigned from, unsigned to)
{
    return (struct span){from, to, ~(uint64_t)0 << from & ~(uint64_t)0 >> (BLOCK - to), a->scale, a->softcap};
}

/* The lanes of page j of the block that are seen. */
static inline __mmask16 seen_of(const struct span *s, int j)
{
    return (__mmask16)(s->seen >> j * KV_PAGE);
}

static inline __m512 bcast_pair(uint32_t pair)
{
    return _mm512_castsi512_ps(_mm512_set1_epi32((int)pair));
}

/* s[i][0..16) = q_i . K of one page, for V vectors. */
static inline __attribute__((always_inline)) void scores_page(struct vector *v, const int V, const bool bf16,
                                                              const char *k, int hd, int at)
{
    __m512 s[TOGETHER];
#pragma GCC unroll 8
    for (int i = 0; i < V; i++) s[i] = _mm512_setzero_ps();
    for (int d = 0; d < hd; d += bf16 ? 2 : 1, k += 64) {
        __m512 key = _mm512_loadu_ps(k);
#pragma GCC unroll 8
        for (int i = 0; i < V; i++) {
            if (bf16)
                s[i] = _mm512_dpbf16_ps(s[i], (__m512bh)key, (__m512bh)bcast_pair(v[i].q.pair[d / 2]));
            else
                s[i] = _mm512_fmadd_ps(key, _mm512_set1_ps(v[i].q.f32[d]), s[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < V; i++) _mm512_storeu_ps(v[i].s + at, s[i]);
}

/* s = softcap tanh(s scale / softcap): the scores of a block, scaled and capped. Apart, because in the loop below its
 * registers would cost those who have no cap. */
static __attribute__((noinline)) void cap_scores(struct vector *v, const struct span *b)
{
    for (unsigned i = b->from / 16 * 16; i < b->to; i += 16) {
        __m512 s = _mm512_mul_ps(_mm512_loadu_ps(v->s + i), _mm512_set1_ps(b->scale));
        s = tanh16(_mm512_div_ps(s, _mm512_set1_ps(b->softcap)));
        _mm512_storeu_ps(v->s + i, _mm512_mul_ps(s, _mm512_set1_ps(b->softcap)));
    }
}

/* From the scores of the visible tokens: p, keep, and the running maximum and sum. */
static void softmax_block(struct vector *v, const struct span *b, const bool bf16)
{
    __m512 s[BLOCK_PAGES], most = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(b->softcap > 0 ? 1 : b->scale);
    if (b->softcap > 0) cap_scores(v, b);
    for (int j = 0; j < BLOCK_PAGES; j++) {
        s[j] = _mm512_mask_mul_ps(_mm512_set1_ps(-INFINITY), seen_of(b, j), _mm512_loadu_ps(v->s + j * 16), scale);
        most = _mm512_max_ps(most, s[j]);
    }
    float larger = fmaxf(v->most, _mm512_reduce_max_ps(most));
    __m512 keep = exp16(_mm512_set1_ps(v->most - larger)), sum = _mm512_setzero_ps();
    for (int j = 0; j < BLOCK_PAGES; j++) {
        __m512 p = _mm512_maskz_mov_ps(seen_of(b, j), exp16(_mm512_sub_ps(s[j], _mm512_set1_ps(larger))));
        sum = _mm512_add_ps(sum, p);
        if (bf16)
            _mm256_storeu_si256((__m256i *)(v->p.pair + j * 8), (__m256i)_mm512_cvtneps_pbh(p));
        else
            _mm512_storeu_ps(v->p.f32 + j * 16, p);
    }
    v->sum = _mm512_fmadd_ps(v->sum, keep, sum);
    v->keep = _mm512_cvtss_f32(keep);
    v->most = larger;
}

/* y[i] += p V of a token (of a pair of them in bf16), 16 dimensions of V in w. */
static inline __attribute__((always_inline)) void add_token(__m512 *y, const struct vector *v, const int V,
                                                            const bool bf16, __m512 w, unsigned token)
{
#pragma GCC unroll 8
    for (int i = 0; i < V; i++) {
        if (bf16)
            y[i] = _mm512_dpbf16_ps(y[i], (__m512bh)w, (__m512bh)bcast_pair(v[i].p.pair[token / 2]));
        else
            y[i] = _mm512_fmadd_ps(w, _mm512_set1_ps(v[i].p.f32[token]), y[i]);
    }
}

/* Half of each pair of values. */
static inline __m512 half_of(__m512 w, uint32_t mask)
{
    return _mm512_and_ps(w, _mm512_castsi512_ps(_mm512_set1_epi32((int)mask)));
}

/* out_i[d..d+16) = out_i * keep_i + sum over tokens from .. to-1 of p V, for V vectors; value[j] is V of page j. */
static inline __attribute__((always_inline)) void values_chunk(struct vector *v, const int V, const bool bf16,
                                                               const char *const *value, int hd, int d, unsigned from,
                                                               unsigned to)
{
    __m512 y[TOGETHER];
#pragma GCC unroll 8
    for (int i = 0; i < V; i++) y[i] = _mm512_mul_ps(_mm512_loadu_ps(v[i].out + d), _mm512_set1_ps(v[i].keep));
    if (bf16 && from % 2) { /* the window begins inside a pair */
        const float *w = (const float *)value[from / KV_PAGE] + (size_t)(from % KV_PAGE / 2) * (size_t)hd + d;
        add_token(y, v, V, bf16, half_of(_mm512_loadu_ps(w), 0xffff0000), from - 1);
        from++;
    }
    for (unsigned token = from; token < to; token += bf16 ? 2 : 1) {
        unsigned slot = token % KV_PAGE;
        __m512 w =
            _mm512_loadu_ps((const float *)value[token / KV_PAGE] + (size_t)(bf16 ? slot / 2 : slot) * (size_t)hd + d);
        if (bf16 && token + 1 == to) w = half_of(w, 0xffff);
        add_token(y, v, V, bf16, w, token);
    }
#pragma GCC unroll 8
    for (int i = 0; i < V; i++) _mm512_storeu_ps(v[i].out + d, y[i]);
}

/* One block for V vectors. */
static inline __attribute__((always_inline)) void block_of(struct vector *v, const int V, const bool bf16,
                                                           const char *const *key, int hd, const struct span *b)
{
    const char *value[BLOCK_PAGES];
    for (unsigned j = b->from / KV_PAGE; j * KV_PAGE < b->to; j++) {
        scores_page(v, V, bf16, key[j], hd, (int)(j * KV_PAGE));
        value[j] = key[j] + (size_t)KV_PAGE * (size_t)hd * (bf16 ? 2 : 4);
    }
    for (int i = 0; i < V; i++) softmax_block(&v[i], b, bf16);
    for (int d = 0; d < hd; d += 16) values_chunk(v, V, bf16, value, hd, d, b->from, b->to);
}

static inline __attribute__((always_inline)) void block_any(struct vector *v, int count, const bool bf16,
                                                            const char *const *key, int hd, const struct span *b)
{
    for (; count > 0; v += TOGETHER, count -= TOGETHER) {
        switch (count) {
        case 1:
            block_of(v, 1, bf16, key, hd, b);
            break;
        case 2:
            block_of(v, 2, bf16, key, hd, b);
            break;
        case 3:
            block_of(v, 3, bf16, key, hd, b);
            break;
        case 4:
            block_of(v, 4, bf16, key, hd, b);
            break;
        case 5:
            block_of(v, 5, bf16, key, hd, b);
            break;
        case 6:
            block_of(v, 6, bf16, key, hd, b);
            break;
        case 7:
            block_of(v, 7, bf16, key, hd, b);
            break;
        default:
            block_of(v, 8, bf16, key, hd, b);
        }
    }
}

static __attribute__((noinline)) void block_fast(struct vector *v, int count, const char *const *key, int hd,
                                                 const struct span *b)
{
    block_any(v, count, true, key, hd, b);
}

static __attribute__((noinline)) void block_exact(struct vector *v, int count, const char *const *key, int hd,
                                                  const struct span *b)
{
    block_any(v, count, false, key, hd, b);
}

typedef void block_fn(struct vector *v, int count, const char *const *key, int hd, const struct span *b);

static void load_query(struct vector *v, const float *q, int hd, bool bf16)
{
    v->most = -INFINITY;
    v->sum = _mm512_setzero_ps();
    memset(v->out, 0, sizeof *v->out * (size_t)hd);
    for (int d = 0; d < hd; d += 16) {
        __m512 x = _mm512_loadu_ps(q + d);
        if (bf16)
            _mm256_storeu_si256((__m256i *)(v->q.pair + d / 2), (__m256i)_mm512_cvtneps_pbh(x));
        else
            _mm512_storeu_ps(v->q.f32 + d, x);
    }
}

static void store_output(const struct vector *v, float *out, int hd)
{
    __m512 sum = _mm512_set1_ps(fold(v->sum));
    for (int d = 0; d < hd; d += 16) _mm512_storeu_ps(out + d, _mm512_div_ps(_mm512_loadu_ps(v->out + d), sum));
}

/* Where q and the output of row i, head h of the item are. */
static size_t place(const struct attn *a, const struct item *it, int i, int h)
{
    return ((size_t)(it->seq->row0 + it->row + i) * (size_t)a->heads + (size_t)(it->head + h)) *
           (size_t)a->kv->head_dim;
}

static void attend_block(const struct attn *a, const struct item *it, struct vector *v, int block, block_fn *fn)
{
    const char *key[BLOCK_PAGES];
    int first = it->seq->pos0 + it->row, last = first + it->rows - 1, base = block * BLOCK, hd = a->kv->head_dim;
    for (int j = 0; j < BLOCK_PAGES && base + j * KV_PAGE <= last; j++)
        if (base + j * KV_PAGE + KV_PAGE > attn_first(a, first))
            key[j] = kv_head_at(a->kv, a->layer, it->seq->page[block * BLOCK_PAGES + j], it->kv_head);
    if (first >= base + BLOCK - 1 && attn_first(a, last) <= base) {
        const struct span whole = span_of(a, 0, BLOCK);
        fn(v, it->rows * it->heads, key, hd, &whole);
        return;
    }
    for (int i = 0; i < it->rows; i++) {
        int from = attn_first(a, first + i) - base, to = first + i + 1 - base;
        if (to <= 0 || from >= BLOCK) continue;
        const struct span part = span_of(a, from > 0 ? (unsigned)from : 0, to < BLOCK ? (unsigned)to : BLOCK);
        fn(v + i * it->heads, it->heads, key, hd, &part);
    }
}

static void run_item(const struct attn *a, const struct item *it, struct vector *v, struct act *out, block_fn *fn)
{
    int hd = a->kv->head_dim, first = it->seq->pos0 + it->row, last = first + it->rows - 1;
    bool bf16 = a->kv->prec == PREC_FAST;
    for (int i = 0; i < it->rows; i++)
        for (int h = 0; h < it->heads; h++) load_query(&v[i * it->heads + h], a->q + place(a, it, i, h), hd, bf16);
    for (int b = attn_first(a, first) / BLOCK; b <= last / BLOCK; b++) attend_block(a, it, v, b, fn);
    for (int i = 0; i < it->rows; i++)
        for (int h = 0; h < it->heads; h++) {
            int column = (it->head + h) * hd;
            store_output(&v[i * it->heads + h], out->x + place(a, it, i, h), hd);
            if (hd % GROUP == 0) act_round_avx512(out, it->seq->row0 + it->row + i, a->heads * hd, column, column + hd);
        }
}

/* How items are cut. */
struct cut {
    int group;  /* query heads per kv head */
    int heads;  /* of an item */
    int splits; /* items per kv head */
    int rows;   /* of an item */
};

static struct cut cut_for(const struct attn *a)
{
    struct cut c = {.group = a->heads / a->kv->kv_heads};
    c.splits = (c.group + HEADS_MAX - 1) / HEADS_MAX;
    c.heads = (c.group + c.splits - 1) / c.splits;
    c.rows = c.heads < VECTORS ? VECTORS / c.heads : 1;
    return c;
}

static int items_of(const struct attn *a, const struct cut *c, const struct attn_seq *seq)
{
    return (seq->rows + c->rows - 1) / c->rows * a->kv->kv_heads * c->splits;
}

static struct item item_at(const struct attn *a, const struct cut *c, int index)
{
    const struct attn_seq *seq = a->seq;
    for (int n; index >= (n = items_of(a, c, seq)); seq++) index -= n;
    int part = index % c->splits, kv_head = index / c->splits % a->kv->kv_heads,
        tile = index / c->splits / a->kv->kv_heads;
    struct item it = {.seq = seq, .row = tile * c->rows, .kv_head = kv_head};
    it.rows = seq->rows - it.row < c->rows ? seq->rows - it.row : c->rows;
    it.head = kv_head * c->group + part * c->heads;
    it.heads = c->group - part * c->heads < c->heads ? c->group - part * c->heads : c->heads;
    return it;
}

static void round_rows(struct kthread *t, const struct attn *a, struct act *out)
{
    int lo, hi, k = a->heads * a->kv->head_dim;
    pool_barrier(t);
    pool_share(t, a->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) act_round_avx512(out, row, k, 0, k);
}

static void attention(struct kthread *t, const struct attn *a, struct act *out, block_fn *fn)
{
    struct cut c = cut_for(a);
    int items = 0;
    for (int s = 0; s < a->nseq; s++) items += items_of(a, &c, &a->seq[s]);
    pool_claim_begin(t);
    for (int i; (i = pool_claim(t, items, 1)) >= 0;) {
        struct item it = item_at(a, &c, items - 1 - i); /* a prompt's last tile sees most: it goes first */
        run_item(a, &it, t->scratch, out, fn);
    }
    if (a->kv->head_dim % GROUP) round_rows(t, a, out); /* a group spans two heads */
}

void attention_fast_avx512(struct kthread *t, const struct attn *a, struct act *out)
{
    if (a->kv->head_dim % 16)
        attention_plain(t, a, out);
    else
        attention(t, a, out, block_fast);
}

void attention_exact_avx512(struct kthread *t, const struct attn *a, struct act *out)
{
    if (a->kv->head_dim % 16)
        attention_plain(t, a, out);
    else
        attention(t, a, out, block_exact);
}
