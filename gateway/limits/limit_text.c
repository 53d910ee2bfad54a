/* limit_text: the calendar that budgets go by, and the words of a refusal.
 *
 * Three causes, which a client must be able to tell apart: it asks too fast (rate_limit_exceeded, with the time after
 * which the same request passes), a budget is spent (insufficient_quota, with the time at which it begins anew), or the
 * request alone is more than the limit, so that no time will help. What stands in the way may be reserved and not used:
 * such a budget isn't spent, and the answer is the first. Pure functions, any thread. */
#include "gateway/limits/limit_internal.h"
#include "gateway/limits/limit_request.h"
#include <stdio.h>
#include <time.h>

#define DAY_S 86400

const char *const limit_name[LIMIT_KINDS] = {
    "requests_per_minute", "tokens_per_minute", "concurrent_requests", "tokens_per_day",
    "tokens_per_month",    "cost_per_day",      "cost_per_month",      "adapters",
    "adapter_bytes",       "adapter_rank",      "adapters_pinned",
};

/* As people say them. */
static const char *const said[LIMIT_ADMITTED] = {
    "requests per minute", "tokens per minute", "concurrent requests", "tokens per day",
    "tokens per month",    "cost per day",      "cost per month",
};

int limit_day(int64_t wall_us)
{
    return (int)(wall_us / 1000000 / DAY_S);
}

int limit_month(int64_t wall_us)
{
    time_t s = (time_t)(wall_us / 1000000);
    struct tm tm = {0};
    gmtime_r(&s, &tm);
    return (tm.tm_year + 1900) * 12 + tm.tm_mon;
}

int64_t limit_period_start(enum limit_span span, int id)
{
    struct tm tm = {.tm_year = id / 12 - 1900, .tm_mon = id % 12, .tm_mday = 1};
    return span == LIMIT_DAY ? (int64_t)id * DAY_S : (int64_t)timegm(&tm);
}

void limit_duration(int64_t us, char out[LIMIT_DURATION_LEN])
{
    long long ms = (us + 999) / 1000, s = (ms + 999) / 1000;
    if (ms < 1000)
        snprintf(out, LIMIT_DURATION_LEN, "%lldms", ms < 0 ? 0 : ms);
    else if (s < 60)
        snprintf(out, LIMIT_DURATION_LEN, "%llds", s);
    else if (s < 3600)
        snprintf(out, LIMIT_DURATION_LEN, "%lldm%llds", s / 60, s % 60);
    else
        snprintf(out, LIMIT_DURATION_LEN, "%lldh%lldm%llds", s / 3600, s / 60 % 60, s % 60);
}

int limit_refuse(const struct limit_refusal *r, struct err *e)
{
    const char *unit = limit_is_cost(r->kind) ? " (nano-units)" : "";
    bool spent = limit_is_budget(r->kind) && r->used + r->ask > r->max;
    char wait[LIMIT_DURATION_LEN];
    limit_duration(r->wait_us, wait);
    if (r->wait_us < 0)
        return err_set(
            e, spent ? ERR_QUOTA : ERR_RATE_LIMIT,
            "Request too large for %s `%s` on %s%s: limit %lld, requested %lld. It can never pass; shorten the "
            "prompt or lower max_tokens.",
            r->scope, r->name, said[r->kind], unit, (long long)r->max, (long long)r->ask);
    if (spent)
        return err_set(
            e, ERR_QUOTA,
            "You exceeded the budget of %s `%s` on %s%s: limit %lld, used %lld, requested %lld. It begins anew "
            "in %s.",
            r->scope, r->name, said[r->kind], unit, (long long)r->max, (long long)r->used, (long long)r->ask, wait);
    return err_set(
        e, ERR_RATE_LIMIT,
        "Rate limit reached for %s `%s` on %s%s: limit %lld, used %lld, requested %lld. Please try again in %s.",
        r->scope, r->name, said[r->kind], unit, (long long)r->max, (long long)(r->used + r->held), (long long)r->ask,
        wait);
}
