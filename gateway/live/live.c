/* Rows in a hash table of fixed size, found by linear probing; a row that is in use stays in its place, so a request may
 * hold pointers. Tokens are counted into a ring of seconds; a second's slot is cleared when it comes round again.
 *
 * A row is dead when nothing is in flight and its windows are empty: then it is a place for another name. Lookups go on past
 * dead rows, so that a name has one row only. One lock for names, one per row for counts: chunks of two tenants' streams
 * meet in the row of all only, for as long as an addition takes.
 *
 * The minute of what ended (live_window.h) is some kilobytes, so a tenant's row gets one with its first end and keeps it. A
 * row that gets none for want of memory counts on without. */
#include "gateway/live/live.h"
#include "base/clock.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 16 /* seconds of the ring; more than the window */
#define PROBES 32

struct live_row {
    struct live_top of; /* names; in_flight and waiting are covered by the table's lock */
    bool named;
    pthread_mutex_t lock; /* covers the rest */
    int64_t second[SLOTS], tokens[SLOTS];
    int64_t ended;
    struct live_window *minute; /* of tenants and of all; NULL: nothing ended yet */
};

struct live {
    pthread_mutex_t lock;
    struct live_row all;
    struct live_row row[LIVE_ROWS];
};

static int64_t now_s(void)
{
    return clock_mono_us() / 1000000;
}

struct live *live_new(void)
{
    struct live *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    pthread_mutex_init(&l->lock, NULL);
    pthread_mutex_init(&l->all.lock, NULL);
    for (int i = 0; i < LIVE_ROWS; i++) pthread_mutex_init(&l->row[i].lock, NULL);
    return l;
}

static void row_close(struct live_row *r)
{
    free(r->minute);
    pthread_mutex_destroy(&r->lock);
}

void live_free(struct live *l)
{
    if (!l) return;
    for (int i = 0; i < LIVE_ROWS; i++) row_close(&l->row[i]);
    row_close(&l->all);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static int64_t window(struct live_row *r)
{
    int64_t now = now_s(), sum = 0;
    pthread_mutex_lock(&r->lock);
    for (int i = 0; i < SLOTS; i++)
        if (now - r->second[i] < LIVE_WINDOW_S) sum += r->tokens[i];
    pthread_mutex_unlock(&r->lock);
    return sum;
}

/* Under the table's lock: nobody holds it, and nothing of it would be shown. */
static bool is_dead(struct live_row *r)
{
    if (!r->named) return true;
    if (r->of.in_flight || window(r)) return false;
    pthread_mutex_lock(&r->lock);
    bool dead = !r->minute || live_window_idle(r->minute, clock_mono_us());
    pthread_mutex_unlock(&r->lock);
    return dead;
}

static unsigned hash(const char *tenant, const char *adapter, int version)
{
    unsigned h = 2166136261u;
    for (const char *s = tenant; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    h = (h ^ '/') * 16777619u;
    for (const char *s = adapter; *s; s++) h = (h ^ (unsigned char)*s) * 16777619u;
    return (h ^ (unsigned)version) * 16777619u;
}

static bool is(const struct live_row *r, const char *tenant, const char *adapter, int version)
{
    return r->named && r->of.version == version && strcmp(r->of.tenant, tenant) == 0 &&
           strcmp(r->of.adapter, adapter) == 0;
}

static struct live_row *find(struct live *l, const char *tenant, const char *adapter, int version)
{
    unsigned h = hash(tenant, adapter, version);
    for (int i = 0; i < PROBES; i++) {
        struct live_row *r = &l->row[(h + (unsigned)i) % LIVE_ROWS];
        if (is(r, tenant, adapter, version)) return r;
    }
    return NULL;
}

/* Under the lock. NULL: all places that this name may take are busy. */
static struct live_row *row_of(struct live *l, const char *tenant, const char *adapter, int version, const char *digest)
{
    unsigned h = hash(tenant, adapter, version);
    struct live_row *there = find(l, tenant, adapter, version), *free_one = NULL;
    if (there) return there;
    for (int i = 0; i < PROBES && !free_one; i++) {
        struct live_row *r = &l->row[(h + (unsigned)i) % LIVE_ROWS];
        if (is_dead(r)) free_one = r;
    }
    if (!free_one) return NULL;
    free(free_one->minute); /* another's; nobody holds a dead row */
    free_one->minute = NULL;
    free_one->named = true;
    free_one->of = (struct live_top){.version = version};
    snprintf(free_one->of.tenant, sizeof free_one->of.tenant, "%s", tenant);
    snprintf(free_one->of.adapter, sizeof free_one->of.adapter, "%s", adapter);
    snprintf(free_one->of.digest, sizeof free_one->of.digest, "%s", digest);
    return free_one;
}

static void add(const struct live_request *q, int in_flight, int waiting)
{
    struct live_row *of[] = {q->all, q->tenant, q->adapter};
    for (int i = 0; i < 3; i++)
        if (of[i]) of[i]->of.in_flight += in_flight, of[i]->of.waiting += waiting;
}

void live_begin(struct live *l, const struct admission *a, struct live_request *out)
{
    const struct target *t = &a->what;
    pthread_mutex_lock(&l->lock);
    *out = (struct live_request){.all = &l->all, .tenant = row_of(l, a->who.tenant_name, "", 0, "")};
    out->adapter = t->is_base ? NULL : row_of(l, a->who.tenant_name, t->adapter, t->version, t->digest);
    add(out, 1, 1);
    pthread_mutex_unlock(&l->lock);
}

void live_sent(struct live *l, struct live_request *q)
{
    if (q->sent) return;
    pthread_mutex_lock(&l->lock);
    add(q, 0, -1);
    pthread_mutex_unlock(&l->lock);
    q->sent = true;
}

int live_running(struct live *l, const struct live_request *q)
{
    pthread_mutex_lock(&l->lock);
    int n = q->tenant ? q->tenant->of.in_flight - q->tenant->of.waiting : 0;
    pthread_mutex_unlock(&l->lock);
    return n;
}

void live_end(struct live *l, struct live_request *q)
{
    pthread_mutex_lock(&l->lock);
    add(q, -1, q->sent ? 0 : -1);
    pthread_mutex_unlock(&l->lock);
    *q = (struct live_request){0};
}

/* --- counts of a row --- */

static void count(struct live_row *r, int64_t n)
{
    int64_t now = now_s();
    int i = (int)(now % SLOTS);
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    if (r->second[i] != now) r->tokens[i] = 0;
    r->second[i] = now;
    r->tokens[i] += n;
    pthread_mutex_unlock(&r->lock);
}

void live_tokens(struct live_request *q, int64_t n)
{
    count(q->all, n);
    count(q->tenant, n);
    count(q->adapter, n);
}

/* Under the row's lock. NULL: no memory. */
static struct live_window *minute_of(struct live_row *r)
{
    if (r->minute) return r->minute;
    r->minute = malloc(sizeof *r->minute);
    if (r->minute) live_window_init(r->minute);
    return r->minute;
}

static void note(struct live_row *r, enum live_count what)
{
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    struct live_window *w = minute_of(r);
    if (w) live_window_count(w, clock_mono_us(), what);
    pthread_mutex_unlock(&r->lock);
}

static void note_time(struct live_row *r, enum latency_kind kind, int64_t us)
{
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    struct live_window *w = minute_of(r);
    if (w) live_window_time(w, clock_mono_us(), kind, us);
    pthread_mutex_unlock(&r->lock);
}

static void both(const struct live_request *q, enum latency_kind kind, int64_t us)
{
    note_time(q->all, kind, us);
    note_time(q->tenant, kind, us);
}

void live_first(struct live_request *q, int64_t us)
{
    if (q->first) return;
    q->first = true;
    both(q, LATENCY_TTFT, us);
}

static void count_end(struct live_row *r)
{
    pthread_mutex_lock(&r->lock);
    r->ended++;
    pthread_mutex_unlock(&r->lock);
}

void live_done(struct live_request *q, const struct admission *a, const struct settlement *s)
{
    struct live_row *of[] = {q->all, q->tenant};
    for (int i = 0; i < 2; i++) {
        note(of[i], LIVE_REQUESTS);
        if (of[i]) count_end(of[i]);
        if (usage_is_error(s->state)) note(of[i], LIVE_ERRORS);
    }
    if (s->t_first) live_first(q, s->t_first - a->t_start);
    both(q, LATENCY_DURATION, s->t_end - a->t_start);
    if (s->t_first && s->delivered > 1) both(q, LATENCY_TPOT, (s->t_end - s->t_first) / (s->delivered - 1));
}

void live_refused(struct live *l, const char *tenant_name)
{
    pthread_mutex_lock(&l->lock);
    struct live_row *r = row_of(l, tenant_name, "", 0, "");
    note(&l->all, LIVE_REFUSED);
    note(r, LIVE_REFUSED);
    pthread_mutex_unlock(&l->lock);
}

/* --- looking --- */

void live_now(struct live *l, const char *tenant_name, struct live_now *out)
{
    *out = (struct live_now){0};
    pthread_mutex_lock(&l->lock);
    struct live_row *r = tenant_name ? find(l, tenant_name, "", 0) : &l->all;
    if (r) {
        out->of = r->of;
        out->of.tokens_per_s = (double)window(r) / LIVE_WINDOW_S;
        pthread_mutex_lock(&r->lock);
        out->ended = r->ended;
        if (r->minute) live_window_sum(r->minute, clock_mono_us(), &out->minute);
        pthread_mutex_unlock(&r->lock);
    }
    pthread_mutex_unlock(&l->lock);
}

static int busier(const void *a, const void *b)
{
    const struct live_top *x = a, *y = b;
    if (x->in_flight != y->in_flight) return y->in_flight - x->in_flight;
    return (y->tokens_per_s > x->tokens_per_s) - (y->tokens_per_s < x->tokens_per_s);
}

/* Keeps the busiest `max`: the list is sorted when it is full, and the last one gives way. */
static int top(struct live *l, bool adapters, struct live_top *out, int max)
{
    int n = 0;
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < LIVE_ROWS; i++) {
        struct live_row *r = &l->row[i];
        if (!r->named || adapters != (r->of.adapter[0] != 0)) continue;
        struct live_top t = r->of;
        t.tokens_per_s = (double)window(r) / LIVE_WINDOW_S;
        if (t.in_flight == 0 && t.tokens_per_s == 0) continue;
        if (n < max) {
            out[n++] = t;
            if (n == max) qsort(out, (size_t)n, sizeof *out, busier);
        } else if (busier(&t, &out[n - 1]) < 0) {
            out[n - 1] = t;
            for (int k = n - 1; k > 0 && busier(&out[k], &out[k - 1]) < 0; k--) {
                struct live_top x = out[k];
                out[k] = out[k - 1];
                out[k - 1] = x;
            }
        }
    }
    pthread_mutex_unlock(&l->lock);
    qsort(out, (size_t)n, sizeof *out, busier);
    return n;
}

int live_tenants(struct live *l, struct live_top *out, int max)
{
    return top(l, false, out, max);
}

int live_adapters(struct live *l, struct live_top *out, int max)
{
    return top(l, true, out, max);
}
