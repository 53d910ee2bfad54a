/* The engine's HTTP face: OpenAI's API, vLLM's adapter routes, and our own under /weft/v1 (schema/ENGINE_API.md).
 *
 * Life: api_start() binds and answers /health and /ready while the model is still being loaded; api_publish() opens the
 * rest; api_drain() refuses what is new and lets what runs finish; api_withdraw() takes the engine away again, after
 * which the caller frees the scheduler (which ends what is left with an error) and then calls api_stop(). */
#pragma once
#include "base/metrics.h"
#include "engine/sched.h"

struct api;

struct api_options {
    const char *listen; /* as http_options.listen */
    const char *token;  /* bearer that every route but /health needs; NULL: none (Unix socket) */
    int workers, max_connections;
    size_t max_body; /* bytes of a request */
};

/* What answers requests once the model is loaded; borrowed until api_withdraw(). */
struct api_engine {
    const struct model *model;
    struct lora_set *loras;
    struct pull *pull; /* NULL: loads name a folder */
    struct sched *sched;
    struct trace *trace;            /* or NULL */
    const char *kernels;            /* name of the table in use */
    struct device *device;          /* NULL: this processor */
    const struct device_plan *plan; /* of the device */
    struct constrain *constrain;    /* masks over the model's vocabulary */
    int max_slots, max_known;
    /* set by api_publish() */
    int max_context;                 /* the model's, or less where the KV pool is smaller */
    const struct tool_format *tools; /* how the model calls tools; NULL: in no known way */
    bool tools_special;              /* the words that begin and end a call are special tokens */
    bool template_takes_tools;
};

/* *bound: malloc'ed, the address with the real port. */
int api_start(struct api **out, const struct api_options *o, struct metrics *metrics, char **bound, struct err *e);

int api_publish(struct api *a, const struct api_engine *g, struct err *e);

/* From now on new requests get 503; waits up to grace_ms for those in flight. */
void api_drain(struct api *a, int grace_ms);

/* When this returns no handler uses the engine any more; events of running requests may still come until sched_free().
 */
void api_withdraw(struct api *a);

void api_stop(struct api *a); /* closes what is left and frees; NULL is fine */

int64_t api_heard_us(const struct api *a); /* monotonic: when the last request came or was answered */
int api_in_flight(const struct api *a);
