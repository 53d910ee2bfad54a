/* cache: the folder, its digests and its bound.
 *
 * A digest of a gigabyte takes most of a second, so it is remembered under what the file system says of the file (file_id.h). A line also carries a
 * digest of itself: half a line, or a flipped bit, is no line.
 *
 * Files appear by rename and are whole from then on; a copy's writer is packed.h's. The time of a copy's last use is its mtime, for access
 * times are often not kept. A copy that an engine has open is locked (flock, shared, by packed_open()); dropping asks for the lock
 * first. What a killed writer left behind under a temporary name goes after an hour.
 *
 * At least a twentieth of the disk is left free: the gateway's ledger may live on it. */
#include "engine/cache.h"
#include "base/clock.h"
#include "base/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define STALE_US (3600 * 1000000LL)    /* temporary files older than this are nobody's */
#define FILES_MAX (2 * CACHE_SUMS_MAX) /* looked at in one folder */
#define SPARE_PART 20                  /* 1/20 of the disk stays free */
#define LINE_MAX_BYTES 256
#define PROGRAM_CHUNK (1 << 20)

struct cache {
    char folder[CACHE_PATH_MAX - 256];
    int64_t max_bytes;
    char program[SHA256_HEX];
};

static int64_t us_of(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* --- the folder --- */

static int check_folder(const char *path, struct err *e)
{
    struct stat st;
    if (mkdir(path, 0700) && errno != EEXIST) return err_errno(e, "cannot make the cache folder %s", path);
    if (stat(path, &st)) return err_errno(e, "cannot look at the cache folder %s", path);
    if (!S_ISDIR(st.st_mode)) return err_set(e, ERR_IO, "the cache %s is no folder", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return err_set(e, ERR_IO, "the cache folder %s belongs to another user", path);
    if (st.st_mode & 022) return err_set(e, ERR_IO, "others may write to the cache folder %s", path);
    return 0;
}

static int hash_program(char hex[SHA256_HEX], struct err *e)
{
    struct sha256 h;
    uint8_t sum[SHA256_BYTES];
    char *chunk = malloc(PROGRAM_CHUNK);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    ssize_t n = -1;
    sha256_init(&h);
    while (chunk && fd >= 0 && (n = read(fd, chunk, PROGRAM_CHUNK)) > 0) sha256_add(&h, chunk, (size_t)n);
    if (n < 0) err_errno(e, "cannot read the program's own file");
    if (fd >= 0) close(fd);
    free(chunk);
    if (n < 0) return -1;
    sha256_end(&h, sum);
    sha256_hex(sum, hex);
    return 0;
}

int cache_open(struct cache **out, const char *folder, int64_t max_bytes, struct err *e)
{
    char sums[CACHE_PATH_MAX];
    struct cache *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NO_MEMORY, "no memory for the cache");
    c->max_bytes = max_bytes;
    int n = snprintf(c->folder, sizeof c->folder, "%s", folder);
    int rc = n >= (int)sizeof c->folder ? err_set(e, ERR_IO, "the cache folder has too long a path") : 0;
    snprintf(sums, sizeof sums, "%s/sums", c->folder);
    if (rc == 0) rc = check_folder(c->folder, e) || hash_program(c->program, e) ? -1 : 0;
    if (rc) {
        free(c);
        return -1;
    }
    mkdir(sums, 0700); /* where it can't be made nothing is remembered */
    *out = c;
    return 0;
}

void cache_close(struct cache *c)
{
    free(c);
}

const char *cache_program(const struct cache *c)
{
    return c->program;
}

/* --- what lies in it --- */

struct found {
    char name[128];
    int64_t bytes, used_us;
};

static int by_use(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return (x->used_us > y->used_us) - (x->used_us < y->used_us);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static void path_in(char out[CACHE_PATH_MAX], const struct cache *c, const char *sub, const char *name)
{
    snprintf(out, CACHE_PATH_MAX, "%.3800s/%s%.128s", c->folder, sub, name);
}

static void drop_stale(const char *path, const struct stat *st)
{
    if (clock_wall_us() - us_of(st->st_mtim) > STALE_US) unlink(path);
}

/* Plain files of a folder that end so, the longest unused first; malloc'ed. Temporary files that are nobody's go. */
static int list(const struct cache *c, const char *sub, const char *suffix, struct found **out)
{
    char path[CACHE_PATH_MAX];
    struct stat st;
    int n = 0;
    path_in(path, c, sub, "");
    DIR *d = opendir(path);
    struct found *all = d ? calloc(FILES_MAX, sizeof *all) : NULL;
    for (struct dirent *it; all && n < FILES_MAX && (it = readdir(d));) {
        path_in(path, c, sub, it->d_name);
        if (strlen(it->d_name) >= sizeof all->name || lstat(path, &st) || !S_ISREG(st.st_mode)) continue;
        if (ends_with(it->d_name, ".tmp")) {
            drop_stale(path, &st);
        } else if (ends_with(it->d_name, suffix)) {
            all[n] = (struct found){.bytes = (int64_t)st.st_blocks * 512, .used_us = us_of(st.st_mtim)};
            memcpy(all[n++].name, it->d_name, strlen(it->d_name) + 1);
        }
    }
    if (d) closedir(d);
    if (n) qsort(all, (size_t)n, sizeof *all, by_use);
    *out = all;
    return n;
}

/* False: somebody has it open, or it can't go. */
static bool drop_unused(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
    bool gone = flock(fd, LOCK_EX | LOCK_NB) == 0 && unlink(path) == 0;
    close(fd);
    return gone;
}

/* --- digests --- */

/* "ID" names the file of a sum, `line` begins its contents. */
static void describe(const struct file_id *id, char line[LINE_MAX_BYTES], char name[SHA256_HEX])
{
    uint8_t sum[SHA256_BYTES];
    int n = snprintf(line, LINE_MAX_BYTES, "%llu %llu %llu %lld %lld", (unsigned long long)id->dev,
                     (unsigned long long)id->ino, (unsigned long long)id->size, (long long)id->mtime_ns,
                     (long long)id->ctime_ns);
    sha256_of(line, (size_t)n, sum);
    sha256_hex(sum, name);
}

/* The whole of the file: identity, digest, and the digest of both. */
static int make_line(const struct file_id *id, const char *hex, char out[2 * LINE_MAX_BYTES])
{
    char line[LINE_MAX_BYTES], check[SHA256_HEX];
    uint8_t sum[SHA256_BYTES];
    describe(id, line, check);
    int n = snprintf(out, 2 * LINE_MAX_BYTES, "%s %s ", line, hex);
    sha256_of(out, (size_t)n, sum);
    sha256_hex(sum, check);
    return snprintf(out, 2 * LINE_MAX_BYTES, "%s %s %s\n", line, hex, check);
}

bool cache_sum_find(const struct cache *c, const struct file_id *id, char hex[SHA256_HEX])
{
    char path[CACHE_PATH_MAX], line[LINE_MAX_BYTES], name[SHA256_HEX], got[2 * LINE_MAX_BYTES] = "",
                                                                               want[2 * LINE_MAX_BYTES];
    if (!id->size) return false;
    describe(id, line, name);
    path_in(path, c, "sums/", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read(fd, got, sizeof got - 1);
    if (n > 0) futimens(fd, NULL); /* used now */
    if (fd >= 0) close(fd);
    size_t begin = strlen(line) + 1;
    if (n < (ssize_t)(begin + SHA256_HEX)) return false;
    char sum[SHA256_HEX];
    snprintf(sum, sizeof sum, "%s", got + begin);
    if (!sha256_is_hex(sum) || make_line(id, sum, want) != n || memcmp(got, want, (size_t)n) != 0) return false;
    memcpy(hex, sum, sizeof sum);
    return true;
}

static void bound_sums(const struct cache *c)
{
    char path[CACHE_PATH_MAX];
    struct found *all;
    int n = list(c, "sums/", "", &all);
    for (int i = 0; i < n - CACHE_SUMS_MAX; i++) {
        path_in(path, c, "sums/", all[i].name);
        unlink(path);
    }
    free(all);
}

void cache_sum_keep(const struct cache *c, const struct file_id *id, const char *path, const char hex[SHA256_HEX],
                    int64_t began_us)
{
    char text[2 * LINE_MAX_BYTES], line[LINE_MAX_BYTES], name[SHA256_HEX], to[CACHE_PATH_MAX],
        temporary[CACHE_PATH_MAX + 32];
    struct file_id now;
    file_id_at(&now, path);
    if (!file_id_same(&now, id) || !file_id_settled(id, began_us)) return;
    int n = make_line(id, hex, text);
    describe(id, line, name);
    path_in(to, c, "sums/", name);
    snprintf(temporary, sizeof temporary, "%s.%ld.tmp", to, (long)getpid());
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return;
    bool whole = write(fd, text, (size_t)n) == n;
    close(fd);
    if (!whole || rename(temporary, to)) unlink(temporary);
    bound_sums(c);
}

/* --- copies --- */

void cache_copy_path(const struct cache *c, const char key[SHA256_HEX], char out[CACHE_PATH_MAX])
{
    path_in(out, c, "", key);
    size_t n = strlen(out);
    snprintf(out + n, CACHE_PATH_MAX - n, ".weft");
}

void cache_copy_used(const struct cache *c, const char *path)
{
    (void)c;
    utimensat(AT_FDCWD, path, NULL,
              AT_SYMLINK_NOFOLLOW); /* a folder that can only be read keeps no order, and needs none */
}

static int check_disk(const struct cache *c, int64_t bytes, struct err *e)
{
    struct statvfs v;
    if (statvfs(c->folder, &v)) return err_errno(e, "cannot look at the disk of %s", c->folder);
    int64_t left = (int64_t)v.f_bavail * (int64_t)v.f_frsize,
            spare = (int64_t)(v.f_blocks / SPARE_PART) * (int64_t)v.f_frsize;
    if (left - bytes < spare)
        return err_set(e, ERR_IO,
                       "the disk of %s has %lld MB left: a copy of %lld MB would leave less than 1/%d of it free",
                       c->folder, (long long)(left >> 20), (long long)(bytes >> 20), SPARE_PART);
    return 0;
}

int cache_copy_room(const struct cache *c, int64_t bytes, struct err *e)
{
    char path[CACHE_PATH_MAX];
    struct found *all;
    int64_t total = 0;
    if (bytes > c->max_bytes)
        return err_set(e, ERR_IO, "a copy of %lld MB does not fit a cache of %lld MB", (long long)(bytes >> 20),
                       (long long)(c->max_bytes >> 20));
    int n = list(c, "", ".weft", &all);
    for (int i = 0; i < n; i++) total += all[i].bytes;
    for (int i = 0; i < n && total + bytes > c->max_bytes; i++) {
        path_in(path, c, "", all[i].name);
        if (!drop_unused(path)) continue;
        total -= all[i].bytes;
        log_info("cache_dropped", LS("file", path), LI("bytes", all[i].bytes));
    }
    free(all);
    if (total + bytes > c->max_bytes)
        return err_set(e, ERR_IO, "the cache of %lld MB is full of copies in use", (long long)(c->max_bytes >> 20));
    return check_disk(c, bytes, e);
}
