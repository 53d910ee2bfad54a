/* confine: privileges, core files, and which files may be opened (see confine.h).
 *
 * Landlock (docs.kernel.org/userspace-api/landlock.html) needs no privilege and no set-up by the operator, so it also holds where no
 * systemd stands above. It knows rights by version: what an older kernel does not know is not asked of it. The rules name
 * inodes, not paths: a file that is replaced later under the same name is not covered, a folder's new files are. */
#include "base/confine.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/magic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define LINKS_MAX 4096                /* entries of a folder that are looked at for symbolic links */
#define ACCESS_TRUNCATE (1ull << 14)  /* LANDLOCK_ACCESS_FS_TRUNCATE, of version 3; not in Debian 12's headers */
#define ACCESS_IOCTL_DEV (1ull << 15) /* LANDLOCK_ACCESS_FS_IOCTL_DEV, of version 5 */

#define FILE_READ (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE)
#define FILE_WRITE (LANDLOCK_ACCESS_FS_WRITE_FILE | ACCESS_TRUNCATE)
#define MAKE_SPECIAL                                                                                                   \
    (LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |                     \
     LANDLOCK_ACCESS_FS_MAKE_SYM)
#define ACCESS_ALL                                                                                                     \
    (FILE_READ | FILE_WRITE | MAKE_SPECIAL | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR |             \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                      \
     LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REFER | ACCESS_IOCTL_DEV)

static const uint64_t rights[] = {
    [CONFINE_READ] = FILE_READ | LANDLOCK_ACCESS_FS_READ_DIR,
    [CONFINE_CHANGE] = FILE_READ | FILE_WRITE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                       LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REFER,
    [CONFINE_TREE] = FILE_READ | FILE_WRITE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REFER,
    [CONFINE_SOCKET] = LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_SOCK,
};

/* What may be said of a thing that is no folder. */
#define OF_FILES (FILE_READ | FILE_WRITE | ACCESS_IOCTL_DEV)

extern void __sanitizer_print_stack_trace(void) __attribute__((weak)); /* each sanitizer's runtime has it */

bool confine_is_sanitized(void)
{
    return __sanitizer_print_stack_trace != NULL;
}

/* Not 0 but 1: a core that the kernel pipes into a program heeds that limit alone (core(5)). */
void confine_start(void)
{
    setrlimit(RLIMIT_CORE, &(struct rlimit){1, 1});
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (!confine_is_sanitized())
        prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* LeakSanitizer looks at its own process from outside */
}

/* --- files --- */

static uint64_t known(int version)
{
    uint64_t all = ACCESS_ALL;
    if (version < 2) all &= ~(uint64_t)LANDLOCK_ACCESS_FS_REFER;
    if (version < 3) all &= ~ACCESS_TRUNCATE;
    if (version < 5) all &= ~ACCESS_IOCTL_DEV;
    return all;
}

static int allow(int rules, uint64_t handled, const char *path, enum confine_right right, struct err *e)
{
    struct stat st;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return 0;
    if (fd < 0) return err_errno(e, "cannot look at %s", path);
    struct landlock_path_beneath_attr rule = {.allowed_access = rights[right] & handled, .parent_fd = fd};
    int rc = fstat(fd, &st);
    if (rc == 0 && !S_ISDIR(st.st_mode)) rule.allowed_access &= OF_FILES;
    if (rc == 0 && rule.allowed_access)
        rc = (int)syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    if (rc) err_errno(e, "cannot allow %s", path);
    close(fd);
    return rc ? -1 : 0;
}

/* What a folder's symbolic links lead to. Those of a process in /proc name its root and where it stands: they would allow everything. */
static int allow_links(int rules, uint64_t handled, const char *folder, struct err *e)
{
    int rc = 0, seen = 0;
    struct statfs of;
    DIR *d = statfs(folder, &of) || of.f_type == PROC_SUPER_MAGIC ? NULL : opendir(folder);
    for (struct dirent *x; d && rc == 0 && seen++ < LINKS_MAX && (x = readdir(d));) {
        char path[4096];
        if (x->d_type != DT_LNK) continue;
        snprintf(path, sizeof path, "%s/%s", folder, x->d_name);
        rc = allow(rules, handled, path, CONFINE_READ, e);
    }
    if (d) closedir(d);
    return rc;
}

const char *confine_folder_of(const char *path, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s", path);
    char *slash = strrchr(out, '/');
    if (!slash) return path[0] ? "." : "";
    slash[slash == out] = 0;
    return out;
}

/* What a program reads without being told: the loader's and the C library's. */
static const char *const of_libraries[] = {"/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf",
                                           "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/gai.conf", "/proc/sys", "/dev/null", "/dev/urandom"};

static int allow_all(int rules, uint64_t handled, const char *path, enum confine_right right, struct err *e)
{
    return allow(rules, handled, path, right, e) || allow_links(rules, handled, path, e) ? -1 : 0;
}

int confine_files(const struct confine_path *paths, size_t n, struct err *e)
{
    int version = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 1) return err_set(e, ERR_UNAVAILABLE, "this kernel has no Landlock: %s", strerror(errno));
    struct landlock_ruleset_attr a = {.handled_access_fs = known(version)};
    int rules = (int)syscall(SYS_landlock_create_ruleset, &a, sizeof a, 0), rc = rules < 0 ? -1 : 0;
    if (rc) err_errno(e, "no Landlock rules can be made");
    for (size_t i = 0; i < sizeof of_libraries / sizeof *of_libraries && rc == 0; i++)
        rc = allow_all(rules, a.handled_access_fs, of_libraries[i], CONFINE_READ, e);
    for (size_t i = 0; i < n && rc == 0; i++)
        if (paths[i].path && paths[i].path[0]) rc = allow_all(rules, a.handled_access_fs, paths[i].path, paths[i].right, e);
    if (rc == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) rc = err_errno(e, "new privileges can't be given up");
    if (rc == 0 && syscall(SYS_landlock_restrict_self, rules, 0)) rc = err_errno(e, "Landlock refuses the rules");
    if (rules >= 0) close(rules);
    return rc ? -1 : 0;
}
