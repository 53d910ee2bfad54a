/* What left an engine is counted by digest, within bounds. */
#include "gateway/pool/engine_gone.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

static const char *digest_of(int i)
{
    static char text[SHA256_HEX];
    snprintf(text, sizeof text, "%016llx%048d", (unsigned long long)(i + 1) * 0x9E3779B97F4A7C15ull, i);
    return text;
}

static void what_left_is_counted_by_digest(void **state)
{
    struct gone g = {0};
    (void)state;
    assert_int_equal(gone_count(&g, digest_of(1)), 0);
    for (int i = 0; i < 1000; i++)
        for (int n = 0; n <= i % 3; n++) gone_note(&g, digest_of(i));
    for (int i = 0; i < 1000; i++) assert_int_equal(gone_count(&g, digest_of(i)), i % 3 + 1);
    assert_int_equal(gone_count(&g, digest_of(1000)), 0);
    assert_int_equal(g.total, 334 + 2 * 333 + 3 * 333);
    gone_close(&g);
}

static void beyond_the_bound_only_the_sum_grows(void **state)
{
    struct gone g = {0};
    (void)state;
    for (int i = 0; i < GONE_MAX + 100; i++) gone_note(&g, digest_of(i));
    assert_int_equal(g.total, GONE_MAX + 100);
    assert_int_equal(g.used, GONE_MAX);
    assert_int_equal(g.cap, 2 * GONE_MAX);
    assert_int_equal(gone_count(&g, digest_of(GONE_MAX - 1)), 1);
    assert_int_equal(gone_count(&g, digest_of(GONE_MAX + 1)), 0);
    gone_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_left_is_counted_by_digest), cmocka_unit_test(beyond_the_bound_only_the_sum_grows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
