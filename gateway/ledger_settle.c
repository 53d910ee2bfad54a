/* ledger_settle: the one transaction that turns an admission into a usage row (METERING.md section 1).
 *
 *     INSERT OR IGNORE usage row --new--> minute, hour, day x full key, day x adapter, latency, budgets --> DELETE admission
 *                                `-old--> (counted before: nothing) --------------------------------------^
 *
 * The id is the guard: whoever settles second changes nothing, so a repeat after a failed commit, by recovery, or by a caller's bug is
 * harmless. All runs in one savepoint of the writer's group; there is no state of the file in which a row is counted and its rollups
 * are not. On the writer thread only. */
#include "gateway/ledger_internal.h"
#include <string.h>

#define MINUTES_KEPT_S (7 * 86400ll)
#define HOURS_KEPT_S (400 * 86400ll)

#define SUMS "n, prompt, cached, output, produced, cost"
#define ADD_SUMS \
    "n = n + 1, prompt = prompt + excluded.prompt, cached = cached + excluded.cached, output = output + excluded.output," \
    " produced = produced + excluded.produced, cost = cost + excluded.cost"

/* Quarter octaves: four buckets per doubling, so a percentile is right within 19 %. */
int ledger_latency_bucket(int64_t us)
{
    if (us < 4) return us > 0 ? (int)us : 0;
    int octave = 63 - __builtin_clzll((unsigned long long)us);
    return octave * 4 + (int)(us >> (octave - 2) & 3);
}

static int64_t bucket_s(int64_t wall_us, int64_t width_s) { return wall_us / 1000000 / width_s * width_s; }

static int insert_row(struct db *d, sqlite3 *c, struct month *m, const struct admission *a, const struct settlement *s, bool *fresh,
                      struct err *e)
{
    if (!m->made && sqlite3_exec(c, m->create, NULL, NULL, NULL) != SQLITE_OK) return db_error(c, "usage table", e);
    sqlite3_stmt *st = db_stmt(d, c, m->insert, e);
    if (!st) return -1;
    const struct target *w = &a->what;
    if (db_bind(st, e, "sssssissiiisiiiiiiiiiiiis", a->id, a->who.tenant, a->who.key, w->base, w->adapter, (int64_t)w->version, a->model,
                a->endpoint, (int64_t)a->stream, (int64_t)s->state, (int64_t)s->http_status, s->finish, a->t_start, s->t_first, s->t_end,
                s->prompt, s->cached, s->delivered, s->produced, (int64_t)s->source, a->price.row, settled_cost(a, s), (int64_t)s->attempt,
                (int64_t)s->cold, s->engine) ||
        db_done(st, e))
        return -1;
    *fresh = sqlite3_changes(c) == 1;
    return 0;
}

static int add_span(struct db *d, sqlite3 *c, const char *sql, int64_t t, const struct admission *a, const struct settlement *s,
                    struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siiiiiii", a->who.tenant, t, (int64_t)s->state, s->prompt, s->cached, s->delivered, s->produced,
                       settled_cost(a, s)))
        return -1;
    return db_done(st, e);
}

static int add_day(struct db *d, sqlite3 *c, int64_t t, const struct admission *a, const struct settlement *s, struct err *e)
{
    static const char sql[] = "INSERT INTO rollup_day(tenant, t, key, base, adapter, version, model, endpoint, state, " SUMS
                              ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, ?10, ?11, ?12, ?13, ?14) ON CONFLICT DO UPDATE SET " ADD_SUMS;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sisssissiiiiii", a->who.tenant, t, a->who.key, a->what.base, a->what.adapter, (int64_t)a->what.version,
                       a->model, a->endpoint, (int64_t)s->state, s->prompt, s->cached, s->delivered, s->produced, settled_cost(a, s)))
        return -1;
    return db_done(st, e);
}

static int add_adapter(struct db *d, sqlite3 *c, int64_t t, const struct admission *a, const struct settlement *s, struct err *e)
{
    static const char sql[] = "INSERT INTO rollup_adapter(tenant, adapter, version, t, cold, last_used, " SUMS
                              ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, 1, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO UPDATE SET " ADD_SUMS
                              ", cold = cold + excluded.cold, last_used = max(last_used, excluded.last_used)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssiiiiiiiii", a->who.tenant, a->what.adapter, (int64_t)a->what.version, t, (int64_t)s->cold, s->t_end,
                       s->prompt, s->cached, s->delivered, s->produced, settled_cost(a, s)))
        return -1;
    return db_done(st, e);
}

static int add_latency(struct db *d, sqlite3 *c, const struct admission *a, int kind, int64_t us, struct err *e)
{
    static const char sql[] = "INSERT INTO rollup_latency(tenant, t, kind, bucket, n) VALUES(?1, ?2, ?3, ?4, 1)"
                              " ON CONFLICT DO UPDATE SET n = n + 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int64_t bucket = ledger_latency_bucket(us);
    if (!st || db_bind(st, e, "siii", a->who.tenant, bucket_s(a->t_start, 3600), (int64_t)kind, bucket)) return -1;
    return db_done(st, e);
}

static int add_rollups(struct db *d, sqlite3 *c, const struct admission *a, const struct settlement *s, struct err *e)
{
#define SPAN(table) \
    "INSERT INTO " table "(tenant, t, state, " SUMS ") VALUES(?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET " ADD_SUMS
    static const char minute[] = SPAN("rollup_minute"), hour[] = SPAN("rollup_hour");
#undef SPAN
    if (add_span(d, c, minute, bucket_s(a->t_start, 60), a, s, e) || add_span(d, c, hour, bucket_s(a->t_start, 3600), a, s, e)) return -1;
    int64_t day = bucket_s(a->t_start, 86400);
    if (add_day(d, c, day, a, s, e) || add_adapter(d, c, day, a, s, e)) return -1;
    if (s->t_first > 0 && add_latency(d, c, a, 0, s->t_first - a->t_start, e)) return -1;
    return add_latency(d, c, a, 1, s->t_end - a->t_start, e);
}

int ledger_settle_run(struct db *d, sqlite3 *c, struct month *m, const struct admission *a, const struct settlement *s, bool *counted,
                      struct err *e)
{
    static const char remove[] = "DELETE FROM admission WHERE id = ?1";
    bool fresh = false;
    if (insert_row(d, c, m, a, s, &fresh, e)) return -1;
    if (fresh && (add_rollups(d, c, a, s, e) ||
                  limit_settle_run(d, c, &a->who, a->what.adapter, a->t_start, settled_tokens(s), settled_cost(a, s), e)))
        return -1;
    sqlite3_stmt *st = db_stmt(d, c, remove, e);
    if (!st || db_bind(st, e, "s", a->id) || db_done(st, e)) return -1;
    *counted = fresh;
    return 0;
}

static int trim_table(struct db *d, sqlite3 *c, const char *sql, int64_t before, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "i", before) == 0 ? db_done(st, e) : -1;
}

/* Per tenant, by the front of its range in the primary key: no scan of what stays. */
static int run_trim(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define TRIM(table) \
    "DELETE FROM " table " WHERE (tenant, t) IN (SELECT r.tenant, r.t FROM tenant CROSS JOIN " table " r ON r.tenant = tenant.id AND r.t < ?1)"
    static const char minute[] = TRIM("rollup_minute"), hour[] = TRIM("rollup_hour"), latency[] = TRIM("rollup_latency");
#undef TRIM
    int64_t now = ((struct ledger *)u)->trimmed_hour * 3600;
    if (trim_table(d, c, minute, bucket_s((now - MINUTES_KEPT_S) * 1000000, 3600), e)) return -1;
    int64_t before = bucket_s((now - HOURS_KEPT_S) * 1000000, 86400);
    return trim_table(d, c, hour, before, e) || trim_table(d, c, latency, before, e) ? -1 : 0;
}

void ledger_trim(struct ledger *l, int64_t wall_us)
{
    int64_t hour = wall_us / 3600000000ll, last = l->trimmed_hour;
    if (hour <= last || !atomic_compare_exchange_strong(&l->trimmed_hour, &last, hour)) return;
    db_write(l->db, &(struct db_job){.run = run_trim, .user = l}, NULL); /* refused: the next hour does it */
}
