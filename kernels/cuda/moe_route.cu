/* moe_route: which experts a row takes and with what weight (kernels/moe.c in plain C): the `used` largest logits, ties to
 * the smaller id, and their softmax over all experts or over the chosen ones.
 *
 * A warp has a row: lane l holds experts l, l + 32, ... (N of them, 4 to 32). Each of `used` turns takes the largest
 * that is not taken, by a maximum of bits that order like the floats, then the smallest id among equals; so NaN can't
 * lead to an expert twice. At the end the chosen are written in the order of ids, by ballots. A logit that is not finite
 * makes the row's weights NaN, so that the row's result shows it. Sums: a lane's experts ascending, then the warp by
 * halves. Latency alone: 2 us, estimated, for whatever rows a step has.
 *
 * Rows of padding (seq_of -1) get experts -1. experts: up to 1024. */
#include "kernels/cuda/dev.h"
#include "kernels/cuda/ops.h"

#define THREADS 128 /* four rows */
#define LOG2_E 1.4426950408889634f

/* Ascending with the value; both zeros alike; NaN below all; never 0. */
DEV uint32_t order_of(float x)
{
    uint32_t bits = dev_as_uint(x + 0.0f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 1;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

template <int N> struct lane_logits {
    float x[N];
    uint32_t order[N]; /* 0: taken, or not there */
    uint32_t taken;    /* bit i: expert i * 32 + lane was chosen */
    bool finite;
};

template <int N> DEV void load_logits(const struct op_moe *op, int row, struct lane_logits<N> *l)
{
    const float *from = op->logits + (size_t)row * (size_t)op->experts;
    l->taken = 0;
    l->finite = true;
    UNROLL
    for (int i = 0; i < N; i++) {
        int e = i * 32 + (int)dev_lane();
        l->x[i] = e < op->experts ? from[e] : 0;
        l->order[i] = e < op->experts ? order_of(l->x[i]) : 0;
        l->finite = l->finite && (dev_as_uint(l->x[i]) & 0x7f800000u) != 0x7f800000u;
    }
}

/* Take the largest that is left; -> its logit's order. */
template <int N> DEV uint32_t take_best(struct lane_logits<N> *l)
{
    uint32_t most = 0;
    int id = 0x7fffffff;
    UNROLL
    for (int i = 0; i < N; i++) most = l->order[i] > most ? l->order[i] : most;
    most = dev_warp_max(most);
    UNROLL
    for (int i = N - 1; i >= 0; i--)
        if (l->order[i] == most) id = i * 32 + (int)dev_lane();
    id = dev_warp_min(id);
    UNROLL
    for (int i = 0; i < N; i++)
        if (id == i * 32 + (int)dev_lane()) l->order[i] = 0, l->taken |= 1u << i;
    return most;
}

DEV float value_of(uint32_t order)
{
    return dev_as_float(order >> 31 ? order & 0x7fffffffu : ~order);
}

/* 1 / the sum of exponentials of all experts, or of the chosen ones. */
template <int N> DEV float normalizer(const struct op_moe *op, const struct lane_logits<N> *l, float most)
{
    float sum = 0;
    UNROLL
    for (int i = 0; i < N; i++) {
        bool counts = op->norm_topk ? l->taken >> i & 1 : i * 32 + (int)dev_lane() < op->experts;
        if (counts) sum += dev_exp2((l->x[i] - most) * LOG2_E);
    }
    sum = dev_warp_sum(sum);
    return dev_all(l->finite) ? 1 / sum : dev_as_float(0x7fc00000u);
}

template <int N> DEV void put_chosen(const struct op_moe *op, int row, const struct lane_logits<N> *l, float most)
{
    float factor = normalizer(op, l, most);
    int32_t *expert = op->expert + (size_t)row * (size_t)op->used;
    float *weight = op->weight + (size_t)row * (size_t)op->used;
    int before = 0;
    UNROLL
    for (int i = 0; i < N; i++) {
        uint32_t chosen = dev_ballot((int)(l->taken >> i & 1));
        int at = before + dev_popc(chosen & ((1u << dev_lane()) - 1));
        before += dev_popc(chosen);
        if (!(l->taken >> i & 1)) continue;
        expert[at] = i * 32 + (int)dev_lane();
        weight[at] = dev_exp2((l->x[i] - most) * LOG2_E) * factor;
    }
}

template <int N> KERNEL(moe_route, THREADS, 1)(GRID_CONST struct op_moe op)
{
    dev_pdl_launch();
    dev_pdl_wait();
    int row = (int)(blockIdx.x * (THREADS / 32) + dev_warp());
    if (row >= op.rows) return;
    if (op.meta.seq_of[row] < 0) {
        for (int i = (int)dev_lane(); i < op.used; i += 32) op.expert[(size_t)row * (size_t)op.used + i] = -1;
        return;
    }
    struct lane_logits<N> l;
    load_logits(&op, row, &l);
    uint32_t most = take_best(&l);
    for (int i = 1; i < op.used; i++) take_best(&l);
    put_chosen(&op, row, &l, value_of(most));
}

int launch_moe_route(const struct op_moe *op, void *stream)
{
    if (op->rows < 1) return 0;
    if (op->experts < 1 || op->experts > 1024 || op->used < 1 || op->used > op->experts) return RT_BAD_SHAPE;
    struct dev_launch l = {};
    l.gx = (unsigned)(op->rows + THREADS / 32 - 1) / (THREADS / 32);
    l.threads = THREADS;
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    if (op->experts <= 128) return LAUNCH(&l, (moe_route<4>), *op);
    if (op->experts <= 256) return LAUNCH(&l, (moe_route<8>), *op);
    return LAUNCH(&l, (moe_route<32>), *op);
}
