/* file_id: device, inode, size, and the times of the last change of contents and of inode.
 *
 * A write changes mtime, and setting mtime back changes ctime, which nobody can set. The one gap is the clock: two writes within one of its ticks
 * look alike, so an identity counts only once it is SETTLED_US old, as git does with its index. Any thread. */
#include "base/file_id.h"

#define SETTLED_US 2000000 /* the coarsest time stamps in use (FAT's) */

static int64_t ns_of(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void file_id_of(struct file_id *out, const struct stat *st)
{
    *out = (struct file_id){.dev = st->st_dev,
                            .ino = st->st_ino,
                            .size = (uint64_t)st->st_size,
                            .mtime_ns = ns_of(st->st_mtim),
                            .ctime_ns = ns_of(st->st_ctim)};
}

void file_id_at(struct file_id *out, const char *path)
{
    struct stat st;
    *out = (struct file_id){0};
    if (stat(path, &st) == 0) file_id_of(out, &st);
}

bool file_id_same(const struct file_id *a, const struct file_id *b)
{
    return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

bool file_id_settled(const struct file_id *id, int64_t began_us)
{
    int64_t last_ns = id->mtime_ns > id->ctime_ns ? id->mtime_ns : id->ctime_ns;
    return id->size > 0 && last_ns / 1000 < began_us - SETTLED_US;
}
