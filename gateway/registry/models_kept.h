/* Lists of models as they were answered, so that asking again costs no statement and no JSON: clients ask for them before each session.
 *
 * A list is a tenant's, of one state of the registry (registry_serial()) and of the bases that are served. When either is another, it stands for
 * nothing any more; so what is told is what a read would tell. */
#pragma once
#include "base/buf.h"
#include <stdint.h>

#define MODELS_KEPT 256              /* tenants */
#define MODELS_KEPT_BYTES (32u << 10) /* of one; longer ones are read each time */

struct models_key {
    const char *tenant, *owner; /* id, and the name that is told */
    uint64_t serial;
    const char *bases; /* their names, in the order of the answer, each behind a line's end */
};

struct models_kept *models_kept_new(void); /* NULL: no memory */
void models_kept_free(struct models_kept *k); /* NULL is fine */
/* Into out: 0; -1: not there, or no memory. */
int models_kept_get(struct models_kept *k, const struct models_key *key, struct buf *out);
/* Copied; where there is no memory it is not kept. */
void models_kept_put(struct models_kept *k, const struct models_key *key, const char *text, size_t n);
