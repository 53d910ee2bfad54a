/* A load that takes long, here one that stands still while it is hashed, does not hold up the others. The pace is a stand-in, to stop a load in it. */
#include "base/log.h"
#include "tests/unit/tiny_engine.h"

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static bool shut;
static int inside; /* loads that stand at the gate */

/* The first load that comes while it is shut waits for it. */
void lora_breathe(void *u)
{
    (void)u;
    pthread_mutex_lock(&gate);
    if (shut && inside == 0) {
        inside++;
        while (shut) pthread_cond_wait(&opened, &gate);
        inside--;
    }
    pthread_mutex_unlock(&gate);
}

void lora_touch(void *block, size_t bytes, struct lora_pace *pace)
{
    (void)block;
    (void)bytes;
    (void)pace;
}

static void set_gate(bool to)
{
    pthread_mutex_lock(&gate);
    shut = to;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&gate);
}

static int at_the_gate(void)
{
    pthread_mutex_lock(&gate);
    int n = inside;
    pthread_mutex_unlock(&gate);
    return n;
}

static void a_load_that_takes_long_holds_up_no_other(void **state)
{
    (void)state;
    struct tiny_engine t;
    struct outcome slow = {0};
    tiny_open(&t, TINY_F32, PREC_EXACT, &(struct lora_options){.max_slots = 2, .max_known = 16, .wait_ms = 5000, .max_rank = 64});
    set_gate(true);
    lora_load(t.loras, t.digest[0], t.dir[0], tiny_on_done, &slow);
    while (!at_the_gate()) usleep(1000);
    for (int i = 1; i < ADAPTERS; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE); /* more than there are slots: they take each other's */
    assert_int_equal(slow.came, 0);
    set_gate(false);
    tiny_await(&slow.came, 1);
    assert_int_equal(slow.err.code, ERR_NONE);
    assert_true(metric_get(t.metrics, M_LOADS, (const char *[]){"ok"}) == ADAPTERS);
    tiny_close(&t);
}

/* Both read at once, and there is one slot: each gets it in its turn. */
static void loads_beside_each_other_share_what_slots_there_are(void **state)
{
    (void)state;
    struct tiny_engine t;
    tiny_open(&t, TINY_F32, PREC_EXACT, &(struct lora_options){.max_slots = 1, .max_known = 16, .wait_ms = 5000, .max_rank = 64});
    for (int round = 0; round < 50; round++) {
        struct outcome o[ADAPTERS] = {0};
        for (int i = 0; i < ADAPTERS; i++) lora_load(t.loras, t.digest[i], t.dir[i], tiny_on_done, &o[i]);
        for (int i = 0; i < ADAPTERS; i++) {
            tiny_await(&o[i].came, 1);
            assert_int_equal(o[i].err.code, ERR_NONE);
        }
        struct outcome a = tiny_pin(&t, round % ADAPTERS);
        assert_string_equal(a.slot->digest, t.digest[round % ADAPTERS]);
        lora_unpin(t.loras, a.slot);
        for (int i = 0; i < ADAPTERS; i += 2) tiny_unload(&t, i);
    }
    tiny_close(&t);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_load_that_takes_long_holds_up_no_other),
        cmocka_unit_test(loads_beside_each_other_share_what_slots_there_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
