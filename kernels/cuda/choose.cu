/* choose: from a row of logits to a token, on the device, as engine/sampler.c does it.
 *
 *     look -> weigh (choose_weigh.cu, many blocks a row) -> choose, one block a row:
 *       greedy         what look() found
 *       no filter      inversion: the sums of blocks of 256, the block that holds the point, the token in it
 *       top_k, min_p   the list, which holds the k largest and all of 2^-12 of the best and more -> its head -> a draw
 *       top_p          the same; where 2^-12 does not reach far enough (flat distributions), the whole row instead
 *       logprob        logit - max - log(sum at 1), and the best by logit, from the list
 *
 * What is equal to the CPU: the random number (splitmix64 of seed and index), the weights and the sums of their blocks
 * bit for bit (choose.h), which tokens are in the head (by weight, then id), draws in the order of ids. What may differ
 * by rounding alone: sums of blocks are added in another order, in double; a head beyond 2^-12 counts masses in steps of
 * 2^-43. Both move a point by less than 1e-7 of a weight.
 *
 * Guarantees: the result depends on the row, its struct cuda_choice and the vocabulary alone; a value that is not finite
 * is told before anything is chosen; no atomics; every barrier is reached by all threads, for what branches depend on is
 * the same for the block.
 *
 * Cost, estimated: 5 us for a list of some hundred (ten turns of a 16-bin histogram, half a microsecond each); 12 us a
 * turn over a whole row of 128 k, some four turns. Shared memory: 97 KB, so two blocks an SM on Hopper, one on sm_86. */
#include "kernels/cuda/choose_head.h"

/* --- the random number --- */

DEV uint64_t mix(uint64_t z)
{
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Uniform in [0, 1), 53 bits. */
DEV double uniform(uint64_t seed, uint64_t index)
{
    return (double)(mix(mix(seed) ^ mix(~index)) >> 11) * 0x1p-53;
}

/* --- sums in double --- */

DEV uint64_t bits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

DEV double of_bits(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The sum of the lanes up to and with this one. */
DEV double sum_so_far(double v)
{
    UNROLL
    for (unsigned n = 1; n < 32; n *= 2) {
        double other = of_bits(head_shfl_up(bits_of(v), n));
        if (dev_lane() >= n) v += other;
    }
    return v;
}

/* Sums of blocks: this thread has neighbouring ones, [from, to). */
struct share {
    int from, to;
    double before; /* the sum of all in front */
    double all;
};

DEV struct share share_of(const float *sum, int blocks, double *masses)
{
    int each = (blocks + HEAD_THREADS - 1) / HEAD_THREADS;
    struct share s = {(int)threadIdx.x * each, 0, 0, 0};
    double mine = 0;
    s.to = s.from + each < blocks ? s.from + each : blocks;
    for (int b = s.from; b < s.to; b++) mine += (double)sum[b];
    double upto = sum_so_far(mine), front = of_bits(head_shfl_up(bits_of(upto), 1));
    if (dev_lane() == 31) masses[dev_warp()] = upto;
    dev_sync();
    for (unsigned w = 0; w < HEAD_WARPS; w++) {
        if (w == dev_warp()) s.before = s.all;
        s.all += masses[w];
    }
    if (dev_lane() > 0) s.before += front;
    return s;
}

/* --- without a filter --- */

/* In block b of the row: the token at which the weights so far exceed the point; none: the last that has a weight. */
DEV int in_block(const struct choose_row *r, float most, float inv_t, int b, double point)
{
    float w[8];
    int at = b * LOGITS_BLOCK + (int)dev_lane() * 8, hit = HEAD_ALL, last = -1;
    double mine = 0;
    UNROLL
    for (int j = 0; j < 8; j++) {
        w[j] = at + j < r->n ? choose_weight(r->x[at + j], most, inv_t) : 0;
        mine += (double)w[j];
    }
    double upto = sum_so_far(mine) - mine;
    UNROLL
    for (int j = 0; j < 8; j++) {
        if (!(w[j] > 0)) continue;
        upto += (double)w[j];
        last = at + j;
        if (hit == HEAD_ALL && point < upto) hit = at + j;
    }
    hit = dev_warp_min(hit);
    last = dev_warp_max(last);
    return hit == HEAD_ALL ? last : hit;
}

/* The first block at whose end the point is passed, and what is left of the point there; beyond all: the last that has
 * weights, with a point that nothing passes. */
DEV int block_of(const struct choose_row *r, struct head_room *room, const struct share *s, double *point)
{
    int hit = HEAD_ALL, last = -1;
    double upto = s->before;
    for (int b = s->from; b < s->to; b++) {
        upto += (double)r->sum[b];
        if (hit == HEAD_ALL && *point < upto) hit = b;
        if (r->sum[b] > 0) last = b;
    }
    hit = dev_warp_min(hit);
    last = dev_warp_max(last);
    if (dev_lane() == 0) room->ids[dev_warp()] = hit, room->count[dev_warp()] = last;
    dev_sync();
    for (int w = 0; w < HEAD_WARPS; w++) {
        hit = room->ids[w] < hit ? room->ids[w] : hit;
        last = room->count[w] > last ? room->count[w] : last;
    }
    if (hit >= s->from && hit < s->to) {
        upto = s->before;
        for (int b = s->from; b < hit; b++) upto += (double)r->sum[b];
        room->point = *point - upto;
    }
    dev_sync();
    *point = hit == HEAD_ALL ? HEAD_NEVER : room->point;
    return hit == HEAD_ALL ? last : hit;
}

DEV int draw_all(const struct choose_row *r, struct head_room *room, const struct cuda_choice *c, float most)
{
    struct share s = share_of(r->sum, r->blocks, room->masses);
    double point = uniform(c->seed, c->index) * s.all;
    int b = block_of(r, room, &s, &point);
    return in_block(r, most, c->inv_t, b, point);
}

/* --- with filters --- */

/* The end of the head as far as the weights from `least` on tell: engine/sampler.c's find_head(), step by step. all: the
 * mass of all weights. False: it lies further down. */
DEV bool find_head(struct head_source *s, const struct cuda_choice *c, float least, bool known, double all,
                   struct head_end *end)
{
    bool cut = c->top_p < 1;
    if (c->top_k <= 0 && !known && !cut) return false;
    s->least = least;
    head_fill(s);
    *end = (struct head_end){0, 0, false};
    double mass = all;
    if (c->top_k > 0 || known) { /* no count: all members, for their mass */
        *end = head_find(s, c->top_k > 0 ? c->top_k : HEAD_ALL, HEAD_NEVER);
        if (c->top_k > 0 && !known && !end->reached) return false;
        mass = (double)end->mass * (1 / HEAD_ONE);
    }
    if (!cut) return true;
    struct head_end shorter = head_find(s, HEAD_ALL, (double)c->top_p * mass);
    if (c->top_k <= 0 && !known && !shorter.reached) return false;
    if (shorter.reached && shorter.key > end->key) *end = shorter;
    return true;
}

/* The sources in the order in which the CPU tries them; the list holds the top_k best whatever their weight, if that many
 * were asked for. */
DEV int draw_head(struct head_source *s, const struct cuda_choice *c, bool listed, int n, double all)
{
    int each, groups = choose_groups(s->r->blocks, &each), wanted = choose_wanted(c, s->r->n);
    float least = c->min_p < 1 ? c->min_p : 1;
    struct head_end end;
    bool found = false, best_listed = listed && c->top_k > 0 && c->top_k <= wanted && wanted <= groups;
    s->listed = listed;
    s->n = listed ? n : s->r->n;
    if (best_listed || (listed && least >= CHOOSE_LEAST))
        found = find_head(s, c, least, true, all, &end);
    else if (least < CHOOSE_LEAST)
        found = find_head(s, c, CHOOSE_LEAST, false, all, &end);
    if (!found) {
        s->listed = false;
        s->n = s->r->n;
        find_head(s, c, least, true, all, &end);
    }
    double mass = (double)end.mass * (1 / HEAD_ONE), point = uniform(c->seed, c->index) * mass * HEAD_ONE;
    uint64_t at = (uint64_t)point;
    return head_draw(s, end.key, at < end.mass ? at : end.mass - 1);
}

DEV int draw(struct head_source *s, const struct cuda_choice *c, bool listed, int n)
{
    if (!choose_filters(c, s->r->n)) return draw_all(s->r, s->room, c, s->most);
    struct share all = share_of(s->r->sum, s->r->blocks, s->room->masses);
    s->by = BY_WEIGHT;
    s->inv_t = c->inv_t;
    return draw_head(s, c, listed, n, all.all);
}

/* --- log-probabilities --- */

/* The keys of the `want` best logits into room->top, in any order. */
DEV void gather_best(const struct head_source *s, uint64_t end)
{
    struct head_room *room = s->room;
    int filled = 0;
    for (int at0 = 0; at0 < s->n; at0 += HEAD_THREADS * HEAD_UNDER) {
        uint32_t v[HEAD_UNDER];
        int at = at0 + (int)threadIdx.x;
        head_orders(s, at, HEAD_THREADS, s->n, v);
        UNROLL
        for (int j = 0; j < HEAD_UNDER; j++) {
            uint64_t key = v[j] ? head_key(v[j], head_id(s, at + j * HEAD_THREADS)) : 0;
            bool yes = v[j] && key >= end;
            if (!dev_sync_or(yes)) continue;
            int before = 0;
            uint32_t hits = dev_ballot(yes);
            if (dev_lane() == 0) room->ids[dev_warp()] = dev_popc(hits);
            dev_sync();
            for (unsigned w = 0; w < dev_warp(); w++) before += room->ids[w];
            if (yes) room->top[filled + before + dev_popc(hits & ((1u << dev_lane()) - 1))] = key;
            for (unsigned w = 0; w < HEAD_WARPS; w++) filled += room->ids[w];
            dev_sync();
        }
    }
}

DEV int id_of(uint64_t key)
{
    return (int)~(uint32_t)key;
}

DEV void put_best(const struct head_source *s, int want, float norm, struct cuda_chosen *out)
{
    int i = (int)threadIdx.x, rank = 0;
    if (i >= want) return;
    uint64_t key = s->room->top[i];
    for (int j = 0; j < want; j++) rank += s->room->top[j] > key;
    out->top[rank].id = id_of(key);
    out->top[rank].logprob = s->r->x[id_of(key)] - norm;
}

/* The list is a set of largest logits, so it holds the best where it holds as many. */
DEV void tell(struct head_source *s, const struct cuda_choice *c, bool listed, int n, int id, struct cuda_chosen *out)
{
    struct share one = share_of(s->r->one, s->r->blocks, s->room->masses);
    float norm = s->most + (float)log(one.all);
    int want = c->tell - 1 < CHOOSE_TOP ? c->tell - 1 : CHOOSE_TOP;
    want = want < s->r->n ? want : s->r->n;
    if (threadIdx.x == 0) out->logprob = s->r->x[id] - norm, out->ntop = want;
    if (want < 1) return;
    s->by = BY_LOGIT;
    s->listed = listed && n >= want;
    s->n = s->listed ? n : s->r->n;
    head_fill(s);
    struct head_end end = head_find(s, want, HEAD_NEVER);
    gather_best(s, end.key);
    put_best(s, want, norm, out);
}

/* --- one row --- */

KERNEL(choose, HEAD_THREADS, 1)(GRID_CONST struct op_choose op)
{
    DYN_SHARED(struct head_room, room);
    dev_pdl_launch();
    dev_pdl_wait();
    int row = (int)blockIdx.x, id, n = 0;
    if (choose_skips(&op, row)) return;
    struct cuda_choice c = op.meta.choice[row];
    struct choose_row r = choose_row_of(&op, row);
    struct head_source s = {&r, room, false, 0, BY_WEIGHT, 0, c.inv_t, 0};
    struct cuda_chosen *out = &op.out[row];
    if (!choose_best(&r, room->values, room->ids, &s.most, &id)) {
        if (threadIdx.x == 0) out->id = 0, out->finite = 0; /* the next step may look it up */
        return;
    }
    bool draws = c.how == CHOOSE_DRAW, listed = false;
    dev_sync();
    if ((draws && choose_filters(&c, r.n)) || c.tell > 1) listed = head_list_ids(&r, room, &n);
    if (draws) id = draw(&s, &c, listed, n);
    if (c.how == CHOOSE_GIVEN) id = (int)c.given;
    if (threadIdx.x == 0) out->id = id, out->finite = 1, out->ntop = 0, out->logprob = 0;
    if (c.tell > 0) tell(&s, &c, listed, n, id, out);
}

size_t choose_scratch(int vocab)
{
    return (size_t)((vocab + LOGITS_BLOCK - 1) / LOGITS_BLOCK) * CHOOSE_SCRATCH;
}

int launch_choose(const struct op_choose *op, void *stream)
{
    if (op->logits < 1) return 0;
    if (op->tokens < 1 || op->tokens > op->vocab || op->tokens > HEAD_VOCAB_MAX) return RT_BAD_SHAPE;
    int rc = choose_weigh_launch(op, stream);
    if (rc) return rc;
    struct dev_launch l = {};
    l.gx = (unsigned)op->logits;
    l.threads = HEAD_THREADS;
    l.shared = sizeof(struct head_room);
    l.stream = stream;
    l.pdl = cuda_target.pdl;
    return LAUNCH(&l, choose, *op);
}
