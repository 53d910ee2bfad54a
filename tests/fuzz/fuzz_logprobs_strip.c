/* Answers without the log-probabilities that nobody asked for. Of what jansson reads as an object, what comes out is read as the same with `logprobs` of each
 * choice null, and byte for byte the rest is what went in; jansson says where a value that went ended. A stream's lines each become what they become alone. Of
 * all else: only behind such a name is it another, and it grows by no more than the nulls. Input: the bytes, once as an object and once as lines. */
#include "base/json.h"
#include "gateway/proxy/logprobs_strip.h"
#include "tests/fuzz/fuzz.h"

#define NAME "\"logprobs\""

/* A null is 3 bytes longer than the shortest value, which has a name of 10 bytes and a colon before it. */
static struct buf strip(int (*how)(const char *s, size_t n, struct buf *out), const char *s, size_t n)
{
    struct buf out;
    char *bare = malloc(n ? n : 1); /* without a NUL behind it */
    buf_init(&out, n + n / 4 + 1);
    if (n) memcpy(bare, s, n);
    FUZZ_NEED(bare && how(bare, n, &out) == 0 && out.len <= n + n / 4);
    if (!memmem(s, n, NAME, strlen(NAME))) FUZZ_NEED(out.len == n && memcmp(out.data, s, n) == 0);
    free(bare);
    return out;
}

static void need_same(const struct buf *a, const char *s, size_t n)
{
    FUZZ_NEED(a->len == n && memcmp(a->data, s, n) == 0);
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Does a member `logprobs` have its value at i? */
static bool after_name(const char *s, size_t i)
{
    while (i && is_space(s[i - 1])) i--;
    if (!i || s[--i] != ':') return false;
    while (i && is_space(s[i - 1])) i--;
    return i >= strlen(NAME) && memcmp(s + i - strlen(NAME), NAME, strlen(NAME)) == 0;
}

/* The two side by side: where they differ a value went. Where its end is unknown, since this is no JSON, the first one is looked at. */
static void align(const char *s, size_t n, const struct buf *out, bool all)
{
    size_t i = 0, o = 0;
    while (i < n) {
        FUZZ_NEED(o < out->len);
        if (s[i] == out->data[o]) {
            i++, o++;
            continue;
        }
        json_error_t je;
        for (int k = 0; !all && k < 4 && i && o && !after_name(s, i); k++)
            i--, o--; /* "nu-l", or "null-", begins as "null" does */
        FUZZ_NEED(after_name(s, i) && strncmp(out->data + o, "null", 4) == 0);
        if (!all) return;
        json_t *gone = json_load(s + i, n - i, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &je);
        FUZZ_NEED(gone && je.position > 0);
        json_decref(gone);
        i += (size_t)je.position;
        o += 4;
    }
    FUZZ_NEED(o == out->len);
}

static void bare_choices(json_t *o)
{
    json_t *choice;
    size_t i;
    json_array_foreach(json_object_get(o, "choices"), i, choice) if (json_object_get(choice, "logprobs"))
        json_object_set_new(choice, "logprobs", json_null());
}

/* A name may be written with escapes, as no engine does: then its value stays, and that is all that may. */
static void compare(const char *s, size_t n, json_t *want, const struct buf *out)
{
    json_t *got = NULL;
    FUZZ_NEED(json_parse(out->data, out->len, &got, NULL) == 0);
    bare_choices(want);
    if (memmem(s, n, "\\u00", 4)) bare_choices(got);
    FUZZ_NEED(json_equal(want, got));
    align(s, n, out, true);
    struct buf twice = strip(logprobs_strip, out->data, out->len);
    need_same(&twice, out->data, out->len);
    buf_close(&twice);
    json_decref(got);
}

static void check_object(const char *s, size_t n)
{
    struct buf out = strip(logprobs_strip, s, n);
    json_t *o = NULL;
    if (json_parse(s, n, &o, NULL) == 0)
        compare(s, n, o, &out);
    else
        align(s, n, &out, false);
    json_decref(o);
    buf_close(&out);
}

static void check_line(const char *s, size_t n, const struct buf *out)
{
    static const char word[] = "data:";
    size_t skip = sizeof word - 1;
    bool data = n > skip && memcmp(s, word, skip) == 0;
    while (data && skip < n && s[skip] == ' ') skip++;
    if (!data || skip == n || s[skip] != '{') {
        need_same(out, s, n);
        return;
    }
    struct buf bare = strip(logprobs_strip, s + skip, n - skip);
    FUZZ_NEED(out->len == skip + bare.len && memcmp(out->data, s, skip) == 0 &&
              memcmp(out->data + skip, bare.data, bare.len) == 0);
    buf_close(&bare);
    check_object(s + skip, n - skip);
}

static void check_lines(const char *s, size_t n)
{
    struct buf all = strip(logprobs_strip_lines, s, n);
    size_t at = 0;
    for (size_t from = 0; from < n;) {
        const char *end = memchr(s + from, '\n', n - from);
        size_t len = end ? (size_t)(end + 1 - s) - from : n - from;
        struct buf one = strip(logprobs_strip_lines, s + from, len);
        check_line(s + from, len, &one);
        FUZZ_NEED(all.len - at >= one.len && memcmp(all.data + at, one.data, one.len) == 0);
        at += one.len;
        from += len;
        buf_close(&one);
    }
    FUZZ_NEED(at == all.len);
    buf_close(&all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *s = fuzz_text(data, n);
    check_object(s, n);
    check_lines(s, n);
    free(s);
    return 0;
}
