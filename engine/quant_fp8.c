/* quant_fp8: eight-bit floats (e4m3) with a scale for blocks, rows or all.
 *
 * DeepSeek's and Qwen's files: weight [n][k], weight_scale_inv [n/128][k/128], rounded up; the name says "inverse", the value multiplies.
 * AutoFP8's and compressed-tensors': weight_scale, one for all, for each row, for each group of a row, or for blocks.
 * Which of them it is follows from the scale's shape; blocks are those of the configuration.
 *
 * Refused: codes and scales that are NaN, blocks that cut a group of 32 inputs. Sources: transformers' finegrained_fp8,
 * compressed-tensors' quantization strategies. Called at load only. */
#include "engine/source_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fp8 {
    const struct source *s;
    const struct tensor *q, *scale;
    int64_t block_rows, block_inputs; /* that share a scale */
    int64_t down, across;             /* strides of the scale */
};

static int read_fp8_row(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct fp8 *f = src->u;
    const uint8_t *q = f->q->data + (int64_t)row * src->k;
    bool nan = false;
    for (int i = 0; i < src->k; i++) nan |= (q[i] & 0x7f) == 0x7f;
    memcpy(out->q, q, (size_t)src->k);
    for (int g = 0; g < src->k / GROUP; g++) {
        out->d[g] = scale_at(f->scale, row / f->block_rows * f->down + g * GROUP / f->block_inputs * f->across);
        nan |= !isfinite(out->d[g]);
    }
    if (!nan) return 0;
    return err_set(e, ERR_MODEL, "%s: %s, row %d: a value or scale is not finite; download it again", f->s->path,
                   f->q->name, row);
}

static int64_t parts(int64_t n, int64_t block)
{
    return (n + block - 1) / block;
}

/* What the scale's shape says; false: nothing known. */
static bool find_blocks(const struct module_of *m, struct fp8 *f)
{
    const struct tensor *t = f->scale;
    const int *block = m->s->quant.block;
    int64_t rows = t->ndim >= 1 ? t->dim[0] : 1, columns = t->ndim == 2 ? t->dim[1] : 1;
    if (t->ndim > 2) return false;
    f->down = columns;
    f->across = columns > 1;
    f->block_rows = m->n;
    f->block_inputs = m->k;
    if (t->count == 1) return true;
    if (rows == m->n && m->k % columns == 0) {
        f->block_rows = 1;
        f->block_inputs = m->k / columns;
        return true;
    }
    f->block_rows = block[0];
    f->block_inputs = block[1];
    f->across = 1;
    return rows == parts(m->n, block[0]) && columns == parts(m->k, block[1]);
}

/* Older files carry the zeros of a symmetric format along. */
static bool zeros_say_nothing(const struct module_of *m)
{
    const struct tensor *t = hf_take(m->s, m->stem, ".weight_zero_point");
    for (size_t i = 0; t && i < t->bytes; i++)
        if (t->data[i]) return false;
    return true;
}

int fp8_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    struct fp8 f = {.s = m->s, .q = module_need(m, ".weight", e)};
    if (!f.q) return -1;
    if (f.q->ndim != 2 || f.q->dim[0] != m->n || f.q->dim[1] != m->k)
        return module_bad(m, e, "its weight is %lld x %lld", (long long)f.q->dim[0], (long long)f.q->dim[1]);
    f.scale = hf_take(m->s, m->stem, ".weight_scale_inv");
    if (!f.scale) f.scale = hf_take(m->s, m->stem, ".weight_scale");
    if (!f.scale) return module_bad(m, e, "it is of 8-bit floats without weight_scale or weight_scale_inv");
    if (!dtype_is_float(f.scale->dtype) && f.scale->dtype != D_E8M0)
        return module_bad(m, e, "its scale is of type %s", dtype_name[f.scale->dtype]);
    if (!find_blocks(m, &f))
        return module_bad(m, e, "its scale is %lld x %lld: neither one, nor for rows, nor for blocks of %d x %d",
                          (long long)f.scale->dim[0], (long long)f.scale->dim[1], m->s->quant.block[0],
                          m->s->quant.block[1]);
    if (!zeros_say_nothing(m)) return module_bad(m, e, "8-bit floats with zero points are not served");
    if (f.block_inputs % GROUP)
        return module_bad(m, e, "groups of %lld inputs are not served", (long long)f.block_inputs);
    struct fp8 *room = malloc(sizeof *room);
    if (!room) return err_set(e, ERR_NO_MEMORY, "no memory for %s", m->stem);
    *room = f;
    *out = (struct source_matrix){
        .src = {.kind = CODES_E4M3, .n = m->n, .k = m->k, .read = read_fp8_row, .u = room, .format = "FP8"},
        .room = room};
    return 0;
}
