/* Values of request headers that mean more than a word. Pure functions; NULL: the header is not there. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

/* Accept-Encoding (RFC 9110, section 12.5.3): may the answer be gzip? As it says of gzip, else as it says of *; where it says of neither, no. */
bool header_takes_gzip(const char *accept_encoding);

/* Last-Event-ID of a stream of events: the seq of one of ours; absent or empty: *out stays. ERR_INVALID. */
int header_last_event(const char *id, int64_t *out, struct err *e);
