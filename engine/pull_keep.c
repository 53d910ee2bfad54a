/* pull_keep: one pull, from its folder to its place in the store; a process that the puller makes for it, the keeper, and one that the keeper makes, the fetcher.
 *
 *     keeper: place free? tmp/ID made --fork--> fetcher: pull_fetch in tmp/ID, then it ends
 *        |                   <-- NEED, FULL, DONE --  (a message each)
 *        |                   -- 'g' goes, an end says no -->
 *        +-- it has ended, the folder holds two files of the size that was asked for --> renamed into the store
 *
 * Strangers' bytes are read by the fetcher alone. It may change nothing but tmp/ID and read nothing else of the store, starts no process, signals nobody
 * (confine), and has no descriptor but its line to the keeper and its own connections: who takes it over can spoil its own pull, whose files are not what
 * the engine's loader finds by their digest. It is waited for before anything is renamed, so nobody writes to a file that has a place.
 *
 * Bounds: the fetcher ends by itself at pull_s, the keeper PULL_KEEP_S later; the kernel ends a fetcher whose keeper ended (PDEATHSIG, which the filter of
 * system calls does not let it take back), and by its alarm a keeper that hangs on the disk. One that can't even be killed is the puller's to give up.
 *
 * A folder that is in the way (damaged, and could not be removed) is moved aside into tmp; where that can't be done the pull ends before the wire is used,
 * with an error that names it. */
#include "adapters/adapter.h"
#include "base/clock.h"
#include "base/confine.h"
#include "base/log.h"
#include "engine/pull_impl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CUT_MS 3000   /* from the word that a pull is called off to its end */
#define ASIDE_MAX 64  /* folders of a digest that lie aside */
#define ENTRIES_MAX 8 /* of a pull's folder that are looked at */

struct keep {
    const struct pull_options *o;
    const struct pull_ask *ask;
    bool confined;
    int up, down; /* to the puller, to the fetcher */
    pid_t fetcher;
    int64_t until_us;
    bool cut, full, made; /* called off; room was asked for anew; the folder is there */
    int64_t bytes;        /* that were asked for, 0: not yet */
    struct pull_tell done;
    char dir[STORE_PATH_MAX];
};

int pull_tell(int fd, enum pull_event what, uint32_t id, int64_t bytes, const struct err *e)
{
    struct pull_tell t = {.what = what, .id = id, .bytes = bytes, .code = e ? e->code : ERR_NONE};
    snprintf(t.why, sizeof t.why, "%.*s", PULL_MESSAGE - 1, e ? e->msg : "");
    return send(fd, &t, sizeof t, MSG_NOSIGNAL) == (ssize_t)sizeof t ? 0 : -1;
}

/* --- in the fetcher --- */

struct line {
    int fd;
    uint32_t id;
    int64_t bytes;
};

/* Says it, and waits for the word; the keeper's end ends that, too. */
static bool may(struct line *l, enum pull_event what)
{
    char word = 0;
    if (pull_tell(l->fd, what, l->id, l->bytes, NULL)) return false;
    while (recv(l->fd, &word, 1, 0) < 0 && errno == EINTR) continue;
    return word == 'g';
}

static int need(void *u, int64_t bytes, struct err *e)
{
    struct line *l = u;
    l->bytes = bytes;
    return may(l, PULL_NEED) ? 0 : err_set(e, ERR_TOO_LARGE, "the engine's store is full of adapters that are in use");
}

static int full(void *u, struct err *e)
{
    return may(u, PULL_FULL) ? 0 : err_set(e, ERR_IO, "the disk of the engine's store is full, and no adapter is there that is not in use");
}

static bool is_cut(void *u)
{
    struct line *l = u;
    struct pollfd p = {.fd = l->fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void close_all_but(int fd)
{
    close_range(3, (unsigned)fd - 1, 0);
    close_range((unsigned)fd + 1, ~0u, 0);
}

/* Its words in the log would be a stranger's. (To read alone: the puller may write no device.) */
static void be_silent(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (int i = 0; fd >= 0 && i < 3; i++) dup2(fd, i);
    if (fd >= 0) close(fd);
}

static _Noreturn void fetcher_main(const struct keep *k, int fd, pid_t keeper)
{
    struct line line = {.fd = fd, .id = k->ask->id};
    const struct pull_way way = {need, full, is_cut, &line};
    struct err e = {0};
    char auth[PULL_AUTH_MAX];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper) _exit(1);
    prctl(PR_SET_NAME, "weft-fetch");
    if (!confine_is_sanitized()) be_silent();
    close_all_but(fd);
    int rc = pull_read_auth(k->o->token_file, auth, &e);
    if (!rc && k->confined) rc = pull_shut_in(k->o, k->dir, true, &e);
    if (!rc) rc = pull_fetch(k->o, k->ask, &way, k->dir, auth, &e);
    _exit(pull_tell(fd, PULL_DONE, line.id, line.bytes, rc ? &e : NULL) ? 1 : 0);
}

/* --- the folders --- */

int pull_put_aside(const char *store, const char *digest, struct err *e)
{
    char from[STORE_PATH_MAX], to[STORE_PATH_MAX];
    if (store_path(store, digest, from, e)) return -1;
    for (int i = 0; i < ASIDE_MAX; i++) {
        if (snprintf(to, sizeof to, "%s/tmp/aside-%.16s-%d", store, digest, i) >= (int)sizeof to) return err_set(e, ERR_IO, "the store's path is too long");
        if (rename(from, to) == 0) {
            store_discard(to);
            if (access(to, F_OK) == 0) log_warn("blob_stays", LS("path", to));
            return 0;
        }
        if (errno == ENOENT) return 0;
        if (errno != ENOTEMPTY && errno != EEXIST) return err_set(e, ERR_IO, "the store's folder %.2s/%s is in the way and can't be moved: %s", digest, digest, strerror(errno));
    }
    return err_set(e, ERR_IO, "the store's tmp has %d folders aside-%.16s that can't be removed", ASIDE_MAX, digest);
}

static int make_folder(struct keep *k, struct err *e)
{
    if (pull_put_aside(k->o->store, k->ask->digest, e) || pull_temp_of(k->o->store, k->ask->id, k->dir, e)) return -1;
    if (mkdir(k->dir, 0700)) return err_set(e, ERR_IO, "the engine's store can't be written: %s", strerror(errno));
    k->made = true;
    return 0;
}

/* What the fetcher left is the two files, plain, and no larger than what room was made for. */
static int weigh(const struct keep *k, struct err *e)
{
    int64_t bytes = 0;
    int n = 0, plain = 0;
    DIR *d = opendir(k->dir);
    for (struct dirent *x; d && n < ENTRIES_MAX && (x = readdir(d));) {
        struct stat st;
        if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, "..")) continue;
        n++;
        if (strcmp(x->d_name, ADAPTER_CONFIG_FILE) != 0 && strcmp(x->d_name, ADAPTER_WEIGHTS_FILE) != 0) continue;
        if (fstatat(dirfd(d), x->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode) || st.st_nlink != 1) continue;
        plain++;
        bytes += st.st_size;
    }
    if (d) closedir(d);
    return n == PULL_FILES && plain == n && bytes == k->bytes ? 0 : err_set(e, ERR_ADAPTER_INVALID, "what was fetched is not the files that were asked for");
}

/* --- in the keeper --- */

/* What the fetcher may say, once each: it needs room, the disk is full, it is done. -1: it says something else. */
static int heed(struct keep *k, const struct pull_tell *t)
{
    switch (t->what) {
    case PULL_NEED:
        if (k->bytes || t->bytes <= 0 || t->bytes > k->o->max_bytes) return -1;
        k->bytes = t->bytes;
        return pull_tell(k->up, PULL_NEED, k->ask->id, k->bytes, NULL);
    case PULL_FULL:
        if (!k->bytes || k->full) return -1;
        k->full = true;
        return pull_tell(k->up, PULL_FULL, k->ask->id, k->bytes, NULL);
    case PULL_DONE:
        if (k->done.what == PULL_DONE || t->code >= ERR_CODES || (!t->code && !k->bytes)) return -1;
        k->done = *t;
        k->done.why[sizeof k->done.why - 1] = 0;
        return 0;
    }
    return -1;
}

/* 1: the fetcher has ended. */
static int hear_fetcher(struct keep *k)
{
    struct pull_tell t;
    ssize_t n = recv(k->down, &t, sizeof t, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return 0;
    if (n <= 0) return 1;
    return n == (ssize_t)sizeof t ? heed(k, &t) : -1;
}

static void hear_puller(struct keep *k)
{
    char word;
    ssize_t n = recv(k->up, &word, 1, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n == 1) {
        send(k->down, &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        return;
    }
    int64_t until = clock_mono_us() + CUT_MS * 1000;
    shutdown(k->down, SHUT_WR);
    k->cut = true;
    if (until < k->until_us) k->until_us = until;
}

/* Until the fetcher has ended. -1: it has not, in its time, or says what makes no sense; it ends with the caller. */
static int watch(struct keep *k)
{
    for (int rc = 0; rc == 0;) {
        int64_t left_us = k->until_us - clock_mono_us();
        struct pollfd at[2] = {{.fd = k->down, .events = POLLIN}, {.fd = k->cut ? -1 : k->up, .events = POLLIN}};
        if (left_us <= 0 || (poll(at, 2, (int)(left_us / 1000) + 1) < 0 && errno != EINTR)) return -1;
        if (at[0].revents && (rc = hear_fetcher(k)) < 0) return -1;
        if (at[1].revents) hear_puller(k);
    }
    while (waitpid(k->fetcher, NULL, 0) < 0 && errno == EINTR) continue;
    return 0;
}

static int fetch(struct keep *k, struct err *e)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) return err_set(e, ERR_UNAVAILABLE, "no process to fetch it");
    pid_t me = getpid();
    if ((k->fetcher = fork()) == 0) fetcher_main(k, pair[1], me);
    close(pair[1]);
    k->down = pair[0];
    if (k->fetcher < 0) return err_set(e, ERR_UNAVAILABLE, "no process to fetch it");
    if (watch(k)) _exit(1); /* the puller sweeps, when both have ended */
    if (k->done.what != PULL_DONE) return err_set(e, ERR_UNAVAILABLE, PULL_KILLED_WORDS);
    return k->done.code ? err_set(e, k->done.code, "%s", k->done.why) : 0;
}

_Noreturn void pull_keep(const struct pull_options *o, const struct pull_ask *a, int up, bool confined, pid_t puller)
{
    struct keep k = {.o = o, .ask = a, .up = up, .confined = confined, .until_us = clock_mono_us() + (o->total_s + PULL_KEEP_S) * 1000000ll};
    struct err e = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != puller) _exit(1);
    alarm((unsigned)o->total_s + 2 * PULL_KEEP_S);
    close_all_but(up);
    int rc = make_folder(&k, &e) || fetch(&k, &e) || weigh(&k, &e) || store_place(o->store, k.dir, a->digest, &e);
    if (rc && k.made) store_discard(k.dir);
    _exit(pull_tell(up, PULL_DONE, a->id, k.bytes, rc ? &e : NULL) ? 1 : 0);
}
