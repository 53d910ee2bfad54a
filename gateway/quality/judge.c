/* judge: questions in a bounded queue, and the threads that ask them (see judge.h).
 *
 *     judge_put -> [queue, JUDGE_QUEUE] -> ticket -> POST /v1/chat/completions of our own listener -> score, or why there is none -> told
 *          | full: dropped
 *
 * A thread waits for its answer; so JUDGE_THREADS questions are under way at most, however many answers come to be judged. */
#include "gateway/quality/judge.h"
#include "base/buf.h"
#include "base/client.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway.h"
#include "gateway/observe/meters.h"
#include "gateway/quality/evaluation.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define ANSWER_MAX (1u << 20)
#define CONNECT_MS 2000
#define TICKET_LEN (sizeof JUDGE_TICKET + 2 * SHA256_BYTES) /* with the NUL */
#define NICE 5

struct guest {
    char ticket[TICKET_LEN]; /* "": none, or used */
    int64_t until_us;
    struct principal who;
};

struct judge {
    struct gateway *g;
    void (*told)(void *u, const struct judge_job *job);
    void *u;
    pthread_t thread[JUDGE_THREADS];
    int threads;
    pthread_mutex_t lock; /* covers the rest; nothing is called under it */
    pthread_cond_t wake;
    struct judge_job *queue[JUDGE_QUEUE]; /* a ring */
    int first, n;
    bool stop;
    char url[1024], unix_socket[1024];
    struct guest guest[JUDGE_THREADS];
};

static void count(struct judge *j, const char *outcome)
{
    if (j->g->metrics) metric_add(j->g->metrics, GM_EVALUATION_JUDGE, (const char *[]){outcome}, 1);
}

static void job_free(struct judge_job *job)
{
    free(job->body);
    free(job);
}

/* --- tickets --- */

/* Of thread `at`, whose last one it replaces. False: there are no random bytes, and nobody gets in by anything less. */
static bool make_ticket(struct judge *j, int at, const struct principal *who, char out[TICKET_LEN])
{
    uint8_t dice[SHA256_BYTES];
    if (random_bytes(dice, sizeof dice)) return false;
    memcpy(out, JUDGE_TICKET, sizeof JUDGE_TICKET);
    sha256_hex(dice, out + sizeof JUDGE_TICKET - 1);
    pthread_mutex_lock(&j->lock);
    struct guest *t = &j->guest[at];
    memcpy(t->ticket, out, TICKET_LEN);
    t->until_us = clock_mono_us() + JUDGE_MS * 1000LL;
    t->who = *who;
    t->who.judge = true;
    t->who.deadline_ms = 0;
    snprintf(t->who.class, sizeof t->who.class, "batch");
    pthread_mutex_unlock(&j->lock);
    return true;
}

/* In the same time whatever they are. */
static bool same(const char *a, const char *b)
{
    unsigned char differs = 0;
    for (size_t i = 0; i < TICKET_LEN - 1; i++) differs |= (unsigned char)(a[i] ^ b[i]);
    return !differs;
}

bool judge_guest(struct judge *j, const char *bearer, struct principal *out)
{
    bool is = false;
    if (!j || !bearer || strncmp(bearer, JUDGE_TICKET, sizeof JUDGE_TICKET - 1) != 0 || strlen(bearer) != TICKET_LEN - 1) return false;
    pthread_mutex_lock(&j->lock);
    for (int i = 0; i < JUDGE_THREADS && !is; i++) {
        struct guest *t = &j->guest[i];
        is = *t->ticket && same(t->ticket, bearer) && clock_mono_us() < t->until_us;
        if (!is) continue;
        *out = t->who;
        memset(t->ticket, 0, sizeof t->ticket);
    }
    pthread_mutex_unlock(&j->lock);
    return is;
}

/* --- asking --- */

struct reply {
    struct judge *j;
    struct buf body;
    char id[UUID_LEN];
    int status;
};

static void on_head(void *u, const struct client_reply *r)
{
    struct reply *a = u;
    a->status = r->status;
    if (r->request_id) snprintf(a->id, sizeof a->id, "%.36s", r->request_id);
}

static int on_data(void *u, const char *bytes, size_t n) { return buf_add(&((struct reply *)u)->body, bytes, n); }

static bool stopping(struct judge *j)
{
    pthread_mutex_lock(&j->lock);
    bool stop = j->stop;
    pthread_mutex_unlock(&j->lock);
    return stop;
}

static int on_tick(void *u) { return stopping(((struct reply *)u)->j) ? -1 : 0; }

static int post(struct judge *j, const struct judge_job *job, const char *ticket, struct reply *a, struct err *e)
{
    char auth[TICKET_LEN + 32], url[1024], at[1024], *none = NULL;
    size_t len = 0;
    int status = 0;
    pthread_mutex_lock(&j->lock);
    memcpy(url, j->url, sizeof url);
    memcpy(at, j->unix_socket, sizeof at);
    pthread_mutex_unlock(&j->lock);
    if (!*url) return err_set(e, ERR_UNAVAILABLE, "the gateway does not listen yet");
    snprintf(auth, sizeof auth, "Authorization: Bearer %s", ticket);
    const char *headers[] = {"Content-Type: application/json", auth, NULL};
    struct client_request q = {.method = "POST", .url = url, .unix_socket = *at ? at : NULL, .headers = headers, .body = job->body, .body_len = strlen(job->body), .connect_ms = CONNECT_MS,
                               .first_byte_ms = JUDGE_MS, .idle_ms = JUDGE_MS, .total_ms = JUDGE_MS, .on_head = on_head, .on_data = on_data, .on_tick = on_tick, .user = a};
    int rc = client_fetch(&q, ANSWER_MAX, &status, &none, &len, e);
    free(none);
    explicit_bzero(auth, sizeof auth);
    return rc;
}

/* The outcome, for the metric; the score is in *v. */
static const char *read_reply(const struct judge_job *job, int rc, const struct reply *a, const struct err *e, struct verdict *v)
{
    char why[RULE_NOTE_LEN];
    if (rc || a->status != 200) {
        if (rc) snprintf(why, sizeof why, "the judge gave no answer: %.100s", e->msg);
        else snprintf(why, sizeof why, "the judge was answered %d", a->status);
        verdict_skip(v, why);
        return rc ? "failed" : "refused";
    }
    int64_t score = judge_score(a->body.data, a->body.len, job->low, job->high, why);
    if (score < 0) {
        verdict_skip(v, why);
        return "unreadable";
    }
    double share = (double)(score - job->low) / (double)(job->high - job->low);
    *v = (struct verdict){.scored = true, .passed = share >= job->min, .score = share};
    snprintf(v->note, sizeof v->note, "%lld of %lld to %lld", (long long)score, (long long)job->low, (long long)job->high);
    return "scored";
}

static void ask(struct judge *j, int at, struct judge_job *job)
{
    char ticket[TICKET_LEN];
    struct reply a = {.j = j};
    struct err e = {0};
    struct evaluated *s = evaluation_add(&job->of, EVALUATION_JUDGE, "judge");
    buf_init(&a.body, ANSWER_MAX);
    if (!s) return;
    if (!auth_still(j->g->auth, &job->who, SCOPE_INFER)) {
        verdict_skip(&s->v, "the key is no more");
        count(j, "refused");
    } else if (!make_ticket(j, at, &job->who, ticket)) {
        verdict_skip(&s->v, "the judge could not be asked: no random bytes for a ticket");
        count(j, "failed");
    } else {
        int rc = post(j, job, ticket, &a, &e);
        const char *outcome = read_reply(job, rc, &a, &e, &s->v);
        memcpy(s->judge, a.id, sizeof s->judge);
        count(j, outcome);
    }
    if (!stopping(j)) j->told(j->u, job);
    buf_close(&a.body);
}

static struct judge_job *next(struct judge *j)
{
    pthread_mutex_lock(&j->lock);
    while (!j->n && !j->stop) pthread_cond_wait(&j->wake, &j->lock);
    struct judge_job *job = j->n && !j->stop ? j->queue[j->first] : NULL;
    if (job) {
        j->first = (j->first + 1) % JUDGE_QUEUE;
        j->n--;
    }
    pthread_mutex_unlock(&j->lock);
    return job;
}

struct seat {
    struct judge *j;
    int at;
};

static void *run(void *u)
{
    struct seat s = *(struct seat *)u;
    struct judge_job *job;
    free(u);
    pthread_setname_np(pthread_self(), "judge");
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    while ((job = next(s.j))) {
        ask(s.j, s.at, job);
        job_free(job);
    }
    return NULL;
}

void judge_put(struct judge *j, const struct judge_job *job)
{
    struct judge_job *copy = malloc(sizeof *copy);
    bool fits = false;
    if (copy) {
        *copy = *job;
        pthread_mutex_lock(&j->lock);
        fits = j->n < JUDGE_QUEUE && !j->stop;
        if (fits) j->queue[(j->first + j->n++) % JUDGE_QUEUE] = copy;
        pthread_mutex_unlock(&j->lock);
    }
    if (fits) {
        pthread_cond_signal(&j->wake);
        return;
    }
    free(job->body);
    free(copy);
    count(j, "dropped");
}

void judge_listens(struct judge *j, const char *at)
{
    bool is_unix = strncmp(at, "unix:", 5) == 0;
    pthread_mutex_lock(&j->lock);
    snprintf(j->url, sizeof j->url, "http://%s/v1/chat/completions", is_unix ? "gateway" : at);
    snprintf(j->unix_socket, sizeof j->unix_socket, "%s", is_unix ? at + 5 : "");
    pthread_mutex_unlock(&j->lock);
}

int judge_open(struct judge **out, struct gateway *g, void (*told)(void *u, const struct judge_job *job), void *u, struct err *e)
{
    struct judge *j = calloc(1, sizeof *j);
    if (!j) return err_set(e, ERR_NO_MEMORY, "no memory for judges");
    *j = (struct judge){.g = g, .told = told, .u = u};
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->wake, NULL);
    for (; j->threads < JUDGE_THREADS; j->threads++) {
        struct seat *s = malloc(sizeof *s);
        if (s) *s = (struct seat){j, j->threads};
        if (s && pthread_create(&j->thread[j->threads], NULL, run, s) == 0) continue;
        free(s);
        judge_close(j);
        return err_set(e, ERR_IO, "no thread for judges");
    }
    *out = j;
    return 0;
}

void judge_close(struct judge *j)
{
    if (!j) return;
    pthread_mutex_lock(&j->lock);
    j->stop = true;
    pthread_cond_broadcast(&j->wake);
    pthread_mutex_unlock(&j->lock);
    for (int i = 0; i < j->threads; i++) pthread_join(j->thread[i], NULL);
    for (; j->n; j->n--, j->first = (j->first + 1) % JUDGE_QUEUE) job_free(j->queue[j->first]);
    pthread_mutex_destroy(&j->lock);
    pthread_cond_destroy(&j->wake);
    free(j);
}
