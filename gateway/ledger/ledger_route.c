/* ledger_route: what is written of a request of an adaptive alias beside its usage row (docs/METERING.md, "Probes").
 *
 * A line in usage_route says how its model was chosen and keeps what a later rating teaches. Where the small model was asked in vain, what it had computed is a
 * usage row of its own, under an id of its own, of the small model at its price: so sums, budgets, exports, invoices and the verification know it as they know
 * any row. Both are in the savepoint of the request's own row, and only where that is new: so they are as often there as it is. On the writer thread, but for ledger_route_json(). */
#include "base/json.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/quality/route.h"

#define READ_MS 2000

static int insert_route(struct db *d, sqlite3 *c, const struct month *m, const struct admission *a, const struct settled_route *r, struct err *e)
{
    static const char sql[] = "INSERT OR IGNORE INTO usage_route(id, month, way, need, reason, probe, alias, targets, cost, features) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "siidssssd", a->id, (int64_t)m->yyyymm, (int64_t)r->way, r->need, r->reason, r->probe, a->alias, r->targets, r->cost)) return -1;
    if (sqlite3_bind_blob(st, 10, r->nfeatures ? (const void *)r->features : "", r->nfeatures, SQLITE_STATIC)) return db_error(c, "bind", e);
    return db_done(st, e);
}

static void fill_probe(struct usage_row *p, const struct month *m, const struct admission *a, const struct settled_route *r)
{
    *p = (struct usage_row){.id = r->probe, .tenant = a->who.tenant, .key = a->who.key, .base = r->what.base, .adapter = r->what.adapter,
                            .model = a->model, .alias = a->alias, .endpoint = a->endpoint, .finish = "", .engine = r->engine, .version = r->what.version,
                            .stream = a->stream, .state = USAGE_COMPLETED, .http_status = 200, .t_start = a->t_start, .t_end = r->t_end,
                            .prompt = r->prompt, .cached = r->cached, .output = r->output, .produced = r->output, .source = COUNT_ENGINE,
                            .price = r->price.row, .cost = price_cost(&r->price, r->prompt, r->cached, r->output), .attempt = 1, .month = m->yyyymm};
}

int ledger_route_run(struct db *d, sqlite3 *c, struct month *m, const struct admission *a, const struct settlement *s, struct usage_row *probe, struct err *e)
{
    const struct settled_route *r = s->route;
    bool fresh = false;
    if (insert_route(d, c, m, a, r, e)) return -1;
    if (!*r->probe) return 0;
    fill_probe(probe, m, a, r);
    if (ledger_count_run(d, c, m, probe, &fresh, e)) return -1;
    return fresh ? limit_settle_run(d, c, &a->who, r->what.adapter, a->t_start, probe_tokens(s), probe_cost(s), e) : 0;
}

struct telling {
    const char *id;
    json_t *o;
};

static int read_route(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT way, need, reason, probe FROM usage_route WHERE id = ?1";
    const struct telling *x = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "s", x->id) == 0 ? db_row(st, e) : -1;
    json_t *route = json_null();
    if (rc == 1) {
        int64_t way = sqlite3_column_int64(st, 0);
        bool is_large = way == ROUTE_DIRECT || way == ROUTE_ESCALATED;
        route = json_pack("{ss ss sf ss so}", "model", is_large ? "large" : "small", "way", way >= 0 && way < ROUTE_WAYS ? route_way_name[way] : "unknown", "need",
                          sqlite3_column_double(st, 1), "reason", db_text(st, 2), "probe", *db_text(st, 3) ? json_string(db_text(st, 3)) : json_null());
    }
    if (st) sqlite3_reset(st);
    if (rc < 0) return -1;
    return json_object_set_new(x->o, "route", route) ? err_set(e, ERR_NO_MEMORY, "no memory for a request") : 0;
}

int ledger_route_json(struct ledger *l, const char *id, struct json_t *o, struct err *e)
{
    return db_read(l->db, read_route, &(struct telling){id, o}, READ_MS, e);
}
