/* backup_api: backups over HTTP, of the admin listener (docs/BACKUP.md). What takes long is asked for here and done by upkeep.c: 202, and the object's
 * state says how far it is. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/backup/upkeep.h"

static void answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc) http_reply_error(r, e);
    else admin_reply(r, status, v);
}

static void post(struct http_request *r)
{
    static const char *const fields[] = {"verify", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *body = NULL, *out = NULL;
    bool verify = false;
    int rc = admin_query_none(r, &e) || admin_body(r, fields, &body, &e) || json_get_bool(body, "verify", &verify, NULL, &e) ||
             upkeep_backup(admin_gateway(r)->upkeep, &by, verify, &out, &e);
    json_decref(body);
    answer(r, rc, 202, out, &e);
}

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return upkeep_list(admin_gateway(r)->upkeep, p, data, more, e);
}

static void list(struct http_request *r) { admin_answer_page(r, NULL, "id", fill); }

static void get(struct http_request *r)
{
    struct err e = {0};
    json_t *out = NULL;
    int rc = admin_query_none(r, &e) || upkeep_get(admin_gateway(r)->upkeep, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}

static void verify(struct http_request *r)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *out = NULL;
    int rc = admin_query_none(r, &e) || upkeep_verify(admin_gateway(r)->upkeep, &by, r->param[0], &out, &e);
    answer(r, rc, 202, out, &e);
}

static void delete(struct http_request *r)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *out = NULL;
    int rc = admin_query_none(r, &e) || upkeep_remove(admin_gateway(r)->upkeep, &by, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}

const struct http_route routes_backup[] = {
    ADMIN_CHANGE("POST", "/admin/v1/backups", post),
    ADMIN_READ("/admin/v1/backups", list),
    ADMIN_READ("/admin/v1/backups/{id}", get),
    ADMIN_CHANGE("DELETE", "/admin/v1/backups/{id}", delete),
    ADMIN_CHANGE("POST", "/admin/v1/backups/{id}/verify", verify),
    {0},
};
