/* Values that are not finite: which versions had some. The table forgets what is old, done with or too much, and goes on to count. */
#include "gateway/registry/upload_impl.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define H (3600 * 1000000LL)

static struct uploads u;
static int64_t now;

static int begin(void **state)
{
    (void)state;
    u = (struct uploads){.nthreads = 0};
    now = H;
    return pthread_mutex_init(&u.lock, NULL);
}

static int end(void **state)
{
    (void)state;
    faults_free(&u);
    return pthread_mutex_destroy(&u.lock);
}

static bool fault(const char *name, int version)
{
    struct version_name v = {.tenant = "t", .version = version};
    snprintf(v.name, sizeof v.name, "%s", name);
    return faults_count(&u, &v, now++);
}

static void the_second_fault_of_a_version_is_enough_and_the_next_counts_anew(void **state)
{
    (void)state;
    assert_false(fault("a", 1) || fault("a", 2) || fault("b", 1));
    assert_true(fault("a", 1));
    assert_int_equal(u.nfaults, 2);
    assert_false(fault("a", 1));
}

static void after_thousands_of_versions_with_one_the_next_still_counts(void **state)
{
    (void)state;
    for (int i = 1; i <= 5000; i++) assert_false(fault("many", i));
    assert_true(u.nfaults <= 1024);
    assert_false(fault("bad", 1));
    assert_true(fault("bad", 1));
    assert_false(fault("many", 1)); /* the oldest made room, */
    assert_true(fault("many", 4900)); /* the younger are there */
}

static void what_was_removed_or_restored_or_is_old_is_forgotten(void **state)
{
    (void)state;
    fault("a", 1);
    fault("a", 2);
    fault("b", 1);
    faults_forget(&u, "t", "a", 1);
    faults_forget(&u, "somebody", "b", 0);
    assert_int_equal(u.nfaults, 2);
    assert_false(fault("a", 1));
    faults_forget(&u, "t", "a", 0);
    assert_int_equal(u.nfaults, 1);
    now += 25 * H;
    assert_false(fault("b", 1));
    assert_true(fault("b", 1));
    assert_int_equal(u.nfaults, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_second_fault_of_a_version_is_enough_and_the_next_counts_anew, begin, end),
        cmocka_unit_test_setup_teardown(after_thousands_of_versions_with_one_the_next_still_counts, begin, end),
        cmocka_unit_test_setup_teardown(what_was_removed_or_restored_or_is_old_is_forgotten, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
