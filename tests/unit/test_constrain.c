/* Tests of engine/constrain over a vocabulary of our own (single bytes and words that cross every border inside JSON). The oracle of what is
 * valid is Python's jsonschema and re (tests/golden/constrain.json, made by make_constrain.py). */
#include "test_constrain.h"
#include "base/buf.h"
#include "base/json.h"
#include "test_constrain_words.h"
#include <pthread.h>

static struct constrain *con;
static json_t *golden;

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    json_error_t je;
    for (int i = 0; i < 256; i++) tok.byte[i] = (char)i;
    golden = json_load_file("tests/golden/constrain.json", JSON_ALLOW_NUL, &je);
    if (!golden) print_error("tests/golden/constrain.json: %s (run from the top folder)\n", je.text);
    return golden && constrain_new(&con, &tok, 16u << 20, &e) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    constrain_free(con);
    json_decref(golden);
    return 0;
}

/* --- helpers --- */

static struct grammar *schema_of(const char *text)
{
    struct err e = {0};
    struct grammar *g = NULL;
    json_t *j = json_loads(text, JSON_DECODE_ANY, NULL);
    assert_non_null(j);
    if (grammar_json_schema(con, j, &g, &e)) fail_msg("%s: %s", text, e.msg);
    json_decref(j);
    return g;
}

static struct grammar *regex_of(const char *pattern)
{
    struct err e = {0};
    struct grammar *g = NULL;
    if (grammar_regex(con, pattern, strlen(pattern), &g, &e)) fail_msg("%s: %s", pattern, e.msg);
    return g;
}

static struct grammar_state *begin(struct grammar *g)
{
    struct err e = {0};
    struct grammar_state *s = NULL;
    assert_int_equal(grammar_state_new(&s, g, &e), 0);
    return s;
}

/* The whole text, byte by byte. */
static bool reads(struct grammar *g, const char *text)
{
    struct grammar_state *s = begin(g);
    bool ok = true;
    for (const char *p = text; *p && ok; p++) ok = grammar_accept(s, (uint8_t)*p);
    ok = ok && grammar_may_end(s) && grammar_accept(s, TOKEN_EOT) && grammar_is_over(s);
    grammar_state_free(s);
    return ok;
}

/* A walk that takes what the masks offer, at random, and the end with more and more weight; its text. */
static void walk(struct grammar *g, uint64_t seed, struct buf *out)
{
    struct grammar_state *s = begin(g);
    uint32_t mask[WORDS32];
    for (int step = 0;; step++) {
        assert_int_equal(grammar_mask(s, mask), 0);
        int n = count_bits(mask, WORDS32);
        assert_true(n > 0);
        bool end = mask[TOKEN_END / 32] >> (TOKEN_END % 32) & 1;
        assert_int_equal(end, grammar_may_end(s));
        if (step > 20000) fail_msg("a walk never ends: %.400s", out->data);
        if (end && (n == 2 || draw(&seed, 4) == 0)) break;
        int32_t id = nth_bit(mask, WORDS32, (int)draw(&seed, (uint32_t)n));
        static const char close[] = "\"})]@,:abcz0.";
        for (int k = 0; step > 40 && k < 6; k++) { /* long enough: prefer what closes */
            char c = close[draw(&seed, sizeof close - 1)];
            if (mask[c / 32] >> (c % 32) & 1) id = c;
        }
        assert_true(grammar_accept(s, id));
        size_t len;
        const char *b = tokenizer_bytes(&tok, id, &len);
        if (tokenizer_is_end(&tok, id)) break;
        buf_add(out, b, len);
    }
    grammar_state_free(s);
}

/* --- the golden file --- */

static void expect_texts(struct grammar *g, const json_t *list, bool want, const char *what)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (reads(g, text) != want) fail_msg("%s: %s %s", what, want ? "refuses" : "takes", text);
    }
}

static void test_a_schema_takes_what_jsonschema_finds_valid_and_nothing_else(void **state)
{
    (void)state;
    const json_t *list = json_object_get(golden, "schemas");
    assert_true(json_array_size(list) > 150);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i);
        char *text = json_dumps(json_object_get(c, "schema"), JSON_ENCODE_ANY);
        struct grammar *g = schema_of(text);
        expect_texts(g, json_object_get(c, "yes"), true, text);
        expect_texts(g, json_object_get(c, "no"), false, text);
        grammar_unref(g);
        free(text);
    }
}

static void test_a_pattern_takes_what_python_matches_and_nothing_else(void **state)
{
    (void)state;
    const json_t *list = json_object_get(golden, "regexes");
    assert_true(json_array_size(list) > 80);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *c = json_array_get(list, i);
        const char *pattern = json_string_value(json_object_get(c, "pattern"));
        struct grammar *g = regex_of(pattern);
        expect_texts(g, json_object_get(c, "yes"), true, pattern);
        expect_texts(g, json_object_get(c, "no"), false, pattern);
        grammar_unref(g);
    }
}

/* --- walks --- */

static void test_a_walk_along_the_masks_ends_in_a_valid_text(void **state)
{
    (void)state;
    const json_t *list = json_object_get(golden, "schemas");
    FILE *f = getenv("WEFT_WALKS") ? fopen(getenv("WEFT_WALKS"), "w") : NULL; /* for another judge */
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *schema = json_object_get(json_array_get(list, i), "schema");
        char *text = json_dumps(schema, JSON_ENCODE_ANY);
        struct grammar *g = schema_of(text);
        for (uint64_t seed = 0; seed < (f ? 60 : 8); seed++) {
            struct buf b;
            json_error_t je;
            buf_init(&b, 1u << 20);
            walk(g, seed * 1000 + i, &b);
            json_t *v = json_loadb(b.data, b.len, JSON_DECODE_ANY, &je);
            if (!v) fail_msg("%s: not JSON (%s): %s", text, je.text, b.data);
            if (!judge(schema, v)) fail_msg("%s: not valid: %s", text, b.data);
            if (f) fprintf(f, "%zu %s\n", i, json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT));
            json_decref(v);
            buf_close(&b);
        }
        grammar_unref(g);
        free(text);
    }
    if (f) fclose(f);
}

static void test_a_walk_along_a_pattern_ends_in_a_match(void **state)
{
    (void)state;
    const json_t *list = json_object_get(golden, "regexes");
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct grammar *g = regex_of(json_string_value(json_object_get(json_array_get(list, i), "pattern")));
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct buf b;
            buf_init(&b, 1u << 20);
            walk(g, seed, &b);
            assert_true(reads(g, b.data));
            for (size_t at = 0; at < b.len;) { /* whole characters: a pattern is about code points */
                bool valid;
                at += buf_utf8(b.data + at, b.len - at, &valid);
                assert_true(valid);
            }
            buf_close(&b);
        }
        grammar_unref(g);
    }
}

static void test_any_object_is_json_and_at_most_64_levels_deep(void **state)
{
    (void)state;
    struct err e = {0};
    struct grammar *g;
    char deep[2048] = "";
    assert_int_equal(grammar_json_object(con, &g, &e), 0);
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct buf b;
        json_error_t je;
        buf_init(&b, 1u << 20);
        walk(g, seed, &b);
        json_t *v = json_loadb(b.data, b.len, 0, &je); /* a name may come twice, so not json_parse() */
        if (!v) fail_msg("%s: %s", je.text, b.data);
        json_decref(v);
        buf_close(&b);
    }
    for (int levels = 63; levels <= 66; levels++) {
        char *p = deep;
        for (int i = 1; i < levels; i++) p += snprintf(p, 6, "{\"\":");
        p += snprintf(p, 3, "{}");
        memset(p, '}', (size_t)levels - 1);
        p[levels - 1] = '\0';
        assert_int_equal(reads(g, deep), levels <= 64);
    }
    assert_false(reads(g, "[]"));
    assert_false(reads(g, "{\"a\":1,}"));
    assert_false(reads(g, "{\"a\":01}"));
    grammar_unref(g);
}

/* --- masks --- */

static void expect_mask(struct grammar_state *s, const char *what)
{
    uint32_t mask[WORDS32];
    struct err e = {0};
    assert_int_equal(grammar_mask(s, mask), 0);
    for (int32_t id = 0; id < VOCAB; id++) {
        struct grammar_state *copy;
        assert_int_equal(grammar_state_copy(&copy, s, &e), 0);
        bool may = mask[id / 32] >> (id % 32) & 1, ok = true;
        size_t len;
        const char *b = tokenizer_bytes(&tok, id, &len);
        if (tokenizer_is_end(&tok, id))
            ok = grammar_may_end(copy);
        else if (id == TOKEN_CTL || len == 0)
            ok = false;
        for (size_t i = 0; i < len && ok && !tokenizer_is_end(&tok, id); i++) ok = grammar_accept(copy, (uint8_t)b[i]);
        if (ok != may) fail_msg("%s: token %d (%.*s) is %s", what, id, (int)len, b, may ? "offered" : "not offered");
        grammar_state_free(copy);
        assert_int_equal(grammar_state_copy(&copy, s, &e), 0);
        assert_int_equal(grammar_accept(copy, id), may);
        grammar_state_free(copy);
    }
    for (int32_t id = VOCAB; id < WORDS32 * 32; id++) assert_false(mask[id / 32] >> (id % 32) & 1);
}

static void test_a_mask_is_the_tokens_whose_bytes_can_be_read_one_by_one(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *pattern, *text;
    } row[] = {
        {"{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"kind\":{\"enum\":[\"a\",\"abc\"]},"
         "\"x\":{\"type\":\"number\"}},\"required\":[\"name\"],\"additionalProperties\":true}",
         NULL,
         "{\n  \"name\": \"h\xc3\xa9\\u00e9\\ud83d\\ude00\xe6\x97\xa5 \\n\", "
         "\"kind\":\"abc\",\"x\":-0.5e1,\"nam\":[{\"y\":{}},[1,[2]], \"\"]}"},
        {"{\"type\":\"string\",\"maxLength\":6,\"minLength\":2}", NULL,
         "\"a\\n\xf0\x9f\x98\x80\\ud83d\\ude00\xc3\xa9x\""},
        {"{\"type\":\"string\",\"pattern\":\"^(ab+|\xe6\x97\xa5.)*$\"}", NULL,
         "\"ab\xe6\x97\xa5\xe6\x9c\xac\xe6\x97\xa5\\\"abbb\""},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":-12,\"maximum\":120},\"minItems\":2,"
         "\"maxItems\":3}",
         NULL, "[12, 120,-1]"},
        {"{}", NULL, "[[],{\"\":[null,true]},\"\xe6\x97\xa5\"]"},
        {NULL, "(a|ab)(abb)*\xc3\xa9?[^a]{2,3}", "ababb\xc3\xa9\xe6\x97\xa5\xe6\x9c\xac"},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct grammar *g = row[i].schema ? schema_of(row[i].schema) : regex_of(row[i].pattern);
        struct grammar_state *s = begin(g);
        for (const char *p = row[i].text; *p; p++) {
            expect_mask(s, row[i].text);
            if (!grammar_accept(s, (uint8_t)*p)) fail_msg("%s: stops at %s", row[i].text, p);
        }
        expect_mask(s, row[i].text);
        assert_true(grammar_may_end(s));
        grammar_state_free(s);
        grammar_unref(g);
    }
}

static void test_when_the_answer_is_whole_only_ends_are_offered(void **state)
{
    (void)state;
    struct grammar *g = regex_of("ab");
    struct grammar_state *s = begin(g);
    uint32_t mask[WORDS32];
    assert_false(grammar_accept(s, TOKEN_END));
    assert_false(grammar_accept(s, -1));
    assert_false(grammar_accept(s, VOCAB));
    assert_true(grammar_accept(s, 'a'));
    assert_false(grammar_accept(s, 'a'));
    assert_false(grammar_is_over(s));
    assert_true(grammar_accept(s, 'b'));
    assert_true(grammar_is_over(s));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(grammar_mask(s, mask), 0);
        assert_int_equal(count_bits(mask, WORDS32), 2);
        assert_true(mask[TOKEN_END / 32] >> (TOKEN_END % 32) & 1);
        assert_true(grammar_accept(s, TOKEN_END));
    }
    assert_false(grammar_accept(s, 'b'));
    grammar_state_free(s);
    grammar_unref(g);
}

static void test_a_copy_goes_its_own_way(void **state)
{
    (void)state;
    struct err e = {0};
    struct grammar *g = regex_of("a(b|c)d");
    struct grammar_state *s = begin(g), *copy;
    assert_true(grammar_accept(s, 'a'));
    assert_int_equal(grammar_state_copy(&copy, s, &e), 0);
    assert_true(grammar_accept(s, 'b'));
    assert_true(grammar_accept(copy, 'c'));
    assert_true(grammar_accept(copy, 'd'));
    assert_true(grammar_may_end(copy));
    assert_false(grammar_may_end(s));
    grammar_state_free(s);
    grammar_state_free(copy);
    grammar_unref(g);
}

/* --- choices --- */

static void test_a_choice_is_one_of_the_list(void **state)
{
    (void)state;
    struct err e = {0};
    struct grammar *g;
    const char *const list[] = {"yes", "no", "not sure", "no", "\xe6\x97\xa5\xe6\x9c\xac"};
    assert_int_equal(grammar_choice(con, list, 5, &g, &e), 0);
    for (int i = 0; i < 5; i++) assert_true(reads(g, list[i]));
    assert_false(reads(g, ""));
    assert_false(reads(g, "not"));
    assert_false(reads(g, "yess"));
    grammar_unref(g);
    assert_int_equal(grammar_choice(con, list, 0, &g, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
}

/* --- refusals --- */

static const struct {
    const char *schema, *says;
} refused[] = {
    {"{\"not\":{}}", "#: not: this keyword is not served"},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\",\"items\":{\"if\":true}}}}",
     "#/properties/a/items: if: "},
    {"{\"$defs\":{\"x\":{\"contains\":{}}},\"$ref\":\"#/$defs/x\"}", "#/$defs/x: contains: "},
    {"{\"type\":\"array\",\"uniqueItems\":true}", "uniqueItems"},
    {"{\"type\":\"object\",\"patternProperties\":{\"a\":{}}}", "patternProperties"},
    {"{\"type\":\"object\",\"minProperties\":1}", "minProperties"},
    {"{\"type\":\"whatever\"}", "type: must be null, boolean"},
    {"{\"type\":7}", "type: must be null, boolean"},
    {"{\"$ref\":\"#/$defs/none\"}", "points to nothing"},
    {"{\"$ref\":\"https://example.com/s.json\"}", "only references inside the schema"},
    {"{\"$ref\":\"#/%zz\"}", "points to nothing"},
    {"{\"$ref\":5}", "only references inside"},
    {"{\"$ref\":\"#\"}", "no answer can match"},
    {"{\"$ref\":\"#\",\"type\":\"object\"}", "contains itself"},
    {"{\"allOf\":[{\"$ref\":\"#\"},{\"type\":\"object\"}]}", "contains itself"},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "no answer can match"},
    {"{\"type\":\"object\",\"properties\":{\"a\":false},\"required\":[\"a\"]}", "no answer can match"},
    {"{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "no answer can match"},
    {"{\"type\":\"object\",\"required\":\"a\"}", "required: must be a list"},
    {"{\"type\":\"object\",\"properties\":[]}", "properties: must be an object"},
    {"{\"type\":\"string\",\"minLength\":3,\"maxLength\":2}", "no answer can match"},
    {"{\"type\":\"string\",\"minLength\":-1}", "minLength: must be a whole number"},
    {"{\"type\":\"string\",\"pattern\":\"a(?=b)\"}", "look-around is not served"},
    {"{\"type\":\"string\",\"pattern\":7}", "pattern: must be a string"},
    {"{\"type\":\"string\",\"pattern\":\"a\",\"format\":\"date\"}", "pattern: not served beside this format"},
    {"{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", "no answer can match"},
    {"{\"type\":\"integer\",\"minimum\":1e19}", "no answer can match"},
    {"{\"type\":\"integer\",\"minimum\":\"1\"}", "minimum: must be a number"},
    {"{\"type\":\"integer\",\"minimum\":1,\"exclusiveMinimum\":true}", "exclusiveMinimum: must be a number"},
    {"{\"type\":\"number\",\"multipleOf\":0.01}", "multipleOf: only whole numbers"},
    {"{\"type\":\"integer\",\"multipleOf\":0}", "multipleOf: only whole numbers"},
    {"{\"type\":\"integer\",\"multipleOf\":1001}", "multipleOf: only whole numbers"},
    {"{\"type\":\"number\",\"minimum\":0.12345678901234567}", "bounds of more than 15 digits"},
    {"{\"enum\":[]}", "no answer can match"},
    {"{\"enum\":\"a\"}", "enum: must be a list"},
    {"{\"enum\":[1],\"type\":\"string\"}", "no answer can match"},
    {"{\"enum\":[\"a\"],\"minLength\":1}", "minLength: not served beside enum"},
    {"{\"anyOf\":[]}", "anyOf: must be a list"},
    {"{\"anyOf\":[7]}", "must be an object, true or false"},
    {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "oneOf: two of its schemas may hold at once"},
    {"{\"oneOf\":[{\"type\":\"object\"},{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1}}}]}",
     "oneOf: two of its schemas"},
    {"{\"allOf\":[{\"type\":\"string\",\"pattern\":\"a\"},{\"pattern\":\"b\"}]}",
     "pattern: two different ones at once"},
    {"{\"allOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}", "no answer can match"},
    {"{\"type\":\"array\",\"items\":[{}]}", "served as prefixItems"},
    {"{\"type\":\"array\",\"items\":false,\"minItems\":1}", "no answer can match"},
    {"false", "no answer can match"},
    {"7", "must be an object, true or false"},
};

static void test_a_schema_that_is_not_served_is_refused_with_keyword_and_path(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err e = {0};
        struct grammar *g = NULL;
        json_t *j = json_loads(refused[i].schema, JSON_DECODE_ANY, NULL);
        assert_non_null(j);
        if (grammar_json_schema(con, j, &g, &e) == 0) fail_msg("served: %s", refused[i].schema);
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.msg, refused[i].says)) fail_msg("%s: %s", refused[i].schema, e.msg);
        json_decref(j);
    }
}

static const struct {
    const char *pattern, *says;
} bad_patterns[] = {
    {"a(?=b)", "byte 1: look-around"},
    {"(?<!a)b", "byte 0: look-around"},
    {"(a)\\1", "byte 4: back references"},
    {"(?P=x)", "back references"},
    {"\\bword", "byte 0: word boundaries"},
    {"a\\B", "word boundaries"},
    {"\\p{L}", "Unicode properties"},
    {"(?i)a", "flags"},
    {"(?>a)", "atomic"},
    {"a*+", "byte 2: possessive"},
    {"a**", "a quantifier of a quantifier"},
    {"*a", "byte 0: nothing to repeat"},
    {"(a", "byte 0: the group is not closed"},
    {"a)", "byte 1: a bracket ) that none opens"},
    {"[a", "byte 0: the class is not closed"},
    {"[]", "an empty class"},
    {"[^]a]", "an empty class"},
    {"[z-a]", "a range runs backwards"},
    {"[\\d-z]", "a range can't begin with a class"},
    {"[a-\\d]", "a range can't end with a class"},
    {"a{3,2}", "a repetition runs backwards"},
    {"a\\", "ends after a backslash"},
    {"\\xZ1", "a hexadecimal digit is missing"},
    {"\\ud800", "half of a surrogate pair"},
    {"\\u{110000}", "not a code point"},
    {"\\01", "octal"},
    {"\\q", "this escape is not served"},
    {"\\Aa", "anchors other than"},
    {"a^b", "byte 1: ^ and $ are served at the ends"},
    {"(^a)", "^ and $ are served at the ends"},
    {"\xff", "not UTF-8"},
    {"(?<n", "the group's name is not closed"},
    {"[\\ud800-\\ud801]", "half of a surrogate pair"},
};

static void test_a_pattern_that_is_not_served_is_refused_by_name_and_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_patterns / sizeof *bad_patterns; i++) {
        struct err e = {0};
        struct grammar *g = NULL;
        const char *p = bad_patterns[i].pattern;
        if (grammar_regex(con, p, strlen(p), &g, &e) == 0) fail_msg("served: %s", p);
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.msg, bad_patterns[i].says)) fail_msg("%s: %s", p, e.msg);
    }
}

/* --- bombs --- */

/* "a" n times, each between `open` and `close`. */
static void repeat(struct buf *b, const char *s, int n)
{
    for (int i = 0; i < n; i++) buf_adds(b, s);
}

static int compile_text(const struct buf *b, bool schema, struct err *e)
{
    struct grammar *g = NULL;
    int rc;
    if (schema) {
        json_t *j = json_loadb(b->data, b->len, JSON_DECODE_ANY, NULL);
        assert_non_null(j);
        rc = grammar_json_schema(con, j, &g, e);
        json_decref(j);
    } else {
        rc = grammar_regex(con, b->data, b->len, &g, e);
    }
    grammar_unref(g);
    return rc;
}

static const struct {
    const char *head, *many;
    int n;
    const char *tail;
    bool schema, served;
} bombs[] = {
    {"(a{1,1000}){1,1000}", "", 0, "", false, false},
    {"((((a{1,99}){1,99}){1,99}){1,99}){1,99}", "", 0, "", false, false},
    {"a{1000000000}", "", 0, "", false, false},
    {"(.{1,30000}){1,2}", "", 0, "", false, false},
    {"", "(", 5000, "a", false, false},
    {"", "(a*)*", 20000, "", false, false},
    {"", "[\xc2\x80-\xf4\x8f\xbf\xbf]", 20000, "", false, true},
    {"", "a|", 60000, "b", false, false},
    {"", ".?", 5000, "", false, false},
    {"", "a", 300000, "", false, false},
    {"", "a", 60000, "", false, true},
    {"{\"type\":\"string\",\"maxLength\":1000000000}", "", 0, "", true, false},
    {"{\"type\":\"string\",\"minLength\":1000000000}", "", 0, "", true, false},
    {"{\"type\":\"string\",\"maxLength\":100000}", "", 0, "", true, true},
    {"{\"type\":\"string\",\"pattern\":\"^(ab|ba)*$\",\"maxLength\":1000000}", "", 0, "", true, false},
    {"{\"type\":\"array\",\"maxItems\":1000000000}", "", 0, "", true, false},
    {"{\"type\":\"array\",\"minItems\":4294967297}", "", 0, "", true, false},
    {"", "{\"items\":", 500, "{}", true, false},
    {"{\"enum\":[", "\"some rather long word that is repeated in the list\",", 4000, "1]}", true, true},
    {"{\"required\":[", "\"a\",", 5000, "\"b\"]}", true, false},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"multipleOf\":997,\"minimum\":0},\"prefixItems\":[",
     "{\"type\":\"integer\",\"multipleOf\":997},", 50, "{}]}", true, false},
    {"{\"type\":\"object\",\"allOf\":[", "{\"anyOf\":[{\"minimum\":1},{\"maximum\":2}]},", 30, "{}]}", true, false},
    {"{\"oneOf\":[", "{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[1,2,3,4,5,6,7,8]}},\"required\":[\"k\"]},",
     1000, "{\"type\":\"null\"}]}", true, false},
    {"{\"oneOf\":[", "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":1}},\"required\":[\"k\"]},", 1,
     "{\"type\":\"null\"}]}", true, true},
    {"{\"anyOf\":[",
     "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}},", 2500,
     "{}]}", true, false},
};

static void test_a_bomb_is_refused_and_a_large_honest_source_is_not(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bombs / sizeof *bombs; i++) {
        struct buf b;
        struct err e = {0};
        buf_init(&b, 4u << 20);
        buf_adds(&b, bombs[i].head);
        repeat(&b, bombs[i].many, bombs[i].n);
        buf_adds(&b, bombs[i].tail);
        bool opens = bombs[i].schema && strncmp(bombs[i].many, "{\"items\":", 9) == 0;
        if (opens) repeat(&b, "}", bombs[i].n);
        int rc = compile_text(&b, bombs[i].schema, &e);
        if ((rc == 0) != bombs[i].served) fail_msg("bomb %zu (%.60s): %s", i, b.data, rc ? e.msg : "served");
        if (rc) assert_int_equal(e.code, ERR_INVALID);
        buf_close(&b);
    }
}

/* $ref that doubles: compiled once each, however large what they describe. */
static void test_references_that_double_are_built_once_each(void **state)
{
    (void)state;
    struct buf b;
    struct err e = {0};
    buf_init(&b, 1u << 20);
    buf_adds(&b, "{\"$ref\":\"#/$defs/r0\",\"$defs\":{");
    for (int i = 0; i < 40; i++)
        buf_addf(&b,
                 "\"r%d\":{\"type\":\"array\",\"prefixItems\":[{\"$ref\":\"#/$defs/r%d\"},{\"$ref\":\"#/$defs/"
                 "r%d\"}],\"items\":false},",
                 i, i + 1, i + 1);
    buf_adds(&b, "\"r40\":{\"type\":\"null\"}}}");
    assert_int_equal(compile_text(&b, true, &e), 0);
    buf_close(&b);
    buf_init(&b, 1u << 20); /* the same as a combination, which has to be multiplied out */
    buf_adds(&b, "{\"$ref\":\"#/$defs/r0\",\"$defs\":{");
    for (int i = 0; i < 40; i++)
        buf_addf(&b, "\"r%d\":{\"allOf\":[{\"$ref\":\"#/$defs/r%d\"},{\"$ref\":\"#/$defs/r%d\"}]},", i, i + 1, i + 1);
    buf_adds(&b, "\"r40\":{\"type\":\"null\"}}}");
    assert_int_equal(compile_text(&b, true, &e), 0);
    buf_close(&b);
}

/* Patterns whose states are many and large: masks stay bounded and true. */
static void test_an_ambiguous_pattern_still_walks_to_a_match(void **state)
{
    (void)state;
    static const char *const pattern[] = {"[a-z]*[a-m].{300}", "(.{0,30}){0,30}", "(a|b|ab|abb)*[ab]{64}",
                                          "((a|ab)*b?){20}"};
    for (size_t i = 0; i < sizeof pattern / sizeof *pattern; i++) {
        struct grammar *g = regex_of(pattern[i]);
        struct buf b;
        buf_init(&b, 1u << 20);
        walk(g, i, &b);
        assert_true(reads(g, b.data));
        buf_close(&b);
        grammar_unref(g);
    }
}

/* --- hostile sources: whatever happens, it is an answer or ERR_INVALID --- */

static void test_any_bytes_are_a_regex_or_refused(void **state)
{
    (void)state;
    static const char *const piece[] = {"(",       ")",        "[",    "]",   "{",   "}",  "*",   "+",  "?",    "|",
                                        "^",       "$",        "\\",   "a",   "-",   ",",  "1",   "9",  ".",    "\\d",
                                        "\\u00e9", "\xc3\xa9", "\xff", "(?:", "(?<", "[^", "{1,", "}?", "\\x4", ":"};
    uint64_t seed = 5;
    for (int i = 0; i < 4000; i++) {
        struct buf b;
        struct err e = {0};
        struct grammar *g = NULL;
        buf_init(&b, 1u << 16);
        for (uint32_t n = draw(&seed, 14); n > 0; n--) buf_adds(&b, piece[draw(&seed, sizeof piece / sizeof *piece)]);
        if (grammar_regex(con, b.data, b.len, &g, &e)) assert_int_equal(e.code, ERR_INVALID);
        grammar_unref(g);
        buf_close(&b);
    }
}

#define PUNCTUATION 6 /* of part[]: before what may be a member's name */

static void test_any_json_is_a_schema_or_refused(void **state)
{
    (void)state;
    static const char *const part[] = {
        "{", "}", "[", "]", ",", ":", "\"type\"", "\"string\"", "\"object\"", "\"array\"", "\"items\"",
        "\"properties\"", "\"a\"", "\"required\"", "\"enum\"", "\"anyOf\"", "\"allOf\"", "\"oneOf\"", "\"$ref\"",
        "\"#\"", "\"#/items\"", "\"const\"", "1", "-1", "1.5", "1e300", "null", "true", "false", "\"minLength\"",
        "\"pattern\"", "\"minimum\"", "\"additionalProperties\"", "\"prefixItems\"", "\"maxItems\"", "\"nullable\""};
    uint64_t seed = 6;
    for (int i = 0; i < 60000; i++) {
        struct buf b;
        buf_init(&b, 1u << 16);
        buf_adds(&b, "{");
        for (uint32_t n = 1 + draw(&seed, 3); n > 0; n--) {
            buf_addf(&b, "%s:", part[PUNCTUATION + draw(&seed, sizeof part / sizeof *part - PUNCTUATION)]);
            for (uint32_t k = 1 + draw(&seed, 5); k > 0; k--)
                buf_adds(&b, part[draw(&seed, sizeof part / sizeof *part)]);
            buf_adds(&b, n > 1 ? "," : "}");
        }
        json_t *j = json_loadb(b.data, b.len, 0, NULL);
        struct err e = {0};
        struct grammar *g = NULL;
        if (j && grammar_json_schema(con, j, &g, &e)) assert_int_equal(e.code, ERR_INVALID);
        grammar_unref(g);
        json_decref(j);
        buf_close(&b);
    }
}

/* --- the cache --- */

static void test_equal_sources_share_a_grammar_and_others_do_not(void **state)
{
    (void)state;
    struct grammar *a = schema_of("{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}}}");
    struct grammar *b = schema_of("{ \"type\": \"object\", \"properties\": {\"a\": {}, \"b\": {}} }");
    struct grammar *c =
        schema_of("{\"type\":\"object\",\"properties\":{\"b\":{},\"a\":{}}}"); /* another order of the answer */
    struct grammar *d = regex_of("abc");
    const char *const one[] = {"abc"};
    struct grammar *f;
    struct err e = {0};
    assert_int_equal(grammar_choice(con, one, 1, &f, &e), 0);
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, c);
    assert_ptr_not_equal(d, f);
    grammar_unref(a);
    grammar_unref(b);
    grammar_unref(c);
    grammar_unref(d);
    grammar_unref(f);
    grammar_unref(NULL);
    grammar_state_free(NULL);
}

/* A walk's text under masks of a cache of that size. */
static void walk_object(size_t cache_bytes, struct buf *out)
{
    struct err e = {0};
    struct constrain *c;
    struct grammar *g;
    assert_int_equal(constrain_new(&c, &tok, cache_bytes, &e), 0);
    for (int i = 0; i < 50; i++) { /* others come and go */
        char pattern[32];
        struct grammar *other;
        snprintf(pattern, sizeof pattern, "x{%d}[a-f]*", i);
        assert_int_equal(grammar_regex(c, pattern, strlen(pattern), &other, &e), 0);
        grammar_unref(other);
    }
    assert_int_equal(grammar_json_object(c, &g, &e), 0);
    for (uint64_t seed = 0; seed < 60; seed++) {
        walk(g, seed, out);
        buf_addc(out, '\n');
    }
    grammar_unref(g);
    constrain_free(c);
}

static void test_a_small_cache_changes_no_mask(void **state)
{
    (void)state;
    struct buf small, large;
    buf_init(&small, 4u << 20);
    buf_init(&large, 4u << 20);
    walk_object(1, &small);
    walk_object(1u << 30, &large);
    assert_int_equal(small.len, large.len);
    assert_memory_equal(small.data, large.data, large.len);
    buf_close(&small);
    buf_close(&large);
}

/* --- threads --- */

static void *walk_along(void *arg)
{
    struct err e = {0};
    for (uint64_t i = 0; i < 30; i++) {
        struct grammar *g = NULL;
        char pattern[32];
        snprintf(pattern, sizeof pattern, "(a|b){%d,%d}c*", (int)(i % 7), 9);
        if (grammar_regex(con, pattern, strlen(pattern), &g, &e)) return arg;
        struct buf b;
        buf_init(&b, 1u << 20);
        walk(g, i + (uint64_t)(uintptr_t)arg, &b);
        buf_close(&b);
        grammar_unref(g);
    }
    return NULL;
}

static void test_threads_share_grammars(void **state)
{
    (void)state;
    pthread_t t[4];
    int seed[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, walk_along, &seed[i]), 0);
    for (int i = 0; i < 4; i++) {
        void *rc = NULL;
        pthread_join(t[i], &rc);
        assert_null(rc);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_schema_takes_what_jsonschema_finds_valid_and_nothing_else),
        cmocka_unit_test(test_a_pattern_takes_what_python_matches_and_nothing_else),
        cmocka_unit_test(test_a_walk_along_the_masks_ends_in_a_valid_text),
        cmocka_unit_test(test_a_walk_along_a_pattern_ends_in_a_match),
        cmocka_unit_test(test_any_object_is_json_and_at_most_64_levels_deep),
        cmocka_unit_test(test_a_mask_is_the_tokens_whose_bytes_can_be_read_one_by_one),
        cmocka_unit_test(test_when_the_answer_is_whole_only_ends_are_offered),
        cmocka_unit_test(test_a_copy_goes_its_own_way),
        cmocka_unit_test(test_a_choice_is_one_of_the_list),
        cmocka_unit_test(test_a_schema_that_is_not_served_is_refused_with_keyword_and_path),
        cmocka_unit_test(test_a_pattern_that_is_not_served_is_refused_by_name_and_place),
        cmocka_unit_test(test_a_bomb_is_refused_and_a_large_honest_source_is_not),
        cmocka_unit_test(test_references_that_double_are_built_once_each),
        cmocka_unit_test(test_an_ambiguous_pattern_still_walks_to_a_match),
        cmocka_unit_test(test_any_bytes_are_a_regex_or_refused),
        cmocka_unit_test(test_any_json_is_a_schema_or_refused),
        cmocka_unit_test(test_equal_sources_share_a_grammar_and_others_do_not),
        cmocka_unit_test(test_a_small_cache_changes_no_mask),
        cmocka_unit_test(test_threads_share_grammars),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
