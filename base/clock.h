/* Time: monotonic for durations, wall for records. Both in microseconds. */
#pragma once
#include <stddef.h>
#include <stdint.h>

int64_t clock_mono_us(void); /* never goes back */
int64_t clock_wall_us(void); /* since 1970-01-01T00:00:00Z */

/* "2026-11-21T10:04:00.123Z" into out. */
#define CLOCK_ISO_LEN 25
void clock_iso(int64_t wall_us, char out[CLOCK_ISO_LEN]);
