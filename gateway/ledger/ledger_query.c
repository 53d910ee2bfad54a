/* ledger_query: what dashboards, invoices and people ask (METERING.md section 2).
 *
 * Sums come from rollups only: minutes and hours by tenant and state; days by one dimension where one is all that is asked for (rollup_by: a tenth of the
 * rows, and everybody's in rows of their own), else by the full key. Columns are picked by constant SQL: one that
 * isn't asked for is NULL in every row, so it doesn't split the groups. One tenant's question is one range of the primary key; the
 * operator's walks the tenants. */
#include "gateway/ledger/ledger_query.h"
#include "base/arena.h"
#include "base/buf.h"
#include "gateway/ledger/ledger_dims.h"
#include "gateway/ledger/ledger_internal.h"
#include <stdlib.h>
#include <string.h>

#define READ_MS 5000

#define PICK(bit, column) "CASE WHEN ?4 & " #bit " THEN " column " END, "
#define SUMS "sum(r.n), sum(r.prompt), sum(r.cached), sum(r.output), sum(r.produced), sum(r.cost)"
#define SPAN "SELECT r.t, " PICK(1, "coalesce(t.name, r.tenant)") "NULL, NULL, NULL, NULL, " PICK(32, "r.state") SUMS
#define BY "SELECT r.t, " PICK(1, "coalesce(t.name, r.tenant)") PICK(2, "r.name") PICK(4, "r.name") PICK(8, "r.name") PICK(16, "r.version") \
           PICK(32, "r.name + 0") SUMS
#define OF_ONE(table) " FROM " table " r LEFT JOIN tenant t ON t.id = r.tenant WHERE r.tenant = ?1 AND r.t >= ?2 AND r.t < ?3"
#define OF_ALL(table) " FROM tenant t CROSS JOIN " table " r ON r.tenant = t.id AND r.t >= ?2 AND r.t < ?3 WHERE ?1 IS NULL"
#define GROUPED " GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7 LIMIT ?5"

/* Groups that one dimension of rollup_by answers; of tenant '': everybody's rows are those of everybody, not the sum of all tenants'. */
static const char by_one[] = BY OF_ONE("rollup_by") " AND r.dim = ?6" GROUPED, by_all[] = BY OF_ALL("rollup_by") " AND r.dim = ?6" GROUPED;
static const char by_tenant[] = "SELECT r.t, coalesce(t.name, r.name), NULL, NULL, NULL, NULL, NULL, " SUMS
                                " FROM rollup_by r LEFT JOIN tenant t ON t.id = r.name WHERE r.tenant = ?1 AND r.t >= ?2 AND r.t < ?3 AND r.dim = ?6 AND ?4 = 1" GROUPED;
static const struct {
    unsigned group;
    enum rollup_dim dim;
    const char *of_one, *of_all;
    bool everybody; /* has rows of tenant '' */
} dimensions[] = {
    {0, DIM_STATE, by_one, by_one, true},
    {GROUP_STATE, DIM_STATE, by_one, by_one, true},
    {GROUP_TENANT, DIM_STATE, by_one, NULL, false},
    {GROUP_TENANT, DIM_TENANT, NULL, by_tenant, true},
    {GROUP_TENANT | GROUP_STATE, DIM_STATE, by_one, by_all, false},
    {GROUP_KEY, DIM_KEY, by_one, by_all, false},
    {GROUP_TENANT | GROUP_KEY, DIM_KEY, by_one, by_all, false},
    {GROUP_MODEL, DIM_MODEL, by_one, by_all, false},
    {GROUP_TENANT | GROUP_MODEL, DIM_MODEL, by_one, by_all, false},
    {GROUP_ADAPTER, DIM_BILL, by_one, by_all, false},
    {GROUP_TENANT | GROUP_ADAPTER, DIM_BILL, by_one, by_all, false},
    {GROUP_ADAPTER | GROUP_VERSION, DIM_BILL, by_one, by_all, false},
    {GROUP_TENANT | GROUP_ADAPTER | GROUP_VERSION, DIM_BILL, by_one, by_all, false},
};

/* Of the full key most rows fall together. To group them in SQL sorts all of them by all columns; here they are found by a hash. */
#define DAY_RAW "SELECT r.t, " PICK(1, "coalesce(t.name, r.tenant)") PICK(2, "r.key") PICK(4, "r.model") PICK(8, "r.adapter") PICK(16, "r.version") \
                PICK(32, "r.state") "r.n, r.prompt, r.cached, r.output, r.produced, r.cost"
static const char day_of_one[] = DAY_RAW OF_ONE("rollup_day"), day_of_all[] = DAY_RAW OF_ALL("rollup_day");

static const struct {
    int64_t width_s;
    const char *of_one, *of_all;
} sources[] = {
    {60, SPAN OF_ONE("rollup_minute") GROUPED, SPAN OF_ALL("rollup_minute") GROUPED},
    {3600, SPAN OF_ONE("rollup_hour") GROUPED, SPAN OF_ALL("rollup_hour") GROUPED},
    {86400, day_of_one, day_of_all},
};

enum { SUMS_N = 6, TEXTS = 4 };

/* A line of the answer; texts and numbers that were not asked for are NULL and -1. */
struct result {
    int64_t t, version, state, sum[SUMS_N];
    const char *text[TEXTS]; /* tenant, key, model, adapter */
};

struct usage_read {
    const struct usage_query *q;
    int64_t end; /* of this page */
    struct buf *data;
    int64_t bucket; /* the start of the one that is open */
    int n;          /* results */
    struct arena *arena; /* of the texts of `list` */
    struct result *list; /* [USAGE_RESULTS_MAX], when they are grouped here */
    int *slot;           /* [SLOTS], place in list + 1 or 0 */
};

#define SLOTS 65536 /* a power of two, three times USAGE_RESULTS_MAX */
#define TEXT_BYTES (64u << 20)

/* --- printing: as text, for a tree of some thousand results took longer than to read them --- */

static void add_text(struct buf *b, const char *field, const char *text)
{
    buf_adds(b, field);
    if (text)
        buf_add_json(b, text, strlen(text));
    else
        buf_adds(b, "null");
}

static void add_sums(struct buf *b, const int64_t sum[SUMS_N])
{
    static const char *const fields[SUMS_N] = {",\"num_model_requests\":", ",\"input_tokens\":",    ",\"input_cached_tokens\":",
                                               ",\"output_tokens\":",      ",\"produced_tokens\":", ",\"cost_nano\":"};
    for (int i = 0; i < SUMS_N; i++) {
        buf_adds(b, fields[i]);
        buf_addi(b, sum[i]);
    }
}

static void open_bucket(struct usage_read *x, int64_t start)
{
    struct buf *b = x->data;
    buf_adds(b, start > x->q->start ? "]},{\"object\":\"bucket\",\"start_time\":" : "{\"object\":\"bucket\",\"start_time\":");
    buf_addi(b, start);
    buf_adds(b, ",\"end_time\":");
    buf_addi(b, start + x->q->width_s);
    buf_adds(b, ",\"results\":[");
    x->bucket = start;
}

/* Results come by time. */
static int print(struct usage_read *x, const struct result *r, struct err *e)
{
    static const char *const fields[TEXTS] = {",\"tenant\":", ",\"api_key_id\":", ",\"model\":", ",\"adapter\":"};
    struct buf *b = x->data;
    bool first = x->bucket < r->t || x->n == 0;
    while (x->bucket + x->q->width_s <= r->t) open_bucket(x, x->bucket + x->q->width_s);
    buf_adds(b, first ? "{\"object\":\"organization.usage.completions.result\"" : ",{\"object\":\"organization.usage.completions.result\"");
    for (int i = 0; i < TEXTS; i++) add_text(b, fields[i], r->text[i]);
    buf_adds(b, ",\"version\":");
    if (r->version >= 0)
        buf_addi(b, r->version);
    else
        buf_adds(b, "null");
    add_text(b, ",\"state\":", r->state < 0 ? NULL : r->state < USAGE_STATES ? usage_state_name[r->state] : "unknown");
    add_sums(b, r->sum);
    x->n++;
    return buf_addc(b, '}') ? err_set(e, ERR_NO_MEMORY, "no memory for usage results") : 0;
}

/* --- reading --- */

static const char *text_or_null(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? NULL : db_text(st, column);
}

static int64_t number_or_none(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? -1 : sqlite3_column_int64(st, column);
}

/* Its texts are the statement's. */
static void take(sqlite3_stmt *st, struct result *r)
{
    *r = (struct result){.t = sqlite3_column_int64(st, 0), .version = number_or_none(st, 1 + TEXTS), .state = number_or_none(st, 2 + TEXTS)};
    for (int i = 0; i < TEXTS; i++) r->text[i] = text_or_null(st, 1 + i);
    for (int i = 0; i < SUMS_N; i++) r->sum[i] = sqlite3_column_int64(st, 3 + TEXTS + i);
}

static int too_many(struct err *e)
{
    return err_field(e, ERR_INVALID, "limit", "More than %d results; ask for fewer buckets or groups.", USAGE_RESULTS_MAX);
}

static uint32_t hash(const struct result *r)
{
    uint64_t h = (uint64_t)r->t * 0x9E3779B97F4A7C15ull ^ (uint64_t)r->version << 8 ^ (uint64_t)r->state;
    for (int i = 0; i < TEXTS; i++)
        for (const char *s = r->text[i] ? r->text[i] : ""; *s; s++) h = (h ^ (uint8_t)*s) * 1099511628211ull;
    return (uint32_t)(h >> 32 ^ h);
}

static int compare(const void *a, const void *b)
{
    const struct result *x = a, *y = b;
    if (x->t != y->t) return x->t < y->t ? -1 : 1;
    for (int i = 0, d; i < TEXTS; i++)
        if (x->text[i] && y->text[i] && (d = strcmp(x->text[i], y->text[i]))) return d; /* either all have it or none */
    if (x->version != y->version) return x->version < y->version ? -1 : 1;
    return (x->state > y->state) - (x->state < y->state);
}

static int add_to_list(struct usage_read *x, const struct result *r, int *count, struct err *e)
{
    uint32_t i = hash(r);
    int *at;
    for (; *(at = &x->slot[i & (SLOTS - 1)]) && compare(&x->list[*at - 1], r) != 0; i++) {}
    if (*at) {
        for (int k = 0; k < SUMS_N; k++) x->list[*at - 1].sum[k] += r->sum[k];
        return 0;
    }
    if (*count == USAGE_RESULTS_MAX) return too_many(e);
    struct result *to = &x->list[(*count)++];
    *at = *count;
    *to = *r;
    for (int k = 0; k < TEXTS; k++)
        if (r->text[k] && !(to->text[k] = arena_strdup(x->arena, r->text[k]))) return err_set(e, ERR_NO_MEMORY, "no memory for usage results");
    return 0;
}

static int group(struct usage_read *x, sqlite3_stmt *st, struct err *e)
{
    int rc, n = 0;
    struct result r;
    x->arena = arena_new(TEXT_BYTES);
    x->list = malloc(USAGE_RESULTS_MAX * sizeof *x->list);
    x->slot = calloc(SLOTS, sizeof *x->slot);
    if (!x->arena || !x->list || !x->slot) return err_set(e, ERR_NO_MEMORY, "no memory for usage results");
    while ((rc = db_row(st, e)) == 1) {
        take(st, &r);
        if (add_to_list(x, &r, &n, e)) return -1;
    }
    if (rc < 0) return -1;
    qsort(x->list, (size_t)n, sizeof *x->list, compare);
    for (int i = 0; i < n; i++)
        if (print(x, &x->list[i], e)) return -1;
    return 0;
}

/* The statement that answers most cheaply, bound; *raw: its rows are to be grouped. */
static sqlite3_stmt *choose(struct db *d, sqlite3 *c, const struct usage_read *x, bool *raw, struct err *e)
{
    const struct usage_query *q = x->q;
    const char *sql = NULL, *tenant = q->tenant;
    int64_t dim = -1;
    for (size_t i = 0; i < sizeof dimensions / sizeof *dimensions && !sql && q->width_s == 86400; i++) {
        if (dimensions[i].group != q->group) continue;
        sql = tenant ? dimensions[i].of_one : dimensions[i].of_all;
        dim = dimensions[i].dim;
        if (sql && !tenant && dimensions[i].everybody) tenant = "";
    }
    bool one = sql != NULL;
    if (!tenant && q->width_s < 86400 && !(q->group & GROUP_TENANT)) tenant = "";
    for (size_t i = 0; i < sizeof sources / sizeof *sources && !sql; i++)
        if (sources[i].width_s == q->width_s) sql = tenant ? sources[i].of_one : sources[i].of_all;
    *raw = sql == day_of_one || sql == day_of_all;
    sqlite3_stmt *st = sql ? db_stmt(d, c, sql, e) : NULL;
    int rc = st ? db_bind(st, e, one ? "siiiii" : *raw ? "siii" : "siiii", tenant, q->start, x->end, (int64_t)q->group, (int64_t)USAGE_RESULTS_MAX + 1, dim) : -1;
    return rc ? NULL : st;
}

static int read_usage(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct usage_read *x = u;
    struct result r;
    bool raw;
    sqlite3_stmt *st = choose(d, c, x, &raw, e);
    if (!st) return -1;
    if (raw) return group(x, st, e);
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        take(st, &r);
        if (x->n == USAGE_RESULTS_MAX) return too_many(e);
        if (print(x, &r, e)) return -1;
    }
    return rc;
}

int ledger_usage(struct ledger *l, const struct usage_query *asked, struct buf *data, int64_t *next, struct err *e)
{
    struct usage_query q = *asked;
    int64_t w = q.width_s;
    q.start = q.start / w * w;
    int64_t end = (q.end + w - 1) / w * w, page_end = q.start + q.limit * w;
    if (page_end > end) page_end = end;
    struct usage_read x = {.q = &q, .end = page_end, .data = data};
    buf_addc(data, '[');
    if (page_end > q.start) open_bucket(&x, q.start);
    int rc = page_end > q.start ? db_read(l->db, read_usage, &x, READ_MS, e) : 0;
    for (; rc == 0 && x.bucket + w < page_end;) open_bucket(&x, x.bucket + w);
    arena_free(x.arena);
    free(x.list);
    free(x.slot);
    if (rc) return -1;
    *next = page_end < end ? page_end : 0;
    return buf_adds(data, page_end > q.start ? "]}]" : "]") ? err_set(e, ERR_NO_MEMORY, "no memory for usage buckets") : 0;
}
