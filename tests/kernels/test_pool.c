/* The pool: every thread runs, barriers hold, claims hand out every item once, also when there are more threads than
 * cores. */
#include "tests/kernels/common.h"
#include <time.h>

#define ITEMS 1000
#define PHASES 50

struct job {
    _Atomic int ran, sum[PHASES];
    _Atomic int taken[ITEMS];
    int after[POOL_THREADS_MAX];
};

static void count_threads(struct kthread *t, void *arg)
{
    struct job *j = arg;
    atomic_fetch_add(&j->ran, 1);
    memset(t->scratch, t->id, t->scratch_bytes);
}

static void every_thread_runs_once_per_run(void **state)
{
    (void)state;
    for (int n = 1; n <= 5; n++) {
        struct pool *p = pool_of(n);
        struct job j = {0};
        for (int i = 0; i < 200; i++) pool_run(p, count_threads, &j);
        assert_int_equal(j.ran, 200 * n);
        assert_int_equal(pool_threads(p), n);
        pool_free(p);
    }
}

static void parked_threads_wake_up(void **state)
{
    (void)state;
    struct pool *p = pool_of(3);
    struct job j = {0};
    for (int i = 0; i < 5; i++) {
        struct timespec pause = {0, 3000000};
        nanosleep(&pause, NULL);
        pool_run(p, count_threads, &j);
    }
    assert_int_equal(j.ran, 15);
    pool_free(p);
}

static void phases(struct kthread *t, void *arg)
{
    struct job *j = arg;
    for (int i = 0; i < PHASES; i++) {
        atomic_fetch_add(&j->sum[i], 1);
        pool_barrier(t);
        if (atomic_load(&j->sum[i]) != t->n) j->after[t->id]++;
    }
}

static void nobody_passes_a_barrier_before_all_have_come(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        struct pool *p = pool_of(n);
        for (int i = 0; i < 20; i++) {
            struct job j = {0};
            pool_run(p, phases, &j);
            for (int k = 0; k < n; k++) assert_int_equal(j.after[k], 0);
        }
        pool_free(p);
    }
}

static void claim_all(struct kthread *t, void *arg)
{
    struct job *j = arg;
    for (int phase = 0; phase < PHASES; phase++) {
        pool_claim_begin(t);
        int chunk = 1 + phase % 7;
        for (int first; (first = pool_claim(t, ITEMS, chunk)) >= 0;)
            for (int i = first; i < first + chunk && i < ITEMS; i++) atomic_fetch_add(&j->taken[i], 1);
        pool_barrier(t);
    }
}

static void every_item_is_claimed_once_per_phase(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        struct pool *p = pool_of(n);
        for (int run = 1; run <= 3; run++) {
            struct job j = {0};
            pool_run(p, claim_all, &j);
            for (int i = 0; i < ITEMS; i++) assert_int_equal(j.taken[i], PHASES);
        }
        pool_free(p);
    }
}

static void claim_near(struct kthread *t, void *arg)
{
    struct job *j = arg;
    for (int phase = 0; phase < PHASES; phase++) {
        int items = phase % 3 == 0 ? ITEMS : phase % 7, most = 1 + phase % 4, last = -1, n = 0;
        pool_claim_begin(t);
        for (int i; (i = pool_claim_near(t, items, most, &n)) >= 0;) {
            bool own = i >= items * t->id / t->n && i < items * (t->id + 1) / t->n;
            if (own && i <= last) atomic_fetch_add(&j->sum[0], 1); /* out of order */
            if (n < 1 || n > (own ? most : 1)) atomic_fetch_add(&j->sum[0], 1);
            if (own) last = i + n - 1;
            for (int k = i; k < i + n; k++) atomic_fetch_add(&j->taken[k], 1);
        }
        pool_barrier(t);
    }
}

static void near_claims_take_every_item_once_and_the_own_part_in_order(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        struct pool *p = pool_of(n);
        for (int run = 1; run <= 3; run++) {
            struct job j = {0};
            pool_run(p, claim_near, &j);
            assert_int_equal(j.sum[0], 0);
            for (int i = 0; i < ITEMS; i++) {
                int want = 0;
                for (int phase = 0; phase < PHASES; phase++) want += phase % 3 == 0 || i < phase % 7;
                assert_int_equal(j.taken[i], want);
            }
        }
        pool_free(p);
    }
}

static void a_number_of_threads_out_of_range_is_refused(void **state)
{
    (void)state;
    struct pool *p = NULL;
    struct err e = {0};
    assert_int_equal(pool_new(&p, POOL_THREADS_MAX + 1, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    assert_int_equal(pool_new(&p, -1, NULL), -1);
    assert_null(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_once_per_run),
        cmocka_unit_test(parked_threads_wake_up),
        cmocka_unit_test(nobody_passes_a_barrier_before_all_have_come),
        cmocka_unit_test(every_item_is_claimed_once_per_phase),
        cmocka_unit_test(near_claims_take_every_item_once_and_the_own_part_in_order),
        cmocka_unit_test(a_number_of_threads_out_of_range_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
