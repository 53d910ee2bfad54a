/* Tests of gateway/stats and gateway/costs: what rollups answer is what the rows say, added up here one by one. */
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/ledger/ledger_adjust.h"
#include "gateway/ledger/ledger_find.h"
#include "gateway/ledger/ledger_query.h"
#include "gateway/ledger/ledger_sums.h"
#include "gateway/stats/costs.h"
#include "gateway/stats/stats_kept.h"
#include "tests/unit/led_room.h"
#include <math.h>

enum { ROWS = 3000, TENANTS = 7, DAYS = 75, NAME = 400 };

struct told {
    struct admission a;
    struct settlement s;
};

struct stats_room {
    struct led_room led;
    struct told *row; /* [ROWS] */
    struct stats_kept *kept;
    int64_t start, end; /* Unix seconds, whole days; end: the day after the last */
};

static uint64_t seed = 7;

static int pick(int n)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (int)((seed >> 33) % (uint64_t)n);
}

/* Small numbers are far more often picked. */
static int skewed(int n)
{
    int a = pick(n), b = pick(n), c = pick(n);
    int least = a < b ? a : b;
    return least < c ? least : c;
}

static void make_row(struct stats_room *x, struct told *r)
{
    int tenant = skewed(TENANTS), adapter = skewed(6), n = pick(100000);
    int64_t t = x->start * 1000000 + (int64_t)((double)n / 100000 * (double)(x->end - x->start) * 1e6);
    r->a = admission(n, t);
    usage_id_at(t, r->a.id); /* ids and months in one order, as those of real requests are */
    snprintf(r->a.id + 24, sizeof r->a.id - 24, "%012d", (int)(r - x->row));
    snprintf(r->a.who.tenant, sizeof r->a.who.tenant, "id-%d", tenant);
    snprintf(r->a.who.key, sizeof r->a.who.key, "key%d-%d", tenant, pick(3));
    snprintf(r->a.what.adapter, sizeof r->a.what.adapter, adapter ? "adapter%d" : "", adapter);
    r->a.what.version = adapter ? 1 + pick(2) : 0;
    snprintf(r->a.model, sizeof r->a.model, adapter ? "adapter%d" : "smol", adapter);
    r->a.endpoint = pick(4) ? "/v1/chat/completions" : "/v1/completions";
    r->a.price = n % 2 ? (struct price){1, 100, 10, 400} : (struct price){2, 150, 20, 500};
    r->s = settlement(n, &r->a);
    r->s.state = pick(3) ? USAGE_COMPLETED : (enum usage_state)pick(USAGE_STATES);
    r->s.t_first = pick(5) ? t + 1000 * (1 + pick(300)) : 0;
    r->s.t_end = t + 400000 + pick(1000000);
}

static int fill_names(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)u;
    static const char sql[] = "INSERT INTO price VALUES(1, 'smol', '', '', 0, 100, 10, 400, 0); INSERT INTO price_removed VALUES(2, 150, 20, 500);"
                              "INSERT INTO tenant(id, name, weight, created) VALUES('id-0', 'zero', 1, 0), ('id-1', 'one', 1, 0), ('id-2', 'two', 1, 0),"
                              " ('id-3', 'three', 1, 0), ('id-4', 'four', 1, 0), ('id-5', 'five', 1, 0), ('id-6', 'six', 1, 0);"
                              "INSERT INTO api_key(id, tenant, name, roles, hash, created, created_by)"
                              " VALUES('key0-0', 'id-0', 'the first', '', randomblob(32), 0, '')";
    return sqlite3_exec(c, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, "names", e);
}

static int start(void **state)
{
    struct stats_room *x = calloc(1, sizeof *x);
    struct err e = {0};
    _Atomic int done = 0;
    room_new(&x->led.r);
    led_start(&x->led);
    x->row = calloc(ROWS, sizeof *x->row);
    x->kept = stats_kept_new(x->led.r.db, KEPT_BYTES_MAX);
    x->end = clock_wall_us() / 1000000 / 86400 * 86400 + 86400;
    x->start = x->end - DAYS * 86400;
    assert_ok(db_write_wait(x->led.r.db, fill_names, NULL, &e), e);
    for (int i = 0; i < ROWS; i++) {
        make_row(x, &x->row[i]);
        ledger_settle(x->led.l, &x->row[i].a, &x->row[i].s, settled, (void *)&done);
    }
    for (int i = 0; done < ROWS && i < 30000; i++) usleep(1000);
    assert_int_equal(done, ROWS);
    *state = x;
    return 0;
}

static int stop(void **state)
{
    struct stats_room *x = *state;
    free(x->row);
    ledger_close(x->led.l);
    room_end(&x->led.r);
    stats_kept_free(x->kept);
    free(x);
    return 0;
}

/* --- the oracle: row by row --- */

static int64_t measured(const struct told *r, enum stats_measure m)
{
    bool bad = r->s.state == USAGE_UPSTREAM_ERROR || r->s.state == USAGE_TIMEOUT || r->s.state == USAGE_GATEWAY_CRASH;
    switch (m) {
    case MEASURE_REQUESTS: return 1;
    case MEASURE_INPUT: return r->s.prompt;
    case MEASURE_OUTPUT: return r->s.delivered;
    case MEASURE_TOKENS: return r->s.prompt + r->s.delivered;
    case MEASURE_COST: return settled_cost(&r->a, &r->s);
    default: return bad;
    }
}

/* What stats_item_json() calls it, with its tenant before where it has one. */
static void name_of(const struct told *r, enum stats_by by, bool all, char out[NAME])
{
    static const char *const tenants[TENANTS] = {"zero", "one", "two", "three", "four", "five", "six"};
    const char *tenant = tenants[r->a.who.tenant[3] - '0'], *adapter = *r->a.what.adapter ? r->a.what.adapter : "(base)", *name = "";
    char version[96];
    snprintf(version, sizeof version, *r->a.what.adapter ? "%s@%d" : "%s", adapter, r->a.what.version);
    switch (by) {
    case BY_TENANT: name = tenant; break;
    case BY_KEY: name = strcmp(r->a.who.key, "key0-0") == 0 ? "the first" : r->a.who.key; break;
    case BY_ADAPTER: name = adapter; break;
    case BY_VERSION: name = version; break;
    case BY_MODEL: name = r->a.model; break;
    case BY_BASE: name = r->a.what.base; break;
    case BY_ENDPOINT: name = r->a.endpoint; break;
    case BY_STATE: name = usage_state_name[r->s.state]; break;
    default: name = "all";
    }
    bool owned = by == BY_KEY || by == BY_ADAPTER || by == BY_VERSION || (by == BY_MODEL && (!all || *r->a.what.adapter));
    snprintf(out, NAME, "%s/%s", owned ? tenant : "", name);
}

static bool within(const struct told *r, const char *tenant, int64_t from, int64_t to)
{
    int64_t t = r->a.t_start / 1000000;
    return t >= from && t < to && (!tenant || strcmp(r->a.who.tenant, tenant) == 0);
}

/* The rows of one adapter and of no other, where stats are asked about one; NULL: all. */
static const char *of_adapter;

static int64_t sum_of_name(const struct stats_room *x, const char *tenant, enum stats_by by, const char *name, enum stats_measure m, int64_t from, int64_t to)
{
    int64_t sum = 0;
    char has[NAME];
    for (int i = 0; i < ROWS; i++) {
        if (!within(&x->row[i], tenant, from, to)) continue;
        if (of_adapter && strcmp(x->row[i].a.what.adapter, of_adapter) != 0) continue;
        name_of(&x->row[i], by, !tenant, has);
        if (!name || strcmp(has, name) == 0) sum += measured(&x->row[i], m);
    }
    return sum;
}

static void item_name(const json_t *o, char out[NAME])
{
    const char *tenant = json_string_value(json_object_get(o, "tenant"));
    snprintf(out, NAME, "%s/%s", tenant ? tenant : "", json_string_value(json_object_get(o, "name")));
}

static int64_t integer(const json_t *o, const char *name) { return json_integer_value(json_object_get(o, name)); }

/* No name that was left out is larger than this. */
static int larger(const struct stats_room *x, const char *tenant, enum stats_by by, enum stats_measure m, const struct stats_range *r, int64_t than)
{
    char seen[ROWS][64];
    int nseen = 0, n = 0;
    for (int i = 0; i < ROWS; i++) {
        char name[NAME];
        if (!within(&x->row[i], tenant, r->start, r->end)) continue;
        name_of(&x->row[i], by, !tenant, name);
        int k = 0;
        while (k < nseen && strcmp(seen[k], name) != 0) k++;
        if (k < nseen) continue;
        snprintf(seen[nseen++], sizeof *seen, "%.63s", name);
        n += sum_of_name(x, tenant, by, name, m, r->start, r->end) > than;
    }
    return n;
}

/* --- the tests --- */

static const char *const whose[] = {NULL, "id-0", "id-5"};

static void series_add_up_to_the_rows(void **state)
{
    struct stats_room *x = *state;
    for (int i = 0; i < 3 * STATS_BYS * STATS_MEASURES; i++) {
        const char *tenant = whose[i % 3];
        struct err e = {0};
        json_t *o, *line;
        size_t k;
        struct stats_series_query q = {.by = (enum stats_by)(i / 3 % STATS_BYS), .measure = (enum stats_measure)(i / 3 / STATS_BYS), .top = 3, .compare = true,
                                       .range = {x->end - 30 * 86400, x->end, 86400}};
        if (tenant && q.by == BY_TENANT) continue;
        assert_ok(stats_series(x->kept, tenant, &q, &o, &e), e);
        int64_t shown = 0, whole = sum_of_name(x, tenant, q.by, NULL, q.measure, q.range.start, q.range.end);
        assert_int_equal(integer(o, "total"), whole);
        assert_int_equal(integer(o, "compared_total"), sum_of_name(x, tenant, q.by, NULL, q.measure, q.range.start, x->end - 86400));
        assert_int_equal(integer(o, "previous_total"), sum_of_name(x, tenant, q.by, NULL, q.measure, q.range.start - 29 * 86400, q.range.start));
        json_array_foreach(json_object_get(o, "series"), k, line)
        {
            char name[NAME];
            item_name(line, name);
            assert_int_equal(integer(line, "total"), sum_of_name(x, tenant, q.by, q.by ? name : NULL, q.measure, q.range.start, q.range.end));
            assert_int_equal(integer(line, "compared_total"), sum_of_name(x, tenant, q.by, q.by ? name : NULL, q.measure, q.range.start, x->end - 86400));
            assert_int_equal(integer(line, "previous_total"),
                             sum_of_name(x, tenant, q.by, q.by ? name : NULL, q.measure, q.range.start - 29 * 86400, q.range.start));
            shown += integer(line, "total");
        }
        assert_int_equal(shown + integer(json_object_get(o, "other"), "total"), whole);
        json_decref(o);
    }
}

/* Series and top of one adapter against the rows that it answered: sums, the time before, and nothing of another's. */
static void an_adapters_own_add_up_to_its_rows(void **state)
{
    struct stats_room *x = *state;
    static const enum stats_by kept[] = {BY_NONE, BY_ADAPTER, BY_VERSION, BY_BASE};
    static const char *const adapters[] = {"", "adapter1", "adapter4", "nobody"};
    for (int i = 0; i < 4 * 4 * STATS_MEASURES; i++) {
        struct err e = {0};
        json_t *o, *top, *line;
        size_t k;
        int64_t shown = 0;
        struct stats_series_query q = {.by = kept[i % 4], .measure = (enum stats_measure)(i / 16), .top = 3, .compare = true, .adapter = adapters[i / 4 % 4],
                                       .range = {x->end - 30 * 86400, x->end, 86400}};
        of_adapter = q.adapter;
        int64_t whole = sum_of_name(x, "id-0", q.by, NULL, q.measure, q.range.start, q.range.end);
        assert_ok(stats_series(x->kept, "id-0", &q, &o, &e), e);
        assert_int_equal(integer(o, "total"), whole);
        assert_int_equal(integer(o, "previous_total"), sum_of_name(x, "id-0", q.by, NULL, q.measure, q.range.start - 29 * 86400, q.range.start));
        json_array_foreach(json_object_get(o, "series"), k, line)
        {
            char name[NAME];
            item_name(line, name);
            assert_int_equal(integer(line, "total"), sum_of_name(x, "id-0", q.by, q.by ? name : NULL, q.measure, q.range.start, q.range.end));
            assert_int_equal(integer(line, "previous_total"),
                             sum_of_name(x, "id-0", q.by, q.by ? name : NULL, q.measure, q.range.start - 29 * 86400, q.range.start));
            shown += integer(line, "total");
        }
        assert_int_equal(shown, whole);
        assert_true(json_is_null(json_object_get(o, "other")));
        struct stats_top_query t = {.by = q.by, .sort = q.measure, .limit = 10, .compare = true, .adapter = q.adapter, .range = q.range};
        assert_ok(stats_top(x->kept, "id-0", &t, &top, &e), e);
        assert_int_equal(integer(top, "total"), whole);
        json_decref(top);
        json_decref(o);
    }
    of_adapter = NULL;
}

static void each_point_of_hours_and_minutes_is_the_rows_of_that_time(void **state)
{
    struct stats_room *x = *state;
    static const struct {
        int64_t width_s, length_s;
        enum stats_by by;
        const char *tenant;
    } rows[] = {{3600, 10 * 86400, BY_TENANT, NULL}, {3600, 40 * 86400, BY_STATE, NULL}, {3600, 5 * 86400, BY_NONE, "id-0"},
                {60, 86400, BY_TENANT, NULL},        {60, 86400, BY_STATE, "id-1"},      {86400, 60 * 86400, BY_NONE, NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        json_t *o, *line;
        size_t k, p;
        struct stats_series_query q = {.by = rows[i].by, .measure = MEASURE_TOKENS, .top = 3,
                                       .range = {x->end - rows[i].length_s, x->end, rows[i].width_s}};
        assert_ok(stats_series(x->kept, rows[i].tenant, &q, &o, &e), e);
        json_array_foreach(json_object_get(o, "series"), k, line)
        {
            char name[NAME];
            json_t *v;
            item_name(line, name);
            json_array_foreach(json_object_get(line, "values"), p, v)
            {
                int64_t t = q.range.start + (int64_t)p * q.range.width_s;
                if (json_integer_value(v) || p % 97 == 0)
                    assert_int_equal(json_integer_value(v), sum_of_name(x, rows[i].tenant, q.by, q.by ? name : NULL, q.measure, t, t + q.range.width_s));
            }
            assert_int_equal(p, stats_points(&q.range));
        }
        json_decref(o);
    }
}

static void the_top_is_exact_although_not_all_names_are_read(void **state)
{
    struct stats_room *x = *state;
    static const int days[] = {1, 9, 40, 75};
    for (int i = 0; i < 3 * STATS_BYS * 4; i++) {
        const char *tenant = whose[i % 3];
        struct err e = {0};
        json_t *o, *item;
        size_t k;
        struct stats_top_query q = {.by = (enum stats_by)(i / 3 % STATS_BYS), .sort = (enum stats_measure)(i % STATS_MEASURES), .limit = 4, .compare = true,
                                    .range = {x->end - days[i / 3 / STATS_BYS] * 86400, x->end, 86400}};
        if (tenant && q.by == BY_TENANT) continue;
        assert_ok(stats_top(x->kept, tenant, &q, &o, &e), e);
        int64_t last = INT64_MAX;
        int64_t over = x->end - 86400; /* today is not, and is compared with nothing */
        assert_true(json_is_null(json_object_get(o, "compared")) == (q.range.start == over));
        json_array_foreach(json_object_get(o, "data"), k, item)
        {
            char name[NAME];
            item_name(item, name);
            const char *asked = q.by ? name : NULL;
            assert_int_equal(integer(item, "requests"), sum_of_name(x, tenant, q.by, asked, MEASURE_REQUESTS, q.range.start, q.range.end));
            assert_int_equal(integer(item, "cost_nano"), sum_of_name(x, tenant, q.by, asked, MEASURE_COST, q.range.start, q.range.end));
            assert_int_equal(integer(item, "errors"), sum_of_name(x, tenant, q.by, asked, MEASURE_ERRORS, q.range.start, q.range.end));
            if (q.range.start == over) {
                assert_true(json_is_null(json_object_get(item, "previous")) && json_is_null(json_object_get(item, "change")));
            } else {
                int64_t first = q.range.start - (over - q.range.start), was = sum_of_name(x, tenant, q.by, asked, q.sort, first, q.range.start);
                int64_t now = sum_of_name(x, tenant, q.by, asked, q.sort, q.range.start, over);
                assert_int_equal(integer(json_object_get(item, "compared"), "tokens"), sum_of_name(x, tenant, q.by, asked, MEASURE_TOKENS, q.range.start, over));
                assert_int_equal(integer(json_object_get(item, "previous"), "tokens"), sum_of_name(x, tenant, q.by, asked, MEASURE_TOKENS, first, q.range.start));
                if (was > 0) assert_true(fabs(json_real_value(json_object_get(item, "change")) - (double)(now - was) / (double)was) < 1e-9);
            }
            int64_t v = sum_of_name(x, tenant, q.by, asked, q.sort, q.range.start, q.range.end);
            assert_true(v <= last);
            last = v;
        }
        if (k == 4) assert_true(larger(x, tenant, q.by, q.sort, &q.range, last) <= 3);
        json_decref(o);
    }
}

/* A bucket that is under way would make of a steady use one that falls. */
static void what_is_compared_is_over_and_as_long_as_the_time_before(void **state)
{
    enum { H = 3600, D = 86400 };
    static const int64_t day = 20000ll * D, now = day + 10 * H + 1800;
    static const struct {
        struct stats_range range;
        int64_t end, before; /* of the part, and where the time before it begins */
    } rows[] = {
        {{day - D, day + D, D}, day, day - 2 * D},                 /* the last 24 hours, by days: yesterday and the day before */
        {{day - 7 * D, day + D, D}, day, day - 14 * D},
        {{day, day + D, D}, day, day},                             /* today: nothing */
        {{day - 7 * D, day - D, D}, day - D, day - 13 * D},        /* all of it is over */
        {{now - 24 * H - 1800, now + 1800, H}, day + 10 * H, day - 38 * H},
        {{day, day + 20 * D, H}, day + 10 * H, day - 10 * H},      /* a month that goes on */
        {{day + D, day + 2 * D, D}, day + D, day + D},             /* of what is to come nothing */
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct stats_compared x = stats_compared(&rows[i].range, now);
        assert_int_equal(x.part.start, rows[i].range.start);
        assert_int_equal(x.part.end, rows[i].end);
        assert_int_equal(x.before.start, rows[i].before);
        assert_int_equal(x.before.end, rows[i].range.start);
        json_t *o = stats_compared_json(&x);
        assert_true(json_is_null(o) == (x.part.start == x.part.end));
        json_decref(o);
    }
}

static void costs_by_any_group_are_what_the_rows_cost(void **state)
{
    struct stats_room *x = *state;
    for (unsigned group = 0; group < 32; group++)
        for (int i = 0; i < 2; i++) {
            struct err e = {0};
            int64_t next = 1, sum = 0;
            size_t k, n;
            if (!costs_group_is_kept(group)) continue;
            json_t *bucket, *result;
            struct buf b;
            struct costs_query q = {.tenant = whose[i], .currency = "USD", .start = x->start, .end = x->end, .group = group, .limit = 180};
            buf_init(&b, 64 << 20);
            assert_ok(costs_of_days(x->kept, &q, &b, &next, &e), e);
            json_t *data = led_list(&b);
            assert_int_equal(next, 0);
            assert_int_equal(json_array_size(data), DAYS);
            json_array_foreach(data, k, bucket)
            {
                json_array_foreach(json_object_get(bucket, "results"), n, result) sum += integer(result, "amount_nano");
            }
            assert_int_equal(sum, sum_of_name(x, whose[i], BY_NONE, NULL, MEASURE_COST, x->start, x->end));
            json_decref(data);
        }
}

static void usage_by_any_group_is_the_rows_whatever_rollup_answers(void **state)
{
    struct stats_room *x = *state;
    static const int64_t widths[] = {86400, 3600};
    for (unsigned i = 0; i < 64 * 2 * 2; i++) {
        struct err e = {0};
        int64_t next, tokens = 0, cost = 0, width = widths[i & 1];
        size_t k, n;
        struct usage_query q = {.tenant = whose[i >> 1 & 1], .start = x->end - 20 * 86400, .end = x->end, .width_s = width, .group = i >> 2, .limit = 1000};
        if (width < 86400 && q.group & ~(unsigned)USAGE_SPAN_GROUPS) continue;
        json_t *bucket, *result;
        struct buf b;
        buf_init(&b, 64 << 20);
        assert_ok(ledger_usage(x->led.l, &q, &b, &next, &e), e);
        json_t *data = led_list(&b);
        assert_int_equal(json_array_size(data), 20 * 86400 / width);
        json_array_foreach(data, k, bucket)
        {
            json_array_foreach(json_object_get(bucket, "results"), n, result)
            {
                tokens += integer(result, "input_tokens") + integer(result, "output_tokens");
                cost += integer(result, "cost_nano");
                assert_int_equal(json_is_null(json_object_get(result, "tenant")), !(q.group & GROUP_TENANT));
                assert_int_equal(json_is_null(json_object_get(result, "model")), !(q.group & GROUP_MODEL));
                assert_int_equal(json_is_null(json_object_get(result, "state")), !(q.group & GROUP_STATE));
            }
        }
        assert_int_equal(tokens, sum_of_name(x, q.tenant, BY_NONE, NULL, MEASURE_TOKENS, q.start, q.end));
        assert_int_equal(cost, sum_of_name(x, q.tenant, BY_NONE, NULL, MEASURE_COST, q.start, q.end));
        json_decref(data);
    }
}

static void an_invoices_lines_are_tokens_times_their_price(void **state)
{
    struct stats_room *x = *state;
    int month = month_of((x->end - 40 * 86400) * 1000000);
    int64_t from = month_start(month), to = month_start(month_after(month)), lines = 0, all = 0;
    struct err e = {0};
    json_t *o, *line;
    size_t k;
    assert_ok(costs_invoice(x->led.l, x->kept, "id-0", "zero", month, "EUR", &o, &e), e);
    json_array_foreach(json_object_get(o, "lines"), k, line)
    {
        assert_int_equal(integer(line, "tokens") * integer(line, "unit_price_nano"), integer(line, "amount_nano"));
        lines += integer(line, "amount_nano");
    }
    assert_true(k > 6 && lines > 0 && json_is_true(json_object_get(o, "final")));
    assert_int_equal(lines, integer(o, "total_nano"));
    assert_int_equal(lines, sum_of_name(x, "id-0", BY_NONE, NULL, MEASURE_COST, from, to));
    assert_int_equal(integer(o, "requests"), sum_of_name(x, "id-0", BY_NONE, NULL, MEASURE_REQUESTS, from, to));
    json_decref(o);
    assert_ok(costs_invoices(x->led.l, x->led.r.db, month, "EUR", &o, &e), e);
    json_array_foreach(json_object_get(o, "data"), k, line) all += integer(line, "total_nano");
    assert_int_equal(all, integer(o, "total_nano"));
    assert_int_equal(all, sum_of_name(x, NULL, BY_NONE, NULL, MEASURE_COST, from, to));
    json_decref(o);
}

static void adjustments_whose_rows_are_gone_end_no_list_and_hold_no_invoice(void **state)
{
    struct stats_room *x = *state;
    struct err e = {0};
    json_t *o, *list = json_array();
    bool more = true;
    room_sql(&x->led.r, "INSERT INTO archive(month, rows, bytes, sha256, made, dropped, removed) VALUES(202001, 250, 0, '', 0, 0, 1);"
                        "WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n < 249) INSERT INTO adjustment(id, t, tenant, request, reason, actor)"
                        " SELECT printf('016f5e66-%%04x-7000-8000-000000000000', 59392 + n), 1577836800000000 + n * 1000, 'id-0', '', 'outage', 'me' FROM i");
    alarm(30); /* it went on for ever */
    assert_ok(costs_invoice(x->led.l, x->kept, "id-0", "zero", 202001, "EUR", &o, &e), e);
    assert_int_equal(json_array_size(json_object_get(o, "adjustments")), 0);
    assert_ok(ledger_adjustments(x->led.l, &(struct adjust_query){.tenant = "id-0"}, &(struct page){"", "", PAGE_MAX}, list, &more, &e), e);
    alarm(0);
    assert_int_equal(json_array_size(list), 0);
    assert_false(more);
    json_decref(list);
    json_decref(o);
    room_sql(&x->led.r, "DELETE FROM adjustment; DELETE FROM archive");
}

static void percentiles_lie_in_the_bucket_of_the_rows_own(void **state)
{
    struct stats_room *x = *state;
    for (int i = 0; i < 4; i++) {
        const char *tenant = whose[i % 2];
        struct stats_range r = {x->end - 30 * 86400, x->end, i < 2 ? 86400 : 3600};
        struct err e = {0};
        json_t *o;
        int64_t n = 0, below = 0;
        assert_ok(stats_latency(x->kept, tenant, LATENCY_DURATION, &r, &o, &e), e);
        double p90 = json_number_value(json_object_get(json_object_get(o, "total"), "p90")) * 1000;
        for (int k = 0; k < ROWS; k++) {
            if (!within(&x->row[k], tenant, r.start, r.end)) continue;
            n++;
            below += (double)(x->row[k].s.t_end - x->row[k].a.t_start) <= p90;
        }
        assert_int_equal(integer(json_object_get(o, "total"), "n"), n);
        assert_true((double)below > 0.85 * (double)n && (double)below < 0.95 * (double)n);
        json_decref(o);
    }
}

static void aborts_stand_beside_what_was_produced(void **state)
{
    struct stats_room *x = *state;
    struct stats_range r = {x->start, x->end, 86400};
    struct err e = {0};
    json_t *o;
    int64_t n = 0, produced = 0;
    assert_ok(stats_aborts(x->led.r.db, NULL, &r, &o, &e), e);
    for (int k = 0; k < ROWS; k++)
        if (x->row[k].s.state == USAGE_CLIENT_ABORT) {
            n++;
            produced += x->row[k].s.produced;
        }
    assert_int_equal(integer(json_object_get(o, "totals"), "requests"), n);
    assert_int_equal(integer(json_object_get(o, "totals"), "produced_tokens"), produced);
    json_decref(o);
}

static int64_t listed(struct stats_room *x, const char *tenant, const struct request_filter *f)
{
    char place[UUID_LEN], after[UUID_LEN] = "";
    int64_t n = 0;
    for (bool more = true; more;) {
        struct err e = {0};
        json_t *list = json_array();
        assert_ok(ledger_requests(x->led.l, tenant, f, &(struct page){after, "", 100}, list, &more, place, &e), e);
        size_t got = json_array_size(list);
        n += (int64_t)got;
        const char *last = *place ? place : json_string_value(json_object_get(json_array_get(list, got - 1), "id"));
        if (last) snprintf(after, sizeof after, "%s", last);
        json_decref(list);
    }
    return n;
}

/* The same from the oldest on, by what stands before the cursor; ids come in pages of 20, newest first. */
static int64_t listed_back(struct stats_room *x, const char *tenant, const struct request_filter *f)
{
    char place[UUID_LEN], before[UUID_LEN] = "00000000-0000-7000-8000-000000000000";
    int64_t n = 0;
    for (bool more = true; more;) {
        struct err e = {0};
        json_t *list = json_array();
        assert_ok(ledger_requests(x->led.l, tenant, f, &(struct page){"", before, 20}, list, &more, place, &e), e);
        for (size_t i = json_array_size(list); i-- > 0; n++) {
            const char *id = json_string_value(json_object_get(json_array_get(list, i), "id"));
            assert_true(strcmp(id, before) > 0);
            snprintf(before, sizeof before, "%s", id);
        }
        if (*place) snprintf(before, sizeof before, "%s", place);
        json_decref(list);
    }
    return n;
}

static void a_state_is_listed_whole_whatever_finds_it(void **state)
{
    struct stats_room *x = *state;
    for (int s = 0; s < USAGE_STATES; s++) {
        struct request_filter f = {.state = s};
        int64_t all = 0, own = 0;
        for (int k = 0; k < ROWS; k++) {
            all += (int)x->row[k].s.state == s;
            own += (int)x->row[k].s.state == s && strcmp(x->row[k].a.who.tenant, "id-1") == 0;
        }
        assert_int_equal(listed(x, NULL, &f), all);
        assert_int_equal(listed(x, "id-1", &f), own);
        assert_int_equal(listed_back(x, NULL, &f), all);
        assert_int_equal(listed_back(x, "id-1", &f), own);
    }
}

static void filters_leave_the_rows_that_fit(void **state)
{
    struct stats_room *x = *state;
    int64_t long_ones = 0, of_key = 0, of_version = 0;
    for (int k = 0; k < ROWS; k++) {
        const struct told *r = &x->row[k];
        long_ones += r->s.t_end - r->a.t_start >= 900000;
        of_key += strcmp(r->a.who.key, "key1-1") == 0 && r->s.state == USAGE_TIMEOUT;
        of_version += strcmp(r->a.what.adapter, "adapter2") == 0 && r->a.what.version == 2 && strcmp(r->a.endpoint, "/v1/completions") == 0;
    }
    assert_int_equal(listed(x, NULL, &(struct request_filter){.state = -1}), ROWS);
    assert_int_equal(listed(x, NULL, &(struct request_filter){.state = -1, .min_duration_us = 900000}), long_ones);
    assert_int_equal(listed(x, NULL, &(struct request_filter){.state = USAGE_TIMEOUT, .key = "key1-1"}), of_key);
    assert_int_equal(listed(x, "id-1", &(struct request_filter){.state = USAGE_TIMEOUT, .key = "key1-1"}), of_key);
    assert_int_equal(listed(x, NULL, &(struct request_filter){.state = -1, .adapter = "adapter2@2", .endpoint = "/v1/completions"}), of_version);
    assert_int_equal(listed(x, "id-2", &(struct request_filter){.state = -1, .key = "key1-1"}), 0);
}

/* --- days that are kept in memory --- */

/* Counts a change as a repair does, and makes it. */
static int spoil(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)u;
    if (sums_count_past(d, c, e)) return -1;
    return sqlite3_exec(c, "UPDATE rollup_by SET cost = cost + 7", NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, "rollups", e);
}

static json_t *ask_series(struct stats_room *x, struct stats_kept *k, enum stats_by by, int days)
{
    struct stats_series_query q = {.by = by, .measure = MEASURE_TOKENS, .top = 3, .compare = true, .range = {x->end - days * 86400, x->end, 86400}};
    struct err e = {0};
    json_t *o = NULL;
    assert_ok(stats_series(k, NULL, &q, &o, &e), e);
    return o;
}

static json_t *ask_top(struct stats_room *x, struct stats_kept *k, enum stats_by by, int days)
{
    struct stats_top_query q = {.by = by, .sort = MEASURE_COST, .limit = 5, .compare = true, .range = {x->end - days * 86400, x->end, 86400}};
    struct err e = {0};
    json_t *o = NULL;
    assert_ok(stats_top(k, NULL, &q, &o, &e), e);
    return o;
}

static json_t *ask_latency(struct stats_room *x, struct stats_kept *k, int64_t width)
{
    struct stats_range r = {x->end - 60 * 86400, x->end, width};
    struct err e = {0};
    json_t *o = NULL;
    assert_ok(stats_latency(k, "id-0", LATENCY_TTFT, &r, &o, &e), e);
    return o;
}

static void assert_same(json_t *a, json_t *b)
{
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
}

static void what_is_told_does_not_depend_on_what_is_kept(void **state)
{
    struct stats_room *x = *state;
    static const int days[] = {1, 9, 16, 33, 60, 75};
    struct stats_kept *none = stats_kept_new(x->led.r.db, 0), *few = stats_kept_new(x->led.r.db, 100000);
    for (enum stats_by by = BY_NONE; by < STATS_BYS; by++)
        for (size_t i = 0; i < sizeof days / sizeof *days; i++) {
            assert_same(ask_series(x, none, by, days[i]), ask_series(x, few, by, days[i]));
            assert_same(ask_series(x, none, by, days[i]), ask_series(x, x->kept, by, days[i]));
            if (by < BY_TENANT || by > BY_ENDPOINT) continue;
            assert_same(ask_top(x, none, by, days[i]), ask_top(x, few, by, days[i]));
            assert_same(ask_top(x, none, by, days[i]), ask_top(x, x->kept, by, days[i]));
            assert_true(stats_kept_bytes(few) <= 100000);
        }
    assert_same(ask_latency(x, none, 86400), ask_latency(x, few, 86400));
    assert_same(ask_latency(x, none, 86400), ask_latency(x, x->kept, 86400));
    assert_same(ask_latency(x, none, 86400), ask_latency(x, x->kept, 86400)); /* now from memory */
    json_t *of_days = ask_latency(x, x->kept, 86400), *hours = ask_latency(x, x->kept, 3600);
    assert_true(json_integer_value(json_object_get(json_object_get(of_days, "total"), "n")) > 100);
    assert_true(json_equal(json_object_get(of_days, "total"), json_object_get(hours, "total")));
    assert_true(json_equal(json_object_get(of_days, "previous"), json_object_get(hours, "previous")));
    json_decref(of_days);
    json_decref(hours);
    assert_int_equal(stats_kept_bytes(none), 0);
    assert_true(stats_kept_bytes(few) > 50000); /* more than there was room for had to leave */
    assert_true(stats_kept_bytes(x->kept) > stats_kept_bytes(few));
    stats_kept_free(none);
    stats_kept_free(few);
}

static int64_t total_of(json_t *o)
{
    int64_t total = json_integer_value(json_object_get(o, "total"));
    json_decref(o);
    return total;
}

static void what_is_settled_into_a_closed_day_is_told_at_once(void **state)
{
    struct stats_room *x = *state;
    struct told late = x->row[0];
    struct err e = {0};
    _Atomic int done = 0;
    int64_t was = total_of(ask_series(x, x->kept, BY_ADAPTER, 75)), first = total_of(ask_top(x, x->kept, BY_ADAPTER, 75));
    json_t *before = ask_top(x, x->kept, BY_TENANT, 75), *after;
    late.a.t_start = (x->end - 30 * 86400) * 1000000ll + 5;
    late.s.t_end = late.a.t_start + 1000;
    late.s.t_first = 0;
    late.s.prompt = late.s.delivered = late.s.produced = 1000000; /* the largest of all, so that lists change */
    late.s.cached = 0;
    usage_id_at(late.a.t_start, late.a.id);
    ledger_settle(x->led.l, &late.a, &late.s, settled, (void *)&done);
    for (int i = 0; done < 1 && i < 30000; i++) usleep(1000);
    assert_int_equal(total_of(ask_series(x, x->kept, BY_ADAPTER, 75)), was + 2000000);
    assert_int_equal(total_of(ask_top(x, x->kept, BY_ADAPTER, 75)), first + settled_cost(&late.a, &late.s));
    after = ask_top(x, x->kept, BY_TENANT, 75);
    assert_false(json_equal(before, after));
    json_decref(before);

    /* A repair: what rows don't say is gone from the rollups, and from memory. */
    int64_t rows;
    json_t *o = ask_top(x, x->kept, BY_TENANT, 75);
    assert_ok(db_write_wait(x->led.r.db, spoil, NULL, &e), e);
    json_t *spoilt = ask_top(x, x->kept, BY_TENANT, 75);
    assert_false(json_equal(spoilt, o));
    json_decref(spoilt);
    assert_ok(ledger_rebuild(x->led.l, &rows, &e), e);
    assert_same(ask_top(x, x->kept, BY_TENANT, 75), o);
    assert_same(after, ask_top(x, x->kept, BY_TENANT, 75));
}

static void the_rollups_verify(void **state)
{
    struct stats_room *x = *state;
    balances(&x->led, ROWS + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(series_add_up_to_the_rows), cmocka_unit_test(an_adapters_own_add_up_to_its_rows),
        cmocka_unit_test(each_point_of_hours_and_minutes_is_the_rows_of_that_time),
        cmocka_unit_test(the_top_is_exact_although_not_all_names_are_read),
        cmocka_unit_test(what_is_compared_is_over_and_as_long_as_the_time_before),
        cmocka_unit_test(costs_by_any_group_are_what_the_rows_cost),
        cmocka_unit_test(usage_by_any_group_is_the_rows_whatever_rollup_answers),
        cmocka_unit_test(an_invoices_lines_are_tokens_times_their_price),
        cmocka_unit_test(adjustments_whose_rows_are_gone_end_no_list_and_hold_no_invoice),
        cmocka_unit_test(percentiles_lie_in_the_bucket_of_the_rows_own),
        cmocka_unit_test(aborts_stand_beside_what_was_produced),
        cmocka_unit_test(filters_leave_the_rows_that_fit),
        cmocka_unit_test(a_state_is_listed_whole_whatever_finds_it),
        cmocka_unit_test(what_is_told_does_not_depend_on_what_is_kept),
        cmocka_unit_test(what_is_settled_into_a_closed_day_is_told_at_once),
        cmocka_unit_test(the_rollups_verify),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
