/* The shim's own test: what the kernels of kernels/cuda do with each other's threads, in the smallest form, and the
 * mistakes that are made with it. test_shim.c says what each mistake must bring. */
#include "kernels/cuda/dev.h"
#include "tests/simt/self.h"

#define BLOCK 256
#define STAGES 2
#define CHUNK 64 /* floats of a stage of the ring */
#define RANKS 4

/* --- barriers --- */

KERNEL(block_sum, BLOCK, 1)(GRID_CONST struct self_op op)
{
    SHARED(float, part, BLOCK);
    int t = (int)threadIdx.x;
    for (int round = 0; round < 2; round++) {
        part[t] = op.in[t] + (float)round;
        if (op.fault == DIVERGENT && t >= 32)
            dev_sync();
        else if (op.fault != NO_BARRIER && !(op.fault == MISSING_THREAD && t == 7))
            dev_sync();
        float sum = 0;
        for (int i = 0; i < BLOCK; i++) sum += part[i];
        if (op.fault != NO_SECOND_BARRIER) dev_sync();
        op.out[round * BLOCK + t] = sum;
    }
    float *any = part; /* the compiler's own check of bounds is not what is tested */
    if (op.fault == OUT_OF_SHARED && t == 0) any[BLOCK + op.n] = 1;
    if (op.fault == OUTSIDE && t == 0) op.out[2 * BLOCK + op.n] = 1;
    if (op.fault == INTO_SEALED && t == 0) const_cast<float *>(op.in)[3] = 1;
    if (op.fault == OVERLAP && t < 2) op.out[0] = 1;
    if (op.fault == MISALIGNED && t == 0) *reinterpret_cast<float4 *>(op.out + 1) = make_float4(1, 1, 1, 1);
    if (op.fault == READ_ONLY) op.out[t] = dev_ld_nc(op.out + t);
}

KERNEL(warp_exchange, 32, 1)(GRID_CONST struct self_op op)
{
    SHARED(float, part, 32);
    int t = (int)threadIdx.x;
    part[t] = op.in[t];
    if (op.fault != NO_BARRIER) dev_sync_warp();
    op.out[t] = part[t ^ 1];
}

KERNEL(shuffle_sum, 64, 1)(GRID_CONST struct self_op op)
{
    int t = (int)threadIdx.x;
    if (op.fault == MISSING_THREAD && t == 40) return;
    float v = op.in[t];
    if (op.fault == DIVERGENT && t == 3)
        v = dev_warp_sum(v);
    else
        v = dev_warp_sum(v);
    op.out[t] = v;
}

/* A warp makes values, another one uses them; each waits at a barrier of its own kind. */
KERNEL(named, 64, 1)(GRID_CONST struct self_op op)
{
    SHARED(float, part, 32);
    int t = (int)threadIdx.x % 32;
    if (dev_warp() == 0) {
        part[t] = op.in[t] + 1;
        if (op.fault != MISSING_THREAD) dev_arrive_named(1, 64);
    } else {
        if (op.fault != NO_BARRIER) dev_sync_named(1, 64);
        op.out[t] = part[t];
    }
}

/* --- copies --- */

/* a and b come in steps of 16 columns, two steps in flight. */
KERNEL(product, 32, 1)(GRID_CONST struct self_op op)
{
    SHARED(uint16_t, a, STAGES * 16 * 16);
    SHARED(uint16_t, b, STAGES * 8 * 16);
    int t = (int)threadIdx.x, steps = op.k / 16;
    auto fetch = [&](int s) {
        if (s < steps) {
            uint16_t *to = a + s % STAGES * 256;
            dev_cp_async16(to + t * 8, op.a + (t / 2) * op.k + s * 16 + t % 2 * 8);
            if (t < 16) dev_cp_async16(b + s % STAGES * 128 + t * 8, op.b + (t / 2) * op.k + s * 16 + t % 2 * 8);
        }
        dev_cp_async_commit();
    };
    float d[4] = {};
    fetch(0);
    for (int s = 0; s < steps; s++) {
        fetch(s + 1);
        if (op.fault == SHORT_WAIT)
            dev_cp_async_wait<2>();
        else if (op.fault != NO_WAIT)
            dev_cp_async_wait<1>();
        if (op.fault != NO_BARRIER) dev_sync();
        uint32_t ra[4], rb[2];
        dev_ldmatrix_x4(ra, a + s % STAGES * 256 + (t % 16) * 16 + t / 16 * 8);
        dev_ldmatrix_x2(rb, b + s % STAGES * 128 + (t % 8) * 16 + t / 8 % 2 * 8);
        dev_mma_bf16(d, ra, rb);
        if (op.fault != NO_SECOND_BARRIER) dev_sync();
    }
    for (int i = 0; i < 4; i++) op.out[(t / 4 + 8 * (i / 2)) * 8 + 2 * (t % 4) + i % 2] = d[i];
}

KERNEL(product_s8, 32, 1)(GRID_CONST struct self_op op)
{
    const char *a = reinterpret_cast<const char *>(op.a), *b = reinterpret_cast<const char *>(op.b);
    int g = (int)threadIdx.x / 4, t = (int)threadIdx.x % 4, d[4] = {};
    uint32_t ra[4], rb[2];
    for (int i = 0; i < 4; i++)
        ra[i] = *reinterpret_cast<const uint32_t *>(a + (g + 8 * (i & 1)) * 32 + 4 * t + 16 * (i / 2));
    for (int i = 0; i < 2; i++) rb[i] = *reinterpret_cast<const uint32_t *>(b + g * 32 + 4 * t + 16 * i);
    dev_mma_s8(d, ra, rb);
    for (int i = 0; i < 4; i++) op.out[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = (float)d[i];
}

/* Thread 0 of warp 1 fills a ring of stages, warp 0 empties it. */
CLUSTER_KERNEL(ring, 1, 64)(GRID_CONST struct self_op op)
{
    DYN_SHARED(float, stage);
    SHARED(dev_mbar, full, STAGES);
    SHARED(dev_mbar, empty, STAGES);
    int t = (int)threadIdx.x, chunks = op.n / CHUNK;
    if (t == 0) {
        for (int s = 0; s < STAGES; s++) dev_mbar_init(&full[s], 1), dev_mbar_init(&empty[s], 32);
        if (op.fault != NO_FENCE) dev_mbar_fence_init();
    }
    if (op.fault != NO_BARRIER) dev_sync();
    for (int c = 0; c < chunks; c++) {
        int s = c % STAGES;
        unsigned turn = (unsigned)(c / STAGES) & 1;
        if (t == 32) {
            if (op.fault != EARLY_LANDING) dev_mbar_wait(&empty[s], turn ^ 1);
            dev_mbar_arrive_expect(&full[s], CHUNK * sizeof(float));
            dev_bulk_g2s(stage + s * CHUNK, op.in + c * CHUNK, CHUNK * sizeof(float), &full[s]);
        } else if (t < 32) {
            if (op.fault != NO_WAIT) dev_mbar_wait(&full[s], op.fault == WRONG_PARITY ? turn ^ 1 : turn);
            for (int i = t; i < CHUNK; i += 32) op.out[c * CHUNK + i] = 2 * stage[s * CHUNK + i];
            dev_mbar_arrive(&empty[s]);
        }
    }
}

KERNEL(bulk_store, 32, 1)(GRID_CONST struct self_op op)
{
    SHARED(float, part, CHUNK);
    int t = (int)threadIdx.x;
    for (int c = 0; c < op.n / CHUNK; c++) {
        for (int i = t; i < CHUNK; i += 32) part[i] = op.in[c * CHUNK + i];
        if (op.fault != NO_FENCE) dev_fence_async_shared();
        if (op.fault != NO_BARRIER) dev_sync();
        if (t == 0) {
            dev_bulk_s2g(op.out + c * CHUNK, part, CHUNK * sizeof(float));
            dev_bulk_commit();
            if (op.fault != NO_WAIT) dev_bulk_wait_read<0>();
        }
        dev_sync();
    }
}

/* --- clusters --- */

CLUSTER_KERNEL(cluster_push, RANKS, 32)(GRID_CONST struct self_op op)
{
    SHARED(float, part, RANKS);
    int t = (int)threadIdx.x;
    unsigned me = dev_cluster_rank();
    if (op.fault != NOT_STARTED) dev_cluster_sync();
    if (t < RANKS) *dev_cluster_map(&part[me], (unsigned)t) = op.in[me];
    if (op.fault != NO_BARRIER) dev_cluster_sync();
    if (t == 0) op.out[me] = ((part[0] + part[1]) + part[2]) + part[3];
}

CLUSTER_KERNEL(cluster_pull, RANKS, 32)(GRID_CONST struct self_op op)
{
    SHARED(float, part, 1);
    unsigned me = dev_cluster_rank();
    if (threadIdx.x == 0) part[0] = op.in[me];
    dev_cluster_arrive();
    if (op.fault != NO_WAIT) dev_cluster_wait();
    if (threadIdx.x == 0) op.out[me] = *dev_cluster_map(part, (me + 1) % RANKS);
    if (op.fault == NO_WAIT) dev_cluster_wait();
    if (op.fault != EARLY_END) dev_cluster_sync();
}

/* --- grids --- */

KERNEL(blocks, 32, 1)(GRID_CONST struct self_op op)
{
    int i = (int)(blockIdx.x * 32 + threadIdx.x);
    op.out[op.fault == OVERLAP ? i / 64 * 32 + i % 32 : i] = op.in[i];
}

KERNEL(last_block, 32, 1)(GRID_CONST struct self_op op)
{
    SHARED(int, last, 1);
    if (threadIdx.x == 0) {
        op.out[1 + blockIdx.x] = op.in[blockIdx.x];
        if (op.fault != NO_FENCE) dev_fence();
        last[0] = dev_atomic_add(op.counter, 1) == (int)gridDim.x - 1;
    }
    dev_sync();
    if (!last[0]) return;
    if (threadIdx.x == 0) {
        float sum = 0;
        for (unsigned b = 0; b < gridDim.x; b++) sum += op.out[1 + b];
        op.out[0] = sum;
    }
}

KERNEL(dependent, 64, 1)(GRID_CONST struct self_op op)
{
    dev_pdl_launch();
    if (threadIdx.x == 0 && op.fault != NO_WAIT) dev_pdl_wait();
    if (op.fault != NO_BARRIER) dev_sync();
    const float *from = op.fault == READ_ONLY ? op.out : op.in;
    op.out[threadIdx.x] = dev_ldg(from + threadIdx.x);
}

/* --- launches --- */

static struct dev_launch shape(unsigned blocks, unsigned threads, unsigned cluster, size_t shared, int pdl)
{
    struct dev_launch l = {blocks, 1, 1, threads, cluster, shared, nullptr, pdl};
    return l;
}

#define SELF(name, kernel, ...)                                                                                        \
    int launch_self_##name(const struct self_op *op)                                                                   \
    {                                                                                                                  \
        struct dev_launch l = shape(__VA_ARGS__);                                                                      \
        return LAUNCH(&l, kernel, *op);                                                                                \
    }
SELF(block, block_sum, 1, BLOCK, 1, 0, 0)
SELF(warp, warp_exchange, 1, 32, 1, 0, 0)
SELF(mma, product, 1, 32, 1, 0, 0)
SELF(ring, ring, 1, 64, 1, STAGES *CHUNK * sizeof(float), 0)
SELF(cluster, cluster_push, RANKS, 32, RANKS, 0, 0)
SELF(pull, cluster_pull, RANKS, 32, RANKS, 0, 0)
SELF(blocks, blocks, 4, 32, 1, 0, 0)
SELF(named, named, 1, 64, 1, 0, 0)
SELF(store, bulk_store, 1, 32, 1, 0, 0)
SELF(last, last_block, 4, 32, 1, 0, 0)
SELF(dependent, dependent, 1, 64, 1, 0, 1)
SELF(shuffle, shuffle_sum, 1, 64, 1, 0, 0)
SELF(s8, product_s8, 1, 32, 1, 0, 0)
