/* What of a text is redacted and what is not, what an alias may say of capture, and answers without what was asked for beyond the client's wish. */
#include "base/json.h"
#include "gateway/auth/auth_store.h"
#include "gateway/capture/capture.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/capture/redact.h"
#include "gateway/proxy/logprobs_strip.h"
#include "tests/unit/data_room.h"
#include <cmocka.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *all_kinds(void)
{
    json_t *list = json_array();
    for (int i = 0; redact_kind(i); i++) json_array_append_new(list, json_string(redact_kind(i)));
    return list;
}

static const struct {
    const char *text, *want;
} texts[] = {
    {"", ""},
    {"Hello there, how are you?", "Hello there, how are you?"},
    {"Mail a.b+c@example.co.uk now", "Mail [email] now"},
    {"j\xc3\xbcrgen@b\xc3\xbc" "cher.example, ok", "[email], ok"},
    {"a@b is no address", "a@b is no address"},
    {"card 4111 1111 1111 1111.", "card [card]."},
    {"card 4111-1111-1111-1111", "card [card]"},
    {"card 5500005555555559", "card [card]"},
    {"card 4111 1111 1111 1111 12/27, 4111111111111111 123", "card [card] 12/27, [card] 123"}, /* not 18 and 19 digits that don't add up */
    {"room 1 4111 1111 1111 1111", "room 1 [card]"},
    {"1.2.3.4sk-abcdefghijklmnopqrst", "[ip][secret]"}, /* which begins a word only when the address went */
    {"token=[email] password: [ip]", "token=[email] password: [ip]"}, /* what a redaction put there */
    {"no card: 411111111111111", "no card: [phone]"}, /* fifteen digits whose sum is wrong */
    {"10.1.2.3 and 256.1.1.1 and 1.2.3", "[ip] and 256.1.1.1 and 1.2.3"},
    {"version 1.2.3.4.5", "version 1.2.3.4.5"},
    {"at 2001:db8::1, at ::1", "at [ip], at [ip]"},
    {"at 12:30:45 o'clock", "at 12:30:45 o'clock"},
    {"call +47 22 33 41 30 or (030) 123-4567", "call [phone] or [phone]"},
    {"call 0047 2233 4130!", "call [phone]!"},
    {"order 1234567 of 2026-11-23, 12 pieces at 3.50", "order 1234567 of 2026-11-23, 12 pieces at 3.50"},
    {"key sk-abcdefghijklmnop1234", "key [secret]"},
    {"Authorization: Bearer abcdefghijklmnopqrst", "Authorization: Bearer [secret]"},
    {"AKIAIOSFODNN7EXAMPLE", "[secret]"},
    {"eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "[secret]"},
    {"token=hunter22&x=1", "token=[secret]&x=1"},
    {"dGhpcyBpcyBub3QgYSB3b3JkIDEyMzQ1Njc4OQ==", "[secret]"},
    {"an-ordinary-hyphenated-chain-of-words-in-a-row", "an-ordinary-hyphenated-chain-of-words-in-a-row"},
    {"{\"card\": 4111111111111111, \"n\": 1.50}", "{\"card\": \"[card]\", \"n\": 1.50}"}, /* a text that is JSON stays that */
    {"[4722334130, 12, true, -4722334130]", "[\"[phone]\", 12, true, -4722334130]"},
    {" {\"to\": \"x@example.com\", \"4111111111111111\": 1}", " {\"to\": \"[email]\", \"[card]\": 1}"},
    {"{\"text\": \"mail:\\nbob@example.com\", \"same\": \"a\\u00e9\\/\"}", "{\"text\": \"mail:\\n[email]\", \"same\": \"a\\u00e9\\/\"}"},
    {"{\"in\": \"{\\\"card\\\": 4111111111111111}\"}", "{\"in\": \"{\\\"card\\\": \\\"[card]\\\"}\"}"},
    {"[note] call 4722334130", "[note] call [phone]"},
    {"{card: 4111111111111111}", "{card: [card]}"},
    {"4111111111111111", "[card]"},
    {"[6011000990139424000]", "[6011000990139424000]"}, /* no card */
    {"[9500000000000000000]", "[\"[card]\"]"}, /* more than an integer holds */
    {"-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- after", "[secret] after"},
};

static void a_text_loses_what_has_a_shape_and_nothing_else(void **state)
{
    (void)state;
    json_t *kinds = all_kinds();
    struct redactor *r;
    struct err e = {0};
    assert_int_equal(redactor_new(&r, kinds, NULL, &e), 0);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct buf out;
        buf_init(&out, 4096);
        if (redact_text(r, texts[i].text, strlen(texts[i].text), &out, &e)) fail_msg("%s: %s", texts[i].text, e.msg);
        if (strcmp(out.data, texts[i].want) != 0) fail_msg("%s became %s, not %s", texts[i].text, out.data, texts[i].want);
        buf_close(&out);
    }
    redactor_free(r);
    json_decref(kinds);
}

static json_t *parsed(const char *text)
{
    json_t *v = json_load(text, strlen(text), JSON_DECODE_ANY, NULL);
    assert_non_null(v);
    return v;
}

static void an_object_is_redacted_in_all_its_strings_and_counted(void **state)
{
    (void)state;
    json_t *kinds = parsed("[\"email\"]"), *patterns = parsed("[{\"name\":\"order\",\"regex\":\"ORD-\\\\d+\"}]");
    json_t *v = parsed("{\"a\":[\"x@example.com\",{\"b\":\"ORD-1 and ORD-2\",\"y@example.com\":1}],\"n\":3,\"z\":null}");
    json_t *want = parsed("{\"a\":[\"[email]\",{\"b\":\"[order] and [order]\",\"[email]\":1}],\"n\":3,\"z\":null}"), *counts = parsed("{\"email\":2,\"order\":2}");
    struct redactor *r;
    struct err e = {0};
    json_t *out = NULL;
    assert_int_equal(redactor_new(&r, kinds, patterns, &e), 0);
    assert_int_equal(redact_json(r, v, &out, &e), 0);
    json_t *found = redactor_counts(r);
    assert_true(json_equal(out, want));
    assert_true(json_equal(found, counts));
    assert_int_equal(redactor_found(r), 4);
    json_t *all[] = {kinds, patterns, v, want, counts, out, found};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) json_decref(all[i]);
    redactor_free(r);
}

/* A kind that is listed twice is refused; in what stands it is one kind, however many patterns it has. */
static void a_kind_that_is_said_again_is_one(void **state)
{
    (void)state;
    json_t *kinds = json_array(), *patterns = json_array(), *v = parsed("{\"redact\":[\"secret\",\"email\",\"secret\",\"email\",\"secret\"]}"), *out = NULL;
    struct redactor *r;
    struct buf text;
    struct err e = {0};
    assert_int_equal(capture_policy_read(v, &out, &e), -1);
    assert_string_equal(e.param, "capture.redact");
    for (int i = 0; i < 16; i++) json_array_append_new(kinds, json_string("secret"));
    for (int i = 0; i < REDACT_PATTERNS_MAX; i++) json_array_append_new(patterns, json_pack("{ss ss}", "name", "p", "regex", "zebra"));
    assert_int_equal(redactor_new(&r, kinds, patterns, &e), 0);
    buf_init(&text, 4096);
    assert_int_equal(redact_text(r, "token=hunter22 zebra", 20, &text, &e), 0);
    assert_string_equal(text.data, "token=[secret] [p]");
    assert_int_equal(redactor_found(r), 2);
    buf_close(&text);
    redactor_free(r);
    json_t *all[] = {kinds, patterns, v, out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) json_decref(all[i]);
}

/* Patterns of strangers: one that backtracks without end, one that matches nothing everywhere, one that moves its own beginning. */
static void a_pattern_that_meets_a_limit_fails_the_text(void **state)
{
    (void)state;
    static const struct {
        const char *regex;
        int rc;
        const char *want;
    } rows[] = {{"(a+)+$", -1, NULL}, {"x*", 0, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}, {"a\\Ka*", 0, "a[p]!"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *patterns = json_pack("[{ss ss}]", "name", "p", "regex", rows[i].regex);
        const char *text = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
        struct redactor *r;
        struct buf out;
        struct err e = {0};
        buf_init(&out, 4096);
        assert_int_equal(redactor_new(&r, NULL, patterns, &e), 0);
        int rc = redact_text(r, text, strlen(text), &out, &e);
        if (rc != rows[i].rc || (rc == 0 && strcmp(out.data, rows[i].want) != 0)) fail_msg("%s: %d %s", rows[i].regex, rc, out.data);
        if (rc) assert_int_equal(e.code, ERR_TOO_LARGE);
        buf_close(&out);
        redactor_free(r);
        json_decref(patterns);
    }
}

/* Some less than the limit's steps at each of a million places: a minute and more, were there no limit for all of them. */
static void a_pattern_that_is_slow_everywhere_fails_the_text(void **state)
{
    (void)state;
    json_t *patterns = json_pack("[{ss ss}]", "name", "p", "regex", "[a ]{0,1000}[a ]{0,90}[bc]");
    struct redactor *r;
    struct buf text, out;
    struct err e = {0};
    buf_init(&text, 1 << 21), buf_init(&out, 1 << 21);
    while (text.len < 1 << 20) buf_adds(&text, "aaaa aaaa aaaa aaaa ");
    assert_int_equal(redactor_new(&r, NULL, patterns, &e), 0);
    assert_int_equal(redact_text(r, text.data, text.len, &out, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    redactor_free(r);
    buf_close(&text), buf_close(&out);
    json_decref(patterns);
}

static void a_policy_is_stored_with_all_its_defaults(void **state)
{
    (void)state;
    static const char *const nothing[] = {"null", "{}"};
    struct err e = {0};
    json_t *out = NULL, *v = parsed("{\"sample\":0.25}");
    json_t *want = parsed("{\"sample\":0.25,\"expires_days\":30,\"max_rows\":5000,\"top_logprobs\":0,\"redact\":[\"secret\",\"email\",\"card\",\"ip\",\"phone\"],\"patterns\":[]}");
    assert_int_equal(capture_policy_read(v, &out, &e), 0);
    assert_true(json_equal(out, want));
    json_decref(v);
    json_decref(out);
    for (size_t i = 0; i < 2; i++) {
        v = parsed(nothing[i]);
        assert_int_equal(capture_policy_read(v, &out, &e), 0);
        assert_null(out);
        json_decref(v);
    }
    assert_int_equal(capture_policy_top("{\"sample\":1,\"top_logprobs\":5}"), 5);
    assert_int_equal(capture_policy_top("{\"sample\":1}"), 0);
    json_decref(want);
}

/* Seven rules are of the kind `secret`: said twelve times they would be more than a redactor has room for. */
static void a_kind_is_said_once_and_applied_once(void **state)
{
    (void)state;
    struct err e = {0};
    json_t *out = NULL, *v = parsed("{\"redact\":[\"email\",\"secret\",\"email\"]}"), *words = json_array();
    struct redactor *r;
    struct buf b;
    assert_int_equal(capture_policy_read(v, &out, &e), -1);
    assert_int_equal(e.code, ERR_INVALID);
    assert_string_equal(e.param, "capture.redact");
    for (int i = 0; i < 12; i++) json_array_append_new(words, json_string("secret"));
    buf_init(&b, 4096);
    assert_int_equal(redactor_new(&r, words, NULL, &e), 0);
    assert_int_equal(redact_text(r, "AKIAIOSFODNN7EXAMPLE", 20, &b, &e), 0);
    assert_string_equal(b.data, "[secret]");
    assert_int_equal(redactor_found(r), 1);
    redactor_free(r);
    buf_close(&b);
    json_decref(words);
    json_decref(v);
}

static void log_probabilities_are_asked_for_only_where_the_client_said_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *body;
        bool asked;
    } rows[] = {{"{}", true}, {"{\"logprobs\":false}", true}, {"{\"logprobs\":null}", true}, {"{\"logprobs\":true}", false}, {"{\"logprobs\":true,\"top_logprobs\":2}", false}, {"{\"top_logprobs\":2}", false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *v = parsed(rows[i].body);
        assert_int_equal(capture_ask_logprobs(v, 5), rows[i].asked);
        if (rows[i].asked) assert_int_equal(json_integer_value(json_object_get(v, "top_logprobs")), 5);
        json_decref(v);
    }
    json_t *v = parsed("{}");
    assert_false(capture_ask_logprobs(v, 0));
    assert_int_equal(json_object_size(v), 0);
    json_decref(v);
}

static const struct {
    const char *in, *want;
} strips[] = {
    {"{\"id\":\"1\",\"choices\":[{\"index\":0,\"logprobs\":{\"content\":[{\"token\":\"}\\\"\"}]},\"x\":1},{\"logprobs\":null}],\"usage\":{}}",
     "{\"id\":\"1\",\"choices\":[{\"index\":0,\"logprobs\":null,\"x\":1},{\"logprobs\":null}],\"usage\":{}}"},
    {"{\"choices\":[{\"text\":\"\\\"logprobs\\\":{}\"}],\"logprobs\":{}}", "{\"choices\":[{\"text\":\"\\\"logprobs\\\":{}\"}],\"logprobs\":{}}"},
    {"{\"choices\":[]}", "{\"choices\":[]}"},
    {"{\"choices\":[{\"logprobs\":{", "{\"choices\":[{\"logprobs\":{"},
    {"not JSON", "not JSON"},
};

static void an_answer_loses_its_log_probabilities_and_no_other_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof strips / sizeof *strips; i++) {
        struct buf out, line, lines, want;
        buf_init(&out, 4096), buf_init(&line, 4096), buf_init(&lines, 4096), buf_init(&want, 4096);
        assert_int_equal(logprobs_strip(strips[i].in, strlen(strips[i].in), &out), 0);
        assert_string_equal(out.data, strips[i].want);
        buf_addf(&line, ": c\n\ndata: %s\n\ndata: [DONE]\n", strips[i].in);
        buf_addf(&want, ": c\n\ndata: %s\n\ndata: [DONE]\n", strips[i].want);
        if (*strips[i].in != '{') buf_reset(&line), buf_adds(&line, want.data);
        assert_int_equal(logprobs_strip_lines(line.data, line.len, &lines), 0);
        assert_string_equal(lines.data, want.data);
        buf_close(&out), buf_close(&line), buf_close(&lines), buf_close(&want);
    }
    static const char *const starts[] = {"data:", "data:   "}; /* of other servers */
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        char line[256], want[256];
        struct buf out;
        buf_init(&out, 4096);
        snprintf(line, sizeof line, "%s{\"choices\":[{\"logprobs\":{}}]}\n\n", starts[i]);
        snprintf(want, sizeof want, "%s{\"choices\":[{\"logprobs\":null}]}\n\n", starts[i]);
        assert_int_equal(logprobs_strip_lines(line, strlen(line), &out), 0);
        assert_string_equal(out.data, want);
        buf_close(&out);
    }
}

/* --- stopped while one is under way --- */

static const char whose[] = "01890000-0000-7000-8000-00000000000a";

static int captures_there(struct room *x)
{
    char path[sizeof x->dir + 64];
    int n = 0;
    snprintf(path, sizeof path, "%s/captures/%s", x->dir, whose);
    DIR *d = opendir(path);
    for (const struct dirent *f; d && (f = readdir(d));) n += *f->d_name != '.';
    if (d) closedir(d);
    return n;
}

/* The look at the stop is some milliseconds before the file: a capture that was being redacted meanwhile is not written any more. */
static void after_a_stop_nothing_more_is_written(void **state)
{
    (void)state;
    struct room x;
    struct captures *c = NULL;
    struct err e = {0};
    const struct actor by = {.key = "tester", .ip = "", .request = ""};
    struct capture_new n = {.tenant = whose, .id = "01890000-0000-7000-8000-000000000001", .alias = "talk", .expires_s = 9999999999, .max_rows = 10, .max_bytes = 1 << 20};
    json_t *row = parsed("{\"answer\":\"yes\"}");
    room_new(&x);
    room_start(&x);
    assert_ok(captures_open(&c, x.db, &e), e);
    assert_ok(captures_add(c, &n, row, &e), e);
    assert_ok(captures_stop(c, &by, whose, true, &e), e);
    n.id = "01890000-0000-7000-8000-000000000002";
    assert_int_equal(captures_add(c, &n, row, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_int_equal(captures_there(&x), 1);
    e = (struct err){0};
    assert_ok(captures_stop(c, &by, whose, false, &e), e);
    assert_ok(captures_add(c, &n, row, &e), e);
    assert_int_equal(captures_there(&x), 2);
    captures_close(c);
    room_end(&x);
    json_decref(row);
}

/* --- an alias that says `capture` no more --- */

struct saying {
    struct captures *c;
    bool still;
    pthread_t answering;
    _Atomic bool answered;
};

static void *answer_none(void *u)
{
    struct saying *s = u;
    captures_fence(s->c);
    s->answered = true;
    return NULL;
}

static bool says_still(void *u) { return ((struct saying *)u)->still; }

/* Asked when it is being kept: the alias's change is answered meanwhile, or would be. */
static bool says_still_and_is_changed_at_once(void *u)
{
    struct saying *s = u;
    assert_int_equal(pthread_create(&s->answering, NULL, answer_none, s), 0);
    usleep(50000);
    assert_false(s->answered);
    return true;
}

static void what_an_alias_asks_for_no_more_is_not_written(void **state)
{
    (void)state;
    struct room x;
    struct saying s = {.still = true};
    struct err e = {0};
    struct capture_new n = {.tenant = whose, .id = "01890000-0000-7000-8000-000000000001", .alias = "talk", .expires_s = 9999999999, .max_rows = 10, .max_bytes = 1 << 20,
                            .still = says_still, .u = &s};
    json_t *row = parsed("{\"answer\":\"yes\"}");
    room_new(&x);
    room_start(&x);
    assert_ok(captures_open(&s.c, x.db, &e), e);
    assert_ok(captures_add(s.c, &n, row, &e), e);
    s.still = false;
    n.id = "01890000-0000-7000-8000-000000000002";
    assert_int_equal(captures_add(s.c, &n, row, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_int_equal(captures_there(&x), 1);
    n.still = says_still_and_is_changed_at_once;
    e = (struct err){0};
    assert_ok(captures_add(s.c, &n, row, &e), e);
    pthread_join(s.answering, NULL);
    assert_true(s.answered);
    captures_close(s.c);
    room_end(&x);
    json_decref(row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_loses_what_has_a_shape_and_nothing_else),
        cmocka_unit_test(an_object_is_redacted_in_all_its_strings_and_counted),
        cmocka_unit_test(a_kind_that_is_said_again_is_one),
        cmocka_unit_test(a_pattern_that_meets_a_limit_fails_the_text),
        cmocka_unit_test(a_pattern_that_is_slow_everywhere_fails_the_text),
        cmocka_unit_test(a_policy_is_stored_with_all_its_defaults),
        cmocka_unit_test(a_kind_is_said_once_and_applied_once),
        cmocka_unit_test(log_probabilities_are_asked_for_only_where_the_client_said_nothing),
        cmocka_unit_test(an_answer_loses_its_log_probabilities_and_no_other_byte),
        cmocka_unit_test(after_a_stop_nothing_more_is_written),
        cmocka_unit_test(what_an_alias_asks_for_no_more_is_not_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
