/* export_files: scheduled exports, on one thread (see export_files.h).
 *
 *     every LOOK_S, or woken:  for each enabled schedule:  is its next period over and final?  -- no --> next schedule
 *                                                              | yes
 *       is its file there, whole, with its manifest? -- yes --.|
 *                 | no                                         |
 *       NAME/PERIOD.tmp: rows -> text -> disk, fsync           |
 *       -> rename -> manifest.tmp, fsync -> rename -> fsync of the folder -> done_until moves (a transaction) -> again
 *
 * A period is final when ledger_final_before() lies behind its end: then no row of it can appear any more, and a file that is written again has the
 * same bytes. So it does not matter at which of these steps the process dies: there is one file for each period, and it is whole. Periods that were
 * missed while the gateway was down are caught up, each schedule one file in turn. A file that is not ours (another schedule's of the same name) is
 * never overwritten: the schedule says so and waits. A month whose rows were removed by archive_keep_months is an error too, not an empty file: that is
 * looked at before the rows are read and again behind the last of them, for a month may go between two slices.
 *
 * What fails (a full disk, a folder that can't be written) is kept in the row, told as an event once, and tried again after RETRY_S. Files reach the
 * disk in pieces of SYNC_BYTES, so that the ledger's own fsyncs don't wait behind gigabytes. Low priority, bounded memory. */
#include "gateway/export/export_files.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/export/export_schedule.h"
#include "gateway/export/export_world.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/settings.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOOK_S 5
#define RETRY_S 60
#define SLICE_ROWS 4096
#define TRIES 5 /* reads that time out in a row without a row */
#define SYNC_BYTES (8 << 20)
#define NICE 10
#define PATH_LEN 1200
#define MANIFEST_MAX 65536
#define HASH_PIECE 65536

struct export_files {
    struct gateway *g;
    struct export_world *world;
    char *memory; /* of EXPORT_MEMORY */
    char dir[768];
    pthread_t thread;
    pthread_mutex_t lock; /* woken */
    pthread_cond_t wake;
    bool woken, started;
    _Atomic bool stop;
    _Atomic int64_t due_s; /* when the first of all next periods ends; 0: no schedule is enabled */
    struct schedule list[SCHEDULES_MAX];
};

/* One period's file. */
struct file {
    struct export_files *x;
    const struct schedule *s;
    int64_t start, end;
    char folder[900], name[64], path[PATH_LEN], tmp[PATH_LEN], manifest[PATH_LEN];
    int fd;
    int64_t bytes, unsynced;
    struct sha256 hash;
    char sha256[SHA256_HEX];
    struct export_writer w;
};

/* --- names --- */

static void name_period(const struct schedule *s, int64_t start, char out[64])
{
    static const char *const format[EVERY_KINDS] = {"%Y-%m-%dT%H", "%Y-%m-%d", "%Y-%m"};
    time_t t = (time_t)start;
    struct tm tm = {0};
    char period[24];
    gmtime_r(&t, &tm);
    strftime(period, sizeof period, format[s->every], &tm);
    snprintf(out, 64, "%s.%s", period, export_kinds[s->format].extension);
}

static int name_file(struct file *f, struct err *e)
{
    name_period(f->s, f->start, f->name);
    bool fits = snprintf(f->folder, sizeof f->folder, "%s/%s", f->x->dir, f->s->name) < (int)sizeof f->folder &&
                snprintf(f->path, sizeof f->path, "%s/%s", f->folder, f->name) < PATH_LEN &&
                snprintf(f->tmp, sizeof f->tmp, "%s.tmp", f->path) < PATH_LEN &&
                snprintf(f->manifest, sizeof f->manifest, "%s.manifest.json", f->path) < PATH_LEN;
    return fits ? 0 : err_set(e, ERR_IO, "the path of %s is too long", f->name);
}

static int make_folder(const char *path, struct err *e)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST) return 0;
    return err_errno(e, "folder %s", path);
}

/* --- is it there already? --- */

static int read_small(const char *path, struct buf *out)
{
    char piece[4096];
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -1;
    while ((n = read(fd, piece, sizeof piece)) > 0)
        if (buf_add(out, piece, (size_t)n)) break;
    close(fd);
    return n ? -1 : 0;
}

static int hash_file(const char *path, char out[SHA256_HEX], int64_t *bytes)
{
    char piece[HASH_PIECE];
    uint8_t digest[SHA256_BYTES];
    struct sha256 h;
    ssize_t n = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return -1;
    sha256_init(&h);
    for (*bytes = 0; (n = read(fd, piece, sizeof piece)) > 0; *bytes += n) sha256_add(&h, piece, (size_t)n);
    close(fd);
    sha256_end(&h, digest);
    sha256_hex(digest, out);
    return n ? -1 : 0;
}

static bool says(const json_t *manifest, const char *field, const char *word)
{
    const char *s = json_string_value(json_object_get(manifest, field));
    return s && strcmp(s, word) == 0;
}

/* 1: ours and whole; 0: not there, or not whole; -1: another's. */
static int look_at(const struct file *f, const json_t *manifest, struct err *e)
{
    char sha256[SHA256_HEX];
    int64_t bytes;
    if (!says(manifest, "schedule_id", f->s->id))
        return err_set(e, ERR_CONFLICT, "%s/%s was written by another schedule; move it away", f->s->name, f->name);
    return hash_file(f->path, sha256, &bytes) == 0 && says(manifest, "sha256", sha256) &&
           json_integer_value(json_object_get(manifest, "bytes")) == bytes;
}

static int is_there(const struct file *f, struct err *e)
{
    struct buf text;
    json_t *manifest = NULL;
    buf_init(&text, MANIFEST_MAX);
    int rc = 0;
    if (read_small(f->manifest, &text) == 0 && json_parse(text.data, text.len, &manifest, NULL) == 0) rc = look_at(f, manifest, e);
    json_decref(manifest);
    buf_close(&text);
    return rc;
}

/* --- writing --- */

static int flush(struct file *f, struct err *e)
{
    for (size_t done = 0; done < f->w.len;) {
        ssize_t n = write(f->fd, f->w.out + done, f->w.len - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_errno(e, "%s", f->tmp);
        done += (size_t)n;
    }
    sha256_add(&f->hash, f->w.out, f->w.len);
    f->bytes += (int64_t)f->w.len;
    f->unsynced += (int64_t)f->w.len;
    f->w.len = 0;
    if (f->unsynced < SYNC_BYTES) return 0;
    f->unsynced = 0;
    return fdatasync(f->fd) ? err_errno(e, "%s", f->tmp) : 0;
}

static int write_rows(struct file *f, struct err *e)
{
    struct rows_query q = {.tenant = *f->s->tenant ? f->s->tenant : NULL, .start = f->start, .end = f->end};
    struct rows_cursor at = {0};
    bool more = true;
    export_head(&f->w);
    for (int tries = 0; more;) {
        struct err now = {0};
        int64_t before = f->w.sums.lines;
        if (f->x->stop) return err_set(e, ERR_UNAVAILABLE, "the gateway stops");
        int rc = ledger_rows(f->x->g->ledger, &q, &at, SLICE_ROWS, export_row, &f->w, &more, &now);
        tries = f->w.sums.lines > before ? 0 : tries + 1;
        bool again = rc && (f->w.full || (now.code == ERR_DEADLINE && tries < TRIES));
        if (rc && !again) return err_set(e, now.code, "%s", now.msg);
        f->w.full = false;
        more = again || more;
        if (flush(f, e)) return -1;
    }
    return 0;
}

static int sync_and_rename(int fd, const char *from, const char *to, struct err *e)
{
    if (fsync(fd) || rename(from, to)) return err_errno(e, "%s", to);
    return 0;
}

/* Months of the period whose rows are gone, all or some. */
static int check_removed(const struct file *f, struct err *e)
{
    struct rows_gone gone;
    if (ledger_rows_gone(f->x->g->ledger, month_of(f->start * 1000000), month_of((f->end - 1) * 1000000), &gone, e)) return -1;
    return gone.months ? err_set(e, ERR_GONE, "the rows of the month %06d were removed (archive_keep_months)", gone.first) : 0;
}

static int write_data(struct file *f, struct err *e)
{
    uint8_t digest[SHA256_BYTES];
    f->fd = open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (f->fd < 0) return err_errno(e, "%s", f->tmp);
    sha256_init(&f->hash);
    int rc = write_rows(f, e) || check_removed(f, e) || sync_and_rename(f->fd, f->tmp, f->path, e) ? -1 : 0;
    close(f->fd);
    if (rc) unlink(f->tmp); /* a full disk gets its room back */
    sha256_end(&f->hash, digest);
    sha256_hex(digest, f->sha256);
    return rc;
}

static json_t *manifest_of(const struct file *f)
{
    const struct export_sums *s = &f->w.sums;
    bool all = !*f->s->tenant;
    return json_pack("{ss ss ss so ss sI sI ss sI ss sI sI sI sI sI sI sI sI ss so so sI}", "object", "export.manifest", "schedule", f->s->name,
                     "schedule_id", f->s->id, "tenant", all ? json_null() : json_string(f->s->tenant_name), "format", export_kinds[f->s->format].word,
                     "start_time", (json_int_t)f->start, "end_time", (json_int_t)f->end, "file", f->name, "bytes", (json_int_t)f->bytes, "sha256",
                     f->sha256, "lines", (json_int_t)s->lines, "requests", (json_int_t)s->requests, "adjustments", (json_int_t)s->adjustments,
                     "input_tokens", (json_int_t)s->input, "input_cached_tokens", (json_int_t)s->cached, "output_tokens", (json_int_t)s->output,
                     "produced_tokens", (json_int_t)s->produced, "cost_nano", (json_int_t)s->cost, "currency", world_currency(f->x->world), "first_id",
                     *s->first ? json_string(s->first) : json_null(), "last_id", *s->last ? json_string(s->last) : json_null(), "written_at",
                     (json_int_t)(clock_wall_us() / 1000000));
}

static int write_manifest(struct file *f, struct err *e)
{
    struct buf text;
    json_t *o = manifest_of(f);
    buf_init(&text, MANIFEST_MAX);
    int rc = !o || json_dump(o, false, &text) || buf_addc(&text, '\n') ? err_set(e, ERR_NO_MEMORY, "no memory for a manifest") : 0;
    int fd = rc ? -1 : open(f->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (rc == 0 && (fd < 0 || write(fd, text.data, text.len) != (ssize_t)text.len)) rc = err_errno(e, "%s", f->tmp);
    if (rc == 0) rc = sync_and_rename(fd, f->tmp, f->manifest, e);
    if (fd >= 0) close(fd);
    buf_close(&text);
    json_decref(o);
    return rc;
}

static int sync_folder(const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = fd < 0 ? -1 : fsync(fd);
    if (fd >= 0) close(fd);
    return rc ? err_errno(e, "folder %s", path) : 0;
}

/* --- one period --- */

static int write_period(struct export_files *x, const struct schedule *s, int64_t end, struct err *e)
{
    struct file f = {.x = x, .s = s, .start = s->done_until, .end = end};
    if (name_file(&f, e) || make_folder(x->dir, e) || make_folder(f.folder, e)) return -1;
    int there = is_there(&f, e);
    if (there) return there < 0 ? -1 : 0;
    export_begin(&f.w, s->format, x->world, x->memory, EXPORT_MEMORY);
    if (check_removed(&f, e) || write_data(&f, e) || write_manifest(&f, e) || sync_folder(f.folder, e) || sync_folder(x->dir, e)) return -1;
    log_info("export_written", LS("schedule", s->name), LS("file", f.name), LI("rows", f.w.sums.requests + f.w.sums.adjustments), LI("bytes", f.bytes));
    return 0;
}

/* true: a file was written, so there may be another. */
static bool serve(struct export_files *x, const struct schedule *s, int64_t final_us)
{
    struct err e = {0};
    int64_t end = schedule_end(s->every, s->done_until);
    if (end * 1000000 > final_us) return false;
    int64_t since = clock_wall_us() - s->last_run; /* below 0: the clock was set back meanwhile */
    if (s->failing && since >= 0 && since < RETRY_S * 1000000ll) return false;
    if (write_period(x, s, end, &e) == 0 && schedule_done(x->g->db, s, end, &e) == 0) return true;
    if (x->stop) return false;
    log_error("export_failed", LS("schedule", s->name), LS("error", e.msg));
    schedule_failed(x->g->db, s, e.msg, NULL);
    return false;
}

static void note_due(struct export_files *x, int n)
{
    int64_t due = 0;
    for (int i = 0; i < n; i++) {
        int64_t end = schedule_end(x->list[i].every, x->list[i].done_until);
        if (!due || end < due) due = end;
    }
    x->due_s = due;
}

int64_t export_files_behind(const struct export_files *x)
{
    int64_t due = x->due_s, now = clock_wall_us() / 1000000;
    return due && now > due ? now - due : 0;
}

/* Each schedule's next file, where it is due. */
static bool look(struct export_files *x)
{
    struct err e = {0};
    char id[UUID_LEN];
    int64_t final_us;
    bool some = false;
    int n = schedules_enabled(x->g->db, x->list, &e);
    if (n >= 0) note_due(x, n);
    if (n <= 0 || ledger_final_before(x->g->ledger, id, &final_us, &e)) return false;
    for (int i = 0; i < n && !x->stop; i++) some |= serve(x, &x->list[i], final_us);
    return some;
}

/* --- the thread --- */

static void rest(struct export_files *x)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LOOK_S;
    pthread_mutex_lock(&x->lock);
    for (int rc = 0; !x->woken && !x->stop && rc == 0;) rc = pthread_cond_timedwait(&x->wake, &x->lock, &until);
    x->woken = false;
    pthread_mutex_unlock(&x->lock);
}

static void *files_main(void *u)
{
    struct export_files *x = u;
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    while (!x->stop)
        if (!look(x)) rest(x);
    return NULL;
}

void export_files_wake(struct export_files *x)
{
    pthread_mutex_lock(&x->lock);
    x->woken = true;
    pthread_cond_signal(&x->wake);
    pthread_mutex_unlock(&x->lock);
}

int export_files_open(struct export_files **out, struct gateway *g, struct err *e)
{
    const struct settings *set = g->set;
    struct export_files *x = calloc(1, sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory for scheduled exports");
    x->g = g;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->wake, NULL);
    *out = x;
    if (*set->export_dir) snprintf(x->dir, sizeof x->dir, "%s", set->export_dir);
    else snprintf(x->dir, sizeof x->dir, "%s/exports", db_dir(g->db));
    x->memory = malloc(EXPORT_MEMORY);
    if (!x->memory) return err_set(e, ERR_NO_MEMORY, "no memory for scheduled exports");
    if (export_world_new(&x->world, g->db, g->prices, set->currency, set->provider_name, e)) return -1;
    if (pthread_create(&x->thread, NULL, files_main, x)) return err_set(e, ERR_NO_MEMORY, "no thread for scheduled exports");
    x->started = true;
    return 0;
}

void export_files_close(struct export_files *x)
{
    if (!x) return;
    x->stop = true;
    export_files_wake(x);
    if (x->started) pthread_join(x->thread, NULL);
    export_world_free(x->world);
    free(x->memory);
    pthread_cond_destroy(&x->wake);
    pthread_mutex_destroy(&x->lock);
    free(x);
}
