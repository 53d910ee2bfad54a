/* Receipts: what became of the last requests, by request id, for a gateway that lost its connection in mid-answer
 * (schema/ENGINE_API.md).
 *
 * Holds at most `capacity` requests, each no longer than ttl_us after its last change; the oldest by arrival goes
 * first. An id that comes again (a gateway's second try) starts over. All functions are safe from any thread. */
#pragma once
#include "base/err.h"
#include "engine/sched.h"
#include <stdint.h>

#define RECEIPT_ID_LEN 64 /* with the NUL */
#define RECEIPTS_MAX 65536
#define RECEIPTS_TTL_US (3600LL * 1000000)

struct receipts;

enum receipt_state { RECEIPT_RUNNING, RECEIPT_COMPLETED, RECEIPT_CANCELLED, RECEIPT_ERROR };
extern const char *const receipt_state_name[]; /* "running", "completed", "cancelled", "error" */

struct receipt {
    char id[RECEIPT_ID_LEN];
    enum receipt_state state;
    const char *finish;             /* a constant string: "stop", "length", "cancelled", "error", or "" while running */
    int64_t prompt, cached, output; /* tokens */
    int64_t before, after;          /* of the prompt, under a policy; 0: there is none */
    struct gen_times times;
    int64_t t_us;                   /* monotonic, of the last change */
};

struct receipts *receipts_new(uint32_t capacity, int64_t ttl_us); /* NULL: out of memory */
void receipts_free(struct receipts *r);                           /* NULL is fine */

/* Insert, or overwrite the one with this id. now_us is monotonic. */
void receipts_put(struct receipts *r, const struct receipt *what, int64_t now_us);

/* 0, or -1 with ERR_NOT_FOUND: unknown, expired or pushed out. */
int receipts_get(struct receipts *r, const char *id, int64_t now_us, struct receipt *out, struct err *e);
