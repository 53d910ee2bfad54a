/* canary: the arithmetic behind a verdict (see canary.h). No state, no database. */
#include "gateway/stats/canary.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *const canary_metric_name[CANARY_METRICS] = {"error_rate", "abort_rate", "ttft_ms", "tpot_ms",
                                                        "duration_ms", "score"};
const char *const canary_verdict_word[] = {"too few requests", "no difference", "better", "worse"};

/* What a person calls it. */
static const char *const said[CANARY_METRICS] = {"errors", "aborts", "time to the first token", "time per token",
                                                 "duration", "score"};
static const enum latency_kind kind_of[CANARY_METRICS] = {[CANARY_TTFT] = LATENCY_TTFT,
                                                          [CANARY_TPOT] = LATENCY_TPOT,
                                                          [CANARY_DURATION] = LATENCY_DURATION};

int64_t canary_requests(const struct canary_target *t)
{
    int64_t n = 0;
    for (int i = 0; i < USAGE_STATES; i++) n += t->n[i];
    return n;
}

int64_t canary_errors(const struct canary_target *t)
{
    return t->n[USAGE_UPSTREAM_ERROR] + t->n[USAGE_TIMEOUT] + t->n[USAGE_GATEWAY_CRASH];
}

static bool is_share(enum canary_metric m)
{
    return m == CANARY_ERRORS || m == CANARY_ABORTS;
}

static int64_t count_of(const struct canary_target *t, enum canary_metric m)
{
    return m == CANARY_ERRORS ? canary_errors(t) : t->n[USAGE_CLIENT_ABORT];
}

double canary_score(const struct canary_target *t)
{
    return t->scored ? t->score_sum / (double)t->scored : 0;
}

/* Of a mean: the variance of the scores by their number. */
static double spread(const struct canary_target *t)
{
    double n = (double)t->scored, mean = canary_score(t), left = t->score_squares - n * mean * mean;
    return n > 1 && left > 0 ? left / (n - 1) / n : 0;
}

/* p of a difference as large by chance; 1 where there is nothing to go by. */
static double scores_differ(const struct canary_target *a, const struct canary_target *b)
{
    double s = sqrt(spread(a) + spread(b)), d = fabs(canary_score(a) - canary_score(b));
    if (!a->scored || !b->scored || d < 1e-12) return 1;
    return s > 0 ? erfc(d / s / sqrt(2)) : 0;
}

static double value_of(const struct canary_target *t, enum canary_metric m)
{
    int64_t n = canary_requests(t);
    if (m == CANARY_SCORE) return canary_score(t);
    if (!is_share(m)) return latency_quantile(t->times[kind_of[m]], 0.5) / 1000;
    return n ? (double)count_of(t, m) / (double)n : 0;
}

static bool enough(const struct canary_target *t)
{
    return canary_requests(t) >= CANARY_ENOUGH;
}

static bool may_compare(const struct canary_target *t, enum canary_metric m)
{
    if (m == CANARY_SCORE) return t->scored >= CANARY_ENOUGH;
    return enough(t) && (is_share(m) || latency_count(t->times[kind_of[m]]) >= CANARY_TIMES);
}

static void compare(const struct canary_target *t, struct canary_difference *d, double alpha)
{
    const struct canary_target *a = &t[d->base], *b = &t[d->other];
    enum canary_metric m = d->metric;
    d->before = value_of(a, m);
    d->after = value_of(b, m);
    d->p = m == CANARY_SCORE ? scores_differ(a, b)
           : is_share(m)     ? share_differ(count_of(a, m), canary_requests(a), count_of(b, m), canary_requests(b))
                             : latency_differ(a->times[kind_of[m]], b->times[kind_of[m]]);
    double least = m == CANARY_SCORE ? CANARY_SCORED : is_share(m) ? CANARY_SHARE : CANARY_TIME * d->before;
    d->significant = may_compare(a, m) && may_compare(b, m) && d->p < alpha && fabs(d->after - d->before) >= least;
}

static int heaviest(const struct canary_target *t, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (t[i].weight > t[best].weight || (t[i].weight == t[best].weight && t[i].version <= t[best].version)) best = i;
    return best;
}

/* "sql@2", or the base's name. */
static void name_of(const struct canary_target *t, char out[NAME_MAX_LEN + 16])
{
    if (*t->adapter)
        snprintf(out, NAME_MAX_LEN + 16, "%s@%d", t->adapter, t->version);
    else
        snprintf(out, NAME_MAX_LEN + 16, "%.*s", NAME_MAX_LEN, t->base);
}

static bool is_worse(const struct canary_difference *d)
{
    return d->metric == CANARY_SCORE ? d->after < d->before : d->after > d->before;
}

static void say_score(const char *other, const char *base, const struct canary_difference *d, char out[256])
{
    snprintf(out, 256, "%s has %s scores than %s: %.2f on average against %.2f.", other, is_worse(d) ? "lower" : "higher", base, d->after, d->before);
}

static void say(const struct canary_target *t, const struct canary_difference *d, char out[256])
{
    char base[NAME_MAX_LEN + 16], other[NAME_MAX_LEN + 16];
    bool share = is_share(d->metric), worse = d->after > d->before;
    double scale = share ? 100 : 1;
    name_of(&t[d->base], base);
    name_of(&t[d->other], other);
    if (d->metric == CANARY_SCORE) {
        say_score(other, base, d, out);
        return;
    }
    snprintf(out, 256, "%s has %s %s than %s: %.*f %s against %.*f %s.", other, share ? worse ? "more" : "fewer" : worse ? "a longer" : "a shorter",
             said[d->metric], base, share ? 2 : 1, d->after * scale, share ? "%" : "ms", share ? 2 : 1,
             d->before * scale, share ? "%" : "ms");
}

/* The verdict follows the first difference that is for the worse, else the first for the better. */
static void decide(const struct canary_target *t, struct canary *c)
{
    const struct canary_difference *better = NULL, *worse = NULL;
    bool scores = false;
    for (int i = 0; i < c->n; i++) {
        const struct canary_difference *d = &c->difference[i];
        scores |= d->metric == CANARY_SCORE;
        if (!d->significant || d->metric == CANARY_DURATION) continue;
        if (is_worse(d) && !worse) worse = d;
        if (!is_worse(d) && d->after != d->before && !better) better = d;
    }
    c->verdict = worse ? CANARY_WORSE : better ? CANARY_BETTER : CANARY_SAME;
    if (worse || better)
        say(t, worse ? worse : better, c->reason);
    else
        snprintf(c->reason, sizeof c->reason, "No difference in errors, aborts%s times%s is larger than chance would make it.", scores ? "," : " or", scores ? " or scores" : "");
}

void canary_judge(const struct canary_target *t, int n, struct canary *c)
{
    int others = 0, few = -1;
    *c = (struct canary){.baseline = n ? heaviest(t, n) : 0};
    int metrics = CANARY_SCORE; /* and that, where answers of two were scored */
    for (int i = 0; i < n; i++) {
        if (t[i].weight > 0 && !enough(&t[i]) && few < 0) few = i;
        others += i != c->baseline && t[i].weight > 0;
        if (i != c->baseline && t[i].weight > 0 && t[i].scored && t[c->baseline].scored) metrics = CANARY_METRICS;
    }
    for (int i = 0; i < n; i++) {
        if (i == c->baseline || t[i].weight <= 0) continue;
        for (int m = 0; m < metrics; m++) {
            struct canary_difference *d = &c->difference[c->n++];
            *d = (struct canary_difference){.base = c->baseline, .other = i, .metric = (enum canary_metric)m};
            compare(t, d, CANARY_ALPHA / (metrics * others));
        }
    }
    if (others == 0)
        snprintf(c->reason, sizeof c->reason, "There is one target only, so there is nothing to compare.");
    else if (few < 0)
        decide(t, c);
    else {
        char name[NAME_MAX_LEN + 16];
        name_of(&t[few], name);
        snprintf(c->reason, sizeof c->reason, "%s has %lld requests so far; %d of each are needed.", name,
                 (long long)canary_requests(&t[few]), CANARY_ENOUGH);
    }
}
