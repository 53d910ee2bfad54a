/* stats_tally: sums by name, in a table that grows (see stats.h). The texts are copied into an arena of its own. One thread. */
#include "base/arena.h"
#include "gateway/stats/stats.h"
#include <stdlib.h>
#include <string.h>

#define TALLY_BYTES (64u << 20) /* of names */
#define FIRST_SLOTS 256         /* a power of two */

int stats_tally_init(struct stats_tally *t, struct err *e)
{
    *t = (struct stats_tally){.arena = arena_new(TALLY_BYTES), .slot = calloc(FIRST_SLOTS, sizeof(int)), .slots = FIRST_SLOTS};
    if (t->arena && t->slot) return 0;
    stats_tally_close(t);
    return err_set(e, ERR_NO_MEMORY, "no memory for sums");
}

void stats_tally_close(struct stats_tally *t)
{
    free(t->item);
    free(t->slot);
    arena_free(t->arena);
    *t = (struct stats_tally){0};
}

static uint32_t hash_text(uint32_t h, const char *s)
{
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h * 16777619u;
}

static int *find(const struct stats_tally *t, const char *owner, const char *name, int64_t version)
{
    uint32_t h = hash_text(hash_text(2166136261u ^ (uint32_t)version, name), owner);
    for (uint32_t i = h;; i++) {
        int *s = &t->slot[i & (uint32_t)(t->slots - 1)];
        const struct stats_item *it = *s ? &t->item[*s - 1] : NULL;
        if (!it || (it->version == version && strcmp(it->name, name) == 0 && strcmp(it->owner, owner) == 0)) return s;
    }
}

static int grow(struct stats_tally *t, struct err *e)
{
    int cap = t->slots / 2; /* half of the slots stay free */
    if (t->n < t->cap) return 0;
    if (t->n >= STATS_ITEMS_MAX) return err_set(e, ERR_INVALID, "More than %d names; ask for a shorter time or one tenant.", STATS_ITEMS_MAX);
    if (t->cap == cap) cap *= 2;
    struct stats_item *more = realloc(t->item, (size_t)cap * sizeof *more);
    int *slot = more ? calloc((size_t)cap * 2, sizeof *slot) : NULL;
    if (more) t->item = more;
    if (!slot) return err_set(e, ERR_NO_MEMORY, "no memory for sums");
    free(t->slot);
    t->slot = slot;
    t->slots = 2 * cap;
    t->cap = cap;
    for (int i = 0; i < t->n; i++) *find(t, t->item[i].owner, t->item[i].name, t->item[i].version) = i + 1;
    return 0;
}

int stats_tally_add(struct stats_tally *t, const char *owner, const char *name, int64_t version, const struct stats_sums *s, struct err *e)
{
    int *slot = find(t, owner, name, version);
    if (!*slot) {
        if (grow(t, e)) return -1;
        struct stats_item it = {arena_strdup(t->arena, owner), arena_strdup(t->arena, name), version, {{0}}};
        if (!it.owner || !it.name) return err_set(e, ERR_NO_MEMORY, "no memory for names");
        t->item[t->n++] = it;
        slot = find(t, owner, name, version);
        *slot = t->n;
    }
    stats_add(&t->item[*slot - 1].sums, s);
    return 0;
}

static int order(const void *a, const void *b, void *u)
{
    const struct stats_item *x = a, *y = b;
    enum stats_measure m = *(enum stats_measure *)u;
    int64_t vx = stats_measured(&x->sums, m), vy = stats_measured(&y->sums, m);
    if (vx == vy) vx = x->sums.v[SUM_REQUESTS], vy = y->sums.v[SUM_REQUESTS];
    if (vx != vy) return vx < vy ? 1 : -1;
    int d = strcmp(x->name, y->name);
    if (!d) d = strcmp(x->owner, y->owner);
    return d ? d : (x->version > y->version) - (x->version < y->version);
}

void stats_tally_sort(struct stats_tally *t, enum stats_measure m)
{
    if (t->n) qsort_r(t->item, (size_t)t->n, sizeof *t->item, order, &m);
    t->slots = 0; /* places have changed: no more is added */
}
