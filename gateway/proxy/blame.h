/* Blame: which request, or which adapter, takes engines down (GATEWAY.md section 5).
 *
 * When an engine crashes, everything that it served is under suspicion, and nearly all of it is innocent. Nobody can accuse another one for good: a
 * name is guilty only by a crash at which nothing was lost but its own tenant's. So who was there at two crashes, and came to no end in between, is
 * served alone from then on, until it completes or takes the engine down once more, and then there is no doubt:
 *
 *     unknown --at a crash--> suspect --at another one, its tenant's alone, alone of its like--> guilty: refused
 *        ^                      |  `----at another one, beside others---> accused: on trial, alone on its engine (blame_trial.c) --a crash--> guilty
 *        `--completed, or old---+---------------------------------------------'
 *
 * A suspect is served like everybody else, so a first crash costs the innocent nothing but what they had under way. A name is an adapter's version,
 * where one answers alone, and the SHA-256 of a request's body; a crash that both were at counts for both. And a tenant is one, for who has a new
 * name each time: after BLAME_ACCUSING crashes that have no name it is tried in the same way (blame_tenant.c).
 *
 * No clock, no engine, no database: the caller says the time, hears who is guilty, and at its start says who was (blame_restore()). */
#pragma once
#include "base/err.h"
#include "base/sha256.h"
#include "gateway/auth/auth.h"

#define BLAME_CRASHES 2                  /* that a name may be at */
#define BLAME_MEMORY_US (600 * 1000000LL) /* a suspicion is forgotten after */
#define BLAME_TRIAL_US (10 * 1000000LL)   /* one on trial keeps the others waiting for at most; as long, before, it waits for them to leave */
#define BLAME_LINGER_US (2 * 1000000LL)   /* an engine may be at a request that its client left for */
#define BLAME_HANG_US (60 * 1000000LL)    /* and, where it has answered nobody since, hang over it for */
#define BLAME_ACCUSING 3                  /* crashes without a name that accuse a tenant */
#define BLAME_LATE_US (120 * 1000000LL)   /* a loss is laid to a crash that is known of this much later: one at an address has to come back first */
#define BLAME_NAMES 1024
#define BLAME_LOSSES 1024
#define BLAME_SHARE 128 /* of either, a tenant's: its own oldest makes room */

struct blame;
struct blame_engine;
struct page;
struct json_t;

struct blame_who {
    char tenant[UUID_LEN], tenant_name[NAME_MAX_LEN + 1], model[2 * NAME_MAX_LEN];
    char adapter[NAME_MAX_LEN + 1]; /* "": none that could be guilty alone */
    int version;
    char request[SHA256_HEX]; /* "": none (a self-test) */
    bool all; /* the tenant itself: request begins with its id in quarantine, and that is its own without hyphens */
};

/* One request's place on an engine, in its owner's memory, zeroed at first; all but that is blame's. */
struct blame_seat {
    struct blame_seat *prev, *next;
    struct blame_engine *at;
    bool tried; /* it began alone */
    char tenant[UUID_LEN];
};

#define BLAME_ID 33 /* with the NUL: the first half of the request's digest, or a tenant's own id */

/* A request, or a tenant, that is refused. Times as the caller's clock has them. */
struct blame_refused {
    struct blame_who who;
    char id[BLAME_ID];
    int crashes;
    int64_t since_us, until_us;
};

struct blame_options {
    /* Not under the lock; a call at a time. */
    void (*adapter)(void *u, const struct blame_who *who, int crashes);
    void (*request)(void *u, const struct blame_refused *r);
    void (*tenant)(void *u, const struct blame_refused *r); /* all of its requests are */
    void *user;
};

int blame_open(struct blame **out, const struct blame_options *o, struct err *e);
void blame_stop(struct blame *b); /* from its return on nobody is told of anything */
void blame_close(struct blame *b);
/* It was found guilty before this start; id is not looked at. */
void blame_restore(struct blame *b, const struct blame_refused *r);

bool blame_quiet(struct blame *b); /* nobody is under suspicion: no name has to be computed; no lock */

/* May this one go to that engine now? true: it is there until blame_leave(). false: not now, for the sake of a trial, its own or another's; ask again
 * soon, there or elsewhere. who->request may be "" while blame_quiet(). */
bool blame_enter(struct blame *b, struct blame_seat *seat, const char *engine, const struct blame_who *who, int64_t now_us);
/* Harmless where it is not there; it waits for no trial any more. answered: the engine came to an end with it, so it lives. */
void blame_leave(struct blame *b, struct blame_seat *seat, bool answered, int64_t now_us);
void blame_won(struct blame *b, const struct blame_seat *seat, const struct blame_who *who, int64_t now_us); /* it completed; before it leaves */
/* Nobody waits for its end any more, but the engine may be at it still: by a crash soon after it is among the losses. */
void blame_left(struct blame *b, const char *engine, uint64_t life, const struct blame_who *who, int64_t now_us);
/* The engine was lost with this one, in its life-th life. It has left. seat: or NULL. */
void blame_lost(struct blame *b, struct blame_seat *seat, const char *engine, uint64_t life, const struct blame_who *who, int64_t now_us);
/* That life is over, and all that was lost with it was told. refuse_us: how long a guilty request is refused. */
void blame_end(struct blame *b, const char *engine, uint64_t life, bool crashed, int64_t now_us, int64_t refuse_us);

/* ERR_QUARANTINED with the id and how long still; ERR_TENANT_QUARANTINED: all of the tenant's are. */
int blame_check(struct blame *b, const char *tenant, const char *request, int64_t now_us, struct err *e);

/* Refused requests and tenants by id, of one tenant or (NULL) of all. wall_us: the time of day, which now_us is. */
int blame_list(struct blame *b, const char *tenant, const struct page *p, int64_t now_us, int64_t wall_us, struct json_t *list, bool *more, struct err *e);
int blame_count(struct blame *b, const char *tenant, int64_t now_us); /* how many those are */
/* ERR_NOT_FOUND; ERR_FORBIDDEN: a tenant does not lift its own. */
int blame_find(struct blame *b, const char *tenant, const char *id, int64_t now_us, struct blame_who *out, struct err *e);
void blame_lift(struct blame *b, const char *id);
