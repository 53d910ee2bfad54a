/* What the tests of the ledger share: a ledger in a fresh data folder, requests of three tenants, and waiting for their ends. */
#pragma once
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/ledger/ledger.h"
#include "tests/unit/data_room.h"
#include <stdatomic.h>
#include <time.h>

struct led_room {
    struct room r;
    struct ledger *l;
};

static inline void led_start(struct led_room *x)
{
    struct err e = {0};
    room_start(&x->r);
    assert_ok(ledger_open(&x->l, x->r.db, &e), e);
}

static inline void led_stop(struct led_room *x)
{
    ledger_close(x->l);
    db_close(x->r.db);
    x->l = NULL;
    x->r.db = NULL;
}

static inline int setup(void **state)
{
    struct led_room *x = calloc(1, sizeof *x);
    room_new(&x->r);
    led_start(x);
    *state = x;
    return 0;
}

static inline int teardown(void **state)
{
    struct led_room *x = *state;
    ledger_close(x->l);
    room_end(&x->r);
    free(x);
    return 0;
}

static inline struct admission admission(int n, int64_t t_start)
{
    struct admission a = {
        .endpoint = "/v1/chat/completions", .stream = n & 1, .reserved_tokens = 100, .t_start = t_start};
    uuid7(a.id);
    snprintf(a.who.tenant, sizeof a.who.tenant, "tenant-%d", n % 3);
    snprintf(a.who.tenant_name, sizeof a.who.tenant_name, "t%d", n % 3);
    snprintf(a.who.key, sizeof a.who.key, "key%d", n % 5);
    snprintf(a.what.base, sizeof a.what.base, "smol");
    snprintf(a.what.adapter, sizeof a.what.adapter, "%s", n % 4 ? "greet" : "");
    a.what.version = n % 4;
    snprintf(a.model, sizeof a.model, "greet@%d", n % 4);
    return a;
}

static inline struct settlement settlement(int n, const struct admission *a)
{
    struct settlement s = {.state = (enum usage_state)(n % USAGE_GATEWAY_CRASH),
                           .http_status = 200,
                           .finish = "stop",
                           .prompt = 10 + n % 7,
                           .cached = n % 7,
                           .delivered = 20 + n % 11,
                           .produced = 21 + n % 13,
                           .source = COUNT_ENGINE,
                           .attempt = 1,
                           .cold = n % 9 == 0,
                           .engine = "local"};
    s.t_first = n % 5 ? a->t_start + 1000 * (n % 300) : 0;
    s.t_end = a->t_start + 500000 + n % 1000;
    return s;
}

static inline void admitted(void *u, const struct err *e)
{
    *(_Atomic int *)u = e ? -1 : 1;
}

static inline void settled(void *u)
{
    ++*(_Atomic int *)u;
}

static inline void wait_not(_Atomic int *v, int old)
{
    for (int i = 0; *v == old && i < 10000; i++) usleep(200);
    assert_int_not_equal(*v, old);
}

static inline void admit(struct led_room *x, const struct admission *a)
{
    struct err e = {0};
    _Atomic int done = 0;
    assert_ok(ledger_admit(x->l, a, admitted, (void *)&done, &e), e);
    wait_not(&done, 0);
    assert_int_equal(done, 1);
}

static inline void settle(struct led_room *x, const struct admission *a, const struct settlement *s)
{
    _Atomic int done = 0;
    ledger_settle(x->l, a, s, settled, (void *)&done);
    wait_not(&done, 0);
}

static inline void balances(struct led_room *x, int64_t want)
{
    struct err e = {0};
    int64_t rows, bad;
    assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
    assert_int_equal(rows, want);
    assert_int_equal(bad, 0);
}

static inline const char *in_month(const char *format, int64_t wall_us)
{
    time_t s = (time_t)(wall_us / 1000000);
    struct tm tm;
    static char month_sql[512];
    gmtime_r(&s, &tm);
    snprintf(month_sql, sizeof month_sql, format, (tm.tm_year + 1900) * 100 + tm.tm_mon + 1);
    return month_sql;
}

/* The list that stands in b as text, which is closed. */
static inline json_t *led_list(struct buf *b)
{
    json_t *list = NULL;
    json_error_t why;
    assert_non_null(list = json_loadb(b->data, b->len, JSON_REJECT_DUPLICATES, &why));
    buf_close(b);
    return list;
}
