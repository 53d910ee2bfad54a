/* kv_touch: who writes to fresh memory waits until the system has found and zeroed it, 2 MB at a time.
 *
 * A pool's pages lie side by side in each layer's part of it, so all layers come to the end of their 2 MB in the same step. With 30 layers and
 * 3.6 ms for each (a virtual machine, which has to find the memory itself) that was one step of 150 to 300 ms instead of 20, in about each two
 * thousandth, and it was the p99 of the time to the first token beside a crowd.
 *
 * So a thread of its own walks ahead of the steps: the same part of every layer, then the next. While steps are being made it takes one huge page
 * and rests REST times as long as that took: faster than tokens fill pages, and not felt.
 *
 * It takes memory that may never be used, so only what leaves as much again: a pool larger than half of what is available, in the machine or
 * below the limit of a container (which is killed when it goes beyond), gets its pages as they are used.
 *
 * The contents stay: MADV_POPULATE_WRITE (Linux 5.14) faults pages in without writing to them. Where the system doesn't know it, nothing is
 * touched ahead. */
#include "engine/kv_touch.h"
#include "base/clock.h"
#include "base/log.h"
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define REST 9
#define REST_MAX_US 100000

struct kv_toucher {
    char *base;
    size_t bytes, layer_bytes;
    int layers;
    bool (*busy)(void *u);
    void *u;
    size_t (*available)(void);
    pthread_t thread;
    atomic_bool stop;
};

/* The huge page in which byte `at` of the pool lies. */
static int touch(const struct kv_toucher *t, size_t at)
{
    size_t from = at / HUGE_PAGE * HUGE_PAGE, left = t->bytes - from;
    return madvise(t->base + from, left < HUGE_PAGE ? left : HUGE_PAGE, MADV_POPULATE_WRITE);
}

static void rest(int64_t us)
{
    if (us > REST_MAX_US) us = REST_MAX_US;
    nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

static bool is_scarce(const struct kv_toucher *t, size_t part)
{
    size_t touched = part * (size_t)t->layers, left = t->bytes > touched ? t->bytes - touched : 0;
    return t->available() / 2 < left;
}

static void *run(void *toucher)
{
    struct kv_toucher *t = toucher;
    pthread_setname_np(pthread_self(), "kv-touch");
    int64_t began = clock_mono_us();
    const char *why = NULL;
    for (size_t part = 0; part < t->layer_bytes + HUGE_PAGE && !why; part += HUGE_PAGE) {
        if (is_scarce(t, part)) why = "too little memory is available";
        for (int layer = 0; layer < t->layers && !why; layer++) {
            size_t at = (size_t)layer * t->layer_bytes + (part < t->layer_bytes ? part : t->layer_bytes - 1);
            int64_t before = clock_mono_us();
            if (atomic_load(&t->stop)) return NULL;
            if (touch(t, at)) why = strerror(errno);
            if (!why && t->busy(t->u)) rest(REST * (clock_mono_us() - before));
        }
    }
    if (why)
        log_info("kv_not_touched_ahead", LS("why", why));
    else
        log_info("kv_touched", LI("bytes", (int64_t)t->bytes), LI("us", clock_mono_us() - began));
    return NULL;
}

int kv_touch_begin(struct kv_toucher **out, const struct kv_pool *p, bool (*busy)(void *u), void *u,
                   size_t (*available)(void), struct err *e)
{
    *out = NULL;
    if (p->bytes < HUGE_FROM) return 0;
    struct kv_toucher *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NO_MEMORY, "no memory to touch the KV pool ahead");
    *t = (struct kv_toucher){.base = p->cache.base,
                             .bytes = p->bytes,
                             .layer_bytes = p->bytes / (size_t)p->cache.layers,
                             .layers = p->cache.layers,
                             .busy = busy,
                             .u = u,
                             .available = available};
    if (pthread_create(&t->thread, NULL, run, t)) {
        free(t);
        return err_set(e, ERR_NO_MEMORY, "no thread to touch the KV pool ahead");
    }
    *out = t;
    return 0;
}

void kv_touch_end(struct kv_toucher *t)
{
    if (!t) return;
    atomic_store(&t->stop, true);
    pthread_join(t->thread, NULL);
    free(t);
}
