/* stats_top: the largest names of a range of days with their shares, and what they had in the days before (see stats.h).
 *
 * A change is of the days that are over against as many before: a day that is under way would be held against a whole one. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/stats/stats_kept.h"

struct top {
    struct stats_read x;
    const struct stats_top_query *q;
    struct stats_compared c; /* empty: nothing is compared */
    struct stats_tally t;
    struct stats_sums whole;
    json_t *list;
};

static int add_sums(void *u, const struct stats_row *row, struct err *e)
{
    (void)e;
    stats_add(u, &row->sums);
    return 0;
}

static json_t *change(int64_t now, int64_t before)
{
    return before > 0 ? json_real((double)(now - before) / (double)before) : json_null();
}

static json_t *sums_json(const struct stats_sums *s)
{
    return json_pack("{sI sI sI}", "requests", (json_int_t)s->v[SUM_REQUESTS], "tokens", (json_int_t)stats_measured(s, MEASURE_TOKENS), "cost_nano",
                     (json_int_t)s->v[SUM_COST]);
}

/* Its sums of the days that are over: all less those that are not. */
static int sums_of_part(struct top *t, const struct stats_item *it, struct stats_sums *out, struct err *e)
{
    const struct stats_range rest = {t->c.part.end, t->q->range.end, STATS_DAY};
    struct stats_sums more;
    *out = it->sums;
    if (rest.start == rest.end) return 0;
    if (stats_item_sums(&t->x, t->q->by, it, &rest, &more, e)) return -1;
    for (int i = 0; i < STATS_SUMS; i++) out->v[i] -= more.v[i];
    return 0;
}

static int add_previous(struct top *t, const struct stats_item *it, json_t *o, struct err *e)
{
    struct stats_sums now, before;
    if (t->c.part.start == t->c.part.end)
        return json_object_set_new(o, "compared", json_null()) | json_object_set_new(o, "previous", json_null()) |
               json_object_set_new(o, "change", json_null());
    if (sums_of_part(t, it, &now, e) || stats_item_sums(&t->x, t->q->by, it, &t->c.before, &before, e)) return -1;
    return json_object_set_new(o, "compared", sums_json(&now)) | json_object_set_new(o, "previous", sums_json(&before)) |
           json_object_set_new(o, "change", change(stats_measured(&now, t->q->sort), stats_measured(&before, t->q->sort)));
}

static json_t *item_json(struct top *t, const struct stats_item *it, struct err *e)
{
    const int64_t *v = it->sums.v;
    int64_t whole = stats_measured(&t->whole, t->q->sort);
    json_t *o = stats_item_json(&t->x, t->q->by, it, e);
    json_t *sums = json_pack("{sI sI sI sI sI sI sI sf}", "requests", (json_int_t)v[SUM_REQUESTS], "errors", (json_int_t)v[SUM_ERRORS], "aborts",
                             (json_int_t)v[SUM_ABORTS], "input_tokens", (json_int_t)v[SUM_INPUT], "cached_tokens", (json_int_t)v[SUM_CACHED],
                             "output_tokens", (json_int_t)v[SUM_OUTPUT], "cost_nano", (json_int_t)v[SUM_COST], "share",
                             whole > 0 ? (double)stats_measured(&it->sums, t->q->sort) / (double)whole : 0.0);
    if (o && sums && json_object_update(o, sums) == 0 && add_previous(t, it, o, e) == 0) {
        json_decref(sums);
        return o;
    }
    json_decref(o);
    json_decref(sums);
    err_set(e, ERR_NO_MEMORY, "no memory for a list");
    return NULL;
}

static int read_top(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct top *t = u;
    if (stats_begin(&t->x, d, c, e) || stats_states(&t->x, &t->q->range, add_sums, &t->whole, e)) return -1;
    if (stats_rank(&t->x, t->q->by, t->q->sort, t->q->limit, &t->q->range, &t->t, e)) return -1;
    for (int i = 0; i < t->t.n && i < t->q->limit; i++) {
        json_t *o = item_json(t, &t->t.item[i], e);
        if (!o) return -1;
        if (json_array_append_new(t->list, o)) return err_set(e, ERR_NO_MEMORY, "no memory for a list");
    }
    return 0;
}

int stats_top(struct stats_kept *k, const char *tenant, const struct stats_top_query *q, json_t **out, struct err *e)
{
    struct top t = {.x = {.tenant = tenant, .adapter = q->adapter, .now = clock_wall_us() / 1000000, .kept = k}, .q = q};
    if (q->compare) t.c = stats_compared(&q->range, t.x.now);
    if (stats_tally_init(&t.t, e)) return -1;
    t.list = json_array();
    int rc = db_read(stats_kept_db(k), read_top, &t, STATS_READ_MS, e);
    bool more = t.t.n > q->limit;
    stats_tally_close(&t.t);
    json_t *o = rc == 0 ? json_pack("{ss sO sb ss ss sI sI so sI}", "object", "list", "data", t.list, "has_more", more, "by", stats_by_word[q->by], "sort",
                                    stats_measure_word[q->sort], "start_time", (json_int_t)q->range.start, "end_time", (json_int_t)q->range.end, "compared",
                                    stats_compared_json(&t.c), "total", (json_int_t)stats_measured(&t.whole, q->sort))
                        : NULL;
    json_decref(t.list);
    if (rc == 0 && !o) return err_set(e, ERR_NO_MEMORY, "no memory for a list");
    *out = o;
    return rc;
}
