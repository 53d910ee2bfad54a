/* What a scrape sees: labels are bounded whoever comes, a gauge that was cleared is not told, and the process knows itself. */
#include "base/metrics.h"
#include "base/process.h"
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { UP, ANSWERS, WAIT, ROWS };
static const struct metric_row rows[ROWS] = {
    [UP] = {METRIC_GAUGE, "up", "Is it", "engine"},
    [ANSWERS] = {METRIC_COUNTER, "answers_total", "Answers", "tenant,status"},
    [WAIT] = {METRIC_HISTOGRAM, "wait_seconds", "Wait", "class"},
};

static char *printed(struct metrics *m)
{
    struct buf b;
    buf_init(&b, 1u << 20);
    assert_int_equal(metrics_print(m, &b), 0);
    return buf_take(&b);
}

static int count_lines(const char *text, const char *begin)
{
    int n = 0;
    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : p) n += strncmp(p, begin, strlen(begin)) == 0;
    return n;
}

static void a_gauge_that_was_cleared_is_told_again_when_it_is_set(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(rows, ROWS);
    metric_set(m, UP, (const char *[]){"a"}, 1);
    metric_set(m, UP, (const char *[]){"b"}, 0);
    metric_clear(m, UP);
    metric_set(m, UP, (const char *[]){"b"}, 1);
    char *text = printed(m);
    assert_null(strstr(text, "engine=\"a\""));
    assert_non_null(strstr(text, "up{engine=\"b\"} 1\n"));
    free(text);
    metrics_free(m);
}

static void whoever_comes_too_late_is_counted_among_the_others(void **state)
{
    (void)state;
    struct metrics *m = metrics_new(rows, ROWS);
    char tenant[16];
    for (int i = 0; i < 4 * METRIC_SERIES; i++) {
        snprintf(tenant, sizeof tenant, "t%d", i);
        metric_add(m, ANSWERS, (const char *[]){tenant, "200"}, 1);
        metric_observe(m, WAIT, (const char *[]){tenant}, 0.1);
    }
    char *text = printed(m);
    assert_int_equal(count_lines(text, "answers_total{"), METRIC_SERIES);
    assert_int_equal(count_lines(text, "wait_seconds_count{"), METRIC_SERIES);
    double others = metric_get(m, ANSWERS, (const char *[]){"other", "other"});
    assert_true(others == 3 * METRIC_SERIES + 1);
    free(text);
    metrics_free(m);
}

static void a_process_knows_what_it_takes(void **state)
{
    (void)state;
    struct process_use before, after;
    process_use(&before);
    assert_true(before.resident > 100000 && before.resident < before.virtual_);
    assert_true(before.threads == 1 && before.open_fds >= 3 && before.open_fds < before.max_fds);
    assert_true(fabs(before.start_s - (double)time(NULL)) < 60);
    int fd = dup(1);
    for (clock_t until = clock() + CLOCKS_PER_SEC / 20; clock() < until;) {
    }
    process_use(&after);
    close(fd);
    assert_int_equal(after.open_fds, before.open_fds + 1);
    assert_true(after.cpu_s > before.cpu_s);
}

static void a_disk_has_room_and_no_place_has_none(void **state)
{
    (void)state;
    int64_t free_bytes, size;
    disk_room("/", &free_bytes, &size);
    assert_true(size > 0 && free_bytes <= size);
    disk_room("/no/such/folder", &free_bytes, &size);
    assert_true(size == 0 && free_bytes == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gauge_that_was_cleared_is_told_again_when_it_is_set),
        cmocka_unit_test(whoever_comes_too_late_is_counted_among_the_others),
        cmocka_unit_test(a_process_knows_what_it_takes),
        cmocka_unit_test(a_disk_has_room_and_no_place_has_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
