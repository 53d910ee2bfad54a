/* Place: which of several engines gets a request, and when one that fails gets none. Arithmetic only: no clock, no
 * locks, no engines; the pool asks it under its own lock.
 *
 * Adapters go by weighted rendezvous hashing: each engine scores -weight / ln(u), u uniform from the hashes of the digest
 * and the engine's name, and the highest score wins (Thaler and Ravishankar 1998; the weighted form by Schindelhauer and
 * Schomaker 2005). An engine that comes or goes moves its own share of the adapters and no other. On top of it, loads are
 * bounded (Mirrokni, Thorup and Zadimoghaddam 2018): an engine above LOAD_BOUND times its share, and what chance adds to
 * it, passes the request on to the next in the adapter's order, so that what spills over spills to the same few. Adapters
 * that have many requests at a time share more engines. docs/PLACEMENT.md has what this brings at 200 engines. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define PLACE_MAX 256   /* engines looked at */
#define LOAD_BOUND 1.25 /* times the share of an engine */
#define LOAD_CHANCE 1.0 /* times the square root of the share: independent requests differ by so much by themselves */
#define LOAD_FLOOR 4    /* requests at a time that never count as overload: a load of an adapter costs more */
#define HOT_SHARE 0.25  /* of an engine's share: so much of one adapter's requests takes one engine more */
#define HOT_LEAST 2     /* and so many at least */
#define HOT_MORE 12     /* engines that a hot adapter may choose from beyond those it takes */
#define HOT_PART 4      /* and no more than such a part of all */
#define EJECT_LOSSES 3  /* in a row */
#define EJECT_FIRST_US 5000000
#define EJECT_MAX_US 60000000
#define EJECT_CALM_US 60000000 /* without another ejection the next one is a first one again */
#define SLOW_START_US 10000000
#define SLOW_START_LEAST 0.1

/* One engine that may be picked. */
struct place {
    uint64_t hash; /* place_hash() of its name */
    double weight; /* of place_weight(), above 0 */
    int capacity;  /* requests at a time, above 0 */
    int in_flight; /* ours there */
    int queue;     /* that wait there, whoever sent them */
};

uint64_t place_hash(const char *text);

/* The order of n engines for a key, best first, into order[]. */
void place_order(const struct place *v, int n, uint64_t key, int order[PLACE_MAX]);

/* For an adapter: index of the engine; hot: requests of this adapter in flight everywhere. n is at least 1. */
int place_adapter(const struct place *v, int n, uint64_t key, int hot);

/* For the base alone: the less loaded of two that `random` chooses by their shares. */
int place_base(const struct place *v, int n, uint64_t random);

/* May it have one more within the bound, beside the others? */
bool place_within_bound(const struct place *v, int n, int i);

/* How an engine has fared: a circuit breaker for each.
 *
 *     DOWN --place_up--> slow start --SLOW_START_US--> full weight          closed
 *       ^                    ^                             |
 *       |           a request that it serves    EJECT_LOSSES losses in a row
 *       |                    |                             v
 *       |                  TRIAL <--its time is over--- EJECTED             half open, open
 *       |                    `------one loss------------->^
 *       +--place_down-- from any
 *
 * On trial it has one request at a time, where others can have the rest.
 *
 * Zeroed: down. */
struct place_health {
    bool up;
    bool trial;            /* half open */
    int losses;            /* in a row */
    int ejections;         /* since it was calm */
    int64_t ejected_until; /* us; 0: not ejected */
    int64_t ejected_at;
    int64_t back_at; /* begin of the slow start */
};

void place_up(struct place_health *h, int64_t now_us);
void place_down(struct place_health *h);
void place_won(struct place_health *h);
bool place_lost(struct place_health *h, int64_t now_us); /* true: ejected by this one */
/* Ends an ejection that is over: true once, when it comes back by this call. */
bool place_returns(struct place_health *h, int64_t now_us);
bool place_ejected(const struct place_health *h);
bool place_on_trial(const struct place_health *h);
double place_weight(const struct place_health *h, int64_t now_us); /* SLOW_START_LEAST to 1 */
