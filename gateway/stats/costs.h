/* What usage costs, from rollups and prices: by day in the shape of OpenAI's costs API, and as a month's invoice. Blocking, on database threads.
 *
 * Amounts are integers of nano-units and add up to the raw rows' to the last one: a row's cost is tokens times the price that its bill names, and what the
 * parts leave over (a request that was cut to PRICE_COST_MAX) stands with the output. */
#pragma once
#include "gateway/ledger/ledger.h"

struct buf;
struct json_t;
struct stats_kept;

enum costs_group { COSTS_TENANT = 1, COSTS_KEY = 2, COSTS_ADAPTER = 4, COSTS_MODEL = 8, COSTS_LINE_ITEM = 16 };

/* A key, an adapter and a model are parts of a tenant, each in rollups of its own; line items are known of adapters. */
static inline bool costs_group_is_kept(unsigned group)
{
    unsigned part = group & (COSTS_KEY | COSTS_ADAPTER | COSTS_MODEL);
    return (part & (part - 1)) == 0 && !(group & COSTS_LINE_ITEM && part & (COSTS_KEY | COSTS_MODEL));
}

struct costs_query {
    const char *tenant, *currency; /* tenant: id; NULL: everybody */
    int64_t start, end;            /* Unix seconds */
    unsigned group;                /* enum costs_group; kept */
    int limit;                     /* days */
};

/* Appends a list of a bucket for each day, as JSON; *next: see ledger_usage(). */
int costs_of_days(struct stats_kept *kept, const struct costs_query *q, struct buf *data, int64_t *next, struct err *e);

/* yyyymm: a month that has begun. tenant an id, name what it is called. */
int costs_invoice(struct ledger *l, struct stats_kept *kept, const char *tenant, const char *name, int yyyymm, const char *currency, struct json_t **out, struct err *e);
/* All tenants with their totals, by name. */
int costs_invoices(struct ledger *l, struct db *d, int yyyymm, const char *currency, struct json_t **out, struct err *e);
