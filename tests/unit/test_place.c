/* Placement: few adapters move when engines come and go, loads stay bounded, and engines that lose requests come back by
 * and by, in simulated time. */
#include "gateway/pool/place.h"
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 4000

static struct place named(int i)
{
    char name[32];
    snprintf(name, sizeof name, "engine-%d", i);
    return (struct place){place_hash(name), 1, 64, 0, 0};
}

static int engines(struct place *v, int n)
{
    for (int i = 0; i < n; i++) v[i] = named(i);
    return n;
}

static uint64_t key(int i)
{
    char text[32];
    snprintf(text, sizeof text, "digest %d", i);
    return place_hash(text);
}

static void each_engine_gets_its_share_of_the_adapters(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 8), got[8] = {0};
    (void)state;
    for (int i = 0; i < KEYS; i++) got[place_adapter(v, n, key(i), 0)]++;
    for (int i = 0; i < n; i++) assert_true(abs(got[i] - KEYS / n) < KEYS / n / 3);
}

static void an_engine_of_twice_the_capacity_gets_twice_as_many_adapters(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 3), got[3] = {0};
    (void)state;
    v[1].capacity *= 2;
    for (int i = 0; i < KEYS; i++) got[place_adapter(v, n, key(i), 0)]++;
    assert_true(fabs(got[1] - KEYS / 2.0) < KEYS / 16.0);
    assert_true(fabs(got[0] - KEYS / 4.0) < KEYS / 16.0);
}

/* Of n adapters, those of the engine that went move, and no other; one that comes takes its share from all. */
static void an_engine_that_goes_moves_its_own_adapters_only(void **state)
{
    struct place before[PLACE_MAX], after[PLACE_MAX];
    (void)state;
    for (int gone = 0; gone < 6; gone++) {
        int n = engines(before, 6), m = 0;
        for (int i = 0; i < n; i++)
            if (i != gone) after[m++] = before[i];
        for (int i = 0; i < KEYS; i++) {
            int was = place_adapter(before, n, key(i), 0);
            uint64_t is = after[place_adapter(after, m, key(i), 0)].hash;
            if (was != gone) assert_true(is == before[was].hash);
        }
    }
}

static void an_engine_that_comes_takes_about_its_share_and_nothing_else_moves(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 6), moved = 0;
    (void)state;
    for (int i = 0; i < KEYS; i++) {
        int was = place_adapter(v, n - 1, key(i), 0), is = place_adapter(v, n, key(i), 0);
        if (was == is) continue;
        assert_int_equal(is, n - 1);
        moved++;
    }
    assert_true(abs(moved - KEYS / n) < KEYS / n / 3);
}

static void one_that_starts_slowly_takes_a_part_of_its_share_and_gives_none_back(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 4), last = -1;
    static int had[KEYS];
    (void)state;
    memset(had, 0, sizeof had);
    for (double w = SLOW_START_LEAST; w < 1.01; w += 0.1) {
        int now = 0;
        v[3].weight = w;
        for (int i = 0; i < KEYS; i++) {
            bool mine = place_adapter(v, n, key(i), 0) == 3;
            assert_true(mine || !had[i]);
            had[i] = mine;
            now += mine;
        }
        assert_true(now > last);
        last = now;
    }
    assert_true(abs(last - KEYS / n) < KEYS / n / 3);
}

static uint64_t seed = 1;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static int most(double part)
{
    double most = ceil(LOAD_BOUND * part + LOAD_CHANCE * sqrt(part) + 1e-9); /* sums in another order */
    return (int)(most > LOAD_FLOOR ? most : LOAD_FLOOR);
}

/* Whatever the adapters and however skewed: no engine is given more than LOAD_BOUND times its share of what is in flight,
 * and the room for chance. */
static void loads_stay_within_the_bound_under_any_mix(void **state)
{
    struct place v[PLACE_MAX];
    (void)state;
    for (int round = 0; round < 200; round++) {
        int n = engines(v, 2 + (int)(next_random() % 9)), flying = 0;
        double shares = 0;
        for (int i = 0; i < n; i++) {
            v[i].weight = 0.1 + (double)(next_random() % 10) / 10;
            shares += v[i].weight * v[i].capacity;
        }
        for (int i = 0; i < 400; i++) {
            uint64_t r = next_random();
            int at = place_adapter(v, n, key((int)(r % 3 ? 0 : r % 50)), 0);
            flying++;
            assert_true(v[at].in_flight + 1 <= most(flying * v[at].weight * v[at].capacity / shares));
            v[at].in_flight++;
        }
    }
}

static void one_adapters_requests_stay_on_one_engine_until_it_is_loaded_and_then_spill_in_one_order(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 8), order[PLACE_MAX], used = 0;
    (void)state;
    place_order(v, n, key(7), order);
    for (int i = 0; i < LOAD_FLOOR; i++) {
        int at = place_adapter(v, n, key(7), i);
        assert_int_equal(at, order[0]);
        v[at].in_flight++;
    }
    for (int i = LOAD_FLOOR; i < 2 * LOAD_FLOOR; i++) v[place_adapter(v, n, key(7), i)].in_flight++;
    for (int i = 0; i < n; i++) used += v[order[i]].in_flight > 0;
    assert_int_equal(used, 2);
    assert_int_equal(v[order[1]].in_flight, LOAD_FLOOR);
}

static void a_hot_adapter_is_shared_by_more_engines_the_least_loaded_first(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 4), order[PLACE_MAX];
    (void)state;
    place_order(v, n, key(3), order);
    for (int i = 0; i < n; i++) v[i].in_flight = 40;
    v[order[1]].in_flight = 35;
    assert_int_equal(place_adapter(v, n, key(3), 9), order[0]); /* HOT_SHARE of 39 */
    assert_int_equal(place_adapter(v, n, key(3), 10), order[1]);
    assert_int_equal(place_adapter(v, n, key(3), 40), order[1]);
    v[order[1]].queue = 20; /* others sent it work, too */
    assert_int_equal(place_adapter(v, n, key(3), 40), order[0]);
}

/* What it needs and a quarter of all to choose from, and never more than it has a reason for. */
static void an_adapter_is_hot_from_its_count_on_and_the_rest_of_its_order_has_none_of_it(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 40), order[PLACE_MAX], used = 0, furthest = 0;
    (void)state;
    for (int i = 0; i < n; i++) v[i].in_flight = 8;
    place_order(v, n, key(5), order);
    v[order[0]].in_flight = 9; /* within its bound: who has one request at a time does not care */
    assert_int_equal(place_adapter(v, n, key(5), HOT_LEAST - 1), order[0]);
    for (int hot = 2; hot < 10; hot++) v[place_adapter(v, n, key(5), hot)].in_flight++;
    for (int k = 0; k < n; k++)
        if (v[order[k]].in_flight > (k ? 8 : 9)) used++, furthest = k;
    assert_int_equal(used, 8);
    assert_true(furthest < 1 + 10 / 2 + n / HOT_PART);
}

/* The fault that was most of all cold loads: a hot adapter that fills its first engines up to the bound sends away all others that live there. */
static void those_at_home_beside_a_hot_adapter_stay(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 200), order[PLACE_MAX], home = 0, asked = 0;
    (void)state;
    place_order(v, n, key(0), order);
    for (int i = 0; i < n; i++) v[i].in_flight = 9;
    for (int hot = 0; hot < 200; hot++) v[place_adapter(v, n, key(0), hot)].in_flight++;
    for (int i = 1; i < KEYS; i++) {
        int mine[PLACE_MAX];
        place_order(v, n, key(i), mine);
        if (mine[0] != order[0] && mine[0] != order[1]) continue;
        asked++;
        home += place_adapter(v, n, key(i), 0) == mine[0];
    }
    assert_true(asked > 10);
    assert_int_equal(home, asked);
}

static void chance_alone_sends_nobody_away(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 200);
    (void)state;
    for (int i = 0; i < n; i++) v[i].in_flight = 10;
    v[7].in_flight = 15; /* 1.25 times 10, and more than one and a half times what chance is on the mean */
    assert_true(place_within_bound(v, n, 7));
    v[7].in_flight = 16;
    assert_false(place_within_bound(v, n, 7));
}

static void as_many_engines_as_may_be_are_placed_among(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, PLACE_MAX), order[PLACE_MAX];
    bool seen[PLACE_MAX] = {false};
    (void)state;
    place_order(v, n, key(9), order);
    for (int i = 0; i < n; i++) {
        assert_false(seen[order[i]]);
        seen[order[i]] = true;
    }
    assert_int_equal(place_adapter(v, n, key(9), 0), order[0]);
    for (int i = 0; i < n; i++) v[order[i]].in_flight = i < n - 1 ? 64 : 0;
    assert_int_equal(place_adapter(v, n, key(9), 0), order[0]);
    v[order[0]].in_flight = 100;
    assert_int_equal(place_adapter(v, n, key(9), 0), order[1]);
}

static void a_base_request_goes_to_the_less_loaded_of_two_and_never_to_the_most_loaded_of_all(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 5);
    (void)state;
    for (int i = 0; i < n; i++) v[i].in_flight = i;
    int got[5] = {0};
    for (int i = 0; i < 5000; i++) got[place_base(v, n, next_random())]++;
    assert_int_equal(got[4], 0);
    for (int i = 1; i < 4; i++) assert_true(got[i] < got[i - 1]);
    assert_int_equal(place_base(v, 1, 99), 0);
}

static void idle_engines_share_base_requests_by_their_weights(void **state)
{
    struct place v[PLACE_MAX];
    int n = engines(v, 3), got[3] = {0};
    (void)state;
    v[2].weight = SLOW_START_LEAST;
    for (int i = 0; i < 21000; i++) got[place_base(v, n, next_random())]++;
    for (int i = 0; i < 2; i++) assert_true(abs(got[i] - 10000) < 500);
    assert_true(abs(got[2] - 1000) < 200);
}

static void three_losses_in_a_row_eject_and_a_success_between_them_does_not(void **state)
{
    struct place_health h = {0};
    (void)state;
    place_up(&h, 0);
    for (int i = 0; i < 10; i++) {
        assert_false(place_lost(&h, i));
        assert_false(place_lost(&h, i));
        place_won(&h);
    }
    assert_false(place_lost(&h, 20));
    assert_false(place_lost(&h, 21));
    assert_true(place_lost(&h, 22));
    assert_true(place_ejected(&h));
    assert_false(place_lost(&h, 23)); /* those that were in flight with it eject nobody twice */
    assert_false(place_returns(&h, 22 + EJECT_FIRST_US - 1));
    assert_true(place_returns(&h, 22 + EJECT_FIRST_US));
    assert_false(place_returns(&h, 22 + EJECT_FIRST_US + 1));
    assert_false(place_ejected(&h));
}

static void who_comes_back_is_on_trial_until_a_request_succeeds_and_one_loss_ends_it(void **state)
{
    struct place_health h = {0};
    (void)state;
    place_up(&h, 0);
    assert_false(place_on_trial(&h)); /* closed */
    for (int i = 0; i < EJECT_LOSSES; i++) place_lost(&h, 1);
    assert_true(place_ejected(&h) && !place_on_trial(&h)); /* open */
    assert_true(place_returns(&h, 1 + EJECT_FIRST_US));
    assert_true(place_on_trial(&h) && !place_ejected(&h)); /* half open */
    assert_true(place_lost(&h, 2 + EJECT_FIRST_US));       /* the first loss opens it again, for longer */
    assert_true(place_ejected(&h) && !place_on_trial(&h));
    assert_true(h.ejected_until - h.ejected_at == 2 * EJECT_FIRST_US);
    assert_true(place_returns(&h, h.ejected_until));
    place_won(&h);
    assert_false(place_on_trial(&h));
    assert_false(place_lost(&h, h.back_at + 1)); /* closed: it takes EJECT_LOSSES again */
    place_down(&h);
    place_up(&h, h.back_at + 2);
    assert_false(place_on_trial(&h));
}

static int64_t eject(struct place_health *h, int64_t now)
{
    for (int i = 0; i < EJECT_LOSSES; i++) place_lost(h, now);
    return h->ejected_until - now;
}

static void ejections_last_longer_each_time_up_to_a_minute_and_are_forgotten_in_calm(void **state)
{
    struct place_health h = {0};
    int64_t now = 1000000, out = 0, last = 0;
    (void)state;
    place_up(&h, 0);
    for (int i = 0; i < 8; i++) {
        out = eject(&h, now);
        assert_true(out >= last && out <= EJECT_MAX_US);
        last = out;
        now += out;
        assert_true(place_returns(&h, now));
    }
    assert_true(last == EJECT_MAX_US);
    now += EJECT_CALM_US + 1;
    assert_true(eject(&h, now) == EJECT_FIRST_US);
}

static void who_comes_back_starts_slowly(void **state)
{
    struct place_health h = {0};
    (void)state;
    place_up(&h, 100);
    assert_true(fabs(place_weight(&h, 100) - SLOW_START_LEAST) < 1e-9);
    assert_true(place_weight(&h, 100 + SLOW_START_US / 2) > 0.5 && place_weight(&h, 100 + SLOW_START_US / 2) < 0.6);
    assert_true(place_weight(&h, 100 + SLOW_START_US) == 1);
    int64_t now = 100 + 2 * SLOW_START_US;
    now += eject(&h, now);
    assert_true(place_returns(&h, now));
    assert_true(fabs(place_weight(&h, now) - SLOW_START_LEAST) < 1e-9);
    place_down(&h);
    place_up(&h, now + 5);
    assert_true(fabs(place_weight(&h, now + 5) - SLOW_START_LEAST) < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_engine_gets_its_share_of_the_adapters),
        cmocka_unit_test(an_engine_of_twice_the_capacity_gets_twice_as_many_adapters),
        cmocka_unit_test(an_engine_that_goes_moves_its_own_adapters_only),
        cmocka_unit_test(an_engine_that_comes_takes_about_its_share_and_nothing_else_moves),
        cmocka_unit_test(one_that_starts_slowly_takes_a_part_of_its_share_and_gives_none_back),
        cmocka_unit_test(loads_stay_within_the_bound_under_any_mix),
        cmocka_unit_test(one_adapters_requests_stay_on_one_engine_until_it_is_loaded_and_then_spill_in_one_order),
        cmocka_unit_test(a_hot_adapter_is_shared_by_more_engines_the_least_loaded_first),
        cmocka_unit_test(an_adapter_is_hot_from_its_count_on_and_the_rest_of_its_order_has_none_of_it),
        cmocka_unit_test(those_at_home_beside_a_hot_adapter_stay),
        cmocka_unit_test(chance_alone_sends_nobody_away),
        cmocka_unit_test(as_many_engines_as_may_be_are_placed_among),
        cmocka_unit_test(a_base_request_goes_to_the_less_loaded_of_two_and_never_to_the_most_loaded_of_all),
        cmocka_unit_test(idle_engines_share_base_requests_by_their_weights),
        cmocka_unit_test(three_losses_in_a_row_eject_and_a_success_between_them_does_not),
        cmocka_unit_test(ejections_last_longer_each_time_up_to_a_minute_and_are_forgotten_in_calm),
        cmocka_unit_test(who_comes_back_is_on_trial_until_a_request_succeeds_and_one_loss_ends_it),
        cmocka_unit_test(who_comes_back_starts_slowly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
