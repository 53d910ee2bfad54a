/* Latency: histograms of times in quarter octaves, as the ledger's rollups keep them, and what is read from them.
 *
 * Bucket b holds [latency_edge(b), latency_edge(b + 1)) microseconds: four to a doubling, so a quantile that is read inside
 * its bucket is right within 19 %, mostly within 5. Sums of histograms are histograms: hours add up to days, tenants to all. */
#pragma once
#include "gateway/ledger/ledger_dims.h"
#include <stdint.h>

#define LATENCY_BUCKETS 256

extern const char *const latency_name[LATENCY_KINDS]; /* "ttft_ms", ... as in JSON */

int ledger_latency_bucket(int64_t us); /* 0 to 255, for any number; ledger_sums.c */
double latency_edge(int bucket);       /* microseconds; of 256 the last one's end */

int64_t latency_count(const int64_t n[LATENCY_BUCKETS]);
/* The time that the share q (0 to 1) stays below, in microseconds, read straight within its bucket; 0 of none. */
double latency_quantile(const int64_t n[LATENCY_BUCKETS], double q);

/* {"n","p50","p90","p99"} in milliseconds; null percentiles where there is none. */
struct json_t;
struct json_t *latency_json(const int64_t n[LATENCY_BUCKETS]);

/* Whether the times of b are others than those of a (Mann-Whitney's U with ties, H. Mann and D. Whitney 1947): the
 * two-sided p of the normal approximation; 1 where one of them is empty. Outliers count by their rank only. */
double latency_differ(const int64_t a[LATENCY_BUCKETS], const int64_t b[LATENCY_BUCKETS]);
/* The same for two shares, x of n and y of m: the pooled z-test of two proportions. */
double share_differ(int64_t x, int64_t n, int64_t y, int64_t m);
