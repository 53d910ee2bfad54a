/* OpenAI's objects as bytes: whole answers, stream chunks, log-probabilities, the counting comment.
 *
 * What is the same in all objects of one answer (id, object, created, model, system_fingerprint) is printed once by
 * render_init(); a token then costs a few appends. All functions append to `out`; a failed buf shows in out->failed. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "engine/api_params.h"

#define RENDER_ANSWER_MAX (256u << 20) /* bytes of one answer's text, log-probabilities and ids */

/* Where the bytes of tokens come from: the tokenizer, behind a function so that tests need no model. */
struct vocab_text {
    const char *(*bytes)(const void *u, int32_t id, size_t *len);
    const void *u;
};

/* Log-probabilities of tokens whose text was not sent yet, already printed; one column (chat) or four (completions). */
#define LOGPROB_COLUMNS 4
struct logprobs {
    struct buf column[LOGPROB_COLUMNS];
    int n;          /* tokens held */
    int64_t offset; /* characters that began so far */
};

void logprobs_init(struct logprobs *l);
void logprobs_close(struct logprobs *l);
void logprobs_reset(struct logprobs *l); /* after its tokens were sent: the offset goes on */
/* A prompt's first token, which has no log-probability (null). */
int logprobs_add_first(struct logprobs *l, const struct vocab_text *v, int32_t id);
int logprobs_add(struct logprobs *l, enum ask_kind kind, const struct vocab_text *v, const struct sample *s);

/* Tokens of all prompts as the client's request had them, and as the model reads them. */
struct policy_counts {
    int before, after;
};

struct render {
    enum ask_kind kind;
    bool stream, include_usage, continuous_usage;
    struct policy_counts policy; /* told in `usage` where before is not 0 */
    struct buf head; /* '{"id":...,"choices":[', behind "data: " in a stream */
};

struct render_spec {
    enum ask_kind kind;
    bool stream, include_usage, continuous_usage;
    const char *id;  /* UUID */
    int64_t created; /* unix seconds */
    const char *model, *fingerprint;
    struct policy_counts policy;
};

int render_init(struct render *r, const struct render_spec *spec, struct err *e);
void render_close(struct render *r); /* a zeroed one is fine */

/* One choice, or what of it is new. */
struct piece {
    int index;
    bool role; /* chat streams: the first chunk */
    const char *text;
    size_t text_len;
    const struct logprobs *lp; /* NULL: "logprobs":null */
    const struct buf *ids;     /* token ids printed with commas; NULL: no "token_ids" */
    const int32_t *prompt_ids; /* NULL: no "prompt_token_ids" */
    int nprompt_ids;
    const struct tool_call *calls; /* [ncalls] of which first_call is the first one shown */
    int first_call, ncalls;
    const char *finish; /* NULL: null */
};

void render_chunk(const struct render *r, const struct piece *p, const struct gen_counts *c, struct buf *out);
void render_usage_chunk(const struct render *r, const struct gen_counts *c, struct buf *out); /* choices: [] */
void render_whole(const struct render *r, const struct piece *p, int n, const struct gen_counts *c, struct buf *out);

/* ": weft PROMPT CACHED OUTPUT" and an empty line. */
void render_counts(const struct gen_counts *c, struct buf *out);
/* ": weft-prompt BEFORE AFTER" and an empty line. */
void render_policy(const struct policy_counts *c, struct buf *out);
/* ": weft-time QUEUE LOAD PREFILL DECODE PAUSED" and an empty line; the five numbers alone. */
void render_times(const struct gen_times *t, struct buf *out);
void render_times_value(const struct gen_times *t, struct buf *out);
void render_stream_error(const struct err *e, struct buf *out);
void render_stream_done(struct buf *out); /* data: [DONE] */
