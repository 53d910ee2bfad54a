/* Traces for a collector: OTLP/HTTP with JSON bodies (opentelemetry.io/docs/specs/otlp, 1.x).
 *
 * What is known of a request when it is over goes as one record into a bounded queue, and from there, by a thread of
 * their own, in batches to the collector. Handing in never waits: where the queue is full the record is dropped and
 * counted. A collector that is slow, away or refuses costs traces, never an answer. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "base/trace_context.h"
#include "gateway/proxy/relay.h"

#define OTLP_QUEUE 4096 /* records that wait */
#define OTLP_BATCH 128  /* records in one request to the collector */
#define OTLP_NAME 80
#define OTLP_STEPS 4 /* of an engine, below its try */

/* A stage that is over. Wall microseconds. */
struct span_note {
    const char *name; /* a constant */
    bool upstream;    /* sent to an engine */
    uint8_t id[SPAN_BYTES];
    int64_t start_us, end_us;
    char engine[64];
};

/* A request that is over, as its spans tell it. All texts are copies; "" is unknown. */
struct trace_record {
    struct trace_context context;
    uint8_t parent[SPAN_BYTES]; /* zero: none */
    char tracestate[TRACESTATE_MAX + 1];
    int64_t start_us, end_us, first_us; /* wall; first_us 0: no token came */
    int status;                         /* HTTP; 0: the client had left before */
    bool served, stream, cold, counted;
    const char *method, *route, *endpoint, *state, *error; /* constants; "" unknown */
    char id[40], tenant[OTLP_NAME], model[256], adapter[OTLP_NAME], base[128], finish[16];
    int version, attempt;
    int64_t prompt, cached, output;
    struct relay_times times; /* of the engine that answered */
    int nspans;
    struct span_note span[]; /* [nspans] */
};

/* The body of one request to the collector. Random ids are made for spans that have none. -1: no memory. */
int otlp_write(struct trace_record *const *records, size_t n, const char *instance, struct buf *out);

struct otlp;
struct metrics;

struct otlp_options {
    const char *url;        /* http or https */
    const char *token_file; /* a bearer token for it; "": none. Read before each request, so that it may change */
    const char *instance;   /* service.instance.id */
    struct metrics *metrics;
};

int otlp_open(struct otlp **out, const struct otlp_options *o, struct err *e);
void otlp_close(struct otlp *o); /* what waits is sent within OTLP_LAST_MS; NULL is fine */
#define OTLP_LAST_MS 2000

/* Takes over the record (malloc'ed). Any thread; o NULL: nothing is told. */
void otlp_put(struct otlp *o, struct trace_record *r);
int otlp_waiting(struct otlp *o);
