/* limit_request: between a request that is understood and its way to an engine.
 *
 *     bound: tokens it can have at most -> price -> limit_admit --held--> headers -> upstream_start
 *                                                       `--refused--> headers, retry-after, 429
 *
 * What is reserved is a bound and not an estimate, because N requests at once must never settle above a budget together:
 *
 *   prompt   Each token of a vocabulary stands for at least one byte of the text (bytes fall back to tokens of one byte),
 *            and the body has at least as many bytes as its texts; lists of ids have two bytes a token. What the template
 *            adds to a message is less than the JSON around it, what it adds to all of them (a default system prompt, how
 *            tools are to be called) is TEMPLATE_TOKENS, and tools, which it prints again with white space, count
 *            TOOL_FACTOR times. No prompt is longer than the context, whatever the template does.
 *   answers  max_tokens, or what the context has room for, of each choice to each prompt.
 *
 * English has four bytes a token, so far more is reserved than used; the difference is back when the answer is complete.
 * Price, day and month are those of the request's start, which is one moment for limits, prices and the ledger alike.
 *
 * Near a limit that would refuse what fits, so a refusal by the bound is not the last word: the engine is asked to count
 * (limit_count.c), and its number decides. Worker threads. */
#include "gateway/limits/limit_request.h"
#include "base/clock.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/limits/limit_count.h"
#include "gateway/limits/refused.h"
#include "gateway/live/live.h"
#include "gateway/observe/meters.h"
#include <stdio.h>
#include <stdlib.h>

#define TEMPLATE_TOKENS 512
#define TOOL_FACTOR 4
#define CONTEXT_UNKNOWN 131072
#define NUMBER_LEN 24

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

struct limit_most limit_exact(const struct limit_wish *w, int64_t prompt)
{
    int64_t context = w->max_context > 0 ? w->max_context : CONTEXT_UNKNOWN, n = w->prompts * w->choices;
    int64_t answer = w->max_tokens < 0 ? context : least(w->max_tokens, context);
    prompt *= w->twice ? 2 : 1;
    struct limit_most m = {.prompt = prompt, .output = answer * n};
    /* p + n (context - p) <= n context: an answer without max_tokens ends where the context does. */
    m.tokens = w->max_tokens < 0 && !w->twice ? most(m.output, m.prompt) : m.prompt + m.output;
    if (w->both) m = (struct limit_most){2 * m.prompt, 2 * m.output, 2 * m.tokens};
    return m;
}

struct limit_most limit_bound(const struct limit_wish *w)
{
    int64_t context = w->max_context > 0 ? w->max_context : CONTEXT_UNKNOWN;
    int64_t room = w->max_tokens < 0 || w->twice ? context : most(context - w->max_tokens, 0); /* more is refused by the engine; of what is read to be compressed only what is left needs room beside the answer */
    int64_t bytes = w->body_bytes * (w->tools ? TOOL_FACTOR : 1) + w->prompts * TEMPLATE_TOKENS;
    return limit_exact(w, least(bytes, room * w->prompts));
}

/* --- headers --- */

static void set_number(struct http_request *r, const char *name, int64_t v)
{
    char text[NUMBER_LEN];
    snprintf(text, sizeof text, "%lld", (long long)v);
    http_set_header(r, name, text);
}

static void set_time(struct http_request *r, const char *name, int64_t us)
{
    char text[LIMIT_DURATION_LEN];
    limit_duration(us, text);
    http_set_header(r, name, text);
}

static void set_headers(struct http_request *r, const struct limit_view *v)
{
    if (v->limit_requests >= 0) {
        set_number(r, "x-ratelimit-limit-requests", v->limit_requests);
        set_number(r, "x-ratelimit-remaining-requests", v->remaining_requests);
        set_time(r, "x-ratelimit-reset-requests", v->reset_requests_us);
    }
    if (v->limit_tokens >= 0) {
        set_number(r, "x-ratelimit-limit-tokens", v->limit_tokens);
        set_number(r, "x-ratelimit-remaining-tokens", v->remaining_tokens);
        set_time(r, "x-ratelimit-reset-tokens", v->reset_tokens_us);
    }
}

/* OpenAI's clients take the milliseconds where they are, and don't try again where that is no use. */
static void refuse(struct http_request *r, const struct limit_view *v, const struct err *e)
{
    set_headers(r, v);
    if (e->code != ERR_RATE_LIMIT || v->retry_after_us < 0) http_set_header(r, "x-should-retry", "false");
    if (v->retry_after_us >= 0) {
        set_number(r, "retry-after", (v->retry_after_us + 999999) / 1000000);
        set_number(r, "retry-after-ms", (v->retry_after_us + 999) / 1000);
    }
    http_reply_error(r, e);
}

static void count_refusal(struct gateway *g, const struct principal *who, const struct limit_view *v)
{
    if (!v->scope) return;
    if (g->metrics)
        metric_add(g->metrics, GM_LIMIT_REFUSED, (const char *[]){who->tenant_name, v->scope, limit_name[v->refused]},
                   1);
    refused_count(g->refused, who->tenant, v->scope, v->refused);
    live_refused(upstream_live(g->upstream), who->tenant_name);
}

/* --- asking --- */

/* Prices all ways to answer; returns the most that any of them can cost. */
static int64_t price_routes(struct gateway *g, struct upstream_ask *ask, const struct limit_most *m)
{
    int64_t cost = 0;
    for (struct upstream_route *r = ask->route; r < ask->route + ask->nroutes; r++) {
        r->price = price_of(g->prices, r->what.base, ask->adm.who.tenant, r->what.adapter, ask->adm.t_start);
        cost = most(cost, price_bound(&r->price, m->prompt, m->output));
    }
    return cost;
}

/* As the first way to answer; where another one is taken, the ticket moves to its adapter (upstream_route.c). */
static int admit(struct gateway *g, struct upstream_ask *ask, const struct limit_most *m, struct limit_view *view,
                 struct err *e)
{
    struct admission *a = &ask->adm;
    a->reserved_tokens = m->tokens;
    a->reserved_cost = price_routes(g, ask, m);
    a->price = ask->route[0].price;
    struct limit_ask want = {&a->who, a->what.adapter, a->reserved_tokens, a->reserved_cost, a->t_start};
    return limit_admit(g->limits, &want, &a->held, view, e);
}

static void go_on(struct http_request *r, struct upstream_ask *ask, const struct limit_view *view)
{
    struct gateway *g = r->server_user;
    set_headers(r, view);
    upstream_start(g->upstream, r, ask);
}

static void turn_away(struct http_request *r, struct upstream_ask *ask, const struct limit_view *view,
                      const struct err *e)
{
    struct gateway *g = r->server_user;
    count_refusal(g, &ask->adm.who, view);
    if (e->code == ERR_QUOTA)
        limit_refused(g->limits, &(struct limit_ask){&ask->adm.who, ask->adm.what.adapter, 0, 0, ask->adm.t_start}, view);
    upstream_drop(g, ask);
    if (e->code == ERR_RATE_LIMIT || e->code == ERR_QUOTA)
        refuse(r, view, e);
    else
        http_reply_error(r, e);
}

/* A refusal that waits for the engine's count. */
struct doubt {
    struct http_request *r;
    struct upstream_ask ask;
    struct limit_wish wish;
    struct limit_view view;
    struct err err;
};

static void counted(void *u, int64_t prompt)
{
    struct doubt *d = u;
    struct err e = {0};
    struct limit_most m = limit_exact(&d->wish, prompt);
    if (prompt < 0)
        turn_away(d->r, &d->ask, &d->view, &d->err);
    else if (admit(d->r->server_user, &d->ask, &m, &d->view, &e))
        turn_away(d->r, &d->ask, &d->view, &e);
    else
        go_on(d->r, &d->ask, &d->view);
    free(d);
}

/* Would it pass if its prompts were as short as can be? */
static bool is_doubtful(struct gateway *g, struct upstream_ask *ask, const struct limit_wish *w,
                        const struct limit_view *view)
{
    struct limit_most m = limit_exact(w, w->prompts);
    struct limit_view unused;
    if (view->refused != LIMIT_TOKENS_MINUTE && !limit_is_budget(view->refused)) return false;
    if (admit(g, ask, &m, &unused, NULL)) return false;
    limit_release(g->limits, &ask->adm.held);
    return true;
}

void limit_start(struct http_request *r, struct upstream_ask *ask, const struct limit_wish *w)
{
    struct gateway *g = r->server_user;
    struct limit_most m = limit_bound(w);
    struct limit_view view;
    struct err e = {0};
    ask->adm.t_start = usage_start(r->id, clock_wall_us());
    if (admit(g, ask, &m, &view, &e) == 0) {
        go_on(r, ask, &view);
        return;
    }
    bool limited = e.code == ERR_RATE_LIMIT || e.code == ERR_QUOTA;
    struct doubt *d = limited && is_doubtful(g, ask, w, &view) ? malloc(sizeof *d) : NULL;
    if (d) {
        *d = (struct doubt){r, *ask, *w, view, e};
        if (limit_count(g, ask, counted, d) == 0) return;
        free(d);
    }
    turn_away(r, ask, &view, &e);
}
