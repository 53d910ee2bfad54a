/* Tests of engine/constrain over a real model's vocabulary: tokens that hold quotes, braces, parts of characters and several levels at once.
 * Needs the real model: run by ops/test, which fetches it and sets WEFT_MODEL. */
#include "base/buf.h"
#include "test_constrain.h"

static struct gguf *model;
static struct tokenizer *tok;
static struct constrain *con;
static json_t *golden;

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    json_error_t je;
    const char *path = getenv("WEFT_MODEL");
    if (!path) {
        print_error("WEFT_MODEL is not set: run the tests through ops/test\n");
        return -1;
    }
    golden = json_load_file("tests/golden/constrain.json", JSON_ALLOW_NUL, &je);
    if (gguf_open(&model, path, &e) || tokenizer_from_gguf(&tok, model, &e) || constrain_new(&con, tok, 64u << 20, &e))
        print_error("%s\n", e.msg);
    return con && golden ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    constrain_free(con);
    tokenizer_free(tok);
    gguf_close(model);
    json_decref(golden);
    return 0;
}

/* The token of a text that is one, or -1. */
static int32_t token_of(const char *s)
{
    struct tokens t;
    struct err e = {0};
    if (tokenizer_encode(tok, s, strlen(s), false, 16, &t, &e)) return -1;
    int32_t id = t.n == 1 ? t.id[0] : -1;
    free(t.id);
    return id;
}

/* A walk along the masks; after 30 tokens it prefers those that close. */
static void walk(struct grammar *g, uint64_t seed, struct buf *out)
{
    static const char *const close[] = {")", "@", ":", "/", ".", "\"", "}", "]", "\"}", "z", "b", "a"};
    struct err e = {0};
    struct grammar_state *s;
    int vocab = tokenizer_vocab(tok), words = grammar_mask_words(vocab), step = 0;
    uint32_t *mask = malloc((size_t)words * sizeof *mask);
    assert_non_null(mask);
    assert_int_equal(grammar_state_new(&s, g, &e), 0);
    for (;; step++) {
        assert_int_equal(grammar_mask(s, mask), 0);
        int n = count_bits(mask, words);
        assert_true(n > 0);
        if (step > 5000) fail_msg("a walk never ends: %.400s", out->data);
        if (grammar_may_end(s) && (grammar_is_over(s) || draw(&seed, 4) == 0)) break;
        int32_t id = nth_bit(mask, words, (int)draw(&seed, (uint32_t)n));
        for (int i = 0; step > 30 && i < 5; i++) {
            int32_t c = token_of(close[draw(&seed, sizeof close / sizeof *close)]);
            if (c >= 0 && mask[c / 32] >> (c % 32) & 1) id = c;
        }
        assert_true(grammar_accept(s, id));
        if (tokenizer_is_end(tok, id)) break;
        assert_false(tokenizer_is_special(tok, id));
        size_t len;
        const char *b = tokenizer_bytes(tok, id, &len);
        buf_add(out, b, len);
    }
    grammar_state_free(s);
    free(mask);
}

static void test_walks_end_in_texts_that_are_valid_for_the_schema(void **state)
{
    (void)state;
    const json_t *list = json_object_get(golden, "schemas");
    for (size_t i = 0; i < json_array_size(list); i += 2) {
        const json_t *schema = json_object_get(json_array_get(list, i), "schema");
        struct err e = {0};
        struct grammar *g;
        if (grammar_json_schema(con, schema, &g, &e)) fail_msg("%s", e.msg);
        for (uint64_t seed = 0; seed < 3; seed++) {
            struct buf b;
            json_error_t je;
            buf_init(&b, 1u << 20);
            walk(g, seed * 1000 + i, &b);
            json_t *v = json_loadb(b.data, b.len, JSON_DECODE_ANY, &je);
            if (!v) fail_msg("schema %zu: not JSON (%s): %s", i, je.text, b.data);
            if (!judge(schema, v)) fail_msg("schema %zu: not valid: %s", i, b.data);
            json_decref(v);
            buf_close(&b);
        }
        grammar_unref(g);
    }
}

static void test_every_tokenization_of_a_valid_text_is_accepted_and_offered(void **state)
{
    (void)state;
    const json_t *list = json_object_get(golden, "schemas");
    int words = grammar_mask_words(tokenizer_vocab(tok));
    uint32_t *mask = malloc((size_t)words * sizeof *mask);
    assert_non_null(mask);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i), *yes = json_object_get(c, "yes");
        struct err e = {0};
        struct grammar *g;
        if (grammar_json_schema(con, json_object_get(c, "schema"), &g, &e)) fail_msg("%s", e.msg);
        for (size_t k = 0; k < json_array_size(yes); k += 2) {
            const char *text = json_string_value(json_array_get(yes, k));
            struct grammar_state *s;
            struct tokens t;
            assert_int_equal(grammar_state_new(&s, g, &e), 0);
            assert_int_equal(tokenizer_encode(tok, text, strlen(text), false, 4096, &t, &e), 0);
            for (size_t n = 0; n < t.n; n++) {
                assert_int_equal(grammar_mask(s, mask), 0);
                if (!(mask[t.id[n] / 32] >> (t.id[n] % 32) & 1)) fail_msg("%s: token %zu is not offered", text, n);
                assert_true(grammar_accept(s, t.id[n]));
            }
            assert_true(grammar_may_end(s));
            free(t.id);
            grammar_state_free(s);
        }
        grammar_unref(g);
    }
    free(mask);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walks_end_in_texts_that_are_valid_for_the_schema),
        cmocka_unit_test(test_every_tokenization_of_a_valid_text_is_accepted_and_offered),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
