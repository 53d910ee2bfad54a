/* http_reap: cuts connections whose message does not come, and those whose reader does not read.
 *
 * libmicrohttpd's own time-out is one of inactivity: a byte now and then keeps a connection, its memory and its place for
 * ever. So there are times for the whole of a thing, which the watcher's thread looks at about once a second:
 *
 *   head   from the connection's beginning, and later from the first byte after a whole message, to the end of the head.
 *          That a head is coming is seen by the socket's count of bytes: libmicrohttpd tells nothing before it is whole
 *   body   of HTTP_BODY_BUFFER, and of what is read only to be dropped: twice http_options.body_timeout_s, for a worker
 *          answers 408 after one. Bodies that a sink takes have the time-out of inactivity alone: they may be long
 *   reader TCP cuts a connection whose sent bytes are not acknowledged, or whose window is closed, for send_timeout_s, and
 *          asks an idle peer as long whether it is still there; both end in a hang-up, which the watcher sees
 *
 * Under http_server_shed() idle connections go as well, once they were idle for SHED_IDLE_US: who has just been answered
 * may be about to ask again, and is told by a header instead.
 *
 * What is cut gets no answer: none can be given before a request is there. On a Unix socket only first heads are timed.
 *
 * UNSENT_MAX: the kernel takes no more beyond what the reader's window takes, so that a stalled reader holds little of
 * its memory, the stream's own bound (stream_buffer) is what counts, and what was handed out is close to what was read. */
#include "base/clock.h"
#include "base/http_internal.h"
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#define UNSENT_MAX (128 * 1024)
#define SHED_IDLE_US 2000000
#define PROBES 3 /* unanswered ones, of TCP, after which the peer is gone */

static void set_tcp(struct http_conn *c, int option, int value)
{
    setsockopt(c->fd, IPPROTO_TCP, option, &value, sizeof value); /* a Unix socket says no, which is fine */
}

void http_reap_begin(struct http_conn *c)
{
    int s = c->server->opt.send_timeout_s;
    c->reap.head_us = clock_mono_us();
    set_tcp(c, TCP_NODELAY, 1);
    if (!s) return;
    set_tcp(c, TCP_NOTSENT_LOWAT, UNSENT_MAX);
    set_tcp(c, TCP_USER_TIMEOUT, s * 1000);
    set_tcp(c, TCP_KEEPIDLE, s);
    set_tcp(c, TCP_KEEPINTVL, (s + PROBES - 1) / PROBES);
    set_tcp(c, TCP_KEEPCNT, PROBES);
    setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
}

void http_reap_body(struct http_exchange *x)
{
    int64_t us = (int64_t)x->server->opt.body_timeout_s * 2000000;
    bool comes = x->chunked || (int64_t)x->received < x->r.content_length;
    bool sink = x->r.route && x->r.route->body == HTTP_BODY_SINK;
    if (!us || !comes || atomic_load(&x->conn->body_by_us)) return;
    if (sink) {
        pthread_mutex_lock(&x->lock);
        sink = !x->answered;
        pthread_mutex_unlock(&x->lock);
        if (sink) return;
        us += clock_mono_us() - x->r.t_start_us; /* refused in the middle */
    }
    atomic_store(&x->conn->body_by_us, x->r.t_start_us + us);
}

static uint64_t bytes_received(const struct http_conn *c)
{
    struct tcp_info i = {0};
    socklen_t n = sizeof i;
    bool told = getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &i, &n) == 0 && n >= offsetof(struct tcp_info, tcpi_bytes_received) + 8;
    return told ? i.tcpi_bytes_received : 0;
}

/* Between two messages: keeps reap.head_us, and reap.idle_us. */
static void follow(struct http_conn *c, int64_t now)
{
    unsigned heads = atomic_load(&c->heads);
    if (heads != c->reap.heads) {
        c->reap.heads = heads;
        c->reap.bytes = bytes_received(c);
        c->reap.idle_us = now;
        c->reap.head_us = 0;
    } else if (heads && !c->reap.head_us && bytes_received(c) != c->reap.bytes)
        c->reap.head_us = now;
}

static bool is_between(struct http_conn *c)
{
    pthread_mutex_lock(&c->lock);
    bool between = !c->x;
    pthread_mutex_unlock(&c->lock);
    return between;
}

void http_reap_look(struct http_conn *c, int64_t now)
{
    const struct http_server *s = c->server;
    int64_t by = atomic_load(&c->body_by_us), head_us = (int64_t)s->opt.head_timeout_s * 1000000;
    bool late = by && now > by;
    if (!late && is_between(c)) {
        follow(c, now);
        bool idle = c->reap.heads && !c->reap.head_us;
        late = head_us && c->reap.head_us && now - c->reap.head_us > head_us;
        late |= idle && atomic_load(&s->shedding) && now - c->reap.idle_us > SHED_IDLE_US;
    }
    if (!late || shutdown(c->fd, SHUT_RDWR)) return;
    atomic_fetch_add(&c->server->ncut, 1);
    c->reap.head_us = now; /* once */
    atomic_store(&c->body_by_us, 0);
}
