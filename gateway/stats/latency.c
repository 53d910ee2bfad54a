/* latency: arithmetic on histograms of times (see latency.h). Pure functions, any thread.
 *
 * Both tests are approximations by the normal distribution, good from some ten cases on; who decides by them asks for more
 * cases than that first (canary.c). */
#include "gateway/stats/latency.h"
#include <jansson.h>
#include <math.h>

const char *const latency_name[LATENCY_KINDS] = {"ttft_ms", "duration_ms", "tpot_ms"};

/* Buckets 4 to 7 stay empty: below 4 us a bucket is one microsecond, octave 2 begins at bucket 8. */
double latency_edge(int bucket)
{
    if (bucket < 8) return bucket < 4 ? bucket : 4;
    return ldexp(4 + bucket % 4, bucket / 4 - 2);
}

int64_t latency_count(const int64_t n[LATENCY_BUCKETS])
{
    int64_t sum = 0;
    for (int b = 0; b < LATENCY_BUCKETS; b++) sum += n[b];
    return sum;
}

double latency_quantile(const int64_t n[LATENCY_BUCKETS], double q)
{
    double want = q * (double)latency_count(n), seen = 0;
    for (int b = 0; b < LATENCY_BUCKETS; b++) {
        if (!n[b]) continue;
        double low = latency_edge(b), inside = (want - seen) / (double)n[b];
        seen += (double)n[b];
        if (seen >= want) return low + (latency_edge(b + 1) - low) * fmax(inside, 0);
    }
    return 0;
}

/* Three digits after the point of a millisecond: microseconds. */
static json_t *ms(const int64_t n[LATENCY_BUCKETS], double q, int64_t count)
{
    return count ? json_real(rint(latency_quantile(n, q)) / 1000) : json_null();
}

json_t *latency_json(const int64_t n[LATENCY_BUCKETS])
{
    int64_t count = latency_count(n);
    return json_pack("{sI so so so}", "n", (json_int_t)count, "p50", ms(n, 0.5, count), "p90", ms(n, 0.9, count), "p99",
                     ms(n, 0.99, count));
}

static double two_sided(double z)
{
    return erfc(fabs(z) / sqrt(2));
}

double latency_differ(const int64_t a[LATENCY_BUCKETS], const int64_t b[LATENCY_BUCKETS])
{
    double na = (double)latency_count(a), nb = (double)latency_count(b), n = na + nb, u = 0, below = 0, ties = 0;
    if (na == 0 || nb == 0) return 1;
    for (int i = 0; i < LATENCY_BUCKETS; i++) {
        double t = (double)a[i] + (double)b[i];
        u += (double)b[i] * (below + (double)a[i] / 2);
        below += (double)a[i];
        ties += t * t * t - t;
    }
    double variance = na * nb / 12 * (n + 1 - ties / (n * (n - 1)));
    return variance > 0 ? two_sided((u - na * nb / 2) / sqrt(variance)) : 1;
}

double share_differ(int64_t x, int64_t n, int64_t y, int64_t m)
{
    if (n <= 0 || m <= 0) return 1;
    double p = (double)(x + y) / (double)(n + m), variance = p * (1 - p) * (1 / (double)n + 1 / (double)m);
    return variance > 0 ? two_sided(((double)x / (double)n - (double)y / (double)m) / sqrt(variance)) : 1;
}
