/* The watcher of the engine: one thread, one state.
 *
 *              spawn, or adopt              GET /ready is 200 and /weft/v1/state was read
 *     DOWN ------------------------> STARTING -------------------------------> READY
 *      ^                                |                                        |
 *      +--- process ended, after 250 ms doubling to 10 s (30 s for exit code 3) --+
 *
 * A request that met a dead connection makes the engine suspect: not ready until the next look succeeds.
 *
 * The end of the process wakes the watcher at once (its pidfd is polled); otherwise it looks every second. What the
 * engine holds in memory ends with it, so the digests known to be loaded are forgotten.
 *
 * An engine with the pid file's pid, start time and fingerprint is ours and is adopted; one of ours with another
 * fingerprint (another model, other settings, a new program) is asked to stop. Whatever else answers on the socket is
 * nobody to kill: the watcher waits until it is gone.
 *
 * With `url` there is no process: only looks. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/engine_impl.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STARTING_TICK_MS 50
#define READY_TICK_MS 1000
#define BACKOFF_FIRST_MS 250
#define BACKOFF_MAX_MS 10000
#define BACKOFF_RESET_US (60 * 1000000LL)
#define REFUSED_RETRY_MS 30000         /* the model may have been replaced */
#define START_MAX_US (600 * 1000000LL) /* longest load of a model */
#define HEALTH_FAILURES_MAX 15         /* in a row, of a process that lives: it hangs */
#define URL_FAILURES_MAX 3
#define END_GRACE_MS 10000
#define EXIT_MODEL 3

static void set_state(struct engine *g, enum engine_state state)
{
    pthread_mutex_lock(&g->lock);
    if (g->state == ENGINE_READY && state != ENGINE_READY) loads_forget_all(g);
    g->state = state;
    g->suspect = false;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* --- DOWN --- */

static void went_down(struct engine *g, int exit_code)
{
    int64_t now = clock_mono_us();
    bool refused = exit_code == EXIT_MODEL;

    if (now - g->since_us > BACKOFF_RESET_US) g->backoff_ms = 0;
    g->backoff_ms = g->backoff_ms ? g->backoff_ms * 2 : BACKOFF_FIRST_MS;
    if (g->backoff_ms > BACKOFF_MAX_MS) g->backoff_ms = BACKOFF_MAX_MS;
    int wait_ms = refused ? REFUSED_RETRY_MS : g->backoff_ms;
    g->retry_us = now + wait_ms * 1000LL;
    log_error("engine_down", LI("exit", exit_code), LI("retry_ms", wait_ms),
              LS("why", refused ? "the model was refused" : ""));
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
            log_info("engine_adopted", LI("pid", p.pid));
            return 1;
        }
        log_info("engine_replaced", LI("pid", p.pid), LS("why", "it was started with other settings"));
        process_end(g, &p, END_GRACE_MS);
    }
    if (!ask_ok(g, "/health")) return 0;
    log_warn("engine_foreign", LS("socket", g->o.socket),
             LS("why", "a program that this gateway did not start answers there"));
    return -1;
}

static int step_down(struct engine *g)
{
    struct err e = {0};
    int64_t now = clock_mono_us();
    if (now < g->retry_us) return (int)((g->retry_us - now) / 1000) + 1;
    if (!g->o.url[0]) {
        int rc = adopt(g);
        if (rc < 0) {
            g->retry_us = now + BACKOFF_MAX_MS * 100LL;
            return 0;
        }
        if (rc == 0 && process_spawn(g, &g->proc, &e)) {
            log_error("engine_spawn", LS("error", e.msg));
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

static bool learn(struct engine *g)
{
    struct base_desc base;
    struct err e = {0};
    int max_context;
    pid_t pid;
    if (ask_state(g, &base, &max_context, &pid, &e)) {
        log_warn("engine_state", LS("error", e.msg));
        return false;
    }
    if (g->proc.pid && pid != g->proc.pid) {
        log_warn("engine_foreign", LI("pid", pid), LS("why", "not the one that was started"));
        return false;
    }
    pthread_mutex_lock(&g->lock);
    g->base = base;
    g->max_context = max_context;
    g->base_known = true;
    g->refused = false;
    pthread_mutex_unlock(&g->lock);
    log_info("engine_ready", LS("base", base.name), LI("context", max_context), LI("pid", pid),
             LI("ms", (clock_mono_us() - g->since_us) / 1000));
    return true;
}

static int step_starting(struct engine *g)
{
    if (ask_ok(g, "/ready") && learn(g)) {
        g->failures = 0;
        set_state(g, ENGINE_READY);
        return READY_TICK_MS;
    }
    if (g->proc.pid && clock_mono_us() - g->since_us > START_MAX_US) {
        log_error("engine_start", LS("why", "the model was not loaded in time"));
        process_end(g, &g->proc, END_GRACE_MS);
        went_down(g, -1);
    }
    return g->o.url[0] ? STARTING_TICK_MS * 5 : STARTING_TICK_MS;
}

/* --- READY --- */

static int step_ready(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    bool suspect = g->suspect;
    pthread_mutex_unlock(&g->lock);

    if (ask_ok(g, suspect ? "/ready" : "/health")) {
        g->failures = 0;
        if (suspect) set_state(g, ENGINE_READY);
        return READY_TICK_MS;
    }
    g->failures++;
    if (g->o.url[0]) {
        if (g->failures < URL_FAILURES_MAX && !suspect) return READY_TICK_MS;
        log_error("engine_lost", LS("url", g->o.url));
        g->since_us = clock_mono_us();
        set_state(g, ENGINE_STARTING);
    } else if (g->failures >= HEALTH_FAILURES_MAX) {
        log_error("engine_hangs", LI("pid", g->proc.pid));
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

static const char *own(const char *s)
{
    return strdup(s ? s : "");
}

static void engine_free(struct engine *g)
{
    const char *strings[] = {g->o.program, g->o.model, g->o.base_name,     g->o.precision,   g->o.kernels, g->o.socket,
                             g->o.store,   g->o.url,   g->o.chat_template, g->o.draft_model, g->o.token,
                             g->o.cache,   g->o.kv_type};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) free((char *)strings[i]);
    free(g->auth);
    free(g->base_url);
    free(g->pid_file);
    if (g->wake >= 0) close(g->wake);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static int copy_options(struct engine *g, const struct engine_options *o, struct err *e)
{
    g->o = *o;
    const char **strings[] = {&g->o.program,       &g->o.model,       &g->o.base_name, &g->o.precision,
                              &g->o.kernels,       &g->o.socket,      &g->o.store,     &g->o.url,
                              &g->o.chat_template, &g->o.draft_model, &g->o.token,     &g->o.cache,
                              &g->o.kv_type};
    bool ok = true;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) ok &= (*strings[i] = own(*strings[i])) != NULL;
    if (!ok || asprintf(&g->pid_file, "%s.pid", g->o.socket) < 0 ||
        asprintf(&g->base_url, "%s", g->o.url[0] ? g->o.url : "http://engine") < 0 ||
        (g->o.token[0] && asprintf(&g->auth, "Authorization: Bearer %s", g->o.token) < 0))
        return err_set(e, ERR_NO_MEMORY, "no memory for the engine's description");
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
    process_fingerprint(&g->o, g->fingerprint);
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

void engine_close(struct engine *g, bool keep, int grace_ms)
{
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    wake(g);
    pthread_join(g->watcher, NULL);
    loads_close(g);
    if (g->proc.pid && !keep) process_end(g, &g->proc, grace_ms);
    if (g->proc.pidfd >= 0) close(g->proc.pidfd);
    engine_free(g);
}

/* --- what is asked --- */

bool engine_ready(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    bool ready = g->state == ENGINE_READY && !g->suspect;
    pthread_mutex_unlock(&g->lock);
    return ready;
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

int engine_base(struct engine *g, struct base_desc *out, struct err *e)
{
    pthread_mutex_lock(&g->lock);
    bool known = g->base_known, refused = g->refused;
    if (known) *out = g->base;
    pthread_mutex_unlock(&g->lock);
    if (known) return 0;
    return err_set(e, ERR_UNAVAILABLE,
                   refused ? "the engine refused the base model" : "the engine is still starting; try again");
}

int engine_max_context(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    int n = g->max_context;
    pthread_mutex_unlock(&g->lock);
    return n;
}

void engine_address(struct engine *g, const char **base_url, const char **unix_socket, const char **auth_header)
{
    *base_url = g->base_url;
    *unix_socket = g->o.url[0] ? NULL : g->o.socket;
    *auth_header = g->auth;
}

void engine_suspect(struct engine *g)
{
    pthread_mutex_lock(&g->lock);
    g->suspect = true;
    pthread_mutex_unlock(&g->lock);
    wake(g);
}

const char *engine_name(struct engine *g)
{
    return g->o.url[0] ? "remote" : "local";
}
