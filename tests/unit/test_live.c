/* The live view: what is in flight is counted per tenant and adapter, the busiest are shown first, and rows are few. */
#include "gateway/live.h"
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct admission of(const char *tenant, const char *adapter, int version)
{
    struct admission a = {.what = {.is_base = !*adapter, .version = version}};
    snprintf(a.who.tenant_name, sizeof a.who.tenant_name, "%s", tenant);
    snprintf(a.what.adapter, sizeof a.what.adapter, "%s", adapter);
    snprintf(a.what.digest, sizeof a.what.digest, "digest of %s %d", adapter, version);
    return a;
}

static void begin(struct live *l, const char *tenant, const char *adapter, int version, struct live_request *q)
{
    struct admission a = of(tenant, adapter, version);
    live_begin(l, &a, q);
}

static void requests_and_tokens_are_counted_for_the_tenant_and_the_adapter(void **state)
{
    struct live *l = live_new();
    struct live_request q[4];
    struct live_top top[4];
    (void)state;
    begin(l, "acme", "sql", 1, &q[0]);
    begin(l, "acme", "sql", 1, &q[1]);
    begin(l, "acme", "sql", 2, &q[2]);
    begin(l, "other", "", 0, &q[3]);
    for (int i = 0; i < 4; i++) live_tokens(&q[i], 100);
    assert_int_equal(live_tenants(l, top, 4), 2);
    assert_string_equal(top[0].tenant, "acme");
    assert_int_equal(top[0].in_flight, 3);
    assert_true(top[0].tokens_per_s == 300.0 / LIVE_WINDOW_S);
    assert_int_equal(live_adapters(l, top, 4), 2);
    assert_int_equal(top[0].version, 1);
    assert_int_equal(top[0].in_flight, 2);
    assert_string_equal(top[1].digest, "digest of sql 2");
    for (int i = 0; i < 4; i++) live_end(l, &q[i]);
    live_end(l, &q[0]);                           /* once more is harmless */
    assert_int_equal(live_tenants(l, top, 4), 2); /* their tokens are still in the window */
    assert_int_equal(top[0].in_flight, 0);
    live_free(l);
}

static void the_busiest_are_shown_when_there_are_more_than_asked_for(void **state)
{
    struct live *l = live_new();
    struct live_request q;
    struct live_top top[3];
    (void)state;
    for (int tenant = 0; tenant < 20; tenant++)
        for (int n = 0; n <= (tenant * 7) % 20; n++) {
            char name[16];
            snprintf(name, sizeof name, "t%d", tenant);
            begin(l, name, "", 0, &q);
        }
    assert_int_equal(live_tenants(l, top, 3), 3);
    for (int i = 0; i < 3; i++) assert_int_equal(top[i].in_flight, 20 - i);
    live_free(l);
}

static void more_names_than_rows_are_not_shown_and_disturb_nobody(void **state)
{
    struct live *l = live_new();
    struct live_request *q = calloc(2 * LIVE_ROWS, sizeof *q), again;
    struct live_top *top = calloc(2 * LIVE_ROWS, sizeof *top);
    char name[16];
    (void)state;
    for (int i = 0; i < 2 * LIVE_ROWS; i++) {
        snprintf(name, sizeof name, "t%d", i);
        begin(l, name, "", 0, &q[i]);
        live_tokens(&q[i], 0);
    }
    int shown = live_tenants(l, top, 2 * LIVE_ROWS);
    assert_true(shown > LIVE_ROWS / 2 && shown <= LIVE_ROWS);
    for (int i = 0; i < 2 * LIVE_ROWS; i++) live_end(l, &q[i]);
    assert_int_equal(live_tenants(l, top, 2 * LIVE_ROWS), 0);
    begin(l, "fresh", "", 0, &again); /* idle rows are given away */
    assert_non_null(again.tenant);
    assert_int_equal(live_tenants(l, top, 2 * LIVE_ROWS), 1);
    live_end(l, &again);
    free(q);
    free(top);
    live_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_and_tokens_are_counted_for_the_tenant_and_the_adapter),
        cmocka_unit_test(the_busiest_are_shown_when_there_are_more_than_asked_for),
        cmocka_unit_test(more_names_than_rows_are_not_shown_and_disturb_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
