/* POST /v1/chat/completions and /v1/completions: read what the request asks as far as the gateway must, note it, send
 * it on.
 *
 *   head    who (401, 403), how long (413): before the body is read
 *   handle  JSON (400) -> model (404) -> the body for the engine -> upstream_start(), which answers
 *
 * The gateway reads model, adapters, stream and the token limits; everything else is the engine's to check, whose
 * refusals pass on with the client's names. Three fields are written: `model` becomes the digest or the base's name, the
 * names in `adapters` become digests, and `cache_salt` the tenant's own, so that a client can neither name another
 * tenant's adapter nor share its cache. The headers of the engine's protocol are made afresh: what a client sends under
 * those names never gets that far.
 *
 * With `strict`, a field that no row below names is refused. Worker threads. */
#include "gateway/chat_api.h"
#include "base/json.h"
#include "gateway/upstream.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_CAP (64u << 20) /* beside the setting max_body, which is looked at first where a length is declared */
#define MODEL_NAME_MAX 255
#define MAX_TOKENS 1048576   /* as the engine bounds it */
#define COMPLETION_TOKENS 16 /* OpenAI's default of max_tokens for /v1/completions */
#define CHOICES_MAX 128
#define TOKEN_BYTES 4 /* of a prompt, roughly; for the reservation only */
#define REPLY_MAX (64u << 20)

struct endpoint {
    const char *path;
    bool chat;
};

static const struct endpoint chat = {"/v1/chat/completions", true}, completion = {"/v1/completions", false};

#define IN_CHAT 1
#define IN_COMPLETION 2
#define IN_BOTH 3

/* The fields that strict mode lets pass. */
static const struct {
    const char *name;
    int in;
} known[] = {
    {"model", IN_BOTH},
    {"stream", IN_BOTH},
    {"stream_options", IN_BOTH},
    {"max_tokens", IN_BOTH},
    {"max_completion_tokens", IN_CHAT},
    {"messages", IN_CHAT},
    {"prompt", IN_COMPLETION},
    {"temperature", IN_BOTH},
    {"top_p", IN_BOTH},
    {"top_k", IN_BOTH},
    {"min_p", IN_BOTH},
    {"n", IN_BOTH},
    {"best_of", IN_COMPLETION},
    {"stop", IN_BOTH},
    {"seed", IN_BOTH},
    {"logprobs", IN_BOTH},
    {"top_logprobs", IN_CHAT},
    {"presence_penalty", IN_BOTH},
    {"frequency_penalty", IN_BOTH},
    {"repetition_penalty", IN_BOTH},
    {"logit_bias", IN_BOTH},
    {"user", IN_BOTH},
    {"echo", IN_COMPLETION},
    {"suffix", IN_COMPLETION},
    {"min_tokens", IN_BOTH},
    {"ignore_eos", IN_BOTH},
    {"stop_token_ids", IN_BOTH},
    {"skip_special_tokens", IN_BOTH},
    {"add_generation_prompt", IN_CHAT},
    {"add_special_tokens", IN_BOTH},
    {"chat_template_kwargs", IN_CHAT},
    {"return_token_ids", IN_BOTH},
    {"response_format", IN_BOTH},
    {"tools", IN_CHAT},
    {"tool_choice", IN_CHAT},
    {"metadata", IN_BOTH},
    {"store", IN_CHAT},
    {"cache_salt", IN_BOTH},
    {"parallel_tool_calls", IN_CHAT},
    {"typical_p", IN_BOTH},
    {"adapters", IN_BOTH},
    {"structured_outputs", IN_BOTH},
    {"guided_json", IN_BOTH},
    {"guided_regex", IN_BOTH},
    {"guided_choice", IN_BOTH},
    {"service_tier", IN_CHAT},
};

/* --- shared with the other files of the tenants' API --- */

void api_refuse(struct http_request *r, const struct err *e)
{
    if (err_info(e->code)->status == 503) http_set_header(r, "Retry-After", "1");
    http_reply_error(r, e);
}

void api_reply(struct http_request *r, int status, struct json_t *v)
{
    struct buf b;
    struct err e = {0};
    buf_init(&b, REPLY_MAX);
    if (!v || json_dump(v, false, &b)) {
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
    else if (auth_check(g->auth, http_bearer(r), route->in_path ? r->param[0] : NULL, route->scope, who, &e) == 0) {
        r->user = who;
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
    if (api_who(r)) return -1;
    if (check_length(r->server_user, r->content_length, &e) == 0) return 0;
    api_refuse(r, &e);
    return -1;
}

static int check_known(const json_t *o, int in, struct err *e)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)o, key, value)
    {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known && !found; i++)
            found = (known[i].in & in) && strcmp(known[i].name, key) == 0;
        if (!found) return err_field(e, ERR_UNSUPPORTED, key, "Unknown field '%.60s'.", key);
    }
    return 0;
}

struct wish {
    const char *model;
    bool stream;
    int64_t max_tokens; /* -1: not said */
    int64_t choices;    /* to each prompt */
    int64_t prompts;
};

/* What /v1/completions may hold several of: texts, or lists of token ids. */
static int64_t count_prompts(const json_t *prompt)
{
    const json_t *first = json_array_get(prompt, 0);
    return json_is_string(first) || json_is_array(first) ? (int64_t)json_array_size(prompt) : 1;
}

static int read_wish(const json_t *o, bool is_chat, struct wish *w, struct err *e)
{
    int64_t newer = -1;
    *w = (struct wish){.max_tokens = -1, .choices = 1, .prompts = 1};
    if (json_need_str(o, "model", MODEL_NAME_MAX, &w->model, e) || json_get_bool(o, "stream", &w->stream, NULL, e) ||
        json_get_int(o, "max_tokens", 1, MAX_TOKENS, &w->max_tokens, NULL, e) ||
        json_get_int(o, "n", 1, CHOICES_MAX, &w->choices, NULL, e))
        return -1;
    if (is_chat && json_get_int(o, "max_completion_tokens", 1, MAX_TOKENS, &newer, NULL, e)) return -1;
    if (newer >= 0) w->max_tokens = newer;
    if (!is_chat) w->prompts = count_prompts(json_object_get(o, "prompt"));
    return 0;
}

/* What is reserved: the prompts by their bytes, and the longest answers that were allowed. */
static int64_t reserve(const struct wish *w, bool is_chat, size_t body_len, int max_context)
{
    int64_t prompt = (int64_t)body_len / TOKEN_BYTES + 1, answer = w->max_tokens;
    if (answer < 0) answer = is_chat ? max_context : COMPLETION_TOKENS;
    if (answer > max_context) answer = max_context;
    return prompt + answer * w->choices * w->prompts;
}

/* Root of the tenant's prefix cache on an engine: HMAC of tenant, adapter digest and base digest under the pepper. */
static void cache_salt(struct gateway *g, const struct admission *a, const char *base_digest, char out[SHA256_HEX])
{
    char text[3 * SHA256_HEX];
    uint8_t mac[SHA256_BYTES];
    int n = snprintf(text, sizeof text, "%s %s %s", a->who.tenant, a->what.digest, base_digest);
    sha256_hmac(db_pepper(g->db), SHA256_BYTES, text, (size_t)n, mac);
    sha256_hex(mac, out);
}

static void add_need(struct upstream_ask *ask, const struct target *t, const char *name)
{
    struct upstream_need *n = &ask->need[ask->nneeds++];
    snprintf(n->digest, sizeof n->digest, "%s", t->digest);
    snprintf(n->name, sizeof n->name, "%s", name);
    snprintf(n->version, sizeof n->version, "%s@%d", t->adapter, t->version);
}

/* One of `adapters`: its name is the tenant's own, like `model`; the engine knows digests. */
static int resolve_adapter(struct gateway *g, json_t *v, struct upstream_ask *ask, const char *base, struct err *e)
{
    struct target t;
    const char *name = NULL;
    if (!json_is_object(v)) return err_set(e, ERR_INVALID, "'adapters' must hold objects {\"name\",\"weight\"}");
    if (json_need_str(v, "name", MODEL_NAME_MAX, &name, e) ||
        registry_resolve(g->registry, ask->adm.who.tenant, name, base, &t, e))
        return -1;
    if (t.is_base) return err_set(e, ERR_INVALID, "`%.128s` is the base, not an adapter", name);
    add_need(ask, &t, name);
    if (json_object_set_new(v, "name", json_string(t.digest)))
        return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    return 0;
}

/* Which adapters answer: the model's own, or those of `adapters` in its place. What else is wrong with that field is the
 * engine's to say. */
static int find_needs(struct gateway *g, json_t *o, struct upstream_ask *ask, const char *base, struct err *e)
{
    size_t i;
    json_t *v, *list = json_object_get(o, "adapters");
    struct err why = {0};
    ask->named_by = "adapters";
    if (json_array_size(list) > UPSTREAM_ADAPTERS)
        return err_field(e, ERR_INVALID, "adapters", "'adapters' holds more than %d adapters", UPSTREAM_ADAPTERS);
    json_array_foreach(list, i, v)
    {
        if (resolve_adapter(g, v, ask, base, &why)) return err_field(e, why.code, "adapters", "%s", why.msg);
    }
    if (ask->nneeds) return 0;
    ask->named_by = "model";
    if (!ask->adm.what.is_base) add_need(ask, &ask->adm.what, ask->adm.model);
    return 0;
}

static int write_body(struct gateway *g, json_t *o, const struct upstream_ask *ask, const struct base_desc *base,
                      struct buf *out, struct err *e)
{
    char salt[SHA256_HEX];
    bool own = ask->nneeds && strcmp(ask->named_by, "model") == 0;
    cache_salt(g, &ask->adm, base->digest, salt);
    if (json_object_set_new(o, "model", json_string(own ? ask->need[0].digest : base->name)) ||
        json_object_set_new(o, "cache_salt", json_string(salt)) || json_dump(o, false, out))
        return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    return 0;
}

/* Everything up to the admission. 0: `ask` is complete, its body stands in `body`. */
static int prepare(struct http_request *r, json_t **root, struct upstream_ask *ask, struct buf *body, struct err *e)
{
    struct gateway *g = r->server_user;
    const struct endpoint *end = api_route(r)->what;
    struct admission *a = &ask->adm;
    struct base_desc base;
    struct wish w;

    if (check_length(g, (int64_t)r->body_len, e) || json_parse(r->body ? r->body : "", r->body_len, root, e) ||
        (g->set->strict && check_known(*root, end->chat ? IN_CHAT : IN_COMPLETION, e)) ||
        read_wish(*root, end->chat, &w, e))
        return -1;
    a->who = *(struct principal *)r->user;
    if (engine_base(g->engine, &base, e) ||
        registry_resolve(g->registry, a->who.tenant, w.model, base.name, &a->what, e))
        return -1;
    snprintf(a->model, sizeof a->model, "%s", w.model);
    a->endpoint = ask->path = end->path;
    a->stream = w.stream;
    a->reserved_tokens = reserve(&w, end->chat, r->body_len, engine_max_context(g->engine));
    if (find_needs(g, *root, ask, base.name, e) || write_body(g, *root, ask, &base, body, e)) return -1;
    ask->body = body->data;
    ask->body_len = body->len;
    return 0;
}

static void handle(struct http_request *r)
{
    struct gateway *g = r->server_user;
    struct upstream_ask ask = {0};
    struct err e = {0};
    json_t *root = NULL;
    struct buf body;

    buf_init(&body, 8 * (size_t)BODY_CAP); /* more than what came: numbers are printed with all their digits */
    int rc = prepare(r, &root, &ask, &body, &e);
    json_decref(root);
    if (rc)
        api_refuse(r, &e);
    else
        upstream_start(g->upstream, r, &ask);
    buf_close(&body);
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
