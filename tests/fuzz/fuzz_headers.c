/* Headers that mean something to us: those that the engine reads of a gateway (X-Weft-*), a bearer, Accept-Encoding and Last-Event-ID. What is taken keeps to its
 * bounds, is what stands there, and stands there once; a gateway that another took over from is refused, by a second account of who was seen; of codings a plain
 * reference tells which are wanted. Input: requests, each ended by an empty line, of lines `Name: value`. */
#include "base/http_internal.h"
#include "engine/api_call.h"
#include "engine/api_fence.c"
#include "gateway/api/header.h"
#include "tests/fuzz/fuzz.h"
#include <ctype.h>
#include <math.h>

#define LINES_MAX 16
#define REQUESTS_MAX 12 /* no more gateways than api_fence.c remembers */

/* The books that were seen, and how far. */
struct seen {
    char tag[TAG_DIGITS + 1];
    long n;
};

static int count(const struct http_exchange *x, const char *name)
{
    int n = 0;
    for (int i = 0; i < x->nheaders; i++) n += strcasecmp(x->header[i].name, name) == 0;
    return n;
}

static bool is_word(const char *s, size_t max)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] > '~') return false;
    return n >= 1 && n <= max;
}

/* --- the engine's --- */

static void check_word(const struct http_exchange *x, const char *name, const char *taken, size_t max)
{
    const char *v = http_header(&x->r, name);
    FUZZ_NEED(!v || (count(x, name) == 1 && taken && strcmp(v, taken) == 0 && is_word(v, max)));
}

static void check_takeover(const struct http_exchange *x, struct seen *seen, int *nseen)
{
    const char *v = http_header(&x->r, "X-Weft-Takeover");
    char tag[TAG_DIGITS + 1];
    int i = 0;
    if (!v) return;
    FUZZ_NEED(count(x, "X-Weft-Takeover") == 1 && strlen(v) > TAG_DIGITS + 1 && v[TAG_DIGITS] == '-');
    snprintf(tag, sizeof tag, "%.*s", TAG_DIGITS, v);
    long n = strtol(v + TAG_DIGITS + 1, NULL, 10);
    while (i < *nseen && strcmp(seen[i].tag, tag) != 0) i++;
    if (i == *nseen) snprintf(seen[(*nseen)++].tag, sizeof tag, "%s", tag);
    FUZZ_NEED(n >= seen[i].n); /* or it was taken over from */
    seen[i].n = n;
}

static void check_origin(struct http_exchange *x, struct seen *seen, int *nseen)
{
    struct origin o;
    struct err e = {0};
    if (api_origin(&x->r, &o, &e)) {
        FUZZ_NEED((e.code == ERR_INVALID && strncmp(e.param, "X-Weft-", 7) == 0 && http_header(&x->r, e.param)) || (e.code == ERR_CONFLICT && *nseen > 0));
        FUZZ_NEED(e.msg[0]);
        return;
    }
    const char *class = http_header(&x->r, "X-Weft-Class"), *weight = http_header(&x->r, "X-Weft-Weight"), *deadline = http_header(&x->r, "X-Weft-Deadline-Ms");
    FUZZ_NEED(o.counted == (http_header(&x->r, "X-Weft-Request-Id") != NULL) && o.id[0] && memchr(o.id, 0, sizeof o.id) && memchr(o.trace, 0, sizeof o.trace));
    check_word(x, "X-Weft-Request-Id", o.id, sizeof o.id - 1);
    check_word(x, "X-Weft-Model", o.model, 255);
    check_word(x, "X-Weft-Tenant", o.tenant, 63);
    FUZZ_NEED((unsigned)o.class < SCHED_CLASSES && (class ? strcmp(class, sched_class_name[o.class]) == 0 : o.class == CLASS_NORMAL));
    FUZZ_NEED(isfinite(o.weight) && o.weight >= 0.001 && o.weight <= 1000 && (weight ? strtod(weight, NULL) == o.weight : o.weight == 1));
    FUZZ_NEED(deadline ? o.deadline_ms >= 1 && o.deadline_ms == strtol(deadline, NULL, 10) : o.deadline_ms == 0);
    check_takeover(x, seen, nseen);
}

/* --- the gateway's --- */

static void check_bearer(const struct http_exchange *x)
{
    const char *v = http_header(&x->r, "Authorization"), *key = http_bearer(&x->r);
    if (!key) return;
    size_t n = strlen(key), all = strlen(v);
    FUZZ_NEED(n && !strpbrk(key, " \t") && all > n && strcmp(v + all - n, key) == 0 && strncasecmp(v, "bearer ", 7) == 0 && strspn(v + 6, " ") == all - n - 6);
}

/* A coding's weight is 0: ;q=0 with zeros behind its point, blanks around. */
static bool weight_is_0(const char *p)
{
    while (isblank((unsigned char)*p)) p++;
    if (*p++ != ';') return false;
    while (isblank((unsigned char)*p)) p++;
    if (tolower((unsigned char)p[0]) != 'q' || p[1] != '=') return false;
    p += 2;
    const char *from = p;
    while (*p == '0' || *p == '.') p++;
    bool some = p > from;
    while (isblank((unsigned char)*p)) p++;
    return some && !*p;
}

static bool wants_gzip(const char *value)
{
    int gzip = -1, star = -1; /* what was said last */
    char *all = strdup(value), *rest = all;
    for (char *one; (one = strsep(&rest, ","));) {
        while (isblank((unsigned char)*one)) one++;
        size_t n = strcspn(one, " \t;");
        if (n == 4 && strncasecmp(one, "gzip", 4) == 0) gzip = !weight_is_0(one + n);
        if (n == 1 && *one == '*') star = !weight_is_0(one + n);
    }
    free(all);
    return gzip >= 0 ? gzip : star == 1;
}

static void check_client(const struct http_exchange *x)
{
    const char *encodings = http_header(&x->r, "Accept-Encoding"), *last = http_header(&x->r, "Last-Event-ID");
    struct err e = {0};
    int64_t seq = -7;
    check_bearer(x);
    FUZZ_NEED(header_takes_gzip(encodings) == (encodings && wants_gzip(encodings)));
    if (header_last_event(last, &seq, &e)) FUZZ_NEED(seq == -7 && last && e.code == ERR_INVALID && strcmp(e.param, "Last-Event-ID") == 0);
    else FUZZ_NEED(last && *last ? seq >= 0 && strspn(last, "0123456789") == strlen(last) && seq == strtoll(last, NULL, 10) : seq == -7);
}

/* --- requests --- */

/* The lines up to an empty one; false: none is left. */
static bool read_request(const uint8_t **data, size_t *n, struct http_exchange *x, char *line[LINES_MAX])
{
    bool some = *n > 0;
    while (*n && x->nheaders < LINES_MAX) {
        char *s = fuzz_until(data, n, '\n'), *colon = strchr(s, ':');
        if (!*s) {
            free(s);
            break;
        }
        char *value = colon ? colon + 1 + strspn(colon + 1, " \t") : s + strlen(s);
        if (colon) *colon = 0;
        line[x->nheaders] = s;
        x->header[x->nheaders++] = (struct http_pair){.name = s, .value = value};
    }
    return some;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct http_exchange x; /* some KB */
    struct seen seen[REQUESTS_MAX];
    char *line[LINES_MAX];
    int nseen = 0;
    log_set_level(LOG_ERROR); /* each takeover is told */
    memset(fence, 0, sizeof fence);
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < REQUESTS_MAX; i++) {
        memset(&x, 0, sizeof x);
        snprintf(x.r.id, sizeof x.r.id, "own");
        if (!read_request(&data, &n, &x, line)) break;
        check_origin(&x, seen, &nseen);
        check_client(&x);
        for (int k = 0; k < x.nheaders; k++) free(line[k]);
    }
    return 0;
}
