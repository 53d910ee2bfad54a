/* A sliding minute of what ended: requests, errors, refusals, and histograms of their times. One owner, who locks.
 *
 * A ring of LIVE_PARTS parts of LIVE_PART_S seconds; a part is cleared when it comes round again. So the window is the running
 * part and those before it: LIVE_SPAN_S less at most one part, and `covered_s` says how much it is. */
#pragma once
#include "gateway/stats/latency.h"
#include <stdbool.h>
#include <stdint.h>

#define LIVE_SPAN_S 60
#define LIVE_PART_S 10
#define LIVE_PARTS (LIVE_SPAN_S / LIVE_PART_S)
#define LIVE_FIRST_BUCKET 24 /* 64 us; shorter times count there */
#define LIVE_BUCKETS 108     /* up to 2.4 hours; longer ones count as that */

enum live_count { LIVE_REQUESTS, LIVE_ERRORS, LIVE_REFUSED, LIVE_COUNTS };

struct live_window {
    int64_t part[LIVE_PARTS]; /* number since the clock's beginning; -1: empty */
    uint32_t count[LIVE_PARTS][LIVE_COUNTS];
    uint32_t times[LIVE_PARTS][LATENCY_KINDS][LIVE_BUCKETS];
};

struct live_sums {
    int64_t count[LIVE_COUNTS];
    int64_t times[LATENCY_KINDS][LATENCY_BUCKETS];
    double covered_s;
};

void live_window_init(struct live_window *w);
void live_window_count(struct live_window *w, int64_t mono_us, enum live_count what);
void live_window_time(struct live_window *w, int64_t mono_us, enum latency_kind kind, int64_t us);
void live_window_sum(const struct live_window *w, int64_t mono_us, struct live_sums *out); /* sets *out */
bool live_window_idle(const struct live_window *w, int64_t mono_us);                       /* nothing in it */
