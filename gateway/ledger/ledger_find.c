/* ledger_find: single requests, read from the months' tables and files by (tenant, id), newest first (see ledger_find.h).
 *
 *     months, nearest to the cursor first:   its table --.
 *                                                          > what fits, the limit + 1 nearest --> full, and no row of the next month is nearer? the end
 *                                            its file  --'                                   `--> FIND_MS over? the end, and the place
 *
 * There are no indexes but the primary key and (tenant, id): a filter walks the rows and looks at each. A walk that finds little is ended after FIND_MS,
 * and its place is told, so a client goes on from there as from any cursor; times of the filter and the cursor bound the walk by ids, which begin with the
 * time. At least one month is begun each time, so a client that goes on comes to the end. A state that is not completed is found by usage_bad as far back as that is kept whole
 * (x->bad), and by the walk before: one in two hundred requests of a tenant took fifty times as many searches in the table as the page has rows.
 *
 * Each month is a read of its own: one whose rows stand in a file is read by a connection that may attach it, in one snapshot with its table, as
 * ledger_rows.c does. A request's month is that of its start, its id was made a moment earlier, so at a month's turn the order of ids and of months may
 * differ by a few rows: what was found beyond the place is left to the next page. */
#include "gateway/ledger/ledger_find.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/ledger/ledger_adjust.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/ledger/ledger_sums.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 5000
#define FIND_MS 1000
#define LOOK_ROWS 256 /* between two looks at the clock */
#define SLACK_S 3600  /* ids are made before their starts, by less */
#define ID_TIME_LEN 14 /* of an id: its time, which alone is no id, so rows are before it or after */
#define BAD_SLACK_S 86400 /* usage_bad is whole from a day after what is dropped: the trim goes on while this reads */

/* --- a row as JSON --- */

static const char *word(const char *const *words, int n, int64_t v) { return v >= 0 && v < n ? words[v] : "unknown"; }

static json_t *row_json(const struct usage_row *r)
{
    bool base = !*r->adapter;
    json_t *o = json_pack("{ss ss ss ss ss so so ss ss sb ss sI ss}", "object", "usage.request", "id", r->id, "api_key_id", r->key, "model", r->model,
                          "base", r->base, "adapter", base ? json_null() : json_string(r->adapter), "version", base ? json_null() : json_integer(r->version),
                          "alias", r->alias, "endpoint", r->endpoint, "stream", (int)r->stream, "state", word(usage_state_name, USAGE_STATES, r->state),
                          "http_status", (json_int_t)r->http_status, "finish_reason", r->finish);
    json_t *counts = json_pack("{sI sI sI sI ss sI sb ss sI sI sI sI}", "input_tokens", (json_int_t)r->prompt, "input_cached_tokens", (json_int_t)r->cached,
                               "output_tokens", (json_int_t)r->output, "produced_tokens", (json_int_t)r->produced, "count_source",
                               word(count_source_name, COUNT_SOURCES, r->source), "attempt", (json_int_t)r->attempt, "cold", (int)r->cold, "engine", r->engine,
                               "load_us", (json_int_t)r->load_us, "cost_nano", (json_int_t)r->cost,
                               "policy_before_tokens", (json_int_t)r->before, "policy_after_tokens", (json_int_t)r->after);
    json_t *times = json_pack("{sI sI so sI so}", "created_at", (json_int_t)(r->t_start / 1000000), "start_us", (json_int_t)r->t_start, "first_us",
                              r->t_first ? json_integer(r->t_first) : json_null(), "end_us", (json_int_t)r->t_end, "adjusts",
                              r->adjusts ? json_string(r->adjusts) : json_null());
    if (!o || !counts || !times || json_object_update(o, counts) || json_object_update(o, times)) {
        json_decref(o);
        o = NULL;
    }
    json_decref(counts);
    json_decref(times);
    return o;
}

/* --- the list --- */

struct find {
    struct ledger *l;
    const char *tenant;
    const struct request_filter *f;
    const struct page *page;
    char low[UUID_LEN], high[UUID_LEN]; /* ids between these */
    char bad[UUID_LEN];                 /* the beginning of ids from which on usage_bad names all of the state; "": not this state */
    char place[UUID_LEN];               /* where the walk was ended */
    int64_t until_us;                   /* monotonic */
    int n, looked, months; /* months: that were walked */
    int yyyymm;            /* the one that is */
    bool alone, wants_file;
    struct found {
        char id[UUID_LEN];
        json_t *json;
    } *row; /* [2 * (limit + 1)], those nearest to the cursor first */
};

static bool is(const char *wanted, const char *has) { return !wanted || strcmp(wanted, has) == 0; }

static bool is_adapter(const char *wanted, const struct usage_row *r)
{
    if (!wanted) return true;
    if (strcmp(wanted, "(base)") == 0) return !*r->adapter;
    size_t n = strcspn(wanted, "@");
    if (strlen(r->adapter) != n || memcmp(r->adapter, wanted, n) != 0) return false;
    return !wanted[n] || strtoll(wanted + n + 1, NULL, 10) == r->version;
}

static bool fits(const struct request_filter *f, const struct usage_row *r)
{
    if (f->state >= 0 && r->state != f->state) return false;
    if (r->t_start < f->start * 1000000 || (f->end && r->t_start >= f->end * 1000000)) return false;
    if (r->t_end - r->t_start < f->min_duration_us) return false;
    return is(f->key, r->key) && is(f->model, r->model) && is(f->endpoint, r->endpoint) && is(f->engine, r->engine) && is_adapter(f->adapter, r);
}

static int tenant_name(struct db *d, sqlite3 *c, const char *id, json_t *o, struct err *e)
{
    static const char sql[] = "SELECT name FROM tenant WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", id)) return -1;
    int rc = db_row(st, e);
    json_object_set_new(o, "tenant", json_string(rc == 1 ? db_text(st, 0) : id));
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int keep(struct find *x, sqlite3 *c, const struct usage_row *r, struct err *e)
{
    struct found *to = &x->row[x->n];
    if (!(to->json = row_json(r))) return err_set(e, ERR_NO_MEMORY, "no memory for a usage row");
    snprintf(to->id, sizeof to->id, "%s", r->id);
    x->n++;
    return x->f->named ? tenant_name(x->l->db, c, r->tenant, to->json, e) : 0;
}

static bool is_late(struct find *x) { return ++x->looked % LOOK_ROWS == 0 && clock_mono_us() > x->until_us; }

enum part { PART_TABLE, PART_BAD, PART_FILE };

static const char *list_sql(const struct find *x, const struct month *m, enum part part)
{
    const char *const sql[][2][2] = {
        [PART_TABLE] = {{m->of_all, m->of_all_before}, {m->of_tenant, m->of_tenant_before}},
        [PART_BAD] = {{m->bad_all, m->bad_all_before}, {m->bad_tenant, m->bad_tenant_before}},
        [PART_FILE] = {{m->archived_of_all, m->archived_of_all_before}, {m->archived_of_tenant, m->archived_of_tenant_before}}};
    return sql[part][x->tenant != NULL][page_back(x->page)];
}

/* Rows of a month between two ids; from: where those of the table or the file begin in the list. */
static int read_part(struct find *x, sqlite3 *c, const struct month *m, enum part part, const char *low, const char *high, int from, struct err *e)
{
    if (strcmp(low, high) >= 0) return 0;
    sqlite3_stmt *st = db_stmt(x->l->db, c, list_sql(x, m, part), e);
    if (!st || db_bind(st, e, part == PART_BAD ? "sssi" : "sss", x->tenant, low, high, (int64_t)x->f->state)) return -1;
    int rc = 0;
    while (x->n - from <= x->page->limit && !*x->place && (rc = db_row(st, e)) == 1) {
        struct usage_row r;
        ledger_take_row(st, m->yyyymm, &r);
        if (fits(x->f, &r) && keep(x, c, &r, e)) return -1;
        if (is_late(x)) snprintf(x->place, sizeof x->place, "%s", r.id);
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

/* Of a table what is older than x->bad by the walk, and what is newer by usage_bad; of a file all by the walk. */
static int read_rows(struct find *x, sqlite3 *c, const struct month *m, bool file, struct err *e)
{
    const char *cut = file || !*x->bad || strcmp(x->bad, x->high) > 0 ? x->high : strcmp(x->bad, x->low) > 0 ? x->bad : x->low;
    enum part walked = file ? PART_FILE : PART_TABLE;
    int from = x->n;
    if (page_back(x->page)) return read_part(x, c, m, walked, x->low, cut, from, e) || read_part(x, c, m, PART_BAD, cut, x->high, from, e) ? -1 : 0;
    return read_part(x, c, m, PART_BAD, cut, x->high, from, e) || read_part(x, c, m, walked, x->low, cut, from, e) ? -1 : 0;
}

static int newest_first(const void *a, const void *b) { return strcmp(((const struct found *)b)->id, ((const struct found *)a)->id); }

static int oldest_first(const void *a, const void *b) { return newest_first(b, a); }

/* Keeps the limit + 1 that are nearest to the cursor; a row that is in table and file is one. */
static void cut(struct find *x)
{
    int n = 0;
    qsort(x->row, (size_t)x->n, sizeof *x->row, page_back(x->page) ? oldest_first : newest_first);
    for (int i = 0; i < x->n; i++) {
        if (n > x->page->limit || (n && strcmp(x->row[n - 1].id, x->row[i].id) == 0))
            json_decref(x->row[i].json);
        else
            x->row[n++] = x->row[i];
    }
    x->n = n;
}

/* Both of them as far as the time lasts: the place is the nearer one's. */
static int read_both(struct find *x, sqlite3 *c, const struct month *m, bool table, bool file, struct err *e)
{
    char place[UUID_LEN] = "";
    if (table && read_rows(x, c, m, false, e)) return -1;
    cut(x);
    memcpy(place, x->place, sizeof place);
    x->place[0] = 0;
    if (file && read_rows(x, c, m, true, e)) return -1;
    cut(x);
    if (*place && (!*x->place || (strcmp(place, x->place) > 0) != page_back(x->page))) memcpy(x->place, place, sizeof place);
    return 0;
}

/* 1: its file is wanted, on a connection that may attach it. */
static int read_month(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct find *x = u;
    char path[DB_PATH_LEN];
    const struct month *m = ledger_month_by_number(x->l, x->yyyymm, e);
    if (!m) return -1;
    if (x->alone) {
        ledger_archive_path(x->l, x->yyyymm, path);
        if (db_attach(d, c, path, e)) return -1;
    }
    int file = ledger_archived(x->l, c, x->yyyymm, e), table = file < 0 ? -1 : ledger_has_table(x->l, c, x->yyyymm, e);
    if (table < 0) return -1;
    x->wants_file = file && !x->alone;
    return x->wants_file ? 0 : read_both(x, c, m, table, file, e);
}

/* --- which months --- */

/* Ids of a month's rows are not below `from`, and below `until`. */
struct month_ids {
    char from[UUID_LEN], until[UUID_LEN];
};

static struct month_ids ids_of(int yyyymm)
{
    struct month_ids b;
    usage_id_at((month_start(yyyymm) - SLACK_S) * 1000000, b.from);
    usage_id_at(month_start(month_after(yyyymm)) * 1000000, b.until);
    return b;
}

static bool is_wanted(const struct find *x, int yyyymm, const struct month_ids *b)
{
    const struct request_filter *f = x->f;
    if (month_start(month_after(yyyymm)) <= f->start || (f->end && month_start(yyyymm) >= f->end)) return false;
    return strcmp(b->until, x->low) > 0 && strcmp(b->from, x->high) < 0;
}

/* The page is full, and whatever the month has lies behind it. */
static bool is_full(const struct find *x, const struct month_ids *b)
{
    if (x->n <= x->page->limit) return false;
    const char *last = x->row[x->page->limit].id;
    return page_back(x->page) ? strcmp(last, b->from) < 0 : strcmp(last, b->until) >= 0;
}

/* The time is over before a month: the place is its edge, if that is any further than where the walk began. */
static bool is_over(struct find *x, const struct month_ids *b)
{
    bool back = page_back(x->page);
    const char *edge = back ? b->from : b->until;
    if (!x->months || clock_mono_us() <= x->until_us || (back ? strcmp(edge, x->low) <= 0 : strcmp(edge, x->high) >= 0)) return false;
    snprintf(x->place, sizeof x->place, "%s", edge);
    return true;
}

static int walk_month(struct find *x, int yyyymm, struct err *e)
{
    x->yyyymm = yyyymm;
    x->alone = false;
    if (db_read(x->l->db, read_month, x, READ_MS, e)) return -1;
    x->alone = x->wants_file;
    if (x->alone && db_read_alone(x->l->db, read_month, x, READ_MS, e)) return -1;
    x->months++;
    return 0;
}

static int walk(struct find *x, struct err *e)
{
    struct month_list list;
    bool back = page_back(x->page);
    if (db_read(x->l->db, ledger_list_months, &list, READ_MS, e)) return -1;
    for (int i = 0; i < list.n && !*x->place; i++) {
        int yyyymm = list.yyyymm[back ? i : list.n - 1 - i];
        struct month_ids b = ids_of(yyyymm);
        if (!is_wanted(x, yyyymm, &b)) continue;
        if (is_full(x, &b) || is_over(x, &b)) break;
        if (walk_month(x, yyyymm, e)) return -1;
    }
    return 0;
}

/* What lies beyond the place comes with the next page, together with all that is there. */
static void leave_beyond(struct find *x)
{
    bool back = page_back(x->page);
    while (*x->place && x->n > 0 && (back ? strcmp(x->row[x->n - 1].id, x->place) > 0 : strcmp(x->row[x->n - 1].id, x->place) < 0))
        json_decref(x->row[--x->n].json);
}

/* Between which ids: the cursor's, and those of the filter's times. */
static void set_bounds(const struct request_filter *f, const struct page *p, char low[UUID_LEN], char high[UUID_LEN])
{
    const char *cursor = page_cursor(p);
    if (f->start > SLACK_S) usage_id_at((f->start - SLACK_S) * 1000000, low);
    if (f->end)
        usage_id_at((f->end + SLACK_S) * 1000000, high);
    else
        snprintf(high, UUID_LEN, "g"); /* follows every id */
    if (page_back(p) && strcmp(cursor, low) > 0) snprintf(low, UUID_LEN, "%s", cursor);
    if (!page_back(p) && *cursor && strcmp(cursor, high) < 0) snprintf(high, UUID_LEN, "%s", cursor);
}

int ledger_requests(struct ledger *l, const char *tenant, const struct request_filter *f, const struct page *p, struct json_t *list, bool *more,
                    char place[UUID_LEN], struct err *e)
{
    struct find x = {.l = l, .tenant = tenant, .f = f, .page = p, .until_us = clock_mono_us() + FIND_MS * 1000};
    x.row = calloc(2 * (size_t)page_ask(p), sizeof *x.row);
    if (!x.row) return err_set(e, ERR_NO_MEMORY, "no memory for a usage list");
    set_bounds(f, p, x.low, x.high);
    if (f->state > USAGE_COMPLETED) usage_id_at(clock_wall_us() - (SUMS_BAD_KEPT_S - BAD_SLACK_S) * 1000000, x.bad);
    if (*x.bad) x.bad[ID_TIME_LEN] = 0;
    int rc = walk(&x, e);
    leave_beyond(&x);
    for (int i = 0; i < x.n; i++) {
        if (rc == 0 && i < p->limit && json_array_insert(list, page_back(p) ? 0 : json_array_size(list), x.row[i].json))
            rc = err_set(e, ERR_NO_MEMORY, "no memory for a usage list");
        json_decref(x.row[i].json);
    }
    bool whole = x.n > p->limit; /* a full page: its last row is the cursor */
    snprintf(place, UUID_LEN, "%s", whole ? "" : x.place);
    if (rc == 0) *more = whole || *x.place;
    free(x.row);
    return rc;
}

/* --- one --- */

static int take_json(void *u, const struct usage_row *r, struct err *e)
{
    json_t **out = u;
    *out = row_json(r);
    return *out ? json_object_set_new(*out, "tenant", json_string(r->tenant)) : err_set(e, ERR_NO_MEMORY, "no memory for a usage row");
}

static json_t *ms_or_null(bool there, int64_t us) { return there ? json_real((double)us / 1000) : json_null(); }

static int take_whole(void *u, const struct usage_row *r, struct err *e)
{
    json_t **out = u;
    bool first = r->t_first > 0, pace = first && r->output > 1;
    if (take_json(u, r, e)) return -1;
    json_object_set_new(*out, "duration_ms", ms_or_null(true, r->t_end - r->t_start));
    json_object_set_new(*out, "ttft_ms", ms_or_null(first, r->t_first - r->t_start));
    return json_object_set_new(*out, "tpot_ms", ms_or_null(pace, pace ? (r->t_end - r->t_first) / (r->output - 1) : 0));
}

struct naming {
    const char *id;
    json_t *o;
};

static int read_name(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct naming *n = u;
    return tenant_name(d, c, n->id, n->o, e);
}

/* The operator sees whose it is, by name; a tenant knows. */
static int name_tenant(struct ledger *l, bool shown, json_t *o, struct err *e)
{
    json_t *id = json_incref(json_object_get(o, "tenant"));
    int rc = shown ? db_read(l->db, read_name, &(struct naming){json_string_value(id), o}, READ_MS, e) : json_object_del(o, "tenant");
    json_decref(id);
    return rc;
}

int ledger_request(struct ledger *l, const char *tenant, const char *id, bool named, struct json_t **out, struct err *e)
{
    json_t *o = NULL;
    int found = ledger_row(l, tenant, id, 0, take_whole, &o, e);
    if (found == 0) err_set(e, ERR_NOT_FOUND, "There is no request '%.64s' that has ended.", id);
    if (found <= 0) {
        json_decref(o);
        return -1;
    }
    bool more;
    json_t *adjustments = json_array();
    struct adjust_query q = {.tenant = tenant, .request = id, .show_actor = named};
    int rc = ledger_adjustments(l, &q, &(struct page){"", "", ADJUST_PER_REQUEST}, adjustments, &more, e);
    json_object_set_new(o, "adjustments", adjustments);
    if (rc == 0) rc = ledger_route_json(l, id, o, e);
    if (rc == 0) rc = name_tenant(l, named, o, e);
    if (rc == 0)
        *out = o;
    else
        json_decref(o);
    return rc;
}

/* --- those that went wrong --- */

struct bad {
    const char *tenant;
    int64_t state;
    const struct page *page;
    char low[UUID_LEN], high[UUID_LEN]; /* ids between these */
    json_t *list;                       /* {"id","month"} */
    bool more;
};

static json_t *bad_json(sqlite3_stmt *st)
{
    return json_pack("{ss sI}", "id", db_text(st, 0), "month", (json_int_t)sqlite3_column_int64(st, 1));
}

static int read_bad(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define BAD(of, order) "SELECT id, month FROM usage_bad WHERE " of " AND id > ?2 AND id < ?3 AND (?4 < 0 OR state = ?4) ORDER BY id " order " LIMIT ?5"
    static const char own[] = BAD("tenant = ?1", "DESC"), own_before[] = BAD("tenant = ?1", "");
    static const char all[] = BAD("?1 IS NULL", "DESC"), all_before[] = BAD("?1 IS NULL", "");
#undef BAD
    struct bad *x = u;
    const char *forth = x->tenant ? own : all, *back = x->tenant ? own_before : all_before;
    sqlite3_stmt *st = db_stmt(d, c, page_back(x->page) ? back : forth, e);
    if (!st || db_bind(st, e, "sssii", x->tenant, x->low, x->high, x->state, page_ask(x->page))) return -1;
    return page_rows(st, x->page, bad_json, x->list, &x->more, e);
}

/* Ids are made a moment before their requests begin: at the edges of the times the rows themselves decide. */
static bool began_in(const struct request_filter *f, const json_t *row)
{
    int64_t t = json_integer_value(json_object_get(row, "start_us"));
    return t >= f->start * 1000000 && (!f->end || t < f->end * 1000000);
}

static int add_bad(struct ledger *l, const char *tenant, const struct request_filter *f, const json_t *o, json_t *list, struct err *e)
{
    json_t *row = NULL;
    int month = (int)json_integer_value(json_object_get(o, "month"));
    int rc = ledger_row(l, tenant, json_string_value(json_object_get(o, "id")), month, take_json, &row, e) < 0 ? -1 : 0;
    if (rc == 0) rc = row && began_in(f, row) ? name_tenant(l, f->named, row, e) || json_array_append(list, row) : 0;
    json_decref(row);
    return rc ? -1 : 0;
}

int ledger_errors(struct ledger *l, const char *tenant, const struct request_filter *f, const struct page *p, struct json_t *list, bool *more, struct err *e)
{
    struct bad x = {.tenant = tenant, .state = f->state, .page = p, .list = json_array()};
    size_t i;
    json_t *o;
    set_bounds(f, p, x.low, x.high);
    int rc = db_read(l->db, read_bad, &x, READ_MS, e);
    json_array_foreach(x.list, i, o)
    {
        if (rc == 0) rc = add_bad(l, tenant, f, o, list, e);
    }
    json_decref(x.list);
    *more = x.more;
    return rc;
}
