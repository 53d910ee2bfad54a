/* webhook_keep: once a second, what keeps the outbox short and the webhooks' lag bounded. On the sending thread.
 *
 *     pass    a webhook for which nothing came has its place moved on, so that it does not hold what others have taken
 *     lag     more than webhook_lag_rows wait, or the oldest waits longer than webhook_lag_s: the webhook stops as `failing`, an event
 *             says so, and it holds nothing any more. What it missed begins with the oldest id among what waits and what is not final:
 *             that is noted as its redelivery, which reads raw rows once it is resumed. So a receiver that is away for a month loses nothing.
 *     trim    rows that every webhook that wants them has taken, in slices of the writer: first from the front, then between those that wait
 *
 * A look at one webhook costs some steps of an index; rows are counted only where the numbers say that there may be too many. The outbox as a
 * whole is bounded, too: beyond OUTBOX_TIMES webhook_lag_rows the webhook that is furthest behind stops, of those that
 * some request waits for: one that is paused and without traffic keeps its place, however old, and holds nothing. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/observe/meters.h"
#include "gateway/settings.h"
#include "gateway/webhook/webhook_impl.h"
#include <string.h>

#define KEEP_MS 1000
#define LAG_MS 3000
#define LAG_READ_MS 10000
#define TRIM_SLICE 2000
#define OUTBOX_TIMES 4
#define PASS_MS 10000

/* --- pass --- */

static void pass_idle(struct webhooks *w)
{
    for (struct hook *h = w->hooks; h; h = h->next) {
        if (h->phase != HOOK_IDLE || h->gone || h->state != HOOK_ENABLED || *h->msg) continue;
        if (h->at.usage == h->stands.usage && h->at.event == h->stands.event) continue;
        hook_pass(h);
    }
}

/* --- lag --- */

struct lag {
    const struct hook *h;
    int64_t limit;
    bool many;           /* more rows than the limit */
    char first[UUID_LEN]; /* the one that waits longest; "": none does */
    char oldest[UUID_LEN]; /* the lowest id of those */
};

static int read_one(struct db *d, sqlite3 *c, const char *sql, const struct lag *x, int64_t n, char out[UUID_LEN], struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "isi", x->h->stands.usage, x->h->tenant, n)) return -1;
    int rc = db_row(st, e);
    snprintf(out, UUID_LEN, "%s", rc == 1 ? db_text(st, 0) : "");
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

#define NTH(which) "SELECT id FROM outbox WHERE " which " ORDER BY seq LIMIT 1 OFFSET ?3"
#define ALL "seq > ?1 AND ?2 = ''"
#define OWN "tenant = ?2 AND seq > ?1"
static const char nth_all[] = NTH(ALL), nth_own[] = NTH(OWN);

static int read_lag(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct lag *x = u;
    char last[UUID_LEN] = "";
    bool own = *x->h->tenant;
    if (read_one(d, c, own ? nth_own : nth_all, x, 0, x->first, e)) return -1;
    bool may = x->h->all->heads.usage - x->h->stands.usage > x->limit;
    if (*x->first && may && read_one(d, c, own ? nth_own : nth_all, x, x->limit, last, e)) return -1;
    x->many = *last;
    return 0;
}

static int read_oldest(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char all[] = "SELECT min(id) FROM outbox WHERE " ALL " AND ?3 = 0", own[] = "SELECT min(id) FROM outbox WHERE " OWN " AND ?3 = 0";
    struct lag *x = u;
    return read_one(d, c, *x->h->tenant ? own : all, x, 0, x->oldest, e);
}

/* Unix seconds: nothing that it has not taken, or that is still to be settled, began before. None may wait now: what comes while it fails is kept for nobody. */
static int find_gap(const struct hook *h, int64_t *start, struct err *e)
{
    struct ledger *l = h->all->g->ledger;
    struct lag x = {.h = h};
    char final[UUID_LEN];
    int64_t us;
    if (ledger_final_before(l, final, &us, e) || db_read(h->all->g->db, read_oldest, &x, LAG_READ_MS, e)) return -1;
    if (*x.oldest && strcmp(x.oldest, final) < 0) us = usage_id_time(x.oldest);
    if (h->at.replay.until && h->at.replay.start < us / 1000000) us = h->at.replay.start * 1000000;
    *start = us >= 1000000 ? us / 1000000 : 1;
    return 0;
}

void hook_stop(struct hook *h)
{
    struct err e = {0};
    int64_t start = 0;
    if (h->usage && find_gap(h, &start, &e)) {
        log_warn("webhook_lag", LS("webhook", h->id), LS("reason", e.msg));
        h->behind = NULL; /* the next look tries again */
        return;
    }
    h->then = h->at;
    h->then.replay.start = start;
    h->moves = false;
    snprintf(h->broken.msg, sizeof h->broken.msg, "%s", h->behind);
    log_warn("webhook_failing", LS("webhook", h->id), LS("reason", h->behind));
    hook_save(h, hook_run_stopped);
}

/* Seconds that the oldest waits. */
static int64_t look_at(struct hook *h)
{
    const struct settings *s = h->all->g->set;
    struct lag x = {.h = h, .limit = s->webhook_lag_rows};
    struct err e = {0};
    int64_t now = clock_wall_us(), age_s = 0, fails_s = h->failing_since ? (now - h->failing_since) / 1000000 : 0;
    bool may = h->usage && h->all->heads.usage > h->stands.usage, known = !may || db_read(h->all->g->db, read_lag, &x, LAG_READ_MS, &e) == 0;
    if (known) h->holds = *x.first;
    else log_warn("webhook_lag", LS("webhook", h->id), LS("reason", e.msg));
    if (*x.first) age_s = (now - usage_id_time(x.first)) / 1000000;
    if (x.many)
        h->behind = "more requests wait for it than webhook_lag_rows";
    else if (age_s > s->webhook_lag_s || fails_s > s->webhook_lag_s)
        h->behind = "it has been behind for longer than webhook_lag_s";
    return age_s;
}

static bool is_held(const struct hook *h)
{
    return !h->gone && h->state != HOOK_FAILING;
}

static int read_full(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM outbox ORDER BY seq LIMIT 1 OFFSET ?1";
    int64_t *most = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "i", *most) == 0 ? db_row(st, e) : -1;
    if (rc >= 0) *most = rc; /* whether there are more */
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static void bound_outbox(struct webhooks *w)
{
    struct hook *worst = NULL;
    int64_t most = w->g->set->webhook_lag_rows * OUTBOX_TIMES;
    for (struct hook *h = w->hooks; h; h = h->next)
        if (is_held(h) && h->usage && h->holds && (!worst || h->stands.usage < worst->stands.usage)) worst = h;
    if (!worst || w->heads.usage - worst->stands.usage <= most || db_read(w->g->db, read_full, &most, LAG_READ_MS, NULL) || !most) return;
    worst->behind = "too many requests wait for all webhooks together";
}

static void check_lag(struct webhooks *w)
{
    int64_t worst = 0;
    int count[HOOK_STATES] = {0}, retrying = 0;
    for (struct hook *h = w->hooks; h; h = h->next) {
        int64_t age = is_held(h) ? look_at(h) : 0;
        if (age > worst) worst = age;
        if (h->gone) continue;
        count[h->state]++;
        retrying += h->state == HOOK_ENABLED && h->failures > 0;
    }
    bound_outbox(w);
    for (int i = 0; i < HOOK_STATES; i++) metric_set(w->g->metrics, GM_WEBHOOK_STATES, (const char *[]){hook_state_name[i]}, count[i]);
    metric_set(w->g->metrics, GM_WEBHOOK_RETRYING, NULL, retrying);
    metric_set(w->g->metrics, GM_WEBHOOK_LAG, NULL, (double)worst);
}

/* --- trim --- */

/* From w->trim_at on: what nobody waits for. A webhook that was made meanwhile begins behind what is here. */
static int run_trim(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char end[] = "SELECT max(seq), count(*) FROM (SELECT seq FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2)";
    static const char sql[] = "DELETE FROM outbox WHERE seq > ?1 AND seq <= ?2 AND NOT EXISTS(SELECT 1 FROM webhook w WHERE w.usage = 1 AND"
                              " w.state <> 'failing' AND w.tenant IN ('', outbox.tenant) AND w.usage_seq < outbox.seq)";
    struct webhooks *w = u;
    sqlite3_stmt *st = db_stmt(d, c, end, e);
    if (!st || db_bind(st, e, "ii", w->trim_at, (int64_t)TRIM_SLICE) || db_row(st, e) != 1) return -1;
    int64_t last = sqlite3_column_int64(st, 0), n = sqlite3_column_int64(st, 1);
    sqlite3_reset(st);
    if (n && (!(st = db_stmt(d, c, sql, e)) || db_bind(st, e, "ii", w->trim_at, last) || db_done(st, e))) return -1;
    w->trim_many = n && sqlite3_changes(c) > TRIM_SLICE / 2;
    w->trim_at = n == TRIM_SLICE ? last : 0; /* at the end: from the front again, next time */
    return 0;
}

static void trimmed(void *u, const struct err *e)
{
    struct webhooks *w = u;
    if (e) w->trim_at = 0;
    bool more = w->trim_at != 0, many = more && w->trim_many;
    w->trimming = more;
    w->trim_busy = false;
    if (many) hook_kick(w); /* else at the next tick: where most rows wait, the walk is not worth the writer's time */
}

static void trim(struct webhooks *w)
{
    if (w->trim_busy) return;
    w->trim_busy = true;
    if (db_write(w->g->db, &(struct db_job){.run = run_trim, .done = trimmed, .user = w}, NULL)) w->trim_busy = false;
}

static bool is_due(int64_t *next_us, int64_t now, int ms)
{
    if (now < *next_us) return false;
    *next_us = now + ms * 1000ll;
    return true;
}

void hooks_keep(struct webhooks *w)
{
    int64_t now = clock_mono_us();
    bool second = is_due(&w->keep_us, now, KEEP_MS);
    if (second || w->trimming) trim(w);
    if (second && is_due(&w->pass_us, now, PASS_MS)) pass_idle(w);
    if (second && is_due(&w->lag_us, now, LAG_MS)) check_lag(w);
}
