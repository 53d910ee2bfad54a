/* Single requests: the list with its filters, one by its id, and the last that went wrong. Blocking, under a deadline; not on event threads. */
#pragma once
#include "gateway/ledger/ledger_rows.h"

struct json_t;
struct page;

/* Texts: NULL any; of the request's memory. */
struct request_filter {
    const char *key, *model, *endpoint, *engine;
    const char *adapter;     /* NAME or NAME@VERSION; "(base)": none */
    int state;               /* enum usage_state; -1: any */
    int64_t start, end;      /* Unix seconds of the start; end 0: none */
    int64_t min_duration_us;
    bool named;              /* rows say whose they are: the operator's */
};

/* Rows of all months, in the database or in their files, newest first. tenant NULL: everybody's. Cursors are ids. Looks for FIND_MS at most: where that was not enough,
 * *more is true and `place` the id up to which was looked, a cursor to go on from; else it is "". */
int ledger_requests(struct ledger *l, const char *tenant, const struct request_filter *f, const struct page *p, struct json_t *list, bool *more,
                    char place[UUID_LEN], struct err *e);

/* One, wherever it stands, with its durations and adjustments. ERR_NOT_FOUND. */
int ledger_request(struct ledger *l, const char *tenant, const char *id, bool named, struct json_t **out, struct err *e);

/* Those that did not complete, of the last 40 days, newest first. Of the filter: state, start, end, named. */
int ledger_errors(struct ledger *l, const char *tenant, const struct request_filter *f, const struct page *p, struct json_t *list, bool *more, struct err *e);
