/* api_side: requests whose work takes milliseconds wait for a thread of its own, which is neither an HTTP worker, whose
 * streams would stand still meanwhile, nor the step.
 *
 *     handler: push --> [waiting, oldest first] --> thread: run, which answers          free: refuse the rest, join
 *
 * Whose turn it is goes by tag (a tenant's): the oldest of another tag than the last one's, so that who sends many waits
 * behind himself. At most SIDE_WAITING wait; beyond, 503 queue_full. A client may leave meanwhile; `run` sees to it.
 *
 * The thread gives way to the others (nice), for what it does is never as urgent as a step. */
#include "base/log.h"
#include "engine/api_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SIDE_NICE 5

struct job {
    struct http_request *r;
    char tag[SIDE_TAG_LEN];
};

struct side {
    const char *name;
    void (*run)(struct http_request *r);
    pthread_t thread;
    pthread_mutex_t lock; /* covers the rest */
    pthread_cond_t more;
    struct job job[SIDE_WAITING]; /* n, oldest first */
    int n;
    char last[SIDE_TAG_LEN];
    bool stop;
};

static int whose_turn(const struct side *s)
{
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->job[i].tag, s->last) != 0) return i;
    return 0;
}

/* The next request, or NULL when it is time to stop; *stop: it is to be refused. */
static struct http_request *next(struct side *s, bool *stop)
{
    struct http_request *r = NULL;
    pthread_mutex_lock(&s->lock);
    while (s->n == 0 && !s->stop) pthread_cond_wait(&s->more, &s->lock);
    *stop = s->stop;
    if (s->n > 0) {
        int i = whose_turn(s);
        r = s->job[i].r;
        memcpy(s->last, s->job[i].tag, sizeof s->last);
        memmove(&s->job[i], &s->job[i + 1], (size_t)(--s->n - i) * sizeof *s->job);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static void *work(void *u)
{
    struct side *s = u;
    struct http_request *r;
    bool stop;
    pthread_setname_np(pthread_self(), s->name);
    if (setpriority(PRIO_PROCESS, 0, SIDE_NICE)) log_debug("no_nice", LS("thread", s->name));
    while ((r = next(s, &stop))) {
        struct err e = {0};
        if (!stop) {
            s->run(r);
            continue;
        }
        err_set(&e, ERR_UNAVAILABLE, "the engine is stopping");
        api_refuse(r, &e);
    }
    return NULL;
}

int side_new(struct side **out, const char *name, void (*run)(struct http_request *r), struct err *e)
{
    struct side *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for the thread %s", name);
    s->name = name;
    s->run = run;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    if (pthread_create(&s->thread, NULL, work, s)) {
        free(s);
        return err_set(e, ERR_IO, "cannot start the thread %s", name);
    }
    *out = s;
    return 0;
}

void side_free(struct side *s)
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

int side_push(struct side *s, struct http_request *r, const char *tag, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    if (s->n == SIDE_WAITING) {
        rc = err_set(e, ERR_QUEUE_FULL, "%d requests wait already", SIDE_WAITING);
    } else {
        struct job *j = &s->job[s->n++];
        j->r = r;
        snprintf(j->tag, sizeof j->tag, "%s", tag);
        pthread_cond_signal(&s->more);
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}
