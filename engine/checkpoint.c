/* checkpoint: tensors into one safetensors file, in the order in which they come.
 *
 *     checkpoint_new: DIR, DIR/model.safetensors.part with room for the header
 *       -> checkpoint_add ... : data behind data, a line of the header each
 *       -> checkpoint_finish: the header into its room, fsync, rename
 *
 * Nothing is left behind on failure: checkpoint_free() removes the files that it knows and the directory. Main thread of a process of its
 * own (`weft-engine prune`), and tests. */
#include "engine/checkpoint.h"
#include "base/json.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_EACH 384 /* bytes of the header that a tensor takes at most: a name of 256 and its numbers */
#define PATH_BYTES 4096
#define TEXTS_MAX 16
#define PART "model.safetensors.part"

struct checkpoint {
    char dir[PATH_BYTES - 64];
    FILE *f;
    json_t *header;
    size_t room, at; /* of the header; bytes of data so far */
    char text[TEXTS_MAX][64];
    int texts;
    bool done;
};

static void path_of(const struct checkpoint *c, const char *name, char out[PATH_BYTES])
{
    snprintf(out, PATH_BYTES, "%s/%s", c->dir, name);
}

static int failed(const struct checkpoint *c, const char *name, struct err *e)
{
    return err_errno(e, "cannot write %s/%s", c->dir, name);
}

int checkpoint_new(struct checkpoint **out, const char *dir, int tensors, struct err *e)
{
    char path[PATH_BYTES];
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c) return err_set(e, ERR_NO_MEMORY, "no memory to write a checkpoint");
    int n = snprintf(c->dir, sizeof c->dir, "%s", dir);
    c->room = (size_t)tensors * HEADER_EACH / 8 * 8 + 8;
    c->header = json_object();
    if (n < 0 || (size_t)n >= sizeof c->dir || mkdir(dir, 0777)) {
        int rc = errno == EEXIST ? err_set(e, ERR_USAGE, "%.300s is there already; name a directory that is not", dir)
                                 : err_errno(e, "cannot make the directory %.300s", dir);
        json_decref(c->header);
        free(c);
        return rc;
    }
    path_of(c, PART, path);
    c->f = fopen(path, "wbe");
    if (!c->f || !c->header || fseek(c->f, (long)(8 + c->room), SEEK_SET)) {
        failed(c, PART, e);
        checkpoint_free(c);
        return -1;
    }
    *out = c;
    return 0;
}

int checkpoint_add(struct checkpoint *c, const char *name, const char *dtype, const int64_t dim[CHECKPOINT_DIMS], int ndim,
                   const void *data, size_t bytes, struct err *e)
{
    json_t *shape = ndim == 1 ? json_pack("[I]", (json_int_t)dim[0])
                              : json_pack("[I,I]", (json_int_t)dim[0], (json_int_t)dim[1]);
    json_t *row = json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtype, "shape", shape, "data_offsets", (json_int_t)c->at,
                            (json_int_t)(c->at + bytes));
    if (!row || json_object_set_new(c->header, name, row)) return err_set(e, ERR_NO_MEMORY, "no memory for %s", name);
    if (fwrite(data, 1, bytes, c->f) != bytes) return failed(c, PART, e);
    c->at += bytes;
    return 0;
}

int checkpoint_text(struct checkpoint *c, const char *name, const char *text, size_t len, struct err *e)
{
    char path[PATH_BYTES];
    if (c->texts == TEXTS_MAX) return err_set(e, ERR_IO, "more than %d text files", TEXTS_MAX);
    snprintf(c->text[c->texts++], sizeof c->text[0], "%s", name);
    path_of(c, name, path);
    FILE *f = fopen(path, "wbe");
    bool bad = !f || fwrite(text, 1, len, f) != len;
    if (f) bad |= fclose(f) != 0;
    return bad ? failed(c, name, e) : 0;
}

static int write_header(struct checkpoint *c, struct err *e)
{
    char *text = json_dumps(c->header, JSON_COMPACT);
    uint64_t room = c->room;
    size_t n = text ? strlen(text) : 0;
    int rc = text ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the header");
    if (!rc && n > c->room) rc = err_set(e, ERR_IO, "the header of %s takes %zu bytes of %zu", c->dir, n, c->room);
    if (!rc && (fseek(c->f, 0, SEEK_SET) || fwrite(&room, sizeof room, 1, c->f) != 1 || fwrite(text, 1, n, c->f) != n))
        rc = failed(c, PART, e);
    for (size_t i = n; !rc && i < c->room; i++)
        if (putc(' ', c->f) == EOF) rc = failed(c, PART, e);
    free(text);
    return rc;
}

int checkpoint_finish(struct checkpoint *c, struct err *e)
{
    char part[PATH_BYTES], whole[PATH_BYTES];
    if (write_header(c, e)) return -1;
    path_of(c, PART, part);
    path_of(c, "model.safetensors", whole);
    bool bad = fflush(c->f) || fsync(fileno(c->f));
    bad |= fclose(c->f) != 0;
    c->f = NULL;
    if (bad || rename(part, whole)) return failed(c, PART, e);
    c->done = true;
    return 0;
}

void checkpoint_free(struct checkpoint *c)
{
    char path[PATH_BYTES];
    if (!c) return;
    if (c->f) fclose(c->f);
    json_decref(c->header);
    if (!c->done) {
        path_of(c, PART, path);
        unlink(path);
        for (int i = 0; i < c->texts; i++) {
            path_of(c, c->text[i], path);
            unlink(path);
        }
        rmdir(c->dir);
    }
    free(c);
}
