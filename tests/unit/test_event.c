/* Events: one that can't be written says so where it was to be part of a change, and in the log where it was not; none is dropped without a word. */
#include "base/json.h"
#include "gateway/live/event.h"
#include "tests/unit/data_room.h"

#define LOG_BYTES 8192
#define LARGE 20000 /* bytes of a detail: more than an event takes */

struct add {
    json_t *detail;
};

static int run_add(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    return event_add(d, c, "t1", "version.ready", "sql", ((const struct add *)u)->detail, e);
}

static json_t *detail_of(size_t bytes)
{
    char *text = malloc(bytes + 1);
    memset(text, 'x', bytes);
    text[bytes] = 0;
    json_t *o = json_pack("{ss}", "why", text);
    free(text);
    assert_non_null(o);
    return o;
}

static void a_change_whose_event_is_too_large_fails_and_says_why(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    struct add small = {detail_of(10)}, large = {detail_of(LARGE)}, none = {NULL};
    assert_ok(db_write_wait(r->db, run_add, &small, &e), e);
    assert_ok(db_write_wait(r->db, run_add, &none, &e), e);
    assert_int_equal(db_write_wait(r->db, run_add, &large, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_non_null(strstr(e.msg, "larger than"));
    assert_int_equal(room_number(r, "SELECT count(*) FROM event"), 2);
    json_decref(small.detail);
    json_decref(large.detail);
}

/* What the log gets meanwhile. */
static void note_logged(struct room *r, json_t *detail, char text[LOG_BYTES])
{
    struct err e = {0};
    int ends[2], own = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    event_note(r->db, "", "engine.ejected", "gpu-1", detail);
    assert_ok(db_write_wait(r->db, run_add, &(struct add){NULL}, &e), e); /* behind it */
    db_flush(r->db, &e);
    dup2(own, STDERR_FILENO);
    close(ends[1]);
    ssize_t n = read(ends[0], text, LOG_BYTES - 1);
    text[n > 0 ? n : 0] = 0;
    close(ends[0]);
    close(own);
}

static void an_event_that_is_lost_is_in_the_log_with_its_reason(void **state)
{
    struct room *r = *state;
    char text[LOG_BYTES];
    note_logged(r, detail_of(10), text);
    assert_null(strstr(text, "event_lost"));
    note_logged(r, detail_of(LARGE), text);
    if (!strstr(text, "event_lost") || !strstr(text, "engine.ejected") || !strstr(text, "larger than")) fail_msg("%s", text);
    assert_int_equal(room_number(r, "SELECT count(*) FROM event WHERE type = 'engine.ejected'"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_change_whose_event_is_too_large_fails_and_says_why, room_setup, room_teardown),
        cmocka_unit_test_setup_teardown(an_event_that_is_lost_is_in_the_log_with_its_reason, room_setup, room_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
