/* /v1/adapters: a tenant's adapters and their versions. Uploads are upload.c's and uploads_api.c's; here are lists, what
 * is done with a version, and removals; and the operator's list of all.
 *
 * Uploading runs on the worker, whose socket it reads; what waits for the database runs on one of its reader threads.
 * Where a route names no version, it is the newest that the action fits: ready, for restore archived or quarantined. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/registry/upload_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UPLOAD_OVERHEAD (1 << 20)    /* of parts and headers beside the weights */
#define UPLOAD_CAP ((size_t)1 << 50) /* the setting max_adapter_bytes is the limit */

static const char upload_kind[] = "upload", validate_kind[] = "validate";

/* --- uploading --- */

static int check_upload(struct http_request *r, struct err *e)
{
    struct gateway *g = r->server_user;
    int64_t most = g->set->max_adapter_bytes + UPLOAD_OVERHEAD;
    bool wait;
    if (api_route(r)->what == validate_kind ? admin_query_none(r, e) : admin_query_wait(r, &wait, e)) return -1;
    if (r->content_length > most)
        return err_set(e, ERR_TOO_LARGE,
                       "the body has %lld bytes; at most %lld are taken, by the setting max_adapter_bytes",
                       (long long)r->content_length, (long long)most);
    return 0;
}

static int upload_head(struct http_request *r)
{
    struct err e = {0};
    if (api_who(r)) return -1;
    if (check_upload(r, &e) == 0 && upload_begin(r, r->user, api_route(r)->what == validate_kind, &e)) return 0;
    api_refuse(r, &e);
    return -1;
}

static int upload_sink(struct http_request *r, const char *bytes, size_t n)
{
    struct err e = {0};
    if (upload_feed(r->user, bytes, n, &e) == 0) return 0;
    api_refuse(r, &e);
    return -1;
}

static void upload_handle(struct http_request *r)
{
    struct err e = {0};
    if (upload_submit(r->user, &e)) api_refuse(r, &e);
}

/* --- reading --- */

static int fill_own(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return registry_list(admin_gateway(r)->registry, admin_tenant(r), p, data, more, e);
}

static void list(struct http_request *r)
{
    admin_answer_page(r, NULL, "id", fill_own);
}

/* The operator's: all tenants'. */
static int fill_all(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    const char *state = http_query(r, "state");
    bool known = !state;
    for (int i = 0; state && i < VERSION_STATES; i++) known |= strcmp(version_state_name[i], state) == 0;
    if (!known) return err_field(e, ERR_INVALID, "state", "There is no state '%.40s'.", state);
    return registry_list_all(admin_gateway(r)->registry, http_query(r, "tenant"), state, p, data, more, e);
}

static void list_all(struct http_request *r)
{
    static const char *const also[] = {"tenant", "state", NULL};
    admin_answer_page(r, also, "id", fill_all);
}

static void get(struct http_request *r)
{
    struct err e = {0};
    json_t *v = NULL, *one;
    size_t i;
    if (admin_query_none(r, &e) || registry_get(admin_gateway(r)->registry, admin_tenant(r), api_param(r, 0), &v, &e)) {
        api_refuse(r, &e);
        return;
    }
    json_array_foreach(json_object_get(v, "versions"), i, one) version_add_residency(admin_gateway(r), one);
    revision_show(r, json_integer_value(json_object_get(v, "revision")));
    api_reply(r, 200, v);
}

static int read_version(const struct http_request *r, int *version, struct err *e)
{
    const char *text = api_param(r, 1);
    char *end;
    long v = strtol(text, &end, 10);
    if (*text < '1' || *text > '9' || *end || v > INT32_MAX)
        return err_field(e, ERR_INVALID, "version", "version must be a number from 1 to %d", INT32_MAX);
    *version = (int)v;
    return 0;
}

static void get_version(struct http_request *r)
{
    struct err e = {0};
    json_t *v = NULL;
    int version;
    if (admin_query_none(r, &e) || read_version(r, &version, &e) ||
        registry_get_version(admin_gateway(r)->registry, admin_tenant(r), api_param(r, 0), version, &v, &e)) {
        api_refuse(r, &e);
        return;
    }
    version_add_residency(admin_gateway(r), v);
    api_reply(r, 200, v);
}

/* --- what is done with a version --- */

enum action { PIN, UNPIN, WARM, ARCHIVE, RESTORE };

/* The states of the versions that an action without a version is about. */
static const unsigned fits[] = {
    [PIN] = 1u << VERSION_READY,
    [UNPIN] = 1u << VERSION_READY,
    [WARM] = 1u << VERSION_READY,
    [ARCHIVE] = 1u << VERSION_READY,
    [RESTORE] = 1u << VERSION_ARCHIVED | 1u << VERSION_QUARANTINED,
};

static int which_version(const struct http_request *r, bool named, enum action a, struct version_name *v, struct err *e)
{
    struct registry *reg = admin_gateway(r)->registry;
    enum version_state s;
    snprintf(v->tenant, sizeof v->tenant, "%s", admin_tenant(r));
    snprintf(v->name, sizeof v->name, "%.64s", api_param(r, 0));
    v->version = 0;
    if (named && read_version(r, &v->version, e)) return -1;
    if (named && !registry_state(reg, v->tenant, api_param(r, 0), v->version, &s, NULL))
        return err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s' with a version %d.", v->name, v->version);
    if (!named) v->version = registry_newest(reg, v->tenant, api_param(r, 0), fits[a]);
    if (v->version) return 0;
    return err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s' with such a version.", v->name);
}

static void warmed(void *u, bool cold, const struct err *e)
{
    struct http_request *r = u;
    struct err why = {0};
    if (e) {
        err_set(&why, e->code == ERR_NOT_FOUND || e->code == ERR_INTERNAL ? ERR_ENGINE : e->code, "%s", e->msg);
        api_refuse(r, &why);
        return;
    }
    api_reply(r, 200, json_pack("{ss sb sb}", "object", "adapter.residency", "resident", 1, "was_cold", cold));
}

static void forget_result(void *u, bool cold, const struct err *e)
{
    (void)u, (void)cold, (void)e; /* the keeper asks again */
}

static void warm(struct http_request *r, const struct version_name *v)
{
    struct gateway *g = admin_gateway(r);
    enum version_state s;
    char digest[SHA256_HEX];
    struct err e = {0};
    if (!registry_state(g->registry, v->tenant, v->name, v->version, &s, digest) || s != VERSION_READY) {
        err_set(&e, ERR_CONFLICT, "%.64s@%d is not ready.", v->name, v->version);
        api_refuse(r, &e);
        return;
    }
    residency_warm(g, v->tenant, digest, warmed, r);
}

static int archive(struct gateway *g, const struct actor *by, const struct version_name *v, struct answer_keep *keep, struct err *e)
{
    const struct version_change x = {.from = 1u << VERSION_READY, .to = VERSION_ARCHIVED, .max_error = -1, .keep = keep};
    char digest[SHA256_HEX];
    enum version_state s;
    if (registry_change_state(g->registry, by, v->tenant, v->name, v->version, &x, e)) return -1;
    if (registry_state(g->registry, v->tenant, v->name, v->version, &s, digest)) residency_unload(g, digest);
    return 0;
}

static int pin(struct gateway *g, const struct actor *by, const struct version_name *v, bool pinned, struct answer_keep *keep, struct err *e)
{
    struct quota q;
    char digest[SHA256_HEX];
    enum version_state s;
    quota_of(g, v->tenant, &q);
    if (registry_pin(g->registry, by, v->tenant, v->name, v->version, pinned, q.pinned, keep, e)) return -1;
    if (pinned && registry_state(g->registry, v->tenant, v->name, v->version, &s, digest))
        residency_warm(g, v->tenant, digest, forget_result, NULL);
    return 0;
}

/* *kept: of a request with an Idempotency-Key what it is answered with, now and again; else it stays. */
static int change(struct http_request *r, enum action a, const struct version_name *v, json_t **kept, struct err *e)
{
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct answer_keep k = {NULL, NULL}, *keep = by.once ? &k : NULL;
    int rc = keep ? version_beside(g, v, &k.beside, e) : 0;
    if (rc == 0) {
        if (a == ARCHIVE)
            rc = archive(g, &by, v, keep, e);
        else if (a == RESTORE)
            rc = uploads_restore(g->uploads, &by, admin_who(r)->scopes & SCOPE_ADMIN, v->tenant, v->name, v->version, keep, e);
        else
            rc = pin(g, &by, v, a == PIN, keep, e);
    }
    json_decref(k.beside);
    if (rc == 0)
        *kept = k.out;
    else
        json_decref(k.out);
    return rc;
}

static void act(struct http_request *r, bool named, enum action a)
{
    struct gateway *g = admin_gateway(r);
    struct version_name v;
    struct err e = {0};
    bool wait = false;
    json_t *kept = NULL;
    int rc = a == RESTORE ? admin_query_wait(r, &wait, &e) : admin_query_none(r, &e);
    if (rc == 0) rc = which_version(r, named, a, &v, &e);
    if (rc == 0 && a == WARM) {
        warm(r, &v);
        return;
    }
    if (rc == 0) rc = change(r, a, &v, &kept, &e);
    if (rc)
        api_refuse(r, &e);
    else if (wait)
        version_wait(g->uploads, r, &v, 200);
    else if (kept)
        api_reply(r, 200, json_incref(kept));
    else
        version_answer(g, r, &v, 200);
    json_decref(kept);
}

#define ACTION(verb, ACT)                                                                                              \
    static void verb##_newest(struct http_request *r)                                                                  \
    {                                                                                                                  \
        act(r, false, ACT);                                                                                            \
    }                                                                                                                  \
    static void verb##_version(struct http_request *r)                                                                 \
    {                                                                                                                  \
        act(r, true, ACT);                                                                                             \
    }
ACTION(pin, PIN)
ACTION(unpin, UNPIN)
ACTION(warm, WARM)
ACTION(archive, ARCHIVE)
ACTION(restore, RESTORE)
#undef ACTION

/* --- removing --- */

static void drop(struct http_request *r, int version, struct err *e)
{
    const char *name = api_param(r, 0);
    struct actor by = admin_actor(r);
    char id[NAME_MAX_LEN + 16];
    int64_t want;
    int draining = 0;

    if (admin_query_none(r, e) || revision_wanted(r, &want, e) ||
        uploads_remove(admin_gateway(r)->uploads, &by, admin_tenant(r), name, version, want, &draining, e)) {
        api_refuse(r, e);
        return;
    }
    if (version)
        snprintf(id, sizeof id, "%.64s@%d", name, version);
    else
        snprintf(id, sizeof id, "%.64s", name);
    api_reply(r, 200,
              json_pack("{s:s, s:s, s:b}", "id", id, "object", version ? "adapter.version" : "adapter", "deleted", 1));
}

static void drop_all(struct http_request *r)
{
    struct err e = {0};
    drop(r, 0, &e);
}

static void drop_version(struct http_request *r)
{
    struct err e = {0};
    int version;
    if (read_version(r, &version, &e))
        api_refuse(r, &e);
    else
        drop(r, version, &e);
}

/* --- routes --- */

static const struct api_route upload_own = {SCOPE_WRITE, false, upload_kind},
                              upload_path = {SCOPE_WRITE, true, upload_kind};
static const struct api_route validate_own = {SCOPE_WRITE, false, validate_kind},
                              validate_path = {SCOPE_WRITE, true, validate_kind};

#define UPLOAD(where, d)                                                                                               \
    {                                                                                                                  \
        "POST", where, HTTP_BODY_SINK, UPLOAD_CAP, upload_head, upload_sink, upload_handle, d                          \
    }
#define VERSIONS "/{name}/versions/{version}"

const struct http_route routes_adapters[] = {
    UPLOAD("/v1/adapters", &upload_own),
    UPLOAD("/t/{tenant}/v1/adapters", &upload_path),
    UPLOAD("/v1/adapters:validate", &validate_own),
    UPLOAD("/t/{tenant}/v1/adapters:validate", &validate_path),
    TENANT_ROWS(SCOPE_WRITE, "GET", "/adapters", HTTP_BODY_NONE, 0, list),
    TENANT_ROWS(SCOPE_WRITE, "GET", "/adapters/{name}", HTTP_BODY_NONE, 0, get),
    TENANT_ROWS(SCOPE_WRITE, "DELETE", "/adapters/{name}", HTTP_BODY_NONE, 0, drop_all),
    TENANT_ROWS(SCOPE_WRITE, "GET", "/adapters" VERSIONS, HTTP_BODY_NONE, 0, get_version),
    TENANT_ROWS(SCOPE_WRITE, "DELETE", "/adapters" VERSIONS, HTTP_BODY_NONE, 0, drop_version),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/pin", HTTP_BODY_NONE, 0, pin_newest),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/unpin", HTTP_BODY_NONE, 0, unpin_newest),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/warm", HTTP_BODY_NONE, 0, warm_newest),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/archive", HTTP_BODY_NONE, 0, archive_newest),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/restore", HTTP_BODY_NONE, 0, restore_newest),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters" VERSIONS "/pin", HTTP_BODY_NONE, 0, pin_version),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters" VERSIONS "/unpin", HTTP_BODY_NONE, 0, unpin_version),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters" VERSIONS "/warm", HTTP_BODY_NONE, 0, warm_version),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters" VERSIONS "/archive", HTTP_BODY_NONE, 0, archive_version),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters" VERSIONS "/restore", HTTP_BODY_NONE, 0, restore_version),
    {0},
};

const struct http_route routes_adapters_admin[] = {
    ADMIN_READ("/admin/v1/adapters", list_all),
    OPERATOR_ROW("GET", "/adapters/{adapter}", HTTP_BODY_NONE, 0, get),
    OPERATOR_ROW("POST", "/adapters/{adapter}/restore", HTTP_BODY_NONE, 0, restore_newest), /* out of quarantine, or of the archive */
    OPERATOR_ROW("POST", "/adapters/{adapter}/versions/{version}/restore", HTTP_BODY_NONE, 0, restore_version),
    {0},
};
