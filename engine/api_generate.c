/* api_generate: the routes that generate text, up to the hand-over to the scheduler.
 *
 * On the HTTP worker, or for what takes longer on a side thread: headers and body are checked, the prompt is tokenized,
 * a shape is compiled, lengths are held against the context, and each prompt becomes a part that is submitted on its own. From then on the answer belongs to the events (api_call.c).
 *
 * The race that decides the shape of call_run(): events may come before sched_submit() returns, and the client may
 * leave between two submissions. So a submission happens under the call's lock, which GEN_DONE and the client's leaving
 * take as well, and the worker itself counts as one outstanding part until it has submitted all. */
#include "base/clock.h"
#include "engine/api_call.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- making a call --- */

/* The same limit for all parts: the longest prompt decides what "the rest" is. */
int call_fit(struct call *c, const struct api_engine *g, int less, struct err *e)
{
    struct gen_params *p = &c->ask.p;
    const char *field = c->ask.kind == ASK_CHAT ? "messages" : "prompt";
    int longest = 0;
    p->max_tokens = c->asked_max;
    for (int i = 0; i < c->nparts; i++)
        if ((int)c->part[i].prompt.n > longest) longest = (int)c->part[i].prompt.n;
    int rest = g->max_context - (longest - less);
    if (rest < 1 || p->max_tokens > rest)
        return err_field(
            e, ERR_CONTEXT_LENGTH, field,
            "This model's maximum context length is %d tokens. However, %d were asked for (%d in the %s, %d in the "
            "completion). Shorten one or the other.",
            g->max_context, longest + (p->max_tokens ? p->max_tokens : 1), longest, field,
            p->max_tokens ? p->max_tokens : 1);
    if (p->max_tokens == 0) p->max_tokens = rest;
    if (p->min_tokens > p->max_tokens)
        return err_field(e, ERR_INVALID, "min_tokens",
                         "'min_tokens' is %d, more than the %d tokens that the answer may have", p->min_tokens,
                         p->max_tokens);
    return 0;
}

static int tokenize_parts(struct call *c, const struct api_engine *g, struct err *e)
{
    for (int i = 0; i < c->nparts; i++) {
        struct part *p = &c->part[i];
        int before = 0;
        if (part_choice(p) == 0 && api_tokenize(g, &c->ask, i / c->ask.n, &p->prompt, &before, e)) return -1;
        const struct tokens *t = part_prompt(p);
        if (c->ask.policy.on && part_choice(p) == 0) {
            c->policy.before += before;
            c->policy.after += (int)t->n;
        }
        p->counts.prompt = (int)t->n;
        for (size_t k = 0; k < t->n && c->ask.echo; k++) {
            size_t n;
            const char *s = c->vocab.bytes(c->vocab.u, t->id[k], &n);
            if (buf_add(&p->text, s, n)) return err_set(e, ERR_NO_MEMORY, "no memory for the answer");
        }
    }
    c->asked_max = c->ask.p.max_tokens;
    return c->ask.policy.ratio > 0 ? 0 : call_fit(c, g, 0, e); /* else compress_plan() knows what will go */
}

/* --- the answer's shape --- */

static int choice_grammar(struct constrain *k, const json_t *list, struct grammar **out, struct err *e)
{
    size_t n = json_array_size(list);
    const char **choice = calloc(n, sizeof *choice);
    if (!choice) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    for (size_t i = 0; i < n; i++) choice[i] = json_string_value(json_array_get(list, i));
    int rc = grammar_choice(k, choice, (int)n, out, e);
    free(choice);
    return rc;
}

static int forced_grammar(struct constrain *k, const struct ask *a, struct grammar **out, struct err *e)
{
    json_t *schema = tool_schema(a->tools, a->tool_choice == TOOL_CHOICE_NAMED ? a->tool_named : NULL,
                                 a->parallel_tool_calls);
    if (!schema) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    int rc = grammar_json_schema(k, schema, out, e);
    json_decref(schema);
    return rc;
}

static int compile_grammar(struct constrain *k, const struct ask *a, struct grammar **out, struct err *e)
{
    const json_t *v = a->format.value;
    if (a->tool_choice >= TOOL_CHOICE_REQUIRED) return forced_grammar(k, a, out, e);
    switch (a->format.kind) {
    case FORMAT_ANY:
        return 0;
    case FORMAT_JSON_OBJECT:
        return grammar_json_object(k, out, e);
    case FORMAT_JSON_SCHEMA:
        return grammar_json_schema(k, v, out, e);
    case FORMAT_REGEX:
        return grammar_regex(k, json_string_value(v), json_string_length(v), out, e);
    case FORMAT_CHOICE:
        return choice_grammar(k, v, out, e);
    }
    return 0;
}

/* The grammar, and a parser of tool calls per part. */
static int shape_answer(struct call *c, const struct api_engine *g, struct err *e)
{
    struct ask *a = &c->ask;
    struct err why = {0};
    if (compile_grammar(g->constrain, a, &c->grammar, &why))
        return err_field(e, why.code, a->format.kind ? a->format.field : "tools", "%s", why.msg);
    if (a->tool_choice == TOOL_CHOICE_NONE) return 0;
    if (a->tool_choice == TOOL_CHOICE_AUTO && g->tools_special) a->p.show_special = true;
    for (int i = 0; i < c->nparts; i++)
        if (tool_parser_new(&c->part[i].tools, g->tools, a->tool_choice, a->tools, a->tool_named,
                            a->parallel_tool_calls, e))
            return -1;
    return 0;
}

/* Those of `adapters`, each an adapter's digest. */
static int resolve_stack(const struct api_engine *g, const struct ask *a, struct err *e)
{
    for (int i = 0; i < a->nadapters; i++) {
        const char *digest;
        if (api_resolve(g, a->adapter[i].name, &digest, e)) {
            if (e) e->param[0] = 0;
            return err_within(e, "adapters");
        }
        if (!digest)
            return err_field(e, ERR_INVALID, "adapters", "'%.128s' is the base, not an adapter", a->adapter[i].name);
    }
    return 0;
}

static int set_render(struct call *c, struct err *e)
{
    char uuid[UUID_LEN];
    uuid7(uuid);
    struct render_spec spec = {.kind = c->ask.kind,
                               .stream = c->ask.stream,
                               .include_usage = c->ask.include_usage,
                               .continuous_usage = c->ask.continuous_usage,
                               .id = uuid,
                               .created = clock_wall_us() / 1000000,
                               .model = c->origin.model ? c->origin.model : c->ask.model,
                               .fingerprint = c->api->fingerprint,
                               .policy = c->policy};
    return render_init(&c->render, &spec, e);
}

static const char *token_bytes(const void *u, int32_t id, size_t *len)
{
    return tokenizer_bytes(u, id, len);
}

static struct call *call_alloc(struct http_request *r, const struct ask *a, const struct api_engine *g)
{
    int nparts = a->nprompts * a->n;
    struct call *c = calloc(1, sizeof *c + (size_t)nparts * sizeof *c->part);
    if (!c) return NULL;
    c->r = r;
    c->api = r->server_user;
    c->ask = *a;
    c->tok = g->model->tok;
    c->vocab = (struct vocab_text){token_bytes, g->model->tok};
    c->outstanding = 1;
    c->nparts = nparts;
    pthread_mutex_init(&c->lock, NULL);
    buf_init(&c->out, RENDER_ANSWER_MAX);
    for (int i = 0; i < c->nparts; i++) {
        struct part *p = &c->part[i];
        p->call = c;
        p->index = i;
        buf_init(&p->text, RENDER_ANSWER_MAX);
        buf_init(&p->ids, RENDER_ANSWER_MAX);
        logprobs_init(&p->lp);
    }
    return c;
}

int call_new(struct call **out, struct http_request *r, const struct api_engine *g, enum ask_kind kind,
             const char **digest, struct err *e)
{
    struct ask a;
    if (ask_parse(r->body, r->body_len, kind, g->model->vocab, &a, e)) return -1;
    if (!a.seeded && random_bytes(&a.p.sample.seed, sizeof a.p.sample.seed)) {
        ask_close(&a);
        return err_errno(e, "no random bytes for a seed");
    }
    struct call *c = call_alloc(r, &a, g);
    if (!c) {
        ask_close(&a);
        return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    }
    if (api_resolve(g, a.model, digest, e) || resolve_stack(g, &c->ask, e) || api_origin(r, &c->origin, e) ||
        tokenize_parts(c, g, e) || shape_answer(c, g, e) || set_render(c, e) || (c->ask.policy.ratio > 0 && compress_plan(c, g, e))) {
        call_free(c);
        return -1;
    }
    *out = c;
    return 0;
}

void call_free(struct call *c)
{
    for (int i = 0; i < c->nparts; i++) {
        struct part *p = &c->part[i];
        free(p->prompt.id);
        buf_close(&p->text);
        buf_close(&p->ids);
        logprobs_close(&p->lp);
        tool_parser_free(p->tools);
    }
    compress_free(c->compress);
    grammar_unref(c->grammar);
    ask_close(&c->ask);
    render_close(&c->render);
    buf_close(&c->out);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* --- handing over --- */

void call_fill(const struct call *c, struct gen_request *q)
{
    q->salt = c->ask.cache_salt;
    q->tenant = c->origin.tenant;
    q->weight = c->origin.weight;
    q->class = c->origin.class;
    q->deadline_ms = c->origin.deadline_ms;
    snprintf(q->id, sizeof q->id, "%s", c->origin.id);
    memcpy(q->trace, c->origin.trace, sizeof q->trace);
}

/* Returns what sched_submit() says; nothing is submitted once the client left or a sibling failed. */
static int submit(struct part *p, const struct api_engine *g, const char *digest, struct err *e)
{
    struct call *c = p->call;
    const struct ask *a = &c->ask;
    struct gen_request q = {.prompt = part_prompt(p)->id,
                            .nprompt = (int)part_prompt(p)->n,
                            .digest = a->nadapters ? NULL : digest,
                            .nadapters = a->nadapters,
                            .prompt_logprobs = a->echo && a->p.sample.logprobs >= 0,
                            .grammar = c->grammar,
                            .p = c->ask.p,
                            .on_event = call_on_event,
                            .user = p};
    q.p.sample.seed += (uint64_t)part_choice(p); /* the choices of a prompt differ, and each can be had again */
    for (int i = 0; i < a->nadapters; i++) {
        q.adapter[i].digest = a->adapter[i].name;
        q.adapter[i].weight = (float)a->adapter[i].weight;
    }
    call_fill(c, &q);
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    if (!c->gone && !c->failed) {
        rc = sched_submit(g->sched, &q, &p->gen, e);
        if (rc == 0) c->outstanding++;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void call_note_running(struct call *c)
{
    struct receipt running = {.state = RECEIPT_RUNNING, .finish = ""};
    snprintf(running.id, sizeof running.id, "%s", c->origin.id);
    for (int i = 0; i < c->nparts; i += c->ask.n) running.prompt += c->part[i].counts.prompt;
    running.prompt += c->scored;
    running.before = c->policy.before;
    running.after = c->policy.after;
    receipts_put(c->api->receipts, &running, clock_mono_us());
}

void call_run(struct call *c, const struct api_engine *g, const char *digest)
{
    struct err e = {0};
    call_note_running(c);
    for (int i = 0; i < c->nparts; i++) {
        if (submit(&c->part[i], g, digest, &e) == 0) continue;
        call_fail(c, &e);
        break;
    }
    ask_close(&c->ask); /* the scheduler has its own copy of all strings */
    call_release(c);
}

static void on_gone(struct http_request *r)
{
    struct call *c = r->user;
    pthread_mutex_lock(&c->lock);
    c->gone = true;
    for (int i = 0; i < c->nparts; i++)
        if (c->part[i].gen) sched_cancel(c->api->engine.sched, c->part[i].gen);
    compress_cancel(c);
    pthread_mutex_unlock(&c->lock);
}

static void on_free(struct http_request *r)
{
    call_free(r->user);
}

void api_generate(struct http_request *r, const struct api_engine *g, enum ask_kind kind)
{
    struct err e = {0};
    struct call *c;
    const char *digest;
    if (call_new(&c, r, g, kind, &digest, &e)) {
        api_refuse(r, &e);
        return;
    }
    r->user = c;
    http_on_free(r, on_free);
    http_on_gone(r, on_gone);
    if (http_is_gone(r)) on_gone(r); /* before anybody could be told */
    if (c->compress)
        compress_run(c, g, digest);
    else
        call_run(c, g, digest);
}
