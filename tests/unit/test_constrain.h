/* What the tests of structured output share: walks along masks, and a small judge of JSON schemas that walks are held against. */
#pragma once
#include "engine/constrain.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static inline uint32_t draw(uint64_t *seed, uint32_t n) /* 0 .. n-1; splitmix64 */
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) % n);
}

static inline int count_bits(const uint32_t *mask, int words)
{
    int n = 0;
    for (int i = 0; i < words; i++) n += __builtin_popcount(mask[i]);
    return n;
}

static inline int32_t nth_bit(const uint32_t *mask, int words, int n)
{
    for (int i = 0; i < words * 32; i++)
        if (mask[i / 32] >> (i % 32) & 1 && n-- == 0) return i;
    return -1;
}

/* --- the judge: the keywords that random schemas use, read from the standard and not from the engine --- */

static inline bool judge(const json_t *schema, const json_t *v);

static inline bool judge_type(const char *type, const json_t *v)
{
    if (strcmp(type, "integer") == 0)
        return json_is_integer(v) || (json_is_real(v) && floor(json_real_value(v)) == json_real_value(v));
    return (strcmp(type, "null") == 0 && json_is_null(v)) || (strcmp(type, "boolean") == 0 && json_is_boolean(v)) ||
           (strcmp(type, "number") == 0 && json_is_number(v)) || (strcmp(type, "string") == 0 && json_is_string(v)) ||
           (strcmp(type, "array") == 0 && json_is_array(v)) || (strcmp(type, "object") == 0 && json_is_object(v));
}

static inline long double number_of(const json_t *v) /* with every digit: a long double holds an int64 */
{
    return json_is_integer(v) ? (long double)json_integer_value(v) : (long double)json_number_value(v);
}

static inline bool judge_range(const json_t *s, const char *key, bool has, long double v)
{
    const json_t *k = json_object_get(s, key);
    long double b = number_of(k);
    if (!k || !has) return true;
    if (strncmp(key, "exclusiveM", 10) == 0) return key[10] == 'i' ? v > b : v < b;
    return strncmp(key, "min", 3) == 0 ? v >= b : v <= b;
}

static inline double points(const char *s) /* code points */
{
    double n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static inline bool judge_array(const json_t *s, const json_t *v)
{
    const json_t *prefix = json_object_get(s, "prefixItems"), *items = json_object_get(s, "items");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *of = i < json_array_size(prefix) ? json_array_get(prefix, i) : items;
        if (of && !judge(of, json_array_get(v, i))) return false;
    }
    return true;
}

static inline bool judge_object(const json_t *s, const json_t *v)
{
    const json_t *props = json_object_get(s, "properties"), *more = json_object_get(s, "additionalProperties");
    const char *key;
    json_t *x;
    for (size_t i = 0; i < json_array_size(json_object_get(s, "required")); i++)
        if (!json_object_get(v, json_string_value(json_array_get(json_object_get(s, "required"), i)))) return false;
    json_object_foreach((json_t *)v, key, x)
    {
        const json_t *of = json_object_get(props, key) ? json_object_get(props, key) : more;
        if (of && !judge(of, x)) return false;
    }
    return true;
}

static inline bool judge_any(const json_t *list, const json_t *v)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (judge(json_array_get(list, i), v)) return true;
    return false;
}

static inline bool judge(const json_t *s, const json_t *v)
{
    const json_t *type = json_object_get(s, "type"), *list = json_object_get(s, "enum"),
                 *one = json_object_get(s, "const");
    if (json_is_boolean(s)) return json_is_true(s);
    bool ok = !type;
    if (json_is_string(type)) ok = judge_type(json_string_value(type), v);
    for (size_t i = 0; i < json_array_size(type); i++)
        ok = ok || judge_type(json_string_value(json_array_get(type, i)), v);
    if (!ok || (one && !json_equal(one, v))) return false;
    bool listed = !list;
    for (size_t i = 0; i < json_array_size(list); i++) listed = listed || json_equal(json_array_get(list, i), v);
    if (!listed || (json_object_get(s, "anyOf") && !judge_any(json_object_get(s, "anyOf"), v))) return false;
    static const char *const numeric[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    for (int i = 0; i < 4; i++)
        if (!judge_range(s, numeric[i], json_is_number(v), number_of(v))) return false;
    const json_t *multiple = json_object_get(s, "multipleOf");
    if (multiple && json_is_integer(v) && json_integer_value(v) % json_integer_value(multiple)) return false;
    double n = json_is_string(v) ? points(json_string_value(v)) : (double)json_array_size(v);
    if (!judge_range(s, "minLength", json_is_string(v), n) || !judge_range(s, "maxLength", json_is_string(v), n))
        return false;
    if (!judge_range(s, "minItems", json_is_array(v), n) || !judge_range(s, "maxItems", json_is_array(v), n))
        return false;
    return (!json_is_array(v) || judge_array(s, v)) && (!json_is_object(v) || judge_object(s, v));
}
