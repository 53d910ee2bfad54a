/* webhook_rows: rows of webhooks as the sending thread keeps them, and how it writes down what it did.
 *
 * A row is taken over only while its webhook is idle, and only when its revision is another than the one that is known: what the thread
 * itself writes raises none. Every write asks for the revision that is known (h->changed: it was still so). So a change by the API and the end
 * of a batch never mix: whichever comes second sees the other.
 *
 * The hook_run_*() are jobs of the writer on a hook in the phase SAVING, which nobody else touches meanwhile. Writes are not durable ones:
 * they outlive the process, and after a loss of power a batch is sent again, which its receiver knows by the ids. */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/live/event.h"
#include "gateway/webhook/webhook_impl.h"
#include <stdlib.h>
#include <string.h>

#define LOAD_MS 5000

/* --- reading --- */

static struct hook *find_hook(struct webhooks *w, const char *id)
{
    struct hook *h = w->hooks;
    while (h && strcmp(h->id, id) != 0) h = h->next;
    return h;
}

static struct hook *hook_new(struct webhooks *w, const char *id)
{
    struct hook *h = w->nhooks < WEBHOOK_MAX ? calloc(1, sizeof *h) : NULL;
    if (!h) return NULL;
    snprintf(h->id, sizeof h->id, "%s", id);
    h->all = w;
    h->next = w->hooks;
    w->hooks = h;
    w->nhooks++;
    return h;
}

static enum hook_state state_of(const char *word)
{
    int i = HOOK_STATES - 1;
    while (i > 0 && strcmp(word, hook_state_name[i]) != 0) i--;
    return (enum hook_state)i;
}

static int take_row(struct db *d, struct hook *h, sqlite3_stmt *st, struct err *e)
{
    snprintf(h->tenant, sizeof h->tenant, "%s", db_text(st, 1));
    snprintf(h->name, sizeof h->name, "%s", db_text(st, 2));
    snprintf(h->url, sizeof h->url, "%s", db_text(st, 3));
    snprintf(h->events, sizeof h->events, "%s", db_text(st, 6));
    h->usage = sqlite3_column_int(st, 5);
    h->state = state_of(db_text(st, 7));
    h->stands = (struct hook_place){sqlite3_column_int64(st, 8), sqlite3_column_int64(st, 9),
                                    {sqlite3_column_int64(st, 10), sqlite3_column_int64(st, 11), {sqlite3_column_int(st, 12), ""}}};
    snprintf(h->stands.replay.at.id, UUID_LEN, "%s", db_text(st, 13));
    h->at = h->stands;
    h->failing_since = sqlite3_column_int64(st, 14);
    h->failures = sqlite3_column_int(st, 15);
    h->revision = sqlite3_column_int64(st, 16);
    h->msg[0] = 0;
    h->due_us = 0;
    h->batch_max = BATCH_EVENTS;
    return webhook_secret_open(d, h->id, sqlite3_column_blob(st, 4), (size_t)sqlite3_column_bytes(st, 4), &h->secret, e);
}

/* A row whose secret does not open (another pepper) is left alone, and said once. */
static int load_row(struct db *d, struct webhooks *w, sqlite3_stmt *st, struct err *e)
{
    struct err why = {0};
    struct hook *h = find_hook(w, db_text(st, 0));
    if (!h) h = hook_new(w, db_text(st, 0));
    if (!h) return err_set(e, ERR_NO_MEMORY, "no memory for a webhook, or more than %d of them", WEBHOOK_MAX);
    h->seen = true;
    if (h->phase != HOOK_IDLE || h->revision == sqlite3_column_int64(st, 16)) return 0;
    if (take_row(d, h, st, &why) == 0) return 0;
    h->state = HOOK_PAUSED;
    log_error("webhook_secret", LS("webhook", h->id), LS("reason", why.msg));
    return 0;
}

static int read_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT id, tenant, name, url, secret, usage, events, state, usage_seq, event_seq, replay_start, replay_until,"
                              " replay_month, replay_id, failing_since, failures, revision FROM webhook ORDER BY id";
    struct webhooks *w = u;
    int rc;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st) return -1;
    for (struct hook *h = w->hooks; h; h = h->next) h->seen = false;
    while ((rc = db_row(st, e)) == 1)
        if (load_row(d, w, st, e)) return -1;
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

int hooks_load(struct webhooks *w, struct err *e)
{
    if (db_read(w->g->db, read_rows, w, LOAD_MS, e)) return -1;
    for (struct hook **p = &w->hooks; *p;) {
        struct hook *h = *p;
        h->gone = !h->seen;
        if (!h->gone || h->phase != HOOK_IDLE) {
            p = &h->next;
            continue;
        }
        *p = h->next;
        w->nhooks--;
        explicit_bzero(&h->secret, sizeof h->secret);
        free(h);
    }
    return 0;
}

static int read_heads(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT coalesce((SELECT max(seq) FROM outbox), 0), coalesce((SELECT max(seq) FROM event), 0)";
    struct hook_heads *h = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    *h = (struct hook_heads){sqlite3_column_int64(st, 0), sqlite3_column_int64(st, 1)};
    sqlite3_reset(st);
    return 0;
}

int hooks_heads(struct webhooks *w, struct err *e)
{
    return db_read(w->g->db, read_heads, &w->heads, HOOK_READ_MS, e);
}

/* --- writing --- */

static void saved(void *u, const struct err *e)
{
    struct hook *h = u;
    struct webhooks *w = h->all;
    if (e) h->changed = false;
    if (e) log_warn("webhook_save", LS("webhook", h->id), LS("reason", e->msg));
    h->phase = HOOK_SAVED;
    hook_kick(w);
}

void hook_save(struct hook *h, int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e))
{
    struct err e = {0};
    h->changed = false;
    h->phase = HOOK_SAVING;
    if (db_write(h->all->g->db, &(struct db_job){.run = run, .done = saved, .user = h}, &e)) saved(h, &e);
}

static int update(struct hook *h, sqlite3 *c, sqlite3_stmt *st, struct err *e)
{
    if (db_done(st, e)) return -1;
    h->changed = sqlite3_changes(c) == 1;
    return 0;
}

int hook_run_delivered(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET usage_seq = ?3, event_seq = ?4, replay_month = ?5, replay_id = ?6, failures = 0,"
                              " failing_since = NULL, last_error = '', last_status = ?7, delivered = delivered + ?8, last_delivered = ?9"
                              " WHERE id = ?1 AND revision = ?2";
    struct hook *h = u;
    const struct hook_place *p = &h->then;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siiiisiii", h->id, h->revision, p->usage, p->event, (int64_t)p->replay.at.month, p->replay.at.id,
                       (int64_t)h->status, (int64_t)h->n, clock_wall_us()))
        return -1;
    return update(h, c, st, e);
}

int hook_run_passed(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET usage_seq = ?3, event_seq = ?4, replay_until = ?5, replay_month = ?6, replay_id = ?7"
                              " WHERE id = ?1 AND revision = ?2";
    struct hook *h = u;
    const struct hook_place *p = &h->then;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siiiiis", h->id, h->revision, p->usage, p->event, p->replay.until, (int64_t)p->replay.at.month,
                       p->replay.at.id))
        return -1;
    return update(h, c, st, e);
}

static int note_stop(struct db *d, sqlite3 *c, const struct hook *h, const char *type, const char *why, struct err *e)
{
    json_t *detail = json_pack("{ss ss sI}", "id", h->id, "reason", why, "status", (json_int_t)h->status);
    int rc = event_add(d, c, h->tenant, type, h->name, detail, e);
    json_decref(detail);
    return rc;
}

/* 410: the receiver wants no more. */
static int pause_row(struct db *d, sqlite3 *c, struct hook *h, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET state = 'paused', revision = revision + 1, last_error = ?3, last_status = ?4"
                              " WHERE id = ?1 AND revision = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sisi", h->id, h->revision, h->broken.msg, (int64_t)h->status) || update(h, c, st, e)) return -1;
    return h->changed ? note_stop(d, c, h, "webhook.paused", h->broken.msg, e) : 0;
}

int hook_run_failed(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET failures = ?3, failing_since = ?4, last_error = ?5, last_status = ?6"
                              " WHERE id = ?1 AND revision = ?2";
    struct hook *h = u;
    if (h->pause) return pause_row(d, c, h, e);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siiisi", h->id, h->revision, (int64_t)h->failures, h->failing_since, h->broken.msg, (int64_t)h->status)) return -1;
    return update(h, c, st, e);
}

/* Its redelivery begins with the first request that it missed, or where an earlier one began. */
int hook_run_stopped(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET state = 'failing', revision = revision + 1, last_error = ?3, replay_until = CASE ?4 WHEN 0 THEN"
                              " replay_until ELSE -1 END, replay_start = CASE ?4 WHEN 0 THEN replay_start ELSE ?4 END, replay_month = 0,"
                              " replay_id = '' WHERE id = ?1 AND revision = ?2";
    struct hook *h = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sisi", h->id, h->revision, h->broken.msg, h->then.replay.start) || update(h, c, st, e)) return -1;
    return h->changed ? note_stop(d, c, h, "webhook.failing", h->broken.msg, e) : 0;
}
