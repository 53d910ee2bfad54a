/* Safetensors files from strangers (format: https://huggingface.co/docs/safetensors, "Format").
 *
 * 8 bytes little-endian header length, that many bytes of JSON, then the data. The file is mapped read-only; nothing is
 * believed before it is checked: header <= 4 MiB, depth <= 4, no duplicate keys, <= 16,384 tensors, names
 * [A-Za-z0-9._-]{1,256}, dtypes F32/F16/BF16, one or two dimensions, offsets that tile the data exactly (no hole,
 * overlap or tail), every product overflow-checked. What is wrong is said with the tensor's name. Messages call the
 * file adapter_model.safetensors, which it is to those who sent it. */
#pragma once
#include "base/err.h"
#include "base/file_id.h"
#include <stddef.h>
#include <stdint.h>

#define ST_HEADER_MAX (4u << 20)
#define ST_TENSORS_MAX 16384

enum st_dtype { ST_F32, ST_F16, ST_BF16 };

struct st_tensor {
    const char *name;
    enum st_dtype dtype;
    int ndim;         /* 1 or 2 */
    int64_t dim[2];   /* row-major */
    const void *data; /* aligned to its element */
    size_t bytes;
};

struct st_file {
    struct st_tensor *tensor; /* sorted by name (strcmp) */
    int ntensors;
    size_t file_bytes;
    struct file_id id; /* when it was mapped */
    const void *map;   /* the file as it is */
    /* private */
    void *moved; /* copies of the tensors that the file holds misaligned */
    char *names;
};

/* A file that git-lfs left in another's place begins so. */
#define LFS_MAGIC "version https://git-lfs"
#define LFS_LEN (sizeof LFS_MAGIC - 1)
#define LFS_TOLD "is a git-lfs pointer, not the file itself: fetch it by git lfs pull, or download it again"

int st_open(struct st_file **out, const char *path, struct err *e); /* ERR_ADAPTER_INVALID, ERR_IO, ERR_NO_MEMORY */
void st_close(struct st_file *f);                                   /* NULL is fine */
const struct st_tensor *st_find(const struct st_file *f, const char *name); /* NULL: absent */
size_t st_dtype_bytes(enum st_dtype t);
const char *st_dtype_name(enum st_dtype t);         /* "BF16" */
float st_get(const struct st_tensor *t, int64_t i); /* element i as float */

/* The index of the first element that is NaN, infinite or beyond ST_VALUE_MAX in magnitude; -1: all are fine. */
#define ST_VALUE_MAX 1e4
int64_t st_first_beyond(const struct st_tensor *t);
