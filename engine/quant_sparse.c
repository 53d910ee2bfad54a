/* quant_sparse: sparse-24-bitmask of compressed-tensors: of each four inputs of a row two are stored.
 *
 * STEM.compressed [n][k/2] floats, in the order of the inputs; STEM.bitmask [n][k/8] bytes, bit i of byte b is input 8b + i; STEM.shape
 * two integers, n and k. Served as a plain matrix with zeros. Each half byte of the mask must have two bits, or values would be told to the
 * wrong inputs.
 *
 * Source: compressed-tensors 0.10, sparse_24_bitmask.py. Called at load only. */
#include "engine/source_impl.h"
#include <stdlib.h>
#include <string.h>

struct sparse {
    const struct source *s;
    const struct tensor *value, *mask;
};

static int read_row(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct sparse *x = src->u;
    const uint8_t *mask = x->mask->data + (size_t)row * (size_t)src->k / 8;
    int64_t at = (int64_t)row * src->k / 2;
    for (int i = 0; i < src->k; i++) {
        bool there = mask[i / 8] >> i % 8 & 1;
        if (i % 4 == 0 && __builtin_popcount(mask[i / 8] >> i % 8 & 15) != 2)
            return err_set(e, ERR_MODEL, "%s: %s, row %d: it does not name two of inputs %d to %d", x->s->path, x->mask->name,
                           row, i, i + 3);
        out->f[i] = 0;
        if (there && floats_read(x->value->dtype, x->value->data, at++, 1, 1, &out->f[i]))
            return err_set(e, ERR_MODEL, "%s: %s, row %d: a value is not finite", x->s->path, x->value->name, row);
    }
    return 0;
}

static int check_shape(const struct module_of *m, struct err *e)
{
    const struct tensor *t = hf_take(m->s, m->stem, ".shape");
    int64_t v[2];
    if (!t) return 0;
    if (t->dtype != D_I64 || t->count != 2) return module_bad(m, e, "its shape is not two integers");
    memcpy(v, t->data, sizeof v);
    return v[0] == m->n && v[1] == m->k ? 0 : module_bad(m, e, "its shape says %lld x %lld", (long long)v[0], (long long)v[1]);
}

int ct_sparse_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    const struct tensor *value = module_need(m, ".compressed", e), *mask = value ? module_need(m, ".bitmask", e) : NULL;
    if (!mask || check_shape(m, e)) return -1;
    if (value->ndim != 2 || value->dim[0] != m->n || value->dim[1] != m->k / 2)
        return module_bad(m, e, "its compressed is not %d x %d", m->n, m->k / 2);
    if (mask->dtype != D_U8 || mask->ndim != 2 || mask->dim[0] != m->n || mask->dim[1] != m->k / 8)
        return module_bad(m, e, "its bitmask is not %d x %d bytes", m->n, m->k / 8);
    struct sparse *x = malloc(sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory for %s", m->stem);
    *x = (struct sparse){.s = m->s, .value = value, .mask = mask};
    *out = (struct source_matrix){
        .src = {.kind = CODES_FLOAT, .n = m->n, .k = m->k, .read = read_row, .u = x, .format = "sparse-24-bitmask"},
        .room = x};
    return 0;
}
