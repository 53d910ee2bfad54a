/* The cache folder of an engine: packed copies of bases, so that the next start maps instead of packing, and the digests of files that did
 * not change, so that the next start doesn't hash them.
 *
 *     FOLDER/KEY.weft    a packed copy (packed.h): whole, or not there
 *     FOLDER/sums/ID     the SHA-256 of the file with that identity
 *
 * Nothing here is needed: whatever is missing, full, unreadable or damaged costs time and never an answer. Copies are bounded in bytes;
 * the longest unused goes first, one that a running engine has open stays. Several engines may share a folder. */
#pragma once
#include "base/err.h"
#include "base/file_id.h"
#include "base/sha256.h"
#include <stdbool.h>
#include <stdint.h>

#define CACHE_PATH_MAX 4096
#define CACHE_SUMS_MAX 4096 /* digests remembered */

struct cache;

/* The folder is made where its parent exists. Refused is one that belongs to somebody else than root and this user, or that others may write
 * to: who writes there decides what is answered. max_bytes: of all copies. */
int cache_open(struct cache **out, const char *folder, int64_t max_bytes, struct err *e);
void cache_close(struct cache *c); /* NULL is fine */

/* SHA-256 of this program's own file, hex; part of every key, so that a program that packs otherwise finds none of another's copies. */
const char *cache_program(const struct cache *c);

/* --- digests: any thread --- */

/* The digest of the file that had this identity when it was read; false: not known. */
bool cache_sum_find(const struct cache *c, const struct file_id *id, char hex[SHA256_HEX]);
/* Remember it, provided that the file at `path` still is what it was when its reading began (began_us, wall clock), and settled. */
void cache_sum_keep(const struct cache *c, const struct file_id *id, const char *path, const char hex[SHA256_HEX],
                    int64_t began_us);

/* --- copies --- */

void cache_copy_path(const struct cache *c, const char key[SHA256_HEX], char out[CACHE_PATH_MAX]);
/* It was used now. */
void cache_copy_used(const struct cache *c, const char *path);
/* Make room for a copy of `bytes`, dropping the longest unused. ERR_IO: it is larger than the cache, or the disk would be nearly full. */
int cache_copy_room(const struct cache *c, int64_t bytes, struct err *e);
