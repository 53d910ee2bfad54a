/* live_stream: one thread that writes to all listeners once a second (see live_stream.h).
 *
 *     live_get (database thread): bounds -> missed events, by Last-Event-ID -> first view -> into the list
 *     tick (this thread):         new events, one query for all -> views, one a tenant -> writes -> out of the list
 *
 * A view is made once for all listeners of a tenant, and its sums of day and month are read again only after requests of
 * that tenant have ended, so that idle dashboards cost a few microseconds each. While there is no listener the thread
 * sleeps. A write never blocks: what a reader lags behind is bounded by the connection's buffer, beyond which it is cut.
 *
 * The list is the thread's; those that come are put into `fresh` under the lock and taken over by the next tick. A stream in
 * the list is written to by this thread alone. */
#include "gateway/live/live_stream.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/header.h"
#include "gateway/api/page.h"
#include "gateway/live/event.h"
#include "gateway/live/live.h"
#include "gateway/live/live_api.h"
#include "gateway/live/now.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/proxy/upstream.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_US 1000000
#define EVENT_PAGES 10      /* of PAGE_MAX: what one tick, or one who comes back, gets at most */
#define SUMS_OLD_US 10000000 /* read again after so long in any case: adjustments, and the turn of a day */
#define SETTLED_US 3000000   /* an end is in the sums by then */
#define VIEWS (2 * LIVE_LISTENERS) /* those of this tick and of the last one */
#define SECONDS_MAX 86400
#define EVENT_MAX (1u << 20)
#define READ_MS 2000

struct listener {
    struct listener *next;
    struct http_stream *stream;
    struct principal who;
    struct now_ask ask; /* its texts are in `tenant` and `name` */
    char tenant[UUID_LEN], name[NAME_MAX_LEN + 1];
    int64_t seq;      /* of the last event that it knows */
    int64_t until_us; /* monotonic; 0: no end */
};

/* The view of one audience, for one tick; its sums for some. */
struct view {
    char tenant[UUID_LEN]; /* "": everybody */
    bool admin;
    int64_t tick;  /* that it was made for */
    int64_t ended; /* requests, as last seen */
    int64_t changed_us, read_us;
    struct now_sums sums;
    struct buf text;
};

struct live_streams {
    struct gateway *g;
    pthread_t thread;
    pthread_mutex_t lock; /* covers the next five */
    pthread_cond_t wake;
    struct listener *fresh;
    int listeners, admins;
    bool stop;
    char tenants[LIVE_LISTENERS][UUID_LEN]; /* whose each listener is, "" free; to count a tenant's */
    /* The thread's own. */
    struct listener *first;
    struct view view[VIEWS];
    int64_t tick;
};

/* --- places --- */

/* Under the lock. */
static int count_of(const struct live_streams *s, const char *tenant)
{
    int n = 0;
    for (int i = 0; i < LIVE_LISTENERS; i++) n += *tenant && strcmp(s->tenants[i], tenant) == 0;
    return n;
}

static int take_place(struct live_streams *s, const char *tenant, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (s->stop)
        rc = err_set(e, ERR_UNAVAILABLE, "the server is shutting down; try again");
    else if (*tenant && count_of(s, tenant) >= LIVE_LISTENERS_TENANT)
        rc = err_set(e, ERR_QUEUE_FULL, "%d listeners of this tenant are there; end one", LIVE_LISTENERS_TENANT);
    else if (s->listeners >= LIVE_LISTENERS || (!*tenant && s->admins >= LIVE_LISTENERS_ADMIN))
        rc = err_set(e, ERR_QUEUE_FULL, "too many listeners; try again");
    for (int i = 0; i < LIVE_LISTENERS && rc == 0 && *tenant; i++) {
        if (s->tenants[i][0]) continue;
        snprintf(s->tenants[i], UUID_LEN, "%s", tenant);
        break;
    }
    if (rc == 0) s->listeners++, s->admins += !*tenant;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void give_place(struct live_streams *s, const char *tenant)
{
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < LIVE_LISTENERS && *tenant; i++) {
        if (strcmp(s->tenants[i], tenant) != 0) continue;
        s->tenants[i][0] = 0;
        break;
    }
    s->listeners--;
    s->admins -= !*tenant;
    pthread_mutex_unlock(&s->lock);
}

/* --- what is written --- */

static int add_event(struct buf *b, const char *kind, int64_t id, const json_t *data)
{
    buf_addf(b, "event: %s\n", kind);
    if (id) buf_addf(b, "id: %lld\n", (long long)id);
    buf_adds(b, "data: ");
    if (json_dump(data, false, b)) return -1;
    return buf_adds(b, "\n\n");
}

static int64_t ended(struct gateway *g, const struct now_ask *a)
{
    struct live_now n;
    live_now(upstream_live(g->upstream), a->tenant_name, &n);
    return n.ended;
}

/* Reads the sums again where they may have changed. A database that does not answer leaves the last ones. */
static void refresh(struct gateway *g, const struct now_ask *a, struct view *v)
{
    int64_t now = clock_mono_us(), n = ended(g, a);
    if (n != v->ended) v->changed_us = now;
    v->ended = n;
    if (v->read_us && now - v->changed_us > SETTLED_US && now - v->read_us < SUMS_OLD_US) return;
    struct now_sums sums;
    if (now_read(g, a, &sums, NULL)) return;
    v->sums = sums;
    v->read_us = now;
}

static int make_view(struct gateway *g, const struct now_ask *a, struct view *v)
{
    refresh(g, a, v);
    int64_t began_us = clock_mono_us();
    json_t *o = now_json(g, a, &v->sums);
    buf_reset(&v->text);
    int rc = o && !json_was_short(began_us) ? add_event(&v->text, "now", 0, o) : -1;
    json_decref(o);
    return rc;
}

/* --- events --- */

static int read_last(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT max(seq) FROM event";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    *(int64_t *)u = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return 0;
}

static int64_t seq_of(const json_t *event)
{
    return json_integer_value(json_object_get(event, "seq"));
}

/* A page of those after `seq`; tenant NULL: everybody's. NULL: not now. */
static json_t *events_after(struct gateway *g, const char *tenant, int64_t seq, bool *more, struct err *e)
{
    char after[24];
    json_t *list = json_array();
    snprintf(after, sizeof after, "%lld", (long long)seq);
    struct page p = {seq ? after : "", "", PAGE_MAX};
    *more = false;
    int rc = list ? event_list(g->db, tenant, &p, list, more, e) : err_set(e, ERR_NO_MEMORY, "no memory for events");
    if (rc == 0) return list;
    json_decref(list);
    return NULL;
}

/* For one who was here before: what it missed, up to the last event that there is now. -1: that can't be told now, so it is to come again. */
static int add_missed(struct gateway *g, struct listener *x, int64_t since, struct buf *b, struct err *e)
{
    int64_t began_us = clock_mono_us();
    bool more = since < x->seq;
    for (int i = 0; i < EVENT_PAGES && more; i++) {
        json_t *list = events_after(g, x->ask.tenant, since, &more, e), *event;
        size_t k;
        if (!list) return -1;
        json_array_foreach(list, k, event)
        {
            since = seq_of(event);
            if (x->ask.admin && x->ask.tenant) json_object_set_new(event, "tenant", json_string(x->name));
            if (since <= x->seq) add_event(b, "event", since, event);
        }
        more = more && since < x->seq;
        json_decref(list);
    }
    return b->failed || json_was_short(began_us) ? err_set(e, ERR_NO_MEMORY, "no memory for the answer") : 0;
}

/* As a list of everybody's says it, for one listener: false where it is not its affair. The tenant's own has no `tenant`. */
static bool fits(const struct listener *x, json_t *event, const char *of, struct buf *b)
{
    if (seq_of(event) <= x->seq || (x->ask.tenant && strcmp(x->name, of) != 0)) return false;
    if (!x->ask.admin) json_object_del(event, "tenant");
    add_event(b, "event", seq_of(event), event);
    json_object_set_new(event, "tenant", json_string(of));
    return true;
}

/* --- the list --- */

static void end_listener(struct live_streams *s, struct listener **at, bool cut)
{
    struct listener *x = *at;
    *at = x->next;
    if (cut)
        http_stream_abort(x->stream);
    else
        http_stream_end(x->stream);
    give_place(s, x->ask.admin ? "" : x->tenant);
    free(x);
}

static bool is_over(struct live_streams *s, const struct listener *x, int64_t now)
{
    unsigned scope = x->ask.admin ? SCOPE_ADMIN_READ : SCOPE_USAGE;
    return (x->until_us && now >= x->until_us) || !auth_still(s->g->auth, &x->who, scope);
}

/* False: it is cut, as where an event lacks something since began_us; it may come back and say which one it had last. */
static bool tell_events(struct listener *x, json_t *list, int64_t began_us)
{
    struct buf b;
    size_t i;
    json_t *event;
    buf_init(&b, EVENT_MAX);
    json_array_foreach(list, i, event)
    {
        char of[NAME_MAX_LEN + 1];
        snprintf(of, sizeof of, "%s", json_string_value(json_object_get(event, "tenant")));
        fits(x, event, of, &b);
    }
    int rc = b.failed || json_was_short(began_us) ? -1 : b.len ? http_stream_write(x->stream, b.data, b.len, 0) : 0;
    int64_t last = seq_of(json_array_get(list, json_array_size(list) - 1));
    if (last > x->seq) x->seq = last;
    buf_close(&b);
    return rc == 0;
}

static void pass_events(struct live_streams *s)
{
    bool more = true;
    for (int page = 0; page < EVENT_PAGES && more && s->first; page++) {
        int64_t seq = INT64_MAX, began_us = clock_mono_us();
        for (struct listener *x = s->first; x; x = x->next)
            if (x->seq < seq) seq = x->seq;
        json_t *list = events_after(s->g, NULL, seq, &more, NULL);
        for (struct listener **p = &s->first; *p && json_array_size(list);)
            if (tell_events(*p, list, began_us))
                p = &(*p)->next;
            else
                end_listener(s, p, true);
        json_decref(list);
    }
}

/* The view for this tick; NULL: no memory. One that no listener asked for in this tick gives its place. */
static struct view *view_of(struct live_streams *s, const struct now_ask *a)
{
    const char *tenant = a->tenant ? a->tenant : "";
    struct view *place = NULL;
    for (int i = 0; i < VIEWS; i++) {
        struct view *v = &s->view[i];
        if (v->tick && v->admin == a->admin && strcmp(v->tenant, tenant) == 0) {
            place = v;
            break;
        }
        if (!place && (!v->tick || v->tick < s->tick - 1)) place = v;
    }
    if (!place) return NULL;
    if (place->tick == s->tick) return place;
    if (!place->tick || place->admin != a->admin || strcmp(place->tenant, tenant) != 0) {
        place->admin = a->admin;
        snprintf(place->tenant, sizeof place->tenant, "%s", tenant);
        place->read_us = 0;
    }
    if (make_view(s->g, a, place)) return NULL;
    place->tick = s->tick;
    return place;
}

static void pass_views(struct live_streams *s)
{
    int64_t now = clock_mono_us();
    for (struct listener **p = &s->first; *p;) {
        struct view *v = NULL;
        if (is_over(s, *p, now))
            end_listener(s, p, false);
        else if (!(v = view_of(s, &(*p)->ask)) || http_stream_write((*p)->stream, v->text.data, v->text.len, 0))
            end_listener(s, p, true);
        else
            p = &(*p)->next;
    }
}

/* Under the lock. */
static void take_fresh(struct live_streams *s)
{
    while (s->fresh) {
        struct listener *x = s->fresh;
        s->fresh = x->next;
        x->next = s->first;
        s->first = x;
    }
}

/* Under the lock: until the next second, the end, or while nobody listens the first one who does. */
static void nap(struct live_streams *s)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += TICK_US / 1000000;
    while (!s->stop && !s->first && !s->fresh) pthread_cond_wait(&s->wake, &s->lock);
    while (!s->stop && s->first && pthread_cond_timedwait(&s->wake, &s->lock, &t) != ETIMEDOUT) {
    }
}

static void *run(void *u)
{
    struct live_streams *s = u;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        take_fresh(s);
        nap(s);
        pthread_mutex_unlock(&s->lock);
        s->tick++;
        pass_events(s);
        pass_views(s);
        pthread_mutex_lock(&s->lock);
    }
    take_fresh(s);
    pthread_mutex_unlock(&s->lock);
    while (s->first) end_listener(s, &s->first, false);
    return NULL;
}

/* --- GET .../live --- */

static int read_ask(struct http_request *r, struct listener *x, int64_t *since, struct err *e)
{
    static const char *const also[] = {"seconds", NULL};
    struct span s;
    int64_t seconds = 0;
    int64_t last = -1;
    if (header_last_event(http_header(r, "last-event-id"), &last, e) || span_read_whose(r, also, &s, e) || admin_query_int(r, "seconds", 1, SECONDS_MAX, &seconds, e)) return -1;
    x->who = *admin_who(r);
    snprintf(x->tenant, sizeof x->tenant, "%s", s.tenant ? s.tenant : "");
    snprintf(x->name, sizeof x->name, "%s", s.tenant ? s.tenant_name : "");
    x->ask = (struct now_ask){s.tenant ? x->tenant : NULL, s.tenant ? x->name : NULL, s.admin};
    x->until_us = seconds ? clock_mono_us() + seconds * 1000000 : 0;
    if (db_read(admin_gateway(r)->db, read_last, &x->seq, READ_MS, e)) return -1;
    *since = last >= 0 ? last : x->seq;
    return 0;
}

/* What it gets at once, into b. */
static int first_words(struct gateway *g, struct listener *x, int64_t since, struct buf *b, struct err *e)
{
    struct view v = {.tick = 0};
    buf_adds(b, "retry: 2000\n\n");
    if (add_missed(g, x, since, b, e)) return -1;
    buf_init(&v.text, EVENT_MAX);
    int rc = make_view(g, &x->ask, &v) || buf_add(b, v.text.data, v.text.len);
    buf_close(&v.text);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for the answer") : 0;
}

/* Takes x over; r is not to be touched after. */
static void begin(struct live_streams *s, struct http_request *r, struct listener *x, const struct buf *first)
{
    bool head = strcmp(r->method, "HEAD") == 0;
    http_set_header(r, "Cache-Control", "no-store");
    http_set_header(r, "X-Accel-Buffering", "no");
    x->stream = http_stream_open(r, 200, "text/event-stream; charset=utf-8");
    bool late = http_stream_write(x->stream, first->data, first->len, 0) != 0;
    pthread_mutex_lock(&s->lock);
    bool stop = s->stop;
    if (!stop && !head && !late) {
        x->next = s->fresh;
        s->fresh = x;
        pthread_cond_signal(&s->wake);
        x = NULL;
    }
    pthread_mutex_unlock(&s->lock);
    if (x) end_listener(s, &(struct listener *){x}, late);
}

void live_get(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct buf b;
    int64_t since = 0;
    struct listener *x = calloc(1, sizeof *x);
    buf_init(&b, EVENT_MAX);
    int rc = x ? read_ask(r, x, &since, &e) : err_set(&e, ERR_NO_MEMORY, "no memory for the answer");
    if (rc == 0) rc = first_words(g, x, since, &b, &e);
    if (rc == 0) rc = take_place(g->streams, x->ask.admin ? "" : x->tenant, &e);
    if (rc == 0) {
        begin(g->streams, r, x, &b);
    } else {
        free(x);
        api_refuse(r, &e);
    }
    buf_close(&b);
}

/* --- life --- */

int live_streams_open(struct live_streams **out, struct gateway *g, struct err *e)
{
    pthread_condattr_t attr;
    struct live_streams *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for live streams");
    s->g = g;
    for (int i = 0; i < VIEWS; i++) buf_init(&s->view[i].text, EVENT_MAX);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&s->thread, NULL, run, s)) {
        s->stop = true; /* there is none to wait for */
        live_streams_close(s);
        return err_set(e, ERR_NO_MEMORY, "no thread for live streams");
    }
    *out = s;
    return 0;
}

void live_streams_stop(struct live_streams *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    bool was = s->stop;
    s->stop = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    if (!was) pthread_join(s->thread, NULL);
}

void live_streams_close(struct live_streams *s)
{
    if (!s) return;
    live_streams_stop(s);
    for (int i = 0; i < VIEWS; i++) buf_close(&s->view[i].text);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
