/* Tests of Medusa heads: which trees they make; files that don't fit are refused by name; answers are those without heads, bit for bit,
 * whether these are right, wrong or made by chance; and what is right saves steps, also where it is not the first candidate. */
#include "base/log.h"
#include "engine/medusa.h"
#include "tests/unit/test_sched.h"

#define HEADS 3
#define FIRST 65 /* of the tokens that steady heads say */

static struct tiny_engine t;

static const struct sched_options plain = {.max_running = 16, .max_waiting = 256, .step_tokens = 64, .threads = 2};

static struct sched_state now(void)
{
    struct sched_state s;
    sched_get_state(t.s, &s);
    return s;
}

/* --- files --- */

enum kind {
    CHANCE, /* weights by chance, the base's lm_head */
    STEADY, /* lm_heads of their own that always say FIRST, FIRST + 1, ... in this order */
};

/* What is wrong with a folder. */
struct flaw {
    const char *config; /* instead of ours */
    const char *name;   /* of the tensor that is */
    const char *as;     /* called so, or NULL: left out */
    int rows;           /* or has so many rows instead */
    bool nan;           /* or holds a value that is not finite */
    const char *told;   /* part of the message */
};

struct heads_file {
    enum kind kind;
    int layers;
    const char *prefix, *accuracy;
    struct flaw flaw;
};

static float value_of(const struct heads_file *f, int head, int part, int row, int col)
{
    if (f->kind == CHANCE) return (float)(0.3 * tiny_uniform(900 + (uint64_t)head, part, 0, row * 64 + col));
    if (part == f->layers * 2) return row >= FIRST && row < FIRST + MEDUSA_RANKS ? 1 - 0.1f * (float)(row - FIRST) : 0;
    return part % 2 ? 5 : 0; /* a bias that makes the sum of the hidden state positive */
}

static void add_tensor(const struct heads_file *f, struct tiny_bytes *header, struct tiny_bytes *data, int head,
                       int part)
{
    char name[64], text[256];
    bool own = part == f->layers * 2, bias = !own && part % 2;
    int rows = own ? TINY_VOCAB : tiny_dim.hidden, cols = bias ? 1 : tiny_dim.hidden;
    snprintf(name, sizeof name,
             own    ? "%d.%d.weight"
             : bias ? "%d.%d.linear.bias"
                    : "%d.%d.linear.weight",
             head, part / 2);
    bool flawed = f->flaw.name && strcmp(name, f->flaw.name) == 0;
    if (flawed && f->flaw.rows) rows = f->flaw.rows;
    const char *as = flawed && !f->flaw.rows && !f->flaw.nan ? f->flaw.as : name;
    if (!as) return;
    size_t begin = data->n;
    for (int i = 0; i < rows * cols; i++) {
        float v = flawed && f->flaw.nan && i == 5 ? NAN : value_of(f, head, part, i / cols, i % cols);
        tiny_put(data, &v, sizeof v);
    }
    int n = snprintf(text, sizeof text, "%s\"%s%s\":{\"dtype\":\"F32\",\"shape\":[%d%s],\"data_offsets\":[%zu,%zu]}",
                     header->n > 1 ? "," : "", f->prefix ? f->prefix : "", as, rows, bias ? "" : ",64", begin, data->n);
    tiny_put(header, text, (size_t)n);
}

static void write_file(const char *folder, const char *name, const void *p, size_t n)
{
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static void write_heads(const char *folder, const struct heads_file *f)
{
    struct tiny_bytes header = {0}, data = {0}, all = {0};
    char config[512];
    int n = snprintf(config, sizeof config,
                     "{\"medusa_num_heads\": %d, \"medusa_num_layers\": %d, \"hidden_size\": 64%s%s}", HEADS, f->layers,
                     f->accuracy ? ", \"medusa_accuracy\": " : "", f->accuracy ? f->accuracy : "");
    mkdir(folder, 0700);
    if (f->flaw.config)
        write_file(folder, "config.json", f->flaw.config, strlen(f->flaw.config));
    else
        write_file(folder, "config.json", config, (size_t)n);
    tiny_put(&header, "{", 1);
    for (int head = 0; head < HEADS; head++)
        for (int part = 0; part < f->layers * 2 + (f->kind == STEADY); part++)
            add_tensor(f, &header, &data, head, part);
    tiny_put(&header, "}", 1);
    while (header.n % 8) tiny_put(&header, " ", 1);
    tiny_put64(&all, header.n);
    tiny_put(&all, header.b, header.n);
    tiny_put(&all, data.b, data.n);
    write_file(folder, "medusa_lm_head.safetensors", all.b, all.n);
    free(header.b);
    free(data.b);
    free(all.b);
}

static const char *folder_of(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", t.folder, name);
    return path;
}

static struct medusa *heads_for(const struct heads_file *f)
{
    struct err e = {0};
    struct medusa *m;
    write_heads(folder_of("heads"), f);
    if (medusa_load(&m, folder_of("heads"), t.m, &e)) fail_msg("%s", e.msg);
    return m;
}

static struct sched_options with(const struct medusa *m, int nodes)
{
    struct sched_options o = plain;
    o.speculate = 3;
    o.medusa = m;
    o.medusa_nodes = nodes;
    return o;
}

static double asked(const char *head)
{
    return metric_get(t.metrics, M_MEDUSA_ASKED, (const char *[]){head});
}

static double right(const char *head)
{
    return metric_get(t.metrics, M_MEDUSA_RIGHT, (const char *[]){head});
}

/* --- trees --- */

static void assert_is_a_tree(const struct medusa_tree *tree, int n)
{
    int next = 0;
    assert_int_equal(tree->n, n);
    for (int c = 0; c < tree->nchains; c++) {
        const struct medusa_chain *chain = &tree->chain[c];
        assert_int_equal(chain->first, next);
        next += chain->n;
        int parent = tree->node[chain->first].parent;
        assert_int_equal(chain->from, parent < 0 ? 0 : tree->node[parent].chain);
        for (int i = chain->first + 1; i < next; i++) assert_int_equal(tree->node[i].parent, i - 1);
    }
    assert_int_equal(next, n);
    for (int i = 0; i < n; i++) {
        const struct medusa_node *node = &tree->node[i];
        assert_true(node->parent < i);
        assert_int_equal(node->depth, node->parent < 0 ? 1 : tree->node[node->parent].depth + 1);
        assert_true(i >= node->depth - 1 && node->depth <= tree->depth);
        for (int k = 0; k < i; k++)
            assert_false(tree->node[k].parent == node->parent && tree->node[k].rank == node->rank);
    }
}

static void test_trees_grow_by_what_is_likeliest(void **state)
{
    (void)state;
    static const float sure[][MEDUSA_RANKS] = {{0.9f, 0.05f}, {0.8f, 0.1f}, {0.7f, 0.2f}};
    static const float unsure[][MEDUSA_RANKS] = {{0.3f, 0.25f, 0.2f, 0.1f}, {0.1f, 0.1f}, {0.1f}};
    struct medusa_tree tree;
    for (int n = 1; n <= MEDUSA_NODES_MAX; n++) {
        medusa_tree_make(&tree, n, 3, sure);
        assert_is_a_tree(&tree, n);
        medusa_tree_make(&tree, n, 3, unsure);
        assert_is_a_tree(&tree, n);
        medusa_tree_make(&tree, n, 1, unsure);
        assert_is_a_tree(&tree, n);
    }
    medusa_tree_make(&tree, 3, 3, sure);
    assert_int_equal(tree.nchains, 1); /* a a a */
    assert_int_equal(tree.depth, 3);
    medusa_tree_make(&tree, 4, 3, unsure);
    assert_int_equal(tree.nchains, 4); /* the four best of the first head */
    const int32_t token[] = {7, 8, 9, 7};
    assert_int_equal(medusa_tree_child(&tree, -1, token, 9), 2);
    assert_int_equal(medusa_tree_child(&tree, -1, token, 5), -1);
    assert_int_equal(medusa_tree_child(&tree, 0, token, 8), -1);
}

/* --- answers --- */

/* Heads that guess twelve tokens only. */
#define FEW "[[0.5,0.4,0.3],[0.5,0.4],[0.5]], \"medusa_tokens\": [9,10,50,65,66,67,68,100,101,102,200,250]"

static void test_forty_mixed_answers_are_the_same_with_heads(void **state)
{
    (void)state;
    static const struct {
        enum tiny_type type;
        enum precision prec;
        enum kv_type kv;
        int nodes, running, rows, pages;
        bool cache;
        struct heads_file heads;
    } row[] = {{TINY_F32, PREC_EXACT, KV_F32, 8, 2, 64, 0, false, {.layers = 1}},
               {TINY_F32, PREC_EXACT, KV_F32, 3, 2, 16, 18, true, {.layers = 2, .prefix = "medusa_head."}},
               {TINY_F32, PREC_FAST, KV_BF16, 8, 1, 64, 0, true, {.layers = 1, .kind = STEADY}},
               {TINY_Q4_1, PREC_FAST, KV_BF16, 8, 2, 64, 20, true, {.layers = 1}},
               {TINY_Q8_0, PREC_FAST, KV_INT8, 5, 2, 64, 0, true, {.layers = 1}},
               {TINY_Q8_0, PREC_FAST, KV_BF16, 8, 2, 64, 0, true, {.layers = 1, .accuracy = FEW}},
               {TINY_F32, PREC_EXACT, KV_F32, 8, 2, 64, 0, true, {.layers = 1, .accuracy = FEW}}};
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        struct sched_options before = plain;
        before.kv_type = row[r].kv;
        open_all(&t, row[r].type, row[r].prec, &before);
        mix_ask_alone(&t);
        tiny_stop(&t);
        struct medusa *m = heads_for(&row[r].heads);
        struct sched_options o = with(m, row[r].nodes);
        o.kv_type = row[r].kv;
        o.max_running = row[r].running;
        o.step_tokens = row[r].rows;
        o.prefix_cache = row[r].cache;
        o.kv_bytes = row[r].pages ? pages_bytes(row[r].prec, row[r].pages) : 0;
        tiny_start(&t, &o);
        for (int round = 0; round < 2; round++) mix_assert_same(&t);
        assert_true(asked("1") > 0);
        tiny_close(&t);
        medusa_free(m);
    }
}

/* Eight tokens are as good as each other, and sampled: which of a head's candidates is right is a matter of chance, and the next choice depends on
 * all that was kept of the one before. */
static struct want of_eight(uint64_t seed, int max)
{
    static struct token_bias only[8];
    for (int i = 0; i < 8; i++) only[i] = (struct token_bias){FIRST + i, 60};
    return (struct want){
        .seed = seed, .own = 30, .max = max, .bias = only, .nbias = 8, .temperature = 2, .logprobs = 1};
}

static void test_heads_whose_any_candidate_is_right_save_steps(void **state)
{
    (void)state;
    static const struct {
        const char *accuracy;
        int nodes;
        double share; /* of tokens that are guessed, at least */
    } row[] = {{"[[0.12,0.12,0.12,0.12,0.12,0.12,0.12,0.12],[0],[0]]", 8, 0.35},
               {"[[0.5,0.4],[0.5,0.4],[0.9]]", 8, 0.12},
               {"[[0.9],[0.9],[0.9]]", 3, 0.08}};
    static struct told a[4], b;
    for (int prec = PREC_FAST; prec <= PREC_EXACT; prec++)
        for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
            open_all(&t, TINY_F32, (enum precision)prec, &plain);
            for (uint64_t i = 0; i < 4; i++) {
                const struct want w = of_eight(i, 120);
                want_ask(&t, &w, &a[i]);
            }
            tiny_stop(&t);
            struct medusa *m =
                heads_for(&(struct heads_file){.kind = STEADY, .layers = 1, .accuracy = row[r].accuracy});
            struct sched_options o = with(m, row[r].nodes);
            tiny_start(&t, &o);
            for (uint64_t i = 0; i < 4; i++) {
                const struct want w = of_eight(i, 120);
                want_ask(&t, &w, &b);
                assert_same_answer(&a[i], &b);
            }
            struct sched_state s = now();
            if ((double)s.accepted < row[r].share * 480) fail_msg("row %zu: %d accepted", r, (int)s.accepted);
            assert_true(right("1") > 0 && right("1") <= asked("1"));
            tiny_assert_idle(&t);
            tiny_close(&t);
            medusa_free(m);
        }
}

static void test_heads_that_are_always_wrong_are_hardly_asked(void **state)
{
    (void)state;
    static struct told a;
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    tiny_stop(&t);
    struct medusa *m = heads_for(&(struct heads_file){.kind = STEADY, .layers = 1});
    struct sched_options o = with(m, 3);
    tiny_start(&t, &o);
    static struct token_bias never[8];
    for (int i = 0; i < 8; i++) never[i] = (struct token_bias){FIRST + i, -100};
    const struct want w = {.seed = 3, .own = 30, .max = 200, .temperature = 8, .bias = never, .nbias = 8};
    want_ask(&t, &w, &a);
    assert_int_equal(right("1"), 0);
    if (asked("1") > 60) fail_msg("asked %g times", asked("1"));
    tiny_close(&t);
    medusa_free(m);
}

static void test_heads_are_silent_without_speculation_and_among_many(void **state)
{
    (void)state;
    static struct told a[16];
    struct want w[16];
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    struct medusa *m = heads_for(&(struct heads_file){.layers = 1});
    for (int round = 0; round < 2; round++) {
        struct sched_options o = with(m, 3);
        if (round) o.speculate = 0;
        tiny_stop(&t);
        tiny_start(&t, &o);
        for (int i = 0; i < 16; i++) w[i] = (struct want){.seed = (uint64_t)i, .own = 20, .max = 60, .temperature = 5};
        double before = asked("1");
        want_ask_all(&t, w, a, round ? 1 : 16);
        if (round)
            assert_true(asked("1") == before);
        else
            assert_true(asked("1") < 120); /* the first and the last ones run by twos */
    }
    tiny_close(&t);
    medusa_free(m);
}

static void test_cancelling_gives_all_pages_of_branches_back(void **state)
{
    (void)state;
    static struct told a[2];
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    tiny_stop(&t);
    struct medusa *m =
        heads_for(&(struct heads_file){.kind = STEADY, .layers = 1, .accuracy = "[[0.5,0.4,0.3,0.2],[0.5,0.4],[0.3]]"});
    struct sched_options o = with(m, 8);
    tiny_start(&t, &o);
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 2; i++) {
            struct want w = of_eight((uint64_t)(i + round), 200);
            assert_int_equal(want_submit(&t, &w, &a[i]), ERR_NONE);
        }
        tiny_await(&a[0].r.n, 1 + round);
        for (int i = 0; i < 2; i++) {
            pthread_mutex_lock(&tiny_lock);
            if (!a[i].r.done) sched_cancel(t.s, a[i].r.gen);
            pthread_mutex_unlock(&tiny_lock);
        }
        for (int i = 0; i < 2; i++) tiny_finish(&a[i].r);
        tiny_assert_idle(&t);
    }
    tiny_close(&t);
    medusa_free(m);
}

/* --- refusals --- */

static void test_a_folder_that_does_not_fit_is_refused_by_name(void **state)
{
    (void)state;
    static const struct heads_file row[] = {
        {CHANCE, 1, NULL, NULL, {.config = "{", .told = "config.json"}},
        {CHANCE, 1, NULL, NULL, {.config = "{}", .told = "medusa_num_heads is missing"}},
        {CHANCE, 1, NULL, NULL, {.config = "{\"medusa_num_heads\": 9}", .told = "medusa_num_heads"}},
        {CHANCE,
         1,
         NULL,
         NULL,
         {.config = "{\"medusa_num_heads\": 3, \"medusa_num_layers\": 0}", .told = "medusa_num_layers"}},
        {CHANCE, 1, NULL, NULL, {.config = "{\"medusa_num_heads\": 3, \"hidden_size\": 65}", .told = "hidden size 65"}},
        {CHANCE, 1, NULL, NULL, {.config = "{\"medusa_num_heads\": 3, \"vocab_size\": 1}", .told = "1 tokens"}},
        {CHANCE, 1, NULL, NULL, {.config = "{\"medusa_num_heads\": 2}", .told = "2.0.linear.bias is used by nothing"}},
        {CHANCE,
         1,
         NULL,
         NULL,
         {.config = "{\"medusa_num_heads\": 2}",
          .name = "2.0.linear.bias",
          .as = "1.0_linear.bias",
          .told = "1.0_linear.bias is used by nothing"}},
        {CHANCE, 1, NULL, NULL, {.config = "{\"medusa_num_heads\": 4}", .told = "3.0.linear.weight is missing"}},
        {CHANCE,
         1,
         NULL,
         NULL,
         {.config = "{\"medusa_num_heads\": 3, \"medusa_num_layers\": 2}", .told = "0.1.linear.weight is missing"}},
        {CHANCE, 1, NULL, "[[1]]", {.told = "for each of 3 heads"}},
        {CHANCE, 1, NULL, "[[1],[2],[0]]", {.told = "head 1: not a share"}},
        {CHANCE, 1, NULL, "[[1],[],[0]]", {.told = "head 1 must have 1 to 8"}},
        {CHANCE, 1, NULL, "[[1],[\"a\"],[0]]", {.told = "head 1: not a share"}},
        {CHANCE, 1, NULL, "[[1],[1],[0]], \"medusa_tokens\": [1,2,3]", {.told = "list of 8 to 300"}},
        {CHANCE, 1, NULL, "[[1],[1],[0]], \"medusa_tokens\": [1,2,3,4,5,6,7,7]", {.told = "number 7 is no token"}},
        {CHANCE, 1, NULL, "[[1],[1],[0]], \"medusa_tokens\": [1,2,3,4,5,6,7,300]", {.told = "number 7 is no token"}},
        {STEADY, 1, NULL, "[[1],[1],[0]], \"medusa_tokens\": [1,2,3,4,5,6,7,8]", {.told = "have their own"}},
        {CHANCE, 1, NULL, NULL, {.name = "1.0.linear.bias", .told = "1.0.linear.bias is missing"}},
        {CHANCE, 1, NULL, NULL, {.name = "1.0.linear.weight", .rows = 63, .told = "1.0.linear.weight is 63 x 64"}},
        {CHANCE, 1, NULL, NULL, {.name = "1.0.linear.bias", .rows = 65, .told = "1.0.linear.bias is 65 x 1"}},
        {CHANCE, 1, NULL, NULL, {.name = "2.0.linear.weight", .nan = true, .told = "2.0.linear.weight has a value"}},
        {CHANCE, 1, "other.", NULL, {.told = "is missing"}},
        {STEADY, 1, NULL, NULL, {.name = "1.1.weight", .told = "1.1.weight is missing"}},
        {STEADY, 1, NULL, NULL, {.name = "0.1.weight", .told = "1.1.weight is used by nothing"}},
        {STEADY, 1, NULL, NULL, {.name = "2.1.weight", .rows = 299, .told = "2.1.weight is 299 x 64"}},
        {STEADY, 1, NULL, NULL, {.name = "2.1.weight", .as = "2.1.wait", .told = "2.1.weight is missing"}},
    };
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    for (size_t r = 0; r < sizeof row / sizeof *row; r++) {
        struct err e = {0};
        struct medusa *m = NULL;
        write_heads(folder_of("bad"), &row[r]);
        assert_int_equal(medusa_load(&m, folder_of("bad"), t.m, &e), -1);
        assert_null(m);
        assert_true(e.code == ERR_MODEL);
        if (!strstr(e.msg, row[r].flaw.told) || !strstr(e.msg, "Medusa heads")) fail_msg("row %zu: %s", r, e.msg);
    }
    struct err e = {0};
    struct medusa *m;
    assert_int_equal(medusa_load(&m, folder_of("nowhere"), t.m, &e), -1);
    assert_int_equal(e.code, ERR_IO);
    tiny_close(&t);
}

static void test_options_that_do_not_go_together_are_refused(void **state)
{
    (void)state;
    struct sched *s;
    open_all(&t, TINY_F32, PREC_EXACT, &plain);
    struct medusa *m = heads_for(&(struct heads_file){.layers = 1}), other = *m;
    other.vocab--;
    struct sched_options bad[] = {with(m, 0), with(m, MEDUSA_NODES_MAX + 1), with(m, 3), with(&other, 3)};
    bad[2].draft = t.m;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        assert_int_equal(sched_new(&s, t.m, t.loras, &bad[i], NULL, &e), -1);
        assert_int_equal(e.code, ERR_USAGE);
    }
    tiny_close(&t);
    medusa_free(m);
}

int main(void)
{
    log_init("test", LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trees_grow_by_what_is_likeliest),
        cmocka_unit_test(test_forty_mixed_answers_are_the_same_with_heads),
        cmocka_unit_test(test_heads_whose_any_candidate_is_right_save_steps),
        cmocka_unit_test(test_heads_that_are_always_wrong_are_hardly_asked),
        cmocka_unit_test(test_heads_are_silent_without_speculation_and_among_many),
        cmocka_unit_test(test_cancelling_gives_all_pages_of_branches_back),
        cmocka_unit_test(test_a_folder_that_does_not_fit_is_refused_by_name),
        cmocka_unit_test(test_options_that_do_not_go_together_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
