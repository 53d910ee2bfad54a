/* Canaries: the targets of an alias beside each other, in what came of their requests, and whether the lighter ones are better
 * or worse than the heaviest.
 *
 * An alias with weights is an experiment: who gets which target is drawn by a hash (gateway/registry/alias.h), so differences are the
 * targets'. Shares (errors, aborts) are compared by the z-test of two proportions, times by Mann and Whitney's test of their
 * histograms, mean scores of evaluated answers, where both have CANARY_ENOUGH, by Welch's test (normal, of so many); a difference counts where its p is below CANARY_ALPHA divided by the number of comparisons (Bonferroni) and it
 * is large enough to matter. Pure functions. */
#pragma once
#include "gateway/ledger/ledger.h"
#include "gateway/stats/latency.h"

#define CANARY_TARGETS 16
#define CANARY_ENOUGH 50   /* requests of each before anything is said */
#define CANARY_TIMES 20    /* times of each before they are compared: those that failed have none, and of few the test's p is no p */
#define CANARY_ALPHA 0.05
#define CANARY_SHARE 0.005 /* of requests: a smaller difference in errors or aborts does not matter */
#define CANARY_SCORED 0.02 /* of a score: likewise */
#define CANARY_TIME 0.05   /* of the median: likewise in times */

struct canary_target {
    char adapter[NAME_MAX_LEN + 1]; /* "": the base */
    char base[128];                 /* of the base */
    int version;                    /* that answers; 0: the base, or none is ready */
    int weight;
    int64_t n[USAGE_STATES], output, cost;
    int64_t times[LATENCY_KINDS][LATENCY_BUCKETS];
    int64_t scored; /* answers that were evaluated (docs/EVALUATION.md) */
    double score_sum, score_squares; /* of their scores, 0 to 1 */
};

int64_t canary_requests(const struct canary_target *t);
int64_t canary_errors(const struct canary_target *t);

enum canary_metric { CANARY_ERRORS, CANARY_ABORTS, CANARY_TTFT, CANARY_TPOT, CANARY_DURATION, CANARY_SCORE, CANARY_METRICS };
extern const char *const canary_metric_name[CANARY_METRICS];

struct canary_difference {
    int base, other; /* targets: the heaviest, and the one compared with it */
    enum canary_metric metric;
    double before, after; /* of base and of other: shares, medians in ms, or mean scores */
    double p;
    bool significant;
};

enum canary_verdict { CANARY_TOO_FEW, CANARY_SAME, CANARY_BETTER, CANARY_WORSE };
extern const char *const canary_verdict_word[];

struct canary {
    int baseline; /* the heaviest; of equals the lower version, then the later one */
    struct canary_difference difference[CANARY_TARGETS * CANARY_METRICS];
    int n;
    enum canary_verdict verdict;
    char reason[256]; /* one sentence */
};

double canary_score(const struct canary_target *t); /* the mean; 0 where nothing was scored */

/* Verdict over the targets that have a weight: worse where one of them is, in anything but the duration, which goes with the
 * length of the answer. */
void canary_judge(const struct canary_target *t, int n, struct canary *out);
