/* weft-gateway: puts the parts together, in an order that each can rely on, and takes them apart again.
 *
 *     settings -> database (lock!) -> auth, registry, ledger -> client -> engines -> what a crash left open is closed
 *       -> upstream, uploads -> admin listener -> public listener -> engine ready: ports file -> wait for SIGTERM or SIGINT
 *       -> listeners drain -> uploads, upstream -> engines -> client -> ledger -> registry, auth -> database
 *
 * The listeners open before the engine has read its model: /health answers, /ready says not yet, requests wait or get 503. Ends are settled
 * while the listener drains; what a hanging one leaves open is closed by the next start.
 *
 * A public socket that a service manager handed over (gateway/service.h) is accepted from only once an engine is there, or ready_wait_ms are over:
 * until then connections wait in its backlog, where the manager keeps them from one process to the next. At SIGTERM nothing more is accepted;
 * requests in flight finish; a connection that is kept alive may send one more request within linger_ms, is answered, and told to close. So
 * clients that never try again lose nothing in a restart.
 *
 * SIGHUP reads the settings again (gateway/settings.h). The main thread otherwise looks five times a second how great the pressure is (gateway/pressure.h), once a second it writes down which keys were
 * used and tells the service manager that we live, as long as gateway/alive.h finds that we do.
 *
 * `weft-gateway admin-key [--new] --data DIR` prints the first (or a further) admin key. It takes the same lock as the gateway, so it
 * never changes the database under a running one. So does `weft-gateway rebuild` (gateway/ledger/ledger_repair.c).
 *
 * Exit codes: 0 asked to stop, 1 failed, 2 bad arguments, 3 the engine refused the model. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "base/version.h"
#include "gateway/alive.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/openapi.h"
#include "gateway/backup/backup.h"
#include "gateway/backup/upkeep.h"
#include "gateway/capture/capture.h"
#include "gateway/db/db_audit.h"
#include "gateway/export/export_files.h"
#include "gateway/export/export_stream.h"
#include "gateway/gateway.h"
#include "gateway/limits/refused.h"
#include "gateway/live/live_stream.h"
#include "gateway/observe/meters.h"
#include "gateway/observe/observe.h"
#include "gateway/pool/blobs.h"
#include "gateway/pool/engine.h"
#include "gateway/proxy/quarantine.h"
#include "gateway/proxy/upstream.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/quality.h"
#include "gateway/quality/route_book.h"
#include "gateway/registry/models_kept.h"
#include "gateway/registry/upload.h"
#include "gateway/service.h"
#include "gateway/settings.h"
#include "gateway/standby/feed.h"
#include "gateway/standby/standby.h"
#include "gateway/stats/adapter_board.h"
#include "gateway/stats/stats_kept.h"
#include "gateway/webhook/webhook.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RECEIPTS_WAIT_MS 5000  /* for the engine, before open admissions are closed without its receipts */
#define LOOK_MS 200            /* between looks at an engine that is starting */
#define TICK_MS 1000           /* between looks at everything, once it is there */
#define PRESSURE_MS 200        /* between looks at the load */
#define ADMIN_WORKERS 2
#define ADMIN_DRAIN_MS 1000
#define LAST_WORDS_MS 1000 /* for errors that end what outlasted the drain */
#define IDLE_TIMEOUT_S 120 /* above all that is answered before: body_s, upload_quiet_s */
#define STREAM_BUFFER_ADMIN (1u << 20)
#define ENGINE_GRACE_MS 5000
#define ROUTES_MAX 256
#define TOKEN_MAX 512
#define BLOB_ROUTES_MAX 8
#define BLOB_WORKERS 2

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_ARGUMENTS = 2, EXIT_MODEL = 3 };

struct program {
    struct settings set; /* as they were at the start; what can change is read from g.set */
    struct gateway g;
    struct service service;
    struct alive alive;
    bool ready; /* an engine answered once, and the public listener is open */
    struct http_server *public, *admin, *blobs; /* blobs NULL: no listener for engines */
    char *public_at, *admin_at, *blobs_at; /* bound addresses */
    struct http_route public_routes[ROUTES_MAX], admin_routes[ROUTES_MAX], blob_routes[BLOB_ROUTES_MAX];
    char engine_path[1024], socket[768], run[768], cache[768], token[TOKEN_MAX];
};

static int exit_code(const struct err *e)
{
    return e->code == ERR_USAGE ? EXIT_ARGUMENTS : e->code == ERR_MODEL ? EXIT_MODEL : EXIT_FAILED;
}

static int complain(const struct err *e)
{
    fprintf(stderr, "weft-gateway: %s\n", e->msg);
    return exit_code(e);
}

/* --- settings --- */

/* Below the settings that --help lists: what else the program does. */
static void help_more(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0)
            puts("\n  weft-gateway admin-key --data DIR          print the first admin key, once; with --new a further one. Not while a gateway runs on DIR"
                 "\n  weft-gateway restore --from DIR --data DIR  make a data folder of a backup (docs/BACKUP.md)"
                 "\n  weft-gateway standby --from URL --token-file FILE --data DIR  keep DIR a few seconds behind the gateway at URL (docs/BACKUP.md)"
                 "\n  weft-gateway promote --data DIR             make a gateway's folder of a standby's: the next start on it takes over"
                 "\n  weft-gateway rebuild --data DIR             make all sums of usage anew from its rows, and compare them. Not while a gateway runs on DIR"
                 "\n  weft-gateway --version");
}

static int read_settings(struct program *p, int argc, char **argv, struct err *e)
{
    int rc = settings_open(&p->g.settings, argc, argv, e);
    if (rc > 0) help_more(argc, argv);
    if (rc) return rc;
    settings_follow(p->g.settings, &p->g.set);
    p->set = *settings_now(p->g.settings);
    log_init("weft-gateway", (enum log_level)log_level_parse(p->set.log_level));
    return 0;
}

static int read_token(const char *path, char out[TOKEN_MAX], struct err *e)
{
    out[0] = 0;
    if (!*path) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_errno(e, "engine_token_file %s", path);
    ssize_t n = read(fd, out, TOKEN_MAX - 1);
    close(fd);
    if (n < 0) return err_errno(e, "engine_token_file %s", path);
    out[n] = 0;
    out[strcspn(out, "\r\n")] = 0;
    return *out ? 0 : err_set(e, ERR_USAGE, "engine_token_file %s is empty", path);
}

/* weft-engine lies beside this program unless a setting says otherwise. */
static int find_engine(struct program *p, struct err *e)
{
    if (*p->set.engine) {
        snprintf(p->engine_path, sizeof p->engine_path, "%s", p->set.engine);
        return 0;
    }
    char self[900];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0) return err_errno(e, "/proc/self/exe");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    snprintf(p->engine_path, sizeof p->engine_path, "%s/weft-engine", self);
    return 0;
}

/* --- opening --- */

static int open_state(struct program *p, struct err *e)
{
    struct gateway *g = &p->g;
    struct db_options o = {.dir = p->set.data, .sync_ms = (int)p->set.sync_ms, .ack_durable = strcmp(p->set.ack, "durable") == 0, .cache_mb = (int)p->set.db_cache_mb};
    if (db_open(&g->db, &o, e)) return -1;
    snprintf(g->store, sizeof g->store, "%s/blobs", db_dir(g->db));
    snprintf(g->tmp, sizeof g->tmp, "%s/tmp", db_dir(g->db));
    if (auth_open(&g->auth, g->db, e) || registry_open(&g->registry, g->db, e) || ledger_open(&g->ledger, g->db, e) ||
        once_open(&g->once, g->db, e) || refused_open(&g->refused, g->db, e))
        return -1;
    g->metrics = metrics_new(gateway_meter_rows, GATEWAY_METERS);
    g->boards = boards_new(g->db);
    g->models = models_kept_new();
    if (!g->boards || !g->models) return err_set(e, ERR_NO_MEMORY, "no memory for adapters");
    g->kept = stats_kept_new(g->db, KEPT_BYTES_MAX);
    if (!g->kept) return err_set(e, ERR_NO_MEMORY, "no memory for sums of days");
    if (!g->metrics) return err_set(e, ERR_NO_MEMORY, "no memory for the metrics");
    ledger_set_metrics(g->ledger, g->metrics);
    if (captures_open(&g->captures, g->db, e) || prices_open(&g->prices, g->db, e) || takeover_read(g->db, g->takeover, e)) return -1;
    ledger_set_limits(g->ledger, NULL, g->prices);
    return 0;
}

/* Private tenants' requests go to engines of this machine; one at an address may be that, too. */
static bool is_here(const char *url)
{
    static const char *const here[] = {"unix:", "http://127.", "http://localhost", "http://[::1]"};
    if (!*url) return true;
    for (size_t i = 0; i < sizeof here / sizeof *here; i++)
        if (strncmp(url, here[i], strlen(here[i])) == 0) return true;
    return false;
}

static int open_engines(struct program *p, struct err *e)
{
    const struct settings *s = &p->set;
    bool own = *s->model || *s->engine_url;
    if (!own && !s->pool_only) return err_set(e, ERR_USAGE, "no model: set --model or WEFT_MODEL (or --engine-url, or --pool-only true)");
    if (find_engine(p, e) || read_token(s->engine_token_file, p->token, e)) return -1;
    snprintf(p->socket, sizeof p->socket, "%s/run/engine.sock", db_dir(p->g.db));
    snprintf(p->run, sizeof p->run, "%s/run", db_dir(p->g.db));
    snprintf(p->cache, sizeof p->cache, "%s/cache", db_dir(p->g.db));
    struct engine_options o = {
        .kind = &kind_weft, .name = *s->engine_url ? "remote" : "local", .local = is_here(s->engine_url), .url = s->engine_url, .secret = p->token,
        .program = p->engine_path, .model = s->model, .base_name = s->base_name, .precision = s->precision, .device = s->device, .tp = (int)s->tp, .kernels = s->kernels, .kv_type = s->kv_type, .confine = s->engine_confine,
        .chat_template = s->chat_template, .draft_model = s->draft_model, .medusa = s->medusa, .medusa_nodes = (int)s->medusa_nodes, .speculate = (int)s->speculate, .prefix_cache = s->prefix_cache,
        .socket = p->socket, .store = p->g.store, .cache = s->engine_cache_mb ? p->cache : "", .cache_mb = (int)s->engine_cache_mb, .adapter_mb = (int)s->adapter_mb,
        .max_context = (int)s->max_context, .max_slots = (int)s->max_slots, .kv_mb = (int)s->kv_mb, .threads = (int)s->threads,
        .max_running = (int)s->max_running,
    };
    if (client_new(&p->g.client, (int)s->max_connections, e)) return -1;
    if (quarantine_open(&p->g.blame, &p->g, e)) return -1;
    struct pool_options pool = {.db = p->g.db, .client = p->g.client, .run = p->run, .spawn = &o, .own = own ? &o : NULL, .ended = quarantine_ended, .user = &p->g};
    return pool_open(&p->g.pool, &pool, e);
}

/* Engines that outlived the last gateway still know what they produced: they are given a moment to answer. */
static int recover(struct program *p, struct err *e)
{
    struct err waited = {0};
    int closed;
    if (ledger_open_admissions(p->g.ledger) == 0) return 0;
    pool_wait_all(p->g.pool, RECEIPTS_WAIT_MS);
    pool_wait(p->g.pool, 0, &waited);
    if (waited.code == ERR_MODEL) {
        *e = waited;
        return -1;
    }
    return ledger_recover(p->g.ledger, pool_receipt, p->g.pool, &closed, e);
}

static int join(struct http_route *out, int max, const struct http_route *const *tables, struct err *e)
{
    int n = 0;
    for (; *tables; tables++)
        for (const struct http_route *r = *tables; r->method; r++) {
            if (n == max - 1) return err_set(e, ERR_INTERNAL, "more than %d routes", max - 1);
            out[n++] = *r;
        }
    return 0;
}

static void count_answer(const struct http_request *r, const char *listener, int status)
{
    const struct gateway *g = r->server_user;
    char code[16];
    snprintf(code, sizeof code, "%d", status);
    metric_add(g->metrics, GM_HTTP, (const char *[]){listener, r->route ? r->route->pattern : "none", code}, 1);
}

static int open_traces(struct program *p, struct err *e)
{
    char instance[UUID_LEN];
    if (!*p->set.otlp_url) return 0;
    uuid7(instance);
    struct otlp_options o = {.url = p->set.otlp_url, .token_file = p->set.otlp_token_file, .instance = instance, .metrics = p->g.metrics};
    return otlp_open(&p->g.otlp, &o, e);
}

static void count_public(const struct http_request *r, int status, uint64_t bytes, int64_t us)
{
    count_answer(r, "public", status);
    observe_answered(r, "public", status, bytes, us);
}

static void count_admin(const struct http_request *r, int status, uint64_t bytes, int64_t us)
{
    count_answer(r, "admin", status);
    observe_answered(r, "admin", status, bytes, us);
}

static void count_blobs(const struct http_request *r, int status, uint64_t bytes, int64_t us)
{
    count_answer(r, "blobs", status);
    observe_answered(r, "blobs", status, bytes, us);
}

/* The listener for engines that fetch adapters. */
static int open_blobs(struct program *p, struct err *e)
{
    struct http_options o = {
        .listen = p->set.blob_listen, .routes = p->blob_routes, .workers = BLOB_WORKERS, .max_connections = BLOB_CONNECTIONS, .idle_timeout_s = IDLE_TIMEOUT_S,
        .head_timeout_s = (int)p->set.head_s, .body_timeout_s = (int)p->set.body_s, .send_timeout_s = (int)p->set.send_s, .stream_buffer = STREAM_BUFFER_ADMIN, .user = &p->g,
        .done = count_blobs,
    };
    if (!*p->set.blob_listen) return 0;
    if (join(p->blob_routes, BLOB_ROUTES_MAX, gateway_blob_routes, e) || http_server_start(&p->blobs, &o, &p->blobs_at, e)) return -1;
    p->g.blob_server = p->blobs;
    log_info("listening", LS("blobs", p->blobs_at));
    return 0;
}

static int open_public(struct program *p, struct err *e)
{
    char fd[16];
    struct http_options o = {
        .listen = service_listen(p->service.public, p->set.listen, fd), .routes = p->public_routes, .workers = (int)p->set.http_workers,
        .max_connections = (int)p->set.max_connections, .idle_timeout_s = IDLE_TIMEOUT_S, .head_timeout_s = (int)p->set.head_s,
        .body_timeout_s = (int)p->set.body_s, .sink_quiet_s = (int)p->set.upload_quiet_s, .sink_slow_s = (int)p->set.upload_slow_s, .send_timeout_s = (int)p->set.send_s, .stream_buffer = (size_t)p->set.stream_buffer,
        .user = &p->g, .gate = pressure_gate, .arrives = arrival_begin, .arrived = arrival_end, .done = count_public,
    };
    if (http_server_start(&p->public, &o, &p->public_at, e)) return -1;
    p->g.public_server = p->public;
    evaluations_listens(p->g.evaluations, p->public_at);
    alive_open(&p->alive, &p->g, p->public_at, p->service.watchdog_us);
    log_info("listening", LS("public", p->public_at), LS("admin", p->admin_at));
    service_ready(&p->service);
    return 0;
}

static int open_listeners(struct program *p, struct err *e)
{
    const struct http_route *const served[DOCS_LISTENERS] = {[DOCS_PUBLIC] = p->public_routes, [DOCS_ADMIN] = p->admin_routes};
    if (join(p->admin_routes, ROUTES_MAX, gateway_admin_routes, e) || join(p->public_routes, ROUTES_MAX, gateway_public_routes, e) || docs_open(&p->g.docs, served, e)) return -1;
    char fd[16];
    struct http_options o = {
        .listen = service_listen(p->service.admin, p->set.admin_listen, fd), .routes = p->admin_routes, .workers = ADMIN_WORKERS,
        .max_connections = ADMIN_CONNECTIONS, .idle_timeout_s = IDLE_TIMEOUT_S, .head_timeout_s = (int)p->set.head_s, .body_timeout_s = (int)p->set.body_s,
        .sink_quiet_s = (int)p->set.upload_quiet_s, .sink_slow_s = (int)p->set.upload_slow_s, .send_timeout_s = (int)p->set.send_s, .stream_buffer = STREAM_BUFFER_ADMIN,
        .user = &p->g, .done = count_admin,
    };
    if (http_server_start(&p->admin, &o, &p->admin_at, e)) return -1;
    p->g.admin_server = p->admin;
    if (open_blobs(p, e)) return -1;
    return p->service.public < 0 ? open_public(p, e) : 0; /* one that was handed over waits for an engine: serve() */
}

static int open_all(struct program *p, struct err *e)
{
    pressure_open(&p->g.pressure);
    arrivals_open(&p->g.arrivals);
    if (open_state(p, e) || open_engines(p, e) || recover(p, e) || limits_open(&p->g.limits, p->g.db, e)) return -1;
    ledger_set_limits(p->g.ledger, p->g.limits, p->g.prices);
    if (upkeep_open(&p->g.upkeep, &p->g, e) || feed_open(&p->g.feed, &p->g, e) || blobs_open(&p->g.blobs, &p->g, e)) return -1;
    if (route_book_open(&p->g.routing, p->g.db, e)) return -1;
    if (evaluations_open(&p->g.evaluations, &p->g, e) || quality_open(&p->g.quality, &p->g, e) || upstream_open(&p->g.upstream, &p->g, e) || uploads_open(&p->g.uploads, &p->g, e) || live_streams_open(&p->g.streams, &p->g, e))
        return -1;
    if (exports_open(&p->g.exports, &p->g, e) || export_files_open(&p->g.export_files, &p->g, e) ||
        webhooks_open(&p->g.webhooks, &p->g, e) || open_traces(p, e))
        return -1;
    return open_listeners(p, e);
}

/* Something is in flight, or an idle connection may still bring a request. */
static bool is_busy(const struct program *p, int64_t linger_until)
{
    if (http_server_in_flight(p->public) > 0) return true;
    return http_server_connections(p->public) > 0 && clock_mono_us() < linger_until;
}

/* Requests that outlast the drain end in an error of their own, not in a connection that breaks off. */
static void drain(struct program *p)
{
    const struct timespec tick = {.tv_nsec = 5000000};
    const struct settings *set = p->g.set;
    int64_t now = clock_mono_us(), until = now + set->drain_ms * 1000, linger_until = now + set->linger_ms * 1000;
    http_server_quiesce(p->public);
    live_streams_stop(p->g.streams); /* they would last longer than the drain */
    while (is_busy(p, linger_until) && clock_mono_us() < until) nanosleep(&tick, NULL);
    if (http_server_in_flight(p->public) == 0) return;
    log_warn("drain_over", LI("in_flight", http_server_in_flight(p->public)));
    upstream_stop(p->g.upstream);
    client_stop(p->g.client);
}

/* Nothing runs any more: what is held still is of a request that never ended, or was forgotten. */
static void tell_held(struct limits *l)
{
    struct limit_held h = l ? limit_all_held(l) : (struct limit_held){0};
    if (h.places || h.tokens || h.cost) log_error("held_at_stop", LI("places", h.places), LI("tokens", h.tokens), LI("cost_nano", h.cost));
}

static void close_all(struct program *p)
{
    struct gateway *g = &p->g;
    if (p->public) drain(p);
    metrics_forget_public(g);
    if (p->public) http_server_stop(p->public, LAST_WORDS_MS);
    live_streams_stop(g->streams);
    if (p->blobs) http_server_stop(p->blobs, ADMIN_DRAIN_MS);
    if (p->admin) http_server_stop(p->admin, ADMIN_DRAIN_MS);
    live_streams_close(g->streams);
    exports_close(g->exports);
    export_files_close(g->export_files);
    webhooks_stop(g->webhooks);
    blame_stop(g->blame);
    blobs_close(g->blobs);
    uploads_close(g->uploads);
    upstream_close(g->upstream);
    quality_close(g->quality);
    evaluations_close(g->evaluations);
    route_book_close(g->routing);
    if (g->pool) pool_close(g->pool, settings_now(g->settings)->engine_keep, ENGINE_GRACE_MS);
    blame_close(g->blame);
    if (g->client) client_free(g->client);
    otlp_close(g->otlp);
    docs_close(g->docs);
    once_close(g->once);
    upkeep_close(g->upkeep);
    captures_close(g->captures);
    feed_close(g->feed);
    ledger_close(g->ledger);
    refused_stop(g->refused);
    registry_close(g->registry);
    auth_close(g->auth);
    db_close(g->db);
    refused_free(g->refused);
    boards_free(g->boards);
    models_kept_free(g->models);
    stats_kept_free(g->kept);
    webhooks_close(g->webhooks);
    tell_held(g->limits);
    limits_close(g->limits); /* the last settlements came with the database's end */
    prices_close(g->prices);
    metrics_free(g->metrics);
    settings_close(g->settings);
    service_close(&p->service);
    free(p->public_at);
    free(p->admin_at);
    free(p->blobs_at);
}

/* --- running --- */

static void print_url(FILE *f, const char *name, const char *at)
{
    bool is_unix = strncmp(at, "unix:", 5) == 0;
    fprintf(f, "%s='%s%s'\n", name, is_unix ? "" : "http://", at);
}

/* Renamed into place whole: who waits for the file never reads half of it. */
static int write_ports(const struct program *p, struct err *e)
{
    const char *path = p->set.ports_file;
    char fresh[4200];
    if (!*path) return 0;
    if (snprintf(fresh, sizeof fresh, "%s.new", path) >= (int)sizeof fresh) return err_set(e, ERR_USAGE, "ports_file is too long");
    FILE *f = fopen(fresh, "we");
    if (!f) return err_errno(e, "ports_file %s", fresh);
    print_url(f, "WEFT_URL", p->public_at);
    print_url(f, "WEFT_ADMIN_URL", p->admin_at);
    if (p->blobs) print_url(f, "WEFT_BLOB_URL", p->blobs_at);
    bool failed = ferror(f);
    if (fclose(f) || failed || rename(fresh, path)) return err_errno(e, "ports_file %s", path);
    return 0;
}

/* The next signal, or 0 after wait_ms. */
static int next_signal(const sigset_t *signals, int wait_ms)
{
    struct timespec t = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000l};
    int sig = sigtimedwait(signals, NULL, &t);
    return sig > 0 ? sig : 0;
}

static void say_where(const struct program *p)
{
    service_status(&p->service, "Serving on %s, admin on %s", p->public_at, p->admin_at);
}

/* The manager hears of a reload only once it was told that we are ready: the end of one says so again. */
static void read_again(struct program *p)
{
    static const struct actor manager = {.key = "system", .ip = "", .request = ""};
    struct err e = {0};
    if (p->public) service_reloading(&p->service);
    if (settings_reload(p->g.settings, p->g.db, &manager, NULL, &e)) log_error("settings_refused", LS("error", e.msg));
    if (p->public) service_ready(&p->service);
    if (p->ready) say_where(p);
}

/* Opens what waits for an engine. -1 when the engine refuses the model. */
static int look_for_engine(struct program *p, int64_t public_at_us, struct err *e)
{
    struct err now = {0};
    bool there = pool_wait(p->g.pool, 0, &now) == 0;
    if (now.code == ERR_MODEL) {
        *e = now;
        return -1;
    }
    if (!p->public && (there || clock_mono_us() >= public_at_us) && open_public(p, e)) return -1;
    if (!there) return 0;
    if (write_ports(p, e)) return -1;
    p->ready = true;
    log_info("ready", LS("public", p->public_at), LS("admin", p->admin_at));
    say_where(p);
    return 0;
}

/* Until asked to stop; -1 when the engine refuses the model at the start. */
static int serve(struct program *p, const sigset_t *signals, struct err *e)
{
    int64_t public_at_us = clock_mono_us() + p->set.ready_wait_ms * 1000, tick_us = 0;
    service_status(&p->service, "Waiting for an engine");
    for (;;) {
        if (!p->ready && look_for_engine(p, public_at_us, e)) return -1;
        pressure_look(&p->g.pressure, &p->g);
        if (clock_mono_us() >= tick_us) {
            tick_us = clock_mono_us() + (p->ready ? TICK_MS : LOOK_MS) * 1000LL;
            auth_note_uses(p->g.auth);
            refused_tick(p->g.refused);
            prices_tick(p->g.prices);
            feed_tick(p->g.feed);
            evaluations_tick(p->g.evaluations);
            boards_tick(p->g.boards, clock_wall_us() / 1000000);
            if (alive_look(&p->alive)) service_alive(&p->service);
        }
        int sig = next_signal(signals, PRESSURE_MS);
        if (sig == SIGHUP) read_again(p);
        if (sig == SIGTERM || sig == SIGINT) {
            log_info("stopping", LI("signal", sig));
            service_stopping(&p->service);
            return 0;
        }
    }
}

static int run(struct program *p, int argc, char **argv, const sigset_t *signals)
{
    struct err e = {0};
    int rc = read_settings(p, argc, argv, &e);
    if (rc > 0) return EXIT_OK;
    if (rc == 0) rc = service_open(&p->service, &e);
    if (rc == 0) rc = open_all(p, &e);
    if (rc == 0) rc = serve(p, signals, &e);
    close_all(p);
    if (rc == 0) log_info("stopped");
    return rc ? complain(&e) : EXIT_OK;
}

/* argv[1] is "admin-key": the first key, or with --new a further one; printed once, on standard output. */
static int admin_key(int argc, char **argv)
{
    struct settings_live *set = NULL;
    struct db *d = NULL;
    struct err e = {0};
    char text[KEY_TEXT_LEN];
    bool more = false;
    int n = 1;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--new") == 0) more = true;
        else argv[n++] = argv[i];
    }
    argv[n] = NULL;
    int rc = settings_open(&set, n, argv, &e);
    if (rc > 0) return EXIT_OK;
    if (rc == 0) rc = db_open(&d, &(struct db_options){.dir = settings_now(set)->data}, &e);
    if (rc == 0) rc = more ? auth_new_admin_key(d, text, &e) : auth_first_admin_key(d, text, &e);
    db_close(d);
    settings_close(set);
    if (rc) return complain(&e);
    if (*text) puts(text);
    else fprintf(stderr, "weft-gateway: an admin key exists already; --new makes a further one\n");
    explicit_bzero(text, sizeof text);
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

int main(int argc, char **argv)
{
    static struct program program = {.service = {.notify = -1, .public = -1, .admin = -1}};
    sigset_t signals;
    confine_start();
    umask(0077);
    signal(SIGPIPE, SIG_IGN);
    json_start();
    log_init("weft-gateway", LOG_INFO);
    if (argc > 1 && strcmp(argv[1], "--version") == 0) return puts("weft-gateway " WEFT_VERSION) < 0 ? EXIT_FAILED : EXIT_OK;
    if (argc > 1 && strcmp(argv[1], "admin-key") == 0) return admin_key(argc, argv);
    if (argc > 1 && strcmp(argv[1], "restore") == 0) return restore_main(argc, argv);
    if (argc > 1 && strcmp(argv[1], "standby") == 0) return standby_main(argc, argv);
    if (argc > 1 && strcmp(argv[1], "promote") == 0) return promote_main(argc, argv);
    if (argc > 1 && strcmp(argv[1], "rebuild") == 0) return rebuild_main(argc, argv);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread, so only serve() gets them */
    return run(&program, argc, argv, &signals);
}
