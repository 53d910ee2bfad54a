/* dev.h for the host: every thread of a grid is a fiber, and what touches other threads or memory out of order goes
 * through the simt_* functions of tests/simt/ (plain C; its sources include this file for the declarations).
 *
 * A `site` is the place in the kernel that a message names; it is taken from the caller by a default argument. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct simt_site {
    const char *file;
    int line;
};

struct simt_dim {
    unsigned x, y, z;
};

/* What a thread knows of itself. */
struct simt_here {
    struct simt_dim thread, block, block_dim, grid;
    unsigned rank, ranks; /* of the cluster */
};
extern struct simt_here *simt_me;

enum simt_vote { SIMT_VOTE_NONE, SIMT_VOTE_OR, SIMT_VOTE_AND, SIMT_VOTE_COUNT };

/* An instance of a kernel that this program can launch; made before main, by kernels.c's number. */
struct simt_kernel {
    const char *name;
    int number;
};
void simt_kernel_new(struct simt_kernel *k, const char *name);

int simt_launch(const struct simt_kernel *k, const struct dev_launch *l, void (*body)(void *arg), void *arg,
                struct simt_site at);

void *simt_shared(const void *key, size_t bytes, struct simt_site at);
void *simt_dyn_shared(struct simt_site at);

int simt_sync(enum simt_vote vote, int pred, struct simt_site at);
void simt_sync_named(int id, int threads, bool wait, struct simt_site at);
void simt_sync_warp(uint32_t mask, struct simt_site at);
/* The value that `lane` passed. */
uint64_t simt_shfl(uint32_t mask, uint64_t v, int lane, struct simt_site at);
uint32_t simt_ballot(uint32_t mask, int pred, struct simt_site at);

/* r[i]: this lane's part of matrix i of n. */
void simt_ldmatrix(uint32_t *r, int n, bool trans, const void *row, struct simt_site at);
void simt_mma_bf16(float *d, const uint32_t *a, const uint32_t *b, struct simt_site at);
void simt_mma_s8(int *d, const uint32_t *a, const uint32_t *b, struct simt_site at);
void simt_mma_e4m3(float *d, const uint32_t *a, const uint32_t *b, struct simt_site at);

void simt_cp_async(void *shared, const void *global, unsigned bytes, unsigned read, struct simt_site at);
void simt_cp_async_commit(struct simt_site at);
void simt_cp_async_wait(int behind, struct simt_site at);

void simt_mbar_init(void *b, unsigned arrivals, struct simt_site at);
void simt_mbar_fence_init(struct simt_site at);
void simt_mbar_arrive(void *b, unsigned expect, struct simt_site at);
void simt_mbar_wait(void *b, unsigned parity, struct simt_site at);
void simt_bulk_g2s(void *shared, const void *global, uint32_t bytes, void *b, struct simt_site at);
void simt_bulk_s2g(void *global, const void *shared, uint32_t bytes, struct simt_site at);
void simt_fence_async(struct simt_site at);
void simt_bulk_commit(struct simt_site at);
void simt_bulk_wait(int behind, bool read_only, struct simt_site at);

void *simt_cluster_map(const void *shared, unsigned rank, struct simt_site at);
void simt_cluster_arrive(struct simt_site at);
void simt_cluster_wait(struct simt_site at);

void simt_fence(struct simt_site at);
void simt_pdl_wait(struct simt_site at);
/* A read-only load must be aligned and of memory that this launch does not write. */
void simt_read_only(const void *p, size_t bytes, struct simt_site at);
void simt_prefetch(const void *p, size_t bytes, struct simt_site at);
/* *p changes by one of these; -> what it held. */
enum simt_atomic { SIMT_ADD, SIMT_MAX_INT, SIMT_MAX_UNSIGNED, SIMT_CAS };
uint32_t simt_atomic(enum simt_atomic op, void *p, uint32_t v, uint32_t expected, struct simt_site at);

#ifdef __cplusplus
}

#include <math.h>
#include <string.h>

#define DEV static inline
#define KERNEL(name, threads, min_blocks) static void name
#define CLUSTER_KERNEL(name, cluster, threads) static void name
#define CLUSTER_KERNEL_ON(name, cluster, threads, min_blocks) static void name
#define GRID_CONST const
#define UNROLL
#define NO_UNROLL
#define SIMT_AT simt_site at = {__builtin_FILE(), __builtin_LINE()}
#define SIMT_HERE                                                                                                      \
    simt_site                                                                                                          \
    {                                                                                                                  \
        __FILE__, __LINE__                                                                                             \
    }
#define DEV_AT , SIMT_AT
#define DEV_HERE , at
#define DEV_FIRST at
#define SHARED(T, name, n)                                                                                             \
    static const char simt_key_##name = 0;                                                                             \
    T(&name)[n] = *reinterpret_cast<T(*)[n]>(simt_shared(&simt_key_##name, sizeof(T) * (n), SIMT_HERE))
#define DYN_SHARED(T, name) T *name = reinterpret_cast<T *>(simt_dyn_shared(SIMT_HERE))

#define threadIdx (simt_me->thread)
#define blockIdx (simt_me->block)
#define blockDim (simt_me->block_dim)
#define gridDim (simt_me->grid)

/* --- types --- */

struct bf16 {
    uint16_t bits;
};

struct alignas(4) bf162 {
    bf16 x, y;
};

#define SIMT_VECTOR(type, name)                                                                                        \
    struct alignas(2 * sizeof(type)) name##2                                                                           \
    {                                                                                                                  \
        type x, y;                                                                                                     \
    };                                                                                                                 \
    struct alignas(16) name##4                                                                                         \
    {                                                                                                                  \
        type x, y, z, w;                                                                                               \
    };                                                                                                                 \
    static inline name##2 make_##name##2(type x, type y)                                                               \
    {                                                                                                                  \
        return name##2 {x, y};                                                                                         \
    }                                                                                                                  \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                                               \
    {                                                                                                                  \
        return name##4 {x, y, z, w};                                                                                   \
    }
SIMT_VECTOR(unsigned, uint)
SIMT_VECTOR(int, int)
SIMT_VECTOR(float, float)

/* --- bits and numbers --- */

DEV float dev_as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

DEV uint32_t dev_as_uint(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

DEV int dev_popc(uint32_t v)
{
    return __builtin_popcount(v);
}

DEV int dev_clz(uint32_t v)
{
    return v ? __builtin_clz(v) : 32;
}

DEV int dev_ffs(uint32_t v)
{
    return __builtin_ffs((int)v);
}

DEV float dev_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

DEV float dev_exp2(float x)
{
    return exp2f(x);
}

DEV float dev_log2(float x)
{
    return log2f(x);
}

DEV float dev_rcp(float x)
{
    return 1 / x;
}

DEV float dev_rsqrt(float x)
{
    return 1 / sqrtf(x);
}

DEV float dev_tanh(float x)
{
    return tanhf(x);
}

DEV bf16 dev_bf16(float f)
{
    uint32_t b = dev_as_uint(f);
    if ((b & 0x7fffffff) > 0x7f800000) return bf16{0x7fff};
    return bf16{(uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16)};
}

DEV float dev_f32(bf16 v)
{
    return dev_as_float((uint32_t)v.bits << 16);
}

DEV bf162 dev_bf16x2(float lo, float hi)
{
    return bf162{dev_bf16(lo), dev_bf16(hi)};
}

DEV float2 dev_f32x2(bf162 v)
{
    return make_float2(dev_f32(v.x), dev_f32(v.y));
}

DEV uint32_t dev_pack(float lo, float hi)
{
    return dev_bf16(lo).bits | (uint32_t)dev_bf16(hi).bits << 16;
}

DEV float simt_half_f32(uint32_t h)
{
    uint32_t sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) return dev_as_float(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return dev_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
    float f = (float)mantissa * 0x1p-24f;
    return sign ? -f : f;
}

DEV float2 dev_half2_f32(uint32_t pair)
{
    return make_float2(simt_half_f32(pair & 0xffff), simt_half_f32(pair >> 16));
}

DEV float simt_e4m3_f32(uint32_t code)
{
    if ((code & 0x7f) == 0x7f) return dev_as_float(0x7fffffff);
    return simt_half_f32((code & 0x80) << 8 | (code & 0x7f) << 7) * 256;
}

DEV float2 dev_e4m3x2_f32(uint16_t pair)
{
    return make_float2(simt_e4m3_f32(pair & 0xff), simt_e4m3_f32(pair >> 8));
}

DEV uint32_t simt_e4m3(float f)
{
    uint32_t b = dev_as_uint(f), magnitude = b & 0x7fffffff, code;
    if (magnitude > 0x7f800000)
        code = 0x7f;
    else if (magnitude >= 0x43e00000)
        code = 0x7e;
    else if (magnitude < 0x3c800000)
        code = dev_as_uint(dev_as_float(magnitude) + 0x1p14f) - dev_as_uint(0x1p14f);
    else
        code = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) - (120u << 23)) >> 20;
    return (b >> 24 & 0x80) | code;
}

DEV uint16_t dev_e4m3x2(float lo, float hi)
{
    return (uint16_t)(simt_e4m3(lo) | simt_e4m3(hi) << 8);
}

DEV uint32_t dev_fma_bf16x2(uint32_t a, uint32_t b, uint32_t c)
{
    float lo = fmaf(dev_as_float(a << 16), dev_as_float(b << 16), dev_as_float(c << 16));
    float hi = fmaf(dev_as_float(a & 0xffff0000u), dev_as_float(b & 0xffff0000u), dev_as_float(c & 0xffff0000u));
    return dev_pack(lo, hi);
}

DEV int dev_dp4a(uint32_t a, uint32_t b, int c)
{
    for (int i = 0; i < 32; i += 8) c += (int8_t)(a >> i) * (int8_t)(b >> i);
    return c;
}

DEV uint32_t dev_sub_bf16x2(uint32_t a, uint32_t b)
{
    return dev_pack(dev_as_float(a << 16) - dev_as_float(b << 16),
                    dev_as_float(a & 0xffff0000u) - dev_as_float(b & 0xffff0000u));
}

DEV uint32_t dev_mul_bf16x2(uint32_t a, uint32_t b)
{
    return dev_pack(dev_as_float(a << 16) * dev_as_float(b << 16),
                    dev_as_float(a & 0xffff0000u) * dev_as_float(b & 0xffff0000u));
}

DEV uint32_t dev_prmt(uint32_t a, uint32_t b, uint32_t select)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t pick = select >> 4 * i, byte = (uint32_t)(bytes >> 8 * (pick & 7)) & 0xff;
        if (pick & 8) byte = byte & 0x80 ? 0xff : 0; /* the sign, copied */
        out |= byte << 8 * i;
    }
    return out;
}

template <int TABLE> DEV uint32_t dev_lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t out = 0;
    for (int i = 0; i < 8; i++)
        if (TABLE >> i & 1) out |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return out;
}

/* --- barriers --- */

DEV void dev_sync(SIMT_AT)
{
    simt_sync(SIMT_VOTE_NONE, 0, at);
}

DEV int dev_sync_or(int pred, SIMT_AT)
{
    return simt_sync(SIMT_VOTE_OR, pred, at);
}

DEV int dev_sync_and(int pred, SIMT_AT)
{
    return simt_sync(SIMT_VOTE_AND, pred, at);
}

DEV int dev_sync_count(int pred, SIMT_AT)
{
    return simt_sync(SIMT_VOTE_COUNT, pred, at);
}

DEV void dev_sync_named(int id, int threads, SIMT_AT)
{
    simt_sync_named(id, threads, true, at);
}

DEV void dev_arrive_named(int id, int threads, SIMT_AT)
{
    simt_sync_named(id, threads, false, at);
}

DEV void dev_sync_warp(uint32_t mask = 0xffffffff, SIMT_AT)
{
    simt_sync_warp(mask, at);
}

DEV void dev_fence(SIMT_AT)
{
    simt_fence(at);
}

/* --- warps: a source beyond the warp's ends is the lane itself --- */

template <class T> DEV T simt_shfl_of(uint32_t mask, T v, int lane, simt_site at)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    bits = simt_shfl(mask, bits, lane, at);
    memcpy(&v, &bits, sizeof v);
    return v;
}

DEV int simt_lane()
{
    return (int)(threadIdx.x % 32);
}

template <class T> DEV T dev_shfl(uint32_t mask, T v, int lane, SIMT_AT)
{
    return simt_shfl_of(mask, v, lane & 31, at);
}

template <class T> DEV T dev_shfl_xor(uint32_t mask, T v, int n, SIMT_AT)
{
    return simt_shfl_of(mask, v, (simt_lane() ^ n) & 31, at);
}

template <class T> DEV T dev_shfl_down(uint32_t mask, T v, unsigned n, SIMT_AT)
{
    int from = simt_lane() + (int)n;
    return simt_shfl_of(mask, v, from > 31 ? simt_lane() : from, at);
}

template <class T> DEV T dev_shfl_up(uint32_t mask, T v, unsigned n, SIMT_AT)
{
    int from = simt_lane() - (int)n;
    return simt_shfl_of(mask, v, from < 0 ? simt_lane() : from, at);
}

template <class T> DEV T dev_shfl(T v, int lane, SIMT_AT)
{
    return dev_shfl(0xffffffff, v, lane, at);
}

template <class T> DEV T dev_shfl_xor(T v, int n, SIMT_AT)
{
    return dev_shfl_xor(0xffffffff, v, n, at);
}

template <class T> DEV T dev_shfl_down(T v, unsigned n, SIMT_AT)
{
    return dev_shfl_down(0xffffffff, v, n, at);
}

template <class T> DEV T dev_shfl_up(T v, unsigned n, SIMT_AT)
{
    return dev_shfl_up(0xffffffff, v, n, at);
}

DEV uint32_t dev_ballot(int pred, uint32_t mask = 0xffffffff, SIMT_AT)
{
    return simt_ballot(mask, pred, at);
}

DEV int dev_any(int pred, uint32_t mask = 0xffffffff, SIMT_AT)
{
    return simt_ballot(mask, pred, at) != 0;
}

DEV int dev_all(int pred, uint32_t mask = 0xffffffff, SIMT_AT)
{
    return simt_ballot(mask, !pred, at) == 0;
}

/* --- loads and stores --- */

template <class T> DEV T dev_ld_nc(const T *p, SIMT_AT)
{
    simt_read_only(p, sizeof(T), at);
    return *p;
}

template <class T> DEV T dev_ldg(const T *p, SIMT_AT)
{
    simt_read_only(p, sizeof(T), at);
    return *p;
}

template <class T> DEV T dev_ld_early(const T *p, SIMT_AT)
{
    static_assert(sizeof(T) == 16, "16 bytes at a time");
    simt_read_only(p, sizeof(T), at);
    return *p;
}

template <class T> DEV T dev_ld_cg(const T *p)
{
    return *p;
}

template <class T> DEV void dev_st_cs(T *p, T v)
{
    *p = v;
}

DEV void dev_prefetch_l2(const void *p)
{
    (void)p; /* of any address: it can't fail */
}

DEV void dev_prefetch_bulk_l2(const void *p, uint32_t bytes, SIMT_AT)
{
    simt_prefetch(p, bytes, at);
}

/* --- copies --- */

DEV void dev_cp_async16(void *shared, const void *global, SIMT_AT)
{
    simt_cp_async(shared, global, 16, 16, at);
}

DEV void dev_cp_async16_zfill(void *shared, const void *global, bool read, SIMT_AT)
{
    simt_cp_async(shared, global, 16, read ? 16 : 0, at);
}

DEV void dev_cp_async4(void *shared, const void *global, SIMT_AT)
{
    simt_cp_async(shared, global, 4, 4, at);
}

DEV void dev_cp_async_commit(SIMT_AT)
{
    simt_cp_async_commit(at);
}

template <int N> DEV void dev_cp_async_wait(SIMT_AT)
{
    simt_cp_async_wait(N, at);
}

struct alignas(8) dev_mbar {
    uint64_t state;
};

DEV void dev_mbar_init(dev_mbar *b, unsigned arrivals, SIMT_AT)
{
    simt_mbar_init(b, arrivals, at);
}

DEV void dev_mbar_fence_init(SIMT_AT)
{
    simt_mbar_fence_init(at);
}

DEV void dev_mbar_arrive(dev_mbar *b, SIMT_AT)
{
    simt_mbar_arrive(b, 0, at);
}

DEV void dev_mbar_arrive_expect(dev_mbar *b, unsigned bytes, SIMT_AT)
{
    simt_mbar_arrive(b, bytes, at);
}

DEV void dev_mbar_wait(dev_mbar *b, unsigned parity, SIMT_AT)
{
    simt_mbar_wait(b, parity, at);
}

DEV void dev_bulk_g2s(void *shared, const void *global, uint32_t bytes, dev_mbar *b, SIMT_AT)
{
    simt_bulk_g2s(shared, global, bytes, b, at);
}

DEV void dev_bulk_s2g(void *global, const void *shared, uint32_t bytes, SIMT_AT)
{
    simt_bulk_s2g(global, shared, bytes, at);
}

DEV void dev_bulk_commit(SIMT_AT)
{
    simt_bulk_commit(at);
}

template <int N> DEV void dev_bulk_wait(SIMT_AT)
{
    simt_bulk_wait(N, false, at);
}

template <int N> DEV void dev_bulk_wait_read(SIMT_AT)
{
    simt_bulk_wait(N, true, at);
}

DEV void dev_fence_async_shared(SIMT_AT)
{
    simt_fence_async(at);
}

/* --- tensor cores --- */

DEV void dev_ldmatrix_x4(uint32_t r[4], const void *row, SIMT_AT)
{
    simt_ldmatrix(r, 4, false, row, at);
}

DEV void dev_ldmatrix_x4_trans(uint32_t r[4], const void *row, SIMT_AT)
{
    simt_ldmatrix(r, 4, true, row, at);
}

DEV void dev_ldmatrix_x2(uint32_t r[2], const void *row, SIMT_AT)
{
    simt_ldmatrix(r, 2, false, row, at);
}

DEV void dev_ldmatrix_x2_trans(uint32_t r[2], const void *row, SIMT_AT)
{
    simt_ldmatrix(r, 2, true, row, at);
}

DEV void dev_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_AT)
{
    simt_mma_bf16(d, a, b, at);
}

DEV void dev_mma_s8(int d[4], const uint32_t a[4], const uint32_t b[2], SIMT_AT)
{
    simt_mma_s8(d, a, b, at);
}

DEV void dev_mma_e4m3(float d[4], const uint32_t a[4], const uint32_t b[2], SIMT_AT)
{
    simt_mma_e4m3(d, a, b, at);
}

/* --- clusters, dependent launch, atomics --- */

DEV unsigned dev_cluster_rank()
{
    return simt_me->rank;
}

DEV unsigned dev_cluster_size()
{
    return simt_me->ranks;
}

template <class T> DEV T *dev_cluster_map(T *shared, unsigned rank, SIMT_AT)
{
    return static_cast<T *>(simt_cluster_map(shared, rank, at));
}

DEV void dev_cluster_arrive(SIMT_AT)
{
    simt_cluster_arrive(at);
}

DEV void dev_cluster_wait(SIMT_AT)
{
    simt_cluster_wait(at);
}

DEV void dev_cluster_sync(SIMT_AT)
{
    simt_cluster_arrive(at);
    simt_cluster_wait(at);
}

DEV void dev_pdl_launch() {}

DEV void dev_pdl_wait(SIMT_AT)
{
    simt_pdl_wait(at);
}

template <class T> DEV T dev_atomic_add(T *p, T v, SIMT_AT)
{
    static_assert(sizeof(T) == 4 && T(0.5f) == 0, "atomics are for counters");
    return (T)simt_atomic(SIMT_ADD, p, (uint32_t)v, 0, at);
}

template <class T> DEV T dev_atomic_max(T *p, T v, SIMT_AT)
{
    static_assert(sizeof(T) == 4 && T(0.5f) == 0, "atomics are for counters");
    return (T)simt_atomic(T(-1) < T(0) ? SIMT_MAX_INT : SIMT_MAX_UNSIGNED, p, (uint32_t)v, 0, at);
}

template <class T> DEV T dev_atomic_cas(T *p, T expected, T v, SIMT_AT)
{
    static_assert(sizeof(T) == 4 && T(0.5f) == 0, "atomics are for counters");
    return (T)simt_atomic(SIMT_CAS, p, (uint32_t)v, (uint32_t)expected, at);
}

/* --- launch --- */

struct simt_kernel_made : simt_kernel {
    explicit simt_kernel_made(const char *pretty)
    {
        simt_kernel_new(this, pretty);
    }
};

template <auto KERNEL_OF> struct simt_kernel_of {
    static const char *pretty()
    {
        return __PRETTY_FUNCTION__; /* ".. [with auto KERNEL_OF = gemm<3, 2, 1, 8>]" */
    }
    static inline simt_kernel_made made{pretty()};
};

template <auto K, class... P, class... A>
int simt_launch_with(simt_site at, const struct dev_launch *l, void (*kernel)(P...), A... args)
{
    auto body = [&] { kernel(static_cast<P>(args)...); };
    return simt_launch(
        &simt_kernel_of<K>::made, l, [](void *b) { (*static_cast<decltype(body) *>(b))(); }, &body, at);
}

#define CLUSTERS(l, ...) ((void)(l), -1)
#define LAUNCH(l, kernel, ...) simt_launch_with<kernel>(SIMT_HERE, l, kernel, __VA_ARGS__)
#endif
