/* Names under suspicion, and the losses that wait for their engine's verdict.
 *
 *     blame_lost   a loss is kept, with its engine's life
 *     blame_end    the watcher says how that life ended: by a crash each name that was there gets a strike, once, and, where all losses are one
 *                  tenant's, who was there BLAME_CRASHES times is guilty, where all such losses have one name, or was on trial; where that is nobody
 *                  the tenants get a strike each; by anything else (a signal from outside) the losses are dropped
 *
 * A loss of an adapter's request accuses the adapter, where that has as many strikes, and else the request: so three of its requests are one name. What
 * is guilty of an adapter is told and forgotten, for the registry keeps that; a guilty request is kept here until its time is over, and the caller
 * keeps it beyond a restart. Suspicions, and tenants in quarantine, end with the process.
 *
 * Arrays of some thousand at the most, looked through one by one, and only while somebody is suspected. Any thread; the lock covers all but
 * `nnames`, which is also read without. `telling` is held while the caller hears of somebody, before the lock. */
#include "gateway/proxy/blame_impl.h"
#include "base/json.h"
#include "gateway/api/page.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int blame_open(struct blame **out, const struct blame_options *o, struct err *e)
{
    struct blame *b = calloc(1, sizeof *b);
    if (!b) return err_set(e, ERR_NO_MEMORY, "no memory for suspicions");
    b->o = *o;
    pthread_mutex_init(&b->telling, NULL);
    pthread_mutex_init(&b->lock, NULL);
    *out = b;
    return 0;
}

void blame_stop(struct blame *b)
{
    if (!b) return;
    pthread_mutex_lock(&b->telling);
    b->stopped = true;
    pthread_mutex_unlock(&b->telling);
}

void blame_close(struct blame *b)
{
    if (!b) return;
    pthread_mutex_destroy(&b->telling);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

bool blame_quiet(struct blame *b)
{
    return atomic_load(&b->nnames) == 0 && atomic_load(&b->nsuspects) == 0;
}

/* --- names; under the lock --- */

static bool is_this(const struct name *n, bool adapter, const struct blame_who *w)
{
    if (n->adapter != adapter || strcmp(n->who.tenant, w->tenant) != 0) return false;
    if (!adapter) return strcmp(n->who.request, w->request) == 0;
    return n->who.version == w->version && strcmp(n->who.adapter, w->adapter) == 0;
}

static struct name *find(struct blame *b, bool adapter, const struct blame_who *w)
{
    if (adapter ? !w->adapter[0] : !w->request[0]) return NULL;
    for (int i = 0; i < b->nnames; i++)
        if (is_this(&b->name[i], adapter, w)) return &b->name[i];
    return NULL;
}

static void drop(struct blame *b, struct name *n)
{
    *n = b->name[b->nnames - 1];
    b->nnames--;
}

static bool is_old(const struct name *n, int64_t now)
{
    return n->until_us ? now >= n->until_us : now - n->last_us > BLAME_MEMORY_US;
}

void names_forget(struct blame *b, int64_t now)
{
    for (int i = b->nnames - 1; i >= 0; i--)
        if (is_old(&b->name[i], now)) drop(b, &b->name[i]);
    suspects_forget(b, now);
}

/* Does x make room before y? Who is refused stays, where there is any other, and then who was struck last. */
static bool goes_before(const struct name *x, const struct name *y)
{
    return !y || (!x->until_us == !y->until_us ? x->last_us < y->last_us : !x->until_us);
}

/* One of the tenant's own, where it has its share, or there is no room and it has any; else one of all. NULL: there is room. */
static struct name *room_for(struct blame *b, const char *tenant)
{
    struct name *own = NULL, *any = NULL;
    int n = 0;
    for (int i = 0; i < b->nnames; i++) {
        struct name *o = &b->name[i];
        if (goes_before(o, any)) any = o;
        if (strcmp(o->who.tenant, tenant) != 0) continue;
        n++;
        if (goes_before(o, own)) own = o;
    }
    if (n < BLAME_SHARE && b->nnames < BLAME_NAMES) return NULL;
    return own ? own : any;
}

static struct name *add(struct blame *b, bool adapter, const struct blame_who *w)
{
    struct name *n = room_for(b, w->tenant);
    if (!n) n = &b->name[b->nnames++];
    *n = (struct name){.adapter = adapter, .who = *w};
    return n;
}

static void strike(struct blame *b, bool adapter, const struct blame_who *w, int64_t now)
{
    if (adapter ? !w->adapter[0] : !w->request[0]) return;
    struct name *n = find(b, adapter, w);
    if (!n) n = add(b, adapter, w);
    if (n->crash == b->crashes) return;
    n->crash = b->crashes;
    n->last_us = now;
    n->strikes++;
}

/* The name that a loss accuses, if any was at enough crashes. */
static struct name *accused(struct blame *b, const struct blame_who *w)
{
    for (int adapter = 1; adapter >= 0; adapter--) {
        struct name *n = find(b, adapter, w);
        if (n && n->strikes >= BLAME_CRASHES) return n;
    }
    return NULL;
}

bool name_is_accused(struct blame *b, const struct blame_who *w)
{
    return accused(b, w) != NULL;
}

/* --- before, and after --- */

void blame_won(struct blame *b, const struct blame_seat *seat, const struct blame_who *who, int64_t now)
{
    pthread_mutex_lock(&b->lock);
    for (int adapter = 0; adapter < 2; adapter++) {
        struct name *n = find(b, adapter, who);
        if (n && !n->until_us) drop(b, n);
    }
    if (seat->tried) suspect_won(b, who->tenant, now);
    pthread_mutex_unlock(&b->lock);
}

static bool is_of(const struct loss *l, const char *engine, uint64_t life)
{
    return l->life == life && strcmp(l->engine, engine) == 0;
}

static void forget_losses(struct blame *b, const char *engine, uint64_t life, int64_t now)
{
    for (int i = b->nlosses - 1; i >= 0; i--)
        if (is_of(&b->loss[i], engine, life) || now - b->loss[i].at_us > BLAME_LATE_US) b->loss[i] = b->loss[--b->nlosses];
}

/* A tenant that has its share gives one of its own of the same crash, for what counts is that it was there; else its oldest. Where there is no room
 * at all, who has some gives one of those, and else one who has several does. */
static struct loss *loss_for(struct blame *b, const char *engine, uint64_t life, const char *tenant)
{
    struct loss *own = NULL, *same = NULL;
    int n = 0;
    for (int i = 0; i < b->nlosses; i++) {
        struct loss *l = &b->loss[i];
        if (strcmp(l->who.tenant, tenant) != 0) continue;
        n++;
        if (!own || l->at_us < own->at_us) own = l;
        if (!l->trial && is_of(l, engine, life) && (!same || l->at_us < same->at_us)) same = l;
    }
    if (n < BLAME_SHARE && b->nlosses < BLAME_LOSSES) return &b->loss[b->nlosses++];
    if (own) return same ? same : own;
    for (int i = 1; i < b->nlosses; i++)
        if (strcmp(b->loss[i].who.tenant, b->loss[i - 1].who.tenant) == 0) return &b->loss[i];
    return &b->loss[0];
}

static void keep_loss(struct blame *b, const struct loss *l, const char *engine)
{
    if (b->nlosses == BLAME_LOSSES) forget_losses(b, "", 0, l->at_us); /* old ones */
    struct loss *to = loss_for(b, engine, l->life, l->who.tenant);
    *to = *l;
    snprintf(to->engine, sizeof to->engine, "%s", engine);
}

void blame_lost(struct blame *b, struct blame_seat *seat, const char *engine, uint64_t life, const struct blame_who *who, int64_t now)
{
    pthread_mutex_lock(&b->lock);
    bool trial = seat && trial_runs(b, seat, engine, now);
    keep_loss(b, &(struct loss){.life = life, .who = *who, .trial = trial, .at_us = now}, engine);
    if (seat) seat_leave(b, seat, now);
    pthread_mutex_unlock(&b->lock);
}

void blame_left(struct blame *b, const char *engine, uint64_t life, const struct blame_who *who, int64_t now)
{
    pthread_mutex_lock(&b->lock);
    keep_loss(b, &(struct loss){.life = life, .who = *who, .left = true, .at_us = now}, engine);
    pthread_mutex_unlock(&b->lock);
}

/* --- the verdict --- */

struct verdict {
    bool adapter, request, tenant;
    struct blame_who who;
    int crashes; /* the adapter's */
    struct blame_refused asked;
};

/* What had left before, long enough for the engine to have noticed: it answered somebody since, or it had the time in which a hang is found out. */
bool loss_was_gone(const struct blame *b, const struct loss *l, int64_t crash)
{
    int64_t noticed = l->at_us + BLAME_LINGER_US;
    return crash > noticed && (engine_answered(b, l->engine) > noticed || crash - l->at_us > BLAME_HANG_US);
}

static void forget_left(struct blame *b, const char *engine, uint64_t life, int64_t now)
{
    int64_t crash = now;
    for (int i = 0; i < b->nlosses; i++) {
        const struct loss *l = &b->loss[i];
        if (!l->left && is_of(l, engine, life) && l->at_us < crash) crash = l->at_us;
    }
    for (int i = b->nlosses - 1; i >= 0; i--) {
        const struct loss *l = &b->loss[i];
        if (l->left && is_of(l, engine, life) && loss_was_gone(b, l, crash)) b->loss[i] = b->loss[--b->nlosses];
    }
}

/* The tenant that all losses are of; NULL: there are several, or none. */
static const char *only_tenant(const struct blame *b, const char *engine, uint64_t life)
{
    const char *one = NULL;
    for (int i = 0; i < b->nlosses; i++) {
        const struct loss *l = &b->loss[i];
        if (!is_of(l, engine, life)) continue;
        if (one && strcmp(one, l->who.tenant) != 0) return NULL;
        one = l->who.tenant;
    }
    return one;
}

static void strike_all(struct blame *b, const char *engine, uint64_t life, int64_t now)
{
    b->crashes++;
    for (int i = 0; i < b->nlosses; i++) {
        if (!is_of(&b->loss[i], engine, life)) continue;
        strike(b, true, &b->loss[i].who, now);
        strike(b, false, &b->loss[i].who, now);
    }
}

static void strike_tenants(struct blame *b, const char *engine, uint64_t life, int64_t now)
{
    for (int i = 0; i < b->nlosses; i++)
        if (is_of(&b->loss[i], engine, life)) suspect_strike(b, &b->loss[i].who, now);
}

/* Of losses that are all one tenant's. The loss whose name is guilty; NULL: nobody, or nobody knows which. */
static const struct loss *guilty(struct blame *b, const char *engine, uint64_t life)
{
    const struct loss *one = NULL;
    const struct name *name = NULL;
    bool several = false;
    for (int i = 0; i < b->nlosses; i++) {
        const struct loss *l = &b->loss[i];
        const struct name *n = is_of(l, engine, life) ? accused(b, &l->who) : NULL;
        if (!n) continue;
        if (l->trial) return l;
        several |= name && n != name;
        name = n;
        one = l;
    }
    return several ? NULL : one;
}

static void describe(const struct name *n, struct blame_refused *out)
{
    *out = (struct blame_refused){.who = n->who, .crashes = n->strikes, .since_us = n->since_us, .until_us = n->until_us};
    snprintf(out->id, sizeof out->id, "%.32s", n->who.request);
}

static void convict(struct blame *b, const struct loss *l, int64_t now, int64_t refuse_us, struct verdict *v)
{
    struct name *request = find(b, false, &l->who);
    v->who = l->who;
    if (request && request->strikes >= BLAME_CRASHES) {
        if (!request->until_us) request->since_us = now;
        request->until_us = now + refuse_us;
        describe(request, &v->asked);
        v->request = true;
    }
    struct name *adapter = find(b, true, &l->who);
    if (adapter && adapter->strikes >= BLAME_CRASHES) {
        v->adapter = true;
        v->crashes = adapter->strikes;
        drop(b, adapter);
    }
}

static void judge(struct blame *b, const char *engine, uint64_t life, int64_t now, int64_t refuse_us, struct verdict *v)
{
    forget_left(b, engine, life, now);
    const char *one = only_tenant(b, engine, life);
    bool was_accused = one && suspect_is_accused(b, one, now);
    strike_all(b, engine, life, now);
    const struct loss *l = one ? guilty(b, engine, life) : NULL;
    if (l) {
        convict(b, l, now, refuse_us, v);
    } else if (was_accused) {
        suspect_convict(b, one, now, refuse_us, &v->asked);
        v->tenant = true;
    } else {
        strike_tenants(b, engine, life, now);
    }
}

void blame_end(struct blame *b, const char *engine, uint64_t life, bool crashed, int64_t now, int64_t refuse_us)
{
    struct verdict v = {0};
    pthread_mutex_lock(&b->telling);
    pthread_mutex_lock(&b->lock);
    names_forget(b, now);
    forget_losses(b, "", 0, now);
    if (crashed) judge(b, engine, life, now, refuse_us, &v);
    forget_losses(b, engine, life, now);
    pthread_mutex_unlock(&b->lock);
    if (v.adapter && !b->stopped) b->o.adapter(b->o.user, &v.who, v.crashes);
    if (v.request && !b->stopped) b->o.request(b->o.user, &v.asked);
    if (v.tenant && !b->stopped) b->o.tenant(b->o.user, &v.asked);
    pthread_mutex_unlock(&b->telling);
}

/* --- refused requests --- */

void blame_restore(struct blame *b, const struct blame_refused *r)
{
    pthread_mutex_lock(&b->lock);
    if (!find(b, false, &r->who)) {
        struct name *n = add(b, false, &r->who);
        n->strikes = r->crashes;
        n->last_us = n->since_us = r->since_us;
        n->until_us = r->until_us;
    }
    pthread_mutex_unlock(&b->lock);
}

int blame_check(struct blame *b, const char *tenant, const char *request, int64_t now, struct err *e)
{
    struct blame_who w = {0};
    snprintf(w.tenant, sizeof w.tenant, "%s", tenant);
    snprintf(w.request, sizeof w.request, "%s", request);
    pthread_mutex_lock(&b->lock);
    const struct suspect *s = suspect_find(b, tenant);
    const struct name *n = find(b, false, &w);
    int64_t left = n ? n->until_us - now : 0, all = s ? s->until_us - now : 0;
    pthread_mutex_unlock(&b->lock);
    if (all > 0 && e) e->retry_after_s = (int)(all / 1000000 + 1);
    if (all > 0)
        return err_set(e, ERR_TENANT_QUARANTINED, "engines were lost with this tenant's requests, a new one each time, so all are refused for another %lld s",
                       (long long)(all / 1000000 + 1));
    if (left <= 0) return 0;
    return err_set(e, ERR_QUARANTINED, "an engine was lost with this request %d times, so it is refused for another %lld s (quarantine %.32s)", BLAME_CRASHES,
                   (long long)(left / 1000000 + 1), request);
}

static bool shows(const struct name *n, const char *tenant, int64_t now)
{
    return !n->adapter && n->until_us > now && (!tenant || strcmp(n->who.tenant, tenant) == 0);
}

static int by_id(const void *x, const void *y)
{
    return strcmp(((const struct name *)x)->who.request, ((const struct name *)y)->who.request);
}

/* before: what the caller's clock is behind the time of day. */
static struct json_t *show(const struct name *n, const char *tenant, int64_t now, int64_t before)
{
    char adapter[NAME_MAX_LEN + 16];
    snprintf(adapter, sizeof adapter, "%s@%d", n->who.adapter, n->who.version);
    json_t *o = json_pack("{ss ss# ss ss? si sI sI sI}", "object", "quarantine", "id", n->who.request, BLAME_ID - 1, "model", n->who.model, "adapter",
                          *n->who.adapter ? adapter : NULL, "crashes", n->strikes, "created_at", (json_int_t)((n->since_us + before) / 1000000), "expires_at",
                          (json_int_t)((n->until_us + before) / 1000000 + 1), "refused_s", (json_int_t)((n->until_us - now) / 1000000 + 1));
    if (o) json_object_set_new(o, "scope", json_string(n->who.all ? "tenant" : "request"));
    if (o && !tenant) json_object_set_new(o, "tenant", json_string(*n->who.tenant_name ? n->who.tenant_name : n->who.tenant));
    return o;
}

/* As a refused request is shown. */
static struct name name_of(const struct suspect *s)
{
    return (struct name){.who = s->who, .strikes = s->crashes, .last_us = s->last_us, .since_us = s->since_us, .until_us = s->until_us};
}

/* What stands in the page's direction from its cursor, sorted; the count. */
static int gather(struct blame *b, const char *tenant, const struct page *p, int64_t now, struct name *out)
{
    int n = 0;
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < b->nnames + b->nsuspects; i++) {
        struct name one = i < b->nnames ? b->name[i] : name_of(&b->suspect[i - b->nnames]);
        int cmp = strncmp(one.who.request, page_cursor(p), BLAME_ID - 1);
        bool in = !*page_cursor(p) || (page_back(p) ? cmp < 0 : cmp > 0);
        if (in && shows(&one, tenant, now)) out[n++] = one;
    }
    pthread_mutex_unlock(&b->lock);
    qsort(out, (size_t)n, sizeof *out, by_id);
    return n;
}

int blame_list(struct blame *b, const char *tenant, const struct page *p, int64_t now, int64_t wall, struct json_t *list, bool *more, struct err *e)
{
    struct name *all = calloc(BLAME_NAMES + BLAME_TENANTS, sizeof *all);
    if (!all) return err_set(e, ERR_NO_MEMORY, "no memory for a list");
    int n = gather(b, tenant, p, now, all), from = 0, end = n;
    *more = n > p->limit;
    if (*more && page_back(p)) from = n - p->limit;
    if (*more && !page_back(p)) end = p->limit;
    int rc = 0;
    for (int i = from; i < end && rc == 0; i++) rc = json_array_append_new(list, show(&all[i], tenant, now, wall - now));
    free(all);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for a list") : 0;
}

int blame_count(struct blame *b, const char *tenant, int64_t now)
{
    int n = 0;
    if (blame_quiet(b)) return 0;
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < b->nnames; i++) n += shows(&b->name[i], tenant, now);
    for (int i = 0; i < b->nsuspects; i++) {
        struct name one = name_of(&b->suspect[i]);
        n += shows(&one, tenant, now);
    }
    pthread_mutex_unlock(&b->lock);
    return n;
}

int blame_find(struct blame *b, const char *tenant, const char *id, int64_t now, struct blame_who *out, struct err *e)
{
    bool found = false;
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < b->nnames + b->nsuspects && !found; i++) {
        struct name n = i < b->nnames ? b->name[i] : name_of(&b->suspect[i - b->nnames]);
        found = shows(&n, tenant, now) && strlen(id) == BLAME_ID - 1 && strncmp(n.who.request, id, BLAME_ID - 1) == 0;
        if (found) *out = n.who;
    }
    pthread_mutex_unlock(&b->lock);
    if (found && tenant && out->all) return err_set(e, ERR_FORBIDDEN, "A tenant's quarantine is lifted by the operator.");
    return found ? 0 : err_set(e, ERR_NOT_FOUND, "There is no request '%.40s' in quarantine.", id);
}

void blame_lift(struct blame *b, const char *id)
{
    pthread_mutex_lock(&b->lock);
    for (int i = b->nnames - 1; i >= 0; i--)
        if (!b->name[i].adapter && strncmp(b->name[i].who.request, id, BLAME_ID - 1) == 0) drop(b, &b->name[i]);
    for (int i = b->nsuspects - 1; i >= 0; i--)
        if (strncmp(b->suspect[i].who.request, id, BLAME_ID - 1) == 0) suspect_drop(b, &b->suspect[i]);
    pthread_mutex_unlock(&b->lock);
}
