/* Packing of a model's matrices, once at load: which layout a source goes to, and the way there.
 *
 *   source --read--> row of codes --check--> put into a panel --> copied to the weight's memory
 *
 * `choices` lists the layouts of each kind in the order of preference. The first one is tried; where a row does not fit
 * (a scale that is not exactly f16), the next. The panel is made in a buffer of its own and the weight's memory is taken
 * once the first panel has fitted: what does not fit shows there, nearly always, and memory of the shared blocks would
 * not come back before the block does.
 *
 * A float source has no codes: F32 or BF16. So are the values of a coded source that no coded layout takes. Threads:
 * each call has its own buffers. */
#include "kernels/pack.h"
#include "kernels/convert.h"
#include "kernels/quantize.h"
#include <math.h>
#include <stdlib.h>

struct choice {
    put_row_fn *put; /* NULL: the end */
    enum layout layout;
    bool rounds;
    int only; /* 0: in any precision; else 1 + the precision */
};

enum { ANY, FAST = 1 + PREC_FAST, EXACT = 1 + PREC_EXACT };
#define CHOICES 5

static const struct choice choices[][CHOICES] = {
    [CODES_FLOAT] = {{put_bf16, LAYOUT_BF16, true, FAST}, {put_f32, LAYOUT_F32, false, ANY}, {put_s24, LAYOUT_S24, true, ANY}},
    [CODES_INT8] = {{put_q8, LAYOUT_Q8, false, ANY}, {put_q8f, LAYOUT_Q8F, false, ANY}},
    [CODES_INT4] = {{put_q4_of_zero, LAYOUT_Q4, false, ANY}, {put_q4z, LAYOUT_Q4Z, false, ANY}},
    [CODES_AFFINE] = {{put_q4, LAYOUT_Q4, false, ANY},
                      {put_q4, LAYOUT_Q4, true, FAST},
                      {put_bf16, LAYOUT_BF16, true, FAST},
                      {put_f32, LAYOUT_F32, false, ANY}},
    [CODES_TABLE] = {{put_t4, LAYOUT_T4, false, ANY}},
    [CODES_E4M3] = {{put_f8, LAYOUT_F8, false, ANY}},
    [CODES_INT2] = {{put_q2, LAYOUT_Q2, false, ANY},
                    {put_q2, LAYOUT_Q2, true, FAST},
                    {put_bf16, LAYOUT_BF16, true, FAST},
                    {put_f32, LAYOUT_F32, false, ANY}},
};

/* --- rows --- */

int row_room(struct weight_row *room, int k, struct err *e)
{
    size_t n = (size_t)k, groups = (n + GROUP - 1) / GROUP;
    float *f = calloc(1, n * sizeof *f + 2 * groups * sizeof *f + n);
    if (!f) return err_set(e, ERR_NO_MEMORY, "no memory for a row of %d inputs", k);
    *room = (struct weight_row){.f = f, .d = f + n, .z = f + n + groups, .q = (uint8_t *)(f + n + 2 * groups)};
    return 0;
}

static const struct {
    uint8_t most; /* the largest code */
    bool offset;  /* z counts */
} kinds[] = {
    [CODES_FLOAT] = {0, false},  [CODES_INT8] = {255, false}, [CODES_INT4] = {15, true}, [CODES_AFFINE] = {15, true},
    [CODES_TABLE] = {15, false}, [CODES_E4M3] = {255, false}, [CODES_INT2] = {3, true},
};

#define E4M3_MOST 448.0f

static int check_scales(const struct weight_source *src, int row, const struct weight_row *in, struct err *e)
{
    for (int g = 0; g < (src->k + GROUP - 1) / GROUP; g++) {
        float z = kinds[src->kind].offset ? in->z[g] : 0;
        bool fits = isfinite(in->d[g]) && isfinite(z) && (src->kind != CODES_E4M3 || isfinite(in->d[g] * E4M3_MOST));
        if (!fits)
            return err_set(e, ERR_MODEL, "row %d of a %s matrix has a scale that is not finite, or beyond float32", row,
                           src->format);
        if (src->kind == CODES_INT4 && !(z >= -128 && z <= 127 && z == rintf(z)))
            return err_set(e, ERR_MODEL,
                           "row %d of a %s matrix has the zero point %g: a whole number from -128 to 127 is served",
                           row, src->format, (double)z);
    }
    return 0;
}

int row_read(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    if (src->read(src, row, out, e)) return -1;
    if (src->kind == CODES_FLOAT) return 0;
    uint8_t most = 0, nan = 0;
    for (int i = 0; i < src->k; i++) {
        most = out->q[i] > most ? out->q[i] : most;
        nan |= (out->q[i] & 0x7f) == 0x7f;
    }
    if (most > kinds[src->kind].most)
        return err_set(e, ERR_MODEL, "row %d of a %s matrix has a code %d: 0 to %d are defined", row, src->format, most,
                       kinds[src->kind].most);
    if (nan && src->kind == CODES_E4M3)
        return err_set(e, ERR_MODEL, "row %d of a %s matrix has a value that is not a number", row, src->format);
    return check_scales(src, row, out, e);
}

void row_values(const struct weight_source *src, struct weight_row *row)
{
    for (int i = 0; src->kind != CODES_FLOAT && i < src->k; i++) {
        float d = row->d[i / GROUP], z = row->z[i / GROUP];
        uint8_t q = row->q[i];
        switch (src->kind) {
        case CODES_INT8:
            row->f[i] = d * (float)(q - 128);
            break;
        case CODES_INT4:
            row->f[i] = d * ((float)q - z);
            break;
        case CODES_TABLE:
            row->f[i] = d * src->table[q];
            break;
        case CODES_E4M3:
            row->f[i] = d * f32_of_e4m3(q);
            break;
        default: /* CODES_AFFINE, CODES_INT2 */
            row->f[i] = d * (float)q + z;
        }
    }
}

/* --- a matrix --- */

struct packing {
    const struct weight_source *src;
    const int *row_of;
    const struct choice *choice;
    struct weight_row row;
    char *panel; /* buffer */
    struct rounding rounding;
};

/* Rounded scales are as good as the largest of them allows: a matrix of f16 subnormals is not. */
static bool rounded_well(const struct rounding *r)
{
    return r->d_error <= r->d / 64 && r->m_error <= r->d;
}

/* 0: the rows from n0 on are in the panel; 1: one does not fit; -1. */
static int fill_panel(struct packing *p, const struct weight *w, int n0, struct err *e)
{
    memset(p->panel, 0, w->panel_bytes);
    for (int o = 0; o < PANEL && n0 + o < w->n; o++) {
        if (row_read(p->src, p->row_of ? p->row_of[n0 + o] : n0 + o, &p->row, e)) return -1;
        if (w->layout <= LAYOUT_BF16 || w->layout == LAYOUT_S24) row_values(p->src, &p->row);
        if (!p->choice->put(p->panel, o, &p->row, w->k, &p->rounding)) return 1;
    }
    return 0;
}

/* As fill_panel(), of all panels. */
static int fill(struct packing *p, struct weight *w, struct err *e)
{
    for (int n0 = 0; n0 < w->n; n0 += PANEL) {
        int rc = fill_panel(p, w, n0, e);
        if (rc) return rc;
        if (!w->data) w->data = block_take(w->bytes, &w->block);
        if (!w->data)
            return err_set(e, ERR_NO_MEMORY, "no memory for a matrix of %d x %d (%zu bytes)", w->n, w->k, w->bytes);
        memcpy((char *)w->data + (size_t)(n0 / PANEL) * w->panel_bytes, p->panel, w->panel_bytes);
    }
    return rounded_well(&p->rounding) ? 0 : 1;
}

/* 0: *w is packed; 1: this layout does not hold it; -1. */
static int try_choice(struct packing *p, struct weight *w, struct err *e)
{
    *w = (struct weight){0};
    if (weight_shape(w, p->choice->layout, p->src->n, p->src->k, p->src->format, e)) return -1;
    p->rounding = (struct rounding){.allowed = p->choice->rounds};
    p->panel = malloc(w->panel_bytes);
    if (!p->panel) return err_set(e, ERR_NO_MEMORY, "no memory for a panel of %zu bytes", w->panel_bytes);
    int rc = fill(p, w, e);
    free(p->panel);
    if (rc) weight_close(w);
    return rc;
}

static int check_table(const struct weight_source *src, struct err *e)
{
    for (int i = 0; src->kind == CODES_TABLE && i < 16; i++)
        if (!isfinite(src->table[i]))
            return err_set(e, ERR_MODEL, "the table of a %s matrix has an entry %d that is not finite", src->format, i);
    return 0;
}

/* Try the kind's choices, those of layout `to` only unless that is LAYOUT_AUTO. */
static int pack_choices(struct packing *p, enum code_kind kind, enum precision prec, int to, struct weight *out,
                        struct err *e)
{
    struct weight w;
    for (const struct choice *c = choices[kind]; c->put; c++) {
        if ((c->only != ANY && c->only != 1 + (int)prec) || (to != LAYOUT_AUTO && to != (int)c->layout)) continue;
        p->choice = c;
        int rc = try_choice(p, &w, e);
        if (rc > 0) continue;
        if (rc < 0) return -1;
        if (w.layout == LAYOUT_T4) {
            memcpy(w.table, p->src->table, sizeof w.table);
            table_coarse(&w);
        }
        *out = w;
        return 0;
    }
    return 1;
}

int pack_codes(struct weight *w, const struct weight_source *src, const int *row_of, enum precision prec, int to,
               bool *requantized, struct err *e)
{
    struct packing p = {.src = src, .row_of = row_of};
    struct weight shape;
    if (check_table(src, e) || weight_shape(&shape, LAYOUT_F32, src->n, src->k, src->format, e)) return -1;
    if (row_room(&p.row, src->k, e)) return -1;
    bool sparse = to == LAYOUT_S24 && src->k % GROUP == 0;
    bool floats = src->k % GROUP || sparse || (to != LAYOUT_AUTO && to <= LAYOUT_BF16);
    int rc = floats ? pack_choices(&p, CODES_FLOAT, prec, to > LAYOUT_BF16 && !sparse ? LAYOUT_AUTO : to, w, e)
                    : pack_choices(&p, src->kind, prec, to, w, e);
    free(p.row.f);
    if (rc == 0 && requantized) *requantized = p.rounding.any;
    return rc;
}

int weight_pack_source(struct weight *w, const struct weight_source *src, const int *row_of, enum precision prec,
                       int to, bool *requantized, struct err *e)
{
    if (to <= LAYOUT_BF16 || to == LAYOUT_S24) { /* AUTO as well */
        if (to == LAYOUT_BF16) prec = PREC_FAST;
        return pack_codes(w, src, row_of, prec, to, requantized, e);
    }
    struct quant_type type = {.layout = (enum layout)to, .table = src->kind == CODES_TABLE ? src->table : table_nf4};
    if (weight_quantize(w, &type, src, row_of, e)) return -1;
    if (requantized) *requantized = true;
    return 0;
}
