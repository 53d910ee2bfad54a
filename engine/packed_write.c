/* Writing packed files (packed.c draws them): entries one after the other as they come, so that a model larger than memory
 * goes through, then meta and index, then the head.
 *
 *   new: no name --add ...--> data --finish: meta, index, head, sync--> PATH.PID.tmp, renamed to PATH --sync folder-->
 *
 * Until it is whole the file has no name (O_TMPFILE), so a process that is killed leaves nothing behind; where the file
 * system has no such files it is PATH.PID.tmp from the beginning, which a writer that is freed before it finished
 * removes. The first failure is final: what comes after it fails too.
 * One thread. */
#include "base/sha256.h"
#include "engine/packed.h"
#include "engine/packed_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITE_CHUNK ((size_t)16 << 20) /* bytes of one write(2) */
#define BEHIND ((uint64_t)64 << 20)    /* bytes that may wait for the disk: so the sync at the end is short */

struct packed_writer {
    char *path, *temporary;
    int fd;
    bool broken, finished, named; /* named: the temporary name is a file */
    uint64_t at, flushed;         /* flushed: up to here the disk has it, or is at it */
    struct packed_entry *entry;
    size_t count, room;
};

static int write_at(struct packed_writer *w, uint64_t at, const void *bytes, size_t n, struct err *e)
{
    const char *p = bytes;
    while (n) {
        ssize_t done = pwrite(w->fd, p, n < WRITE_CHUNK ? n : WRITE_CHUNK, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) {
            w->broken = true;
            return err_errno(e, "cannot write %s", w->path);
        }
        p += done, n -= (size_t)done, at += (uint64_t)done;
    }
    return 0;
}

/* A gigabyte that waits in memory for the last fsync() holds up everybody else's. */
static void flush_behind(struct packed_writer *w)
{
    if (w->at - w->flushed < BEHIND) return;
    const unsigned both = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE;
    if (w->flushed) sync_file_range(w->fd, 0, (off_t)w->flushed, SYNC_FILE_RANGE_WAIT_BEFORE);
    sync_file_range(w->fd, (off_t)w->flushed, (off_t)(w->at - w->flushed), both); /* a wish: the fsync decides */
    w->flushed = w->at;
}

/* At the end, then on to the next multiple of PACKED_ALIGN. The gap reads as zeros. */
static int append(struct packed_writer *w, const void *bytes, size_t n, uint64_t *offset, struct err *e)
{
    *offset = w->at;
    if (write_at(w, w->at, bytes, n, e)) return -1;
    w->at += (n + PACKED_ALIGN - 1) / PACKED_ALIGN * PACKED_ALIGN;
    flush_behind(w);
    return 0;
}

static void folder_of(const char *path, char out[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    snprintf(out, PATH_MAX, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
}

int packed_check_other(const char *in, const char *out, struct err *e)
{
    struct stat a, b;
    if (stat(in, &a) || stat(out, &b) || a.st_dev != b.st_dev || a.st_ino != b.st_ino) return 0;
    return err_set(e, ERR_USAGE, "%s cannot be written over itself", in);
}

/* A rename takes the place of whatever stands there, a device as well. */
static int check_place(const struct packed_writer *w, struct err *e)
{
    struct stat st;
    if (stat(w->path, &st) || S_ISREG(st.st_mode)) return 0;
    return err_set(e, ERR_IO, "cannot write %s: what stands there is no plain file", w->path);
}

static int create(struct packed_writer *w, struct err *e)
{
    char folder[PATH_MAX];
    folder_of(w->path, folder);
    w->fd = open(folder, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0644);
    if (w->fd >= 0) return 0;
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    w->named = w->fd >= 0;
    return w->named ? 0 : err_errno(e, "cannot create %s", w->temporary);
}

int packed_writer_new(struct packed_writer **out, const char *path, struct err *e)
{
    struct packed_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NO_MEMORY, "no memory to write %s", path);
    w->fd = -1, w->at = PACKED_DATA;
    w->path = strdup(path);
    if (asprintf(&w->temporary, "%s.%ld.tmp", path, (long)getpid()) < 0) w->temporary = NULL;
    if (!w->path || !w->temporary) {
        packed_writer_free(w);
        return err_set(e, ERR_NO_MEMORY, "no memory to write %s", path);
    }
    if (check_place(w, e) || create(w, e)) {
        packed_writer_free(w);
        return -1;
    }
    *out = w;
    return 0;
}

/* --- entries --- */

static int check_name(const struct packed_writer *w, const char *name, struct err *e)
{
    size_t len = strnlen(name, PACKED_NAME_MAX + 1);
    if (len == 0 || len > PACKED_NAME_MAX)
        return err_set(e, ERR_INVALID, "%s: the name %.40s has %zu bytes or more: 1 to %d are allowed", w->path, name,
                       len, PACKED_NAME_MAX);
    if (w->count == PACKED_ENTRIES_MAX)
        return err_set(e, ERR_INVALID, "%s: more than %d entries", w->path, PACKED_ENTRIES_MAX);
    return 0;
}

static int make_room(struct packed_writer *w, struct err *e)
{
    if (w->count < w->room) return 0;
    size_t room = w->room ? w->room * 2 : 256;
    struct packed_entry *more = realloc(w->entry, room * sizeof *more);
    if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for the index of %s", w->path);
    w->entry = more, w->room = room;
    return 0;
}

static int add(struct packed_writer *w, const char *name, struct packed_entry it, const void *bytes, size_t n,
               struct err *e)
{
    if (w->broken || w->finished) return err_set(e, ERR_IO, "%s: the file is finished, or failed before", w->path);
    if (check_name(w, name, e) || make_room(w, e)) return -1;
    memcpy(it.name, name, strlen(name));
    it.bytes = n;
    sha256_of(bytes, n, it.sha256);
    if (append(w, bytes, n, &it.offset, e)) return -1;
    w->entry[w->count++] = it;
    return 0;
}

int packed_writer_add_blob(struct packed_writer *w, const char *name, const void *bytes, size_t n, struct err *e)
{
    return add(w, name, (struct packed_entry){.kind = PACKED_BLOB}, bytes, n, e);
}

int packed_writer_add_weight(struct packed_writer *w, const char *name, const struct weight *m, struct err *e)
{
    struct packed_entry it = {.kind = PACKED_WEIGHT, .layout = (uint32_t)m->layout, .n = m->n, .k = m->k};
    memcpy(it.table, m->table, sizeof it.table);
    return add(w, name, it, m->data, m->bytes, e);
}

int packed_writer_add_vector(struct packed_writer *w, const char *name, const float *v, int n, struct err *e)
{
    if (n < 1) return err_set(e, ERR_INVALID, "%s: %s is a vector of %d numbers", w->path, name, n);
    return add(w, name, (struct packed_entry){.kind = PACKED_VECTOR, .n = n}, v, (size_t)n * sizeof *v, e);
}

/* --- the end --- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct packed_entry *)a)->name, ((const struct packed_entry *)b)->name);
}

static int check_unique(struct packed_writer *w, struct err *e)
{
    if (w->count) qsort(w->entry, w->count, sizeof *w->entry, by_name);
    for (size_t i = 1; i < w->count; i++)
        if (by_name(&w->entry[i - 1], &w->entry[i]) == 0)
            return err_set(e, ERR_INVALID, "%s: two entries are called %s", w->path, w->entry[i].name);
    return 0;
}

/* *out: the text, the caller's to free, also after a failure. */
static int write_meta(struct packed_writer *w, const json_t *meta, struct packed_head *h, char **out, struct err *e)
{
    char *text = *out = json_is_object(meta) ? json_dumps(meta, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (!text) return err_set(e, ERR_INVALID, "%s: the meta data are no JSON object", w->path);
    h->meta_bytes = strlen(text);
    json_t *again = NULL; /* what packed_open() would not take must not be written */
    int rc = h->meta_bytes > PACKED_META_MAX
                 ? err_set(e, ERR_INVALID, "%s: meta data of more than %u bytes", w->path, PACKED_META_MAX)
                 : json_parse(text, h->meta_bytes, &again, e);
    if (rc == 0) rc = append(w, text, h->meta_bytes, &h->meta, e);
    json_decref(again);
    return rc;
}

/* The rename is only as lasting as the folder that holds it. */
static int sync_folder(const char *path, struct err *e)
{
    char folder[PATH_MAX];
    folder_of(path, folder);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return err_errno(e, "cannot open %s", folder);
    int rc = fsync(fd);
    if (rc) err_errno(e, "cannot sync %s", folder);
    close(fd);
    return rc;
}

/* A nameless file gets the temporary name, for only a rename takes the place of another file. */
static int give_name(struct packed_writer *w, struct err *e)
{
    char self[64];
    if (w->named) return 0;
    snprintf(self, sizeof self, "/proc/self/fd/%d", w->fd);
    unlink(w->temporary); /* of an earlier process with this number */
    if (linkat(AT_FDCWD, self, AT_FDCWD, w->temporary, AT_SYMLINK_FOLLOW))
        return err_errno(e, "cannot name %s", w->temporary);
    w->named = true;
    return 0;
}

static int publish(struct packed_writer *w, struct err *e)
{
    if (ftruncate(w->fd, (off_t)w->at)) return err_errno(e, "cannot write %s", w->path);
    if (fsync(w->fd)) return err_errno(e, "cannot sync %s", w->path);
    if (give_name(w, e)) return -1;
    if (rename(w->temporary, w->path)) return err_errno(e, "cannot rename %s to %s", w->temporary, w->path);
    w->finished = true;
    return sync_folder(w->path, e);
}

int packed_writer_finish(struct packed_writer *w, const json_t *meta, struct err *e)
{
    struct packed_head h = {.magic = PACKED_MAGIC, .version = PACKED_VERSION, .entries = w->count};
    if (w->broken || w->finished) return err_set(e, ERR_IO, "%s: the file is finished, or failed before", w->path);
    char *text = NULL;
    int rc = check_unique(w, e) || write_meta(w, meta, &h, &text, e) ? -1 : 0;
    if (rc == 0) rc = append(w, w->entry, w->count * sizeof *w->entry, &h.index, e);
    if (rc == 0) {
        h.file_bytes = w->at;
        packed_seal(&h, text, w->entry, h.sha256);
        rc = write_at(w, 0, &h, sizeof h, e);
    }
    free(text);
    return rc ? -1 : publish(w, e);
}

void packed_writer_free(struct packed_writer *w)
{
    if (!w) return;
    if (w->fd >= 0) close(w->fd);
    if (w->named && !w->finished) unlink(w->temporary);
    free(w->entry);
    free(w->path);
    free(w->temporary);
    free(w);
}
