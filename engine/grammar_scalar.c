/* grammar_scalar: strings, numbers and listed values of a JSON schema.
 *
 * Strings without a pattern take any JSON string: every escape of RFC 8259, surrogate pairs whole, well-formed UTF-8 (RFC 3629), no
 * control characters; only U+0000 is left out, which base/json.h and many databases refuse. Lengths count code points.
 *
 * Numbers are kept to what readers agree about: integers of 18 digits (an int64), others of 15 digits on either side of the point (a
 * double) and an exponent of two digits, so none overflows; no endless digits either. */
#include "engine/grammar_schema.h"
#include "engine/grammar_value.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int schema_count(struct schema *s, const json_t *schema, const char *keyword, uint32_t *out)
{
    const json_t *v = json_object_get(schema, keyword);
    double d = json_number_value(v);
    if (!v) return 0;
    if (!json_is_number(v) || d < 0 || d != floor(d))
        return (int)schema_refuse(s, keyword, "must be a whole number, not negative") - 1;
    *out = d < UINT32_MAX - 1 ? (uint32_t)d : UINT32_MAX - 1;
    return 0;
}

/* --- text --- */

static uint32_t hex(struct net *n, const char *chars, uint32_t next)
{
    struct byte_set s = {0};
    for (; *chars; chars++) byte_set_add(&s, (uint8_t)*chars, (uint8_t)*chars);
    return net_set(n, &s, next);
}

#define HEX "0123456789abcdefABCDEF"
#define HEX_NOT_0 (HEX + 1)

/* \uXXXX: a character of its own, or a pair of surrogates. */
static uint32_t unicode_escape(struct net *n, uint32_t next)
{
    uint32_t one = hex(n, HEX, next), two = hex(n, HEX, one), three = hex(n, HEX, two);
    uint32_t not_0 = hex(n, HEX_NOT_0, next), not_00 = net_or(n, net_text(n, "0", 1, not_0), hex(n, HEX_NOT_0, one));
    uint32_t not_000 = net_or(n, net_text(n, "0", 1, not_00), hex(n, HEX_NOT_0, two));
    uint32_t low = net_text(n, "\\u", 2, hex(n, "dD", hex(n, "cdefCDEF", two)));
    uint32_t d = net_or(n, hex(n, "01234567", two), hex(n, "89abAB", hex(n, HEX, hex(n, HEX, low))));
    uint32_t all = net_or(n, net_text(n, "0", 1, not_000), hex(n, "123456789abcefABCEF", three));
    return net_text(n, "u", 1, net_or(n, all, hex(n, "dD", d)));
}

/* One character of a string, in any of its forms. */
static uint32_t any_char(struct schema *s, uint32_t next)
{
    struct net *n = s->net;
    if (!s->chr) {
        s->chr = net_rule(n) + 1;
        struct byte_set plain = {0};
        byte_set_add(&plain, 0x20, 0x7f);
        plain.w[0] &= ~(1ull << '"');
        plain.w[1] &= ~(1ull << ('\\' - 64));
        uint32_t escape = net_or(n, hex(n, "\"\\/bfnrt", NODE_RET), unicode_escape(n, NODE_RET));
        uint32_t all = net_or(n, net_utf8(n, 0x80, CODE_POINT_MAX, NODE_RET), net_text(n, "\\", 1, escape));
        net_rule_body(n, s->chr - 1, net_or(n, net_set(n, &plain, NODE_RET), all));
    }
    return net_call(n, s->chr - 1, next);
}

uint32_t scalar_text(struct schema *s, uint32_t min, uint32_t max, uint32_t next)
{
    struct net *n = s->net;
    uint32_t quote = net_text(n, "\"", 1, next), at = quote;
    if (min > max) return NODE_FAIL;
    if ((max == UINT32_MAX ? min : max) > NODES_MAX)
        return schema_refuse(s, max == UINT32_MAX ? "minLength" : "maxLength", "too large");
    if (max == UINT32_MAX) {
        at = net_hole(n);
        net_fill(n, at, any_char(s, at), quote);
    }
    for (uint32_t k = max == UINT32_MAX ? min : max; k > 0 && !n->failed; k--) {
        at = any_char(s, at);
        if (k > min) at = net_or(n, at, quote);
    }
    return net_text(n, "\"", 1, at);
}

/* --- strings --- */

uint32_t scalar_string(struct schema *s, const json_t *schema, uint32_t next)
{
    const json_t *pattern = json_object_get(schema, "pattern"), *named = json_object_get(schema, "format");
    const struct format *format = schema_format(json_string_value(named));
    char where[SCHEMA_PATH + 64];
    struct regex_use use = {.json = true, .max = UINT32_MAX, .where = where};
    if (named && !json_is_string(named)) return schema_refuse(s, "format", "must be a string");
    if (pattern && !json_is_string(pattern)) return schema_refuse(s, "pattern", "must be a string");
    if (pattern && format) return schema_refuse(s, "pattern", "not served beside this format");
    if (schema_count(s, schema, "minLength", &use.min) || schema_count(s, schema, "maxLength", &use.max))
        return NODE_FAIL;
    if (!pattern && !format) return scalar_text(s, use.min, use.max, next);
    const char *regex = pattern ? json_string_value(pattern) : format->regex;
    if (format && format->counted && (use.min > 0 || use.max != UINT32_MAX)) {
        regex = format->counted;
        if (use.max > format->max) use.max = format->max;
    }
    snprintf(where, sizeof where, "JSON schema, %s: %s", s->path, pattern ? "pattern" : "format");
    use.search = pattern != NULL;
    size_t len = pattern ? json_string_length(pattern) : strlen(regex);
    uint32_t body = net_regex(s->net, regex, len, &use, net_text(s->net, "\"", 1, next));
    return net_text(s->net, "\"", 1, body);
}

/* --- numbers --- */

static uint32_t digits(struct net *n, int min, int max, uint32_t next)
{
    uint32_t at = next;
    for (int k = max; k > 0; k--) {
        at = net_range(n, '0', '9', at);
        if (k > min) at = net_or(n, at, next);
    }
    return at;
}

uint32_t scalar_any_number(struct schema *s, bool integer, uint32_t next)
{
    struct net *n = s->net;
    if (integer && !s->integer) {
        s->integer = net_rule(n) + 1;
        net_rule_body(n, s->integer - 1, net_integer(n, -INT_LIMIT, INT_LIMIT, 1, NODE_RET));
    } else if (!integer && !s->number) {
        s->number = net_rule(n) + 1;
        uint32_t power = digits(n, 1, 2, NODE_RET), sign = net_or(n, hex(n, "+-", power), power);
        uint32_t exponent = net_or(n, hex(n, "eE", sign), NODE_RET);
        uint32_t fraction = net_or(n, net_text(n, ".", 1, digits(n, 1, DECIMAL_DIGITS, exponent)), exponent);
        uint32_t whole = net_range(n, '1', '9', digits(n, 0, DECIMAL_DIGITS - 1, fraction));
        whole = net_or(n, whole, net_text(n, "0", 1, fraction));
        net_rule_body(n, s->number - 1, net_or(n, whole, net_text(n, "-", 1, whole)));
    }
    return net_call(n, (integer ? s->integer : s->number) - 1, next);
}

/* An end of a range as the schema has it, with all its digits. */
struct limit {
    const json_t *number; /* NULL: none */
    bool exclusive;
};

/* The tighter of two keywords; -1: not numbers. sign 1: lower bounds, -1: upper ones. */
static int read_limit(struct schema *s, const json_t *schema, const char *inclusive, const char *exclusive, int sign,
                      struct limit *out)
{
    const json_t *in = json_object_get(schema, inclusive), *ex = json_object_get(schema, exclusive);
    if (in && !json_is_number(in)) return (int)schema_refuse(s, inclusive, "must be a number") - 1;
    if (ex && !json_is_number(ex)) return (int)schema_refuse(s, exclusive, "must be a number") - 1;
    *out = (struct limit){in, false};
    if (ex && (!in || sign * value_compare(ex, in) >= 0)) *out = (struct limit){ex, true};
    return 0;
}

/* A limit as the first integer within it, one beyond INT_LIMIT where there is none. -1: a double that may not be what was written. */
static int first_integer(struct schema *s, struct limit l, int sign, int64_t *out)
{
    double d = json_number_value(l.number);
    bool real = json_is_real(l.number);
    int64_t v = json_integer_value(l.number);
    *out = -sign * INT_LIMIT;
    if (!l.number) return 0;
    if (real && fabs(d) >= 0x1p53 && fabs(d) < 1e18)
        return (int)schema_refuse(s, sign > 0 ? "minimum" : "maximum",
                                  "a whole number of 2^53 or beyond is served without point and exponent") -
               1;
    if (real) v = d >= 1e18 ? INT64_MAX : d <= -1e18 ? INT64_MIN : (int64_t)(sign > 0 ? ceil(d) : floor(d));
    if (v > INT_LIMIT || v < -INT_LIMIT) /* beyond all numbers that are written: no limit, or nothing within it */
        *out = (v > 0) == (sign > 0) ? sign * (INT_LIMIT + 1) : *out;
    else
        *out = v + (l.exclusive && value_is_whole(l.number) ? sign : 0);
    return 0;
}

static struct bound bound_of(struct limit l)
{
    return (struct bound){.set = l.number, .exclusive = l.exclusive, .value = json_number_value(l.number)};
}

uint32_t scalar_number(struct schema *s, const json_t *schema, bool integer, uint32_t next)
{
    const json_t *multiple = json_object_get(schema, "multipleOf");
    double m = multiple ? json_number_value(multiple) : 1;
    struct limit lo, hi;
    int64_t first, last;
    char where[SCHEMA_PATH + 64];
    if (read_limit(s, schema, "minimum", "exclusiveMinimum", 1, &lo)) return NODE_FAIL;
    if (read_limit(s, schema, "maximum", "exclusiveMaximum", -1, &hi)) return NODE_FAIL;
    if (multiple && (!json_is_number(multiple) || m < 1 || m > MULTIPLE_MAX || m != floor(m)))
        return schema_refuse(s, "multipleOf", "only whole numbers from 1 to 1000 are served");
    if (!multiple && !lo.number && !hi.number) return scalar_any_number(s, integer, next);
    if (integer || multiple) {
        if (first_integer(s, lo, 1, &first) || first_integer(s, hi, -1, &last)) return NODE_FAIL;
        return net_integer(s->net, first, last, (uint32_t)m, next);
    }
    snprintf(where, sizeof where, "JSON schema, %s: minimum, maximum", s->path);
    return net_decimal(s->net, bound_of(lo), bound_of(hi), where, next);
}

/* --- listed values --- */

/* Beside enum and const the other keywords would have to be evaluated on each value: only `type` is. */
static bool listed_alone(struct schema *s, const json_t *schema)
{
    static const char *const may[] = {"type", "enum", "const"};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)schema, key, v)
    {
        bool ok = !schema_serves(key);
        for (size_t i = 0; i < sizeof may / sizeof *may; i++) ok = ok || strcmp(key, may[i]) == 0;
        if (!ok) return schema_refuse(s, key, "not served beside enum or const"), false;
    }
    return true;
}

char *scalar_dump(const json_t *v)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    for (char *p = text; p && *p; p++) {
        if (*p != '\\') continue;
        if (*++p != 'u') continue;
        for (int i = 1; i <= 4; i++)
            if (p[i] >= 'A' && p[i] <= 'F') p[i] |= 0x20;
    }
    return text;
}

uint32_t scalar_literals(struct schema *s, const json_t *schema, int kinds, uint32_t next)
{
    const json_t *list = json_object_get(schema, "enum"), *one = json_object_get(schema, "const");
    if (list && !json_is_array(list)) return schema_refuse(s, "enum", "must be a list of values");
    if (!listed_alone(s, schema)) return NODE_FAIL;
    size_t n = list ? json_array_size(list) : 1, kept = 0;
    struct word *w = malloc((n + 1) * sizeof *w);
    uint32_t nested = NODE_FAIL;
    if (!w) return net_no_memory(s->net);
    for (size_t i = 0; i < n && !s->net->failed; i++) {
        const json_t *v = list ? json_array_get(list, i) : one;
        if (!schema_kind_fits(schema_kind_of(v), kinds) || (one && !value_equal(s->net, v, one))) continue;
        if (json_is_object(v) || json_is_array(v)) {
            nested = net_or(s->net, shape_literal(s, v, next), nested);
            continue;
        }
        w[kept].s = scalar_dump(v);
        if (!w[kept].s) {
            net_no_memory(s->net);
            break;
        }
        w[kept].len = strlen(w[kept].s);
        kept++;
    }
    uint32_t all = net_or(s->net, net_words(s->net, w, kept, next), nested);
    for (size_t i = 0; i < kept; i++) free((char *)w[i].s);
    free(w);
    return all;
}
