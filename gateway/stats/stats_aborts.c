/* stats_aborts: requests whose reader went away: how many, what was delivered and billed, and what the engines computed besides (see stats.h). */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/stats/stats.h"
#include <stdlib.h>

static const struct {
    const char *name;
    enum stats_sum sum;
} columns[] = {{"requests", SUM_REQUESTS}, {"output_tokens", SUM_OUTPUT}, {"produced_tokens", SUM_PRODUCED}, {"cost_nano", SUM_COST}};

struct aborts {
    struct stats_read x;
    const struct stats_range *range;
    struct stats_sums *point; /* [points] */
    struct stats_sums aborted, all;
};

static int add(void *u, const struct stats_row *row, struct err *e)
{
    struct aborts *a = u;
    (void)e;
    stats_add(&a->all, &row->sums);
    if (row->name[0] != '0' + USAGE_CLIENT_ABORT) return 0;
    stats_add(&a->aborted, &row->sums);
    stats_add(&a->point[stats_at(a->range, row->t)], &row->sums);
    return 0;
}

static int read_aborts(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct aborts *a = u;
    a->x.d = d;
    a->x.c = c;
    return stats_states(&a->x, a->range, add, a, e);
}

static json_t *totals(const struct stats_sums *s)
{
    json_t *o = json_object();
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) json_object_set_new(o, columns[i].name, json_integer(s->v[columns[i].sum]));
    return o;
}

static json_t *print(const struct aborts *a)
{
    json_t *points = json_array(), *whole = totals(&a->aborted);
    for (int64_t t = a->range->start; t < a->range->end; t += a->range->width_s) json_array_append_new(points, json_integer(t));
    json_object_set_new(whole, "of_requests", json_integer(a->all.v[SUM_REQUESTS]));
    json_t *o = json_pack("{ss sI sI sI so so}", "object", "aborts", "start_time", (json_int_t)a->range->start, "end_time", (json_int_t)a->range->end,
                          "interval_s", (json_int_t)a->range->width_s, "points", points, "totals", whole);
    for (size_t i = 0; o && i < sizeof columns / sizeof *columns; i++) {
        json_t *list = json_array();
        for (size_t p = 0; p < stats_points(a->range); p++) json_array_append_new(list, json_integer(a->point[p].v[columns[i].sum]));
        json_object_set_new(o, columns[i].name, list);
    }
    return o;
}

int stats_aborts(struct db *d, const char *tenant, const struct stats_range *r, json_t **out, struct err *e)
{
    struct aborts a = {.x = {.tenant = tenant, .now = clock_wall_us() / 1000000}, .range = r};
    a.point = calloc(stats_points(r) + 1, sizeof *a.point);
    int rc = a.point ? db_read(d, read_aborts, &a, STATS_READ_MS, e) : -1;
    if (rc == 0 && !(*out = print(&a))) rc = -1;
    free(a.point);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for sums") : 0;
}
