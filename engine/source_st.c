/* source_st: the shards of a base model, safetensors files of any element type.
 *
 * Adapters have a reader of their own (adapters/safetensors.h) that refuses what an adapter may not hold. A base is larger and more
 * varied: integers, 8-bit floats, scalars, tensors of no elements, headers of many megabytes. What is promised is the same: a tensor's
 * bytes lie inside the file, have the length that its type and shape take, and the tensors tile the data, so no two overlap.
 *
 *     8 bytes: header length | JSON {"name":{"dtype","shape","data_offsets"},...} | data
 *
 * The header is read by a cursor, not into a tree (source_json.h). Data isn't aligned to anything: whoever reads it copies elements.
 * Format: https://huggingface.co/docs/safetensors. Called at load only. */
#include "adapters/safetensors.h"
#include "engine/source_impl.h"
#include "engine/source_json.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_MAX 100000000 /* the format's own bound */
#define LENGTH_BYTES 8
#define NDIM_MAX 8

const char *const dtype_name[DTYPES] = {"F32", "F16", "BF16", "F64", "I8",   "U8",      "I16",     "U16",
                                        "I32", "U32", "I64",  "U64", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"};
const uint8_t dtype_bytes[DTYPES] = {4, 2, 2, 8, 1, 1, 2, 2, 4, 4, 8, 8, 1, 1, 1, 1};

int map_whole(const char *path, bool optional, size_t max, struct mapped *m, struct err *e)
{
    struct stat st;
    int rc = -1, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && optional && errno == ENOENT) return 0;
    if (fd < 0) return err_errno(e, "cannot open %s", path);
    if (fstat(fd, &st)) {
        err_errno(e, "cannot look at %s", path);
    } else if (!S_ISREG(st.st_mode)) {
        err_set(e, ERR_MODEL, "%s is not a plain file; put the file itself in its place", path);
    } else if ((uint64_t)st.st_size > max) {
        err_set(e, ERR_MODEL, "%s has %lld bytes, more than %zu", path, (long long)st.st_size, max);
    } else if (st.st_size == 0) {
        rc = optional ? 0 : err_set(e, ERR_MODEL, "%s is empty; download it again", path);
    } else {
        void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        size_t n = (size_t)st.st_size;
        rc = map == MAP_FAILED ? err_errno(e, "cannot map %s", path) : 0;
        if (!rc && n >= LFS_LEN && !memcmp(map, LFS_MAGIC, LFS_LEN)) {
            munmap(map, n);
            rc = err_set(e, ERR_MODEL, "%s " LFS_TOLD, path);
        } else if (!rc) {
            m->p = map;
            m->bytes = n;
            file_id_of(&m->id, &st);
        }
    }
    close(fd);
    return rc;
}

/* --- one entry --- */

struct entry {
    struct json_word name;
    struct tensor t;
    int64_t begin, end;
    unsigned seen; /* bits: dtype, shape, data_offsets */
};

static int bad(const struct json_walk *w, const struct entry *x, const char *what)
{
    return err_set(w->e, ERR_MODEL, "%s: tensor %.*s: %s; download the file again", w->where, (int)x->name.len,
                   x->name.s, what);
}

static bool name_ok(const struct json_word *n)
{
    if (n->len < 1 || n->len >= TENSOR_NAME_MAX) return false;
    for (size_t i = 0; i < n->len; i++)
        if (n->s[i] <= 32 || n->s[i] > 126) return false;
    return true;
}

static int read_dtype(struct json_walk *w, struct entry *x)
{
    struct json_word word;
    if (walk_word(w, &word)) return -1;
    for (int i = 0; i < DTYPES; i++)
        if (word_is(&word, dtype_name[i])) {
            x->t.dtype = (enum dtype)i;
            return 0;
        }
    return err_set(w->e, ERR_MODEL,
                   "%s: tensor %.*s: the type %.*s is not served; save the weights as F32, F16 "
                   "or BF16",
                   w->where, (int)x->name.len, x->name.s, (int)(word.len < 16 ? word.len : 16), word.s);
}

static int read_shape(struct json_walk *w, struct entry *x)
{
    bool more = true;
    x->t.count = 1;
    for (int i = 0; i < 4; i++) x->t.dim[i] = 1;
    if (walk_expect(w, '[')) return -1;
    if (walk_sees(w, ']')) return walk_expect(w, ']');
    while (more) {
        int64_t d;
        if (x->t.ndim == NDIM_MAX) return bad(w, x, "it has more than 8 dimensions");
        if (walk_size(w, &d) || walk_next(w, ']', &more)) return -1;
        if (x->t.ndim < 4) x->t.dim[x->t.ndim] = d;
        if (__builtin_mul_overflow(x->t.count, d, &x->t.count)) return bad(w, x, "its dimensions overflow");
        x->t.ndim++;
    }
    return 0;
}

static int read_offsets(struct json_walk *w, struct entry *x)
{
    return walk_expect(w, '[') || walk_size(w, &x->begin) || walk_expect(w, ',') || walk_size(w, &x->end) ||
                   walk_expect(w, ']')
               ? -1
               : 0;
}

static int read_entry(struct json_walk *w, struct entry *x)
{
    bool more = true;
    if (!name_ok(&x->name))
        return err_set(w->e, ERR_MODEL, "%s: a tensor's name is not 1 to %d printable characters", w->where,
                       TENSOR_NAME_MAX - 1);
    if (walk_expect(w, '{')) return -1;
    while (more) {
        struct json_word key;
        if (walk_word(w, &key) || walk_expect(w, ':')) return -1;
        unsigned bit = word_is(&key, "dtype") ? 1 : word_is(&key, "shape") ? 2 : word_is(&key, "data_offsets") ? 4 : 0;
        if (!bit || x->seen & bit) return bad(w, x, "its entry is not exactly dtype, shape and data_offsets");
        x->seen |= bit;
        if (bit == 1 ? read_dtype(w, x) : bit == 2 ? read_shape(w, x) : read_offsets(w, x)) return -1;
        if (walk_next(w, '}', &more)) return -1;
    }
    return x->seen == 7 ? 0 : bad(w, x, "its entry lacks dtype, shape or data_offsets");
}

static int check_entry(const struct json_walk *w, struct entry *x, size_t room)
{
    int64_t bytes;
    if (__builtin_mul_overflow(x->t.count, (int64_t)dtype_bytes[x->t.dtype], &bytes))
        return bad(w, x, "its dimensions overflow");
    if (x->end < x->begin) return bad(w, x, "data_offsets run backwards");
    if ((uint64_t)x->end > room)
        return err_set(
            w->e, ERR_MODEL,
            "%s: tensor %.*s ends at byte %lld of the data, which has %zu: the file is cut off; download it again",
            w->where, (int)x->name.len, x->name.s, (long long)x->end, room);
    if (x->end - x->begin != bytes)
        return err_set(w->e, ERR_MODEL,
                       "%s: tensor %.*s: data_offsets hold %lld bytes, its shape needs %lld; download it again",
                       w->where, (int)x->name.len, x->name.s, (long long)(x->end - x->begin), (long long)bytes);
    x->t.bytes = (size_t)bytes;
    return 0;
}

/* --- one file --- */

static int append(struct source *s, const struct entry *x, struct err *e)
{
    if (s->ntensors == SOURCE_TENSORS_MAX)
        return err_set(e, ERR_MODEL, "%s has more than %d tensors", s->path, SOURCE_TENSORS_MAX);
    if (s->ntensors == s->tensor_room) {
        int room = s->tensor_room ? 2 * s->tensor_room : 1024;
        struct tensor *more = realloc(s->tensor, (size_t)room * sizeof *more);
        if (!more) return err_set(e, ERR_NO_MEMORY, "no memory for %d tensors", room);
        s->tensor = more;
        s->tensor_room = room;
    }
    struct tensor *t = &s->tensor[s->ntensors];
    *t = x->t;
    t->name = arena_strndup(s->names, x->name.s, x->name.len);
    if (!t->name) return err_set(e, ERR_NO_MEMORY, "no memory for the names of %d tensors", s->ntensors);
    s->ntensors++;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* Sorted by place, each begins where the one before it ended, and the last ends with the file. What overlaps leaves a
 * hole where it belongs, so overlaps are looked for first. */
static int check_tiling(const struct source *s, int first, const char *where, const uint8_t *data, size_t room,
                        struct err *e)
{
    const uint8_t *at = data;
    if (s->ntensors > first) qsort(s->tensor + first, (size_t)(s->ntensors - first), sizeof *s->tensor, by_place);
    for (const struct tensor *t = s->tensor + first + 1; t < s->tensor + s->ntensors; t++)
        if (t->data < t[-1].data + t[-1].bytes)
            return err_set(e, ERR_MODEL, "%s: tensor %s overlaps tensor %s; download it again", where, t->name,
                           t[-1].name);
    for (int i = first; i < s->ntensors; i++) {
        const struct tensor *t = &s->tensor[i];
        if (t->data > at)
            return err_set(e, ERR_MODEL, "%s: a hole of %zu bytes between %s and tensor %s; download it again", where,
                           (size_t)(t->data - at), i > first ? t[-1].name : "the header", t->name);
        at += t->bytes;
    }
    if ((size_t)(at - data) != room)
        return err_set(e, ERR_MODEL, "%s: %zu bytes after the last tensor belong to none; download it again", where,
                       room - (size_t)(at - data));
    return 0;
}

static int read_header(struct source *s, int shard, struct json_walk *w, const uint8_t *data, size_t room)
{
    bool more = true;
    if (walk_expect(w, '{')) return -1;
    if (walk_sees(w, '}')) return walk_expect(w, '}');
    while (more) {
        struct entry x = {.t = {.shard = shard}};
        if (walk_word(w, &x.name) || walk_expect(w, ':')) return -1;
        if (word_is(&x.name, "__metadata__")) {
            if (walk_skip(w)) return -1;
        } else {
            if (read_entry(w, &x) || check_entry(w, &x, room)) return -1;
            x.t.data = data + x.begin;
            if (append(s, &x, w->e)) return -1;
        }
        if (walk_next(w, '}', &more)) return -1;
    }
    return 0;
}

int st_shard(struct source *s, int shard, struct err *e)
{
    const struct mapped *m = &s->shard[shard];
    uint64_t len = 0;
    int first = s->ntensors;
    if (m->bytes < LENGTH_BYTES + 2)
        return err_set(e, ERR_MODEL, "%s is cut off: it has %zu bytes; download it again", m->name, m->bytes);
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) len = len << 8 | m->p[i];
    if (len > HEADER_MAX || len > m->bytes - LENGTH_BYTES)
        return err_set(e, ERR_MODEL,
                       "%s: a header of %llu bytes in a file of %zu: no safetensors file, or cut off; download it "
                       "again",
                       m->name, (unsigned long long)len, m->bytes);
    const char *text = (const char *)m->p + LENGTH_BYTES;
    const uint8_t *data = m->p + LENGTH_BYTES + len;
    size_t room = m->bytes - LENGTH_BYTES - (size_t)len;
    struct json_walk w = {text, text, text + len, m->name, e};
    if (read_header(s, shard, &w, data, room)) return -1;
    return check_tiling(s, first, m->name, data, room, e);
}

/* --- elements --- */

bool dtype_is_float(enum dtype t)
{
    return t == D_F32 || t == D_F16 || t == D_BF16;
}

static float of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Exponent and mantissa moved to their places and the bias put right by a multiplication, which is exact and does subnormals too.
 * What has the highest exponent is refused by the caller. */
static float of_half(uint16_t h)
{
    return of_bits((uint32_t)(h & 0x8000) << 16 | (uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
}

/* One loop for each type: inlined with the type known. Returns whether something was not finite. */
static inline __attribute__((always_inline)) uint32_t read_run(enum dtype t, const uint8_t *p, size_t step, int n,
                                                               float *out)
{
    uint32_t wild = 0, word;
    for (int i = 0; i < n; i++, p += step) {
        uint16_t h = 0;
        if (t == D_F32)
            memcpy(&word, p, sizeof word);
        else
            memcpy(&h, p, sizeof h);
        if (t == D_BF16) word = (uint32_t)h << 16;
        wild |= t == D_F16 ? (h & 0x7c00) == 0x7c00 : (word & 0x7f800000) == 0x7f800000;
        out[i] = t == D_F16 ? of_half(h) : of_bits(word);
    }
    return wild;
}

int floats_read(enum dtype t, const uint8_t *data, int64_t from, int64_t stride, int n, float *out)
{
    const uint8_t *p = data + (size_t)from * dtype_bytes[t];
    size_t step = (size_t)stride * dtype_bytes[t];
    uint32_t wild = 0;
    if (t == D_F32)
        wild = read_run(D_F32, p, step, n, out);
    else if (t == D_BF16)
        wild = read_run(D_BF16, p, step, n, out);
    else
        wild = read_run(D_F16, p, step, n, out);
    return wild ? -1 : 0;
}

float scale_at(const struct tensor *t, int64_t i)
{
    float f = 0;
    if (t->dtype == D_E8M0)
        return t->data[i] == 255 ? of_bits(0x7fc00000) : t->data[i] ? of_bits((uint32_t)t->data[i] << 23) : 0x1p-127f;
    return floats_read(t->dtype, t->data, i, 1, 1, &f) ? of_bits(0x7fc00000) : f;
}
