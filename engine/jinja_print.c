/* How values look: Python's str() and repr(), and json.dumps() for the tojson filter.
 *
 * A template that prints a list, a float or None expects Python's spelling, since it was written against it and the model was trained
 * on it: 1e+16, 0.1, 'it"s', True. Floats take the fewest digits that read back as the same number. */
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_FIRST 128

int text_add(struct run *r, struct text *t, const char *s, size_t n)
{
    if (t->cap - t->n < n) {
        size_t cap = t->cap ? t->cap : TEXT_FIRST;
        if (n > JINJA_OUTPUT_MAX || t->n + n > JINJA_OUTPUT_MAX) return run_fail(r, "a text grows beyond %u bytes", JINJA_OUTPUT_MAX);
        while (cap < t->n + n) cap *= 2;
        char *p = run_alloc(r, cap);
        if (!p) return -1;
        if (t->n) memcpy(p, t->p, t->n);
        t->p = p;
        t->cap = cap;
    }
    if (n) memcpy(t->p + t->n, s, n);
    t->n += n;
    return run_step(r, (int64_t)(n / 256));
}

static int adds(struct run *r, struct text *t, const char *s)
{
    return text_add(r, t, s, strlen(s));
}

/* --- numbers --- */

/* Digits and exponent of the shortest form: d.ddd x 10^exp. */
static int shortest(double f, char digits[24], int *exp)
{
    char s[40];
    int n = 0;
    for (int prec = 0; prec < 17; prec++) {
        snprintf(s, sizeof s, "%.*e", prec, f);
        if (strtod(s, NULL) == f) break;
    }
    const char *e = strchr(s, 'e');
    for (const char *p = s; p < e; p++)
        if (*p != '.') digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0') n--;
    digits[n] = 0;
    *exp = (int)strtol(e + 1, NULL, 10);
    return n;
}

size_t print_float(double f, char out[40])
{
    char d[24];
    int exp, n, at = 0;
    if (isnan(f)) return (size_t)snprintf(out, 40, "nan");
    if (isinf(f)) return (size_t)snprintf(out, 40, f < 0 ? "-inf" : "inf");
    if (signbit(f)) out[at++] = '-';
    n = shortest(fabs(f), d, &exp);
    if (exp < -4 || exp >= 16) {
        at += snprintf(out + at, 40 - (size_t)at, "%c%s%se%c%02d", d[0], n > 1 ? "." : "", d + 1, exp < 0 ? '-' : '+', abs(exp));
        return (size_t)at;
    }
    if (exp < 0) {
        at += snprintf(out + at, 40 - (size_t)at, "0.%.*s%s", -exp - 1, "0000", d);
        return (size_t)at;
    }
    for (int i = 0; i <= exp; i++) out[at++] = i < n ? d[i] : '0';
    at += snprintf(out + at, 40 - (size_t)at, ".%s", n > exp + 1 ? d + exp + 1 : "0");
    return (size_t)at;
}

static int print_number(struct run *r, struct text *t, const struct val *v)
{
    char s[40];
    size_t n = v->t == V_FLOAT ? print_float(v->f, s) : (size_t)snprintf(s, sizeof s, "%lld", (long long)v->i);
    return text_add(r, t, s, n);
}

/* --- repr --- */

static int repr_char(struct run *r, struct text *t, const char *s, int len, uint32_t cp, char quote)
{
    char o[12];
    const char *simple = cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : cp == '\t' ? "\\t" : cp == '\\' ? "\\\\" : NULL;
    if (simple) return adds(r, t, simple);
    if (cp == (uint32_t)quote) return text_add(r, t, "\\", 1) || text_add(r, t, s, 1) ? -1 : 0;
    if (utf8_is_printable(cp)) return text_add(r, t, s, (size_t)len);
    snprintf(o, sizeof o, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    return adds(r, t, o);
}

static int repr_string(struct run *r, struct text *t, const struct val *v)
{
    char quote = memchr(v->s, '\'', v->n) && !memchr(v->s, '"', v->n) ? '"' : '\'';
    if (text_add(r, t, &quote, 1)) return -1;
    for (size_t at = 0; at < v->n;) {
        uint32_t cp;
        int len = utf8_decode(v->s + at, v->n - at, &cp);
        if (len <= 0 || repr_char(r, t, v->s + at, len, cp, quote)) return -1;
        at += (size_t)len;
    }
    return text_add(r, t, &quote, 1);
}

static int repr_items(struct run *r, struct text *t, const struct val *v, int depth)
{
    bool tuple = v->t == V_TUPLE;
    if (adds(r, t, tuple ? "(" : "[")) return -1;
    for (size_t i = 0; i < v->n; i++)
        if ((i && adds(r, t, ", ")) || print_repr(r, t, &v->items[i], depth)) return -1;
    return adds(r, t, tuple ? (v->n == 1 ? ",)" : ")") : "]");
}

static int repr_dict(struct run *r, struct text *t, const struct val *v, int depth)
{
    if (adds(r, t, "{")) return -1;
    for (size_t i = 0; i < v->n; i++)
        if ((i && adds(r, t, ", ")) || print_repr(r, t, &v->pairs[i].k, depth) || adds(r, t, ": ") ||
            print_repr(r, t, &v->pairs[i].v, depth))
            return -1;
    return adds(r, t, "}");
}

int print_repr(struct run *r, struct text *t, const struct val *v, int depth)
{
    if (depth > JINJA_VALUE_DEPTH) return run_fail(r, "values are nested too deeply to print");
    if (run_step(r, 1)) return -1;
    switch (v->t) {
    case V_UNDEF: return adds(r, t, "Undefined");
    case V_NONE: return adds(r, t, "None");
    case V_BOOL: return adds(r, t, v->b ? "True" : "False");
    case V_INT:
    case V_FLOAT: return print_number(r, t, v);
    case V_STR: return repr_string(r, t, v);
    case V_LIST:
    case V_TUPLE: return repr_items(r, t, v, depth + 1);
    case V_DICT: return repr_dict(r, t, v, depth + 1);
    default: return run_fail(r, "a %s can't be printed", val_type(v));
    }
}

int print_str(struct run *r, struct text *t, const struct val *v)
{
    if (v->t == V_STR) return text_add(r, t, v->s, v->n);
    return v->t == V_UNDEF ? 0 : print_repr(r, t, v, 0);
}

/* --- JSON --- */

static int json_char(struct run *r, struct text *t, const char *s, int len, uint32_t cp, bool ascii)
{
    static const char simple[] = "\"\\\n\r\t\b\f", letters[] = "\"\\nrtbf";
    char o[16];
    const char *k = cp && cp < 128 ? strchr(simple, (int)cp) : NULL;
    if (k) {
        o[0] = '\\';
        o[1] = letters[k - simple];
        return text_add(r, t, o, 2);
    }
    if (cp >= 0x20 && (cp < 0x7f || !ascii)) return text_add(r, t, s, (size_t)len);
    if (cp < 0x10000) snprintf(o, sizeof o, "\\u%04x", cp);
    else snprintf(o, sizeof o, "\\u%04x\\u%04x", 0xd7c0 + (cp >> 10), 0xdc00 + (cp & 0x3ff));
    return adds(r, t, o);
}

static int json_quoted(struct run *r, struct text *t, const struct val *v, bool ascii)
{
    if (adds(r, t, "\"")) return -1;
    for (size_t at = 0; at < v->n;) {
        uint32_t cp;
        int len = utf8_decode(v->s + at, v->n - at, &cp);
        if (len <= 0 || json_char(r, t, v->s + at, len, cp, ascii)) return -1;
        at += (size_t)len;
    }
    return adds(r, t, "\"");
}

static int json_break(struct run *r, struct text *t, const struct json_style *s, int depth)
{
    if (s->indent < 0) return 0;
    if (adds(r, t, "\n")) return -1;
    for (int i = 0; i < depth * s->indent; i++)
        if (adds(r, t, " ")) return -1;
    return 0;
}

static int json_array_out(struct run *r, struct text *t, const struct val *v, const struct json_style *s, int depth)
{
    if (v->n == 0) return adds(r, t, "[]");
    if (adds(r, t, "[")) return -1;
    for (size_t i = 0; i < v->n; i++)
        if ((i && text_add(r, t, s->item.s, s->item.n)) || json_break(r, t, s, depth + 1) || print_json(r, t, &v->items[i], s, depth + 1))
            return -1;
    return json_break(r, t, s, depth) || adds(r, t, "]") ? -1 : 0;
}

/* Keys are strings; numbers, bools and None are spelled as JSON does, in quotes. */
static int json_key(struct run *r, struct text *t, const struct val *k, const struct json_style *s)
{
    if (k->t == V_STR) return json_quoted(r, t, k, s->ascii);
    if (!v_is_number(k) && k->t != V_NONE) return run_fail(r, "keys must be str, int, float, bool or None, not %s", val_type(k));
    return adds(r, t, "\"") || print_json(r, t, k, s, 0) || adds(r, t, "\"") ? -1 : 0;
}

static int compare_keys(const void *a, const void *b)
{
    const struct val *x = &((const struct dict_pair *)a)->k, *y = &((const struct dict_pair *)b)->k;
    size_t n = x->n < y->n ? x->n : y->n;
    int c = memcmp(x->s, y->s, n);
    return c ? c : (x->n > y->n) - (x->n < y->n);
}

static const struct dict_pair *sorted_pairs(struct run *r, const struct val *v)
{
    struct dict_pair *p = run_alloc(r, (v->n + 1) * sizeof *p);
    for (size_t i = 0; p && i < v->n; i++) {
        p[i] = v->pairs[i];
        if (p[i].k.t != V_STR) {
            run_fail(r, "only dicts with string keys can be sorted");
            return NULL;
        }
    }
    if (p) qsort(p, v->n, sizeof *p, compare_keys);
    return p;
}

static int json_object_out(struct run *r, struct text *t, const struct val *v, const struct json_style *s, int depth)
{
    const struct dict_pair *p = s->sorted ? sorted_pairs(r, v) : v->pairs;
    if (v->n == 0) return adds(r, t, "{}");
    if (!p || adds(r, t, "{")) return -1;
    for (size_t i = 0; i < v->n; i++)
        if ((i && text_add(r, t, s->item.s, s->item.n)) || json_break(r, t, s, depth + 1) || json_key(r, t, &p[i].k, s) ||
            text_add(r, t, s->key.s, s->key.n) || print_json(r, t, &p[i].v, s, depth + 1))
            return -1;
    return json_break(r, t, s, depth) || adds(r, t, "}") ? -1 : 0;
}

static int json_number(struct run *r, struct text *t, const struct val *v)
{
    if (v->t == V_FLOAT && !isfinite(v->f)) return adds(r, t, isnan(v->f) ? "NaN" : v->f < 0 ? "-Infinity" : "Infinity");
    return print_number(r, t, v);
}

int print_json(struct run *r, struct text *t, const struct val *v, const struct json_style *s, int depth)
{
    if (depth > JINJA_VALUE_DEPTH) return run_fail(r, "values are nested too deeply for JSON");
    if (run_step(r, 1)) return -1;
    switch (v->t) {
    case V_NONE: return adds(r, t, "null");
    case V_BOOL: return adds(r, t, v->b ? "true" : "false");
    case V_INT:
    case V_FLOAT: return json_number(r, t, v);
    case V_STR: return json_quoted(r, t, v, s->ascii);
    case V_LIST:
    case V_TUPLE: return json_array_out(r, t, v, s, depth);
    case V_DICT: return json_object_out(r, t, v, s, depth);
    default: return run_fail(r, "Object of type %s is not JSON serializable", val_type(v));
    }
}
