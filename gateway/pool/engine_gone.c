/* engine_gone: counts by digest, in a table of its own because what an engine holds is forgotten when it leaves (see engine_gone.h).
 *
 * Digests are SHA-256, so their beginnings are as good as a hash and collide once in 2^36 pairs of the largest table; a count
 * would then be another's, too, which harms nobody. Open addressing, at most half full, nothing is ever taken out: the table
 * is bounded by GONE_MAX and lives as long as the engine. */
#include "gateway/pool/engine_gone.h"
#include <stdlib.h>

#define CAP_FIRST 64

static uint64_t key_of(const char *digest)
{
    uint64_t key = 0;
    for (int i = 0; i < 16 && digest[i]; i++) key = key << 4 | (uint64_t)(digest[i] <= '9' ? digest[i] - '0' : digest[i] - 'a' + 10);
    return key ? key : 1;
}

/* Its own, or the free one where it belongs. */
static struct gone_slot *find(struct gone_slot *slot, int cap, uint64_t key)
{
    uint64_t at = key;
    while (slot[at & (uint64_t)(cap - 1)].key && slot[at & (uint64_t)(cap - 1)].key != key) at++;
    return &slot[at & (uint64_t)(cap - 1)];
}

static void grow(struct gone *g)
{
    int cap = g->cap ? 2 * g->cap : CAP_FIRST;
    struct gone_slot *more = calloc((size_t)cap, sizeof *more);
    if (!more) return;
    for (int i = 0; i < g->cap; i++)
        if (g->slot[i].key) *find(more, cap, g->slot[i].key) = g->slot[i];
    free(g->slot);
    g->slot = more;
    g->cap = cap;
}

void gone_note(struct gone *g, const char *digest)
{
    uint64_t key = key_of(digest);
    g->total++;
    if (2 * (g->used + 1) > g->cap && g->used < GONE_MAX) grow(g);
    if (!g->cap) return;
    struct gone_slot *s = find(g->slot, g->cap, key);
    if (!s->key) {
        if (g->used >= GONE_MAX || 2 * (g->used + 1) > g->cap) return;
        s->key = key;
        g->used++;
    }
    s->n++;
}

int64_t gone_count(const struct gone *g, const char *digest)
{
    return g->cap ? find(g->slot, g->cap, key_of(digest))->n : 0;
}

void gone_close(struct gone *g)
{
    free(g->slot);
    *g = (struct gone){0};
}
