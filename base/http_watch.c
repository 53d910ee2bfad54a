/* http_watch: notices clients that went away while their connection is suspended.
 *
 * libmicrohttpd takes a suspended connection out of its own epoll and sees neither close nor reset. So each socket
 * stands in a second epoll as well, for EPOLLRDHUP, edge-triggered, from its first moment to its last, and one thread
 * waits on it. The event sets conn.hup, which stays; a request that is already with its handler is told at once
 * (http_lost), one that comes later sees hup when it would be suspended. Nothing is added or removed per request.
 *
 * Descriptors are reused, pointers must not be: the event carries the http_conn. libmicrohttpd tells us of the end of a
 * connection before it closes the socket; there the conn leaves the epoll and goes to the list of the dead, and only
 * the watcher frees it, after it has worked off the batch of events in hand, which may still name it; no later batch
 * can.
 *
 * It also looks, about once a second, for bodies that stopped coming (http_quiet.c).
 *
 * What it refuses: half-closing clients that wait for a late answer. A client that shuts its side down is taken for
 * gone. */
#include "base/clock.h"
#include "base/http_internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64
#define BURY_MS 1000 /* the dead wait no longer than this */
#define LOOK_MS 900  /* between looks for half messages, whose client has gone or is slow */

static void peer_hung_up(struct http_conn *c, uint32_t events)
{
    if (atomic_load(&c->deaf) && !(events & (EPOLLHUP | EPOLLERR))) return; /* it is we who closed that way */
    atomic_store(&c->hup, true);
    pthread_mutex_lock(&c->lock);
    struct http_exchange *x = c->x;
    if (x) http_ref(x);
    pthread_mutex_unlock(&c->lock);
    if (!x) return;
    http_lost(x, false);
    http_unref(x);
}

/* Does the connection wait for bytes: of a head, or of a body? trylock: a worker holds its request's lock only while it is
 * at work on it, and then it waits for nothing. */
static bool waits_for_bytes(struct http_conn *c)
{
    int unread = 0;
    pthread_mutex_lock(&c->lock);
    struct http_exchange *x = c->x;
    bool waits = !x;
    if (x && pthread_mutex_trylock(&x->lock) == 0) {
        waits = !x->answered && !x->owed && !x->mhd_done;
        pthread_mutex_unlock(&x->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return waits && ioctl(c->fd, FIONREAD, &unread) == 0 && unread == 0;
}

/* libmicrohttpd's own epoll is edge-triggered, and a read that fills less than its buffer ends its interest: an end that
 * came with the last bytes of half a message is never seen there, and the place would stay taken until the idle time-out.
 * A connection that hung up and still waits for bytes one look later is shut on our side too, which is a new edge. */
static void look_at_all(struct http_server *s)
{
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&s->lock);
    for (struct http_conn *c = s->conns; c; c = c->next) {
        http_reap_look(c, now);
        if (!atomic_load(&c->hup)) continue;
        c->looks = waits_for_bytes(c) ? c->looks + (c->looks < 2) : 0;
        if (c->looks == 2) shutdown(c->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&s->lock);
}

static void bury(struct http_server *s)
{
    pthread_mutex_lock(&s->lock);
    struct http_conn *dead = s->dead;
    s->dead = NULL;
    pthread_mutex_unlock(&s->lock);
    while (dead) {
        struct http_conn *next = dead->next;
        pthread_mutex_destroy(&dead->lock);
        free(dead);
        dead = next;
    }
}

static void *watch(void *arg)
{
    struct http_server *s = arg;
    struct epoll_event event[BATCH];
    int64_t looked = clock_mono_us();
    while (!atomic_load(&s->watch_stop)) {
        int n = epoll_wait(s->watch_epoll, event, BATCH, BURY_MS);
        for (int i = 0; i < n; i++)
            if (event[i].data.ptr) peer_hung_up(event[i].data.ptr, event[i].events);
        bury(s);
        if (clock_mono_us() - looked < LOOK_MS * 1000) continue;
        http_quiet_look(s); /* first: it answers those whom the other only cuts */
        look_at_all(s);
        looked = clock_mono_us();
    }
    return NULL;
}

int http_watch_start(struct http_server *s, struct err *e)
{
    s->watch_epoll = epoll_create1(EPOLL_CLOEXEC);
    s->watch_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN};
    if (s->watch_epoll < 0 || s->watch_wake < 0 || epoll_ctl(s->watch_epoll, EPOLL_CTL_ADD, s->watch_wake, &wake)) {
        err_errno(e, "cannot start the connection watcher");
        goto fail;
    }
    errno = pthread_create(&s->watcher, NULL, watch, s);
    if (errno == 0) return 0;
    err_errno(e, "cannot start the connection watcher");
fail:
    if (s->watch_epoll >= 0) close(s->watch_epoll);
    if (s->watch_wake >= 0) close(s->watch_wake);
    return -1;
}

void http_watch_stop(struct http_server *s)
{
    atomic_store(&s->watch_stop, true);
    ssize_t n = write(s->watch_wake, &(uint64_t){1}, sizeof(uint64_t));
    (void)n; /* if it fails, the watcher wakes by its own time-out */
    pthread_join(s->watcher, NULL);
    bury(s);
    close(s->watch_epoll);
    close(s->watch_wake);
}

/* --- connections come and go, on a worker --- */

static void name_peer(struct http_conn *c, const struct sockaddr *a)
{
    const struct sockaddr_in *v4 = (const void *)a;
    const struct sockaddr_in6 *v6 = (const void *)a;
    if (a && a->sa_family == AF_INET)
        inet_ntop(AF_INET, &v4->sin_addr, c->peer, sizeof c->peer);
    else if (a && a->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &v6->sin6_addr, c->peer, sizeof c->peer);
    else
        snprintf(c->peer, sizeof c->peer, "unix");
}

/* NULL: no memory; its requests are then refused by closing the connection. */
static struct http_conn *conn_new(struct http_server *s, struct MHD_Connection *mhd)
{
    struct http_conn *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->server = s;
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    name_peer(c, MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr);
    pthread_mutex_init(&c->lock, NULL);
    c->over = atomic_fetch_add(&s->nconns, 1) >= s->opt.max_connections;
    http_reap_begin(c);
    pthread_mutex_lock(&s->lock);
    c->next = s->conns;
    if (c->next) c->next->prev = c;
    s->conns = c;
    pthread_mutex_unlock(&s->lock);
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = c};
    if (epoll_ctl(s->watch_epoll, EPOLL_CTL_ADD, c->fd, &event)) c->over = true; /* unwatched: not served */
    return c;
}

static void conn_end(struct http_conn *c)
{
    struct http_server *s = c->server;
    epoll_ctl(s->watch_epoll, EPOLL_CTL_DEL, c->fd, &(struct epoll_event){0});
    atomic_fetch_sub(&s->nconns, 1);
    pthread_mutex_lock(&s->lock);
    if (c->prev)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    c->next = s->dead;
    s->dead = c;
    pthread_mutex_unlock(&s->lock);
}

void http_on_connection(void *cls, struct MHD_Connection *mhd, void **state, enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct http_server *s = cls;
        *state = conn_new(s, mhd);
        atomic_fetch_sub(&s->coming, 1);
    } else if (*state) {
        conn_end(*state);
        *state = NULL;
    }
}
