/* What is kept of exchanges for those who look at them afterwards: answers out of the bytes that went to clients, and which requests are picked. */
#include "base/json.h"
#include "gateway/gateway.h"
#include "gateway/quality/quality.h"
#include "gateway/quality/transcript.h"
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct said {
    const char *what, *bytes;
    bool stream;
    const char *text, *finish, *tools, *logprobs; /* the last two: JSON, or NULL */
    int events;
};

#define EVENT(choice) "data: {\"choices\":[" choice "]}\n\n"

static const struct said saids[] = {
    {"a chat's message", "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Yes.\"},\"finish_reason\":\"stop\"}]}", false, "Yes.", "stop", NULL, NULL, 1},
    {"a completion's text", "{\"choices\":[{\"index\":0,\"text\":\" and so on\",\"logprobs\":{\"tokens\":[\" and\"]},\"finish_reason\":\"length\"}]}", false, " and so on", "length", NULL,
     "[{\"tokens\":[\" and\"]}]", 1},
    {"of two choices the first, wherever it stands", "{\"choices\":[{\"index\":1,\"text\":\"b\"},{\"index\":0,\"text\":\"a\"}]}", false, "a", "", NULL, NULL, 1},
    {"an answer without text", "{\"choices\":[{\"index\":0,\"message\":{\"content\":null},\"finish_reason\":null}]}", false, "", "", NULL, NULL, 1},
    {"a call of a tool", "{\"choices\":[{\"message\":{\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}", false, "", "",
     "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"id\":\"c1\"}]", NULL, 1},
    {"a stream, its comments and its end", ": weft\n\n" EVENT("{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}") EVENT("{\"index\":0,\"delta\":{\"content\":\"Gr\\u00fc\"}}")
     EVENT("{\"index\":1,\"delta\":{\"content\":\"no\"}}") EVENT("{\"index\":0,\"delta\":{\"content\":\"\\u00dfe\"},\"finish_reason\":\"stop\"}") "data: [DONE]\n\n", true, "Gr\xc3\xbc\xc3\x9f" "e", "stop", NULL, NULL, 4},
    {"a stream's calls by their index",
     EVENT("{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":1,\"id\":\"b\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}}") EVENT("{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\"}}]}}")
     EVENT("{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}}"), true, "", "",
     "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"},\"id\":\"a\"},{\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"},\"id\":\"b\"}]", NULL, 3},
    {"a stream's logprobs", EVENT("{\"delta\":{\"content\":\"a\"},\"logprobs\":{\"content\":[{\"token\":\"a\"}]}}") EVENT("{\"delta\":{\"content\":\"b\"},\"logprobs\":{\"content\":[{\"token\":\"b\"}]}}"), true,
     "ab", "", NULL, "[{\"token\":\"a\"},{\"token\":\"b\"}]", 2},
    {"a stream that was cut within an event", EVENT("{\"delta\":{\"content\":\"a\"}}") "data: {\"choices\":[{\"delta\":{\"con", true, "a", "", NULL, NULL, 1},
    {"a call with an index that no answer has", EVENT("{\"delta\":{\"tool_calls\":[{\"index\":100000000,\"id\":\"x\"},{\"index\":-1}]}}"), true, "", "", NULL, NULL, 1},
    {"a finish that is too long ends with a whole character", "{\"choices\":[{\"text\":\"x\",\"finish_reason\":\"aa\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\"}]}", false, "x",
     "aa\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc\xc3\xbc", NULL, NULL, 1},
    {"what is no answer", "<html>", false, "", "", NULL, NULL, 0},
    {"nothing", "", true, "", "", NULL, NULL, 0},
    {"an event that is no object", "data: 7\n\ndata: {]\n\n" EVENT("{\"text\":\"x\"}"), true, "x", "", NULL, NULL, 1},
};

static void check_json(const char *what, const json_t *is, const char *want)
{
    json_t *v = want ? json_load(want, strlen(want), 0, NULL) : NULL;
    if (!is != !v || (v && !json_equal(is, v))) fail_msg("%s: %s", what, is ? json_dumps(is, 0) : "nothing");
    json_decref(v);
}

static void an_answer_is_read_as_a_client_reads_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof saids / sizeof *saids; i++) {
        const struct said *s = &saids[i];
        struct answer a;
        struct err e = {0};
        if (answer_read(&a, s->bytes, strlen(s->bytes), s->stream, &e)) fail_msg("%s: %s", s->what, e.msg);
        if (strcmp(a.text.data, s->text) != 0 || strcmp(a.finish, s->finish) != 0 || a.events != s->events)
            fail_msg("%s: '%s' (%s), %d events", s->what, a.text.data, a.finish, a.events);
        check_json(s->what, a.tool_calls, s->tools);
        check_json(s->what, a.logprobs, s->logprobs);
        answer_close(&a);
    }
}

/* --- calls in many pieces --- */

#define LONG_FIRST 700000
#define PIECES 4000

static int64_t cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* A long piece and many of a letter, as events that begin and end like this; how long it took to read them. */
static int64_t read_pieces(const char *before, const char *behind, struct answer *a)
{
    struct buf b;
    struct err e = {0};
    buf_init(&b, 2 * TRANSCRIPT_ANSWER_MAX);
    buf_adds(&b, before);
    for (int i = 0; i < LONG_FIRST; i++) buf_addc(&b, 'a');
    buf_adds(&b, behind);
    for (int i = 0; i < PIECES; i++) buf_addf(&b, "%sb%s", before, behind);
    assert_false(b.failed);
    int64_t start = cpu_us();
    assert_int_equal(answer_read(a, b.data, b.len, true, &e), 0);
    int64_t took = cpu_us() - start;
    buf_close(&b);
    return took;
}

static void a_calls_arguments_are_joined_as_fast_as_a_text(void **state)
{
    (void)state;
    struct answer text, call;
    int64_t plain = read_pieces("data: {\"choices\":[{\"delta\":{\"content\":\"", "\"}}]}\n", &text);
    int64_t joined = read_pieces("data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"", "\"}}]}}]}\n", &call);
    const json_t *arguments = json_object_get(json_object_get(json_array_get(call.tool_calls, 0), "function"), "arguments");
    assert_int_equal(json_string_length(arguments), LONG_FIRST + PIECES);
    assert_memory_equal(json_string_value(arguments), text.text.data, text.text.len);
    if (joined > 4 * plain) fail_msg("%lld us, a text %lld us", (long long)joined, (long long)plain);
    answer_close(&text);
    answer_close(&call);
}

static void a_draw_is_the_requests_own_and_keeps_its_share(void **state)
{
    (void)state;
    int n = 0, small = 0, outside = 0;
    for (int i = 0; i < 20000; i++) {
        char id[40];
        snprintf(id, sizeof id, "01890000-0000-7000-8000-%012d", i);
        bool in = quality_draw(id, 0.25);
        assert_int_equal(in, quality_draw(id, 0.25));
        n += in;
        small += quality_draw(id, 0.05);
        outside += quality_draw(id, 0.05) && !in;
        assert_true(quality_draw(id, 1));
        assert_false(quality_draw(id, 0));
    }
    assert_in_range(n, 4700, 5300);
    assert_in_range(small, 880, 1120);
    assert_int_equal(outside, 0);
}

static void without_a_part_there_is_no_watch(void **state)
{
    (void)state;
    struct gateway g = {.db = NULL};
    struct quality *q = NULL;
    struct err e = {0};
    char *part[ALIAS_PARTS] = {NULL};
    assert_int_equal(quality_open(&q, &g, &e), 0);
    assert_null(quality_pick(q, part, "x", "{}", 2));
    quality_close(q);
    assert_null(quality_pick(NULL, part, "x", "{}", 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_read_as_a_client_reads_it),
        cmocka_unit_test(a_calls_arguments_are_joined_as_fast_as_a_text),
        cmocka_unit_test(a_draw_is_the_requests_own_and_keeps_its_share),
        cmocka_unit_test(without_a_part_there_is_no_watch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
