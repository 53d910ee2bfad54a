/* export_schedule: see export_schedule.h. A change travels to the writer as a struct, is made in its savepoint with its audit row and read back there,
 * so the answer is what was committed. */
#include "gateway/export/export_schedule.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/live/event.h"
#include <stdio.h>

#define READ_MS 2000
#define ERROR_LEN 400
#define HOUR 3600
#define DAY 86400

const char *const schedule_every_name[EVERY_KINDS] = {"hour", "day", "month"};

#define COLUMNS                                                                                                                                \
    "SELECT s.id, s.name, s.tenant, coalesce(t.name, s.tenant), s.format, s.every, s.state, s.done_until, s.last_run, s.last_error, s.files,"    \
    " s.revision, s.created FROM export_schedule s LEFT JOIN tenant t ON t.id = s.tenant "

/* --- periods --- */

int64_t schedule_start(enum schedule_every every, int64_t t)
{
    return every == EVERY_HOUR ? t / HOUR * HOUR : every == EVERY_DAY ? t / DAY * DAY : text_month_start(t, 0);
}

int64_t schedule_end(enum schedule_every every, int64_t t)
{
    return every == EVERY_MONTH ? text_month_start(t, 1) : schedule_start(every, t) + (every == EVERY_HOUR ? HOUR : DAY);
}

static int every_of(const char *word)
{
    for (int i = 0; i < EVERY_KINDS; i++)
        if (strcmp(schedule_every_name[i], word) == 0) return i;
    return -1;
}

/* --- JSON --- */

static json_t *seconds_or_null(sqlite3_stmt *st, int column)
{
    return sqlite3_column_type(st, column) == SQLITE_NULL ? json_null() : json_integer(sqlite3_column_int64(st, column) / 1000000);
}

static json_t *schedule_json(sqlite3_stmt *st)
{
    int every = every_of(db_text(st, 5));
    int64_t done = sqlite3_column_int64(st, 7), next = schedule_end((enum schedule_every)every, done), now = clock_wall_us() / 1000000;
    bool all = !*db_text(st, 2), well = !*db_text(st, 9);
    return json_pack("{ss ss ss so ss ss ss ss sI sI sI so so sI sI sI}", "object", "export_schedule", "id", db_text(st, 0), "name", db_text(st, 1),
                     "tenant", all ? json_null() : json_string(db_text(st, 3)), "format", db_text(st, 4), "every", db_text(st, 5), "state",
                     db_text(st, 6), "folder", db_text(st, 1), "done_until", (json_int_t)done, "next_end", (json_int_t)next, "behind_s",
                     (json_int_t)(now > next ? now - next : 0), "last_run", seconds_or_null(st, 8), "last_error",
                     well ? json_null() : json_string(db_text(st, 9)), "files", (json_int_t)sqlite3_column_int64(st, 10), "revision",
                     (json_int_t)sqlite3_column_int64(st, 11), "created_at", (json_int_t)(sqlite3_column_int64(st, 12) / 1000000));
}

/* *out NULL: there is none. */
static int read_one(struct db *d, sqlite3 *c, const char *name, json_t **out, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE s.name = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", name)) return -1;
    int rc = db_row(st, e);
    *out = rc == 1 ? schedule_json(st) : NULL;
    sqlite3_reset(st);
    if (rc < 0) return -1;
    return rc == 1 && !*out ? err_set(e, ERR_NO_MEMORY, "no memory for a schedule") : 0;
}

struct look {
    const char *name;
    const struct page *page;
    json_t *out;
    bool more;
};

static int read_name(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct look *x = u;
    if (read_one(d, c, x->name, &x->out, e)) return -1;
    return x->out ? 0 : err_set(e, ERR_NOT_FOUND, "There is no export schedule '%.64s'.", x->name);
}

int schedule_get(struct db *d, const char *name, struct json_t **out, struct err *e)
{
    struct look x = {.name = name};
    if (db_read(d, read_name, &x, READ_MS, e)) return -1;
    *out = x.out;
    return 0;
}

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE s.name > ?1 ORDER BY s.name LIMIT ?2",
                      back[] = COLUMNS "WHERE s.name < ?1 ORDER BY s.name DESC LIMIT ?2";
    struct look *x = u;
    sqlite3_stmt *st = db_stmt(d, c, page_back(x->page) ? back : sql, e);
    if (!st || db_bind(st, e, "si", page_cursor(x->page), page_ask(x->page))) return -1;
    return page_rows(st, x->page, schedule_json, x->out, &x->more, e);
}

int schedule_list(struct db *d, const struct page *p, struct json_t *list, bool *more, struct err *e)
{
    struct look x = {.page = p, .out = list};
    if (db_read(d, read_page, &x, READ_MS, e)) return -1;
    *more = x.more;
    return 0;
}

/* --- changes --- */

struct change {
    const struct actor *by;
    const struct schedule_wish *wish;
    const struct schedule_change *change;
    const char *name;
    int64_t revision, from; /* the start of a period; -1: stays */
    json_t *out;
};

static int note(struct db *d, sqlite3 *c, const struct change *x, const char *action, const json_t *before, struct err *e)
{
    return audit_add(d, c, &(struct audit){x->by, action, x->name, before, x->out}, e);
}

static int find_tenant(struct db *d, sqlite3 *c, const char *name, char id[UUID_LEN], struct err *e)
{
    static const char sql[] = "SELECT id FROM tenant WHERE name = ?1";
    id[0] = 0;
    if (!*name) return 0;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", name)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) snprintf(id, UUID_LEN, "%s", db_text(st, 0));
    sqlite3_reset(st);
    return rc == 0 ? err_field(e, ERR_NOT_FOUND, "tenant", "There is no tenant '%.64s'.", name) : rc < 0 ? -1 : 0;
}

static int check_room(struct db *d, sqlite3 *c, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM export_schedule";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return n < SCHEDULES_MAX ? 0 : err_set(e, ERR_CONFLICT, "There are %d export schedules already, the most that may be.", SCHEDULES_MAX);
}

static int run_create(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO export_schedule(id, name, tenant, format, every, done_until, created) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)"
                              " ON CONFLICT DO NOTHING";
    struct change *x = u;
    const struct schedule_wish *w = x->wish;
    char id[UUID_LEN], tenant[UUID_LEN];
    uuid7(id);
    if (check_room(d, c, e) || find_tenant(d, c, w->tenant, tenant, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssssii", id, w->name, tenant, w->format, w->every, x->from, clock_wall_us()) || db_done(st, e)) return -1;
    if (!sqlite3_changes(c)) return err_field(e, ERR_CONFLICT, "name", "There is an export schedule '%.64s' already.", w->name);
    if (read_one(d, c, w->name, &x->out, e) || note(d, c, x, "export_schedule.create", NULL, e)) return -1;
    return once_keep(d, c, x->by, 201, x->out, e);
}

/* The row as it is, of the revision that was asked for. */
static int read_before(struct db *d, sqlite3 *c, const struct change *x, json_t **before, struct err *e)
{
    if (read_one(d, c, x->name, before, e)) return -1;
    if (!*before) return err_set(e, ERR_NOT_FOUND, "There is no export schedule '%.64s'.", x->name);
    return revision_check(x->revision, json_integer_value(json_object_get(*before, "revision")), e);
}

static int run_update(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE export_schedule SET state = coalesce(?2, state), done_until = CASE WHEN ?3 < 0 THEN done_until ELSE ?3 END,"
                              " last_error = '', revision = revision + 1 WHERE name = ?1";
    struct change *x = u;
    json_t *before = NULL;
    int rc = read_before(d, c, x, &before, e);
    sqlite3_stmt *st = rc ? NULL : db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", x->name, x->change->state, x->from) || db_done(st, e) || read_one(d, c, x->name, &x->out, e)) rc = -1;
    if (rc == 0) rc = note(d, c, x, "export_schedule.update", before, e);
    json_decref(before);
    return rc;
}

static int run_remove(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "DELETE FROM export_schedule WHERE name = ?1";
    struct change *x = u;
    json_t *before = NULL;
    int rc = read_before(d, c, x, &before, e);
    sqlite3_stmt *st = rc ? NULL : db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", x->name) || db_done(st, e)) rc = -1;
    if (rc == 0) rc = note(d, c, x, "export_schedule.delete", before, e);
    if (rc == 0) x->out = json_pack("{ss ss sb}", "id", x->name, "object", "export_schedule", "deleted", 1);
    json_decref(before);
    return rc;
}

static int apply(struct db *d, int (*run)(struct db *, sqlite3 *, void *, struct err *), struct change *x, json_t **out, struct err *e)
{
    int rc = db_write_wait(d, run, x, e);
    if (rc == 0) *out = x->out;
    else json_decref(x->out);
    return rc;
}

/* The start of the period of `from`, which may lie so far back that its files are still made in a reasonable time. */
static int read_from(enum schedule_every every, int64_t from, int64_t *out, struct err *e)
{
    static const int64_t width[EVERY_KINDS] = {HOUR, DAY, 28 * DAY};
    int64_t now = clock_wall_us() / 1000000;
    if (from > now) return err_field(e, ERR_INVALID, "from", "'from' (%lld) lies ahead.", (long long)from);
    if (now - from > SCHEDULE_BACK_MAX * width[every])
        return err_field(e, ERR_INVALID, "from", "'from' lies more than %d files back.", SCHEDULE_BACK_MAX);
    *out = schedule_start(every, from);
    return 0;
}

int schedule_create(struct db *d, const struct actor *by, const struct schedule_wish *w, struct json_t **out, struct err *e)
{
    struct change x = {.by = by, .wish = w, .name = w->name};
    int every = every_of(w->every);
    if (!name_is_valid(w->name)) return err_field(e, ERR_INVALID, "name", "'name' must be 1 to %d of a-z 0-9 . _ -, first a letter or digit.", NAME_MAX_LEN);
    if (export_format_of(w->format) < 0) return err_field(e, ERR_INVALID, "format", "'format' is csv, jsonl or focus, not '%.40s'.", w->format);
    if (every < 0) return err_field(e, ERR_INVALID, "every", "'every' is hour, day or month, not '%.40s'.", w->every);
    int64_t from = w->from < 0 ? clock_wall_us() / 1000000 : w->from;
    if (read_from((enum schedule_every)every, from, &x.from, e)) return -1;
    return apply(d, run_create, &x, out, e);
}

static int every_by_name(struct db *d, const char *name, enum schedule_every *out, struct err *e)
{
    json_t *o;
    if (schedule_get(d, name, &o, e)) return -1;
    *out = (enum schedule_every)every_of(json_string_value(json_object_get(o, "every")));
    json_decref(o);
    return 0;
}

int schedule_update(struct db *d, const struct actor *by, const char *name, const struct schedule_change *change, struct json_t **out, struct err *e)
{
    struct change x = {.by = by, .change = change, .name = name, .revision = change->revision, .from = -1};
    enum schedule_every every; /* never changes */
    if (change->state && strcmp(change->state, "enabled") != 0 && strcmp(change->state, "paused") != 0)
        return err_field(e, ERR_INVALID, "state", "'state' is enabled or paused, not '%.40s'.", change->state);
    if (change->from >= 0 && (every_by_name(d, name, &every, e) || read_from(every, change->from, &x.from, e))) return -1;
    return apply(d, run_update, &x, out, e);
}

int schedule_remove(struct db *d, const struct actor *by, const char *name, int64_t revision, struct json_t **out, struct err *e)
{
    struct change x = {.by = by, .name = name, .revision = revision};
    return apply(d, run_remove, &x, out, e);
}

/* --- for the thread that writes --- */

struct enabled {
    struct schedule *out;
    int n;
};

static int read_enabled(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = COLUMNS "WHERE s.state = 'enabled' ORDER BY s.done_until, s.name";
    struct enabled *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? 0 : -1;
    while (st && x->n < SCHEDULES_MAX && (rc = db_row(st, e)) == 1) {
        struct schedule *s = &x->out[x->n++];
        *s = (struct schedule){.format = (enum export_format)export_format_of(db_text(st, 4)), .every = (enum schedule_every)every_of(db_text(st, 5)),
                               .done_until = sqlite3_column_int64(st, 7), .last_run = sqlite3_column_int64(st, 8), .failing = *db_text(st, 9)};
        snprintf(s->id, sizeof s->id, "%s", db_text(st, 0));
        snprintf(s->name, sizeof s->name, "%s", db_text(st, 1));
        snprintf(s->tenant, sizeof s->tenant, "%s", db_text(st, 2));
        snprintf(s->tenant_name, sizeof s->tenant_name, "%s", db_text(st, 3));
    }
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

int schedules_enabled(struct db *d, struct schedule out[SCHEDULES_MAX], struct err *e)
{
    struct enabled x = {.out = out};
    return db_read(d, read_enabled, &x, READ_MS, e) ? -1 : x.n;
}

struct outcome {
    const struct schedule *s;
    int64_t until;
    const char *why;
};

static int run_done(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE export_schedule SET done_until = ?3, last_run = ?4, last_error = '', files = files + 1"
                              " WHERE id = ?1 AND done_until = ?2";
    const struct outcome *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "siii", x->s->id, x->s->done_until, x->until, clock_wall_us()) ? -1 : db_done(st, e);
}

int schedule_done(struct db *d, const struct schedule *s, int64_t until, struct err *e)
{
    struct outcome x = {.s = s, .until = until};
    return db_write_wait(d, run_done, &x, e);
}

static int run_failed(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE export_schedule SET last_run = ?2, last_error = ?3 WHERE id = ?1";
    const struct outcome *x = u;
    char why[ERROR_LEN];
    snprintf(why, sizeof why, "%s", x->why);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sis", x->s->id, clock_wall_us(), why) || db_done(st, e)) return -1;
    if (x->s->failing || !sqlite3_changes(c)) return 0;
    json_t *detail = json_pack("{ss}", "error", why);
    int rc = event_add(d, c, "", "export.failed", x->s->name, detail, e);
    json_decref(detail);
    return rc;
}

int schedule_failed(struct db *d, const struct schedule *s, const char *why, struct err *e)
{
    struct outcome x = {.s = s, .why = why};
    return db_write_wait(d, run_failed, &x, e);
}
