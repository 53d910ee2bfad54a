/* http_exchange: the life of one request, from its target to its last reference.
 *
 *     on_uri (new) -> first call (guard, route, head) -> body calls -> last call -> queue -> on_completed -> unref -> free
 *                                                                       |    ^
 *                                  handle() owes an answer: suspend     v    |  answered, or lost: http_wake
 *                                                                      suspended
 *
 * libmicrohttpd lets a response be queued on the worker only, in the first call or after the whole body. So an answer
 * from another thread is left in the exchange and the connection resumed; the worker, called again, queues it. An
 * answer made while a body arrives waits until the body was read and dropped.
 *
 * Suspend and resume strictly alternate because both happen under the exchange's lock together with the flag
 * `suspended`; after `mhd_done` neither happens again. The handler's callbacks run outside all locks. On workers, but
 * http_lost (watcher, or the thread that stops the server) and http_unref (any). */
#include "base/clock.h"
#include "base/http_internal.h"
#include "base/sha256.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* --- references --- */

void http_ref(struct http_exchange *x)
{
    atomic_fetch_add(&x->refs, 1);
}

void http_unref(struct http_exchange *x)
{
    if (atomic_fetch_sub(&x->refs, 1) != 1) return;
    if (x->on_free) x->on_free(&x->r);
    if (x->response) MHD_destroy_response(x->response);
    buf_close(&x->body);
    buf_close(&x->stream.queue);
    pthread_mutex_destroy(&x->lock);
    struct http_server *s = x->server;
    arena_free(x->r.arena); /* the exchange itself lies in it */
    atomic_fetch_sub(&s->in_flight, 1);
    http_server_unref(s);
}

/* We take the query apart ourselves, from the copy. libmicrohttpd would list the arguments in the connection's memory as
 * well, and when they don't fit it answers nothing and waits. To it, they shall be one. */
static void hide_arguments(char *uri)
{
    for (char *p = strchrnul(uri, '?'); *p; p++)
        if (*p == '&') *p = '_';
}

void *http_on_uri(void *cls, const char *uri, struct MHD_Connection *c)
{
    struct http_server *s = cls;
    struct arena *a = arena_new(HTTP_ARENA_MAX);
    struct http_exchange *x = a ? arena_alloc(a, sizeof *x) : NULL;
    const char *raw = x ? arena_strdup(a, uri) : NULL;
    if (!raw) {
        arena_free(a);
        return NULL; /* the first call sees it and closes */
    }
    x->raw_uri = raw;
    hide_arguments((char *)uri);
    x->server = s;
    x->mhd = c;
    x->conn = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    x->r.arena = a;
    x->r.server_user = s->opt.user;
    atomic_init(&x->refs, 1);
    pthread_mutex_init(&x->lock, NULL);
    buf_init(&x->body, 0);
    buf_init(&x->stream.queue, 0);
    atomic_fetch_add(&s->refs, 1);
    atomic_fetch_add(&s->in_flight, 1);
    return x;
}

/* --- what happens to a client that is gone --- */

void http_wake(struct http_exchange *x)
{
    if (!x->suspended) return;
    x->suspended = false;
    MHD_resume_connection(x->mhd);
}

bool http_is_lost(const struct http_exchange *x)
{
    return atomic_load(&x->gone) || atomic_load(&x->server->aborting) || atomic_load(&x->conn->hup);
}

/* Under the lock: the callback that is due, and never again. */
static void (*due_on_gone(struct http_exchange *x))(struct http_request *)
{
    if (!x->on_gone || x->gone_told || x->finished) return NULL;
    x->gone_told = true;
    return x->on_gone;
}

/* A request that its handler does not have yet is left alone: a client that shuts its side down after a whole request
 * still gets an answer that is there at once, and what is broken mid-body libmicrohttpd sees itself. */
void http_lost(struct http_exchange *x, bool force)
{
    void (*tell)(struct http_request *) = NULL;
    pthread_mutex_lock(&x->lock);
    if (!x->mhd_done && !x->owed && !force)
        shutdown(x->conn->fd, SHUT_RD); /* what came is still read; gives the worker an edge */
    if (!x->mhd_done && (x->owed || force)) {
        atomic_store(&x->gone, true);
        tell = due_on_gone(x);
        if (x->answered || force) shutdown(x->conn->fd, SHUT_RDWR); /* a writer blocked on a full socket ends too */
        http_wake(x);
    }
    pthread_mutex_unlock(&x->lock);
    if (tell) tell(&x->r);
}

static void end_arrival(struct http_exchange *x)
{
    if (!x->arriving) return;
    x->arriving = false;
    x->server->opt.arrived(&x->r);
}

void http_on_completed(void *cls, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode code)
{
    (void)cls, (void)c;
    struct http_exchange *x = *state;
    if (!x) return;
    *state = NULL;
    bool ok = code == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    end_arrival(x);
    if (x->conn) {
        pthread_mutex_lock(&x->conn->lock);
        x->conn->x = NULL;
        pthread_mutex_unlock(&x->conn->lock);
        atomic_store(&x->conn->body_by_us, 0);
    }
    pthread_mutex_lock(&x->lock);
    x->mhd_done = true;
    if (!ok) atomic_store(&x->gone, true);
    void (*tell)(struct http_request *) = ok ? NULL : due_on_gone(x);
    pthread_mutex_unlock(&x->lock);
    if (tell) tell(&x->r);
    http_stream_over(x, ok);
    if (x->queued && x->server->opt.done) {
        uint64_t bytes = x->stream.open ? x->stream.bytes : ok && !x->head_only ? x->reply_bytes : 0;
        x->server->opt.done(&x->r, x->status, bytes, clock_mono_us() - x->r.t_start_us);
    }
    http_unref(x);
}

/* --- the calls of libmicrohttpd --- */

/* Hand the answer to libmicrohttpd. */
static enum MHD_Result queue(struct http_exchange *x)
{
    if (!x->response) return MHD_NO; /* no memory for it: all that is left is to close */
    if (x->close || atomic_load(&x->server->quiescing) || atomic_load(&x->server->shedding))
        MHD_add_response_header(x->response, "Connection", "close");
    x->queued = true;
    return MHD_queue_response(x->mhd, (unsigned)x->status, x->response);
}

static bool is_answered(struct http_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    bool yes = x->answered;
    pthread_mutex_unlock(&x->lock);
    return yes;
}

static int begin(struct http_exchange *x, const char *method)
{
    if (!x->conn) return -1;
    x->r.t_start_us = clock_mono_us();
    x->r.method = arena_strdup(x->r.arena, method);
    if (!x->r.method) return -1;
    x->head_only = strcmp(method, "HEAD") == 0;
    x->r.path = "";
    snprintf(x->r.peer, sizeof x->r.peer, "%s", x->conn->peer);
    uuid7(x->r.id);
    pthread_mutex_lock(&x->conn->lock);
    x->conn->x = x;
    pthread_mutex_unlock(&x->conn->lock);
    atomic_fetch_add(&x->conn->heads, 1);
    return 0;
}

/* May this request be read at all? Refusals here close the connection. */
static int admit(struct http_exchange *x, const char *method, const char *version, struct err *e)
{
    x->old = strcmp(version, "HTTP/1.0") == 0;
    if (http_guard(x, method, version, e)) return -1;
    if (x->conn->over) return err_set(e, ERR_UNAVAILABLE, "too many connections; try again");
    x->close = x->chunked; /* its last request: see http_guard.c */
    return 0;
}

static int check_length(const struct http_exchange *x, struct err *e)
{
    const struct http_route *route = x->r.route;
    size_t max = route->body == HTTP_BODY_NONE ? HTTP_DROP_MAX : route->max_body;
    if (x->r.content_length > 0 && (uint64_t)x->r.content_length > max)
        return err_set(e, ERR_TOO_LARGE, "the body has %lld bytes, this route takes %zu",
                       (long long)x->r.content_length, max);
    return 0;
}

/* An early answer: with a short body it waits until that was read, and the connection stays; else now, and it closes.
 */
static enum MHD_Result answer_early(struct http_exchange *x)
{
    bool body = x->chunked || x->r.content_length > 0;
    bool drop = !x->close && x->r.content_length <= (int64_t)HTTP_DROP_MAX && !http_header(&x->r, "expect");
    if (drop || !body) {
        if (!x->close) return MHD_YES;
    } else
        x->close = true;
    return queue(x);
}

/* -1: it was answered, and the connection is to be closed. */
static int begin_arrival(struct http_exchange *x)
{
    if (!x->server->opt.arrives || (!x->chunked && x->r.content_length <= 0)) return 0;
    x->arriving = x->server->opt.arrives(&x->r) == 0;
    if (!x->arriving) x->close = true;
    return x->arriving ? 0 : -1;
}

static enum MHD_Result first_call(struct http_exchange *x, const char *method, const char *version)
{
    struct err e = {0};
    if (begin(x, method)) return MHD_NO;
    if (admit(x, method, version, &e))
        x->close = true;
    else if (http_route_find(x, &e) == 0 && check_length(x, &e) == 0) {
        const struct http_route *route = x->r.route;
        x->body.limit = route->body == HTTP_BODY_BUFFER ? route->max_body : 0;
        int (*gate)(struct http_request *) = x->server->opt.gate;
        x->max_body = route->max_body;
        if ((gate && gate(&x->r)) || (route->head && route->head(&x->r)) || begin_arrival(x)) return answer_early(x);
        return MHD_YES;
    }
    http_reply_error(&x->r, &e);
    return answer_early(x);
}

/* Bytes of a body after which the connection is cut, whatever was answered. */
static size_t cut_after(const struct http_exchange *x)
{
    if (x->r.content_length >= 0) return (size_t)x->r.content_length;
    bool takes = x->r.route && x->r.route->body != HTTP_BODY_NONE;
    return HTTP_DROP_MAX + (takes ? x->r.route->max_body : 0);
}

/* Has a body that is gathered taken `times` as long as it may? */
static bool is_slow(const struct http_exchange *x, int times)
{
    int64_t max_us = (int64_t)x->server->opt.body_timeout_s * 1000000 * times;
    return max_us && x->r.route && x->r.route->body == HTTP_BODY_BUFFER && clock_mono_us() - x->r.t_start_us > max_us;
}

/* Of a body for a sink: over sink_slow_s, less than the least speed? Who drips for ever would keep its place among the uploads. */
static bool is_dripping(struct http_exchange *x)
{
    int64_t span_us = (int64_t)x->server->opt.sink_slow_s * 1000000, now = clock_mono_us();
    if (!x->pace_us) x->pace_us = x->r.t_start_us;
    if (!span_us || now - x->pace_us <= span_us) return false;
    bool slow = x->received - x->pace_from < (size_t)x->server->opt.sink_slow_s * HTTP_SINK_SPEED;
    x->pace_us = now;
    x->pace_from = x->received;
    return slow && (x->chunked || (int64_t)x->received < x->r.content_length);
}

static void pass_on(struct http_exchange *x, const char *bytes, size_t n)
{
    int64_t began = clock_mono_us();
    x->r.route->sink(&x->r, bytes, n);
    x->pace_us += clock_mono_us() - began; /* a disk that is slow is not the client */
}

static void keep_body(struct http_exchange *x, const char *bytes, size_t n)
{
    struct err e = {0};
    const struct http_route *route = x->r.route;
    if (route->body == HTTP_BODY_NONE) return;
    if (is_slow(x, 1))
        err_set(&e, ERR_TIMEOUT_BODY, "the body did not arrive within %d s", x->server->opt.body_timeout_s);
    else if (x->received > x->max_body)
        err_set(&e, ERR_TOO_LARGE, "the body is longer than the %zu bytes of this route", x->max_body);
    else if (route->body == HTTP_BODY_SINK && is_dripping(x))
        err_set(&e, ERR_TIMEOUT_BODY, "less than %d KiB a second of the body came over %d s", HTTP_SINK_SPEED >> 10, x->server->opt.sink_slow_s);
    else if (route->body == HTTP_BODY_SINK)
        pass_on(x, bytes, n);
    else if (buf_add(&x->body, bytes, n))
        err_set(&e, ERR_NO_MEMORY, "no memory for the body");
    if (e.code) http_reply_error(&x->r, &e);
}

/* libmicrohttpd takes a short read for an empty socket and waits for an edge that has come already when the end of the
 * stream stood behind the bytes: then only we can know that no more will come. */
static bool body_was_cut(const struct http_exchange *x)
{
    int unread = 0;
    bool more = x->chunked || (int64_t)x->received < x->r.content_length;
    return more && atomic_load(&x->conn->hup) && ioctl(x->conn->fd, FIONREAD, &unread) == 0 && unread == 0;
}

static enum MHD_Result body_call(struct http_exchange *x, const char *bytes, size_t n)
{
    x->received += n;
    if (x->received > cut_after(x) || is_slow(x, 2)) return MHD_NO;
    if (!is_answered(x)) keep_body(x, bytes, n);
    http_reap_body(x);
    return body_was_cut(x) ? MHD_NO : MHD_YES;
}

static void hand_over(struct http_exchange *x)
{
    x->handled = true;
    end_arrival(x);
    if (x->body.len) {
        x->r.body = x->body.data;
        x->r.body_len = x->body.len;
    }
    pthread_mutex_lock(&x->lock);
    x->owed = true;
    pthread_mutex_unlock(&x->lock);
    http_ref(x);
    x->r.route->handle(&x->r);
}

static enum MHD_Result last_call(struct http_exchange *x)
{
    atomic_store(&x->conn->body_by_us, 0);
    if (!x->handled && !is_answered(x)) hand_over(x);
    pthread_mutex_lock(&x->lock);
    bool answered = x->answered, lost = !answered && http_is_lost(x);
    if (!answered && !lost) {
        x->suspended = true;
        MHD_suspend_connection(x->mhd);
    }
    pthread_mutex_unlock(&x->lock);
    if (lost) return MHD_NO;
    return answered ? queue(x) : MHD_YES;
}

enum MHD_Result http_on_access(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                               const char *version, const char *upload, size_t *size, void **state)
{
    (void)cls, (void)c, (void)url;
    struct http_exchange *x = *state;
    if (!x || !http_quiet_end(x)) return MHD_NO;
    if (x->started && *size == 0) return last_call(x);
    bool first = !x->started;
    size_t n = *size;
    x->started = true;
    if (!first) *size = 0;
    enum MHD_Result rc = first ? first_call(x, method, version) : body_call(x, upload, n);
    if (rc == MHD_YES && first) http_reap_body(x);
    if (rc == MHD_YES && !is_answered(x)) http_quiet_begin(x);
    return rc;
}

/* --- what a handler asks --- */

const char *http_header(const struct http_request *r, const char *name)
{
    const struct http_exchange *x = (const struct http_exchange *)r;
    for (int i = 0; i < x->nheaders; i++)
        if (strcasecmp(x->header[i].name, name) == 0) return x->header[i].value;
    return NULL;
}

size_t http_header_join(const struct http_request *r, const char *name, char *out, size_t cap)
{
    const struct http_exchange *x = (const struct http_exchange *)r;
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < x->nheaders; i++) {
        if (strcasecmp(x->header[i].name, name) != 0) continue;
        int more = snprintf(out + n, cap - n, "%s%s", n ? "," : "", x->header[i].value);
        if (more < 0 || (size_t)more >= cap - n) return 0;
        n += (size_t)more;
    }
    return n;
}

const char *http_bearer(const struct http_request *r)
{
    const char *v = http_header(r, "authorization");
    if (!v || strncasecmp(v, "Bearer ", 7)) return NULL;
    v += 7 + strspn(v + 7, " ");
    return *v && !strpbrk(v, " \t") ? v : NULL;
}

void http_limit_body(struct http_request *r, size_t n)
{
    struct http_exchange *x = (struct http_exchange *)r;
    if (n < x->max_body) x->max_body = n;
}

void http_on_gone(struct http_request *r, void (*fn)(struct http_request *r))
{
    struct http_exchange *x = (struct http_exchange *)r;
    pthread_mutex_lock(&x->lock);
    x->on_gone = fn;
    pthread_mutex_unlock(&x->lock);
}

bool http_is_gone(const struct http_request *r)
{
    return atomic_load(&((const struct http_exchange *)r)->gone);
}

void http_on_free(struct http_request *r, void (*fn)(struct http_request *r))
{
    ((struct http_exchange *)r)->on_free = fn;
}
