/* client: against our own server, and against sockets that behave badly. */
#include "base/client.h"
#include "base/client_internal.h" /* the reading of a head */
#include "tests/unit/test_base_net.h"

struct seen {
    _Atomic int heads, dones;
    int status, pause_at;
    _Atomic int refuse_after, pause_ms; /* paused by each piece from pause_at on, but for 0 */
    struct client_call *call;
    char type[64], retry[64];
    struct buf body;
    struct err e;
    _Atomic size_t got;
};

static void seen_head(void *u, const struct client_reply *r)
{
    struct seen *s = u;
    assert_int_equal(atomic_fetch_add(&s->heads, 1), 0);
    assert_int_equal(s->body.len, 0);
    snprintf(s->type, sizeof s->type, "%s", r->content_type ? r->content_type : "");
    snprintf(s->retry, sizeof s->retry, "%s", r->retry_after ? r->retry_after : "");
}

static int seen_data(void *u, const char *bytes, size_t n)
{
    struct seen *s = u;
    buf_add(&s->body, bytes, n);
    if (s->pause_ms && s->body.len >= (size_t)s->pause_at) client_pause(s->call, s->pause_ms);
    atomic_fetch_add(&s->got, n);
    return s->refuse_after && s->body.len >= (size_t)s->refuse_after ? -1 : 0;
}

static void seen_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct seen *s = u;
    s->status = r->status;
    s->e = *e;
    atomic_fetch_add(&s->dones, 1);
}

static void seen_init(struct seen *s)
{
    memset(s, 0, sizeof *s);
    buf_init(&s->body, 64 << 20);
}

static struct client *new_client(int connections)
{
    struct client *c = NULL;
    struct err e = {0};
    if (client_new(&c, connections, &e)) fail_msg("%s", e.msg);
    return c;
}

static struct client_request request(const char *url, struct seen *s)
{
    return (struct client_request){.method = "GET",
                                   .url = url,
                                   .connect_ms = 2000,
                                   .first_byte_ms = 5000,
                                   .idle_ms = 5000,
                                   .total_ms = 20000,
                                   .on_head = seen_head,
                                   .on_data = seen_data,
                                   .on_done = seen_done,
                                   .user = s};
}

static struct client_call *start(struct client *c, const struct client_request *r)
{
    struct client_call *k = NULL;
    struct err e = {0};
    if (client_start(c, r, &k, &e)) fail_msg("%s", e.msg);
    return k;
}

static const char *url_of(const struct test_server *t, const char *path, char out[128])
{
    snprintf(out, 128, "http://127.0.0.1:%d%s", t->port, path);
    return out;
}

static void a_stream_arrives_whole_and_done_comes_last_and_once(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct client *c = new_client(300);
    char url[128];
    struct seen *s = calloc(200, sizeof *s);
    for (int i = 0; i < 200; i++) {
        seen_init(&s[i]);
        struct client_request r = request(url_of(&t, "/stream?n=30&every=2", url), &s[i]);
        start(c, &r);
    }
    for (int i = 0; i < 200; i++) {
        WAIT_FOR(atomic_load(&s[i].dones) == 1, 20000);
        assert_int_equal(s[i].e.code, ERR_NONE);
        assert_int_equal(s[i].status, 200);
        assert_string_equal(s[i].type, "text/event-stream");
        const char *p = s[i].body.data;
        for (int k = 1; k <= 30; k++) {
            char want[32];
            int n = snprintf(want, sizeof want, "data: %d\n", k);
            assert_memory_equal(p, want, n);
            p += n;
        }
        assert_int_equal(*p, 0);
        buf_close(&s[i].body);
    }
    client_free(c);
    free(s);
    unserve(&t);
}

static void bodies_and_headers_go_as_given_over_tcp_and_unix_sockets(void **state)
{
    (void)state;
    char dir[] = "/tmp/weft-test-XXXXXX", where[64], url[128];
    assert_non_null(mkdtemp(dir));
    snprintf(where, sizeof where, "unix:%s/s", dir);
    for (int local = 0; local < 2; local++) {
        struct http_options o = test_options();
        if (local) o.listen = where;
        struct test_server t = serve(&o);
        struct client *c = new_client(4);
        const char *headers[] = {"Authorization: Bearer k9", NULL};
        for (int i = 0; i < 200; i++) {
            struct seen s;
            seen_init(&s);
            bool params = i % 2;
            const char *path = params ? "/t/acme/v1/chat/completions?q=1" : "/echo";
            struct client_request r = request(local ? "" : url_of(&t, path, url), &s);
            if (local) {
                snprintf(url, sizeof url, "http://engine%s", path);
                r.url = url;
                r.unix_socket = t.path;
            }
            r.method = "POST";
            r.headers = headers;
            r.body = params ? NULL : "{\"a\":1}";
            r.body_len = 7;
            start(c, &r);
            WAIT_FOR(atomic_load(&s.dones) == 1, 5000);
            if (s.e.code) fail_msg("%s", s.e.msg);
            assert_string_equal(s.body.data, params ? "acme|-|1|k9" : "{\"a\":1}");
            buf_close(&s.body);
        }
        client_free(c);
        unserve(&t);
    }
    rmdir(dir);
}

/* A listener that answers each connection with `say_first` and then keeps silent. */
struct mute {
    int fd, port;
    const char *say_first;
    pthread_t thread;
    int held[64], n;
    bool ends; /* what it says, as it says no more */
};

static void *mute_run(void *arg)
{
    struct mute *m = arg;
    for (int fd; m->n < 64 && (fd = accept(m->fd, NULL, NULL)) >= 0;) {
        m->held[m->n++] = fd;
        char drop[4096];
        ssize_t got = recv(fd, drop, sizeof drop, 0);
        if (got > 0) says(fd, m->say_first);
        if (m->ends) shutdown(fd, SHUT_WR);
    }
    return NULL;
}

static void mute_start(struct mute *m, const char *say_first, bool ends)
{
    *m = (struct mute){.say_first = say_first, .ends = ends, .fd = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in in = {.sin_family = AF_INET};
    socklen_t n = sizeof in;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(bind(m->fd, (struct sockaddr *)&in, sizeof in), 0);
    assert_int_equal(listen(m->fd, 64), 0);
    assert_int_equal(getsockname(m->fd, (struct sockaddr *)&in, &n), 0);
    m->port = ntohs(in.sin_port);
    assert_int_equal(pthread_create(&m->thread, NULL, mute_run, m), 0);
}

static void mute_stop(struct mute *m)
{
    shutdown(m->fd, SHUT_RDWR);
    pthread_join(m->thread, NULL);
    for (int i = 0; i < m->n; i++) close(m->held[i]);
    close(m->fd);
}

static void each_time_limit_ends_the_call_with_its_own_words(void **state)
{
    (void)state;
    static const struct {
        const char *says, *words;
        int first_byte, idle, total, status;
    } rows[] = {
        {"", "did not begin to answer within 150 ms", 150, 0, 0, 0},
        {"HTTP/1.1 100 Continue\r\n\r\n", "did not begin to answer within 150 ms", 150, 0, 0, 0},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "sent nothing for 150 ms", 5000, 150, 0, 200},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "did not finish in time", 5000, 5000, 150, 200},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct mute m;
        struct seen s;
        char url[128];
        mute_start(&m, rows[i].says, false);
        seen_init(&s);
        struct client *c = new_client(4);
        snprintf(url, sizeof url, "http://user:secret@127.0.0.1:%d/x?key=secret", m.port);
        struct client_request r = request(url, &s);
        r.first_byte_ms = rows[i].first_byte, r.idle_ms = rows[i].idle, r.total_ms = rows[i].total;
        int64_t t0 = clock_mono_us();
        start(c, &r);
        WAIT_FOR(atomic_load(&s.dones) == 1, 3000);
        assert_in_range(clock_mono_us() - t0, 140000, 10000000);
        assert_int_equal(s.e.code, ERR_UPSTREAM_TIMEOUT);
        assert_int_equal(s.status, rows[i].status);
        assert_non_null(strstr(s.e.msg, rows[i].words));
        assert_null(strstr(s.e.msg, "secret"));
        buf_close(&s.body);
        client_free(c);
        mute_stop(&m);
    }
}

/* Whatever comes of the body, the head was told before it; and without one nothing went well. */
static void an_odd_head_is_told_once_or_is_an_error(void **state)
{
    (void)state;
    static const struct {
        const char *says, *body;
        int status;
    } rows[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc", 200},
        {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\rodd\r\nabc", "abc", 200},
        {"HTTP/1.1 200 OK\r\nETag: x", "", 0},
        {"HTTP/2 2400 OK\r\n\r\nabc", "", 0},
        {"HTTP/211 .00 OK\r\nContent-Length: 3\r\n\r\nabc", "", 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct mute m;
        struct seen s;
        char url[128];
        mute_start(&m, rows[i].says, true);
        seen_init(&s);
        struct client *c = new_client(4);
        snprintf(url, sizeof url, "http://127.0.0.1:%d/x", m.port);
        struct client_request r = request(url, &s);
        start(c, &r);
        WAIT_FOR(atomic_load(&s.dones) == 1, 3000);
        assert_int_equal(s.status, rows[i].status);
        assert_int_equal(s.heads, rows[i].status ? 1 : 0);
        assert_string_equal(s.body.data, rows[i].body);
        assert_int_equal(s.e.code, rows[i].status ? ERR_NONE : ERR_ENGINE);
        buf_close(&s.body);
        client_free(c);
        mute_stop(&m);
    }
}

/* What is too long, or holds what no header has, would be another value. */
static void a_headers_value_is_kept_whole_or_not_at_all(void **state)
{
    struct client_head h = {.location = NULL};
    char line[300];
    (void)state;
    static const char *const lines[] = {"HTTP/1.1 103 Early\r\n", "ETag: early\r\n", "HTTP/1.1 200 OK\r\n", "Retry-After: \t7 \r\n", "x-request-id:a b\r\n", "X-Weft-Time: 1\x1b[2J\r\n", "Location: /a\r\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) client_head_line(&h, lines[i], strlen(lines[i]));
    assert_string_equal(h.retry_after, "7");
    assert_string_equal(h.request_id, "a b");
    assert_string_equal(h.location, "/a");
    assert_string_equal(h.etag, "");
    assert_string_equal(h.weft_time, "");
    for (int n = 62; n < 66; n++) {
        int len = snprintf(line, sizeof line, "ETag: %0*d\r\n", n, 0);
        client_head_line(&h, line, (size_t)len);
        assert_int_equal(strlen(h.etag), n < 64 ? n : 0);
    }
    client_head_line(&h, "Location: \r\n", 12);
    assert_null(h.location);
    client_head_line(&h, "Location: /b\r\n", 14);
    client_head_line(&h, "HTTP/1.1 200 OK\r\n", 17);
    assert_null(h.location);
}

static void a_refused_connection_an_unknown_name_and_other_protocols_are_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *url;
        enum err_code code;
    } rows[] = {
        {"http://127.0.0.1:1/x", ERR_UNAVAILABLE},
        {"http://does-not-exist.invalid/x", ERR_UNAVAILABLE},
        {"file:///etc/passwd", ERR_INVALID},
        {"http://", ERR_INVALID},
    };
    struct client *c = new_client(4);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct seen s;
        seen_init(&s);
        struct client_request r = request(rows[i].url, &s);
        start(c, &r);
        WAIT_FOR(atomic_load(&s.dones) == 1, 10000);
        if (s.e.code != rows[i].code) fail_msg("%s: %s", rows[i].url, s.e.msg);
        assert_int_equal(s.status, 0);
        assert_int_equal(atomic_load(&s.heads), 0);
        buf_close(&s.body);
    }
    client_free(c);
}

static void a_stream_cut_in_the_middle_is_an_error_after_its_data(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct client *c = new_client(4);
    char url[128];
    struct seen s;
    seen_init(&s);
    struct client_request r = request(url_of(&t, "/cut", url), &s);
    start(c, &r);
    WAIT_FOR(atomic_load(&s.dones) == 1, 5000);
    assert_int_equal(s.e.code, ERR_ENGINE);
    assert_int_equal(s.status, 200);
    assert_string_equal(s.body.data, "half");
    buf_close(&s.body);
    client_free(c);
    unserve(&t);
}

static void cancel_closes_the_connection_soon_and_done_follows(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct client *c = new_client(100);
    char url[128];
    struct seen s[20];
    struct client_call *k[20];
    for (int i = 0; i < 20; i++) {
        seen_init(&s[i]);
        struct client_request r = request(url_of(&t, i % 2 ? "/hang" : "/stream?n=-1&every=5", url), &s[i]);
        k[i] = start(c, &r);
        if (i >= 16) client_cancel(k[i]); /* before it can have begun */
    }
    for (int i = 0; i < 16; i += 2) WAIT_FOR(atomic_load(&s[i].got) > 0, 5000);
    WAIT_FOR(http_server_in_flight(t.s) >= 16, 5000);
    for (int i = 0; i < 16; i++) client_cancel(k[i]);
    int64_t t0 = clock_mono_us();
    for (int i = 0; i < 20; i++) {
        WAIT_FOR(atomic_load(&s[i].dones) == 1, 2000);
        assert_int_equal(s[i].e.code, ERR_ENGINE);
        assert_non_null(strstr(s[i].e.msg, "cancelled"));
        buf_close(&s[i].body);
    }
    assert_in_range(clock_mono_us() - t0, 0, 5000000);
    WAIT_FOR(atomic_load(&told_gone) >= 16, 1000); /* and the server knows */
    client_free(c);
    unserve(&t);
}

static void a_reader_that_says_no_cuts_the_connection(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct client *c = new_client(4);
    char url[128];
    struct seen s;
    seen_init(&s);
    s.refuse_after = 100;
    struct client_request r = request(url_of(&t, "/stream?n=-1&every=1", url), &s);
    start(c, &r);
    WAIT_FOR(atomic_load(&s.dones) == 1, 5000);
    assert_int_equal(s.e.code, ERR_ENGINE);
    assert_non_null(strstr(s.e.msg, "cut by its reader"));
    buf_close(&s.body);
    client_free(c);
    unserve(&t);
}

/* More than sockets hold, from a server that waits for room. */
#define LONG_STREAM "/stream?patient=1&size=4000&n=4000"
enum { LONG_BYTES = 4000 * 4001 };

struct paused {
    struct test_server t;
    struct client *c;
    struct seen s;
};

static void pause_one(struct paused *p, const char *path, int at, int ms, int idle_ms)
{
    struct http_options o = test_options();
    char url[128];
    p->t = serve(&o);
    p->c = new_client(4);
    seen_init(&p->s);
    p->s.pause_at = at, p->s.pause_ms = ms;
    struct client_request r = request(url_of(&p->t, path, url), &p->s);
    struct err e = {0};
    r.idle_ms = idle_ms;
    if (client_start(p->c, &r, &p->s.call, &e)) fail_msg("%s", e.msg);
}

static void pause_end(struct paused *p)
{
    buf_close(&p->s.body);
    client_free(p->c);
    unserve(&p->t);
}

static void assert_long(const struct seen *s)
{
    assert_int_equal(s->e.code, ERR_NONE);
    assert_int_equal(s->body.len, LONG_BYTES);
    for (int i = 1; i <= 4000; i++) {
        char want[32];
        int n = snprintf(want, sizeof want, "data: %d.", i);
        assert_memory_equal(s->body.data + (size_t)(i - 1) * 4001, want, n);
    }
}

static void a_paused_call_leaves_the_rest_with_its_peer_until_it_is_resumed(void **state)
{
    (void)state;
    struct paused p;
    pause_one(&p, LONG_STREAM, 1, 60000, 50); /* no silence, however short the limit */
    for (int i = 0; i < 3; i++) {
        size_t before = atomic_load(&p.s.got);
        if (i) client_resume(p.s.call);
        WAIT_FOR(atomic_load(&p.s.got) > before, 5000);
        before = atomic_load(&p.s.got);
        nap_ms(100);
        assert_int_equal(atomic_load(&p.s.got), before); /* one piece at a time */
        assert_in_range(before, 1, 3 * 4096);
    }
    assert_true(atomic_load(&written_mark) < 4000);
    for (size_t before; (before = atomic_load(&p.s.got)) < LONG_BYTES / 8;) {
        client_resume(p.s.call);
        client_resume(p.s.call);
        WAIT_FOR(atomic_load(&p.s.got) > before, 5000);
    }
    p.s.pause_ms = 0; /* in a pause: nobody reads it now */
    client_resume(p.s.call);
    WAIT_FOR(atomic_load(&p.s.dones) == 1, 10000);
    assert_long(&p.s);
    pause_end(&p);
}

static void a_pause_that_nobody_ends_runs_out(void **state)
{
    (void)state;
    struct paused p;
    int64_t t0 = clock_mono_us();
    pause_one(&p, LONG_STREAM, LONG_BYTES - 50000, 5, 5000); /* and again, by each of the last pieces */
    WAIT_FOR(atomic_load(&p.s.dones) == 1, 15000);
    assert_true(clock_mono_us() - t0 >= 50000 / 4096 * 5000);
    assert_long(&p.s);
    pause_end(&p);
}

static void cancel_paused(struct paused *p)
{
    client_resume(p->s.call); /* and paused again by what comes */
    client_cancel(p->s.call);
}

static void cut_paused(struct paused *p)
{
    p->s.refuse_after = 2; /* by what comes next */
    client_resume(p->s.call);
}

static void stop_paused(struct paused *p)
{
    client_stop(p->c);
}

static void a_paused_call_can_be_cancelled_cut_and_stopped(void **state)
{
    (void)state;
    static const struct {
        void (*end)(struct paused *p);
        const char *words;
    } rows[] = {{cancel_paused, "cancelled"}, {cut_paused, "cut by its reader"}, {stop_paused, "the program stops"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct paused p;
        pause_one(&p, LONG_STREAM, 1, 60000, 5000);
        WAIT_FOR(atomic_load(&p.s.got) > 0, 5000);
        rows[i].end(&p);
        WAIT_FOR(atomic_load(&p.s.dones) == 1, 2000);
        assert_non_null(strstr(p.s.e.msg, rows[i].words));
        pause_end(&p);
    }
}

static void the_end_of_an_answer_that_is_all_here_is_told_in_a_pause(void **state)
{
    (void)state;
    struct paused p;
    pause_one(&p, "/hello", 1, 60000, 5000);
    WAIT_FOR(atomic_load(&p.s.dones) == 1, 5000);
    assert_string_equal(p.s.body.data, "hi");
    assert_int_equal(p.s.e.code, ERR_NONE);
    pause_end(&p);
}

static void freeing_the_client_ends_every_call_with_done(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct client *c = new_client(4); /* fewer connections than calls: some are still waiting */
    char url[128];
    struct seen s[30];
    for (int i = 0; i < 30; i++) {
        seen_init(&s[i]);
        struct client_request r = request(url_of(&t, "/hang", url), &s[i]);
        start(c, &r);
    }
    nap_ms(30);
    client_free(c);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(atomic_load(&s[i].dones), 1);
        assert_int_equal(s[i].e.code, ERR_ENGINE);
        buf_close(&s[i].body);
    }
    unserve(&t);
}

static void sixteen_connections_serve_more_calls_than_that(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct client *c = new_client(16);
    char url[128];
    struct seen *s = calloc(500, sizeof *s);
    for (int i = 0; i < 500; i++) {
        seen_init(&s[i]);
        struct client_request r = request(url_of(&t, "/later", url), &s[i]);
        start(c, &r);
    }
    for (int i = 0; i < 500; i++) {
        WAIT_FOR(atomic_load(&s[i].dones) == 1, 20000);
        assert_string_equal(s[i].body.data, "late");
        buf_close(&s[i].body);
    }
    client_free(c);
    free(s);
    unserve(&t);
}

static int refuse_address(void *u, const struct sockaddr *a)
{
    (void)u;
    return a->sa_family == AF_INET ? -1 : 0;
}

static void an_address_may_be_refused_before_a_socket_is_opened(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    struct client *c = new_client(4);
    char url[128];
    for (int i = 0; i < 2; i++) {
        struct seen s;
        seen_init(&s);
        struct client_request r = request(url_of(&t, "/hello", url), &s);
        r.on_address = i ? refuse_address : NULL; /* the first one leaves a connection that the second must not use */
        start(c, &r);
        WAIT_FOR(atomic_load(&s.dones) == 1, 5000);
        assert_int_equal(s.e.code, i ? ERR_INVALID : ERR_NONE);
        buf_close(&s.body);
    }
    client_free(c);
    unserve(&t);
}

static int64_t progressed;

static void note_progress(void *u, int64_t sent, int64_t total)
{
    assert_int_equal(*(int *)u, 7);
    assert_true(sent >= progressed && sent <= total);
    progressed = sent;
}

static void fetch_sends_a_file_with_progress_and_bounds_the_answer(void **state)
{
    (void)state;
    struct http_options o = test_options();
    struct test_server t = serve(&o);
    char path[] = "/tmp/weft-test-XXXXXX", url[128], *body;
    int fd = mkstemp(path), status = 0, seven = 7;
    size_t n;
    struct err e = {0};
    assert_int_equal(ftruncate(fd, 3000000), 0);
    close(fd);
    struct client_request r = {.method = "PUT",
                               .url = url_of(&t, "/sink", url),
                               .file = path,
                               .progress = note_progress,
                               .user = &seven,
                               .connect_ms = 1000,
                               .total_ms = 20000};
    if (client_fetch(&r, 1000, &status, &body, &n, &e)) fail_msg("%s", e.msg);
    assert_int_equal(status, 201);
    assert_string_equal(body, "3000000");
    assert_int_equal(progressed, 3000000);
    free(body);
    r = (struct client_request){.method = "GET", .url = url_of(&t, "/stream?n=1000", url), .total_ms = 5000};
    assert_int_equal(client_fetch(&r, 1000, &status, &body, &n, &e), -1);
    assert_non_null(strstr(e.msg, "longer than 1000 bytes"));
    e = (struct err){0};
    r = (struct client_request){.method = "PUT", .url = url, .file = "/dev/null/no"};
    assert_int_equal(client_fetch(&r, 1000, &status, &body, &n, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    unlink(path);
    unserve(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_arrives_whole_and_done_comes_last_and_once),
        cmocka_unit_test(bodies_and_headers_go_as_given_over_tcp_and_unix_sockets),
        cmocka_unit_test(each_time_limit_ends_the_call_with_its_own_words),
        cmocka_unit_test(an_odd_head_is_told_once_or_is_an_error),
        cmocka_unit_test(a_headers_value_is_kept_whole_or_not_at_all),
        cmocka_unit_test(a_refused_connection_an_unknown_name_and_other_protocols_are_told_apart),
        cmocka_unit_test(a_stream_cut_in_the_middle_is_an_error_after_its_data),
        cmocka_unit_test(cancel_closes_the_connection_soon_and_done_follows),
        cmocka_unit_test(a_reader_that_says_no_cuts_the_connection),
        cmocka_unit_test(a_paused_call_leaves_the_rest_with_its_peer_until_it_is_resumed),
        cmocka_unit_test(a_pause_that_nobody_ends_runs_out),
        cmocka_unit_test(a_paused_call_can_be_cancelled_cut_and_stopped),
        cmocka_unit_test(the_end_of_an_answer_that_is_all_here_is_told_in_a_pause),
        cmocka_unit_test(freeing_the_client_ends_every_call_with_done),
        cmocka_unit_test(sixteen_connections_serve_more_calls_than_that),
        cmocka_unit_test(an_address_may_be_refused_before_a_socket_is_opened),
        cmocka_unit_test(fetch_sends_a_file_with_progress_and_bounds_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
