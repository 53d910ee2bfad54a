/* event: rows that say what happened (see event.h). Only added; seq grows with the commits, so a reader that asks for what
 * is after the last seq it saw misses none and gets none twice. */
#include "gateway/live/event.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/api/page.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DETAIL_BYTES 16384
#define TEXT_BYTES 256
#define READ_MS 2000

int event_add(struct db *d, sqlite3 *c, const char *tenant, const char *type, const char *object,
              const struct json_t *detail, struct err *e)
{
    static const char sql[] = "INSERT INTO event(t, tenant, type, object, detail) VALUES(?1, ?2, ?3, ?4, ?5)";
    struct buf b;
    buf_init(&b, DETAIL_BYTES);
    int rc = detail ? json_dump(detail, true, &b) : buf_adds(&b, "{}");
    if (rc) err_set(e, json_dumpb(detail, NULL, 0, JSON_COMPACT) < DETAIL_BYTES ? ERR_NO_MEMORY : ERR_TOO_LARGE, "the event's detail is larger than %d bytes, or than memory", DETAIL_BYTES);
    sqlite3_stmt *st = rc ? NULL : db_stmt(d, c, sql, e);
    rc = st && db_bind(st, e, "issss", clock_wall_us(), tenant, type, object, b.data) == 0 ? db_done(st, e) : -1;
    buf_close(&b);
    return rc;
}

struct note {
    char tenant[TEXT_BYTES], type[TEXT_BYTES], object[TEXT_BYTES];
    json_t *detail;
};

static int run_note(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct note *n = u;
    return event_add(d, c, n->tenant, n->type, n->object, n->detail, e);
}

static void note_done(void *u, const struct err *e)
{
    struct note *n = u;
    if (e) log_error("event_lost", LS("type", n->type), LS("object", n->object), LS("reason", e->msg));
    json_decref(n->detail);
    free(n);
}

void event_note(struct db *d, const char *tenant, const char *type, const char *object, struct json_t *detail)
{
    struct err e = {0};
    struct note *n = calloc(1, sizeof *n);
    if (!n) {
        log_error("event_lost", LS("type", type), LS("object", object), LS("reason", "no memory"));
        json_decref(detail);
        return;
    }
    snprintf(n->tenant, sizeof n->tenant, "%s", tenant);
    snprintf(n->type, sizeof n->type, "%s", type);
    snprintf(n->object, sizeof n->object, "%s", object);
    n->detail = detail;
    if (db_write(d, &(struct db_job){.run = run_note, .done = note_done, .user = n, .durable = true}, &e))
        note_done(n, &e);
}

struct list {
    const char *tenant;
    const struct page *page;
    json_t *list;
    bool more;
};

static json_t *event_json(sqlite3_stmt *st)
{
    json_t *detail = json_load(db_text(st, 5), strlen(db_text(st, 5)), 0, NULL); /* NULL: no memory, and no event */
    return json_pack("{ss sI sI ss* ss ss so}", "object", "event", "seq", (json_int_t)sqlite3_column_int64(st, 0),
                     "created_at", (json_int_t)(sqlite3_column_int64(st, 1) / 1000000), "tenant",
                     sqlite3_column_type(st, 2) == SQLITE_NULL ? NULL : db_text(st, 2), "type", db_text(st, 3),
                     "target", db_text(st, 4), "detail", detail);
}

#define OWN "SELECT seq, t, NULL, type, object, detail FROM event WHERE tenant = ?3 AND seq "
#define ALL                                                                                                            \
    "SELECT v.seq, v.t, coalesce(t.name, v.tenant), v.type, v.object, v.detail FROM event v LEFT JOIN tenant t ON "    \
    "t.id = v.tenant"                                                                                                  \
    " WHERE ?3 IS NULL AND v.seq "

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char own[] = OWN "> ?1 ORDER BY seq LIMIT ?2", own_before[] = OWN "< ?1 ORDER BY seq DESC LIMIT ?2";
    static const char all[] = ALL "> ?1 ORDER BY v.seq LIMIT ?2",
                      all_before[] = ALL "< ?1 ORDER BY v.seq DESC LIMIT ?2";
    struct list *x = u;
    bool back = page_back(x->page);
    int64_t at;
    if (page_number(x->page, &at, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, x->tenant ? back ? own_before : own : back ? all_before : all, e);
    if (!st || db_bind(st, e, "iis", at, page_ask(x->page), x->tenant)) return -1;
    return page_rows(st, x->page, event_json, x->list, &x->more, e);
}

int event_list(struct db *d, const char *tenant, const struct page *p, struct json_t *list, bool *more, struct err *e)
{
    struct list x = {tenant, p, list, false};
    if (db_read(d, read_page, &x, READ_MS, e)) return -1;
    *more = x.more;
    return 0;
}
