/* upload_wait: requests that wait until a version is settled (?wait=ready), without a thread.
 *
 *     version_wait -> in the list -> version_settled: answered | too long, stopped: answered as things stand
 *
 * A version may settle between the caller's look and its place in the list, so version_wait() looks again afterwards. Who
 * takes a waiter out of the list answers it: exactly one. A client that leaves is answered all the same, to nobody. */
#include "base/clock.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/registry/upload_impl.h"
#include <stdlib.h>
#include <string.h>

struct waiter {
    struct http_request *req;
    struct version_name v;
    int status;
    int64_t until_us;
    struct waiter *next;
};

void version_add_residency(struct gateway *g, json_t *version)
{
    const char *digest = json_string_value(json_object_get(version, "digest"));
    if (digest) json_object_set_new(version, "residency", residency_json(g, digest));
}

/* The answer describes the adapter through this version: id and object are the adapter's. */
int version_beside(struct gateway *g, const struct version_name *v, json_t **out, struct err *e)
{
    json_t *adapter = NULL;
    enum version_state s;
    char digest[SHA256_HEX];
    if (registry_get(g->registry, v->tenant, v->name, &adapter, e)) return -1;
    json_t *o = json_pack("{ss ss sO}", "id", v->name, "object", "adapter", "description", json_object_get(adapter, "description"));
    json_decref(adapter);
    if (o && registry_state(g->registry, v->tenant, v->name, v->version, &s, digest)) json_object_set_new(o, "residency", residency_json(g, digest));
    *out = o;
    return o ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the answer");
}

void version_answer(struct gateway *g, struct http_request *r, const struct version_name *v, int status)
{
    struct err e = {0};
    json_t *o = NULL, *beside = NULL;
    if (registry_get_version(g->registry, v->tenant, v->name, v->version, &o, &e) || version_beside(g, v, &beside, &e)) {
        json_decref(o);
        api_refuse(r, &e);
        return;
    }
    json_object_update(o, beside);
    json_decref(beside);
    api_reply(r, status, o);
}

static bool is_same(const struct version_name *a, const struct version_name *b)
{
    return a->version == b->version && strcmp(a->name, b->name) == 0 && strcmp(a->tenant, b->tenant) == 0;
}

/* Those of v (NULL: all whose time is over before `now`), as a list of the caller's. */
static struct waiter *take(struct uploads *u, const struct version_name *v, int64_t now)
{
    struct waiter *mine = NULL;
    pthread_mutex_lock(&u->lock);
    for (struct waiter **p = &u->waiters; *p;) {
        struct waiter *w = *p;
        if (v ? !is_same(&w->v, v) : w->until_us > now) {
            p = &w->next;
            continue;
        }
        *p = w->next;
        u->nwaiters--;
        w->next = mine;
        mine = w;
    }
    pthread_mutex_unlock(&u->lock);
    return mine;
}

static bool is_settled(struct uploads *u, const struct version_name *v)
{
    enum version_state s;
    return !registry_state(u->g->registry, v->tenant, v->name, v->version, &s, NULL) ||
           (s != VERSION_UPLOADING && s != VERSION_VALIDATING);
}

void version_settled(struct uploads *u, const struct version_name *v, int is)
{
    struct version_name now = *v;
    now.version = is;
    for (struct waiter *w = take(u, v, 0), *next; w; w = next) {
        next = w->next;
        version_answer(u->g, w->req, &now, w->status);
        free(w);
    }
}

static int enter(struct uploads *u, struct http_request *r, const struct version_name *v, int status)
{
    struct waiter *w = calloc(1, sizeof *w);
    if (!w) return -1;
    *w = (struct waiter){r, *v, status, clock_mono_us() + WAIT_MS * 1000LL, NULL};
    pthread_mutex_lock(&u->lock);
    bool room = u->nwaiters < WAITERS_MAX && !atomic_load(&u->stop);
    if (room) {
        w->next = u->waiters;
        u->waiters = w;
        u->nwaiters++;
    }
    pthread_mutex_unlock(&u->lock);
    if (room) return 0;
    free(w);
    return -1;
}

void version_wait(struct uploads *u, struct http_request *r, const struct version_name *v, int status)
{
    struct version_name mine = *v; /* r may be gone once it is in the list */
    if (is_settled(u, v) || enter(u, r, v, status))
        version_answer(u->g, r, v, status);
    else if (is_settled(u, &mine))
        version_settled(u, &mine, mine.version);
}

void waiters_tick(struct uploads *u, bool all)
{
    for (struct waiter *w = take(u, NULL, all ? INT64_MAX : clock_mono_us()), *next; w; w = next) {
        next = w->next;
        version_answer(u->g, w->req, &w->v, w->status);
        free(w);
    }
}
