/* Embedding look-up: row token[i] of the matrix, dequantized, with what the row's adapters add to it, times the model's
 * scale (PEFT adapts the table itself, so its part is scaled as well). An adapter may bring both a matrix in the base's
 * place and factors: PEFT saves the base's own embedding beside an adapted one, loads it over the base and adds the
 * factors to it. Rows are dealt to the threads. A token outside the matrix is a fault of the caller, who checked the
 * request. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <assert.h>

/* The segment that a row lies in; NULL: none. */
static const struct lora_seg *seg_of(const struct lora_batch *b, int row)
{
    for (int s = 0; b && s < b->nseg; s++)
        if (row >= b->seg[s].row0 && row < b->seg[s].row0 + b->seg[s].rows) return &b->seg[s];
    return NULL;
}

static void add_adapter(const struct lora_embed *l, float weight, int32_t token, int k, float *x)
{
    const float *a = l->a + (size_t)token * (size_t)l->r;
    for (int j = 0; j < l->r; j++) {
        const float *b = l->b + (size_t)j * (size_t)k;
        float v = l->scale * weight * a[j];
        for (int i = 0; i < k; i++) x[i] += v * b[i];
    }
}

static void embed_row(const struct embed *e, int row)
{
    const struct weight *w = e->w;
    const struct lora_seg *seg = seg_of(e->lora, row);
    int32_t token = e->token[row];
    float *x = e->x + (size_t)row * (size_t)w->k;
    if (seg && seg->nuse == 1 && seg->use[0].t && seg->use[0].t->embed_full) w = seg->use[0].t->embed_full;
    assert(token >= 0 && token < w->n);
    weight_row(w, token, x);
    for (int u = 0; seg && u < seg->nuse; u++) {
        const struct lora_table *t = seg->use[u].t;
        if (t && t->embed) add_adapter(t->embed, seg->use[u].weight, token, w->k, x);
    }
    if (e->scale != 0)
        for (int i = 0; i < w->k; i++) x[i] *= e->scale;
}

void embed_plain(struct kthread *t, const struct embed *e)
{
    int lo, hi;
    pool_share(t, e->rows, &lo, &hi);
    for (int row = lo; row < hi; row++) embed_row(e, row);
}
