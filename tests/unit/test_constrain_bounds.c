/* Tests of what engine/constrain refuses to spend: time at compiling, and what large unions, combinations and masks cost; and of the meaning
 * of values and identifiers that such schemas lean on. The clock itself is tested with a time that is over, never with a time that passes. */
#include "base/buf.h"
#include "engine/grammar_regex.h"
#include "engine/grammar_schema.h"
#include "engine/grammar_value.h"
#include "test_constrain.h"
#include "test_constrain_words.h"

static struct constrain *con;

static int set_up(void **state)
{
    (void)state;
    struct err e = {0};
    for (int i = 0; i < 256; i++) tok.byte[i] = (char)i;
    return constrain_new(&con, &tok, 16u << 20, &e);
}

static int tear_down(void **state)
{
    (void)state;
    constrain_free(con);
    return 0;
}

static int compile(const char *text, struct grammar **g, struct err *e)
{
    json_error_t je;
    json_t *j = json_loads(text, JSON_DECODE_ANY, &je);
    if (!j) fail_msg("%s: %.80s", je.text, text);
    *g = NULL;
    int rc = grammar_json_schema(con, j, g, e);
    json_decref(j);
    return rc;
}

/* --- the clock --- */

static void test_a_clock_that_has_run_out_refuses_and_names_the_place(void **state)
{
    (void)state;
    struct err e = {0};
    struct net n;
    assert_int_equal(net_init(&n, &e), 0);
    n.clock.until_ns = 0;
    n.place = "#/properties/a";
    for (uint32_t i = 0; i < 2 * CLOCK_CHARGES; i++) net_range(&n, 'a', 'b', NODE_RET);
    assert_true(n.failed);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.msg, "JSON schema, #/properties/a: takes too long to compile");
    net_close(&n);
}

/* Each part that can be made to work long looks at the clock by itself. */
static void test_every_part_of_compiling_looks_at_the_clock(void **state)
{
    (void)state;
    struct buf b;
    struct err e = {0};
    struct net n;
    json_t *list = json_array(), *other;
    for (int i = 0; i < 9000; i++) json_array_append_new(list, json_integer(i));
    other = json_copy(list);
    assert_int_equal(net_init(&n, &e), 0);
    n.clock.until_ns = 0;
    assert_false(value_equal(&n, list, other));
    assert_true(n.failed);
    net_close(&n);
    json_decref(list);
    json_decref(other);

    struct regex_use use = {.max = UINT32_MAX, .where = ""};
    assert_int_equal(net_init(&n, &e), 0);
    n.clock.until_ns = 0;
    assert_int_equal(net_regex(&n, "(a{90}|b{9}){90}", 16, &use, NODE_RET), NODE_FAIL);
    assert_true(n.failed);
    net_close(&n);

    buf_init(&b, 1u << 20); /* keywords that aren't served are walked over too */
    buf_adds(&b, "{\"x\":0");
    for (int i = 0; i < 9000; i++) buf_addf(&b, ",\"n%d\":0", i);
    buf_adds(&b, "}");
    json_t *schema = json_loadb(b.data, b.len, 0, NULL);
    struct schema s = {.net = &n, .root = schema, .path = "#"};
    assert_int_equal(net_init(&n, &e), 0);
    n.clock.until_ns = 0;
    assert_int_equal(schema_check(&s, schema), -1);
    assert_true(n.failed);
    net_close(&n);
    json_decref(schema);
    buf_close(&b);
}

/* --- unions and combinations --- */

static const struct union_row {
    const char *name, *each; /* %1$d: its number */
    int n;
    const char *says; /* NULL: served */
} unions[] = {
    {"a tag",
     "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":%1$d},\"z\":{\"type\":\"string\"}},\"required\":[\"k\"]}",
     400, NULL},
    {"a tag that two share", "{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[%1$d,0.0]}},\"required\":[\"k\"]}",
     2, "two of its schemas"},
    {"a tag that only some require", "{\"type\":\"object\",\"properties\":{\"k\":{\"const\":%1$d}}}", 2,
     "two of its schemas"},
    {"one tag for all and another for each",
     "{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1},\"k\":{\"enum\":[%1$d,\"%1$d\"]}},\"required\":[\"a\","
     "\"k\"]}",
     300, NULL},
    {"names of their own",
     "{\"type\":\"object\",\"properties\":{\"n%1$d\":{}},\"required\":[\"n%1$d\"],\"additionalProperties\":false}", 150,
     NULL},
    {"a tag below a property",
     "{\"type\":\"object\",\"properties\":{\"h\":{\"type\":\"object\",\"properties\":{\"k\":{\"const\":%1$d}},"
     "\"required\":[\"k\"]}},\"required\":[\"h\"]}",
     100, NULL},
    {"numbers", "{\"const\":%1$d}", 400, NULL},
    {"numbers of other forms", "{\"enum\":[%1$d,[%1$d.5]]}", 100, NULL},
    {"one number in two forms", "{\"enum\":[%1$d,{\"a\":[1]}]},{\"const\":{\"a\":[1.0]}}", 1, "two of its schemas"},
    {"1 and 1.0", "{\"const\":1},{\"const\":1.0}", 1, "two of its schemas"},
    {"an integer and 1.5", "{\"type\":\"integer\"},{\"const\":1.5}", 1, NULL},
    {"a number and 1", "{\"type\":\"number\"},{\"const\":1}", 1, "two of its schemas"},
    {"numbers and strings", "{\"type\":[\"integer\",\"null\"]},{\"type\":[\"string\",\"boolean\"]}", 1, NULL},
    {"null twice", "{\"type\":[\"integer\",\"null\"]},{\"type\":[\"string\",\"null\"]}", 1, "two of its schemas"},
};

static void test_a_union_is_served_where_its_schemas_are_apart_by_value(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof unions / sizeof *unions; i++) {
        const struct union_row *u = &unions[i];
        struct buf b;
        struct err e = {0};
        struct grammar *g;
        buf_init(&b, 1u << 20);
        buf_adds(&b, "{\"oneOf\":[");
        for (int k = 1; k <= u->n; k++) {
            for (const char *p = u->each; *p; p++) {
                if (strncmp(p, "%1$d", 4) == 0)
                    buf_addf(&b, "%d", k), p += 3;
                else
                    buf_addc(&b, *p);
            }
            buf_addc(&b, k < u->n ? ',' : ']');
        }
        buf_addc(&b, '}');
        int rc = compile(b.data, &g, &e);
        if ((rc == 0) != (u->says == NULL)) fail_msg("%s: %s", u->name, rc ? e.msg : "served");
        if (rc && !strstr(e.msg, u->says)) fail_msg("%s: %s", u->name, e.msg);
        grammar_unref(g);
        buf_close(&b);
    }
}

/* What they are told apart by contains itself, so no depth of looking settles it. */
static void test_a_union_of_schemas_that_contain_themselves_is_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct grammar *g;
    assert_int_equal(
        compile("{\"oneOf\":[{\"$ref\":\"#/$defs/a\"},{\"$ref\":\"#/$defs/b\"}],\"$defs\":{"
                "\"a\":{\"type\":\"object\",\"properties\":{\"x\":{\"$ref\":\"#/$defs/a\"}},\"required\":[\"x\"]},"
                "\"b\":{\"type\":\"object\",\"properties\":{\"x\":{\"$ref\":\"#/$defs/b\"}},\"required\":[\"x\"]}}}",
                &g, &e),
        -1);
    assert_int_equal(e.code, ERR_INVALID);
    if (!strstr(e.msg, "oneOf")) fail_msg("%s", e.msg);
}

/* 135 schemas of 200 annotations each beside a tag: walked once, not once per pair. */
static void test_annotations_beside_a_tag_cost_one_look(void **state)
{
    (void)state;
    struct buf b;
    struct err e = {0};
    struct grammar *g;
    buf_init(&b, 1u << 20);
    buf_adds(&b, "{\"oneOf\":[{\"type\":\"null\"}");
    for (int i = 0; i < 135; i++) {
        buf_addf(&b, ",{\"type\":\"object\",\"properties\":{\"k\":{\"const\":%d", i);
        for (int k = 0; k < 200; k++) buf_addf(&b, ",\"%c%c\":0", 'A' + k / 20, 'a' + k % 20);
        buf_adds(&b, "}},\"required\":[\"k\"]}");
    }
    buf_adds(&b, "]}");
    if (compile(b.data, &g, &e)) fail_msg("%s", e.msg);
    grammar_unref(g);
    buf_close(&b);
}

static void test_an_intersection_of_long_lists_is_what_both_have(void **state)
{
    (void)state;
    struct buf b;
    struct err e = {0};
    struct grammar *g;
    buf_init(&b, 1u << 20);
    for (int part = 0; part < 2; part++) {
        buf_adds(&b, part ? "]},{\"enum\":[0" : "{\"allOf\":[{\"enum\":[0");
        for (int i = 0; i < 440; i++) {
            buf_adds(&b, ",[");
            for (int k = 0; k < 60; k++) buf_adds(&b, part ? "0.0," : "0,");
            buf_addf(&b, "%d]", part && i != 7 ? -1 - i : i);
        }
    }
    buf_adds(&b, "]}]}");
    if (compile(b.data, &g, &e)) fail_msg("%s", e.msg);
    struct grammar_state *s;
    uint32_t mask[WORDS32];
    assert_int_equal(grammar_state_new(&s, g, &e), 0);
    assert_true(grammar_accept(s, '['));
    for (int k = 0; k < 60; k++) assert_true(grammar_accept(s, '0') && grammar_accept(s, ','));
    assert_int_equal(grammar_mask(s, mask), 0);
    assert_false(mask['-' / 32] >> ('-' % 32) & 1);
    assert_true(grammar_accept(s, '7'));
    assert_true(grammar_accept(s, ']'));
    assert_true(grammar_is_over(s));
    grammar_state_free(s);
    grammar_unref(g);
    buf_close(&b);
}

/* --- values --- */

static int compare(const char *a, const char *b)
{
    json_t *x = json_loads(a, JSON_DECODE_ANY, NULL), *y = json_loads(b, JSON_DECODE_ANY, NULL);
    int c = value_compare(x, y);
    assert_int_equal(value_compare(y, x), -c);
    json_decref(x);
    json_decref(y);
    return c;
}

static void test_numbers_are_compared_with_every_digit(void **state)
{
    (void)state;
    assert_int_equal(compare("1", "1.0"), 0);
    assert_int_equal(compare("-0.0", "0"), 0);
    assert_int_equal(compare("1", "1.5"), -1);
    assert_int_equal(compare("-1", "-1.5"), 1);
    assert_int_equal(compare("9007199254740993", "9007199254740992.0"), 1);
    assert_int_equal(compare("9007199254740992", "9007199254740992.0"), 0);
    assert_int_equal(compare("9223372036854775807", "9223372036854775808.0"), -1);
    assert_int_equal(compare("-9223372036854775808", "-9223372036854775808.0"), 0);
    assert_int_equal(compare("1", "1e300"), -1);
    assert_int_equal(compare("1", "-1e300"), 1);
}

static void test_a_set_finds_equal_values_in_any_form(void **state)
{
    (void)state;
    struct err e = {0};
    struct net n;
    struct value_set set;
    json_t *a = json_loads("[1,\"1\",[1.0,{\"a\":2,\"b\":-0.0}],null,1e300]", 0, NULL);
    json_t *b = json_loads("[1.0,\"1\",[1,{\"b\":0,\"a\":2.0}],null,1e300]", 0, NULL);
    assert_int_equal(net_init(&n, &e), 0);
    assert_int_equal(value_set_init(&set, &n, 10), 0);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(value_set_owner(&set, json_array_get(b, (size_t)i)), NO_OWNER);
        assert_int_equal(value_set_add(&set, json_array_get(a, (size_t)i), i), i);
    }
    for (int i = 0; i < 5; i++) assert_int_equal(value_set_add(&set, json_array_get(b, (size_t)i), 9), i);
    value_set_close(&set);
    net_close(&n);
    json_decref(a);
    json_decref(b);
}

/* --- refusals --- */

static const struct {
    const char *schema, *says;
} refused[] = {
    {"{\"type\":\"integer\",\"minimum\":9007199254740993.0,\"maximum\":9e16}", "minimum: a whole number of 2^53 or beyond"},
    {"{\"type\":\"integer\",\"exclusiveMaximum\":1e17}", "maximum: a whole number of 2^53 or beyond"},
    {"{\"type\":\"integer\",\"minimum\":1000000000000000000}", "no answer can match"},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":999999999999999999}", "no answer can match"},
    {"{\"type\":\"integer\",\"maximum\":-1000000000000000000}", "no answer can match"},
    {"{\"type\":\"number\",\"minimum\":9007199254740993}", "bounds of more than 15 digits"},
    {"{\"type\":\"integer\",\"enum\":[1.5]}", "no answer can match"},
    {"{\"allOf\":[{\"minimum\":\"x\"},{\"minimum\":5}],\"type\":\"integer\"}", "minimum: must be a number"},
    {"{\"properties\":{\"a\":{\"$id\":\"x\",\"$ref\":\"#/$defs/i\",\"$defs\":{\"i\":{\"type\":\"integer\"}}}},"
     "\"$defs\":{\"i\":{\"type\":\"string\"}}}",
     "$id: not served below the root beside $ref"},
    {"{\"$ref\":\"#/$defs/a/$defs/b\",\"$defs\":{\"a\":{\"$id\":\"x\",\"$defs\":{\"b\":{}}}}}",
     "$ref: into a schema with an $id"},
    {"{\"$ref\":\"#/anyOf/x\",\"anyOf\":[{}]}", "points to nothing"},
    {"{\"$anchor\":\"a\"}", "$anchor: "},
    {"{\"$dynamicRef\":\"#a\"}", "$dynamicRef: "},
    {"{\"$dynamicAnchor\":\"a\"}", "$dynamicAnchor: "},
    {"{\"type\":\"string\",\"format\":\"hostname\",\"minLength\":254}", "no answer can match"},
    {"{\"type\":\"string\",\"format\":\"duration\",\"pattern\":\"a\"}", "pattern: not served beside this format"},
};

static void test_what_would_be_served_wrongly_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err e = {0};
        struct grammar *g;
        if (compile(refused[i].schema, &g, &e) == 0) fail_msg("served: %s", refused[i].schema);
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.msg, refused[i].says)) fail_msg("%s: %s", refused[i].schema, e.msg);
    }
}

/* The table of keywords is searched by halves. */
static void test_keywords_are_found_and_others_are_annotations(void **state)
{
    (void)state;
    static const char *const served[] = {"$ref",
                                         "additionalProperties",
                                         "allOf",
                                         "anyOf",
                                         "const",
                                         "enum",
                                         "exclusiveMaximum",
                                         "exclusiveMinimum",
                                         "format",
                                         "items",
                                         "maxItems",
                                         "maxLength",
                                         "maximum",
                                         "minItems",
                                         "minLength",
                                         "minimum",
                                         "multipleOf",
                                         "oneOf",
                                         "pattern",
                                         "prefixItems",
                                         "properties",
                                         "required",
                                         "type"};
    static const char *const not_served[] = {"",    "$anchor",     "nullable", "title", "zzz",
                                             "not", "uniqueItems", "if",       "$id"};
    for (size_t i = 0; i < sizeof served / sizeof *served; i++) assert_true(schema_serves(served[i]));
    for (size_t i = 0; i < sizeof not_served / sizeof *not_served; i++) assert_false(schema_serves(not_served[i]));
}

/* --- masks --- */

static void test_a_mask_is_known_once_it_was_made_and_not_before(void **state)
{
    (void)state;
    struct err e = {0};
    struct grammar *g;
    struct grammar_state *s, *other;
    uint32_t mask[WORDS32];
    assert_int_equal(grammar_regex(con, "kn[ow]+n", 8, &g, &e), 0);
    assert_int_equal(grammar_state_new(&s, g, &e), 0);
    assert_int_equal(grammar_state_new(&other, g, &e), 0);
    assert_false(grammar_mask_known(s));
    assert_int_equal(grammar_mask(s, mask), 0);
    assert_true(grammar_mask_known(s));
    assert_true(grammar_mask_known(other)); /* what one explored the other finds */
    assert_true(grammar_accept(s, 'k'));
    assert_false(grammar_mask_known(s));
    for (const char *p = "nown"; *p; p++) assert_true(grammar_accept(s, *p));
    assert_true(grammar_accept(s, TOKEN_END));
    assert_true(grammar_mask_known(s));
    grammar_state_free(s);
    grammar_state_free(other);
    grammar_unref(g);
}

/* Very many ways open at once: what is offered is still taken, and every byte that may come is still offered. */
static void test_a_state_of_many_ways_still_offers_every_byte(void **state)
{
    (void)state;
    struct buf b;
    struct err e = {0};
    struct grammar *g;
    struct grammar_state *s;
    uint64_t seed = 11;
    buf_init(&b, 1u << 16);
    buf_adds(&b, "(?:x");
    for (int i = 0; i < 24; i++) buf_addf(&b, "|[%c-z ]{1,%d}[%cm]", 'a' + i, 40 + i, 'a' + i);
    buf_adds(&b, "){1,20}");
    assert_int_equal(grammar_regex(con, b.data, b.len, &g, &e), 0);
    assert_int_equal(grammar_state_new(&s, g, &e), 0);
    for (int step = 0; step < 60; step++) {
        uint32_t mask[WORDS32];
        assert_int_equal(grammar_mask(s, mask), 0);
        for (int32_t id = 0; id < 256; id++) {
            struct grammar_state *copy;
            assert_int_equal(grammar_state_copy(&copy, s, &e), 0);
            assert_int_equal(grammar_accept(copy, id), mask[id / 32] >> (id % 32) & 1);
            grammar_state_free(copy);
        }
        assert_true(grammar_accept(s, 'a' + (int32_t)draw(&seed, 26)));
    }
    grammar_state_free(s);
    grammar_unref(g);
    buf_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_clock_that_has_run_out_refuses_and_names_the_place),
        cmocka_unit_test(test_every_part_of_compiling_looks_at_the_clock),
        cmocka_unit_test(test_a_union_is_served_where_its_schemas_are_apart_by_value),
        cmocka_unit_test(test_a_union_of_schemas_that_contain_themselves_is_refused),
        cmocka_unit_test(test_annotations_beside_a_tag_cost_one_look),
        cmocka_unit_test(test_an_intersection_of_long_lists_is_what_both_have),
        cmocka_unit_test(test_numbers_are_compared_with_every_digit),
        cmocka_unit_test(test_a_set_finds_equal_values_in_any_form),
        cmocka_unit_test(test_what_would_be_served_wrongly_is_refused_by_name),
        cmocka_unit_test(test_keywords_are_found_and_others_are_annotations),
        cmocka_unit_test(test_a_mask_is_known_once_it_was_made_and_not_before),
        cmocka_unit_test(test_a_state_of_many_ways_still_offers_every_byte),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
