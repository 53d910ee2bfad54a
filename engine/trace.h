/* What the last steps did and when: two rings in memory, one of steps and one of spans (phases of requests, loads of adapters).
 *
 * The scheduler writes while it works; GET /weft/v1/trace prints what is there; `weft-engine trace` makes a file of it that
 * chrome://tracing shows. Bounded: old entries are overwritten. Any thread: one short lock. */
#pragma once
#include "base/json.h"

#define TRACE_ID 72            /* a digest, or a request's id and number */
#define TRACE_SPANS_PER_STEP 2 /* places in the ring of spans */
#define TRACE_STEPS_MAX 2048   /* what one JSON object may hold (base/json.h) */

struct trace;

/* The phases of a step follow each other: plan, forward, sample, emit. One that was begun while the step before it ran
 * starts where that one ends, and has no time for its plan: that went by beside the other. */
struct trace_step {
    int64_t start_us; /* monotonic */
    int64_t plan_us, forward_us, sample_us, emit_us;
    int decode_rows, prefill_rows, draft_rows, discarded_rows, sequences, adapters, pages, running, waiting;
    int budget_rows;     /* prompt rows that were allowed; -1: as many as fit */
    int64_t estimate_us; /* of the whole */
};

enum trace_kind {
    TRACE_QUEUED,    /* waits for its first turn */
    TRACE_PREFILL,   /* admitted, no token yet */
    TRACE_DECODE,    /* from its first token on */
    TRACE_PREEMPTED, /* waits to go on */
    TRACE_LOAD,      /* of an adapter; `id` is its digest */
    TRACE_KINDS
};
extern const char *const trace_kind_name[TRACE_KINDS];

int trace_new(struct trace **out, int steps, struct err *e); /* 1 .. TRACE_STEPS_MAX */
void trace_free(struct trace *t);                            /* NULL is fine */

void trace_add_step(struct trace *t, const struct trace_step *s);

/* A span begins; returns its handle, for trace_end(). t NULL: nothing, 0. id is cut at TRACE_ID - 1. */
uint64_t trace_begin(struct trace *t, enum trace_kind kind, const char *id, int64_t now_us);
void trace_end(struct trace *t, uint64_t handle, int64_t now_us); /* one that was overwritten, or 0, is fine */
void trace_cancel(struct trace *t, uint64_t handle);              /* it was none */

/* {"now_us", "steps": [...], "spans": [{"kind", "id", "start_us", "end_us" or null while it lasts}]}, oldest first; NULL: no memory. */
json_t *trace_json(struct trace *t, int64_t now_us);

/* engine/trace_chrome.c: that object (from an engine, so checked) as the array of events of Chrome's trace format, to the end of `out`.
 * ERR_INVALID where it is no trace. */
int trace_chrome(const json_t *trace, struct buf *out, struct err *e);
