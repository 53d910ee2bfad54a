/* What the parts of gateway/ledger share: ledger.c (admissions), ledger_settle.c (the transaction), ledger_month.c (tables of raw rows),
 * ledger_recover.c, ledger_verify.c, ledger_query.c. Nobody else includes it. */
#pragma once
#include "base/metrics.h"
#include "gateway/ledger.h"
#include <pthread.h>
#include <stdatomic.h>

#define LEDGER_OPEN_MAX 30000  /* open admissions; fewer than DB_QUEUE_URGENT, so each has its place in the writer's queue */
#define LEDGER_BUCKETS 32768   /* of the table by id, a power of two */
#define LEDGER_MONTHS_MAX 600
#define LEDGER_COUNT_MAX 1000000000000ll /* tokens of one row; sums stay far from 2^63 */

/* One month's table and the SQL that names it. Made once, never freed before the ledger, so the texts' addresses are good for db_stmt(). */
struct month {
    int yyyymm;
    _Atomic bool made; /* its table is committed */
    char create[1400], insert[600], of_tenant[600], of_all[600], of_tenant_before[600], of_all_before[600];
    char verify_minute[1200], verify_hour[1200], verify_day[1600], verify_adapter[1600], verify_latency[1600];
    struct month *next;
};

struct entry {
    struct entry *next;
    struct ledger *ledger;
    struct admission a;
    struct settlement s;
    struct month *month;
    bool counted;  /* the row was new: what to add to the metrics */
    bool admitted; /* took a place among the open ones */
    void (*admit_done)(void *u, const struct err *e);
    void *admit_user;
    void (*settle_done)(void *u);
    void *settle_user; /* of its own: a caller may settle while the admission's done() is still on its way */
};

struct ledger {
    struct db *db;
    pthread_mutex_t lock; /* covers bucket and months */
    struct entry *bucket[LEDGER_BUCKETS];
    struct month *months;
    int nmonths;
    _Atomic int64_t open;     /* admitted and not settled, which bounds the urgent jobs */
    _Atomic int64_t queued;   /* entries that the writer holds */
    _Atomic int64_t settled, retried;
    _Atomic bool closing;
    _Atomic int64_t trimmed_hour;
    struct metrics *metrics;
    struct limits *limits;
    struct prices *prices;
};

/* The table of the month of a wall-clock time; NULL with an error. Any thread. */
struct month *ledger_month(struct ledger *l, int64_t wall_us, struct err *e);
struct month *ledger_month_by_number(struct ledger *l, int yyyymm, struct err *e);

/* The months that have a table, newest first; *n at most LEDGER_MONTHS_MAX. Inside db_read. */
int ledger_months(struct ledger *l, sqlite3 *c, struct month **list, int *n, struct err *e);

/* Inside a job of the writer: the whole settlement. *counted says whether the row was new. */
int ledger_settle_run(struct db *d, sqlite3 *c, struct month *m, const struct admission *a, const struct settlement *s, bool *counted,
                      struct err *e);
/* Drops rollups past their time; at most once an hour. */
void ledger_trim(struct ledger *l, int64_t wall_us);

int ledger_latency_bucket(int64_t us);
