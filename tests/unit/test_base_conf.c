/* conf and metrics: the two tables that programs bring. */
#include "base/conf.h"
#include "base/metrics.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SETTINGS(X)                                                                                                    \
    X(listen, STR, "127.0.0.1:8080", 1, 64, "T_LISTEN", "where to listen")                                             \
    X(workers, INT, "4", 1, 64, "T_WORKERS", "threads")                                                                \
    X(verbose, BOOL, "no", 0, 0, "", "say more")                                                                       \
    X(max_body, SIZE, "1m", 0, 1LL << 40, "T_MAX_BODY", "bytes of a body")

struct settings {
    SETTINGS(CONF_FIELD)
};

#define ROW(...) CONF_ROW(struct settings, __VA_ARGS__)
static const struct conf_row rows[] = {SETTINGS(ROW)};

static int load(struct settings *s, const char *file, const char *const *args, struct err *e)
{
    char path[] = "/tmp/weft-test-XXXXXX", *argv[16] = {(char *)"prog"};
    int argc = 1, fd = mkstemp(path);
    assert_int_equal(write(fd, file, strlen(file)), strlen(file));
    close(fd);
    if (*file) argv[argc++] = (char *)"--config", argv[argc++] = path;
    for (; args && *args; args++) argv[argc++] = (char *)*args;
    *s = (struct settings){0};
    int rc = conf_load(rows, CONF_ROWS(rows), s, argc, argv, NULL, 0, NULL, e);
    unlink(path);
    return rc;
}

static void later_sources_win(void **state)
{
    (void)state;
    struct settings s;
    struct err e = {0};
    assert_int_equal(load(&s, "", NULL, &e), 0);
    assert_string_equal(s.listen, "127.0.0.1:8080");
    assert_true(s.workers == 4 && !s.verbose && s.max_body == 1048576);
    free((void *)s.listen);
    setenv("T_WORKERS", "6", 1);
    const char *const args[] = {"--listen", "b:1", "--max-body=3k", NULL};
    assert_int_equal(load(&s, "# all\nlisten = a:1 # where\n workers=5\nverbose = on\nmax_body = 2g\n", args, &e), 0);
    unsetenv("T_WORKERS");
    assert_string_equal(s.listen, "b:1");
    assert_true(s.workers == 6 && s.verbose && s.max_body == 3072);
    free((void *)s.listen);
    assert_int_equal(load(&s, "listen = \"  a # b\"", NULL, &e), 0);
    assert_string_equal(s.listen, "  a # b");
    free((void *)s.listen);
}

static void each_wrong_setting_is_named_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *file, *args[3], *words;
    } wrong[] = {
        {"\n\nworker = 3\n", {0}, ":3: no setting is called 'worker'"},
        {"workers = 99", {0}, ":1: workers must be from 1 to 64, not 99"},
        {"workers = x", {0}, ":1: workers must be an integer, not 'x'"},
        {"workers = 3k", {0}, "workers must be an integer"},
        {"workers =", {0}, "workers must be an integer"},
        {"workers = 99999999999999999999", {0}, "workers must be"},
        {"max_body = 9000000000g", {0}, "max_body must be"},
        {"max_body = -1", {0}, "max_body must be from"},
        {"verbose = maybe", {0}, "verbose must be true or false, not 'maybe'"},
        {"workers = 1\nworkers = 2", {0}, ":2: workers was set in line 1 already"},
        {"workers", {0}, ":1: expected 'name = value'"},
        {"listen =", {0}, "listen must have at least 1 bytes"},
        {"", {"--nope", "1"}, "no option is called '--nope'"},
        {"", {"--workers"}, "option --workers needs a value"},
        {"", {"--workers=0"}, "--workers: workers must be from 1"},
        {"", {"-v"}, "no option is called '-v'"},
        {"", {"stray"}, "unexpected argument 'stray'"},
        {"", {"--config", "/dev/null/no"}, "cannot open the settings file /dev/null/no"},
        {"", {"--config", "/"}, "cannot read the settings file /: Is a directory"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct settings s;
        struct err e = {0};
        assert_int_equal(load(&s, wrong[i].file, wrong[i].args, &e), -1);
        assert_int_equal(e.code, ERR_USAGE);
        if (!strstr(e.msg, wrong[i].words)) fail_msg("%s", e.msg);
        free((void *)s.listen);
    }
}

static void the_printed_default_file_is_itself_a_valid_file(void **state)
{
    (void)state;
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    conf_print(rows, CONF_ROWS(rows), f);
    fclose(f);
    struct settings s;
    struct err e = {0};
    if (load(&s, text, NULL, &e)) fail_msg("%s\n%s", e.msg, text);
    assert_string_equal(s.listen, "127.0.0.1:8080");
    free((void *)s.listen);
    free(text);
}

static void positional_arguments_are_kept_in_order(void **state)
{
    (void)state;
    struct settings s = {0};
    struct err e = {0};
    const char *pos[3];
    int n;
    char *argv[] = {(char *)"p", (char *)"a",  (char *)"--workers", (char *)"2",
                    (char *)"-", (char *)"--", (char *)"--x"};
    assert_int_equal(conf_load(rows, CONF_ROWS(rows), &s, 7, argv, pos, 3, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_string_equal(pos[0], "a");
    assert_string_equal(pos[1], "-");
    assert_string_equal(pos[2], "--x");
    free((void *)s.listen);
}

enum { REQUESTS, OPEN, SECONDS };
static const struct metric_row metric_rows[] = {
    {METRIC_COUNTER, "requests_total", "requests", "route,status"},
    {METRIC_GAUGE, "open", "open streams", ""},
    {METRIC_HISTOGRAM, "seconds", "duration", "route"},
};

static void metrics_print_as_prometheus_reads_them(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(metric_rows, 3);
    struct buf b;
    buf_init(&b, 1 << 20);
    metric_add(m, REQUESTS, (const char *const[]){"/a\"b\\\n", "200"}, 2);
    metric_add(m, REQUESTS, (const char *const[]){"/a\"b\\\n", "200"}, 1);
    metric_set(m, OPEN, NULL, 2.5);
    metric_observe(m, SECONDS, (const char *const[]){"/a"}, 0.0003);
    metric_observe(m, SECONDS, (const char *const[]){"/a"}, 0.5);
    metric_observe(m, SECONDS, (const char *const[]){"/a"}, 1000);
    assert_int_equal(metrics_print(m, &b), 0);
    static const char *const lines[] = {
        "# TYPE requests_total counter\nrequests_total{route=\"/a\\\"b\\\\\\n\",status=\"200\"} 3\n",
        "# HELP open open streams\n# TYPE open gauge\nopen 2.5\n",
        "seconds_bucket{route=\"/a\",le=\"0.00025\"} 0\n",
        "seconds_bucket{route=\"/a\",le=\"0.0005\"} 1\n",
        "seconds_bucket{route=\"/a\",le=\"0.5\"} 2\n",
        "seconds_bucket{route=\"/a\",le=\"100\"} 2\n",
        "seconds_bucket{route=\"/a\",le=\"+Inf\"} 3\n",
        "seconds_sum{route=\"/a\"} 1000.5003\n",
        "seconds_count{route=\"/a\"} 3\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(b.data, lines[i])) fail_msg("%s\n not in\n%s", lines[i], b.data);
    assert_true(metric_get(m, REQUESTS, (const char *const[]){"/a\"b\\\n", "200"}) == 3);
    assert_true(metric_get(m, REQUESTS, (const char *const[]){"/a", "404"}) == 0);
    buf_close(&b);
    metrics_free(m);
}

static void an_info_metric_has_one_series_that_is_replaced_with_long_labels(void **state)
{
    (void)state;
    static const struct metric_row rows_[] = {{METRIC_INFO, "info", "state", "a,b"}};
    struct metrics *m = metrics_new(rows_, 1);
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(metrics_print(m, &b), 0);
    assert_string_equal(b.data, "");
    char text[2001];
    memset(text, 'x', 2000);
    text[2000] = 0;
    for (int i = 0; i < 1000; i++) metric_state(m, 0, (const char *const[]){"1", "2"}, i);
    metric_state(m, 0, (const char *const[]){text, "last"}, 7);
    assert_int_equal(metrics_print(m, &b), 0);
    assert_null(strstr(b.data, "a=\"1\""));
    assert_non_null(strstr(b.data, text));
    assert_non_null(strstr(b.data, "b=\"last\"} 7\n"));
    buf_close(&b);
    metrics_free(m);
}

static void *count_many(void *arg)
{
    char route[32];
    for (int i = 0; i < 2000; i++) {
        snprintf(route, sizeof route, "/%d", i);
        metric_add(arg, REQUESTS, (const char *const[]){route, "200"}, 1);
        metric_add(arg, OPEN, NULL, 1);
    }
    return NULL;
}

static void label_sets_beyond_the_limit_count_as_other_and_nothing_is_lost(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(metric_rows, 3);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, count_many, m), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_true(metric_get(m, OPEN, NULL) == 8000);
    struct buf b;
    buf_init(&b, 1 << 20);
    metrics_print(m, &b);
    double sum = 0;
    int series = 0;
    for (char *p = b.data; (p = strstr(p, "\nrequests_total{")); series++) sum += strtod(strchr(++p, '}') + 1, NULL);
    assert_int_equal(series, METRIC_SERIES);
    assert_true(sum == 8000);
    assert_true(metric_get(m, REQUESTS, (const char *const[]){"other", "other"}) == 8000 - 4 * (METRIC_SERIES - 1));
    buf_close(&b);
    metrics_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(later_sources_win),
        cmocka_unit_test(each_wrong_setting_is_named_with_its_place),
        cmocka_unit_test(the_printed_default_file_is_itself_a_valid_file),
        cmocka_unit_test(positional_arguments_are_kept_in_order),
        cmocka_unit_test(metrics_print_as_prometheus_reads_them),
        cmocka_unit_test(an_info_metric_has_one_series_that_is_replaced_with_long_labels),
        cmocka_unit_test(label_sets_beyond_the_limit_count_as_other_and_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
