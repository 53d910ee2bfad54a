/* Tests of gateway/limit: no 60 seconds hold more than the limit, all or nothing, nothing leaks, memory says what the file
 * says. Time is simulated where it matters. */
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/db/db_audit.h"
#include "gateway/limits/limit_internal.h"
#include "gateway/limits/limit_request.h"
#include "gateway/live/event.h"
#include "tests/unit/data_room.h"
#include <stdatomic.h>
#include <time.h>

#define MINUTE 60000000ll
#define TENTH 100000ll
#define DAY_US 86400000000ll
#define NOON 1772020800000000ll /* 2026-02-25 12:00:00 UTC */

static uint64_t state_of_random = 88172645463325252u;

static int64_t below(int64_t n)
{
    state_of_random ^= state_of_random << 13;
    state_of_random ^= state_of_random >> 7;
    state_of_random ^= state_of_random << 17;
    return (int64_t)(state_of_random % (uint64_t)n);
}

/* --- the window, beside a plain log of what happened --- */

#define LOG_MAX 20000

struct happened {
    int64_t t, tokens;
    bool settled;
};

static struct happened happened[LOG_MAX];
static int nhappened;

/* Tokens of (now - span, now]. */
static int64_t tokens_since(int64_t now, int64_t span)
{
    int64_t sum = 0;
    for (int i = nhappened; i-- > 0 && happened[i].t > now - span - TENTH;)
        if (happened[i].t > now - span) sum += happened[i].tokens;
    return sum;
}

static void a_window_holds_its_minute_and_no_more_than_a_tenth_beside(void **state)
{
    (void)state;
    for (int round = 0; round < 20; round++) {
        struct limit_window w;
        assert_int_equal(window_init(&w), 0);
        int64_t now = below(1000000000), pace = 1 + below(4 * MINUTE / 1000);
        nhappened = 0;
        for (int i = 0; i < 4000; i++) {
            now += below(10) ? below(pace) : below(20 * pace);
            if (!below(2000)) now += 2 * MINUTE;
            window_advance(&w, now);
            assert_true(w.tokens >= tokens_since(now, MINUTE));
            assert_true(w.tokens <= tokens_since(now, MINUTE + TENTH));
            assert_true(w.requests >= 0 && w.n <= WINDOW_TENTHS);
            happened[nhappened++] = (struct happened){now, 1 + below(50), false};
            window_add(&w, now, 1, happened[nhappened - 1].tokens);
            struct happened *old = &happened[below(nhappened)];
            if (!old->settled) {
                int64_t less = below(old->tokens + 1);
                window_correct(&w, old->t, 0, -less);
                old->tokens -= less;
                old->settled = true;
            }
        }
        window_advance(&w, now + MINUTE + TENTH);
        assert_int_equal(w.n, 0);
        assert_int_equal(w.tokens, 0);
        assert_int_equal(w.requests, 0);
        window_close(&w);
    }
}

static void after_the_wait_there_is_room_and_not_much_before(void **state)
{
    (void)state;
    struct limit_window w;
    assert_int_equal(window_init(&w), 0);
    int64_t now = 5 * MINUTE;
    for (int i = 0; i < 3000; i++) {
        now += below(200000);
        window_advance(&w, now);
        window_add(&w, now, 1, 1 + below(9));
        int64_t need = 1 + below(w.tokens), wait = window_wait(&w, now, 0, need);
        struct limit_window later = w;
        window_advance(&later, now + wait - 1);
        assert_true(w.tokens - later.tokens < need);
        window_advance(&later, now + wait);
        assert_true(w.tokens - later.tokens >= need);
        assert_int_equal(window_rest(&w, now), window_wait(&w, now, 0, w.tokens));
    }
    window_close(&w);
}

/* --- admissions in simulated time --- */

static _Atomic int64_t fake_mono, fake_wall;

static int64_t mono(void)
{
    return fake_mono;
}

static int64_t wall(void)
{
    return fake_wall;
}

static void pass(int64_t us)
{
    fake_mono += us;
    fake_wall += us;
}

struct lim_room {
    struct room r;
    struct limits *l;
};

static void lim_start(struct lim_room *x)
{
    struct err e = {0};
    room_start(&x->r);
    assert_ok(limits_open(&x->l, x->r.db, &e), e);
    x->l->mono_us = mono;
    x->l->wall_us = wall;
    for (uint32_t i = 0; i < x->l->nbuckets; i++) /* what the real clock's day had */
        for (struct limit_subject *s = x->l->bucket[i]; s; s = s->next) s->stored = false;
    assert_ok(limits_reload(x->l, &e), e);
}

static void lim_stop(struct lim_room *x)
{
    db_close(x->r.db);
    limits_close(x->l);
    x->r.db = NULL;
}

static int setup(void **state)
{
    struct lim_room *x = calloc(1, sizeof *x);
    fake_mono = 1000000;
    fake_wall = NOON;
    room_new(&x->r);
    lim_start(x);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct lim_room *x = *state;
    lim_stop(x);
    room_end(&x->r);
    free(x);
    return 0;
}

static const struct actor tester = {.key = "tester", .ip = "", .request = ""};

static void put_json(struct lim_room *x, const char *subject, json_t *o)
{
    struct err e = {0};
    json_t *out = NULL;
    assert_ok(limits_put(x->l, &tester, subject, o, -1, &out, &e), e);
    json_decref(o);
    json_decref(out);
}

#define put(x, subject, ...) put_json(x, subject, json_pack(__VA_ARGS__))

static struct principal person(const char *tenant, const char *key)
{
    struct principal p = {0};
    snprintf(p.tenant, sizeof p.tenant, "%s", tenant);
    snprintf(p.tenant_name, sizeof p.tenant_name, "%s", tenant);
    snprintf(p.key, sizeof p.key, "%s", key);
    return p;
}

static int ask(struct lim_room *x, const struct principal *who, const char *adapter, int64_t tokens, int64_t cost,
               struct limit_ticket *t, struct limit_view *v, struct err *e)
{
    struct limit_view unused;
    return limit_admit(x->l, &(struct limit_ask){who, adapter, tokens, cost, 0}, t, v ? v : &unused, e);
}

static json_t *used(struct lim_room *x, const char *subject)
{
    struct err e = {0};
    json_t *o = NULL;
    assert_ok(limits_get(x->l, subject, &o, &e), e);
    json_t *u = json_incref(json_object_get(o, "used"));
    json_decref(o);
    return u;
}

static int64_t used_of(struct lim_room *x, const char *subject, const char *what)
{
    json_t *u = used(x, subject);
    json_t *v = json_object_get(u, what);
    int64_t n = json_integer_value(v ? v : json_object_get(json_object_get(u, "reserved"), what));
    json_decref(u);
    return n;
}

/* Limits that are hit all the time, random lengths and ends; a log of what was let in is the oracle. */
static void no_minute_holds_more_than_the_limit_whatever_comes(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    static struct limit_ticket open[64];
    int64_t limit = 1000, requests = 40, concurrent = 12, let_in = 0, refused = 0;
    int nopen = 0;
    put(x, "tenant:acme", "{sI sI sI}", "tokens_per_minute", (json_int_t)limit, "requests_per_minute",
        (json_int_t)requests, "concurrent_requests", (json_int_t)concurrent);
    nhappened = 0;
    for (int i = 0; i < 15000; i++) {
        struct err e = {0};
        struct limit_view v;
        pass(below(3) ? below(300000) : below(4000000));
        if (nopen && below(2)) {
            int k = (int)below(nopen);
            struct limit_ticket *t = &open[k];
            int64_t real = below(t->tokens + 1);
            for (int j = 0; j < nhappened; j++)
                if (happened[j].t == t->t_us[0] && !happened[j].settled && happened[j].tokens == t->tokens) {
                    happened[j].tokens = real;
                    happened[j].settled = true;
                    break;
                }
            if (below(2)) limit_done(x->l, t, real + below(5), 0);
            limit_settle(x->l, t, real, 0);
            open[k] = open[--nopen];
            continue;
        }
        int64_t tokens = 1 + below(200);
        struct limit_ticket t;
        if (ask(x, &who, "", tokens, 0, &t, &v, &e)) {
            refused++;
            assert_int_equal(e.code, ERR_RATE_LIMIT);
            assert_false(t.held);
            assert_true(v.retry_after_us > 0 && v.retry_after_us <= MINUTE + TENTH);
            continue;
        }
        let_in++;
        if (nhappened == LOG_MAX) break;
        happened[nhappened++] = (struct happened){fake_mono, tokens, false};
        open[nopen++] = t;
        assert_true(nopen <= concurrent);
        assert_true(tokens_since(fake_mono, MINUTE) <= limit);
        int n = 0;
        for (int j = nhappened; j-- > 0 && happened[j].t > fake_mono - MINUTE;) n++;
        assert_true(n <= requests);
    }
    assert_true(let_in > 1000 && refused > 1000);
    while (nopen) limit_settle(x->l, &open[--nopen], 0, 0);
    pass(2 * MINUTE);
    assert_int_equal(used_of(x, "tenant:acme", "tokens_per_minute"), 0);
    assert_int_equal(used_of(x, "tenant:acme", "concurrent_requests"), 0);
}

static void a_refusal_of_one_subject_leaves_all_others_as_they_were(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    struct limit_ticket t, none;
    struct limit_view v;
    struct err e = {0};
    put(x, "adapter:acme/sql", "{sI}", "concurrent_requests", (json_int_t)1);
    put(x, "tenant:acme", "{sI sI}", "requests_per_minute", (json_int_t)10, "tokens_per_day", (json_int_t)1000);
    put(x, "key:k1", "{sI}", "tokens_per_minute", (json_int_t)500);
    assert_ok(ask(x, &who, "sql", 30, 7, &t, &v, &e), e);
    assert_int_equal(v.limit_requests, 10);
    assert_int_equal(v.remaining_requests, 9);
    assert_int_equal(v.limit_tokens, 500);
    assert_int_equal(v.remaining_tokens, 470);
    json_t *before[] = {used(x, "tenant:acme"), used(x, "key:k1"), used(x, "adapter:acme/sql")};
    assert_int_equal(ask(x, &who, "sql", 30, 7, &none, &v, &e), -1);
    assert_int_equal(v.refused, LIMIT_CONCURRENT);
    assert_string_equal(v.scope, "adapter");
    assert_int_equal(v.remaining_requests, 9);
    json_t *after[] = {used(x, "tenant:acme"), used(x, "key:k1"), used(x, "adapter:acme/sql")};
    for (int i = 0; i < 3; i++) {
        assert_true(json_equal(before[i], after[i]));
        json_decref(before[i]);
        json_decref(after[i]);
    }
    limit_done(x->l, &t, 20, 5);
    assert_int_equal(used_of(x, "adapter:acme/sql", "concurrent_requests"), 0);
    assert_int_equal(used_of(x, "tenant:acme", "tokens"), 20);
    limit_settle(x->l, &t, 12, 3);
    limit_settle(x->l, &t, 12, 3); /* harmless: it holds nothing any more */
    assert_int_equal(used_of(x, "tenant:acme", "tokens_per_day"), 12);
    assert_int_equal(used_of(x, "tenant:acme", "tokens"), 0);
    assert_int_equal(used_of(x, "key:k1", "tokens_per_minute"), 12);
}

static void a_released_request_never_was(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    struct limit_ticket t;
    struct err e = {0};
    put(x, "tenant:acme", "{sI sI}", "requests_per_minute", (json_int_t)1, "tokens_per_day", (json_int_t)50);
    for (int i = 0; i < 5; i++) {
        assert_ok(ask(x, &who, "", 50, 0, &t, NULL, &e), e);
        limit_release(x->l, &t);
    }
    assert_ok(ask(x, &who, "", 50, 0, &t, NULL, &e), e);
    limit_settle(x->l, &t, 50, 0);
}

/* The adapter that answers is the one whose limits count, across midnight too, and a refused move changes nothing. */
static void a_ticket_moves_to_the_adapter_that_answers(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    struct limit_ticket t, other;
    struct err e = {0};
    put(x, "tenant:acme", "{sI}", "concurrent_requests", (json_int_t)9);
    put(x, "adapter:acme/a", "{sI sI}", "requests_per_minute", (json_int_t)1, "tokens_per_day", (json_int_t)100);
    put(x, "adapter:acme/b", "{sI sI sI}", "requests_per_minute", (json_int_t)1, "concurrent_requests", (json_int_t)1,
        "tokens_per_day", (json_int_t)100);
    assert_ok(ask(x, &who, "a", 60, 6, &t, NULL, &e), e);
    pass(250000);
    assert_ok(limit_move(x->l, &t, &who, "b", &e), e);
    assert_ok(ask(x, &who, "a", 60, 6, &other, NULL, &e), e); /* as if the first had never been there */
    assert_int_equal(limit_move(x->l, &other, &who, "b", &e), -1);
    assert_non_null(strstr(e.msg, "b"));
    assert_int_equal(used_of(x, "adapter:acme/a", "concurrent_requests"), 1);
    assert_ok(limit_move(x->l, &other, &who, "", &e), e); /* the base */
    assert_ok(limit_move(x->l, &other, &who, "", &e), e);
    assert_int_equal(used_of(x, "adapter:acme/a", "concurrent_requests"), 0);
    assert_int_equal(used_of(x, "adapter:acme/a", "tokens_per_minute"), 0);
    assert_int_equal(used_of(x, "adapter:acme/a", "tokens"), 0);
    assert_int_equal(used_of(x, "tenant:acme", "concurrent_requests"), 2);
    limit_done(x->l, &t, 10, 1);
    assert_int_equal(used_of(x, "adapter:acme/b", "tokens_per_minute"), 10);
    limit_settle(x->l, &t, 10, 1);
    limit_settle(x->l, &other, 20, 2);
    assert_int_equal(used_of(x, "adapter:acme/b", "tokens_per_day"), 10);
    assert_int_equal(used_of(x, "adapter:acme/a", "tokens_per_day"), 0);
    assert_int_equal(used_of(x, "tenant:acme", "tokens_per_day"), 30);

    assert_ok(ask(x, &who, "a", 60, 6, &t, NULL, &e), e);
    pass(13 * 3600 * 1000000ll); /* tomorrow */
    assert_ok(limit_move(x->l, &t, &who, "b", &e), e);
    limit_settle(x->l, &t, 7, 1);
    assert_int_equal(used_of(x, "adapter:acme/b", "tokens_per_day"), 0);
    assert_int_equal(used_of(x, "adapter:acme/b", "tokens"), 0);
    assert_int_equal(used_of(x, "adapter:acme/b", "concurrent_requests"), 0);
}

static void what_stands_in_the_way_is_told_by_name_and_cause(void **state)
{
    static const struct {
        const char *limit;
        int64_t max, first, second;
        bool settled;
        enum err_code code;
        int64_t wait_us; /* -1: never, 0: any */
        const char *says;
    } row[] = {
        {"tokens_per_minute", 100, 60, 60, true, ERR_RATE_LIMIT, MINUTE + TENTH, "limit 100, used 60, requested 60"},
        {"tokens_per_minute", 100, 60, 101, true, ERR_RATE_LIMIT, -1, "Request too large"},
        {"requests_per_minute", 1, 1, 1, false, ERR_RATE_LIMIT, MINUTE + TENTH, "requests per minute"},
        {"concurrent_requests", 1, 1, 1, false, ERR_RATE_LIMIT, 1000000, "concurrent requests"},
        {"tokens_per_day", 100, 60, 60, false, ERR_RATE_LIMIT, 1000000, "tokens per day"},
        {"tokens_per_day", 100, 60, 60, true, ERR_QUOTA, DAY_US / 2, "It begins anew in 12h0m0s"},
        {"tokens_per_month", 100, 60, 60, true, ERR_QUOTA, 3 * DAY_US + DAY_US / 2, "It begins anew in 84h0m0s"},
        {"cost_per_day", 100, 60, 101, true, ERR_QUOTA, -1, "cost per day (nano-units)"},
        {"cost_per_month", 0, 0, 1, true, ERR_QUOTA, -1, "Request too large"},
    };
    struct lim_room *x = *state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char tenant[16], subject[LIMIT_SUBJECT_LEN];
        struct limit_ticket t, none;
        struct limit_view v;
        struct err e = {0};
        snprintf(tenant, sizeof tenant, "t%zu", i);
        limit_subject_tenant(subject, tenant);
        struct principal who = person(tenant, "k");
        put(x, subject, "{sI}", row[i].limit, (json_int_t)row[i].max);
        assert_ok(ask(x, &who, "", row[i].first, row[i].first, &t, NULL, &e), e);
        if (row[i].settled) limit_settle(x->l, &t, row[i].first, row[i].first);
        assert_int_equal(ask(x, &who, "", row[i].second, row[i].second, &none, &v, &e), -1);
        assert_int_equal(e.code, row[i].code);
        assert_int_equal(v.retry_after_us, row[i].wait_us);
        if (!strstr(e.msg, row[i].says)) fail_msg("%s: %s", row[i].says, e.msg);
        limit_settle(x->l, &t, 1, 1);
    }
}

static void times_are_written_as_openai_does(void **state)
{
    static const struct {
        int64_t us;
        const char *text;
    } row[] = {
        {0, "0ms"},      {1, "1ms"},         {20000, "20ms"},     {999000, "999ms"},      {999001, "1s"},
        {1000000, "1s"}, {59000001, "1m0s"}, {360000000, "6m0s"}, {3600000000, "1h0m0s"}, {86399000000, "23h59m59s"}};
    char text[LIMIT_DURATION_LEN];
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        limit_duration(row[i].us, text);
        assert_string_equal(text, row[i].text);
    }
}

static void what_is_reserved_bounds_what_the_context_allows(void **state)
{
    (void)state;
    struct limit_wish w = {.body_bytes = 100, .prompts = 1, .choices = 1, .max_tokens = 10, .max_context = 2048};
    assert_int_equal(limit_bound(&w).tokens, 100 + 512 + 10);
    w.tools = true;
    assert_int_equal(limit_bound(&w).tokens, 400 + 512 + 10);
    w.body_bytes = 100000;
    assert_int_equal(limit_bound(&w).tokens, 2048);
    assert_int_equal(limit_bound(&w).prompt, 2038);
    w.choices = 3;
    assert_int_equal(limit_bound(&w).tokens, 2038 + 30);
    w.max_tokens = -1;
    assert_int_equal(limit_bound(&w).tokens, 3 * 2048);
    assert_int_equal(limit_bound(&w).prompt, 2048);
    w.prompts = 4;
    assert_int_equal(limit_bound(&w).tokens, 12 * 2048);
    w.max_tokens = 1048576;
    assert_int_equal(limit_bound(&w).tokens, 12 * 2048);
    assert_int_equal(limit_exact(&w, 50).tokens, 50 + 12 * 2048);
    w = (struct limit_wish){.body_bytes = 100, .prompts = 1, .choices = 1, .max_tokens = 10, .max_context = 2048, .twice = true};
    assert_int_equal(limit_bound(&w).tokens, 2 * (100 + 512) + 10);
    w.max_tokens = -1;
    assert_int_equal(limit_bound(&w).tokens, 2 * (100 + 512) + 2048);
    w.body_bytes = 100000;
    w.max_tokens = 2000; /* what is read first needs no room beside the answer */
    assert_int_equal(limit_bound(&w).tokens, 2 * 2048 + 2000);
}

/* --- days and months --- */

static void a_day_ends_and_what_began_in_it_is_settled_in_it(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    struct limit_ticket late, t;
    struct err e = {0}, again = {0};
    put(x, "tenant:acme", "{sI sI}", "tokens_per_day", (json_int_t)100, "tokens_per_month", (json_int_t)150);
    assert_ok(ask(x, &who, "", 90, 0, &late, NULL, &e), e);
    assert_int_equal(ask(x, &who, "", 20, 0, &t, NULL, &again), -1);
    pass(DAY_US / 2);
    assert_ok(ask(x, &who, "", 60, 0, &t, NULL, &e), e); /* a new day; the month holds 90 */
    assert_int_equal(used_of(x, "tenant:acme", "tokens"), 60);
    limit_settle(x->l, &late, 90, 0);
    assert_int_equal(used_of(x, "tenant:acme", "tokens_per_day"), 0);
    assert_int_equal(used_of(x, "tenant:acme", "tokens_per_month"), 90);
    limit_settle(x->l, &t, 60, 0);
    assert_int_equal(used_of(x, "tenant:acme", "tokens_per_day"), 60);
    err_clear(&again);
    assert_int_equal(ask(x, &who, "", 1, 0, &t, NULL, &again), -1);
    assert_int_equal(again.code, ERR_QUOTA);
    pass(3 * DAY_US); /* March */
    assert_ok(ask(x, &who, "", 100, 0, &t, NULL, &e), e);
    limit_settle(x->l, &t, 0, 0);
}

static void a_clock_that_jumps_and_comes_back_finds_its_day(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    struct limit_ticket t;
    struct err e = {0}, again = {0};
    put(x, "tenant:acme", "{sI}", "tokens_per_day", (json_int_t)100);
    assert_ok(ask(x, &who, "", 80, 0, &t, NULL, &e), e);
    limit_settle(x->l, &t, 80, 0);
    fake_wall += 30 * DAY_US;
    assert_ok(ask(x, &who, "", 100, 0, &t, NULL, &e), e);
    limit_settle(x->l, &t, 100, 0);
    fake_wall -= 30 * DAY_US;
    assert_int_equal(ask(x, &who, "", 30, 0, &t, NULL, &again), -1);
    assert_ok(ask(x, &who, "", 20, 0, &t, NULL, &e), e);
    limit_settle(x->l, &t, 20, 0);
}

/* --- rows --- */

struct run {
    struct principal who;
    const char *adapter;
    int64_t wall, tokens, cost;
};

static int run_settle(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct run *r = u;
    return limit_settle_run(d, c, &r->who, r->adapter, r->wall, r->tokens, r->cost, e);
}

static void settle_row(struct lim_room *x, const struct principal *who, const char *adapter, int64_t tokens,
                       int64_t cost)
{
    struct err e = {0};
    struct run r = {*who, adapter, fake_wall, tokens, cost};
    assert_ok(db_write_wait(x->r.db, run_settle, &r, &e), e);
}

static int64_t events_of(struct lim_room *x, const char *type)
{
    struct err e = {0};
    json_t *list = json_array(), *v;
    bool more;
    size_t i;
    int64_t n = 0;
    struct page p = {"", "", PAGE_MAX};
    assert_ok(event_list(x->r.db, NULL, &p, list, &more, &e), e);
    json_array_foreach(list, i, v) n += strcmp(json_string_value(json_object_get(v, "type")), type) == 0;
    json_decref(list);
    return n;
}

static void a_soft_budget_is_told_once_in_each_period_and_a_hard_one_too(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    put(x, "tenant:acme", "{sI sI sI}", "tokens_per_day_soft", (json_int_t)50, "tokens_per_day", (json_int_t)100,
        "cost_per_month_soft", (json_int_t)1000000);
    for (int day = 0; day < 2; day++) {
        settle_row(x, &who, "sql", 49, 10);
        assert_int_equal(events_of(x, "budget.soft"), day);
        settle_row(x, &who, "sql", 1, 10);
        assert_int_equal(events_of(x, "budget.soft"), day + 1);
        lim_stop(x); /* a start between does not repeat it */
        lim_start(x);
        settle_row(x, &who, "sql", 10, 10);
        assert_int_equal(events_of(x, "budget.soft"), day + 1);
        assert_int_equal(events_of(x, "budget.hard"), day);
        settle_row(x, &who, "sql", 40, 10);
        settle_row(x, &who, "sql", 40, 10);
        assert_int_equal(events_of(x, "budget.hard"), day + 1);
        pass(DAY_US);
    }
    assert_int_equal(room_number(&x->r, "SELECT sum(tokens) FROM budget_use WHERE period = 1"), 2 * 140);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM budget_use"),
                     3); /* key and adapter have no limits: no rows */
}

static void a_start_finds_limits_and_what_was_used(void **state)
{
    struct lim_room *x = *state;
    struct principal who = person("acme", "k1");
    struct limit_ticket t;
    struct err e = {0}, again = {0};
    put(x, "tenant:acme", "{sI sI}", "tokens_per_day", (json_int_t)100, "adapters", (json_int_t)3);
    settle_row(x, &who, "", 70, 0);
    lim_stop(x);
    lim_start(x);
    assert_int_equal(limit_value(x->l, "tenant:acme", LIMIT_ADAPTERS), 3);
    assert_int_equal(limit_value(x->l, "tenant:acme", LIMIT_PINNED), -1);
    assert_int_equal(limit_value(x->l, "tenant:other", LIMIT_ADAPTERS), -1);
    assert_int_equal(ask(x, &who, "", 31, 0, &t, NULL, &again), -1);
    assert_ok(ask(x, &who, "", 30, 0, &t, NULL, &e), e);
    limit_settle(x->l, &t, 0, 0);
}

static void limits_are_replaced_whole_and_by_revision(void **state)
{
    struct lim_room *x = *state;
    struct err e = {0};
    json_t *out = NULL, *o = json_pack("{sI}", "tokens_per_day", (json_int_t)5), *none = json_object();
    assert_ok(limits_put(x->l, &tester, "key:k", o, 0, &out, &e), e);
    assert_int_equal(json_integer_value(json_object_get(out, "revision")), 1);
    json_decref(out);
    assert_int_equal(limits_put(x->l, &tester, "key:k", none, 7, &out, &e), -1);
    assert_int_equal(e.code, ERR_PRECONDITION);
    assert_int_equal(limit_value(x->l, "key:k", LIMIT_TOKENS_DAY), 5);
    err_clear(&e);
    assert_ok(limits_put(x->l, &tester, "key:k", none, 1, &out, &e), e);
    assert_int_equal(limit_value(x->l, "key:k", LIMIT_TOKENS_DAY), -1);
    json_decref(out);
    json_decref(o);
    json_decref(none);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM audit WHERE action = 'limits.put'"), 2);
}

struct loader {
    struct lim_room *x;
    int back;
    _Atomic bool stop;
};

static void *load_on(void *u)
{
    struct loader *w = u;
    struct err e = {0};
    while (!w->stop) assert_ok(limits_load(w->x->l, "key:copied", &e), e);
    return NULL;
}

/* The limit only grows: a value that comes back was undone. */
static void *watch(void *u)
{
    struct loader *w = u;
    int64_t last = -1;
    while (!w->stop) {
        int64_t v = limit_value(w->x->l, "tenant:acme", LIMIT_ADAPTERS);
        w->back += v < last;
        last = v;
    }
    return NULL;
}

static void a_row_that_others_wrote_comes_into_force_and_undoes_no_change_beside_it(void **state)
{
    struct lim_room *x = *state;
    struct loader w = {.x = x};
    pthread_t loads, watches;
    put(x, "key:copied", "{sI}", "adapters", (json_int_t)1);
    assert_int_equal(pthread_create(&loads, NULL, load_on, &w), 0);
    assert_int_equal(pthread_create(&watches, NULL, watch, &w), 0);
    for (int i = 0; i < 500; i++) put(x, "tenant:acme", "{sI}", "adapters", (json_int_t)i);
    w.stop = true;
    pthread_join(loads, NULL);
    pthread_join(watches, NULL);
    assert_int_equal(w.back, 0);
    assert_int_equal(limit_value(x->l, "key:copied", LIMIT_ADAPTERS), 1);
}

static void subjects_that_sleep_are_forgotten(void **state)
{
    struct lim_room *x = *state;
    struct err e = {0};
    char key[KEY_ID_LEN];
    uint32_t most = 0;
    put(x, "key:keep", "{sI}", "requests_per_minute", (json_int_t)9);
    for (int i = 0; i < 200000; i++) {
        snprintf(key, sizeof key, "k%d", i);
        struct principal who = person("acme", key);
        struct limit_ticket t;
        assert_ok(ask(x, &who, "", 10, 0, &t, NULL, &e), e);
        limit_settle(x->l, &t, 10, 0);
        pass(10000); /* 6,000 are active within a minute */
        if (x->l->nsubjects > most) most = x->l->nsubjects;
    }
    assert_true(most < 10000);
    assert_int_equal(limit_value(x->l, "key:keep", LIMIT_REQUESTS_MINUTE), 9);
}

/* --- threads --- */

#define THREADS 8
#define ROUNDS 20000

struct worker {
    struct lim_room *x;
    int n;
    pthread_t thread;
    int64_t tokens, requests;
};

static _Atomic int64_t running, most_running;

static void *work(void *u)
{
    struct worker *w = u;
    uint64_t r = (uint64_t)w->n * 7919 + 1;
    char key[KEY_ID_LEN];
    snprintf(key, sizeof key, "k%d", w->n % 3);
    struct principal who = person("acme", key);
    for (int i = 0; i < ROUNDS; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        struct limit_ticket t;
        int64_t want = 1 + (int64_t)(r >> 40) % 40, real = want / 2;
        if (ask(w->x, &who, r >> 63 ? "sql" : "", want, want, &t, NULL, NULL)) continue;
        int64_t now = ++running, most = most_running;
        while (now > most && !atomic_compare_exchange_weak(&most_running, &most, now)) {
        }
        running--;
        if (r >> 62 & 1) limit_done(w->x->l, &t, real, real);
        if ((r >> 61 & 1) && i % 5 == 0) {
            limit_release(w->x->l, &t);
            continue;
        }
        limit_settle(w->x->l, &t, real, real);
        w->tokens += real;
        w->requests++;
    }
    return NULL;
}

static void threads_never_pass_a_budget_together_and_leave_nothing(void **state)
{
    struct lim_room *x = *state;
    struct worker w[THREADS];
    int64_t tokens = 0, requests = 0, budget = 300000;
    put(x, "tenant:acme", "{sI sI sI}", "tokens_per_day", (json_int_t)budget, "concurrent_requests", (json_int_t)5,
        "cost_per_month", (json_int_t)budget);
    put(x, "key:k0", "{sI}", "tokens_per_minute", (json_int_t)1000000000);
    for (int i = 0; i < THREADS; i++) {
        w[i] = (struct worker){.x = x, .n = i};
        assert_int_equal(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(w[i].thread, NULL);
        tokens += w[i].tokens;
        requests += w[i].requests;
    }
    assert_true(tokens > budget - 100 && tokens <= budget);
    assert_true(most_running <= 5);
    assert_int_equal(used_of(x, "tenant:acme", "tokens_per_day"), tokens);
    assert_int_equal(used_of(x, "tenant:acme", "cost_per_month"), tokens);
    assert_int_equal(used_of(x, "tenant:acme", "requests_per_minute"), requests);
    assert_int_equal(used_of(x, "tenant:acme", "concurrent_requests"), 0);
    assert_int_equal(used_of(x, "tenant:acme", "tokens"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_window_holds_its_minute_and_no_more_than_a_tenth_beside),
        cmocka_unit_test(after_the_wait_there_is_room_and_not_much_before),
        cmocka_unit_test_setup_teardown(no_minute_holds_more_than_the_limit_whatever_comes, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refusal_of_one_subject_leaves_all_others_as_they_were, setup, teardown),
        cmocka_unit_test_setup_teardown(a_released_request_never_was, setup, teardown),
        cmocka_unit_test_setup_teardown(a_ticket_moves_to_the_adapter_that_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(what_stands_in_the_way_is_told_by_name_and_cause, setup, teardown),
        cmocka_unit_test(times_are_written_as_openai_does),
        cmocka_unit_test(what_is_reserved_bounds_what_the_context_allows),
        cmocka_unit_test_setup_teardown(a_day_ends_and_what_began_in_it_is_settled_in_it, setup, teardown),
        cmocka_unit_test_setup_teardown(a_clock_that_jumps_and_comes_back_finds_its_day, setup, teardown),
        cmocka_unit_test_setup_teardown(a_soft_budget_is_told_once_in_each_period_and_a_hard_one_too, setup, teardown),
        cmocka_unit_test_setup_teardown(a_start_finds_limits_and_what_was_used, setup, teardown),
        cmocka_unit_test_setup_teardown(limits_are_replaced_whole_and_by_revision, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_that_others_wrote_comes_into_force_and_undoes_no_change_beside_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(subjects_that_sleep_are_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(threads_never_pass_a_budget_together_and_leave_nothing, setup, teardown),
    };
    return cmocka_run_group_tests_name("limit", tests, NULL, NULL);
}
