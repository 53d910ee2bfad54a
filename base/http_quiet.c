/* http_quiet: bodies that stop coming. Whoever sends a head and then nothing, or falls silent in mid-body, is answered 408 and cut.
 *
 * libmicrohttpd calls us when bytes come, and takes an answer at those calls only: of a silent connection it says nothing
 * until its own time-out, which closes without a word. So the watcher looks for those that wait too long, and writes the
 * answer itself.
 *
 *     worker:  first and body calls end -> quiet_since = now      a call begins -> quiet_since = 0, or QUIET_CUT: close
 *     watcher: quiet_since too long ago, nothing unread -> QUIET_CUT -> 408 onto the socket -> shut: the worker's edge
 *
 * One exchange of quiet_since decides between the two, so a request that is answered here never reaches its handler, and
 * one that its worker has in hand is left alone: a disk that is slow in a sink is not the client's silence. The socket is
 * written under the exchange's lock while libmicrohttpd has not finished with it: then its number is no stranger's.
 *
 * What it refuses: to wait for room in a socket; who does not read gets no answer, only the end. */
#include "base/clock.h"
#include "base/http_internal.h"
#include "base/json.h"
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define QUIET_CUT (-1)
#define QUIET_BATCH 64 /* at a look; the next comes within a second */
#define ANSWER_MAX 16384

bool http_quiet_end(struct http_exchange *x)
{
    return atomic_exchange(&x->quiet_since, 0) != QUIET_CUT;
}

void http_quiet_begin(struct http_exchange *x)
{
    bool more = x->chunked || (int64_t)x->received < x->r.content_length;
    if (more) atomic_store(&x->quiet_since, clock_mono_us());
}

/* Seconds that it may be silent; 0: as long as libmicrohttpd lets it. */
static int patience(const struct http_exchange *x)
{
    const struct http_options *o = &x->server->opt;
    enum http_body body = x->r.route ? x->r.route->body : HTTP_BODY_NONE;
    return body == HTTP_BODY_SINK ? o->sink_quiet_s : body == HTTP_BODY_BUFFER ? o->body_timeout_s : 0;
}

/* Under conn.lock, which keeps x: is it this one's turn? Then it is ours. */
static bool take(struct http_exchange *x, int fd)
{
    int unread = 0;
    int64_t since = atomic_load(&x->quiet_since), limit = since > 0 ? patience(x) : 0;
    if (!limit || clock_mono_us() - since <= limit * 1000000 || ioctl(fd, FIONREAD, &unread) || unread) return false;
    if (!atomic_compare_exchange_strong(&x->quiet_since, &since, QUIET_CUT)) return false;
    http_ref(x);
    return true;
}

static void print(const struct http_exchange *x, const struct err *e, struct buf *out)
{
    struct buf body;
    buf_init(&body, ANSWER_MAX);
    json_error(e, &body);
    buf_addf(out, "HTTP/1.1 %d Request Timeout\r\nConnection: close\r\nContent-Type: application/json\r\nx-request-id: %s\r\nContent-Length: %zu\r\n\r\n",
             err_info(e->code)->status, x->r.id, body.len);
    buf_add(out, body.data, body.len);
    buf_close(&body);
}

static void answer(struct http_exchange *x)
{
    struct err e = {0};
    struct buf out;
    err_set(&e, ERR_TIMEOUT_BODY, "nothing more of the body came for %d s", patience(x));
    buf_init(&out, ANSWER_MAX);
    print(x, &e, &out);
    pthread_mutex_lock(&x->lock);
    if (!x->mhd_done && !x->answered) {
        x->answered = x->finished = x->queued = true; /* queued: as far as counting goes */
        x->status = err_info(e.code)->status;
        x->r.error = err_info(e.code)->code;
        ssize_t n = send(x->conn->fd, out.data, out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)n; /* who does not read gets the end only */
        shutdown(x->conn->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&x->lock);
    buf_close(&out);
}

void http_quiet_look(struct http_server *s)
{
    struct http_exchange *silent[QUIET_BATCH];
    int n = 0;
    pthread_mutex_lock(&s->lock);
    for (struct http_conn *c = s->conns; c && n < QUIET_BATCH; c = c->next) {
        pthread_mutex_lock(&c->lock);
        if (c->x && take(c->x, c->fd)) silent[n++] = c->x;
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < n; i++) {
        answer(silent[i]);
        http_unref(silent[i]);
    }
}
