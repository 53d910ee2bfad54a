/* Aliases: names that clients call, in front of versions: weights between some (a canary), or a chain in which the next
 * is asked where one can't answer (GATEWAY.md sections 3 and 5).
 *
 * An alias is part of the registry's snapshot, so a choice is made in memory, from one state of things. Its share of
 * requests goes by a point in [0, 1) that a hash of what it sticks to gives (the request, the user, the key; under the
 * tenant's and the alias's name): the same user has the same point whatever the weights are, and a canary that grows
 * keeps those whom it had. */
#pragma once
#include "gateway/registry/registry.h"

#define ALIAS_TARGETS 8
#define ALIAS_CHAIN 4 /* of a fallback chain: as many routes as an exchange tries */
#define ALIAS_PREFIX_MAX 16384
#define ALIAS_WEIGHT_MAX 1000000
#define ALIASES_TENANT_MAX 10000

enum alias_policy { ALIAS_WEIGHTED, ALIAS_FALLBACK, ALIAS_POLICIES };
enum alias_sticky { ALIAS_REQUEST, ALIAS_USER, ALIAS_KEY, ALIAS_STICKIES };
extern const char *const alias_policy_name[ALIAS_POLICIES];
extern const char *const alias_sticky_name[ALIAS_STICKIES];

/* What an alias may say beyond where it leads: JSON objects, each read by the module that follows it (alias_parts.c has the rows). They stand in the alias's
 * row and in the snapshot as texts with all defaults written out; NULL there: the alias says nothing, which costs a request the look. */
enum alias_part { ALIAS_PROMPT, ALIAS_EVALUATION, ALIAS_ROUTING, ALIAS_CAPTURE, ALIAS_PARTS };
#define ALIAS_PART_MAX 65536 /* bytes of a text */

/* Who asks for what. */
struct alias_ask {
    const char *tenant, *model;
    const char *request, *user, *key; /* user NULL or "": not said, the request stands in */
    bool (*served)(void *u, const char *base);
    void *u;
};

/* What answers, in the order in which it is tried: one, or a chain. Each digest in it is held (registry_release()). */
struct choice {
    struct target target[ALIAS_CHAIN];
    int n;
    bool aliased; /* an alias of that name led here */
    char *prefix; /* system prefix; malloc'ed, or NULL */
    char *part[ALIAS_PARTS]; /* likewise */
};

/* A model name that is not a base's: an alias, NAME or NAME@VERSION. ERR_MODEL_NOT_FOUND in registry_resolve()'s words,
 * also where nothing that an alias names can serve. Any thread, no database. */
int alias_choose(struct registry *r, const struct alias_ask *a, struct choice *out, struct err *e);
void choice_close(struct registry *r, struct choice *c); /* with the holds */

/* Whether it has this part, `says` finds in the part's text what it looks for, and a version ("base:NAME", "NAME@N") is one that it leads to. Memory only. */
bool alias_still(struct registry *r, const char *tenant, const char *name, enum alias_part part, const char *version, bool (*says)(const char *text, const void *u), const void *u);

/* Whether there is this alias, and it has this part, now. Memory only; takes registry.lock and nothing else. */
bool alias_has(struct registry *r, const char *tenant, const char *name, enum alias_part part);

/* The point of an alias that a key falls on, of 2^53; and the target it means: -1 where all weights are 0. */
uint64_t alias_point(const char *tenant, const char *name, const char *key);
int alias_pick(const int *weight, int n, uint64_t point);

/* --- changes; blocking, in force when they return 0 --- */

struct json_t;
struct alias_put {
    const char *tenant, *name;
    const struct json_t *body; /* {targets, policy, sticky, system_prefix} and the parts */
    int64_t want;              /* revision that it must have, as in gateway/api/revision.h */
    bool (*served)(void *u, const char *base);
    void *u;
};

/* Makes or replaces it. ERR_INVALID and ERR_MISSING name the field; ERR_PRECONDITION: another revision; ERR_CONFLICT: the name
 * is a base's, or the tenant has ALIASES_TENANT_MAX. ERR_FORBIDDEN: a part is not the key's to set (alias_parts.h). */
int alias_put(struct registry *r, const struct actor *by, const struct alias_put *p, struct json_t **out, bool *created,
              struct err *e);
/* To what it was before its last change; doing so twice undoes it. ERR_CONFLICT: there was nothing before, or it points
 * at what is gone. */
int alias_rollback(struct registry *r, const struct actor *by, const char *tenant, const char *name, int64_t want,
                   bool (*served)(void *u, const char *base), void *u, struct json_t **out, struct err *e);
int alias_delete(struct registry *r, const struct actor *by, const char *tenant, const char *name, int64_t want,
                 struct err *e);
int alias_get(struct registry *r, const char *tenant, const char *name, struct json_t **out, struct err *e);
struct page;
int alias_list(struct registry *r, const char *tenant, const struct page *p, struct json_t *list, bool *more,
               struct err *e);
