/* dev.h for CUDA: thin wrappers around PTX. What each does is said in dev.h; here only what is peculiar to the device.
 * Shared addresses are 32 bits wide in PTX (dev_smem). Asm that touches memory is volatile and clobbers memory, but for
 * read-only loads, which the compiler may move. */
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#define DEV static __device__ __forceinline__
#define KERNEL(name, threads, min_blocks) static __global__ void __launch_bounds__(threads, min_blocks) name
#define CLUSTER_KERNEL(name, cluster, threads) CLUSTER_KERNEL_ON(name, cluster, threads, 1)
#define CLUSTER_KERNEL_ON(name, cluster, threads, min_blocks)                                                          \
    static __global__ void __launch_bounds__(threads, min_blocks, cluster) name
#define DEV_AT
#define DEV_HERE
#define DEV_FIRST
#define GRID_CONST const __grid_constant__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
/* Without a word about it an array of floats is aligned to 4 bytes, and what is read from it 16 at a time may fault. */
#define SHARED(T, name, n) __shared__ __align__(16) T name[n]
#define DYN_SHARED(T, name)                                                                                            \
    extern __shared__ __align__(128) unsigned char dev_dyn_shared[];                                                   \
    T *name = reinterpret_cast<T *>(dev_dyn_shared)

typedef __nv_bfloat16 bf16;
typedef __nv_bfloat162 bf162;

DEV uint32_t dev_smem(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* --- bits and numbers --- */

DEV float dev_as_float(uint32_t bits)
{
    return __uint_as_float(bits);
}

DEV uint32_t dev_as_uint(float f)
{
    return __float_as_uint(f);
}

DEV int dev_popc(uint32_t v)
{
    return __popc(v);
}

DEV int dev_clz(uint32_t v)
{
    return __clz((int)v);
}

DEV int dev_ffs(uint32_t v)
{
    return __ffs((int)v);
}

DEV float dev_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

DEV float dev_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEV float dev_log2(float x)
{
    return __log2f(x);
}

DEV float dev_rcp(float x)
{
    return __frcp_rn(x);
}

DEV float dev_rsqrt(float x)
{
    return rsqrtf(x);
}

DEV float dev_tanh(float x)
{
    return tanhf(x);
}

DEV bf16 dev_bf16(float f)
{
    return __float2bfloat16_rn(f);
}

DEV float dev_f32(bf16 v)
{
    return __bfloat162float(v);
}

DEV bf162 dev_bf16x2(float lo, float hi)
{
    return __floats2bfloat162_rn(lo, hi);
}

DEV float2 dev_f32x2(bf162 v)
{
    return __bfloat1622float2(v);
}

DEV uint32_t dev_pack(float lo, float hi)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(hi), "f"(lo));
    return pair;
}

DEV float2 dev_half2_f32(uint32_t pair)
{
    float2 f;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(f.x), "=f"(f.y)
        : "r"(pair));
    return f;
}

/* float16 has e4m3's fields, wider: the bits moved are the value / 256. NaN (all ones) is set apart. */
DEV float2 dev_e4m3x2_f32(uint16_t pair)
{
#if __CUDA_ARCH__ >= 890
    uint32_t half;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(half) : "h"(pair));
    return dev_half2_f32(half);
#else
    uint32_t wide = (pair & 0xffu) | (uint32_t)(pair & 0xff00u) << 8;
    float2 f = dev_half2_f32((wide & 0x800080u) << 8 | (wide & 0x7f007fu) << 7);
    f.x = (pair & 0x7fu) == 0x7fu ? dev_as_float(0x7fffffffu) : f.x * 256;
    f.y = (pair & 0x7f00u) == 0x7f00u ? dev_as_float(0x7fffffffu) : f.y * 256;
    return f;
#endif
}

DEV uint8_t dev_e4m3_by_bits(float f)
{
    uint32_t b = dev_as_uint(f), magnitude = b & 0x7fffffffu, code;
    if (magnitude > 0x7f800000u)
        code = 0x7f;
    else if (magnitude >= 0x43e00000u) /* 448 and more */
        code = 0x7e;
    else if (magnitude < 0x3c800000u) /* subnormal: the sum's last place is 2^-9 */
        code = dev_as_uint(dev_as_float(magnitude) + 16384.0f) - dev_as_uint(16384.0f);
    else
        code = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1)) - (120u << 23)) >> 20;
    return (uint8_t)((b >> 24 & 0x80u) | code);
}

/* To nearest even, beyond 448 to 448. */
DEV uint16_t dev_e4m3x2(float lo, float hi)
{
#if __CUDA_ARCH__ >= 890
    uint16_t pair;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(hi), "f"(lo));
    return pair;
#else
    return (uint16_t)(dev_e4m3_by_bits(lo) | dev_e4m3_by_bits(hi) << 8);
#endif
}

/* Through fma, which sm_80 has; exact products and sums stay exact. */
DEV uint32_t dev_sub_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(b), "r"(0xbf80bf80u), "r"(a));
    return d;
}

DEV uint32_t dev_mul_bf16x2(uint32_t a, uint32_t b)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(0x80008000u));
    return d;
}

DEV uint32_t dev_fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

DEV int dev_dp4a(uint32_t a, uint32_t b, int c)
{
    return __dp4a((int)a, (int)b, c);
}

DEV uint32_t dev_prmt(uint32_t a, uint32_t b, uint32_t select)
{
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(select));
    return d;
}

template <int TABLE> DEV uint32_t dev_lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
    return d;
}

/* --- barriers --- */

DEV void dev_sync()
{
    __syncthreads();
}

DEV int dev_sync_or(int pred)
{
    return __syncthreads_or(pred);
}

DEV int dev_sync_and(int pred)
{
    return __syncthreads_and(pred);
}

DEV int dev_sync_count(int pred)
{
    return __syncthreads_count(pred);
}

DEV void dev_sync_named(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

DEV void dev_arrive_named(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

DEV void dev_sync_warp(uint32_t mask = 0xffffffffu)
{
    __syncwarp(mask);
}

DEV void dev_fence()
{
    __threadfence();
}

/* --- warps --- */

template <class T> DEV T dev_shfl(uint32_t mask, T v, int lane)
{
    return __shfl_sync(mask, v, lane);
}

template <class T> DEV T dev_shfl_xor(uint32_t mask, T v, int n)
{
    return __shfl_xor_sync(mask, v, n);
}

template <class T> DEV T dev_shfl_down(uint32_t mask, T v, unsigned n)
{
    return __shfl_down_sync(mask, v, n);
}

template <class T> DEV T dev_shfl_up(uint32_t mask, T v, unsigned n)
{
    return __shfl_up_sync(mask, v, n);
}

template <class T> DEV T dev_shfl(T v, int lane)
{
    return __shfl_sync(0xffffffffu, v, lane);
}

template <class T> DEV T dev_shfl_xor(T v, int n)
{
    return __shfl_xor_sync(0xffffffffu, v, n);
}

template <class T> DEV T dev_shfl_down(T v, unsigned n)
{
    return __shfl_down_sync(0xffffffffu, v, n);
}

template <class T> DEV T dev_shfl_up(T v, unsigned n)
{
    return __shfl_up_sync(0xffffffffu, v, n);
}

DEV uint32_t dev_ballot(int pred, uint32_t mask = 0xffffffffu)
{
    return __ballot_sync(mask, pred);
}

DEV int dev_any(int pred, uint32_t mask = 0xffffffffu)
{
    return __any_sync(mask, pred);
}

DEV int dev_all(int pred, uint32_t mask = 0xffffffffu)
{
    return __all_sync(mask, pred);
}

/* --- loads and stores --- */

/* Not volatile: read-only data may be loaded when it suits. */
template <class T> DEV T dev_ld_nc(const T *p)
{
    T v;
    if constexpr (sizeof(T) == 16) {
        uint4 r;
        asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
            : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
            : "l"(p));
        v = *reinterpret_cast<T *>(&r);
    } else if constexpr (sizeof(T) == 8) {
        uint2 r;
        asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(r.x), "=r"(r.y) : "l"(p));
        v = *reinterpret_cast<T *>(&r);
    } else if constexpr (sizeof(T) == 4) {
        uint32_t r;
        asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(r) : "l"(p));
        v = *reinterpret_cast<T *>(&r);
    } else {
        v = *p;
    }
    return v;
}

template <class T> DEV T dev_ldg(const T *p)
{
    return __ldg(p);
}

/* Volatile, or the compiler takes it to where it is used, behind dev_pdl_wait(); without ".nc", or the assembler does. */
template <class T> DEV T dev_ld_early(const T *p)
{
    static_assert(sizeof(T) == 16, "16 bytes at a time");
    uint4 r;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
    return *reinterpret_cast<T *>(&r);
}

template <class T> DEV T dev_ld_cg(const T *p)
{
    return __ldcg(p);
}

template <class T> DEV void dev_st_cs(T *p, T v)
{
    __stcs(p, v);
}

DEV void dev_prefetch_l2(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

DEV void dev_prefetch_bulk_l2(const void *p, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#else
    (void)p, (void)bytes;
#endif
}

/* --- cp.async --- */

DEV void dev_cp_async16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(dev_smem(shared)), "l"(global) : "memory");
}

DEV void dev_cp_async16_zfill(void *shared, const void *global, bool read)
{
    int bytes = read ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dev_smem(shared)), "l"(global), "r"(bytes)
                 : "memory");
}

DEV void dev_cp_async4(void *shared, const void *global)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(dev_smem(shared)), "l"(global) : "memory");
}

DEV void dev_cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> DEV void dev_cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* --- mbarriers and bulk copies --- */

struct alignas(8) dev_mbar {
    uint64_t state;
};

DEV void dev_mbar_init(dev_mbar *b, unsigned arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(dev_smem(b)), "r"(arrivals) : "memory");
}

DEV void dev_mbar_fence_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DEV void dev_mbar_arrive(dev_mbar *b)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(dev_smem(b)) : "memory");
}

DEV void dev_mbar_arrive_expect(dev_mbar *b, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(dev_smem(b)), "r"(bytes) : "memory");
}

/* Acquires from this block's threads and from copies: an acquire from the cluster would throw the first-level cache away. */
DEV void dev_mbar_wait(dev_mbar *b, unsigned parity)
{
    uint32_t done = 0;
    while (!done)
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;"
                     " selp.u32 %0, 1, 0, p;}"
                     : "=r"(done)
                     : "r"(dev_smem(b)), "r"(parity)
                     : "memory");
}

DEV void dev_bulk_g2s(void *shared, const void *global, uint32_t bytes, dev_mbar *b)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     dev_smem(shared)),
                 "l"(global), "r"(bytes), "r"(dev_smem(b))
                 : "memory");
}

DEV void dev_bulk_s2g(void *global, const void *shared, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(dev_smem(shared)),
                 "r"(bytes)
                 : "memory");
}

DEV void dev_bulk_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

template <int N> DEV void dev_bulk_wait()
{
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

template <int N> DEV void dev_bulk_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

DEV void dev_fence_async_shared()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* --- tensor cores --- */

DEV void dev_ldmatrix_x4(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(dev_smem(row))
                 : "memory");
}

DEV void dev_ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(dev_smem(row))
                 : "memory");
}

DEV void dev_ldmatrix_x2(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(dev_smem(row))
                 : "memory");
}

DEV void dev_ldmatrix_x2_trans(uint32_t r[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(dev_smem(row))
                 : "memory");
}

DEV void dev_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
                 " {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEV void dev_mma_s8(int d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
                 " {%0, %1, %2, %3};"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEV void dev_mma_e4m3(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#if __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9},"
                 " {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    (void)d, (void)a, (void)b;
    __trap(); /* launches look at the device's capability first */
#endif
}

/* --- clusters --- */

DEV unsigned dev_cluster_rank()
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

DEV unsigned dev_cluster_size()
{
    uint32_t size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}

template <class T> DEV T *dev_cluster_map(T *shared, unsigned rank)
{
    uint64_t there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
    return reinterpret_cast<T *>(there);
}

DEV void dev_cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

DEV void dev_cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

DEV void dev_cluster_sync()
{
    dev_cluster_arrive();
    dev_cluster_wait();
}

/* --- dependent launch --- */

DEV void dev_pdl_launch()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

DEV void dev_pdl_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* --- atomics --- */

template <class T> DEV T dev_atomic_add(T *p, T v)
{
    return atomicAdd(p, v);
}

template <class T> DEV T dev_atomic_max(T *p, T v)
{
    return atomicMax(p, v);
}

template <class T> DEV T dev_atomic_cas(T *p, T expected, T v)
{
    return atomicCAS(p, expected, v);
}

/* --- launch --- */

#define DEV_SHARED_PLAIN 16384 /* dynamic bytes that any kernel may have; above, its limit is raised */

/* attr [2] must live as long as what is returned. */
static inline cudaLaunchConfig_t dev_config(const struct dev_launch *l, cudaLaunchAttribute *attr)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(l->gx, l->gy ? l->gy : 1, l->gz ? l->gz : 1);
    config.blockDim = dim3(l->threads);
    config.dynamicSmemBytes = l->shared;
    config.stream = static_cast<cudaStream_t>(l->stream);
    config.attrs = attr;
    if (l->cluster > 1) {
        attr[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attr[config.numAttrs].val.clusterDim.x = l->cluster;
        attr[config.numAttrs].val.clusterDim.y = attr[config.numAttrs].val.clusterDim.z = 1;
        config.numAttrs++;
    }
    if (l->pdl) {
        attr[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attr[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
        config.numAttrs++;
    }
    return config;
}

/* Only ever raised: a graph may hold launches of a kernel with other sizes, and it is made after the last of them. */
static inline cudaError_t dev_raise_shared(const void *kernel, size_t shared)
{
    struct cudaFuncAttributes has;
    if (shared <= DEV_SHARED_PLAIN) return cudaSuccess;
    cudaError_t e = cudaFuncGetAttributes(&has, kernel);
    if (e != cudaSuccess || has.maxDynamicSharedSizeBytes >= (int)shared) return e;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
}

template <class... P, class... A> int dev_launch_(const struct dev_launch *l, void (*kernel)(P...), A... args)
{
    cudaLaunchAttribute attr[2] = {};
    cudaLaunchConfig_t config = dev_config(l, attr);
    cudaError_t e = dev_raise_shared(reinterpret_cast<const void *>(kernel), l->shared);
    if (e != cudaSuccess) return (int)e;
    return (int)cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

template <class... P> int dev_clusters_(const struct dev_launch *l, void (*kernel)(P...))
{
    cudaLaunchAttribute attr[2] = {};
    cudaLaunchConfig_t config = dev_config(l, attr);
    const void *f = reinterpret_cast<const void *>(kernel);
    int n = 0;
    if (dev_raise_shared(f, l->shared) == cudaSuccess && cudaOccupancyMaxActiveClusters(&n, f, &config) == cudaSuccess)
        return n;
    (void)cudaGetLastError(); /* nobody shall find it later and think it is theirs */
    return -1;
}

#define CLUSTERS(l, ...) dev_clusters_(l, __VA_ARGS__)

#define LAUNCH(l, ...) dev_launch_(l, __VA_ARGS__)
