/* http_reply: whole answers, from any thread.
 *
 * The libmicrohttpd response is built on the caller's thread, left in the exchange, and the connection woken; the
 * worker queues it. The handler's reference goes last, so nothing is touched after it. When the client is gone already,
 * building is all that happens and the exchange frees the response. Answering twice is a bug of ours, hence an assert.
 */
#include "base/http_internal.h"
#include "base/json.h"
#include <assert.h>
#include <string.h>
#include <strings.h>

#define ERROR_MAX 8192

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
    if (!n || !v || !h) return -1;
    h->name = n;
    h->value = v;
    if (fresh) {
        h->next = x->out_headers;
        x->out_headers = h;
    }
    return 0;
}

/* Everything but "Connection: close", which the worker decides. */
void http_dress(struct http_exchange *x, int status, const char *content_type)
{
    x->status = status;
    if (!x->response) return;
    for (const struct http_pair *h = x->out_headers; h; h = h->next)
        MHD_add_response_header(x->response, h->name, h->value);
    if (!find_out(x, "x-request-id")) MHD_add_response_header(x->response, "x-request-id", x->r.id);
    if (!find_out(x, "content-type") && content_type)
        MHD_add_response_header(x->response, "Content-Type", content_type);
}

void http_reply(struct http_request *r, int status, const char *content_type, const void *body, size_t n)
{
    struct http_exchange *x = (struct http_exchange *)r;
    struct MHD_Response *response = MHD_create_response_from_buffer(n, (void *)body, MHD_RESPMEM_MUST_COPY);
    pthread_mutex_lock(&x->lock);
    assert(!x->answered);
    x->response = response;
    http_dress(x, status, content_type ? content_type : "application/json");
    x->reply_bytes = n;
    x->answered = x->finished = true;
    bool owed = x->owed;
    x->owed = false;
    http_wake(x);
    pthread_mutex_unlock(&x->lock);
    if (owed) http_unref(x);
}

void http_reply_error(struct http_request *r, const struct err *e)
{
    struct buf b;
    buf_init(&b, ERROR_MAX);
    json_error(e, &b);
    http_reply(r, err_info(e->code)->status, NULL, b.data, b.len);
    buf_close(&b);
}
