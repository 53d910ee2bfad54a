/* api_origin: what the gateway says about a request in headers (schema/ENGINE_API.md): who asks, how urgent it is, under which id it is counted.
 *
 * Each is a word of visible ASCII within a bound of its own, and stands once: what an engine serves without a gateway before it, a stranger may send. Values are
 * borrowed from the request. Any thread. */
#include "engine/api_call.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_SHOWN_MAX 255
#define TAG_MAX 63
#define HEADER_MAX 512 /* above all of them; a longer value is refused for its length */
#define WEIGHT_MIN 0.001
#define WEIGHT_MAX 1000.0
#define DEADLINE_MAX_MS 86400000
#define TAKEOVER_MAX 48

/* A header of 1..max visible ASCII characters; absent: *out stays. One of each: of two, a proxy in between might have read the other. */
static int header_word(const struct http_request *r, const char *name, size_t max, const char **out, struct err *e)
{
    char all[HEADER_MAX];
    const char *v = http_header(r, name);
    if (!v) return 0;
    size_t n = strlen(v);
    if (n < sizeof all && http_header_join(r, name, all, sizeof all) != n)
        return err_field(e, ERR_INVALID, name, "the header %s comes twice", name);
    bool good = n > 0 && n <= max;
    for (size_t i = 0; i < n; i++) good &= v[i] > 0x20 && v[i] < 0x7f;
    if (!good)
        return err_field(e, ERR_INVALID, name, "the header %s must be 1 to %zu visible ASCII characters", name, max);
    *out = v;
    return 0;
}

static int header_number(const struct http_request *r, const char *name, double min, double max, double *out,
                         struct err *e)
{
    const char *v = NULL;
    char *end;
    if (header_word(r, name, 32, &v, e)) return -1;
    if (!v) return 0;
    double d = strtod(v, &end);
    bool plain = strspn(v, "0123456789.") == strlen(v); /* strtod reads 0x10, 1e3 and inf as well */
    if (!plain || *end || !isfinite(d) || d < min || d > max)
        return err_field(e, ERR_INVALID, name, "the header %s must be a decimal number from %g to %g", name, min, max);
    *out = d;
    return 0;
}

static int header_deadline(const struct http_request *r, int *out, struct err *e)
{
    double ms = 0;
    const char *v = http_header(r, "X-Weft-Deadline-Ms");
    if (header_number(r, "X-Weft-Deadline-Ms", 1, DEADLINE_MAX_MS, &ms, e)) return -1;
    if (v && strchr(v, '.')) return err_field(e, ERR_INVALID, "X-Weft-Deadline-Ms", "the header X-Weft-Deadline-Ms must be whole milliseconds");
    *out = (int)ms;
    return 0;
}

static int header_class(const struct http_request *r, enum sched_class *out, struct err *e)
{
    const char *v = NULL;
    if (header_word(r, "X-Weft-Class", TAG_MAX, &v, e)) return -1;
    for (int i = 0; v && i < SCHED_CLASSES; i++) {
        if (strcmp(v, sched_class_name[i]) != 0) continue;
        *out = (enum sched_class)i;
        return 0;
    }
    return v ? err_field(e, ERR_INVALID, "X-Weft-Class", "no such class: '%s' (interactive, normal or batch)", v) : 0;
}

int api_origin(const struct http_request *r, struct origin *o, struct err *e)
{
    const char *id = NULL, *takeover = NULL;
    *o = (struct origin){.tenant = "", .weight = 1, .class = CLASS_NORMAL};
    if (header_word(r, "X-Weft-Request-Id", sizeof o->id - 1, &id, e)) return -1;
    if (header_word(r, "X-Weft-Takeover", TAKEOVER_MAX, &takeover, e)) return -1;
    if (header_word(r, "X-Weft-Model", MODEL_SHOWN_MAX, &o->model, e)) return -1;
    if (header_word(r, "X-Weft-Tenant", TAG_MAX, &o->tenant, e)) return -1;
    if (header_class(r, &o->class, e)) return -1;
    if (header_number(r, "X-Weft-Weight", WEIGHT_MIN, WEIGHT_MAX, &o->weight, e)) return -1;
    if (header_deadline(r, &o->deadline_ms, e)) return -1;
    if (takeover && api_fence(takeover, e)) return -1; /* last: what is refused for another header moves no fence */
    o->counted = id != NULL;
    snprintf(o->id, sizeof o->id, "%s", id ? id : r->id);
    traceparent_trace(http_header(r, "traceparent"), o->trace);
    return 0;
}
