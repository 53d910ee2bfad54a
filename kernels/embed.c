/* Embedding look-up: row token[i] of the matrix, dequantized. Rows are dealt to the threads. A token outside the matrix
 * is a fault of the caller, who checked the request. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <assert.h>

void embed_plain(struct kthread *t, const struct weight *w, const int32_t *token, int rows, float *x)
{
    int lo, hi;
    pool_share(t, rows, &lo, &hi);
    for (int row = lo; row < hi; row++) {
        assert(token[row] >= 0 && token[row] < w->n);
        weight_row(w, token[row], x + (size_t)row * (size_t)w->k);
    }
}
