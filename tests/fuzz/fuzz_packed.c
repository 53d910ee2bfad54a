/* A packed model file: what is opened has entries with names in order, each within the file, whose bytes can all be read, weights to their last row; what verifies has the sums
 * that it says. Input: a byte of bits (1 the head's length and 2 all sums are made right, 4 the file as another program could leave it: cut in half), then the file. */
#include "base/sha256.h"
#include "engine/packed_impl.h"
#include "tests/fuzz/fuzz.h"
#include <errno.h>
#include <pthread.h>

#define ROW_MAX (1 << 16)

/* The caller works alone (parts.mk: --wrap): threads of an input's own would cost more than the look. */
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *u);
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *u)
{
    (void)t, (void)a, (void)fn, (void)u;
    return EAGAIN;
}

/* Sums of what lies within the file. */
static void make_sums(uint8_t *file, size_t n)
{
    struct packed_head *h = (struct packed_head *)file;
    size_t room = h->index <= n ? (n - h->index) / sizeof(struct packed_entry) : 0;
    bool all = h->entries <= room && h->index % 64 == 0;
    for (size_t i = 0; all && i < h->entries; i++) {
        struct packed_entry *it = (struct packed_entry *)(file + h->index) + i;
        all = it->offset <= n && it->bytes <= n - it->offset;
        if (all) sha256_of(file + it->offset, it->bytes, it->sha256);
    }
    all = all && h->meta <= n && h->meta_bytes <= n - h->meta;
    if (all) packed_seal(h, file + h->meta, file + h->index, h->sha256);
}

/* Whether a sum is the one of what lies there, by another look than packed_verify()'s. */
static bool sums_hold(const struct packed *p)
{
    uint8_t sum[SHA256_BYTES];
    bool hold = true;
    for (int i = 0; i < p->count; i++) {
        sha256_of(p->map + p->entry[i]->offset, p->entry[i]->bytes, sum);
        hold = hold && !memcmp(sum, p->entry[i]->sha256, sizeof sum);
    }
    const struct packed_head *h = (const struct packed_head *)p->map;
    packed_seal(h, p->map + h->meta, p->map + h->index, sum);
    return hold && !memcmp(sum, h->sha256, sizeof sum);
}

static unsigned add_up(const void *bytes, size_t n)
{
    unsigned sum = 0;
    for (size_t i = 0; i < n; i++) sum += ((const uint8_t *)bytes)[i];
    return sum;
}

static void check_weight(const struct packed *p, const char *name)
{
    static float row[ROW_MAX];
    struct weight w;
    FUZZ_NEED(packed_weight(p, name, &w) && w.n >= 1 && w.k >= 1 && w.bytes <= p->size);
    FUZZ_NEED((const char *)w.data >= p->map && (const char *)w.data + w.bytes <= p->map + p->size);
    if (w.k <= ROW_MAX) weight_row(&w, 0, row), weight_row(&w, w.n - 1, row);
}

static unsigned check_entry(const struct packed *p, int i)
{
    enum packed_kind kind;
    const char *name = packed_name(p, i, &kind);
    const void *bytes;
    const float *v;
    size_t n;
    int count;
    FUZZ_NEED(name[0] && strlen(name) <= PACKED_NAME_MAX && (i == 0 || strcmp(packed_name(p, i - 1, NULL), name) < 0));
    FUZZ_NEED(packed_blob(p, name, &bytes, &n) == (kind == PACKED_BLOB) && packed_vector(p, name, &v, &count) == (kind == PACKED_VECTOR));
    if (kind == PACKED_WEIGHT) check_weight(p, name);
    if (kind == PACKED_BLOB) return add_up(bytes, n);
    return kind == PACKED_VECTOR ? add_up(v, (size_t)count * sizeof *v) : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct fuzz_file file;
    static volatile unsigned seen;
    struct packed *p = NULL;
    struct err e = {0};
    char hex[65];
    unsigned how = fuzz_byte(&data, &n);
    uint8_t *bytes = aligned_alloc(64, (n + 63) / 64 * 64 + 64);
    FUZZ_NEED(bytes);
    if (n) memcpy(bytes, data, n);
    bool whole = n >= sizeof(struct packed_head);
    size_t len = how & 4 ? n / 2 : n;
    if (whole && how & 1) ((struct packed_head *)bytes)->file_bytes = n;
    if (whole && how & 2) make_sums(bytes, n);
    fuzz_file_fill(&file, bytes, len);
    if (packed_open(&p, file.path, &e)) {
        FUZZ_NEED(e.code == ERR_MODEL && e.msg[0] && !p);
    } else {
        FUZZ_NEED(packed_is(p->map, p->size) && p->size == len && json_is_object(packed_meta(p)) && packed_count(p) >= 0);
        for (int i = 0; i < packed_count(p); i++) seen += check_entry(p, i);
        bool verified = packed_verify(p, &e) == 0;
        FUZZ_NEED(verified == (e.code == ERR_NONE) && verified == sums_hold(p) && (verified || e.msg[0]));
        FUZZ_NEED(packed_digest(p, hex, &e) == 0 && sha256_is_hex(hex));
        packed_close(p);
    }
    free(bytes);
    return 0;
}
