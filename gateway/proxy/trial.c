/* trial: how an adaptive alias's request is planned, looked at and moved (trial.h).
 *
 * What is wrong with the small model is never the request's loss: where it has no engine, is lost, late, busy or refuses for the large adapter's limits, the chain's own rules
 * take the next route (upstream_route.c), and what it failed to say is not billed. What it said in vain is: settled_route carries it to the ledger. */
#include "gateway/proxy/trial.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/proxy/logprobs_strip.h"
#include "gateway/proxy/upstream_impl.h"
#include "gateway/quality/route_book.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_LEN 128

struct trial {
    struct route_rules rules;
    double x[ROUTE_SEEN]; /* features: of the request, and behind them of the probe once there was a look */
    double ratio;         /* cost of the small one's answer to the large one's */
    double need;          /* of the last decision: how much better the large one is expected to be, 0 to 1 */
    char targets[SHA256_HEX];
    const char *reason; /* of the last decision; static */
    bool large_first; /* planned for the large one: the routes are turned round */
    bool looks;       /* the small one's answer is read */
    bool open;        /* and nothing is decided yet */
    bool strip;       /* the client did not ask for log-probabilities */
    /* What the look came to. From the plan on these, open, need and reason change under exchange.write alone: a timer may tell them in the header. */
    bool kept, stop, escalated;
    json_t *asked; /* what the client said in the field `logprobs`, or NULL */
    struct route_probe probe;
    struct buf held;
    uint64_t mark; /* output tokens whose events are complete in `held` */
    /* The probe, once it was in vain: id "" before. Counts in tokens, t_end in microseconds. */
    char id[UUID_LEN], engine[64];
    struct target what;
    struct price price;
    int64_t prompt, cached, output, t_end;
};

/* --- the plan --- */

static void name_targets(const struct target *small, const struct target *large, char out[SHA256_HEX])
{
    const struct target *const both[] = {small, large};
    struct sha256 h;
    uint8_t sum[SHA256_BYTES];
    sha256_init(&h);
    for (int i = 0; i < 2; i++) {
        sha256_add(&h, both[i]->base, strlen(both[i]->base) + 1);
        sha256_add(&h, both[i]->digest, strlen(both[i]->digest) + 1);
    }
    sha256_end(&h, sum);
    sha256_hex(sum, out);
}

/* By a token of each kind, at today's prices. */
static double ratio_of(struct gateway *g, const struct principal *who, const struct route_rules *rules, const struct target *small, const struct target *large)
{
    if (rules->ratio > 0) return rules->ratio;
    int64_t now = clock_wall_us();
    struct price s = price_of(g->prices, small->base, who->tenant, small->adapter, now), l = price_of(g->prices, large->base, who->tenant, large->adapter, now);
    double of_small = (double)(s.prompt + s.output), of_large = (double)(l.prompt + l.output);
    if (of_large <= 0) return ROUTE_RATIO;
    return of_small < of_large ? of_small / of_large : 1;
}

/* One answer to one prompt, of which the first tokens can be told. */
static bool can_look(const struct trial *t, const struct chat_ask *w, const json_t *root)
{
    bool one = w->choices == 1 && w->prompts == 1 && !json_object_get(root, "best_of") && !json_is_true(json_object_get(root, "echo"));
    return one && t->rules.tokens > 0 && t->rules.arm == ROUTE_AUTO;
}

/* What says anything of them goes on as it is: what is wrong with it is the engine's to refuse. */
static bool says_logprobs(const struct chat_ask *w, const json_t *root)
{
    const json_t *v = json_object_get(root, "logprobs"), *top = json_object_get(root, "top_logprobs");
    bool none = !v || json_is_null(v) || (w->chat && json_is_false(v));
    bool none_top = !w->chat || !top || json_is_null(top) || (json_is_integer(top) && json_integer_value(top) == 0);
    return !none || !none_top;
}

static struct trial *trial_new(const char *rules)
{
    json_t *v = NULL;
    struct trial *t = calloc(1, sizeof *t);
    if (!t) return NULL;
    buf_init(&t->held, EXCHANGE_ANSWER_MAX);
    if (json_parse(rules, strlen(rules), &v, NULL) == 0) route_rules_of(v, &t->rules);
    json_decref(v);
    return t;
}

static void decide(struct trial *t, struct gateway *g, const struct principal *who, const char *alias)
{
    struct route_choice c = route_book_ask(g->routing, who->tenant, alias, t->targets, &t->rules, t->x);
    t->large_first = c.large;
    t->need = c.need;
    t->reason = t->rules.arm == ROUTE_AUTO ? "request" : "arm";
}

int trial_plan(struct http_request *r, const struct chat_ask *w, const json_t *root, struct choice *c, struct trial **out, struct err *e)
{
    struct gateway *g = r->server_user;
    const struct principal *who = r->user;
    *out = NULL;
    if (!c->part[ALIAS_ROUTING] || c->n != 2 || json_object_get(root, "adapters")) return 0;
    struct trial *t = trial_new(c->part[ALIAS_ROUTING]);
    if (!t) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    name_targets(&c->target[0], &c->target[1], t->targets);
    route_features(root, w->chat, t->x);
    t->ratio = ratio_of(g, who, &t->rules, &c->target[0], &c->target[1]);
    decide(t, g, who, w->model);
    t->looks = t->open = !t->large_first && can_look(t, w, root);
    t->strip = t->looks && !says_logprobs(w, root);
    if (t->large_first) {
        struct target small = c->target[0];
        c->target[0] = c->target[1];
        c->target[1] = small;
    }
    *out = t;
    return 0;
}

void trial_free(struct trial *t)
{
    if (!t) return;
    json_decref(t->asked);
    buf_close(&t->held);
    free(t);
}

void trial_ask(struct trial *t, int route, json_t *root)
{
    if (!t || !t->strip || route != 0) return;
    t->asked = json_incref(json_object_get(root, "logprobs"));
    json_object_set_new(root, "logprobs", json_object_get(root, "messages") ? json_true() : json_integer(0));
}

void trial_asked(struct trial *t, int route, json_t *root)
{
    if (!t || !t->strip || route != 0) return;
    if (t->asked)
        json_object_set(root, "logprobs", t->asked);
    else
        json_object_del(root, "logprobs");
}

/* --- the look --- */

static bool at_small(const struct exchange *x)
{
    return x->trial && !x->trial->large_first && x->at == x->route;
}

bool trial_reads(const struct exchange *x)
{
    return at_small(x) && x->trial->looks;
}

void trial_restart(struct exchange *x)
{
    if (!trial_holds(x)) return;
    x->trial->probe = (struct route_probe){0};
    x->trial->mark = 0;
    buf_reset(&x->trial->held);
}

bool trial_holds(const struct exchange *x)
{
    return at_small(x) && x->trial->open;
}

int trial_event(struct exchange *x, const char *data, size_t n, struct buf *out)
{
    struct trial *t = x->trial;
    json_t *o = NULL;
    if (t->open && json_parse(data, n, &o, NULL) == 0) route_probe_read(&t->probe, o, t->rules.tokens); /* what can't be read goes on: what it is, the relay says */
    json_decref(o);
    return t->strip ? logprobs_strip(data, n, out) : buf_add(out, data, n);
}

enum trial_verdict trial_look(struct exchange *x, bool over)
{
    struct trial *t = x->trial;
    struct route_choice c = {false, t->need};
    bool told = t->probe.n > 0; /* some engines tell none */
    if (t->probe.n < t->rules.tokens && !over) return TRIAL_WAIT;
    route_probe_features(&t->probe, t->rules.tokens, t->x + ROUTE_ASK);
    if (told) c = route_book_seen(x->g->routing, x->adm.who.tenant, x->adm.alias, t->targets, &t->rules, t->x);
    pthread_mutex_lock(&x->write); /* the timer may open the stream, and says how it stands */
    t->open = false;
    t->need = c.need;
    t->reason = told ? "tokens" : "no_logprobs";
    t->kept = told && !c.large;
    t->stop = c.large;
    pthread_mutex_unlock(&x->write);
    return c.large ? TRIAL_ESCALATE : TRIAL_KEEP;
}

enum trial_verdict trial_whole(struct exchange *x)
{
    struct trial *t = x->trial;
    struct buf said;
    json_t *o = NULL;
    if (json_parse(x->answer.data, x->answer.len, &o, NULL) == 0) route_probe_read(&t->probe, o, t->rules.tokens);
    json_decref(o);
    enum trial_verdict v = t->open ? trial_look(x, true) : TRIAL_KEEP;
    if (v == TRIAL_KEEP && t->strip) {
        buf_init(&said, EXCHANGE_ANSWER_MAX);
        if (logprobs_strip(x->answer.data, x->answer.len, &said) == 0) {
            buf_close(&x->answer);
            x->answer = said;
        } else {
            buf_close(&said);
        }
    }
    return v;
}

int trial_hold(struct exchange *x, const char *bytes, size_t n, uint64_t mark)
{
    x->trial->mark = mark;
    return buf_add(&x->trial->held, bytes, n);
}

const struct buf *trial_held(const struct exchange *x, uint64_t *mark)
{
    *mark = x->trial->mark;
    return &x->trial->held;
}

bool trial_stopped(const struct exchange *x)
{
    return at_small(x) && x->trial->stop;
}

/* --- to the large one --- */

static void keep_probe(struct exchange *x)
{
    struct trial *t = x->trial;
    const struct relay_counts *c = &x->relay.counts;
    uuid7(t->id);
    memcpy(t->engine, x->engine, sizeof t->engine);
    t->what = x->adm.what;
    t->price = x->adm.price;
    t->prompt = c->prompt;
    t->cached = c->cached < c->prompt ? c->cached : c->prompt;
    t->output = c->output;
    t->t_end = exchange_now(x);
}

/* As if nothing had been sent; -1: the large adapter's limits refuse. */
static int move(struct exchange *x, enum pick_end how, struct err *e)
{
    exchange_release(x, how);
    if (exchange_move(x, x->route + 1, e)) return -1;
    x->tried = 0;
    x->retries = 0;
    return 0;
}

static void forget_answer(struct exchange *x)
{
    relay_reset(&x->relay);
    buf_reset(&x->answer);
    x->shown_tokens = x->noted_tokens = 0;
}

void trial_escalate(struct exchange *x)
{
    struct trial *t = x->trial;
    struct err e = {0};
    keep_probe(x);
    forget_answer(x);
    bool moved = move(x, PICK_OK, &e) == 0;
    pthread_mutex_lock(&x->write);
    t->stop = false;
    t->looks = t->strip;
    t->escalated = moved;
    if (!moved) t->reason = "large_limited"; /* better the small one's answer, all of it, than none */
    pthread_mutex_unlock(&x->write);
    exchange_proceed(x);
}

bool trial_instead(struct exchange *x)
{
    struct err e = {0};
    if (!at_small(x) || x->first_written || x->too_large || move(x, PICK_REFUSED, &e)) return false;
    forget_answer(x);
    exchange_proceed(x);
    return true;
}

/* --- what is told of it --- */

static enum route_way way_of(const struct exchange *x)
{
    const struct trial *t = x->trial;
    bool first = x->at == x->route;
    if (t->large_first) return first ? ROUTE_DIRECT : ROUTE_UNSEEN;
    if (!first) return t->escalated ? ROUTE_ESCALATED : ROUTE_DIRECT;
    return t->kept ? ROUTE_KEPT : ROUTE_UNSEEN;
}

static const char *reason_of(const struct exchange *x)
{
    if (x->at == x->route || x->trial->escalated) return x->trial->reason;
    return x->trial->large_first ? "large_unavailable" : "small_unavailable";
}

void trial_header(struct exchange *x)
{
    char text[HEADER_LEN];
    if (!x->trial) return;
    enum route_way way = way_of(x);
    bool is_large = way == ROUTE_DIRECT || way == ROUTE_ESCALATED;
    if (trial_holds(x))
        snprintf(text, sizeof text, "undecided");
    else
        snprintf(text, sizeof text, "%s; way=%s; need=%.2f; reason=%s", is_large ? "large" : "small", route_way_name[way], x->trial->need, reason_of(x));
    http_set_header(x->req, "x-weft-route", text);
}

struct settled_route *trial_settled(struct exchange *x, enum usage_state state)
{
    struct trial *t = x->trial;
    struct settled_route *s = t ? calloc(1, sizeof *s) : NULL;
    if (!s) return NULL;
    s->way = way_of(x);
    s->need = t->need;
    s->reason = reason_of(x);
    s->cost = route_cost(&t->rules, t->ratio, (enum route_way)s->way);
    memcpy(s->targets, t->targets, sizeof s->targets);
    if (t->rules.learn && state == USAGE_COMPLETED) s->nfeatures = (int)route_features_pack(t->x, s->features, sizeof s->features);
    memcpy(s->probe, t->id, sizeof s->probe);
    memcpy(s->engine, t->engine, sizeof s->engine);
    s->what = t->what;
    s->price = t->price;
    s->prompt = t->prompt;
    s->cached = t->cached;
    s->output = t->output;
    s->t_end = t->t_end;
    return s;
}

void trial_probe(const struct exchange *x, int64_t *tokens, int64_t *cost)
{
    const struct trial *t = x->trial;
    bool there = t && *t->id;
    *tokens = there ? t->prompt + t->output : 0;
    *cost = there ? price_cost(&t->price, t->prompt, t->cached, t->output) : 0;
}
