/* Which: a tenant's adapters and versions, as an immutable snapshot like auth's.
 *
 * A model name is the base's name, NAME, or NAME@VERSION. A bare name is its newest ready version. Another tenant's
 * adapter answers as an absent one: the same error with the same message. */
#pragma once
#include "adapters/adapter.h"
#include "gateway/auth.h"

enum version_state { VERSION_UPLOADING, VERSION_VALIDATING, VERSION_READY, VERSION_FAILED };
extern const char *const version_state_name[];

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
};

struct registry;
struct actor; /* gateway/db_audit.h: a change and its audit entries are one transaction (registry_change.c lists the
                 actions) */

int registry_open(struct registry **out, struct db *d, struct err *e);
void registry_close(struct registry *r);
int registry_reload(struct registry *r, struct err *e);

/* base: the served base's name. ERR_MODEL_NOT_FOUND: "The model `X` does not exist or you do not have access to it." */
int registry_resolve(struct registry *r, const char *tenant, const char *model, const char *base, struct target *out,
                     struct err *e);

/* Record a validated version whose blob is in the store: creates the adapter and version 1, or the next version; the
 * same digest under the same name is the version that exists (*created false). Blocking; in force when it returns 0. On
 * failure *version is left as it was, unless the version stands in the database and only the snapshot could not be
 * renewed: then it is set, and the blob is needed. */
int registry_add(struct registry *r, const struct actor *by, const struct version_new *v, int *version, bool *created,
                 struct err *e);

/* Remove one version (version > 0) or the adapter with all its versions (0). *orphans gets the digests that no version
 * of any tenant refers to any more (malloc'ed array of SHA256_HEX strings; the caller removes the blobs and frees). */
int registry_remove(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                    char (**orphans)[SHA256_HEX], int *norphans, struct err *e);

/* Does any version refer to this digest? From the snapshot. */
bool registry_has_digest(struct registry *r, const char *digest);

/* How many versions the tenant has. From the snapshot. */
int registry_count(struct registry *r, const char *tenant);

/* Appends JSON objects to `list` (jansson array): the tenant's adapters by name after `after` (or ""), at most limit;
 * *more says whether there are further ones. One adapter with its versions: registry_get (ERR_NOT_FOUND). Counts and
 * last use come from the ledger's rollups. */
struct json_t;
struct json_t *registry_modules_json(unsigned modules); /* the names of a version's modules */
int registry_list(struct registry *r, const char *tenant, const char *after, int limit, struct json_t *list, bool *more,
                  struct err *e);
int registry_get(struct registry *r, const char *tenant, const char *name, struct json_t **out, struct err *e);
int registry_get_version(struct registry *r, const char *tenant, const char *name, int version, struct json_t **out,
                         struct err *e);
