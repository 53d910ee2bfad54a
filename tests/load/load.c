/* weft-load: a load generator for OpenAI-compatible servers, closed loop or open.
 *
 *   closed  --streams N: N requests are in flight; each that ends starts the next
 *   open    --rate R: requests arrive as a seeded Poisson process of R per second, whether or not the earlier ones have ended, so that
 *           a server that falls behind shows it as waiting instead of slowing its own clients down. At most --streams at a time: an
 *           arrival that finds so many in flight is not sent and counts as `unsent`.
 *
 * A request is a streamed /v1/completions of P token ids that asks for exactly M tokens (ignore_eos). Prompts differ per request
 * (seeded), so no cache of prefixes helps. Whom a request is for (key, model, further members of the body) is one of the targets: round
 * robin, or with --zipf S the k-th target in proportion to 1 / k^S. It ends after --requests, or --seconds after the start: then what is
 * in flight may finish, or with --cut is cut off and counts as `unfinished`. A SIGTERM ends the time early.
 *
 * Prints one JSON line; times in ms; a quantile is the least value that so many percent do not exceed:
 *   tokens_s      output tokens of all requests / wall time, prefill included
 *   decode_s      output tokens / time, over the time in which all N streams decode (only where each stream has one request)
 *   prefill_s     prompt tokens / time from the start to the last first token (likewise)
 *   ttft_*        from the request's start to its first token
 *   itl_*         between two arrivals at one request; tokens that come together are one arrival
 *   tpot_*        (last token - first token) / (tokens - 1) of one request
 *   requests, failed, unfinished, unsent, tokens, seconds
 *   client_cpu    processor time of this program / seconds: what it took of one core, which a server on the same cores had not
 * With --warm S what came in the first S seconds is left out of tokens, tokens_s, seconds and itl_*, and requests whose first token came
 * then of ttft_* and tpot_*: what is left is the steady state.
 * --records FILE: one JSON line for each request, in the order of their starts.
 *
 * One thread starts what arrives, the client's thread does the rest. It refuses addresses that are not on this machine, and bounds what it
 * sends: REQUESTS_MAX requests, STREAMS_MAX at a time, SECONDS_MAX seconds. Exit codes: 0, 1 when a request failed, 2 bad arguments. */
#include "base/buf.h"
#include "base/client.h"
#include "base/clock.h"
#include "base/json.h"
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define TARGETS_MAX 4096
#define REQUESTS_MAX 100000
#define STREAMS_MAX 4096
#define OUTPUT_MAX 65536
#define SECONDS_MAX 600
#define REQUEST_MS 600000
#define COMPLAINTS_MAX 3
#define TAIL_MAX 512
#define BODY_MAX (1u << 22)

struct target {
    const char *key, *model;
    const char *extra; /* further members of the body, "" for none */
};

struct one {
    struct load *load;
    int target;
    int64_t t0, t_done;
    int64_t *at; /* [output] when tokens came */
    int arrivals, tokens, status;
    bool failed, unfinished;
    char tail[TAIL_MAX]; /* the end of what came, for the usage object */
    size_t ntail;
};

struct load {
    const char *url, *unix_socket, *records, *header;
    struct target *target;
    char *file;    /* text of --targets, or NULL */
    double *reach; /* [ntarget] cumulated popularity, or NULL: round robin */
    int ntarget, streams, requests, prompt, output, vocab;
    double rate, seconds, warm, zipf;
    bool cut;
    unsigned seed;
    struct client *client;
    struct one *one;
    int64_t t_start, t_warm, t_end; /* figures count from t_warm on */
    int started, done, unsent;
    bool closing;
    pthread_mutex_t lock; /* started, done, closing; the client's callbacks and main */
    pthread_cond_t change;
};

static void send_one(struct load *l, int i);

static volatile sig_atomic_t asked_to_end;

/* --- chance --- */

/* splitmix64 (Steele, Lea and Flood, 2014): one number of a stream that the seed and the index name. */
static uint64_t mix(uint64_t seed, uint64_t i)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15ull + i * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static double uniform(uint64_t seed, uint64_t i) /* in (0, 1) */
{
    return ((double)(mix(seed, i) >> 11) + 0.5) / 9007199254740992.0;
}

/* Which target the i-th request is for. */
static int pick_target(const struct load *l, int i)
{
    if (!l->reach) return i % l->ntarget;
    double u = uniform(l->seed + 77, (uint64_t)i) * l->reach[l->ntarget - 1];
    int low = 0, high = l->ntarget - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (l->reach[mid] < u)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* --- what comes --- */

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

/* The usage object at the end is one event too many: it comes after all that were asked for. */
static int on_data(void *u, const char *s, size_t n)
{
    struct one *o = u;
    int64_t now = clock_mono_us();
    keep_tail(o, s, n);
    for (int i = count_events(s, n); i > 0 && o->arrivals < o->load->output; i--) o->at[o->arrivals++] = now;
    return 0;
}

static int completion_tokens(const struct one *o)
{
    const char *p = strstr(o->tail, "\"completion_tokens\":");
    return p ? (int)strtol(p + strlen("\"completion_tokens\":"), NULL, 10) : 0;
}

static void complain(struct one *o, const struct err *e)
{
    static int complaints;
    if (complaints++ < COMPLAINTS_MAX)
        fprintf(stderr, "weft-load: status %d, %d tokens, %s\n%s\n", o->status, o->tokens, e ? e->msg : "no error",
                o->tail);
}

/* The next request's number, or -1 when there is to be no more. An arrival of an open loop that was due before the end is sent, however
 * late this thread woke. The lock is held. */
static int take_number(struct load *l)
{
    bool in_time = l->rate > 0 || clock_mono_us() < l->t_end;
    bool more = l->started < l->requests && !l->closing && !asked_to_end && in_time;
    return more ? l->started++ : -1;
}

/* The next of a closed loop is counted as started before this one counts as done: main must not see a moment without any. */
static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct one *o = u;
    struct load *l = o->load;
    o->t_done = clock_mono_us();
    o->status = r->status;
    o->tokens = completion_tokens(o);
    pthread_mutex_lock(&l->lock);
    bool broken = (e && e->code) || r->status != 200 || o->tokens != l->output;
    o->unfinished = broken && l->closing && e && e->code;
    o->failed = broken && !o->unfinished;
    if (o->unfinished) o->tokens = o->arrivals;
    int next = l->rate == 0 ? take_number(l) : -1;
    l->done++;
    pthread_cond_signal(&l->change);
    pthread_mutex_unlock(&l->lock);
    if (o->failed) complain(o, e);
    if (next >= 0) send_one(l, next);
}

/* --- what goes --- */

static void write_body(const struct load *l, const struct target *t, unsigned seed, struct buf *b)
{
    buf_addf(b,
             "{\"model\":\"%s\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"ignore_eos\":true,"
             "\"temperature\":0,\"max_tokens\":%d,%s%s\"prompt\":[",
             t->model, l->output, t->extra, t->extra[0] ? "," : "");
    for (int i = 0; i < l->prompt; i++)
        buf_addf(b, "%s%u", i ? "," : "", 100 + (unsigned)(mix(seed, (uint64_t)i) % (unsigned)(l->vocab - 100)));
    buf_adds(b, "]}");
}

static void send_one(struct load *l, int i)
{
    struct one *o = &l->one[i];
    const struct target *t = &l->target[pick_target(l, i)];
    char auth[256], url[512];
    snprintf(auth, sizeof auth, "Authorization: Bearer %s", t->key);
    snprintf(url, sizeof url, "%s/v1/completions", l->url);
    const char *headers[] = {"Content-Type: application/json", t->key[0] ? auth : l->header,
                             t->key[0] ? l->header : NULL, NULL};
    struct buf body;
    buf_init(&body, BODY_MAX);
    write_body(l, t, l->seed + (unsigned)i * 7919u, &body);
    *o = (struct one){.load = l, .target = (int)(t - l->target), .at = calloc((size_t)l->output, sizeof *o->at)};
    if (!o->at) abort();
    struct client_request req = {.method = "POST",
                                 .url = url,
                                 .unix_socket = l->unix_socket,
                                 .headers = headers,
                                 .body = body.data,
                                 .body_len = body.len,
                                 .connect_ms = REQUEST_MS,
                                 .first_byte_ms = REQUEST_MS,
                                 .idle_ms = REQUEST_MS,
                                 .total_ms = REQUEST_MS,
                                 .on_data = on_data,
                                 .on_done = on_done,
                                 .user = o};
    struct client_call *call;
    struct err e = {0};
    o->t0 = clock_mono_us();
    if (client_start(l->client, &req, &call, &e)) {
        fprintf(stderr, "weft-load: %s\n", e.msg);
        exit(1);
    }
    buf_close(&body);
}

enum start { SENT, NO_ROOM, NO_MORE };

static enum start start_next(struct load *l)
{
    pthread_mutex_lock(&l->lock);
    bool room = l->started - l->done < l->streams;
    int i = room ? take_number(l) : -1;
    pthread_mutex_unlock(&l->lock);
    if (i >= 0) send_one(l, i);
    return i >= 0 ? SENT : room ? NO_MORE : NO_ROOM;
}

static void end_early(int sig)
{
    (void)sig;
    asked_to_end = 1;
}

/* The client's thread is started while SIGTERM is blocked, so that the signal comes to main and ends its sleep. */
static void let_main_be_asked(bool yes)
{
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(yes ? SIG_UNBLOCK : SIG_BLOCK, &term, NULL);
    if (yes) sigaction(SIGTERM, &(struct sigaction){.sa_handler = end_early}, NULL);
}

static void sleep_until(int64_t us)
{
    int64_t left = us - clock_mono_us();
    if (left <= 0 || asked_to_end) return;
    struct timespec ts = {.tv_sec = left / 1000000, .tv_nsec = left % 1000000 * 1000};
    nanosleep(&ts, NULL);
}

static void run_open(struct load *l)
{
    double at = (double)l->t_start;
    for (int n = 0; n < REQUESTS_MAX; n++) {
        at -= log(uniform(l->seed, (uint64_t)n)) / l->rate * 1e6;
        if (at >= (double)l->t_end) break;
        sleep_until((int64_t)at);
        enum start s = start_next(l);
        if (s == NO_MORE) return;
        l->unsent += s == NO_ROOM;
    }
    sleep_until(l->t_end);
}

/* Closed loop: `streams` chains of requests, each kept up by on_done(). */
static void run_closed(struct load *l)
{
    for (int i = 0; i < l->streams; i++) start_next(l);
    if (l->cut) sleep_until(l->t_end);
}

static void finish(struct load *l)
{
    pthread_mutex_lock(&l->lock);
    l->closing = l->cut;
    while (!l->cut && l->done < l->started) pthread_cond_wait(&l->change, &l->lock);
    pthread_mutex_unlock(&l->lock);
    client_free(l->client); /* cuts off what is left */
}

/* --- the report --- */

struct list {
    double *v;
    int n, cap;
};

static void list_add(struct list *s, double v)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        s->v = realloc(s->v, (size_t)s->cap * sizeof *s->v);
        if (!s->v) abort();
    }
    s->v[s->n++] = v;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double quantile(const struct list *s, double q) /* of a sorted list */
{
    return s->n ? s->v[(int)ceil(q * s->n) - 1] : 0;
}

static void print_quantiles(const char *name, struct list *s)
{
    if (s->n) qsort(s->v, (size_t)s->n, sizeof *s->v, by_value);
    printf(",\"%s_ms\":%.3f,\"%s_p90_ms\":%.3f,\"%s_p99_ms\":%.3f,\"%s_max_ms\":%.3f", name, quantile(s, 0.5), name,
           quantile(s, 0.9), name, quantile(s, 0.99), name, quantile(s, 1));
    free(s->v);
}

static double ms(int64_t us)
{
    return (double)us / 1000;
}
static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static int64_t last_at(const struct one *o)
{
    return o->arrivals ? o->at[o->arrivals - 1] : o->t_done;
}

/* Tokens a second while all streams decode: between the last first token and the first last one. */
static double decode_rate(const struct load *l, int64_t begin, int64_t end)
{
    double tokens = 0;
    for (int i = 0; i < l->started && end > begin; i++)
        for (int k = 0; k < l->one[i].arrivals; k++) tokens += l->one[i].at[k] > begin && l->one[i].at[k] <= end;
    return end > begin ? tokens / (ms(end - begin) / 1000) : 0;
}

/* Of a request: those that came after the warm-up. A server that sends several at once is asked how many there were. */
static int64_t tokens_of(const struct load *l, const struct one *o)
{
    if (o->t0 >= l->t_warm) return o->tokens;
    int late = 0;
    for (int k = 0; k < o->arrivals; k++) late += o->at[k] >= l->t_warm;
    return o->arrivals ? (int64_t)o->tokens * late / o->arrivals : 0;
}

static double own_cpu_s(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void print_rates(const struct load *l)
{
    int64_t last_first = 0, first_last = INT64_MAX, end = 0, tokens = 0;
    for (int i = 0; i < l->started; i++) {
        const struct one *o = &l->one[i];
        end = most(end, o->t_done), tokens += tokens_of(l, o);
        if (o->arrivals) last_first = most(last_first, o->at[0]), first_last = least(first_last, last_at(o));
    }
    bool one_wave = l->rate == 0 && l->started == l->streams && last_first;
    double seconds = ms(end - l->t_warm) / 1000, all = ms(end - l->t_start) / 1000;
    printf(",\"tokens\":%lld,\"seconds\":%.3f,\"tokens_s\":%.2f", (long long)tokens, seconds,
           seconds > 0 ? (double)tokens / seconds : 0);
    printf(",\"decode_s\":%.2f,\"prefill_s\":%.2f,\"client_cpu\":%.4f",
           one_wave ? decode_rate(l, last_first, first_last) : 0,
           one_wave ? (double)l->prompt * l->started / (ms(last_first - l->t_start) / 1000) : 0,
           all > 0 ? own_cpu_s() / all : 0);
}

static int report(const struct load *l)
{
    struct list ttft = {0}, itl = {0}, tpot = {0};
    int failed = 0, unfinished = 0;
    for (int i = 0; i < l->started; i++) {
        const struct one *o = &l->one[i];
        bool counts = o->arrivals && o->at[0] >= l->t_warm;
        failed += o->failed, unfinished += o->unfinished;
        if (counts) list_add(&ttft, ms(o->at[0] - o->t0));
        for (int k = 1; k < o->arrivals; k++)
            if (o->at[k] > o->at[k - 1] && o->at[k - 1] >= l->t_warm) list_add(&itl, ms(o->at[k] - o->at[k - 1]));
        if (o->tokens > 1 && counts) list_add(&tpot, ms(last_at(o) - o->at[0]) / (o->tokens - 1));
    }
    printf("{\"streams\":%d,\"requests\":%d,\"failed\":%d,\"unfinished\":%d,\"unsent\":%d", l->streams, l->started,
           failed, unfinished, l->unsent);
    print_rates(l);
    print_quantiles("ttft", &ttft);
    print_quantiles("itl", &itl);
    print_quantiles("tpot", &tpot);
    printf("}\n");
    return failed;
}

static int write_records(const struct load *l)
{
    FILE *f = fopen(l->records, "we");
    for (int i = 0; f && i < l->started; i++) {
        const struct one *o = &l->one[i];
        int64_t gap = 0;
        for (int k = 1; k < o->arrivals; k++) gap = most(gap, o->at[k] - o->at[k - 1]);
        fprintf(f,
                "{\"start_ms\":%.3f,\"target\":%d,\"status\":%d,\"failed\":%d,\"unfinished\":%d,\"tokens\":%d,\"ttft_"
                "ms\":%.3f,"
                "\"gap_max_ms\":%.3f,\"total_ms\":%.3f}\n",
                ms(o->t0 - l->t_start), o->target, o->status, o->failed, o->unfinished, o->tokens,
                o->arrivals ? ms(o->at[0] - o->t0) : -1, ms(gap), ms(o->t_done - o->t0));
    }
    if (f && fclose(f) == 0) return 0;
    fprintf(stderr, "weft-load: cannot write %s\n", l->records);
    return -1;
}

/* --- arguments --- */

static void usage(void)
{
    fputs("usage: weft-load --url http://127.0.0.1:PORT [--unix SOCKET] --target 'KEY=MODEL [MEMBERS]' ... | --targets "
          "FILE\n"
          "                 [--streams N | --rate PER_SECOND] [--requests N] [--seconds S [--cut]] [--warm S] "
          "[--prompt TOKENS] "
          "[--output TOKENS]\n"
          "                 [--zipf S] [--vocab N] [--seed N] [--header 'NAME: VALUE'] [--records FILE]\n"
          "MEMBERS are further members of the request's JSON object. FILE has a target a line.\n",
          stderr);
    exit(2);
}

static bool is_local(const char *url)
{
    static const char *const ok[] = {"http://127.", "http://localhost:", "http://[::1]:", "http://engine"};
    for (size_t i = 0; i < sizeof ok / sizeof *ok; i++)
        if (!strncmp(url, ok[i], strlen(ok[i]))) return true;
    return false;
}

/* `text` is kept and changed. */
static void add_target(struct load *l, char *text)
{
    char *eq = strchr(text, '=');
    if (l->ntarget == TARGETS_MAX || !eq) usage();
    *eq = '\0';
    char *model = eq + 1, *blank = strchr(model, ' ');
    if (blank) *blank = '\0';
    l->target[l->ntarget++] = (struct target){text, model, blank ? blank + 1 : ""};
}

/* The targets point into the file's text, which lives as long as they do. */
static void read_targets(struct load *l, const char *path)
{
    size_t cap = 0;
    FILE *f = fopen(path, "re");
    if (!f || l->file || getdelim(&l->file, &cap, '\0', f) < 0) usage();
    fclose(f);
    for (char *rest = l->file, *line; (line = strsep(&rest, "\n"));)
        if (*line) add_target(l, line);
}

enum kind { TEXT, WHOLE, REAL, FLAG };

static void parse(struct load *l, int argc, char **argv)
{
    const struct {
        const char *name;
        enum kind kind;
        void *to;
    } options[] = {
        {"--url", TEXT, &l->url},        {"--unix", TEXT, &l->unix_socket}, {"--records", TEXT, &l->records},
        {"--header", TEXT, &l->header},  {"--streams", WHOLE, &l->streams}, {"--requests", WHOLE, &l->requests},
        {"--prompt", WHOLE, &l->prompt}, {"--output", WHOLE, &l->output},   {"--vocab", WHOLE, &l->vocab},
        {"--seed", WHOLE, &l->seed},     {"--rate", REAL, &l->rate},        {"--seconds", REAL, &l->seconds},
        {"--warm", REAL, &l->warm},      {"--zipf", REAL, &l->zipf},        {"--cut", FLAG, &l->cut}};
    const int noptions = sizeof options / sizeof *options;
    for (int i = 1; i < argc; i++) {
        int o = 0;
        while (o < noptions && strcmp(argv[i], options[o].name) != 0) o++;
        if (o < noptions && options[o].kind == FLAG)
            *(bool *)options[o].to = true;
        else if (i + 1 == argc)
            usage();
        else if (!strcmp(argv[i], "--target"))
            add_target(l, argv[++i]);
        else if (!strcmp(argv[i], "--targets"))
            read_targets(l, argv[++i]);
        else if (o == noptions)
            usage();
        else if (options[o].kind == TEXT)
            *(const char **)options[o].to = argv[++i];
        else if (options[o].kind == WHOLE)
            *(int *)options[o].to = (int)strtol(argv[++i], NULL, 10);
        else
            *(double *)options[o].to = strtod(argv[++i], NULL);
    }
}

/* What was left out, and whether the whole makes sense. */
static void complete(struct load *l)
{
    bool open = l->rate > 0;
    if (!l->streams) l->streams = open ? STREAMS_MAX : 1;
    if (!l->requests) l->requests = open || l->seconds > 0 ? REQUESTS_MAX : l->streams;
    if (!l->seconds) l->seconds = SECONDS_MAX;
    if (!l->url || !l->ntarget || !is_local(l->url) || l->streams < 1 || l->streams > STREAMS_MAX || l->requests < 1 ||
        l->requests > REQUESTS_MAX || l->rate < 0 || l->seconds < 0 || l->warm < 0 || l->warm >= l->seconds ||
        l->seconds > SECONDS_MAX || l->prompt < 1 || l->output < 1 || l->output > OUTPUT_MAX || l->vocab < 200 ||
        (!open && l->requests < l->streams))
        usage();
    if (l->zipf > 0) l->reach = calloc((size_t)l->ntarget, sizeof *l->reach);
    for (int i = 0; l->reach && i < l->ntarget; i++) l->reach[i] = (i ? l->reach[i - 1] : 0) + pow(i + 1, -l->zipf);
}

int main(int argc, char **argv)
{
    struct load l = {.prompt = 64,
                     .output = 64,
                     .vocab = 49152,
                     .seed = 1,
                     .lock = PTHREAD_MUTEX_INITIALIZER,
                     .change = PTHREAD_COND_INITIALIZER};
    struct err e = {0};
    l.target = calloc(TARGETS_MAX, sizeof *l.target);
    l.one = calloc(REQUESTS_MAX, sizeof *l.one);
    if (!l.target || !l.one) abort();
    parse(&l, argc, argv);
    complete(&l);
    json_start();
    let_main_be_asked(false);
    if (client_new(&l.client, l.streams + 8, &e)) {
        fprintf(stderr, "weft-load: %s\n", e.msg);
        return 1;
    }
    let_main_be_asked(true);
    l.t_start = clock_mono_us();
    l.t_warm = l.t_start + (int64_t)(l.warm * 1e6);
    l.t_end = l.t_start + (int64_t)(l.seconds * 1e6);
    if (l.rate > 0)
        run_open(&l);
    else
        run_closed(&l);
    finish(&l);
    int failed = report(&l);
    if (l.records && write_records(&l)) failed = 1;
    for (int i = 0; i < l.started; i++) free(l.one[i].at);
    free(l.one), free(l.target), free(l.reach), free(l.file);
    return failed ? 1 : 0;
}
