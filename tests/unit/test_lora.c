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
    open_with(1, 1000);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome a = tiny_pin(&t, 0), b = {0}, c = {0};
    lora_load(t.loras, t.digest[1], t.dir[1], tiny_on_done, &b);
    usleep(700000);
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
        cmocka_unit_test(test_what_is_not_the_adapter_asked_for_is_refused),
        cmocka_unit_test(test_a_folder_outside_the_store_is_refused_also_through_a_link),
        cmocka_unit_test(test_a_rank_beyond_the_limit_is_refused),
        cmocka_unit_test(test_no_more_are_remembered_than_allowed),
        cmocka_unit_test(test_a_slot_holds_what_the_file_says),
        cmocka_unit_test(test_the_self_test_sees_spoilt_memory),
        cmocka_unit_test(test_freeing_the_set_tells_those_who_wait),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
