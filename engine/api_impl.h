/* What the api_*.c files share: the server's state, and one handler per route. Not for others. */
#pragma once
#include "base/http.h"
#include "engine/api.h"
#include "engine/api_params.h"
#include "engine/meters.h"
#include "engine/receipts.h"
#include <pthread.h>
#include <stdatomic.h>

#define FINGERPRINT_LEN 32
#define RETRY_AFTER_S 1 /* where the error says nothing */

struct side;

struct api {
    struct http_server *http;
    struct http_route *routes; /* the table with max_body filled in */
    struct metrics *metrics;
    struct receipts *receipts;
    struct side *selftests, *preparing; /* NULL until published */
    const char *token;
    int64_t started_us;
    _Atomic int64_t heard_us;
    atomic_bool draining;

    pthread_rwlock_t lock; /* covers the rest: readers use the engine, the writer publishes or withdraws */
    bool published;
    struct api_engine engine;
    char fingerprint[FINGERPRINT_LEN];
};

/* The engine, to be given back with api_release() by the same thread soon; NULL with ERR_UNAVAILABLE while there is
 * none. */
const struct api_engine *api_hold(struct api *a, struct err *e);
void api_release(struct api *a);

/* The answer to an error, with Retry-After where trying again makes sense. */
void api_refuse(struct http_request *r, const struct err *e);

/* Send a buf or a JSON value (which is released) as the whole answer. */
void api_reply_buf(struct http_request *r, struct buf *b);
void api_reply_json(struct http_request *r, json_t *v);

/* `model` of a request: *digest NULL for the base, else the adapter's, borrowed. ERR_MODEL_NOT_FOUND,
 * ERR_ADAPTER_NOT_LOADED. */
int api_resolve(const struct api_engine *g, const char *name, const char **digest, struct err *e);

/* Prompt i of an ask as token ids (out->id: free()), at most the model's context, as its policy leaves it; *before: how many
 * there were without one. */
int api_tokenize(const struct api_engine *g, struct ask *a, int i, struct tokens *out, int *before, struct err *e);
/* The same as it stands, of a chat with these messages; more than `most` tokens are ERR_CONTEXT_LENGTH. */
int api_tokenize_of(const struct api_engine *g, const struct ask *a, int i, const json_t *messages, size_t most,
                    struct tokens *out, struct err *e);

/* api_policy.c: under a->policy, whose messages become those that are kept. */
int policy_tokenize(const struct api_engine *g, struct ask *a, int i, struct tokens *out, int *before, struct err *e);
/* What of a policy this engine knows: a gateway asks for nothing else. */
json_t *policy_names(void);

/* --- api_side.c --- */

#define SIDE_WAITING 256 /* requests */
#define SIDE_TAG_LEN 64

/* A thread of that name (at most 15 letters; kept) which calls run() for each request pushed; run() answers it. */
int side_new(struct side **out, const char *name, void (*run)(struct http_request *r), struct err *e);
void side_free(struct side *s); /* refuses what waits, joins; NULL is fine */
/* ERR_QUEUE_FULL: it is still the caller's. Tags take turns. */
int side_push(struct side *s, struct http_request *r, const char *tag, struct err *e);

void api_selftest_run(struct http_request *r);
void api_text_run(struct http_request *r);

/* What the routes for text do with the engine in their hands: api_generate.c, api_prompt.c. */
void api_generate(struct http_request *r, const struct api_engine *g, enum ask_kind kind);
void api_count(struct http_request *r, const struct api_engine *g);

/* Handlers, one per route. */
void api_text(struct http_request *r); /* chat, completions, tokenize: at once, or through api->preparing */
void api_hello(struct http_request *r);

/* api_fence.c: the header X-Weft-Takeover of a request for text; ERR_CONFLICT: another gateway has taken over from who sends it. */
int api_fence(const char *word, struct err *e);
void api_models(struct http_request *r);
void api_model(struct http_request *r);
void api_lora_load(struct http_request *r);
void api_lora_unload(struct http_request *r);
void api_selftest(struct http_request *r);
void api_receipt(struct http_request *r);
void api_state(struct http_request *r);
void api_trace(struct http_request *r);
void api_metrics(struct http_request *r);
void api_health(struct http_request *r);
void api_ready(struct http_request *r);
