/* Tests of structured output through the scheduler: every answer is one that the grammar allows, alone, in a crowd, preempted and guessed at. */
#include "base/log.h"
#include "engine/constrain.h"
#include "tests/unit/test_sched.h"
#include <regex.h>

static struct tiny_engine t;
static struct constrain *c;

static const struct sched_options roomy = {.max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2};

static void open_with(const struct sched_options *o)
{
    struct err e = {0};
    open_all(&t, TINY_F32, PREC_EXACT, o);
    if (constrain_new(&c, t.m->tok, 1 << 20, &e)) fail_msg("%s", e.msg);
}

static void close_all(void)
{
    tiny_close(&t);
    constrain_free(c);
}

static struct grammar *regex_of(const char *pattern)
{
    struct grammar *g = NULL;
    struct err e = {0};
    if (grammar_regex(c, pattern, strlen(pattern), &g, &e)) fail_msg("%s", e.msg);
    return g;
}

static void test_an_answer_is_one_of_the_choices(void **state)
{
    (void)state;
    static const char *const choice[] = {"yes", "no", "perhaps"};
    static struct told a;
    struct grammar *g = NULL;
    struct err e = {0};
    bool seen[3] = {false};
    open_with(&roomy);
    if (grammar_choice(c, choice, 3, &g, &e)) fail_msg("%s", e.msg);
    for (uint64_t i = 0; i < 30; i++) {
        const struct want w = {.seed = i, .own = 9, .max = 50, .temperature = 4, .grammar = g};
        want_ask(&t, &w, &a);
        assert_int_equal(a.r.finish, FINISH_STOP);
        a.r.text[a.r.len] = 0;
        int k = 0;
        while (k < 3 && strcmp(a.r.text, choice[k]) != 0) k++;
        if (k == 3) fail_msg("\"%s\"", a.r.text);
        seen[k] = true;
    }
    assert_true(seen[0] + seen[1] + seen[2] > 1);
    const struct want cut = {.own = 9, .max = 1, .grammar = g};
    want_ask(&t, &cut, &a);
    assert_int_equal(a.r.finish, FINISH_LENGTH);
    grammar_unref(g);
    tiny_assert_idle(&t);
    close_all();
}

#define CROWD 24

static void test_masked_answers_are_the_same_alone_preempted_cached_and_guessed(void **state)
{
    (void)state;
    static const char *const pattern[] = {"[ab]{20,90}", "(xy|xz)+!", "[0-9]{3}-[0-9]{4}", "(ja )*nein"};
    static struct told alone[CROWD], together[CROWD];
    struct grammar *g[4];
    struct want w[CROWD];
    regex_t re[4];
    open_with(&roomy);
    for (int i = 0; i < 4; i++) {
        char whole[64];
        g[i] = regex_of(pattern[i]);
        snprintf(whole, sizeof whole, "^(%s)$", pattern[i]);
        assert_int_equal(regcomp(&re[i], whole, REG_EXTENDED | REG_NOSUB), 0);
    }
    int stopped = 0;
    for (int i = 0; i < CROWD; i++) {
        w[i] = (struct want){.family = 3,
                             .shared = i % 2 * 50,
                             .seed = (uint64_t)i,
                             .own = 1 + i,
                             .max = 60,
                             .adapter = {i % 5},
                             .temperature = i % 3 ? 2 : 0,
                             .logprobs = 2,
                             .grammar = i % 6 == 5 ? NULL : g[i % 4]};
        want_ask(&t, &w[i], &alone[i]);
        alone[i].r.text[alone[i].r.len] = 0;
        stopped += alone[i].r.finish == FINISH_STOP;
        if (w[i].grammar && alone[i].r.finish == FINISH_STOP && regexec(&re[i % 4], alone[i].r.text, 0, NULL, 0))
            fail_msg("\"%s\" is not %s", alone[i].r.text, pattern[i % 4]);
    }
    assert_true(stopped > CROWD / 4);
    for (int round = 0; round < 4; round++) {
        tiny_stop(&t);
        tiny_start(&t, &(struct sched_options){.max_running = round % 2 ? 2 : 16,
                                               .max_waiting = 64,
                                               .step_tokens = 32,
                                               .threads = 2,
                                               .prefix_cache = true,
                                               .speculate = round % 2 ? 8 : 0,
                                               .kv_bytes = round >= 2 ? pages_bytes(PREC_EXACT, 14) : 0});
        want_ask_all(&t, w, together, CROWD);
        for (int i = 0; i < CROWD; i++) assert_same_answer(&together[i], &alone[i]);
        struct sched_state st;
        sched_get_state(t.s, &st);
        assert_true((st.drafted > 0) == (round % 2));
        tiny_assert_idle(&t);
    }
    for (int i = 0; i < 4; i++) {
        grammar_unref(g[i]);
        regfree(&re[i]);
    }
    close_all();
}

static void test_those_who_wait_for_a_mask_lose_nothing_but_time(void **state)
{
    (void)state;
    static struct told alone[CROWD], together[CROWD];
    struct grammar *g[CROWD];
    struct want w[CROWD];
    struct sched_options many = roomy;
    many.max_running = CROWD;
    many.threads = 1;
    open_with(&many);
    for (int i = 0; i < CROWD; i++) { /* one grammar each: no mask is known, and there is time for a few in a step */
        char pattern[64];
        snprintf(pattern, sizeof pattern, "[a-%c]{20,%d}(xy|z)+", 'b' + i % 20, 30 + i);
        g[i] = regex_of(pattern);
        w[i] = (struct want){.seed = (uint64_t)i, .own = 1 + i, .max = 50, .temperature = 2, .grammar = i ? g[i] : NULL};
    }
    want_ask_all(&t, w, together, CROWD);
    for (int i = 0; i < CROWD; i++) {
        want_ask(&t, &w[i], &alone[i]);
        assert_same_answer(&together[i], &alone[i]);
        grammar_unref(g[i]);
    }
    tiny_assert_idle(&t);
    close_all();
}

static void test_a_grammar_and_its_request_can_end_in_either_order(void **state)
{
    (void)state;
    static struct told a;
    struct grammar *g;
    open_with(&roomy);
    g = regex_of("[a-z]*");
    const struct want w = {.seed = 1,
                           .own = 5,
                           .max = 200,
                           .temperature = 3,
                           .grammar = g,
                           .bias = &(struct token_bias){2, -100},
                           .nbias = 1};
    assert_int_equal(want_submit(&t, &w, &a), ERR_NONE);
    grammar_unref(g);
    pthread_mutex_lock(&tiny_lock);
    if (!a.r.done) sched_cancel(t.s, a.r.gen);
    pthread_mutex_unlock(&tiny_lock);
    tiny_finish(&a.r);
    tiny_assert_idle(&t);
    close_all();
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_answer_is_one_of_the_choices),
        cmocka_unit_test(test_masked_answers_are_the_same_alone_preempted_cached_and_guessed),
        cmocka_unit_test(test_those_who_wait_for_a_mask_lose_nothing_but_time),
        cmocka_unit_test(test_a_grammar_and_its_request_can_end_in_either_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
