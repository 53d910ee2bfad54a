/* A collector's answer to a batch of spans: of any body no fewer than none and no more spans are refused than were sent, and what is read is what the body says by a
 * second reading; of any status one thing follows; a Retry-After is a number of seconds to the letter, a date of one of three forms, or nothing. Input: a byte of the status,
 * one for the spans, the header's value, a NUL, the body. */
#include "base/json.h"
#include "base/retry_after.h"
#include "gateway/observe/otlp_answer.h"
#include "tests/fuzz/fuzz.h"

#define NOW_S 1795430000
#define MOST_S 30

static void check_rejected(const char *body, size_t n, int64_t sent)
{
    int64_t got = otlp_rejected(body, n, sent), is = 0;
    json_t *v = NULL;
    FUZZ_NEED(got >= 0 && got <= sent);
    if (json_parse(body, n, &v, NULL) == 0) {
        const json_t *said = json_object_get(json_object_get(v, "partialSuccess"), "rejectedSpans");
        const char *text = json_string_value(said);
        if (json_is_integer(said)) is = json_integer_value(said);
        if (text && *text && strlen(text) == strspn(text, "0123456789")) is = strlen(text) > 18 ? -1 : atoll(text);
    }
    if (is >= 0) FUZZ_NEED(got == (is < sent ? is : sent));
    json_decref(v);
}

static void check_verdict(int status)
{
    enum otlp_verdict v = otlp_verdict(status);
    FUZZ_NEED((v == OTLP_TAKEN) == (status / 100 == 2) && (v != OTLP_AGAIN || status == 0 || status == 429 || status / 100 == 5));
}

static void check_after(const char *text)
{
    int64_t s = retry_after_s(text, NOW_S, MOST_S), all = retry_after_s(text, 0, INT64_MAX);
    FUZZ_NEED(s >= -1 && s <= MOST_S && (s < 0) == (all < 0));
    size_t n = strlen(text), digits = strspn(text, "0123456789");
    if (n && digits == n) FUZZ_NEED(s == (n > 9 || atoll(text) > MOST_S ? MOST_S : atoll(text)));
    else if (s >= 0) FUZZ_NEED(n >= 24 && n <= 33 && strchr(text, ':') && strspn(text, "0123456789 :,-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == n && all / 86400 < 8000000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    int status = (int)fuzz_byte(&data, &n) * 4, spans = (int)fuzz_byte(&data, &n);
    char *after = fuzz_until(&data, &n, 0), *body = fuzz_text(data, n);
    for (int i = 0; i < 4; i++) check_verdict(status + i);
    check_after(after);
    check_rejected(body, n, spans);
    FUZZ_NEED(retry_after_s(NULL, NOW_S, MOST_S) == -1);
    free(after);
    free(body);
    return 0;
}
