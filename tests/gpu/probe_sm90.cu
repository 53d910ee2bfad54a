/* probe: a cluster's launch and its barriers. 256 threads a block, as the LoRA kernel has; the time of a launch with many
 * barriers less that of one with none, over their number, is what a barrier costs; and where more clusters are launched
 * than the device holds at once, the time doubles. */
#include "kernels/cuda/dev.h"
#include "tests/gpu/probe.h"

#define THREADS 256
#define CLUSTER 8

CLUSTER_KERNEL(meet, CLUSTER, THREADS)(GRID_CONST struct op_meet op)
{
    DYN_SHARED(uint32_t, room);
    dev_pdl_launch();
    dev_pdl_wait();
    if (threadIdx.x == 0) room[0] = dev_cluster_rank();
    NO_UNROLL
    for (int i = 0; i < op.barriers; i++) dev_cluster_sync();
    if (threadIdx.x == 0) op.word[blockIdx.x] = room[0];
}

KERNEL(alone, THREADS, 1)(GRID_CONST struct op_meet op)
{
    DYN_SHARED(uint32_t, room);
    dev_pdl_launch();
    dev_pdl_wait();
    if (threadIdx.x == 0) room[0] = blockIdx.x;
    NO_UNROLL
    for (int i = 0; i < op.barriers; i++) dev_sync();
    if (threadIdx.x == 0) op.word[blockIdx.x] = room[0];
}

int launch_meet(const struct op_meet *op, void *stream)
{
    struct dev_launch l = {};
    l.gx = (unsigned)(CLUSTER * op->clusters), l.threads = THREADS, l.stream = stream, l.pdl = op->pdl;
    l.shared = op->shared < 128 ? 128 : op->shared;
    if (!op->cluster) return LAUNCH(&l, alone, *op);
    l.cluster = CLUSTER;
    return LAUNCH(&l, meet, *op);
}
