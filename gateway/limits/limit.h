/* Limits: what a tenant, a key and an adapter may use, reserved before the work and settled after it (GATEWAY.md section 2).
 *
 * Counters stand in memory, for each subject that was seen: a sliding minute of requests and tokens, requests in flight,
 * tokens and money of the running day and month. A request asks all its subjects at once, in one order: it gets all it
 * asked for or nothing, and a refusal changes nothing. What was reserved is settled to what was used exactly once; what
 * was settled reaches the file in the settlement's own transaction, so that a restart begins where it ended: budgets
 * from budget_use and the open admissions, minutes from nothing.
 *
 * The sliding minute is a ring of tenths of a second. A tenth counts until the whole of it has left the window, so no 60
 * seconds ever hold more than the limit. Time is monotonic but for days and months, which are UTC. */
#pragma once
#include "gateway/auth/auth.h"
#include "gateway/db/db.h"

enum limit_kind {
    LIMIT_REQUESTS_MINUTE,
    LIMIT_TOKENS_MINUTE,
    LIMIT_CONCURRENT,
    LIMIT_TOKENS_DAY,
    LIMIT_TOKENS_MONTH,
    LIMIT_COST_DAY, /* nano-units */
    LIMIT_COST_MONTH,
    LIMIT_ADAPTERS, /* stored; checked by the registry's changes, not here */
    LIMIT_ADAPTER_BYTES,
    LIMIT_ADAPTER_RANK,
    LIMIT_PINNED,
    LIMIT_KINDS
};
extern const char *const limit_name[LIMIT_KINDS]; /* as in JSON and in the table */

static inline bool limit_is_budget(int kind)
{
    return kind >= LIMIT_TOKENS_DAY && kind <= LIMIT_COST_MONTH;
}

#define LIMIT_SUBJECTS 3 /* of a request: tenant, key, adapter */
#define LIMIT_SUBJECT_LEN 128

/* "tenant:ID", "key:ID", "adapter:TENANT ID/NAME" */
void limit_subject_tenant(char out[LIMIT_SUBJECT_LEN], const char *tenant);
void limit_subject_key(char out[LIMIT_SUBJECT_LEN], const char *key);
void limit_subject_adapter(char out[LIMIT_SUBJECT_LEN], const char *tenant, const char *adapter);

struct limits;

int limits_open(struct limits **out, struct db *d, struct err *e); /* after ledger_recover() */
void limits_close(struct limits *l);
int limits_reload(struct limits *l, struct err *e); /* all of the table, at a start: it would undo a change beside it */
/* A subject whose row a committed change of others wrote: in force when it returns, in the order of changes. Blocks. */
int limits_load(struct limits *l, const char *subject, struct err *e);

struct limit_ask {
    const struct principal *who;
    const char *adapter; /* name, "" for the base */
    int64_t tokens;      /* prompt estimate + max_tokens over all choices: never less than what will be settled */
    int64_t cost;        /* of these */
    int64_t wall_us;     /* when it began: the day and the month that it counts in; 0: now */
};

/* What a request holds. Zeroed: nothing. */
struct limit_ticket {
    struct limit_subject *of[LIMIT_SUBJECTS];
    int64_t tokens, cost;
    int64_t t_us[LIMIT_SUBJECTS]; /* monotonic: where in each one's minute it stands */
    int64_t wall_us; /* the request's start: what is settled counts in this day and month, whenever it ends */
    int day, month;
    bool held;
    bool left; /* no longer among the concurrent ones */
};

/* OpenAI's six headers, of the subject that is nearest to its limit; -1: no such limit, no header. */
struct limit_view {
    int64_t limit_requests, limit_tokens, remaining_requests, remaining_tokens;
    int64_t reset_requests_us, reset_tokens_us; /* until all is free again */
    int64_t retry_after_us;                     /* of a refusal: until the same request would pass; -1: never will */
    enum limit_kind refused;                    /* of a refusal: which limit, */
    const char *scope;                          /* and whose: "tenant", "key", "adapter" */
};

/* 0: held, to be settled. -1: ERR_RATE_LIMIT or ERR_QUOTA naming the limit and whose it is. *view is filled either way. Any
 * thread, no database access. */
int limit_admit(struct limits *l, const struct limit_ask *a, struct limit_ticket *t, struct limit_view *view,
                struct err *e);

/* Another adapter of the same tenant answers ("": the base): what is held counts there and no more where it was. -1:
 * ERR_RATE_LIMIT or ERR_QUOTA, that adapter's limits have no room for it, and nothing has changed. Any thread. */
int limit_move(struct limits *l, struct limit_ticket *t, const struct principal *who, const char *adapter,
               struct err *e);

/* The work is done and will not be settled above these: gives back the place among the concurrent ones and what was
 * reserved beyond, before the client sees the end and asks again. limit_settle() still follows. */
void limit_done(struct limits *l, struct limit_ticket *t, int64_t tokens, int64_t cost);

/* As if the request had never asked, for one that was stopped before it was recorded. */
void limit_release(struct limits *l, struct limit_ticket *t);

/* To what was used; 0 and 0 for a request that was refused later on. Exactly once for each admitted ticket; harmless for
 * one that holds nothing. */
void limit_settle(struct limits *l, struct limit_ticket *t, int64_t tokens, int64_t cost);

/* Inside the settlement's transaction: adds to budget_use of those of the three subjects that have limits, and an event
 * where a soft budget was passed for the first time in its period, or a hard one was spent. wall_us: the request's start. */
int limit_settle_run(struct db *d, sqlite3 *c, const struct principal *who, const char *adapter, int64_t wall_us,
                     int64_t tokens, int64_t cost, struct err *e);

/* What limit_settle_run() added for an adjustment is committed: on the writer's thread, in its order. May be negative. */
void limit_adjust(struct limits *l, const struct principal *who, const char *adapter, int64_t wall_us, int64_t tokens, int64_t cost);

/* A request was told for good that a budget is spent (ERR_QUOTA): the event "budget.hard" where it was not written in this
 * period. Any thread; the file gets it soon. */
void limit_refused(struct limits *l, const struct limit_ask *a, const struct limit_view *v);

/* What all subjects hold now: places among the concurrent requests, and what is reserved for these and for those that are not committed yet. All 0 where none is left:
 * else something leaked. Walks all subjects. */
struct limit_held {
    int64_t places, tokens, cost;
};
struct limit_held limit_all_held(struct limits *l);

/* The stored limit of a kind; -1: none. For what the registry checks. */
int64_t limit_value(struct limits *l, const char *subject, enum limit_kind k);

/* limits and use of a subject as JSON: {"limits":{..},"used":{..},"revision":N}; ERR_NOT_FOUND never: none is all null. */
struct json_t;
int limits_get(struct limits *l, const char *subject, struct json_t **out,
               struct err *e); /* blocks, like limits_put() */
/* Replaces the subject's limits by those in o (null or absent: none), where if_revision fits (gateway/api/revision.h). One transaction with its audit row; in force when it returns. */
struct actor;
int limits_put(struct limits *l, const struct actor *by, const char *subject, const struct json_t *o,
               int64_t if_revision, struct json_t **out, struct err *e);
