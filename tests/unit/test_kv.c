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
    int64_t bytes = (int64_t)kv_page_bytes(KV_F32, 2, 16) * 2 * pages;
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

/* --- the cache of prefixes --- */

static struct kv_key key_of(int i)
{
    struct kv_key root, k;
    int32_t token[KV_PAGE] = {i};
    kv_key_root(&root, "");
    kv_key_next(&k, &root, token, NULL);
    return k;
}

static void test_a_published_page_is_found_until_it_is_taken_for_something_else(void **state)
{
    (void)state;
    struct kv_pool p;
    struct kv_key k[4];
    int page[4];
    pool_of(&p, 4);
    for (int i = 0; i < 4; i++) {
        k[i] = key_of(i);
        assert_int_equal(kv_prefix_find(&p, &k[i]), -1);
        page[i] = kv_page_take(&p);
        assert_true(kv_prefix_publish(&p, page[i], &k[i]));
        assert_int_equal(kv_prefix_find(&p, &k[i]), page[i]);
    }
    assert_int_equal(kv_page_take(&p), -1); /* they are held */
    static const int order[] = {2, 0, 3, 1};
    for (int i = 0; i < 4; i++) kv_page_drop(&p, page[order[i]]);
    assert_int_equal(p.nfree, 0);
    assert_int_equal(p.nidle, 4);
    assert_int_equal(kv_available(&p), 4);
    kv_page_ref(&p, page[0]); /* used again: now it is the last */
    assert_int_equal(p.nidle, 3);
    kv_page_drop(&p, page[0]);
    static const int gone[] = {2, 3, 1, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(kv_page_take(&p), page[gone[i]]);
        for (int j = 0; j < 4; j++) assert_int_equal(kv_prefix_find(&p, &k[gone[j]]), j <= i ? -1 : page[gone[j]]);
    }
    assert_int_equal(p.evictions, 4);
    assert_int_equal(p.npublished, 0);
    for (int i = 0; i < 4; i++) kv_page_drop(&p, i);
    assert_int_equal(p.nfree, 4);
    kv_pool_close(&p);
}

static void test_a_key_names_one_page(void **state)
{
    (void)state;
    struct kv_pool p;
    struct kv_key k = key_of(1);
    pool_of(&p, 2);
    int a = kv_page_take(&p), b = kv_page_take(&p);
    assert_true(kv_prefix_publish(&p, a, &k));
    assert_false(kv_prefix_publish(&p, b, &k));
    kv_page_drop(&p, b);
    assert_int_equal(p.nfree, 1);
    kv_prefix_forget(&p, a); /* held: only not found any more */
    assert_int_equal(kv_prefix_find(&p, &k), -1);
    assert_int_equal(p.nfree, 1);
    assert_true(kv_prefix_publish(&p, a, &k));
    kv_page_drop(&p, a);
    assert_int_equal(p.nidle, 1);
    kv_prefix_forget(&p, a);
    assert_int_equal(p.nidle, 0);
    assert_int_equal(p.nfree, 2);
    kv_prefix_forget(&p, a); /* fine */
    kv_pool_close(&p);
}

static void test_keys_differ_in_all_that_they_stand_for(void **state)
{
    (void)state;
    struct kv_key root, other, k[7];
    int32_t token[KV_PAGE] = {1, 2, 3}, last[KV_PAGE] = {1, 2, 3};
    last[KV_PAGE - 1] = 1;
    kv_key_root(&root, "salt");
    kv_key_root(&other, "Salt");
    kv_key_next(&k[0], &root, token, NULL);
    kv_key_next(&k[1], &other, token, NULL);
    kv_key_next(&k[2], &root, last, NULL);
    kv_key_next(&k[3], &root, token, &root);
    kv_key_next(&k[4], &root, token, &other);
    kv_key_next(&k[5], &k[0], token, NULL);
    kv_key_next(&k[6], &k[2], token, NULL);
    for (int i = 0; i < 7; i++)
        for (int j = 0; j < i; j++) assert_memory_not_equal(&k[i], &k[j], sizeof k[i]);
    struct kv_key again;
    kv_key_next(&again, &root, token, NULL);
    assert_memory_equal(&again, &k[0], sizeof again);
}

/* A thousand pages in and out at random: every page is either held, idle or free, and what is found is right. */
static void test_pages_are_held_idle_or_free_whatever_happens(void **state)
{
    (void)state;
    enum { PAGES = 64, KEYS = 200 };
    struct kv_pool p;
    int held[PAGES] = {0}, owner[PAGES];
    uint32_t rnd = 1;
    pool_of(&p, PAGES);
    for (int step = 0; step < 20000; step++) {
        rnd = rnd * 1664525u + 1013904223u;
        int what = (int)(rnd >> 24) % 4, i = (int)(rnd >> 8) % KEYS, page = (int)(rnd >> 16) % PAGES;
        struct kv_key k = key_of(i);
        int found = kv_prefix_find(&p, &k);
        if (found >= 0) assert_int_equal(owner[found], i);
        if (what == 0 && found >= 0) {
            kv_page_ref(&p, found);
            held[found]++;
        } else if (what == 1 && (found = kv_page_take(&p)) >= 0) {
            assert_int_equal(held[found]++, 0);
            if (kv_prefix_publish(&p, found, &k)) owner[found] = i;
        } else if (what >= 2 && held[page] > 0) {
            kv_page_drop(&p, page);
            held[page]--;
        } else if (what == 3 && step % 50 == 0) {
            kv_prefix_forget(&p, page);
        }
        int n = 0;
        for (int j = 0; j < PAGES; j++) n += held[j] > 0;
        assert_int_equal(n + p.nfree + p.nidle, PAGES);
    }
    assert_true(p.evictions > 100);
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
        cmocka_unit_test(test_a_published_page_is_found_until_it_is_taken_for_something_else),
        cmocka_unit_test(test_a_key_names_one_page),
        cmocka_unit_test(test_keys_differ_in_all_that_they_stand_for),
        cmocka_unit_test(test_pages_are_held_idle_or_free_whatever_happens),
        cmocka_unit_test(test_the_automatic_size_holds_a_whole_context),
        cmocka_unit_test(test_a_pool_smaller_than_a_page_is_refused),
        cmocka_unit_test(test_pages_are_rounded_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
