/* Files and folders: copied, linked, hashed, synced, removed. Everything is made for its owner alone. */
#pragma once
#include "base/err.h"
#include "base/sha256.h"
#include <stdbool.h>
#include <stdint.h>

#define FILES_PATH_MAX 1400

/* Asked between pieces of a file; true ends it with ERR_UNAVAILABLE. fn NULL: never. */
struct stopper {
    bool (*fn)(void *u);
    void *user;
};

static inline bool is_stopped(const struct stopper *s)
{
    return s && s->fn && s->fn(s->user);
}

/* DIR/NAME; callers bound the two (BACKUP_PATH_MAX, SUMS_PATH_MAX). */
void files_join(char out[FILES_PATH_MAX], const char *dir, const char *name);

/* SHA-256 and size. ERR_NOT_FOUND where there is none. */
int files_hash(const char *path, const struct stopper *stop, char sha256[SHA256_HEX], int64_t *bytes, struct err *e);
/* from -> to, which is replaced; synced, with the time stamp of `from`, mode 0600. The digest is of what was read. */
int files_copy(const char *from, const char *to, const struct stopper *stop, char sha256[SHA256_HEX], int64_t *bytes, struct err *e);
/* The same by a hard link where the file system has that, for files that nobody changes. *linked: it was. The digest is then not computed. */
int files_link_or_copy(const char *from, const char *to, const struct stopper *stop, bool *linked, char sha256[SHA256_HEX], int64_t *bytes, struct err *e);
bool files_alike(const char *a, const char *b); /* same size and time stamp; false where one is missing */

int files_folder(const char *path, struct err *e);               /* mode 0700; it may be there */
int files_folders(char *path, size_t from, struct err *e);       /* all folders of a file's path, those after `from` bytes */
int files_sync_tree(const char *path, struct err *e);            /* every folder below, and itself */
int files_sync_folder(const char *path, struct err *e);
int files_sync(const char *path, struct err *e); /* a file that something else wrote */
int files_remove_tree(const char *path, struct err *e);          /* absent is fine; follows no link */
int files_write(const char *path, const char *text, size_t n, struct err *e); /* whole: synced under another name, renamed */
