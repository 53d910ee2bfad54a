/* upkeep: the thread that archives and backs up (see upkeep.h).
 *
 *     POST /admin/v1/backups -> reserved --audit row committed--> waiting -> running -> (complete: a folder) | failed (kept until eight later ones)
 *     POST .../verify        -> audit row -> a place in the queue -> verified.json in the folder
 *     every hour             -> ledger_archive()
 *     every look             -> captures that have expired are unlinked
 *
 * A folder is the truth about what is complete; memory knows what is under way and what failed. The thread has a low priority, and what it calls
 * rests between its steps: requests go first. `lock` covers all of the struct but the folder's name; nothing is called under it. */
#include "gateway/backup/upkeep.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/backup/backup.h"
#include "gateway/capture/capture.h"
#include "gateway/ledger/ledger_archive.h"
#include "gateway/live/event.h"
#include "gateway/observe/meters.h"
#include "gateway/settings.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define ARCHIVE_EVERY_S 3600
#define LOOK_S 30 /* between looks at what is due */
#define FAILED_MAX 8
#define NICE 10

enum phase { IDLE, RESERVED, WAITING, RUNNING };

/* What fails until it is done again and does not. */
enum task { TASK_BACKUP, TASK_VERIFY, TASK_ARCHIVE, TASKS };
static const char *const task_name[TASKS] = {"backup", "backup_verify", "archive"};

struct failure {
    char id[BACKUP_ID_LEN], why[200];
    int64_t at_s;
};

struct upkeep {
    struct gateway *g;
    char dir[BACKUP_PATH_MAX];
    pthread_t thread;
    bool runs;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    _Atomic bool stop;

    enum phase making;
    char id[BACKUP_ID_LEN]; /* of the one that is being made */
    int64_t begun_s;
    bool verify_it;
    char queue[UPKEEP_QUEUE][BACKUP_ID_LEN], verifying[BACKUP_ID_LEN]; /* verifying: "" none */
    int queued;
    struct failure failed[FAILED_MAX];
    int nfailed;
    int64_t archive_us; /* monotonic: the next pass */
    int64_t last_s;     /* newest complete backup */
    int64_t tried_s;    /* the last that was due, whatever became of it */
    _Atomic bool failing[TASKS];
};

static int64_t now_s(void) { return clock_wall_us() / 1000000; }

static bool is_stopping(void *u) { return ((struct upkeep *)u)->stop; }

/* --- as JSON --- */

static bool is_verifying(const struct upkeep *u, const char *id)
{
    bool is = strcmp(u->verifying, id) == 0;
    for (int i = 0; i < u->queued; i++) is |= strcmp(u->queue[i], id) == 0;
    return is;
}

/* One that is no folder yet, or never became one. */
static json_t *unfinished(const char *id, const char *state, int64_t at_s, const char *why)
{
    return json_pack("{ss ss ss sI ss? sb sn sn sn sn sn sn sn sn sn sn}", "object", "backup", "id", id, "state", state, "created_at", (json_int_t)at_s,
                     "error", why, "verifying", 0, "verification", "program", "schema", "files", "bytes", "linked_bytes", "adapters", "archived_months",
                     "took_ms", "sha256");
}

static json_t *making_json(const struct upkeep *u)
{
    return unfinished(u->id, u->making == RUNNING ? "running" : "waiting", u->begun_s, NULL);
}

/* Under the lock; NULL: it did not fail. */
static struct failure *failure_of(struct upkeep *u, const char *id)
{
    for (int i = 0; i < u->nfailed; i++)
        if (strcmp(u->failed[i].id, id) == 0) return &u->failed[i];
    return NULL;
}

static void forget_failure(struct upkeep *u, const char *id)
{
    pthread_mutex_lock(&u->lock);
    struct failure *f = failure_of(u, id), *end = u->failed + u->nfailed;
    if (f) {
        memmove(f, f + 1, (size_t)(end - f - 1) * sizeof *f);
        u->nfailed--;
    }
    pthread_mutex_unlock(&u->lock);
}

/* Under the lock; NULL: it is neither under way nor did it fail. */
static json_t *remembered(struct upkeep *u, const char *id)
{
    if (u->making > RESERVED && strcmp(u->id, id) == 0) return making_json(u);
    struct failure *f = failure_of(u, id);
    return f ? unfinished(id, "failed", f->at_s, f->why) : NULL;
}

static void complete(struct upkeep *u, json_t *o)
{
    const char *id = json_string_value(json_object_get(o, "id"));
    json_object_set_new(o, "error", json_null());
    pthread_mutex_lock(&u->lock);
    json_object_set_new(o, "verifying", json_boolean(is_verifying(u, id)));
    pthread_mutex_unlock(&u->lock);
}

int upkeep_get(struct upkeep *u, const char *id, json_t **out, struct err *e)
{
    json_t *o = NULL;
    pthread_mutex_lock(&u->lock);
    o = remembered(u, id);
    pthread_mutex_unlock(&u->lock);
    if (!o && backup_get(u->dir, id, &o, e)) return -1;
    if (strcmp(json_string_value(json_object_get(o, "state")), "complete") == 0) complete(u, o);
    *out = o;
    return 0;
}

static int by_id(const void *a, const void *b)
{
    const json_t *const *x = a, *const *y = b;
    return strcmp(json_string_value(json_object_get(*y, "id")), json_string_value(json_object_get(*x, "id")));
}

/* All there are, newest first; the array owns a reference to each. */
static int gather(struct upkeep *u, json_t *all, struct err *e)
{
    if (backup_list(u->dir, all, e)) return -1;
    pthread_mutex_lock(&u->lock);
    if (u->making > RESERVED) json_array_append_new(all, making_json(u));
    for (int i = 0; i < u->nfailed; i++)
        json_array_append_new(all, unfinished(u->failed[i].id, "failed", u->failed[i].at_s, u->failed[i].why));
    pthread_mutex_unlock(&u->lock);
    return 0;
}

/* The items that the page asks for: [*from, *to) of n sorted ones. */
static void cut(const struct page *p, json_t *const *v, int n, int *from, int *to, bool *more)
{
    const char *cursor = page_cursor(p);
    int at = 0;
    while (at < n && *cursor && strcmp(json_string_value(json_object_get(v[at], "id")), cursor) > 0) at++;
    bool there = at < n && *cursor && strcmp(json_string_value(json_object_get(v[at], "id")), cursor) == 0;
    if (page_back(p)) {
        *to = at;
        *from = at > p->limit ? at - p->limit : 0;
        *more = *from > 0;
    } else {
        *from = at + there;
        *to = *from + p->limit < n ? *from + p->limit : n;
        *more = *to < n;
    }
}

int upkeep_list(struct upkeep *u, const struct page *p, json_t *list, bool *more, struct err *e)
{
    json_t *all = json_array();
    int n = 0, from = 0, to = 0, rc = gather(u, all, e);
    json_t **v = rc ? NULL : calloc(json_array_size(all) + 1, sizeof(json_t *));
    if (!rc && !v) rc = err_set(e, ERR_NO_MEMORY, "no memory for a list of backups");
    for (size_t i = 0; !rc && i < json_array_size(all); i++) v[n++] = json_array_get(all, i);
    if (n) qsort(v, (size_t)n, sizeof *v, by_id);
    if (!rc) cut(p, v, n, &from, &to, more);
    for (int i = from; i < to; i++) {
        if (strcmp(json_string_value(json_object_get(v[i], "state")), "complete") == 0) complete(u, v[i]);
        json_array_append(list, v[i]);
    }
    free(v);
    json_decref(all);
    return rc;
}

/* Reads a small file of each. */
static void find_last(struct upkeep *u)
{
    json_t *list = json_array();
    int rc = backup_list(u->dir, list, NULL);
    int64_t s = json_integer_value(json_object_get(json_array_get(list, 0), "created_at"));
    pthread_mutex_lock(&u->lock);
    if (rc == 0) u->last_s = s;
    pthread_mutex_unlock(&u->lock);
    json_decref(list);
}

int64_t upkeep_last_backup(struct upkeep *u)
{
    pthread_mutex_lock(&u->lock);
    int64_t s = u->last_s;
    pthread_mutex_unlock(&u->lock);
    return s;
}

void upkeep_meter(struct upkeep *u, struct metrics *m)
{
    int64_t last = upkeep_last_backup(u), age = now_s() - last;
    metric_clear(m, GM_BACKUP_AGE);
    if (last) metric_set(m, GM_BACKUP_AGE, NULL, age > 0 ? (double)age : 0);
    for (int i = 0; i < TASKS; i++) metric_set(m, GM_UPKEEP_FAILING, (const char *[]){task_name[i]}, u->failing[i]);
}

/* --- asked for --- */

struct wish {
    const struct actor *by;
    const char *action, *id;
    json_t *answer; /* NULL: a change that is answered 200 and not kept */
};

static int run_note(struct db *d, sqlite3 *c, void *x, struct err *e)
{
    struct wish *w = x;
    if (audit_add(d, c, &(struct audit){w->by, w->action, w->id, NULL, NULL}, e)) return -1;
    return w->answer ? once_keep(d, c, w->by, 202, w->answer, e) : 0;
}

static int reserve(struct upkeep *u, bool verify, struct err *e)
{
    char id[BACKUP_ID_LEN];
    backup_new_id(u->dir, clock_wall_us(), id);
    pthread_mutex_lock(&u->lock);
    bool is_free = u->making == IDLE;
    if (is_free) {
        u->making = RESERVED;
        u->begun_s = now_s();
        u->verify_it = verify;
        memcpy(u->id, id, sizeof u->id);
    }
    pthread_mutex_unlock(&u->lock);
    return is_free ? 0 : err_set(e, ERR_CONFLICT, "A backup is being made.");
}

static void set_phase(struct upkeep *u, enum phase phase)
{
    pthread_mutex_lock(&u->lock);
    u->making = phase;
    pthread_cond_signal(&u->wake);
    pthread_mutex_unlock(&u->lock);
}

int upkeep_backup(struct upkeep *u, const struct actor *by, bool verify, json_t **out, struct err *e)
{
    if (reserve(u, verify, e)) return -1;
    json_t *o = making_json(u); /* whose id and time nobody changes now */
    struct wish w = {by, "backup.create", u->id, o};
    if (!o || db_write_wait(u->g->db, run_note, &w, e)) {
        set_phase(u, IDLE);
        json_decref(o);
        return o ? -1 : err_set(e, ERR_NO_MEMORY, "no memory for a backup");
    }
    set_phase(u, WAITING);
    *out = o;
    return 0;
}

static int enqueue(struct upkeep *u, const char *id, struct err *e)
{
    pthread_mutex_lock(&u->lock);
    bool there = is_verifying(u, id), fits = u->queued < UPKEEP_QUEUE;
    if (!there && fits) snprintf(u->queue[u->queued++], BACKUP_ID_LEN, "%s", id);
    pthread_cond_signal(&u->wake);
    pthread_mutex_unlock(&u->lock);
    return there || fits ? 0 : err_set(e, ERR_QUEUE_FULL, "%d verifications wait; try again", UPKEEP_QUEUE);
}

int upkeep_verify(struct upkeep *u, const struct actor *by, const char *id, json_t **out, struct err *e)
{
    json_t *o;
    if (backup_get(u->dir, id, &o, e)) return -1;
    complete(u, o);
    json_object_set_new(o, "verifying", json_true());
    struct wish w = {by, "backup.verify", id, o};
    if (db_write_wait(u->g->db, run_note, &w, e) || enqueue(u, id, e)) {
        json_decref(o);
        return -1;
    }
    *out = o;
    return 0;
}

int upkeep_remove(struct upkeep *u, const struct actor *by, const char *id, json_t **out, struct err *e)
{
    json_t *o;
    pthread_mutex_lock(&u->lock);
    bool busy = is_verifying(u, id) || u->making == RUNNING; /* the one that is being made links to it */
    busy |= u->making == WAITING && strcmp(u->id, id) == 0;
    bool failed = failure_of(u, id) != NULL;
    pthread_mutex_unlock(&u->lock);
    if (!busy && !failed) {
        if (backup_get(u->dir, id, &o, e)) return -1;
        json_decref(o);
    }
    if (busy) return err_set(e, ERR_CONFLICT, "A backup is being made, or this one verified; try again after it.");
    struct wish w = {by, "backup.delete", id, NULL};
    if (db_write_wait(u->g->db, run_note, &w, e) || (failed ? 0 : backup_remove(u->dir, id, e))) return -1;
    if (failed) forget_failure(u, id);
    find_last(u);
    *out = json_pack("{ss ss sb}", "id", id, "object", "backup", "deleted", 1);
    return 0;
}

/* --- done --- */

static void note_failure(struct upkeep *u, const char *id, const char *type, const struct err *e)
{
    log_error("upkeep_failed", LS("what", type), LS("id", id), LS("reason", e->msg));
    event_note(u->g->db, "", type, id, json_pack("{ss}", "reason", e->msg));
}

static void remember_failure(struct upkeep *u, const char *id, int64_t at_s, const struct err *e)
{
    pthread_mutex_lock(&u->lock);
    if (u->nfailed == FAILED_MAX) memmove(u->failed, u->failed + 1, sizeof *u->failed * (size_t)--u->nfailed);
    struct failure *f = &u->failed[u->nfailed++];
    *f = (struct failure){.at_s = at_s};
    memcpy(f->id, id, sizeof f->id);
    snprintf(f->why, sizeof f->why, "%.199s", e->msg);
    pthread_mutex_unlock(&u->lock);
}

static void tell_made(struct upkeep *u, const char *id, const json_t *o)
{
    int64_t bytes = json_integer_value(json_object_get(o, "bytes")), ms = json_integer_value(json_object_get(o, "took_ms"));
    const char *sha256 = json_string_value(json_object_get(o, "sha256"));
    log_info("backup_made", LS("id", id), LI("bytes", bytes), LI("ms", ms), LS("sha256", sha256));
    event_note(u->g->db, "", "backup.complete", id, json_pack("{sI ss}", "bytes", (json_int_t)bytes, "sha256", sha256));
}

static void make(struct upkeep *u)
{
    struct err e = {0}, late = {0};
    char id[BACKUP_ID_LEN];
    json_t *o = NULL;
    memcpy(id, u->id, sizeof id);
    set_phase(u, RUNNING);
    int rc = backup_make(u->g->db, u->dir, id, &(struct stopper){is_stopping, u}, &o, &e);
    if (rc) {
        u->failing[TASK_BACKUP] = !u->stop;
        note_failure(u, id, "backup.failed", &e);
        remember_failure(u, id, u->begun_s, &e);
    } else {
        u->failing[TASK_BACKUP] = false;
        tell_made(u, id, o);
        if (backup_retain(u->dir, (int)settings_now(u->g->settings)->backup_keep, &late)) note_failure(u, id, "backup.failed", &late);
    }
    bool verify = !rc && u->verify_it;
    find_last(u);
    pthread_mutex_lock(&u->lock);
    u->making = IDLE;
    pthread_mutex_unlock(&u->lock);
    if (verify) enqueue(u, id, NULL);
    json_decref(o);
}

static void verify(struct upkeep *u)
{
    struct backup_check x;
    struct err e = {0};
    int rc = backup_verify(u->dir, u->verifying, &(struct stopper){is_stopping, u}, &x, &e);
    if (rc == 0 && !x.good) err_set(&e, ERR_CONFLICT, "%s", x.why);
    u->failing[TASK_VERIFY] = e.code && !u->stop;
    if (e.code && !u->stop) note_failure(u, u->verifying, rc ? "backup.not_verified" : "backup.bad", &e);
    pthread_mutex_lock(&u->lock);
    u->verifying[0] = 0;
    pthread_mutex_unlock(&u->lock);
}

static void archive(struct upkeep *u)
{
    const struct settings *set = settings_now(u->g->settings);
    struct archive_options o = {.months = (int)set->archive_months, .keep_months = (int)set->archive_keep_months, .now_us = clock_wall_us(),
                                .stop = is_stopping, .user = u};
    struct archive_pass pass;
    int rc = ledger_archive(u->g->ledger, &o, &pass, NULL); /* which has told what went wrong, and is asked again */
    u->failing[TASK_ARCHIVE] = rc && !u->stop;
    u->archive_us = clock_mono_us() + ARCHIVE_EVERY_S * 1000000ll;
}

/* --- the thread --- */

static bool is_backup_due(struct upkeep *u)
{
    int64_t every_s = settings_now(u->g->settings)->backup_every_h * 3600;
    int64_t last_s = u->last_s > u->tried_s ? u->last_s : u->tried_s;
    return every_s && u->making == IDLE && now_s() - last_s >= every_s;
}

static void nap(struct upkeep *u)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += LOOK_S;
    pthread_cond_timedwait(&u->wake, &u->lock, &t);
}

/* One that failed is tried again after as long as one that was made. */
static void begin_due(struct upkeep *u)
{
    static const struct actor us = {.key = "system", .ip = "", .request = ""};
    struct err e = {0};
    json_t *o = NULL;
    if (upkeep_backup(u, &us, true, &o, &e)) {
        if (e.code != ERR_CONFLICT) u->failing[TASK_BACKUP] = true;
        note_failure(u, "", "backup.failed", &e);
    }
    json_decref(o);
    pthread_mutex_lock(&u->lock);
    u->tried_s = now_s();
    pthread_mutex_unlock(&u->lock);
}

static void step(struct upkeep *u)
{
    pthread_mutex_lock(&u->lock);
    bool made = u->making == WAITING, checked = !made && u->queued > 0, due = is_backup_due(u), late = clock_mono_us() >= u->archive_us;
    if (checked) {
        memcpy(u->verifying, u->queue[0], sizeof u->verifying);
        memmove(u->queue, u->queue + 1, sizeof *u->queue * (size_t)--u->queued);
    }
    if (!made && !checked && !due && !late && !u->stop) nap(u);
    pthread_mutex_unlock(&u->lock);
    captures_expire(u->g->captures, now_s());
    if (made) make(u);
    else if (checked) verify(u);
    else if (late) archive(u);
    else if (due) begin_due(u);
}

static void *main_of(void *x)
{
    struct upkeep *u = x;
    setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
    while (!u->stop) step(u);
    return NULL;
}

/* The thread begins at once: with the archives, then what is due. */
int upkeep_open(struct upkeep **out, struct gateway *g, struct err *e)
{
    struct upkeep *u = calloc(1, sizeof *u);
    pthread_condattr_t mono;
    if (!u) return err_set(e, ERR_NO_MEMORY, "no memory for the upkeep");
    u->g = g;
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->wake, &mono);
    pthread_condattr_destroy(&mono);
    const char *dir = settings_now(g->settings)->backup_dir;
    int n = snprintf(u->dir, sizeof u->dir, *dir ? "%s" : "%s/backup", *dir ? dir : db_dir(g->db));
    int rc = n >= (int)sizeof u->dir ? err_set(e, ERR_USAGE, "backup_dir is too long") : backup_open(u->dir, e);
    if (rc == 0) find_last(u);
    if (rc == 0 && !(u->runs = pthread_create(&u->thread, NULL, main_of, u) == 0)) rc = err_set(e, ERR_NO_MEMORY, "no thread for the upkeep");
    if (rc) upkeep_close(u);
    else *out = u;
    return rc;
}

void upkeep_close(struct upkeep *u)
{
    if (!u) return;
    u->stop = true;
    pthread_mutex_lock(&u->lock);
    pthread_cond_signal(&u->wake);
    pthread_mutex_unlock(&u->lock);
    if (u->runs) pthread_join(u->thread, NULL);
    pthread_mutex_destroy(&u->lock);
    pthread_cond_destroy(&u->wake);
    free(u);
}
