/* quant_bnb: what bitsandbytes writes.
 *
 * 4 bits (NF4, FP4): weight [n k/2][1] uint8, two codes a byte, the first in the high half; weight.quant_map: the sixteen values;
 *   weight.absmax: a scale for each run of `blocksize` values of the flattened matrix, as floats, or once more quantized: bytes that
 *   index weight.nested_quant_map, times weight.nested_absmax for each run of nested_blocksize bytes, plus an offset;
 *   weight.quant_state.bitsandbytes__nf4 (or fp4): JSON bytes with blocksize, shape and offset.
 * 8 bits: weight [n][k] int8, SCB [n]: w = q SCB / 127.
 *
 * Refused: a state whose shape is another, blocks that cut a group of 32 inputs, tables and scales that are not finite.
 * Source: bitsandbytes' functional.py (QuantState). Called at load only. */
#include "engine/source_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define STATE_MAX 65536 /* bytes of JSON */

struct bnb4 {
    const struct source *s;
    const struct tensor *q, *absmax;
    const struct tensor *nested; /* scales of the scales, or NULL */
    int64_t block, nested_block;
    float offset, table[16], nested_table[256];
};

static float scale_of(const struct bnb4 *b, int64_t i)
{
    if (!b->nested) return scale_at(b->absmax, i);
    return b->nested_table[b->absmax->data[i]] * scale_at(b->nested, i / b->nested_block) + b->offset;
}

static int read_bnb4(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct bnb4 *b = src->u;
    int64_t at = (int64_t)row * src->k;
    const uint8_t *p = b->q->data + at / 2;
    for (int i = 0; i < src->k / 2; i++) {
        out->q[2 * i] = p[i] >> 4;
        out->q[2 * i + 1] = p[i] & 15;
    }
    for (int g = 0; g < src->k / GROUP; g++) {
        out->d[g] = scale_of(b, (at + g * GROUP) / b->block);
        if (!isfinite(out->d[g]))
            return err_set(e, ERR_MODEL, "%s: %s, row %d: a scale is not finite; download it again", b->s->path,
                           b->q->name, row);
    }
    return 0;
}

/* --- opening --- */

static int table_of(const struct module_of *m, const char *suffix, int n, float *out, struct err *e)
{
    const struct tensor *t = module_need(m, suffix, e);
    if (!t) return -1;
    if (!dtype_is_float(t->dtype) || t->count != n) return module_bad(m, e, "its %s is not %d floats", suffix, n);
    return floats_read(t->dtype, t->data, 0, 1, n, out)
               ? module_bad(m, e, "its %s is not finite; download it again", suffix)
               : 0;
}

static bool is_power_from(int64_t v, int64_t least)
{
    return v >= least && v <= 1 << 20 && (v & (v - 1)) == 0;
}

static int check_state_shape(const struct module_of *m, const json_t *state, struct err *e)
{
    const json_t *shape = json_object_get(state, "shape");
    json_int_t n = json_integer_value(json_array_get(shape, 0)), k = json_integer_value(json_array_get(shape, 1));
    if (json_array_size(shape) == 2 && n == m->n && k == m->k) return 0;
    return module_bad(m, e, "its quant_state says %lld x %lld", (long long)n, (long long)k);
}

static int take_state(const struct module_of *m, const json_t *state, struct bnb4 *b, struct err *e)
{
    if (check_state_shape(m, state, e)) return -1;
    b->block = json_integer_value(json_object_get(state, "blocksize"));
    if (!is_power_from(b->block, GROUP))
        return module_bad(m, e, "a blocksize of %lld is not served (a power of two from %d)", (long long)b->block,
                          GROUP);
    if (!json_object_get(state, "nested_blocksize")) return 0;
    b->nested_block = json_integer_value(json_object_get(state, "nested_blocksize"));
    b->offset = (float)json_number_value(json_object_get(state, "nested_offset"));
    if (!is_power_from(b->nested_block, 1) || !isfinite(b->offset))
        return module_bad(m, e, "its quant_state has nested_blocksize %lld and nested_offset %g",
                          (long long)b->nested_block, (double)b->offset);
    return 0;
}

static int read_state(const struct module_of *m, struct bnb4 *b, struct err *e)
{
    const struct tensor *t = hf_take(m->s, m->stem, ".weight.quant_state.bitsandbytes__nf4");
    struct err why = {0};
    json_t *state;
    if (!t) t = hf_take(m->s, m->stem, ".weight.quant_state.bitsandbytes__fp4");
    if (!t) return module_bad(m, e, "its weight is of bytes without weight.quant_state.bitsandbytes__nf4 or __fp4");
    if (t->dtype != D_U8 || t->bytes > STATE_MAX)
        return module_bad(m, e, "its quant_state is not JSON of at most %d bytes", STATE_MAX);
    if (json_parse((const char *)t->data, t->bytes, &state, &why))
        return module_bad(m, e, "its quant_state: %.160s", why.msg);
    int rc = take_state(m, state, b, e);
    json_decref(state);
    return rc;
}

static int64_t parts(int64_t n, int64_t block)
{
    return (n + block - 1) / block;
}

static int read_scales(const struct module_of *m, struct bnb4 *b, struct err *e)
{
    int64_t blocks = parts((int64_t)m->n * m->k, b->block);
    b->absmax = module_need(m, ".weight.absmax", e);
    if (!b->absmax) return -1;
    if (b->absmax->count != blocks)
        return module_bad(m, e, "its absmax has %lld values, %lld are needed", (long long)b->absmax->count,
                          (long long)blocks);
    if (!b->nested_block)
        return dtype_is_float(b->absmax->dtype)
                   ? 0
                   : module_bad(m, e, "its absmax is of type %s", dtype_name[b->absmax->dtype]);
    if (b->absmax->dtype != D_U8)
        return module_bad(m, e, "its absmax is nested and of type %s", dtype_name[b->absmax->dtype]);
    b->nested = module_need(m, ".weight.nested_absmax", e);
    if (!b->nested) return -1;
    if (!dtype_is_float(b->nested->dtype) || b->nested->count != parts(blocks, b->nested_block))
        return module_bad(m, e, "its nested_absmax is not %lld floats", (long long)parts(blocks, b->nested_block));
    return table_of(m, ".weight.nested_quant_map", 256, b->nested_table, e);
}

int bnb4_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    struct bnb4 b = {.s = m->s, .q = module_need(m, ".weight", e)};
    if (!b.q) return -1;
    if (b.q->count != (int64_t)m->n * m->k / 2)
        return module_bad(m, e, "its weight has %lld bytes, half a byte for each value is needed",
                          (long long)b.q->count);
    if (read_state(m, &b, e) || read_scales(m, &b, e) || table_of(m, ".weight.quant_map", 16, b.table, e)) return -1;
    struct bnb4 *room = malloc(sizeof *room);
    if (!room) return err_set(e, ERR_NO_MEMORY, "no memory for %s", m->stem);
    *room = b;
    *out = (struct source_matrix){.src = {.kind = CODES_TABLE,
                                          .n = m->n,
                                          .k = m->k,
                                          .table = room->table,
                                          .read = read_bnb4,
                                          .u = room,
                                          .format = "bnb 4-bit"},
                                  .room = room};
    return 0;
}

/* --- 8 bits --- */

struct bnb8 {
    const struct source *s;
    const struct tensor *q, *scale;
};

static int read_bnb8(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct bnb8 *b = src->u;
    const uint8_t *q = b->q->data + (int64_t)row * src->k;
    float d = scale_at(b->scale, row) / 127;
    if (!isfinite(d))
        return err_set(e, ERR_MODEL, "%s: %s, row %d: its scale is not finite; download it again", b->s->path,
                       b->q->name, row);
    for (int i = 0; i < src->k; i++) out->q[i] = q[i] ^ 0x80;
    for (int g = 0; g < src->k / GROUP; g++) out->d[g] = d;
    return 0;
}

int bnb8_open(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    struct bnb8 b = {m->s, module_need(m, ".weight", e), module_need(m, ".SCB", e)};
    if (!b.q || !b.scale) return -1;
    if (b.q->ndim != 2 || b.q->dim[0] != m->n || b.q->dim[1] != m->k)
        return module_bad(m, e, "its weight is %lld x %lld", (long long)b.q->dim[0], (long long)b.q->dim[1]);
    if (b.scale->count != m->n || !dtype_is_float(b.scale->dtype))
        return module_bad(m, e, "its SCB is not %d floats", m->n);
    struct bnb8 *room = malloc(sizeof *room);
    if (!room) return err_set(e, ERR_NO_MEMORY, "no memory for %s", m->stem);
    *room = b;
    *out = (struct source_matrix){
        .src = {.kind = CODES_INT8, .n = m->n, .k = m->k, .read = read_bnb8, .u = room, .format = "bnb 8-bit"},
        .room = room};
    return 0;
}
