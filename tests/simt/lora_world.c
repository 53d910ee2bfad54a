/* lora_world.h: the world is made from a case's shape alone, so a seed changes the order of threads and nothing else. */
#include "tests/simt/lora_world.h"
#include "kernels/cuda/lora_layout.h"
#include "tests/simt/simt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 4e-3f     /* of the largest value: bf16's rounding, twice */
#define TOLERANCE_F32 4e-6f /* what is left of a sum over the rank whose terms are two bf16 each */

float world_bf16(uint16_t bits)
{
    uint32_t u = (uint32_t)bits << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint16_t world_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (f != f) return 0x7fff;
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Whole: -1, 0, 1, mostly 0 where there are many, so that sums stay small. */
static void fill(uint16_t *p, size_t n, uint64_t stream, enum world_data data, float scale)
{
    simt_fill_bf16(p, n, stream, data == WORLD_WHOLE ? 1.0f : scale);
    for (size_t i = 0; i < n && data == WORLD_WHOLE; i++) {
        float f = world_bf16(p[i]);
        p[i] = world_to_bf16(f > 0.6f ? 1.0f : f < -0.6f ? -1.0f : 0.0f);
    }
}

static struct cuda_module pack(const struct world_module *m, int n, int k)
{
    size_t b_at, bytes = lora_layout_bytes(m->r, n, k, &b_at);
    struct cuda_module at = {.r = m->r, .scale = m->scale, .row_scale = m->g};
    char *to = simt_buffer("adapter", bytes);
    lora_layout_pack(to, m->r, n, k, m->a, m->b);
    simt_seal(to);
    at.a = to, at.b = to + b_at;
    return at;
}

static void make_module(struct world *w, int slot, int slice, int r, bool dora)
{
    struct world_module *m = &w->mod[slot][slice];
    size_t n = (size_t)w->shape.n[slice], k = (size_t)w->shape.k;
    uint64_t stream = (uint64_t)(100 + slot * 16 + slice * 4);
    bool whole = w->shape.data == WORLD_WHOLE;
    m->r = r;
    if (r == 0) return;
    m->scale = whole ? 0.5f : 16.0f / (float)r;
    m->a = malloc((size_t)r * k * 2), m->b = malloc(n * (size_t)r * 2);
    fill(m->a, (size_t)r * k, stream, w->shape.data, 0.05f);
    fill(m->b, n * (size_t)r, stream + 1, w->shape.data, 0.05f);
    if (!dora) return;
    m->g = simt_buffer("row factors", n * sizeof *m->g);
    simt_fill_f32(m->g, n, stream + 2, 0.5f);
    for (size_t i = 0; i < n; i++) m->g[i] = whole ? (float)(1 + i % 3) : 1 + m->g[i];
    simt_seal(m->g);
}

static void make_rows(struct world *w)
{
    size_t ldx = (size_t)w->ldx, ldy = (size_t)w->ldy, rows = (size_t)w->rows, size = w->shape.f32 ? 4 : 2;
    w->x = simt_buffer("x", rows * ldx * 2);
    w->y = malloc(rows * ldy * size);
    memset(w->y, 0xff, rows * ldy * size);
    for (size_t row = 0; row < rows; row++) {
        fill(w->x + row * ldx, (size_t)w->shape.k, 10 + row, w->shape.data, 1);
        for (int s = 0; s < w->shape.nslice; s++) {
            uint16_t y[8192];
            fill(y, (size_t)w->shape.n[s], 1000 + row * 4 + (uint64_t)s, w->shape.data, 1);
            for (int i = 0; i < w->shape.n[s]; i++) {
                size_t at = row * ldy + (size_t)(w->y0[s] + i);
                if (i % 5 == 0) y[i] = 0x8000; /* -0 */
                if (w->shape.f32)
                    ((float *)w->y)[at] = world_bf16(y[i]);
                else
                    ((uint16_t *)w->y)[at] = y[i];
            }
        }
    }
    simt_seal(w->x);
}

void world_make(struct world *w, const struct world_shape *shape, int rows, int slots, const int (*rank)[LORA_SLICES],
                uint64_t dora)
{
    memset(w, 0, sizeof *w);
    w->shape = *shape, w->rows = rows, w->slots = slots;
    w->ldx = (shape->k + 7) / 8 * 8 + 8;
    for (int s = 0; s < shape->nslice; s++) w->y0[s] = w->ldy, w->ldy += shape->n[s];
    w->ldy += 6;
    w->table = simt_buffer("table", (size_t)slots * WORLD_STRIDE * sizeof *w->table);
    for (int slot = 0; slot < slots; slot++)
        for (int s = 0; s < shape->nslice; s++) {
            make_module(w, slot, s, rank[slot][s], dora >> slot & 1);
            struct cuda_module *to = &w->table[slot * WORLD_STRIDE + s];
            if (rank[slot][s])
                *to = pack(&w->mod[slot][s], shape->n[s], shape->k);
            else
                to->r = 0; /* and the rest stays NaN */
        }
    simt_seal(w->table);
    make_rows(w);
}

/* --- a launch --- */

static int resident(void *u, const struct lora_table *t, struct lora_resident *out)
{
    struct world *w = u;
    *out = (struct lora_resident){.slot = (int)(t - w->tag)};
    for (int s = 0; s < w->shape.nslice; s++) {
        int r = (w->mod[out->slot][s].r + LORA_RANK_STEP - 1) / LORA_RANK_STEP * LORA_RANK_STEP;
        if (r > out->rank) out->rank = r;
    }
    return 0;
}

static struct lora_seg segment(struct world *w, const struct world_seg *from)
{
    struct lora_seg seg = {.row0 = from->row0, .rows = from->rows, .nuse = from->nuse};
    for (int i = 0; i < from->nuse; i++) {
        struct lora_resident r;
        resident(w, &w->tag[from->slot[i]], &r);
        seg.use[i] = (struct lora_use){&w->tag[from->slot[i]], from->weight[i]};
    }
    return seg;
}

static int most_ranks(struct world *w, const struct world_seg *seg, int nseg)
{
    int most = LORA_RANK_STEP;
    for (int i = 0; i < nseg; i++) {
        int sum = 0;
        for (int u = 0; u < seg[i].nuse; u++) {
            struct lora_resident r;
            resident(w, &w->tag[seg[i].slot[u]], &r);
            sum += r.rank;
        }
        if (sum > most) most = sum;
    }
    return most;
}

struct op_lora world_op(struct world *w, const struct world_seg *seg, int nseg, int tile_rows)
{
    struct lora_seg *list = calloc((size_t)nseg + 1, sizeof *list);
    for (int i = 0; i < nseg; i++) list[i] = segment(w, &seg[i]);
    struct lora_batch batch = {.nseg = nseg, .seg = list};
    struct lora_tiles tiles = {.tile = simt_buffer("tiles", (size_t)w->rows * sizeof *tiles.tile), .max = w->rows};
    struct err e = {0};
    int ranks = most_ranks(w, seg, nseg);
    SIMT_CHECK(lora_tiles_build(&tiles, &batch, w->rows, tile_rows, ranks, resident, w, &e) == 0, "%s", e.msg);
    free(list);
    simt_seal(tiles.tile);
    int32_t count[2] = {tiles.n, tiles.all}, *counts = simt_sealed("counts", count, sizeof count);
    struct op_lora op = {.tile = tiles.tile, .ntile = counts, .nall = counts + 1, .max_tiles = w->rows};
    op.tile_rows = tile_rows, op.ranks = ranks, op.table = w->table, op.stride = WORLD_STRIDE;
    op.nslice = w->shape.nslice, op.k = w->shape.k, op.x = w->x, op.ldx = w->ldx, op.ldy = w->ldy;
    op.f32 = w->shape.f32;
    for (int s = 0; s < op.nslice; s++) op.slice[s] = s, op.n[s] = w->shape.n[s], op.y0[s] = w->y0[s];
    op.scratch = simt_buffer("scratch", lora_scratch(w->rows, ranks));
    return op;
}

void world_poison(struct world *w, int row)
{
    simt_unseal(w->x);
    for (int i = 0; i < w->shape.k; i++) w->x[(size_t)row * (size_t)w->ldx + (size_t)i] = i % 2 ? 0x7f80 : 0x7fc0;
    simt_seal(w->x);
}

size_t world_y_bytes(const struct world *w)
{
    return (size_t)w->rows * (size_t)w->ldy * (w->shape.f32 ? 4 : 2);
}

void *world_copy_y(const struct world *w)
{
    void *y = simt_buffer("y", world_y_bytes(w));
    memcpy(y, w->y, world_y_bytes(w));
    return y;
}

void *world_run(struct world *w, const struct world_seg *seg, int nseg, int tile_rows, world_launch *launch)
{
    struct op_lora op = world_op(w, seg, nseg, tile_rows);
    op.y = world_copy_y(w);
    int rc = launch(&op, NULL);
    SIMT_CHECK(rc == 0, "refused: %d", rc);
    return op.y;
}

/* --- plain --- */

static double use_of(const struct world *w, const struct world_module *m, int row, int output, const double *s)
{
    double sum = 0;
    (void)w, (void)row;
    for (int j = 0; j < m->r; j++) sum += (double)world_bf16(m->b[(size_t)output * (size_t)m->r + (size_t)j]) * s[j];
    return sum;
}

static void shrink(const struct world *w, const struct world_module *m, int row, float weight, double *s)
{
    const uint16_t *x = w->x + (size_t)row * (size_t)w->ldx;
    for (int j = 0; j < m->r; j++) {
        double sum = 0;
        for (int i = 0; i < w->shape.k; i++)
            sum += (double)world_bf16(m->a[(size_t)j * (size_t)w->shape.k + (size_t)i]) * (double)world_bf16(x[i]);
        s[j] = sum * (double)m->scale * (double)weight;
    }
}

/* delta[n], and the factors of the one adapter that has some. */
static const float *row_plain(const struct world *w, const struct world_seg *seg, int row, int slice, double *delta)
{
    const float *g = NULL;
    static double s[LORA_STACK * LORA_RANK_MAX];
    for (int u = 0; u < seg->nuse; u++) {
        const struct world_module *m = &w->mod[seg->slot[u]][slice];
        if (m->r == 0) continue;
        if (m->g) g = m->g;
        shrink(w, m, row, seg->weight[u], s);
        for (int o = 0; o < w->shape.n[slice]; o++) delta[o] += use_of(w, m, row, o, s);
    }
    return g;
}

float *world_plain(const struct world *w, const struct world_seg *seg, int nseg)
{
    size_t values = (size_t)w->rows * (size_t)w->ldy;
    float *out = malloc(values * sizeof *out);
    for (size_t i = 0; i < values; i++) out[i] = w->shape.f32 ? ((float *)w->y)[i] : world_bf16(((uint16_t *)w->y)[i]);
    for (int i = 0; i < nseg; i++)
        for (int row = seg[i].row0; row < seg[i].row0 + seg[i].rows; row++)
            for (int slice = 0; slice < w->shape.nslice; slice++) {
                double *delta = calloc((size_t)w->shape.n[slice], sizeof *delta);
                const float *g = row_plain(w, &seg[i], row, slice, delta);
                float *to = out + (size_t)row * (size_t)w->ldy + w->y0[slice];
                for (int o = 0; o < w->shape.n[slice]; o++)
                    if (delta[o] != 0 || g) to[o] = (float)((to[o] + delta[o]) * (double)(g ? g[o] : 1));
                free(delta);
            }
    return out;
}

static void check_value(const struct world *w, size_t i, float got, float want, float most)
{
    int row = (int)(i / (size_t)w->ldy), col = (int)(i % (size_t)w->ldy);
    bool good = want != want                   ? got != got
                : w->shape.data == WORLD_WHOLE ? got == world_bf16(world_to_bf16(want)) || (w->shape.f32 && got == want)
                                               : fabsf(got - want) <= (w->shape.f32 ? TOLERANCE_F32 : TOLERANCE) * most;
    SIMT_CHECK(good, "row %d column %d: %g, not %g", row, col, (double)got, (double)want);
}

void world_check(const struct world *w, const void *y, const float *want)
{
    size_t values = (size_t)w->rows * (size_t)w->ldy;
    float most = 0;
    for (size_t i = 0; i < values; i++) most = fabsf(want[i]) > most ? fabsf(want[i]) : most;
    for (size_t i = 0; i < values; i++)
        check_value(w, i, w->shape.f32 ? ((const float *)y)[i] : world_bf16(((const uint16_t *)y)[i]), want[i], most);
}

static bool touched(const struct world *w, const struct world_seg *seg, int nseg, int row, int slice)
{
    for (int i = 0; i < nseg; i++)
        for (int u = 0; u < seg[i].nuse && row >= seg[i].row0 && row < seg[i].row0 + seg[i].rows; u++)
            if (w->mod[seg[i].slot[u]][slice].r > 0) return true;
    return false;
}

void world_check_untouched(const struct world *w, const struct world_seg *seg, int nseg, const void *y)
{
    size_t size = w->shape.f32 ? 4 : 2;
    int found = 0;
    for (int row = 0; row < w->rows; row++)
        for (int s = 0; s < w->shape.nslice; s++) {
            size_t at = ((size_t)row * (size_t)w->ldy + (size_t)w->y0[s]) * size;
            if (touched(w, seg, nseg, row, s)) continue;
            simt_equal("what no adapter touches", (const char *)y + at, (const char *)w->y + at,
                       (size_t)w->shape.n[s] * size);
            found++;
        }
    SIMT_CHECK(found > 0, "everything was touched");
}
