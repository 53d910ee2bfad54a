/* Attention over pages: online softmax in blocks of 64 positions, from the first that the window reaches.
 *
 * An item of work is one kv head of a sequence and a tile of its rows; the query heads that share the kv head and the
 * tile's rows are its `vectors`. For each block of four pages, in order: scores of up to 4 vectors at once (lanes are
 * tokens), largest score, exponentials, then values (lanes are dimensions). In FAST the cache holds bf16, which a shift
 * and a mask make float32; q, exponentials and sums are float32 in both precisions.
 *
 * Batch invariance: what a row computes is set by its position p and the window alone: blocks (first position
 * seen)/64 .. p/64, of each the tokens that p sees, one sum per score and per output. Blocks that every row of the tile
 * sees whole are computed for 4 vectors together, the others row by row: the same operations in the same order.
 *
 * Never used: slots behind a row's position or before its window (scores of a page's unused lanes are dropped before
 * anything uses them; of a pair of values only the half that is seen is added), other heads. Never read: other pages. */
#include "kernels/act.h"
#include "kernels/attention_sinks.h"
#include "kernels/avx2.h"
#include "kernels/kv.h"
#include "kernels/vector_avx2.h"
#include <math.h>
#include <string.h>

#define BLOCK 64 /* positions */
#define BLOCK_PAGES (BLOCK / KV_PAGE)
#define TOGETHER 4   /* vectors that share the loads of K and V */
#define VECTORS 24   /* of an item, wished */
#define HEADS_MAX 32 /* query heads of an item */

struct vector {
    float most, keep; /* the largest score so far; what the block before is worth now */
    __m256 sum;       /* 8 partial sums of exponentials */
    float s[BLOCK];   /* scores, then their exponentials */
    float q[HEAD_DIM_MAX];
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
    int from, to;
    float scale, softcap;
};

/* The lanes of eight tokens from `token` of the block on that are seen. */
INLINE __m256 seen_of(const struct span *b, int token)
{
    return _mm256_castsi256_ps(_mm256_andnot_si256(lanes8(b->from - token), lanes8(b->to - token)));
}

/* Dimension d (bf16: d and d+1) of 16 tokens at k: s[i] += q_i[d] K. */
INLINE void add_dimension(__m256 s[TOGETHER][2], const struct vector *v, const int V, const bool bf16, const char *k,
                          int d)
{
    __m256 key[2][2]; /* [dimension][half of the tokens] */
    for (int h = 0; h < 2; h++) {
        if (bf16) {
            __m256i pairs = load_bits(k + h * 32);
            key[0][h] = first_bf16(pairs), key[1][h] = second_bf16(pairs);
        } else {
            key[0][h] = _mm256_loadu_ps((const float *)k + h * 8);
        }
    }
    for (int j = 0; j < (bf16 ? 2 : 1); j++)
#pragma GCC unroll 4
        for (int i = 0; i < V; i++) {
            __m256 q = _mm256_broadcast_ss(v[i].q + d + j);
            s[i][0] = _mm256_fmadd_ps(key[j][0], q, s[i][0]);
            s[i][1] = _mm256_fmadd_ps(key[j][1], q, s[i][1]);
        }
}

/* Scores of one page, tokens at .. at+15 of the block, for V vectors. */
INLINE void scores_page(struct vector *v, const int V, const bool bf16, const char *k, int hd, int at)
{
    __m256 s[TOGETHER][2];
#pragma GCC unroll 4
    for (int i = 0; i < V; i++) s[i][0] = s[i][1] = _mm256_setzero_ps();
    for (int d = 0; d < hd; d += bf16 ? 2 : 1, k += 64) add_dimension(s, v, V, bf16, k, d);
#pragma GCC unroll 4
    for (int i = 0; i < V; i++) {
        _mm256_storeu_ps(v[i].s + at, s[i][0]);
        _mm256_storeu_ps(v[i].s + at + 8, s[i][1]);
    }
}

/* s = softcap tanh(s scale / softcap): the scores of a block, scaled and capped. */
static __attribute__((noinline)) void cap_scores(struct vector *v, const struct span *b)
{
    for (int i = b->from / 8 * 8; i < b->to; i += 8) {
        __m256 s = _mm256_mul_ps(_mm256_loadu_ps(v->s + i), _mm256_set1_ps(b->scale));
        s = tanh8(_mm256_div_ps(s, _mm256_set1_ps(b->softcap)));
        _mm256_storeu_ps(v->s + i, _mm256_mul_ps(s, _mm256_set1_ps(b->softcap)));
    }
}

/* Scores become exponentials, of what is not seen zero; keep and the running maximum and sum follow. */
static void softmax_block(struct vector *v, const struct span *b)
{
    const __m256 none = _mm256_set1_ps(-INFINITY), scale = _mm256_set1_ps(b->softcap > 0 ? 1 : b->scale);
    __m256 most = none, sum = _mm256_setzero_ps();
    if (b->softcap > 0) cap_scores(v, b);
    for (int i = 0; i < BLOCK; i += 8) {
        __m256 s = _mm256_blendv_ps(none, _mm256_mul_ps(_mm256_loadu_ps(v->s + i), scale), seen_of(b, i));
        _mm256_storeu_ps(v->s + i, s);
        most = _mm256_max_ps(most, s);
    }
    float larger = fmaxf(v->most, largest(most));
    __m256 keep = exp8(_mm256_set1_ps(v->most - larger));
    for (int i = 0; i < BLOCK; i += 8) {
        __m256 p = exp8(_mm256_sub_ps(_mm256_loadu_ps(v->s + i), _mm256_set1_ps(larger)));
        p = _mm256_and_ps(p, seen_of(b, i));
        _mm256_storeu_ps(v->s + i, p);
        sum = _mm256_add_ps(sum, p);
    }
    v->sum = _mm256_fmadd_ps(v->sum, keep, sum);
    v->keep = _mm256_cvtss_f32(keep);
    v->most = larger;
}

/* y[i] += p V of a token, 16 dimensions of V in w. */
INLINE void add_token(__m256 y[TOGETHER][2], const struct vector *v, const int V, __m256 w0, __m256 w1, int token)
{
#pragma GCC unroll 4
    for (int i = 0; i < V; i++) {
        __m256 p = _mm256_broadcast_ss(v[i].s + token);
        y[i][0] = _mm256_fmadd_ps(w0, p, y[i][0]);
        y[i][1] = _mm256_fmadd_ps(w1, p, y[i][1]);
    }
}

/* Tokens from .. to-1 of the block, dimensions d .. d+15, V in pairs of tokens. */
INLINE void add_pairs(__m256 y[TOGETHER][2], const struct vector *v, const int V, const char *const *value, int hd,
                      int d, int from, int to)
{
    for (int token = from & ~1; token < to; token += 2) {
        const char *w = value[token / KV_PAGE] + ((size_t)(token % KV_PAGE / 2) * (size_t)hd + (size_t)d) * 4;
        __m256i low = load_bits(w), high = load_bits(w + 32);
        if (token >= from) add_token(y, v, V, first_bf16(low), first_bf16(high), token);
        if (token + 1 < to) add_token(y, v, V, second_bf16(low), second_bf16(high), token + 1);
    }
}

INLINE void add_tokens(__m256 y[TOGETHER][2], const struct vector *v, const int V, const char *const *value, int hd,
                       int d, int from, int to)
{
    for (int token = from; token < to; token++) {
        const float *w = (const float *)value[token / KV_PAGE] + (size_t)(token % KV_PAGE) * (size_t)hd + d;
        add_token(y, v, V, _mm256_loadu_ps(w), _mm256_loadu_ps(w + 8), token);
    }
}

/* out_i[d..d+16) = out_i * keep_i + sum over the span's tokens of p V, for V vectors; value[j] is V of page j. */
INLINE void values_chunk(struct vector *v, const int V, const bool bf16, const char *const *value, int hd, int d,
                         const struct span *b)
{
    __m256 y[TOGETHER][2];
#pragma GCC unroll 4
    for (int i = 0; i < V; i++)
        for (int h = 0; h < 2; h++)
            y[i][h] = _mm256_mul_ps(_mm256_loadu_ps(v[i].out + d + h * 8), _mm256_set1_ps(v[i].keep));
    if (bf16)
        add_pairs(y, v, V, value, hd, d, b->from, b->to);
    else
        add_tokens(y, v, V, value, hd, d, b->from, b->to);
#pragma GCC unroll 4
    for (int i = 0; i < V; i++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(v[i].out + d + h * 8, y[i][h]);
}

/* One block for V vectors. */
INLINE void block_of(struct vector *v, const int V, const bool bf16, const char *const *key, int hd,
                     const struct span *b)
{
    const char *value[BLOCK_PAGES];
    for (int j = b->from / KV_PAGE; j * KV_PAGE < b->to; j++) {
        scores_page(v, V, bf16, key[j], hd, j * KV_PAGE);
        value[j] = key[j] + (size_t)KV_PAGE * (size_t)hd * (bf16 ? 2 : 4);
    }
    for (int i = 0; i < V; i++) softmax_block(&v[i], b);
    for (int d = 0; d < hd; d += 16) values_chunk(v, V, bf16, value, hd, d, b);
}

INLINE void block_any(struct vector *v, int count, const bool bf16, const char *const *key, int hd,
                      const struct span *b)
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
        default:
            block_of(v, 4, bf16, key, hd, b);
        }
    }
}

typedef void block_fn(struct vector *v, int count, const char *const *key, int hd, const struct span *b);

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

static void load_query(struct vector *v, const float *q, int hd)
{
    v->most = -INFINITY;
    v->sum = _mm256_setzero_ps();
    memset(v->out, 0, sizeof *v->out * (size_t)hd);
    memcpy(v->q, q, sizeof *v->q * (size_t)hd);
}

/* The sinks join what row i, head h of the item has of its window. */
static void add_sinks(const struct attn *a, const struct item *it, int i, int h, struct vector *v)
{
    float state[ATTN_OUT + HEAD_DIM_MAX], sum = fold(v->sum);
    attn_sinks_plain(a, it->seq, it->seq->pos0 + it->row + i, it->head + h, state);
    attn_sinks_join(state, a->kv->head_dim, &v->most, &sum, v->out);
    v->sum = _mm256_setr_ps(sum, 0, 0, 0, 0, 0, 0, 0);
}

static void store_output(const struct vector *v, float *out, int hd)
{
    __m256 sum = _mm256_set1_ps(fold(v->sum));
    for (int d = 0; d < hd; d += 8) _mm256_storeu_ps(out + d, _mm256_div_ps(_mm256_loadu_ps(v->out + d), sum));
}

/* --- items --- */

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
    struct span span = {0, BLOCK, a->scale, a->softcap};
    if (first >= base + BLOCK - 1 && attn_first(a, last) <= base) {
        fn(v, it->rows * it->heads, key, hd, &span);
        return;
    }
    for (int i = 0; i < it->rows; i++) {
        int from = attn_first(a, first + i) - base, to = first + i + 1 - base;
        if (to <= 0 || from >= BLOCK) continue;
        span.from = from > 0 ? from : 0, span.to = to < BLOCK ? to : BLOCK;
        fn(v + i * it->heads, it->heads, key, hd, &span);
    }
}

static void run_item(const struct attn *a, const struct item *it, struct vector *v, struct act *out, block_fn *fn)
{
    int hd = a->kv->head_dim, first = it->seq->pos0 + it->row, last = first + it->rows - 1;
    for (int i = 0; i < it->rows; i++)
        for (int h = 0; h < it->heads; h++) load_query(&v[i * it->heads + h], a->q + place(a, it, i, h), hd);
    for (int b = attn_first(a, first) / BLOCK; b <= last / BLOCK; b++) attend_block(a, it, v, b, fn);
    for (int i = 0; i < it->rows; i++)
        for (int h = 0; h < it->heads; h++) {
            float y[HEAD_DIM_MAX], *to = hd % GROUP ? out->x + place(a, it, i, h) : y;
            if (attn_sees_sinks(a, first + i)) add_sinks(a, it, i, h, &v[i * it->heads + h]);
            store_output(&v[i * it->heads + h], to, hd);
            if (hd % GROUP) continue;
            act_put_avx2(out, it->seq->row0 + it->row + i, a->heads * hd, (it->head + h) * hd, hd, y);
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
    for (int row = lo; row < hi; row++) act_put_avx2(out, row, k, 0, k, out->x + (size_t)row * (size_t)k);
}

static void attention(struct kthread *t, const struct attn *a, struct act *out, block_fn *fn)
{
    if (a->kv->head_dim % 16 || a->kv->type == KV_INT8) {
        attention_plain(t, a, out);
        return;
    }
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

void attention_fast_avx2(struct kthread *t, const struct attn *a, struct act *out)
{
    attention(t, a, out, block_fast);
}

void attention_exact_avx2(struct kthread *t, const struct attn *a, struct act *out)
{
    attention(t, a, out, block_exact);
}
