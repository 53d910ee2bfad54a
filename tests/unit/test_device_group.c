/* Several devices that share one model, their kernels on the CPU: logits and answers beside one device's, a row's bits
 * wherever it stands, what can't be shared, a device that fails. What each device holds: tests/simt/test_shard.c. */
#include "engine/forward.h"
#include "engine/kv.h"
#include "tests/unit/device_world.h"
#include <math.h>

#define ASKS 9
#define TOKENS 8
#define FEW (ASKS * TOKENS / 2) /* random weights make near ties, and a token that differs changes all behind it */

static void set_devices(int n)
{
    char text[16];
    snprintf(text, sizeof text, "%d", n);
    setenv("WEFT_SIMT_DEVICES", text, 1);
}

/* --- passes --- */

enum { ROWS = 12 };

struct passes {
    char folder[64];
    struct model *m;
    struct device *device;
    struct device_plan plan;
    struct pool *pool;
    struct kv_pool kv;
    struct forward *f;
};

static void passes_open(struct passes *p, bool untied, int ranks)
{
    const struct model_device_options o = {.kv_type = KV_BF16,
                                           .max_rows = ROWS,
                                           .max_seqs = ROWS,
                                           .max_logits = ROWS,
                                           .max_segs = 1,
                                           .max_rank = 8,
                                           .slots = 1,
                                           .adapter_bytes = 1 << 20,
                                           .kv_bytes = 1 << 20};
    struct err e = {0};
    char path[96];
    memset(p, 0, sizeof *p);
    tiny_folder(p->folder);
    snprintf(path, sizeof path, "%s/model.gguf", p->folder);
    tiny_gguf(path, &(struct tiny){.seed = 77, .type = TINY_F32, .untied = untied});
    if (model_load(&p->m, path, "tiny", PREC_FAST, 0, &e)) fail_msg("%s", e.msg);
    set_devices(ranks);
    device_library();
    device_ready(&p->device, p->m, &o, ranks, &p->plan);
    if (kv_pool_init_on(&p->kv, p->m, KV_BF16, &p->plan, device_room(p->device, ROOM_KV), &e) ||
        pool_new(&p->pool, ranks, &e) ||
        forward_new(&p->f, p->m, device_kernels(p->device), p->pool, &p->kv.cache, ROWS, ROWS, 8, &e))
        fail_msg("%s", e.msg);
}

static void passes_close(struct passes *p)
{
    forward_free(p->f);
    kv_pool_close(&p->kv);
    pool_free(p->pool);
    device_close(p->device);
    model_free(p->m);
    tiny_remove(p->folder);
}

/* Sequences of one token each, number `first` first, then in turns. */
static const float *pass(struct passes *p, int first)
{
    struct attn_seq seq[ROWS];
    int32_t token[ROWS], page[ROWS];
    int wanted[ROWS];
    for (int i = 0; i < ROWS; i++) {
        int n = (first + i) % ROWS;
        token[i] = 20 + 7 * n;
        page[i] = n;
        seq[i] = (struct attn_seq){.row0 = i, .rows = 1, .page = &page[i]};
        wanted[i] = i;
    }
    const struct forward_batch b = {
        .rows = ROWS, .token = token, .nseq = ROWS, .seq = seq, .nlogits = ROWS, .logit_row = wanted};
    const float *logits = forward_run(p->f, &b);
    if (!logits) fail_msg("%s", forward_error(p->f)->msg);
    return logits;
}

static float alone[ROWS * TINY_VOCAB];

static void near_alone(const float *got)
{
    float most = 0;
    for (int i = 0; i < ROWS * TINY_VOCAB; i++) most = fmaxf(most, fabsf(alone[i]));
    for (int i = 0; i < ROWS * TINY_VOCAB; i++)
        if (!(fabsf(got[i] - alone[i]) <= 0.02f * most))
            fail_msg("%d: %g, not %g", i, (double)got[i], (double)alone[i]);
}

/* The matrix is the embedding, of which each device multiplies its part, or one of its own. */
static void test_logits_of_a_group_are_those_of_one_device(void **state)
{
    (void)state;
    for (int untied = 0; untied < 2; untied++)
        for (int ranks = 1; ranks <= 4; ranks *= 2) {
            struct passes p;
            passes_open(&p, untied, ranks);
            const float *got = pass(&p, 0);
            if (ranks == 1)
                memcpy(alone, got, sizeof alone);
            else
                near_alone(got);
            passes_close(&p);
        }
}

static void test_a_rows_bits_do_not_depend_on_where_it_stands(void **state)
{
    (void)state;
    struct passes p;
    passes_open(&p, false, 4);
    memcpy(alone, pass(&p, 0), sizeof alone);
    for (int first = 1; first < ROWS; first += 3) {
        const float *got = pass(&p, first);
        for (int i = 0; i < ROWS; i++)
            assert_memory_equal(got + i * TINY_VOCAB, alone + (first + i) % ROWS * TINY_VOCAB,
                                TINY_VOCAB * sizeof *alone);
    }
    passes_close(&p);
}

/* --- answers --- */

static struct device_world dev;
static struct reply here[ASKS], there[ASKS];

static void open_group(const struct sched_options *so, int ranks)
{
    set_devices(ranks);
    world_open(&dev, TINY_F32, &world_loras, so, true, ranks);
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&dev.t, i), ERR_NONE);
}

static void close_group(void)
{
    world_close(&dev);
    unsetenv("WEFT_SIMT_DEVICES");
}

static void ask_all(struct reply *r)
{
    for (int i = 0; i < ASKS; i++) {
        struct ask q = {.adapter = i % (ADAPTERS + 1) - 1, .seed = 700 + (uint64_t)i, .n = 3 + 5 * i, .max = TOKENS};
        assert_int_equal(tiny_submit(&dev.t, &q, &r[i]), ERR_NONE);
    }
    for (int i = 0; i < ASKS; i++) {
        tiny_finish(&r[i]);
        if (r[i].err.code) fail_msg("%s", r[i].err.msg);
        assert_int_equal(r[i].n, TOKENS);
    }
}

/* Tokens up to the first that differs, over all. */
static int equal_tokens(void)
{
    int same = 0;
    for (int i = 0; i < ASKS; i++)
        for (int n = 0; n < TOKENS && here[i].ids[n] == there[i].ids[n]; n++) same++;
    return same;
}

/* Two have a head of keys each; of four each is held twice. */
static void test_a_group_gives_the_answers_of_one_device(void **state)
{
    (void)state;
    open_group(&world_sched, 1);
    ask_all(here);
    close_group();
    for (int ranks = 2; ranks <= 4; ranks *= 2) {
        open_group(&world_sched, ranks);
        ask_all(there);
        tiny_assert_idle(&dev.t);
        close_group();
        int same = equal_tokens();
        printf("  %d devices: %d of %d tokens are the same\n", ranks, same, ASKS * TOKENS);
        assert_true(same >= FEW);
    }
}

/* As SmolLM2 has them: nine heads on three heads of keys. */
static void test_three_devices_share_three_heads_of_keys(void **state)
{
    (void)state;
    const int was[] = {tiny_dim.heads, tiny_dim.kv_heads, tiny_dim.head_dim, tiny_dim.hidden};
    tiny_dim.heads = 9, tiny_dim.kv_heads = 3, tiny_dim.head_dim = 32, tiny_dim.hidden = 9 * 32;
    open_group(&world_sched, 1);
    ask_all(here);
    close_group();
    open_group(&world_sched, 3);
    ask_all(there);
    close_group();
    int same = equal_tokens();
    printf("  %d of %d tokens are the same\n", same, ASKS * TOKENS);
    assert_true(same >= FEW);
    tiny_dim.heads = was[0], tiny_dim.kv_heads = was[1], tiny_dim.head_dim = was[2], tiny_dim.hidden = was[3];
}

static void test_a_group_draws_and_scores_as_one_device_does(void **state)
{
    (void)state;
    static const struct sample_params how[] = {{.temperature = 0.8f, .top_p = 0.9f, .logprobs = -1},
                                               {.temperature = 1, .top_p = 1, .top_k = 20, .logprobs = 0}};
    enum { DRAWS = 20 };
    struct reply r[2][2];
    int same = 0;
    for (int g = 0; g < 2; g++) {
        open_group(&world_sched, g ? 4 : 1);
        for (int i = 0; i < 2; i++) {
            struct ask q = {.adapter = i, .seed = 3, .n = 9};
            q.p = (struct gen_params){.max_tokens = DRAWS, .ignore_eos = true, .sample = how[i]};
            q.p.sample.seed = 77;
            tiny_ask(&dev.t, &q, &r[g][i]);
            assert_int_equal(r[g][i].n, DRAWS);
        }
        close_group();
    }
    for (int i = 0; i < 2; i++)
        for (int n = 0; n < DRAWS && r[0][i].ids[n] == r[1][i].ids[n]; n++) same++;
    printf("  %d of %d draws are the same\n", same, 2 * DRAWS);
    assert_true(same >= DRAWS); /* near ties, and what differs changes all behind it */
}

static void test_what_a_group_cannot_share_is_refused(void **state)
{
    (void)state;
    struct model_device_options o = {.kv_type = KV_BF16, .max_rows = 64, .max_seqs = 8, .max_logits = 64};
    struct err e = {0};
    o.max_segs = 8, o.max_rank = 16, o.slots = 1, o.adapter_bytes = 1 << 20, o.kv_bytes = 1 << 20;
    setenv("WEFT_SIMT_DEVICES", "3", 1);
    tiny_open(&dev.t, TINY_F32, PREC_FAST, &world_loras);
    device_library();
    assert_int_equal(device_open(&dev.device, "cuda", 3, &e), 0);
    assert_int_equal(model_to_device(dev.t.m, dev.device, &o, &dev.plan, &e), -1);
    assert_int_equal(e.code, ERR_USAGE);
    assert_string_equal(e.msg, "q_proj: 4 times 16 outputs can't be shared by 3 devices");
    device_close(dev.device);
    tiny_close(&dev.t);
    unsetenv("WEFT_SIMT_DEVICES");
}

/* NCCL's buffers come when the group is made, before memory is planned. */
static void test_what_a_group_takes_is_not_planned_with(void **state)
{
    (void)state;
    struct model_device_options o = {.kv_type = KV_BF16, .max_rows = 8, .max_seqs = 8, .max_logits = 8};
    struct err e = {0};
    o.max_segs = 8, o.max_rank = 16, o.slots = 1, o.adapter_bytes = 1 << 20, o.kv_bytes = 1 << 20;
    setenv("WEFT_SIMT_GROUP_MB", "1000", 1); /* of 1024 */
    set_devices(2);
    tiny_open(&dev.t, TINY_F32, PREC_FAST, &world_loras);
    device_library();
    for (int ranks = 1; ranks <= 2; ranks++) {
        assert_int_equal(device_open(&dev.device, "cuda", ranks, &e), 0);
        assert_int_equal(model_to_device(dev.t.m, dev.device, &o, &dev.plan, &e), ranks == 1 ? 0 : -1);
        device_close(dev.device);
    }
    assert_int_equal(e.code, ERR_USAGE);
    assert_non_null(strstr(e.msg, "keys and values do not fit"));
    tiny_close(&dev.t);
    unsetenv("WEFT_SIMT_GROUP_MB");
    unsetenv("WEFT_SIMT_DEVICES");
}

/* The other devices stand in a collective that it does not come to. */
static void test_one_device_of_a_group_that_fails_ends_every_request(void **state)
{
    (void)state;
    for (int on = 0; on < 4; on += 3) {
        struct reply r[4];
        char which[16];
        snprintf(which, sizeof which, "%d", on);
        open_group(&world_sched, 4);
        setenv("WEFT_SIMT_FAULT_ON", which, 1);
        setenv("WEFT_SIMT_FAULT", "op:70", 1);
        for (int i = 0; i < 4; i++) {
            struct ask q = {.adapter = i - 1, .seed = 5, .n = 9, .max = 200};
            assert_int_equal(tiny_submit(&dev.t, &q, &r[i]), ERR_NONE);
        }
        for (int i = 0; i < 4; i++) {
            tiny_finish(&r[i]);
            assert_int_equal(r[i].finish, FINISH_ERROR);
            assert_int_equal(r[i].err.code, ERR_UNAVAILABLE);
        }
        assert_true(sched_failed(dev.t.s));
        unsetenv("WEFT_SIMT_FAULT");
        unsetenv("WEFT_SIMT_FAULT_ON");
        close_group();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_of_a_group_are_those_of_one_device),
        cmocka_unit_test(test_a_rows_bits_do_not_depend_on_where_it_stands),
        cmocka_unit_test(test_a_group_gives_the_answers_of_one_device),
        cmocka_unit_test(test_three_devices_share_three_heads_of_keys),
        cmocka_unit_test(test_a_group_draws_and_scores_as_one_device_does),
        cmocka_unit_test(test_what_a_group_cannot_share_is_refused),
        cmocka_unit_test(test_what_a_group_takes_is_not_planned_with),
        cmocka_unit_test(test_one_device_of_a_group_that_fails_ends_every_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
