/* weft doctor, the gateway's own: its settings, its data folder, the lock and the database in it.
 *
 * The settings are read as the gateway reads them: defaults, --settings FILE, environment; what its command line says is
 * not known here. The database is opened read-only and may be in use: no checkpoint is made, and PRAGMA quick_check ends
 * after CHECK_MS, which is said. Where no gateway holds the lock and no WAL waits, the file is opened as one that nobody
 * changes, so that nothing is made beside it. */
#include "base/clock.h"
#include "gateway/cli/cli_doctor.h"
#include "gateway/db/db.h"
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PATH_BYTES 1200
#define SPACE_FAIL (256LL << 20)
#define SPACE_WARN (2LL << 30)
#define WAL_WARN (512LL << 20)
#define CHECK_MS 10000
#define PROGRESS_OPS 20000
#define PEPPER_BYTES 32

static const struct conf_row rows[] = {
#define X(...) CONF_ROW(struct doctor_settings, __VA_ARGS__)
#include "schema/gateway_settings.def"
#undef X
};

static const int shapes[] = {
#define X(version, what, sql) version,
#include "schema/migrations.def"
#undef X
};

/* --- settings --- */

static void check_values(struct doctor *d)
{
    const struct doctor_settings *s = &d->set;
    if (*s->engine_url && *s->model)
        doctor_say(d, DOCTOR_WARN, "settings", "drop one of model and engine_url",
                   "model and engine_url are both set: no engine is spawned");
    if (*s->engine_token_file && access(s->engine_token_file, R_OK))
        doctor_say(d, DOCTOR_FAIL, "settings", "make the file, readable by the gateway's user",
                   "engine_token_file %s: %s", s->engine_token_file, strerror(errno));
    if (strcmp(s->ack, "durable") && *s->ack && strcmp(s->ack, "async"))
        doctor_say(d, DOCTOR_FAIL, "settings", "ack = async, or durable", "ack is '%s'", s->ack);
}

void doctor_settings(struct doctor *d)
{
    const char *file = cli_str(d->c, CLI_SETTINGS_FLAG), *data = cli_str(d->c, CLI_DATA_FLAG);
    char *argv[] = {(char *)"weft-gateway", (char *)"--config", (char *)file, NULL};
    struct err e = {0};
    struct stat st;
    if (conf_load(rows, CONF_ROWS(rows), &d->set, file ? 3 : 1, argv, NULL, 0, NULL, &e)) {
        doctor_say(d, DOCTOR_FAIL, "settings", "weft-gateway --print-config shows a documented file", "%s", e.msg);
        d->data = data;
        return;
    }
    d->settings_known = true;
    d->data = data ? data : *d->set.data ? d->set.data : NULL;
    bool open_to_others = file && !stat(file, &st) && st.st_mode & 022;
    if (open_to_others)
        doctor_say(d, DOCTOR_WARN, "settings", "chmod go-w on it", "%s can be changed by others", file);
    else
        doctor_say(d, DOCTOR_OK, "settings", "", "%s",
                   file ? file : "no file named (--settings): environment and defaults");
    check_values(d);
}

/* --- the folder --- */

static void check_space(struct doctor *d)
{
    struct statvfs v;
    if (statvfs(d->data, &v)) return;
    double room = (double)v.f_bavail * (double)v.f_frsize;
    enum doctor_verdict is = room < (double)SPACE_FAIL   ? DOCTOR_FAIL
                             : room < (double)SPACE_WARN ? DOCTOR_WARN
                                                         : DOCTOR_OK;
    doctor_say(d, is, "space",
               is == DOCTOR_OK ? "" : "make room: usage can't be recorded on a full disk, and requests are refused",
               "%.1f GB free in %s", room / 1e9, d->data);
    if (v.f_files && v.f_favail < 1000)
        doctor_say(d, DOCTOR_WARN, "space", "remove small files", "%llu inodes are free",
                   (unsigned long long)v.f_favail);
}

static bool check_folder(struct doctor *d)
{
    char remedy[PATH_BYTES];
    struct stat st;
    if (stat(d->data, &st)) {
        int why = errno;
        snprintf(remedy, sizeof remedy, "the first start of weft-gateway makes it; or --data names the wrong one");
        doctor_say(d, why == ENOENT ? DOCTOR_WARN : DOCTOR_FAIL, "data folder", remedy, "%s: %s", d->data,
                   strerror(why));
        return false;
    }
    snprintf(remedy, sizeof remedy, "chmod 700 %s", d->data);
    if (!S_ISDIR(st.st_mode))
        doctor_say(d, DOCTOR_FAIL, "data folder", "name a folder", "%s is no folder", d->data);
    else if (access(d->data, R_OK | W_OK | X_OK))
        doctor_say(d, DOCTOR_FAIL, "data folder", "run as the gateway's user, or chown the folder", "%s: %s", d->data,
                   strerror(errno));
    else if (st.st_mode & 077)
        doctor_say(d, DOCTOR_WARN, "data folder", remedy, "%s has mode %03o: others can read it", d->data,
                   st.st_mode & 0777u);
    else
        doctor_say(d, DOCTOR_OK, "data folder", "", "%s", d->data);
    return S_ISDIR(st.st_mode) && !access(d->data, R_OK | X_OK);
}

static void check_pepper(struct doctor *d, bool database)
{
    char path[PATH_BYTES];
    struct stat st;
    snprintf(path, sizeof path, "%s/pepper", d->data);
    if (stat(path, &st))
        doctor_say(d, database ? DOCTOR_FAIL : DOCTOR_OK, "pepper",
                   database ? "restore it from the backup: no key can be checked without it" : "",
                   database ? "%s is missing" : "%s: made at the first start", path);
    else if (st.st_size != PEPPER_BYTES || st.st_mode & 077)
        doctor_say(d, DOCTOR_FAIL, "pepper", "restore it from the backup, mode 600", "%s has %lld bytes, mode %03o",
                   path, (long long)st.st_size, st.st_mode & 0777u);
    else
        doctor_say(d, DOCTOR_OK, "pepper", "", "%s", path);
}

static void check_lock(struct doctor *d)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/lock", d->data);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        doctor_say(d, DOCTOR_OK, "lock", "", "no gateway has used this folder yet");
        return;
    }
    d->running = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    close(fd);
    doctor_say(d, DOCTOR_OK, "lock", "",
               d->running ? "held: a gateway runs on this folder" : "free: no gateway runs on this folder");
}

/* --- the database --- */

static int64_t size_of(const char *path, const char *tail)
{
    char whole[PATH_BYTES + 8];
    struct stat st;
    snprintf(whole, sizeof whole, "%s%s", path, tail);
    return stat(whole, &st) ? -1 : st.st_size;
}

static int too_long(void *until)
{
    return clock_mono_us() > *(const int64_t *)until;
}

/* One value of a pragma; false: it could not be had. */
static bool ask(sqlite3 *c, const char *sql, char out[256])
{
    sqlite3_stmt *st = NULL;
    bool got = sqlite3_prepare_v2(c, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW;
    if (got) snprintf(out, 256, "%s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    return got;
}

static sqlite3 *open_database(const struct doctor *d, const char *path)
{
    char uri[PATH_BYTES * 3 + 40] = "file:";
    size_t n = 5;
    sqlite3 *c = NULL;
    for (const char *p = path; *p && n + 4 < sizeof uri - 30; p++)
        n += (size_t)snprintf(uri + n, 4, strchr("%?#", *p) ? "%%%02X" : "%c", (unsigned char)*p);
    bool still = !d->running && size_of(path, "-wal") <= 0;
    snprintf(uri + n, sizeof uri - n, "?mode=ro%s", still ? "&immutable=1" : "");
    if (sqlite3_open_v2(uri, &c, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK) {
        sqlite3_close(c);
        return NULL;
    }
    sqlite3_db_config(c, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_busy_timeout(c, 1000);
    return c;
}

static void check_shape(struct doctor *d, sqlite3 *c)
{
    char text[256];
    int newest = shapes[CLI_COUNT(shapes) - 1];
    if (!ask(c, "PRAGMA user_version", text)) return;
    long at = strtol(text, NULL, 10);
    if (at > newest)
        doctor_say(d, DOCTOR_FAIL, "versions", "install this weft's own gateway's version, or newer",
                   "the database has shape %ld, this program knows %d", at, newest);
    else
        doctor_say(d, DOCTOR_OK, "versions", "",
                   at < newest ? "the database has shape %ld; the next start brings it to %d"
                               : "the database has shape %ld of %d",
                   at, newest);
}

static void check_integrity(struct doctor *d, sqlite3 *c)
{
    char text[256];
    int64_t until = clock_mono_us() + CHECK_MS * 1000LL;
    sqlite3_progress_handler(c, PROGRESS_OPS, too_long, &until);
    bool got = ask(c, "PRAGMA quick_check(1)", text);
    if (got && !strcmp(text, "ok"))
        doctor_say(d, DOCTOR_OK, "database", "", "integrity is ok");
    else if (!got && sqlite3_errcode(c) == SQLITE_INTERRUPT)
        doctor_say(d, DOCTOR_WARN, "database",
                   "sqlite3 weft.db 'PRAGMA integrity_check' on a backup takes as long as it takes",
                   "no fault found in %d s; it is larger than that", CHECK_MS / 1000);
    else
        doctor_say(d, DOCTOR_FAIL, "database", "stop the gateway, keep a copy of the folder, restore the newest backup",
                   "%s", got ? text : sqlite3_errmsg(c));
}

static void check_database(struct doctor *d, const char *path)
{
    sqlite3 *c = open_database(d, path);
    char text[256];
    if (!c || !ask(c, "SELECT count(*) FROM sqlite_schema", text)) {
        doctor_say(d, DOCTOR_FAIL, "database", "restore the newest backup", "%s: %s", path,
                   c ? sqlite3_errmsg(c) : "can't be opened");
    } else {
        check_shape(d, c);
        check_integrity(d, c);
    }
    sqlite3_close(c);
    int64_t wal = size_of(path, "-wal");
    if (wal > WAL_WARN)
        doctor_say(d, DOCTOR_WARN, "database", "a reader holds it back: end long queries; a restart folds it in",
                   "the WAL has %.1f GB", (double)wal / 1e9);
}

void doctor_data(struct doctor *d)
{
    char path[PATH_BYTES];
    if (!d->data) {
        doctor_say(d, DOCTOR_SKIP, "data folder", "",
                   "none named: --data or WEFT_DATA, where the gateway runs on this machine");
        return;
    }
    if (strlen(d->data) > 768) {
        doctor_say(d, DOCTOR_FAIL, "data folder", "a shorter path", "its path has more than 768 bytes");
        return;
    }
    if (!check_folder(d)) return;
    check_space(d);
    check_lock(d);
    snprintf(path, sizeof path, "%s/" DB_FILE, d->data);
    bool there = size_of(path, "") > 0;
    check_pepper(d, there);
    if (there)
        check_database(d, path);
    else
        doctor_say(d, DOCTOR_OK, "database", "", "none yet: made at the first start");
}
