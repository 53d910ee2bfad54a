/* The watcher of one engine: one thread, one state.
 *
 *              spawn, or adopt              it was greeted, and a look found what it serves
 *     DOWN ------------------------> STARTING -------------------------------> READY
 *      ^                                |                                        |
 *      +--- process ended, after 250 ms doubling to 10 s (30 s for exit code 3) --+
 *
 * A request that met a dead connection makes the engine suspect: not ready until the next look succeeds. Where a secret
 * goes over the network each of these looks begins with the greeting, for somebody else may have taken the address.
 *
 * The end of the process wakes the watcher at once (its pidfd is polled); otherwise it looks every second. What the
 * engine holds in memory ends with it, so the digests known to be loaded are forgotten.
 *
 * An engine with the pid file's pid, start time and fingerprint is ours and is adopted; one of ours with another
 * fingerprint (another model, other settings or another environment, a new program) is asked to stop. Whatever else answers on the socket is
 * nobody to kill: the watcher waits until it is gone.
 *
 * With `url` there is no process: only looks, and DOWN lasts no longer than it takes to say so.
 *
 * How a life ended is told a moment later, before the next one: by then everybody who was lost with it has noticed (gateway/proxy/blame.h). */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "gateway/pool/engine_impl.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STARTING_TICK_MS 50
#define READY_TICK_MS 1000
#define COUNT_TICKS 5 /* looks at its queue for one at its counters */
#define ASKED_SELDOM_MS 15000 /* an upstream that is not there, in the end */
#define BACKOFF_FIRST_MS 250
#define BACKOFF_MAX_MS 10000
#define BACKOFF_RESET_US (60 * 1000000LL)
#define REFUSED_RETRY_MS 30000         /* the model may have been replaced */
#define START_MAX_US (600 * 1000000LL) /* longest load of a model */
#define HEALTH_FAILURES_MAX 15         /* in a row, of a process that lives: it hangs */
#define URL_FAILURES_MAX 3
#define END_GRACE_MS 10000
#define COMPLAIN_US (60 * 1000000LL) /* the same complaint is logged so often */
#define JUDGE_MS 200 /* after an end: who was lost with it has noticed by then */
#define EXIT_BAD_ARGUMENTS 2
#define EXIT_MODEL 3
#define EXIT_DEVICE 4

const char *const engine_state_name[] = {"down", "starting", "ready"};

static void set_state(struct engine *g, enum engine_state state)
{
    pthread_mutex_lock(&g->lock);
    if (g->state == ENGINE_READY && state != ENGINE_READY) loads_lost(g);
    if (state == ENGINE_READY && g->state != ENGINE_READY) g->lives++;
    g->state = state;
    g->suspect = false;
    if (state != ENGINE_READY) {
        g->queue = (struct engine_queue){0};
    }
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* --- DOWN --- */

/* The engine's exit codes (schema/ENGINE_API.md); its own words stand in the log before. */
static const char *why_of(int exit_code)
{
    switch (exit_code) {
    case EXIT_BAD_ARGUMENTS:
        return "its arguments were refused";
    case EXIT_MODEL:
        return "the model was refused";
    case EXIT_DEVICE:
        return "its device was refused, failed, or did not come back";
    default:
        return "";
    }
}

static bool lives(struct engine *g)
{
    struct engine_link l;
    int status = 0;
    char *body = NULL;
    size_t len;
    if (!g->o.kind->alive) return true;
    engine_get_link(g, &l);
    if (kind_get(&l, g->o.kind->alive, !g->o.kind->alive_open, &status, &body, &len, NULL)) return false;
    free(body);
    return status == 200;
}

/* Its own doing, or what it served; not a signal that came from outside, or to close it, but for the kernel's own for want of memory: then somebody was ended
 * since `kills` were counted, within a second of this. What is not known (-1) blames nobody. */
static bool is_crash(int exit_code, int64_t kills)
{
    switch (exit_code) {
    case 128 + SIGKILL:
        return kills >= 0 && memory_oom_kills() > kills;
    case -1:
    case 0:
    case EXIT_BAD_ARGUMENTS:
    case EXIT_MODEL:
    case 128 + SIGHUP:
    case 128 + SIGINT:
    case 128 + SIGTERM:
        return false;
    default:
        return true;
    }
}

/* The life that it was ready in is over. */
static void life_over(struct engine *g, bool crashed)
{
    if (g->ended == g->lives) return; /* it never became ready */
    g->ended = g->lives;
    g->crashed = crashed;
    g->judge_us = clock_mono_us() + JUDGE_MS * 1000;
}

/* How long until it is told, in ms; 0: nothing is to be told. */
static int tell_end(struct engine *g)
{
    int64_t left = g->judge_us - clock_mono_us();
    if (!g->judge_us) return 0;
    if (left > 0) return (int)(left / 1000) + 1;
    g->judge_us = 0;
    if (g->o.ended) g->o.ended(g->o.user, g->o.name, g->ended, g->crashed);
    return 0;
}

static void went_down(struct engine *g, int exit_code)
{
    int64_t now = clock_mono_us();
    bool refused = exit_code == EXIT_MODEL;

    if (now - g->since_us > BACKOFF_RESET_US) g->backoff_ms = 0;
    g->backoff_ms = g->backoff_ms ? g->backoff_ms * 2 : BACKOFF_FIRST_MS;
    if (g->backoff_ms > BACKOFF_MAX_MS) g->backoff_ms = BACKOFF_MAX_MS;
    int wait_ms = refused ? REFUSED_RETRY_MS : g->backoff_ms;
    g->retry_us = now + wait_ms * 1000LL;
    log_error("engine_down", LI("exit", exit_code), LS("engine", g->o.name), LI("retry_ms", wait_ms),
              LS("why", why_of(exit_code)));
    life_over(g, is_crash(exit_code, g->oom_kills));
    process_forget(g, &g->proc);
    pthread_mutex_lock(&g->lock);
    g->refused = refused;
    pthread_mutex_unlock(&g->lock);
    set_state(g, ENGINE_DOWN);
}

/* 1: ours and fit, now g->proc; 0: nobody is there; -1: somebody is, wait. */
static int adopt(struct engine *g)
{
    struct engine_process p;
    char fingerprint[ENGINE_FINGERPRINT];
    if (process_find(g, &p, fingerprint) == 0) {
        if (strcmp(fingerprint, g->fingerprint) == 0) {
            g->proc = p;
            log_info("engine_adopted", LS("engine", g->o.name), LI("pid", p.pid));
            return 1;
        }
        log_info("engine_replaced", LS("engine", g->o.name), LI("pid", p.pid),
                 LS("why", "it was started with other settings or files"));
        process_end(g, &p, END_GRACE_MS);
    }
    if (!lives(g)) return 0;
    log_warn("engine_foreign", LS("socket", g->o.socket),
             LS("why", "a program that this gateway did not start answers there"));
    return -1;
}

static int step_down(struct engine *g)
{
    struct err e = {0};
    int64_t now = clock_mono_us();
    int untold_ms = tell_end(g);
    if (untold_ms) return untold_ms;
    if (now < g->retry_us) return (int)((g->retry_us - now) / 1000) + 1;
    if (g->spawned) {
        int rc = adopt(g);
        if (rc < 0) {
            g->retry_us = now + BACKOFF_MAX_MS * 100LL;
            return 0;
        }
        if (rc == 0 && process_spawn(g, &g->proc, &e)) {
            log_error("engine_spawn", LS("engine", g->o.name), LS("error", e.msg));
            g->since_us = now;
            went_down(g, -1);
            return 0;
        }
    }
    g->since_us = now;
    g->failures = 0;
    set_state(g, ENGINE_STARTING);
    return 0;
}

/* --- STARTING --- */

/* What keeps it from serving: for who asks, and in the log once a while. */
static void complain(struct engine *g, const struct err *e)
{
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&g->lock);
    bool fresh = strcmp(g->why, e->msg) != 0;
    snprintf(g->why, sizeof g->why, "%.255s", e->msg);
    pthread_mutex_unlock(&g->lock);
    if (g->spawned && g->state == ENGINE_STARTING) return; /* it loads its model, most likely */
    if (!fresh && now - g->complained_us < COMPLAIN_US) return;
    g->complained_us = now;
    log_warn("engine_look", LS("engine", g->o.name), LS("error", e->msg));
}

static void note_view(struct engine *g, const struct engine_view *v)
{
    pthread_mutex_lock(&g->lock);
    g->view = *v;
    g->known = true;
    g->refused = false;
    g->why[0] = 0;
    pthread_mutex_unlock(&g->lock);
}

/* 0: it proved itself, if it must, and said what it serves. */
static int look(struct engine *g, struct engine_view *v, struct err *e)
{
    struct engine_link l;
    engine_get_link(g, &l);
    if (g->o.kind->greet && l.secret[0] && !l.unix_socket && g->o.kind->greet(&l, e)) return -1;
    if (g->o.kind->look(&l, v, e)) return -1;
    if (g->proc.pid && v->pid && v->pid != g->proc.pid)
        return err_set(e, ERR_ENGINE, "process %d answers, not the one that was started", (int)v->pid);
    return 0;
}

static bool learn(struct engine *g)
{
    struct engine_view v = {0};
    struct engine_link l;
    struct err e = {0};
    if (look(g, &v, &e)) {
        complain(g, &e);
        return false;
    }
    /* At an address nobody sees how it ended; but that another process is there tells that it did, and whoever stops an engine in order lets it
     * answer what it has, so that nobody is lost with it. */
    if (!g->spawned) {
        life_over(g, g->view.pid && v.pid && v.pid != g->view.pid);
        if (g->judge_us) g->judge_us = 1; /* it was looked for all the while */
        tell_end(g);
    }
    note_view(g, &v);
    engine_get_link(g, &l);
    if (g->o.kind->residents && g->o.kind->residents(&l, loads_note, g, NULL))
        log_debug("engine_residents", LS("engine", g->o.name)); /* a load of what is there is harmless */
    log_info("engine_ready", LS("engine", g->o.name), LS("kind", g->o.kind->name),
             LS("base", g->o.base[0] ? g->o.base : v.model), LI("context", v.max_context), LI("pid", v.pid),
             LS("device", v.device.backend), LS("device_name", v.device.name), LI("ranks", v.device.ranks),
             LI("ms", (clock_mono_us() - g->since_us) / 1000));
    return true;
}

/* One that is not asked every second whether it lives is somebody else's, and may count what it is asked. */
static int starting_tick(struct engine *g)
{
    int ms = g->spawned ? STARTING_TICK_MS : STARTING_TICK_MS * 5;
    if (g->o.kind->alive) return ms;
    for (int i = 0; i < g->failures && ms < ASKED_SELDOM_MS; i++) ms *= 2;
    g->failures++;
    return ms < ASKED_SELDOM_MS ? ms : ASKED_SELDOM_MS;
}

/* Its counters since it became ready. `begin`: it does now; what it counted before is not ours to compare. */
static void look_at_counts(struct engine *g, bool begin)
{
    struct engine_link l;
    struct engine_counts c = {0};
    if (!g->o.kind->counts || (!begin && g->ticks++ % COUNT_TICKS)) return;
    engine_get_link(g, &l);
    bool told = g->o.kind->counts(&l, &c) == 0 && (begin || (c.requests >= g->first.requests && c.output >= g->first.output));
    if (begin) g->first = told ? c : (struct engine_counts){INT64_MAX, INT64_MAX}; /* then it is never told */
    pthread_mutex_lock(&g->lock);
    if (begin) g->tally = (struct engine_tally){0};
    g->tally.told = told;
    if (told) g->tally.theirs = (struct engine_counts){c.requests - g->first.requests, c.output - g->first.output};
    pthread_mutex_unlock(&g->lock);
}

static int step_starting(struct engine *g)
{
    int64_t kills = memory_oom_kills();
    if (learn(g)) {
        g->failures = 0;
        look_at_counts(g, true);
        g->oom_kills = kills;
        set_state(g, ENGINE_READY);
        return READY_TICK_MS;
    }
    if (g->proc.pid && clock_mono_us() - g->since_us > START_MAX_US) {
        log_error("engine_start", LS("engine", g->o.name), LS("why", "the model was not loaded in time"));
        process_end(g, &g->proc, END_GRACE_MS);
        went_down(g, -1);
    }
    return starting_tick(g);
}

/* --- READY --- */

static void look_at_queue(struct engine *g)
{
    struct engine_link l;
    struct engine_queue q = {0};
    if (!g->o.kind->queue) return;
    engine_get_link(g, &l);
    if (g->o.kind->queue(&l, &q, NULL)) return; /* the last one counts a little longer */
    pthread_mutex_lock(&g->lock);
    g->queue = q;
    pthread_mutex_unlock(&g->lock);
}

/* Another process than the one that was looked at before, or another base. Only the watcher writes the view. */
static bool is_another(const struct engine *g, const struct engine_view *v)
{
    const struct engine_view *was = &g->view;
    return v->pid != was->pid || v->max_context != was->max_context || strcmp(v->model, was->model) != 0 ||
           strcmp(v->base.digest, was->base.digest) != 0;
}

/* At an address anything may answer that was started there meanwhile, so it is looked at as if it were new; one of kind
 * openai is not asked at all until it is suspected. A process of ours shows its end by itself. */
static bool still_there(struct engine *g, bool suspect)
{
    struct engine_view v = {0};
    struct err e = {0};
    bool again = suspect || (!g->spawned && g->o.kind->alive);
    if (!suspect && !lives(g)) return false;
    if (!again) return true;
    if (look(g, &v, &e)) {
        complain(g, &e);
        if (e.code == ERR_UNAUTHORIZED) g->failures = URL_FAILURES_MAX; /* the next request would give it the token */
        return false;
    }
    if (is_another(g, &v)) {
        log_warn("engine_replaced", LS("engine", g->o.name), LS("why", "another one answers there"));
        g->failures = URL_FAILURES_MAX;
        return false;
    }
    note_view(g, &v);
    return true;
}

static int step_ready(struct engine *g)
{
    bool suspect = g->suspect;
    int64_t kills = memory_oom_kills(); /* before it is asked: who is being ended may be there a while, and answers no more */
    if (still_there(g, suspect)) {
        g->oom_kills = kills;
        g->failures = 0;
        if (suspect) set_state(g, ENGINE_READY);
        look_at_queue(g);
        look_at_counts(g, false);
        return READY_TICK_MS;
    }
    g->failures++;
    if (!g->spawned) {
        if (g->failures < URL_FAILURES_MAX && !suspect) return READY_TICK_MS;
        log_error("engine_lost", LS("engine", g->o.name), LS("url", g->o.url));
        suspect = true;
        g->since_us = clock_mono_us();
        g->failures = 0;
        set_state(g, ENGINE_STARTING);
    } else if (g->failures >= HEALTH_FAILURES_MAX) {
        log_error("engine_hangs", LS("engine", g->o.name), LI("pid", g->proc.pid));
        life_over(g, true);
        process_end(g, &g->proc, END_GRACE_MS);
        went_down(g, -1);
    }
    return suspect ? STARTING_TICK_MS : READY_TICK_MS;
}

/* --- the thread --- */

static bool stopping(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    bool stop = g->stop;
    pthread_mutex_unlock(&g->lock);
    return stop;
}

static void nap(struct engine *g, int ms)
{
    struct pollfd fd[2] = {{.fd = g->wake, .events = POLLIN},
                           {.fd = g->proc.pid ? g->proc.pidfd : -1, .events = POLLIN}};
    uint64_t count;
    poll(fd, 2, ms);
    if (fd[0].revents & POLLIN && read(g->wake, &count, sizeof count) < 0 && errno != EAGAIN)
        log_warn("engine_wake", LI("errno", errno));
}

static void *watch(void *p)
{
    struct engine *g = p;
    while (!stopping(g)) {
        int ms = 0, code = -1;
        if (g->proc.pid && !process_alive(&g->proc, &code)) went_down(g, code);
        switch (g->state) { /* only this thread changes it */
        case ENGINE_DOWN:
            ms = step_down(g);
            break;
        case ENGINE_STARTING:
            ms = step_starting(g);
            break;
        case ENGINE_READY:
            ms = step_ready(g);
            unloads_repeat(g);
            break;
        }
        nap(g, ms);
    }
    return NULL;
}

static void wake(struct engine *g)
{
    uint64_t one = 1;
    if (write(g->wake, &one, sizeof one) < 0 && errno != EAGAIN) log_warn("engine_wake", LI("errno", errno));
}

/* --- life --- */

static void engine_free(struct engine *g)
{
    const char *strings[] = {g->o.name,          g->o.base,       g->o.url,       g->o.secret,    g->o.upstream_model,
                             g->o.program,       g->o.model,      g->o.base_name, g->o.precision, g->o.kernels,
                             g->o.socket,        g->o.store,      g->o.cache,     g->o.kv_type,   g->o.device,
                             g->o.chat_template, g->o.draft_model, g->o.medusa,    g->o.confine};
    if (g->o.secret) explicit_bzero((char *)g->o.secret, strlen(g->o.secret));
    if (g->auth) explicit_bzero(g->auth, strlen(g->auth));
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free((char *)strings[i]);
    for (int i = 0; g->extra[i]; i++) free((char *)g->extra[i]);
    gone_close(&g->gone);
    json_decref((json_t *)g->o.settings);
    free(g->auth);
    free(g->base_url);
    free(g->pid_file);
    if (g->wake >= 0) close(g->wake);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static bool own(const char **s)
{
    *s = strdup(*s ? *s : "");
    return *s != NULL;
}

static bool copy_extra(struct engine *g, const char *const *extra)
{
    for (int i = 0; extra && extra[i] && i < ENGINE_EXTRA_MAX; i++)
        if (!(g->extra[i] = strdup(extra[i]))) return false;
    g->o.extra = g->extra;
    return true;
}

static int copy_options(struct engine *g, const struct engine_options *o, struct err *e)
{
    g->o = *o;
    g->o.settings = o->settings ? json_deep_copy(o->settings) : NULL; /* freed in another thread: pool_impl.h */
    const char **strings[] = {
        &g->o.name,  &g->o.base,      &g->o.url,       &g->o.secret,        &g->o.upstream_model, &g->o.program,
        &g->o.model, &g->o.base_name, &g->o.precision, &g->o.kernels,       &g->o.socket,         &g->o.store,
        &g->o.cache, &g->o.kv_type,   &g->o.device,    &g->o.chat_template, &g->o.draft_model, &g->o.medusa, &g->o.confine};
    bool ok = !o->settings || g->o.settings;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) ok &= own(strings[i]);
    ok &= copy_extra(g, o->extra);
    g->spawned = ok && !g->o.url[0];
    bool local = ok && (g->spawned || strncmp(g->o.url, "unix:", 5) == 0);
    if (!ok || asprintf(&g->pid_file, "%s.pid", g->o.socket) < 0 ||
        asprintf(&g->base_url, "%s", local ? "http://engine" : g->o.url) < 0 ||
        (g->o.secret[0] && asprintf(&g->auth, "Authorization: Bearer %s", g->o.secret) < 0))
        return err_set(e, ERR_NO_MEMORY, "no memory for the engine's description");
    if (local) g->unix_socket = g->spawned ? g->o.socket : g->o.url + 5;
    size_t n = strlen(g->base_url);
    if (n && g->base_url[n - 1] == '/') g->base_url[n - 1] = 0;
    return 0;
}

int engine_open(struct engine **out, const struct engine_options *o, struct client *c, struct err *e)
{
    pthread_condattr_t attr;
    struct engine *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NO_MEMORY, "no memory for the engine's description");
    g->client = c;
    g->proc.pidfd = -1;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attr);
    pthread_condattr_destroy(&attr);
    g->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (copy_options(g, o, e)) goto out;
    if (g->spawned) process_fingerprint(&g->o, g->fingerprint);
    if (g->wake < 0) {
        err_errno(e, "eventfd");
        goto out;
    }
    if (pthread_create(&g->watcher, NULL, watch, g)) {
        err_set(e, ERR_NO_MEMORY, "no thread for the engine's watcher");
        goto out;
    }
    *out = g;
    return 0;
out:
    engine_free(g);
    return -1;
}

void engine_stop(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    wake(g);
}

void engine_close(struct engine *g, bool keep, int grace_ms)
{
    if (!g) return;
    engine_stop(g);
    pthread_join(g->watcher, NULL);
    loads_close(g);
    if (g->proc.pid && !keep) process_end(g, &g->proc, grace_ms);
    if (g->proc.pidfd >= 0) close(g->proc.pidfd);
    engine_free(g);
}

/* --- what is asked --- */

enum engine_state engine_state_of(struct engine *g)
{
    return (enum engine_state)g->state;
}

bool engine_ready(struct engine *g)
{
    return g->state == ENGINE_READY && !g->suspect;
}

uint64_t engine_lives(struct engine *g)
{
    return g->lives;
}

void engine_get_queue(struct engine *g, struct engine_queue *out)
{
    pthread_mutex_lock(&g->lock);
    *out = g->queue;
    pthread_mutex_unlock(&g->lock);
}

void engine_get_tally(struct engine *g, struct engine_tally *out)
{
    pthread_mutex_lock(&g->lock);
    *out = g->tally;
    pthread_mutex_unlock(&g->lock);
}

void engine_settled(struct engine *g, int64_t output)
{
    pthread_mutex_lock(&g->lock);
    g->tally.ours.requests++;
    g->tally.ours.output += output;
    pthread_mutex_unlock(&g->lock);
}

int engine_wait(struct engine *g, int wait_ms, struct err *e)
{
    struct timespec t;
    int rc = 0;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += wait_ms / 1000;
    t.tv_nsec += wait_ms % 1000 * 1000000L;
    t.tv_sec += t.tv_nsec / 1000000000L;
    t.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&g->lock);
    while (g->state != ENGINE_READY && !g->refused && !g->stop && rc == 0)
        rc = pthread_cond_timedwait(&g->changed, &g->lock, &t);
    bool ready = g->state == ENGINE_READY, refused = g->refused;
    pthread_mutex_unlock(&g->lock);
    if (ready) return 0;
    if (refused) return err_set(e, ERR_MODEL, "the engine refused the model; its own message stands above in the log");
    return err_set(e, ERR_UNAVAILABLE, "the engine is not ready");
}

int engine_get_view(struct engine *g, struct engine_view *out, struct err *e)
{
    pthread_mutex_lock(&g->lock);
    bool known = g->known, refused = g->refused;
    if (known) *out = g->view;
    pthread_mutex_unlock(&g->lock);
    if (known) return 0;
    return err_set(e, ERR_UNAVAILABLE,
                   refused ? "the engine refused the base model" : "the engine is still starting; try again");
}

void engine_why(struct engine *g, char *out, size_t n)
{
    pthread_mutex_lock(&g->lock);
    snprintf(out, n, "%s", g->refused ? "the engine refused the base model" : g->why);
    pthread_mutex_unlock(&g->lock);
}

void engine_why_load(struct engine *g, char *out, size_t n)
{
    pthread_mutex_lock(&g->lock);
    snprintf(out, n, "%s", g->why_load);
    pthread_mutex_unlock(&g->lock);
}

void engine_get_link(struct engine *g, struct engine_link *out)
{
    *out = (struct engine_link){.name = g->o.name,
                                .base_url = g->base_url,
                                .unix_socket = g->unix_socket,
                                .auth = g->auth,
                                .secret = g->o.secret,
                                .base = g->o.base,
                                .store = g->o.store,
                                .settings = g->o.settings,
                                .local = g->o.local};
    pthread_mutex_lock(&g->lock);
    out->pulls = g->view.pulls;
    out->policies = g->view.policies;
    snprintf(out->model, sizeof out->model, "%s", g->o.upstream_model[0] ? g->o.upstream_model : g->view.model);
    pthread_mutex_unlock(&g->lock);
}

void engine_suspect(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    g->suspect = true;
    pthread_mutex_unlock(&g->lock);
    wake(g);
}

int engine_receipt(struct engine *g, const char *id, struct relay_counts *out)
{
    struct engine_link l;
    if (!g->o.kind->receipt) return -1;
    engine_get_link(g, &l);
    return g->o.kind->receipt(&l, id, out);
}
