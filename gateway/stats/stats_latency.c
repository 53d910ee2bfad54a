/* stats_latency: how long requests took, as a heat map and as percentiles, from histograms of quarter octaves (see stats.h).
 *
 * Buckets and percentiles are latency.h's. Everybody's days are kept as days; a tenant's are added up from its hours. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/stats/latency.h"
#include "gateway/stats/stats_kept.h"
#include <math.h>
#include <stdlib.h>

struct histogram {
    int64_t n[LATENCY_BUCKETS];
};

struct latency {
    struct stats_read x;
    const char *tenant;
    enum latency_kind kind;
    const struct stats_range *range;
    size_t points;
    struct histogram *cell; /* [points] */
    struct histogram whole, before;
};

/* --- reading --- */

struct fill {
    struct latency *l;
    const struct stats_range *range;
    bool cells;
};

static void add(const struct fill *f, int64_t t, int64_t bucket, int64_t n)
{
    struct latency *l = f->l;
    if (bucket < 0 || bucket >= LATENCY_BUCKETS - 1) return;
    (f->cells ? &l->whole : &l->before)->n[bucket] += n;
    if (f->cells) l->cell[stats_at(f->range, t)].n[bucket] += n;
}

static int add_row(void *u, const struct stats_row *row, struct err *e)
{
    (void)e;
    add(u, row->t, strtol(row->name, NULL, 10), row->sums.v[SUM_REQUESTS]);
    return 0;
}

static int walk(struct latency *l, struct db *d, sqlite3 *c, const struct stats_range *r, bool cells, struct err *e)
{
    static const char sql[] = "SELECT t, bucket, n FROM rollup_latency WHERE tenant = ?1 AND t >= ?2 AND t < ?3 AND kind = ?4";
    static const char days[] = "WITH RECURSIVE day(t) AS (VALUES(?2) UNION ALL SELECT t + 86400 FROM day WHERE t + 86400 < ?3)"
                               " SELECT r.t, r.bucket, r.n FROM day CROSS JOIN rollup_latency r ON r.tenant = ?1 AND r.t = day.t AND r.kind = ?4";
    bool whole_days = !l->tenant && r->width_s == STATS_DAY;
    struct fill f = {l, r, cells};
    if (l->tenant && r->width_s == STATS_DAY) return stats_histograms(&l->x, l->tenant, l->kind, r, add_row, &f, e);
    sqlite3_stmt *st = r->start < r->end ? db_stmt(d, c, whole_days ? days : sql, e) : NULL;
    if (r->start >= r->end) return 0;
    if (!st || db_bind(st, e, "siii", l->tenant ? l->tenant : "", r->start, r->end, (int64_t)l->kind + (whole_days ? LATENCY_DAY : 0))) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) add(&f, sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1), sqlite3_column_int64(st, 2));
    return rc;
}

static int read_latency(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct latency *l = u;
    struct stats_range before = stats_before(l->range);
    if (stats_begin(&l->x, d, c, e)) return -1;
    return walk(l, d, c, l->range, true, e) || walk(l, d, c, &before, false, e) ? -1 : 0;
}

/* --- printing --- */

static void used(const struct histogram *h, int *first, int *last)
{
    for (*first = 0; *first < LATENCY_BUCKETS && !h->n[*first];) ++*first;
    for (*last = LATENCY_BUCKETS - 1; *last >= 0 && !h->n[*last];) --*last;
}

static json_t *cells_json(const struct latency *l, int first, int last)
{
    json_t *list = json_array();
    for (size_t p = 0; p < l->points; p++) {
        json_t *row = json_array();
        for (int b = first; b <= last; b++) json_array_append_new(row, json_integer(l->cell[p].n[b]));
        json_array_append_new(list, row);
    }
    return list;
}

static json_t *points_json(const struct latency *l, json_t *percents)
{
    json_t *list = json_array();
    for (size_t p = 0; p < l->points; p++) {
        int64_t t = l->range->start + (int64_t)p * l->range->width_s;
        json_t *o = latency_json(l->cell[p].n);
        json_object_set_new(o, "t", json_integer(t));
        json_array_append_new(percents, o);
        json_array_append_new(list, json_integer(t));
    }
    return list;
}

static json_t *print(const struct latency *l)
{
    static const char *const words[] = {"ttft", "duration", "tpot"};
    int first, last;
    json_t *edges = json_array(), *percents = json_array();
    used(&l->whole, &first, &last);
    for (int b = first; b <= last; b++) json_array_append_new(edges, json_real(rint(latency_edge(b + 1)) / 1000));
    json_t *points = points_json(l, percents);
    return json_pack("{ss ss sI sI sI so so so so so so}", "object", "latency", "kind", words[l->kind], "start_time", (json_int_t)l->range->start,
                     "end_time", (json_int_t)l->range->end, "interval_s", (json_int_t)l->range->width_s, "points", points, "buckets_ms", edges, "cells",
                     cells_json(l, first, last), "percentiles", percents, "total", latency_json(l->whole.n), "previous", latency_json(l->before.n));
}

int stats_latency(struct stats_kept *k, const char *tenant, enum latency_kind kind, const struct stats_range *r, json_t **out, struct err *e)
{
    struct latency *l = calloc(1, sizeof *l);
    size_t points = stats_points(r);
    struct histogram *cell = calloc(points + 1, sizeof *cell);
    int rc = -1;
    if (l && cell) {
        *l = (struct latency){.x = {.tenant = tenant, .now = clock_wall_us() / 1000000, .kept = k}, .tenant = tenant, .kind = kind, .range = r, .points = points, .cell = cell};
        rc = db_read(stats_kept_db(k), read_latency, l, STATS_READ_MS, e);
        if (rc == 0 && !(*out = print(l))) rc = -1;
    }
    if (rc) err_set(e, ERR_NO_MEMORY, "no memory for a histogram");
    free(cell);
    free(l);
    return rc;
}
