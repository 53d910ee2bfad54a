/* db_files: what lies beside the database in $WEFT_DATA: the lock, the pepper, the folders, the reserve.
 *
 * The lock is a flock on `lock`, held as long as the process lives: a second gateway (or `weft-gateway admin-key`) is refused, since two
 * writers can corrupt a WAL database of this SQLite. The pepper keys the HMAC of every secret; it is made once, complete and synced
 * under another name, then renamed, so a crash never leaves half of one. A folder that others can read is closed to them (0700).
 *
 * The reserve is a file that only takes room. When the disk is full it is given up, which lets running requests settle while new ones
 * are refused. It is made again once there is room for ROOM_AGAIN of it, so that it does not fill the disk anew. */
#include "base/log.h"
#include "base/sha256.h"
#include "gateway/db/db_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RESERVE_BYTES (8 << 20)
#define ROOM_AGAIN 4

static const char *const folders[] = {"", "/run", "/tmp", "/blobs", "/archive", "/packed"};

static int make_folder(const char *dir, const char *sub, struct err *e)
{
    char path[DB_PATH_MAX];
    snprintf(path, sizeof path, "%s%s", dir, sub);
    if (mkdir(path, 0700) && errno != EEXIST) return err_errno(e, "folder %s", path);
    struct stat st;
    if (stat(path, &st)) return err_errno(e, "folder %s", path);
    if (!S_ISDIR(st.st_mode)) return err_set(e, ERR_IO, "%s is not a folder", path);
    if ((st.st_mode & 07777) != 0700 && chmod(path, 0700)) return err_errno(e, "mode 0700 of %s", path);
    return 0;
}

/* Of a standby's folder whoever promotes it has the lock: it is shared with him, never let go and taken again. */
static int take_lock(struct db_files *f, const struct db_options *o, struct err *e)
{
    char path[DB_PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", f->dir);
    if (o->standby) {
        f->lock = fcntl(o->lock, F_DUPFD_CLOEXEC, 0);
        return f->lock < 0 ? err_errno(e, "lock file %s", path) : 0;
    }
    f->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (f->lock < 0) return err_errno(e, "lock file %s", path);
    if (flock(f->lock, LOCK_EX | LOCK_NB) == 0) return 0;
    if (errno == EWOULDBLOCK)
        return err_set(e, ERR_CONFLICT, "another process uses %s (it holds the file lock)", f->dir);
    return err_errno(e, "lock file %s", path);
}

/* 1 read, 0 absent, -1 failed. */
static int read_pepper(struct db_files *f, const char *path, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? 0 : err_errno(e, "%s", path);
    uint8_t more[sizeof f->pepper + 1];
    ssize_t n = read(fd, more, sizeof more);
    close(fd);
    if (n != (ssize_t)sizeof f->pepper) return err_set(e, ERR_IO, "%s is not 32 bytes; every key depends on it, restore it", path);
    memcpy(f->pepper, more, sizeof f->pepper);
    return 1;
}

static int sync_folder(const char *dir, struct err *e)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return err_errno(e, "%s", dir);
    int rc = fsync(fd);
    close(fd);
    return rc ? err_errno(e, "fsync of %s", dir) : 0;
}

static int write_pepper(struct db_files *f, const char *path, struct err *e)
{
    char fresh[DB_PATH_MAX + 8];
    snprintf(fresh, sizeof fresh, "%s.new", path);
    if (random_bytes(f->pepper, sizeof f->pepper)) return err_errno(e, "random bytes for the pepper");
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_errno(e, "%s", fresh);
    bool ok = write(fd, f->pepper, sizeof f->pepper) == (ssize_t)sizeof f->pepper && fsync(fd) == 0;
    if (close(fd) || !ok || rename(fresh, path)) return err_errno(e, "%s", path);
    return sync_folder(f->dir, e);
}

/* A database without its pepper would refuse every key for a reason that nobody sees: say it. */
static int load_pepper(struct db_files *f, struct err *e)
{
    char path[DB_PATH_MAX], base[DB_PATH_MAX];
    snprintf(path, sizeof path, "%s/pepper", f->dir);
    snprintf(base, sizeof base, "%s/" DB_FILE, f->dir);
    int found = read_pepper(f, path, e);
    if (found) return found < 0 ? -1 : 0;
    if (access(base, F_OK) == 0)
        return err_set(e, ERR_IO, "%s is missing although %s exists; without it no key can be checked", path, base);
    return write_pepper(f, path, e);
}

/* gateway/backup/restore.c fills the folder and removes its mark last; gateway/standby/promote.c removes a standby's. */
static int check_marks(const struct db_files *f, bool standby, struct err *e)
{
    char path[DB_PATH_MAX];
    snprintf(path, sizeof path, "%s/.standby", f->dir);
    if (!standby && access(path, F_OK) == 0)
        return err_set(e, ERR_CONFLICT, "%s is a standby's: `weft-gateway promote --data DIR` makes a gateway's of it", f->dir);
    snprintf(path, sizeof path, "%s/.restoring", f->dir);
    if (access(path, F_OK)) return 0;
    return err_set(e, ERR_CONFLICT, "a restore into %s did not end; run it again", f->dir);
}

int db_files_open(struct db_files *f, const struct db_options *o, struct err *e)
{
    const char *dir = o->dir;
    size_t n = dir ? strlen(dir) : 0;
    while (n > 1 && dir[n - 1] == '/') n--;
    if (n == 0) return err_set(e, ERR_USAGE, "no data folder: set --data or WEFT_DATA");
    if (n >= sizeof f->dir) return err_set(e, ERR_USAGE, "the data folder's path is longer than %zu bytes", sizeof f->dir - 1);
    memcpy(f->dir, dir, n);
    f->dir[n] = 0;
    if (make_folder(f->dir, "", e) || take_lock(f, o, e) || check_marks(f, o->standby, e)) return -1;
    for (size_t i = 1; i < sizeof folders / sizeof *folders; i++)
        if (make_folder(f->dir, folders[i], e)) return -1;
    if (load_pepper(f, e)) return -1;
    db_reserve_make(f);
    return 0;
}

void db_files_close(struct db_files *f)
{
    if (f->lock >= 0) close(f->lock);
    f->lock = -1;
    explicit_bzero(f->pepper, sizeof f->pepper);
}

static void reserve_path(const struct db_files *f, char out[DB_PATH_MAX]) { snprintf(out, DB_PATH_MAX, "%s/reserve", f->dir); }

/* Failing to reserve is no error: the disk may be nearly full and still serve. */
void db_reserve_make(const struct db_files *f)
{
    char path[DB_PATH_MAX];
    reserve_path(f, path);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    int rc = posix_fallocate(fd, 0, RESERVE_BYTES);
    close(fd);
    if (rc == 0) return;
    unlink(path);
    log_warn("reserve_missing", LS("file", path), LS("reason", strerrordesc_np(rc)));
}

bool db_reserve_again(const struct db_files *f)
{
    struct statvfs room;
    if (statvfs(f->dir, &room) || (uint64_t)room.f_bavail * room.f_frsize < (uint64_t)ROOM_AGAIN * RESERVE_BYTES) return false;
    db_reserve_make(f);
    return true;
}

bool db_reserve_drop(const struct db_files *f)
{
    char path[DB_PATH_MAX];
    reserve_path(f, path);
    if (unlink(path)) return false;
    log_warn("reserve_given_up", LS("file", path));
    return true;
}
