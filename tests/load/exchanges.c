/* weft-exchanges: what a gateway adds to requests, and how many of them it carries.
 *
 *   pairs   --pairs N: requests in turn, one to --direct and one to --via with the same body, the order changing from
 *           pair to pair; the difference of each pair is what --via added to it
 *   closed  --connections N: on --via alone (or --direct alone), N requests are in flight; they begin one after the
 *           other over the time of --warm, so that they do not all end together
 *           --each N: so many requests on each connection, then no more
 *   paced   with --rate R, R requests a second over these connections, as a background
 *   open    with --open R, R requests a second come, whether or not earlier ones have ended, each on a connection that is
 *           free (`unsent` where none is); their latency counts from when they were due
 *   jitter  --jitter: reads the clock all the time and tells how long it was kept from doing so (gap_*_ms of gaps of
 *           GAP_US or more, and away: their share of the time): what the machine itself adds to everything
 *
 * A stream counts a token for each event that has text. weft-fake-engine writes the time at which it wrote a token and its
 * number into the token's text, so how long each was on its way is known (both read the machine's one monotonic clock), and
 * whether any was lost, doubled or reordered. --cut ends the time by shutting the sending side of all connections at once;
 * what was handed to them before that is still read and counted. --records FILE: a line "request-id tokens" for each stream.
 *
 * Prints one JSON line; times in ms, a quantile is the least value that so many percent do not exceed:
 *   direct, via      requests, failed, latency_*, first_* (to the first token), chunk_* (a token on its way), lost, doubled,
 *                    reordered; with --refusals 429 and 503 are no failures but refused, refused_*, and refused_mute of
 *                    them say no Retry-After
 *   added_*          latency of `via` less that of `direct`, of pairs;  added_first_*: the same to the first token
 *   requests_s, chunks_s, seconds;  with --pid P: cpu_s of that process meanwhile, cpu_share of one processor,
 *   cpu_us_request, cpu_us_chunk;  client_cpu: processor time of this program / seconds
 * What ends in the first --warm seconds (0.5), or after --seconds, is left out.
 *
 * One thread, one epoll loop; addresses are this machine's only. Bounds: CONNS_MAX connections, SAMPLES_MAX samples a
 * list, SECONDS_MAX seconds. Exit codes: 0, 1 when a request failed, 2 bad arguments. */
#include "base/clock.h"
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define CONNS_MAX 4096
#define SAMPLES_MAX (1 << 22)
#define SECONDS_MAX 600
#define HEAD_MAX 4096
#define LINE_MAX_BYTES 4096
#define READ_MAX (64 * 1024)
#define EVENTS 256
#define BODY_MAX (256 * 1024)
#define COMPLAINTS_MAX 3
#define GAP_US 20 /* two readings of the clock are below 1 us apart */

struct list {
    float *v; /* ms */
    int n, cap;
};

struct path {
    const char *name, *url, *key, *model;
    struct sockaddr_in address;
    char *request;
    size_t len;
    struct list latency, first, chunk, refusal;
    int64_t requests, failed, chunks, lost, doubled, reordered, refused, mute;
};

enum part { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };

struct conn {
    struct load *load;
    struct path *path;
    int fd;
    enum part part;
    bool busy, stream, closes, told_when, cut;
    int turns;      /* requests that were begun */
    int next, gaps; /* of the stream's numbers: the next one, those that are missing */
    char id[40];
    size_t sent;
    char text[HEAD_MAX + 1]; /* the head, or the line of a chunk's size */
    size_t ntext;
    int status;
    int64_t left; /* bytes of the body or of the chunk; -1: no end but the connection's */
    bool chunked;
    char line[LINE_MAX_BYTES + 1];
    size_t nline;
    int64_t t0, t_first, due;
    int tokens;
};

struct load {
    struct path path[2];
    struct path *one; /* closed and paced: the one that is asked */
    struct conn *conn;
    int connections, pairs, tokens, step_us, prompt_bytes, pid;
    double seconds, warm, rate, open;
    bool stream, jitter, apart, refusals, cut;
    int whole_us, each;
    const char *get, *records;
    FILE *record;
    int64_t due, unsent; /* open: of the next arrival */
    int last;            /* open: the connection that was taken */

    int epoll;
    int64_t t_start, t_warm, t_end;
    int pair, half;          /* pairs: the one under way */
    double took[2], ttft[2]; /* of its halves, ms */
    struct list added, added_first;
    double cpu_start, cpu_end;
    int running, unstarted; /* closed: connections that have not begun yet */
};

static int complaints;

static double ms(int64_t us)
{
    return (double)us / 1000;
}

static void list_add(struct list *s, double v)
{
    if (s->n == SAMPLES_MAX) return;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        s->v = realloc(s->v, (size_t)s->cap * sizeof *s->v);
        if (!s->v) abort();
    }
    s->v[s->n++] = (float)v;
}

static void fatal(const char *what)
{
    fprintf(stderr, "weft-exchanges: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* --- one exchange --- */

static void dial(struct conn *c)
{
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&c->path->address, sizeof c->path->address)) fatal(c->path->url);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (epoll_ctl(c->load->epoll, EPOLL_CTL_ADD, c->fd, &ev)) fatal("epoll");
}

/* A request fits a socket's buffer, so it is sent whole. */
static void start(struct conn *c)
{
    c->busy = true;
    c->part = HEAD;
    c->ntext = c->nline = 0;
    c->status = c->tokens = c->next = c->gaps = 0;
    c->t_first = 0;
    c->closes = c->told_when = false;
    c->id[0] = 0;
    c->turns++;
    c->load->running++;
    c->t0 = clock_mono_us();
    if (send(c->fd, c->path->request, c->path->len, MSG_NOSIGNAL) != (ssize_t)c->path->len) fatal(c->path->url);
}

/* What happened in the time that is looked at; beyond it, connections end one by one. */
static bool counts(const struct conn *c, int64_t now)
{
    return now >= c->load->t_warm && now < c->load->t_end;
}

static void finish(struct conn *c, bool broken);

/* Is it the number that comes next in its stream? */
static void take_number(struct conn *c, int number)
{
    struct path *p = c->path;
    if (number >= c->next) {
        c->gaps += number - c->next;
        p->lost += number - c->next;
        c->next = number + 1;
    } else if (c->gaps) {
        c->gaps--;
        p->lost--;
        p->reordered++;
    } else
        p->doubled++;
}

static void take_event(struct conn *c)
{
    static const char key[] = "\"content\":", other[] = "\"text\":";
    const char *p = strstr(c->line, key);
    size_t skip = sizeof key - 1;
    if (!p) p = strstr(c->line, other), skip = sizeof other - 1;
    if (!p) return;
    p += skip;
    p += strspn(p, " \"");
    if (*p < '0' || *p > '9') return; /* an opening event without text, or its null */
    char *end;
    int64_t now = clock_mono_us(), sent = strtoll(p, &end, 10);
    if (*end == '/') take_number(c, (int)strtol(end + 1, NULL, 10));
    if (!c->tokens++) c->t_first = now;
    if (!counts(c, now)) return;
    c->path->chunks++;
    list_add(&c->path->chunk, ms(now - sent));
}

static void take_lines(struct conn *c, const char *s, size_t n)
{
    while (c->stream && n > 0) {
        const char *end = memchr(s, '\n', n);
        size_t take = end ? (size_t)(end - s) : n, room = LINE_MAX_BYTES - c->nline;
        memcpy(c->line + c->nline, s, take < room ? take : room);
        c->nline += take < room ? take : room;
        if (!end) return;
        c->line[c->nline] = 0;
        if (strncmp(c->line, "data:", 5) == 0) take_event(c);
        c->nline = 0;
        s += take + 1;
        n -= take + 1;
    }
}

/* The whole head stands in c->text. */
static void take_head(struct conn *c)
{
    const char *length = strcasestr(c->text, "\r\ncontent-length:"), *id = strcasestr(c->text, "\r\nx-request-id: ");
    if (id) snprintf(c->id, sizeof c->id, "%.*s", (int)strcspn(id + 16, "\r"), id + 16);
    c->closes = strcasestr(c->text, "\r\nconnection: close") != NULL;
    c->told_when = strcasestr(c->text, "\r\nretry-after:") != NULL;
    c->status = (int)strtol(c->text + 9, NULL, 10);
    c->chunked = strcasestr(c->text, "\r\ntransfer-encoding: chunked") != NULL;
    c->left = length ? strtoll(length + 17, NULL, 10) : 0;
    c->part = c->chunked ? CHUNK_SIZE : BODY;
    c->ntext = 0;
}

/* Up to and with the line end (or the end of the head) into c->text; the bytes taken. *whole says whether it came. */
static size_t take_text(struct conn *c, const char *s, size_t n, const char *end, bool *whole)
{
    size_t len = strlen(end), i = 0;
    *whole = false;
    while (i < n && !*whole) {
        if (c->ntext == HEAD_MAX) fatal("a head too long");
        c->text[c->ntext++] = s[i++];
        *whole = c->ntext >= len && memcmp(c->text + c->ntext - len, end, len) == 0;
    }
    c->text[c->ntext] = 0;
    return i;
}

/* One part of the answer; the bytes taken. *over: that was its end. */
static size_t take_part(struct conn *c, const char *s, size_t n, bool *over)
{
    bool whole = false;
    size_t took = n;
    switch (c->part) {
    case HEAD:
        took = take_text(c, s, n, "\r\n\r\n", &whole);
        if (whole) take_head(c);
        *over = whole && c->part == BODY && c->left == 0;
        return took;
    case BODY:
    case CHUNK:
        if ((int64_t)took > c->left) took = (size_t)c->left;
        take_lines(c, s, took);
        c->left -= (int64_t)took;
        *over = c->left == 0 && c->part == BODY;
        if (c->left == 0) c->part = CHUNK_END;
        return took;
    case CHUNK_END:
    case TRAILER:
    case CHUNK_SIZE:
        took = take_text(c, s, n, "\r\n", &whole);
        if (!whole) return took;
        *over = c->part == TRAILER && c->ntext == 2;
        if (c->part == CHUNK_SIZE) c->left = strtoll(c->text, NULL, 16);
        if (c->part != TRAILER) c->part = c->part == CHUNK_END ? CHUNK_SIZE : c->left ? CHUNK : TRAILER;
        c->ntext = 0;
    }
    return took;
}

static void on_readable(struct conn *c)
{
    static char in[READ_MAX];
    ssize_t n = recv(c->fd, in, sizeof in, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        finish(c, true);
        return;
    }
    for (size_t at = 0; at < (size_t)n && c->busy;) {
        bool over = false;
        at += take_part(c, in + at, (size_t)n - at, &over);
        if (over) finish(c, false);
    }
}

/* --- what comes next --- */

static void next_of_pair(struct load *l)
{
    if (l->half == 2) {
        if (l->t_warm <= clock_mono_us()) {
            list_add(&l->added, l->took[1] - l->took[0]);
            if (l->stream) list_add(&l->added_first, l->ttft[1] - l->ttft[0]);
            l->pair++;
        }
        l->half = 0;
    }
    if (l->pair == l->pairs || clock_mono_us() >= l->t_end) return;
    static unsigned turn;
    if (l->half == 0) turn++;
    start(&l->conn[(unsigned)l->half++ ^ (turn & 1)]);
}

static void next_of_one(struct load *l, struct conn *c)
{
    int64_t now = clock_mono_us();
    if (now >= l->t_end || l->open > 0 || (l->each && c->turns == l->each)) return;
    if (l->rate > 0) {
        c->due += (int64_t)(1e6 * l->connections / l->rate);
        if (c->due > now) return; /* run() begins it */
    }
    start(c);
}

static void note(struct conn *c, int64_t now)
{
    struct path *p = c->path;
    p->requests++;
    list_add(&p->latency, ms(now - c->t0));
    if (c->stream && c->t_first) list_add(&p->first, ms(c->t_first - c->t0));
}

static void note_refusal(struct conn *c, int64_t now)
{
    c->path->refused++;
    c->path->mute += !c->told_when;
    if (counts(c, now)) list_add(&c->path->refusal, ms(now - c->t0));
}

static void finish(struct conn *c, bool broken)
{
    struct load *l = c->load;
    int64_t now = clock_mono_us();
    bool was_busy = c->busy;
    c->busy = false;
    l->running -= was_busy;
    bool refused = was_busy && !broken && l->refusals && (c->status == 429 || c->status == 503);
    bool failed = was_busy && !refused && !c->cut && (broken || c->status != 200 || (c->stream && c->tokens != l->tokens));
    if (was_busy && l->record && c->status == 200) fprintf(l->record, "%s %d\n", c->id, c->tokens);
    if (failed && c->stream && c->status == 200) c->path->lost += l->tokens - c->next;
    if (refused) note_refusal(c, now);
    if (failed && complaints++ < COMPLAINTS_MAX)
        fprintf(stderr, "weft-exchanges: %s: status %d, %d of %d tokens%s\n", c->path->url, c->status, c->tokens,
                l->stream ? l->tokens : 0, broken ? ", the connection ended" : "");
    if (failed) c->path->failed++;
    if (was_busy && !failed && !refused && !c->cut && counts(c, now)) note(c, now);
    if (broken || c->closes) {
        close(c->fd);
        c->fd = -1;
        if (!c->cut) dial(c);
    }
    if (l->one) {
        next_of_one(l, c);
        return;
    }
    int k = (int)(c->path - l->path);
    l->took[k] = ms(now - c->t0);
    l->ttft[k] = c->t_first ? ms(c->t_first - c->t0) : 0;
    next_of_pair(l);
}

/* An arrival, on the next connection that is free. */
static void arrive(struct load *l)
{
    for (int i = 0; i < l->connections; i++) {
        struct conn *c = &l->conn[l->last = (l->last + 1) % l->connections];
        if (c->busy) continue;
        start(c);
        c->t0 = l->due;
        return;
    }
    l->unsent++;
}

static int64_t begin_arrivals(struct load *l)
{
    int64_t now = clock_mono_us();
    for (; l->due <= now && l->due < l->t_end; l->due += (int64_t)(1e6 / l->open)) arrive(l);
    int64_t next = l->due < l->t_end ? l->due : l->t_end;
    return next > now ? next - now : 1000;
}

/* The other side sees an end now; what it had written is still read. */
static void cut_all(struct load *l)
{
    for (int i = 0; i < l->connections; i++) {
        struct conn *c = &l->conn[i];
        c->cut = true;
        if (c->fd >= 0) shutdown(c->fd, SHUT_WR);
    }
}

/* Begins what is due, all of a paced load, the first of each connection of a closed one; the time until the next. */
static int64_t begin_due(struct load *l)
{
    if (l->open > 0) return begin_arrivals(l);
    int64_t now = clock_mono_us(), nearest = l->t_end;
    bool any = l->one && (l->rate > 0 || l->unstarted) && now < l->t_end;
    for (int i = 0; any && i < l->connections; i++) {
        struct conn *c = &l->conn[i];
        if (c->busy) continue;
        if (c->due <= now) {
            l->unstarted -= l->rate == 0;
            start(c);
        } else if (c->due < nearest)
            nearest = c->due;
    }
    return nearest > now ? nearest - now : 1000;
}

/* --- cpu --- */

static double cpu_of(int pid)
{
    clockid_t id;
    struct timespec t;
    if (!pid || clock_getcpuclockid(pid, &id) || clock_gettime(id, &t)) return 0;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double own_cpu(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void run(struct load *l)
{
    struct epoll_event ev[EVENTS];
    bool warm = true, cold = true;
    double own = own_cpu();
    if (l->one) {
        double apart_us = l->rate > 0 ? 1e6 / l->rate : (double)(l->t_warm - l->t_start) / l->connections;
        for (int i = 0; i < l->connections; i++) l->conn[i].due = l->t_start + (int64_t)(apart_us * i);
        l->unstarted = l->connections;
        l->due = l->t_start;
    } else
        next_of_pair(l);
    for (int64_t now; (now = clock_mono_us()) < l->t_end || l->running;) {
        if (warm && now >= l->t_warm) l->cpu_start = cpu_of(l->pid), warm = false;
        if (cold && now >= l->t_end) { /* what goes on is no longer counted */
            l->cpu_end = cpu_of(l->pid), cold = false;
            if (l->cut) cut_all(l);
        }
        if (!l->running && (!l->one || (l->each && !l->unstarted))) break;
        if (now > l->t_end + 30000000) fatal("requests do not end");
        int64_t us = begin_due(l);
        int n = epoll_pwait2(l->epoll, ev, EVENTS, &(struct timespec){us / 1000000, us % 1000000 * 1000}, NULL);
        for (int i = 0; i < n; i++) on_readable(ev[i].data.ptr);
    }
    if (cold) l->cpu_end = cpu_of(l->pid);
    double seconds = ms(clock_mono_us() - l->t_start) / 1000;
    printf("\"client_cpu\":%.3f", (own_cpu() - own) / seconds);
}

/* --- the report --- */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static void print_quantiles(const char *name, struct list *s)
{
    static const struct {
        const char *word;
        double q;
    } wanted[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}};
    if (!s->n) return;
    qsort(s->v, (size_t)s->n, sizeof *s->v, by_value);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        printf(",\"%s_%s_ms\":%.4f", name, wanted[i].word, (double)s->v[(int)ceil(wanted[i].q * s->n) - 1]);
    free(s->v);
}

static void print_path(struct path *p)
{
    if (!p->url) return;
    printf(",\"%s\":{\"requests\":%lld,\"failed\":%lld,\"chunks\":%lld", p->name, (long long)p->requests,
           (long long)p->failed, (long long)p->chunks);
    printf(",\"lost\":%lld,\"doubled\":%lld,\"reordered\":%lld,\"refused\":%lld,\"refused_mute\":%lld", (long long)p->lost,
           (long long)p->doubled, (long long)p->reordered, (long long)p->refused, (long long)p->mute);
    print_quantiles("refused", &p->refusal);
    print_quantiles("latency", &p->latency);
    print_quantiles("first", &p->first);
    print_quantiles("chunk", &p->chunk);
    printf("}");
}

static void report(struct load *l)
{
    double seconds = ms(l->t_end - l->t_warm) / 1000, cpu = l->cpu_end - l->cpu_start;
    double requests = (double)(l->path[0].requests + l->path[1].requests);
    double chunks = (double)(l->path[0].chunks + l->path[1].chunks);
    printf(",\"seconds\":%.3f,\"requests_s\":%.1f,\"chunks_s\":%.1f", seconds, requests / seconds, chunks / seconds);
    if (l->pid && l->one)
        printf(",\"cpu_s\":%.4f,\"cpu_share\":%.4f,\"cpu_us_request\":%.2f,\"cpu_us_chunk\":%.3f", cpu, cpu / seconds,
               requests ? cpu * 1e6 / requests : 0, chunks ? cpu * 1e6 / chunks : 0);
    if (l->open > 0) printf(",\"unsent\":%lld", (long long)l->unsent);
    print_quantiles("added", &l->added);
    print_quantiles("added_first", &l->added_first);
    print_path(&l->path[0]);
    print_path(&l->path[1]);
    printf("}\n");
}

/* --- the machine --- */

static int watch_clock(const struct load *l)
{
    struct list gap = {0};
    int64_t start_us = clock_mono_us(), end = start_us + (int64_t)(l->seconds * 1e6), before = start_us, away = 0;
    for (int64_t now = start_us; now < end; before = now) {
        now = clock_mono_us();
        if (now - before < GAP_US) continue;
        away += now - before;
        list_add(&gap, ms(now - before));
    }
    printf("{\"seconds\":%.3f,\"gaps\":%d,\"away\":%.6f", l->seconds, gap.n, (double)away / (double)(end - start_us));
    print_quantiles("gap", &gap);
    printf("}\n");
    return 0;
}

/* --- arguments --- */

static void usage(void)
{
    fputs("usage: weft-exchanges --direct 127.0.0.1:PORT and/or --via 127.0.0.1:PORT [--key KEY] [--model NAME]\n"
          "                      [--pairs N | --connections N [--rate PER_SECOND | --open PER_SECOND | --each N]] [--seconds S]\n"
          "                      [--warm S] [--stream] [--tokens N] [--step-us N] [--whole-us N] [--apart] [--prompt-bytes N]\n"
          "                      [--get PATH] [--refusals] [--cut] [--records FILE] [--pid PID]\n"
          "       weft-exchanges --jitter [--seconds S]\n",
          stderr);
    exit(2);
}

static void read_address(struct path *p)
{
    char host[64];
    const char *at = strncmp(p->url, "http://", 7) == 0 ? p->url + 7 : p->url, *colon = strchr(at, ':');
    snprintf(host, sizeof host, "%.*s", colon ? (int)(colon - at) : 0, at);
    p->address.sin_family = AF_INET;
    if (!colon || inet_pton(AF_INET, host, &p->address.sin_addr) != 1 || ntohl(p->address.sin_addr.s_addr) >> 24 != 127)
        usage();
    p->address.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
}

static void make_request(const struct load *l, struct path *p)
{
    size_t cap = BODY_MAX + 1024;
    char *body = malloc(cap), *filler = calloc(1, (size_t)l->prompt_bytes + 1), *auth = calloc(1, 512);
    p->request = malloc(cap);
    if (!body || !filler || !auth || !p->request) abort();
    for (int i = 0; i < l->prompt_bytes; i++) filler[i] = i % 6 == 5 ? ' ' : (char)('a' + i % 26);
    int n = snprintf(body, cap,
                     "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"tokens=%d step_us=%d whole_us=%d apart=%d %s\"}],"
                     "\"max_tokens\":%d,\"temperature\":0,\"stream\":%s}",
                     p->model, l->tokens, l->step_us, l->whole_us, l->apart, filler, l->tokens, l->stream ? "true" : "false");
    if (p->key) snprintf(auth, 512, "Authorization: Bearer %s\r\n", p->key);
    if (l->get)
        p->len = (size_t)snprintf(p->request, cap, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n", l->get, auth);
    else
        p->len = (size_t)snprintf(p->request, cap,
                              "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Type: "
                              "application/json\r\nContent-Length: %d\r\n\r\n%s",
                              auth, n, body);
    free(body), free(filler), free(auth);
}

enum kind { TEXT, WHOLE, REAL, FLAG };

static void parse(struct load *l, int argc, char **argv)
{
    const struct {
        const char *name;
        enum kind kind;
        void *to;
    } options[] = {{"--direct", TEXT, &l->path[0].url},
                   {"--via", TEXT, &l->path[1].url},
                   {"--key", TEXT, &l->path[1].key},
                   {"--model", TEXT, &l->path[1].model},
                   {"--pairs", WHOLE, &l->pairs},
                   {"--connections", WHOLE, &l->connections},
                   {"--tokens", WHOLE, &l->tokens},
                   {"--step-us", WHOLE, &l->step_us},
                   {"--prompt-bytes", WHOLE, &l->prompt_bytes},
                   {"--pid", WHOLE, &l->pid},
                   {"--seconds", REAL, &l->seconds},
                   {"--warm", REAL, &l->warm},
                   {"--rate", REAL, &l->rate},
                   {"--open", REAL, &l->open},
                   {"--each", WHOLE, &l->each},
                   {"--whole-us", WHOLE, &l->whole_us},
                   {"--get", TEXT, &l->get},
                   {"--records", TEXT, &l->records},
                   {"--apart", FLAG, &l->apart},
                   {"--refusals", FLAG, &l->refusals},
                   {"--cut", FLAG, &l->cut},
                   {"--stream", FLAG, &l->stream},
                   {"--jitter", FLAG, &l->jitter}};
    const int noptions = sizeof options / sizeof *options;
    for (int i = 1; i < argc; i++) {
        int o = 0;
        while (o < noptions && strcmp(argv[i], options[o].name) != 0) o++;
        if (o == noptions) usage();
        if (options[o].kind == FLAG) {
            *(bool *)options[o].to = true;
            continue;
        }
        if (++i == argc) usage();
        if (options[o].kind == TEXT)
            *(const char **)options[o].to = argv[i];
        else if (options[o].kind == WHOLE)
            *(int *)options[o].to = (int)strtol(argv[i], NULL, 10);
        else
            *(double *)options[o].to = strtod(argv[i], NULL);
    }
}

static void complete(struct load *l)
{
    bool both = l->path[0].url && l->path[1].url, pairs = l->pairs > 0;
    if ((!l->path[0].url && !l->path[1].url) || pairs != both || (pairs && l->connections) ||
        (!pairs && l->connections < 1) || l->connections > CONNS_MAX || l->tokens < 1 || l->prompt_bytes < 0 ||
        l->prompt_bytes > BODY_MAX - 1024 || !(l->seconds > 0 && l->seconds <= SECONDS_MAX) || l->warm < 0 ||
        l->warm >= l->seconds)
        usage();
    if (l->records && !(l->record = fopen(l->records, "we"))) fatal(l->records);
    if (!pairs) l->one = l->path[0].url ? &l->path[0] : &l->path[1];
    for (int i = 0; i < 2; i++)
        if (l->path[i].url) read_address(&l->path[i]), make_request(l, &l->path[i]);
}

static void connect_all(struct load *l)
{
    int n = l->one ? l->connections : 2;
    l->conn = calloc((size_t)n, sizeof *l->conn);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!l->conn || l->epoll < 0) abort();
    for (int i = 0; i < n; i++) {
        l->conn[i].load = l;
        l->conn[i].path = l->one ? l->one : &l->path[i];
        l->conn[i].stream = l->stream;
        dial(&l->conn[i]);
    }
}

int main(int argc, char **argv)
{
    struct load l = {.path = {{.name = "direct", .model = "fake-base"}, {.name = "via", .model = "fake-base"}},
                     .tokens = 16,
                     .prompt_bytes = 512,
                     .seconds = 10,
                     .warm = 0.5};
    parse(&l, argc, argv);
    if (l.jitter) return watch_clock(&l);
    complete(&l);
    connect_all(&l);
    l.t_start = clock_mono_us();
    l.t_warm = l.t_start + (int64_t)(l.warm * 1e6);
    l.t_end = l.t_start + (int64_t)(l.seconds * 1e6);
    printf("{");
    run(&l);
    report(&l);
    int64_t failed = l.path[0].failed + l.path[1].failed;
    for (int i = 0; i < 2; i++) free(l.path[i].request);
    free(l.conn);
    if (l.record && fclose(l.record)) fatal(l.records);
    return failed ? 1 : 0;
}
