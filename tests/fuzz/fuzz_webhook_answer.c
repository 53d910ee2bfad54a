/* A receiver's answer to a batch of events: a delivery is a 2xx whose exchange ended well and nothing else is; a pause before the next try is at least half of what our own
 * rule says and at most that, or what Retry-After asks, which is a day at most. Input: two bytes of the status, one for how many failed before, one for the events and whether
 * it broke (bit 128), two for the longest pause in seconds, four of dice, the header's value. */
#include "base/retry_after.h"
#include "gateway/webhook/webhook_answer.h"
#include "tests/fuzz/fuzz.h"

#define NOW_S 1795430000

static void check_verdict(int status, bool broken, int events)
{
    enum hook_verdict v = webhook_verdict(status, broken, events);
    FUZZ_NEED((v == HOOK_DELIVERED) == (status >= 200 && status <= 299 && !broken));
    FUZZ_NEED((v == HOOK_GONE) == (status == 410) && (v != HOOK_SMALLER || (status == 413 && events > 1)));
    FUZZ_NEED(status != 413 || events > 1 || v == HOOK_AGAIN);
}

static void check_pause(int failures, int64_t most_ms, uint32_t dice, const char *text)
{
    int64_t own = HOOK_RETRY_FIRST_MS, ms = webhook_pause_ms(failures, most_ms, dice, text, NOW_S);
    int64_t asked = retry_after_s(text, NOW_S, HOOK_RETRY_AFTER_MAX_S) * 1000, bare = webhook_pause_ms(failures, most_ms, dice, NULL, NOW_S);
    for (int i = 1; i < failures && own < most_ms; i++) own *= 2;
    if (own > most_ms) own = most_ms;
    FUZZ_NEED(bare >= own / 2 && bare <= own && ms == (asked > bare ? asked : bare));
    FUZZ_NEED(asked == -1000 || (asked >= 0 && asked <= HOOK_RETRY_AFTER_MAX_S * 1000));
    FUZZ_NEED(webhook_pause_ms(failures, most_ms, dice, "", NOW_S) == bare);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    int status = (int)(fuzz_byte(&data, &n) << 8);
    status |= (int)fuzz_byte(&data, &n);
    int failures = (int)fuzz_byte(&data, &n);
    unsigned events = fuzz_byte(&data, &n);
    int64_t most_s = (int64_t)fuzz_byte(&data, &n) << 8;
    most_s |= fuzz_byte(&data, &n);
    uint32_t dice = 0;
    for (int i = 0; i < 4; i++) dice = dice << 8 | fuzz_byte(&data, &n);
    char *text = fuzz_text(data, n);
    check_verdict(status % 1000, events & 128, (int)(events & 127));
    check_pause(failures ? failures * 8421504 : 1, (most_s + 1) * 1000, dice, text);
    free(text);
    return 0;
}
