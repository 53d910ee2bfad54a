/* Small kernels for the shim's own test, each right as it stands and wrong in one way by `fault`. */
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum self_fault {
    RIGHT,
    NO_BARRIER,        /* between a write and the reads of others */
    NO_SECOND_BARRIER, /* between those reads and the next write */
    NO_WAIT,           /* for a copy */
    SHORT_WAIT,        /* leaves one group too many on its way */
    WRONG_PARITY,
    NO_FENCE,
    NOT_STARTED, /* a peer's memory is touched before it has started */
    EARLY_END,   /* a peer ends while its memory is touched */
    OVERLAP,     /* two threads write the same place */
    OUTSIDE,     /* behind the end of a buffer */
    INTO_SEALED,
    OUT_OF_SHARED,
    DIVERGENT,      /* threads meet at two barriers */
    MISSING_THREAD, /* some never come */
    MISALIGNED,
    READ_ONLY,    /* a read-only load of what the kernel writes */
    EARLY_LANDING /* a copy to where others still read */
};

struct self_op {
    int fault;
    const float *in;
    float *out;
    int32_t *counter;
    const uint16_t *a, *b; /* bf16 [16][k], [8][k] */
    int n, k;
};

int launch_self_block(const struct self_op *op);     /* out[i] = sum of in over the block, twice; 256 threads */
int launch_self_warp(const struct self_op *op);      /* out[i] = in[i ^ 1], through shared memory */
int launch_self_mma(const struct self_op *op);       /* out [16][8] = a b^T by cp.async, ldmatrix, mma; 32 threads */
int launch_self_ring(const struct self_op *op);      /* out[i] = 2 in[i], bulk copies through a ring, n % 128 == 0 */
int launch_self_cluster(const struct self_op *op);   /* out[rank] = sum of in[0 .. 3], pushed to peers */
int launch_self_pull(const struct self_op *op);      /* out[rank] = in[rank + 1 mod 4], read from the peer */
int launch_self_blocks(const struct self_op *op);    /* out[i] = in[i], four blocks of 32 */
int launch_self_named(const struct self_op *op);     /* out[i] = in[i] + 1: one warp makes, one uses */
int launch_self_store(const struct self_op *op);     /* out[i] = in[i], n = 512, by bulk copies to global memory */
int launch_self_last(const struct self_op *op);      /* out[0] = sum of in[0 .. 3]: the last block sums up */
int launch_self_dependent(const struct self_op *op); /* out[i] = in[i], launched with pdl */
int launch_self_shuffle(const struct self_op *op);   /* out[i] = sum of the warp */
int launch_self_s8(const struct self_op *op);        /* out [16][8] = a b^T of bytes, k = 32 */

#ifdef __cplusplus
}
#endif
