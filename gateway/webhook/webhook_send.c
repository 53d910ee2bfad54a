/* webhook_send: the thread that serves all webhooks.
 *
 *     IDLE --begin: batch, signature, POST--> SENDING --answer or none--> ANSWERED --judge--> SAVING --the row is written--> SAVED --> IDLE
 *
 * One batch of a webhook is under way at a time, so what it gets is in the order of the commits; what is sent again by wish (raw rows)
 * takes turns with what is new. A batch counts as delivered by a 2xx and a complete answer, and only then does the row's place move: whatever dies
 * in between, the same events come again with the same ids. A batch that is tried again keeps its webhook-id and its bytes.
 *
 *     2xx        delivered                     410    paused, an event says so
 *     413        tried again with half of it   other  tried again: after 1 s, 2 s, 4 s ... webhook_retry_s, each 50 to 100 % of it
 *     Retry-After is kept to where it is longer, up to HOOK_RETRY_AFTER_MAX_S. Redirects are not followed: they are no 2xx.
 *
 * URLs are strangers': https to public addresses, judged when they are dialled, but for hosts of the setting webhook_hosts (see
 * import_address.h). The client is one of its own, so slow receivers take no connection from the engines; its connections are kept, and
 * all of them were judged by the same rule.
 *
 * Bounds: HOOK_FLIGHT_MAX batches at once, BATCH_EVENTS and BATCH_BYTES each, HOOK_TOTAL_MS for one, HOOK_ANSWER_MAX of an answer. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/observe/meters.h"
#include "gateway/settings.h"
#include "gateway/webhook/webhook_answer.h"
#include "gateway/webhook/webhook_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TICK_MS 100       /* between looks at the outbox while there are webhooks */
#define IDLE_TICK_MS 10000
#define STOP_MS 1500      /* for batches under way, at the end */
#define CA_LINES_MAX 100000
#define PASSED_ROWS 10000 /* looked through for nothing: worth a write */

int hook_judge_address(void *listed, const struct sockaddr *a)
{
    return *(const bool *)listed || import_address_is_public(a) ? 0 : -1;
}

void hook_kick(struct webhooks *w)
{
    pthread_mutex_lock(&w->lock);
    w->kick = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

void webhooks_look(struct webhooks *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->look = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

/* --- the exchange: on the client's thread, while the phase is SENDING --- */

static int on_address(void *u, const struct sockaddr *a)
{
    return hook_judge_address(&((struct hook *)u)->listed, a);
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct hook *h = u;
    (void)bytes;
    h->answer_bytes += n;
    h->cut = h->answer_bytes > HOOK_ANSWER_MAX;
    return h->cut ? -1 : 0;
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct hook *h = u;
    struct webhooks *w = h->all;
    h->status = r->status;
    h->broken = *e;
    snprintf(h->retry_after, sizeof h->retry_after, "%s", r->retry_after ? r->retry_after : "");
    h->phase = HOOK_ANSWERED;
    hook_kick(w);
}

static int post(struct hook *h, const struct batch *b, struct err *e)
{
    struct webhook_headers s;
    if (webhook_sign(&h->secret, h->msg, clock_wall_us() / 1000000, b->body.data, b->body.len, &s, e)) return -1;
    struct client_request q = {.method = "POST", .url = h->url, .ca_file = hook_ca_file(h->all->g), .headers = s.line, .body = b->body.data, .body_len = b->body.len,
                               .connect_ms = HOOK_CONNECT_MS, .first_byte_ms = HOOK_SILENCE_MS, .idle_ms = HOOK_SILENCE_MS,
                               .total_ms = HOOK_TOTAL_MS, .on_data = on_data, .on_done = on_done, .on_address = on_address, .keep = true,
                               .user = h};
    h->answer_bytes = 0;
    h->cut = false;
    h->phase = HOOK_SENDING;
    h->all->in_flight++;
    if (client_start(h->all->client, &q, &h->call, e) == 0) return 0;
    h->all->in_flight--;
    h->phase = HOOK_IDLE;
    return -1;
}

/* --- begin --- */

void hook_pass(struct hook *h)
{
    h->then = h->at;
    h->moves = true;
    hook_save(h, hook_run_passed);
}

/* Looked through for nothing. It is written down from time to time (the outbox keeps what the row's place says), and at once when a
 * redelivery is over. */
static void pass(struct hook *h, const struct hook_place *to)
{
    bool over = h->at.replay.until && !to->replay.until;
    h->at = *to;
    if (over || to->usage - h->stands.usage >= PASSED_ROWS) hook_pass(h);
}

static void later(struct hook *h, const struct err *e)
{
    log_warn("webhook_batch", LS("webhook", h->id), LS("reason", e->msg));
    h->due_us = clock_mono_us() + HOOK_RETRY_FIRST_MS * 1000;
}

static void fail(struct hook *h);

static bool has_new(const struct hook *h)
{
    const struct hook_heads *heads = &h->all->heads;
    return heads->usage > h->at.usage || heads->event > h->at.event;
}

/* What is new and what is sent again take turns. */
static bool choose(struct hook *h)
{
    bool again = h->at.replay.until > 0 && h->usage;
    if (*h->msg) return true;
    h->replaying = again && (!has_new(h) || !h->replaying);
    return again || has_new(h);
}

static void send_batch(struct hook *h, const struct batch *b)
{
    struct err e = {0};
    if (!*h->msg) {
        snprintf(h->msg, sizeof h->msg, "msg_");
        uuid7(h->msg + 4);
        h->then = b->to;
    }
    h->n = b->n;
    if (post(h, b, &e)) later(h, &e);
}

/* What the last try's receiver said is no word about this one. */
static void forget_answer(struct hook *h)
{
    h->status = 0;
    h->retry_after[0] = 0;
    err_clear(&h->broken);
}

static void begin(struct hook *h)
{
    struct err e = {0};
    struct batch b;
    if (!choose(h)) return;
    forget_answer(h);
    if (hook_check_url(h->all->g, h->url, &h->listed, &h->broken)) { /* the setting has changed */
        fail(h);
        return;
    }
    const struct hook_place *last = *h->msg ? &h->then : NULL;
    batch_init(&b, h->batch_max);
    if ((h->replaying ? batch_replay : batch_live)(h->all, h, last, &b, &e))
        later(h, &e);
    else if (b.n)
        send_batch(h, &b);
    else {
        h->msg[0] = 0;
        pass(h, &b.to);
    }
    batch_close(&b);
}

/* --- judge --- */

static int64_t pause_us(const struct hook *h)
{
    uint32_t dice = 0;
    random_bytes(&dice, sizeof dice);
    return webhook_pause_ms(h->failures, h->all->g->set->webhook_retry_s * 1000, dice, h->retry_after, clock_wall_us() / 1000000) * 1000;
}

static void say_why(struct hook *h)
{
    if (h->pause)
        snprintf(h->broken.msg, sizeof h->broken.msg, "the receiver answered 410: it wants no more");
    else if (h->status && !h->broken.code)
        snprintf(h->broken.msg, sizeof h->broken.msg, "the receiver answered %d", h->status);
}

static void fail(struct hook *h)
{
    enum hook_verdict verdict = webhook_verdict(h->status, true, h->n);
    h->moves = false;
    h->pause = verdict == HOOK_GONE;
    say_why(h);
    if (h->failures < INT32_MAX) h->failures++;
    if (!h->failing_since) h->failing_since = clock_wall_us();
    h->due_us = clock_mono_us() + pause_us(h);
    if (verdict == HOOK_SMALLER) { /* another batch, with an id of its own */
        h->batch_max = h->n / 2;
        h->msg[0] = 0;
        h->due_us = 0;
    }
    metric_add(h->all->g->metrics, GM_WEBHOOK_BATCHES, (const char *[]){"failed"}, 1);
    if (h->failures == 1) log_warn("webhook_failed", LS("webhook", h->id), LI("status", h->status), LS("reason", h->broken.msg));
    hook_save(h, hook_run_failed);
}

static void judge(struct hook *h)
{
    struct metrics *m = h->all->g->metrics;
    h->all->in_flight--;
    h->call = NULL;
    h->moves = webhook_verdict(h->status, h->broken.code && !h->cut, h->n) == HOOK_DELIVERED;
    if (!h->moves) {
        fail(h);
        return;
    }
    if (h->failures) log_info("webhook_back", LS("webhook", h->id), LI("failures", h->failures));
    h->failures = 0;
    h->failing_since = 0;
    h->due_us = 0;
    metric_add(m, GM_WEBHOOK_BATCHES, (const char *[]){"delivered"}, 1);
    metric_add(m, GM_WEBHOOK_EVENTS, NULL, h->n);
    hook_save(h, hook_run_delivered);
}

/* The row took it: we stand there. It did not: somebody changed the row, and it is read again. */
static void settle(struct hook *h)
{
    h->phase = HOOK_IDLE;
    if (!h->changed) {
        webhooks_look(h->all);
        h->due_us = clock_mono_us() + TICK_MS * 1000;
        return;
    }
    if (h->moves) {
        h->at = h->stands = h->then;
        h->msg[0] = 0;
    }
    if (h->pause || h->behind) webhooks_look(h->all); /* its state is another now */
    h->pause = false;
    h->behind = NULL;
}

/* --- the thread --- */

/* False: there is nothing to do for it now. */
static bool step(struct hook *h, int64_t now, bool stopping)
{
    switch (h->phase) {
    case HOOK_ANSWERED: judge(h); return true;
    case HOOK_SAVED: settle(h); return true;
    case HOOK_IDLE: break;
    default: return false;
    }
    if (h->behind && !stopping && !h->gone) {
        hook_stop(h);
        return h->phase != HOOK_IDLE;
    }
    if (stopping || h->gone || h->state != HOOK_ENABLED || h->due_us > now || h->all->in_flight >= HOOK_FLIGHT_MAX) return false;
    begin(h);
    return h->phase == HOOK_SAVING || h->phase == HOOK_SENDING;
}

static void serve(struct webhooks *w, bool look)
{
    struct err e = {0};
    if (look && hooks_load(w, &e)) {
        log_warn("webhooks_load", LS("reason", e.msg));
        webhooks_look(w);
    }
    if (w->hooks && hooks_heads(w, &e)) log_warn("webhooks_look", LS("reason", e.msg));
    int64_t now = clock_mono_us();
    for (struct hook *h = w->hooks; h; h = h->next)
        for (int i = 0; i < 2 && step(h, now, false); i++) {}
    hooks_keep(w);
}

/* What woke us; *look: rows have changed. */
static bool wait_for_work(struct webhooks *w, bool *look)
{
    struct timespec t;
    int ms = w->hooks || w->trimming ? TICK_MS : IDLE_TICK_MS;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_nsec += ms % 1000 * 1000000L;
    t.tv_sec += ms / 1000 + t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&w->lock);
    while (!w->stop && !w->kick && !w->look && pthread_cond_timedwait(&w->wake, &w->lock, &t) == 0) {}
    *look = w->look;
    w->look = w->kick = false;
    bool stop = w->stop;
    pthread_mutex_unlock(&w->lock);
    return !stop;
}

static bool is_busy(const struct webhooks *w)
{
    if (w->trim_busy) return true;
    for (const struct hook *h = w->hooks; h; h = h->next)
        if (h->phase != HOOK_IDLE) return true;
    return false;
}

/* Answers that come in time are written down; what is cut after that is sent again by the next start. */
static void wind_up(struct webhooks *w)
{
    int64_t until = clock_mono_us() + STOP_MS * 1000ll;
    bool cut = false;
    while (is_busy(w)) {
        for (struct hook *h = w->hooks; h; h = h->next) {
            if (cut && h->phase == HOOK_ANSWERED && (h->status < 200 || h->status > 299 || h->broken.code)) h->phase = HOOK_IDLE;
            step(h, 0, true);
        }
        if (!cut && clock_mono_us() > until) {
            client_stop(w->client);
            cut = true;
        }
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
}

static void *run(void *u)
{
    struct webhooks *w = u;
    bool look = true;
    while (wait_for_work(w, &look)) serve(w, look);
    wind_up(w);
    return NULL;
}

static void make_source(struct webhooks *w)
{
    uint8_t mac[SHA256_BYTES];
    char hex[SHA256_HEX], purpose[] = "webhook source";
    sha256_hmac(db_pepper(w->g->db), 32, purpose, sizeof purpose - 1, mac);
    sha256_hex(mac, hex);
    snprintf(w->source, sizeof w->source, "urn:weft:%.16s", hex);
}

/* A file that says nothing would be found out by the first receiver only. */
static int check_ca_file(const char *path, struct err *e)
{
    char line[256];
    bool found = false;
    FILE *f = path ? fopen(path, "re") : NULL;
    if (path && !f) return err_errno(e, "cannot open webhook_ca_file %s", path);
    for (int i = 0; f && !found && i < CA_LINES_MAX && fgets(line, sizeof line, f); i++) found = strncmp(line, "-----BEGIN CERTIFICATE-----", 27) == 0;
    if (f) fclose(f);
    return path && !found ? err_set(e, ERR_USAGE, "webhook_ca_file %s holds no certificate (PEM)", path) : 0;
}

int webhooks_open(struct webhooks **out, struct gateway *g, struct err *e)
{
    struct webhooks *w = calloc(1, sizeof *w);
    pthread_condattr_t attr;
    if (check_ca_file(hook_ca_file(g), e)) {
        free(w);
        return -1;
    }
    if (!w) return err_set(e, ERR_NO_MEMORY, "no memory for webhooks");
    w->g = g;
    w->look = true;
    make_source(w);
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    int rc = client_new(&w->client, HOOK_FLIGHT_MAX + WEBHOOK_TRIES_MAX, e);
    if (rc == 0 && pthread_create(&w->thread, NULL, run, w)) rc = err_set(e, ERR_NO_MEMORY, "no thread for webhooks");
    w->has_thread = rc == 0;
    if (rc)
        webhooks_close(w);
    else
        *out = w;
    return rc;
}

void webhooks_stop(struct webhooks *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    if (w->has_thread) pthread_join(w->thread, NULL);
    w->has_thread = false;
    if (w->client) client_stop(w->client);
}

void webhooks_close(struct webhooks *w)
{
    if (!w) return;
    webhooks_stop(w);
    client_free(w->client);
    while (w->hooks) {
        struct hook *h = w->hooks;
        w->hooks = h->next;
        explicit_bzero(&h->secret, sizeof h->secret);
        free(h);
    }
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
