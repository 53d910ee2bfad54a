/* What an alias says of capture, and what is then taken out of texts. A policy that is taken keeps to its bounds, is the same when printed and read again, and
 * makes a redactor; a text that it redacts is UTF-8 without what a second, simpler look for each kind finds, and redacting it once more changes nothing where the
 * rules are the table's alone (a tenant's pattern may match what it puts in). What is refused has met a limit, or is no UTF-8. Input: the policy, a NUL, the text. */
#include "base/buf.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/capture/redact.h"
#include "tests/fuzz/fuzz.h"
#include <arpa/inet.h>
#include <ctype.h>

#define TEXT_MAX (1 << 22)

/* --- the policy --- */

static void check_policy(const json_t *p)
{
    double sample = json_real_value(json_object_get(p, "sample"));
    json_int_t days = json_integer_value(json_object_get(p, "expires_days")),
               rows = json_integer_value(json_object_get(p, "max_rows")),
               top = json_integer_value(json_object_get(p, "top_logprobs"));
    const json_t *kinds = json_object_get(p, "redact"), *patterns = json_object_get(p, "patterns");
    FUZZ_NEED(json_object_size(p) == 6 && sample > 0 && sample <= 1 && days >= 1 && days <= CAPTURE_DAYS_MAX &&
              rows >= 1 && rows <= CAPTURE_ROWS_MAX && top >= 0 && top <= CAPTURE_TOP_MAX);
    FUZZ_NEED(json_is_array(kinds) && json_is_array(patterns) && json_array_size(patterns) <= REDACT_PATTERNS_MAX);
    for (size_t i = 0; i < json_array_size(kinds); i++) {
        FUZZ_NEED(redact_is_kind(json_string_value(json_array_get(kinds, i))));
        for (size_t k = 0; k < i; k++) FUZZ_NEED(!json_equal(json_array_get(kinds, i), json_array_get(kinds, k)));
    }
}

static void check_printed(const json_t *policy)
{
    json_t *back = NULL, *again = NULL;
    char *text = json_dumps(policy, JSON_COMPACT | JSON_SORT_KEYS);
    FUZZ_NEED(text && json_parse(text, strlen(text), &back, NULL) == 0 && capture_policy_read(back, &again, NULL) == 0);
    FUZZ_NEED(json_equal(again, policy) &&
              capture_policy_top(text) == json_integer_value(json_object_get(policy, "top_logprobs")));
    json_decref(back);
    json_decref(again);
    free(text);
}

/* NULL: it was refused, or asks for nothing. */
static json_t *read_policy(const char *said)
{
    json_t *v = NULL, *policy = NULL;
    struct err e = {0};
    if (json_parse(said, strlen(said), &v, NULL)) return NULL;
    if (capture_policy_read(v, &policy, &e)) {
        FUZZ_NEED(!policy && e.code == ERR_INVALID && e.msg[0] && e.param[0]);
    } else if (policy) {
        check_policy(policy);
        check_printed(policy);
    }
    json_decref(v);
    return policy;
}

/* A client's own wish stays; what is asked for instead is all that is asked for. */
static void check_ask(const char *s, size_t n, int top)
{
    json_t *o = NULL, *was;
    if (json_parse(s, n, &o, NULL)) return;
    was = json_copy_all(o);
    FUZZ_NEED(was);
    if (capture_ask_logprobs(o, top)) {
        FUZZ_NEED(top && json_is_true(json_object_get(o, "logprobs")) &&
                  json_integer_value(json_object_get(o, "top_logprobs")) == top);
        FUZZ_NEED(!json_is_true(json_object_get(was, "logprobs")) && !json_object_get(was, "top_logprobs"));
        json_object_set(was, "logprobs", json_object_get(o, "logprobs"));
        json_object_set(was, "top_logprobs", json_object_get(o, "top_logprobs"));
    }
    FUZZ_NEED(json_equal(was, o));
    json_decref(was);
    json_decref(o);
}

/* --- the second look --- */

static bool is_alnum(char c)
{
    return isalnum((unsigned char)c) != 0 && (c & 0x80) == 0;
}

static bool is_alpha(char c)
{
    return isalpha((unsigned char)c) != 0 && (c & 0x80) == 0;
}

/* An @ between what may stand in a name, and a label with a dot and two letters. */
static bool has_email(const char *s)
{
    for (const char *at = s; (at = strchr(at, '@')); at++) {
        size_t n = 0;
        while (is_alnum(at[1 + n])) n++;
        if (at > s && is_alnum(at[-1]) && n >= 1 && n <= 63 && at[1 + n] == '.' && is_alpha(at[2 + n]) &&
            is_alpha(at[3 + n]))
            return true;
    }
    return false;
}

static bool is_ip(const char *s, size_t n)
{
    char text[64];
    uint8_t v[4];
    snprintf(text, sizeof text, "%.*s", (int)(n < 63 ? n : 63), s);
    return inet_pton(AF_INET, text, v) == 1;
}

static bool adds_up(const char *s, size_t n)
{
    int sum = 0;
    for (size_t i = 0; i < n; i++) {
        int v = (s[n - 1 - i] - '0') * (i % 2 ? 2 : 1);
        sum += v / 10 + v % 10;
    }
    return sum % 10 == 0;
}

static size_t run_of(const char *s, size_t n, int (*is)(int))
{
    size_t k = 0;
    while (k < n && (s[k] & 0x80) == 0 && is((unsigned char)s[k])) k++;
    return k;
}

static bool is_card(const char *s, size_t n)
{
    return n == 16 && run_of(s, n, isdigit) == n && adds_up(s, n);
}

static bool is_phone(const char *s, size_t n)
{
    return n >= 8 && n <= 16 && s[0] == '+' && run_of(s + 1, n - 1, isdigit) == n - 1;
}

static bool is_secret(const char *s, size_t n)
{
    return (n >= 20 && memcmp(s, "sk-", 3) == 0 && run_of(s + 3, n - 3, isalnum) == n - 3) ||
           (n == 20 && memcmp(s, "AKIA", 4) == 0 && run_of(s + 4, 16, isdigit) == 16);
}

/* Of words between spaces, of which there is no doubt. */
static bool has_word(const char *s, bool (*is)(const char *s, size_t n))
{
    while (*s) {
        size_t n = strcspn(s, " ");
        if (n && is(s, n)) return true;
        s += n + (s[n] == ' ');
    }
    return false;
}

static bool has_kind(const json_t *kinds, const char *word)
{
    for (size_t i = 0; i < json_array_size(kinds); i++)
        if (strcmp(json_string_value(json_array_get(kinds, i)), word) == 0) return true;
    return false;
}

static void check_gone(const json_t *kinds, const char *s)
{
    FUZZ_NEED(!has_kind(kinds, "email") || !has_email(s));
    FUZZ_NEED(!has_kind(kinds, "ip") || !has_word(s, is_ip));
    FUZZ_NEED(!has_kind(kinds, "card") || !has_word(s, is_card));
    FUZZ_NEED(!has_kind(kinds, "phone") || !has_word(s, is_phone));
    FUZZ_NEED(!has_kind(kinds, "secret") || !has_word(s, is_secret));
}

/* --- the text --- */

static bool is_utf8(const char *s, size_t n)
{
    bool valid = true;
    for (size_t i = 0; i < n && valid;) i += buf_utf8(s + i, n - i, &valid);
    return valid;
}

static void check_counts(const struct redactor *r)
{
    json_t *counts = redactor_counts(r), *v;
    json_int_t sum = 0;
    const char *name;
    json_object_foreach(counts, name, v) sum += json_integer_value(v);
    FUZZ_NEED(sum == redactor_found(r) && sum <= REDACT_MATCHES_MAX);
    json_decref(counts);
}

/* A string in an object, under a name that may be redacted itself, becomes the same. */
static void check_json(const json_t *policy, const char *s, size_t n, const struct buf *want)
{
    struct redactor *r = NULL;
    json_t *text = json_stringn(s, n), *v, *out = NULL;
    if (!text) return;
    v = json_pack("{s[oin]}", "a@example.com", text, 4111);
    FUZZ_NEED(redactor_new(&r, json_object_get(policy, "redact"), json_object_get(policy, "patterns"), NULL) == 0 &&
              redact_json(r, v, &out, NULL) == 0);
    json_t *list = json_object_iter_value(json_object_iter(out)), *is = json_array_get(list, 0);
    FUZZ_NEED(json_array_size(list) == 3 && json_string_length(is) == want->len &&
              memcmp(json_string_value(is), want->data, want->len) == 0);
    redactor_free(r);
    json_decref(v);
    json_decref(out);
}

static void check_redacted(struct redactor *r, const json_t *policy, const char *s, size_t n, const struct buf *out)
{
    const json_t *kinds = json_object_get(policy, "redact"), *patterns = json_object_get(policy, "patterns");
    bool rules = json_array_size(kinds) || json_array_size(patterns);
    FUZZ_NEED(!rules || is_utf8(s, n));
    FUZZ_NEED(!rules || is_utf8(out->data, out->len));
    FUZZ_NEED(redactor_found(r) > 0 || (out->len == n && memcmp(out->data, s, n) == 0));
    check_counts(r);
    if (strlen(out->data) == out->len) check_gone(kinds, out->data);
    if (json_array_size(patterns)) return; /* which may take more than their time, the next time */
    check_json(policy, s, n, out);
    struct buf twice;
    buf_init(&twice, TEXT_MAX);
    FUZZ_NEED(redact_text(r, out->data, out->len, &twice, NULL) == 0);
    FUZZ_NEED(twice.len == out->len && memcmp(twice.data, out->data, out->len) == 0);
    buf_close(&twice);
}

static void redact(const json_t *policy, const char *s, size_t n)
{
    struct redactor *r = NULL;
    struct buf out;
    struct err e = {0};
    buf_init(&out, TEXT_MAX);
    FUZZ_NEED(redactor_new(&r, json_object_get(policy, "redact"), json_object_get(policy, "patterns"), &e) == 0);
    if (redact_text(r, s, n, &out, &e))
        FUZZ_NEED(e.code == ERR_TOO_LARGE && e.msg[0] &&
                  (!is_utf8(s, n) || json_array_size(json_object_get(policy, "patterns")) || n > 2000));
    else
        check_redacted(r, policy, s, n, &out);
    redactor_free(r);
    buf_close(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *said = fuzz_until(&data, &n, 0), *s = fuzz_text(data, n);
    json_t *policy = read_policy(said);
    if (policy) {
        check_ask(s, n, (int)json_integer_value(json_object_get(policy, "top_logprobs")));
        redact(policy, s, n);
    }
    json_decref(policy);
    free(said);
    free(s);
    return 0;
}
