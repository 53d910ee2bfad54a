/* upload_jobs: the threads behind the life of adapters, and what they hold against each other.
 *
 *     workers (setting upload_jobs)   take jobs in order: check files, self-test; quarantine goes first
 *     importers (import_jobs)         fetch from strangers' hosts (upload_imports.c)
 *     keeper (one)                    once a tick: jobs that are due, versions that nobody holds any more, uploads that
 *                                     expired, pinned versions asked for again, requests that waited too long
 *
 * A blob is shared by all versions with its digest, of any tenant. So "commit, then register" and "unregister, then
 * remove" exclude each other per digest: both claim it. A claim is no mutex: nothing is locked while disk or database
 * work. A removal looks under the claim whether somebody registered the digest again.
 *
 * What a crash leaves at any point is seen at the next start: temporary folders that belong to no living upload, blobs
 * that no version needs, versions that are deleting or validating, uploads that were being validated. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/registry/upload_impl.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUSY_TICK_MS 50
#define IDLE_TICK_MS 1000
#define EXPIRE_MS 1000
#define COLLECT_MS 5000
#define PIN_MS 5000

/* --- jobs --- */

static void append(struct uploads *u, struct job *j)
{
    j->next = NULL;
    if (u->last)
        u->last->next = j;
    else
        u->first = j;
    u->last = j;
}

void job_add(struct uploads *u, struct job *j, int delay_ms)
{
    pthread_mutex_lock(&u->lock);
    j->due_us = clock_mono_us() + (int64_t)delay_ms * 1000;
    if (delay_ms > 0) {
        j->next = u->later;
        u->later = j;
        pthread_cond_signal(&u->tick);
    } else {
        append(u, j);
        pthread_cond_signal(&u->work);
    }
    pthread_mutex_unlock(&u->lock);
}

void job_add_first(struct uploads *u, struct job *j)
{
    pthread_mutex_lock(&u->lock);
    j->next = u->first;
    u->first = j;
    if (!u->last) u->last = j;
    pthread_cond_signal(&u->work);
    pthread_mutex_unlock(&u->lock);
}

static void *work(void *p)
{
    struct uploads *u = p;
    pthread_mutex_lock(&u->lock);
    for (;;) {
        struct job *j = u->first;
        if (!j && atomic_load(&u->stop)) break;
        if (!j) {
            pthread_cond_wait(&u->work, &u->lock);
            continue;
        }
        u->first = j->next;
        if (!u->first) u->last = NULL;
        pthread_mutex_unlock(&u->lock);
        j->run(u, j);
        pthread_mutex_lock(&u->lock);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

/* --- claims --- */

void digest_claim(struct uploads *u, struct claim *c, const char *digest)
{
    c->digest = digest;
    pthread_mutex_lock(&u->lock);
    for (struct claim *i = u->claims; i;) {
        if (strcmp(i->digest, digest) == 0) {
            pthread_cond_wait(&u->released, &u->lock);
            i = u->claims;
        } else {
            i = i->next;
        }
    }
    c->next = u->claims;
    u->claims = c;
    pthread_mutex_unlock(&u->lock);
}

void digest_release(struct uploads *u, struct claim *c)
{
    pthread_mutex_lock(&u->lock);
    struct claim **p = &u->claims;
    while (*p != c) p = &(*p)->next;
    *p = c->next;
    pthread_cond_broadcast(&u->released);
    pthread_mutex_unlock(&u->lock);
}

bool busy_is(struct uploads *u, const char *id)
{
    pthread_mutex_lock(&u->lock);
    struct busy *b = u->busy;
    while (b && strcmp(b->id, id) != 0) b = b->next;
    pthread_mutex_unlock(&u->lock);
    return b != NULL;
}

int busy_take(struct uploads *u, const char *id, struct err *e)
{
    struct busy *fresh = calloc(1, sizeof *fresh);
    if (!fresh) return err_set(e, ERR_NO_MEMORY, "no memory for the upload");
    snprintf(fresh->id, sizeof fresh->id, "%s", id);
    pthread_mutex_lock(&u->lock);
    struct busy *b = u->busy;
    while (b && strcmp(b->id, id) != 0) b = b->next;
    if (!b) {
        fresh->next = u->busy;
        u->busy = fresh;
    }
    pthread_mutex_unlock(&u->lock);
    if (!b) return 0;
    free(fresh);
    return err_set(e, ERR_CONFLICT, "another request works on this upload; try again when it is over");
}

void busy_give(struct uploads *u, const char *id)
{
    pthread_mutex_lock(&u->lock);
    struct busy **p = &u->busy;
    while (*p && strcmp((*p)->id, id) != 0) p = &(*p)->next;
    struct busy *b = *p;
    if (b) *p = b->next;
    pthread_mutex_unlock(&u->lock);
    free(b);
}

/* --- removing --- */

void uploads_drop(struct uploads *u, char (*digests)[SHA256_HEX], int n)
{
    struct gateway *g = u->g;
    for (int i = 0; i < n; i++) {
        struct claim c;
        struct err e = {0};
        digest_claim(u, &c, digests[i]);
        if (!registry_has_digest(g->registry, digests[i])) {
            residency_unload(g, digests[i]);
            if (store_remove(g->store, digests[i], &e)) /* the next start tries again */
                log_error("blob_remove", LS("digest", digests[i]), LS("error", e.msg));
        }
        digest_release(u, &c);
    }
}

static void set_draining(struct uploads *u)
{
    pthread_mutex_lock(&u->lock);
    u->draining = true;
    pthread_cond_signal(&u->tick);
    pthread_mutex_unlock(&u->lock);
}

/* Whether there may be any; from now on somebody else says so again, as he does while they are collected. */
static bool take_draining(struct uploads *u)
{
    pthread_mutex_lock(&u->lock);
    bool draining = u->draining;
    u->draining = false;
    pthread_mutex_unlock(&u->lock);
    return draining;
}

static void collect(struct uploads *u)
{
    char(*orphans)[SHA256_HEX] = NULL;
    int n = 0, held = 0;
    struct err e = {0};
    if (registry_collect(u->g->registry, &orphans, &n, &held, &e)) {
        log_error("version_collect", LS("error", e.msg));
        set_draining(u); /* the next tick tries again */
        return;
    }
    uploads_drop(u, orphans, n);
    free(orphans);
    if (held > 0) set_draining(u);
}

int uploads_remove(struct uploads *u, const struct actor *by, const char *tenant, const char *name, int version,
                   int64_t want, int *draining, struct err *e)
{
    char(*orphans)[SHA256_HEX] = NULL;
    int n = 0;
    if (registry_remove(u->g->registry, by, tenant, name, version, want, &orphans, &n, draining, e)) {
        set_draining(u); /* it may have failed half way, when the versions were going already */
        return -1;
    }
    faults_forget(u, tenant, name, version);
    uploads_drop(u, orphans, n);
    free(orphans);
    if (*draining) set_draining(u);
    return 0;
}

/* Blobs under ROOT/ab that no version needs. */
static void sweep_folder(struct gateway *g, const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *i; d && (i = readdir(d));) {
        struct err e = {0};
        if (!sha256_is_hex(i->d_name) || registry_has_digest(g->registry, i->d_name)) continue;
        if (store_remove(g->store, i->d_name, &e))
            log_error("blob_remove", LS("digest", i->d_name), LS("error", e.msg));
        else
            log_info("blob_orphan", LS("digest", i->d_name));
    }
    if (d) closedir(d);
}

/* Before any thread: nothing comes or goes meanwhile. */
static void sweep(struct gateway *g)
{
    char path[sizeof g->store + 8];
    DIR *d = opendir(g->store);
    for (struct dirent *i; d && (i = readdir(d));) {
        if (strlen(i->d_name) != 2 || i->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%.2s", g->store, i->d_name);
        sweep_folder(g, path);
    }
    if (d) closedir(d);
}

/* --- the keeper --- */

static bool take_due(struct uploads *u)
{
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&u->lock);
    for (struct job **p = &u->later; *p;) {
        struct job *j = *p;
        if (j->due_us > now) {
            p = &j->next;
            continue;
        }
        *p = j->next;
        append(u, j);
        pthread_cond_signal(&u->work);
    }
    bool more = u->later || u->draining;
    pthread_mutex_unlock(&u->lock);
    return more;
}

static void warmed(void *u, bool cold, const struct err *e)
{
    (void)u, (void)cold;
    if (e) log_warn("adapter_pin", LS("error", e->msg));
}

static void warm(void *p, const struct version_id *v)
{
    struct gateway *g = p;
    if (v->pinned) residency_warm(g, v->tenant, v->digest, warmed, NULL);
}

static void nap(struct uploads *u, int ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ms % 1000 * 1000000L;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&u->lock);
    if (!atomic_load(&u->stop)) pthread_cond_timedwait(&u->tick, &u->lock, &t);
    pthread_mutex_unlock(&u->lock);
}

static bool is_due(int64_t *last_us, int ms)
{
    int64_t now = clock_mono_us();
    if (now - *last_us < (int64_t)ms * 1000) return false;
    *last_us = now;
    return true;
}

static void *keep(void *p)
{
    struct uploads *u = p;
    int64_t expired = 0, collected = 0, pinned = 0;
    while (!atomic_load(&u->stop)) {
        bool busy = take_due(u);
        if (take_draining(u)) collect(u);
        if (is_due(&expired, EXPIRE_MS)) parts_expire(u);
        if (is_due(&collected, COLLECT_MS)) parts_collect(u);
        if (is_due(&pinned, PIN_MS) && pool_ready(u->g->pool))
            registry_each(u->g->registry, 1u << VERSION_READY, warm, u->g);
        waiters_tick(u, false);
        nap(u, busy ? BUSY_TICK_MS : IDLE_TICK_MS);
    }
    return NULL;
}

/* --- starting, stopping --- */

struct found {
    struct uploads *u;
    struct version_name *v;
    int n, cap;
};

static void find_validating(void *p, const struct version_id *v)
{
    struct found *f = p;
    if (!v->digest[0]) return; /* its upload goes on */
    if (f->n == f->cap) {
        struct version_name *more = realloc(f->v, (size_t)(f->cap + 64) * sizeof *more);
        if (!more) return; /* the next start finds it */
        f->v = more;
        f->cap += 64;
    }
    struct version_name *to = &f->v[f->n++];
    *to = (struct version_name){.version = v->version};
    memcpy(to->tenant, v->tenant, sizeof to->tenant);
    memcpy(to->name, v->name, sizeof to->name);
}

/* What was under way when the last gateway ended. */
static void go_on(struct uploads *u)
{
    struct found f = {.u = u};
    registry_each(u->g->registry, 1u << VERSION_VALIDATING, find_validating, &f);
    for (int i = 0; i < f.n; i++) test_queue(u, &f.v[i], NULL);
    free(f.v);
    parts_start(u);
}

static int start_threads(struct uploads *u, struct err *e)
{
    for (int i = 0; i < u->g->set->upload_jobs && i < JOB_THREADS_MAX; i++) {
        if (pthread_create(&u->thread[i], NULL, work, u)) return err_set(e, ERR_NO_MEMORY, "no threads for uploads");
        u->nthreads++;
    }
    if (imports_start(u, e)) return -1;
    if (pthread_create(&u->keeper, NULL, keep, u)) return err_set(e, ERR_NO_MEMORY, "no threads for uploads");
    u->has_keeper = true;
    return 0;
}

int uploads_open(struct uploads **out, struct gateway *g, struct err *e)
{
    struct uploads *u = calloc(1, sizeof *u);
    pthread_condattr_t attr;
    if (!u) return err_set(e, ERR_NO_MEMORY, "no memory for uploads");
    u->g = g;
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->work, NULL);
    pthread_cond_init(&u->imports.work, NULL);
    pthread_cond_init(&u->released, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->tick, &attr);
    pthread_condattr_destroy(&attr);
    int rc = parts_sweep(g, e);
    if (rc == 0) {
        collect(u);
        sweep(g);
        go_on(u);
        rc = start_threads(u, e);
    }
    if (rc)
        uploads_close(u);
    else
        *out = u;
    return rc;
}

static void run_rest(struct uploads *u)
{
    for (int left = 1; left;) {
        pthread_mutex_lock(&u->lock);
        struct job *j = u->first ? u->first : u->later;
        if (u->first) {
            u->first = j->next;
            if (!u->first) u->last = NULL;
        } else if (j) {
            u->later = j->next;
        }
        pthread_mutex_unlock(&u->lock);
        left = j != NULL;
        if (j) j->run(u, j);
    }
}

void uploads_close(struct uploads *u)
{
    if (!u) return;
    pthread_mutex_lock(&u->lock);
    atomic_store(&u->stop, true);
    pthread_cond_broadcast(&u->work);
    pthread_cond_broadcast(&u->tick);
    pthread_mutex_unlock(&u->lock);
    for (int i = 0; i < u->nthreads; i++) pthread_join(u->thread[i], NULL);
    if (u->has_keeper) pthread_join(u->keeper, NULL);
    imports_stop(u);
    run_rest(u);
    waiters_tick(u, true);
    faults_free(u);
    pthread_cond_destroy(&u->tick);
    pthread_cond_destroy(&u->released);
    pthread_cond_destroy(&u->work);
    pthread_cond_destroy(&u->imports.work);
    pthread_mutex_destroy(&u->lock);
    free(u);
}
