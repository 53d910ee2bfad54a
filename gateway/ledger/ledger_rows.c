/* ledger_rows: raw rows in order, wherever they stand, and how far they are complete.
 *
 *     month by month, oldest first:   usage_YYYYMM in weft.db  --.
 *                                                               >  merged by id, equal ids once --> each(row), *at moves
 *                                     archive/usage_YYYYMM.db  --'
 *
 * A month may stand in both: while its table is being dropped, and when a row came after it was archived. The snapshot of weft.db is taken
 * first and the file opened after it, and rows reach the file before they leave the table: so no row is between the two, whatever the archive
 * does meanwhile. Files are attached to a connection of their own; months without one are read by the pool's.
 *
 * Rows are final below an id (ledger_final_before): entries in memory, which stay there until their rows are committed, then admissions in the file, then LEDGER_FINAL_S behind now, because
 * ledger_admit() refuses ids that are older than LEDGER_ADMIT_S. A month's rows are told only once all of the months before are final, else
 * the order (month, id) could pass by a row at the turn. */
#include "gateway/ledger/ledger_rows.h"
#include "base/clock.h"
#include "gateway/ledger/ledger_internal.h"
#include <stdio.h>
#include <string.h>

#define READ_MS 5000
#define SLACK_US 3600000000ll /* ids and t_start differ by less, even where somebody set the clock */
#define ID_END "g"            /* follows every id */

struct rows_read {
    struct ledger *l;
    const struct rows_query *q;
    struct rows_cursor *at;
    int left; /* of max */
    int (*each)(void *u, const struct usage_row *r, struct err *e);
    void *user;
    int64_t final_us;
    char from[UUID_LEN], until[UUID_LEN]; /* ids: after, and before */
    int past;     /* months up to this one were read to their end */
    int archived; /* the month whose file is wanted, or attached; 0: none */
    bool alone;   /* on a connection that may attach */
    bool again;   /* another file is wanted */
};

void usage_id_at(int64_t wall_us, char id[UUID_LEN])
{
    uint64_t ms = wall_us > 0 ? (uint64_t)wall_us / 1000 : 0;
    snprintf(id, UUID_LEN, "%08x-%04x-7000-8000-000000000000", (unsigned)(ms >> 16 & 0xFFFFFFFFu), (unsigned)(ms & 0xFFFF));
}

int64_t usage_id_time(const char *id)
{
    unsigned high = 0, low = 0;
    return sscanf(id, "%8x-%4x-", &high, &low) == 2 ? ((int64_t)high << 16 | low) * 1000 : 0;
}

/* --- how far --- */

static void oldest_in_memory(struct ledger *l, char id[UUID_LEN])
{
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < LEDGER_BUCKETS; i++)
        for (const struct entry *x = l->bucket[i]; x; x = x->next)
            if (strcmp(x->a.id, id) < 0) memcpy(id, x->a.id, UUID_LEN);
    pthread_mutex_unlock(&l->lock);
}

static int oldest_in_file(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT min(id) FROM admission";
    char *id = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    if (sqlite3_column_type(st, 0) != SQLITE_NULL && strcmp(db_text(st, 0), id) < 0) snprintf(id, UUID_LEN, "%s", db_text(st, 0));
    sqlite3_reset(st);
    return 0;
}

/* In this order: what is not in memory any more has its admission, or its row, in the file. */
int ledger_final_before(struct ledger *l, char id[UUID_LEN], int64_t *wall_us, struct err *e)
{
    char found[UUID_LEN];
    usage_id_at(clock_wall_us() - LEDGER_FINAL_S * 1000000ll, found);
    oldest_in_memory(l, found);
    if (db_read(l->db, oldest_in_file, found, READ_MS, e)) return -1;
    memcpy(id, found, UUID_LEN);
    *wall_us = usage_id_time(found);
    return 0;
}

/* --- one row --- */

void ledger_take_row(sqlite3_stmt *st, int month, struct usage_row *r)
{
    const char **text[] = {&r->id, &r->tenant, &r->key, &r->base, &r->adapter, &r->model, &r->alias, &r->endpoint, &r->finish, &r->engine, &r->adjusts};
    int64_t *number[] = {&r->version, &r->stream, &r->state, &r->http_status, &r->t_start, &r->t_first, &r->t_end, &r->prompt, &r->cached,
                         &r->output, &r->produced, &r->source, &r->price, &r->cost, &r->attempt, &r->cold, &r->load_us, &r->before, &r->after};
    int column = 0;
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) *text[i] = db_text(st, column++);
    if (sqlite3_column_type(st, column - 1) == SQLITE_NULL) r->adjusts = NULL;
    for (size_t i = 0; i < sizeof number / sizeof *number; i++) *number[i] = sqlite3_column_int64(st, column++);
    r->month = month;
}

/* --- a month --- */

static int month_stmt(struct rows_read *x, sqlite3 *c, const struct month *m, int yyyymm, bool file, sqlite3_stmt **out, struct err *e)
{
    const char *of_tenant = file ? m->archived_rows_tenant : m->rows_tenant, *of_all = file ? m->archived_rows_all : m->rows_all;
    const char *after = x->at->month == yyyymm && strcmp(x->at->id, x->from) > 0 ? x->at->id : x->from;
    sqlite3_stmt *st = db_stmt(x->l->db, c, x->q->tenant ? of_tenant : of_all, e);
    if (!st || db_bind(st, e, "sssiii", x->q->tenant, after, x->until, x->q->start * 1000000, x->q->end * 1000000, (int64_t)x->left)) return -1;
    *out = st;
    return 0;
}

static int tell(struct rows_read *x, sqlite3_stmt *st, int yyyymm, struct err *e)
{
    struct usage_row r;
    char id[UUID_LEN];
    ledger_take_row(st, yyyymm, &r);
    snprintf(id, sizeof id, "%s", r.id); /* before each(): at may be what it looks at */
    if (x->each(x->user, &r, e)) return -1;
    x->at->month = yyyymm;
    memcpy(x->at->id, id, sizeof id);
    x->left--;
    return 0;
}

/* Two ordered streams into one; a row that is in both is the same row. */
static int merge(struct rows_read *x, sqlite3_stmt *st[2], int yyyymm, struct err *e)
{
    int rc[2] = {0, 0};
    for (int i = 0; i < 2; i++)
        if (st[i] && (rc[i] = db_row(st[i], e)) < 0) return -1;
    while ((rc[0] || rc[1]) && x->left > 0) {
        int order = !rc[0] ? 1 : !rc[1] ? -1 : strcmp(db_text(st[0], 0), db_text(st[1], 0));
        if (tell(x, st[order > 0], yyyymm, e)) return -1;
        if (order <= 0 && (rc[0] = db_row(st[0], e)) < 0) return -1;
        if (order >= 0 && (rc[1] = db_row(st[1], e)) < 0) return -1;
    }
    for (int i = 0; i < 2; i++) sqlite3_reset(st[i]);
    return 0;
}

/* 1: its file is wanted first. */
static int want_file(struct rows_read *x, sqlite3 *c, int yyyymm, bool *file, struct err *e)
{
    int archived = ledger_archived(x->l, c, yyyymm, e);
    *file = archived == 1;
    if (archived <= 0 || (x->alone && x->archived == yyyymm)) return archived < 0 ? -1 : 0;
    x->archived = yyyymm;
    x->again = true;
    return 1;
}

static int read_month(struct rows_read *x, sqlite3 *c, int yyyymm, struct err *e)
{
    sqlite3_stmt *st[2] = {NULL, NULL};
    bool file;
    int rc = want_file(x, c, yyyymm, &file, e), table = rc ? 0 : ledger_has_table(x->l, c, yyyymm, e);
    struct month *m = rc || table < 0 ? NULL : ledger_month_by_number(x->l, yyyymm, e);
    if (!m) return rc == 1 ? 0 : -1;
    if (table && month_stmt(x, c, m, yyyymm, false, &st[0], e)) return -1;
    if (file && month_stmt(x, c, m, yyyymm, true, &st[1], e)) return -1;
    if (merge(x, st, yyyymm, e)) return -1;
    if (x->left > 0) x->past = yyyymm;
    return 0;
}

/* --- all of them --- */

static bool is_wanted(const struct rows_read *x, int yyyymm)
{
    return yyyymm >= x->at->month && yyyymm > x->past && month_start(month_after(yyyymm)) > x->q->start && month_start(yyyymm) < x->q->end;
}

static int read_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct rows_read *x = u;
    struct month_list list;
    char path[DB_PATH_LEN];
    x->again = false;
    if (x->alone) {
        ledger_archive_path(x->l, x->archived, path);
        if (db_attach(d, c, path, e)) return -1;
    }
    if (ledger_list_months(d, c, &list, e)) return -1;
    for (int i = 0; i < list.n && x->left > 0 && !x->again; i++) {
        int yyyymm = list.yyyymm[i];
        if (!is_wanted(x, yyyymm)) continue;
        if (!x->q->all && x->final_us < month_start(yyyymm) * 1000000) break;
        if (read_month(x, c, yyyymm, e)) return -1;
    }
    return 0;
}

static bool is_month(int64_t t) { return month_start(month_of(t * 1000000)) == t; }

/* Whole months are read whole; within one the ids say where to begin. */
static int set_bounds(struct rows_read *x, struct err *e)
{
    const struct rows_query *q = x->q;
    char final[UUID_LEN];
    if (!is_month(q->start)) usage_id_at(q->start * 1000000 - SLACK_US, x->from);
    if (is_month(q->end)) snprintf(x->until, sizeof x->until, "%s", ID_END);
    else usage_id_at(q->end * 1000000 + SLACK_US, x->until);
    if (q->all) return 0;
    if (ledger_final_before(x->l, final, &x->final_us, e)) return -1;
    if (strcmp(final, x->until) < 0) memcpy(x->until, final, sizeof final);
    return 0;
}

#define TIME_MAX_S 253402300799 /* 9999-12-31 */

int ledger_rows(struct ledger *l, const struct rows_query *q, struct rows_cursor *at, int max,
                int (*each)(void *u, const struct usage_row *r, struct err *e), void *u, bool *more, struct err *e)
{
    return ledger_rows_on(l, NULL, q, at, max, each, u, more, e);
}

int ledger_rows_on(struct ledger *l, sqlite3 *c, const struct rows_query *asked, struct rows_cursor *at, int max,
                   int (*each)(void *u, const struct usage_row *r, struct err *e), void *u, bool *more, struct err *e)
{
    struct rows_query q = *asked;
    if (q.start < 0) q.start = 0;
    if (q.end > TIME_MAX_S) q.end = TIME_MAX_S;
    struct rows_read x = {.l = l, .q = &q, .at = at, .left = max, .each = each, .user = u};
    if (set_bounds(&x, e)) return -1;
    int rc = c ? read_rows(l->db, c, &x, e) : db_read(l->db, read_rows, &x, READ_MS, e);
    x.alone = true;
    for (int files = 0; rc == 0 && x.again && files < LEDGER_MONTHS_MAX; files++) rc = db_read_alone(l->db, read_rows, &x, READ_MS, e);
    if (rc == 0) *more = x.left == 0;
    return rc;
}

/* --- gone --- */

struct gone_read {
    int first, last;
    struct rows_gone *out;
};

/* removed is NULL again where a row of a removed month came late and was archived: `lost` stays. */
static int read_gone(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT count(*), min(month), max(month), sum(lost) FROM archive WHERE month BETWEEN ?1 AND ?2"
                              " AND (removed IS NOT NULL OR lost > 0)";
    const struct gone_read *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ii", (int64_t)x->first, (int64_t)x->last) || db_row(st, e) != 1) return -1;
    *x->out = (struct rows_gone){sqlite3_column_int(st, 0), sqlite3_column_int(st, 1), sqlite3_column_int(st, 2), sqlite3_column_int64(st, 3)};
    sqlite3_reset(st);
    return 0;
}

int ledger_rows_gone(struct ledger *l, int first, int last, struct rows_gone *out, struct err *e)
{
    return db_read(l->db, read_gone, &(struct gone_read){first, last, out}, READ_MS, e);
}

/* --- by id --- */

struct row_read {
    struct ledger *l;
    const char *tenant, *id;
    int month;
    int (*each)(void *u, const struct usage_row *r, struct err *e);
    void *user;
    bool archived, found;
};

static int look(struct row_read *x, sqlite3 *c, const char *sql, struct err *e)
{
    struct usage_row r;
    sqlite3_stmt *st = db_stmt(x->l->db, c, sql, e);
    if (!st || db_bind(st, e, "ss", x->tenant, x->id)) return -1;
    int rc = db_row(st, e);
    x->found = rc == 1;
    if (rc == 1) ledger_take_row(st, x->month, &r);
    if (rc == 1 && x->each(x->user, &r, e)) rc = -1;
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int read_table(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    struct row_read *x = u;
    struct month *m = ledger_month_by_number(x->l, x->month, e);
    int table = m ? ledger_has_table(x->l, c, x->month, e) : -1, archived = table < 0 ? -1 : ledger_archived(x->l, c, x->month, e);
    x->archived = archived == 1;
    return archived < 0 || (table && look(x, c, m->row, e)) ? -1 : 0;
}

static int read_file(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct row_read *x = u;
    char path[DB_PATH_LEN];
    struct month *m = ledger_month_by_number(x->l, x->month, e);
    ledger_archive_path(x->l, x->month, path);
    return !m || db_attach(d, c, path, e) || look(x, c, m->archived_row, e) ? -1 : 0;
}

static int row_in(struct row_read *x, int month, struct err *e)
{
    x->month = month;
    if (db_read(x->l->db, read_table, x, READ_MS, e)) return -1;
    return !x->found && x->archived ? db_read_alone(x->l->db, read_file, x, READ_MS, e) : 0;
}

int ledger_row(struct ledger *l, const char *tenant, const char *id, int month, int (*each)(void *u, const struct usage_row *r, struct err *e), void *u,
               struct err *e)
{
    struct row_read x = {.l = l, .tenant = tenant, .id = id, .each = each, .user = u};
    int64_t t = usage_id_time(id);
    if (!uuid_is(id) || t > TIME_MAX_S * 1000000ll) return 0;
    const int months[] = {month ? month : month_of(t), month_of(t + SLACK_US), month_of(t > SLACK_US ? t - SLACK_US : 0)};
    for (int i = 0; i < (month ? 1 : 3) && !x.found; i++)
        if (!i || months[i] != months[i - 1])
            if (row_in(&x, months[i], e)) return -1;
    return x.found;
}
