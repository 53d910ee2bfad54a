/* place: the model's constants on the devices.
 *
 * Idea: operations name a constant by its host address, as on the CPU, and a table of those addresses says where it lies.
 * Weights of a site that one product reads (q, k, v; gate, up) are stacked, where they are of one kind: then the first
 * one's entry has the stack too. A group's devices hold the parts that shard.h gives them.
 *
 * The head: each device of a group multiplies its part of the vocabulary. Where the head is the embedding (tied), every
 * device has it whole for the look-up and the part is a view of it: no second copy, and no sum over devices for a look-up.
 * Where it is not, the embedding is whole on each device all the same: 1 GB of Llama-3-8B, 1/100 of a device, against a
 * collective more in every step.
 *
 *     place_plan    kinds and bytes (weight.h)         before memory is taken
 *     place_copy    panel by panel through two pinned buffers, packed on the host while the other one is on its way
 *
 * Start only; look-ups are the step's. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/fill.h"
#include <stdlib.h>
#include <string.h>

#define STAGE ((size_t)8 << 20) /* of panels that travel together */

struct placed {
    const void *host; /* NULL: free */
    const struct device_const *c;
    int parts; /* > 1: the stack's, whose first part this is; 0: lies in an earlier one's stack */
    bool floats;
    size_t at, bytes; /* in AREA_CONSTS */
    struct cuda_weight w[RANKS_MAX];
};

static size_t round_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static struct placed *find(const struct cuda_place *p, const void *host)
{
    size_t at = ((uintptr_t)host >> 4) * 0x9E3779B97F4A7C15u >> 20;
    for (;; at++) {
        struct placed *it = &p->item[at % (size_t)p->room];
        if (!it->host || it->host == host) return it;
    }
}

/* A rank's part of an item. */
static struct cuda_part part_of(const struct device *d, const struct device_const *c, int rank)
{
    struct shard s = cuda_shard(d, c->role, c->w->n, c->w->k, rank);
    return (struct cuda_part){.w = c->w, .row0 = s.row0, .n = s.n, .k0 = s.k0, .k = s.k};
}

static int parts_of(const struct device *d, const struct device_const *c, int parts, int rank, struct cuda_part *out)
{
    for (int i = 0; i < parts; i++) out[i] = part_of(d, &c[i], rank);
    return parts;
}

/* The rules were made for the model's shape; a matrix of another one would be cut elsewhere than what belongs to it. */
static int check_item(const struct device *d, const struct device_const *c, struct err *e)
{
    struct shard_rule rule = shard_rule_of(&d->shape, c->role);
    if (rule.split == SPLIT_NONE || (rule.n == c->w->n && rule.k == c->w->k)) return 0;
    return err_set(e, ERR_INTERNAL, "a matrix of %d outputs and %d inputs where the model's shape says %d and %d",
                   c->w->n, c->w->k, rule.n, rule.k);
}

/* How many items from c on make one stack: those of its site, if they stack at all. */
static int stack_of(const struct device *d, const struct device_const *c, int n)
{
    struct cuda_part part[PARTS_MAX];
    struct cuda_weight w;
    struct err ignored = {0};
    int parts = 1;
    while (parts < n && parts < PARTS_MAX && c->site > 0 && c[parts].site == c->site && c[parts].w) parts++;
    return parts > 1 && cuda_weight_plan(&w, part, parts_of(d, c, parts, 0, part), &ignored) == 0 ? parts : 1;
}

static int plan_weight(struct device *d, struct placed *it, struct err *e)
{
    struct cuda_part part[PARTS_MAX];
    for (int r = 0; r < d->ranks; r++) {
        int parts = parts_of(d, it->c, it->parts, r, part);
        if (part[0].n == 0) continue; /* the vocabulary's last parts may be empty */
        if (cuda_weight_plan(&it->w[r], part, parts, e)) return -1;
        cuda_weight_widen(&it->w[r], augment_columns_of(d, it->c, it->parts));
        size_t bytes = cuda_weight_bytes(&it->w[r]); /* of fp8 parts some may have one scale a row, others not */
        if (bytes > it->bytes) it->bytes = bytes;
    }
    return 0;
}

static int plan_item(struct device *d, const struct device_const *c, int left, int *taken, size_t at, struct placed *it,
                     struct err *e)
{
    *it = (struct placed){.host = c->w ? (const void *)c->w : c->f, .c = c, .at = at, .parts = 1, .floats = !c->w};
    *taken = 1;
    if (!c->w) {
        it->bytes = c->n * sizeof(float);
        return 0;
    }
    *taken = it->parts = stack_of(d, c, left);
    for (int i = 0; i < it->parts; i++)
        if (check_item(d, &c[i], e)) return -1;
    return plan_weight(d, it, e);
}

int place_plan(struct device *d, const struct device_const *c, int n, size_t *weights, size_t *constants, struct err *e)
{
    struct cuda_place *p = &d->place;
    p->room = 2 * n + 1;
    p->item = calloc((size_t)p->room, sizeof *p->item);
    p->list = c;
    p->n = n;
    if (!p->item) return err_set(e, ERR_NO_MEMORY, "no memory for a table of %d constants", n);
    *weights = *constants = 0;
    for (int i = 0, taken; i < n; i += taken) {
        struct placed *it = find(p, c[i].w ? (const void *)c[i].w : c[i].f);
        taken = 1;
        if (c[i].role == ROLE_HEAD && c[i].w) p->head = c[i].w;
        if (it->host) continue; /* tied, or shared */
        size_t at = *weights + *constants;
        if (plan_item(d, &c[i], n - i, &taken, at, it, e)) return -1;
        *(it->floats ? constants : weights) += round_up(it->bytes);
        for (int j = 1; j < taken; j++) {
            struct placed *inner = find(p, c[i + j].w);
            *inner = (struct placed){.host = c[i + j].w, .c = &c[i + j]};
        }
    }
    return 0;
}

/* --- copying --- */

struct stage {
    char *pinned[2];
    void *event[2];
    int turn;
};

static int stage_open(struct stage *s)
{
    for (int i = 0; i < 2; i++) {
        int rc = rt_host_alloc((void **)&s->pinned[i], STAGE);
        if (!rc) rc = rt_event_new(&s->event[i]);
        if (rc) return rc;
    }
    return 0;
}

static void stage_close(struct stage *s)
{
    for (int i = 0; i < 2; i++) {
        if (s->event[i]) rt_event_sync(s->event[i]);
        rt_host_free(s->pinned[i]);
        rt_event_free(s->event[i]);
    }
}

/* Panels from..to-1, which fit into the stage. */
static int copy_panels(struct stage *s, void *stream, const struct cuda_weight *w, const struct cuda_part *part,
                       int parts, int from, int to, char *base)
{
    int turn = s->turn ^= 1;
    size_t begin = cuda_panel_offset(w, from);
    int rc = rt_event_sync(s->event[turn]);
    if (rc) return rc;
    for (int p = from; p < to; p++)
        cuda_panel_pack(w, part, parts, p, s->pinned[turn] + (cuda_panel_offset(w, p) - begin));
    rc = rt_copy_in(base + begin, s->pinned[turn], cuda_panel_offset(w, to) - begin, stream);
    return rc ? rc : rt_event_record(s->event[turn], stream);
}

/* A bf16 weight that has no data on the host (tests/gpu/made.c) is made here: `bytes` says which values, `factor` how large. */
static int make_weight(const struct device *d, struct placed *it, int rank, char *base)
{
    int rc = it->w[rank].kind == KIND_BF16 && d->ranks == 1 ? 0 : RT_BAD_SHAPE;
    for (int i = 0, row0 = 0; !rc && i < it->parts; row0 += it->c[i++].w->n) {
        const struct weight *w = it->c[i].w;
        struct op_fill op = {w->n, w->k, it->w[rank].ld, (uint32_t)w->bytes, w->factor, (uint16_t *)base};
        op.out += (size_t)row0 * (size_t)op.ld;
        rc = launch_fill(&op, d->rank[rank].side);
    }
    cuda_weight_place(&it->w[rank], base);
    return rc ? rc : rt_stream_sync(d->rank[rank].side);
}

static int copy_weight(const struct device *d, struct stage *s, struct placed *it, int rank, char *base)
{
    if (it->w[rank].n == 0) return 0;
    if (!it->c->w->data) return make_weight(d, it, rank, base);
    struct cuda_part part[PARTS_MAX];
    const struct cuda_weight *w = &it->w[rank];
    int parts = parts_of(d, it->c, it->parts, rank, part), all = cuda_panels(w) + 1;
    for (int from = 0, to; from < all; from = to) {
        to = from + 1;
        if (cuda_panel_offset(w, to) - cuda_panel_offset(w, from) > STAGE) return RT_BAD_SHAPE;
        while (to < all && cuda_panel_offset(w, to + 1) - cuda_panel_offset(w, from) <= STAGE) to++;
        int rc = copy_panels(s, d->rank[rank].side, w, part, parts, from, to, base);
        if (rc) return rc;
    }
    cuda_weight_place(&it->w[rank], base);
    return 0;
}

static int copy_item(const struct device *d, struct stage *s, struct placed *it, int rank)
{
    char *base = (char *)arena_address(d, rank, AREA_CONSTS) + it->at;
    if (!it->floats) return copy_weight(d, s, it, rank, base);
    int rc = rt_copy_in(base, it->c->f, it->bytes, d->rank[rank].side);
    return rc ? rc : rt_stream_sync(d->rank[rank].side);
}

static int copy_rank(const struct device *d, int rank)
{
    struct stage s = {.turn = 0};
    int rc = rt_use(d->rank[rank].device);
    if (!rc) rc = stage_open(&s);
    for (int i = 0; !rc && i < d->place.room; i++) {
        struct placed *it = &d->place.item[i];
        if (it->host && (it->floats || it->parts)) rc = copy_item(d, &s, it, rank);
        cuda_progress();
    }
    stage_close(&s);
    return rc;
}

/* --- experts: a layer's weights as arrays, gate|up and down, [layers][2][experts] --- */

static int copy_experts(struct device *d, int rank)
{
    const struct device_shape *s = &d->shape;
    size_t n = (size_t)s->layers * 2 * (size_t)s->experts;
    struct cuda_weight *to = d->place.experts[rank] = calloc(n, sizeof *to);
    if (!to) return 2;
    for (int l = 0; l < s->layers; l++)
        for (int x = 0; s->expert[l] && x < s->experts; x++) {
            const struct weight *part = s->expert[l] + (size_t)x * EXPERT_PARTS;
            struct cuda_weight *at = d->place.experts[rank] + (size_t)l * 2 * (size_t)s->experts + x;
            const struct cuda_weight *gu = place_weight(d, rank, part, 2), *down = place_weight(d, rank, part + 2, 1);
            if (!gu || !down) return RT_BAD_SHAPE;
            at[0] = *gu;
            at[s->experts] = *down;
        }
    int rc =
        rt_copy_in(arena_address(d, rank, AREA_EXPERTS), d->place.experts[rank], n * sizeof *to, d->rank[rank].side);
    return rc ? rc : rt_stream_sync(d->rank[rank].side);
}

/* The rank's part of the head, which has its own matrix or is the embedding's. */
static void find_head(struct device *d, int rank)
{
    const struct cuda_weight *w = place_weight(d, rank, d->place.head, 1);
    struct shard s = cuda_shard(d, ROLE_HEAD, d->place.head->n, d->place.head->k, rank);
    d->place.heads[rank] = w->n == s.n ? *w : cuda_weight_view(w, s.row0, s.n);
}

int place_copy(struct device *d, struct err *e)
{
    for (int r = 0; r < d->ranks; r++) {
        int rc = copy_rank(d, r);
        if (!rc && d->shape.experts) rc = copy_experts(d, r);
        if (!rc && d->place.head) find_head(d, r);
        if (rc)
            return err_set(e, ERR_UNAVAILABLE, "copying the weights to device %d: %s", d->rank[r].device,
                           rt_error_text(rc));
    }
    return 0;
}

void place_close(struct device *d)
{
    for (int r = 0; r < RANKS_MAX; r++) free(d->place.experts[r]);
    free(d->place.item);
    d->place = (struct cuda_place){0};
}

void place_grouped(const struct device *d, int rank, int layer, bool down, const struct cuda_weight **host,
                   const struct cuda_weight **device)
{
    size_t at = ((size_t)layer * 2 + (down ? 1 : 0)) * (size_t)d->shape.experts;
    *host = d->place.experts[rank] + at;
    *device = (const struct cuda_weight *)arena_address(d, rank, AREA_EXPERTS) + at;
}

/* --- look-ups --- */

const struct cuda_weight *place_weight(const struct device *d, int rank, const struct weight *w, int parts)
{
    const struct placed *it = find(&d->place, w);
    return it->host && it->parts == parts ? &it->w[rank] : NULL;
}

const struct cuda_weight *place_head(const struct device *d, int rank)
{
    return &d->place.heads[rank];
}

const struct cuda_weight *place_nth(const struct device *d, int i, const struct device_const **c)
{
    *c = i < d->place.n ? &d->place.list[i] : NULL;
    if (!*c || !(*c)->w || (*c)->role == ROLE_EMBED) return NULL;
    if ((*c)->role == ROLE_HEAD) return &d->place.heads[0];
    const struct placed *it = find(&d->place, (*c)->w);
    return it->parts ? &it->w[0] : NULL;
}

const float *place_floats(const struct device *d, int rank, const float *f)
{
    if (!f) return NULL;
    const struct placed *it = find(&d->place, f);
    return it->host ? (const float *)((const char *)arena_address(d, rank, AREA_CONSTS) + it->at) : NULL;
}
