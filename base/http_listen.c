/* http_listen: the sockets that the server listens on, made by us so that their options and modes are ours.
 *
 * "127.0.0.1:8080" and "[::1]:0" are TCP with SO_REUSEADDR; names are not looked up. "unix:/path" is a Unix socket of
 * mode 0600; a file that is left there from a killed process is replaced, but only when it is a socket and nobody
 * answers on it. "fd:3" is a listening socket that a supervisor opened for us.
 *
 * Quiescing shuts a socket of ours down, so that connecting is refused. An inherited socket is only no longer accepted
 * from; who gave it will. Called at start and stop, on one thread.
 */
#include "base/http_internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 1024

static int split_address(const char *where, char host[64], char port[8], struct err *e)
{
    const char *colon = strrchr(where, ':');
    bool bracket = where[0] == '[' && colon && colon > where + 1 && colon[-1] == ']';
    const char *from = bracket ? where + 1 : where, *to = bracket ? colon - 1 : colon;
    if (!colon || to == from || to - from >= 64 || !colon[1] || strlen(colon + 1) >= 8 ||
        (!bracket && memchr(from, ':', (size_t)(to - from))))
        return err_set(e, ERR_USAGE, "cannot listen on '%.100s': expected ADDRESS:PORT, [ADDRESS]:PORT or unix:/path",
                       where);
    char *end;
    if (strtoul(colon + 1, &end, 10) > 65535 || *end || colon[1] < '0' || colon[1] > '9')
        return err_set(e, ERR_USAGE, "cannot listen on '%.100s': the port must be from 0 to 65535", where);
    snprintf(host, 64, "%.*s", (int)(to - from), from);
    snprintf(port, 8, "%s", colon + 1);
    return 0;
}

static int listen_tcp(const char *where, struct err *e)
{
    char host[64], port[8];
    if (split_address(where, host, port, e)) return -1;
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE}, *a;
    int rc = getaddrinfo(host, port, &want, &a);
    if (rc) return err_set(e, ERR_USAGE, "cannot listen on '%.100s': %s", where, gai_strerror(rc));
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || bind(fd, a->ai_addr, a->ai_addrlen) ||
        listen(fd, BACKLOG)) {
        err_errno(e, "cannot listen on %.100s", where);
        if (fd >= 0) close(fd);
        fd = -1;
    }
    freeaddrinfo(a);
    return fd;
}

/* Removes what a dead process left; refuses when somebody answers, or when it is no socket. */
static int remove_stale(const struct sockaddr_un *addr, struct err *e)
{
    struct stat st;
    if (lstat(addr->sun_path, &st) || !S_ISSOCK(st.st_mode))
        return err_set(e, ERR_IO, "cannot listen on %s: a file that is no socket is in the way", addr->sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_errno(e, "cannot open a socket");
    int rc = connect(fd, (const struct sockaddr *)addr, sizeof *addr), why = errno;
    close(fd);
    if (rc == 0 || why != ECONNREFUSED)
        return err_set(e, ERR_IO, "cannot listen on %s: another process does", addr->sun_path);
    if (unlink(addr->sun_path)) return err_errno(e, "cannot remove the stale socket %s", addr->sun_path);
    return 0;
}

static int bind_unix(int fd, const struct sockaddr_un *addr, struct err *e)
{
    if (fchmod(fd, 0600))
        return err_errno(e, "cannot set the mode of %s", addr->sun_path); /* before bind: no open moment */
    if (bind(fd, (const struct sockaddr *)addr, sizeof *addr) == 0) return 0;
    if (errno != EADDRINUSE) return err_errno(e, "cannot listen on %s", addr->sun_path);
    if (remove_stale(addr, e)) return -1;
    if (bind(fd, (const struct sockaddr *)addr, sizeof *addr))
        return err_errno(e, "cannot listen on %s", addr->sun_path);
    return 0;
}

static int listen_unix(struct http_server *s, const char *path, struct err *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct stat st;
    if (!*path || strlen(path) >= sizeof addr.sun_path)
        return err_set(e, ERR_USAGE, "cannot listen on unix:%.120s: a path has 1 to %zu bytes", path,
                       sizeof addr.sun_path - 1);
    memcpy(addr.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_errno(e, "cannot open a socket");
    if (bind_unix(fd, &addr, e)) goto fail;
    if (listen(fd, BACKLOG) || stat(path, &st)) {
        err_errno(e, "cannot listen on %s", path);
        goto fail;
    }
    s->unix_path = strdup(path);
    s->unix_dev = st.st_dev;
    s->unix_ino = st.st_ino;
    if (s->unix_path) return fd;
    err_set(e, ERR_NO_MEMORY, "no memory for a socket's path");
fail:
    close(fd);
    return -1;
}

static int listen_inherited(const char *number, struct err *e)
{
    char *end;
    long fd = strtol(number, &end, 10);
    int listens = 0;
    socklen_t n = sizeof listens;
    if (end == number || *end || fd < 3 || fd > 65535 || getsockopt((int)fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) ||
        !listens)
        return err_set(e, ERR_USAGE, "cannot listen on 'fd:%.20s': it is no listening socket", number);
    return (int)fd;
}

static char *bound_name(int fd)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[INET6_ADDRSTRLEN] = "", *out = NULL;
    if (getsockname(fd, (struct sockaddr *)&a, &n)) return NULL;
    const struct sockaddr_in *v4 = (const void *)&a;
    const struct sockaddr_in6 *v6 = (const void *)&a;
    const struct sockaddr_un *un = (const void *)&a;
    int rc;
    if (a.ss_family == AF_UNIX)
        rc = asprintf(&out, "unix:%s", un->sun_path);
    else if (a.ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
        rc = asprintf(&out, "[%s]:%u", host, ntohs(v6->sin6_port));
    } else {
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
        rc = asprintf(&out, "%s:%u", host, ntohs(v4->sin_port));
    }
    return rc < 0 ? NULL : out;
}

int http_listen(struct http_server *s, const char *where, char **bound, struct err *e)
{
    int fd = strncmp(where, "unix:", 5) == 0 ? listen_unix(s, where + 5, e)
             : strncmp(where, "fd:", 3) == 0 ? listen_inherited(where + 3, e)
                                             : listen_tcp(where, e);
    if (fd < 0) return -1;
    s->listen_fd = fd;
    s->inherited = strncmp(where, "fd:", 3) == 0;
    char *name = bound_name(fd);
    if (!name) {
        http_listen_close(s);
        return err_set(e, ERR_NO_MEMORY, "no memory for an address");
    }
    if (bound)
        *bound = name;
    else
        free(name);
    return 0;
}

/* The file goes only while it is ours: a successor may have put its own in its place. */
static void remove_file(struct http_server *s)
{
    struct stat st;
    if (!s->unix_path) return;
    if (stat(s->unix_path, &st) == 0 && st.st_dev == s->unix_dev && st.st_ino == s->unix_ino) unlink(s->unix_path);
    free(s->unix_path);
    s->unix_path = NULL;
}

void http_listen_quiesce(struct http_server *s)
{
    if (!s->inherited) shutdown(s->listen_fd, SHUT_RDWR);
    remove_file(s);
}

void http_listen_close(struct http_server *s)
{
    remove_file(s);
    if (s->listen_fd >= 0) close(s->listen_fd);
    s->listen_fd = -1;
}
