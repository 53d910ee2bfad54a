/* Tests of engine/constrain where memory is short: JSON's allocations fail one after the other while a schema is multiplied out. What comes of it is
 * a refusal for want of memory, or the grammar that the schema means: never one that lacks a requirement or an alternative, for grammars are kept. */
#include "test_constrain.h"
#include "test_constrain_words.h"

static long left = -1; /* allocations until one fails; -1: none does */

static void *take(size_t n)
{
    if (left >= 0 && left-- == 0) return NULL;
    return malloc(n);
}

static int set_up(void **state)
{
    (void)state;
    for (int i = 0; i < 256; i++) tok.byte[i] = (char)i;
    json_set_alloc_funcs(take, free);
    return 0;
}

static bool accepts(struct grammar *g, const char *text)
{
    struct grammar_state *s;
    struct err e = {0};
    assert_int_equal(grammar_state_new(&s, g, &e), 0);
    bool good = true;
    for (; *text && good; text++) good = grammar_accept(s, (unsigned char)*text);
    good = good && grammar_may_end(s);
    grammar_state_free(s);
    return good;
}

static const struct row {
    const char *schema, *good[3], *bad[5];
} rows[] = {
    {"{\"allOf\":[{\"type\":\"object\",\"properties\":{\"a\":{\"type\":[\"integer\",\"null\"],\"minimum\":1},\"k\":{\"enum\":[\"p\",\"q\",7]}},"
     "\"required\":[\"a\"]},{\"properties\":{\"a\":{\"type\":[\"integer\",\"string\"],\"maximum\":12},\"k\":{\"enum\":[\"q\",7,\"r\"]}},"
     "\"required\":[\"k\"],\"additionalProperties\":false}]}",
     {"{\"a\":3,\"k\":\"q\"}", "{\"a\":12,\"k\":7}"},
     {"{\"a\":3}", "{\"k\":7}", "{\"a\":13,\"k\":\"q\"}", "{\"a\":3,\"k\":\"p\"}", "{\"a\":\"x\",\"k\":7}"}},
    {"{\"type\":\"object\",\"required\":[\"t\"],\"additionalProperties\":false,\"properties\":{\"t\":{},\"v\":{\"type\":\"integer\"}},"
     "\"oneOf\":[{\"type\":\"object\",\"properties\":{\"t\":{\"const\":\"x\"}},\"required\":[\"t\",\"v\"]},"
     "{\"type\":\"object\",\"properties\":{\"t\":{\"const\":1}},\"required\":[\"t\"]}]}",
     {"{\"t\":\"x\",\"v\":4}", "{\"t\":1}", "{\"t\":1,\"v\":2}"},
     {"{\"t\":\"x\"}", "{\"t\":2}", "{\"v\":2}", "{\"t\":1,\"v\":\"s\"}"}},
};

/* False: it was refused for want of memory. */
static bool compiles(const json_t *schema, const struct row *r)
{
    struct constrain *c;
    struct grammar *g = NULL;
    struct err e = {0};
    long fails_at = left;
    left = -1;
    assert_int_equal(constrain_new(&c, &tok, 1u << 20, &e), 0);
    left = fails_at;
    int rc = grammar_json_schema(c, schema, &g, &e);
    left = -1;
    if (rc) assert_int_equal(e.code, ERR_NO_MEMORY);
    for (int i = 0; !rc && i < 3 && r->good[i]; i++)
        if (!accepts(g, r->good[i])) fail_msg("allocation %ld: %s is refused", fails_at, r->good[i]);
    for (int i = 0; !rc && i < 5 && r->bad[i]; i++)
        if (accepts(g, r->bad[i])) fail_msg("allocation %ld: %s is accepted", fails_at, r->bad[i]);
    grammar_unref(g);
    constrain_free(c);
    return rc == 0;
}

static void test_a_schema_that_met_no_memory_is_refused_or_as_it_is_meant(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *schema = json_loads(rows[i].schema, 0, NULL);
        assert_non_null(schema);
        assert_true(compiles(schema, &rows[i]));
        int refused = 0;
        for (int n = 0; n < 2000; n++) {
            left = n;
            if (compiles(schema, &rows[i]) && refused && n > 400) break;
            refused++;
        }
        assert_true(refused > 40);
        json_decref(schema);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_schema_that_met_no_memory_is_refused_or_as_it_is_meant),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
