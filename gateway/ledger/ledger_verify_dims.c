/* ledger_verify_dims: rollup_by against the rows and the rollups that ledger_verify.c holds against the rows (see there for the manner).
 *
 *     raw --> BILL of tenants        rollup_day --> KEY, MODEL, ENDPOINT, STATE of tenants        those --> the rows of ''; TENANT --> TENANT_MONTH
 *
 * Prices are compared where raw rows or rows of this table stand on both sides; rollup_day knows none. Days of latencies are the sums of their hours. */
#include "gateway/ledger/ledger_dims.h"
#include "gateway/ledger/ledger_internal.h"

#define STR(x) #x
#define DIM(name) STR(name)
/* Numbers of enum rollup_dim, for SQL. */
#define BILL 0
#define KEY 1
#define MODEL 2
#define ENDPOINT 3
#define STATE 4
#define TENANT 5
#define TENANT_MONTH 6
_Static_assert(DIM_BILL == BILL && DIM_KEY == KEY && DIM_MODEL == MODEL && DIM_ENDPOINT == ENDPOINT && DIM_STATE == STATE && DIM_TENANT == TENANT &&
                   DIM_TENANT_MONTH == TENANT_MONTH && LATENCY_DAY == 16,
               "the SQL below names them by number");

#define COUNT "SELECT count(*) FROM (SELECT 1 FROM ("
#define SUMS "n, prompt p, cached h, output o, produced q, cost z"
#define LESS "-n, -prompt, -cached, -output, -produced, -cost, -errors, -aborts"
#define IN_TIME "WHERE t >= ?1 AND t < ?2 "
#define DIFFER \
    ") GROUP BY tenant, t, name, version, base, price HAVING sum(n) <> 0 OR sum(p) <> 0 OR sum(h) <> 0 OR sum(o) <> 0 OR sum(q) <> 0 OR sum(z) <> 0" \
    " OR sum(x) <> 0 OR sum(a) <> 0)"
#define ROLLED(price, of, dim) \
    " UNION ALL SELECT tenant, t, name, version, base, " price ", " LESS " FROM main.rollup_by " IN_TIME "AND tenant " of " '' AND dim = " DIM(dim)
/* Tenants' rows, from days. */
#define FROM_DAY(name, base, dim) \
    COUNT "SELECT tenant, t, " name " name, 0 version, " base " base, 0 price, " SUMS ", (state IN (2, 3, 5)) * n x, (state = 1) * n a" \
          " FROM main.rollup_day " IN_TIME ROLLED("0", "<>", dim) DIFFER
/* Everybody's, from tenants'. */
#define FROM_OWN(name, base, own, dim) \
    COUNT "SELECT '' tenant, t, " name " name, 0 version, base, price, " SUMS ", errors x, aborts a FROM main.rollup_by " IN_TIME \
          "AND tenant <> '' AND dim = " DIM(own) base ROLLED("price", "=", dim) DIFFER

static const char bill[] =
    COUNT "SELECT tenant, t_start / 1000000 / 86400 * 86400 t, adapter name, version, base, CASE WHEN adjusts IS NULL THEN price ELSE -1 END price,"
          " adjusts IS NULL n, prompt p, cached h, output o, produced q, cost z, adjusts IS NULL AND state IN (2, 3, 5) x,"
          " adjusts IS NULL AND state = 1 a FROM raw WHERE t_start >= ?1 * 1000000" ROLLED("price", "<>", BILL) DIFFER;
static const char month[] =
    COUNT "SELECT tenant, ?1 t, name, version, base, price, " SUMS ", errors x, aborts a FROM main.rollup_by " IN_TIME
          "AND tenant = '' AND dim = " DIM(TENANT) ROLLED("price", "=", TENANT_MONTH) DIFFER;
static const char latency[] =
    COUNT "SELECT t / 86400 * 86400 t, kind, bucket, n FROM main.rollup_latency " IN_TIME "AND tenant = '' AND kind < 16"
          " UNION ALL SELECT t, kind - 16, bucket, -n FROM main.rollup_latency " IN_TIME "AND tenant = '' AND kind >= 16)"
          " GROUP BY t, kind, bucket HAVING sum(n) <> 0)";

const struct ledger_check ledger_dim_checks[] = {
    {"rollup_by", bill, false, true},
    {"rollup_by", FROM_DAY("key", "''", KEY), false, false},
    {"rollup_by", FROM_DAY("model", "CASE WHEN model = base THEN base ELSE '' END", MODEL), false, false},
    {"rollup_by", FROM_DAY("endpoint", "''", ENDPOINT), false, false},
    {"rollup_by", FROM_DAY("CAST(state AS TEXT)", "''", STATE), false, false},
    {"rollup_by", FROM_OWN("''", "", BILL, BILL), false, false},
    {"rollup_by", FROM_OWN("name", " AND base <> ''", MODEL, MODEL), false, false},
    {"rollup_by", FROM_OWN("name", "", ENDPOINT, ENDPOINT), false, false},
    {"rollup_by", FROM_OWN("name", "", STATE, STATE), false, false},
    {"rollup_by", COUNT "SELECT '' tenant, t, tenant name, 0 version, '' base, price, " SUMS ", errors x, aborts a FROM main.rollup_by " IN_TIME
                        "AND tenant <> '' AND dim = " DIM(STATE) ROLLED("price", "=", TENANT) DIFFER, false, false},
    {"rollup_by", month, false, false},
    {"rollup_latency", latency, true, false},
};
const int ledger_ndim_checks = sizeof ledger_dim_checks / sizeof *ledger_dim_checks;
