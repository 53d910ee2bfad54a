/* ledger_settle: the one transaction that turns an admission into a usage row (METERING.md section 1).
 *
 *     INSERT OR IGNORE usage row --new--> budgets, left to the group's end: rollups (ledger_sums.c), outbox --> DELETE admission
 *                                `-old--> (counted before: nothing) -----------------------------------------------^
 *
 * The id is the guard: whoever settles second changes nothing, so a repeat after a failed commit, by recovery, or by a caller's bug is
 * harmless. The row, its budgets and the end of its admission are one savepoint of the writer's group; what it adds to the rollups is left to
 * the end of the same transaction (db_later), where all rows of the group are summed: there is no state of the file in which a row is
 * counted and its rollups are not. On the writer thread only. */
#include "gateway/ledger/ledger_internal.h"
#include "gateway/ledger/ledger_sums.h"
#include <string.h>

static void fill_row(struct usage_row *r, const struct month *m, const struct admission *a, const struct settlement *s)
{
    *r = (struct usage_row){.id = a->id, .tenant = a->who.tenant, .key = a->who.key, .base = a->what.base, .adapter = a->what.adapter,
                            .model = a->model, .alias = a->alias, .endpoint = a->endpoint, .finish = s->finish, .engine = s->engine,
                            .version = a->what.version, .stream = a->stream, .state = s->state, .http_status = s->http_status,
                            .t_start = a->t_start, .t_first = s->t_first, .t_end = s->t_end, .prompt = s->prompt, .cached = s->cached,
                            .output = s->delivered, .produced = s->produced, .source = s->source, .price = a->price.row,
                            .cost = settled_cost(a, s), .attempt = s->attempt, .cold = s->cold, .load_us = s->load_us, .before = s->before, .after = s->after, .month = m->yyyymm};
}

static int insert_row(struct db *d, sqlite3 *c, struct month *m, const struct usage_row *r, bool *fresh, struct err *e)
{
    if (!m->made && ledger_make_table(d, c, m, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, m->insert, e);
    if (!st || db_bind(st, e, "sssssissiiisiiiiiiiiiiiisssi", r->id, r->tenant, r->key, r->base, r->adapter, r->version, r->model, r->endpoint,
                       r->stream, r->state, r->http_status, r->finish, r->t_start, r->t_first, r->t_end, r->prompt, r->cached, r->output,
                       r->produced, r->source, r->price, r->cost, r->attempt, r->cold, r->engine, r->adjusts, r->alias, r->load_us) ||
        db_done(st, e))
        return -1;
    *fresh = sqlite3_changes(c) == 1;
    m->added += *fresh;
    return 0;
}

/* Somebody wants usage at all; most of the time nobody does, and then no row is looked at. */
static int has_webhooks(struct db *d, sqlite3 *c, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM webhook WHERE usage = 1 LIMIT 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    sqlite3_reset(st);
    return rc;
}

static int put_out(struct db *d, sqlite3 *c, const struct usage_row *r, struct err *e)
{
    static const char sql[] = "INSERT INTO outbox(id, month, tenant) SELECT ?1, ?2, ?3 WHERE EXISTS"
                              " (SELECT 1 FROM webhook WHERE tenant IN (?3, '') AND usage = 1)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "sis", r->id, (int64_t)r->month, r->tenant) == 0 ? db_done(st, e) : -1;
}

/* Of all new rows of a group, in the order of their jobs. */
static int end_group(struct db *d, sqlite3 *c, const void *const *what, int n, struct err *e)
{
    struct sums *s = sums_new(n, 0, 0, 0);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory to sum %d rows", n);
    for (int i = 0; i < n; i++) sums_add(s, what[i]);
    int rc = sums_write(s, d, c, e), wanted = rc ? 0 : has_webhooks(d, c, e);
    sums_free(s);
    for (int i = 0; i < n && wanted > 0; i++)
        if (put_out(d, c, what[i], e)) wanted = -1;
    return rc || wanted < 0 ? -1 : 0;
}

/* Only where there was a policy: all others have no row there. */
static int insert_policy(struct db *d, sqlite3 *c, const struct usage_row *r, struct err *e)
{
    static const char sql[] = "INSERT OR IGNORE INTO usage_policy(id, month, before, after) VALUES(?1, ?2, ?3, ?4)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "siii", r->id, (int64_t)r->month, r->before, r->after) == 0 ? db_done(st, e) : -1;
}

int ledger_count_run(struct db *d, sqlite3 *c, struct month *m, const struct usage_row *r, bool *fresh, struct err *e)
{
    if (insert_row(d, c, m, r, fresh, e) || (*fresh && r->before > 0 && insert_policy(d, c, r, e))) return -1;
    return *fresh ? db_later(d, end_group, r, e) : 0;
}

int ledger_settle_run(struct db *d, sqlite3 *c, struct month *m, const struct admission *a, const struct settlement *s, struct usage_row *row,
                      bool *counted, struct err *e)
{
    static const char remove[] = "DELETE FROM admission WHERE id = ?1";
    bool fresh = false;
    fill_row(row, m, a, s);
    if (ledger_count_run(d, c, m, row, &fresh, e)) return -1;
    if (fresh && limit_settle_run(d, c, &a->who, a->what.adapter, a->t_start, settled_tokens(s), settled_cost(a, s), e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, remove, e);
    if (!st || db_bind(st, e, "s", a->id) || db_done(st, e)) return -1;
    *counted = fresh;
    return 0;
}
