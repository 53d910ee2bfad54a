/* Content-addressed store of adapter versions: ROOT/ab/DIGEST/{adapter_config.json,adapter_model.safetensors}.
 *
 * A version becomes visible by one rename of a complete, fsynced folder; a crash leaves only folders under the
 * temporary directory, which store_clean() removes. The store never sees a name that a client chose. */
#pragma once
#include "base/err.h"
#include "base/sha256.h"
#include <stdbool.h>
#include <stddef.h>

#define STORE_PATH_MAX 1024

/* ROOT/ab/DIGEST into out. `digest` must be 64 lower-case hex digits (ERR_INVALID). */
int store_path(const char *root, const char *digest, char out[STORE_PATH_MAX], struct err *e);
bool store_has(const char *root, const char *digest);

/* A fresh folder TMP/XXXXXX (mode 0700) to receive an upload. */
int store_temp(const char *tmp, char out[STORE_PATH_MAX], struct err *e);

/* fsync the two files of `temp_dir`, move it to its digest's place, fsync the parents. If the digest is there already,
 * the temporary folder is removed and 0 is returned. */
int store_commit(const char *root, const char *temp_dir, const char *digest, struct err *e);

/* The same without fsync: for a cache that is verified when it is read and can be filled anew. */
int store_place(const char *root, const char *temp_dir, const char *digest, struct err *e);

/* Remove a version, or a temporary folder. Absent is fine. */
int store_remove(const char *root, const char *digest, struct err *e);
void store_discard(const char *temp_dir);

/* At start: remove everything under TMP. */
int store_clean(const char *tmp, struct err *e);
/* The same, but for the entries that keep() wants. */
int store_clean_but(const char *tmp, bool (*keep)(void *u, const char *name), void *u, struct err *e);
