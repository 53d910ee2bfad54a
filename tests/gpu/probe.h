/* Kernels that do nothing but cost what is to be known: a launch, a cluster, a barrier, a copy. */
#pragma once
#include "kernels/cuda/rt.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Reads a word and writes a word, so that one launch depends on the other. pdl: starts before those in front have ended. */
struct op_touch {
    int blocks, pdl;
    uint32_t *word; /* [blocks] */
};
int launch_touch(const struct op_touch *op, void *stream);

/* to = from, 16 bytes a thread at a time. */
struct op_copy {
    int blocks;
    size_t bytes; /* a multiple of 16 */
    const void *from;
    void *to;
};
int launch_copy(const struct op_copy *op, void *stream);

/* Clusters of 8 (cluster 0: the same blocks without): `barriers` barriers of the cluster, or of the block, one after the other.
 * shared: dynamic bytes of a block. sm_90. */
struct op_meet {
    int clusters, cluster, barriers, pdl;
    size_t shared;
    uint32_t *word; /* [8 clusters] */
};
int launch_meet(const struct op_meet *op, void *stream);

#ifdef __cplusplus
}
#endif
