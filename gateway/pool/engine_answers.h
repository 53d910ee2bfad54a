/* What a weft-engine answers about one request, one text, one adapter (ENGINE_API.md). Pure functions: bytes in, figures out, those none below 0. */
#pragma once
#include "base/err.h"
#include "gateway/proxy/relay.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The body of a receipt that came with 200: its counts, and whether the request still runs. -1: it is none. */
int engine_read_receipt(const char *body, size_t n, bool *runs, struct relay_counts *out);

/* The body of /weft/v1/tokenize that came with 200: the prompt's tokens; -1: it does not say. */
int64_t engine_read_tokens(const char *body, size_t n);

struct engine_selftest {
    bool ran;         /* false: the engine has no such test; loading was the test */
    double max_error; /* at least 0 */
    char worst[64];   /* the module that has it, whole characters of UTF-8; "": none was named */
};

/* The answer to /weft/v1/selftest. ERR_UNAVAILABLE: try again later; else what the engine has against the adapter. */
int engine_read_selftest(int status, const char *body, size_t n, struct engine_selftest *out, struct err *e);
