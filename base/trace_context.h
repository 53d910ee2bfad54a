/* W3C Trace Context, level 1: what the headers `traceparent` and `tracestate` say, and how they are said on.
 *
 * Whatever is not to the letter counts as absent: a caller's broken header never costs an answer. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_BYTES 16
#define TRACE_HEX 33 /* with the NUL */
#define SPAN_BYTES 8
#define SPAN_HEX 17
#define TRACEPARENT_LEN 56 /* with the NUL */
#define TRACESTATE_MAX 512 /* bytes that are passed on */

struct trace_context {
    uint8_t trace[TRACE_BYTES];
    uint8_t span[SPAN_BYTES]; /* the caller's */
    bool sampled;
};

/* text NULL, or no traceparent: false, and *out stays. Versions that are not known yet are read as far as 00 goes. */
bool traceparent_parse(const char *text, struct trace_context *out);
void traceparent_print(const struct trace_context *c, char out[TRACEPARENT_LEN]);

/* A list that may be passed on as it is: at most 32 members and TRACESTATE_MAX bytes, keys and values as they must be. */
bool tracestate_is(const char *text);

/* n bytes as 2 n lower-case digits and a NUL. */
void trace_hex(const uint8_t *bytes, size_t n, char *out);

/* The trace of a traceparent, for logs: "" where there is none. */
void traceparent_trace(const char *text, char out[TRACE_HEX]);
