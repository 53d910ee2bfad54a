/* An adapter's folder made ready for a batch, waiting where the engine would go on: for tests and tools with one thread. */
#pragma once
#include "engine/lora.h"
#include <pthread.h>
#include <string.h>

struct pin_wait {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool came;
    struct err err;
    struct lora_slot *slot;
};

static inline void pin_arrived(struct pin_wait *w, struct lora_slot *slot, const struct err *e)
{
    pthread_mutex_lock(&w->lock);
    w->slot = slot;
    if (e) w->err = *e;
    w->came = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static inline void pin_on_load(void *u, const struct err *e)
{
    pin_arrived(u, NULL, e);
}

static inline void pin_on_slot(void *u, struct lora_slot *slot, bool cold, const struct err *e)
{
    (void)cold;
    pin_arrived(u, slot, e);
}

static inline void pin_await(struct pin_wait *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->came) pthread_cond_wait(&w->cond, &w->lock);
    w->came = false;
    pthread_mutex_unlock(&w->lock);
}

/* Opened, loaded, pinned: *slot is to be given to lora_unpin(). `dir` is absolute. -1 with what refused it. */
static inline int pin_folder(struct lora_set *set, const struct base_desc *base, const char *dir,
                             char digest[SHA256_HEX], struct lora_slot **slot, struct err *e)
{
    struct pin_wait w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct adapter *a;
    if (adapter_open(&a, dir, base, NULL, &w.err) == 0) {
        memcpy(digest, a->digest, SHA256_HEX);
        adapter_close(a);
        lora_load(set, digest, dir, pin_on_load, &w);
        pin_await(&w);
        if (!w.err.code) lora_pin(set, digest, pin_on_slot, &w);
        if (!w.err.code) pin_await(&w);
    }
    if (w.err.code) {
        *e = w.err;
        return -1;
    }
    *slot = w.slot;
    return 0;
}
