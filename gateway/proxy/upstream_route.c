/* Which way a request goes: the routes of its chain in turn, and on each the engines that the pool picks.
 *
 *   choose      the first route, from the one that is tried now, for which there is an engine and whose adapter's limits
 *               have room; where there is none, but one is starting, coming back or full: wait
 *   elsewhere   this engine turned the request away or failed it: an engine that was not tried yet, or no other
 *   again       this engine was lost: another one, or the same once it is back
 *   next        no engine can load this route's adapter: the routes behind it, on the same engine too, for it was not at fault
 *
 * All of this happens before the first byte of an answer: what the client has read is never said twice. A request is sent
 * again at most EXCHANGE_RETRIES times, and to an engine that it was lost on at most once, so that one which kills engines
 * does not kill all of them. Later routes are tried with what is left of that. */
#include "base/clock.h"
#include "gateway/proxy/quarantine.h"
#include "gateway/proxy/upstream_impl.h"
#include <stdio.h>

static struct pool_want want_of(const struct exchange *x, const struct upstream_route *r, bool elsewhere)
{
    struct pool_want w = {.base = r->what.base,
                          .local_only = x->adm.who.private || auth_is_private(x->g->auth, x->adm.who.key),
                          .tried = x->tried,
                          .only_untried = elsewhere || x->resent};
    if (!w.only_untried) w.tried |= x->kept;
    for (int i = 0; i < r->nneeds && i < PICK_DIGESTS; i++) w.digest[w.ndigests++] = r->need[i].digest;
    return w;
}

void exchange_release(struct exchange *x, enum pick_end how)
{
    bool held = x->pick.m;
    if (held) quarantine_leave(x);
    pool_done(x->g->pool, &x->pick, how);
    if (held) wait_freed(x->up);
}

int exchange_move(struct exchange *x, struct upstream_route *r, struct err *e)
{
    struct admission *a = &x->adm;
    if (limit_move(x->g->limits, &a->held, &a->who, r->what.adapter, e)) return -1;
    x->at = r;
    a->what = r->what;
    a->price = r->price;
    ledger_moved(x->g->ledger, a);
    live_end(x->up->live, &x->live);
    live_begin(x->up->live, a, &x->live);
    return 0;
}

static int take(struct exchange *x, struct upstream_route *r, struct err *e)
{
    if (x->at != r && exchange_move(x, r, e)) {
        exchange_release(x, PICK_UNUSED);
        return -1;
    }
    x->next_need = 0;
    x->reloads = 0;
    snprintf(x->engine, sizeof x->engine, "%s", pick_name(&x->pick));
    x->life = x->pick.life;
    return 0;
}

int exchange_choose(struct exchange *x, bool elsewhere, struct err *e)
{
    struct err none = {0};
    bool waits = false;
    for (struct upstream_route *r = x->at; r < x->route + x->nroutes; r++) {
        struct pool_want w = want_of(x, r, elsewhere);
        struct err why = {0};
        int rc = quarantine_route(x, r, &why) ? -1 : pool_pick(x->g->pool, &w, &x->pick, &why);
        if (rc == 0 && (rc = take(x, r, &why)) == 0) return 0;
        if (rc > 0 && !waits) none = why; /* what is waited for tells more than what there never was */
        if (rc < 0 && !none.code) none = why;
        waits |= rc > 0;
    }
    *e = none;
    return waits ? 1 : -1;
}

static bool may_retry(const struct exchange *x)
{
    return !x->first_written && !x->too_large && x->retries < EXCHANGE_RETRIES;
}

static void give_up(struct exchange *x, enum pick_end how)
{
    x->tried |= x->pick.bit;
    exchange_release(x, how);
}

bool exchange_elsewhere(struct exchange *x, enum pick_end how)
{
    struct err e = {0};
    bool may = may_retry(x);
    give_up(x, how);
    if (!may || exchange_choose(x, true, &e)) return false;
    x->retries++;
    exchange_proceed(x);
    return true;
}

bool exchange_next(struct exchange *x)
{
    struct err e = {0};
    if (x->first_written || x->too_large) return false;
    for (struct upstream_route *r = x->at + 1; r < x->route + x->nroutes; r++) {
        struct pool_want w = want_of(x, r, false);
        w.only_untried = false;
        if (quarantine_route(x, r, &e) || pool_pick(x->g->pool, &w, &x->pick, &e) || take(x, r, &e)) continue;
        exchange_proceed(x);
        return true;
    }
    if (e.code != ERR_QUARANTINED && e.code != ERR_TENANT_QUARANTINED) return false;
    exchange_fail(x, USAGE_REJECTED, &e); /* tells more than why the first one had none */
    return true;
}

bool exchange_again(struct exchange *x, enum pick_end how)
{
    bool may = may_retry(x);
    give_up(x, how);
    if (!may) return false;
    x->retries++;
    exchange_proceed(x); /* which fails it where nobody is left */
    return true;
}
