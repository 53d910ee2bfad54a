/* Now: one tenant's, or everybody's, requests at this moment, the last minute's times, today and this month: the body of
 * GET .../now and of each event of GET .../live. */
#pragma once
#include "gateway/gateway.h"

struct json_t;

struct now_ask {
    const char *tenant, *tenant_name; /* id and name; NULL: everybody */
    bool admin;                       /* with engines, and where it is of everybody the busiest tenants and adapters */
};

/* Sums of the running day and month, UTC. */
struct now_sums {
    int64_t today[6], month[6]; /* requests, errors, input, cached, output, cost_nano */
};

/* Blocks for a look at the rollups of hours: at most a month of one tenant's. */
int now_read(struct gateway *g, const struct now_ask *a, struct now_sums *out, struct err *e);
/* NULL: no memory. Any thread, no database. */
struct json_t *now_json(struct gateway *g, const struct now_ask *a, const struct now_sums *s);
