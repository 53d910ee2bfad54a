/* standby: the process that follows (see standby.h): looks at the primary every --every seconds, and says how far behind it is.
 *
 *     look --there--> wait --every--> look
 *       |--too long--> it is told how far it is --> look, which goes on
 *       `--failed--> wait: twice as long each time, FAILED_WAIT_MAX_S at most --> look
 *
 * The lock that `weft-gateway promote` holds ends it as SIGTERM does. Main thread: all of it; the listener's threads read the numbers. */
#include "gateway/standby/standby.h"
#include "base/clock.h"
#include "base/http.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/process.h"
#include "gateway/standby/standby_impl.h"
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EVERY_S 2.0
#define EVERY_MIN_S 0.1
#define EVERY_MAX_S 3600.0
#define FAILED_WAIT_MAX_S 15.0
#define LATE_S 10.0 /* /ready is 503 where the state is older than this and five times --every */
#define LOOK_MS 100 /* between looks at whether it is to end */
#define METRICS_MAX 65536
#define LISTEN_CONNECTIONS 32

enum { M_ROWS_BEGIN = -1,
#define X(id, kind, name, help, labels) M_##id,
#include "schema/standby_metrics.def"
#undef X
       M_ROWS };

static const struct metric_row meter_rows[M_ROWS] = {
#define X(id, kind, name, help, labels) {METRIC_##kind, name, help, labels},
#include "schema/standby_metrics.def"
#undef X
};

static const char *const check_name[CHECKS] = {[CHECK_ANSWER] = "answer", [CHECK_LIST] = "list", [CHECK_MONTH] = "month", [CHECK_PEPPER] = "pepper", [CHECK_REDO] = "redo"};

static const char usage[] = "weft-gateway standby --from URL --token-file FILE --data DIR\n"
                            "  --from URL         the admin address of the gateway that is followed\n"
                            "  --token-file FILE  an admin key of the role backup: weft admin-key create --role backup\n"
                            "  --data DIR         what is kept behind it; new, or a standby's already\n"
                            "  --every S          seconds between two looks; 2 unless said\n"
                            "  --listen ADDR      /ready, /metrics and /status here, as 127.0.0.1:8083; nowhere unless said\n"
                            "  --ca-file FILE     PEM: authorities that are trusted beside the system's\n"
                            "  --plain-http       http:// to another machine, too: all there is travels, the pepper too\n";

static volatile sig_atomic_t stop_asked;
static const struct standby *followed; /* set once */
static struct metrics *meters;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER; /* of those who print the metrics */

static void on_signal(int sig)
{
    (void)sig;
    stop_asked = 1;
}

static bool is_asked_to_end(void) { return stop_asked || standby_is_promoted(followed); }

/* --- what it says of itself --- */

/* Seconds; below 0: there is no state. */
static double lag_of(struct standby *s, struct state *t, struct standby_stats *st)
{
    pthread_mutex_lock(&s->lock_stats);
    *t = s->state;
    *st = s->stats;
    pthread_mutex_unlock(&s->lock_stats);
    if (!t->asked_us) return -1;
    int64_t us = clock_wall_us() - t->asked_us;
    return us > 0 ? (double)us / 1e6 : 0;
}

static const char *word_of(bool late, const struct standby_stats *st) { return late ? "late" : st->too_new ? "too_new" : "following"; }

static bool is_late(const struct standby *s, double lag)
{
    double most = s->every_s * 5 > LATE_S ? s->every_s * 5 : LATE_S;
    return lag < 0 || lag > most;
}

static void get_status(struct http_request *r)
{
    struct standby *s = r->server_user;
    struct state t;
    struct standby_stats st;
    struct buf b;
    double lag = lag_of(s, &t, &st);
    bool late = is_late(s, lag);
    buf_init(&b, METRICS_MAX);
    json_t *o = json_pack("{ss ss ss so so sI sI sI sI sI sI sI so so}", "object", "standby.status", "from", s->from, "state", word_of(late, &st), "behind_s",
                          lag < 0 ? json_null() : json_real(lag), "moment", t.wall_us ? json_real((double)t.wall_us / 1e6) : json_null(), "generation", (json_int_t)t.gen, "database_bytes",
                          (json_int_t)(t.pages * t.page_size), "receiving_pages", (json_int_t)st.receiving, "missing_files", (json_int_t)st.missing, "received_bytes", (json_int_t)st.received, "syncs", (json_int_t)st.syncs, "failures",
                          (json_int_t)st.failures, "error", *st.why ? json_string(st.why) : json_null(), "warning", *st.warning ? json_string(st.warning) : json_null());
    int rc = !o || json_dump(o, false, &b) || buf_addc(&b, '\n');
    json_decref(o);
    if (rc) http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for an answer"});
    else http_reply(r, (late || st.too_new) && strcmp(r->path, "/ready") == 0 ? 503 : 200, NULL, b.data, b.len);
    buf_close(&b);
}

static void set_meters(struct standby *s)
{
    struct state t;
    struct standby_stats st;
    int64_t free_bytes, size;
    double lag = lag_of(s, &t, &st);
    metric_clear(meters, M_LAG);
    if (lag >= 0) metric_set(meters, M_LAG, NULL, lag);
    metric_set(meters, M_SYNCS, NULL, (double)st.syncs);
    metric_set(meters, M_FAILURES, NULL, (double)st.failures);
    metric_set(meters, M_FAILING, NULL, *st.why || st.too_new);
    metric_set(meters, M_RECEIVED, NULL, (double)st.received);
    metric_set(meters, M_LAST_BYTES, NULL, (double)st.last_bytes);
    metric_set(meters, M_LAST_PAGES, NULL, (double)st.last_pages);
    metric_set(meters, M_RECEIVING, NULL, (double)st.receiving);
    metric_set(meters, M_MISSING, NULL, (double)st.missing);
    for (int i = 0; i < CHECKS; i++) metric_set(meters, M_UNVERIFIED, (const char *[]){check_name[i]}, (double)st.unverified[i]);
    metric_set(meters, M_TOOK, NULL, (double)st.took_us / 1e6);
    metric_set(meters, M_COMPARED, NULL, (double)st.compared);
    metric_set(meters, M_DATABASE, NULL, (double)(t.pages * t.page_size));
    disk_room(s->dir, &free_bytes, &size);
    metric_set(meters, M_FREE, NULL, (double)free_bytes);
}

static void get_metrics(struct http_request *r)
{
    struct buf b;
    buf_init(&b, METRICS_MAX);
    pthread_mutex_lock(&one_at_a_time);
    set_meters(r->server_user);
    int rc = metrics_print(meters, &b);
    pthread_mutex_unlock(&one_at_a_time);
    if (rc) http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for the metrics"});
    else http_reply(r, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    buf_close(&b);
}

static const struct http_route routes[] = {
    {.method = "GET", .pattern = "/health", .handle = get_status},
    {.method = "GET", .pattern = "/ready", .handle = get_status},
    {.method = "GET", .pattern = "/status", .handle = get_status},
    {.method = "GET", .pattern = "/metrics", .handle = get_metrics},
    {0},
};

static int open_listener(struct standby *s, const char *listen, struct http_server **out, struct err *e)
{
    char *bound = NULL;
    struct http_options o = {.listen = listen, .routes = routes, .workers = 1, .max_connections = LISTEN_CONNECTIONS, .idle_timeout_s = 60, .head_timeout_s = 10, .stream_buffer = 1 << 16, .user = s};
    if (!listen) return 0;
    if (!(meters = metrics_new(meter_rows, M_ROWS))) return err_set(e, ERR_NO_MEMORY, "no memory for metrics");
    if (http_server_start(out, &o, &bound, e)) return -1;
    log_info("listening", LS("standby", bound));
    free(bound);
    return 0;
}

/* --- following --- */

static void wait_s(double s)
{
    int64_t until = clock_mono_us() + (int64_t)(s * 1e6);
    const struct timespec tick = {.tv_nsec = LOOK_MS * 1000000};
    for (int64_t left; !is_asked_to_end() && (left = until - clock_mono_us()) > 0;)
        nanosleep(left < LOOK_MS * 1000 ? &(struct timespec){.tv_nsec = left * 1000} : &tick, NULL);
}

/* An outage is told when it begins and when it is over, and each reason once; so is what is wrong with a state that came. */
static void tell(const struct standby *s, int rc, const struct err *e, char was[400], char warned[400])
{
    if (*s->stats.warning && strcmp(warned, s->stats.warning) != 0) log_warn("standby_warns", LS("reason", s->stats.warning));
    snprintf(warned, 400, "%s", s->stats.warning);
    if (rc > 0) {
        log_info("standby_receives", LI("pages", s->stats.receiving), LI("bytes", s->stats.received), LI("behind_s", s->state.asked_us ? (clock_wall_us() - s->state.asked_us) / 1000000 : -1));
        return;
    }
    if (rc && strcmp(was, e->msg) != 0) log_warn("standby_failed", LS("reason", e->msg));
    if (!rc && (*was || s->stats.syncs == 1))
        log_info("standby_follows", LI("gen", s->state.gen), LI("pages", s->state.pages), LI("bytes", s->stats.last_bytes), LI("ms", s->stats.took_us / 1000));
    snprintf(was, 400, "%.399s", rc ? e->msg : "");
}

static void follow(struct standby *s)
{
    char was[400] = "", warned[400] = "";
    double failed_wait = s->every_s;
    while (!is_asked_to_end()) {
        struct err e = {0};
        int64_t began = clock_mono_us();
        int rc = standby_follow(s, &e);
        if (is_asked_to_end()) break;
        tell(s, rc, &e, was, warned);
        failed_wait = rc >= 0 ? s->every_s : failed_wait * 2 < FAILED_WAIT_MAX_S ? failed_wait * 2 : FAILED_WAIT_MAX_S;
        double took = (double)(clock_mono_us() - began) / 1e6;
        wait_s(rc < 0 ? failed_wait : took < s->every_s ? s->every_s - took : LOOK_MS / 1e3);
    }
    log_info("standby_ends", LS("reason", stop_asked ? "asked to stop" : "promotion"), LI("gen", s->state.gen));
}

/* --- the command --- */

static int complain(const struct err *e)
{
    fprintf(stderr, "weft-gateway: %s\n", e->msg);
    return e->code == ERR_USAGE ? 2 : 1;
}

static int bad_arguments(const char *what)
{
    fprintf(stderr, "weft-gateway: standby: %s\n%s", what, usage);
    return 2;
}

static bool is_this_machine(const char *url)
{
    static const char *const here[] = {"http://127.", "http://localhost:", "http://localhost/", "http://[::1]"};
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        if (strncmp(url, here[i], strlen(here[i])) == 0) return true;
    return false;
}

static int run(struct standby *s, const char *listen)
{
    struct err e = {0};
    struct http_server *server = NULL;
    int rc = standby_open(s, s->from, &e);
    followed = s;
    if (rc == 0 && standby_is_promoted(s)) rc = err_set(&e, ERR_CONFLICT, "%s is being promoted", s->dir);
    if (rc == 0) rc = standby_read_token(s, &e);
    if (rc == 0) rc = open_listener(s, listen, &server, &e);
    if (rc == 0) follow(s);
    if (server) http_server_stop(server, 100);
    metrics_free(meters);
    standby_close(s);
    explicit_bzero(s->token, sizeof s->token);
    return rc ? complain(&e) : 0;
}

int standby_main(int argc, char **argv)
{
    enum { FROM = 1, TOKEN, DATA, EVERY, LISTEN, CA, PLAIN, HELP };
    static const struct option options[] = {{"from", required_argument, NULL, FROM}, {"token-file", required_argument, NULL, TOKEN}, {"data", required_argument, NULL, DATA},
                                            {"every", required_argument, NULL, EVERY}, {"listen", required_argument, NULL, LISTEN}, {"ca-file", required_argument, NULL, CA},
                                            {"plain-http", no_argument, NULL, PLAIN}, {"help", no_argument, NULL, HELP}, {0}};
    static struct standby s = {.every_s = EVERY_S, .is_asked_to_end = is_asked_to_end};
    const char *listen = NULL;
    char none[] = "", *end = none;
    bool plain = false;
    optind = 2;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == FROM) s.from = optarg;
        else if (c == TOKEN) s.token_file = optarg;
        else if (c == DATA) s.dir = optarg;
        else if (c == EVERY) s.every_s = strtod(optarg, &end);
        else if (c == LISTEN) listen = optarg;
        else if (c == CA) s.ca_file = optarg;
        else if (c == PLAIN) plain = true;
        else if (c == HELP) return fputs(usage, stdout) < 0;
        else return bad_arguments("there is no such argument, or it lacks its value");
    }
    if (optind < argc || !s.from || !s.token_file || !s.dir || !*s.dir) return bad_arguments("--from, --token-file and --data are needed");
    if (*end || !(s.every_s >= EVERY_MIN_S && s.every_s <= EVERY_MAX_S)) return bad_arguments("--every takes 0.1 to 3600 seconds");
    if (strlen(s.from) > 900 || (strncmp(s.from, "https://", 8) != 0 && strncmp(s.from, "http://", 7) != 0)) return bad_arguments("--from takes an http:// or https:// address");
    if (strncmp(s.from, "http://", 7) == 0 && !plain && !is_this_machine(s.from)) return bad_arguments("http:// to another machine shows all there is to the network: use https://, or say --plain-http");
    struct sigaction on = {.sa_handler = on_signal};
    sigaction(SIGTERM, &on, NULL);
    sigaction(SIGINT, &on, NULL);
    return run(&s, listen);
}
