/* The thread that sends webhooks, where no receiver is asked: what an earlier one said is no word about this try. */
#include "gateway/webhook/webhook_send.c"
#include "tests/unit/data_room.h"

struct send_room {
    struct room r;
    struct settings set;
    struct gateway g;
    struct webhooks w;
    struct hook h;
};

static int setup(void **state)
{
    struct send_room *x = calloc(1, sizeof *x);
    room_new(&x->r);
    room_start(&x->r);
    x->set.webhook_hosts = "";
    x->set.webhook_retry_s = 3600;
    x->g.db = x->r.db;
    x->g.set = &x->set;
    x->g.metrics = metrics_new(gateway_meter_rows, GATEWAY_METERS);
    x->w.g = &x->g;
    x->w.heads.usage = 1;
    pthread_mutex_init(&x->w.lock, NULL);
    pthread_cond_init(&x->w.wake, NULL);
    x->h = (struct hook){.all = &x->w, .usage = true, .id = "w", .url = "http://hooks.lan/in", .batch_max = 1};
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct send_room *x = *state;
    room_end(&x->r); /* with what is being saved */
    pthread_cond_destroy(&x->w.wake);
    pthread_mutex_destroy(&x->w.lock);
    metrics_free(x->g.metrics);
    free(x);
    return 0;
}

/* A receiver of a host that was listed asked for an hour; by now the setting lists it no more. */
static void a_try_that_asks_nobody_keeps_no_receivers_pause_and_words(void **state)
{
    struct send_room *x = *state;
    struct hook *h = &x->h;
    h->status = 503;
    h->failures = 1;
    snprintf(h->retry_after, sizeof h->retry_after, "3600");
    err_set(&h->broken, ERR_ENGINE, "the connection broke");
    int64_t now = clock_mono_us();
    begin(h);
    assert_int_equal(h->failures, 2);
    assert_true(h->due_us - now <= 10 * HOOK_RETRY_FIRST_MS * 1000);
    assert_non_null(strstr(h->broken.msg, "webhook_hosts"));
    assert_int_equal(h->status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_try_that_asks_nobody_keeps_no_receivers_pause_and_words, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
