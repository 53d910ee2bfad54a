/* Rows of `upload`: adapters that come in parts or from a URL. Their bytes lie in tmp/ID until they are complete or
 * expire; their version stands in the state uploading meanwhile. All calls block. */
#pragma once
#include "gateway/registry/registry.h"

struct json_t;
struct page;

struct upload_row {
    char id[UUID_LEN], tenant[UUID_LEN];
    char adapter[NAME_MAX_LEN + 1];
    char state[16];
    char by[KEY_ID_LEN];
    char *description, *reason, *url; /* malloc'ed */
    int version;
    int64_t created, expires;
};

/* A number for bytes that are to come: a version in the state uploading, of a new adapter or the next of an old one. Of
 * *v it takes tenant, name, description, base, room_count and upload, whose row is made. ERR_QUOTA: no room, or the tenant
 * has n->most under way. */
struct upload_new {
    const char *url; /* "": in parts */
    int64_t expires; /* wall us */
    int most;        /* open or being validated, of the tenant */
    int status;      /* of the answer, which show() makes: for once_keep() */
    struct json_t *(*show)(const struct upload_row *row);
};
int registry_begin(struct registry *r, const struct actor *by, const struct version_new *v, const struct upload_new *n,
                   int *version, struct err *e);

/* A row as its clients see it, without its files; NULL: no memory. */
struct json_t *upload_json(const struct upload_row *row);
/* An adapter's uploads, oldest first, as upload_json(). ERR_NOT_FOUND: there is no such adapter. */
int registry_upload_list(struct registry *r, const char *tenant, const char *adapter, const struct page *p,
                         struct json_t *list, bool *more, struct err *e);

/* An upload's row. ERR_NOT_FOUND: none of this tenant (NULL: any) and adapter (NULL: any). */
int registry_upload_get(struct registry *r, const char *tenant, const char *adapter, const char *id,
                        struct upload_row *out, struct err *e);
void upload_row_close(struct upload_row *u);
/* Calls fn for each row in this state, or with expires before `before` (state NULL). Inside a read: don't change. */
int registry_upload_each(struct registry *r, const char *state, int64_t before, int (*fn)(void *u, const char *id),
                         void *u, struct err *e);
/* open -> validating. ERR_CONFLICT: it is not open. keep: or NULL. */
int registry_upload_complete(struct registry *r, const struct actor *by, const char *id, struct answer_keep *keep, struct err *e);
/* Changes nothing: keeps how it stands as the answer (200). */
int registry_upload_keep(struct registry *r, const struct actor *by, const char *id, struct answer_keep *keep, struct err *e);
/* The row goes, with its version while that is uploading. ERR_CONFLICT while it validates. */
int registry_upload_drop(struct registry *r, const struct actor *by, const char *id, struct err *e);
