/* api_selftest: POST /weft/v1/selftest. lora_selftest() computes for a while on the thread that calls it: a side thread.
 * The client may leave meanwhile: the test still runs, for its result may be asked again. */
#include "engine/api_impl.h"

static int read_digest(const struct http_request *r, json_t **root, const char **digest, struct err *e)
{
    return json_parse(r->body, r->body_len, root, e) || json_need_str(*root, "digest", 256, digest, e) ? -1 : 0;
}

/* The engine isn't taken down before the thread has ended. */
void api_selftest_run(struct http_request *r)
{
    struct api *a = r->server_user;
    double err_of[LORA_CHECKS], worst = 0;
    struct err e = {0};
    json_t *root = NULL, *modules = json_object();
    const char *digest;
    if (read_digest(r, &root, &digest, &e) || lora_selftest(a->engine.loras, digest, err_of, &e)) {
        json_decref(modules);
        json_decref(root);
        api_refuse(r, &e);
        return;
    }
    for (int i = 0; i < LORA_CHECKS; i++) {
        if (err_of[i] < 0) continue;
        if (!(err_of[i] <= worst)) worst = err_of[i]; /* NaN becomes the worst */
        json_object_put(&modules, lora_check_name[i], json_real(err_of[i]));
    }
    json_t *answer = json_pack("{s:s, s:o, s:f}", "digest", digest, "modules", modules, "max_error", worst);
    json_decref(root);
    api_reply_json(r, answer);
}

void api_selftest(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    json_t *root = NULL;
    const char *digest;
    const struct api_engine *g = api_hold(a, &e);
    if (g && read_digest(r, &root, &digest, &e) == 0) {
        if (!lora_known(g->loras, digest))
            err_field(&e, ERR_ADAPTER_NOT_LOADED, "digest", "the adapter is not loaded");
        else
            side_push(a->selftests, r, "", &e);
    }
    json_decref(root);
    if (g) api_release(a);
    if (e.code) api_refuse(r, &e);
}
