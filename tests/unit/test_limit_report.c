/* Budgets as people see them: all subjects that have one, the fullest first; the course of a day by hours and of a month by days;
 * a forecast that goes on as it went; and when a budget is or was spent. */
#include "base/json.h"
#include "gateway/db/db_audit.h"
#include "gateway/limits/limit_report.h"
#include "tests/unit/data_room.h"

#define T1 "00000000-0000-7000-8000-000000000001"
#define T2 "00000000-0000-7000-8000-000000000002"
#define HOUR 3600
#define DAY 86400
#define NOW (1772020800LL) /* 2026-02-25 12:00:00 UTC */
#define TODAY (NOW / DAY * DAY)

struct report_room {
    struct room r;
    struct limits *l;
};

static const struct actor tester = {"test", "", "", NULL, 0};

static void limit(struct report_room *g, const char *subject, const char *limits)
{
    struct err e = {0};
    json_t *o = json_loads(limits, 0, NULL), *out = NULL;
    assert_ok(limits_put(g->l, &tester, subject, o, -1, &out, &e), e);
    json_decref(o);
    json_decref(out);
}

static void used(struct report_room *g, const char *subject, int period, int64_t t, int64_t tokens, int64_t cost)
{
    room_sql(&g->r, "INSERT OR REPLACE INTO budget_use(subject, period, t, tokens, cost) VALUES('%s', %d, %lld, %lld, %lld)", subject, period,
        (long long)t, (long long)tokens, (long long)cost);
}

static int setup(void **state)
{
    struct report_room *g = calloc(1, sizeof *g);
    struct err e = {0};
    room_new(&g->r);
    room_start(&g->r);
    assert_ok(limits_open(&g->l, g->r.db, &e), e);
    room_sql(&g->r, "INSERT INTO tenant(id, name, weight, created) VALUES('" T1 "', 'acme', 1, 0), ('" T2 "', 'other', 1, 0)");
    room_sql(&g->r, "INSERT INTO api_key(id, tenant, name, roles, hash, created, created_by) VALUES('k1', '" T1 "', '', 'admin', zeroblob(32), 0, '')");
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct report_room *g = *state;
    db_close(g->r.db);
    limits_close(g->l);
    g->r.db = NULL;
    room_end(&g->r);
    free(g);
    return 0;
}

/* All budgets of a tenant or of everybody; the caller's. */
static struct budget *all(struct report_room *g, const char *tenant, int *n)
{
    struct budget *b = NULL;
    struct err e = {0};
    assert_ok(budgets_read(g->l, tenant, NOW, &b, n, &e), e);
    return b;
}

static void all_subjects_with_a_budget_are_there_the_fullest_first(void **state)
{
    struct report_room *g = *state;
    int n;
    limit(g, "tenant:" T1, "{\"tokens_per_day\": 1000, \"cost_per_month\": 50, \"requests_per_minute\": 9}");
    limit(g, "key:k1", "{\"tokens_per_month_soft\": 200}");
    limit(g, "adapter:" T1 "/sql", "{\"tokens_per_day\": 100}");
    limit(g, "tenant:" T2, "{\"concurrent_requests\": 5}"); /* no budget */
    limit(g, "tenant:gone", "{\"tokens_per_day\": 5}");     /* of nobody */
    used(g, "tenant:" T1, 0, TODAY, 500, 1);
    used(g, "adapter:" T1 "/sql", 0, TODAY, 90, 1);
    used(g, "adapter:" T1 "/sql", 0, TODAY - DAY, 100, 1); /* yesterday's */
    struct budget *b = all(g, NULL, &n);
    assert_int_equal(n, 4);
    assert_string_equal(b[0].adapter, "sql");
    assert_int_equal(b[0].used, 90);
    assert_string_equal(b[0].tenant, "acme");
    assert_true(b[1].kind == LIMIT_TOKENS_DAY && b[1].used == 500 && b[1].hard == 1000 && b[1].soft == -1);
    assert_true(b[1].start == TODAY && b[1].end == TODAY + DAY);
    assert_true(!strcmp(b[2].key, "k1") && b[2].hard == -1 && b[2].soft == 200);
    assert_true(b[3].kind == LIMIT_COST_MONTH && b[3].start == TODAY - 24 * DAY && b[3].end == TODAY + 4 * DAY);
    free(b);
    b = all(g, T2, &n);
    assert_int_equal(n, 0);
    free(b);
    b = all(g, T1, &n);
    assert_int_equal(n, 4);
    for (int i = 0; i + 1 < n; i++) assert_true(budget_before(&b[i], &b[i + 1]) && !budget_before(&b[i + 1], &b[i]));
    free(b);
}

static struct budget_course course(struct report_room *g, const struct budget *b)
{
    struct budget_course c;
    struct err e = {0};
    assert_ok(budget_course(g->l, b, NOW, &c, &e), e);
    return c;
}

static void hour(struct report_room *g, int64_t t, int tokens)
{
    room_sql(&g->r, "INSERT INTO rollup_hour VALUES('" T1 "', %lld, 0, 1, %d, 0, %d, 0, 7)", (long long)t, tokens / 2, tokens - tokens / 2);
}

static void a_day_goes_by_hours_and_on_as_the_last_day_did(void **state)
{
    struct report_room *g = *state;
    int n;
    limit(g, "tenant:" T1, "{\"tokens_per_day\": 2000}");
    for (int h = 1; h <= 24; h++) hour(g, NOW - h * HOUR, 100); /* 100 an hour since yesterday noon */
    used(g, "tenant:" T1, 0, TODAY, 1200, 0);
    struct budget *b = all(g, T1, &n);
    struct budget_course c = course(g, &b[0]);
    assert_int_equal(c.n, 13);
    assert_int_equal(c.t[0], TODAY);
    assert_int_equal(c.sum[0], 100);
    assert_int_equal(c.sum[11], 1200);
    assert_int_equal(c.sum[12], 1200);
    assert_int_equal(c.forecast, 2400);
    assert_int_equal(c.exhausted_at, NOW + 8 * HOUR);
    b[0].hard = 900; /* was spent at nine */
    assert_int_equal(course(g, &b[0]).exhausted_at, TODAY + 9 * HOUR);
    b[0].hard = 2500;
    assert_int_equal(course(g, &b[0]).exhausted_at, 0);
    b[0].hard = -1;
    assert_int_equal(course(g, &b[0]).exhausted_at, 0);
    free(b);
}

static void who_began_an_hour_ago_was_not_idle_before(void **state)
{
    struct report_room *g = *state;
    int n;
    limit(g, "tenant:" T1, "{\"tokens_per_day\": 2000}");
    hour(g, NOW - 2 * HOUR, 100);
    hour(g, NOW - HOUR, 100);
    used(g, "tenant:" T1, 0, TODAY, 200, 0);
    struct budget *b = all(g, T1, &n);
    assert_int_equal(course(g, &b[0]).forecast, 200 + 12 * 100);
    free(b);
}

static void a_month_goes_by_days_of_a_tenant_a_key_and_an_adapter(void **state)
{
    struct report_room *g = *state;
    int n;
    limit(g, "tenant:" T1, "{\"cost_per_month\": 1000000}");
    limit(g, "key:k1", "{\"tokens_per_month\": 1000000}");
    limit(g, "adapter:" T1 "/sql", "{\"tokens_per_month\": 1000000}");
    for (int d = 0; d < 10; d++) {
        hour(g, TODAY - d * DAY, 100);
        room_sql(&g->r, "INSERT INTO rollup_day VALUES('" T1 "', %lld, 'k1', 'smol', '', 0, 'm', 'e', 0, 1, 10, 0, 20, 0, 5)", (long long)(TODAY - d * DAY));
        room_sql(&g->r, "INSERT INTO rollup_day VALUES('" T1 "', %lld, 'k2', 'smol', '', 0, 'm', 'e', 0, 1, 10, 0, 20, 0, 5)", (long long)(TODAY - d * DAY));
        for (int v = 1; v <= 2; v++)
            room_sql(&g->r, "INSERT INTO rollup_adapter(tenant, adapter, version, t, n, prompt, cached, output, produced, cost, cold, last_used)"
                   " VALUES('" T1 "', 'sql', %d, %lld, 1, 10, 0, 10, 0, 5, 0, 0)", v, (long long)(TODAY - d * DAY));
    }
    struct budget *b = all(g, T1, &n);
    assert_int_equal(n, 3);
    for (int i = 0; i < n; i++) {
        struct budget_course c = course(g, &b[i]);
        int64_t day = *b[i].key ? 30 : *b[i].adapter ? 40 : 7;
        assert_int_equal(c.n, 25);
        assert_int_equal(c.sum[14], 0);
        assert_int_equal(c.sum[15], day);
        assert_int_equal(c.sum[24], 10 * day);
        assert_true(c.forecast >= 3 * day && c.forecast <= 6 * day); /* 4.5 days more of as much, from nothing in the file */
    }
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(all_subjects_with_a_budget_are_there_the_fullest_first, setup, teardown),
        cmocka_unit_test_setup_teardown(a_day_goes_by_hours_and_on_as_the_last_day_did, setup, teardown),
        cmocka_unit_test_setup_teardown(who_began_an_hour_ago_was_not_idle_before, setup, teardown),
        cmocka_unit_test_setup_teardown(a_month_goes_by_days_of_a_tenant_a_key_and_an_adapter, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
