/* api_text: which thread gets a request for text ready. A short one is tokenized by the HTTP worker that read it; a long
 * one, or one whose answer has a shape that may have to be compiled, takes milliseconds, in which the worker's streams
 * would stand still: it goes to a side thread (api_side.c), tenants in turn. There a call comes back, too, whose prompt was scored (api_compress.c). */
#include "engine/api_call.h"
#include <string.h>

#define LIGHT_BODY (16u << 10) /* bytes: a millisecond or two */

/* A word that stands in a message does no harm. */
static bool is_heavy(const struct http_request *r)
{
    static const char *const words[] = {"\"response_format\"", "\"structured_outputs\"", "\"guided_",
                                        "\"tool_choice\""};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (r->body_len && memmem(r->body, r->body_len, words[i], strlen(words[i]))) return true;
    return r->body_len > LIGHT_BODY;
}

static void run(struct http_request *r, const struct api_engine *g)
{
    if (!strcmp(r->path, "/weft/v1/tokenize"))
        api_count(r, g);
    else
        api_generate(r, g, !strcmp(r->path, "/v1/completions") ? ASK_COMPLETION : ASK_CHAT);
}

/* The engine isn't taken down before the side thread has ended. */
void api_text_run(struct http_request *r)
{
    struct api *api = r->server_user;
    if (r->user)
        compress_go_on(r->user, &api->engine);
    else
        run(r, &api->engine);
}

void api_text(struct http_request *r)
{
    struct api *api = r->server_user;
    struct err e = {0};
    const char *tenant = http_header(r, "X-Weft-Tenant");
    const struct api_engine *g = api_hold(api, &e);
    if (g && !is_heavy(r))
        run(r, g);
    else if (g)
        side_push(api->preparing, r, tenant ? tenant : "", &e);
    if (g) api_release(api);
    if (e.code) api_refuse(r, &e);
}
