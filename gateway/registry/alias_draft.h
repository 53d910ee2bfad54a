/* What the body of an alias says, read and checked as far as it goes without the registry (alias_change.c has the rest). Pure functions over JSON. */
#pragma once
#include "gateway/registry/alias.h"
#include <jansson.h>

struct draft_target {
    const char *adapter, *base;
    int64_t version, weight;
};

/* Texts are the body's. */
struct draft {
    enum alias_policy policy;
    enum alias_sticky sticky;
    const char *prefix;
    json_t *part[ALIAS_PARTS]; /* its own; NULL: not said */
    int n;
    struct draft_target target[ALIAS_TARGETS];
};

/* The names of a body's fields, NULL behind the last. */
#define DRAFT_FIELDS (4 + ALIAS_PARTS)
void draft_fields(const char *names[DRAFT_FIELDS + 1]);

/* ERR_INVALID and ERR_MISSING name the field; on failure there is nothing to close. */
int draft_read(const json_t *body, struct draft *d, struct err *e);
void draft_close(struct draft *d);

/* With all its fields: what is answered, compared, and kept for a rollback. NULL: no memory. */
json_t *draft_json(const struct draft *d);
json_t *draft_target_json(const char *adapter, int64_t version, const char *base, int64_t weight);
