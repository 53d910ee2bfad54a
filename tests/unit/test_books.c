/* Tests of the books' edges: prices that change under a request, ends that wait for the writer, rows that come late, costs that 64 bits can't carry. */
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/ledger/ledger_find.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/ledger/price_store.h"
#include "gateway/limits/limit_internal.h"
#include "gateway/quality/feedback.h"
#include "gateway/stats/costs.h"
#include "gateway/stats/stats_kept.h"
#include "tests/unit/led_room.h"
#include <sys/syscall.h>

/* The clocks of this program: the wall's is as far ahead as a test says, the other one takes a step at each look where a test is in a hurry. */
static _Atomic int64_t ahead_s, step_us, stepped_us;

int clock_gettime(clockid_t id, struct timespec *t)
{
    int rc = (int)syscall(SYS_clock_gettime, id, t);
    if (id == CLOCK_REALTIME) t->tv_sec += ahead_s;
    if (id == CLOCK_MONOTONIC) {
        int64_t us = (stepped_us += step_us) + t->tv_nsec / 1000;
        t->tv_sec += us / 1000000;
        t->tv_nsec = us % 1000000 * 1000;
    }
    return rc;
}

static const struct actor tester = {.key = "tester", .ip = "", .request = ""};

/* --- prices that change under a request --- */

static int64_t new_price(struct prices *p, int64_t from, int64_t unit)
{
    struct err e = {0};
    json_t *out = NULL;
    assert_ok(price_create(p, &tester, &(struct price_wish){"smol", "", "", from, unit, unit, unit}, &out, &e), e);
    int64_t row = strtoll(json_string_value(json_object_get(out, "id")), NULL, 10);
    json_decref(out);
    return row;
}

static void no_price(struct prices *p, int64_t row)
{
    struct err e = {0};
    json_t *out = NULL;
    assert_ok(price_remove(p, &tester, row, &out, &e), e);
    json_decref(out);
}

enum change { REMOVED, ADDED_BEFORE, REMOVED_AND_ADDED, FREE_THEN_ADDED, CHANGES };

/* The price at the start is 3 a token, or nothing; then it changes while the request runs. */
static struct price changed_price(struct prices *p, enum change how, const struct admission *a)
{
    int64_t from = a->t_start / 1000000 - 1000;
    int64_t row = how == FREE_THEN_ADDED ? 0 : new_price(p, from, 3);
    struct price was = price_of(p, "smol", a->who.tenant, a->what.adapter, a->t_start);
    assert_int_equal(was.row, row);
    return was;
}

static void change_price(struct prices *p, enum change how, const struct price *was, const struct admission *a)
{
    if (how == REMOVED || how == REMOVED_AND_ADDED) no_price(p, was->row);
    if (how != REMOVED) new_price(p, a->t_start / 1000000 - 500, 7);
}

static void what_a_crash_left_costs_what_it_would_have_cost(void **state)
{
    struct led_room *x = *state;
    for (enum change how = 0; how < CHANGES; how++) {
        struct err e = {0};
        struct prices *p;
        struct admission a = admission(1, clock_wall_us());
        int closed;
        assert_ok(prices_open(&p, x->r.db, &e), e);
        ledger_set_limits(x->l, NULL, p);
        a.price = changed_price(p, how, &a);
        admit(x, &a);
        ledger_progress(x->l, a.id, 10, 0, 4);
        change_price(p, how, &a.price, &a);
        prices_close(p);
        led_stop(x);
        led_start(x);
        assert_ok(prices_open(&p, x->r.db, &e), e);
        ledger_set_limits(x->l, NULL, p);
        assert_ok(ledger_recover(x->l, NULL, NULL, &closed, &e), e);
        assert_int_equal(closed, 1);
        assert_int_equal(room_number(&x->r, in_month("SELECT cost FROM usage_%06d ORDER BY id DESC LIMIT 1", a.t_start)), 14 * (how == FREE_THEN_ADDED ? 0 : 3));
        assert_int_equal(room_number(&x->r, in_month("SELECT price FROM usage_%06d ORDER BY id DESC LIMIT 1", a.t_start)), a.price.row);
        ledger_set_limits(x->l, NULL, NULL);
        prices_close(p);
        room_sql(&x->r, "DELETE FROM price");
    }
    balances(x, CHANGES);
}

/* Another way answers, at its own price; and an admission that an older program wrote, which names none. */
static void the_price_moves_with_the_request_and_old_admissions_have_todays(void **state)
{
    struct led_room *x = *state;
    struct err e = {0};
    struct prices *p;
    struct admission a = admission(1, clock_wall_us()), old = admission(2, a.t_start + 1);
    int closed;
    assert_ok(prices_open(&p, x->r.db, &e), e);
    a.price = old.price = (struct price){.row = new_price(p, a.t_start / 1000000 - 9, 3)};
    admit(x, &a);
    admit(x, &old);
    a.price.row = new_price(p, a.t_start / 1000000 + 9, 5); /* not yet valid: only the admission can know it */
    ledger_moved(x->l, &a);
    ledger_progress(x->l, a.id, 10, 0, 4);
    ledger_progress(x->l, old.id, 10, 0, 4);
    room_sql(&x->r, "UPDATE admission SET price = NULL WHERE id = '%s'", old.id);
    ledger_set_limits(x->l, NULL, p);
    assert_ok(ledger_recover(x->l, NULL, NULL, &closed, &e), e);
    assert_int_equal(room_number(&x->r, in_month("SELECT sum(cost) FROM usage_%06d WHERE stream = 1", a.t_start)), 14 * 5);
    assert_int_equal(room_number(&x->r, in_month("SELECT sum(cost) FROM usage_%06d WHERE stream = 0", a.t_start)), 14 * 3);
    ledger_set_limits(x->l, NULL, NULL);
    prices_close(p);
}

/* --- ends that wait --- */

static int wait_until_told(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)e;
    for (int i = 0; !*(_Atomic int *)u && i < 100000; i++) usleep(100);
    return 0;
}

static void what_ends_before_its_admission_is_written_is_not_passed_by(void **state)
{
    struct led_room *x = *state;
    struct admission a = admission(1, clock_wall_us());
    struct settlement s = settlement(1, &a);
    _Atomic int go_on = 0, told = 0, done = 0;
    char before[UUID_LEN];
    int64_t final;
    struct err e = {0};
    assert_ok(db_write(x->r.db, &(struct db_job){.run = wait_until_told, .user = (void *)&go_on}, &e), e);
    assert_ok(ledger_admit(x->l, &a, admitted, (void *)&told, &e), e);
    ledger_settle(x->l, &a, &s, settled, (void *)&done);
    ahead_s = 2 * LEDGER_FINAL_S; /* the writer stands still for so long */
    int rc = ledger_final_before(x->l, before, &final, &e);
    go_on = 1;
    wait_not(&done, 0);
    assert_ok(rc, e);
    assert_true(strcmp(before, a.id) <= 0);
    assert_ok(ledger_final_before(x->l, before, &final, &e), e);
    assert_true(strcmp(before, a.id) > 0); /* its row is there: no more to wait for */
    ahead_s = 0;
    balances(x, 1);
    assert_int_equal(ledger_open_admissions(x->l), 0);
}

static void settled_twice_at_once_is_one_row(void **state)
{
    struct led_room *x = *state;
    struct admission a = admission(1, clock_wall_us());
    struct settlement s = settlement(1, &a);
    _Atomic int done = 0;
    admit(x, &a);
    for (int i = 0; i < 3; i++) ledger_settle(x->l, &a, &s, settled, (void *)&done);
    for (int i = 0; done < 3 && i < 50000; i++) usleep(200);
    assert_int_equal(done, 3);
    balances(x, 1);
    assert_int_equal(ledger_open_admissions(x->l), 0);
}

/* --- costs that 64 bits can't carry --- */

struct bill {
    int64_t unit, prompt, output;
    bool split; /* into tokens times price */
};

static void a_bills_parts_are_its_cost_at_the_edge(void **state)
{
    struct led_room *x = *state;
    static const struct bill bill[] = {
        {PRICE_MAX, 100000, 0, true},                      /* as much as a request may cost */
        {PRICE_MAX, 100001, 0, false},                     /* cut */
        {PRICE_MAX, 99999, 2, false},                      /* cut, though no part is too much alone */
        {PRICE_MAX, 9223372036, 1, false},                 /* a product just below 2^63 */
        {PRICE_MAX, 9223372037, 0, false},                 /* just above */
        {PRICE_MAX, 18446744074, 0, false},                /* above 2^64: what is left of it looks harmless */
        {PRICE_MAX, 1000000000000, 1000000000000, false},  /* all that a row takes */
        {7, 1000, 500, true},
    };
    for (size_t i = 0; i < sizeof bill / sizeof *bill; i++) {
        struct err e = {0};
        const struct bill *b = &bill[i];
        int64_t day = (int64_t)(20000 + i) * 86400, sum = 0, tokens = 0, next;
        struct admission a = admission(1, day * 1000000);
        struct settlement s = {.http_status = 200, .prompt = b->prompt, .delivered = b->output, .produced = b->output, .t_end = a.t_start + 5, .attempt = 1};
        room_sql(&x->r, "INSERT INTO price VALUES(%zu, 'smol', '', '', %zu, %lld, %lld, %lld, 0)", i + 1, i, (long long)b->unit, (long long)b->unit, (long long)b->unit);
        a.price = (struct price){(int64_t)i + 1, b->unit, b->unit, b->unit};
        settle(x, &a, &s);
        struct buf text;
        json_t *part;
        struct costs_query q = {.currency = "IDR", .start = day, .end = day + 86400, .group = COSTS_LINE_ITEM, .limit = 1};
        struct stats_kept *kept = stats_kept_new(x->r.db, KEPT_BYTES_MAX);
        buf_init(&text, 1 << 20);
        assert_ok(costs_of_days(kept, &q, &text, &next, &e), e);
        json_t *data = led_list(&text);
        json_t *parts = json_object_get(json_array_get(data, 0), "results");
        size_t k;
        json_array_foreach(parts, k, part)
        {
            int64_t amount = json_integer_value(json_object_get(part, "amount_nano"));
            assert_true(amount >= 0);
            sum += amount;
            tokens += json_integer_value(json_object_get(part, "quantity"));
            assert_int_equal(strcmp(json_string_value(json_object_get(part, "line_item")), "tokens") == 0, !b->split);
        }
        assert_int_equal(sum, price_cost(&a.price, b->prompt, 0, b->output));
        assert_int_equal(tokens, b->prompt + b->output);
        json_decref(data);
        stats_kept_free(kept);
    }
}

/* --- budgets and their rows --- */

static int64_t bad_sums(struct led_room *x)
{
    struct err e = {0};
    int64_t rows, bad;
    assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
    return bad;
}

static void rebuild(struct led_room *x)
{
    struct err e = {0};
    int64_t rows;
    assert_ok(ledger_rebuild(x->l, &rows, &e), e);
}

static void put_limits(struct limits *l, const char *subject)
{
    struct err e = {0};
    json_t *o = json_pack("{sI}", "tokens_per_month", (json_int_t)1000000000), *out = NULL;
    assert_ok(limits_put(l, &tester, subject, o, -1, &out, &e), e);
    json_decref(o);
    json_decref(out);
}

static void request(struct led_room *x, int n, int64_t t_start)
{
    struct admission a = admission(n, t_start);
    struct settlement s = settlement(n, &a);
    snprintf(a.who.key, sizeof a.who.key, "key%d", n % 3); /* a key is one tenant's */
    a.price = (struct price){1, 3, 2, 5};
    settle(x, &a, &s);
}

/* Requests of the last 40 days; limits come in between, and requests of days before them end after. */
static void budgets_are_what_their_rows_say(void **state)
{
    struct led_room *x = *state;
    struct err e = {0};
    struct limits *l;
    int64_t now = clock_wall_us(), day = 86400000000ll;
    room_sql(&x->r, "INSERT INTO tenant(id, name, weight, created) VALUES('tenant-1', 'one', 1, 0)");
    room_sql(&x->r, "INSERT INTO api_key(id, tenant, name, roles, hash, created, created_by) VALUES('key1', 'tenant-1', 'n', '', randomblob(32), 0, '')");
    assert_ok(limits_open(&l, x->r.db, &e), e);
    ledger_set_limits(x->l, l, NULL);
    for (int i = 0; i < 80; i++) request(x, i % 2 ? i : 1, now - i * day / 2);
    put_limits(l, "tenant:tenant-1");
    put_limits(l, "key:key1");
    put_limits(l, "adapter:tenant-1/greet");
    assert_int_equal(bad_sums(x), 0);
    for (int i = 0; i < 80; i++) request(x, i % 2 ? i : 1, now - i * day / 2);
    assert_int_equal(bad_sums(x), 0);
    room_sql(&x->r, "UPDATE budget_use SET tokens = tokens + 70, carried_tokens = 70, alerted = 1 WHERE subject = 'key:key1'"); /* of the key that it took over from */
    static const char *const harm[] = {"UPDATE budget_use SET tokens = tokens + 1 WHERE subject = 'tenant:tenant-1' AND period = 1 AND t = (SELECT max(t) FROM budget_use WHERE period = 1)",
                                       "UPDATE budget_use SET cost = cost - 1 WHERE subject = 'key:key1' AND period = 0 AND t = (SELECT max(t) FROM budget_use WHERE period = 0)",
                                       "DELETE FROM budget_use WHERE subject = 'adapter:tenant-1/greet' AND period = 0 AND t = (SELECT max(t) FROM budget_use WHERE period = 0)",
                                       "INSERT INTO budget_use(subject, period, t, tokens, cost) SELECT subject, 0, t + 9 * 86400, 5, 5 FROM budget_use WHERE subject = 'tenant:tenant-1' AND period = 0 ORDER BY t DESC LIMIT 1"};
    for (size_t i = 0; i < sizeof harm / sizeof *harm; i++) {
        room_sql(&x->r, "CREATE TABLE kept AS SELECT * FROM budget_use");
        room_sql(&x->r, "%s", harm[i]);
        assert_int_equal(bad_sums(x), 1);
        rebuild(x);
        assert_int_equal(bad_sums(x), 0);
        assert_int_equal(room_number(&x->r, "SELECT count(*) FROM (SELECT * FROM kept EXCEPT SELECT * FROM budget_use)"), 0);
        room_sql(&x->r, "DROP TABLE kept");
    }
    ledger_set_limits(x->l, NULL, NULL);
    limits_close(l);
}

static int64_t yesterday(void) { return clock_wall_us() - 86400000000ll; }

/* Ids go on where the clock was set back, and so do the days that requests count in. */
static void limits_that_are_set_while_the_clock_is_behind_count_what_was_ahead(void **state)
{
    struct led_room *x = *state;
    struct err e = {0};
    struct limits *l;
    room_sql(&x->r, "INSERT INTO tenant(id, name, weight, created) VALUES('tenant-1', 'one', 1, 0)");
    assert_ok(limits_open(&l, x->r.db, &e), e);
    ledger_set_limits(x->l, l, NULL);
    request(x, 1, clock_wall_us());
    l->wall_us = yesterday;
    put_limits(l, "tenant:tenant-1");
    request(x, 1, clock_wall_us());
    assert_int_equal(bad_sums(x), 0);
    ledger_set_limits(x->l, NULL, NULL);
    limits_close(l);
}

/* After a restart, too: ids go on from the last one, in a day that is tomorrow by the clock. */
static void a_clock_that_was_set_back_over_midnight_gives_no_second_budget(void **state)
{
    struct led_room *x = *state;
    struct err e = {0};
    struct limits *l;
    struct limit_view v;
    struct limit_ticket t = {0};
    struct admission a = admission(1, clock_wall_us());
    json_t *o = json_pack("{sI}", "tokens_per_day", (json_int_t)1000), *out = NULL;
    room_sql(&x->r, "INSERT INTO tenant(id, name, weight, created) VALUES('tenant-1', 'one', 1, 0)");
    assert_ok(limits_open(&l, x->r.db, &e), e);
    assert_ok(limits_put(l, &tester, "tenant:tenant-1", o, -1, &out, &e), e);
    request(x, 1, a.t_start);
    limits_close(l);
    ahead_s = -86400;
    assert_ok(limits_open(&l, x->r.db, &e), e);
    int rc = limit_admit(l, &(struct limit_ask){&a.who, "", 990, 0, a.t_start}, &t, &v, &e);
    ahead_s = 0;
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, ERR_QUOTA);
    assert_ok(limit_admit(l, &(struct limit_ask){&a.who, "", 990, 0, a.t_start - 86400000000ll}, &t, &v, &e), e); /* yesterday has all of its own */
    limit_release(l, &t);
    limits_close(l);
    json_decref(o);
    json_decref(out);
}

static void what_is_held_is_nothing_once_all_have_ended(void **state)
{
    struct led_room *x = *state;
    struct err e = {0};
    struct limits *l;
    struct limit_view v;
    assert_ok(limits_open(&l, x->r.db, &e), e);
    ledger_set_limits(x->l, l, NULL);
    for (int i = 0; i < 20; i++) {
        struct admission a = admission(i, clock_wall_us() - (i % 3 ? 0 : 86400000000ll)); /* some began yesterday */
        struct settlement s = settlement(i, &a);
        assert_ok(limit_admit(l, &(struct limit_ask){&a.who, a.what.adapter, 100, 50, a.t_start}, &a.held, &v, &e), e);
        struct limit_held h = limit_all_held(l);
        assert_true(h.places >= 2 && h.tokens >= 200 && h.cost >= 100);
        if (i % 4 == 0) limit_release(l, &a.held);
        else settle(x, &a, &s);
        h = limit_all_held(l);
        assert_int_equal(h.places, 0);
        assert_int_equal(h.tokens, 0);
        assert_int_equal(h.cost, 0);
    }
    ledger_set_limits(x->l, NULL, NULL);
    limits_close(l);
}

/* --- a list that has no time --- */

/* However early a page ends: each request once, in order, and the client comes to the end. */
static void list_in_a_hurry(struct led_room *x, bool back, int want)
{
    char cursor[UUID_LEN] = "", place[UUID_LEN], last[UUID_LEN];
    int n = 0, pages = 0, early = 0;
    bool more = true;
    usage_id_at(back ? 0 : 4102444800000000, cursor);
    memcpy(last, cursor, sizeof last);
    for (; more; pages++) {
        struct err e = {0};
        json_t *list = json_array();
        step_us = 300000;
        int rc = ledger_requests(x->l, NULL, &(struct request_filter){.state = -1}, &(struct page){back ? "" : cursor, back ? cursor : "", 100}, list, &more, place, &e);
        step_us = 0;
        assert_ok(rc, e);
        int got = (int)json_array_size(list);
        for (int i = 0; i < got; i++) {
            const char *id = json_string_value(json_object_get(json_array_get(list, (size_t)(back ? got - 1 - i : i)), "id"));
            assert_true((strcmp(id, last) > 0) == back);
            snprintf(last, sizeof last, "%s", id);
        }
        n += got;
        early += *place != 0;
        snprintf(cursor, sizeof cursor, "%s", *place ? place : last);
        json_decref(list);
        assert_true(pages < 50);
    }
    assert_int_equal(n, want);
    assert_true(early > 0);
}

static void a_list_that_runs_out_of_time_goes_on_where_it_was(void **state)
{
    struct led_room *x = *state;
    enum { MONTHS = 6, EACH = 40, FIRST = 1785542400 }; /* 2026-08-01 */
    for (int m = 0; m < MONTHS; m++)
        for (int i = 0; i < EACH; i++) {
            int64_t turn = (FIRST + m * 31ll * 86400) * 1000000; /* near turns, so that ids and starts part */
            struct admission a = admission(i, turn + (i % 2 ? 3000000 : i));
            struct settlement s = settlement(i, &a);
            usage_id_at(a.t_start - 2000000 * (i % 2) - 1000, a.id);
            snprintf(a.id + 24, 13, "%012d", m * EACH + i);
            settle(x, &a, &s);
        }
    list_in_a_hurry(x, false, MONTHS * EACH);
    list_in_a_hurry(x, true, MONTHS * EACH);
}

/* --- a request of an adaptive alias --- */

static struct settled_route *routed(const struct admission *a)
{
    struct settled_route *r = calloc(1, sizeof *r);
    *r = (struct settled_route){.way = 2, .need = 0.5, .cost = 0.25, .reason = "tokens", .prompt = 7, .cached = 3, .output = 5, .price = {4, 10, 1, 100}, .engine = "local"};
    snprintf(r->what.base, sizeof r->what.base, "smol");
    uuid7(r->probe);
    r->t_end = a->t_start + 1000;
    return r;
}

static void what_a_small_model_said_in_vain_is_a_row_of_its_own_once_and_in_every_sum(void **state)
{
    struct led_room *x = *state;
    struct err e = {0};
    int64_t rows;
    struct admission a = admission(1, clock_wall_us());
    struct settlement s = settlement(0, &a);
    a.price = (struct price){5, 100, 10, 1000};
    s.route = routed(&a);
    admit(x, &a);
    settle(x, &a, &s);
    s.route = routed(&a); /* another id: were it not for the request's own row, there would be two */
    settle(x, &a, &s);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM usage_route WHERE way = 2 AND reason = 'tokens' AND probe <> ''"), 1);
    assert_int_equal(room_number(&x->r, in_month("SELECT count(*) FROM usage_%06d u JOIN usage_route r ON u.id = r.probe", a.t_start)), 1);
    assert_int_equal(room_number(&x->r, in_month("SELECT u.cost FROM usage_%06d u JOIN usage_route r ON u.id = r.probe", a.t_start)), 4 * 10 + 3 * 1 + 5 * 100);
    assert_int_equal(room_number(&x->r, in_month("SELECT prompt * 100 + output FROM usage_%06d WHERE adapter = '' AND attempt = 1", a.t_start)), 705);
    balances(x, 2);
    assert_ok(ledger_rebuild(x->l, &rows, &e), e);
    assert_int_equal(rows, 2);
    balances(x, 2);
}

/* --- a judge's question --- */

static int rate(struct led_room *x, const struct admission *a)
{
    struct err e = {0};
    json_t *out = NULL;
    const struct feedback f = {.tenant = a->who.tenant, .request = a->id, .key = "key1", .rating = 1, .label = "", .comment = ""};
    int rc = feedback_put(x->l, x->r.db, NULL, &tester, &f, &out, &e);
    json_decref(out);
    return rc ? (int)e.code : 0;
}

/* From its end on, before any score of it is written, and where none ever will be. */
static void a_judges_question_is_never_rated_whatever_became_of_its_score(void **state)
{
    struct led_room *x = *state;
    struct err e = {0};
    int closed;
    struct admission asked = admission(1, clock_wall_us()), judge = admission(2, clock_wall_us()), cut = admission(3, clock_wall_us());
    struct settlement s = settlement(0, &asked);
    judge.who.judge = cut.who.judge = true;
    admit(x, &asked);
    admit(x, &judge);
    admit(x, &cut);
    settle(x, &asked, &s);
    settle(x, &judge, &s);
    assert_int_equal(rate(x, &asked), 0);
    assert_int_equal(rate(x, &judge), ERR_NOT_FOUND);
    led_stop(x);
    led_start(x);
    assert_ok(ledger_recover(x->l, NULL, NULL, &closed, &e), e);
    assert_int_equal(closed, 1);
    assert_int_equal(rate(x, &cut), ERR_NOT_FOUND);
    assert_int_equal(rate(x, &judge), ERR_NOT_FOUND);
    balances(x, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_a_small_model_said_in_vain_is_a_row_of_its_own_once_and_in_every_sum, setup, teardown),
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(a_judges_question_is_never_rated_whatever_became_of_its_score),
        T(what_a_crash_left_costs_what_it_would_have_cost),
        T(the_price_moves_with_the_request_and_old_admissions_have_todays),
        T(what_ends_before_its_admission_is_written_is_not_passed_by),
        T(settled_twice_at_once_is_one_row),
        T(a_bills_parts_are_its_cost_at_the_edge),
        T(budgets_are_what_their_rows_say),
        T(limits_that_are_set_while_the_clock_is_behind_count_what_was_ahead),
        T(a_clock_that_was_set_back_over_midnight_gives_no_second_budget),
        T(what_is_held_is_nothing_once_all_have_ended),
        T(a_list_that_runs_out_of_time_goes_on_where_it_was),
#undef T
    };
    return cmocka_run_group_tests_name("books", tests, NULL, NULL);
}
