/* Private to kernels/attention*_avx512.c: what the shared half (items, segments, their sums) and the three types of
 * cache (float32, bf16, int8) know of each other. */
#pragma once
#include "kernels/kv.h"

#define ATTN_BLOCK 64 /* positions whose scores are made together */
#define ATTN_BLOCK_PAGES (ATTN_BLOCK / KV_PAGE)
#define ATTN_VECTORS 96 /* of an item: its query heads times its rows */
#define ATTN_HEADS 32   /* query heads of a kv head in an item */

/* Positions are divided into segments of 256; from 4,096 on into eighths of an octave, so that there are few of them
 * however long a sequence is. Each is summed by itself and the segments' sums are added in their order: which thread
 * sums which segment changes nothing, and neither does how many rows of the sequence are in the step. */
#define ATTN_SEGMENT_LOG 8
#define ATTN_EVEN 16 /* segments of the smallest length */

static inline int attn_segment_of(int pos)
{
    if (pos < ATTN_EVEN << ATTN_SEGMENT_LOG) return pos >> ATTN_SEGMENT_LOG;
    int octave = 31 - __builtin_clz((unsigned)pos) - (ATTN_SEGMENT_LOG + 4);
    return ATTN_EVEN + octave * 8 + (pos >> (octave + ATTN_SEGMENT_LOG + 1) & 7);
}

static inline int attn_segment_start(int i)
{
    if (i < ATTN_EVEN) return i << ATTN_SEGMENT_LOG;
    int octave = (i - ATTN_EVEN) / 8;
    return (8 + (i - ATTN_EVEN) % 8) << (octave + ATTN_SEGMENT_LOG + 1);
}

/* The softmax of a vector over some positions, as floats: the largest scaled score, the sum of the weights against it, and from
 * ATTN_OUT on the weighted sum of values [head_dim]. Nothing seen: the largest is -infinity and the sums are 0. */
enum { ATTN_MOST, ATTN_SUM, ATTN_OUT = 16 };

static inline size_t attn_state_floats(int head_dim)
{
    return ATTN_OUT + (size_t)head_dim;
}

/* Rows row .. row+rows-1 of a sequence, kv heads kv_head .. kv_head+kv_heads-1, over the positions first .. last. Of each
 * kv head `heads` query heads, those of the first begin with `head`. */
struct attn_item {
    const struct attn_seq *seq;
    int row, rows;
    int kv_head, kv_heads, head, heads;
    int first, last;
    float *partial;         /* NULL: the item is whole and goes to the output; else the state of each vector and */
    int segment0, segments; /* segment, [kv_heads][rows][heads][segments][state], from segment0 on */
};

/* A thread's way through the items. */
struct attn_walk;
bool attn_claim(struct attn_walk *w, struct attn_item *out); /* false: none is left */

void attn_clear(float *state, int head_dim);

/* The softmax over a segment joins that over the segments before. */
void attn_join(float *total, const float *state, int head_dim);
/* The total of a vector becomes the output of its row and head. */
void attn_finish(const struct attn *a, int row, int head, const float *total, struct act *out);

/* Computes the item. Before the last of its blocks it claims *next (false: there is none), to bring in what that begins
 * with. */
typedef bool attn_run_fn(const struct attn *a, const struct attn_item *it, struct attn_walk *w, struct attn_item *next,
                         void *scratch, struct act *out);

attn_run_fn attn_run_f32_avx512, attn_run_bf16_avx512, attn_run_int8_avx512;
