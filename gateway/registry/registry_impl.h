/* What registry.c (snapshot), registry_change.c, registry_upload.c, registry_list.c (JSON) and alias*.c share. */
#pragma once
#include "gateway/db/db_audit.h"
#include "gateway/registry/alias.h"
#include "gateway/registry/registry.h"
#include <pthread.h>
#include <stdatomic.h>

struct known {
    char tenant[UUID_LEN];
    char name[NAME_MAX_LEN + 1];
    char digest[SHA256_HEX];
    char base[128];
    int64_t adapter_row, version_row;
    int64_t bytes;
    int version;
    enum version_state state;
    bool pinned;
};

struct alias_target_known {
    char adapter[NAME_MAX_LEN + 1]; /* "": the base alone */
    char base[128];
    int version; /* 0: the newest that is ready */
    int weight;
};

struct alias_known {
    char tenant[UUID_LEN];
    char name[NAME_MAX_LEN + 1];
    int64_t row, revision;
    enum alias_policy policy;
    enum alias_sticky sticky;
    char *prefix; /* NULL: none */
    char *part[ALIAS_PARTS]; /* texts; NULL: none */
    int ntargets;
    struct alias_target_known target[ALIAS_TARGETS];
};

struct catalog {
    int refs;        /* under registry.lock */
    struct known *v; /* by tenant, name, version descending */
    size_t n, cap;
    int in[VERSION_STATES]; /* how many versions are */
    const char **digests; /* sorted; of those whose bytes are needed */
    size_t ndigests;
    struct alias_known *alias; /* by tenant, name */
    size_t naliases, aliases_cap;
};

#define HOLD_BUCKETS 256

struct hold {
    char digest[SHA256_HEX];
    int n;
    struct hold *next;
};

struct registry {
    struct db *db;
    pthread_mutex_t lock;      /* covers `now`, every refs, and the holds */
    pthread_mutex_t reloading; /* one at a time, so an older state never replaces a newer one */
    _Atomic uint64_t serial;   /* of the rows: counts reloads, those that failed too */
    struct catalog *now;
    struct hold *hold[HOLD_BUCKETS];
};

/* registry.c */
struct catalog *catalog_ref(struct registry *r);
void catalog_unref(struct registry *r, struct catalog *g);
const struct known *catalog_find(const struct catalog *g, const char *tenant, const char *name, int version,
                                 bool (*served)(void *u, const char *base), void *u);
/* Is this version (0: any of the name) in that state? */
bool catalog_in(const struct catalog *g, const char *tenant, const char *name, int version, enum version_state state);
const struct known *catalog_version(const struct catalog *g, const char *tenant, const char *name, int version);
const struct alias_known *catalog_alias(const struct catalog *g, const char *tenant, const char *name);
struct target target_of(const struct known *k);
bool model_split(const char *model, char name[NAME_MAX_LEN + 1], int *version);
/* All of them or none: 0; 1: g is not the snapshot any more; -1: no memory. */
int registry_hold(struct registry *r, const struct catalog *g, const struct target *t, int n);

/* alias.c */
int alias_load(struct db *d, sqlite3 *c, struct catalog *g, struct err *e);

/* registry_change.c: whose adapter of which name a change is about, and who makes it. */
struct subject {
    const struct actor *by;
    const char *tenant, *name; /* the tenant's id; the adapter's or alias's name */
};
/* One entry of the trail; version 0: about the adapter. Takes over before and after, of which one may be absent. */
int registry_note(struct db *d, sqlite3 *c, const struct subject *s, int version, const char *action,
                  struct json_t *before, struct json_t *after, struct err *e);
/* The event of a version's new state. */
int registry_event(struct db *d, sqlite3 *c, const struct subject *s, int version, const char *type, const char *digest,
                   const struct version_change *why, struct err *e);
/* The adapter's row as it shall be, made where there is none; its next version's number. */
int registry_adapter_row(struct db *d, sqlite3 *c, const struct subject *s, const char *description, int64_t *row,
                         int *next, struct err *e);
struct json_t *registry_version_entry(const char *digest, const char *base, int64_t rank, int64_t bytes);
struct json_t *registry_adapter_entry(const char *description);
int registry_room(struct db *d, sqlite3 *c, const struct version_new *v, struct err *e);
int registry_next(struct db *d, sqlite3 *c, int64_t adapter, int version, struct err *e);
/* registry_remove.c: ERR_CONFLICT while an alias needs this version (0: any of the adapter). */
int registry_unpointed(struct db *d, sqlite3 *c, const char *tenant, const char *name, int version, struct err *e);

/* registry_change.c: keeps row, which it takes over, with what stands beside it as the answer. */
int registry_keep(struct db *d, sqlite3 *c, const struct actor *by, int status, struct json_t *row, struct answer_keep *k, struct err *e);
/* registry_list.c: a version as it is answered, without where it is resident. */
int registry_version_json(struct db *d, sqlite3 *c, const char *tenant, const char *name, int version, struct json_t **out, struct err *e);

/* registry_upload.c */
int registry_upload_end(struct db *d, sqlite3 *c, const char *id, const char *state, int version, const char *reason,
                        struct err *e);
