/* webhook_batch: rows and events as a batch of CloudEvents 1.0 (JSON format 1.0.2, batched content mode; docs/WEBHOOKS.md has the table).
 *
 *     batch_live    events, then usage rows, that follow h->at: event by seq, outbox by seq -> ledger_row() -> body
 *     batch_replay  raw rows in the order of (month, id) -> body
 *
 * An event of the batch has `subject`: the tenant's name, and `time`: when the request began, which is what usage is summed by here, so
 * the receiver's sums by day are ours. `id` is the usage row's, so whoever knows (source, id) counts nothing twice. What is in a row or an
 * event never changes: the same places give the same bytes.
 *
 * A batch ends at `max` events or BATCH_BYTES, whichever comes first: what would make it larger waits for the next one. On the sending thread; a name
 * that is not known yet is looked up between reads, never inside one, which would hold two of few readers. */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/settings.h"
#include "gateway/webhook/webhook_impl.h"
#include <stddef.h>
#include <string.h>

#define EVENTS_SCANNED 1000 /* of the event table in one look: most may be of types that nobody wants */

void batch_init(struct batch *b, int max)
{
    *b = (struct batch){.max = max};
    buf_init(&b->body, BATCH_BYTES);
    buf_addc(&b->body, '[');
}

void batch_close(struct batch *b)
{
    buf_close(&b->body);
}

/* --- names --- */

static int read_name(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT name FROM tenant WHERE id = ?1";
    char(*pair)[NAME_MAX_LEN + 1] = u; /* id, name */
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "s", pair[0]) == 0 ? db_row(st, e) : -1;
    snprintf(pair[1], sizeof pair[1], "%s", rc == 1 ? db_text(st, 0) : "");
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static unsigned place_of(const char *id)
{
    uint32_t h = 2166136261u;
    for (; *id; id++) h = (h ^ (uint8_t)*id) * 16777619u;
    return h % NAMES_KEPT;
}

static const char *known_name(const struct webhooks *w, const char *id)
{
    unsigned i = place_of(id);
    return strcmp(w->tenants[i].id, id) == 0 ? w->tenants[i].name : NULL;
}

static int learn_name(struct webhooks *w, const char *id, struct err *e)
{
    char pair[2][NAME_MAX_LEN + 1];
    if (!*id || known_name(w, id)) return 0;
    snprintf(pair[0], sizeof pair[0], "%s", id);
    if (db_read(w->g->db, read_name, pair, HOOK_READ_MS, e)) return -1;
    unsigned i = place_of(id);
    snprintf(w->tenants[i].id, sizeof w->tenants[i].id, "%.*s", UUID_LEN - 1, pair[0]);
    memcpy(w->tenants[i].name, pair[1], sizeof pair[1]);
    return 0;
}

/* --- printing --- */

static void add_text(struct buf *b, const char *name, const char *value)
{
    buf_addf(b, ",\"%s\":", name);
    buf_add_json(b, value, strlen(value));
}

static void add_number(struct buf *b, const char *name, int64_t value)
{
    buf_addf(b, ",\"%s\":%lld", name, (long long)value);
}

/* Up to and with the beginning of data. subject "": none. */
static void open_event(const struct webhooks *w, struct buf *b, const char *type, const char *id, const char *subject, int64_t t_us)
{
    char iso[CLOCK_ISO_LEN];
    clock_iso(t_us, iso);
    buf_addf(b, "{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"%s\"", id, w->source);
    buf_addf(b, ",\"type\":\"%s%s\"", HOOK_TYPE_PREFIX, type);
    if (*subject) add_text(b, "subject", subject);
    buf_addf(b, ",\"time\":\"%s\",\"datacontenttype\":\"application/json\",\"data\":", iso);
}

/* Keeps what was added since `before`, or takes it back: the batch is full. */
static bool keep_event(struct batch *b, size_t before)
{
    b->full = b->body.failed || b->body.len >= BATCH_BYTES - 1; /* the last byte closes the list */
    if (b->full) {
        if (b->n) b->body.failed = false; /* the first always fits: it is memory that is short */
        b->body.len = before;
        b->body.data[before] = 0;
        return false;
    }
    b->n++;
    b->full = b->n >= b->max;
    return true;
}

static size_t next_event(struct batch *b)
{
    size_t before = b->body.len;
    if (b->n) buf_addc(&b->body, ',');
    return before;
}

#define AT(member) offsetof(struct usage_row, member)
static const struct {
    const char *name;
    size_t at;
} texts[] = {{"api_key_id", AT(key)}, {"model", AT(model)}, {"base", AT(base)}, {"endpoint", AT(endpoint)}, {"finish_reason", AT(finish)},
             {"engine", AT(engine)}},
  numbers[] = {{"http_status", AT(http_status)}, {"input_tokens", AT(prompt)}, {"input_cached_tokens", AT(cached)}, {"output_tokens", AT(output)},
               {"produced_tokens", AT(produced)}, {"attempt", AT(attempt)}, {"load_us", AT(load_us)}, {"cost_nano", AT(cost)}, {"policy_before_tokens", AT(before)}, {"policy_after_tokens", AT(after)}, {"start_us", AT(t_start)},
               {"end_us", AT(t_end)}};

static const char *word_of(const char *const *words, int n, int64_t v)
{
    return v >= 0 && v < n ? words[v] : "unknown";
}

static void add_text_or_null(struct buf *b, const char *name, const char *value)
{
    if (*value)
        add_text(b, name, value);
    else
        buf_addf(b, ",\"%s\":null", name);
}

static void add_target(struct buf *b, const struct usage_row *r)
{
    add_text_or_null(b, "adapter", r->adapter);
    if (*r->adapter)
        add_number(b, "version", r->version);
    else
        buf_adds(b, ",\"version\":null");
    add_text_or_null(b, "alias", r->alias);
}

static void add_usage(struct webhooks *w, struct buf *b, const struct usage_row *r, const char *tenant)
{
    const char *row = (const char *)r;
    bool request = !r->adjusts;
    open_event(w, b, request ? "usage.settled" : "usage.adjusted", r->id, tenant, r->t_start);
    buf_adds(b, "{\"tenant\":");
    buf_add_json(b, tenant, strlen(tenant));
    add_number(b, "requests", request);
    if (!request) add_text_or_null(b, "adjusts", r->adjusts);
    add_target(b, r);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) add_text(b, texts[i].name, *(const char *const *)(const void *)(row + texts[i].at));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        add_number(b, numbers[i].name, *(const int64_t *)(const void *)(row + numbers[i].at));
    add_text(b, "state", word_of(usage_state_name, USAGE_STATES, r->state));
    add_text(b, "count_source", word_of(count_source_name, COUNT_SOURCES, r->source));
    add_text(b, "currency", w->g->set->currency);
    if (r->t_first)
        add_number(b, "first_us", r->t_first);
    else
        buf_adds(b, ",\"first_us\":null");
    buf_addf(b, ",\"stream\":%s,\"cold\":%s}}", r->stream ? "true" : "false", r->cold ? "true" : "false");
}

struct printing {
    struct webhooks *w;
    struct batch *b;
    char missing[UUID_LEN]; /* a tenant whose name is not known yet */
};

/* -1 without a row added: the batch is full, or a name is missing. */
static int each_row(void *u, const struct usage_row *r, struct err *e)
{
    struct printing *p = u;
    const char *name = known_name(p->w, r->tenant);
    if (!name) {
        snprintf(p->missing, sizeof p->missing, "%s", r->tenant);
        return err_set(e, ERR_NOT_FOUND, "the name of a tenant is not known yet");
    }
    size_t before = next_event(p->b);
    add_usage(p->w, &p->b->body, r, name);
    return keep_event(p->b, before) ? 0 : err_set(e, ERR_TOO_LARGE, "the batch is full");
}

/* --- events --- */

bool hook_wants_event(const char *prefixes, const char *type)
{
    for (const char *s = prefixes; *s;) {
        size_t n = strcspn(s, ",");
        if ((n == 1 && *s == '*') || strncmp(type, s, n) == 0) return true;
        s += n + (s[n] == ',');
    }
    return false;
}

struct reading {
    struct webhooks *w;
    const struct hook *h;
    struct batch *b;
    int64_t last; /* seq, at most */
    int n;        /* of the outbox's rows */
    struct {
        int64_t seq;
        char id[UUID_LEN], tenant[UUID_LEN];
        int month;
    } row[BATCH_EVENTS];
};

static bool add_event(struct reading *x, sqlite3_stmt *st)
{
    char id[HOOK_ID_TEXT], type[WEBHOOK_PREFIX_MAX + 64];
    size_t before = next_event(x->b);
    struct buf *b = &x->b->body;
    /* With its time: after a restore the numbers of what happened since are given again. */
    snprintf(id, sizeof id, "event-%lld-%llx", (long long)sqlite3_column_int64(st, 0), (unsigned long long)sqlite3_column_int64(st, 1));
    snprintf(type, sizeof type, "event.%.100s", db_text(st, 3));
    open_event(x->w, b, type, id, db_text(st, 2), sqlite3_column_int64(st, 1));
    buf_addf(b, "{\"seq\":%lld", (long long)sqlite3_column_int64(st, 0));
    add_text(b, "type", db_text(st, 3));
    add_text(b, "target", db_text(st, 4));
    buf_addf(b, ",\"detail\":%s}}", *db_text(st, 5) ? db_text(st, 5) : "{}"); /* JSON of our own */
    return keep_event(x->b, before);
}

static int read_events(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define EVENTS(which)                                                                                                     \
    "SELECT v.seq, v.t, coalesce(t.name, ''), v.type, v.object, v.detail FROM event v LEFT JOIN tenant t ON t.id = v.tenant WHERE " \
    which " v.seq > ?1 AND v.seq <= ?2 ORDER BY v.seq LIMIT ?4"
    static const char all[] = EVENTS("?3 = '' AND"), own[] = EVENTS("v.tenant = ?3 AND");
#undef EVENTS
    struct reading *x = u;
    int rc = 0, scanned = 0;
    sqlite3_stmt *st = db_stmt(d, c, *x->h->tenant ? own : all, e);
    if (!st || db_bind(st, e, "iisi", x->h->at.event, x->last, x->h->tenant, (int64_t)EVENTS_SCANNED)) return -1;
    while (!x->b->full && (rc = db_row(st, e)) == 1) {
        if (hook_wants_event(x->h->events, db_text(st, 3)) && !add_event(x, st)) break;
        x->b->to.event = sqlite3_column_int64(st, 0);
        scanned++;
    }
    sqlite3_reset(st);
    if (!x->b->full && rc == 0 && scanned < EVENTS_SCANNED) x->b->to.event = x->last;
    return rc < 0 ? -1 : 0;
}

/* --- usage --- */

static int read_outbox(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define OUTBOX(which) "SELECT seq, id, month, tenant FROM outbox WHERE " which " seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?4"
    static const char all[] = OUTBOX("?3 = '' AND"), own[] = OUTBOX("tenant = ?3 AND");
#undef OUTBOX
    struct reading *x = u;
    int rc = 0, max = x->b->max - x->b->n;
    sqlite3_stmt *st = db_stmt(d, c, *x->h->tenant ? own : all, e);
    if (!st || db_bind(st, e, "iisi", x->h->at.usage, x->last, x->h->tenant, (int64_t)max)) return -1;
    for (x->n = 0; x->n < max && (rc = db_row(st, e)) == 1; x->n++) {
        x->row[x->n].seq = sqlite3_column_int64(st, 0);
        x->row[x->n].month = sqlite3_column_int(st, 2);
        snprintf(x->row[x->n].id, UUID_LEN, "%s", db_text(st, 1));
        snprintf(x->row[x->n].tenant, UUID_LEN, "%s", db_text(st, 3));
    }
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

/* 1: the batch is full. A row that is in no table any more was removed with its archive: it is said and passed. */
static int add_row(struct reading *x, int i, struct err *e)
{
    struct printing p = {.w = x->w, .b = x->b};
    struct err why = {0};
    if (learn_name(x->w, x->row[i].tenant, e)) return -1;
    int rc = ledger_row(x->w->g->ledger, NULL, x->row[i].id, x->row[i].month, each_row, &p, &why);
    if (rc < 0 && x->b->full && why.code == ERR_TOO_LARGE) return 1;
    if (rc < 0) return err_set(e, why.code, "%s", why.msg);
    if (rc == 0) log_warn("webhook_row_missing", LS("webhook", x->h->id), LS("request", x->row[i].id));
    x->b->to.usage = x->row[i].seq;
    return 0;
}

static int add_outbox(struct reading *x, struct err *e)
{
    if (db_read(x->w->g->db, read_outbox, x, HOOK_READ_MS, e)) return -1;
    bool over = x->n < x->b->max - x->b->n;
    for (int i = 0; i < x->n; i++) {
        int rc = add_row(x, i, e);
        if (rc) return rc < 0 ? -1 : 0;
    }
    if (over) x->b->to.usage = x->last;
    return 0;
}

static void close_batch(struct batch *b)
{
    buf_addc(&b->body, ']');
}

int batch_live(struct webhooks *w, const struct hook *h, const struct hook_place *last, struct batch *b, struct err *e)
{
    struct reading x = {.w = w, .h = h, .b = b};
    b->to = h->at;
    x.last = last ? last->event : w->heads.event;
    if (x.last > h->at.event && !*h->events) b->to.event = x.last;
    if (x.last > h->at.event && *h->events && db_read(w->g->db, read_events, &x, HOOK_READ_MS, e)) return -1;
    x.last = last ? last->usage : w->heads.usage;
    if (x.last > h->at.usage && !h->usage) b->to.usage = x.last;
    if (x.last > h->at.usage && h->usage && !b->full && add_outbox(&x, e)) return -1;
    close_batch(b);
    return b->body.failed ? err_set(e, ERR_NO_MEMORY, "no memory for a batch") : 0;
}

/* --- once more --- */

/* Whether the place is beyond the one that the batch of before ended at. */
static bool is_beyond(const struct rows_cursor *at, const struct rows_cursor *last)
{
    return at->month > last->month || (at->month == last->month && strcmp(at->id, last->id) >= 0);
}

int batch_replay(struct webhooks *w, const struct hook *h, const struct hook_place *last, struct batch *b, struct err *e)
{
    const struct replay *r = &h->at.replay;
    struct rows_query q = {.tenant = *h->tenant ? h->tenant : NULL, .start = r->start, .end = r->until, .all = true};
    struct printing p = {.w = w, .b = b};
    bool more = true;
    b->to = h->at;
    while (more && !b->full && !(last && is_beyond(&b->to.replay.at, &last->replay.at))) {
        struct err why = {0};
        int max = last ? 1 : b->max - b->n; /* exactly the rows of before: there may be further ones by now */
        int rc = ledger_rows(w->g->ledger, &q, &b->to.replay.at, max, each_row, &p, &more, &why);
        if (rc == 0 || b->full) continue;
        if (!*p.missing) return err_set(e, why.code, "%s", why.msg);
        if (learn_name(w, p.missing, e)) return -1;
        p.missing[0] = 0;
        more = true;
    }
    if (!b->n) b->to.replay = (struct replay){0}; /* it is over */
    close_batch(b);
    return b->body.failed ? err_set(e, ERR_NO_MEMORY, "no memory for a batch") : 0;
}

int batch_test(const struct webhooks *w, const char *id, const char *tenant, struct batch *b, struct err *e)
{
    char event[UUID_LEN];
    uuid7(event);
    open_event(w, &b->body, "webhook.test", event, tenant, clock_wall_us());
    buf_addf(&b->body, "{\"webhook\":\"%s\"}}]", id);
    b->n = 1;
    return b->body.failed ? err_set(e, ERR_NO_MEMORY, "no memory for a batch") : 0;
}
