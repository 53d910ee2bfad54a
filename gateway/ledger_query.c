/* ledger_query: what dashboards, invoices and people ask (METERING.md section 2).
 *
 * Sums come from rollups only: minutes and hours by tenant and state, days by the full key. Grouping is by constant SQL: a column that
 * isn't asked for is NULL in every row, so it doesn't split the groups. One tenant's question is one range of the primary key; the
 * operator's walks the tenants. Single requests are read from the months' tables by (tenant, id), newest first.
 *
 * A request's month is that of its start, its id was made a moment earlier, so at a month's turn the order of ids and of tables may
 * differ by a few rows: the list therefore looks one month further than it needs and sorts. */
#include "gateway/ledger_query.h"
#include "base/json.h"
#include "gateway/ledger_internal.h"
#include "gateway/page.h"
#include <stdlib.h>
#include <string.h>

#define READ_MS 5000

#define PICK(bit, column) "CASE WHEN ?4 & " #bit " THEN " column " END, "
#define SUMS "sum(r.n), sum(r.prompt), sum(r.cached), sum(r.output), sum(r.produced), sum(r.cost)"
#define SPAN "SELECT r.t, " PICK(1, "coalesce(t.name, r.tenant)") "NULL, NULL, NULL, NULL, " PICK(32, "r.state") SUMS
#define DAY "SELECT r.t, " PICK(1, "coalesce(t.name, r.tenant)") PICK(2, "r.key") PICK(4, "r.model") PICK(8, "r.adapter") PICK(16, "r.version") \
            PICK(32, "r.state") SUMS
#define OF_ONE(table) " FROM " table " r LEFT JOIN tenant t ON t.id = r.tenant WHERE r.tenant = ?1 AND r.t >= ?2 AND r.t < ?3"
#define OF_ALL(table) " FROM tenant t CROSS JOIN " table " r ON r.tenant = t.id AND r.t >= ?2 AND r.t < ?3 WHERE ?1 IS NULL"
#define GROUPED " GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7 LIMIT ?5"

static const struct {
    int64_t width_s;
    const char *of_one, *of_all;
} sources[] = {
    {60, SPAN OF_ONE("rollup_minute") GROUPED, SPAN OF_ALL("rollup_minute") GROUPED},
    {3600, SPAN OF_ONE("rollup_hour") GROUPED, SPAN OF_ALL("rollup_hour") GROUPED},
    {86400, DAY OF_ONE("rollup_day") GROUPED, DAY OF_ALL("rollup_day") GROUPED},
};

struct usage_read {
    const struct usage_query *q;
    int64_t end; /* of this page */
    json_t *data;
};

static json_t *text_or_null(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? json_null() : json_string(db_text(st, column));
}

static json_t *int_or_null(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? json_null() : json_integer(sqlite3_column_int64(st, column));
}

static const char *state_word(sqlite3_stmt *st, int column)
{
    int64_t v = sqlite3_column_int64(st, column);
    return v >= 0 && v < USAGE_STATES ? usage_state_name[v] : "unknown";
}

static json_t *result_json(sqlite3_stmt *st)
{
    json_t *state = sqlite3_column_type(st, 6) == SQLITE_NULL ? json_null() : json_string(state_word(st, 6));
    return json_pack("{ss so so so so so so sI sI sI sI sI sI}", "object", "organization.usage.completions.result", "tenant", text_or_null(st, 1),
                     "api_key_id", text_or_null(st, 2), "model", text_or_null(st, 3), "adapter", text_or_null(st, 4), "version", int_or_null(st, 5),
                     "state", state, "num_model_requests", (json_int_t)sqlite3_column_int64(st, 7), "input_tokens",
                     (json_int_t)sqlite3_column_int64(st, 8), "input_cached_tokens", (json_int_t)sqlite3_column_int64(st, 9), "output_tokens",
                     (json_int_t)sqlite3_column_int64(st, 10), "produced_tokens", (json_int_t)sqlite3_column_int64(st, 11), "cost_nano",
                     (json_int_t)sqlite3_column_int64(st, 12));
}

static int add_bucket(json_t *data, int64_t start, int64_t width, struct err *e)
{
    json_t *bucket = json_pack("{ss sI sI s[]}", "object", "bucket", "start_time", (json_int_t)start, "end_time", (json_int_t)(start + width),
                               "results");
    return json_array_append_new(data, bucket) ? err_set(e, ERR_NO_MEMORY, "no memory for usage buckets") : 0;
}

static int read_usage(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct usage_read *x = u;
    const struct usage_query *q = x->q;
    const char *sql = NULL;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        if (sources[i].width_s == q->width_s) sql = q->tenant ? sources[i].of_one : sources[i].of_all;
    sqlite3_stmt *st = sql ? db_stmt(d, c, sql, e) : NULL;
    if (!st || db_bind(st, e, "siiii", q->tenant, q->start, x->end, (int64_t)q->group, (int64_t)USAGE_RESULTS_MAX + 1)) return -1;
    int rc, n = 0;
    while ((rc = db_row(st, e)) == 1) {
        if (++n > USAGE_RESULTS_MAX)
            return err_field(e, ERR_INVALID, "limit", "More than %d results; ask for fewer buckets or groups.", USAGE_RESULTS_MAX);
        size_t at = (size_t)((sqlite3_column_int64(st, 0) - q->start) / q->width_s);
        json_t *results = json_object_get(json_array_get(x->data, at), "results");
        if (json_array_append_new(results, result_json(st))) return err_set(e, ERR_NO_MEMORY, "no memory for usage results");
    }
    return rc;
}

int ledger_usage(struct ledger *l, const struct usage_query *asked, struct json_t *data, int64_t *next, struct err *e)
{
    struct usage_query q = *asked;
    int64_t w = q.width_s;
    q.start = q.start / w * w;
    int64_t end = (q.end + w - 1) / w * w, page_end = q.start + q.limit * w;
    if (page_end > end) page_end = end;
    for (int64_t t = q.start; t < page_end; t += w)
        if (add_bucket(data, t, w, e)) return -1;
    struct usage_read x = {&q, page_end, data};
    if (page_end > q.start && db_read(l->db, read_usage, &x, READ_MS, e)) return -1;
    *next = page_end < end ? page_end : 0;
    return 0;
}

struct request_row {
    char id[UUID_LEN];
    json_t *json;
};

struct request_read {
    struct ledger *l;
    const char *tenant;
    const struct page *page;
    int n;
    struct request_row *row; /* [2 * (limit + 1)], those nearest to the cursor first */
};

static const char *source_word(sqlite3_stmt *st, int column)
{
    int64_t v = sqlite3_column_int64(st, column);
    return v >= 0 && v < COUNT_SOURCES ? count_source_name[v] : "unknown";
}

static json_t *row_json(sqlite3_stmt *st)
{
    int64_t start = sqlite3_column_int64(st, 11), first = sqlite3_column_int64(st, 12), end = sqlite3_column_int64(st, 13);
    bool base = !*db_text(st, 4);
    json_t *o = json_pack("{ss ss ss ss ss so so ss sb ss sI ss}", "object", "usage.request", "id", db_text(st, 0), "api_key_id", db_text(st, 2),
                          "model", db_text(st, 3), "base", db_text(st, 22), "adapter", base ? json_null() : text_or_null(st, 4), "version",
                          base ? json_null() : int_or_null(st, 5), "endpoint", db_text(st, 6), "stream", sqlite3_column_int(st, 7),
                          "state", state_word(st, 8), "http_status", (json_int_t)sqlite3_column_int64(st, 9), "finish_reason", db_text(st, 10));
    json_t *counts = json_pack("{sI sI sI sI ss sI sb ss sI}", "input_tokens", (json_int_t)sqlite3_column_int64(st, 14), "input_cached_tokens",
                               (json_int_t)sqlite3_column_int64(st, 15), "output_tokens", (json_int_t)sqlite3_column_int64(st, 16),
                               "produced_tokens", (json_int_t)sqlite3_column_int64(st, 17), "count_source", source_word(st, 18), "attempt",
                               (json_int_t)sqlite3_column_int64(st, 19), "cold", sqlite3_column_int(st, 20), "engine", db_text(st, 21), "cost_nano",
                               (json_int_t)sqlite3_column_int64(st, 23));
    json_t *times = json_pack("{sI sI so sI}", "created_at", (json_int_t)(start / 1000000), "start_us", (json_int_t)start, "first_us",
                              first ? json_integer(first) : json_null(), "end_us", (json_int_t)end);
    if (!o || !counts || !times || json_object_update(o, counts) || json_object_update(o, times)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(counts);
    json_decref(times);
    return o;
}

static int read_month(struct request_read *x, sqlite3 *c, const struct month *m, struct err *e)
{
    const struct page *p = x->page;
    const char *sql = page_back(p) ? x->tenant ? m->of_tenant_before : m->of_all_before : x->tenant ? m->of_tenant : m->of_all;
    const char *cursor = *page_cursor(p) ? page_cursor(p) : "g"; /* follows every id */
    sqlite3_stmt *st = db_stmt(x->l->db, c, sql, e);
    if (!st || db_bind(st, e, "ssi", x->tenant, cursor, page_ask(p))) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        struct request_row *r = &x->row[x->n];
        memcpy(r->id, db_text(st, 0), sizeof r->id - 1);
        r->id[sizeof r->id - 1] = 0;
        if (!(r->json = row_json(st))) return err_set(e, ERR_NO_MEMORY, "no memory for a usage row");
        x->n++;
    }
    return rc;
}

static int newest_first(const void *a, const void *b)
{
    return strcmp(((const struct request_row *)b)->id, ((const struct request_row *)a)->id);
}

static int oldest_first(const void *a, const void *b) { return newest_first(b, a); }

/* Keeps the limit + 1 that are nearest to the cursor. */
static void cut(struct request_read *x)
{
    qsort(x->row, (size_t)x->n, sizeof *x->row, page_back(x->page) ? oldest_first : newest_first);
    while (x->n > x->page->limit + 1) json_decref(x->row[--x->n].json);
}

static int read_requests(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    struct request_read *x = u;
    struct month *months[LEDGER_MONTHS_MAX];
    int n;
    if (ledger_months(x->l, c, months, &n, e)) return -1;
    for (int i = 0, full = 0; i < n && full < 2; i++) {
        if (read_month(x, c, months[page_back(x->page) ? n - 1 - i : i], e)) return -1;
        cut(x);
        full += x->n > x->page->limit;
    }
    return 0;
}

int ledger_requests(struct ledger *l, const char *tenant, const struct page *p, struct json_t *list, bool *more, struct err *e)
{
    struct request_read x = {.l = l, .tenant = tenant, .page = p};
    x.row = calloc(2 * (size_t)page_ask(p), sizeof *x.row);
    if (!x.row) return err_set(e, ERR_NO_MEMORY, "no memory for a usage list");
    int rc = db_read(l->db, read_requests, &x, READ_MS, e);
    for (int i = 0; i < x.n; i++) {
        if (rc == 0 && i < p->limit) json_array_insert(list, page_back(p) ? 0 : json_array_size(list), x.row[i].json);
        json_decref(x.row[i].json);
    }
    if (rc == 0) *more = x.n > p->limit;
    free(x.row);
    return rc;
}
