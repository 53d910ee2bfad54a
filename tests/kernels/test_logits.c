/* Passes over a row of logits: both tables against their definition in float64, at lengths that are no multiple of
 * anything, blind to what lies behind the row. */
#include "kernels/logits.h"
#include "tests/kernels/common.h"

#define ROW_MAX 49152

static const int LENGTHS[] = {1, 15, 16, 17, 64, 255, 256, 257, 1000, 49152};
#define LENGTHS_N ((int)(sizeof LENGTHS / sizeof *LENGTHS))

static const struct logits_ops *const OPS[] = {&logits_plain, &logits_avx512};

/* Table i, or NULL where it can't run here. */
static const struct logits_ops *ops_of(int i)
{
    return i == 0 || logits_pick() == OPS[i] ? OPS[i] : NULL;
}

static float row[ROW_MAX + 64], weight[ROW_MAX + 64];

/* n seeded values, NaN behind them. */
static void make_row(int n, float spread)
{
    fill(row, (size_t)n);
    for (int i = 0; i < n; i++) row[i] *= spread;
    for (int i = n; i < ROW_MAX + 64; i++) row[i] = NAN;
}

static void the_largest_is_found_with_its_first_place(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++)
        for (int i = 0; ops_of(t) && i < LENGTHS_N; i++) {
            int n = LENGTHS[i], at = n / 3;
            bool finite = false;
            make_row(n, 10);
            row[at] = 11, row[n - 1] = 11;
            assert_true(ops_of(t)->most(row, n, &finite) == 11);
            assert_true(finite);
            assert_int_equal(ops_of(t)->find(row, n, 11), at < n - 1 ? at : n - 1);
        }
}

static void a_value_that_is_not_finite_is_noticed_wherever_it_stands(void **state)
{
    (void)state;
    static const float BAD[] = {NAN, INFINITY, -INFINITY};
    for (int t = 0; t < 2; t++)
        for (int at = 0; ops_of(t) && at < 257; at++)
            for (int b = 0; b < 3; b++) {
                bool finite = true;
                make_row(257, 3);
                row[at] = BAD[b];
                ops_of(t)->most(row, 257, &finite);
                assert_false(finite);
            }
}

static void weights_and_their_sums_agree_with_float64(void **state)
{
    (void)state;
    static float sums[ROW_MAX / LOGITS_BLOCK + 1];
    for (int t = 0; t < 2; t++)
        for (int i = 0; ops_of(t) && i < LENGTHS_N; i++) {
            int n = LENGTHS[i];
            double all = 0, got = 0;
            make_row(n, 60);
            weight[n] = 7;
            double mass = ops_of(t)->weigh(row, n, 60, 0.9f, weight, sums);
            assert_true(weight[n] == 7);
            for (int j = 0; j < n; j++) {
                float x = (row[j] - 60) * 0.9f;
                double want = x < -87 ? 0 : exp(x);
                all += want;
                if (!(fabs(weight[j] - want) <= 3e-7 * want))
                    fail_msg("table %d: %g, not %g", t, (double)weight[j], want);
            }
            for (int b = 0; b * LOGITS_BLOCK < n; b++) got += (double)sums[b];
            assert_true(fabs(mass - all) <= 1e-5 * all && got == mass);
            assert_true(ops_of(t)->weigh(row, n, 60, 0.9f, NULL, NULL) == mass);
        }
}

static void a_forbidden_logit_weighs_nothing(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        if (!ops_of(t)) continue;
        make_row(40, 1);
        row[0] = row[39] = -INFINITY;
        ops_of(t)->weigh(row, 40, 1, 1, row, NULL); /* in place */
        assert_true(row[0] == 0 && row[39] == 0 && row[1] > 0);
    }
}

static void indices_of_large_weights_come_in_order(void **state)
{
    (void)state;
    static int32_t index[ROW_MAX + 64];
    for (int t = 0; t < 2; t++)
        for (int i = 0; ops_of(t) && i < LENGTHS_N; i++) {
            int n = LENGTHS[i], want = 0;
            make_row(n, 1);
            for (int j = 0; j < n; j += 5) row[j] = 0;
            index[n] = -7;
            for (float least = 0; least < 1; least += 0.4f) {
                int count = ops_of(t)->above(row, n, least, index);
                want = 0;
                for (int j = 0; j < n; j++)
                    if (row[j] >= least && row[j] > 0) assert_int_equal(index[want++], j);
                assert_int_equal(count, want);
            }
            assert_int_equal(index[n], -7);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_is_found_with_its_first_place),
        cmocka_unit_test(a_value_that_is_not_finite_is_noticed_wherever_it_stands),
        cmocka_unit_test(weights_and_their_sums_agree_with_float64),
        cmocka_unit_test(a_forbidden_logit_weighs_nothing),
        cmocka_unit_test(indices_of_large_weights_come_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
