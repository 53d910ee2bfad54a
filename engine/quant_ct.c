/* quant_ct: the integer formats of compressed-tensors.
 *
 * pack-quantized, b = 2 to 8 bits: weight_packed [n][k b/32] int32, codes along a row and moved by 2^(b-1) to be positive;
 *   weight_scale [n][groups] (or [n][1]); where it isn't symmetric weight_zero_point [n b/32][groups] int32, packed along the outputs and
 *   moved the same way; weight_shape [2]: n and k; weight_g_idx [k] where the inputs were reordered.
 * int-quantized and naive-quantized: weight [n][k] int8, weight_scale [n][1], [n][groups], [n] or one for all, weight_zero_point of
 *   int8 in the scale's shape.
 *
 * Bits and groups come from the shapes. Source: compressed-tensors' compressors. Called at load only. */
#include "engine/quant_grid.h"
#include <stdlib.h>
#include <string.h>

/* One scale for all, one for each row, or one for each group of a row. */
static int scales_of(const struct module_of *m, struct grid *g, struct err *e)
{
    const struct tensor *t = g->scale = module_need(m, ".weight_scale", e);
    if (!t) return -1;
    if (!dtype_is_float(t->dtype)) return module_bad(m, e, "its weight_scale is of type %s", dtype_name[t->dtype]);
    if (t->count == 1) return grid_groups(m, 1, g, e);
    bool rows = t->ndim >= 1 && t->dim[0] == m->n && (t->ndim == 1 || t->ndim == 2);
    if (!rows) return module_bad(m, e, "its weight_scale is neither one value nor %d rows", m->n);
    g->scale_row = t->ndim == 2 ? t->dim[1] : 1;
    g->scale_group = t->ndim == 2 && t->dim[1] > 1;
    return grid_groups(m, g->scale_row, g, e);
}

static int check_stated_shape(const struct module_of *m, struct err *e)
{
    const struct tensor *t = hf_take(m->s, m->stem, ".weight_shape");
    int64_t v[2] = {m->n, m->k};
    int32_t small[2];
    if (!t) return 0;
    if (t->count != 2 || (t->dtype != D_I64 && t->dtype != D_I32))
        return module_bad(m, e, "its weight_shape is not two integers");
    if (t->dtype == D_I64) {
        memcpy(v, t->data, sizeof v);
    } else {
        memcpy(small, t->data, sizeof small);
        v[0] = small[0];
        v[1] = small[1];
    }
    if (v[0] == m->n && v[1] == m->k) return 0;
    return module_bad(m, e, "its weight_shape says %lld x %lld", (long long)v[0], (long long)v[1]);
}

static int packed_zeros(const struct module_of *m, struct grid *g, struct err *e)
{
    const struct tensor *z = hf_take(m->s, m->stem, ".weight_zero_point");
    g->zero_plus = 1 << (g->q.bits - 1);
    if (!z) return 0;
    int64_t words = ((int64_t)m->n * g->q.bits + 31) / 32;
    if (z->dtype != D_I32 || z->ndim != 2 || z->dim[0] != words || z->dim[1] != g->groups)
        return module_bad(m, e, "its weight_zero_point is not %lld x %d words", (long long)words, g->groups);
    g->zero_plus = 0; /* codes and zeros are moved by the same */
    g->zero = (struct codes){.p = z->data, .bits = g->q.bits, .line = 1, .stride = g->groups};
    return 0;
}

int ct_packed_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    struct grid g = {0};
    const struct tensor *q = module_need(m, ".weight_packed", e);
    if (!q || check_stated_shape(m, e)) return -1;
    int64_t bits = q->ndim == 2 && q->dim[1] <= m->k ? q->dim[1] * 32 / m->k : 0;
    if (q->ndim != 2 || q->dim[0] != m->n || bits * m->k != q->dim[1] * 32 || bits < 2 || bits > 8)
        return module_bad(m, e, "its weight_packed is %lld x %lld, which is no packing of 2 to 8 bits",
                          (long long)q->dim[0], (long long)q->dim[1]);
    g.q = (struct codes){.p = q->data, .bits = (int)bits, .line = q->dim[1], .stride = 1};
    if (scales_of(m, &g, e) || packed_zeros(m, &g, e)) return -1;
    if (grid_order(m, hf_take(m->s, m->stem, ".weight_g_idx"), &g, e)) return -1;
    return grid_source(m, &g, "pack-quantized", out, e);
}

int ct_int_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    struct grid g = {.zero_plus = 128, .zero_by_row = true};
    const struct tensor *q = grid_need(m, ".weight", D_I8, m->n, m->k, e);
    if (!q || check_stated_shape(m, e) || scales_of(m, &g, e)) return -1;
    const struct tensor *z = hf_take(m->s, m->stem, ".weight_zero_point");
    if (z && (z->dtype != D_I8 || z->count != g.scale->count))
        return module_bad(m, e, "its weight_zero_point is not an int8 for each scale");
    g.q = (struct codes){.p = q->data, .bits = 8, .bytes = true, .line = m->k, .stride = 1};
    if (z) {
        g.zero = (struct codes){.p = z->data, .bits = 8, .bytes = true, .line = g.scale_row, .stride = 1};
        g.zero_plus = 0;
    }
    if (grid_order(m, hf_take(m->s, m->stem, ".weight_g_idx"), &g, e)) return -1;
    return grid_source(m, &g, "int-quantized", out, e);
}
