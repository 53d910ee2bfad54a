/* api_selftest: POST /weft/v1/selftest, on a thread of its own.
 *
 * lora_selftest() computes for a while on the thread that calls it, which must be neither an HTTP worker nor the step.
 * So requests wait in a ring of WAITING_MAX and one thread takes them in turn; beyond that the answer is 503
 * queue_full. The client may leave meanwhile: the test still runs, for its result may be asked again.
 *
 *     handler: push --> [ring] --> thread: test, answer          free: refuse the rest, join */
#include "base/log.h"
#include "engine/api_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAITING_MAX 64

struct job {
    struct http_request *r;
    char digest[SHA256_HEX];
};

struct selftests {
    struct lora_set *loras;
    pthread_t thread;
    pthread_mutex_t lock; /* covers the rest */
    pthread_cond_t more;
    struct job ring[WAITING_MAX];
    int first, n;
    bool stop;
};

static void run(struct selftests *s, const struct job *j)
{
    double err_of[LORA_CHECKS], worst = 0;
    struct err e = {0};
    if (lora_selftest(s->loras, j->digest, err_of, &e)) {
        api_refuse(j->r, &e);
        return;
    }
    json_t *modules = json_object();
    for (int i = 0; i < LORA_CHECKS; i++) {
        if (err_of[i] < 0) continue;
        if (!(err_of[i] <= worst)) worst = err_of[i]; /* NaN becomes the worst */
        json_object_set_new(modules, lora_check_name[i], json_real(err_of[i]));
    }
    api_reply_json(j->r, json_pack("{s:s, s:o, s:f}", "digest", j->digest, "modules", modules, "max_error", worst));
}

/* 0 and the next job, or -1 when it is time to stop. */
static int next(struct selftests *s, struct job *out)
{
    pthread_mutex_lock(&s->lock);
    while (s->n == 0 && !s->stop) pthread_cond_wait(&s->more, &s->lock);
    bool any = s->n > 0;
    if (any) {
        *out = s->ring[s->first];
        s->first = (s->first + 1) % WAITING_MAX;
        s->n--;
    }
    pthread_mutex_unlock(&s->lock);
    return any ? 0 : -1;
}

static void *work(void *u)
{
    struct selftests *s = u;
    struct job j;
    while (next(s, &j) == 0) {
        struct err e = {0};
        pthread_mutex_lock(&s->lock);
        bool stop = s->stop;
        pthread_mutex_unlock(&s->lock);
        if (!stop) {
            run(s, &j);
            continue;
        }
        err_set(&e, ERR_UNAVAILABLE, "the engine is stopping");
        api_refuse(j.r, &e);
    }
    return NULL;
}

int selftests_new(struct selftests **out, struct lora_set *loras, struct err *e)
{
    struct selftests *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for the self-tests");
    s->loras = loras;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    if (pthread_create(&s->thread, NULL, work, s)) {
        free(s);
        return err_set(e, ERR_IO, "cannot start the self-tests' thread");
    }
    *out = s;
    return 0;
}

void selftests_free(struct selftests *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static int push(struct selftests *s, struct http_request *r, const char *digest, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (s->n == WAITING_MAX) {
        rc = err_set(e, ERR_QUEUE_FULL, "%d self-tests wait already", WAITING_MAX);
    } else {
        struct job *j = &s->ring[(s->first + s->n++) % WAITING_MAX];
        j->r = r;
        snprintf(j->digest, sizeof j->digest, "%s", digest);
        pthread_cond_signal(&s->more);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void api_selftest(struct http_request *r)
{
    struct api *a = r->server_user;
    struct err e = {0};
    json_t *root = NULL;
    const char *digest;
    const struct api_engine *g = api_hold(a, &e);
    if (g && json_parse(r->body, r->body_len, &root, &e) == 0 && json_need_str(root, "digest", 256, &digest, &e) == 0) {
        if (!lora_known(g->loras, digest))
            err_field(&e, ERR_ADAPTER_NOT_LOADED, "digest", "the adapter is not loaded");
        else
            push(a->selftests, r, digest, &e);
    }
    if (g) api_release(a);
    json_decref(root);
    if (e.code) api_refuse(r, &e);
}
