/* bandit: one arm of LinUCB (bandit.h).
 *
 * Doubles that are fed features within a few units stay good for millions of steps: each step of Sherman and Morrison makes the inverse smaller, and the
 * denominator is at least 1. */
#include "gateway/quality/bandit.h"
#include <math.h>
#include <string.h>

/* out = A^-1 x */
static void times(const struct bandit *m, const double *x, double *out)
{
    for (int i = 0; i < m->d; i++) {
        out[i] = 0;
        for (int k = 0; k < m->d; k++) out[i] += m->inv[i * m->d + k] * x[k];
    }
}

static double dot(const double *a, const double *b, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void bandit_init(struct bandit *m, int d, double ridge, const double *theta0)
{
    memset(m, 0, sizeof *m);
    m->d = d;
    for (int i = 0; i < d; i++) {
        m->inv[i * d + i] = 1 / ridge;
        m->b[i] = ridge * theta0[i];
    }
}

double bandit_mean(const struct bandit *m, const double *x, double *width)
{
    double v[BANDIT_MAX];
    times(m, x, v);
    if (width) *width = sqrt(fmax(0, dot(x, v, m->d)));
    return dot(m->b, v, m->d);
}

void bandit_learn(struct bandit *m, const double *x, double r)
{
    double v[BANDIT_MAX];
    times(m, x, v);
    double by = 1 + dot(x, v, m->d);
    for (int i = 0; i < m->d; i++)
        for (int k = 0; k < m->d; k++) m->inv[i * m->d + k] -= v[i] * v[k] / by;
    bandit_correct(m, x, r);
}

void bandit_correct(struct bandit *m, const double *x, double by)
{
    for (int i = 0; i < m->d; i++) m->b[i] += by * x[i];
}
