/* client_head: what of an answer's head is kept. A value is kept whole or not at all, for a time, a tag, an address that was cut is another one; and
 * not where it holds a control character, which no value has (RFC 9110, section 5.5): some go on, into an answer or onto a terminal. Of a field that
 * comes twice the last counts. */
#include "base/client_internal.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct value {
    const char *s;
    size_t n;
};

/* The value of the field `name` in this line, without blanks around it. False: it is of another, or none that a field has. */
static bool value_of(const char *line, size_t n, const char *name, struct value *out)
{
    size_t len = strlen(name);
    if (n <= len || strncasecmp(line, name, len) || line[len] != ':') return false;
    const char *v = line + len + 1, *end = line + n;
    while (v < end && (*v == ' ' || *v == '\t')) v++;
    while (end > v && strchr(" \t\r\n", end[-1])) end--;
    for (const char *p = v; p < end; p++)
        if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f) return false;
    *out = (struct value){v, (size_t)(end - v)};
    return true;
}

static void keep(const char *line, size_t n, const char *name, char *out, size_t cap)
{
    struct value v;
    if (!value_of(line, n, name, &v)) return;
    size_t fits = v.n < cap ? v.n : 0;
    memcpy(out, v.s, fits);
    out[fits] = 0;
}

static void keep_location(struct client_head *h, const char *line, size_t n)
{
    struct value v;
    if (!value_of(line, n, "location", &v)) return;
    free(h->location);
    h->location = v.n ? strndup(v.s, v.n) : NULL;
}

void client_head_line(struct client_head *h, const char *line, size_t n)
{
    if (n > 5 && memcmp(line, "HTTP/", 5) == 0) {
        free(h->location);
        *h = (struct client_head){.location = NULL};
    }
    keep(line, n, "content-type", h->content_type, sizeof h->content_type);
    keep(line, n, "retry-after", h->retry_after, sizeof h->retry_after);
    keep_location(h, line, n);
    keep(line, n, "x-request-id", h->request_id, sizeof h->request_id);
    keep(line, n, "etag", h->etag, sizeof h->etag);
    keep(line, n, "x-weft-time", h->weft_time, sizeof h->weft_time);
}
