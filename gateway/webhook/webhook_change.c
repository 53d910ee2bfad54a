/* webhook_change: a webhook is made, changed, removed, each in one transaction with its entry in the audit trail.
 *
 *     create ---------------> enabled --pause, 410--> paused --resume--> enabled
 *                                `--too far behind--> failing --resume--> enabled, and what it missed from the raw rows
 *
 * All changes go one way: the row as it is -> If-Match -> the change's own statement -> the row as it has become -> audit -> the kept answer.
 * Every change raises the revision; the thread that sends writes only to a row whose revision it knows, so a batch that is under way
 * while its webhook changes is sent once more rather than counted to the changed one.
 *
 * A webhook begins with what is settled after it was made. The audit trail has its URL without the query, which may hold a token. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/revision.h"
#include "gateway/db/db_audit.h"
#include "gateway/live/event.h"
#include "gateway/webhook/webhook_impl.h"
#include <string.h>

struct change {
    const struct webhook_who *who;
    const struct webhook_wish *wish;
    const char *action, *event; /* of the audit trail, of the events or NULL */
    int (*apply)(struct db *d, sqlite3 *c, struct change *x, struct err *e);
    int status; /* of a POST's answer, to be kept; 0: none is */
    int64_t grace_s, start, end, after_event;
    char id[UUID_LEN], tenant[UUID_LEN], secret[WEBHOOK_SECRET_TEXT];
    json_t *before, *after;
};

/* --- the one way --- */

/* NULL: of nothing, or no memory. */
static json_t *entry_json(const json_t *o)
{
    static const char *const shown[] = {"id", "tenant", "name", "usage", "events", "state", "redelivery"};
    json_t *entry = o ? json_object() : NULL;
    for (size_t i = 0; entry && i < sizeof shown / sizeof *shown; i++) {
        json_t *v = json_object_get(o, shown[i]);
        if (v) json_object_put(&entry, shown[i], json_incref(v));
    }
    const char *url = json_string_value(json_object_get(o, "url"));
    if (entry && url) json_object_put(&entry, "url", json_stringn(url, strcspn(url, "?#")));
    return entry;
}

static int note(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    json_t *was = entry_json(x->before), *is = entry_json(x->after);
    int rc = (x->before && !was) || (x->after && !is) ? err_set(e, ERR_NO_MEMORY, "no memory for an audit entry") : 0;
    if (rc == 0) rc = audit_add(d, c, &(struct audit){x->who->by, x->action, x->id, was, is}, e);
    if (rc == 0 && x->event) rc = event_add(d, c, x->tenant, x->event, json_string_value(json_object_get(x->after, "name")), NULL, e);
    json_decref(was);
    json_decref(is);
    return rc;
}

static int find_tenant_of(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char sql[] = "SELECT tenant FROM webhook WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "s", x->id) == 0 ? db_row(st, e) : -1;
    if (rc == 1) snprintf(x->tenant, sizeof x->tenant, "%s", db_text(st, 0));
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int run_change(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct change *x = u;
    const struct webhook_who *who = x->who;
    if (who->id) {
        snprintf(x->id, sizeof x->id, "%s", who->id);
        if (webhook_row(d, c, who->reach, who->id, &x->before, e) || find_tenant_of(d, c, x, e) ||
            revision_check(who->want, json_integer_value(json_object_get(x->before, "revision")), e))
            return -1;
    }
    if (x->apply(d, c, x, e)) return -1;
    if (strcmp(x->action, "webhook.remove") != 0 && webhook_row(d, c, NULL, x->id, &x->after, e)) return -1;
    if (note(d, c, x, e)) return -1;
    if (*x->secret && json_object_set_new(x->after, "secret", json_string(x->secret)))
        return err_set(e, ERR_NO_MEMORY, "no memory for a webhook");
    return x->status ? once_keep(d, c, who->by, x->status, x->after, e) : 0;
}

static int apply_change(struct gateway *g, struct change *x, json_t **out, struct err *e)
{
    int rc = db_write_wait(g->db, run_change, x, e);
    json_decref(x->before);
    explicit_bzero(x->secret, sizeof x->secret);
    if (rc) {
        json_decref(x->after);
        return -1;
    }
    webhooks_look(g->webhooks);
    *out = x->after;
    return 0;
}

/* --- the changes --- */

#define SEALED_MAX 4096

static int new_secret(struct db *d, struct change *x, struct webhook_secret *s, struct buf *sealed, struct err *e)
{
    if (webhook_secret_new(s->now, e) || webhook_secret_seal(d, x->id, s, sealed, e)) return -1;
    webhook_secret_text(s->now, x->secret);
    return 0;
}

static int check_room(struct db *d, sqlite3 *c, const struct change *x, struct err *e)
{
    static const char sql[] = "SELECT (SELECT count(*) FROM webhook WHERE tenant = ?1), (SELECT count(*) FROM webhook),"
                              " (SELECT count(*) FROM webhook WHERE tenant = ?1 AND name = ?2)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", x->tenant, x->wish->name) || db_row(st, e) != 1) return -1;
    int64_t own = sqlite3_column_int64(st, 0), all = sqlite3_column_int64(st, 1), same = sqlite3_column_int64(st, 2);
    sqlite3_reset(st);
    if (same) return err_field(e, ERR_CONFLICT, "name", "There is a webhook '%s' already.", x->wish->name);
    if (own >= WEBHOOK_TENANT_MAX || all >= WEBHOOK_MAX)
        return err_set(e, ERR_CONFLICT, "There are %lld webhooks already, and no more are served.",
                       (long long)(own >= WEBHOOK_TENANT_MAX ? own : all));
    return 0;
}

static int named_tenant(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char sql[] = "SELECT id FROM tenant WHERE name = ?1";
    if (x->who->reach || !x->wish->tenant) {
        snprintf(x->tenant, sizeof x->tenant, "%s", x->who->reach ? x->who->reach : "");
        return 0;
    }
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "s", x->wish->tenant) == 0 ? db_row(st, e) : -1;
    if (rc == 1) snprintf(x->tenant, sizeof x->tenant, "%s", db_text(st, 0));
    if (st) sqlite3_reset(st);
    return rc == 0 ? err_field(e, ERR_NOT_FOUND, "tenant", "There is no tenant '%.64s'.", x->wish->tenant) : rc < 0 ? -1 : 0;
}

#define HEAD_USAGE "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)"
#define HEAD_EVENT "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0)"

static int bind_secret(sqlite3_stmt *st, int at, const struct buf *sealed, struct err *e)
{
    if (sqlite3_bind_blob(st, at, sealed->data, (int)sealed->len, SQLITE_STATIC) == SQLITE_OK) return 0;
    return err_set(e, ERR_NO_MEMORY, "no memory for a webhook");
}

static int create(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char sql[] = "INSERT INTO webhook(id, tenant, name, url, usage, events, created, secret, usage_seq, event_seq)"
                              " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, " HEAD_USAGE ", " HEAD_EVENT ")";
    const struct webhook_wish *w = x->wish;
    struct webhook_secret s = {.before_until = 0};
    struct buf sealed;
    uuid7(x->id);
    if (named_tenant(d, c, x, e) || check_room(d, c, x, e)) return -1;
    buf_init(&sealed, SEALED_MAX);
    snprintf(s.authorization, sizeof s.authorization, "%s", w->authorization ? w->authorization : "");
    int rc = new_secret(d, x, &s, &sealed, e);
    sqlite3_stmt *st = rc ? NULL : db_stmt(d, c, sql, e);
    rc = st && db_bind(st, e, "ssssisi", x->id, x->tenant, w->name, w->url, (int64_t)w->usage, w->events, clock_wall_us()) == 0 &&
                 bind_secret(st, 8, &sealed, e) == 0
             ? db_done(st, e)
             : -1;
    if (st) sqlite3_clear_bindings(st);
    buf_close(&sealed);
    explicit_bzero(&s, sizeof s);
    return rc;
}

int webhook_create(struct gateway *g, const struct webhook_who *who, const struct webhook_wish *w, json_t **out, struct err *e)
{
    struct change x = {.who = who, .wish = w, .action = "webhook.create", .apply = create, .status = 201};
    return apply_change(g, &x, out, e);
}

static int find_secret(struct db *d, sqlite3 *c, const char *id, struct webhook_secret *out, struct err *e)
{
    static const char sql[] = "SELECT secret FROM webhook WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", id) || db_row(st, e) != 1) return -1;
    int rc = webhook_secret_open(d, id, sqlite3_column_blob(st, 0), (size_t)sqlite3_column_bytes(st, 0), out, e);
    sqlite3_reset(st);
    return rc;
}

/* Sealed anew, with what it holds now. */
static int write_secret(struct db *d, sqlite3 *c, const char *id, const struct webhook_secret *s, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET secret = ?2 WHERE id = ?1";
    struct buf sealed;
    buf_init(&sealed, SEALED_MAX);
    sqlite3_stmt *st = webhook_secret_seal(d, id, s, &sealed, e) ? NULL : db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "s", id) == 0 && bind_secret(st, 2, &sealed, e) == 0 ? db_done(st, e) : -1;
    if (st) sqlite3_clear_bindings(st);
    buf_close(&sealed);
    return rc;
}

/* What one receiver may see is not for another: with its URL, a webhook's authorization goes. */
static int change_authorization(struct db *d, sqlite3 *c, const struct change *x, struct err *e)
{
    const struct webhook_wish *w = x->wish;
    const char *url = json_string_value(json_object_get(x->before, "url"));
    struct webhook_secret s;
    if (!w->authorization && (!w->url || strcmp(w->url, url) == 0)) return 0;
    if (find_secret(d, c, x->id, &s, e)) return -1;
    snprintf(s.authorization, sizeof s.authorization, "%s", w->authorization ? w->authorization : "");
    int rc = write_secret(d, c, x->id, &s, e);
    explicit_bzero(&s, sizeof s);
    return rc;
}

/* What it did not want before, it has from now on; one that fails, once it is resumed. */
#define FIRST_WANTED "?4 = 1 AND usage = 0 AND state = 'failing' AND replay_until = 0"
static int update(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char taken[] = "SELECT 1 FROM webhook WHERE tenant = ?1 AND name = ?2 AND id <> ?3";
    static const char sql[] =
        "UPDATE webhook SET name = coalesce(?2, name), url = coalesce(?3, url), usage = coalesce(?4, usage), events = coalesce(?5, events),"
        " usage_seq = CASE WHEN ?4 = 1 AND usage = 0 THEN " HEAD_USAGE " ELSE usage_seq END,"
        " event_seq = CASE WHEN events = '' THEN " HEAD_EVENT " ELSE event_seq END, failures = 0, revision = revision + 1,"
        " replay_start = CASE WHEN " FIRST_WANTED " THEN ?6 ELSE replay_start END, replay_until = CASE WHEN " FIRST_WANTED " THEN -1 ELSE replay_until END"
        " WHERE id = ?1";
    const struct webhook_wish *w = x->wish;
    sqlite3_stmt *st = db_stmt(d, c, taken, e);
    int rc = st && db_bind(st, e, "sss", x->tenant, w->name, x->id) == 0 ? db_row(st, e) : -1;
    if (st) sqlite3_reset(st);
    if (rc == 1) return err_field(e, ERR_CONFLICT, "name", "There is a webhook '%s' already.", w->name);
    st = rc ? NULL : db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssssi", x->id, w->name, w->url, NULL, w->set_events ? w->events : NULL, clock_wall_us() / 1000000)) return -1;
    if (w->usage >= 0) sqlite3_bind_int(st, 4, w->usage);
    return db_done(st, e) || change_authorization(d, c, x, e) ? -1 : 0;
}

int webhook_update(struct gateway *g, const struct webhook_who *who, const struct webhook_wish *w, json_t **out, struct err *e)
{
    struct change x = {.who = who, .wish = w, .action = "webhook.update", .apply = update};
    return apply_change(g, &x, out, e);
}

static int by_id(struct db *d, sqlite3 *c, const char *sql, struct change *x, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "s", x->id) == 0 ? db_done(st, e) : -1;
}

static int remove_row(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char sql[] = "DELETE FROM webhook WHERE id = ?1";
    return by_id(d, c, sql, x, e);
}

int webhook_remove(struct gateway *g, const struct webhook_who *who, json_t **out, struct err *e)
{
    struct change x = {.who = who, .action = "webhook.remove", .apply = remove_row};
    if (apply_change(g, &x, out, e)) return -1;
    *out = json_pack("{ss ss sb}", "id", who->id, "object", "webhook", "deleted", 1);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an answer");
}

static int rotate(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET revision = revision + 1 WHERE id = ?1";
    struct webhook_secret s;
    if (find_secret(d, c, x->id, &s, e)) return -1;
    memcpy(s.before, s.now, sizeof s.before);
    s.before_until = x->grace_s ? clock_wall_us() / 1000000 + x->grace_s : 0;
    int rc = webhook_secret_new(s.now, e) || write_secret(d, c, x->id, &s, e) || by_id(d, c, sql, x, e) ? -1 : 0;
    if (rc == 0) webhook_secret_text(s.now, x->secret);
    explicit_bzero(&s, sizeof s);
    return rc;
}

int webhook_rotate(struct gateway *g, const struct webhook_who *who, int64_t grace_s, json_t **out, struct err *e)
{
    struct change x = {.who = who, .action = "webhook.rotate", .apply = rotate, .status = 201, .grace_s = grace_s};
    return apply_change(g, &x, out, e);
}

/* One that fails stays so: paused, it would be forgotten that it has a gap. */
static int pause_row(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET state = 'paused', revision = revision + 1 WHERE id = ?1 AND state <> 'failing'";
    return by_id(d, c, sql, x, e);
}

int webhook_pause(struct gateway *g, const struct webhook_who *who, json_t **out, struct err *e)
{
    struct change x = {.who = who, .action = "webhook.pause", .apply = pause_row, .status = 200};
    return apply_change(g, &x, out, e);
}

/* What was settled while it was failing is in no outbox: from here on the outbox, up to here the raw rows. */
static int resume_row(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char sql[] = "UPDATE webhook SET usage_seq = CASE state WHEN 'failing' THEN " HEAD_USAGE " ELSE usage_seq END,"
                              " replay_until = CASE replay_until WHEN -1 THEN ?2 ELSE replay_until END, state = 'enabled', failures = 0,"
                              " failing_since = NULL, last_error = '', revision = revision + 1 WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "si", x->id, clock_wall_us() / 1000000 + 1) == 0 ? db_done(st, e) : -1;
}

int webhook_resume(struct gateway *g, const struct webhook_who *who, json_t **out, struct err *e)
{
    struct change x = {.who = who, .action = "webhook.resume", .event = "webhook.resumed", .apply = resume_row, .status = 200};
    return apply_change(g, &x, out, e);
}

/* A redelivery that is under way grows: it begins again, so that there is one place to remember. */
static int replay_row(struct db *d, sqlite3 *c, struct change *x, struct err *e)
{
    static const char usage[] =
        "UPDATE webhook SET replay_start = CASE replay_until WHEN 0 THEN ?2 ELSE min(replay_start, ?2) END,"
        " replay_until = CASE replay_until WHEN -1 THEN -1 WHEN 0 THEN ?3 ELSE max(replay_until, ?3) END, replay_month = 0, replay_id = ''"
        " WHERE id = ?1 AND usage = 1";
    static const char from[] = "UPDATE webhook SET event_seq = min(event_seq, coalesce((SELECT seq - 1 FROM event WHERE t >= ?2 ORDER BY t LIMIT 1),"
                               " event_seq)), revision = revision + 1 WHERE id = ?1";
    static const char after[] = "UPDATE webhook SET event_seq = min(event_seq, ?2), revision = revision + 1 WHERE id = ?1";
    bool timed = x->start >= 0;
    sqlite3_stmt *st = timed ? db_stmt(d, c, usage, e) : NULL;
    if (timed && (!st || db_bind(st, e, "sii", x->id, x->start, x->end) || db_done(st, e))) return -1;
    st = db_stmt(d, c, timed ? from : after, e);
    return st && db_bind(st, e, "si", x->id, timed ? x->start * 1000000 : x->after_event) == 0 ? db_done(st, e) : -1;
}

int webhook_redeliver(struct gateway *g, const struct webhook_who *who, int64_t start, int64_t end, int64_t after_event, json_t **out,
                      struct err *e)
{
    struct change x = {.who = who, .action = "webhook.redeliver", .apply = replay_row, .status = 202,
                       .start = start, .end = end, .after_event = after_event};
    return apply_change(g, &x, out, e);
}
