/* The content-addressed store: a version is a folder named by its digest, there completely or not at all.
 *
 *     TMP/XXXXXX  --store_commit-->  ROOT/ab/DIGEST  --store_remove-->  (gone)
 *          \--store_discard, store_clean-->  (gone)
 *
 * store_commit() makes the bytes durable before the name: both files and their folder are fsynced, then one rename puts
 * the folder in place, then the parents are fsynced. After a crash at any point the version is either absent or
 * complete. Two commits of one digest at once both succeed: the second finds the place taken and drops its copy.
 *
 * store_remove() can't take a folder away in one step without a place to move it to, so it removes the weights first
 * and store_has() asks for both files: a half-removed version is absent, and the next commit of it clears the remains.
 *
 * Refuses: digests that aren't 64 hex digits (so no client's name reaches a path), commits that lack a file, and links
 * in place of files. Assumes TMP and ROOT on one file system (rename).
 *
 * Threads: any. The gateway's registry sees to it that a version in use isn't removed. */
#include "adapters/store.h"
#include "adapters/adapter.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CLEAN_DEPTH 8  /* folders below TMP */
#define COMMIT_TRIES 3 /* against the remains of a removal */

static const char *const version_files[] = {ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE}; /* in the order of removal */
#define VERSION_FILES (sizeof version_files / sizeof *version_files)

/* --- paths --- */

static int join(char out[STORE_PATH_MAX], const char *dir, const char *name, struct err *e)
{
    if (snprintf(out, STORE_PATH_MAX, "%s/%s", dir, name) < STORE_PATH_MAX) return 0;
    return err_set(e, ERR_IO, "the store's path is longer than %d bytes", STORE_PATH_MAX - 1);
}

static int parent_path(const char *root, const char *digest, char out[STORE_PATH_MAX], struct err *e)
{
    char ab[3] = {digest[0], digest[1], 0};
    return join(out, root, ab, e);
}

int store_path(const char *root, const char *digest, char out[STORE_PATH_MAX], struct err *e)
{
    char parent[STORE_PATH_MAX], path[STORE_PATH_MAX];
    if (!digest || !sha256_is_hex(digest)) return err_set(e, ERR_INVALID, "a digest is 64 lower-case hex digits");
    if (parent_path(root, digest, parent, e) || join(path, parent, digest, e)) return -1;
    snprintf(out, STORE_PATH_MAX, "%s", path);
    return 0;
}

static bool is_plain(const char *dir, const char *name)
{
    char path[STORE_PATH_MAX];
    struct stat st;
    return !join(path, dir, name, NULL) && !lstat(path, &st) && S_ISREG(st.st_mode);
}

static bool is_complete(const char *dir)
{
    for (size_t i = 0; i < VERSION_FILES; i++)
        if (!is_plain(dir, version_files[i])) return false;
    return true;
}

bool store_has(const char *root, const char *digest)
{
    char path[STORE_PATH_MAX];
    return !store_path(root, digest, path, NULL) && is_complete(path);
}

/* --- making durable --- */

static int sync_path(const char *path, int flags, struct err *e)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | flags);
    if (fd < 0) return err_errno(e, "can't open a part of the store");
    int rc = fsync(fd) ? err_errno(e, "can't make a part of the store durable") : 0;
    close(fd);
    return rc;
}

static int sync_version(const char *dir, struct err *e)
{
    char path[STORE_PATH_MAX];
    for (size_t i = 0; i < VERSION_FILES; i++) {
        if (!is_plain(dir, version_files[i]))
            return err_set(e, ERR_ADAPTER_INVALID, "the upload has no file %s", version_files[i]);
        if (join(path, dir, version_files[i], e) || sync_path(path, 0, e)) return -1;
    }
    return sync_path(dir, O_DIRECTORY, e);
}

/* ROOT is synced even when the folder was there: the one who made it may have died before his fsync. */
static int make_parent(const char *root, const char *parent, struct err *e)
{
    if (mkdir(parent, 0700) && errno != EEXIST) return err_errno(e, "can't make a folder of the store");
    return sync_path(root, O_DIRECTORY, e);
}

/* --- removing --- */

static void remove_below(int dir, int depth);

static void remove_entry(int dir, const char *name, int depth)
{
    if (!unlinkat(dir, name, 0) || (errno != EISDIR && errno != EPERM)) return;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) remove_below(fd, depth + 1);
    unlinkat(dir, name, AT_REMOVEDIR);
}

/* Everything in the folder `dir`, which is closed. Best effort: what stays is seen by the caller's rmdir. */
static void remove_below(int dir, int depth)
{
    DIR *d = depth > CLEAN_DEPTH ? NULL : fdopendir(dir);
    if (!d) {
        close(dir);
        return;
    }
    for (struct dirent *x; (x = readdir(d));)
        if (strcmp(x->d_name, ".") && strcmp(x->d_name, "..")) remove_entry(dirfd(d), x->d_name, depth);
    closedir(d);
}

static int remove_version(const char *dir, struct err *e)
{
    char path[STORE_PATH_MAX];
    for (size_t i = 0; i < VERSION_FILES; i++)
        if (join(path, dir, version_files[i], e) || (unlink(path) && errno != ENOENT))
            return err_errno(e, "can't remove a file of the store");
    store_discard(dir);
    return !access(dir, F_OK) ? err_set(e, ERR_IO, "can't remove a folder of the store") : 0;
}

int store_remove(const char *root, const char *digest, struct err *e)
{
    char path[STORE_PATH_MAX], parent[STORE_PATH_MAX];
    if (store_path(root, digest, path, e) || parent_path(root, digest, parent, e)) return -1;
    if (access(path, F_OK)) return errno == ENOENT ? 0 : err_errno(e, "can't look into the store");
    return remove_version(path, e) || sync_path(parent, O_DIRECTORY, e) ? -1 : 0;
}

void store_discard(const char *temp_dir)
{
    int fd = open(temp_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) remove_below(fd, 0);
    rmdir(temp_dir);
}

int store_clean_but(const char *tmp, bool (*keep)(void *u, const char *name), void *u, struct err *e)
{
    DIR *d = opendir(tmp);
    if (!d) return errno == ENOENT ? 0 : err_errno(e, "can't open the folder for uploads");
    bool left = false;
    for (struct dirent *x; (x = readdir(d));) {
        if (!strcmp(x->d_name, ".") || !strcmp(x->d_name, "..") || (keep && keep(u, x->d_name))) continue;
        remove_entry(dirfd(d), x->d_name, 0);
        left |= !faccessat(dirfd(d), x->d_name, F_OK, AT_SYMLINK_NOFOLLOW);
    }
    closedir(d);
    return left ? err_set(e, ERR_IO, "can't empty the folder for uploads") : 0;
}

int store_clean(const char *tmp, struct err *e)
{
    return store_clean_but(tmp, NULL, NULL, e);
}

/* --- adding --- */

int store_temp(const char *tmp, char out[STORE_PATH_MAX], struct err *e)
{
    char path[STORE_PATH_MAX];
    if (join(path, tmp, "XXXXXX", e)) return -1;
    if (!mkdtemp(path)) return err_errno(e, "can't make a folder for the upload");
    snprintf(out, STORE_PATH_MAX, "%s", path);
    return 0;
}

/* 0: moved, or it is there already (and `from` was dropped). */
static int move_into_place(const char *from, const char *to, struct err *e)
{
    for (int i = 0; i < COMMIT_TRIES; i++) {
        if (!rename(from, to)) return 0;
        if (errno != ENOTEMPTY && errno != EEXIST) return err_errno(e, "can't move the upload into the store");
        if (is_complete(to)) {
            store_discard(from);
            return 0;
        }
        if (remove_version(to, e)) return -1;
    }
    return err_set(e, ERR_IO, "the upload's place in the store is not free");
}

int store_commit(const char *root, const char *temp_dir, const char *digest, struct err *e)
{
    char path[STORE_PATH_MAX], parent[STORE_PATH_MAX];
    if (store_path(root, digest, path, e) || parent_path(root, digest, parent, e)) return -1;
    if (sync_version(temp_dir, e) || make_parent(root, parent, e) || move_into_place(temp_dir, path, e)) return -1;
    return sync_path(parent, O_DIRECTORY, e);
}

int store_place(const char *root, const char *temp_dir, const char *digest, struct err *e)
{
    char path[STORE_PATH_MAX], parent[STORE_PATH_MAX];
    if (store_path(root, digest, path, e) || parent_path(root, digest, parent, e)) return -1;
    if (!is_complete(temp_dir)) return err_set(e, ERR_ADAPTER_INVALID, "the folder lacks a file of an adapter");
    if (mkdir(parent, 0700) && errno != EEXIST) return err_errno(e, "can't make a folder of the store");
    return move_into_place(temp_dir, path, e);
}
