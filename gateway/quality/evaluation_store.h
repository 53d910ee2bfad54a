/* Scores of answers in the database: a row for each, for evaluation_days and EVALUATION_ROWS_MAX at most, and sums by the hour that stay.
 *
 * Neither holds a word of prompts or answers: ids, names, numbers, and why a rule was not met. */
#pragma once
#include "gateway/ledger/ledger.h"
#include "gateway/quality/rule.h"

#define EVALUATION_ROWS_MAX 1000000 /* of all tenants; the oldest go first */
#define EVALUATION_SCORES_MAX (RULES_MAX + 8) /* of one answer */

struct evaluated {
    char rule[RULE_NAME_MAX + 1], kind[16];
    struct verdict v;
    char judge[UUID_LEN]; /* the judge's own usage row; "": no judge */
};

/* All scores of one answer. */
struct evaluation {
    int64_t t; /* wall us: when the answer was complete */
    char request[UUID_LEN], tenant[UUID_LEN], tenant_name[NAME_MAX_LEN + 1], alias[NAME_MAX_LEN + 1];
    struct target what;
    int n;
    struct evaluated score[EVALUATION_SCORES_MAX];
};

/* NULL: no room. */
struct evaluated *evaluation_add(struct evaluation *x, const char *rule, const char *kind);
/* Copies *x to the writer. lost(u) is called, on any thread, where it can't be written; may be NULL. */
void evaluation_write(struct db *d, const struct evaluation *x, void (*lost)(void *u), void *u);
/* In a job of the writer: some of the rows that are older than `before` (wall us) or too many. */
void evaluation_trim(struct db *d, int64_t before);
