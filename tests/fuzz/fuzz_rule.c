/* Rules of an alias's evaluation, and the answers that they judge. What is taken is, read again, the same; a verdict is the same each time, 0 to 1, and has a
 * note that can stand in JSON; a pattern that must be there and the same one that must not say opposites; a text that tells its language has exactly one. Of JSON
 * Schema, whatever schema and answer are: S, allOf [S], anyOf [S], oneOf [S], not not S, a $ref to S, its keywords one by one, S with a title say the same, not S
 * the opposite; a value is allowed by its own const and enum, numbers being equal by what they are worth; it has one type. Input: a rule, a NUL, the answer. */
#include "base/json.h"
#include "gateway/quality/rule.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>

#define EXACT 9007199254740992 /* 2^53: whole numbers below are doubles */
#define NO_VERDICT (-1)

static json_t *rule_of(const char *kind, const char *field, json_t *v)
{
    json_t *o = json_pack("{ss ss so}", "name", "r", "kind", kind, field, v);
    FUZZ_NEED(o);
    return o;
}

/* The rule as it is stored, or NULL. */
static json_t *set(const json_t *v)
{
    json_t *rule = NULL, *again = NULL;
    struct err e = {0};
    if (rule_read(v, &rule, &e)) {
        FUZZ_NEED(!rule && (e.code == ERR_INVALID || e.code == ERR_MISSING) && e.msg[0]);
        json_t *said = json_string(e.msg);
        FUZZ_NEED(said);
        json_decref(said);
        return NULL;
    }
    FUZZ_NEED(rule_read(rule, &again, NULL) == 0 && json_equal(rule, again));
    json_decref(again);
    return rule;
}

static struct verdict apply(const json_t *rule, const struct rule_text *t)
{
    struct verdict v, again;
    rule_apply(rule, t, &v);
    rule_apply(rule, t, &again);
    FUZZ_NEED(v.scored == again.scored && v.passed == again.passed && v.score == again.score && strcmp(v.note, again.note) == 0);
    FUZZ_NEED(v.scored ? v.score == v.passed && (v.passed || v.note[0]) : !v.passed && v.note[0]);
    json_t *note = json_string(v.note);
    FUZZ_NEED(note);
    json_decref(note);
    return v;
}

/* 1 passed, 0 failed, NO_VERDICT not scored; takes the rule, which must be one where `sure`. */
static int say(json_t *v, const struct rule_text *t, bool sure)
{
    json_t *rule = set(v);
    FUZZ_NEED(rule || !sure);
    int is = NO_VERDICT;
    if (rule) {
        struct verdict got = apply(rule, t);
        is = got.scored ? got.passed : NO_VERDICT;
    }
    json_decref(rule);
    json_decref(v);
    return is;
}

static int by_schema(json_t *schema, const struct rule_text *t)
{
    return say(rule_of("json_schema", "schema", schema), t, false); /* what is wrapped may be too deep */
}

/* --- JSON Schema --- */

static void need_same(int was, json_t *schema, const struct rule_text *t)
{
    int is = by_schema(schema, t);
    FUZZ_NEED(is == was || is == NO_VERDICT);
}

static bool refers(const json_t *v)
{
    const char *name;
    json_t *one;
    size_t i;
    json_object_foreach((json_t *)v, name, one) if (strcmp(name, "$ref") == 0 || refers(one)) return true;
    json_array_foreach((json_t *)v, i, one) if (refers(one)) return true;
    return false;
}

/* allOf of a schema for each keyword, those that look at one another together. */
static json_t *one_by_one(const json_t *schema)
{
    static const char *const coupled[] = {"properties", "additionalProperties", "prefixItems", "items"};
    json_t *list = json_array(), *o, *k, *together = json_object();
    const char *name;
    json_object_foreach((json_t *)schema, name, k)
    {
        bool is = false;
        for (size_t i = 0; i < sizeof coupled / sizeof *coupled; i++) is |= strcmp(coupled[i], name) == 0;
        o = is ? together : json_object();
        json_object_set(o, name, k);
        if (!is) json_array_append_new(list, o);
    }
    json_array_append_new(list, together);
    return json_pack("{so}", "allOf", list);
}

static void check_same(const json_t *schema, int was, const struct rule_text *t)
{
    json_t *s = (json_t *)schema;
    int not = by_schema(json_pack("{sO}", "not", s), t);
    FUZZ_NEED(not == NO_VERDICT || not == !was);
    need_same(was, json_pack("{s[O]}", "allOf", s), t);
    need_same(was, json_pack("{s[O]}", "anyOf", s), t);
    need_same(was, json_pack("{s[O]}", "oneOf", s), t);
    need_same(was, json_pack("{s{sO}}", "not", "not", s), t);
    need_same(was, json_pack("{s{s{s{sO}}} ss}", "$defs", "a/b", "properties", "~", s, "$ref", "#/$defs/a~1b/properties/~0"), t);
    if (!json_is_object(schema)) return;
    need_same(was, one_by_one(schema), t);
    json_t *titled = json_copy(s);
    json_object_set_new(titled, "title", json_string("x"));
    json_object_set_new(titled, "format", json_string("date"));
    need_same(was, titled, t);
}

/* The value with its whole numbers written as reals. */
static json_t *as_reals(const json_t *v)
{
    json_t *to, *one;
    const char *name;
    size_t i;
    if (json_is_integer(v) && llabs(json_integer_value(v)) < EXACT) return json_real((double)json_integer_value(v));
    if (json_is_array(v)) {
        to = json_array();
        json_array_foreach((json_t *)v, i, one) json_array_append_new(to, as_reals(one));
        return to;
    }
    if (!json_is_object(v)) return json_incref((json_t *)v);
    to = json_object();
    json_object_foreach((json_t *)v, name, one) json_object_set_new(to, name, as_reals(one));
    return to;
}

static void check_value(json_t *v, const struct rule_text *t)
{
    static const char *const types[] = {"object", "array", "string", "boolean", "null", "number"};
    int n = 0;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) n += by_schema(json_pack("{ss}", "type", types[i]), t) == 1;
    FUZZ_NEED(n == 1);
    need_same(1, json_pack("{sO}", "const", v), t);
    need_same(1, json_pack("{so}", "const", as_reals(v)), t);
    need_same(1, json_pack("{s[nO]}", "enum", v), t);
    need_same(0, json_pack("{s[O]}", "const", v), t);
    if (json_is_integer(v) && json_integer_value(v) < INT64_MAX) need_same(0, json_pack("{sI}", "const", json_integer_value(v) + 1), t);
}

static json_t *value_of(const struct rule_text *t)
{
    char *text = malloc(t->n + 8);
    json_t *wrap = NULL, *v = NULL;
    memcpy(text, "{\"v\":", 5);
    memcpy(text + 5, t->s, t->n);
    text[5 + t->n] = '}';
    if (json_parse(text, t->n + 6, &wrap, NULL) == 0 && json_object_size(wrap) == 1) v = json_incref(json_object_get(wrap, "v"));
    json_decref(wrap);
    free(text);
    return v;
}

static void check_schema(const json_t *rule, int was, const struct rule_text *t)
{
    const json_t *schema = json_object_get(rule, "schema");
    json_t *v = value_of(t);
    if (!v) FUZZ_NEED(was == 0);
    else {
        check_value(v, t);
        if (was != NO_VERDICT && !refers(schema)) check_same(schema, was, t);
    }
    json_decref(v);
}

/* --- patterns, lengths, languages --- */

static json_t *with(const json_t *rule, const char *field, json_t *v)
{
    json_t *o = json_copy((json_t *)rule);
    FUZZ_NEED(o && v && json_object_set_new(o, field, v) == 0);
    return o;
}

/* As a rule and as a keyword of a schema it is one pattern. */
static void check_regex(const json_t *rule, int was, const struct rule_text *t)
{
    const char *expect = json_string_value(json_object_get(rule, "expect"));
    bool match = strcmp(expect, "match") == 0;
    int other = say(with(rule, "expect", json_string(match ? "no_match" : "match")), t, true);
    FUZZ_NEED(was == NO_VERDICT ? other == NO_VERDICT : other == !was);
    json_t *text = json_stringn(t->s, t->n);
    char *quoted = text && !memchr(t->s, 0, t->n) && !json_is_true(json_object_get(rule, "ignore_case")) ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
    if (quoted) {
        int is = by_schema(json_pack("{sO}", "pattern", json_object_get(rule, "pattern")), &(struct rule_text){quoted, strlen(quoted), 0});
        FUZZ_NEED(was == NO_VERDICT || is == (match ? was : !was));
    }
    free(quoted);
    json_decref(text);
}

static void check_length(const json_t *rule, int was, const struct rule_text *t)
{
    int64_t min = json_integer_value(json_object_get(rule, "min")), max = json_integer_value(json_object_get(rule, "max"));
    const char *unit = json_string_value(json_object_get(rule, "unit"));
    FUZZ_NEED(was != NO_VERDICT && min <= max);
    int above = say(with(rule, "max", json_integer(1048576)), t, true), below = say(with(rule, "min", json_integer(0)), t, true);
    FUZZ_NEED(was == (above && below));
    if (strcmp(unit, "tokens") == 0) FUZZ_NEED(was == (t->tokens >= min && t->tokens <= max));
    else if (was) FUZZ_NEED(min <= (int64_t)t->n);
}

static void check_language(const json_t *rule, int was, const struct rule_text *t)
{
    static const char *const all[] = {"en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "tr", "ru", "uk", "ja", "zh", "ko", "ar", "he", "el", "hi", "th"};
    double sure = -1;
    const char *is = language_of(t->s, t->n, &sure);
    int n = 0, listed = 0;
    size_t k;
    json_t *one;
    FUZZ_NEED(sure >= 0 && sure <= 1 && (!*is || language_known(is)));
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) n += say(with(rule, "languages", json_pack("[s]", all[i])), t, true) == 1;
    FUZZ_NEED(n == (*is != 0) && (was == NO_VERDICT) == !*is);
    json_array_foreach(json_object_get(rule, "languages"), k, one) listed |= strcmp(json_string_value(one), is) == 0;
    FUZZ_NEED(was == NO_VERDICT || was == listed);
}

/* Words are within the text, in its order, and words still: each, read alone, is the one word that it is. */
static void check_words(const struct rule_text *t)
{
    size_t before = 0;
    struct word w, again;
    for (size_t at = 0; word_next(t->s, t->n, &at, &w); before = at) {
        FUZZ_NEED(at > before && at <= t->n && w.n >= 1 && w.n <= WORD_MAX && w.letters >= 1 && w.letters <= w.n);
        size_t alone = 0;
        if (w.n >= WORD_MAX - 4) continue; /* cut */
        FUZZ_NEED(word_next(w.s, w.n, &alone, &again) && alone == w.n && again.n == w.n && memcmp(again.s, w.s, w.n) == 0 && again.number == w.number);
        json_t *text = json_stringn(w.s, w.n);
        FUZZ_NEED(text);
        json_decref(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const struct kind {
        const char *name;
        void (*check)(const json_t *rule, int was, const struct rule_text *t);
    } kinds[] = {{"regex", check_regex}, {"json_schema", check_schema}, {"length", check_length}, {"language", check_language}};
    char *said = fuzz_until(&data, &n, 0), *text = fuzz_text(data, n);
    const struct rule_text t = {text, n, (int64_t)n / 3};
    json_t *v = NULL, *rule = NULL;
    check_words(&t);
    if (json_parse(said, strlen(said), &v, NULL) == 0 && (rule = set(v))) {
        struct verdict got = apply(rule, &t);
        const char *kind = json_string_value(json_object_get(rule, "kind"));
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (strcmp(kinds[i].name, kind) == 0) kinds[i].check(rule, got.scored ? got.passed : NO_VERDICT, &t);
    }
    json_decref(rule);
    json_decref(v);
    free(text);
    free(said);
    return 0;
}
