/* sampler: choose a token from a row of logits.
 *
 * What the request changes in the logits (sampler_adjust.c) happens first, on a copy. Greedy is a maximum then. With a
 * temperature, weights w = exp((x - max) / T) are made for the whole vocabulary, then
 *
 *     no filter             draw by inversion: sums of blocks, the block that holds the point, the token in it
 *     typical_p             the weights outside the typical set become 0: tokens nearest to the entropy come first
 *     min_p, top_k, top_p   a histogram of the weights -> the bin in which the head ends -> a heap of that bin only,
 *                           popped to the last token of the head -> draw among those that are not behind it
 *
 * in that order: min_p keeps w >= min_p * max w, top_k the k best of those, top_p the smallest head of these that holds
 * top_p of their mass (the token that crosses the line is in). A bin is a sixteenth of an octave, read off the float's
 * bits, so the cost is a few passes over the row however flat it is. (A heap of all candidates was tried first: 0.7 ms
 * for top_k 40, 2 ms for a flat head, against 0.2 and less.) The head is looked for among the weights that are at least
 * 1/4096 of the best, and among all only when it goes on below: then bins are filled from some hundred tokens instead of
 * the vocabulary.
 *
 * The random number is splitmix64's output function over (seed, index): no state, so a token's draw is the same alone,
 * in a batch, or after a preemption. Source: Steele, Lea and Flood 2014.
 *
 * Guarantees: equal input gives equal output on every thread; sums have a fixed order; among equal weights the smaller
 * id comes first; a NaN or an infinity anywhere in the row is found before anything is chosen.
 *
 * The passes over the vocabulary are kernels/logits.h's. One sampler per thread. */
#include "engine/sampler_adjust.h"
#include "kernels/logits.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GREEDY_BELOW 1e-5f /* a temperature under this would overflow the quotient: it means the maximum */
#define BIN_SHIFT 19       /* a float's exponent and four bits of its mantissa make its bin */
#define BINS ((0x3F800000 >> BIN_SHIFT) + 1) /* up to 1.0 */
#define HEAD_LEAST 0x1p-12f                  /* of the best weight: the head is looked for among these first */

struct cand {
    float w;
    int32_t id;
};

struct bin {
    double mass;
    int count;
};

struct sampler {
    const struct logits_ops *ops;
    int vocab;
    int row;           /* of logits: the vocabulary, and what pads the embedding behind it */
    float *w;          /* [vocab] weights; before, logits with the banned ones masked */
    float *sum;        /* [vocab / LOGITS_BLOCK + 1] */
    uint32_t *seen;    /* [vocab] zeros, for adjust_row() */
    struct cand *cand; /* [vocab] of one bin */
    int32_t *head;     /* [vocab] tokens that the bins were filled with, nhead of them, ascending */
    int nhead;
    struct bin bin[BINS];
};

struct sampler *sampler_new(int vocab)
{
    struct sampler *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->vocab = s->row = vocab;
    s->ops = logits_pick();
    s->w = malloc((size_t)vocab * sizeof *s->w);
    s->sum = malloc(((size_t)vocab / LOGITS_BLOCK + 1) * sizeof *s->sum);
    s->seen = calloc((size_t)vocab, sizeof *s->seen);
    s->cand = malloc((size_t)vocab * sizeof *s->cand);
    s->head = malloc((size_t)vocab * sizeof *s->head);
    if (s->w && s->sum && s->seen && s->cand && s->head) return s;
    sampler_free(s);
    return NULL;
}

void sampler_set_row(struct sampler *s, int row)
{
    s->row = row;
}

void sampler_free(struct sampler *s)
{
    if (!s) return;
    free(s->w);
    free(s->sum);
    free(s->seen);
    free(s->cand);
    free(s->head);
    free(s);
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

static struct cand pop(struct cand *h, int n)
{
    struct cand top = h[0];
    h[0] = h[n - 1];
    if (n > 1) sift_down(h, n - 1, 0);
    return top;
}

/* --- the head of the distribution --- */

static int bin_of(float w)
{
    uint32_t bits;
    memcpy(&bits, &w, sizeof bits);
    bits >>= BIN_SHIFT;
    return bits < BINS ? (int)bits : BINS - 1;
}

static void fill_bins(struct sampler *s, float least)
{
    memset(s->bin, 0, sizeof s->bin);
    s->nhead = s->ops->above(s->w, s->vocab, least, s->head);
    for (int i = 0; i < s->nhead; i++) {
        float w = s->w[s->head[i]];
        struct bin *b = &s->bin[bin_of(w)];
        b->mass += (double)w;
        b->count++;
    }
}

/* The token of bin b with which `count` or `goal` is reached; *mass grows by it and those before it. */
static struct cand end_in_bin(struct sampler *s, int b, int count, double goal, double *mass)
{
    int n = 0, taken = 0;
    for (int i = 0; i < s->nhead; i++) {
        int32_t id = s->head[i];
        if (bin_of(s->w[id]) == b) s->cand[n++] = (struct cand){s->w[id], id};
    }
    heapify(s->cand, n);
    struct cand last;
    double sum = 0;
    do {
        last = pop(s->cand, n - taken++);
        sum += (double)last.w;
    } while (taken < n && taken < count && sum < goal);
    *mass += sum;
    return last;
}

/* The last token of the head that has `count` tokens or `goal` of mass, whichever is reached first; *mass: of the head.
 * When neither is reached, everything from `least` on is the head. */
static struct cand head_end(struct sampler *s, float least, int count, double goal, double *mass)
{
    *mass = 0;
    for (int b = BINS - 1; b >= 0; b--) {
        const struct bin *bin = &s->bin[b];
        if (!bin->count) continue;
        if (bin->count >= count || *mass + bin->mass >= goal) return end_in_bin(s, b, count, goal - *mass, mass);
        count -= bin->count;
        *mass += bin->mass;
    }
    return (struct cand){least, INT32_MAX};
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
    int blocks = (s->vocab + LOGITS_BLOCK - 1) / LOGITS_BLOCK, b = 0;
    while (b < blocks - 1 && point >= s->sum[b]) point -= s->sum[b++];
    int32_t last = -1;
    for (int i = b * LOGITS_BLOCK; i < s->vocab && i < (b + 1) * LOGITS_BLOCK; i++) {
        if (s->w[i] <= 0) continue;
        last = i;
        if (point < s->w[i]) return i;
        point -= s->w[i];
    }
    for (int i = s->vocab - 1; last < 0 && i >= 0; i--) /* rounding led into an empty last block */
        if (s->w[i] > 0) last = i;
    return last;
}

/* The last token of the head, and the head's mass, as far as the weights from `least` on tell; false: not so far. `all` is
 * the mass of all weights, or < 0: not known. */
static bool find_head(struct sampler *s, const struct sample_params *p, float least, double all, struct cand *end,
                      double *mass)
{
    bool known = least <= p->min_p; /* what lies below does not count */
    double shorter;
    fill_bins(s, least);
    if (p->top_k > 0 ? !known && s->nhead < p->top_k : !known && (all < 0 || p->top_p >= 1)) return false;
    *end = head_end(s, least, p->top_k > 0 ? p->top_k : INT32_MAX, INFINITY, mass);
    if (p->top_k == 0 && !known) *mass = all;
    if (p->top_p >= 1) return true;
    struct cand e = head_end(s, least, INT32_MAX, (double)p->top_p * *mass, &shorter);
    if (p->top_k == 0 && !known && e.id == INT32_MAX) return false;
    if (better(e, *end)) {
        *end = e;
        *mass = shorter;
    }
    return true;
}

static int32_t draw_head(struct sampler *s, const struct sample_params *p, double all, double u)
{
    float least = p->min_p < 1 ? p->min_p : 1; /* the best weight is 1 */
    double mass;
    struct cand end;
    if (least >= HEAD_LEAST || !find_head(s, p, HEAD_LEAST, all, &end, &mass)) find_head(s, p, least, all, &end, &mass);
    double point = u * mass;
    int32_t last = -1;
    for (int n = 0; n < s->nhead; n++) {
        int32_t i = s->head[n];
        if (better(end, (struct cand){s->w[i], i})) continue;
        last = i;
        if (point < (double)s->w[i]) return i;
        point -= (double)s->w[i];
    }
    return last;
}

/* --- the typical set --- */

#define TYPICAL_LEAST 1e-12f /* weights below this part of the best have no mass to speak of */

/* Weights outside the smallest set that holds typical_p of the mass become 0; the set takes first the tokens whose
 * information -log p is nearest to the entropy. Source: Meister et al. 2023. */
static void keep_typical(struct sampler *s, float typical_p, double mass)
{
    double entropy = 0, sum = 0;
    int n = 0;
    for (int i = 0; i < s->vocab; i++)
        if (s->w[i] > 0) entropy -= (double)s->w[i] / mass * log((double)s->w[i] / mass);
    for (int i = 0; i < s->vocab; i++) {
        if (!(s->w[i] > TYPICAL_LEAST)) continue;
        double away = fabs(-log((double)s->w[i] / mass) - entropy);
        s->cand[n++] = (struct cand){(float)-away, i}; /* the heap has the nearest on top */
    }
    heapify(s->cand, n);
    int kept = 0;
    while (n > kept && (kept == 0 || sum < (double)typical_p * mass)) {
        struct cand c = pop(s->cand, n - kept++);
        sum += (double)s->w[c.id];
        s->cand[n - kept] = c; /* behind the heap: out of its way, remembered */
    }
    for (int i = kept; i < n; i++) s->w[s->cand[n - 1 - i].id] = 0;
    for (int i = 0; i < s->vocab; i++)
        if (!(s->w[i] > TYPICAL_LEAST)) s->w[i] = 0;
}

/* The weights as min_p expects them: the best is 1. */
static void scale_best_to_one(struct sampler *s)
{
    float best = 0;
    for (int i = 0; i < s->vocab; i++)
        if (s->w[i] > best) best = s->w[i];
    for (int i = 0; i < s->vocab; i++) s->w[i] /= best;
}

static bool typical_on(const struct sample_params *p)
{
    return p->typical_p > 0 && p->typical_p < 1;
}

static int32_t choose(struct sampler *s, const float *x, float max, const struct sample_params *p, uint64_t index)
{
    if (!(p->temperature >= GREEDY_BELOW)) return s->ops->find(x, s->vocab, max);
    double mass = s->ops->weigh(x, s->vocab, max, 1.0f / p->temperature, s->w, s->sum);
    double u = uniform(p->seed, index);
    bool filtered = (p->top_k > 0 && p->top_k < s->vocab) || p->top_p < 1 || p->min_p > 0;
    if (typical_on(p)) {
        keep_typical(s, p->typical_p, mass);
        scale_best_to_one(s);
        filtered = true;
    }
    return filtered ? draw_head(s, p, typical_on(p) ? -1 : mass, u) : draw_all(s, mass, u);
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
    float norm = max + (float)log(s->ops->weigh(x, s->row, max, 1, NULL, NULL));
    out->logprob = x[out->id] - norm;
    out->ntop = 0;
    if (want > TOP_LOGPROBS_MAX) want = TOP_LOGPROBS_MAX;
    for (int i = 0; want > 0 && i < s->row; i++)
        if (out->ntop < want || x[i] > out->top[want - 1].logprob) note_top(out, want, i, x[i]);
    for (int i = 0; i < out->ntop; i++) out->top[i].logprob -= norm;
}

/* The row that is chosen from: the logits, or an adjusted copy in s->w. Bans that leave nothing give way, then biases;
 * the mask never, for an answer has the shape that was asked for. */
static const float *adjusted(struct sampler *s, const float *logits, const struct sample_input *in)
{
    struct sample_input less = *in;
    for (int tries = 0; tries < 3 && adjust_needed(&less); tries++) {
        memcpy(s->w, logits, (size_t)s->vocab * sizeof *s->w);
        if (adjust_row(s->w, s->vocab, s->seen, &less)) return s->w;
        if (tries == 0)
            less.nbanned = 0;
        else
            less.nbias = 0;
    }
    return logits;
}

int sample_token(struct sampler *s, const float *logits, const struct sample_input *in, struct sample *out)
{
    bool finite, ignored;
    float max = s->ops->most(logits, s->row, &finite);
    if (!finite) return -1;
    const float *x = adjusted(s, logits, in);
    bool whole = x == logits && s->row == s->vocab;
    out->id = choose(s, x, whole ? max : s->ops->most(x, s->vocab, &ignored), in->p, in->index);
    out->ntop = 0;
    out->logprob = 0;
    if (in->p->logprobs >= 0) logprobs(s, logits, max, in->p->logprobs, out);
    return 0;
}

int sample_given(struct sampler *s, const float *logits, const struct sample_params *p, int32_t id, struct sample *out)
{
    bool finite;
    float max = s->ops->most(logits, s->row, &finite);
    if (!finite) return -1;
    out->id = id;
    out->ntop = 0;
    logprobs(s, logits, max, p->logprobs, out);
    return 0;
}
