/* ledger_verify_budgets: are the sums of budgets those of their rows, and can they be made so? Days of tenants, keys and adapters, which ledger_verify.c holds against the rows
 * themselves, against `budget_use`, both ways: a sum that is wrong, one without rows, rows without a sum.
 *
 * Of a subject that has limits, from the day and the month on in which it got them (`limits.since`). What a key took over from another when it was made is
 * no row of its own (`carried_*`). One query, one snapshot: settlements write rows, rollups and budgets in one transaction.
 *
 * A repair begins each such sum anew with what was carried and adds the days, which it has made of the rows before. What was told of a budget (`alerted`) stays told. */
#include "gateway/ledger/ledger_internal.h"

#define DAY(t) t " / 86400 * 86400"
#define MONTH(t) "CAST(strftime('%s', " t ", 'unixepoch', 'start of month') AS INTEGER)"
#define OF(table, subject, period, begin) \
    "SELECT l.subject s, " #period " p, " begin("r.t") " t, r.prompt + r.output k, r.cost z FROM main." table " r JOIN main.limits l ON l.subject = " subject \
    " WHERE r.t >= " begin("l.since")
#define DAYS_AND_MONTHS(table, subject) OF(table, subject, 0, DAY) " UNION ALL " OF(table, subject, 1, MONTH)

#define ROWS DAYS_AND_MONTHS("rollup_day", "'tenant:' || r.tenant") " UNION ALL " DAYS_AND_MONTHS("rollup_day", "'key:' || r.key") " UNION ALL " \
    DAYS_AND_MONTHS("rollup_adapter", "'adapter:' || r.tenant || '/' || r.adapter")
#define WHOLE "b.t >= CASE b.period WHEN 0 THEN " DAY("l.since") " ELSE " MONTH("l.since") " END" /* all rows of the period count in it */

const char ledger_budget_check[] =
    "SELECT count(*) FROM (SELECT 1 FROM (" ROWS " UNION ALL SELECT b.subject, b.period, b.t, b.carried_tokens - b.tokens, b.carried_cost - b.cost"
    " FROM main.budget_use b JOIN main.limits l USING(subject) WHERE " WHOLE ") GROUP BY s, p, t HAVING sum(k) <> 0 OR sum(z) <> 0)";

int ledger_repair_budgets(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char *const sql[] = {
        "UPDATE budget_use AS b SET tokens = carried_tokens, cost = carried_cost WHERE EXISTS (SELECT 1 FROM limits l WHERE l.subject = b.subject AND " WHOLE ")",
        "INSERT INTO budget_use(subject, period, t, tokens, cost) SELECT s, p, t, sum(k), sum(z) FROM (" ROWS ") GROUP BY s, p, t HAVING sum(k) <> 0 OR sum(z) <> 0"
        " ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, cost = cost + excluded.cost",
    };
    (void)u;
    for (size_t i = 0; i < sizeof sql / sizeof *sql; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql[i], e);
        if (!st || db_done(st, e)) return -1;
    }
    return 0;
}
