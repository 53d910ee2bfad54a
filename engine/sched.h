/* The scheduler: requests of many tenants and adapters become steps.
 *
 * One step thread owns the pool, the KV pages and the sequences. A step is one forward pass over the next token of every running
 * sequence plus chunks of waiting prompts, up to a token budget; rows of different adapters, ranks and none together. Prefill never blocks decode.
 * Waiting requests are taken in order of their tenant's virtual token counter (Sheng et al., OSDI 2024). When KV pages run out the
 * youngest sequence is preempted and recomputed later: its answer is the same, bit for bit. Prefixes that were computed
 * before are taken from the cache, under the same salt and adapters only.
 *
 * sched_submit() and sched_cancel() may be called from any thread; events come on the step thread and must not block. */
#pragma once
#include "base/metrics.h"
#include "engine/constrain.h"
#include "engine/lora.h"
#include "engine/sampler.h"

#define GEN_STOPS 4
#define GEN_STOP_IDS 64
#define GEN_ID_LEN 64
#define GEN_ADAPTERS 4 /* summed on one request */
#define GEN_SALT_LEN 128
#define GEN_BIAS_MAX 1024
#define GEN_WEIGHT_MAX 100.0f /* of an adapter in a sum, either sign */
#define SPECULATE_MAX 8

struct sched;
struct gen;

struct gen_params {
    struct sample_params sample;
    int max_tokens; /* > 0 */
    int min_tokens;
    bool ignore_eos;
    bool show_special;
    const char *stop[GEN_STOPS];
    int nstop;
    int32_t stop_id[GEN_STOP_IDS];
    int nstop_id;
    const struct token_bias *bias; /* [nbias] copied */
    int nbias;
};

struct gen_counts {
    int prompt, cached,
        output; /* tokens; output counts the end token too when the model chose one, as OpenAI does not bill less */
};

enum gen_finish { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_CANCELLED, FINISH_ERROR };
extern const char *const gen_finish_name[]; /* "", "stop", "length", "cancelled", "error" */

struct gen_event {
    enum { GEN_PROMPT, GEN_TOKEN, GEN_DONE } kind;
    /* GEN_PROMPT: nsamples of the prompt's tokens in order, from `first` on (the first token of a prompt has none); may come in parts */
    const struct sample *samples;
    int first, nsamples;
    /* GEN_TOKEN: one chosen token. Its text may be held back (UTF-8, stop strings) and come with a later event. The end token or stop id
     * that ends an answer is told too, without text. */
    const struct sample *sample;
    const char *text; /* borrowed; what became showable */
    size_t text_len;
    /* both */
    struct gen_counts counts;
    /* GEN_DONE: once, last, after pages and pin were given back; text holds what was still held back */
    enum gen_finish finish;
    const char *stop_reason; /* the stop string that was met, or NULL */
    const struct err *error; /* with FINISH_ERROR */
    bool cold;               /* the adapter had to be loaded */
    int64_t queued_us, prefill_us, decode_us;
};

struct gen_request {
    char id[GEN_ID_LEN];   /* request id: X-Weft-Request-Id or our own */
    const int32_t *prompt; /* copied */
    int nprompt;
    const char *digest; /* adapter, or NULL: the base; the same as one `adapter` of weight 1 */
    struct {
        const char *digest;
        float weight;
    } adapter[GEN_ADAPTERS]; /* what is summed: y = W x + sum of weight s B A x */
    int nadapters;           /* 0: `digest` says it */
    const char *salt;        /* prefixes are shared under the same salt only; NULL: "" */
    bool no_prefix_cache;    /* takes nothing from the cache; what it computes enters it */
    bool prompt_logprobs;    /* a GEN_PROMPT event with p.sample.logprobs alternatives comes before the first token */
    struct grammar *grammar; /* a reference is taken; NULL: any text */
    const char *tenant;      /* opaque tag, "" where none is given */
    double weight;           /* of the tenant's share; 1 where unsure */
    int deadline_ms;         /* 0: none; how long it may wait for its first token */
    struct gen_params p;     /* strings are copied */
    void (*on_event)(void *u, const struct gen_event *ev);
    void *user;
};

struct sched_options {
    int max_running;  /* sequences in a step */
    int max_waiting;  /* beyond: ERR_QUEUE_FULL */
    int step_tokens;  /* rows of a step at most: decode rows plus prompt chunks */
    int64_t kv_bytes; /* KV pool; 0: chosen from max_running and the context */
    int threads;
    const char *kernels; /* "auto", or a table's name (kernels/ops.h) */
    bool prefix_cache;   /* pages of prompts and answers are kept and found again */
    int speculate;       /* tokens drafted ahead at most, up to SPECULATE_MAX; 0: none */
    const struct model *
        draft; /* drafts where the sequence's own past has nothing to copy; NULL: nobody. Same vocabulary and precision, which
                                * the caller checks; outlives the scheduler */
};

/* Answers do not depend on the cache or on speculation, bit for bit.
 *
 * loras NULL: the base only. metrics NULL: none. step_tokens below max_running is raised to it. */
int sched_new(struct sched **out, const struct model *m, struct lora_set *loras, const struct sched_options *o,
              struct metrics *metrics, struct err *e);

/* Ends every request with FINISH_ERROR (ERR_UNAVAILABLE), waits for pins that are on their way (so the loader must still run), joins the
 * step thread, frees. */
void sched_free(struct sched *s);

/* *out is valid until on_event got GEN_DONE, which may be before sched_submit() returns (*out is set before the first event). Errors at once: ERR_CONTEXT_LENGTH, ERR_QUEUE_FULL, ERR_INVALID, ERR_ADAPTER_NOT_LOADED. */
int sched_submit(struct sched *s, const struct gen_request *r, struct gen **out, struct err *e);

/* Ask for the end; GEN_DONE with FINISH_CANCELLED follows after the step in flight, unless it is done already. Look-up is by the request's own
 * pointer, which the caller must know to be not done yet (its own lock). */
void sched_cancel(struct sched *s, struct gen *g);

struct sched_state {
    int running, waiting, pages_total, pages_used, max_running;
    int pages_idle; /* of the prefix cache, held by nobody: neither used nor lost */
    uint64_t steps, preemptions;
    uint64_t prefix_queries, prefix_hits; /* tokens looked for in the cache, and found */
    uint64_t drafted, accepted;           /* tokens */
    int last_rows, last_adapters;         /* of the last step */
    int64_t step_us_p50, step_us_p99;     /* over the last 1,024 steps */
    struct {
        char tag[64];
        int waiting, running;
    } tenant[64]; /* those with the most requests */
    int ntenant;
};

void sched_get_state(struct sched *s, struct sched_state *out);
bool sched_alive(struct sched *s); /* the step thread makes progress: false when a step has hung for 60 s */
