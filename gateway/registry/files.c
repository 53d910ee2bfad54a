/* files: see files.h. Nothing here follows a symbolic link out of the folder it works in. Any thread. */
#include "gateway/registry/files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES (256 << 10)
#define TREE_FDS 16

void files_join(char out[FILES_PATH_MAX], const char *dir, const char *name) { snprintf(out, FILES_PATH_MAX, "%s/%s", dir, name); }

static int write_all(int fd, const uint8_t *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

/* Reads to the end; to >= 0: writes it there as well. */
static int pump(int from, int to, const char *path, const struct stopper *stop, char sha256[SHA256_HEX], int64_t *bytes, struct err *e)
{
    uint8_t *piece = malloc(PIECE_BYTES), digest[SHA256_BYTES];
    struct sha256 h;
    ssize_t n = 1;
    int rc = piece ? 0 : err_set(e, ERR_NO_MEMORY, "no memory to read %s", path);
    sha256_init(&h);
    *bytes = 0;
    while (rc == 0 && n > 0) {
        if (is_stopped(stop)) rc = err_set(e, ERR_UNAVAILABLE, "stopped before it was done");
        else if ((n = read(from, piece, PIECE_BYTES)) < 0) rc = err_errno(e, "%s", path);
        else if (to >= 0 && write_all(to, piece, (size_t)n)) rc = err_errno(e, "copy of %s", path);
        if (rc == 0) sha256_add(&h, piece, (size_t)n);
        if (rc == 0) *bytes += n;
    }
    free(piece);
    sha256_end(&h, digest);
    sha256_hex(digest, sha256);
    return rc;
}

static int open_plain(const char *path, struct stat *st, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) return err_set(e, ERR_NOT_FOUND, "%s is missing", path);
    if (fd < 0 || fstat(fd, st)) {
        err_errno(e, "%s", path);
    } else if (!S_ISREG(st->st_mode)) {
        err_set(e, ERR_INVALID, "%s is not a file", path);
    } else {
        return fd;
    }
    if (fd >= 0) close(fd);
    return -1;
}

int files_hash(const char *path, const struct stopper *stop, char sha256[SHA256_HEX], int64_t *bytes, struct err *e)
{
    struct stat st;
    int fd = open_plain(path, &st, e);
    if (fd < 0) return -1;
    int rc = pump(fd, -1, path, stop, sha256, bytes, e);
    close(fd);
    return rc;
}

int files_copy(const char *from, const char *to, const struct stopper *stop, char sha256[SHA256_HEX], int64_t *bytes, struct err *e)
{
    struct stat st;
    int in = open_plain(from, &st, e);
    if (in < 0) return -1;
    unlink(to);
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = out < 0 ? err_errno(e, "%s", to) : pump(in, out, from, stop, sha256, bytes, e);
    if (rc == 0 && (futimens(out, (struct timespec[]){st.st_atim, st.st_mtim}) || fsync(out))) rc = err_errno(e, "%s", to);
    if (out >= 0 && close(out) && rc == 0) rc = err_errno(e, "%s", to);
    close(in);
    if (rc && out >= 0) unlink(to);
    return rc;
}

int files_link_or_copy(const char *from, const char *to, const struct stopper *stop, bool *linked, char sha256[SHA256_HEX], int64_t *bytes, struct err *e)
{
    struct stat st;
    unlink(to);
    *linked = linkat(AT_FDCWD, from, AT_FDCWD, to, 0) == 0 && lstat(to, &st) == 0 && S_ISREG(st.st_mode);
    if (*linked) *bytes = st.st_size;
    return *linked ? 0 : files_copy(from, to, stop, sha256, bytes, e);
}

bool files_alike(const char *a, const char *b)
{
    struct stat x, y;
    return lstat(a, &x) == 0 && lstat(b, &y) == 0 && S_ISREG(x.st_mode) && S_ISREG(y.st_mode) && x.st_size == y.st_size &&
           x.st_mtim.tv_sec == y.st_mtim.tv_sec && x.st_mtim.tv_nsec == y.st_mtim.tv_nsec;
}

int files_folder(const char *path, struct err *e)
{
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST) return err_errno(e, "folder %s", path);
    if (stat(path, &st)) return err_errno(e, "folder %s", path);
    return S_ISDIR(st.st_mode) ? 0 : err_set(e, ERR_IO, "%s is not a folder", path);
}

int files_folders(char *path, size_t from, struct err *e)
{
    for (char *p = path + from + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        int rc = files_folder(path, e);
        *p = '/';
        if (rc) return -1;
    }
    return 0;
}

static int sync_by(const char *path, int flags, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0) return err_errno(e, "%s", path);
    int rc = fsync(fd);
    close(fd);
    return rc ? err_errno(e, "fsync of %s", path) : 0;
}

int files_sync(const char *path, struct err *e) { return sync_by(path, O_NOFOLLOW, e); }

int files_sync_folder(const char *path, struct err *e) { return sync_by(path, O_DIRECTORY, e); }

static int sync_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)f;
    return type == FTW_DP ? files_sync_folder(path, NULL) : 0;
}

int files_sync_tree(const char *path, struct err *e)
{
    return nftw(path, sync_one, TREE_FDS, FTW_DEPTH | FTW_PHYS) ? err_errno(e, "fsync of the folders of %s", path) : 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path) && errno != ENOENT;
}

int files_remove_tree(const char *path, struct err *e)
{
    if (access(path, F_OK) && errno == ENOENT) return 0;
    return nftw(path, remove_one, TREE_FDS, FTW_DEPTH | FTW_PHYS) ? err_errno(e, "%s can't be removed", path) : 0;
}

int files_write(const char *path, const char *text, size_t n, struct err *e)
{
    char fresh[FILES_PATH_MAX];
    if (snprintf(fresh, sizeof fresh, "%s.new", path) >= (int)sizeof fresh) return err_set(e, ERR_INVALID, "the path of %.60s... is too long", path);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_errno(e, "%s", fresh);
    bool ok = write_all(fd, (const uint8_t *)text, n) == 0 && fsync(fd) == 0;
    if (close(fd) || !ok || rename(fresh, path)) {
        err_errno(e, "%s", path);
        unlink(fresh);
        return -1;
    }
    return 0;
}
