/* choose_weigh: the two passes over all logits that choosing a token takes; choose.cu is the third step.
 *
 *     look    a warp has a block of 256 logits: its largest, that one's smallest id, whether all are finite
 *     weigh   a warp has four blocks: the sums of their weights, at 1/T and (for log-probabilities) at 1, and the list:
 *             a bit for each logit whose weight is about 2^-12 of the best or more, and for the `wanted` largest
 *
 * The list is what makes the third step short: the head of the distribution lies in it, nearly always, and it is some
 * hundred tokens. To know the `wanted` largest without sorting: the row is cut into up to 256 groups of blocks, whose
 * maxima look() knows; the wanted-th largest of the maxima is not above the wanted-th largest logit. So all logits from
 * that one on are listed, few more than wanted. Bits are set by a threshold on the exponent, so the list is a set of
 * largest logits, whatever else.
 *
 * Sums: lane l adds logits l, l + 32, ... of the block, then lanes by halves: the order of kernels/logits_avx512.c.
 *
 * Bytes: 4 a logit in each pass, from L2 where the head product has left them there: a row of 128 k in two passes of
 * 501 and 126 warps' work; 32 rows are 16 MB a pass, 5 us each (estimated). A row that is only greedy ends with the first. */
#include "kernels/cuda/choose.h"

#define THREADS 256
#define WARPS (THREADS / 32)
#define EACH (LOGITS_BLOCK / 32) /* logits of a lane in a block */
#define WEIGHED 4                /* blocks of a warp in weigh() */

/* Logits l, l + 32, ... of block b, `none` behind the end. */
DEV void load_block(const struct choose_row *r, int b, float none, float x[EACH])
{
    int at = b * LOGITS_BLOCK + (int)dev_lane();
    UNROLL
    for (int j = 0; j < EACH; j++) x[j] = at + j * 32 < r->n ? r->x[at + j * 32] : none;
}

KERNEL(choose_look, THREADS, 4)(GRID_CONST struct op_choose op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int row = (int)blockIdx.y, b = (int)(blockIdx.x * WARPS + dev_warp());
    struct choose_row r = choose_row_of(&op, row);
    if (choose_skips(&op, row) || b >= r.blocks) return;
    float x[EACH], most = dev_as_float(0xff800000u);
    int id = 0x7fffffff;
    bool finite = true;
    load_block(&r, b, 0, x);
    UNROLL
    for (int j = 0; j < EACH; j++) {
        int at = b * LOGITS_BLOCK + (int)dev_lane() + j * 32;
        finite = finite && choose_finite(x[j]);
        if (at < r.n && x[j] > most) most = x[j], id = at;
    }
    choose_best_of_warp(&most, &id);
    finite = dev_all(finite);
    if (dev_lane() == 0) r.best[b] = most, r.id[b] = finite ? id : -1;
}

/* The exponent from which on logits are listed. maxima: CHOOSE_GROUPS floats of shared memory, found: one. */
DEV float list_from(const struct choose_row *r, const struct cuda_choice *c, float most, float inv_t, float *maxima,
                    float *found)
{
    int wanted = choose_wanted(c, r->n), each, groups = choose_groups(r->blocks, &each), g = (int)threadIdx.x;
    if (wanted < 1 || wanted > groups) return CHOOSE_LEAST_AT; /* the same for the whole block */
    float mine = dev_as_float(0xff800000u);
    for (int i = 0; g < groups && i < each && g * each + i < r->blocks; i++) mine = fmaxf(mine, r->best[g * each + i]);
    maxima[g] = mine;
    dev_sync();
    int before = 0;
    for (int i = 0; i < groups; i++) before += choose_better(maxima[i], i, mine, g);
    if (g < groups && before == wanted - 1) found[0] = (mine - most) * inv_t - CHOOSE_MARGIN;
    dev_sync();
    return fminf(found[0], CHOOSE_LEAST_AT);
}

/* The weights of block b: their sum, and at 1 where that differs; the words of the list. */
DEV void weigh_block(const struct choose_row *r, int b, float most, float inv_t, float from, bool tell)
{
    float x[EACH], sum = 0, one = 0;
    uint32_t word = 0;
    load_block(r, b, dev_as_float(0xff800000u), x);
    UNROLL
    for (int j = 0; j < EACH; j++) {
        float at = (x[j] - most) * inv_t;
        uint32_t bits = dev_ballot(x[j] > dev_as_float(0xff800000u) && at >= from);
        if ((int)dev_lane() == j) word = bits;
        sum += choose_weight(x[j], most, inv_t);
        if (tell) one += choose_weight(x[j], most, 1);
    }
    sum = dev_warp_sum(sum);
    if (tell) one = dev_warp_sum(one);
    if ((int)dev_lane() < EACH) r->list[b * CHOOSE_WORDS + (int)dev_lane()] = word;
    if (dev_lane() == 0) r->sum[b] = sum;
    if (dev_lane() == 0 && tell) r->one[b] = one;
}

KERNEL(choose_weigh, THREADS, 4)(GRID_CONST struct op_choose op)
{
    SHARED(float, values, 32);
    SHARED(int, ids, 32);
    SHARED(float, maxima, CHOOSE_GROUPS);
    SHARED(float, found, 1);
    dev_pdl_launch();
    dev_pdl_wait();
    int row = (int)blockIdx.y, best_id;
    if (choose_skips(&op, row)) return;
    struct cuda_choice c = op.meta.choice[row];
    struct choose_row r = choose_row_of(&op, row);
    float best, inv_t = c.how == CHOOSE_DRAW ? c.inv_t : 1;
    if (c.how != CHOOSE_DRAW && c.tell == 0) return; /* greedy: look() has told all */
    if (!choose_best(&r, values, ids, &best, &best_id)) return;
    float from = list_from(&r, &c, best, inv_t, maxima, found);
    for (int i = 0; i < WEIGHED; i++) {
        int b = (int)((blockIdx.x * WEIGHED + (unsigned)i) * WARPS + dev_warp());
        if (b < r.blocks) weigh_block(&r, b, best, inv_t, from, c.tell > 0);
    }
}

int choose_weigh_launch(const struct op_choose *op, void *stream)
{
    struct dev_launch l = {};
    unsigned blocks = (unsigned)(op->tokens + LOGITS_BLOCK - 1) / LOGITS_BLOCK;
    l.gx = (blocks + WARPS - 1) / WARPS, l.gy = (unsigned)op->logits;
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    int rc = LAUNCH(&l, choose_look, *op);
    if (rc) return rc;
    l.gx = (blocks + WARPS * WEIGHED - 1) / (WARPS * WEIGHED);
    return LAUNCH(&l, choose_weigh, *op);
}
