/* otlp: the queue of records, and the thread that hands them to a collector.
 *
 *     otlp_put (any thread) -> [queue, OTLP_QUEUE] -> batch -> POST -> 2xx              sent; what the collector says it refused is counted
 *          | full: dropped                              ^        |-> 429 502 503 504    again, after Retry-After or a growing pause,
 *          v                                            '--------'   or no answer       TRIES times; then lost
 *        counted                                                 `-> anything else      refused, and not tried again
 *
 * What an answer says is read by otlp_answer.c. A batch goes when OTLP_BATCH records wait, or
 * FLUSH_MS after the first of them. While a batch is tried again the queue fills and new records are dropped: memory and
 * the collector's load are bounded, and the oldest of an outage are what is known of it. Nobody waits for this thread but
 * otlp_close(). What goes wrong is logged once until it goes well again. */
#include "gateway/observe/otlp.h"
#include "base/client.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/retry_after.h"
#include "base/sha256.h"
#include "gateway/observe/meters.h"
#include "gateway/observe/otlp_answer.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLUSH_MS 500
#define BODY_MAX (16u << 20)
#define ANSWER_MAX 65536
#define CONNECT_MS 2000
#define SEND_MS 5000 /* one request; so long a stop may take at most */
#define TRIES 6
#define PAUSE_MS 1000 /* before the second try; doubles */
#define PAUSE_MAX_MS 30000
#define TOKEN_MAX 4096

struct otlp {
    char url[1024], token_file[1024], instance[64];
    struct metrics *metrics;
    bool failing; /* the thread's own: it was logged */
    pthread_t thread;
    pthread_mutex_t lock; /* covers the rest; nothing is called under it */
    pthread_cond_t wake;
    struct trace_record *queue[OTLP_QUEUE]; /* a ring */
    size_t first, n;
    bool stop;
    int64_t stop_us; /* nothing is sent later; 0: not stopping */
};

static void count(struct otlp *o, const char *outcome, size_t n)
{
    if (n) metric_add(o->metrics, GM_TRACES, (const char *[]){outcome}, (double)n);
}

void otlp_put(struct otlp *o, struct trace_record *r)
{
    if (!o) {
        free(r);
        return;
    }
    pthread_mutex_lock(&o->lock);
    bool fits = o->n < OTLP_QUEUE && !o->stop;
    if (fits) o->queue[(o->first + o->n++) % OTLP_QUEUE] = r;
    bool due = fits && (o->n == 1 || o->n == OTLP_BATCH);
    pthread_mutex_unlock(&o->lock);
    if (due) pthread_cond_signal(&o->wake);
    if (fits) return;
    free(r);
    count(o, "dropped", 1);
}

int otlp_waiting(struct otlp *o)
{
    if (!o) return 0;
    pthread_mutex_lock(&o->lock);
    int n = (int)o->n;
    pthread_mutex_unlock(&o->lock);
    return n;
}

/* --- one request --- */

struct answer {
    int status;
    int64_t retry_after_ms; /* 0: it did not say */
    int64_t refused;        /* of an answer that is good in part: spans */
    char why[160];
};

static void on_head(void *u, const struct client_reply *r)
{
    int64_t s = retry_after_s(r->retry_after, clock_wall_us() / 1000000, PAUSE_MAX_MS / 1000);
    if (s > 0) ((struct answer *)u)->retry_after_ms = s * 1000;
}

/* "Authorization: Bearer ...", or "" where there is none to be had. */
static void read_token(const struct otlp *o, char out[TOKEN_MAX + 32])
{
    char token[TOKEN_MAX];
    out[0] = 0;
    int fd = *o->token_file ? open(o->token_file, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    ssize_t n = read(fd, token, sizeof token - 1);
    close(fd);
    if (n <= 0) return;
    token[n] = 0;
    token[strcspn(token, "\r\n")] = 0;
    snprintf(out, TOKEN_MAX + 32, "Authorization: Bearer %s", token);
    explicit_bzero(token, sizeof token);
}

static int64_t time_left_ms(struct otlp *o)
{
    pthread_mutex_lock(&o->lock);
    int64_t until = o->stop ? o->stop_us : 0;
    pthread_mutex_unlock(&o->lock);
    return until ? (until - clock_mono_us()) / 1000 : SEND_MS;
}

static void post(struct otlp *o, const struct buf *body, int64_t spans, struct answer *a)
{
    char auth[TOKEN_MAX + 32], *answer = NULL;
    size_t len = 0;
    struct err e = {0};
    int64_t left = time_left_ms(o);
    *a = (struct answer){0};
    if (left <= 0) {
        snprintf(a->why, sizeof a->why, "the gateway stops");
        return;
    }
    read_token(o, auth);
    const char *headers[] = {"Content-Type: application/json", *auth ? auth : NULL, NULL};
    int most = (int)(left < SEND_MS ? left : SEND_MS);
    struct client_request q = {.method = "POST",
                               .url = o->url,
                               .headers = headers,
                               .body = body->data,
                               .body_len = body->len,
                               .connect_ms = most < CONNECT_MS ? most : CONNECT_MS,
                               .first_byte_ms = most,
                               .idle_ms = most,
                               .total_ms = most,
                               .on_head = on_head,
                               .user = a};
    if (client_fetch(&q, ANSWER_MAX, &a->status, &answer, &len, &e)) {
        a->status = 0;
        snprintf(a->why, sizeof a->why, "%.150s", e.msg);
    } else {
        snprintf(a->why, sizeof a->why, "status %d", a->status);
        if (a->status == 200) a->refused = otlp_rejected(answer, len, spans);
    }
    free(answer);
    explicit_bzero(auth, sizeof auth);
}

/* --- a batch --- */

static void wait_until(struct otlp *o, int64_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    pthread_mutex_lock(&o->lock);
    while (!o->stop && clock_mono_us() < us) pthread_cond_timedwait(&o->wake, &o->lock, &t);
    pthread_mutex_unlock(&o->lock);
}

/* Half of it to all of it, so that many gateways do not come back at once. */
static int64_t pause_ms(int tries, int64_t asked_ms)
{
    uint16_t dice = 0;
    int64_t ms = (int64_t)PAUSE_MS << tries;
    if (ms > PAUSE_MAX_MS) ms = PAUSE_MAX_MS;
    if (asked_ms) return asked_ms;
    random_bytes(&dice, sizeof dice);
    return ms / 2 + ms / 2 * dice / UINT16_MAX;
}

static void tell(struct otlp *o, const struct answer *a, bool well)
{
    if (well && o->failing) log_info("traces_sent_again");
    if (!well && !o->failing) log_warn("traces_not_taken", LS("why", a->why));
    o->failing = !well;
}

/* Until it is taken, refused or given up. */
static void deliver(struct otlp *o, const struct buf *body, size_t n, int64_t spans)
{
    struct answer a;
    for (int tries = 0;; tries++) {
        post(o, body, spans, &a);
        enum otlp_verdict verdict = otlp_verdict(a.status);
        bool well = verdict == OTLP_TAKEN;
        tell(o, &a, well);
        if (well) {
            count(o, "sent", n);
            if (a.refused) metric_add(o->metrics, GM_SPANS_REFUSED, NULL, (double)a.refused);
            return;
        }
        if (verdict == OTLP_REFUSED) {
            count(o, "refused", n);
            return;
        }
        if (tries + 1 == TRIES || time_left_ms(o) <= 0) {
            count(o, "lost", n);
            return;
        }
        wait_until(o, clock_mono_us() + pause_ms(tries, a.retry_after_ms) * 1000);
    }
}

/* At least as many as there are in it: the request's own, its stages, and the steps of an engine. */
static int64_t spans_of(struct trace_record *const *batch, size_t n)
{
    int64_t spans = 0;
    for (size_t i = 0; i < n; i++) spans += 1 + batch[i]->nspans + OTLP_STEPS;
    return spans;
}

static void send_batch(struct otlp *o, struct trace_record **batch, size_t n)
{
    struct buf body;
    buf_init(&body, BODY_MAX);
    if (otlp_write(batch, n, o->instance, &body))
        count(o, "lost", n);
    else
        deliver(o, &body, n, spans_of(batch, n));
    for (size_t i = 0; i < n; i++) free(batch[i]);
    buf_close(&body);
}

/* Waits for a batch that is due. 0: there is none, and there will be none. */
static size_t take_batch(struct otlp *o, struct trace_record **batch)
{
    size_t n = 0;
    pthread_mutex_lock(&o->lock);
    while (!o->stop && o->n == 0) pthread_cond_wait(&o->wake, &o->lock);
    int64_t until = clock_mono_us() + FLUSH_MS * 1000;
    struct timespec t = {.tv_sec = until / 1000000, .tv_nsec = until % 1000000 * 1000};
    while (!o->stop && o->n < OTLP_BATCH)
        if (pthread_cond_timedwait(&o->wake, &o->lock, &t) == ETIMEDOUT) break;
    for (; n < OTLP_BATCH && o->n > 0; n++, o->n--) {
        batch[n] = o->queue[o->first];
        o->first = (o->first + 1) % OTLP_QUEUE;
    }
    pthread_mutex_unlock(&o->lock);
    return n;
}

static void *run(void *p)
{
    struct otlp *o = p;
    struct trace_record *batch[OTLP_BATCH];
    pthread_setname_np(pthread_self(), "otlp");
    for (size_t n; (n = take_batch(o, batch)) > 0;) send_batch(o, batch, n);
    return NULL;
}

int otlp_open(struct otlp **out, const struct otlp_options *opt, struct err *e)
{
    pthread_condattr_t attr;
    struct otlp *o = calloc(1, sizeof *o);
    if (!o) return err_set(e, ERR_NO_MEMORY, "no memory for traces");
    snprintf(o->url, sizeof o->url, "%s", opt->url);
    snprintf(o->token_file, sizeof o->token_file, "%s", opt->token_file);
    snprintf(o->instance, sizeof o->instance, "%s", opt->instance);
    o->metrics = opt->metrics;
    pthread_mutex_init(&o->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&o->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&o->thread, NULL, run, o)) {
        pthread_cond_destroy(&o->wake);
        pthread_mutex_destroy(&o->lock);
        free(o);
        return err_set(e, ERR_NO_MEMORY, "no thread for traces");
    }
    *out = o;
    return 0;
}

void otlp_close(struct otlp *o)
{
    if (!o) return;
    pthread_mutex_lock(&o->lock);
    o->stop = true;
    o->stop_us = clock_mono_us() + OTLP_LAST_MS * 1000;
    pthread_cond_signal(&o->wake);
    pthread_mutex_unlock(&o->lock);
    pthread_join(o->thread, NULL);
    pthread_cond_destroy(&o->wake);
    pthread_mutex_destroy(&o->lock);
    free(o);
}
