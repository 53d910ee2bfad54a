/* Tests of engine/api_call: events in, bytes out, with a scheduler and an HTTP server that are a few lines each. What
 * end-to-end tests reach only by luck is done here on purpose: faults in mid-stream, a sibling that fails, a reader
 * that is cut, a client that leaves. */
#include "engine/api_call.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define END_ID 9

/* --- what stands in for the rest of the program --- */

static struct {
    struct buf sent;     /* of the stream, or the whole body */
    int status;          /* of a plain answer; 0: none */
    enum err_code error; /* of a plain error */
    bool opened, ended, aborted;
    int cancels, answers;
    int write_fails_at; /* the Nth write fails; 0: none */
    int writes;
} seen;

struct http_stream {
    int unused;
};

static struct http_stream the_stream;

const char *const gen_finish_name[] = {"", "stop", "length", "cancelled", "error"};

void sched_cancel(struct sched *s, struct gen *g)
{
    (void)s;
    assert_non_null(g);
    seen.cancels++;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    (void)t;
    return id == END_ID;
}

int http_set_header(struct http_request *r, const char *name, const char *value)
{
    (void)r;
    return name && value ? 0 : -1;
}

struct http_stream *http_stream_open(struct http_request *r, int status, const char *content_type)
{
    (void)r;
    assert_int_equal(status, 200);
    assert_int_equal(strncmp(content_type, "text/event-stream", 17), 0);
    assert_false(seen.opened);
    seen.opened = true;
    return &the_stream;
}

int http_stream_write(struct http_stream *s, const void *bytes, size_t n, uint64_t mark)
{
    static uint64_t last;
    assert_ptr_equal(s, &the_stream);
    assert_false(seen.ended || seen.aborted);
    if (++seen.writes == 1) last = 0;
    assert_true(mark >= last);
    last = mark;
    if (seen.writes == seen.write_fails_at) return -1;
    return buf_add(&seen.sent, bytes, n);
}

void http_stream_end(struct http_stream *s)
{
    (void)s;
    seen.ended = true;
    seen.answers++;
}

void http_stream_abort(struct http_stream *s)
{
    (void)s;
    seen.aborted = true;
    seen.answers++;
}

void api_refuse(struct http_request *r, const struct err *e)
{
    (void)r;
    seen.error = e->code;
    seen.status = err_info(e->code)->status;
    seen.answers++;
}

void api_reply_buf(struct http_request *r, struct buf *b)
{
    (void)r;
    seen.status = 200;
    buf_add(&seen.sent, b->data, b->len);
    buf_close(b);
    seen.answers++;
}

static const char *letter(const void *u, int32_t id, size_t *len)
{
    static const char letters[] = "abcdefghi";
    (void)u;
    *len = 1;
    return letters + id;
}

/* --- a call as call_new() and call_run() leave it --- */

static struct api api;

static struct call *begin(enum ask_kind kind, bool stream, int parts)
{
    struct call *c = calloc(1, sizeof *c + (size_t)parts * sizeof *c->part);
    struct render_spec spec = {.kind = kind, .stream = stream, .id = "u", .model = "m", .fingerprint = "fp"};
    memset(&seen, 0, sizeof seen);
    buf_init(&seen.sent, 1 << 20);
    api.receipts = receipts_new(8, 1000000000);
    c->api = &api;
    c->ask = (struct ask){.kind = kind, .n = 1, .stream = stream, .p = {.sample = {.logprobs = -1}}};
    snprintf(c->origin.id, sizeof c->origin.id, "r1");
    c->origin.counted = true;
    c->vocab = (struct vocab_text){letter, NULL};
    c->nparts = c->outstanding = parts;
    pthread_mutex_init(&c->lock, NULL);
    buf_init(&c->out, 1 << 20);
    assert_int_equal(render_init(&c->render, &spec, NULL), 0);
    for (int i = 0; i < parts; i++) {
        struct part *p = &c->part[i];
        *p = (struct part){.call = c, .gen = (struct gen *)p, .index = i, .counts = {.prompt = 4}};
        buf_init(&p->text, 1 << 20);
        buf_init(&p->ids, 1 << 20);
        logprobs_init(&p->lp);
    }
    return c;
}

static void close_call(struct call *c)
{
    for (int i = 0; i < c->nparts; i++) {
        buf_close(&c->part[i].text);
        buf_close(&c->part[i].ids);
        logprobs_close(&c->part[i].lp);
    }
    render_close(&c->render);
    buf_close(&c->out);
    pthread_mutex_destroy(&c->lock);
    receipts_free(api.receipts);
    buf_close(&seen.sent);
    free(c);
}

static void token(struct call *c, int part, int32_t id, const char *text, int output)
{
    struct sample s = {.id = id, .logprob = -1};
    struct gen_event ev = {.kind = GEN_TOKEN,
                           .sample = &s,
                           .text = text,
                           .text_len = strlen(text),
                           .counts = {.prompt = 4, .cached = 1, .output = output}};
    call_on_event(&c->part[part], &ev);
}

static void done(struct call *c, int part, enum gen_finish how, const char *text, int output, enum err_code code)
{
    struct err e = {0};
    err_set(&e, code, "because");
    struct gen_event ev = {.kind = GEN_DONE,
                           .text = text,
                           .text_len = strlen(text),
                           .finish = how,
                           .error = &e,
                           .counts = {.prompt = 4, .cached = 1, .output = output}};
    call_on_event(&c->part[part], &ev);
}

static void leave(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    c->gone = true;
    pthread_mutex_unlock(&c->lock);
}

static bool sent(const char *what)
{
    return strstr(seen.sent.data, what) != NULL;
}

static void check_receipt(enum receipt_state state, int64_t output)
{
    struct receipt x;
    assert_int_equal(receipts_get(api.receipts, "r1", 1, &x, NULL), 0);
    assert_int_equal(x.state, state);
    assert_int_equal(x.output, output);
}

/* --- tests --- */

static void a_whole_answer_is_sent_once_at_the_end(void **state)
{
    (void)state;
    struct call *c = begin(ASK_CHAT, false, 1);
    token(c, 0, 0, "a", 1);
    token(c, 0, 1, "b", 2);
    assert_int_equal(seen.answers, 0);
    check_receipt(RECEIPT_RUNNING, 2);
    done(c, 0, FINISH_STOP, "c", 3, ERR_NONE);
    assert_int_equal(seen.answers, 1);
    assert_true(sent("\"content\":\"abc\"") && sent("\"finish_reason\":\"stop\"") && sent("\"completion_tokens\":3"));
    check_receipt(RECEIPT_COMPLETED, 3);
    close_call(c);
}

static void an_error_before_the_first_token_is_a_plain_http_error(void **state)
{
    (void)state;
    struct call *c = begin(ASK_CHAT, true, 1);
    done(c, 0, FINISH_ERROR, "", 0, ERR_NO_SLOT);
    assert_false(seen.opened);
    assert_int_equal(seen.error, ERR_NO_SLOT);
    assert_int_equal(seen.status, 503);
    check_receipt(RECEIPT_ERROR, 0);
    close_call(c);
}

static void an_error_in_mid_stream_is_an_event_without_done_and_without_a_new_count(void **state)
{
    (void)state;
    struct call *c = begin(ASK_CHAT, true, 1);
    token(c, 0, 0, "a", 1);
    token(c, 0, 1, "", 2); /* held back, never shown */
    done(c, 0, FINISH_ERROR, "x", 2, ERR_ADAPTER_FAULT);
    assert_true(seen.ended && !seen.aborted);
    assert_true(sent(": weft 4 1 1\n\n") && !sent(": weft 4 1 2\n\n"));
    assert_true(sent("data: {\"error\":") && sent("adapter_fault") && !sent("[DONE]"));
    check_receipt(RECEIPT_ERROR, 2);
    close_call(c);
}

static void held_back_tokens_are_counted_when_they_are_shown(void **state)
{
    (void)state;
    struct call *c = begin(ASK_CHAT, true, 1);
    token(c, 0, 0, "", 1);
    assert_string_equal(strstr(seen.sent.data, ": weft"), seen.sent.data);
    assert_true(sent(": weft 4 0 0\n\n") && sent("\"role\":\"assistant\""));
    int writes = seen.writes;
    token(c, 0, 1, "", 2);
    assert_int_equal(seen.writes, writes); /* nothing to show, nothing sent */
    token(c, 0, 2, "abc", 3);
    assert_true(sent(": weft 4 1 3\n\n") && !sent(": weft 4 1 2\n\n"));
    done(c, 0, FINISH_LENGTH, "", 3, ERR_NONE);
    assert_true(sent("data: [DONE]\n\n") && seen.ended);
    close_call(c);
}

static void logprobs_of_held_back_tokens_go_with_the_text(void **state)
{
    (void)state;
    struct call *c = begin(ASK_COMPLETION, true, 1);
    c->ask.p.sample.logprobs = 0;
    token(c, 0, 0, "", 1);
    token(c, 0, 1, "ab", 2);
    token(c, 0, END_ID, "", 3);
    done(c, 0, FINISH_STOP, "", 3, ERR_NONE);
    assert_true(sent("\"tokens\":[\"a\",\"b\"]") && !sent("\"tokens\":[\"a\",\"b\",")); /* no entry for the end */
    close_call(c);
}

static void a_part_that_fails_takes_its_siblings_with_it(void **state)
{
    (void)state;
    struct call *c = begin(ASK_COMPLETION, false, 3);
    token(c, 0, 0, "a", 1);
    done(c, 1, FINISH_ERROR, "", 0, ERR_QUEUE_FULL);
    assert_int_equal(seen.cancels, 2);
    assert_int_equal(seen.answers, 0); /* not before all are done */
    done(c, 0, FINISH_CANCELLED, "", 1, ERR_NONE);
    done(c, 2, FINISH_CANCELLED, "", 0, ERR_NONE);
    assert_int_equal(seen.answers, 1);
    assert_int_equal(seen.error, ERR_QUEUE_FULL);
    check_receipt(RECEIPT_ERROR, 1);
    close_call(c);
}

static void a_reader_that_is_cut_gets_no_last_words(void **state)
{
    (void)state;
    for (int at = 1; at <= 2; at++) {
        struct call *c = begin(ASK_CHAT, true, 1);
        seen.write_fails_at = at;
        token(c, 0, 0, "a", 1);
        token(c, 0, 1, "b", 2);
        token(c, 0, 2, "c", 3); /* the step in flight */
        assert_int_equal(seen.cancels, 1);
        assert_int_equal(seen.writes, at);
        done(c, 0, FINISH_CANCELLED, "", 3, ERR_NONE);
        assert_true(seen.aborted && !seen.ended);
        check_receipt(RECEIPT_CANCELLED, 3);
        close_call(c);
    }
}

static void a_client_that_left_is_cancelled_unless_the_answer_was_complete(void **state)
{
    (void)state;
    static const struct {
        enum gen_finish how;
        enum receipt_state want;
    } rows[] = {
        {FINISH_CANCELLED, RECEIPT_CANCELLED}, {FINISH_STOP, RECEIPT_COMPLETED}, {FINISH_LENGTH, RECEIPT_COMPLETED}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int stream = 0; stream < 2; stream++) {
            struct call *c = begin(ASK_CHAT, stream, 1);
            token(c, 0, 0, "a", 1);
            leave(c);
            token(c, 0, 1, "b", 2);
            done(c, 0, rows[i].how, "", 2, ERR_NONE);
            assert_int_equal(seen.answers, 1); /* owed all the same */
            assert_int_equal(seen.aborted, stream);
            check_receipt(rows[i].want, 2);
            close_call(c);
        }
    }
}

static void streams_of_several_prompts_end_once_after_the_last(void **state)
{
    (void)state;
    struct call *c = begin(ASK_COMPLETION, true, 2);
    token(c, 1, 0, "x", 1);
    token(c, 0, 0, "a", 1);
    done(c, 0, FINISH_STOP, "", 1, ERR_NONE);
    assert_int_equal(seen.answers, 0);
    token(c, 1, 1, "y", 2);
    done(c, 1, FINISH_LENGTH, "", 2, ERR_NONE);
    assert_int_equal(seen.answers, 1);
    assert_true(sent("\"index\":1,\"text\":\"y\"") && sent(": weft 8 2 3\n\n") && sent("[DONE]"));
    check_receipt(RECEIPT_COMPLETED, 3);
    close_call(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_answer_is_sent_once_at_the_end),
        cmocka_unit_test(an_error_before_the_first_token_is_a_plain_http_error),
        cmocka_unit_test(an_error_in_mid_stream_is_an_event_without_done_and_without_a_new_count),
        cmocka_unit_test(held_back_tokens_are_counted_when_they_are_shown),
        cmocka_unit_test(logprobs_of_held_back_tokens_go_with_the_text),
        cmocka_unit_test(a_part_that_fails_takes_its_siblings_with_it),
        cmocka_unit_test(a_reader_that_is_cut_gets_no_last_words),
        cmocka_unit_test(a_client_that_left_is_cancelled_unless_the_answer_was_complete),
        cmocka_unit_test(streams_of_several_prompts_end_once_after_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
