/* Live: what is going on at this moment, per tenant and per adapter version: requests in flight and tokens of the last ten
 * seconds. For `weft top` and GET /admin/v1/top; nothing of it is billed or stored.
 *
 * A fixed number of rows; one that has been idle for LIVE_WINDOW_S may be taken for somebody else. Where all are busy,
 * further ones are not shown: no request waits or fails for it. */
#pragma once
#include "gateway/ledger.h"

#define LIVE_ROWS 4096
#define LIVE_WINDOW_S 10

struct live;
struct live_row;
struct json_t;

/* A request's hold on its rows. Zeroed: none. */
struct live_request {
    struct live_row *tenant, *adapter;
};

struct live *live_new(void); /* NULL: out of memory */
void live_free(struct live *l);

void live_begin(struct live *l, const struct admission *a, struct live_request *out);
void live_tokens(struct live_request *q, int64_t n);
void live_end(struct live *l, struct live_request *q); /* harmless for one that holds none */

/* The busiest rows, at most `max`. */
struct live_top {
    char tenant[NAME_MAX_LEN + 1], adapter[NAME_MAX_LEN + 1]; /* adapter "": the tenant as a whole */
    int version;
    char digest[SHA256_HEX];
    int in_flight;
    double tokens_per_s;
};
int live_tenants(struct live *l, struct live_top *out, int max);
int live_adapters(struct live *l, struct live_top *out, int max);
