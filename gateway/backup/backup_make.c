/* backup_make: one state of everything, while the gateway serves.
 *
 *     adapters' bytes that weft.db names now      -> ID.part/blobs      (links or copies: before the database, for they may go after it)
 *     weft.db, by db_copy()                       -> ID.part/weft.db    the moment that the backup shows
 *     what the copy names                         -> months in files, bytes that came meanwhile; what it does not name goes
 *     pepper, SHA256SUMS, backup.json             -> fsync of all folders, ID.part renamed ID
 *
 * Bytes that were uploaded and removed again in between are in neither pass, though the copy may name them: then the copy is made anew. Months in files
 * don't change meanwhile, for the thread that archives is the one that makes backups.
 *
 * A file that the backup before has with the same size and time stamp is linked to that one, and its digest taken from there: adapters and months
 * are read once in their life here, and again by each verification. */
#include "adapters/adapter.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/version.h"
#include "gateway/backup/backup_impl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_TRIES 3

struct making {
    struct db *db;
    const char *data, *dir, *id;
    const struct stopper *stop;
    char part[FILES_PATH_MAX], before[FILES_PATH_MAX]; /* before: the newest backup's folder, or "" */
    struct digests sums, sums_before;
    int64_t linked; /* bytes */
};

/* --- what a weft.db names --- */

void blob_file(const char *digest, int file, char out[SUMS_PATH_MAX])
{
    static const char *const names[BLOB_FILES] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
    snprintf(out, SUMS_PATH_MAX, "blobs/%.2s/%s/%s", digest, digest, names[file]);
}

void month_file(int yyyymm, char out[SUMS_PATH_MAX]) { snprintf(out, SUMS_PATH_MAX, "archive/usage_%06d.db", yyyymm); }

void inventory_close(struct inventory *v)
{
    free(v->blob);
    *v = (struct inventory){0};
}

static int digest_order(const void *digest, const void *x) { return strcmp(digest, ((const struct wanted *)x)->digest); }

bool inventory_has(const struct inventory *v, const char *digest)
{
    return v->nblobs && bsearch(digest, v->blob, v->nblobs, sizeof *v->blob, digest_order);
}

static int add_blob(struct inventory *v, sqlite3_stmt *st, struct err *e)
{
    const char *digest = db_text(st, 0);
    if (!sha256_is_hex(digest)) return 0; /* one that is being uploaded */
    if (v->nblobs >= BACKUP_DIGESTS_MAX) return err_set(e, ERR_TOO_LARGE, "more than %d adapters", BACKUP_DIGESTS_MAX);
    if (v->nblobs == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 256;
        struct wanted *blob = realloc(v->blob, cap * sizeof *blob);
        if (!blob) return err_set(e, ERR_NO_MEMORY, "no memory for a list of %zu adapters", cap);
        v->blob = blob;
        v->cap = cap;
    }
    struct wanted *w = &v->blob[v->nblobs++];
    snprintf(w->digest, sizeof w->digest, "%s", digest);
    w->needed = sqlite3_column_int(st, 1);
    return 0;
}

static int add_month(struct inventory *v, sqlite3_stmt *st, struct err *e)
{
    if (v->nmonths == (int)(sizeof v->month / sizeof *v->month)) return err_set(e, ERR_TOO_LARGE, "more than %d months in files", v->nmonths);
    v->month[v->nmonths++] = sqlite3_column_int(st, 0);
    return 0;
}

static int set_schema(struct inventory *v, sqlite3_stmt *st, struct err *e)
{
    (void)e;
    v->schema = sqlite3_column_int(st, 0);
    return 0;
}

static int each_row(struct inventory *v, sqlite3 *c, const char *sql, int (*add)(struct inventory *v, sqlite3_stmt *st, struct err *e), struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(c, sql, -1, &st, NULL) == SQLITE_OK ? 1 : db_error(c, "inventory", e);
    while (rc == 1 && (rc = db_row(st, e)) == 1)
        if (add(v, st, e)) rc = -1;
    sqlite3_finalize(st);
    return rc < 0 ? -1 : 0;
}

int inventory_read(struct inventory *v, const char *database, bool immutable, struct err *e)
{
    static const char blobs[] = "SELECT digest, max(state IN ('validating', 'ready', 'archived', 'quarantined')) FROM version GROUP BY digest ORDER BY digest";
    static const char months[] = "SELECT month FROM archive WHERE removed IS NULL AND month BETWEEN 197001 AND 999912 ORDER BY month";
    char uri[DB_URI_MAX];
    sqlite3 *c = NULL;
    if (db_uri(database, immutable ? "immutable=1" : "mode=ro", uri, e)) return -1;
    int rc = sqlite3_open_v2(uri, &c, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK ? 0 : db_error(c, database, e);
    if (rc == 0) {
        sqlite3_busy_timeout(c, 5000);
        sqlite3_exec(c, "PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON", NULL, NULL, NULL);
        rc = each_row(v, c, "PRAGMA user_version", set_schema, e);
    }
    if (rc == 0 && v->schema >= 1) rc = each_row(v, c, blobs, add_blob, e);
    if (rc == 0 && v->schema >= 4) rc = each_row(v, c, months, add_month, e);
    sqlite3_close(c);
    return rc;
}

/* --- a file --- */

static bool link_before(struct making *m, const char *path, const char *from, const char *to, int64_t *bytes)
{
    char old[FILES_PATH_MAX];
    struct stat st;
    const struct file_digest *known = *m->before ? digests_find(&m->sums_before, path) : NULL;
    if (!known) return false;
    files_join(old, m->before, path);
    unlink(to);
    if (!files_alike(old, from) || link(old, to) || stat(to, &st)) return false;
    *bytes = st.st_size;
    return true;
}

/* Of the data folder into the backup; ERR_NOT_FOUND where it is gone. */
static int take(struct making *m, const char *path, struct err *e)
{
    char from[FILES_PATH_MAX], to[FILES_PATH_MAX], sha256[SHA256_HEX];
    int64_t bytes;
    bool linked = true;
    files_join(from, m->data, path);
    files_join(to, m->part, path);
    if (is_stopped(m->stop)) return err_set(e, ERR_UNAVAILABLE, "stopped before it was done");
    if (files_folders(to, strlen(m->part), e)) return -1;
    if (link_before(m, path, from, to, &bytes)) {
        m->linked += bytes;
        return digests_add(&m->sums, path, digests_find(&m->sums_before, path)->sha256, bytes, e);
    }
    if (files_link_or_copy(from, to, m->stop, &linked, sha256, &bytes, e)) return -1;
    if (linked && files_hash(to, m->stop, sha256, &bytes, e)) return -1;
    if (linked) m->linked += bytes;
    return digests_add(&m->sums, path, sha256, bytes, e);
}

/* Files that change are never linked. */
static int copy(struct making *m, const char *path, struct err *e)
{
    char from[FILES_PATH_MAX], to[FILES_PATH_MAX], sha256[SHA256_HEX];
    int64_t bytes;
    files_join(from, m->data, path);
    files_join(to, m->part, path);
    return files_copy(from, to, m->stop, sha256, &bytes, e) || digests_add(&m->sums, path, sha256, bytes, e) ? -1 : 0;
}

/* --- adapters --- */

/* Takes what is not there yet. *gone: bytes that are needed can't be had. */
static int take_blobs(struct making *m, const struct inventory *v, bool *gone, struct err *e)
{
    digests_sort(&m->sums);
    size_t have = m->sums.n;
    for (size_t i = 0; i < v->nblobs; i++) {
        for (int file = 0; file < BLOB_FILES; file++) {
            char path[SUMS_PATH_MAX];
            struct err why = {0};
            blob_file(v->blob[i].digest, file, path);
            if (digests_find(&(struct digests){m->sums.v, have, 0}, path)) continue;
            if (take(m, path, &why) == 0) continue;
            if (why.code != ERR_NOT_FOUND) return err_set(e, why.code, "%s", why.msg);
            *gone |= v->blob[i].needed;
        }
    }
    digests_sort(&m->sums);
    return 0;
}

static void remove_blob(struct making *m, const char *path)
{
    char full[FILES_PATH_MAX];
    files_join(full, m->part, path);
    unlink(full);
    for (int i = 0; i < 2; i++) {
        *strrchr(full, '/') = 0;
        if (rmdir(full)) return; /* something else is in it */
    }
}

/* What came in the first pass and was removed before the moment of the copy. */
static void drop_unnamed(struct making *m, const struct inventory *v)
{
    size_t kept = 0;
    for (size_t i = 0; i < m->sums.n; i++) {
        char digest[SHA256_HEX];
        const struct file_digest *s = &m->sums.v[i];
        snprintf(digest, sizeof digest, "%.64s", strncmp(s->path, "blobs/", 6) == 0 ? s->path + 9 : "");
        if (*digest && !inventory_has(v, digest)) remove_blob(m, s->path);
        else m->sums.v[kept++] = *s;
    }
    m->sums.n = kept;
}

/* --- the moment --- */

static int take_state(struct making *m, struct inventory *v, bool *gone, struct err *e)
{
    char live[FILES_PATH_MAX], database[FILES_PATH_MAX];
    struct inventory now = {0};
    bool unused = false;
    files_join(live, m->data, DB_FILE);
    files_join(database, m->part, DB_FILE);
    int rc = inventory_read(&now, live, false, e) || take_blobs(m, &now, &unused, e) ? -1 : 0;
    inventory_close(&now);
    if (rc || db_copy(m->db, database, m->stop ? m->stop->fn : NULL, m->stop ? m->stop->user : NULL, e)) return -1;
    if (inventory_read(v, database, true, e)) return -1;
    return take_blobs(m, v, gone, e);
}

static int take_all(struct making *m, struct inventory *v, struct err *e)
{
    char path[FILES_PATH_MAX], sha256[SHA256_HEX];
    int64_t bytes;
    bool gone = true;
    for (int i = 0; gone && i < COPY_TRIES; i++) {
        gone = false;
        inventory_close(v);
        if (take_state(m, v, &gone, e)) return -1;
    }
    if (gone) return err_set(e, ERR_CONFLICT, "an adapter's bytes are missing in %s/blobs: see the log of its state, and weft doctor", m->data);
    drop_unnamed(m, v);
    for (int i = 0; i < v->nmonths; i++) {
        month_file(v->month[i], path);
        if (take(m, path, e)) return -1;
    }
    files_join(path, m->part, DB_FILE);
    if (chmod(path, 0600)) return err_errno(e, "%s", path);
    if (files_hash(path, m->stop, sha256, &bytes, e) || digests_add(&m->sums, DB_FILE, sha256, bytes, e)) return -1;
    return copy(m, "pepper", e);
}

static int64_t bytes_of(const struct digests *s)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->n; i++) n += s->v[i].bytes;
    return n;
}

static int finish(struct making *m, const struct inventory *v, int64_t began_us, json_t **out, struct err *e)
{
    char path[FILES_PATH_MAX], digest[SHA256_HEX];
    digests_sort(&m->sums);
    if (digests_write(&m->sums, m->part, digest, e)) return -1;
    *out = json_pack("{ss ss ss ss sI si sI sI sI sI sI sI ss}", "object", "backup", "id", m->id, "state", "complete", "program", WEFT_VERSION, "created_at",
                     (json_int_t)(clock_wall_us() / 1000000), "schema", v->schema, "files", (json_int_t)m->sums.n, "bytes", (json_int_t)bytes_of(&m->sums),
                     "linked_bytes", (json_int_t)m->linked, "adapters", (json_int_t)v->nblobs, "archived_months", (json_int_t)v->nmonths, "took_ms",
                     (json_int_t)((clock_mono_us() - began_us) / 1000), "sha256", digest);
    files_join(path, m->part, BACKUP_FILE);
    if (write_json(path, *out, e) || files_sync_tree(m->part, e)) return -1;
    files_join(path, m->dir, m->id);
    if (rename(m->part, path)) return err_errno(e, "%s", path);
    json_object_set_new(*out, "verification", json_null());
    return files_sync_folder(m->dir, e);
}

/* The newest one, to share files with; that there is none, or that it can't be read, costs only time. */
static void find_before(struct making *m)
{
    char digest[SHA256_HEX];
    json_t *list = json_array();
    if (backup_list(m->dir, list, NULL) == 0 && json_array_size(list))
        files_join(m->before, m->dir, json_string_value(json_object_get(json_array_get(list, 0), "id")));
    json_decref(list);
    if (*m->before && digests_read(&m->sums_before, m->before, digest, NULL)) {
        digests_close(&m->sums_before);
        *m->before = 0;
    }
}

int backup_make(struct db *d, const char *dir, const char *id, const struct stopper *stop, json_t **out, struct err *e)
{
    struct making m = {.db = d, .data = db_dir(d), .dir = dir, .id = id, .stop = stop};
    struct inventory v = {0};
    int64_t began_us = clock_mono_us();
    json_t *o = NULL;
    char name[BACKUP_ID_LEN + 8];
    snprintf(name, sizeof name, "%s.part", id);
    files_join(m.part, dir, name);
    find_before(&m);
    int rc = files_folder(m.part, e) || take_all(&m, &v, e) || finish(&m, &v, began_us, &o, e) ? -1 : 0;
    if (rc) files_remove_tree(m.part, NULL);
    if (rc) json_decref(o);
    else *out = o;
    digests_close(&m.sums);
    digests_close(&m.sums_before);
    inventory_close(&v);
    return rc;
}
