/* ledger: admissions that are open, and their way to one usage row each.
 *
 *     ledger_admit() -> [job: INSERT admission] --committed--> open --ledger_settle()--> [job: ledger_settle_run] --committed--> done
 *                             `--failed--> admit_done(error), forgotten        ^               |
 *                                                                              `--disk full----' (handed in again; the id makes it safe)
 *
 * What settling needs is taken at admission: the entry's memory, and a place in the writer's queue (there are never more than
 * LEDGER_OPEN_MAX open, and the queue keeps more than that for urgent jobs). So an end can always be recorded, or waits for the disk.
 * Entries stand in a table by id until their rows are committed. Of the struct that the caller passes to ledger_settle() only what may have changed since is
 * read (what answered, its price, what is held); all of it for an id that isn't there (a second settlement, say), and then the database's own guard decides.
 *
 * Progress notes are best effort: a full queue drops one, the next says more. Any thread; callbacks come on the writer's. */
#include "gateway/ledger/ledger_internal.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/observe/meters.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLOSE_WAIT_MS 10000
#define LOAD_MS 30000
#define AHEAD_US 86400000000ll

const char *const usage_state_name[USAGE_STATES] = {"completed", "client_abort", "upstream_error", "timeout", "rejected", "gateway_crash"};
const char *const count_source_name[COUNT_SOURCES] = {"none", "engine", "usage", "receipt", "progress", "estimate"};

static struct entry **slot_of(struct ledger *l, const char *id)
{
    uint32_t h = 2166136261u;
    for (; *id; id++) h = (h ^ (uint8_t)*id) * 16777619u;
    return &l->bucket[h & (LEDGER_BUCKETS - 1)];
}

/* Harmless where it is not in the table, as that of a second settlement. */
static void take_out(struct entry *x)
{
    pthread_mutex_lock(&x->ledger->lock);
    struct entry **p = slot_of(x->ledger, x->a.id);
    while (*p && *p != x) p = &(*p)->next;
    if (*p) *p = x->next;
    pthread_mutex_unlock(&x->ledger->lock);
}

/* Who settles it: the first that asks. It stays in the table until its row is committed: were it in neither meanwhile, for its admission may still be on
 * its way to the file, ledger_final_before() would pass it by. */
static struct entry *claim(struct ledger *l, const char *id)
{
    pthread_mutex_lock(&l->lock);
    struct entry *x = *slot_of(l, id);
    while (x && strcmp(x->a.id, id) != 0) x = x->next;
    if (x && x->settling) x = NULL;
    if (x) x->settling = true;
    pthread_mutex_unlock(&l->lock);
    return x;
}

static int put_in(struct ledger *l, struct entry *x, struct err *e)
{
    pthread_mutex_lock(&l->lock);
    struct entry **p = slot_of(l, x->a.id);
    struct entry *same = *p;
    while (same && strcmp(same->a.id, x->a.id) != 0) same = same->next;
    if (!same) {
        x->next = *p;
        *p = x;
    }
    pthread_mutex_unlock(&l->lock);
    return same ? err_set(e, ERR_CONFLICT, "the request %s is open already", x->a.id) : 0;
}

static void release(struct entry *x)
{
    struct ledger *l = x->ledger;
    if (x->admitted) l->open--;
    free(x->s.route);
    free(x);
}

static void forget(struct entry *x)
{
    take_out(x);
    release(x);
}

/* That it is a judge's question: written before it is asked, so that it is known whatever becomes of it (gateway/quality/feedback.c). */
static int note_judge(struct db *d, sqlite3 *c, const struct entry *x, struct err *e)
{
    static const char sql[] = "INSERT OR IGNORE INTO usage_judge(id, month) VALUES(?1, ?2)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "si", x->a.id, (int64_t)x->month->yyyymm) == 0 ? db_done(st, e) : -1;
}

static int run_admit(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO admission(id, tenant, key, base, adapter, version, model, endpoint, stream, reserved, t_start,"
                              " reserved_cost, alias, price) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
    const struct entry *x = u;
    const struct admission *a = &x->a;
    if (a->who.judge && note_judge(d, c, x, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssssissiiiisi", a->id, a->who.tenant, a->who.key, a->what.base, a->what.adapter, (int64_t)a->what.version,
                       a->model, a->endpoint, (int64_t)a->stream, a->reserved_tokens, a->t_start, a->reserved_cost, a->alias, a->price.row))
        return -1;
    return db_done(st, e);
}

/* Takes what it needs out of the entry before the callback: the moment that runs, another thread may settle and free the entry. */
static void admit_done(void *u, const struct err *e)
{
    struct entry *x = u;
    struct ledger *l = x->ledger;
    void (*done)(void *, const struct err *) = x->admit_done;
    void *user = x->admit_user;
    if (e && claim(l, x->a.id)) forget(x);
    done(user, e);
    l->queued--;
}

static struct entry *entry_new(struct ledger *l, const struct admission *a, struct err *e)
{
    struct month *m = ledger_month(l, a->t_start, e);
    struct entry *x = m ? calloc(1, sizeof *x) : NULL;
    if (!x) {
        err_set(e, ERR_LEDGER, "usage cannot be recorded now");
        return NULL;
    }
    x->ledger = l;
    x->a = *a;
    x->month = m;
    return x;
}

int ledger_admit(struct ledger *l, const struct admission *a, void (*done)(void *u, const struct err *e), void *u, struct err *e)
{
    if (usage_id_time(a->id) < clock_wall_us() - LEDGER_ADMIT_S * 1000000ll)
        return err_set(e, ERR_TIMEOUT_BODY, "the request did not arrive within %d s", LEDGER_ADMIT_S);
    if (l->open++ >= LEDGER_OPEN_MAX) {
        l->open--;
        return err_set(e, ERR_LEDGER, "%d requests are open; try again", LEDGER_OPEN_MAX);
    }
    struct entry *x = entry_new(l, a, e);
    if (!x) {
        l->open--;
        return -1;
    }
    x->admitted = true;
    x->admit_done = done;
    x->admit_user = u;
    if (put_in(l, x, e)) {
        release(x);
        return -1;
    }
    l->queued++;
    if (db_write(l->db, &(struct db_job){.run = run_admit, .done = admit_done, .user = x}, e) == 0) return 0;
    l->queued--;
    forget(x);
    return -1;
}

struct progress {
    char id[UUID_LEN];
    int64_t prompt, cached, delivered, t;
};

static int run_progress(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE admission SET prompt = max(prompt, ?2), cached = max(cached, ?3), output = max(output, ?4),"
                              " t_noted = max(t_noted, ?5) WHERE id = ?1";
    const struct progress *p = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "siiii", p->id, p->prompt, p->cached, p->delivered, p->t) == 0 ? db_done(st, e) : -1;
}

static void note_done(void *u, const struct err *e)
{
    (void)e;
    free(u);
}

void ledger_progress(struct ledger *l, const char *id, int64_t prompt, int64_t cached, int64_t delivered)
{
    struct progress *p = calloc(1, sizeof *p);
    if (!p) return;
    snprintf(p->id, sizeof p->id, "%s", id);
    p->prompt = prompt;
    p->cached = cached;
    p->delivered = delivered;
    p->t = clock_wall_us();
    if (db_write(l->db, &(struct db_job){.run = run_progress, .done = note_done, .user = p}, NULL)) free(p);
}

struct move {
    char id[UUID_LEN];
    struct target what;
    int64_t price;
};

static int run_move(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE admission SET base = ?2, adapter = ?3, version = ?4, price = ?5 WHERE id = ?1";
    const struct move *m = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssii", m->id, m->what.base, m->what.adapter, (int64_t)m->what.version, m->price)) return -1;
    return db_done(st, e);
}

void ledger_moved(struct ledger *l, const struct admission *a)
{
    struct move *m = calloc(1, sizeof *m);
    if (!m) return;
    memcpy(m->id, a->id, sizeof m->id);
    m->what = a->what;
    m->price = a->price.row;
    if (db_write(l->db, &(struct db_job){.run = run_move, .done = note_done, .user = m, .urgent = true}, NULL)) free(m);
}

static int run_settle(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct entry *x = u;
    bool fresh = false;
    int rc = ledger_settle_run(d, c, x->month, &x->a, &x->s, &x->row, &fresh, e);
    if (rc == 0 && fresh && x->s.route) rc = ledger_route_run(d, c, x->month, &x->a, &x->s, &x->probe, e);
    x->counted |= fresh; /* a repeat after a commit whose sync failed finds the row, and it is still this one's */
    return rc;
}

static void settle_done(void *u, const struct err *e);

static int hand_in(struct entry *x, struct err *e)
{
    struct db_job job = {.run = run_settle, .done = settle_done, .user = x, .durable = true, .urgent = true};
    return db_write(x->ledger->db, &job, e);
}

static void meter_probe(struct metrics *m, const char *tenant, const struct settled_route *r)
{
    if (!*r->probe) return;
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "prompt"}, (double)r->prompt);
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "cached"}, (double)r->cached);
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "output"}, (double)r->output);
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "produced"}, (double)r->output);
}

static void meter(struct metrics *m, const struct entry *x)
{
    const struct settlement *s = &x->s;
    const char *tenant = x->a.who.tenant_name;
    metric_add(m, GM_REQUESTS, (const char *[]){tenant, x->a.endpoint, usage_state_name[s->state]}, 1);
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "prompt"}, (double)s->prompt);
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "cached"}, (double)s->cached);
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "output"}, (double)s->delivered);
    metric_add(m, GM_TOKENS, (const char *[]){tenant, "produced"}, (double)s->produced);
    if (s->route) meter_probe(m, tenant, s->route);
    if (s->t_first) metric_observe(m, GM_TTFT, NULL, (double)(s->t_first - x->a.t_start) / 1e6);
    metric_observe(m, GM_DURATION, NULL, (double)(s->t_end - x->a.t_start) / 1e6);
}

/* What was held becomes used. A row that was there before has been counted; one that could not be written will be, at the next start. */
static void settle_held(struct entry *x, bool committed)
{
    bool again = committed && !x->counted;
    if (!x->ledger->limits) return;
    limit_settle(x->ledger->limits, &x->a.held, again ? 0 : settled_tokens(&x->s), again ? 0 : settled_cost(&x->a, &x->s));
    if (!again && probe_tokens(&x->s))
        limit_adjust(x->ledger->limits, &x->a.who, x->s.route->what.adapter, x->a.t_start, probe_tokens(&x->s), probe_cost(&x->s));
}

static void settle_over(struct entry *x, bool committed)
{
    struct ledger *l = x->ledger;
    void (*done)(void *) = x->settle_done;
    void *user = x->settle_user;
    settle_held(x, committed);
    if (committed) {
        x->month->made = true;
        l->settled++;
        if (x->counted && l->metrics) meter(l->metrics, x);
    }
    forget(x);
    if (done) done(user);
    l->queued--;
}

/* A refusal of the disk is waited out; any other is a bug of ours: it is logged, and the admission's row stays for the next start. */
static void settle_done(void *u, const struct err *e)
{
    struct entry *x = u;
    struct ledger *l = x->ledger; /* once handed in, x is the writer's */
    void (*waits)(void *) = x->s.impatient ? x->settle_done : NULL;
    void *user = x->settle_user;
    bool again = e && e->code == ERR_LEDGER && !l->closing;
    if (again && waits) x->settle_done = NULL; /* a client does not wait for a disk that is full */
    if (again && hand_in(x, NULL) == 0) {
        l->retried++;
        if (waits) waits(user);
        return;
    }
    if (again && waits) x->settle_done = waits;
    if (e) log_error("settlement_lost", LS("request", x->a.id), LS("state", usage_state_name[x->s.state]), LS("reason", e->msg));
    settle_over(x, !e);
}

static int64_t count_of(int64_t v) { return v < 0 ? 0 : v > LEDGER_COUNT_MAX ? LEDGER_COUNT_MAX : v; }

/* The wall clock may have been set back meanwhile: durations are never negative. Cached tokens are some of the prompt's, whatever an upstream says: else
 * a bill would have lines below zero. */
static struct settlement tidy(const struct settlement *s, int64_t t_start)
{
    struct settlement t = *s;
    t.prompt = count_of(s->prompt);
    t.cached = count_of(s->cached);
    if (t.cached > t.prompt) t.cached = t.prompt;
    t.delivered = count_of(s->delivered);
    t.produced = count_of(s->produced);
    t.before = count_of(s->before);
    t.after = count_of(s->after);
    if (t.t_first && t.t_first < t_start) t.t_first = t_start;
    if (t.t_end < t_start) t.t_end = t_start;
    if (t.t_first > t.t_end) t.t_end = t.t_first;
    return t;
}

void ledger_settle(struct ledger *l, const struct admission *a, const struct settlement *s, void (*done)(void *u), void *u)
{
    struct err e = {0};
    struct entry *x = claim(l, a->id);
    if (!x) x = entry_new(l, a, &e);
    if (!x) {
        struct limit_ticket held = a->held;
        log_error("settlement_lost", LS("request", a->id), LS("reason", e.msg));
        if (l->limits) limit_settle(l->limits, &held, settled_tokens(s), settled_cost(a, s));
        free(s->route);
        if (done) done(u);
        return;
    }
    free(x->s.route);
    x->s = tidy(s, x->a.t_start);
    x->a.what = a->what;
    x->a.price = a->price;
    x->a.held = a->held;
    x->settle_done = done;
    x->settle_user = u;
    l->queued++;
    ledger_trim(l, x->s.t_end);
    if (hand_in(x, &e)) settle_done(x, &e);
}

/* What was told to be final stays so though the clock was set back while no process ran: ids go on from the last one, of the newest month's rows or of
 * the admissions. Up to a day, else one wrong clock would decide for ever. */
static int go_on_from_last(struct ledger *l, sqlite3 *c, struct err *e)
{
    static const char admitted[] = "SELECT max(id) FROM admission WHERE id < ?1";
    struct month *months[LEDGER_MONTHS_MAX];
    char bound[UUID_LEN];
    int n;
    usage_id_at(clock_wall_us() + AHEAD_US, bound);
    if (ledger_months(l, c, months, &n, e)) return -1;
    for (int i = 0; i < (n < 2 ? n : 2) + 1; i++) {
        sqlite3_stmt *st = db_stmt(l->db, c, i ? months[i - 1]->last : admitted, e);
        if (!st || db_bind(st, e, "s", bound) || db_row(st, e) != 1) return -1;
        uuid7_after(db_text(st, 0));
        sqlite3_reset(st);
    }
    return 0;
}

static int read_open(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM admission";
    struct ledger *l = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    l->open = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return go_on_from_last(l, c, e);
}

int ledger_open(struct ledger **out, struct db *d, struct err *e)
{
    struct ledger *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NO_MEMORY, "no memory for the ledger");
    l->db = d;
    l->opened_us = clock_wall_us();
    l->opened_mono_us = clock_mono_us();
    pthread_mutex_init(&l->lock, NULL);
    if (ledger_upgrade(l, e) || db_read(d, read_open, l, LOAD_MS, e) || db_read(d, ledger_read_verified, l, LOAD_MS, e)) {
        ledger_close(l);
        return -1;
    }
    *out = l;
    return 0;
}

static void free_open(struct ledger *l)
{
    for (int i = 0; i < LEDGER_BUCKETS; i++)
        while (l->bucket[i]) {
            struct entry *x = l->bucket[i];
            l->bucket[i] = x->next;
            free(x->s.route);
            free(x);
        }
    while (l->months) {
        struct month *m = l->months;
        l->months = m->next;
        free(m);
    }
}

void ledger_close(struct ledger *l)
{
    if (!l) return;
    l->closing = true;
    int64_t until = clock_mono_us() + CLOSE_WAIT_MS * 1000ll;
    while (l->queued > 0 && clock_mono_us() < until) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    if (l->queued > 0) {
        log_error("ledger_not_drained", LI("settlements", l->queued));
        return; /* the writer still holds entries: leak rather than let it touch freed memory */
    }
    free_open(l);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void ledger_set_metrics(struct ledger *l, struct metrics *m) { l->metrics = m; }

void ledger_set_limits(struct ledger *l, struct limits *limits, struct prices *prices)
{
    l->limits = limits;
    l->prices = prices;
}

int64_t ledger_open_admissions(struct ledger *l) { return l->open; }

int64_t ledger_settled(const struct ledger *l) { return l->settled; }

int64_t ledger_retried(const struct ledger *l) { return l->retried; }
