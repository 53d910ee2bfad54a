/* Tests of what repeated requests, lists and revisions stand on: sealed texts, kept answers and their transaction, pages read in both directions,
 * preconditions. */
#include "base/clock.h"
#include "base/json.h"
#include "base/seal.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/db/db_audit.h"
#include "tests/unit/data_room.h"
#include <pthread.h>

struct once_room {
    struct room r;
    struct once_book *book;
};

static int setup(void **state)
{
    struct once_room *x = calloc(1, sizeof *x);
    struct err e = {0};
    room_new(&x->r);
    room_start(&x->r);
    assert_ok(once_open(&x->book, x->r.db, &e), e);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct once_room *x = *state;
    once_close(x->book);
    room_end(&x->r);
    free(x);
    return 0;
}

/* --- sealed texts --- */

static void a_sealed_text_opens_under_its_key_and_purpose_only(void **state)
{
    (void)state;
    static const uint8_t pepper[32] = {7}, other[32] = {8};
    uint8_t key[SEAL_KEY], wrong[SEAL_KEY];
    struct err e = {0};
    struct buf sealed, again, out;
    seal_key(pepper, "test", key);
    buf_init(&sealed, 1000);
    buf_init(&again, 1000);
    buf_init(&out, 1000);
    assert_ok(seal(key, "row 1", "the secret", 10, &sealed, &e), e);
    assert_ok(seal(key, "row 1", "the secret", 10, &again, &e), e);
    assert_int_equal(sealed.len, 10 + SEAL_EXTRA);
    assert_memory_not_equal(sealed.data, again.data, sealed.len); /* a nonce of its own */
    assert_ok(seal_open(key, "row 1", sealed.data, sealed.len, &out, &e), e);
    assert_string_equal(out.data, "the secret");
    buf_reset(&out);
    assert_int_equal(seal_open(key, "row 2", sealed.data, sealed.len, &out, NULL), -1);
    seal_key(pepper, "another", wrong);
    assert_int_equal(seal_open(wrong, "row 1", sealed.data, sealed.len, &out, NULL), -1);
    seal_key(other, "test", wrong);
    assert_int_equal(seal_open(wrong, "row 1", sealed.data, sealed.len, &out, NULL), -1);
    assert_int_equal(out.len, 0);
    buf_close(&sealed);
    buf_close(&again);
    buf_close(&out);
}

static void a_sealed_text_with_any_byte_changed_or_cut_off_does_not_open(void **state)
{
    (void)state;
    static const uint8_t key[SEAL_KEY] = {1};
    struct err e = {0};
    struct buf sealed, out;
    buf_init(&sealed, 1000);
    buf_init(&out, 1000);
    assert_ok(seal(key, "a", "text", 4, &sealed, &e), e);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.data[i] ^= 1;
        assert_int_equal(seal_open(key, "a", sealed.data, sealed.len, &out, NULL), -1);
        sealed.data[i] ^= 1;
        assert_int_equal(seal_open(key, "a", sealed.data, i, &out, NULL), -1);
        assert_int_equal(out.len, 0);
    }
    buf_reset(&sealed);
    assert_ok(seal(key, "a", "", 0, &sealed, &e), e);
    assert_ok(seal_open(key, "a", sealed.data, sealed.len, &out, &e), e);
    assert_int_equal(out.len, 0);
    buf_close(&sealed);
    buf_close(&out);
}

/* --- kept answers --- */

static const uint8_t body_a[SHA256_BYTES] = {1}, body_b[SHA256_BYTES] = {2};

struct effect {
    struct actor by;
    const char *answer;
    bool fails;
};

static int run_effect(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES(?1, 1)";
    struct effect *x = u;
    json_t *answer = json_pack("{ss}", "text", x->answer);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = !st || db_bind(st, e, "s", x->answer) || db_done(st, e) ? -1 : once_keep(d, c, &x->by, 201, answer, e);
    json_decref(answer);
    return rc == 0 && x->fails ? err_set(e, ERR_CONFLICT, "as asked") : rc;
}

static int begin(struct once_room *x, const char *actor, const char *key, const uint8_t *body, struct once **once,
                 struct once_answer *stored, struct err *e)
{
    *once = NULL;
    *stored = (struct once_answer){0};
    return once_begin(x->book, actor, key, body, once, stored, e);
}

/* One request from its begin to its end; returns what was stored, for the caller to free. */
static char *ask(struct once_room *x, const char *actor, const char *key, const uint8_t *body, const char *answer,
                 bool fails)
{
    struct once *once;
    struct once_answer stored;
    struct err e = {0};
    assert_ok(begin(x, actor, key, body, &once, &stored, &e), e);
    if (stored.body) {
        assert_null(once);
        assert_int_equal(stored.status, 201);
        return stored.body;
    }
    struct effect effect = {{actor, "", "", once, 0}, answer, fails};
    assert_int_equal(db_write_wait(x->r.db, run_effect, &effect, &e), fails ? -1 : 0);
    once_end(once);
    return NULL;
}

static int run_age(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE idempotency SET t = t - ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "i", *(int64_t *)u) ? -1 : db_done(st, e);
}

static int run_count(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM idempotency";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    *(int64_t *)u = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return 0;
}

static int64_t kept(struct once_room *x)
{
    int64_t n = -1;
    struct err e = {0};
    assert_ok(db_read(x->r.db, run_count, &n, 2000, &e), e);
    return n;
}

static void an_answer_is_kept_with_its_effect_and_given_again(void **state)
{
    struct once_room *x = *state;
    assert_null(ask(x, "me", "k", body_a, "first", false));
    for (int i = 0; i < 3; i++) {
        char *again = ask(x, "me", "k", body_a, "second", false);
        assert_string_equal(again, "{\"text\":\"first\"}");
        free(again);
    }
    assert_null(ask(x, "you", "k", body_a, "third", false)); /* another's key */
    assert_null(ask(x, "me", "k2", body_a, "fourth", false));
    assert_int_equal(kept(x), 3);
}

static void an_effect_that_fails_keeps_no_answer(void **state)
{
    struct once_room *x = *state;
    assert_null(ask(x, "me", "k", body_a, "no", true));
    assert_int_equal(kept(x), 0);
    assert_null(ask(x, "me", "k", body_a, "yes", false));
    assert_int_equal(kept(x), 1);
}

static void a_key_for_another_body_is_refused_under_way_and_after(void **state)
{
    struct once_room *x = *state;
    struct once *once, *second;
    struct once_answer stored;
    struct err e = {0}, other = {0}, same = {0}, later = {0};
    assert_ok(begin(x, "me", "k", body_a, &once, &stored, &e), e);
    assert_int_equal(begin(x, "me", "k", body_b, &second, &stored, &other), -1);
    assert_int_equal(other.code, ERR_KEY_REUSED);
    assert_int_equal(begin(x, "me", "k", body_a, &second, &stored, &same), -1);
    assert_int_equal(same.code, ERR_CONFLICT);
    once_end(once);
    assert_null(ask(x, "me", "k", body_a, "done", false));
    assert_int_equal(begin(x, "me", "k", body_b, &second, &stored, &later), -1);
    assert_int_equal(later.code, ERR_KEY_REUSED);
}

static void a_request_that_answers_later_is_under_way_until_its_last_reference_goes(void **state)
{
    struct once_room *x = *state;
    struct once *once, *second;
    struct once_answer stored;
    struct err e = {0}, busy = {0};
    assert_ok(begin(x, "me", "k", body_a, &once, &stored, &e), e);
    assert_ptr_equal(once_ref(once), once);
    once_end(once);
    assert_int_equal(begin(x, "me", "k", body_a, &second, &stored, &busy), -1);
    assert_int_equal(busy.code, ERR_CONFLICT);
    once_end(once);
    assert_ok(begin(x, "me", "k", body_a, &second, &stored, &e), e);
    once_end(second);
    assert_null(once_ref(NULL));
    once_end(NULL);
}

static void an_answer_of_yesterday_is_forgotten_and_its_row_goes_with_the_next(void **state)
{
    struct once_room *x = *state;
    struct err e = {0};
    int64_t nearly = (ONCE_KEEP_S - 60) * 1000000ll, rest = 61 * 1000000ll;
    assert_null(ask(x, "me", "k", body_a, "old", false));
    assert_ok(db_write_wait(x->r.db, run_age, &nearly, &e), e);
    char *again = ask(x, "me", "k", body_a, "new", false);
    assert_string_equal(again, "{\"text\":\"old\"}");
    free(again);
    assert_ok(db_write_wait(x->r.db, run_age, &rest, &e), e);
    assert_null(ask(x, "me", "other", body_a, "sweeps", false));
    assert_int_equal(kept(x), 1);
    assert_null(ask(x, "me", "k", body_b, "new", false)); /* free for another request, too */
}

static void keys_are_checked(void **state)
{
    struct once_room *x = *state;
    char longest[ONCE_KEY_MAX + 2];
    struct once *once;
    struct once_answer stored;
    memset(longest, 'x', sizeof longest);
    longest[ONCE_KEY_MAX + 1] = 0;
    for (const char *const *key = (const char *const[]){"", "a b", "a\tb", "\x7f", "\xc3\xa9", longest, NULL}; *key;
         key++) {
        struct err e = {0};
        assert_int_equal(begin(x, "me", *key, body_a, &once, &stored, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(e.param, "Idempotency-Key");
    }
    longest[ONCE_KEY_MAX] = 0;
    struct err e = {0};
    assert_ok(begin(x, "me", longest, body_a, &once, &stored, &e), e);
    once_end(once);
}

struct racer {
    struct once_room *x;
    pthread_barrier_t *gate;
    _Atomic int *effects, *repeated;
};

static void *race(void *u)
{
    struct racer *me = u;
    struct once *once;
    struct once_answer stored;
    struct err e = {0};
    pthread_barrier_wait(me->gate);
    while (begin(me->x, "me", "race", body_a, &once, &stored, &e)) {
        if (e.code != ERR_CONFLICT) return (void *)"refused otherwise";
        err_clear(&e);
    }
    if (once) {
        struct effect effect = {{"me", "", "", once, 0}, "the only one", false};
        if (db_write_wait(me->x->r.db, run_effect, &effect, &e) == 0) ++*me->effects;
    } else {
        ++*me->repeated;
    }
    free(stored.body);
    once_end(once);
    return NULL;
}

static void of_many_at_once_one_has_the_effect(void **state)
{
    enum { N = 12 };
    struct once_room *x = *state;
    pthread_t thread[N];
    pthread_barrier_t gate;
    _Atomic int effects = 0, repeated = 0;
    struct racer me = {x, &gate, &effects, &repeated};
    pthread_barrier_init(&gate, NULL, N);
    for (int i = 0; i < N; i++) assert_int_equal(pthread_create(&thread[i], NULL, race, &me), 0);
    for (int i = 0; i < N; i++) {
        void *trouble;
        pthread_join(thread[i], &trouble);
        if (trouble) fail_msg("%s", (const char *)trouble);
    }
    pthread_barrier_destroy(&gate);
    assert_int_equal(effects, 1);
    assert_int_equal(repeated, N - 1);
}

/* --- pages --- */

#define NUMBERS "WITH RECURSIVE n(v) AS (VALUES(1) UNION ALL SELECT v + 1 FROM n WHERE v < 7) SELECT v FROM n "

struct numbers {
    struct page page;
    int64_t cursor;
    json_t *list;
    bool more;
};

static json_t *number_json(sqlite3_stmt *st)
{
    return json_integer(sqlite3_column_int64(st, 0));
}

static int read_numbers(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char up[] = NUMBERS "WHERE v > ?1 ORDER BY v LIMIT ?2",
                      down[] = NUMBERS "WHERE v < ?1 ORDER BY v DESC LIMIT ?2";
    struct numbers *n = u;
    sqlite3_stmt *st = db_stmt(d, c, page_back(&n->page) ? down : up, e);
    if (!st || db_bind(st, e, "ii", n->cursor, page_ask(&n->page))) return -1;
    return page_rows(st, &n->page, number_json, n->list, &n->more, e);
}

static void a_page_stands_in_the_lists_order_whichever_way_it_was_read(void **state)
{
    struct once_room *x = *state;
    static const struct {
        struct page page;
        const char *want;
        bool more;
    } rows[] = {
        {{"", "", 3}, "[1,2,3]", true},
        {{"3", "", 3}, "[4,5,6]", true},
        {{"4", "", 3}, "[5,6,7]", false},
        {{"6", "", 3}, "[7]", false},
        {{"7", "", 3}, "[]", false},
        {{"", "7", 3}, "[4,5,6]", true},
        {{"", "4", 3}, "[1,2,3]", false},
        {{"", "3", 3}, "[1,2]", false},
        {{"", "1", 3}, "[]", false},
        {{"", "99", 2}, "[6,7]", true},
        {{"", "", 7}, "[1,2,3,4,5,6,7]", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct numbers n = {.page = rows[i].page, .list = json_array()};
        struct err e = {0};
        assert_ok(page_number(&n.page, &n.cursor, &e), e);
        assert_ok(db_read(x->r.db, read_numbers, &n, 2000, &e), e);
        char *got = json_dumps(n.list, JSON_COMPACT);
        assert_string_equal(got, rows[i].want);
        assert_int_equal(n.more, rows[i].more);
        free(got);
        json_decref(n.list);
    }
}

static void a_cursor_that_is_no_number_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        struct page page;
        const char *param;
    } rows[] = {{{"x", "", 1}, "after"},
                {{"", "-1", 1}, "before"},
                {{"0", "", 1}, "after"},
                {{"1 ", "", 1}, "after"},
                {{"", "9999999999999999", 1}, "before"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t v;
        struct err e = {0};
        assert_int_equal(page_number(&rows[i].page, &v, &e), -1);
        assert_string_equal(e.param, rows[i].param);
    }
}

/* --- revisions --- */

static void a_precondition_holds_or_is_refused_with_412(void **state)
{
    (void)state;
    static const struct {
        int64_t want, have;
        bool holds;
    } rows[] = {
        {REVISION_ANY, 0, true},
        {REVISION_ANY, 3, true},
        {3, 3, true},
        {3, 4, false},
        {3, 0, false},
        {REVISION_NONE, 0, true},
        {REVISION_NONE, 1, false},
        {REVISION_SOME, 1, true},
        {REVISION_SOME, 0, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        assert_int_equal(revision_check(rows[i].want, rows[i].have, &e), rows[i].holds ? 0 : -1);
        assert_int_equal(e.code, rows[i].holds ? ERR_NONE : ERR_PRECONDITION);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        cmocka_unit_test(a_sealed_text_opens_under_its_key_and_purpose_only),
        cmocka_unit_test(a_sealed_text_with_any_byte_changed_or_cut_off_does_not_open),
        T(an_answer_is_kept_with_its_effect_and_given_again),
        T(an_effect_that_fails_keeps_no_answer),
        T(a_key_for_another_body_is_refused_under_way_and_after),
        T(a_request_that_answers_later_is_under_way_until_its_last_reference_goes),
        T(an_answer_of_yesterday_is_forgotten_and_its_row_goes_with_the_next),
        T(keys_are_checked),
        T(of_many_at_once_one_has_the_effect),
        T(a_page_stands_in_the_lists_order_whichever_way_it_was_read),
        cmocka_unit_test(a_cursor_that_is_no_number_is_refused_by_name),
        cmocka_unit_test(a_precondition_holds_or_is_refused_with_412),
    };
    json_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
