/* grammar_regex: reads a regular expression of the dialect below, or says what in it is not served and where.
 *
 *     literals        . \d \w \s \D \W \S      [a-z\d_] [^...]      ( ) (?: ) (?<name> ) (?P<name> )      | * + ? {m} {m,} {m,n}
 *     \n \r \t \f \v \0 \xHH \uHHHH \u{H...}, \ before punctuation         ^ first and $ last in a top-level alternative
 *
 * The meaning is ECMA-262's (JSON schema's dialect) over code points: \d and \w are ASCII, `.` is anything but an end of line. A group is
 * only a group, and a lazy quantifier means what the greedy one does, for only the language counts. Refused, because no automaton of
 * bounded size reads them or because dialects disagree about them: look-around, back references, word boundaries, \p, flags, possessive
 * and atomic forms, anchors elsewhere, [] and [^].
 *
 * Bounds: nesting, classes, and the size after repetitions are written out, which is computed (saturating) before anything is built. */
#include "engine/grammar_regex.h"
#include "base/buf.h"
#include <stdlib.h>
#include <string.h>

#define COUNT_MAX 1000000000u

struct parse {
    struct regex *x;
    const char *s, *where;
    size_t len, at;
    int depth;
    uint32_t dot; /* class of '.', + 1 */
    struct err *e;
};

static int refuse(const struct parse *p, size_t at, const char *what)
{
    return err_set(p->e, ERR_INVALID, "%s%sregular expression, byte %zu: %s", p->where, *p->where ? ": " : "", at,
                   what);
}

static bool more(const struct parse *p)
{
    return p->at < p->len;
}

static bool next_is(const struct parse *p, const char *s)
{
    size_t n = strlen(s);
    return p->len - p->at >= n && memcmp(p->s + p->at, s, n) == 0;
}

/* --- sets of code points --- */

struct ranges {
    struct cp_range r[REGEX_RANGES_MAX + 1];
    uint32_t n;
};

static int add_range(const struct parse *p, struct ranges *s, uint32_t lo, uint32_t hi)
{
    if (s->n == REGEX_RANGES_MAX) return refuse(p, p->at, "a character class is too large");
    s->r[s->n++] = (struct cp_range){lo, hi};
    return 0;
}

static int by_lo(const void *a, const void *b)
{
    const struct cp_range *x = a, *y = b;
    return (x->lo > y->lo) - (x->lo < y->lo);
}

static void normalize(struct ranges *s)
{
    uint32_t n = 0;
    qsort(s->r, s->n, sizeof *s->r, by_lo);
    for (uint32_t i = 0; i < s->n; i++) {
        if (n > 0 && s->r[i].lo <= s->r[n - 1].hi + 1) {
            if (s->r[i].hi > s->r[n - 1].hi) s->r[n - 1].hi = s->r[i].hi;
        } else {
            s->r[n++] = s->r[i];
        }
    }
    s->n = n;
}

/* Of normalized ranges; one range more at most. */
static void complement(struct ranges *s)
{
    uint32_t from = 0, n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        struct cp_range r = s->r[i];
        if (r.lo > from) s->r[n++] = (struct cp_range){from, r.lo - 1}; /* n <= i: that place was read */
        from = r.hi + 1;
    }
    if (from <= CODE_POINT_MAX) s->r[n++] = (struct cp_range){from, CODE_POINT_MAX};
    s->n = n;
}

static const struct cp_range space_ranges[] = {{9, 13},          {32, 32},         {0xa0, 0xa0},     {0x1680, 0x1680},
                                               {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f},
                                               {0x3000, 0x3000}, {0xfeff, 0xfeff}};
static const struct cp_range digit_ranges[] = {{'0', '9'}};
static const struct cp_range word_ranges[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const struct cp_range line_ranges[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};

#define OF(a) a, sizeof a / sizeof *a
static const struct named_class {
    char letter;
    const struct cp_range *r;
    size_t n;
    bool others; /* the complement */
} named_classes[] = {
    {'d', OF(digit_ranges), false}, {'D', OF(digit_ranges), true},  {'w', OF(word_ranges), false},
    {'W', OF(word_ranges), true},   {'s', OF(space_ranges), false}, {'S', OF(space_ranges), true},
    {'.', OF(line_ranges), true},
};

static const struct named_class *named_class(char letter)
{
    for (size_t i = 0; i < sizeof named_classes / sizeof *named_classes; i++)
        if (named_classes[i].letter == letter) return &named_classes[i];
    return NULL;
}

static int add_named(const struct parse *p, struct ranges *s, const struct named_class *c)
{
    struct ranges own;
    own.n = (uint32_t)c->n;
    memcpy(own.r, c->r, c->n * sizeof *c->r);
    if (c->others) complement(&own);
    for (uint32_t i = 0; i < own.n; i++)
        if (add_range(p, s, own.r[i].lo, own.r[i].hi)) return -1;
    return 0;
}

/* --- nodes --- */

/* 0: failed. */
static uint32_t node(struct parse *p, struct re r)
{
    struct regex *x = p->x;
    if (x->n == x->cap) {
        struct re *q = realloc(x->re, 2 * (size_t)x->cap * sizeof *q);
        if (!q) return err_set(p->e, ERR_NO_MEMORY, "no memory for a regular expression"), 0;
        x->re = q;
        x->cap *= 2;
    }
    x->re[x->n] = r;
    return x->n++;
}

static uint32_t class_node(struct parse *p, struct ranges *s)
{
    struct regex *x = p->x;
    normalize(s);
    uint32_t i = 0;
    for (; i < x->nklass && i < 64; i++)
        if (x->klass[i].n == s->n && memcmp(x->klass[i].r, s->r, s->n * sizeof *s->r) == 0) break;
    if (i == x->nklass || i == 64) {
        i = x->nklass;
        if (i == REGEX_CLASSES_MAX) return refuse(p, p->at, "too large: too many different character classes"), 0;
        struct cp_range *r = malloc((s->n + 1) * sizeof *r);
        if (!r) return err_set(p->e, ERR_NO_MEMORY, "no memory for a regular expression"), 0;
        memcpy(r, s->r, s->n * sizeof *r);
        x->klass[x->nklass++] = (struct cp_class){r, s->n};
    }
    return node(p, (struct re){.op = RE_CLASS, .klass = i, .size = 1});
}

static uint32_t saturated(uint64_t v)
{
    return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static void append(struct parse *p, uint32_t parent, uint32_t child)
{
    struct re *re = p->x->re;
    re[child].before = re[parent].child;
    re[parent].child = child;
    re[parent].size = saturated((uint64_t)re[parent].size + re[child].size + (re[parent].op == RE_ALT));
}

/* --- escapes --- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_hex(struct parse *p, int digits, uint32_t *out)
{
    uint32_t v = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        int d = more(p) ? hex_value(p->s[p->at]) : -1;
        if (d < 0) return refuse(p, p->at, "a hexadecimal digit is missing");
        v = v << 4 | (uint32_t)d;
    }
    *out = v;
    return 0;
}

static int read_unicode(struct parse *p, uint32_t *out)
{
    size_t at = p->at;
    uint32_t v = 0, low = 0;
    if (more(p) && p->s[p->at] == '{') {
        for (p->at++; more(p) && p->s[p->at] != '}' && v <= CODE_POINT_MAX; p->at++) {
            if (hex_value(p->s[p->at]) < 0) return refuse(p, p->at, "a hexadecimal digit is missing");
            v = v << 4 | (uint32_t)hex_value(p->s[p->at]);
        }
        if (!more(p) || p->s[p->at++] != '}' || v > CODE_POINT_MAX) return refuse(p, at, "not a code point");
    } else {
        if (read_hex(p, 4, &v)) return -1;
        if (v >= 0xd800 && v < 0xdc00 && next_is(p, "\\u")) {
            p->at += 2;
            if (read_hex(p, 4, &low)) return -1;
            if (low < 0xdc00 || low > 0xdfff) return refuse(p, at, "half of a surrogate pair");
            v = 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    if (v >= 0xd800 && v <= 0xdfff) return refuse(p, at, "half of a surrogate pair");
    *out = v;
    return 0;
}

static const char *why_not(char c)
{
    if (c >= '1' && c <= '9') return "back references are not served";
    switch (c) {
    case 'b':
    case 'B':
        return "word boundaries are not served";
    case 'k':
        return "back references are not served";
    case 'p':
    case 'P':
        return "Unicode properties are not served";
    case 'A':
    case 'Z':
    case 'z':
    case 'G':
        return "anchors other than ^ and $ are not served";
    default:
        return "this escape is not served";
    }
}

/* After a backslash: one code point. */
static int read_escape(struct parse *p, uint32_t *out)
{
    static const char from[] = "nrtfv0", to[] = "\n\r\t\f\v";
    if (!more(p)) return refuse(p, p->at, "ends after a backslash");
    size_t at = p->at;
    char c = p->s[p->at++];
    const char *k = strchr(from, c);
    if (c == '0' && more(p) && p->s[p->at] >= '0' && p->s[p->at] <= '9')
        return refuse(p, at, "octal escapes are not served");
    if (c && k) return *out = (uint8_t)to[k - from], 0;
    if (c == 'x') return read_hex(p, 2, out);
    if (c == 'u') return read_unicode(p, out);
    bool letter = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c & 0x80) || c < 0x20;
    if (letter) return refuse(p, at, why_not(c));
    *out = (uint8_t)c;
    return 0;
}

/* One code point of the pattern itself. */
static int read_char(struct parse *p, uint32_t *out)
{
    bool valid;
    size_t n = buf_utf8(p->s + p->at, p->len - p->at, &valid);
    if (!valid) return refuse(p, p->at, "not UTF-8");
    const uint8_t *s = (const uint8_t *)p->s + p->at;
    uint32_t v = n == 1 ? s[0] : s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) v = v << 6 | (s[i] & 0x3f);
    p->at += n;
    *out = v;
    return 0;
}

/* --- classes --- */

/* A member of a class: a code point, or (*named) a class like \d. */
static int read_member(struct parse *p, uint32_t *c, const struct named_class **named)
{
    *named = NULL;
    if (p->s[p->at] != '\\') return read_char(p, c);
    p->at++;
    if (more(p) && p->s[p->at] != '.' && (*named = named_class(p->s[p->at]))) return p->at++, 0;
    if (more(p) && p->s[p->at] == 'b') return p->at++, *c = '\b', 0;
    return read_escape(p, c);
}

static uint32_t parse_class(struct parse *p)
{
    struct ranges s; /* 8 KiB: not worth clearing for each atom */
    s.n = 0;
    size_t open = p->at++;
    bool others = more(p) && p->s[p->at] == '^';
    p->at += others;
    if (more(p) && p->s[p->at] == ']')
        return refuse(p, open, "an empty class is not served; write \\] for a bracket"), 0;
    while (more(p) && p->s[p->at] != ']') {
        const struct named_class *named, *named_to;
        size_t at = p->at;
        uint32_t lo, hi;
        if (read_member(p, &lo, &named)) return 0;
        bool range = p->len - p->at >= 2 && p->s[p->at] == '-' && p->s[p->at + 1] != ']';
        if (named && range) return refuse(p, at, "a range can't begin with a class"), 0;
        if (named) {
            if (add_named(p, &s, named)) return 0;
            continue;
        }
        hi = lo;
        p->at += range;
        if (range && read_member(p, &hi, &named_to)) return 0;
        if (range && named_to) return refuse(p, at, "a range can't end with a class"), 0;
        if (hi < lo) return refuse(p, at, "a range runs backwards"), 0;
        if (add_range(p, &s, lo, hi)) return 0;
    }
    if (!more(p)) return refuse(p, open, "the class is not closed"), 0;
    p->at++;
    normalize(&s);
    if (others) complement(&s);
    return class_node(p, &s);
}

/* --- quantifiers --- */

static bool read_count(struct parse *p, uint32_t *out)
{
    size_t from = p->at;
    uint32_t v = 0;
    for (; more(p) && p->s[p->at] >= '0' && p->s[p->at] <= '9'; p->at++)
        if (v < COUNT_MAX) v = v * 10 + (uint32_t)(p->s[p->at] - '0');
    *out = v < COUNT_MAX ? v : COUNT_MAX;
    return p->at > from;
}

/* {m} {m,} {m,n}; anything else after a brace is a brace, and p->at stays. */
static bool read_braces(struct parse *p, uint32_t *min, uint32_t *max)
{
    size_t from = p->at++;
    bool ok = read_count(p, min);
    *max = *min;
    if (ok && more(p) && p->s[p->at] == ',') {
        p->at++;
        if (!read_count(p, max)) *max = REPEAT_INF;
    }
    if (ok && more(p) && p->s[p->at] == '}') return p->at++, true;
    p->at = from;
    return false;
}

static bool read_quantifier(struct parse *p, uint32_t *min, uint32_t *max)
{
    if (!more(p)) return false;
    switch (p->s[p->at]) {
    case '*':
        return p->at++, *min = 0, *max = REPEAT_INF, true;
    case '+':
        return p->at++, *min = 1, *max = REPEAT_INF, true;
    case '?':
        return p->at++, *min = 0, *max = 1, true;
    case '{':
        return read_braces(p, min, max);
    default:
        return false;
    }
}

static uint32_t parse_quantifier(struct parse *p, uint32_t child)
{
    uint32_t min, max;
    size_t at = p->at;
    if (!read_quantifier(p, &min, &max)) return child;
    if (max < min) return refuse(p, at, "a repetition runs backwards"), 0;
    if (more(p) && p->s[p->at] == '?') p->at++; /* lazy: the same texts */
    if (more(p) && p->s[p->at] == '+') return refuse(p, p->at, "possessive quantifiers are not served"), 0;
    size_t again = p->at;
    uint32_t min2, max2;
    if (read_quantifier(p, &min2, &max2))
        return refuse(p, again, "a quantifier of a quantifier; put the first into a group"), 0;
    uint64_t times = max == REPEAT_INF ? (uint64_t)min + 1 : max;
    struct re r = {.op = RE_REPEAT, .min = min, .max = max, .child = child};
    uint32_t one = p->x->re[child].size + 1u;
    r.size = saturated(one ? times * one : UINT32_MAX);
    if (r.size > REGEX_STATES_MAX) return refuse(p, at, "too large: this repetition needs too many states"), 0;
    return node(p, r);
}

/* --- groups and alternatives --- */

static uint32_t parse_alternatives(struct parse *p, bool top);

/* At "(": up to where the group's content begins. */
static int open_group(struct parse *p)
{
    size_t at = p->at++;
    if (!next_is(p, "?")) return 0;
    if (next_is(p, "?:")) return p->at += 2, 0;
    if (next_is(p, "?=") || next_is(p, "?!") || next_is(p, "?<=") || next_is(p, "?<!"))
        return refuse(p, at, "look-around is not served");
    if (next_is(p, "?>")) return refuse(p, at, "atomic groups are not served");
    if (next_is(p, "?P=") || next_is(p, "?(")) return refuse(p, at, "back references are not served");
    if (!next_is(p, "?<") && !next_is(p, "?P<")) return refuse(p, at, "flags are not served");
    while (more(p) && p->s[p->at] != '>') p->at++;
    if (!more(p)) return refuse(p, at, "the group's name is not closed");
    p->at++;
    return 0;
}

static uint32_t parse_group(struct parse *p)
{
    size_t at = p->at;
    if (open_group(p)) return 0;
    if (++p->depth > REGEX_NESTING) return refuse(p, at, "groups are nested too deep"), 0;
    uint32_t r = parse_alternatives(p, false);
    p->depth--;
    if (r == 0) return 0;
    if (!more(p)) return refuse(p, at, "the group is not closed"), 0;
    p->at++;
    return r;
}

static uint32_t parse_atom(struct parse *p)
{
    struct ranges s;
    const struct named_class *named = NULL;
    uint32_t c = 0;
    s.n = 0;
    switch (p->s[p->at]) {
    case '(':
        return parse_group(p);
    case '[':
        return parse_class(p);
    case '*':
    case '+':
    case '?':
        return refuse(p, p->at, "nothing to repeat"), 0;
    case '^':
    case '$':
        return refuse(p, p->at, "^ and $ are served at the ends of the whole expression and of its alternatives"), 0;
    case '.':
        named = named_class(p->s[p->at++]);
        if (p->dot) return node(p, (struct re){.op = RE_CLASS, .klass = p->dot - 1, .size = 1});
        break;
    default:
        if (read_member(p, &c, &named)) return 0;
    }
    if (named ? add_named(p, &s, named) : add_range(p, &s, c, c)) return 0;
    uint32_t r = class_node(p, &s);
    if (r && named && named->letter == '.') p->dot = p->x->re[r].klass + 1;
    return r;
}

static uint32_t parse_sequence(struct parse *p, bool top)
{
    uint32_t seq = node(p, (struct re){.op = RE_SEQ, .size = 1});
    if (seq && top && more(p) && p->s[p->at] == '^') p->at++, p->x->re[seq].at_start = true;
    while (seq && more(p) && p->s[p->at] != '|' && p->s[p->at] != ')') {
        bool end = p->at + 1 == p->len || p->s[p->at + 1] == '|';
        if (top && p->s[p->at] == '$' && end) {
            p->at++;
            p->x->re[seq].at_end = true;
            break;
        }
        if (next_is(p, "\\b") || next_is(p, "\\B")) return refuse(p, p->at, why_not('b')), 0;
        uint32_t atom = parse_atom(p);
        if (atom) atom = parse_quantifier(p, atom);
        if (!atom) return 0;
        append(p, seq, atom);
        if (p->x->re[seq].size > REGEX_STATES_MAX) return refuse(p, p->at, "too large: it needs too many states"), 0;
    }
    return seq;
}

static uint32_t parse_alternatives(struct parse *p, bool top)
{
    uint32_t alt = node(p, (struct re){.op = RE_ALT});
    for (bool again = alt != 0; again;) {
        uint32_t seq = parse_sequence(p, top);
        if (!seq) return 0;
        append(p, alt, seq);
        again = more(p) && p->s[p->at] == '|';
        p->at += again;
    }
    return alt;
}

int regex_parse(struct regex *x, const char *pattern, size_t len, const char *where, struct err *e)
{
    struct parse p = {.x = x, .s = pattern, .len = len, .where = where, .e = e};
    *x = (struct regex){.n = 1, .cap = 64};
    x->re = malloc(x->cap * sizeof *x->re);
    x->klass = malloc(REGEX_CLASSES_MAX * sizeof *x->klass);
    if (!x->re || !x->klass) {
        regex_close(x);
        return err_set(e, ERR_NO_MEMORY, "no memory for a regular expression");
    }
    x->top = parse_alternatives(&p, true);
    if (x->top && more(&p)) {
        refuse(&p, p.at, "a bracket ) that none opens");
        x->top = 0;
    }
    if (x->top && x->re[x->top].size > REGEX_STATES_MAX) {
        refuse(&p, 0, "too large: it needs too many states");
        x->top = 0;
    }
    if (x->top) return 0;
    regex_close(x);
    return -1;
}

void regex_close(struct regex *x)
{
    for (uint32_t i = 0; i < x->nklass; i++) free(x->klass[i].r);
    free(x->klass);
    free(x->re);
    *x = (struct regex){0};
}
