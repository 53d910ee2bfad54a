/* capture_store: where captures lie, and what is known of them without reading (see capture.h).
 *
 * A file's name says whose it is, when it expires and of which alias: after a restart the folders' lists are all that has to be read. A file is written
 * under another name and renamed, so one that is there is whole; what a crash left of another name is removed at the start. It is not synced: what a
 * power cut takes of the last seconds' captures is no loss to anybody.
 *
 * `lock` covers the index and the folders. `stop_lock` covers the list of tenants that have stopped, which requests look at: no file is touched under it.
 * A capture looks at that list again under `lock`, and a stop is set under both: when it has returned no file is being written, and none will be. An alias's
 * change is in force before it passes `lock` (captures_fence()), and a capture asks under it whether its alias wants it still: so that holds for one alias, too. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/auth/auth.h"
#include "gateway/capture/capture.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/live/event.h"
#include "gateway/registry/files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER "captures"
#define FRESH ".new"
#define READ_MS 2000
#define EXPIRES_MAX 99999999999 /* eleven digits */

/* A tenant's captures, by id. */
struct shelf {
    char tenant[UUID_LEN];
    struct capture_id *row;
    int n, cap;
    int64_t bytes;
};

struct captures {
    struct db *db;
    char dir[DB_PATH_LEN];
    pthread_mutex_t lock; /* covers shelves and files */
    struct shelf *shelf;
    int n;
    pthread_rwlock_t stop_lock; /* covers the next two */
    char (*stopped)[UUID_LEN];
    int nstopped;
};

/* --- names --- */

static void folder_of(const struct captures *c, const char *tenant, char out[FILES_PATH_MAX])
{
    snprintf(out, FILES_PATH_MAX, "%s/%s", c->dir, tenant);
}

static void path_of(const struct captures *c, const char *tenant, const struct capture_id *r, char out[FILES_PATH_MAX])
{
    snprintf(out, FILES_PATH_MAX, "%s/%s/%s.%" PRId64 ".%s", c->dir, tenant, r->id, r->expires_s, r->alias);
}

static bool read_name(const char *name, struct capture_id *r)
{
    char id[UUID_LEN];
    char *end;
    if (strlen(name) < UUID_LEN || name[UUID_LEN - 1] != '.') return false;
    snprintf(id, sizeof id, "%.*s", UUID_LEN - 1, name);
    long long t = strtoll(name + UUID_LEN, &end, 10);
    if (!uuid_is(id) || *end != '.' || t <= 0 || t > EXPIRES_MAX || !name_is_valid(end + 1)) return false;
    *r = (struct capture_id){.expires_s = t};
    memcpy(r->id, id, sizeof r->id);
    snprintf(r->alias, sizeof r->alias, "%s", end + 1);
    return true;
}

/* --- the index; under the lock --- */

static struct shelf *shelf_of(struct captures *c, const char *tenant)
{
    for (int i = 0; i < c->n; i++)
        if (strcmp(c->shelf[i].tenant, tenant) == 0) return &c->shelf[i];
    return NULL;
}

static struct shelf *shelf_make(struct captures *c, const char *tenant, struct err *e)
{
    struct shelf *s = shelf_of(c, tenant), *more;
    if (s) return s;
    if (!(more = realloc(c->shelf, (size_t)(c->n + 1) * sizeof *more))) {
        err_set(e, ERR_NO_MEMORY, "no memory for a capture");
        return NULL;
    }
    c->shelf = more;
    s = &c->shelf[c->n++];
    *s = (struct shelf){.row = NULL};
    snprintf(s->tenant, sizeof s->tenant, "%s", tenant);
    return s;
}

/* The first that is not before this id. */
static int place(const struct shelf *s, const char *id)
{
    int from = 0, to = s->n;
    while (from < to) {
        int mid = from + (to - from) / 2;
        if (strcmp(s->row[mid].id, id) < 0) from = mid + 1;
        else to = mid;
    }
    return from;
}

static struct capture_id *find(struct shelf *s, const char *id)
{
    int at = s ? place(s, id) : 0;
    return s && at < s->n && strcmp(s->row[at].id, id) == 0 ? &s->row[at] : NULL;
}

static int insert(struct shelf *s, const struct capture_id *r, struct err *e)
{
    int at = place(s, r->id);
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 64;
        struct capture_id *more = realloc(s->row, (size_t)cap * sizeof *more);
        if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for a capture");
        s->row = more;
        s->cap = cap;
    }
    memmove(s->row + at + 1, s->row + at, (size_t)(s->n - at) * sizeof *s->row);
    s->row[at] = *r;
    s->n++;
    s->bytes += r->bytes;
    return 0;
}

/* The file first: what is not in the index any more is nowhere. */
static int drop(struct captures *c, struct shelf *s, int at, struct err *e)
{
    char path[FILES_PATH_MAX];
    path_of(c, s->tenant, &s->row[at], path);
    if (unlink(path) && errno != ENOENT) return err_errno(e, "%s", path);
    s->bytes -= s->row[at].bytes;
    s->n--;
    memmove(s->row + at, s->row + at + 1, (size_t)(s->n - at) * sizeof *s->row);
    return 0;
}

/* --- the start --- */

static int read_folder(struct captures *c, const char *tenant, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct dirent *d;
    struct stat st;
    struct capture_id r;
    folder_of(c, tenant, path);
    DIR *dir = opendir(path);
    struct shelf *s = dir ? shelf_make(c, tenant, e) : NULL;
    int rc = dir ? (s ? 0 : -1) : err_errno(e, "%s", path);
    while (rc == 0 && (d = readdir(dir))) {
        if (strcmp(d->d_name, FRESH) == 0) unlinkat(dirfd(dir), FRESH, 0);
        if (!read_name(d->d_name, &r) || fstatat(dirfd(dir), d->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode)) continue;
        r.bytes = st.st_size;
        rc = insert(s, &r, e);
    }
    if (dir) closedir(dir);
    return rc;
}

static int read_folders(struct captures *c, struct err *e)
{
    DIR *dir = opendir(c->dir);
    struct dirent *d;
    int rc = 0;
    if (!dir) return errno == ENOENT ? 0 : err_errno(e, "%s", c->dir);
    while (rc == 0 && (d = readdir(dir)))
        if (uuid_is(d->d_name)) rc = read_folder(c, d->d_name, e);
    closedir(dir);
    return rc;
}

static int note_stopped(struct captures *c, const char *tenant, struct err *e)
{
    char (*more)[UUID_LEN] = realloc(c->stopped, (size_t)(c->nstopped + 1) * sizeof *more);
    if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for captures");
    c->stopped = more;
    snprintf(c->stopped[c->nstopped++], UUID_LEN, "%s", tenant);
    return 0;
}

static int read_stopped(struct db *d, sqlite3 *k, void *u, struct err *e)
{
    static const char sql[] = "SELECT tenant FROM capture_stop";
    struct captures *c = u;
    sqlite3_stmt *st = db_stmt(d, k, sql, e);
    int rc = st ? 1 : -1;
    while (rc == 1 && (rc = db_row(st, e)) == 1)
        if (note_stopped(c, db_text(st, 0), e)) rc = -1;
    return rc;
}

int captures_open(struct captures **out, struct db *d, struct err *e)
{
    struct captures *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NO_MEMORY, "no memory for captures");
    c->db = d;
    pthread_mutex_init(&c->lock, NULL);
    pthread_rwlock_init(&c->stop_lock, NULL);
    snprintf(c->dir, sizeof c->dir, "%s/" FOLDER, db_dir(d));
    if (read_folders(c, e) || db_read(d, read_stopped, c, READ_MS, e)) {
        captures_close(c);
        return -1;
    }
    *out = c;
    return 0;
}

void captures_close(struct captures *c)
{
    if (!c) return;
    for (int i = 0; i < c->n; i++) free(c->shelf[i].row);
    free(c->shelf);
    free(c->stopped);
    pthread_mutex_destroy(&c->lock);
    pthread_rwlock_destroy(&c->stop_lock);
    free(c);
}

/* --- stopped --- */

static int stopped_at(const struct captures *c, const char *tenant)
{
    for (int i = 0; i < c->nstopped; i++)
        if (strcmp(c->stopped[i], tenant) == 0) return i;
    return -1;
}

bool captures_on(struct captures *c, const char *tenant)
{
    if (!c) return false;
    pthread_rwlock_rdlock(&c->stop_lock);
    bool on = stopped_at(c, tenant) < 0;
    pthread_rwlock_unlock(&c->stop_lock);
    return on;
}

struct stopping {
    const struct actor *by;
    const char *tenant;
    bool stopped;
};

/* -1 with ERR_FORBIDDEN, or what else is wrong. */
static int is_the_operators(struct db *d, sqlite3 *k, const char *tenant, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM capture_stop WHERE tenant = ?1 AND operator = 1";
    sqlite3_stmt *st = db_stmt(d, k, sql, e);
    int rc = st && db_bind(st, e, "s", tenant) == 0 ? db_row(st, e) : -1;
    if (st) sqlite3_reset(st);
    return rc == 1 ? err_set(e, ERR_FORBIDDEN, "The operator has stopped the captures of this tenant, and alone can end that.") : rc;
}

static int run_stop(struct db *d, sqlite3 *k, void *u, struct err *e)
{
    static const char on[] = "INSERT INTO capture_stop(tenant, operator, t) VALUES(?1, ?2, ?3) ON CONFLICT(tenant) DO UPDATE SET operator = 1"
                             " WHERE operator = 0 AND excluded.operator = 1";
    static const char off[] = "DELETE FROM capture_stop WHERE tenant = ?1 AND operator <= ?2";
    const struct stopping *x = u;
    int64_t operator = (x->by->scopes & SCOPE_ADMIN) != 0;
    if (!x->stopped && !operator && is_the_operators(d, k, x->tenant, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, k, x->stopped ? on : off, e);
    if (!st || (x->stopped ? db_bind(st, e, "sii", x->tenant, operator, clock_wall_us() / 1000000) : db_bind(st, e, "si", x->tenant, operator)) || db_done(st, e)) return -1;
    if (sqlite3_changes(k) == 0) return 0;
    const char *what = x->stopped ? "capture.stop" : "capture.resume";
    if (event_add(d, k, x->tenant, x->stopped ? "capture.stopped" : "capture.resumed", "", NULL, e)) return -1;
    return audit_add(d, k, &(struct audit){x->by, what, x->tenant, NULL, NULL}, e);
}

/* Stopped in memory before the database says so, resumed after: never the other way round. */
int captures_stop(struct captures *c, const struct actor *by, const char *tenant, bool stopped, struct err *e)
{
    struct stopping x = {by, tenant, stopped};
    int rc = 0;
    if (!stopped && db_write_wait(c->db, run_stop, &x, e)) return -1;
    pthread_mutex_lock(&c->lock); /* a capture that is being written is waited for */
    pthread_rwlock_wrlock(&c->stop_lock);
    int at = stopped_at(c, tenant);
    if (stopped && at < 0) rc = note_stopped(c, tenant, e);
    if (!stopped && at >= 0) memmove(c->stopped + at, c->stopped + --c->nstopped, sizeof *c->stopped);
    pthread_rwlock_unlock(&c->stop_lock);
    pthread_mutex_unlock(&c->lock);
    return rc || !stopped ? rc : db_write_wait(c->db, run_stop, &x, e);
}

/* --- what is there --- */

struct capture_sum captures_sum(struct captures *c, const char *tenant)
{
    struct capture_sum sum = {0};
    if (!c) return sum;
    pthread_mutex_lock(&c->lock);
    for (int i = 0; i < c->n; i++) {
        if (tenant && strcmp(c->shelf[i].tenant, tenant) != 0) continue;
        sum.rows += c->shelf[i].n;
        sum.bytes += c->shelf[i].bytes;
    }
    pthread_mutex_unlock(&c->lock);
    return sum;
}

static bool passes(const struct capture_filter *f, const struct capture_id *r)
{
    int64_t t = usage_id_time(r->id);
    return (!f->alias || strcmp(f->alias, r->alias) == 0) && t >= f->start_us && t < f->end_us;
}

int captures_list(struct captures *c, const char *tenant, const struct capture_filter *f, struct capture_id **out, int *n, struct err *e)
{
    int rc = 0;
    *n = 0;
    pthread_mutex_lock(&c->lock);
    const struct shelf *s = shelf_of(c, tenant);
    *out = calloc((size_t)(s ? s->n : 0) + 1, sizeof **out);
    if (!*out) rc = err_set(e, ERR_NO_MEMORY, "no memory for a list of captures");
    for (int i = 0; rc == 0 && s && i < s->n; i++)
        if (passes(f, &s->row[i])) (*out)[(*n)++] = s->row[i];
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int read_file(const char *path, struct buf *out, struct err *e)
{
    char piece[65536];
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return err_errno(e, "%s", path);
    while ((n = read(fd, piece, sizeof piece)) > 0 && buf_add(out, piece, (size_t)n) == 0) continue;
    close(fd);
    return n ? err_set(e, ERR_IO, "%s can't be read", path) : 0;
}

int captures_read(struct captures *c, const char *tenant, const char *id, json_t **out, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct buf text;
    buf_init(&text, CAPTURE_ROW_MAX);
    pthread_mutex_lock(&c->lock);
    struct capture_id *r = find(shelf_of(c, tenant), id);
    int rc = r ? (path_of(c, tenant, r, path), read_file(path, &text, e)) : err_set(e, ERR_NOT_FOUND, "There is no capture '%.40s'.", id);
    pthread_mutex_unlock(&c->lock);
    if (rc == 0) rc = json_parse(text.data, text.len, out, e);
    buf_close(&text);
    return rc;
}

/* --- changes --- */

static int write_row(struct captures *c, const char *tenant, const struct capture_id *r, const struct buf *text, struct err *e)
{
    char dir[FILES_PATH_MAX], fresh[FILES_PATH_MAX + 8], path[FILES_PATH_MAX];
    folder_of(c, tenant, dir);
    path_of(c, tenant, r, path);
    snprintf(fresh, sizeof fresh, "%s/" FRESH, dir);
    if (files_folder(c->dir, e) || files_folder(dir, e)) return -1;
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_errno(e, "%s", fresh);
    bool whole = write(fd, text->data, text->len) == (ssize_t)text->len;
    if (close(fd) || !whole || rename(fresh, path)) {
        err_errno(e, "%s", path);
        unlink(fresh);
        return -1;
    }
    return 0;
}

/* The oldest that are too many, the new one not among them. */
static int make_room(struct captures *c, struct shelf *s, const struct capture_new *n, int64_t bytes, struct err *e)
{
    int64_t of_alias = 0;
    for (int i = 0; i < s->n; i++) of_alias += strcmp(s->row[i].alias, n->alias) == 0;
    for (int i = 0; i < s->n && of_alias >= n->max_rows;) {
        if (strcmp(s->row[i].alias, n->alias) != 0) i++;
        else if (drop(c, s, i, e)) return -1;
        else of_alias--;
    }
    while (s->n && (s->n >= CAPTURE_ROWS_MAX || s->bytes + bytes > n->max_bytes))
        if (drop(c, s, 0, e)) return -1;
    return 0;
}

static int dump(const json_t *row, struct buf *text, struct err *e)
{
    buf_init(text, CAPTURE_ROW_MAX);
    return json_dump(row, false, text) ? err_set(e, text->full ? ERR_TOO_LARGE : ERR_NO_MEMORY, "a capture has more than %u bytes", CAPTURE_ROW_MAX) : 0;
}

int captures_add(struct captures *c, const struct capture_new *n, const json_t *row, struct err *e)
{
    struct capture_id r = {.expires_s = n->expires_s};
    struct buf text;
    struct shelf *s;
    int rc = dump(row, &text, e);
    if (rc == 0 && (int64_t)text.len > n->max_bytes) rc = err_set(e, ERR_TOO_LARGE, "a capture is larger than all may be");
    snprintf(r.id, sizeof r.id, "%s", n->id);
    snprintf(r.alias, sizeof r.alias, "%s", n->alias);
    r.bytes = (int64_t)text.len;
    pthread_mutex_lock(&c->lock);
    if (rc == 0 && !captures_on(c, n->tenant)) rc = err_set(e, ERR_CONFLICT, "the captures of the tenant were stopped meanwhile");
    if (rc == 0 && n->still && !n->still(n->u)) rc = err_set(e, ERR_CONFLICT, "the alias keeps none any more");
    if (rc == 0) rc = (s = shelf_make(c, n->tenant, e)) && make_room(c, s, n, r.bytes, e) == 0 && write_row(c, n->tenant, &r, &text, e) == 0 && insert(s, &r, e) == 0 ? 0 : -1;
    pthread_mutex_unlock(&c->lock);
    buf_close(&text);
    return rc;
}

void captures_fence(struct captures *c)
{
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    pthread_mutex_unlock(&c->lock);
}

int captures_replace(struct captures *c, const char *tenant, const char *id, const json_t *row, int64_t max_bytes, struct err *e)
{
    struct buf text;
    int rc = dump(row, &text, e);
    pthread_mutex_lock(&c->lock);
    struct shelf *s = shelf_of(c, tenant);
    struct capture_id *r = find(s, id);
    if (rc == 0 && !r) rc = err_set(e, ERR_NOT_FOUND, "There is no capture '%.40s'.", id);
    int64_t more = r ? (int64_t)text.len - r->bytes : 0;
    if (rc == 0 && more > 0 && s->bytes + more > max_bytes) rc = err_set(e, ERR_CONFLICT, "There is no room for it: all captures take %lld MiB at most.", (long long)(max_bytes >> 20));
    if (rc == 0) rc = write_row(c, tenant, r, &text, e);
    if (rc == 0) {
        s->bytes += more;
        r->bytes = (int64_t)text.len;
    }
    pthread_mutex_unlock(&c->lock);
    buf_close(&text);
    return rc;
}

int captures_remove(struct captures *c, const char *tenant, const char *id, const struct capture_filter *f, int *n, struct err *e)
{
    int rc = 0;
    *n = 0;
    pthread_mutex_lock(&c->lock);
    struct shelf *s = shelf_of(c, tenant);
    struct capture_id *r = id ? find(s, id) : NULL;
    if (id && !r) rc = err_set(e, ERR_NOT_FOUND, "There is no capture '%.40s'.", id);
    if (r && (rc = drop(c, s, (int)(r - s->row), e)) == 0) *n = 1;
    for (int i = 0; !id && s && i < s->n && rc == 0;) {
        if (!passes(f, &s->row[i])) i++;
        else if ((rc = drop(c, s, i, e)) == 0) ++*n;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void captures_expire(struct captures *c, int64_t now_s)
{
    struct err e = {0};
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    for (int k = 0; k < c->n; k++)
        for (int i = 0; i < c->shelf[k].n;)
            if (c->shelf[k].row[i].expires_s > now_s || drop(c, &c->shelf[k], i, &e)) i++;
    pthread_mutex_unlock(&c->lock);
    if (e.code) log_error("capture_expiry", LS("error", e.msg));
}
