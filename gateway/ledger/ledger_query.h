/* Questions to the ledger: usage by time and group from the rollups. Blocking, under a deadline; not on event threads. */
#pragma once
#include "gateway/ledger/ledger.h"

enum usage_group { GROUP_TENANT = 1, GROUP_KEY = 2, GROUP_MODEL = 4, GROUP_ADAPTER = 8, GROUP_VERSION = 16, GROUP_STATE = 32 };

#define USAGE_SPAN_GROUPS (GROUP_TENANT | GROUP_STATE) /* all that minutes and hours know */
#define USAGE_RESULTS_MAX 20000

struct usage_query {
    const char *tenant;  /* id; NULL: all */
    int64_t start, end;  /* Unix seconds, start inclusive, end exclusive */
    int64_t width_s;     /* 60, 3600 or 86400 */
    unsigned group;      /* enum usage_group */
    int limit;           /* buckets */
};

struct buf;

/* Appends a list of {"object":"bucket","start_time","end_time","results":[...]} for each bucket, empty ones too; *next is the start of the bucket after the
 * last, or 0 when there is none before q->end. ERR_INVALID: more than USAGE_RESULTS_MAX results. */
int ledger_usage(struct ledger *l, const struct usage_query *q, struct buf *data, int64_t *next, struct err *e);
