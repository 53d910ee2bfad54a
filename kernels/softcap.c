/* x = cap tanh(x / cap), plain (the logits of Gemma 2). Dealt to the threads by value. */
#include "kernels/act.h"
#include "kernels/matmul.h"
#include <math.h>

void softcap_plain(struct kthread *t, float *x, size_t n, float cap)
{
    size_t lo = n * (size_t)t->id / (size_t)t->n, hi = n * ((size_t)t->id + 1) / (size_t)t->n;
    for (size_t i = lo; i < hi; i++) x[i] = cap * tanhf(x[i] / cap);
}
