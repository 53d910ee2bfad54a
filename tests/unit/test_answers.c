/* What others' answers mean: Retry-After, a receiver's and a collector's answers, what an engine says of a request, a text, an adapter. */
#include "base/json.h"
#include "base/retry_after.h"
#include "gateway/observe/otlp_answer.h"
#include "gateway/pool/engine_answers.h"
#include "gateway/webhook/webhook_answer.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define NOW_S 784111770 /* seven seconds before the date below */

static void a_retry_after_is_seconds_or_one_of_three_dates(void **state)
{
    static const struct {
        const char *text;
        int64_t s;
    } rows[] = {
        {"0", 0}, {"7", 7}, {"007", 7}, {"61", 60}, {"99999999999999999999", 60},
        {"Sun, 06 Nov 1994 08:49:37 GMT", 7}, {"Sunday, 06-Nov-94 08:49:37 GMT", 7}, {"Sun Nov  6 08:49:37 1994", 7},
        {"Sun, 06 Nov 1994 08:49:20 GMT", 0}, {"Fri, 06 Nov 2026 08:49:37 GMT", 60},
        {"", -1}, {"soon", -1}, {"-1", -1}, {"+7", -1}, {" 7", -1}, {"7 ", -1}, {"7s", -1}, {"7.5", -1}, {"1e3", -1},
        {"Sun, 06 Nov 1994 08:49:37", -1}, {"Sun, 06 Nov 1994 08:49:37 GMT+1", -1}, {"Sun, 06 Nov 1994 08:49:37 GMTx", -1}, {"Sun, 06 Nov +994 08:49:37 GMT", -1}, {"Sun Nov  6 08:49:99", -1}, {"Sun Nov  6 08:49:37 19", -1}, {"Sun, 6 Nov 1994 08:49:37 GMT", -1}, {"Sun,06Nov1994 08:49:37 GMT", -1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (retry_after_s(rows[i].text, NOW_S, 60) != rows[i].s) fail_msg("'%s' gives %lld", rows[i].text, (long long)retry_after_s(rows[i].text, NOW_S, 60));
    assert_int_equal(retry_after_s(NULL, NOW_S, 60), -1);
}

static void only_a_whole_2xx_delivers_a_batch(void **state)
{
    static const struct {
        int status;
        bool broken;
        int events;
        enum hook_verdict v;
    } rows[] = {{200, false, 5, HOOK_DELIVERED}, {204, false, 1, HOOK_DELIVERED}, {200, true, 5, HOOK_AGAIN}, {0, true, 5, HOOK_AGAIN}, {302, false, 5, HOOK_AGAIN}, {199, false, 5, HOOK_AGAIN},
                {300, false, 5, HOOK_AGAIN}, {413, false, 2, HOOK_SMALLER}, {413, false, 1, HOOK_AGAIN}, {410, false, 5, HOOK_GONE}, {410, true, 5, HOOK_GONE}, {503, false, 5, HOOK_AGAIN}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (webhook_verdict(rows[i].status, rows[i].broken, rows[i].events) != rows[i].v) fail_msg("row %zu", i);
}

static void a_pause_doubles_up_to_its_most_and_keeps_to_retry_after(void **state)
{
    (void)state;
    assert_int_equal(webhook_pause_ms(1, 900000, 0, "", NOW_S), 500);
    assert_int_equal(webhook_pause_ms(1, 900000, 500, "", NOW_S), 1000);
    assert_int_equal(webhook_pause_ms(4, 900000, 0, "", NOW_S), 4000);
    assert_int_equal(webhook_pause_ms(4, 1000, 0, "", NOW_S), 500);
    assert_int_equal(webhook_pause_ms(INT32_MAX, 86400000, 43200000, NULL, NOW_S), 86400000);
    assert_int_equal(webhook_pause_ms(1, 900000, 0, "7", NOW_S), 7000);
    assert_int_equal(webhook_pause_ms(5, 900000, 0, "7", NOW_S), 8000);
    assert_int_equal(webhook_pause_ms(1, 900000, 0, "Sun, 06 Nov 1994 08:49:37 GMT", NOW_S), 7000);
    assert_int_equal(webhook_pause_ms(1, 900000, 0, "99999999999", NOW_S), HOOK_RETRY_AFTER_MAX_S * 1000ll);
    assert_int_equal(webhook_pause_ms(1, 900000, 0, "7 days", NOW_S), 500);
}

/* A collector that says more than it got, or nonsense, makes no counter of ours jump. */
static void no_more_spans_are_refused_than_were_sent(void **state)
{
    static const struct {
        const char *body;
        int64_t refused;
    } rows[] = {{"{\"partialSuccess\":{\"rejectedSpans\":\"3\",\"errorMessage\":\"no\"}}", 3}, {"{\"partialSuccess\":{\"rejectedSpans\":3}}", 3}, {"{\"partialSuccess\":{\"rejectedSpans\":11}}", 10},
                {"{\"partialSuccess\":{\"rejectedSpans\":\"9999999999999999999\"}}", 0}, {"{\"partialSuccess\":{\"rejectedSpans\":4611686018427387904}}", 10}, {"{\"partialSuccess\":{\"rejectedSpans\":-1}}", 0},
                {"{\"partialSuccess\":{\"rejectedSpans\":\"3x\"}}", 0}, {"{\"partialSuccess\":{\"rejectedSpans\":\"\"}}", 0}, {"{\"partialSuccess\":{}}", 0}, {"{}", 0}, {"", 0}, {"<html>", 0}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (otlp_rejected(rows[i].body, strlen(rows[i].body), 10) != rows[i].refused) fail_msg("%s", rows[i].body);
    assert_int_equal(otlp_verdict(200), OTLP_TAKEN);
    assert_int_equal(otlp_verdict(0), OTLP_AGAIN);
    assert_int_equal(otlp_verdict(503), OTLP_AGAIN);
    assert_int_equal(otlp_verdict(500), OTLP_REFUSED);
    assert_int_equal(otlp_verdict(302), OTLP_REFUSED);
}

static int receipt(const char *body, bool *runs, struct relay_counts *c)
{
    *runs = false;
    return engine_read_receipt(body, strlen(body), runs, c);
}

static void a_receipt_has_counts_or_is_none(void **state)
{
    struct relay_counts c;
    bool runs;
    (void)state;
    assert_int_equal(receipt("{\"state\":\"completed\",\"prompt_tokens\":12,\"cached_tokens\":8,\"output_tokens\":3,\"finish_reason\":\"stop\"}", &runs, &c), 0);
    assert_true(c.known && c.prompt == 12 && c.cached == 8 && c.output == 3 && !runs);
    assert_string_equal(c.finish, "stop");
    assert_int_equal(receipt("{\"state\":\"running\",\"finish_reason\":null}", &runs, &c), 0);
    assert_true(runs && c.output == 0 && !c.finish[0]);
    static const char *const none[] = {"", "[]", "{\"prompt_tokens\":-1}", "{\"output_tokens\":\"3\"}", "{\"output_tokens\":2147483648}", "{\"finish_reason\":\"0123456789abcdef\"}", "{\"state\":1}"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (receipt(none[i], &runs, &c) != -1) fail_msg("%s", none[i]);
    assert_int_equal(engine_read_tokens("{\"prompt_tokens\":5}", 19), 5);
    assert_int_equal(engine_read_tokens("{\"prompt_tokens\":-5}", 20), -1);
    assert_int_equal(engine_read_tokens("{}", 2), -1);
}

static int tested(int status, const char *body, struct engine_selftest *t, struct err *e)
{
    *e = (struct err){0};
    return engine_read_selftest(status, body, strlen(body), t, e);
}

static void a_self_test_has_a_figure_that_can_be_one(void **state)
{
    struct engine_selftest t;
    struct err e;
    (void)state;
    assert_int_equal(tested(200, "{\"max_error\":0.5,\"modules\":{\"q_proj\":0.5,\"v_proj\":0.25}}", &t, &e), 0);
    assert_true(t.ran && t.max_error == 0.5);
    assert_string_equal(t.worst, "q_proj");
    assert_int_equal(tested(200, "{\"max_error\":-1}", &t, &e), -1);
    assert_int_equal(e.code, ERR_INTERNAL);
    assert_int_equal(tested(404, "", &t, &e), 0);
    assert_false(t.ran);
    assert_int_equal(tested(404, "{\"error\":{\"code\":\"adapter_not_loaded\"}}", &t, &e), -1);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_int_equal(tested(503, "", &t, &e), -1);
    assert_int_equal(e.code, ERR_UNAVAILABLE);
    assert_int_equal(tested(500, "{\"error\":{\"code\":\"adapter_invalid\",\"message\":\"odd\"}}", &t, &e), -1);
    assert_int_equal(e.code, ERR_ADAPTER_INVALID);
    assert_non_null(strstr(e.msg, ": odd"));
}

/* What is cut inside a character is no JSON any more: the version's row would have no answer. */
static void words_of_an_engine_are_cut_between_characters(void **state)
{
    char body[600], long_word[400];
    struct engine_selftest t;
    struct err e;
    (void)state;
    for (int before = 290; before < 304; before++) {
        memset(long_word, 'x', sizeof long_word);
        memcpy(long_word + before, "\xf0\x9f\x98\x80\xf0\x9f\x98\x80", 9);
        snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\"}}", long_word);
        assert_int_equal(tested(500, body, &t, &e), -1);
        json_t *v = json_string(e.msg);
        assert_non_null(v);
        json_decref(v);
        snprintf(body, sizeof body, "{\"max_error\":1,\"modules\":{\"%s\":1}}", long_word + before - 60 - (before - 290));
        assert_int_equal(tested(200, body, &t, &e), 0);
        v = json_string(t.worst);
        assert_true(v && strlen(t.worst) >= 60);
        json_decref(v);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_retry_after_is_seconds_or_one_of_three_dates),
        cmocka_unit_test(only_a_whole_2xx_delivers_a_batch),
        cmocka_unit_test(a_pause_doubles_up_to_its_most_and_keeps_to_retry_after),
        cmocka_unit_test(no_more_spans_are_refused_than_were_sent),
        cmocka_unit_test(a_receipt_has_counts_or_is_none),
        cmocka_unit_test(a_self_test_has_a_figure_that_can_be_one),
        cmocka_unit_test(words_of_an_engine_are_cut_between_characters),
    };
    return cmocka_run_group_tests_name("answers", tests, NULL, NULL);
}
