/* Retry-After (RFC 9110, section 10.2.3): whole seconds, or a date in one of HTTP's three forms (section 5.6.7). */
#pragma once
#include <stdint.h>

/* How many seconds to wait from now_s (Unix) on, 0 to most: a moment that has passed is 0, more than `most` is that. -1: text
 * is NULL, or not to the letter one of these. Any thread. */
int64_t retry_after_s(const char *text, int64_t now_s, int64_t most);
