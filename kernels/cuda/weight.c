/* Weights in the device's order, from the host's panels (weight.h draws both orders).
 *
 * Codes and scales are moved, not computed: an f16 scale stays its 16 bits, a code only changes its spelling (q8's offset
 * becomes two's complement, q4z's zero point becomes the bf16 that the kernel subtracts). So nothing is rounded, and
 * what a host layout says about a value holds on the device.
 *
 * The unit of work is a panel of 32 outputs: a loader packs some on each thread into staging and sends them off. Called
 * by any thread; nothing here knows a device. Refused: float32 sources beyond KIND_F32's shape, k that is no multiple of
 * 8 (16-byte rows), parts of different layouts. */
#include "kernels/cuda/weight.h"
#include "kernels/convert.h"
#include "kernels/pack.h"
#include <stdbool.h>
#include <string.h>

#define ALIGN 256

const char *const cuda_kind_name[KINDS] = {"bf16", "f32", "f8r", "q8", "q8f", "f8", "q4", "q4z", "t4", "q2"};

enum scales { SCALE_NONE, SCALE_F32, SCALE_F32_ZERO, SCALE_F16, SCALE_F16_MIN };

/* A row a kind; of rows (tile 0) `bits` is all there is to know. */
static const struct {
    int bits, tile; /* bytes of a tile */
    enum scales scales;
} kinds[KINDS] = {
    [KIND_BF16] = {16, 0, SCALE_NONE},
    [KIND_F32] = {32, 0, SCALE_NONE},
    [KIND_F8R] = {8, 0, SCALE_NONE},
    [KIND_Q8] = {8, 128 + 2048, SCALE_F16},
    [KIND_Q8F] = {8, 256 + 2048, SCALE_F32},
    [KIND_F8] = {8, 256 + 2048, SCALE_F32},
    [KIND_Q4] = {4, 256 + 1024, SCALE_F16_MIN},
    [KIND_Q4Z] = {4, 384 + 1024, SCALE_F32_ZERO},
    [KIND_T4] = {4, 256 + 1024, SCALE_F32},
    [KIND_Q2] = {2, 256 + 512, SCALE_F16_MIN},
};

static const int kind_of_layout[LAYOUTS] = {
    [LAYOUT_F32] = KIND_F32, [LAYOUT_BF16] = KIND_BF16, [LAYOUT_Q8] = KIND_Q8,
    [LAYOUT_Q4] = KIND_Q4,   [LAYOUT_Q8F] = KIND_Q8F,   [LAYOUT_Q4Z] = KIND_Q4Z,
    [LAYOUT_T4] = KIND_T4,   [LAYOUT_F8] = KIND_F8,     [LAYOUT_Q2] = KIND_Q2,
};

/* --- reading a panel of the host --- */

/* One output's group of 32 inputs. */
struct group {
    uint8_t q[GROUP];
    float d;
    uint16_t d16, m16; /* f16 */
    int z;
};

static const uint8_t *host_group(const struct weight *w, int row, int g)
{
    static const int bytes[LAYOUTS] = {
        [LAYOUT_Q8] = Q8_GROUP_BYTES,   [LAYOUT_Q4] = Q4_GROUP_BYTES, [LAYOUT_Q8F] = Q8F_GROUP_BYTES,
        [LAYOUT_Q4Z] = Q4Z_GROUP_BYTES, [LAYOUT_T4] = T4_GROUP_BYTES, [LAYOUT_F8] = F8_GROUP_BYTES,
        [LAYOUT_Q2] = Q2_GROUP_BYTES,
    };
    return (const uint8_t *)w->data + (size_t)(row / PANEL) * w->panel_bytes + (size_t)g * (size_t)bytes[w->layout];
}

static void read_8(const uint8_t *codes, int o, uint8_t *q)
{
    for (int i = 0; i < GROUP; i++) q[i] = codes[(i / 4 * PANEL + o) * 4 + i % 4];
}

static void read_f8(const uint8_t *codes, int o, uint8_t *q)
{
    for (int i = 0; i < GROUP; i++) q[i] = codes[(i / 4 * PANEL + o) * 4 + (i % 2 * 2 + i % 4 / 2)];
}

static void read_4(const uint8_t *codes, int o, uint8_t *q)
{
    for (int i = 0; i < GROUP; i++) q[i] = codes[(i / 8 * PANEL + o) * 4 + i % 4] >> (i % 8 < 4 ? 0 : 4) & 15;
}

static void read_2(const uint8_t *codes, int o, uint8_t *q)
{
    for (int i = 0; i < GROUP; i++) q[i] = codes[(i / 16 * PANEL + o) * 4 + i % 4] >> (i % 16 / 4 * 2) & 3;
}

static void read_t4(const uint8_t *codes, int o, uint8_t *q)
{
    const uint16_t *word = (const uint16_t *)codes;
    for (int i = 0; i < GROUP; i++) q[i] = (uint8_t)(word[(i / 8 * PANEL + o) * 2 + i % 2] >> (i % 8 / 2 * 4) & 15);
}

static void read_group(const struct weight *w, int row, int g, struct group *out)
{
    const uint8_t *from = host_group(w, row, g);
    const float *f32 = (const float *)from;
    const uint16_t *f16 = (const uint16_t *)from;
    int o = row % PANEL;
    *out = (struct group){0};
    switch (w->layout) {
    case LAYOUT_Q8:
        out->d16 = f16[o], read_8(from + PANEL * 2, o, out->q);
        break;
    case LAYOUT_Q8F:
        out->d = f32[o], read_8(from + PANEL * 4, o, out->q);
        break;
    case LAYOUT_F8:
        out->d = f32[o], read_f8(from + PANEL * 4, o, out->q);
        break;
    case LAYOUT_Q4:
        out->d16 = f16[o], out->m16 = f16[PANEL + o], read_4(from + PANEL * 4, o, out->q);
        break;
    case LAYOUT_Q4Z:
        out->d = f32[o], out->z = (int8_t)from[PANEL * 4 + o], read_4(from + PANEL * 5, o, out->q);
        break;
    case LAYOUT_T4:
        out->d = f32[o], read_t4(from + PANEL * 4, o, out->q);
        break;
    case LAYOUT_Q2:
        out->d16 = f16[o], out->m16 = f16[PANEL + o], read_2(from + PANEL * 4, o, out->q);
        break;
    default: /* rows of floats have no groups */
        break;
    }
}

/* The part and its own row that output `row` of the stack is. */
static const struct cuda_part *part_of(const struct cuda_part *part, int row, int *own)
{
    while (row >= part->n) row -= part++->n;
    *own = part->row0 + row;
    return part;
}

/* --- plan --- */

/* fp8 with one scale a row. */
static bool row_scaled(const struct cuda_part *part, int parts)
{
    for (int p = 0; p < parts; p++) {
        if (part[p].k % 16) return false;
        for (int r = part[p].row0; r < part[p].row0 + part[p].n; r++) {
            float first = ((const float *)host_group(part[p].w, r, part[p].k0 / GROUP))[r % PANEL];
            for (int g = 1; g < part[p].k / GROUP; g++)
                if (((const float *)host_group(part[p].w, r, part[p].k0 / GROUP + g))[r % PANEL] != first) return false;
        }
    }
    return true;
}

static int check_part(const struct cuda_part *p, const struct cuda_part *first, struct err *e)
{
    const struct weight *w = p->w;
    int unit = w->layout == LAYOUT_BF16 || w->layout == LAYOUT_F32 ? 2 : GROUP;
    if (p->row0 < 0 || p->n < 1 || p->row0 + p->n > w->n || p->k0 < 0 || p->k < 1 || p->k0 + p->k > w->k)
        return err_set(e, ERR_MODEL, "outputs %d+%d, inputs %d+%d are no part of a %d x %d matrix", p->row0, p->n,
                       p->k0, p->k, w->n, w->k);
    if (p->k % 8) return err_set(e, ERR_MODEL, "a matrix with %d inputs: on CUDA they must be a multiple of 8", p->k);
    if (p->k0 % unit || p->k % unit)
        return err_set(e, ERR_MODEL, "inputs %d to %d of a %s matrix cut a group of %d", p->k0, p->k0 + p->k,
                       layout_name[w->layout], unit);
    bool same_table = w->layout != LAYOUT_T4 || memcmp(w->table, first->w->table, sizeof w->table) == 0;
    if (w->layout != first->w->layout || p->k != first->k || !same_table)
        return err_set(e, ERR_MODEL, "a %s matrix of %d inputs does not stack on a %s one of %d",
                       layout_name[w->layout], p->k, layout_name[first->w->layout], first->k);
    return 0;
}

int cuda_weight_plan(struct cuda_weight *out, const struct cuda_part *part, int parts, struct err *e)
{
    struct cuda_weight w = {.k = part[0].k, .ld = part[0].k};
    for (int p = 0; p < parts; p++) {
        if (check_part(&part[p], &part[0], e)) return -1;
        w.n += part[p].n;
    }
    const struct weight *from = part[0].w;
    w.kind = kind_of_layout[from->layout];
    if (w.kind == KIND_F8 && row_scaled(part, parts)) w.kind = KIND_F8R;
    if (w.kind == KIND_T4) {
        w.factor = from->factor;
        memcpy(w.coarse, from->coarse, sizeof w.coarse);
        memcpy(w.table, from->table, sizeof w.table);
    }
    *out = w;
    return 0;
}

void cuda_weight_widen(struct cuda_weight *w, int columns)
{
    w->columns = w->kind == KIND_F32 ? 0 : columns;
    if (w->kind == KIND_BF16) w->ld += columns;
}

int cuda_panels(const struct cuda_weight *w)
{
    return (w->n + TILE_N - 1) / TILE_N;
}

static size_t row_bytes(const struct cuda_weight *w)
{
    return (size_t)w->ld * (size_t)kinds[w->kind].bits / 8;
}

size_t cuda_panel_offset(const struct cuda_weight *w, int panel)
{
    int panels = cuda_panels(w), tile = kinds[w->kind].tile;
    size_t tiles = ((size_t)w->k + TILE_K - 1) / TILE_K;
    if (panel < panels) return (size_t)panel * (tile ? tiles * (size_t)tile : TILE_N * row_bytes(w));
    size_t codes = tile ? (size_t)panels * tiles * (size_t)tile : (size_t)w->n * row_bytes(w);
    if (w->kind != KIND_F8R) return codes;
    codes = (codes + ALIGN - 1) / ALIGN * ALIGN;
    return panel == panels ? codes : codes + (size_t)w->n * sizeof(float);
}

size_t cuda_weight_bytes(const struct cuda_weight *w)
{
    return cuda_panel_offset(w, cuda_panels(w) + 1);
}

void cuda_weight_place(struct cuda_weight *w, const void *device)
{
    w->data = device;
    w->scales = NULL;
    if (w->kind == KIND_F8R) w->scales = (const float *)((const char *)device + cuda_panel_offset(w, cuda_panels(w)));
}

struct cuda_weight cuda_weight_view(const struct cuda_weight *w, int row0, int n)
{
    struct cuda_weight view = *w;
    view.n = n;
    if (n == 0) return view;
    view.data = (const char *)w->data + cuda_panel_offset(w, row0 / TILE_N);
    if (w->scales) view.scales = w->scales + row0;
    return view;
}

/* --- rows --- */

static void pack_row(const struct cuda_weight *w, const struct weight *from, int row, int k0, void *out)
{
    const char *panel = (const char *)from->data + (size_t)(row / PANEL) * from->panel_bytes;
    int o = row % PANEL;
    if (w->kind == KIND_F32) {
        const float *in = (const float *)panel + (size_t)k0 * PANEL;
        for (int i = 0; i < w->k; i++) ((float *)out)[i] = in[(size_t)i * PANEL + o];
    } else if (w->kind == KIND_BF16) {
        const uint32_t *pair = (const uint32_t *)panel + (size_t)(k0 / 2) * PANEL;
        for (int i = 0; i < w->k / 2; i++) ((uint32_t *)out)[i] = pair[(size_t)i * PANEL + o];
    } else {
        for (int g = 0; g < w->k / GROUP; g++) {
            struct group group;
            read_group(from, row, k0 / GROUP + g, &group);
            memcpy((uint8_t *)out + (size_t)g * GROUP, group.q, GROUP);
        }
    }
}

static void pack_row_scales(const struct cuda_weight *w, const struct cuda_part *part, float *out)
{
    for (int r = 0; r < w->n; r++) {
        int own;
        struct group group;
        const struct cuda_part *p = part_of(part, r, &own);
        read_group(p->w, own, p->k0 / GROUP, &group);
        out[r] = group.d;
    }
}

/* --- tiles --- */

/* Scales of group h of the output that lanes g have as their j-th. */
static void put_scales_tile(enum scales how, uint8_t *tile, int g, int h, int j, const struct group *from)
{
    uint16_t *f16 = (uint16_t *)tile + g * 8 + h * 4 + j;
    if (how == SCALE_F16 || how == SCALE_F16_MIN) *f16 = from->d16;
    if (how == SCALE_F16_MIN) f16[64] = from->m16;
    if (how == SCALE_F32 || how == SCALE_F32_ZERO) ((float *)tile)[h * 32 + g * 4 + j] = from->d;
    if (how == SCALE_F32_ZERO) f16[128] = bf16_of_f32((float)(128 + from->z));
}

/* Codes of lane 4g + t: the eight inputs from q on of group h and output j. */
static void put_codes_tile(int kind, uint8_t *codes, int lane, int h, int j, const uint8_t *q)
{
    static const int place[4] = {0, 2, 1, 3};
    uint32_t *word = (uint32_t *)codes;
    int chunk = kinds[kind].bits == 8 ? 2 * h + j / 2 : kinds[kind].bits == 4 ? h : 0;
    word += (chunk * 32 + lane) * 4;
    for (int i = 0; i < 8; i++) {
        if (kinds[kind].bits == 8) {
            uint8_t code = kind == KIND_F8 ? q[i] : q[i] ^ 0x80;
            word[2 * (j % 2) + i / 4] |= (uint32_t)code << (8 * place[i % 4]);
        } else if (kind == KIND_T4) {
            word[j] |= (uint32_t)q[i] << (4 * i);
        } else if (kinds[kind].bits == 4) {
            word[j] |= (uint32_t)q[i] << (4 * (i / 2) + 16 * (i % 2));
        } else {
            word[j] |= (uint32_t)q[i] << (2 * (4 * h + i / 2) + 16 * (i % 2));
        }
    }
}

static void pack_tile(const struct cuda_weight *w, const struct cuda_part *part, int panel, int tile, uint8_t *out)
{
    static const int scale_bytes[] = {
        [SCALE_F32] = 256, [SCALE_F32_ZERO] = 384, [SCALE_F16] = 128, [SCALE_F16_MIN] = 256};
    enum scales how = kinds[w->kind].scales;
    for (int r = 0; r < TILE_N && panel * TILE_N + r < w->n; r++) {
        int own;
        const struct cuda_part *p = part_of(part, panel * TILE_N + r, &own);
        for (int h = 0; h < 2 && tile * TILE_K + h * GROUP < w->k; h++) {
            struct group group;
            read_group(p->w, own, p->k0 / GROUP + tile * 2 + h, &group);
            put_scales_tile(how, out, r % 8, h, r / 8, &group);
            for (int t = 0; t < 4; t++)
                put_codes_tile(w->kind, out + scale_bytes[how], r % 8 * 4 + t, h, r / 8, group.q + 8 * t);
        }
    }
}

void cuda_panel_pack(const struct cuda_weight *w, const struct cuda_part *part, int parts, int panel, void *host)
{
    (void)parts; /* their rows add up to w->n */
    size_t bytes = cuda_panel_offset(w, panel + 1) - cuda_panel_offset(w, panel);
    memset(host, 0, bytes);
    if (panel == cuda_panels(w)) {
        if (w->kind == KIND_F8R) pack_row_scales(w, part, host);
    } else if (kinds[w->kind].tile) {
        for (int t = 0; t * TILE_K < w->k; t++)
            pack_tile(w, part, panel, t, (uint8_t *)host + (size_t)t * (size_t)kinds[w->kind].tile);
    } else {
        for (int r = 0; r < TILE_N && panel * TILE_N + r < w->n; r++) {
            int own;
            const struct cuda_part *p = part_of(part, panel * TILE_N + r, &own);
            pack_row(w, p->w, own, p->k0, (char *)host + (size_t)r * row_bytes(w));
        }
    }
}
