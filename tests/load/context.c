/* weft-context: what length costs: the table of docs/LONG_CONTEXT.md.
 *
 *     weft-context [--longest N] [--rounds N] [--window N] [--sinks N] [--threads N] [--whole N] [--cpu] MODEL
 *
 * For lengths 1,024, 2,048 .. N (32,768) and each of four ways to keep keys and values (bf16 and int8, all of them or a window): a chunk
 * of CHUNK rows of a prompt that ends at that length, and one decoding row there. The ways take turns, --rounds (3) times; the least
 * counts. The time to a first token is the sum of such chunks over the prompt, in between as if they grew evenly from length to length, so
 * that 131,072 positions are timed in a minute and not in half an hour; --whole N computes one prompt of N tokens for each way as it
 * is, to compare with.
 *
 * --cpu: one thread, and the processor's time that it took instead of the clock's, where others work on the machine.
 *
 * A context beyond the model's own is reached by yarn, which costs nothing by itself. Keys and values of the past are zeros but for what
 * was computed: their values change nothing about the time. Memory is that of the pages that a sequence of that length holds.
 *
 * Bounds: LENGTHS_MAX lengths, ROUNDS_MAX rounds, contexts of 1,024 to 1,048,576. Exit codes: 0, 2 bad arguments, 3 the model was refused. */
#include "base/json.h"
#include "base/log.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNK 256
#define LENGTHS_MAX 16
#define ROUNDS_MAX 64
#define WAYS 4
#define SHORTEST 1024
#define LONGEST (1 << 20)
#define USAGE "usage: weft-context [--longest N] [--rounds N] [--window N] [--sinks N] [--threads N] [--whole N] [--cpu] MODEL\n"

enum { DONE = 0, BAD_USAGE = 2, BAD_MODEL = 3 };

static const struct way {
    const char *name;
    enum kv_type type;
    bool windowed;
} ways[WAYS] = {
    {"bf16", KV_BF16, false}, {"int8", KV_INT8, false}, {"bf16 window", KV_BF16, true}, {"int8 window", KV_INT8, true}};

static struct bench {
    int longest, rounds, window, sinks, threads, whole;
    bool cpu;
    const char *path;
    struct model *m;
    const struct kernels *k;
    struct pool *pool;
    struct kv_pool kv[2]; /* bf16, int8 */
    struct kv_seq seq[2];
    struct forward *f[2];
    int length[LENGTHS_MAX], nlengths;
    double chunk[WAYS][LENGTHS_MAX + 1], row[WAYS][LENGTHS_MAX]; /* seconds, the least; of chunks [0] is the first of a prompt */
} b = {.longest = 32768, .rounds = 3, .window = 4096, .sinks = 4};

static void set_window(bool on)
{
    for (int i = 0; i < b.m->layers; i++) {
        b.m->layer[i].window = on ? b.window : 0;
        b.m->layer[i].sinks = on ? b.sinks : 0;
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(b.cpu ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Rows pos .. pos+rows-1 of the sequence, with the logits of the last: seconds. */
static double run(const struct way *w, int pos, int rows)
{
    int32_t token[CHUNK];
    int last = rows - 1, i = w->type == KV_INT8;
    for (int r = 0; r < rows; r++) token[r] = 100 + (pos + r) * 7 % 1000;
    const struct attn_seq seq = {0, rows, pos, b.seq[i].page};
    const struct forward_batch batch = {.rows = rows, .token = token, .nseq = 1, .seq = &seq, .nlogits = 1, .logit_row = &last};
    set_window(w->windowed);
    double t0 = now();
    forward_run(b.f[i], &batch);
    return now() - t0;
}

static void least(double *at, double v)
{
    if (*at == 0 || v < *at) *at = v;
}

static void measure(void)
{
    for (int round = 0; round < b.rounds; round++)
        for (int n = -1; n < b.nlengths; n++)
            for (int w = 0; w < WAYS; w++) {
                least(&b.chunk[w][n + 1], run(&ways[w], n < 0 ? 0 : b.length[n] - CHUNK, CHUNK));
                if (n >= 0) least(&b.row[w][n], run(&ways[w], b.length[n] - 1, 1));
            }
}

/* Seconds from the first chunk to the one that ends at length n. */
static double first_token(int w, int n)
{
    double sum = b.chunk[w][0];
    for (int i = 0, from = CHUNK; i <= n; from = b.length[i++])
        sum += (b.length[i] - from) / (double)CHUNK * (b.chunk[w][i] + b.chunk[w][i + 1]) / 2;
    return sum;
}

static double megabytes(int w, int length)
{
    struct kv_keep all = {0}, keep = {b.window, b.sinks};
    int pages = kv_keep_most(ways[w].windowed ? &keep : &all, length, CHUNK);
    return (double)pages * (double)kv_bytes_of(b.m, ways[w].type) / 1e6;
}

static void print(void)
{
    printf("%8s  %-12s %14s %14s %10s\n", "length", "keys, values", "first token s", "decode tok/s", "KV MB");
    for (int n = 0; n < b.nlengths; n++)
        for (int w = 0; w < WAYS; w++)
            printf("%8d  %-12s %14.2f %14.1f %10.1f\n", b.length[n], ways[w].name, first_token(w, n), 1 / b.row[w][n],
                   megabytes(w, b.length[n]));
}

static void compare_whole(void)
{
    for (int w = 0; w < WAYS && b.whole; w++) {
        double sum = 0;
        for (int pos = 0; pos + CHUNK <= b.whole; pos += CHUNK) sum += run(&ways[w], pos, CHUNK);
        printf("a prompt of %d as it is, %s: %.2f s\n", b.whole, ways[w].name, sum);
    }
}

static int prepare(struct err *e)
{
    struct model_options o = {.prec = PREC_FAST, .max_context = b.longest, .keep_mapped = true};
    struct err why = {0};
    if (model_open(&b.m, b.path, &o, &why)) {
        o.reach = (struct model_reach){.scaling = "yarn", .factor = 128};
        if (model_open(&b.m, b.path, &o, e)) return -1;
    }
    b.k = kernels_pick(getenv("WEFT_KERNELS"), PREC_FAST);
    if (!b.k) return err_set(e, ERR_USAGE, "WEFT_KERNELS names no kernels of this processor");
    if (pool_new(&b.pool, b.threads, e)) return -1;
    for (int i = 0; i < 2; i++) {
        enum kv_type type = i ? KV_INT8 : KV_BF16;
        int64_t bytes = (int64_t)kv_bytes_of(b.m, type) * kv_pages_of(b.longest);
        if (kv_pool_init_as(&b.kv[i], b.m, type, bytes, 1, e) || kv_seq_init(&b.seq[i], b.longest, e) ||
            forward_new(&b.f[i], b.m, b.k, b.pool, &b.kv[i].cache, CHUNK, 1, 1, e))
            return -1;
        kv_seq_reserve(&b.kv[i], &b.seq[i], b.longest);
        memset(b.kv[i].cache.base, 0, b.kv[i].bytes); /* memory that is there, as that of a real past */
    }
    for (int n = SHORTEST; n < b.longest && b.nlengths < LENGTHS_MAX - 1; n *= 2) b.length[b.nlengths++] = n;
    b.length[b.nlengths++] = b.longest;
    return 0;
}

static void clean_up(void)
{
    for (int i = 0; i < 2; i++) {
        forward_free(b.f[i]);
        if (b.seq[i].page) {
            kv_seq_release(&b.kv[i], &b.seq[i]);
            kv_seq_close(&b.seq[i]);
        }
        if (b.kv[i].cache.base) kv_pool_close(&b.kv[i]);
    }
    if (b.pool) pool_free(b.pool);
    model_free(b.m);
}

static bool take(const char *word, const char *name, const char *value, int min, int max, int *out)
{
    if (strcmp(word, name) != 0) return false;
    char *end;
    long v = value ? strtol(value, &end, 10) : -1;
    if (!value || end == value || *end || v < min || v > max) {
        fprintf(stderr, "weft-context: %s wants %d to %d\n", name, min, max);
        exit(BAD_USAGE);
    }
    *out = (int)v;
    return true;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (take(argv[i], "--longest", value, SHORTEST, LONGEST, &b.longest) || take(argv[i], "--rounds", value, 1, ROUNDS_MAX, &b.rounds) ||
            take(argv[i], "--window", value, 1, LONGEST, &b.window) || take(argv[i], "--sinks", value, 0, ATTN_SINKS_MAX, &b.sinks) ||
            take(argv[i], "--threads", value, 0, 64, &b.threads) || take(argv[i], "--whole", value, CHUNK, LONGEST, &b.whole))
            i++;
        else if (strcmp(argv[i], "--cpu") == 0)
            b.cpu = true, b.threads = 1;
        else if (argv[i][0] != '-' && !b.path)
            b.path = argv[i];
        else
            return fprintf(stderr, USAGE), BAD_USAGE;
    }
    if (!b.path || b.whole > b.longest) return fprintf(stderr, USAGE), BAD_USAGE;
    log_init("weft-context", LOG_WARN);
    json_start();
    int rc = prepare(&e);
    if (rc == 0) {
        measure();
        print();
        compare_whole();
    } else {
        fprintf(stderr, "weft-context: %s\n", e.msg);
    }
    clean_up();
    return rc ? BAD_MODEL : DONE;
}
