/* whoami_api: what a key is, said to whoever holds it: its public id, whose it is, what it may do; and the currency that amounts are in.
 *
 * For programs and pages that show what a key may do before they try it: without this they would have to ask route after route and read the
 * refusals. It tells nothing that the key itself could not find out. Event threads; from the request's own snapshot, no database. */
#include "base/json.h"
#include "gateway/api/admin_api.h"
#include "gateway/settings.h"

static void get(struct http_request *r)
{
    const struct principal *who = admin_who(r);
    struct err e = {0};
    json_t *scopes = json_array();
    const char *word;
    int at = 0;
    if (admin_query_none(r, &e)) {
        json_decref(scopes);
        http_reply_error(r, &e);
        return;
    }
    while ((word = auth_scope_word(who->scopes, &at))) json_array_append_new(scopes, json_string(word));
    http_set_header(r, "Cache-Control", "no-store");
    admin_reply(r, 200, json_pack("{ss ss ss? so ss}", "object", "whoami", "key", who->key, "tenant", *who->tenant ? who->tenant_name : NULL, "scopes", scopes,
                                  "currency", admin_gateway(r)->set->currency));
}

const struct http_route routes_whoami[] = {
    {"GET", "/v1/whoami", HTTP_BODY_NONE, 0, admin_any_head, NULL, get, NULL},
    {"GET", "/t/{tenant}/v1/whoami", HTTP_BODY_NONE, 0, admin_any_head, NULL, get, NULL},
    {0},
};

const struct http_route routes_whoami_admin[] = {
    {"GET", "/admin/v1/whoami", HTTP_BODY_NONE, 0, admin_head, NULL, get, NULL},
    {0},
};
