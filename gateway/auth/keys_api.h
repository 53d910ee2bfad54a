/* What the routes of tenants and keys share: admin_api_tenants.c (the operator's) and keys_api.c (the tenants' own). On database threads. */
#pragma once
#include "gateway/api/admin_api.h"
#include "gateway/auth/auth_store.h"

/* An answer of one object, with its revision as the ETag; takes over v. rc is not 0: *e instead. */
void keys_answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e);
/* The same for one that shows a key's text: nobody may keep it. */
void keys_answer_secret(struct http_request *r, int rc, json_t *v, const struct err *e);

/* A list of keys: tenant's (its name), or admin keys (NULL). */
void keys_answer_list(struct http_request *r, const char *tenant);

int keys_no_query(const struct http_request *r, struct err *e);
/* If-Match as auth_store.h takes revisions: 0 for any. */
int keys_if_match(const struct http_request *r, int64_t *revision, struct err *e);

/* "name" of the body, a label; absent: *name stays. */
int keys_read_name(const json_t *body, const char **name, struct err *e);
/* "roles" and "scopes" of the body; strings are the body's. */
int keys_read_rights(const json_t *body, struct key_wish *w, struct err *e);

/* Make one by the body: name, roles, scopes, expires_at. */
void keys_make(struct http_request *r, const char *tenant, const char *maker);
void keys_rotate(struct http_request *r, const struct key_reach *in, const char *id);
void keys_revoke(struct http_request *r, const struct key_reach *in, const char *id);
void keys_show(struct http_request *r, const struct key_reach *in, const char *id);
