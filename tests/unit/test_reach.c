/* Tests of positions beyond what a base's files say: scalings that are asked for, against the same scaling in config.json and against
 * float64 at 131,072 positions; windows with sinks; sequences that give pages back: the answers of the same model with all pages kept, bit
 * for bit, in memory that the window bounds, alone and beside others, with prefix cache, preemption and guesses. */
#include "engine/kv.h"
#include "engine/model_family.h"
#include "kernels/kv.h"
#include "tests/unit/test_sched.h"
#include <jansson.h>

#define FAR 131072
#define WINDOW 48
#define SINKS 4

static struct tiny_engine t;

/* The tiny model, of a context of 256, opened with `reach`; no scheduler yet. */
static void open_reach(enum tiny_type type, enum precision prec, int max_context, const struct model_reach *reach)
{
    char path[96];
    struct err e = {0};
    struct model *m;
    tiny_open(&t, type, prec, &many_slots);
    snprintf(path, sizeof path, "%s/model.gguf", t.folder);
    const struct model_options o = {.name = "tiny", .prec = prec, .max_context = max_context, .reach = *reach, .keep_mapped = true};
    if (model_open(&m, path, &o, &e)) fail_msg("%s", e.msg);
    lora_set_free(t.loras);
    model_free(t.m);
    t.m = m;
    struct lora_options lo = many_slots;
    lo.metrics = t.metrics;
    if (lora_set_new(&t.loras, m, &lo, &e)) fail_msg("%s", e.msg);
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
}

static enum err_code try_reach(int max_context, const struct model_reach *reach, struct model **m)
{
    char path[96];
    struct err e = {0};
    snprintf(path, sizeof path, "%s/model.gguf", t.folder);
    const struct model_options o = {.name = "tiny", .prec = PREC_FAST, .max_context = max_context, .reach = *reach, .keep_mapped = true};
    return model_open(m, path, &o, &e) ? e.code : ERR_NONE;
}

/* --- rope --- */

static void spec_of(const char *config, const struct model_reach *reach, struct rope_spec *r)
{
    struct meta c;
    struct err e = {0};
    json_t *j = json_loads(config, 0, NULL);
    assert_non_null(j);
    if (family_of_config(j, j, &c, &e) || rope_read(&c, NULL, 8192, 64, false, r, &e) || reach_rope(reach, 8192, r, &e)) fail_msg("%s", e.msg);
    json_decref(j);
}

#define PLAIN "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"rope_theta\":100000.0"

static void test_a_scaling_that_is_asked_for_is_the_one_of_config_json(void **state)
{
    (void)state;
    static const struct {
        const char *config;
        struct model_reach reach;
        int context;
    } row[] = {
        {"{" PLAIN ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":16.0}}", {.scaling = "yarn", .factor = 16}, FAR},
        {"{" PLAIN ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8.0,\"original_max_position_embeddings\":2048}}",
         {.scaling = "yarn", .factor = 8, .original = 2048}, 16384},
        {"{" PLAIN ",\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}}", {.scaling = "linear", .factor = 4}, 32768},
        {"{" PLAIN "}", {.scaling = "none"}, 8192},
        {"{" PLAIN "}", {.scaling = ""}, 8192},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct rope_spec want, got;
        float a[32], b[32];
        spec_of(row[i].config, NULL, &want);
        spec_of("{" PLAIN "}", &row[i].reach, &got);
        rope_frequencies(&want, 8192, 64, a);
        rope_frequencies(&got, 8192, 64, b);
        assert_memory_equal(a, b, sizeof a);
        assert_true(want.attention == got.attention);
        assert_int_equal(got.reach, row[i].context);
        assert_int_equal(got.normal, row[i].context);
        spec_of(row[i].config, &(struct model_reach){.scaling = "none"}, &got); /* and takes the place of the files' */
        assert_int_equal(got.type, ROPE_PLAIN);
    }
    struct rope_spec r;
    spec_of("{" PLAIN "}", &(struct model_reach){.theta = 5e6}, &r);
    assert_true(r.base == 5e6 && r.reach == 8192);
}

/* Peng et al. 2023, in double: what the table holds at positions up to the last. */
static void test_yarn_angles_at_131072_positions_are_those_of_float64(void **state)
{
    (void)state;
    struct model *m;
    tiny_open(&t, TINY_F32, PREC_EXACT, &many_slots);
    const int hd = tiny_dim.head_dim, own = tiny_dim.context;
    const double factor = (double)FAR / own, base = 10000, att = 0.1 * log(factor) + 1;
    const struct model_reach reach = {.scaling = "yarn", .factor = factor};
    assert_int_equal(try_reach(0, &reach, &m), ERR_NONE);
    assert_int_equal(m->max_context, FAR);
    double low = floor(hd * log(own / (32 * 2 * M_PI)) / (2 * log(base))), high = ceil(hd * log(own / (2 * M_PI)) / (2 * log(base)));
    low = fmax(low, 0), high = fmin(high, hd - 1);
    for (int i = 0; i < hd / 2; i++) {
        double f = pow(base, -2.0 * i / hd), keep = 1 - fmin(fmax((i - low) / (high - low), 0), 1);
        f = f / factor * (1 - keep) + f * keep;
        for (int pos = 0; pos < FAR; pos += pos < 4096 ? 1 : 977) {
            const float *at = m->rope + ((size_t)pos * (size_t)hd / 2 + (size_t)i) * 2;
            double off = att * (pos * f * 3e-7 + 3e-7); /* the angle is rounded to float32, as transformers does */
            if (fabs(at[0] - att * cos(pos * f)) > off || fabs(at[1] - att * sin(pos * f)) > off)
                fail_msg("position %d, pair %d: %g %g", pos, i, (double)at[0], (double)at[1]);
        }
    }
    model_free(m);
    tiny_close(&t);
}

static void test_what_would_be_passed_over_is_refused(void **state)
{
    (void)state;
    struct model *m;
    static const struct {
        int context;
        struct model_reach reach;
    } bad[] = {
        {0, {.factor = 4}},
        {0, {.scaling = "none", .original = 128}},
        {0, {.scaling = "yarn"}},
        {0, {.scaling = "yarn", .factor = 1}},
        {0, {.scaling = "ntk", .factor = 4}},
        {257, {0}},
        {1025, {.scaling = "yarn", .factor = 4}},
        {FAR, {.window = 253, .sinks = 4}}, /* farther apart than the base was made for */
    };
    tiny_open(&t, TINY_F32, PREC_EXACT, &many_slots);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(try_reach(bad[i].context, &bad[i].reach, &m), ERR_USAGE);
    assert_int_equal(try_reach(FAR, &(struct model_reach){.window = 252, .sinks = 4}, &m), ERR_NONE);
    model_free(m);
    tiny_close(&t);
}

/* --- windows --- */

static const struct model_reach windowed = {.window = WINDOW, .sinks = SINKS};
static const struct sched_options all_kept = {.max_running = 8, .max_waiting = 64, .step_tokens = 32, .threads = 2};

static struct sched_options evicting(int pages, bool prefix_cache)
{
    struct sched_options o = all_kept;
    o.kv_evict = true;
    o.prefix_cache = prefix_cache;
    o.kv_bytes = pages ? (int64_t)kv_bytes_of(t.m, kv_type_of(t.m->prec)) * pages : 0;
    return o;
}

static void restart(const struct sched_options *o)
{
    if (t.s) tiny_stop(&t);
    tiny_start(&t, o);
}

/* A prompt longer than test_sched.h's. */
static enum err_code submit_long(const int32_t *prompt, int n, int max, struct told *out)
{
    struct err e = {0};
    struct gen_request q = {.prompt = prompt, .nprompt = n, .tenant = "", .weight = 1, .on_event = told_on_event, .user = out};
    q.p = (struct gen_params){.max_tokens = max, .ignore_eos = true, .sample = {.top_p = 1, .logprobs = 0}};
    memset(out, 0, sizeof *out);
    sched_submit(t.s, &q, &out->r.gen, &e);
    return e.code;
}

static void ask_long(const int32_t *prompt, int n, int max, struct told *out)
{
    assert_int_equal(submit_long(prompt, n, max, out), ERR_NONE);
    tiny_finish(&out->r);
    if (out->r.finish == FINISH_ERROR) fail_msg("%s", out->r.err.msg);
}

static int32_t *make_prompt(int n, uint64_t seed)
{
    int32_t *p = malloc((size_t)n * sizeof *p);
    assert_non_null(p);
    for (int i = 0; i < n; i++) p[i] = (int32_t)((tiny_uniform(seed, 90, 0, i) + 1) / 2 * 256);
    return p;
}

static void test_a_short_text_is_answered_as_without_a_window(void **state)
{
    (void)state;
    static struct told plain, seen;
    int32_t *p = make_prompt(WINDOW + SINKS - 8, 5);
    open_all(&t, TINY_F32, PREC_EXACT, &all_kept);
    ask_long(p, WINDOW + SINKS - 8, 8, &plain);
    tiny_close(&t);
    open_reach(TINY_F32, PREC_EXACT, 2048, &windowed);
    struct sched_options o = evicting(0, false);
    restart(&o);
    ask_long(p, WINDOW + SINKS - 8, 8, &seen);
    assert_same_answer(&plain, &seen);
    ask_long(p, WINDOW + SINKS - 8, 40, &seen); /* past the window it goes on */
    assert_int_equal(seen.r.n, 40);
    free(p);
    tiny_close(&t);
}

static void test_answers_are_those_with_all_pages_kept_bit_for_bit(void **state)
{
    (void)state;
    static struct told kept, given;
    static const int length[] = {1, 15, 48, 51, 52, 53, 63, 64, 65, 100, 333, 1000};
    static const struct {
        enum tiny_type type;
        enum precision prec;
        enum kv_type kv;
    } row[] = {{TINY_F32, PREC_EXACT, KV_F32}, {TINY_Q8_0, PREC_FAST, KV_BF16}, {TINY_Q4_1, PREC_FAST, KV_INT8}};
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        open_reach(row[r].type, row[r].prec, 2048, &windowed);
        for (size_t i = 0; i < sizeof length / sizeof *length; i++) {
            int32_t *p = make_prompt(length[i], 70 + i);
            struct sched_options o = all_kept;
            o.kv_type = row[r].kv;
            restart(&o);
            ask_long(p, length[i], 90, &kept);
            o = evicting(0, true);
            o.kv_type = row[r].kv;
            o.speculate = i % 2 ? 3 : 0;
            restart(&o);
            ask_long(p, length[i], 90, &given);
            assert_same_answer(&kept, &given);
            tiny_assert_idle(&t);
            free(p);
        }
        tiny_close(&t);
    }
}

/* Pages that 131,072 positions take: what a window, the sinks and a step need, and no more. */
static void test_131072_positions_fit_the_pages_of_a_window(void **state)
{
    (void)state;
    static struct told out;
    int32_t *p = make_prompt(FAR - 20, 9);
    open_reach(TINY_Q8_0, PREC_FAST, FAR, &windowed);
    const struct kv_keep keep = {WINDOW, SINKS};
    int pages = kv_keep_most(&keep, FAR, all_kept.step_tokens);
    assert_in_range(pages, WINDOW / KV_PAGE + 1, 12);
    struct sched_options o = evicting(pages, false);
    o.kv_evict = false;
    restart(&o);
    assert_int_equal(submit_long(p, FAR - 20, 20, &out), ERR_CONTEXT_LENGTH);
    o = evicting(pages, false);
    o.step_tokens = 32;
    restart(&o);
    struct sched_state s;
    sched_get_state(t.s, &s);
    assert_int_equal(s.max_tokens, FAR);
    ask_long(p, FAR - 20, 20, &out);
    assert_int_equal(out.r.n, 20);
    sched_get_state(t.s, &s);
    assert_int_equal(s.preemptions, 0);
    tiny_assert_idle(&t);
    free(p);
    tiny_close(&t);
}

static void test_a_beginning_is_found_again_with_the_pages_of_its_window_alone(void **state)
{
    (void)state;
    static struct told a, b, c;
    enum { N = 500, PAGES = 24 }; /* far fewer than the prompt has */
    int32_t *p = make_prompt(N, 21);
    open_reach(TINY_F32, PREC_EXACT, 2048, &windowed);
    restart(&all_kept);
    ask_long(p, N, 30, &a);
    struct sched_options o = evicting(PAGES, true);
    restart(&o);
    ask_long(p, N, 30, &b);
    assert_int_equal(b.r.counts.cached, 0);
    assert_same_answer(&a, &b);
    ask_long(p, N, 30, &c);
    assert_true(c.r.counts.cached >= N / 2); /* by its end, whose beginning is gone */
    assert_same_answer(&a, &c);
    tiny_assert_idle(&t);
    free(p);
    tiny_close(&t);
}

/* Twelve at once on pages for three: adapters, sums, salts, beginnings in common. */
static void test_beside_others_and_after_preemption_answers_are_the_same(void **state)
{
    (void)state;
    enum { MANY = 12, N = 180 };
    static struct told alone[MANY], beside[MANY];
    struct want w[MANY];
    open_reach(TINY_Q8_0, PREC_FAST, 2048, &windowed);
    for (int i = 0; i < MANY; i++)
        w[i] = (struct want){.family = 40 + (uint64_t)(i % 2), .seed = 300 + (uint64_t)i, .shared = i % 3 * 60, .own = N - i % 3 * 60, .max = 70,
                             .adapter = {i % 4 ? i % ADAPTERS + 1 : 0}};
    restart(&all_kept);
    for (int i = 0; i < MANY; i++) want_ask(&t, &w[i], &alone[i]);
    for (int round = 0; round < 2; round++) {
        struct sched_options o = evicting(26, round > 0);
        restart(&o);
        want_ask_all(&t, w, beside, MANY);
        for (int i = 0; i < MANY; i++) assert_same_answer(&alone[i], &beside[i]);
        struct sched_state s;
        sched_get_state(t.s, &s);
        assert_true(s.preemptions > 0);
        tiny_assert_idle(&t);
    }
    tiny_close(&t);
}

/* --- pages --- */

static void test_pages_are_kept_by_the_widest_window_and_all_where_a_layer_sees_all(void **state)
{
    (void)state;
    struct kv_keep k;
    tiny_open(&t, TINY_F32, PREC_EXACT, &many_slots);
    k = kv_keep_of(t.m);
    assert_int_equal(k.window, 0);
    t.m->layer[0].window = 64;
    assert_int_equal(kv_keep_of(t.m).window, 0);
    t.m->layer[1].window = 100, t.m->layer[1].sinks = 20;
    k = kv_keep_of(t.m);
    assert_int_equal(k.window, 100);
    assert_int_equal(k.sinks, 20);
    assert_int_equal(kv_keep_sinks(&k), 2);
    assert_int_equal(kv_keep_first(&k, 119), 2);
    assert_int_equal(kv_keep_first(&k, 131), 2);
    assert_int_equal(kv_keep_first(&k, 147), 3); /* sees 48 .. 147 */
    assert_int_equal(kv_keep_most(&k, 64, 32), 4);
    assert_int_equal(kv_keep_most(&(struct kv_keep){0}, FAR, 32), FAR / KV_PAGE);
    tiny_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_scaling_that_is_asked_for_is_the_one_of_config_json),
        cmocka_unit_test(test_yarn_angles_at_131072_positions_are_those_of_float64),
        cmocka_unit_test(test_what_would_be_passed_over_is_refused),
        cmocka_unit_test(test_a_short_text_is_answered_as_without_a_window),
        cmocka_unit_test(test_answers_are_those_with_all_pages_kept_bit_for_bit),
        cmocka_unit_test(test_131072_positions_fit_the_pages_of_a_window),
        cmocka_unit_test(test_a_beginning_is_found_again_with_the_pages_of_its_window_alone),
        cmocka_unit_test(test_beside_others_and_after_preemption_answers_are_the_same),
        cmocka_unit_test(test_pages_are_kept_by_the_widest_window_and_all_where_a_layer_sees_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
