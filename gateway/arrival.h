/* Bodies that are on their way, from the end of a request's head to the end of its body: the limits of a tenant apply only
 * behind that, so here is what holds before.
 *
 *   connections   of one tenant at most a quarter of max_connections, and at least ARRIVING_LEAST: 429, and closed
 *   bytes         of bodies that are kept in memory: of all at most a quarter of the mark of memory (memory_high), and
 *                 ARRIVING_BYTES_MAX: 503; of one tenant a quarter of that: 429
 *
 * What is announced counts; of a body without a length, what its route takes. A single body passes whatever its size.
 * Requests of nobody (a body to /health, say) count together, as one tenant's. */
#pragma once
#include "base/http.h"
#include <pthread.h>
#include <stdint.h>

#define ARRIVING_LEAST 16
#define ARRIVING_BYTES_MAX ((int64_t)1 << 30)
#define ARRIVING_BUCKETS 256

struct gateway;
struct metrics;
struct crowd;

struct arrivals {
    pthread_mutex_t lock; /* covers the rest */
    struct crowd *bucket[ARRIVING_BUCKETS];
    int64_t n, bytes;
};

void arrivals_open(struct arrivals *a);

/* http_options.arrives and .arrived of the public listener. */
int arrival_begin(struct http_request *r);
void arrival_end(struct http_request *r);

void arrivals_meter(struct arrivals *a, struct metrics *m);
