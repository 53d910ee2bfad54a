/* Tests of db_later(): what jobs leave to the end of their group is written once, with them, and forgotten with them. */
#include "gateway/db/db.h"
#include "tests/unit/data_room.h"
#include <stdatomic.h>

static _Atomic int calls;
static _Atomic bool refuse;

struct job {
    int64_t value;
    int times;   /* how often it leaves its value */
    bool fails;  /* after it has left it */
    int64_t saw; /* what a job with reads_sums found */
    _Atomic int done;
    enum err_code code;
};

static int sum_now(struct db *d, sqlite3 *c, int64_t *out, struct err *e)
{
    static const char sql[] = "SELECT coalesce((SELECT value FROM meta WHERE name = 'sum'), 0)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    *out = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return 0;
}

static int add_up(struct db *d, sqlite3 *c, const void *const *what, int n, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('sum', ?1) ON CONFLICT DO UPDATE SET value = value + excluded.value";
    int64_t sum = 0;
    for (int i = 0; i < n; i++) sum += ((const struct job *)what[i])->value;
    calls++;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "i", sum) || db_done(st, e)) return -1;
    return refuse ? err_set(e, ERR_INTERNAL, "as asked") : 0;
}

static int run(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct job *j = u;
    if (sum_now(d, c, &j->saw, e)) return -1;
    for (int i = 0; i < j->times; i++)
        if (db_later(d, add_up, j, e)) return -1;
    return j->fails ? err_set(e, ERR_CONFLICT, "as asked") : 0;
}

static void done(void *u, const struct err *e)
{
    struct job *j = u;
    j->code = e ? e->code : ERR_NONE;
    j->done = 1;
}

static int run_wait(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)e;
    for (int i = 0; !*(_Atomic bool *)u && i < 5000; i++) usleep(1000);
    return 0;
}

/* All of them in one group. */
static void together(struct room *r, struct job *j, int n, int reads)
{
    _Atomic bool go = false;
    struct err e = {0};
    assert_ok(db_write(r->db, &(struct db_job){.run = run_wait, .user = &go}, &e), e);
    usleep(5000); /* alone in its group */
    calls = 0;
    for (int i = 0; i < n; i++)
        assert_ok(db_write(r->db, &(struct db_job){.run = run, .done = done, .user = &j[i], .reads_sums = i == reads, .urgent = true}, &e), e);
    go = true;
    for (int i = 0; i < n; i++) {
        for (int k = 0; !j[i].done && k < 5000; k++) usleep(1000);
        assert_int_equal(j[i].done, 1);
    }
}

static int setup(void **state)
{
    refuse = false;
    return room_setup(state);
}

static int64_t sum(struct room *r) { return room_number(r, "SELECT coalesce((SELECT value FROM meta WHERE name = 'sum'), 0)"); }

static void a_group_is_summed_once(void **state)
{
    struct room *r = *state;
    struct job j[100] = {{0}};
    for (int i = 0; i < 100; i++) j[i] = (struct job){.value = i, .times = 1};
    together(r, j, 100, -1);
    assert_int_equal(calls, 1);
    assert_int_equal(sum(r), 4950);
}

static void what_an_undone_job_left_is_forgotten(void **state)
{
    struct room *r = *state;
    struct job j[] = {{.value = 1, .times = 1}, {.value = 10, .times = 3, .fails = true}, {.value = 100, .times = 2}};
    together(r, j, 3, -1);
    assert_int_equal(j[1].code, ERR_CONFLICT);
    assert_int_equal(calls, 1);
    assert_int_equal(sum(r), 201);
}

static void a_job_that_reads_sums_finds_those_before_it_and_they_stay_when_it_is_undone(void **state)
{
    struct room *r = *state;
    for (int fails = 0; fails < 2; fails++) {
        int64_t before = sum(r);
        struct job j[] = {{.value = 1, .times = 1}, {.value = 10, .times = 1, .fails = fails}, {.value = 100, .times = 1}};
        together(r, j, 3, 1);
        assert_int_equal(j[1].saw, before + 1);
        assert_int_equal(j[2].saw, before + 1); /* it doesn't ask, and the one before it left its own to the end */
        assert_int_equal(calls, 2);
        assert_int_equal(sum(r), before + 101 + (fails ? 0 : 10));
    }
}

static void too_much_fails_the_job_and_nobody_else(void **state)
{
    struct room *r = *state;
    struct job j[] = {{.value = 1, .times = 1}, {.value = 10, .times = DB_LATER_MAX}, {.value = 100, .times = 1}};
    together(r, j, 3, -1);
    assert_int_equal(j[0].code, ERR_NONE);
    assert_int_equal(j[1].code, ERR_LEDGER);
    assert_int_equal(j[2].code, ERR_NONE);
    assert_int_equal(sum(r), 101);
}

static void sums_that_cannot_be_written_fail_the_group_and_leave_nothing(void **state)
{
    struct room *r = *state;
    struct job j[] = {{.value = 1, .times = 1}, {.value = 10, .times = 1}}, again[] = {{.value = 1, .times = 1}};
    refuse = true;
    together(r, j, 2, -1);
    assert_int_equal(j[0].code, ERR_LEDGER);
    assert_int_equal(j[1].code, ERR_LEDGER);
    assert_int_equal(sum(r), 0);
    refuse = false;
    for (int i = 0; i < 5000 && !db_writable(r->db); i++) usleep(1000);
    assert_true(db_writable(r->db));
    together(r, again, 1, -1);
    assert_int_equal(again[0].code, ERR_NONE);
    assert_int_equal(sum(r), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, room_teardown)
        T(a_group_is_summed_once),
        T(what_an_undone_job_left_is_forgotten),
        T(a_job_that_reads_sums_finds_those_before_it_and_they_stay_when_it_is_undone),
        T(too_much_fails_the_job_and_nobody_else),
        T(sums_that_cannot_be_written_fail_the_group_and_leave_nothing),
#undef T
    };
    return cmocka_run_group_tests_name("db_later", tests, NULL, NULL);
}
