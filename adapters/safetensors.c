/* Safetensors files from strangers: map, check, and only then hand out pointers.
 *
 * The idea: the header is JSON from somebody we don't know, and every number in it is a promise about bytes. So each
 * tensor's entry is read with a fixed shape of its own (exactly dtype, shape, data_offsets), its size is computed with
 * overflow checks and compared with its offsets, and at the end the tensors, sorted by offset, must tile the data from
 * 0 to the last byte. After that a pointer into the map can't leave the map.
 *
 *     open, size -> header length -> JSON -> each entry -> tiling -> sorted by name
 *
 * Guarantees: nothing is allocated in proportion to a number that the file merely claims; a refused file leaves nothing
 * mapped; data of each tensor is aligned for its type (old writers don't pad the header: such tensors are copied
 * aside).
 *
 * Refuses: anything but F32, F16 and BF16 (a quantized adapter has scales we'd have to guess), tensors of no elements,
 * and bytes that belong to no tensor, so that a file can't be a valid archive or program at the same time.
 *
 * Threads: any; one st_file may be read by many. The file must not shrink while it is mapped: ours lie in folders that
 * no client can write to. */
#include "adapters/safetensors.h"
#include "base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define WHERE "adapter_model.safetensors"
#define AGAIN "; save it again by save_pretrained(), or download it again"
#define NAME_LEN_MAX 256
#define PATH_BYTES 4096
#define LENGTH_BYTES 8 /* the header's length stands before it */
#define DATA_ALIGN 64

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {[ST_F32] = {"F32", 4}, [ST_F16] = {"F16", 2}, [ST_BF16] = {"BF16", 2}};
#define DTYPES (int)(sizeof dtypes / sizeof *dtypes)

size_t st_dtype_bytes(enum st_dtype t)
{
    return dtypes[t].bytes;
}
const char *st_dtype_name(enum st_dtype t)
{
    return dtypes[t].name;
}

static int bad(struct err *e, const char *what, const char *tensor)
{
    return err_set(e, ERR_ADAPTER_INVALID, WHERE ": tensor %.*s: %s" AGAIN, NAME_LEN_MAX, tensor, what);
}

static bool name_ok(const char *s)
{
    size_t n = strlen(s);
    return n >= 1 && n <= NAME_LEN_MAX &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

/* --- one entry of the header --- */

static int entry_dtype(struct st_tensor *t, const json_t *v, struct err *e)
{
    const char *word = json_string_value(v);
    if (!word) return bad(e, "dtype is missing or not a string", t->name);
    for (int i = 0; i < DTYPES; i++)
        if (!strcmp(word, dtypes[i].name)) {
            t->dtype = (enum st_dtype)i;
            return 0;
        }
    return err_set(e, ERR_ADAPTER_INVALID,
                   WHERE ": tensor %s: dtype %.16s is not served; save the adapter as F32, "
                         "F16 or BF16",
                   t->name, word);
}

static int entry_shape(struct st_tensor *t, const json_t *v, struct err *e)
{
    if (!json_is_array(v)) return bad(e, "shape is missing or not a list", t->name);
    size_t n = json_array_size(v);
    if (n < 1 || n > 2)
        return err_set(e, ERR_ADAPTER_INVALID, WHERE ": tensor %s has %zu dimensions, not 1 or 2" AGAIN, t->name, n);
    t->ndim = (int)n;
    t->dim[1] = 1;
    t->bytes = st_dtype_bytes(t->dtype);
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(v, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0) return bad(e, "shape is not a list of sizes", t->name);
        t->dim[i] = json_integer_value(d);
        if (t->dim[i] == 0) return bad(e, "a dimension is 0", t->name);
        if (__builtin_mul_overflow(t->bytes, (size_t)t->dim[i], &t->bytes) || t->bytes > INT64_MAX)
            return bad(e, "its dimensions overflow", t->name);
    }
    return 0;
}

/* The tensor's place in the data: *begin, and t->bytes checked against the end. */
static int entry_offsets(const struct st_tensor *t, const json_t *v, size_t data_bytes, size_t *begin, struct err *e)
{
    const json_t *b = json_array_get(v, 0), *z = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(z))
        return bad(e, "data_offsets is not [begin, end]", t->name);
    json_int_t from = json_integer_value(b), to = json_integer_value(z);
    if (from < 0 || to < from) return bad(e, "data_offsets run backwards", t->name);
    if ((uint64_t)to > data_bytes)
        return err_set(e, ERR_ADAPTER_INVALID,
                       WHERE ": tensor %s ends at byte %lld of the data, which has %zu: the file is cut off" AGAIN,
                       t->name, (long long)to, data_bytes);
    if ((uint64_t)(to - from) != t->bytes)
        return err_set(e, ERR_ADAPTER_INVALID,
                       WHERE ": tensor %s: data_offsets hold %lld bytes, its shape needs %zu" AGAIN, t->name,
                       (long long)(to - from), t->bytes);
    *begin = (size_t)from;
    return 0;
}

static int entry(struct st_tensor *t, const char *key, const json_t *v, const char *data, size_t data_bytes,
                 struct err *e)
{
    if (!name_ok(key)) {
        err_set(e, ERR_ADAPTER_INVALID, WHERE ": a tensor's name is not 1 to %d characters of A-Z a-z 0-9 . _ -",
                NAME_LEN_MAX);
        return -1;
    }
    t->name = key; /* the JSON's, until names() copies it */
    if (!json_is_object(v)) return bad(e, "its entry is not an object", key);
    if (json_object_size(v) > 3) return bad(e, "its entry has more than dtype, shape and data_offsets", key);
    size_t begin = 0;
    if (entry_dtype(t, json_object_get(v, "dtype"), e) || entry_shape(t, json_object_get(v, "shape"), e) ||
        entry_offsets(t, json_object_get(v, "data_offsets"), data_bytes, &begin, e))
        return -1;
    t->data = data + begin;
    return 0;
}

static int metadata_check(const json_t *v, struct err *e)
{
    const char *key;
    json_t *s;
    if (!json_is_object(v)) return err_set(e, ERR_ADAPTER_INVALID, WHERE ": __metadata__ is not an object");
    json_object_foreach((json_t *)v, key, s) if (!json_is_string(s)) return err_set(
        e, ERR_ADAPTER_INVALID, WHERE ": __metadata__ holds something else than strings");
    return 0;
}

/* --- the whole --- */

static int by_place(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

/* Sorted by place, each tensor must begin where the one before it ended, and the last must end with the file. A tensor
 * that was moved leaves a hole as well, but what it lies on says more: so overlaps are looked for first. */
static int tiling_check(struct st_file *f, const char *data, size_t data_bytes, struct err *e)
{
    qsort(f->tensor, (size_t)f->ntensors, sizeof *f->tensor, by_place);
    const struct st_tensor *t = f->tensor;
    for (int i = 1; i < f->ntensors; i++)
        if ((const char *)t[i].data < (const char *)t[i - 1].data + t[i - 1].bytes)
            return err_set(e, ERR_ADAPTER_INVALID, WHERE ": tensor %s overlaps tensor %s" AGAIN, t[i].name,
                           t[i - 1].name);
    const char *at = data;
    for (int i = 0; i < f->ntensors; i++) {
        if ((const char *)t[i].data > at)
            return err_set(e, ERR_ADAPTER_INVALID, WHERE ": a hole of %zu bytes between %s and tensor %s" AGAIN,
                           (size_t)((const char *)t[i].data - at), i ? t[i - 1].name : "the header", t[i].name);
        at = (const char *)t[i].data + t[i].bytes;
    }
    size_t rest = data_bytes - (size_t)(at - data);
    return rest ? err_set(e, ERR_ADAPTER_INVALID, WHERE ": %zu bytes after the last tensor belong to none" AGAIN, rest)
                : 0;
}

/* Give the names a home of their own, so that the JSON can go. */
static int names_keep(struct st_file *f, struct err *e)
{
    size_t total = 0;
    for (int i = 0; i < f->ntensors; i++) total += strlen(f->tensor[i].name) + 1;
    f->names = malloc(total ? total : 1);
    if (!f->names) return err_set(e, ERR_NO_MEMORY, "out of memory for %zu bytes of tensor names", total);
    char *p = f->names;
    for (int i = 0; i < f->ntensors; i++) {
        size_t n = strlen(f->tensor[i].name) + 1;
        memcpy(p, f->tensor[i].name, n);
        f->tensor[i].name = p;
        p += n;
    }
    return 0;
}

static bool misaligned(const struct st_tensor *t)
{
    return (uintptr_t)t->data % st_dtype_bytes(t->dtype) != 0;
}

/* Copy the tensors that don't lie on a multiple of their element's size. */
static int data_align(struct st_file *f, struct err *e)
{
    size_t total = 0;
    for (int i = 0; i < f->ntensors; i++)
        if (misaligned(&f->tensor[i])) total += (f->tensor[i].bytes + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    if (!total) return 0;
    char *p = f->moved = aligned_alloc(DATA_ALIGN, total);
    if (!p) return err_set(e, ERR_NO_MEMORY, "out of memory for %zu bytes of misaligned tensors", total);
    for (int i = 0; i < f->ntensors; i++) {
        struct st_tensor *t = &f->tensor[i];
        if (!misaligned(t)) continue;
        memcpy(p, t->data, t->bytes);
        t->data = p;
        p += (t->bytes + DATA_ALIGN - 1) / DATA_ALIGN * DATA_ALIGN;
    }
    return 0;
}

static int entries(struct st_file *f, const json_t *header, const char *data, size_t data_bytes, struct err *e)
{
    size_t n = json_object_size(header);
    if (n > ST_TENSORS_MAX + 1)
        return err_set(e, ERR_ADAPTER_INVALID, WHERE ": %zu tensors, more than %d", n, ST_TENSORS_MAX);
    f->tensor = calloc(n ? n : 1, sizeof *f->tensor);
    if (!f->tensor) return err_set(e, ERR_NO_MEMORY, "out of memory for %zu tensors", n);
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)header, key, v)
    {
        if (!strcmp(key, "__metadata__")) {
            if (metadata_check(v, e)) return -1;
            continue;
        }
        if (f->ntensors == ST_TENSORS_MAX)
            return err_set(e, ERR_ADAPTER_INVALID, WHERE ": more than %d tensors", ST_TENSORS_MAX);
        if (entry(&f->tensor[f->ntensors], key, v, data, data_bytes, e)) return -1;
        f->ntensors++;
    }
    return tiling_check(f, data, data_bytes, e);
}

static int header_parse(const char *text, size_t len, json_t **out, struct err *e)
{
    struct err why = {0};
    if (text[0] != '{')
        return err_set(e, ERR_ADAPTER_INVALID, WHERE ": the header does not begin with {: no safetensors file" AGAIN);
    if (!json_parse(text, len, out, &why)) return 0;
    enum err_code code = why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_ADAPTER_INVALID;
    return err_set(e, code, WHERE ": the header is not valid: %.200s" AGAIN, why.msg);
}

static int parse(struct st_file *f, struct err *e)
{
    const unsigned char *p = f->map;
    uint64_t len = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) len = len << 8 | p[i];
    if (f->file_bytes >= LFS_LEN && !memcmp(p, LFS_MAGIC, LFS_LEN))
        return err_set(e, ERR_ADAPTER_INVALID, WHERE " " LFS_TOLD);
    if (len > ST_HEADER_MAX)
        return err_set(e, ERR_ADAPTER_INVALID,
                       WHERE ": a header of %llu bytes, more than %u (not a safetensors file?)" AGAIN,
                       (unsigned long long)len, ST_HEADER_MAX);
    if (len < 2 || len > f->file_bytes - LENGTH_BYTES)
        return err_set(e, ERR_ADAPTER_INVALID, WHERE ": a header of %llu bytes in a file of %zu: it is cut off" AGAIN,
                       (unsigned long long)len, f->file_bytes);
    const char *text = (const char *)f->map + LENGTH_BYTES;
    json_t *header = NULL;
    if (header_parse(text, len, &header, e)) return -1;
    int rc = entries(f, header, text + len, f->file_bytes - LENGTH_BYTES - len, e);
    if (!rc) rc = names_keep(f, e);
    json_decref(header);
    return rc;
}

/* Pickled weights run code when they are read. */
static int missing(const char *path, struct err *e)
{
    char pickled[PATH_BYTES];
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    bool is = snprintf(pickled, sizeof pickled, "%.*sadapter_model.bin", folder, path) < PATH_BYTES &&
              access(pickled, F_OK) == 0;
    return err_set(e, ERR_ADAPTER_INVALID,
                   is ? WHERE " is missing: adapter_model.bin is pickled and not served; load it in PEFT and "
                              "save_pretrained(safe_serialization=True)"
                      : WHERE " is missing; save_pretrained() writes it beside adapter_config.json");
}

static int map_file(struct st_file *f, const char *path, struct err *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return missing(path, e);
    if (fd < 0 && errno == ELOOP)
        return err_set(e, ERR_ADAPTER_INVALID, WHERE " is a symbolic link; copy the file that it names to its place");
    if (fd < 0) return err_errno(e, "can't open " WHERE);
    int rc = -1;
    if (fstat(fd, &st)) {
        err_errno(e, "can't stat " WHERE);
    } else if (!S_ISREG(st.st_mode)) {
        err_set(e, ERR_ADAPTER_INVALID, WHERE " is not a plain file; put the file itself in its place");
    } else if (st.st_size < LENGTH_BYTES + 2) {
        err_set(e, ERR_ADAPTER_INVALID, WHERE ": a file of %lld bytes is cut off" AGAIN, (long long)st.st_size);
    } else {
        f->file_bytes = (size_t)st.st_size;
        file_id_of(&f->id, &st);
        void *map = mmap(NULL, f->file_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        rc = map == MAP_FAILED ? err_errno(e, "can't map " WHERE) : 0;
        if (!rc) f->map = map;
    }
    close(fd);
    return rc;
}

int st_open(struct st_file **out, const char *path, struct err *e)
{
    struct st_file *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NO_MEMORY, "out of memory for a weights file");
    if (map_file(f, path, e) || parse(f, e) || data_align(f, e)) {
        st_close(f);
        return -1;
    }
    qsort(f->tensor, (size_t)f->ntensors, sizeof *f->tensor, by_name);
    *out = f;
    return 0;
}

void st_close(struct st_file *f)
{
    if (!f) return;
    if (f->map) munmap((void *)(uintptr_t)f->map, f->file_bytes);
    free(f->tensor);
    free(f->names);
    free(f->moved);
    free(f);
}

const struct st_tensor *st_find(const struct st_file *f, const char *name)
{
    struct st_tensor key = {.name = name};
    return bsearch(&key, f->tensor, (size_t)f->ntensors, sizeof *f->tensor, by_name);
}

/* --- elements --- */

static float f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* IEEE 754 binary16. A subnormal is its mantissa times 2^-24, which float holds exactly. */
static float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31) return f32_from_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float x = (float)mantissa * 0x1p-24f;
    return sign ? -x : x;
}

float st_get(const struct st_tensor *t, int64_t i)
{
    if (t->dtype == ST_F32) return ((const float *)t->data)[i];
    uint16_t h = ((const uint16_t *)t->data)[i];
    return t->dtype == ST_BF16 ? f32_from_bits((uint32_t)h << 16) : f16_to_f32(h);
}

/* Work on blocks whose length the compiler knows, and only OR the verdicts together: so it becomes a few vector
 * instructions per 16 bytes. Sign removed, the bits of all three formats order as integers do, with Inf and NaN on top.
 */
#define BLOCK 1024

#define DEFINE_BLOCK_BEYOND(bits)                                                                                      \
    static bool block_beyond##bits(const int##bits##_t *p, int##bits##_t limit, size_t n)                              \
    {                                                                                                                  \
        int##bits##_t over = 0;                                                                                        \
        if (n == BLOCK)                                                                                                \
            for (size_t i = 0; i < BLOCK; i++) over |= (int##bits##_t) - ((p[i] & INT##bits##_MAX) > limit);           \
        else                                                                                                           \
            for (size_t i = 0; i < n; i++) over |= (int##bits##_t) - ((p[i] & INT##bits##_MAX) > limit);               \
        return over != 0;                                                                                              \
    }
DEFINE_BLOCK_BEYOND(16)
DEFINE_BLOCK_BEYOND(32)

static const int32_t bits_of_max[] = {
    [ST_F32] = 0x461c4000, [ST_F16] = 0x70e2, [ST_BF16] = 0x461c}; /* of ST_VALUE_MAX */

static bool block_beyond(const struct st_tensor *t, int64_t from, size_t n)
{
    if (t->dtype == ST_F32) return block_beyond32((const int32_t *)t->data + from, bits_of_max[ST_F32], n);
    return block_beyond16((const int16_t *)t->data + from, (int16_t)bits_of_max[t->dtype], n);
}

int64_t st_first_beyond(const struct st_tensor *t)
{
    int64_t count = (int64_t)(t->bytes / st_dtype_bytes(t->dtype));
    for (int64_t i = 0; i < count; i += BLOCK) {
        size_t n = count - i < BLOCK ? (size_t)(count - i) : BLOCK;
        if (!block_beyond(t, i, n)) continue;
        while (!block_beyond(t, i, 1)) i++;
        return i;
    }
    return -1;
}
