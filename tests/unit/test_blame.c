/* Who is blamed for crashes: the guilty after two where their tenant is alone, after a third, alone, where others were there too, and nobody else ever;
 * and who brings something new each time is stopped after four. */
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/proxy/blame.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define S 1000000LL
#define REFUSE_US (600 * S)

struct told {
    int adapters, requests, tenants, crashes; /* crashes: the last adapter's */
    char adapter[NAME_MAX_LEN + 1], tenant[UUID_LEN];
    struct blame_refused request;
};

static struct told told;
static struct blame *b;
static uint64_t life;
static int64_t now;

static void on_adapter(void *u, const struct blame_who *w, int crashes)
{
    (void)u;
    told.adapters++;
    told.crashes = crashes;
    snprintf(told.adapter, sizeof told.adapter, "%s", w->adapter);
}

static void on_request(void *u, const struct blame_refused *r)
{
    (void)u;
    told.requests++;
    told.request = *r;
}

static void on_tenant(void *u, const struct blame_refused *r)
{
    (void)u;
    assert_true(r->who.all && strncmp(r->who.request, r->id, BLAME_ID - 1) == 0 && r->until_us == r->since_us + REFUSE_US);
    told.tenants++;
    snprintf(told.tenant, sizeof told.tenant, "%s", r->who.tenant);
}

static int begin(void **state)
{
    struct blame_options o = {on_adapter, on_request, on_tenant, NULL};
    (void)state;
    told = (struct told){0};
    life = 1;
    now = S;
    return blame_open(&b, &o, NULL);
}

static int end(void **state)
{
    (void)state;
    blame_close(b);
    return 0;
}

static struct blame_who who(const char *adapter, int n)
{
    struct blame_who w = {.tenant = "t", .tenant_name = "acme", .model = "m", .version = *adapter ? 1 : 0};
    snprintf(w.adapter, sizeof w.adapter, "%s", adapter);
    snprintf(w.request, sizeof w.request, "%064d", n);
    return w;
}

static struct blame_who of(const char *tenant, const char *adapter, int n)
{
    struct blame_who w = who(adapter, n);
    snprintf(w.tenant, sizeof w.tenant, "%s", tenant);
    return w;
}

static void lose(struct blame_seat *seat, struct blame_who w)
{
    blame_lost(b, seat, "local", life, &w, now);
}

static void over(bool crashed)
{
    now += S;
    blame_end(b, "local", life++, crashed, now, REFUSE_US);
}

static void won(struct blame_who w)
{
    blame_won(b, &(struct blame_seat){.tried = false}, &w, now);
}

static bool enter(struct blame_seat *seat, struct blame_who w)
{
    return blame_enter(b, seat, "local", &w, now);
}

static void leave(struct blame_seat *seat)
{
    blame_leave(b, seat, true, now);
}

/* It went all the way. */
static void completes(struct blame_seat *seat, struct blame_who w)
{
    blame_won(b, seat, &w, now);
    leave(seat);
}

static enum err_code tenant_refused(const char *tenant)
{
    struct err e = {0};
    blame_check(b, tenant, "", now, &e);
    assert_true(!e.code || e.retry_after_s > 0);
    return e.code;
}

static int refused(int n)
{
    struct blame_who w = who("", n);
    struct err e = {0};
    int rc = blame_check(b, "t", w.request, now, &e);
    assert_true(!rc || e.code == ERR_QUARANTINED);
    return rc;
}

static void a_request_at_two_crashes_is_refused_for_its_time_and_no_other(void **state)
{
    (void)state;
    lose(NULL, who("", 1));
    over(true);
    assert_int_equal(refused(1), 0);
    assert_int_equal(told.requests, 0);
    lose(NULL, who("", 1));
    lose(NULL, who("", 2)); /* there for the first time */
    over(true);
    assert_int_equal(told.requests, 1);
    assert_string_equal(told.request.id, "00000000000000000000000000000000");
    assert_int_equal(told.request.crashes, 2);
    assert_int_equal(told.request.since_us, now);
    assert_int_equal(told.request.until_us, now + REFUSE_US);
    assert_int_equal(refused(1), -1);
    assert_int_equal(refused(2), 0);
    now += REFUSE_US;
    assert_int_equal(refused(1), 0);
}

static void an_adapter_at_two_crashes_with_different_requests_is_told_and_then_begins_anew(void **state)
{
    (void)state;
    lose(NULL, who("bad", 1));
    lose(NULL, who("good", 2));
    over(true);
    won(who("good", 3));
    lose(NULL, who("bad", 4));
    lose(NULL, who("bad", 5)); /* two of one name are one suspect */
    lose(NULL, who("good", 6));
    over(true);
    assert_int_equal(told.adapters, 1);
    assert_string_equal(told.adapter, "bad");
    assert_int_equal(told.crashes, 2);
    assert_int_equal(told.requests, 0);
    lose(NULL, who("bad", 7));
    over(true);
    assert_int_equal(told.adapters, 1);
}

static void ends_from_outside_are_nobodys(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++) {
        for (int k = 0; k < 50; k++) lose(NULL, who("busy", k));
        over(false);
    }
    assert_true(blame_quiet(b));
    assert_int_equal(told.adapters + told.requests, 0);
}

static void who_completes_is_no_suspect_any_more(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) {
        lose(NULL, who("a", 1));
        over(true);
        won(who("a", 1));
    }
    assert_int_equal(told.adapters + told.requests, 0);
    now += BLAME_MEMORY_US + 1; /* that its tenant was there is known for longer */
    assert_true(enter(&(struct blame_seat){.tried = false}, who("a", 1)));
    assert_true(blame_quiet(b));
}

static void where_several_were_there_both_times_they_are_tried_one_by_one(void **state)
{
    struct blame_seat p = {0}, q = {0}, r = {0}, fresh = {0};
    (void)state;
    for (int i = 0; i < 2; i++) {
        assert_true(enter(&p, who("", 1)) && enter(&q, who("", 2)) && enter(&r, who("", 3))); /* suspects go freely */
        lose(&p, who("", 1));
        lose(&q, who("", 2));
        lose(&r, who("", 3));
        over(true);
    }
    assert_int_equal(told.requests, 0);
    assert_true(enter(&p, who("", 1)));
    assert_true(enter(&p, who("", 1)));
    assert_false(enter(&q, who("", 2)));
    assert_true(enter(&fresh, who("", 9))); /* of no suspicion, and of the same tenant */
    completes(&p, who("", 1));
    assert_true(enter(&q, who("", 2)));
    assert_false(enter(&r, who("", 3)));
    lose(&q, who("", 2));
    lose(&fresh, who("", 9));
    over(true);
    assert_int_equal(told.requests, 1);
    assert_int_equal(refused(2), -1);
    assert_int_equal(refused(3), 0);
    assert_true(enter(&r, who("", 3)));
}

static void one_on_trial_that_comes_to_no_end_keeps_the_others_waiting_for_a_while_only(void **state)
{
    struct blame_seat p = {0}, q = {0}, other = {0};
    (void)state;
    for (int i = 0; i < 2; i++) {
        lose(&p, who("", 1));
        lose(&q, who("", 2));
        over(true);
    }
    assert_true(enter(&p, who("", 1)));
    now += BLAME_TRIAL_US;
    assert_false(enter(&q, who("", 2)) || enter(&other, of("other", "", 3)));
    now += 1;
    assert_true(enter(&other, of("other", "", 3)));
    assert_false(enter(&q, who("", 2))); /* the others have as long, */
    now += BLAME_TRIAL_US + 1;
    leave(&other);
    leave(&p);
    assert_true(enter(&q, who("", 2))); /* and then the next one */
}

/* The attack: ever new bodies, one changed byte each, beside somebody who is always there. */
static void who_is_there_whenever_another_tenant_crashes_the_engine_is_never_guilty(void **state)
{
    struct blame_seat victim[2] = {{0}}, bad = {0};
    int crashes = 0;
    (void)state;
    for (int i = 0; i < 40 && !tenant_refused("evil"); i++) {
        for (int k = 0; k < 2; k++) enter(&victim[k], of("victim", "good", 100 + k)); /* the same requests each time */
        bool in = enter(&bad, of("evil", "", 1000 + i));
        for (int k = 0; k < 2; k++)
            if (victim[k].at && in) lose(&victim[k], of("victim", "good", 100 + k));
            else if (victim[k].at) completes(&victim[k], of("victim", "good", 100 + k));
            else leave(&victim[k]);
        if (in) {
            lose(&bad, of("evil", "", 1000 + i));
            over(true);
            crashes++;
        }
        now += S;
    }
    assert_int_equal(tenant_refused("evil"), ERR_TENANT_QUARANTINED);
    assert_string_equal(told.tenant, "evil");
    assert_true(crashes <= BLAME_ACCUSING + 1);
    assert_int_equal(told.adapters + told.requests, 0);
    assert_int_equal(told.tenants, 1);
    assert_int_equal(tenant_refused("victim"), 0);
    now += REFUSE_US;
    assert_int_equal(tenant_refused("evil"), 0);
}

/* Accuses the victim's adapter: it was at two crashes of another one. */
static void accuse(const char *tenant, const char *adapter)
{
    for (int i = 0; i < BLAME_CRASHES; i++) {
        lose(NULL, of(tenant, adapter, 1 + i));
        lose(NULL, of("evil", "", 500 + i));
        over(true);
    }
    assert_int_equal(told.adapters + told.requests + told.tenants, 0);
}

static void a_trial_waits_for_the_others_and_they_wait_for_it(void **state)
{
    struct blame_seat good = {0}, before = {0}, after = {0}, own = {0};
    (void)state;
    accuse("victim", "good");
    assert_true(enter(&before, of("evil", "", 600)));
    assert_false(enter(&good, of("victim", "good", 7)));
    assert_false(enter(&after, of("evil", "", 601))); /* who comes later waits behind it */
    assert_true(enter(&own, of("victim", "", 8)));
    assert_true(blame_enter(b, &after, "elsewhere", &(struct blame_who){.tenant = "evil"}, now));
    leave(&after);
    now += S;
    leave(&before);
    assert_true(enter(&good, of("victim", "good", 7)));
    assert_false(enter(&after, of("evil", "", 601)));
    completes(&good, of("victim", "good", 7));
    assert_true(enter(&after, of("evil", "", 601)));
    assert_true(enter(&good, of("victim", "good", 7))); /* acquitted */
}

static void a_poison_adapter_is_guilty_by_a_third_crash_that_it_is_alone_at(void **state)
{
    struct blame_seat bad = {0};
    (void)state;
    accuse("evil2", "bad");
    assert_true(enter(&bad, of("evil2", "bad", 9)));
    lose(&bad, of("evil2", "bad", 9));
    over(true);
    assert_int_equal(told.adapters, 1);
    assert_string_equal(told.adapter, "bad");
    assert_int_equal(told.requests + told.tenants, 0);
}

static void a_trial_waits_for_no_longer_than_it_may_last_and_then_the_others_go_first(void **state)
{
    struct blame_seat good = {0}, longer = {0}, after = {0};
    (void)state;
    accuse("victim", "good");
    assert_true(enter(&longer, of("evil", "", 600)));
    assert_false(enter(&good, of("victim", "good", 7)));
    now += BLAME_TRIAL_US;
    assert_false(enter(&after, of("evil", "", 601)));
    now += 1;
    assert_true(enter(&after, of("evil", "", 601)));
    leave(&after);
    leave(&longer);
    assert_false(enter(&good, of("victim", "good", 7)));
    now += BLAME_TRIAL_US + 1;
    assert_true(enter(&good, of("victim", "good", 7)));
}

static void a_crash_after_the_trials_time_convicts_nobody_by_it(void **state)
{
    struct blame_seat good = {0}, bad = {0};
    (void)state;
    accuse("victim", "good");
    assert_true(enter(&good, of("victim", "good", 7)));
    now += BLAME_TRIAL_US + 1;
    assert_true(enter(&bad, of("evil", "", 601)));
    lose(&good, of("victim", "good", 7));
    lose(&bad, of("evil", "", 601));
    over(true);
    assert_int_equal(told.adapters + told.requests + told.tenants, 0);
}

static void who_goes_away_before_the_crash_was_there_until_the_engine_answered_another(void **state)
{
    struct blame_who sly = of("evil", "", 700);
    struct blame_seat bad = {0}, good = {0}, one = {0};
    (void)state;
    accuse("victim", "good");
    assert_true(enter(&bad, sly));
    leave(&bad);
    blame_left(b, "local", life, &sly, now);
    assert_false(enter(&good, of("victim", "good", 7))); /* it may be computed still */
    now += BLAME_LINGER_US + 1;
    assert_false(enter(&good, of("victim", "good", 7))); /* or hang over it: nothing was answered since, and a trial would show nothing */
    leave(&good);
    now += BLAME_LINGER_US + 1;
    assert_true(enter(&one, of("else", "", 1)));
    leave(&one); /* the engine is well */
    now += BLAME_TRIAL_US;
    assert_true(enter(&good, of("victim", "good", 7)));
    lose(&good, of("victim", "good", 7));
    over(true);
    assert_int_equal(told.adapters, 1);
}

static void who_went_away_without_an_answer_since_is_there_when_a_hang_is_found_out(void **state)
{
    struct blame_who sly = of("evil", "", 700);
    struct blame_seat bad = {0}, good = {0};
    (void)state;
    accuse("victim", "good");
    blame_left(b, "local", life, &sly, now);
    now += BLAME_HANG_US + 1;
    assert_true(enter(&good, of("victim", "good", 7))); /* a hang would have been found out by now */
    leave(&good);
    assert_true(enter(&bad, sly));
    leave(&bad);
    blame_left(b, "local", life, &sly, now);
    now += BLAME_LINGER_US + 5 * S;
    lose(&good, of("victim", "good", 7));
    over(true);
    assert_int_equal(told.adapters + told.requests + told.tenants, 0);
}

static void a_tenant_has_one_trial_at_a_time_and_tenants_take_turns(void **state)
{
    struct blame_seat p = {0}, q = {0}, r = {0};
    (void)state;
    accuse("t1", "a");
    accuse("t2", "b");
    assert_true(enter(&p, of("t1", "a", 50)));
    assert_false(blame_enter(b, &q, "elsewhere", &(struct blame_who){.tenant = "t1", .adapter = "a", .version = 1}, now));
    assert_false(enter(&r, of("t2", "b", 51)));
    leave(&p);
    assert_false(enter(&p, of("t1", "a", 50))); /* the other one was turned away */
    assert_true(enter(&r, of("t2", "b", 51)));
}

static void a_busy_innocent_tenant_is_acquitted_by_a_trial_and_next_time_by_more(void **state)
{
    struct blame_seat seat = {0}, other = {0}, more = {0};
    (void)state;
    for (int round = 0, trials = 1; round < 3; round++, trials *= 4) {
        for (int i = 0; i < BLAME_ACCUSING; i++) {
            assert_true(enter(&seat, of("busy", "", 100 * round + i)) && enter(&other, of("evil", "", 1000 + 100 * round + i)));
            lose(&seat, of("busy", "", 100 * round + i));
            lose(&other, of("evil", "", 1000 + 100 * round + i));
            over(true);
        }
        for (int i = 0; i < trials; i++) {
            assert_true(enter(&seat, of("busy", "", 5000)));
            assert_false(enter(&more, of("busy", "", 5001))); /* one by one */
            assert_false(enter(&other, of("else", "", 1)));
            completes(&seat, of("busy", "", 5000));
        }
        assert_true(enter(&seat, of("busy", "", 5000)) && enter(&more, of("busy", "", 5001)) && enter(&other, of("else", "", 1)));
        leave(&seat);
        leave(&more);
        leave(&other);
        for (int i = 0; i < trials; i++) {
            assert_true(enter(&other, of("evil", "", 9)));
            completes(&other, of("evil", "", 9));
        }
    }
    assert_int_equal(told.tenants, 0);
}

static void a_tenant_that_has_the_engines_to_itself_is_never_refused_whole(void **state)
{
    struct blame_seat p = {0}, q = {0};
    (void)state;
    for (int i = 0; i < 10; i++) {
        assert_true(enter(&p, who("", 100 + i)) && enter(&q, who("", 200 + i)));
        lose(&p, who("", 100 + i));
        lose(&q, who("", 200 + i));
        over(true);
    }
    assert_int_equal(told.tenants, 0);
    assert_int_equal(tenant_refused("t"), 0);
}

static void a_refused_tenant_is_listed_and_lifted_by_the_operator_only(void **state)
{
    struct page page = {.after = "", .before = "", .limit = 5};
    struct blame_seat seat = {0};
    struct blame_who out;
    struct err e = {0};
    bool more = false;
    const char *tenant = "00112233-4455-6677-8899-aabbccddeeff", *id = "00112233445566778899aabbccddeeff";
    (void)state;
    for (int i = 0; i <= BLAME_ACCUSING; i++) {
        enter(&seat, of("else", "", 1));
        leave(&seat);
        assert_true(enter(&seat, of(tenant, "", 100 + i)));
        lose(&seat, of(tenant, "", 100 + i));
        over(true);
    }
    assert_int_equal(tenant_refused(tenant), ERR_TENANT_QUARANTINED);
    json_t *list = json_array();
    assert_int_equal(blame_list(b, tenant, &page, now, 5000 * S, list, &more, NULL), 0);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), id);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "scope")), "tenant");
    json_decref(list);
    assert_int_equal(blame_find(b, tenant, id, now, &out, &e), -1);
    assert_int_equal(e.code, ERR_FORBIDDEN);
    assert_int_equal(blame_find(b, "else", id, now, &out, NULL), -1);
    assert_int_equal(blame_find(b, NULL, id, now, &out, NULL), 0);
    assert_true(out.all);
    blame_lift(b, id);
    assert_int_equal(tenant_refused(tenant), 0);
    assert_true(enter(&seat, of(tenant, "", 1)));
}

static void one_tenants_names_and_losses_push_out_its_own_only(void **state)
{
    (void)state;
    lose(NULL, of("victim", "", 1));
    lose(NULL, of("poison", "", 2));
    over(true);
    for (int i = 0; i < 2 * BLAME_NAMES; i++) lose(NULL, of("evil", "", 1000 + i));
    lose(NULL, of("poison", "", 2)); /* there is room for it, and its first strike is known */
    over(true);
    struct blame_seat p = {0};
    assert_true(enter(&p, of("poison", "", 2)));
    lose(&p, of("poison", "", 2));
    over(true);
    assert_int_equal(told.requests, 1);

    struct blame_who w = of("evil", "", 1);
    lose(NULL, of("evil", "", 1)); /* at this crash, too, whatever it loses elsewhere */
    for (int i = 0; i < 2 * BLAME_SHARE; i++) blame_lost(b, NULL, "elsewhere", 99, &w, now);
    for (int i = 0; i < 2; i++) lose(NULL, of("victim", "", 1));
    over(true);
    lose(NULL, of("victim", "", 5));
    over(true);
    assert_int_equal(told.requests, 1);
}

static void suspicions_grow_old(void **state)
{
    (void)state;
    lose(NULL, who("a", 1));
    over(true);
    now += BLAME_MEMORY_US + S;
    lose(NULL, who("a", 1));
    over(true);
    assert_int_equal(told.adapters + told.requests, 0);
    assert_false(blame_quiet(b));
}

static void losses_of_another_engine_or_life_or_of_long_ago_count_for_nothing(void **state)
{
    struct blame_who w = who("", 1);
    (void)state;
    blame_lost(b, NULL, "other", life, &w, now);
    blame_lost(b, NULL, "local", life + 7, &w, now);
    over(true);
    assert_true(blame_quiet(b));
    lose(NULL, w);
    now += BLAME_LATE_US;
    blame_end(b, "elsewhere", 1, false, now, REFUSE_US);
    over(true);
    assert_true(blame_quiet(b));
}

static void a_refused_request_is_listed_and_lifted_by_its_tenant(void **state)
{
    struct page page = {.after = "", .before = "", .limit = 1};
    struct blame_who out;
    struct err e = {0};
    bool more = false;
    (void)state;
    for (int n = 0; n < 3; n++)
        for (int i = 0; i < 2; i++) {
            struct blame_who w = who("", 0);
            memset(w.request, 'a' + n, BLAME_ID - 1);
            lose(NULL, w);
            over(true);
        }
    json_t *list = json_array();
    assert_int_equal(blame_count(b, "t", now), 3);
    assert_int_equal(blame_count(b, NULL, now), 3);
    assert_int_equal(blame_count(b, "somebody else", now), 0);
    assert_int_equal(blame_count(b, NULL, now + REFUSE_US), 0);
    assert_int_equal(blame_list(b, "t", &page, now, 5000 * S, list, &more, NULL), 0);
    assert_true(json_array_size(list) == 1 && more);
    json_t *first = json_array_get(list, 0); /* it was convicted four seconds ago */
    assert_int_equal(json_integer_value(json_object_get(first, "created_at")), 4996);
    assert_int_equal(json_integer_value(json_object_get(first, "expires_at")), 4996 + REFUSE_US / S + 1);
    assert_true(json_is_null(json_object_get(first, "adapter")));
    page.after = json_string_value(json_object_get(json_array_get(list, 0), "id"));
    page.limit = 5;
    assert_int_equal(blame_list(b, "t", &page, now, 5000 * S, list, &more, NULL), 0);
    assert_true(json_array_size(list) == 3 && !more);
    const char *id = json_string_value(json_object_get(json_array_get(list, 2), "id"));
    assert_int_equal(blame_find(b, "somebody else", id, now, &out, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_int_equal(blame_find(b, "t", id, now, &out, NULL), 0);
    blame_lift(b, id);
    assert_int_equal(blame_find(b, NULL, id, now, &out, NULL), -1);
    assert_int_equal(blame_find(b, NULL, "", now, &out, NULL), -1);
    json_decref(list);
}

static void who_was_refused_before_a_restart_is_refused_after_it_until_the_same_moment(void **state)
{
    struct page page = {.after = "", .before = "", .limit = 5};
    bool more = false;
    (void)state;
    for (int i = 0; i < 2; i++) {
        lose(NULL, who("sql", 1));
        over(true);
    }
    struct blame_refused kept = told.request;
    blame_close(b);
    begin(NULL);
    assert_true(blame_quiet(b));
    kept.since_us -= 100 * S; /* as the new process's clock has it */
    kept.until_us -= 100 * S;
    blame_restore(b, &kept);
    blame_restore(b, &kept);
    assert_int_equal(refused(1), -1);
    assert_int_equal(refused(2), 0);
    json_t *list = json_array();
    assert_int_equal(blame_list(b, NULL, &page, now, 5000 * S, list, &more, NULL), 0);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "adapter")), "sql@1");
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "tenant")), "acme");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "crashes")), 2);
    json_decref(list);
    now = kept.until_us;
    assert_int_equal(refused(1), 0);
}

static void more_names_than_there_is_room_for_push_out_the_oldest_but_not_the_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        lose(NULL, who("", 1));
        over(true);
    }
    for (int n = 2; n < BLAME_NAMES + 50; n++) {
        lose(NULL, who("", n));
        over(true);
        now -= S;
    }
    assert_int_equal(refused(1), -1);
    lose(NULL, who("", BLAME_NAMES + 49)); /* the youngest is still there */
    over(true);
    assert_int_equal(refused(BLAME_NAMES + 49), -1);
}

static void nobody_is_told_after_the_stop(void **state)
{
    (void)state;
    lose(NULL, who("a", 1));
    over(true);
    blame_stop(b);
    lose(NULL, who("a", 1));
    over(true);
    assert_int_equal(told.adapters + told.requests, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_request_at_two_crashes_is_refused_for_its_time_and_no_other, begin, end),
        cmocka_unit_test_setup_teardown(an_adapter_at_two_crashes_with_different_requests_is_told_and_then_begins_anew, begin, end),
        cmocka_unit_test_setup_teardown(ends_from_outside_are_nobodys, begin, end),
        cmocka_unit_test_setup_teardown(who_completes_is_no_suspect_any_more, begin, end),
        cmocka_unit_test_setup_teardown(where_several_were_there_both_times_they_are_tried_one_by_one, begin, end),
        cmocka_unit_test_setup_teardown(one_on_trial_that_comes_to_no_end_keeps_the_others_waiting_for_a_while_only, begin, end),
        cmocka_unit_test_setup_teardown(who_is_there_whenever_another_tenant_crashes_the_engine_is_never_guilty, begin, end),
        cmocka_unit_test_setup_teardown(a_trial_waits_for_the_others_and_they_wait_for_it, begin, end),
        cmocka_unit_test_setup_teardown(a_poison_adapter_is_guilty_by_a_third_crash_that_it_is_alone_at, begin, end),
        cmocka_unit_test_setup_teardown(a_trial_waits_for_no_longer_than_it_may_last_and_then_the_others_go_first, begin, end),
        cmocka_unit_test_setup_teardown(a_crash_after_the_trials_time_convicts_nobody_by_it, begin, end),
        cmocka_unit_test_setup_teardown(who_goes_away_before_the_crash_was_there_until_the_engine_answered_another, begin, end),
        cmocka_unit_test_setup_teardown(who_went_away_without_an_answer_since_is_there_when_a_hang_is_found_out, begin, end),
        cmocka_unit_test_setup_teardown(a_tenant_has_one_trial_at_a_time_and_tenants_take_turns, begin, end),
        cmocka_unit_test_setup_teardown(a_busy_innocent_tenant_is_acquitted_by_a_trial_and_next_time_by_more, begin, end),
        cmocka_unit_test_setup_teardown(a_tenant_that_has_the_engines_to_itself_is_never_refused_whole, begin, end),
        cmocka_unit_test_setup_teardown(a_refused_tenant_is_listed_and_lifted_by_the_operator_only, begin, end),
        cmocka_unit_test_setup_teardown(one_tenants_names_and_losses_push_out_its_own_only, begin, end),
        cmocka_unit_test_setup_teardown(suspicions_grow_old, begin, end),
        cmocka_unit_test_setup_teardown(losses_of_another_engine_or_life_or_of_long_ago_count_for_nothing, begin, end),
        cmocka_unit_test_setup_teardown(a_refused_request_is_listed_and_lifted_by_its_tenant, begin, end),
        cmocka_unit_test_setup_teardown(who_was_refused_before_a_restart_is_refused_after_it_until_the_same_moment, begin, end),
        cmocka_unit_test_setup_teardown(more_names_than_there_is_room_for_push_out_the_oldest_but_not_the_refused, begin, end),
        cmocka_unit_test_setup_teardown(nobody_is_told_after_the_stop, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
