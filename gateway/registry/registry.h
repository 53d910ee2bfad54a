/* Which: a tenant's adapters and versions, as an immutable snapshot like auth's.
 *
 * A model name is the base's name, NAME, or NAME@VERSION. A bare name is its newest ready version, unless an alias has
 * that name (gateway/registry/alias.h). Another tenant's adapter answers as an absent one: the same error with the same message.
 *
 *     uploading -> validating -> ready <-> archived        deleting -> (gone)
 *            \_________\-> failed   \-> quarantined          from any state, when nobody uses it any more
 *
 * A failed version keeps its row, not its bytes; archived and quarantined ones come back by way of validating. */
#pragma once
#include "adapters/adapter.h"
#include "gateway/auth/auth.h"

enum version_state {
    VERSION_UPLOADING,
    VERSION_VALIDATING,
    VERSION_READY,
    VERSION_FAILED,
    VERSION_ARCHIVED,
    VERSION_QUARANTINED,
    VERSION_DELETING,
    VERSION_STATES
};
extern const char *const version_state_name[VERSION_STATES];

struct target {
    bool is_base;
    char base[128];
    char adapter[NAME_MAX_LEN + 1];   /* "" for the base */
    int64_t adapter_row, version_row; /* 0 for the base */
    int version;
    char digest[SHA256_HEX]; /* "" for the base */
};

struct version_new {
    char tenant[UUID_LEN];
    char name[NAME_MAX_LEN + 1];
    const char *description; /* or NULL */
    char digest[SHA256_HEX], file_sha256[SHA256_HEX];
    char base[128];
    int rank;
    unsigned modules; /* as of struct adapter */
    const char *kind; /* peft_kind(); NULL: "lora" */
    double scale;
    int64_t bytes;
    bool validating;    /* stands as validating, not as ready */
    int into;           /* the number that registry_begin() gave; 0: the next one */
    const char *upload; /* the row of `upload` that ends with this; or NULL */
    bool bounded;       /* by the next two */
    int64_t room;       /* bytes of all the tenant's versions; -1: no bound */
    int64_t room_count; /* versions */
};

struct registry;
struct actor; /* gateway/db/db_audit.h: a change and its audit entries are one transaction (registry_change.c lists the
                 actions) */

int registry_open(struct registry **out, struct db *d, struct err *e);
void registry_close(struct registry *r);
int registry_reload(struct registry *r, struct err *e);
uint64_t registry_serial(struct registry *r); /* another number after each change of any row */

/* base: the served base's name. ERR_MODEL_NOT_FOUND: "The model `X` does not exist or you do not have access to it." */
int registry_resolve(struct registry *r, const char *tenant, const char *model, const char *base, struct target *out,
                     struct err *e);

/* Record a version whose blob is in the store: creates the adapter and version 1, or the next version; the same digest
 * under the same name is the version that exists (*created false), but a failed one that validates anew. ERR_QUOTA: no
 * room; ERR_CONFLICT: the name is an alias's or the base's. Blocking; in force when it returns 0. On
 * failure *version is left as it was, unless the version stands in the database and only the snapshot could not be
 * renewed: then it is set, and the blob is needed. */
int registry_add(struct registry *r, const struct actor *by, const struct version_new *v, int *version, bool *created,
                 struct err *e);

/* Of a change with an Idempotency-Key, whose answer is kept with it: what that says beside the row, and the answer as it is kept. */
struct answer_keep {
    struct json_t *beside, *out; /* out: a new reference, set by the change */
};

/* From one of the states `from` (bits) to another, with why. ERR_CONFLICT: it is in another state, or (archive) an alias
 * needs it. Its upload, where one is named, ends as failed with it. */
struct version_change {
    unsigned from; /* bits 1 << enum version_state */
    enum version_state to;
    const char *code, *tensor, *detail; /* failed, quarantined; or NULL */
    const char *upload;                 /* or NULL */
    double max_error;                   /* of the self-test; < 0: keep what stands */
    const char *unless;                 /* ERR_FORBIDDEN where bytes like these are in quarantine with this code; or NULL */
    struct answer_keep *keep;           /* or NULL */
};
int registry_change_state(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                          const struct version_change *x, struct err *e);

/* most: pinned versions of the tenant; -1: no bound (ERR_QUOTA). keep: or NULL. */
int registry_pin(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                 bool pinned, int64_t most, struct answer_keep *keep, struct err *e);

/* Remove one version (version > 0) or the adapter with all its versions (0). From then on no request gets them; the
 * rows go when no request holds them, at once or by a later registry_collect(). ERR_CONFLICT while an alias points at
 * one; ERR_PRECONDITION: the adapter has not the revision that is wanted (gateway/api/revision.h). *orphans gets the digests that no version of any tenant refers
 * to any more (malloc'ed array of SHA256_HEX strings; the caller removes the blobs and frees). *draining: versions that
 * are still in use. */
int registry_remove(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                    int64_t want, char (**orphans)[SHA256_HEX], int *norphans, int *draining, struct err *e);
int registry_collect(struct registry *r, char (**orphans)[SHA256_HEX], int *norphans, int *draining, struct err *e);

/* A request that will use a digest holds it, so that its bytes stay. Holds are taken by alias_choose(). */
void registry_release(struct registry *r, const char *digest);
int registry_held(struct registry *r, const char *digest);

/* The state of a version in the snapshot; false: there is none. digest may be NULL. */
bool registry_state(struct registry *r, const char *tenant, const char *name, int version, enum version_state *state,
                    char digest[SHA256_HEX]);
/* The newest version in one of these states (bits); 0: none. */
int registry_newest(struct registry *r, const char *tenant, const char *name, unsigned states);
/* Calls fn for each version of these states, from a snapshot. */
struct version_id {
    char tenant[UUID_LEN];
    char name[NAME_MAX_LEN + 1];
    char digest[SHA256_HEX];
    int version;
    bool pinned;
};
void registry_each(struct registry *r, unsigned states, void (*fn)(void *u, const struct version_id *v), void *u);

/* The base of the versions that have this digest; false: there is none. From the snapshot. */
bool registry_base_of(struct registry *r, const char *digest, char base[128]);

/* Does any version need the bytes of this digest? From the snapshot. */
bool registry_has_digest(struct registry *r, const char *digest);

/* How many versions the tenant has, and their bytes (NULL: not asked). From the snapshot. */
int registry_count(struct registry *r, const char *tenant, int64_t *bytes);
/* How many versions of the tenant (NULL: of all, at no cost) are in that state. From the snapshot. */
int registry_count_in(struct registry *r, const char *tenant, enum version_state state);

/* Appends JSON objects to `list` (jansson array): the tenant's adapters by name, a page of them; *more says whether there
 * are further ones. One adapter with its versions: registry_get (ERR_NOT_FOUND). Counts and last use come from the
 * ledger's rollups. */
struct json_t;
struct json_t *registry_modules_json(unsigned modules); /* the names of a version's modules */
/* Why a version in that state failed or was taken out, as its row says: {code, tensor, detail}; null for others. */
struct json_t *registry_failure_json(const char *state, const char *reason, const char *tensor);
struct page;                                            /* gateway/api/page.h */
int registry_list(struct registry *r, const char *tenant, const struct page *p, struct json_t *list, bool *more,
                  struct err *e);
/* Those of all tenants (tenant: a name, or NULL), by TENANT/NAME; state: that some version is in, or NULL. */
int registry_list_all(struct registry *r, const char *tenant, const char *state, const struct page *p,
                      struct json_t *list, bool *more, struct err *e);
int registry_get(struct registry *r, const char *tenant, const char *name, struct json_t **out, struct err *e);
int registry_get_version(struct registry *r, const char *tenant, const char *name, int version, struct json_t **out,
                         struct err *e);
