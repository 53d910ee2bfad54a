/* Least absolute relative error, by least squares whose weights are anew the inverse of what was off (iteratively reweighted): a step that a
 * neighbour's burst made ten times longer pulls no more than one that it made a little longer. Each round moves one coefficient after
 * the other to its best place, never below 0 (Gauss and Seidel), which for seven of them is quick enough. Plain arithmetic. */
#include "engine/calibrate_fit.h"
#include <math.h>
#include <string.h>

#define ROUNDS 60
#define SWEEPS 60
#define LEAST_OFF 0.005 /* of a step: nearer than that all are as good */
#define RIDGE 1e-6

static void shares(const struct fit_step *s, const double prior[COST_TERMS], int free_rows, double z[COST_TERMS])
{
    double x[COST_TERMS];
    cost_features(&s->shape, free_rows, x);
    for (int i = 0; i < COST_TERMS; i++) z[i] = x[i] * prior[i] / s->us;
}

static double off(const double z[COST_TERMS], const double times[COST_TERMS])
{
    double rest = 1;
    for (int i = 0; i < COST_TERMS; i++) rest -= z[i] * times[i];
    return fabs(rest);
}

static void solve(double gram[COST_TERMS][COST_TERMS], const double right[COST_TERMS], double times[COST_TERMS])
{
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int i = 0; i < COST_TERMS; i++) {
            double rest = right[i] + RIDGE * times[i];
            for (int k = 0; k < COST_TERMS; k++)
                if (k != i) rest -= gram[i][k] * times[k];
            times[i] = fmax(rest / (gram[i][i] + RIDGE), 0);
        }
}

double fit_steps(const struct fit_step *v, int n, const double prior[COST_TERMS], int free_rows, double us[COST_TERMS])
{
    double times[COST_TERMS], z[COST_TERMS], count[FIT_KINDS] = {0}, sum = 0;
    int kinds = 0;
    for (int i = 0; i < COST_TERMS; i++) times[i] = 1;
    for (int i = 0; i < n; i++) kinds += count[v[i].kind]++ == 0;
    for (int round = 0; round < ROUNDS && n > 0; round++) {
        double gram[COST_TERMS][COST_TERMS] = {{0}}, right[COST_TERMS] = {0};
        for (int i = 0; i < n; i++) {
            shares(&v[i], prior, free_rows, z);
            double weight = 1 / count[v[i].kind] / (round ? fmax(off(z, times), LEAST_OFF) : 1);
            for (int j = 0; j < COST_TERMS; j++) {
                right[j] += weight * z[j];
                for (int k = 0; k < COST_TERMS; k++) gram[j][k] += weight * z[j] * z[k];
            }
        }
        solve(gram, right, times);
    }
    for (int i = 0; i < n; i++) {
        shares(&v[i], prior, free_rows, z);
        sum += off(z, times) / count[v[i].kind];
    }
    for (int i = 0; i < COST_TERMS; i++) us[i] = times[i] * prior[i];
    return kinds ? sum / kinds : 0;
}

double fit_free_rows(const struct fit_step *v, int n, const double prior[COST_TERMS], int *free_rows, double us[COST_TERMS])
{
    double least = INFINITY, each[COST_TERMS];
    for (int free = 0; free <= FIT_FREE_MAX; free++) {
        double error = fit_steps(v, n, prior, free, each);
        if (!(error < least)) continue;
        least = error;
        *free_rows = free;
        memcpy(us, each, sizeof each);
    }
    return least;
}
