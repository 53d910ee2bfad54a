/* LoRA in one kernel a site (sm_90): clusters of 8 blocks (lora_cluster.h says how).
 *
 * Grid: constant, as many clusters as can be resident: two blocks of 256 an SM with tiles of 8 rows and ranks up to 64
 * (110 KB of shared memory each), else one. Bytes: A and B once from memory, rows * k * 2 of x per slice and
 * rows * n * 4 of y from L2; latency of an item alone: one exchange (push, barrier, add: about 1 us is expected) and one
 * load of y, which two blocks an SM and the ring hide for each other. Expected on H200 with 32 adapters of rank 16: 6 us
 * for the qkv of an 8B shape, of which 4.5 are bytes. */
#include "kernels/cuda/lora_cluster.h"

template <int NT>
CLUSTER_KERNEL_ON(lora_cluster, LORA_SPLIT, LORA_THREADS, LORA_BLOCKS_PER_SM)
(GRID_CONST struct op_lora op, GRID_CONST struct lora_plan plan, GRID_CONST struct tail_add tail)
{
    DYN_SHARED(unsigned char, shared);
    SHARED(float, part, LORA_WARPS * 8 * NT * LORA_PART_ROW);
    SHARED(struct lora_item<1>, items, LORA_AHEAD);
    SHARED(struct dev_mbar, bars, 2 * LORA_STAGES);
    lora_cluster_run<NT, 1>(&tail, &op, &plan, items, bars, part, shared);
}

template <int NT> static int launch(const struct op_lora *op, void *stream)
{
    struct lora_plan plan = lora_plan_of<NT, 1>(op->ranks);
    struct tail_add tail = {op->f32};
    struct dev_launch l = lora_cluster_launch(&plan, stream);
    if (plan.bytes + plan.fixed > (size_t)cuda_target.shared_block) return launch_lora_planes(op, stream);
    int held = CLUSTERS(&l, (lora_cluster<NT>));
    if (held == 0) return launch_lora_planes(op, stream);
    lora_cluster_teams(&plan, &l, held);
    return LAUNCH(&l, (lora_cluster<NT>), *op, plan, tail);
}

int launch_lora_cluster(const struct op_lora *op, void *stream)
{
    int rc = lora_check(op);
    if (rc) return rc;
    return op->tile_rows > 8 ? launch<2>(op, stream) : launch<1>(op, stream);
}
