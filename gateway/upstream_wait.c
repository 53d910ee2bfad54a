/* Waits of exchanges: one thread, one list, one tick.
 *
 * In the list are streams that have no token yet (they get a comment every keepalive_ms, so that proxies between us and
 * the client keep the connection) and requests that wait for an engine that is being restarted. A tick looks at all of
 * them: some thousand entries cost less than a heap would to keep. While the list is empty the thread sleeps.
 *
 * A tick collects what is due under the lock, up to BATCH with a reference each, and acts without it: an action may
 * take an exchange out of the list, answer and free it. The list is bounded by the listener's connections. */
#include "base/clock.h"
#include "gateway/upstream_impl.h"
#include <errno.h>
#include <stdlib.h>

#define BATCH 256

static void list_add(struct upstream *u, struct exchange *x)
{
    if (x->listed) return;
    x->listed = true;
    x->prev = NULL;
    x->next = u->first;
    if (u->first) u->first->prev = x;
    u->first = x;
    pthread_cond_signal(&u->wake);
}

static void list_drop(struct upstream *u, struct exchange *x)
{
    if (!x->listed) return;
    x->listed = false;
    if (x->prev)
        x->prev->next = x->next;
    else
        u->first = x->next;
    if (x->next) x->next->prev = x->prev;
}

void wait_keepalive(struct exchange *x)
{
    struct upstream *u = x->up;
    pthread_mutex_lock(&u->lock);
    x->due_us = clock_mono_us() + u->g->set->keepalive_ms * 1000;
    list_add(u, x);
    pthread_mutex_unlock(&u->lock);
}

void wait_engine(struct exchange *x)
{
    struct upstream *u = x->up;
    pthread_mutex_lock(&u->lock);
    x->look_us = clock_mono_us() + UPSTREAM_TICK_MS * 1000 / 2;
    list_add(u, x);
    pthread_mutex_unlock(&u->lock);
}

void wait_forget(struct exchange *x)
{
    struct upstream *u = x->up;
    pthread_mutex_lock(&u->lock);
    x->look_us = x->due_us = 0;
    list_drop(u, x);
    pthread_mutex_unlock(&u->lock);
}

struct due {
    struct exchange *x;
    bool keepalive, engine;
};

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
        if (!x->due_us && !x->look_us) list_drop(u, x);
        atomic_fetch_add(&x->refs, 1);
        out[n++] = (struct due){x, keepalive, engine};
    }
    return n;
}

static void tick(struct upstream *u)
{
    struct due due[BATCH];
    int64_t now = clock_mono_us();
    for (int n = BATCH; n == BATCH;) {
        n = collect(u, due, now);
        pthread_mutex_unlock(&u->lock);
        for (int i = 0; i < n; i++) {
            if (due[i].keepalive) exchange_keepalive(due[i].x);
            if (due[i].engine) exchange_proceed(due[i].x);
            exchange_unref(due[i].x);
        }
        pthread_mutex_lock(&u->lock);
    }
}

static void nap(struct upstream *u)
{
    struct timespec t;
    if (u->stop) return; /* set while tick() had given the lock back */
    if (!u->first) {
        pthread_cond_wait(&u->wake, &u->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += UPSTREAM_TICK_MS * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    while (!u->stop && pthread_cond_timedwait(&u->wake, &u->lock, &t) != ETIMEDOUT) {
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
