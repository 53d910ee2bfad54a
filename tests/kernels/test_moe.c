/* Mixture of experts: routing against a plain float64 loop, places, gathered rows and sums, and the products of a list
 * against the same products one by one, alone and in company, on any number of threads. */
#include "tests/kernels/common.h"

struct shape {
    int experts, used;
};

static const struct shape SHAPES[] = {{8, 2}, {4, 4}, {1, 1}, {128, 8}, {60, 4}, {EXPERTS_MAX, 16}};
#define SHAPES_N ((int)(sizeof SHAPES / sizeof *SHAPES))
#define ROWS 37
#define K 64

struct space {
    struct moe m;
    float logits[ROWS * EXPERTS_MAX], weight[ROWS * 16];
    int expert[ROWS * 16], place[ROWS * 16], row_of[ROWS * 16], first[EXPERTS_MAX + 1];
};

static struct space *space_of(struct shape s, bool norm)
{
    struct space *p = xalloc(sizeof *p);
    p->m = (struct moe){.rows = ROWS,
                        .experts = s.experts,
                        .used = s.used,
                        .norm_topk = norm,
                        .logits = p->logits,
                        .expert = p->expert,
                        .weight = p->weight,
                        .place = p->place,
                        .row_of = p->row_of,
                        .first = p->first};
    fill(p->logits, (size_t)(ROWS * s.experts));
    for (int i = 0; i < ROWS * s.experts; i++) p->logits[i] *= 5;
    return p;
}

struct job {
    const struct kernels *kn;
    const struct moe *m;
    struct act *in, *out;
    const struct mm *list;
    int n;
    const float *y;
    float *x;
    bool add;
};

static void do_route(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->moe_route(t, j->m);
    pool_barrier(t);
    if (t->id == 0) moe_order(j->m);
}

static void do_gather(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->moe_gather(t, j->m, j->in, K, j->out);
}

static void do_combine(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->moe_combine(t, j->m, j->y, K, j->x, j->add);
}

static void do_list(struct kthread *t, void *arg)
{
    struct job *j = arg;
    j->kn->matmul_list(t, j->list, j->n);
}

static void run(void (*fn)(struct kthread *t, void *arg), struct job *j, int threads)
{
    struct pool *p = pool_of(threads);
    pool_run(p, fn, j);
    pool_free(p);
}

/* How many logits of the row come before expert e: the larger ones, and the equal ones with a smaller id. */
static int rank_of(const float *logit, int experts, int e)
{
    int rank = 0;
    for (int i = 0; i < experts; i++) rank += logit[i] > logit[e] || (logit[i] == logit[e] && i < e);
    return rank;
}

static void check_routes(const struct space *p)
{
    const struct moe *m = &p->m;
    for (int row = 0; row < m->rows; row++) {
        const float *logit = p->logits + row * m->experts;
        double all = 0, chosen = 0;
        int n = 0;
        for (int e = 0; e < m->experts; e++) {
            all += exp(logit[e]);
            if (rank_of(logit, m->experts, e) < m->used) chosen += exp(logit[e]);
        }
        for (int e = 0; e < m->experts; e++) {
            if (rank_of(logit, m->experts, e) >= m->used) continue;
            double want = exp(logit[e]) / (m->norm_topk ? chosen : all);
            assert_int_equal(p->expert[row * m->used + n], e);
            assert_true(fabs(p->weight[row * m->used + n++] - want) <= 2e-7 * want);
        }
    }
}

static void check_places(const struct space *p)
{
    const struct moe *m = &p->m;
    assert_int_equal(p->first[0], 0);
    assert_int_equal(p->first[m->experts], m->rows * m->used);
    for (int i = 0; i < m->rows * m->used; i++) {
        int e = p->expert[i], place = p->place[i];
        assert_true(place >= p->first[e] && place < p->first[e + 1]);
        assert_int_equal(p->row_of[place], i / m->used);
        assert_true(place == p->first[e] || p->row_of[place - 1] < p->row_of[place]);
    }
}

static void routing_agrees_with_a_plain_loop_and_rows_stay_in_order_within_an_expert(void **state)
{
    (void)state;
    for (int v = 0; v < VARIANTS_N; v++)
        for (int i = 0; i < 2 * SHAPES_N; i++) {
            seed((uint64_t)i);
            struct space *p = space_of(SHAPES[i / 2], i % 2);
            struct job j = {.kn = variant_kernels(v), .m = &p->m};
            if (j.kn) {
                run(do_route, &j, 1 + i % 3);
                check_routes(p);
                check_places(p);
            }
            free(p);
        }
}

static void equal_logits_choose_the_smaller_ids(void **state)
{
    (void)state;
    struct space *p = space_of((struct shape){16, 3}, true);
    for (int i = 0; i < ROWS * 16; i++) p->logits[i] = i % 16 == 9 || i % 16 == 12 ? 2 : 1;
    run(do_route, &(struct job){.kn = variant_kernels(0), .m = &p->m}, 2);
    for (int row = 0; row < ROWS; row++) {
        const int want[] = {0, 9, 12};
        assert_memory_equal(p->expert + row * 3, want, sizeof want);
        assert_true(p->weight[row * 3 + 1] == p->weight[row * 3 + 2]);
    }
    free(p);
}

/* Whatever a broken adapter makes of the logits, the experts exist and the row shows it, and only that row. */
static void logits_that_are_not_finite_choose_experts_and_spoil_their_row_alone(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int b = 0; b < 3; b++) {
        struct space *p = space_of((struct shape){8, 4}, b == 1);
        p->logits[8 * 5 + 3] = bad[b];
        for (int e = 0; e < 8; e++) p->logits[8 * 6 + e] = bad[b];
        run(do_route, &(struct job){.kn = variant_kernels(0), .m = &p->m}, 2);
        check_places(p);
        for (int i = 0; i < ROWS * 4; i++) {
            assert_true(p->expert[i] >= 0 && p->expert[i] < 8 && (i % 4 == 0 || p->expert[i] > p->expert[i - 1]));
            assert_true(isnan(p->weight[i]) == (i / 4 == 5 || i / 4 == 6));
        }
        free(p);
    }
}

static void gathered_rows_bring_all_their_forms(void **state)
{
    (void)state;
    seed(3);
    struct space *p = space_of((struct shape){8, 2}, true);
    struct job j = {.kn = variant_kernels(0), .m = &p->m};
    struct act in, out;
    assert_int_equal(act_init(&in, ROWS, K, ACT_BF16 | ACT_Q8, NULL), 0);
    assert_int_equal(act_init(&out, ROWS * 2, K, ACT_BF16 | ACT_Q8, NULL), 0);
    fill(in.x, ROWS * K);
    for (int i = 0; i < ROWS * K; i++) in.bf16[i] = (uint16_t)next_u32(), in.q8[i] = (int8_t)next_u32();
    for (int i = 0; i < ROWS * K / 32; i++) in.q8_scale[i] = next_float(), in.q8_sum[i] = (int32_t)next_u32();
    run(do_route, &j, 2);
    j.in = &in, j.out = &out;
    run(do_gather, &j, 3);
    struct act view = act_rows(&out, 5, 3, K);
    for (int i = 0; i < ROWS * 2; i++) {
        int row = p->row_of[i];
        assert_memory_equal(out.x + i * K, in.x + row * K, K * 4);
        assert_memory_equal(out.bf16 + i * K, in.bf16 + row * K, K * 2);
        assert_memory_equal(out.q8 + i * K, in.q8 + row * K, K);
        assert_memory_equal(out.q8_scale + i * 2, in.q8_scale + row * 2, 8);
        assert_memory_equal(out.q8_sum + i * 2, in.q8_sum + row * 2, 8);
    }
    assert_true(view.x == out.x + 5 * K && view.q8_scale == out.q8_scale + 10 && view.bf16 == out.bf16 + 5 * K);
    act_close(&in);
    act_close(&out);
    free(p);
}

static void the_sum_over_experts_agrees_with_float64_on_any_threads(void **state)
{
    (void)state;
    seed(4);
    struct space *p = space_of((struct shape){60, 4}, false);
    struct job j = {.kn = variant_kernels(0), .m = &p->m};
    static float y[ROWS * 4 * K], x[ROWS * K], got[ROWS * K], again[ROWS * K];
    fill(y, ROWS * 4 * K), fill(x, ROWS * K);
    run(do_route, &j, 2);
    for (int add = 0; add < 2; add++) {
        j.y = y, j.add = add, j.x = memcpy(got, x, sizeof x);
        run(do_combine, &j, 1);
        j.x = memcpy(again, x, sizeof x);
        run(do_combine, &j, 5);
        assert_memory_equal(got, again, sizeof got);
        for (int i = 0; i < ROWS * K; i++) {
            double want = add ? x[i] : 0;
            for (int u = 0; u < 4; u++) {
                int pair = i / K * 4 + u;
                want += (double)p->weight[pair] * y[p->place[pair] * K + i % K];
            }
            assert_true(fabs(got[i] - want) < 1e-6);
        }
    }
    free(p);
}

/* --- lists of products --- */

#define LIST 5
#define N 75

static const int ROWS_OF[LIST] = {1, 70, 0, 3, 130};
#define PLACES 204

struct experts {
    struct weight w[LIST];
    struct act in, view[LIST];
    struct lora_mod mod[2][LIST * EXPERT_PARTS];
    void *mod_block;
    struct lora_table table[2];
    struct lora_seg seg[LIST][2];
    struct lora_batch batch[LIST];
    float *y, *shrink;
    struct mm mm[LIST];
};

static void do_forms(struct kthread *t, void *arg)
{
    struct job *j = arg;
    float ones[K];
    for (int i = 0; i < K; i++) ones[i] = 1;
    j->kn->rmsnorm(t, j->y, NULL, PLACES, K, ones, 1e-6f, j->out);
}

static void make_adapters(struct experts *x, enum precision prec)
{
    enum lora_type type = prec == PREC_FAST ? LORA_BF16 : LORA_F32;
    static float values[16 * (N + K)];
    size_t each = lora_mod_bytes(type, 16, N, K);
    char *at = x->mod_block = xalloc(each * 2 * LIST);
    for (int i = 0; i < 2 * LIST; i++, at += each) {
        fill(values, 16 * (N + K));
        lora_mod_pack(&x->mod[i / LIST][i % LIST * EXPERT_PARTS + 2], type, at, i % 3 ? 16 : 5, N, K, 0.5f, T_F32,
                      values, values + 16 * K, NULL);
    }
    for (int a = 0; a < 2; a++) x->table[a].expert = x->mod[a];
}

/* Products of part 2 (down) of LIST experts; the first half of each one's rows uses adapter 0, the rest adapter 1. */
static struct experts *experts_of(const struct kernels *kn)
{
    struct experts *x = xalloc(sizeof *x);
    static float rows[PLACES * K];
    fill(rows, PLACES * K);
    assert_int_equal(act_init(&x->in, PLACES, K, ACT_BF16 | ACT_Q8, NULL), 0);
    run(do_forms, &(struct job){.kn = kn, .y = rows, .out = &x->in}, 1);
    make_adapters(x, kn->prec);
    x->y = xalloc(PLACES * N * 4);
    x->shrink = xalloc(PLACES * 16 * 4);
    for (int e = 0, row0 = 0; e < LIST; row0 += ROWS_OF[e++]) {
        struct matrix m = matrix_make(e % 2 ? T_Q4_1 : T_BF16, N, K, false);
        assert_int_equal(weight_pack(&x->w[e], m.type, m.src, N, K, NULL, kn->prec, NULL), 0);
        matrix_free(&m);
        int half = ROWS_OF[e] / 2;
        x->seg[e][0] = (struct lora_seg){0, half, 1, {{&x->table[0], 1}}};
        x->seg[e][1] = (struct lora_seg){half, ROWS_OF[e] - half, 1, {{&x->table[1], 0.5f}}};
        x->batch[e] = (struct lora_batch){.nseg = 2, .seg = x->seg[e], .modules = 7, .experts = LIST};
        x->view[e] = act_rows(&x->in, row0, ROWS_OF[e], K);
        x->mm[e] = (struct mm){.in = &x->view[e],
                               .rows = ROWS_OF[e],
                               .nout = 1,
                               .lora = &x->batch[e],
                               .expert = e,
                               .shrink = x->shrink + row0 * 16,
                               .shrink_ld = 16};
        x->mm[e].out[0] = (struct mm_out){.w = &x->w[e], .y = x->y + row0 * N, .ldy = N, .module = 6};
    }
    return x;
}

static void experts_free(struct experts *x)
{
    for (int e = 0; e < LIST; e++) weight_close(&x->w[e]);
    act_close(&x->in);
    free(x->mod_block);
    free(x->y);
    free(x->shrink);
    free(x);
}

static void a_list_of_products_gives_the_bits_of_each_alone_and_of_each_row_alone(void **state)
{
    (void)state;
    static float together[PLACES * N];
    for (int v = 0; v < VARIANTS_N; v++) {
        const struct kernels *kn = variant_kernels(v);
        if (!kn) continue;
        seed(11);
        struct experts *x = experts_of(kn);
        for (int threads = 1; threads <= 4; threads++) {
            memset(x->y, 0xff, PLACES * N * 4);
            run(do_list, &(struct job){.kn = kn, .list = x->mm, .n = LIST}, threads);
            if (threads > 1) assert_memory_equal(x->y, together, sizeof together);
            memcpy(together, x->y, sizeof together);
        }
        for (int i = 0; i < PLACES * N; i++) assert_true(isfinite(together[i]));
        memset(x->y, 0xff, PLACES * N * 4);
        for (int e = 0; e < LIST; e++) run(do_list, &(struct job){.kn = kn, .list = &x->mm[e], .n = 1}, 2);
        assert_memory_equal(x->y, together, sizeof together);
        struct lora_seg last = {0, 1, 1, {{&x->table[1], 0.5f}}};
        struct lora_batch batch = {.nseg = 1, .seg = &last, .modules = 7, .experts = LIST};
        struct act view = act_rows(&x->in, PLACES - 1, 1, K);
        struct mm one = x->mm[LIST - 1];
        one.in = &view, one.rows = 1, one.lora = &batch;
        run(do_list, &(struct job){.kn = kn, .list = &one, .n = 1}, 2);
        assert_memory_equal(one.out[0].y, together + (PLACES - 1) * N, N * 4);
        one.lora = NULL;
        run(do_list, &(struct job){.kn = kn, .list = &one, .n = 1}, 2);
        assert_true(memcmp(one.out[0].y, together + (PLACES - 1) * N, N * 4) != 0);
        experts_free(x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routing_agrees_with_a_plain_loop_and_rows_stay_in_order_within_an_expert),
        cmocka_unit_test(equal_logits_choose_the_smaller_ids),
        cmocka_unit_test(logits_that_are_not_finite_choose_experts_and_spoil_their_row_alone),
        cmocka_unit_test(gathered_rows_bring_all_their_forms),
        cmocka_unit_test(the_sum_over_experts_agrees_with_float64_on_any_threads),
        cmocka_unit_test(a_list_of_products_gives_the_bits_of_each_alone_and_of_each_row_alone),
    };
    say_what_runs();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
