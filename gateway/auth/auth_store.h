/* Tenants and keys as rows: what the admin API and the tenants' own key routes do to them. Each change is one transaction with its audit row, and
 * is in force (auth_reload) when the call returns. All block: on db_defer's threads, not on event threads. JSON results are new references.
 *
 * Every row has a revision, which a change raises by one; what is asked for with another revision than the row has is ERR_PRECONDITION. */
#pragma once
#include "gateway/api/page.h"
#include "gateway/auth/auth.h"
#include "gateway/db/db_audit.h"

#define KEY_ROLES_MAX 8
#define WEIGHT_MIN 0.01
#define WEIGHT_MAX 100.0
#define DEADLINE_MAX_MS 86400000
#define GRACE_MAX_S (30 * 86400)

/* --- tenants (auth_tenants.c) --- */

/* What to set; what isn't marked stays, or has its default in a new tenant. */
struct tenant_change {
    bool set_disabled, disabled;
    bool set_weight;
    double weight;
    bool set_private, private;
    const char *class; /* interactive, normal or batch; NULL: stays */
    bool set_deadline;
    int64_t deadline_ms; /* 0: none */
    int64_t revision;    /* that the row must have; 0: any */
};

/* ERR_CONFLICT when the name is taken; ERR_INVALID for a bad one. */
int tenant_add(struct auth *a, const struct actor *by, const char *name, const struct tenant_change *first,
               struct json_t **out, struct err *e);
int tenant_update(struct auth *a, const struct actor *by, const char *name, const struct tenant_change *change,
                  struct json_t **out, struct err *e);
int tenant_get(struct auth *a, const char *name, struct json_t **out, struct err *e); /* ERR_NOT_FOUND */
/* Whether only local engines may serve it. Blocks for a look at the database. ERR_NOT_FOUND. */
int auth_tenant_private(struct db *d, const char *tenant, bool *out, struct err *e);
int tenant_list(struct auth *a, const struct page *p, struct json_t *list, bool *more, struct err *e);

/* The plain one. */
static inline int tenant_create(struct auth *a, const struct actor *by, const char *name, double weight,
                                struct json_t **out, struct err *e)
{
    return tenant_add(a, by, name, &(struct tenant_change){.set_weight = true, .weight = weight}, out, e);
}

/* --- keys (auth_keys.c) --- */

/* Which keys a caller may touch. Others are not found, as if they weren't there. */
struct key_reach {
    bool admin;         /* admin keys, else tenants' */
    const char *tenant; /* id: the keys of this tenant alone; NULL: of any */
    /* The public id of the key that asks, whose scopes and end the keys it makes, renews or takes away may not exceed (ERR_FORBIDDEN);
     * judged by its row, in the change's own transaction. NULL: no such bound. */
    const char *maker;
};

struct key_wish {
    const char *tenant; /* name, NULL: an admin key */
    const char *maker;  /* as in key_reach */
    const char *name;   /* a label, may be "" */
    const char *role[KEY_ROLES_MAX], *scope[KEY_ROLES_MAX];
    int nroles, nscopes; /* a key has all that its roles and its scopes bring; one of both must be */
    int64_t expires;     /* Unix seconds, 0: never */
};

/* *out has the key's text under "key", this once. */
int key_create(struct auth *a, const struct actor *by, const struct key_wish *w, struct json_t **out, struct err *e);
int key_get(struct auth *a, const struct key_reach *in, const char *id, struct json_t **out, struct err *e);
/* By id. tenant: its name, NULL: admin keys. */
int key_list(struct auth *a, const char *tenant, const struct page *p, struct json_t *list, bool *more, struct err *e);

struct key_change {
    const struct key_wish *rights; /* roles and scopes together; NULL: stay */
    const char *name;              /* NULL: stays */
    bool set_expires;
    int64_t expires; /* Unix seconds, 0: never */
    int64_t revision;
};
/* ERR_CONFLICT for a key that was revoked or replaced. */
int key_update(struct auth *a, const struct actor *by, const struct key_reach *in, const char *id,
               const struct key_change *change, struct json_t **out, struct err *e);

/* For good, and as often as you like; ERR_CONFLICT for the last admin key with the role admin. */
int key_revoke(struct auth *a, const struct actor *by, const struct key_reach *in, const char *id, int64_t revision,
               struct json_t **out, struct err *e);

/* A new key with the rights of this one, which ends after the grace, or earlier where it ends earlier; with grace 0 it is revoked. expires
 * 0: the new one lives as long as the old one was to, counted from now. *out is the new key with its text and "replaces", the old one. */
struct key_rotation {
    int grace_s;
    int64_t expires; /* Unix seconds */
    int64_t revision;
};
int key_rotate(struct auth *a, const struct actor *by, const struct key_reach *in, const char *id,
               const struct key_rotation *how, struct json_t **out, struct err *e);
