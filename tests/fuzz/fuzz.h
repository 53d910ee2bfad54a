/* What the fuzzers share. A fuzzer is a file fuzz_NAME.c with LLVMFuzzerTestOneInput(), which takes any bytes, says by FUZZ_NEED() what must hold for
 * all of them, leaves nothing behind and gives the same for the same bytes. tests/README.md says how they are run and added. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* A property that did not hold, which ends the program as a crash does. */
#define FUZZ_NEED(what)                                                                                                \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #what);                                  \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The bytes in memory of exactly their size, a NUL behind them: what is read beyond is seen. free(). */
static inline char *fuzz_text(const uint8_t *data, size_t n)
{
    char *s = malloc(n + 1);
    FUZZ_NEED(s);
    if (n) memcpy(s, data, n);
    s[n] = 0;
    return s;
}

/* Takes the first n bytes (or what there is) off the input. */
static inline const uint8_t *fuzz_take(const uint8_t **data, size_t *left, size_t n, size_t *took)
{
    const uint8_t *at = *data;
    *took = n < *left ? n : *left;
    *data += *took;
    *left -= *took;
    return at;
}

static inline unsigned fuzz_byte(const uint8_t **data, size_t *left)
{
    if (!*left) return 0;
    --*left;
    return *(*data)++;
}

/* The input up to its next byte `end`, which is taken off too, as text; NULL bytes in it end it earlier. free(). */
static inline char *fuzz_until(const uint8_t **data, size_t *left, int end)
{
    const uint8_t *at = *data, *stop = *left ? memchr(at, end, *left) : NULL;
    size_t n = stop ? (size_t)(stop - at) : *left;
    *data += n + (stop != NULL);
    *left -= n + (stop != NULL);
    return fuzz_text(at, n);
}

/* A file in memory, made once for each name and filled anew; its path is in *path. */
struct fuzz_file {
    int fd;
    char path[64];
};

static inline void fuzz_file_fill(struct fuzz_file *f, const void *bytes, size_t n)
{
    if (!f->path[0]) {
        f->fd = memfd_create("fuzz", 0);
        FUZZ_NEED(f->fd >= 0);
        snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", f->fd);
    }
    FUZZ_NEED(ftruncate(f->fd, 0) == 0 && pwrite(f->fd, bytes, n, 0) == (ssize_t)n);
}

/* A folder in memory, for what wants a real file: made once, removed at the end. Files in it are filled by fuzz_put(). */
static char fuzz_folder_path[32];

static inline void fuzz_folder_leave(void)
{
    static const char *const names[] = {"SHA256SUMS", "adapter_config.json", "adapter_model.safetensors"};
    char path[96];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", fuzz_folder_path, names[i]);
        unlink(path);
    }
    rmdir(fuzz_folder_path);
}

static inline const char *fuzz_folder(void)
{
    if (!fuzz_folder_path[0]) {
        snprintf(fuzz_folder_path, sizeof fuzz_folder_path, "/dev/shm/weft-fuzz-XXXXXX");
        FUZZ_NEED(mkdtemp(fuzz_folder_path));
        atexit(fuzz_folder_leave);
    }
    return fuzz_folder_path;
}

static inline void fuzz_put(const char *name, const void *bytes, size_t n, char path[96])
{
    snprintf(path, 96, "%s/%s", fuzz_folder(), name);
    FILE *f = fopen(path, "wb");
    FUZZ_NEED(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}
