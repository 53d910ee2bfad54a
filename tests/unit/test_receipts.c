/* Tests of engine/receipts: what is kept, what is pushed out, what expires; against a plain array as the model. */
#include "engine/receipts.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NONE (-1)

static void put(struct receipts *r, const char *id, enum receipt_state state, int64_t output, int64_t now)
{
    struct receipt x = {
        .state = state, .finish = state == RECEIPT_RUNNING ? "" : "stop", .prompt = 7, .output = output};
    snprintf(x.id, sizeof x.id, "%s", id);
    receipts_put(r, &x, now);
}

/* The output count of id, or NONE. */
static int64_t look(struct receipts *r, const char *id, int64_t now)
{
    struct receipt x;
    struct err e = {0};
    if (receipts_get(r, id, now, &x, &e) == 0) return x.output;
    assert_int_equal(e.code, ERR_NOT_FOUND);
    return NONE;
}

static void a_request_can_be_looked_up_while_it_runs_and_after_it_ended(void **state)
{
    (void)state;
    struct receipts *r = receipts_new(8, 100);
    put(r, "a", RECEIPT_RUNNING, 1, 10);
    assert_int_equal(look(r, "a", 10), 1);
    put(r, "a", RECEIPT_COMPLETED, 5, 20);
    struct receipt x;
    assert_int_equal(receipts_get(r, "a", 20, &x, NULL), 0);
    assert_int_equal(x.state, RECEIPT_COMPLETED);
    assert_string_equal(x.finish, "stop");
    assert_int_equal(x.prompt, 7);
    assert_int_equal(look(r, "b", 20), NONE);
    receipts_free(r);
}

static void a_receipt_expires_after_its_time_from_the_last_change(void **state)
{
    (void)state;
    struct receipts *r = receipts_new(8, 100);
    put(r, "a", RECEIPT_RUNNING, 1, 0);
    put(r, "a", RECEIPT_COMPLETED, 2, 50);
    assert_int_equal(look(r, "a", 150), 2);
    assert_int_equal(look(r, "a", 151), NONE);
    put(r, "a", RECEIPT_RUNNING, 3, 200);
    assert_int_equal(look(r, "a", 200), 3);
    receipts_free(r);
}

static void the_oldest_is_pushed_out_and_an_update_keeps_its_age(void **state)
{
    (void)state;
    struct receipts *r = receipts_new(3, 1000);
    put(r, "a", RECEIPT_RUNNING, 1, 1);
    put(r, "b", RECEIPT_RUNNING, 2, 2);
    put(r, "c", RECEIPT_RUNNING, 3, 3);
    put(r, "a", RECEIPT_COMPLETED, 4, 4);
    put(r, "d", RECEIPT_RUNNING, 5, 5);
    assert_int_equal(look(r, "a", 6), NONE);
    assert_int_equal(look(r, "b", 6), 2);
    assert_int_equal(look(r, "c", 6), 3);
    assert_int_equal(look(r, "d", 6), 5);
    receipts_free(r);
}

/* Long runs in a small table collide often: each look-up must agree with a plain list of the last CAPACITY new ids. */
static void thousands_of_requests_agree_with_a_plain_list(void **state)
{
    (void)state;
    enum { CAPACITY = 61, ROUNDS = 20000, IDS = 200 };
    struct receipts *r = receipts_new(CAPACITY, 1LL << 60);
    int held[CAPACITY], n = 0, oldest = 0;
    int64_t value[IDS];
    unsigned seed = 12345;
    for (int round = 0; round < ROUNDS; round++) {
        seed = seed * 1103515245u + 12345u;
        int id = (int)(seed >> 16) % IDS;
        char name[RECEIPT_ID_LEN];
        snprintf(name, sizeof name, "0193-%d", id);
        bool have = false;
        for (int i = 0; i < n; i++) have |= held[i] == id;
        assert_int_equal(look(r, name, round), have ? value[id] : NONE);
        put(r, name, RECEIPT_RUNNING, round, round);
        value[id] = round;
        if (have) continue;
        if (n < CAPACITY)
            held[n++] = id;
        else
            held[oldest] = id, oldest = (oldest + 1) % CAPACITY;
    }
    receipts_free(r);
}

static void the_longest_id_is_kept_whole(void **state)
{
    (void)state;
    char id[RECEIPT_ID_LEN];
    memset(id, 'x', sizeof id - 1);
    id[sizeof id - 1] = 0;
    struct receipts *r = receipts_new(2, 10);
    put(r, id, RECEIPT_RUNNING, 9, 0);
    assert_int_equal(look(r, id, 0), 9);
    id[sizeof id - 2] = 0;
    assert_int_equal(look(r, id, 0), NONE);
    receipts_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_can_be_looked_up_while_it_runs_and_after_it_ended),
        cmocka_unit_test(a_receipt_expires_after_its_time_from_the_last_change),
        cmocka_unit_test(the_oldest_is_pushed_out_and_an_update_keeps_its_age),
        cmocka_unit_test(thousands_of_requests_agree_with_a_plain_list),
        cmocka_unit_test(the_longest_id_is_kept_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
