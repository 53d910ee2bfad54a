/* quant_gptq: the two packings of AutoGPTQ and AutoAWQ.
 *
 * GPTQ, b bits (2, 3, 4, 8):
 *   qweight [k b/32][n] int32: the codes of one output lie down a column, one behind the other through the words' bits
 *   qzeros  [groups][n b/32] int32: in the first format less one (a stored 2^b - 1 is 0)
 *   scales  [groups][n], g_idx [k]: the group of each input
 * AWQ (GEMM), 4 bits:
 *   qweight [k][n/8] int32, qzeros [groups][n/8], scales [groups][n]; outputs within a word in the order 0 2 4 6 1 3 5 7
 *
 * The number of bits comes from the shape, so files that mix them need no table of exceptions.
 *
 * Sources: gptqmodel's and transformers' documentation of the checkpoint formats; AutoAWQ's packing. Called at load only. */
#include "engine/quant_grid.h"
#include <stdlib.h>

static int scales_of(const struct module_of *m, struct grid *g, struct err *e)
{
    g->scale = module_need(m, ".scales", e);
    if (!g->scale) return -1;
    if (!dtype_is_float(g->scale->dtype) || g->scale->ndim != 2 || g->scale->dim[1] != m->n)
        return module_bad(m, e, "its scales are not [groups][%d] floats", m->n);
    g->scale_row = 1;
    g->scale_group = m->n;
    return grid_groups(m, g->scale->dim[0], g, e);
}

int gptq_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    struct grid g = {.zero_plus = m->s->quant.zeros_minus_one};
    const struct tensor *q = module_need(m, ".qweight", e);
    if (!q) return -1;
    int64_t bits = q->dim[0] * 32 / m->k;
    if (q->ndim != 2 || q->dim[1] != m->n || q->dim[0] > m->k || bits * m->k != q->dim[0] * 32 ||
        (bits != 2 && bits != 3 && bits != 4 && bits != 8))
        return module_bad(m, e, "its qweight is %lld x %lld, which is no packing of 2, 3, 4 or 8 bits",
                          (long long)q->dim[0], (long long)q->dim[1]);
    if (m->n * bits % 32) return module_bad(m, e, "its outputs do not fill whole words of zeros");
    int64_t words = m->n * bits / 32;
    if (scales_of(m, &g, e)) return -1;
    const struct tensor *z = grid_need(m, ".qzeros", D_I32, g.groups, words, e);
    if (!z) return -1;
    g.q = (struct codes){.p = q->data, .bits = (int)bits, .line = 1, .stride = m->n};
    g.zero = (struct codes){.p = z->data, .bits = (int)bits, .line = words, .stride = 1};
    if (grid_order(m, hf_take(m->s, m->stem, ".g_idx"), &g, e)) return -1;
    return grid_source(m, &g, "GPTQ", out, e);
}

int awq_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    struct grid g = {.q_by_input = true, .awq_order = true};
    if (m->n % 8) return module_bad(m, e, "its outputs do not fill whole words");
    const struct tensor *q = grid_need(m, ".qweight", D_I32, m->k, m->n / 8, e);
    if (!q || scales_of(m, &g, e)) return -1;
    const struct tensor *z = grid_need(m, ".qzeros", D_I32, g.groups, m->n / 8, e);
    if (!z) return -1;
    g.q = (struct codes){.p = q->data, .bits = 4, .line = m->n / 8, .stride = 1};
    g.zero = (struct codes){.p = z->data, .bits = 4, .line = m->n / 8, .stride = 1};
    return grid_source(m, &g, "AWQ", out, e);
}
