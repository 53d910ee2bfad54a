/* grammar_scalar: strings, numbers and listed values of a JSON schema.
 *
 * Strings without a pattern take any JSON string: every escape of RFC 8259, surrogate pairs whole, well-formed UTF-8 (RFC 3629), no
 * control characters; only U+0000 is left out, which base/json.h and many databases refuse. Lengths count code points.
 *
 * Numbers are kept to what readers agree about: integers of 18 digits (an int64), others of 15 digits on either side of the point (a
 * double) and an exponent of two digits, so none overflows; no endless digits either. */
#include "engine/grammar_schema.h"
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

/* --- formats --- */

#define YEAR "(?:\\d{3}[1-9]|\\d{2}[1-9]0|\\d[1-9]00|[1-9]000)"
#define LEAP "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define MONTH_DAY                                                                                                      \
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))"
#define DATE "(?:" YEAR "-" MONTH_DAY "|" LEAP "-02-29)"
#define TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4 OCTET "(?:\\." OCTET "){3}"
#define H16 "[0-9a-fA-F]{1,4}"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define DOMAIN                                                                                                         \
    "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*" /* LABEL without its bound: counting beside maxLength would be costly */
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HOST LABEL "(?:\\." LABEL ")*"
#define URI_CHAR "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

/* The formats that narrow a string; others are annotations, as the standard has it. */
static const struct format {
    const char *name, *regex;
} formats[] = {
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", ATOM "(?:\\." ATOM ")*@" DOMAIN "(?:\\." DOMAIN ")+"},
    {"hostname", HOST},
    {"ipv4", IPV4},
    {"ipv6", "(?:(?:" H16 ":){7}" H16 "|(?:" H16 ":){1,7}:|(?:" H16 ":){1,6}:" H16 "|(?:" H16 ":){1,5}(?::" H16
             "){1,2}|(?:" H16 ":){1,4}(?::" H16 "){1,3}|(?:" H16 ":){1,3}(?::" H16 "){1,4}|(?:" H16 ":){1,2}(?::" H16
             "){1,5}|" H16 ":(?::" H16 "){1,6}|:(?::" H16 "){1,7}|::)"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]*://" HOST "(?::\\d{1,5})?(?:/" URI_CHAR "*)*(?:\\?(?:" URI_CHAR
            "|[/?])*)?(?:#(?:" URI_CHAR "|[/?])*)?"},
};

static const char *format_regex(const char *name)
{
    for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0) return formats[i].regex;
    return NULL;
}

uint32_t scalar_string(struct schema *s, const json_t *schema, uint32_t next)
{
    const json_t *pattern = json_object_get(schema, "pattern"), *format = json_object_get(schema, "format");
    const char *regex = format_regex(json_string_value(format));
    char where[SCHEMA_PATH + 64];
    struct regex_use use = {.json = true, .max = UINT32_MAX, .where = where};
    if (format && !json_is_string(format)) return schema_refuse(s, "format", "must be a string");
    if (pattern && !json_is_string(pattern)) return schema_refuse(s, "pattern", "must be a string");
    if (pattern && regex) return schema_refuse(s, "pattern", "not served beside this format");
    if (schema_count(s, schema, "minLength", &use.min) || schema_count(s, schema, "maxLength", &use.max))
        return NODE_FAIL;
    if (!pattern && !regex) return scalar_text(s, use.min, use.max, next);
    snprintf(where, sizeof where, "JSON schema, %s: %s", s->path, pattern ? "pattern" : "format");
    use.search = pattern != NULL;
    size_t len = pattern ? json_string_length(pattern) : strlen(regex);
    uint32_t body =
        net_regex(s->net, pattern ? json_string_value(pattern) : regex, len, &use, net_text(s->net, "\"", 1, next));
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

/* The tighter of two keywords, as a bound; -1: not numbers. sign 1: lower bounds, -1: upper ones. */
static int read_bound(struct schema *s, const json_t *schema, const char *inclusive, const char *exclusive, int sign,
                      struct bound *out)
{
    const json_t *in = json_object_get(schema, inclusive), *ex = json_object_get(schema, exclusive);
    if (in && !json_is_number(in)) return (int)schema_refuse(s, inclusive, "must be a number") - 1;
    if (ex && !json_is_number(ex)) return (int)schema_refuse(s, exclusive, "must be a number") - 1;
    *out = (struct bound){.set = in || ex, .value = json_number_value(in ? in : ex), .exclusive = !in && ex};
    if (in && ex && sign * json_number_value(ex) >= sign * json_number_value(in))
        *out = (struct bound){true, true, json_number_value(ex)};
    return 0;
}

/* A bound as the first integer within it. Beyond 2^53 a double is whole, so what it stands for is taken. */
static int64_t first_integer(struct bound b, int sign)
{
    if (!b.set) return -sign * INT_LIMIT;
    double v = sign > 0 ? ceil(b.value) : floor(b.value);
    if (v >= 1e18) return INT_LIMIT + (sign > 0);
    if (v <= -1e18) return -INT_LIMIT - (sign < 0);
    return (int64_t)v + (b.exclusive && v == b.value ? sign : 0);
}

uint32_t scalar_number(struct schema *s, const json_t *schema, bool integer, uint32_t next)
{
    const json_t *multiple = json_object_get(schema, "multipleOf");
    double m = multiple ? json_number_value(multiple) : 1;
    struct bound lo, hi;
    char where[SCHEMA_PATH + 64];
    if (read_bound(s, schema, "minimum", "exclusiveMinimum", 1, &lo)) return NODE_FAIL;
    if (read_bound(s, schema, "maximum", "exclusiveMaximum", -1, &hi)) return NODE_FAIL;
    if (multiple && (!json_is_number(multiple) || m < 1 || m > MULTIPLE_MAX || m != floor(m)))
        return schema_refuse(s, "multipleOf", "only whole numbers from 1 to 1000 are served");
    if (!multiple && !lo.set && !hi.set) return scalar_any_number(s, integer, next);
    if (integer || multiple) return net_integer(s->net, first_integer(lo, 1), first_integer(hi, -1), (uint32_t)m, next);
    snprintf(where, sizeof where, "JSON schema, %s: minimum, maximum", s->path);
    return net_decimal(s->net, lo, hi, where, next);
}

/* --- listed values --- */

/* Beside enum and const the other keywords would have to be evaluated on each value: only `type` is. */
static bool listed_alone(struct schema *s, const json_t *schema)
{
    static const char *const may[] = {"type", "enum", "const", "nullable"};
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
        if (!schema_kinds_both(schema_kind_of(v), kinds) || (one && !json_equal(v, one))) continue;
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
