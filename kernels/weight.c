/* Packing of a model's matrices, once at load.
 *
 * A row of `layouts` says what a layout needs; `source_of` which one a source type goes to. Memory: most matrices of a
 * small model are smaller than a 2 MB page, so weights packed one after the other share blocks of BLOCK_BYTES, each
 * freed with its last weight. That also puts the matrices of a layer next to each other, in the order in which the step
 * reads them.
 *
 * Threads: packing and closing may happen on several at once (a lock guards the blocks); reading needs none. */
#include "kernels/convert.h"
#include "kernels/pack.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define BLOCK_BYTES ((size_t)32 << 20)
#define N_MAX (1 << 24)
#define K_MAX (1 << 20)

static const struct {
    const char *name;
    int block; /* elements that share a block */
    int block_bytes;
    enum layout fast, exact;
} source_of[] = {
    [T_F32] = {"F32", 1, 4, LAYOUT_BF16, LAYOUT_F32},   [T_F16] = {"F16", 1, 2, LAYOUT_BF16, LAYOUT_F32},
    [T_BF16] = {"BF16", 1, 2, LAYOUT_BF16, LAYOUT_F32}, [T_Q8_0] = {"Q8_0", 32, 34, LAYOUT_Q8, LAYOUT_Q8},
    [T_Q4_0] = {"Q4_0", 32, 18, LAYOUT_Q4, LAYOUT_Q4},  [T_Q4_1] = {"Q4_1", 32, 20, LAYOUT_Q4, LAYOUT_Q4},
};

static const struct {
    int unit;       /* k must be a multiple of it */
    int unit_bytes; /* of one panel per `unit` inputs */
    pack_panel_fn *pack;
    void (*row)(const void *panel, int o, int k, float *out);
} layouts[LAYOUTS] = {
    [LAYOUT_F32] = {2, PANEL * 8, pack_panel_f32, unpack_row_f32},
    [LAYOUT_BF16] = {2, PANEL * 4, pack_panel_bf16, unpack_row_bf16},
    [LAYOUT_Q8] = {GROUP, Q8_GROUP_BYTES, pack_panel_q8, unpack_row_q8},
    [LAYOUT_Q4] = {GROUP, Q4_GROUP_BYTES, pack_panel_q4, unpack_row_q4},
};

struct block {
    size_t bytes, used;
    int weights; /* that live in it; the current block counts as one more */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *current; /* the one that takes new weights */

static void drop_locked(struct block *b)
{
    if (--b->weights == 0) big_free(b, b->bytes);
}

static struct block *new_block(size_t bytes)
{
    struct block *b = big_alloc(bytes);
    if (b) *b = (struct block){.bytes = bytes, .used = 64, .weights = 1};
    return b;
}

/* The block that the next weight goes into; a big one gets its own. */
static struct block *block_for(size_t bytes)
{
    if (bytes > BLOCK_BYTES / 4) return new_block(bytes + 64);
    if (!current || current->used + bytes > current->bytes) {
        struct block *fresh = new_block(BLOCK_BYTES);
        if (!fresh) return NULL;
        if (current) drop_locked(current);
        current = fresh;
    }
    current->weights++;
    return current;
}

void *block_take(size_t bytes, void **block)
{
    pthread_mutex_lock(&lock);
    struct block *b = block_for(bytes);
    void *p = b ? (char *)b + b->used : NULL;
    if (b) b->used += (bytes + 63) / 64 * 64;
    pthread_mutex_unlock(&lock);
    *block = b;
    return p;
}

void block_drop(void *block)
{
    if (!block) return;
    pthread_mutex_lock(&lock);
    drop_locked(block);
    if (current && current->weights == 1) { /* nobody lives in it any more */
        drop_locked(current);
        current = NULL;
    }
    pthread_mutex_unlock(&lock);
}

size_t tensor_bytes(enum tensor_type type, int64_t n, int64_t k)
{
    if (n < 1 || k < 1 || n > N_MAX || k > K_MAX || k % source_of[type].block) return 0;
    return (size_t)n * (size_t)(k / source_of[type].block) * (size_t)source_of[type].block_bytes;
}

static int check_shape(enum tensor_type type, int n, int k, enum layout layout, struct err *e)
{
    if (n < 1 || n > N_MAX) return err_set(e, ERR_MODEL, "a matrix with %d outputs: 1 to %d are served", n, N_MAX);
    if (k < 1 || k > K_MAX) return err_set(e, ERR_MODEL, "a matrix with %d inputs: 1 to %d are served", k, K_MAX);
    if (k % layouts[layout].unit)
        return err_set(e, ERR_MODEL, "a %s matrix with %d inputs: they must be a multiple of %d", source_of[type].name,
                       k, layouts[layout].unit);
    return 0;
}

static int pack_panels(const struct weight *w, enum tensor_type type, const char *src, const int *row_of)
{
    size_t row_bytes = tensor_bytes(type, 1, w->k);
    for (int n0 = 0; n0 < w->n; n0 += PANEL) {
        const char *row[PANEL];
        int count = w->n - n0 < PANEL ? w->n - n0 : PANEL;
        for (int o = 0; o < count; o++) row[o] = src + (size_t)(row_of ? row_of[n0 + o] : n0 + o) * row_bytes;
        char *panel = (char *)w->data + (size_t)(n0 / PANEL) * w->panel_bytes;
        if (layouts[w->layout].pack(panel, type, row, count, w->k)) return -1;
    }
    return 0;
}

int weight_pack(struct weight *out, enum tensor_type type, const void *src, int n, int k, const int *row_of,
                enum precision prec, struct err *e)
{
    enum layout layout = prec == PREC_FAST ? source_of[type].fast : source_of[type].exact;
    if (check_shape(type, n, k, layout, e)) return -1;
    struct weight w = {.layout = layout, .n = n, .k = k};
    w.panel_bytes = (size_t)(k / layouts[layout].unit) * (size_t)layouts[layout].unit_bytes;
    w.bytes = (size_t)((n + PANEL - 1) / PANEL) * w.panel_bytes;
    w.data = block_take(w.bytes, &w.block);
    if (!w.data) return err_set(e, ERR_NO_MEMORY, "no memory for a matrix of %d x %d (%zu bytes)", n, k, w.bytes);
    if (pack_panels(&w, type, src, row_of)) {
        weight_close(&w);
        return err_set(e, ERR_MODEL, "a %s matrix of %d x %d has a scale that is not finite", source_of[type].name, n,
                       k);
    }
    *out = w;
    return 0;
}

void weight_close(struct weight *w)
{
    block_drop(w->block);
    *w = (struct weight){0};
}

void weight_part(const struct weight *w, int panel, int o, int k0, int count, float *out)
{
    const char *start = (const char *)w->data + (size_t)panel * w->panel_bytes;
    start += (size_t)(k0 / layouts[w->layout].unit) * (size_t)layouts[w->layout].unit_bytes;
    layouts[w->layout].row(start, o, count, out);
}

void weight_row(const struct weight *w, int row, float *out)
{
    weight_part(w, row / PANEL, row % PANEL, 0, w->k, out);
}

void tensor_to_f32(enum tensor_type type, const void *src, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = tensor_element(type, src, (size_t)i);
}
