/* Adjustments: what was billed is corrected by a row of its own, never by a change of the row (METERING.md section 1).
 *
 * An adjustment is a usage row with `adjusts`: the request that it corrects, or "" for a credit that no single one caused. It is booked now, in
 * today's buckets, and counts in sums, invoices, exports and budgets as its tokens and its cost, but is no request. */
#pragma once
#include "gateway/ledger/ledger.h"

#define ADJUST_REASON_MAX 500
#define ADJUST_PER_REQUEST 100
#define ADJUST_TOKENS_MAX 1000000000000ll

struct adjust_wish {
    const char *tenant;  /* name, or NULL with a request: its own */
    const char *request; /* id, or NULL */
    const char *reason;
    int64_t prompt, cached, output; /* what is added to the request's counts; below 0: given back */
    int64_t cost;                   /* nano-units */
    bool has_cost;                  /* false: that of the tokens, at the price of then */
};

struct json_t;
struct auth;
struct actor;

/* *out is the adjustment as JSON. ERR_NOT_FOUND: no such settled request, or tenant; ERR_INVALID: more would be given back than was billed. Blocks. */
int ledger_adjust(struct ledger *l, struct auth *auth, const struct actor *by, const struct adjust_wish *w, struct json_t **out, struct err *e);

/* Newest first, cursors are ids. tenant and request: ids, or NULL for all. show_actor: the operator's view. */
struct adjust_query {
    const char *tenant, *request;
    bool show_actor;
};
struct page;
int ledger_adjustments(struct ledger *l, const struct adjust_query *q, const struct page *p, struct json_t *list, bool *more, struct err *e);
int ledger_adjustment(struct ledger *l, const char *id, struct json_t **out, struct err *e); /* the operator's; ERR_NOT_FOUND */
