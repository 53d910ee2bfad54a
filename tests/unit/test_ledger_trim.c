/* Tests of gateway/ledger_trim: what is past its time goes, in slices, for every tenant and for everybody; what stays still equals the rows. And of ids,
 * which go on from the last one when somebody sets the clock back. */
#include "gateway/ledger/ledger_internal.h"
#include "gateway/ledger/ledger_sums.h"
#include "tests/unit/led_room.h"

#define DAY_US 86400000000ll

static int run_text(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, u, e);
}

static void sql(struct led_room *x, const char *text)
{
    struct err e = {0};
    assert_ok(db_write_wait(x->r.db, run_text, (void *)text, &e), e);
}

static void wait_number(struct led_room *x, const char *text, int64_t want)
{
    for (int i = 0; i < 5000 && room_number(&x->r, text) != want; i++) usleep(1000);
    assert_int_equal(room_number(&x->r, text), want);
}

static void what_is_past_its_time_goes_and_the_rest_still_equals_the_rows(void **state)
{
    struct led_room *x = *state;
    static const int days[] = {0, 6, 8, 39, 41, 399, 402};
    enum { N = sizeof days / sizeof *days };
    int64_t now = clock_wall_us();
    for (int i = 0; i < N; i++) {
        struct admission a = admission(1, now - days[i] * DAY_US);
        struct settlement s = settlement(1, &a); /* a client_abort */
        snprintf(a.alias, sizeof a.alias, "talk");
        usage_id_at(a.t_start, a.id);
        settle(x, &a, &s);
    }
    x->l->trimmed_hour = 0; /* the first settlement was an hour's first, too */
    struct admission a = admission(0, now);
    struct settlement s = settlement(0, &a);
    settle(x, &a, &s);
    wait_number(x, "SELECT count(DISTINCT t / 86400) FROM rollup_minute WHERE tenant = 'tenant-1'", 2);
    wait_number(x, "SELECT count(DISTINCT t / 86400) FROM rollup_minute WHERE tenant = ''", 2);
    wait_number(x, "SELECT count(*) FROM rollup_hour WHERE tenant = 'tenant-1'", 6);
    wait_number(x, "SELECT count(DISTINCT t) FROM rollup_latency WHERE tenant = 'tenant-1'", 6);
    wait_number(x, "SELECT count(*) FROM rollup_alias", 6);
    wait_number(x, "SELECT count(DISTINCT t) FROM rollup_alias_latency", 6);
    wait_number(x, "SELECT count(*) FROM rollup_day", N + 1);
    wait_number(x, "SELECT count(*) FROM usage_bad", 4);
    balances(x, N + 1);
}

static void a_clock_that_was_set_ahead_takes_nothing_that_the_right_one_shows(void **state)
{
    struct led_room *x = *state;
    struct admission a = admission(1, clock_wall_us()), ahead = admission(1, clock_wall_us() + 30 * DAY_US);
    struct settlement s = settlement(1, &a), later = settlement(1, &ahead);
    struct err e = {0};
    settle(x, &a, &s);
    usage_id_at(ahead.t_start, ahead.id);
    settle(x, &ahead, &later);
    assert_ok(db_flush(x->r.db, &e), e); /* what was to be taken is gone */
    assert_ok(db_flush(x->r.db, &e), e);
    assert_int_equal(room_number(&x->r, "SELECT count(DISTINCT t) FROM rollup_minute WHERE tenant = 'tenant-1'"), 2);
    balances(x, 2);
}

static void many_go_in_slices(void **state)
{
    struct led_room *x = *state;
    sql(x, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)"
           " INSERT INTO rollup_minute SELECT 'gone-' || (i % 30), i * 60, 0, 1, 1, 1, 1, 1, 1 FROM n");
    sql(x, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
           " INSERT INTO usage_bad SELECT 'gone', printf('00000000-%04x-7000-8000-000000000000', i), 197001, 1 FROM n");
    ledger_trim(x->l, clock_wall_us());
    wait_number(x, "SELECT count(*) FROM rollup_minute", 0);
    wait_number(x, "SELECT count(*) FROM usage_bad", 0);
}

static void ids_go_on_from_the_last_when_the_clock_was_set_back(void **state)
{
    struct led_room *x = *state;
    struct admission ahead = admission(1, clock_wall_us()), far = admission(1, clock_wall_us()), next;
    struct settlement s = settlement(1, &ahead);
    usage_id_at(clock_wall_us() + 3600 * 1000000ll, ahead.id);
    usage_id_at(clock_wall_us() + 30 * DAY_US, far.id); /* a clock that was a month wrong is not followed */
    settle(x, &ahead, &s);
    led_stop(x);
    led_start(x);
    next = admission(2, clock_wall_us());
    assert_true(strcmp(next.id, ahead.id) > 0);
    admit(x, &next);
    settle(x, &far, &s);
    led_stop(x);
    led_start(x);
    next = admission(2, clock_wall_us());
    assert_true(strcmp(next.id, far.id) < 0 && strcmp(next.id, ahead.id) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(what_is_past_its_time_goes_and_the_rest_still_equals_the_rows),
        T(a_clock_that_was_set_ahead_takes_nothing_that_the_right_one_shows),
        T(many_go_in_slices),
        T(ids_go_on_from_the_last_when_the_clock_was_set_back),
#undef T
    };
    return cmocka_run_group_tests_name("ledger_trim", tests, NULL, NULL);
}
