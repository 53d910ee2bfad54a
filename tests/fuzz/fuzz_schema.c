/* JSON schemas of structured output: what is compiled is walked along its masks, and an answer that may end is JSON without duplicates; of a schema of types,
 * enums and bounds alone it is valid by a second reading. Input: the schema, a NUL, bytes that steer the walk. */
#include "tests/fuzz/constrain_walk.h"
#include <ctype.h>

static bool is_kind(const char *type, const json_t *v)
{
    if (!strcmp(type, "integer")) return json_is_integer(v) || (json_is_real(v) && (double)(int64_t)json_real_value(v) == json_real_value(v));
    return (!strcmp(type, "null") && json_is_null(v)) || (!strcmp(type, "boolean") && json_is_boolean(v)) || (!strcmp(type, "number") && json_is_number(v)) ||
           (!strcmp(type, "string") && json_is_string(v)) || (!strcmp(type, "array") && json_is_array(v)) || (!strcmp(type, "object") && json_is_object(v));
}

static void check_object(const json_t *schema, const json_t *v);

/* What may be said of a value by keywords that stand alone, whatever else the schema has. */
static void check(const json_t *schema, const json_t *v)
{
    const json_t *type = json_object_get(schema, "type"), *few = json_object_get(schema, "minItems"), *many = json_object_get(schema, "maxItems");
    size_t i;
    json_t *x;
    FUZZ_NEED(!json_is_false(schema));
    bool fine = !json_is_string(type) && !json_is_array(type);
    if (json_is_string(type)) fine = is_kind(json_string_value(type), v);
    json_array_foreach(type, i, x) fine = fine || is_kind(json_string_value(x), v);
    FUZZ_NEED(fine);
    if (json_is_object(v)) check_object(schema, v);
    if (!json_is_array(v)) return;
    if (few && json_is_integer(few)) FUZZ_NEED((json_int_t)json_array_size(v) >= json_integer_value(few));
    if (many && json_is_integer(many)) FUZZ_NEED((json_int_t)json_array_size(v) <= json_integer_value(many));
    if (json_object_get(schema, "items") && !json_object_get(schema, "prefixItems"))
        json_array_foreach(v, i, x) check(json_object_get(schema, "items"), x);
}

static void check_object(const json_t *schema, const json_t *v)
{
    const json_t *props = json_object_get(schema, "properties"), *need = json_object_get(schema, "required");
    const char *key;
    size_t i;
    json_t *x;
    json_array_foreach(need, i, x) FUZZ_NEED(json_object_get(v, json_string_value(x)));
    json_object_foreach((json_t *)v, key, x) if (json_object_get(props, key)) check(json_object_get(props, key), x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char out[8192];
    struct constrain *c = walk_vocabulary();
    struct grammar *g = NULL;
    struct err e = {0};
    json_t *schema = NULL, *v;
    json_error_t why;
    char *text = fuzz_until(&data, &n, 0);
    if (json_parse(text, strlen(text), &schema, NULL) == 0) {
        if (grammar_json_schema(c, schema, &g, &e))
            FUZZ_NEED(e.code == ERR_INVALID && e.msg[0] && !g);
        else if (walk_grammar(g, data, n, out, sizeof out)) {
            v = json_loads(out, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
            FUZZ_NEED(v || json_error_code(&why) == json_error_numeric_overflow);
            if (v) check(schema, v);
            json_decref(v);
        }
        grammar_unref(g);
    }
    json_decref(schema);
    free(text);
    return 0;
}
