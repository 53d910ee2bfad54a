/* webhook_answer: a 2xx alone is a delivery, whatever else a stranger's server says (docs/WEBHOOKS.md). */
#include "gateway/webhook/webhook_answer.h"
#include "base/retry_after.h"

enum hook_verdict webhook_verdict(int status, bool broken, int events)
{
    if (status >= 200 && status < 300 && !broken) return HOOK_DELIVERED;
    if (status == 410) return HOOK_GONE;
    return status == 413 && events > 1 ? HOOK_SMALLER : HOOK_AGAIN;
}

int64_t webhook_pause_ms(int failures, int64_t most_ms, uint32_t dice, const char *retry_after, int64_t now_s)
{
    int64_t ms = HOOK_RETRY_FIRST_MS;
    for (int i = 1; i < failures && ms < most_ms; i++) ms *= 2;
    if (ms > most_ms) ms = most_ms;
    ms = ms / 2 + (int64_t)(dice % (uint32_t)(ms / 2 + 1));
    int64_t asked = retry_after_s(retry_after, now_s, HOOK_RETRY_AFTER_MAX_S) * 1000;
    return asked > ms ? asked : ms;
}
