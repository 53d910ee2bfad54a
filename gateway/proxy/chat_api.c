/* POST /v1/chat/completions and /v1/completions: read what the request asks as far as the gateway must, note it, send
 * it on.
 *
 *   head    who (401, 403), how long (413), whether there is room (503): before the body is read
 *   handle  JSON (400) -> model (404) -> the body for the engine -> limit_start() (429) -> upstream_start(), which answers
 *
 * What the body says, and what is written into it, is chat_ask.c's: here names become versions, with their holds, and the salt of the
 * prefix cache is made. The headers of the engine's protocol are made afresh: what a client sends under those names never
 * gets that far.
 *
 * Worker threads. */
#include "gateway/proxy/chat_api.h"
#include "base/json.h"
#include "gateway/capture/capture.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/observe/observe.h"
#include "gateway/proxy/chat_ask.h"
#include "gateway/proxy/quarantine.h"
#include "gateway/proxy/trial.h"
#include "gateway/proxy/upstream.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/quality.h"
#include "gateway/registry/alias.h"
#include "gateway/registry/prompt_policy.h"
#include "gateway/registry/residency.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_CAP (64u << 20) /* beside the setting max_body, which is looked at first where a length is declared */

struct endpoint {
    const char *path;
    bool chat;
};

static const struct endpoint chat = {"/v1/chat/completions", true}, completion = {"/v1/completions", false};

/* --- shared with the other files of the tenants' API --- */

void api_refuse(struct http_request *r, const struct err *e)
{
    http_reply_error(r, e);
}

void api_reply(struct http_request *r, int status, struct json_t *v)
{
    struct buf b;
    struct err e = {0};
    buf_init(&b, API_REPLY_MAX);
    bool whole = !json_was_short(r->t_start_us);
    if (!v || json_dump(v, false, &b) || !whole) {
        err_set(&e, ERR_NO_MEMORY, "no memory for the answer");
        http_reply_error(r, &e);
    } else {
        http_reply(r, status, NULL, b.data, b.len);
    }
    json_decref(v);
    buf_close(&b);
}

int api_who(struct http_request *r)
{
    struct gateway *g = r->server_user;
    const struct api_route *route = api_route(r);
    struct err e = {0};
    struct principal *who = arena_alloc(r->arena, sizeof *who);
    if (!who)
        err_set(&e, ERR_NO_MEMORY, "no memory for the request");
    else if ((route->scope == SCOPE_INFER && !route->in_path && evaluations_guest(g->evaluations, http_bearer(r), who)) ||
             auth_check(g->auth, http_bearer(r), route->in_path ? r->param[0] : NULL, route->scope, who, &e) == 0) {
        r->who = r->user = who;
        return 0;
    }
    api_refuse(r, &e);
    return -1;
}

/* --- the request --- */

static int check_length(struct gateway *g, int64_t n, struct err *e)
{
    if (n <= g->set->max_body) return 0;
    return err_set(e, ERR_TOO_LARGE, "the body has %lld bytes; at most %lld are taken", (long long)n,
                   (long long)g->set->max_body);
}

static int head(struct http_request *r)
{
    struct err e = {0};
    observe_begin(r);
    if (api_who(r)) return -1;
    struct gateway *g = r->server_user;
    const struct principal *who = r->user;
    if (check_length(g, r->content_length, &e) == 0 && pressure_class(g, who->class, &e) == 0 && upstream_has_room(g->upstream, who, &e) == 0)
        return 0;
    api_refuse(r, &e);
    return -1;
}

/* Root of the tenant's prefix cache on an engine: HMAC of tenant, adapter digest and base digest under the pepper. */
static void cache_salt(struct gateway *g, const char *tenant, const struct target *t, const char *base_digest,
                       char out[SHA256_HEX])
{
    char text[3 * SHA256_HEX];
    uint8_t mac[SHA256_BYTES];
    int n = snprintf(text, sizeof text, "%s %s %s", tenant, t->digest, base_digest);
    sha256_hmac(db_pepper(g->db), SHA256_BYTES, text, (size_t)n, mac);
    sha256_hex(mac, out);
}

/* --- which --- */

/* A base by its name. ERR_UNAVAILABLE: not known yet; ERR_MODEL_NOT_FOUND. */
static int find_base(struct gateway *g, const char *name, struct pool_base_id *out, int *max_context, struct err *e)
{
    if (!*name) return err_field(e, ERR_MODEL_NOT_FOUND, "model", "The model `` does not exist or you do not have access to it.");
    return pool_base_id(g->pool, name, out, max_context, e);
}

/* What answers a model name: the base of that name, or what the registry says, with its holds. */
static int choose(struct http_request *r, const struct chat_ask *w, const char *model, struct choice *out, struct err *e)
{
    struct gateway *g = r->server_user;
    const struct principal *who = r->user;
    struct pool_base_id base;
    struct err why = {0};
    int context;
    if (*model && find_base(g, model, &base, &context, &why) == 0) {
        *out = (struct choice){.n = 1, .target = {{.is_base = true}}};
        snprintf(out->target[0].base, sizeof out->target[0].base, "%s", base.name);
        return 0;
    }
    if (*model && why.code != ERR_MODEL_NOT_FOUND) return err_set(e, why.code, "%s", why.msg);
    struct alias_ask a = {.tenant = who->tenant,
                          .model = model,
                          .request = r->id,
                          .user = w->user,
                          .key = who->key,
                          .served = residency_serves,
                          .u = g};
    return alias_choose(g->registry, &a, out, e);
}

/* The need takes over the target's hold. */
static void add_need(struct upstream_route *w, const struct target *t, const char *name)
{
    struct upstream_need *n = &w->need[w->nneeds++];
    snprintf(n->digest, sizeof n->digest, "%s", t->digest);
    snprintf(n->name, sizeof n->name, "%s", name);
    snprintf(n->version, sizeof n->version, "%s@%d", t->adapter, t->version);
}

/* One of `adapters`: its name is the tenant's own, like `model`; the engine knows digests. Of an alias it is the first that
 * can serve. */
static int resolve_adapter(struct http_request *r, const struct chat_ask *w, json_t *root, size_t i, const char *base,
                           struct upstream_route *to, struct err *e)
{
    struct gateway *g = r->server_user;
    struct choice c;
    const char *name = NULL;
    if (chat_ask_adapter(root, i, &name, e) || choose(r, w, name, &c, e)) return -1;
    int rc = c.target[0].is_base ? err_set(e, ERR_INVALID, "`%.128s` is the base, not an adapter", name) : 0;
    if (rc == 0 && strcmp(c.target[0].base, base) != 0)
        rc = err_set(e, ERR_INVALID, "`%.128s` was made for the base `%.127s`; the model's is `%.127s`", name,
                     c.target[0].base, base);
    if (rc == 0) {
        add_need(to, &c.target[0], name);
        rc = chat_ask_resolve(root, i, c.target[0].digest, e);
        c.target[0].is_base = true; /* its hold is the need's now */
    }
    choice_close(g->registry, &c);
    return rc;
}

/* The adapters that are summed, in the place of the model's own. What else is wrong with that field is the engine's to say. */
static int find_stack(struct http_request *r, const struct chat_ask *w, json_t *o, const char *base,
                      struct upstream_route *to, struct err *e)
{
    size_t n;
    struct err why = {0};
    if (chat_ask_adapters(o, &n, e)) return -1;
    for (size_t i = 0; i < n; i++)
        if (resolve_adapter(r, w, o, i, base, to, &why)) return err_field(e, why.code, "adapters", "%s", why.msg);
    return 0;
}

/* --- the ways to answer --- */

static int write_body(struct gateway *g, const char *tenant, json_t *o, struct upstream_route *to, bool own,
                      const struct pool_base_id *base, struct err *e)
{
    char salt[SHA256_HEX];
    struct buf body;
    cache_salt(g, tenant, &to->what, base->digest, salt);
    buf_init(&body, 8 * (size_t)BODY_CAP); /* more than what came: numbers are printed with all their digits */
    int rc = chat_ask_body(o, own ? to->need[0].digest : base->name, salt, &body, e);
    if (rc == 0) {
        to->body_len = body.len;
        to->body = buf_take(&body);
        if (!to->body) rc = err_set(e, ERR_NO_MEMORY, "no memory for the request");
    }
    buf_close(&body);
    return rc;
}

/* Route 0 and those that may be tried after it, each with its own base and body. The holds of *c become the needs'. */
static int add_routes(struct http_request *r, const struct chat_ask *w, json_t *o, struct choice *c,
                      struct upstream_ask *ask, int *context, struct err *e)
{
    struct gateway *g = r->server_user;
    const struct principal *who = r->user;
    struct pool_base_id base;
    if (find_stack(r, w, o, c->target[0].base, &ask->route[0], e)) return -1;
    bool stack = ask->route[0].nneeds > 0;
    ask->named_by = stack ? "adapters" : "model";
    for (int i = 0; i < (stack ? 1 : c->n); i++) {
        struct upstream_route *to = &ask->route[i];
        struct target *t = &c->target[i];
        int most;
        to->what = *t;
        if (!stack && !t->is_base) {
            add_need(to, t, w->model);
            t->is_base = true;
        }
        trial_ask(ask->trial, i, o);
        if (find_base(g, to->what.base, &base, &most, e) ||
            write_body(g, who->tenant, o, to, !stack && to->nneeds, &base, e))
            return -1;
        trial_asked(ask->trial, i, o);
        if (i == 0 || most > *context) *context = most;
        ask->nroutes = i + 1;
    }
    return 0;
}

/* The request as it is kept: what the engine reads, and beside it the passages that the client sent for who judges the answer. */
static int kept_body(const struct http_request *r, json_t *root, bool rag, struct buf *out, struct err *e)
{
    json_t *said = NULL, *kept = NULL;
    if (rag && json_parse(r->body, r->body_len, &said, e)) return -1;
    kept = rag ? json_copy_top(root) : json_incref(root);
    if (kept && rag) json_object_set(kept, "metadata", json_object_get(said, "metadata"));
    int rc = kept && json_dump(kept, false, out) == 0 ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the request");
    json_decref(kept);
    json_decref(said);
    return rc;
}

/* Is it looked at afterwards? Where the alias captures, or makes prompts, it is kept as the engine reads it, prefix and template in place; for a capture
 * log-probabilities may be asked for that the client does not get. */
static int pick(struct http_request *r, const struct chat_ask *w, struct choice *c, json_t *root, struct upstream_ask *ask, struct err *e)
{
    struct gateway *g = r->server_user;
    struct buf body;
    if (c->part[ALIAS_CAPTURE] && !captures_on(g->captures, ((struct principal *)r->user)->tenant)) {
        free(c->part[ALIAS_CAPTURE]);
        c->part[ALIAS_CAPTURE] = NULL;
    }
    if (!w->chat && json_is_true(json_object_get(root, "echo"))) return 0; /* what the client wrote is no answer */
    if (!quality_picks(g->quality, c->part, r->id)) return 0;
    if (!c->part[ALIAS_CAPTURE] && !c->part[ALIAS_PROMPT]) {
        ask->watch = quality_pick(g->quality, c->part, r->id, r->body, r->body_len);
        return 0;
    }
    bool captures = c->part[ALIAS_CAPTURE];
    int top = captures && w->chat ? capture_policy_top(c->part[ALIAS_CAPTURE]) : 0;
    buf_init(&body, 8 * (size_t)BODY_CAP);
    int rc = kept_body(r, root, w->rag, &body, e);
    if (rc == 0) ask->watch = quality_pick(g->quality, c->part, r->id, body.data, body.len);
    if (ask->watch && captures && !c->part[ALIAS_CAPTURE]) ask->strip = capture_ask_logprobs(root, top); /* it was taken: the draw picked it */
    buf_close(&body);
    return rc;
}

/* Off, it is a refusal: the alias's prompts go out as it says, or not at all. */
static int follow_policy(const struct gateway *g, const char *text, bool has_messages, json_t *root, struct err *e)
{
    if (!g->set->prompt_policies) return err_field(e, ERR_UNSUPPORTED, "model", "This alias has a prompt policy, and prompt policies are switched off here.");
    return prompt_policy_apply(text, has_messages, root, e);
}

/* Everything up to the admission. 0: `ask` is complete. -1: what it holds is to be dropped. */
static int prepare(struct http_request *r, json_t **root, struct upstream_ask *ask, struct limit_wish *limited,
                   struct err *e)
{
    struct gateway *g = r->server_user;
    const struct endpoint *end = api_route(r)->what;
    struct admission *a = &ask->adm;
    struct choice c = {.n = 0};
    struct chat_ask w;
    int context = 0;

    if (check_length(g, (int64_t)r->body_len, e) ||
        chat_ask_read(r->body ? r->body : "", r->body_len, end->chat, g->set->strict, root, &w, e))
        return -1;
    a->who = *(struct principal *)r->user;
    snprintf(a->model, sizeof a->model, "%s", w.model); /* write_body() changes the field */
    w.model = a->model;
    a->endpoint = ask->path = end->path;
    a->stream = w.stream;
    int rc = choose(r, &w, w.model, &c, e);
    if (rc == 0 && c.aliased) snprintf(a->alias, sizeof a->alias, "%s", w.model);
    size_t prefix = c.prefix ? strlen(c.prefix) : 0;
    if (rc == 0 && c.part[ALIAS_PROMPT]) rc = follow_policy(g, c.part[ALIAS_PROMPT], end->chat, *root, e);
    ask->policy = json_object_get(*root, PROMPT_FIELD) != NULL;
    if (rc == 0 && prefix) rc = chat_ask_prefix(*root, end->chat, c.prefix, e);
    if (rc == 0 && c.aliased && !a->who.judge) rc = pick(r, &w, &c, *root, ask, e);
    if (rc == 0 && c.part[ALIAS_ROUTING] && g->set->routing && !a->who.judge) rc = trial_plan(r, &w, *root, &c, &ask->trial, e); /* after what a capture asks for: that is looked at, too */
    if (rc == 0) rc = add_routes(r, &w, *root, &c, ask, &context, e);
    choice_close(g->registry, &c);
    if (rc) return -1;
    a->what = ask->route[0].what;
    size_t bytes = r->body_len + prefix * (size_t)w.prompts;
    if (w.rag || (ask->policy && ask->route[0].body_len > bytes)) bytes = ask->route[0].body_len; /* a template has more than its slots, passages are not read */
    *limited = chat_ask_limits(&w, *root, bytes, context);
    limited->twice = json_object_get(json_object_get(*root, PROMPT_FIELD), "compress") != NULL;
    limited->both = ask->trial != NULL;
    return 0;
}

static void handle(struct http_request *r)
{
    struct gateway *g = r->server_user;
    struct upstream_ask ask = {0};
    struct limit_wish limited;
    struct err e = {0};
    json_t *root = NULL;

    int rc = prepare(r, &root, &ask, &limited, &e);
    json_decref(root);
    if (rc == 0) rc = quarantine_check(g, &ask, &e);
    if (rc) {
        upstream_drop(g, &ask);
        api_refuse(r, &e);
    } else {
        limit_start(r, &ask, &limited);
    }
}

static const struct api_route chat_own = {SCOPE_INFER, false, &chat}, chat_path = {SCOPE_INFER, true, &chat};
static const struct api_route completion_own = {SCOPE_INFER, false, &completion},
                              completion_path = {SCOPE_INFER, true, &completion};
static const struct api_route models_own = {SCOPE_INFER, false, NULL}, models_path = {SCOPE_INFER, true, NULL};

#define POST(path, d)                                                                                                  \
    {                                                                                                                  \
        "POST", path, HTTP_BODY_BUFFER, BODY_CAP, head, NULL, handle, d                                                \
    }
#define GET(path, fn, d)                                                                                               \
    {                                                                                                                  \
        "GET", path, HTTP_BODY_NONE, 0, api_who, NULL, fn, d                                                           \
    }

const struct http_route routes_inference[] = {
    POST("/v1/chat/completions", &chat_own),
    POST("/t/{tenant}/v1/chat/completions", &chat_path),
    POST("/v1/completions", &completion_own),
    POST("/t/{tenant}/v1/completions", &completion_path),
    GET("/v1/models", models_list, &models_own),
    GET("/t/{tenant}/v1/models", models_list, &models_path),
    GET("/v1/models/{model...}", models_get, &models_own),
    GET("/t/{tenant}/v1/models/{model...}", models_get, &models_path),
    {0},
};
