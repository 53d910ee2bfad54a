/* prices_api: what tokens cost, over HTTP. A price is never edited: a later one replaces it from its moment on, or it is
 * removed. What was settled keeps its cost. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/ledger/price_store.h"
#include <stdlib.h>
#include <string.h>

#define ID_DIGITS 18

static void answer(struct http_request *r, int rc, int status, json_t *v, const struct err *e)
{
    if (rc)
        http_reply_error(r, e);
    else
        admin_reply(r, status, v);
}

static void post(struct http_request *r)
{
    static const char *const fields[] = {"base",        "tenant",      "adapter",     "valid_from",
                                         "prompt_nano", "cached_nano", "output_nano", NULL};
    struct err e = {0};
    struct actor by = admin_actor(r);
    struct price_wish w;
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_none(r, &e) || admin_body(r, fields, &body, &e) || price_read_wish(body, &w, &e) ||
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
