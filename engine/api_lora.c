/* api_lora: vLLM's two adapter routes. An adapter's name is its digest, and nothing else is accepted for one: so what a
 * name stands for can never change, and repeating a load is harmless. An engine that pulls needs no path, and heeds none.
 *
 * The answer comes from a loader's thread when the adapter can be used, or is gone; meanwhile the request holds no
 * thread. The texts of success are vLLM's, for clients that look at them. */
#include "engine/api_impl.h"
#include "engine/pull.h"
#include <stdio.h>
#include <string.h>

#define PATH_MAX_LEN 4096

/* What the callback needs, in the request's arena. */
struct change {
    struct http_request *r;
    const char *done; /* "added", "removed" */
    char digest[SHA256_HEX];
};

static void changed(void *u, const struct err *why)
{
    struct change *c = u;
    char text[160];
    if (why) {
        struct err e = *why;
        api_refuse(c->r, &e);
        return;
    }
    int n = snprintf(text, sizeof text, "Success: LoRA adapter '%s' %s successfully.", c->digest, c->done);
    http_set_header(c->r, "X-Weft-Digest", c->digest);
    http_reply(c->r, 200, "text/plain; charset=utf-8", text, (size_t)n);
}

static int read_change(struct http_request *r, const char *done, bool with_path, struct change **out, const char **path,
                       struct err *e)
{
    json_t *root = NULL;
    const char *name, *folder = NULL;
    struct change *c = arena_alloc(r->arena, sizeof *c);
    if (!c) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    if (json_parse(r->body, r->body_len, &root, e)) return -1;
    if (json_need_str(root, "lora_name", 256, &name, e)) goto out;
    if (with_path && json_get_str(root, "lora_path", PATH_MAX_LEN, &folder, NULL, e)) goto out;
    if (!sha256_is_hex(name)) {
        err_field(e, ERR_INVALID, "lora_name", "'lora_name' must be the adapter's digest: 64 lower-case hex digits");
        goto out;
    }
    c->r = r;
    c->done = done;
    snprintf(c->digest, sizeof c->digest, "%s", name);
    *path = folder ? arena_strdup(r->arena, folder) : NULL;
    if (folder && !*path) err_set(e, ERR_NO_MEMORY, "no memory for the request");
    *out = c;
out:
    json_decref(root);
    return e->code ? -1 : 0;
}

static void change(struct http_request *r, const char *done, bool load)
{
    struct api *a = r->server_user;
    struct err e = {0};
    struct change *c = NULL;
    const char *path = NULL;
    if (read_change(r, done, load, &c, &path, &e)) {
        api_refuse(r, &e);
        return;
    }
    const struct api_engine *g = api_hold(a, &e);
    if (!g) {
        api_refuse(r, &e);
        return;
    }
    if (g->pull && load)
        pull_load(g->pull, c->digest, changed, c);
    else if (g->pull)
        pull_unload(g->pull, c->digest, changed, c);
    else if (load && !path)
        err_field(&e, ERR_MISSING, "lora_path", "'lora_path' is missing: this engine does not fetch adapters by itself");
    else if (load)
        lora_load(g->loras, c->digest, path, changed, c);
    else
        lora_unload(g->loras, c->digest, changed, c);
    api_release(a);
    if (e.code) api_refuse(r, &e);
}

void api_lora_load(struct http_request *r)
{
    change(r, "added", true);
}

void api_lora_unload(struct http_request *r)
{
    change(r, "removed", false);
}
