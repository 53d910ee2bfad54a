/* What a receiver's answer means for a batch, and how long it is waited before the next try. Pure functions. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define HOOK_RETRY_FIRST_MS 1000
#define HOOK_RETRY_AFTER_MAX_S 86400

enum hook_verdict {
    HOOK_DELIVERED,
    HOOK_AGAIN,   /* the same batch, after webhook_pause_ms() */
    HOOK_SMALLER, /* at once, and half of it */
    HOOK_GONE,    /* paused: it wants no more */
};

/* status: of HTTP, 0 none came; broken: the exchange did not end well; events: of the batch. */
enum hook_verdict webhook_verdict(int status, bool broken, int events);

/* Before the next try: 1 s, 2 s, 4 s ... most_ms, each 50 to 100 % of it by the dice, so that receivers that came back are not met by all at
 * once; where Retry-After ("" or NULL: none) asks for longer, that. failures: so far, this one included. Milliseconds. */
int64_t webhook_pause_ms(int failures, int64_t most_ms, uint32_t dice, const char *retry_after, int64_t now_s);
