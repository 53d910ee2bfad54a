/* The pipeline of a request from its admission to the engine.
 *
 *   upstream_start -> [ledger: writer thread] -> admitted -> proceed: pick --none now--> wait (timer) -> proceed
 *                                                              |  |      (upstream_route.c)
 *                                          adapter not known   |  +--> exchange_send -> [client thread] -> upstream_answer.c
 *                                                              v          ^
 *                                                         [pool_load] -> loaded
 *
 * Whatever happens the request gets one answer, and the answer is the last thing that a stage does with the exchange:
 * it may be freed at once after. Settlement hangs on the request's own end (http_on_free), which comes exactly once,
 * after the last byte or the loss of the client, so "exactly once" and "what was delivered" need no further state.
 *
 * The client may leave at any time: `gone` is set, a call under way is cancelled, and each stage looks at it before it
 * goes on.
 *
 * An engine is held (x->pick) from the pick until its part is over: the answer, its loss, or another engine in its place.
 *
 * Lock order: exchange.lock before those of client, pool and engine; exchange.write before those of the stream; never both.
 */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/proxy/quarantine.h"
#include "gateway/proxy/upstream_impl.h"
#include "gateway/quality/quality.h"
#include <stdlib.h>
#include <string.h>

/* Bodies, and the holds of what was needed. */
static void drop_routes(struct gateway *g, struct upstream_route *route, int n)
{
    for (int i = 0; i < n; i++) {
        free(route[i].body);
        route[i].body = NULL;
        while (route[i].nneeds > 0) registry_release(g->registry, route[i].need[--route[i].nneeds].digest);
    }
}

void upstream_drop(struct gateway *g, struct upstream_ask *ask)
{
    drop_routes(g, ask->route, UPSTREAM_ROUTES); /* those that were not finished hold something, too */
    quality_drop(ask->watch);
    ask->watch = NULL;
    trial_free(ask->trial);
    ask->trial = NULL;
}

static void exchange_free(struct exchange *x)
{
    relay_close(&x->relay);
    buf_close(&x->answer);
    buf_close(&x->tail);
    buf_close(&x->body);
    pthread_mutex_destroy(&x->lock);
    pthread_mutex_destroy(&x->write);
    drop_routes(x->g, x->route, x->nroutes);
    quality_drop(x->watch);
    free(x->route);
    trial_free(x->trial);
    free(x);
}

void exchange_unref(struct exchange *x)
{
    if (atomic_fetch_sub(&x->refs, 1) == 1) exchange_free(x);
}

static struct exchange *exchange_new(struct upstream *u, struct http_request *r, const struct upstream_ask *ask)
{
    struct exchange *x = calloc(1, sizeof *x);
    struct upstream_route *route = calloc((size_t)ask->nroutes, sizeof *route);
    if (!x || !route) {
        free(x);
        free(route);
        return NULL;
    }
    x->up = u;
    x->g = u->g;
    x->req = r;
    x->adm = ask->adm;
    memcpy(x->adm.id, r->id, sizeof x->adm.id);
    x->arrived_us = clock_mono_us();
    x->path = ask->path;
    x->named_by = ask->named_by;
    x->policy = ask->policy;
    x->watch = ask->watch;
    x->trial = ask->trial;
    x->strip = ask->strip;
    memcpy(route, ask->route, (size_t)ask->nroutes * sizeof *route);
    x->nroutes = ask->nroutes;
    x->route = x->at = route;
    x->seen = r->seen;
    if (x->seen) x->seen->has_exchange = true;
    observe_enter(x->seen, STAGE_ADMISSION, "");
    atomic_init(&x->refs, 1);
    pthread_mutex_init(&x->lock, NULL);
    pthread_mutex_init(&x->write, NULL);
    relay_init(&x->relay);
    buf_init(&x->answer, EXCHANGE_ANSWER_MAX);
    buf_init(&x->tail, EXCHANGE_ANSWER_MAX);
    buf_init(&x->body, EXCHANGE_BODY_MAX);
    return x;
}

static void client_gone(struct http_request *r)
{
    struct exchange *x = r->user;
    pthread_mutex_lock(&x->lock);
    x->gone = true;
    if (x->call) client_cancel(x->call);
    pthread_mutex_unlock(&x->lock);
}

static void request_over(struct http_request *r)
{
    struct exchange *x = r->user;
    if (x->admitted)
        exchange_settle(x, NULL, NULL);
    else
        limit_release(x->g->limits, &x->adm.held); /* as if it had not asked */
    observe_over(x);
    live_end(x->up->live, &x->live);
    exchange_unref(x);
}

static bool is_gone(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    return gone;
}

static const struct upstream_need *failed_need(const struct exchange *x)
{
    return &x->at->need[x->next_need];
}

static void load_refused(struct exchange *x, const struct err *cause)
{
    struct err e = {0};
    switch (cause->code) {
    case ERR_NOT_FOUND: /* deleted since the registry was asked */
        err_field(&e, ERR_MODEL_NOT_FOUND, x->named_by,
                  "The model `%s` does not exist or you do not have access to it.", failed_need(x)->name);
        exchange_fail(x, USAGE_REJECTED, &e);
        return;
    case ERR_NO_SLOT:
    case ERR_FETCH: /* as the engine says why */
    case ERR_QUEUE_FULL:
    case ERR_DEADLINE:
    case ERR_UNAVAILABLE:
        exchange_fail(x, USAGE_REJECTED, cause);
        return;
    case ERR_UPSTREAM_TIMEOUT:
        exchange_fail(x, USAGE_TIMEOUT, cause);
        return;
    default: /* a validated adapter that the engine refuses is our fault, not the client's */
        log_error("adapter_load", LS("id", x->adm.id), LS("engine", x->engine), LS("digest", failed_need(x)->digest),
                  LS("error", cause->msg));
        err_set(&e, ERR_ENGINE, "the engine could not load `%s`", failed_need(x)->name);
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
    }
}

/* The engine refused to load the adapter, or could not be asked: another one may do it, or the chain goes on. */
static void load_failed(struct exchange *x, const struct err *cause)
{
    struct err copy = *cause;
    bool lost = cause->code == ERR_ENGINE || cause->code == ERR_UNAVAILABLE, late = cause->code == ERR_UPSTREAM_TIMEOUT;
    if (lost) quarantine_lost(x);
    if (late) quarantine_left(x);
    if (lost && ++x->lost_loads < EXCHANGE_LOADS) {
        if (exchange_again(x, PICK_LOST)) return;
    } else if (exchange_elsewhere(x, late ? PICK_TIMEOUT : PICK_REFUSED)) {
        return;
    }
    if (!late && exchange_next(x)) return;
    load_refused(x, &copy);
}

static void loaded(void *u, bool cold, const struct err *e)
{
    struct exchange *x = u;
    x->cold |= cold;
    x->load_us += clock_mono_us() - x->load_begun_us;
    if (is_gone(x)) {
        exchange_drop(x);
        return;
    }
    if (e) {
        load_failed(x, e);
        return;
    }
    x->next_need++;
    exchange_proceed(x);
}

/* No engine now: whether to wait for one. */
static bool may_wait(struct exchange *x)
{
    int64_t now = clock_mono_us(), wait_us = EXCHANGE_ENGINE_WAIT_MS * 1000LL;
    if (x->g->set->first_byte_ms * 1000 < wait_us) wait_us = x->g->set->first_byte_ms * 1000;
    if (!x->engine_wait_until) x->engine_wait_until = now + wait_us;
    return now < x->engine_wait_until;
}

/* A trial keeps it from the engine that was picked: others come first the next time. Nobody is told of a place that came free: it was woken for none
 * (next_in_turn), and looks at each tick. */
static void hold(struct exchange *x)
{
    x->kept |= x->pick.bit;
    pool_done(x->g->pool, &x->pick, PICK_UNUSED);
    if (!x->held && may_wait(x)) x->engine_wait_until += 2 * BLAME_TRIAL_US;
    x->held = true;
}

/* rc of exchange_choose(), not 0. */
static void without_engine(struct exchange *x, int rc, struct err *e)
{
    struct err lost = {0}, full = {0};
    if (rc > 0 && may_wait(x)) {
        if (wait_engine(x, &full) == 0) return;
        e = &full;
    }
    if (rc < 0 && x->retries) { /* there was one, and it is what failed */
        err_set(&lost, ERR_ENGINE, "the engine failed while it served the request");
        e = &lost;
    }
    bool ours = e->code == ERR_UNAVAILABLE || e->code == ERR_ENGINE;
    exchange_fail(x, ours ? USAGE_UPSTREAM_ERROR : USAGE_REJECTED, e);
}

static void send_now(struct exchange *x)
{
    struct err e = {0};
    if (exchange_send(x, &e) == 0) return;
    if (e.code == ERR_UNSUPPORTED && exchange_elsewhere(x, PICK_REFUSED))
        return; /* another kind may have the words for it */
    exchange_fail(x, err_info(e.code)->status < 500 || e.code == ERR_DEADLINE ? USAGE_REJECTED : USAGE_UPSTREAM_ERROR,
                  &e);
}

void exchange_proceed(struct exchange *x)
{
    struct err e = {0};

    if (is_gone(x)) {
        if (!receipt_ask(x)) exchange_drop(x);
        return;
    }
    if (!x->pick.m) observe_enter(x->seen, STAGE_PICK, "");
    int rc = x->pick.m ? 0 : exchange_choose(x, false, &e);
    if (rc == 0 && quarantine_enter(x, &e)) {
        hold(x);
        rc = 1;
    }
    if (rc) {
        without_engine(x, rc, &e);
        return;
    }
    x->resent |= (x->tried & x->pick.bit) != 0;
    x->engine_wait_until = 0;
    x->kept = 0;
    x->held = false;
    wait_served(x);
    while (x->next_need < x->at->nneeds && pool_has(&x->pick, x->at->need[x->next_need].digest)) x->next_need++;
    if (x->next_need < x->at->nneeds) {
        x->load_begun_us = clock_mono_us();
        observe_enter(x->seen, STAGE_LOAD, x->engine);
        pool_load(&x->pick, x->at->need[x->next_need].digest, loaded, x);
    } else {
        send_now(x);
    }
}

static void admitted(void *u, const struct err *e)
{
    struct exchange *x = u;
    if (e) {
        exchange_fail(x, USAGE_REJECTED, e);
        return;
    }
    x->admitted = true;
    live_begin(x->up->live, &x->adm, &x->live);
    if (x->adm.stream) wait_keepalive(x);
    exchange_proceed(x);
}

void upstream_start(struct upstream *u, struct http_request *r, const struct upstream_ask *ask)
{
    struct err e = {0};
    struct exchange *x = exchange_new(u, r, ask);
    if (!x) {
        struct limit_ticket held = ask->adm.held;
        limit_release(u->g->limits, &held);
        struct upstream_ask copy = *ask;
        upstream_drop(u->g, &copy);
        err_set(&e, ERR_NO_MEMORY, "no memory for the request");
        http_reply_error(r, &e);
        return;
    }
    r->user = x;
    http_on_free(r, request_over);
    http_on_gone(r, client_gone);
    if (http_is_gone(r)) client_gone(r);
    if (ledger_admit(u->g->ledger, &x->adm, admitted, x, &e)) exchange_fail(x, USAGE_REJECTED, &e);
}
