/* lora_loader: the threads that read, verify and pack adapters.
 *
 *     queue -> folder inside the store? -> adapter_open (checks everything, hashes the content) -> digest as asked?
 *           -> a slot: free, or the least recently used unpinned one, or wait -> pack -> publish, call the waiters
 *
 * What is verified again: the first load of a digest in this process reads, checks and hashes everything, also what a gateway hashed when it was
 * uploaded, for the folder may be another, or damaged since. A later load of it, after it was dropped, takes files whose identity did not change
 * (base/file_id.h) as what they were: half of the work of a load. Shapes, names and the config are checked each time.
 *
 * Verification comes before a slot is sought, so a broken adapter never drives out a good one. All of it happens here, so the step never touches a disk.
 * LORA_LOADERS threads read and hash beside each other, so that one large adapter does not hold up the small ones behind it (as many large ones as there are
 * threads do, for as long as the first takes); slots are taken and filled by one at a time (`taking`), so two loads never compete for the same slot.
 *
 * While no slot is free, each waiter waits for its own time and then gets ERR_NO_SLOT; from half of the first one's
 * time on, the slot with the fewest pins takes no new ones (`closing`). When nobody waits any more the load is given up
 * and the slot opened again.
 *
 * These threads alone take slots; the lock is held except while they read and pack. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/lora_impl.h"
#include "engine/meters.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- a folder that may be read --- */

static int check_inside(const char *store, const char *real, const char *path, struct err *e)
{
    if (!store) return 0;
    char root[PATH_MAX];
    if (!realpath(store, root)) return err_errno(e, "the store %s", store);
    size_t n = strlen(root);
    if (strncmp(real, root, n) == 0 && (real[n] == '/' || n == 1)) return 0;
    return err_field(e, ERR_INVALID, "lora_path", "the folder %s is not inside the store", path);
}

static int check_folder(const char *store, const char *path, char real[PATH_MAX], struct err *e)
{
    struct stat st;
    if (!realpath(path, real) || stat(real, &st))
        return errno == ENOENT || errno == ENOTDIR ? err_set(e, ERR_NOT_FOUND, "there is no folder %s", path)
                                                   : err_errno(e, "the folder %s", path);
    if (!S_ISDIR(st.st_mode)) return err_set(e, ERR_NOT_FOUND, "%s is not a folder", path);
    return check_inside(store, real, path, e);
}

int lora_open_folder(struct lora_set *s, const char *digest, const char *path, const struct adapter_stamp *known,
                     struct lora_pace *pace, struct adapter **out, struct err *e)
{
    char real[PATH_MAX];
    if (check_folder(s->o.store, path, real, e)) return -1;
    const struct adapter_limits limits = {
        .max_rank = s->o.max_rank, .unsummed = true, .known = known, .breathe = lora_breathe, .u = pace};
    struct adapter *a;
    if (adapter_open(&a, real, &s->m->desc, &limits, e)) return -1;
    if (strcmp(a->digest, digest) != 0) {
        err_set(e, ERR_ADAPTER_INVALID, "the folder's content has the digest %s, not %s as asked", a->digest, digest);
        adapter_close(a);
        return -1;
    }
    *out = a;
    return 0;
}

/* --- a slot, with the lock held --- */

/* The unpinned slot that was longest not used. */
static struct slot *oldest_slot(struct lora_set *s)
{
    struct slot *oldest = NULL;
    for (int i = 0; i < s->o.max_slots; i++) {
        struct slot *p = &s->slot[i];
        if (p->owner && p->pins == 0 && (!oldest || p->owner->last_use_us < oldest->owner->last_use_us)) oldest = p;
    }
    return oldest;
}

/* An empty slot, and room for `bytes`. NULL: too much is pinned; then nothing was dropped. */
static struct slot *free_slot(struct lora_set *s, int64_t bytes)
{
    struct slot *empty = NULL, *oldest;
    int64_t resident = 0, pinned = 0;
    int npinned = 0;
    for (int i = 0; i < s->o.max_slots; i++) {
        struct slot *p = &s->slot[i];
        int64_t of = p->owner ? (int64_t)p->pub.bytes : 0;
        if (!p->owner) empty = p;
        resident += of;
        pinned += p->pins ? of : 0;
        npinned += p->pins > 0;
    }
    if (npinned == s->o.max_slots || pinned + bytes > s->o.max_bytes) return NULL;
    while ((!empty || resident + bytes > s->o.max_bytes) && (oldest = oldest_slot(s))) {
        resident -= (int64_t)oldest->pub.bytes;
        lora_evict(s, oldest);
        empty = oldest;
    }
    return empty;
}

static void close_one(struct lora_set *s)
{
    struct slot *least = NULL;
    for (int i = 0; i < s->o.max_slots; i++) {
        struct slot *p = &s->slot[i];
        if (!p->owner || !p->pins) continue; /* it has run dry, and was not enough */
        if (p->closing) return;
        if (!least || p->pins < least->pins) least = p;
    }
    if (least) least->closing = true;
}

/* Those who were put off by a closing slot get it after all. */
static void reopen(struct lora_set *s, struct lora_waiters *fire)
{
    for (int i = 0; i < s->o.max_slots; i++) {
        struct slot *p = &s->slot[i];
        if (!p->closing) continue;
        p->closing = false;
        if (p->owner) {
            lora_settle(p->owner, WAIT_PIN, NULL, fire);
            lora_settle(p->owner, WAIT_LOAD, NULL, fire);
        }
    }
}

/* Waiters whose time is over are settled. Returns when the next one's is, or -1 when nobody waits for a slot. */
static int64_t expire(struct lora_set *s, struct lora_entry *e, int64_t now, struct lora_waiters *fire)
{
    int64_t next = -1;
    struct lora_waiters rest = {0};
    for (struct lora_waiter *w = e->waiters.first, *after; w; w = after) {
        after = w->next;
        w->next = NULL;
        bool over = w->kind != WAIT_UNLOAD && w->until_us <= now;
        struct lora_waiters *to = over ? fire : &rest;
        if (over)
            err_set(&w->err, ERR_NO_SLOT, "no adapter slot came free within %d ms", s->o.wait_ms);
        else if (w->kind != WAIT_UNLOAD && (next < 0 || w->until_us < next))
            next = w->until_us;
        if (to->last)
            to->last->next = w;
        else
            to->first = w;
        to->last = w;
    }
    e->waiters = rest;
    return next;
}

static void sleep_until(struct lora_set *s, int64_t us)
{
    struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    pthread_cond_timedwait(&s->wake, &s->lock, &ts);
}

/* Calls back without the lock in between. */
static void fire_unlocked(struct lora_set *s, struct lora_waiters *fire, bool cold)
{
    if (!fire->first) return;
    pthread_mutex_unlock(&s->lock);
    lora_fire(fire, cold);
    pthread_mutex_lock(&s->lock);
}

static struct slot *wait_for_slot(struct lora_set *s, struct lora_entry *e, int64_t bytes)
{
    struct lora_waiters fire = {0};
    struct slot *slot = NULL;
    int64_t half_us = (int64_t)s->o.wait_ms * 1000 / 2;
    while (!s->stop && !(slot = free_slot(s, bytes))) {
        int64_t now = clock_mono_us(), next = expire(s, e, now, &fire);
        if (fire.first) { /* look again: what was waited for may have come meanwhile */
            fire_unlocked(s, &fire, true);
            if (next >= 0) continue;
        }
        if (next < 0) {
            if (lora_has_waiters(e, WAIT_PIN) || lora_has_waiters(e, WAIT_LOAD)) continue; /* came in the meantime */
            break;
        }
        if (now >= next - half_us)
            close_one(s);
        else
            next -= half_us;
        sleep_until(s, next);
    }
    reopen(s, &fire);
    fire_unlocked(s, &fire, true);
    return slot;
}

/* --- one load --- */

static void note_load(struct lora_set *s, const struct err *e, int64_t took_us)
{
    if (!s->o.metrics) return;
    const char *outcome = !e->code                   ? "ok"
                          : e->code == ERR_NO_SLOT   ? "no_slot"
                          : e->code == ERR_NOT_FOUND ? "not_found"
                                                     : "invalid";
    metric_add(s->o.metrics, M_LOADS, (const char *[]){outcome}, 1);
    if (!e->code) metric_observe(s->o.metrics, M_LOAD_SECONDS, NULL, (double)took_us / 1e6);
}

/* The lock is held. */
static void publish(struct lora_set *s, struct lora_entry *e, struct slot *slot, struct lora_waiters *fire)
{
    memcpy(slot->pub.digest, e->digest, sizeof slot->pub.digest);
    slot->owner = e;
    e->slot = slot;
    e->state = LORA_RESIDENT;
    e->rank = slot->pub.max_rank;
    e->kind = slot->pub.kind;
    e->bytes = slot->pub.bytes;
    e->loaded_at = clock_wall_us() / 1000000;
    e->last_use_us = clock_mono_us();
    lora_settle(e, WAIT_PIN, NULL, fire);
    lora_settle(e, WAIT_LOAD, NULL, fire);
    lora_note_slots(s);
    log_info("adapter_loaded", LS("digest", e->digest), LI("slot", slot->pub.id), LI("rank", e->rank),
             LS("kind", e->kind), LI("bytes", (int64_t)e->bytes));
    if (!lora_has_waiters(e, WAIT_UNLOAD)) return;
    e->state = LORA_DRAINING;
    lora_drain(s, e, fire);
}

/* The lock is held. What can't be loaded is forgotten, so that the next request hears that it isn't there; for want of
 * a slot it stays known. */
static void fail(struct lora_set *s, struct lora_entry *e, const struct err *err, struct lora_waiters *fire)
{
    log_warn("adapter_refused", LS("digest", e->digest), LS("reason", err->msg));
    if (err->code == ERR_NO_SLOT && (lora_has_waiters(e, WAIT_PIN) || lora_has_waiters(e, WAIT_LOAD))) {
        lora_enqueue(s, e); /* they came when the others' time was over: theirs is not */
        return;
    }
    lora_settle(e, WAIT_PIN, err, fire);
    lora_settle(e, WAIT_LOAD, err, fire);
    e->state = LORA_COLD;
    if (err->code == ERR_NO_SLOT) {
        lora_drain(s, e, fire);
        return;
    }
    lora_settle(e, WAIT_UNLOAD, NULL, fire);
    lora_forget(s, e);
}

/* What no load takes over goes back to the system. Called and returns with the lock held. */
static void free_spares(struct lora_set *s)
{
    struct lora_spare *first = s->spare;
    if (!first) return;
    s->spare = NULL;
    pthread_mutex_unlock(&s->lock);
    lora_free_spares(first);
    pthread_mutex_lock(&s->lock);
}

/* Drop one that nobody uses. */
static bool drop_oldest(struct lora_set *s)
{
    pthread_mutex_lock(&s->lock);
    struct slot *oldest = oldest_slot(s);
    if (oldest) lora_evict(s, oldest);
    pthread_mutex_unlock(&s->lock);
    return oldest != NULL;
}

/* To the device. Its pool may be in pieces: then others go until it fits. */
static int bring(struct lora_set *s, struct slot *slot, struct err *err)
{
    struct err why = {0};
    slot->pub.table.slot = slot->pub.id;
    while (device_adapter_put(s->o.device, slot->pub.id, &slot->pub.table, &why)) {
        if (why.code != ERR_NO_SLOT || !drop_oldest(s)) return err_set(err, why.code, "%s", why.msg);
        why = (struct err){0};
    }
    return 0;
}

/* Between slot and publication the adapter's memory is filled without the lock: nobody else takes slots before the caller is done. */
static int fill(struct lora_set *s, struct lora_entry *e, const struct adapter *a, int64_t bytes,
                struct lora_pace *pace, struct slot **out, struct err *err)
{
    struct slot *slot = wait_for_slot(s, e, bytes);
    if (!slot)
        return err_set(err, s->stop ? ERR_UNAVAILABLE : ERR_NO_SLOT,
                       s->stop ? "the engine is stopping" : "no adapter slot came free within %d ms", s->o.wait_ms);
    lora_take_spare(s, slot, (size_t)bytes);
    free_spares(s);
    pthread_mutex_unlock(&s->lock);
    int rc = lora_pack(s->m, a, slot, pace, err);
    if (rc == 0 && s->o.device && (rc = bring(s, slot, err))) lora_pack_free(slot);
    pthread_mutex_lock(&s->lock);
    *out = slot;
    return rc;
}

/* Everything that can be said of an adapter before it has a slot. */
static int open_one(struct lora_set *s, const char *digest, const char *path, const struct adapter_stamp *known,
                    struct lora_pace *pace, struct adapter **a, int64_t *bytes, struct err *err)
{
    if (lora_open_folder(s, digest, path, known, pace, a, err) || lora_pack_bytes(s->m, *a, bytes, err)) return -1;
    if (*bytes > s->o.max_bytes)
        return err_set(err, ERR_ADAPTER_INVALID, "the adapter takes %lld MB, this engine holds %lld MB of adapters",
                       (long long)(*bytes >> 20), (long long)(s->o.max_bytes >> 20));
    return 0;
}

/* Called and returns with the lock held. */
static void load_one(struct lora_set *s, struct lora_entry *e)
{
    struct err err = {0};
    struct lora_waiters fire = {0};
    struct adapter *a = NULL;
    struct slot *slot = NULL;
    int64_t t0 = clock_mono_us(), bytes = 0;
    char path[PATH_MAX];
    struct lora_pace pace = {.s = s};
    struct adapter_stamp known = e->stamp;
    snprintf(path, sizeof path, "%s", e->path);
    pthread_mutex_unlock(&s->lock);
    int rc = open_one(s, e->digest, path, &known, &pace, &a, &bytes, &err);
    pthread_mutex_lock(&s->lock);
    bool mine = rc == 0;
    if (mine) {
        while (s->taking) pthread_cond_wait(&s->wake, &s->lock);
        s->taking = true;
        e->stamp = a->stamp;
        rc = fill(s, e, a, bytes, &pace, &slot, &err);
    }
    if (rc == 0)
        publish(s, e, slot, &fire);
    else
        fail(s, e, &err, &fire);
    if (mine) {
        s->taking = false;
        pthread_cond_broadcast(&s->wake);
    }
    note_load(s, &err, clock_mono_us() - t0);
    pthread_mutex_unlock(&s->lock);
    adapter_close(a);
    lora_fire(&fire, true);
    pthread_mutex_lock(&s->lock);
}

void *lora_loader(void *set)
{
    struct lora_set *s = set;
    pthread_setname_np(pthread_self(), "loader");
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        struct lora_entry *e = s->queue_first;
        if (!e && s->spare && !s->loading) {
            free_spares(s);
            continue;
        }
        if (!e) {
            pthread_cond_wait(&s->wake, &s->lock);
            continue;
        }
        s->queue_first = e->queue;
        if (!s->queue_first) s->queue_last = NULL;
        e->queue = NULL;
        s->loading++;
        load_one(s, e);
        s->loading--;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
