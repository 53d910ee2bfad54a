/* requests_api: single requests over HTTP: the list with filters, one with its times and adjustments, and those that did not complete. One code for the
 * tenant and the operator (see stats_api.h). On database threads. */
#include "gateway/api/page.h"
#include "gateway/ledger/ledger_find.h"
#include "gateway/stats/stats_api.h"
#include <string.h>

#define TIME_MAX 253402214400 /* 9999-12-31 */
#define DURATION_MAX_MS 86400000
#define ERRORS_DEFAULT 50

static int read_state(const struct http_request *r, int *state, struct err *e)
{
    *state = -1;
    return stats_query_word(r, "state", usage_state_name, USAGE_STATES, state, e);
}

static int read_cursor(const struct page *p, struct err *e)
{
    if (!*page_cursor(p) || uuid_is(page_cursor(p))) return 0;
    return err_field(e, ERR_INVALID, page_back(p) ? "before" : "after", "The cursor must be the id of a request.");
}

static int read_times(const struct http_request *r, struct request_filter *f, struct err *e)
{
    if (admin_query_int(r, "start_time", 0, TIME_MAX, &f->start, e) || admin_query_int(r, "end_time", 1, TIME_MAX, &f->end, e)) return -1;
    return f->end ? admin_query_in_order(f->start, f->end, e) : 0;
}

/* What no row can have is no filter but a mistake. */
static int check_lengths(const struct http_request *r, struct err *e)
{
    static const struct {
        const char *name;
        size_t most;
    } of[] = {{"adapter", 128}, {"model", 255}, {"endpoint", 64}, {"engine", 64}, {"key", 64}, {"api_key_id", 64}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const char *v = http_query(r, of[i].name);
        if (v && strlen(v) > of[i].most) return err_field(e, ERR_INVALID, of[i].name, "'%s' has at most %zu bytes.", of[i].name, of[i].most);
    }
    return 0;
}

static int read_filter(const struct http_request *r, bool admin, struct request_filter *f, struct err *e)
{
    int64_t duration_ms = 0;
    *f = (struct request_filter){.key = http_query(r, "api_key_id"),
                                 .model = http_query(r, "model"),
                                 .endpoint = http_query(r, "endpoint"),
                                 .engine = http_query(r, "engine"),
                                 .adapter = http_query(r, "adapter"),
                                 .named = admin};
    if (http_query(r, "key")) f->key = http_query(r, "key");
    if (check_lengths(r, e) || read_state(r, &f->state, e) || read_times(r, f, e) || admin_query_int(r, "min_duration_ms", 0, DURATION_MAX_MS, &duration_ms, e)) return -1;
    f->min_duration_us = duration_ms * 1000;
    return 0;
}

static json_t *id_at(json_t *list, size_t i)
{
    json_t *id = json_object_get(json_array_get(list, i), "id");
    return id ? json_incref(id) : json_null();
}

/* A walk that was ended early goes on at `place`, in its direction. */
static json_t *list_json(json_t *list, bool back, const char *place, bool more)
{
    size_t n = json_array_size(list);
    json_t *first = back && *place ? json_string(place) : id_at(list, 0), *last = !back && *place ? json_string(place) : id_at(list, n - 1);
    return json_pack("{ss so so so sb}", "object", "list", "data", list, "first_id", first, "last_id", last, "has_more", more);
}

static int ask_list(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const own[] = {"state", "adapter", "key", "api_key_id", "endpoint", "model", "engine", "start_time", "end_time", "min_duration_ms", NULL};
    static const char *const all[] = {"state", "adapter",    "key",      "api_key_id",      "endpoint", "model",
                                      "engine", "start_time", "end_time", "min_duration_ms", "tenant",   NULL};
    struct request_filter f;
    struct page p;
    char place[UUID_LEN];
    bool more;
    if (page_read(r, admin ? all : own, &p, e) || read_cursor(&p, e) || read_filter(r, admin, &f, e)) return -1;
    json_t *list = json_array();
    if (ledger_requests(admin_gateway(r)->ledger, tenant, &f, &p, list, &more, place, e)) {
        json_decref(list);
        return -1;
    }
    *out = list_json(list, page_back(&p), place, more);
    return 0;
}

static int ask_one(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const own[] = {NULL}, *const all[] = {"tenant", NULL};
    const char *id = r->param[strncmp(r->path, "/t/", 3) == 0];
    if (admin_query_known(r, admin ? all : own, e)) return -1;
    if (!uuid_is(id)) return err_set(e, ERR_NOT_FOUND, "There is no request '%.64s' that has ended.", id);
    return ledger_request(admin_gateway(r)->ledger, tenant, id, admin, out, e);
}

static int ask_errors(struct http_request *r, bool admin, const char *tenant, json_t **out, struct err *e)
{
    static const char *const own[] = {"state", "start_time", "end_time", NULL}, *const all[] = {"state", "start_time", "end_time", "tenant", NULL};
    struct request_filter f = {.named = admin};
    struct page p;
    bool more;
    if (page_read(r, admin ? all : own, &p, e) || read_cursor(&p, e) || read_state(r, &f.state, e) || read_times(r, &f, e)) return -1;
    if (!http_query(r, "limit")) p.limit = ERRORS_DEFAULT;
    json_t *list = json_array();
    if (ledger_errors(admin_gateway(r)->ledger, tenant, &f, &p, list, &more, e)) {
        json_decref(list);
        return -1;
    }
    *out = list_json(list, page_back(&p), "", more);
    return 0;
}

const struct http_route routes_requests[] = {
    STATS_OWN("/usage/requests", ask_list),
    STATS_OWN("/usage/requests/{id}", ask_one),
    STATS_OWN("/stats/errors", ask_errors),
    {0},
};

const struct http_route routes_requests_admin[] = {
    STATS_ADMIN("/usage/requests", ask_list),
    STATS_ADMIN("/usage/requests/{id}", ask_one),
    STATS_ADMIN("/stats/errors", ask_errors),
    {0},
};
