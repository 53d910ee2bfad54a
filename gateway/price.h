/* Prices: nano-units per token by base, tenant and adapter, each valid from a moment on (METERING.md section 1).
 *
 * The most specific row counts that began before the request's start: (tenant, adapter), then (tenant), then the base's.
 * An immutable snapshot, replaced after a change. No row: everything is free. */
#pragma once
#include "gateway/db.h"

struct prices;

struct price {
    int64_t row; /* 0: none */
    int64_t prompt, cached,
        output; /* nano-units per token; cached tokens are part of the prompt and cost this instead */
};

int prices_open(struct prices **out, struct db *d, struct err *e);
void prices_close(struct prices *p);
int prices_reload(struct prices *p, struct err *e);
struct db *prices_db(struct prices *p);

/* adapter "" for the base; wall_us: the request's start. Any thread. */
struct price price_of(struct prices *p, const char *base, const char *tenant, const char *adapter, int64_t wall_us);

#define PRICE_MAX 1000000000             /* nano-units of one token: a whole unit */
#define PRICE_COST_MAX 100000000000000ll /* of one request; more is cut to it, so that sums stay far from 2^63 */

int64_t price_cost(const struct price *p, int64_t prompt, int64_t cached, int64_t output);
/* The most that so many tokens can cost, however many of the prompt were cached. */
int64_t price_bound(const struct price *p, int64_t prompt, int64_t output);
