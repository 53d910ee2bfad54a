/* clock: the two clocks of Linux in microseconds, and the one spelling of a moment that logs and JSON use.
 *
 * Durations are always differences of clock_mono_us(), so a clock that an operator or NTP sets cannot make one
 * negative. Any thread; no state. */
#include "base/clock.h"
#include <stdio.h>
#include <time.h>

static int64_t read_us(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t clock_wall_us(void)
{
    return read_us(CLOCK_REALTIME);
}

void clock_iso(int64_t wall_us, char out[CLOCK_ISO_LEN])
{
    const int64_t year_0000 = -62167219200, year_9999 = 253402300799; /* what four digits can say */
    int64_t s = wall_us / 1000000, us = wall_us % 1000000;
    if (us < 0) s--, us += 1000000;
    if (s < year_0000) s = year_0000, us = 0;
    if (s > year_9999) s = year_9999, us = 999999;
    time_t t = (time_t)s;
    struct tm tm;
    gmtime_r(&t, &tm);
    snprintf(out, CLOCK_ISO_LEN, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", (unsigned)(tm.tm_year + 1900) % 10000u,
             (unsigned)(tm.tm_mon + 1) % 100u, (unsigned)tm.tm_mday % 100u, (unsigned)tm.tm_hour % 100u,
             (unsigned)tm.tm_min % 100u, (unsigned)tm.tm_sec % 100u, (unsigned)(us / 1000) % 1000u);
}
