/* pull: the engine's side of fetching adapters (see pull.h): who waits for which digest, what is kept, what goes.
 *
 *     pull_load:  in the store --------------------------------------------> lora_load --> done
 *                 not: a job -- GET --> NEED -- room? GO --> DONE: kept ---/       |  damaged: DROP, a job again, once
 *                                          \ none: NO        \ failed: done       /
 *
 * An unload ends the pull of its digest: who waits for that hears adapter_not_loaded, the puller a NO; the unload is answered when the pull has ended, and
 * what came all the same goes. Who asks for a load after that waits for another pull. While a load is on its way into the set (`opening`: a moment without
 * the lock) an unload waits until the set knows of it, so the two come true in the order in which they were asked for.
 *
 * A job is one digest, whoever asks; PULL_JOBS of them are with the puller, the others wait in the order in which they came. The callbacks of loads are
 * called without the lock. What the loader finds wrong with files that were fetched within TRUST_US is wrong with the adapter, for the puller looked at
 * them in the same way: then it is told, and not fetched again.
 *
 * A load waits at most pull_s + PULL_GRACE_S from when it was asked for, its turn included, and then hears why, whatever the puller does; a pull that goes on
 * brings its files into the store all the same. (The gateway gives a load 120 s: with the longest pull_s that is a few seconds more.)
 *
 * What the puller is told waits in a list, in its order, and the reader alone sends it, without the lock: a puller that is slow or hangs holds up nobody.
 *
 * Lock order: pull.lock before lora.lock (lora_may_go, lora_let_go, lora_used_us); nothing of ours is called under lora.lock. */
#include "engine/pull_impl.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/meters.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define TRUST_US 60000000
#define WAITERS_MAX 65536 /* loads that wait for a pull */
#define TICK_MS 500       /* how often is looked for loads that wait too long */

/* A load, from pull_load() to its callback. */
struct load {
    struct pull *p;
    char digest[SHA256_HEX];
    void (*done)(void *u, const struct err *e);
    void *u;
    bool again; /* its files were found damaged, and are fetched once more */
    bool cached; /* they lay in the store when it began */
    bool ended;  /* an unload, and it ended a pull */
    bool turn;   /* what it waited for too long had not begun */
    int64_t until_us; /* monotonic: no longer for a pull */
    struct load *next;
};

struct job {
    uint32_t id;
    char digest[SHA256_HEX];
    bool sent;
    int64_t reserved, begun_us;
    struct err why; /* of a NO */
    struct load *loads;
    bool over;            /* an unload ended it: nobody waits for it, and what comes of it goes */
    struct load *unloads; /* are answered when it has ended */
    struct job *next;
};

/* Loads that are being handed to the set of adapters; on the stack of who does so. */
struct opening {
    char digest[SHA256_HEX];
    struct load *unloads; /* came meanwhile */
    struct opening *next;
};

/* What the puller is to be told. */
struct note {
    enum pull_op op;
    uint32_t id;
    char digest[SHA256_HEX];
    struct note *next;
};

struct pull {
    struct pull_options o;
    struct lora_set *loras;
    struct base_desc base;
    int fd, wake; /* to the puller; the reader has something to send, or to look at */
    pid_t helper;
    pthread_t reader;
    bool reading;
    pthread_mutex_t lock; /* covers the rest; nothing is sent under it */
    bool stop, ended;
    struct note *notes, **notes_end;
    uint32_t ids; /* begin at the second of the start: what an earlier one left in tmp has other numbers */
    int running, waiting;
    struct job *jobs; /* in the order in which they came */
    struct opening *opening;
    struct pull_cache cache;
};

/* --- talking to the puller --- */

/* Under the lock. -1: no memory. */
static int say(struct pull *p, enum pull_op op, uint32_t id, const char *digest)
{
    struct note *n = calloc(1, sizeof *n);
    if (!n) return -1;
    *n = (struct note){.op = op, .id = id};
    snprintf(n->digest, sizeof n->digest, "%s", digest);
    *p->notes_end = n;
    p->notes_end = &n->next;
    eventfd_write(p->wake, 1);
    return 0;
}

/* The reader's. 1: it is sent; 0: the puller takes no more just now; -1: it is gone. */
static int send_note(const struct pull *p, const struct note *n)
{
    struct pull_ask a = {.op = n->op, .id = n->id, .max_rank = p->o.max_rank};
    memcpy(a.digest, n->digest, sizeof a.digest);
    if (n->op == PULL_GET) a.base = p->base;
    ssize_t sent;
    do sent = send(p->fd, &a, sizeof a, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS)) return 0;
    return sent == (ssize_t)sizeof a ? 1 : -1;
}

/* As many as go: the first one stays in the list until it is sent, and nobody but the reader takes one out. */
static int send_notes(struct pull *p)
{
    for (int rc = 1;;) {
        pthread_mutex_lock(&p->lock);
        struct note *n = p->notes;
        pthread_mutex_unlock(&p->lock);
        if (!n || (rc = send_note(p, n)) <= 0) return rc;
        pthread_mutex_lock(&p->lock);
        p->notes = n->next;
        if (!p->notes) p->notes_end = &p->notes;
        pthread_mutex_unlock(&p->lock);
        free(n);
    }
}

static void meter_store(const struct pull *p)
{
    if (!p->o.metrics) return;
    metric_set(p->o.metrics, M_STORE_BYTES, NULL, (double)p->cache.bytes);
    metric_set(p->o.metrics, M_STORE_BLOBS, NULL, p->cache.n);
}

static const char *word_of(enum err_code c)
{
    switch (c) {
    case ERR_NONE: return "ok";
    case ERR_NOT_FOUND: return "not_found";
    case ERR_UNAUTHORIZED: return "refused";
    case ERR_ADAPTER_INVALID: return "corrupt";
    case ERR_TOO_LARGE:
    case ERR_IO: return "no_room";
    default: return "failed";
    }
}

/* --- jobs, under the lock --- */

static struct job *job_of(struct pull *p, const char *digest)
{
    struct job *j = p->jobs;
    while (j && (j->over || strcmp(j->digest, digest) != 0)) j = j->next;
    return j;
}

/* One that was ended, and has not yet. */
static struct job *ending_of(struct pull *p, const char *digest)
{
    struct job *j = p->jobs;
    while (j && (!j->over || strcmp(j->digest, digest) != 0)) j = j->next;
    return j;
}

static struct opening *opening_of(struct pull *p, const char *digest)
{
    struct opening *o = p->opening;
    while (o && strcmp(o->digest, digest) != 0) o = o->next;
    return o;
}

/* Its files are none to remove. */
static bool is_coming(struct pull *p, const char *digest)
{
    return job_of(p, digest) || opening_of(p, digest);
}

/* As many as may go; what there is no memory for goes with the next that ends, or is told that it waited too long. */
static void send_jobs(struct pull *p)
{
    for (struct job *j = p->jobs; j && p->running < PULL_JOBS; j = j->next) {
        if (j->sent || ending_of(p, j->digest) || say(p, PULL_GET, j->id, j->digest)) continue;
        j->begun_us = clock_mono_us();
        j->sent = true;
        p->running++;
    }
}

static struct job *job_new(struct pull *p, const char *digest)
{
    struct job *j = calloc(1, sizeof *j), **at = &p->jobs;
    if (!j) return NULL;
    j->id = ++p->ids;
    snprintf(j->digest, sizeof j->digest, "%s", digest);
    while (*at) at = &(*at)->next;
    *at = j;
    return j;
}

/* Appends the load to its digest's job. */
static int wait_for(struct pull *p, struct load *l, struct err *e)
{
    struct job *j = job_of(p, l->digest);
    if (p->stop) return err_set(e, ERR_UNAVAILABLE, "the engine is stopping");
    if (p->ended) return err_set(e, ERR_FETCH, "the process that fetches adapters is gone");
    if (p->waiting >= WAITERS_MAX) return err_set(e, ERR_QUEUE_FULL, "%d loads wait for their adapters already", WAITERS_MAX);
    if (!j && !(j = job_new(p, l->digest))) return err_set(e, ERR_NO_MEMORY, "no memory to fetch an adapter");
    l->next = j->loads;
    j->loads = l;
    p->waiting++;
    eventfd_write(p->wake, 1); /* from now on it is looked at */
    return 0;
}

/* --- loads, without the lock --- */

static void load_over(struct load *l, const struct err *e)
{
    l->done(l->u, e);
    free(l);
}

static void loaded(void *u, const struct err *e);
static void unloaded(void *u, const struct err *e);

static void unload_all(struct load *l)
{
    for (struct load *next; l; l = next) {
        next = l->next;
        lora_unload(l->p->loras, l->digest, unloaded, l);
    }
}

/* A job that failed, or was ended: all who wait hear it. */
static void jobs_failed(struct job *j)
{
    while (j) {
        struct job *next = j->next;
        unload_all(j->unloads);
        for (struct load *l = j->loads, *after; l; l = after) {
            after = l->next;
            load_over(l, &j->why);
        }
        free(j);
        j = next;
    }
}

static void open_it(struct load *l)
{
    char path[STORE_PATH_MAX];
    struct err e = {0};
    if (store_path(l->p->o.store, l->digest, path, &e))
        load_over(l, &e);
    else
        lora_load(l->p->loras, l->digest, path, loaded, l);
}

/* Under the lock: who opens says so first. */
static void opening_begin(struct pull *p, struct opening *o, const char *digest)
{
    *o = (struct opening){.next = p->opening};
    snprintf(o->digest, sizeof o->digest, "%s", digest);
    p->opening = o;
}

/* Opens them, without the lock. */
static void open_all(struct pull *p, struct opening *o, struct load *l)
{
    for (struct load *next; l; l = next) {
        next = l->next;
        open_it(l);
    }
    pthread_mutex_lock(&p->lock);
    struct opening **at = &p->opening;
    while (*at != o) at = &(*at)->next;
    *at = o->next;
    pthread_mutex_unlock(&p->lock);
    unload_all(o->unloads);
}

/* Files of the cache that are not what they were: away with them, and again. Under the lock; false: the error stands. */
static bool begin_again(struct load *l, enum err_code why)
{
    struct pull *p = l->p;
    struct pull_blob *b = pull_cache_find(&p->cache, l->digest);
    struct err e = {0};
    bool trusted = !l->cached || (b && b->pulled_us && clock_mono_us() - b->pulled_us < TRUST_US);
    if (l->again || (trusted && why != ERR_NOT_FOUND)) return false;
    l->again = true;
    log_warn("blob_damaged", LS("digest", l->digest));
    if (b) {
        say(p, PULL_DROP, 0, l->digest); /* where it can't be said the new one takes its place */
        pull_cache_remove(&p->cache, l->digest);
        meter_store(p);
    }
    if (wait_for(p, l, &e)) return false;
    send_jobs(p);
    return true;
}

/* On a loader's thread, or at once. */
static void loaded(void *u, const struct err *e)
{
    struct load *l = u;
    bool again = false;
    if (e && (e->code == ERR_ADAPTER_INVALID || e->code == ERR_NOT_FOUND || e->code == ERR_IO)) {
        pthread_mutex_lock(&l->p->lock);
        again = begin_again(l, e->code);
        pthread_mutex_unlock(&l->p->lock);
    }
    if (!again) load_over(l, e);
}

static int64_t wait_until(const struct pull *p)
{
    return clock_mono_us() + (p->o.total_s + PULL_GRACE_S) * 1000000ll;
}

void pull_load(struct pull *p, const char *digest, void (*done)(void *u, const struct err *e), void *u)
{
    struct load *l = calloc(1, sizeof *l);
    struct err e = {0};
    if (!l) {
        err_set(&e, ERR_NO_MEMORY, "no memory to load an adapter");
        done(u, &e);
        return;
    }
    *l = (struct load){.p = p, .done = done, .u = u, .until_us = wait_until(p)};
    snprintf(l->digest, sizeof l->digest, "%s", digest);
    pthread_mutex_lock(&p->lock);
    struct pull_blob *b = job_of(p, digest) ? NULL : pull_cache_find(&p->cache, digest);
    struct opening opening;
    if (b) {
        b->used_us = clock_mono_us();
        opening_begin(p, &opening, digest);
    }
    l->cached = b;
    int rc = b ? 0 : wait_for(p, l, &e);
    if (!b && !rc) send_jobs(p);
    pthread_mutex_unlock(&p->lock);
    if (rc)
        load_over(l, &e);
    else if (b)
        open_all(p, &opening, l);
}

static void unloaded(void *u, const struct err *e)
{
    struct load *l = u;
    struct pull *p = l->p;
    if (e && e->code == ERR_ADAPTER_NOT_LOADED && l->ended) e = NULL;
    if (!e || e->code == ERR_ADAPTER_NOT_LOADED) {
        pthread_mutex_lock(&p->lock);
        bool there = pull_cache_find(&p->cache, l->digest) && !is_coming(p, l->digest) && lora_let_go(p->loras, l->digest);
        if (there && say(p, PULL_DROP, 0, l->digest) == 0) pull_cache_remove(&p->cache, l->digest);
        meter_store(p);
        pthread_mutex_unlock(&p->lock);
    }
    load_over(l, e);
}

/* Ends the pull that there is of the digest: its loads are handed over, to hear of it. Under the lock; true: the unload waits. */
static bool end_pull(struct pull *p, struct load *unload, struct load **loads)
{
    struct job *j = job_of(p, unload->digest), **at = &p->jobs;
    struct opening *o = opening_of(p, unload->digest);
    unload->ended = j || ending_of(p, unload->digest);
    if (j) {
        for (struct load *l = j->loads; l; l = l->next) p->waiting--;
        *loads = j->loads;
        j->loads = NULL;
        j->over = true;
    }
    if (j && !j->sent) {
        while (*at != j) at = &(*at)->next;
        *at = j->next;
        free(j);
    } else if (j) {
        say(p, PULL_NO, j->id, j->digest);
    }
    struct job *ending = ending_of(p, unload->digest);
    if (!ending && !o) return false;
    struct load **to = ending ? &ending->unloads : &o->unloads;
    unload->next = *to;
    *to = unload;
    return true;
}

void pull_unload(struct pull *p, const char *digest, void (*done)(void *u, const struct err *e), void *u)
{
    struct load *l = calloc(1, sizeof *l);
    if (!l) {
        lora_unload(p->loras, digest, done, u); /* its files go when their room is needed */
        return;
    }
    struct load *loads = NULL;
    *l = (struct load){.p = p, .done = done, .u = u, .until_us = wait_until(p)};
    snprintf(l->digest, sizeof l->digest, "%s", digest);
    pthread_mutex_lock(&p->lock);
    bool waits = end_pull(p, l, &loads);
    pthread_mutex_unlock(&p->lock);
    for (struct load *next; loads; loads = next) {
        struct err e = {0};
        next = loads->next;
        err_set(&e, ERR_ADAPTER_NOT_LOADED, "the adapter %s is being unloaded", digest);
        load_over(loads, &e);
    }
    if (!waits) lora_unload(p->loras, digest, unloaded, l);
}

/* --- what the puller says, on the reader's thread --- */

static bool may_go(void *u, const char *digest)
{
    struct pull *p = u;
    return !is_coming(p, digest) && lora_may_go(p->loras, digest);
}

static bool let_go(void *u, const char *digest)
{
    struct pull *p = u;
    return !is_coming(p, digest) && lora_let_go(p->loras, digest);
}

static int64_t used_us(void *u, const char *digest)
{
    return lora_used_us(((struct pull *)u)->loras, digest);
}

static void drop(void *u, const char *digest)
{
    struct pull *p = u;
    log_info("blob_dropped", LS("digest", digest));
    say(p, PULL_DROP, 0, digest);
    if (p->o.metrics) metric_add(p->o.metrics, M_STORE_EVICTIONS, NULL, 1);
}

/* Of those that the puller knows of: what it says of others is no answer. */
static struct job **by_id(struct pull *p, uint32_t id)
{
    struct job **at = &p->jobs;
    while (*at && ((*at)->id != id || !(*at)->sent)) at = &(*at)->next;
    return at;
}

/* In the store's own count, once a pull; or on its disk, where others fill it too: there as much goes as the adapter needs, or as there is. */
static bool make_room(struct pull *p, struct job *j, const struct pull_tell *t)
{
    const struct pull_keeper k = {may_go, let_go, used_us, drop, p};
    if (t->what == PULL_FULL) return j->reserved && pull_cache_evict(&p->cache, j->reserved, &k) > 0;
    if (j->reserved || pull_cache_reserve(&p->cache, t->bytes, &k)) return false;
    j->reserved = t->bytes;
    return true;
}

static void on_need(struct pull *p, const struct pull_tell *t)
{
    pthread_mutex_lock(&p->lock);
    struct job *j = *by_id(p, t->id);
    bool room = j && !j->over && !p->stop && make_room(p, j, t);
    if (j && !j->over) say(p, room ? PULL_GO : PULL_NO, t->id, j->digest);
    meter_store(p);
    pthread_mutex_unlock(&p->lock);
}

static void note(const struct pull *p, const struct job *j, const struct pull_tell *t)
{
    int64_t us = clock_mono_us() - j->begun_us;
    if (j->over) {
        log_info("pull_called_off", LS("digest", j->digest), LI("ms", us / 1000));
        return;
    }
    if (t->code)
        log_warn("pull_failed", LS("digest", j->digest), LS("outcome", word_of(t->code)), LS("why", t->why), LI("ms", us / 1000));
    else
        log_info("pulled", LS("digest", j->digest), LI("bytes", t->bytes), LI("ms", us / 1000));
    if (!p->o.metrics) return;
    metric_add(p->o.metrics, M_PULLS, (const char *[]){word_of(t->code)}, 1);
    if (t->code) return;
    metric_add(p->o.metrics, M_PULL_BYTES, NULL, (double)t->bytes);
    metric_observe(p->o.metrics, M_PULL_SECONDS, NULL, (double)us / 1e6);
}

/* To whoever asked: what is no fault of the adapter's is one code, which the gateway passes on with its reason. */
static void reason(struct job *j, const struct pull_tell *t)
{
    enum err_code code = t->code == ERR_NOT_FOUND ? ERR_NOT_FOUND : ERR_FETCH;
    err_set(&j->why, code, "the adapter could not be fetched: %.*s", PULL_MESSAGE - 1, t->code ? t->why : "no memory to keep it in mind");
}

/* What came for nobody, or can't be kept in mind, is none of the store's. Under the lock; the blob, or NULL. */
static struct pull_blob *keep(struct pull *p, const struct job *j)
{
    struct pull_blob *b = j->over ? NULL : pull_cache_add(&p->cache, j->digest, j->reserved);
    if (!b) say(p, PULL_DROP, 0, j->digest);
    return b;
}

static void on_done(struct pull *p, const struct pull_tell *t)
{
    struct opening opening;
    pthread_mutex_lock(&p->lock);
    struct job **at = by_id(p, t->id), *j = *at;
    if (!j) {
        pthread_mutex_unlock(&p->lock);
        return;
    }
    *at = j->next;
    j->next = NULL;
    p->running--;
    for (struct load *l = j->loads; l; l = l->next) p->waiting--;
    struct pull_blob *b = t->code ? NULL : keep(p, j);
    if (b) b->pulled_us = b->used_us = clock_mono_us();
    if (!b) p->cache.bytes -= j->reserved;
    meter_store(p);
    if (b) opening_begin(p, &opening, j->digest);
    send_jobs(p);
    pthread_mutex_unlock(&p->lock);
    note(p, j, t);
    if (b) {
        open_all(p, &opening, j->loads);
        j->loads = NULL;
    } else if (!j->over) {
        reason(j, t);
    }
    jobs_failed(j);
}

/* Nothing comes any more: who waits is told. */
static void on_end(struct pull *p)
{
    pthread_mutex_lock(&p->lock);
    struct job *all = p->jobs;
    p->jobs = NULL;
    p->running = p->waiting = 0;
    p->ended = true;
    bool asked = p->stop;
    for (struct job *j = all; j; j = j->next) {
        p->cache.bytes -= j->reserved;
        err_set(&j->why, asked ? ERR_UNAVAILABLE : ERR_FETCH, asked ? "the engine is stopping" : "the process that fetches adapters is gone");
    }
    pthread_mutex_unlock(&p->lock);
    jobs_failed(all);
}

/* Moves the job's loads that waited too long to *late. */
static void take_late(struct pull *p, const struct job *j, struct load **from, int64_t now, struct load **late)
{
    while (*from) {
        struct load *l = *from;
        if (l->until_us > now) {
            from = &l->next;
            continue;
        }
        *from = l->next;
        p->waiting -= !l->ended;
        l->turn = !j->sent;
        l->next = *late;
        *late = l;
    }
}

static const char *late_words(const struct load *l)
{
    if (l->ended) return "the pull of the adapter did not end within %d s; its files go when it does";
    return l->turn ? "the adapter waited %d s for its turn to be fetched" : "the adapter was not fetched within %d s";
}

/* Those hear it. A job that nobody waits for goes where it was not begun. Whether there are others. */
static bool end_late(struct pull *p)
{
    struct load *late = NULL;
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&p->lock);
    for (struct job **at = &p->jobs; *at;) {
        struct job *j = *at;
        take_late(p, j, &j->loads, now, &late);
        take_late(p, j, &j->unloads, now, &late);
        if (j->sent || j->loads) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        free(j);
    }
    send_jobs(p);
    bool jobs = p->jobs;
    pthread_mutex_unlock(&p->lock);
    for (struct load *l = late, *next; l; l = next) {
        struct err e = {0};
        next = l->next;
        err_set(&e, ERR_FETCH, late_words(l), p->o.total_s + PULL_GRACE_S);
        log_warn("pull_waited", LS("digest", l->digest), LS("why", e.msg));
        load_over(l, &e);
    }
    return jobs;
}

/* false: the other end is not what we started. */
static bool heed(struct pull *p, struct pull_tell *t)
{
    t->why[sizeof t->why - 1] = 0;
    if ((unsigned)t->what > PULL_DONE || (unsigned)t->code >= ERR_CODES || t->bytes < 0) return false;
    if (t->what == PULL_DONE)
        on_done(p, t);
    else
        on_need(p, t);
    return true;
}

/* One message, if there is one. -1: nothing comes any more. */
static int hear(struct pull *p)
{
    struct pull_tell t;
    ssize_t n = recv(p->fd, &t, sizeof t, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return 0;
    return n == (ssize_t)sizeof t && heed(p, &t) ? 0 : -1;
}

static void *reader(void *u)
{
    struct pull *p = u;
    pthread_setname_np(pthread_self(), "pull");
    bool idle = false;
    int64_t looked_us = 0;
    for (int left = 1; left >= 0;) { /* 0: the puller takes no more just now */
        struct pollfd at[2] = {{.fd = p->fd, .events = left ? POLLIN : POLLIN | POLLOUT}, {.fd = p->wake, .events = POLLIN}};
        eventfd_t count;
        if (poll(at, 2, idle ? -1 : TICK_MS) < 0 && errno != EINTR) break;
        idle = false;
        if (at[1].revents) eventfd_read(p->wake, &count);
        if (at[0].revents & (POLLIN | POLLHUP | POLLERR) && hear(p)) break;
        left = send_notes(p);
        if (clock_mono_us() - looked_us < TICK_MS * 1000) continue;
        idle = !end_late(p);
        looked_us = clock_mono_us();
    }
    on_end(p);
    return NULL;
}

/* --- life --- */

int pull_start(struct pull **out, const struct pull_options *o, struct err *e)
{
    struct pull *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NO_MEMORY, "no memory to fetch adapters");
    *p = (struct pull){.o = *o, .fd = -1, .wake = -1, .ids = (uint32_t)(clock_wall_us() / 1000000), .notes_end = &p->notes, .cache = {.max_bytes = o->max_bytes}};
    pthread_mutex_init(&p->lock, NULL);
    int rc = pull_helper_start(&p->o, &p->fd, &p->helper, e) || pull_cache_read(&p->cache, o->store, e) ? -1 : 0;
    if (!rc && (p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) rc = err_errno(e, "no descriptor to fetch adapters");
    if (rc) {
        pull_free(p);
        return -1;
    }
    log_info("puller", LI("pid", p->helper), LI("blobs", p->cache.n), LI("bytes", p->cache.bytes), LI("max_bytes", o->max_bytes));
    *out = p;
    return 0;
}

int pull_serve(struct pull *p, struct lora_set *loras, const struct base_desc *base, struct metrics *m, struct err *e)
{
    const struct pull_keeper k = {may_go, let_go, used_us, drop, p};
    p->loras = loras;
    p->base = *base;
    p->o.metrics = m;
    pull_cache_reserve(&p->cache, 0, &k); /* where the bound was lowered since */
    meter_store(p);
    if (pthread_create(&p->reader, NULL, reader, p)) return err_errno(e, "no thread to fetch adapters");
    p->reading = true;
    return 0;
}

void pull_stop(struct pull *p)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_mutex_unlock(&p->lock);
    shutdown(p->fd, SHUT_RDWR);
    if (p->reading) pthread_join(p->reader, NULL);
    p->reading = false;
}

void pull_free(struct pull *p)
{
    if (!p) return;
    if (p->fd >= 0) close(p->fd);
    if (p->wake >= 0) close(p->wake);
    for (struct note *n = p->notes, *next; n; n = next) {
        next = n->next;
        free(n);
    }
    pull_cache_free(&p->cache);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

bool pull_ended(struct pull *p)
{
    pthread_mutex_lock(&p->lock);
    bool ended = p->ended && !p->stop;
    pthread_mutex_unlock(&p->lock);
    return ended;
}

void pull_get_state(struct pull *p, struct pull_state *out)
{
    pthread_mutex_lock(&p->lock);
    *out = (struct pull_state){.bytes = p->cache.bytes, .max_bytes = p->cache.max_bytes, .blobs = p->cache.n, .pulling = p->running};
    pthread_mutex_unlock(&p->lock);
}
