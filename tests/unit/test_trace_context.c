/* Trace contexts: what is to the letter is read, whatever else counts as absent. */
#include "base/trace_context.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"
#define PARENT "00-" TRACE "-" SPAN "-01"

static void a_traceparent_is_read_and_said_on(void **state)
{
    struct trace_context c;
    char text[TRACEPARENT_LEN], trace[TRACE_HEX];
    (void)state;
    assert_true(traceparent_parse(PARENT, &c));
    assert_true(c.sampled);
    assert_int_equal(c.trace[0], 0x4b);
    assert_int_equal(c.span[7], 0xb7);
    traceparent_print(&c, text);
    assert_string_equal(text, PARENT);
    traceparent_trace(PARENT, trace);
    assert_string_equal(trace, TRACE);
    traceparent_trace(NULL, trace);
    assert_string_equal(trace, "");
}

static void flags_that_are_not_known_are_not_said_on(void **state)
{
    struct trace_context c;
    char text[TRACEPARENT_LEN];
    (void)state;
    assert_true(traceparent_parse("00-" TRACE "-" SPAN "-fe", &c));
    assert_false(c.sampled);
    assert_true(traceparent_parse("00-" TRACE "-" SPAN "-ff", &c));
    traceparent_print(&c, text);
    assert_string_equal(text, PARENT);
}

static void what_is_not_to_the_letter_is_absent(void **state)
{
    static const char *const bad[] = {
        "",
        "00",
        "00-" TRACE "-" SPAN "-0",
        "00-" TRACE "-" SPAN "-01-",
        "00-" TRACE "-" SPAN "-01 ",
        "01-" TRACE "-" SPAN "-01x",
        "ff-" TRACE "-" SPAN "-01",
        "0g-" TRACE "-" SPAN "-01",
        "00_" TRACE "-" SPAN "-01",
        "00-" TRACE "_" SPAN "-01",
        "00-" TRACE "-" SPAN "_01",
        "00-" TRACE "-" SPAN "-0G",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" TRACE "-0000000000000000-01",
        "00-" SPAN "-" TRACE "-01",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct trace_context c = {.sampled = true};
        if (traceparent_parse(bad[i], &c)) fail_msg("'%s' was read", bad[i]);
        assert_true(c.sampled);
    }
    assert_false(traceparent_parse(NULL, &(struct trace_context){0}));
}

static void no_byte_of_a_traceparent_is_read_wrongly(void **state)
{
    (void)state;
    for (size_t at = 0; at < TRACEPARENT_LEN - 1; at++)
        for (int byte = 1; byte < 256; byte++) {
            char text[TRACEPARENT_LEN] = PARENT, again[TRACEPARENT_LEN];
            struct trace_context c;
            text[at] = (char)byte;
            if (!traceparent_parse(text, &c)) continue;
            traceparent_print(&c, again);
            assert_memory_equal(text + 2, again + 2, 51); /* version and flags are our own */
        }
}

static void later_versions_are_read_as_far_as_this_one_goes(void **state)
{
    struct trace_context c;
    (void)state;
    assert_true(traceparent_parse("cc-" TRACE "-" SPAN "-01", &c));
    assert_true(traceparent_parse("cc-" TRACE "-" SPAN "-01-what-comes", &c));
    assert_false(traceparent_parse("cc-" TRACE "-" SPAN "-01.what-comes", &c));
}

static void a_tracestate_is_a_list_of_keys_and_values(void **state)
{
    static const char *const good[] = {"", "a=1", "a=1,b=2", "rojo=00f067aa0ba902b7 , congo=t61rcWkgMzE", "1a@b-c/d*e_f=!#$%&'()+-./:;<>?@[\\]^_`{|}~", "a=1,,b=2", "a=b c"};
    static const char *const bad[] = {"a", "=1", "a=", "A=1", "a=b=c", "a b=1", "a=\x01", "a=\xc3\xa9", "a=1,b"};
    char text[TRACESTATE_MAX + 8];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!tracestate_is(good[i])) fail_msg("'%s' was refused", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (tracestate_is(bad[i])) fail_msg("'%s' was taken", bad[i]);
    for (int n = 1, len = 0; n <= 33; n++) {
        len += snprintf(text + len, sizeof text - (size_t)len, "%sk%d=v", n > 1 ? "," : "", n);
        assert_int_equal(tracestate_is(text), n <= 32);
    }
    memset(text, 'x', sizeof text);
    memcpy(text, "a=", 2);
    text[258] = 0;
    assert_true(tracestate_is(text));
    text[258] = 'x', text[259] = 0;
    assert_false(tracestate_is(text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_traceparent_is_read_and_said_on),
        cmocka_unit_test(flags_that_are_not_known_are_not_said_on),
        cmocka_unit_test(what_is_not_to_the_letter_is_absent),
        cmocka_unit_test(no_byte_of_a_traceparent_is_read_wrongly),
        cmocka_unit_test(later_versions_are_read_as_far_as_this_one_goes),
        cmocka_unit_test(a_tracestate_is_a_list_of_keys_and_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
