/* Tests of gateway/export_*: values as text, rows as lines, periods of schedules; the whole of it over HTTP is in tests/e2e/gateway/test_export.py. */
#include "base/clock.h"
#include "gateway/export/export_gzip.h"
#include "gateway/export/export_rows.h"
#include "gateway/export/export_schedule.h"
#include "gateway/export/export_world.h"
#include "tests/unit/data_room.h"
#include <jansson.h>
#include <time.h>
#include <zlib.h>

static char *ended(char *from, char *to)
{
    *to = 0;
    return from;
}

static void integers_and_amounts_are_written_exactly(void **state)
{
    (void)state;
    static const struct {
        int64_t v;
        const char *as_int, *as_nano;
    } row[] = {
        {0, "0", "0"},
        {1, "1", "0.000000001"},
        {-1, "-1", "-0.000000001"},
        {1500000000, "1500000000", "1.5"},
        {-1000000000, "-1000000000", "-1"},
        {123456789012, "123456789012", "123.456789012"},
        {INT64_MAX, "9223372036854775807", "9223372036.854775807"},
        {INT64_MIN, "-9223372036854775808", "-9223372036.854775808"},
    };
    char text[TEXT_NUMBER + 1];
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        assert_string_equal(ended(text, text_int(text, row[i].v)), row[i].as_int);
        assert_string_equal(ended(text, text_nano(text, row[i].v)), row[i].as_nano);
    }
}

static void csv_fields_are_quoted_where_they_must_be_and_never_run(void **state)
{
    (void)state;
    static const struct {
        const char *text, *field;
    } row[] = {
        {"", ""},
        {"plain", "plain"},
        {"a b", "\"a b\""},
        {"a,b", "\"a,b\""},
        {"say \"hi\"", "\"say \"\"hi\"\"\""},
        {"a\r\nb", "\"a\r\nb\""},
        {"=1+1", "\"'=1+1\""},
        {"+1", "\"'+1\""},
        {"-1", "\"'-1\""},
        {"@A1", "\"'@A1\""},
        {"\tx", "\"'\tx\""},
        {"\rx", "\"'\rx\""},
        {"\nx", "\"'\nx\""},
        {"\xef\xbc\x9d"
         "1",
         "\"'\xef\xbc\x9d"
         "1\""},
        {"a=1", "\"a=1\""},
        {"a-b", "a-b"},
        {"\xc3\xbc", "\"\xc3\xbc\""},
        {"\xff\xfe", "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {"x\xe2\x82", "\"x\xef\xbf\xbd\""},
        {"=\"", "\"'=\"\"\""},
    };
    char text[256];
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) assert_string_equal(ended(text, text_csv(text, row[i].text)), row[i].field);
}

static void json_strings_of_any_bytes_are_read_back(void **state)
{
    (void)state;
    char in[256], out[TEXT_GROWTH * 256 + TEXT_AROUND];
    for (int i = 1; i < 256; i++) in[i - 1] = (char)i;
    in[255] = 0;
    json_t *v = json_loads(ended(out, text_json(out, in)), JSON_DECODE_ANY, NULL);
    assert_true(json_is_string(v));
    assert_memory_equal(json_string_value(v), in, 127); /* what is no UTF-8 became U+FFFD */
    json_decref(v);
    assert_string_equal(ended(out, text_json(out, "a\"\\\x01\x7f/\xc3\xbc")), "\"a\\\"\\\\\\u0001\\u007f/\xc3\xbc\"");
}

/* Against the C library, over 400 years and at all turns. */
static void times_and_months_are_those_of_the_calendar(void **state)
{
    (void)state;
    struct text_day day = {0};
    char text[TEXT_TIME + 1], want[TEXT_TIME + 1];
    for (int64_t t = 0; t < 12622780800; t += 86399 * 3) {
        time_t s = (time_t)t;
        struct tm tm = {0};
        gmtime_r(&s, &tm);
        strftime(want, sizeof want, "%Y-%m-%dT%H:%M:%SZ", &tm);
        assert_string_equal(ended(text, text_time_s(text, &day, t)), want);
        tm = (struct tm){.tm_year = tm.tm_year, .tm_mon = tm.tm_mon, .tm_mday = 1};
        assert_int_equal(text_month_start(t, 0), timegm(&tm));
        tm = (struct tm){.tm_year = tm.tm_year, .tm_mon = tm.tm_mon + 1, .tm_mday = 1};
        assert_int_equal(text_month_start(t, 1), timegm(&tm));
        tm = (struct tm){.tm_year = tm.tm_year, .tm_mon = tm.tm_mon - 13, .tm_mday = 1};
        assert_int_equal(text_month_start(t, -12), timegm(&tm));
    }
    assert_string_equal(ended(text, text_time_us(text, &day, 1795341600123456)), "2026-11-22T10:00:00.123456Z");
    assert_string_equal(ended(text, text_time_us(text, &day, -5)), "1970-01-01T00:00:00.000000Z");
    assert_string_equal(ended(text, text_time_us(text, &day, INT64_MAX)), "9999-12-31T23:59:59.775807Z");
}

static void periods_begin_and_end_where_the_calendar_says(void **state)
{
    (void)state;
    int64_t t = 1795341723; /* 2026-11-22T10:02:03Z */
    assert_int_equal(schedule_start(EVERY_HOUR, t), 1795341600);
    assert_int_equal(schedule_end(EVERY_HOUR, t), 1795345200);
    assert_int_equal(schedule_start(EVERY_DAY, t), 1795305600);
    assert_int_equal(schedule_end(EVERY_DAY, t), 1795392000);
    assert_int_equal(schedule_start(EVERY_MONTH, t), 1793491200);
    assert_int_equal(schedule_end(EVERY_MONTH, t), 1796083200);
    for (int k = 0; k < EVERY_KINDS; k++) assert_int_equal(schedule_start((enum schedule_every)k, schedule_end((enum schedule_every)k, t)), schedule_end((enum schedule_every)k, t));
}

/* --- rows --- */

struct exp_room {
    struct room r;
    struct export_world *world;
    char *memory;
};

static int run_sql(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) ? db_error(c, "test", e) : 0;
}

static int setup(void **state)
{
    struct exp_room *x = calloc(1, sizeof *x);
    struct err e = {0};
    room_new(&x->r);
    room_start(&x->r);
    static char sql[] = "INSERT INTO tenant(id, name, weight, created) VALUES('t-1', 'acme', 1, 0);"
                        "INSERT INTO price(row, base, valid_from, prompt, cached, output, created) VALUES(1, 'base', 0, 150, 20, 600, 0);";
    assert_ok(db_write_wait(x->r.db, run_sql, sql, &e), e);
    assert_ok(export_world_new(&x->world, x->r.db, NULL, "EUR", "", &e), e);
    x->memory = malloc(EXPORT_MEMORY);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct exp_room *x = *state;
    export_world_free(x->world);
    free(x->memory);
    room_end(&x->r);
    free(x);
    return 0;
}

static struct usage_row sample(void)
{
    return (struct usage_row){.id = "019a0000-0000-7000-8000-000000000001", .tenant = "t-1", .key = "k", .base = "base", .adapter = "sql", .model = "m",
                              .alias = "", .endpoint = "/v1/completions", .finish = "stop", .engine = "local", .version = 3, .stream = 1,
                              .http_status = 200, .t_start = 1795341600123456, .t_end = 1795341600223456, .prompt = 100, .cached = 40, .output = 30,
                              .produced = 31, .before = 1000, .after = 90, .source = 1, .price = 1, .cost = 60 * 150 + 40 * 20 + 30 * 600, .attempt = 1, .month = 202611};
}

static void a_row_of_csv_is_what_it_is(void **state)
{
    struct exp_room *x = *state;
    struct err e = {0};
    struct export_writer w;
    struct usage_row r = sample();
    export_begin(&w, EXPORT_CSV, x->world, x->memory, EXPORT_MEMORY);
    assert_ok(export_row(&w, &r, &e), e);
    w.out[w.len] = 0;
    assert_string_equal(w.out, "019a0000-0000-7000-8000-000000000001,2026-11-22T10:00:00.123456Z,request,acme,t-1,k,m,,base,sql,3,/v1/completions,true,"
                               "completed,200,stop,1795341600123456,,1795341600223456,100,40,30,31,engine,1,27800,EUR,1,false,0,local,,1000,90\r\n");
}

/* What a row can be at its worst fits into what was reckoned for it: ASan looks. */
static void rows_of_the_longest_texts_fit_and_a_full_writer_takes_none(void **state)
{
    struct exp_room *x = *state;
    static char model[256], name[65], base[128];
    memset(model, 1, 255), memset(name, '"', 64), memset(base, '\n', 127);
    for (int f = 0; f < EXPORT_FORMATS; f++) {
        struct err e = {0};
        struct export_writer w;
        struct usage_row r = sample();
        r.model = model, r.adapter = r.alias = r.engine = name, r.base = base, r.tenant = "nobody";
        r.t_first = r.load_us = INT64_MIN, r.cost = -1000000000000000, r.prompt = r.output = 1000000000000000, r.state = 99, r.source = -1;
        export_begin(&w, (enum export_format)f, x->world, x->memory, EXPORT_MEMORY);
        int64_t n = 0;
        while (export_row(&w, &r, &e) == 0) n++;
        assert_true(w.full && e.code == ERR_QUEUE_FULL);
        assert_true(n > 3 && w.len <= EXPORT_MEMORY && w.sums.requests == n);
        size_t one = w.len / (size_t)n;
        assert_true(one < EXPORT_ROW_MAX);
    }
    struct err e = {0};
    struct export_writer w;
    struct usage_row r = sample();
    static char huge[EXPORT_ROW_MAX];
    memset(huge, 'x', sizeof huge - 1);
    r.model = huge;
    export_begin(&w, EXPORT_CSV, x->world, x->memory, EXPORT_MEMORY);
    assert_int_equal(export_row(&w, &r, &e), -1);
    assert_true(!w.full && e.code == ERR_INTERNAL);
}

static void sums_of_a_writer_are_those_of_its_rows(void **state)
{
    struct exp_room *x = *state;
    struct err e = {0};
    struct export_writer w;
    struct usage_row r = sample(), credit = sample();
    credit.adjusts = "", credit.cost = -5, credit.prompt = credit.cached = credit.output = credit.produced = 0, credit.id = "z";
    export_begin(&w, EXPORT_FOCUS, x->world, x->memory, EXPORT_MEMORY);
    assert_ok(export_row(&w, &r, &e), e);
    assert_ok(export_row(&w, &credit, &e), e);
    assert_int_equal(w.sums.lines, 4);
    assert_int_equal(w.sums.requests, 1);
    assert_int_equal(w.sums.adjustments, 1);
    assert_int_equal(w.sums.cost, 27795);
    assert_int_equal(w.sums.input, 100);
    assert_string_equal(w.sums.first, r.id);
    assert_string_equal(w.sums.last, "z");
}

/* More tenants than the cache has places, in any order. */
static void names_are_right_also_when_the_cache_is_too_small(void **state)
{
    struct exp_room *x = *state;
    struct err e = {0};
    static char sql[] = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)"
                        "INSERT INTO tenant(id, name, weight, created) SELECT printf('%08x-tenant', i), 'n' || i, 1, 0 FROM n";
    assert_ok(db_write_wait(x->r.db, run_sql, sql, &e), e);
    for (int round = 0; round < 2; round++)
        for (int i = 1; i <= 6000; i++) {
            char id[UUID_LEN], want[16];
            const char *name;
            snprintf(id, sizeof id, "%08x-tenant", i);
            snprintf(want, sizeof want, "n%d", i);
            assert_ok(world_tenant(x->world, id, &name, &e), e);
            assert_string_equal(name, want);
        }
}

/* By its row alone: the audit trail, which is long and has no index for it, is not read. */
static void a_removed_price_is_found_where_its_words_were_kept(void **state)
{
    struct exp_room *x = *state;
    struct err e = {0};
    struct price p;
    static char sql[] = "INSERT INTO price_removed VALUES(7, 100, 10, 500);"
                        "INSERT INTO audit(t, actor, ip, request, action, object, before, after, hash) VALUES(1, 'x', '', '', 'price.delete', '8',"
                        " '{\"prompt_nano\":1,\"cached_nano\":2,\"output_nano\":3}', '', zeroblob(32));";
    assert_ok(db_write_wait(x->r.db, run_sql, sql, &e), e);
    assert_int_equal(world_price(x->world, 7, &p, &e), 1);
    assert_true(p.row == 7 && p.prompt == 100 && p.cached == 10 && p.output == 500);
    assert_int_equal(world_price(x->world, 1, &p, &e), 1);
    assert_int_equal(p.output, 600);
    assert_int_equal(world_price(x->world, 8, &p, &e), 0);
}

static void gzip_in_pieces_is_one_stream(void **state)
{
    (void)state;
    struct err e = {0};
    struct gzip *g;
    struct buf out;
    static char text[200000], back[200000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i * i % 23);
    buf_init(&out, 1 << 20);
    assert_ok(gzip_new(&g, &e), e);
    for (size_t i = 0; i < sizeof text; i += 1000) assert_ok(gzip_add(g, text + i, 1000, i + 1000 == sizeof text, &out, &e), e);
    z_stream z = {.next_in = (unsigned char *)out.data, .avail_in = (unsigned)out.len, .next_out = (unsigned char *)back, .avail_out = sizeof back};
    assert_int_equal(inflateInit2(&z, 15 + 16), Z_OK);
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    assert_memory_equal(text, back, sizeof text);
    inflateEnd(&z);
    gzip_free(g);
    buf_close(&out);
}

#define with_room(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_and_amounts_are_written_exactly),
        cmocka_unit_test(csv_fields_are_quoted_where_they_must_be_and_never_run),
        cmocka_unit_test(json_strings_of_any_bytes_are_read_back),
        cmocka_unit_test(times_and_months_are_those_of_the_calendar),
        cmocka_unit_test(periods_begin_and_end_where_the_calendar_says),
        cmocka_unit_test(gzip_in_pieces_is_one_stream),
        with_room(a_row_of_csv_is_what_it_is),
        with_room(rows_of_the_longest_texts_fit_and_a_full_writer_takes_none),
        with_room(sums_of_a_writer_are_those_of_its_rows),
        with_room(a_removed_price_is_found_where_its_words_were_kept),
        with_room(names_are_right_also_when_the_cache_is_too_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
