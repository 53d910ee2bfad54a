/* Matrix products with adapters: the part that all tables share.
 *
 * An item of work is one panel (32 outputs) of one `out` times up to BLOCK_ROWS rows, of one product or of a list of
 * them that share their barriers (the experts of a layer). Its sums lie in a tile on the stack: the inner loop fills it,
 * each adapter of the block adds its B v, then bias and residual, then one store. So an adapter costs its own bytes and
 * multiplications and no pass over y. The adapters that a segment sums are added in the segment's order; DoRA's factors
 * are applied to the segment's rows of the tile when its sum is complete, before the bias.
 *
 *   shrink (dealt) -> barrier -> items (claimed): panel -> expand per segment -> bias, residual, store
 *
 * Up to FEW_ROWS rows take two panels at once where the table has that: a panel alone has fewer sums than the multipliers
 * need to be busy.
 *
 * A thread claims the items of its own half (its n-th) in order, so that what the inner loops ask for in advance is what
 * the thread takes next, and then helps the others from their ends: the end is even also when another process takes a
 * core (a static split doubles every step then).
 *
 * Prefetch: while an item is computed, the lines of B that it will add are brought in. Bringing in the A of the next
 * product as well was tried and cost more than it gave (0.75 instead of 0.80 of the base's rate at 4 rows): the memory
 * is busy anyway.
 *
 * Batch invariance: an item's inner loop keeps one sum per (row, output) in the order of k, the expand goes on in the
 * order of the ranks; how rows are cut into tiles changes nothing. */
#include "kernels/matmul.h"
#include <assert.h>

#define LINE 64 /* prefetching functions are always inlined: gcc drops calls of what it takes to be without effect */

#define FETCH_ROWS 32
#define GATED_PANELS 4 /* of a gate, then of what it gates: few rows read longer runs */

/* `panels` of one out, 1 or 2 together; of a gated product those of out[0] and as many of out[1]. */
struct item {
    int out, panel, panels, row0, rows;
};

static int panels_of(const struct weight *w)
{
    return (w->n + PANEL - 1) / PANEL;
}

static inline __attribute__((always_inline)) void prefetch_lines(const char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE) __builtin_prefetch(p + i);
}

/* The rows that a segment and the block have in common, relative to the block; false: none. */
static bool overlap(const struct lora_seg *seg, int row0, int rows, int *lo, int *hi)
{
    *lo = seg->row0 > row0 ? seg->row0 - row0 : 0;
    *hi = seg->row0 + seg->rows < row0 + rows ? seg->row0 + seg->rows - row0 : rows;
    return *lo < *hi;
}

/* Touch the B panels that expand() will read, while the base's panel is computed. */
static inline __attribute__((always_inline)) void prefetch_adapters(const struct mm *m, const struct item *it,
                                                                    size_t element)
{
    int lo, hi;
    for (int s = 0; m->lora && s < m->lora->nseg; s++) {
        const struct lora_seg *seg = &m->lora->seg[s];
        if (!overlap(seg, it->row0, it->rows, &lo, &hi)) continue;
        for (int u = 0; u < seg->nuse; u++) {
            const struct lora_mod *mod = lora_mod_of(m, &seg->use[u], &m->out[it->out]);
            size_t bytes = mod ? (size_t)mod->r * PANEL * element : 0;
            if (mod) prefetch_lines((const char *)mod->b + (size_t)it->panel * bytes, bytes * (size_t)it->panels);
        }
    }
}

/* DoRA: the sums of `rows` rows times the factor of their output. */
static void scale_rows(const struct mm_out *out, int panel, const float *factor, int rows, float *acc)
{
    int n0 = panel * PANEL, count = out->w->n - n0 < PANEL ? out->w->n - n0 : PANEL;
    for (int row = 0; row < rows; row++, acc += PANEL)
        for (int i = 0; i < count; i++) acc[i] *= factor[n0 + i];
}

/* The uses of a segment on `rows` rows of the tile; v and acc stand at the first one. */
static void expand_uses(const struct mm *m, const struct item *it, const struct lora_seg *seg, int rows, const float *v,
                        float *acc, lora_expand_fn *fn)
{
    const struct mm_out *out = &m->out[it->out];
    for (int u = 0; u < seg->nuse; u++) {
        const struct lora_mod *mod = lora_mod_of(m, &seg->use[u], out);
        if (!mod) continue;
        fn(mod, it->panel, v, m->shrink_ld, rows, acc);
        if (mod->row_scale) scale_rows(out, it->panel, mod->row_scale, rows, acc);
        v += lora_rank_pad(mod->r);
    }
}

static void expand(const struct mm *m, const struct item *it, float *acc, lora_expand_fn *fn)
{
    const float *v = m->shrink + ((size_t)it->out * (size_t)m->rows + (size_t)it->row0) * (size_t)m->shrink_ld;
    int lo, hi;
    for (int s = 0; m->lora && s < m->lora->nseg; s++) {
        const struct lora_seg *seg = &m->lora->seg[s];
        if (overlap(seg, it->row0, it->rows, &lo, &hi))
            expand_uses(m, it, seg, hi - lo, v + (size_t)lo * (size_t)m->shrink_ld, acc + lo * PANEL, fn);
    }
}

void store_plain(float *y, int ldy, bool add, const float *bias, int count, int rows, const float *acc)
{
    for (int row = 0; row < rows; row++, acc += PANEL, y += ldy)
        for (int i = 0; i < count; i++) {
            float sum = bias ? acc[i] + bias[i] : acc[i];
            y[i] = add ? y[i] + sum : sum;
        }
}

static void store(const struct mm_out *out, const struct item *it, const float *acc, store_fn *fn)
{
    int n0 = it->panel * PANEL, count = out->w->n - n0 < PANEL ? out->w->n - n0 : PANEL;
    float *y = out->y + (size_t)it->row0 * (size_t)out->ldy + n0;
    fn(y, out->ldy, out->add, out->bias ? out->bias + n0 : NULL, count, it->rows, acc);
}

/* Bring the lines of y that store() will write near, while the sums are made. */
static inline __attribute__((always_inline)) void prefetch_y(const struct mm_out *out, const struct item *it)
{
    const float *y = out->y + (size_t)it->row0 * (size_t)out->ldy + it->panel * PANEL;
    for (int row = 0; row < it->rows; row++, y += out->ldy)
        for (int i = 0; i < it->panels * PANEL; i += LINE / 4) __builtin_prefetch(y + i, 1, 2);
}

/* Panels of an item. */
static int panels_each(const struct mm *m)
{
    int fit = m->gated && m->rows > 0 ? BLOCK_ROWS / m->rows : 1;
    return fit < 1 ? 1 : fit < GATED_PANELS ? fit : GATED_PANELS;
}

/* Items of a block of rows. */
static int items_across(const struct mm *m)
{
    int panels = 0, each = panels_each(m);
    if (m->gated) return (panels_of(m->out[0].w) + each - 1) / each;
    for (int o = 0; o < m->nout; o++) panels += panels_of(m->out[o].w);
    return panels;
}

/* Items go by panels, and for each panel by the blocks of rows. With enough rows each thread has blocks of its own, the
 * same ones in every product, so that it finds in its own cache what it wrote there. */
static struct item item_at(const struct mm *m, int threads, int index)
{
    int blocks = (m->rows + BLOCK_ROWS - 1) / BLOCK_ROWS, parts = blocks < threads ? 1 : threads;
    int all = items_across(m), each = panels_each(m), part = 0, first = 0, count = blocks / parts;
    while (index >= all * count) {
        index -= all * count;
        first += count;
        part++;
        count = blocks * (part + 1) / parts - first;
    }
    struct item it = {.panel = index / count * each, .panels = each, .row0 = (first + index % count) * BLOCK_ROWS};
    while (it.panel >= panels_of(m->out[it.out].w)) it.panel -= panels_of(m->out[it.out++].w);
    if (it.panel + each > panels_of(m->out[it.out].w)) it.panels = panels_of(m->out[it.out].w) - it.panel;
    it.rows = m->rows - it.row0 < BLOCK_ROWS ? m->rows - it.row0 : BLOCK_ROWS;
    return it;
}

/* Rows whose adapter brings a whole lm_head take their sums from it. They were summed over the base's before: rare
 * enough not to cut the base's tile for it. */
static void replace_head(struct kthread *t, const struct mm *m, const struct mm_ops *ops, const struct item *it,
                         float *acc)
{
    int lo, hi;
    for (int s = 0; m->lora && s < m->lora->nseg; s++) {
        const struct lora_seg *seg = &m->lora->seg[s];
        const struct weight *w = seg->nuse == 1 && seg->use[0].t ? seg->use[0].t->head_full : NULL;
        if (w && overlap(seg, it->row0, it->rows, &lo, &hi))
            ops->panel[w->layout](t, w, it->panel, m->in, it->row0 + lo, hi - lo, acc + lo * PANEL);
    }
}

static bool has_pairs(const struct mm *m, const struct mm_out *out, const struct mm_ops *ops)
{
    return m->rows > 1 && m->rows <= FEW_ROWS && ops->pair[out->w->layout];
}

/* The item's panels of one out, with what its adapters add: each a tile of rows * PANEL sums. */
static void sum_panels(struct kthread *t, const struct mm *m, const struct mm_ops *ops, const struct item *item,
                       float *acc)
{
    const struct mm_out *out = &m->out[item->out];
    int tile = item->rows * PANEL, layout = out->w->layout;
    struct item it = *item;
    for (int p = 0, n; p < item->panels; p += n) {
        n = p + 1 < item->panels && has_pairs(m, out, ops) ? 2 : 1;
        for (it.panel = item->panel + p; it.panel < item->panel + p + n; it.panel++)
            prefetch_adapters(m, &it, ops->element);
        if (n == 2)
            ops->pair[layout](out->w, item->panel + p, m->in, it.row0, it.rows, acc + p * tile);
        else
            ops->panel[layout](t, out->w, item->panel + p, m->in, it.row0, it.rows, acc + p * tile);
    }
    it.panel = item->panel;
    for (int p = 0; p < item->panels; p++, it.panel++) {
        if (out->module == MM_HEAD) replace_head(t, m, ops, &it, acc + p * tile);
        expand(m, &it, acc + p * tile, ops->expand);
    }
}

/* Outputs n0 .. of the panel at n0 that there are. */
static int outputs_of(const struct weight *w, int n0)
{
    return w->n - n0 < PANEL ? w->n - n0 : PANEL;
}

static void add_bias(const struct mm_out *out, int panel, int rows, float *acc)
{
    int n0 = panel * PANEL, count = outputs_of(out->w, n0);
    for (int row = 0; out->bias && row < rows; row++, acc += PANEL)
        for (int i = 0; i < count; i++) acc[i] += out->bias[n0 + i];
}

/* The panels of the gate, then those of what it gates, then both together: neither leaves the first-level cache. */
static void run_gated(struct kthread *t, const struct mm *m, const struct mm_ops *ops, const struct item *it)
{
    _Alignas(LINE) float acc[2][BLOCK_ROWS * PANEL];
    int tile = it->rows * PANEL;
    for (int o = 0; o < 2; o++) {
        struct item half = *it;
        half.out = o;
        sum_panels(t, m, ops, &half, acc[o]);
        for (int p = 0; p < it->panels; p++) add_bias(&m->out[o], it->panel + p, it->rows, acc[o] + p * tile);
    }
    for (int p = 0; p < it->panels; p++) {
        int c0 = (it->panel + p) * PANEL, n = m->out[0].w->n;
        ops->gate(m->gate, acc[0] + p * tile, acc[1] + p * tile, outputs_of(m->out[0].w, c0), it->rows, m->gated,
                  it->row0, n, c0);
    }
}

static void run_item(struct kthread *t, const struct mm *m, const struct mm_ops *ops, const struct item *it)
{
    _Alignas(LINE) float acc[BLOCK_ROWS * PANEL];
    if (m->gated) {
        run_gated(t, m, ops, it);
        return;
    }
    prefetch_y(&m->out[it->out], it);
    sum_panels(t, m, ops, it, acc);
    struct item one = *it;
    for (int p = 0; p < it->panels; p++, one.panel++)
        store(&m->out[it->out], &one, acc + p * it->rows * PANEL, ops->store);
}

static int items_of(const struct mm *m)
{
    return items_across(m) * ((m->rows + BLOCK_ROWS - 1) / BLOCK_ROWS);
}

/* The product of a list that an item belongs to: its items start at `first`. */
struct cursor {
    const struct mm *m;
    int first, items;
};

static void seek(struct cursor *c, int index)
{
    while (index < c->first) {
        c->items = items_of(--c->m);
        c->first -= c->items;
    }
    while (index >= c->first + c->items) {
        c->first += c->items;
        c->items = items_of(++c->m);
    }
}

/* The rows' bytes into the caches, all at once: half of them were made by another core, and the inner loops would wait
 * for their lines one after the other. Many rows hide that behind their products, as bf16 does. */
static void fetch_rows(const struct mm *m)
{
    const struct act *in = m->in;
    size_t values = (size_t)m->rows * (size_t)m->out[0].w->k;
    if (m->rows > FETCH_ROWS || weight_act_form(m->out[0].w->layout) != ACT_Q8 || !in->q8) return;
    prefetch_lines((const char *)in->q8, values);
    prefetch_lines((const char *)in->q8_scale, values / GROUP * sizeof *in->q8_scale);
    prefetch_lines((const char *)in->q8_sum, values / GROUP * sizeof *in->q8_sum);
}

/* Items index .. index+n-1; two panels of an output together where that pays. */
static void run_items(struct kthread *t, struct cursor *c, int index, int n, const struct mm_ops *ops)
{
    for (int taken; n > 0; index += taken, n -= taken) {
        seek(c, index);
        struct item it = item_at(c->m, t->n, index - c->first);
        const struct mm_out *out = &c->m->out[it.out];
        taken = n > 1 && it.panel + 1 < panels_of(out->w) && has_pairs(c->m, out, ops) ? 2 : 1;
        if (!c->m->gated) it.panels = taken;
        run_item(t, c->m, ops, &it);
    }
}

void matmul_run(struct kthread *t, const struct mm *m, int n, const struct mm_ops *ops)
{
    bool adapted = false;
    int items = 0, index, count = 0;
    for (int i = 0; i < n; i++) {
        assert(m[i].nout >= 1 && m[i].nout <= MM_OUTS);
        items += items_of(&m[i]);
        if (!lora_any(&m[i])) continue;
        lora_shrink_share(t, &m[i], ops->shrink, ops->element);
        adapted = true;
    }
    if (adapted) pool_barrier(t);
    if (n == 1) fetch_rows(m);
    pool_claim_begin(t);
    struct cursor c = {m, 0, n > 0 ? items_of(m) : 0};
    int most = n == 1 && !m->gated && has_pairs(m, &m->out[0], ops) ? 2 : 1;
    while ((index = pool_claim_near(t, items, most, &count)) >= 0) run_items(t, &c, index, count, ops);
}
