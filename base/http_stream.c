/* http_stream: answers that are written piece by piece from another thread.
 *
 *     http_stream_write -> [ queue of records: mark, length, bytes ] -> pull, on the worker -> libmicrohttpd -> socket
 *
 * pull() is libmicrohttpd's content reader: it copies records out; with none left it ends, fails, or suspends the
 * connection, and the next write wakes it. Both run under the exchange's lock, so a wake-up is never lost and never
 * given twice.
 *
 * A mark counts as handed when pull() is called again after the call that copied the last byte of its record:
 * libmicrohttpd asks for more only when the socket took all it had. At the end a whole answer counts whole. So a mark
 * is never too high, whatever becomes of the connection.
 *
 * Bound: what lies in the queue, records' heads included, is at most stream_buffer; a write beyond it fails and the
 * abort that follows shuts the socket down, for the reader of that connection does not read. */
#include "base/http_internal.h"
#include <assert.h>
#include <string.h>
#include <sys/socket.h>

#define BLOCK 1024    /* libmicrohttpd's own buffer, used for HTTP/1.0 clients only */
#define KEEP_CAP 4096 /* an emptied queue larger than this gives its memory back */

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
    ssize_t n = lost ? MHD_CONTENT_READER_END_WITH_ERROR : (ssize_t)copy_out(s, out, max);
    if (n == 0 && s->ended) {
        s->end_seen = true;
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (n == 0 && s->aborted) {
        n = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n == 0) {
        x->suspended = true;
        MHD_suspend_connection(x->mhd);
    }
    pthread_mutex_unlock(&x->lock);
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
    pthread_mutex_unlock(&x->lock);
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
    size_t waiting = s->queue.len - s->head, limit = x->server->opt.stream_buffer;
    if (n > limit || waiting + sizeof rec + n > limit) {
        s->late = true;
        return -1;
    }
    if (s->head > waiting) {
        buf_drop_front(&s->queue, s->head);
        s->head = 0;
    }
    buf_add(&s->queue, &rec, sizeof rec);
    if (buf_add(&s->queue, bytes, n) == 0) return 0;
    s->late = true; /* no memory: the same end */
    return -1;
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
    else {
        rc = append(x, bytes, n, mark);
        if (rc == 0) http_wake(x);
    }
    pthread_mutex_unlock(&x->lock);
    return rc;
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
