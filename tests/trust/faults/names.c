/* names: a name server and a network of the test's own, in front of a program that looks names up and connects (LD_PRELOAD).
 *
 * getaddrinfo() answers names from the file $WEFT_NAMES, "name ADDRESS,ADDRESS|ADDRESS" a line: the answers between bars
 * are given one after the other, the last one again and again, so a name may mean something else the second time. Numbers
 * in any spelling are the C library's own affair; any other name there is none of. Every connect() over IPv4 or IPv6 is
 * written to $WEFT_NAMES.log, "ADDRESS PORT", before it happens: to $WEFT_WORLD's address ("8.8.4.4 PORT") it leads to
 * that port of 127.0.0.1 instead, to loopback it goes its way, anything else is refused, so nothing leaves the machine.
 * GnuTLS trusts $WEFT_WORLD_CA in the place of the machine's authorities. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAMES 256

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    char name[256];
    int asked;
} asked[NAMES]; /* under lock */

/* How often this name was asked before. */
static int times_asked(const char *name)
{
    int n = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < NAMES; i++) {
        if (!asked[i].name[0]) snprintf(asked[i].name, sizeof asked[i].name, "%s", name);
        if (strcasecmp(asked[i].name, name) != 0) continue;
        n = asked[i].asked++;
        break;
    }
    pthread_mutex_unlock(&lock);
    return n;
}

/* The addresses of a name for this time, commas between. */
static int find(const char *name, char out[1024])
{
    const char *path = getenv("WEFT_NAMES");
    FILE *f = path ? fopen(path, "re") : NULL;
    char line[2048];
    int found = 0;
    while (f && !found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        size_t n = strcspn(line, " ");
        if (n != strlen(name) || strncasecmp(line, name, n) != 0) continue;
        const char *at = line + n + 1;
        for (int k = times_asked(name); k > 0 && strchr(at, '|'); k--) at = strchr(at, '|') + 1;
        snprintf(out, 1024, "%.*s", (int)strcspn(at, "|"), at);
        found = 1;
    }
    if (f) fclose(f);
    return found;
}

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    char list[1024], *rest = list, *one;
    struct addrinfo numeric = hints ? *hints : (struct addrinfo){0}, *all = NULL, **tail = &all;
    numeric.ai_flags |= AI_NUMERICHOST;
    if (!node || !getenv("WEFT_NAMES")) return real(node, service, hints, out);
    if (!find(node, list)) return real(node, service, &numeric, out);
    while ((one = strsep(&rest, ","))) {
        if (real(one, service, &numeric, tail)) continue; /* another family than was asked for */
        while (*tail) tail = &(*tail)->ai_next;
    }
    *out = all;
    return all ? 0 : EAI_NONAME;
}

static void note(const char *host, unsigned port)
{
    char path[1024], line[128];
    snprintf(path, sizeof path, "%s.log", getenv("WEFT_NAMES"));
    int n = snprintf(line, sizeof line, "%s %u\n", host, port), fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, (size_t)n) != n) abort(); /* what is not counted was not shown */
    close(fd);
}

typedef int dial(int, const struct sockaddr *, socklen_t);

int connect(int fd, const struct sockaddr *a, socklen_t n)
{
    dial *real = (dial *)dlsym(RTLD_NEXT, "connect");
    const struct sockaddr_in *v4 = (const void *)a;
    const struct sockaddr_in6 *v6 = (const void *)a;
    char host[INET6_ADDRSTRLEN] = "", world[64] = "";
    int port = 0;
    if (!getenv("WEFT_NAMES") || (a->sa_family != AF_INET && a->sa_family != AF_INET6)) return real(fd, a, n);
    if (a->sa_family == AF_INET)
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
    else
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    note(host, ntohs(a->sa_family == AF_INET ? v4->sin_port : v6->sin6_port));
    if (getenv("WEFT_WORLD")) sscanf(getenv("WEFT_WORLD"), "%63s %d", world, &port);
    if (strcmp(host, world) == 0) {
        struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        return real(fd, (struct sockaddr *)&here, sizeof here);
    }
    if (strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strncmp(host, "::ffff:127.", 11) == 0 || strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0)
        return real(fd, a, n);
    errno = ECONNREFUSED;
    return -1;
}

typedef int authorities(void *, const char *, int);

/* Debian's libcurl takes the machine's authorities from a folder. */
int gnutls_certificate_set_x509_trust_dir(void *credentials, const char *folder, int type);
int gnutls_certificate_set_x509_trust_dir(void *credentials, const char *folder, int type)
{
    const char *own = getenv("WEFT_WORLD_CA");
    authorities *real = (authorities *)dlsym(RTLD_NEXT, own ? "gnutls_certificate_set_x509_trust_file" : __func__);
    return real(credentials, own ? own : folder, type);
}
