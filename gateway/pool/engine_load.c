/* Which digests the engine holds, and the calls that change it.
 *
 *     unknown --engine_load--> LOADING --200--> LOADED --engine_forget, unload, the engine's end--> unknown
 *                                 |
 *                                 +-- refused or lost --> unknown; all who wait get the reason
 *
 * Loads of one digest are one call with many waiters. What is noted is a belief: the engine's "adapter_not_loaded"
 * corrects it. At most ENGINE_LOADS_MAX digests are noted; beyond that all are forgotten, which costs one harmless
 * repetition each.
 *
 * Callbacks come on the client's thread, or at once where nothing has to be asked. */
#include "base/buf.h"
#include "base/log.h"
#include "gateway/pool/engine_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOAD_MS 120000 /* longest load or unload call */
#define CONNECT_MS 2000
#define REPLY_MAX (64u << 10)
#define CALL_MAX 8192 /* bytes of a call */
#define UNLOAD_TRIES 5

struct waiter {
    void (*done)(void *u, bool cold, const struct err *e);
    void *user;
    struct waiter *next;
};

struct engine_load {
    struct engine *g;
    char digest[SHA256_HEX];
    bool loaded;
    uint64_t generation;
    struct client_call *call; /* while LOADING */
    struct buf reply;
    struct waiter *waiters;
    struct engine_load *next;
};

struct engine_unload_job {
    struct engine *g;
    char digest[SHA256_HEX];
    int tries;
    bool busy;                /* being sent, or under way */
    struct client_call *call; /* while under way */
    struct engine_unload_job *next;
};

/* --- the table, under the lock --- */

static struct engine_load **find(struct engine *g, const char *digest)
{
    unsigned h = 0;
    for (int i = 0; i < 8 && digest[i]; i++) h = h * 31 + (unsigned char)digest[i];
    struct engine_load **p = &g->load[h % ENGINE_LOAD_BUCKETS];
    while (*p && strcmp((*p)->digest, digest) != 0) p = &(*p)->next;
    return p;
}

static void remove_at(struct engine *g, struct engine_load **p)
{
    struct engine_load *l = *p;
    *p = l->next;
    g->nloads--;
    buf_close(&l->reply);
    free(l);
}

/* Digests that wait for their load are left alone: their calls say how it went. */
void loads_forget_all(struct engine *g)
{
    g->generation++;
    for (int i = 0; i < ENGINE_LOAD_BUCKETS; i++)
        for (struct engine_load **p = &g->load[i]; *p;)
            if ((*p)->loaded)
                remove_at(g, p);
            else
                p = &(*p)->next;
}

void loads_lost(struct engine *g)
{
    for (int i = 0; i < ENGINE_LOAD_BUCKETS; i++)
        for (const struct engine_load *l = g->load[i]; l; l = l->next)
            if (l->loaded) gone_note(&g->gone, l->digest);
    loads_forget_all(g);
}

static struct engine_load *add(struct engine *g, const char *digest)
{
    if (g->nloads >= ENGINE_LOADS_MAX) loads_forget_all(g);
    struct engine_load *l = calloc(1, sizeof *l), **p = find(g, digest);
    if (!l) return NULL;
    l->g = g;
    l->generation = g->generation;
    snprintf(l->digest, sizeof l->digest, "%s", digest);
    buf_init(&l->reply, REPLY_MAX);
    l->next = *p;
    *p = l;
    g->nloads++;
    return l;
}

bool engine_has(struct engine *g, const char *digest)
{
    pthread_mutex_lock(&g->lock);
    struct engine_load *l = *find(g, digest);
    bool has = l && l->loaded;
    pthread_mutex_unlock(&g->lock);
    return has;
}

static bool forget(struct engine *g, const char *digest, bool gone)
{
    pthread_mutex_lock(&g->lock);
    struct engine_load **p = find(g, digest);
    bool known = *p;
    if (known && (*p)->loaded) {
        remove_at(g, p);
        if (gone) gone_note(&g->gone, digest);
    }
    pthread_mutex_unlock(&g->lock);
    return known;
}

bool engine_forget(struct engine *g, const char *digest) { return forget(g, digest, true); }

void engine_doubt(struct engine *g, const char *digest) { forget(g, digest, false); }

int64_t engine_evictions(struct engine *g, const char *digest)
{
    pthread_mutex_lock(&g->lock);
    int64_t n = digest ? gone_count(&g->gone, digest) : g->gone.total;
    pthread_mutex_unlock(&g->lock);
    return n;
}

void loads_note(void *engine, const char *digest)
{
    struct engine *g = engine;
    if (!sha256_is_hex(digest)) return;
    pthread_mutex_lock(&g->lock);
    struct engine_load *l = *find(g, digest);
    if (!l && g->nloads < ENGINE_LOADS_MAX && (l = add(g, digest))) l->loaded = true;
    pthread_mutex_unlock(&g->lock);
}

int engine_digests(struct engine *g, int max, void (*fn)(void *u, const char *digest), void *u)
{
    int n = 0;
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < ENGINE_LOAD_BUCKETS; i++)
        for (struct engine_load *l = g->load[i]; l; l = l->next) {
            if (!l->loaded) continue;
            if (n++ < max) fn(u, l->digest);
        }
    pthread_mutex_unlock(&g->lock);
    return n;
}

/* --- the calls --- */

static void call_over(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    g->calls--;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* POST; *call is set under the lock, so that the callbacks find it. */
static int post(struct engine *g, const struct kind_call *what, struct client_request *r, struct client_call **call,
                struct err *e)
{
    const char *headers[3] = {"Content-Type: application/json", g->auth, NULL};
    char url[1024];
    if (what->body.failed) return err_set(e, ERR_NO_MEMORY, "no memory for a call of an engine");
    snprintf(url, sizeof url, "%s%s", g->base_url, what->path);
    r->method = "POST";
    r->url = url;
    r->unix_socket = g->unix_socket;
    r->headers = headers;
    r->body = what->body.data;
    r->body_len = what->body.len;
    r->connect_ms = CONNECT_MS;
    r->first_byte_ms = r->idle_ms = r->total_ms = LOAD_MS;
    pthread_mutex_lock(&g->lock);
    int rc = g->stop ? err_set(e, ERR_UNAVAILABLE, "shutting down") : client_start(g->client, r, call, e);
    if (rc == 0) g->calls++;
    pthread_mutex_unlock(&g->lock);
    return rc;
}

/* The load is over: note it, and tell all who wait. */
static void load_over(struct engine_load *l, const struct err *e)
{
    struct engine *g = l->g;
    pthread_mutex_lock(&g->lock);
    struct waiter *w = l->waiters;
    l->waiters = NULL;
    l->call = NULL;
    l->loaded = !e && l->generation == g->generation;
    if (!e || e->code == ERR_FETCH) snprintf(g->why_load, sizeof g->why_load, "%.255s", e ? e->msg : "");
    if (!l->loaded) remove_at(g, find(g, l->digest));
    pthread_mutex_unlock(&g->lock);
    while (w) {
        struct waiter *next = w->next;
        w->done(w->user, true, e);
        free(w);
        w = next;
    }
}

static int load_data(void *u, const char *bytes, size_t n)
{
    struct engine_load *l = u;
    return buf_add(&l->reply, bytes, n);
}

static void load_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct engine_load *l = u;
    struct engine *g = l->g;
    struct err refusal = {0};
    bool lost = (e && e->code) || r->status == 0;
    if (lost)
        err_set(&refusal, e && e->code ? e->code : ERR_ENGINE, "the engine was lost while it loaded an adapter");
    else if (r->status != 200)
        g->o.kind->load_refused(r->status, l->reply.data, l->reply.len, &refusal);
    load_over(l, refusal.code ? &refusal : NULL);
    call_over(g);
}

static void start_load(struct engine_load *l)
{
    struct engine *g = l->g;
    struct err e = {0};
    struct engine_link link;
    struct kind_call call = {0};

    buf_init(&call.body, CALL_MAX);
    engine_get_link(g, &link);
    if (!g->o.kind->load) {
        err_set(&e, ERR_UNAVAILABLE, "the engine %s serves no adapters", g->o.name);
    } else if (g->o.kind->load(&link, l->digest, &call, &e) == 0) {
        struct client_request r = {.on_data = load_data, .on_done = load_done, .user = l};
        post(g, &call, &r, &l->call, &e);
    }
    buf_close(&call.body);
    if (e.code) load_over(l, &e);
}

void engine_load(struct engine *g, const char *digest, void (*done)(void *u, bool cold, const struct err *e), void *u)
{
    struct waiter *w = malloc(sizeof *w);
    bool fresh = false;
    struct err e = {0};

    pthread_mutex_lock(&g->lock);
    struct engine_load *l = *find(g, digest);
    bool loaded = l && l->loaded;
    if (!l && w) {
        l = add(g, digest);
        fresh = true;
    }
    if (l && w && !loaded) {
        *w = (struct waiter){done, u, l->waiters};
        l->waiters = w;
        w = NULL;
    }
    bool waits = l && !w && !loaded;
    pthread_mutex_unlock(&g->lock);
    free(w);
    if (loaded) {
        done(u, false, NULL);
    } else if (!waits) {
        err_set(&e, ERR_NO_MEMORY, "no memory for the load call");
        done(u, true, &e);
    } else if (fresh) {
        start_load(l);
    }
}

/* --- unloading --- */

static void unload_drop(struct engine_unload_job *job)
{
    struct engine *g = job->g;
    for (struct engine_unload_job **p = &g->unloads; *p; p = &(*p)->next)
        if (*p == job) {
            *p = job->next;
            g->nunloads--;
            break;
        }
    free(job);
}

static void unload_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct engine_unload_job *job = u;
    struct engine *g = job->g;
    bool over = !(e && e->code) && (r->status == 200 || r->status == 404);
    pthread_mutex_lock(&g->lock);
    job->call = NULL;
    job->busy = false;
    if (over || job->tries >= UNLOAD_TRIES || g->stop) unload_drop(job);
    pthread_mutex_unlock(&g->lock);
    call_over(g);
}

static int start_unload(struct engine_unload_job *job)
{
    struct engine *g = job->g;
    struct engine_link link;
    struct kind_call call = {0};
    struct err e = {0};
    buf_init(&call.body, CALL_MAX);
    engine_get_link(g, &link);
    job->tries++;
    struct client_request r = {.on_done = unload_done, .user = job};
    int rc = g->o.kind->unload(&link, job->digest, &call, &e) || post(g, &call, &r, &job->call, &e) ? -1 : 0;
    buf_close(&call.body);
    if (rc == 0) return 0;
    log_warn("engine_unload", LS("engine", g->o.name), LS("digest", job->digest), LS("error", e.msg));
    pthread_mutex_lock(&g->lock);
    job->busy = false;
    if (job->tries >= UNLOAD_TRIES) unload_drop(job);
    pthread_mutex_unlock(&g->lock);
    return -1;
}

/* An engine elsewhere hears only of what it was given: a digest is its tenant's, too. */
void engine_unload(struct engine *g, const char *digest)
{
    if (!g->o.kind->unload || (!engine_forget(g, digest) && !g->o.local)) return;
    struct engine_unload_job *job = calloc(1, sizeof *job);
    if (!job) return; /* the engine drops it by itself when it needs the room */
    job->g = g;
    snprintf(job->digest, sizeof job->digest, "%s", digest);
    pthread_mutex_lock(&g->lock);
    bool room = g->nunloads < ENGINE_UNLOADS_MAX && !g->stop;
    if (room) {
        job->next = g->unloads;
        g->unloads = job;
        g->nunloads++;
    }
    pthread_mutex_unlock(&g->lock);
    if (!room)
        free(job);
    else if (engine_ready(g))
        unloads_repeat(g);
}

/* Sends what is not under way: called by engine_unload, and by the watcher at each look for what failed before. `tries`
 * bounds it. */
void unloads_repeat(struct engine *g)
{
    for (int n = 0; n < ENGINE_UNLOADS_MAX; n++) {
        pthread_mutex_lock(&g->lock);
        struct engine_unload_job *job = g->unloads;
        while (job && job->busy) job = job->next;
        if (job) job->busy = true;
        pthread_mutex_unlock(&g->lock);
        if (!job || start_unload(job)) return;
    }
}

/* Cancels what runs and waits for the callbacks, which touch the engine. */
void loads_close(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    for (int i = 0; i < ENGINE_LOAD_BUCKETS; i++)
        for (struct engine_load *l = g->load[i]; l; l = l->next)
            if (l->call) client_cancel(l->call);
    for (struct engine_unload_job *j = g->unloads; j; j = j->next)
        if (j->call) client_cancel(j->call);
    while (g->calls > 0) pthread_cond_wait(&g->changed, &g->lock);
    loads_forget_all(g);
    while (g->unloads) unload_drop(g->unloads);
    pthread_mutex_unlock(&g->lock);
}
