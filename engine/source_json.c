/* source_json: a cursor over JSON of a known shape.
 *
 * The idea: whoever reads says what must come next, and anything else is an error at a byte. What is of no interest is skipped, with a
 * bound on its depth, by counting brackets outside strings: it need not be valid JSON inside, since nobody looks at it. Memory: none.
 *
 * Refuses: escapes in names (no writer of tensors makes them), numbers that are not whole, and nesting beyond JSON_WALK_DEPTH.
 * Called at load only. */
#include "engine/source_json.h"
#include <string.h>

static int fail(struct json_walk *w, const char *what)
{
    return err_set(w->e, ERR_MODEL, "%s: %s at byte %zu of its JSON; download it again", w->where, what,
                   (size_t)(w->p - w->text));
}

static void blanks(struct json_walk *w)
{
    while (w->p < w->end && (*w->p == ' ' || *w->p == '\t' || *w->p == '\n' || *w->p == '\r')) w->p++;
}

bool walk_sees(struct json_walk *w, char c)
{
    blanks(w);
    return w->p < w->end && *w->p == c;
}

int walk_expect(struct json_walk *w, char c)
{
    char what[32] = "' ' is expected";
    what[1] = c;
    if (!walk_sees(w, c)) return fail(w, what);
    w->p++;
    return 0;
}

int walk_word(struct json_walk *w, struct json_word *out)
{
    if (!walk_sees(w, '"')) return fail(w, "a string is expected");
    const char *s = w->p + 1, *p = s;
    while (p < w->end && *p != '"' && *p != '\\' && (unsigned char)*p >= 32) p++;
    if (p == w->end || *p != '"') return fail(w, "a string without escapes is expected");
    *out = (struct json_word){s, (size_t)(p - s)};
    w->p = p + 1;
    return 0;
}

int walk_size(struct json_walk *w, int64_t *out)
{
    blanks(w);
    const char *p = w->p;
    int64_t v = 0;
    while (p < w->end && *p >= '0' && *p <= '9') {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *p - '0', &v))
            return fail(w, "a number is too large");
        p++;
    }
    if (p == w->p || (p < w->end && (*p == '.' || *p == 'e' || *p == 'E')))
        return fail(w, "a whole number of 0 or more is expected");
    w->p = p;
    *out = v;
    return 0;
}

static int skip_string(struct json_walk *w)
{
    for (w->p++; w->p < w->end && *w->p != '"'; w->p++)
        if (*w->p == '\\') w->p++;
    if (w->p >= w->end) {
        w->p = w->end;
        return fail(w, "a string does not end");
    }
    w->p++;
    return 0;
}

int walk_skip(struct json_walk *w)
{
    int depth = 0;
    blanks(w);
    const char *start = w->p;
    while (w->p < w->end) {
        char c = *w->p;
        if (depth == 0 && w->p > start && (c == ',' || c == '}' || c == ']')) return 0;
        if (c == '"') {
            if (skip_string(w)) return -1;
        } else {
            if ((c == '{' || c == '[') && ++depth > JSON_WALK_DEPTH) return fail(w, "it is nested too deep");
            if ((c == '}' || c == ']') && --depth < 0) return fail(w, "a value is expected");
            w->p++;
        }
    }
    return fail(w, "it ends too early");
}

int walk_next(struct json_walk *w, char close, bool *more)
{
    *more = walk_sees(w, ',');
    if (*more) {
        w->p++;
        return 0;
    }
    return walk_expect(w, close);
}

bool word_is(const struct json_word *w, const char *s)
{
    return w->len == strlen(s) && memcmp(w->s, s, w->len) == 0;
}
