/* GGUF: one file that holds a model's settings, vocabulary and weights.
 *
 *     "GGUF" | version | tensor count | key count | keys: name, type, value | tensors: name, dims, type, offset | pad | data
 *
 * The file is mapped read-only and walked once, front to back, by a cursor that knows where the file ends: every length in it is
 * compared with what is left before it is used, and every product is taken with overflow checks. What the walk leaves behind are two
 * sorted tables (keys, tensors) whose entries point into the mapping; nothing is copied but what the array getters hand out.
 *
 * Guaranteed: a pointer and length that this module gives out lie inside the mapping; key and tensor names are unique; a tensor's
 * bytes are aligned as the file promises, so a float may be read where it lies.
 *
 * Refused: version 1 (32-bit lengths, not made since 2023), big-endian files, nested arrays, parts of split
 * models, types whose size isn't known.
 *
 * Not defended against: somebody who shortens the file while it is mapped (SIGBUS). A base model is the operator's own file.
 *
 * After gguf_open() the object is immutable: any thread may read. Format: ggml's docs/gguf.md. */
#include "engine/gguf.h"
#include "adapters/safetensors.h"
#include "base/sha256.h"
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_BYTES_MAX 65535 /* the format's own bound */
#define NAME_BYTES_MAX 256  /* of a tensor; ggml's is 63 */
#define ALIGN_DEFAULT 32
#define ALIGN_MAX 65536
#define DIGEST_CHUNK (1u << 20)

enum kind { K_U8, K_I8, K_U16, K_I16, K_U32, K_I32, K_F32, K_BOOL, K_STR, K_ARRAY, K_U64, K_I64, K_F64, KINDS };

static const struct {
    const char *name;
    uint8_t bytes; /* 0: not a scalar */
} kinds[KINDS] = {
    [K_U8] = {"u8", 1},      [K_I8] = {"i8", 1},       [K_U16] = {"u16", 2}, [K_I16] = {"i16", 2},
    [K_U32] = {"u32", 4},    [K_I32] = {"i32", 4},     [K_F32] = {"f32", 4}, [K_BOOL] = {"bool", 1},
    [K_STR] = {"string", 0}, [K_ARRAY] = {"array", 0}, [K_U64] = {"u64", 8}, [K_I64] = {"i64", 8},
    [K_F64] = {"f64", 8},
};

/* ggml's tensor types: how many values a block holds and how many bytes it takes (ggml-common.h). Which of them are served is
 * quant_ggml's affair; the others are known so that a file that holds one is refused by its name. */
static const struct type_row {
    int number;
    const char *name;
    int16_t block, bytes;
} types[] = {
    {0, "F32", 1, 4},         {1, "F16", 1, 2},         {2, "Q4_0", 32, 18},      {3, "Q4_1", 32, 20},
    {6, "Q5_0", 32, 22},      {7, "Q5_1", 32, 24},      {8, "Q8_0", 32, 34},      {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110},   {12, "Q4_K", 256, 144},   {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},   {15, "Q8_K", 256, 292},   {16, "IQ2_XXS", 256, 66}, {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50},   {20, "IQ4_NL", 32, 18},   {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},   {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1},         {25, "I16", 1, 2},
    {26, "I32", 1, 4},        {27, "I64", 1, 8},        {28, "F64", 1, 8},        {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2},       {34, "TQ1_0", 256, 54},   {35, "TQ2_0", 256, 66},   {39, "MXFP4", 32, 17},
    {40, "NVFP4", 64, 36},    {41, "Q1_0", 128, 18},
};

struct kv {
    struct gguf_str key;
    uint32_t kind;
    uint32_t item;        /* kind of an array's elements */
    uint64_t count;       /* of an array's elements; a string's length */
    const uint8_t *value; /* first byte: of the scalar, the string's text, the array's first element */
};

struct gguf {
    const uint8_t *map;
    size_t size;
    bool borrowed;   /* the bytes are somebody else's */
    size_t keys_end; /* where the keys end */
    int nkv, ntensors;
    struct kv *kv;               /* sorted by key */
    struct gguf_tensor *tensors; /* sorted by name */
};

struct cursor {
    const uint8_t *p;
    size_t left;
    const char *where; /* what is being read, for messages */
    struct err *e;
};

/* --- small helpers --- */

/* A name as it may stand in a message: cut, and only printable ASCII. */
struct shown {
    char s[80];
};

static struct shown show(struct gguf_str n)
{
    struct shown o;
    size_t i, len = n.len < sizeof o.s - 4 ? n.len : sizeof o.s - 4;
    for (i = 0; i < len; i++) o.s[i] = n.s[i] >= 32 && n.s[i] < 127 ? n.s[i] : '?';
    if (len < n.len) {
        memcpy(o.s + len, "...", 3);
        len += 3;
    }
    o.s[len] = 0;
    return o;
}

static int compare_str(struct gguf_str a, struct gguf_str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int c = n ? memcmp(a.s, b.s, n) : 0;
    return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int compare_kv(const void *a, const void *b)
{
    return compare_str(((const struct kv *)a)->key, ((const struct kv *)b)->key);
}

static int compare_tensor(const void *a, const void *b)
{
    return compare_str(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static const struct type_row *find_type(int number)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].number == number) return &types[i];
    return NULL;
}

/* --- the walk --- */

/* The next n bytes, or NULL. */
static const uint8_t *take(struct cursor *c, uint64_t n)
{
    const uint8_t *p = c->p;
    if (n > c->left) {
        err_set(c->e, ERR_MODEL, "GGUF: the file ends inside %s (%llu bytes wanted, %zu left); download it again",
                c->where, (unsigned long long)n, c->left);
        return NULL;
    }
    c->p += n;
    c->left -= n;
    return p;
}

static int take_u32(struct cursor *c, uint32_t *out)
{
    const uint8_t *p = take(c, sizeof *out);
    if (!p) return -1;
    memcpy(out, p, sizeof *out);
    return 0;
}

static int take_u64(struct cursor *c, uint64_t *out)
{
    const uint8_t *p = take(c, sizeof *out);
    if (!p) return -1;
    memcpy(out, p, sizeof *out);
    return 0;
}

static int take_str(struct cursor *c, struct gguf_str *out)
{
    uint64_t n = 0;
    const uint8_t *p = take_u64(c, &n) ? NULL : take(c, n);
    if (!p) return -1;
    *out = (struct gguf_str){(const char *)p, n};
    return 0;
}

static int take_array(struct cursor *c, struct kv *v)
{
    if (take_u32(c, &v->item) || take_u64(c, &v->count)) return -1;
    if (v->count > GGUF_ARRAY_MAX)
        return err_set(c->e, ERR_MODEL, "GGUF: key \"%s\" is an array of %llu elements, more than %u", show(v->key).s,
                       (unsigned long long)v->count, GGUF_ARRAY_MAX);
    v->value = c->p;
    if (v->item < KINDS && kinds[v->item].bytes) return take(c, v->count * kinds[v->item].bytes) ? 0 : -1;
    if (v->item != K_STR)
        return err_set(c->e, ERR_MODEL, "GGUF: key \"%s\" is an array of type %u, which is not served", show(v->key).s,
                       v->item);
    for (uint64_t i = 0; i < v->count; i++) {
        struct gguf_str s;
        if (take_str(c, &s)) return -1;
    }
    return 0;
}

static int take_kv(struct cursor *c, struct kv *v)
{
    struct gguf_str s;
    if (take_str(c, &v->key)) return -1;
    if (v->key.len == 0 || v->key.len > KEY_BYTES_MAX)
        return err_set(c->e, ERR_MODEL, "GGUF: a key's name is %zu bytes long, 1 to %d are allowed", v->key.len,
                       KEY_BYTES_MAX);
    if (take_u32(c, &v->kind)) return -1;
    if (v->kind == K_ARRAY) return take_array(c, v);
    if (v->kind == K_STR) {
        if (take_str(c, &s)) return -1;
        v->value = (const uint8_t *)s.s;
        v->count = s.len;
        return 0;
    }
    if (v->kind >= KINDS)
        return err_set(c->e, ERR_MODEL, "GGUF: key \"%s\" has the unknown type %u", show(v->key).s, v->kind);
    v->value = take(c, kinds[v->kind].bytes);
    return v->value ? 0 : -1;
}

static int read_keys(struct gguf *g, struct cursor *c)
{
    c->where = "the keys";
    for (int i = 0; i < g->nkv; i++)
        if (take_kv(c, &g->kv[i])) return -1;
    qsort(g->kv, (size_t)g->nkv, sizeof *g->kv, compare_kv);
    for (int i = 1; i < g->nkv; i++)
        if (!compare_kv(&g->kv[i - 1], &g->kv[i]))
            return err_set(c->e, ERR_MODEL, "GGUF: key \"%s\" stands there twice", show(g->kv[i].key).s);
    return 0;
}

/* dims and type -> bytes. */
static int measure(struct gguf_tensor *t, struct err *e)
{
    const struct type_row *r = find_type(t->type);
    int64_t n = 1;
    size_t bytes;
    if (!r)
        return err_set(e, ERR_MODEL, "GGUF: tensor \"%s\" has the unknown type %u; convert the model to Q8_0 or Q4_K_M",
                       show(t->name).s, (unsigned)t->type);
    for (int i = 0; i < t->ndim; i++)
        if (t->dim[i] <= 0 || __builtin_mul_overflow(n, t->dim[i], &n))
            return err_set(e, ERR_MODEL, "GGUF: tensor \"%s\" has an impossible shape", show(t->name).s);
    if (t->dim[0] % r->block)
        return err_set(e, ERR_MODEL, "GGUF: tensor \"%s\" has rows of %lld values, no multiple of %s's blocks of %d",
                       show(t->name).s, (long long)t->dim[0], r->name, r->block);
    if (__builtin_mul_overflow((size_t)(n / r->block), (size_t)r->bytes, &bytes))
        return err_set(e, ERR_MODEL, "GGUF: tensor \"%s\" has an impossible shape", show(t->name).s);
    t->bytes = bytes;
    return 0;
}

/* The offset counts from where the data begins, which is known only after the last entry of the list. */
static int take_tensor(struct cursor *c, struct gguf_tensor *t, uint64_t *offset)
{
    uint32_t ndim = 0, type = 0;
    uint64_t d = 0;
    if (take_str(c, &t->name)) return -1;
    if (t->name.len == 0 || t->name.len > NAME_BYTES_MAX)
        return err_set(c->e, ERR_MODEL, "GGUF: a tensor's name is %zu bytes long, 1 to %d are allowed", t->name.len,
                       NAME_BYTES_MAX);
    if (take_u32(c, &ndim)) return -1;
    if (ndim < 1 || ndim > 4)
        return err_set(c->e, ERR_MODEL, "GGUF: tensor \"%s\" has %u dimensions, 1 to 4 are allowed", show(t->name).s,
                       ndim);
    t->ndim = (int)ndim;
    for (int i = 0; i < 4; i++) t->dim[i] = 1;
    for (uint32_t i = 0; i < ndim; i++) {
        if (take_u64(c, &d)) return -1;
        t->dim[i] = d > INT64_MAX ? -1 : (int64_t)d; /* -1 is refused by measure() */
    }
    if (take_u32(c, &type) || take_u64(c, offset)) return -1;
    t->type = (int)type; /* of a large one none is found */
    return measure(t, c->e);
}

/* In the file's order, each tensor must begin where the one before it ended, filled up to the alignment: as ggml writes
 * and llama.cpp demands. So no two share a byte. */
static int check_tiling(const struct gguf *g, const uint64_t *offset, uint64_t align, struct err *e)
{
    uint64_t at = 0;
    for (int i = 0; i < g->ntensors; i++) {
        if (offset[i] != at)
            return err_set(
                e, ERR_MODEL,
                "GGUF: tensor \"%s\" starts at %llu, %s what stands before it (\"%s\" ends at %llu); the file is "
                "damaged: convert or download it again",
                show(g->tensors[i].name).s, (unsigned long long)offset[i],
                offset[i] < at ? "on top of" : "with a hole behind", i ? show(g->tensors[i - 1].name).s : "the list",
                (unsigned long long)at);
        at += (g->tensors[i].bytes + align - 1) & ~(align - 1);
    }
    return 0;
}

static int place_tensor(struct gguf_tensor *t, const uint8_t *data, size_t room, uint64_t offset, uint64_t align,
                        struct err *e)
{
    if (offset % align)
        return err_set(e, ERR_MODEL, "GGUF: tensor \"%s\" starts at %llu, no multiple of %llu", show(t->name).s,
                       (unsigned long long)offset, (unsigned long long)align);
    if (offset > room || t->bytes > room - offset)
        return err_set(
            e, ERR_MODEL,
            "GGUF: tensor \"%s\" (%zu bytes at %llu) reaches beyond the file's %zu bytes of data; download it again",
            show(t->name).s, t->bytes, (unsigned long long)offset, room);
    t->data = data + offset;
    return 0;
}

static int read_align(const struct gguf *g, uint64_t *align, struct err *e)
{
    *align = ALIGN_DEFAULT;
    if (gguf_has(g, "general.alignment") && gguf_u64(g, "general.alignment", align, e)) return -1;
    if (*align < 8 || *align > ALIGN_MAX || *align & (*align - 1))
        return err_set(e, ERR_MODEL, "GGUF: general.alignment is %llu, not a power of two from 8 to %d",
                       (unsigned long long)*align, ALIGN_MAX);
    return 0;
}

static int check_whole(const struct gguf *g, struct err *e)
{
    uint64_t parts = 1;
    if (gguf_has(g, "split.count") && gguf_u64(g, "split.count", &parts, e)) return -1;
    if (parts > 1)
        return err_set(e, ERR_MODEL,
                       "GGUF: one of %llu parts of a split model; merge them first (llama-gguf-split --merge)",
                       (unsigned long long)parts);
    return 0;
}

static int read_tensors(struct gguf *g, struct cursor *c)
{
    uint64_t align, *offset = calloc((size_t)g->ntensors + 1, sizeof *offset);
    int r = -1;
    if (!offset) return err_set(c->e, ERR_NO_MEMORY, "GGUF: out of memory for %d tensors", g->ntensors);
    c->where = "the tensors' list";
    for (int i = 0; i < g->ntensors; i++)
        if (take_tensor(c, &g->tensors[i], &offset[i])) goto out;
    if (read_align(g, &align, c->e) || check_whole(g, c->e)) goto out;

    size_t start = g->size - c->left, pad = (size_t)(-start & (align - 1));
    size_t room = c->left > pad ? c->left - pad : 0;
    for (int i = 0; i < g->ntensors; i++)
        if (place_tensor(&g->tensors[i], c->p + pad, room, offset[i], align, c->e)) goto out;
    if (check_tiling(g, offset, align, c->e)) goto out;
    qsort(g->tensors, (size_t)g->ntensors, sizeof *g->tensors, compare_tensor);
    for (int i = 1; i < g->ntensors; i++)
        if (!compare_tensor(&g->tensors[i - 1], &g->tensors[i])) {
            err_set(c->e, ERR_MODEL, "GGUF: tensor \"%s\" stands there twice", show(g->tensors[i].name).s);
            goto out;
        }
    r = 0;
out:
    free(offset);
    return r;
}

static int check_version(uint32_t version, struct err *e)
{
    if (version == 2 || version == 3) return 0;
    if (version != 0 && (version & 0xffff) == 0)
        return err_set(e, ERR_MODEL,
                       "GGUF: a big-endian file, which is not served; convert the model again without --bigendian");
    return err_set(e, ERR_MODEL, "GGUF: version %u, only 2 and 3 are served; convert the model again", version);
}

static int read_file(struct gguf *g, struct err *e)
{
    struct cursor c = {g->map, g->size, "the header", e};
    uint32_t version = 0;
    uint64_t ntensors = 0, nkv = 0;
    if (g->size >= LFS_LEN && !memcmp(g->map, LFS_MAGIC, LFS_LEN)) return err_set(e, ERR_MODEL, "it " LFS_TOLD);
    if (g->size < 4 || memcmp(g->map, "GGUF", 4))
        return err_set(e, ERR_MODEL,
                       "neither a GGUF file nor a packed one: it begins with neither \"GGUF\" nor \"WEFTPACK\"; of a "
                       "Hugging Face model give the folder");
    if (!take(&c, 4) || take_u32(&c, &version) || check_version(version, e)) return -1;
    if (take_u64(&c, &ntensors) || take_u64(&c, &nkv)) return -1;
    if (nkv > GGUF_KEYS_MAX || ntensors > GGUF_TENSORS_MAX)
        return err_set(e, ERR_MODEL, "GGUF: %llu keys and %llu tensors, at most %d and %d are served",
                       (unsigned long long)nkv, (unsigned long long)ntensors, GGUF_KEYS_MAX, GGUF_TENSORS_MAX);
    g->nkv = (int)nkv;
    g->ntensors = (int)ntensors;
    g->kv = calloc(nkv + 1, sizeof *g->kv);
    g->tensors = calloc(ntensors + 1, sizeof *g->tensors);
    if (!g->kv || !g->tensors) return err_set(e, ERR_NO_MEMORY, "GGUF: out of memory for its tables");
    if (read_keys(g, &c)) return -1;
    g->keys_end = g->size - c.left;
    return read_tensors(g, &c);
}

static int map_file(struct gguf *g, const char *path, struct err *e)
{
    struct stat st;
    int r = -1, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_errno(e, "cannot open the model file %s", path);
    if (fstat(fd, &st)) {
        err_errno(e, "cannot look at the model file %s", path);
    } else if (!S_ISREG(st.st_mode) || st.st_size <= 0) {
        err_set(e, ERR_MODEL,
                "%s is empty or not a regular file; give a GGUF file, a packed one, or the folder of a model", path);
    } else {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            err_errno(e, "cannot map the model file %s", path);
        } else {
            g->map = p;
            g->size = (size_t)st.st_size;
            r = 0;
        }
    }
    close(fd);
    return r;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NO_MEMORY, "GGUF: out of memory");
    if (map_file(g, path, e) || read_file(g, e)) {
        gguf_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

int gguf_open_memory(struct gguf **out, const void *bytes, size_t n, struct err *e)
{
    struct gguf *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NO_MEMORY, "GGUF: out of memory");
    g->map = bytes;
    g->size = n;
    g->borrowed = true;
    if (read_file(g, e)) {
        gguf_close(g);
        return -1;
    }
    *out = g;
    return 0;
}

int gguf_keys_only(const struct gguf *g, void **bytes, size_t *n, struct err *e)
{
    uint64_t ntensors = 0;
    size_t size = g->keys_end;
    uint8_t *b = malloc(size);
    if (!b) return err_set(e, ERR_NO_MEMORY, "GGUF: out of memory for %zu bytes of keys", size);
    memcpy(b, g->map, size);
    memcpy(b + 8, &ntensors, sizeof ntensors); /* behind "GGUF" and the version */
    *bytes = b;
    *n = size;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    if (g->map && !g->borrowed) munmap((void *)g->map, g->size);
    free(g->kv);
    free(g->tensors);
    free(g);
}

int gguf_digest(const struct gguf *g, char hex[65], struct err *e)
{
    struct sha256 h;
    uint8_t sum[SHA256_BYTES];
    (void)e; /* a mapping can be read or the process is gone; kept for a file that is read instead */
    sha256_init(&h);
    for (size_t at = 0; at < g->size; at += DIGEST_CHUNK)
        sha256_add(&h, g->map + at, g->size - at < DIGEST_CHUNK ? g->size - at : DIGEST_CHUNK);
    sha256_end(&h, sum);
    sha256_hex(sum, hex);
    return 0;
}

/* --- keys --- */

static const struct kv *find_kv(const struct gguf *g, const char *key)
{
    struct kv k = {.key = {key, strlen(key)}};
    return g->nkv ? bsearch(&k, g->kv, (size_t)g->nkv, sizeof k, compare_kv) : NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
    return find_kv(g, key) != NULL;
}

static const struct kv *need(const struct gguf *g, const char *key, struct err *e)
{
    const struct kv *v = find_kv(g, key);
    if (!v) err_set(e, ERR_MODEL, "GGUF: key \"%s\" is missing; convert the model again", key);
    return v;
}

static const struct kv *need_kind(const struct gguf *g, const char *key, enum kind kind, struct err *e)
{
    const struct kv *v = need(g, key, e);
    if (!v || v->kind == kind) return v;
    err_set(e, ERR_MODEL, "GGUF: key \"%s\" is of type %s, not %s", key, kinds[v->kind].name, kinds[kind].name);
    return NULL;
}

/* A number of any kind, exactly: as an integer where it is one, and as a double (nearest). */
struct number {
    bool integer, negative;
    uint64_t magnitude;
    double d;
};

#define LOAD(type, p)                                                                                                  \
    ({                                                                                                                 \
        type v_;                                                                                                       \
        memcpy(&v_, (p), sizeof v_);                                                                                   \
        v_;                                                                                                            \
    })

static struct number of_signed(int64_t v)
{
    return (struct number){true, v < 0, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, (double)v};
}

static struct number of_double(double d)
{
    struct number n = {.d = d, .negative = d < 0};
    n.integer = isfinite(d) && d == floor(d) && fabs(d) < 0x1p63;
    if (n.integer) n.magnitude = (uint64_t)fabs(d);
    return n;
}

static struct number load_number(uint32_t kind, const uint8_t *p)
{
    switch (kind) {
    case K_U8:
    case K_BOOL:
        return of_signed(*p);
    case K_I8:
        return of_signed((int8_t)*p);
    case K_U16:
        return of_signed(LOAD(uint16_t, p));
    case K_I16:
        return of_signed(LOAD(int16_t, p));
    case K_U32:
        return of_signed(LOAD(uint32_t, p));
    case K_I32:
        return of_signed(LOAD(int32_t, p));
    case K_I64:
        return of_signed(LOAD(int64_t, p));
    case K_U64:
        return (struct number){true, false, LOAD(uint64_t, p), (double)LOAD(uint64_t, p)};
    case K_F32:
        return of_double((double)LOAD(float, p));
    default:
        return of_double(LOAD(double, p));
    }
}

static bool is_number(uint32_t kind)
{
    return kind < KINDS && kinds[kind].bytes && kind != K_BOOL;
}

static int get_number(const struct gguf *g, const char *key, struct number *out, struct err *e)
{
    const struct kv *v = need(g, key, e);
    if (!v) return -1;
    if (!is_number(v->kind))
        return err_set(e, ERR_MODEL, "GGUF: key \"%s\" is of type %s, not a number", key, kinds[v->kind].name);
    *out = load_number(v->kind, v->value);
    return 0;
}

int gguf_u64(const struct gguf *g, const char *key, uint64_t *out, struct err *e)
{
    struct number n;
    if (get_number(g, key, &n, e)) return -1;
    if (!n.integer || (n.negative && n.magnitude))
        return err_set(e, ERR_MODEL, "GGUF: key \"%s\" is %g, not a whole number of 0 or more", key, n.d);
    *out = n.magnitude;
    return 0;
}

int gguf_f64(const struct gguf *g, const char *key, double *out, struct err *e)
{
    struct number n;
    if (get_number(g, key, &n, e)) return -1;
    *out = n.d;
    return 0;
}

int gguf_bool(const struct gguf *g, const char *key, bool *out, struct err *e)
{
    const struct kv *v = need_kind(g, key, K_BOOL, e);
    if (!v) return -1;
    *out = *v->value != 0;
    return 0;
}

int gguf_string(const struct gguf *g, const char *key, struct gguf_str *out, struct err *e)
{
    const struct kv *v = need_kind(g, key, K_STR, e);
    if (!v) return -1;
    *out = (struct gguf_str){(const char *)v->value, v->count};
    return 0;
}

/* --- arrays --- */

int gguf_array_len(const struct gguf *g, const char *key, size_t *n, struct err *e)
{
    const struct kv *v = need_kind(g, key, K_ARRAY, e);
    if (!v) return -1;
    *n = v->count;
    return 0;
}

/* An array whose elements `fits` accepts, and room for its elements of `size` bytes each. */
static const struct kv *open_array(const struct gguf *g, const char *key, bool strings, size_t size, void **room,
                                   struct err *e)
{
    const struct kv *v = need_kind(g, key, K_ARRAY, e);
    if (!v) return NULL;
    if (strings ? v->item != K_STR : !is_number(v->item) && v->item != K_BOOL) { /* truth values are 0 and 1 */
        err_set(e, ERR_MODEL, "GGUF: key \"%s\" is an array of %s, not of %s", key, kinds[v->item].name,
                strings ? "strings" : "numbers");
        return NULL;
    }
    *room = malloc(v->count * size + 1);
    if (*room) return v;
    err_set(e, ERR_NO_MEMORY, "GGUF: out of memory for the %llu elements of \"%s\"", (unsigned long long)v->count, key);
    return NULL;
}

int gguf_array_str(const struct gguf *g, const char *key, struct gguf_str **out, size_t *n, struct err *e)
{
    void *room;
    const struct kv *v = open_array(g, key, true, sizeof **out, &room, e);
    if (!v) return -1;
    struct gguf_str *s = room;
    const uint8_t *p = v->value;
    for (uint64_t i = 0; i < v->count; i++) { /* the walk has checked these lengths */
        s[i] = (struct gguf_str){(const char *)p + 8, LOAD(uint64_t, p)};
        p += 8 + s[i].len;
    }
    *out = s;
    *n = v->count;
    return 0;
}

int gguf_array_i32(const struct gguf *g, const char *key, int32_t **out, size_t *n, struct err *e)
{
    void *room;
    const struct kv *v = open_array(g, key, false, sizeof **out, &room, e);
    if (!v) return -1;
    int32_t *a = room;
    for (uint64_t i = 0; i < v->count; i++) {
        struct number x = load_number(v->item, v->value + i * kinds[v->item].bytes);
        if (!x.integer || x.magnitude > (uint64_t)INT32_MAX + x.negative) {
            free(room);
            return err_set(e, ERR_MODEL, "GGUF: element %llu of \"%s\" is %g, not a 32-bit integer",
                           (unsigned long long)i, key, x.d);
        }
        a[i] = (int32_t)(x.negative ? -(int64_t)x.magnitude : (int64_t)x.magnitude);
    }
    *out = a;
    *n = v->count;
    return 0;
}

int gguf_array_f32(const struct gguf *g, const char *key, float **out, size_t *n, struct err *e)
{
    void *room;
    const struct kv *v = open_array(g, key, false, sizeof **out, &room, e);
    if (!v) return -1;
    float *a = room;
    for (uint64_t i = 0; i < v->count; i++) a[i] = (float)load_number(v->item, v->value + i * kinds[v->item].bytes).d;
    *out = a;
    *n = v->count;
    return 0;
}

/* --- tensors --- */

int gguf_tensors(const struct gguf *g)
{
    return g->ntensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int i)
{
    return i >= 0 && i < g->ntensors ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_find(const struct gguf *g, const char *name)
{
    struct gguf_tensor t = {.name = {name, strlen(name)}};
    return g->ntensors ? bsearch(&t, g->tensors, (size_t)g->ntensors, sizeof t, compare_tensor) : NULL;
}

const char *gguf_type_name(int number)
{
    const struct type_row *r = find_type(number);
    return r ? r->name : "unknown";
}
