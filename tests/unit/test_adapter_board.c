/* The board of adapters: sums of the days that were asked for, last use whenever it was, all orders turned by pages without a gap
 * or a repetition, filters, cursors from strangers, and boards that are kept no longer than they may be. */
#include "base/clock.h"
#include "gateway/stats/adapter_board.h"
#include "tests/unit/data_room.h"
#include <time.h>

#define DAY 86400
#define TODAY (20000 * (int64_t)DAY)
#define US 1000000

struct board_room {
    struct room r;
    struct boards *b;
};

/* Version v of an adapter: i names it in the row numbers. */
static void version(struct board_room *g, int i, const char *tenant, const char *name, int v, const char *state, int bytes)
{
    room_sql(&g->r, "INSERT OR IGNORE INTO adapter(row, tenant, name, created) VALUES(%d, '%s', '%s', 1)", i, tenant, name);
    room_sql(&g->r, "INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created)"
        " VALUES(%d, %d, '%s', 'd%d', 'f', 'smol', 16, 1, 1.0, %d, 5000000)",
        i, v, state, i * 100 + v, bytes);
}

static void use(struct board_room *g, const char *tenant, const char *name, int v, int64_t t, int n, int cold)
{
    room_sql(&g->r, "INSERT INTO rollup_adapter(tenant, adapter, version, t, n, prompt, cached, output, produced, cost, cold, last_used, errors,"
        " ttft_n, ttft_us, load_us) VALUES('%s', '%s', %d, %lld, %d, %d, 0, %d, 0, %d, %d, %lld, 1, %d, %d, %d)",
        tenant, name, v, (long long)t, n, 10 * n, 5 * n, 100 * n, cold, (long long)(t + 100) * US, n, 1000 * n, 700 * cold);
}

static int setup(void **state)
{
    struct board_room *g = calloc(1, sizeof *g);
    room_new(&g->r);
    room_start(&g->r);
    g->b = boards_new(g->r.db);
    room_sql(&g->r, "INSERT INTO tenant(id, name, weight, created) VALUES('id-b', 'acme', 1, 0), ('id-a', 'zeta', 1, 0)");
    version(g, 1, "id-b", "sql", 1, "ready", 500);
    version(g, 1, "id-b", "sql", 2, "ready", 500);
    version(g, 2, "id-b", "chat", 1, "failed", 10);
    version(g, 3, "id-a", "chat", 1, "ready", 900);
    use(g, "id-b", "sql", 1, TODAY - 40 * DAY, 7, 7);
    use(g, "id-b", "sql", 2, TODAY - 2 * DAY, 3, 1);
    use(g, "id-b", "sql", 2, TODAY, 4, 0);
    use(g, "id-a", "chat", 1, TODAY, 7, 2);
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct board_room *g = *state;
    room_end(&g->r);
    boards_free(g->b);
    free(g);
    return 0;
}

static const struct board *get(struct board_room *g, const char *tenant, int64_t start, int64_t end)
{
    struct err e = {0};
    const struct board *x = NULL;
    assert_ok(board_get(g->b, tenant, start, end, &x, &e), e);
    return x;
}

#define MANY 20000 /* so that one takes longer than BOARD_LONG_US anywhere */

static void the_ranges_of_the_day_are_made_before_anybody_asks(void **state)
{
    static const int days[] = {1, 7, 30, 90};
    struct board_room *g = *state;
    int64_t today = clock_wall_us() / US / DAY * DAY;
    room_sql(&g->r, "WITH RECURSIVE i(v) AS (VALUES(100) UNION ALL SELECT v + 1 FROM i WHERE v < 99 + %d)"
        " INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created)"
        " SELECT 1, v, 'ready', 'm' || v, 'f', 'smol', 16, 1, 1.0, 1, 5000000 FROM i", MANY);
    boards_tick(g->b, today + 7);
    boards_tick(g->b, today + 8);
    for (int i = 0; i < 1000 && boards_kept(g->b) < 4; i++) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_int_equal(boards_kept(g->b), 4);
    room_sql(&g->r, "DELETE FROM version WHERE version >= 100");
    for (int i = 0; i < 4; i++) {
        const struct board *x = get(g, NULL, today - days[i] * (int64_t)DAY + 100, today + 100);
        assert_int_equal(x->n, MANY + 4);
        board_unref(g->b, x);
    }
    const struct board *other = get(g, NULL, today - 3 * (int64_t)DAY, today);
    assert_int_equal(other->n, 4);
    board_unref(g->b, other);
}

static void a_row_sums_the_days_asked_for_and_knows_its_last_use(void **state)
{
    struct board_room *g = *state;
    const struct board *x = get(g, NULL, TODAY + 500, TODAY + 600); /* today as a whole */
    assert_int_equal(x->n, 4);
    const struct board_row *r = &x->row[2];
    assert_string_equal(r->tenant, "acme");
    assert_string_equal(r->adapter, "sql");
    assert_int_equal(r->version, 2);
    assert_int_equal(r->n, 4);
    assert_int_equal(r->tokens, 60);
    assert_int_equal(r->cost, 400);
    assert_true(x->row[1].n == 0 && x->row[1].last_used == (TODAY - 40 * DAY + 100) * US);
    assert_true(x->row[0].n == 0 && x->row[0].last_used == 0);
    board_unref(g->b, x);
    x = get(g, "id-b", TODAY - 2 * DAY, TODAY - 1);
    assert_int_equal(x->n, 3);
    assert_int_equal(x->row[2].n, 3);
    assert_int_equal(x->row[2].last_used, (TODAY + 100) * US);
    assert_int_equal(x->row[2].cold, 1);
    assert_int_equal(x->row[2].load_us, 700);
    board_unref(g->b, x);
}

/* All rows by pages of `limit`. */
static int walk(const struct board *x, struct board_ask a, const struct board_row **out)
{
    const struct board_row *page[8];
    char at[BOARD_CURSOR_LEN] = "";
    struct err e = {0};
    int n, all = 0;
    do {
        a.after = at;
        assert_ok(board_pick(x, &a, page, &n, &e), e);
        for (int i = 0; i < n && i < a.limit; i++) out[all++] = page[i];
        if (n > a.limit) board_cursor(page[a.limit - 1], a.sort, at);
    } while (n > a.limit);
    return all;
}

/* A day on which a request was only credited is no use, and the one before it still is. */
static void a_credit_does_not_hide_an_earlier_use(void **state)
{
    struct board_room *g = *state;
    const struct board_row *row[8];
    use(g, "id-b", "chat", 1, TODAY - 10 * DAY, 5, 0);
    room_sql(&g->r, "INSERT INTO rollup_adapter(tenant, adapter, version, t, n, prompt, cached, output, produced, cost, cold, last_used)"
        " VALUES('id-b', 'chat', 1, %lld, 0, -1, 0, 0, 0, -9, 0, 0)", (long long)(TODAY - 5 * DAY));
    const struct board *x = get(g, "id-b", TODAY - DAY, TODAY);
    assert_true(x->row[0].last_used == (TODAY - 10 * DAY + 100) * US && x->row[0].n == 0 && x->row[0].cost == 0);
    assert_int_equal(walk(x, (struct board_ask){.idle_since = (TODAY - 30 * DAY) * US, .limit = 5}, row), 1);
    assert_string_equal(row[0]->adapter, "sql"); /* its first version */
    board_unref(g->b, x);
}

static void every_order_turns_its_pages_without_a_gap(void **state)
{
    static const char *const expected[BOARD_SORTS][4] = {
        [BOARD_NAME] = {"acme/chat@1", "acme/sql@1", "acme/sql@2", "zeta/chat@1"},
        [BOARD_LAST_USED] = {"acme/sql@2", "zeta/chat@1", "acme/sql@1", "acme/chat@1"},
        [BOARD_REQUESTS] = {"acme/sql@1", "acme/sql@2", "zeta/chat@1", "acme/chat@1"},
        [BOARD_BYTES] = {"zeta/chat@1", "acme/sql@1", "acme/sql@2", "acme/chat@1"},
        [BOARD_COLD] = {"acme/sql@1", "zeta/chat@1", "acme/sql@2", "acme/chat@1"},
    };
    struct board_room *g = *state;
    const struct board *x = get(g, NULL, TODAY - 60 * DAY, TODAY + 1);
    const struct board_row *row[8];
    char name[160];
    for (int sort = 0; sort < BOARD_SORTS; sort++)
        for (int limit = 1; limit < 6; limit++) {
            assert_int_equal(walk(x, (struct board_ask){.sort = (enum board_sort)sort, .limit = limit}, row), 4);
            for (int i = 0; i < 4; i++) {
                snprintf(name, sizeof name, "%s/%s@%d", row[i]->tenant, row[i]->adapter, row[i]->version);
                assert_string_equal(name, expected[sort][i]);
            }
        }
    board_unref(g->b, x);
}

/* Since the board was made all that was ready was taken out, and what had failed is gone. */
static const char *other_now(void *u, const struct board_row *r)
{
    (void)u;
    return strcmp(r->state, "ready") == 0 ? "quarantined" : "";
}

static void filters_leave_what_they_say(void **state)
{
    struct board_room *g = *state;
    const struct board *x = get(g, NULL, TODAY, TODAY + 1);
    const struct board_row *row[8];
    assert_int_equal(walk(x, (struct board_ask){.state = "failed", .limit = 5}, row), 1);
    int ready = walk(x, (struct board_ask){.state = "ready", .limit = 5}, row);
    assert_true(ready > 0);
    assert_int_equal(walk(x, (struct board_ask){.state = "quarantined", .limit = 5, .state_now = other_now}, row), ready);
    assert_int_equal(walk(x, (struct board_ask){.state = "failed", .limit = 5, .state_now = other_now}, row), 0);
    assert_int_equal(walk(x, (struct board_ask){.q = "chat", .limit = 5}, row), 2);
    assert_int_equal(walk(x, (struct board_ask){.q = "zeta/ch", .limit = 5}, row), 1);
    assert_int_equal(walk(x, (struct board_ask){.idle_since = (TODAY - DAY) * US, .limit = 5}, row), 2);
    assert_string_equal(row[0]->adapter, "chat"); /* never used is idle, too */
    assert_int_equal(walk(x, (struct board_ask){.q = "%", .limit = 5}, row), 0);
    board_unref(g->b, x);
}

static void a_cursor_that_is_none_is_refused(void **state)
{
    static const char *const bad[] = {"x", "1", "1:", "1:a/b", "1:a/b@", "-1:a/b@1", "1:a/b@x", "a/b@1", "1x:a/b@1", "1:a/b@1234567890",
                                      "1234567890123456789:a/b@1", "1:@/1"};
    struct board_room *g = *state;
    const struct board *x = get(g, NULL, TODAY, TODAY + 1);
    const struct board_row *row[8];
    char longest[300];
    int n;
    for (size_t i = 0; i <= sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        memset(longest, 'a', sizeof longest - 1);
        longest[sizeof longest - 1] = 0;
        memcpy(longest, "1:", 2);
        const char *text = i < sizeof bad / sizeof *bad ? bad[i] : longest;
        struct board_ask a = {.after = text, .limit = 5};
        assert_int_equal(board_pick(x, &a, row, &n, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(e.param, "after");
    }
    struct err e = {0};
    struct board_ask gone = {.after = "0:acme/removed@9", .limit = 5}; /* a place, not an item */
    assert_ok(board_pick(x, &gone, row, &n, &e), e);
    assert_int_equal(n, 3);
    board_unref(g->b, x);
}

static void a_board_that_was_quickly_made_is_soon_made_anew(void **state)
{
    struct board_room *g = *state;
    const struct board *x = get(g, NULL, TODAY, TODAY + 1);
    board_unref(g->b, x);
    use(g, "id-b", "chat", 1, TODAY, 99, 0);
    int64_t until = clock_mono_us() + 5 * US;
    int64_t n = 0;
    while (n != 99 && clock_mono_us() < until) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        x = get(g, NULL, TODAY, TODAY + 1);
        n = x->row[0].n;
        board_unref(g->b, x);
    }
    assert_int_equal(n, 99);
    for (int i = 0; i < 3 * BOARDS_KEPT; i++) { /* more ranges than are kept */
        x = get(g, NULL, TODAY - i * DAY, TODAY + 1);
        assert_int_equal(x->n, 4);
        board_unref(g->b, x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_ranges_of_the_day_are_made_before_anybody_asks, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_sums_the_days_asked_for_and_knows_its_last_use, setup, teardown),
        cmocka_unit_test_setup_teardown(a_credit_does_not_hide_an_earlier_use, setup, teardown),
        cmocka_unit_test_setup_teardown(every_order_turns_its_pages_without_a_gap, setup, teardown),
        cmocka_unit_test_setup_teardown(filters_leave_what_they_say, setup, teardown),
        cmocka_unit_test_setup_teardown(a_cursor_that_is_none_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_board_that_was_quickly_made_is_soon_made_anew, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
