/* promote: a standby's folder becomes a gateway's (see standby.h): `weft-gateway promote --data DIR [--force]`, then `weft-gateway --data DIR`.
 *
 *     its own lock --the standby's process sees that and ends--> the folder's lock --> what was sealed is applied --> does the primary answer?
 *       --> weft.db: a takeover more, an event --> the mark goes: from here on a gateway starts here, and no standby
 *
 * Both locks are held to the end, without a gap: there is one promotion at a time, and neither a standby that something starts again meanwhile nor a gateway
 * gets in. A kill lets go of both.
 *
 * Nobody may serve twice: the primary is asked first, and where it answers the command refuses. What can't be asked (a machine that is cut off and still
 * serves its clients) is told in words. A kill before the mark goes leaves a standby, which compares its pages when it follows again. */
#include "base/clock.h"
#include "gateway/backup/backup_impl.h"
#include "gateway/db/db.h"
#include "gateway/live/event.h"
#include "gateway/standby/standby.h"
#include "gateway/standby/standby_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_WAIT_MS 15000
#define LOCK_LOOK_MS 20
#define ASK_CONNECT_MS 1500

static const char usage[] = "weft-gateway promote --data DIR [--force]\n"
                            "  --data DIR  a standby's folder\n"
                            "  --force     although the primary takes connections, or is silent: who says so has made sure that no client reaches it\n";

static bool never(void) { return false; }

/* --- one promotion at a time --- */

/* A lock of the open file, which others can look at without taking it, and which goes with the process that has it. */
static struct flock whole_file(void) { return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET}; }

bool standby_is_promoted(const struct standby *s)
{
    char path[FILES_PATH_MAX];
    struct flock w = whole_file();
    standby_path(s, "standby/promote", path);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
    bool held = fcntl(fd, F_OFD_GETLK, &w) == 0 && w.l_type != F_UNLCK;
    close(fd);
    return held;
}

/* *turn: held until the process ends. The file stays: one that is removed could be locked by two. */
static int take_turn(const struct standby *s, int *turn, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct flock w = whole_file();
    standby_path(s, STANDBY_MARK, path);
    if (access(path, F_OK)) return err_set(e, ERR_CONFLICT, "%s is no standby's folder", s->dir);
    standby_path(s, "standby/promote", path);
    *turn = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*turn < 0) return err_errno(e, "%s", path);
    if (fcntl(*turn, F_OFD_SETLK, &w) == 0) return 0;
    return errno == EAGAIN || errno == EACCES ? err_set(e, ERR_CONFLICT, "another promotion of %s is under way", s->dir) : err_errno(e, "%s", path);
}

/* The process that follows ends by itself where it sees the turn taken. */
static int open_when_free(struct standby *s, struct err *e)
{
    for (int64_t until = clock_mono_us() + LOCK_WAIT_MS * 1000ll;;) {
        struct err why = {0};
        if (standby_open(s, NULL, &why) == 0) return 0;
        standby_close(s);
        if (why.code != ERR_CONFLICT || clock_mono_us() > until) return err_set(e, why.code, "%s", why.msg);
        nanosleep(&(struct timespec){.tv_nsec = LOCK_LOOK_MS * 1000000}, NULL);
    }
}

static int read_from(const struct standby *s, char out[1000], struct err *e)
{
    char path[FILES_PATH_MAX];
    standby_path(s, STANDBY_MARK, path);
    FILE *f = fopen(path, "re");
    if (!f) return err_errno(e, "%s", path);
    size_t n = fread(out, 1, 999, f);
    out[n] = 0;
    fclose(f);
    return 0;
}

/* 0: somebody takes connections there; an errno otherwise. */
static int try_connect(const struct addrinfo *a)
{
    int why = 0, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
    if (fd < 0) return errno;
    if (connect(fd, a->ai_addr, a->ai_addrlen) && errno != EINPROGRESS) {
        why = errno;
    } else {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        socklen_t n = sizeof why;
        if (poll(&p, 1, ASK_CONNECT_MS) != 1)
            why = ETIMEDOUT;
        else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &n))
            why = errno;
    }
    close(fd);
    return why;
}

/* This machine has none of that kind: the name's other addresses tell. */
static bool is_no_way(int why) { return why == EAFNOSUPPORT || why == ENETUNREACH || why == EADDRNOTAVAIL; }

/* Whether a machine answers that nobody takes connections at a URL; *why: what was found. No more is asked: a gateway that is stalled or starts, a socket that
 * would start one, a certificate that this machine does not trust: behind each there may be a primary that bills. So may there be behind silence: a machine
 * that is off and one that is cut off from this one alone look the same from here. */
static bool is_gone(const char *url, char why[200])
{
    char host[256] = "", port[8] = "";
    bool tls = strncmp(url, "https://", 8) == 0;
    const char *at = strstr(url, "://");
    at = at ? at + 3 : url;
    if (sscanf(at, "[%255[^]]]:%7[0-9]", host, port) < 1 && sscanf(at, "%255[^:/]:%7[0-9]", host, port) < 1) {
        snprintf(why, 200, "the address is not understood");
        return false;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all = NULL;
    int rc = getaddrinfo(host, *port ? port : tls ? "443" : "80", &hints, &all);
    if (rc) {
        snprintf(why, 200, "%s", gai_strerror(rc));
        return false;
    }
    bool refused = false;
    for (const struct addrinfo *a = all; a; a = a->ai_next) {
        rc = try_connect(a);
        if (rc == ECONNREFUSED) refused = true;
        else if (!is_no_way(rc)) break;
        else rc = refused ? ECONNREFUSED : rc;
    }
    freeaddrinfo(all);
    snprintf(why, 200, "%s", rc ? strerror(rc) : "takes connections");
    return rc == ECONNREFUSED;
}

static int check_primary(const char *from, bool force, struct err *e)
{
    char why[200];
    if (is_gone(from, why)) {
        printf("%s does not answer: %s\n", from, why);
        return 0;
    }
    if (force) {
        printf("%s: %s; promoted all the same, for --force was said\n", from, why);
        return 0;
    }
    return err_set(e, ERR_CONFLICT, "%s may be serving (%s): stop that gateway and its sockets first, or say --force where its machine is off, or no client reaches it", from, why);
}

/* A promotion that is killed after this leaves pages that the primary does not have: they are compared where it is followed again. */
static int forget_generation(struct standby *s, struct err *e)
{
    struct state t = s->state;
    t.gen = 0;
    return state_write(s, &t, e);
}

struct takeover {
    struct state *t;
    int64_t n;
};

static int run_takeover(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('takeovers', 1) ON CONFLICT DO UPDATE SET value = value + 1 RETURNING value";
    struct takeover *w = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_row(st, e) != 1) return -1;
    w->n = sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    json_t *detail = json_pack("{sI sI}", "takeover", (json_int_t)w->n, "moment", (json_int_t)(w->t->wall_us / 1000000));
    int rc = event_add(d, c, "", "standby.promoted", "", detail, e);
    json_decref(detail);
    return rc;
}

static int note_takeover(struct standby *s, int64_t *n, struct err *e)
{
    struct db *d = NULL;
    struct takeover w = {.t = &s->state};
    int rc = db_open(&d, &(struct db_options){.dir = s->dir, .sync_ms = 1000, .standby = true, .lock = s->lock}, e);
    if (rc == 0) rc = db_write_wait(d, run_takeover, &w, e);
    db_close(d);
    *n = w.n;
    return rc;
}

static int unmark(const struct standby *s, struct err *e)
{
    char path[FILES_PATH_MAX];
    standby_path(s, STANDBY_MARK, path);
    if (unlink(path)) return err_errno(e, "%s", path);
    standby_path(s, "standby", path);
    files_remove_tree(path, NULL);
    return files_sync_folder(s->dir, e);
}

/* weft.db was taken room for by a state that was not sealed any more: it gets the size that its state says. */
static int check_size(const struct standby *s, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct stat st;
    int64_t bytes = s->state.pages * s->state.page_size;
    if (!s->state.gen) return 0; /* a promotion got further than this before, and the database may have grown since */
    standby_path(s, DB_FILE, path);
    if (stat(path, &st)) return err_errno(e, "%s", path);
    if (st.st_size < bytes) return err_set(e, ERR_CONFLICT, "%s has %lld bytes, not %lld", path, (long long)st.st_size, (long long)bytes);
    return st.st_size > bytes && truncate(path, bytes) ? err_errno(e, "%s", path) : 0;
}

/* A standby that follows fetches it again where it is another. */
static int check_pepper(const struct standby *s, struct err *e)
{
    char tag[SHA256_HEX];
    if (pepper_tag(s, "pepper", tag, e)) return -1;
    if (strcmp(tag, s->state.tag) == 0) return 0;
    return err_set(e, ERR_CONFLICT, "%s/pepper is %s: with it every key would be refused. Put the primary's pepper there (backups have it), and promote again", s->dir,
                   *tag ? "not the one of the state that is there" : "missing");
}

/* Said, not refused: the primary had them no more either. */
static void tell_missing(const struct standby *s)
{
    if (s->missing.len) printf("The primary could not give these files, which the state names; backups may have them:\n%s", s->missing.data);
    if (!*s->state.names) printf("The list of the files that the state names is damaged: whether all of them are here is not known.\n");
}

static int promote(struct standby *s, bool force, int *turn, int64_t *n, struct err *e)
{
    char from[1000];
    if (take_turn(s, turn, e) || open_when_free(s, e)) return -1;
    if (!s->state.pages) return err_set(e, ERR_CONFLICT, "%s holds no complete state yet", s->dir);
    if (read_from(s, from, e) || check_pepper(s, e) || check_version(s, e) || check_primary(from, force, e) || check_size(s, e)) return -1;
    struct state t = s->state;
    if (forget_generation(s, e) || note_takeover(s, n, e) || unmark(s, e)) return -1;
    char iso[CLOCK_ISO_LEN];
    clock_iso(t.wall_us, iso);
    printf("%s is a gateway's folder now, of the state of %s, %.1f s ago by this machine's clock (takeover %lld).\n", s->dir, iso,
           (double)(clock_wall_us() - t.asked_us) / 1e6, (long long)*n);
    tell_missing(s);
    printf("Make sure that the gateway at %s serves nobody and does not start again: stop its unit and disable it, or cut its machine off.\n"
           "What it settled after that moment is not known here. Now start: weft-gateway --data %s\n", from, s->dir);
    return 0;
}

static int complain(const struct err *e)
{
    fprintf(stderr, "weft-gateway: %s\n", e->msg);
    return 1;
}

int promote_main(int argc, char **argv)
{
    static const struct option options[] = {{"data", required_argument, NULL, 'd'}, {"force", no_argument, NULL, 'f'}, {"help", no_argument, NULL, 'h'}, {0}};
    static struct standby s = {.is_asked_to_end = never, .lock = -1};
    struct err e = {0};
    bool force = false;
    int turn = -1;
    int64_t n = 0;
    optind = 2;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'd') s.dir = optarg;
        else if (c == 'f') force = true;
        else if (c == 'h') return fputs(usage, stdout) < 0;
        else s.dir = "", optind = argc + 1;
    }
    if (optind != argc || !s.dir || !*s.dir) {
        fprintf(stderr, "weft-gateway: promote: --data is needed, and nothing else but --force\n%s", usage);
        return 2;
    }
    int rc = promote(&s, force, &turn, &n, &e);
    if (s.lock >= 0) close(s.lock);
    if (turn >= 0) close(turn);
    return rc ? complain(&e) : fflush(stdout) == 0 ? 0 : 1;
}
