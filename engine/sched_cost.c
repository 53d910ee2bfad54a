/* sched_cost: how long a step will take, from how long others took.
 *
 * Idea: recursive least squares on seven features, in terms of relative error, because noise of a machine that others use too is a factor and
 * not an amount. Each coefficient is kept as a multiple of its prior, so that all directions have the same scale:
 *
 *     share z = coefficient's prior * feature / time       the sum of z * times should be 1
 *     gram    = faded gram + z z'                          times += (gram + damping)^-1 z (1 - z times)
 *
 * Old steps fade, so that the model follows the machine (a core that is taken away, a clock that drops), but only in the directions that a
 * step tells about: an hour without a prompt must not forget what prompts cost. The damping keeps directions that were never told apart (eight
 * rows in every step, and the step itself) where they are.
 *
 * Guarantees: coefficients are never negative; one step that took long for a reason of its own (a neighbour's burst) counts as at most
 * SPIKE times its estimate; nothing is allocated.
 *
 * Refuses to be clever about what is not linear: between few rows, where weights are read, and many, where products are computed, the truth
 * bends; the fit follows to where steps are just now. */
#include "engine/sched_cost.h"
#include <math.h>
#include <string.h>

#define FADE 0.95      /* of what was seen, per step that tells of it: a memory of 20 steps */
#define DAMPING 3e-4   /* against shares of a step, which sum to about 1: what is hardly there is not learnt from */
#define STIFFNESS 0.01 /* of each direction by itself: what can't be told from others stays */
#define SPIKE 3.0
#define TRUSTED 16 /* steps, before which a spike can't be told from a wrong prior */
#define ERROR_FADE 0.95
#define TIMES_MAX 1e6    /* of a prior */
#define PRIOR_BYTES 10e3 /* per us: a slow memory */
#define PRIOR_FLOPS 50e3 /* per us: a slow processor */

const char *const cost_term_name[COST_TERMS] = {"step",           "decode_row",      "prefill_row",
                                                "decode_context", "prefill_context", "rank", "rank_row"};

void cost_prior(const struct model *m, const struct cost_speed *speed, double prior[COST_TERMS])
{
    double bytes_us = speed->bytes_us > 0 ? speed->bytes_us : PRIOR_BYTES;
    double flops_us = speed->flops_us > 0 ? speed->flops_us : PRIOR_FLOPS;
    double bytes = (double)m->weight_bytes, inner = 0, kv = 0, wide = (double)m->hidden + m->mlp; /* inner, kv: of all layers */
    for (int l = 0; l < m->layers; l++) {
        inner += (double)model_heads(m, l) * m->head_dim;
        kv += 2.0 * model_kv_heads(m, l) * m->head_dim;
    }
    double params = (double)m->hidden * (2 * inner + kv);
    for (int l = 0; l < m->layers; l++)
        params += 3.0 * m->hidden * (m->experts ? m->experts_used * m->expert_mlp : model_mlp(m, l));
    prior[COST_STEP] = bytes / bytes_us + speed->step_us;
    prior[COST_DECODE_ROW] = 2 * (params + (double)m->vocab * m->hidden) / flops_us;
    prior[COST_PREFILL_ROW] = 2 * params / flops_us;
    prior[COST_DECODE_CONTEXT] = kv * 2 / bytes_us;
    prior[COST_PREFILL_CONTEXT] = 4 * inner / flops_us;
    prior[COST_RANK] = 2.0 * m->layers * (4 * m->hidden + 3 * wide) / bytes_us;
    prior[COST_RANK_ROW] = 2.0 * m->layers * (4 * m->hidden + 3 * wide) / flops_us;
    for (int i = 0; i < COST_TERMS; i++)
        if (!(prior[i] > 0)) prior[i] = 1e-3;
}

void cost_init(struct cost_model *c, const double prior[COST_TERMS])
{
    *c = (struct cost_model){0};
    for (int i = 0; i < COST_TERMS; i++) {
        c->prior[i] = prior[i];
        c->times[i] = 1;
    }
}

/* --- estimates --- */

void cost_features(const struct step_shape *w, int free_rows, double x[COST_TERMS])
{
    x[COST_STEP] = 1;
    x[COST_DECODE_ROW] = w->decode_rows > free_rows ? w->decode_rows - free_rows : 0;
    x[COST_PREFILL_ROW] = w->prefill_rows;
    x[COST_DECODE_CONTEXT] = w->decode_context;
    x[COST_PREFILL_CONTEXT] = w->prefill_context;
    x[COST_RANK] = w->ranks;
    x[COST_RANK_ROW] = w->rank_rows;
}

double cost_us(const struct cost_model *c, enum cost_term t)
{
    return c->prior[t] * c->times[t];
}

double cost_of(const struct cost_model *c, const struct step_shape *w)
{
    double x[COST_TERMS], sum = 0;
    cost_features(w, c->free_rows, x);
    for (int i = 0; i < COST_TERMS; i++) sum += x[i] * cost_us(c, (enum cost_term)i);
    return sum;
}

double cost_context(int at, int rows)
{
    return (double)rows * at + (double)rows * (rows + 1) / 2;
}

/* p rows at position q cost row*p + look*(p*q + p*p/2): the larger root of that against left_us. */
int cost_rows_within(const struct cost_model *c, double left_us, int at, int ranks, int most)
{
    double look = cost_us(c, COST_PREFILL_CONTEXT), each = cost_us(c, COST_PREFILL_ROW) + ranks * cost_us(c, COST_RANK_ROW) + look * (at + 0.5);
    if (left_us <= 0) return 0;
    if (each * most + look * most / 2 * most <= left_us) return most;
    double rows = 2 * left_us / (each + sqrt(each * each + 2 * look * left_us));
    return rows < most ? (int)rows : most;
}

double cost_of_prompt(const struct cost_model *c, int at, int ranks, int rows)
{
    return rows * (cost_us(c, COST_PREFILL_ROW) + ranks * cost_us(c, COST_RANK_ROW)) + cost_context(at, rows) * cost_us(c, COST_PREFILL_CONTEXT);
}

/* --- learning --- */

/* a x = b for a symmetric positive definite a of n rows, by Cholesky in place; false: it is not. */
static bool solve(double a[COST_TERMS][COST_TERMS], double b[COST_TERMS], int n)
{
    for (int j = 0; j < n; j++) {
        for (int k = 0; k < j; k++) a[j][j] -= a[j][k] * a[j][k];
        if (!(a[j][j] > 0)) return false;
        a[j][j] = sqrt(a[j][j]);
        for (int i = j + 1; i < n; i++) {
            for (int k = 0; k < j; k++) a[i][j] -= a[i][k] * a[j][k];
            a[i][j] /= a[j][j];
        }
    }
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < i; k++) b[i] -= a[i][k] * b[k];
        b[i] /= a[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++) b[i] -= a[k][i] * b[k];
        b[i] /= a[i][i];
    }
    return true;
}

/* What the step says nothing about keeps its weight. */
static void fade_and_add(struct cost_model *c, const double z[COST_TERMS])
{
    for (int i = 0; i < COST_TERMS; i++)
        for (int j = 0; j < COST_TERMS; j++) {
            double fade = sqrt((z[i] > 0 ? FADE : 1) * (z[j] > 0 ? FADE : 1));
            c->gram[i][j] = c->gram[i][j] * fade + z[i] * z[j];
        }
}

/* The correction of those terms that are free, where the others fall to 0: the least of d'(gram + damping)d/2 - z d rest. */
static bool correction(const struct cost_model *c, const double z[COST_TERMS], const bool zero[COST_TERMS],
                       double d[COST_TERMS])
{
    double a[COST_TERMS][COST_TERMS], b[COST_TERMS], rest = 1;
    int n = 0, at[COST_TERMS];
    for (int i = 0; i < COST_TERMS; i++) {
        rest -= z[i] * c->times[i];
        d[i] = -c->times[i];
        if (!zero[i]) at[n++] = i;
    }
    for (int i = 0; i < n; i++) {
        b[i] = z[at[i]] * rest;
        for (int j = 0; j < COST_TERMS; j++)
            if (zero[j]) b[i] -= c->gram[at[i]][j] * d[j];
        for (int j = 0; j < n; j++) a[i][j] = c->gram[at[i]][at[j]];
        a[i][i] += DAMPING + STIFFNESS * a[i][i];
    }
    if (!solve(a, b, n)) return false;
    for (int i = 0; i < n; i++) d[at[i]] = b[i];
    return true;
}

/* Terms that would become negative are held at 0 and the others corrected anew: cutting them off afterwards would leave what was to make
 * up for them, and the estimates would swing ever higher. */
static void correct(struct cost_model *c, const double z[COST_TERMS])
{
    bool zero[COST_TERMS] = {false}, again = true;
    double d[COST_TERMS];
    fade_and_add(c, z);
    while (again) {
        if (!correction(c, z, zero, d)) return;
        again = false;
        for (int i = 0; i < COST_TERMS; i++)
            if (!zero[i] && c->times[i] + d[i] < 0) zero[i] = again = true;
    }
    for (int i = 0; i < COST_TERMS; i++) c->times[i] = fmin(fmax(c->times[i] + d[i], 0), TIMES_MAX);
}

void cost_learn(struct cost_model *c, const struct step_shape *w, double took_us)
{
    double z[COST_TERMS], estimate = cost_of(c, w);
    if (took_us < 1) took_us = 1;
    double error = fabs(estimate - took_us) / took_us;
    c->error = c->seen == 0 ? error : ERROR_FADE * c->error + (1 - ERROR_FADE) * error;
    if (c->seen >= TRUSTED && took_us > SPIKE * estimate) took_us = fmax(SPIKE * estimate, 1);
    c->seen++;
    cost_features(w, c->free_rows, z);
    for (int i = 0; i < COST_TERMS; i++) z[i] *= c->prior[i] / took_us;
    correct(c, z);
}
