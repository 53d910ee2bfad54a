/* source_id: which files a source is made of, and what they hash to.
 *
 * A file is hashed as it was mapped. With a cache (cache.h) the digest of a file that was not written to since is looked up under what the
 * file system says of it, and one that had to be computed is remembered: SHA-256 reads 1.2 to 1.6 GB a second, so an unchanged gigabyte
 * would cost two thirds of a second at each start.
 *
 * At load; source_unchanged() from the thread that writes a copy. */
#include "base/clock.h"
#include "base/sha256.h"
#include "engine/packed.h"
#include "engine/source_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096

void source_use_cache(struct source *s, struct cache *c)
{
    s->cache = c;
}

static void hex_of(const void *p, size_t n, char hex[SHA256_HEX])
{
    uint8_t sum[SHA256_BYTES];
    sha256_of(p, n, sum);
    sha256_hex(sum, hex);
}

/* --- a directory --- */

static void path_of(const struct source *s, const struct mapped *m, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "%s/%s", s->path, m->name);
}

static void digest_file(const struct source *s, const struct mapped *m, char hex[SHA256_HEX])
{
    char path[PATH_BYTES];
    int64_t began_us = clock_wall_us();
    if (s->cache && cache_sum_find(s->cache, &m->id, hex)) return;
    hex_of(m->p, m->bytes, hex);
    path_of(s, m, path);
    if (s->cache) cache_sum_keep(s->cache, &m->id, path, hex, began_us);
}

static int by_file_name(const void *a, const void *b)
{
    const struct mapped *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static void add_line(struct sha256 *h, const char *name, const char *hex)
{
    sha256_add(h, name, strlen(name));
    sha256_add(h, " ", 1);
    sha256_add(h, hex, SHA256_HEX - 1);
    sha256_add(h, "\n", 1);
}

/* Over the sorted lines "name sha256\n" of config.json and the weight files. */
static int digest_directory(const struct source *s, char hex[SHA256_HEX])
{
    const struct mapped *list[SOURCE_SHARDS_MAX + 1];
    char each[SHA256_HEX];
    uint8_t sum[SHA256_BYTES];
    struct sha256 h;
    int n = 0;
    list[n++] = &s->config_file;
    for (int i = 0; i < s->nshards; i++) list[n++] = &s->shard[i];
    qsort(list, (size_t)n, sizeof *list, by_file_name);
    sha256_init(&h);
    for (int i = 0; i < n; i++) {
        digest_file(s, list[i], each);
        add_line(&h, list[i]->name, each);
    }
    sha256_end(&h, sum);
    sha256_hex(sum, hex);
    return 0;
}

/* --- one file --- */

/* The identity was taken before the file was opened and is compared with the path's afterwards, by cache_sum_keep(): in between it was the
 * same file. */
static int digest_single(const struct source *s, char hex[SHA256_HEX], struct err *e)
{
    int64_t began_us = clock_wall_us();
    if (s->cache && source_unchanged(s) && cache_sum_find(s->cache, &s->id, hex)) return 0;
    if (s->kind == SOURCE_PACKED ? packed_digest(s->packed, hex, e) : gguf_digest(s->g, hex, e)) return -1;
    if (s->cache) cache_sum_keep(s->cache, &s->id, s->path, hex, began_us);
    return 0;
}

int source_verify(const struct source *s, struct err *e)
{
    return s->kind == SOURCE_PACKED ? packed_verify(s->packed, e) : 0;
}

int source_digest(const struct source *s, char hex[SHA256_HEX], struct err *e)
{
    if (s->kind == SOURCE_HF) return digest_directory(s, hex);
    return source_verify(s, e) || digest_single(s, hex, e) ? -1 : 0;
}

/* --- all files --- */

void source_identity(const struct source *s, const char digest[SHA256_HEX], char hex[SHA256_HEX])
{
    struct sha256 h;
    uint8_t sum[SHA256_BYTES];
    char each[SHA256_HEX];
    sha256_init(&h);
    add_line(&h, "base", digest);
    for (int i = 0; s->file && i < TEXT_FILES; i++) {
        if (!s->file[i].p) continue;
        hex_of(s->file[i].p, s->file[i].bytes, each);
        add_line(&h, s->file[i].name, each);
    }
    sha256_end(&h, sum);
    sha256_hex(sum, hex);
}

static bool same_now(const struct source *s, const struct mapped *m)
{
    char path[PATH_BYTES];
    struct file_id now;
    path_of(s, m, path);
    file_id_at(&now, path);
    return file_id_same(&now, &m->id); /* one that was not there still is not */
}

bool source_unchanged(const struct source *s)
{
    struct file_id now;
    if (s->kind != SOURCE_HF) {
        file_id_at(&now, s->path);
        return file_id_same(&now, &s->id);
    }
    bool same = same_now(s, &s->config_file);
    for (int i = 0; same && i < s->nshards; i++) same = same_now(s, &s->shard[i]);
    for (int i = 0; same && s->file && i < TEXT_FILES; i++) same = same_now(s, &s->file[i]);
    return same;
}
