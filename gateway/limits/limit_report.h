/* Budgets as they stand: of whom, how much is used and held, how it went since the period's beginning, and where it will be
 * at its end. */
#pragma once
#include "gateway/limits/limit.h"

#define BUDGET_ROWS_MAX 100000
#define BUDGET_POINTS_MAX 32 /* hours of a day, days of a month */

struct budget {
    char subject[LIMIT_SUBJECT_LEN];
    char tenant_id[UUID_LEN], tenant[NAME_MAX_LEN + 1], key[KEY_ID_LEN], adapter[NAME_MAX_LEN + 1]; /* key, adapter: "" */
    enum limit_kind kind;     /* one of the four budgets */
    int64_t start, end;       /* the running period, Unix seconds */
    int64_t hard, soft;       /* -1: none */
    int64_t used, held;       /* tokens or nano-units; held by requests under way */
    double share;             /* used of the hard one, else of the soft one; the order of a list */
};

/* All that have a budget, of one tenant (id) or of everybody (NULL), those nearest to their end first; *out is malloc'ed. */
int budgets_read(struct limits *l, const char *tenant, int64_t now_s, struct budget **out, int *n, struct err *e);
/* a before b in the list's order. */
bool budget_before(const struct budget *a, const struct budget *b);

/* Sums from the period's start on, by the hour of a day (of a tenant; else by the day) or the day of a month, and the forecast. */
struct budget_course {
    int n;
    int64_t t[BUDGET_POINTS_MAX], sum[BUDGET_POINTS_MAX]; /* start of the point; sum up to its end */
    int64_t forecast;     /* at the period's end */
    int64_t exhausted_at; /* Unix seconds when the hard one was or will be spent; 0: not in this period */
};
/* The forecast goes on as in the last day (of a daily budget) or the last seven (of a monthly one). */
int budget_course(struct limits *l, const struct budget *b, int64_t now_s, struct budget_course *out, struct err *e);
