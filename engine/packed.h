/* Packed files: a model as `weft-engine quantize` leaves it, its weights in the layout that the kernels read, so that
 * opening one is mapping it.
 *
 *     head (64 bytes) | data: blobs, weights, vectors, each at a multiple of 64, the first at 4096 | meta, JSON | index
 *
 * The head says where meta and index lie; the index has a fixed record per entry (packed.c draws them): name, kind,
 * offset, size, SHA-256, and of a weight its layout, shape and table. All numbers are little-endian. What names and meta
 * mean is the affair of who writes and reads them (source.h).
 *
 * Reading checks every offset, size, name and shape against the file; contents only when packed_verify() is asked. A file
 * that doesn't keep to this is refused with ERR_MODEL and the entry at fault. */
#pragma once
#include "base/err.h"
#include "base/json.h"
#include "kernels/weight.h"
#include <stdatomic.h>
#include <stdbool.h>

#define PACKED_MAGIC "WEFTPACK" /* the first 8 bytes of a file */
#define PACKED_NAME_MAX 127     /* bytes of an entry's name */
#define PACKED_ENTRIES_MAX (1 << 20)
#define PACKED_META_MAX (16u << 20) /* bytes of JSON */

enum packed_kind { PACKED_BLOB, PACKED_WEIGHT, PACKED_VECTOR };

/* --- writing: new, add in any order, finish; free in any case --- */

struct packed_writer;

/* Is `out` the file that is read? It would be gone when the new one takes its place. */
int packed_check_other(const char *in, const char *out, struct err *e);
/* Writes beside `path` under a temporary name. */
int packed_writer_new(struct packed_writer **out, const char *path, struct err *e);
/* Names are of 1 to PACKED_NAME_MAX bytes and unique. The bytes are written before the call returns. */
int packed_writer_add_blob(struct packed_writer *w, const char *name, const void *bytes, size_t n, struct err *e);
int packed_writer_add_weight(struct packed_writer *w, const char *name, const struct weight *m, struct err *e);
int packed_writer_add_vector(struct packed_writer *w, const char *name, const float *v, int n, struct err *e);
/* Meta is a JSON object (borrowed). Syncs, then renames to `path`, replacing what was there. */
int packed_writer_finish(struct packed_writer *w, const json_t *meta, struct err *e);
/* NULL is fine. Not finished: the temporary file is removed. */
void packed_writer_free(struct packed_writer *w);

/* --- reading: everything borrowed dies with the file; any thread may read --- */

struct packed;

/* Whether a file begins like a packed one; `head` is its first n bytes. */
bool packed_is(const void *head, size_t n);

int packed_open(struct packed **out, const char *path, struct err *e);
void packed_close(struct packed *p); /* NULL is fine */

const json_t *packed_meta(const struct packed *p); /* an object */
/* False: there is no such entry of this kind. */
bool packed_blob(const struct packed *p, const char *name, const void **bytes, size_t *n);
bool packed_weight(const struct packed *p, const char *name, struct weight *out); /* adopted from the map */
bool packed_vector(const struct packed *p, const char *name, const float **v, int *n);

/* Entries sorted by name: 0 <= i < packed_count(). */
int packed_count(const struct packed *p);
const char *packed_name(const struct packed *p, int i, enum packed_kind *kind); /* kind may be NULL */

/* SHA-256 of the whole file, hex: the base's digest. Reads the file once. */
int packed_digest(const struct packed *p, char hex[65], struct err *e);
/* Every entry's contents against its SHA-256, on all cores; the error names one that differs. */
int packed_verify(const struct packed *p, struct err *e);

/* Move the contents into 2 MB pages of this process, at the same addresses, while others read them: 5 to 12 % faster to read than the
 * file's pages, and no longer shared with other processes. Stops early once *stop is true or where memory gets scarce. The calling
 * thread's work; once per file. Bytes that were moved so far: packed_moved(), from any thread. */
void packed_move(struct packed *p, const atomic_bool *stop);
size_t packed_moved(const struct packed *p);
size_t packed_size(const struct packed *p);
