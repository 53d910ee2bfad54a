/* What a collector answers to a batch of spans (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP Response"). Pure functions. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum otlp_verdict {
    OTLP_TAKEN,   /* perhaps in part: otlp_rejected() */
    OTLP_AGAIN,   /* later */
    OTLP_REFUSED, /* and not to be tried again */
};

/* status 0: no answer came. */
enum otlp_verdict otlp_verdict(int status);

/* Of the body of a 200: how many of `sent` spans were not taken, 0 to sent. */
int64_t otlp_rejected(const char *body, size_t n, int64_t sent);
