/* export_schedules_api: which files are written by themselves, over HTTP; the operator's alone. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/export/export_files.h"
#include "gateway/export/export_schedule.h"
#include <string.h>

#define TIME_MAX 253402300799 /* 9999-12-31 */
#define WORD_MAX 16

/* Takes over v. A change is looked at by the thread that writes at once. */
static void answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc) {
        http_reply_error(r, e);
        return;
    }
    const json_t *revision = json_object_get(v, "revision");
    if (revision) revision_show(r, json_integer_value(revision));
    if (strcmp(r->method, "GET") != 0) export_files_wake(admin_gateway(r)->export_files);
    admin_reply(r, status, v);
}

static int read_wish(const json_t *body, struct schedule_wish *w, struct err *e)
{
    *w = (struct schedule_wish){.tenant = "", .format = "csv", .from = -1};
    return json_need_str(body, "name", NAME_MAX_LEN, &w->name, e) || json_need_str(body, "every", WORD_MAX, &w->every, e) ||
                   json_get_str(body, "format", WORD_MAX, &w->format, NULL, e) || json_get_str(body, "tenant", NAME_MAX_LEN, &w->tenant, NULL, e) ||
                   json_get_int(body, "from", 0, TIME_MAX, &w->from, NULL, e)
               ? -1
               : 0;
}

static void post(struct http_request *r)
{
    static const char *const fields[] = {"name", "every", "format", "tenant", "from", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct schedule_wish w;
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_none(r, &e) || admin_body(r, fields, &body, &e) || read_wish(body, &w, &e) ||
             schedule_create(admin_gateway(r)->db, &by, &w, &out, &e);
    json_decref(body);
    answer(r, rc, 201, out, &e);
}

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return schedule_list(admin_gateway(r)->db, p, data, more, e);
}

static void list(struct http_request *r) { admin_answer_page(r, NULL, "name", fill); }

static void get(struct http_request *r)
{
    struct err e = {0};
    json_t *out = NULL;
    int rc = admin_query_none(r, &e) || schedule_get(admin_gateway(r)->db, r->param[0], &out, &e);
    answer(r, rc, 200, out, &e);
}

static void patch(struct http_request *r)
{
    static const char *const fields[] = {"state", "from", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct schedule_change change = {.from = -1};
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_none(r, &e) || revision_wanted(r, &change.revision, &e) || admin_body(r, fields, &body, &e) ||
             json_get_str(body, "state", WORD_MAX, &change.state, NULL, &e) || json_get_int(body, "from", 0, TIME_MAX, &change.from, NULL, &e) ||
             schedule_update(admin_gateway(r)->db, &by, r->param[0], &change, &out, &e);
    json_decref(body);
    answer(r, rc, 200, out, &e);
}

static void drop(struct http_request *r)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    int64_t want;
    json_t *out = NULL;
    int rc = admin_query_none(r, &e) || revision_wanted(r, &want, &e) || schedule_remove(admin_gateway(r)->db, &by, r->param[0], want, &out, &e);
    answer(r, rc, 200, out, &e);
}

const struct http_route routes_export_schedules[] = {
    ADMIN_READ("/admin/v1/export-schedules", list),
    ADMIN_CHANGE("POST", "/admin/v1/export-schedules", post),
    ADMIN_READ("/admin/v1/export-schedules/{name}", get),
    ADMIN_CHANGE("PATCH", "/admin/v1/export-schedules/{name}", patch),
    ADMIN_CHANGE("DELETE", "/admin/v1/export-schedules/{name}", drop),
    {0},
};
