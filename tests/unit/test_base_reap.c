/* Connections whose message does not come in time are cut, those whose reader does not read, and under pressure idle ones. */
#include "tests/unit/test_base_net.h"

static struct http_options hasty(void)
{
    struct http_options o = test_options();
    o.head_timeout_s = o.body_timeout_s = o.send_timeout_s = 1;
    return o;
}

/* A byte each 100 ms of endless ones; how long the connection took it, in ms, or -1 when it went on for `most` ms. */
static int drip(int fd, const char *begin, int most)
{
    struct buf b = big_buf();
    int64_t t0 = clock_mono_us();
    says(fd, begin);
    while (clock_mono_us() - t0 < most * 1000LL && !hear(fd, &b, NULL, 100)) says(fd, "x");
    int ms = (int)((clock_mono_us() - t0) / 1000);
    buf_close(&b);
    close(fd);
    return ms < most ? ms : -1;
}

static void a_head_that_drips_is_cut(void **state)
{
    (void)state;
    struct http_options o = hasty();
    struct test_server t = serve(&o);
    assert_in_range(drip(dial(&t), "GET /hello HTTP/1.1\r\nHost: x\r\nX-Long: ", 8000), 900, 5000);
    assert_in_range(drip(dial(&t), "", 8000), 900, 5000);
    int fd = dial(&t);
    struct buf b = big_buf();
    says(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(hear(fd, &b, "hi", 2000));
    nap_ms(2500); /* longer than a head may take: it is idle, not slow */
    buf_reset(&b);
    says(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(hear(fd, &b, "hi", 2000));
    nap_ms(1900); /* it was seen between two messages */
    assert_in_range(drip(fd, "GET /hello HTTP/1.1\r\nHost: x\r\nX-Long: ", 8000), 900, 5000);
    for (int i = 0; i < 200 && http_server_cut(t.s) < 3; i++) nap_ms(10); /* counted after the cut */
    assert_int_equal(http_server_cut(t.s), 3);
    buf_close(&b);
    unserve(&t);
}

static void a_body_that_nobody_wants_is_not_waited_for(void **state)
{
    (void)state;
    struct http_options o = hasty();
    struct test_server t = serve(&o);
    assert_in_range(drip(dial(&t), "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", 9000), 1900, 6000);
    assert_in_range(drip(dial(&t), "POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", 9000), 1900, 6000);
    assert_in_range(drip(dial(&t), "POST /deny HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", 9000), 1900, 6000);
    unserve(&t);
}

static void a_body_that_stops_is_cut(void **state)
{
    (void)state;
    struct http_options o = hasty();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    struct buf b = big_buf();
    says(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nhalf");
    assert_true(hear(fd, &b, " 408 ", 6000)); /* http_quiet.c answers whom the reaper would only cut */
    buf_close(&b);
    close(fd);
    unserve(&t);
}

static void an_upload_may_take_longer(void **state)
{
    (void)state;
    struct http_options o = hasty();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    struct buf b = big_buf();
    says(fd, "PUT /sink HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n");
    for (int i = 0; i < 40; i++) says(fd, "x"), nap_ms(100);
    assert_true(hear(fd, &b, "\r\n\r\n40", 3000));
    buf_close(&b);
    close(fd);
    unserve(&t);
}

/* All is written long before it is read, and fits the stream's own bound: TCP alone can tell. */
static void a_reader_that_does_not_read_is_cut(void **state)
{
    (void)state;
    struct http_options o = hasty();
    o.stream_buffer = 16 << 20;
    struct test_server t = serve(&o);
    int fd = dial(&t);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
    says(fd, "GET /stream?n=8000&size=1000 HTTP/1.1\r\nHost: x\r\n\r\n");
    WAIT_FOR(atomic_load(&closes) == 1, 15000);
    assert_int_equal(atomic_load(&clean_closes), 0);
    assert_true(atomic_load(&close_mark) < 8000);
    close(fd);
    unserve(&t);
}

static int gated(struct http_request *r)
{
    struct err e = {0};
    if (strcmp(r->path, "/hello") == 0) return 0;
    err_set(&e, ERR_OVERLOADED, "not now");
    http_reply_error(r, &e);
    return -1;
}

static void the_gate_refuses_before_the_body(void **state)
{
    (void)state;
    struct http_options o = hasty();
    o.gate = gated;
    struct test_server t = serve(&o);
    int fd = dial(&t);
    struct buf b = big_buf();
    says(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 900\r\n\r\n");
    assert_true(hear(fd, &b, "overloaded", 2000));
    assert_int_equal(status_of(&b), 503);
    assert_non_null(strstr(b.data, "Retry-After: 1\r\n"));
    assert_null(strstr(b.data, "100 Continue"));
    close(fd);
    buf_reset(&b);
    fd = dial(&t);
    says(fd, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(hear(fd, &b, "hi", 2000));
    close(fd);
    buf_close(&b);
    unserve(&t);
}

static void shedding_closes_idle_connections_and_says_so(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int idle = dial(&t), busy = dial(&t), late = dial(&t);
    struct buf b = big_buf();
    says(idle, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(hear(idle, &b, "hi", 2000));
    assert_null(strstr(b.data, "close"));
    says(busy, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
    http_server_shed(t.s, true);
    buf_reset(&b);
    assert_true(hear(idle, &b, NULL, 8000));
    assert_int_equal(b.len, 0);
    says(late, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(hear(late, &b, NULL, 2000)); /* answered, and closed at once */
    assert_non_null(strstr(b.data, "Connection: close"));
    buf_reset(&b);
    atomic_store(&let_go, true);
    assert_true(hear(busy, &b, "free", 2000));
    http_server_shed(t.s, false);
    close(idle), close(busy), close(late);
    buf_close(&b);
    unserve(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_head_that_drips_is_cut),
        cmocka_unit_test(a_body_that_nobody_wants_is_not_waited_for),
        cmocka_unit_test(a_body_that_stops_is_cut),
        cmocka_unit_test(an_upload_may_take_longer),
        cmocka_unit_test(a_reader_that_does_not_read_is_cut),
        cmocka_unit_test(the_gate_refuses_before_the_body),
        cmocka_unit_test(shedding_closes_idle_connections_and_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
