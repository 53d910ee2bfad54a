/* quant_grid: whole numbers on a grid, read row by row.
 *
 * Three projects pack the same thing (small integers, a scale and a zero per group of inputs) in three ways: along columns, along rows,
 * shuffled within words. Here the packing is three numbers and a flag, so that one reader serves all and each format's file only says
 * where things lie.
 *
 * A row keeps its codes when 32 neighbours share a scale and the codes fit a kind: four bits or fewer with any zero, up to eight bits
 * with the zero in the middle. Otherwise it is expanded to floats: groups in another order than the inputs (g_idx of GPTQ's act-order), groups of
 * less than 32, eight bits with other zeros. The values are the same either way, scale * (q - zero) in float32.
 *
 * Refused: scales that are not finite, groups that do not exist. Called at load only. */
#include "engine/quant_grid.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BITS_KEPT 4 /* codes of so many bits, at most, keep their zeros */

static uint32_t word_at(const struct codes *c, int64_t i)
{
    uint32_t w;
    if (c->bytes) return c->p[i] ^ 0x80u; /* signed: moved to 0..255 */
    memcpy(&w, c->p + 4 * i, sizeof w);
    return w;
}

static uint32_t code(const struct codes *c, int64_t outer, int64_t inner)
{
    int width = c->bytes ? 8 : 32;
    int64_t bit = inner * c->bits, at = outer * c->line + bit / width * c->stride;
    int shift = (int)(bit % width);
    uint32_t v = word_at(c, at) >> shift;
    if (shift + c->bits > width) v |= word_at(c, at + c->stride) << (width - shift);
    return v & ((1u << c->bits) - 1);
}

/* Where an output lies within its eight. */
static int64_t shuffled(const struct grid *g, int64_t row)
{
    static const uint8_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return g->awq_order ? (row & ~7ll) | place[row & 7] : row;
}

static uint32_t q_at(const struct grid *g, int64_t row, int64_t input)
{
    return g->q_by_input ? code(&g->q, input, shuffled(g, row)) : code(&g->q, row, input);
}

static int zero_at(const struct grid *g, int64_t row, int64_t group)
{
    if (!g->zero.p) return g->zero_plus;
    uint32_t z = g->zero_by_row ? code(&g->zero, row, group) : code(&g->zero, group, shuffled(g, row));
    return (int)((z + (uint32_t)g->zero_plus) & ((1u << g->zero.bits) - 1));
}

static float grid_scale(const struct grid *g, int64_t row, int64_t group)
{
    return scale_at(g->scale, row * g->scale_row + group * g->scale_group);
}

static int bad_scale(const struct grid *g, int row, int group, struct err *e)
{
    return err_set(e, ERR_MODEL, "%s, row %d: the scale of group %d is not finite; download it again", g->label, row,
                   group);
}

/* The k codes of a row. Whole words are taken apart at once where codes don't straddle them (GPTQ of 4 bits: about 0.6 ns a value
 * against 1.8 one by one); k is a multiple of 32. */
static void read_line(const struct grid *g, int row, int k, uint8_t *out)
{
    const struct codes *c = &g->q;
    uint32_t mask = (1u << c->bits) - 1;
    if (c->bytes) {
        for (int i = 0; i < k; i++) out[i] = c->p[row * c->line + i] ^ 0x80;
    } else if (32 % c->bits) {
        for (int i = 0; i < k; i++) out[i] = (uint8_t)q_at(g, row, i);
    } else if (g->q_by_input) {
        int64_t bit = shuffled(g, row) * c->bits, first = bit / 32 * c->stride;
        for (int i = 0; i < k; i++) out[i] = (uint8_t)(word_at(c, i * c->line + first) >> bit % 32 & mask);
    } else {
        int per = 32 / c->bits;
        for (int i = 0; i < k / per; i++, out += per) {
            uint32_t w = word_at(c, row * c->line + i * c->stride);
            for (int j = 0; j < per; j++) out[j] = (uint8_t)(w >> j * c->bits & mask);
        }
    }
}

/* w = d (q - z); INT2 has the offset multiplied out, which is exact for scales of sixteen bits. */
static int read_codes(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct grid *g = src->u;
    int per = g->group_size / GROUP, plus = 128 - (1 << (g->q.bits - 1));
    for (int i = 0; i < g->groups; i++) {
        float d = grid_scale(g, row, i), z = (float)zero_at(g, row, i);
        if (!isfinite(d)) return bad_scale(g, row, i, e);
        for (int j = i * per; j < (i + 1) * per; j++) {
            out->d[j] = d;
            if (src->kind != CODES_INT8) out->z[j] = src->kind == CODES_INT2 ? -(d * z) : z;
        }
    }
    read_line(g, row, src->k, out->q);
    for (int i = 0; src->kind == CODES_INT8 && plus && i < src->k; i++) out->q[i] = (uint8_t)(out->q[i] + plus);
    return 0;
}

static int read_expanded(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct grid *g = src->u;
    float *d = g->row_scale, *z = d + g->groups;
    for (int i = 0; i < g->groups; i++) {
        d[i] = grid_scale(g, row, i);
        z[i] = (float)zero_at(g, row, i);
        if (!isfinite(d[i])) return bad_scale(g, row, i, e);
    }
    read_line(g, row, src->k, g->row_codes);
    for (int i = 0; i < src->k; i++) {
        int group = g->group_of ? g->group_of[i] : i / g->group_size;
        out->f[i] = d[group] * ((float)g->row_codes[i] - z[group]);
    }
    return 0;
}

static bool zeros_in_the_middle(const struct grid *g, int n)
{
    int middle = 1 << (g->q.bits - 1);
    if (!g->zero.p) return g->zero_plus == middle;
    for (int r = 0; r < n; r++)
        for (int i = 0; i < g->groups; i++)
            if (zero_at(g, r, i) != middle) return false;
    return true;
}

static enum code_kind kind_of(const struct grid *g, int n)
{
    if (g->group_of || g->group_size % GROUP) return CODES_FLOAT;
    if (g->q.bits == 2 && g->scale->dtype != D_F32) return CODES_INT2;
    if (g->q.bits <= BITS_KEPT) return CODES_INT4;
    return zeros_in_the_middle(g, n) ? CODES_INT8 : CODES_FLOAT;
}

/* The room: the grid, then scales and zeros of one row, g_idx, codes of one row. */
static struct grid *make_room(const struct module_of *m, const struct grid *g)
{
    size_t scales = 2 * (size_t)g->groups * sizeof(float), order = g->group_of ? (size_t)m->k * sizeof *g->group_of : 0;
    struct grid *room = malloc(sizeof *room + scales + order + (size_t)m->k);
    if (!room) return NULL;
    *room = *g;
    room->row_scale = (float *)(room + 1);
    room->group_of = order ? (int32_t *)(room->row_scale + 2 * g->groups) : NULL;
    room->row_codes = (uint8_t *)(room + 1) + scales + order;
    if (order) memcpy(room->group_of, g->group_of, order);
    snprintf(room->label, sizeof room->label, "%s: %s", m->s->path, m->stem);
    return room;
}

int grid_source(const struct module_of *m, const struct grid *g, const char *format, struct source_matrix *out,
                struct err *e)
{
    struct grid *room = make_room(m, g);
    free(g->group_of);
    if (!room) return err_set(e, ERR_NO_MEMORY, "no memory for %s", m->stem);
    enum code_kind kind = kind_of(room, m->n);
    *out = (struct source_matrix){.src = {.kind = kind,
                                          .n = m->n,
                                          .k = m->k,
                                          .read = kind == CODES_FLOAT ? read_expanded : read_codes,
                                          .u = room,
                                          .format = format},
                                  .room = room};
    return 0;
}

/* --- what the formats share at opening --- */

int grid_groups(const struct module_of *m, int64_t groups, struct grid *g, struct err *e)
{
    if (groups < 1 || groups > m->k || m->k % groups)
        return module_bad(m, e, "its scales are for %lld groups, among which its inputs cannot be divided",
                          (long long)groups);
    g->groups = (int)groups;
    g->group_size = (int)(m->k / groups);
    return 0;
}

int grid_order(const struct module_of *m, const struct tensor *t, struct grid *g, struct err *e)
{
    bool trivial = true;
    if (!t || t->count == 0) return 0;
    if (t->dtype != D_I32 || t->count != m->k)
        return module_bad(m, e, "its g_idx is not one 32-bit integer for each input");
    int32_t *order = malloc((size_t)m->k * sizeof *order);
    if (!order) return err_set(e, ERR_NO_MEMORY, "no memory for %s", t->name);
    memcpy(order, t->data, (size_t)m->k * sizeof *order);
    for (int i = 0; i < m->k; i++) {
        if (order[i] < 0 || order[i] >= g->groups) {
            module_bad(m, e, "its g_idx puts input %d into group %d of %d", i, order[i], g->groups);
            free(order);
            return -1;
        }
        trivial &= order[i] == i / g->group_size;
    }
    if (trivial) {
        free(order);
        return 0;
    }
    source_tell(m->s, TELL_G_IDX, "g_idx_expanded_to_floats", m->stem);
    g->group_of = order;
    return 0;
}

const struct tensor *grid_need(const struct module_of *m, const char *suffix, int dtype, int64_t d0, int64_t d1,
                               struct err *e)
{
    const struct tensor *t = module_need(m, suffix, e);
    if (!t) return NULL;
    bool type = dtype == ANY_FLOAT ? dtype_is_float(t->dtype) : (int)t->dtype == dtype;
    if (type && t->ndim == (d1 ? 2 : 1) && t->dim[0] == d0 && t->dim[1] == (d1 ? d1 : 1)) return t;
    module_bad(m, e, "its %s has %d dimensions, %lld x %lld of %s: %lld x %lld of %s is needed", suffix, t->ndim,
               (long long)t->dim[0], (long long)t->dim[1], dtype_name[t->dtype], (long long)d0,
               (long long)(d1 ? d1 : 1), dtype == ANY_FLOAT ? "floats" : dtype_name[dtype]);
    return NULL;
}
