/* SHA256SUMS of a backup: what files it has, by their paths below it, and the SHA-256 of each, in the form that sha256sum(1) reads. Sorted by path, each once.
 * The digest of this file is the backup's digest: it stands for every byte of it. */
#pragma once
#include "base/err.h"
#include "base/sha256.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SUMS_FILE "SHA256SUMS"
#define SUMS_MAX 4000000 /* files */
#define SUMS_PATH_MAX 160

struct file_digest {
    char path[SUMS_PATH_MAX], sha256[SHA256_HEX];
    int64_t bytes; /* 0 where it was read */
};

struct digests {
    struct file_digest *v;
    size_t n, cap;
};

void digests_close(struct digests *s); /* {0} is an empty one */
int digests_add(struct digests *s, const char *path, const char sha256[SHA256_HEX], int64_t bytes, struct err *e);
const struct file_digest *digests_find(const struct digests *s, const char *path); /* after digests_sort() or digests_read() */
void digests_sort(struct digests *s);

/* DIR/SHA256SUMS, written whole and synced, or read; digest: of the file's bytes. Reading refuses (ERR_INVALID) all paths but those that a backup has
 * (weft.db, pepper, archive/usage_YYYYMM.db, blobs/ab/DIGEST/...), lines of another form, and a wrong order. */
int digests_write(const struct digests *s, const char *dir, char digest[SHA256_HEX], struct err *e);
int digests_read(struct digests *s, const char *dir, char digest[SHA256_HEX], struct err *e);
bool digests_path_is_known(const char *path);
