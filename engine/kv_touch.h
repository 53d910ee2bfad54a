/* The memory of KV pages is got from the system ahead of its use. */
#pragma once
#include "engine/kv.h"

struct kv_toucher;

/* A thread begins to touch the pool's memory, first pages first, at once while busy(u) is false, a slice now and then while it is true, and
 * ends when all of it is there. busy() is called from that thread. available(), from that thread too: bytes that may be taken
 * (memory_available()); while half of it is less than what is not touched, it ends. A pool below HUGE_FROM needs none: *out is NULL. The pool outlives the toucher. ERR_NO_MEMORY: no
 * thread. */
int kv_touch_begin(struct kv_toucher **out, const struct kv_pool *p, bool (*busy)(void *u), void *u,
                   size_t (*available)(void), struct err *e);

/* Waits for a slice at most. NULL is fine. */
void kv_touch_end(struct kv_toucher *t);
