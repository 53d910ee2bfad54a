/* http_stream: answers that are written piece by piece from another thread.
 *
 *     http_stream_write -> [ queue of records: mark, length, bytes ] -> pull, on the worker -> libmicrohttpd -> socket
 *
 * pull() is libmicrohttpd's content reader: it copies records out; with none left it ends, fails, or suspends the
 * connection, and the next write wakes it. Both run under the exchange's lock, so a wake-up is never lost and never
 * given twice.
 *
 * While the connection is suspended in pull(), all before is with the socket and the library waits for its next chunk. A write that finds it so, and a
 * peer that has read nearly all, goes to the socket at once, as a chunk of its own: no wake-up, no change of threads, which for a token's few bytes
 * are most of the work. The library goes on after it with the next chunk or the last, as if there had been nothing in between.
 *
 * A mark counts as handed when pull() is called again after the call that copied the last byte of its record:
 * libmicrohttpd asks for more only when the socket took all it had. At the end a whole answer counts whole. So a mark
 * is never too high, whatever becomes of the connection. What went to the socket at once was handed at once.
 *
 * Bound: what lies in the queue, records' heads included, is at most stream_buffer; a write beyond it fails and the
 * abort that follows shuts the socket down, for the reader of that connection does not read. Who writes more than that
 * waits for room instead: pull() tells it when enough was copied out, http_stream_over() when nothing ever will be. */
#include "base/http_internal.h"
#include <assert.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define BLOCK 1024    /* libmicrohttpd's own buffer, used for HTTP/1.0 clients only */
#define KEEP_CAP 4096 /* an emptied queue larger than this gives its memory back */
#define NOW_MAX 4096  /* sent at once: bytes, and at most as many that the peer did not take yet, so that it fits the socket as a whole */

struct stream_record {
    uint64_t mark;
    size_t len;
};

static struct http_exchange *exchange_of(const struct http_stream *s)
{
    return (struct http_exchange *)((char *)s - offsetof(struct http_exchange, stream));
}

/* --- the worker's side --- */

static void drop_taken(struct http_stream *s)
{
    if (s->head < s->queue.len) return;
    s->head = 0;
    if (s->queue.cap > KEEP_CAP)
        buf_close(&s->queue);
    else
        buf_reset(&s->queue);
}

/* Under the lock: bytes of one more record. */
static size_t room(const struct http_exchange *x)
{
    size_t used = x->stream.queue.len - x->stream.head + sizeof(struct stream_record), limit = x->server->opt.stream_buffer;
    return used < limit ? limit - used : 0;
}

struct waiter {
    void (*fn)(void *);
    void *u;
};

/* Under the lock: who is to be told that there is room, and is not told again. */
static struct waiter due_on_room(struct http_exchange *x, bool over)
{
    struct http_stream *s = &x->stream;
    struct waiter w = {NULL, NULL};
    if (!s->on_room || (!over && room(x) < s->room_for)) return w;
    w = (struct waiter){s->on_room, s->on_room_u};
    s->on_room = NULL;
    return w;
}

/* Under the lock, likewise: who waits until nothing is left to be handed. */
static struct waiter due_on_drained(struct http_stream *s)
{
    struct waiter w = {s->on_drained, s->on_drained_u};
    s->on_drained = NULL;
    return w;
}

static size_t copy_out(struct http_stream *s, char *out, size_t max)
{
    size_t n = 0;
    while (s->head < s->queue.len) {
        struct stream_record rec;
        memcpy(&rec, s->queue.data + s->head, sizeof rec);
        size_t take = rec.len - s->done < max - n ? rec.len - s->done : max - n;
        memcpy(out + n, s->queue.data + s->head + sizeof rec + s->done, take);
        n += take;
        s->done += take;
        if (s->done < rec.len) break;
        s->copied = rec.mark;
        s->head += sizeof rec + rec.len;
        s->done = 0;
    }
    s->bytes += n;
    drop_taken(s);
    return n;
}

static ssize_t pull(void *cls, uint64_t pos, char *out, size_t max)
{
    (void)pos;
    struct http_exchange *x = cls;
    struct http_stream *s = &x->stream;
    pthread_mutex_lock(&x->lock);
    atomic_store(&s->handed, s->copied);
    bool lost = http_is_lost(x) && !s->ended;
    struct waiter drained = {NULL, NULL};
    ssize_t n = lost ? MHD_CONTENT_READER_END_WITH_ERROR : (ssize_t)copy_out(s, out, max);
    if (n == 0 && s->ended) {
        s->end_seen = true;
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (n == 0 && s->aborted) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n == 0) {
        x->suspended = true;
        MHD_suspend_connection(x->mhd);
        drained = due_on_drained(s);
    }
    struct waiter w = due_on_room(x, false);
    pthread_mutex_unlock(&x->lock);
    if (w.fn) w.fn(w.u);
    if (drained.fn) drained.fn(drained.u);
    return n;
}

void http_stream_over(struct http_exchange *x, bool ok)
{
    struct http_stream *s = &x->stream;
    pthread_mutex_lock(&x->lock);
    s->over = true;
    s->ok = ok && (s->end_seen || x->head_only);
    if (ok) atomic_store(&s->handed, s->copied);
    void (*fn)(void *, bool, uint64_t) = s->open ? s->on_close : NULL;
    void *u = s->on_close_u;
    bool clean = s->ok;
    s->on_close = NULL;
    struct waiter w = due_on_room(x, true), drained = due_on_drained(s);
    pthread_mutex_unlock(&x->lock);
    if (w.fn) w.fn(w.u);
    if (drained.fn) drained.fn(drained.u);
    if (fn) fn(u, clean, atomic_load(&s->handed));
}

/* --- the handler's side --- */

struct http_stream *http_stream_open(struct http_request *r, int status, const char *content_type)
{
    struct http_exchange *x = (struct http_exchange *)r;
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, pull, x, NULL);
    if (response && x->head_only) /* else the library would send the last chunk of a body that HEAD does not have */
        MHD_set_response_options(response, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
    pthread_mutex_lock(&x->lock);
    assert(!x->answered);
    x->response = response;
    http_dress(x, status, content_type ? content_type : "application/json");
    x->stream.open = x->answered = true;
    x->stream.queue.limit = 2 * x->server->opt.stream_buffer + sizeof(struct stream_record);
    if (!x->owed) http_ref(x); /* opened by head() or sink() */
    x->owed = true;
    http_wake(x);
    pthread_mutex_unlock(&x->lock);
    return &x->stream;
}

/* Under the lock. The bytes before head are moved away only when they are more than those behind it. */
static int append(struct http_exchange *x, const void *bytes, size_t n, uint64_t mark)
{
    struct http_stream *s = &x->stream;
    struct stream_record rec = {.mark = mark, .len = n};
    size_t waiting = s->queue.len - s->head;
    if (n > room(x)) {
        s->late = true;
        return -1;
    }
    if (s->head > waiting) {
        buf_drop_front(&s->queue, s->head);
        s->head = 0;
    }
    size_t whole = s->queue.len;
    if (buf_add(&s->queue, &rec, sizeof rec) == 0 && buf_add(&s->queue, bytes, n) == 0) return 0;
    s->queue.len = whole; /* a record without its bytes would be read beyond them */
    s->late = true;       /* no memory: the same end */
    return -1;
}

/* Under the lock: does the worker wait, with nothing to be sent before this? */
static bool is_clear(const struct http_exchange *x, size_t n)
{
    const struct http_stream *s = &x->stream;
    int unsent = 0;
    if (!x->suspended || x->old || s->head < s->queue.len || s->handed != s->copied || n == 0 || n > NOW_MAX) return false;
    return ioctl(x->conn->fd, SIOCOUTQ, &unsent) == 0 && unsent <= NOW_MAX;
}

/* Under the lock, when it is clear. False: nothing of it was sent. */
static bool send_now(struct http_exchange *x, const void *bytes, size_t n, uint64_t mark)
{
    struct http_stream *s = &x->stream;
    char head[2 * sizeof n + 3], end[] = "\r\n";
    size_t h = (size_t)snprintf(head, sizeof head, "%zx\r\n", n);
    struct iovec part[] = {{head, h}, {(void *)bytes, n}, {end, 2}};
    struct msghdr m = {.msg_iov = part, .msg_iovlen = 3};
    ssize_t sent = sendmsg(x->conn->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent <= 0) return false;
    if ((size_t)sent < h + n + 2) {
        s->late = true; /* a part of a chunk: the socket has no room for 4 KB, and nothing can be said behind it */
        return true;
    }
    s->copied = mark;
    s->bytes += n;
    atomic_store(&s->handed, mark);
    return true;
}

int http_stream_write(struct http_stream *s, const void *bytes, size_t n, uint64_t mark)
{
    struct http_exchange *x = exchange_of(s);
    pthread_mutex_lock(&x->lock);
    assert(!s->ended && !s->aborted);
    int rc = 0;
    if (x->head_only)
        rc = x->mhd_done && !s->ok ? -1 : 0; /* a HEAD request has no body: written to nowhere */
    else if (s->late || x->mhd_done || http_is_lost(x))
        rc = -1;
    else if (is_clear(x, n) && send_now(x, bytes, n, mark))
        rc = s->late ? -1 : 0;
    else {
        rc = append(x, bytes, n, mark);
        if (rc == 0) http_wake(x);
    }
    pthread_mutex_unlock(&x->lock);
    return rc;
}

static bool is_over(const struct http_exchange *x)
{
    return x->stream.over || x->stream.late || x->mhd_done || http_is_lost(x);
}

size_t http_stream_room(struct http_stream *s)
{
    struct http_exchange *x = exchange_of(s);
    pthread_mutex_lock(&x->lock);
    size_t n = x->head_only ? x->server->opt.stream_buffer : is_over(x) ? 0 : room(x);
    pthread_mutex_unlock(&x->lock);
    return n;
}

void http_stream_on_room(struct http_stream *s, size_t n, void (*fn)(void *u), void *u)
{
    struct http_exchange *x = exchange_of(s);
    size_t most = x->server->opt.stream_buffer / 2;
    pthread_mutex_lock(&x->lock);
    assert(!s->on_room && !s->ended && !s->aborted);
    s->room_for = n < most ? n : most;
    s->on_room_u = u;
    s->on_room = fn;
    struct waiter w = due_on_room(x, x->head_only || is_over(x));
    pthread_mutex_unlock(&x->lock);
    if (w.fn) w.fn(w.u);
}

/* While the connection is suspended pull() was called again after the last byte. */
void http_stream_on_drained(struct http_stream *s, void (*fn)(void *u), void *u)
{
    struct http_exchange *x = exchange_of(s);
    pthread_mutex_lock(&x->lock);
    assert(!s->on_drained && !s->ended && !s->aborted);
    bool now = x->head_only || is_over(x) || (x->suspended && s->head >= s->queue.len && s->handed == s->copied);
    if (!now) {
        s->on_drained_u = u;
        s->on_drained = fn;
    }
    pthread_mutex_unlock(&x->lock);
    if (now) fn(u);
}

uint64_t http_stream_handed(const struct http_stream *s)
{
    return atomic_load(&s->handed);
}

void http_stream_on_close(struct http_stream *s, void (*fn)(void *u, bool clean, uint64_t mark), void *u)
{
    struct http_exchange *x = exchange_of(s);
    pthread_mutex_lock(&x->lock);
    bool over = s->over, ok = s->ok;
    s->on_close_u = u;
    s->on_close = over ? NULL : fn;
    pthread_mutex_unlock(&x->lock);
    if (over) fn(u, ok, atomic_load(&s->handed));
}

static void finish(struct http_stream *s, bool abort)
{
    struct http_exchange *x = exchange_of(s);
    pthread_mutex_lock(&x->lock);
    assert(!x->finished);
    if (abort)
        s->aborted = true;
    else
        s->ended = true;
    x->finished = true;
    x->owed = false;
    if (abort && s->late && !x->mhd_done) shutdown(x->conn->fd, SHUT_RDWR);
    http_wake(x);
    pthread_mutex_unlock(&x->lock);
    http_unref(x);
}

void http_stream_end(struct http_stream *s)
{
    finish(s, false);
}

void http_stream_abort(struct http_stream *s)
{
    finish(s, true);
}
