/* Uploads in parts and imports: /v1/adapters/{name}/uploads... and /import.
 *
 *     POST uploads -> PUT {config|weights} (in parts, again after a loss) -> GET: what is received -> POST complete
 *
 * A part begins at or before the end of what is there, so nothing is ever left out; it is written as it comes, and what
 * came before a connection broke counts. Content-Digest is checked over the part, Repr-Digest over the whole file: at
 * once where one request brings all of it, else when it is complete. A part that is not what its digest says is cut off.
 *
 * The PUT's body is read on the worker; one request at a time works on an upload (busy), so parts don't mix. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/registry/digest_header.h"
#include "gateway/registry/import.h"
#include "gateway/registry/upload_impl.h"
#include "gateway/registry/upload_parts.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PART_CAP ((size_t)1 << 50) /* parts_limit() is the limit */

static void reply_row(struct http_request *r, int status, const struct upload_row *row)
{
    struct err e = {0};
    json_t *o = parts_json(admin_gateway(r), row, &e);
    if (o)
        api_reply(r, status, o);
    else
        api_refuse(r, &e);
}

static void reply_upload(struct http_request *r, int status, const char *of, const char *id)
{
    struct upload_row row;
    struct err e = {0};
    if (registry_upload_get(admin_gateway(r)->registry, of, NULL, id, &row, &e)) {
        api_refuse(r, &e);
        return;
    }
    reply_row(r, status, &row);
    upload_row_close(&row);
}

/* --- beginning --- */

/* The number and the row; id is filled. description may be NULL; url "": parts. */
static int begin(struct http_request *r, const char *description, const char *url, char id[UUID_LEN], int *version,
                 struct err *e)
{
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct version_new v = {.description = description, .upload = id, .bounded = true};
    struct upload_new n = {.url = url,
                           .expires = clock_wall_us() + g->set->upload_ttl_s * 1000000,
                           .most = g->set->max_uploads,
                           .status = *url ? 202 : 201,
                           .show = parts_json_new};
    struct base_desc base;
    struct quota q;
    quota_of(g, admin_tenant(r), &q);
    v.room = q.bytes;
    v.room_count = q.versions;
    if (residency_base(g, "", &base, e)) return -1;
    if (residency_serves(g, api_param(r, 0)))
        return err_field(e, ERR_CONFLICT, "name", "'%s' is the base model's name", api_param(r, 0));
    if (!name_is_valid(api_param(r, 0)))
        return err_field(e, ERR_INVALID, "name",
                         "an adapter's name is 1 to %d characters of a-z 0-9 . _ -, the first a letter or digit",
                         NAME_MAX_LEN);
    uuid7(id);
    snprintf(v.tenant, sizeof v.tenant, "%s", admin_tenant(r));
    snprintf(v.name, sizeof v.name, "%s", api_param(r, 0));
    snprintf(v.base, sizeof v.base, "%s", base.name);
    if (busy_take(g->uploads, id, e)) return -1; /* its folder is there before its row: parts_collect() */
    int rc = parts_make(g, id, e) || registry_begin(g->registry, &by, &v, &n, version, e) ? -1 : 0;
    if (rc) parts_discard(g, id);
    busy_give(g->uploads, id);
    return rc;
}

static int read_description(const json_t *o, const char **out, struct err *e)
{
    *out = NULL;
    return json_get_str(o, "description", DESCRIPTION_MAX, out, NULL, e);
}

static void create(struct http_request *r)
{
    static const char *const names[] = {"description", NULL};
    struct err e = {0};
    json_t *o = NULL;
    const char *description = NULL;
    char id[UUID_LEN];
    int version;
    int rc = admin_query_none(r, &e);
    if (rc == 0 && r->body) rc = admin_body(r, names, &o, &e) || read_description(o, &description, &e) ? -1 : 0;
    if (rc == 0) rc = begin(r, description, "", id, &version, &e);
    json_decref(o);
    if (rc)
        api_refuse(r, &e);
    else
        reply_upload(r, 201, admin_tenant(r), id);
}

static void import(struct http_request *r)
{
    static const char *const names[] = {"url", "config_url", "weights_url", "sha256", "description", NULL};
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct import_ask a = {.url = NULL};
    json_t *o = NULL;
    const char *description = NULL;
    char id[UUID_LEN], *text = NULL;
    struct version_name v = {.version = 0};
    bool wait = false;
    int rc = admin_query_wait(r, &wait, &e) || admin_body(r, names, &o, &e) || read_description(o, &description, &e) ||
                     json_get_str(o, "url", IMPORT_URL_MAX, &a.url, NULL, &e) ||
                     json_get_str(o, "config_url", IMPORT_URL_MAX, &a.config_url, NULL, &e) ||
                     json_get_str(o, "weights_url", IMPORT_URL_MAX, &a.weights_url, NULL, &e) ||
                     json_get_str(o, "sha256", 64, &a.sha256, NULL, &e) || import_write(g, &a, &text, &e) ||
                     begin(r, description, text, id, &v.version, &e)
                 ? -1
                 : 0;
    json_decref(o);
    free(text);
    if (rc) {
        api_refuse(r, &e);
        return;
    }
    snprintf(v.tenant, sizeof v.tenant, "%s", admin_tenant(r));
    snprintf(v.name, sizeof v.name, "%s", api_param(r, 0));
    if (!wait) reply_upload(r, 202, v.tenant, id);
    if (wait) version_wait(g->uploads, r, &v, 201);
    parts_queue(g->uploads, id);
}

/* --- parts --- */

struct put {
    struct gateway *g;
    struct http_request *req;
    struct principal who;
    char id[UUID_LEN];
    int which, fd;
    int64_t first, last, total; /* last, total -1: not said */
    int64_t at;
    bool busy, has_part, has_whole;
    uint8_t part[SHA256_BYTES], whole[SHA256_BYTES];
    struct sha256 sum;
};

/* Before the answer: who has read it may go on with this upload at once. */
static void put_over(struct put *p)
{
    if (!p->busy) return;
    p->busy = false;
    if (p->fd >= 0) close(p->fd);
    p->fd = -1;
    busy_give(p->g->uploads, p->id);
}

static void put_refuse(struct put *p, const struct err *e)
{
    put_over(p);
    api_refuse(p->req, e);
}

static void put_free(struct http_request *r)
{
    put_over(r->user);
}

static int read_headers(const struct http_request *r, struct put *p, struct err *e)
{
    const char *range = http_header(r, "content-range");
    int64_t most = parts_limit(p->g, p->which), n = r->content_length;
    p->first = 0;
    p->last = n > 0 ? n - 1 : -1;
    p->total = n >= 0 ? n : -1;
    if (range && content_range(range, &p->first, &p->last, &p->total, e)) return -1;
    if (range && n >= 0 && n != p->last - p->first + 1)
        return err_field(e, ERR_INVALID, "Content-Range", "Content-Range says %lld bytes, the body has %lld",
                         (long long)(p->last - p->first + 1), (long long)n);
    if (p->last >= most || p->total > most)
        return err_set(e, ERR_TOO_LARGE, "the file %s may have %lld bytes at most", part_file_name[p->which],
                       (long long)most);
    int part = digest_header(http_header(r, "content-digest"), "Content-Digest", p->part, e);
    int whole = digest_header(http_header(r, "repr-digest"), "Repr-Digest", p->whole, e);
    p->has_part = part == 1;
    p->has_whole = whole == 1;
    return part < 0 || whole < 0 ? -1 : 0;
}

static int find_open(const struct http_request *r, struct put *p, struct err *e)
{
    struct upload_row row;
    const char *file = api_param(r, 2);
    p->which = 0;
    while (p->which < FILES && strcmp(part_file_name[p->which], file) != 0) p->which++;
    if (p->which == FILES)
        return err_set(e, ERR_NOT_FOUND, "An upload has the files config and weights, not '%.40s'.", file);
    if (registry_upload_get(p->g->registry, p->who.tenant, api_param(r, 0), api_param(r, 1), &row, e)) return -1;
    bool open = strcmp(row.state, "open") == 0;
    if (!open) err_set(e, ERR_CONFLICT, "The upload is %s.", row.state);
    snprintf(p->id, sizeof p->id, "%s", row.id);
    upload_row_close(&row);
    return open ? 0 : -1;
}

static int open_at(struct put *p, struct err *e)
{
    struct part_file f[FILES];
    if (parts_read(p->g, p->id, f, e)) return -1;
    if (p->first > f[p->which].received)
        return err_field(e, ERR_CONFLICT, "Content-Range", "%lld bytes of %s are there; a part can't begin at %lld",
                         (long long)f[p->which].received, part_file_name[p->which], (long long)p->first);
    if (p->total >= 0 && f[p->which].total >= 0 && p->total != f[p->which].total)
        return err_field(e, ERR_INVALID, "Content-Range",
                         "the file has %lld bytes, an earlier part said; this one says %lld",
                         (long long)f[p->which].total, (long long)p->total);
    p->fd = parts_open(p->g, p->id, p->which, e);
    if (p->fd < 0) return -1;
    if (f[p->which].total < 0 && p->total >= 0) return parts_say(p->g, p->id, p->which, p->total, NULL, e);
    return 0;
}

/* .../complete is a route of its own, for POST; its path fits {file} too. */
static int no_other_route(struct http_request *r, struct err *e)
{
    if (strcmp(api_param(r, 2), "complete") != 0) return 0;
    http_set_header(r, "Allow", "POST");
    return err_set(e, ERR_METHOD, "PUT is not allowed here, POST is");
}

static int put_head(struct http_request *r)
{
    struct err e = {0};
    if (api_who(r)) return -1;
    struct put *p = arena_alloc(r->arena, sizeof *p);
    if (!p) {
        err_set(&e, ERR_NO_MEMORY, "no memory for the upload");
        api_refuse(r, &e);
        return -1;
    }
    *p = (struct put){.g = r->server_user, .req = r, .who = *admin_who(r), .fd = -1};
    sha256_init(&p->sum);
    if (no_other_route(r, &e) || admin_query_none(r, &e) || find_open(r, p, &e) || read_headers(r, p, &e) || busy_take(p->g->uploads, p->id, &e)) {
        api_refuse(r, &e);
        return -1;
    }
    p->at = p->first;
    p->busy = true;
    r->user = p;
    http_on_free(r, put_free);
    if (find_open(r, p, &e) == 0 && open_at(p, &e) == 0) return 0; /* it may have been completed or removed meanwhile */
    put_refuse(p, &e);
    return -1;
}

static int put_write(struct put *p, const char *bytes, size_t n, struct err *e)
{
    int64_t most = p->last >= 0 ? p->last + 1 : parts_limit(p->g, p->which);
    if ((int64_t)n > most - p->at)
        return p->last >= 0 ? err_field(e, ERR_INVALID, "Content-Range", "the body is longer than Content-Range says")
                            : err_set(e, ERR_TOO_LARGE, "the file %s may have %lld bytes at most",
                                      part_file_name[p->which], (long long)most);
    sha256_add(&p->sum, bytes, n);
    while (n > 0) {
        ssize_t w = pwrite(p->fd, bytes, n, p->at);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return err_errno(e, "cannot store the upload");
        bytes += w;
        n -= (size_t)w;
        p->at += w;
    }
    return 0;
}

static int put_sink(struct http_request *r, const char *bytes, size_t n)
{
    struct err e = {0};
    if (put_write(r->user, bytes, n, &e) == 0) return 0;
    put_refuse(r->user, &e);
    return -1;
}

/* What came is not what was said: it does not count. */
static int cut_off(struct put *p, const char *header, struct err *e)
{
    if (ftruncate(p->fd, p->first)) return err_errno(e, "cannot store the upload");
    return err_field(e, ERR_INVALID, header, "the bytes are not those of %s; send them again from %lld on", header,
                     (long long)p->first);
}

static int put_end(struct put *p, struct err *e)
{
    uint8_t sum[SHA256_BYTES];
    char hex[SHA256_HEX];
    sha256_end(&p->sum, sum);
    if (p->last >= 0 && p->at != p->last + 1)
        return err_field(e, ERR_INVALID, "Content-Range", "the body is shorter than Content-Range says");
    if (p->last < 0) p->total = p->at;
    bool all = p->first == 0 && p->total == p->at;
    if (p->has_part && memcmp(sum, p->part, sizeof sum) != 0) return cut_off(p, "Content-Digest", e);
    if (p->has_whole && all && memcmp(sum, p->whole, sizeof sum) != 0) return cut_off(p, "Repr-Digest", e);
    if (all && ftruncate(p->fd, p->total)) return err_errno(e, "cannot store the upload");
    sha256_hex(p->whole, hex);
    if (fsync(p->fd)) return err_errno(e, "cannot store the upload");
    return parts_say(p->g, p->id, p->which, p->total, p->has_whole ? hex : NULL, e);
}

static void put_now(void *u)
{
    struct put *p = u;
    struct err e = {0};
    if (put_end(p, &e)) {
        put_refuse(p, &e);
        return;
    }
    put_over(p);
    reply_upload(p->req, 200, p->who.tenant, p->id);
}

static void put_handle(struct http_request *r)
{
    struct err e = {0};
    if (db_defer(admin_gateway(r)->db, put_now, r->user, &e)) put_refuse(r->user, &e);
}

/* --- looking, completing, deleting --- */

static int find(struct http_request *r, struct upload_row *row, struct err *e)
{
    return registry_upload_get(admin_gateway(r)->registry, admin_tenant(r), api_param(r, 0), api_param(r, 1), row, e);
}

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    struct gateway *g = admin_gateway(r);
    size_t i;
    json_t *o;
    if (registry_upload_list(g->registry, admin_tenant(r), api_param(r, 0), p, data, more, e)) return -1;
    json_array_foreach(data, i, o) if (parts_add_files(g, o, e)) return -1;
    return 0;
}

static void list(struct http_request *r)
{
    admin_answer_page(r, NULL, "id", fill);
}

static void get(struct http_request *r)
{
    struct upload_row row;
    struct err e = {0};
    if (admin_query_none(r, &e) || find(r, &row, &e)) {
        api_refuse(r, &e);
        return;
    }
    reply_row(r, 200, &row);
    upload_row_close(&row);
}

static int check_whole(struct http_request *r, const struct upload_row *row, struct err *e)
{
    struct part_file f[FILES];
    if (parts_read(admin_gateway(r), row->id, f, e)) return -1;
    for (int i = 0; i < FILES; i++)
        if (f[i].received == 0 || f[i].received != (f[i].total >= 0 ? f[i].total : f[i].received))
            return err_field(e, ERR_CONFLICT, part_file_name[i], "%lld bytes of %s are there; it is not complete",
                             (long long)f[i].received, part_file_name[i]);
    return 0;
}

static int complete_open(struct http_request *r, const struct upload_row *row, const struct actor *by, struct answer_keep *keep, struct err *e)
{
    struct gateway *g = admin_gateway(r);
    if (busy_take(g->uploads, row->id, e)) return -1;
    int rc = check_whole(r, row, e) || (keep && parts_add_files(g, keep->beside, e)) || registry_upload_complete(g->registry, by, row->id, keep, e) ? -1 : 0;
    busy_give(g->uploads, row->id);
    return rc;
}

/* *kept: as in adapters_api.c. */
static int complete_row(struct http_request *r, const struct upload_row *row, bool open, json_t **kept, struct err *e)
{
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct answer_keep k = {by.once ? json_pack("{ss}", "id", row->id) : NULL, NULL}, *keep = by.once ? &k : NULL;
    int rc = keep && !k.beside ? err_set(e, ERR_NO_MEMORY, "no memory for the answer") : 0;
    if (rc == 0 && open)
        rc = complete_open(r, row, &by, keep, e);
    else if (rc == 0 && keep)
        rc = parts_add_files(g, k.beside, e) || registry_upload_keep(g->registry, &by, row->id, keep, e) ? -1 : 0;
    json_decref(k.beside);
    if (rc == 0)
        *kept = k.out;
    else
        json_decref(k.out);
    return rc;
}

/* Said again it says how things stand: the first answer may have been lost. */
static void complete(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct upload_row row;
    struct err e = {0};
    bool wait;
    if (admin_query_wait(r, &wait, &e) || find(r, &row, &e)) {
        api_refuse(r, &e);
        return;
    }
    struct version_name v = {.version = row.version};
    memcpy(v.tenant, row.tenant, sizeof v.tenant);
    memcpy(v.name, row.adapter, sizeof v.name);
    bool open = strcmp(row.state, "open") == 0;
    json_t *kept = NULL;
    if (complete_row(r, &row, open, &kept, &e)) {
        api_refuse(r, &e);
        upload_row_close(&row);
        return;
    }
    if (wait)
        version_wait(g->uploads, r, &v, open ? 201 : 200);
    else if (kept)
        api_reply(r, open ? 202 : 200, json_incref(kept));
    else
        reply_upload(r, open ? 202 : 200, v.tenant, row.id);
    json_decref(kept);
    if (open) parts_queue(g->uploads, row.id);
    upload_row_close(&row);
}

static void drop(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct upload_row row;
    struct err e = {0};
    if (admin_query_none(r, &e) || find(r, &row, &e)) {
        api_refuse(r, &e);
        return;
    }
    int rc = busy_take(g->uploads, row.id, &e);
    if (rc == 0) {
        rc = registry_upload_drop(g->registry, &by, row.id, &e);
        if (rc == 0) parts_discard(g, row.id);
        busy_give(g->uploads, row.id);
    }
    if (rc)
        api_refuse(r, &e);
    else
        api_reply(r, 200, json_pack("{ss ss sb}", "id", row.id, "object", "adapter.upload", "deleted", 1));
    upload_row_close(&row);
}

/* --- routes --- */

#define PUT(where, path)                                                                                               \
    {                                                                                                                  \
        "PUT", where "/{name}/uploads/{id}/{file}", HTTP_BODY_SINK, PART_CAP, put_head, put_sink, put_handle,          \
            &(const struct api_route)                                                                                  \
        {                                                                                                              \
            SCOPE_WRITE, path, NULL                                                                                    \
        }                                                                                                              \
    }

const struct http_route routes_uploads[] = {
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/uploads", HTTP_BODY_BUFFER, API_BODY_MAX, create),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/import", HTTP_BODY_BUFFER, API_BODY_MAX, import),
    TENANT_ROWS(SCOPE_WRITE, "GET", "/adapters/{name}/uploads", HTTP_BODY_NONE, 0, list),
    TENANT_ROWS(SCOPE_WRITE, "GET", "/adapters/{name}/uploads/{id}", HTTP_BODY_NONE, 0, get),
    TENANT_ROWS(SCOPE_WRITE, "DELETE", "/adapters/{name}/uploads/{id}", HTTP_BODY_NONE, 0, drop),
    TENANT_ROWS(SCOPE_WRITE, "POST", "/adapters/{name}/uploads/{id}/complete", HTTP_BODY_NONE, 0, complete),
    PUT("/v1/adapters", false),
    PUT("/t/{tenant}/v1/adapters", true),
    {0},
};
