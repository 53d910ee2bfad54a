/* backup_sums: see backup_sums.h. A backup may come from anywhere, so what is read is held against the few paths that one of ours has before any
 * of them is opened. Any thread. */
#include "gateway/backup/backup_sums.h"
#include "adapters/adapter.h"
#include "gateway/registry/files.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES (SHA256_HEX + 1 + SUMS_PATH_MAX + 1)

void digests_close(struct digests *s)
{
    free(s->v);
    *s = (struct digests){0};
}

int digests_add(struct digests *s, const char *path, const char sha256[SHA256_HEX], int64_t bytes, struct err *e)
{
    if (strlen(path) >= SUMS_PATH_MAX || s->n >= SUMS_MAX) return err_set(e, ERR_TOO_LARGE, "a backup has %d files at most", SUMS_MAX);
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 256;
        struct file_digest *v = realloc(s->v, cap * sizeof *v);
        if (!v) return err_set(e, ERR_NO_MEMORY, "no memory for a list of %zu files", cap);
        s->v = v;
        s->cap = cap;
    }
    struct file_digest *x = &s->v[s->n++];
    snprintf(x->path, sizeof x->path, "%s", path);
    snprintf(x->sha256, sizeof x->sha256, "%s", sha256);
    x->bytes = bytes;
    return 0;
}

static int by_path(const void *a, const void *b) { return strcmp(((const struct file_digest *)a)->path, ((const struct file_digest *)b)->path); }

void digests_sort(struct digests *s)
{
    if (s->n) qsort(s->v, s->n, sizeof *s->v, by_path);
}

static int path_order(const void *path, const void *x) { return strcmp(path, ((const struct file_digest *)x)->path); }

const struct file_digest *digests_find(const struct digests *s, const char *path)
{
    return s->n ? bsearch(path, s->v, s->n, sizeof *s->v, path_order) : NULL;
}

static bool is_archive(const char *path)
{
    static const char head[] = "archive/usage_", tail[] = ".db";
    size_t n = sizeof head - 1;
    return strncmp(path, head, n) == 0 && strspn(path + n, "0123456789") == 6 && strcmp(path + n + 6, tail) == 0;
}

/* blobs/ab/DIGEST/FILE */
static bool is_blob(const char *path)
{
    char digest[SHA256_HEX];
    if (strncmp(path, "blobs/", 6) != 0 || strlen(path) < 6 + 3 + 64 + 1 || path[8] != '/' || path[9 + 64] != '/') return false;
    snprintf(digest, sizeof digest, "%.64s", path + 9);
    if (!sha256_is_hex(digest) || memcmp(path + 6, digest, 2) != 0) return false;
    const char *name = path + 9 + 65;
    return strcmp(name, ADAPTER_CONFIG_FILE) == 0 || strcmp(name, ADAPTER_WEIGHTS_FILE) == 0;
}

bool digests_path_is_known(const char *path)
{
    return strcmp(path, "weft.db") == 0 || strcmp(path, "pepper") == 0 || is_archive(path) || is_blob(path);
}

int digests_write(const struct digests *s, const char *dir, char digest[SHA256_HEX], struct err *e)
{
    char path[FILES_PATH_MAX], line[LINE_MAX_BYTES + 1];
    uint8_t sum[SHA256_BYTES];
    struct sha256 h;
    files_join(path, dir, SUMS_FILE);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!f) return err_errno(e, "%s", path);
    sha256_init(&h);
    for (size_t i = 0; i < s->n; i++) {
        int n = snprintf(line, sizeof line, "%s  %s\n", s->v[i].sha256, s->v[i].path);
        sha256_add(&h, line, (size_t)n);
        fwrite(line, 1, (size_t)n, f);
    }
    sha256_end(&h, sum);
    sha256_hex(sum, digest);
    bool ok = fflush(f) == 0 && !ferror(f) && fsync(fd) == 0;
    if (fclose(f) || !ok) return err_errno(e, "%s", path);
    return 0;
}

static int read_line(struct digests *s, char *line, size_t n, struct err *e)
{
    if (n < 68 || line[n - 1] != '\n' || memcmp(line + 64, "  ", 2) != 0 || strlen(line) != n)
        return err_set(e, ERR_INVALID, SUMS_FILE ": line %zu is not a digest and a path", s->n + 1);
    line[64] = line[n - 1] = 0;
    const char *path = line + 66;
    if (!sha256_is_hex(line) || !digests_path_is_known(path))
        return err_set(e, ERR_INVALID, SUMS_FILE ": line %zu names no file of a backup: %.100s", s->n + 1, path);
    if (s->n && strcmp(s->v[s->n - 1].path, path) >= 0) return err_set(e, ERR_INVALID, SUMS_FILE ": line %zu is out of order", s->n + 1);
    return digests_add(s, path, line, 0, e);
}

int digests_read(struct digests *s, const char *dir, char digest[SHA256_HEX], struct err *e)
{
    char path[FILES_PATH_MAX], line[LINE_MAX_BYTES + 1];
    uint8_t sum[SHA256_BYTES];
    struct sha256 h;
    files_join(path, dir, SUMS_FILE);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc = 0;
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    if (!f) return err_errno(e, "%s", path);
    sha256_init(&h);
    while (rc == 0 && fgets(line, sizeof line, f)) {
        size_t n = strlen(line);
        sha256_add(&h, line, n);
        rc = read_line(s, line, n, e);
    }
    if (rc == 0 && ferror(f)) rc = err_errno(e, "%s", path);
    if (rc == 0 && s->n == 0) rc = err_set(e, ERR_INVALID, "%s is empty", path);
    fclose(f);
    sha256_end(&h, sum);
    sha256_hex(sum, digest);
    return rc;
}
