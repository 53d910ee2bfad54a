/* quality: watches on their way from exchanges to those who look at them (see quality.h).
 *
 * A watch is made on the worker that reads the request, fed on the client's thread, handed over by whoever settles; it belongs to one of them at a time.
 * One counter holds the bytes of all watches, so that many long answers at once can't take the memory: over it a request isn't picked, or its copy ends.
 * The thread is at a lower priority: it parses what may be megabytes, and answers come first. */
#include "gateway/quality/quality.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/capture/capture.h"
#include "gateway/gateway.h"
#include "gateway/observe/meters.h"
#include "gateway/proxy/json_walk.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/transcript.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define STOP_MS 2000
#define SETTLE_MS 5000
#define NICE 5
#define POINTS 9007199254740992.0 /* 2^53: of alias_point() */

struct watch {
    struct quality *q;
    struct watch *next;
    char *part[ALIAS_PARTS];
    char *body; /* [body_len], or NULL: too long */
    size_t body_len;
    struct buf answer;
    bool truncated;
    int64_t bytes; /* of q->bytes */
    struct admission adm;
    struct settlement end;
};

struct quality {
    struct gateway *g;
    _Atomic int64_t bytes;
    pthread_t thread;
    pthread_mutex_t lock; /* covers the rest; nothing is called under it */
    pthread_cond_t wake, idle;
    struct watch *first, *last;
    int n;
    bool busy, stop;
    int64_t stop_us; /* nothing is looked at later; 0: not stopping */
};

const struct quality_taker quality_taker[] = {
    {"evaluation", ALIAS_EVALUATION, evaluation_wanted, evaluation_take},
    {"capture", ALIAS_CAPTURE, capture_wanted, capture_take},
    {NULL, ALIAS_PARTS, NULL, NULL},
};

struct gateway *quality_gateway(struct quality *q) { return q->g; }

static void count(struct quality *q, const char *outcome)
{
    if (q->g->metrics) metric_add(q->g->metrics, GM_QUALITY_TRANSCRIPTS, (const char *[]){outcome}, 1);
}

/* --- picking --- */

/* Not by the tenant's or the alias's name, as a canary's point is (alias_point): the two draws must have nothing to do with each other. */
bool quality_draw(const char *id, double share)
{
    return (double)alias_point("quality", "", id) < share * POINTS;
}

/* `sample` of a part's text. It was checked when it was set. */
static double sample_of(const char *text)
{
    struct json_span v;
    char number[32];
    if (!json_walk_find((struct json_span){text, strlen(text)}, "sample", &v) || v.n >= sizeof number) return 0;
    memcpy(number, v.s, v.n);
    number[v.n] = 0;
    return strtod(number, NULL);
}

static bool take_bytes(struct watch *w, size_t n)
{
    if (atomic_fetch_add(&w->q->bytes, (int64_t)n) + (int64_t)n > QUALITY_BYTES_MAX) {
        atomic_fetch_sub(&w->q->bytes, (int64_t)n);
        return false;
    }
    w->bytes += (int64_t)n;
    return true;
}

static struct watch *watch_new(struct quality *q, const char *body, size_t len)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->q = q;
    buf_init(&w->answer, TRANSCRIPT_ANSWER_MAX);
    w->truncated = len > TRANSCRIPT_BODY_MAX;
    if (!body || w->truncated) return w;
    if (!take_bytes(w, len) || !(w->body = malloc(len + 1))) {
        quality_drop(w);
        return NULL;
    }
    memcpy(w->body, body, len);
    w->body[len] = 0;
    w->body_len = len;
    return w;
}

static bool drawn(const struct quality *q, const struct quality_taker *t, char *const part[ALIAS_PARTS], const char *id)
{
    return part[t->part] && t->wanted(q->g) && quality_draw(id, sample_of(part[t->part]));
}

bool quality_picks(const struct quality *q, char *const part[ALIAS_PARTS], const char *id)
{
    for (const struct quality_taker *t = quality_taker; q && t->take; t++)
        if (drawn(q, t, part, id)) return true;
    return false;
}

struct watch *quality_pick(struct quality *q, char *part[ALIAS_PARTS], const char *id, const char *body, size_t len)
{
    struct watch *w = NULL;
    for (const struct quality_taker *t = quality_taker; q && t->take; t++) {
        if (!drawn(q, t, part, id)) continue;
        if (!w && !(w = watch_new(q, body, len))) {
            count(q, "dropped");
            return NULL;
        }
        w->part[t->part] = part[t->part];
        part[t->part] = NULL;
    }
    return w;
}

void quality_feed(struct watch *w, const char *bytes, size_t n)
{
    if (w->answer.failed) return;
    if (take_bytes(w, n) && buf_add(&w->answer, bytes, n) == 0) return;
    w->truncated = w->answer.failed = true;
}

void quality_drop(struct watch *w)
{
    if (!w) return;
    atomic_fetch_sub(&w->q->bytes, w->bytes);
    for (int i = 0; i < ALIAS_PARTS; i++) free(w->part[i]);
    free(w->body);
    buf_close(&w->answer);
    free(w);
}

void quality_put(struct quality *q, struct watch *w, const struct admission *a, const struct settlement *s)
{
    if (s->state != USAGE_COMPLETED) {
        count(q, "not_completed");
        quality_drop(w);
        return;
    }
    w->adm = *a;
    w->end = *s;
    pthread_mutex_lock(&q->lock);
    bool fits = q->n < QUALITY_QUEUE && !q->stop;
    if (fits) {
        *(q->first ? &q->last->next : &q->first) = w;
        q->last = w;
        q->n++;
    }
    pthread_mutex_unlock(&q->lock);
    if (fits) {
        pthread_cond_signal(&q->wake);
        return;
    }
    count(q, "dropped");
    quality_drop(w);
}

/* --- looking --- */

static void tell(struct quality *q, const struct watch *w, const json_t *body, const struct answer *a)
{
    const struct transcript t = {.adm = &w->adm, .end = &w->end, .part = w->part, .body = body, .answer = a->text.data, .answer_len = a->text.len,
                                 .tool_calls = a->tool_calls, .logprobs = a->logprobs, .finish = a->finish, .truncated = w->truncated, .cut = w->answer.failed};
    for (const struct quality_taker *k = quality_taker; k->take; k++)
        if (w->part[k->part]) k->take(q, &t);
}

static void look(struct quality *q, struct watch *w)
{
    struct answer a;
    struct err e = {0};
    json_t *body = NULL;
    if (w->body && json_parse(w->body, w->body_len, &body, &e)) body = NULL;
    bool whole = !w->answer.failed || w->adm.stream; /* half an object can't be read, half a stream can */
    if (answer_read(&a, w->answer.data, whole ? w->answer.len : 0, w->adm.stream, &e) || (whole && !a.events)) {
        count(q, "unreadable");
        log_warn("transcript", LS("id", w->adm.id), LS("error", *e.msg ? e.msg : "no answer in it"));
    } else {
        tell(q, w, body, &a);
        count(q, "taken");
    }
    answer_close(&a);
    json_decref(body);
    quality_drop(w);
}

/* Under the lock. NULL: it is over. */
static struct watch *next(struct quality *q)
{
    while (!q->first && !q->stop) {
        q->busy = false;
        pthread_cond_broadcast(&q->idle);
        pthread_cond_wait(&q->wake, &q->lock);
    }
    struct watch *w = q->first;
    if (!w || (q->stop && clock_mono_us() >= q->stop_us)) return NULL;
    q->first = w->next;
    q->n--;
    q->busy = true;
    return w;
}

static void *run(void *u)
{
    struct quality *q = u;
    struct watch *w;
    pthread_setname_np(pthread_self(), "quality");
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    pthread_mutex_lock(&q->lock);
    while ((w = next(q))) {
        pthread_mutex_unlock(&q->lock);
        look(q, w);
        pthread_mutex_lock(&q->lock);
    }
    q->busy = false;
    pthread_cond_broadcast(&q->idle);
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

int quality_waiting(struct quality *q)
{
    if (!q) return 0;
    pthread_mutex_lock(&q->lock);
    int n = q->n;
    pthread_mutex_unlock(&q->lock);
    return n;
}

void quality_settle(struct quality *q)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += SETTLE_MS / 1000;
    pthread_mutex_lock(&q->lock);
    while ((q->first || q->busy) && pthread_cond_timedwait(&q->idle, &q->lock, &t) == 0) continue;
    pthread_mutex_unlock(&q->lock);
}

int quality_open(struct quality **out, struct gateway *g, struct err *e)
{
    struct quality *q = calloc(1, sizeof *q);
    if (!q) return err_set(e, ERR_NO_MEMORY, "no memory for transcripts");
    q->g = g;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->wake, NULL);
    pthread_cond_init(&q->idle, NULL);
    if (pthread_create(&q->thread, NULL, run, q)) {
        free(q);
        return err_set(e, ERR_IO, "no thread for transcripts");
    }
    *out = q;
    return 0;
}

void quality_close(struct quality *q)
{
    if (!q) return;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    q->stop_us = clock_mono_us() + STOP_MS * 1000;
    pthread_cond_broadcast(&q->wake);
    pthread_mutex_unlock(&q->lock);
    pthread_join(q->thread, NULL);
    while (q->first) {
        struct watch *w = q->first;
        q->first = w->next;
        count(q, "dropped");
        quality_drop(w);
    }
    pthread_mutex_destroy(&q->lock);
    pthread_cond_destroy(&q->wake);
    pthread_cond_destroy(&q->idle);
    free(q);
}
