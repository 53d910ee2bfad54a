/* backup_check: is a backup what it says, and would a gateway start from it and its books balance (see backup.h).
 *
 *     SHA256SUMS -> backup.json names its digest?     another list of files would have another one
 *     every file -> its digest                        bytes that changed on the disk, in transit, by hand
 *     weft.db    -> SQLite's integrity_check           what was wrong before it was copied
 *     weft.db    -> what it names is in the list       a version's bytes, a month's file
 *     a copy     -> opened as a start does             migrations, pepper; rollups equal rows; the audit trail's chain is whole
 *
 * The copy stands in DIR/verify.part, so a backup that has been looked at is still the bytes that it was. The first thing that is wrong ends it. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/backup/backup_impl.h"
#include "gateway/db/db_audit.h"
#include "gateway/ledger/ledger.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PROGRESS_OPS 20000
#define SCRATCH "verify.part"

int backup_bad(struct backup_check *out, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    if (!*out->why) vsnprintf(out->why, sizeof out->why, format, ap);
    va_end(ap);
    out->good = false;
    return 0;
}

/* --- the database --- */

static int interrupted(void *u) { return is_stopped(u); }

/* SQLite's codes that tell of the file, not of us. */
static bool is_damage(int rc)
{
    rc &= 0xFF;
    return rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB || rc == SQLITE_ERROR || rc == SQLITE_CANTOPEN || rc == SQLITE_IOERR;
}

static int check_integrity(const char *database, const struct stopper *stop, struct backup_check *out, struct err *e)
{
    char uri[DB_URI_MAX];
    sqlite3 *c = NULL;
    sqlite3_stmt *st = NULL;
    if (db_uri(database, "immutable=1", uri, e)) return -1;
    int rc = sqlite3_open_v2(uri, &c, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) sqlite3_progress_handler(c, PROGRESS_OPS, interrupted, (void *)stop);
    if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(c, "PRAGMA integrity_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(st);
    int said = 0;
    if (rc == SQLITE_ROW && strcmp(db_text(st, 0), "ok") != 0) backup_bad(out, "weft.db: %.200s", db_text(st, 0));
    else if (rc == SQLITE_INTERRUPT) said = err_set(e, ERR_UNAVAILABLE, "stopped before it was done");
    else if (rc != SQLITE_ROW && is_damage(rc)) backup_bad(out, "weft.db: %.200s", c ? sqlite3_errmsg(c) : sqlite3_errstr(rc));
    else if (rc != SQLITE_ROW) said = err_set(e, ERR_IO, "%s: %s", database, sqlite3_errstr(rc));
    sqlite3_finalize(st);
    sqlite3_close(c);
    return said;
}

static void check_named(const struct inventory *v, const struct digests *s, struct backup_check *out)
{
    char path[SUMS_PATH_MAX];
    for (size_t i = 0; i < v->nblobs && !*out->why; i++)
        for (int file = 0; file < BLOB_FILES && v->blob[i].needed; file++) {
            blob_file(v->blob[i].digest, file, path);
            if (!digests_find(s, path)) backup_bad(out, "%s is missing, though a version needs it", path);
        }
    for (int i = 0; i < v->nmonths && !*out->why; i++) {
        month_file(v->month[i], path);
        if (!digests_find(s, path)) backup_bad(out, "%s is missing, though the month's rows stand there", path);
    }
}

int check_database(const char *folder, const struct digests *s, const struct stopper *stop, struct backup_check *out, struct err *e)
{
    char database[FILES_PATH_MAX];
    struct inventory v = {0};
    struct err why = {0};
    files_join(database, folder, DB_FILE);
    if (check_integrity(database, stop, out, e)) return -1;
    if (*out->why) return 0;
    if (inventory_read(&v, database, true, &why)) backup_bad(out, "weft.db: %.300s", why.msg);
    else check_named(&v, s, out);
    inventory_close(&v);
    return 0;
}

int check_books(const char *folder, struct backup_check *out, struct err *e)
{
    struct db *d = NULL;
    struct ledger *l = NULL;
    struct audit_walk w = {0};
    struct err why = {0};
    int rc = db_open(&d, &(struct db_options){.dir = folder, .sync_ms = 1000}, &why);
    if (rc == 0) rc = ledger_open(&l, d, &why);
    if (rc == 0) rc = ledger_verify(l, &out->requests, &out->bad_buckets, &why);
    if (rc == 0) rc = audit_walk(d, &w, &why);
    ledger_close(l);
    db_close(d);
    out->audit_rows = w.rows;
    if (rc && (why.code == ERR_NO_MEMORY || why.code == ERR_UNAVAILABLE)) return err_set(e, why.code, "%s", why.msg);
    if (rc) backup_bad(out, "a gateway does not start from it: %.300s", why.msg);
    else if (out->bad_buckets) backup_bad(out, "%lld buckets of usage differ from the rows", (long long)out->bad_buckets);
    else if (w.bad) backup_bad(out, "the audit trail is broken at row %lld", (long long)w.bad);
    return 0;
}

/* --- the files --- */

static int check_files(const char *folder, const struct digests *s, const struct stopper *stop, struct backup_check *out, struct err *e)
{
    for (size_t i = 0; i < s->n && !*out->why; i++) {
        char path[FILES_PATH_MAX], sha256[SHA256_HEX];
        struct err why = {0};
        int64_t bytes = 0;
        files_join(path, folder, s->v[i].path);
        if (files_hash(path, stop, sha256, &bytes, &why)) {
            if (why.code == ERR_UNAVAILABLE || why.code == ERR_NO_MEMORY) return err_set(e, why.code, "%s", why.msg);
            return backup_bad(out, "%.300s", why.msg);
        }
        if (strcmp(sha256, s->v[i].sha256) != 0) return backup_bad(out, "%s is not what it was", s->v[i].path);
        out->files++;
        out->bytes += bytes;
    }
    return 0;
}

/* The list, and that backup.json means this one. */
static int check_list(const char *folder, struct digests *s, struct backup_check *out)
{
    char path[FILES_PATH_MAX];
    struct err why = {0};
    json_t *o = NULL;
    if (digests_read(s, folder, out->sha256, &why)) return backup_bad(out, "%.300s", why.msg);
    files_join(path, folder, BACKUP_FILE);
    if (read_json(path, &o, &why)) return backup_bad(out, "%.300s", why.msg);
    const char *said = json_string_value(json_object_get(o, "sha256"));
    if (!said || strcmp(said, out->sha256) != 0) backup_bad(out, SUMS_FILE " is not the one that " BACKUP_FILE " names");
    if (!digests_find(s, DB_FILE) || !digests_find(s, "pepper")) backup_bad(out, SUMS_FILE " lacks weft.db or pepper");
    json_decref(o);
    return 0;
}

/* A data folder as a start would find it, but for adapters' bytes, which the books don't need. */
static int make_scratch(const char *folder, const char *scratch, const struct digests *s, const struct stopper *stop, struct err *e)
{
    if (files_remove_tree(scratch, e) || files_folder(scratch, e)) return -1;
    for (size_t i = 0; i < s->n; i++) {
        char from[FILES_PATH_MAX], to[FILES_PATH_MAX], sha256[SHA256_HEX];
        const char *path = s->v[i].path;
        int64_t bytes;
        bool linked, month = strncmp(path, "archive/", 8) == 0;
        if (strncmp(path, "blobs/", 6) == 0) continue;
        files_join(from, folder, path);
        files_join(to, scratch, path);
        if (files_folders(to, strlen(scratch), e)) return -1;
        if (month ? files_link_or_copy(from, to, stop, &linked, sha256, &bytes, e) : files_copy(from, to, stop, sha256, &bytes, e)) return -1;
    }
    return 0;
}

static int check_copy(const char *dir, const char *folder, const struct digests *s, const struct stopper *stop, struct backup_check *out, struct err *e)
{
    char scratch[FILES_PATH_MAX];
    files_join(scratch, dir, SCRATCH);
    int rc = make_scratch(folder, scratch, s, stop, e);
    if (rc == 0) rc = check_books(scratch, out, e);
    files_remove_tree(scratch, NULL);
    return rc;
}

static int check_all(const char *dir, const char *folder, const struct stopper *stop, struct backup_check *out, struct err *e)
{
    struct digests s = {0};
    out->good = true;
    int rc = check_list(folder, &s, out);
    if (rc == 0 && out->good) rc = check_files(folder, &s, stop, out, e);
    if (rc == 0 && out->good) rc = check_database(folder, &s, stop, out, e);
    if (rc == 0 && out->good) rc = check_copy(dir, folder, &s, stop, out, e);
    digests_close(&s);
    return rc;
}

static int note(const char *folder, const struct backup_check *x, struct err *e)
{
    char path[FILES_PATH_MAX];
    files_join(path, folder, VERIFIED_FILE);
    json_t *o = json_pack("{sb so sI sI sI sI sI sI}", "good", x->good, "reason", x->good ? json_null() : json_string(x->why), "verified_at",
                          (json_int_t)(clock_wall_us() / 1000000), "files", (json_int_t)x->files, "requests", (json_int_t)x->requests, "bad_buckets",
                          (json_int_t)x->bad_buckets, "audit_rows", (json_int_t)x->audit_rows, "took_ms", (json_int_t)(x->took_us / 1000));
    int rc = write_json(path, o, e);
    json_decref(o);
    return rc;
}

int backup_verify(const char *dir, const char *id, const struct stopper *stop, struct backup_check *out, struct err *e)
{
    char folder[FILES_PATH_MAX];
    json_t *o;
    int64_t began_us = clock_mono_us();
    *out = (struct backup_check){0};
    if (backup_get(dir, id, &o, e)) return -1;
    json_decref(o);
    files_join(folder, dir, id);
    if (check_all(dir, folder, stop, out, e)) return -1;
    out->took_us = clock_mono_us() - began_us;
    log_info("backup_verified", LS("id", id), LS("verdict", out->good ? "good" : out->why), LI("requests", out->requests), LI("ms", out->took_us / 1000));
    return note(folder, out, e);
}
