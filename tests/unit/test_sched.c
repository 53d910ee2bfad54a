/* Tests of engine/sched with the real forward pass on a tiny model: what a request is answered must not depend on who
 * else is there, and whatever happens pages, pins and rows are back to zero afterwards. */
#include "base/log.h"
#include "tests/unit/tiny_engine.h"

static struct tiny_engine t;

static const struct lora_options many_slots = {.max_slots = ADAPTERS, .max_known = 16, .wait_ms = 5000, .max_rank = 64};
static const struct sched_options roomy = {.max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2};

static void open_exact(const struct sched_options *o)
{
    tiny_open(&t, TINY_F32, PREC_EXACT, &many_slots);
    tiny_start(&t, o);
}

static void load_all(void)
{
    for (int i = 0; i < ADAPTERS; i++) assert_int_equal(tiny_load(&t, i), ERR_NONE);
}

/* A crowd: base and all adapters, prompts of 1 to 90 tokens, a third of them sampled. */
#define CROWD 27
static struct ask crowd_ask(int i)
{
    struct ask a = {.adapter = i % 9 - 1,
                    .seed = 500 + (uint64_t)i,
                    .n = 1 + i * 37 % 90,
                    .max = 8 + i % 3 * 8,
                    .tenant = i % 2 ? "odd" : "even"};
    if (i % 3 == 2)
        a.p = (struct gen_params){
            .max_tokens = a.max,
            .ignore_eos = true,
            .sample = {.temperature = 1, .top_p = 0.9f, .top_k = 50, .seed = (uint64_t)i, .logprobs = 2}};
    return a;
}

static struct reply alone[CROWD], crowd[CROWD];

static void ask_alone(void)
{
    for (int i = 0; i < CROWD; i++) {
        const struct ask a = crowd_ask(i);
        tiny_ask(&t, &a, &alone[i]);
        assert_int_equal(alone[i].finish, FINISH_LENGTH);
        assert_int_equal(alone[i].n, a.max);
    }
}

static void ask_together(void)
{
    for (int i = 0; i < CROWD; i++) {
        const struct ask a = crowd_ask(i);
        assert_int_equal(tiny_submit(&t, &a, &crowd[i]), ERR_NONE);
    }
    for (int i = 0; i < CROWD; i++) tiny_finish(&crowd[i]);
}

static void assert_same_answers(void)
{
    for (int i = 0; i < CROWD; i++) {
        assert_int_equal(crowd[i].finish, FINISH_LENGTH);
        assert_int_equal(crowd[i].n, alone[i].n);
        assert_memory_equal(crowd[i].ids, alone[i].ids, (size_t)alone[i].n * sizeof *alone[i].ids);
        assert_int_equal(crowd[i].len, alone[i].len);
        assert_memory_equal(crowd[i].text, alone[i].text, alone[i].len);
        assert_true(crowd[i].last.logprob == alone[i].last.logprob); /* bit-equal, not just the same token */
    }
}

static int different_answers(void)
{
    int n = 0;
    for (int i = 1; i < CROWD; i++) n += memcmp(alone[i].ids, alone[0].ids, 8 * sizeof *alone[0].ids) != 0;
    return n;
}

static void test_an_answer_is_the_same_alone_and_in_a_mixed_crowd(void **state)
{
    (void)state;
    static const struct {
        enum tiny_type type;
        enum precision prec;
        const char *kernels;
    } row[] = {{TINY_F32, PREC_EXACT, NULL},
               {TINY_F32, PREC_FAST, NULL},
               {TINY_Q8_0, PREC_FAST, NULL},
               {TINY_Q4_1, PREC_FAST, NULL},
               {TINY_Q4_1, PREC_FAST, "plain"}};
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        struct sched_options o = roomy;
        o.kernels = row[r].kernels;
        tiny_open(&t, row[r].type, row[r].prec, &many_slots);
        tiny_start(&t, &o);
        load_all();
        ask_alone();
        assert_true(different_answers() > CROWD / 2); /* or the test could not fail */
        ask_together();
        assert_same_answers();
        tiny_assert_idle(&t);
        tiny_close(&t);
    }
}

static void test_a_prompt_in_chunks_is_the_same_as_whole(void **state)
{
    (void)state;
    static const int rows[] = {200, 16, 7, 2};
    open_exact(&(struct sched_options){.max_running = 1, .max_waiting = 64, .step_tokens = 256});
    load_all();
    ask_alone();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tiny_stop(&t);
        tiny_start(&t, &(struct sched_options){
                           .max_running = 2, .max_waiting = 64, .step_tokens = rows[i], .threads = 1 + (int)i % 2});
        ask_together();
        assert_same_answers();
    }
    tiny_close(&t);
}

/* Microseconds that the crowd had to wait after its first turn; nobody's times may be off. */
static int64_t paused_in_all(void)
{
    int64_t sum = 0;
    for (int i = 0; i < CROWD; i++) {
        const struct gen_times *w = &crowd[i].times;
        assert_true(w->queue_us >= 0 && w->load_us >= 0 && w->prefill_us > 0 && w->decode_us > 0);
        assert_true(w->paused_us >= 0 && w->paused_us <= w->prefill_us + w->decode_us);
        sum += w->paused_us;
    }
    return sum;
}

static void test_a_preempted_sequence_gives_the_same_answer(void **state)
{
    (void)state;
    struct sched_state st;
    open_exact(&roomy);
    load_all();
    ask_alone();
    tiny_stop(&t);
    struct sched_options o = roomy;
    o.kv_bytes =
        (int64_t)kv_page_bytes(KV_F32, tiny_dim.kv_heads, tiny_dim.head_dim) * tiny_dim.layers * 16; /* pages */
    tiny_start(&t, &o);
    for (int round = 0; round < 3; round++) {
        ask_together();
        assert_same_answers();
    }
    assert_true(paused_in_all() > 0);
    sched_get_state(t.s, &st);
    assert_int_equal(st.pages_total, 16);
    assert_true(st.preemptions > 0);
    assert_true(metric_get(t.metrics, M_PREEMPTIONS, NULL) == (double)st.preemptions);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_fewer_slots_than_adapters_only_make_requests_wait(void **state)
{
    (void)state;
    open_exact(&roomy);
    load_all();
    ask_alone();
    tiny_close(&t);
    tiny_open(&t, TINY_F32, PREC_EXACT,
              &(struct lora_options){.max_slots = 2, .max_known = 16, .wait_ms = 20000, .max_rank = 64});
    tiny_start(&t, &roomy);
    load_all();
    ask_together();
    assert_same_answers();
    assert_true(metric_get(t.metrics, M_EVICTIONS, NULL) > 0);
    assert_true(metric_get(t.metrics, M_COLD, NULL) > 0);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_cancelled_requests_give_everything_back(void **state)
{
    (void)state;
    struct sched_options o = roomy;
    o.max_running = 4;
    open_exact(&o);
    load_all();
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < CROWD; i++) {
            struct ask a = crowd_ask(i);
            a.max = a.p.max_tokens = 150;
            a.p.ignore_eos = true;
            a.p.sample.top_p = 1;
            a.p.sample.logprobs = -1;
            assert_int_equal(tiny_submit(&t, &a, &crowd[i]), ERR_NONE);
        }
        usleep((useconds_t)round * 3000);
        for (int i = CROWD - 1; i >= 0; i--) {
            pthread_mutex_lock(&tiny_lock); /* it is not done while this is held: GEN_DONE takes it */
            if (!crowd[i].done) sched_cancel(t.s, crowd[i].gen);
            pthread_mutex_unlock(&tiny_lock);
        }
        int cancelled = 0;
        for (int i = 0; i < CROWD; i++) {
            tiny_finish(&crowd[i]);
            cancelled += crowd[i].finish == FINISH_CANCELLED;
        }
        assert_true(cancelled > 0);
        tiny_assert_idle(&t);
    }
    tiny_close(&t);
}

static void test_a_request_that_waits_past_its_deadline_ends(void **state)
{
    (void)state;
    static struct reply first, late;
    struct sched_options o = roomy;
    o.max_running = 1;
    open_exact(&o);
    tiny_hold(&t, &(struct ask){.adapter = -1, .n = 4, .max = 240}, &first);
    enum err_code code = tiny_submit(&t, &(struct ask){.adapter = -1, .n = 4, .max = 4, .deadline_ms = 1}, &late);
    usleep(2000);
    pthread_mutex_unlock(&tiny_lock);
    if (code == ERR_NONE) { /* before enough steps were seen to refuse it at once */
        tiny_finish(&late);
        assert_int_equal(late.finish, FINISH_ERROR);
        assert_int_equal(late.counts.output, 0);
        code = late.err.code;
    }
    assert_int_equal(code, ERR_DEADLINE);
    tiny_finish(&first);
    assert_int_equal(first.finish, FINISH_LENGTH);
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 4, .max = 4, .deadline_ms = 20000}, &late);
    assert_int_equal(late.finish, FINISH_LENGTH);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_a_deadline_passes_also_while_the_adapter_is_awaited(void **state)
{
    (void)state;
    static struct reply r;
    tiny_open(&t, TINY_F32, PREC_EXACT,
              &(struct lora_options){.max_slots = 1, .max_known = 16, .wait_ms = 400, .max_rank = 64});
    tiny_start(&t, &roomy);
    assert_int_equal(tiny_load(&t, 1), ERR_NONE);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    struct outcome p = tiny_pin(&t, 0);
    assert_int_equal(tiny_submit(&t, &(struct ask){.adapter = 1, .n = 4, .max = 4, .deadline_ms = 50}, &r), ERR_NONE);
    tiny_finish(&r);
    assert_int_equal(r.err.code, ERR_DEADLINE);
    assert_true(r.times.load_us >= 49000 && r.times.queue_us < r.times.load_us && r.times.prefill_us == 0);
    assert_int_equal(tiny_submit(&t, &(struct ask){.adapter = 1, .n = 4, .max = 4}, &r), ERR_NONE);
    tiny_finish(&r);
    assert_int_equal(r.err.code, ERR_NO_SLOT);
    lora_unpin(t.loras, p.slot);
    tiny_ask(&t, &(struct ask){.adapter = 1, .n = 4, .max = 4}, &r);
    assert_int_equal(r.finish, FINISH_LENGTH);
    assert_true(r.cold);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_a_full_queue_refuses(void **state)
{
    (void)state;
    struct sched_options o = roomy;
    o.max_running = 1;
    o.max_waiting = 3;
    open_exact(&o);
    int refused = 0, taken = 0;
    for (int i = 0; i < 12; i++) {
        enum err_code code = tiny_submit(&t, &(struct ask){.adapter = -1, .n = 4, .max = 100}, &crowd[taken]);
        if (code == ERR_NONE)
            taken++;
        else
            assert_int_equal(code, ERR_QUEUE_FULL), refused++;
    }
    assert_in_range(taken, 3, 11);
    assert_int_equal(taken + refused, 12);
    for (int i = 0; i < taken; i++) tiny_finish(&crowd[i]);
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 4, .max = 4}, &crowd[0]);
    assert_int_equal(crowd[0].finish, FINISH_LENGTH);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

/* One place: a blocker runs while two tenants queue up; returns how many of b's 8 are among the first 16 that end. */
static int share_of(double weight_a, double weight_b)
{
    static struct reply blocker, a[24], b[8];
    struct sched_options o = roomy;
    int early = 0, refused = 0, before;
    o.max_running = 1;
    open_exact(&o);
    before = tiny_done_count;
    tiny_hold(&t, &(struct ask){.adapter = -1, .n = 4, .max = 250}, &blocker);
    for (int i = 0; i < 24; i++)
        refused += tiny_submit(&t, &(struct ask){.adapter = -1, .n = 10, .max = 10, .tenant = "a", .weight = weight_a},
                               &a[i]) != 0;
    for (int i = 0; i < 8; i++)
        refused += tiny_submit(&t, &(struct ask){.adapter = -1, .n = 10, .max = 10, .tenant = "b", .weight = weight_b},
                               &b[i]) != 0;
    pthread_mutex_unlock(&tiny_lock);
    assert_int_equal(refused, 0);
    for (int i = 0; i < 24; i++) tiny_finish(&a[i]);
    for (int i = 0; i < 8; i++) {
        tiny_finish(&b[i]);
        early += b[i].order - before - 1 < 16;
    }
    tiny_finish(&blocker);
    tiny_assert_idle(&t);
    tiny_close(&t);
    return early;
}

static void test_tenants_share_by_weight_whoever_came_first(void **state)
{
    (void)state;
    assert_in_range(share_of(1, 1), 7, 8);
    assert_in_range(share_of(3, 1), 3, 5);
}

static void test_leaving_and_coming_back_forgets_no_debt(void **state)
{
    (void)state;
    static struct reply blocker, greedy, modest[4], back;
    struct sched_options o = roomy;
    o.max_running = 1;
    open_exact(&o);
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 100, .max = 100, .tenant = "greedy"}, &greedy);
    tiny_hold(&t, &(struct ask){.adapter = -1, .n = 4, .max = 250, .tenant = "blocker"}, &blocker);
    int refused = tiny_submit(&t, &(struct ask){.adapter = -1, .n = 4, .max = 4, .tenant = "greedy"}, &back) != 0;
    for (int i = 0; i < 4; i++)
        refused += tiny_submit(&t, &(struct ask){.adapter = -1, .n = 4, .max = 4, .tenant = "modest"}, &modest[i]) != 0;
    pthread_mutex_unlock(&tiny_lock);
    assert_int_equal(refused, 0);
    for (int i = 0; i < 4; i++) tiny_finish(&modest[i]);
    tiny_finish(&back);
    tiny_finish(&blocker);
    assert_true(back.order > blocker.order);
    tiny_close(&t);
}

/* --- ends --- */

/* A sampled, hot request whose answer ends at an end token; its seed. */
static uint64_t find_early_end(struct gen_params *p, struct reply *r)
{
    for (uint64_t seed = 0; seed < 200; seed++) {
        p->sample.seed = seed;
        tiny_ask(&t, &(struct ask){.adapter = -1, .seed = 1, .n = 5, .p = *p}, r);
        if (r->finish == FINISH_STOP && r->n > 3) return seed;
    }
    fail_msg("no answer ended early");
    return 0;
}

static void test_end_tokens_end_unless_ignored_or_too_early(void **state)
{
    (void)state;
    static struct reply r, ignoring, longer;
    struct gen_params p = {.max_tokens = 120, .sample = {.temperature = 20, .top_p = 1, .logprobs = -1}};
    open_exact(&roomy);
    find_early_end(&p, &r);
    assert_true(tokenizer_is_end(t.m->tok, r.ids[r.n - 1]));
    assert_int_equal(r.counts.output, r.n);
    assert_null(strstr(r.text, "<|"));
    p.ignore_eos = true;
    tiny_ask(&t, &(struct ask){.adapter = -1, .seed = 1, .n = 5, .p = p}, &ignoring);
    assert_int_equal(ignoring.finish, FINISH_LENGTH);
    assert_int_equal(ignoring.n, 120);
    assert_memory_equal(ignoring.ids, r.ids, (size_t)r.n * sizeof *r.ids);
    p.ignore_eos = false;
    p.min_tokens = r.n + 20;
    tiny_ask(&t, &(struct ask){.adapter = -1, .seed = 1, .n = 5, .p = p}, &longer);
    assert_true(longer.n >= r.n + 20);
    for (int i = 0; i < r.n + 20; i++) assert_false(tokenizer_is_end(t.m->tok, longer.ids[i]));
    tiny_close(&t);
}

static void test_stop_ids_and_stop_strings_end_an_answer(void **state)
{
    (void)state;
    static struct reply r, s;
    struct gen_params p = {
        .max_tokens = 100, .ignore_eos = true, .sample = {.temperature = 5, .top_p = 1, .seed = 4, .logprobs = -1}};
    open_exact(&roomy);
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 9, .p = p}, &r);
    assert_int_equal(r.n, 100);
    int at = 30, first = 0; /* the first place of the 30th token */
    while (r.ids[first] != r.ids[at]) first++;
    struct gen_params q = p;
    q.nstop_id = 1;
    q.stop_id[0] = r.ids[at];
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 9, .p = q}, &s);
    assert_int_equal(s.finish, FINISH_STOP);
    assert_int_equal(s.n, first + 1);
    assert_memory_equal(s.ids, r.ids, (size_t)s.n * sizeof *s.ids);
    q.min_tokens = first + 1;
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 9, .p = q}, &s);
    assert_true(s.n > first + 1);
    assert_int_not_equal(s.ids[first], r.ids[first]);

    size_t from = 0; /* three bytes of ASCII somewhere in the text */
    while (from + 3 < r.len &&
           !(r.text[from] > 32 && r.text[from + 1] > 32 && r.text[from + 2] > 32 && r.text[from] < 127))
        from++;
    assert_true(from + 3 < r.len);
    char word[4] = {r.text[from], r.text[from + 1], r.text[from + 2]};
    size_t begins = (size_t)(strstr(r.text, word) - r.text);
    q = p;
    q.nstop = 2;
    q.stop[0] = "never in the text";
    q.stop[1] = word;
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 9, .p = q}, &s);
    assert_int_equal(s.finish, FINISH_STOP);
    assert_string_equal(s.stop_reason, word);
    assert_int_equal(s.len, begins);
    assert_memory_equal(s.text, r.text, begins);
    q.min_tokens = 100;
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 9, .p = q}, &s);
    assert_int_equal(s.n, 100);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_logprobs_come_with_each_token(void **state)
{
    (void)state;
    static struct reply r;
    const struct gen_params p = {.max_tokens = 5, .ignore_eos = true, .sample = {.top_p = 1, .logprobs = 3}};
    open_exact(&roomy);
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 9, .p = p}, &r);
    assert_int_equal(r.last.ntop, 3);
    assert_int_equal(r.last.top[0].id, r.last.id);
    assert_true(r.last.logprob < 0 && r.last.logprob == r.last.top[0].logprob);
    tiny_close(&t);
}

/* --- adapters --- */

static void test_an_adapter_that_makes_nan_harms_only_its_own_request(void **state)
{
    (void)state;
    struct sched_options o = roomy;
    o.kv_bytes = (int64_t)kv_page_bytes(KV_F32, tiny_dim.kv_heads, tiny_dim.head_dim) * tiny_dim.layers *
                 40; /* pages: they go round */
    static const enum precision precisions[] = {PREC_EXACT, PREC_FAST};
    for (int k = 0; k < 2; k++) {
        tiny_open(&t, TINY_Q4_1, precisions[k], &many_slots);
        tiny_start(&t, &o);
        load_all();
        ask_alone();
        struct outcome p = tiny_pin(&t, 1);
        int n, in;
        tiny_shape(LM_V, &n, &in);
        enum lora_type type = precisions[k] == PREC_EXACT ? LORA_F32 : LORA_BF16;
        size_t bytes = lora_mod_bytes(type, tiny_adapters[1].rank, n, in);
        memset((void *)p.slot->mod[LM_V].a, 0xFF, bytes); /* NaN in both formats, padding too */
        for (int round = 0; round < 3; round++) {
            ask_together();
            for (int i = 0; i < CROWD; i++) {
                if (crowd_ask(i).adapter != 1) continue;
                assert_int_equal(crowd[i].finish, FINISH_ERROR);
                assert_int_equal(crowd[i].err.code, ERR_ADAPTER_FAULT);
                assert_int_equal(crowd[i].n, 0);
                crowd[i] = alone[i];
            }
            assert_same_answers();
        }
        lora_unpin(t.loras, p.slot);
        tiny_assert_idle(&t);
        tiny_close(&t);
    }
}

static void test_unloading_lets_running_requests_finish(void **state)
{
    (void)state;
    static struct reply r, after;
    struct outcome gone = {0};
    open_exact(&roomy);
    assert_int_equal(tiny_load(&t, 0), ERR_NONE);
    assert_int_equal(tiny_submit(&t, &(struct ask){.adapter = 0, .n = 5, .max = 200}, &r), ERR_NONE);
    tiny_await(&r.n, 3);
    lora_unload(t.loras, t.digest[0], tiny_on_done, &gone);
    assert_int_equal(tiny_submit(&t, &(struct ask){.adapter = 0, .n = 5, .max = 2}, &after), ERR_ADAPTER_NOT_LOADED);
    tiny_await(&gone.came, 1);
    assert_int_equal(gone.err.code, ERR_NONE);
    tiny_finish(&r);
    assert_int_equal(r.finish, FINISH_LENGTH);
    assert_int_equal(r.n, 200);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_several_adapters_run_in_one_step(void **state)
{
    (void)state;
    open_exact(&roomy);
    load_all();
    ask_together();
    double three_or_more = 0;
    for (int n = 3; n <= ADAPTERS; n++) {
        char label[16];
        snprintf(label, sizeof label, "%d", n);
        three_or_more += metric_get(t.metrics, M_STEP_ADAPTERS, (const char *[]){label});
    }
    assert_true(three_or_more > 0);
    assert_true(metric_get(t.metrics, M_GEN_TOKENS, NULL) > 0);
    assert_true(metric_get(t.metrics, M_STEP_ROWS, (const char *[]){"decode"}) > 0);
    assert_true(metric_get(t.metrics, M_SUCCESS, (const char *[]){"length"}) == CROWD);
    tiny_close(&t);
}

/* --- refusals and the end --- */

static void test_what_can_not_be_served_is_refused_at_once(void **state)
{
    (void)state;
    struct sched_options o = roomy;
    struct err e;
    struct gen *g;
    char unknown[SHA256_HEX];
    memset(unknown, 'a', 64);
    unknown[64] = 0;
    int32_t good[300] = {0}, bad[2] = {5, TINY_VOCAB}, negative[1] = {-1};
    const struct gen_request row[] = {
        {.prompt = good, .nprompt = 200, .p.max_tokens = 57},
        {.prompt = good, .nprompt = 257, .p.max_tokens = 1},
        {.prompt = good, .nprompt = 100, .p.max_tokens = 100}, /* the pool below holds 128 */
        {.prompt = good, .nprompt = 0, .p.max_tokens = 1},
        {.prompt = bad, .nprompt = 2, .p.max_tokens = 1},
        {.prompt = negative, .nprompt = 1, .p.max_tokens = 1},
        {.prompt = good, .nprompt = 1, .p.max_tokens = 0},
        {.prompt = good, .nprompt = 1, .p = {.max_tokens = 1, .min_tokens = 2}},
        {.prompt = good, .nprompt = 1, .p = {.max_tokens = 1, .nstop = 1, .stop = {""}}},
        {.prompt = good, .nprompt = 1, .p = {.max_tokens = 1, .sample.temperature = NAN}},
        {.prompt = good, .nprompt = 1, .p.max_tokens = 1, .digest = unknown},
        {.prompt = good, .nprompt = 1, .p.max_tokens = 1, .digest = "not a digest"},
    };
    const enum err_code code[] = {ERR_CONTEXT_LENGTH,
                                  ERR_CONTEXT_LENGTH,
                                  ERR_CONTEXT_LENGTH,
                                  ERR_INVALID,
                                  ERR_INVALID,
                                  ERR_INVALID,
                                  ERR_INVALID,
                                  ERR_INVALID,
                                  ERR_INVALID,
                                  ERR_INVALID,
                                  ERR_ADAPTER_NOT_LOADED,
                                  ERR_ADAPTER_NOT_LOADED};
    o.kv_bytes = (int64_t)kv_page_bytes(KV_F32, tiny_dim.kv_heads, tiny_dim.head_dim) * tiny_dim.layers * 8;
    open_exact(&o);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        e = (struct err){0};
        assert_int_equal(sched_submit(t.s, &row[i], &g, &e), -1);
        if (e.code != code[i]) fail_msg("row %zu: %s", i, e.msg);
    }
    static struct reply r;
    tiny_ask(&t, &(struct ask){.adapter = -1, .n = 100, .max = 29}, &r); /* 128 positions: just fits */
    assert_int_equal(r.n, 29);
    tiny_assert_idle(&t);
    tiny_close(&t);
}

static void test_stopping_tells_every_request(void **state)
{
    (void)state;
    tiny_open(&t, TINY_F32, PREC_EXACT,
              &(struct lora_options){.max_slots = 2, .max_known = 16, .wait_ms = 300, .max_rank = 64});
    tiny_start(&t, &(struct sched_options){.max_running = 4, .max_waiting = 64, .step_tokens = 16});
    load_all();
    for (int i = 0; i < CROWD; i++) {
        struct ask a = crowd_ask(i);
        a.max = a.p.max_tokens ? (a.p.max_tokens = 150) : 150;
        assert_int_equal(tiny_submit(&t, &a, &crowd[i]), ERR_NONE);
    }
    tiny_stop(&t);
    int unavailable = 0;
    for (int i = 0; i < CROWD; i++) {
        assert_int_equal(crowd[i].done, 1);
        assert_false(crowd[i].late);
        unavailable += crowd[i].finish == FINISH_ERROR && crowd[i].err.code == ERR_UNAVAILABLE;
    }
    assert_true(unavailable > 0);
    assert_int_equal(tiny_pins(&t), 0);
    tiny_close(&t);
}

/* --- what comes when the step thread is about to sleep --- */

static struct {
    struct reply r;
    bool stops;
    _Atomic int calls;
} nap;

static int64_t nap_now(void *u)
{
    (void)u;
    return clock_mono_us();
}

/* On the step thread, behind its look at what is to be ended and before it sleeps: the first time round it notes which
 * adapters are there and looks again. */
static void nap_asked(void *u)
{
    (void)u;
    if (!nap.r.gen || atomic_fetch_add(&nap.calls, 1) != 1) return;
    if (nap.stops)
        sched_fail(t.s, "a test");
    else
        sched_cancel(t.s, nap.r.gen);
}

static void test_what_comes_before_it_sleeps_is_not_slept_over(void **state)
{
    (void)state;
    static const struct sched_clock clock = {.now_us = nap_now, .asked = nap_asked};
    for (int stops = 0; stops < 2; stops++) {
        struct sched_options o = roomy;
        o.clock = &clock;
        memset(&nap, 0, sizeof nap);
        nap.stops = stops;
        tiny_open(&t, TINY_F32, PREC_EXACT,
                  &(struct lora_options){.max_slots = 1, .max_known = 16, .wait_ms = 60000, .max_rank = 64});
        tiny_start(&t, &o);
        assert_int_equal(tiny_load(&t, 1), ERR_NONE);
        assert_int_equal(tiny_load(&t, 0), ERR_NONE);
        struct outcome p = tiny_pin(&t, 0);
        assert_int_equal(tiny_submit(&t, &(struct ask){.adapter = 1, .n = 4, .max = 4}, &nap.r), ERR_NONE);
        for (int i = 0; i < 1000 && atomic_load(&nap.calls) < 2; i++) usleep(1000);
        assert_true(atomic_load(&nap.calls) > 1);
        tiny_finish(&nap.r); /* the only slot is taken: nothing else wakes the step thread */
        lora_unpin(t.loras, p.slot);
        assert_int_equal(nap.r.finish, stops ? FINISH_ERROR : FINISH_CANCELLED);
        tiny_close(&t);
    }
}

static void test_the_state_tells_who_waits(void **state)
{
    (void)state;
    static struct reply r[6];
    struct sched_state st;
    open_exact(&(struct sched_options){.max_running = 1, .max_waiting = 64, .step_tokens = 16});
    pthread_mutex_lock(&tiny_lock); /* the first token can't be told until it is given back */
    for (int i = 0; i < 6; i++)
        assert_int_equal(
            tiny_submit(&t, &(struct ask){.adapter = -1, .n = 5, .max = 200, .tenant = i < 4 ? "x" : "y"}, &r[i]),
            ERR_NONE);
    for (int tries = 0; tries < WAIT_S * 1000; tries++) {
        sched_get_state(t.s, &st);
        if (st.running) break;
        usleep(1000);
    }
    pthread_mutex_unlock(&tiny_lock);
    assert_true(sched_alive(t.s));
    assert_int_equal(st.running, 1);
    assert_int_equal(st.waiting, 5);
    assert_int_equal(st.ntenant, 2);
    assert_string_equal(st.tenant[0].tag, "x");
    assert_int_equal(st.tenant[0].waiting, 3);
    assert_int_equal(st.tenant[0].running, 1);
    assert_int_equal(st.tenant[1].waiting, 2);
    for (int i = 0; i < 6; i++) tiny_finish(&r[i]);
    sched_get_state(t.s, &st);
    assert_true(st.steps >= 1200 && st.step_us_p99 >= st.step_us_p50 && st.step_us_p50 > 0);
    tiny_close(&t);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_answer_is_the_same_alone_and_in_a_mixed_crowd),
        cmocka_unit_test(test_a_prompt_in_chunks_is_the_same_as_whole),
        cmocka_unit_test(test_a_preempted_sequence_gives_the_same_answer),
        cmocka_unit_test(test_fewer_slots_than_adapters_only_make_requests_wait),
        cmocka_unit_test(test_cancelled_requests_give_everything_back),
        cmocka_unit_test(test_a_request_that_waits_past_its_deadline_ends),
        cmocka_unit_test(test_a_deadline_passes_also_while_the_adapter_is_awaited),
        cmocka_unit_test(test_a_full_queue_refuses),
        cmocka_unit_test(test_tenants_share_by_weight_whoever_came_first),
        cmocka_unit_test(test_leaving_and_coming_back_forgets_no_debt),
        cmocka_unit_test(test_end_tokens_end_unless_ignored_or_too_early),
        cmocka_unit_test(test_stop_ids_and_stop_strings_end_an_answer),
        cmocka_unit_test(test_logprobs_come_with_each_token),
        cmocka_unit_test(test_an_adapter_that_makes_nan_harms_only_its_own_request),
        cmocka_unit_test(test_unloading_lets_running_requests_finish),
        cmocka_unit_test(test_several_adapters_run_in_one_step),
        cmocka_unit_test(test_what_can_not_be_served_is_refused_at_once),
        cmocka_unit_test(test_stopping_tells_every_request),
        cmocka_unit_test(test_what_comes_before_it_sleeps_is_not_slept_over),
        cmocka_unit_test(test_the_state_tells_who_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
