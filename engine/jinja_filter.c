/* Filters on texts and single values. Those on lists are in jinja_filter_list.c.
 *
 * Rows of a table with Jinja's parameter names; what a filter has in common with a string's method is that method. tojson is Hugging Face's:
 * json.dumps without escaping HTML and with non-ASCII characters as they are. There is no autoescaping; |safe matters to + alone. Source:
 * Jinja 3's template designer documentation, "List of Builtin Filters". */
#include "base/json.h"
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FROM_JSON_MAX (64 << 10)

/* A string's method on str(self). */
static int by_method(struct run *r, const char *name, const struct val *self, const struct args *a, struct val *out)
{
    struct val s;
    struct args given = *a;
    while (given.npos && given.pos[given.npos - 1].t == V_MISSING) given.npos--;
    return val_call_text(r, self, &s) || run_builtin(r, jinja_find(jinja_string_methods, name, strlen(name)), &s, &given, out) ? -1 : 0;
}

#define METHOD(fn, name) \
    static int fn(struct run *r, const struct val *s, const struct args *a, struct val *o) { return by_method(r, name, s, a, o); }
METHOD(f_trim, "strip")
METHOD(f_upper, "upper")
METHOD(f_lower, "lower")
METHOD(f_capitalize, "capitalize")
METHOD(f_title, "title")

static int f_string(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    (void)a;
    return val_call_text(r, self, out);
}

static int f_replace(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val v[3];
    struct args with = {.pos = v, .npos = arg(a, 2) && arg(a, 2)->t != V_NONE ? 3 : 2};
    if (val_call_text(r, arg(a, 0), &v[0]) || val_call_text(r, arg(a, 1), &v[1])) return -1;
    if (with.npos == 3) v[2] = *arg(a, 2);
    return by_method(r, "replace", self, &with, out);
}

static int f_center(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val width = arg(a, 0) ? *arg(a, 0) : v_int(80);
    struct args with = {.pos = &width, .npos = 1};
    return by_method(r, "center", self, &with, out);
}

static int f_default(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    (void)r;
    bool use = self->t == V_UNDEF || (arg_bool(a, 1, false) && !val_true(self));
    *out = !use ? *self : arg(a, 0) ? *arg(a, 0) : v_str("", 0);
    return 0;
}

static int f_length(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    size_t n = 0;
    (void)a;
    if (val_length(r, self, &n)) return -1;
    *out = v_int((int64_t)n);
    return 0;
}

static int f_safe(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    (void)a;
    if (val_call_text(r, self, out)) return -1;
    out->safe = true;
    return 0;
}

static int f_forceescape(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val s;
    (void)a;
    return val_call_text(r, self, &s) || val_escape(r, &s, out) ? -1 : 0;
}

static int f_escape(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    return self->t == V_STR && self->safe ? f_safe(r, self, a, out) : f_forceescape(r, self, a, out);
}

/* --- lines and words --- */

static int f_indent(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val s, lines, by = v_str("    ", 4), space = v_str(" ", 1);
    struct text t = {0};
    bool first = arg_bool(a, 1, false), blank = arg_bool(a, 2, false);
    struct args none = {0};
    if (val_call_text(r, self, &s)) return -1;
    if (arg(a, 0) && v_is_integer(arg(a, 0)) ? run_binary(r, T_MUL, &space, arg(a, 0), &by) : arg_str(r, a, 0, &by)) return -1;
    if (by_method(r, "splitlines", &s, &none, &lines)) return -1;
    bool open = s.n == 0 || strchr("\n\r\v\f", s.s[s.n - 1]); /* Jinja adds a line end first, so a last one makes an empty line */
    if (first && text_add(r, &t, by.s, by.n)) return -1;
    for (size_t i = 0; i < lines.n + open; i++) {
        struct val line = i < lines.n ? lines.items[i] : v_str("", 0);
        if (i && text_add(r, &t, "\n", 1)) return -1;
        if (i && (line.n || blank) && text_add(r, &t, by.s, by.n)) return -1;
        if (text_add(r, &t, line.s, line.n)) return -1;
    }
    *out = text_val(&t);
    return 0;
}

static bool word_char(uint32_t cp)
{
    return cp == '_' || utf8_is_alpha(cp) || utf8_is_digit(cp);
}

static int f_wordcount(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val s;
    int64_t n = 0;
    bool inside = false;
    (void)a;
    if (val_call_text(r, self, &s)) return -1;
    for (size_t at = 0; at < s.n;) {
        uint32_t cp = 0;
        int len = utf8_decode(s.s + at, s.n - at, &cp);
        n += word_char(cp) && !inside;
        inside = word_char(cp);
        at += len > 0 ? (size_t)len : 1;
    }
    *out = v_int(n);
    return run_step(r, (int64_t)(s.n / 64));
}

static int f_truncate(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val s, end = v_str("...", 3), bound[3] = {v_none(), v_none(), v_none()}, cut, parts;
    int64_t length = 255, leeway = 5;
    size_t n = 0, n_end = 0;
    if (val_call_text(r, self, &s) || arg_int(r, a, 0, &length) || arg_str(r, a, 2, &end) || arg_int(r, a, 3, &leeway) || val_length(r, &s, &n) ||
        val_length(r, &end, &n_end))
        return -1;
    if (length < (int64_t)n_end) return run_fail(r, "expected length >= %zu, got %lld", n_end, (long long)length);
    *out = s;
    if ((int64_t)n <= length + leeway) return 0;
    bound[1] = v_int(length - (int64_t)n_end);
    if (run_slice(r, &s, bound, &cut)) return -1;
    if (!arg_bool(a, 1, false)) {
        struct val how[2] = {v_str(" ", 1), v_int(1)};
        struct args with = {.pos = how, .npos = 2};
        if (by_method(r, "rsplit", &cut, &with, &parts)) return -1;
        cut = parts.items[0];
    }
    return run_binary(r, T_ADD, &cut, &end, out);
}

static int f_urlencode(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val s;
    struct text t = {0};
    (void)a;
    if (self->t == V_DICT || self->t == V_LIST) return run_fail(r, "urlencode of a %s is not served", val_type(self));
    if (val_call_text(r, self, &s)) return -1;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.s[i], o[4];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("_.-~/", c));
        snprintf(o, sizeof o, "%%%02X", (uint8_t)c);
        if (plain ? text_add(r, &t, &c, 1) : text_add(r, &t, o, 3)) return -1;
    }
    *out = text_val(&t);
    return 0;
}

/* --- numbers --- */

static int f_abs(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val zero = v_int(0);
    (void)a;
    if (!v_is_number(self)) return run_fail(r, "bad operand type for abs(): '%s'", val_type(self));
    *out = self->t == V_FLOAT ? v_float(fabs(self->f)) : v_int(v_integer(self));
    return self->t != V_FLOAT && v_integer(self) < 0 ? run_binary(r, T_SUB, &zero, self, out) : 0;
}

static int f_round(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    int64_t places = 0;
    struct val how = v_str("common", 6);
    char s[400];
    if (!v_is_number(self)) return run_fail(r, "a number is needed to round, not %s", val_type(self));
    if (arg_int(r, a, 0, &places) || arg_str(r, a, 1, &how)) return -1;
    if (places < -20 || places > 20) return run_fail(r, "rounding to %lld places is not served", (long long)places);
    if (self->t != V_FLOAT && v_is(&how, "common") && places >= 0) {
        *out = *self;
        return 0;
    }
    double f = v_number(self), ten = pow(10, (double)places);
    if (v_is(&how, "ceil")) *out = v_float(ceil(f * ten) / ten);
    else if (v_is(&how, "floor")) *out = v_float(floor(f * ten) / ten);
    else if (!v_is(&how, "common")) return run_fail(r, "method must be common, ceil or floor");
    else if (places < 0) *out = v_float(nearbyint(f * ten) / ten);
    else {
        snprintf(s, sizeof s, "%.*f", (int)places, f); /* correctly rounded, as Python's round() is */
        *out = v_float(strtod(s, NULL));
    }
    return 0;
}

static bool parse_int(const struct val *s, int64_t base, int64_t *out)
{
    char o[80], *end;
    size_t n = 0;
    const char *p = s->s, *stop = s->s + s->n;
    while (p < stop && strchr(" \t\n\r", *p)) p++;
    while (stop > p && strchr(" \t\n\r", stop[-1])) stop--;
    for (; p < stop && n + 1 < sizeof o; p++)
        if (*p != '_') o[n++] = *p;
    o[n] = 0;
    if (!n || p < stop) return false;
    *out = strtoll(o, &end, (int)base);
    return !*end;
}

static bool parse_float(const struct val *s, double *out)
{
    char o[80], *end;
    if (s->n == 0 || s->n >= sizeof o || memchr(s->s, 'x', s->n) || memchr(s->s, 'X', s->n)) return false;
    memcpy(o, s->s, s->n);
    o[s->n] = 0;
    *out = strtod(o, &end);
    while (*end == ' ' || *end == '\n' || *end == '\t') end++;
    return end != o && !*end;
}

static int f_int(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val otherwise = arg(a, 0) ? *arg(a, 0) : v_int(0);
    int64_t base = 10, i;
    double f = self->t == V_FLOAT ? self->f : 0;
    if (arg_int(r, a, 1, &base)) return -1;
    *out = otherwise;
    if (v_is_integer(self)) *out = v_int(v_integer(self));
    else if (self->t == V_STR && base >= 2 && base <= 36 && parse_int(self, base, &i)) *out = v_int(i);
    else if (self->t == V_FLOAT || (self->t == V_STR && parse_float(self, &f)))
        if (f > -9.2e18 && f < 9.2e18) *out = v_int((int64_t)f);
    return 0;
}

static int f_float(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    double f;
    (void)r;
    *out = arg(a, 0) ? *arg(a, 0) : v_float(0);
    if (v_is_number(self)) *out = v_float(v_number(self));
    else if (self->t == V_STR && parse_float(self, &f)) *out = v_float(f);
    return 0;
}

/* --- JSON --- */

static int f_tojson(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct json_style s = {.indent = -1, .ascii = arg_bool(a, 0, false), .sorted = arg_bool(a, 3, false)};
    struct text t = {0};
    int64_t indent = -1;
    const struct val *sep = arg(a, 2);
    if (arg(a, 1) && arg(a, 1)->t != V_NONE && arg_int(r, a, 1, &indent)) return -1;
    if (indent > 64) return run_fail(r, "an indent of %lld is too large", (long long)indent);
    s.indent = (int)(indent < 0 ? -1 : indent);
    s.item = indent < 0 ? v_str(", ", 2) : v_str(",", 1);
    s.key = v_str(": ", 2);
    if (sep && sep->t != V_NONE) {
        bool pair = (sep->t == V_LIST || sep->t == V_TUPLE) && sep->n == 2 && sep->items[0].t == V_STR && sep->items[1].t == V_STR;
        if (!pair) return run_fail(r, "separators must be two strings");
        s.item = sep->items[0];
        s.key = sep->items[1];
    }
    if (print_json(r, &t, self, &s, 0)) return -1;
    *out = text_val(&t);
    return 0;
}

/* llama.cpp's, which some published templates call on the arguments of a tool call. */
static int f_from_json(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    json_error_t je;
    (void)a;
    if (self->t != V_STR) return run_fail(r, "the JSON object must be str, not %s", val_type(self));
    if (self->n > FROM_JSON_MAX) return run_fail(r, "%zu bytes of JSON, at most %d are read", self->n, FROM_JSON_MAX);
    json_t *j = json_load(self->s, self->n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!j) return run_fail(r, "not JSON: %.100s", je.text);
    r->copy_json = true;
    int rc = val_from_json(r, j, 0, out);
    r->copy_json = false;
    json_decref(j);
    return rc;
}

static int f_format(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val s, with = v_items(V_TUPLE, a->pos, (size_t)a->npos);
    if (a->nkw) return run_fail(r, "format with names is not served");
    return val_call_text(r, self, &s) || run_percent(r, &s, &with, out) ? -1 : 0;
}

static int f_attr(struct run *r, const struct val *self, const struct args *a, struct val *out)
{
    struct val name = v_none();
    if (arg_str(r, a, 0, &name)) return -1;
    if (self->t == V_DICT && !jinja_find(jinja_dict_methods, name.s, name.n)) { /* attributes only, never items */
        *out = v_undef(name.s, name.n);
        return 0;
    }
    return run_attr(r, self, name.s, name.n, out);
}

const struct builtin jinja_text_filters[] = {
    {"trim", f_trim, "chars", 0},
    {"upper", f_upper, "", 0},
    {"lower", f_lower, "", 0},
    {"capitalize", f_capitalize, "", 0},
    {"title", f_title, "", 0},
    {"string", f_string, "", 0},
    {"replace", f_replace, "old new count", 2},
    {"center", f_center, "width", 0},
    {"default", f_default, "default_value boolean", 0},
    {"d", f_default, "default_value boolean", 0},
    {"length", f_length, "", 0},
    {"count", f_length, "", 0},
    {"safe", f_safe, "", 0},
    {"escape", f_escape, "", 0},
    {"e", f_escape, "", 0},
    {"forceescape", f_forceescape, "", 0},
    {"indent", f_indent, "width first blank", 0},
    {"wordcount", f_wordcount, "", 0},
    {"truncate", f_truncate, "length killwords end leeway", 0},
    {"urlencode", f_urlencode, "", 0},
    {"abs", f_abs, "", 0},
    {"round", f_round, "precision method", 0},
    {"int", f_int, "default base", 0},
    {"float", f_float, "default", 0},
    {"tojson", f_tojson, "ensure_ascii indent separators sort_keys", 0},
    {"from_json", f_from_json, "", 0},
    {"format", f_format, "*", 0},
    {"attr", f_attr, "name", 1},
    {0},
};
