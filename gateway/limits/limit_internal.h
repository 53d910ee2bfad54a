/* What the parts of gateway/limit share: limit.c (admission), limit_text.c (words and numbers for people), limit_store.c
 * (rows), limit_budget.c (the settlement's transaction). Nobody else includes it. */
#pragma once
#include "gateway/limits/limit.h"
#include "gateway/limits/limit_window.h"
#include <pthread.h>

#define LIMIT_ADMITTED (LIMIT_COST_MONTH + 1) /* kinds before this are checked at admission */

enum limit_span { LIMIT_DAY, LIMIT_MONTH, LIMIT_SPANS };

struct limit_use {
    int64_t tokens, cost;
};

/* A day or month of a subject. `used` is right where the subject has a row; `held` always. */
struct limit_period {
    int id; /* days since 1970, or year * 12 + month */
    struct limit_use used, held;
    unsigned refused; /* a bit for each kind of budget that a request was refused for: that was handed to the file */
};

struct limit_subject {
    struct limit_subject *next;
    uint64_t hash;
    int refs;                 /* tickets that point here */
    bool stored;              /* has a row in the table */
    int64_t max[LIMIT_KINDS]; /* -1: none */
    int64_t concurrent;
    struct limit_window minute;
    struct limit_period now[LIMIT_SPANS],
        before[LIMIT_SPANS]; /* before: of a clock that was set back, or of tickets that ended late */
    char name[];
};

struct limits {
    struct db *db;
    int64_t (*mono_us)(void), (*wall_us)(void); /* the clock's, but for tests */
    uint64_t seed;
    pthread_mutex_t
        lock; /* covers the rest; held for less than a microsecond, but for a reload or a table that grows */
    struct limit_subject **bucket; /* [nbuckets], a power of two */
    uint32_t nbuckets, nsubjects, sweep;
    int64_t month_from_us, month_to_us; /* of the last look at the calendar */
    int month;
};

static inline enum limit_span limit_span_of(int kind)
{
    return kind == LIMIT_TOKENS_MONTH || kind == LIMIT_COST_MONTH ? LIMIT_MONTH : LIMIT_DAY;
}

static inline bool limit_is_cost(int kind)
{
    return kind == LIMIT_COST_DAY || kind == LIMIT_COST_MONTH;
}

/* limit.c; under the lock. */
struct limit_subject *limit_find(struct limits *l, const char *name, bool make); /* NULL: none, or no memory */
struct limit_period *limit_period_now(struct limit_subject *s, enum limit_span span, int id);

/* limit_text.c: UTC. */
int limit_day(int64_t wall_us);
int limit_month(int64_t wall_us);
int64_t limit_period_start(enum limit_span span, int id); /* Unix seconds; that of id + 1 is the end */

struct limit_refusal {
    enum limit_kind kind;
    int64_t max, used, held, ask;
    int64_t wait_us;          /* -1: for ever */
    const char *scope, *name; /* "tenant", "acme" */
};
/* Always -1. */
int limit_refuse(const struct limit_refusal *r, struct err *e);
