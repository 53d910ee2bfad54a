/* pull_cache: which blobs the store of a pulling engine holds, and which of them go when another needs the room.
 *
 * Only sizes and times are kept here; the files are the puller's to write and remove. At the start the folders' own times give the order of use, for
 * nothing else outlived the process. Whoever is asked to let a blob go may refuse: then the next older one is asked, and the refused one is not asked
 * again in that round. Nothing goes for what would not fit beside all that is in use. Under the caller's lock. */
#include "adapters/adapter.h"
#include "base/clock.h"
#include "engine/pull_impl.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct pull_blob **place(struct pull_cache *c, const char *digest)
{
    unsigned h = 0;
    for (int i = 0; i < 8 && digest[i]; i++) h = h * 31 + (unsigned char)digest[i];
    struct pull_blob **p = &c->bucket[h % PULL_BUCKETS];
    while (*p && strcmp((*p)->digest, digest) != 0) p = &(*p)->next;
    return p;
}

struct pull_blob *pull_cache_find(struct pull_cache *c, const char *digest)
{
    return *place(c, digest);
}

struct pull_blob *pull_cache_add(struct pull_cache *c, const char *digest, int64_t bytes)
{
    struct pull_blob **at = place(c, digest), *b = *at;
    if (b) { /* fetched over what was there: its room is its own already */
        c->bytes -= b->bytes;
        b->bytes = bytes;
        return b;
    }
    if (!(b = calloc(1, sizeof *b))) return NULL;
    snprintf(b->digest, sizeof b->digest, "%s", digest);
    b->bytes = bytes;
    *at = b;
    c->n++;
    return b;
}

void pull_cache_remove(struct pull_cache *c, const char *digest)
{
    struct pull_blob **at = place(c, digest), *b = *at;
    if (!b) return;
    *at = b->next;
    c->bytes -= b->bytes;
    c->n--;
    free(b);
}

void pull_cache_free(struct pull_cache *c)
{
    for (int i = 0; i < PULL_BUCKETS; i++)
        while (c->bucket[i]) pull_cache_remove(c, c->bucket[i]->digest);
}

/* --- room --- */

struct aged {
    const struct pull_blob *blob;
    int64_t used_us;
};

static int by_age(const void *a, const void *b)
{
    const struct aged *x = a, *y = b;
    return (x->used_us > y->used_us) - (x->used_us < y->used_us);
}

static struct aged *by_use(const struct pull_cache *c, const struct pull_keeper *k)
{
    struct aged *all = malloc(((size_t)c->n + 1) * sizeof *all);
    int n = 0;
    for (int i = 0; all && i < PULL_BUCKETS; i++)
        for (const struct pull_blob *b = c->bucket[i]; b; b = b->next) {
            int64_t used = k->used_us(k->u, b->digest);
            all[n++] = (struct aged){b, used > b->used_us ? used : b->used_us};
        }
    if (all) qsort(all, (size_t)n, sizeof *all, by_age);
    return all;
}

int64_t pull_cache_evict(struct pull_cache *c, int64_t bytes, const struct pull_keeper *k)
{
    int had = c->n;
    int64_t before = c->bytes;
    struct aged *all = bytes > 0 ? by_use(c, k) : NULL;
    for (int i = 0; all && i < had && before - c->bytes < bytes; i++) {
        char digest[SHA256_HEX];
        memcpy(digest, all[i].blob->digest, sizeof digest);
        if (!k->let_go(k->u, digest)) continue;
        k->drop(k->u, digest);
        pull_cache_remove(c, digest);
    }
    free(all);
    return before - c->bytes;
}

/* Of all that nobody uses. */
static int64_t bytes_to_spare(const struct pull_cache *c, const struct pull_keeper *k)
{
    int64_t sum = 0;
    for (int i = 0; i < PULL_BUCKETS; i++)
        for (const struct pull_blob *b = c->bucket[i]; b; b = b->next)
            if (k->may_go(k->u, b->digest)) sum += b->bytes;
    return sum;
}

int pull_cache_reserve(struct pull_cache *c, int64_t n, const struct pull_keeper *k)
{
    if (n > c->max_bytes) return -1; /* not even an empty store would do */
    int64_t over = c->bytes + n - c->max_bytes;
    if (n > 0 && over > 0 && bytes_to_spare(c, k) < over) return -1;
    if (over > 0) pull_cache_evict(c, over, k);
    if (c->bytes + n > c->max_bytes) return -1;
    c->bytes += n;
    return 0;
}

/* --- at the start --- */

/* Bytes of a whole version, and when its folder was made; -1: it is none. */
static int64_t weigh(const char *dir, int64_t *made_us)
{
    static const char *const files[PULL_FILES] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
    char path[STORE_PATH_MAX + 64];
    struct stat st;
    int64_t bytes = 0;
    for (int i = 0; i < PULL_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        if (lstat(path, &st) || !S_ISREG(st.st_mode)) return -1;
        bytes += st.st_size;
        *made_us = (int64_t)st.st_mtim.tv_sec * 1000000 + st.st_mtim.tv_nsec / 1000;
    }
    return bytes;
}

static int read_one(struct pull_cache *c, const char *store, const char *digest)
{
    char dir[STORE_PATH_MAX];
    int64_t made_us = 0, bytes;
    if (!sha256_is_hex(digest) || store_path(store, digest, dir, NULL)) return 0;
    if ((bytes = weigh(dir, &made_us)) < 0) return 0; /* the remains of a removal: the next pull of it clears them */
    struct pull_blob *b = pull_cache_add(c, digest, bytes);
    if (!b) return -1;
    b->used_us = made_us - clock_wall_us() + clock_mono_us();
    c->bytes += bytes;
    return 0;
}

int pull_cache_read(struct pull_cache *c, const char *store, struct err *e)
{
    static const char hex[] = "0123456789abcdef";
    int rc = 0;
    for (int i = 0; i < 256 && rc == 0; i++) {
        char dir[STORE_PATH_MAX];
        if (snprintf(dir, sizeof dir, "%s/%c%c", store, hex[i >> 4], hex[i & 15]) >= (int)sizeof dir)
            return err_set(e, ERR_USAGE, "the store's path is too long");
        DIR *d = opendir(dir);
        for (struct dirent *x; d && rc == 0 && (x = readdir(d));) rc = read_one(c, store, x->d_name);
        if (d) closedir(d);
    }
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for what the store holds") : 0;
}
