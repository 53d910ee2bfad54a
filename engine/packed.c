/* Reading packed files.
 *
 *     head, 128 bytes    "WEFTPACK" | u32 version | u32 0 | u64 index offset | u64 entries | u64 meta offset | u64 meta bytes |
 *                        u64 file bytes | 8 bytes 0 | SHA-256 of head, meta and index | 32 bytes 0
 *     entry, 256 bytes   u32 kind | u32 layout | i32 n | i32 k | u64 offset | u64 bytes | f32 table[16] | SHA-256 |
 *                        name[128], zero-padded
 *
 * The file is mapped read-only and kept open under a shared lock. packed_open() walks the index once and checks all that a reader relies on: everything lies
 * inside the file and at a multiple of 64, names end and are unique, a weight has the bytes that its layout and shape take.
 * So an entry that is handed out needs no further check; what a weight's bytes say cannot lead outside of it, whatever they
 * are.
 *
 * Not defended against: somebody who shortens the file while it is mapped (SIGBUS). A base model is the operator's own
 * file. After packed_open() the object is immutable: any thread may read. */
#include "engine/packed.h"
#include "engine/packed_impl.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool packed_is(const void *head, size_t n)
{
    return n >= strlen(PACKED_MAGIC) && memcmp(head, PACKED_MAGIC, strlen(PACKED_MAGIC)) == 0;
}

/* --- checks --- */

/* Whether `bytes` at `offset` lie between the head and the end of the file. */
static bool inside(const struct packed *p, uint64_t offset, uint64_t bytes)
{
    return offset >= sizeof(struct packed_head) && offset <= p->size && bytes <= p->size - offset &&
           offset % PACKED_ALIGN == 0;
}

static int check_head(const struct packed *p, const struct packed_head *h, struct err *e)
{
    if (h->version != PACKED_VERSION)
        return err_set(e, ERR_MODEL, "%s: packed files of version %u are not served, only %d: quantize the model again",
                       p->path, h->version, PACKED_VERSION);
    if (h->file_bytes != p->size)
        return err_set(e, ERR_MODEL, "%s has %zu bytes where its head says %llu: it was cut off or overwritten",
                       p->path, p->size, (unsigned long long)h->file_bytes);
    if (h->entries > PACKED_ENTRIES_MAX)
        return err_set(e, ERR_MODEL, "%s: %llu entries, at most %d are served", p->path, (unsigned long long)h->entries,
                       PACKED_ENTRIES_MAX);
    if (!inside(p, h->index, h->entries * sizeof(struct packed_entry)))
        return err_set(e, ERR_MODEL, "%s: the index lies outside the file", p->path);
    if (!inside(p, h->meta, h->meta_bytes) || h->meta_bytes > PACKED_META_MAX)
        return err_set(e, ERR_MODEL, "%s: the meta data lies outside the file, or is longer than %u bytes", p->path,
                       PACKED_META_MAX);
    return 0;
}

static int check_weight(const struct packed *p, const struct packed_entry *it, struct err *e)
{
    struct weight w;
    struct err why = {0};
    if (it->layout >= LAYOUTS)
        return err_set(e, ERR_MODEL, "%s: %s is of layout %u, which is not known", p->path, it->name, it->layout);
    if (weight_adopt(&w, (enum layout)it->layout, it->n, it->k, it->table, p->map + it->offset, it->bytes, &why))
        return err_set(e, ERR_MODEL, "%s: %s: %s", p->path, it->name, why.msg);
    return 0;
}

static int check_entry(const struct packed *p, const struct packed_entry *it, int i, struct err *e)
{
    if (it->name[0] == '\0' || memchr(it->name, '\0', sizeof it->name) == NULL)
        return err_set(e, ERR_MODEL, "%s: entry %d has no name, or one that does not end", p->path, i);
    if (!inside(p, it->offset, it->bytes))
        return err_set(e, ERR_MODEL, "%s: %s lies outside the file, or not at a multiple of %d", p->path, it->name,
                       PACKED_ALIGN);
    if (it->kind == PACKED_WEIGHT) return check_weight(p, it, e);
    if (it->kind == PACKED_VECTOR && (it->n < 1 || it->bytes != (uint64_t)it->n * sizeof(float)))
        return err_set(e, ERR_MODEL, "%s: %s is a vector of %d numbers in %llu bytes", p->path, it->name, it->n,
                       (unsigned long long)it->bytes);
    if (it->kind > PACKED_VECTOR)
        return err_set(e, ERR_MODEL, "%s: %s is of kind %u, which is not known", p->path, it->name, it->kind);
    return 0;
}

/* --- opening --- */

static int by_name(const void *a, const void *b)
{
    const struct packed_entry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int read_index(struct packed *p, const struct packed_head *h, struct err *e)
{
    p->count = (int)h->entries;
    p->entry = calloc((size_t)p->count + 1, sizeof *p->entry);
    if (!p->entry) return err_set(e, ERR_NO_MEMORY, "no memory for an index of %d entries", p->count);
    const struct packed_entry *all = (const struct packed_entry *)(p->map + h->index);
    for (int i = 0; i < p->count; i++) {
        if (check_entry(p, &all[i], i, e)) return -1;
        p->entry[i] = &all[i];
    }
    qsort(p->entry, (size_t)p->count, sizeof *p->entry, by_name);
    for (int i = 1; i < p->count; i++)
        if (strcmp(p->entry[i - 1]->name, p->entry[i]->name) == 0)
            return err_set(e, ERR_MODEL, "%s: two entries are called %s", p->path, p->entry[i]->name);
    return 0;
}

/* At a multiple of 2 MB, so that its pages can become such. */
static int map_aligned(struct packed *p, size_t size, struct err *e)
{
    char *room = mmap(NULL, size + PACKED_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return err_errno(e, "cannot map %s", p->path);
    size_t skip = (PACKED_HUGE - (uintptr_t)room % PACKED_HUGE) % PACKED_HUGE;
    char *map = mmap(room + skip, size, PROT_READ, MAP_PRIVATE | MAP_FIXED, p->fd, 0);
    if (map == MAP_FAILED) err_errno(e, "cannot map %s", p->path);
    size_t end = (size + 4095) / 4096 * 4096;
    if (map == MAP_FAILED) {
        munmap(room, size + PACKED_HUGE);
        return -1;
    }
    if (skip) munmap(room, skip);
    if (end < size + PACKED_HUGE - skip) munmap(map + end, size + PACKED_HUGE - skip - end);
    p->map = map, p->size = size;
    madvise(map, size, MADV_HUGEPAGE); /* a wish: some file systems have large pages */
    return 0;
}

static int map_file(struct packed *p, struct err *e)
{
    struct stat st;
    p->fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would never open */
    if (p->fd < 0) return err_errno(e, "cannot open %s", p->path);
    if (fstat(p->fd, &st)) return err_errno(e, "cannot look at %s", p->path);
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < sizeof(struct packed_head))
        return err_set(e, ERR_MODEL, "%s is no packed file: it has no head", p->path);
    flock(p->fd, LOCK_SH | LOCK_NB); /* in use: cache.h doesn't drop it. Where there are no locks it may. */
    return map_aligned(p, (size_t)st.st_size, e);
}

static int read_all(struct packed *p, struct err *e)
{
    if (map_file(p, e)) return -1;
    if (!packed_is(p->map, p->size)) return err_set(e, ERR_MODEL, "%s is no packed file: it begins otherwise", p->path);
    const struct packed_head *h = (const struct packed_head *)p->map;
    if (check_head(p, h, e)) return -1;
    struct err why = {0};
    if (json_parse(p->map + h->meta, h->meta_bytes, &p->meta, &why))
        return err_set(e, ERR_MODEL, "%s: the meta data: %s", p->path, why.msg);
    return read_index(p, h, e);
}

int packed_open(struct packed **out, const char *path, struct err *e)
{
    struct packed *p = calloc(1, sizeof *p);
    if (p) p->fd = -1;
    if (!p || !(p->path = strdup(path))) {
        free(p);
        return err_set(e, ERR_NO_MEMORY, "no memory to open %s", path);
    }
    if (read_all(p, e)) {
        packed_close(p);
        return -1;
    }
    *out = p;
    return 0;
}

void packed_close(struct packed *p)
{
    if (!p) return;
    if (p->map) munmap((void *)(uintptr_t)p->map, p->size);
    if (p->fd >= 0) close(p->fd);
    json_decref(p->meta);
    free(p->entry);
    free(p->path);
    free(p);
}

/* --- what is in it --- */

const json_t *packed_meta(const struct packed *p)
{
    return p->meta;
}

int packed_count(const struct packed *p)
{
    return p->count;
}

const char *packed_name(const struct packed *p, int i, enum packed_kind *kind)
{
    if (kind) *kind = (enum packed_kind)p->entry[i]->kind;
    return p->entry[i]->name;
}

static const struct packed_entry *find(const struct packed *p, const char *name, enum packed_kind kind)
{
    int lo = 0, hi = p->count;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2, order = strcmp(p->entry[mid]->name, name);
        if (order == 0) return p->entry[mid]->kind == (uint32_t)kind ? p->entry[mid] : NULL;
        if (order < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

bool packed_blob(const struct packed *p, const char *name, const void **bytes, size_t *n)
{
    const struct packed_entry *it = find(p, name, PACKED_BLOB);
    if (!it) return false;
    *bytes = p->map + it->offset, *n = it->bytes;
    return true;
}

bool packed_weight(const struct packed *p, const char *name, struct weight *out)
{
    const struct packed_entry *it = find(p, name, PACKED_WEIGHT);
    return it && weight_adopt(out, (enum layout)it->layout, it->n, it->k, it->table, p->map + it->offset, it->bytes,
                              NULL) == 0;
}

bool packed_vector(const struct packed *p, const char *name, const float **v, int *n)
{
    const struct packed_entry *it = find(p, name, PACKED_VECTOR);
    if (!it) return false;
    *v = (const float *)(p->map + it->offset), *n = it->n;
    return true;
}
