/* Which work there is in a step, device code: from the sequences in the metadata alone, so that grids need not know how
 * long sequences are and the host prepares nothing.
 *
 * Kernels count work in units, sequence after sequence. A block asks for the unit with a number: each of its warps
 * looks at 32 sequences at a time, a lane each, and sums their units up to its own. Nothing of it waits for the
 * kernels in front: it runs before dev_pdl_wait(). */
#pragma once
#include "kernels/cuda/attention.h"
#include "kernels/cuda/dev.h"

DEV int attn_first_seen(int window, int pos)
{
    return window > 0 && pos >= window ? pos - window + 1 : 0;
}

DEV int attn_segment_of(int pos)
{
    if (pos < ATTN_EVEN * ATTN_SEGMENT) return pos / ATTN_SEGMENT;
    int octave = 31 - dev_clz((uint32_t)pos) - ATTN_EVEN_LOG;
    return ATTN_EVEN + octave * ATTN_EIGHTHS + (pos >> (octave + ATTN_EVEN_LOG - 3) & (ATTN_EIGHTHS - 1));
}

/* Of segment i; the next begins where it ends. */
DEV int attn_segment_start(int i)
{
    if (i < ATTN_EVEN) return i * ATTN_SEGMENT;
    int octave = (i - ATTN_EVEN) / ATTN_EIGHTHS;
    return (ATTN_EIGHTHS + (i - ATTN_EVEN) % ATTN_EIGHTHS) << (octave + ATTN_EVEN_LOG - 3);
}

/* Segments that the rows of a sequence see; *first: the first of them. */
DEV int attn_segments(const struct op_attn *op, const struct cuda_seq *q, int *first)
{
    *first = attn_segment_of(attn_first_seen(op->window, q->pos0));
    return attn_segment_of(q->pos0 + q->rows - 1) - *first + 1;
}

/* Kinds of work are counted in units of their own. */
enum attn_kind {
    ATTN_SPLIT, /* (tile, segment) of sequences with few rows */
    ATTN_MERGE, /* tile of those of them with more than one segment */
    ATTN_CAUSAL /* tile of the other sequences */
};

struct attn_work {
    struct cuda_seq seq;
    int unit;           /* within the sequence's */
    int segment0, nseg; /* of sequences with few rows; */
    int state;          /* number of (row, segment) before this sequence */
};

DEV int attn_units(const struct op_attn *op, enum attn_kind kind, int vectors, const struct cuda_seq *q, int *states)
{
    int tiles = (q->rows * (op->heads / op->kv.kv_heads) + vectors - 1) / vectors, first;
    bool few = q->rows <= ATTN_FEW;
    int nseg = few ? attn_segments(op, q, &first) : 0;
    *states = q->rows * nseg;
    if (kind == ATTN_CAUSAL) return few ? 0 : tiles;
    if (kind == ATTN_MERGE) return nseg > 1 ? tiles : 0;
    return tiles * nseg;
}

/* A head of a row of the result. */
DEV uint16_t *attn_out(const struct op_attn *op, int row, int head)
{
    int hd = op->kv.head_dim;
    return op->out + (size_t)row * (size_t)(op->heads * hd + op->gap) + (size_t)(head * hd);
}

/* v summed over this lane and those before. */
DEV int attn_scan(int v)
{
    UNROLL
    for (int n = 1; n < 32; n *= 2) {
        int below = dev_shfl_up(v, (unsigned)n);
        if ((int)dev_lane() >= n) v += below;
    }
    return v;
}

/* Unit `want` of the step: whose it is. Every warp looks for itself, 32 sequences at a time; false: there is none. */
DEV bool attn_find(const struct op_attn *op, enum attn_kind kind, int vectors, int want, struct attn_work *out)
{
    int nseq = op->meta.count[COUNT_SEQS], states_before = 0;
    if (nseq > op->seqs) nseq = op->seqs;
    for (int base = 0; base < nseq; base += 32) {
        struct cuda_seq q = {0, 0, 0, 0};
        int s = base + (int)dev_lane(), n = 0, states = 0;
        if (s < nseq) q = op->meta.seq[s], n = attn_units(op, kind, vectors, &q, &states);
        int to = attn_scan(n), states_to = attn_scan(states), total = dev_shfl(to, 31);
        if (want < total) {
            int lane = dev_popc(dev_ballot(to <= want));
            out->seq.row0 = dev_shfl(q.row0, lane), out->seq.rows = dev_shfl(q.rows, lane);
            out->seq.pos0 = dev_shfl(q.pos0, lane), out->seq.page0 = dev_shfl(q.page0, lane);
            out->unit = want - dev_shfl(to - n, lane);
            out->state = states_before + dev_shfl(states_to - states, lane);
            out->nseg = attn_segments(op, &out->seq, &out->segment0);
            return true;
        }
        want -= total;
        states_before += dev_shfl(states_to, 31);
    }
    return false;
}
