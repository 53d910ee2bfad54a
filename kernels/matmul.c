/* Matrix products with adapters: the part that all tables share.
 *
 * An item of work is one panel (32 outputs) of one `out` times up to BLOCK_ROWS rows. Its sums lie in a tile on the
 * stack: the inner loop fills it, each adapter of the block adds its B v, then bias and residual, then one store. So an
 * adapter costs its own bytes and multiplications and no pass over y.
 *
 *   shrink (dealt) -> barrier -> items (claimed): panel -> expand per segment -> bias, residual, store
 *
 * Items are claimed by ticket: a ticket is worth half of what is left, divided among the threads, so that a claim's
 * cost is paid few times and the end is still even when another process takes a core (a static split doubles every step
 * then).
 *
 * Prefetch: while an item is computed, the lines of B that it will add are brought in. Bringing in the A of the next
 * product as well was tried and cost more than it gave (0.75 instead of 0.80 of the base's rate at 4 rows): the memory
 * is busy anyway.
 *
 * Batch invariance: an item's inner loop keeps one sum per (row, output) in the order of k, the expand goes on in the
 * order of the ranks; how rows are cut into tiles changes nothing. */
#include "kernels/matmul.h"
#include <assert.h>

#define LINE 64

struct item {
    int out, panel, row0, rows;
};

static int panels_of(const struct weight *w)
{
    return (w->n + PANEL - 1) / PANEL;
}

/* Items of a ticket: tickets go out in rounds of n, each worth 1/(2 n) of what the rounds before have left. False: past
 * the end. */
static bool ticket_items(int ticket, int n, int items, int *lo, int *hi)
{
    int first = 0;
    for (;;) {
        int left = items - first;
        if (left <= 0) return false;
        int each = left / (2 * n) > 1 ? left / (2 * n) : 1;
        if (ticket < n) {
            *lo = first + ticket * each;
            *hi = *lo + each < items ? *lo + each : items;
            return *lo < items;
        }
        ticket -= n;
        first += n * each;
    }
}

static void prefetch_lines(const char *p, size_t bytes)
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
static void prefetch_adapters(const struct mm *m, const struct item *it, size_t element)
{
    int lo, hi;
    for (int s = 0; m->lora && s < m->lora->nseg; s++) {
        const struct lora_seg *seg = &m->lora->seg[s];
        if (!overlap(seg, it->row0, it->rows, &lo, &hi)) continue;
        const struct lora_mod *mod = lora_mod_of(m, seg, &m->out[it->out]);
        size_t bytes = mod ? (size_t)mod->r * PANEL * element : 0;
        if (mod) prefetch_lines((const char *)mod->b + (size_t)it->panel * bytes, bytes);
    }
}

static void expand(const struct mm *m, const struct item *it, float *acc, lora_expand_fn *fn)
{
    const float *v = m->shrink + ((size_t)it->out * (size_t)m->rows + (size_t)it->row0) * (size_t)m->shrink_ld;
    int lo, hi;
    for (int s = 0; m->lora && s < m->lora->nseg; s++) {
        const struct lora_seg *seg = &m->lora->seg[s];
        const struct lora_mod *mod = lora_mod_of(m, seg, &m->out[it->out]);
        if (mod && overlap(seg, it->row0, it->rows, &lo, &hi))
            fn(mod, it->panel, v + (size_t)lo * (size_t)m->shrink_ld, m->shrink_ld, hi - lo, acc + lo * PANEL);
    }
}

static void store(const struct mm_out *out, const struct item *it, const float *acc)
{
    int n0 = it->panel * PANEL, count = out->w->n - n0 < PANEL ? out->w->n - n0 : PANEL;
    for (int row = 0; row < it->rows; row++, acc += PANEL) {
        float *y = out->y + (size_t)(it->row0 + row) * (size_t)out->ldy + n0;
        for (int i = 0; i < count; i++) {
            float sum = acc[i];
            if (out->bias) sum += out->bias[n0 + i];
            y[i] = out->add ? y[i] + sum : sum;
        }
    }
}

static struct item item_at(const struct mm *m, int index)
{
    int blocks = (m->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    struct item it = {.panel = index / blocks, .row0 = index % blocks * BLOCK_ROWS};
    while (it.panel >= panels_of(m->out[it.out].w)) it.panel -= panels_of(m->out[it.out++].w);
    it.rows = m->rows - it.row0 < BLOCK_ROWS ? m->rows - it.row0 : BLOCK_ROWS;
    return it;
}

static void run_item(struct kthread *t, const struct mm *m, const struct mm_ops *ops, const struct item *it)
{
    _Alignas(LINE) float acc[BLOCK_ROWS * PANEL];
    const struct mm_out *out = &m->out[it->out];
    prefetch_adapters(m, it, ops->element);
    ops->panel[out->w->layout](t, out->w, it->panel, m->in, it->row0, it->rows, acc);
    expand(m, it, acc, ops->expand);
    store(out, it, acc);
}

void matmul_run(struct kthread *t, const struct mm *m, const struct mm_ops *ops)
{
    assert(m->nout >= 1 && m->nout <= MM_OUTS);
    if (lora_any(m)) {
        lora_shrink_share(t, m, ops->shrink);
        pool_barrier(t);
    }
    int items = 0, ticket, lo, hi;
    for (int o = 0; o < m->nout; o++) items += panels_of(m->out[o].w);
    items *= (m->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    pool_claim_begin(t);
    while ((ticket = pool_claim(t, items, 1)) >= 0 && ticket_items(ticket, t->n, items, &lo, &hi))
        for (int i = lo; i < hi; i++) {
            struct item it = item_at(m, i);
            run_item(t, m, ops, &it);
        }
}
