/* Attention over pages: which work there is, who does it, and how the sums of segments become a row's.
 *
 * An item is a tile of a sequence's rows and some of its kv heads with the query heads that share them; how one is
 * computed is attention_item_avx512.h's. Items are claimed. A sequence with many rows is cut into tiles and kv heads, one
 * with few rows and a long past by segments of its positions, so that no item is more than a share of the step: a prompt
 * of 32,000 tokens and one decoding row beside it keep all threads equally busy. The states of segments that were cut apart wait in
 * `partial` and are added up after a barrier, each vector by one thread, in the order of positions, exactly as the thread
 * that has them all would have added them.
 *
 *     claim items (whole ones go to the output, others to partial) -> barrier, if any was cut -> add up partial
 *
 * Batch invariance: segments depend on positions alone (attention_avx512.h); cuts decide only who computes what. */
#include "kernels/attention_sinks.h"
#include "kernels/act_avx512.h"
#include "kernels/avx512.h"
#include "kernels/vector.h"
#include <string.h>

#define SHARES 4       /* items per thread, wished */
#define VECTORS_MIN 12 /* of a tile: fewer would read K and V too often */

/* How all sequences of a step are cut. */
struct cut {
    int group;     /* query heads per kv head */
    int heads;     /* of an item */
    int splits;    /* items that a kv head's query heads make */
    double target; /* pairs of a vector and a position in an item, wished */
    bool many;     /* threads */
};

/* How one sequence is cut. */
struct shape {
    int rows, tiles;        /* of a tile; tiles */
    int kv_parts;           /* by kv heads */
    int parts;              /* by positions; 1: not cut */
    int segment0, segments; /* that its rows see */
    float *partial;         /* of its first head's first row; NULL where parts is 1 */
    int items;
};

struct attn_walk {
    struct kthread *t;
    const struct attn *a;
    struct cut cut;
    struct shape shape; /* of the sequence that the walk is at */
    int seq, first;     /* its number, the number of its first item */
    size_t taken;       /* floats of `partial` that the sequences before have */
    int items;          /* of the step */
};

static int last_pos(const struct attn_seq *seq)
{
    return seq->pos0 + seq->rows - 1;
}

/* Positions that a sequence's last row sees. */
static double positions_of(const struct attn *a, const struct attn_seq *seq)
{
    return last_pos(seq) + 1 - attn_first(a, last_pos(seq));
}

static struct cut cut_for(const struct kthread *t, const struct attn *a)
{
    struct cut c = {.group = a->heads / a->kv->kv_heads, .many = t->n > 1};
    c.splits = (c.group + ATTN_HEADS - 1) / ATTN_HEADS;
    c.heads = (c.group + c.splits - 1) / c.splits;
    for (int s = 0; s < a->nseq; s++) c.target += positions_of(a, &a->seq[s]) * a->seq[s].rows * a->heads;
    c.target /= SHARES * t->n;
    return c;
}

/* A sequence of few rows: into as many items as its work is worth, by positions first, because the kv heads of a page lie
 * side by side, and if there is memory for the states. */
static void cut_positions(const struct attn *a, const struct cut *c, const struct attn_seq *seq, size_t taken,
                          struct shape *s)
{
    size_t floats = (size_t)(seq->rows * a->heads) * (size_t)s->segments * attn_state_floats(a->kv->head_dim);
    double work = positions_of(a, seq) * seq->rows * a->heads;
    int most = a->heads * s->rows, wish = work / c->target < most ? (int)(work / c->target) + 1 : most;
    if (wish > 1 && s->segments > 1 && c->many && taken + floats <= a->partial_floats) {
        s->parts = wish < s->segments ? wish : s->segments;
        s->partial = a->partial + taken;
    }
    int kv_parts = (wish + s->parts - 1) / s->parts, vectors = s->rows * a->heads;
    if (kv_parts * ATTN_VECTORS < vectors) kv_parts = (vectors + ATTN_VECTORS - 1) / ATTN_VECTORS;
    if (c->splits == 1 && kv_parts < a->kv->kv_heads) s->kv_parts = kv_parts;
}

static struct shape shape_of(const struct attn *a, const struct cut *c, const struct attn_seq *seq, size_t taken)
{
    int most = ATTN_VECTORS / c->heads, least = (VECTORS_MIN + c->heads - 1) / c->heads;
    double wish = c->target / (positions_of(a, seq) * c->heads);
    struct shape s = {.rows = wish < most ? (int)wish : most, .parts = 1, .kv_parts = a->kv->kv_heads};
    if (s.rows < least) s.rows = least < most ? least : most;
    if (s.rows > seq->rows) s.rows = seq->rows;
    s.tiles = (seq->rows + s.rows - 1) / s.rows;
    s.segment0 = attn_segment_of(attn_first(a, seq->pos0));
    s.segments = attn_segment_of(last_pos(seq)) + 1 - s.segment0;
    if (s.tiles == 1) cut_positions(a, c, seq, taken, &s);
    s.items = s.tiles * s.parts * s.kv_parts * c->splits;
    return s;
}

static size_t floats_of(const struct attn *a, const struct attn_seq *seq, const struct shape *s)
{
    if (!s->partial) return 0;
    return (size_t)(seq->rows * a->heads) * (size_t)s->segments * attn_state_floats(a->kv->head_dim);
}

static void walk_begin(struct attn_walk *w)
{
    w->seq = w->first = 0;
    w->taken = 0;
    w->shape = shape_of(w->a, &w->cut, &w->a->seq[0], 0);
}

/* To the next sequence; false: that was the last. */
static bool walk_on(struct attn_walk *w)
{
    w->taken += floats_of(w->a, &w->a->seq[w->seq], &w->shape);
    w->first += w->shape.items;
    if (++w->seq == w->a->nseq) return false;
    w->shape = shape_of(w->a, &w->cut, &w->a->seq[w->seq], w->taken);
    return true;
}

/* Part `part` of the segments begins with segment .. of those that the sequence sees: parts are even in positions. */
static int part_begins(const struct attn *a, const struct attn_seq *seq, const struct shape *s, int part)
{
    int from = attn_first(a, seq->pos0), n = last_pos(seq) + 1 - from;
    if (part == 0) return s->segment0;
    if (part == s->parts) return s->segment0 + s->segments;
    return attn_segment_of(from + (int)((int64_t)n * part / s->parts));
}

static struct attn_item item_at(const struct attn_walk *w, int index)
{
    const struct attn *a = w->a;
    const struct cut *c = &w->cut;
    const struct shape *s = &w->shape;
    const struct attn_seq *seq = &a->seq[w->seq];
    int split = index % c->splits, kv_part = index / c->splits % s->kv_parts;
    int at = index / c->splits / s->kv_parts, tile = s->tiles - 1 - at / s->parts; /* the last tile sees most */
    struct attn_item it = {.seq = seq, .row = tile * s->rows, .kv_head = a->kv->kv_heads * kv_part / s->kv_parts};
    it.kv_heads = a->kv->kv_heads * (kv_part + 1) / s->kv_parts - it.kv_head;
    it.rows = seq->rows - it.row < s->rows ? seq->rows - it.row : s->rows;
    it.head = it.kv_head * c->group + split * c->heads;
    it.heads = c->group - split * c->heads < c->heads ? c->group - split * c->heads : c->heads;
    it.first = attn_first(a, seq->pos0 + it.row);
    it.last = seq->pos0 + it.row + it.rows - 1;
    if (!s->partial) return it;
    int lo = part_begins(a, seq, s, at % s->parts), hi = part_begins(a, seq, s, at % s->parts + 1);
    if (attn_segment_start(lo) > it.first) it.first = attn_segment_start(lo);
    if (attn_segment_start(hi) - 1 < it.last) it.last = attn_segment_start(hi) - 1;
    it.segment0 = s->segment0;
    it.segments = s->segments;
    it.partial = s->partial + (size_t)(it.head * seq->rows) * (size_t)s->segments * attn_state_floats(a->kv->head_dim);
    return it;
}

bool attn_claim(struct attn_walk *w, struct attn_item *out)
{
    for (int i; (i = pool_claim(w->t, w->items, 1)) >= 0;) {
        while (i >= w->first + w->shape.items) walk_on(w);
        *out = item_at(w, i - w->first);
        if (out->first <= out->last) return true; /* else: a part between two bounds of one segment */
    }
    return false;
}

/* --- sums of segments --- */

void attn_join(float *total, const float *state, int head_dim)
{
    if (state[ATTN_MOST] == -INFINITY && state[ATTN_SUM] == 0) return; /* its window lies behind */
    if (total[ATTN_MOST] == -INFINITY && total[ATTN_SUM] == 0) {
        memcpy(total, state, sizeof *total * attn_state_floats(head_dim));
        return;
    }
    float most = fmaxf(total[ATTN_MOST], state[ATTN_MOST]);
    __m512 keep = exp16(_mm512_set1_ps((total[ATTN_MOST] - most)));
    __m512 gain = exp16(_mm512_set1_ps((state[ATTN_MOST] - most)));
    total[ATTN_MOST] = most;
    total[ATTN_SUM] = total[ATTN_SUM] * _mm512_cvtss_f32(keep) + state[ATTN_SUM] * _mm512_cvtss_f32(gain);
    for (int d = ATTN_OUT; d < ATTN_OUT + head_dim; d += 16) {
        __m512 add = _mm512_mul_ps(_mm512_loadu_ps(state + d), gain);
        _mm512_storeu_ps(total + d, _mm512_fmadd_ps(_mm512_loadu_ps(total + d), keep, add));
    }
}

void attn_clear(float *state, int head_dim)
{
    state[ATTN_MOST] = -INFINITY;
    state[ATTN_SUM] = 0;
    memset(state + ATTN_OUT, 0, sizeof *state * (size_t)head_dim);
}

/* `total`, or in `with` what it is together with the sinks, where the row sees them apart. */
static const float *with_sinks(const struct attn *a, int row, int head, const float *total, float *with)
{
    const struct attn_seq *seq = attn_seq_of(a, row);
    int pos = seq->pos0 + row - seq->row0, hd = a->kv->head_dim;
    if (!attn_sees_sinks(a, pos)) return total;
    attn_sinks_avx512(a, seq, pos, head, with);
    attn_join(with, total, hd);
    return with;
}

void attn_finish(const struct attn *a, int row, int head, const float *total, struct act *out)
{
    int hd = a->kv->head_dim;
    float with[ATTN_OUT + HEAD_DIM_MAX];
    if (a->sinks) total = with_sinks(a, row, head, total, with);
    size_t at = (size_t)row * (size_t)(a->heads * hd) + (size_t)(head * hd);
    __m512 sum = _mm512_set1_ps(total[ATTN_SUM]);
    float y[HEAD_DIM_MAX], *to = hd % GROUP ? out->x + at : y; /* else a group spans two heads */
    for (int d = 0; d < hd; d += 16)
        _mm512_storeu_ps(to + d, _mm512_div_ps(_mm512_loadu_ps(total + ATTN_OUT + d), sum));
    if (hd % GROUP == 0) act_put_avx512(out, row, a->heads * hd, head * hd, hd, y);
}

/* Row and head of vector v of a sequence that was cut: items by kv head and split, in each [row][head]. */
static void vector_at(const struct attn_walk *w, int v, int *row, int *head)
{
    int rows = w->a->seq[w->seq].rows, group = w->cut.group, kv_head = v / (group * rows), left = v % (group * rows);
    int split = left / (w->cut.heads * rows), heads = group - split * w->cut.heads;
    if (heads > w->cut.heads) heads = w->cut.heads;
    left -= split * w->cut.heads * rows;
    *row = left / heads;
    *head = kv_head * group + split * w->cut.heads + left % heads;
}

/* Vectors lo .. hi-1 of a sequence that was cut. */
static void add_up(const struct attn_walk *w, int lo, int hi, struct act *out)
{
    int hd = w->a->kv->head_dim, row, head;
    float total[ATTN_OUT + HEAD_DIM_MAX];
    for (int v = lo; v < hi; v++) {
        const float *state = w->shape.partial + (size_t)v * (size_t)w->shape.segments * attn_state_floats(hd);
        attn_clear(total, hd);
        for (int i = 0; i < w->shape.segments; i++) attn_join(total, state + (size_t)i * attn_state_floats(hd), hd);
        vector_at(w, v, &row, &head);
        attn_finish(w->a, w->a->seq[w->seq].row0 + row, head, total, out);
    }
}

/* Each thread takes its share of every cut sequence's vectors. */
static void add_all_up(struct kthread *t, struct attn_walk *w, struct act *out)
{
    walk_begin(w);
    do {
        int lo, hi;
        if (!w->shape.partial) continue;
        pool_share(t, w->a->seq[w->seq].rows * w->a->heads, &lo, &hi);
        add_up(w, lo, hi, out);
    } while (walk_on(w));
}

/* --- the operation --- */

static void round_rows(struct kthread *t, const struct attn *a, struct act *out)
{
    int lo, hi, k = a->heads * a->kv->head_dim;
    pool_barrier(t);
    pool_share(t, a->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) act_put_avx512(out, row, k, 0, k, out->x + (size_t)row * (size_t)k);
}

static void attention(struct kthread *t, const struct attn *a, struct act *out, attn_run_fn *run)
{
    struct attn_walk w = {.t = t, .a = a, .cut = cut_for(t, a)};
    struct attn_item it[2];
    bool cut = false;
    if (a->nseq == 0) return;
    walk_begin(&w);
    do {
        w.items += w.shape.items;
        cut = cut || w.shape.partial;
    } while (walk_on(&w));
    walk_begin(&w);
    pool_claim_begin(t);
    bool more = attn_claim(&w, &it[0]);
    for (int i = 0; more; i = !i) more = run(a, &it[i], &w, &it[!i], t->scratch, out);
    if (cut) {
        pool_barrier(t);
        add_all_up(t, &w, out);
    }
    if (a->kv->head_dim % GROUP) round_rows(t, a, out); /* a group spans two heads */
}

void attention_fast_avx512(struct kthread *t, const struct attn *a, struct act *out)
{
    if (a->kv->head_dim % 16)
        attention_plain(t, a, out);
    else
        attention(t, a, out, a->kv->type == KV_INT8 ? attn_run_int8_avx512 : attn_run_bf16_avx512);
}

void attention_exact_avx512(struct kthread *t, const struct attn *a, struct act *out)
{
    if (a->kv->head_dim % 16)
        attention_plain(t, a, out);
    else
        attention(t, a, out, attn_run_f32_avx512);
}
