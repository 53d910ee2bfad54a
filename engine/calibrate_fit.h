/* The seven coefficients of sched_cost.h that explain given steps best, and the rows that are free. */
#pragma once
#include "engine/sched_cost.h"

struct fit_step {
    struct step_shape shape;
    double us;
    int kind; /* 0 .. FIT_KINDS-1: steps of a kind count as much, together, as those of any other */
};
#define FIT_KINDS 64

/* Coefficients of 0 and more that make the sum over kinds of the mean of |estimate - time| / time least. `prior` is the scale of each and its value
 * where no step tells of it. Returns that sum a kind: the mean relative error. */
double fit_steps(const struct fit_step *v, int n, const double prior[COST_TERMS], int free_rows, double us[COST_TERMS]);
/* The same with the number of free rows, 0 .. FIT_FREE_MAX, with which that is least; of equal ones the smallest. */
double fit_free_rows(const struct fit_step *v, int n, const double prior[COST_TERMS], int *free_rows, double us[COST_TERMS]);
#define FIT_FREE_MAX 32
