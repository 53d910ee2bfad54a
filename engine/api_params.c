/* api_params: from a stranger's JSON to a checked request, by tables.
 *
 * Three tables say all: `fields` (numbers and switches with their ranges), `refused` (fields that would change the
 * answer and are not served, each with the values that change nothing), and `parsers` (fields with a structure, a
 * function each). Which table a field stands in is the documentation of what is served.
 *
 * Everything borrowed (model, stop strings, prompts, schemas) points into the parsed JSON, which the ask owns. What has a
 * shape of its own is read by api_params_input.c (messages, prompts) and api_params_output.c (formats, tools, biases).
 * Runs on HTTP workers; no state of its own. */
#include "base/json.h"
#include "engine/api_params_impl.h"
#include "engine/detok.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define BOTH (ASK_CHAT | ASK_COMPLETION)
#define MAX_TOKENS (1 << 20)     /* no context is longer (settings: max_context) */
#define COMPLETION_MAX_TOKENS 16 /* OpenAI's default of the older route */

/* --- numbers and switches --- */

enum field_type { F_BOOL, F_INT, F_FLOAT };

struct field {
    const char *name;
    unsigned kinds;
    enum field_type type;
    double min, max;
    size_t at;
};

static const struct field fields[] = {
    {"temperature", BOTH, F_FLOAT, 0, 2, offsetof(struct ask, p.sample.temperature)},
    {"top_p", BOTH, F_FLOAT, 0, 1, offsetof(struct ask, p.sample.top_p)},
    {"min_p", BOTH, F_FLOAT, 0, 1, offsetof(struct ask, p.sample.min_p)},
    {"typical_p", BOTH, F_FLOAT, 0, 1, offsetof(struct ask, p.sample.typical_p)},
    {"repetition_penalty", BOTH, F_FLOAT, 0.01, 100, offsetof(struct ask, p.sample.repetition_penalty)},
    {"presence_penalty", BOTH, F_FLOAT, -2, 2, offsetof(struct ask, p.sample.presence_penalty)},
    {"frequency_penalty", BOTH, F_FLOAT, -2, 2, offsetof(struct ask, p.sample.frequency_penalty)},
    {"n", BOTH, F_INT, 1, ASK_CHOICES_MAX, offsetof(struct ask, n)},
    {"best_of", ASK_COMPLETION, F_INT, 1, ASK_CHOICES_MAX, offsetof(struct ask, best_of)},
    {"top_k", BOTH, F_INT, -1, MAX_TOKENS, offsetof(struct ask, p.sample.top_k)},
    {"max_tokens", BOTH, F_INT, 1, MAX_TOKENS, offsetof(struct ask, p.max_tokens)},
    {"max_completion_tokens", ASK_CHAT, F_INT, 1, MAX_TOKENS,
     offsetof(struct ask, p.max_tokens)}, /* the newer name wins */
    {"min_tokens", BOTH, F_INT, 0, MAX_TOKENS, offsetof(struct ask, p.min_tokens)},
    {"ignore_eos", BOTH, F_BOOL, 0, 0, offsetof(struct ask, p.ignore_eos)},
    {"stream", BOTH, F_BOOL, 0, 0, offsetof(struct ask, stream)},
    {"echo", ASK_COMPLETION, F_BOOL, 0, 0, offsetof(struct ask, echo)},
    {"return_token_ids", BOTH, F_BOOL, 0, 0, offsetof(struct ask, return_token_ids)},
    {"add_special_tokens", BOTH, F_BOOL, 0, 0, offsetof(struct ask, add_special_tokens)},
    {"add_generation_prompt", ASK_CHAT, F_BOOL, 0, 0, offsetof(struct ask, add_generation_prompt)},
};

static int parse_field(const struct field *f, struct ask *a, struct err *e)
{
    char *at = (char *)a + f->at;
    int64_t i;
    double d;
    bool given = false;
    switch (f->type) {
    case F_BOOL:
        return json_get_bool(a->root, f->name, (bool *)at, NULL, e);
    case F_INT:
        if (json_get_int(a->root, f->name, (int64_t)f->min, (int64_t)f->max, &i, &given, e)) return -1;
        if (given) *(int *)at = (int)i;
        return 0;
    case F_FLOAT:
        if (json_get_num(a->root, f->name, f->min, f->max, &d, &given, e)) return -1;
        if (given) *(float *)at = (float)d;
        return 0;
    }
    return 0;
}

/* --- fields that are not served --- */

struct refusal {
    const char *name;
    unsigned kinds;
    const char *harmless[3]; /* JSON of the values besides null that change nothing; containers: "[]" or "{}" */
};

static const struct refusal refused[] = {
    {"best_of", ASK_CHAT, {"1"}},
    {"use_beam_search", BOTH, {"false"}},
    {"length_penalty", BOTH, {"1"}},
    {"bad_words", BOTH, {"[]"}},
    {"allowed_token_ids", BOTH, {NULL}},
    {"logits_processors", BOTH, {"[]"}},
    {"guided_grammar", BOTH, {NULL}},
    {"prompt_logprobs", BOTH, {NULL}},
    {"truncate_prompt_tokens", BOTH, {NULL}},
    {"include_stop_str_in_output", BOTH, {"false"}},
    {"suffix", ASK_COMPLETION, {"\"\""}},
    {"prompt_embeds", ASK_COMPLETION, {NULL}},
    {"functions", ASK_CHAT, {"[]"}},
    {"function_call", ASK_CHAT, {"\"none\"", "\"auto\""}},
    {"modalities", ASK_CHAT, {"[\"text\"]"}},
    {"audio", ASK_CHAT, {NULL}},
    {"reasoning_effort", ASK_CHAT, {"\"none\""}},
    {"verbosity", ASK_CHAT, {"\"medium\""}},
    {"web_search_options", ASK_CHAT, {NULL}},
    {"documents", ASK_CHAT, {"[]"}},
    {"chat_template", ASK_CHAT, {NULL}},
    {"continue_final_message", ASK_CHAT, {"false"}},
    {"echo", ASK_CHAT, {"false"}},
};

/* Numbers by value (1 and 1.0 are the same), the rest as jansson compares. */
static bool same_value(const json_t *v, const json_t *w)
{
    return json_is_number(v) && json_is_number(w) ? json_number_value(v) == json_number_value(w) : json_equal(v, w) == 1;
}

static int check_refused(const struct refusal *r, const struct ask *a, struct err *e)
{
    const json_t *v = json_object_get(a->root, r->name);
    if (!v || json_is_null(v)) return 0;
    for (size_t i = 0; i < sizeof r->harmless / sizeof *r->harmless && r->harmless[i]; i++) {
        json_t *w = json_load(r->harmless[i], strlen(r->harmless[i]), JSON_DECODE_ANY, NULL);
        if (!w) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
        bool same = same_value(v, w);
        json_decref(w);
        if (same) return 0;
    }
    if (!r->harmless[0]) return err_field(e, ERR_UNSUPPORTED, r->name, "'%s' is not supported", r->name);
    return err_field(e, ERR_UNSUPPORTED, r->name, "this value of '%s' is not supported, only %s is", r->name,
                     r->harmless[0]);
}

/* --- fields with a structure --- */

json_t *ask_given(const struct ask *a, const char *name)
{
    json_t *v = json_object_get(a->root, name);
    return json_is_null(v) ? NULL : v;
}

static int add_stop(struct ask *a, const json_t *v, struct err *e)
{
    if (!json_is_string(v)) return err_field(e, ERR_INVALID, "stop", "'stop' must be a string or an array of strings");
    size_t n = json_string_length(v);
    if (n == 0 || n >= DETOK_STOP_BYTES)
        return err_field(e, ERR_INVALID, "stop", "a stop string must have 1 to %d bytes, this one has %zu",
                         DETOK_STOP_BYTES - 1, n);
    if (a->p.nstop == GEN_STOPS)
        return err_field(e, ERR_INVALID, "stop", "at most %d stop strings are allowed", GEN_STOPS);
    a->p.stop[a->p.nstop++] = json_string_value(v);
    return 0;
}

static int parse_stop(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    const json_t *v = ask_given(a, "stop");
    if (!v) return 0;
    if (!json_is_array(v)) return add_stop(a, v, e);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (add_stop(a, json_array_get(v, i), e)) return -1;
    return 0;
}

int ask_check_id(const json_t *v, const char *name, int vocab, struct err *e)
{
    if (!json_is_integer(v))
        return err_field(e, ERR_INVALID, name, "'%s' must hold token ids, which are integers", name);
    json_int_t id = json_integer_value(v);
    if (id < 0 || id >= vocab)
        return err_field(e, ERR_INVALID, name, "token id %lld in '%s' is not below the vocabulary's size %d",
                         (long long)id, name, vocab);
    return 0;
}

static int parse_stop_ids(struct ask *a, int vocab, struct err *e)
{
    const char *name = "stop_token_ids";
    const json_t *v = ask_given(a, name);
    if (!v) return 0;
    if (!json_is_array(v)) return err_field(e, ERR_INVALID, name, "'%s' must be an array of token ids", name);
    if (json_array_size(v) > GEN_STOP_IDS)
        return err_field(e, ERR_INVALID, name, "'%s' holds more than %d ids", name, GEN_STOP_IDS);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *id = json_array_get(v, i);
        if (ask_check_id(id, name, vocab, e)) return -1;
        a->p.stop_id[a->p.nstop_id++] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int parse_seed(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    int64_t seed = 0;
    if (json_get_int(a->root, "seed", INT64_MIN, INT64_MAX, &seed, &a->seeded, e)) return -1;
    a->p.sample.seed = (uint64_t)seed;
    return 0;
}

static int parse_special(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    bool skip = true;
    if (json_get_bool(a->root, "skip_special_tokens", &skip, NULL, e)) return -1;
    a->p.show_special = !skip;
    return 0;
}

static int parse_salt(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    return json_get_str(a->root, "cache_salt", ASK_SALT_LEN, &a->cache_salt, NULL, e);
}

static int parse_stream_options(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    const char *name = "stream_options";
    const json_t *v = ask_given(a, name);
    if (!v) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, name, "'%s' must be an object", name);
    if (!a->stream) return err_field(e, ERR_INVALID, name, "'%s' is only allowed when 'stream' is true", name);
    if (json_get_bool(v, "include_usage", &a->include_usage, NULL, e)) return -1;
    return json_get_bool(v, "continuous_usage_stats", &a->continuous_usage, NULL, e);
}

static int parse_chat_logprobs(struct ask *a, struct err *e)
{
    bool on = false, have_top = false;
    int64_t top = 0;
    if (json_get_bool(a->root, "logprobs", &on, NULL, e)) return -1;
    if (json_get_int(a->root, "top_logprobs", 0, TOP_LOGPROBS_MAX, &top, &have_top, e)) return -1;
    if (have_top && top > 0 && !on)
        return err_field(e, ERR_INVALID, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
    if (on) a->p.sample.logprobs = (int)top;
    return 0;
}

static int parse_logprobs(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    if (a->kind == ASK_CHAT) return parse_chat_logprobs(a, e);
    int64_t n = -1;
    if (json_get_int(a->root, "logprobs", 0, TOP_LOGPROBS_MAX, &n, NULL, e)) return -1;
    a->p.sample.logprobs = (int)n;
    return 0;
}

static int parse_template_args(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    if (a->kind != ASK_CHAT) return 0;
    const char *name = "chat_template_kwargs";
    a->template_args = ask_given(a, name);
    if (a->template_args && !json_is_object(a->template_args))
        return err_field(e, ERR_INVALID, name, "'%s' must be an object", name);
    return 0;
}

/* --- all of it --- */

static ask_parser *const parsers[] = {
    parse_seed,           parse_stop,      parse_stop_ids,     parse_special,  parse_salt,
    parse_stream_options, parse_logprobs,  ask_parse_choices,  ask_parse_bias, ask_parse_format,
    parse_template_args,  ask_parse_tools, ask_parse_adapters, ask_parse_policy,
};

static int parse_all(struct ask *a, int vocab, struct err *e)
{
    if (json_need_str(a->root, "model", ASK_MODEL_LEN, &a->model, e)) return -1;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refused[i].kinds & a->kind && check_refused(&refused[i], a, e)) return -1;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].kinds & a->kind && parse_field(&fields[i], a, e)) return -1;
    for (size_t i = 0; i < sizeof parsers / sizeof *parsers; i++)
        if (parsers[i](a, vocab, e)) return -1;
    if (a->p.sample.top_k < 0) a->p.sample.top_k = 0; /* -1 is another way to say "all" */
    if (a->kind == ASK_CHAT ? ask_parse_messages(a, e) : ask_parse_prompts(a, vocab, e)) return -1;
    if (a->nprompts * a->n <= ASK_CHOICES_MAX) return 0;
    return err_field(e, ERR_INVALID, "n", "%d prompts times %d choices are more than %d answers", a->nprompts, a->n,
                     ASK_CHOICES_MAX);
}

int ask_parse(const char *body, size_t len, enum ask_kind kind, int vocab, struct ask *out, struct err *e)
{
    struct ask a = {
        .kind = kind,
        .add_generation_prompt = true,
        .add_special_tokens = kind == ASK_COMPLETION, /* a chat template writes its own BOS */
        .n = 1,
        .p = {.sample = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .logprobs = -1},
              .max_tokens = kind == ASK_COMPLETION ? COMPLETION_MAX_TOKENS : 0},
    };
    if (json_parse(body, len, &a.root, e)) return -1;
    if (parse_all(&a, vocab, e)) {
        ask_close(&a);
        return -1;
    }
    *out = a;
    return 0;
}

void ask_close(struct ask *a)
{
    json_decref(a->root);
    free((void *)a->p.bias);
    a->root = NULL;
    a->p.bias = NULL;
    a->p.nbias = 0;
}
