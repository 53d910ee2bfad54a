/* What a service manager gives at the start, and wants to hear: systemd's notify and socket activation protocols (sd_notify(3),
 * sd_listen_fds(3)), spoken without its library. Nothing is asked and all calls are quiet where no manager is. */
#pragma once
#include "base/err.h"
#include <stdint.h>

struct service {
    int notify;          /* connected socket, -1: nobody listens */
    int64_t watchdog_us; /* sign of life at least so often; 0: not wanted */
    int public, admin;   /* listening sockets that were handed over, -1: none */
};

/* Reads LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID and removes them from the environment, so that no
 * child takes itself for the service. Sockets go by their names, `public` and `admin`; without names the first is public, the second
 * admin. ERR_USAGE for names that we don't know, too many sockets, or what does not listen. Main thread, before others exist. */
int service_open(struct service *s, struct err *e);
void service_close(struct service *s);

/* "fd:N" of a socket that was handed over into out, else `address`. */
const char *service_listen(int fd, const char *address, char out[16]);

void service_ready(const struct service *s);
void service_reloading(const struct service *s); /* service_ready() ends it */
void service_stopping(const struct service *s);
void service_alive(const struct service *s);
void service_status(const struct service *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
