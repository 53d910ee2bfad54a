/* sim_policy: which engine gets a request, by several rules that see the same.
 *
 * All see what gateway/pool/pool.c shows to place.c: engines that are not full, what this gateway has in flight there, and
 * what waits there as of the last look. Only `shipped` is what ships. */
#include "tests/sim/sim.h"
#include <stdlib.h>
#include <string.h>

static int pick_shipped(struct router *r, const struct place *v, int n, int adapter)
{
    return place_adapter(v, n, r->trace->key[adapter], r->hot[adapter]);
}

/* Rendezvous alone, whatever the load. */
static int pick_hash(struct router *r, const struct place *v, int n, int adapter)
{
    int order[PLACE_MAX];
    place_order(v, n, r->trace->key[adapter], order);
    return order[0];
}

static int pick_random(struct router *r, const struct place *v, int n, int adapter)
{
    (void)v;
    (void)adapter;
    return (int)(chance_next(&r->seed) % (uint64_t)n);
}

/* Of equals one by chance, or the first engines would have the most. */
static int pick_least(struct router *r, const struct place *v, int n, int adapter)
{
    int best = -1, equal = 0;
    (void)adapter;
    for (int i = 0; i < n; i++) {
        int mine = v[i].in_flight + v[i].queue, least = best < 0 ? mine + 1 : v[best].in_flight + v[best].queue;
        if (mine > least) continue;
        equal = mine < least ? 1 : equal + 1;
        if (mine < least || chance_next(&r->seed) % (uint64_t)equal == 0) best = i;
    }
    return best;
}

static int pick_turn(struct router *r, const struct place *v, int n, int adapter)
{
    (void)v;
    (void)adapter;
    return (int)(r->turn++ % (uint64_t)n);
}

const struct policy policies[] = {
    {"shipped", pick_shipped, "gateway/pool/place.c: rendezvous, loads bounded, hot adapters spread"},
    {"hash", pick_hash, "rendezvous alone"},
    {"least-loaded", pick_least, "fewest in flight and waiting"},
    {"random", pick_random, "any"},
    {"round-robin", pick_turn, "the next"},
};
const int npolicies = sizeof policies / sizeof *policies;

const struct policy *policy_find(const char *name)
{
    for (int i = 0; i < npolicies; i++)
        if (strcmp(policies[i].name, name) == 0) return &policies[i];
    return NULL;
}

/* pool.c's sift: engines at their capacity are no candidates. */
static int pick_not_full(struct router *r, const struct policy *p, int adapter)
{
    struct place v[PLACE_MAX];
    int of[PLACE_MAX], n = 0;
    if (r->nfull == 0) return p->pick(r, r->v, r->n, adapter);
    for (int i = 0; i < r->n; i++) {
        if (r->v[i].in_flight >= r->v[i].capacity) continue;
        of[n] = i;
        v[n++] = r->v[i];
    }
    return n ? of[p->pick(r, v, n, adapter)] : ENGINE_NONE;
}

int router_pick(struct router *r, const struct policy *p, int adapter)
{
    int i = pick_not_full(r, p, adapter);
    if (i == ENGINE_NONE) return i;
    r->hot[adapter]++;
    r->nfull += ++r->v[i].in_flight == r->v[i].capacity;
    return i;
}

void router_end(struct router *r, int engine, int adapter)
{
    r->hot[adapter]--;
    r->nfull -= r->v[engine].in_flight-- == r->v[engine].capacity;
}
