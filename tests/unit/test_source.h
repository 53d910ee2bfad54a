/* Small models on disk for the tests of sources: GGUF files and Hugging Face directories whose element i of tensor t is t * 4096 + i. */
#pragma once
#include "engine/source.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define ROOM_TENSORS 40
#define STEP 4096

struct room_tensor {
    const char *name; /* NULL ends a list */
    int dim[3];       /* row-major, 0: no such dimension */
};

static inline int room_count(const struct room_tensor *t)
{
    return t->dim[0] * (t->dim[1] ? t->dim[1] : 1) * (t->dim[2] ? t->dim[2] : 1);
}

static inline void room_write(const char *dir, const char *name, const void *p, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    if (n) assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void room_text(const char *dir, const char *name, const char *s)
{
    room_write(dir, name, s, strlen(s));
}

/* A safetensors file of that header and `data` bytes. */
static inline void room_st_raw(const char *dir, const char *name, const char *header, const void *data, size_t n)
{
    uint64_t len = strlen(header);
    char *b = malloc(8 + len + n + 1);
    assert_non_null(b);
    memcpy(b, &len, 8);
    memcpy(b + 8, header, len);
    if (n) memcpy(b + 8 + len, data, n);
    room_write(dir, name, b, 8 + len + n);
    free(b);
}

static inline float *room_values(const struct room_tensor *t, size_t *n)
{
    size_t total = 0, at = 0;
    for (int i = 0; t[i].name; i++) total += (size_t)room_count(&t[i]);
    float *v = calloc(total + 1, sizeof *v);
    assert_non_null(v);
    for (int i = 0; t[i].name; i++)
        for (int j = 0; j < room_count(&t[i]); j++) v[at++] = (float)(i * STEP + j);
    *n = total * sizeof *v;
    return v;
}

static inline void room_st(const char *dir, const char *name, const struct room_tensor *t)
{
    char header[16384] = "{\"__metadata__\":{\"format\":\"pt\"}";
    size_t n, from = 0;
    float *v = room_values(t, &n);
    for (int i = 0; t[i].name; i++) {
        size_t at = strlen(header), to = from + 4 * (size_t)room_count(&t[i]);
        at += (size_t)snprintf(header + at, sizeof header - at, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%d", t[i].name,
                               t[i].dim[0]);
        for (int d = 1; d < 3 && t[i].dim[d]; d++)
            at += (size_t)snprintf(header + at, sizeof header - at, ",%d", t[i].dim[d]);
        snprintf(header + at, sizeof header - at, "],\"data_offsets\":[%zu,%zu]}", from, to);
        from = to;
    }
    strncat(header, "}", sizeof header - strlen(header) - 1);
    room_st_raw(dir, name, header, v, n);
    free(v);
}

struct room_bytes {
    uint8_t b[1 << 18];
    size_t n;
};

static inline void room_put(struct room_bytes *f, const void *p, size_t n)
{
    assert_true(f->n + n <= sizeof f->b);
    memcpy(f->b + f->n, p, n);
    f->n += n;
}

static inline void room_put32(struct room_bytes *f, uint32_t v)
{
    room_put(f, &v, 4);
}

static inline void room_put64(struct room_bytes *f, uint64_t v)
{
    room_put(f, &v, 8);
}

static inline void room_puts(struct room_bytes *f, const char *s)
{
    room_put64(f, strlen(s));
    room_put(f, s, strlen(s));
}

/* A GGUF file of that architecture with 4 heads, 2 of keys and values, and tensors of `type` (0: F32, whose values are written). */
static inline void room_gguf(const char *dir, const char *name, const char *arch, const struct room_tensor *t, int type)
{
    struct room_bytes *f = calloc(1, sizeof *f);
    char key[128];
    int count = 0;
    size_t n, offset = 0;
    assert_non_null(f);
    while (t[count].name) count++;
    room_put(f, "GGUF", 4), room_put32(f, 3), room_put64(f, (uint64_t)count), room_put64(f, 3);
    room_puts(f, "general.architecture"), room_put32(f, 8), room_puts(f, arch);
    snprintf(key, sizeof key, "%s.attention.head_count", arch);
    room_puts(f, key), room_put32(f, 4), room_put32(f, 4);
    snprintf(key, sizeof key, "%s.attention.head_count_kv", arch);
    room_puts(f, key), room_put32(f, 4), room_put32(f, 2);
    for (int i = 0; i < count; i++) {
        int ndim = t[i].dim[2] ? 3 : t[i].dim[1] ? 2 : 1;
        room_puts(f, t[i].name), room_put32(f, (uint32_t)ndim);
        for (int d = ndim; d-- > 0;) room_put64(f, (uint64_t)t[i].dim[d]);
        room_put32(f, (uint32_t)type), room_put64(f, offset);
        offset += (4 * (size_t)room_count(&t[i]) + 31) / 32 * 32;
    }
    while (f->n % 32) room_put(f, "", 1);
    float *v = room_values(t, &n), *at = v;
    for (int i = 0; i < count; i++) {
        room_put(f, at, 4 * (size_t)room_count(&t[i]));
        at += room_count(&t[i]);
        while (f->n % 32) room_put(f, "", 1);
    }
    room_write(dir, name, f->b, f->n);
    free(v);
    free(f);
}

static inline void room_new(char dir[64])
{
    snprintf(dir, 64, "/tmp/weft-source-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static inline void room_end(const char *dir)
{
    static const char *const names[] = {"config.json",        "model.safetensors", "model.safetensors.index.json",
                                        "a.safetensors",      "b.safetensors",     "model.gguf",
                                        "model.weft",         "tokenizer.json",    "pytorch_model.bin",
                                        "adapter_config.json"};
    char path[512];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(dir), 0);
}
