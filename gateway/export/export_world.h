/* What lines of an export say beyond their rows: names of tenants, prices, the currency, who bills.
 *
 * Tenants' names and prices by number never change, so they are kept once they were asked for, in caches of a fixed size; a miss is a short read of
 * its own. One thread at a time: each thread that exports has its own. */
#pragma once
#include "gateway/db/db.h"
#include "gateway/ledger/price.h"

struct export_world;

/* currency and provider are borrowed. prices may be NULL: then the price that was paid is also the list's. */
int export_world_new(struct export_world **out, struct db *d, struct prices *prices, const char *currency, const char *provider, struct err *e);
void export_world_free(struct export_world *w); /* NULL is fine */

const char *world_currency(const struct export_world *w);
const char *world_provider(const struct export_world *w);

/* *name until the next call; the id where there is no such tenant (any more). */
int world_tenant(struct export_world *w, const char *id, const char **name, struct err *e);
/* A price by its row, a removed one too. 1 found, 0 none, -1 failed. Row 0 is the price of nothing, found. */
int world_price(struct export_world *w, int64_t row, struct price *out, struct err *e);
/* What everybody paid for the base at that moment; `paid` where there was no such price. */
struct price world_list_price(struct export_world *w, const char *base, int64_t wall_us, const struct price *paid);
