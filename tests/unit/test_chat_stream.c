/* The answer that `weft chat` reads: pieces, events, errors, bounds. */
#include "base/json.h"
#include "gateway/cli/cli_chat_stream.c"
#include <cmocka.h>
#include <stdio.h>

static char told[256];

static void say(const char *text, size_t n)
{
    size_t used = strlen(told);
    snprintf(told + used, sizeof told - used, "%.*s", (int)n, text);
}

static void start(struct chat_stream *s, bool whole, int status)
{
    told[0] = 0;
    chat_stream_init(s, whole, say);
    s->status = status;
}

#define SAYS(text) "data: {\"choices\":[{\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define FAILS(word) "data: {\"error\":{\"message\":\"" word "\"}}\n\n"

static void a_stream_may_be_cut_anywhere_and_ends_at_done(void **state)
{
    static const char answer[] = ": weft\r\n" SAYS("one ") "data:{\"choices\":[{\"delta\":{\"content\":\"two\"}}]}\r\n\r\ndata: no JSON\n" SAYS("") "data: [DONE]\n\n" SAYS("three");
    (void)state;
    for (size_t step = 1; step < sizeof answer; step++) {
        struct chat_stream s;
        start(&s, false, 200);
        for (size_t at = 0; at < sizeof answer - 1; at += step)
            assert_int_equal(chat_stream_feed(&s, answer + at, sizeof answer - 1 - at < step ? sizeof answer - 1 - at : step), 0);
        char *said = chat_stream_said(&s);
        assert_true(s.done);
        assert_string_equal(said, "one two");
        assert_string_equal(told, "one two");
        assert_int_equal(s.error.len, 0);
        free(said);
        chat_stream_close(&s);
    }
}

/* Two of them in one text would be no JSON, and none would be shown. */
static void the_first_error_is_kept(void **state)
{
    static const char answer[] = SAYS("one") FAILS("first") FAILS("second");
    struct chat_stream s;
    json_t *o = NULL;
    (void)state;
    start(&s, false, 200);
    assert_int_equal(chat_stream_feed(&s, answer, strlen(answer)), 0);
    assert_int_equal(json_parse(s.error.data, s.error.len, &o, NULL), 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(o, "error"), "message")), "first");
    assert_false(s.done);
    json_decref(o);
    chat_stream_close(&s);
}

static void refusals_and_documents_are_kept_as_they_came(void **state)
{
    static const char refusal[] = "data: {\"error\":1}\n", document[] = "{\"choices\":[{\"message\":{\"content\":\"yes\"}}]}";
    struct chat_stream s;
    (void)state;
    start(&s, false, 503);
    assert_int_equal(chat_stream_feed(&s, refusal, strlen(refusal)), 0);
    assert_string_equal(s.error.data, refusal);
    chat_stream_close(&s);
    start(&s, true, 200);
    assert_int_equal(chat_stream_feed(&s, document, strlen(document)), 0);
    char *said = chat_stream_said(&s);
    assert_string_equal(said, "yes");
    free(said);
    assert_int_equal(chat_stream_feed(&s, "x", 1), 0);
    assert_null(chat_stream_said(&s));
    chat_stream_close(&s);
}

static void what_is_too_long_ends_the_reading(void **state)
{
    struct chat_stream s;
    char *long_one = malloc(CHAT_LINE_MAX + 1);
    (void)state;
    memset(long_one, 'x', CHAT_LINE_MAX + 1);
    start(&s, false, 200);
    assert_int_equal(chat_stream_feed(&s, long_one, CHAT_LINE_MAX + 1), -1);
    assert_true(s.line.failed);
    chat_stream_close(&s);
    start(&s, false, 500);
    assert_int_equal(chat_stream_feed(&s, long_one, CHAT_ERROR_MAX + 1), -1);
    assert_true(s.error.failed);
    chat_stream_close(&s);
    free(long_one);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_may_be_cut_anywhere_and_ends_at_done),
        cmocka_unit_test(the_first_error_is_kept),
        cmocka_unit_test(refusals_and_documents_are_kept_as_they_came),
        cmocka_unit_test(what_is_too_long_ends_the_reading),
    };
    return cmocka_run_group_tests_name("chat_stream", tests, NULL, NULL);
}
