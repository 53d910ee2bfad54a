/* stats_series: a measure over time, of the largest names and the rest (see stats.h).
 *
 * Days: the names are ranked over the range, then each one's days are read again: some thousand rows, where a table of all names by day would be hundreds
 * of thousands. Minutes and hours know states and tenants only. Tenants are ranked there in two steps: those that are largest by the days that the range
 * touches, CANDIDATES for each place, and of them the largest by their own hours. The rest is the whole less those shown, so all always adds up. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/stats/stats_kept.h"
#include <stdlib.h>
#include <string.h>

#define CANDIDATES 4

struct line {
    int64_t *values; /* [points] */
    int64_t total;
    struct stats_sums sums;
};

struct series {
    struct stats_read x;
    const struct stats_series_query *q;
    struct stats_compared c; /* empty: nothing is compared */
    size_t points, compared; /* these, and how many of them, from the first on, are compared */
    struct stats_tally t;
    struct line whole, before, rest;
    struct line line[USAGE_STATES > STATS_TOP_MAX ? USAGE_STATES : STATS_TOP_MAX];
    int lines;
    bool has_rest;
    json_t *out;
};

struct fill {
    const struct stats_range *range;
    enum stats_measure measure;
    struct line *line;
};

static int new_line(const struct series *s, struct line *l, struct err *e)
{
    *l = (struct line){.values = calloc(s->points + 1, sizeof *l->values)};
    return l->values ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a series");
}

static int add_point(void *u, const struct stats_row *row, struct err *e)
{
    struct fill *f = u;
    int64_t v = stats_measured(&row->sums, f->measure);
    size_t at = stats_at(f->range, row->t);
    if (row->t < f->range->start || at >= stats_points(f->range)) return err_set(e, ERR_INTERNAL, "a point outside of its series");
    f->line->values[at] += v;
    f->line->total += v;
    stats_add(&f->line->sums, &row->sums);
    return 0;
}

static int fill_whole(struct series *s, const struct stats_range *r, struct line *l, struct err *e)
{
    struct fill f = {r, s->q->measure, l};
    return new_line(s, l, e) ? -1 : stats_states(&s->x, r, add_point, &f, e);
}

struct of_state {
    const char *state;
    stats_each *each;
    void *user;
};

static int state_row(void *u, const struct stats_row *row, struct err *e)
{
    struct of_state *w = u;
    return strcmp(row->name, w->state) == 0 ? w->each(w->user, row, e) : 0;
}

static int item_rows(const struct series *s, const struct stats_item *it, const struct stats_range *r, stats_each *each, void *u, struct err *e)
{
    struct of_state w = {it->name, each, u};
    if (s->q->by == BY_STATE) return stats_states(&s->x, r, state_row, &w, e);
    if (r->width_s < STATS_DAY) return stats_spans(&s->x, it->name, r, each, u, e);
    return stats_item_rows(&s->x, s->q->by, it, r, each, u, e);
}

static int fill_item(struct series *s, const struct stats_item *it, struct line *l, struct err *e)
{
    struct fill f = {&s->q->range, s->q->measure, l};
    return new_line(s, l, e) ? -1 : item_rows(s, it, &s->q->range, add_point, &f, e);
}

/* --- which names --- */

static int add_state(void *u, const struct stats_row *row, struct err *e)
{
    return stats_tally_add(u, "", row->name, 0, &row->sums, e);
}

static int add_sums(void *u, const struct stats_row *row, struct err *e)
{
    (void)e;
    stats_add(u, &row->sums);
    return 0;
}

/* Their sums become those of the hours or minutes of the range; the best come first. */
static int rank_spans(struct series *s, struct err *e)
{
    struct stats_range days = stats_range(s->q->range.start, s->q->range.end, STATS_DAY);
    if (stats_rank(&s->x, BY_TENANT, s->q->measure, s->q->top, &days, &s->t, e)) return -1;
    if (s->t.n > CANDIDATES * s->q->top) s->t.n = CANDIDATES * s->q->top;
    for (int i = 0; i < s->t.n; i++) {
        s->t.item[i].sums = (struct stats_sums){{0}};
        if (stats_spans(&s->x, s->t.item[i].name, &s->q->range, add_sums, &s->t.item[i].sums, e)) return -1;
    }
    stats_tally_sort(&s->t, s->q->measure);
    return 0;
}

static int rank(struct series *s, struct err *e)
{
    const struct stats_series_query *q = s->q;
    if (q->by == BY_NONE) return 0;
    if (q->by == BY_STATE) {
        int rc = stats_states(&s->x, &q->range, add_state, &s->t, e);
        stats_tally_sort(&s->t, q->measure);
        return rc;
    }
    if (q->range.width_s < STATS_DAY) return rank_spans(s, e);
    return stats_rank(&s->x, q->by, q->measure, q->top, &q->range, &s->t, e);
}

static int fill_lines(struct series *s, struct err *e)
{
    const struct stats_series_query *q = s->q;
    int most = q->by == BY_STATE ? USAGE_STATES : q->top;
    for (int i = 0; i < s->t.n && i < most; i++) {
        struct line *l = &s->line[s->lines];
        s->lines++;
        if (fill_item(s, &s->t.item[i], l, e)) return -1;
    }
    return 0;
}

static int fill_rest(struct series *s, struct err *e)
{
    if (s->q->by == BY_NONE) return 0;
    if (new_line(s, &s->rest, e)) return -1;
    for (size_t p = 0; p < s->points; p++) {
        s->rest.values[p] = s->whole.values[p];
        for (int i = 0; i < s->lines; i++) s->rest.values[p] -= s->line[i].values[p];
        s->has_rest |= s->rest.values[p] != 0;
        s->rest.total += s->rest.values[p];
    }
    return 0;
}

/* --- the answer --- */

static json_t *numbers(const int64_t *v, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(v[i]));
    return list;
}

static json_t *times(const struct stats_range *r)
{
    json_t *list = json_array();
    for (int64_t t = r->start; t < r->end; t += r->width_s) json_array_append_new(list, json_integer(t));
    return list;
}

static int previous_of(struct series *s, const struct stats_item *it, json_t **out, struct err *e)
{
    const struct stats_range *r = &s->c.before;
    struct stats_sums sums = {{0}};
    bool days = s->q->by != BY_STATE && r->width_s == STATS_DAY;
    if (s->compared && (days ? stats_item_sums(&s->x, s->q->by, it, r, &sums, e) : item_rows(s, it, r, add_sums, &sums, e))) return -1;
    *out = s->compared ? json_integer(stats_measured(&sums, s->q->measure)) : json_null();
    return 0;
}

static json_t *compared_total(const struct series *s, const struct line *l)
{
    int64_t total = 0;
    for (size_t p = 0; p < s->compared; p++) total += l->values[p];
    return s->compared ? json_integer(total) : json_null();
}

static json_t *previous_total(const struct series *s) { return s->compared ? json_integer(s->before.total) : json_null(); }

static int add_line(struct series *s, int i, json_t *list, struct err *e)
{
    json_t *before = NULL, *o = stats_item_json(&s->x, s->q->by, &s->t.item[i], e);
    if (!o || previous_of(s, &s->t.item[i], &before, e)) {
        json_decref(o);
        return -1;
    }
    json_object_set_new(o, "values", numbers(s->line[i].values, s->points));
    json_object_set_new(o, "total", json_integer(s->line[i].total));
    json_object_set_new(o, "compared_total", compared_total(s, &s->line[i]));
    json_object_set_new(o, "previous_total", before);
    return json_array_append_new(list, o) ? err_set(e, ERR_NO_MEMORY, "no memory for a series") : 0;
}

static json_t *whole_json(const struct series *s)
{
    json_t *o = json_pack("{ss so so}", "name", "all", "values", numbers(s->whole.values, s->points), "total", json_integer(s->whole.total));
    json_object_set_new(o, "compared_total", compared_total(s, &s->whole));
    json_object_set_new(o, "previous_total", previous_total(s));
    return o;
}

static int print(struct series *s, struct err *e)
{
    const struct stats_series_query *q = s->q;
    json_t *list = json_array(), *rest = s->has_rest ? json_pack("{so sI}", "values", numbers(s->rest.values, s->points), "total", (json_int_t)s->rest.total)
                                                     : json_null();
    if (q->by == BY_NONE) json_array_append_new(list, whole_json(s));
    for (int i = 0; i < s->lines; i++)
        if (add_line(s, i, list, e)) {
            json_decref(list);
            json_decref(rest);
            return -1;
        }
    s->out = json_pack("{ss sI sI sI ss ss so so so sI so so so so}", "object", "series", "start_time", (json_int_t)q->range.start, "end_time",
                       (json_int_t)q->range.end, "interval_s", (json_int_t)q->range.width_s, "by", stats_by_word[q->by], "measure",
                       stats_measure_word[q->measure], "points", times(&q->range), "series", list, "other", rest, "total", (json_int_t)s->whole.total,
                       "compared", stats_compared_json(&s->c), "compared_total", compared_total(s, &s->whole), "previous_total", previous_total(s), "previous",
                       s->compared ? numbers(s->before.values, s->compared) : json_null());
    return s->out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a series");
}

static int read_series(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct series *s = u;
    if (stats_begin(&s->x, d, c, e) || fill_whole(s, &s->q->range, &s->whole, e) || (s->compared && fill_whole(s, &s->c.before, &s->before, e))) return -1;
    return rank(s, e) || fill_lines(s, e) || fill_rest(s, e) || print(s, e) ? -1 : 0;
}

int stats_series(struct stats_kept *k, const char *tenant, const struct stats_series_query *q, json_t **out, struct err *e)
{
    struct series *s = calloc(1, sizeof *s);
    if (!s || stats_tally_init(&s->t, e)) {
        free(s);
        return err_set(e, ERR_NO_MEMORY, "no memory for a series");
    }
    s->x.tenant = tenant;
    s->x.kept = k;
    s->x.adapter = q->adapter;
    s->x.now = clock_wall_us() / 1000000;
    s->q = q;
    s->points = stats_points(&q->range);
    if (q->compare) {
        s->c = stats_compared(&q->range, s->x.now);
        s->compared = stats_points(&s->c.part);
    }
    int rc = db_read(stats_kept_db(k), read_series, s, STATS_READ_MS, e);
    if (rc == 0)
        *out = s->out;
    for (int i = 0; i < s->lines; i++) free(s->line[i].values);
    free(s->whole.values);
    free(s->before.values);
    free(s->rest.values);
    stats_tally_close(&s->t);
    free(s);
    return rc;
}
