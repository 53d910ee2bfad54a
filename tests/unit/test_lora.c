/* Tests of engine/lora: slots, pins, eviction, unloading, refusals, and the self-test of the fused path. */
#include "base/log.h"
#include "tests/unit/tiny_engine.h"

static struct tiny_engine t;

static void open_with(int slots, int wait_ms)
{
    tiny_open(&t, TINY_F32, PREC_EXACT,
              &(struct lora_options){.max_slots = slots, .max_known = 16, .wait_ms = wait_ms, .max_rank = 64});
}

static enum lora_state state_of(int i)
{
    struct lora_info info[64];
    int n = lora_list(t.loras, info, 64);
    for (int j = 0; j < n; j++)
        if (strcmp(info[j].digest, t.digest[i]) == 0) return info[j].state;
    return (enum lora_state) - 1;
}

static void unpin(struct outcome *o)
{
    assert_non_null(o->slot);
    lora_unpin(t.loras, o->slot);
    o->slot = NULL;
}

static void test_loading_twice_loads_once(void **state)
{
    (void)state;
    open_with(2, 1000);
    struct outcome o[20] = {0};
    for (int i = 0; i < 20; i++) lora_load(t.loras, t.digest[0], t.dir[0], tiny_on_done, &o[i]);
    for (int i = 0; i < 20; i++) {
        tiny_await(&o[i].came, 1);
        assert_int_equal(o[i].err.code, ERR_NONE);
    }
    assert_true(metric_get(t.metrics, M_LOADS, (const char *[]){"ok"}) == 1);
    struct outcome p = tiny_pin(&t, 0);
    assert_false(p.cold);
    assert_string_equal(p.slot->digest, t.digest[0]);
    assert_int_equal(p.slot->max_rank, 1);
    unpin(&p);
    tiny_close(&t);
}

static void test_the_least_recently_used_slot_is_dropped_and_comes_back_when_asked(void **state)
{
    (void)state;
    open_with(2, 1000);
    for (int i = 0; i < 3; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    assert_int_equal(state_of(0), LORA_COLD);
    assert_int_equal(state_of(1), LORA_RESIDENT);
    assert_int_equal(state_of(2), LORA_RESIDENT);
    struct outcome p = tiny_pin(&t, 0);
    assert_true(p.cold);
    assert_string_equal(p.slot->digest, t.digest[0]);
    assert_int_equal(state_of(1), LORA_COLD);
    unpin(&p);
    tiny_close(&t);
}

static void test_a_pinned_slot_is_not_dropped(void **state)
{
    (void)state;
    open_with(2, 100);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome a = tiny_pin(&t, 0);
    for (int i = 1; i < 6; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    assert_int_equal(state_of(0), LORA_RESIDENT);
    assert_string_equal(a.slot->digest, t.digest[0]);
    struct outcome b = tiny_pin(&t, 5);
    assert_int_equal(tiny_load(&t, 6), ERR_NO_SLOT);
    unpin(&a);
    assert_int_equal(tiny_load(&t, 6), ERR_NONE);
    unpin(&b);
    tiny_close(&t);
}

static void test_who_waits_for_a_slot_gets_it_when_a_pin_is_given_back(void **state)
{
    (void)state;
    open_with(1, 20000);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome a = tiny_pin(&t, 0), b = {0};
    lora_load(t.loras, t.digest[1], t.dir[1], tiny_on_done, &b);
    usleep(30000);
    assert_int_equal(b.came, 0);
    unpin(&a);
    tiny_await(&b.came, 1);
    assert_int_equal(b.err.code, ERR_NONE);
    tiny_close(&t);
}

static void test_a_busy_adapter_takes_no_new_pins_when_another_has_waited_half_its_time(void **state)
{
    (void)state;
    open_with(1, 4000);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome a = tiny_pin(&t, 0), b = {0}, c = {0};
    lora_load(t.loras, t.digest[1], t.dir[1], tiny_on_done, &b);
    while (lora_resident(t.loras, t.digest[0])) usleep(1000); /* for half of the time */
    assert_int_equal(b.came, 0);
    lora_pin(t.loras, t.digest[0], tiny_on_pin, &c);
    usleep(20000);
    assert_int_equal(c.came, 0); /* put behind the one that waits */
    unpin(&a);
    tiny_await(&b.came, 1);
    assert_int_equal(b.err.code, ERR_NONE);
    tiny_await(&c.came, 1); /* loaded again */
    assert_int_equal(c.err.code, ERR_NONE);
    assert_true(c.cold);
    unpin(&c);
    tiny_close(&t);
}

static void test_when_the_waiting_one_gives_up_the_busy_adapter_opens_again(void **state)
{
    (void)state;
    open_with(1, 200);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome a = tiny_pin(&t, 0), c = {0};
    assert_int_equal(tiny_load(&t, 1), ERR_NO_SLOT);
    lora_pin(t.loras, t.digest[0], tiny_on_pin, &c);
    tiny_await(&c.came, 1);
    assert_non_null(c.slot);
    unpin(&c);
    unpin(&a);
    tiny_close(&t);
}

static void test_unloading_waits_for_the_pins_and_forgets(void **state)
{
    (void)state;
    open_with(2, 1000);
    assert_int_equal(tiny_unload(&t, 0), ERR_ADAPTER_NOT_LOADED);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    assert_int_equal(tiny_unload(&t, 0), ERR_NONE);
    assert_false(lora_known(t.loras, t.digest[0]));
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome a = tiny_pin(&t, 0), gone = {0};
    lora_unload(t.loras, t.digest[0], tiny_on_done, &gone);
    usleep(20000);
    assert_int_equal(gone.came, 0);
    assert_int_equal(state_of(0), LORA_DRAINING);
    struct outcome late = tiny_pin(&t, 0);
    assert_int_equal(late.err.code, ERR_ADAPTER_NOT_LOADED);
    unpin(&a);
    tiny_await(&gone.came, 1);
    assert_int_equal(gone.err.code, ERR_NONE);
    assert_false(lora_known(t.loras, t.digest[0]));
    tiny_close(&t);
}

static void test_loading_while_it_drains_brings_it_back(void **state)
{
    (void)state;
    open_with(2, 1000);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome a = tiny_pin(&t, 0), gone = {0}, again = {0};
    lora_unload(t.loras, t.digest[0], tiny_on_done, &gone);
    lora_load(t.loras, t.digest[0], t.dir[0], tiny_on_done, &again);
    unpin(&a);
    tiny_await(&gone.came, 1);
    tiny_await(&again.came, 1);
    assert_int_equal(again.err.code, ERR_NONE);
    assert_int_equal(state_of(0), LORA_RESIDENT);
    tiny_close(&t);
}

static struct lora_entry *claim(int i)
{
    struct err e = {0};
    struct lora_entry *c = lora_claim(t.loras, t.digest[i], &e);
    if (!c) fail_msg("%s", e.msg);
    return c;
}

static void test_who_claimed_before_the_unloading_can_pin_until_the_claim_is_given_back(void **state)
{
    (void)state;
    open_with(1, 1000);
    struct err e = {0};
    struct outcome gone = {0};
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE); /* drops it, for there is one slot */
    struct lora_entry *c = claim(0);
    lora_unload(t.loras, t.digest[0], tiny_on_done, &gone);
    assert_null(lora_claim(t.loras, t.digest[0], &e));
    assert_int_equal(e.code, ERR_ADAPTER_NOT_LOADED);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(state_of(0), LORA_DRAINING);
        struct outcome p = tiny_pin(&t, 0);
        unpin(&p);
        assert_int_equal(tiny_load(&t, 1), ERR_NONE); /* drops it again */
    }
    assert_int_equal(gone.came, 0);
    lora_unclaim(t.loras, c);
    tiny_await(&gone.came, 1);
    assert_int_equal(gone.err.code, ERR_NONE);
    assert_int_equal(tiny_pin(&t, 0).err.code, ERR_ADAPTER_NOT_LOADED);
    tiny_close(&t);
}

static void test_a_claim_and_a_pin_are_both_waited_for(void **state)
{
    (void)state;
    open_with(2, 1000);
    for (int round = 0; round < 2; round++) {
        struct outcome gone = {0};
        assert_int_equal(tiny_load(&t, 0), ERR_NONE);
        struct lora_entry *c = claim(0);
        struct outcome p = tiny_pin(&t, 0);
        lora_unload(t.loras, t.digest[0], tiny_on_done, &gone);
        if (round)
            unpin(&p);
        else
            lora_unclaim(t.loras, c);
        assert_int_equal(gone.came, 0);
        assert_int_equal(state_of(0), LORA_DRAINING);
        if (round)
            lora_unclaim(t.loras, c);
        else
            unpin(&p);
        tiny_await(&gone.came, 1);
        assert_false(lora_known(t.loras, t.digest[0]));
    }
    tiny_close(&t);
}

static void test_a_load_that_is_asked_for_after_an_unloading_comes_true_after_it(void **state)
{
    (void)state;
    open_with(1, 1000);
    struct outcome gone = {0}, again = {0};
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct lora_entry *c = claim(0);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    lora_unload(t.loras, t.digest[0], tiny_on_done, &gone);
    lora_load(t.loras, t.digest[0], t.dir[0], tiny_on_done, &again);
    struct outcome p = tiny_pin(&t, 0); /* loads it, for the one who claimed it */
    assert_int_equal(gone.came + again.came, 0);
    unpin(&p);
    lora_unclaim(t.loras, c);
    tiny_await(&gone.came, 1);
    tiny_await(&again.came, 1);
    assert_int_equal(again.err.code, ERR_NONE);
    assert_true(lora_known(t.loras, t.digest[0]));
    tiny_close(&t);
}

static void test_what_is_claimed_and_breaks_is_refused_and_can_be_loaded_anew(void **state)
{
    (void)state;
    char path[128];
    open_with(1, 1000);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct lora_entry *c = claim(0);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    snprintf(path, sizeof path, "%s.away", t.dir[0]);
    assert_int_equal(rename(t.dir[0], path), 0);
    assert_int_equal(tiny_pin(&t, 0).err.code, ERR_NOT_FOUND);
    assert_false(lora_known(t.loras, t.digest[0]));
    assert_int_equal(rename(path, t.dir[0]), 0);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct lora_entry *fresh = claim(0);
    lora_unclaim(t.loras, c);
    assert_true(lora_known(t.loras, t.digest[0]));
    lora_unclaim(t.loras, fresh);
    assert_int_equal(tiny_unload(&t, 0), ERR_NONE);
    tiny_close(&t);
}

static void test_what_is_claimed_is_not_forgotten_for_others(void **state)
{
    (void)state;
    struct err e = {0};
    open_with(1, 1000);
    lora_set_free(t.loras);
    assert_int_equal(
        lora_set_new(&t.loras, t.m,
                     &(struct lora_options){.max_slots = 1, .max_known = 3, .wait_ms = 100, .max_rank = 64}, &e),
        0);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct lora_entry *c = claim(0);
    for (int i = 1; i < 5; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    struct outcome p = tiny_pin(&t, 0);
    unpin(&p);
    lora_unclaim(t.loras, c);
    for (int i = 1; i < 5; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    assert_false(lora_known(t.loras, t.digest[0]));
    tiny_close(&t);
}

static void test_what_is_not_the_adapter_asked_for_is_refused(void **state)
{
    (void)state;
    open_with(2, 1000);
    char zeros[SHA256_HEX];
    memset(zeros, '0', 64);
    zeros[64] = 0;
    const struct {
        const char *digest, *path;
        enum err_code code;
    } row[] = {{t.digest[0], t.dir[1], ERR_ADAPTER_INVALID}, /* another content */
               {zeros, t.dir[0], ERR_ADAPTER_INVALID},
               {t.digest[0], "/nonexistent/adapter", ERR_NOT_FOUND},
               {t.digest[0], "relative/path", ERR_INVALID},
               {"nonsense", t.dir[0], ERR_INVALID},
               {"", t.dir[0], ERR_INVALID},
               {t.digest[0], t.folder, ERR_NONE}}; /* a folder without the files: some error, below */
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct outcome o = {0};
        lora_load(t.loras, row[i].digest, row[i].path, tiny_on_done, &o);
        tiny_await(&o.came, 1);
        if (row[i].code)
            assert_int_equal(o.err.code, row[i].code);
        else
            assert_int_not_equal(o.err.code, ERR_NONE);
        assert_false(lora_known(t.loras, row[i].digest));
    }
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    tiny_close(&t);
}

static void test_a_folder_outside_the_store_is_refused_also_through_a_link(void **state)
{
    (void)state;
    char store[96], link[128];
    struct err e = {0};
    open_with(2, 1000);
    lora_set_free(t.loras);
    snprintf(store, sizeof store, "%s/a7", t.folder);
    snprintf(link, sizeof link, "%s/link", store);
    assert_int_equal(symlink(t.dir[0], link), 0);
    assert_int_equal(
        lora_set_new(
            &t.loras, t.m,
            &(struct lora_options){.store = store, .max_slots = 2, .max_known = 4, .wait_ms = 100, .max_rank = 64}, &e),
        0);
    assert_int_equal(tiny_load(&t, 0), ERR_INVALID);
    struct outcome o = {0};
    lora_load(t.loras, t.digest[0], link, tiny_on_done, &o);
    tiny_await(&o.came, 1);
    assert_int_equal(o.err.code, ERR_INVALID);
    assert_string_equal(o.err.param, "lora_path");
    assert_int_equal(tiny_load(&t, 7), ERR_INVALID); /* the store itself is no version in it */
    unlink(link);
    lora_set_free(t.loras);
    assert_int_equal(
        lora_set_new(
            &t.loras, t.m,
            &(struct lora_options){.store = t.folder, .max_slots = 2, .max_known = 4, .wait_ms = 100, .max_rank = 64},
            &e),
        0);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    tiny_close(&t);
}

static void test_a_rank_beyond_the_limit_is_refused(void **state)
{
    (void)state;
    struct err e = {0};
    open_with(2, 1000);
    lora_set_free(t.loras);
    assert_int_equal(lora_set_new(&t.loras, t.m,
                                  &(struct lora_options){.max_slots = 2, .max_known = 4, .wait_ms = 100, .max_rank = 8},
                                  &e),
                     0);
    assert_int_equal(tiny_load(&t, 2), ERR_ADAPTER_INVALID);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    tiny_close(&t);
}

static void test_no_more_are_remembered_than_allowed(void **state)
{
    (void)state;
    struct err e = {0};
    struct lora_info info[16];
    open_with(2, 1000);
    lora_set_free(t.loras);
    assert_int_equal(
        lora_set_new(&t.loras, t.m,
                     &(struct lora_options){.max_slots = 2, .max_known = 3, .wait_ms = 100, .max_rank = 64}, &e),
        0);
    for (int i = 0; i < 6; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    assert_int_equal(lora_list(t.loras, info, 16), 3);
    assert_true(lora_known(t.loras, t.digest[5]));
    assert_false(lora_known(t.loras, t.digest[0]));
    tiny_close(&t);
}

static void test_a_slot_holds_what_the_file_says(void **state)
{
    (void)state;
    static const struct {
        enum tiny_type type;
        enum precision prec;
        double within;
    } row[] = {{TINY_F32, PREC_EXACT, 1e-5},
               {TINY_Q4_1, PREC_EXACT, 1e-5},
               {TINY_F32, PREC_FAST, 0.02},
               {TINY_Q8_0, PREC_FAST, 0.05},
               {TINY_Q4_1, PREC_FAST, 0.05}};
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        tiny_open(&t, row[r].type, row[r].prec,
                  &(struct lora_options){.max_slots = 2, .max_known = 16, .wait_ms = 1000, .max_rank = 64});
        for (int i = 0; i < ADAPTERS; i++) {
            double worst[LORA_CHECKS];
            struct err e = {0};
            assert_int_equal(tiny_load(&t, i), ERR_NONE);
            if (lora_selftest(t.loras, t.digest[i], worst, &e)) fail_msg("%s", e.msg);
            for (int m = 0; m < LORA_MODULES; m++) {
                bool adapted = tiny_adapters[i].modules >> m & 1;
                assert_int_equal(worst[m] >= 0, adapted);
                if (adapted && !(worst[m] < row[r].within))
                    fail_msg("row %zu, adapter %d, %s: %g", r, i, lora_module_name[m], worst[m]);
            }
        }
        assert_int_equal(tiny_pins(&t), 0);
        tiny_close(&t);
    }
}

static void test_the_self_test_sees_spoilt_memory(void **state)
{
    (void)state;
    double worst[LORA_CHECKS];
    struct err e = {0};
    open_with(1, 1000);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    struct outcome p = tiny_pin(&t, 1);
    p.slot->mod[LM_V].scale *= 1.01f;
    assert_int_equal(lora_selftest(t.loras, t.digest[1], worst, &e), 0);
    assert_true(worst[LM_V] > 1e-4);
    assert_true(worst[LM_Q] < 1e-5);
    unpin(&p);
    assert_int_equal(lora_selftest(t.loras, t.digest[2], worst, &e), -1);
    assert_int_equal(e.code, ERR_ADAPTER_NOT_LOADED);
    tiny_close(&t);
}

static void test_freeing_the_set_tells_those_who_wait(void **state)
{
    (void)state;
    open_with(1, 20000);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome o[5] = {0};
    for (int i = 1; i < 5; i++) lora_load(t.loras, t.digest[i], t.dir[i], tiny_on_done, &o[i]);
    lora_set_free(t.loras);
    t.loras = NULL;
    for (int i = 1; i < 5; i++) assert_int_equal(o[i].came, 1);
    tiny_close(&t);
}

/* --- the bound in bytes --- */

static size_t bytes_of(int i)
{
    struct lora_info info[64];
    int n = lora_list(t.loras, info, 64);
    for (int j = 0; j < n; j++)
        if (strcmp(info[j].digest, t.digest[i]) == 0) return info[j].bytes;
    return 0;
}

static void open_with_bytes(int64_t bytes, int wait_ms)
{
    tiny_open(&t, TINY_F32, PREC_EXACT,
              &(struct lora_options){
                  .max_slots = 8, .max_bytes = bytes, .max_known = 16, .wait_ms = wait_ms, .max_rank = 64});
}

/* What an adapter takes. */
static int64_t measure(int i)
{
    open_with(2, 1000);
    assert_int_equal(tiny_load(&t, i), ERR_NONE);
    int64_t bytes = (int64_t)bytes_of(i);
    tiny_close(&t);
    return bytes;
}

static int64_t resident_bytes(void)
{
    struct lora_info info[64];
    int64_t sum = 0;
    int n = lora_list(t.loras, info, 64);
    for (int j = 0; j < n; j++) sum += info[j].state == LORA_RESIDENT ? (int64_t)info[j].bytes : 0;
    return sum;
}

static void test_an_adapter_takes_its_own_ranks_bytes(void **state)
{
    (void)state;
    int64_t one = measure(0), four = measure(1), twenty_four = measure(5); /* ranks 1, 4 and 24 of the same modules */
    assert_true(four > 3 * one && four < 4 * one + 64 * 1024);
    assert_true(twenty_four > 5 * four && twenty_four <= 6 * four);
}

static void test_as_many_adapters_are_resident_as_their_bytes_allow(void **state)
{
    (void)state;
    int64_t big = measure(5), small = measure(1);
    open_with_bytes(big + small, 1000);
    assert_true(lora_max_bytes(t.loras) == big + small);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    assert_int_equal(tiny_load(&t, 5), ERR_NONE);
    assert_int_equal(state_of(5), LORA_RESIDENT);
    assert_int_equal(state_of(1), LORA_COLD); /* the longest unused went first, and was enough */
    assert_int_equal(state_of(0), LORA_RESIDENT);
    for (int i = 0; i < ADAPTERS; i++) {
        assert_int_equal(tiny_load(&t, i), ERR_NONE);
        assert_true(resident_bytes() <= big + small);
    }
    tiny_close(&t);
}

static void test_an_adapter_larger_than_all_room_is_refused_and_drives_nobody_out(void **state)
{
    (void)state;
    int64_t big = measure(5);
    open_with_bytes(big - 1, 1000);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    struct outcome o = {0};
    lora_load(t.loras, t.digest[5], t.dir[5], tiny_on_done, &o);
    tiny_await(&o.came, 1);
    assert_int_equal(o.err.code, ERR_ADAPTER_INVALID);
    assert_int_equal(state_of(1), LORA_RESIDENT);
    tiny_close(&t);
}

static void test_who_needs_more_bytes_than_are_unpinned_waits_and_drops_nobody(void **state)
{
    (void)state;
    int64_t big = measure(5), small = measure(1);
    open_with_bytes(big + small / 2, 20000);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    struct outcome held = tiny_pin(&t, 1), b = {0};
    lora_load(t.loras, t.digest[5], t.dir[5], tiny_on_done, &b);
    usleep(50000);
    assert_int_equal(b.came, 0);
    assert_int_equal(state_of(0), LORA_RESIDENT);
    unpin(&held);
    tiny_await(&b.came, 1);
    assert_int_equal(b.err.code, ERR_NONE);
    assert_int_equal(state_of(1), LORA_COLD);
    tiny_close(&t);
}

/* --- what is verified again --- */

static void write_byte(int i, long at)
{
    char path[160];
    snprintf(path, sizeof path, "%s/" ADAPTER_WEIGHTS_FILE, t.dir[i]);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_END);
    int c = fgetc(f);
    fseek(f, at, SEEK_END);
    fputc(c ^ 1, f);
    fclose(f);
}

static void test_a_dropped_adapter_whose_file_changed_is_refused_when_it_comes_back(void **state)
{
    (void)state;
    open_with(1, 1000);
    usleep(2100000); /* so that its files have settled and are not hashed again for nothing */
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE); /* on trust */
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    write_byte(0, -3);
    assert_int_equal(tiny_load(&t, 0), ERR_ADAPTER_INVALID);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    tiny_close(&t);
}

static bool always_busy(void *u)
{
    (*(int *)u)++;
    return true;
}

static void test_a_load_rests_while_steps_are_made_and_only_then(void **state)
{
    (void)state;
    int asked = 0;
    open_with(2, 1000);
    struct lora_pace pace = {.s = t.loras};
    lora_set_pace(t.loras, always_busy, &asked);
    while (asked < 3) lora_breathe(&pace); /* asks once in a slice of the thread's own time */
    lora_set_pace(t.loras, NULL, NULL);
    for (int64_t last = pace.rested_us, n = 0; n < 5; last = pace.rested_us) { /* further slices go by */
        lora_breathe(&pace);
        n += pace.rested_us != last;
    }
    assert_int_equal(asked, 3);
    lora_breathe(NULL);
    lora_set_pace(t.loras, always_busy, &asked);
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
    tiny_close(&t);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loading_twice_loads_once),
        cmocka_unit_test(test_the_least_recently_used_slot_is_dropped_and_comes_back_when_asked),
        cmocka_unit_test(test_a_pinned_slot_is_not_dropped),
        cmocka_unit_test(test_who_waits_for_a_slot_gets_it_when_a_pin_is_given_back),
        cmocka_unit_test(test_a_busy_adapter_takes_no_new_pins_when_another_has_waited_half_its_time),
        cmocka_unit_test(test_when_the_waiting_one_gives_up_the_busy_adapter_opens_again),
        cmocka_unit_test(test_unloading_waits_for_the_pins_and_forgets),
        cmocka_unit_test(test_loading_while_it_drains_brings_it_back),
        cmocka_unit_test(test_who_claimed_before_the_unloading_can_pin_until_the_claim_is_given_back),
        cmocka_unit_test(test_a_claim_and_a_pin_are_both_waited_for),
        cmocka_unit_test(test_a_load_that_is_asked_for_after_an_unloading_comes_true_after_it),
        cmocka_unit_test(test_what_is_claimed_and_breaks_is_refused_and_can_be_loaded_anew),
        cmocka_unit_test(test_what_is_claimed_is_not_forgotten_for_others),
        cmocka_unit_test(test_what_is_not_the_adapter_asked_for_is_refused),
        cmocka_unit_test(test_a_folder_outside_the_store_is_refused_also_through_a_link),
        cmocka_unit_test(test_a_rank_beyond_the_limit_is_refused),
        cmocka_unit_test(test_no_more_are_remembered_than_allowed),
        cmocka_unit_test(test_a_slot_holds_what_the_file_says),
        cmocka_unit_test(test_the_self_test_sees_spoilt_memory),
        cmocka_unit_test(test_freeing_the_set_tells_those_who_wait),
        cmocka_unit_test(test_an_adapter_takes_its_own_ranks_bytes),
        cmocka_unit_test(test_as_many_adapters_are_resident_as_their_bytes_allow),
        cmocka_unit_test(test_an_adapter_larger_than_all_room_is_refused_and_drives_nobody_out),
        cmocka_unit_test(test_who_needs_more_bytes_than_are_unpinned_waits_and_drops_nobody),
        cmocka_unit_test(test_a_dropped_adapter_whose_file_changed_is_refused_when_it_comes_back),
        cmocka_unit_test(test_a_load_rests_while_steps_are_made_and_only_then),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
