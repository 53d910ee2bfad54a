/* What a launch costs: the boundary between kernels with and without dependent launch, clusters and their barriers, clusters
 * that run at once. */
#include "tests/gpu/lanes.h"
#include "tests/gpu/probe.h"
#include <stdio.h>

#define CHAIN 200
#define CHAIN_TINY 4
#define MANY 64 /* barriers */
#define CLUSTER 8
#define CLUSTERS_MOST 48
#define SHARED_100K ((size_t)100 << 10)
#define JUMP 1.5 /* so much longer: a second wave */

static int run_touch(const void *op, void *stream)
{
    return launch_touch(op, stream);
}

static int run_meet(const void *op, void *stream)
{
    return launch_meet(op, stream);
}

static int chain(void)
{
    return bench.tiny ? CHAIN_TINY : CHAIN;
}

void bench_boundary(void)
{
    static const int blocks_of[] = {1, 132, 1056};
    uint32_t *word = bench_zeros(sizeof *word * 2048);
    printf("\nKernel after kernel in a graph, each one warp a block that waits for the one before:\n\n"
           "| blocks | us a kernel | us with dependent launch |\n|---|---|---|\n");
    for (int b = 0; b < 3; b++) {
        struct lane lane[2] = {{.name = "plain"}, {.name = "dependent"}};
        for (int pdl = 0; pdl < 2; pdl++) {
            const struct op_touch op = {bench.tiny ? 1 : blocks_of[b], pdl && cuda_target.pdl, word};
            lane_begin(&lane[pdl]);
            for (int i = 0; i < chain(); i++) lane_op(run_touch, &op, sizeof op);
            lane_end(&lane[pdl]);
        }
        lanes_time(lane, 2);
        printf("| %d | %.2f | %.2f |\n", blocks_of[b], lane_us(&lane[0]), lane_us(&lane[1]));
    }
}

static void meet_lane(struct lane *l, struct op_meet op, int n)
{
    lane_begin(l);
    for (int i = 0; i < n; i++) lane_op(run_meet, &op, sizeof op);
    lane_end(l);
}

void bench_cluster(void)
{
    if (!bench.info.clusters) {
        printf("\nClusters: this device has none.\n");
        return;
    }
    uint32_t *word = bench_zeros(sizeof *word * CLUSTER * CLUSTERS_MOST);
    struct op_meet op = {.clusters = bench.tiny ? 1 : 16, .pdl = cuda_target.pdl, .word = word};
    struct lane lane[4] = {
        {.name = "blocks"}, {.name = "clusters"}, {.name = "block barriers"}, {.name = "cluster barriers"}};
    for (int i = 0; i < 4; i++) {
        op.cluster = i % 2, op.barriers = i / 2 * MANY;
        meet_lane(&lane[i], op, chain());
    }
    lanes_time(lane, 4);
    double us[4];
    for (int i = 0; i < 4; i++) us[i] = lane_us(&lane[i]);
    printf("\n%d blocks of 256 threads, by themselves and as clusters of 8:\n\n"
           "| | us a launch | us a barrier |\n|---|---|---|\n"
           "| blocks | %.2f | %.3f |\n| clusters | %.2f | %.3f |\n",
           CLUSTER * op.clusters, us[0], (us[2] - us[0]) / MANY, us[1], (us[3] - us[1]) / MANY);
}

/* The time of n clusters that each take long: it jumps where they are more than run at once. */
void bench_active(void)
{
    if (!bench.info.clusters) {
        printf("\nClusters at once: this device has none.\n");
        return;
    }
    uint32_t *word = bench_zeros(sizeof *word * CLUSTER * CLUSTERS_MOST);
    int most = bench.tiny ? 2 : CLUSTERS_MOST, held = most;
    double one = 0, last = 0;
    for (int n = 1; n <= most; n++) {
        struct lane lane = {.name = "clusters"};
        struct op_meet op = {n, 1, bench.tiny ? 2 : 20 * MANY, 0, SHARED_100K, word};
        meet_lane(&lane, op, bench.tiny ? 1 : 4);
        lanes_time(&lane, 1);
        last = lane_us(&lane);
        if (n == 1) one = last;
        if (n > 1 && last > JUMP * one && !bench.tiny) {
            held = n - 1;
            break;
        }
    }
    printf(
        "\nClusters of 8 blocks with 100 KB of shared memory each that run at once: %d%s (%.0f us alone, %.0f us for "
        "one more).\n",
        held, held == most ? " or more" : "", one, last);
}
