/* pull_helper: the puller, a process beside the engine that may make connections, which the engine may not.
 *
 *     engine --GET, GO, NO, DROP--> puller --fork--> keeper, a process a pull (pull_keep.c) --fork--> fetcher
 *       <--NEED, FULL, DONE--               <--the same, of its own pull alone--
 *
 * It is forked before the engine has read anything, so it holds no model, prompt or key. It reads its token's folder, authorities and what name resolution
 * asks for, and changes the store (Landlock); it starts no other program, listens nowhere and signals nobody (seccomp). Strangers' bytes are the fetcher's,
 * who has less; here come messages of fixed size alone, and what number a pull has is not taken from them.
 *
 * Pulls that end without a word (killed, crashed, too slow) are told by their exit, and what they left is removed by a process of its own. One that hangs on
 * the disk and can't be ended loses its place to the next. When the engine is gone, so are the puller, its keepers and their fetchers at once (PDEATHSIG).
 * A DROP is a rename and a removal here, in the order of the messages, so that a GO finds the room: where the disk hangs that hangs, and the engine's loads
 * hear it by their own bound. One thread each. */
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "engine/pull_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOCK_TRIES 50 /* of 100 ms: pulls of an engine that was killed just now still end */
#define SWEEP_S 3     /* for the removal of what a pull left */
#define LOST_MAX 16   /* processes that can't be ended; beside so many no pull is begun */

/* A place of a pull: its keeper, then perhaps the one who sweeps after it. */
struct worker {
    uint32_t id;
    pid_t pid; /* 0: free */
    int line;  /* of a pair: 'g' goes, an end says no; its other end goes with the process */
    bool sweeps;
    int64_t until_us;
    struct pull_tell said; /* what the engine will be told */
};

/* Of a pull whose place was given to another before it had ended. */
struct lost {
    pid_t pid; /* 0: none */
    uint32_t id;
};

struct helper {
    const struct pull_options *o;
    int fd; /* to the engine */
    pid_t me;
    bool confined;
    struct lost lost[LOST_MAX];
    struct worker worker[PULL_JOBS];
};

/* --- in the puller --- */

static void refuse(const struct helper *h, uint32_t id, const char *why)
{
    struct err e = {0};
    err_set(&e, ERR_UNAVAILABLE, "%s", why);
    pull_tell(h->fd, PULL_DONE, id, 0, &e);
}

static struct worker *worker_of(struct helper *h, uint32_t id)
{
    for (int i = 0; i < PULL_JOBS; i++)
        if (h->worker[i].pid && !h->worker[i].sweeps && h->worker[i].id == id) return &h->worker[i];
    return NULL;
}

static struct worker *free_worker(struct helper *h)
{
    for (int i = 0; i < PULL_JOBS; i++)
        if (!h->worker[i].pid) return &h->worker[i];
    return NULL;
}

static struct lost *lost_place(struct helper *h)
{
    for (int i = 0; i < LOST_MAX; i++)
        if (!h->lost[i].pid) return &h->lost[i];
    return NULL;
}

static bool any_lost(const struct helper *h)
{
    for (int i = 0; i < LOST_MAX; i++)
        if (h->lost[i].pid) return true;
    return false;
}

static _Noreturn void sweep(const struct helper *h, uint32_t id)
{
    char dir[STORE_PATH_MAX];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != h->me) _exit(1);
    alarm(SWEEP_S);
    if (pull_temp_of(h->o->store, id, dir, NULL) == 0) store_discard(dir);
    _exit(0);
}

/* A process of the worker's; in it this does not return. -1: there is none. */
static int start(struct helper *h, struct worker *w, const struct pull_ask *a)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) return -1;
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < PULL_JOBS; i++)
            if (h->worker[i].pid) close(h->worker[i].line);
        close(pair[0]);
        if (a) pull_keep(h->o, a, pair[1], h->confined, h->me);
        close(h->fd);
        sweep(h, w->id);
    }
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return -1;
    }
    w->pid = pid;
    w->line = pair[0];
    w->sweeps = !a;
    w->until_us = clock_mono_us() + (a ? h->o->total_s + 3 * PULL_KEEP_S : 2 * SWEEP_S) * 1000000ll;
    return 0;
}

static void begin(struct helper *h, const struct pull_ask *a)
{
    struct worker *w = free_worker(h);
    if (!lost_place(h)) {
        refuse(h, a->id, "too many processes that fetched hang on the disk of the engine's store");
        return;
    }
    if (w) *w = (struct worker){.id = a->id, .said = {.what = PULL_DONE, .id = a->id, .code = ERR_UNAVAILABLE, .why = PULL_KILLED_WORDS}};
    if (!w || start(h, w, a)) refuse(h, a->id, "no process to fetch it");
}

/* The engine is not trusted here: it has no network, and who took it over should not come by one through a hole of this process. So what it says of its
 * base is held to what an engine may say of that to a gateway, and a digest is one. */
int pull_ask_check(const struct pull_ask *a, struct err *e)
{
    bool about = a->op == PULL_GET || a->op == PULL_DROP;
    if (a->op > PULL_DROP) return err_set(e, ERR_INVALID, "no such word");
    if (about && (!memchr(a->digest, 0, sizeof a->digest) || !sha256_is_hex(a->digest))) return err_set(e, ERR_INVALID, "no digest");
    if (a->op != PULL_GET) return 0;
    if (a->max_rank < 1 || a->max_rank > PEFT_RANK_MAX) return err_set(e, ERR_INVALID, "no greatest rank");
    return base_desc_check(&a->base, e);
}

static void obey(struct helper *h, const struct pull_ask *a)
{
    struct worker *w;
    struct err e = {0};
    if (pull_ask_check(a, &e)) {
        log_error("pull_nonsense", LS("why", e.msg));
        if (a->op == PULL_GET) refuse(h, a->id, "it was not asked for as an engine does");
        return;
    }
    switch (a->op) {
    case PULL_GET:
        begin(h, a);
        break;
    case PULL_GO:
        if ((w = worker_of(h, a->id))) send(w->line, "g", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        break;
    case PULL_NO:
        if ((w = worker_of(h, a->id))) shutdown(w->line, SHUT_WR);
        break;
    case PULL_DROP:
        if (pull_put_aside(h->o->store, a->digest, &e)) log_warn("blob_stays", LS("digest", a->digest), LS("why", e.msg));
    }
}

/* Its place is free, and the engine is told. */
static void over(struct helper *h, struct worker *w)
{
    close(w->line);
    w->pid = 0;
    send(h->fd, &w->said, sizeof w->said, MSG_NOSIGNAL);
}

/* Its end of the line is closed: it has ended. One that did so without a word leaves something to sweep. */
static void reap(struct helper *h, struct worker *w)
{
    int status = 0;
    while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR) continue;
    if (!w->sweeps && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)) {
        int line = w->line;
        log_warn("pull_process_ended", LI("status", status));
        w->said.code = ERR_UNAVAILABLE;
        snprintf(w->said.why, sizeof w->said.why, "%s", PULL_KILLED_WORDS);
        if (start(h, w, NULL) == 0) {
            close(line);
            return;
        }
    }
    over(h, w);
}

/* What a keeper says; of another's pull it can't speak, for the number is ours. */
static void listen_to(struct helper *h, struct worker *w)
{
    struct pull_tell t;
    ssize_t n = recv(w->line, &t, sizeof t, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n <= 0) {
        reap(h, w);
    } else if (n == (ssize_t)sizeof t) {
        t.id = w->id;
        if (t.what == PULL_DONE)
            w->said = t;
        else
            send(h->fd, &t, sizeof t, MSG_NOSIGNAL);
    }
}

/* One that neither ended by itself nor by its alarm is held by the disk, and not even a signal ends it before that gives way. Another takes its place. */
static void give_up(struct helper *h, struct worker *w)
{
    struct lost *place = lost_place(h);
    if (!w->pid || clock_mono_us() < w->until_us) return;
    log_error("pull_process_hangs", LI("pid", w->pid));
    w->said.code = ERR_UNAVAILABLE;
    snprintf(w->said.why, sizeof w->said.why, "%s", "the disk of the engine's store does not answer");
    if (place) *place = (struct lost){w->pid, w->id};
    over(h, w);
}

/* Those that ended after all: the disk answers again, and what they left goes. */
static void forget_lost(struct helper *h)
{
    for (int i = 0; i < LOST_MAX; i++) {
        char dir[STORE_PATH_MAX];
        struct lost *l = &h->lost[i];
        if (!l->pid || waitpid(l->pid, NULL, WNOHANG) == 0) continue;
        if (pull_temp_of(h->o->store, l->id, dir, NULL) == 0) store_discard(dir);
        l->pid = 0;
    }
}

static void serve(struct helper *h)
{
    struct pull_ask a;
    for (;;) {
        struct pollfd p[PULL_JOBS + 1] = {{.fd = h->fd, .events = POLLIN}};
        bool busy = any_lost(h);
        for (int i = 0; i < PULL_JOBS; i++) {
            p[i + 1] = (struct pollfd){.fd = h->worker[i].pid ? h->worker[i].line : -1, .events = POLLIN};
            busy |= h->worker[i].pid != 0;
        }
        if (poll(p, PULL_JOBS + 1, busy ? 1000 : -1) < 0 && errno != EINTR) return;
        for (int i = 0; i < PULL_JOBS; i++) {
            if (p[i + 1].revents) listen_to(h, &h->worker[i]);
            give_up(h, &h->worker[i]);
        }
        forget_lost(h);
        if (!p[0].revents) continue;
        ssize_t n = recv(h->fd, &a, sizeof a, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n != (ssize_t)sizeof a) return; /* the engine is gone */
        obey(h, &a);
    }
}

/* --- its room --- */

int pull_shut_in(const struct pull_options *o, const char *folder, bool alone, struct err *e)
{
    char token_folder[PATH_MAX], ca_folder[PATH_MAX];
    const struct confine_path paths[] = {
        {folder, alone ? CONFINE_CHANGE : CONFINE_TREE},
        {alone ? NULL : confine_folder_of(o->token_file, token_folder), CONFINE_READ}, /* a token that is replaced is another file */
        {confine_folder_of(o->ca_file, ca_folder), CONFINE_READ},
        {"/etc/ssl", CONFINE_READ},
        {"/usr/share/ca-certificates", CONFINE_READ},
        {"/usr/local/share/ca-certificates", CONFINE_READ},
        {"/etc/gnutls", CONFINE_READ},
        {"/etc/services", CONFINE_READ},
        {"/run/systemd/resolve", CONFINE_READ},
    };
    if (strcmp(o->confine, "off") == 0 || (confine_is_sanitized() && strcmp(o->confine, "on") != 0)) return 0;
    int files = confine_files(paths, sizeof paths / sizeof *paths, e), calls = alone ? confine_calls_alone(e) : confine_calls_fetching(e);
    return files || calls ? -1 : 0; /* where one can't be, still the other */
}

static _Noreturn void helper_main(const struct pull_options *o, int fd, pid_t engine)
{
    struct helper h = {.o = o, .fd = fd, .me = getpid(), .confined = true};
    struct err e = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != engine) _exit(0);
    prctl(PR_SET_NAME, "weft-puller");
    signal(SIGXFSZ, SIG_IGN); /* a write beyond a limit fails, and is told like a full disk */
    if (pull_shut_in(o, o->store, false, &e)) {
        log_warn("puller_not_confined", LS("why", e.msg));
        if (strcmp(o->confine, "on") == 0) _exit(2);
        h.confined = false;
    }
    serve(&h);
    _exit(0);
}

/* --- starting it --- */

static int make_folder(const char *path, struct err *e)
{
    if (mkdir(path, 0700) && errno != EEXIST) return err_errno(e, "cannot make the folder %s", path);
    return 0;
}

/* Held by the engine and all that it forks, as long as one of them lives. */
static int lock_store(const char *store, struct err *e)
{
    char path[STORE_PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/lock", store);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_errno(e, "cannot write into the store %s", store);
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 0; /* open until the end */
        poll(NULL, 0, 100);
    }
    close(fd);
    return err_set(e, ERR_USAGE, "the store %s is another engine's: each that pulls has its own", store);
}

int pull_helper_start(const struct pull_options *o, int *fd, pid_t *pid, struct err *e)
{
    char tmp[STORE_PATH_MAX];
    int pair[2];
    if (make_folder(o->store, e) || pull_temp(o->store, tmp, e) || make_folder(tmp, e) || lock_store(o->store, e)) return -1;
    struct err why = {0};
    if (store_clean(tmp, &why)) log_warn("store_tmp_stays", LS("path", tmp), LS("why", why.msg)); /* it takes room, and is in nobody's way */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) return err_errno(e, "no socket pair for the puller");
    pid_t me = getpid(), child = fork();
    if (child == 0) {
        close(pair[0]);
        helper_main(o, pair[1], me);
    }
    close(pair[1]);
    if (child < 0) {
        close(pair[0]);
        return err_errno(e, "no process for the puller");
    }
    *fd = pair[0];
    *pid = child;
    return 0;
}
