/* weft-fake-engine: an engine without a model, fast enough that what is measured beside it is the gateway.
 *
 * One thread, one epoll loop, no allocation per request. It speaks what a gateway asks of an engine (ENGINE_API.md):
 * chat/completions and completions with usage, streams of chunks each behind its counting comment, health, ready, state,
 * adapters loaded and unloaded, the self-test, OpenAI's list of models. It runs in weft-engine's place
 * (`serve --socket PATH ...`, other arguments are taken and ignored) and listens on FAKE_ENGINE_LISTEN (127.0.0.1:PORT)
 * as well, so that the same process can be asked directly. FAKE_ENGINE_CPU pins it: a child inherits its parent's mask.
 *
 * What an answer is stands in the request's text, as words:
 *
 *     tokens=N     tokens of the answer (16)
 *     step_us=N    a token so often, the first at once and the others at multiples of this time, which all streams
 *                  share as they share an engine's steps (0: as fast as the socket takes them, the streams in turn)
 *     apart=1      streams do not share their steps: each has a phase of its own within that time
 *     pad=N        so many bytes more in each token's text (0, at most 8192)
 *     whole_us=N   an answer that is no stream comes after so long
 *
 * Each token of a stream is a chunk and a write of its own, as an engine that steps sends them, and its text is "TIME/NUMBER ": the
 * monotonic time in microseconds at which it was written, and which one of its stream it is, from 0 on: the reader knows how
 * long each was on its way, and whether one was lost, doubled or overtaken.
 *
 *     reading --whole request--> whole answer queued --sent--> reading
 *        |                                                        ^
 *        `--"stream":true--> streaming: a chunk at each due time --[DONE]--'
 *
 * Bounds: CONNS_MAX connections, IN_MAX bytes of a request, OUT_MAX unread bytes of an answer. It trusts its caller and
 * parses by searching; it is no server for strangers, and refuses addresses that are not this machine's. */
#include "base/clock.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNS_MAX 8192 /* descriptors, in fact: a connection is found by its number */
#define IN_MAX (256 * 1024)
#define PAD_MAX 8192
#define OUT_MAX (64 * 1024)
#define EVENTS 256
#define TOKENS_DEFAULT 16
#define PROMPT_TOKENS 11
#define CACHED_TOKENS 3

struct conn {
    int fd;
    char *in; /* [IN_MAX + 1] */
    size_t nin;
    char *out; /* [OUT_MAX] */
    size_t nout, sent;
    bool armed; /* for EPOLLOUT */

    bool streaming, counted, chat;
    int token, tokens, pad;
    int64_t due_us, step_us, phase_us;
    bool whole; /* an answer that is no stream, at its time */
    int place; /* in the list of streams */
};

static char padding[PAD_MAX + 1];
static struct conn *conns[CONNS_MAX];
static struct conn *streams[CONNS_MAX];
static int nstreams, loop_fd;

static const char state[] =
    "{\"base\":{\"name\":\"fake-base\",\"digest\":\"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53\","
    "\"also\":[],\"layers\":2,\"modules\":{\"q_proj\":[64,64],\"v_proj\":[64,64]}},\"precision\":\"exact\","
    "\"kernels\":\"fake\",\"max_context\":8192,\"vocab\":49152,\"pid\":%d,\"running\":%d,\"waiting\":0}";

/* --- output --- */

static void conn_close(struct conn *c)
{
    if (c->streaming) {
        streams[c->place] = streams[--nstreams];
        streams[c->place]->place = c->place;
    }
    conns[c->fd] = NULL;
    close(c->fd);
    free(c->in);
    free(c->out);
    free(c);
}

static void arm(struct conn *c, bool out)
{
    struct epoll_event ev = {.events = EPOLLIN | (out ? EPOLLOUT : 0u), .data.fd = c->fd};
    if (c->armed == out) return;
    c->armed = out;
    epoll_ctl(loop_fd, EPOLL_CTL_MOD, c->fd, &ev);
}

/* 0, or -1: the other side is gone. */
static int flush(struct conn *c)
{
    while (c->sent < c->nout) {
        ssize_t n = send(c->fd, c->out + c->sent, c->nout - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return -1;
        if (n < 0) break;
        c->sent += (size_t)n;
    }
    if (c->sent == c->nout) c->sent = c->nout = 0;
    arm(c, c->nout > 0);
    return 0;
}

static int put(struct conn *c, const char *bytes, size_t n)
{
    if (n > OUT_MAX - c->nout) return -1;
    memcpy(c->out + c->nout, bytes, n);
    c->nout += n;
    return 0;
}

static int reply(struct conn *c, int status, const char *json)
{
    char head[256];
    int n =
        snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                 status, status == 200 ? "OK" : "Not Found", strlen(json));
    return put(c, head, (size_t)n) || put(c, json, strlen(json)) || flush(c) ? -1 : 0;
}

/* --- answers --- */

static int whole_answer(struct conn *c, int tokens)
{
    char json[2048], text[1024];
    int len = tokens * 4 < (int)sizeof text ? tokens * 4 : (int)sizeof text - 1;
    memset(text, 'w', (size_t)len);
    text[len] = 0;
    snprintf(
        json, sizeof json,
        "{\"id\":\"chatcmpl-fake\",\"object\":\"%s\",\"created\":1,\"model\":\"fake-base\",\"choices\":[{\"index\":0,"
        "%s\"%s\"%s,\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,"
        "\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":%d}}}",
        c->chat ? "chat.completion" : "text_completion",
        c->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":", text, c->chat ? "}" : "",
        PROMPT_TOKENS, tokens, PROMPT_TOKENS + tokens, CACHED_TOKENS);
    return reply(c, 200, json);
}

static int put_chunk(struct conn *c, const char *bytes, int n)
{
    char size[16];
    int k = snprintf(size, sizeof size, "%x\r\n", n);
    return put(c, size, (size_t)k) || put(c, bytes, (size_t)n) || put(c, "\r\n", 2) ? -1 : 0;
}

static int put_token(struct conn *c)
{
    char event[512 + PAD_MAX];
    bool last = c->token + 1 == c->tokens;
    int n = 0;
    c->token++;
    if (c->counted) n = snprintf(event, sizeof event, ": weft %d %d %d\n\n", PROMPT_TOKENS, CACHED_TOKENS, c->token);
    n += snprintf(event + n, sizeof event - (size_t)n,
                  "data: {\"id\":\"chatcmpl-fake\",\"object\":\"%s\",\"created\":1,\"model\":\"fake-base\","
                  "\"choices\":[{\"index\":0,%s\"%lld/%d %.*s\"%s,\"finish_reason\":%s}]}\n\n",
                  c->chat ? "chat.completion.chunk" : "text_completion",
                  c->chat ? "\"delta\":{\"content\":" : "\"text\":", (long long)clock_mono_us(), c->token - 1, c->pad, padding,
                  c->chat ? "}" : "", last ? "\"length\"" : "null");
    return put_chunk(c, event, n);
}

static int end_stream(struct conn *c)
{
    c->streaming = false;
    streams[c->place] = streams[--nstreams];
    streams[c->place]->place = c->place;
    return put_chunk(c, "data: [DONE]\n\n", 14) || put(c, "0\r\n\r\n", 5) || flush(c) ? -1 : 0;
}

static int end_whole(struct conn *c)
{
    c->streaming = c->whole = false;
    streams[c->place] = streams[--nstreams];
    streams[c->place]->place = c->place;
    return whole_answer(c, c->tokens);
}

static void join_streams(struct conn *c, int64_t due_us)
{
    c->streaming = true;
    c->token = 0;
    c->due_us = due_us;
    c->place = nstreams;
    streams[nstreams++] = c;
}

static int begin_stream(struct conn *c)
{
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    join_streams(c, clock_mono_us());
    return put(c, head, sizeof head - 1) || flush(c) ? -1 : 0;
}

/* The next token of a stream whose turn it is. */
static int step(struct conn *c)
{
    if (c->whole) return end_whole(c);
    if (put_token(c) || flush(c)) return -1;
    c->due_us = c->step_us ? ((c->due_us - c->phase_us) / c->step_us + 1) * c->step_us + c->phase_us : 0;
    return c->token == c->tokens ? end_stream(c) : 0;
}

/* --- requests --- */

static int64_t word(const char *body, const char *name, int64_t absent)
{
    const char *p = strstr(body, name);
    return p ? strtoll(p + strlen(name), NULL, 10) : absent;
}

static int generate(struct conn *c, const char *head, const char *path, const char *body)
{
    int tokens = (int)word(body, "tokens=", TOKENS_DEFAULT);
    c->chat = strstr(path, "chat") != NULL;
    c->counted = strcasestr(head, "\r\nx-weft-request-id:") != NULL;
    c->tokens = tokens < 1 ? 1 : tokens;
    c->step_us = word(body, "step_us=", 0);
    int64_t pad = word(body, "pad=", 0);
    c->pad = pad < 0 ? 0 : pad < PAD_MAX ? (int)pad : PAD_MAX;
    c->phase_us = word(body, "apart=", 0) && c->step_us ? (int64_t)c->fd * 102947 % c->step_us : 0;
    int64_t whole_us = word(body, "whole_us=", 0);
    if (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true")) return begin_stream(c);
    if (!whole_us) return whole_answer(c, c->tokens);
    c->whole = true;
    join_streams(c, clock_mono_us() + whole_us);
    return 0;
}

static bool is_path(const char *path, const char *name)
{
    size_t n = strlen(name);
    return strncmp(path, name, n) == 0 && (path[n] == ' ' || path[n] == '/' || path[n] == '?');
}

/* The head and the body are texts of their own. */
static int answer(struct conn *c, const char *head, const char *body)
{
    char json[sizeof state + 64];
    const char *path = strchr(head, ' ');
    if (!path++) return -1;
    if (is_path(path, "/v1/chat/completions") || is_path(path, "/v1/completions")) return generate(c, head, path, body);
    if (is_path(path, "/weft/v1/state")) {
        snprintf(json, sizeof json, state, (int)getpid(), nstreams);
        return reply(c, 200, json);
    }
    if (is_path(path, "/weft/v1/selftest")) return reply(c, 200, "{\"digest\":\"\",\"modules\":{},\"max_error\":0}");
    if (is_path(path, "/v1/models"))
        return reply(c, 200, "{\"object\":\"list\",\"data\":[{\"id\":\"fake-base\",\"object\":\"model\"}]}");
    if (is_path(path, "/health") || is_path(path, "/ready") || is_path(path, "/v1/load_lora_adapter") ||
        is_path(path, "/v1/unload_lora_adapter"))
        return reply(c, 200, "{\"status\":\"ok\"}");
    return reply(c, 404,
                 "{\"error\":{\"message\":\"no such route\",\"type\":\"invalid_request_error\",\"param\":null,"
                 "\"code\":\"not_found\"}}");
}

/* 1: a request was taken; 0: it is not whole; -1: the end of the connection. */
static int take_request(struct conn *c)
{
    char *end = memmem(c->in, c->nin, "\r\n\r\n", 4);
    if (!end) return c->nin == IN_MAX ? -1 : 0;
    char *body = end + 4;
    *end = 0;
    const char *declared = strcasestr(c->in, "\r\ncontent-length:");
    size_t length = declared ? (size_t)strtoull(declared + 17, NULL, 10) : 0, all = (size_t)(body - c->in) + length;
    *end = '\r';
    if (all > IN_MAX) return -1;
    if (c->nin < all) return 0;
    char after = body[length];
    *end = body[length] = 0;
    int rc = answer(c, c->in, body);
    body[length] = after;
    c->nin -= all;
    memmove(c->in, c->in + all, c->nin);
    return rc ? -1 : 1;
}

static int on_readable(struct conn *c)
{
    ssize_t n = recv(c->fd, c->in + c->nin, IN_MAX - c->nin, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (n <= 0) return -1;
    c->nin += (size_t)n;
    c->in[c->nin] = 0;
    int rc = 1;
    while (rc > 0 && !c->streaming) rc = take_request(c);
    return rc < 0 ? -1 : 0;
}

/* --- the loop --- */

static void accept_all(int listener)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct conn *c = fd < CONNS_MAX ? calloc(1, sizeof *c) : NULL;
        if (!c || !(c->in = malloc(IN_MAX + 1)) || !(c->out = malloc(OUT_MAX))) abort();
        struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)); /* a Unix socket says no, which is fine */
        c->fd = fd;
        conns[fd] = c;
        epoll_ctl(loop_fd, EPOLL_CTL_ADD, fd, &ev);
    }
}

static void on_event(const struct epoll_event *ev, const int listener[2])
{
    int fd = ev->data.fd;
    if (fd == listener[0] || fd == listener[1]) {
        accept_all(fd);
        return;
    }
    struct conn *c = conns[fd];
    if (!c) return;
    bool gone = (ev->events & EPOLLOUT) && flush(c);
    if (!gone && (ev->events & (EPOLLIN | EPOLLHUP | EPOLLERR))) gone = on_readable(c);
    if (gone) conn_close(c);
}

/* One token of each stream that is due; the time until the next one is, -1: never. */
static int64_t step_all(void)
{
    int64_t now = clock_mono_us(), nearest = INT64_MAX;
    for (int i = nstreams - 1; i >= 0; i--) { /* one that ends gives its place to the last, which was seen */
        struct conn *c = streams[i];
        if (c->nout) continue; /* its reader lags: its turn comes when that is sent */
        if (c->due_us <= now && step(c))
            conn_close(c);
        else if (c->streaming && c->due_us < nearest)
            nearest = c->due_us;
    }
    if (nearest == INT64_MAX) return -1;
    return nearest > now ? nearest - now : 0;
}

static void run(const int listener[2])
{
    struct epoll_event ev[EVENTS];
    for (;;) {
        int64_t us = step_all();
        struct timespec wait = {us / 1000000, us % 1000000 * 1000};
        int n = epoll_pwait2(loop_fd, ev, EVENTS, us < 0 ? NULL : &wait, NULL);
        for (int i = 0; i < n; i++) on_event(&ev[i], listener);
    }
}

static int listen_on(const struct sockaddr *a, socklen_t n)
{
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct epoll_event ev = {.events = EPOLLIN, .data.fd = fd};
    if (a->sa_family == AF_INET) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (fd < 0 || bind(fd, a, n) || listen(fd, 4096) || epoll_ctl(loop_fd, EPOLL_CTL_ADD, fd, &ev)) {
        perror("weft-fake-engine: cannot listen");
        exit(2);
    }
    return fd;
}

static int listen_tcp(const char *where)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    char host[64];
    const char *colon = strchr(where, ':');
    snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - where) : 0, where);
    if (!colon || inet_pton(AF_INET, host, &a.sin_addr) != 1 || ntohl(a.sin_addr.s_addr) >> 24 != 127) {
        fprintf(stderr, "weft-fake-engine: '%s' is not 127.x.x.x:PORT\n", where);
        exit(2);
    }
    a.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    return listen_on((struct sockaddr *)&a, sizeof a);
}

static int listen_unix(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    unlink(path);
    return listen_on((struct sockaddr *)&a, sizeof a);
}

static void pin(const char *cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(strtoul(cpu, NULL, 10), &set);
    if (sched_setaffinity(0, sizeof set, &set)) perror("weft-fake-engine: cannot be pinned");
}

int main(int argc, char **argv)
{
    const char *socket_path = NULL, *tcp = getenv("FAKE_ENGINE_LISTEN"), *cpu = getenv("FAKE_ENGINE_CPU");
    int listener[2] = {-1, -1};
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--socket") == 0) socket_path = argv[i + 1];
        if (strcmp(argv[i], "--listen") == 0) tcp = argv[i + 1];
    }
    if (!socket_path && !tcp) {
        fputs("usage: weft-fake-engine serve [--socket PATH] [--listen 127.0.0.1:PORT]\n", stderr);
        return 2;
    }
    memset(padding, 'x', PAD_MAX);
    signal(SIGPIPE, SIG_IGN);
    if (cpu) pin(cpu);
    loop_fd = epoll_create1(EPOLL_CLOEXEC);
    if (socket_path) listener[0] = listen_unix(socket_path);
    if (tcp) listener[1] = listen_tcp(tcp);
    run(listener);
}
