/* What the file system says of a file, enough to tell it from another and from itself before it was written to. So what was computed from a file
 * need not be computed again while its identity stays. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct file_id {
    uint64_t dev, ino, size; /* size 0: no file */
    int64_t mtime_ns, ctime_ns;
};

void file_id_of(struct file_id *out, const struct stat *st);
/* Of what lies at `path` now; all zeros where nothing does. */
void file_id_at(struct file_id *out, const char *path);
bool file_id_same(const struct file_id *a, const struct file_id *b);
/* Was it last written to well before began_us (wall clock), when its reading began? Within a tick of the clock two writes may have one time stamp, and
 * then the identity does not tell them apart. */
bool file_id_settled(const struct file_id *id, int64_t began_us);
