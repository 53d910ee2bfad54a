/* arrival: see arrival.h. A tenant with bodies on their way has one row, found by its id; it goes with the last of them. HTTP
 * workers; nothing is called under the lock. */
#include "gateway/arrival.h"
#include "gateway/gateway.h"
#include "gateway/observe/meters.h"
#include "gateway/settings.h"
#include <stdlib.h>
#include <string.h>

#define CHUNKED_LEAST (1 << 20) /* bytes of a body without a length, whatever max_body says of inference */

struct crowd {
    char tenant[UUID_LEN];
    int64_t n, bytes;
    struct crowd *next;
};

struct arrival {
    struct crowd *of;
    int64_t bytes;
};

void arrivals_open(struct arrivals *a)
{
    memset(a, 0, sizeof *a);
    pthread_mutex_init(&a->lock, NULL);
}

static struct crowd **find(struct arrivals *a, const char *tenant)
{
    uint32_t h = 2166136261u;
    for (const char *p = tenant; *p; p++) h = (h ^ (unsigned char)*p) * 16777619u;
    struct crowd **c = &a->bucket[h % ARRIVING_BUCKETS];
    while (*c && strcmp((*c)->tenant, tenant) != 0) c = &(*c)->next;
    return c;
}

/* Bytes that this body may take in memory; where it does not say, it gets no more. */
static int64_t bytes_of(struct http_request *r)
{
    const struct settings *set = ((struct gateway *)r->server_user)->set;
    if (r->route->body != HTTP_BODY_BUFFER) return 0;
    if (r->content_length >= 0) return r->content_length;
    int64_t most = set->max_body > CHUNKED_LEAST ? set->max_body : CHUNKED_LEAST;
    if ((int64_t)r->route->max_body < most) most = (int64_t)r->route->max_body;
    http_limit_body(r, (size_t)most);
    return most;
}

/* Under the lock. *why: for the metric. */
static int check(const struct gateway *g, const struct crowd *c, int64_t bytes, const char **why, struct err *e)
{
    int64_t share = g->set->max_connections / 4, most = pressure_memory_mark(&g->pressure, g->set) / 4;
    if (share < ARRIVING_LEAST) share = ARRIVING_LEAST;
    if (most > ARRIVING_BYTES_MAX) most = ARRIVING_BYTES_MAX;
    *why = "tenant";
    if (c && c->n >= share)
        return err_later(e, ERR_RATE_LIMIT, 1, "%lld requests are on their way whose bodies are not there yet, as many as may be at a time; try again", (long long)c->n);
    if (c && bytes && c->bytes && bytes > most / 4 - c->bytes)
        return err_later(e, ERR_RATE_LIMIT, 1, "bodies of %lld bytes are on their way, and may not be more at a time; try again", (long long)c->bytes);
    *why = "bytes";
    if (bytes && g->arrivals.bytes && bytes > most - g->arrivals.bytes)
        return err_set(e, ERR_OVERLOADED, "too many bodies are on their way; try again");
    return 0;
}

static int enter(struct gateway *g, const char *tenant, struct arrival *x, const char **why, struct err *e)
{
    struct arrivals *a = &g->arrivals;
    struct crowd *fresh = calloc(1, sizeof *fresh);
    *why = "memory";
    if (!fresh) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    memcpy(fresh->tenant, tenant, strnlen(tenant, sizeof fresh->tenant - 1));
    pthread_mutex_lock(&a->lock);
    struct crowd **c = find(a, tenant);
    int rc = check(g, *c, x->bytes, why, e);
    if (rc == 0 && !*c) {
        *c = fresh;
        fresh = NULL;
    }
    if (rc == 0) {
        x->of = *c;
        x->of->n++;
        x->of->bytes += x->bytes;
        a->n++;
        a->bytes += x->bytes;
    }
    pthread_mutex_unlock(&a->lock);
    free(fresh);
    return rc;
}

int arrival_begin(struct http_request *r)
{
    struct gateway *g = r->server_user;
    const struct principal *who = r->who;
    const char *why = "memory";
    struct err e = {0};
    struct arrival *x = arena_alloc(r->arena, sizeof *x);
    if (x) *x = (struct arrival){.bytes = bytes_of(r)};
    if (!x) err_set(&e, ERR_NO_MEMORY, "no memory for the request");
    if (x && enter(g, who ? who->tenant : "", x, &why, &e) == 0) {
        r->arrival = x;
        return 0;
    }
    if (g->metrics) metric_add(g->metrics, GM_ARRIVING_REFUSED, (const char *[]){why}, 1);
    http_set_header(r, "Retry-After", "1");
    http_reply_error(r, &e);
    return -1;
}

void arrival_end(struct http_request *r)
{
    struct arrivals *a = &((struct gateway *)r->server_user)->arrivals;
    const struct arrival *x = r->arrival;
    struct crowd *over = NULL;
    r->arrival = NULL;
    pthread_mutex_lock(&a->lock);
    a->n--;
    a->bytes -= x->bytes;
    x->of->bytes -= x->bytes;
    if (--x->of->n == 0) {
        struct crowd **c = find(a, x->of->tenant);
        over = *c;
        *c = over->next;
    }
    pthread_mutex_unlock(&a->lock);
    free(over);
}

void arrivals_meter(struct arrivals *a, struct metrics *m)
{
    pthread_mutex_lock(&a->lock);
    int64_t n = a->n, bytes = a->bytes;
    pthread_mutex_unlock(&a->lock);
    metric_set(m, GM_ARRIVING, NULL, (double)n);
    metric_set(m, GM_ARRIVING_BYTES, NULL, (double)bytes);
}
