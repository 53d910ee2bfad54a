/* What is seen of a request: where its time went, a line in the log, spans for a collector (docs/OBSERVABILITY.md).
 *
 * A request for text is observed from its head on, at the price of a look at the clock for each stage:
 *
 *     receive     its body arrives; who asks, for what, may they
 *     admission   the ledger writes it down
 *     pick        an engine is chosen, or waited for
 *     load        the engine loads the adapter
 *     upstream    the engine has it; one for each time that it is sent
 *     answer      the rest of the answer goes to the client
 *
 * A stage that comes again (another engine) adds to its time. What is made of it when the request is over: with
 * `access_log` a line for each answer of any listener, with `slow_ms` the stages of a request that took longer, with
 * `otlp_url` spans. None of it holds a prompt, an answer or a key's secret.
 *
 * Stages follow each other as the exchange's do, one thread at a time; no locks. */
#pragma once
#include "base/http.h"
#include "base/trace_context.h"
#include "gateway/auth/auth.h"
#include "gateway/observe/otlp.h"

enum observe_stage { STAGE_RECEIVE, STAGE_ADMISSION, STAGE_PICK, STAGE_LOAD, STAGE_UPSTREAM, STAGE_ANSWER, STAGES };

#define OBSERVE_SPANS 16 /* stages of a traced request that are told apart; further ones only add to their times */

/* In the request's arena. */
struct observed {
    const char *traceparent, *tracestate; /* the client's, where they are to be passed on; or NULL */
    struct trace_context context;         /* the trace, and the span of the request itself */
    uint8_t parent[SPAN_BYTES];           /* the client's span; zero: none */
    bool has_trace, traced;               /* context is set; spans are told of it */
    bool has_exchange;                    /* which tells the end */
    enum observe_stage stage;
    int64_t wall_us;                      /* wall less monotonic clock */
    int64_t start_us, entered_us, first_us; /* monotonic; first_us 0: no token came */
    int64_t spent_us[STAGES];
    bool answered; /* the next three are set */
    int status;
    uint64_t bytes;
    int64_t took_us;
    const char *error;                    /* the code of an error that was answered in mid-stream, or NULL */
    int nspans;
    struct span_note *spans; /* [OBSERVE_SPANS] where traced */
};

struct gateway;

/* In a route's head, first of all; r->seen is set, or stays NULL where memory is short: all below take NULL. */
void observe_begin(struct http_request *r);
void observe_enter(struct observed *o, enum observe_stage s, const char *engine); /* engine "": none */
void observe_first(struct observed *o); /* the first token, once */

/* In STAGE_UPSTREAM: the header to send on, "" where none. */
void observe_traceparent(const struct observed *o, char out[TRACEPARENT_LEN]);
void observe_trace_id(const struct observed *o, char out[TRACE_HEX]); /* "" where none */

/* http_options.done of all listeners. */
void observe_answered(const struct http_request *r, const char *listener, int status, uint64_t bytes, int64_t took_us);

/* The exchange is over and settled; the last that is done with it. */
struct exchange;
void observe_over(struct exchange *x);

/* --- observe_log.c, observe_trace.c; x NULL: the request had no exchange --- */
void observe_log_access(const struct http_request *r, const struct observed *o, const char *listener, int status, uint64_t bytes,
                        int64_t took_us, const struct exchange *x);
void observe_log_slow(const struct observed *o, int64_t took_us, const struct exchange *x);
void observe_trace(const struct http_request *r, const struct observed *o, const struct exchange *x);
extern const char *const observe_stage_name[STAGES];
