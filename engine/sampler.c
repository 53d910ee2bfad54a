/* sampler: choose a token from a row of logits.
 *
 * Greedy is a maximum. With a temperature, weights w = exp((x - max) / T) are made for the whole vocabulary, then
 *
 *     no filter             draw by inversion: sums of blocks, the block that holds the point, the token in it
 *     min_p, top_k, top_p   candidates -> a heap -> the best are popped until top_k of them, or top_p of their
 *                           mass, is out -> draw among these
 *
 * in that order: min_p keeps w >= min_p * max w, top_k the k best of those, top_p the smallest head of these that holds
 * top_p of their mass (the token that crosses the line is in). A heap costs one pass plus log n for each token that is
 * kept, so nothing is sorted that is not used. For top_p alone, tokens lighter than (1 - top_p) / vocab of the mass
 * can't be in the head and are not made candidates.
 *
 * The random number is splitmix64's output function over (seed, index): no state, so a token's draw is the same alone,
 * in a batch, or after a preemption. Source: Steele, Lea and Flood 2014.
 *
 * Guarantees: equal input gives equal output on every thread; sums have a fixed order; among equal weights the smaller
 * id comes first; a NaN or an infinity anywhere in the row is found before anything is chosen.
 *
 * The loops over the vocabulary are written in lanes of four with the compiler's vector types, because without
 * -ffast-math it may not reorder a sum itself. One sampler per thread. */
#include "engine/sampler.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GREEDY_BELOW 1e-5f /* a temperature under this would overflow the quotient: it means the maximum */
#define BLOCK 256          /* weights per partial sum */
#define LANES 4
#define STREAMS 4 /* independent accumulators, to hide latency */

typedef float f4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));

struct cand {
    float w;
    int32_t id;
};

struct sampler {
    int vocab;
    float *w;   /* [vocab] weights; before, logits with the banned ones masked */
    float *sum; /* [vocab / BLOCK + 1] */
    struct cand *cand;
};

struct sampler *sampler_new(int vocab)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->vocab = vocab;
    s->w = malloc((size_t)vocab * sizeof *s->w);
    s->sum = malloc(((size_t)vocab / BLOCK + 1) * sizeof *s->sum);
    s->cand = malloc((size_t)vocab * sizeof *s->cand);
    if (s->w && s->sum && s->cand) return s;
    sampler_free(s);
    return NULL;
}

void sampler_free(struct sampler *s)
{
    if (!s) return;
    free(s->w);
    free(s->sum);
    free(s->cand);
    free(s);
}

/* --- lanes --- */

static f4 load4(const float *p)
{
    f4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static f4 all4(float x)
{
    return (f4){x, x, x, x};
}

static f4 pick4(i4 mask, f4 a, f4 b)
{
    return (f4)((mask & (i4)a) | (~mask & (i4)b));
}

/* exp(x) for x <= 0 within 2 units in the last place; 0 below -87. Cody and Waite's reduction and a polynomial of
 * degree 6. */
static f4 exp4(f4 x)
{
    const f4 magic = all4(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    i4 tiny = ~(x >= all4(-87.0f));
    x = pick4(tiny, all4(-87.0f), x);
    f4 n = x * all4(1.44269504f) + magic - magic;
    f4 r = x - n * all4(0.693359375f) + n * all4(2.12194440e-4f);
    f4 p = all4(1.0f / 720);
    p = p * r + all4(1.0f / 120);
    p = p * r + all4(1.0f / 24);
    p = p * r + all4(1.0f / 6);
    p = p * r + all4(0.5f);
    p = p * r + all4(1.0f);
    p = p * r + all4(1.0f);
    i4 two_n = (__builtin_convertvector(n, i4) + 127) << 23;
    return pick4(tiny, all4(0), p * (f4)two_n);
}

static float exp1(float x)
{
    return exp4(all4(x))[0];
}

/* The largest of x[0..n), and whether all of them are finite (x * 0 is NaN for what is not). */
static float row_max(const float *x, int n, bool *finite)
{
    f4 max[STREAMS], zero[STREAMS];
    for (int j = 0; j < STREAMS; j++) {
        max[j] = all4(-INFINITY);
        zero[j] = all4(0);
    }
    int i = 0;
    for (; i + STREAMS * LANES <= n; i += STREAMS * LANES)
        for (int j = 0; j < STREAMS; j++) {
            f4 v = load4(x + i + j * LANES);
            max[j] = pick4(v > max[j], v, max[j]);
            zero[j] += v * all4(0);
        }
    float best = -INFINITY, sum = 0;
    for (int j = 0; j < STREAMS * LANES; j++) {
        float v = max[j / LANES][j % LANES];
        if (v > best) best = v;
        sum += zero[j / LANES][j % LANES];
    }
    for (; i < n; i++) {
        if (x[i] > best) best = x[i];
        sum += x[i] * 0;
    }
    *finite = sum == 0;
    return best;
}

static int32_t first_equal(const float *x, int n, float v)
{
    for (int i = 0; i < n; i++)
        if (x[i] == v) return i;
    return 0;
}

/* out[i] = exp((x[i] - max) * inv_t) for one block (out may be NULL); returns the block's sum. */
static float exp_block(const float *x, int n, float max, float inv_t, float *out)
{
    f4 sum[STREAMS] = {0};
    int i = 0;
    for (; i + STREAMS * LANES <= n; i += STREAMS * LANES)
        for (int j = 0; j < STREAMS; j++) {
            f4 w = exp4((load4(x + i + j * LANES) - all4(max)) * all4(inv_t));
            sum[j] += w;
            if (out) memcpy(out + i + j * LANES, &w, sizeof w);
        }
    float total = 0;
    for (int j = 0; j < STREAMS * LANES; j++) total += sum[j / LANES][j % LANES];
    for (; i < n; i++) {
        float w = exp1((x[i] - max) * inv_t);
        total += w;
        if (out) out[i] = w;
    }
    return total;
}

/* Weights of the whole row in w (may be x itself, or NULL) and the sums of its blocks; returns the mass. */
static double exp_row(const float *x, int n, float max, float inv_t, float *w, float *sums)
{
    double mass = 0;
    for (int b = 0; b * BLOCK < n; b++) {
        int len = n - b * BLOCK < BLOCK ? n - b * BLOCK : BLOCK;
        float s = exp_block(x + b * BLOCK, len, max, inv_t, w ? w + b * BLOCK : NULL);
        if (sums) sums[b] = s;
        mass += s;
    }
    return mass;
}

/* --- candidates: a heap with the best on top --- */

static bool better(struct cand a, struct cand b)
{
    return a.w > b.w || (a.w == b.w && a.id < b.id);
}

static void sift_down(struct cand *h, int n, int i)
{
    struct cand c = h[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(h[child + 1], h[child])) child++;
        if (!better(h[child], c)) break;
        h[i] = h[child];
    }
    h[i] = c;
}

static void heapify(struct cand *h, int n)
{
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(h, n, i);
}

/* Take the best out: it stands at h[n - 1] then, so what was popped lies behind the heap, best last. */
static struct cand pop(struct cand *h, int n)
{
    struct cand top = h[0];
    h[0] = h[n - 1];
    h[n - 1] = top;
    if (n > 1) sift_down(h, n - 1, 0);
    return top;
}

static int gather(struct sampler *s, float least)
{
    int n = 0;
    for (int i = 0; i < s->vocab; i++)
        if (s->w[i] >= least && s->w[i] > 0) s->cand[n++] = (struct cand){s->w[i], i};
    return n;
}

/* --- drawing --- */

static uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1), 53 bits. */
static double uniform(uint64_t seed, uint64_t index)
{
    return (double)(mix(mix(seed) ^ mix(~index)) >> 11) * 0x1p-53;
}

static int32_t draw_all(const struct sampler *s, double mass, double u)
{
    double point = u * mass;
    int blocks = (s->vocab + BLOCK - 1) / BLOCK, b = 0;
    while (b < blocks - 1 && point >= s->sum[b]) point -= s->sum[b++];
    int32_t last = -1;
    for (int i = b * BLOCK; i < s->vocab && i < (b + 1) * BLOCK; i++) {
        if (s->w[i] <= 0) continue;
        last = i;
        if (point < s->w[i]) return i;
        point -= s->w[i];
    }
    for (int i = s->vocab - 1; last < 0 && i >= 0; i--) /* rounding led into an empty last block */
        if (s->w[i] > 0) last = i;
    return last;
}

/* Pop until top_k are out or top_p of the mass is; `mass`: of all candidates when top_k is off. Returns how many are
 * kept. */
static int keep_best(struct cand *h, int n, const struct sample_params *p, double mass)
{
    int k = p->top_k > 0 && p->top_k < n ? p->top_k : n, out = 0;
    bool by_k = k < n;
    double sum = 0;
    for (; out < k; out++) {
        sum += pop(h, n - out).w;
        if (!by_k && p->top_p < 1 && sum >= (double)p->top_p * mass) return out + 1;
    }
    if (!by_k || p->top_p >= 1) return out;
    double goal = (double)p->top_p * sum, head = 0;
    for (int i = 0; i < out; i++) {
        head += h[n - 1 - i].w;
        if (head >= goal) return i + 1;
    }
    return out;
}

static int32_t draw_best(struct sampler *s, const struct sample_params *p, double mass, double u)
{
    float least = p->min_p > 0 ? p->min_p : 0; /* the best weight is 1 */
    if (p->min_p <= 0 && p->top_k <= 0) least = (float)((1.0 - (double)p->top_p) * mass / s->vocab * 0.999);
    int n = gather(s, least < 1 ? least : 1);
    if (p->min_p > 0) {
        mass = 0;
        for (int i = 0; i < n; i++) mass += s->cand[i].w;
    }
    heapify(s->cand, n);
    int kept = keep_best(s->cand, n, p, mass);
    const struct cand *best = s->cand + n - 1; /* best[-i] is the i-th */
    double sum = 0;
    for (int i = 0; i < kept; i++) sum += best[-i].w;
    double point = u * sum;
    for (int i = 0; i < kept - 1; i++) {
        if (point < best[-i].w) return best[-i].id;
        point -= best[-i].w;
    }
    return best[-(kept - 1)].id;
}

static int32_t choose(struct sampler *s, const float *x, float max, const struct sample_params *p, uint64_t index)
{
    if (!(p->temperature >= GREEDY_BELOW)) return first_equal(x, s->vocab, max);
    double mass = exp_row(x, s->vocab, max, 1.0f / p->temperature, s->w, s->sum);
    double u = uniform(p->seed, index);
    bool filtered = (p->top_k > 0 && p->top_k < s->vocab) || p->top_p < 1 || p->min_p > 0;
    return filtered ? draw_best(s, p, mass, u) : draw_all(s, mass, u);
}

/* --- log-probabilities --- */

static void note_top(struct sample *out, int want, int32_t id, float logit)
{
    int i = out->ntop < want ? out->ntop++ : want - 1;
    for (; i > 0 && out->top[i - 1].logprob < logit; i--) out->top[i] = out->top[i - 1];
    out->top[i] = (struct token_logprob){id, logit};
}

static void logprobs(const struct sampler *s, const float *x, float max, int want, struct sample *out)
{
    float norm = max + (float)log(exp_row(x, s->vocab, max, 1, NULL, NULL));
    out->logprob = x[out->id] - norm;
    out->ntop = 0;
    if (want > TOP_LOGPROBS_MAX) want = TOP_LOGPROBS_MAX;
    for (int i = 0; want > 0 && i < s->vocab; i++)
        if (out->ntop < want || x[i] > out->top[want - 1].logprob) note_top(out, want, i, x[i]);
    for (int i = 0; i < out->ntop; i++) out->top[i].logprob -= norm;
}

int sample_token(struct sampler *s, const float *logits, const struct sample_params *p, uint64_t index,
                 const int32_t *banned, int nbanned, struct sample *out)
{
    bool finite, ignored;
    float max = row_max(logits, s->vocab, &finite), allowed_max = max;
    const float *x = logits;
    if (!finite) return -1;
    if (nbanned > 0) {
        memcpy(s->w, logits, (size_t)s->vocab * sizeof *s->w);
        for (int i = 0; i < nbanned; i++)
            if (banned[i] >= 0 && banned[i] < s->vocab) s->w[banned[i]] = -INFINITY;
        allowed_max = row_max(s->w, s->vocab, &ignored);
        x = s->w;
        if (allowed_max == -INFINITY) { /* everything is banned: then nothing is */
            x = logits;
            allowed_max = max;
        }
    }
    out->id = choose(s, x, allowed_max, p, index);
    out->ntop = 0;
    out->logprob = 0;
    if (p->logprobs >= 0) logprobs(s, logits, max, p->logprobs, out);
    return 0;
}
