/* http_stream: memory that runs out while something is written. */
#include "tests/unit/test_base_net.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STARVES false /* realloc is the sanitizer's */
#else
#define STARVES true
#endif

static __thread int spare = -1; /* how many allocations this thread gets until one fails; -1: all */

#if STARVES
void *__libc_realloc(void *p, size_t n);

void *realloc(void *p, size_t n)
{
    if (spare == 0) return NULL;
    if (spare > 0) spare--;
    return __libc_realloc(p, n);
}
#endif

static struct http_stream *open_stream;
static atomic_bool written;

/* The first is kept for the worker, which does not pull before this returns; of the second the head fits what memory there is, its bytes do not. */
static void write_two(struct http_request *r)
{
    char more[500];
    memset(more, 'b', sizeof more);
    open_stream = http_stream_open(r, 200, "text/plain");
    assert_int_equal(http_stream_write(open_stream, "first", 5, 1), 0);
    spare = 0;
    int rc = http_stream_write(open_stream, more, sizeof more, 2);
    spare = -1;
    assert_int_equal(rc, STARVES ? -1 : 0);
    atomic_store(&written, true);
}

static const struct http_route routes[] = {{.method = "GET", .pattern = "/two", .handle = write_two}, {0}};

static void what_found_no_memory_leaves_nothing_behind_in_the_stream(void **state)
{
    (void)state;
    struct http_options o = test_options();
    o.routes = routes;
    struct test_server t = serve(&o);
    int fd = dial(&t);
    const char ask[] = "GET /two HTTP/1.1\r\nHost: x\r\n\r\n";
    say(fd, ask, sizeof ask - 1);
    WAIT_FOR(atomic_load(&written), 5000);
    char got[8192];
    size_t n = 0;
    ssize_t part = 0;
    struct timeval patience = {.tv_usec = 300000}; /* for what must not come */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    while (n < sizeof got - 1 && (part = recv(fd, got + n, sizeof got - 1 - n, 0)) > 0) n += (size_t)part;
    got[n] = 0;
    const char *body = strstr(got, "\r\n\r\n");
    assert_non_null(body);
    if (STARVES) assert_string_equal(body + 4, "5\r\nfirst\r\n");
    http_stream_abort(open_stream);
    close(fd);
    unserve(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_found_no_memory_leaves_nothing_behind_in_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
