/* bench: the measurements that decide how the LoRA kernels are used (docs/LORA_KERNELS.md, section 4), in Markdown.
 *
 *     bench [--tiny] [--table FILE] PART...      boundary cluster lora overlap active augment base, or all
 *
 * First of all the rate of a copy on this device, which floors and the last part go by. --tiny takes small sizes, to try the
 * program (on the shim: its times mean nothing). --table: the part lora writes `site D r fused planes floor` there, for
 * tests/gpu/triton_pair.py. Exit codes: 0, 1 failed, 2 bad arguments, 3 no device. */
#include "tests/gpu/lanes.h"
#include "tests/gpu/probe.h"
#include <stdio.h>
#include <string.h>

#define COPY_BYTES ((size_t)1 << 30)
#define COPY_TINY ((size_t)1 << 16)
#define COPIES 4

static const struct {
    const char *name;
    void (*run)(void);
} PARTS[] = {{"boundary", bench_boundary}, {"cluster", bench_cluster}, {"lora", bench_lora}, {"overlap", bench_overlap},
             {"active", bench_active},     {"augment", bench_augment}, {"base", bench_base}};
#define PARTS_N ((int)(sizeof PARTS / sizeof *PARTS))

static int run_copy(const void *op, void *stream)
{
    return launch_copy(op, stream);
}

static void measure_copy(void)
{
    size_t bytes = bench.tiny ? COPY_TINY : COPY_BYTES;
    struct lane l = {.name = "copy"};
    const struct op_copy op = {bench.info.sms * 8, bytes, bench_values(bytes / 2, 1), bench_zeros(bytes)};
    lane_begin(&l);
    for (int i = 0; i < COPIES; i++) lane_op(run_copy, &op, sizeof op);
    lane_end(&l);
    lanes_time(&l, 1);
    bench.bandwidth = 2 * (double)bytes / (lane_us(&l) * 1e-6);
    rt_free((void *)op.from), rt_free(op.to);
    printf("%s, sm_%d, %d multiprocessors, %d MB of L2; a copy of %zu MB: %.0f GB/s read and written\n",
           bench.info.name, bench.info.cc, bench.info.sms, bench.info.l2_bytes >> 20, bytes >> 20,
           bench.bandwidth * 1e-9);
}

static int part_named(const char *name)
{
    for (int i = 0; i < PARTS_N; i++)
        if (!strcmp(PARTS[i].name, name)) return i;
    return -1;
}

static int usage(void)
{
    fprintf(stderr, "usage: bench [--tiny] [--table FILE] boundary|cluster|lora|overlap|active|augment|base|all...\n");
    return 2;
}

int main(int argc, char **argv)
{
    unsigned wanted = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--tiny"))
            bench.tiny = 1;
        else if (!strcmp(argv[i], "--table") && i + 1 < argc)
            bench.table = argv[++i];
        else if (!strcmp(argv[i], "all"))
            wanted = (1u << PARTS_N) - 1;
        else if (part_named(argv[i]) >= 0)
            wanted |= 1u << part_named(argv[i]);
        else
            return usage();
    }
    if (!wanted) return usage();
    bench_open();
    measure_copy();
    for (int i = 0; i < PARTS_N; i++) {
        if (wanted >> i & 1) PARTS[i].run();
        fflush(stdout);
    }
    bench_close();
    return 0;
}
