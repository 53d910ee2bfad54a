/* What the stats_*.c share: sums read from rollups (METERING.md section 2), for the dashboard, top lists and bills. Nobody else includes it.
 *
 * Days come from rollup_by, a dimension at a time (gateway/ledger/ledger_dims.h); minutes and hours from their tables, which know tenants and states only.
 * Everybody's sums are rows of tenant ''. All of a question is read in one snapshot, inside db_read, under STATS_READ_MS. */
#pragma once
#include "gateway/ledger/ledger_dims.h"
#include "gateway/ledger/ledger_internal.h"

struct arena;
struct json_t;
struct stats_kept;

#define STATS_READ_MS 5000
#define STATS_POINTS_MAX 1500
#define STATS_ITEMS_MAX 200000 /* names that one question may add up */
#define STATS_TOP_MAX 100
#define STATS_DAY 86400
#define STATS_TIME_MAX 253402214400 /* 9999-12-31 */

enum stats_by { BY_NONE, BY_TENANT, BY_KEY, BY_ADAPTER, BY_VERSION, BY_MODEL, BY_BASE, BY_ENDPOINT, BY_STATE, STATS_BYS };
extern const char *const stats_by_word[STATS_BYS];

/* Whether the rollups that know adapters know this of them, too. */
static inline bool stats_keeps_adapter(enum stats_by by) { return by == BY_NONE || by == BY_ADAPTER || by == BY_VERSION || by == BY_BASE; }

enum stats_sum { SUM_REQUESTS, SUM_INPUT, SUM_CACHED, SUM_OUTPUT, SUM_PRODUCED, SUM_COST, SUM_ERRORS, SUM_ABORTS, STATS_SUMS };
struct stats_sums {
    int64_t v[STATS_SUMS];
};

enum stats_measure { MEASURE_REQUESTS, MEASURE_INPUT, MEASURE_OUTPUT, MEASURE_TOKENS, MEASURE_COST, MEASURE_ERRORS, STATS_MEASURES };
extern const char *const stats_measure_word[STATS_MEASURES];

/* Unix seconds; start inclusive, end exclusive, both multiples of width_s: 60, 3600 or 86400. */
struct stats_range {
    int64_t start, end, width_s;
};
/* Widened to whole buckets; none lies before 1970. */
struct stats_range stats_range(int64_t start, int64_t end, int64_t width_s);
struct stats_range stats_before(const struct stats_range *r); /* as long, and ends where r begins */
/* What of a range is held against the time before it: its buckets that are over by now, and as many before them. One that is under way has less than a
 * whole one, so it is left out; both are empty where none is over. */
struct stats_compared {
    struct stats_range part, before;
};
struct stats_compared stats_compared(const struct stats_range *r, int64_t now);
struct json_t *stats_compared_json(const struct stats_compared *x); /* null where they are empty */
static inline size_t stats_points(const struct stats_range *r)
{
    return (size_t)((r->end - r->start) / r->width_s);
}
static inline size_t stats_at(const struct stats_range *r, int64_t t)
{
    return (size_t)((t - r->start) / r->width_s);
}

struct stats_read {
    struct db *d;
    sqlite3 *c;
    const char *tenant; /* id; NULL: everybody */
    const char *adapter; /* only this one of the tenant: days, by what stats_keeps_adapter() allows; NULL: all */
    int64_t now;        /* Unix seconds */
    struct stats_kept *kept; /* NULL: nothing is */
    int64_t closed, past;    /* of stats_begin(): days before are closed; how often some of those have changed */
};

/* A row of a rollup; texts are borrowed until the callback returns. */
struct stats_row {
    int64_t t, version, price;
    const char *name, *base;
    const char *tenant; /* of stats_each_tenant() */
    struct stats_sums sums;
};
typedef int stats_each(void *u, const struct stats_row *row, struct err *e);

/* --- stats_read.c --- */

void stats_add(struct stats_sums *to, const struct stats_sums *more);
int64_t stats_measured(const struct stats_sums *s, enum stats_measure m);

/* As SQLite has them: days of one tenant ("": everybody) in one dimension; name NULL: all names. */
int stats_rows(const struct stats_read *x, const char *tenant, enum rollup_dim dim, const char *name, const struct stats_range *r, stats_each *each, void *u,
               struct err *e);
/* Minutes or hours, by r->width_s; the row's name is the state's number. */
int stats_spans(const struct stats_read *x, const char *tenant, const struct stats_range *r, stats_each *each, void *u, struct err *e);
/* All tenants, whole months as such and the days around them: t is of no use. */
int stats_tenants(const struct stats_read *x, const struct stats_range *r, stats_each *each, void *u, struct err *e);
/* A day of all tenants, one after the other, in one dimension; row->tenant is whose it is. */
int stats_each_tenant(const struct stats_read *x, enum rollup_dim dim, int64_t day, stats_each *each, void *u, struct err *e);
/* Everything of x->tenant or everybody, by state: spans or days. Of x->adapter: days, and no states. */
int stats_states(const struct stats_read *x, const struct stats_range *r, stats_each *each, void *u, struct err *e);

/* --- stats_kept.c: days, as far as they are closed from memory --- */

/* First in a snapshot: x->now and x->kept are set. */
int stats_begin(struct stats_read *x, struct db *d, sqlite3 *c, struct err *e);
/* What stats_rows() tells, in its order. */
int stats_days(const struct stats_read *x, const char *tenant, enum rollup_dim dim, const char *name, const struct stats_range *r, stats_each *each, void *u,
               struct err *e);
/* The same sums by name: days may come as one, so t is of no use. */
int stats_names(const struct stats_read *x, const char *tenant, enum rollup_dim dim, const char *name, const struct stats_range *r, stats_each *each, void *u,
                struct err *e);

/* A tenant's days of a histogram: name is the bucket's number, SUM_REQUESTS how many fell into it. */
int stats_histograms(const struct stats_read *x, const char *tenant, enum latency_kind kind, const struct stats_range *r, stats_each *each, void *u,
                     struct err *e);

/* --- stats_tally.c: sums by name --- */

struct stats_item {
    const char *owner; /* tenant id of a key, adapter, version or a tenant's own name; "": of nobody alone */
    const char *name;
    int64_t version;
    struct stats_sums sums;
};
struct stats_tally {
    struct stats_item *item;
    int n, cap;
    int *slot; /* [slots], item + 1 or 0 */
    int slots;
    struct arena *arena;
};
int stats_tally_init(struct stats_tally *t, struct err *e);
void stats_tally_close(struct stats_tally *t); /* {0} is fine */
int stats_tally_add(struct stats_tally *t, const char *owner, const char *name, int64_t version, const struct stats_sums *s, struct err *e);
/* Largest first; ties by requests, then by name. */
void stats_tally_sort(struct stats_tally *t, enum stats_measure m);

/* --- stats_rank.c: which names are the largest --- */

/* Fills t with all names that can be among the `most` largest of everybody or of x->tenant, with their whole sums, sorted. */
int stats_rank(const struct stats_read *x, enum stats_by by, enum stats_measure m, int most, const struct stats_range *r, struct stats_tally *t, struct err *e);
/* The rows of one of them in any range. */
int stats_item_rows(const struct stats_read *x, enum stats_by by, const struct stats_item *it, const struct stats_range *r, stats_each *each, void *u,
                    struct err *e);
/* Their sums. */
int stats_item_sums(const struct stats_read *x, enum stats_by by, const struct stats_item *it, const struct stats_range *r, struct stats_sums *out,
                    struct err *e);
/* {"name","id"?,"tenant"?} as people know it. */
struct json_t *stats_item_json(const struct stats_read *x, enum stats_by by, const struct stats_item *it, struct err *e);

/* --- questions; tenant id or NULL. *out is the caller's. --- */

struct stats_series_query {
    enum stats_by by;
    enum stats_measure measure;
    int top;
    bool compare;
    const char *adapter; /* see struct stats_read */
    struct stats_range range;
};
int stats_series(struct stats_kept *k, const char *tenant, const struct stats_series_query *q, struct json_t **out, struct err *e);

struct stats_top_query {
    enum stats_by by;
    enum stats_measure sort;
    int limit;
    bool compare;
    const char *adapter; /* see struct stats_read */
    struct stats_range range;
};
int stats_top(struct stats_kept *k, const char *tenant, const struct stats_top_query *q, struct json_t **out, struct err *e);

int stats_latency(struct stats_kept *k, const char *tenant, enum latency_kind kind, const struct stats_range *r, struct json_t **out, struct err *e);
int stats_aborts(struct db *d, const char *tenant, const struct stats_range *r, struct json_t **out, struct err *e);
