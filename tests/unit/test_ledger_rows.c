/* Tests of gateway/ledger_rows: every row once and in order, wherever it stands; what is final stays so. */
#include "base/clock.h"
#include "gateway/ledger/ledger_rows.h"
#include "tests/unit/data_room.h"
#include <stdatomic.h>

#define SEEN_MAX 4096

struct rows_room {
    struct room r;
    struct ledger *l;
    char seen[SEEN_MAX][UUID_LEN];
    int nseen, last_month, stop_at;
};

static void open_ledger(struct rows_room *x)
{
    struct err e = {0};
    room_start(&x->r);
    assert_ok(ledger_open(&x->l, x->r.db, &e), e);
}

static void close_ledger(struct rows_room *x)
{
    ledger_close(x->l);
    db_close(x->r.db);
    x->l = NULL;
    x->r.db = NULL;
}

static int setup(void **state)
{
    struct rows_room *x = calloc(1, sizeof *x);
    room_new(&x->r);
    open_ledger(x);
    x->stop_at = -1;
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct rows_room *x = *state;
    ledger_close(x->l);
    room_end(&x->r);
    free(x);
    return 0;
}

static int run_sql(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, u, e);
}

static void sql(struct rows_room *x, const char *text)
{
    struct err e = {0};
    assert_ok(db_write_wait(x->r.db, run_sql, (void *)text, &e), e);
}

static void settled(void *u)
{
    ++*(_Atomic int *)u;
}

/* A row of that time; its id goes to `id`. */
static void add_row(struct rows_room *x, int n, int64_t t_start, char id[UUID_LEN])
{
    struct admission a = {.endpoint = "/v1/chat/completions", .t_start = t_start, .alias = "talk"};
    struct settlement s = {.t_end = t_start + 1000, .prompt = n, .delivered = 2, .load_us = 77, .engine = "local"};
    _Atomic int done = 0;
    usage_id_at(t_start, a.id);
    snprintf(a.id + 24, 13, "%012d", n);
    snprintf(a.who.tenant, sizeof a.who.tenant, "tenant-%d", n % 2);
    ledger_settle(x->l, &a, &s, settled, (void *)&done);
    for (int i = 0; i < 10000 && !done; i++) usleep(200);
    assert_int_equal(done, 1);
    memcpy(id, a.id, UUID_LEN);
}

static int see(void *u, const struct usage_row *r, struct err *e)
{
    struct rows_room *x = u;
    if (x->nseen == x->stop_at) return err_set(e, ERR_IO, "enough");
    assert_true(x->nseen < SEEN_MAX);
    assert_true(r->month >= x->last_month);
    assert_int_equal(r->load_us, 77);
    assert_string_equal(r->alias, "talk");
    assert_string_equal(r->engine, "local");
    assert_null(r->adjusts);
    x->last_month = r->month;
    memcpy(x->seen[x->nseen++], r->id, UUID_LEN);
    return 0;
}

/* All of them, `max` at a time. */
static void walk(struct rows_room *x, const struct rows_query *q, int max)
{
    struct rows_cursor at = {0};
    struct err e = {0};
    bool more = true;
    x->nseen = x->last_month = 0;
    while (more) assert_ok(ledger_rows(x->l, q, &at, max, see, x, &more, &e), e);
}

#define TURN 1764547200ll /* 2025-12-01T00:00:00Z */
enum { N = 40 };

/* Rows a minute apart, twenty of each month. */
static void fill(struct rows_room *x, char id[N][UUID_LEN])
{
    for (int i = 0; i < N; i++) add_row(x, i, (TURN + (i - N / 2) * 60) * 1000000, id[i]);
}

static void rows_come_once_and_in_order_over_a_months_turn(void **state)
{
    struct rows_room *x = *state;
    char id[N][UUID_LEN];
    fill(x, id);
    static const int maxima[] = {1, 7, N, 1000};
    for (size_t m = 0; m < sizeof maxima / sizeof *maxima; m++) {
        walk(x, &(struct rows_query){.end = INT64_MAX}, maxima[m]);
        assert_int_equal(x->nseen, N);
        for (int i = 0; i < N; i++) assert_string_equal(x->seen[i], id[i]);
    }
    walk(x, &(struct rows_query){.tenant = "tenant-1", .end = INT64_MAX}, 7);
    assert_int_equal(x->nseen, N / 2);
    walk(x, &(struct rows_query){.tenant = "tenant-9", .end = INT64_MAX}, 7);
    assert_int_equal(x->nseen, 0);
    walk(x, &(struct rows_query){.start = TURN - 60, .end = TURN + 60}, 7);
    assert_int_equal(x->nseen, 2);
    assert_string_equal(x->seen[0], id[N / 2 - 1]);
}

/* A month in the file, and some of its rows still, or again, in the table. */
static void archive(struct rows_room *x, const char *left_in_table)
{
    char path[256], text[1024];
    struct err e = {0};
    sqlite3 *c;
    snprintf(path, sizeof path, "%s/archive", x->r.dir);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/archive/usage_202511.db", x->r.dir);
    snprintf(text, sizeof text, "ATTACH '%s/weft.db' AS w; CREATE TABLE usage_202511 AS SELECT * FROM w.usage_202511", x->r.dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    assert_int_equal(sqlite3_exec(c, text, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(c);
    snprintf(text, sizeof text, "INSERT INTO archive(month, rows, bytes, sha256, made) VALUES(202511, 20, 1, '', 1); %s", left_in_table);
    assert_ok(db_write_wait(x->r.db, run_sql, text, &e), e);
}

static void archived_rows_are_found_and_none_twice(void **state)
{
    static const char *const lefts[] = {"SELECT 1", "DELETE FROM usage_202511 WHERE prompt < 7", "DELETE FROM usage_202511 WHERE prompt % 3",
                                        "DROP TABLE usage_202511"};
    struct rows_room *x = *state;
    for (size_t k = 0; k < sizeof lefts / sizeof *lefts; k++) {
        char id[N][UUID_LEN];
        fill(x, id);
        archive(x, lefts[k]);
        for (int max = 1; max < 50; max += 9) {
            walk(x, &(struct rows_query){.end = INT64_MAX}, max);
            assert_int_equal(x->nseen, N);
            for (int i = 0; i < N; i++) assert_string_equal(x->seen[i], id[i]);
        }
        struct err e = {0};
        for (int i = 0; i < N; i += 3) {
            x->nseen = x->last_month = 0;
            assert_int_equal(ledger_row(x->l, NULL, id[i], 0, see, x, &e), 1);
            assert_string_equal(x->seen[0], id[i]);
            assert_int_equal(ledger_row(x->l, "tenant-7", id[i], 0, see, x, &e), 0);
        }
        room_end(&x->r);
        ledger_close(x->l);
        room_new(&x->r);
        open_ledger(x);
    }
}

static void a_row_is_found_by_id_and_by_whose_it_is(void **state)
{
    struct rows_room *x = *state;
    char id[UUID_LEN], none[UUID_LEN];
    struct err e = {0};
    add_row(x, 3, TURN * 1000000, id);
    usage_id_at(TURN * 1000000 + 5000, none);
    assert_int_equal(ledger_row(x->l, "tenant-1", id, 0, see, x, &e), 1);
    assert_int_equal(ledger_row(x->l, "tenant-1", id, 202512, see, x, &e), 1);
    assert_int_equal(ledger_row(x->l, "tenant-1", id, 202511, see, x, &e), 0);
    assert_int_equal(ledger_row(x->l, "tenant-0", id, 0, see, x, &e), 0);
    assert_int_equal(ledger_row(x->l, NULL, none, 0, see, x, &e), 0);
    assert_int_equal(ledger_row(x->l, NULL, "ffffffff-ffff-7fff-bfff-ffffffffffff", 0, see, x, &e), 0);
    assert_int_equal(ledger_row(x->l, NULL, "no id", 0, see, x, &e), 0);
}

static void the_cursor_stays_where_the_reader_gave_up(void **state)
{
    struct rows_room *x = *state;
    char id[N][UUID_LEN];
    struct rows_cursor at = {0};
    struct err e = {0};
    bool more;
    fill(x, id);
    x->stop_at = 25;
    assert_int_equal(ledger_rows(x->l, &(struct rows_query){.end = INT64_MAX}, &at, 100, see, x, &more, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    assert_string_equal(at.id, id[24]);
    assert_int_equal(at.month, 202512);
    x->stop_at = -1;
    err_clear(&e);
    assert_ok(ledger_rows(x->l, &(struct rows_query){.end = INT64_MAX}, &at, 100, see, x, &more, &e), e);
    assert_int_equal(x->nseen, N);
    assert_false(more);
}

static void admitted(void *u, const struct err *e)
{
    *(_Atomic int *)u = e ? -1 : 1;
}

static void rows_are_final_a_minute_ago_or_before_the_oldest_open_request(void **state)
{
    struct rows_room *x = *state;
    int64_t now = clock_wall_us(), final;
    char id[UUID_LEN], bound[UUID_LEN];
    struct err e = {0};
    _Atomic int done = 0;
    add_row(x, 1, now - 100 * 1000000ll, id);
    add_row(x, 2, now - 30 * 1000000ll, id);
    walk(x, &(struct rows_query){.end = INT64_MAX}, 10);
    assert_int_equal(x->nseen, 1);
    walk(x, &(struct rows_query){.end = INT64_MAX, .all = true}, 10);
    assert_int_equal(x->nseen, 2);
    assert_ok(ledger_final_before(x->l, bound, &final, &e), e);
    assert_true(final <= clock_wall_us() - LEDGER_FINAL_S * 1000000ll && final >= now - LEDGER_FINAL_S * 1000000ll - 1000);
    /* An admission of two minutes ago that is only in the file, as after a crash. */
    sql(x, "INSERT INTO admission(id, tenant, key, base, adapter, version, model, endpoint, stream, reserved, t_start)"
           " SELECT '00000000-0001-7000-8000-000000000000', '', '', '', '', 0, '', '', 0, 0, 0");
    assert_ok(ledger_final_before(x->l, bound, &final, &e), e);
    assert_string_equal(bound, "00000000-0001-7000-8000-000000000000");
    assert_int_equal(final, 1000);
    walk(x, &(struct rows_query){.end = INT64_MAX}, 10);
    assert_int_equal(x->nseen, 0);
    sql(x, "DELETE FROM admission");
    struct admission a = {.endpoint = "/v1/completions", .t_start = now};
    uuid7(a.id);
    assert_ok(ledger_admit(x->l, &a, admitted, (void *)&done, &e), e);
    for (int i = 0; i < 10000 && !done; i++) usleep(200);
    assert_int_equal(done, 1);
    assert_ok(ledger_final_before(x->l, bound, &final, &e), e);
    assert_true(strcmp(bound, a.id) < 0);
}

static void ids_hold_their_time(void **state)
{
    (void)state;
    char id[UUID_LEN];
    int64_t now = clock_wall_us();
    usage_id_at(now, id);
    assert_true(uuid_is(id));
    assert_int_equal(usage_id_time(id), now / 1000 * 1000);
    uuid7(id);
    assert_true(usage_id_time(id) >= now / 1000 * 1000 && usage_id_time(id) <= clock_wall_us() + 1000);
    usage_id_at(-5, id);
    assert_string_equal(id, "00000000-0000-7000-8000-000000000000");
}

static void a_table_of_an_older_version_gets_its_columns(void **state)
{
    struct rows_room *x = *state;
    char id[UUID_LEN];
    add_row(x, 3, TURN * 1000000, id);
    sql(x, "ALTER TABLE usage_202512 DROP COLUMN alias; ALTER TABLE usage_202512 DROP COLUMN load_us");
    close_ledger(x);
    open_ledger(x);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM usage_202512 WHERE alias = '' AND load_us = 0"), 1);
    close_ledger(x);
    open_ledger(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(rows_come_once_and_in_order_over_a_months_turn),
        T(archived_rows_are_found_and_none_twice),
        T(a_row_is_found_by_id_and_by_whose_it_is),
        T(the_cursor_stays_where_the_reader_gave_up),
        T(rows_are_final_a_minute_ago_or_before_the_oldest_open_request),
        T(ids_hold_their_time),
        T(a_table_of_an_older_version_gets_its_columns),
#undef T
    };
    return cmocka_run_group_tests_name("ledger_rows", tests, NULL, NULL);
}
