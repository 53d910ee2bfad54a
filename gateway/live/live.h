/* Live: what is going on at this moment, per tenant and per adapter version: requests in flight, tokens of the last ten
 * seconds; per tenant and in all also what ended within the last minute, with its times. For `weft top`, /now and /live;
 * nothing of it is billed or stored.
 *
 * A fixed number of rows; one that has been idle for its window may be taken for somebody else. Where all are busy,
 * further ones are not shown, but count in all: no request waits or fails for it. */
#pragma once
#include "gateway/ledger/ledger.h"
#include "gateway/live/live_window.h"

#define LIVE_ROWS 4096
#define LIVE_WINDOW_S 10

struct live;
struct live_row;
struct json_t;

/* A request's hold on its rows. Zeroed: none. */
struct live_request {
    struct live_row *all, *tenant, *adapter;
    bool sent, first; /* to an engine; its time to the first token was noted */
};

struct live *live_new(void); /* NULL: out of memory */
void live_free(struct live *l);

void live_begin(struct live *l, const struct admission *a, struct live_request *out);
void live_sent(struct live *l, struct live_request *q); /* an engine has it now; harmless when said again */
void live_first(struct live_request *q, int64_t us);    /* its first token came after so long; the first call counts */
void live_tokens(struct live_request *q, int64_t n);
/* How it ended, once, before live_end(). */
void live_done(struct live_request *q, const struct admission *a, const struct settlement *s);
int live_running(struct live *l, const struct live_request *q); /* of its tenant: requests that engines have */
void live_end(struct live *l, struct live_request *q); /* harmless for one that holds none */
void live_refused(struct live *l, const char *tenant_name); /* a limit refused a request */

/* Is it an error of ours, as `errors` count everywhere: upstream_error, timeout, gateway_crash. */
static inline bool usage_is_error(int state)
{
    return state == USAGE_UPSTREAM_ERROR || state == USAGE_TIMEOUT || state == USAGE_GATEWAY_CRASH;
}

/* The busiest rows, at most `max`. */
struct live_top {
    char tenant[NAME_MAX_LEN + 1], adapter[NAME_MAX_LEN + 1]; /* adapter "": the tenant as a whole */
    int version;
    char digest[SHA256_HEX];
    int in_flight, waiting; /* waiting: of those in flight, not sent to an engine yet */
    double tokens_per_s;
};
int live_tenants(struct live *l, struct live_top *out, int max);
int live_adapters(struct live *l, struct live_top *out, int max);

/* One tenant (by name), or all (NULL): what is now, and the last minute. Zeros for a tenant that is idle. */
struct live_now {
    struct live_top of;
    struct live_sums minute;
    int64_t ended; /* requests since it is shown; changes when one ends */
};
void live_now(struct live *l, const char *tenant_name, struct live_now *out);
