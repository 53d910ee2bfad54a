/* Tenants and keys as rows: what the admin API does to them. Each change is one transaction with its audit row, and is in force (auth_reload) when
 * the call returns. All block: on db_defer's threads, not on event threads. JSON results are new references. */
#pragma once
#include "gateway/auth.h"
#include "gateway/db_audit.h"

#define KEY_ROLES_MAX 8
#define WEIGHT_MIN 0.01
#define WEIGHT_MAX 100.0

struct tenant_change {
    bool set_disabled, disabled;
    bool set_weight;
    double weight;
};

/* ERR_CONFLICT when the name is taken; ERR_INVALID for a bad one. */
int tenant_create(struct auth *a, const struct actor *by, const char *name, double weight, struct json_t **out, struct err *e);
int tenant_update(struct auth *a, const struct actor *by, const char *name, const struct tenant_change *change, struct json_t **out,
                  struct err *e);
int tenant_get(struct auth *a, const char *name, struct json_t **out, struct err *e); /* ERR_NOT_FOUND */
int tenant_list(struct auth *a, const char *after, int limit, struct json_t *list, bool *more, struct err *e);

struct key_wish {
    const char *tenant; /* name, NULL: an admin key */
    const char *name;   /* a label, may be "" */
    const char *role[KEY_ROLES_MAX];
    int nroles;
    int64_t expires;    /* Unix seconds, 0: never */
};

/* *out has the key's text under "key", this once. */
int key_create(struct auth *a, const struct actor *by, const struct key_wish *w, struct json_t **out, struct err *e);
int key_revoke(struct auth *a, const struct actor *by, const char *id, struct json_t **out, struct err *e);
/* tenant NULL: admin keys. By id after `after`. */
int key_list(struct auth *a, const char *tenant, const char *after, int limit, struct json_t *list, bool *more, struct err *e);

