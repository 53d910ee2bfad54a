/* api_render: prints answers by appending bytes, no tree in between.
 *
 * jansson would cost more per token than the token's row costs to sample, so objects are appended to a buf: constant
 * text from here, strings through buf_add_json(), which escapes and replaces ill-formed UTF-8. The unit test parses
 * every object back with jansson.
 *
 * A token may be part of a UTF-8 character. Its text in log-probabilities then shows U+FFFD, as OpenAI's does, and
 * `bytes` the truth; the older completions shape writes such a token as OpenAI's did, "bytes:\xe6\x97", for its
 * top_logprobs is an object whose names must differ; a name that comes twice all the same (two tokens of the same
 * bytes) is left out the second time: the likelier token has it. text_offset counts the characters of the whole text;
 * a token that begins within a character has that one's. Infinite values are printed as OpenAI does, -9999.
 *
 * Pure functions over the caller's memory: any thread, in practice the step thread. */
#include "engine/api_render.h"
#include <string.h>

#define LOGPROB_LEAST (-9999.0)

/* --- log-probabilities --- */

void logprobs_init(struct logprobs *l)
{
    l->n = 0;
    l->offset = 0;
    for (int i = 0; i < LOGPROB_COLUMNS; i++) buf_init(&l->column[i], RENDER_ANSWER_MAX);
}

void logprobs_close(struct logprobs *l)
{
    for (int i = 0; i < LOGPROB_COLUMNS; i++) buf_close(&l->column[i]);
}

void logprobs_reset(struct logprobs *l)
{
    l->n = 0;
    for (int i = 0; i < LOGPROB_COLUMNS; i++) buf_reset(&l->column[i]);
}

static void add_value(struct buf *b, float logprob)
{
    buf_addf(b, "%.9g", logprob > LOGPROB_LEAST ? (double)logprob : LOGPROB_LEAST);
}

/* "token":..,"logprob":..,"bytes":[..] */
static void add_entry(struct buf *b, const struct vocab_text *v, int32_t id, float logprob)
{
    size_t n;
    const char *s = v->bytes(v->u, id, &n);
    buf_adds(b, "{\"token\":");
    buf_add_json(b, s, n);
    buf_adds(b, ",\"logprob\":");
    add_value(b, logprob);
    buf_adds(b, ",\"bytes\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_addc(b, ',');
        buf_addu(b, (unsigned char)s[i]);
    }
    buf_addc(b, ']');
}

static void add_chat(struct buf *b, const struct vocab_text *v, const struct sample *s)
{
    add_entry(b, v, s->id, s->logprob);
    buf_adds(b, ",\"top_logprobs\":[");
    for (int i = 0; i < s->ntop; i++) {
        if (i) buf_addc(b, ',');
        add_entry(b, v, s->top[i].id, s->top[i].logprob);
        buf_addc(b, '}');
    }
    buf_adds(b, "]}");
}

/* The token as a JSON string, in the older shape's manner. */
static void add_name(struct buf *b, const char *s, size_t n)
{
    bool valid = true;
    for (size_t i = 0; i < n && valid;) i += buf_utf8(s + i, n - i, &valid);
    if (valid) {
        buf_add_json(b, s, n);
        return;
    }
    buf_adds(b, "\"bytes:");
    for (size_t i = 0; i < n; i++) buf_addf(b, "\\\\x%02x", (unsigned)(unsigned char)s[i]);
    buf_addc(b, '"');
}

/* The printed names of one top_logprobs object, to know a name that comes again. */
struct names {
    int n;
    struct {
        size_t at, len;
    } name[TOP_LOGPROBS_MAX + 1];
};

static void add_named(struct buf *b, struct names *seen, const struct vocab_text *v, int32_t id, float logprob)
{
    size_t n, before = b->len;
    const char *s = v->bytes(v->u, id, &n);
    if (seen->n) buf_addc(b, ',');
    size_t at = b->len;
    add_name(b, s, n);
    size_t len = b->len - at;
    if (b->failed) return;
    for (int i = 0; i < seen->n; i++) {
        if (seen->name[i].len != len || memcmp(b->data + seen->name[i].at, b->data + at, len)) continue;
        b->len = before;
        b->data[before] = 0;
        return;
    }
    seen->name[seen->n].at = at;
    seen->name[seen->n++].len = len;
    buf_addc(b, ':');
    add_value(b, logprob);
}

static void add_top_object(struct buf *b, const struct vocab_text *v, const struct sample *s)
{
    struct names seen = {0};
    bool chosen_shown = false;
    buf_addc(b, '{');
    for (int i = 0; i < s->ntop; i++) {
        add_named(b, &seen, v, s->top[i].id, s->top[i].logprob);
        chosen_shown |= s->top[i].id == s->id;
    }
    if (!chosen_shown) add_named(b, &seen, v, s->id, s->logprob);
    buf_addc(b, '}');
}

static bool continues(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Prints where the token begins, and moves on by the characters that begin in it. */
static void add_offset(struct logprobs *l, const char *s, size_t n)
{
    bool within = n > 0 && continues(s[0]) && l->offset > 0;
    buf_addu(&l->column[3], (uint64_t)(l->offset - within));
    for (size_t i = 0; i < n; i++) l->offset += !continues(s[i]);
}

static void add_completion(struct logprobs *l, const struct vocab_text *v, const struct sample *s)
{
    size_t n;
    const char *text = v->bytes(v->u, s->id, &n);
    add_name(&l->column[0], text, n);
    add_value(&l->column[1], s->logprob);
    add_top_object(&l->column[2], v, s);
    add_offset(l, text, n);
}

int logprobs_add(struct logprobs *l, enum ask_kind kind, const struct vocab_text *v, const struct sample *s)
{
    int columns = kind == ASK_CHAT ? 1 : LOGPROB_COLUMNS, failed = 0;
    for (int i = 0; i < columns && l->n; i++) buf_addc(&l->column[i], ',');
    if (kind == ASK_CHAT)
        add_chat(&l->column[0], v, s);
    else
        add_completion(l, v, s);
    l->n++;
    for (int i = 0; i < columns; i++) failed |= l->column[i].failed;
    return failed ? -1 : 0;
}

int logprobs_add_first(struct logprobs *l, const struct vocab_text *v, int32_t id)
{
    size_t n;
    const char *text = v->bytes(v->u, id, &n);
    add_name(&l->column[0], text, n);
    buf_adds(&l->column[1], "null");
    buf_adds(&l->column[2], "null");
    add_offset(l, text, n);
    l->n++;
    return l->column[0].failed || l->column[3].failed ? -1 : 0;
}

static void add_logprobs(const struct logprobs *l, enum ask_kind kind, struct buf *out)
{
    static const char *const completion[LOGPROB_COLUMNS] = {"{\"tokens\":[", "],\"token_logprobs\":[",
                                                            "],\"top_logprobs\":[", "],\"text_offset\":["};
    if (!l) {
        buf_adds(out, "null");
        return;
    }
    if (kind == ASK_CHAT) {
        buf_adds(out, "{\"content\":[");
        buf_add(out, l->column[0].data, l->column[0].len);
        buf_adds(out, "],\"refusal\":null}");
        return;
    }
    for (int i = 0; i < LOGPROB_COLUMNS; i++) {
        buf_adds(out, completion[i]);
        buf_add(out, l->column[i].data, l->column[i].len);
    }
    buf_adds(out, "]}");
}

/* --- objects --- */

int render_init(struct render *r, const struct render_spec *s, struct err *e)
{
    static const char *const object[2][2] = {{"text_completion", "text_completion"},
                                             {"chat.completion", "chat.completion.chunk"}};
    bool chat = s->kind == ASK_CHAT;
    r->kind = s->kind;
    r->policy = s->policy;
    r->stream = s->stream;
    r->include_usage = s->include_usage;
    r->continuous_usage = s->continuous_usage;
    buf_init(&r->head, 4096);
    buf_addf(&r->head, "%s{\"id\":\"%s-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", s->stream ? "data: " : "",
             chat ? "chatcmpl" : "cmpl", s->id, object[chat][s->stream], (long long)s->created);
    buf_add_json(&r->head, s->model, strlen(s->model));
    buf_adds(&r->head, ",\"system_fingerprint\":");
    buf_add_json(&r->head, s->fingerprint, strlen(s->fingerprint));
    if (!buf_adds(&r->head, ",\"choices\":[")) return 0;
    render_close(r);
    return err_set(e, ERR_NO_MEMORY, "no memory for the answer");
}

void render_close(struct render *r)
{
    if (r->head.data) buf_close(&r->head);
    r->head.data = NULL;
}

static void add_usage(const struct render *r, const struct gen_counts *c, struct buf *out)
{
    buf_addf(out,
             ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,\"prompt_tokens_details\":{"
             "\"cached_tokens\":%d",
             c->prompt, c->output, c->prompt + c->output, c->cached);
    if (r->policy.before)
        buf_addf(out, ",\"policy_before_tokens\":%d,\"policy_after_tokens\":%d", r->policy.before, r->policy.after);
    buf_adds(out, "}}");
}

static void add_prompt_ids(const struct piece *p, struct buf *out)
{
    buf_adds(out, ",\"prompt_token_ids\":[");
    for (int i = 0; i < p->nprompt_ids; i++) {
        if (i) buf_addc(out, ',');
        buf_addu(out, (uint64_t)p->prompt_ids[i]);
    }
    buf_addc(out, ']');
}

static void add_calls(const struct piece *p, bool stream, struct buf *out)
{
    buf_adds(out, "\"tool_calls\":[");
    for (int i = p->first_call; i < p->ncalls; i++) {
        const struct tool_call *c = &p->calls[i];
        if (i > p->first_call) buf_addc(out, ',');
        buf_addc(out, '{');
        if (stream) buf_addf(out, "\"index\":%d,", i);
        buf_addf(out, "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", c->id);
        buf_add_json(out, c->name, strlen(c->name));
        buf_adds(out, ",\"arguments\":");
        buf_add_json(out, c->arguments, strlen(c->arguments));
        buf_adds(out, "}}");
    }
    buf_addc(out, ']');
}

/* "message":{..}, "delta":{..} or "text":.. */
static void add_content(const struct render *r, const struct piece *p, struct buf *out)
{
    if (r->kind == ASK_COMPLETION) {
        buf_adds(out, "\"text\":");
        buf_add_json(out, p->text, p->text_len);
        return;
    }
    buf_adds(out, r->stream ? "\"delta\":{" : "\"message\":{");
    if (p->role || !r->stream) buf_adds(out, "\"role\":\"assistant\",");
    if (p->finish && r->stream) {
        buf_addc(out, '}'); /* the last chunk says why, and nothing else */
        return;
    }
    bool calls = p->ncalls > p->first_call;
    if (p->text_len || !calls) {
        buf_adds(out, "\"content\":");
        buf_add_json(out, p->text, p->text_len);
    } else if (!r->stream) {
        buf_adds(out, "\"content\":null");
    }
    if (calls) {
        if (p->text_len || !r->stream) buf_addc(out, ',');
        add_calls(p, r->stream, out);
    }
    buf_adds(out, r->stream ? "}" : ",\"refusal\":null}");
}

static void add_choice(const struct render *r, const struct piece *p, struct buf *out)
{
    buf_addf(out, "{\"index\":%d,", p->index);
    add_content(r, p, out);
    buf_adds(out, ",\"logprobs\":");
    add_logprobs(p->lp, r->kind, out);
    if (p->finish)
        buf_addf(out, ",\"finish_reason\":\"%s\"", p->finish);
    else
        buf_adds(out, ",\"finish_reason\":null");
    if (p->ids) {
        buf_adds(out, ",\"token_ids\":[");
        buf_add(out, p->ids->data, p->ids->len);
        buf_addc(out, ']');
    }
    if (p->prompt_ids && r->kind == ASK_COMPLETION) add_prompt_ids(p, out);
    buf_addc(out, '}');
}

void render_chunk(const struct render *r, const struct piece *p, const struct gen_counts *c, struct buf *out)
{
    buf_add(out, r->head.data, r->head.len);
    add_choice(r, p, out);
    buf_addc(out, ']');
    if (p->prompt_ids && r->kind == ASK_CHAT) add_prompt_ids(p, out);
    if (r->continuous_usage)
        add_usage(r, c, out);
    else if (r->include_usage)
        buf_adds(out, ",\"usage\":null");
    buf_adds(out, "}\n\n");
}

void render_usage_chunk(const struct render *r, const struct gen_counts *c, struct buf *out)
{
    buf_add(out, r->head.data, r->head.len);
    buf_addc(out, ']');
    add_usage(r, c, out);
    buf_adds(out, "}\n\n");
}

void render_whole(const struct render *r, const struct piece *p, int n, const struct gen_counts *c, struct buf *out)
{
    buf_add(out, r->head.data, r->head.len);
    for (int i = 0; i < n; i++) {
        if (i) buf_addc(out, ',');
        add_choice(r, &p[i], out);
    }
    buf_addc(out, ']');
    if (p->prompt_ids && r->kind == ASK_CHAT) add_prompt_ids(p, out);
    add_usage(r, c, out);
    buf_addc(out, '}');
}

/* --- the rest of a stream --- */

void render_counts(const struct gen_counts *c, struct buf *out)
{
    buf_addf(out, ": weft %d %d %d\n\n", c->prompt, c->cached, c->output);
}

void render_policy(const struct policy_counts *c, struct buf *out)
{
    buf_addf(out, ": weft-prompt %d %d\n\n", c->before, c->after);
}

void render_times_value(const struct gen_times *t, struct buf *out)
{
    buf_addf(out, "%lld %lld %lld %lld %lld", (long long)t->queue_us, (long long)t->load_us, (long long)t->prefill_us, (long long)t->decode_us,
             (long long)t->paused_us);
}

void render_times(const struct gen_times *t, struct buf *out)
{
    buf_adds(out, ": weft-time ");
    render_times_value(t, out);
    buf_adds(out, "\n\n");
}

void render_stream_error(const struct err *e, struct buf *out)
{
    buf_adds(out, "data: ");
    json_error(e, out);
    buf_adds(out, "\n\n");
}

void render_stream_done(struct buf *out)
{
    buf_adds(out, "data: [DONE]\n\n");
}
