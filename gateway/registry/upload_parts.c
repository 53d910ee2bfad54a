/* upload_parts: what an upload in parts, or an import, is between requests, and the job that ends it.
 *
 *     PUT ...  -> tmp/ID/files       (uploads_api.c, which has marked the upload as busy)
 *     complete -> row validating -> job: sums -> files_check -> files_keep -> row done, self-test
 *     import   -> row validating -> job -> fetch (upload_imports.c) -> job, as above
 *                                    \-> refused: version failed (code, tensor, detail), row failed, files gone
 *
 * Everything that a job needs stands in the row and the folder, so a start goes on with what the last gateway left: an
 * import fetches again from the beginning. Folders without a living row go at the start and by and by (a version that is
 * removed takes its upload's row along), rows at their time. */
#include "gateway/registry/upload_parts.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/registry/import.h"
#include "gateway/registry/upload_impl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAID_MAX 4096
#define HASH_PIECE (256u << 10)

const char *const part_file_name[FILES] = {"config", "weights"};
static const char *const file_name[FILES] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
static const struct actor nobody = {.key = "system", .ip = "", .request = ""};

int64_t parts_limit(const struct gateway *g, int which)
{
    return which == FILE_CONFIG ? (int64_t)PEFT_CONFIG_MAX : g->set->max_adapter_bytes;
}

/* --- the folder --- */

static int path_of(const struct gateway *g, const char *id, const char *name, char out[STORE_PATH_MAX], struct err *e)
{
    if (!uuid_is(id)) return err_set(e, ERR_NOT_FOUND, "There is no upload '%.40s' here.", id);
    if (snprintf(out, STORE_PATH_MAX, "%s/%s%s", g->tmp, id, name) < STORE_PATH_MAX) return 0;
    return err_set(e, ERR_IO, "the folder for uploads has too long a path");
}

int parts_make(struct gateway *g, const char *id, struct err *e)
{
    char path[STORE_PATH_MAX];
    static const char *const folders[] = {"", "/files"};
    for (int i = 0; i < 2; i++) {
        if (path_of(g, id, folders[i], path, e)) return -1;
        if (mkdir(path, 0700) && errno != EEXIST) return err_errno(e, "can't make a folder for the upload");
    }
    return 0;
}

void parts_discard(struct gateway *g, const char *id)
{
    char path[STORE_PATH_MAX];
    if (path_of(g, id, "", path, NULL) == 0) store_discard(path);
}

static int file_path(const struct gateway *g, const char *id, int which, char out[STORE_PATH_MAX], struct err *e)
{
    char name[64];
    snprintf(name, sizeof name, "/files/%s", file_name[which]);
    return path_of(g, id, name, out, e);
}

int parts_open(struct gateway *g, const char *id, int which, struct err *e)
{
    char path[STORE_PATH_MAX];
    if (parts_make(g, id, e) || file_path(g, id, which, path, e)) return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd >= 0 ? fd : err_errno(e, "cannot store the upload");
}

/* --- what was said --- */

static json_t *read_said(const struct gateway *g, const char *id)
{
    char path[STORE_PATH_MAX], text[SAID_MAX];
    json_t *o = NULL;
    if (path_of(g, id, "/said.json", path, NULL)) return json_object();
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text) : 0;
    if (fd >= 0) close(fd);
    return n > 0 && json_parse(text, (size_t)n, &o, NULL) == 0 ? o : json_object();
}

/* Under another name first: who reads it finds all of the old or all of the new. */
static int write_said(const struct gateway *g, const char *id, const json_t *o, struct err *e)
{
    char path[STORE_PATH_MAX], fresh[STORE_PATH_MAX];
    struct buf b;
    if (path_of(g, id, "/said.json", path, e) || path_of(g, id, "/said.new", fresh, e)) return -1;
    buf_init(&b, SAID_MAX);
    int fd = json_dump(o, true, &b) ? -1 : open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && write(fd, b.data, b.len) == (ssize_t)b.len && fsync(fd) == 0;
    if (fd >= 0 && close(fd)) ok = false;
    buf_close(&b);
    return ok && rename(fresh, path) == 0 ? 0 : err_errno(e, "cannot store the upload");
}

int parts_say(struct gateway *g, const char *id, int which, int64_t total, const char *sha256, struct err *e)
{
    json_t *o = read_said(g, id), *f = json_object_get(o, part_file_name[which]);
    json_int_t was = json_integer_value(json_object_get(f, "total"));
    int rc = 0;
    if (f && json_object_get(f, "total") && total >= 0 && was != total)
        rc = err_field(e, ERR_INVALID, "Content-Range",
                       "the file has %lld bytes, an earlier part said; this one says %lld", (long long)was,
                       (long long)total);
    if (!f) json_object_set_new(o, part_file_name[which], f = json_object());
    if (total >= 0) json_object_set_new(f, "total", json_integer(total));
    if (sha256) json_object_set_new(f, "sha256", json_string(sha256));
    if (rc == 0) rc = write_said(g, id, o, e);
    json_decref(o);
    return rc;
}

int parts_read(struct gateway *g, const char *id, struct part_file out[FILES], struct err *e)
{
    json_t *o = read_said(g, id);
    int rc = 0;
    for (int i = 0; i < FILES && rc == 0; i++) {
        char path[STORE_PATH_MAX];
        struct stat st;
        const json_t *f = json_object_get(o, part_file_name[i]), *total = json_object_get(f, "total");
        const char *sum = json_string_value(json_object_get(f, "sha256"));
        rc = file_path(g, id, i, path, e);
        if (rc) break;
        out[i] = (struct part_file){.received = stat(path, &st) ? 0 : st.st_size,
                                    .total = total ? json_integer_value(total) : -1};
        snprintf(out[i].sha256, SHA256_HEX, "%s", sum ? sum : "");
    }
    json_decref(o);
    return rc;
}

static json_t *file_json(const struct part_file *f)
{
    return json_pack("{sI so so}", "received", (json_int_t)f->received, "total",
                     f->total >= 0 ? json_integer(f->total) : json_null(), "sha256",
                     *f->sha256 ? json_string(f->sha256) : json_null());
}

static int add_files(json_t *o, const struct part_file f[FILES])
{
    return json_object_set_new(
        o, "files", json_pack("{so so}", part_file_name[0], file_json(&f[0]), part_file_name[1], file_json(&f[1])));
}

int parts_add_files(struct gateway *g, json_t *o, struct err *e)
{
    struct part_file f[FILES];
    if (parts_read(g, json_string_value(json_object_get(o, "id")), f, e)) return -1;
    return add_files(o, f) ? err_set(e, ERR_NO_MEMORY, "no memory for the answer") : 0;
}

json_t *parts_json(struct gateway *g, const struct upload_row *row, struct err *e)
{
    json_t *o = upload_json(row);
    if (!o) err_set(e, ERR_NO_MEMORY, "no memory for the answer");
    if (!o || parts_add_files(g, o, e) == 0) return o;
    json_decref(o);
    return NULL;
}

json_t *parts_json_new(const struct upload_row *row)
{
    static const struct part_file none[FILES] = {{.total = -1}, {.total = -1}};
    json_t *o = upload_json(row);
    if (!o || add_files(o, none) == 0) return o;
    json_decref(o);
    return NULL;
}

/* --- the job --- */

struct intake {
    struct job job;
    char id[UUID_LEN];
    struct version_name v; /* once the row was seen */
    bool fetched;          /* of an import: the files are here */
    int64_t until_us;
};

/* No engine has said what its base looks like, as after a start: later. */
static bool is_early(struct uploads *u, const struct intake *x)
{
    struct base_desc base;
    struct err e = {0};
    return residency_base(u->g, "", &base, &e) && e.code == ERR_UNAVAILABLE && clock_mono_us() < x->until_us;
}

static int hash_file(const char *path, char out[SHA256_HEX], const atomic_bool *stop, struct err *e)
{
    struct sha256 h;
    uint8_t sum[SHA256_BYTES];
    char *piece = malloc(HASH_PIECE);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = -1;
    sha256_init(&h);
    while (piece && fd >= 0 && !atomic_load(stop) && (n = read(fd, piece, HASH_PIECE)) > 0)
        sha256_add(&h, piece, (size_t)n);
    sha256_end(&h, sum);
    sha256_hex(sum, out);
    if (fd >= 0) close(fd);
    free(piece);
    return n == 0 ? 0 : err_set(e, ERR_IO, "can't read the upload");
}

/* The sums that were said for the whole files. */
static int check_sums(struct uploads *u, const char *id, struct err *e)
{
    struct part_file f[FILES];
    if (parts_read(u->g, id, f, e)) return -1;
    for (int i = 0; i < FILES; i++) {
        char path[STORE_PATH_MAX], is[SHA256_HEX];
        if (!*f[i].sha256) continue;
        if (file_path(u->g, id, i, path, e) || hash_file(path, is, &u->stop, e)) return -1;
        if (strcmp(is, f[i].sha256) != 0)
            return err_field(e, ERR_INVALID, part_file_name[i], "the file %s has the SHA-256 %s, not %s as was said",
                             part_file_name[i], is, f[i].sha256);
    }
    return 0;
}

static int take_in(struct uploads *u, const struct upload_row *row, int *version, struct err *e)
{
    struct version_new v = {.validating = true, .into = row->version, .upload = row->id};
    struct actor by = {.key = row->by, .ip = "", .request = ""};
    char files[STORE_PATH_MAX];
    bool created;
    snprintf(v.name, sizeof v.name, "%s", row->adapter);
    if (path_of(u->g, row->id, "/files", files, e)) return -1;
    if (check_sums(u, row->id, e) || files_check(u->g, files, row->tenant, &v, NULL, e)) return -1;
    v.description = *row->description ? row->description : NULL;
    return files_keep(u, &by, files, &v, version, &created, e);
}

static void refuse(struct uploads *u, const struct upload_row *row, const struct err *why)
{
    char tensor[160];
    struct err e = {0};
    failed_tensor(why->msg, tensor);
    struct version_change x = {.from = 1u << VERSION_UPLOADING | 1u << VERSION_VALIDATING,
                               .to = VERSION_FAILED,
                               .code = err_info(why->code)->code ? err_info(why->code)->code : "failed",
                               .tensor = tensor,
                               .detail = why->msg,
                               .upload = row->id,
                               .max_error = -1};
    log_warn("upload_failed", LS("id", row->id), LS("adapter", row->adapter), LS("error", why->msg));
    if (registry_change_state(u->g->registry, &nobody, row->tenant, row->adapter, row->version, &x, &e) &&
        e.code != ERR_NOT_FOUND && e.code != ERR_CONFLICT)
        log_error("upload_state", LS("id", row->id), LS("error", e.msg));
}

/* Is it still to be done? The row is to be closed in any case. */
static bool is_wanted(struct uploads *u, struct intake *x, struct upload_row *row)
{
    if (registry_upload_get(u->g->registry, NULL, NULL, x->id, row, NULL) || strcmp(row->state, "validating") != 0)
        return false;
    x->v.version = row->version;
    memcpy(x->v.tenant, row->tenant, sizeof x->v.tenant);
    memcpy(x->v.name, row->adapter, sizeof x->v.name);
    return true;
}

/* Refused, or kept as version `is`; the folder goes. */
static void settle(struct uploads *u, const struct intake *x, const struct upload_row *row, const struct err *why, int is)
{
    enum version_state s;
    if (why) refuse(u, row, why);
    parts_discard(u->g, x->id);
    bool tests = !why && is == x->v.version &&
                 registry_state(u->g->registry, x->v.tenant, x->v.name, is, &s, NULL) && s == VERSION_VALIDATING;
    if (!tests) version_settled(u, &x->v, is); /* else the self-test says so */
}

static void run_intake(struct uploads *u, struct job *j);

/* On a thread for imports. */
static void run_fetch(struct uploads *u, struct job *j)
{
    struct intake *x = (struct intake *)j;
    struct upload_row row = {.version = 0};
    struct err e = {0};
    char files[STORE_PATH_MAX];
    if (!atomic_load(&u->stop)) {
        if (is_wanted(u, x, &row)) {
            parts_discard(u->g, x->id);
            x->fetched = path_of(u->g, x->id, "/files", files, &e) == 0 && parts_make(u->g, x->id, &e) == 0 &&
                         import_fetch(u->g, row.url, files, &u->stop, &e) == 0;
            if (!x->fetched && !atomic_load(&u->stop)) settle(u, x, &row, &e, x->v.version);
        } else {
            version_settled(u, &x->v, x->v.version);
        }
    }
    upload_row_close(&row);
    if (x->fetched) {
        x->job.run = run_intake;
        x->until_us = clock_mono_us() + TEST_FOR_MS * 1000LL;
        job_add(u, &x->job, 0);
    } else {
        free(x); /* at the stop: it goes on at the next start */
    }
}

/* true: the job is somebody else's now. */
static bool intake(struct uploads *u, struct intake *x, const struct upload_row *row)
{
    struct err e = {0};
    int version = 0;
    if (is_early(u, x)) {
        job_add(u, &x->job, TEST_AGAIN_MS);
        return true;
    }
    if (*row->url && !x->fetched) {
        x->job.run = run_fetch;
        imports_add(u, &x->job, x->v.tenant);
        return true;
    }
    int rc = take_in(u, row, &version, &e);
    if (rc && atomic_load(&u->stop)) return false; /* it goes on at the next start */
    settle(u, x, row, rc ? &e : NULL, rc ? x->v.version : version);
    return false;
}

static void run_intake(struct uploads *u, struct job *j)
{
    struct intake *x = (struct intake *)j;
    struct upload_row row = {.version = 0};
    bool passed_on = false;
    if (!atomic_load(&u->stop)) {
        if (is_wanted(u, x, &row))
            passed_on = intake(u, x, &row);
        else if (x->v.version)
            version_settled(u, &x->v, x->v.version); /* removed while it was fetched */
    }
    upload_row_close(&row);
    if (!passed_on) free(x);
}

void parts_queue(struct uploads *u, const char *id)
{
    struct intake *x = calloc(1, sizeof *x);
    if (!x) return; /* the row says validating: the next start takes it */
    x->job.run = run_intake;
    x->until_us = clock_mono_us() + TEST_FOR_MS * 1000LL;
    snprintf(x->id, sizeof x->id, "%s", id);
    job_add(u, &x->job, 0);
}

/* --- starting, expiring --- */

struct ids {
    char (*id)[UUID_LEN];
    size_t n, cap;
};

static int add_id(void *p, const char *id)
{
    struct ids *l = p;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        char(*more)[UUID_LEN] = realloc(l->id, cap * sizeof *more);
        if (!more) return -1;
        l->id = more;
        l->cap = cap;
    }
    snprintf(l->id[l->n++], UUID_LEN, "%s", id);
    return 0;
}

static int by_id(const void *a, const void *b)
{
    return strcmp(a, b);
}

static bool lives(void *p, const char *name)
{
    const struct ids *l = p;
    return l->n && bsearch(name, l->id, l->n, sizeof *l->id, by_id);
}

int parts_sweep(struct gateway *g, struct err *e)
{
    struct ids l = {.n = 0};
    int rc = registry_upload_each(g->registry, "open", 0, add_id, &l, e);
    if (l.n) qsort(l.id, l.n, sizeof *l.id, by_id);
    struct ids v = {.n = 0};
    if (rc == 0) rc = registry_upload_each(g->registry, "validating", 0, add_id, &v, e);
    for (size_t i = 0; rc == 0 && i < v.n; i++)
        rc = add_id(&l, v.id[i]) ? err_set(e, ERR_NO_MEMORY, "no memory for the uploads") : 0;
    if (l.n) qsort(l.id, l.n, sizeof *l.id, by_id);
    if (rc == 0) rc = store_clean_but(g->tmp, lives, &l, e);
    free(l.id);
    free(v.id);
    return rc;
}

void parts_start(struct uploads *u)
{
    struct ids l = {.n = 0};
    struct err e = {0};
    if (registry_upload_each(u->g->registry, "validating", 0, add_id, &l, &e))
        log_error("uploads_start", LS("error", e.msg));
    for (size_t i = 0; i < l.n; i++) parts_queue(u, l.id[i]);
    free(l.id);
}

static void collect_one(struct uploads *u, const char *id)
{
    struct upload_row row = {.version = 0};
    struct err e = {0};
    if (busy_take(u, id, NULL)) return; /* somebody begins it, or writes: the next look finds it */
    if (registry_upload_get(u->g->registry, NULL, NULL, id, &row, &e) && e.code == ERR_NOT_FOUND)
        parts_discard(u->g, id);
    upload_row_close(&row);
    busy_give(u, id);
}

void parts_collect(struct uploads *u)
{
    DIR *d = opendir(u->g->tmp);
    for (struct dirent *i; d && (i = readdir(d));)
        if (uuid_is(i->d_name)) collect_one(u, i->d_name);
    if (d) closedir(d);
}

void parts_expire(struct uploads *u)
{
    struct ids l = {.n = 0};
    struct err e = {0};
    if (registry_upload_each(u->g->registry, NULL, clock_wall_us(), add_id, &l, &e))
        log_error("uploads_expire", LS("error", e.msg));
    for (size_t i = 0; i < l.n; i++) {
        struct err why = {0};
        if (busy_take(u, l.id[i], NULL)) continue;
        if (registry_upload_drop(u->g->registry, NULL, l.id[i], &why) == 0)
            parts_discard(u->g, l.id[i]);
        else if (why.code != ERR_CONFLICT && why.code != ERR_NOT_FOUND)
            log_error("upload_expire", LS("id", l.id[i]), LS("error", why.msg));
        busy_give(u, l.id[i]);
    }
    free(l.id);
}
