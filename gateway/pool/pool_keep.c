/* How members begin and end, and the thread that keeps them.
 *
 *     rows, settings -> member_add -> picked, done ... -> member_retire -> dying -> nothing holds it -> engine_close
 *
 * The keeper looks at all members a few times a second, so that an engine which fails while nobody asks for it is told
 * of, and closes those that were removed once the last request has left them: closing waits for a watcher and, for one
 * that was spawned here, for its process, which no request and no administrator should. A member's slot, and with it its
 * bit in `tried`, stays taken until then. */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/live/event.h"
#include "gateway/pool/pool_impl.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEPER_TICK_MS 200
#define SOCKET_PATH_MAX 99 /* as weft-engine takes it */
#define RETIRE_GRACE_MS 10000

/* --- beginning --- */

/* Under the lock. Nothing new goes there; closed when nothing is in flight. */
static void retire(struct pool *p, struct member *m)
{
    m->removed = true;
    p->m[m->slot] = NULL;
    p->dying[m->slot] = m;
    m->refs--;
    pthread_cond_broadcast(&p->wake);
}

/* Both under one lock: who asks meanwhile finds the old one or the new one, never none. */
static int slot_for(struct pool *p, struct member *m, struct member *instead_of, struct err *e)
{
    pthread_mutex_lock(&p->lock);
    int i = 0;
    while (i < POOL_ENGINES && (p->m[i] || p->dying[i])) i++;
    if (i < POOL_ENGINES) {
        if (instead_of) retire(p, instead_of);
        m->slot = i;
        p->m[i] = m;
    }
    pthread_mutex_unlock(&p->lock);
    return i < POOL_ENGINES ? 0 : err_set(e, ERR_CONFLICT, "there are %d engines already", POOL_ENGINES);
}

static const char *setting(const struct engine_row *row, const char *name)
{
    const char *s = json_string_value(json_object_get(row->settings, name));
    return s ? s : "";
}

/* A spawned one's settings as words of its command line. */
static int add_extra(const struct engine_row *row, const char **words, char (*text)[ENGINE_PATH_LEN], struct err *e)
{
    const char *name;
    json_t *v;
    int n = 0;
    json_object_foreach(row->settings, name, v)
    {
        if (n + 2 > ENGINE_EXTRA_MAX)
            return err_field(e, ERR_INVALID, "settings", "more than %d settings", ENGINE_EXTRA_MAX / 2);
        int len = snprintf(text[n], sizeof text[n], "--%s", name);
        for (char *c = text[n] + 2; *c; c++)
            if (*c == '_') *c = '-';
        if (json_is_string(v))
            len = snprintf(text[n + 1], sizeof text[n + 1], "%s", json_string_value(v));
        else if (json_is_integer(v))
            snprintf(text[n + 1], sizeof text[n + 1], "%lld", (long long)json_integer_value(v));
        else
            snprintf(text[n + 1], sizeof text[n + 1], "%s", json_is_true(v) ? "true" : "false");
        if (len >= (int)sizeof text[n]) return err_field(e, ERR_INVALID, "settings", "'%.60s' is too long", name);
        words[n] = text[n];
        words[n + 1] = text[n + 1];
        n += 2;
    }
    words[n] = NULL;
    return 0;
}

static int socket_path(const struct pool *p, const struct engine_row *row, char *out, size_t n, struct err *e)
{
    int len = snprintf(out, n, "%s/engine-%s.%lld.sock", p->run, row->name, (long long)row->revision);
    if (len <= SOCKET_PATH_MAX) return 0;
    return err_field(e, ERR_INVALID, "name",
                     "the socket %.200s would have a path of more than %d bytes: take a shorter name", out,
                     SOCKET_PATH_MAX);
}

int member_check(const struct pool *p, const struct engine_row *row, struct err *e)
{
    const char *words[ENGINE_EXTRA_MAX + 1];
    char socket[ENGINE_PATH_LEN], (*text)[ENGINE_PATH_LEN];
    if (row->url[0]) return 0;
    text = calloc(ENGINE_EXTRA_MAX, sizeof *text);
    int rc = !text ? err_set(e, ERR_NO_MEMORY, "no memory for an engine")
                   : add_extra(row, words, text, e) || socket_path(p, row, socket, sizeof socket, e);
    free(text);
    return rc ? -1 : 0;
}

/* What the engine of a row is opened with; the strings are the row's and the caller's. */
static int open_row(struct pool *p, struct member *m, struct err *e)
{
    const struct engine_row *row = &m->row;
    const char *words[ENGINE_EXTRA_MAX + 1], *store = setting(row, "store");
    char socket[ENGINE_PATH_LEN] = "", (*text)[ENGINE_PATH_LEN] = calloc(ENGINE_EXTRA_MAX, sizeof *text);
    struct engine_options o = p->spawn;
    bool spawned = !row->url[0];

    o.kind = kind_of(row->kind);
    o.name = row->name;
    o.base = o.base_name = row->base;
    o.url = row->url;
    o.secret = row->secret;
    o.settings = row->settings;
    o.local = row->local;
    o.model = spawned ? row->model : "";
    o.upstream_model = spawned ? "" : row->model;
    o.store = !spawned && *store ? store : p->spawn.store;
    o.socket = socket;
    o.extra = spawned ? words : NULL;
    o.ended = p->o.ended;
    o.user = p->o.user;
    int rc = !text ? err_set(e, ERR_NO_MEMORY, "no memory for an engine")
                   : spawned && (add_extra(row, words, text, e) || socket_path(p, row, socket, sizeof socket, e));
    if (!rc) rc = engine_open(&m->g, &o, p->o.client, e);
    free(text);
    return rc ? -1 : 0;
}

static void member_free(struct member *m)
{
    row_close(&m->row);
    free(m);
}

static int begin(struct pool *p, const struct engine_row *row, const struct engine_options *as,
                 struct member *instead_of, struct err *e)
{
    bool own = as != NULL;
    struct member *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_NO_MEMORY, "no memory for an engine");
    m->pool = p;
    if (row_copy(&m->row, row, e)) {
        free(m);
        return -1;
    }
    m->own = own;
    struct engine_options of_settings = own ? *as : (struct engine_options){0};
    of_settings.ended = p->o.ended;
    of_settings.user = p->o.user;
    memcpy(m->base, row->base, sizeof m->base);
    m->hash = place_hash(row->name);
    m->refs = 1;
    if ((own ? engine_open(&m->g, &of_settings, p->o.client, e) : open_row(p, m, e)) == 0) {
        if (slot_for(p, m, instead_of, e) == 0) return 0;
        engine_close(m->g, false, 0);
    }
    member_free(m);
    return -1;
}

int member_add(struct pool *p, const struct engine_row *row, const struct engine_options *own, struct err *e)
{
    return begin(p, row, own, NULL, e);
}

int member_replace(struct pool *p, struct member *old, const struct engine_row *row, struct err *e)
{
    return begin(p, row, NULL, old, e);
}

/* --- ending --- */

void member_retire(struct pool *p, struct member *m)
{
    pthread_mutex_lock(&p->lock);
    retire(p, m);
    pthread_mutex_unlock(&p->lock);
}

/* Under the lock, which is given back meanwhile. */
static bool bury_one(struct pool *p)
{
    for (int i = 0; i < POOL_ENGINES; i++) {
        struct member *m = p->dying[i];
        if (!m || m->refs > 0) continue;
        pthread_mutex_unlock(&p->lock);
        log_info("engine_closed", LS("engine", m->row.name));
        engine_close(m->g, false, RETIRE_GRACE_MS);
        pthread_mutex_lock(&p->lock);
        p->dying[i] = NULL; /* until now its name is looked at there */
        member_free(m);
        return true;
    }
    return false;
}

/* --- the thread --- */

struct news {
    char name[NAME_MAX_LEN + 1], why[256];
    unsigned what;
};

static void tell(struct pool *p, const struct news *n)
{
    if (n->what & NEWS_EJECTED) {
        log_warn("engine_ejected", LS("engine", n->name), LI("losses", EJECT_LOSSES));
        event_note(p->o.db, "", "engine.ejected", n->name,
                   json_pack("{ss si}", "why", "losses", "losses", EJECT_LOSSES));
    }
    if (n->what & NEWS_DOWN) {
        log_warn("engine_out", LS("engine", n->name), LS("why", n->why));
        event_note(p->o.db, "", "engine.ejected", n->name, json_pack("{ss ss}", "why", "health", "detail", n->why));
    }
    if (n->what & NEWS_BACK) {
        log_info("engine_back", LS("engine", n->name));
        event_note(p->o.db, "", "engine.back", n->name, NULL);
    }
}

/* Under the lock. */
static int gather(struct pool *p, struct news out[POOL_ENGINES])
{
    int n = 0;
    int64_t now = clock_mono_us();
    for (int i = 0; i < POOL_ENGINES; i++) {
        struct member *m = p->m[i];
        if (!m) continue;
        member_refresh(m, now);
        if (!m->news) continue;
        out[n] = (struct news){.what = m->news};
        memcpy(out[n].name, m->row.name, sizeof out[n].name);
        engine_why(m->g, out[n].why, sizeof out[n].why);
        n++;
        m->news = 0;
    }
    return n;
}

static void nap(struct pool *p)
{
    struct timespec t;
    if (p->stop) return; /* set while the lock was given back */
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += KEEPER_TICK_MS * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    pthread_cond_timedwait(&p->wake, &p->lock, &t);
}

static void *keep(void *u)
{
    struct pool *p = u;
    struct news news[POOL_ENGINES];
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        int n = gather(p, news);
        pthread_mutex_unlock(&p->lock);
        for (int i = 0; i < n; i++) tell(p, &news[i]);
        pthread_mutex_lock(&p->lock);
        while (!p->stop && bury_one(p)) {
        }
        nap(p);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int keeper_start(struct pool *p, struct err *e)
{
    if (pthread_create(&p->keeper, NULL, keep, p))
        return err_set(e, ERR_NO_MEMORY, "no thread for the engines' keeper");
    p->kept = true;
    return 0;
}

void keeper_stop(struct pool *p, bool keep_engines, int grace_ms)
{
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    if (p->kept) pthread_join(p->keeper, NULL);
    for (int i = 0; i < POOL_ENGINES; i++) {
        if (p->m[i]) engine_stop(p->m[i]->g);
        if (p->dying[i]) engine_stop(p->dying[i]->g);
    }
    for (int i = 0; i < POOL_ENGINES; i++) {
        struct member *m = p->m[i] ? p->m[i] : p->dying[i];
        if (!m) continue;
        engine_close(m->g, keep_engines && !m->removed, grace_ms);
        member_free(m);
    }
}
