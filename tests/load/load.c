/* weft-load: a closed-loop load generator for OpenAI-compatible servers.
 *
 * N streams run at once; each sends a streamed /v1/completions request with a prompt of P token ids and asks for exactly M tokens
 * (ignore_eos), and starts the next when it is answered, until R requests are done. Targets (key and model) are dealt round robin, so a
 * mix of tenants and adapters is one command line. Prompts differ per request (seeded), so no cache of prefixes helps.
 *
 * Prints one JSON line:
 *   tokens_s      output tokens of all requests / wall time, prefill included
 *   decode_s      the same over the time in which all N streams are past their first token (only with R == N)
 *   prefill_s     prompt tokens / time from the start to the last first token (only with R == N)
 *   ttft_ms, itl_ms (p50, p99), requests, failed
 *
 * It refuses addresses that are not on this machine. */
#include "base/buf.h"
#include "base/client.h"
#include "base/clock.h"
#include "base/json.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TARGETS_MAX 64
#define REQUESTS_MAX 100000
#define STREAMS_MAX 4096

struct target {
    const char *key, *model;
};

struct one {
    struct load *load;
    int64_t t0, t_first, t_last, t_done;
    int tokens, events;
    bool failed;
    char tail[512]; /* the end of what came, for the usage object */
    size_t ntail;
};

struct load {
    const char *url, *unix_socket;
    struct target target[TARGETS_MAX];
    int ntarget, streams, requests, prompt, output, vocab;
    unsigned seed;
    struct client *client;
    struct one *one;
    double *gap_ms;
    int ngap, gap_max;
    int started, done;
    pthread_mutex_t lock;
    pthread_cond_t all_done;
};

static void start_next(struct load *l);

static void note_gap(struct load *l, int64_t us)
{
    if (l->ngap < l->gap_max) l->gap_ms[l->ngap++] = (double)us / 1000;
}

static int count_events(const char *s, size_t n)
{
    int events = 0;
    for (size_t i = 0; i + 6 <= n; i++)
        if (memcmp(s + i, "data: ", 6) == 0 && (i + 12 > n || memcmp(s + i + 6, "[DONE]", 6) != 0)) events++;
    return events;
}

static void keep_tail(struct one *o, const char *s, size_t n)
{
    size_t room = sizeof o->tail - 1;
    if (n >= room) {
        memcpy(o->tail, s + n - room, room);
        o->ntail = room;
    } else {
        size_t drop = o->ntail + n > room ? o->ntail + n - room : 0;
        memmove(o->tail, o->tail + drop, o->ntail - drop);
        memcpy(o->tail + o->ntail - drop, s, n);
        o->ntail += n - drop;
    }
    o->tail[o->ntail] = '\0';
}

static int on_data(void *u, const char *s, size_t n)
{
    struct one *o = u;
    int64_t now = clock_mono_us();
    keep_tail(o, s, n);
    if (!count_events(s, n)) return 0;
    if (!o->t_first) o->t_first = now;
    else note_gap(o->load, now - o->t_last);
    o->t_last = now;
    return 0;
}

static int completion_tokens(const struct one *o)
{
    const char *p = strstr(o->tail, "\"completion_tokens\":");
    return p ? (int)strtol(p + strlen("\"completion_tokens\":"), NULL, 10) : 0;
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct one *o = u;
    struct load *l = o->load;
    o->t_done = clock_mono_us();
    o->tokens = completion_tokens(o);
    o->failed = (e && e->code) || r->status != 200 || o->tokens != l->output;
    if (o->failed && l->done < 3)
        fprintf(stderr, "weft-load: status %d, %d tokens, %s\n%s\n", r->status, o->tokens, e ? e->msg : "no error", o->tail);
    pthread_mutex_lock(&l->lock);
    l->done++;
    bool more = l->started < l->requests;
    if (l->done == l->requests) pthread_cond_signal(&l->all_done);
    pthread_mutex_unlock(&l->lock);
    if (more) start_next(l);
}

static void write_body(struct load *l, const struct target *t, unsigned seed, struct buf *b)
{
    buf_addf(b, "{\"model\":\"%s\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"ignore_eos\":true,"
                "\"temperature\":0,\"max_tokens\":%d,\"prompt\":[", t->model, l->output);
    for (int i = 0; i < l->prompt; i++) {
        seed = seed * 1103515245u + 12345u;
        buf_addf(b, "%s%u", i ? "," : "", 100 + (seed >> 8) % (unsigned)(l->vocab - 100));
    }
    buf_adds(b, "]}");
}

static void start_next(struct load *l)
{
    pthread_mutex_lock(&l->lock);
    int i = l->started < l->requests ? l->started++ : -1;
    pthread_mutex_unlock(&l->lock);
    if (i < 0) return;
    struct target *t = &l->target[i % l->ntarget];
    struct one *o = &l->one[i];
    char auth[256], url[512];
    snprintf(auth, sizeof auth, "Authorization: Bearer %s", t->key);
    snprintf(url, sizeof url, "%s/v1/completions", l->url);
    const char *headers[] = {"Content-Type: application/json", t->key[0] ? auth : NULL, NULL};
    struct buf body;
    buf_init(&body, 1u << 22);
    write_body(l, t, l->seed + (unsigned)i * 7919u, &body);
    *o = (struct one){.load = l, .t0 = clock_mono_us()};
    struct client_request req = {.method = "POST", .url = url, .unix_socket = l->unix_socket, .headers = headers,
                                 .body = body.data, .body_len = body.len, .connect_ms = 5000, .first_byte_ms = 300000,
                                 .idle_ms = 300000, .total_ms = 600000, .on_data = on_data, .on_done = on_done, .user = o};
    struct client_call *call;
    struct err e = {0};
    if (client_start(l->client, &req, &call, &e)) {
        fprintf(stderr, "weft-load: %s\n", e.msg);
        exit(1);
    }
    buf_close(&body);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(double *v, int n, double q)
{
    if (!n) return 0;
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[(int)(q * (n - 1))];
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

static void report(struct load *l)
{
    int64_t t0 = INT64_MAX, t1 = 0, last_first = 0, first_done = INT64_MAX;
    double *ttft = calloc((size_t)l->requests, sizeof *ttft), decode = 0;
    int failed = 0;
    int64_t tokens = 0;
    for (int i = 0; i < l->requests; i++) {
        const struct one *o = &l->one[i];
        t0 = least(t0, o->t0), t1 = most(t1, o->t_done);
        last_first = most(last_first, o->t_first), first_done = least(first_done, o->t_last);
        ttft[i] = (double)(o->t_first - o->t0) / 1000;
        tokens += o->tokens, failed += o->failed;
        if (o->t_last > o->t_first) decode += (o->tokens - 1) / ((double)(o->t_last - o->t_first) / 1e6);
    }
    bool one_wave = l->requests == l->streams;
    double gap50 = quantile(l->gap_ms, l->ngap, 0.5), gap99 = quantile(l->gap_ms, l->ngap, 0.99);
    printf("{\"streams\":%d,\"requests\":%d,\"failed\":%d,\"tokens_s\":%.1f,\"decode_s\":%.1f,\"prefill_s\":%.1f,"
           "\"ttft_ms\":%.1f,\"ttft_p99_ms\":%.1f,\"itl_ms\":%.2f,\"itl_p99_ms\":%.2f}\n",
           l->streams, l->requests, failed, (double)tokens / ((double)(t1 - t0) / 1e6), one_wave ? decode : 0,
           one_wave ? (double)l->prompt * l->requests / ((double)(last_first - t0) / 1e6) : 0,
           quantile(ttft, l->requests, 0.5), quantile(ttft, l->requests, 0.99), gap50, gap99);
    free(ttft);
    if (failed) exit(1);
}

static void usage(void)
{
    fputs("usage: weft-load --url http://127.0.0.1:PORT [--unix SOCKET] [--streams N] [--requests N] [--prompt TOKENS]\n"
          "                 [--output TOKENS] [--vocab N] [--seed N] --target KEY=MODEL [--target KEY=MODEL ...]\n", stderr);
    exit(2);
}

static bool is_local(const char *url)
{
    static const char *const ok[] = {"http://127.", "http://localhost:", "http://[::1]:", "http://engine"};
    for (size_t i = 0; i < sizeof ok / sizeof *ok; i++)
        if (!strncmp(url, ok[i], strlen(ok[i]))) return true;
    return false;
}

static void parse(struct load *l, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *k = argv[i];
        char *v = argv[i + 1];
        int n = (int)strtol(v, NULL, 10);
        if (!strcmp(k, "--url")) l->url = v;
        else if (!strcmp(k, "--unix")) l->unix_socket = v;
        else if (!strcmp(k, "--streams")) l->streams = n;
        else if (!strcmp(k, "--requests")) l->requests = n;
        else if (!strcmp(k, "--prompt")) l->prompt = n;
        else if (!strcmp(k, "--output")) l->output = n;
        else if (!strcmp(k, "--vocab")) l->vocab = n;
        else if (!strcmp(k, "--seed")) l->seed = (unsigned)n;
        else if (!strcmp(k, "--target") && l->ntarget < TARGETS_MAX && strchr(v, '=')) {
            char *eq = strchr(v, '=');
            *eq = '\0';
            l->target[l->ntarget++] = (struct target){v, eq + 1};
        } else usage();
    }
    if (!l->requests) l->requests = l->streams;
    if (!l->url || !l->ntarget || !is_local(l->url) || l->streams < 1 || l->streams > STREAMS_MAX ||
        l->requests < l->streams || l->requests > REQUESTS_MAX || l->prompt < 1 || l->output < 1 || l->vocab < 200)
        usage();
}

int main(int argc, char **argv)
{
    struct load l = {.streams = 1, .prompt = 64, .output = 64, .vocab = 49152, .seed = 1,
                     .lock = PTHREAD_MUTEX_INITIALIZER, .all_done = PTHREAD_COND_INITIALIZER};
    struct err e = {0};
    parse(&l, argc, argv);
    json_start();
    l.gap_max = l.requests * l.output;
    l.one = calloc((size_t)l.requests, sizeof *l.one);
    l.gap_ms = calloc((size_t)l.gap_max, sizeof *l.gap_ms);
    if (!l.one || !l.gap_ms || client_new(&l.client, l.streams + 8, &e)) {
        fprintf(stderr, "weft-load: %s\n", e.msg);
        return 1;
    }
    for (int i = 0; i < l.streams; i++) start_next(&l);
    pthread_mutex_lock(&l.lock);
    while (l.done < l.requests) pthread_cond_wait(&l.all_done, &l.lock);
    pthread_mutex_unlock(&l.lock);
    client_free(l.client);
    report(&l);
    free(l.one);
    free(l.gap_ms);
    return 0;
}
