/* What the blame*.c files share. Not for others. Everything here is covered by blame.lock, but for what says otherwise. */
#pragma once
#include "gateway/proxy/blame.h"
#include <pthread.h>
#include <stdatomic.h>

#define ENGINE_NAME 64
#define BLAME_ENGINES 128 /* more than a pool has; one without a seat makes room */
#define BLAME_TENANTS 256 /* that were at crashes */

struct name {
    bool adapter; /* of an adapter, else of a request */
    struct blame_who who;
    int strikes;
    int64_t last_us, since_us, until_us; /* of the last strike; refused since and until, 0: not refused */
    uint64_t crash;                      /* of the last strike */
};

struct loss {
    char engine[ENGINE_NAME];
    uint64_t life;
    struct blame_who who;
    bool trial;
    bool left; /* its client went away, or its time was over: the engine may have been at it still */
    int64_t at_us;
};

/* A tenant that was at crashes which nobody was found guilty of. */
struct suspect {
    struct blame_who who;            /* .all */
    int64_t at_us[BLAME_ACCUSING];   /* the last of them, in a ring */
    int at, crashes;                 /* crashes: all of them */
    int trials, acquittals;          /* completed trials since the last acquittal; those */
    int64_t last_us, since_us, until_us; /* as of a name */
    uint64_t crash;                  /* likewise */
};

/* Who is with an engine, and the trial there: it waits for the others to leave (began_us 0), or runs. */
struct blame_engine {
    char name[ENGINE_NAME];
    struct blame_seat *first;
    struct blame_seat *trial; /* who is on it, or waits for it; NULL: nobody */
    int64_t since_us, began_us;
    int64_t free_us;                          /* no other trial before: the others go first */
    char last[UUID_LEN], wants[UUID_LEN];     /* whose trial was the last; who was turned away, */
    int64_t wants_us;                         /* when */
    int64_t answered_us;                      /* it came to an end with some request */
};

struct blame {
    struct blame_options o;
    pthread_mutex_t telling, lock;
    bool stopped;           /* under `telling` */
    _Atomic int nnames;     /* read without the lock, too */
    _Atomic int nsuspects;  /* likewise */
    struct name name[BLAME_NAMES];
    struct suspect suspect[BLAME_TENANTS];
    int nlosses;
    struct loss loss[BLAME_LOSSES];
    uint64_t crashes;
    int nengines;
    struct blame_engine engine[BLAME_ENGINES];
    char recent[UUID_LEN]; /* whose request was sent last, */
    int64_t company_us;    /* and when it was another's before; 0: never */
};

/* blame.c */
void names_forget(struct blame *b, int64_t now); /* those that are old, tenants too */
/* Of one that left: had the engine let go of it by then? */
bool loss_was_gone(const struct blame *b, const struct loss *l, int64_t crash);
/* The adapter or the request of this one. */
bool name_is_accused(struct blame *b, const struct blame_who *w);

/* blame_tenant.c */
void suspects_forget(struct blame *b, int64_t now);
struct suspect *suspect_find(struct blame *b, const char *tenant);
void suspect_strike(struct blame *b, const struct blame_who *w, int64_t now);
bool suspect_is_accused(struct blame *b, const char *tenant, int64_t now);
void suspect_convict(struct blame *b, const char *tenant, int64_t now, int64_t refuse_us, struct blame_refused *out);
void suspect_won(struct blame *b, const char *tenant, int64_t now); /* a trial */
void suspect_drop(struct blame *b, struct suspect *s);

/* blame_trial.c */
int64_t engine_answered(const struct blame *b, const char *engine);
bool trial_runs(struct blame *b, const struct blame_seat *seat, const char *engine, int64_t now);
void seat_leave(struct blame *b, struct blame_seat *seat, int64_t now);
