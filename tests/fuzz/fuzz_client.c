/* What a server answers to our client, by way of libcurl: however the bytes are cut, the head is told once, before any of the body; a header's value is the whole of one that was
 * sent, without control characters, or it is not there; no more of a body is taken than was asked for; an exchange ends well or has words for what was wrong. Input: a byte for the
 * question (1 HEAD, 2 the body goes to on_data, 4 which wants no more than its first bytes, the rest how to cut), then the answer from its first line on. */
#include "base/client.h"
#include "tests/fuzz/fuzz.h"
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define BODY_MAX 2048
#define FEW 16

/* --- the wire: a pair of sockets in a connection's place (parts.mk: --wrap) --- */

static int server; /* its end, to be filled */

int __wrap_socket(int family, int type, int protocol);
int __wrap_socket(int family, int type, int protocol)
{
    int pair[2], room = 1 << 20;
    (void)family, (void)type, (void)protocol;
    if (server >= 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair)) return -1; /* a second try finds nobody */
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    server = pair[1];
    return pair[0];
}

static const uint8_t *said;
static size_t said_len;

/* libcurl's, which asks for it in the C library's place: the answer is there with the connection. */
int connect(int fd, const struct sockaddr *a, socklen_t n)
{
    (void)fd, (void)a, (void)n;
    FUZZ_NEED(send(server, said, said_len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)said_len && shutdown(server, SHUT_WR) == 0);
    return 0;
}

/* --- who asks --- */

static int heads, wants;
static size_t got;

static void check_value(const char *s)
{
    if (!s) return;
    size_t n = strlen(s);
    FUZZ_NEED(n > 0 && s[0] != ' ' && s[n - 1] != ' ' && said_len >= n && memmem(said, said_len, s, n));
    for (size_t i = 0; i < n; i++) FUZZ_NEED(((unsigned char)s[i] >= ' ' && s[i] != 0x7f) || s[i] == '\t');
    const uint8_t *at = memmem(said, said_len, s, n); /* somewhere it stands whole */
    for (bool whole = false; !whole; at = at + 1) {
        FUZZ_NEED((at = memmem(at, said_len - (size_t)(at - said), s, n)));
        size_t end = (size_t)(at - said) + n;
        while (end < said_len && said[end] <= ' ' && said[end] != '\n') end++;
        whole = end >= said_len || said[end] == '\n';
    }
}

static void on_head(void *u, const struct client_reply *r)
{
    (void)u;
    FUZZ_NEED(heads++ == 0 && got == 0 && r->status >= 200 && r->status <= 999);
    check_value(r->content_type);
    check_value(r->retry_after);
    check_value(r->location);
    check_value(r->request_id);
    check_value(r->etag);
    check_value(r->weft_time);
}

static int on_data(void *u, const char *bytes, size_t n)
{
    (void)u;
    (void)bytes;
    FUZZ_NEED(heads == 1 && n > 0);
    got += n;
    return wants && got > FEW ? -1 : 0;
}

static int any(void *u, const struct sockaddr *a)
{
    (void)u;
    FUZZ_NEED(a->sa_family == AF_INET && ntohs(((const struct sockaddr_in *)(const void *)a)->sin_port) == 9);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned how = fuzz_byte(&data, &n);
    struct client_request q = {.method = how & 1 ? "HEAD" : "GET", .url = "http://127.0.0.1:9/x", .connect_ms = 1000, .first_byte_ms = 1000, .idle_ms = 1000, .total_ms = 2000,
                               .on_head = on_head, .on_data = how & 2 ? on_data : NULL, .on_address = any};
    struct err e = {0};
    char *body = NULL;
    size_t len = 0;
    int status = -7;
    said = data;
    said_len = n;
    heads = 0;
    got = 0;
    wants = how & 4;
    server = -1;
    int rc = client_fetch(&q, BODY_MAX, &status, how & 2 ? NULL : &body, how & 2 ? NULL : &len, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && heads <= 1);
    if (rc == 0) FUZZ_NEED(heads == 1 && status >= 200 && (how & 2 || (body && len <= BODY_MAX && len <= n && body[len] == 0)));
    else FUZZ_NEED(e.msg[0] && status == -7 && !body);
    FUZZ_NEED(!wants || !(how & 2) || got <= FEW || rc);
    free(body);
    if (server >= 0) close(server);
    return 0;
}
