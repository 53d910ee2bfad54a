/* What costs.c and costs_invoice.c share: a bill's parts. */
#pragma once
#include "base/json.h"
#include "gateway/stats/costs.h"
#include "gateway/stats/stats.h"

enum costs_item { ITEM_INPUT, ITEM_CACHED, ITEM_OUTPUT, ITEM_TOKENS, ITEM_ADJUSTMENT, COSTS_ITEMS };
extern const char *const costs_item_word[COSTS_ITEMS];

struct costs_part {
    int64_t tokens, amount;
    int64_t unit; /* nano-units of one; -1: none, or not known */
    bool there;
};

/* Prices that were looked up, in the question's snapshot. */
#define COSTS_PRICES 64
struct costs_prices {
    struct costs_price {
        int64_t row, unit[3]; /* prompt, cached, output; -1: not known */
    } known[COSTS_PRICES];
    int n;
};

/* What the tokens of a bill's row are worth: part by part, in all sums->v[SUM_COST]. */
int costs_split(const struct stats_read *x, struct costs_prices *p, int64_t price, const struct stats_sums *sums, struct costs_part part[COSTS_ITEMS],
                struct err *e);

static inline json_t *costs_money(int64_t nano) { return json_real((double)nano / 1e9); }
/* The same as text, to the last digit. */
void costs_add_money(struct buf *b, int64_t nano);
