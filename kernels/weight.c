/* Packed matrices: what each layout takes (a row of `layouts`), reading them back, and their memory.
 *
 * Most matrices of a small model are smaller than a 2 MB page, so weights packed one after the other share blocks of
 * BLOCK_BYTES, each freed with its last weight. That also puts the matrices of a layer next to each other, in the order
 * in which the step reads them.
 *
 * Threads: packing and closing may happen on several at once (a lock guards the blocks); reading needs none. */
#include "kernels/ops.h"
#include "kernels/pack.h"
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)32 << 20)

const char *const layout_name[LAYOUTS] = {
    [LAYOUT_F32] = "f32", [LAYOUT_BF16] = "bf16", [LAYOUT_Q8] = "q8", [LAYOUT_Q4] = "q4", [LAYOUT_Q8F] = "q8f",
    [LAYOUT_Q4Z] = "q4z", [LAYOUT_T4] = "t4",     [LAYOUT_F8] = "f8", [LAYOUT_Q2] = "q2",
    [LAYOUT_S24] = "s24",
};

static const struct {
    int unit;       /* k must be a multiple of it */
    int unit_bytes; /* of one panel per `unit` inputs */
    unsigned form;  /* of activations, in FAST */
    unpack_row_fn *row;
} layouts[LAYOUTS] = {
    [LAYOUT_F32] = {2, PANEL * 8, 0, unpack_f32},
    [LAYOUT_BF16] = {2, PANEL * 4, ACT_BF16, unpack_bf16},
    [LAYOUT_Q8] = {GROUP, Q8_GROUP_BYTES, ACT_Q8, unpack_q8},
    [LAYOUT_Q4] = {GROUP, Q4_GROUP_BYTES, ACT_Q8, unpack_q4},
    [LAYOUT_Q8F] = {GROUP, Q8F_GROUP_BYTES, ACT_Q8, unpack_q8f},
    [LAYOUT_Q4Z] = {GROUP, Q4Z_GROUP_BYTES, ACT_Q8, unpack_q4z},
    [LAYOUT_T4] = {GROUP, T4_GROUP_BYTES, ACT_BF16, unpack_t4},
    [LAYOUT_F8] = {GROUP, F8_GROUP_BYTES, ACT_BF16, unpack_f8},
    [LAYOUT_Q2] = {GROUP, Q2_GROUP_BYTES, ACT_Q8, unpack_q2},
    [LAYOUT_S24] = {S24_UNIT, S24_UNIT_BYTES, ACT_BF16, unpack_s24},
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

static size_t panels_of(int n)
{
    return ((size_t)n + PANEL - 1) / PANEL;
}

int weight_shape(struct weight *w, enum layout layout, int n, int k, const char *format, struct err *e)
{
    if (n < 1 || n > N_MAX) return err_set(e, ERR_MODEL, "a matrix with %d outputs: 1 to %d are served", n, N_MAX);
    if (k < 1 || k > K_MAX) return err_set(e, ERR_MODEL, "a matrix with %d inputs: 1 to %d are served", k, K_MAX);
    int unit = layouts[layout].unit;
    if (k % unit)
        return err_set(e, ERR_MODEL, "a %s matrix with %d inputs: they must be a multiple of %d", format, k, unit);
    w->layout = layout, w->n = n, w->k = k;
    w->panel_bytes = (size_t)(k / unit) * (size_t)layouts[layout].unit_bytes;
    w->bytes = panels_of(n) * w->panel_bytes;
    return 0;
}

size_t weight_bytes(enum layout layout, int n, int k)
{
    struct weight w = {0};
    if ((unsigned)layout >= LAYOUTS || weight_shape(&w, layout, n, k, layout_name[layout], NULL)) return 0;
    return w.bytes;
}

unsigned weight_act_form(enum layout layout)
{
    return layouts[layout].form;
}

static int adopt_table(struct weight *w, const float *table, struct err *e)
{
    for (int i = 0; i < 16; i++)
        if (!table || !isfinite(table[i])) return err_set(e, ERR_MODEL, "a table's entry %d is not a finite number", i);
    memcpy(w->table, table, sizeof w->table);
    table_coarse(w);
    return 0;
}

int weight_adopt(struct weight *out, enum layout layout, int n, int k, const float table[16], const void *data,
                 size_t bytes, struct err *e)
{
    struct weight w = {0};
    if ((unsigned)layout >= LAYOUTS) return err_set(e, ERR_MODEL, "a matrix of layout %d is not known", (int)layout);
    if (weight_shape(&w, layout, n, k, layout_name[layout], e)) return -1;
    if (w.bytes != bytes)
        return err_set(e, ERR_MODEL, "a %s matrix of %d x %d has %zu bytes: it takes %zu", layout_name[layout], n, k,
                       bytes, w.bytes);
    if ((uintptr_t)data % 64) return err_set(e, ERR_MODEL, "a packed matrix does not lie at a multiple of 64 bytes");
    if (layout == LAYOUT_T4 && adopt_table(&w, table, e)) return -1;
    w.data = (void *)(uintptr_t)data;
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
    layouts[w->layout].row(w, start, o, count, out);
}

void weight_row(const struct weight *w, int row, float *out)
{
    weight_part(w, row / PANEL, row % PANEL, 0, w->k, out);
}
