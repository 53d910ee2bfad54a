/* Private to kernels/: an item of attention from its queries to its sums, for all types of cache: memory, pages, segments.
 * The file that includes this gives what its type is (attention_block_avx512.h).
 *
 *     queries -> each block: each kv head: find its pages, its groups -> end of a segment: its states are joined to the
 *     total of each vector, or, where the positions of the rows are divided among items, put down in `partial`
 *
 * Memory is the thread's scratch, laid out anew for each item; nothing of an item outlives it but its output. */
#pragma once
#include "kernels/attention_block_avx512.h"

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
