/* Where the time of a step goes: each operation's share, with the barrier behind it, of a pass through the model that
 * WEFT_MODEL names; decoding steps of 1, 8 and 16 rows at contexts of 64 and 512, and a prompt of 512.
 *
 * The table of kernels is wrapped: thread 0 notes when it enters an operation, and what passes until it enters the next
 * one is the first one's. Figures are medians over steps.
 *   WEFT_MODEL=path bench_step [auto|bf16|int8] */
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/sampler.h"
#include "tests/kernels/common.h"
#include <time.h>
#include <x86intrin.h>

#define STEPS 61
#define ROWS_MAX 512
#define SEQS_MAX 16

enum op { EMBED, NORM, QKV, ROPE, ATTENTION, O, GATE_UP, DOWN, HEAD, SAMPLE, OTHER, OPS };

static const char *const OP_NAME[OPS] = {"embed",   "norm", "q,k,v", "rope+store", "attention", "o",
                                         "gate,up", "down", "head",  "sample",     "other"};

static const struct kernels *kn;
static uint64_t spent[OPS], since;
static enum op doing = OTHER;

static void enter(const struct kthread *t, enum op op)
{
    if (t->id) return;
    uint64_t now = __rdtsc();
    spent[doing] += now - since;
    since = now, doing = op;
}

static void do_embed(struct kthread *t, const struct embed *e)
{
    enter(t, EMBED), kn->embed(t, e);
}

static void do_norm(struct kthread *t, const float *x, const int *row_of, int rows, int k, const float *weight,
                    float eps, struct act *out)
{
    enter(t, NORM), kn->rmsnorm(t, x, row_of, rows, k, weight, eps, out);
}

static void do_matmul(struct kthread *t, const struct mm *m)
{
    static const enum op of[] = {[LM_Q] = QKV, [LM_O] = O, [LM_GATE] = GATE_UP, [LM_DOWN] = DOWN};
    enter(t, m->out[0].module == MM_HEAD ? HEAD : of[m->out[0].module]), kn->matmul(t, m);
}

static void do_rope(struct kthread *t, const struct attn *a)
{
    enter(t, ROPE), kn->rope_store(t, a);
}

static void do_attention(struct kthread *t, const struct attn *a, struct act *out)
{
    enter(t, ATTENTION), kn->attention(t, a, out);
}

/* --- a step --- */

static struct world {
    struct model *m;
    struct kernels table;
    struct pool *pool;
    struct kv_pool kv;
    struct forward *f;
    struct sampler *sampler[POOL_THREADS_MAX];
    int page[SEQS_MAX][ROWS_MAX / KV_PAGE];
    int nlogits;
} world;

static void sample(struct kthread *t, void *u, const float *logits)
{
    static const struct sample_params greedy = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .logprobs = -1};
    (void)u, enter(t, SAMPLE);
    pool_claim_begin(t);
    for (int i; (i = pool_claim(t, world.nlogits, 1)) >= 0;) {
        struct sample out;
        sample_token(world.sampler[t->id], logits + (size_t)i * (size_t)world.m->vocab,
                     &(struct sample_input){.p = &greedy}, &out);
    }
    pool_barrier(t);
    enter(t, OTHER);
}

static void run(int seqs, int rows, int context)
{
    int32_t token[ROWS_MAX];
    struct attn_seq seq[SEQS_MAX];
    int wanted[SEQS_MAX];
    for (int i = 0; i < seqs * rows; i++) token[i] = 100 + i * 7;
    for (int i = 0; i < seqs; i++) {
        seq[i] = (struct attn_seq){i * rows, rows, context - rows, world.page[i]};
        wanted[i] = i * rows + rows - 1;
    }
    struct forward_batch b = {.rows = seqs * rows,
                              .token = token,
                              .nseq = seqs,
                              .seq = seq,
                              .nlogits = seqs,
                              .logit_row = wanted,
                              .after = sample};
    world.nlogits = seqs;
    since = __rdtsc(), doing = OTHER;
    forward_run(world.f, &b);
    uint64_t now = __rdtsc();
    spent[doing] += now - since;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void bench(int seqs, int rows, int context, double ticks_a_us)
{
    static uint64_t each[OPS + 1][STEPS];
    int steps = rows > 1 ? STEPS / 4 : STEPS;
    run(seqs, rows, context);
    for (int n = 0; n < steps; n++) {
        memset(spent, 0, sizeof spent);
        run(seqs, rows, context);
        each[OPS][n] = 0;
        for (int o = 0; o < OPS; o++) each[OPS][n] += each[o][n] = spent[o];
    }
    for (int o = 0; o <= OPS; o++) qsort(each[o], (size_t)steps, sizeof *each[o], by_value);
    double all = (double)each[OPS][steps / 2];
    printf("%3d x %-3d at %-3d %8.0f us:", seqs, rows, context, all / ticks_a_us);
    for (int o = 0; o < OPS; o++)
        printf(" %s %.0f (%.1f%%)", OP_NAME[o], (double)each[o][steps / 2] / ticks_a_us,
               100 * (double)each[o][steps / 2] / all);
    printf("\n");
}

static double measure_ticks(void)
{
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    uint64_t start = __rdtsc();
    do clock_gettime(CLOCK_MONOTONIC, &b);
    while ((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec < 20000000);
    return (double)(__rdtsc() - start) / ((double)((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec) / 1e3);
}

static void prepare(const char *path, enum kv_type type)
{
    struct err e = {0};
    int64_t page;
    if (model_load(&world.m, path, NULL, PREC_FAST, 2048, &e)) goto bad;
    page = (int64_t)kv_page_bytes(type, world.m->kv_heads, world.m->head_dim) * world.m->layers;
    kn = kernels_pick(getenv("WEFT_KERNELS"), PREC_FAST);
    world.table = *kn;
    world.table.embed = do_embed, world.table.rmsnorm = do_norm, world.table.matmul = do_matmul;
    world.table.rope_store = do_rope, world.table.attention = do_attention;
    if (pool_new(&world.pool, 0, &e) ||
        kv_pool_init_as(&world.kv, world.m, type, page * SEQS_MAX * ROWS_MAX / KV_PAGE, 1, &e) ||
        forward_new(&world.f, world.m, &world.table, world.pool, &world.kv.cache, ROWS_MAX, SEQS_MAX, 1, &e))
        goto bad;
    for (int i = 0; i < SEQS_MAX * ROWS_MAX / KV_PAGE; i++)
        world.page[i / (ROWS_MAX / KV_PAGE)][i % (ROWS_MAX / KV_PAGE)] = i;
    for (int i = 0; i < pool_threads(world.pool); i++) world.sampler[i] = sampler_new(world.m->vocab);
    return;
bad:
    printf("bench_step: %s\n", e.msg);
    exit(1);
}

int main(int argc, char **argv)
{
    const char *path = getenv("WEFT_MODEL");
    if (!path) {
        printf("bench_step: WEFT_MODEL names no model\n");
        return 0;
    }
    prepare(path, argc > 1 && !strcmp(argv[1], "int8") ? KV_INT8 : KV_BF16);
    double ticks = measure_ticks();
    static const int SEQS[] = {1, 8, 16};
    for (int context = 64; context <= 512; context *= 8)
        for (int i = 0; i < 3; i++) bench(SEQS[i], 1, context, ticks);
    bench(1, 64, 64, ticks);
    bench(1, 512, 512, ticks);
    return 0;
}
