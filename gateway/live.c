/* Rows in a hash table of fixed size, found by linear probing; a row that is in use stays in its place, so a request may
 * hold pointers. Tokens are counted into a ring of seconds; a second's slot is cleared when it comes round again.
 *
 * A row is dead when nothing is in flight and its window is empty: then it is a place for another name. Lookups go on past
 * dead rows, so that a name has one row only. One lock for names, one per row for counts: a stream's chunks never meet. */
#include "gateway/live.h"
#include "base/clock.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 16 /* seconds of the ring; more than the window */
#define PROBES 32

struct live_row {
    struct live_top of; /* names; in_flight is covered by the table's lock */
    bool named;
    pthread_mutex_t lock; /* covers the rest */
    int64_t second[SLOTS], tokens[SLOTS];
};

struct live {
    pthread_mutex_t lock;
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
    for (int i = 0; i < LIVE_ROWS; i++) pthread_mutex_init(&l->row[i].lock, NULL);
    return l;
}

void live_free(struct live *l)
{
    if (!l) return;
    for (int i = 0; i < LIVE_ROWS; i++) pthread_mutex_destroy(&l->row[i].lock);
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

/* Under the lock. NULL: all places that this name may take are busy. */
static struct live_row *row_of(struct live *l, const char *tenant, const char *adapter, int version, const char *digest)
{
    unsigned h = hash(tenant, adapter, version);
    struct live_row *free_one = NULL;
    for (int i = 0; i < PROBES; i++) {
        struct live_row *r = &l->row[(h + (unsigned)i) % LIVE_ROWS];
        if (is(r, tenant, adapter, version)) return r;
        if (!free_one && (!r->named || (r->of.in_flight == 0 && window(r) == 0))) free_one = r;
    }
    if (!free_one) return NULL;
    free_one->named = true;
    free_one->of = (struct live_top){.version = version};
    snprintf(free_one->of.tenant, sizeof free_one->of.tenant, "%s", tenant);
    snprintf(free_one->of.adapter, sizeof free_one->of.adapter, "%s", adapter);
    snprintf(free_one->of.digest, sizeof free_one->of.digest, "%s", digest);
    return free_one;
}

void live_begin(struct live *l, const struct admission *a, struct live_request *out)
{
    const struct target *t = &a->what;
    pthread_mutex_lock(&l->lock);
    out->tenant = row_of(l, a->who.tenant_name, "", 0, "");
    if (out->tenant) out->tenant->of.in_flight++;
    out->adapter = t->is_base ? NULL : row_of(l, a->who.tenant_name, t->adapter, t->version, t->digest);
    if (out->adapter) out->adapter->of.in_flight++;
    pthread_mutex_unlock(&l->lock);
}

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
    count(q->tenant, n);
    count(q->adapter, n);
}

void live_end(struct live *l, struct live_request *q)
{
    pthread_mutex_lock(&l->lock);
    if (q->tenant) q->tenant->of.in_flight--;
    if (q->adapter) q->adapter->of.in_flight--;
    pthread_mutex_unlock(&l->lock);
    *q = (struct live_request){0};
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
