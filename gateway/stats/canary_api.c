/* GET .../stats/canary?alias=NAME: an alias's targets beside each other (canary.h), from the rollups by alias. Without a start
 * it begins with the hour of the alias's last change, at most a week ago: what stood before is no comparison.
 *
 * A target without a version is the newest that is ready, as a request would find it now. On database threads. */
#include "base/clock.h"
#include "gateway/live/live_api.h"
#include "gateway/registry/alias.h"
#include "gateway/stats/canary.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WEEK (7 * 86400)
#define SPAN_MAX (14 * 86400)
#define HOUR 3600

struct canary_read {
    const char *tenant, *alias;
    bool start_given;
    int64_t start, end;
    char policy[16];
    int n;
    struct canary_target target[CANARY_TARGETS];
};

static int read_alias(struct db *d, sqlite3 *c, struct canary_read *x, struct err *e)
{
    static const char sql[] = "SELECT policy, changed FROM alias WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", x->tenant, x->alias)) return -1;
    int rc = db_row(st, e);
    if (rc == 0) return err_set(e, ERR_NOT_FOUND, "There is no alias '%.64s'.", x->alias);
    if (rc < 0) return -1;
    snprintf(x->policy, sizeof x->policy, "%s", db_text(st, 0));
    int64_t changed = sqlite3_column_int64(st, 1) / 1000000, week = x->end - WEEK;
    if (!x->start_given) x->start = changed > week ? changed : week;
    if (x->start >= x->end) x->start = x->end - 1;
    x->start -= x->start % HOUR;
    sqlite3_reset(st);
    return 0;
}

static int read_targets(struct db *d, sqlite3 *c, struct canary_read *x, struct err *e)
{
    static const char sql[] =
        "SELECT coalesce(a.name, ''), x.base, x.weight, CASE WHEN x.adapter IS NULL THEN 0 WHEN x.version THEN x.version ELSE coalesce(("
        "SELECT max(v.version) FROM version v WHERE v.adapter = x.adapter AND v.state = 'ready'), 0) END FROM alias l"
        " JOIN alias_target x ON x.alias = l.row LEFT JOIN adapter a ON a.row = x.adapter WHERE l.tenant = ?1 AND l.name = ?2"
        " ORDER BY x.position";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", x->tenant, x->alias)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1 && x->n < CANARY_TARGETS) {
        struct canary_target *t = &x->target[x->n++];
        *t = (struct canary_target){.weight = sqlite3_column_int(st, 2), .version = sqlite3_column_int(st, 3)};
        snprintf(t->adapter, sizeof t->adapter, "%s", db_text(st, 0));
        snprintf(t->base, sizeof t->base, "%s", db_text(st, 1));
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

/* NULL: no target any more. */
static struct canary_target *target_of(struct canary_read *x, sqlite3_stmt *st)
{
    const char *adapter = db_text(st, 0);
    int version = sqlite3_column_int(st, 1);
    for (int i = 0; i < x->n; i++)
        if (x->target[i].version == version && strcmp(x->target[i].adapter, adapter) == 0) return &x->target[i];
    return NULL;
}

static void add_sums(struct canary_target *t, sqlite3_stmt *st)
{
    int64_t state = sqlite3_column_int64(st, 2);
    if (state < 0 || state >= USAGE_STATES) return;
    t->n[state] += sqlite3_column_int64(st, 3);
    t->output += sqlite3_column_int64(st, 4);
    t->cost += sqlite3_column_int64(st, 5);
}

static void add_scores(struct canary_target *t, sqlite3_stmt *st)
{
    t->scored += sqlite3_column_int64(st, 2);
    t->score_sum += sqlite3_column_double(st, 3);
    t->score_squares += sqlite3_column_double(st, 4);
}

static void add_times(struct canary_target *t, sqlite3_stmt *st)
{
    int64_t kind = sqlite3_column_int64(st, 2), bucket = sqlite3_column_int64(st, 3);
    if (kind < 0 || kind >= LATENCY_KINDS || bucket < 0 || bucket >= LATENCY_BUCKETS) return;
    t->times[kind][bucket] += sqlite3_column_int64(st, 4);
}

/* Rows of the alias that begin with adapter and version, each to its target. */
static int read_rows(struct db *d, sqlite3 *c, struct canary_read *x, const char *sql,
                     void (*add)(struct canary_target *t, sqlite3_stmt *st), struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssii", x->tenant, x->alias, x->start, x->end)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        struct canary_target *t = target_of(x, st);
        if (t) add(t, st);
    }
    return rc;
}

static bool any_scores(const struct canary_read *x)
{
    for (int i = 0; i < x->n; i++)
        if (x->target[i].scored) return true;
    return false;
}

static int read_canary(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define OF_ALIAS " WHERE tenant = ?1 AND alias = ?2 AND t >= ?3 AND t < ?4"
    static const char sums[] = "SELECT adapter, version, state, n, output, cost FROM rollup_alias" OF_ALIAS,
                      times[] = "SELECT adapter, version, kind, bucket, n FROM rollup_alias_latency" OF_ALIAS,
                      overall[] = "SELECT adapter, version, n, sum, squares FROM rollup_evaluation" OF_ALIAS " AND rule = 'overall'",
                      judge[] = "SELECT adapter, version, n, sum, squares FROM rollup_evaluation" OF_ALIAS " AND rule = 'judge'";
#undef OF_ALIAS
    struct canary_read *x = u;
    if (read_alias(d, c, x, e) || read_targets(d, c, x, e)) return -1;
    if (read_rows(d, c, x, sums, add_sums, e) || read_rows(d, c, x, times, add_times, e) || read_rows(d, c, x, overall, add_scores, e)) return -1;
    return !any_scores(x) && read_rows(d, c, x, judge, add_scores, e) ? -1 : 0; /* an alias with a judge alone */
}

/* --- as JSON --- */

static json_t *ratio(int64_t part, int64_t whole)
{
    return whole ? json_real(rint((double)part / (double)whole * 1e6) / 1e6) : json_null();
}

static json_t *target_json(const struct canary_target *t, int64_t all)
{
    int64_t n = canary_requests(t);
    json_t *o = json_pack("{so si si so sI so}", "adapter", *t->adapter ? json_string(t->adapter) : json_null(), "version",
                          t->version, "weight", t->weight, "base", *t->adapter ? json_null() : json_string(t->base),
                          "requests", (json_int_t)n, "share", ratio(n, all));
    json_t *more = json_pack("{sI so so so so}", "completed", (json_int_t)t->n[USAGE_COMPLETED], "error_rate",
                             ratio(canary_errors(t), n), "abort_rate", ratio(t->n[USAGE_CLIENT_ABORT], n),
                             "output_tokens_avg", ratio(t->output, n), "cost_nano_avg", ratio(t->cost, n));
    json_object_set_new(o, "scored", json_integer(t->scored));
    json_object_set_new(o, "score", t->scored ? json_real(rint(canary_score(t) * 1e6) / 1e6) : json_null());
    for (int k = 0; k < LATENCY_KINDS; k++) json_object_set_new(o, latency_name[k], latency_json(t->times[k]));
    json_object_update(o, more);
    json_decref(more);
    return o;
}

static json_t *difference_json(const struct canary_difference *d)
{
    return json_pack("{s[ii] ss sf sf sf sf sb}", "between", d->base, d->other, "metric", canary_metric_name[d->metric],
                     "before", d->before, "after", d->after, "difference", d->after - d->before, "p_value", d->p,
                     "significant", d->significant);
}

static json_t *answer(const struct canary_read *x)
{
    struct canary c;
    json_t *targets = json_array(), *comparison = json_array();
    int64_t all = 0;
    bool chain = strcmp(x->policy, alias_policy_name[ALIAS_FALLBACK]) == 0;
    canary_judge(x->target, x->n, &c);
    for (int i = 0; i < x->n; i++) all += canary_requests(&x->target[i]);
    for (int i = 0; i < x->n; i++) json_array_append_new(targets, target_json(&x->target[i], all));
    for (int i = 0; i < c.n; i++) json_array_append_new(comparison, difference_json(&c.difference[i]));
    return json_pack("{ss ss ss sI sI so si so ss ss}", "object", "canary", "alias", x->alias, "policy", x->policy, "since",
                     (json_int_t)x->start, "end_time", (json_int_t)x->end, "targets", targets, "baseline", c.baseline,
                     "comparison", comparison, "verdict", canary_verdict_word[chain ? CANARY_SAME : c.verdict], "reason",
                     chain ? "A fallback chain is no experiment: a later target gets what an earlier one could not answer."
                           : c.reason);
}

static int read_ask(struct http_request *r, struct span *s, struct canary_read *x, struct err *e)
{
    static const char *const also[] = {"alias", NULL};
    if (span_read(r, also, s, e)) return -1;
    x->alias = http_query(r, "alias");
    if (!x->alias || !*x->alias) return err_field(e, ERR_MISSING, "alias", "'alias' must name an alias.");
    if (!s->tenant) return err_field(e, ERR_MISSING, "tenant", "'tenant' must say whose alias it is.");
    x->tenant = s->tenant;
    x->start_given = http_query(r, "start_time");
    x->start = s->start;
    x->end = s->end;
    if (x->start_given && x->end - x->start > SPAN_MAX)
        return err_field(e, ERR_INVALID, "start_time", "At most %d days are compared.", SPAN_MAX / 86400);
    return 0;
}

void canary_get(struct http_request *r)
{
    struct err e = {0};
    struct span s;
    struct canary_read *x = calloc(1, sizeof *x); /* of histograms: too large for a stack */
    int rc = x ? read_ask(r, &s, x, &e) : err_set(&e, ERR_NO_MEMORY, "no memory for the answer");
    if (rc == 0) rc = db_read(admin_gateway(r)->db, read_canary, x, LIVE_READ_MS, &e);
    live_answer(r, rc, rc ? NULL : answer(x), &e);
    free(x);
}
