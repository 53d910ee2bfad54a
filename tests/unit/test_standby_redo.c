/* Tests of gateway/standby, what it does to its folder: at the Nth call that changes the disk the process is killed, or the call fails, for N = 0, 1, 2, ...
 * until the whole goes through. Whoever opens the folder then, to follow or to promote, finds one whole state of the primary: the new one from the rename of
 * what was sealed on, the old one before.
 *
 * The calls below stand in for libc's in this program, and hand on to the kernel. */
#include "tests/unit/standby_room.h"
#include <sys/syscall.h>

#define KILLED 99

static int until = -1; /* calls that go through before the fault; -1: no fault */
static int fault;      /* errno to give; 0: die */
static bool halfway;   /* who dies while it writes has written the half of it */

static bool is_faulty(void)
{
    if (until < 0 || until-- > 0) return false;
    until = -1; /* once */
    return true;
}

static int refused(void)
{
    if (!fault) _exit(KILLED);
    errno = fault;
    return -1;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    if (!is_faulty()) return syscall(SYS_pwrite64, fd, p, n, at);
    if (halfway) syscall(SYS_pwrite64, fd, p, n / 2, at);
    return refused();
}
ssize_t write(int fd, const void *p, size_t n)
{
    if (!is_faulty()) return syscall(SYS_write, fd, p, n);
    if (halfway) syscall(SYS_write, fd, p, n / 2);
    return refused();
}
/* A process that is killed loses nothing that was not synced: the tests need not wait for a disk. */
int fsync(int fd) { return is_faulty() ? refused() : fd < 0 ? -1 : 0; }
int fdatasync(int fd) { return fd < 0 ? -1 : 0; }
int rename(const char *a, const char *b) { return is_faulty() ? refused() : (int)syscall(SYS_rename, a, b); }
int unlink(const char *p) { return is_faulty() ? refused() : (int)syscall(SYS_unlink, p); }
int mkdir(const char *p, mode_t m) { return is_faulty() ? refused() : (int)syscall(SYS_mkdir, p, m); }
int ftruncate(int fd, off_t n) { return is_faulty() ? refused() : (int)syscall(SYS_ftruncate, fd, n); }
int posix_fallocate(int fd, off_t at, off_t n)
{
    if (is_faulty() ? refused() : syscall(SYS_fallocate, fd, 0, at, n)) return errno;
    return 0;
}

/* --- killed --- */

/* A folder of state `from`; a look that brings state `to` is killed at its nth call. false: it went through. */
static bool kill_look(struct world *w, int from, int to, int n, bool half)
{
    make_home(w, from);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        struct standby s;
        struct err e = {0};
        open_home(w, &s);
        bring_files(w, to);
        halfway = half;
        until = n;
        int rc = bring_next(w, &s, to, &e);
        until = -1;
        _exit(rc ? 98 : 0);
    }
    int rc = wait_for(pid);
    assert_true(rc == 0 || rc == KILLED);
    return rc == KILLED;
}

/* From the rename of what was sealed on it is the new one. */
static int state_left(const struct world *w, int from, int to)
{
    char words[32];
    if (is_file(w->home, "standby/redo")) return to;
    snprintf(words, sizeof words, "\"gen\":%d,", to + 1);
    return strstr(text_of(w->home, "standby/state.json"), words) ? to : from;
}

static int kill_all(struct world *w, int from, int to, bool half)
{
    int n = 0, news = 0;
    for (; kill_look(w, from, to, n, half); n++) {
        struct standby s;
        int i = state_left(w, from, to);
        open_home(w, &s);
        check_home(w, &s, i);
        standby_close(&s);
        news += i == to;
    }
    char gone[200];
    snprintf(gone, sizeof gone, "blobs/%.2s/%s", digest(from), digest(from));
    assert_false(is_file(w->home, gone));
    assert_true(news > 10 && n - news > 10);
    return n;
}

static void a_standby_that_is_killed_at_any_step_of_a_look_is_a_whole_state_when_it_is_started_again(void **state)
{
    struct world *w = *state;
    int64_t added = w->state[1].pages - w->state[0].pages;
    assert_true(added > 10 && kill_all(w, 0, 1, false) > added * 2); /* each of their writes, here and there, and more */
    assert_true(kill_all(w, 0, 1, true) > added * 2);
}

static void a_database_that_became_smaller_is_whole_after_a_kill_at_any_step(void **state) { kill_all(*state, 1, 0, false); }

static void a_folder_whose_standby_was_killed_at_any_step_is_promoted_as_a_whole_state(void **state)
{
    struct world *w = *state;
    char path[FILES_PATH_MAX];
    int n = 0;
    for (bool killed = true; killed; n += 2) { /* not each: the test above does that */
        killed = kill_look(w, 0, 1, n, n % 4);
        int i = state_left(w, 0, 1);
        assert_int_equal(promote_home(w, false, NULL), 0);
        check_said(w, "is a gateway's folder now");
        files_join(path, w->home, DB_FILE);
        assert_int_equal(rows_of(path), i ? 200 : 20);
        check_files(w, i);
        assert_false(is_file(w->home, ".standby"));
    }
    assert_true(n > 40);
}

/* --- refused by the disk --- */

static void where_the_disk_refuses_at_any_step_the_next_look_ends_what_was_sealed_before_it_asks(void **state)
{
    struct world *w = *state;
    int left = 0;
    bool went = false; /* none was refused */
    for (int n = 0; !went; n++) {
        struct standby s;
        struct err e = {0};
        make_home(w, 0);
        open_home(w, &s);
        bring_files(w, 1);
        fault = EIO;
        until = n;
        int rc = bring_next(w, &s, 1, &e);
        went = until >= 0;
        until = -1;
        fault = 0;
        bool was_left = is_file(w->home, "standby/redo");
        left += was_left;
        e = (struct err){0};
        assert_ok(apply_left(&s, true, &e), e);
        if (was_left || !rc) check_home(w, &s, 1);
        standby_close(&s);
        open_home(w, &s);
        check_home(w, &s, is_file(w->home, "archive/usage_202502.db"));
        standby_close(&s);
    }
    assert_true(left > 10);
}

/* --- what was received --- */

static void what_a_process_received_is_taken_up_by_the_next_one_as_far_as_it_is_whole(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    char path[FILES_PATH_MAX], page[PAGE];
    struct stat st;
    make_home(w, 0);
    open_home(w, &s);
    assert_ok(bring_pages(w, &s, 1, 3, 40, &e), e);
    assert_ok(bring_pages(w, &s, 1, 3, 10, &e), e); /* again: they take no more room */
    standby_close(&s);
    files_join(path, w->home, "standby/fresh");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, REDO_HEAD + 38 * (4 + PAGE));
    assert_int_equal(truncate(path, st.st_size - 1), 0);
    open_home(w, &s);
    check_home(w, &s, 0);
    redo_take_up(&s.rx.redo, &s);
    assert_int_equal(s.rx.redo.count, 37);
    assert_true(redo_page(&s.rx.redo, 3, page) && redo_page(&s.rx.redo, 39, page));
    assert_false(redo_page(&s.rx.redo, 2, page) || redo_page(&s.rx.redo, 40, page) || redo_page(&s.rx.redo, 1u << 30, page));
    bring_files(w, 1);
    assert_ok(bring_state(w, &s, 1, &e), e);
    check_home(w, &s, 1);
    standby_close(&s);
}

static void what_is_no_beginning_of_a_state_is_not_taken_up(void **state)
{
    struct world *w = *state;
    struct standby s;
    make_home(w, 0);
    open_home(w, &s);
    static const char *const texts[] = {"", "WEFT", "something else that is longer than a head", REDO_MAGIC "\0\0\0\0"};
    for (int i = 0; i < 4; i++) {
        put_file(w->home, "standby/fresh", texts[i]);
        redo_take_up(&s.rx.redo, &s);
        assert_int_equal(s.rx.redo.fd, -1);
        assert_int_equal(s.rx.redo.count, 0);
    }
    standby_close(&s);
}

static void a_list_of_files_that_is_not_the_states_own_is_asked_for_again(void **state)
{
    struct world *w = *state;
    struct standby s;
    make_home(w, 0);
    put_file(w->home, "standby/names", w->list[1]);
    open_home(w, &s);
    assert_string_equal(s.state.names, "");
    assert_int_equal(s.names.len, 0);
    assert_int_equal(s.state.gen, 1);
    standby_close(&s);
}

static void a_sealed_state_that_is_damaged_is_neither_followed_nor_promoted(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    char path[FILES_PATH_MAX];
    for (int at = 0; at < 3; at++) {
        make_home(w, 0);
        open_home(w, &s);
        assert_ok(bring_pages(w, &s, 1, 1, (uint32_t)w->state[1].pages, &e), e);
        assert_ok(seal_state(w, &s, 1, &e), e);
        standby_close(&s);
        files_join(path, w->home, "standby/redo");
        int fd = open(path, O_RDWR);
        assert_int_equal(pwrite(fd, "\xff", 1, at == 0 ? 3 : at == 1 ? 100000 : lseek(fd, 0, SEEK_END) - 40), 1);
        close(fd);
        assert_int_equal(promote_home(w, false, NULL), 1);
        check_said(w, "is not what was received");
        open_home(w, &s);
        assert_int_equal(s.state.gen, 0);
        assert_int_equal(s.state.pages, 0);
        assert_int_equal(s.stats.unverified[CHECK_REDO], 1);
        standby_close(&s);
    }
}

/* --- of another version --- */

/* A folder of state 0 whose state 1 is sealed and waits; its format is said to be another. The byte at 7 of redo says it. */
static void leave_redo(struct world *w, const char *version)
{
    struct standby s;
    struct err e = {0};
    make_home(w, 0);
    open_home(w, &s);
    bring_files(w, 1);
    assert_true(bring_changes(w, &s, 1, &e) > 0);
    assert_ok(seal_state(w, &s, 1, &e), e);
    standby_close(&s);
    room_write(w->home, "standby/redo", 7, version, 1);
}

static void what_another_version_left_is_told_and_that_version_can_end_it(void **state)
{
    struct world *w = *state;
    struct standby s;
    static const char *const others[] = {"1", "3"};
    for (int i = 0; i < 2; i++) {
        leave_redo(w, others[i]);
        assert_int_equal(promote_home(w, true, NULL), 1);
        check_said(w, "was left by another version of weft-gateway: its format is");
        open_home(w, &s); /* who follows takes none of it, and leaves it all where it is */
        assert_true(s.has_foreign && !s.state.gen && !s.state.pages);
        assert_int_equal(s.stats.unverified[CHECK_REDO], 0);
        standby_close(&s);
        assert_int_equal(promote_home(w, true, NULL), 1);
        check_said(w, "Promote it with the version that left it");
        room_write(w->home, "standby/redo", 7, "2", 1); /* so it is that one's program */
        assert_int_equal(promote_home(w, true, NULL), 0);
        check_files(w, 1);
    }
}

static void who_follows_beside_what_another_version_left_has_a_whole_state_in_the_end(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    leave_redo(w, "1");
    open_home(w, &s);
    bring_files(w, 1);
    assert_ok(apply_left(&s, true, &e), e); /* as each look begins */
    assert_ok(bring_state(w, &s, 1, &e), e);
    assert_false(s.has_foreign);
    check_home(w, &s, 1);
    standby_close(&s);
    assert_int_equal(promote_home(w, true, NULL), 0);
}

static void a_state_of_another_version_is_told_and_followed_anew(void **state)
{
    struct world *w = *state;
    struct standby s;
    struct err e = {0};
    make_home(w, 0);
    const char *text = text_of(w->home, "standby/state.json"), *at = strstr(text, "\"version\":2");
    assert_non_null(at);
    room_write(w->home, "standby/state.json", at - text + 10, "9", 1);
    assert_int_equal(promote_home(w, true, NULL), 1);
    check_said(w, "state.json was left by another version of weft-gateway: its format is 9");
    open_home(w, &s);
    assert_true(s.has_foreign && !s.state.pages);
    bring_files(w, 1);
    assert_ok(bring_state(w, &s, 1, &e), e);
    check_home(w, &s, 1);
    standby_close(&s);
}

static void a_state_that_says_no_version_is_of_the_one_that_did_not_yet(void **state)
{
    struct world *w = *state;
    struct standby s;
    make_home(w, 0);
    char text[4096];
    snprintf(text, sizeof text, "%s", text_of(w->home, "standby/state.json"));
    char *at = strstr(text, "\"version\":2,");
    assert_non_null(at);
    memmove(at, at + 12, strlen(at + 12) + 1);
    put_file(w->home, "standby/state.json", text);
    open_home(w, &s);
    check_home(w, &s, 0);
    standby_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, new_world, end_world)
        T(a_standby_that_is_killed_at_any_step_of_a_look_is_a_whole_state_when_it_is_started_again),
        T(a_database_that_became_smaller_is_whole_after_a_kill_at_any_step),
        T(a_folder_whose_standby_was_killed_at_any_step_is_promoted_as_a_whole_state),
        T(where_the_disk_refuses_at_any_step_the_next_look_ends_what_was_sealed_before_it_asks),
        T(what_a_process_received_is_taken_up_by_the_next_one_as_far_as_it_is_whole),
        T(what_is_no_beginning_of_a_state_is_not_taken_up),
        T(a_list_of_files_that_is_not_the_states_own_is_asked_for_again),
        T(a_sealed_state_that_is_damaged_is_neither_followed_nor_promoted),
        T(what_another_version_left_is_told_and_that_version_can_end_it),
        T(who_follows_beside_what_another_version_left_has_a_whole_state_in_the_end),
        T(a_state_of_another_version_is_told_and_followed_anew),
        T(a_state_that_says_no_version_is_of_the_one_that_did_not_yet),
#undef T
    };
    return cmocka_run_group_tests_name("standby_redo", tests, NULL, NULL);
}
