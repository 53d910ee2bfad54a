/* http streams: many at once, marks that never say too much, and readers that leave or do not read. */
#include "tests/unit/test_base_net.h"

#define STREAMS 200

static void open_stream(int fd, const char *query)
{
    char m[128];
    int n = snprintf(m, sizeof m, "GET /stream?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", query);
    say(fd, m, (size_t)n);
}

/* The body of a chunked answer. */
static struct buf unchunk(const struct buf *b, bool *whole)
{
    struct buf out = big_buf();
    const char *p = strstr(b->data, "\r\n\r\n"), *end = b->data + b->len;
    *whole = false;
    for (p = p ? p + 4 : end; p < end;) {
        char *after;
        size_t n = strtoul(p, &after, 16);
        *whole = n == 0;
        if (n == 0 || after + 2 + n > end) break;
        buf_add(&out, after + 2, n);
        p = after + 2 + n + 2;
    }
    return out;
}

/* "data: 1\n" ... "data: n\n", nothing lost, doubled or out of order. */
static void check_events(const struct buf *b, int n)
{
    bool whole;
    struct buf text = unchunk(b, &whole);
    const char *p = text.data;
    assert_true(whole);
    for (int i = 1; i <= n; i++) {
        char want[32];
        int len = snprintf(want, sizeof want, "data: %d\n", i);
        if (strncmp(p, want, (size_t)len)) fail_msg("event %d is missing", i);
        p += len;
    }
    assert_int_equal(*p, 0);
    buf_close(&text);
}

static void two_hundred_streams_lose_double_and_reorder_nothing(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd[STREAMS];
    for (int i = 0; i < STREAMS; i++) {
        fd[i] = dial(&t);
        open_stream(fd[i], i % 2 ? "n=50&every=2" : "n=500");
    }
    for (int i = 0; i < STREAMS; i++) {
        struct buf b = big_buf();
        assert_true(hear(fd[i], &b, NULL, 20000));
        check_events(&b, i % 2 ? 50 : 500);
        buf_close(&b);
        close(fd[i]);
    }
    WAIT_FOR(atomic_load(&closes) == STREAMS, 1000);
    assert_int_equal(atomic_load(&clean_closes), STREAMS);
    WAIT_FOR(atomic_load(&told_free) == STREAMS, 1000);
    assert_int_equal(atomic_load(&told_gone), 0);
    unserve(&t);
}

static void a_stream_that_ended_well_has_handed_its_last_mark(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    struct buf b = big_buf();
    open_stream(fd, "n=77");
    assert_true(hear(fd, &b, NULL, 5000));
    WAIT_FOR(atomic_load(&closes) == 1, 1000);
    assert_int_equal(atomic_load(&close_mark), 77);
    assert_int_equal(atomic_load(&clean_closes), 1);
    buf_close(&b);
    close(fd);
    unserve(&t);
}

static void the_first_event_leaves_at_once(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    struct buf b = big_buf();
    open_stream(fd, "n=-1&every=400");
    int64_t t0 = clock_mono_us();
    assert_true(hear(fd, &b, "data: 1\n", 2000));
    assert_in_range(clock_mono_us() - t0, 0, 390000); /* before the second one is made */
    buf_close(&b);
    close(fd);
    unserve(&t);
}

static void a_reader_that_leaves_in_mid_stream_ends_it_unclean_with_a_mark_not_above_what_was_sent(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (int i = 1; i <= 10; i++) {
        int fd = dial(&t);
        struct buf b = big_buf();
        open_stream(fd, "n=-1&every=3");
        assert_true(hear(fd, &b, "data: 5\n", 5000));
        int64_t t0 = clock_mono_us();
        close(fd);
        WAIT_FOR(atomic_load(&closes) == i, 2000);
        assert_in_range(atomic_load(&gone_at_us) - t0, 0, 2000000); /* without the watcher: the idle time-out */
        WAIT_FOR(atomic_load(&live_threads) == 0, 2000);
        assert_int_equal(atomic_load(&clean_closes), 0);
        assert_in_range(atomic_load(&close_mark), 4, atomic_load(&written_mark));
        assert_int_equal(atomic_load(&told_gone), i);
        buf_close(&b);
    }
    WAIT_FOR(atomic_load(&told_free) == 10, 1000);
    unserve(&t);
}

static void a_reader_that_does_not_read_is_cut_at_the_buffer_limit(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t), small = 4096;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    open_stream(fd, "n=-1&size=2000");
    WAIT_FOR(atomic_load(&closes) == 1, 10000);
    WAIT_FOR(atomic_load(&told_free) == 1, 2000);
    assert_int_equal(atomic_load(&clean_closes), 0);
    struct buf b = big_buf(); /* what was handed can be read, at least as far as the mark says */
    hear(fd, &b, NULL, 5000);
    bool whole;
    struct buf text = unchunk(&b, &whole);
    assert_false(whole);
    assert_true(atomic_load(&close_mark) < atomic_load(&written_mark));
    buf_close(&text);
    buf_close(&b);
    close(fd);
    unserve(&t);
}

/* What goes to the socket at once, what waits in the queue because the peer takes nothing, and what goes at once again. */
static void a_reader_that_pauses_gets_all_in_order(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t), small = 2048;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    open_stream(fd, "n=2000&every=1");
    struct buf b = big_buf();
    for (int i = 0; i < 3; i++) {
        char text[32];
        snprintf(text, sizeof text, "data: %d\n", i * 300 + 100);
        assert_true(hear(fd, &b, text, 5000));
        nanosleep(&(struct timespec){.tv_nsec = 600000000}, NULL); /* some 600 events of 16 bytes */
    }
    assert_true(hear(fd, &b, NULL, 10000));
    check_events(&b, 2000);
    WAIT_FOR(atomic_load(&closes) == 1, 1000);
    assert_int_equal(atomic_load(&close_mark), 2000);
    assert_int_equal(atomic_load(&clean_closes), 1);
    buf_close(&b);
    close(fd);
    unserve(&t);
}

/* 40 MB through a buffer of 64 KB, to a reader that pauses. */
static void a_writer_that_waits_for_room_writes_any_length_in_bounded_memory(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    open_stream(fd, "n=20000&size=2000&patient=1");
    nap_ms(200);
    assert_in_range(atomic_load(&written_mark), 1, 19000); /* it waits */
    struct buf b = big_buf();
    assert_true(hear(fd, &b, NULL, 30000));
    bool whole;
    struct buf text = unchunk(&b, &whole);
    assert_true(whole);
    assert_int_equal(text.len, 20000u * 2001);
    for (int i = 1; i <= 20000; i++) assert_int_equal(strtol(text.data + (size_t)(i - 1) * 2001 + 6, NULL, 10), i);
    assert_in_range(atomic_load(&waits), 1, 20000);
    WAIT_FOR(atomic_load(&clean_closes) == 1, 2000);
    buf_close(&text);
    buf_close(&b);
    close(fd);
    unserve(&t);
}

static void a_writer_that_waits_for_room_is_told_when_the_reader_leaves(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    for (int i = 1; i <= 10; i++) {
        int fd = dial(&t), small = 4096;
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        open_stream(fd, "n=-1&size=2000&patient=1");
        nap_ms(i * 10);
        close(fd);
        WAIT_FOR(atomic_load(&live_threads) == 0, 3000);
        WAIT_FOR(atomic_load(&closes) == i, 1000);
    }
    assert_int_equal(atomic_load(&clean_closes), 0);
    WAIT_FOR(atomic_load(&told_free) == 10, 1000);
    unserve(&t);
}

static void a_writer_that_waits_for_room_is_told_when_the_server_stops(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    open_stream(fd, "n=-1&size=2000&patient=1");
    WAIT_FOR(atomic_load(&waits) > 0 || atomic_load(&written_mark) > 100, 3000);
    unserve(&t);
    WAIT_FOR(atomic_load(&live_threads) == 0, 3000);
    close(fd);
}

static void an_aborted_stream_has_no_end(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    bool closed, whole;
    struct buf b =
        ask_raw(&t, "GET /cut HTTP/1.1\r\nHost: x\r\n\r\n", strlen("GET /cut HTTP/1.1\r\nHost: x\r\n\r\n"), &closed);
    struct buf text = unchunk(&b, &whole);
    assert_true(closed);
    assert_false(whole);
    assert_string_equal(text.data, "half");
    buf_close(&text);
    buf_close(&b);
    unserve(&t);
}

static void http_1_0_gets_a_stream_without_chunks(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    bool closed;
    const char *m = "GET /stream?n=3 HTTP/1.0\r\nHost: x\r\n\r\n";
    struct buf b = ask_raw(&t, m, strlen(m), &closed);
    assert_true(closed);
    assert_string_equal(strstr(b.data, "\r\n\r\n") + 4, "data: 1\ndata: 2\ndata: 3\n");
    buf_close(&b);
    unserve(&t);
}

static void a_connection_serves_again_after_a_stream(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    int fd = dial(&t);
    for (int i = 0; i < 20; i++) {
        struct buf b = big_buf();
        const char *m = "GET /stream?n=5&every=1 HTTP/1.1\r\nHost: x\r\n\r\n";
        says(fd, m);
        assert_true(hear(fd, &b, "\r\n0\r\n\r\n", 2000));
        check_events(&b, 5);
        buf_close(&b);
    }
    close(fd);
    unserve(&t);
}

static void a_stream_or_request_that_waits_outlives_the_idle_time_out(void **state)
{
    (void)state;
    struct http_options o = test_options();
    o.idle_timeout_s = 1;
    struct test_server t = serve(&o);
    int fd = dial(&t), hanging = dial(&t), idle = dial(&t);
    struct buf b = big_buf();
    open_stream(fd, "n=3&every=2300");
    says(hanging, "GET /hang HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    says(idle, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_true(hear(idle, &b, NULL, 4000)); /* an idle connection is closed */
    buf_reset(&b);
    assert_true(hear(fd, &b, NULL, 9000));
    check_events(&b, 3);
    buf_reset(&b);
    atomic_store(&let_go, true);
    assert_true(hear(hanging, &b, NULL, 2000));
    assert_int_equal(status_of(&b), 200);
    buf_close(&b);
    close(fd), close(hanging), close(idle);
    unserve(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_hundred_streams_lose_double_and_reorder_nothing),
        cmocka_unit_test(a_stream_that_ended_well_has_handed_its_last_mark),
        cmocka_unit_test(the_first_event_leaves_at_once),
        cmocka_unit_test(a_reader_that_leaves_in_mid_stream_ends_it_unclean_with_a_mark_not_above_what_was_sent),
        cmocka_unit_test(a_reader_that_does_not_read_is_cut_at_the_buffer_limit),
        cmocka_unit_test(a_reader_that_pauses_gets_all_in_order),
        cmocka_unit_test(a_writer_that_waits_for_room_writes_any_length_in_bounded_memory),
        cmocka_unit_test(a_writer_that_waits_for_room_is_told_when_the_reader_leaves),
        cmocka_unit_test(a_writer_that_waits_for_room_is_told_when_the_server_stops),
        cmocka_unit_test(an_aborted_stream_has_no_end),
        cmocka_unit_test(http_1_0_gets_a_stream_without_chunks),
        cmocka_unit_test(a_stream_or_request_that_waits_outlives_the_idle_time_out),
        cmocka_unit_test(a_connection_serves_again_after_a_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
