/* What tests of archives, backups and migrations share: a ledger on a folder of its own, rows of any month put into it fast, and all of them read
 * again as one text, by which two states are compared. */
#pragma once
#include "base/buf.h"
#include "base/clock.h"
#include "gateway/ledger/ledger_rows.h"
#include "tests/unit/data_room.h"
#include <stdatomic.h>

#define ROOM_TEXT_MAX (64u << 20)

struct ledger_room {
    struct room r;
    struct ledger *l;
    _Atomic int settled, given; /* given: a test may look while another thread settles */
    int nrows;
};

static inline void ledger_room_start(struct ledger_room *x)
{
    struct err e = {0};
    room_start(&x->r);
    assert_ok(ledger_open(&x->l, x->r.db, &e), e);
    x->given = x->settled = 0;
}

static inline void ledger_room_stop(struct ledger_room *x)
{
    ledger_close(x->l);
    db_close(x->r.db);
    x->l = NULL;
    x->r.db = NULL;
}

static inline int ledger_room_new(void **state)
{
    struct ledger_room *x = calloc(1, sizeof *x);
    room_new(&x->r);
    ledger_room_start(x);
    *state = x;
    return 0;
}

static inline int ledger_room_end(void **state)
{
    struct ledger_room *x = *state;
    ledger_close(x->l);
    room_end(&x->r);
    free(x);
    return 0;
}

static inline void ledger_room_settled(void *u)
{
    ++((struct ledger_room *)u)->settled;
}

/* A settled request of that time, the n-th one; many are on their way at a time. */
static inline void ledger_room_add(struct ledger_room *x, int n, int64_t t_start)
{
    struct admission a = {.endpoint = "/v1/chat/completions", .t_start = t_start, .stream = n & 1};
    struct settlement s = {.state = (enum usage_state)(n % USAGE_STATES), .http_status = 200, .finish = "stop", .t_first = t_start + 500 + n % 90,
                           .t_end = t_start + 1000 + n % 100, .prompt = 10 + n % 7, .cached = n % 7, .delivered = 20 + n % 11, .produced = 21 + n % 13,
                           .source = COUNT_ENGINE, .attempt = 1, .cold = n % 9 == 0, .load_us = n % 9 ? 0 : 77, .engine = "local",
                           .before = n % 3 ? 0 : 900 + n, .after = n % 3 ? 0 : 10 + n % 7};
    usage_id_at(t_start, a.id);
    snprintf(a.id + 24, 13, "%012d", n);
    snprintf(a.who.tenant, sizeof a.who.tenant, "tenant-%d", n % 5);
    snprintf(a.who.key, sizeof a.who.key, "key%d", n % 3);
    snprintf(a.what.base, sizeof a.what.base, "smol");
    snprintf(a.what.adapter, sizeof a.what.adapter, "%s", n % 4 ? "greet" : "");
    snprintf(a.alias, sizeof a.alias, "%s", n % 8 ? "" : "talk");
    snprintf(a.model, sizeof a.model, "greet@%d", n % 4);
    a.what.version = n % 4;
    while (x->given - x->settled > 8000) usleep(100);
    x->given++;
    ledger_settle(x->l, &a, &s, ledger_room_settled, x);
}

static inline void ledger_room_wait(struct ledger_room *x)
{
    for (int i = 0; x->settled < x->given && i < 100000; i++) usleep(100);
    assert_int_equal(x->settled, x->given);
}

/* n requests from that second on, `step_us` apart. */
static inline void ledger_room_fill(struct ledger_room *x, int n, int64_t from_s, int64_t step_us)
{
    for (int i = 0; i < n; i++) ledger_room_add(x, i, from_s * 1000000 + i * step_us);
    ledger_room_wait(x);
}

struct ledger_room_text {
    struct buf b;
    int n;
};

static inline int ledger_room_see(void *u, const struct usage_row *r, struct err *e)
{
    struct ledger_room_text *t = u;
    (void)e;
    buf_addf(&t->b, "%d %s %s %s %s %s %s %s %s %s %s %s", r->month, r->id, r->tenant, r->key, r->base, r->adapter, r->model, r->alias, r->endpoint, r->finish,
             r->engine, r->adjusts ? r->adjusts : "-");
    const int64_t number[] = {r->version, r->stream, r->state,  r->http_status, r->t_start, r->t_first, r->t_end,   r->prompt, r->cached,
                              r->output,  r->produced, r->source, r->price,       r->cost,    r->attempt, r->cold, r->load_us,
                              r->before,  r->after};
    for (size_t i = 0; i < sizeof number / sizeof *number; i++) buf_addf(&t->b, " %lld", (long long)number[i]);
    buf_addc(&t->b, '\n');
    t->n++;
    return 0;
}

/* Every row there is, in order; the caller frees it. */
static inline char *ledger_room_rows(struct ledger_room *x)
{
    struct rows_query q = {.end = 253402300799, .all = true};
    struct rows_cursor at = {0};
    struct ledger_room_text t = {0};
    struct err e = {0};
    bool more = true;
    buf_init(&t.b, ROOM_TEXT_MAX);
    while (more) assert_ok(ledger_rows(x->l, &q, &at, 1000, ledger_room_see, &t, &more, &e), e);
    assert_false(t.b.failed);
    x->nrows = t.n;
    char *text = buf_take(&t.b);
    assert_non_null(text);
    return text;
}

static inline int ledger_room_run(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, u, e);
}

static inline void ledger_room_sql(struct ledger_room *x, const char *sql)
{
    struct err e = {0};
    assert_ok(db_write_wait(x->r.db, ledger_room_run, (void *)sql, &e), e);
}
