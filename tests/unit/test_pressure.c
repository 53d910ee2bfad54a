/* The ladder: up at once, down by steps and after a calm. */
#include "gateway/pressure.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SECOND 1000000ll

static enum pressure_level set(struct pressure *p, double share, int64_t now)
{
    enum pressure_level to = pressure_step(p, share, now);
    atomic_store(&p->level, to);
    return to;
}

static void it_rises_at_once_to_the_step_of_the_share(void **state)
{
    (void)state;
    static const struct {
        double share;
        enum pressure_level level;
    } want[] = {{0, PRESSURE_NONE},         {0.79, PRESSURE_NONE},        {0.80, PRESSURE_UPLOADS}, {0.90, PRESSURE_BATCH},
                {0.949, PRESSURE_BATCH},    {0.95, PRESSURE_CONNECTIONS}, {0.999, PRESSURE_CONNECTIONS}, {1, PRESSURE_ALL},
                {9, PRESSURE_ALL}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        struct pressure p = {0};
        assert_int_equal(set(&p, want[i].share, SECOND), want[i].level);
    }
}

static void it_sinks_step_by_step_after_a_calm(void **state)
{
    (void)state;
    struct pressure p = {0};
    int64_t now = SECOND;
    set(&p, 1.2, now);
    for (int level = PRESSURE_ALL; level > PRESSURE_NONE; level--) {
        assert_int_equal(set(&p, 0, now += 1), level);
        assert_int_equal(set(&p, 0, now += PRESSURE_CALM_US - 1), level);
        assert_int_equal(set(&p, 0, now += 1), level - 1);
    }
    assert_int_equal(set(&p, 0, now += 10 * SECOND), PRESSURE_NONE);
}

static void it_does_not_flutter_about_a_mark(void **state)
{
    (void)state;
    struct pressure p = {0};
    int64_t now = SECOND;
    int changes = 0, before = PRESSURE_NONE;
    for (int i = 0; i < 1000; i++) {
        int level = set(&p, i % 2 ? 0.81 : 0.76, now += SECOND / 5);
        changes += level != before;
        before = level;
    }
    assert_int_equal(changes, 1);
    for (int i = 0; i < 1000; i++) { /* a calm that is broken begins anew */
        assert_int_equal(set(&p, i % 5 ? 0.5 : 0.80, now += SECOND / 5), PRESSURE_UPLOADS);
    }
    assert_int_equal(set(&p, 0.74, now += 1), PRESSURE_UPLOADS);
    assert_int_equal(set(&p, 0.74, now += PRESSURE_CALM_US), PRESSURE_NONE);
}

static void what_rises_while_it_sinks_is_heeded(void **state)
{
    (void)state;
    struct pressure p = {0};
    set(&p, 0.92, SECOND);
    set(&p, 0.1, 2 * SECOND);
    assert_int_equal(set(&p, 1.0, 3 * SECOND), PRESSURE_ALL);
    assert_int_equal(set(&p, 0.1, 5 * SECOND), PRESSURE_ALL); /* a new calm */
    assert_int_equal(set(&p, 0.1, 7 * SECOND), PRESSURE_CONNECTIONS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_rises_at_once_to_the_step_of_the_share),
        cmocka_unit_test(it_sinks_step_by_step_after_a_calm),
        cmocka_unit_test(it_does_not_flutter_about_a_mark),
        cmocka_unit_test(what_rises_while_it_sinks_is_heeded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
