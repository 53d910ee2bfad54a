/* ldmatrix and mma, by the tables of PTX's manual: which lane holds which element. A sum is float32 and ascending in k; the device's has more digits inside an instruction and rounds otherwise, so results of mma are
 * compared with a tolerance. */
#include "kernels/convert.h"
#include "tests/simt/run.h"
#include <string.h>

#define M 16
#define N 8

/* --- ldmatrix: 8 x 8 elements of 16 bits; matrix i's row j is at the address of lane 8 i + j --- */

static void check_rows(struct fiber *lane, int n)
{
    for (int l = 0; l < 8 * n; l++) {
        const void *row = lane[l].arg[0];
        if ((uintptr_t)row % 16) run_fail("lane %d's row is not 16-byte aligned", l);
        if (memory_rank(row) != (int)lane->here.rank) run_fail("lane %d's row is not in shared memory", l);
        race_access(&lane[l], row, 16, false);
    }
}

static uint16_t element(const struct fiber *lane, int matrix, int row, int column)
{
    uint16_t v;
    memcpy(&v, (const char *)lane[8 * matrix + row].arg[0] + 2 * column, sizeof v);
    return v;
}

static void all_ldmatrix(struct fiber *lane)
{
    check_rows(lane, lane->count);
    for (int l = 0; l < LANES; l++) {
        uint32_t *r = lane[l].out;
        int g = l / 4, t = l % 4;
        for (int i = 0; i < lane->count; i++)
            r[i] = lane->trans ? element(lane, i, 2 * t, g) | (uint32_t)element(lane, i, 2 * t + 1, g) << 16
                               : element(lane, i, g, 2 * t) | (uint32_t)element(lane, i, g, 2 * t + 1) << 16;
    }
}

void simt_ldmatrix(uint32_t *r, int n, bool trans, const void *row, struct simt_site at)
{
    struct fiber *f = run_enter("dev_ldmatrix", at);
    f->arg[0] = row, f->out = r, f->count = n, f->trans = trans;
    sync_matrix(f, all_ldmatrix);
}

/* --- mma: element e of register i of lane 4 g + t. `per` elements a register: 2 of 16 bits, 4 of 8 bits. Products of
 * bf16 and of e4m3 are exact in float32, so a product and a sum round as one fmaf does. --- */

#define MAX_K 32
#define ALWAYS static inline __attribute__((always_inline))

struct tiles {
    float a[M][MAX_K], b[MAX_K][N], sum[M][N];
};

ALWAYS float bf16_value(uint32_t reg, int e)
{
    return f32_of_bf16((uint16_t)(reg >> 16 * e));
}

ALWAYS float s8_value(uint32_t reg, int e)
{
    return (int8_t)(reg >> 8 * e);
}

ALWAYS float e4m3_value(uint32_t reg, int e)
{
    return f32_of_e4m3((uint8_t)(reg >> 8 * e));
}

ALWAYS void gather(const struct fiber *lane, struct tiles *x, int per, float value(uint32_t reg, int e))
{
    for (int l = 0; l < LANES; l++) {
        const uint32_t *ra = lane[l].arg[0], *rb = lane[l].arg[1];
        int g = l / 4, t = l % 4;
        for (int e = 0; e < per; e++) {
            int k = per * t + e;
            for (int i = 0; i < 4; i++) x->a[g + 8 * (i % 2)][k + 4 * per * (i / 2)] = value(ra[i], e);
            for (int i = 0; i < 2; i++) x->b[k + 4 * per * i][g] = value(rb[i], e);
        }
    }
}

/* sum += a b, ascending in k. */
ALWAYS void multiply(struct tiles *x, int k_end)
{
    for (int m = 0; m < M; m++)
        for (int k = 0; k < k_end; k++)
            for (int n = 0; n < N; n++) x->sum[m][n] += x->a[m][k] * x->b[k][n];
}

static float *sum_at(struct tiles *x, int l, int i)
{
    return &x->sum[l / 4 + 8 * (i / 2)][2 * (l % 4) + i % 2];
}

ALWAYS void floats(struct fiber *lane, int per, float value(uint32_t reg, int e))
{
    struct tiles x;
    gather(lane, &x, per, value);
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) *sum_at(&x, l, i) = ((float *)lane[l].out)[i];
    multiply(&x, 8 * per);
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) ((float *)lane[l].out)[i] = *sum_at(&x, l, i);
}

static void all_bf16(struct fiber *lane)
{
    floats(lane, 2, bf16_value);
}

static void all_e4m3(struct fiber *lane)
{
    floats(lane, 4, e4m3_value);
}

/* 32 products of bytes are exact in float32. */
static void all_s8(struct fiber *lane)
{
    struct tiles x = {0};
    gather(lane, &x, 4, s8_value);
    multiply(&x, 32);
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) ((int *)lane[l].out)[i] += (int)*sum_at(&x, l, i);
}

static void mma(const char *what, void *d, const uint32_t *a, const uint32_t *b, void (*all)(struct fiber *lane),
                struct simt_site at)
{
    struct fiber *f = run_enter(what, at);
    f->arg[0] = a, f->arg[1] = b, f->out = d;
    sync_matrix(f, all);
}

void simt_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, struct simt_site at)
{
    mma("dev_mma_bf16", d, a, b, all_bf16, at);
}

void simt_mma_s8(int *d, const uint32_t *a, const uint32_t *b, struct simt_site at)
{
    mma("dev_mma_s8", d, a, b, all_s8, at);
}

void simt_mma_e4m3(float *d, const uint32_t *a, const uint32_t *b, struct simt_site at)
{
    mma("dev_mma_e4m3", d, a, b, all_e4m3, at);
}
