/* Tests of the thread that touches the pool's memory ahead: the contents stay, all of it comes, it ends when told. */
#include "base/log.h"
#include "engine/kv_touch.h"
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* clang-format off */
#include <cmocka.h>
/* clang-format on */

#define LAYERS 3
#define LAYER_BYTES (3 * HUGE_PAGE + 4096 * 5) /* layers begin somewhere inside a huge page */
#define BYTES (LAYERS * LAYER_BYTES)

static atomic_bool at_work;
static atomic_int asked;

static bool is_busy(void *u)
{
    assert_ptr_equal(u, &at_work);
    atomic_fetch_add(&asked, 1);
    return atomic_load(&at_work);
}

static atomic_size_t left = (size_t)1 << 40;

static size_t is_left(void)
{
    return atomic_load(&left);
}

static struct kv_pool pool_of_bytes(size_t bytes)
{
    struct kv_pool p = {.bytes = bytes, .cache = {.layers = LAYERS, .base = big_alloc(bytes)}};
    assert_non_null(p.cache.base);
    return p;
}

/* 4 KB pages that are in memory. */
static size_t resident(const struct kv_pool *p)
{
    static unsigned char seen[BYTES / 4096 + 1];
    size_t n = (p->bytes + 4095) / 4096, count = 0;
    assert_int_equal(mincore(p->cache.base, p->bytes, seen), 0);
    for (size_t i = 0; i < n; i++) count += seen[i] & 1;
    return count;
}

static void test_all_memory_comes_and_what_is_written_meanwhile_stays(void **state)
{
    (void)state;
    struct kv_pool p = pool_of_bytes(BYTES);
    struct kv_toucher *t;
    struct err e = {0};
    size_t all = (p.bytes + 4095) / 4096;
    assert_true(resident(&p) < all);
    atomic_store(&at_work, false);
    assert_int_equal(kv_touch_begin(&t, &p, is_busy, &at_work, is_left, &e), 0);
    assert_non_null(t);
    for (size_t at = 0; at < p.bytes; at += 1111) p.cache.base[at] = (char)(at % 101 + 1);
    for (int tries = 0; tries < 30000 && resident(&p) < all; tries++) usleep(1000);
    assert_int_equal(resident(&p), all);
    kv_touch_end(t);
    for (size_t at = 0; at < p.bytes; at += 1111) assert_int_equal(p.cache.base[at], at % 101 + 1);
    for (size_t at = 1; at < p.bytes; at += 1111) assert_int_equal(p.cache.base[at], 0);
    big_free(p.cache.base, p.bytes);
}

static void test_it_ends_in_the_middle(void **state)
{
    (void)state;
    struct kv_pool p = pool_of_bytes(BYTES);
    struct kv_toucher *t;
    struct err e = {0};
    atomic_store(&at_work, true); /* so it rests */
    atomic_store(&asked, 0);
    assert_int_equal(kv_touch_begin(&t, &p, is_busy, &at_work, is_left, &e), 0);
    while (atomic_load(&asked) == 0) usleep(100);
    kv_touch_end(t);
    int then = atomic_load(&asked);
    usleep(2000);
    assert_int_equal(atomic_load(&asked), then);
    big_free(p.cache.base, p.bytes);
}

static void test_a_small_pool_needs_no_thread(void **state)
{
    (void)state;
    struct kv_pool p = pool_of_bytes(HUGE_FROM - 1);
    struct kv_toucher *t = (struct kv_toucher *)&p;
    struct err e = {0};
    assert_int_equal(kv_touch_begin(&t, &p, is_busy, &at_work, is_left, &e), 0);
    assert_null(t);
    kv_touch_end(t);
    big_free(p.cache.base, p.bytes);
}

/* The pool fits, but hardly anything else would. */
static void test_memory_that_others_may_need_is_not_taken(void **state)
{
    (void)state;
    struct kv_pool p = pool_of_bytes(BYTES);
    struct kv_toucher *t;
    struct err e = {0};
    atomic_store(&at_work, false);
    atomic_store(&asked, 0);
    atomic_store(&left, 2 * BYTES - 1);
    assert_int_equal(kv_touch_begin(&t, &p, is_busy, &at_work, is_left, &e), 0);
    usleep(20000); /* it would have begun */
    kv_touch_end(t);
    atomic_store(&left, (size_t)1 << 40);
    assert_int_equal(atomic_load(&asked), 0);
    assert_int_equal(resident(&p), 0);
    big_free(p.cache.base, p.bytes);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_memory_comes_and_what_is_written_meanwhile_stays),
        cmocka_unit_test(test_it_ends_in_the_middle),
        cmocka_unit_test(test_memory_that_others_may_need_is_not_taken),
        cmocka_unit_test(test_a_small_pool_needs_no_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
