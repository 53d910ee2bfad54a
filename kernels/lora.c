/* Adapters, plain: packing, the shrink v = scale * A x, the expand y += B v (lora.h has the layouts), and how the
 * shrinks of a product are shared.
 *
 * The shrinks are dealt, not claimed: they are small, and a claim costs as much as one. Every thread takes its part of
 * every (output, segment): rows where there are many (prefill), ranks otherwise. A value is computed by one thread in
 * the order of k, whoever that is. */
#include "kernels/lora.h"
#include "kernels/convert.h"
#include "kernels/pack.h"

#define LINE 64 /* prefetching functions are always inlined: gcc drops calls of what it takes to be without effect */
#define ROWS_PER_SHARE 4 /* from this many rows a thread on, rows are dealt instead of ranks */

static size_t round_line(size_t bytes)
{
    return (bytes + LINE - 1) / LINE * LINE;
}

static size_t element_bytes(enum lora_type type)
{
    return type == LORA_BF16 ? 2 : 4;
}

static size_t a_bytes(enum lora_type type, int r, int k)
{
    return round_line((size_t)r * (size_t)k * element_bytes(type));
}

int lora_rank_pad(int r)
{
    return (r + 15) / 16 * 16;
}

size_t lora_mod_bytes(enum lora_type type, int r, int n, int k)
{
    return a_bytes(type, r, k) + (size_t)((n + PANEL - 1) / PANEL) * (size_t)r * PANEL * element_bytes(type);
}

#define AT_ONCE 512 /* elements converted at once: they stay in L1 */

/* Elements i .. i+n-1 of the source, in the type that products read. */
static void convert(enum lora_type type, void *dst, enum tensor_type src, const void *from, size_t i, size_t n)
{
    const char *p = (const char *)from + i * (src == T_F32 ? 4 : 2);
    float f[AT_ONCE];
    if (type == LORA_BF16 && src == T_BF16) {
        memcpy(dst, p, n * 2);
        return;
    }
    tensor_to_f32(src, p, (int64_t)n, f);
    if (type == LORA_F32)
        memcpy(dst, f, n * sizeof *f);
    else
        for (size_t j = 0; j < n; j++) ((uint16_t *)dst)[j] = bf16_of_f32(f[j]);
}

static void pack_a(enum lora_type type, void *dst, size_t count, enum tensor_type src, const void *a)
{
    for (size_t i = 0; i < count; i += AT_ONCE)
        convert(type, (char *)dst + i * element_bytes(type), src, a, i, count - i < AT_ONCE ? count - i : AT_ONCE);
}

/* Row `o` of B into column o of its panel. */
static void put_column(enum lora_type type, void *panel, int o, const void *row, int j0, int count)
{
    if (type == LORA_BF16) {
        uint16_t *to = (uint16_t *)panel + (size_t)j0 * PANEL + lora_b_index(o);
        for (int j = 0; j < count; j++) to[(size_t)j * PANEL] = ((const uint16_t *)row)[j];
    } else {
        float *to = (float *)panel + (size_t)j0 * PANEL + o;
        for (int j = 0; j < count; j++) to[(size_t)j * PANEL] = ((const float *)row)[j];
    }
}

static void pack_b(enum lora_type type, void *dst, int r, int n, enum tensor_type src, const void *b, const int *row_of)
{
    float row[AT_ONCE];
    size_t panel = (size_t)r * PANEL * element_bytes(type);
    for (int o = 0; o < n; o++) {
        size_t from = (size_t)(row_of ? row_of[o] : o) * (size_t)r;
        for (int j = 0; j < r; j += AT_ONCE) {
            int count = r - j < AT_ONCE ? r - j : AT_ONCE;
            convert(type, row, src, b, from + (size_t)j, (size_t)count);
            put_column(type, (char *)dst + (size_t)(o / PANEL) * panel, o % PANEL, row, j, count);
        }
    }
}

/* What no value lands on: the gap behind A and the outputs that the last panel does not have. */
static void clear_rest(enum lora_type type, void *dst, int r, int n, int k)
{
    size_t used = (size_t)r * (size_t)k * element_bytes(type), begin = a_bytes(type, r, k);
    size_t panel = (size_t)r * PANEL * element_bytes(type), whole = begin + (size_t)(n / PANEL) * panel;
    memset((char *)dst + used, 0, begin - used);
    if (n % PANEL) memset((char *)dst + whole, 0, panel);
}

void lora_mod_pack(struct lora_mod *m, enum lora_type type, void *dst, int r, int n, int k, float scale,
                   enum tensor_type src, const void *a, const void *b, const int *row_of)
{
    char *b_dst = (char *)dst + a_bytes(type, r, k);
    clear_rest(type, dst, r, n, k);
    pack_a(type, dst, (size_t)r * (size_t)k, src, a);
    pack_b(type, b_dst, r, n, src, b, row_of);
    *m = (struct lora_mod){.r = r, .scale = scale, .a = dst, .b = b_dst};
}

/* The expert tables hold the last columns only. */
static const struct lora_mod *expert_mod(const struct mm *m, const struct lora_table *t, int module)
{
    int part = module - (m->lora->modules - EXPERT_PARTS);
    if (!t->expert || part < 0) return NULL;
    return &t->expert[((size_t)m->layer * (size_t)m->lora->experts + (size_t)m->expert) * EXPERT_PARTS + (size_t)part];
}

static const struct lora_mod *place_of(const struct mm *m, const struct lora_table *t, int module)
{
    size_t layer = (size_t)m->layer;
    switch (module) {
    case MM_BASE:
        return NULL;
    case MM_HEAD:
        return t->head;
    case MM_ROUTER:
        return t->router ? &t->router[layer] : NULL;
    }
    if (m->lora->experts > 0 && m->expert >= 0) return expert_mod(m, t, module);
    return t->mod ? &t->mod[layer * (size_t)m->lora->modules + (size_t)module] : NULL;
}

const struct lora_mod *lora_mod_of(const struct mm *m, const struct lora_use *use, const struct mm_out *out)
{
    const struct lora_mod *mod = use->t ? place_of(m, use->t, out->module) : NULL;
    return mod && mod->r > 0 ? mod : NULL;
}

bool lora_any(const struct mm *m)
{
    if (!m->lora) return false;
    for (int s = 0; s < m->lora->nseg; s++)
        for (int u = 0; u < m->lora->seg[s].nuse; u++)
            for (int o = 0; o < m->nout; o++)
                if (lora_mod_of(m, &m->lora->seg[s].use[u], &m->out[o])) return true;
    return false;
}

static void shrink_part(const struct kthread *t, const struct mm *m, const struct lora_seg *seg,
                        const struct lora_mod *mod, float *v, lora_shrink_fn *shrink)
{
    int k = m->out[0].w->k, rows = seg->rows, r = mod->r;
    if (rows >= ROWS_PER_SHARE * t->n) {
        int lo = (int)((long)rows * t->id / t->n), hi = (int)((long)rows * (t->id + 1) / t->n);
        shrink(mod, m->in, k, seg->row0 + lo, hi - lo, 0, r, v, m->shrink_ld);
    } else {
        int lo = r * t->id / t->n, hi = r * (t->id + 1) / t->n;
        if (lo < hi) shrink(mod, m->in, k, seg->row0, rows, lo, hi, v, m->shrink_ld);
    }
}

/* Ask for this thread's rows of the A that the segment after s brings: each is a short run of lines somewhere else, which
 * no processor guesses. */
static inline __attribute__((always_inline)) void prefetch_next(const struct kthread *t, const struct mm *m, int s,
                                                                const struct mm_out *out, size_t element)
{
    if (s + 1 >= m->lora->nseg) return;
    const struct lora_seg *seg = &m->lora->seg[s + 1];
    const struct lora_mod *mod = lora_mod_of(m, &seg->use[0], out);
    if (!mod || seg->rows >= ROWS_PER_SHARE * t->n) return;
    size_t row = (size_t)m->out[0].w->k * element;
    const char *a = mod->a, *end = a + row * (size_t)(mod->r * (t->id + 1) / t->n);
    for (a += row * (size_t)(mod->r * t->id / t->n); a < end; a += LINE) __builtin_prefetch(a, 0, 2);
}

void lora_shrink_share(struct kthread *t, const struct mm *m, lora_shrink_fn *shrink, size_t element)
{
    for (int o = 0; o < m->nout; o++) {
        float *v = m->shrink + (size_t)o * (size_t)m->rows * (size_t)m->shrink_ld;
        for (int s = 0; s < m->lora->nseg; s++) {
            const struct lora_seg *seg = &m->lora->seg[s];
            prefetch_next(t, m, s, &m->out[o], element);
            for (int u = 0, at = 0; u < seg->nuse; u++) {
                const struct lora_mod *mod = lora_mod_of(m, &seg->use[u], &m->out[o]);
                if (!mod) continue;
                struct lora_mod weighted = *mod;
                weighted.scale *= seg->use[u].weight;
                shrink_part(t, m, seg, &weighted, v + at, shrink);
                at += lora_rank_pad(mod->r);
            }
        }
    }
}

void lora_shrink_bf16(const struct lora_mod *mod, const struct act *in, int k, int row0, int rows, int r0, int r1,
                      float *v, int ld)
{
    for (int row = row0; row < row0 + rows; row++) {
        const uint16_t *x = in->bf16 + (size_t)row * (size_t)k;
        for (int j = r0; j < r1; j++) {
            const uint16_t *a = (const uint16_t *)mod->a + (size_t)j * (size_t)k;
            float sum = 0;
            for (int i = 0; i < k; i++) sum += f32_of_bf16(a[i]) * f32_of_bf16(x[i]);
            v[(size_t)row * (size_t)ld + (size_t)j] = mod->scale * sum;
        }
    }
}

void lora_shrink_f32(const struct lora_mod *mod, const struct act *in, int k, int row0, int rows, int r0, int r1,
                     float *v, int ld)
{
    for (int row = row0; row < row0 + rows; row++) {
        const float *x = in->x + (size_t)row * (size_t)k;
        for (int j = r0; j < r1; j++) {
            const float *a = (const float *)mod->a + (size_t)j * (size_t)k;
            float sum = 0;
            for (int i = 0; i < k; i++) sum += a[i] * x[i];
            v[(size_t)row * (size_t)ld + (size_t)j] = mod->scale * sum;
        }
    }
}

void lora_expand_bf16(const struct lora_mod *mod, int panel, const float *v, int ld, int rows, float *acc)
{
    const uint16_t *b = (const uint16_t *)mod->b + (size_t)panel * (size_t)mod->r * PANEL;
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < mod->r; j++)
            for (int o = 0; o < PANEL; o++)
                acc[row * PANEL + o] +=
                    v[(size_t)row * (size_t)ld + (size_t)j] * f32_of_bf16(b[j * PANEL + lora_b_index(o)]);
}

void lora_expand_f32(const struct lora_mod *mod, int panel, const float *v, int ld, int rows, float *acc)
{
    const float *b = (const float *)mod->b + (size_t)panel * (size_t)mod->r * PANEL;
    for (int row = 0; row < rows; row++)
        for (int j = 0; j < mod->r; j++)
            for (int o = 0; o < PANEL; o++)
                acc[row * PANEL + o] += v[(size_t)row * (size_t)ld + (size_t)j] * b[j * PANEL + o];
}
