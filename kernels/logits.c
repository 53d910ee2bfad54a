/* Passes over a row of logits, plain. Sums have a fixed order: in a block one after the other, then blocks. */
#include "kernels/logits.h"
#include <math.h>

#define TINY (-87.0f) /* e^ of less is not a normal number */

static float most(const float *x, int n, bool *finite)
{
    float best = -INFINITY, zero = 0;
    for (int i = 0; i < n; i++) {
        if (x[i] > best) best = x[i];
        zero += x[i] * 0;
    }
    *finite = zero == 0;
    return best;
}

static int find(const float *x, int n, float value)
{
    for (int i = 0; i < n; i++)
        if (x[i] == value) return i;
    return 0;
}

static double weigh(const float *x, int n, float best, float inv_t, float *w, float *sums)
{
    double mass = 0;
    for (int b = 0; b * LOGITS_BLOCK < n; b++) {
        float sum = 0;
        for (int i = b * LOGITS_BLOCK; i < n && i < (b + 1) * LOGITS_BLOCK; i++) {
            float at = (x[i] - best) * inv_t, v = at < TINY ? 0 : expf(at);
            if (w) w[i] = v;
            sum += v;
        }
        if (sums) sums[b] = sum;
        mass += (double)sum;
    }
    return mass;
}

static int above(const float *w, int n, float least, int32_t *index)
{
    int count = 0;
    for (int i = 0; i < n; i++)
        if (w[i] >= least && w[i] > 0) index[count++] = i;
    return count;
}

const struct logits_ops logits_plain = {most, find, weigh, above};
