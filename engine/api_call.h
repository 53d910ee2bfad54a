/* A call: one request for text on its way through the scheduler, from its tokens to the last byte of its answer. */
#pragma once
#include "engine/api_impl.h"
#include "engine/api_render.h"

/* What the gateway says about a request in headers (schema/ENGINE_API.md). */
struct origin {
    char id[RECEIPT_ID_LEN];
    char trace[TRACE_HEX];
    bool counted;       /* X-Weft-Request-Id was given: send counting comments */
    const char *model;  /* shown in `model`; NULL: as asked */
    const char *tenant; /* "" where none */
    double weight;
    enum sched_class class;
    int deadline_ms;
};

/* api_origin.c. ERR_INVALID names the header; ERR_CONFLICT: another gateway has taken over from who sends it. */
int api_origin(const struct http_request *r, struct origin *o, struct err *e);

struct call;

/* One prompt of the call and the choice that answers it. */
struct part {
    struct call *call;
    struct gen *gen; /* under call.lock; NULL before submission and after GEN_DONE */
    int index;
    struct tokens prompt;      /* of the prompt's first choice; the others use that one's, see part_prompt() */
    struct tool_parser *tools; /* NULL: the answer is text */
    int calls_sent;
    struct gen_counts counts;
    struct gen_times times;
    enum gen_finish finish;
    bool began;         /* something of it was sent */
    struct buf text;    /* not sent yet: the rest of a stream, or the whole answer */
    struct logprobs lp; /* likewise */
    struct buf ids;     /* likewise, printed with commas */
};

struct call {
    struct http_request *r;
    struct api *api;
    struct ask ask; /* its JSON is gone once submitted; numbers and switches stay */
    struct origin origin;
    struct grammar *grammar; /* NULL: any text */
    struct render render;
    const struct tokenizer *tok;
    struct vocab_text vocab; /* over tok */

    pthread_mutex_t lock; /* covers the next four and part.gen; may be held while the scheduler's own lock is taken,
                             never the reverse */
    int outstanding;      /* parts that run, and one while the worker submits: at 0 the call is answered */
    bool failed, gone;
    struct err error; /* of failed */

    struct http_stream *stream; /* the step thread's, as what follows */
    bool timed;                 /* it was told where the time to the first token went */
    bool cut;                   /* failed because the reader is gone or too slow: no last words */
    struct buf out;
    struct gen_counts shown; /* what the bytes sent so far amount to */
    struct compress *compress;   /* NULL: the prompt stands as it is */
    int asked_max;               /* max_tokens as it was asked, 0: not */
    int scored;                  /* tokens that were computed to compress it */
    struct policy_counts policy; /* tokens of the prompts before and after the gateway's policy; 0: there is none */
    int nparts;
    struct part part[];
};

/* Parses, tokenizes, checks the context. Nothing is submitted. *digest is borrowed from the ask. */
int call_new(struct call **out, struct http_request *r, const struct api_engine *g, enum ask_kind kind,
             const char **digest, struct err *e);
void call_free(struct call *c);
/* The lengths against the context, anew: of a call whose prompt changed, or is going to have so many tokens less. */
int call_fit(struct call *c, const struct api_engine *g, int less, struct err *e);
/* Its receipt, before anything of it is computed. */
void call_note_running(struct call *c);
/* One request of the scheduler as all of this call are: whose, how urgent, under which salt. */
void call_fill(const struct call *c, struct gen_request *q);

/* The part's place among the choices of its prompt, and that prompt. */
int part_choice(const struct part *p);
const struct tokens *part_prompt(const struct part *p);

/* Hands the parts to the scheduler; the call then answers its request by itself, whatever happens, perhaps before this
 * returns. */
void call_run(struct call *c, const struct api_engine *g, const char *digest);

/* api_compress.c. Makes c->compress where the ask wants it and there is something to leave out; else NULL stays. */
int compress_plan(struct call *c, const struct api_engine *g, struct err *e);
/* In call_run()'s place: the scheduler scores the units, then compress_go_on() is called on the side thread, and the call runs. */
void compress_run(struct call *c, const struct api_engine *g, const char *digest);
void compress_go_on(struct call *c, const struct api_engine *g);
void compress_cancel(struct call *c); /* under c->lock: the client has left */
void compress_free(struct compress *z);

/* For call_run and the events. */
void call_on_event(void *part, const struct gen_event *ev);
void call_fail(struct call *c, const struct err *why);
void call_release(struct call *c);
