/* A small server with one route per behaviour, and raw sockets to speak to it: shared by the tests of http and client.
 */
#pragma once
#include "base/buf.h"
#include "base/clock.h"
#include "base/http.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static _Atomic int live_threads;
static _Atomic int told_gone, told_free, told_done, sink_bytes;
static _Atomic int64_t gone_at_us;
static _Atomic int closes, clean_closes, waits;
static _Atomic uint64_t close_mark, written_mark;
static _Atomic bool let_go; /* what /hang and /drip wait for */

static inline void nap_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, (ms % 1000) * 1000000L}, NULL);
}

/* Waits up to ms for the condition; a macro so that a failure names the line. */
#define WAIT_FOR(cond, ms)                                                                                             \
    do {                                                                                                               \
        int64_t until_ = clock_mono_us() + (ms)*1000LL;                                                                \
        while (!(cond) && clock_mono_us() < until_) nap_ms(1);                                                         \
        assert_true(cond);                                                                                             \
    } while (0)

static inline void in_thread(void *(*fn)(void *), void *arg)
{
    pthread_t t;
    pthread_attr_t a;
    pthread_attr_init(&a);
    pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&a, 256 * 1024);
    atomic_fetch_add(&live_threads, 1);
    assert_int_equal(pthread_create(&t, &a, fn, arg), 0);
    pthread_attr_destroy(&a);
}

static inline void on_gone(struct http_request *r)
{
    (void)r;
    atomic_store(&gone_at_us, clock_mono_us());
    atomic_fetch_add(&told_gone, 1);
}

static inline void on_free(struct http_request *r)
{
    (void)r;
    atomic_fetch_add(&told_free, 1);
}

static inline void hello(struct http_request *r)
{
    http_reply(r, 200, "text/plain", "hi", 2);
}

/* A header that has no memory, then the answer, or with ?q an error. */
static inline void lack(struct http_request *r)
{
    bool fails = http_query(r, "q") != NULL;
    for (size_t n = 1 << 20; n; n /= 2)
        while (arena_alloc(r->arena, n)) {}
    assert_int_equal(http_set_header(r, "Content-Encoding", "gzip"), -1);
    if (fails)
        http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory"});
    else
        hello(r);
}

static inline void *answer_later(void *arg)
{
    struct http_request *r = arg;
    nap_ms(5);
    http_set_header(r, "X-Late", "yes");
    http_reply(r, 200, "text/plain", "late", 4);
    atomic_fetch_sub(&live_threads, 1);
    return NULL;
}

static inline void later(struct http_request *r)
{
    in_thread(answer_later, r);
}

static inline void *answer_when_let_go(void *arg)
{
    struct http_request *r = arg;
    while (!atomic_load(&let_go)) nap_ms(1);
    http_reply(r, 200, "text/plain", "free", 4);
    atomic_fetch_sub(&live_threads, 1);
    return NULL;
}

static inline void hang(struct http_request *r)
{
    http_on_gone(r, on_gone);
    http_on_free(r, on_free);
    in_thread(answer_when_let_go, r);
}

static inline void stream_closed(void *u, bool clean, uint64_t mark)
{
    (void)u;
    atomic_store(&close_mark, mark);
    atomic_fetch_add(&clean_closes, clean);
    atomic_fetch_add(&closes, 1);
}

struct stream_job {
    struct http_stream *s;
    int n, every_ms, size; /* n < 0: until it fails or is let go */
    bool patient;          /* waits for room */
    sem_t room;
};

static inline void there_is_room(void *u)
{
    sem_post(u);
}

/* Until a write of n bytes fits, or none ever will. */
static inline void wait_room(struct stream_job *j, size_t n)
{
    while (j->patient && http_stream_room(j->s) < n) {
        http_stream_on_room(j->s, n, there_is_room, &j->room);
        sem_wait(&j->room);
        atomic_fetch_add(&waits, 1);
        if (!http_stream_room(j->s)) return;
    }
}

static inline void *write_stream(void *arg)
{
    struct stream_job *j = arg;
    char *event = malloc((size_t)j->size + 32);
    bool failed = false;
    for (int i = 1; !failed && (j->n < 0 ? !atomic_load(&let_go) : i <= j->n); i++) {
        int len = snprintf(event, 32, "data: %d", i);
        while (len < j->size) event[len++] = '.';
        event[len++] = '\n';
        wait_room(j, (size_t)len);
        failed = http_stream_write(j->s, event, (size_t)len, (uint64_t)i) != 0;
        if (!failed) atomic_store(&written_mark, (uint64_t)i);
        if (j->every_ms) nap_ms(j->every_ms);
    }
    if (failed)
        http_stream_abort(j->s);
    else
        http_stream_end(j->s);
    free(event);
    sem_destroy(&j->room);
    free(j);
    atomic_fetch_sub(&live_threads, 1);
    return NULL;
}

static inline int query_int(const struct http_request *r, const char *name, int deflt)
{
    const char *v = http_query(r, name);
    return v ? (int)strtol(v, NULL, 10) : deflt;
}

static inline void stream(struct http_request *r)
{
    http_on_gone(r, on_gone);
    http_on_free(r, on_free);
    struct stream_job *j = malloc(sizeof *j);
    j->n = query_int(r, "n", 10);
    j->every_ms = query_int(r, "every", 0);
    j->size = query_int(r, "size", 0);
    j->patient = query_int(r, "patient", 0);
    sem_init(&j->room, 0, 0);
    j->s = http_stream_open(r, 200, "text/event-stream");
    http_stream_on_close(j->s, stream_closed, NULL);
    in_thread(write_stream, j);
}

static inline void cut(struct http_request *r)
{
    struct http_stream *s = http_stream_open(r, 200, "text/plain");
    http_stream_write(s, "half", 4, 1);
    http_stream_abort(s);
}

static inline void echo(struct http_request *r)
{
    http_reply(r, 200, NULL, r->body ? r->body : "", r->body_len);
}

static inline int deny(struct http_request *r)
{
    struct err e = {0};
    err_set(&e, ERR_UNAUTHORIZED, "no key");
    http_reply_error(r, &e);
    return -1;
}

static inline int take_piece(struct http_request *r, const char *bytes, size_t n)
{
    (void)bytes;
    struct err e = {0};
    int seen = atomic_fetch_add(&sink_bytes, (int)n) + (int)n;
    if (!http_header(r, "x-refuse-after") || seen < strtol(http_header(r, "x-refuse-after"), NULL, 10)) return 0;
    err_set(&e, ERR_ADAPTER_INVALID, "that is no adapter");
    http_reply_error(r, &e);
    return -1;
}

static inline void sunk(struct http_request *r)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%d", atomic_load(&sink_bytes));
    http_reply(r, 201, "text/plain", text, (size_t)n);
}

static inline void show_params(struct http_request *r)
{
    char text[256];
    const char *q = http_query(r, "q"), *bearer = http_bearer(r);
    int n = snprintf(text, sizeof text, "%s|%s|%s|%s", r->param[0], r->param[1] ? r->param[1] : "-", q ? q : "-",
                     bearer ? bearer : "-");
    http_reply(r, 200, "text/plain", text, (size_t)n);
}

static const struct http_route test_routes[] = {
    {.method = "GET", .pattern = "/hello", .handle = hello},
    {.method = "GET", .pattern = "/later", .handle = later},
    {.method = "GET", .pattern = "/lack", .handle = lack},
    {.method = "GET", .pattern = "/hang", .handle = hang},
    {.method = "GET", .pattern = "/stream", .handle = stream},
    {.method = "GET", .pattern = "/cut", .handle = cut},
    {.method = "POST", .pattern = "/echo", .body = HTTP_BODY_BUFFER, .max_body = 1000, .handle = echo},
    {.method = "POST", .pattern = "/none", .handle = hello},
    {.method = "POST",
     .pattern = "/deny",
     .body = HTTP_BODY_BUFFER,
     .max_body = 64 << 20,
     .head = deny,
     .handle = echo},
    {.method = "PUT",
     .pattern = "/sink",
     .body = HTTP_BODY_SINK,
     .max_body = 64 << 20,
     .sink = take_piece,
     .handle = sunk},
    {.method = "POST", .pattern = "/t/{tenant}/v1/chat/completions", .handle = show_params},
    {.method = "GET", .pattern = "/t/{tenant}/{thing}", .handle = show_params},
    {.method = "GET", .pattern = "/files/{rest...}", .handle = show_params},
    {0},
};

static inline void count_done(const struct http_request *r, int status, uint64_t bytes, int64_t us)
{
    (void)r, (void)bytes;
    assert_true(status >= 200 && us >= 0);
    atomic_fetch_add(&told_done, 1);
}

struct test_server {
    struct http_server *s;
    char *bound;
    int port;
    char path[100];
};

static inline void reset_counts(void)
{
    atomic_store(&told_gone, 0), atomic_store(&told_free, 0), atomic_store(&told_done, 0), atomic_store(&sink_bytes, 0);
    atomic_store(&gone_at_us, 0), atomic_store(&waits, 0), atomic_store(&closes, 0), atomic_store(&clean_closes, 0),
        atomic_store(&close_mark, 0);
    atomic_store(&written_mark, 0), atomic_store(&let_go, false);
}

static inline struct http_options test_options(void)
{
    return (struct http_options){.listen = "127.0.0.1:0",
                                 .routes = test_routes,
                                 .workers = 4,
                                 .max_connections = 1000,
                                 .idle_timeout_s = 20,
                                 .stream_buffer = 65536,
                                 .done = count_done};
}

static inline struct test_server serve(const struct http_options *o)
{
    struct test_server t = {0};
    struct err e = {0};
    reset_counts();
    if (http_server_start(&t.s, o, &t.bound, &e)) fail_msg("%s", e.msg);
    const char *colon = strrchr(t.bound, ':');
    if (strncmp(t.bound, "unix:", 5) == 0)
        snprintf(t.path, sizeof t.path, "%s", t.bound + 5);
    else
        t.port = (int)strtol(colon + 1, NULL, 10);
    return t;
}

static inline void unserve(struct test_server *t)
{
    atomic_store(&let_go, true);
    http_server_stop(t->s, 3000);
    WAIT_FOR(atomic_load(&live_threads) == 0, 5000);
    free(t->bound);
}

static inline int dial(const struct test_server *t)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)t->port)};
    bool local = t->path[0];
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    snprintf(un.sun_path, sizeof un.sun_path, "%s", t->path);
    int fd = socket(local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr *a = local ? (struct sockaddr *)&un : (struct sockaddr *)&in;
    if (connect(fd, a, local ? sizeof un : sizeof in)) fail_msg("connect: %d", errno);
    return fd;
}

static inline void say(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0) return;
        bytes += sent;
        n -= (size_t)sent;
    }
}

static inline void says(int fd, const char *text)
{
    say(fd, text, strlen(text));
}

/* Reads until `until` is seen (NULL: end of the connection) or ms have passed; true if it came. */
static inline bool hear(int fd, struct buf *b, const char *until, int ms)
{
    int64_t end = clock_mono_us() + ms * 1000LL;
    char piece[16384];
    while (!until || !memmem(b->data, b->len, until, strlen(until))) {
        int64_t left = (end - clock_mono_us()) / 1000;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&p, 1, (int)left) <= 0) return false;
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0) return !until;
        buf_add(b, piece, (size_t)n);
    }
    return true;
}

static inline struct buf big_buf(void)
{
    struct buf b;
    buf_init(&b, 64 << 20);
    return b;
}

/* Sends all and reads until the server closes; *closed says whether it did within 2 s. */
static inline struct buf ask_raw(const struct test_server *t, const char *bytes, size_t n, bool *closed)
{
    struct buf b = big_buf();
    int fd = dial(t);
    say(fd, bytes, n);
    *closed = hear(fd, &b, NULL, 2000);
    close(fd);
    return b;
}

static inline int status_of(const struct buf *b)
{
    return b->len > 12 && memcmp(b->data, "HTTP/1.1 ", 9) == 0 ? (int)strtol(b->data + 9, NULL, 10) : 0;
}
