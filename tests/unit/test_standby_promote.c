/* Tests of `weft-gateway promote`: nobody else gets in while it works, and it refuses what would be no gateway's folder, or a second gateway. */
#include "tests/unit/standby_room.h"
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define LET_GO 97

/* --- what stands in for libc's: looks on the way --- */

static const struct world *watched; /* in the process that promotes: whether the folder's lock is held without a gap */
static bool was_held, was_free;
static int unreachable; /* errno of every connection; 0: the kernel's */
static const char *vanishes; /* a file that is gone once the lock was asked for: somebody else was first */

static void look(void)
{
    char path[FILES_PATH_MAX];
    if (!watched) return;
    files_join(path, watched->home, "lock");
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    if (syscall(SYS_flock, fd, LOCK_EX | LOCK_NB)) was_held = true;
    else if (was_held) was_free = true;
    syscall(SYS_close, fd);
}

int flock(int fd, int how)
{
    int rc = (int)syscall(SYS_flock, fd, how);
    look();
    if (vanishes) syscall(SYS_unlink, vanishes);
    return rc;
}
int fsync(int fd) /* nothing here needs the disk */
{
    look();
    return fd < 0 ? -1 : 0;
}
int fdatasync(int fd) { return fd < 0 ? -1 : 0; }
int mkdir(const char *p, mode_t m)
{
    look();
    return (int)syscall(SYS_mkdir, p, m);
}
int rename(const char *a, const char *b)
{
    look();
    return (int)syscall(SYS_rename, a, b);
}
int unlink(const char *p)
{
    look();
    return (int)syscall(SYS_unlink, p);
}
int connect(int fd, const struct sockaddr *a, socklen_t n)
{
    errno = unreachable;
    return unreachable ? -1 : (int)syscall(SYS_connect, fd, a, n);
}

/* --- nobody else --- */

static void tell_of_gap(void)
{
    if (was_free || !was_held) _exit(LET_GO);
}

static void from_its_first_step_to_its_last_the_folders_lock_is_held(void **state)
{
    struct world *w = *state;
    make_home(w, 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        char *args[] = {(char *)"weft-gateway", (char *)"promote", (char *)"--data", w->home, NULL};
        if (!freopen("/dev/null", "w", stdout)) _exit(98);
        watched = w;
        atexit(tell_of_gap);
        exit(promote_main(4, args));
    }
    assert_int_equal(wait_for(pid), 0);
    assert_false(is_file(w->home, ".standby"));
}

static void while_one_promotion_waits_a_second_is_refused_and_no_standby_begins(void **state)
{
    struct world *w = *state;
    struct standby s = {.dir = w->home};
    char path[FILES_PATH_MAX];
    make_home(w, 0);
    assert_false(standby_is_promoted(&s));
    files_join(path, w->home, "standby/promote");
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_false(standby_is_promoted(&s)); /* of one that was killed the file stays */
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), 0);
    assert_true(standby_is_promoted(&s));
    assert_true(standby_is_promoted(&s));
    assert_int_equal(promote_home(w, true, NULL), 1);
    check_said(w, "another promotion");
    assert_true(is_file(w->home, ".standby"));
    close(fd);
    assert_false(standby_is_promoted(&s));
    assert_int_equal(promote_home(w, true, NULL), 0);
}

static void a_standby_that_was_about_to_begin_when_its_folder_was_promoted_leaves_it_alone(void **state)
{
    struct world *w = *state;
    char mark[FILES_PATH_MAX];
    struct err e = {0};
    make_home(w, 0);
    files_join(mark, w->home, ".standby");
    struct standby s = {.dir = w->home, .from = FROM, .is_asked_to_end = never, .lock = -1};
    vanishes = mark;
    assert_int_equal(standby_open(&s, FROM, &e), -1);
    vanishes = NULL;
    assert_non_null(strstr(e.msg, "holds a gateway's data"));
    assert_false(is_file(w->home, ".standby"));
    standby_close(&s);
}

/* --- what is refused --- */

static void check_refused(const struct world *w, bool force, void (*armed)(void), const char *words)
{
    struct standby s;
    assert_int_equal(promote_home(w, force, armed), 1);
    check_said(w, words);
    assert_true(is_file(w->home, ".standby"));
    open_home((struct world *)w, &s);
    assert_int_equal(s.state.gen, 1); /* nothing was done to it */
    standby_close(&s);
}

static void with_another_pepper_than_its_states_own_or_none_a_folder_is_not_promoted(void **state)
{
    struct world *w = *state;
    char path[FILES_PATH_MAX];
    make_home(w, 0);
    files_join(path, w->home, "pepper");
    put_file(w->home, "pepper", "0123456789abcdef0123456789abcdef");
    check_refused(w, true, NULL, "not the one of the state");
    put_file(w->home, "pepper", "short");
    check_refused(w, true, NULL, "not the one of the state");
    unlink(path);
    check_refused(w, true, NULL, "is missing");
    make_home(w, 0);
    assert_int_equal(promote_home(w, false, NULL), 0);
}

static void put_version(const struct world *w, uint32_t version)
{
    char path[FILES_PATH_MAX];
    unsigned char b[4];
    put_be32(version, b);
    files_join(path, w->home, DB_FILE);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, b, sizeof b, DB_VERSION_AT), sizeof b);
    close(fd);
}

static void a_database_of_a_newer_program_is_told_of_and_not_promoted(void **state)
{
    struct world *w = *state;
    struct standby s = {.dir = w->home};
    struct err e = {0};
    make_home(w, 0);
    assert_ok(check_version(&s, &e), e);
    put_version(w, (uint32_t)db_version() + 1);
    assert_int_equal(check_version(&s, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    check_refused(w, true, NULL, "install the primary's version");
    put_version(w, (uint32_t)db_version());
    assert_int_equal(promote_home(w, false, NULL), 0);
}

static void be_silent(void) { unreachable = ETIMEDOUT; }
static void be_cut_off(void) { unreachable = EHOSTUNREACH; }
static void have_no_network(void) { unreachable = ENETUNREACH; }

static void silence_is_no_sign_that_the_primary_is_gone(void **state)
{
    struct world *w = *state;
    make_home(w, 0);
    check_refused(w, false, be_silent, "may be serving");
    check_refused(w, false, be_cut_off, "may be serving");
    check_refused(w, false, have_no_network, "may be serving");
    assert_int_equal(promote_home(w, true, be_silent), 0);
}

static void files_that_the_primary_could_not_give_are_told(void **state)
{
    struct world *w = *state;
    make_home(w, 0);
    put_file(w->home, "standby/missing", "archive/usage_202412.db 7 0\n");
    assert_int_equal(promote_home(w, false, NULL), 0);
    check_said(w, "could not give these files");
    check_said(w, "archive/usage_202412.db");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, new_world, end_world)
        T(from_its_first_step_to_its_last_the_folders_lock_is_held),
        T(while_one_promotion_waits_a_second_is_refused_and_no_standby_begins),
        T(a_standby_that_was_about_to_begin_when_its_folder_was_promoted_leaves_it_alone),
        T(with_another_pepper_than_its_states_own_or_none_a_folder_is_not_promoted),
        T(a_database_of_a_newer_program_is_told_of_and_not_promoted),
        T(silence_is_no_sign_that_the_primary_is_gone),
        T(files_that_the_primary_could_not_give_are_told),
#undef T
    };
    return cmocka_run_group_tests_name("standby_promote", tests, NULL, NULL);
}
