/* admin_api_tenants: tenants and keys over HTTP. Each handler takes the JSON apart, leaves the rules to auth_store, and prints what comes
 * back. A key's text leaves in the answer to its creation and nowhere else. On database threads. */
#include "gateway/admin_api.h"
#include "gateway/auth_store.h"
#include <string.h>

#define KEY_NAME_MAX 100
#define EXPIRES_MAX 253402300799 /* 9999-12-31 */

static void answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc) http_reply_error(r, e);
    else admin_reply(r, status, v);
}

static int no_query(const struct http_request *r, struct err *e)
{
    static const char *const none[] = {NULL};
    return admin_query_known(r, none, e);
}

void admin_tenants_post(struct http_request *r)
{
    static const char *const fields[] = {"name", "weight", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *body = NULL, *out = NULL;
    const char *name = NULL;
    double weight = 1;
    int rc = no_query(r, &e) || admin_body(r, fields, &body, &e) || json_need_str(body, "name", 256, &name, &e) ||
             json_get_num(body, "weight", WEIGHT_MIN, WEIGHT_MAX, &weight, NULL, &e) ||
             tenant_create(admin_gateway(r)->auth, &by, name, weight, &out, &e);
    json_decref(body);
    answer(r, rc, 201, out, &e);
}

void admin_tenants_get(struct http_request *r)
{
    struct err e = {0};
    struct admin_page p;
    bool more;
    json_t *list = json_array();
    if (admin_page(r, &p, &e) || tenant_list(admin_gateway(r)->auth, p.after, p.limit, list, &more, &e)) {
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
    int rc = no_query(r, &e) || tenant_get(admin_gateway(r)->auth, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}

void admin_tenant_patch(struct http_request *r)
{
    static const char *const fields[] = {"disabled", "weight", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct tenant_change change = {0};
    json_t *body = NULL, *out = NULL;
    int rc = no_query(r, &e) || admin_body(r, fields, &body, &e) || json_get_bool(body, "disabled", &change.disabled, &change.set_disabled, &e) ||
             json_get_num(body, "weight", WEIGHT_MIN, WEIGHT_MAX, &change.weight, &change.set_weight, &e);
    if (!rc && !change.set_disabled && !change.set_weight)
        rc = err_set(&e, ERR_MISSING, "Nothing to change: give 'disabled' or 'weight'.");
    if (!rc) rc = tenant_update(admin_gateway(r)->auth, &by, r->param[0], &change, &out, &e);
    json_decref(body);
    answer(r, rc, 200, out, &e);
}

static int read_roles(const json_t *body, struct key_wish *w, struct err *e)
{
    const json_t *roles = json_object_get(body, "roles"), *role;
    size_t i;
    if (!roles) return err_field(e, ERR_MISSING, "roles", "'roles' is missing.");
    if (!json_is_array(roles) || json_array_size(roles) > KEY_ROLES_MAX)
        return err_field(e, ERR_INVALID, "roles", "'roles' must be a list of 1 to %d words.", KEY_ROLES_MAX);
    json_array_foreach(roles, i, role) {
        if (!json_is_string(role)) return err_field(e, ERR_INVALID, "roles", "'roles' must be a list of words.");
        w->role[w->nroles++] = json_string_value(role);
    }
    return 0;
}

static int read_wish(const json_t *body, struct key_wish *w, struct err *e)
{
    w->name = "";
    if (json_get_str(body, "name", KEY_NAME_MAX, &w->name, NULL, e) || read_roles(body, w, e)) return -1;
    return json_get_int(body, "expires_at", 1, EXPIRES_MAX, &w->expires, NULL, e);
}

static void make_key(struct http_request *r, const char *tenant)
{
    static const char *const fields[] = {"name", "roles", "expires_at", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct key_wish w = {.tenant = tenant};
    json_t *body = NULL, *out = NULL;
    int rc = no_query(r, &e) || admin_body(r, fields, &body, &e) || read_wish(body, &w, &e) ||
             key_create(admin_gateway(r)->auth, &by, &w, &out, &e);
    json_decref(body);
    if (!rc) http_set_header(r, "Cache-Control", "no-store");
    answer(r, rc, 201, out, &e);
}

static void list_keys(struct http_request *r, const char *tenant)
{
    struct err e = {0};
    struct admin_page p;
    bool more;
    json_t *list = json_array();
    if (admin_page(r, &p, &e) || key_list(admin_gateway(r)->auth, tenant, p.after, p.limit, list, &more, &e)) {
        json_decref(list);
        http_reply_error(r, &e);
        return;
    }
    admin_reply_list(r, list, "id", more);
}

void admin_keys_post(struct http_request *r) { make_key(r, r->param[0]); }

void admin_keys_get(struct http_request *r) { list_keys(r, r->param[0]); }

void admin_admin_keys_post(struct http_request *r) { make_key(r, NULL); }

void admin_admin_keys_get(struct http_request *r) { list_keys(r, NULL); }

void admin_key_delete(struct http_request *r)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *out = NULL;
    int rc = no_query(r, &e) || key_revoke(admin_gateway(r)->auth, &by, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}
