/* usage_api: GET /v1/usage in the shape of OpenAI's usage API, and the list of single requests.
 *
 *     start_time, end_time  Unix seconds; start inclusive, end exclusive; without a start: the last `limit` buckets
 *     bucket_width          1m, 1h, 1d (default)
 *     group_by              model, key (api_key_id), state, adapter, version; comma or repeated; the operator also tenant.
 *                           Minutes and hours are kept by state (and tenant) only: other groups are refused, not ignored.
 *     limit, page           buckets of one answer; page is the next_page of the answer before
 *
 * One code serves the tenant (its own id, from its key) and the operator (everybody, or ?tenant=NAME). On database threads. */
#include "base/clock.h"
#include "gateway/admin_api.h"
#include "gateway/auth_store.h"
#include "gateway/ledger_query.h"
#include "gateway/page.h"
#include <stdio.h>
#include <string.h>

#define TIME_MAX 253402300799 /* 9999-12-31 */

static const struct {
    const char *word;
    int64_t width_s;
    int limit, limit_max;
} widths[] = {{"1m", 60, 60, 1440}, {"1h", 3600, 24, 168}, {"1d", 86400, 7, 31}};

static const struct {
    const char *word;
    enum usage_group bit;
} groups[] = {
    {"model", GROUP_MODEL}, {"key", GROUP_KEY}, {"api_key_id", GROUP_KEY}, {"state", GROUP_STATE}, {"adapter", GROUP_ADAPTER},
    {"version", GROUP_VERSION}, {"tenant", GROUP_TENANT},
};

struct parse {
    unsigned group;
    bool admin;
    struct err *e;
};

static int add_group(struct parse *p, const char *word, size_t n)
{
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (strlen(groups[i].word) != n || memcmp(groups[i].word, word, n) != 0) continue;
        if (groups[i].bit == GROUP_TENANT && !p->admin) break;
        p->group |= groups[i].bit;
        return 0;
    }
    return err_field(p->e, ERR_INVALID, "group_by", "'group_by' knows model, key, state, adapter%s and version, not '%.*s'.",
                     p->admin ? ", tenant" : "", n > 40 ? 40 : (int)n, word);
}

static void look_at(void *u, const char *name, const char *value)
{
    struct parse *p = u;
    if (strcmp(name, "group_by") != 0 && strcmp(name, "group_by[]") != 0) return;
    for (const char *word = value;; word++) {
        size_t n = strcspn(word, ",");
        if (add_group(p, word, n)) return;
        word += n;
        if (!*word) return;
    }
}

static int read_times(const struct http_request *r, struct usage_query *q, struct err *e)
{
    int64_t now = clock_wall_us() / 1000000, page = 0;
    q->end = now;
    if (admin_query_int(r, "end_time", 0, TIME_MAX, &q->end, e)) return -1;
    int64_t last = (q->end + q->width_s - 1) / q->width_s * q->width_s, span = q->limit * q->width_s;
    q->start = last > span ? last - span : 0; /* so that the first page ends with the bucket of now */
    if (admin_query_int(r, "start_time", 0, TIME_MAX, &q->start, e) || admin_query_int(r, "page", 0, TIME_MAX, &page, e)) return -1;
    if (q->start >= q->end)
        return err_field(e, ERR_INVALID, "start_time", "'start_time' (%lld) must be before 'end_time' (%lld).", (long long)q->start,
                         (long long)q->end);
    if (page > q->start) q->start = page;
    if (q->start >= q->end) return err_field(e, ERR_INVALID, "page", "'page' is past 'end_time'.");
    return 0;
}

static int read_width(const struct http_request *r, struct usage_query *q, struct err *e)
{
    const char *word = http_query(r, "bucket_width");
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        if (strcmp(word ? word : "1d", widths[i].word) != 0) continue;
        int64_t limit = widths[i].limit;
        if (admin_query_int(r, "limit", 1, widths[i].limit_max, &limit, e)) return -1;
        q->width_s = widths[i].width_s;
        q->limit = (int)limit;
        return 0;
    }
    return err_field(e, ERR_INVALID, "bucket_width", "'bucket_width' must be 1m, 1h or 1d, not '%.40s'.", word);
}

static int read_query(const struct http_request *r, bool admin, struct usage_query *q, struct err *e)
{
    static const char *const own[] = {"start_time", "end_time", "bucket_width", "group_by", "group_by[]", "limit", "page", NULL};
    static const char *const all[] = {"start_time", "end_time", "bucket_width", "group_by", "group_by[]", "limit", "page", "tenant", NULL};
    struct err bad = {0};
    struct parse p = {.admin = admin, .e = &bad};
    if (admin_query_known(r, admin ? all : own, e)) return -1;
    http_query_each(r, look_at, &p);
    if (bad.code) return err_field(e, bad.code, bad.param, "%s", bad.msg);
    q->group = p.group;
    if (read_width(r, q, e) || read_times(r, q, e)) return -1;
    if (q->width_s < 86400 && (q->group & ~(unsigned)USAGE_SPAN_GROUPS))
        return err_field(e, ERR_INVALID, "group_by", "Buckets of 1m and 1h are kept by %sstate only; use bucket_width=1d.", admin ? "tenant and " : "");
    return 0;
}

/* ?tenant=NAME of the operator -> its id in the request's memory. */
static int named_tenant(struct http_request *r, const char **id, struct err *e)
{
    const char *name = http_query(r, "tenant");
    json_t *o;
    if (!name) return 0;
    if (tenant_get(admin_gateway(r)->auth, name, &o, e)) return -1;
    *id = arena_strdup(r->arena, json_string_value(json_object_get(o, "id")));
    json_decref(o);
    return *id ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a request");
}

static int answer(struct http_request *r, const char *tenant, json_t *data, struct err *e)
{
    struct usage_query q = {.tenant = tenant};
    int64_t next;
    char page[24];
    if (read_query(r, !tenant, &q, e) || (!tenant && named_tenant(r, &q.tenant, e))) return -1;
    if (ledger_usage(admin_gateway(r)->ledger, &q, data, &next, e)) return -1;
    snprintf(page, sizeof page, "%lld", (long long)next);
    admin_reply(r, 200, json_pack("{ss sO sb ss?}", "object", "page", "data", data, "has_more", next != 0, "next_page", next ? page : NULL));
    return 0;
}

void usage_answer(struct http_request *r, const char *tenant)
{
    struct err e = {0};
    json_t *data = json_array();
    if (answer(r, tenant, data, &e)) http_reply_error(r, &e);
    json_decref(data);
}

static int read_requests_query(struct http_request *r, bool admin, const char **tenant, struct page *p, struct err *e)
{
    static const char *const also[] = {"tenant", NULL};
    if (page_read(r, admin ? also : NULL, p, e)) return -1;
    if (*page_cursor(p) && !uuid_is(page_cursor(p)))
        return err_field(e, ERR_INVALID, page_back(p) ? "before" : "after", "The cursor must be the id of a request.");
    return admin ? named_tenant(r, tenant, e) : 0;
}

void usage_answer_requests(struct http_request *r, const char *tenant)
{
    struct err e = {0};
    struct page p = {0};
    bool more, admin = !tenant;
    json_t *list = json_array();
    if (read_requests_query(r, admin, &tenant, &p, &e) || ledger_requests(admin_gateway(r)->ledger, tenant, &p, list, &more, &e)) {
        json_decref(list);
        http_reply_error(r, &e);
        return;
    }
    admin_reply_list(r, list, "id", more);
}

/* --- the tenant's routes --- */

static int tenant_head(struct http_request *r)
{
    struct principal who;
    struct err e = {0};
    if (auth_check(admin_gateway(r)->auth, http_bearer(r), r->param[0], SCOPE_USAGE, &who, &e) == 0) return admin_set_who(r, &who);
    http_reply_error(r, &e);
    return -1;
}

static void own_usage(struct http_request *r) { usage_answer(r, admin_who(r)->tenant); }

static void own_requests(struct http_request *r) { usage_answer_requests(r, admin_who(r)->tenant); }

static void get_usage(struct http_request *r) { admin_defer(r, own_usage); }

static void get_requests(struct http_request *r) { admin_defer(r, own_requests); }

const struct http_route routes_usage[] = {
    {"GET", "/v1/usage", HTTP_BODY_NONE, 0, tenant_head, NULL, get_usage, NULL},
    {"GET", "/t/{tenant}/v1/usage", HTTP_BODY_NONE, 0, tenant_head, NULL, get_usage, NULL},
    {"GET", "/v1/usage/requests", HTTP_BODY_NONE, 0, tenant_head, NULL, get_requests, NULL},
    {"GET", "/t/{tenant}/v1/usage/requests", HTTP_BODY_NONE, 0, tenant_head, NULL, get_requests, NULL},
    {0},
};
