/* residency: the engine's part in an adapter's life.
 *
 *     residency_selftest:  pool_load -> (loaded) -> POST /weft/v1/selftest -> (answer)
 *
 * Each arrow ends in a callback on the client's thread; the job that asked sleeps on a wait that both share. When the
 * gateway stops, the job goes and the callback finds nobody: whoever is last frees the wait.
 *
 * A pin is a promise to be asked for again: the engine keeps what was used last, and has no lock that a tenant could
 * hold. So a pinned version is loaded anew every few seconds (upload_jobs.c), also after the engine's restart. */
#include "gateway/registry/residency.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/auth/auth_store.h"
#include "gateway/pool/engine_kind.h"
#include "gateway/proxy/quarantine.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_MS 120000
#define TEST_CONNECT_MS 2000
#define ANSWER_MAX (256u << 10)
#define SLICE_MS 50 /* how late a stop is seen */

int residency_base(struct gateway *g, const char *name, struct base_desc *out, struct err *e)
{
    return pool_base(g->pool, name, out, NULL, e);
}

bool residency_serves(void *gateway, const char *base)
{
    struct gateway *g = gateway;
    struct pool_base_id b;
    return pool_base_id(g->pool, base, &b, NULL, NULL) == 0;
}

struct bases {
    struct gateway *g;
    struct base_desc *out;
    int n, max;
};

static void add_base(void *u, const char *name, bool ready)
{
    struct bases *b = u;
    (void)ready;
    if (b->n < b->max && pool_base(b->g->pool, name, &b->out[b->n], NULL, NULL) == 0) b->n++;
}

int residency_bases(struct gateway *g, struct base_desc *out, int max)
{
    struct bases b = {g, out, 0, max};
    pool_bases(g->pool, add_base, &b);
    return b.n;
}

/* Where the requests of a version go. */
static int want_of(struct gateway *g, const char *tenant, const char *digest, char base[128], struct pool_want *out,
                   struct err *e)
{
    bool private;
    if (auth_tenant_private(g->db, tenant, &private, e)) return -1;
    if (!registry_base_of(g->registry, digest, base))
        return err_set(e, ERR_NOT_FOUND, "no version has the digest %s", digest);
    *out = (struct pool_want){.base = base, .digest = {digest}, .ndigests = 1, .local_only = private};
    return 0;
}

struct warming {
    struct gateway *g;
    char tenant[UUID_LEN];
    void (*done)(void *u, bool cold, const struct err *e);
    void *user;
};

static void warmed(void *u, bool cold, const char *engine, uint64_t life, const struct err *e)
{
    struct warming *w = u;
    bool late = e && e->code == ERR_UPSTREAM_TIMEOUT;
    if (e && *engine && (late || e->code == ERR_ENGINE || e->code == ERR_UNAVAILABLE)) quarantine_lost_load(w->g, w->tenant, engine, life, late);
    w->done(w->user, cold, e);
    free(w);
}

void residency_warm(struct gateway *g, const char *tenant, const char *digest,
                    void (*done)(void *u, bool cold, const struct err *e), void *u)
{
    char base[128];
    struct pool_want want;
    struct err e = {0};
    struct warming *w = calloc(1, sizeof *w);
    if (!w) err_set(&e, ERR_NO_MEMORY, "no memory to load an adapter");
    if (!w || want_of(g, tenant, digest, base, &want, &e)) {
        free(w);
        done(u, true, &e);
        return;
    }
    *w = (struct warming){.g = g, .done = done, .user = u};
    snprintf(w->tenant, sizeof w->tenant, "%s", tenant);
    pool_warm(g->pool, base, digest, want.local_only, warmed, w);
}

json_t *residency_json(struct gateway *g, const char *digest)
{
    json_t *list = json_array(), *one;
    size_t i;
    if (list && *digest) pool_where(g->pool, digest, list);
    json_array_foreach(list, i, one) json_object_del(one, "in_flight");
    return list;
}

void residency_unload(struct gateway *g, const char *digest)
{
    pool_unload(g->pool, digest);
}

/* --- a wait that two share --- */

struct wait {
    pthread_mutex_t lock;
    pthread_cond_t over;
    int refs;
    bool done;
    int status;
    struct err e;
    struct buf answer;
};

static struct wait *wait_new(void)
{
    struct wait *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->over, NULL);
    buf_init(&w->answer, ANSWER_MAX);
    w->refs = 2;
    return w;
}

static void wait_unref(struct wait *w)
{
    pthread_mutex_lock(&w->lock);
    bool last = --w->refs == 0;
    pthread_mutex_unlock(&w->lock);
    if (!last) return;
    buf_close(&w->answer);
    pthread_cond_destroy(&w->over);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static void wait_over(struct wait *w, int status, const struct err *e)
{
    pthread_mutex_lock(&w->lock);
    w->done = true;
    w->status = status;
    if (e && e->code) w->e = *e;
    pthread_cond_signal(&w->over);
    pthread_mutex_unlock(&w->lock);
    wait_unref(w);
}

/* 0: it is over; -1: told to stop. */
static int wait_for(struct wait *w, const atomic_bool *stop, struct err *e)
{
    pthread_mutex_lock(&w->lock);
    while (!w->done && !atomic_load(stop)) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += SLICE_MS * 1000000L;
        t.tv_sec += t.tv_nsec / 1000000000L;
        t.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&w->over, &w->lock, &t);
    }
    bool done = w->done;
    pthread_mutex_unlock(&w->lock);
    return done ? 0 : err_set(e, ERR_UNAVAILABLE, "shutting down");
}

/* --- the test --- */

static void loaded(void *u, bool cold, const struct err *e)
{
    (void)cold;
    wait_over(u, 200, e);
}

static int load_now(struct pick *k, const char *digest, const atomic_bool *stop, struct err *e)
{
    struct wait *w = wait_new();
    if (!w) return err_set(e, ERR_NO_MEMORY, "no memory for a self-test");
    pool_load(k, digest, loaded, w);
    int rc = wait_for(w, stop, e);
    if (rc == 0 && w->e.code) {
        if (e) *e = w->e;
        rc = -1;
    }
    wait_unref(w);
    return rc;
}

static int test_data(void *u, const char *bytes, size_t n)
{
    struct wait *w = u;
    return buf_add(&w->answer, bytes, n);
}

static void test_done(void *u, const struct client_reply *r, const struct err *e)
{
    wait_over(u, r->status, e);
}

static int ask(struct gateway *g, const struct pick *k, const char *digest, struct wait *w, struct err *e)
{
    struct engine_link link;
    const char *headers[] = {"Content-Type: application/json", NULL, NULL};
    char url[1024], body[128];
    pick_link(k, &link);
    headers[1] = link.auth;
    snprintf(url, sizeof url, "%s/weft/v1/selftest", link.base_url);
    snprintf(body, sizeof body, "{\"digest\":\"%s\"}", digest);
    struct client_request r = {.method = "POST",
                               .url = url,
                               .unix_socket = link.unix_socket,
                               .headers = headers,
                               .body = body,
                               .body_len = strlen(body),
                               .connect_ms = TEST_CONNECT_MS,
                               .first_byte_ms = TEST_MS,
                               .idle_ms = TEST_MS,
                               .total_ms = TEST_MS,
                               .on_data = test_data,
                               .on_done = test_done,
                               .user = w};
    return client_start(g->client, &r, NULL, e);
}

static int read_answer(const struct wait *w, struct selftest *out, struct err *e)
{
    out->lost = w->e.code != 0;
    if (w->e.code) return err_set(e, w->e.code, "the engine was lost during the self-test: %s", w->e.msg);
    return engine_read_selftest(w->status, w->answer.data, w->answer.len, &out->figure, e);
}

static int test_on(struct gateway *g, struct pick *k, const char *digest, const atomic_bool *stop, struct selftest *out,
                   struct err *e)
{
    struct err why = {0};
    if (load_now(k, digest, stop, &why)) {
        out->lost = why.code == ERR_ENGINE || why.code == ERR_UNAVAILABLE; /* one that could not be asked again was lost, too */
        return err_set(e, why.code, "%s", why.msg);
    }
    if (pick_kind(k) != ENGINE_WEFT) return 0; /* loading was the test */
    struct wait *w = wait_new();
    if (!w) return err_set(e, ERR_NO_MEMORY, "no memory for a self-test");
    int rc = ask(g, k, digest, w, e);
    if (rc) wait_unref(w); /* the callback's */
    if (rc == 0) rc = wait_for(w, stop, e);
    if (rc == 0) rc = read_answer(w, out, e);
    if (rc && w->status == 404) pool_forget(k, digest); /* it let the adapter go: the next try loads it */
    wait_unref(w);
    return rc;
}

int residency_selftest(struct gateway *g, const char *tenant, const char *digest, const atomic_bool *stop,
                       bool (*may)(void *u, const char *engine), void *u, struct selftest *out, struct err *e)
{
    char base[128];
    struct pool_want want;
    struct pick k;
    *out = (struct selftest){.lost = false};
    if (want_of(g, tenant, digest, base, &want, e)) return -1;
    if (pool_pick(g->pool, &want, &k, e)) return err_set(e, ERR_UNAVAILABLE, "no engine of the base is ready");
    snprintf(out->engine, sizeof out->engine, "%s", pick_name(&k));
    out->life = k.life;
    int rc = may(u, out->engine) ? test_on(g, &k, digest, stop, out, e) : err_set(e, ERR_UNAVAILABLE, "engines were lost with tests like this one, which wait until they are alone");
    pool_done(g->pool, &k, PICK_UNUSED);
    return rc;
}
