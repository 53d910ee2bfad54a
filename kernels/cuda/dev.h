/* dev.h: all that the source of a kernel may use of a GPU. A kernel's file includes this and headers of plain structs,
 * and compiles unchanged for CUDA (dev_cuda.h: PTX) and, under WEFT_SIMT, for the host (dev_simt.h: the shim of
 * tests/simt/, which runs threads as fibers in random orders and checks what they do).
 *
 * Types       bf16, bf162 (opaque: only the functions below look inside), uint4, float4, float2, uint2, int4, int2 and
 *             their make_*; e4m3 is uint8_t, pairs of it uint16_t.
 * Qualifiers  DEV T f(..)                              a function of the device
 *             KERNEL(name, threads, min_blocks)(..)    void, at most `threads` a block, min_blocks blocks on an SM
 *             CLUSTER_KERNEL(name, cluster, threads)(..)   in files *_sm90.cu; CLUSTER_KERNEL_ON: min_blocks behind
 *             GRID_CONST struct op op                  a parameter by value that all threads share
 *             UNROLL, NO_UNROLL                        before a loop
 * Geometry    threadIdx.x blockIdx.{x,y,z} blockDim.x gridDim.{x,y,z} dev_lane() dev_warp(). Blocks are 32 n threads.
 * Shared      SHARED(T, name, n): 16-byte aligned; DYN_SHARED(T, name): the launch's bytes, 128-byte aligned. Contents are
 *             undefined at first.
 * Barriers    dev_sync(); dev_sync_or/and/count(pred); dev_sync_named(id 1..15, threads), dev_arrive_named: threads are
 *             a multiple of 32; dev_sync_warp(mask = all). A shuffle orders no memory: lanes that exchange through
 *             shared memory need dev_sync_warp.
 * Warps       dev_shfl(v, lane), dev_shfl_xor, dev_shfl_down, dev_shfl_up (v, n), each with a mask in front if it isn't
 *             all lanes; dev_ballot, dev_any, dev_all (pred); dev_warp_sum, dev_warp_max, dev_warp_min (order 16, 8, 4,
 *             2, 1: the same bits in all lanes); dev_block_sum, dev_block_max (v, scratch[32]).
 * Loads       dev_ld_nc(p): read-only for the whole step and read once (stream: no L1); dev_ldg(p): read-only, cached:
 *             of what no kernel in front writes either, for no dev_pdl_wait() keeps these loads behind it;
 *             dev_ld_early(p): the same, and it stays in front of the waits that it stands in front of;
 *             dev_ld_cg(p): through L2; dev_st_cs(p, v): written once. 1, 2, 4, 8 or 16 bytes, aligned.
 *             dev_prefetch_l2(p); dev_prefetch_bulk_l2(p, bytes): 16-byte multiples, nothing before sm_90.
 * cp.async    dev_cp_async16(shared, global), dev_cp_async16_zfill(shared, global, read), dev_cp_async4(...),
 *             dev_cp_async_commit(), dev_cp_async_wait<N>(): all groups of this thread but the last N have landed; other
 *             threads see them after a barrier.
 * Bulk, sm_90 struct dev_mbar in shared memory. dev_mbar_init(b, arrivals), dev_mbar_fence_init() by the same thread,
 *             then a barrier; dev_mbar_arrive(b); dev_mbar_arrive_expect(b, bytes): by this block's threads;
 *             dev_mbar_wait(b, parity): returns once the phase of that parity (0 first) is complete.
 *             dev_bulk_g2s(shared, global, bytes, b), dev_bulk_s2g(global, shared, bytes), dev_bulk_commit(),
 *             dev_bulk_wait<N>(), dev_bulk_wait_read<N>(): only the source may be reused. 16-byte multiples.
 *             dev_fence_async_shared(): after ordinary stores to shared memory that a bulk copy will read.
 * mma         dev_ldmatrix_x4/x2(r, row), _trans: lane l passes the address of row l (x2: lanes 0..15);
 *             dev_mma_bf16(d, a, b): m16n8k16, d += a b; dev_mma_s8(d, a, b): m16n8k32; dev_mma_e4m3: sm_90 on
 *             (a device of 8.9 runs what was made for 80).
 *             g = lane / 4, t = lane % 4: a[0] holds (row g, k 2t, 2t+1), a[1] (g+8), a[2] (g, k 2t+8), a[3] (g+8, k
 *             2t+8); b[0] (k 2t, 2t+1; column g), b[1] (k 2t+8); d[0], d[1] (row g, columns 2t, 2t+1), d[2], d[3] (g+8).
 *             8-bit: k 4t..4t+3 in place of 2t, 2t+1, and 16 in place of 8.
 * Clusters    sm_90: dev_cluster_rank(), dev_cluster_size(), dev_cluster_map(shared pointer, rank): the same place in a
 *             peer's memory; dev_cluster_arrive(), dev_cluster_wait(), dev_cluster_sync(). A peer must have started
 *             before its memory is touched, and may not end before the last touch.
 * Dependent   dev_pdl_launch(): those behind may start; dev_pdl_wait(): all before have ended and their writes are here.
 *             A kernel launched with pdl calls the latter before it touches anything that a kernel wrote. Free before
 *             sm_90.
 * Atomics     dev_atomic_add(p, v), dev_atomic_max, dev_atomic_cas: int or unsigned, on counters, never on results;
 *             dev_fence(): __threadfence.
 * Numbers     dev_fma (fmaf), dev_exp2, dev_log2, dev_rcp, dev_rsqrt, dev_tanh: fast on the device, exact on the host.
 *             dev_bf16(float) to nearest even, dev_f32(bf16), dev_bf16x2(lo, hi) -> bf162 and dev_f32x2; the same on
 *             bits: dev_pack(lo, hi) -> uint32_t, dev_lo, dev_hi, dev_unpack8(uint4, float[8]), dev_pack8(float[8]),
 *             dev_sub_bf16x2(a, b), dev_mul_bf16x2(a, b): a pair at once.
 *             dev_half2_f32(u32) of two float16; dev_e4m3x2_f32(u16), dev_e4m3x2(lo, hi); dev_dp4a; dev_prmt; dev_lop3.
 *             dev_fma_bf16x2(a, b, c): a b + c of two bf16 each, rounded once.
 *             Bits: dev_as_uint, dev_as_float, dev_popc, dev_clz, dev_ffs.
 * Launch      LAUNCH(&(struct dev_launch){...}, kernel, args...) -> 0 or a code of rt.h's rt_error_text(). The shim runs
 *             the grid at once. cluster 0 or 1: none. A kernel with template arguments stands in parentheses.
 *             CLUSTERS(&l, kernel): clusters of such a launch that the device holds at once; 0: none fits (a part of a
 *             device, for one), -1: it can't say. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct dev_launch {
    unsigned gx, gy, gz; /* blocks; 0 counts as 1 for gy and gz. gx is a multiple of cluster */
    unsigned threads;    /* of a block */
    unsigned cluster;    /* blocks of a cluster, consecutive in x: 1, 2, 4, 8 */
    size_t shared;       /* dynamic bytes of a block */
    void *stream;
    int pdl; /* 1: may start before the kernels in front have ended; the kernel calls dev_pdl_wait() */
};

#ifdef WEFT_SIMT
#include "kernels/cuda/dev_simt.h"
#else
#include "kernels/cuda/dev_cuda.h"
#endif

#ifdef __cplusplus

#define DEV_ALL_LANES 0xffffffffu

DEV unsigned dev_lane()
{
    return threadIdx.x % 32;
}

DEV unsigned dev_warp()
{
    return threadIdx.x / 32;
}

/* --- bits of bf16 pairs; the first element is the low half --- */

DEV float dev_lo(uint32_t pair)
{
    return dev_as_float(pair << 16);
}

DEV float dev_hi(uint32_t pair)
{
    return dev_as_float(pair & 0xffff0000u);
}

DEV void dev_unpack8(uint4 v, float out[8])
{
    out[0] = dev_lo(v.x), out[1] = dev_hi(v.x), out[2] = dev_lo(v.y), out[3] = dev_hi(v.y);
    out[4] = dev_lo(v.z), out[5] = dev_hi(v.z), out[6] = dev_lo(v.w), out[7] = dev_hi(v.w);
}

DEV uint4 dev_pack8(const float in[8])
{
    return make_uint4(dev_pack(in[0], in[1]), dev_pack(in[2], in[3]), dev_pack(in[4], in[5]), dev_pack(in[6], in[7]));
}

/* DEV_AT, DEV_HERE: the shim's messages name the line that called these, not this file; nothing on the device. */

/* --- over a warp: every lane gets the result, with the same bits --- */

template <class T> DEV T dev_warp_sum(T v DEV_AT)
{
    UNROLL
    for (int n = 16; n; n /= 2) v += dev_shfl_xor(v, n DEV_HERE);
    return v;
}

template <class T> DEV T dev_warp_max(T v DEV_AT)
{
    UNROLL
    for (int n = 16; n; n /= 2) {
        T other = dev_shfl_xor(v, n DEV_HERE);
        v = other > v ? other : v;
    }
    return v;
}

template <class T> DEV T dev_warp_min(T v DEV_AT)
{
    UNROLL
    for (int n = 16; n; n /= 2) {
        T other = dev_shfl_xor(v, n DEV_HERE);
        v = other < v ? other : v;
    }
    return v;
}

/* --- over a block: warps in ascending order. All threads call it; scratch [32] is shared and free again behind the next
 * barrier (so two calls in a row take two scratches) --- */

template <class T> DEV T dev_block_sum(T v, T *scratch DEV_AT)
{
    v = dev_warp_sum(v DEV_HERE);
    if (dev_lane() == 0) scratch[dev_warp()] = v;
    dev_sync(DEV_FIRST);
    T sum = scratch[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++) sum += scratch[w];
    return sum;
}

template <class T> DEV T dev_block_max(T v, T *scratch DEV_AT)
{
    v = dev_warp_max(v DEV_HERE);
    if (dev_lane() == 0) scratch[dev_warp()] = v;
    dev_sync(DEV_FIRST);
    T most = scratch[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++) most = scratch[w] > most ? scratch[w] : most;
    return most;
}

#endif
