/* The process of a spawned engine: who it is, how it starts and ends.
 *
 * An engine survives its gateway: it gets a session of its own (a Ctrl-C at the gateway's terminal is not its), no
 * inherited descriptors but standard error, and no death signal. The next gateway finds it by SOCKET.pid: "PID START
 * FINGERPRINT", where START is the start time in /proc/PID/stat. A pid whose start time differs belongs to somebody
 * else and is never sent a signal; signals go through a pidfd, so that the pid cannot change hands between the check
 * and the signal.
 *
 * Watcher's thread, and the one that closes. Between fork and exec only async-signal-safe calls are made, for the
 * program has threads. */
#include "base/clock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "gateway/pool/engine_impl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX (64 + ENGINE_EXTRA_MAX)
#define NUMBER 16
#define NUMBERS_MAX 16
#define OOM_SCORE "500"   /* of 1000: half of the machine's memory more than it has */
#define KILL_WAIT_MS 5000 /* for a process to end after SIGKILL */

/* Field 22 of /proc/PID/stat; 0: no such process. The name in parentheses may hold anything, so count behind the last
 * ')'. */
static unsigned long long start_time(pid_t pid)
{
    char path[64], text[1024];
    unsigned long long start = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *p = strrchr(text, ')');
    if (!p ||
        sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu", &start) != 1)
        return 0;
    return start;
}

/* Size and time of a file; of a folder also those of what lies in it, by name: what is written over in place leaves the folder's own time as it was. */
static void add_file(struct sha256 *h, const char *path)
{
    char text[128], *real = realpath(path, NULL);
    struct stat st;
    const char *name = real ? real : path;
    sha256_add(h, name, strlen(name) + 1);
    if (stat(path, &st) == 0) {
        int n = snprintf(text, sizeof text, "%lld %lld.%09ld", (long long)st.st_size, (long long)st.st_mtim.tv_sec,
                         st.st_mtim.tv_nsec);
        sha256_add(h, text, (size_t)n);
    }
    free(real);
}

static void add_path(struct sha256 *h, const char *path)
{
    struct dirent **in = NULL;
    char file[4096];
    add_file(h, path);
    int n = *path ? scandir(path, &in, NULL, alphasort) : -1; /* -1: no folder */
    for (int i = 0; i < n; i++) {
        if (in[i]->d_name[0] != '.' && snprintf(file, sizeof file, "%s/%s", path, in[i]->d_name) < (int)sizeof file) add_file(h, file);
        free(in[i]);
    }
    free(in);
}

/* What an engine reads of the environment that it gets from us: rope_scaling, kv_window and others have no argument here, and change answers. */
static void add_environment(struct sha256 *h)
{
    static const char *const names[] = {
#define X(field, type, deflt, min, max, env, help) env,
#include "schema/engine_settings.def"
#undef X
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = *names[i] ? getenv(names[i]) : NULL;
        if (!value) continue;
        sha256_add(h, names[i], strlen(names[i]) + 1);
        sha256_add(h, value, strlen(value) + 1);
    }
}

void process_fingerprint(const struct engine_options *o, char out[ENGINE_FINGERPRINT])
{
    uint8_t digest[SHA256_BYTES];
    char text[128];
    const char *words[] = {o->base_name, o->precision, o->kernels, o->store, o->kv_type, o->device, o->confine};
    struct sha256 h;

    sha256_init(&h);
    add_file(&h, o->program);
    add_path(&h, o->model);
    add_path(&h, o->chat_template);
    add_path(&h, o->draft_model);
    add_path(&h, o->medusa);
    add_environment(&h);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) sha256_add(&h, words[i], strlen(words[i]) + 1);
    int n = snprintf(text, sizeof text, "%d %d %d %d %d %d %d %d %d %d", o->adapter_mb, o->max_context, o->max_slots,
                     o->kv_mb, o->threads, o->max_running, o->speculate, o->prefix_cache, o->tp, o->medusa_nodes);
    sha256_add(&h, text, (size_t)n);
    for (int i = 0; o->extra && o->extra[i]; i++) sha256_add(&h, o->extra[i], strlen(o->extra[i]) + 1);
    sha256_end(&h, digest);
    sha256_hex(digest, out);
}

static int write_pid_file(struct engine *g, const struct engine_process *p, struct err *e)
{
    char path[1200], text[256];
    int n = snprintf(text, sizeof text, "%d %llu %s\n", (int)p->pid, p->start, g->fingerprint);
    snprintf(path, sizeof path, "%s.new", g->pid_file);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return err_errno(e, "cannot write %s", path);
    bool ok = write(fd, text, (size_t)n) == n;
    close(fd);
    if (!ok || rename(path, g->pid_file)) return err_errno(e, "cannot write %s", g->pid_file);
    return 0;
}

int process_find(struct engine *g, struct engine_process *out, char fingerprint[ENGINE_FINGERPRINT])
{
    struct engine_process p = {.pidfd = -1};
    int pid = 0;
    FILE *f = fopen(g->pid_file, "re");
    if (!f) return -1;
    int n = fscanf(f, "%d %llu %64s", &pid, &p.start, fingerprint);
    fclose(f);
    if (n != 3 || pid <= 1 || p.start == 0) return -1;
    p.pid = pid;
    p.pidfd = pidfd_open(p.pid, 0);
    if (p.pidfd < 0) return -1;
    if (start_time(p.pid) != p.start || !process_alive(&p, NULL)) { /* checked while the pidfd holds it */
        close(p.pidfd);
        return -1;
    }
    *out = p;
    return 0;
}

struct command {
    const char *arg[ARGS_MAX + 1];
    int n;
    char number[NUMBERS_MAX][NUMBER];
    int numbers;
    const char *const *extra;
};

static bool is_extra(const struct command *c, const char *name)
{
    for (int i = 0; c->extra && c->extra[i]; i += 2)
        if (strcmp(c->extra[i], name) == 0) return true;
    return false;
}

static void add_text(struct command *c, const char *name, const char *value)
{
    if (!value[0] || c->n + 2 > ARGS_MAX || is_extra(c, name)) return;
    c->arg[c->n++] = name;
    c->arg[c->n++] = value;
}

static void add_number(struct command *c, const char *name, int value)
{
    snprintf(c->number[c->numbers], NUMBER, "%d", value);
    add_text(c, name, c->number[c->numbers++]);
}

static void make_command(const struct engine_options *o, struct command *c)
{
    memset(c, 0, sizeof *c);
    c->arg[c->n++] = o->program;
    c->arg[c->n++] = "serve";
    for (int i = 0; o->extra && o->extra[i]; i++) c->arg[c->n++] = o->extra[i]; /* at most ENGINE_EXTRA_MAX */
    c->extra = o->extra;
    add_text(c, "--model", o->model);
    add_text(c, "--name", o->base_name);
    add_text(c, "--socket", o->socket);
    add_text(c, "--store", o->store);
    add_text(c, "--cache", o->cache);
    add_number(c, "--cache-mb", o->cache_mb);
    add_number(c, "--adapter-mb", o->adapter_mb);
    add_text(c, "--precision", o->precision);
    add_text(c, "--device", o->device);
    add_number(c, "--tp", o->tp);
    add_text(c, "--kernels", o->kernels);
    add_text(c, "--kv-type", o->kv_type);
    add_text(c, "--confine", o->confine);
    add_text(c, "--chat-template", o->chat_template);
    add_text(c, "--draft-model", o->draft_model);
    add_text(c, "--medusa", o->medusa);
    if (o->medusa[0]) add_number(c, "--medusa-nodes", o->medusa_nodes);
    add_text(c, "--prefix-cache", o->prefix_cache ? "true" : "false");
    add_number(c, "--speculate", o->speculate);
    add_number(c, "--max-context", o->max_context);
    add_number(c, "--max-slots", o->max_slots);
    add_number(c, "--kv-mb", o->kv_mb);
    add_number(c, "--threads", o->threads);
    add_number(c, "--max-running", o->max_running);
}

static _Noreturn void become(const struct command *c, int null_fd)
{
    sigset_t none;
    setsid();
    dup2(null_fd, 0);
    dup2(2, 1);
    int score = open("/proc/self/oom_score_adj", O_WRONLY); /* where memory ends, it goes before the gateway, who starts it again */
    if (score < 0 || write(score, OOM_SCORE, strlen(OOM_SCORE)) < 0) score = -1; /* then as it is */
    close_range(3, ~0u, 0);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(c->arg[0], (char *const *)c->arg);
    _exit(127);
}

int process_spawn(struct engine *g, struct engine_process *out, struct err *e)
{
    struct engine_process p = {.pidfd = -1, .child = true};
    struct command c;
    int null_fd = -1;

    if (access(g->o.program, X_OK)) return err_errno(e, "cannot run the engine %s", g->o.program);
    make_command(&g->o, &c);
    null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null_fd < 0) return err_errno(e, "cannot open /dev/null");
    p.pid = fork();
    if (p.pid == 0) become(&c, null_fd);
    close(null_fd);
    if (p.pid < 0) return err_errno(e, "cannot start the engine");
    p.pidfd = pidfd_open(p.pid, 0); /* a child stays until it was waited for: no race */
    p.start = start_time(p.pid);
    log_info("engine_spawned", LS("engine", g->o.name), LI("pid", p.pid), LS("program", g->o.program),
             LS("model", g->o.model));
    if (p.pidfd < 0 || write_pid_file(g, &p, e)) {
        err_errno(e, "pidfd_open");
        kill(p.pid, SIGKILL);
        waitpid(p.pid, NULL, 0);
        if (p.pidfd >= 0) close(p.pidfd);
        return -1;
    }
    *out = p;
    return 0;
}

bool process_alive(struct engine_process *p, int *exit_code)
{
    struct pollfd fd = {.fd = p->pidfd, .events = POLLIN};
    int status, code = -1;
    if (poll(&fd, 1, 0) <= 0) return true;
    if (p->child && waitpid(p->pid, &status, WNOHANG) == p->pid)
        code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (exit_code) *exit_code = code;
    return false;
}

void process_forget(struct engine *g, struct engine_process *p)
{
    if (!p->pid) return;
    unlink(g->pid_file);
    close(p->pidfd);
    *p = (struct engine_process){.pidfd = -1};
}

static bool ended(struct engine_process *p, int wait_ms)
{
    struct pollfd fd = {.fd = p->pidfd, .events = POLLIN};
    int64_t until = clock_mono_us() + wait_ms * 1000LL, left = wait_ms;
    int rc;
    do {
        rc = poll(&fd, 1, (int)left);
        left = (until - clock_mono_us()) / 1000;
    } while (rc < 0 && errno == EINTR && left > 0);
    return rc > 0 && !process_alive(p, NULL);
}

void process_end(struct engine *g, struct engine_process *p, int grace_ms)
{
    if (!p->pid) return;
    pidfd_send_signal(p->pidfd, SIGTERM, NULL, 0);
    if (!ended(p, grace_ms)) {
        log_warn("engine_killed", LS("engine", g->o.name), LI("pid", p->pid), LI("after_ms", grace_ms));
        pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
        ended(p, KILL_WAIT_MS);
    }
    process_forget(g, p);
}
