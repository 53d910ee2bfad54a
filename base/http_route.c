/* http_route: which row of the route table a request is for.
 *
 * Patterns are compared segment by segment, in the order of the table: the first row that fits path and method wins, so
 * a literal segment stands above a {parameter} in its place. A HEAD request takes the GET row. When the path fits a row
 * but no method does, the answer is 405 with Allow: the methods of the first pattern that fits. On a worker; parameters are
 * copied into the request's arena. */
#include "base/http_internal.h"
#include <string.h>

struct span {
    const char *s;
    size_t n;
};

/* The segment behind the slash at *p; moves *p to the next slash or the end. */
static struct span next_segment(const char **p)
{
    const char *s = *p + 1;
    size_t n = strcspn(s, "/");
    *p = s + n;
    return (struct span){s, n};
}

static bool is_rest(struct span want)
{
    return want.n > 5 && want.s[0] == '{' && memcmp(want.s + want.n - 4, "...}", 4) == 0;
}

/* Fills got[] with the parameters' values. */
static bool matches(const char *pattern, const char *path, struct span got[HTTP_PARAMS])
{
    int n = 0;
    while (*pattern && *path) {
        const char *rest = path + 1;
        struct span want = next_segment(&pattern), have = next_segment(&path);
        if (want.n && want.s[0] == '{') {
            if (have.n == 0 || n == HTTP_PARAMS) return false;
            if (is_rest(want)) {
                got[n] = (struct span){rest, strlen(rest)};
                return true;
            }
            got[n++] = have;
        } else if (want.n != have.n || memcmp(want.s, have.s, want.n))
            return false;
    }
    return !*pattern && !*path;
}

static void add_method(char *list, size_t cap, const char *method)
{
    for (const char *p = list; *p; p += strspn(p, ", ")) {
        size_t n = strcspn(p, ",");
        if (n == strlen(method) && memcmp(p, method, n) == 0) return;
        p += n;
    }
    size_t len = strlen(list), more = strlen(method);
    if (len + more + 3 > cap) return;
    if (len) memcpy(list + len, ", ", 3), len += 2;
    memcpy(list + len, method, more + 1);
}

static int take_params(struct http_exchange *x, const struct http_route *route, const struct span got[HTTP_PARAMS],
                       struct err *e)
{
    for (int i = 0; i < HTTP_PARAMS && got[i].s; i++) {
        x->r.param[i] = arena_strndup(x->r.arena, got[i].s, got[i].n);
        if (!x->r.param[i]) return err_set(e, ERR_NO_MEMORY, "no memory for a path");
    }
    x->r.route = route;
    return 0;
}

int http_route_find(struct http_exchange *x, struct err *e)
{
    char allow[64] = "";
    const char *first = NULL;
    const char *method = x->head_only ? "GET" : x->r.method;
    for (const struct http_route *route = x->server->opt.routes; route->method; route++) {
        struct span got[HTTP_PARAMS] = {{0}};
        if (!matches(route->pattern, x->r.path, got)) continue;
        if (strcmp(route->method, method) == 0) return take_params(x, route, got, e);
        if (!first) first = route->pattern;
        if (strcmp(route->pattern, first) != 0) continue;
        add_method(allow, sizeof allow, route->method);
        if (strcmp(route->method, "GET") == 0) add_method(allow, sizeof allow, "HEAD");
    }
    if (!allow[0]) return err_set(e, ERR_NOT_FOUND, "no such route: %.16s %.200s", x->r.method, x->r.path);
    http_set_header(&x->r, "Allow", allow);
    return err_set(e, ERR_METHOD, "%.16s is not allowed here, %s is", x->r.method, allow);
}
