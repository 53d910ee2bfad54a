/* What steps cost: a linear model of a step's time, learnt from the steps themselves.
 *
 * The time of a step is estimated as
 *
 *     step + decode rows * d + prefill rows * p + positions that they look back on * (d', p') + ranks of adapters * r + ranks of each row * r'
 *
 * with seven coefficients in microseconds. Plain arithmetic, no lock: the scheduler guards it. */
#pragma once
#include "engine/sched.h"

enum cost_term {
    COST_STEP, /* what every step costs: reading the weights */
    COST_DECODE_ROW,
    COST_PREFILL_ROW,
    COST_DECODE_CONTEXT, /* per position */
    COST_PREFILL_CONTEXT,
    COST_RANK,     /* of an adapter that is read */
    COST_RANK_ROW, /* of a row that is multiplied with it */
    COST_TERMS
};
_Static_assert(COST_TERMS == SCHED_COST_TERMS, "sched.h");
extern const char *const cost_term_name[COST_TERMS];

struct cost_model {
    double prior[COST_TERMS]; /* us; the coefficients are these times `times` */
    double times[COST_TERMS];
    double gram[COST_TERMS][COST_TERMS]; /* of the shares of what was seen, older ones faded */
    double error;                        /* mean of |estimate - time| / time over the last steps */
    uint64_t seen;                       /* steps */
    int free_rows;                       /* decoding rows that cost nothing beside reading the weights; learnt by calibration alone, 0 in the scheduler */
};

/* `prior`: what to believe before anything was seen, us, all above 0; a wrong order of magnitude costs a few bad estimates. */
void cost_init(struct cost_model *c, const double prior[COST_TERMS]);
/* What a machine reads and multiplies a microsecond, and what a step costs beside. Zeros: not known, as of a slow processor. */
struct cost_speed {
    double bytes_us, flops_us, step_us;
};
/* The prior of this model on such a machine. */
void cost_prior(const struct model *m, const struct cost_speed *speed, double prior[COST_TERMS]);

double cost_us(const struct cost_model *c, enum cost_term t); /* a coefficient */
double cost_of(const struct cost_model *c, const struct step_shape *w);
void cost_learn(struct cost_model *c, const struct step_shape *w, double took_us);

/* Prompt rows from position `at` on, of adapters of so many ranks, that take at most left_us, 0 .. most. */
int cost_rows_within(const struct cost_model *c, double left_us, int at, int ranks, int most);
/* What they take beside the step itself and the reading of their adapters, us. */
double cost_of_prompt(const struct cost_model *c, int at, int ranks, int rows);
/* Positions that rows at, at+1, ... look back on, summed. */
double cost_context(int at, int rows);
/* What each coefficient is multiplied with for such a step, of whose decoding rows so many cost nothing. */
void cost_features(const struct step_shape *w, int free_rows, double x[COST_TERMS]);
