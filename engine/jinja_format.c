/* Formatting: "%s is %d" % (...) and "{} {name:>8}".format(...), the parts of Python's two languages that templates write.
 *
 * Served: %% %s %r %d %i %f %e %g %x %X %o %c with - + 0 space # and width and precision; {} {0} {name} {0.attr} {x[key]} with !s !r and a
 * specification of fill, alignment, sign, 0, width, "," and precision for strings and numbers. Anything else is an error that says so. */
#include "base/buf.h"
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH_MAX 10000
#define PRECISION_MAX 60

struct spec {
    char fill[4];
    int nfill;
    char align, sign; /* '<' '>' '^' '=' or 0; '+' ' ' or 0 */
    bool alt, comma;
    int width, precision; /* precision -1: none */
    char type;            /* 0: by the value */
};

/* --- one value --- */

static int pad(struct run *r, struct text *t, const struct spec *s, const struct val *v, int sign)
{
    int chars = (int)buf_characters(v->s, v->n), lack = s->width > chars ? s->width - chars : 0;
    int left = s->align == '>' ? lack : s->align == '^' ? lack / 2 : 0, inside = s->align == '=' ? lack : 0;
    for (int i = 0; i < left; i++)
        if (text_add(r, t, s->fill, (size_t)s->nfill)) return -1;
    if (text_add(r, t, v->s, (size_t)sign)) return -1;
    for (int i = 0; i < inside; i++)
        if (text_add(r, t, s->fill, (size_t)s->nfill)) return -1;
    if (text_add(r, t, v->s + sign, v->n - (size_t)sign)) return -1;
    for (int i = left + inside; i < lack; i++)
        if (text_add(r, t, s->fill, (size_t)s->nfill)) return -1;
    return 0;
}

/* Puts a comma between each three digits before the point. */
static void add_commas(char *s, size_t room)
{
    size_t from = *s == '-' || *s == '+' || *s == ' ', digits = strspn(s + from, "0123456789"), n = strlen(s);
    for (size_t at = from + digits; digits > 3 && n + 2 < room; digits -= 3) {
        at -= 3;
        memmove(s + at + 1, s + at, n - at + 1);
        s[at] = ',';
        n++;
    }
}

static int format_number(struct run *r, struct text *t, const struct spec *s, const struct val *v)
{
    char o[512], f[16];
    bool real = v->t == V_FLOAT || (s->type && strchr("eEfFgG%", s->type));
    size_t n = 0;
    if (s->sign && !(v_number(v) < 0)) o[n++] = s->sign;
    if (real && !s->type && s->precision < 0) {
        n += print_float(v_number(v), o + n);
        o[n] = 0;
    } else if (real) {
        snprintf(f, sizeof f, "%%.*%c%s", s->type == '%' ? 'f' : s->type ? s->type : 'g', s->type == '%' ? "%%" : "");
        snprintf(o + n, sizeof o - n, f, s->precision < 0 ? 6 : s->precision, v_number(v) * (s->type == '%' ? 100 : 1));
    } else {
        int64_t i = v_integer(v);
        uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
        const char *prefix = !s->alt ? "" : s->type == 'x' ? "0x" : s->type == 'X' ? "0X" : s->type == 'o' ? "0o" : "";
        snprintf(f, sizeof f, "%%s%%s%%ll%c", s->type == 'x' || s->type == 'X' || s->type == 'o' ? s->type : 'u');
        snprintf(o + n, sizeof o - n, f, i < 0 ? "-" : "", prefix, (unsigned long long)u);
    }
    if (s->comma) add_commas(o, sizeof o);
    struct val text = v_cstr(o);
    struct spec with = *s;
    if (!with.align) with.align = '>';
    return pad(r, t, &with, &text, *o == '-' || *o == '+' || *o == ' ');
}

static int format_text(struct run *r, struct text *t, const struct spec *s, const struct val *v)
{
    struct val text = *v, none[3] = {v_none(), v_int(s->precision), v_none()};
    struct spec with = *s;
    if (s->precision >= 0 && run_slice(r, v, none, &text)) return -1;
    if (!with.align || with.align == '=') with.align = '<';
    return pad(r, t, &with, &text, 0);
}

static bool width_fits(const struct spec *s)
{
    return s->width <= WIDTH_MAX && s->precision <= PRECISION_MAX;
}

/* Digits at *p, at most a million. */
static int read_int(const char **p, const char *end)
{
    int n = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++)
        if (n < 1000000) n = n * 10 + (**p - '0');
    return n;
}

/* --- "%s" % --- */

struct percent {
    const struct val *items; /* of a tuple; one value otherwise */
    size_t n, used;
    const struct val *dict; /* %(name)s */
};

static int percent_value(struct run *r, struct percent *a, const char **p, const char *end, struct val *out)
{
    if (*p < end && **p == '(' && a->dict) {
        const char *close = memchr(*p, ')', (size_t)(end - *p));
        const struct val *found;
        if (!close) return run_fail(r, "incomplete format key");
        struct val key = v_str(*p + 1, (size_t)(close - *p - 1));
        if (val_get(r, a->dict, &key, &found)) return -1;
        if (!found) return run_fail(r, "the format's key is not in the dict");
        *out = *found;
        a->used = a->n;
        *p = close + 1;
        return 0;
    }
    out->t = V_MISSING;
    return 0;
}

static void percent_flags(struct spec *s, const char **p, const char *end)
{
    for (; *p < end && strchr("-+ 0#", **p); (*p)++) {
        if (**p == '-') s->align = '<';
        else if (**p == '0') s->fill[0] = '0';
        else if (**p == '#') s->alt = true;
        else s->sign = **p;
    }
    if (s->fill[0] == '0' && s->align == '<') s->fill[0] = ' ';
    else if (s->fill[0] == '0') s->align = '=';
    else if (!s->align) s->align = '>';
}

static int percent_one(struct run *r, struct text *t, struct spec *s, const struct val *v)
{
    struct val text;
    struct text quoted = {0};
    if (!width_fits(s)) return run_fail(r, "the format's width is too large");
    if (s->type == 's' || s->type == 'r') {
        if (s->type == 'r' ? print_repr(r, &quoted, v, 0) : val_call_text(r, v, &text)) return -1;
        if (s->type == 'r') text = text_val(&quoted);
        s->fill[0] = ' ';
        if (s->align == '=') s->align = '>';
        return format_text(r, t, s, &text);
    }
    if (!strchr("dixXofFeEgG", s->type)) return run_fail(r, "the format character '%c' is not served", s->type);
    if (!v_is_number(v)) return run_fail(r, "%%%c format: a number is required, not %s", s->type, val_type(v));
    struct val whole = *v;
    if (strchr("dixXo", s->type) && v->t == V_FLOAT) {
        if (!(v->f > -9e18 && v->f < 9e18)) return run_fail(r, "a number is too large");
        whole = v_int((int64_t)v->f);
    }
    if (s->type == 'i') s->type = 'd';
    return format_number(r, t, s, &whole);
}

static int percent_spec(struct run *r, struct text *t, struct percent *a, const char **p, const char *end)
{
    struct spec s = {.fill = " ", .nfill = 1, .precision = -1};
    struct val v;
    if (percent_value(r, a, p, end, &v)) return -1;
    percent_flags(&s, p, end);
    s.width = read_int(p, end);
    if (*p < end && **p == '.') {
        (*p)++;
        s.precision = read_int(p, end);
    }
    if (*p >= end) return run_fail(r, "incomplete format");
    s.type = *(*p)++;
    if (s.type == '%') return text_add(r, t, "%", 1);
    if (v.t == V_MISSING) {
        if (a->used >= a->n) return run_fail(r, "not enough arguments for format string");
        v = a->items[a->used++];
    }
    return percent_one(r, t, &s, &v);
}

int run_percent(struct run *r, const struct val *format, const struct val *with, struct val *out)
{
    struct percent a = {.items = with, .n = 1};
    struct text t = {0};
    const char *p = format->s, *end = p + format->n;
    if (with->t == V_TUPLE) a.items = with->items, a.n = with->n;
    if (with->t == V_DICT) a.dict = with;
    while (p < end) {
        const char *q = memchr(p, '%', (size_t)(end - p));
        if (text_add(r, &t, p, (size_t)((q ? q : end) - p))) return -1;
        if (!q) break;
        p = q + 1;
        if (percent_spec(r, &t, &a, &p, end)) return -1;
    }
    if (a.used < a.n && !a.dict) return run_fail(r, "not all arguments converted during string formatting");
    *out = text_val(&t);
    return 0;
}

/* --- "{}".format() --- */

static bool is_align(char c)
{
    return c == '<' || c == '>' || c == '^' || c == '=';
}

static int read_spec(struct run *r, const char *p, const char *end, struct spec *s)
{
    uint32_t cp;
    int len = utf8_decode(p, (size_t)(end - p), &cp);
    if (len > 0 && p + len < end && is_align(p[len])) {
        memcpy(s->fill, p, (size_t)len);
        s->nfill = len;
        p += len;
    }
    if (p < end && is_align(*p)) s->align = *p++;
    if (p < end && strchr("+- ", *p)) s->sign = *p++;
    if (s->sign == '-') s->sign = 0;
    if (p < end && *p == '#') s->alt = *p++;
    if (p < end && *p == '0') {
        if (!s->align) s->align = '=', s->fill[0] = '0', s->nfill = 1;
        p++;
    }
    s->width = read_int(&p, end);
    if (p < end && *p == ',') s->comma = *p++;
    if (p < end && *p == '.') {
        p++;
        s->precision = read_int(&p, end);
    }
    if (p < end) s->type = *p++;
    if (p != end || !width_fits(s)) return run_fail(r, "a format specification that is not served");
    return 0;
}

static int format_spec(struct run *r, struct text *t, const struct val *v, const char *p, const char *end)
{
    struct spec s = {.fill = " ", .nfill = 1, .precision = -1};
    struct val text;
    if (read_spec(r, p, end, &s)) return -1;
    if (v->t == V_STR && (s.type == 0 || s.type == 's')) return format_text(r, t, &s, v);
    if (v_is_number(v) && s.type == 'd') s.type = v->t == V_FLOAT ? '?' : 'd';
    if (v_is_number(v) && (s.type == 0 || strchr("dxXofFeEgG%", s.type)) && (v->t != V_BOOL || s.type)) return format_number(r, t, &s, v);
    if (p < end) return run_fail(r, "unsupported format for a %s", val_type(v));
    return val_call_text(r, v, &text) || text_add(r, t, text.s, text.n) ? -1 : 0;
}

struct braces {
    const struct args *a;
    int next;
};

static const char *part_end(const char *p, const char *end)
{
    while (p < end && *p != '.' && *p != '[') p++;
    return p;
}

static bool all_digits(const char *p, const char *end)
{
    for (const char *q = p; q < end; q++)
        if (*q < '0' || *q > '9') return false;
    return p < end;
}

/* The first part of a field's name. */
static int field_root(struct run *r, struct braces *b, const char *p, const char *end, struct val *out)
{
    if (p == end || all_digits(p, end)) {
        int i = p == end ? b->next++ : read_int(&p, end);
        if (i >= b->a->npos) return run_fail(r, "Replacement index %d out of range for positional args tuple", i);
        *out = b->a->pos[i];
        return 0;
    }
    for (int i = 0; i < b->a->nkw; i++)
        if (strlen(b->a->kw[i].name) == (size_t)(end - p) && !memcmp(b->a->kw[i].name, p, (size_t)(end - p))) {
            *out = b->a->kw[i].v;
            return 0;
        }
    return run_fail(r, "format() got no argument '%.*s'", (int)(end - p < 60 ? end - p : 60), p);
}

static int field_value(struct run *r, struct braces *b, const char *p, const char *end, struct val *out)
{
    const char *q = part_end(p, end);
    struct val of, key;
    if (field_root(r, b, p, q, out)) return -1;
    while (q < end) {
        of = *out;
        p = q + 1;
        if (*q == '.') {
            q = part_end(p, end);
            if (run_attr(r, &of, p, (size_t)(q - p), out)) return -1;
            continue;
        }
        const char *close = memchr(p, ']', (size_t)(end - p)), *digits = p;
        if (!close) return run_fail(r, "Missing ']' in format string");
        key = all_digits(p, close) ? v_int(read_int(&digits, close)) : v_str(p, (size_t)(close - p));
        if (run_item(r, &of, &key, out)) return -1;
        q = close + 1;
    }
    return 0;
}

static int format_field(struct run *r, struct text *t, struct braces *b, const char *p, const char *end)
{
    const char *colon = memchr(p, ':', (size_t)(end - p)), *name_end = colon ? colon : end;
    const char *bang = memchr(p, '!', (size_t)(name_end - p));
    struct text quoted = {0};
    struct val v;
    if (memchr(p, '{', (size_t)(end - p))) return run_fail(r, "nested format fields are not served");
    if (field_value(r, b, p, bang ? bang : name_end, &v)) return -1;
    if (bang && (name_end - bang != 2 || !strchr("sr", bang[1]))) return run_fail(r, "a conversion that is not served");
    if (bang && (bang[1] == 'r' ? print_repr(r, &quoted, &v, 0) : print_str(r, &quoted, &v))) return -1;
    if (bang) v = text_val(&quoted);
    return format_spec(r, t, &v, colon ? colon + 1 : end, end);
}

int run_format(struct run *r, const struct val *format, const struct args *a, struct val *out)
{
    struct braces b = {a, 0};
    struct text t = {0};
    const char *p = format->s, *end = p + format->n;
    for (; p < end; p++) {
        if (*p != '{' && *p != '}') {
            if (text_add(r, &t, p, 1)) return -1;
        } else if (p + 1 < end && p[1] == *p) {
            if (text_add(r, &t, p++, 1)) return -1;
        } else {
            const char *close = *p == '{' ? memchr(p, '}', (size_t)(end - p)) : NULL;
            if (!close) return run_fail(r, "Single '%c' encountered in format string", *p);
            if (format_field(r, &t, &b, p + 1, close)) return -1;
            p = close;
        }
    }
    *out = text_val(&t);
    return 0;
}
