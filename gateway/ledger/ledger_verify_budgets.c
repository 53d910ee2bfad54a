/* ledger_verify_budgets: are the sums of budgets those of their rows? Days of tenants, keys and adapters, which ledger_verify.c holds against the rows
 * themselves, against `budget_use`, both ways: a sum that is wrong, one without rows, rows without a sum.
 *
 * Of a subject that has limits, from the day and the month on in which it got them (`limits.since`). What a key took over from another when it was made is
 * no row of its own (`carried_*`). One query, one snapshot: settlements write rows, rollups and budgets in one transaction. */
#include "gateway/ledger/ledger_internal.h"

#define DAY(t) t " / 86400 * 86400"
#define MONTH(t) "CAST(strftime('%s', " t ", 'unixepoch', 'start of month') AS INTEGER)"
#define OF(table, subject, period, begin) \
    "SELECT l.subject s, " #period " p, " begin("r.t") " t, r.prompt + r.output k, r.cost z FROM main." table " r JOIN main.limits l ON l.subject = " subject \
    " WHERE r.t >= " begin("l.since")
#define DAYS_AND_MONTHS(table, subject) OF(table, subject, 0, DAY) " UNION ALL " OF(table, subject, 1, MONTH)

const char ledger_budget_check[] =
    "SELECT count(*) FROM (SELECT 1 FROM (" DAYS_AND_MONTHS("rollup_day", "'tenant:' || r.tenant") " UNION ALL "
    DAYS_AND_MONTHS("rollup_day", "'key:' || r.key") " UNION ALL " DAYS_AND_MONTHS("rollup_adapter", "'adapter:' || r.tenant || '/' || r.adapter")
    " UNION ALL SELECT b.subject, b.period, b.t, b.carried_tokens - b.tokens, b.carried_cost - b.cost FROM main.budget_use b JOIN main.limits l"
    " USING(subject) WHERE b.t >= CASE b.period WHEN 0 THEN " DAY("l.since") " ELSE " MONTH("l.since") " END)"
    " GROUP BY s, p, t HAVING sum(k) <> 0 OR sum(z) <> 0)";
