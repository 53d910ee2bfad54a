/* choose*.cu against engine/sampler.c: the same tokens for the same logits, parameters, seed and index; the same
 * log-probabilities and alternatives; a row alone and among others; what is not finite, skipped, padding. */
#include "engine/sampler.h"
#include "kernels/cuda/ops.h"
#include "tests/simt/simt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_MAX 40

/* Rows of logits; a step that chooses from them. */
struct step {
    int rows, vocab, tokens; /* between rows; the rest of each is poison */
    float *x;
    struct cuda_choice choice[ROWS_MAX];
    struct cuda_chosen *out;
};

/* About normal, times `spread`; whole: rounded, so that there are ties. */
static void fill_row(float *x, int n, uint64_t stream, float spread, bool whole)
{
    float *noise = malloc(4 * (size_t)n * sizeof *noise);
    simt_fill_f32(noise, 4 * (size_t)n, stream, 1);
    for (int i = 0; i < n; i++) {
        float v = (noise[4 * i] + noise[4 * i + 1] + noise[4 * i + 2] + noise[4 * i + 3]) * 0.87f * spread;
        x[i] = whole ? rintf(v) : v;
    }
    free(noise);
}

static struct step step_new(int rows, int vocab, int tokens)
{
    struct step s = {.rows = rows, .vocab = vocab, .tokens = tokens};
    s.x = simt_buffer("logits", (size_t)rows * (size_t)vocab * sizeof *s.x);
    return s;
}

static float *row_of(const struct step *s, int row)
{
    return s->x + (size_t)row * (size_t)s->vocab;
}

/* Rows [first, first + n) in a bucket of `bucket`. */
static struct cuda_chosen *run_rows(const struct step *s, int first, int n, int bucket)
{
    int32_t count[COUNTS] = {0};
    count[COUNT_LOGITS] = n;
    struct cuda_choice *choice = simt_buffer("choice", (size_t)bucket * sizeof *choice);
    memcpy(choice, s->choice + first, (size_t)n * sizeof *choice);
    simt_seal(choice);
    struct op_choose op = {.logits = bucket, .vocab = s->vocab, .tokens = s->tokens, .x = row_of(s, first)};
    op.meta.count = simt_sealed("count", count, sizeof count);
    op.meta.choice = choice;
    op.scratch = simt_buffer("scratch", (size_t)bucket * choose_scratch(s->vocab) * sizeof *op.scratch);
    op.out = simt_buffer("chosen", (size_t)bucket * sizeof *op.out);
    SIMT_CHECK(launch_choose(&op, NULL) == 0, "refused");
    return op.out;
}

static void run(struct step *s)
{
    simt_seal(s->x);
    s->out = run_rows(s, 0, s->rows, s->rows);
}

/* The CPU's parameters for a row. */
static struct sample_params params_of(const struct cuda_choice *c)
{
    return (struct sample_params){.temperature = c->how == CHOOSE_DRAW ? 1.0f / c->inv_t : 0,
                                  .top_p = c->top_p,
                                  .top_k = c->top_k,
                                  .min_p = c->min_p,
                                  .typical_p = 1,
                                  .repetition_penalty = 1,
                                  .seed = c->seed,
                                  .logprobs = c->tell - 1};
}

static void check_row(const struct step *s, struct sampler *cpu, int row)
{
    const struct cuda_choice *c = &s->choice[row];
    const struct cuda_chosen *got = &s->out[row];
    struct sample_params p = params_of(c);
    struct sample_input in = {.p = &p, .index = c->index};
    struct sample want;
    int rc = c->how == CHOOSE_GIVEN ? sample_given(cpu, row_of(s, row), &p, (int32_t)c->given, &want)
                                    : sample_token(cpu, row_of(s, row), &in, &want);
    SIMT_CHECK(got->finite == (rc == 0), "row %d: finite is %d", row, got->finite);
    if (rc) return;
    SIMT_CHECK(got->id == want.id, "row %d: token %d, not %d", row, got->id, want.id);
    if (c->tell == 0) return;
    double near = 2e-6 * (fabs((double)want.logprob) + 1);
    SIMT_CHECK(fabs((double)got->logprob - (double)want.logprob) <= near, "row %d: log-probability %g, not %g", row,
               (double)got->logprob, (double)want.logprob);
    SIMT_CHECK(got->ntop == want.ntop, "row %d: %d alternatives, not %d", row, got->ntop, want.ntop);
    for (int i = 0; i < want.ntop; i++) {
        SIMT_CHECK(got->top[i].id == want.top[i].id, "row %d: alternative %d is %d, not %d", row, i, got->top[i].id,
                   want.top[i].id);
        near = 2e-6 * (fabs((double)want.top[i].logprob) + 1);
        SIMT_CHECK(fabs((double)got->top[i].logprob - (double)want.top[i].logprob) <= near,
                   "row %d: alternative %d has %g, not %g", row, i, (double)got->top[i].logprob,
                   (double)want.top[i].logprob);
    }
}

static void check(const struct step *s)
{
    struct sampler *cpu = sampler_new(s->tokens);
    for (int row = 0; row < s->rows; row++) check_row(s, cpu, row);
    sampler_free(cpu);
}

/* --- what is asked for --- */

static const struct {
    float temperature;
    int top_k;
    float top_p, min_p, spread;
    int tell;
    bool whole;
} ASKED[] = {
    {0, 0, 1, 0, 3, 0, false},       {0, 0, 1, 0, 3, 21, true},          {1, 0, 1, 0, 1, 0, false},
    {1, 0, 1, 0, 6, 1, false},       {0.5f, 0, 1, 0, 2, 6, true},        {1, 1, 1, 0, 3, 0, true},
    {1, 5, 1, 0, 1, 0, false},       {1, 40, 1, 0, 9, 0, false},         {0.7f, 40, 0.9f, 0, 3, 4, false},
    {1, 0, 0.1f, 0, 2, 0, true},     {1, 0, 0.9f, 0, 2, 0, false},       {1.5f, 0, 0.999f, 0, 2, 0, false},
    {2, 0, 0.95f, 0, 0.3f, 0, true}, {1, 0, 1, 0.1f, 2, 0, false},       {1, 0, 1, 1e-5f, 4, 0, false},
    {1, 200, 1, 0, 1, 0, false},     {1, 250, 0.98f, 1e-6f, 5, 0, true}, {0.3f, 0, 0.8f, 0.05f, 4, 11, false},
    {1, 0, 1, 1.5f, 1, 0, true},     {0.01f, 0, 0.5f, 0, 3, 0, false},
};
#define ASKED_N ((int)(sizeof ASKED / sizeof *ASKED))

static struct cuda_choice choice_of(int i, uint64_t seed)
{
    struct cuda_choice c = {.how = ASKED[i].temperature > 0 ? CHOOSE_DRAW : CHOOSE_GREEDY,
                            .top_k = ASKED[i].top_k,
                            .inv_t = ASKED[i].temperature > 0 ? 1.0f / ASKED[i].temperature : 1,
                            .top_p = ASKED[i].top_p,
                            .min_p = ASKED[i].min_p,
                            .tell = ASKED[i].tell,
                            .seed = seed * 977 + (uint64_t)i,
                            .index = seed % 7};
    return c;
}

static struct step asked_step(int vocab, int tokens, int from, int n, uint64_t seed)
{
    struct step s = step_new(n, vocab, tokens);
    for (int row = 0; row < n; row++) {
        int i = (from + row) % ASKED_N;
        fill_row(row_of(&s, row), tokens, seed * 100 + (uint64_t)row, ASKED[i].spread, ASKED[i].whole);
        s.choice[row] = choice_of(i, seed + (uint64_t)(row / ASKED_N));
    }
    return s;
}

/* --- cases --- */

struct shape {
    int vocab, tokens, from, rows;
};

static void tokens_are_the_cpu_samplers(void *arg)
{
    const struct shape *shape = arg;
    struct step s = asked_step(shape->vocab, shape->tokens, shape->from, shape->rows, 11 + simt_seed());
    run(&s);
    check(&s);
}

static void ties_go_to_the_smallest_id(void *arg)
{
    (void)arg;
    enum { N = 600 };
    struct step s = step_new(4, N, N);
    for (int i = 0; i < N; i++) {
        row_of(&s, 0)[i] = 1.5f;                                              /* all equal */
        row_of(&s, 1)[i] = i == 300 ? -0.0f : i == 301 || i == 5 ? 0.0f : -1; /* both zeros are the largest */
        row_of(&s, 2)[i] = i == 599 || i == 511 ? 7.0f : (float)(i % 5);
        row_of(&s, 3)[i] = -1.5f;
    }
    s.choice[0] = (struct cuda_choice){.how = CHOOSE_GREEDY, .top_p = 1, .tell = 8};
    s.choice[1] = (struct cuda_choice){.how = CHOOSE_GREEDY, .top_p = 1, .tell = 4};
    s.choice[2] = (struct cuda_choice){.how = CHOOSE_GREEDY, .top_p = 1};
    s.choice[3] = (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_k = 3, .top_p = 1, .seed = 4};
    run(&s);
    check(&s);
    SIMT_CHECK(s.out[0].id == 0 && s.out[1].id == 5 && s.out[2].id == 511, "%d, %d, %d", s.out[0].id, s.out[1].id,
               s.out[2].id);
    SIMT_CHECK(s.out[3].id >= 0 && s.out[3].id < 3, "%d is not among the three smallest ids", s.out[3].id);
}

static void what_is_not_finite_is_told_and_stays_in_its_row(void *arg)
{
    (void)arg;
    enum { N = 700, ROWS = 6 };
    static const float bad[ROWS] = {0, NAN, INFINITY, -INFINITY, 0, NAN};
    struct step s = asked_step(N + 4, N, 8, ROWS, 3);
    for (int row = 0; row < ROWS; row++)
        if (bad[row] != 0) row_of(&s, row)[row == 5 ? 0 : N - 1] = bad[row];
    run(&s);
    check(&s);
    for (int row = 0; row < ROWS; row++)
        SIMT_CHECK(s.out[row].finite == (bad[row] == 0) && (s.out[row].finite || s.out[row].id == 0),
                   "row %d: finite is %d, id %d", row, s.out[row].finite, s.out[row].id);
}

static void a_row_has_the_same_bits_alone_and_among_others(void *arg)
{
    (void)arg;
    struct step s = asked_step(515, 513, 0, ASKED_N, 5);
    run(&s);
    for (int row = 0; row < s.rows; row += 3) {
        struct cuda_chosen *alone = run_rows(&s, row, 1, 1);
        simt_equal("chosen", alone, s.out + row, sizeof *alone);
    }
}

static void rows_that_are_not_asked_for_are_left_alone(void *arg)
{
    (void)arg;
    struct step s = asked_step(300, 300, 8, 4, 9);
    s.choice[1].how = CHOOSE_NOT;
    simt_seal(s.x);
    s.out = run_rows(&s, 0, 3, 4);
    struct sampler *cpu = sampler_new(s.tokens);
    check_row(&s, cpu, 0);
    check_row(&s, cpu, 2);
    simt_untouched("a row for the CPU", &s.out[1], sizeof *s.out);
    simt_untouched("padding", &s.out[3], sizeof *s.out);
}

static void given_tokens_have_the_cpus_log_probabilities(void *arg)
{
    (void)arg;
    struct step s = asked_step(1000, 1000, 0, 3, 21);
    for (int row = 0; row < 3; row++) {
        s.choice[row].how = CHOOSE_GIVEN;
        s.choice[row].given = 333 * (row + 1);
        s.choice[row].tell = 1 + 10 * row;
    }
    run(&s);
    check(&s);
}

static void more_than_the_list_holds_is_drawn_from_the_whole_row(void *arg)
{
    (void)arg;
    enum { N = 6000, ROWS = 5 };
    struct step s = step_new(ROWS, N, N);
    for (int row = 0; row < ROWS; row++) fill_row(row_of(&s, row), N, 40 + (uint64_t)row, 0.5f, row == 3);
    s.choice[0] = (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_p = 0.97f, .seed = 1};
    s.choice[1] = (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_p = 1, .top_k = 5000, .seed = 2};
    s.choice[2] =
        (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_p = 0.5f, .top_k = 20, .seed = 3, .tell = 6};
    s.choice[3] = (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_p = 1, .min_p = 0.01f, .seed = 4};
    s.choice[4] = (struct cuda_choice){.how = CHOOSE_GREEDY, .top_p = 1, .tell = 21};
    run(&s);
    check(&s);
}

/* All tokens are listed, the best among those that are looked at last. */
static void the_best_are_told_of_a_full_list(void *arg)
{
    (void)arg;
    enum { N = 4096 };
    struct step s = step_new(1, N, N);
    fill_row(row_of(&s, 0), N, 50, 0.5f, false);
    s.choice[0] = (struct cuda_choice){.how = CHOOSE_GREEDY, .top_p = 1, .tell = 21};
    run(&s);
    check(&s);
}

/* A seed with which the CPU takes another token than the best. */
static uint64_t seed_beyond_the_best(const float *x, int n, const struct cuda_choice *c)
{
    struct sampler *cpu = sampler_new(n);
    struct cuda_choice try = *c;
    struct sample got = {0};
    for (try.seed = simt_seed() * 1000; got.id == 0; try.seed++) {
        struct sample_params p = params_of(&try);
        struct sample_input in = {.p = &p};
        SIMT_CHECK(sample_token(cpu, x, &in, &got) == 0, "not finite");
    }
    sampler_free(cpu);
    return try.seed - 1;
}

/* Beside the best token 5,000 that are each some 5,000 times less likely: below what the list goes by. */
static void a_head_that_goes_on_among_unlikely_tokens_is_drawn_as_a_whole(void *arg)
{
    (void)arg;
    enum { N = 60000, LIKE = 5000, ROWS = 3 };
    struct step s = step_new(ROWS, N, N);
    s.choice[0] = (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_p = 1, .top_k = 200, .tell = 21};
    s.choice[1] = (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_p = 0.9f, .top_k = 0};
    s.choice[2] = (struct cuda_choice){.how = CHOOSE_DRAW, .inv_t = 1, .top_p = 1, .min_p = 1e-4f};
    for (int row = 0; row < ROWS; row++) {
        float *x = row_of(&s, row);
        simt_fill_f32(x, N, 70 + (uint64_t)row, 0.1f);
        for (int i = 0; i < N; i++) x[i] -= i % (N / LIKE) ? 30 : 8.5f;
        x[0] = 0;
        s.choice[row].seed = seed_beyond_the_best(x, N, &s.choice[row]);
    }
    run(&s);
    check(&s);
}

static void shapes_beyond_the_bounds_are_refused(void *arg)
{
    (void)arg;
    struct op_choose op = {.logits = 1, .vocab = 1 << 20, .tokens = 1 << 20};
    SIMT_CHECK(launch_choose(&op, NULL) == RT_BAD_SHAPE, "taken");
    op.vocab = op.tokens - 1;
    SIMT_CHECK(launch_choose(&op, NULL) == RT_BAD_SHAPE, "taken");
}

int main(void)
{
    static const struct shape tiny = {1, 1, 0, ASKED_N}, odd = {257, 257, 0, ASKED_N}, cut = {1003, 990, 3, ASKED_N},
                              small = {32, 32, 0, ASKED_N}, large = {151937, 151936, 7, 4};
    simt_case("tokens are the CPU sampler's: vocabulary 1", tokens_are_the_cpu_samplers, (void *)&tiny);
    simt_case("tokens are the CPU sampler's: 32", tokens_are_the_cpu_samplers, (void *)&small);
    simt_case("tokens are the CPU sampler's: 257", tokens_are_the_cpu_samplers, (void *)&odd);
    simt_case("tokens are the CPU sampler's: 990 of 1003", tokens_are_the_cpu_samplers, (void *)&cut);
    if (!simt_finds_races())
        simt_case("tokens are the CPU sampler's: 151936 of 151937", tokens_are_the_cpu_samplers, (void *)&large);
    if (!simt_finds_races())
        simt_case("a head that goes on among unlikely tokens is drawn as a whole",
                  a_head_that_goes_on_among_unlikely_tokens_is_drawn_as_a_whole, NULL);
    simt_case("ties go to the smallest id", ties_go_to_the_smallest_id, NULL);
    simt_case("what is not finite is told and stays in its row", what_is_not_finite_is_told_and_stays_in_its_row, NULL);
    simt_case("a row has the same bits alone and among others", a_row_has_the_same_bits_alone_and_among_others, NULL);
    simt_case("rows that are not asked for are left alone", rows_that_are_not_asked_for_are_left_alone, NULL);
    simt_case("given tokens have the CPU's log-probabilities", given_tokens_have_the_cpus_log_probabilities, NULL);
    simt_case("more than the list holds is drawn from the whole row",
              more_than_the_list_holds_is_drawn_from_the_whole_row, NULL);
    simt_case("the best are told of a full list", the_best_are_told_of_a_full_list, NULL);
    simt_case("shapes beyond the bounds are refused", shapes_beyond_the_bounds_are_refused, NULL);
    simt_case_without("choose", tokens_are_the_cpu_samplers, (void *)&odd);
    simt_case_without("choose", the_best_are_told_of_a_full_list, NULL);
    simt_case_without("choose", more_than_the_list_holds_is_drawn_from_the_whole_row, NULL);
    return simt_done();
}
