/* What the views of now and the stats of adapters, canaries, budgets and refusals share: which time, whose, and the list of
 * their handlers. live_api.c; each view is a file of its own.
 *
 * One handler serves both sides: on the tenant's it sees its own, on the operator's everybody's or, with ?tenant=NAME, one's. */
#pragma once
#include "gateway/api/admin_api.h"

#define SPAN_DEFAULT_S 86400
#define SPAN_POINTS_MAX 1500
#define LIVE_READ_MS 5000

struct span {
    int64_t start, end;      /* Unix seconds; start inclusive, end exclusive */
    const char *tenant;      /* id; NULL: everybody */
    const char *tenant_name; /* likewise */
    bool admin;              /* asked on the operator's side */
};

/* The id under which rollups hold everybody is "". */
static inline const char *span_rollup(const struct span *s)
{
    return s->tenant ? s->tenant : "";
}

/* start_time, end_time (the last SPAN_DEFAULT_S), tenant (operator); and the names in `also` (ended by NULL, or NULL), which
 * the caller reads; any other is refused. Blocks for a look at a named tenant. */
int span_read(struct http_request *r, const char *const *also, struct span *out, struct err *e);
/* The same without times: end is now. */
int span_read_whose(struct http_request *r, const char *const *also, struct span *out, struct err *e);
/* ?interval=1h|1d: the points of a span, from the bucket of its start on. ERR_INVALID beyond SPAN_POINTS_MAX. */
int span_points(const struct http_request *r, const struct span *s, int64_t *interval_s, int64_t *first, int *n,
                struct err *e);
/* One of `words` (ended by NULL) by its index; absent: the first. */
int span_word(const struct http_request *r, const char *name, const char *const *words, int *out, struct err *e);

/* v, or NULL for out of memory; takes both over. */
void live_answer(struct http_request *r, int rc, json_t *v, const struct err *e);

/* Handlers, each on a database thread. */
void now_get(struct http_request *r);            /* now.c */
void live_get(struct http_request *r);           /* live_stream.c */
void refused_get(struct http_request *r);        /* refused_api.c */
void adapter_stats_get(struct http_request *r);  /* adapter_stats.c */
void canary_get(struct http_request *r);         /* canary_api.c */
void budgets_get(struct http_request *r);        /* budgets_api.c */
void ledger_health_get(struct http_request *r);  /* ledger_health.c */
