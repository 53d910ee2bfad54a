/* OpenAI's words, as vLLM and others speak them, made ours on the way.
 *
 *   body    {"model":"tenants-name's digest", ...}     -> the engine's names in, what it has not out, stream_options in
 *   chunk   {..,"model":"digest",..,"usage":{..}}      -> counted, the client's name in, usage out unless asked for
 *   answer  the same, once
 *   error   {"error":{"message","type","code":400}}    -> one of ours, with the client's names
 *
 * Counting: vLLM's continuous usage tells the tokens of one choice, not of the answer. So the last count of each choice is
 * kept, what it grew by is added up, and a prompt is counted with the first chunk of any of its choices. The chunk without
 * choices at the end has the sums, which replace ours. Without continuous usage a chunk with text counts as one token,
 * which is an estimate and is said to be one.
 *
 * Bytes that are no JSON object pass as an event that counts nothing; they are not ours to judge. Any thread. */
#include "gateway/pool/engine_words.h"
#include "base/json.h"
#include <stdio.h>
#include <string.h>

#define CHOICES_MAX 128
#define MODELS_MAX 65536
#define TOKEN_BYTES 4 /* of a body, roughly */

/* --- bodies --- */

void words_put(struct words_body *b, struct json_span key, const char *value, size_t n)
{
    buf_addc(b->out, b->begun ? ',' : '{');
    b->begun = true;
    buf_add(b->out, key.s, key.n);
    buf_addc(b->out, ':');
    buf_add(b->out, value, n);
}

void words_put_model(struct words_body *b, struct json_span key, const char *name)
{
    struct buf quoted;
    snprintf(b->ask->sent, sizeof b->ask->sent, "%s", name);
    buf_init(&quoted, 6 * sizeof b->ask->sent);
    buf_add_json(&quoted, name, strlen(name));
    words_put(b, key, quoted.data, quoted.len);
    buf_close(&quoted);
}

int words_refuse(struct words_body *b, const struct json_member *m, struct err *e)
{
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(m->key.n - 2), m->key.s + 1);
    (void)b;
    return err_field(e, ERR_UNSUPPORTED, name, "'%s' is not served by the engine that this model runs on", name);
}

int words_refuse_policy(struct words_body *b, const struct json_member *m, struct err *e)
{
    (void)m;
    return kind_refuse_policy(b->link, e);
}

int words_leave_out(struct words_body *b, const struct json_member *m, struct err *e)
{
    if (json_span_is(m->value, "null") || json_span_is(m->value, "[]") || json_span_is(m->value, "{}")) return 0;
    return words_refuse(b, m, e);
}

int words_stream_options(struct words_body *b, const struct json_member *m, struct err *e)
{
    struct json_span v;
    (void)e;
    if (!b->ask->stream) { /* what that means is the engine's to say */
        words_put(b, m->key, m->value.s, m->value.n);
        return 0;
    }
    b->ask->usage = json_walk_find(m->value, "include_usage", &v) && json_span_is(v, "true");
    b->ask->usage_each =
        b->ask->usage && json_walk_find(m->value, "continuous_usage_stats", &v) && json_span_is(v, "true");
    return 0;
}

static const struct words_field *find_field(const struct words_field *f, const struct json_member *m)
{
    while (f->name && !json_walk_named(m, f->name)) f++;
    return f->name ? f : NULL;
}

static void read_choices(struct kind_ask *a, struct json_span body)
{
    struct json_span v;
    int64_t n = 1;
    if (json_walk_find(body, "n", &v)) json_span_count(v, &n);
    a->choices = n >= 1 && n <= CHOICES_MAX ? (int)n : 1;
}

int words_write_body(const struct engine_link *l, struct kind_ask *a, const struct words_field *fields,
                     const char *options, struct buf *out, struct err *e)
{
    struct words_body b = {.link = l, .ask = a, .whole = {a->body, a->len}, .out = out};
    struct json_walk w = json_walk(b.whole);
    struct json_member m;
    int rc;
    a->usage = a->usage_each = false;
    a->sent[0] = 0;
    read_choices(a, b.whole);
    while ((rc = json_walk_member(&w, &m)) > 0) {
        const struct words_field *f = find_field(fields, &m);
        if (!f)
            words_put(&b, m.key, m.value.s, m.value.n);
        else if (f->write(&b, &m, e))
            return -1;
    }
    if (rc < 0 || !b.begun) return err_set(e, ERR_INVALID_JSON, "the request's body is not a JSON object");
    if (a->stream) words_put(&b, (struct json_span){"\"stream_options\"", 16}, options, strlen(options));
    buf_addc(out, '}');
    return out->failed ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

/* --- counting --- */

struct usage {
    int64_t prompt, cached, output;
};

static bool read_usage(struct json_span v, struct usage *u)
{
    struct json_span part, details;
    *u = (struct usage){0};
    if (!json_walk_find(v, "completion_tokens", &part) || !json_span_count(part, &u->output)) return false;
    if (json_walk_find(v, "prompt_tokens", &part)) json_span_count(part, &u->prompt);
    if (json_walk_find(v, "prompt_tokens_details", &details) && json_walk_find(details, "cached_tokens", &part))
        json_span_count(part, &u->cached);
    return true;
}

static void take_sums(struct json_span usage, struct relay_counts *c)
{
    struct usage u;
    if (!read_usage(usage, &u)) return;
    c->prompt = u.prompt;
    c->cached = u.cached;
    c->output = u.output;
    c->known = true;
    c->estimated = false;
}

/* No choice of this one's prompt has been heard of. */
static bool prompt_is_new(const struct kind_ask *a, int64_t index)
{
    int64_t first = index / a->choices * a->choices;
    for (int64_t i = first; i < first + a->choices && i < KIND_CHOICES; i++)
        if (a->state[i]) return false;
    return true;
}

/* One choice's tokens so far; state holds them plus one. */
static void count_choice(struct kind_ask *a, int64_t index, const struct usage *u, struct relay_counts *c)
{
    if (index >= KIND_CHOICES) return;
    if (prompt_is_new(a, index)) {
        c->prompt += u->prompt;
        c->cached += u->cached;
    }
    int64_t before = a->state[index] ? a->state[index] - 1 : 0;
    if (u->output >= before) {
        c->output += u->output - before;
        a->state[index] = (uint32_t)u->output + 1;
    }
    c->known = true;
}

/* A chunk with text that says no more than that. The prompt's tokens are guessed as the reservation does. */
static void estimate(const struct kind_ask *a, struct relay_counts *c)
{
    if (c->known && !c->estimated) return;
    if (!c->known) c->prompt = (int64_t)(a->len / TOKEN_BYTES) + 1;
    c->known = c->estimated = true;
    c->output++;
}

static void read_finish(struct json_span choice, struct relay_counts *c)
{
    struct json_span v;
    if (!json_walk_find(choice, "finish_reason", &v) || v.n < 2 || v.s[0] != '"' || v.n - 2 >= sizeof c->finish) return;
    memcpy(c->finish, v.s + 1, v.n - 2);
    c->finish[v.n - 2] = 0;
}

static bool says_something(struct json_span v)
{
    return v.n > 2 && !json_span_is(v, "null");
}

static bool has_text(struct json_span choice)
{
    struct json_span v, delta;
    if (json_walk_find(choice, "text", &v)) return says_something(v);
    if (!json_walk_find(choice, "delta", &delta)) return false;
    return (json_walk_find(delta, "content", &v) && says_something(v)) ||
           (json_walk_find(delta, "tool_calls", &v) && says_something(v)) ||
           (json_walk_find(delta, "reasoning_content", &v) && says_something(v));
}

/* What the choices of a chunk say; their number. usage NULL: it has none. */
static int read_chunk(struct kind_ask *a, struct json_span choices, const struct usage *u, struct relay_counts *c)
{
    struct json_walk w = json_walk(choices);
    struct json_span choice, v;
    int n = 0;
    while (json_walk_item(&w, &choice) > 0) {
        int64_t index = 0;
        if (json_walk_find(choice, "index", &v)) json_span_count(v, &index);
        read_finish(choice, c);
        if (u && n == 0) count_choice(a, index, u, c); /* of a chunk with several it would not say whose it is */
        if (!u && has_text(choice)) estimate(a, c);
        n++;
    }
    return n;
}

/* --- answers --- */

struct parts {
    struct json_span choices, usage, error;
    bool object, has_usage, has_error;
};

static struct parts take_apart(struct json_span v)
{
    struct parts p = {0};
    struct json_walk w = json_walk(v);
    struct json_member m;
    int rc;
    while ((rc = json_walk_member(&w, &m)) > 0) {
        if (json_walk_named(&m, "choices")) p.choices = m.value;
        if (json_walk_named(&m, "usage") && m.value.s[0] == '{') {
            p.usage = m.value;
            p.has_usage = true;
        }
        if (json_walk_named(&m, "error") && !json_span_is(m.value, "null")) {
            p.error = m.value;
            p.has_error = true;
        }
    }
    p.object = rc == 0;
    return p;
}

/* The object again, with the client's name of the model, and `usage` only where it is wanted. */
static int put_again(const struct kind_ask *a, struct json_span v, bool usage, struct buf *out)
{
    struct json_walk w = json_walk(v);
    struct json_member m;
    char comma = '{';
    while (json_walk_member(&w, &m) > 0) {
        if (!usage && json_walk_named(&m, "usage")) continue;
        buf_addc(out, comma);
        comma = ',';
        buf_add(out, m.key.s, m.key.n);
        buf_addc(out, ':');
        if (json_walk_named(&m, "model"))
            buf_add_json(out, a->model, strlen(a->model));
        else
            buf_add(out, m.value.s, m.value.n);
    }
    if (comma == '{') buf_addc(out, '{');
    buf_addc(out, '}');
    return out->failed ? -1 : 0;
}

static int put_error(const struct kind_ask *a, struct json_span error, struct buf *out)
{
    json_t *o = NULL;
    const char *message = NULL;
    if (json_parse(error.s, error.n, &o, NULL) == 0) message = json_string_value(json_object_get(o, "message"));
    words_error(a, ERR_ENGINE, "", message ? message : "the engine failed while it served the request", out);
    json_decref(o);
    return out->failed ? -1 : 0;
}

int words_event(struct kind_ask *a, const char *data, size_t n, struct relay_counts *c, struct buf *out)
{
    struct json_span v = {data, n};
    struct usage u;
    struct parts p = take_apart(v);
    if (!p.object) return buf_add(out, data, n);
    if (p.has_error) return put_error(a, p.error, out);
    bool counted = p.has_usage && read_usage(p.usage, &u);
    int choices = read_chunk(a, p.choices, counted ? &u : NULL, c);
    if (choices || !counted) return put_again(a, v, a->usage_each, out);
    take_sums(p.usage, c);
    return a->usage ? put_again(a, v, true, out) : 0;
}

int words_answer(struct kind_ask *a, const char *body, size_t n, struct relay_counts *c, struct buf *out)
{
    struct json_span v = {body, n}, choice;
    struct parts p = take_apart(v);
    if (!p.object) return buf_add(out, body, n);
    if (p.has_usage) take_sums(p.usage, c);
    struct json_walk w = json_walk(p.choices);
    while (json_walk_item(&w, &choice) > 0) read_finish(choice, c);
    return put_again(a, v, true, out);
}

/* --- errors --- */

static void add_renamed(const struct kind_ask *a, const char *s, struct buf *out)
{
    const char *names[] = {a->sent, a->digest};
    while (*s) {
        const char *hit = NULL;
        size_t len = 0;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            const char *h = names[i] && names[i][0] ? strstr(s, names[i]) : NULL;
            if (!h || (hit && h >= hit)) continue;
            hit = h;
            len = strlen(names[i]);
        }
        buf_add(out, s, hit ? (size_t)(hit - s) : strlen(s));
        if (!hit) return;
        buf_adds(out, a->model);
        s = hit + len;
    }
}

void words_error(const struct kind_ask *a, enum err_code code, const char *param, const char *message, struct buf *out)
{
    struct err e = {0};
    struct buf named;
    buf_init(&named, 4 * sizeof e.msg + sizeof a->sent * 8);
    add_renamed(a, message, &named);
    err_field(&e, code, param, "%s", named.failed || !named.data ? err_info(code)->name : named.data);
    json_error(&e, out);
    buf_close(&named);
}

/* --- models --- */

static bool is_base(const json_t *m)
{
    const json_t *parent = json_object_get(m, "parent");
    return !parent || json_is_null(parent);
}

int words_models(const struct engine_link *l, const char *wanted, char model[128], int *max_context, struct err *e)
{
    json_t *v = NULL, *m;
    size_t i;
    char first[128] = "";
    bool found = false;
    if (kind_get_json(l, "/v1/models", &v, e)) return -1;
    json_array_foreach(json_object_get(v, "data"), i, m)
    {
        const char *id = json_string_value(json_object_get(m, "id"));
        if (i > MODELS_MAX) break;
        if (!id || !*id || !is_base(m)) continue; /* "" is what we call a name that is not known yet */
        if (found || strlen(id) >= sizeof first || (wanted[0] && strcmp(wanted, id) != 0)) {
            if (!first[0]) snprintf(first, sizeof first, "%.127s", id);
            continue;
        }
        found = true;
        snprintf(model, 128, "%s", id);
        json_int_t n = json_integer_value(json_object_get(m, "max_model_len"));
        *max_context = n > 0 && n <= INT32_MAX ? (int)n : 0;
    }
    json_decref(v);
    if (found) return 0;
    if (!wanted[0]) return err_set(e, ERR_ENGINE, "%s lists no model", l->base_url);
    return err_set(e, ERR_ENGINE, "%s does not serve `%s`; the first model that it lists is `%s`", l->base_url, wanted,
                   first);
}
