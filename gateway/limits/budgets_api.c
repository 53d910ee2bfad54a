/* GET .../stats/budgets: budgets of tenants, keys and adapters with their burn-down and forecast, those nearest to their end
 * first (limit_report.h). A page's cursor is the place of its last one in that order. On database threads. */
#include "base/clock.h"
#include "gateway/api/page.h"
#include "gateway/limits/limit_report.h"
#include "gateway/live/live_api.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CURSOR_LEN (LIMIT_SUBJECT_LEN + 64)

static json_t *subject_json(const struct budget *b)
{
    return json_pack("{ss ss* ss*}", "tenant", b->tenant, "key", *b->key ? b->key : NULL, "adapter",
                     *b->adapter ? b->adapter : NULL);
}

static const char *state_of(const struct budget *b)
{
    if (b->hard >= 0 && b->used >= b->hard) return "hard";
    return b->soft >= 0 && b->used >= b->soft ? "soft" : "ok";
}

static json_t *number_or_null(int64_t v, int64_t none)
{
    return v == none ? json_null() : json_integer(v);
}

static json_t *budget_json(const struct budget *b, const struct budget_course *c)
{
    json_t *points = json_array(), *values = json_array();
    for (int i = 0; i < c->n; i++) {
        json_array_append_new(points, json_integer(c->t[i]));
        json_array_append_new(values, json_integer(c->sum[i]));
    }
    bool day = b->end - b->start <= 86400;
    return json_pack("{ss so ss ss sI sI sI sI so so s{so so} sI so ss}", "object", "budget", "subject", subject_json(b),
                     "limit", limit_name[b->kind], "period", day ? "day" : "month", "start_time", (json_int_t)b->start,
                     "end_time", (json_int_t)b->end, "used", (json_int_t)b->used, "reserved", (json_int_t)b->held, "hard",
                     number_or_null(b->hard, -1), "soft", number_or_null(b->soft, -1), "series", "points", points,
                     "values", values, "forecast", (json_int_t)c->forecast, "exhausted_at",
                     number_or_null(c->exhausted_at, 0), "state", state_of(b));
}

static void cursor_of(const struct budget *b, char out[CURSOR_LEN])
{
    snprintf(out, CURSOR_LEN, "%.17g:%d:%s", b->share, (int)b->kind, b->subject);
}

static int read_cursor(const char *text, struct budget *out, struct err *e)
{
    char *end = NULL;
    *out = (struct budget){.share = strtod(text, &end)};
    bool good = *end == ':' && out->share >= 0 && isfinite(out->share) && end[1] >= '0' && end[1] <= '9' && end[2] == ':' &&
                strlen(end + 3) < sizeof out->subject;
    if (!good) return err_field(e, ERR_INVALID, "after", "The cursor must be the last_id of the page before.");
    out->kind = (enum limit_kind)(end[1] - '0');
    snprintf(out->subject, sizeof out->subject, "%s", end + 3);
    return 0;
}

struct budget_ask {
    const char *after;
    int limit;
};

/* The items of the page, into data; cursors of its first and last. */
static int fill(struct limits *l, const struct budget_ask *a, const struct budget *all, int n, int64_t now, json_t *data,
                char at[2][CURSOR_LEN], bool *more, struct err *e)
{
    struct budget after;
    struct budget_course c;
    if (*a->after && read_cursor(a->after, &after, e)) return -1;
    for (int i = 0; i < n; i++) {
        if (*a->after && !budget_before(&after, &all[i])) continue;
        if ((*more = (int)json_array_size(data) == a->limit)) return 0;
        if (budget_course(l, &all[i], now, &c, e)) return -1;
        cursor_of(&all[i], at[json_array_size(data) > 0]);
        if (json_array_size(data) == 0) memcpy(at[1], at[0], CURSOR_LEN);
        json_array_append_new(data, budget_json(&all[i], &c));
    }
    return 0;
}

static int answer(struct http_request *r, json_t *data, struct err *e)
{
    static const char *const also[] = {"limit", "after", NULL};
    struct gateway *g = admin_gateway(r);
    struct span s;
    struct budget *all = NULL;
    char at[2][CURSOR_LEN];
    bool more = false;
    int64_t limit = PAGE_DEFAULT, now = clock_wall_us() / 1000000;
    const char *after = http_query(r, "after");
    int n = 0;
    if (span_read_whose(r, also, &s, e) || admin_query_int(r, "limit", 1, PAGE_MAX, &limit, e)) return -1;
    struct budget_ask a = {after ? after : "", (int)limit};
    int rc = budgets_read(g->limits, s.tenant, now, &all, &n, e) || fill(g->limits, &a, all, n, now, data, at, &more, e);
    free(all);
    if (rc) return -1;
    bool any = json_array_size(data) > 0;
    admin_reply(r, 200, json_pack("{ss sO ss? ss? sb}", "object", "list", "data", data, "first_id", any ? at[0] : NULL,
                                  "last_id", any ? at[1] : NULL, "has_more", more));
    return 0;
}

void budgets_get(struct http_request *r)
{
    struct err e = {0};
    json_t *data = json_array();
    if (answer(r, data, &e)) live_answer(r, -1, NULL, &e);
    json_decref(data);
}
