/* service: the few datagrams and variables by which systemd, or a parent that speaks as it does, holds this program (see service.h).
 *
 * A socket that was handed over outlives this process: it stays open in the parent, connections wait in its backlog while nobody accepts,
 * and the next process takes them from there. That is all there is to a restart that loses nothing; how the old one leaves is drain() in main.c.
 *
 * A message that can't be sent is dropped: no manager may stop us by not listening. Main thread. */
#include "gateway/service.h"
#include "base/clock.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LISTEN_FDS_START 3
#define NAMES_BYTES 256
#define MESSAGE_BYTES 512

/* A variable that is a whole number from 0 on; -1: absent or none. */
static int64_t number(const char *name)
{
    const char *text = getenv(name);
    size_t digits = text ? strspn(text, "0123456789") : 0;
    return digits >= 1 && digits <= 18 && !text[digits] ? strtoll(text, NULL, 10) : -1;
}

/* --- sockets --- */

static int take_socket(struct service *s, int fd, const char *name, struct err *e)
{
    int listens = 0, *slot = strcmp(name, "public") == 0 ? &s->public : strcmp(name, "admin") == 0 ? &s->admin : NULL;
    socklen_t n = sizeof listens;
    if (!slot)
        return err_set(e, ERR_USAGE, "LISTEN_FDNAMES: a socket is called '%.60s'; there are public and admin", name);
    if (*slot >= 0) return err_set(e, ERR_USAGE, "LISTEN_FDNAMES: two sockets are called %s", name);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) || !listens)
        return err_set(e, ERR_USAGE, "LISTEN_FDS: descriptor %d (%s) is no listening socket", fd, name);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
        return err_errno(e, "LISTEN_FDS: descriptor %d (%s)", fd, name);
    *slot = fd;
    return 0;
}

static int take_sockets(struct service *s, struct err *e)
{
    static const char *const unnamed[] = {"public", "admin"};
    const char *names = getenv("LISTEN_FDNAMES");
    int64_t n = number("LISTEN_FDS");
    if (n < 1 || number("LISTEN_PID") != getpid()) return 0; /* meant for somebody else, such as our parent */
    if (n > 2)
        return err_set(e, ERR_USAGE, "LISTEN_FDS: %lld sockets were handed over; there is use for two", (long long)n);
    char words[NAMES_BYTES], *rest = words;
    snprintf(words, sizeof words, "%s", names ? names : "");
    for (int i = 0; i < n; i++) {
        const char *name = names ? strsep(&rest, ":") : unnamed[i];
        if (take_socket(s, LISTEN_FDS_START + i, name ? name : "", e)) return -1;
    }
    return 0;
}

const char *service_listen(int fd, const char *address, char out[16])
{
    if (fd < 0) return address;
    snprintf(out, 16, "fd:%d", fd);
    return out;
}

/* --- messages --- */

/* A path, or with @ a name in the abstract space. */
static int open_notify(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t n = path ? strlen(path) : 0;
    if (n < 2 || n >= sizeof a.sun_path || (path[0] != '/' && path[0] != '@')) return -1;
    memcpy(a.sun_path, path, n);
    if (path[0] == '@') a.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (connect(fd, (const struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) == 0)
        return fd;
    log_warn("service_notify", LS("why", "the manager's socket can't be reached"), LI("errno", errno));
    close(fd);
    return -1;
}

static void tell(const struct service *s, const char *message)
{
    if (s->notify < 0) return;
    if (send(s->notify, message, strlen(message), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_debug("service_notify", LI("errno", errno));
}

void service_ready(const struct service *s)
{
    tell(s, "READY=1\nSTATUS=Serving");
}

void service_reloading(const struct service *s)
{
    char text[MESSAGE_BYTES];
    snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=Reading the settings",
             (long long)clock_mono_us());
    tell(s, text);
}

void service_stopping(const struct service *s)
{
    tell(s, "STOPPING=1\nSTATUS=Finishing what is in flight");
}

void service_alive(const struct service *s)
{
    if (s->watchdog_us) tell(s, "WATCHDOG=1");
}

void service_status(const struct service *s, const char *format, ...)
{
    char text[MESSAGE_BYTES] = "STATUS=";
    size_t n = strlen(text);
    va_list ap;
    va_start(ap, format);
    vsnprintf(text + n, sizeof text - n, format, ap);
    va_end(ap);
    text[n + strcspn(text + n, "\n")] = 0; /* a line of its own would be another message */
    tell(s, text);
}

/* --- life --- */

int service_open(struct service *s, struct err *e)
{
    static const char *const ours[] = {"LISTEN_PID",    "LISTEN_FDS",    "LISTEN_FDNAMES",
                                       "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};
    *s = (struct service){.notify = -1, .public = -1, .admin = -1};
    int rc = take_sockets(s, e);
    s->notify = open_notify(getenv("NOTIFY_SOCKET"));
    bool watched = number("WATCHDOG_PID") < 0 || number("WATCHDOG_PID") == getpid();
    if (watched && s->notify >= 0 && number("WATCHDOG_USEC") > 0) s->watchdog_us = number("WATCHDOG_USEC");
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) unsetenv(ours[i]);
    return rc;
}

void service_close(struct service *s)
{
    if (s->notify >= 0) close(s->notify);
    s->notify = -1;
}
