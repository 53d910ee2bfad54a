/* The rows behind the limits: budgets' sums. What limit_store.c and limit_budget.c share; nobody else includes it. */
#pragma once
#include "gateway/limits/limit_internal.h"

/* The sums of a day or month by the daily rollups, whoever the subject is. In a job of the writer, or a read. */
int limit_rolled(struct db *d, sqlite3 *c, const char *subject, enum limit_span span, int id, struct limit_use *out,
                 struct err *e);

/* A subject gets its first row: budget_use begins with what the rollups say of the running day and month, which is told
 * in used. In a job of the writer. */
int limit_begin_run(struct db *d, sqlite3 *c, const char *subject, const int id[LIMIT_SPANS],
                    struct limit_use used[LIMIT_SPANS], struct err *e);
