/* The pipeline of a request from its admission to the engine.
 *
 *   upstream_start -> [ledger: writer thread] -> admitted -> proceed --engine down--> wait (timer) -> proceed
 *                                                              |  |
 *                                          adapter not known   |  +--> exchange_send -> [client thread] -> upstream_answer.c
 *                                                              v          ^
 *                                                        [engine_load] -> loaded
 *
 * Whatever happens the request gets one answer, and the answer is the last thing that a stage does with the exchange:
 * it may be freed at once after. Settlement hangs on the request's own end (http_on_free), which comes exactly once,
 * after the last byte or the loss of the client, so "exactly once" and "what was delivered" need no further state.
 *
 * The client may leave at any time: `gone` is set, a call under way is cancelled, and each stage looks at it before it
 * goes on.
 *
 * Lock order: exchange.lock before those of client and engine; exchange.write before those of the stream; never both.
 */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/upstream_impl.h"
#include <stdlib.h>
#include <string.h>

static void exchange_free(struct exchange *x)
{
    relay_close(&x->relay);
    buf_close(&x->answer);
    buf_close(&x->tail);
    pthread_mutex_destroy(&x->lock);
    pthread_mutex_destroy(&x->write);
    free(x->body);
    free(x);
}

void exchange_unref(struct exchange *x)
{
    if (atomic_fetch_sub(&x->refs, 1) == 1) exchange_free(x);
}

static struct exchange *exchange_new(struct upstream *u, struct http_request *r, const struct upstream_ask *ask)
{
    struct exchange *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->up = u;
    x->g = u->g;
    x->req = r;
    x->adm = ask->adm;
    memcpy(x->adm.id, r->id, sizeof x->adm.id);
    x->adm.t_start = clock_wall_us();
    x->path = ask->path;
    memcpy(x->need, ask->need, sizeof x->need);
    x->nneeds = ask->nneeds;
    x->named_by = ask->named_by;
    x->body = malloc(ask->body_len + 1);
    x->body_len = ask->body_len;
    x->durable = strcmp(u->set->ack, "durable") == 0;
    atomic_init(&x->refs, 1);
    pthread_mutex_init(&x->lock, NULL);
    pthread_mutex_init(&x->write, NULL);
    relay_init(&x->relay);
    buf_init(&x->answer, EXCHANGE_ANSWER_MAX);
    buf_init(&x->tail, EXCHANGE_ANSWER_MAX);
    if (!x->body) {
        exchange_free(x);
        return NULL;
    }
    memcpy(x->body, ask->body, ask->body_len);
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
    if (x->admitted) exchange_settle(x, NULL, NULL);
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
    return &x->need[x->next_need];
}

/* The engine refused to load the adapter, or could not be asked. */
static void load_failed(struct exchange *x, const struct err *cause)
{
    struct err e = {0};
    bool lost = cause->code == ERR_ENGINE || cause->code == ERR_UNAVAILABLE;
    if (lost && ++x->lost_loads < EXCHANGE_LOADS) {
        engine_suspect(x->g->engine);
        x->next_need = 0;
        exchange_proceed(x);
        return;
    }
    switch (cause->code) {
    case ERR_NOT_FOUND: /* deleted since the registry was asked */
        err_field(&e, ERR_MODEL_NOT_FOUND, x->named_by,
                  "The model `%s` does not exist or you do not have access to it.", failed_need(x)->name);
        exchange_fail(x, USAGE_REJECTED, &e);
        return;
    case ERR_NO_SLOT:
    case ERR_QUEUE_FULL:
    case ERR_DEADLINE:
    case ERR_UNAVAILABLE:
        exchange_fail(x, USAGE_REJECTED, cause);
        return;
    case ERR_UPSTREAM_TIMEOUT:
        exchange_fail(x, USAGE_TIMEOUT, cause);
        return;
    default: /* a validated adapter that the engine refuses is our fault, not the client's */
        log_error("adapter_load", LS("id", x->adm.id), LS("digest", failed_need(x)->digest), LS("error", cause->msg));
        err_set(&e, ERR_ENGINE, "the engine could not load `%s`", failed_need(x)->name);
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
    }
}

static void loaded(void *u, bool cold, const struct err *e)
{
    struct exchange *x = u;
    x->cold |= cold;
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

/* 0: it is there; 1: waiting for it; -1: waited long enough. */
static int need_engine(struct exchange *x)
{
    int64_t now = clock_mono_us(), wait_us = EXCHANGE_ENGINE_WAIT_MS * 1000LL;
    if (engine_ready(x->g->engine)) {
        x->engine_wait_until = 0;
        return 0;
    }
    if (x->up->set->first_byte_ms * 1000 < wait_us) wait_us = x->up->set->first_byte_ms * 1000;
    if (!x->engine_wait_until) x->engine_wait_until = now + wait_us;
    if (now >= x->engine_wait_until) return -1;
    wait_engine(x);
    return 1;
}

void exchange_proceed(struct exchange *x)
{
    struct err e = {0};

    if (is_gone(x)) {
        exchange_drop(x);
        return;
    }
    int rc = need_engine(x);
    if (rc > 0) return;
    while (x->next_need < x->nneeds && engine_has(x->g->engine, x->need[x->next_need].digest)) x->next_need++;
    if (rc < 0) {
        err_set(&e, ERR_UNAVAILABLE, "the engine is not ready; try again");
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
    } else if (x->next_need < x->nneeds) {
        engine_load(x->g->engine, x->need[x->next_need].digest, loaded, x);
    } else if (exchange_send(x, &e)) {
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
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
    if (x->adm.stream) wait_keepalive(x);
    exchange_proceed(x);
}

void upstream_start(struct upstream *u, struct http_request *r, const struct upstream_ask *ask)
{
    struct err e = {0};
    struct exchange *x = exchange_new(u, r, ask);
    if (!x) {
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
