/* client: many HTTP exchanges on one thread.
 *
 *     client_start                 (any thread) -> incoming -> [client's thread:     -> on_head, on_data ..., on_done -> freed
 *     client_cancel, client_resume (any thread) -> asked    ->  multi handle, epoll]
 *
 * libcurl's multi interface is driven by its socket callbacks and an epoll of our own, not by curl_multi_poll(): that
 * one walks every transfer at each wake-up, which with a thousand open streams costs more than the streams themselves.
 *
 * Limits: connect and total are libcurl's; first byte and idle are ours: a call whose peer was silent for longer is
 * removed. Silence ends with every byte sent or received, so a deadline only moves away, and the nearest one seen in a
 * scan tells when the next scan is due; a pause that runs out is such a deadline, too. At most CALLS_MAX calls at a time; beyond max_connections libcurl lets them
 * wait.
 *
 * Where memory is short libcurl may fail to tell us of a socket, and its call would wait for an event that can't come: then calls without an answer so
 * far end, which can be made again. A socket that the kernel does not watch ends its own call; -1 to libcurl would end all, for good.
 *
 * on_done comes exactly once and last, for what ended, what was cancelled, and what was left when the client is freed.
 * Callbacks run without our lock; client_cancel() from one of them is fine. */
#include "base/client_internal.h"
#include "base/clock.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CALLS_MAX 65536
#define EVENTS 128
#define SLEEP_MAX_MS 60000

struct client {
    CURLM *multi;
    int epoll, wake;
    pthread_t thread;
    int64_t timer_us;    /* when libcurl wants to be called; -1: never */
    int64_t deadline_us; /* no call's silence ends before; INT64_MAX: none */
    struct client_call *running;
    bool astray;         /* libcurl had no memory to say which sockets it waits for */

    pthread_mutex_t lock; /* covers what follows */
    struct client_call *incoming, **incoming_tail, *asked;
    int ncalls;
    bool stopping;
};

static void wake_up(struct client *c)
{
    ssize_t n = write(c->wake, &(uint64_t){1}, sizeof(uint64_t));
    (void)n; /* full means that it is awake already */
}

/* --- libcurl tells which sockets and when --- */

static void give_up(CURL *easy)
{
    struct client_call *k = NULL;
    int why = errno;
    if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &k) || !k) return; /* one of libcurl's own, which closes */
    errno = why;
    err_errno(&k->cause, "cannot watch the connection");
    client_cancel(k);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *known)
{
    struct client *c = user;
    struct epoll_event event = {.data.fd = fd};
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(c->epoll, EPOLL_CTL_DEL, fd, &event);
        curl_multi_assign(c->multi, fd, NULL);
        return 0;
    }
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    int op = known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(c->epoll, op, fd, &event)) { /* libcurl's notion may lag when a number was reused */
        op = errno == EEXIST ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
        if (epoll_ctl(c->epoll, op, fd, &event)) {
            give_up(easy);
            return 0;
        }
    }
    curl_multi_assign(c->multi, fd, c);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *user)
{
    (void)multi;
    struct client *c = user;
    c->timer_us = ms < 0 ? -1 : clock_mono_us() + (int64_t)ms * 1000;
    return 0;
}

/* --- calls begin and end --- */

static void link_running(struct client *c, struct client_call *k)
{
    k->prev = NULL;
    k->next = c->running;
    if (k->next) k->next->prev = k;
    c->running = k;
}

static void unlink_running(struct client *c, struct client_call *k)
{
    if (k->prev)
        k->prev->next = k->next;
    else
        c->running = k->next;
    if (k->next) k->next->prev = k->prev;
}

/* The pointer is good until on_done has returned; what was asked of it meanwhile is taken back. */
static void finish(struct client *c, struct client_call *k, CURLcode code)
{
    struct err e = {0};
    curl_multi_remove_handle(c->multi, k->easy);
    unlink_running(c, k);
    client_call_verdict(k, code, &e);
    struct client_reply r = client_call_reply(k);
    if (k->req.on_done) k->req.on_done(k->req.user, &r, &e);
    pthread_mutex_lock(&c->lock);
    for (struct client_call **p = &c->asked; *p; p = &(*p)->asked_next) {
        if (*p != k) continue;
        *p = k->asked_next;
        break;
    }
    c->ncalls--;
    pthread_mutex_unlock(&c->lock);
    client_call_free(k);
}

static void take_incoming(struct client *c)
{
    pthread_mutex_lock(&c->lock);
    struct client_call *k = c->incoming;
    c->incoming = NULL;
    c->incoming_tail = &c->incoming;
    for (struct client_call *i = k; i; i = i->next) i->taken = true;
    pthread_mutex_unlock(&c->lock);
    while (k) {
        struct client_call *next = k->next;
        link_running(c, k);
        k->last_us = clock_mono_us();
        k->nearest_us = &c->deadline_us;
        client_call_near(k);
        if (curl_multi_add_handle(c->multi, k->easy)) finish(c, k, CURLE_OUT_OF_MEMORY);
        k = next;
    }
}

/* What libcurl kept is given to on_data within; k may be over after this. */
static void go_on(struct client *c, struct client_call *k)
{
    if (!k->paused_until_us) return;
    k->paused_until_us = 0;
    k->last_us = clock_mono_us();
    client_call_near(k);
    CURLcode rc = curl_easy_pause(k->easy, CURLPAUSE_CONT);
    if (rc) finish(c, k, rc);
}

static void take_asked(struct client *c)
{
    for (;;) {
        pthread_mutex_lock(&c->lock);
        struct client_call *k = c->asked;
        bool taken = k && k->taken, cancelled = k && k->cancelled;
        if (taken) {
            c->asked = k->asked_next;
            k->asked = k->resumed = false;
        }
        pthread_mutex_unlock(&c->lock);
        if (!k) return;
        if (!taken) { /* started and cancelled since we last looked */
            take_incoming(c);
        } else if (cancelled) {
            err_set(&k->cause, ERR_ENGINE, "the call was cancelled");
            finish(c, k, CURLE_ABORTED_BY_CALLBACK);
        } else {
            go_on(c, k);
        }
    }
}

static void take_finished(struct client *c)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(c->multi, &left))) {
        if (m->msg != CURLMSG_DONE) continue;
        CURLcode code = m->data.result;
        struct client_call *k;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &k);
        finish(c, k, code);
    }
}

static void check_silence(struct client *c)
{
    int64_t now = clock_mono_us();
    if (now < c->deadline_us) return;
    c->deadline_us = INT64_MAX;
    for (struct client_call *k = c->running, *next; k; k = next) {
        next = k->next;
        int64_t until = client_call_deadline(k);
        if (until <= now && k->paused_until_us) {
            go_on(c, k);
        } else if (until <= now) {
            client_call_silent(k);
            finish(c, k, CURLE_OPERATION_TIMEDOUT);
        } else if (until < c->deadline_us)
            c->deadline_us = until;
    }
}

/* --- the thread --- */

static void drive(struct client *c, int fd, int mask)
{
    int running;
    if (curl_multi_socket_action(c->multi, fd, mask, &running)) c->astray = true;
}

/* Which of them it was libcurl does not say, and another look at that socket would crash in it. A call that has no answer yet can be made again. */
static void give_up_unanswered(struct client *c)
{
    c->astray = false;
    for (struct client_call *k = c->running, *next; k; k = next) {
        next = k->next;
        if (k->status) continue;
        err_set(&k->cause, ERR_NO_MEMORY, "no memory for a call to %s", k->url_shown);
        finish(c, k, CURLE_OUT_OF_MEMORY);
    }
}

static int sleep_ms(const struct client *c)
{
    int64_t until = c->deadline_us, now = clock_mono_us();
    if (c->timer_us >= 0 && c->timer_us < until) until = c->timer_us;
    if (until <= now) return 0;
    int64_t ms = (until - now) / 1000 + 1;
    return ms < SLEEP_MAX_MS ? (int)ms : SLEEP_MAX_MS;
}

static void handle_event(struct client *c, const struct epoll_event *event)
{
    int mask = 0;
    if (event->data.fd == c->wake) {
        uint64_t count;
        ssize_t n = read(c->wake, &count, sizeof count);
        (void)n;
        return;
    }
    if (event->events & (EPOLLIN | EPOLLHUP)) mask |= CURL_CSELECT_IN;
    if (event->events & EPOLLOUT) mask |= CURL_CSELECT_OUT;
    if (event->events & EPOLLERR) mask |= CURL_CSELECT_ERR;
    drive(c, event->data.fd, mask);
}

static bool is_stopping(struct client *c)
{
    pthread_mutex_lock(&c->lock);
    bool yes = c->stopping;
    pthread_mutex_unlock(&c->lock);
    return yes;
}

static void cancel_all(struct client *c)
{
    take_incoming(c);
    while (c->running) {
        err_set(&c->running->cause, ERR_ENGINE, "the call was cancelled: the program stops");
        finish(c, c->running, CURLE_ABORTED_BY_CALLBACK);
    }
}

static void *run(void *arg)
{
    struct client *c = arg;
    struct epoll_event event[EVENTS];
    while (!is_stopping(c)) {
        int n = epoll_wait(c->epoll, event, EVENTS, sleep_ms(c));
        for (int i = 0; i < n; i++) handle_event(c, &event[i]);
        take_incoming(c);
        if (c->timer_us >= 0 && clock_mono_us() >= c->timer_us) {
            c->timer_us = -1;
            drive(c, CURL_SOCKET_TIMEOUT, 0);
        }
        take_finished(c);
        if (c->astray) give_up_unanswered(c);
        take_asked(c);
        check_silence(c);
    }
    cancel_all(c);
    return NULL;
}

/* --- what others call --- */

static void free_parts(struct client *c)
{
    if (c->multi) curl_multi_cleanup(c->multi);
    if (c->epoll >= 0) close(c->epoll);
    if (c->wake >= 0) close(c->wake);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static int set_up(struct client *c, int max_connections, struct err *e)
{
    client_global_start();
    c->multi = curl_multi_init();
    c->epoll = epoll_create1(EPOLL_CLOEXEC);
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!c->multi) return err_set(e, ERR_NO_MEMORY, "no memory for the HTTP client");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = c->wake};
    if (c->epoll < 0 || c->wake < 0 || epoll_ctl(c->epoll, EPOLL_CTL_ADD, c->wake, &event))
        return err_errno(e, "cannot start the HTTP client");
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)max_connections);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)max_connections);
    curl_multi_setopt(c->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    return 0;
}

int client_new(struct client **out, int max_connections, struct err *e)
{
    struct client *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NO_MEMORY, "no memory for the HTTP client");
    c->timer_us = -1;
    c->deadline_us = INT64_MAX;
    c->incoming_tail = &c->incoming;
    pthread_mutex_init(&c->lock, NULL);
    sigset_t all, before;
    sigfillset(&all);
    int rc = set_up(c, max_connections, e);
    if (rc == 0) {
        pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
        errno = pthread_create(&c->thread, NULL, run, c);
        int failed = errno;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        errno = failed;
        if (failed) rc = err_errno(e, "cannot start the HTTP client");
    }
    if (rc)
        free_parts(c);
    else
        *out = c;
    return rc;
}

void client_stop(struct client *c)
{
    pthread_mutex_lock(&c->lock);
    bool first = !c->stopping;
    c->stopping = true;
    pthread_mutex_unlock(&c->lock);
    if (!first) return;
    wake_up(c);
    pthread_join(c->thread, NULL);
}

void client_free(struct client *c)
{
    if (!c) return;
    client_stop(c);
    free_parts(c);
}

int client_start(struct client *c, const struct client_request *req, struct client_call **out, struct err *e)
{
    struct client_call *k;
    if (client_call_new(&k, req, e)) return -1;
    k->client = c;
    pthread_mutex_lock(&c->lock);
    bool full = c->ncalls >= CALLS_MAX, stopping = c->stopping;
    if (!full && !stopping) {
        c->ncalls++;
        *c->incoming_tail = k;
        c->incoming_tail = &k->next;
        if (out) *out = k; /* before the thread can have finished it */
    }
    pthread_mutex_unlock(&c->lock);
    if (!full && !stopping) {
        wake_up(c);
        return 0;
    }
    client_call_free(k);
    return stopping ? err_set(e, ERR_UNAVAILABLE, "the HTTP client stops")
                    : err_set(e, ERR_QUEUE_FULL, "more than %d calls at a time", CALLS_MAX);
}

static void ask(struct client_call *k, bool *what)
{
    struct client *c = k->client;
    pthread_mutex_lock(&c->lock);
    bool first = !*what;
    *what = true;
    if (!k->asked) {
        k->asked = true;
        k->asked_next = c->asked;
        c->asked = k;
    }
    pthread_mutex_unlock(&c->lock);
    if (first) wake_up(c);
}

void client_cancel(struct client_call *k)
{
    ask(k, &k->cancelled);
}

void client_resume(struct client_call *k)
{
    ask(k, &k->resumed);
}

void client_pause(struct client_call *k, int ms)
{
    k->paused_until_us = clock_mono_us() + (int64_t)ms * 1000;
    client_call_near(k);
}
