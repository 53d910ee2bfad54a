/* err, buf, arena, json, log, clock, sha256: the small modules, each against somebody else's words where there are
 * some. */
#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "base/sha256.h"
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void the_first_error_wins_and_prefixes_grow_in_front(void **state)
{
    (void)state;
    struct err e = {0};
    assert_int_equal(err_field(&e, ERR_INVALID, "n", "n is %d", 9), -1);
    err_set(&e, ERR_IO, "hidden");
    err_prefix(&e, "body");
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.param, "n");
    assert_string_equal(e.msg, "body: n is 9");
    assert_int_equal(err_set(NULL, ERR_IO, "nobody asks"), -1);
    err_clear(&e);
    errno = ENOENT;
    err_errno(&e, "cannot open %s", "x");
    assert_string_equal(e.msg, "cannot open x: No such file or directory");
    assert_int_equal(err_info(ERR_MODEL_NOT_FOUND)->status, 404);
    assert_int_equal(err_by_word("model_not_found"), ERR_MODEL_NOT_FOUND);
    assert_int_equal(err_by_word("nothing"), ERR_NONE);
}

static void a_field_is_named_with_its_owner_where_both_have_room(void **state)
{
    (void)state;
    struct err e = {0};
    char longest[sizeof e.param];
    assert_int_equal(err_within(&e, "nothing went wrong"), -1);
    assert_string_equal(e.param, "");
    err_field(&e, ERR_INVALID, "", "It is an object.");
    err_within(&e, "judge");
    err_within(&e, "evaluation");
    assert_string_equal(e.param, "evaluation.judge");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    for (size_t room = 0; room < 2; room++) { /* one that fits, one that is a byte too long */
        err_clear(&e);
        err_field(&e, ERR_INVALID, longest + 7 - room, "No.");
        err_within(&e, "a-rule");
        assert_int_equal(strlen(e.param), room ? strlen("a-rule") : sizeof e.param - 1);
        assert_memory_equal(e.param, "a-rule", 6);
    }
}

static bool is_utf8(const char *s)
{
    json_t *v = json_string(s); /* jansson is the judge */
    json_decref(v);
    return v != NULL;
}

static void a_long_message_is_cut_at_a_whole_character(void **state)
{
    (void)state;
    for (int shift = 0; shift < 5; shift++) {
        struct err e = {0};
        char text[1200];
        memset(text, 'x', (size_t)shift);
        for (int i = shift; i + 4 < 1200; i += 4) memcpy(text + i, "\xF0\x9F\x98\x80", 5);
        err_set(&e, ERR_INVALID, "%s", text);
        assert_true(strlen(e.msg) >= sizeof e.msg - 4);
        assert_true(is_utf8(e.msg));
        err_prefix(&e, "%.*s", shift, "abcde");
        assert_true(is_utf8(e.msg));
    }
}

static void characters_are_not_bytes(void **state)
{
    (void)state;
    static const char text[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80"; /* of 1, 2, 3 and 4 bytes */
    assert_int_equal(buf_characters(text, sizeof text - 1), 4);
    assert_int_equal(buf_characters(text, 3), 2);
    assert_int_equal(buf_characters("", 0), 0);
}

static void a_buffer_refuses_all_after_its_limit(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 10);
    assert_int_equal(buf_adds(&b, "12345"), 0);
    assert_int_equal(buf_addu(&b, 67890), 0);
    assert_int_equal(buf_addc(&b, 'x'), -1);
    assert_int_equal(buf_add(&b, "", 0), -1);
    assert_string_equal(b.data, "1234567890");
    buf_reset(&b);
    assert_int_equal(buf_addf(&b, "%s-%d", "a", 5), 0);
    buf_drop_front(&b, 1);
    assert_string_equal(b.data, "-5");
    buf_drop_front(&b, 99);
    assert_int_equal(b.len, 0);
    char *p = buf_take(&b);
    assert_string_equal(p, "");
    free(p);
    assert_int_equal(buf_addu(&b, UINT64_MAX), -1);
    buf_close(&b);
    p = buf_take(&b); /* of an empty one */
    assert_string_equal(p, "");
    free(p);
}

static void json_strings_survive_any_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        size_t n;
        const char *out;
    } rows[] = {
        {"a\"b\\c/\n\t\x01\x7f", 10, "\"a\\\"b\\\\c/\\n\\t\\u0001\x7f\""},
        {"\0", 1, "\"\\u0000\""},
        {"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80", 9, "\"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\""},
        {"\xC3", 1, "\"\xEF\xBF\xBD\""},                                 /* cut short */
        {"\xE2\x82", 2, "\"\xEF\xBF\xBD\""},                             /* a maximal subpart is one U+FFFD */
        {"\xC0\xAF", 2, "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},                 /* overlong */
        {"\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}, /* surrogate */
        {"\xF4\x90\x80\x80", 4, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
        {"\xF0\x9F\x98x", 4, "\"\xEF\xBF\xBDx\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b;
        buf_init(&b, 1000);
        assert_int_equal(buf_add_json(&b, rows[i].in, rows[i].n), 0);
        assert_string_equal(b.data, rows[i].out);
        buf_close(&b);
    }
    for (int i = 0; i < 20000; i++) { /* jansson reads back whatever we write */
        char in[16], text[256];
        random_bytes(in, sizeof in);
        struct buf b;
        buf_init(&b, 1000);
        buf_add_json(&b, in, sizeof in);
        snprintf(text, sizeof text, "%s", b.data);
        json_t *v = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        assert_non_null(v);
        json_decref(v);
        buf_close(&b);
    }
}

static void an_arena_gives_aligned_zeroed_memory_up_to_its_limit(void **state)
{
    (void)state;
    struct arena *a = arena_new(1 << 20);
    size_t got = 0;
    static const size_t sizes[] = {1, 0, 15, 16, 17, 100, 3000, 5000, 40000, 200000};
    for (int round = 0; got < 1 << 20; round++) {
        size_t n = sizes[round % 10];
        unsigned char *p = arena_alloc(a, n);
        if (!p) break;
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        memset(p, 0xAA, n);
        got += n;
    }
    assert_in_range(arena_used(a), got, 1 << 20);
    assert_null(arena_alloc(a, 1 << 20));
    assert_null(arena_alloc(a, SIZE_MAX));
    assert_null(arena_alloc(a, SIZE_MAX - 8));
    arena_free(a);
    a = arena_new(1000);
    assert_string_equal(arena_printf(a, "%d-%s", 4, "x"), "4-x");
    assert_string_equal(arena_strndup(a, "abcdef", 3), "abc");
    assert_null(arena_strndup(a, "x", SIZE_MAX));
    arena_free(a);
}

/* Sanitizers ask for these: what is larger than anything is answered with NULL there, too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "allocator_may_return_null=1"; }

static void *ask_another_thread(void *since_us)
{
    return json_was_short(*(int64_t *)since_us) ? since_us : NULL;
}

static void json_that_could_not_be_built_is_told_to_the_work_that_met_it(void **state)
{
    (void)state;
    json_load_start();
    int64_t before = clock_mono_us(), after;
    pthread_t other;
    void *there;
    assert_false(json_was_short(before));
    json_t *list = json_array();
    json_array_append_new(list, json_stringn_nocheck("x", SIZE_MAX / 4)); /* as where memory is short: nobody looks */
    assert_int_equal(json_array_size(list), 0);
    assert_true(json_was_short(before));
    assert_true(json_was_short(before)); /* asking changes nothing */
    assert_int_equal(pthread_create(&other, NULL, ask_another_thread, &before), 0);
    pthread_join(other, &there);
    assert_null(there);
    while ((after = clock_mono_us()) == before || json_was_short(after)) {} /* the next microsecond */
    json_array_append_new(list, json_string("y"));
    assert_false(json_was_short(after)); /* of work that begins now, which had nothing to reset */
    assert_true(json_was_short(before));
    json_short_is_told();
    assert_false(json_was_short(before));
    json_decref(list);
}

static void json_from_strangers_is_bounded_and_errors_do_not_quote_it(void **state)
{
    (void)state;
    static const struct {
        const char *open, *close;
        int times;
        bool ok;
    } rows[] = {
        {"{\"a\":", "}", JSON_DEPTH - 1, true},
        {"{\"a\":", "}", JSON_DEPTH, false},
        {"[", "]", 5, false},
        {"{\"a\":[{},", "", 1, false},
        {"\"", "\"", 1, false},
        {"", "", 0, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b;
        json_t *v = NULL;
        struct err e = {0};
        buf_init(&b, 1 << 20);
        for (int k = 0; k < rows[i].times; k++) buf_adds(&b, rows[i].open);
        if (rows[i].times) buf_adds(&b, "{}");
        for (int k = 0; k < rows[i].times; k++) buf_adds(&b, rows[i].close);
        assert_int_equal(json_parse(b.data, b.len, &v, &e), rows[i].ok ? 0 : -1);
        assert_int_equal(e.code, rows[i].ok ? ERR_NONE : ERR_INVALID_JSON);
        json_decref(v);
        buf_close(&b);
    }
    static const char with_nul[][9] = {"{\"a\":0\0}", "{\"a\": 1\0", "{\"a\":1}\0", "\0{\"a\":1}", "{\"\0\": 1}"};
    for (size_t i = 0; i < sizeof with_nul / sizeof *with_nul; i++) {
        json_t *v = NULL;
        struct err e = {0};
        assert_int_equal(json_parse(with_nul[i], 8, &v, &e), -1);
        assert_int_equal(e.code, ERR_INVALID_JSON);
    }
    static const char *const secrets[] = {
        "{\"prompt\": \"canary\" canary}", "{\"canary\":1,\"canary\":2}", "{\"canary", "{\"a\":canary}",
        "{\"a\":\"canary\\u0000\"}",       "{\"a\":\"canary\xff\"}"};
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
        json_t *v;
        struct err e = {0};
        assert_int_equal(json_parse(secrets[i], strlen(secrets[i]), &v, &e), -1);
        if (strstr(e.msg, "canary")) fail_msg("%s", e.msg);
    }
    struct buf many;
    json_t *v;
    struct err e = {0};
    buf_init(&many, 8 << 20);
    buf_adds(&many, "{\"a\":[");
    for (int i = 0; i < JSON_TOKENS; i++) buf_adds(&many, "{},");
    buf_adds(&many, "1]}");
    assert_int_equal(json_parse(many.data, many.len, &v, &e), -1);
    assert_non_null(strstr(e.msg, "values"));
    buf_close(&many);
}

static void getters_name_the_field_and_its_range(void **state)
{
    (void)state;
    struct err e = {0};
    json_t *v;
    const char *text = "{\"n\":5,\"big\":1e9,\"s\":\"abc\",\"b\":true,\"z\":null,\"f\":0.5}", *s = "kept";
    int64_t n = 42;
    double d = 0;
    bool b = false, present;
    assert_int_equal(json_parse(text, strlen(text), &v, &e), 0);
    assert_int_equal(json_get_int(v, "n", 0, 9, &n, &present, &e), 0);
    assert_true(present && n == 5);
    n = 42;
    assert_int_equal(json_get_int(v, "z", 0, 9, &n, &present, &e), 0);
    assert_true(!present && n == 42);
    assert_int_equal(json_get_num(v, "f", 0, 2, &d, NULL, &e), 0);
    assert_int_equal(json_get_bool(v, "b", &b, NULL, &e), 0);
    assert_true(d == 0.5 && b);
    assert_int_equal(json_get_int(v, "n", 6, 9, &n, NULL, &e), -1);
    assert_string_equal(e.msg, "'n' must be from 6 to 9, not 5");
    assert_string_equal(e.param, "n");
    static const char *const wrong[] = {"s", "b", "f"};
    for (size_t i = 0; i < 3; i++) {
        err_clear(&e);
        assert_int_equal(json_get_int(v, wrong[i], 0, 9, &n, NULL, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
    }
    err_clear(&e);
    assert_int_equal(json_get_str(v, "s", 2, &s, NULL, &e), -1);
    assert_string_equal(s, "kept");
    err_clear(&e);
    assert_int_equal(json_need_str(v, "gone", 9, &s, &e), -1);
    assert_int_equal(e.code, ERR_MISSING);
    struct buf out;
    buf_init(&out, 1000);
    json_error(&e, &out);
    assert_string_equal(
        out.data,
        "{\"error\":{\"message\":\"'gone' is required\",\"type\":\"invalid_request_error\",\"param\":\"gone\","
        "\"code\":\"missing_required_parameter\"}}");
    buf_reset(&out);
    json_dump(v, true, &out);
    assert_string_equal(out.data, "{\"b\":true,\"big\":1000000000.0,\"f\":0.5,\"n\":5,\"s\":\"abc\",\"z\":null}");
    buf_close(&out);
    json_decref(v);
}

static void a_field_that_nobody_knows_is_named(void **state)
{
    (void)state;
    static const char *const names[] = {"model", "scale", NULL}, *const none[] = {NULL};
    struct err e = {0};
    json_t *good = json_pack("{ss}", "scale", "x"), *bad = json_pack("{ss si}", "model", "m", "modle", 1);
    assert_int_equal(json_check_fields(good, names, NULL, &e), 0);
    assert_null(json_other_field(good, names));
    assert_string_equal(json_other_field(good, none), "scale");
    assert_int_equal(json_check_fields(bad, names, NULL, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.param, "modle");
    assert_string_equal(e.msg, "There is no field 'modle' here.");
    err_clear(&e);
    assert_int_equal(json_check_fields(bad, names, "judge", &e), -1);
    assert_string_equal(e.param, "judge");
    json_decref(good);
    json_decref(bad);
}

/* What one log call writes. */
static size_t logged(char out[8192], const char *value)
{
    int pipe_fd[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(pipe_fd), 0);
    dup2(pipe_fd[1], STDERR_FILENO);
    log_warn("tested", LS("v", value), LI("i", -3), LD("d", 0.25));
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(pipe_fd[1]);
    ssize_t n = read(pipe_fd[0], out, 8191);
    close(pipe_fd[0]);
    out[n > 0 ? n : 0] = 0;
    return (size_t)n;
}

static void no_value_can_forge_a_log_line(void **state)
{
    (void)state;
    static const struct {
        const char *value, *want;
    } rows[] = {
        {"plain", " level=warn program=test event=tested v=plain i=-3 d=0.25\n"},
        {"", " v=\"\" i=-3"},
        {NULL, " v=\"\" i=-3"},
        {"two words", " v=\"two words\" i"},
        {"a\nts=x level=error", " v=\"a\\nts=x level=error\" i"},
        {"q\"b\\", " v=\"q\\\"b\\\\\" i"},
        {"\x1b[2J\x7f", " v=\"\\u001b[2J\\u007f\" i"},
        {"\xC2\x9B", " v=\"\\u009b\" i"},
        {"\xff\xC3\xA4", " v=\"\xEF\xBF\xBD\xC3\xA4\" i"},
    };
    char out[8192];
    log_init("test", LOG_WARN);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        logged(out, rows[i].value);
        if (!strstr(out, rows[i].want)) fail_msg("%s", out);
        assert_int_equal(strcspn(out, "\n") + 1, strlen(out));
    }
    char *longest = malloc(9001);
    for (int kind = 0; kind < 3; kind++) {
        memset(longest, kind == 0 ? 'a' : kind == 1 ? ' ' : '\n', 9000);
        longest[9000] = 0;
        size_t n = logged(out, longest);
        assert_in_range(n, 4000, 4096);
        assert_non_null(strstr(out + n - 6, "..."));
        assert_int_equal(out[n - 1], '\n');
    }
    free(longest);
    assert_int_equal(log_level_parse("warn"), LOG_WARN);
    assert_int_equal(log_level_parse("loud"), -1);
}

static void times_are_iso_8601(void **state)
{
    (void)state;
    static const struct {
        int64_t us;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1795255440123456, "2026-11-21T10:04:00.123Z"},
        {951782400000000, "2000-02-29T00:00:00.000Z"},
        {-1, "1969-12-31T23:59:59.999Z"},
        {INT64_MAX, "9999-12-31T23:59:59.999Z"},
        {INT64_MIN, "0000-01-01T00:00:00.000Z"},
    };
    char out[CLOCK_ISO_LEN];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        clock_iso(rows[i].us, out);
        assert_string_equal(out, rows[i].text);
    }
    int64_t t = clock_mono_us();
    assert_true(clock_mono_us() >= t);
}

static void hashes_are_those_of_the_standards(void **state)
{
    (void)state;
    uint8_t d[SHA256_BYTES];
    char hex[SHA256_HEX];
    sha256_of("abc", 3, d); /* FIPS 180-4's example */
    sha256_hex(d, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_hmac("Jefe", 4, "what do ya want for nothing?", 28, d); /* RFC 4231, case 2 */
    sha256_hex(d, hex);
    assert_string_equal(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    struct sha256 h;
    sha256_init(&h);
    for (int i = 0; i < 1000000; i++) sha256_add(&h, "a", 1);
    sha256_end(&h, d);
    sha256_hex(d, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    assert_true(sha256_is_hex(hex));
    hex[3] = 'A';
    assert_false(sha256_is_hex(hex));
    assert_false(sha256_is_hex("ab"));
    assert_true(bytes_equal_ct("abc", "abc", 3));
    assert_false(bytes_equal_ct("abc", "abd", 3));
}

#define IDS 20000

static void *make_ids(void *out)
{
    char(*id)[UUID_LEN] = out;
    for (int i = 0; i < IDS; i++) uuid7(id[i]);
    return NULL;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

static void ids_are_uuid7_unique_and_increasing(void **state)
{
    (void)state;
    char(*id)[UUID_LEN] = malloc(4 * IDS * UUID_LEN);
    pthread_t t[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, make_ids, id + i * IDS), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < 4 * IDS; i++) {
        assert_true(uuid_is(id[i]));
        assert_int_equal(id[i][14], '7');
        if (i % IDS) assert_true(strcmp(id[i - 1], id[i]) < 0);
    }
    qsort(id, 4 * IDS, UUID_LEN, by_text);
    for (int i = 1; i < 4 * IDS; i++) assert_true(strcmp(id[i - 1], id[i]) != 0);
    free(id);
    assert_false(uuid_is("x"));
    assert_false(uuid_is("01234567-0123-7123-8123-0123456789ab0"));
}

static void integers_beyond_64_bits_become_reals_in_model_files(void **state)
{
    (void)state;
    static const char text[] =
        "{\"model_max_length\": 1000000000000000019884624838656, \"a\": [-12345678901234567890123, 7], "
        "\"s\": \"1000000000000000019884624838656 \\\" 99999999999999999999\", \"f\": 0.10000000000000000000001, \"e\": 2e0000000000000000000001, \"m\": 2e-0000000000000000000001}";
    struct err e = {0};
    json_t *o = NULL;
    assert_int_equal(json_parse(text, sizeof text - 1, &o, &e), -1);
    e = (struct err){0};
    assert_int_equal(json_parse_wide(text, sizeof text - 1, &o, &e), 0);
    assert_float_equal(json_real_value(json_object_get(o, "model_max_length")), 1e30, 1e15);
    assert_float_equal(json_real_value(json_array_get(json_object_get(o, "a"), 0)), -12345678901234567890123.0, 1e8);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(o, "a"), 1)), 7);
    assert_string_equal(json_string_value(json_object_get(o, "s")),
                        "1000000000000000019884624838656 \" 99999999999999999999");
    assert_float_equal(json_real_value(json_object_get(o, "f")), 0.1, 1e-12);
    assert_float_equal(json_real_value(json_object_get(o, "e")), 20, 1e-12);
    assert_float_equal(json_real_value(json_object_get(o, "m")), 0.2, 1e-12);
    json_decref(o);
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_beyond_64_bits_become_reals_in_model_files),
        cmocka_unit_test(the_first_error_wins_and_prefixes_grow_in_front),
        cmocka_unit_test(a_field_is_named_with_its_owner_where_both_have_room),
        cmocka_unit_test(a_long_message_is_cut_at_a_whole_character),
        cmocka_unit_test(characters_are_not_bytes),
        cmocka_unit_test(a_buffer_refuses_all_after_its_limit),
        cmocka_unit_test(json_strings_survive_any_bytes),
        cmocka_unit_test(an_arena_gives_aligned_zeroed_memory_up_to_its_limit),
        cmocka_unit_test(json_that_could_not_be_built_is_told_to_the_work_that_met_it),
        cmocka_unit_test(json_from_strangers_is_bounded_and_errors_do_not_quote_it),
        cmocka_unit_test(getters_name_the_field_and_its_range),
        cmocka_unit_test(a_field_that_nobody_knows_is_named),
        cmocka_unit_test(no_value_can_forge_a_log_line),
        cmocka_unit_test(times_are_iso_8601),
        cmocka_unit_test(hashes_are_those_of_the_standards),
        cmocka_unit_test(ids_are_uuid7_unique_and_increasing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
