/* Tests of engine/kv: pages are counted, reservations are all or nothing, nothing is lost. */
#include "base/log.h"
#include "engine/kv.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct model shape = {.layers = 2, .kv_heads = 2, .head_dim = 16, .max_context = 256, .prec = PREC_EXACT};

static void pool_of(struct kv_pool *p, int pages)
{
    struct err e = {0};
    int64_t bytes = (int64_t)kv_page_bytes(PREC_EXACT, 2, 16) * 2 * pages;
    assert_int_equal(kv_pool_init(p, &shape, bytes, 4, &e), 0);
    assert_int_equal(p->cache.pages, pages);
    assert_int_equal(p->nfree, pages);
}

static void test_every_page_is_handed_out_once(void **state)
{
    (void)state;
    struct kv_pool p;
    char seen[7] = {0};
    pool_of(&p, 7);
    for (int i = 0; i < 7; i++) {
        int page = kv_page_take(&p);
        assert_in_range(page, 0, 6);
        assert_int_equal(seen[page]++, 0);
    }
    assert_int_equal(kv_page_take(&p), -1);
    for (int i = 0; i < 7; i++) kv_page_drop(&p, i);
    assert_int_equal(p.nfree, 7);
    kv_pool_close(&p);
}

static void test_a_page_is_free_when_the_last_reference_is_dropped(void **state)
{
    (void)state;
    struct kv_pool p;
    pool_of(&p, 2);
    int page = kv_page_take(&p);
    kv_page_ref(&p, page);
    kv_page_drop(&p, page);
    assert_int_equal(p.nfree, 1);
    kv_page_drop(&p, page);
    assert_int_equal(p.nfree, 2);
    kv_pool_close(&p);
}

static void test_a_reservation_takes_all_pages_or_none(void **state)
{
    (void)state;
    static const struct {
        int tokens, pages;
        bool ok;
    } step[] = {{1, 1, true}, {16, 1, true}, {17, 2, true}, {65, 2, false}, {64, 4, true}, {40, 4, true}};
    struct kv_pool p;
    struct kv_seq s;
    struct err e = {0};
    pool_of(&p, 4);
    assert_int_equal(kv_seq_init(&s, 100, &e), 0);
    for (size_t i = 0; i < sizeof step / sizeof *step; i++) {
        assert_int_equal(kv_seq_reserve(&p, &s, step[i].tokens), step[i].ok);
        assert_int_equal(s.npages, step[i].pages);
        assert_int_equal(p.nfree, 4 - step[i].pages);
    }
    kv_seq_release(&p, &s);
    assert_int_equal(p.nfree, 4);
    kv_seq_close(&s);
    kv_pool_close(&p);
}

static void test_the_automatic_size_holds_a_whole_context(void **state)
{
    (void)state;
    struct kv_pool p;
    struct err e = {0};
    assert_int_equal(kv_pool_init(&p, &shape, 0, 1, &e), 0);
    assert_true(p.cache.pages >= kv_pages_of(256));
    kv_pool_close(&p);
}

static void test_a_pool_smaller_than_a_page_is_refused(void **state)
{
    (void)state;
    struct kv_pool p;
    struct err e = {0};
    assert_int_equal(kv_pool_init(&p, &shape, 100, 1, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
}

static void test_pages_are_rounded_up(void **state)
{
    (void)state;
    static const int row[][2] = {{0, 0}, {1, 1}, {15, 1}, {16, 1}, {17, 2}, {1 << 20, 1 << 16}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) assert_int_equal(kv_pages_of(row[i][0]), row[i][1]);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_page_is_handed_out_once),
        cmocka_unit_test(test_a_page_is_free_when_the_last_reference_is_dropped),
        cmocka_unit_test(test_a_reservation_takes_all_pages_or_none),
        cmocka_unit_test(test_the_automatic_size_holds_a_whole_context),
        cmocka_unit_test(test_a_pool_smaller_than_a_page_is_refused),
        cmocka_unit_test(test_pages_are_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
