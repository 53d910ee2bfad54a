/* Lists of models that are kept: told for their own state alone, never for another tenant, name, registry or set of bases. */
#include "gateway/registry/models_kept.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TEXT "{\"object\":\"list\"}"

static bool has(struct models_kept *k, const char *tenant, const char *owner, uint64_t serial, const char *bases)
{
    struct buf b;
    buf_init(&b, 1 << 20);
    bool yes = models_kept_get(k, &(struct models_key){tenant, owner, serial, bases}, &b) == 0;
    if (yes) assert_string_equal(b.data, TEXT);
    buf_close(&b);
    return yes;
}

static void a_list_is_told_for_what_it_was_made_of_alone(void **state)
{
    (void)state;
    struct models_kept *k = models_kept_new();
    assert_false(has(k, "t1", "acme", 7, "smol\n"));
    models_kept_put(k, &(struct models_key){"t1", "acme", 7, "smol\n"}, TEXT, strlen(TEXT));
    assert_true(has(k, "t1", "acme", 7, "smol\n"));
    assert_true(has(k, "t1", "acme", 7, "smol\n"));
    assert_false(has(k, "t1", "acme", 8, "smol\n"));
    assert_false(has(k, "t1", "acme", 6, "smol\n"));
    assert_false(has(k, "t1", "acm", 7, "smol\n"));
    assert_false(has(k, "t1", "acme2", 7, "smol\n"));
    assert_false(has(k, "t1", "acme", 7, "smol\nqwen\n"));
    assert_false(has(k, "t1", "acme", 7, "smo"));
    assert_false(has(k, "t1", "acme", 7, ""));
    assert_false(has(k, "t2", "acme", 7, "smol\n"));
    models_kept_free(k);
}

static void tenants_that_share_a_place_do_not_share_a_list(void **state)
{
    (void)state;
    struct models_kept *k = models_kept_new();
    char tenant[32];
    int told = 0;
    for (int i = 0; i < 4 * MODELS_KEPT; i++) {
        snprintf(tenant, sizeof tenant, "tenant-%d", i);
        assert_false(has(k, tenant, "x", 1, "b\n"));
        models_kept_put(k, &(struct models_key){tenant, "x", 1, "b\n"}, TEXT, strlen(TEXT));
        assert_true(has(k, tenant, "x", 1, "b\n"));
    }
    for (int i = 0; i < 4 * MODELS_KEPT; i++) {
        snprintf(tenant, sizeof tenant, "tenant-%d", i);
        told += has(k, tenant, "x", 1, "b\n");
    }
    assert_in_range(told, 1, MODELS_KEPT);
    models_kept_free(k);
}

static void a_long_list_is_not_kept(void **state)
{
    (void)state;
    struct models_kept *k = models_kept_new();
    char *text = calloc(1, MODELS_KEPT_BYTES + 1);
    models_kept_put(k, &(struct models_key){"t", "x", 1, "b\n"}, text, MODELS_KEPT_BYTES + 1);
    assert_false(has(k, "t", "x", 1, "b\n"));
    free(text);
    models_kept_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_is_told_for_what_it_was_made_of_alone),
        cmocka_unit_test(tenants_that_share_a_place_do_not_share_a_list),
        cmocka_unit_test(a_long_list_is_not_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
