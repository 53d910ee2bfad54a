/* GET .../stats/refused: what limits refused, over time, a series for each limit (whose, and which) that refused anything.
 * From rollup_refused; what was counted within the last minute is written first. On database threads. */
#include "base/clock.h"
#include "gateway/limits/refused.h"
#include "gateway/live/live_api.h"
#include <stdlib.h>
#include <string.h>

#define SERIES_MAX 64 /* more than scopes times kinds */

struct refused_read {
    const struct span *span;
    int64_t interval_s, first, end;
    int n;          /* points */
    int64_t before; /* of the previous period's start; its end is `first` */
    int64_t over;   /* as long after `first`: points that are over by now are compared, with as many before */
    json_t *series;
    int64_t total, compared, previous;
};

static json_t *series_of(struct refused_read *x, const char *scope, const char *kind)
{
    size_t i;
    json_t *s;
    json_array_foreach(x->series, i, s)
    {
        if (strcmp(json_string_value(json_object_get(s, "scope")), scope) == 0 &&
            strcmp(json_string_value(json_object_get(s, "kind")), kind) == 0)
            return s;
    }
    if (json_array_size(x->series) == SERIES_MAX) return NULL;
    json_t *values = json_array();
    for (int k = 0; k < x->n; k++) json_array_append_new(values, json_integer(0));
    s = json_pack("{ss ss so si}", "scope", scope, "kind", kind, "values", values, "total", 0);
    return json_array_append_new(x->series, s) ? NULL : s;
}

static int add(struct refused_read *x, sqlite3_stmt *st, struct err *e)
{
    int64_t t = sqlite3_column_int64(st, 0), n = sqlite3_column_int64(st, 3);
    if (t < x->first) {
        x->previous += n;
        return 0;
    }
    json_t *s = series_of(x, db_text(st, 1), db_text(st, 2));
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for a series");
    json_t *total = json_object_get(s, "total"), *at = json_array_get(json_object_get(s, "values"), (size_t)((t - x->first) / x->interval_s));
    json_integer_set(at, json_integer_value(at) + n);
    json_integer_set(total, json_integer_value(total) + n);
    x->total += n;
    if (t < x->over) x->compared += n;
    return 0;
}

static int read_refused(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT t, scope, kind, n FROM rollup_refused WHERE tenant = ?1 AND t >= ?2 AND t < ?3";
    struct refused_read *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sii", span_rollup(x->span), x->before, x->end)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1)
        if (add(x, st, e)) return -1;
    return rc;
}

static int larger(const void *a, const void *b)
{
    json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, "total")),
               y = json_integer_value(json_object_get(*(json_t *const *)b, "total"));
    return (y > x) - (y < x);
}

/* Most refusals first. */
static json_t *sorted(json_t *series)
{
    json_t *all[SERIES_MAX], *out = json_array();
    size_t n = json_array_size(series);
    for (size_t i = 0; i < n; i++) all[i] = json_array_get(series, i);
    qsort(all, n, sizeof *all, larger);
    for (size_t i = 0; i < n; i++) json_array_append(out, all[i]);
    return out;
}

static json_t *answer(const struct refused_read *x)
{
    json_t *points = json_array();
    for (int i = 0; i < x->n; i++) json_array_append_new(points, json_integer(x->first + i * x->interval_s));
    bool any = x->over > x->first;
    json_t *compared = any ? json_pack("{sI sI sI}", "start_time", (json_int_t)x->first, "end_time", (json_int_t)x->over, "previous_start_time",
                                       (json_int_t)x->before)
                           : json_null();
    return json_pack("{ss sI sI sI so so sI so so so}", "object", "refused", "start_time", (json_int_t)x->first, "end_time",
                     (json_int_t)x->end, "interval_s", (json_int_t)x->interval_s, "points", points, "series", sorted(x->series), "total",
                     (json_int_t)x->total, "compared", compared, "compared_total", any ? json_integer(x->compared) : json_null(), "previous_total",
                     any ? json_integer(x->previous) : json_null());
}

void refused_get(struct http_request *r)
{
    static const char *const also[] = {"interval", NULL};
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct span s;
    struct refused_read x = {.span = &s, .series = json_array()};
    int rc = span_read(r, also, &s, &e) || span_points(r, &s, &x.interval_s, &x.first, &x.n, &e);
    if (rc == 0) {
        x.end = x.first + x.n * x.interval_s;
        x.over = clock_wall_us() / 1000000 / x.interval_s * x.interval_s;
        if (x.over > x.end) x.over = x.end;
        if (x.over < x.first) x.over = x.first;
        x.before = x.first - (x.over - x.first);
        refused_settle(g->refused);
        rc = db_read(g->db, read_refused, &x, LIVE_READ_MS, &e);
    }
    live_answer(r, rc, rc ? NULL : answer(&x), &e);
    json_decref(x.series);
}
