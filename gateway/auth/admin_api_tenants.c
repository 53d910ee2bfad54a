/* admin_api_tenants: the operator's routes of tenants, their keys and admin keys. Each handler takes the JSON apart, leaves the rules to
 * auth_tenants and auth_keys, and prints what comes back. On database threads. */
#include "gateway/auth/keys_api.h"
#include <string.h>

#define EXPIRES_MAX 253402300799 /* 9999-12-31 */

static const struct key_reach of_tenants = {.admin = false}, of_admins = {.admin = true};

/* --- tenants --- */

/* null: no deadline. */
static int read_deadline(const json_t *body, struct tenant_change *t, struct err *e)
{
    const json_t *v = json_object_get(body, "deadline_ms");
    t->set_deadline = v != NULL;
    return json_get_int(body, "deadline_ms", 1, DEADLINE_MAX_MS, &t->deadline_ms, NULL, e);
}

static int read_change(const json_t *body, struct tenant_change *t, struct err *e)
{
    return json_get_bool(body, "disabled", &t->disabled, &t->set_disabled, e) ||
                   json_get_bool(body, "private", &t->private, &t->set_private, e) ||
                   json_get_num(body, "weight", WEIGHT_MIN, WEIGHT_MAX, &t->weight, &t->set_weight, e) ||
                   json_get_str(body, "class", 256, &t->class, NULL, e) || read_deadline(body, t, e)
               ? -1
               : 0;
}

void admin_tenants_post(struct http_request *r)
{
    static const char *const fields[] = {"name", "weight", "private", "class", "deadline_ms", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct tenant_change first = {0};
    json_t *body = NULL, *out = NULL;
    const char *name = NULL;
    int rc = keys_no_query(r, &e) || admin_body(r, fields, &body, &e) || json_need_str(body, "name", 256, &name, &e) ||
             read_change(body, &first, &e) || tenant_add(admin_gateway(r)->auth, &by, name, &first, &out, &e);
    json_decref(body);
    keys_answer(r, rc, 201, out, &e);
}

void admin_tenants_get(struct http_request *r)
{
    struct err e = {0};
    struct page p;
    bool more;
    json_t *list = json_array();
    if (page_read(r, NULL, &p, &e) || tenant_list(admin_gateway(r)->auth, &p, list, &more, &e)) {
        json_decref(list);
        http_reply_error(r, &e);
        return;
    }
    admin_reply_list(r, list, "name", more);
}

void admin_tenant_get(struct http_request *r)
{
    struct err e = {0};
    json_t *out = NULL;
    int rc = keys_no_query(r, &e) || tenant_get(admin_gateway(r)->auth, r->param[0], &out, &e);
    keys_answer(r, rc, 200, out, &e);
}

static int check_something(const struct tenant_change *t, struct err *e)
{
    if (t->set_disabled || t->set_weight || t->set_private || t->class || t->set_deadline) return 0;
    return err_set(e, ERR_MISSING,
                   "Nothing to change: give 'disabled', 'weight', 'private', 'class' or 'deadline_ms'.");
}

void admin_tenant_patch(struct http_request *r)
{
    static const char *const fields[] = {"disabled", "weight", "private", "class", "deadline_ms", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct tenant_change change = {0};
    json_t *body = NULL, *out = NULL;
    int rc = keys_no_query(r, &e) || admin_body(r, fields, &body, &e) || read_change(body, &change, &e) ||
             check_something(&change, &e) || keys_if_match(r, &change.revision, &e) ||
             tenant_update(admin_gateway(r)->auth, &by, r->param[0], &change, &out, &e);
    json_decref(body);
    keys_answer(r, rc, 200, out, &e);
}

/* --- keys --- */

void admin_keys_post(struct http_request *r)
{
    keys_make(r, r->param[0], NULL);
}

void admin_keys_get(struct http_request *r)
{
    keys_answer_list(r, r->param[0]);
}

void admin_key_get(struct http_request *r)
{
    keys_show(r, &of_tenants, r->param[0]);
}

void admin_key_delete(struct http_request *r)
{
    keys_revoke(r, &of_tenants, r->param[0]);
}

void admin_key_rotate(struct http_request *r)
{
    keys_rotate(r, &of_tenants, r->param[0]);
}

static int read_key_change(const json_t *body, struct key_wish *rights, struct key_change *k, struct err *e)
{
    k->set_expires = json_object_get(body, "expires_at") != NULL; /* null: never */
    if (keys_read_name(body, &k->name, e) || keys_read_rights(body, rights, e) ||
        json_get_int(body, "expires_at", 1, EXPIRES_MAX, &k->expires, NULL, e))
        return -1;
    if (json_is_array(json_object_get(body, "roles")) || json_is_array(json_object_get(body, "scopes")))
        k->rights = rights;
    if (k->rights || k->name || k->set_expires) return 0;
    return err_set(e, ERR_MISSING, "Nothing to change: give 'name', 'roles', 'scopes' or 'expires_at'.");
}

void admin_key_patch(struct http_request *r)
{
    static const char *const fields[] = {"name", "roles", "scopes", "expires_at", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct key_wish rights = {0};
    struct key_change change = {0};
    json_t *body = NULL, *out = NULL;
    int rc = keys_no_query(r, &e) || admin_body(r, fields, &body, &e) || read_key_change(body, &rights, &change, &e) ||
             keys_if_match(r, &change.revision, &e) ||
             key_update(admin_gateway(r)->auth, &by, &of_tenants, r->param[0], &change, &out, &e);
    json_decref(body);
    keys_answer(r, rc, 200, out, &e);
}

void admin_admin_keys_post(struct http_request *r)
{
    keys_make(r, NULL, NULL);
}

void admin_admin_keys_get(struct http_request *r)
{
    keys_answer_list(r, NULL);
}

void admin_admin_key_get(struct http_request *r)
{
    keys_show(r, &of_admins, r->param[0]);
}

void admin_admin_key_delete(struct http_request *r)
{
    keys_revoke(r, &of_admins, r->param[0]);
}
