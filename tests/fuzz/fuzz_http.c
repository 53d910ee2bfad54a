/* Raw bytes through the whole HTTP server: libmicrohttpd with our callbacks, guard, routes, bodies and streams, on this thread over a socket pair. Every request that a
 * handler got must be one that a strict second reading of the same bytes (RFC 9112, lines ended by CR LF) finds there, in that order, with that method, target and
 * body; after a refusal for ambiguity nothing more is handled; who answers later, as another thread does, is told once that the client has gone, that there is room,
 * that all is handed over and that the stream is over, and what is said to be handed over has come; nothing is left behind. Input: a byte for how (6 bits: how the bytes are cut;
 * 64: there are too many connections; 128: the server stops at the end), then the bytes; what a later answer does is said by the query's "a". */
#include "base/http_internal.h"
#include "tests/fuzz/fuzz.h"
#include <errno.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define BODY_MAX 256
#define HANDLED_MAX 64
#define TURNS 64 /* of the server, once all was sent */

struct seen {
    char method[16];
    char *uri, *body;
    size_t body_len;
};

#define STEPS_MAX 32     /* of a later answer */
#define STREAM_BUFFER 4096
#define LONG 3000        /* bytes of a long write */

/* An answer that is made from outside of the server's calls, by the letters of `steps` (answer_step()). */
struct later {
    struct http_request *r;
    struct http_stream *s;
    char steps[STEPS_MAX + 2];
    int at;
    uint64_t mark, told, sent; /* written; as http_stream_handed() said last; bytes written and taken */
    bool answered, gone, freed, head_only;
    bool waits_room, waits_drained, waits_close, closed, clean, cut;
};

static struct seen handled[HANDLED_MAX];
static struct later later[HANDLED_MAX];
static int nhandled;
static bool refused; /* one was answered as ambiguous: the connection must end */
static uint64_t received; /* bytes, by the client */

/* --- the server's side --- */

static int take_piece(struct http_request *r, const char *bytes, size_t n)
{
    size_t *sum = r->user;
    (void)bytes;
    if (!sum) sum = r->user = arena_alloc(r->arena, sizeof *sum);
    *sum += n;
    return 0;
}

static void on_gone(struct http_request *r)
{
    struct later *l = r->layer;
    FUZZ_NEED(!l->gone && !l->answered && !l->freed && http_is_gone(r));
    l->gone = true;
}

static void on_free(struct http_request *r)
{
    struct later *l = r->layer;
    FUZZ_NEED(!l->freed && l->answered);
    l->freed = true;
}

static void on_room(void *u)
{
    struct later *l = u;
    FUZZ_NEED(l->waits_room && !l->freed);
    l->waits_room = false;
}

static void on_drained(void *u)
{
    struct later *l = u;
    FUZZ_NEED(l->waits_drained && !l->freed);
    l->waits_drained = false;
}

static void on_close(void *u, bool clean, uint64_t mark)
{
    struct later *l = u;
    FUZZ_NEED(l->waits_close && !l->freed && mark <= l->mark && mark >= l->told);
    FUZZ_NEED(!clean || l->head_only || (l->answered && !l->cut && mark == l->mark)); /* HEAD's stream is over with its head */
    l->waits_close = false;
    l->closed = true;
    l->clean = clean;
}

static void count_one(void *u, const char *name, const char *value)
{
    FUZZ_NEED(name && value);
    ++*(int *)u;
}

static void ask(struct http_request *r)
{
    char joined[64];
    int n = 0;
    const char *a = http_query(r, "a"), *bearer = http_bearer(r);
    http_query_each(r, count_one, &n);
    FUZZ_NEED(n <= HTTP_QUERY_ARGS && (!a || n > 0) && (!bearer || (*bearer && !strchr(bearer, ' '))));
    size_t len = http_header_join(r, "accept", joined, sizeof joined);
    FUZZ_NEED(len < sizeof joined && (len == 0 || (strlen(joined) == len && http_header(r, "accept"))));
    if (http_header(r, "accept") && *http_header(r, "accept") && strlen(http_header(r, "accept")) == len) FUZZ_NEED(!strcmp(joined, http_header(r, "accept")));
    FUZZ_NEED(http_set_header(r, "Content-Length", "1") == -1 && http_set_header(r, "x y", "1") == -1 && http_set_header(r, "x-test", "a\nb") == -1);
    FUZZ_NEED(http_set_header(r, "x-test", "1") == 0 && http_set_header(r, "X-Test", "2") == 0);
}

static void begin_later(struct http_request *r, struct later *l, bool stream)
{
    const char *steps = http_query(r, "a");
    l->r = r;
    l->head_only = !strcmp(r->method, "HEAD");
    snprintf(l->steps, STEPS_MAX + 1, "%s", steps ? steps : stream ? "swwe" : ".r");
    r->layer = l;
    http_on_free(r, on_free);
    http_on_gone(r, on_gone);
}

static void finish(struct later *l, char how)
{
    l->answered = true; /* before: the answer may end all in this call */
    if (!l->s) {
        struct err e = {0};
        err_set(&e, ERR_UNAVAILABLE, "later");
        if (how == 'x') http_reply_error(l->r, &e);
        else http_reply(l->r, 200, NULL, "fine", 4);
    } else if (how == 'x') {
        l->cut = true;
        http_stream_abort(l->s);
    } else
        http_stream_end(l->s);
    l->s = NULL;
}

static void write_some(struct later *l, size_t n)
{
    char bytes[LONG];
    memset(bytes, 'x', sizeof bytes);
    size_t room = http_stream_room(l->s);
    FUZZ_NEED(room <= STREAM_BUFFER);
    if (http_stream_write(l->s, bytes, n, l->mark + 1) == 0) {
        l->mark++;
        l->sent += n;
        return;
    }
    l->steps[l->at] = 'x'; /* the next step */
    l->steps[l->at + 1] = 0;
}

static void use_stream(struct later *l, char step)
{
    if (step == 'w') write_some(l, 3);
    if (step == 'W') write_some(l, LONG);
    if (step == 'r' && !l->waits_room) {
        l->waits_room = true;
        http_stream_on_room(l->s, LONG, on_room, l);
    }
    if (step == 'd' && !l->waits_drained) {
        l->waits_drained = true;
        http_stream_on_drained(l->s, on_drained, l);
    }
    if (step == 'c' && !l->waits_close && !l->closed) {
        l->waits_close = true;
        http_stream_on_close(l->s, on_close, l);
    }
    if (!l->s) return;
    uint64_t now = http_stream_handed(l->s);
    FUZZ_NEED(now >= l->told && now <= l->mark);
    l->told = now;
}

/* s: the answer is a stream; w, W: a write; r, d: wait for room, until all is handed over; c: be told of the end; x: an error, or the stream is cut; anything else: the
 * server gets a turn. Behind the last letter it ends well. False: no more for now. */
static bool answer_step(struct later *l)
{
    if (l->answered || l->waits_room || l->waits_drained) return false;
    char step = l->steps[l->at];
    l->at += step != 0;
    if (!step || step == 'x') finish(l, step);
    else if (step == 's' && !l->s) l->s = http_stream_open(l->r, 200, "text/plain");
    else if (l->s && strchr("wWrdc", step)) use_stream(l, step);
    else return false;
    return true;
}

static void answer_later(void)
{
    for (int i = 0; i < nhandled; i++)
        while (later[i].r && answer_step(&later[i])) {}
}

/* Refused before its body: waits until that was read, or closes. */
static int gate(struct http_request *r)
{
    struct err e = {0};
    if (!http_header(r, "x-refuse")) return 0;
    err_set(&e, ERR_RATE_LIMIT, "refused");
    http_reply_error(r, &e);
    return -1;
}

static void handle(struct http_request *r)
{
    struct later *l = NULL;
    struct http_exchange *x = (struct http_exchange *)r;
    FUZZ_NEED(!refused && r->path[0] == '/' && http_is_token(r->method, strlen(r->method)) && http_header(r, "host"));
    FUZZ_NEED(r->body_len <= BODY_MAX && (r->content_length < 0 || !r->body || (size_t)r->content_length == r->body_len));
    ask(r);
    if (nhandled < HANDLED_MAX) {
        l = &later[nhandled];
        struct seen *s = &handled[nhandled++];
        snprintf(s->method, sizeof s->method, "%.15s", r->method);
        s->uri = fuzz_text((const uint8_t *)x->raw_uri, strlen(x->raw_uri));
        s->body = fuzz_text((const uint8_t *)r->body, r->body_len);
        s->body_len = r->route->body == HTTP_BODY_BUFFER ? r->body_len : r->route->body == HTTP_BODY_SINK && r->user ? *(size_t *)r->user : 0;
    }
    bool stream = strcmp(r->path, "/stream") == 0;
    if (l && (stream || strcmp(r->path, "/later") == 0)) {
        begin_later(r, l, stream);
        while (stream && answer_step(l)) {}
        return;
    }
    http_reply(r, 200, "text/plain", "fine", 4);
}

static const struct http_route routes[] = {
    {"POST", "/echo", HTTP_BODY_BUFFER, BODY_MAX, NULL, NULL, handle, NULL},
    {"POST", "/sink", HTTP_BODY_SINK, BODY_MAX, NULL, take_piece, handle, NULL},
    {"GET", "/item/{name}", HTTP_BODY_NONE, 0, NULL, NULL, handle, NULL},
    {"GET", "/a/{rest...}", HTTP_BODY_NONE, 0, NULL, NULL, handle, NULL},
    {"GET", "/stream", HTTP_BODY_NONE, 0, NULL, NULL, handle, NULL},
    {"GET", "/later", HTTP_BODY_NONE, 0, NULL, NULL, handle, NULL},
    {"POST", "/later", HTTP_BODY_BUFFER, BODY_MAX, NULL, NULL, handle, NULL},
    {"POST", "/item/{name}", HTTP_BODY_BUFFER, BODY_MAX, gate, NULL, handle, NULL},
    {"GET", "/", HTTP_BODY_NONE, 0, NULL, NULL, handle, NULL},
    {NULL, NULL, HTTP_BODY_NONE, 0, NULL, NULL, NULL, NULL},
};

static void done(const struct http_request *r, int status, uint64_t bytes, int64_t duration_us)
{
    (void)bytes, (void)duration_us;
    FUZZ_NEED(status >= 100 && status < 600 && memchr(r->id, 0, sizeof r->id));
    if (status == 400) refused = true;
}

static size_t no_decoding(void *cls, struct MHD_Connection *c, char *s)
{
    (void)cls, (void)c;
    return strlen(s);
}

static void no_words(void *cls, const char *format, va_list v)
{
    (void)cls, (void)format, (void)v;
}

/* As base/http_server.c starts its workers, but without threads. */
static struct http_server *server(void)
{
    static struct http_server *s;
    if (s) return s;
    s = calloc(1, sizeof *s);
    FUZZ_NEED(s && (s->daemon = calloc(1, sizeof *s->daemon)));
    s->opt = (struct http_options){.routes = routes, .workers = 1, .max_connections = 100, .idle_timeout_s = 60, .stream_buffer = STREAM_BUFFER, .done = done};
    s->listen_fd = -1;
    s->watch_epoll = epoll_create1(EPOLL_CLOEXEC);
    atomic_init(&s->refs, 1);
    pthread_mutex_init(&s->lock, NULL);
    s->daemon[0] = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, http_on_access, s,
                                    MHD_OPTION_EXTERNAL_LOGGER, no_words, NULL, MHD_OPTION_CONNECTION_LIMIT, 100u, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32 * 1024,
                                    MHD_OPTION_CONNECTION_TIMEOUT, 60u, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_URI_LOG_CALLBACK, http_on_uri, s,
                                    MHD_OPTION_UNESCAPE_CALLBACK, no_decoding, NULL, MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, s, MHD_OPTION_NOTIFY_CONNECTION,
                                    http_on_connection, s, MHD_OPTION_END);
    FUZZ_NEED(s->daemon[0] && s->watch_epoll >= 0);
    return s;
}

static void bury(struct http_server *s)
{
    for (struct http_conn *c; (c = s->dead);) {
        s->dead = c->next;
        pthread_mutex_destroy(&c->lock);
        free(c);
    }
}

/* --- one connection --- */

/* False: the server has closed. */
static bool drain(int fd)
{
    char bytes[4096];
    ssize_t n;
    while ((n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0) received += (uint64_t)n;
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* What base/http_watch.c does with its events. */
static void watch(struct http_server *s)
{
    struct epoll_event event[4];
    int n = epoll_wait(s->watch_epoll, event, 4, 0);
    for (int i = 0; i < n; i++) {
        struct http_conn *c = event[i].data.ptr;
        struct http_exchange *x = c->x;
        atomic_store(&c->hup, true);
        if (!x) continue;
        http_ref(x);
        http_lost(x, false);
        http_unref(x);
    }
}

/* As http_server_stop() does with who is left. */
static void abort_all(struct http_server *s)
{
    atomic_store(&s->aborting, true);
    for (struct http_conn *c = s->conns; c; c = c->next) {
        struct http_exchange *x = c->x;
        if (!x) {
            shutdown(c->fd, SHUT_RDWR);
            continue;
        }
        http_ref(x);
        http_lost(x, true);
        http_unref(x);
    }
}

static void turn(struct http_server *s)
{
    MHD_run(s->daemon[0]);
    watch(s);
    answer_later();
}

/* The bytes, cut. False: the server has closed. */
static bool send_all(struct http_server *s, int fd, const uint8_t *data, size_t n, size_t step)
{
    bool open = true;
    for (size_t at = 0; at < n && open;) {
        size_t k = step && n - at > step ? step : n - at;
        ssize_t sent = send(fd, data + at, k, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) at += (size_t)sent;
        int failed = errno;
        turn(s);
        open = drain(fd) && (sent > 0 || failed == EAGAIN);
    }
    return open;
}

static void exchange(struct http_server *s, const uint8_t *data, size_t n, unsigned how)
{
    struct sockaddr_un peer = {.sun_family = AF_UNIX};
    int fd[2];
    FUZZ_NEED(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    s->opt.max_connections = how & 64 ? 0 : 100;
    atomic_store(&s->aborting, false);
    FUZZ_NEED(MHD_add_connection(s->daemon[0], fd[0], (struct sockaddr *)&peer, sizeof peer) == MHD_YES);
    bool open = send_all(s, fd[1], data, n, how % 64);
    for (int i = 0; i < 4 && open; i++) {
        turn(s);
        open = drain(fd[1]);
    }
    if (how & 128) abort_all(s);
    else shutdown(fd[1], SHUT_WR);
    for (int i = 0; i < 4 && open; i++) {
        turn(s);
        open = drain(fd[1]);
    }
    close(fd[1]);
    for (int i = 0; i < TURNS && (s->conns || atomic_load(&s->in_flight)); i++) turn(s);
    FUZZ_NEED(!s->conns && atomic_load(&s->in_flight) == 0 && atomic_load(&s->nconns) == 0);
    bury(s);
}

/* Each later answer was made, told of its end and let go of; what was handed over has come. */
static void check_later(void)
{
    uint64_t least = 0;
    for (int i = 0; i < nhandled; i++) {
        const struct later *l = &later[i];
        if (!l->r) continue;
        FUZZ_NEED(l->answered && l->freed && !l->waits_room && !l->waits_drained && !l->waits_close);
        if (l->clean && !l->head_only) least += l->sent;
    }
    FUZZ_NEED(received >= least);
}

/* --- the second reading --- */

struct strict {
    const uint8_t *p, *end;
    bool last; /* a chunked body: libmicrohttpd hides how it is framed, so the connection has to end behind it */
    bool ended; /* the line behind this one was the empty one */
    struct seen now; /* borrowed places */
    const uint8_t *uri;
    size_t uri_len;
    uint8_t body[4096];
};

/* A line of a chunked body's framing, ended in whatever way; an extension of a chunk goes on to the LF. */
static const uint8_t *loose_line(struct strict *r, size_t *n)
{
    const uint8_t *at = r->p;
    bool extension = false;
    for (size_t left = (size_t)(r->end - at), i = 0; i < left; i++) {
        extension |= at[i] == ';';
        if (at[i] != '\n' && (at[i] != '\r' || (extension && !(i + 1 < left && at[i + 1] == '\n')))) continue;
        bool both = at[i] == '\r' && i + 1 < left && at[i + 1] == '\n';
        *n = i;
        r->p = at + i + 1 + both;
        return at;
    }
    return NULL;
}

static bool becomes_nul(const uint8_t *p)
{
    return *p == 0 || *p == '\r' || *p == '\n' || (*p == ':' && (p[-1] == '\r' || p[-1] == '\n'));
}

/* The end of the last header, where the four bytes behind it are NULs once libmicrohttpd has read them: LF NUL CR LF (a line that begins with NUL is the empty one), or
 * CR LF, a colon and LF (so is a line that begins with a colon, which it overwrites). */
static const uint8_t *hidden_end(const uint8_t *at, const uint8_t *end)
{
    for (const uint8_t *p = at + 1; p < end && end - p >= 4; p++) {
        bool stop = *p == '\r' || *p == '\n';
        if ((stop || *p == 0) && becomes_nul(p + 1) && becomes_nul(p + 2) && (p[3] == '\n' || p[3] == '\r')) return p;
        if (stop) return NULL;
    }
    return NULL;
}

/* A line ended by CR LF, without it; NULL: there is none. A NUL and a LF count as well, and what hidden_end() finds: libmicrohttpd overwrites the ends of lines by NULs before
 * we see them, so that these can't be told from CR LF (docs/RELIABILITY.md, section 1). */
static const uint8_t *line(struct strict *r, size_t *n)
{
    const uint8_t *at = r->p, *nl = at < r->end ? memchr(at, '\n', (size_t)(r->end - at)) : NULL;
    bool empty = nl && (nl == at || (nl == at + 1 && (*at == '\r' || *at == 0)));
    const uint8_t *hidden = r->ended || empty || at == r->end ? NULL : hidden_end(at, r->end);
    *n = 0;
    if (r->ended) {
        r->ended = false;
        return at;
    }
    if (hidden) {
        *n = (size_t)(hidden - at);
        r->p = hidden + 4;
        r->ended = true;
        return at;
    }
    if (!nl || nl == at || (nl[-1] != '\r' && nl[-1] != 0)) return NULL;
    *n = (size_t)(nl - at) - 1;
    r->p = nl + 1;
    return at;
}

static bool first_line(struct strict *r)
{
    size_t n = 0;
    const uint8_t *s;
    /* Empty lines before a request (RFC 9112, 2.2) carry nothing; to libmicrohttpd a bare LF ends them too, and a line that begins with NUL is one. */
    while (r->p < r->end && (*r->p == '\r' || *r->p == '\n' || *r->p == 0)) {
        const uint8_t *lf = *r->p ? r->p : memchr(r->p, '\n', (size_t)(r->end - r->p));
        r->p = lf ? lf + 1 : r->end;
    }
    s = line(r, &n);
    const uint8_t *sp = s ? memchr(s, ' ', n) : NULL, *sp2 = sp ? memchr(sp + 1, ' ', (size_t)(s + n - sp - 1)) : NULL;
    if (!sp2 || sp == s || !http_is_token((const char *)s, (size_t)(sp - s))) return false;
    if (s + n - sp2 != 9 || (memcmp(sp2 + 1, "HTTP/1.1", 8) && memcmp(sp2 + 1, "HTTP/1.0", 8))) return false;
    snprintf(r->now.method, sizeof r->now.method, "%.*s", (int)(sp - s < 15 ? sp - s : 15), (const char *)s);
    r->uri = sp + 1;
    r->uri_len = (size_t)(sp2 - sp - 1);
    return r->uri_len > 0;
}

static bool is_header(const uint8_t *s, size_t n, const char *name, const uint8_t **value, size_t *len)
{
    size_t k = strlen(name);
    if (n <= k || strncasecmp((const char *)s, name, k) || s[k] != ':') return false;
    for (k++; k < n && (s[k] == ' ' || s[k] == '\t'); k++) {}
    while (n > k && (s[n - 1] == ' ' || s[n - 1] == '\t')) n--;
    *value = s + k;
    *len = n - k;
    return true;
}

/* The chunks; trailers are not looked at. */
static bool chunks(struct strict *r, size_t *len)
{
    r->last = true;
    for (*len = 0;;) {
        size_t n = 0, size = 0, i = 0;
        const uint8_t *s = loose_line(r, &n);
        for (; s && i < n && i < 8 && strchr("0123456789abcdefABCDEF", s[i]) && s[i]; i++) size = size * 16 + (size_t)(s[i] <= '9' ? s[i] - '0' : (s[i] | 32) - 'a' + 10);
        if (!s || i == 0) return false;
        if (size == 0) break;
        if ((size_t)(r->end - r->p) < size + 1 || *len + size > sizeof r->body) return false;
        memcpy(r->body + *len, r->p, size);
        *len += size;
        r->p += size;
        if (!loose_line(r, &n) || n) return false;
    }
    return true;
}

/* The next request, with its body; false: there is none that is to the letter. */
static bool next_request(struct strict *r)
{
    int hosts = 0, lengths = 0, encodings = 0;
    size_t n = 0, length = 0, k;
    const uint8_t *s, *v;
    r->ended = false;
    if (!first_line(r)) return false;
    while ((s = line(r, &n)) && n) {
        const uint8_t *colon = memchr(s, ':', n);
        if (!colon || !http_is_token((const char *)s, (size_t)(colon - s))) return false;
        if (is_header(s, n, "host", &v, &k)) hosts++;
        if (is_header(s, n, "content-length", &v, &k)) {
            if (++lengths > 1 || k == 0 || k > 18) return false;
            for (size_t i = 0; i < k; i++) {
                if (v[i] < '0' || v[i] > '9') return false;
                length = length * 10 + (size_t)(v[i] - '0');
            }
        }
        if (is_header(s, n, "transfer-encoding", &v, &k) && (++encodings > 1 || k != 7 || strncasecmp((const char *)v, "chunked", 7))) return false;
    }
    if (!s || hosts != 1 || (lengths && encodings)) return false;
    r->now.body = (char *)r->body;
    r->now.body_len = 0;
    if (encodings) return chunks(r, &r->now.body_len);
    if ((size_t)(r->end - r->p) < length || length > sizeof r->body) return false;
    memcpy(r->body, r->p, length);
    r->p += length;
    r->now.body_len = length;
    return true;
}

static bool is_same(const struct seen *s, const struct strict *r)
{
    return !strcmp(s->method, r->now.method) && strlen(s->uri) == r->uri_len && !memcmp(s->uri, r->uri, r->uri_len) &&
           (strcmp(s->method, "POST") || s->body_len == r->now.body_len) && (!s->body[0] || !memcmp(s->body, r->body, s->body_len));
}

static void compare(const uint8_t *data, size_t n)
{
    static struct strict r;
    r = (struct strict){.p = data, .end = data + n};
    for (int i = 0; i < nhandled; i++) {
        bool found = false;
        while (!found && !r.last && next_request(&r)) found = is_same(&handled[i], &r);
        if (!found) fprintf(stderr, "handled but not there: %s %s with %zu bytes\n", handled[i].method, handled[i].uri, handled[i].body_len);
        FUZZ_NEED(found);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned how = fuzz_byte(&data, &n);
    refused = false;
    nhandled = 0;
    received = 0;
    memset(later, 0, sizeof later);
    exchange(server(), data, n, how);
    compare(data, n);
    check_later();
    for (int i = 0; i < nhandled; i++) {
        free(handled[i].uri);
        free(handled[i].body);
    }
    return 0;
}
