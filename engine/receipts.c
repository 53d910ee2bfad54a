/* receipts: a ring of the last requests with a hash index beside it.
 *
 *     ring   [r17][r18][r2 ]...[r16]     next: where the next new request goes, over the oldest
 *     index  [ - ][ 5 ][ - ][ 0 ]...     open addressing, linear probing, at most half full; a cell names a place in the ring
 *
 * An entry keeps its place in the ring while its request runs, so an update is one probe and no shifting. Removing closes
 * the gap by moving later cells of the run back (Knuth, vol. 3, 6.4, algorithm R), so there are no tombstones and a probe
 * never gets longer with age. Ids come from the gateway, but hashing is keyed at start all the same: over TCP the other
 * side is whoever holds the token.
 *
 * Nothing is allocated after receipts_new(). One lock covers all; it is held for a probe and a copy. Called by HTTP workers
 * and the step thread. */
#include "engine/receipts.h"
#include "base/sha256.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define EMPTY UINT32_MAX

const char *const receipt_state_name[] = {"running", "completed", "cancelled", "error"};

struct receipts {
    pthread_mutex_t lock;
    uint32_t capacity, next, cells; /* cells: a power of two, at least twice the capacity */
    int64_t ttl_us;
    uint64_t key;
    struct receipt *ring; /* [capacity]; id "" where unused */
    uint32_t *index;      /* [cells] */
};

struct receipts *receipts_new(uint32_t capacity, int64_t ttl_us)
{
    struct receipts *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->capacity = capacity;
    r->ttl_us = ttl_us;
    for (r->cells = 4; r->cells < 2 * capacity;) r->cells *= 2;
    r->ring = calloc(capacity, sizeof *r->ring);
    r->index = malloc(r->cells * sizeof *r->index);
    if (!r->ring || !r->index || random_bytes(&r->key, sizeof r->key)) {
        free(r->ring);
        free(r->index);
        free(r);
        return NULL;
    }
    memset(r->index, 0xff, r->cells * sizeof *r->index);
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void receipts_free(struct receipts *r)
{
    if (!r) return;
    pthread_mutex_destroy(&r->lock);
    free(r->ring);
    free(r->index);
    free(r);
}

/* FNV-1a with a secret start, then a multiply and shift to spread the high bits. */
static uint32_t home_of(const struct receipts *r, const char *id)
{
    uint64_t h = r->key ^ 0xcbf29ce484222325u;
    for (; *id; id++) h = (h ^ (unsigned char)*id) * 0x100000001b3u;
    h ^= h >> 32;
    return (uint32_t)(h * 0x9e3779b97f4a7c15u >> 32) & (r->cells - 1);
}

/* The cell that names `id`, or the empty one where it would go. */
static uint32_t probe(const struct receipts *r, const char *id)
{
    uint32_t c = home_of(r, id);
    while (r->index[c] != EMPTY && strcmp(r->ring[r->index[c]].id, id)) c = (c + 1) & (r->cells - 1);
    return c;
}

static void index_remove(struct receipts *r, uint32_t hole)
{
    uint32_t mask = r->cells - 1;
    for (uint32_t c = (hole + 1) & mask; r->index[c] != EMPTY; c = (c + 1) & mask) {
        uint32_t home = home_of(r, r->ring[r->index[c]].id);
        if (((c - home) & mask) < ((c - hole) & mask)) continue; /* its run begins after the hole */
        r->index[hole] = r->index[c];
        hole = c;
    }
    r->index[hole] = EMPTY;
}

static struct receipt *claim(struct receipts *r, const char *id)
{
    struct receipt *place = &r->ring[r->next];
    if (place->id[0]) index_remove(r, probe(r, place->id));
    r->index[probe(r, id)] = r->next;
    r->next = (r->next + 1) % r->capacity;
    return place;
}

void receipts_put(struct receipts *r, const struct receipt *what, int64_t now_us)
{
    pthread_mutex_lock(&r->lock);
    uint32_t at = r->index[probe(r, what->id)];
    struct receipt *place = at != EMPTY ? &r->ring[at] : claim(r, what->id);
    *place = *what;
    place->t_us = now_us;
    pthread_mutex_unlock(&r->lock);
}

int receipts_get(struct receipts *r, const char *id, int64_t now_us, struct receipt *out, struct err *e)
{
    pthread_mutex_lock(&r->lock);
    uint32_t at = r->index[probe(r, id)];
    bool found = at != EMPTY && now_us - r->ring[at].t_us <= r->ttl_us;
    if (found) *out = r->ring[at];
    pthread_mutex_unlock(&r->lock);
    return found ? 0 : err_set(e, ERR_NOT_FOUND, "no receipt of this request");
}
