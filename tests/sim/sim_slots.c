/* sim_slots: adapters that are resident in one engine.
 *
 * Looked through from the first to the last: there are tens to some hundreds, and a step looks at none of them. */
#include "tests/sim/sim.h"
#include <stdlib.h>

int slots_init(struct slots *s, int cap, struct err *e)
{
    *s = (struct slots){.cap = cap, .v = calloc((size_t)cap, sizeof *s->v)};
    return s->v ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %d slots", cap);
}

void slots_close(struct slots *s)
{
    free(s->v);
    *s = (struct slots){0};
}

struct slot *slots_find(struct slots *s, int adapter)
{
    for (int i = 0; i < s->n; i++) {
        if (s->v[i].adapter != adapter) continue;
        s->v[i].used = ++s->clock;
        return &s->v[i];
    }
    return NULL;
}

struct slot *slots_take(struct slots *s, int adapter)
{
    struct slot *oldest = NULL;
    if (s->n < s->cap)
        oldest = &s->v[s->n++];
    else
        for (int i = 0; i < s->n; i++)
            if (s->v[i].holds == 0 && (!oldest || s->v[i].used < oldest->used)) oldest = &s->v[i];
    if (oldest) *oldest = (struct slot){.adapter = adapter, .used = ++s->clock};
    return oldest;
}
