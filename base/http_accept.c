/* http_accept: one thread that takes connections off the listening socket and hands them to the workers in turn.
 *
 * libmicrohttpd could accept them itself. But when its listener is quiesced while a worker looks at it, version 0.9.75
 * takes the socket out of its epoll twice, and ends the process over the second time ("Failed to remove listen FD from
 * epoll set"): in a drain, of all moments. And its workers race for connections, where these get equal shares.
 *
 * At the end, what the kernel has connected already is still taken, and the socket shut at once, so that no client is cut
 * off that was let in; from an inherited socket nothing is, for the next process will. */
#include "base/http_internal.h"
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 64 /* connections between two looks whether to stop */
#define LACK_MS 20 /* without descriptors or memory: somebody must give one back first */

enum taken { TAKEN, NONE_THERE, LACKING };

static bool is_of_one_connection(int error)
{
    switch (error) {
    case EINTR:
    case ECONNABORTED:
    case EPERM:
    case EPROTO:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
        return true;
    default:
        return false;
    }
}

static enum taken take_one(struct http_server *s)
{
    struct sockaddr_storage peer;
    socklen_t n = sizeof peer;
    int fd = accept4(s->listen_fd, (struct sockaddr *)&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return errno == EAGAIN ? NONE_THERE : is_of_one_connection(errno) ? TAKEN : LACKING;
    struct MHD_Daemon *worker = s->daemon[s->next_worker++ % (unsigned)s->opt.workers];
    atomic_fetch_add(&s->coming, 1);
    if (MHD_add_connection(worker, fd, (struct sockaddr *)&peer, n) == MHD_NO) /* which has closed the socket */
        atomic_fetch_sub(&s->coming, 1);
    return TAKEN;
}

static enum taken take_some(struct http_server *s)
{
    enum taken t = TAKEN;
    for (int i = 0; i < BATCH && t == TAKEN; i++) t = take_one(s);
    return t;
}

static void *accept_all(void *arg)
{
    struct http_server *s = arg;
    struct pollfd on[2] = {{.fd = s->accept_wake, .events = POLLIN}, {.fd = s->listen_fd, .events = POLLIN}};
    while (!atomic_load(&s->accept_stop)) {
        if (poll(on, 2, -1) > 0 && on[1].revents && take_some(s) == LACKING) poll(on, 1, LACK_MS);
    }
    while (!s->inherited && take_some(s) == TAKEN) {}
    http_listen_quiesce(s);
    return NULL;
}

int http_accept_start(struct http_server *s, struct err *e)
{
    s->accept_wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->accept_wake < 0) return err_errno(e, "cannot start accepting connections");
    errno = pthread_create(&s->accepter, NULL, accept_all, s);
    if (errno == 0) return 0;
    err_errno(e, "cannot start accepting connections");
    close(s->accept_wake);
    return -1;
}

void http_accept_stop(struct http_server *s)
{
    atomic_store(&s->accept_stop, true);
    ssize_t n = write(s->accept_wake, &(uint64_t){1}, sizeof(uint64_t));
    (void)n; /* an eventfd that nobody else writes takes it */
    pthread_join(s->accepter, NULL);
    close(s->accept_wake);
}
