/* keys_api: keys over HTTP, for tenants who manage their own (/v1/keys, SCOPE_KEYS), and what the operator's routes share with them.
 *
 * Each handler takes the JSON apart, leaves the rules to auth_keys, and prints what comes back. A key's text leaves in the answer to its creation
 * or rotation and nowhere else. A tenant reaches its own keys; another's are not found, as if they weren't there. On database threads. */
#include "gateway/auth/keys_api.h"
#include "gateway/api/revision.h"
#include "gateway/limits/limit.h"
#include <string.h>

#define KEY_NAME_MAX 100
#define EXPIRES_MAX 253402300799 /* 9999-12-31 */
#define GRACE_DEFAULT_S 86400
#define REVISION_NEVER INT64_MAX /* If-None-Match: * of what is there */

/* --- shared --- */

int keys_no_query(const struct http_request *r, struct err *e)
{
    static const char *const none[] = {NULL};
    return admin_query_known(r, none, e);
}

int keys_if_match(const struct http_request *r, int64_t *revision, struct err *e)
{
    int64_t want;
    if (revision_wanted(r, &want, e)) return -1;
    *revision = want > 0 ? want : want == REVISION_NONE ? REVISION_NEVER : 0;
    return 0;
}

void keys_answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc) {
        http_reply_error(r, e);
        json_decref(v);
        return;
    }
    revision_show(r, json_integer_value(json_object_get(v, "revision")));
    admin_reply(r, status, v);
}

void keys_answer_secret(struct http_request *r, int rc, json_t *v, const struct err *e)
{
    if (!rc) http_set_header(r, "Cache-Control", "no-store");
    keys_answer(r, rc, 201, v, e);
}

void keys_answer_list(struct http_request *r, const char *tenant)
{
    struct err e = {0};
    struct page p;
    bool more;
    json_t *list = json_array();
    if (page_read(r, NULL, &p, &e) || key_list(admin_gateway(r)->auth, tenant, &p, list, &more, &e)) {
        json_decref(list);
        http_reply_error(r, &e);
        return;
    }
    admin_reply_list(r, list, "id", more);
}

static int read_words(const json_t *body, const char *field, const char *word[KEY_ROLES_MAX], int *n, struct err *e)
{
    const json_t *list = json_object_get(body, field), *v;
    size_t i;
    if (!list || json_is_null(list)) return 0;
    if (!json_is_array(list) || json_array_size(list) > KEY_ROLES_MAX)
        return err_field(e, ERR_INVALID, field, "'%s' must be a list of 1 to %d words.", field, KEY_ROLES_MAX);
    if (json_array_size(list) == 0) return err_field(e, ERR_MISSING, field, "'%s' must name at least one.", field);
    json_array_foreach(list, i, v)
    {
        if (!json_is_string(v)) return err_field(e, ERR_INVALID, field, "'%s' must be a list of words.", field);
        word[(*n)++] = json_string_value(v);
    }
    return 0;
}

int keys_read_rights(const json_t *body, struct key_wish *w, struct err *e)
{
    return read_words(body, "roles", w->role, &w->nroles, e) || read_words(body, "scopes", w->scope, &w->nscopes, e)
               ? -1
               : 0;
}

int keys_read_name(const json_t *body, const char **name, struct err *e)
{
    const char *text = NULL;
    int letters = 0;
    if (json_get_str(body, "name", 4 * KEY_NAME_MAX, &text, NULL, e)) return -1;
    for (const char *p = text ? text : ""; *p; p++)
        letters += (*p & 0xC0) != 0x80; /* UTF-8: a byte of each letter is none of those that follow */
    if (letters > KEY_NAME_MAX)
        return err_field(e, ERR_INVALID, "name", "'name' must have at most %d characters.", KEY_NAME_MAX);
    if (text) *name = text;
    return 0;
}

static int read_wish(const json_t *body, struct key_wish *w, struct err *e)
{
    w->name = "";
    if (keys_read_name(body, &w->name, e) || keys_read_rights(body, w, e)) return -1;
    return json_get_int(body, "expires_at", 1, EXPIRES_MAX, &w->expires, NULL, e);
}

/* Limits of a key were copied with it: they hold before anybody can know the new key's text. */
static int bring_limits(struct http_request *r, const json_t *made, struct err *e)
{
    char subject[LIMIT_SUBJECT_LEN];
    limit_subject_key(subject, json_string_value(json_object_get(made, "id")));
    return limits_load(admin_gateway(r)->limits, subject, e);
}

void keys_make(struct http_request *r, const char *tenant, const char *maker)
{
    static const char *const fields[] = {"name", "roles", "scopes", "expires_at", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct key_wish w = {.tenant = tenant, .maker = maker};
    json_t *body = NULL, *out = NULL;
    int rc = keys_no_query(r, &e) || admin_body(r, fields, &body, &e) || read_wish(body, &w, &e) ||
             key_create(admin_gateway(r)->auth, &by, &w, &out, &e);
    if (!rc && maker) rc = bring_limits(r, out, &e);
    json_decref(body);
    keys_answer_secret(r, rc, out, &e);
}

/* No body at all asks for the usual grace. */
static int read_rotation(struct http_request *r, struct key_rotation *how, struct err *e)
{
    static const char *const fields[] = {"grace_s", "expires_at", NULL};
    int64_t grace = GRACE_DEFAULT_S;
    json_t *body = NULL;
    int rc = r->body ? admin_body(r, fields, &body, e) : 0;
    if (!rc)
        rc = json_get_int(body, "grace_s", 0, GRACE_MAX_S, &grace, NULL, e) ||
             json_get_int(body, "expires_at", 1, EXPIRES_MAX, &how->expires, NULL, e);
    json_decref(body);
    how->grace_s = (int)grace;
    return rc ? -1 : 0;
}

void keys_rotate(struct http_request *r, const struct key_reach *in, const char *id)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct key_rotation how = {0};
    json_t *out = NULL;
    int rc = keys_no_query(r, &e) || read_rotation(r, &how, &e) || keys_if_match(r, &how.revision, &e) ||
             key_rotate(admin_gateway(r)->auth, &by, in, id, &how, &out, &e);
    if (!rc) rc = bring_limits(r, out, &e);
    keys_answer_secret(r, rc, out, &e);
}

void keys_revoke(struct http_request *r, const struct key_reach *in, const char *id)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    int64_t revision = 0;
    json_t *out = NULL;
    int rc = keys_no_query(r, &e) || keys_if_match(r, &revision, &e) ||
             key_revoke(admin_gateway(r)->auth, &by, in, id, revision, &out, &e);
    keys_answer(r, rc, 200, out, &e);
}

void keys_show(struct http_request *r, const struct key_reach *in, const char *id)
{
    struct err e = {0};
    json_t *out = NULL;
    int rc = keys_no_query(r, &e) || key_get(admin_gateway(r)->auth, in, id, &out, &e);
    keys_answer(r, rc, 200, out, &e);
}

/* --- the tenant's routes --- */

/* The {id} of the path: the last parameter. */
static const char *id_of(const struct http_request *r)
{
    return r->param[strncmp(r->path, "/t/", 3) == 0];
}

static struct key_reach own(const struct http_request *r)
{
    return (struct key_reach){.tenant = admin_who(r)->tenant, .maker = admin_who(r)->key};
}

static void own_list(struct http_request *r)
{
    keys_answer_list(r, admin_who(r)->tenant_name);
}

static void own_make(struct http_request *r)
{
    keys_make(r, admin_who(r)->tenant_name, admin_who(r)->key);
}

static void own_show(struct http_request *r)
{
    struct key_reach in = own(r);
    keys_show(r, &in, id_of(r));
}

static void own_revoke(struct http_request *r)
{
    struct key_reach in = own(r);
    keys_revoke(r, &in, id_of(r));
}

static void own_rotate(struct http_request *r)
{
    struct key_reach in = own(r);
    keys_rotate(r, &in, id_of(r));
}

static void get_list(struct http_request *r)
{
    admin_defer(r, own_list);
}

static void post_list(struct http_request *r)
{
    admin_defer(r, own_make);
}

static void get_one(struct http_request *r)
{
    admin_defer(r, own_show);
}

static void delete_one(struct http_request *r)
{
    admin_defer(r, own_revoke);
}

static void post_rotate(struct http_request *r)
{
    admin_defer(r, own_rotate);
}

const struct http_route routes_keys[] = {
    {"GET", "/v1/keys", HTTP_BODY_NONE, 0, admin_keys_head, NULL, get_list, NULL},
    {"GET", "/t/{tenant}/v1/keys", HTTP_BODY_NONE, 0, admin_keys_head, NULL, get_list, NULL},
    {"POST", "/v1/keys", HTTP_BODY_BUFFER, API_BODY_MAX, admin_keys_head, NULL, post_list, NULL},
    {"POST", "/t/{tenant}/v1/keys", HTTP_BODY_BUFFER, API_BODY_MAX, admin_keys_head, NULL, post_list, NULL},
    {"GET", "/v1/keys/{id}", HTTP_BODY_NONE, 0, admin_keys_head, NULL, get_one, NULL},
    {"GET", "/t/{tenant}/v1/keys/{id}", HTTP_BODY_NONE, 0, admin_keys_head, NULL, get_one, NULL},
    {"DELETE", "/v1/keys/{id}", HTTP_BODY_BUFFER, API_BODY_MAX, admin_keys_head, NULL, delete_one, NULL},
    {"DELETE", "/t/{tenant}/v1/keys/{id}", HTTP_BODY_BUFFER, API_BODY_MAX, admin_keys_head, NULL, delete_one, NULL},
    {"POST", "/v1/keys/{id}/rotate", HTTP_BODY_BUFFER, API_BODY_MAX, admin_keys_head, NULL, post_rotate, NULL},
    {"POST", "/t/{tenant}/v1/keys/{id}/rotate", HTTP_BODY_BUFFER, API_BODY_MAX, admin_keys_head, NULL, post_rotate, NULL},
    {0},
};
