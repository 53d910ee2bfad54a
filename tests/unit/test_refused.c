/* Refusals: counted by the hour, tenant, whose limit and which, for everybody too; written once however often, none is lost to a
 * database that does not write, and more tenants than there are places disturb nobody. */
#include "base/clock.h"
#include "gateway/limits/refused.h"
#include "tests/unit/data_room.h"
#include <pthread.h>

struct ref_room {
    struct room r;
    struct refused *x;
};

static int setup(void **state)
{
    struct ref_room *g = calloc(1, sizeof *g);
    struct err e = {0};
    room_new(&g->r);
    room_start(&g->r);
    assert_ok(refused_open(&g->x, g->r.db, &e), e);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct ref_room *g = *state;
    refused_stop(g->x);
    room_end(&g->r);
    refused_free(g->x);
    free(g);
    return 0;
}

#define OF(tenant, scope, kind) \
    "SELECT coalesce(sum(n), 0) FROM rollup_refused WHERE tenant = '" tenant "' AND scope = '" scope "' AND kind = '" kind "'"

static void each_refusal_counts_for_its_tenant_and_for_all(void **state)
{
    struct ref_room *g = *state;
    for (int i = 0; i < 5; i++) refused_count(g->x, "a", "tenant", LIMIT_REQUESTS_MINUTE);
    refused_count(g->x, "a", "key", LIMIT_COST_MONTH);
    refused_count(g->x, "b", "tenant", LIMIT_REQUESTS_MINUTE);
    assert_int_equal(room_number(&g->r, "SELECT count(*) FROM rollup_refused"), 0);
    refused_settle(g->x);
    refused_settle(g->x); /* there is nothing more */
    assert_int_equal(room_number(&g->r, OF("a", "tenant", "requests_per_minute")), 5);
    assert_int_equal(room_number(&g->r, OF("a", "key", "cost_per_month")), 1);
    assert_int_equal(room_number(&g->r, OF("", "tenant", "requests_per_minute")), 6);
    assert_int_equal(room_number(&g->r, "SELECT t % 3600 FROM rollup_refused"), 0);
    refused_count(g->x, "a", "tenant", LIMIT_REQUESTS_MINUTE);
    refused_settle(g->x);
    assert_int_equal(room_number(&g->r, OF("a", "tenant", "requests_per_minute")), 6);
    assert_int_equal(room_number(&g->r, OF("", "tenant", "requests_per_minute")), 7);
}

static void what_is_left_at_the_end_is_written(void **state)
{
    struct ref_room *g = *state;
    refused_count(g->x, "a", "adapter", LIMIT_CONCURRENT);
    refused_tick(g->x); /* a minute is not over */
    refused_stop(g->x);
    db_close(g->r.db);
    room_start(&g->r);
    assert_int_equal(room_number(&g->r, OF("a", "adapter", "concurrent_requests")), 1);
}

/* The table is taken away for a moment, so the job fails; what it held is counted again. */
static int hide(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    const char *sql = u ? "ALTER TABLE rollup_refused RENAME TO hidden" : "ALTER TABLE hidden RENAME TO rollup_refused";
    return sqlite3_exec(c, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, sql, e);
}

static void a_write_that_fails_loses_nothing(void **state)
{
    struct ref_room *g = *state;
    struct err e = {0};
    assert_ok(db_write_wait(g->r.db, hide, g, &e), e);
    refused_count(g->x, "a", "tenant", LIMIT_REQUESTS_MINUTE);
    refused_settle(g->x);
    refused_count(g->x, "a", "tenant", LIMIT_REQUESTS_MINUTE);
    assert_ok(db_write_wait(g->r.db, hide, NULL, &e), e);
    refused_settle(g->x);
    assert_int_equal(room_number(&g->r, OF("a", "tenant", "requests_per_minute")), 2);
}

static void more_tenants_than_places_are_bounded(void **state)
{
    struct ref_room *g = *state;
    char name[UUID_LEN];
    for (int i = 0; i < 20000; i++) {
        snprintf(name, sizeof name, "tenant-%d", i);
        refused_count(g->x, name, "tenant", LIMIT_TOKENS_MINUTE);
    }
    refused_settle(g->x);
    int64_t n = room_number(&g->r, OF("", "tenant", "tokens_per_minute"));
    assert_true(n > 3500 && n <= 4096);
    refused_count(g->x, "late", "tenant", LIMIT_TOKENS_MINUTE); /* there is room again */
    refused_settle(g->x);
    assert_int_equal(room_number(&g->r, OF("late", "tenant", "tokens_per_minute")), 1);
}

#define THREADS 4
#define EACH 20000

static void *many(void *u)
{
    struct ref_room *g = u;
    for (int i = 0; i < EACH; i++) {
        refused_count(g->x, i % 2 ? "a" : "b", "tenant", LIMIT_REQUESTS_MINUTE);
        if (i % 1000 == 0) refused_settle(g->x);
    }
    return NULL;
}

static void threads_that_count_while_it_is_written_lose_none(void **state)
{
    struct ref_room *g = *state;
    pthread_t t[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&t[i], NULL, many, g), 0);
    for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
    refused_settle(g->x);
    assert_int_equal(room_number(&g->r, OF("", "tenant", "requests_per_minute")), THREADS * EACH);
    assert_int_equal(room_number(&g->r, OF("a", "tenant", "requests_per_minute")), THREADS * EACH / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_refusal_counts_for_its_tenant_and_for_all, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_left_at_the_end_is_written, setup, teardown),
        cmocka_unit_test_setup_teardown(a_write_that_fails_loses_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(more_tenants_than_places_are_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_that_count_while_it_is_written_lose_none, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
