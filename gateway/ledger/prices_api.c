/* prices_api: what tokens cost, over HTTP. A price is never edited: a later one replaces it from its moment on, or it is
 * removed. What was settled keeps its cost. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/ledger/price_store.h"
#include <stdlib.h>
#include <string.h>

#define BASE_MAX 127
#define TIME_MAX 253402300799 /* 9999-12-31 */
#define ID_DIGITS 18

static void answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc)
        http_reply_error(r, e);
    else
        admin_reply(r, status, v);
}

static int need_nano(const json_t *body, const char *field, int64_t *out, struct err *e)
{
    bool there = false;
    if (json_get_int(body, field, 0, PRICE_MAX, out, &there, e)) return -1;
    return there ? 0 : err_field(e, ERR_MISSING, field, "'%s' is missing: nano-units of one token.", field);
}

static int read_wish(const json_t *body, struct price_wish *w, struct err *e)
{
    *w = (struct price_wish){.tenant = "", .adapter = "", .valid_from = -1};
    if (json_need_str(body, "base", BASE_MAX, &w->base, e) ||
        json_get_str(body, "tenant", NAME_MAX_LEN, &w->tenant, NULL, e) ||
        json_get_str(body, "adapter", NAME_MAX_LEN, &w->adapter, NULL, e) ||
        json_get_int(body, "valid_from", 0, TIME_MAX, &w->valid_from, NULL, e) ||
        need_nano(body, "prompt_nano", &w->prompt, e) || need_nano(body, "output_nano", &w->output, e))
        return -1;
    if (!*w->base) return err_field(e, ERR_INVALID, "base", "'base' must not be empty.");
    if (*w->adapter && !*w->tenant)
        return err_field(e, ERR_MISSING, "tenant", "The price of an adapter needs its 'tenant'.");
    w->cached = w->prompt;
    return json_get_int(body, "cached_nano", 0, PRICE_MAX, &w->cached, NULL, e);
}

static void post(struct http_request *r)
{
    static const char *const fields[] = {"base",        "tenant",      "adapter",     "valid_from",
                                         "prompt_nano", "cached_nano", "output_nano", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct price_wish w;
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_none(r, &e) || admin_body(r, fields, &body, &e) || read_wish(body, &w, &e) ||
             price_create(admin_gateway(r)->prices, &by, &w, &out, &e);
    json_decref(body);
    answer(r, rc, 201, out, &e);
}

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    return price_list(admin_gateway(r)->prices, p, data, more, e);
}

static void get(struct http_request *r)
{
    admin_answer_page(r, NULL, "id", fill);
}

static void delete (struct http_request *r)
{
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *out = NULL;
    const char *id = r->param[0];
    size_t digits = strspn(id, "0123456789");
    int rc = admin_query_none(r, &e);
    if (!rc && (id[digits] || digits > ID_DIGITS)) rc = err_set(&e, ERR_NOT_FOUND, "There is no price '%.64s'.", id);
    if (!rc) rc = price_remove(admin_gateway(r)->prices, &by, strtoll(id, NULL, 10), &out, &e);
    answer(r, rc, 200, out, &e);
}

const struct http_route routes_prices[] = {
    ADMIN_READ("/admin/v1/prices", get),
    ADMIN_CHANGE("POST", "/admin/v1/prices", post),
    ADMIN_CHANGE("DELETE", "/admin/v1/prices/{id}", delete),
    {0},
};
