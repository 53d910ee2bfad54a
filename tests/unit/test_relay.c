/* The relay: our comments go, all else stays to the byte, and the mark is never ahead of a complete event. */
#include "gateway/proxy/relay.h"
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

struct sink {
    struct buf b;
    uint64_t mark;
    int pieces, refuse_after; /* pieces; 0: never */
    bool fell;                /* the mark went back */
};

static int emit(void *u, const char *bytes, size_t n, uint64_t mark)
{
    struct sink *s = u;
    s->fell |= mark < s->mark;
    s->mark = mark;
    s->pieces++;
    buf_add(&s->b, bytes, n);
    return s->refuse_after && s->pieces >= s->refuse_after ? -1 : 0;
}

/* A relay and a sink, fed in pieces of `step` bytes that are malloc'ed, so that ASan sees a read beyond them. */
static int run(const char *in, size_t len, size_t step, struct relay *r, struct sink *s)
{
    int rc = 0;
    relay_init(r);
    buf_init(&s->b, 1 << 22);
    for (size_t i = 0; i < len && !rc; i += step) {
        size_t n = len - i < step ? len - i : step;
        char *piece = malloc(n);
        memcpy(piece, in + i, n);
        rc = relay_feed(r, piece, n, emit, s);
        free(piece);
    }
    return rc;
}

static void finish(struct relay *r, struct sink *s)
{
    relay_close(r);
    buf_close(&s->b);
}

static const struct {
    const char *what, *in, *out;
    uint64_t mark;
    bool done, error;
    const char *finish;
} row[] = {
    {"a comment of its own and its empty line", ": weft 5 0 1\n\ndata: {\"a\":1}\n\n", "data: {\"a\":1}\n\n", 1, false,
     false, ""},
    {"a comment within an event's block", ": weft 5 2 1\ndata: x\n\n", "data: x\n\n", 1, false, false, ""},
    {"a comment in the middle of an event", "data: x\n: weft 5 2 1\n\n", "data: x\n\n", 1, false, false, ""},
    {"two events and two comments", ": weft 5 0 1\n\ndata: a\n\n: weft 5 0 3\n\ndata: b\n\n", "data: a\n\ndata: b\n\n",
     3, false, false, ""},
    {"an event that is not complete", ": weft 5 0 1\n\ndata: a\n\n: weft 5 0 3\n\ndata: b\n", "data: a\n\ndata: b\n", 1,
     false, false, ""},
    {"a line that is not complete is held back", ": weft 5 0 1\n\ndata: a\n\ndata: b", "data: a\n\n", 1, false, false,
     ""},
    {"carriage returns", ": weft 5 0 1\r\n\r\ndata: a\r\n\r\n", "data: a\r\n\r\n", 1, false, false, ""},
    {"other comments stay", ": keep-alive\n\n: weftwork 1 2 3\n\n", ": keep-alive\n\n: weftwork 1 2 3\n\n", 0, false,
     false, ""},
    {"the account of the engine's time goes, whatever it says", ": weft 5 0 1\n\n: weft-time 1 2 3 4 5\n\ndata: a\n\n: weft-time x\n\n",
     "data: a\n\n", 1, false, false, ""},
    {"a comment with too few numbers stays", ": weft 1 2\n\n", ": weft 1 2\n\n", 0, false, false, ""},
    {"a comment with more behind stays", ": weft 1 2 3 4\n\n", ": weft 1 2 3 4\n\n", 0, false, false, ""},
    {"empty lines of others stay", "\n\ndata: a\n\n\n", "\n\ndata: a\n\n\n", 0, false, false, ""},
    {"the comment's text inside data stays", "data: : weft 1 2 3\n\n", "data: : weft 1 2 3\n\n", 0, false, false, ""},
    {"a count that goes back is not believed", ": weft 5 0 4\n\ndata: a\n\n: weft 5 0 2\n\ndata: b\n\n",
     "data: a\n\ndata: b\n\n", 4, false, false, ""},
    {"the end mark", ": weft 5 0 2\n\ndata: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
     "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n", 2, true, false, "stop"},
    {"an error event", "data: {\"error\":{\"message\":\"x\"}}\n\n", "data: {\"error\":{\"message\":\"x\"}}\n\n", 0,
     false, true, ""},
    {"a finish_reason inside of text is text", "data: {\"content\":\"\\\"finish_reason\\\":\\\"stop\\\"\"}\n\n",
     "data: {\"content\":\"\\\"finish_reason\\\":\\\"stop\\\"\"}\n\n", 0, false, false, ""},
    {"a finish_reason of null", "data: {\"finish_reason\":null}\n\n", "data: {\"finish_reason\":null}\n\n", 0, false,
     false, ""},
    {"[DONE] inside of text is text", "data: {\"content\":\"data: [DONE]\"}\n\n",
     "data: {\"content\":\"data: [DONE]\"}\n\n", 0, false, false, ""},
    {"a comment and the end of the input", ": weft 5 0 9", "", 0, false, false, ""},
    {"nothing", "", "", 0, false, false, ""},
};

static void every_stream_comes_out_the_same_in_any_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (size_t step = 1; step <= strlen(row[i].in) + 1; step++) {
            struct relay r;
            struct sink s = {0};
            assert_int_equal(run(row[i].in, strlen(row[i].in), step, &r, &s), 0);
            if (strcmp(s.b.data, row[i].out) || s.mark != row[i].mark || r.done != row[i].done ||
                r.error != row[i].error || s.fell || strcmp(r.counts.finish, row[i].finish))
                fail_msg("%s, in steps of %zu: '%s' mark %d done %d error %d finish '%s'", row[i].what, step, s.b.data,
                         (int)s.mark, r.done, r.error, r.counts.finish);
            finish(&r, &s);
        }
}

static void the_mark_of_an_event_comes_with_its_last_byte(void **state)
{
    static const char in[] = ": weft 7 3 2\n\ndata: {\"content\":\"hello\"}\n\n";
    (void)state;
    struct relay r;
    struct sink s = {0};
    run(in, sizeof in - 2, 1, &r, &s);
    assert_int_equal(s.mark, 0);
    assert_int_equal(r.counts.output, 2);
    assert_int_equal(r.counts.prompt, 7);
    assert_int_equal(r.counts.cached, 3);
    assert_int_equal(relay_feed(&r, "\n", 1, emit, &s), 0);
    assert_int_equal(s.mark, 2);
    finish(&r, &s);
}

static void the_account_of_the_engines_time_is_the_last_that_makes_sense(void **state)
{
    static const char in[] = ": weft-time 1 2 3 0 0\n\ndata: a\n\n: weft-time 1 2 3 40 5\n\n: weft-time 9 9 9 9 -9\n\n: weft-time 9 9 9 9 9 9\n\n";
    (void)state;
    struct relay r;
    struct sink s = {0};
    run(in, sizeof in - 1, 1, &r, &s);
    assert_true(r.times.known);
    assert_int_equal(r.times.prefill_us, 3);
    assert_int_equal(r.times.decode_us, 40);
    assert_int_equal(r.times.paused_us, 5);
    relay_reset(&r);
    assert_false(r.times.known);
    finish(&r, &s);
}

static void a_flush_that_comes_whole_goes_on_in_one_piece(void **state)
{
    static const char in[] = ": weft 7 3 2\n\ndata: a\n\ndata: b\n\n: weft 7 3 3\n\ndata: c\n\n";
    (void)state;
    struct relay r;
    struct sink s = {0};
    run(in, sizeof in - 1, sizeof in, &r, &s);
    assert_int_equal(s.pieces, 1);
    assert_int_equal(s.mark, 3);
    finish(&r, &s);
}

static void a_line_beyond_the_limit_passes_in_pieces(void **state)
{
    struct buf in;
    (void)state;
    for (int extra = -2; extra <= 2; extra++) {
        buf_init(&in, 1 << 22);
        buf_adds(&in, ": weft 1 0 1\n\ndata: ");
        for (size_t i = 0; i < RELAY_LINE_MAX * 2 + (size_t)(extra + 2) - 10; i++) buf_addc(&in, "xy:"[i % 3]);
        buf_adds(&in, "\n\n: weft 1 0 2\n\ndata: [DONE]\n\n");
        for (size_t step = 4096; step <= in.len; step += in.len / 3) {
            struct relay r;
            struct sink s = {0};
            assert_int_equal(run(in.data, in.len, step, &r, &s), 0);
            assert_int_equal(s.b.len, in.len - 2 * strlen(": weft 1 0 1\n\n"));
            assert_int_equal(s.mark, 2);
            assert_true(r.done);
            finish(&r, &s);
        }
        buf_close(&in);
    }
}

static void what_follows_the_end_is_dropped_and_counts_nothing(void **state)
{
    static const char end[] = ": weft 11 3 1\n\ndata: {\"a\":1}\n\ndata: [DONE]\n\n", more[] = ": weft 11 3 50\n\ndata: {\"a\":2}\n\ndata: [DONE]\n\n";
    (void)state;
    struct relay r;
    struct sink s = {0};
    run(end, sizeof end - 1, sizeof end - 1, &r, &s);
    size_t n = s.b.len;
    assert_int_equal(relay_feed(&r, more, sizeof more - 1, emit, &s), 0);
    assert_true(r.done);
    assert_int_equal(s.b.len, n);
    assert_int_equal(r.counts.output, 1);
    finish(&r, &s);
}

static void a_refused_piece_stops_the_relay(void **state)
{
    static const char in[] = "data: a\n\ndata: b\n\n";
    (void)state;
    struct relay r;
    struct sink s = {.refuse_after = 1};
    assert_int_equal(run(in, sizeof in - 1, 9, &r, &s), -1);
    assert_string_equal(s.b.data, "data: a\n\n");
    finish(&r, &s);
}

static void a_reset_forgets_the_first_try(void **state)
{
    static const char in[] = ": weft 7 3 2\n\ndata: a\n\nda";
    (void)state;
    struct relay r;
    struct sink s = {0};
    run(in, sizeof in - 1, 5, &r, &s);
    relay_reset(&r);
    assert_false(r.counts.known);
    assert_int_equal(r.mark, 0);
    buf_reset(&s.b);
    assert_int_equal(relay_feed(&r, "data: b\n\n", 9, emit, &s), 0);
    assert_string_equal(s.b.data, "data: b\n\n");
    finish(&r, &s);
}

static void usage_is_read_from_a_whole_answer(void **state)
{
    static const struct {
        const char *body;
        bool known;
        int prompt, cached, output;
        const char *finish;
    } t[] = {
        {"{\"choices\":[{\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":34,"
         "\"total_tokens\":46,"
         "\"prompt_tokens_details\":{\"cached_tokens\":8}}}",
         true, 12, 8, 34, "length"},
        {"{ \"usage\" : { \"completion_tokens\" : 0, \"prompt_tokens\" : 3 } }", true, 3, 0, 0, ""},
        {"{\"content\":\"\\\"usage\\\":{\\\"completion_tokens\\\":99}\",\"usage\":{\"prompt_tokens\":1,\"completion_"
         "tokens\":2}}",
         true, 1, 0, 2, ""},
        {"{\"model\":\"usage\",\"x\":1}", false, 0, 0, 0, ""},
        {"{\"usage\":null}", false, 0, 0, 0, ""},
        {"{\"usage\":{\"completion_tokens\":-5}}", false, 0, 0, 0, ""},
        {"{\"usage\":", false, 0, 0, 0, ""},
        {"", false, 0, 0, 0, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        struct relay_counts c = {0};
        size_t n = strlen(t[i].body);
        char *exact = malloc(n + 1);
        memcpy(exact, t[i].body, n);
        relay_usage(exact, n, &c);
        free(exact);
        if (c.known != t[i].known || c.prompt != t[i].prompt || c.cached != t[i].cached || c.output != t[i].output ||
            strcmp(c.finish, t[i].finish))
            fail_msg("%s: known %d, %d %d %d '%s'", t[i].body, c.known, (int)c.prompt, (int)c.cached, (int)c.output,
                     c.finish);
    }
}

/* A kind that counts in its events: "N text" becomes "text", a bare number is for the counts alone, "!" is an error. */
static int counted(void *u, const char *data, size_t n, struct relay_counts *c, struct buf *out)
{
    char *end;
    int *calls = u;
    char text[64];
    ++*calls;
    if (n >= sizeof text || *data == '!') return -1;
    memcpy(text, data, n);
    text[n] = 0;
    c->output = strtol(text, &end, 10);
    c->known = true;
    return *end ? buf_adds(out, end + 1) : 0;
}

static int run_counted(const char *in, size_t step, struct sink *s, struct relay *r, int *calls)
{
    int rc = 0;
    relay_init(r);
    r->event = counted;
    r->event_user = calls;
    buf_init(&s->b, 1 << 22);
    for (size_t i = 0, len = strlen(in); i < len && !rc; i += step)
        rc = relay_feed(r, in + i, len - i < step ? len - i : step, emit, s);
    return rc;
}

static void events_of_another_kind_are_put_into_its_words_and_counted(void **state)
{
    static const char in[] = "data: 1 a\n\ndata:3 b\r\n\r\n: ping\n\ndata: 3\n\ndata: [DONE]\n\n";
    static const char out[] = "data: a\n\ndata: b\n\r\n: ping\n\ndata: [DONE]\n\n";
    (void)state;
    for (size_t step = 1; step < sizeof in; step++) {
        struct relay r;
        struct sink s = {0};
        int calls = 0;
        assert_int_equal(run_counted(in, step, &s, &r, &calls), 0);
        assert_string_equal(s.b.data, out);
        assert_int_equal(calls, 3);
        assert_true(r.done && s.mark == 3 && !s.fell);
        relay_reset(&r);
        assert_true(r.event == counted && r.counts.output == 0); /* for the next try */
        finish(&r, &s);
    }
}

static void an_event_that_its_kind_can_not_read_or_that_is_too_long_fails_the_stream(void **state)
{
    struct relay r;
    struct sink s = {0}, t = {0};
    int calls = 0;
    (void)state;
    assert_int_equal(run_counted("data: 1 a\n\ndata: !\n\n", 64, &s, &r, &calls), -1);
    finish(&r, &s);
    char *big = malloc(RELAY_LINE_MAX + 64);
    memset(big, 'x', RELAY_LINE_MAX + 63);
    memcpy(big, "data: 1 ", 8);
    big[RELAY_LINE_MAX + 63] = 0;
    assert_int_equal(run_counted(big, 4096, &t, &r, &calls), -1);
    assert_int_equal(t.b.len, 0);
    finish(&r, &t);
    free(big);
}

static int say_again(void *u, const char *data, size_t n, struct relay_counts *c, struct buf *out)
{
    (void)u, (void)c;
    return buf_add(out, data, n);
}

static void what_follows_the_error_of_another_kind_is_not_an_end(void **state)
{
    (void)state;
    static const char in[] = "data: {\"a\":1}\n\ndata: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n";
    struct sink s = {0};
    struct relay r;
    relay_init(&r);
    r.event = say_again;
    buf_init(&s.b, 1 << 16);
    assert_int_equal(relay_feed(&r, in, sizeof in - 1, emit, &s), 0);
    assert_true(r.error);
    assert_false(r.done);
    assert_string_equal(s.b.data, "data: {\"a\":1}\n\ndata: {\"error\":{\"message\":\"x\"}}\n\n");
    finish(&r, &s);
}

static void what_a_policy_made_of_the_prompt_is_taken_out_and_noted(void **state)
{
    (void)state;
    static const char in[] = ": weft-prompt 900 200\n\n: weft 200 0 1\n\ndata: a\n\n: weft-prompt 1 x\n\n: weft-prompt -1 5\n\n: weft-prompt 1\n\n";
    for (size_t step = 1; step < sizeof in; step++) {
        struct relay r;
        struct sink s = {.mark = 0};
        assert_int_equal(run(in, sizeof in - 1, step, &r, &s), 0);
        assert_int_equal(s.b.len, strlen("data: a\n\n"));
        assert_int_equal(r.counts.before, 900);
        assert_int_equal(r.counts.after, 200);
        relay_close(&r);
        buf_close(&s.b);
    }
    struct relay_counts c = {0};
    static const char whole[] = "{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":3,"
                                "\"policy_before_tokens\":70,\"policy_after_tokens\":7}}}";
    relay_usage(whole, sizeof whole - 1, &c);
    assert_true(c.prompt == 7 && c.cached == 3 && c.before == 70 && c.after == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_stream_comes_out_the_same_in_any_cut),
        cmocka_unit_test(the_mark_of_an_event_comes_with_its_last_byte),
        cmocka_unit_test(what_follows_the_end_is_dropped_and_counts_nothing),
        cmocka_unit_test(what_follows_the_error_of_another_kind_is_not_an_end),
        cmocka_unit_test(the_account_of_the_engines_time_is_the_last_that_makes_sense),
        cmocka_unit_test(what_a_policy_made_of_the_prompt_is_taken_out_and_noted),
        cmocka_unit_test(a_flush_that_comes_whole_goes_on_in_one_piece),
        cmocka_unit_test(a_line_beyond_the_limit_passes_in_pieces),
        cmocka_unit_test(a_refused_piece_stops_the_relay),
        cmocka_unit_test(a_reset_forgets_the_first_try),
        cmocka_unit_test(usage_is_read_from_a_whole_answer),
        cmocka_unit_test(events_of_another_kind_are_put_into_its_words_and_counted),
        cmocka_unit_test(an_event_that_its_kind_can_not_read_or_that_is_too_long_fails_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
