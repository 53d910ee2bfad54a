/* The store under crashes: the Nth call that changes or syncs the disk kills the process, or fails, for N = 0, 1, 2,
 * ... until the whole goes through. After each, a version is there completely or not at all, and the next attempt
 * succeeds.
 *
 * The calls below stand in for libc's in this program, and hand on to the kernel. */
#include "tests/unit/test_adapters.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define CRASHED 99

static int until = -1; /* calls that go through before the fault; -1: no fault */
static int fault;      /* errno to give; 0: die */

static bool faulty(void)
{
    if (until < 0 || until-- > 0) return false;
    if (!fault) _exit(CRASHED);
    until = 1 << 30; /* once */
    errno = fault;
    return true;
}

int fsync(int fd)
{
    return faulty() ? -1 : (int)syscall(SYS_fsync, fd);
}
int rename(const char *a, const char *b)
{
    return faulty() ? -1 : (int)syscall(SYS_rename, a, b);
}
int mkdir(const char *p, mode_t m)
{
    return faulty() ? -1 : (int)syscall(SYS_mkdir, p, m);
}
int rmdir(const char *p)
{
    return faulty() ? -1 : (int)syscall(SYS_rmdir, p);
}
int unlink(const char *p)
{
    return faulty() ? -1 : (int)syscall(SYS_unlink, p);
}
int unlinkat(int fd, const char *p, int flags)
{
    return faulty() ? -1 : (int)syscall(SYS_unlinkat, fd, p, flags);
}

struct place {
    char root[STORE_PATH_MAX], tmp[STORE_PATH_MAX];
};

static void place_of(void **state, struct place *p)
{
    snprintf(p->root, sizeof p->root, "%s/blobs", (char *)*state);
    snprintf(p->tmp, sizeof p->tmp, "%s/tmp", (char *)*state);
    mkdir(p->root, 0700);
    mkdir(p->tmp, 0700);
}

static void upload(const struct place *p, char dir[STORE_PATH_MAX])
{
    struct err e = {0};
    if (store_temp(p->tmp, dir, &e)) fail_msg("%s", e.msg);
    fix_file(dir, ADAPTER_CONFIG_FILE, "{}", 2);
    fix_file(dir, ADAPTER_WEIGHTS_FILE, "weights", 7);
}

static int entries_of(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    while (readdir(d)) n++;
    closedir(d);
    return n - 2;
}

static void expect_whole(const struct place *p)
{
    char path[STORE_PATH_MAX], file[STORE_PATH_MAX + 64], text[16] = "";
    assert_true(store_has(p->root, DIGEST));
    assert_int_equal(store_path(p->root, DIGEST, path, NULL), 0);
    assert_int_equal(entries_of(path), 2);
    snprintf(file, sizeof file, "%s/" ADAPTER_WEIGHTS_FILE, path);
    FILE *f = fopen(file, "r");
    assert_non_null(f);
    assert_int_equal(fread(text, 1, sizeof text, f), 7);
    fclose(f);
    assert_string_equal(text, "weights");
}

static void a_version_is_found_after_its_commit_only(void **state)
{
    struct place p;
    char dir[STORE_PATH_MAX], path[STORE_PATH_MAX], expect[STORE_PATH_MAX + 80];
    struct err e = {0};
    place_of(state, &p);
    upload(&p, dir);
    assert_false(store_has(p.root, DIGEST));
    if (store_commit(p.root, dir, DIGEST, &e)) fail_msg("%s", e.msg);
    expect_whole(&p);
    assert_int_equal(access(dir, F_OK), -1);
    assert_int_equal(store_path(p.root, DIGEST, path, NULL), 0);
    snprintf(expect, sizeof expect, "%s/00/" DIGEST, p.root);
    assert_string_equal(path, expect);
    assert_int_equal(store_remove(p.root, DIGEST, &e), 0);
    assert_false(store_has(p.root, DIGEST));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(store_remove(p.root, DIGEST, &e), 0);
}

static void the_same_version_again_drops_the_second_copy(void **state)
{
    struct place p;
    char one[STORE_PATH_MAX], two[STORE_PATH_MAX];
    place_of(state, &p);
    upload(&p, one);
    upload(&p, two);
    assert_string_not_equal(one, two);
    assert_int_equal(store_commit(p.root, one, DIGEST, NULL), 0);
    assert_int_equal(store_commit(p.root, two, DIGEST, NULL), 0);
    expect_whole(&p);
    assert_int_equal(entries_of(p.tmp), 0);
}

static void names_that_are_no_digest_never_reach_the_disk(void **state)
{
    static const char *const names[] = {"",
                                        "..",
                                        "../../../../etc",
                                        "ab",
                                        "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff",
                                        DIGEST "0",
                                        "00112233445566778899aabbccddeeff00112233445566778899aabbccddee/."};
    struct place p;
    char path[STORE_PATH_MAX] = "untouched", dir[STORE_PATH_MAX];
    place_of(state, &p);
    upload(&p, dir);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct err e = {0};
        assert_int_equal(store_path(p.root, names[i], path, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(path, "untouched");
        assert_false(store_has(p.root, names[i]));
        assert_int_equal(store_commit(p.root, dir, names[i], NULL), -1);
        assert_int_equal(store_remove(p.root, names[i], NULL), -1);
    }
    assert_int_equal(entries_of(p.root), 0);
}

static void an_upload_that_lacks_a_file_or_holds_a_link_is_not_committed(void **state)
{
    struct place p;
    char dir[STORE_PATH_MAX], file[STORE_PATH_MAX + 64];
    place_of(state, &p);
    for (int linked = 0; linked < 2; linked++) {
        struct err e = {0};
        upload(&p, dir);
        snprintf(file, sizeof file, "%s/" ADAPTER_WEIGHTS_FILE, dir);
        assert_int_equal(unlink(file), 0);
        if (linked) assert_int_equal(symlink("/etc/passwd", file), 0);
        assert_int_equal(store_commit(p.root, dir, DIGEST, &e), -1);
        assert_non_null(strstr(e.msg, "the upload has no file adapter_model.safetensors"));
        assert_false(store_has(p.root, DIGEST));
        store_discard(dir);
        assert_int_equal(access(dir, F_OK), -1);
    }
}

static void cleaning_empties_the_folder_and_follows_no_link(void **state)
{
    struct place p;
    char dir[STORE_PATH_MAX], link[STORE_PATH_MAX + 8];
    struct err e = {0};
    place_of(state, &p);
    for (int i = 0; i < 20; i++) upload(&p, dir);
    fix_file(*state, "precious", "x", 1);
    snprintf(link, sizeof link, "%s/link", p.tmp);
    assert_int_equal(symlink(*state, link), 0);
    fix_file(p.tmp, "stray", "x", 1);
    if (store_clean(p.tmp, &e)) fail_msg("%s", e.msg);
    assert_int_equal(entries_of(p.tmp), 0);
    snprintf(link, sizeof link, "%s/precious", (char *)*state);
    assert_int_equal(access(link, F_OK), 0);
    assert_int_equal(rmdir(p.tmp), 0);
    assert_int_equal(store_clean(p.tmp, &e), 0);
}

/* In a child: `op` with its Nth call dying. True: it died. */
static bool dies_at(int n, int (*op)(const struct place *p, const char *dir), const struct place *p, const char *dir)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        until = n;
        int rc = op(p, dir);
        until = -1;
        _exit(rc ? 1 : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == CRASHED));
    return WEXITSTATUS(status) == CRASHED;
}

static int do_commit(const struct place *p, const char *dir)
{
    return store_commit(p->root, dir, DIGEST, NULL);
}

static int do_remove(const struct place *p, const char *dir)
{
    (void)dir;
    return store_remove(p->root, DIGEST, NULL);
}

/* What a restart does, then the whole again; the store is empty after it. */
static void recover_and_repeat(const struct place *p)
{
    char dir[STORE_PATH_MAX];
    struct err e = {0};
    if (store_clean(p->tmp, &e)) fail_msg("%s", e.msg);
    assert_int_equal(entries_of(p->tmp), 0);
    upload(p, dir);
    if (store_commit(p->root, dir, DIGEST, &e)) fail_msg("%s", e.msg);
    expect_whole(p);
    assert_int_equal(entries_of(p->tmp), 0);
    if (store_remove(p->root, DIGEST, &e)) fail_msg("%s", e.msg);
    assert_false(store_has(p->root, DIGEST));
}

static void a_commit_killed_anywhere_leaves_all_or_nothing(void **state)
{
    struct place p;
    char dir[STORE_PATH_MAX];
    int n = 0;
    place_of(state, &p);
    for (bool died = true; died; n++) {
        upload(&p, dir);
        died = dies_at(n, do_commit, &p, dir);
        if (!died || store_has(p.root, DIGEST)) expect_whole(&p);
        recover_and_repeat(&p);
    }
    assert_true(n > 5);
}

static void a_removal_killed_anywhere_leaves_all_or_nothing(void **state)
{
    struct place p;
    char dir[STORE_PATH_MAX];
    int n = 0;
    place_of(state, &p);
    for (bool died = true; died; n++) {
        upload(&p, dir);
        assert_int_equal(store_commit(p.root, dir, DIGEST, NULL), 0);
        died = dies_at(n, do_remove, &p, NULL);
        if (store_has(p.root, DIGEST)) expect_whole(&p);
        if (!died) assert_false(store_has(p.root, DIGEST));
        recover_and_repeat(&p);
    }
    assert_true(n > 3);
}

static void a_second_commit_killed_anywhere_never_harms_the_first(void **state)
{
    struct place p;
    char dir[STORE_PATH_MAX];
    place_of(state, &p);
    upload(&p, dir);
    assert_int_equal(store_commit(p.root, dir, DIGEST, NULL), 0);
    int n = 0;
    for (bool died = true; died; n++) {
        upload(&p, dir);
        died = dies_at(n, do_commit, &p, dir);
        expect_whole(&p);
    }
    assert_true(n > 5);
}

static void a_disk_that_refuses_once_is_an_error_and_no_version(void **state)
{
    static const int errnos[] = {EIO, ENOSPC, EROFS};
    struct place p;
    char dir[STORE_PATH_MAX];
    place_of(state, &p);
    for (size_t k = 0; k < sizeof errnos / sizeof *errnos; k++) {
        bool failed = true;
        for (int n = 0; failed; n++) {
            struct err e = {0};
            upload(&p, dir);
            fault = errnos[k];
            until = n;
            int rc = store_commit(p.root, dir, DIGEST, &e);
            failed = until > 1 << 20;
            until = -1;
            fault = 0;
            assert_int_equal(rc, failed ? -1 : 0);
            if (rc) assert_int_equal(e.code, ERR_IO);
            if (store_has(p.root, DIGEST)) expect_whole(&p);
            recover_and_repeat(&p);
        }
    }
}

static void a_cache_takes_a_whole_version_by_one_rename(void **state)
{
    struct place p;
    char dir[STORE_PATH_MAX];
    struct err e = {0};
    place_of(state, &p);
    upload(&p, dir);
    if (store_place(p.root, dir, DIGEST, &e)) fail_msg("%s", e.msg);
    assert_true(store_has(p.root, DIGEST));
    upload(&p, dir); /* a second one finds the place taken, and goes */
    assert_int_equal(store_place(p.root, dir, DIGEST, NULL), 0);
    assert_int_equal(access(dir, F_OK), -1);
    upload(&p, dir);
    char path[STORE_PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", dir, ADAPTER_WEIGHTS_FILE);
    assert_int_equal(remove(path), 0);
    assert_int_equal(store_remove(p.root, DIGEST, NULL), 0);
    assert_int_equal(store_place(p.root, dir, DIGEST, &e), -1);
    assert_int_equal(e.code, ERR_ADAPTER_INVALID);
    assert_false(store_has(p.root, DIGEST));
    store_discard(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_version_is_found_after_its_commit_only, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(the_same_version_again_drops_the_second_copy, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(names_that_are_no_digest_never_reach_the_disk, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(an_upload_that_lacks_a_file_or_holds_a_link_is_not_committed, fix_dir,
                                        fix_dir_gone),
        cmocka_unit_test_setup_teardown(cleaning_empties_the_folder_and_follows_no_link, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_commit_killed_anywhere_leaves_all_or_nothing, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_removal_killed_anywhere_leaves_all_or_nothing, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_second_commit_killed_anywhere_never_harms_the_first, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_disk_that_refuses_once_is_an_error_and_no_version, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_cache_takes_a_whole_version_by_one_rename, fix_dir, fix_dir_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
