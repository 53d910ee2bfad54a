/* http_reply: whole answers, from memory or a file, from any thread.
 *
 * The libmicrohttpd response is built on the caller's thread, left in the exchange, and the connection woken; the
 * worker queues it. The handler's reference goes last, so nothing is touched after it. When the client is gone already,
 * building is all that happens and the exchange frees the response. Answering twice is a bug of ours, hence an assert.
 */
#include "base/http_internal.h"
#include "base/json.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define ERROR_MAX 8192
#define RETRY_AFTER_S "1" /* where nobody knows better */

static struct http_pair *find_out(struct http_exchange *x, const char *name)
{
    struct http_pair *h = x->out_headers;
    while (h && strcasecmp(h->name, name)) h = h->next;
    return h;
}

int http_set_header(struct http_request *r, const char *name, const char *value)
{
    struct http_exchange *x = (struct http_exchange *)r;
    if (!http_is_token(name, strlen(name)) || !http_is_text(value, strlen(value))) return -1;
    if (strcasecmp(name, "content-length") == 0 || strcasecmp(name, "transfer-encoding") == 0) return -1;
    char *n = arena_strdup(r->arena, name), *v = arena_strdup(r->arena, value);
    struct http_pair *h = find_out(x, name);
    bool fresh = !h;
    if (fresh) h = arena_alloc(r->arena, sizeof *h);
    if (!n || !v || !h) {
        x->lacks_header = true;
        return -1;
    }
    h->name = n;
    h->value = v;
    if (fresh) {
        h->next = x->out_headers;
        x->out_headers = h;
    }
    return 0;
}

/* The library takes no empty value: as good as none. */
static bool has_added(struct http_exchange *x, const char *name, const char *value)
{
    return !*value || MHD_add_response_header(x->response, name, value) == MHD_YES;
}

/* Everything but "Connection: close", which the worker decides. Without one of its headers (no memory) an answer is none: its type says how it is read. */
void http_dress(struct http_exchange *x, int status, const char *content_type)
{
    x->status = status;
    if (!x->response) return;
    bool whole = !x->lacks_header;
    for (const struct http_pair *h = x->out_headers; h; h = h->next) whole &= has_added(x, h->name, h->value);
    if (!find_out(x, "x-request-id")) whole &= has_added(x, "x-request-id", x->r.id);
    if (!find_out(x, "content-type") && content_type) whole &= has_added(x, "Content-Type", content_type);
    if (whole) return;
    MHD_destroy_response(x->response);
    x->response = NULL;
}

static void give(struct http_request *r, int status, const char *content_type, struct MHD_Response *response, size_t n)
{
    struct http_exchange *x = (struct http_exchange *)r;
    pthread_mutex_lock(&x->lock);
    assert(!x->answered);
    x->response = response;
    http_dress(x, status, content_type);
    x->reply_bytes = n;
    x->answered = x->finished = true;
    bool owed = x->owed;
    x->owed = false;
    http_wake(x);
    pthread_mutex_unlock(&x->lock);
    json_short_is_told(); /* whoever this thread serves next met none yet */
    if (owed) http_unref(x);
}

void http_reply(struct http_request *r, int status, const char *content_type, const void *body, size_t n)
{
    give(r, status, content_type ? content_type : "application/json",
         MHD_create_response_from_buffer(n, (void *)body, MHD_RESPMEM_MUST_COPY), n);
}

void http_reply_file(struct http_request *r, int status, const char *content_type, int fd, int64_t at, int64_t n)
{
    struct MHD_Response *response = MHD_create_response_from_fd_at_offset64((uint64_t)n, fd, (uint64_t)at);
    if (!response) close(fd);
    give(r, status, content_type ? content_type : "application/octet-stream", response, (size_t)n);
}

/* Where there is no memory even for the sentence: the row's own words, which need none. */
static void reply_plainly(struct http_request *r, const struct err_info *row)
{
    char text[256];
    int n = snprintf(text, sizeof text, "{\"error\":{\"message\":\"out of memory\",\"type\":\"%s\",\"param\":null,\"code\":%s%s%s}}", row->type,
                     row->code ? "\"" : "", row->code ? row->code : "null", row->code ? "\"" : "");
    http_reply(r, row->status, NULL, text, (size_t)n);
}

void http_reply_error(struct http_request *r, const struct err *e)
{
    static const struct err unsaid = {.code = ERR_INTERNAL, .msg = "it failed, and did not say why"};
    if (!e->code) e = &unsaid; /* no error may go out as 200 */
    const struct err_info *row = err_info(e->code);
    struct buf b;
    buf_init(&b, ERROR_MAX);
    r->error = row->code;
    char after[16] = RETRY_AFTER_S;
    if (e->retry_after_s > 0) snprintf(after, sizeof after, "%d", e->retry_after_s);
    if ((row->status == 503 || e->retry_after_s > 0) && !find_out((struct http_exchange *)r, "retry-after")) http_set_header(r, "Retry-After", after);
    ((struct http_exchange *)r)->lacks_header = false; /* those were the answer's; an error says enough without */
    if (json_error(e, &b)) reply_plainly(r, err_info(ERR_NO_MEMORY));
    else http_reply(r, row->status, NULL, b.data, b.len);
    buf_close(&b);
}
