/* A linear model of a reward that knows how sure it is: one arm of LinUCB with disjoint models (Li, Chu, Langford, Schapire: A Contextual-Bandit Approach to
 * Personalized News Article Recommendation, WWW 2010, Algorithm 1).
 *
 *     A = ridge I + sum x x'     b = A0 theta0 + sum r x     mean(x) = x' A^-1 b     width(x) = sqrt(x' A^-1 x)
 *
 * The inverse is kept, and learning is a step of Sherman and Morrison on it: no system is solved. Plain memory, no I/O, no locks; whoever shares one locks it. */
#pragma once

#define BANDIT_MAX 50 /* features */

struct bandit {
    int d;
    double inv[BANDIT_MAX * BANDIT_MAX]; /* A^-1, [d][d] */
    double b[BANDIT_MAX];
};

/* theta0: what is believed before anything was seen, [d]; ridge: how firmly, in observations. */
void bandit_init(struct bandit *m, int d, double ridge, const double *theta0);

/* The reward that is expected of x, [d], and the width of the belief. width NULL: not wanted. */
double bandit_mean(const struct bandit *m, const double *x, double *width);

/* x was seen to give reward r. */
void bandit_learn(struct bandit *m, const double *x, double r);
/* What x gave is found to be `by` more than was learned. */
void bandit_correct(struct bandit *m, const double *x, double by);
