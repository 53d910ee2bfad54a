/* api: the server's life, its routes, and the doors in front of them.
 *
 *     api_start          api_publish            api_drain               api_withdraw      api_stop
 *         | loading: /health 200 | serving            | running ones finish     | no engine       |
 *         |  all else 503        |                    |  new ones 503           |  all 503        |
 *
 * Doors: `admit` (the bearer, compared in constant time over hashes, so neither length nor prefix shows in the time)
 * stands before every route but /health; `admit_ready` also asks that the engine is there. Both run on the headers, so
 * a refused body is not read.
 *
 * The engine is used under a reader's lock that a handler holds while it tokenizes and submits, never while it waits
 * for an answer; api_withdraw() takes the writer's side, so after it no handler can reach a scheduler that is about to
 * be freed. Events of the step thread don't take that lock.
 *
 * Threads: HTTP workers call the handlers; main calls the life cycle. */
#include "base/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "engine/api_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDLE_TIMEOUT_S 75        /* of a kept-alive connection: longer than the gateway keeps one */
#define STREAM_BUFFER (1u << 20) /* bytes that a slow reader may lag behind */
#define STOP_GRACE_MS 1000       /* for last bytes, after the scheduler ended what was left */
#define SMALL_BODY (64u * 1024)  /* of routes that take a name or two */
#define METRICS_MAX (8u << 20)
#define JSON_REPLY_MAX (64u << 20)

static int admit_health(struct http_request *r);
static int admit(struct http_request *r);
static int admit_ready(struct http_request *r);

#define GET(path, door, fn)                                                                                            \
    {                                                                                                                  \
        .method = "GET", .pattern = path, .body = HTTP_BODY_NONE, .head = door, .handle = fn                           \
    }
#define POST(path, max, fn)                                                                                            \
    {                                                                                                                  \
        .method = "POST", .pattern = path, .body = HTTP_BODY_BUFFER, .max_body = max, .head = admit_ready,             \
        .handle = fn                                                                                                   \
    }

static const struct http_route routes[] = {
    /* max_body 0: the setting */
    GET("/health", admit_health, api_health),
    GET("/ready", admit, api_ready),
    GET("/weft/v1/hello", admit_health, api_hello),
    GET("/metrics", admit_ready, api_metrics),
    GET("/v1/models", admit_ready, api_models),
    GET("/v1/models/{model}", admit_ready, api_model),
    POST("/v1/chat/completions", 0, api_text),
    POST("/v1/completions", 0, api_text),
    POST("/v1/load_lora_adapter", SMALL_BODY, api_lora_load),
    POST("/v1/unload_lora_adapter", SMALL_BODY, api_lora_unload),
    POST("/weft/v1/selftest", SMALL_BODY, api_selftest),
    POST("/weft/v1/tokenize", 0, api_text),
    GET("/weft/v1/receipts/{id}", admit_ready, api_receipt),
    GET("/weft/v1/state", admit_ready, api_state),
    GET("/weft/v1/trace", admit_ready, api_trace),
    {0},
};

/* --- doors --- */

static bool bearer_is(const char *given, const char *token)
{
    uint8_t a[SHA256_BYTES], b[SHA256_BYTES];
    sha256_of(given, strlen(given), a);
    sha256_of(token, strlen(token), b);
    return bytes_equal_ct(a, b, sizeof a);
}

static int turn_away(struct http_request *r, enum err_code code, const char *why)
{
    struct err e = {0};
    err_set(&e, code, "%s", why);
    api_refuse(r, &e);
    return -1;
}

static int admit_health(struct http_request *r)
{
    struct api *a = r->server_user;
    atomic_store(&a->heard_us, clock_mono_us());
    return 0;
}

static int admit(struct http_request *r)
{
    struct api *a = r->server_user;
    const char *given = http_bearer(r);
    if (a->token && (!given || !bearer_is(given, a->token)))
        return turn_away(r, ERR_UNAUTHORIZED, "this engine asks for its bearer token");
    return admit_health(r);
}

static int admit_ready(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    if (admit(r)) return -1;
    if (!api_hold(a, &e)) {
        api_refuse(r, &e);
        return -1;
    }
    api_release(a);
    return 0;
}

const struct api_engine *api_hold(struct api *a, struct err *e)
{
    pthread_rwlock_rdlock(&a->lock);
    bool draining = atomic_load(&a->draining);
    if (a->published && !draining) return &a->engine;
    pthread_rwlock_unlock(&a->lock);
    err_set(e, ERR_UNAVAILABLE, draining ? "the engine is stopping" : "the model is being loaded");
    return NULL;
}

void api_release(struct api *a)
{
    pthread_rwlock_unlock(&a->lock);
}

/* --- answers --- */

void api_refuse(struct http_request *r, const struct err *e)
{
    char after[16];
    snprintf(after, sizeof after, "%d", e->retry_after_s > 0 ? e->retry_after_s : RETRY_AFTER_S);
    if (err_info(e->code)->status == 503) http_set_header(r, "Retry-After", after);
    http_reply_error(r, e);
}

void api_reply_buf(struct http_request *r, struct buf *b)
{
    if (b->failed)
        turn_away(r, ERR_NO_MEMORY, "no memory for the answer");
    else
        http_reply(r, 200, NULL, b->data, b->len);
    buf_close(b);
}

void api_reply_json(struct http_request *r, json_t *v)
{
    struct buf b;
    buf_init(&b, JSON_REPLY_MAX);
    if (!v || json_dump(v, false, &b)) b.failed = true;
    json_decref(v);
    api_reply_buf(r, &b);
}

/* What computes. */
static json_t *device_json(const struct api_engine *g)
{
    struct device_about about = {.backend = "cpu"};
    if (!g->device) return json_pack("{s:s}", "backend", about.backend);
    device_about(g->device, &about);
    return json_pack("{s:s, s:s, s:i, s:I}", "backend", about.backend, "name", about.name, "ranks", about.ranks,
                     "memory", (json_int_t)about.memory);
}

void api_health(struct http_request *r)
{
    struct api *a = r->server_user;
    const struct api_engine *g = api_hold(a, NULL);
    bool alive = !g || sched_alive(g->sched);
    json_t *v = json_pack("{s:s}", "status", "ok");
    if (g) {
        json_object_put(&v, "device", device_json(g));
        api_release(a);
    }
    if (alive) {
        api_reply_json(r, v);
    } else {
        json_decref(v);
        turn_away(r, ERR_UNAVAILABLE, "a step hangs");
    }
}

void api_ready(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    const struct api_engine *g = api_hold(a, &e);
    if (!g) {
        api_refuse(r, &e);
        return;
    }
    bool alive = sched_alive(g->sched);
    api_release(a);
    if (alive)
        http_reply(r, 200, NULL, "{\"status\":\"ready\"}", 18);
    else
        turn_away(r, ERR_UNAVAILABLE, "a step hangs");
}

static void count_device(struct api *a)
{
    struct device_counts c;
    const struct api_engine *g = api_hold(a, NULL);
    if (!g) return;
    if (g->device) {
        device_counts(g->device, &c);
        metric_set(a->metrics, M_DEVICE_STEPS, (const char *[]){"walked"}, (double)c.graphs);
        metric_set(a->metrics, M_DEVICE_STEPS, (const char *[]){"replayed"}, (double)c.replays);
    }
    api_release(a);
}

void api_metrics(struct http_request *r)
{
    struct api *a = r->server_user;
    struct buf b;
    count_device(a);
    buf_init(&b, METRICS_MAX);
    if (metrics_print(a->metrics, &b))
        turn_away(r, ERR_NO_MEMORY, "no memory for the metrics");
    else
        http_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    buf_close(&b);
}

static void answered(const struct http_request *r, int status, uint64_t bytes, int64_t duration_us)
{
    struct api *a = r->server_user;
    char code[12];
    snprintf(code, sizeof code, "%d", status);
    const char *route = r->route ? r->route->pattern : "none";
    metric_add(a->metrics, M_HTTP, (const char *const[]){route, code}, 1);
    atomic_store(&a->heard_us, clock_mono_us());
    if (!log_is_on(LOG_DEBUG)) return;
    char trace[TRACE_HEX];
    traceparent_trace(http_header(r, "traceparent"), trace);
    log_debug("request", LS("id", r->id), LS("request", http_header(r, "X-Weft-Request-Id")), LS("trace", trace), LS("route", route), LI("status", status), LI("bytes", (int64_t)bytes),
              LI("us", duration_us));
}

/* --- life --- */

static struct http_route *routes_with(size_t max_body)
{
    struct http_route *t = malloc(sizeof routes);
    if (!t) return NULL;
    memcpy(t, routes, sizeof routes);
    for (struct http_route *x = t; x->method; x++)
        if (x->body == HTTP_BODY_BUFFER && x->max_body == 0) x->max_body = max_body;
    return t;
}

static void api_free(struct api *a)
{
    receipts_free(a->receipts);
    pthread_rwlock_destroy(&a->lock);
    free(a->routes);
    free(a);
}

int api_start(struct api **out, const struct api_options *o, struct metrics *metrics, char **bound, struct err *e)
{
    struct api *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NO_MEMORY, "no memory for the server");
    pthread_rwlock_init(&a->lock, NULL);
    a->metrics = metrics;
    a->token = o->token;
    a->started_us = clock_mono_us();
    a->heard_us = a->started_us;
    a->routes = routes_with(o->max_body);
    a->receipts = receipts_new(RECEIPTS_MAX, RECEIPTS_TTL_US);
    struct http_options h = {.listen = o->listen,
                             .routes = a->routes,
                             .workers = o->workers,
                             .max_connections = o->max_connections,
                             .idle_timeout_s = IDLE_TIMEOUT_S,
                             .stream_buffer = STREAM_BUFFER,
                             .user = a,
                             .done = answered};
    if (!a->routes || !a->receipts)
        err_set(e, ERR_NO_MEMORY, "no memory for the server");
    else if (http_server_start(&a->http, &h, bound, e) == 0) {
        *out = a;
        return 0;
    }
    api_free(a);
    return -1;
}

/* One sequence may take the whole KV pool, and no more. */
static int usable_context(const struct api_engine *g)
{
    struct sched_state s = {0};
    sched_get_state(g->sched, &s);
    return s.max_tokens;
}

static bool is_special_word(const struct tokenizer *t, const char *word)
{
    struct tokens out = {0};
    struct err ignored = {0};
    if (!*word || tokenizer_encode(t, word, strlen(word), true, 16, &out, &ignored)) return false;
    bool special = out.n == 1 && tokenizer_is_special(t, out.id[0]);
    free(out.id);
    return special;
}

/* What the model's template tells about tools. */
static void learn_tools(struct api_engine *g)
{
    const char *words[3];
    size_t len;
    const char *source = g->model->chat ? chat_source(g->model->chat, &len) : NULL;
    if (!source) return;
    g->template_takes_tools = memmem(source, len, "tools", 5) != NULL;
    g->tools = tool_format_of(source, len);
    if (!g->tools) return;
    tool_format_words(g->tools, words);
    for (int i = 0; i < 3; i++) g->tools_special |= is_special_word(g->model->tok, words[i]);
}

int api_publish(struct api *a, const struct api_engine *g, struct err *e)
{
    struct side *selftests, *preparing;
    if (side_new(&selftests, "selftest", api_selftest_run, e)) return -1;
    if (side_new(&preparing, "prepare", api_text_run, e)) {
        side_free(selftests);
        return -1;
    }
    pthread_rwlock_wrlock(&a->lock);
    a->engine = *g;
    a->engine.max_context = usable_context(g);
    learn_tools(&a->engine);
    a->selftests = selftests;
    a->preparing = preparing;
    snprintf(a->fingerprint, sizeof a->fingerprint, "fp_%.10s_%s", g->model->desc.digest,
             g->model->prec == PREC_EXACT ? "exact" : "fast");
    a->published = true;
    pthread_rwlock_unlock(&a->lock);
    return 0;
}

void api_drain(struct api *a, int grace_ms)
{
    atomic_store(&a->draining, true);
    http_server_quiesce(a->http);
    for (int64_t end = clock_mono_us() + grace_ms * 1000LL;
         http_server_in_flight(a->http) > 0 && clock_mono_us() < end;)
        nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL);
}

void api_withdraw(struct api *a)
{
    pthread_rwlock_wrlock(&a->lock);
    a->published = false;
    struct side *selftests = a->selftests, *preparing = a->preparing;
    a->selftests = a->preparing = NULL;
    pthread_rwlock_unlock(&a->lock);
    side_free(selftests);
    side_free(preparing);
}

void api_stop(struct api *a)
{
    if (!a) return;
    http_server_stop(a->http, STOP_GRACE_MS);
    api_free(a);
}

int64_t api_heard_us(const struct api *a)
{
    return atomic_load(&a->heard_us);
}

int api_in_flight(const struct api *a)
{
    return http_server_in_flight(a->http);
}
