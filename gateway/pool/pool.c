/* Which engine gets a request: the members, what is in flight on each, and the choice.
 *
 * A choice looks at all members under one lock: some compares and a logarithm each, for at most POOL_ENGINES. It sorts
 * them into three classes and places within the best that has any: those that are well; those that are ejected (better
 * than no answer, where nobody else is left) or back on trial with a request already; those that this very request was lost on.
 *
 * How engines are is read from atomics that their watchers write, so nothing here waits for an engine. A member that came
 * up is looked at once: what it calls its base, and whether that is the same base as its elders', for an adapter's digest
 * and the prefix cache's salt are bound to the base's digest.
 *
 * Lock order: pool.changing, pool.lock, an engine's lock. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/pool/pool_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAIT_LOOK_MS 50

/* --- members --- */

struct member *member_ref(struct pool *p, const char *name)
{
    struct member *found = NULL;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < POOL_ENGINES && !found; i++)
        if (p->m[i] && strcmp(p->m[i]->row.name, name) == 0) found = p->m[i];
    if (found) found->refs++;
    pthread_mutex_unlock(&p->lock);
    return found;
}

void member_unref(struct member *m)
{
    struct pool *p = m->pool;
    pthread_mutex_lock(&p->lock);
    if (--m->refs == 0) pthread_cond_broadcast(&p->wake); /* the keeper closes it */
    pthread_mutex_unlock(&p->lock);
}

int members_ref(struct pool *p, struct member *out[POOL_ENGINES])
{
    int n = 0;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < POOL_ENGINES; i++) {
        if (!p->m[i]) continue;
        p->m[i]->refs++;
        out[n++] = p->m[i];
    }
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* Does an elder serve another base under the same name? */
static bool in_conflict(const struct member *m)
{
    struct pool *p = m->pool;
    for (int i = 0; i < POOL_ENGINES; i++) {
        const struct member *o = p->m[i];
        if (!o || o == m || !o->digest[0] || o->conflict || strcmp(o->base, m->base) != 0) continue;
        if (strcmp(o->digest, m->digest) != 0) return true;
    }
    return false;
}

static void came_up(struct member *m, int64_t now)
{
    struct engine_view v;
    if (engine_get_view(m->g, &v, NULL)) return;
    snprintf(m->base, sizeof m->base, "%s", m->row.base[0] ? m->row.base : v.described ? v.base.name : v.model);
    snprintf(m->digest, sizeof m->digest, "%s", v.described ? v.base.digest : "");
    m->max_context = v.max_context;
    m->conflict = m->digest[0] && in_conflict(m);
    if (m->was_up) m->news |= NEWS_BACK;
    m->was_up = true;
    place_up(&m->health, now);
}

void member_refresh(struct member *m, int64_t now)
{
    bool ready = engine_state_of(m->g) == ENGINE_READY;
    uint64_t lives = engine_lives(m->g);
    if (ready && (!m->health.up || lives != m->lives)) {
        m->lives = lives;
        came_up(m, now);
    } else if (!ready && m->health.up) {
        place_down(&m->health);
        m->news |= NEWS_DOWN;
    }
    if (m->conflict && !in_conflict(m)) m->conflict = false; /* the elder is gone */
    if (place_returns(&m->health, now)) m->news |= NEWS_BACK;
}

bool member_usable(const struct member *m)
{
    return m->health.up && !m->conflict && engine_ready(m->g);
}

/* --- adapters in flight --- */

static struct pool_hot **hot_at(struct pool *p, const char *digest)
{
    struct pool_hot **h = &p->hot[place_hash(digest) % HOT_BUCKETS];
    while (*h && strcmp((*h)->digest, digest) != 0) h = &(*h)->next;
    return h;
}

static int hot_count(struct pool *p, const char *digest)
{
    struct pool_hot *h = *hot_at(p, digest);
    return h ? h->in_flight : 0;
}

/* NULL where too many are counted already: those are placed as if they were alone. */
static struct pool_hot *hot_add(struct pool *p, const char *digest, int slot)
{
    struct pool_hot **at = hot_at(p, digest), *h = *at;
    if (!h) {
        if (p->nhot >= HOT_MAX || !(h = calloc(1, sizeof *h))) return NULL;
        snprintf(h->digest, sizeof h->digest, "%s", digest);
        *at = h;
        p->nhot++;
    }
    h->in_flight++;
    h->at[slot]++;
    return h;
}

static void hot_drop(struct pool *p, struct pool_hot *h, int slot)
{
    h->at[slot]--;
    if (--h->in_flight > 0) return;
    *hot_at(p, h->digest) = h->next;
    p->nhot--;
    free(h);
}

/* --- picking --- */

enum class { WELL, EJECTED, TRIED, CLASSES };

struct sift {
    struct member *of[CLASSES][POOL_ENGINES];
    int n[CLASSES];
    bool base, allowed, local; /* somebody has it; is enabled, too; may be given it, too */
    bool adapters;             /* somebody serves adapters */
    bool starting, full, unknown;
};

static void sift_one(struct sift *s, struct member *m, const struct pool_want *w)
{
    uint64_t bit = 1ull << m->slot;
    s->unknown |= !m->base[0] && m->row.state == MEMBER_ENABLED;
    if (strcmp(m->base, w->base) != 0) return;
    bool serves_adapters = kind_of(m->row.kind)->adapters;
    s->base = true;
    s->adapters |= serves_adapters;
    if (m->row.state != MEMBER_ENABLED) return;
    s->allowed = true;
    if (w->local_only && !m->row.local) return;
    s->local = true;
    if (w->ndigests && !serves_adapters) return;
    if (m->conflict || (w->only_untried && (w->tried & bit))) return;
    if (!member_usable(m)) {
        s->starting = true;
    } else if (m->in_flight >= m->row.capacity) {
        s->full = true;
    } else {
        bool out = place_ejected(&m->health) || (place_on_trial(&m->health) && m->in_flight > 0);
        enum class c = w->tried & bit ? TRIED : out ? EJECTED : WELL;
        s->of[c][s->n[c]++] = m;
    }
}

static struct place place_of(const struct member *m, int64_t now)
{
    struct engine_queue q;
    engine_get_queue(m->g, &q);
    return (struct place){m->hash, place_weight(&m->health, now), m->row.capacity, m->in_flight, q.waiting};
}

static struct member *choose(struct pool *p, struct member *const *of, int n, const struct pool_want *w, int64_t now)
{
    struct place v[POOL_ENGINES];
    uint64_t random = 0;
    if (n == 1) return of[0];
    for (int i = 0; i < n; i++) v[i] = place_of(of[i], now);
    if (w->ndigests) return of[place_adapter(v, n, place_hash(w->digest[0]), hot_count(p, w->digest[0]))];
    random_bytes(&random, sizeof random); /* without any the first two are compared */
    return of[place_base(v, n, random)];
}

static void hold(struct pool *p, struct member *m, const struct pool_want *w, struct pick *out)
{
    m->refs++;
    m->in_flight++;
    m->picked++;
    *out = (struct pick){.m = m, .bit = 1ull << m->slot, .life = engine_lives(m->g)};
    if (w->ndigests) out->hot = hot_add(p, w->digest[0], m->slot);
}

static int none(const struct sift *s, const struct pool_want *w, struct err *e)
{
    if (s->full) {
        err_set(e, ERR_QUEUE_FULL, "all engines of `%.120s` serve as many requests as they may; try again", w->base);
        return 1;
    }
    if (s->starting || (!s->base && s->unknown)) {
        err_set(e, ERR_UNAVAILABLE, "the engine is not ready; try again");
        return 1;
    }
    if (!s->base)
        return err_field(e, ERR_MODEL_NOT_FOUND, "model",
                         "The model `%.120s` does not exist or you do not have access to it.", w->base);
    if (w->ndigests && !s->adapters)
        return err_set(e, ERR_UNSUPPORTED, "no engine of `%.120s` serves adapters", w->base);
    if (s->allowed && !s->local)
        return err_set(e, ERR_UNAVAILABLE,
                       "no local engine serves `%.120s`, and this tenant's requests leave for no other", w->base);
    return err_set(e, ERR_UNAVAILABLE, "no engine serves `%.120s` now", w->base);
}

int pool_pick(struct pool *p, const struct pool_want *w, struct pick *out, struct err *e)
{
    struct sift s = {0};
    struct member *m = NULL;
    int64_t now = clock_mono_us();

    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < POOL_ENGINES; i++) {
        if (!p->m[i]) continue;
        member_refresh(p->m[i], now);
        sift_one(&s, p->m[i], w);
    }
    for (int c = 0; c < CLASSES && !m; c++)
        if (s.n[c]) m = choose(p, s.of[c], s.n[c], w, now);
    if (m) hold(p, m, w, out);
    pthread_mutex_unlock(&p->lock);
    return m ? 0 : none(&s, w, e);
}

static void count_end(struct member *m, enum pick_end how, int64_t now)
{
    if (how == PICK_OK) place_won(&m->health);
    if (how == PICK_REFUSED) m->refused++;
    if (how != PICK_LOST && how != PICK_FAILED && how != PICK_TIMEOUT) return;
    m->lost++;
    if (!place_lost(&m->health, now)) return;
    m->ejections++;
    m->news |= NEWS_EJECTED;
}

void pool_done(struct pool *p, struct pick *k, enum pick_end how)
{
    struct member *m = k->m;
    if (!m) return;
    if (how == PICK_LOST) engine_suspect(m->g);
    pthread_mutex_lock(&p->lock);
    m->in_flight--;
    count_end(m, how, clock_mono_us());
    if (k->hot) hot_drop(p, k->hot, m->slot);
    pthread_mutex_unlock(&p->lock);
    *k = (struct pick){0};
    member_unref(m);
}

/* --- the picked one --- */

void pool_load(struct pick *k, const char *digest, void (*done)(void *u, bool cold, const struct err *e), void *u)
{
    engine_load(k->m->g, digest, done, u);
}

bool pool_has(struct pick *k, const char *digest)
{
    return engine_has(k->m->g, digest);
}

void pool_forget(struct pick *k, const char *digest)
{
    engine_forget(k->m->g, digest);
}

const char *pick_name(const struct pick *k)
{
    return k->m->row.name;
}

enum engine_kind pick_kind(const struct pick *k)
{
    return k->m->row.kind;
}

const struct kind *pick_ops(const struct pick *k)
{
    return kind_of(k->m->row.kind);
}

void pick_link(const struct pick *k, struct engine_link *out)
{
    engine_get_link(k->m->g, out);
}

/* --- adapters, beside requests --- */

void pool_unload(struct pool *p, const char *digest)
{
    struct member *m[POOL_ENGINES];
    int n = members_ref(p, m);
    for (int i = 0; i < n; i++) {
        engine_unload(m[i]->g, digest);
        member_unref(m[i]);
    }
}

struct warm {
    struct pool *pool;
    struct pick pick;
    void (*done)(void *u, bool cold, const char *engine, uint64_t life, const struct err *e);
    void *user;
};

static void warmed(void *u, bool cold, const struct err *e)
{
    struct warm *w = u;
    struct pick k = w->pick;
    w->done(w->user, cold, pick_name(&k), k.life, e);
    pool_done(w->pool, &w->pick, PICK_UNUSED);
    free(w);
}

void pool_warm(struct pool *p, const char *base, const char *digest, bool local_only,
               void (*done)(void *u, bool cold, const char *engine, uint64_t life, const struct err *e), void *u)
{
    struct err e = {0};
    struct pool_want want = {.base = base, .digest = {digest}, .ndigests = 1, .local_only = local_only};
    struct warm *w = calloc(1, sizeof *w);
    if (!w) {
        err_set(&e, ERR_NO_MEMORY, "no memory to load an adapter");
    } else if (pool_pick(p, &want, &w->pick, &e) == 0) {
        w->pool = p;
        w->done = done;
        w->user = u;
        engine_doubt(w->pick.m->g, digest); /* asked anew, it stays among those used last */
        engine_load(w->pick.m->g, digest, warmed, w);
        return;
    }
    free(w);
    done(u, true, "", 0, &e);
}

/* --- what is served --- */

static bool serves(const struct member *m, const char *name)
{
    if (m->row.state == MEMBER_DISABLED) return false;
    return !*name || strcmp(m->base, name) == 0;
}

/* Until an engine describes it, a base has a name and nothing that could be adapted; the digest keeps caches apart. */
static void digest_of_name(const char *name, char digest[SHA256_HEX])
{
    uint8_t hash[SHA256_BYTES];
    sha256_of(name, strlen(name), hash);
    sha256_hex(hash, digest);
}

static void describe_name(const char *name, struct base_desc *out)
{
    *out = (struct base_desc){0};
    snprintf(out->name, sizeof out->name, "%s", name);
    digest_of_name(name, out->digest);
}

/* The member that speaks for a base: one that describes it if any does, and the longest context of all. */
static struct member *speaker(struct pool *p, const char *name, bool *waiting, int *max_context)
{
    struct member *best = NULL;
    int64_t now = clock_mono_us();
    for (int i = 0; i < POOL_ENGINES; i++) {
        struct member *m = p->m[i];
        if (!m) continue;
        member_refresh(m, now);
        if (!m->was_up) {
            *waiting |= m->row.state != MEMBER_DISABLED && (!m->base[0] || serves(m, name));
            continue;
        }
        if (m->conflict || !serves(m, name) || (best && strcmp(best->base, m->base) != 0)) continue;
        if (m->max_context > *max_context) *max_context = m->max_context;
        if (!best || (!best->digest[0] && m->digest[0])) best = m;
    }
    return best;
}

static int unserved(const char *name, bool waiting, struct err *e)
{
    if (waiting) return err_set(e, ERR_UNAVAILABLE, "the engine is still starting; try again");
    if (!*name) return err_set(e, ERR_UNAVAILABLE, "no engine serves a base yet");
    return err_field(e, ERR_MODEL_NOT_FOUND, "model", "The model `%.200s` does not exist or you do not have access to it.", name);
}

int pool_base_id(struct pool *p, const char *name, struct pool_base_id *out, int *max_context, struct err *e)
{
    bool waiting = false;
    int context = 0;
    pthread_mutex_lock(&p->lock);
    const struct member *m = speaker(p, name, &waiting, &context);
    if (m) {
        memcpy(out->name, m->base, sizeof out->name);
        memcpy(out->digest, m->digest, sizeof out->digest);
    }
    pthread_mutex_unlock(&p->lock);
    if (!m) return unserved(name, waiting, e);
    if (!out->digest[0]) digest_of_name(out->name, out->digest);
    if (max_context) *max_context = context ? context : INT32_MAX;
    return 0;
}

int pool_base(struct pool *p, const char *name, struct base_desc *out, int *max_context, struct err *e)
{
    struct engine_view v;
    bool waiting = false;
    int context = 0;
    pthread_mutex_lock(&p->lock);
    struct member *m = speaker(p, name, &waiting, &context);
    if (m) m->refs++;
    pthread_mutex_unlock(&p->lock);
    if (!m) return unserved(name, waiting, e);
    if (engine_get_view(m->g, &v, NULL) == 0 && v.described)
        *out = v.base;
    else
        describe_name(m->base, out);
    if (max_context) *max_context = context ? context : INT32_MAX;
    member_unref(m);
    return 0;
}

struct served {
    char name[ENGINE_BASE_LEN];
    bool ready;
};

static void note_served(struct served *v, int *n, const struct member *m)
{
    int i = 0;
    while (i < *n && strcmp(v[i].name, m->base) != 0) i++;
    if (i == *n) memcpy(v[(*n)++].name, m->base, sizeof v->name);
    v[i].ready |= member_usable(m);
}

void pool_bases(struct pool *p, void (*fn)(void *u, const char *name, bool ready), void *u)
{
    struct served v[POOL_ENGINES] = {0};
    int n = 0;
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < POOL_ENGINES; i++) {
        struct member *m = p->m[i];
        if (!m) continue;
        member_refresh(m, now);
        if (m->was_up && serves(m, m->base)) note_served(v, &n, m);
    }
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < n; i++) fn(u, v[i].name, v[i].ready);
}

bool pool_ready(struct pool *p)
{
    bool ready = false;
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < POOL_ENGINES && !ready; i++) {
        struct member *m = p->m[i];
        if (!m) continue;
        member_refresh(m, now);
        ready = member_usable(m) && m->row.state == MEMBER_ENABLED;
    }
    pthread_mutex_unlock(&p->lock);
    return ready;
}

/* --- waiting for engines --- */

static struct member *own_ref(struct pool *p)
{
    struct member *m[POOL_ENGINES], *own = NULL;
    int n = members_ref(p, m);
    for (int i = 0; i < n; i++)
        if (m[i]->own)
            own = m[i];
        else
            member_unref(m[i]);
    return own;
}

int pool_wait(struct pool *p, int wait_ms, struct err *e)
{
    struct member *m = own_ref(p);
    if (!m) return 0;
    int rc = engine_wait(m->g, wait_ms, e);
    member_unref(m);
    return rc;
}

static bool all_answer(struct pool *p)
{
    struct member *m[POOL_ENGINES];
    int n = members_ref(p, m);
    bool all = true;
    for (int i = 0; i < n; i++) {
        if (kind_of(m[i]->row.kind)->receipt && m[i]->row.state != MEMBER_DISABLED) all &= engine_ready(m[i]->g);
        member_unref(m[i]);
    }
    return all;
}

void pool_wait_all(struct pool *p, int wait_ms)
{
    const struct timespec tick = {.tv_nsec = WAIT_LOOK_MS * 1000000L};
    int64_t until = clock_mono_us() + wait_ms * 1000LL;
    while (!all_answer(p) && clock_mono_us() < until) nanosleep(&tick, NULL);
}

int pool_receipt(void *pool, const char *id, int64_t *prompt, int64_t *cached, int64_t *output, char finish[16])
{
    struct member *m[POOL_ENGINES];
    struct relay_counts c = {0};
    int n = members_ref(pool, m), rc = -1;
    for (int i = 0; i < n; i++) {
        if (rc && engine_ready(m[i]->g)) rc = engine_receipt(m[i]->g, id, &c);
        member_unref(m[i]);
    }
    if (rc) return -1;
    *prompt = c.prompt;
    *cached = c.cached;
    *output = c.output;
    memcpy(finish, c.finish, sizeof c.finish);
    return 0;
}

/* --- life --- */

int pool_open(struct pool **out, const struct pool_options *o, struct err *e)
{
    pthread_condattr_t attr;
    struct pool *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NO_MEMORY, "no memory for the engines");
    p->o = *o;
    p->spawn = *o->spawn;
    snprintf(p->run, sizeof p->run, "%s", o->run);
    pthread_mutex_init(&p->changing, NULL);
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->wake, &attr);
    pthread_condattr_destroy(&attr);
    *out = p; /* what fails from here on is closed by the caller */
    return rows_load(p, e) || keeper_start(p, e) ? -1 : 0;
}

void pool_close(struct pool *p, bool keep, int grace_ms)
{
    if (!p) return;
    keeper_stop(p, keep, grace_ms);
    for (int i = 0; i < HOT_BUCKETS; i++)
        while (p->hot[i]) {
            struct pool_hot *h = p->hot[i];
            p->hot[i] = h->next;
            free(h);
        }
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->changing);
    free(p);
}
