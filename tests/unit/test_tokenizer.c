/* Tests of engine/tokenizer. The oracle is Hugging Face's tokenizers (tests/golden/tokenizer.json, made by make_tokenizer.py) and the
 * prompts of tests/golden/demo.json, which transformers tokenized. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MIB (1u << 20)

static struct gguf *model;
static struct tokenizer *tok;
static json_t *golden, *demo;

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
    if (gguf_open(&model, path, &e) || tokenizer_from_gguf(&tok, model, &e)) {
        print_error("%s\n", e.msg);
        return -1;
    }
    golden = json_load_file("tests/golden/tokenizer.json", JSON_ALLOW_NUL, &je);
    demo = json_load_file("tests/golden/demo.json", JSON_ALLOW_NUL, &je);
    if (!golden || !demo) print_error("golden files: %s (run from the top folder)\n", je.text);
    return golden && demo ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    tokenizer_free(tok);
    gguf_close(model);
    json_decref(golden);
    json_decref(demo);
    return 0;
}

static struct tokens encode(const char *s, size_t n, bool special)
{
    struct tokens t;
    struct err e = {0};
    if (tokenizer_encode(tok, s, n, special, 8u << 20, &t, &e)) fail_msg("%s", e.msg);
    return t;
}

static void expect_ids(const char *s, size_t n, const json_t *ids, const char *what)
{
    struct tokens t = encode(s, n, true);
    bool same = t.n == json_array_size(ids);
    for (size_t i = 0; i < t.n && same; i++) same = t.id[i] == json_integer_value(json_array_get(ids, i));
    if (!same) {
        print_error("%s \"%.*s\":", what, (int)n, s);
        for (size_t i = 0; i < t.n; i++) print_error(" %d", t.id[i]);
        char *want = json_dumps(ids, JSON_COMPACT);
        print_error(" want %s\n", want);
        free(want);
    }
    free(t.id);
    assert_true(same);
}

static size_t from_hex(const char *hex, char *out, size_t room)
{
    size_t n = 0;
    for (unsigned b; hex[0] && n < room && sscanf(hex, "%2x", &b) == 1; hex += 2) out[n++] = (char)b;
    return n;
}

static void ids_are_those_of_hugging_face(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        json_t *text = json_object_get(c, "text");
        char raw[256];
        if (text)
            expect_ids(json_string_value(text), json_string_length(text), json_object_get(c, "ids"), "text");
        else
            expect_ids(raw, from_hex(json_string_value(json_object_get(c, "hex")), raw, sizeof raw),
                       json_object_get(c, "ids"), "bytes");
    }
    assert_true(i > 300);
}

static void ids_of_the_demo_prompts_are_those_of_transformers(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(demo, "cases"), i, c)
    {
        json_t *p = json_object_get(c, "prompt");
        expect_ids(json_string_value(p), json_string_length(p), json_object_get(c, "prompt_ids"), "prompt");
    }
    assert_int_equal(i, 48);
}

static void decoding_gives_the_text_back(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(golden, "cases"), i, c)
    {
        json_t *text = json_object_get(c, "text");
        if (!text) continue;
        const char *s = json_string_value(text);
        size_t n = json_string_length(text), at = 0, len;
        if (memchr(s, 0xf3, n) || memchr(s, 0xf1, n)) continue; /* bytes that this vocabulary lacks are left out */
        struct tokens t = encode(s, n, true);
        for (size_t k = 0; k < t.n; k++) {
            const char *b = tokenizer_bytes(tok, t.id[k], &len);
            assert_true(at + len <= n);
            assert_memory_equal(b, s + at, len);
            at += len;
        }
        free(t.id);
        assert_int_equal(at, n);
    }
}

struct pieces {
    size_t len[4096];
    size_t n;
};

static int note_piece(void *u, const char *s, size_t n, struct err *e)
{
    struct pieces *p = u;
    (void)s;
    (void)e;
    assert_true(p->n < 4096);
    p->len[p->n++] = n;
    return 0;
}

static void other_pre_tokenizers_cut_where_their_own_patterns_do(void **state)
{
    (void)state;
    size_t i, k;
    json_t *s, *want, *texts = json_object_get(golden, "split_texts");
    json_array_foreach(json_object_get(golden, "splits"), i, s)
    {
        struct pre p = {0};
        struct pre_traits traits;
        struct matcher m;
        const char *name = json_string_value(json_object_get(s, "pre"));
        assert_int_equal(pre_by_name(&p, name, strlen(name), &traits, NULL), 0);
        assert_int_equal(matcher_init(&m, NULL), 0);
        json_array_foreach(json_object_get(s, "cases"), k, want)
        {
            json_t *text = json_array_get(texts, k);
            struct pieces got = {.n = 0};
            assert_int_equal(
                pre_split(&p, &m, json_string_value(text), json_string_length(text), true, note_piece, &got, NULL), 0);
            bool same = got.n == json_array_size(want);
            for (size_t j = 0; j < got.n && same; j++)
                same = (json_int_t)got.len[j] == json_integer_value(json_array_get(want, j));
            if (!same) fail_msg("%s cuts \"%s\" elsewhere", name, json_string_value(text));
        }
        matcher_close(&m);
        pre_close(&p);
    }
    assert_true(i >= 6);
}

static void composing_is_nfc(void **state)
{
    (void)state;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(golden, "nfc"), i, c)
    {
        json_t *in = json_array_get(c, 0), *want = json_array_get(c, 1);
        const char *s = json_string_value(in);
        size_t n = json_string_length(in), len = 0;
        char *out;
        assert_int_equal(utf8_normal(UTF8_NFC, s, n, &out, &len), 0);
        assert_int_equal(out ? len : n, json_string_length(want));
        assert_memory_equal(out ? out : s, json_string_value(want), json_string_length(want));
        free(out);
    }
    assert_true(i > 40);
}

static void special_tokens_are_plain_text_unless_asked_for(void **state)
{
    (void)state;
    static const char text[] = "<|im_start|>x<|im_end|>";
    struct tokens t = encode(text, sizeof text - 1, false), s = encode(text, sizeof text - 1, true);
    assert_int_equal(s.n, 3);
    assert_int_equal(s.id[0], 1);
    assert_int_equal(s.id[2], 2);
    for (size_t i = 0; i < t.n; i++) assert_false(tokenizer_is_special(tok, t.id[i]));
    free(t.id);
    free(s.id);
}

static void what_the_vocabulary_says_of_itself(void **state)
{
    (void)state;
    size_t len;
    assert_int_equal(tokenizer_vocab(tok), 49152);
    assert_int_equal(tokenizer_bos(tok), 1);
    assert_int_equal(tokenizer_eos(tok), 2);
    assert_false(tokenizer_adds_bos(tok));
    assert_true(tokenizer_is_end(tok, 2));
    assert_true(tokenizer_is_end(tok, 0)); /* <|endoftext|> */
    assert_false(tokenizer_is_end(tok, 1));
    assert_false(tokenizer_is_end(tok, -1));
    assert_false(tokenizer_is_end(tok, 49152));
    assert_true(tokenizer_is_special(tok, 16));
    assert_false(tokenizer_is_special(tok, 17));
    assert_string_equal(tokenizer_bytes(tok, 49152, &len), "");
    assert_int_equal(len, 0);
    assert_memory_equal(tokenizer_bytes(tok, 2, &len), "<|im_end|>", 10);
    assert_int_equal(len, 10);
}

static void more_tokens_than_fit_is_a_context_length_error(void **state)
{
    (void)state;
    struct tokens t;
    struct err e = {0};
    assert_int_equal(tokenizer_encode(tok, "one two three four", 18, true, 4, &t, &e), 0);
    assert_int_equal(t.n, 4);
    free(t.id);
    assert_int_equal(tokenizer_encode(tok, "one two three four", 18, true, 3, &t, &e), -1);
    assert_int_equal(e.code, ERR_CONTEXT_LENGTH);
}

static void unknown_pre_tokenizers_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const rows[] = {"nope", "", "smollm2", "gpt"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pre p = {0};
        struct pre_traits traits;
        struct err e = {0};
        assert_int_equal(pre_by_name(&p, rows[i], strlen(rows[i]), &traits, &e), -1);
        assert_int_equal(e.code, ERR_MODEL);
        assert_non_null(strstr(e.msg, rows[i]));
    }
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* CPU time of encoding n bytes of a repeated text: the least of three, since others may be at work on this machine. */
static double cost_ms(const char *text, size_t n)
{
    double best = 1e9;
    for (int k = 0; k < 3; k++) {
        double t0 = now_ms();
        struct tokens t = encode(text, n, true);
        double ms = now_ms() - t0;
        free(t.id);
        if (ms < best) best = ms;
    }
    return best;
}

/* 16 times the text may cost 64 times the time, caches included; a merge that looks at every pair again costs 256 times. */
static void the_cost_of_a_text_grows_with_its_length_not_with_its_square(void **state)
{
    (void)state;
    static const char *const rows[] = {"a",
                                       " ",
                                       "\xcc\x81",
                                       "\xcc\x81\xcc\xa3",
                                       "ab",
                                       "a ",
                                       " \n",
                                       "\n",
                                       "1",
                                       "\xff",
                                       "<",
                                       "<|im_start|",
                                       "<|im_end|>",
                                       "'s",
                                       "\xe4\xb8\xad",
                                       "\xf0\x9f\x91\x8d",
                                       "the quick brown fox ",
                                       "=",
                                       "a\xff"};
    char *text = malloc(MIB + 32);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = 0, len = strlen(rows[i]);
        for (; n + len <= MIB; n += len) memcpy(text + n, rows[i], len);
        double small = cost_ms(text, n / len / 16 * len), large = cost_ms(text, n);
        print_message("# %8.1f ms  1 MiB of \"%s\"\n", large, rows[i]);
        assert_true(large < 64 * (small + 0.5));
    }
    free(text);
}

static double compose_ms(const char *text, size_t n)
{
    char *out;
    size_t len;
    double t0 = now_ms();
    assert_int_equal(utf8_normal(UTF8_NFC, text, n, &out, &len), 0);
    assert_int_equal(len, n);
    free(out);
    return now_ms() - t0;
}

static void the_cost_of_composing_marks_grows_with_their_number_not_with_its_square(void **state)
{
    (void)state;
    char *text = malloc(MIB);
    for (size_t i = 0; i + 4 <= MIB; i += 4)
        memcpy(text + i, "\xcc\x81\xcc\xa3", 4); /* above, below: every pair is exchanged */
    double small = compose_ms(text, MIB / 16), large = compose_ms(text, MIB);
    assert_true(large < 64 * (small + 0.5));
    free(text);
}

static int count_piece(void *u, const char *s, size_t n, struct err *e)
{
    (void)s;
    (void)e;
    *(size_t *)u += n;
    return 0;
}

static double split_ms(struct pre *p, const char *text, size_t n)
{
    size_t seen = 0;
    struct matcher m;
    struct err e = {0};
    double t0 = now_ms();
    assert_int_equal(matcher_init(&m, NULL), 0);
    if (pre_split(p, &m, text, n, true, count_piece, &seen, &e)) fail_msg("%s", e.msg);
    matcher_close(&m);
    assert_int_equal(seen, n);
    return now_ms() - t0;
}

static void other_pre_tokenizers_are_linear_too(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-2",  "llama-bpe",    "qwen2",          "qwen35",      "tekken",
                                        "gpt-4o", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon",
                                        "bloom",  "bailingmoe",   "seed-coder",     "youtu"};
    static const char *const rows[] = {"a", "A", " ", " \t",  "\xcc\x81",         "\n ", "Aa", "\xe4\xb8\xad",
                                       "!", "/", "1", "\xff", "\xf0\x9f\x91\x8d", "\n"};
    char *text = malloc(MIB + 16);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        struct pre p = {0};
        struct pre_traits traits;
        struct err e = {0};
        if (pre_by_name(&p, names[k], strlen(names[k]), &traits, &e)) fail_msg("%s", e.msg);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            size_t n = 0, len = strlen(rows[i]);
            for (; n + len <= MIB; n += len) memcpy(text + n, rows[i], len);
            double small = split_ms(&p, text, n / len / 16 * len), large = split_ms(&p, text, n), last;
            text[n] = 'x'; /* a run that ends in something else is where a pattern goes back */
            last = split_ms(&p, text, n + 1);
            if (last > large) large = last;
            if (getenv("WEFT_TIMES")) print_message("# %8.1f ms  %s \"%s\"\n", large, names[k], rows[i]);
            if (large >= 64 * (small + 0.5)) fail_msg("%s takes %.0f ms for \"%s\"", names[k], large, rows[i]);
        }
        pre_close(&p);
    }
    free(text);
}

static void utf8_is_strict(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        size_t n;
        int len;
        uint32_t cp;
    } rows[] = {
        {"a", 1, 1, 'a'},
        {"", 0, UTF8_MORE, 0},
        {"\xc3\xa9", 2, 2, 0xe9},
        {"\xc3", 1, UTF8_MORE, 0},
        {"\xc0\xaf", 2, UTF8_BAD, 0},
        {"\x80", 1, UTF8_BAD, 0},
        {"\xe2\x82\xac", 3, 3, 0x20ac},
        {"\xe2\x82", 2, UTF8_MORE, 0},
        {"\xe0\x80", 2, UTF8_BAD, 0},
        {"\xed\xa0", 2, UTF8_BAD, 0},
        {"\xed\x9f\xbf", 3, 3, 0xd7ff},
        {"\xf0\x9f\x98\x80", 4, 4, 0x1f600},
        {"\xf0\x8f", 2, UTF8_BAD, 0},
        {"\xf4\x90", 2, UTF8_BAD, 0},
        {"\xf5", 1, UTF8_BAD, 0},
        {"\xf4\x8f\xbf\xbf", 4, 4, 0x10ffff},
        {"\xe2(", 2, UTF8_BAD, 0},
        {"\xff", 1, UTF8_BAD, 0},
        {"\xf0\x9f\x98", 3, UTF8_MORE, 0},
        {"\xee\x80\x80", 3, 3, 0xe000},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t cp = 0;
        char back[4];
        assert_int_equal(utf8_decode(rows[i].s, rows[i].n, &cp), rows[i].len);
        if (rows[i].len <= 0) continue;
        assert_int_equal(cp, rows[i].cp);
        assert_int_equal(utf8_encode(cp, back), rows[i].len);
        assert_memory_equal(back, rows[i].s, (size_t)rows[i].len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_hugging_face),
        cmocka_unit_test(ids_of_the_demo_prompts_are_those_of_transformers),
        cmocka_unit_test(decoding_gives_the_text_back),
        cmocka_unit_test(other_pre_tokenizers_cut_where_their_own_patterns_do),
        cmocka_unit_test(composing_is_nfc),
        cmocka_unit_test(special_tokens_are_plain_text_unless_asked_for),
        cmocka_unit_test(what_the_vocabulary_says_of_itself),
        cmocka_unit_test(more_tokens_than_fit_is_a_context_length_error),
        cmocka_unit_test(unknown_pre_tokenizers_are_refused_by_name),
        cmocka_unit_test(the_cost_of_a_text_grows_with_its_length_not_with_its_square),
        cmocka_unit_test(the_cost_of_composing_marks_grows_with_their_number_not_with_its_square),
        cmocka_unit_test(other_pre_tokenizers_are_linear_too),
        cmocka_unit_test(utf8_is_strict),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, set_up, tear_down);
}
