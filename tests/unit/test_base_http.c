/* http: the guard, routes, bodies, late answers, clients that leave, and stopping. */
#include "tests/unit/test_base_net.h"
#include <jansson.h>
#include <sys/stat.h>

#define ASK(line) line " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"

static const struct {
    const char *why, *bytes;
    size_t n;   /* 0: strlen */
    int status; /* -1: anything but served; the library may close without a word */
} messages[] = {
    {"a plain request passes", ASK("GET /hello") "\r\n", 0, 200},
    {"HTTP/1.0 with a Host passes", "GET /hello HTTP/1.0\r\nHost: x\r\n\r\n", 0, 200},
    {"Transfer-Encoding and Content-Length",
     ASK("POST /echo") "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400},
    {"two different Content-Lengths", ASK("POST /echo") "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 0, 400},
    {"two equal Content-Lengths", ASK("POST /echo") "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 0, 400},
    {"a Content-Length with a sign", ASK("POST /echo") "Content-Length: +3\r\n\r\nabc", 0, 400},
    {"a Content-Length in hex", ASK("POST /echo") "Content-Length: 0x3\r\n\r\nabc", 0, 400},
    {"a list in Content-Length", ASK("POST /echo") "Content-Length: 3, 3\r\n\r\nabc", 0, 400},
    {"an enormous Content-Length", ASK("POST /echo") "Content-Length: 99999999999999999999\r\n\r\nabc", 0, 413},
    {"Transfer-Encoding gzip, chunked", ASK("POST /echo") "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0, 400},
    {"two Transfer-Encodings",
     ASK("POST /echo") "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400},
    {"chunked in HTTP/1.0", "POST /echo HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400},
    {"two Hosts", ASK("GET /hello") "Host: y\r\n\r\n", 0, 400},
    {"no Host", "GET /hello HTTP/1.1\r\nConnection: close\r\n\r\n", 0, 400},
    {"a Host with a slash", "GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n", 0, 400},
    {"an empty Host", "GET /hello HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n", 0, 400},
    {"a method in small letters", ASK("get /hello") "\r\n", 0, 400},
    {"a length with an underscore", ASK("POST /echo") "Content-Length: 3\r\nContent_Length: 4\r\n\r\nabc", 0, 400},
    {"an encoding with an underscore", ASK("POST /echo") "Content-Length: 3\r\ntransfer_encoding: chunked\r\n\r\nabc", 0,
     400},
    {"an Expect of something else", ASK("POST /echo") "Content-Length: 3\r\nExpect: 200-ok\r\n\r\nabc", 0, 400},
    {"two Expects",
     ASK("POST /echo") "Content-Length: 3\r\nExpect: 100-continue\r\nExpect: 100-continue\r\n\r\nabc", 0, 400},
    {"other names with underscores pass", ASK("GET /hello") "content_lengths: 3\r\nX_A: 1\r\n\r\n", 0, 200},
    {"a request behind a chunked one is not read",
     "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
     "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n",
     0, 200},
    {"two Authorizations", ASK("GET /hello") "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 0, 400},
    {"two Content-Types", ASK("POST /none") "Content-Type: a/b\r\nContent-Type: a/c\r\n\r\n", 0, 400},
    {"a space before the colon", ASK("GET /hello") "X-A : b\r\n\r\n", 0, 400},
    {"a name that is no token", ASK("GET /hello") "X(A): b\r\n\r\n", 0, 400},
    {"NUL in a value", ASK("GET /hello") "X-A: a\0b\r\n\r\n", sizeof(ASK("GET /hello") "X-A: a\0b\r\n\r\n") - 1, 400},
    {"a control byte in a value",
     ASK("GET /hello") "X-A: a\x01"
                       "b\r\n\r\n",
     0, 400},
    {"%00 in the path", ASK("GET /hello%00") "\r\n", 0, 400},
    {"%00 in the query", ASK("GET /hello?a=%00") "\r\n", 0, 400},
    {"dot-dot", ASK("GET /a/../hello") "\r\n", 0, 400},
    {"encoded dot-dot", ASK("GET /a/%2e%2E/hello") "\r\n", 0, 400},
    {"a single dot", ASK("GET /./hello") "\r\n", 0, 400},
    {"two slashes", ASK("GET //hello") "\r\n", 0, 400},
    {"an encoded slash", ASK("GET /files/a%2Fb") "\r\n", 0, 400},
    {"an encoded backslash", ASK("GET /files/a%5cb") "\r\n", 0, 400},
    {"a backslash", ASK("GET /files/a\\b") "\r\n", 0, 400},
    {"an escape cut short", ASK("GET /files/a%4") "\r\n", 0, 400},
    {"an escape that is none", ASK("GET /files/a%zz") "\r\n", 0, 400},
    {"a raw high byte", ASK("GET /files/\xc3\xa4") "\r\n", 0, 400},
    {"an encoded control byte in the path", ASK("GET /files/a%0ab") "\r\n", 0, 400},
    {"a path that is not UTF-8", ASK("GET /files/%ff") "\r\n", 0, 400},
    {"a fragment", ASK("GET /hello#x") "\r\n", 0, 400},
    {"an absolute target", ASK("GET http://x/hello") "\r\n", 0, 400},
    {"an unknown path", ASK("GET /nowhere") "\r\n", 0, 404},
    {"a slash at the end is another path", ASK("GET /hello/") "\r\n", 0, 404},
    {"a known path with another method", ASK("DELETE /hello") "\r\n", 0, 405},
    {"dots within a segment are fine", ASK("GET /files/a..b") "\r\n", 0, 200},
    {"dots and slashes in a query are fine", ASK("GET /hello?u=http://a/../b") "\r\n", 0, 200},
    {"a body too long for its route", ASK("POST /echo") "Content-Length: 1001\r\n\r\n", 0, 413},
    {"an obsolete fold", ASK("GET /hello") "X-A: a\r\n b\r\n\r\n", 0, 400},
    {"a fold in the last but one header", ASK("GET /hello") "X-A: a\r\n b\r\nX-B: c\r\n\r\n", 0, 400},
    {"a bare line feed after one header", ASK("GET /hello") "X-A: a\nX-B: c\r\n\r\n", 0, 400},
    {"a bare line feed at the end", ASK("GET /hello") "X-A: a\r\n\n", 0, 400},
    {"empty values and blanks around values pass", ASK("GET /hello") "X-A:\r\nX-B: \r\nX-C:\ta\tb\r\n\r\n", 0, 200},
    {"blanks behind a value pass", ASK("GET /hello") "X-A: b  \r\n\r\n", 0, 200},
    {"a request line that ends in a bare line feed", "GET /hello HTTP/1.1\nHost: x\r\n\r\n", 0, 400},
    {"two spaces in the request line", "GET  /hello HTTP/1.1\r\nHost: x\r\n\r\n", 0, 400},
    {"two spaces before the version", "GET /hello  HTTP/1.1\r\nHost: x\r\n\r\n", 0, -1},
    {"a tab in the request line", "GET\t/hello HTTP/1.1\r\nHost: x\r\n\r\n", 0, -1},
    {"NUL in the target", "GET /hel\0lo HTTP/1.1\r\nHost: x\r\n\r\n", 33, -1},
    {"no version", "GET /hello\r\nHost: x\r\n\r\n", 0, -1},
    {"HTTP/2.0", "GET /hello HTTP/2.0\r\nHost: x\r\n\r\n", 0, -1},
    {"an empty line before the request passes", "\r\n" ASK("GET /hello") "\r\n", 0, 200},
    {"bare line feeds", "GET /hello HTTP/1.1\nHost: x\nConnection: close\n\n", 0, 400},
    {"a second request behind a refused one is not read",
     "GET /hello HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n", 0, 400},
};

/* What libmicrohttpd 0.9.75 refuses by itself, before we see a header, it answers with a page of its own whose head it
 * sends twice. */
static bool is_library(const struct buf *b)
{
    return strstr(b->data, "<html>") != NULL;
}

static void each_ambiguous_message_is_refused_and_the_connection_closed(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (size_t i = 0; i < sizeof messages / sizeof *messages; i++) {
        bool closed;
        size_t n = messages[i].n ? messages[i].n : strlen(messages[i].bytes);
        struct buf body = big_buf();
        if (messages[i].status == 413) { /* a body that is to be dropped must come first */
            buf_add(&body, messages[i].bytes, n);
            for (int k = 0; k < 1001; k++) buf_addc(&body, 'x');
        }
        struct buf b = ask_raw(&t, body.len ? body.data : messages[i].bytes, body.len ? body.len : n, &closed);
        int got = status_of(&b);
        if (messages[i].status < 0 ? got == 200 : got != messages[i].status)
            fail_msg("%s: %d, not %d\n%s", messages[i].why, got, messages[i].status, b.data);
        if (!closed) fail_msg("%s: still open", messages[i].why);
        if (!is_library(&b) && memmem(b.data + 9, b.len > 9 ? b.len - 9 : 0, "HTTP/1.1 ", 9))
            fail_msg("%s: two answers\n%s", messages[i].why, b.data);
        buf_close(&b);
        buf_close(&body);
    }
    unserve(&t);
}

static struct buf ask(const struct test_server *t, const char *bytes)
{
    bool closed;
    return ask_raw(t, bytes, strlen(bytes), &closed);
}

static void more_than_64_headers_are_refused_with_431(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (int n = 62; n <= 63; n++) { /* with Host and Connection: 64 and 65 */
        struct buf m = big_buf();
        buf_adds(&m, ASK("GET /hello"));
        for (int i = 0; i < n; i++) buf_addf(&m, "X-%d: a\r\n", i);
        buf_adds(&m, "\r\n");
        struct buf b = ask(&t, m.data);
        assert_int_equal(status_of(&b), n == 62 ? 200 : 431);
        buf_close(&b);
        buf_close(&m);
    }
    unserve(&t);
}

static void a_long_head_may_come_in_small_pieces(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct buf m = big_buf(), b = big_buf();
    buf_adds(&m, "GET /hello HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 50; i++) buf_addf(&m, "X-%d: %0400d\r\n", i, i);
    buf_adds(&m, "\r\n");
    int fd = dial(&t);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < m.len; i += 97) {
            say(fd, m.data + i, m.len - i < 97 ? m.len - i : 97);
            if (i % 5 == 0) nap_ms(1);
        }
        assert_true(hear(fd, &b, "\r\n\r\nhi", 2000));
        assert_int_equal(status_of(&b), 200);
        buf_reset(&b);
    }
    close(fd);
    buf_close(&m);
    buf_close(&b);
    unserve(&t);
}

static void errors_are_openai_objects_with_a_request_id(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct buf b = ask(&t, ASK("DELETE /hello") "\r\n");
    assert_non_null(strstr(b.data, "Allow: GET, HEAD\r\n"));
    assert_non_null(strstr(b.data, "x-request-id: 0"));
    assert_non_null(strstr(b.data, "Content-Type: application/json\r\n"));
    json_t *v = json_loads(strstr(b.data, "\r\n\r\n") + 4, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json_object_get(v, "error"), "code")), "method_not_allowed");
    json_decref(v);
    buf_close(&b);
    unserve(&t);
}

static void an_answer_that_lacks_a_header_for_want_of_memory_is_none(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct buf b = ask(&t, ASK("GET /lack") "\r\n");
    assert_int_equal(b.len, 0);
    buf_close(&b);
    b = ask(&t, ASK("GET /lack?q=1") "\r\n");
    assert_int_equal(status_of(&b), err_info(ERR_NO_MEMORY)->status);
    buf_close(&b);
    unserve(&t);
}

static void head_is_answered_as_get_without_a_body(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct buf b = ask(&t, ASK("HEAD /hello") "\r\n");
    assert_int_equal(status_of(&b), 200);
    assert_non_null(strstr(b.data, "Content-Length: 2\r\n"));
    assert_string_equal(strstr(b.data, "\r\n\r\n"), "\r\n\r\n");
    buf_close(&b);
    b = ask(&t, ASK("HEAD /stream") "\r\n");
    assert_int_equal(status_of(&b), 200);
    assert_string_equal(strstr(b.data, "\r\n\r\n"), "\r\n\r\n");
    buf_close(&b);
    WAIT_FOR(http_server_in_flight(t.s) == 0, 2000);
    unserve(&t);
}

static void patterns_match_segment_by_segment_and_values_are_decoded_once(void **state)
{
    (void)state;
    static const struct {
        const char *request, *body;
    } rows[] = {
        {ASK("POST /t/acme/v1/chat/completions?q=a%2Bb+c") "Authorization: Bearer k1\r\n\r\n", "acme|-|a+b c|k1"},
        {ASK("GET /t/a%20b/%2525") "\r\n", "a b|%25|-|-"},
        {ASK("GET /t/a/b?q") "Authorization: Basic k1\r\n\r\n", "a|b||-"},
        {ASK("GET /t/a/b?x=1&q=&q=2") "Authorization: bearer  k2\r\n\r\n", "a|b||k2"},
        {ASK("GET /files/a/b/c.txt") "Authorization: Bearer two words\r\n\r\n", "a/b/c.txt|-|-|-"},
    };
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = ask(&t, rows[i].request);
        assert_string_equal(strstr(b.data, "\r\n\r\n") + 4, rows[i].body);
        buf_close(&b);
    }
    struct buf b = ask(&t, ASK("GET /files/") "\r\n");
    assert_int_equal(status_of(&b), 404);
    buf_close(&b);
    unserve(&t);
}

static void a_thousand_requests_go_over_one_connection(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    for (int i = 0; i < 1000; i++) {
        struct buf b = big_buf();
        const char *m = i % 3 == 0   ? "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
                        : i % 3 == 1 ? "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
                                     : "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
        says(fd, m);
        assert_true(hear(fd, &b, i % 3 == 1 ? "}}" : "hi", 2000));
        assert_int_equal(status_of(&b), i % 3 == 1 ? 404 : 200);
        buf_close(&b);
    }
    close(fd);
    WAIT_FOR(atomic_load(&told_done) == 1000, 1000);
    unserve(&t);
}

static void an_answer_may_come_later_from_another_thread(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    for (int i = 0; i < 20; i++) {
        struct buf b = big_buf();
        says(fd, "GET /later HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_true(hear(fd, &b, "late", 2000));
        assert_non_null(strstr(b.data, "X-Late: yes\r\n"));
        buf_close(&b);
    }
    close(fd);
    unserve(&t);
}

static void a_refusal_before_the_body_leaves_the_connection_usable_when_the_body_is_short(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    struct buf b = big_buf();
    const char *m =
        "POST /deny HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345GET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
    says(fd, m);
    assert_true(hear(fd, &b, "\r\n\r\nhi", 2000));
    assert_int_equal(status_of(&b), 401);
    buf_close(&b);
    close(fd);
    unserve(&t);
}

static void a_refusal_before_a_long_body_comes_at_once_without_100_continue(void **state)
{
    (void)state;
    static const char *const rows[] = {
        ASK("POST /deny") "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        "POST /deny HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n",
        "POST /deny HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "PUT /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 600000000\r\n\r\n",
    };
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = ask(&t, rows[i]);
        assert_int_equal(status_of(&b), i == 3 ? 413 : 401);
        assert_non_null(strstr(b.data, "onnection: close\r\n"));
        buf_close(&b);
    }
    unserve(&t);
}

static void a_chunked_body_is_bounded_too(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct buf m = big_buf(), b;
    buf_adds(&m, ASK("POST /echo") "Transfer-Encoding: chunked\r\n\r\n3e9\r\n");
    for (int i = 0; i < 1001; i++) buf_addc(&m, 'x');
    buf_adds(&m, "\r\n0\r\n\r\n");
    b = ask(&t, m.data);
    assert_int_equal(status_of(&b), 413);
    buf_close(&b);
    b = ask(&t, ASK("POST /echo") "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_non_null(strstr(b.data, "\r\n\r\nabcde"));
    buf_close(&b);
    buf_close(&m);
    unserve(&t);
}

static void endless_chunks_are_cut(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    char piece[65536 + 32];
    says(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    int head = snprintf(piece, sizeof piece, "10000\r\n");
    memset(piece + head, 'x', 65536);
    memcpy(piece + head + 65536, "\r\n", 2);
    ssize_t sent = 1;
    int i = 0;
    for (; i < 400 && sent > 0; i++) sent = send(fd, piece, (size_t)head + 65538, MSG_NOSIGNAL);
    assert_true(i < 400); /* 25 MiB: refused long before */
    close(fd);
    WAIT_FOR(http_server_in_flight(t.s) == 0, 2000);
    unserve(&t);
}

static void a_body_that_drips_gets_408_and_one_that_never_ends_is_cut(void **state)
{
    (void)state;
    struct http_options o = test_options();
    o.body_timeout_s = 1;
    struct test_server t = serve(&o);
    int slow = dial(&t), endless = dial(&t);
    char answer[512] = "";
    says(slow, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na");
    says(endless, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    nap_ms(550);
    says(endless, "1\r\nx\r\n");
    says(slow, "b"); /* neither is silent */
    nap_ms(550);
    says(slow, "c");
    for (ssize_t n = 1, at = 0; n > 0 && !strstr(answer, "request_timeout") && at < 500; at += n)
        n = recv(slow, answer + at, sizeof answer - 1 - (size_t)at, 0);
    assert_non_null(strstr(answer, "HTTP/1.1 408 "));
    ssize_t sent = 1;
    int i = 0;
    for (; i < 40 && sent > 0; i++) {
        nap_ms(100);
        sent = send(endless, "1\r\nx\r\n", 6, MSG_NOSIGNAL);
    }
    assert_in_range(i, 5, 30);
    close(slow);
    close(endless);
    unserve(&t);
}

/* The answer of a socket on which the server speaks last. */
static void read_all(int fd, char *out, size_t cap)
{
    ssize_t n = 1;
    for (size_t at = 0; n > 0 && at + 1 < cap; at += (size_t)n) {
        n = recv(fd, out + at, cap - 1 - at, 0);
        if (n <= 0) break;
        out[at + (size_t)n] = 0;
    }
    close(fd);
}

static void a_body_that_stops_coming_gets_408_and_its_handler_nothing(void **state)
{
    (void)state;
    static const char *const begun[] = {"PUT /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", "PUT /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
                                        "PUT /sink HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
                                        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"};
    struct http_options o = test_options();
    o.sink_quiet_s = o.body_timeout_s = 1;
    struct test_server t = serve(&o);
    int fd[4], before = atomic_load(&told_done);
    for (int i = 0; i < 4; i++) says(fd[i] = dial(&t), begun[i]);
    for (int i = 0; i < 4; i++) {
        char answer[1024] = "";
        read_all(fd[i], answer, sizeof answer);
        if (!strstr(answer, "HTTP/1.1 408 ") || !strstr(answer, "request_timeout") || !strstr(answer, "Connection: close")) fail_msg("%d: %s", i, answer);
        const char *body = strstr(answer, "\r\n\r\n");
        assert_int_equal(strlen(body + 4), strtol(strstr(answer, "Content-Length: ") + 16, NULL, 10));
    }
    WAIT_FOR(http_server_in_flight(t.s) == 0 && http_server_connections(t.s) == 0, 2000);
    assert_int_equal(atomic_load(&told_done), before + 4);
    unserve(&t);
}

static void a_body_that_keeps_coming_is_waited_for(void **state)
{
    (void)state;
    struct http_options o = test_options();
    o.sink_quiet_s = 2;
    struct test_server t = serve(&o);
    char answer[1024] = "";
    int fd = dial(&t);
    says(fd, "PUT /sink HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\n");
    for (int i = 0; i < 5; i++) {
        nap_ms(700); /* 3.5 s in all */
        says(fd, "x");
    }
    read_all(fd, answer, sizeof answer);
    assert_non_null(strstr(answer, "HTTP/1.1 201 "));
    unserve(&t);
}

static void an_upload_that_drips_gets_408_and_a_quick_one_of_the_same_time_is_taken(void **state)
{
    (void)state;
    static char piece[20001];
    struct http_options o = test_options();
    o.sink_slow_s = 1;
    o.body_timeout_s = 1;
    struct test_server t = serve(&o);
    char taken[1024] = "";
    int slow = dial(&t), quick = dial(&t);
    ssize_t sent = 1;
    memset(piece, 'x', sizeof piece - 1);
    says(slow, "PUT /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    says(quick, "PUT /sink HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 400000\r\n\r\n");
    for (int i = 0; i < 20; i++) { /* 2 s: two looks at the speed */
        nap_ms(100);
        says(quick, piece);
        if (i < 15) sent = send(slow, "x", 1, MSG_NOSIGNAL);
    }
    read_all(quick, taken, sizeof taken);
    assert_non_null(strstr(taken, "HTTP/1.1 201 "));
    for (int i = 0; i < 60 && sent > 0; i++) {
        nap_ms(100);
        sent = send(slow, "x", 1, MSG_NOSIGNAL);
    }
    assert_true(sent < 0); /* cut, whether or not its answer is read */
    close(slow);
    WAIT_FOR(http_server_in_flight(t.s) == 0, 2000);
    unserve(&t);
}

static void a_sink_gets_all_pieces_and_may_refuse_early(void **state)
{
    (void)state;
    struct http_options o = test_options();
    for (int refuse = 0; refuse < 2; refuse++) {
        struct test_server t = serve(&o);
        struct buf m = big_buf();
        buf_adds(&m, ASK("PUT /sink") "Content-Length: 5000000\r\n");
        buf_adds(&m, refuse ? "X-Refuse-After: 100000\r\n\r\n" : "\r\n");
        for (int i = 0; i < 500000; i++) buf_adds(&m, "0123456789");
        struct buf b = ask(&t, m.data);
        assert_int_equal(status_of(&b), refuse ? 400 : 201);
        assert_non_null(strstr(b.data, refuse ? "adapter_invalid" : "\r\n\r\n5000000"));
        if (refuse) assert_in_range(atomic_load(&sink_bytes), 100000, 200000);
        buf_close(&b);
        buf_close(&m);
        unserve(&t);
    }
}

static void a_client_that_leaves_while_suspended_is_noticed_within_50_ms(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (int i = 1; i <= 5; i++) {
        int fd = dial(&t);
        says(fd, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
        WAIT_FOR(atomic_load(&live_threads) == i, 1000);
        nap_ms(10);
        int64_t t0 = clock_mono_us();
        close(fd);
        WAIT_FOR(atomic_load(&told_gone) == i, 1000);
        assert_in_range(atomic_load(&gone_at_us) - t0, 0, 2000000); /* without the watcher: the idle time-out */
    }
    assert_int_equal(atomic_load(&told_free), 0); /* the handler still owes: nothing of the request is freed */
    assert_int_equal(http_server_in_flight(t.s), 5);
    atomic_store(&let_go, true);
    WAIT_FOR(atomic_load(&told_free) == 5, 1000);
    assert_int_equal(http_server_in_flight(t.s), 0);
    assert_int_equal(atomic_load(&told_gone), 5);
    unserve(&t);
}

static void a_client_that_left_before_its_request_was_read_is_noticed_too(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (int i = 0; i < 50; i++) {
        int fd = dial(&t);
        says(fd, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
        close(fd);
    }
    WAIT_FOR(atomic_load(&live_threads) == 50, 5000);
    WAIT_FOR(atomic_load(&told_gone) == 50, 1000); /* each, though none was suspended when its client left */
    atomic_store(&let_go, true);
    WAIT_FOR(http_server_in_flight(t.s) == 0, 1000);
    assert_int_equal(atomic_load(&told_free), 50);
    unserve(&t);
}

static void connections_beyond_the_limit_get_503(void **state)
{
    (void)state;
    struct http_options o = test_options();
    o.max_connections = 3;
    struct test_server t = serve(&o);
    int held[3];
    for (int i = 0; i < 3; i++) {
        struct buf b = big_buf();
        held[i] = dial(&t);
        says(held[i], "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_true(hear(held[i], &b, "hi", 1000));
        buf_close(&b);
    }
    bool closed;
    struct buf b = ask_raw(&t, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n",
                           strlen("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"), &closed);
    assert_int_equal(status_of(&b), 503);
    assert_true(closed);
    buf_close(&b);
    for (int i = 0; i < 3; i++) close(held[i]);
    nap_ms(100);
    b = ask(&t, ASK("GET /hello") "\r\n");
    assert_int_equal(status_of(&b), 200);
    buf_close(&b);
    unserve(&t);
}

static void quiesce_finishes_what_runs_and_accepts_nothing(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    says(fd, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_FOR(atomic_load(&live_threads) == 1, 1000);
    http_server_quiesce(t.s);
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t.port)};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int other = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(other, (struct sockaddr *)&in, sizeof in), -1);
    close(other);
    atomic_store(&let_go, true);
    struct buf b = big_buf();
    assert_true(hear(fd, &b, NULL, 2000)); /* answered, then closed */
    assert_int_equal(status_of(&b), 200);
    assert_non_null(strstr(b.data, "onnection: close\r\n"));
    buf_close(&b);
    close(fd);
    unserve(&t);
}

static void stop_with_suspended_requests_and_open_streams_is_orderly(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd[40];
    for (int i = 0; i < 40; i++) {
        const char *m =
            i % 2 ? "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n" : "GET /stream?n=-1&every=20 HTTP/1.1\r\nHost: x\r\n\r\n";
        fd[i] = dial(&t);
        says(fd[i], m);
    }
    WAIT_FOR(atomic_load(&live_threads) == 40, 2000);
    int64_t t0 = clock_mono_us();
    http_server_stop(t.s, 50);
    assert_in_range(clock_mono_us() - t0, 0, 10000000);
    assert_int_equal(atomic_load(&told_gone), 40);
    atomic_store(&let_go, true); /* the hanging handlers answer a server that is gone */
    WAIT_FOR(atomic_load(&live_threads) == 0, 5000);
    WAIT_FOR(atomic_load(&told_free) == 40, 1000);
    for (int i = 0; i < 40; i++) close(fd[i]);
    free(t.bound);
}

struct late_word {
    int fd;
    int64_t at_us;
};

static void *say_late(void *arg)
{
    static const char m[] = "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n";
    const struct late_word *w = arg;
    while (clock_mono_us() < w->at_us) {}
    (void)!send(w->fd, m, sizeof m - 1, MSG_NOSIGNAL);
    return NULL;
}

/* On a kept connection, in the very moment of the stop: it is not heard at all, or it is answered. */
static void a_request_that_a_handler_got_before_the_end_is_answered(void **state)
{
    (void)state;
    struct http_options o = test_options();
    int handled = 0, answered = 0;
    for (int i = 0; i < 300; i++) {
        struct test_server t = serve(&o);
        struct buf b = big_buf();
        pthread_t sayer;
        atomic_store(&let_go, true);
        struct late_word w = {.fd = dial(&t)};
        says(w.fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_true(hear(w.fd, &b, "\r\n\r\nhi", 2000));
        b.len = 0;
        w.at_us = clock_mono_us() + 300 + i % 100 * 4;
        assert_int_equal(pthread_create(&sayer, NULL, say_late, &w), 0);
        while (clock_mono_us() < w.at_us - i % 7 * 50) {}
        http_server_stop(t.s, 1000);
        pthread_join(sayer, NULL);
        hear(w.fd, &b, NULL, 2000);
        answered += b.len && status_of(&b) == 200;
        WAIT_FOR(atomic_load(&live_threads) == 0, 2000);
        handled += atomic_load(&told_free);
        buf_close(&b);
        close(w.fd);
        free(t.bound);
    }
    assert_true(handled > 0);
    assert_int_equal(answered, handled);
}

static void a_unix_socket_is_private_and_replaces_a_stale_file(void **state)
{
    (void)state;
    char dir[] = "/tmp/weft-test-XXXXXX", where[64];
    struct stat st;
    struct err e = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(where, sizeof where, "unix:%s/s", dir);
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s", where + 5);
    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(stale, (struct sockaddr *)&un, sizeof un), 0);
    close(stale);
    struct http_options o = test_options();
    o.listen = where;
    struct test_server t = serve(&o);
    assert_int_equal(stat(t.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    struct buf b = ask(&t, ASK("GET /hello") "\r\n");
    assert_int_equal(status_of(&b), 200);
    buf_close(&b);
    struct http_server *second;
    assert_int_equal(http_server_start(&second, &o, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "another process"));
    unserve(&t);
    assert_int_equal(stat(where + 5, &st), -1);
    rmdir(dir);
}

static void an_inherited_socket_serves_and_goes_on_listening_after_stop(void **state)
{
    (void)state;
    struct sockaddr_in in = {.sin_family = AF_INET};
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), first = -1;
    assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(listen(fd, 16), 0);
    for (int round = 0; round < 2; round++) { /* what one server leaves in the queue, the next one answers */
        char where[16];
        snprintf(where, sizeof where, "fd:%d", dup(fd));
        struct http_options o = test_options();
        o.listen = where;
        struct test_server t = serve(&o);
        if (round == 0) {
            struct buf b = ask(&t, ASK("GET /hello") "\r\n");
            assert_int_equal(status_of(&b), 200);
            buf_close(&b);
            http_server_quiesce(t.s);
            first = dial(&t);
            says(first, ASK("GET /hello") "\r\n");
        } else {
            struct buf b = big_buf();
            assert_true(hear(first, &b, NULL, 2000));
            assert_int_equal(status_of(&b), 200);
            buf_close(&b);
            close(first);
        }
        unserve(&t);
    }
    close(fd);
}

static void addresses_that_are_none_are_named(void **state)
{
    (void)state;
    static const char *const rows[] = {
        "",      "8080", ":8080",   "localhost:80x", "127.0.0.1:", "::1:80", "127.0.0.1:99999999",
        "unix:", "fd:0", "fd:9999", "example.com:80"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct http_options o = test_options();
        struct http_server *s;
        struct err e = {0};
        o.listen = rows[i];
        if (http_server_start(&s, &o, NULL, &e) == 0) fail_msg("'%s' was taken", rows[i]);
        assert_int_equal(e.code, ERR_USAGE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_ambiguous_message_is_refused_and_the_connection_closed),
        cmocka_unit_test(more_than_64_headers_are_refused_with_431),
        cmocka_unit_test(a_long_head_may_come_in_small_pieces),
        cmocka_unit_test(errors_are_openai_objects_with_a_request_id),
        cmocka_unit_test(an_answer_that_lacks_a_header_for_want_of_memory_is_none),
        cmocka_unit_test(head_is_answered_as_get_without_a_body),
        cmocka_unit_test(patterns_match_segment_by_segment_and_values_are_decoded_once),
        cmocka_unit_test(a_thousand_requests_go_over_one_connection),
        cmocka_unit_test(an_answer_may_come_later_from_another_thread),
        cmocka_unit_test(a_refusal_before_the_body_leaves_the_connection_usable_when_the_body_is_short),
        cmocka_unit_test(a_refusal_before_a_long_body_comes_at_once_without_100_continue),
        cmocka_unit_test(a_chunked_body_is_bounded_too),
        cmocka_unit_test(a_body_that_drips_gets_408_and_one_that_never_ends_is_cut),
        cmocka_unit_test(a_body_that_stops_coming_gets_408_and_its_handler_nothing),
        cmocka_unit_test(a_body_that_keeps_coming_is_waited_for),
        cmocka_unit_test(endless_chunks_are_cut),
        cmocka_unit_test(an_upload_that_drips_gets_408_and_a_quick_one_of_the_same_time_is_taken),
        cmocka_unit_test(a_sink_gets_all_pieces_and_may_refuse_early),
        cmocka_unit_test(a_client_that_leaves_while_suspended_is_noticed_within_50_ms),
        cmocka_unit_test(a_client_that_left_before_its_request_was_read_is_noticed_too),
        cmocka_unit_test(connections_beyond_the_limit_get_503),
        cmocka_unit_test(quiesce_finishes_what_runs_and_accepts_nothing),
        cmocka_unit_test(a_request_that_a_handler_got_before_the_end_is_answered),
        cmocka_unit_test(stop_with_suspended_requests_and_open_streams_is_orderly),
        cmocka_unit_test(a_unix_socket_is_private_and_replaces_a_stale_file),
        cmocka_unit_test(an_inherited_socket_serves_and_goes_on_listening_after_stop),
        cmocka_unit_test(addresses_that_are_none_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
