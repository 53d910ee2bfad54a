/* What the parts of gateway/ledger share: ledger.c (admissions), ledger_settle.c (the transaction), ledger_sums.c, ledger_trim.c, ledger_month.c (tables of raw rows),
 * ledger_recover.c, ledger_verify.c, ledger_query.c. Nobody else includes it. */
#pragma once
#include "base/metrics.h"
#include "gateway/ledger/ledger_rows.h"
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
    _Atomic int64_t added; /* rows put into it since the start, on the writer thread */
    char create[1400], index[120], index_2[120], indexed[140], insert[700], of_tenant[800], of_all[800], of_tenant_before[800], of_all_before[800];
    char bad_tenant[800], bad_tenant_before[800], bad_all[800], bad_all_before[800];
    char last[100], add_alias[100], add_load[100], columns[200];
    char rows_tenant[800], rows_all[800], row[800];                      /* of weft.db */
    char archived_rows_tenant[800], archived_rows_all[800], archived_row[800],
        archived_of_tenant[800], archived_of_all[800], archived_of_tenant_before[800], archived_of_all_before[800]; /* of the file that is attached as `archive` */
    char raw_table[400], raw_file[400], raw_both[800]; /* views of all of the month */
    struct month *next;
};

struct entry {
    struct entry *next;
    struct ledger *ledger;
    struct admission a;
    struct settlement s;
    struct usage_row row; /* of these two, borrowed by the group that writes it */
    struct usage_row probe; /* of s.route, likewise */
    struct month *month;
    bool settling; /* under the ledger's lock: somebody settles it */
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
    _Atomic int64_t verified_s, verified_bad; /* the last verification; 0: there was none */
    _Atomic bool closing;
    _Atomic int64_t trimmed_hour;
    int64_t opened_us, opened_mono_us; /* wall and monotonic */
    bool trim_more; /* the writer's own */
    struct metrics *metrics;
    struct limits *limits;
    struct prices *prices;
};

/* The table of the month of a wall-clock time; NULL with an error. Any thread. */
struct month *ledger_month(struct ledger *l, int64_t wall_us, struct err *e);
struct month *ledger_month_by_number(struct ledger *l, int yyyymm, struct err *e);

/* In a job of the writer: the month's table with its index on (tenant, id), or that index alone. */
int ledger_make_table(struct db *d, sqlite3 *c, const struct month *m, struct err *e);
int ledger_make_index(struct db *d, sqlite3 *c, const struct month *m, struct err *e);

/* The months that have a table, newest first; *n at most LEDGER_MONTHS_MAX. Inside db_read. */
int ledger_months(struct ledger *l, sqlite3 *c, struct month **list, int *n, struct err *e);

/* Unix seconds of a month's start, and the month after. */
int64_t month_start(int yyyymm);
int month_after(int yyyymm);
int month_of(int64_t wall_us);

/* All months that have rows, in weft.db or in a file, oldest first; u: struct month_list. In db_read. */
struct month_list {
    int n, yyyymm[LEDGER_MONTHS_MAX];
};
int ledger_list_months(struct db *d, sqlite3 *c, void *u, struct err *e);
/* And those that only rollups have buckets of, which are all read: long. */
int ledger_list_summed_months(struct db *d, sqlite3 *c, void *u, struct err *e);
/* The view `raw` of such a month. */
extern const char ledger_no_rows[];

/* A table of ours, or none (0), or failed (-1). Inside a read or a job. */
int ledger_has_table(struct ledger *l, sqlite3 *c, int yyyymm, struct err *e);
/* A month that stands in a file: 1, or 0, or -1; what db_attach() takes. */
int ledger_archived(struct ledger *l, sqlite3 *c, int yyyymm, struct err *e);
/* Rows of the month were removed by retention, so what there is of it makes up no sum: 1, or 0, or -1. */
int ledger_lost_rows(struct ledger *l, sqlite3 *c, int yyyymm, struct err *e);
void ledger_archive_path(const struct ledger *l, int yyyymm, char path[DB_PATH_LEN]);

/* ledger_rows() as the connection c sees them, the writer's in a job too; NULL: by a reader. */
int ledger_rows_on(struct ledger *l, sqlite3 *c, const struct rows_query *q, struct rows_cursor *at, int max,
                   int (*each)(void *u, const struct usage_row *r, struct err *e), void *u, bool *more, struct err *e);

/* At the ledger's opening, before traffic: what an older version lacks. */
int ledger_upgrade(struct ledger *l, struct err *e);
/* What ledger_verified() says of earlier processes; u: the ledger. */
int ledger_read_verified(struct db *d, sqlite3 *c, void *u, struct err *e);

/* Inside a job of the writer: the whole settlement. *counted says whether the row was new; `row` is filled, and must live until done(), as a and s. */
int ledger_settle_run(struct db *d, sqlite3 *c, struct month *m, const struct admission *a, const struct settlement *s, struct usage_row *row,
                      bool *counted, struct err *e);
/* Behind it, of a new row of an adaptive alias: how it was routed, and the row of its probe. */
int ledger_route_run(struct db *d, sqlite3 *c, struct month *m, const struct admission *a, const struct settlement *s, struct usage_row *probe, struct err *e);
/* Into a request's JSON: `route`, null where it was not routed. Blocks. */
int ledger_route_json(struct ledger *l, const char *id, struct json_t *o, struct err *e);
/* The part of it that any row goes through: raw row, rollups and outbox. r and its texts live until done(). */
int ledger_count_run(struct db *d, sqlite3 *c, struct month *m, const struct usage_row *r, bool *fresh, struct err *e);
/* Drops rollups past their time; at most once an hour. */
void ledger_trim(struct ledger *l, int64_t wall_us);

int ledger_latency_bucket(int64_t us);

/* ledger_verify_dims.c: what ledger_verify() also counts; hours: only as long as hours are kept. ?1 and ?2: a month in Unix seconds. */
struct ledger_check {
    const char *rollup, *sql;
    bool hours, raw; /* raw: looks at rows */
};
extern const struct ledger_check ledger_dim_checks[];
extern const int ledger_ndim_checks;

/* ledger_verify_budgets.c: how many sums of budgets differ. */
extern const char ledger_budget_check[];
/* A job of the writer: sums of budgets anew from the rollups. */
int ledger_repair_budgets(struct db *d, sqlite3 *c, void *u, struct err *e);

/* A row of the texts that read whole rows (ledger_month.c); its texts are the statement's. */
void ledger_take_row(sqlite3_stmt *st, int month, struct usage_row *r);
