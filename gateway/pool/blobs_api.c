/* Routes of the listener for engines, GET /weft/v1/blobs/{digest} and .../{file}, and of engines' tokens on the admin listener (see blobs.h).
 *
 *     head: the token, its engine's share  ->  the thread for the disk: may this engine have it?  ->  the list, or the file, read as the socket takes it
 *
 * The listener is its own because an engine has no business with the admin API and its network, nor with the public one, whose load would keep engines
 * waiting; a port of its own is what a firewall or a NetworkPolicy can tell. What an engine may not have and what is not there are one answer. */
#include "adapters/adapter.h"
#include "adapters/store.h"
#include "base/http.h"
#include "gateway/api/admin_api.h"
#include "gateway/observe/meters.h"
#include "gateway/pool/blobs.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_MS 5000

static const char *const files[] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
#define FILES (sizeof files / sizeof *files)

/* --- the door --- */

static void leave(struct http_request *r)
{
    blobs_leave(admin_gateway(r)->blobs, r->user);
}

static int enter(struct http_request *r)
{
    struct err e = {0};
    struct blob_guest *guest = arena_alloc(r->arena, sizeof *guest);
    if (!guest) err_set(&e, ERR_NO_MEMORY, "no memory for the request");
    if (!guest || blobs_enter(admin_gateway(r)->blobs, http_bearer(r), guest, &e)) {
        http_reply_error(r, &e);
        return -1;
    }
    r->user = guest;
    http_on_free(r, leave);
    return 0;
}

/* --- may it have this --- */

struct question {
    const char *digest;
    struct pool_rights rights;
    bool yes;
};

static int ask(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM version v JOIN adapter a ON a.row = v.adapter JOIN tenant t ON t.id = a.tenant"
                              " WHERE v.digest = ?1 AND v.base = ?2 AND v.state IN ('validating', 'ready') AND (?3 OR NOT t.private) LIMIT 1";
    struct question *q = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", q->digest, q->rights.base, (int64_t)q->rights.local)) return -1;
    int rc = db_row(st, e);
    q->yes = rc == 1;
    return rc < 0 ? -1 : 0;
}

/* The folder of the digest that the path names. */
static int find(const struct http_request *r, char dir[STORE_PATH_MAX], struct err *e)
{
    const struct gateway *g = admin_gateway(r);
    const struct blob_guest *guest = r->user;
    struct question q = {.digest = r->param[0]};
    bool named = sha256_is_hex(q.digest);
    if (named && pool_rights(g->pool, guest->engine, &q.rights, NULL) == 0 && db_read(g->db, ask, &q, READ_MS, e)) return -1;
    if (q.yes && store_has(g->store, q.digest)) return store_path(g->store, q.digest, dir, e);
    metric_add(g->metrics, GM_BLOBS_REFUSED, (const char *[]){"unknown"}, 1);
    return err_set(e, ERR_NOT_FOUND, "no such adapter for the engine %s", guest->engine);
}

/* --- answers --- */

static json_t *file_json(struct blobs *b, const char *dir, const char *name, struct err *e)
{
    char path[STORE_PATH_MAX + 64], sum[SHA256_HEX];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (lstat(path, &st)) {
        err_set(e, ERR_NOT_FOUND, "no such adapter");
        return NULL;
    }
    return blobs_sum(b, path, sum, e) ? NULL : json_pack("{ss sI ss}", "name", name, "bytes", (json_int_t)st.st_size, "sha256", sum);
}

static void list_work(struct http_request *r)
{
    char dir[STORE_PATH_MAX];
    struct err e = {0};
    json_t *list = json_array();
    int rc = find(r, dir, &e);
    for (size_t i = 0; !rc && i < FILES; i++) {
        json_t *one = file_json(admin_gateway(r)->blobs, dir, files[i], &e);
        rc = one ? 0 : -1;
        if (one) json_list_add(&list, one);
    }
    if (rc && e.code) {
        json_decref(list);
        http_reply_error(r, &e);
    } else {
        admin_reply(r, 200, json_pack("{ss so}", "digest", r->param[0], "files", list));
    }
}

static void give(struct http_request *r, int fd, int64_t size)
{
    static const char none[] = "{\"error\":{\"message\":\"no byte of the file lies in this range\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}";
    const struct blob_guest *guest = r->user;
    char range[96];
    int64_t from, n;
    int part = blobs_range(http_header(r, "range"), size, &from, &n);
    http_set_header(r, "Accept-Ranges", "bytes");
    if (part < 0) {
        snprintf(range, sizeof range, "bytes */%lld", (long long)size);
        http_set_header(r, "Content-Range", range);
        close(fd);
        http_reply(r, 416, NULL, none, sizeof none - 1);
        return;
    }
    if (part) {
        snprintf(range, sizeof range, "bytes %lld-%lld/%lld", (long long)from, (long long)(from + n - 1), (long long)size);
        http_set_header(r, "Content-Range", range);
    }
    if (strcmp(r->method, "HEAD") != 0)
        metric_add(admin_gateway(r)->metrics, GM_BLOB_BYTES, (const char *[]){guest->engine}, (double)n);
    http_reply_file(r, part ? 206 : 200, NULL, fd, from, n);
}

static void file_work(struct http_request *r)
{
    char dir[STORE_PATH_MAX], path[STORE_PATH_MAX + 64];
    struct err e = {0};
    struct stat st;
    const char *name = NULL;
    int fd = -1;
    for (size_t i = 0; i < FILES; i++)
        if (strcmp(r->param[1], files[i]) == 0) name = files[i];
    int rc = name ? find(r, dir, &e) : err_set(&e, ERR_NOT_FOUND, "an adapter has no such file");
    if (!rc) snprintf(path, sizeof path, "%s/%s", dir, name);
    if (!rc && ((fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) < 0 || fstat(fd, &st))) rc = err_set(&e, ERR_NOT_FOUND, "no such adapter");
    if (!rc) {
        give(r, fd, st.st_size);
        return;
    }
    if (fd >= 0) close(fd);
    http_reply_error(r, &e);
}

static void list(struct http_request *r)
{
    blobs_defer(admin_gateway(r)->blobs, r, list_work);
}

static void file(struct http_request *r)
{
    blobs_defer(admin_gateway(r)->blobs, r, file_work);
}

const struct http_route routes_blobs[] = {
    {"GET", "/weft/v1/blobs/{digest}", HTTP_BODY_NONE, 0, enter, NULL, list, NULL},
    {"GET", "/weft/v1/blobs/{digest}/{file}", HTTP_BODY_NONE, 0, enter, NULL, file, NULL},
    {0},
};

/* --- tokens --- */

static const char *const no_query[] = {NULL};

static void answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc)
        http_reply_error(r, e);
    else
        admin_reply(r, status, v);
}

static void token_get(struct http_request *r)
{
    struct err e = {0};
    json_t *out = NULL;
    int rc = admin_query_known(r, no_query, &e) || blobs_show(admin_gateway(r)->blobs, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}

static void token_make(struct http_request *r)
{
    static const char *const fields[] = {"grace_s", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *body = NULL, *out = NULL;
    int64_t grace_s = BLOB_GRACE_DEFAULT_S;
    int rc = admin_query_known(r, no_query, &e) || (r->body_len && admin_body(r, fields, &body, &e)) ||
             json_get_int(body, "grace_s", 0, BLOB_GRACE_MAX_S, &grace_s, NULL, &e) ||
             blobs_make(admin_gateway(r)->blobs, &by, r->param[0], grace_s, &out, &e);
    json_decref(body);
    if (!rc) http_set_header(r, "Cache-Control", "no-store");
    answer(r, rc, 201, out, &e);
}

static void token_revoke(struct http_request *r)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *out = NULL;
    int rc = admin_query_known(r, no_query, &e) || blobs_revoke(admin_gateway(r)->blobs, &by, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}

const struct http_route routes_engine_tokens[] = {
    ADMIN_READ("/admin/v1/engines/{name}/token", token_get),
    ADMIN_CHANGE("POST", "/admin/v1/engines/{name}/token", token_make),
    ADMIN_CHANGE("DELETE", "/admin/v1/engines/{name}/token", token_revoke),
    {0},
};
