/* models: decoding steps of models made on the device (made.h), through the engine's pass: host time, graphs and the choice
 * of tokens included, scheduler and HTTP not.
 *
 *     models --check                                   graphs replayed with other adapters: the same bits for the same row
 *     models [--context N] [--steps N] [--batch N] [--bandwidth GB/s] SHAPE
 *
 * The bench decodes at the context (prompts first, by the base) with batches of 1, 8, 32 and 128 (or the one of --batch),
 * each with 0, 1, 8 and 32 adapters of rank 16 on all modules; the variants of a batch take turns, and of all steps of a
 * variant the median counts. Rows of a Markdown table: tokens/s, beside the same batch without adapters, beside what the
 * step has to read at the bandwidth that a copy on this device reached (--bandwidth; without it the column stays empty).
 *
 * The check takes the shape "tiny" and the device that WEFT_DEVICE_LIB or weft-cuda.so offers; on the shim it runs on any
 * machine. Exit codes: 0, 1 failed, 2 bad arguments. */
#include "base/clock.h"
#include "tests/gpu/made.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANK 16
#define STEPS_MAX 256
#define ROUNDS 3
#define VARIANTS 4
#define WARM 3 /* a bucket's first step records its graph */

static const int batches[] = {1, 8, 32, 128};
static const int adapters[VARIANTS] = {0, 1, 8, 32};

static struct {
    const struct made_shape *shape;
    int context, steps, batch;
    double bandwidth; /* bytes a second */
    bool check;
} args = {.context = 1024, .steps = 24};

static struct made world;

/* --- the check --- */

#define CHECK_ROWS 4
#define CHECK_POS 32 /* whole pages */

static void logits_of(const int of[CHECK_ROWS], const int32_t token[CHECK_ROWS], float *logits)
{
    int32_t copy[CHECK_ROWS];
    memcpy(copy, token, sizeof copy);
    made_decode(&world,
                &(struct made_step){.batch = CHECK_ROWS, .pos = CHECK_POS, .of = of, .token = copy, .logits = logits});
}

/* Sequences of the same prompt, so a row's logits depend on its adapter and token alone. */
static void same_prompts(void)
{
    made_prefill(&world, 1, CHECK_POS);
    for (int i = 1; i < CHECK_ROWS; i++)
        for (int p = 0; p * KV_PAGE < CHECK_POS; p++) {
            kv_page_ref(&world.kv, world.seq[0].page[p]);
            kv_seq_swap(&world.kv, &world.seq[i], p, world.seq[0].page[p]);
        }
}

static int differing(const float *a, const float *b, int vocab)
{
    return memcmp(a, b, (size_t)vocab * sizeof *a) != 0;
}

/* Row i of the second step has what row 3 - i of the first had, and what follows replays the first one's graph. */
static int check(void)
{
    static const int first[CHECK_ROWS] = {0, 1, -1, 2}, second[CHECK_ROWS] = {2, -1, 1, 0},
                     none[CHECK_ROWS] = {-1, -1, -1, -1};
    static const int32_t token[CHECK_ROWS] = {7, 7, 7, 7};
    struct device_counts before, after;
    made_open(&world, made_named("tiny"), CHECK_ROWS, 48, 3, RANK);
    int vocab = world.m->vocab, bad = 0, moved = 0;
    float *a = calloc((size_t)(CHECK_ROWS * vocab), sizeof *a), *b = calloc((size_t)(CHECK_ROWS * vocab), sizeof *b);
    if (!a || !b) return 1;
    same_prompts();
    logits_of(first, token, a);
    device_counts(world.device, &before);
    logits_of(second, token, b);
    logits_of(first, token, b);
    logits_of(second, token, b);
    device_counts(world.device, &after);
    for (int i = 0; i < CHECK_ROWS; i++) bad += differing(a + i * vocab, b + (CHECK_ROWS - 1 - i) * vocab, vocab);
    for (int i = 0; i < CHECK_ROWS; i++) moved += differing(a, a + i * vocab, vocab);
    bool replayed = after.graphs == before.graphs && after.replays >= before.replays + 3;
    logits_of(none, token, b);
    bad += differing(a + 2 * vocab, b, vocab); /* the base's row, alone in its bucket without adapters */
    printf("result: %d of %d rows differ by bits from the same row elsewhere; %d rows of other adapters differ; graphs "
           "%s\n",
           bad, CHECK_ROWS + 1, moved, replayed ? "were replayed" : "were NOT replayed");
    free(a), free(b);
    made_close(&world);
    return bad || moved != CHECK_ROWS - 1 || !replayed;
}

/* --- the bench --- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double seconds(void)
{
    return (double)clock_mono_us() * 1e-6;
}

struct variant {
    int adapters, n;
    double s[STEPS_MAX * ROUNDS];
};

static void time_round(struct variant *v, int batch, int warm)
{
    int32_t token[MADE_BATCH];
    for (int i = 0; i < batch; i++) token[i] = i * 37 + 11;
    for (int i = 0; i < warm + args.steps; i++) {
        const struct made_step step = {
            .batch = batch, .pos = args.context + i, .adapters = v->adapters, .token = token};
        double from = seconds();
        made_decode(&world, &step);
        if (i >= warm) v->s[v->n++] = seconds() - from;
    }
}

static double median(struct variant *v)
{
    qsort(v->s, (size_t)v->n, sizeof *v->s, by_value);
    return v->s[v->n / 2];
}

static void print_row(int batch, struct variant *v, double base)
{
    double s = median(v),
           floor = made_bytes(&world, batch, args.context, v->adapters) / (args.bandwidth ? args.bandwidth : 1);
    char roof[32] = "";
    if (args.bandwidth) snprintf(roof, sizeof roof, "%.0f %%", 100 * floor / s);
    printf("| %s | %d | %d | %d | %.3f | %.0f | %.3f | %s |\n", args.shape->name, args.context, batch, v->adapters,
           s * 1e3, batch / s, base / s, roof);
    fflush(stdout);
}

static void bench_batch(int batch)
{
    static struct variant v[VARIANTS];
    int n = 0;
    for (int i = 0; i < VARIANTS; i++)
        if (adapters[i] <= batch) v[n++] = (struct variant){.adapters = adapters[i]};
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < n; i++) time_round(&v[i], batch, round ? 1 : WARM);
    double base = median(&v[0]);
    for (int i = 0; i < n; i++) print_row(batch, &v[i], base);
}

static void bench(void)
{
    int most = args.batch ? args.batch : MADE_BATCH;
    double from = seconds();
    made_open(&world, args.shape, most, args.context + args.steps + WARM + 1,
              most < MADE_ADAPTERS ? most : MADE_ADAPTERS, RANK);
    double opened = seconds();
    made_prefill(&world, most, args.context);
    fprintf(stderr, "%s: ready after %.1f s, prompts of %d tokens in %.1f s\n", args.shape->name, opened - from,
            most * args.context, seconds() - opened);
    printf("\nDecoding steps of %s, weights made on the device, adapters of rank %d on all modules:\n\n"
           "| shape | context | batch | adapters | ms a step | tokens/s | of base | of the byte roofline |\n"
           "|---|---|---|---|---|---|---|---|\n",
           args.shape->name, RANK);
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        if (!args.batch || args.batch == batches[i]) bench_batch(batches[i]);
    made_close(&world);
}

static bool read_number(const char *name, const char *arg, const char *value, int most, int *out)
{
    if (strcmp(arg, name) || !value) return false;
    *out = (int)strtol(value, NULL, 10);
    if (*out >= 1 && *out <= most) return true;
    fprintf(stderr, "%s: 1 to %d, not %s\n", name, most, value);
    exit(2);
}

static int usage(void)
{
    fprintf(stderr, "usage: models --check | [--context N] [--steps N] [--batch N] [--bandwidth GB/s] SHAPE\n");
    return 2;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(a, "--check"))
            args.check = true;
        else if (read_number("--context", a, value, 16384, &args.context) ||
                 read_number("--steps", a, value, STEPS_MAX, &args.steps) ||
                 read_number("--batch", a, value, MADE_BATCH, &args.batch))
            i++;
        else if (!strcmp(a, "--bandwidth") && value)
            args.bandwidth = strtod(value, NULL) * 1e9, i++;
        else if (!(args.shape = made_named(a)))
            return usage();
    }
    if (args.check) return check();
    if (!args.shape) return usage();
    bench();
    return 0;
}
