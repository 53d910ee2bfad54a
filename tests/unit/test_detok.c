/* Tests of engine/detok. Tokens are cut by hand (a byte, a word, a part of a character), so the text is laid through tokens of every
 * size; a plain search over the whole text is the oracle. */
#include "engine/detok.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The tokenizer here is a table of byte strings: ids count in the order of adding; the first is special. */
struct tokenizer {
    char s[512][16];
    size_t len[512];
    int n;
};

static struct tokenizer toks;

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    *len = t->len[id];
    return t->s[id];
}

/* The first token of a text shows no '_' that it begins with. */
const char *tokenizer_first_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    const char *s = tokenizer_bytes(t, id, len);
    bool skip = *len && *s == '_';
    *len -= skip;
    return s + skip;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    (void)t;
    return id == 0;
}

static int32_t token(const char *s, size_t n)
{
    for (int i = 0; i < toks.n; i++)
        if (toks.len[i] == n && !memcmp(toks.s[i], s, n)) return i;
    assert_true(toks.n < 512 && n < 16);
    memcpy(toks.s[toks.n], s, n);
    toks.len[toks.n] = n;
    return toks.n++;
}

static int reset(void **state)
{
    (void)state;
    toks.n = 0;
    token("<|end|>", 7);
    return 0;
}

struct run {
    char text[1024];
    size_t n;
    int stopped_at; /* token, or -1 */
    int hit;
};

/* Tokens of `cut` bytes; cut 0: varying. */
static struct run run(const char *text, size_t n, size_t cut, const char *const *stops, int nstops)
{
    struct detok d;
    struct run r = {.stopped_at = -1};
    const char *s;
    size_t len, k = 0;
    assert_int_equal(detok_init(&d, &toks, stops, nstops, NULL), 0);
    for (size_t at = 0; at < n; k++) {
        size_t take = cut ? cut : 1 + (k * 7 + 3) % 5;
        if (take > n - at) take = n - at;
        int got = detok_push(&d, token(text + at, take), false, &s, &len);
        assert_true(got >= 0 && r.n + len < sizeof r.text);
        memcpy(r.text + r.n, s, len);
        r.n += len;
        at += take;
        if (got == 1 && r.stopped_at < 0) r.stopped_at = (int)k;
        if (got == 1) assert_true(d.stopped);
    }
    assert_int_equal(detok_flush(&d, &s, &len), 0);
    memcpy(r.text + r.n, s, len);
    r.n += len;
    r.text[r.n] = 0;
    r.hit = d.stop_hit;
    detok_close(&d);
    return r;
}

static void text_does_not_depend_on_where_tokens_end(void **state)
{
    (void)state;
    static const struct {
        const char *text, *stops[4];
        const char *want;
        int hit;
    } rows[] = {
        {"hello world", {NULL}, "hello world", -1},
        {"h\xc3\xa9llo \xe2\x82\xac \xf0\x9f\x98\x80!", {NULL}, "h\xc3\xa9llo \xe2\x82\xac \xf0\x9f\x98\x80!", -1},
        {"one\nUser: two", {"User:"}, "one\n", 0},
        {"one User two", {"User:"}, "one User two", -1},
        {"ends with Use", {"User:"}, "ends with Use", -1},
        {"aaab", {"aab"}, "a", 0},
        {"abababc", {"ababc"}, "ab", 0},
        {"xabcx", {"abc", "b"}, "xa", 1},
        {"xabcx", {"bc", "abc"}, "x", 1},
        {"stop", {"stop"}, "", 0},
        {"a\xe2\x82\xac"
         "b",
         {"\xe2\x82\xac"},
         "a",
         0},
        {"a\xe2\x82\xad"
         "b",
         {"\xe2\x82\xac"},
         "a\xe2\x82\xad"
         "b",
         -1},
        {"bad \xff byte", {NULL}, "bad \xef\xbf\xbd byte", -1},
        {"cut \xe2\x82", {NULL}, "cut \xef\xbf\xbd", -1},
        {"cut \xe2\x82(", {NULL}, "cut \xef\xbf\xbd(", -1},
        {"cut \xf0\x9f\xf0\x9f\x98\x80", {NULL}, "cut \xef\xbf\xbd\xf0\x9f\x98\x80", -1},
        {"\xed\xa0\x80", {NULL}, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd", -1},
        {"a b c d", {"z", "c d", " c", "b c d"}, "a b", 2},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int nstops = 0;
        while (nstops < 4 && rows[i].stops[nstops]) nstops++;
        for (size_t cut = 0; cut < 9; cut++) {
            struct run r = run(rows[i].text, strlen(rows[i].text), cut, rows[i].stops, nstops);
            assert_string_equal(r.text, rows[i].want);
            assert_int_equal(r.hit, rows[i].hit);
        }
    }
}

static size_t push(struct detok *d, const char *bytes, const char **s)
{
    size_t len;
    assert_int_equal(detok_push(d, token(bytes, strlen(bytes)), false, s, &len), 0);
    return len;
}

static void only_what_may_be_a_stop_string_is_held(void **state)
{
    (void)state;
    struct detok d;
    const char *s, *const stops[] = {"\n\nUser"};
    assert_int_equal(detok_init(&d, &toks, stops, 1, NULL), 0);
    assert_int_equal(push(&d, "abc", &s), 3);
    assert_int_equal(push(&d, "d\n", &s), 1); /* the line end waits */
    assert_int_equal(push(&d, "e", &s), 2);   /* and is released as soon as it can't be one */
    assert_memory_equal(s, "\ne", 2);
    assert_int_equal(push(&d, "\n\nUs", &s), 0);
    assert_int_equal(push(&d, "\n\n", &s), 4); /* "\n\nUs" is shown, the two new line ends wait */
    assert_int_equal(push(&d, "U", &s), 0);
    detok_close(&d);
}

static void half_a_character_waits(void **state)
{
    (void)state;
    struct detok d;
    const char *s;
    assert_int_equal(detok_init(&d, &toks, NULL, 0, NULL), 0);
    assert_int_equal(push(&d, "a\xf0\x9f", &s), 1);
    assert_int_equal(push(&d, "\x98", &s), 0);
    assert_int_equal(push(&d,
                          "\x80"
                          "b",
                          &s),
                     5);
    assert_memory_equal(s,
                        "\xf0\x9f\x98\x80"
                        "b",
                        5);
    detok_close(&d);
}

static void nothing_follows_a_stop(void **state)
{
    (void)state;
    struct detok d;
    const char *s, *const stops[] = {"."};
    size_t len;
    assert_int_equal(detok_init(&d, &toks, stops, 1, NULL), 0);
    assert_int_equal(detok_push(&d, token("one. two", 8), false, &s, &len), 1);
    assert_int_equal(len, 3);
    assert_int_equal(detok_push(&d, token("more", 4), false, &s, &len), 1);
    assert_int_equal(len, 0);
    assert_int_equal(detok_flush(&d, &s, &len), 0);
    assert_int_equal(len, 0);
    detok_close(&d);
}

static void special_tokens_show_only_when_asked_for(void **state)
{
    (void)state;
    struct detok d;
    const char *s;
    size_t len;
    assert_int_equal(detok_init(&d, &toks, NULL, 0, NULL), 0);
    assert_int_equal(detok_push(&d, 0, false, &s, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(detok_push(&d, 0, true, &s, &len), 0);
    assert_int_equal(len, 7);
    assert_memory_equal(s, "<|end|>", 7);
    detok_close(&d);
}

static void the_space_before_the_first_word_is_not_shown(void **state)
{
    (void)state;
    struct detok d;
    const char *s;
    size_t len;
    assert_int_equal(detok_init(&d, &toks, NULL, 0, NULL), 0);
    assert_int_equal(detok_push(&d, 0, false, &s, &len), 0); /* special: the text has not begun */
    assert_int_equal(detok_push(&d, token("_one", 4), false, &s, &len), 0);
    assert_memory_equal(s, "one", len);
    assert_int_equal(len, 3);
    assert_int_equal(detok_push(&d, token("_two", 4), false, &s, &len), 0);
    assert_int_equal(len, 4);
    assert_memory_equal(s, "_two", 4);
    detok_close(&d);
}

static void stop_strings_have_limits(void **state)
{
    (void)state;
    static char big[DETOK_STOP_BYTES + 1];
    memset(big, 'x', DETOK_STOP_BYTES);
    const char *const empty[] = {""}, *const much[] = {big}, *const most[] = {big + 1};
    const char *const five[] = {"a", "b", "c", "d", "e"};
    struct detok d;
    struct err e = {0};
    assert_int_equal(detok_init(&d, &toks, empty, 1, &e), -1);
    assert_string_equal(e.param, "stop");
    assert_int_equal(detok_init(&d, &toks, much, 1, NULL), -1);
    assert_int_equal(detok_init(&d, &toks, five, 5, NULL), -1);
    assert_int_equal(detok_init(&d, &toks, most, 1, NULL), 0);
    detok_close(&d);
}

/* Random texts over two letters, random stops: compared with a search over the whole text. */
static void random_texts_agree_with_a_plain_search(void **state)
{
    (void)state;
    unsigned x = 12345;
    for (int k = 0; k < 4000; k++) {
        char text[32], a[5] = {0}, b[5] = {0}, want[32];
        size_t n = 0, end = SIZE_MAX, from = 0;
#define NEXT() (x = x * 1103515245u + 12345u, x >> 16)
        for (size_t len = NEXT() % 31; n < len; n++) text[n] = "ab"[NEXT() & 1];
        text[n] = 0;
        for (size_t i = 0, len = 1 + NEXT() % 4; i < len; i++) a[i] = "ab"[NEXT() & 1];
        for (size_t i = 0, len = 1 + NEXT() % 4; i < len; i++) b[i] = "ab"[NEXT() & 1];
        const char *const stops[] = {a, b};
        for (size_t e = 1; e <= n && end == SIZE_MAX; e++)
            for (size_t f = 0; f < e && end == SIZE_MAX; f++)
                for (int i = 0; i < 2; i++)
                    if (strlen(stops[i]) == e - f && !memcmp(text + f, stops[i], e - f)) end = e, from = f;
        snprintf(want, sizeof want, "%.*s", (int)(end == SIZE_MAX ? n : from), text);
        assert_string_equal(run(text, n, 0, stops, 2).text, want);
        assert_string_equal(run(text, n, 1, stops, 2).text, want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(text_does_not_depend_on_where_tokens_end, reset),
        cmocka_unit_test_setup(only_what_may_be_a_stop_string_is_held, reset),
        cmocka_unit_test_setup(half_a_character_waits, reset),
        cmocka_unit_test_setup(nothing_follows_a_stop, reset),
        cmocka_unit_test_setup(special_tokens_show_only_when_asked_for, reset),
        cmocka_unit_test_setup(the_space_before_the_first_word_is_not_shown, reset),
        cmocka_unit_test_setup(stop_strings_have_limits, reset),
        cmocka_unit_test_setup(random_texts_agree_with_a_plain_search, reset),
    };
    return cmocka_run_group_tests_name("detok", tests, NULL, NULL);
}
