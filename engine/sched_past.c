/* sched_past: what was answered before, to guess from.
 *
 * Idea: answers under one adapter resemble each other (the keys of a JSON object, the beginning of a query), much more than an answer
 * resembles itself. So the last answers are kept, with the end of their prompts, per salt and adapters: the same bounds within which
 * prefixes are shared, so that nothing can be learnt from a guess that the prefix cache would not tell.
 *
 * Bounded: PASTS salts and adapters, the longest unused gives way; of each the last TOKENS, of which the older half goes when they are full. An
 * END stands between two answers.
 *
 * Step thread only. */
#include "engine/sched_impl.h"
#include <stdlib.h>
#include <string.h>

#define PASTS 64
#define TOKENS 4096
#define END (-1)

struct past {
    struct kv_key who;
    int32_t *ids; /* [TOKENS], n of them; NULL: unused */
    int n;
    uint64_t used;
};

struct pasts {
    struct past of[PASTS];
    uint64_t clock;
};

int pasts_new(struct pasts **out, struct err *e)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for answers to guess from");
}

void pasts_free(struct pasts *p)
{
    for (int i = 0; p && i < PASTS; i++) free(p->of[i].ids);
    free(p);
}

static struct kv_key who_is(const struct gen *g)
{
    struct kv_key k;
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, &g->root, sizeof g->root);
    for (int i = 0; i < g->npins; i++) {
        sha256_add(&h, g->pin[i].digest, sizeof g->pin[i].digest);
        sha256_add(&h, &g->pin[i].weight, sizeof g->pin[i].weight);
    }
    sha256_end(&h, k.b);
    return k;
}

static struct past *find(struct pasts *p, const struct kv_key *who)
{
    for (int i = 0; i < PASTS; i++)
        if (p->of[i].ids && memcmp(&p->of[i].who, who, sizeof *who) == 0) return &p->of[i];
    return NULL;
}

const int32_t *pasts_of(struct pasts *p, struct gen *g, int *n)
{
    if (!g->spec.named) {
        g->spec.who = who_is(g);
        g->spec.named = true;
    }
    struct past *a = find(p, &g->spec.who);
    if (!a) return NULL;
    a->used = ++p->clock;
    *n = a->n;
    return a->ids;
}

/* The place of one that has none yet; NULL: no memory, and nothing is kept. */
static struct past *take(struct pasts *p, const struct kv_key *who)
{
    struct past *oldest = &p->of[0];
    for (int i = 1; i < PASTS; i++)
        if (p->of[i].used < oldest->used) oldest = &p->of[i];
    if (!oldest->ids && !(oldest->ids = malloc(TOKENS * sizeof *oldest->ids))) return NULL;
    oldest->who = *who;
    oldest->n = 0;
    return oldest;
}

void pasts_keep(struct pasts *p, const struct gen *g)
{
    struct kv_key who = who_is(g);
    int before = g->nprompt < SPEC_GRAM ? g->nprompt : SPEC_GRAM, first = g->nprompt - before, n = g->nids - first;
    if (g->nout == 0) return;
    struct past *a = find(p, &who);
    if (!a && !(a = take(p, &who))) return;
    if (n > TOKENS / 2 - 1) n = TOKENS / 2 - 1;
    if (a->n + n + 1 > TOKENS) {
        a->n -= TOKENS / 2;
        memmove(a->ids, a->ids + TOKENS / 2, (size_t)a->n * sizeof *a->ids);
    }
    memcpy(a->ids + a->n, g->ids + first, (size_t)n * sizeof *a->ids);
    a->n += n;
    a->ids[a->n++] = END;
    a->used = ++p->clock;
}
