/* Prices: nano-units per token by base, tenant and adapter, each valid from a moment on (METERING.md section 1).
 *
 * The most specific row counts that began before the request's start: (tenant, adapter), then (tenant), then the base's.
 * An immutable snapshot, replaced after a change. No row: everything is free. */
#pragma once
#include "gateway/db/db.h"

struct prices;

struct price {
    int64_t row; /* 0: none */
    int64_t prompt, cached,
        output; /* nano-units per token; cached tokens are part of the prompt and cost this instead */
};

int prices_open(struct prices **out, struct db *d, struct err *e);
void prices_close(struct prices *p); /* after the database */
/* After a change is committed: what it says counts when this returns, or, where that fails, as soon as prices_tick() could make up for it (logged). */
void prices_changed(struct prices *p);
void prices_tick(struct prices *p); /* each second; doesn't block */
struct db *prices_db(struct prices *p);

/* adapter "" for the base; wall_us: the request's start. Any thread. */
struct price price_of(struct prices *p, const char *base, const char *tenant, const char *adapter, int64_t wall_us);

/* What a row came to, though it was removed since: 1, or 0: not known any more; row 0: free. In db_read, or a job. */
int price_of_row(struct db *d, sqlite3 *c, int64_t row, struct price *out, struct err *e);

#define PRICE_MAX 1000000000             /* nano-units of one token: a whole unit */
#define PRICE_COST_MAX 100000000000000ll /* of one request; more is cut to it, so that sums stay far from 2^63 */

int64_t price_cost(const struct price *p, int64_t prompt, int64_t cached, int64_t output);
/* The most that so many tokens can cost, however many of the prompt were cached. */
int64_t price_bound(const struct price *p, int64_t prompt, int64_t output);
