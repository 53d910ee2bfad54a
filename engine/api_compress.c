/* api_compress: a long prompt is shortened by what the base itself finds in it.
 *
 *     api_generate -> compress_plan -> compress_run: one request of the scheduler reads the units, of the base without adapters
 *         step thread: GEN_PROMPT: -log p of each token; GEN_DONE -> the side thread -> compress_go_on: units chosen, messages
 *         without the others, tokens anew -> call_run, as without all this
 *
 * What may be left out are units (prompt_units.h) of messages that are neither the system's, nor a tool's or a call of one, nor of the last turn. They are
 * encoded one by one and read in a row behind one token that begins the text, so which tokens are whose needs no look into the chat's
 * template, and what a unit tells is what it adds to those before it (Selective Context, Li et al. 2023, asks the same; it takes phrases,
 * whose ends an English parser has to find).
 *
 * The pass is a request like others: it waits for its turn, is charged to its tenant, and reads at most SCHED_EXTRA (64) tokens a step beside others'. It costs a prefill of
 * what may be left out, every row of which has its logits, and one token that nobody sees. It computes no KV that the answer could use, for that reads
 * other tokens, and with an adapter: what compression saves is context, pages and time per token of the answer, not the prompt's work.
 *
 * On a failure of the pass the call fails as its own prompt would. */
#include "base/clock.h"
#include "engine/api_call.h"
#include "engine/prompt_units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define UNIT_TOKENS_MAX 65536 /* of one */

struct piece_of {
    size_t at, end; /* bytes in its message's content */
    int first;      /* its first token */
};

struct compress {
    struct call *call;
    struct gen *gen; /* under call.lock */
    const char *digest;
    int64_t began_us;
    int *message;    /* [nparts] which message a part is */
    int nparts;
    struct unit *unit; /* [nunits] */
    struct piece_of *of;
    int nunits, cap;
    int32_t *id; /* [nids] */
    float *info; /* [nids] */
    int nids, ids_cap;
};

void compress_free(struct compress *z)
{
    if (!z) return;
    free(z->message);
    free(z->unit);
    free(z->of);
    free(z->id);
    free(z->info);
    free(z);
}

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NO_MEMORY, "no memory to compress the prompt");
}

/* --- what is read --- */

static int add_ids(struct compress *z, const int32_t *id, size_t n, struct err *e)
{
    if (z->nids + (int)n > z->ids_cap) {
        int cap = 2 * (z->nids + (int)n);
        int32_t *bigger = realloc(z->id, (size_t)cap * sizeof *bigger);
        if (!bigger) return no_memory(e);
        z->id = bigger;
        z->ids_cap = cap;
    }
    if (n) memcpy(z->id + z->nids, id, n * sizeof *id);
    z->nids += (int)n;
    return 0;
}

static int add_unit(struct compress *z, const struct tokens *t, size_t at, size_t end, struct err *e)
{
    if (z->nunits == z->cap) {
        int cap = z->cap ? 2 * z->cap : 256;
        struct unit *u = realloc(z->unit, (size_t)cap * sizeof *u);
        if (u) z->unit = u;
        struct piece_of *of = u ? realloc(z->of, (size_t)cap * sizeof *of) : NULL;
        if (!of) return no_memory(e);
        z->of = of;
        z->cap = cap;
    }
    z->unit[z->nunits] = (struct unit){.part = z->nparts, .tokens = (int)t->n};
    z->of[z->nunits++] = (struct piece_of){at, end, z->nids};
    return add_ids(z, t->id, t->n, e);
}

static int add_units(struct compress *z, const struct tokenizer *tok, const json_t *content, bool words, struct err *e)
{
    const char *s = json_string_value(content);
    size_t n = json_string_length(content);
    for (size_t at = 0, end; at < n; at = end) {
        struct tokens t = {0};
        end = unit_end(s, n, at, words);
        if (tokenizer_encode(tok, s + at, end - at, false, UNIT_TOKENS_MAX, &t, e)) return -1;
        int rc = add_unit(z, &t, at, end, e);
        free(t.id);
        if (rc) return -1;
    }
    return 0;
}

static bool has_role(const json_t *m, const char *role)
{
    const char *is = json_string_value(json_object_get(m, "role"));
    return is && strcmp(is, role) == 0;
}

static bool may_be_cut(const json_t *m)
{
    return (has_role(m, "user") || has_role(m, "assistant")) && !json_object_get(m, "tool_calls") && json_string_length(json_object_get(m, "content"));
}

/* The last turn begins with the last user message. */
static size_t last_turn(const json_t *messages)
{
    size_t i = json_array_size(messages);
    while (i > 0 && !has_role(json_array_get(messages, i - 1), "user")) i--;
    return i ? i - 1 : 0;
}

static int read_messages(struct compress *z, const struct ask *a, const struct tokenizer *tok, struct err *e)
{
    size_t n = last_turn(a->messages);
    z->message = calloc(n ? n : 1, sizeof *z->message);
    if (!z->message) return no_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *m = json_array_get(a->messages, i);
        int before = z->nunits;
        if (!may_be_cut(m)) continue;
        if (add_units(z, tok, json_object_get(m, "content"), a->policy.words, e)) return -1;
        if (z->nunits > before) z->message[z->nparts++] = (int)i;
    }
    return 0;
}

int compress_plan(struct call *c, const struct api_engine *g, struct err *e)
{
    const struct ask *a = &c->ask;
    int32_t begin = tokenizer_bos(c->tok) >= 0 ? tokenizer_bos(c->tok) : tokenizer_eos(c->tok);
    if ((int)c->part[0].prompt.n < a->policy.min_tokens) return call_fit(c, g, 0, e);
    struct compress *z = calloc(1, sizeof *z);
    if (!z) return no_memory(e);
    z->call = c;
    int rc = (begin >= 0 ? add_ids(z, &begin, 1, e) : 0) || read_messages(z, a, c->tok, e) ? -1 : 0;
    if (rc == 0 && z->nids + 1 > g->max_context)
        rc = err_field(e, ERR_CONTEXT_LENGTH, "messages", "what of the messages may be compressed has %d tokens; at most %d can be scored", z->nids,
                       g->max_context - 1);
    if (rc == 0 && z->nunits > z->nparts && !(z->info = calloc((size_t)z->nids, sizeof *z->info))) rc = no_memory(e);
    if (rc == 0) rc = call_fit(c, g, z->info ? (int)((1 - a->policy.ratio) * z->nids) : 0, e); /* about so much goes: what would not fit then either is not read first */
    if (rc == 0 && z->info) /* each part keeps one: with no more than these there is nothing to do */
        c->compress = z;
    else
        compress_free(z);
    return rc;
}

/* --- the pass --- */

void compress_cancel(struct call *c)
{
    if (c->compress && c->compress->gen) sched_cancel(c->api->engine.sched, c->compress->gen);
}

/* Back to a thread that may take its time; the engine may be stopping meanwhile. */
static int hand_on(struct call *c, struct err *e)
{
    struct api *api = c->api;
    pthread_rwlock_rdlock(&api->lock);
    int rc = api->preparing ? side_push(api->preparing, c->r, c->origin.tenant, e) : err_set(e, ERR_UNAVAILABLE, "the engine is stopping");
    pthread_rwlock_unlock(&api->lock);
    return rc;
}

static void scored(struct compress *z, const struct gen_event *ev)
{
    struct call *c = z->call;
    struct err e = {0};
    pthread_mutex_lock(&c->lock);
    z->gen = NULL;
    bool gone = c->gone;
    pthread_mutex_unlock(&c->lock);
    c->scored = ev->counts.prompt;
    if (ev->finish == FINISH_ERROR)
        e = *ev->error;
    else if (gone || ev->finish == FINISH_CANCELLED)
        err_set(&e, ERR_UNAVAILABLE, "the client is gone");
    else if (hand_on(c, &e) == 0)
        return; /* the call may be over by now */
    call_fail(c, &e);
    call_release(c);
}

static void on_event(void *u, const struct gen_event *ev)
{
    struct compress *z = u;
    if (ev->kind == GEN_PROMPT)
        for (int i = 0; i < ev->nsamples && ev->first + i < z->nids; i++) z->info[ev->first + i] = -ev->samples[i].logprob;
    if (ev->kind == GEN_DONE) scored(z, ev);
}

void compress_run(struct call *c, const struct api_engine *g, const char *digest)
{
    struct compress *z = c->compress;
    struct err e = {0};
    struct gen_request q = {.prompt = z->id,
                            .nprompt = z->nids,
                            .no_prefix_cache = true,
                            .prompt_logprobs = true,
                            .p = {.sample = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1}, .max_tokens = 1},
                            .on_event = on_event,
                            .user = z};
    int rc = 0;
    call_fill(c, &q);
    call_note_running(c);
    z->digest = digest;
    z->began_us = clock_mono_us();
    pthread_mutex_lock(&c->lock);
    if (c->gone)
        rc = err_set(&e, ERR_UNAVAILABLE, "the client is gone");
    else
        rc = sched_submit(g->sched, &q, &z->gen, &e);
    pthread_mutex_unlock(&c->lock);
    if (rc == 0) return;
    call_fail(c, &e);
    call_release(c);
}

/* --- what becomes of it --- */

/* Mean over a unit's tokens; the very first token of all has no score where no other stands before it. */
static void score_units(struct compress *z)
{
    for (int i = 0; i < z->nunits; i++) {
        double sum = 0;
        int from = z->of[i].first > 0 ? z->of[i].first : 1, to = z->of[i].first + z->unit[i].tokens;
        for (int k = from; k < to; k++) sum += (double)z->info[k];
        z->unit[i].info = to > from ? (float)(sum / (to - from)) : INFINITY;
    }
}

/* Message m with the units from..to that stay. */
static json_t *shortened(const struct compress *z, const json_t *m, int from, int to)
{
    const char *s = json_string_value(json_object_get(m, "content"));
    struct buf text;
    json_t *o = json_copy_top(m);
    buf_init(&text, json_string_length(json_object_get(m, "content")) + 1);
    for (int i = from; i < to; i++) {
        size_t at = z->of[i].at;
        if (z->unit[i].left_out) continue;
        while (text.len == 0 && at < z->of[i].end && strchr(" \n\t\r", s[at])) at++;
        buf_add(&text, s + at, z->of[i].end - at);
    }
    bool short_of = text.failed || !o || json_object_set_new(o, "content", json_stringn(text.data ? text.data : "", text.len));
    buf_close(&text);
    if (!short_of) return o;
    json_decref(o);
    return NULL;
}

static int shorten(struct call *c, struct err *e)
{
    struct compress *z = c->compress;
    json_t *list = json_array();
    int at = 0, part = 0, rc = list ? 0 : no_memory(e);
    for (size_t i = 0; i < json_array_size(c->ask.messages) && rc == 0; i++) {
        json_t *m = json_array_get(c->ask.messages, i), *is = NULL;
        int from = at;
        bool ours = part < z->nparts && z->message[part] == (int)i;
        while (ours && at < z->nunits && z->unit[at].part == part) at++;
        part += ours;
        is = ours ? shortened(z, m, from, at) : json_incref(m);
        if (!is || json_array_append_new(list, is)) rc = no_memory(e);
    }
    if (rc == 0 && json_object_set(c->ask.root, "messages", list)) rc = no_memory(e);
    if (rc == 0) c->ask.messages = list; /* the root's */
    json_decref(list);
    return rc;
}

static int choose(struct compress *z, double ratio, struct err *e)
{
    struct unit_rank *rank = calloc((size_t)z->nunits, sizeof *rank);
    int *stands = calloc((size_t)z->nparts, sizeof *stands);
    if (rank && stands) {
        score_units(z);
        units_choose(z->unit, z->nunits, ratio, rank, stands);
    }
    bool had = rank && stands;
    free(rank);
    free(stands);
    return had ? 0 : no_memory(e);
}

static int retokenize(struct call *c, const struct api_engine *g, struct err *e)
{
    struct part *p = &c->part[0];
    struct tokens t;
    if (api_tokenize_of(g, &c->ask, 0, c->ask.messages, (size_t)g->max_context, &t, e)) return -1;
    free(p->prompt.id);
    p->prompt = t;
    for (int i = 0; i < c->nparts; i++) c->part[i].counts.prompt = (int)t.n;
    c->policy.after = (int)t.n;
    c->render.policy = c->policy;
    return call_fit(c, g, 0, e);
}

/* What the pass took is gone from the time that the first token may take. */
static void shorten_deadline(struct call *c)
{
    int64_t left = c->origin.deadline_ms - (clock_mono_us() - c->compress->began_us) / 1000;
    if (c->origin.deadline_ms > 0) c->origin.deadline_ms = left > 1 ? (int)left : 1;
}

void compress_go_on(struct call *c, const struct api_engine *g)
{
    struct compress *z = c->compress;
    struct err e = {0};
    shorten_deadline(c);
    if (choose(z, c->ask.policy.ratio, &e) || shorten(c, &e) || retokenize(c, g, &e)) {
        call_fail(c, &e);
        call_release(c);
    } else {
        call_run(c, g, z->digest);
    }
}
