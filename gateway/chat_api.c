/* POST /v1/chat/completions and /v1/completions: read what the request asks as far as the gateway must, note it, send
 * it on.
 *
 *   head    who (401, 403), how long (413): before the body is read
 *   handle  JSON (400) -> model (404) -> the body for the engine -> limit_start() (429) -> upstream_start(), which answers
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
#include "gateway/alias.h"
#include "gateway/limit_request.h"
#include "gateway/residency.h"
#include "gateway/upstream.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BODY_CAP (64u << 20) /* beside the setting max_body, which is looked at first where a length is declared */
#define MODEL_NAME_MAX 255
#define MAX_TOKENS 1048576   /* as the engine bounds it */
#define COMPLETION_TOKENS 16 /* OpenAI's default of max_tokens for /v1/completions */
#define CHOICES_MAX 128
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
    const char *model, *user; /* user: "" where it was not said */
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
    *w = (struct wish){.user = "", .max_tokens = -1, .choices = 1, .prompts = 1};
    if (json_need_str(o, "model", MODEL_NAME_MAX, &w->model, e) || json_get_bool(o, "stream", &w->stream, NULL, e) ||
        json_get_int(o, "max_tokens", 1, MAX_TOKENS, &w->max_tokens, NULL, e) ||
        json_get_int(o, "n", 1, CHOICES_MAX, &w->choices, NULL, e))
        return -1;
    if (is_chat && json_get_int(o, "max_completion_tokens", 1, MAX_TOKENS, &newer, NULL, e)) return -1;
    if (newer >= 0) w->max_tokens = newer;
    if (json_is_string(json_object_get(o, "user"))) w->user = json_string_value(json_object_get(o, "user"));
    if (!is_chat) w->prompts = count_prompts(json_object_get(o, "prompt"));
    return 0;
}

/* What the limits have to know of it. */
static struct limit_wish limit_wish(const struct wish *w, bool is_chat, size_t body_len, int max_context, bool tools)
{
    return (struct limit_wish){.body_bytes = (int64_t)body_len,
                               .prompts = w->prompts > 0 ? w->prompts : 1,
                               .choices = w->choices,
                               .max_tokens = w->max_tokens < 0 && !is_chat ? COMPLETION_TOKENS : w->max_tokens,
                               .max_context = max_context,
                               .tools = tools};
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
static int find_base(struct gateway *g, const char *name, struct base_desc *out, int *max_context, struct err *e)
{
    if (!*name) return err_field(e, ERR_MODEL_NOT_FOUND, "model", "The model `` does not exist or you do not have access to it.");
    return pool_base(g->pool, name, out, max_context, e);
}

/* What answers a model name: the base of that name, or what the registry says, with its holds. */
static int choose(struct http_request *r, const struct wish *w, const char *model, struct choice *out, struct err *e)
{
    struct gateway *g = r->server_user;
    const struct principal *who = r->user;
    struct base_desc base;
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
static int resolve_adapter(struct http_request *r, const struct wish *w, json_t *v, const char *base,
                           struct upstream_route *to, struct err *e)
{
    struct gateway *g = r->server_user;
    struct choice c;
    const char *name = NULL;
    if (!json_is_object(v)) return err_set(e, ERR_INVALID, "'adapters' must hold objects {\"name\",\"weight\"}");
    if (json_need_str(v, "name", MODEL_NAME_MAX, &name, e) || choose(r, w, name, &c, e)) return -1;
    int rc = c.target[0].is_base ? err_set(e, ERR_INVALID, "`%.128s` is the base, not an adapter", name) : 0;
    if (rc == 0 && strcmp(c.target[0].base, base) != 0)
        rc = err_set(e, ERR_INVALID, "`%.128s` was made for the base `%.127s`; the model's is `%.127s`", name,
                     c.target[0].base, base);
    if (rc == 0) {
        add_need(to, &c.target[0], name);
        rc = json_object_set_new(v, "name", json_string(c.target[0].digest));
        if (rc) err_set(e, ERR_NO_MEMORY, "no memory for the request");
        c.target[0].is_base = true; /* its hold is the need's now */
    }
    choice_close(g->registry, &c);
    return rc;
}

/* The adapters that are summed, in the place of the model's own. What else is wrong with that field is the engine's to say. */
static int find_stack(struct http_request *r, const struct wish *w, json_t *o, const char *base,
                      struct upstream_route *to, struct err *e)
{
    size_t i;
    json_t *v, *list = json_object_get(o, "adapters");
    struct err why = {0};
    if (json_array_size(list) > UPSTREAM_ADAPTERS)
        return err_field(e, ERR_INVALID, "adapters", "'adapters' holds more than %d adapters", UPSTREAM_ADAPTERS);
    json_array_foreach(list, i, v)
    {
        if (resolve_adapter(r, w, v, base, to, &why)) return err_field(e, why.code, "adapters", "%s", why.msg);
    }
    return 0;
}

/* --- an alias's system prefix --- */

static json_t *joined(const char *a, const char *between, const json_t *b)
{
    return json_sprintf("%s%s%s", a, between, json_string_value(b));
}

/* In front of the client's own system message, as one text: many templates take only one, and the first. */
static int prefix_system(json_t *message, const char *prefix)
{
    json_t *content = json_object_get(message, "content");
    if (json_is_string(content)) return json_object_set_new(message, "content", joined(prefix, "\n\n", content));
    if (json_is_array(content))
        return json_array_insert_new(content, 0, json_pack("{ss ss}", "type", "text", "text", prefix));
    return json_object_set_new(message, "content", json_string(prefix));
}

static int prefix_messages(json_t *messages, const char *prefix)
{
    json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    if (!json_is_array(messages)) return 0; /* the engine says so */
    if (role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0)) return prefix_system(first, prefix);
    return json_array_insert_new(messages, 0, json_pack("{ss ss}", "role", "system", "content", prefix));
}

/* A completion's prompt begins with the prefix, byte for byte; token ids have no place for a text. */
static int prefix_prompt(json_t *o, const char *prefix, struct err *e)
{
    json_t *prompt = json_object_get(o, "prompt"), *v;
    size_t i;
    int rc = 0;
    if (json_is_string(prompt)) return json_object_set_new(o, "prompt", joined(prefix, "", prompt));
    json_array_foreach(prompt, i, v)
    {
        if (!json_is_string(v))
            return err_field(e, ERR_UNSUPPORTED, "prompt",
                             "This model has a fixed beginning, so 'prompt' must be text, not token ids.");
        rc |= json_array_set_new(prompt, i, joined(prefix, "", v));
    }
    return rc;
}

static int apply_prefix(json_t *o, bool is_chat, const char *prefix, struct err *e)
{
    int rc = is_chat ? prefix_messages(json_object_get(o, "messages"), prefix) : prefix_prompt(o, prefix, e);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

/* --- the ways to answer --- */

static int write_body(struct gateway *g, const char *tenant, json_t *o, struct upstream_route *to, bool own,
                      const struct base_desc *base, struct err *e)
{
    char salt[SHA256_HEX];
    struct buf body;
    cache_salt(g, tenant, &to->what, base->digest, salt);
    buf_init(&body, 8 * (size_t)BODY_CAP); /* more than what came: numbers are printed with all their digits */
    int rc = json_object_set_new(o, "model", json_string(own ? to->need[0].digest : base->name)) ||
                     json_object_set_new(o, "cache_salt", json_string(salt)) || json_dump(o, false, &body)
                 ? -1
                 : 0;
    if (rc == 0) {
        to->body_len = body.len;
        to->body = buf_take(&body);
        rc = to->body ? 0 : -1;
    }
    buf_close(&body);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

/* Route 0 and those that may be tried after it, each with its own base and body. The holds of *c become the needs'. */
static int add_routes(struct http_request *r, const struct wish *w, json_t *o, struct choice *c,
                      struct upstream_ask *ask, int *context, struct err *e)
{
    struct gateway *g = r->server_user;
    const struct principal *who = r->user;
    struct base_desc base;
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
        if (find_base(g, to->what.base, &base, &most, e) ||
            write_body(g, who->tenant, o, to, !stack && to->nneeds, &base, e))
            return -1;
        if (i == 0 || most > *context) *context = most;
        ask->nroutes = i + 1;
    }
    return 0;
}

/* Everything up to the admission. 0: `ask` is complete. -1: what it holds is to be dropped. */
static int prepare(struct http_request *r, json_t **root, struct upstream_ask *ask, struct limit_wish *limited,
                   struct err *e)
{
    struct gateway *g = r->server_user;
    const struct endpoint *end = api_route(r)->what;
    struct admission *a = &ask->adm;
    struct choice c = {.n = 0};
    struct wish w;
    int context = 0;

    if (check_length(g, (int64_t)r->body_len, e) || json_parse(r->body ? r->body : "", r->body_len, root, e) ||
        (g->set->strict && check_known(*root, end->chat ? IN_CHAT : IN_COMPLETION, e)) ||
        read_wish(*root, end->chat, &w, e))
        return -1;
    a->who = *(struct principal *)r->user;
    snprintf(a->model, sizeof a->model, "%s", w.model); /* write_body() changes the field */
    w.model = a->model;
    a->endpoint = ask->path = end->path;
    a->stream = w.stream;
    int rc = choose(r, &w, w.model, &c, e);
    size_t prefix = c.prefix ? strlen(c.prefix) : 0;
    if (rc == 0 && prefix) rc = apply_prefix(*root, end->chat, c.prefix, e);
    if (rc == 0) rc = add_routes(r, &w, *root, &c, ask, &context, e);
    choice_close(g->registry, &c);
    if (rc) return -1;
    a->what = ask->route[0].what;
    *limited = limit_wish(&w, end->chat, r->body_len + prefix * (size_t)w.prompts, context, json_object_get(*root, "tools"));
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
