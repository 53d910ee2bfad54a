/* archive_file: see archive_file.h.
 *
 * One connection has the archive's file as its own database and weft.db attached, read-only: rows go from one to the other inside SQLite, in
 * slices by id, each of which holds a snapshot of weft.db for some ten milliseconds; after each comes a rest of the same length. The table is made with the
 * statement that made the month's, so both have the same columns. While it is made the file has no journal: what a crash leaves is thrown away.
 *
 * The check reads the file by a new connection, after the fsync, so it sees what the disk has. Rows are compared whole, every column, in both
 * directions (EXCEPT), slice by slice; equal sums would not prove that. */
#include "gateway/ledger/archive_file.h"
#include "base/clock.h"
#include "gateway/registry/files.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLICE_ROWS 10000
#define REST_MAX_US 100000
#define PROGRESS_OPS 5000
#define SQL_MAX 2048
#define LAST_ID "~" /* after every id */

struct room {
    const struct archive_file *f;
    sqlite3 *c;
    char columns[1024]; /* of the table, with commas */
};

static int failed(struct room *r, const char *what, struct err *e)
{
    if ((sqlite3_errcode(r->c) & 0xFF) == SQLITE_INTERRUPT) return err_set(e, ERR_UNAVAILABLE, "stopped before it was done");
    return err_set(e, ERR_IO, "archive of %06d (%s): %s", r->f->yyyymm, what, sqlite3_errmsg(r->c));
}

static int interrupted(void *u)
{
    const struct archive_file *f = u;
    return f->stop && f->stop(f->user);
}

/* The pattern's names are numbers and words of ours: %1$06d the month, %2$s the columns, %3$s and %4$s a schema and the table's stem. */
static sqlite3_stmt *prepare(struct room *r, const char *pattern, const char *schema, const char *stem, struct err *e)
{
    char sql[SQL_MAX];
    sqlite3_stmt *st = NULL;
    int n = snprintf(sql, sizeof sql, pattern, r->f->yyyymm, r->columns, schema, stem);
    if (n < 0 || n >= (int)sizeof sql) err_set(e, ERR_INTERNAL, "SQL of an archive does not fit");
    else if (sqlite3_prepare_v2(r->c, sql, -1, &st, NULL) != SQLITE_OK) failed(r, "prepare", e);
    return st;
}

static int run(struct room *r, const char *sql, struct err *e)
{
    return sqlite3_exec(r->c, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(r, "statement", e);
}

static int attach(struct room *r, const char *path, const char *name, struct err *e)
{
    char uri[DB_URI_MAX];
    sqlite3_stmt *st = NULL;
    if (db_uri(path, strcmp(name, "live") == 0 ? "mode=ro" : "mode=ro&immutable=1", uri, e)) return -1;
    int rc = sqlite3_prepare_v2(r->c, "ATTACH ?1 AS ?2", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(st, 1, uri, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(st, 2, name, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK && sqlite3_step(st) != SQLITE_DONE) rc = SQLITE_ERROR;
    if (rc != SQLITE_OK) failed(r, name, e);
    sqlite3_finalize(st);
    return rc == SQLITE_OK ? 0 : -1;
}

static int read_columns(struct room *r, struct err *e)
{
    char table[16];
    sqlite3_stmt *st = NULL;
    snprintf(table, sizeof table, "%s_%06d", r->f->table, r->f->yyyymm);
    int rc = sqlite3_prepare_v2(r->c, "SELECT group_concat(name, ', ') FROM pragma_table_info(?1, 'live')", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(st, 1, table, -1, SQLITE_STATIC);
    const char *text = rc == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW ? (const char *)sqlite3_column_text(st, 0) : NULL;
    int n = text ? snprintf(r->columns, sizeof r->columns, "%s", text) : -1;
    sqlite3_finalize(st);
    return n > 0 && n < (int)sizeof r->columns ? 0 : err_set(e, ERR_IO, "archive of %06d: the table %s can't be read", r->f->yyyymm, table);
}

static int room_open(struct room *r, const struct archive_file *f, int flags, struct err *e)
{
    char uri[DB_URI_MAX];
    *r = (struct room){.f = f};
    if (db_uri(f->path, flags & SQLITE_OPEN_READONLY ? "immutable=1" : "mode=rwc", uri, e)) return -1;
    if (sqlite3_open_v2(uri, &r->c, flags | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL) != SQLITE_OK)
        return err_set(e, ERR_IO, "%s can't be opened: %s", f->path, r->c ? sqlite3_errmsg(r->c) : "out of memory");
    sqlite3_busy_timeout(r->c, 5000);
    sqlite3_progress_handler(r->c, PROGRESS_OPS, interrupted, (void *)f);
    if (run(r, "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON", e)) return -1;
    if (attach(r, f->database, "live", e) || (f->before && attach(r, f->before, "before", e))) return -1;
    return read_columns(r, e);
}

static void room_close(struct room *r)
{
    sqlite3_close(r->c);
    r->c = NULL;
}

/* --- slices --- */

/* The end of the slice that begins after `from`. */
static int slice_end(struct room *r, sqlite3_stmt *st, const char *from, char to[UUID_LEN], struct err *e)
{
    sqlite3_reset(st);
    sqlite3_bind_text(st, 1, from, -1, SQLITE_STATIC);
    sqlite3_bind_int(st, 2, SLICE_ROWS);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) snprintf(to, UUID_LEN, "%s", db_text(st, 0));
    else if (rc == SQLITE_DONE) snprintf(to, UUID_LEN, "%s", LAST_ID);
    sqlite3_reset(st);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : failed(r, "slice", e);
}

/* Bound to a slice: the number that it selects, or 0 for one that changes. */
static int slice_do(struct room *r, sqlite3_stmt *st, const char *from, const char *to, int64_t *n, struct err *e)
{
    sqlite3_reset(st);
    sqlite3_bind_text(st, 1, from, -1, SQLITE_STATIC);
    sqlite3_bind_text(st, 2, to, -1, SQLITE_STATIC);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) *n += sqlite3_column_int64(st, 0);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE) rc = sqlite3_reset(st);
    return rc == SQLITE_OK ? 0 : failed(r, "rows", e);
}

static void rest(int64_t worked_us)
{
    nanosleep(&(struct timespec){.tv_nsec = (worked_us > REST_MAX_US ? REST_MAX_US : worked_us) * 1000}, NULL);
}

/* Walks a table slice by slice through `st`, which takes a slice as ?1 (after) and ?2 (to, inclusive). */
static int walk(struct room *r, const char *pattern, const char *schema, const char *stem, int64_t *n, struct err *e)
{
    static const char next[] = "SELECT id FROM %3$s.%4$s_%1$06d WHERE id > ?1 ORDER BY id LIMIT 1 OFFSET ?2 /* %2$.0s */";
    char at[2][UUID_LEN] = {"", ""};
    sqlite3_stmt *ends = prepare(r, next, schema, stem, e), *st = ends ? prepare(r, pattern, schema, stem, e) : NULL;
    int rc = st ? 0 : -1;
    for (int i = 0; rc == 0 && strcmp(at[i & 1], LAST_ID) != 0; i++) {
        int64_t began = clock_mono_us();
        rc = slice_end(r, ends, at[i & 1], at[!(i & 1)], e);
        if (rc == 0) rc = slice_do(r, st, at[i & 1], at[!(i & 1)], n, e);
        rest(clock_mono_us() - began);
    }
    sqlite3_finalize(ends);
    sqlite3_finalize(st);
    return rc;
}

/* --- making --- */

/* What made the month's table and its index makes the file's. */
static int make_shape(struct room *r, struct err *e)
{
    char table[16], create[SQL_MAX * 2] = "";
    sqlite3_stmt *st = NULL;
    size_t n = 0;
    snprintf(table, sizeof table, "usage_%06d", r->f->yyyymm);
    int rc = sqlite3_prepare_v2(r->c, "SELECT sql FROM live.sqlite_schema WHERE tbl_name = ?1 AND sql IS NOT NULL ORDER BY type DESC", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(st, 1, table, -1, SQLITE_STATIC);
    while (rc == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW && n < sizeof create)
        n += (size_t)snprintf(create + n, sizeof create - n, "%s;", db_text(st, 0));
    sqlite3_finalize(st);
    if (rc != SQLITE_OK || n == 0 || n >= sizeof create) return err_set(e, ERR_IO, "archive of %06d: the shape of its table can't be read", r->f->yyyymm);
    return run(r, create, e);
}

static int fill(struct room *r, struct err *e)
{
    static const char copy[] = "INSERT OR IGNORE INTO main.usage_%1$06d(%2$s) SELECT %2$s FROM %3$s.%4$s_%1$06d WHERE id > ?1 AND id <= ?2";
    int64_t unused = 0;
    if (run(r, "PRAGMA main.journal_mode=OFF; PRAGMA main.synchronous=OFF", e) || make_shape(r, e)) return -1;
    if (r->f->before && walk(r, copy, "before", "usage", &unused, e)) return -1;
    return walk(r, copy, "live", r->f->table, &unused, e);
}

int archive_file_make(const struct archive_file *f, struct err *e)
{
    struct room r;
    if (unlink(f->path) && errno != ENOENT) return err_errno(e, "%s", f->path);
    int rc = room_open(&r, f, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, e);
    if (rc == 0) rc = fill(&r, e);
    room_close(&r);
    return rc == 0 ? files_sync(f->path, e) : -1;
}

/* --- checking --- */

static int check_whole(struct room *r, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(r->c, "PRAGMA main.integrity_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    bool ok = rc == SQLITE_ROW && strcmp(db_text(st, 0), "ok") == 0;
    if (rc != SQLITE_ROW) failed(r, "integrity check", e);
    else if (!ok) err_set(e, ERR_CONFLICT, "archive of %06d: %s", r->f->yyyymm, db_text(st, 0));
    sqlite3_finalize(st);
    return ok ? 0 : -1;
}

static int differ(const struct room *r, int64_t n, const char *what, struct err *e)
{
    return n ? err_set(e, ERR_CONFLICT, "archive of %06d: %lld rows %s", r->f->yyyymm, (long long)n, what) : 0;
}

static int compare(struct room *r, bool exactly, int64_t *rows, struct err *e)
{
    static const char count[] = "SELECT count(*) FROM %3$s.%4$s_%1$06d WHERE id > ?1 AND id <= ?2 /* %2$.0s */";
#define SLICE " WHERE id > ?1 AND id <= ?2"
    static const char missing[] = "SELECT count(*) FROM (SELECT %2$s FROM %3$s.%4$s_%1$06d" SLICE " EXCEPT SELECT %2$s FROM main.usage_%1$06d" SLICE ")";
    static const char more[] = "SELECT count(*) FROM (SELECT %2$s FROM %3$s.%4$s_%1$06d" SLICE " EXCEPT SELECT %2$s FROM live.usage_%1$06d" SLICE ")";
    static const char more_merged[] = "SELECT count(*) FROM (SELECT %2$s FROM %3$s.%4$s_%1$06d" SLICE " EXCEPT SELECT %2$s FROM live.usage_%1$06d" SLICE
                                      " EXCEPT SELECT %2$s FROM before.usage_%1$06d" SLICE ")";
#undef SLICE
    int64_t n = 0;
    *rows = 0;
    if (check_whole(r, e) || walk(r, count, "main", "usage", rows, e)) return -1;
    if (walk(r, missing, "live", r->f->table, &n, e) || differ(r, n, "of the table are not in the file", e)) return -1;
    if (r->f->before && (walk(r, missing, "before", "usage", &n, e) || differ(r, n, "of the file before are not in it", e))) return -1;
    if (exactly && walk(r, r->f->before ? more_merged : more, "main", "usage", &n, e)) return -1;
    return differ(r, n, "of the file are nowhere else", e);
}

int archive_file_check(const struct archive_file *f, bool exactly, int64_t *rows, struct err *e)
{
    struct room r;
    int rc = room_open(&r, f, SQLITE_OPEN_READONLY, e);
    if (rc == 0) rc = compare(&r, exactly, rows, e);
    room_close(&r);
    return rc;
}

int archive_file_digest(const struct archive_file *f, int64_t *bytes, char sha256[SHA256_HEX], struct err *e)
{
    return files_hash(f->path, &(struct stopper){f->stop, f->user}, sha256, bytes, e);
}
