/* What an exchange is billed: the rule, in one place (METERING.md section 1).
 *
 *   how it ended                              state            delivered
 *   stream, its end handed to the socket      completed        the stream's final mark (= all)
 *   stream, the client left before            client_abort     the final mark: tokens of whole events handed to the socket
 *   stream, the engine broke or timed out,    upstream_error,  the final mark
 *   or our own stop cut it                    timeout
 *   no stream, answer handed to the socket    completed        usage.completion_tokens
 *   no stream, the client left before         client_abort     0: nothing of it was of use (the prompt is billed)
 *   an error instead of an answer             rejected, ...    0
 *
 * Produced is the engine's last count in every case. What completes is written before the end of the answer is sent: of a stream, once all its tokens
 * were handed over and only the end mark is held back; an answer that is not a stream counts as delivered unless the client is known to be gone.
 *
 * Runs once for each admitted request: before the end of a whole answer (`done`), or when the request is over. */
#include "base/clock.h"
#include "gateway/observe/meters.h"
#include "gateway/proxy/upstream_impl.h"
#include "gateway/quality/quality.h"
#include <stdio.h>
#include <string.h>

/* The client left, and the engine had said nothing: a vLLM or another upstream keeps no receipts (upstream_receipt.c). */
static void count_uncounted(const struct exchange *x, const struct settlement *s)
{
    bool uncounted = s->state == USAGE_CLIENT_ABORT && x->attempt && !x->relay.counts.known;
    if (uncounted && x->g->metrics) metric_add(x->g->metrics, GM_UNCOUNTED, (const char *[]){x->kind}, 1);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* From the start on by the clock that nobody sets: a duration is what passed, whatever the wall's said meanwhile. */
int64_t exchange_now(const struct exchange *x) { return x->adm.t_start + (clock_mono_us() - x->arrived_us); }

/* What it kept of the answer goes to those who look at it afterwards. */
static void hand_watch(struct exchange *x, const struct settlement *s)
{
    if (!x->stream && !x->strip) quality_feed(x->watch, x->answer.data, x->answer.len);
    quality_put(x->g->quality, x->watch, &x->adm, s);
    x->watch = NULL;
}

void exchange_settle(struct exchange *x, void (*done)(void *u), void *u)
{
    struct settlement s = {0};
    const struct relay_counts *c = &x->relay.counts;

    if (x->settled) return;
    x->settled = true;
    pthread_mutex_lock(&x->lock);
    bool streamed = x->stream, whole = !x->gone && (!streamed || x->closed_clean || done);
    s.delivered = !streamed ? 0 : done ? (int64_t)http_stream_handed(x->stream) : (int64_t)x->handed; /* before its end, and at it */
    pthread_mutex_unlock(&x->lock);

    s.state = x->out.state;
    s.http_status = x->out.http_status;
    if (s.state == USAGE_COMPLETED && !whole) s.state = USAGE_CLIENT_ABORT;
    if (s.state == USAGE_COMPLETED && (!streamed || done)) s.delivered = c->output;
    s.delivered = least(s.delivered, c->output);
    if (x->adm.reserved_tokens > 0) s.delivered = least(s.delivered, x->adm.reserved_tokens); /* an engine that counts more than can be is wrong */
    s.prompt = c->prompt;
    s.cached = c->cached;
    s.produced = c->output;
    s.before = c->before;
    s.after = c->after;
    s.source = !c->known                          ? COUNT_NONE
               : x->receipt                       ? COUNT_RECEIPT
               : c->estimated                     ? COUNT_ESTIMATE
               : x->adm.stream && !x->relay.event ? COUNT_ENGINE
                                                  : COUNT_USAGE;
    memcpy(s.finish, c->finish, sizeof s.finish);
    s.t_first = x->t_first;
    s.t_end = exchange_now(x);
    s.impatient = strcmp(x->g->set->ack, "durable") != 0; /* a client does not wait for a disk that is full */
    s.attempt = x->attempt;
    s.cold = x->cold;
    s.load_us = x->load_us;
    memcpy(s.engine, x->engine, sizeof s.engine);
    s.route = trial_settled(x, s.state);
    count_uncounted(x, &s);
    live_done(&x->live, &x->adm, &s);
    if (x->attempt) pool_settled(x->g->pool, x->engine, s.produced);
    x->out.state = s.state;
    x->delivered = s.delivered;
    if (x->watch) hand_watch(x, &s);
    ledger_settle(x->g->ledger, &x->adm, &s, done, u);
}

/* No more will be settled than the engine counted. */
void exchange_over(struct exchange *x)
{
    const struct relay_counts *c = &x->relay.counts;
    int64_t probe, probe_cost;
    trial_probe(x, &probe, &probe_cost);
    limit_done(x->g->limits, &x->adm.held, c->prompt + c->output + probe, price_cost(&x->adm.price, c->prompt, c->cached, c->output) + probe_cost);
}

/* Client thread, after a write. */
void exchange_note(struct exchange *x)
{
    int64_t now = clock_mono_us(), tokens = x->relay.counts.output;
    if (tokens > x->shown_tokens) {
        live_tokens(&x->live, tokens - x->shown_tokens);
        x->shown_tokens = tokens;
    }
    if (!x->stream) return; /* nothing of it was delivered yet */
    if (!x->admitted || tokens == x->noted_tokens) return;
    if (now - x->noted_us < EXCHANGE_PROGRESS_US && tokens - x->noted_tokens < EXCHANGE_PROGRESS_TOKENS) return;
    if (x->noted_us == 0) { /* the first second counts from the first token */
        x->noted_us = now;
        return;
    }
    x->noted_us = now;
    x->noted_tokens = tokens;
    ledger_progress(x->g->ledger, x->adm.id, x->relay.counts.prompt, x->relay.counts.cached,
                    least((int64_t)http_stream_handed(x->stream), tokens));
}
