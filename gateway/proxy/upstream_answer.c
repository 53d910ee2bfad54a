/* The engine's side of an exchange, and the one answer that the client gets.
 *
 *   client_start -> on_head -> on_data ... -> on_done -> a verdict:
 *       passed      the answer is complete
 *       again       lost before the first byte: on another engine, or once more when this one is back;
 *                   turned away by one that is busy, or failed: on another engine;
 *                   or the adapter was not loaded: load, once more
 *       refused     the engine's own 4xx, or a 503 where no other engine is left, passed on with its body
 *       failed      anything else: 502 or 504, or an error event in a stream that has begun, without [DONE]
 *
 * The client's stream is opened when the engine's head arrives, so that an engine's refusal is still a status; only
 * where that takes longer than keepalive_ms it is opened before, and a refusal becomes an error event.
 *
 * Callbacks run on the client's thread and never block; the stream is shared with the timer under exchange.write. */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/retry_after.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/proxy/logprobs_strip.h"
#include "gateway/proxy/quarantine.h"
#include "gateway/proxy/upstream_impl.h"
#include "gateway/quality/quality.h"
#include "gateway/quality/transcript.h"
#include "gateway/registry/upload.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_GONE 499 /* nginx's word in logs for a client that left before a status was sent */

/* --- names for digests --- */

/* The first digest in s..end of those that the request needs; NULL: none. */
static const char *next_digest(const struct exchange *x, const char *s, const char *end,
                               const struct upstream_need **which)
{
    const char *first = NULL;
    for (int i = 0; i < x->at->nneeds; i++) {
        const char *hit = memmem(s, (size_t)(end - s), x->at->need[i].digest, strlen(x->at->need[i].digest));
        if (!hit || (first && hit >= first)) continue;
        first = hit;
        *which = &x->at->need[i];
    }
    return first;
}

/* The engine's words with the names that the client used where it says digests. */
static void add_named(const struct exchange *x, const char *s, size_t n, struct buf *out)
{
    const char *end = s + n;
    while (s < end) {
        const struct upstream_need *which = NULL;
        const char *hit = next_digest(x, s, end, &which), *stop = hit ? hit : end;
        buf_add(out, s, (size_t)(stop - s));
        s = stop;
        if (hit) {
            buf_adds(out, which->name); /* a name that the registry knows: nothing to escape */
            s += strlen(which->digest);
        }
    }
}

static void name_digests(const struct exchange *x, struct err *e)
{
    struct buf b;
    buf_init(&b, sizeof e->msg * UPSTREAM_ADAPTERS);
    add_named(x, e->msg, strlen(e->msg), &b);
    snprintf(e->msg, sizeof e->msg, "%s", b.failed || !b.data ? "the engine refused the request" : b.data);
    buf_close(&b);
}

/* --- the client's stream --- */

static void stream_closed(void *u, bool clean, uint64_t mark)
{
    struct exchange *x = u;
    pthread_mutex_lock(&x->lock);
    x->closed_clean = clean;
    x->handed = mark;
    pthread_mutex_unlock(&x->lock);
}

static void set_headers(struct exchange *x)
{
    char versions[UPSTREAM_ADAPTERS * (sizeof x->at->need[0].version + 2)];
    size_t n = 0;
    trial_header(x);
    if (!x->at->nneeds) return;
    for (int i = 0; i < x->at->nneeds; i++)
        n += (size_t)snprintf(versions + n, sizeof versions - n, "%s%s", i ? ", " : "", x->at->need[i].version);
    http_set_header(x->req, "x-weft-adapter-version", versions);
    http_set_header(x->req, "x-weft-cold", x->cold ? "true" : "false");
}

/* Under exchange.write. */
static void open_stream(struct exchange *x)
{
    if (x->stream || x->answered) return;
    set_headers(x);
    http_set_header(x->req, "Cache-Control", "no-cache");
    http_set_header(x->req, "X-Accel-Buffering", "no");
    x->stream = http_stream_open(x->req, 200, "text/event-stream; charset=utf-8");
    http_stream_on_close(x->stream, stream_closed, x);
}

void exchange_keepalive(struct exchange *x)
{
    pthread_mutex_lock(&x->write);
    bool waits = !x->answered && !x->first_written;
    if (waits) {
        open_stream(x);
        http_stream_write(x->stream, ": keep-alive\n\n", 14, 0); /* a client that is gone is noticed elsewhere */
    }
    pthread_mutex_unlock(&x->write);
    if (!waits) wait_forget(x);
}

/* --- the one answer --- */

/* How the engine did, by how its request ended; what it is guilty of was said where that was found out. */
static enum pick_end end_of(enum usage_state state)
{
    return state == USAGE_COMPLETED ? PICK_OK : state == USAGE_TIMEOUT ? PICK_TIMEOUT : PICK_REFUSED;
}

/* From here on nobody else writes; the caller answers and then leaves x alone. */
static void begin_answer(struct exchange *x, enum usage_state state, int status)
{
    wait_forget(x);
    exchange_over(x);
    quarantine_over(x, state);
    exchange_release(x, end_of(state));
    pthread_mutex_lock(&x->write);
    x->answered = true;
    x->out = (struct outcome){state, x->stream ? 200 : status};
    pthread_mutex_unlock(&x->write);
}

/* An error event as the last of a stream; json: one line. */
static void end_with_event(struct exchange *x, const char *json, size_t n)
{
    struct buf b;
    bool cut = false;
    if (relay_cut(&x->relay, &cut)) {
        http_stream_abort(x->stream);
        return;
    }
    buf_init(&b, n + 64);
    buf_adds(&b, cut ? "\ndata: " : "data: "); /* an event that was cut must not swallow ours */
    buf_add(&b, json, n);
    buf_adds(&b, "\n\n");
    uint64_t mark = trial_holds(x) ? x->written : x->relay.mark; /* what is held back was not delivered */
    if (b.failed || http_stream_write(x->stream, b.data, b.len, mark))
        http_stream_abort(x->stream);
    else
        http_stream_end(x->stream);
    buf_close(&b);
}

static void answer_error(struct exchange *x, const struct err *e)
{
    struct buf b;
    if (!x->stream) {
        http_reply_error(x->req, e);
        return;
    }
    buf_init(&b, 4096);
    json_error(e, &b);
    end_with_event(x, b.data, b.len);
    buf_close(&b);
}

void exchange_fail(struct exchange *x, enum usage_state state, const struct err *e)
{
    struct err copy = *e; /* it may live in what the answer frees */
    if (x->seen) x->seen->error = err_info(e->code)->code;
    name_digests(x, &copy);
    begin_answer(x, state, err_info(e->code)->status);
    answer_error(x, &copy);
}

void exchange_drop(struct exchange *x)
{
    struct err e = {0};
    if (receipt_wait(x)) return;
    begin_answer(x, USAGE_CLIENT_ABORT, STATUS_GONE);
    err_set(&e, ERR_UNAVAILABLE, "the client is gone");
    if (x->stream)
        http_stream_abort(x->stream);
    else
        http_reply_error(x->req, &e);
}

static void finish_whole(void *u)
{
    struct exchange *x = u;
    if (!x->stream)
        http_reply(x->req, 200, x->content_type, x->answer.data, x->answer.len);
    else if (x->tail.failed || (x->tail.len && http_stream_write(x->stream, x->tail.data, x->tail.len, x->relay.mark)))
        http_stream_abort(x->stream);
    else
        http_stream_end(x->stream);
}

/* Every token was handed to the socket, or the client is gone and the rest is settled when the request is over. */
static void stream_drained(void *u)
{
    struct exchange *x = u;
    if (http_stream_handed(x->stream) == x->written)
        exchange_settle(x, finish_whole, x);
    else
        finish_whole(x);
}

/* The usage row stands in the database (ack=durable: on the disk) before the client is told that this is the end: whoever was told so was billed so,
 * whatever dies next. And not before all tokens of a stream are with the client, so that nobody is billed for what a crash kept back. */
static void pass_whole(struct exchange *x)
{
    bool cut = false;
    exchange_note(x);
    if (!relay_cut(&x->relay, &cut) && cut) buf_addc(&x->tail, '\n'); /* the wire ended within the end mark */
    begin_answer(x, USAGE_COMPLETED, 200);
    if (x->stream) {
        http_stream_on_drained(x->stream, stream_drained, x);
    } else {
        set_headers(x);
        exchange_settle(x, finish_whole, x);
    }
}

/* The engine's error body with names for digests; one line, so that it fits an event too. */
static void clean_body(struct exchange *x, struct buf *out)
{
    add_named(x, x->answer.data, x->answer.len, out);
    for (size_t i = 0; i < out->len; i++)
        if (out->data[i] == '\n' || out->data[i] == '\r') out->data[i] = ' ';
}

/* In seconds, however the engine says it: its word is no header of ours. */
static void set_retry_after(struct exchange *x)
{
    char text[24];
    int64_t s = x->retry_after_s < 0 && x->status == 503 ? RETRY_AFTER_S : x->retry_after_s;
    snprintf(text, sizeof text, "%lld", (long long)s);
    if (s >= 0) http_set_header(x->req, "Retry-After", text);
}

static void pass_refusal(struct exchange *x)
{
    struct buf b;
    buf_init(&b, EXCHANGE_ANSWER_MAX);
    clean_body(x, &b);
    begin_answer(x, USAGE_REJECTED, x->status);
    if (x->stream) {
        end_with_event(x, b.data, b.len);
    } else {
        set_retry_after(x);
        http_reply(x->req, x->status, "application/json", b.data, b.len);
    }
    buf_close(&b);
}

/* --- what the engine sends --- */

void exchange_on_head(void *u, const struct client_reply *r)
{
    struct exchange *x = u;
    x->status = r->status;
    if (r->weft_time) relay_read_times(r->weft_time, &x->relay.times);
    snprintf(x->content_type, sizeof x->content_type, "%s", r->content_type ? r->content_type : "application/json");
    x->retry_after_s = retry_after_s(r->retry_after, clock_wall_us() / 1000000, RETRY_AFTER_MAX_S);
    if (r->status != 200) return;
    if (!x->adm.stream) {
        x->t_first = exchange_now(x);
        observe_first(x->seen);
        return;
    }
    if (trial_holds(x)) return;
    pthread_mutex_lock(&x->write);
    open_stream(x);
    pthread_mutex_unlock(&x->write);
}

static int write_named(struct exchange *x, const char *bytes, size_t n, uint64_t mark)
{
    struct buf named;
    if (!x->relay.error || !x->at->nneeds) return http_stream_write(x->stream, bytes, n, mark);
    buf_init(&named, UPSTREAM_ADAPTERS * (n + RELAY_LINE_MAX));
    add_named(x, bytes, n, &named);
    int rc = named.failed ? -1 : http_stream_write(x->stream, named.data, named.len, mark);
    buf_close(&named);
    return rc;
}

static int write_stream(struct exchange *x, const char *bytes, size_t n, uint64_t mark)
{
    struct buf out;
    if (!x->strip) return write_named(x, bytes, n, mark);
    buf_init(&out, n + RELAY_LINE_MAX);
    int rc = logprobs_strip_lines(bytes, n, &out) ? -1 : write_named(x, out.data, out.len, mark);
    buf_close(&out);
    return rc;
}

/* Where the end mark's line begins in bytes that hold it; n: not in these. */
static size_t end_mark(const char *bytes, size_t n)
{
    static const char word[] = "data:";
    for (size_t i = n; i-- > 0;) {
        if (bytes[i] != 'd' || n - i < sizeof word || memcmp(bytes + i, word, sizeof word - 1) != 0 || (i && bytes[i - 1] != '\n')) continue;
        const char *s = bytes + i + sizeof word - 1, *end = bytes + n;
        while (s < end && *s == ' ') s++;
        return end - s >= 6 && memcmp(s, "[DONE]", 6) == 0 ? i : n;
    }
    return n;
}

static int emit(void *u, const char *bytes, size_t n, uint64_t mark);

/* What the small model of an adaptive alias said waits until it is decided whose answer it will be: -1 where it is not its, 1 while nobody knows. */
static int hold_back(struct exchange *x, const char *bytes, size_t n, uint64_t mark)
{
    uint64_t held_mark;
    enum trial_verdict v = trial_look(x, x->relay.done);
    if (v == TRIAL_WAIT) return trial_hold(x, bytes, n, mark) ? -1 : 1;
    if (v == TRIAL_ESCALATE) return -1;
    const struct buf *held = trial_held(x, &held_mark);
    bool done = x->relay.done;
    pthread_mutex_lock(&x->write);
    open_stream(x);
    pthread_mutex_unlock(&x->write);
    x->relay.done = false; /* what was held has no end mark */
    int rc = held->len ? emit(x, held->data, held->len, held_mark) : 0;
    x->relay.done = done;
    return rc;
}

static int emit(void *u, const char *bytes, size_t n, uint64_t mark)
{
    struct exchange *x = u;
    int rc = trial_holds(x) ? hold_back(x, bytes, n, mark) : 0;
    if (rc) return rc > 0 ? 0 : -1;
    if (x->relay.done) {
        size_t at = x->tail.len ? 0 : end_mark(bytes, n);
        exchange_over(x);
        if (buf_add(&x->tail, bytes + at, n - at)) return -1;
        n = at;
        if (!n) return 0;
    }
    pthread_mutex_lock(&x->write);
    rc = write_stream(x, bytes, n, mark);
    if (x->watch) quality_feed(x->watch, bytes, n);
    x->first_written |= x->relay.data;
    x->lagged |= rc != 0;
    x->written = mark;
    pthread_mutex_unlock(&x->write);
    if (!rc && x->relay.data && !x->t_first) {
        x->t_first = exchange_now(x);
        live_first(&x->live, x->t_first - x->adm.t_start);
        observe_first(x->seen);
    }
    return rc;
}

static void on_room(void *u)
{
    struct exchange *x = u;
    pthread_mutex_lock(&x->lock);
    x->lags = false;
    if (x->call) client_resume(x->call);
    pthread_mutex_unlock(&x->lock);
    exchange_unref(x);
}

/* An engine may send at once what its client's socket takes in a while: it is paused until half of the buffer is free, and no longer than an engine that
 * generates notices; who has not caught up by then is as slow as he looks. The room that is left takes the longest line. */
static void keep_pace(struct exchange *x)
{
    size_t most = (size_t)x->g->set->stream_buffer;
    pthread_mutex_lock(&x->write);
    struct http_stream *s = x->stream;
    pthread_mutex_unlock(&x->write);
    if (!s || http_stream_room(s) >= most / 8 * 3) return;
    pthread_mutex_lock(&x->lock);
    bool pause = !x->lags;
    x->lags = true;
    if (pause) client_pause(x->call, EXCHANGE_PAUSE_MS);
    pthread_mutex_unlock(&x->lock);
    if (!pause) return;
    atomic_fetch_add(&x->refs, 1);
    http_stream_on_room(s, most / 2, on_room, x);
}

int exchange_on_data(void *u, const char *bytes, size_t n)
{
    struct exchange *x = u;
    if (x->status == 200 && x->adm.stream) {
        int rc = relay_feed(&x->relay, bytes, n, emit, x);
        exchange_note(x);
        if (rc == 0) keep_pace(x);
        return rc;
    }
    if (buf_add(&x->answer, bytes, n) == 0) return 0;
    x->too_large = true;
    return -1;
}

/* --- verdicts --- */

/* The connection was lost, or never made. */
static void lost(struct exchange *x, const struct err *cause)
{
    struct err e = {0};
    if (cause->code == ERR_UPSTREAM_TIMEOUT && x->trial && (exchange_elsewhere(x, PICK_TIMEOUT) || trial_instead(x))) return;
    if (cause->code == ERR_UPSTREAM_TIMEOUT) {
        err_set(&e, ERR_UPSTREAM_TIMEOUT, "the engine did not answer in time");
        exchange_fail(x, USAGE_TIMEOUT, &e);
        return;
    }
    if (atomic_load(&x->up->closing)) {
        err_set(&e, ERR_UNAVAILABLE, "the server is shutting down; try again");
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
        return;
    }
    log_warn("engine_lost", LS("id", x->adm.id), LS("engine", x->engine), LI("attempt", x->attempt),
             LS("error", cause->msg));
    quarantine_lost(x); /* "cannot connect", too: libcurl tries anew where a connection that it kept broke before the first byte */
    if (exchange_again(x, PICK_LOST) || trial_instead(x)) return;
    err_set(&e, ERR_ENGINE,
            x->too_large ? "the engine's answer is too large" : "the engine failed while it served the request");
    exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
}

/* The engine met values that are not finite; before the answer, which gives back the version. */
static void blame(struct exchange *x)
{
    for (int i = 0; i < x->at->nneeds; i++)
        log_warn("adapter_fault", LS("id", x->adm.id), LS("digest", x->at->need[i].digest));
    /* Of several nobody knows which, and `adapters` are not the model's own: their weights are the client's. */
    if (x->at->nneeds == 1 && !x->at->what.is_base && strcmp(x->named_by, "model") == 0)
        uploads_fault(x->g->uploads, x->adm.who.tenant, x->at->what.adapter, x->at->what.version);
}

static void blame_stream(struct exchange *x)
{
    if (strcmp(x->relay.code, err_info(ERR_ADAPTER_FAULT)->code) == 0) blame(x);
}

/* The engine's error event is held back with what came before it: no stream is open yet, unless a keep-alive opened it. */
static void held_error(struct exchange *x)
{
    struct err e = {0};
    blame_stream(x);
    if (exchange_elsewhere(x, PICK_FAILED) || trial_instead(x)) return;
    err_set(&e, ERR_ENGINE, "the engine failed while it served the request");
    exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
}

static void stream_over(struct exchange *x)
{
    struct err e = {0};
    if (x->relay.done) {
        pass_whole(x);
    } else if (x->relay.error && trial_holds(x)) {
        held_error(x);
    } else if (x->relay.error) { /* the engine's own error event went on already */
        blame_stream(x);
        if (x->seen) x->seen->error = err_info(err_by_word(x->relay.code))->code;
        begin_answer(x, USAGE_UPSTREAM_ERROR, 200);
        http_stream_end(x->stream);
    } else {
        err_set(&e, ERR_ENGINE, "the engine ended the stream without its end mark");
        lost(x, &e);
    }
}

static void adapter_fault(struct exchange *x)
{
    struct err e = {0};
    char names[UPSTREAM_ADAPTERS * (sizeof x->at->need[0].name + 4)] = "";
    size_t n = 0;
    for (int i = 0; i < x->at->nneeds; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s`%s`", i ? ", " : "", x->at->need[i].name);
    blame(x);
    if (trial_instead(x)) return;
    err_set(&e, ERR_ADAPTER_FAULT_UP, "the adapter %s produced values that are not finite", names);
    exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
}

/* What the engine's refusal means, and its body in OpenAI's shape in place of the engine's own. */
static enum kind_verdict read_refusal(struct exchange *x)
{
    struct buf said;
    buf_init(&said, EXCHANGE_ANSWER_MAX);
    enum kind_verdict v = pick_ops(&x->pick)->verdict(&x->ask, x->status, x->answer.data, x->answer.len, &said);
    buf_close(&x->answer);
    x->answer = said;
    return v;
}

static void not_loaded(struct exchange *x)
{
    struct err e = {0};
    if (x->reloads < EXCHANGE_RELOADS) { /* others unload, or need its slot, meanwhile */
        x->reloads++;
        for (int i = 0; i < x->at->nneeds; i++) pool_forget(&x->pick, x->at->need[i].digest);
        x->next_need = 0;
        exchange_proceed(x);
    } else if (!exchange_elsewhere(x, PICK_FAILED) && !exchange_next(x)) {
        err_set(&e, ERR_ENGINE, "the engine failed while it served the request");
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
    }
}

static int unask(struct upstream_route *to)
{
    json_t *root = NULL;
    struct buf b;
    buf_init(&b, EXCHANGE_BODY_MAX);
    int rc = json_parse(to->body, to->body_len, &root, NULL);
    if (rc == 0) capture_unask_logprobs(root);
    if (rc == 0 && (rc = json_dump(root, false, &b)) == 0) {
        free(to->body);
        to->body_len = b.len;
        to->body = buf_take(&b);
    }
    buf_close(&b);
    json_decref(root);
    return rc;
}

/* It may be the log-probabilities that were refused which a capture wants and the client did not ask for: once more, without. */
static bool ask_without_logprobs(struct exchange *x)
{
    if (!x->strip) return false;
    for (int i = 0; i < x->nroutes; i++)
        if (unask(&x->route[i])) return false;
    x->strip = false;
    exchange_proceed(x);
    return true;
}

static void refused(struct exchange *x)
{
    struct err e = {0};
    switch (read_refusal(x)) {
    case KIND_NOT_LOADED:
        not_loaded(x);
        return;
    case KIND_FAULT:
        adapter_fault(x);
        return;
    case KIND_BUSY:
        if (!exchange_elsewhere(x, PICK_REFUSED) && !trial_instead(x)) pass_refusal(x);
        return;
    case KIND_REFUSED: /* a trial's log-probabilities, too, are none that the client asked for */
        if (!ask_without_logprobs(x) && !trial_instead(x)) pass_refusal(x);
        return;
    case KIND_FAILED:
        log_error("engine_answer", LS("id", x->adm.id), LS("engine", x->engine), LI("status", x->status));
        if (exchange_elsewhere(x, PICK_FAILED) || trial_instead(x)) return;
        err_set(&e, ERR_ENGINE, "the engine failed while it served the request");
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
    }
}

/* The watch gets the answer as it came, unless only its text has room there; the client without what it did not ask for. */
static int strip_whole(struct exchange *x)
{
    struct buf out;
    buf_init(&out, EXCHANGE_ANSWER_MAX);
    int rc = logprobs_strip(x->answer.data, x->answer.len, &out);
    const struct buf *seen = x->answer.len <= TRANSCRIPT_ANSWER_MAX ? &x->answer : &out;
    if (x->watch && rc == 0) quality_feed(x->watch, seen->data, seen->len);
    buf_close(&x->answer);
    x->answer = out;
    return rc;
}

/* An answer that is not a stream: its counts, and its words where the engine's kind has others. */
static void whole_over(struct exchange *x)
{
    const struct kind *k = pick_ops(&x->pick);
    struct buf said;
    struct err e = {0};
    int rc;
    if (k->answer) {
        buf_init(&said, EXCHANGE_ANSWER_MAX);
        rc = k->answer(&x->ask, x->answer.data, x->answer.len, &x->relay.counts, &said);
        buf_close(&x->answer);
        x->answer = said;
    } else { /* one that counts nothing is not an engine's */
        relay_usage(x->answer.data, x->answer.len, &x->relay.counts);
        rc = x->relay.counts.known ? 0 : -1;
    }
    bool moves = rc == 0 && trial_reads(x) && trial_whole(x) == TRIAL_ESCALATE;
    if (rc == 0 && !moves && x->strip) rc = strip_whole(x); /* the trial reads them first */
    if (moves) {
        trial_escalate(x);
    } else if (rc == 0) {
        pass_whole(x);
    } else if (!exchange_elsewhere(x, PICK_FAILED) && !trial_instead(x)) {
        err_set(&e, ERR_ENGINE, "the engine's answer is not one that can be read");
        exchange_fail(x, USAGE_UPSTREAM_ERROR, &e);
    }
}

void exchange_on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct exchange *x = u;
    pthread_mutex_lock(&x->lock);
    x->call = NULL;
    bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    observe_enter(x->seen, STAGE_ANSWER, "");

    bool stream = x->adm.stream && x->status == 200, failed = (e && e->code) || r->status == 0;
    if (gone || x->lagged) {
        exchange_drop(x);
    } else if (trial_stopped(x)) {
        trial_escalate(x);
    } else if (stream && x->relay.done) {
        pass_whole(x); /* all of it went on; how the connection ended doesn't matter */
    } else if (failed) {
        struct err none = {.code = ERR_ENGINE, .msg = "no answer"};
        lost(x, e && e->code ? e : &none);
    } else if (stream) {
        stream_over(x);
    } else if (x->status == 200) {
        whole_over(x);
    } else {
        refused(x);
    }
}
