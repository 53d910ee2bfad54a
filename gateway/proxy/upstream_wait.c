/* Waits of exchanges: one thread, one list, one tick.
 *
 * In the list are streams that have no token yet (they get a comment every keepalive_ms, so that proxies between us and
 * the client keep the connection) and requests that wait for an engine that is being restarted. A tick looks at all of
 * them: some thousand entries cost less than a heap would to keep. While the list is empty the thread sleeps.
 *
 * Those that wait for an engine have one of max_waiting places, and no tenant more than half of them; who would not have its turn in time,
 * at the pace at which places came free of late, gets none. So a crowd is refused at once, before its bodies are read (upstream_has_room),
 * not after it has waited in vain, and the others still find room. As soon as
 * a place comes free it is offered to the tenant that has the fewest, to its oldest, so that a crowd has no more than its share of
 * the places and those who came later do not take it meanwhile.
 *
 * A tick collects what is due under the lock, up to BATCH with a reference each, and acts without it: an action may
 * take an exchange out of the list, answer and free it. The list is bounded by the listener's connections. */
#include "base/clock.h"
#include "gateway/pool/place.h"
#include "gateway/proxy/upstream_impl.h"
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 256
#define PACE_US 5000000 /* places that come free are counted over about so long */
#define PACE_LEAST 8    /* fewer tell nothing */
#define PACE_PART 0.8   /* of the longest wait: who is let in shall not be refused later */

static void list_add(struct upstream *u, struct exchange *x)
{
    if (x->listed) return;
    struct exchange *before = u->last;
    while (before && before->arrived_us > x->arrived_us) before = before->prev;
    x->listed = true;
    x->prev = before;
    x->next = before ? before->next : u->first;
    *(x->next ? &x->next->prev : &u->last) = x;
    *(before ? &before->next : &u->first) = x;
    pthread_cond_signal(&u->wake);
}

static void list_drop(struct upstream *u, struct exchange *x)
{
    if (!x->listed) return;
    x->listed = false;
    *(x->prev ? &x->prev->next : &u->first) = x->next;
    *(x->next ? &x->next->prev : &u->last) = x->prev;
}

void wait_keepalive(struct exchange *x)
{
    struct upstream *u = x->up;
    pthread_mutex_lock(&u->lock);
    x->due_us = clock_mono_us() + u->g->set->keepalive_ms * 1000;
    list_add(u, x);
    pthread_mutex_unlock(&u->lock);
}

static int refuse(struct err *e)
{
    return err_set(e, ERR_QUEUE_FULL, "too many requests wait for an engine; try again");
}

struct queue {
    int64_t all, own, tenants; /* requests; of one tenant; tenants that have some, the one in question too: a few are taken for one */
};

/* With the lock held. As many as max_waiting are looked at, besides streams that have a place already. */
static struct queue queue_for(const struct upstream *u, const char *tenant)
{
    struct queue q = {.all = atomic_load(&u->queued)};
    uint64_t seen = 1ull << (place_hash(tenant) & 63);
    for (const struct exchange *x = u->first; x; x = x->next) {
        if (!x->queued) continue;
        q.own += strcmp(x->adm.who.tenant, tenant) == 0;
        seen |= 1ull << (place_hash(x->adm.who.tenant) & 63);
    }
    q.tenants = __builtin_popcountll(seen);
    return q;
}

/* Would one more have its turn in time, at the pace of late? An engine that gives no place is not full but away: nobody knows then. */
static bool is_in_time(const struct upstream *u, const struct queue *q)
{
    int64_t waited_us = clock_mono_us() - u->pace.since_us, turns = (q->own + 1) * q->tenants;
    if (q->all == 0 || u->pace.frees < PACE_LEAST || waited_us < PACE_US / 10) return true;
    if (turns > q->all + 1) turns = q->all + 1;
    return (double)turns * (double)waited_us / u->pace.frees < EXCHANGE_ENGINE_WAIT_MS * 1000.0 * PACE_PART;
}

static bool has_room(struct upstream *u, const char *tenant)
{
    int64_t most = u->g->set->max_waiting;
    struct queue q = queue_for(u, tenant);
    return q.all < most && q.own < (most + 1) / 2 && is_in_time(u, &q);
}

int upstream_has_room(struct upstream *u, const struct principal *who, struct err *e)
{
    if (!atomic_load(&u->queued)) return 0;
    pthread_mutex_lock(&u->lock);
    bool room = has_room(u, who->tenant);
    pthread_mutex_unlock(&u->lock);
    return room ? 0 : refuse(e);
}

static void look_again(struct upstream *u, struct exchange *x)
{
    x->look_us = clock_mono_us() + UPSTREAM_TICK_MS * 1000 / 2;
    list_add(u, x);
}

int wait_engine(struct exchange *x, struct err *e)
{
    struct upstream *u = x->up;
    pthread_mutex_lock(&u->lock);
    bool room = x->queued || has_room(u, x->adm.who.tenant);
    if (room) {
        if (!x->queued && atomic_fetch_add(&u->queued, 1) == 0) u->pace = (struct pace){.since_us = clock_mono_us()};
        x->queued = true;
        look_again(u, x);
    }
    pthread_mutex_unlock(&u->lock);
    return room ? 0 : refuse(e);
}

void wait_tick(struct exchange *x)
{
    struct upstream *u = x->up;
    pthread_mutex_lock(&u->lock);
    look_again(u, x);
    pthread_mutex_unlock(&u->lock);
}

/* With the lock held. */
static void give_place(struct upstream *u, struct exchange *x)
{
    if (x->queued) atomic_fetch_sub(&u->queued, 1);
    x->queued = false;
}

void wait_served(struct exchange *x)
{
    struct upstream *u = x->up;
    if (!x->queued) return;
    pthread_mutex_lock(&u->lock);
    give_place(u, x);
    pthread_mutex_unlock(&u->lock);
}

void wait_freed(struct upstream *u)
{
    if (!atomic_load(&u->queued)) return;
    pthread_mutex_lock(&u->lock);
    u->freed++;
    u->pace.frees++;
    if (clock_mono_us() - u->pace.since_us > PACE_US) { /* what is long ago counts half */
        u->pace.since_us += (clock_mono_us() - u->pace.since_us) / 2;
        u->pace.frees /= 2;
    }
    pthread_cond_signal(&u->wake);
    pthread_mutex_unlock(&u->lock);
}

void wait_forget(struct exchange *x)
{
    struct upstream *u = x->up;
    pthread_mutex_lock(&u->lock);
    x->look_us = x->due_us = 0;
    list_drop(u, x);
    give_place(u, x);
    pthread_mutex_unlock(&u->lock);
}

struct due {
    struct exchange *x;
    bool keepalive, engine;
};

/* Under the lock: whose turn it is for a place that came free: of the tenant that has the fewest already, the oldest. Whom a trial keeps waiting a place helps nothing. */
static struct exchange *next_in_turn(struct upstream *u)
{
    struct exchange *next = NULL;
    int least = INT_MAX;
    for (struct exchange *x = u->first; x; x = x->next) {
        int running = x->queued && x->look_us && !x->held ? live_running(u->live, &x->live) : INT_MAX;
        if (running < least) least = running, next = x;
    }
    return next;
}

/* Under the lock. */
static int collect_freed(struct upstream *u, struct due *out)
{
    int n = 0;
    struct exchange *x;
    while (u->freed > 0 && n < BATCH && (x = next_in_turn(u))) {
        u->freed--;
        x->look_us = 0;
        atomic_fetch_add(&x->refs, 1);
        out[n++] = (struct due){x, false, true};
    }
    u->freed = 0;
    return n;
}

/* Under the lock. What is collected is due again only after `now`, so the rounds of one tick end. */
static int collect(struct upstream *u, struct due *out, int64_t now)
{
    int n = 0;
    for (struct exchange *x = u->first, *next; x && n < BATCH; x = next) {
        next = x->next;
        bool keepalive = x->due_us && x->due_us <= now, engine = x->look_us && x->look_us <= now;
        if (!keepalive && !engine) continue;
        if (keepalive) x->due_us = now + u->g->set->keepalive_ms * 1000;
        if (engine) x->look_us = 0;
        if (!x->due_us && !x->look_us && !x->queued) list_drop(u, x);
        atomic_fetch_add(&x->refs, 1);
        out[n++] = (struct due){x, keepalive, engine};
    }
    return n;
}

/* The lock is held, and given back meanwhile. */
static void act(struct upstream *u, const struct due *due, int n)
{
    pthread_mutex_unlock(&u->lock);
    for (int i = 0; i < n; i++) {
        if (due[i].keepalive) exchange_keepalive(due[i].x);
        if (due[i].engine) exchange_proceed(due[i].x);
        exchange_unref(due[i].x);
    }
    pthread_mutex_lock(&u->lock);
}

static void tick(struct upstream *u)
{
    struct due due[BATCH];
    int64_t now = clock_mono_us();
    act(u, due, collect_freed(u, due));
    for (int n = BATCH; n == BATCH;) {
        n = collect(u, due, now);
        act(u, due, n);
    }
}

static void nap(struct upstream *u)
{
    struct timespec t;
    if (u->stop || u->freed > 0) return; /* set while tick() had given the lock back */
    if (!u->first) {
        pthread_cond_wait(&u->wake, &u->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += UPSTREAM_TICK_MS * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    while (!u->stop && !u->freed && pthread_cond_timedwait(&u->wake, &u->lock, &t) != ETIMEDOUT) {
    }
}

static void *run(void *p)
{
    struct upstream *u = p;
    pthread_mutex_lock(&u->lock);
    while (!u->stop) {
        tick(u);
        nap(u);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

int upstream_open(struct upstream **out, struct gateway *g, struct err *e)
{
    pthread_condattr_t attr;
    struct upstream *u = calloc(1, sizeof *u);
    if (!u) return err_set(e, ERR_NO_MEMORY, "no memory for the upstream");
    u->g = g;
    u->live = live_new();
    if (!u->live) {
        free(u);
        return err_set(e, ERR_NO_MEMORY, "no memory for the upstream");
    }
    pthread_mutex_init(&u->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&u->thread, NULL, run, u)) {
        live_free(u->live);
        free(u);
        return err_set(e, ERR_NO_MEMORY, "no thread for the upstream's timer");
    }
    *out = u;
    return 0;
}

void upstream_stop(struct upstream *u)
{
    atomic_store(&u->closing, true);
}

void upstream_close(struct upstream *u)
{
    if (!u) return;
    pthread_mutex_lock(&u->lock);
    u->stop = true;
    pthread_cond_signal(&u->wake);
    pthread_mutex_unlock(&u->lock);
    pthread_join(u->thread, NULL);
    pthread_cond_destroy(&u->wake);
    pthread_mutex_destroy(&u->lock);
    live_free(u->live);
    free(u);
}

struct live *upstream_live(struct upstream *u)
{
    return u->live;
}
