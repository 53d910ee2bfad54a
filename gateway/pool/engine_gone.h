/* What an engine let go of: how often each digest left it, since the gateway's start. Left is: the engine was told to unload
 * it, answered that it does not have it although it was thought to (it had made room), or ended with it. An engine does not
 * tell when it makes room, so that is seen when the digest is next asked for. Not for threads: the engine's lock covers it. */
#pragma once
#include "base/sha256.h"
#include <stdint.h>

#define GONE_MAX 16384 /* digests that are told apart; what comes after counts for the engine only */

struct gone_slot {
    uint64_t key; /* the digest's first 16 digits; 0: free */
    int64_t n;
};

struct gone {
    struct gone_slot *slot;
    int cap, used; /* cap: 0 or a power of two */
    int64_t total;
};

void gone_note(struct gone *g, const char *digest); /* without memory, the total only */
int64_t gone_count(const struct gone *g, const char *digest);
void gone_close(struct gone *g);
