/* What engines that speak OpenAI's words have in common, whoever they are: the kinds `vllm` and `openai` are written in it
 * (engine_kind.h).
 *
 * Bodies and answers are changed member by member, all else stays to the byte: the name of the model goes out as the
 * engine's and comes back as the client's, counts are taken from `usage`, and what the client did not ask for is left
 * out. */
#pragma once
#include "gateway/pool/engine_kind.h"
#include "gateway/proxy/json_walk.h"

/* A body on its way. */
struct words_body {
    const struct engine_link *link;
    struct kind_ask *ask;
    struct json_span whole;
    struct buf *out;
    bool begun;
};

/* What becomes of a member: written by words_put(), or left out. -1: the request can't be said to this engine. */
struct words_field {
    const char *name;
    int (*write)(struct words_body *b, const struct json_member *m, struct err *e);
};

/* ask->body with `fields` rewritten (a row without name ends them), and behind it `options` (JSON) as stream_options where
 * the answer is a stream. Notes what the client asked to be told, and how many choices. ERR_INVALID_JSON. */
int words_write_body(const struct engine_link *l, struct kind_ask *a, const struct words_field *fields,
                     const char *options, struct buf *out, struct err *e);

void words_put(struct words_body *b, struct json_span key, const char *value, size_t n);
void words_put_model(struct words_body *b, struct json_span key, const char *name); /* also kept in ask->sent */
/* A field of ours that this engine has not: left out where it says nothing, else ERR_UNSUPPORTED. */
int words_leave_out(struct words_body *b, const struct json_member *m, struct err *e);
int words_refuse_policy(struct words_body *b, const struct json_member *m, struct err *e);
int words_refuse(struct words_body *b, const struct json_member *m, struct err *e);
/* Read here already, and appended by words_write_body(). */
int words_stream_options(struct words_body *b, const struct json_member *m, struct err *e);

/* kind.event and kind.answer. Choices are counted by the `usage` of each chunk where it comes (KIND_CHOICES of them), else
 * by chunks with text, which is said to be an estimate until the last chunk's `usage`. */
int words_event(struct kind_ask *a, const char *data, size_t n, struct relay_counts *c, struct buf *out);
int words_answer(struct kind_ask *a, const char *body, size_t n, struct relay_counts *c, struct buf *out);

/* {"error":{..}} in one line; where the message says a->sent or a->digest it says a->model. param "": null. */
void words_error(const struct kind_ask *a, enum err_code code, const char *param, const char *message, struct buf *out);

/* GET /v1/models: of the names without a parent the wanted one, or the first, into `model`, and its length. wanted "": any. ERR_ENGINE: it is not among them. */
int words_models(const struct engine_link *l, const char *wanted, char model[128], int *max_context, struct err *e);
