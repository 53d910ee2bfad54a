/* settings_api: the settings in force, and reading them again, for operators. On database threads. */
#include "gateway/api/admin_api.h"
#include "gateway/settings.h"

void admin_settings_get(struct http_request *r)
{
    static const char *const none[] = {NULL};
    struct err e = {0};
    if (admin_query_known(r, none, &e))
        http_reply_error(r, &e);
    else
        admin_reply(r, 200, settings_json(admin_gateway(r)->settings));
}

/* A file that is wrong is the operator's error, not the server's. */
void admin_reload_post(struct http_request *r)
{
    static const char *const none[] = {NULL};
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct actor by = admin_actor(r);
    json_t *body = NULL, *out = NULL;
    int rc = admin_query_known(r, none, &e) || (r->body && admin_body(r, none, &body, &e)) ||
             settings_reload(g->settings, g->db, &by, &out, &e);
    json_decref(body);
    if (rc)
        http_reply_error(r, &e);
    else
        admin_reply(r, 200, out);
}
