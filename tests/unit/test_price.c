/* Tests of gateway/price and gateway/event: which price counts, what it comes to, and lists of events by seq. */
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/ledger/price_store.h"
#include "gateway/live/event.h"
#include "tests/unit/data_room.h"
#include <pthread.h>
#include <stdatomic.h>

#define AT(s) ((s)*1000000ll)

struct price_room {
    struct room r;
    struct prices *p;
};

static int setup(void **state)
{
    struct price_room *x = calloc(1, sizeof *x);
    struct err e = {0};
    room_new(&x->r);
    room_start(&x->r);
    assert_ok(prices_open(&x->p, x->r.db, &e), e);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct price_room *x = *state;
    room_end(&x->r);
    prices_close(x->p);
    free(x);
    return 0;
}

static int add_tenant(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO tenant(id, name, weight, created) VALUES(?1, ?1, 1, 0)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return st && db_bind(st, e, "s", (const char *)u) == 0 ? db_done(st, e) : -1;
}

static const struct actor tester = {.key = "tester", .ip = "", .request = ""};

static int64_t set(struct price_room *x, const char *tenant, const char *adapter, int64_t from, int64_t output)
{
    struct err e = {0};
    json_t *out = NULL;
    struct price_wish w = {"smol", tenant, adapter, from, 2, 1, output};
    assert_ok(price_create(x->p, &tester, &w, &out, &e), e);
    int64_t id = strtoll(json_string_value(json_object_get(out, "id")), NULL, 10);
    json_decref(out);
    return id;
}

static int64_t output_of(struct price_room *x, const char *tenant, const char *adapter, int64_t s)
{
    return price_of(x->p, "smol", tenant, adapter, AT(s)).output;
}

static void the_most_specific_price_that_began_counts(void **state)
{
    struct price_room *x = *state;
    struct err e = {0};
    assert_ok(db_write_wait(x->r.db, add_tenant, (char[]){"acme"}, &e), e);
    assert_ok(db_write_wait(x->r.db, add_tenant, (char[]){"acmf"}, &e), e);
    assert_int_equal(output_of(x, "acme", "sql", 100), 0);
    set(x, "", "", 10, 1);
    set(x, "", "", 30, 2);
    set(x, "acme", "", 20, 3);
    int64_t sql = set(x, "acme", "sql", 25, 4);
    set(x, "acme", "sql", 90, 5);
    set(x, "acmf", "", 0, 6);
    static const struct {
        const char *tenant, *adapter;
        int64_t at, output;
    } row[] = {{"acme", "", 9, 0},     {"acme", "", 10, 1},    {"acme", "", 19, 1},     {"acme", "", 20, 3},
               {"acme", "", 99, 3},    {"acme", "sql", 24, 3}, {"acme", "sql", 25, 4},  {"acme", "sqm", 25, 3},
               {"acme", "sql", 90, 5}, {"acmf", "sql", 5, 6},  {"other", "sql", 29, 1}, {"other", "sql", 30, 2}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        assert_int_equal(output_of(x, row[i].tenant, row[i].adapter, row[i].at), row[i].output);
    assert_int_equal(price_of(x->p, "smol2", "acme", "sql", AT(50)).row, 0);
    json_t *out = NULL;
    assert_ok(price_remove(x->p, &tester, sql, &out, &e), e);
    json_decref(out);
    assert_int_equal(output_of(x, "acme", "sql", 50), 3);
    assert_int_equal(price_remove(x->p, &tester, sql, &out, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM audit WHERE action LIKE 'price.%'"), 7);
}

struct busy {
    struct db *db;
    _Atomic int *held;
    _Atomic bool *over;
};

static int hold(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)e;
    const struct busy *b = u;
    for (++*b->held; !*b->over;) usleep(1000);
    return 0;
}

static void *hold_reader(void *u)
{
    const struct busy *b = u;
    struct err e = {0};
    db_read(b->db, hold, u, 60000, &e);
    return NULL;
}

/* All readers are busy for longer than a change waits: it is told as done, for it is, and counts soon after. */
static void a_change_whose_prices_could_not_be_read_again_is_done_and_made_up_for(void **state)
{
    struct price_room *x = *state;
    pthread_t thread[DB_READERS];
    _Atomic int held = 0;
    _Atomic bool over = false;
    struct busy b = {x->r.db, &held, &over};
    set(x, "", "", 10, 1);
    for (int i = 0; i < DB_READERS; i++) pthread_create(&thread[i], NULL, hold_reader, &b);
    while (held < DB_READERS) usleep(1000);
    set(x, "", "", 30, 2);
    assert_int_equal(output_of(x, "", "", 40), 1); /* still */
    over = true;
    for (int i = 0; i < DB_READERS; i++) pthread_join(thread[i], NULL);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM price"), 2);
    for (int i = 0; i < 5000 && output_of(x, "", "", 40) != 2; i++) {
        prices_tick(x->p);
        usleep(1000);
    }
    assert_int_equal(output_of(x, "", "", 40), 2);
}

static void costs_add_up_and_never_overflow(void **state)
{
    (void)state;
    struct price p = {.row = 1, .prompt = 10, .cached = 3, .output = 100};
    assert_int_equal(price_cost(&p, 11, 3, 7), 8 * 10 + 3 * 3 + 700);
    assert_int_equal(price_cost(&p, 5, 9, 0), 15); /* an engine that counts more cached than there are */
    assert_int_equal(price_cost(&p, 0, 0, 0), 0);
    assert_int_equal(price_bound(&p, 11, 7), 810);
    struct price dear = {.row = 1, .prompt = PRICE_MAX, .cached = PRICE_MAX, .output = PRICE_MAX};
    assert_int_equal(price_cost(&dear, 1000000000000, 0, 1000000000000), PRICE_COST_MAX);
    assert_int_equal(price_bound(&dear, INT64_MAX, INT64_MAX), PRICE_COST_MAX);
    struct price odd = {.row = 1, .prompt = 1, .cached = 9, .output = 1};
    for (int64_t cached = 0; cached <= 20; cached++)
        assert_true(price_cost(&odd, 20, cached, 5) <= price_bound(&odd, 20, 5));
}

static int add_event(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    json_t *detail = json_pack("{si}", "n", *(int *)u);
    int rc = event_add(d, c, *(int *)u % 2 ? "acme" : "", "test.event", "x", detail, e);
    json_decref(detail);
    return rc;
}

static size_t read_events(struct price_room *x, const char *tenant, struct page p, bool *more, int *first)
{
    struct err e = {0};
    json_t *list = json_array();
    assert_ok(event_list(x->r.db, tenant, &p, list, more, &e), e);
    size_t n = json_array_size(list);
    *first = (int)json_integer_value(json_object_get(json_object_get(json_array_get(list, 0), "detail"), "n"));
    json_decref(list);
    return n;
}

static void events_come_oldest_first_and_each_tenants_alone(void **state)
{
    struct price_room *x = *state;
    struct err e = {0};
    bool more;
    int first;
    for (int i = 1; i <= 9; i++) assert_ok(db_write_wait(x->r.db, add_event, &i, &e), e);
    assert_int_equal(read_events(x, NULL, (struct page){"", "", 100}, &more, &first), 9);
    assert_true(!more && first == 1);
    assert_int_equal(read_events(x, "acme", (struct page){"", "", 2}, &more, &first), 2);
    assert_true(more && first == 1);
    assert_int_equal(read_events(x, "acme", (struct page){"3", "", 100}, &more, &first), 3);
    assert_true(!more && first == 5);
    assert_int_equal(read_events(x, "acme", (struct page){"", "7", 2}, &more, &first), 2);
    assert_true(more && first == 3);
    assert_int_equal(read_events(x, "other", (struct page){"", "", 100}, &more, &first), 0);
    event_note(x->r.db, "acme", "test.note", "y", json_pack("{ss}", "why", "because"));
    assert_ok(db_write_wait(x->r.db, add_event, &(int){11}, &e), e);
    assert_int_equal(
        room_number(&x->r, "SELECT count(*) FROM event WHERE type = 'test.note' AND detail = '{\"why\":\"because\"}'"),
        1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_most_specific_price_that_began_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_change_whose_prices_could_not_be_read_again_is_done_and_made_up_for, setup, teardown),
        cmocka_unit_test(costs_add_up_and_never_overflow),
        cmocka_unit_test_setup_teardown(events_come_oldest_first_and_each_tenants_alone, setup, teardown),
    };
    return cmocka_run_group_tests_name("price", tests, NULL, NULL);
}
