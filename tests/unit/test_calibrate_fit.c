/* The fit of coefficients: those that made the steps are found again, whatever some steps had beside. */
#include "engine/calibrate_fit.h"
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

enum { STEPS = 600 };
static const double truth[COST_TERMS] = {2800, 480, 460, 0.9, 0.12, 40, 3}, prior[COST_TERMS] = {9000, 5000, 5000, 2, 3, 150, 10};

static double uniform(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (double)(*s >> 11) * 0x1p-53;
}

static void make(struct fit_step v[STEPS], double noise, double spikes, int free_rows)
{
    uint64_t seed = 7;
    struct cost_model c;
    cost_init(&c, truth);
    c.free_rows = free_rows;
    for (int i = 0; i < STEPS; i++) {
        struct step_shape *w = &v[i].shape;
        *w = (struct step_shape){.decode_rows = 1 << i % 6, .ranks = i % 3 ? 0 : 16 * (i % 9)};
        if (free_rows) w->decode_rows = 1 + i * 7 % 48;
        w->decode_context = w->decode_rows * (40 + 400 * uniform(&seed));
        if (i % 5 == 0) w->prefill_rows = 16 + i % 240, w->prefill_context = cost_context(i % 400, w->prefill_rows);
        if (w->ranks) w->rank_rows = (w->decode_rows + w->prefill_rows) * (8.0 * (1 + i % 4));
        v[i].us = cost_of(&c, w) * (1 + noise * (uniform(&seed) - 0.5));
        if (uniform(&seed) < spikes) v[i].us *= 8;
        v[i].kind = i % 5 == 0;
    }
}

static void coefficients_are_found_again(void **state)
{
    struct fit_step v[STEPS];
    double us[COST_TERMS];
    (void)state;
    make(v, 0, 0, 0);
    assert_true(fit_steps(v, STEPS, prior, 0, us) < 0.01);
    for (int i = 0; i < COST_TERMS; i++) assert_true(fabs(us[i] / truth[i] - 1) < 0.03);
}

static void a_tenth_of_the_steps_that_took_eight_times_as_long_does_not_move_them(void **state)
{
    struct fit_step v[STEPS];
    double us[COST_TERMS];
    (void)state;
    make(v, 0.1, 0.1, 0);
    fit_steps(v, STEPS, prior, 0, us);
    for (int i = 0; i < COST_TERMS; i++)
        if (i != COST_PREFILL_CONTEXT && i != COST_DECODE_CONTEXT) assert_true(fabs(us[i] / truth[i] - 1) < 0.1);
}

/* What no step tells of stays as it was believed, and nothing is below 0. */
static void what_no_step_tells_of_stays(void **state)
{
    struct fit_step v[STEPS];
    double us[COST_TERMS];
    (void)state;
    make(v, 0.3, 0, 0);
    for (int i = 0; i < STEPS; i++) v[i].shape.ranks = 0, v[i].shape.rank_rows = 0, v[i].us -= 300;
    fit_steps(v, STEPS, prior, 0, us);
    assert_true(us[COST_RANK] == prior[COST_RANK] && us[COST_RANK_ROW] == prior[COST_RANK_ROW]);
    for (int i = 0; i < COST_TERMS; i++) assert_true(us[i] >= 0);
    assert_true(fit_steps(v, 0, prior, 0, us) == 0 && us[COST_STEP] == prior[COST_STEP]);
}

/* 0 where all rows cost something; of those that are free the number, to one, however noisy, and the coefficients with it. */
static void rows_that_are_free_are_counted(void **state)
{
    struct fit_step v[STEPS];
    double us[COST_TERMS];
    int free_rows = -1;
    (void)state;
    for (int truly = 0; truly <= 24; truly += 6) {
        make(v, 0.1, 0.02, truly);
        assert_true(fit_free_rows(v, STEPS, prior, &free_rows, us) < 0.25);
        assert_in_range(free_rows, truly ? truly - 1 : 0, truly + 1);
        assert_true(fabs(us[COST_DECODE_ROW] / truth[COST_DECODE_ROW] - 1) < 0.15);
        assert_true(fabs(us[COST_RANK_ROW] / truth[COST_RANK_ROW] - 1) < 0.15);
    }
    assert_true(fit_free_rows(v, 0, prior, &free_rows, us) == 0 && free_rows == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coefficients_are_found_again),
        cmocka_unit_test(a_tenth_of_the_steps_that_took_eight_times_as_long_does_not_move_them),
        cmocka_unit_test(what_no_step_tells_of_stays),
        cmocka_unit_test(rows_that_are_free_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
