/* db_migrate: brings the file to the shape that this program knows, step by step (schema/migrations.def).
 *
 * PRAGMA user_version counts the steps taken. Each step and its number are one transaction, so a kill leaves the file before or after a
 * step. Before the first step on a file that has data already, a copy is put into archive/. A file of a newer program is refused: its
 * rows could mean something that this one doesn't know. Only before the writer thread starts. */
#include "base/log.h"
#include "gateway/db/db_internal.h"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

const struct db_migration db_migrations[] = {
#define X(version, what, sql) {version, what, sql},
#include "schema/migrations.def"
#undef X
};
const int db_nmigrations = (int)(sizeof db_migrations / sizeof *db_migrations);

int db_version(void) { return db_nmigrations; }

static int version_of(sqlite3 *c, int *out, struct err *e)
{
    sqlite3_stmt *st = NULL;
    if (sqlite3_prepare_v2(c, "PRAGMA user_version", -1, &st, NULL) != SQLITE_OK || sqlite3_step(st) != SQLITE_ROW) {
        db_error(c, "user_version", e);
        sqlite3_finalize(st);
        return -1;
    }
    *out = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return 0;
}

static int keep_copy(sqlite3 *c, const char *dir, int version, struct err *e)
{
    char path[DB_PATH_MAX];
    snprintf(path, sizeof path, "%s/archive/weft-before-v%d.db", dir, version + 1);
    if (unlink(path) && errno != ENOENT) return err_errno(e, "%s", path);
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(c, "VACUUM INTO ?1", -1, &st, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(st, 1, path, -1, SQLITE_STATIC);
    if (rc == SQLITE_OK) rc = sqlite3_step(st) == SQLITE_DONE ? SQLITE_OK : SQLITE_ERROR;
    if (rc != SQLITE_OK) db_error(c, "copy before the migration", e);
    sqlite3_finalize(st);
    if (rc == SQLITE_OK) log_info("database_copied", LS("file", path));
    return rc == SQLITE_OK ? 0 : -1;
}

static int take_step(sqlite3 *c, const struct db_migration *m, struct err *e)
{
    char mark[64];
    snprintf(mark, sizeof mark, "PRAGMA user_version=%d", m->version); /* a pragma takes no parameters */
    if (sqlite3_exec(c, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK && sqlite3_exec(c, m->sql, NULL, NULL, NULL) == SQLITE_OK &&
        sqlite3_exec(c, mark, NULL, NULL, NULL) == SQLITE_OK && sqlite3_exec(c, "COMMIT", NULL, NULL, NULL) == SQLITE_OK) {
        log_info("database_migrated", LI("version", m->version), LS("what", m->what));
        return 0;
    }
    db_error(c, m->what, e);
    err_prefix(e, "migration %d", m->version);
    if (!sqlite3_get_autocommit(c)) sqlite3_exec(c, "ROLLBACK", NULL, NULL, NULL);
    return -1;
}

int db_migrate(sqlite3 *c, const char *dir, const struct db_migration *rows, int n, struct err *e)
{
    int at;
    if (version_of(c, &at, e)) return -1;
    if (at > n)
        return err_set(e, ERR_CONFLICT, "the database has version %d, this program knows %d: it was used by a newer weft-gateway", at, n);
    if (at < 0) return err_set(e, ERR_CONFLICT, "the database has version %d, which none of ours has", at);
    if (at > 0 && at < n && keep_copy(c, dir, at, e)) return -1;
    for (; at < n; at++)
        if (take_step(c, &rows[at], e)) return -1;
    return 0;
}
