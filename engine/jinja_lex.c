/* Lexer: a template's source -> tokens.
 *
 * Outside of tags there is text; what white space of it is kept is decided here, as Jinja's lexer does with trim_blocks and
 * lstrip_blocks on:
 *   - "-" inside a tag's bracket strips all white space on that side, "+" keeps it as it stands;
 *   - otherwise a block's or comment's tag at the beginning of a line loses the white space before it, and the one line end
 *     after it is dropped. {{ }} keeps both.
 * Line ends are made "\n" first and the last one of the source is dropped. A closing bracket ends a tag only where no brace of an
 * expression is open, so {{ {'a': {}} }} is read as meant.
 *
 * Called at load; all memory is the template's arena's. */
#include "engine/jinja.h"
#include "engine/tokenizer_utf8.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BRACES_MAX 128

struct lexer {
    struct jinja *j;
    const char *s, *end; /* here, the end of the source */
    int line;
    bool line_start; /* the last tag ended with a line end, or nothing was read yet */
    struct token *tokens;
    size_t n, cap;
    char braces[BRACES_MAX]; /* the closing brackets that are waited for */
    int nbraces;
    struct err *e;
};

static int fail(struct lexer *l, const char *what)
{
    return err_set(l->e, ERR_MODEL, "line %d: %s", l->line, what);
}

static struct token *add(struct lexer *l, enum tok t)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        struct token *p = arena_alloc(l->j->arena, cap * sizeof *p);
        if (!p) {
            fail(l, "the template is too large");
            return NULL;
        }
        if (l->n) memcpy(p, l->tokens, l->n * sizeof *p);
        l->tokens = p;
        l->cap = cap;
    }
    l->tokens[l->n] = (struct token){.t = t, .line = l->line};
    return &l->tokens[l->n++];
}

static void skip_to(struct lexer *l, const char *to)
{
    for (; l->s < to; l->s++) l->line += *l->s == '\n';
}

static bool at(const struct lexer *l, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(l->end - l->s) >= n && !memcmp(l->s, text, n);
}

/* The length of the white space character at s, or 0. */
static int space_at(const char *s, const char *end)
{
    uint32_t cp;
    int n = utf8_decode(s, (size_t)(end - s), &cp);
    return n > 0 && utf8_is_space(cp) ? n : 0;
}

static const char *skip_space(const char *s, const char *end)
{
    for (int n; s < end && (n = space_at(s, end)); s += n) {}
    return s;
}

/* The end of s..end without the white space at its end. */
static const char *strip_end(const char *s, const char *end)
{
    while (end > s) {
        const char *c = end - 1;
        while (c > s && ((uint8_t)*c & 0xc0) == 0x80) c--;
        if (!space_at(c, end)) break;
        end = c;
    }
    return end;
}

/* --- text between tags --- */

/* Text before a tag whose sign is '-', '+' or 0; `lstrip`: the tag is a block or a comment. */
static int add_text(struct lexer *l, const char *to, char sign, bool lstrip)
{
    const char *from = l->s, *keep = to;
    int line = l->line;
    if (sign == '-') {
        keep = strip_end(from, to);
    } else if (sign != '+' && lstrip) {
        const char *begin = to;
        while (begin > from && begin[-1] != '\n') begin--;
        if ((begin > from || l->line_start) && skip_space(begin, to) == to) keep = begin;
    }
    skip_to(l, to);
    if (keep == from) return 0;
    struct token *t = add(l, T_DATA);
    if (!t) return -1;
    t->line = line;
    t->s = from;
    t->n = (size_t)(keep - from);
    return 0;
}

/* Behind a tag's closing bracket: what of the white space is dropped. */
static void end_tag(struct lexer *l, char sign, bool trim)
{
    const char *from = l->s;
    if (sign == '-') skip_to(l, skip_space(l->s, l->end));
    else if (sign != '+' && trim && l->s < l->end && *l->s == '\n') skip_to(l, l->s + 1);
    l->line_start = l->s > from && l->s[-1] == '\n';
}

static char sign_at(const struct lexer *l, size_t ahead)
{
    char c = (size_t)(l->end - l->s) > ahead ? l->s[ahead] : 0;
    return c == '-' || c == '+' ? c : 0;
}

/* `opening`: how long the bracket is that opens it, with its sign. */
static int lex_comment(struct lexer *l, size_t opening)
{
    const char *text = l->s + opening, *close = memmem(text, (size_t)(l->end - text), "#}", 2);
    if (!close) return fail(l, "a comment is not closed");
    char sign = close > text && (close[-1] == '-' || close[-1] == '+') ? close[-1] : 0;
    skip_to(l, close + 2);
    end_tag(l, sign, true);
    return 0;
}

/* At "{%": the length of a {% word %} tag of just that word, its closing sign, or 0. */
static size_t word_tag(const struct lexer *l, const char *s, const char *word, char *sign)
{
    const char *p = s + 2;
    size_t n = strlen(word);
    if (p < l->end && (*p == '-' || *p == '+')) p++;
    p = skip_space(p, l->end);
    if ((size_t)(l->end - p) < n || memcmp(p, word, n)) return 0;
    p = skip_space(p + n, l->end);
    *sign = p < l->end && (*p == '-' || *p == '+') ? *p++ : 0;
    return l->end - p >= 2 && !memcmp(p, "%}", 2) ? (size_t)(p + 2 - s) : 0;
}

/* {% raw %} was read: text up to {% endraw %}. */
static int lex_raw(struct lexer *l)
{
    char sign = 0;
    for (const char *p = l->s; (p = memmem(p, (size_t)(l->end - p), "{%", 2)); p += 2) {
        size_t n = word_tag(l, p, "endraw", &sign);
        if (!n) continue;
        char before = p[2] == '-' || p[2] == '+' ? p[2] : 0;
        if (add_text(l, p, before, true)) return -1;
        skip_to(l, p + n);
        end_tag(l, sign, true);
        return 0;
    }
    return fail(l, "a raw block is not closed");
}

/* --- inside tags --- */

static bool name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool digit(char c) { return c >= '0' && c <= '9'; }

static int lex_name(struct lexer *l)
{
    const char *from = l->s;
    while (l->s < l->end && (name_start(*l->s) || digit(*l->s))) l->s++;
    struct token *t = add(l, T_NAME);
    if (!t) return -1;
    t->s = jinja_intern(l->j, from, (size_t)(l->s - from));
    t->n = (size_t)(l->s - from);
    return t->s ? 0 : fail(l, "the template is too large");
}

static int hex(char c)
{
    return digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* \xhh, \uhhhh, \Uhhhhhhhh at p (behind the letter); the character, or -1. */
static int64_t read_hex(const char *p, const char *end, int digits)
{
    int64_t v = 0;
    if (end - p < digits) return -1;
    for (int i = 0; i < digits; i++) {
        if (hex(p[i]) < 0) return -1;
        v = v << 4 | hex(p[i]);
    }
    return v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff) ? -1 : v;
}

/* One escape at p (behind the backslash), as Python reads it; writes to o, returns how much was read, 0: bad. */
static int unescape(const char *p, const char *end, char *o, int *wrote)
{
    static const char from[] = "ntr\\'\"abfv", to[] = "\n\t\r\\'\"\a\b\f\v";
    const char *simple = strchr(from, *p);
    int digits = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0, n = 0;
    int64_t v = 0;
    *wrote = 0;
    if (*p == '\n') return 1;
    if (simple && *p) {
        o[(*wrote)++] = to[simple - from];
        return 1;
    }
    if (digits) {
        v = read_hex(p + 1, end, digits);
        if (v < 0) return 0;
        *wrote = utf8_encode((uint32_t)v, o);
        return digits + 1;
    }
    while (n < 3 && p + n < end && p[n] >= '0' && p[n] <= '7') v = v * 8 + p[n++] - '0';
    if (n) {
        *wrote = utf8_encode((uint32_t)v, o);
        return n;
    }
    o[(*wrote)++] = '\\'; /* unknown: stands as it is */
    o[(*wrote)++] = *p;
    return 1;
}

static int lex_string(struct lexer *l)
{
    char quote = *l->s;
    const char *from = l->s + 1, *p = from;
    while (p < l->end && *p != quote) p += *p == '\\' && p + 1 < l->end ? 2 : 1;
    if (p >= l->end) return fail(l, "a string is not closed");
    struct token *t = add(l, T_STR);
    char *o = t ? arena_alloc(l->j->arena, (size_t)(p - from) + 4) : NULL;
    if (!o) return fail(l, "the template is too large");
    t->s = o;
    while (from < p) {
        int wrote, n = 1;
        if (*from != '\\') {
            *o++ = *from++;
            continue;
        }
        n = unescape(from + 1, p, o, &wrote);
        if (!n) return fail(l, "a string has a bad escape");
        from += n + 1;
        o += wrote;
    }
    t->n = (size_t)(o - t->s);
    skip_to(l, p + 1);
    return 0;
}

/* digits with single underscores between them; the end, or NULL when there is none */
static const char *digits_end(const char *p, const char *end)
{
    if (p >= end || !digit(*p)) return NULL;
    while (p < end && (digit(*p) || (*p == '_' && p + 1 < end && digit(p[1])))) p++;
    return p;
}

static int lex_number(struct lexer *l)
{
    const char *from = l->s, *p = digits_end(from, l->end), *q;
    char text[64];
    size_t n = 0;
    bool whole = true, after_dot = l->n && l->tokens[l->n - 1].t == T_DOT;
    if (!after_dot && p < l->end && *p == '.' && (q = digits_end(p + 1, l->end))) p = q, whole = false;
    if (!after_dot && p < l->end && (*p == 'e' || *p == 'E')) {
        q = p + 1 < l->end && (p[1] == '+' || p[1] == '-') ? p + 2 : p + 1;
        if ((q = digits_end(q, l->end))) p = q, whole = false;
    }
    for (q = from; q < p && n + 1 < sizeof text; q++)
        if (*q != '_') text[n++] = *q;
    text[n] = 0;
    errno = 0;
    struct token *t = add(l, whole ? T_INT : T_FLOAT);
    if (!t) return -1;
    if (whole) t->i = strtoll(text, NULL, 10);
    else t->f = strtod(text, NULL);
    if (errno || q < p) return fail(l, "a number is too large");
    l->s = p;
    return 0;
}

static int track_braces(struct lexer *l, char c)
{
    static const char open[] = "([{", close[] = ")]}";
    const char *o = strchr(open, c), *k = strchr(close, c);
    if (o) {
        if (l->nbraces == BRACES_MAX) return fail(l, "brackets are nested too deeply");
        l->braces[l->nbraces++] = close[o - open];
    }
    if (k && (l->nbraces == 0 || l->braces[--l->nbraces] != c)) return fail(l, "a closing bracket that none opened");
    return 0;
}

static int lex_operator(struct lexer *l)
{
    static const struct {
        char s[3];
        enum tok t;
    } rows[] = {{"//", T_FLOORDIV}, {"**", T_POW}, {"==", T_EQ}, {"!=", T_NE}, {"<=", T_LE}, {">=", T_GE}, {"+", T_ADD}, {"-", T_SUB},
                {"*", T_MUL}, {"/", T_DIV}, {"%", T_MOD}, {"~", T_TILDE}, {"(", T_LPAREN}, {")", T_RPAREN}, {"[", T_LBRACKET},
                {"]", T_RBRACKET}, {"{", T_LBRACE}, {"}", T_RBRACE}, {"<", T_LT}, {">", T_GT}, {"=", T_ASSIGN}, {".", T_DOT},
                {",", T_COMMA}, {":", T_COLON}, {"|", T_PIPE}, {";", T_SEMI}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (!at(l, rows[i].s)) continue;
        if (track_braces(l, *l->s)) return -1;
        l->s += strlen(rows[i].s);
        return add(l, rows[i].t) ? 0 : -1;
    }
    return fail(l, "a character that no expression has");
}

static int lex_one(struct lexer *l)
{
    char c = *l->s;
    if (name_start(c)) return lex_name(l);
    if (digit(c)) return lex_number(l);
    if (c == '"' || c == '\'') return lex_string(l);
    return lex_operator(l);
}

/* After "{{" or "{%": up to the closing bracket. */
static int lex_tag(struct lexer *l, bool block)
{
    const char *close = block ? "%}" : "}}";
    if (!add(l, block ? T_BLOCK_BEGIN : T_VAR_BEGIN)) return -1;
    for (;;) {
        skip_to(l, skip_space(l->s, l->end));
        if (l->s >= l->end) return fail(l, "a tag is not closed");
        char sign = l->nbraces ? 0 : sign_at(l, 0);
        if (sign == '+' && !block) sign = 0;
        l->s += sign ? 1 : 0;
        if (!l->nbraces && at(l, close)) {
            if (!add(l, block ? T_BLOCK_END : T_VAR_END)) return -1;
            l->s += 2;
            end_tag(l, sign, block);
            return 0;
        }
        l->s -= sign ? 1 : 0;
        if (lex_one(l)) return -1;
    }
}

static const char *next_tag(const struct lexer *l)
{
    for (const char *p = l->s; (p = memchr(p, '{', (size_t)(l->end - p))); p++)
        if (l->end - p >= 2 && (p[1] == '{' || p[1] == '%' || p[1] == '#')) return p;
    return NULL;
}

static int lex_piece(struct lexer *l)
{
    const char *tag = next_tag(l);
    char sign = 0;
    if (!tag) return add_text(l, l->end, '+', false);
    const char *here = l->s;
    l->s = tag;
    sign = sign_at(l, 2);
    l->s = here;
    if (add_text(l, tag, sign, tag[1] != '{')) return -1;
    if (tag[1] == '#') return lex_comment(l, sign ? 3 : 2);
    char raw_sign;
    size_t raw = tag[1] == '%' ? word_tag(l, tag, "raw", &raw_sign) : 0;
    if (raw) {
        skip_to(l, tag + raw);
        end_tag(l, raw_sign, false);
        return lex_raw(l);
    }
    l->s = tag + 2 + (sign ? 1 : 0);
    return lex_tag(l, tag[1] == '%');
}

/* "\r\n" and "\r" -> "\n"; the last line end goes. */
static char *normalize(struct jinja *j, const char *s, size_t *len)
{
    char *o = arena_alloc(j->arena, *len + 1);
    size_t n = 0;
    if (!o) return NULL;
    for (size_t i = 0; i < *len; i++) {
        if (s[i] == '\r' && i + 1 < *len && s[i + 1] == '\n') continue;
        o[n++] = s[i] == '\r' ? '\n' : s[i];
    }
    *len = n && o[n - 1] == '\n' ? n - 1 : n;
    return o;
}

int jinja_lex(struct jinja *j, const char *source, size_t len, struct token **out, size_t *n, struct err *e)
{
    struct lexer l = {.j = j, .line = 1, .line_start = true, .e = e};
    if (len > JINJA_SOURCE_MAX) return err_set(e, ERR_MODEL, "%zu bytes, more than %u", len, JINJA_SOURCE_MAX);
    if (utf8_valid(source, len) != len || memchr(source, 0, len)) return err_set(e, ERR_MODEL, "not text in UTF-8");
    l.s = normalize(j, source, &len);
    if (!l.s) return fail(&l, "the template is too large");
    l.end = l.s + len;
    while (l.s < l.end)
        if (lex_piece(&l)) return -1;
    if (!add(&l, T_END)) return -1;
    *out = l.tokens;
    *n = l.n;
    return 0;
}
