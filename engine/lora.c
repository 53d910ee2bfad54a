/* lora: which adapters are known, which are resident, and who holds them.
 *
 *                 lora_load, lora_pin                 loader: packed              lora_unload, claims or pins
 *     (unknown) --------------------> LOADING ----------------------> RESIDENT ---------------------------> DRAINING
 *         ^                           ^  |  loader: failed            |  ^                                   |    |
 *         |<--------------------------+--+                   evicted  |  | (through LOADING)         evicted |    |
 *         |                           +----------- COLD <-------------+--+-----------------------------------+    |
 *         |<---- lora_unload, last claim -------------+                                      last claim and pin   |
 *         |<------------------------------------------------------------------------------------------------------+
 *
 * Idea: an adapter is its digest, so whatever is resident under a digest is right for everybody and can be shared,
 * dropped and read again. A request holds a pin on a slot; a pinned slot is never changed, so the step reads slots
 * without a lock. Whoever has to wait is a `waiter` on the entry and is called back by the loader.
 *
 * A request that was accepted may be without a pin for long: it waits for a slot, or gave its own to others and goes on later. Its claim keeps
 * the adapter known, and lets it be pinned while it is unloaded (an unload that waits is a waiter, whatever the state).
 *
 * When all slots are pinned, the loader lets one run dry (`closing`: no new pins) after half of the waiter's time, so
 * that busy adapters can't keep others out for ever.
 *
 * Guarantees: one read and pack per digest however many ask (single flight); each waiter is called exactly once, never
 * under the lock; at most max_slots and max_bytes resident and max_known remembered; loads and unloads of an adapter come true in the order in
 * which they were asked for.
 *
 * Any thread. Lock order: under this lock none is taken but the metrics' and the log's own. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/lora_impl.h"
#include "engine/meters.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SPARE_WASTE 8 /* memory is taken over where at most 1/8 of it stays unused */
#define MEMORY_PART 4 /* 1/4 of the machine's memory is the adapters' where nobody says otherwise */

const char *const lora_state_name[] = {"cold", "loading", "resident", "draining"};

/* --- entries --- */

/* A digest is a hash already: its first digits choose the bucket. */
static unsigned bucket_of(const char *digest)
{
    unsigned h = 0;
    for (int i = 0; i < 8; i++) h = h * 16 + (unsigned)(digest[i] <= '9' ? digest[i] - '0' : digest[i] - 'a' + 10);
    return h % LORA_BUCKETS;
}

static struct lora_entry *find(const struct lora_set *s, const char *digest)
{
    if (!sha256_is_hex(digest)) return NULL;
    struct lora_entry *e = s->bucket[bucket_of(digest)];
    while (e && strcmp(e->digest, digest) != 0) e = e->chain;
    return e;
}

static void free_entry(struct lora_entry *e)
{
    free(e->path);
    free(e);
}

void lora_forget(struct lora_set *s, struct lora_entry *e)
{
    assert(!e->slot && !e->waiters.first);
    struct lora_entry **at = &s->bucket[bucket_of(e->digest)];
    while (*at != e) at = &(*at)->chain;
    *at = e->chain;
    if (e->prev)
        e->prev->next = e->next;
    else
        s->first = e->next;
    if (e->next) e->next->prev = e->prev;
    s->nknown--;
    e->forgotten = true;
    if (e->claims == 0) free_entry(e);
}

/* Make room among the known: the least recently used that is neither resident nor wanted. */
static bool forget_oldest(struct lora_set *s)
{
    struct lora_entry *oldest = NULL;
    for (struct lora_entry *e = s->first; e; e = e->next)
        if (e->state == LORA_COLD && !e->claims && !e->waiters.first &&
            (!oldest || e->last_use_us < oldest->last_use_us))
            oldest = e;
    if (oldest) lora_forget(s, oldest);
    return oldest != NULL;
}

static struct lora_entry *add_entry(struct lora_set *s, const char *digest, struct err *err)
{
    if (s->nknown >= s->o.max_known && !forget_oldest(s)) {
        err_set(err, ERR_NO_SLOT, "all %d adapters that may be known are in use", s->o.max_known);
        return NULL;
    }
    struct lora_entry *e = calloc(1, sizeof *e);
    if (!e) {
        err_set(err, ERR_NO_MEMORY, "no memory for an adapter's entry");
        return NULL;
    }
    snprintf(e->digest, sizeof e->digest, "%s", digest);
    struct lora_entry **at = &s->bucket[bucket_of(digest)];
    e->chain = *at;
    *at = e;
    e->next = s->first;
    if (e->next) e->next->prev = e;
    s->first = e;
    s->nknown++;
    return e;
}

void lora_enqueue(struct lora_set *s, struct lora_entry *e)
{
    e->state = LORA_LOADING;
    e->queue = NULL;
    if (s->queue_last)
        s->queue_last->queue = e;
    else
        s->queue_first = e;
    s->queue_last = e;
    pthread_cond_broadcast(&s->wake);
}

/* --- waiters --- */

static void append(struct lora_waiters *l, struct lora_waiter *w)
{
    w->next = NULL;
    if (l->last)
        l->last->next = w;
    else
        l->first = w;
    l->last = w;
}

bool lora_has_waiters(const struct lora_entry *e, enum wait_kind kind)
{
    for (const struct lora_waiter *w = e->waiters.first; w; w = w->next)
        if (w->kind == kind) return true;
    return false;
}

void lora_settle(struct lora_entry *e, enum wait_kind kind, const struct err *err, struct lora_waiters *out)
{
    struct lora_waiters rest = {0};
    bool later = false;
    for (struct lora_waiter *w = e->waiters.first, *next; w; w = next) {
        next = w->next;
        later |= w->kind == WAIT_UNLOAD;
        if (w->kind != kind || (later && kind == WAIT_LOAD && !err)) {
            append(&rest, w);
            continue;
        }
        if (err) w->err = *err;
        if (kind == WAIT_PIN && !err) {
            e->slot->pins++;
            w->slot = &e->slot->pub;
        }
        append(out, w);
    }
    e->waiters = rest;
}

static bool unloading(const struct lora_entry *e)
{
    return lora_has_waiters(e, WAIT_UNLOAD);
}

void lora_fire(struct lora_waiters *l, bool cold)
{
    for (struct lora_waiter *w = l->first, *next; w; w = next) {
        next = w->next;
        const struct err *err = w->err.code ? &w->err : NULL;
        if (w->kind == WAIT_PIN)
            w->got(w->u, w->slot, cold, err);
        else
            w->done(w->u, err);
        free(w);
    }
    *l = (struct lora_waiters){0};
}

static struct lora_waiter *waiter_new(const struct lora_set *s, enum wait_kind kind, void *u)
{
    struct lora_waiter *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->kind = kind;
    w->u = u;
    w->until_us = clock_mono_us() + (int64_t)s->o.wait_ms * 1000;
    return w;
}

/* --- slots --- */

void lora_note_slots(struct lora_set *s)
{
    if (!s->o.metrics) return;
    int resident = 0, pinned = 0;
    for (int i = 0; i < s->o.max_slots; i++) {
        resident += s->slot[i].owner != NULL;
        pinned += s->slot[i].pins > 0;
    }
    metric_set(s->o.metrics, M_SLOTS, (const char *[]){"resident"}, resident);
    metric_set(s->o.metrics, M_SLOTS, (const char *[]){"pinned"}, pinned);
    metric_set(s->o.metrics, M_SLOTS, (const char *[]){"free"}, s->o.max_slots - resident);
}

static void keep_spare(struct lora_set *s, struct slot *slot)
{
    struct lora_spare *spare = slot->block;
    if (!spare) return;
    *spare = (struct lora_spare){.next = s->spare, .bytes = slot->block_bytes};
    s->spare = spare;
    slot->block = NULL;
}

void lora_take_spare(struct lora_set *s, struct slot *slot, size_t bytes)
{
    for (struct lora_spare **at = &s->spare; *at; at = &(*at)->next) {
        struct lora_spare *it = *at;
        if (it->bytes < bytes || it->bytes > bytes + bytes / SPARE_WASTE) continue;
        *at = it->next;
        slot->block = it;
        slot->block_bytes = it->bytes;
        return;
    }
}

void lora_free_spares(struct lora_spare *first)
{
    for (struct lora_spare *next; first; first = next) {
        next = first->next;
        big_free(first, first->bytes);
    }
}

static void empty_slot(struct lora_set *s, struct slot *slot)
{
    assert(slot->pins == 0);
    if (s->o.device) device_adapter_drop(s->o.device, slot->pub.id);
    keep_spare(s, slot);
    lora_pack_free(slot);
    int id = slot->pub.id;
    slot->owner->slot = NULL;
    *slot = (struct slot){.pub.id = id};
    lora_note_slots(s);
}

void lora_evict(struct lora_set *s, struct slot *slot)
{
    struct lora_entry *e = slot->owner;
    empty_slot(s, slot);
    e->state = LORA_COLD;
    if (lora_has_waiters(e, WAIT_PIN) || (lora_has_waiters(e, WAIT_LOAD) && !unloading(e))) lora_enqueue(s, e);
    if (s->o.metrics) metric_add(s->o.metrics, M_EVICTIONS, NULL, 1);
    log_info("adapter_evicted", LS("digest", e->digest));
}

void lora_drain(struct lora_set *s, struct lora_entry *e, struct lora_waiters *out)
{
    if (!unloading(e) || e->claims || e->state == LORA_LOADING || (e->slot && e->slot->pins)) return;
    if (e->slot) empty_slot(s, e->slot);
    lora_settle(e, WAIT_UNLOAD, NULL, out);
    log_info("adapter_unloaded", LS("digest", e->digest));
    pthread_cond_broadcast(&s->wake);
    e->state = LORA_COLD;
    if (e->waiters.first)
        lora_enqueue(s, e); /* asked for again while it drained */
    else
        lora_forget(s, e);
}

/* --- what others call --- */

static int take_path(struct lora_entry *e, const char *path, struct err *err)
{
    if (e->path && strcmp(e->path, path) == 0) return 0;
    char *copy = strdup(path);
    if (!copy) return err_set(err, ERR_NO_MEMORY, "no memory for a path");
    free(e->path);
    e->path = copy;
    return 0;
}

static int load_locked(struct lora_set *s, const char *digest, const char *path, struct lora_waiter *w, struct err *err)
{
    if (s->stop) return err_set(err, ERR_UNAVAILABLE, "the engine is stopping");
    struct lora_entry *e = find(s, digest);
    if (!e && !(e = add_entry(s, digest, err))) return -1;
    e->last_use_us = clock_mono_us();
    if (e->state == LORA_RESIDENT) return 0;
    if (e->state != LORA_LOADING && take_path(e, path, err)) {
        if (e->state == LORA_COLD && !e->path) lora_forget(s, e);
        return -1;
    }
    append(&e->waiters, w);
    if (e->state == LORA_COLD && !unloading(e)) lora_enqueue(s, e);
    return 1;
}

void lora_load(struct lora_set *s, const char *digest, const char *path, void (*done)(void *u, const struct err *e),
               void *u)
{
    struct err err = {0};
    struct lora_waiter *w = NULL;
    int rc = -1; /* 1: w waits; 0: resident already */
    if (!sha256_is_hex(digest))
        err_field(&err, ERR_INVALID, "lora_name", "lora_name must be an adapter's digest, 64 lower-case hex digits");
    else if (path[0] != '/')
        err_field(&err, ERR_INVALID, "lora_path", "lora_path must be absolute");
    else if (!(w = waiter_new(s, WAIT_LOAD, u)))
        err_set(&err, ERR_NO_MEMORY, "no memory to wait for an adapter");
    else {
        w->done = done;
        pthread_mutex_lock(&s->lock);
        rc = load_locked(s, digest, path, w, &err);
        pthread_mutex_unlock(&s->lock);
    }
    if (rc == 1) return;
    free(w);
    done(u, rc ? &err : NULL);
}

static int unload_locked(struct lora_set *s, const char *digest, struct lora_waiter *w, struct lora_waiters *fire,
                         struct err *err)
{
    struct lora_entry *e = find(s, digest);
    if (!e) return err_set(err, ERR_ADAPTER_NOT_LOADED, "no adapter %.80s is loaded", digest);
    append(&e->waiters, w);
    struct err gone = {0};
    err_set(&gone, ERR_ADAPTER_NOT_LOADED, "the adapter %s is being unloaded", e->digest);
    if (e->state == LORA_RESIDENT) {
        e->state = LORA_DRAINING;
        if (!e->claims) lora_settle(e, WAIT_PIN, &gone, fire);
    }
    lora_drain(s, e, fire); /* while it loads, the loader sees the waiter when it is done */
    return 0;
}

void lora_unload(struct lora_set *s, const char *digest, void (*done)(void *u, const struct err *e), void *u)
{
    struct err err = {0};
    struct lora_waiters fire = {0};
    struct lora_waiter *w = waiter_new(s, WAIT_UNLOAD, u);
    if (!w) {
        err_set(&err, ERR_NO_MEMORY, "no memory to wait for an adapter");
        done(u, &err);
        return;
    }
    w->done = done;
    pthread_mutex_lock(&s->lock);
    int rc = unload_locked(s, digest, w, &fire, &err);
    pthread_mutex_unlock(&s->lock);
    if (rc) {
        free(w);
        done(u, &err);
    }
    lora_fire(&fire, false);
}

struct lora_entry *lora_claim(struct lora_set *s, const char *digest, struct err *err)
{
    pthread_mutex_lock(&s->lock);
    struct lora_entry *e = find(s, digest);
    bool known = e && !unloading(e);
    if (known) e->claims++;
    pthread_mutex_unlock(&s->lock);
    if (known) return e;
    err_set(err, ERR_ADAPTER_NOT_LOADED, "no adapter %.80s is loaded", digest);
    return NULL;
}

void lora_unclaim(struct lora_set *s, struct lora_entry *e)
{
    struct lora_waiters fire = {0};
    pthread_mutex_lock(&s->lock);
    assert(e->claims > 0);
    e->claims--;
    if (!e->forgotten)
        lora_drain(s, e, &fire);
    else if (e->claims == 0)
        free_entry(e);
    pthread_mutex_unlock(&s->lock);
    lora_fire(&fire, false);
}

/* 0: *slot is pinned; 1: w waits; -1. */
static int pin_locked(struct lora_set *s, const char *digest, struct lora_waiter *w, struct lora_slot **slot,
                      struct err *err)
{
    if (s->stop) return err_set(err, ERR_UNAVAILABLE, "the engine is stopping");
    struct lora_entry *e = find(s, digest);
    if (!e || (unloading(e) && !e->claims))
        return err_set(err, ERR_ADAPTER_NOT_LOADED, "no adapter %.80s is loaded", digest);
    e->last_use_us = clock_mono_us();
    if (e->slot && !e->slot->closing) {
        e->slot->pins++;
        *slot = &e->slot->pub;
        lora_note_slots(s);
        return 0;
    }
    append(&e->waiters, w);
    if (e->state == LORA_COLD) lora_enqueue(s, e);
    return 1;
}

void lora_pin(struct lora_set *s, const char *digest,
              void (*got)(void *u, struct lora_slot *slot, bool cold, const struct err *e), void *u)
{
    struct err err = {0};
    struct lora_slot *slot = NULL;
    int rc = -1;
    struct lora_waiter *w = waiter_new(s, WAIT_PIN, u);
    if (!w) {
        err_set(&err, ERR_NO_MEMORY, "no memory to wait for an adapter");
    } else {
        w->got = got;
        pthread_mutex_lock(&s->lock);
        rc = pin_locked(s, digest, w, &slot, &err);
        pthread_mutex_unlock(&s->lock);
    }
    if (rc == 1) return;
    free(w);
    got(u, slot, false, rc ? &err : NULL);
}

void lora_unpin(struct lora_set *s, struct lora_slot *pub)
{
    struct slot *slot = (struct slot *)pub;
    struct lora_waiters fire = {0};
    pthread_mutex_lock(&s->lock);
    assert(slot->pins > 0);
    slot->pins--;
    slot->owner->last_use_us = clock_mono_us();
    if (slot->pins == 0) {
        pthread_cond_broadcast(&s->wake);
        lora_drain(s, slot->owner, &fire);
    }
    lora_note_slots(s);
    pthread_mutex_unlock(&s->lock);
    lora_fire(&fire, false);
}

static bool let_go(struct lora_set *s, const char *digest, bool forget)
{
    pthread_mutex_lock(&s->lock);
    struct lora_entry *e = find(s, digest);
    bool free_of_use = !e || (e->state == LORA_COLD && !e->claims && !e->waiters.first);
    if (e && free_of_use && forget) lora_forget(s, e);
    pthread_mutex_unlock(&s->lock);
    return free_of_use;
}

bool lora_let_go(struct lora_set *s, const char *digest)
{
    return let_go(s, digest, true);
}

bool lora_may_go(struct lora_set *s, const char *digest)
{
    return let_go(s, digest, false);
}

int64_t lora_used_us(struct lora_set *s, const char *digest)
{
    pthread_mutex_lock(&s->lock);
    const struct lora_entry *e = find(s, digest);
    int64_t used = e ? e->last_use_us : 0;
    pthread_mutex_unlock(&s->lock);
    return used;
}

int lora_list(struct lora_set *s, struct lora_info *out, int max)
{
    int n = 0;
    pthread_mutex_lock(&s->lock);
    for (const struct lora_entry *e = s->first; e && n < max; e = e->next) {
        struct lora_info *i = &out[n++];
        *i = (struct lora_info){.state = unloading(e) ? LORA_DRAINING : e->state,
                                .rank = e->rank,
                                .pins = e->slot ? e->slot->pins : 0,
                                .bytes = e->bytes,
                                .kind = e->kind ? e->kind : "",
                                .loaded_at = e->loaded_at};
        memcpy(i->digest, e->digest, sizeof i->digest);
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

bool lora_known(struct lora_set *s, const char *digest)
{
    pthread_mutex_lock(&s->lock);
    const struct lora_entry *e = find(s, digest);
    bool known = e && !unloading(e);
    pthread_mutex_unlock(&s->lock);
    return known;
}

bool lora_resident(struct lora_set *s, const char *digest)
{
    pthread_mutex_lock(&s->lock);
    const struct lora_entry *e = find(s, digest);
    bool resident = e && e->slot && !e->slot->closing;
    pthread_mutex_unlock(&s->lock);
    return resident;
}

char *lora_path_of(struct lora_set *s, const char *digest)
{
    pthread_mutex_lock(&s->lock);
    const struct lora_entry *e = find(s, digest);
    char *path = e && e->path ? strdup(e->path) : NULL;
    pthread_mutex_unlock(&s->lock);
    return path;
}

int lora_max_slots(const struct lora_set *s)
{
    return s->o.max_slots;
}
int64_t lora_max_bytes(const struct lora_set *s)
{
    return s->o.max_bytes;
}
int lora_max_rank(const struct lora_set *s)
{
    return s->o.max_rank;
}

/* --- whole --- */

static int init_sync(struct lora_set *s)
{
    pthread_condattr_t a;
    if (pthread_condattr_init(&a)) return -1;
    int rc = pthread_condattr_setclock(&a, CLOCK_MONOTONIC) || pthread_cond_init(&s->wake, &a);
    pthread_condattr_destroy(&a);
    return rc || pthread_mutex_init(&s->lock, NULL) ? -1 : 0;
}

int lora_set_new(struct lora_set **out, const struct model *m, const struct lora_options *o, struct err *e)
{
    if (o->max_slots < 1 || o->max_known < 1 || o->max_rank < 1 || o->max_rank > PEFT_RANK_MAX || o->wait_ms < 0 ||
        o->max_bytes < 0)
        return err_set(e, ERR_USAGE, "adapter limits out of range: %d slots, %d known, rank %d, wait %d ms",
                       o->max_slots, o->max_known, o->max_rank, o->wait_ms);
    struct lora_set *s = calloc(1, sizeof *s);
    if (!s || init_sync(s)) {
        free(s);
        return err_set(e, ERR_NO_MEMORY, "no memory for the set of adapters");
    }
    s->m = m;
    s->o = *o;
    if (!s->o.max_bytes) s->o.max_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / MEMORY_PART;
    s->o.store = o->store && *o->store ? strdup(o->store) : NULL;
    s->slot = calloc((size_t)o->max_slots, sizeof *s->slot);
    bool whole = s->slot && (s->o.store || !o->store || !*o->store);
    for (int i = 0; whole && i < o->max_slots; i++) s->slot[i].pub.id = i;
    while (whole && s->started < LORA_LOADERS && !pthread_create(&s->thread[s->started], NULL, lora_loader, s)) s->started++;
    if (!s->started) {
        err_set(e, ERR_NO_MEMORY, "no memory or thread for %d adapter slots", o->max_slots);
        lora_set_free(s);
        return -1;
    }
    lora_note_slots(s);
    *out = s;
    return 0;
}

void lora_set_pace(struct lora_set *s, bool (*busy)(void *u), void *u)
{
    pthread_mutex_lock(&s->lock);
    s->busy = busy;
    s->busy_u = u;
    pthread_mutex_unlock(&s->lock);
}

static void settle_all(struct lora_set *s, struct lora_waiters *fire)
{
    struct err stopping = {0};
    err_set(&stopping, ERR_UNAVAILABLE, "the engine is stopping");
    for (struct lora_entry *e = s->first; e; e = e->next) {
        lora_settle(e, WAIT_LOAD, &stopping, fire);
        lora_settle(e, WAIT_PIN, &stopping, fire);
        lora_settle(e, WAIT_UNLOAD, NULL, fire);
    }
}

void lora_set_free(struct lora_set *s)
{
    if (!s) return;
    struct lora_waiters fire = {0};
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->started; i++) pthread_join(s->thread[i], NULL);
    settle_all(s, &fire);
    lora_fire(&fire, false);
    for (int i = 0; s->slot && i < s->o.max_slots; i++)
        if (s->slot[i].owner) empty_slot(s, &s->slot[i]);
    while (s->first) lora_forget(s, s->first);
    lora_free_spares(s->spare);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s->slot);
    free((char *)s->o.store);
    free(s);
}
