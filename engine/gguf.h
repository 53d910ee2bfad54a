/* GGUF model files (format: ggml's gguf.md, versions 2 and 3), mapped read-only, every length checked against the file.
 *
 * Strings from the file are not NUL-terminated: they come with a length. A file that does not keep to the format is refused with
 * ERR_MODEL and the key or tensor at fault. */
#pragma once
#include "base/err.h"
#include "kernels/weight.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GGUF_KEYS_MAX 4096
#define GGUF_TENSORS_MAX 65536
#define GGUF_ARRAY_MAX (64u << 20) /* elements */

struct gguf;

struct gguf_str {
    const char *s;
    size_t len;
};

struct gguf_tensor {
    struct gguf_str name;
    int type; /* ggml's number */
    int ndim;
    int64_t dim[4]; /* dim[0] is the fastest: a [n][k] matrix has dim[0] = k, dim[1] = n */
    const void *data;
    size_t bytes;
};

int gguf_open(struct gguf **out, const char *path, struct err *e);
/* The same of bytes in memory, which must outlive *out, at a multiple of 8. */
int gguf_open_memory(struct gguf **out, const void *bytes, size_t n, struct err *e);
/* A GGUF file of this one's keys and no tensors: what a packed file keeps. *bytes: free(). */
int gguf_keys_only(const struct gguf *g, void **bytes, size_t *n, struct err *e);
void gguf_close(struct gguf *g); /* unmaps: nothing borrowed from it may be used after */

/* SHA-256 of the whole file, hex: the base's digest. Reads the file once. */
int gguf_digest(const struct gguf *g, char hex[65], struct err *e);

bool gguf_has(const struct gguf *g, const char *key);
/* Any integer or float type that holds the value is accepted. -1 and ERR_MODEL when absent or of another kind. */
int gguf_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *e);
int gguf_f64(const struct gguf *g, const char *key, double *out, struct err *e);
int gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *e);
int gguf_string(const struct gguf *g, const char *key, struct gguf_str *out, struct err *e);
/* Arrays: the length, then element by element. */
int gguf_array_len(const struct gguf *g, const char *key, size_t *n, struct err *e);
int gguf_array_str(const struct gguf *g, const char *key, struct gguf_str **out, size_t *n,
                   struct err *e);                                                                  /* *out: free() */
int gguf_array_i32(const struct gguf *g, const char *key, int32_t **out, size_t *n, struct err *e); /* *out: free() */
int gguf_array_f32(const struct gguf *g, const char *key, float **out, size_t *n, struct err *e);   /* *out: free() */

int gguf_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int i);
const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name); /* NULL: absent */

const char *gguf_type_name(int number); /* "Q4_K"; "unknown" */
