/* The pool as JSON and as metrics: what an administrator, `weft top` and Prometheus see. Rows never show a secret, and say
 * of it only whether there is one. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/observe/meters.h"
#include "gateway/pool/pool_impl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a member is at this moment, copied under the lock. */
struct look {
    enum member_state state;
    const char *word;
    double weight;
    int in_flight, capacity, max_context;
    int64_t revision, picked, lost, refused, ejections;
    char base[ENGINE_BASE_LEN];
};

/* Under the lock. */
static const char *word_of(const struct member *m)
{
    enum engine_state s = engine_state_of(m->g);
    if (s != ENGINE_READY) return engine_state_name[s];
    if (m->conflict) return "conflict";
    if (place_ejected(&m->health)) return "ejected";
    return engine_ready(m->g) ? "ready" : "suspect";
}

static void look_at(struct member *m, struct look *out)
{
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&m->pool->lock);
    member_refresh(m, now);
    *out = (struct look){m->row.state,    word_of(m),      place_weight(&m->health, now),
                         m->in_flight,    m->row.capacity, m->max_context,
                         m->row.revision, m->picked,       m->lost,
                         m->refused,      m->ejections,    ""};
    memcpy(out->base, m->base, sizeof out->base);
    pthread_mutex_unlock(&m->pool->lock);
}

static void ignore(void *u, const char *digest)
{
    (void)u, (void)digest;
}

static json_t *device_json(const struct engine_view *v)
{
    const struct engine_device *d = &v->device;
    if (!d->backend[0]) return NULL;
    if (!d->ranks) return json_pack("{ss}", "backend", d->backend);
    return json_pack("{ss ss si sI}", "backend", d->backend, "name", d->name, "ranks", d->ranks, "memory",
                     (json_int_t)d->memory);
}

static json_t *slots_json(const struct engine_queue *q)
{
    return q->slots ? json_pack("{si si si}", "max", q->slots, "resident", q->slots_resident, "loading", q->slots_loading)
                    : NULL;
}

static json_t *pages_json(const struct engine_queue *q)
{
    return q->pages ? json_pack("{si si}", "total", q->pages, "used", q->pages_used) : NULL;
}

static json_t *steps_json(const struct engine_queue *q)
{
    return q->steps ? json_pack("{sI sf sf}", "count", (json_int_t)q->steps, "p50_ms", (double)q->step_us_p50 / 1000,
                                "p99_ms", (double)q->step_us_p99 / 1000)
                    : NULL;
}

static json_t *status_json(struct member *m, const struct look *l)
{
    struct engine_queue q = {0};
    struct engine_view v = {0};
    char why[256] = "";
    if (m) engine_get_queue(m->g, &q), engine_why(m->g, why, sizeof why), engine_get_view(m->g, &v, NULL);
    if (m && !why[0]) engine_why_load(m->g, why, sizeof why);
    if (l->word[0] == 'c') snprintf(why, sizeof why, "an older engine serves another base under this name");
    return json_pack("{ss ss sf si si si sf si sb sI sI sI sI sI so* so* so* so*}", "state", l->word, "why", why, "weight", l->weight,
                     "in_flight", l->in_flight, "running", q.running, "waiting", q.waiting, "kv_used",
                     rint(q.kv_used * 1000) / 1000, "adapters", m ? engine_digests(m->g, 0, ignore, NULL) : 0,
                     "drained", l->state != MEMBER_ENABLED && l->in_flight == 0, "requests", (json_int_t)l->picked,
                     "lost", (json_int_t)l->lost, "refused", (json_int_t)l->refused, "ejections",
                     (json_int_t)l->ejections, "evictions", (json_int_t)(m ? engine_evictions(m->g, NULL) : 0), "device", device_json(&v), "slots", slots_json(&q), "pages",
                     pages_json(&q), "steps", steps_json(&q));
}

json_t *row_answer(const struct engine_row *r, struct member *m)
{
    struct look l = {.state = r->state, .word = "starting", .weight = SLOW_START_LEAST};
    if (m) look_at(m, &l);
    l.state = r->state;
    const char *base = r->base[0] ? r->base : l.base;
    return json_pack("{ss ss ss ss ss ss so sb si sb ss ss sI sI so}", "object", "engine", "name", r->name, "kind",
                     kind_of(r->kind)->name, "base", base, "url", r->url, "model", r->model, "settings", json_deep_copy(r->settings),
                     "local", r->local, "capacity", r->capacity, "has_secret", r->secret[0] != 0, "state",
                     member_state_name[r->state], "source", m && m->own ? "settings" : "api", "revision",
                     (json_int_t)r->revision, "created_at", (json_int_t)r->created, "status", status_json(m, &l));
}

json_t *member_json(struct member *m)
{
    struct engine_row r = m->row; /* what may change meanwhile is a number */
    return row_answer(&r, m);
}

int pool_rights(struct pool *p, const char *name, struct pool_rights *out, struct err *e)
{
    struct member *m = member_ref(p, name);
    if (m) {
        pthread_mutex_lock(&p->lock);
        member_refresh(m, clock_mono_us());
        *out = (struct pool_rights){.local = m->row.local};
        if (!m->conflict) snprintf(out->base, sizeof out->base, "%s", m->row.base[0] ? m->row.base : m->base);
        pthread_mutex_unlock(&p->lock);
        member_unref(m);
    }
    return m ? 0 : err_set(e, ERR_NOT_FOUND, "There is no engine '%.64s'.", name);
}

int pool_get(struct pool *p, const char *name, json_t **out, struct err *e)
{
    struct member *m = member_ref(p, name);
    if (!m) return err_set(e, ERR_NOT_FOUND, "There is no engine '%.64s'.", name);
    *out = member_json(m);
    member_unref(m);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the answer");
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct member *const *)a)->row.name, (*(struct member *const *)b)->row.name);
}

static int sorted(struct pool *p, struct member *m[POOL_ENGINES])
{
    int n = members_ref(p, m);
    qsort(m, (size_t)n, sizeof *m, by_name);
    return n;
}

int pool_list(struct pool *p, const struct page *page, json_t *list, bool *more, struct err *e)
{
    struct member *m[POOL_ENGINES];
    int n = sorted(p, m), first = 0, last = n, rc = 0;
    while (first < n && *page->after && strcmp(m[first]->row.name, page->after) <= 0) first++;
    while (last > 0 && *page->before && strcmp(m[last - 1]->row.name, page->before) >= 0) last--;
    *more = last - first > page->limit;
    if (*more && *page->before)
        first = last - page->limit;
    else if (*more)
        last = first + page->limit;
    for (int i = first; i < last; i++) rc |= json_array_append_new(list, member_json(m[i]));
    for (int i = 0; i < n; i++) member_unref(m[i]);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for the answer") : 0;
}

json_t *pool_device(struct pool *p)
{
    struct member *m[POOL_ENGINES];
    struct engine_view v = {0};
    bool found = false;
    int n = members_ref(p, m);
    for (int i = 0; i < n; i++) {
        if (!found && engine_ready(m[i]->g)) found = engine_get_view(m[i]->g, &v, NULL) == 0 && v.device.backend[0];
        member_unref(m[i]);
    }
    return found ? device_json(&v) : NULL;
}

static int hot_there(struct pool *p, const char *digest, int slot)
{
    pthread_mutex_lock(&p->lock);
    const struct pool_hot *h = p->hot[place_hash(digest) % HOT_BUCKETS];
    while (h && strcmp(h->digest, digest) != 0) h = h->next;
    int n = h ? h->at[slot] : 0;
    pthread_mutex_unlock(&p->lock);
    return n;
}

void pool_where(struct pool *p, const char *digest, json_t *list)
{
    struct member *m[POOL_ENGINES];
    int n = sorted(p, m);
    for (int i = 0; i < n; i++) {
        int there = hot_there(p, digest, m[i]->slot);
        bool has = engine_has(m[i]->g, digest);
        if (there || has)
            json_array_append_new(
                list, json_pack("{ss si sb}", "engine", m[i]->row.name, "in_flight", there, "resident", has));
        member_unref(m[i]);
    }
}

int64_t pool_evictions(struct pool *p, const char *digest)
{
    struct member *m[POOL_ENGINES];
    int64_t sum = 0;
    int n = members_ref(p, m);
    for (int i = 0; i < n; i++) {
        sum += engine_evictions(m[i]->g, digest);
        member_unref(m[i]);
    }
    return sum;
}

void pool_sum(struct pool *p, struct pool_sums *out)
{
    struct member *m[POOL_ENGINES];
    int n = members_ref(p, m);
    *out = (struct pool_sums){.total = n};
    for (int i = 0; i < n; i++) {
        struct engine_queue q;
        engine_get_queue(m[i]->g, &q);
        out->ready += engine_ready(m[i]->g);
        out->running += q.running;
        out->waiting += q.waiting;
        out->adapters += engine_digests(m[i]->g, 0, ignore, NULL);
        member_unref(m[i]);
    }
}

static json_t *count_or_null(bool told, int64_t n)
{
    return told ? json_integer(n) : json_null();
}

json_t *pool_tally(struct pool *p)
{
    struct member *m[POOL_ENGINES];
    json_t *list = json_array();
    int n = sorted(p, m);
    for (int i = 0; i < n; i++) {
        struct engine_tally t;
        engine_get_tally(m[i]->g, &t);
        bool both = t.told && t.ours.output > 0;
        json_t *ratio = both ? json_real(rint((double)t.theirs.output / (double)t.ours.output * 1e4) / 1e4) : json_null();
        json_array_append_new(
            list, json_pack("{ss sI so sI so so}", "name", m[i]->row.name, "requests_gateway",
                            (json_int_t)t.ours.requests, "requests_engine", count_or_null(t.told, t.theirs.requests),
                            "tokens_gateway", (json_int_t)t.ours.output, "tokens_engine",
                            count_or_null(t.told, t.theirs.output), "ratio", ratio));
        member_unref(m[i]);
    }
    return list;
}

void pool_settled(struct pool *p, const char *engine, int64_t output)
{
    struct member *m = member_ref(p, engine);
    if (!m) return; /* it was removed meanwhile */
    engine_settled(m->g, output);
    member_unref(m);
}

void pool_meter(struct pool *p, struct metrics *t)
{
    struct member *m[POOL_ENGINES];
    int n = members_ref(p, m);
    for (int i = 0; i < n; i++) {
        const char *of[] = {m[i]->row.name};
        struct engine_queue q;
        struct look l;
        look_at(m[i], &l);
        engine_get_queue(m[i]->g, &q);
        metric_set(t, GM_ENGINE_READY, of, strcmp(l.word, "ready") == 0);
        metric_set(t, GM_ENGINE_IN_FLIGHT, of, l.in_flight);
        metric_set(t, GM_ENGINE_RUNNING, of, q.running);
        metric_set(t, GM_ENGINE_WAITING, of, q.waiting);
        metric_set(t, GM_ENGINE_ADAPTERS, of, engine_digests(m[i]->g, 0, ignore, NULL));
        metric_set(t, GM_ENGINE_WEIGHT, of, l.weight);
        metric_set(t, GM_ENGINE_PICKED, of, (double)l.picked);
        metric_set(t, GM_ENGINE_LOST, of, (double)l.lost);
        metric_set(t, GM_ENGINE_EJECTIONS, of, (double)l.ejections);
        metric_set(t, GM_ENGINE_EVICTIONS, of, (double)engine_evictions(m[i]->g, NULL));
        member_unref(m[i]);
    }
}
