/* api_call: events of the scheduler become bytes of an answer.
 *
 *     submitted --GEN_TOKEN--> (stream: opened at the first event) --GEN_DONE of the last part--> answered
 *         |                                                               |
 *         +-- client gone, a part failed, reader too slow: cancel all, wait for each GEN_DONE, then answer as far as one can
 *
 * The answer is ended in one place, finish(), when nothing is outstanding any more; after that the request, and the call with it, may
 * vanish at any moment. So a failure in mid-stream never ends the stream itself: it marks the call, asks the scheduler to end the other
 * parts, and their GEN_DONE lead here.
 *
 * Errors before the first token are plain HTTP errors with their status, because a stream is opened by its first event and not before;
 * later ones are an SSE error event and an end without [DONE].
 *
 * Counting: a comment goes before the data it counts, in the same write, so who saw the data has seen the count. Tokens whose text is held
 * back (half a character, the beginning of a stop string) are counted when their text goes out. An error event brings no new count.
 *
 * All but call_fail() and call_release() runs on the step thread: no lock but the call's own is taken, nothing waits. */
#include "engine/api_call.h"
#include "base/clock.h"
#include "base/log.h"
#include <stdio.h>
#include <string.h>

int part_choice(const struct part *p)
{
    return p->index % p->call->ask.n;
}

const struct tokens *part_prompt(const struct part *p)
{
    return &p->call->part[p->index - part_choice(p)].prompt;
}

/* --- the end --- */

void call_fail(struct call *c, const struct err *why)
{
    pthread_mutex_lock(&c->lock);
    if (!c->failed) c->error = *why;
    c->failed = true;
    for (int i = 0; i < c->nparts; i++)
        if (c->part[i].gen) sched_cancel(c->api->engine.sched, c->part[i].gen);
    pthread_mutex_unlock(&c->lock);
}

static struct gen_counts total(const struct call *c)
{
    struct gen_counts t = {.prompt = c->scored};
    for (int i = 0; i < c->nparts; i++) {
        bool first = part_choice(&c->part[i]) == 0; /* a prompt counts once, however many answers it gets */
        t.prompt += first ? c->part[i].counts.prompt : 0;
        t.cached += first ? c->part[i].counts.cached : 0;
        t.output += c->part[i].counts.output;
    }
    return t;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Of several choices the longest of each. */
static struct gen_times longest(const struct call *c)
{
    struct gen_times t = {0};
    for (int i = 0; i < c->nparts; i++) {
        const struct gen_times *p = &c->part[i].times;
        t = (struct gen_times){.queue_us = most(t.queue_us, p->queue_us),
                               .load_us = most(t.load_us, p->load_us),
                               .prefill_us = most(t.prefill_us, p->prefill_us),
                               .decode_us = most(t.decode_us, p->decode_us),
                               .paused_us = most(t.paused_us, p->paused_us)};
    }
    return t;
}

static void note_receipt(const struct call *c, enum receipt_state state, const char *finish)
{
    struct gen_counts t = total(c);
    struct receipt x = {.state = state, .finish = finish, .prompt = t.prompt, .cached = t.cached, .output = t.output, .times = longest(c)};
    x.before = c->policy.before;
    x.after = c->policy.after;
    snprintf(x.id, sizeof x.id, "%s", c->origin.id);
    receipts_put(c->api->receipts, &x, clock_mono_us());
}

/* How it ended: a client that left after the last token was chosen still has a completed request. */
static void note_end(const struct call *c, bool gone)
{
    bool cancelled = c->cut;
    for (int i = 0; i < c->nparts; i++)
        cancelled |= gone && c->part[i].finish != FINISH_STOP && c->part[i].finish != FINISH_LENGTH;
    if (cancelled)
        note_receipt(c, RECEIPT_CANCELLED, gen_finish_name[FINISH_CANCELLED]);
    else if (c->failed)
        note_receipt(c, RECEIPT_ERROR, gen_finish_name[FINISH_ERROR]);
    else
        note_receipt(c, RECEIPT_COMPLETED, gen_finish_name[c->part[0].finish]);
}

/* OpenAI's word for the end of a choice. */
static const char *finish_name(const struct part *p)
{
    int calls = 0;
    if (p->tools) tool_calls(p->tools, &calls);
    bool called = calls > 0 && p->finish == FINISH_STOP && p->call->ask.tool_choice != TOOL_CHOICE_NAMED;
    return called ? "tool_calls" : gen_finish_name[p->finish];
}

static struct piece piece_of(const struct part *p)
{
    int ncalls = 0;
    const struct tool_call *calls = p->tools ? tool_calls(p->tools, &ncalls) : NULL;
    const struct ask *a = &p->call->ask;
    bool ids = a->return_token_ids;
    return (struct piece){.index = p->index,
                          .text = p->text.data,
                          .text_len = p->text.len,
                          .lp = a->p.sample.logprobs >= 0 ? &p->lp : NULL,
                          .ids = ids ? &p->ids : NULL,
                          .calls = calls,
                          .first_call = p->calls_sent,
                          .ncalls = ncalls,
                          .prompt_ids = ids && !p->began ? part_prompt(p)->id : NULL,
                          .nprompt_ids = (int)part_prompt(p)->n};
}

static void set_times(struct call *c)
{
    struct gen_times t = longest(c);
    buf_reset(&c->out);
    render_times_value(&t, &c->out);
    if (!c->out.failed) http_set_header(c->r, "X-Weft-Time", c->out.data);
}

static void answer_whole(struct call *c)
{
    struct piece pieces[ASK_CHOICES_MAX];
    struct gen_counts t = total(c);
    for (int i = 0; i < c->nparts; i++) {
        pieces[i] = piece_of(&c->part[i]);
        pieces[i].finish = finish_name(&c->part[i]);
    }
    if (c->origin.counted) set_times(c);
    buf_reset(&c->out);
    render_whole(&c->render, pieces, c->nparts, &t, &c->out);
    struct buf whole = c->out; /* the reply ends the call: what it needs must not be the call's */
    buf_init(&c->out, RENDER_ANSWER_MAX);
    api_reply_buf(c->r, &whole);
}

static void end_stream(struct call *c, bool gone)
{
    struct gen_counts t = total(c);
    buf_reset(&c->out);
    if (c->failed) {
        render_stream_error(&c->error, &c->out);
    } else {
        struct gen_times times = longest(c);
        if (c->origin.counted) render_counts(&t, &c->out);
        if (c->origin.counted) render_times(&times, &c->out);
        if (c->ask.include_usage) render_usage_chunk(&c->render, &t, &c->out);
        render_stream_done(&c->out);
        c->shown = t;
    }
    if (gone || c->cut || c->out.failed ||
        http_stream_write(c->stream, c->out.data, c->out.len, (uint64_t)c->shown.output))
        http_stream_abort(c->stream);
    else
        http_stream_end(c->stream);
}

/* Nothing refers to the call any more but this function; on_gone() may still come, and finds nothing to cancel. */
static void finish(struct call *c, bool gone)
{
    struct err why = c->error;
    note_end(c, gone);
    if (gone) err_set(&why, ERR_UNAVAILABLE, "the client is gone");
    if (c->stream)
        end_stream(c, gone);
    else if (why.code)
        api_refuse(c->r, &why);
    else
        answer_whole(c);
}

void call_release(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    int left = --c->outstanding;
    bool gone = c->gone;
    pthread_mutex_unlock(&c->lock);
    if (left == 0) finish(c, gone);
}

/* --- on the way --- */

static bool is_dead(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    bool dead = c->gone || c->failed;
    pthread_mutex_unlock(&c->lock);
    return dead;
}

static void fail_with(struct call *c, enum err_code code, const char *why, bool cut)
{
    struct err e = {0};
    err_set(&e, code, "%s", why);
    c->cut |= cut;
    call_fail(c, &e);
}

/* A token that ends the answer has no text and no log-probability there, as with OpenAI; it is counted, and among the
 * ids. */
static bool is_end(const struct part *p, int32_t id)
{
    const struct gen_params *q = &p->call->ask.p;
    for (int i = 0; i < q->nstop_id; i++)
        if (q->stop_id[i] == id) return true;
    return !q->ignore_eos && tokenizer_is_end(p->call->tok, id);
}

static int keep_prompt(struct part *p, const struct gen_event *ev)
{
    if (p->lp.n == 0 && ev->first == 1 && logprobs_add_first(&p->lp, &p->call->vocab, part_prompt(p)->id[0])) return -1;
    for (int i = 0; i < ev->nsamples; i++)
        if (logprobs_add(&p->lp, p->call->ask.kind, &p->call->vocab, &ev->samples[i])) return -1;
    return 0;
}

static int keep_text(struct part *p, const struct gen_event *ev)
{
    if (!p->tools) return ev->text_len ? buf_add(&p->text, ev->text, ev->text_len) : 0;
    if (tool_push(p->tools, ev->text, ev->text_len, &p->text)) return -1;
    return ev->kind == GEN_DONE ? tool_end(p->tools, &p->text) : 0;
}

/* What an event brings is kept with the part until it is sent. */
static int keep(struct part *p, const struct gen_event *ev)
{
    const struct ask *a = &p->call->ask;
    if (ev->kind == GEN_PROMPT) return keep_prompt(p, ev);
    if (keep_text(p, ev)) return -1;
    if (ev->kind != GEN_TOKEN) return 0;
    if (a->p.sample.logprobs >= 0 && !is_end(p, ev->sample->id) &&
        logprobs_add(&p->lp, a->kind, &p->call->vocab, ev->sample))
        return -1;
    if (!a->return_token_ids) return 0;
    if (p->ids.len) buf_addc(&p->ids, ',');
    return buf_addu(&p->ids, (uint64_t)ev->sample->id);
}

static void add_role(struct part *p, struct buf *out)
{
    struct piece role = piece_of(p);
    role.role = true;
    role.text_len = 0;
    role.lp = NULL;
    role.ids = NULL;
    role.first_call = role.ncalls;
    render_chunk(&p->call->render, &role, &p->call->shown, out);
    p->began = true;
}

static void add_kept(struct part *p, struct buf *out)
{
    struct piece fresh = piece_of(p);
    render_chunk(&p->call->render, &fresh, &p->call->shown, out);
    p->began = true;
    buf_reset(&p->text);
    buf_reset(&p->ids);
    logprobs_reset(&p->lp);
    p->calls_sent = fresh.ncalls;
}

static void add_finish(struct part *p, struct buf *out)
{
    struct piece last = {.index = p->index, .text = "", .finish = finish_name(p)};
    render_chunk(&p->call->render, &last, &p->call->shown, out);
}

static bool has_new_calls(const struct part *p)
{
    int n = 0;
    if (p->tools) tool_calls(p->tools, &n);
    return n > p->calls_sent;
}

/* With the first one, where the time to the first token went. */
static void add_counts(const struct part *p, struct buf *out)
{
    struct call *c = p->call;
    if (!c->origin.counted) return;
    render_counts(&c->shown, out);
    if (!c->timed && c->policy.before) render_policy(&c->policy, out);
    if (!c->timed) render_times(&p->times, out);
    c->timed = true;
}

/* One write per event of the scheduler, and in it before each chunk a comment that counts no more than that chunk completes: a wire that breaks
 * between two of them leaves no count of what did not come. So the end's own tokens count with its chunk, the last one. */
static void send(struct part *p, bool last)
{
    struct call *c = p->call;
    bool role = !p->began && c->ask.kind == ASK_CHAT;
    bool content = p->text.len || has_new_calls(p) || (last && (p->lp.n || p->ids.len));
    if (!content && !role && !last) return;
    buf_reset(&c->out);
    if (role) add_counts(p, &c->out);
    if (role) add_role(p, &c->out);
    if (content && !last) c->shown = total(c);
    if (content) add_counts(p, &c->out);
    if (content) add_kept(p, &c->out);
    if (last) c->shown = total(c);
    if (last) add_counts(p, &c->out);
    if (last) add_finish(p, &c->out);
    if (c->out.failed)
        fail_with(c, ERR_NO_MEMORY, "no memory for the answer", false);
    else if (http_stream_write(c->stream, c->out.data, c->out.len, (uint64_t)c->shown.output))
        fail_with(c, ERR_UNAVAILABLE, "the client does not read", true);
}

static void open_stream(struct call *c)
{
    http_set_header(c->r, "Cache-Control", "no-cache");
    c->stream = http_stream_open(c->r, 200, "text/event-stream; charset=utf-8");
    c->shown.prompt = total(c).prompt;
}

static void progress(struct part *p, const struct gen_event *ev)
{
    struct call *c = p->call;
    if (keep(p, ev)) {
        fail_with(c, ERR_NO_MEMORY, "no memory for the answer", false);
        return;
    }
    if (ev->kind == GEN_PROMPT) return; /* goes out with the first token */
    if (c->ask.stream && !c->stream) open_stream(c);
    if (c->stream) send(p, ev->kind == GEN_DONE);
    note_receipt(c, RECEIPT_RUNNING, "");
}

/* From here on nobody may cancel it. */
static void forget_gen(struct part *p, enum gen_finish how)
{
    pthread_mutex_lock(&p->call->lock);
    p->gen = NULL;
    pthread_mutex_unlock(&p->call->lock);
    p->finish = how;
}

void call_on_event(void *u, const struct gen_event *ev)
{
    struct part *p = u;
    struct call *c = p->call;
    bool done = ev->kind == GEN_DONE, well = !done || ev->finish == FINISH_STOP || ev->finish == FINISH_LENGTH;
    p->counts = ev->counts;
    p->times = ev->times;
    if (done) forget_gen(p, ev->finish);
    if (done && ev->finish == FINISH_ERROR)
        call_fail(c, ev->error);
    else if (well && !is_dead(c))
        progress(p, ev);
    if (done) call_release(c);
}
