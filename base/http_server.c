/* http_server: start, quiesce and stop of a libmicrohttpd daemon, and the order that stopping needs.
 *
 * Each worker is a daemon of libmicrohttpd with one epoll thread, which gets its connections from us (http_accept.c). Its
 * own limits stand above ours, so that it is we who answer 503. Its percent-decoder is replaced by one that does nothing (http_uri decodes, once). What it logs goes
 * to our log.
 *
 * A daemon that is stopped with a suspended connection aborts the process. So stopping is: no new connections; wait for
 * what is in flight; hear nothing more from those that are idle, and wait for what they had sent; then `aborting`, under which nothing gets suspended any more; wake all that is; and only then stop
 * it. Handlers that still owe an answer keep their exchange, and that keeps the server's memory, so a late http_reply()
 * is harmless. start and stop: one thread; the rest: any. */
#include "base/clock.h"
#include "base/http_internal.h"
#include "base/log.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTION_MEMORY (24 * 1024) /* libmicrohttpd's pool of a connection; bounds the header bytes (431). Nearly all of it is touched, so it is half of what an idle stream takes */
#define SPARE_CONNECTIONS 256         /* of the library above ours, per worker */
#define WORKERS_MAX 64
#define POLL_MS 2
#define CLOSING_MS 250 /* at least, for what was sent on an idle connection before it was closed */
#define SETTLE_MS 2000 /* how long aborted requests may take to leave the workers */

static size_t no_decoding(void *cls, struct MHD_Connection *c, char *s)
{
    (void)cls, (void)c;
    return strlen(s);
}

__attribute__((format(printf, 2, 0))) static void library_log(void *cls, const char *fmt, va_list ap)
{
    (void)cls;
    char line[256];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = 0;
    log_debug("http_library", LS("message", line));
}

void http_server_unref(struct http_server *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1) return;
    pthread_mutex_destroy(&s->lock);
    free(s->daemon);
    free(s);
}

static struct MHD_Daemon *start_daemon(struct http_server *s)
{
    const struct http_options *o = &s->opt;
    unsigned flags =
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    unsigned limit = (unsigned)o->max_connections * 2 + SPARE_CONNECTIONS;
    return MHD_start_daemon(flags, 0, NULL, NULL, http_on_access, s, MHD_OPTION_EXTERNAL_LOGGER, library_log, NULL,
                            MHD_OPTION_CONNECTION_LIMIT, limit, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->idle_timeout_s,
                            MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK, http_on_uri, s,
                            MHD_OPTION_UNESCAPE_CALLBACK, no_decoding, NULL, MHD_OPTION_NOTIFY_COMPLETED,
                            http_on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, http_on_connection, s, MHD_OPTION_END);
}

static void stop_workers(struct http_server *s)
{
    for (int i = 0; i < s->opt.workers && s->daemon[i]; i++) MHD_stop_daemon(s->daemon[i]);
}

static int start_workers(struct http_server *s, struct err *e)
{
    for (int i = 0; i < s->opt.workers; i++)
        if (!(s->daemon[i] = start_daemon(s))) {
            stop_workers(s);
            return err_set(e, ERR_IO, "cannot start the HTTP workers");
        }
    return 0;
}

static int start_behind_watcher(struct http_server *s, struct err *e)
{
    if (start_workers(s, e)) return -1;
    if (http_accept_start(s, e) == 0) return 0;
    stop_workers(s);
    return -1;
}

/* All with all signals blocked: those are the main thread's. */
static int start_threads(struct http_server *s, struct err *e)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = http_watch_start(s, e);
    if (rc == 0 && (rc = start_behind_watcher(s, e))) http_watch_stop(s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static int check_options(const struct http_options *o, struct err *e)
{
    if (o->workers < 1 || o->workers > WORKERS_MAX)
        return err_set(e, ERR_USAGE, "HTTP workers must be from 1 to %d, not %d", WORKERS_MAX, o->workers);
    if (o->max_connections < 1 || o->max_connections > 1000000)
        return err_set(e, ERR_USAGE, "HTTP connections must be from 1 to 1000000, not %d", o->max_connections);
    if (o->idle_timeout_s < 1) return err_set(e, ERR_USAGE, "the HTTP idle time-out must be at least 1 s");
    if (o->stream_buffer < 1024) return err_set(e, ERR_USAGE, "the HTTP stream buffer must be at least 1024 bytes");
    return 0;
}

int http_server_start(struct http_server **out, const struct http_options *o, char **bound, struct err *e)
{
    if (check_options(o, e)) return -1;
    struct http_server *s = calloc(1, sizeof *s);
    if (s) s->daemon = calloc((size_t)o->workers, sizeof(struct MHD_Daemon *));
    if (!s || !s->daemon) {
        free(s);
        return err_set(e, ERR_NO_MEMORY, "no memory for the HTTP server");
    }
    char *name = NULL;
    s->opt = *o;
    s->opt.listen = NULL; /* the caller's string */
    s->listen_fd = -1;
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    if (http_listen(s, o->listen, &name, e) || start_threads(s, e)) {
        http_listen_close(s);
        free(name);
        http_server_unref(s);
        return -1;
    }
    if (bound)
        *bound = name;
    else
        free(name);
    *out = s;
    return 0;
}

void http_server_quiesce(struct http_server *s)
{
    if (atomic_load(&s->quiescing)) return;
    http_accept_stop(s);
    atomic_store(&s->quiescing, true); /* only now: who is told "Connection: close" comes back, and is then refused, not cut */
}

void http_server_shed(struct http_server *s, bool on)
{
    atomic_store(&s->shedding, on);
}

int http_server_cut(const struct http_server *s)
{
    return atomic_load(&s->ncut);
}

int http_server_in_flight(const struct http_server *s)
{
    return atomic_load(&s->in_flight);
}

int http_server_connections(const struct http_server *s)
{
    return atomic_load(&s->coming) + atomic_load(&s->nconns);
}

/* Waits until nothing is in flight; false: time is up. */
static bool wait_idle(const struct http_server *s, int ms)
{
    int64_t until = clock_mono_us() + (int64_t)ms * 1000;
    while (http_server_in_flight(s)) {
        if (clock_mono_us() >= until) return false;
        nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
    }
    return true;
}

/* The exchange of the next connection that was not told yet, referenced; NULL: all were. */
static struct http_exchange *next_untold(struct http_server *s)
{
    struct http_exchange *x = NULL;
    pthread_mutex_lock(&s->lock);
    for (struct http_conn *c = s->conns; c && !x; c = c->next) {
        if (c->told) continue;
        c->told = true;
        pthread_mutex_lock(&c->lock);
        x = c->x;
        if (x) http_ref(x);
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return x;
}

/* One at a time, for a handler's callback runs in between; a request that begins later sees `aborting`. */
static void abort_all(struct http_server *s)
{
    atomic_store(&s->aborting, true);
    for (struct http_exchange *x; (x = next_untold(s));) {
        http_lost(x, true);
        http_unref(x);
    }
}

/* A connection without a request brings none any more: what has come is still read, and answered. */
static void deafen_idle(struct http_server *s)
{
    pthread_mutex_lock(&s->lock);
    for (struct http_conn *c = s->conns; c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        if (!c->x) {
            atomic_store(&c->deaf, true);
            shutdown(c->fd, SHUT_RD);
        }
        pthread_mutex_unlock(&c->lock);
    }
    pthread_mutex_unlock(&s->lock);
}

static void wait_closed(const struct http_server *s, int ms)
{
    int64_t until = clock_mono_us() + (int64_t)ms * 1000;
    while (http_server_connections(s) && clock_mono_us() < until) nanosleep(&(struct timespec){.tv_nsec = POLL_MS * 1000000L}, NULL);
}

void http_server_stop(struct http_server *s, int grace_ms)
{
    int64_t until = clock_mono_us() + (int64_t)grace_ms * 1000;
    http_server_quiesce(s);
    if (wait_idle(s, grace_ms)) {
        int64_t left = (until - clock_mono_us()) / 1000;
        deafen_idle(s);
        wait_closed(s, left > CLOSING_MS ? (int)left : CLOSING_MS);
    }
    if (http_server_in_flight(s)) {
        abort_all(s);
        wait_idle(s, SETTLE_MS);
    }
    abort_all(s); /* what came in between */
    stop_workers(s);
    http_listen_close(s);
    http_watch_stop(s);
    http_server_unref(s);
}
