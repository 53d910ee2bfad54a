/* /v1/adapters: a tenant's adapters and their versions. Uploads are upload.c's; here are the routes, lists and
 * removals.
 *
 * Removing drains: the registry's row goes first (new requests get 404), then the engine is told to unload, which waits
 * for what runs on it, then the bytes go, when no version of any tenant refers to them.
 *
 * Uploading runs on the worker, whose socket it reads; what waits for the database runs on one of its reader threads.
 */
#include "base/json.h"
#include "gateway/chat_api.h"
#include "gateway/db_audit.h"
#include "gateway/upload.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UPLOAD_OVERHEAD (1 << 20)    /* of parts and headers beside the weights */
#define UPLOAD_CAP ((size_t)1 << 50) /* the setting max_adapter_bytes is the limit */
#define LIST_LIMIT 20
#define LIST_LIMIT_MAX 100

static const char upload_kind[] = "upload", validate_kind[] = "validate";

/* --- uploading --- */

static int check_upload(struct http_request *r, struct err *e)
{
    struct gateway *g = r->server_user;
    const char *wait = http_query(r, "wait");
    int64_t most = g->set->max_adapter_bytes + UPLOAD_OVERHEAD;
    if (wait && strcmp(wait, "ready") != 0) return err_field(e, ERR_INVALID, "wait", "wait can only be 'ready'");
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

static const char *tenant(const struct http_request *r)
{
    return ((struct principal *)r->user)->tenant;
}

static int read_number(const char *text, const char *name, int min, int max, int *out, struct err *e)
{
    char *end;
    long v = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || v < min || v > max)
        return err_field(e, ERR_INVALID, name, "%s must be a number from %d to %d", name, min, max);
    *out = (int)v;
    return 0;
}

static json_t *name_of(const json_t *list, size_t i)
{
    json_t *name = json_object_get(json_array_get(list, i), "name");
    return name ? json_incref(name) : json_null();
}

/* The rest of a handler that waits for the database, off the event threads. */
static void later(struct http_request *r, void (*fn)(void *r))
{
    struct gateway *g = r->server_user;
    struct err e = {0};
    if (db_defer(g->db, fn, r, &e)) api_refuse(r, &e);
}

static void list_now(void *u)
{
    struct http_request *r = u;
    struct gateway *g = r->server_user;
    const char *after = http_query(r, "after"), *text = http_query(r, "limit");
    int limit = LIST_LIMIT;
    bool more = false;
    struct err e = {0};
    json_t *data = json_array();

    if ((text && read_number(text, "limit", 1, LIST_LIMIT_MAX, &limit, &e)) ||
        registry_list(g->registry, tenant(r), after ? after : "", limit, data, &more, &e)) {
        json_decref(data);
        api_refuse(r, &e);
        return;
    }
    size_t n = json_array_size(data);
    json_t *first = name_of(data, 0), *last = name_of(data, n ? n - 1 : 0);
    api_reply(r, 200,
              json_pack("{s:s, s:o, s:o, s:o, s:b}", "object", "list", "data", data, "first_id", first, "last_id", last,
                        "has_more", more));
}

static void get_now(void *u)
{
    struct http_request *r = u;
    struct gateway *g = r->server_user;
    struct err e = {0};
    json_t *v = NULL;
    if (registry_get(g->registry, tenant(r), api_param(r, 0), &v, &e))
        api_refuse(r, &e);
    else
        api_reply(r, 200, v);
}

static int read_version(const struct http_request *r, int *version, struct err *e)
{
    return read_number(api_param(r, 1), "version", 1, INT32_MAX, version, e);
}

static void get_version_now(void *u)
{
    struct http_request *r = u;
    struct gateway *g = r->server_user;
    struct err e = {0};
    json_t *v = NULL;
    int version;
    if (read_version(r, &version, &e) || registry_get_version(g->registry, tenant(r), api_param(r, 0), version, &v, &e))
        api_refuse(r, &e);
    else
        api_reply(r, 200, v);
}

/* --- removing --- */

static void drop(struct http_request *r, int version)
{
    struct gateway *g = r->server_user;
    const char *name = api_param(r, 0);
    struct actor by = {((struct principal *)r->user)->key, r->peer, r->id};
    char(*orphans)[SHA256_HEX] = NULL;
    char id[NAME_MAX_LEN + 16];
    int n = 0;
    struct err e = {0};

    if (registry_remove(g->registry, &by, tenant(r), name, version, &orphans, &n, &e)) {
        api_refuse(r, &e);
        return;
    }
    uploads_drop(g->uploads, orphans, n);
    free(orphans);
    if (version)
        snprintf(id, sizeof id, "%.64s@%d", name, version);
    else
        snprintf(id, sizeof id, "%.64s", name);
    api_reply(r, 200,
              json_pack("{s:s, s:s, s:b}", "id", id, "object", version ? "adapter.version" : "adapter", "deleted", 1));
}

static void drop_all_now(void *u)
{
    drop(u, 0);
}

static void drop_version_now(void *u)
{
    struct http_request *r = u;
    struct err e = {0};
    int version;
    if (read_version(r, &version, &e))
        api_refuse(r, &e);
    else
        drop(r, version);
}

static void list(struct http_request *r)
{
    later(r, list_now);
}
static void get(struct http_request *r)
{
    later(r, get_now);
}
static void get_version(struct http_request *r)
{
    later(r, get_version_now);
}
static void drop_all(struct http_request *r)
{
    later(r, drop_all_now);
}
static void drop_version(struct http_request *r)
{
    later(r, drop_version_now);
}

static const struct api_route own = {SCOPE_WRITE, false, NULL}, path = {SCOPE_WRITE, true, NULL};
static const struct api_route upload_own = {SCOPE_WRITE, false, upload_kind},
                              upload_path = {SCOPE_WRITE, true, upload_kind};
static const struct api_route validate_own = {SCOPE_WRITE, false, validate_kind},
                              validate_path = {SCOPE_WRITE, true, validate_kind};

#define UPLOAD(where, d)                                                                                               \
    {                                                                                                                  \
        "POST", where, HTTP_BODY_SINK, UPLOAD_CAP, upload_head, upload_sink, upload_handle, d                          \
    }
#define CALL(method, where, fn, d)                                                                                     \
    {                                                                                                                  \
        method, where, HTTP_BODY_NONE, 0, api_who, NULL, fn, d                                                         \
    }

const struct http_route routes_adapters[] = {
    UPLOAD("/v1/adapters", &upload_own),
    UPLOAD("/t/{tenant}/v1/adapters", &upload_path),
    UPLOAD("/v1/adapters:validate", &validate_own),
    UPLOAD("/t/{tenant}/v1/adapters:validate", &validate_path),
    CALL("GET", "/v1/adapters", list, &own),
    CALL("GET", "/t/{tenant}/v1/adapters", list, &path),
    CALL("GET", "/v1/adapters/{name}", get, &own),
    CALL("GET", "/t/{tenant}/v1/adapters/{name}", get, &path),
    CALL("GET", "/v1/adapters/{name}/versions/{version}", get_version, &own),
    CALL("GET", "/t/{tenant}/v1/adapters/{name}/versions/{version}", get_version, &path),
    CALL("DELETE", "/v1/adapters/{name}", drop_all, &own),
    CALL("DELETE", "/t/{tenant}/v1/adapters/{name}", drop_all, &path),
    CALL("DELETE", "/v1/adapters/{name}/versions/{version}", drop_version, &own),
    CALL("DELETE", "/t/{tenant}/v1/adapters/{name}/versions/{version}", drop_version, &path),
    {0},
};
