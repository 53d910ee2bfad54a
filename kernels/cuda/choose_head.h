/* The head of a distribution, found and drawn from by one block without sorting: device functions of choose.cu.
 *
 * A *source* is what can be in the head: the row's list (choose_weigh.cu) in shared memory, or the whole row when that
 * doesn't do. Each of its elements has an order, 32 bits that ascend with the weight, or with the logit; 0: not a member. A *key*
 * is the order, then the id turned round: all keys differ, and the best token has the largest. So a head is "all members
 * from this key on", and finding it is a search for a key:
 *
 *     histogram of 16 bins over a range of keys -> the bin in which the head ends -> the same over that bin's range, ...
 *
 * until the bin has one member. Each thread counts in bins of its own (no atomics, no bank conflicts: bin b of thread t
 * lies at [b][t]), then each of the 16 warps adds up one bin. Masses are whole numbers of 2^-43, so sums are exact and
 * have no order; a weight that is at least 2^-19 of the best is exact itself (and the CPU's sums in double are exact, too,
 * from 2^-12 on).
 *
 * Drawing goes by id, like on the CPU: the mass of 16 equal parts of the source, the part that holds the point, its 16
 * parts, ..., then 32 tokens in a warp. */
#pragma once
#include "kernels/cuda/choose.h"

#define HEAD_THREADS 512
#define HEAD_WARPS (HEAD_THREADS / 32)
#define HEAD_BINS 16 /* one warp adds up one bin */
#define HEAD_LIST 4096
#define HEAD_UNDER 8       /* loads of a thread in flight */
#define HEAD_ONE 0x1p43    /* the mass of weight 1 */
#define HEAD_COUNT_BITS 10 /* of a thread's bin: a thread meets at most 1023 tokens, 53 bits of mass */
#define HEAD_VOCAB_MAX (HEAD_THREADS * 1023)
#define HEAD_ALL 0x7fffffff /* a count that is never reached */
#define HEAD_NEVER 1e300    /* a mass that isn't */

enum { BY_WEIGHT, BY_LOGIT };

/* Shared memory of a block. */
struct head_room {
    uint64_t bin[HEAD_BINS][HEAD_THREADS]; /* mass << HEAD_COUNT_BITS | count */
    uint64_t mass[HEAD_BINS];
    int count[HEAD_BINS];
    uint64_t part[HEAD_WARPS];
    uint64_t key;
    float values[32];
    int ids[32];
    double masses[32], point;
    uint64_t top[CHOOSE_TOP];
    uint32_t list[HEAD_LIST];   /* orders */
    int32_t list_id[HEAD_LIST]; /* ascending */
};

struct head_source {
    const struct choose_row *r;
    struct head_room *room;
    bool listed; /* else the whole row */
    int n;       /* elements */
    int by;
    float most, inv_t;
    float least; /* BY_WEIGHT: members have at least this weight, and more than 0 */
};

/* The end of a head: it is all members with keys from `key` on (0: all there are), `mass` together. */
struct head_end {
    uint64_t key, mass;
    bool reached;
};

/* --- numbers --- */

DEV uint64_t head_mass_of(float w)
{
    return (uint64_t)(w * (float)HEAD_ONE); /* exact but for what is below 1 */
}

DEV uint64_t head_key(uint32_t order, int id)
{
    return (uint64_t)order << 32 | (uint32_t) ~(uint32_t)id;
}

/* Ascends with the logit; both zeros are equal; not 0 for finite values. */
DEV uint32_t head_logit_order(float x)
{
    uint32_t bits = dev_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

DEV uint64_t head_shfl_xor(uint64_t v, int n)
{
    uint32_t lo = dev_shfl_xor((uint32_t)v, n), hi = dev_shfl_xor((uint32_t)(v >> 32), n);
    return (uint64_t)hi << 32 | lo;
}

DEV uint64_t head_shfl_up(uint64_t v, unsigned n)
{
    uint32_t lo = dev_shfl_up((uint32_t)v, n), hi = dev_shfl_up((uint32_t)(v >> 32), n);
    return (uint64_t)hi << 32 | lo;
}

DEV uint64_t head_warp_sum(uint64_t v)
{
    UNROLL
    for (int n = 16; n; n /= 2) v += head_shfl_xor(v, n);
    return v;
}

/* The sum of the lanes up to and with this one. */
DEV uint64_t head_sum_so_far(uint64_t v)
{
    UNROLL
    for (unsigned n = 1; n < 32; n *= 2) {
        uint64_t other = head_shfl_up(v, n);
        if (dev_lane() >= n) v += other;
    }
    return v;
}

/* --- the source --- */

DEV uint32_t head_order(const struct head_source *s, float x)
{
    if (s->by == BY_LOGIT) return head_logit_order(x);
    float w = choose_weight(x, s->most, s->inv_t);
    return w >= s->least && w > 0 ? dev_as_uint(w) : 0;
}

DEV int head_id(const struct head_source *s, int i)
{
    return s->listed ? s->room->list_id[i] : i;
}

/* Orders of elements at, at + step, ... before `end`, 0 behind it. */
DEV void head_orders(const struct head_source *s, int at, int step, int end, uint32_t v[HEAD_UNDER])
{
    if (s->listed) {
        UNROLL
        for (int j = 0; j < HEAD_UNDER; j++) v[j] = at + j * step < end ? s->room->list[at + j * step] : 0;
        return;
    }
    float x[HEAD_UNDER];
    UNROLL
    for (int j = 0; j < HEAD_UNDER; j++) x[j] = at + j * step < end ? s->r->x[at + j * step] : 0;
    UNROLL
    for (int j = 0; j < HEAD_UNDER; j++) v[j] = at + j * step < end ? head_order(s, x[j]) : 0;
}

DEV uint64_t head_mass(const struct head_source *s, uint32_t order)
{
    return s->by == BY_WEIGHT ? head_mass_of(dev_as_float(order)) : 0;
}

/* The ids of the list, ascending, there behind the next barrier; false: they are more than it holds. Each thread has
 * neighbouring words. */
DEV bool head_list_ids(const struct choose_row *r, struct head_room *room, int *n)
{
    int words = (r->n + 31) / 32, each = (words + HEAD_THREADS - 1) / HEAD_THREADS, mine = 0;
    int w0 = (int)threadIdx.x * each, w1 = w0 + each < words ? w0 + each : words;
    for (int w = w0; w < w1; w++) mine += dev_popc(r->list[w]);
    int upto = (int)head_sum_so_far((uint64_t)mine);
    if (dev_lane() == 31) room->ids[dev_warp()] = upto;
    dev_sync();
    int at = upto - mine;
    *n = 0;
    for (unsigned w = 0; w < HEAD_WARPS; w++) {
        if (w < dev_warp()) at += room->ids[w];
        *n += room->ids[w];
    }
    if (*n > HEAD_LIST) return false;
    for (int w = w0; w < w1; w++)
        for (uint32_t bits = r->list[w]; bits; bits &= bits - 1) room->list_id[at++] = w * 32 + dev_ffs(bits) - 1;
    return true;
}

/* The orders of what is listed, anew for each `by` and `least`; a thread's own until the next barrier. One lies behind all
 * that has read the list before: share_of() has it. */
DEV void head_fill(const struct head_source *s)
{
    if (s->listed)
        for (int i = (int)threadIdx.x; i < s->n; i += HEAD_THREADS)
            s->room->list[i] = head_order(s, s->r->x[s->room->list_id[i]]);
}

/* --- finding the end --- */

/* Threads that have elements; whole warps. */
DEV int head_width(const struct head_source *s)
{
    return s->n >= HEAD_THREADS ? HEAD_THREADS : (s->n + 31) / 32 * 32;
}

/* This thread's share of the histogram: bin (key - lo) >> shift of keys from lo to hi. */
DEV void head_count(const struct head_source *s, uint64_t lo, uint64_t hi, int shift)
{
    struct head_room *room = s->room;
    UNROLL
    for (int b = 0; b < HEAD_BINS; b++) room->bin[b][threadIdx.x] = 0;
    for (int at = (int)threadIdx.x; at < s->n; at += HEAD_THREADS * HEAD_UNDER) {
        uint32_t v[HEAD_UNDER];
        head_orders(s, at, HEAD_THREADS, s->n, v);
        UNROLL
        for (int j = 0; j < HEAD_UNDER; j++) {
            if (!v[j]) continue;
            uint64_t key = head_key(v[j], head_id(s, at + j * HEAD_THREADS));
            if (key < lo || key > hi) continue;
            room->bin[(key - lo) >> shift][threadIdx.x] += head_mass(s, v[j]) << HEAD_COUNT_BITS | 1;
        }
    }
}

/* Bin w of all threads, by warp w. */
DEV void head_add_up(const struct head_source *s)
{
    struct head_room *room = s->room;
    int width = head_width(s), count = 0;
    uint64_t mass = 0;
    dev_sync();
    for (int t = (int)dev_lane(); t < width; t += 32) {
        uint64_t v = room->bin[dev_warp()][t];
        count += (int)(v & ((1u << HEAD_COUNT_BITS) - 1));
        mass += v >> HEAD_COUNT_BITS;
    }
    count = dev_warp_sum(count);
    mass = head_warp_sum(mass);
    if (dev_lane() == 0) room->count[dev_warp()] = count, room->mass[dev_warp()] = mass;
    dev_sync();
}

/* The only member with a key from lo to hi. */
DEV uint64_t head_only(const struct head_source *s, uint64_t lo, uint64_t hi)
{
    for (int at = (int)threadIdx.x; at < s->n; at += HEAD_THREADS * HEAD_UNDER) {
        uint32_t v[HEAD_UNDER];
        head_orders(s, at, HEAD_THREADS, s->n, v);
        UNROLL
        for (int j = 0; j < HEAD_UNDER; j++) {
            if (!v[j]) continue;
            uint64_t key = head_key(v[j], head_id(s, at + j * HEAD_THREADS));
            if (key >= lo && key <= hi) s->room->key = key;
        }
    }
    dev_sync();
    return s->room->key; /* written again behind the next histogram's barriers */
}

/* The head that has `count` members or `goal` of mass, whichever is reached first; where neither is, all members. Every
 * thread of the block gets it. */
DEV struct head_end head_find(const struct head_source *s, int count, double goal)
{
    struct head_end end = {0, 0, false};
    uint64_t lo = s->by == BY_WEIGHT ? (uint64_t)dev_as_uint(s->least) << 32 : 0;
    uint64_t hi = head_key(s->by == BY_WEIGHT ? 0x3f800000u : head_logit_order(s->most), 0);
    int shift = 0, b, before = 0;
    while ((hi - lo) >> shift >= HEAD_BINS) shift++;
    for (;;) {
        head_count(s, lo, hi, shift);
        head_add_up(s);
        for (b = HEAD_BINS - 1; b >= 0; b--) {
            int here = s->room->count[b];
            uint64_t mass = s->room->mass[b];
            if (here && (before + here >= count || (double)(end.mass + mass) * (1 / HEAD_ONE) >= goal)) break;
            before += here;
            end.mass += mass;
        }
        if (b < 0) return end; /* in the first turn only: a bin that was chosen reaches it again */
        end.reached = true;
        lo += (uint64_t)b << shift;
        if (((uint64_t)1 << shift) - 1 < hi - lo) hi = lo + ((uint64_t)1 << shift) - 1;
        if (s->room->count[b] == 1 || shift == 0) break;
        shift = shift > 4 ? shift - 4 : 0;
    }
    end.mass += s->room->mass[b];
    end.key = head_only(s, lo, hi);
    return end;
}

/* --- drawing --- */

/* The mass of this warp's elements [from, to) that are in the head. */
DEV uint64_t head_part(const struct head_source *s, uint64_t end, int from, int to)
{
    uint64_t mass = 0;
    for (int at = from + (int)dev_lane(); at < to; at += 32 * HEAD_UNDER) {
        uint32_t v[HEAD_UNDER];
        head_orders(s, at, 32, to, v);
        UNROLL
        for (int j = 0; j < HEAD_UNDER; j++)
            if (v[j] && head_key(v[j], head_id(s, at + j * 32)) >= end) mass += head_mass(s, v[j]);
    }
    return head_warp_sum(mass);
}

/* Among the 32 elements from `at` on: the first at which the mass so far exceeds the point. Every warp does the same. */
DEV int head_among(const struct head_source *s, uint64_t end, int at, uint64_t point)
{
    int i = at + (int)dev_lane();
    uint32_t order = i < s->n ? s->listed ? s->room->list[i] : head_order(s, s->r->x[i]) : 0;
    bool member = order && head_key(order, head_id(s, i < s->n ? i : at)) >= end;
    uint64_t upto = head_sum_so_far(member ? head_mass(s, order) : 0);
    uint32_t hit = dev_ballot(upto > point);
    return head_id(s, at + dev_ffs(hit) - 1);
}

/* The member of the head at `point` of its mass (0 .. mass-1), members by id. */
DEV int head_draw(const struct head_source *s, uint64_t end, uint64_t point)
{
    int at = 0, n = s->n;
    while (n > 32) {
        int step = ((n + HEAD_WARPS - 1) / HEAD_WARPS + 31) / 32 * 32, w = 0;
        int from = at + (int)dev_warp() * step, to = from + step < at + n ? from + step : at + n;
        uint64_t mass = from < to ? head_part(s, end, from, to) : 0;
        if (dev_lane() == 0) s->room->part[dev_warp()] = mass;
        dev_sync();
        while (w < HEAD_WARPS - 1 && point >= s->room->part[w]) point -= s->room->part[w++];
        dev_sync();
        n = at + n - (at + w * step);
        at += w * step;
        if (n > step) n = step;
    }
    return head_among(s, end, at, point);
}
