/* Tests of gateway/ledger: one usage row for each admission, whatever dies when; rollups equal the rows. */
#include "base/clock.h"
#include "base/metrics.h"
#include "gateway/api/page.h"
#include "gateway/db/db_audit.h"
#include "gateway/ledger/ledger.h"
#include "gateway/ledger/ledger_find.h"
#include "gateway/ledger/ledger_query.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/limits/limit_store.h"
#include "gateway/observe/meters.h"
#include "tests/unit/led_room.h"
#include <errno.h>
#include <jansson.h>
#include <sys/syscall.h>
#include <time.h>

#define N_NEVER 1000000

static void a_request_becomes_one_row_and_its_rollups(void **state)
{
    struct led_room *x = *state;
    int64_t now = clock_wall_us();
    struct admission a = admission(1, now);
    struct settlement s = settlement(1, &a);
    admit(x, &a);
    assert_int_equal(ledger_open_admissions(x->l), 1);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM admission"), 1);
    settle(x, &a, &s);
    assert_int_equal(ledger_open_admissions(x->l), 0);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM admission"), 0);
    assert_int_equal(
        room_number(
            &x->r, in_month("SELECT prompt * 1000000 + cached * 10000 + output * 100 + produced FROM usage_%06d", now)),
        11012122);
    assert_int_equal(room_number(&x->r, "SELECT output FROM rollup_day"), 21);
    balances(x, 1);
}

static void the_same_id_settled_twice_counts_once(void **state)
{
    struct led_room *x = *state;
    struct admission a = admission(2, clock_wall_us());
    struct settlement s = settlement(2, &a);
    admit(x, &a);
    settle(x, &a, &s);
    s.delivered = 1000;
    settle(x, &a, &s);
    balances(x, 1);
    assert_int_equal(room_number(&x->r, "SELECT output FROM rollup_day"), 22);
    assert_int_equal(ledger_open_admissions(x->l), 0);
}

static void an_id_is_open_once(void **state)
{
    struct led_room *x = *state;
    struct admission a = admission(2, clock_wall_us());
    struct err e = {0};
    _Atomic int done = 0;
    admit(x, &a);
    assert_int_equal(ledger_admit(x->l, &a, admitted, (void *)&done, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_int_equal(ledger_open_admissions(x->l), 1);
}

static void a_request_that_began_a_minute_ago_is_not_admitted(void **state)
{
    struct led_room *x = *state;
    struct admission a = admission(2, clock_wall_us());
    struct err e = {0};
    _Atomic int done = 0;
    usage_id_at(clock_wall_us() - (LEDGER_ADMIT_S + 1) * 1000000ll, a.id);
    assert_int_equal(ledger_admit(x->l, &a, admitted, (void *)&done, &e), -1);
    assert_int_equal(e.code, ERR_TIMEOUT_BODY);
    assert_int_equal(ledger_open_admissions(x->l), 0);
}

static void an_explicit_zero_stays_zero_and_nonsense_is_tamed(void **state)
{
    struct led_room *x = *state;
    int64_t now = clock_wall_us();
    struct admission a = admission(3, now);
    struct settlement s = {.state = USAGE_REJECTED, .http_status = 400, .prompt = -5, .t_end = now - 10};
    admit(x, &a);
    settle(x, &a, &s);
    assert_int_equal(
        room_number(&x->r, in_month("SELECT prompt + output + produced + (t_end < t_start) FROM usage_%06d", now)), 0);
    balances(x, 1);
}

static void no_more_is_cached_than_was_sent_whatever_an_upstream_says(void **state)
{
    struct led_room *x = *state;
    int64_t now = clock_wall_us();
    struct admission a = admission(0, now);
    struct settlement s = settlement(0, &a);
    a.price = (struct price){1, 100, 10, 1000};
    s.prompt = 5;
    s.cached = 8;
    s.delivered = 2;
    admit(x, &a);
    settle(x, &a, &s);
    assert_int_equal(room_number(&x->r, in_month("SELECT prompt * 100 + cached FROM usage_%06d", now)), 505);
    assert_int_equal(room_number(&x->r, "SELECT cost FROM rollup_by WHERE dim = 0 AND tenant <> ''"), 5 * 10 + 2 * 1000);
    balances(x, 1);
}

static void each_month_has_its_table(void **state)
{
    struct led_room *x = *state;
    static const int64_t last_second = 1798761599; /* 2026-12-31T23:59:59Z */
    for (int i = 0; i < 20; i++) {
        struct admission a = admission(i, (last_second + i % 2) * 1000000 + i);
        struct settlement s = settlement(i, &a);
        s.t_first = 0;
        admit(x, &a);
        settle(x, &a, &s);
    }
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM usage_202612"), 10);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM usage_202701"), 10);
    balances(x, 20);
}

static int run_text(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, u, e);
}

static int run_spoil(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, u, e);
    return st ? db_done(st, e) : -1;
}

/* Each spoils one bucket; made anew, all is well again. */
static void a_rollup_that_differs_is_found_and_made_anew(void **state)
{
    struct led_room *x = *state;
    static const char *const spoils[] = {
        "UPDATE rollup_minute SET output = output + 1 WHERE tenant = ''",
        "UPDATE rollup_hour SET n = n + 1 WHERE tenant = ''",
        "UPDATE rollup_day SET prompt = prompt - 1",
        "UPDATE rollup_day SET key = 'another'",
        "UPDATE rollup_adapter SET cached = cached + 1",
        "UPDATE rollup_adapter SET aborts = aborts + 1",
        "UPDATE rollup_adapter SET ttft_us = ttft_us + 1",
        "UPDATE rollup_adapter SET load_us = load_us + 1",
        "UPDATE rollup_adapter SET last_used = last_used + 1",
        "UPDATE rollup_latency SET n = n + 1 WHERE kind = 1 AND tenant = ''",
        "UPDATE rollup_latency SET n = n + 1 WHERE kind = 2 AND tenant = ''",
        "UPDATE rollup_alias SET cost = cost + 1",
        "UPDATE rollup_alias_latency SET n = n + 1 WHERE kind = 0",
        "DELETE FROM usage_bad",
        "UPDATE usage_bad SET state = 3",
        "DELETE FROM rollup_minute",
        "INSERT INTO rollup_hour SELECT 'nobody', t, state, 1, 0, 0, 0, 0, 0 FROM rollup_hour WHERE tenant = ''",
        "INSERT INTO rollup_by " /* these are of a month that has no rows */ "SELECT tenant, 951782400, dim, name, version, base, price, n, prompt, cached, output, produced, cost, errors, aborts FROM rollup_by",
        "INSERT INTO rollup_day SELECT tenant, 951782400, key, base, adapter, version, model, endpoint, state, n, prompt, cached, output, produced, cost FROM rollup_day",
    };
    struct admission a = admission(1, clock_wall_us());
    struct settlement s = settlement(1, &a);
    struct err e = {0};
    int64_t rows, bad;
    snprintf(a.alias, sizeof a.alias, "talk");
    admit(x, &a);
    settle(x, &a, &s);
    balances(x, 1);
    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        assert_ok(db_write_wait(x->r.db, run_spoil, (void *)spoils[i], &e), e);
        assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
        if (!bad) fail_msg("not found: %s", spoils[i]);
        assert_ok(ledger_rebuild(x->l, &rows, &e), e);
        assert_int_equal(rows, 1);
        balances(x, 1);
    }
    assert_true(room_number(&x->r, "SELECT count(*) FROM verified") > 0);
}

static void a_ledger_of_an_older_version_gets_its_rollups_at_the_start(void **state)
{
    struct led_room *x = *state;
    static const char *const before[] = {"DELETE FROM rollup_minute WHERE tenant = ''", "DELETE FROM rollup_hour WHERE tenant = ''",
                                         "DELETE FROM rollup_latency WHERE tenant = '' OR kind = 2", "DELETE FROM usage_bad",
                                         "UPDATE rollup_adapter SET errors = 0, aborts = 0, ttft_n = 0, ttft_us = 0", "DELETE FROM meta"};
    enum { N = 40 };
    struct err e = {0};
    int64_t now = clock_wall_us();
    for (int i = 0; i < N; i++) {
        struct admission a = admission(i, now - i * 86400ll * 1000000);
        struct settlement s = settlement(i, &a);
        s.load_us = 0;
        settle(x, &a, &s);
    }
    for (size_t i = 0; i < sizeof before / sizeof *before; i++)
        assert_ok(db_write_wait(x->r.db, run_spoil, (void *)before[i], &e), e);
    led_stop(x);
    led_start(x);
    balances(x, N);
    assert_true(room_number(&x->r, "SELECT count(*) FROM rollup_hour WHERE tenant = ''") > 10);
}

static int64_t sum_of(const json_t *data, const char *field, size_t *results)
{
    const json_t *bucket, *result;
    size_t i, j;
    int64_t sum = 0;
    *results = 0;
    json_array_foreach(data, i, bucket) json_array_foreach(json_object_get(bucket, "results"), j, result)
    {
        sum += json_integer_value(json_object_get(result, field));
        ++*results;
    }
    return sum;
}

/* A webhook of that tenant, "" for the operator's, that wants usage or not. */
static void add_webhook(struct led_room *x, const char *tenant, int usage)
{
    static char sql[300];
    struct err e = {0};
    snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO webhook(id, tenant, name, url, secret, usage, usage_seq, event_seq, created)"
             " VALUES('w%s', '%s', 'n', '', x'', %d, 0, 0, 0)", tenant, tenant, usage);
    assert_ok(db_write_wait(x->r.db, run_text, sql, &e), e);
}

static void settled_rows_stand_in_the_outbox_in_order_where_a_webhook_wants_them(void **state)
{
    struct led_room *x = *state;
    enum { N = 30 };
    static const struct {
        const char *tenant;
        int usage, want;
    } rows[] = {{"tenant-9", 1, 0}, {"tenant-1", 0, 0}, {"tenant-1", 1, N / 3}, {"", 1, N}};
    int64_t all = 0;
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        add_webhook(x, rows[k].tenant, rows[k].usage);
        _Atomic int done = 0;
        for (int i = 0; i < N; i++) {
            struct admission a = admission(i, clock_wall_us());
            struct settlement s = settlement(i, &a);
            ledger_settle(x->l, &a, &s, settled, (void *)&done);
            if (i % 7 == 0) ledger_settle(x->l, &a, &s, NULL, NULL); /* a repeat is not told again */
        }
        for (int i = 0; i < 10000 && done < N; i++) usleep(200);
        all += rows[k].want;
        assert_int_equal(room_number(&x->r, "SELECT count(*) FROM outbox"), all);
    }
    assert_int_equal(room_number(&x->r, "SELECT count(DISTINCT id) FROM outbox"), all);
    assert_int_equal(room_number(&x->r, in_month("SELECT count(*) FROM outbox o JOIN usage_%1$06d u USING(id) WHERE o.month = %1$d"
                                                 " AND o.tenant = u.tenant", clock_wall_us())), all);
}

struct summed {
    int64_t output, next;
    size_t buckets, results;
};

static struct summed summed(struct led_room *x, const struct usage_query *q)
{
    struct summed out = {0};
    struct err e = {0};
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_ok(ledger_usage(x->l, q, &b, &out.next, &e), e);
    json_t *data = led_list(&b);
    out.buckets = json_array_size(data);
    out.output = sum_of(data, "output_tokens", &out.results);
    json_decref(data);
    return out;
}

static void usage_is_summed_by_bucket_and_group(void **state)
{
    struct led_room *x = *state;
    enum { N = 60 };
    static const int64_t day = 1798675200; /* 2026-12-31T00:00:00Z */
    int64_t own = 0, all = 0, sum = 0;
    for (int i = 0; i < N; i++) {
        struct admission a = admission(i, (day + i * 3600) * 1000000); /* two and a half days, over a month's turn */
        struct settlement s = settlement(i, &a);
        all += s.delivered;
        if (i % 3 == 1) own += s.delivered;
        admit(x, &a);
        settle(x, &a, &s);
    }
    static const struct {
        int64_t width;
        unsigned group;
        int limit;
        size_t buckets;
        bool more;
    } rows[] = {
        {86400, 0, 31, 3, false},
        {86400, GROUP_KEY | GROUP_STATE | GROUP_MODEL | GROUP_ADAPTER | GROUP_VERSION, 31, 3, false},
        {3600, GROUP_STATE, 168, 72, false},
        {60, 0, 60, 60, true},
        {86400, 0, 2, 2, true},
    };
    struct usage_query q = {.tenant = "tenant-1", .start = day, .end = day + 3 * 86400};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        q.width_s = rows[i].width, q.group = rows[i].group, q.limit = rows[i].limit;
        struct summed got = summed(x, &q);
        assert_int_equal(got.buckets, rows[i].buckets);
        assert_int_equal(got.next != 0, rows[i].more);
        if (!rows[i].more) assert_int_equal(got.output, own);
        if (rows[i].group & GROUP_KEY) assert_true(got.results > 6);
    }
    /* Nobody is in the tenant table here, so everybody's usage is asked for tenant by tenant. */
    static const char *const tenants[] = {"tenant-0", "tenant-1", "tenant-2"};
    q = (struct usage_query){.start = day, .end = day + 3 * 86400, .width_s = 86400, .limit = 31};
    for (size_t t = 0; t < sizeof tenants / sizeof *tenants; t++) {
        q.tenant = tenants[t];
        sum += summed(x, &q).output;
    }
    assert_int_equal(sum, all);
}

static int list_page(struct led_room *x, const char *tenant, const struct page *p, json_t *list, bool *more, struct err *e)
{
    char place[UUID_LEN];
    int rc = ledger_requests(x->l, tenant, &(struct request_filter){.state = -1}, p, list, more, place, e);
    assert_string_equal(place, "");
    return rc;
}

/* From the oldest of n ids back to the newest: every page newest first, and those nearest to the cursor. */
static void go_back(struct led_room *x, char id[][UUID_LEN], int n)
{
    int at = 0;
    bool more = true;
    while (more) {
        struct err e = {0};
        json_t *list = json_array();
        assert_ok(list_page(x, "tenant-0", &(struct page){"", id[at], 5}, list, &more, &e), e);
        int got = (int)json_array_size(list);
        assert_int_equal(got, n - 1 - at < 5 ? n - 1 - at : 5);
        assert_int_equal(more, n - 1 - at > 5);
        for (int i = 0; i < got; i++)
            assert_string_equal(json_string_value(json_object_get(json_array_get(list, (size_t)i), "id")), id[at + got - i]);
        at += got;
        json_decref(list);
    }
    assert_int_equal(at, n - 1);
}

static void requests_are_listed_newest_first_over_a_months_turn(void **state)
{
    struct led_room *x = *state;
    enum { N = 24 };
    static const int64_t TURN = 1798761600000000; /* 2027-01-01 */
    char id[N][UUID_LEN], after[UUID_LEN] = "";
    int n = N, rounds = 0;
    bool more = true;
    for (int i = 0; i < N; i++) { /* ids grow, but the rows of the turn lie in the tables the other way round */
        struct admission a = admission(0, i % 2 ? TURN + 1000000 : TURN - 1000);
        struct settlement s = settlement(0, &a);
        usage_id_at(TURN - 500000 + i * 1000, a.id);
        admit(x, &a);
        settle(x, &a, &s);
        memcpy(id[i], a.id, UUID_LEN);
    }
    while (more) {
        struct err e = {0};
        json_t *list = json_array(), *row;
        size_t i;
        assert_ok(list_page(x, "tenant-0", &(struct page){after, "", 5}, list, &more, &e), e);
        json_array_foreach(list, i, row)
        {
            assert_string_equal(json_string_value(json_object_get(row, "id")), id[--n]);
            memcpy(after, id[n], UUID_LEN);
        }
        json_decref(list);
        assert_true(++rounds <= 5);
    }
    assert_int_equal(n, 0);
    go_back(x, id, N);
    struct err e = {0};
    json_t *list = json_array();
    assert_ok(list_page(x, "tenant-1", &(struct page){"", "", 5}, list, &more, &e), e);
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
}

struct knows {
    char id[UUID_LEN];
    int asked;
};

static int receipt(void *u, const char *id, int64_t *prompt, int64_t *cached, int64_t *output, char finish[16])
{
    struct knows *k = u;
    k->asked++;
    if (strcmp(id, k->id) != 0) return -1;
    *prompt = 77;
    *cached = 7;
    *output = 99;
    snprintf(finish, 16, "length");
    return 0;
}

static void recovery_closes_what_is_open_with_what_was_noted(void **state)
{
    struct led_room *x = *state;
    int64_t now = clock_wall_us();
    struct admission silent = admission(1, now), noted = admission(2, now + 1), known = admission(3, now + 2);
    struct knows k = {0};
    struct err e = {0};
    int closed;
    snprintf(known.alias, sizeof known.alias, "talk");
    admit(x, &silent);
    admit(x, &noted);
    admit(x, &known);
    ledger_progress(x->l, noted.id, 30, 3, 12);
    ledger_progress(x->l, noted.id, 30, 3, 5); /* an older note that came late */
    ledger_progress(x->l, known.id, 40, 4, 20);
    led_stop(x);
    led_start(x);
    assert_int_equal(ledger_open_admissions(x->l), 3);
    memcpy(k.id, known.id, sizeof k.id);
    assert_ok(ledger_recover(x->l, receipt, &k, &closed, &e), e);
    assert_int_equal(closed, 3);
    assert_int_equal(k.asked, 3);
    assert_int_equal(ledger_open_admissions(x->l), 0);
    static const struct {
        const char *what;
        int64_t want;
    } rows[] = {
        {"SELECT count(*) FROM usage_%06d WHERE state = 5", 3},
        {"SELECT count(*) FROM usage_%06d WHERE alias = 'talk' AND source = 3", 1},
        {"SELECT prompt * 10000 + output * 100 + produced FROM usage_%06d WHERE source = 0", 0},
        {"SELECT prompt * 10000 + output * 100 + produced FROM usage_%06d WHERE source = 4", 301212},
        {"SELECT prompt * 10000 + output * 100 + produced FROM usage_%06d WHERE source = 3 AND finish = 'length'",
         772099},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(room_number(&x->r, in_month(rows[i].what, now)), rows[i].want);
    balances(x, 3);
    assert_ok(ledger_recover(x->l, receipt, &k, &closed, &e), e);
    assert_int_equal(closed, 0);
}

static int own_receipt(void *u, const char *id, int64_t *prompt, int64_t *cached, int64_t *output, char finish[16])
{
    struct knows *k = u;
    (void)cached, (void)finish;
    if (k->asked++ == 0) return -1; /* forgotten */
    *prompt = 10;
    *output = strcmp(id, k->id) == 0 ? 22 : 21;
    return 0;
}

static void what_was_billed_is_held_against_the_engines_receipts(void **state)
{
    struct led_room *x = *state;
    struct receipt_check c;
    struct knows k = {0};
    struct err e = {0};
    for (int i = 0; i < 300; i++) {
        struct admission a = admission(0, clock_wall_us());
        struct settlement s = settlement(0, &a); /* 10 tokens in, 21 produced */
        if (i % 100 == 50) s.state = USAGE_CLIENT_ABORT;
        if (i == 200) memcpy(k.id, a.id, sizeof k.id);
        settle(x, &a, &s);
    }
    assert_ok(ledger_check_receipts(x->l, own_receipt, &k, &c, &e), e);
    assert_int_equal(c.asked, 256);
    assert_int_equal(c.known, 255);
    assert_int_equal(c.differ, 1);
}

static void a_settlement_handed_in_before_the_stop_is_kept(void **state)
{
    struct led_room *x = *state;
    enum { N = 300 };
    int64_t now = clock_wall_us();
    struct admission a[N];
    for (int i = 0; i < N; i++) {
        a[i] = admission(i, now);
        admit(x, &a[i]);
    }
    for (int i = 0; i < N; i++) {
        struct settlement s = settlement(i, &a[i]);
        ledger_settle(x->l, &a[i], &s, NULL, NULL);
    }
    led_stop(x);
    led_start(x);
    assert_int_equal(ledger_open_admissions(x->l), 0);
    balances(x, N);
}

static void settlements_are_counted_in_the_metrics(void **state)
{
    struct led_room *x = *state;
    struct metrics *m = metrics_new(gateway_meter_rows, GATEWAY_METERS);
    struct admission a = admission(1, clock_wall_us());
    struct settlement s = settlement(0, &a);
    ledger_set_metrics(x->l, m);
    admit(x, &a);
    settle(x, &a, &s);
    settle(x, &a, &s);
    assert_true(metric_get(m, GM_REQUESTS, (const char *[]){"t1", "/v1/chat/completions", "completed"}) == 1);
    assert_true(metric_get(m, GM_TOKENS, (const char *[]){"t1", "output"}) == 20);
    ledger_set_metrics(x->l, NULL);
    metrics_free(m);
}

/* --- a disk that is full while requests run --- */

static _Atomic int disk_errno;
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);

static ssize_t bad_pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (!disk_errno) return real_pwrite(fd, p, n, at);
    errno = disk_errno;
    return -1;
}

static void requests_that_end_while_the_disk_is_full_are_settled_afterwards(void **state)
{
    struct led_room *x = *state;
    enum { N = 50 };
    struct admission a[N], late = admission(99, clock_wall_us());
    _Atomic int done = 0, refused = 0;
    struct err e = {0};
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    const char *name = vfs->xGetSystemCall(vfs, "pwrite64") ? "pwrite64" : "pwrite";
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))vfs->xGetSystemCall(vfs, name);
    vfs->xSetSystemCall(vfs, name, (sqlite3_syscall_ptr)bad_pwrite);
    for (int i = 0; i < N; i++) {
        a[i] = admission(i, clock_wall_us());
        admit(x, &a[i]);
    }
    disk_errno = ENOSPC;
    for (int i = 0; i < N; i++) {
        struct settlement s = settlement(i, &a[i]);
        ledger_settle(x->l, &a[i], &s, settled, (void *)&done);
    }
    for (int i = 0; i < 5000 && db_writable(x->r.db); i++) usleep(200);
    assert_int_equal(ledger_admit(x->l, &late, admitted, (void *)&refused, &e), -1);
    assert_int_equal(e.code, ERR_LEDGER);
    usleep(300000);
    assert_int_equal(done, 0);
    disk_errno = 0;
    for (int i = 0; i < 10000 && done < N; i++) usleep(200);
    assert_int_equal(done, N);
    assert_true(ledger_retried(x->l) > 0);
    vfs->xSetSystemCall(vfs, name, NULL);
    assert_int_equal(ledger_open_admissions(x->l), 0);
    balances(x, N);
}

/* Answers go out while the disk is full, each once, and their rows come afterwards. */
static void who_is_impatient_is_told_while_the_disk_is_full_and_settled_afterwards(void **state)
{
    struct led_room *x = *state;
    enum { N = 20 };
    struct admission a[N];
    _Atomic int done = 0;
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    const char *name = vfs->xGetSystemCall(vfs, "pwrite64") ? "pwrite64" : "pwrite";
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))vfs->xGetSystemCall(vfs, name);
    vfs->xSetSystemCall(vfs, name, (sqlite3_syscall_ptr)bad_pwrite);
    for (int i = 0; i < N; i++) {
        a[i] = admission(i, clock_wall_us());
        admit(x, &a[i]);
    }
    disk_errno = ENOSPC;
    for (int i = 0; i < N; i++) {
        struct settlement s = settlement(i, &a[i]);
        s.impatient = true;
        ledger_settle(x->l, &a[i], &s, settled, (void *)&done);
    }
    for (int i = 0; i < 10000 && done < N; i++) usleep(200);
    assert_int_equal(done, N);
    assert_int_equal(ledger_settled(x->l), 0);
    disk_errno = 0;
    for (int i = 0; i < 10000 && ledger_settled(x->l) < N; i++) usleep(200);
    vfs->xSetSystemCall(vfs, name, NULL);
    assert_int_equal(done, N);
    assert_int_equal(ledger_open_admissions(x->l), 0);
    balances(x, N);
}

static _Atomic int writes_left; /* of those that go well, then one fails */

static ssize_t nth_pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (writes_left-- != 0) return real_pwrite(fd, p, n, at);
    errno = EIO;
    return -1;
}

/* Whichever write of a group fails, its rows and their sums are there together or not at all, and are made up for. */
static void a_write_that_fails_anywhere_in_a_group_leaves_rows_and_sums_alike(void **state)
{
    struct led_room *x = *state;
    enum { N = 20, ROUNDS = 40 };
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    const char *name = vfs->xGetSystemCall(vfs, "pwrite64") ? "pwrite64" : "pwrite";
    int failed = 0;
    real_pwrite = (ssize_t(*)(int, const void *, size_t, off_t))vfs->xGetSystemCall(vfs, name);
    for (int round = 0; round < ROUNDS; round++) {
        struct admission a[N];
        _Atomic int done = 0;
        for (int i = 0; i < N; i++) {
            a[i] = admission(i, clock_wall_us());
            admit(x, &a[i]);
        }
        writes_left = round;
        vfs->xSetSystemCall(vfs, name, (sqlite3_syscall_ptr)nth_pwrite);
        for (int i = 0; i < N; i++) {
            struct settlement s = settlement(i, &a[i]);
            ledger_settle(x->l, &a[i], &s, settled, (void *)&done);
        }
        for (int i = 0; i < 20000 && done < N; i++) usleep(200);
        assert_int_equal(done, N);
        failed += writes_left < 0;
        vfs->xSetSystemCall(vfs, name, NULL);
        for (int i = 0; i < 5000 && !db_writable(x->r.db); i++) usleep(1000);
        balances(x, N * (round + 1));
    }
    assert_in_range(failed, 5, ROUNDS);
}

static void exec_beside(struct led_room *x, const char *sql)
{
    char path[128];
    sqlite3 *c;
    snprintf(path, sizeof path, "%s/weft.db", x->r.dir);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    sqlite3_busy_timeout(c, 5000);
    if (sqlite3_exec(c, sql, NULL, NULL, NULL) != SQLITE_OK) fail_msg("%s: %s", sql, sqlite3_errmsg(c));
    sqlite3_close(c);
}

/* Not the disk's fault but something nobody thought of: nothing is counted by half, nothing is let in, and all is made up for. */
static void sums_that_the_database_refuses_stop_everything_and_are_made_up_for(void **state)
{
    struct led_room *x = *state;
    enum { N = 10 };
    struct admission a[N], late = admission(1, clock_wall_us());
    struct err e = {0};
    _Atomic int done = 0, refused = 0;
    for (int i = 0; i < N; i++) {
        a[i] = admission(i, clock_wall_us());
        admit(x, &a[i]);
    }
    exec_beside(x, "CREATE TRIGGER no BEFORE INSERT ON rollup_hour BEGIN SELECT raise(FAIL, 'no'); END");
    for (int i = 0; i < N; i++) {
        struct settlement s = settlement(i, &a[i]);
        ledger_settle(x->l, &a[i], &s, settled, (void *)&done);
    }
    for (int i = 0; i < 5000 && db_writable(x->r.db); i++) usleep(200);
    usleep(300000);
    assert_int_equal(done, 0);
    assert_int_equal(ledger_admit(x->l, &late, admitted, (void *)&refused, &e), -1);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM rollup_day"), 0);
    exec_beside(x, "DROP TRIGGER no");
    for (int i = 0; i < 20000 && done < N; i++) usleep(200);
    assert_int_equal(done, N);
    balances(x, N);
}

static _Atomic int sync_errno;

int fdatasync(int fd)
{
    errno = sync_errno;
    return sync_errno ? -1 : (int)syscall(SYS_fdatasync, fd);
}

static void a_settlement_whose_first_sync_fails_is_used_in_memory_as_in_the_file(void **state)
{
    static const struct actor by = {.key = "tester", .ip = "", .request = ""};
    struct led_room *x = *state;
    struct err e = {0};
    struct limits *limits;
    struct limit_view v;
    struct admission a = admission(1, clock_wall_us());
    struct settlement s = settlement(0, &a);
    json_t *o = json_pack("{si}", "tokens_per_day", 1000), *out = NULL;
    _Atomic int done = 0;
    led_stop(x);
    assert_ok(db_open(&x->r.db, &(struct db_options){.dir = x->r.dir, .sync_ms = 5, .ack_durable = true}, &e), e);
    assert_ok(ledger_open(&x->l, x->r.db, &e), e);
    assert_ok(limits_open(&limits, x->r.db, &e), e);
    assert_ok(limits_put(limits, &by, "tenant:tenant-1", o, 0, &out, &e), e);
    ledger_set_limits(x->l, limits, NULL);
    assert_ok(limit_admit(limits, &(struct limit_ask){&a.who, "", 100, 0, 0}, &a.held, &v, &e), e);
    admit(x, &a);
    sync_errno = EIO;
    ledger_settle(x->l, &a, &s, settled, (void *)&done);
    for (int i = 0; i < 5000 && db_writable(x->r.db); i++) usleep(200);
    assert_int_equal(done, 0);
    sync_errno = 0;
    wait_not(&done, 0);
    assert_int_equal(room_number(&x->r, "SELECT tokens FROM budget_use WHERE period = 0"), settled_tokens(&s));
    json_decref(out);
    assert_ok(limits_get(limits, "tenant:tenant-1", &out, &e), e);
    const json_t *used = json_object_get(out, "used");
    assert_int_equal(json_integer_value(json_object_get(used, "tokens_per_day")), settled_tokens(&s));
    led_stop(x);
    limits_close(limits);
    json_decref(o);
    json_decref(out);
}

static void one_more_admitted(void *u, const struct err *e)
{
    *(_Atomic int *)u += e ? -N_NEVER : 1;
}

/* The callbacks of admission and settlement have a memory each: the first may still be on its way when the second is
 * named. */
static void a_request_may_end_before_its_admission_was_told(void **state)
{
    struct led_room *x = *state;
    _Atomic int told = 0, done = 0;
    enum { N = 500 };
    for (int i = 0; i < N; i++) {
        struct admission a = admission(i, clock_wall_us());
        struct settlement s = settlement(i, &a);
        struct err e = {0};
        assert_ok(ledger_admit(x->l, &a, one_more_admitted, (void *)&told, &e), e);
        ledger_settle(x->l, &a, &s, settled, (void *)&done);
    }
    for (int i = 0; i < 50000 && (done < N || told < N); i++) usleep(200);
    assert_int_equal(told, N);
    assert_int_equal(done, N);
    balances(x, N);
}

static void a_burst_settles_in_groups(void **state)
{
    struct led_room *x = *state;
    enum { N = 20000 };
    struct admission *a = calloc(N, sizeof *a);
    _Atomic int done = 0, ok = 0;
    struct err e = {0};
    int64_t now = clock_wall_us(), t = clock_mono_us();
    for (int i = 0; i < N; i++) {
        a[i] = admission(i, now + i);
        while (ledger_admit(x->l, &a[i], one_more_admitted, (void *)&ok, &e)) {
            assert_int_equal(e.code, ERR_LEDGER); /* the queue is full: wait as a client told 503 would */
            err_clear(&e);
            usleep(1000);
        }
    }
    for (int i = 0; i < 50000 && ok < N; i++) usleep(200);
    assert_int_equal(ok, N);
    int64_t admitted_us = clock_mono_us() - t;
    t = clock_mono_us();
    for (int i = 0; i < N; i++) {
        struct settlement s = settlement(i, &a[i]);
        ledger_settle(x->l, &a[i], &s, settled, (void *)&done);
    }
    for (int i = 0; i < 50000 && done < N; i++) usleep(200);
    t = clock_mono_us() - t;
    assert_int_equal(done, N);
    print_message("%d admitted in %lld ms (%.0f/s), settled with all rollups in %lld ms (%.0f/s)\n", N,
                  (long long)admitted_us / 1000, N * 1e6 / (double)admitted_us, (long long)t / 1000,
                  N * 1e6 / (double)t);
    balances(x, N);
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(a_request_becomes_one_row_and_its_rollups),
        T(the_same_id_settled_twice_counts_once),
        T(an_id_is_open_once),
        T(a_request_that_began_a_minute_ago_is_not_admitted),
        T(an_explicit_zero_stays_zero_and_nonsense_is_tamed),
        T(no_more_is_cached_than_was_sent_whatever_an_upstream_says),
        T(each_month_has_its_table),
        T(a_rollup_that_differs_is_found_and_made_anew),
        T(a_ledger_of_an_older_version_gets_its_rollups_at_the_start),
        T(settled_rows_stand_in_the_outbox_in_order_where_a_webhook_wants_them),
        T(usage_is_summed_by_bucket_and_group),
        T(requests_are_listed_newest_first_over_a_months_turn),
        T(recovery_closes_what_is_open_with_what_was_noted),
        T(what_was_billed_is_held_against_the_engines_receipts),
        T(a_settlement_handed_in_before_the_stop_is_kept),
        T(settlements_are_counted_in_the_metrics),
        T(requests_that_end_while_the_disk_is_full_are_settled_afterwards),
        T(who_is_impatient_is_told_while_the_disk_is_full_and_settled_afterwards),
        T(a_write_that_fails_anywhere_in_a_group_leaves_rows_and_sums_alike),
        T(sums_that_the_database_refuses_stop_everything_and_are_made_up_for),
        T(a_settlement_whose_first_sync_fails_is_used_in_memory_as_in_the_file),
        T(a_request_may_end_before_its_admission_was_told),
        T(a_burst_settles_in_groups),
#undef T
    };
    return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
