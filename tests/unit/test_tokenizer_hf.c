/* Tests of tokenizers that come from a tokenizer.json, or from a GGUF of SentencePiece's kind. The oracles are Hugging Face's tokenizers and
 * sentencepiece: tests/golden/tokenizer_hf, made by make_tokenizer_hf.py. Text is decoded through detok, as answers are. */
#include "engine/detok.h"
#include "engine/tokenizer.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define FOLDER "tests/golden/tokenizer_hf/"
#define MIB (1u << 20)

static const char *const families[] = {"gpt2",  "llama3",    "qwen2",  "smollm",    "phi4mini",
                                       "nemo",  "deepseek3", "falcon", "llama2",    "phi3",
                                       "gemma", "mistral",   "odds",   "metaspace", "plain"};
#define FAMILIES ((int)(sizeof families / sizeof *families))

static json_t *texts, *golden[FAMILIES];
static struct tokenizer *toks[FAMILIES];

static json_t *load(const char *name, const char *end)
{
    char path[256];
    json_error_t why;
    snprintf(path, sizeof path, FOLDER "%s%s", name, end);
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (!j) print_error("%s: %s (run from the top folder)\n", path, why.text);
    return j;
}

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    if (!(texts = load("texts", ".json"))) return -1;
    for (int i = 0; i < FAMILIES; i++) {
        if (!(golden[i] = load(families[i], ".json"))) return -1;
        char *s = json_dumps(json_object_get(golden[i], "tokenizer"), JSON_COMPACT);
        int r = tokenizer_from_hf(&toks[i], s, strlen(s), NULL, NULL, &e);
        free(s);
        if (r) print_error("%s: %s\n", families[i], e.msg);
        if (r) return -1;
    }
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++) {
        tokenizer_free(toks[i]);
        json_decref(golden[i]);
    }
    json_decref(texts);
    return 0;
}

static struct tokens encode(const struct tokenizer *t, const char *s, size_t n, bool special)
{
    struct tokens out;
    struct err e = {0};
    if (tokenizer_encode(t, s, n, special, 8u << 20, &out, &e)) fail_msg("%s", e.msg);
    return out;
}

static bool same_ids(const struct tokens *t, const json_t *ids)
{
    bool same = t->n == json_array_size(ids);
    for (size_t i = 0; i < t->n && same; i++) same = t->id[i] == json_integer_value(json_array_get(ids, i));
    return same;
}

static char *decode(const struct tokenizer *t, const struct tokens *ids, size_t *n)
{
    struct detok d;
    const char *s;
    size_t len;
    char *out = malloc(65536);
    *n = 0;
    assert_int_equal(detok_init(&d, t, NULL, 0, NULL), 0);
    for (size_t i = 0; i <= ids->n; i++) {
        int r = i < ids->n ? detok_push(&d, ids->id[i], false, &s, &len) : detok_flush(&d, &s, &len);
        assert_int_equal(r, 0);
        assert_true(*n + len <= 65536);
        memcpy(out + *n, s, len);
        *n += len;
    }
    detok_close(&d);
    return out;
}

static void check_golden(const char *name, const struct tokenizer *t, const json_t *g, bool special)
{
    size_t i, n;
    json_t *text;
    json_array_foreach(texts, i, text)
    {
        const char *s = json_string_value(text);
        json_t *want = json_array_get(json_object_get(g, "decoded"), i);
        struct tokens ids = encode(t, s, json_string_length(text), special);
        if (!same_ids(&ids, json_array_get(json_object_get(g, "ids"), i))) fail_msg("%s: other ids of \"%s\"", name, s);
        char *shown = decode(t, &ids, &n);
        if (json_is_null(want)) want = text;
        if (n != json_string_length(want) || memcmp(shown, json_string_value(want), n))
            fail_msg("%s: \"%s\" is shown as \"%.*s\"", name, s, (int)n, shown);
        free(shown);
        free(ids.id);
    }
    assert_true(i > 150);
}

static void ids_and_shown_text_are_those_of_hugging_face_for_each_family(void **state)
{
    (void)state;
    for (int i = 0; i < FAMILIES; i++) check_golden(families[i], toks[i], golden[i], true);
}

static void a_gguf_of_sentencepiece_has_the_ids_and_the_text_of_sentencepiece(void **state)
{
    (void)state;
    struct gguf *g;
    struct tokenizer *t;
    struct err e = {0};
    json_t *want = load("spm", ".json");
    if (gguf_open(&g, FOLDER "spm.gguf", &e) || tokenizer_from_gguf(&t, g, &e)) fail_msg("%s", e.msg);
    check_golden("spm", t, want, false);
    assert_int_equal(tokenizer_bos(t), 1);
    assert_int_equal(tokenizer_eos(t), 2);
    assert_true(tokenizer_adds_bos(t));
    tokenizer_free(t);
    gguf_close(g);
    json_decref(want);
}

static void special_tokens_are_plain_text_unless_asked_for(void **state)
{
    (void)state;
    static const char text[] = "<s> <|im_end|><|eot_id|><end_of_turn></s>";
    for (int i = 0; i < FAMILIES; i++) {
        struct tokens t = encode(toks[i], text, sizeof text - 1, false);
        for (size_t k = 0; k < t.n; k++) {
            size_t n;
            const char *shown = tokenizer_bytes(toks[i], t.id[k], &n);
            bool unknown = n == 5 && !memcmp(shown, "<unk>", 5); /* what an unknown character becomes */
            assert_true(unknown || !tokenizer_is_special(toks[i], t.id[k]));
        }
        free(t.id);
    }
}

/* --- a small file, and what is wrong with others --- */

#define MODEL(more)                                                                                                    \
    "\"model\":{\"type\":\"BPE\"," more "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"<e>\":3},\"merges\":[\"a b\"]}"
#define ADDED                                                                                                          \
    "\"added_tokens\":[{\"id\":3,\"content\":\"<e>\",\"special\":true},{\"id\":5,\"content\":\"<b>\",\"special\":"     \
    "true}],"
#define FUSE "\"decoder\":{\"type\":\"Fuse\"},"

static int from(struct tokenizer **t, const char *json, const char *config, const char *generation, struct err *e)
{
    json_t *c = config ? json_loads(config, 0, NULL) : NULL, *g = generation ? json_loads(generation, 0, NULL) : NULL;
    int r = tokenizer_from_hf(t, json, strlen(json), c, g, e);
    json_decref(c);
    json_decref(g);
    return r;
}

static void configurations_say_what_begins_and_ends_a_text(void **state)
{
    (void)state;
    static const char template[] =
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<b>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<b>\":{\"ids\":[5]}}},";
    static const struct {
        bool template;
        const char *config, *generation;
        int bos, eos;
        bool adds;
        int ends[3];
    } rows[] = {
        {false, NULL, NULL, -1, -1, false, {-1, -1, -1}},
        {true, NULL, NULL, 5, -1, true, {-1, -1, -1}},
        {false, "{\"bos_token\":\"<b>\",\"eos_token\":{\"content\":\"<e>\"}}", NULL, 5, 3, false, {3, -1, -1}},
        {false, "{\"bos_token\":\"<b>\",\"add_bos_token\":true}", "{\"eos_token_id\":3}", 5, 3, true, {3, -1, -1}},
        {true, "{\"bos_token\":\"<b>\",\"add_bos_token\":false}", "{\"eos_token_id\":[1,3]}", 5, 1, false, {1, 3, -1}},
        {true, "{\"bos_token\":null,\"eos_token\":\"none\"}", "{}", 5, -1, true, {-1, -1, -1}},
        {false, "{\"add_bos_token\":true}", NULL, -1, -1, false, {-1, -1, -1}},
        {false,
         "{\"added_tokens_decoder\":{\"7\":{\"content\":\"<|im_end|>\",\"special\":true}}}",
         NULL,
         -1,
         -1,
         false,
         {7, -1, -1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err e = {0};
        char json[2048];
        snprintf(json, sizeof json, "{" ADDED FUSE "%s" MODEL("") "}", rows[i].template ? template : "");
        if (from(&t, json, rows[i].config, rows[i].generation, &e)) fail_msg("row %zu: %s", i, e.msg);
        assert_int_equal(tokenizer_bos(t), rows[i].bos);
        assert_int_equal(tokenizer_eos(t), rows[i].eos);
        assert_int_equal(tokenizer_adds_bos(t), rows[i].adds);
        for (int id = 0; id < tokenizer_vocab(t); id++) {
            bool end = id == rows[i].ends[0] || id == rows[i].ends[1] || id == rows[i].ends[2];
            assert_int_equal(tokenizer_is_end(t, id), end);
        }
        tokenizer_free(t);
    }
}

static void what_is_not_served_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *json, *word;
    } rows[] = {
        {"", "object"},
        {"[]", "object"},
        {"{", "string was expected"},
        {"{}", "no model"},
        {"{\"model\":null}", "no model"},
        {"{\"model\":{\"type\":\"WordPiece\"}}", "WordPiece"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", "no vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "0 tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "no merges"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "-1"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4194304},\"merges\":[]}}", "4194304"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999999999999},\"merges\":[]}}", "whole number"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]}}", "whole number"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "both have the id 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", "merge 0"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\",\"a\"]]}}", "two tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}", "string"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\\ud800\":0},\"merges\":[]}}", "surrogate"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xff\":0},\"merges\":[]}}", "UTF-8"},
        {"{\"model\":{\"type\":\"BPE\",\"type\":\"BPE\"}}", "twice"},
        {"{" MODEL("") "} x", "follows"},
        {"{" MODEL("\"dropout\":0.1,") "}", "dropout"},
        {"{" MODEL("\"continuing_subword_prefix\":\"##\",") "}", "continuing_subword_prefix"},
        {"{" MODEL("\"end_of_word_suffix\":\"</w>\",") "}", "end_of_word_suffix"},
        {"{" MODEL("\"unk_token\":\"?\",") "}", "unk_token"},
        {"{" MODEL("\"fuse_unk\":1,") "}", "true or false"},
        {"{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL("") "}", "Precompiled"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}," MODEL("") "}",
         "compile"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}," MODEL("") "}", "pattern"},
        {"{\"normalizer\":{}," MODEL("") "}", "type"},
        {"{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," MODEL("") "}", "UnicodeScripts"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"}}," MODEL("") "}", "&&"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a[b]]\"}}," MODEL("") "}",
         "brackets inside"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\h\"}}," MODEL("") "}", "escape"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?m:a)\"}}," MODEL("") "}", "group"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\"}," MODEL("") "}",
         "Odd"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}," MODEL("") "}",
         "last"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}," MODEL("") "}", "replacement"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":"
         "\"ByteLevel\"}]}," MODEL("") "}",
         "second"},
        {"{\"decoder\":{\"type\":\"CTC\"}," MODEL("") "}", "CTC"},
        {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}]}," MODEL(
             "") "}",
         "Fuse"},
        {"{\"post_processor\":{\"type\":\"BertProcessing\"}," MODEL("") "}", "BertProcessing"},
        {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
         "\"special_tokens\":{\"x\":{\"ids\":[9]}}}," MODEL("") "}",
         "9"},
        {"{\"added_tokens\":[{\"id\":0,\"content\":\"z\"}]," MODEL("") "}", "both have the id 0"},
        {"{\"added_tokens\":[{\"id\":9,\"content\":\"ab\"}]," MODEL("") "}", "ids 9 and 2"},
        {"{\"added_tokens\":[{\"id\":9}]," MODEL("") "}", "no text"},
        {"{\"added_tokens\":[{\"id\":4194304,\"content\":\"z\"}]," MODEL("") "}", "4194304"},
        {"{\"added_tokens\":{}," MODEL("") "}", "array"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err e = {0};
        if (from(&t, rows[i].json, NULL, NULL, &e) == 0) fail_msg("%s is served", rows[i].json);
        assert_int_equal(e.code, ERR_MODEL);
        if (!strstr(e.msg, rows[i].word)) fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].json, e.msg, rows[i].word);
    }
}

static void a_generation_config_with_a_strange_end_is_refused(void **state)
{
    (void)state;
    static const char *const rows[] = {"{\"eos_token_id\":6}", "{\"eos_token_id\":-1}", "{\"eos_token_id\":[1,\"2\"]}",
                                       "{\"eos_token_id\":\"x\"}"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err e = {0};
        assert_int_equal(from(&t, "{" ADDED FUSE MODEL("") "}", NULL, rows[i], &e), -1);
        assert_non_null(strstr(e.msg, "eos_token_id"));
    }
}

/* --- bounds --- */

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static char *repeat(const char *head, const char *what, size_t times, const char *tail)
{
    size_t a = strlen(head), n = strlen(what), b = strlen(tail);
    char *s = malloc(a + n * times + b + 1);
    memcpy(s, head, a);
    for (size_t i = 0; i < times; i++) memcpy(s + a + i * n, what, n);
    memcpy(s + a + n * times, tail, b + 1);
    return s;
}

static void hostile_files_are_refused_at_once(void **state)
{
    (void)state;
    static const struct {
        const char *head, *what;
        size_t times;
        const char *tail, *word;
    } rows[] = {
        {"{\"normalizer\":", "[", 1000000, "", "64 levels"},
        {"{\"normalizer\":", "{\"a\":", 1000000, "", "64 levels"},
        {"{\"added_tokens\":[", "{\"id\":9,\"content\":\"x\"},", 1100000,
         "{\"id\":9,\"content\":\"x\"}]," MODEL("") "}", "more than 1048576 added"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[", "\"a a\",", 4200000, "\"a a\"]}}",
         "more than 4194304 merges"},
        {"{\"added_tokens\":[{\"id\":9,\"content\":\"", "x", 600, "\"}]," MODEL("") "}", "at most 512"},
        {"{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"", "x", 5000, "\"}," MODEL("") "}", "at most 1024"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"", "(a", 9000, "\"}}," MODEL("") "}",
         "16384"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[", "{\"type\":\"NFC\"},", 20,
         "{\"type\":\"NFC\"}]}," MODEL("") "}", "more than 16"},
        {"{\"x\":\"", "y", 1000000, "", "inside a string"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err e = {0};
        char *json = repeat(rows[i].head, rows[i].what, rows[i].times, rows[i].tail);
        double t0 = now_ms();
        assert_int_equal(from(&t, json, NULL, NULL, &e), -1);
        assert_true(now_ms() - t0 < 5000);
        if (!strstr(e.msg, rows[i].word)) fail_msg("row %zu: \"%s\" does not say \"%s\"", i, e.msg, rows[i].word);
        free(json);
    }
}

static void a_file_that_ends_anywhere_is_refused(void **state)
{
    (void)state;
    static const char json[] =
        "{" ADDED FUSE
        "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"}," MODEL("\"unk_token\":\"<e>\",") "}";
    for (size_t n = 0; n < sizeof json - 1; n++) {
        struct tokenizer *t;
        struct err e = {0};
        char *part = malloc(n ? n : 1); /* exactly as long: what is read beyond is seen */
        memcpy(part, json, n);
        assert_int_equal(tokenizer_from_hf(&t, part, n, NULL, NULL, &e), -1);
        assert_int_equal(e.code, ERR_MODEL);
        free(part);
    }
}

static void a_pattern_that_explodes_ends_with_an_error(void **state)
{
    (void)state;
    struct tokenizer *t;
    struct tokens out;
    struct err e = {0};
    char *text = repeat("", "a", 20000, "!");
    assert_int_equal(
        from(&t, "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|a)+$\"}}," FUSE MODEL("") "}",
             NULL, NULL, &e),
        0);
    double t0 = now_ms();
    assert_int_equal(tokenizer_encode(t, text, strlen(text), true, MIB, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_true(now_ms() - t0 < 15000);
    tokenizer_free(t);
    free(text);
}

static double cost_ms(const struct tokenizer *t, const char *text, size_t n)
{
    double t0 = now_ms();
    struct tokens ids = encode(t, text, n, true);
    double ms = now_ms() - t0;
    free(ids.id);
    return ms;
}

/* 16 times the text may cost 64 times the time, caches included; what is quadratic costs 256 times. A machine that stalls
 * in the large one makes it look so once, not five times. */
static void check_growth(const struct tokenizer *t, const char *family, const char *row, const char *text, size_t n)
{
    double small = 0, large = 0;
    for (int tries = 0; tries < 5; tries++) {
        small = cost_ms(t, text, n / 16 / strlen(row) * strlen(row));
        large = cost_ms(t, text, n);
        if (getenv("WEFT_TIMES")) print_message("# %8.1f ms  256 KiB of \"%s\", %s\n", large, row, family);
        if (large < 64 * (small + 0.5)) return;
    }
    fail_msg("%s takes %.0f ms for \"%s\", %.1f for a 16th of it", family, large, row, small);
}

static void the_cost_of_a_text_grows_with_its_length_for_each_family(void **state)
{
    (void)state;
    static const char *const rows[] = {"a",  " ",   "\n",   "1",           "\xcc\x81\xcc\xa3", "\xf0\x9f\x91\x8d",
                                       "= ", "<s>", "\xff", "\xe2\x96\x81"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t times = MIB / 4 / strlen(rows[i]);
        char *text = repeat("", rows[i], times, "");
        for (int k = 0; k < FAMILIES; k++)
            check_growth(toks[k], families[k], rows[i], text, times * strlen(rows[i]));
        free(text);
    }
}

/* Each run of valid text is normalized by itself; the bound on growth is of the whole. */
static void bytes_that_are_no_text_may_stand_between_spaces(void **state)
{
    (void)state;
    char *text = repeat("", " \xff", 20000, "");
    for (int k = 0; k < FAMILIES; k++) {
        struct tokens ids = encode(toks[k], text, 40000, true);
        free(ids.id);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_shown_text_are_those_of_hugging_face_for_each_family),
        cmocka_unit_test(a_gguf_of_sentencepiece_has_the_ids_and_the_text_of_sentencepiece),
        cmocka_unit_test(special_tokens_are_plain_text_unless_asked_for),
        cmocka_unit_test(configurations_say_what_begins_and_ends_a_text),
        cmocka_unit_test(what_is_not_served_is_refused_by_name),
        cmocka_unit_test(a_generation_config_with_a_strange_end_is_refused),
        cmocka_unit_test(hostile_files_are_refused_at_once),
        cmocka_unit_test(a_file_that_ends_anywhere_is_refused),
        cmocka_unit_test(a_pattern_that_explodes_ends_with_an_error),
        cmocka_unit_test(bytes_that_are_no_text_may_stand_between_spaces),
        cmocka_unit_test(the_cost_of_a_text_grows_with_its_length_for_each_family),
    };
    return cmocka_run_group_tests_name("tokenizer_hf", tests, set_up, tear_down);
}
