/* Prices as rows: what the admin API does to them. Each change is one transaction with its audit row, and in force when
 * the call returns, but where the database was too busy to be read (prices_changed). All block: on database threads. */
#pragma once
#include "gateway/db/db_audit.h"
#include "gateway/ledger/price.h"

struct page;
struct json_t;

struct price_wish {
    const char *base;
    const char *tenant, *adapter; /* names; "": any */
    int64_t valid_from;           /* Unix seconds; -1: now */
    int64_t prompt, cached, output;
};

/* price_body.c: what a body says; texts are the body's. ERR_INVALID, ERR_MISSING name the field. */
int price_read_wish(const struct json_t *body, struct price_wish *w, struct err *e);

/* ERR_NOT_FOUND: no such tenant. ERR_CONFLICT: there is one of that moment. */
int price_create(struct prices *p, const struct actor *by, const struct price_wish *w, struct json_t **out,
                 struct err *e);
/* Later requests go by what is left; what was settled stays. */
int price_remove(struct prices *p, const struct actor *by, int64_t row, struct json_t **out, struct err *e);
int price_list(struct prices *p, const struct page *page, struct json_t *list, bool *more, struct err *e);
