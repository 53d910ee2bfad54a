/* The scheduler: requests of many tenants, classes and adapters become steps.
 *
 * One step thread owns the pool, the KV pages and the sequences. A step is one forward pass over the next token of every running
 * sequence plus chunks of waiting prompts; rows of different adapters, ranks and none together. The chunks are as long as a model of what
 * steps cost, learnt from the steps themselves, says that the running sequences' time per token allows.
 * Waiting requests are taken by class, then in order of their tenant's virtual token counter (Sheng et al., OSDI 2024); of some turns one
 * goes to those who waited too long. When places, KV pages or adapter slots run out, a sequence of a lower class, of a tenant with more than its
 * share, or the youngest is preempted and recomputed later: its answer is the same, bit for bit. Prefixes that were computed
 * before are taken from the cache, under the same salt and adapters only.
 *
 * sched_submit() and sched_cancel() may be called from any thread; events come on the step thread and must not block. */
#pragma once
#include "base/metrics.h"
#include "base/trace_context.h"
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
struct medusa;
struct trace;

/* Who goes first, and how soon: schema/ENGINE_API.md, X-Weft-Class. */
enum sched_class { CLASS_INTERACTIVE, CLASS_NORMAL, CLASS_BATCH, SCHED_CLASSES };
extern const char *const sched_class_name[SCHED_CLASSES]; /* "interactive", "normal", "batch" */

#define SCHED_COST_TERMS 7 /* coefficients of the model of steps: sched_cost.h */

/* Of a class; 0: none. */
struct sched_targets {
    int ttft_ms; /* until the first token; of those who waited so long some are served before all classes */
    int tpot_ms; /* per output token: chunks of prompts beside it are cut to hold it */
};

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

/* Where a request's time went so far, in microseconds. */
struct gen_times {
    int64_t queue_us;   /* waited for its first turn */
    int64_t load_us;    /* waited for its adapters before that */
    int64_t prefill_us; /* from its first turn to its first token */
    int64_t decode_us;  /* from its first token to its last */
    int64_t paused_us;  /* of the two before: it had to wait for others */
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
    struct gen_times times;
    /* GEN_DONE: once, last, after pages and pin were given back; text holds what was still held back */
    enum gen_finish finish;
    const char *stop_reason; /* the stop string that was met, or NULL */
    const struct err *error; /* with FINISH_ERROR */
    bool cold;               /* the adapter had to be loaded */
};

struct gen_request {
    char id[GEN_ID_LEN];   /* request id: X-Weft-Request-Id or our own */
    char trace[TRACE_HEX]; /* of its traceparent, for logs; "" where none */
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
    enum sched_class class;
    int deadline_ms;     /* 0: none; how long it may wait for its first token */
    struct gen_params p; /* strings are copied */
    void (*on_event)(void *u, const struct gen_event *ev);
    void *user;
};

/* What a step is made of, as far as its time depends on it. */
struct step_shape {
    int decode_rows, prefill_rows;          /* guesses are decode rows */
    double decode_context, prefill_context; /* positions that these rows look back on, summed */
    int ranks;                              /* of the adapters that are read, summed */
    double rank_rows;                       /* of each row the ranks of its adapters, summed */
};

/* A clock for tests that simulate time; all calls on the step thread but now_us, which any thread may call. */
struct sched_clock {
    int64_t (*now_us)(void *u);
    void (*computed)(
        void *u,
        const struct step_shape *w); /* a forward pass is over: time may be moved on; requests may be submitted */
    void (*asked)(void *u); /* adapters were asked for, and no step is planned yet: it may be waited for them */
    bool (*idle)(void *u);  /* nothing to compute; true: look again, false: sleep */
    void *u;
};

struct sched_options {
    int max_running; /* sequences in a step */
    int max_waiting; /* beyond: ERR_QUEUE_FULL */
    int step_tokens; /* rows of a step at most: decode rows plus prompt chunks */
    int step_ms; /* what a step with prompts may take where decoding alone takes less than half of it; 0: no limit */
    int adapter_wait_ms; /* longest wait for an adapter slot before the first token, 0: 10 s; from half of it on one is drained */
    struct sched_targets target[SCHED_CLASSES];
    int64_t kv_bytes;     /* KV pool; 0: chosen from max_running and the context */
    enum kv_type kv_type; /* of a model in FAST; EXACT has float32 */
    int threads;
    const char *kernels;   /* "auto", or a table's name (kernels/ops.h) */
    int hang_s;            /* a step that takes longer hangs; 0: a minute */
    bool follow;           /* on a device the next step is begun while one runs, where all but its tokens is known */
    struct device *device; /* where the model's constants lie already; NULL: this processor. Outlives the scheduler */
    const struct device_plan
        *plan; /* with a device: its pages (kv_bytes is not looked at), times and workspace. Outlives the scheduler */
    bool kv_evict; /* where no layer of the model sees all, pages that none looks at any more are given back; not on a device */
    bool prefix_cache; /* pages of prompts and answers are kept and found again */
    int speculate;     /* tokens drafted ahead at most, up to SPECULATE_MAX; 0: none */
    const struct model *
        draft; /* drafts where the sequence's own past has nothing to copy; NULL: nobody. Same vocabulary and precision, which
                                * the caller checks; outlives the scheduler */
    const struct medusa *medusa; /* heads that guess (engine/medusa.h), instead of a draft and under the same terms; outlives the scheduler */
    int medusa_nodes;            /* of a step's tree, 1 to MEDUSA_NODES_MAX */
    struct trace *trace;             /* engine/trace.h: where steps are noted; NULL: nowhere; outlives the scheduler */
    const struct sched_clock *clock; /* NULL: the machine's */
    void (*stepped)(void *u, const struct step_shape *w, int64_t took_us); /* after each, on the step thread; NULL: nobody asks */
    void *stepped_user;
};

/* Answers do not depend on the cache or on speculation, bit for bit.
 *
 * loras NULL: the base only. metrics NULL: none. step_tokens below max_running is raised to it. */
/* What its largest step has: rows, logits, segments of adapters. */
int sched_rows(const struct sched_options *o);
int sched_logits(const struct sched_options *o);
int sched_segments(const struct sched_options *o);

int sched_new(struct sched **out, const struct model *m, struct lora_set *loras, const struct sched_options *o,
              struct metrics *metrics, struct err *e);

/* Ends every request with FINISH_ERROR (ERR_UNAVAILABLE), waits for pins that are on their way (so the loader must still run), joins the
 * step thread, frees. */
void sched_free(struct sched *s);

/* *out is valid until on_event got GEN_DONE, which may be before sched_submit() returns (*out is set before the first event). Errors at once: ERR_CONTEXT_LENGTH, ERR_QUEUE_FULL, ERR_INVALID,
 * ERR_ADAPTER_NOT_LOADED, ERR_DEADLINE (the queue's estimate is later than deadline_ms). e->retry_after_s says when trying again makes sense. */
int sched_submit(struct sched *s, const struct gen_request *r, struct gen **out, struct err *e);

/* Ask for the end; GEN_DONE with FINISH_CANCELLED follows after the step in flight, unless it is done already. Look-up is by the request's own
 * pointer, which the caller must know to be not done yet (its own lock). */
void sched_cancel(struct sched *s, struct gen *g);

struct sched_state {
    int running, waiting, pages_total, pages_used, max_running;
    int max_tokens; /* prompt and answer that its pages can hold: the context, or less */
    int pages_idle; /* of the prefix cache, held by nobody: neither used nor lost */
    uint64_t steps, preemptions;
    uint64_t prefix_queries, prefix_hits; /* tokens looked for in the cache, and found */
    uint64_t drafted, accepted;           /* tokens */
    uint64_t yields, drains;              /* preempted for others' sake; adapter slots taken back */
    int class_waiting[SCHED_CLASSES];
    int pinning;                      /* adapters asked for on behalf of requests, that did not come yet */
    int budget_rows;                  /* prompt rows that the targets allowed in the last step; -1: any */
    double estimate_error;            /* mean relative error of the estimated step time */
    double cost_us[SCHED_COST_TERMS]; /* coefficients of the model of steps: sched_cost.h */
    int tail_tokens;                  /* positions in the last pages of running sequences that hold nothing */
    double waste;                     /* the same as a share of all positions in pages that are used */
    int last_rows, last_adapters;     /* of the last step */
    int64_t step_us_p50, step_us_p99; /* over the last 1,024 steps */
    struct {
        char tag[64];
        int waiting, running;
        double weight, counter; /* counter: tokens served, weighed; of use beside others' */
    } tenant[64];               /* those with the most requests */
    int ntenant;
};

/* What was taken at the start, in bytes: pages (the draft's not), workspace of a step, of it the logits. */
struct sched_memory {
    size_t kv, workspace, logits;
};
void sched_get_memory(const struct sched *s, struct sched_memory *out);

void sched_get_state(struct sched *s, struct sched_state *out);
bool sched_busy(const struct sched *s); /* steps are being made */
bool sched_alive(struct sched *s); /* the step thread makes progress: false when a step has hung for hang_s, or below */
/* The device is of no use any more: logged once, and every request ends with ERR_UNAVAILABLE. */
void sched_fail(struct sched *s, const char *why);
bool sched_failed(const struct sched *s); /* the device did; it is logged, and every request got ERR_UNAVAILABLE */
