/* backend: a group of devices from open to close, and the door through which device.c comes in.
 *
 *     open    the devices answer; a stream for steps, one for adapters
 *     start   shapes of a rank, sizes of the constants, the plan, one block of memory each, constants copied
 *     close   in the opposite order; after a failure too
 *
 * The plan: weights and constants are what they are, the workspace follows from the largest step, the adapters' pool is
 * what was asked for or a quarter of the rest, pages of keys and values are what was asked for or all that is left but a
 * reserve for the driver. What does not fit is refused with the sums.
 *
 * One group per process, because operations are called without a word about whose they are (struct kernels). */
#include "kernels/cuda/cuda.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What stays the driver's (graphs, libraries' kernels and buffers): 1 GB, more of large memories, less of small ones. */
#define RESERVE ((size_t)1 << 30)
#define RESERVE_LEAST 32
#define RESERVE_MOST 16
#define CC_LEAST 80 /* compute capability, times ten: what the kernels are compiled for */

struct device *cuda_device;
static atomic_ullong progress;

void cuda_progress(void)
{
    atomic_fetch_add_explicit(&progress, 1, memory_order_relaxed);
}

static uint64_t backend_progress(void)
{
    return atomic_load_explicit(&progress, memory_order_relaxed);
}

/* --- open --- */

static int open_rank(struct cuda_rank *r, int device, struct err *e)
{
    r->device = device;
    int rc = rt_use(device);
    if (!rc) rc = rt_about(device, &r->info);
    if (!rc && r->info.cc < CC_LEAST)
        return err_set(e, ERR_UNAVAILABLE, "device %d, %s, has compute capability %d.%d: %d.%d or more is needed",
                       device, r->info.name, r->info.cc / 10, r->info.cc % 10, CC_LEAST / 10, CC_LEAST % 10);
    if (!rc) rc = rt_stream_new(&r->stream, true);
    if (!rc) rc = rt_stream_new(&r->side, false);
    return rc ? err_set(e, ERR_UNAVAILABLE, "device %d: %s", device, rt_error_text(rc)) : 0;
}

static int open_group(struct device *d, struct err *e)
{
    int devices[RANKS_MAX];
    if (d->ranks == 1) return 0;
    for (int r = 0; r < d->ranks; r++) {
        devices[r] = d->rank[r].device;
        if (d->rank[r].info.cc != d->rank[0].info.cc || d->rank[r].info.sms != d->rank[0].info.sms)
            return err_set(e, ERR_UNAVAILABLE, "a group of %s and %s: its devices must be alike", d->rank[0].info.name,
                           d->rank[r].info.name);
    }
    int rc = rt_group_new(&d->group, devices, d->ranks);
    if (rc == RT_NO_LIBRARY)
        return err_set(e, ERR_UNAVAILABLE, "a group of %d devices needs NCCL: libnccl.so.2 does not load", d->ranks);
    return rc ? err_set(e, ERR_UNAVAILABLE, "a group of %d devices: %s", d->ranks, rt_error_text(rc)) : 0;
}

static void backend_close(struct device *d)
{
    if (!d) return;
    if (!atomic_load(&d->code)) /* what failed may never come back from waiting */
        for (int r = 0; r < d->ranks; r++)
            if (d->rank[r].stream) rt_stream_sync(d->rank[r].stream);
    if (d->group && atomic_load(&d->code)) group_end(d);
    steps_drain(d);
    for (int r = 0; r < d->ranks; r++) { /* before what their work may still read */
        rt_use(d->rank[r].device);
        rt_stream_free(d->rank[r].stream);
        rt_stream_free(d->rank[r].side);
    }
    steps_free(d);
    adapters_free(d);
    augment_close(d);
    place_close(d);
    for (int r = 0; r < d->ranks; r++) {
        rt_use(d->rank[r].device);
        rt_dense_free(d->rank[r].dense);
    }
    arena_close(d);
    rt_group_free(d->group);
    free(d);
    cuda_device = NULL;
}

static int check_devices(int first, int ranks, struct err *e)
{
    int there = 0, rc = rt_count(&there);
    if (rc || there == 0) return err_set(e, ERR_UNAVAILABLE, "no device: %s", rc ? rt_error_text(rc) : "none is there");
    if (ranks < 1 || ranks > RANKS_MAX)
        return err_set(e, ERR_USAGE, "a group has 1 to %d devices, not %d", RANKS_MAX, ranks);
    if (first < 0 || first + ranks > there)
        return err_set(e, ERR_UNAVAILABLE, "devices %d to %d were asked for, %d are there", first, first + ranks - 1,
                       there);
    return cuda_device ? err_set(e, ERR_USAGE, "a device is open already") : 0;
}

static int backend_open(struct device **out, int first, int ranks, struct err *e)
{
    if (check_devices(first, ranks, e)) return -1;
    struct device *d = calloc(1, sizeof *d);
    if (!d) return err_set(e, ERR_NO_MEMORY, "no memory for a device");
    cuda_device = d;
    d->ranks = ranks;
    for (int r = 0; r < ranks; r++)
        if (open_rank(&d->rank[r], first + r, e)) goto fail;
    if (open_group(d, e)) goto fail;
    const struct rt_info *i = &d->rank[0].info;
    cuda_target = (struct cuda_target){.cc = i->cc, .sms = i->sms, .shared_block = i->shared_block, .pdl = i->cc >= 90};
    d->kernels = cuda_table;
    d->kernels.device = d;
    *out = d;
    return 0;
fail:
    backend_close(d);
    return -1;
}

static void backend_about(const struct device *d, struct device_about *out)
{
    *out = (struct device_about){.ranks = d->ranks, .memory = d->rank[0].info.memory};
    snprintf(out->name, sizeof out->name, "%s", d->rank[0].info.name);
    snprintf(out->backend, sizeof out->backend, "%s", d->kernels.name);
}

static const struct kernels *backend_kernels(const struct device *d)
{
    return &d->kernels;
}

/* --- start --- */

static int check_shape(const struct device *d, const struct device_shape *s, struct err *e)
{
    if (shard_model(s, d->ranks, e)) return -1;
    if (s->kv_type == KV_F32) return err_set(e, ERR_USAGE, "keys and values are bf16 or int8 on a device");
    if (s->modules > DEVICE_MODULES || s->max_rows < 1 || s->max_seqs < 1 || s->slots < 1)
        return err_set(e, ERR_INTERNAL, "the device is asked for a shape that it does not know");
    return 0;
}

/* Outputs of a rank's part; all ranks have as many of these. */
static int width_of(const struct device *d, enum device_role role)
{
    const struct shard_rule rule = shard_rule_of(&d->shape, role);
    return shard_of(&rule, d->ranks, 0).n;
}

static void take_shape(struct device *d, const struct device_shape *s)
{
    const struct shard_rule head = shard_rule_of(s, ROLE_HEAD);
    struct cuda_dims *m = &d->dim;
    d->shape = *s;
    *m = (struct cuda_dims){.head_dim = s->head_dim,
                            .hidden = s->hidden,
                            .q = width_of(d, ROLE_Q),
                            .kv = width_of(d, ROLE_KV),
                            .mlp = width_of(d, ROLE_GATE),
                            .vocab = s->vocab,
                            .head = d->ranks > 1 ? shard_step(&head, d->ranks) : s->vocab,
                            .experts = s->experts,
                            .used = s->experts_used,
                            .expert_mlp = width_of(d, ROLE_EXPERT_GATE)};
    m->heads = m->q / m->head_dim;
    m->kv_heads = m->kv / m->head_dim;
    m->qkv = m->q + 2 * m->kv;
}

static size_t sum_areas(const struct device *d, enum cuda_area from, enum cuda_area to)
{
    size_t sum = 0;
    for (int i = (int)from; i < (int)to; i++) sum += d->arena.bytes[i] + ALIGN;
    return sum;
}

/* What pages are left for: all but what stands, or what was asked for. */
static int plan_pages(struct device *d, size_t left, struct err *e)
{
    const struct device_shape *s = &d->shape;
    struct device_plan *p = &d->plan;
    p->kv_page_bytes = kv_layer_page_bytes(s->kv_type, d->dim.kv_heads, d->dim.head_dim);
    size_t page = p->kv_page_bytes * (size_t)s->layers, bytes = left;
    if (s->kv_bytes > 0) bytes = (size_t)s->kv_bytes;
    size_t enough = ((size_t)s->max_context / KV_PAGE + 1) * (size_t)s->max_seqs; /* nobody can use more */
    size_t pages = bytes / page < enough ? bytes / page : enough;
    if (pages < 1 || pages * page > left)
        return err_set(e, ERR_USAGE,
                       "the device has %zu MB: weights %zu, constants %zu, workspace %zu, adapters %zu, and %zu MB of "
                       "keys and values do not fit",
                       p->memory >> 20, p->weights >> 20, p->constants >> 20, p->workspace >> 20, p->adapters >> 20,
                       bytes >> 20);
    p->kv_pages = (int)(pages < (1 << 24) ? pages : 1 << 24);
    p->kv = (size_t)p->kv_pages * page;
    return 0;
}

/* What all devices have free: now, for a group's communicators took theirs since they were opened. */
static int find_free(struct device *d, size_t *has, struct err *e)
{
    *has = d->rank[0].info.memory;
    for (int r = 0; r < d->ranks; r++) {
        int rc = rt_about(d->rank[r].device, &d->rank[r].info);
        if (rc) return err_set(e, ERR_UNAVAILABLE, "device %d: %s", d->rank[r].device, rt_error_text(rc));
        if (d->rank[r].info.free < *has) *has = d->rank[r].info.free;
    }
    return 0;
}

static int make_plan(struct device *d, struct err *e)
{
    struct device_plan *p = &d->plan;
    size_t *bytes = d->arena.bytes, has;
    if (find_free(d, &has, e)) return -1;
    p->memory = d->rank[0].info.memory;
    size_t least = p->memory / RESERVE_LEAST, most = p->memory / RESERVE_MOST;
    size_t reserve = least > RESERVE ? least : most < RESERVE ? most : RESERVE;
    arena_plan(d);
    p->workspace = sum_areas(d, 0, AREA_POOL);
    p->staging = 2 * bytes[AREA_META] + (size_t)d->shape.max_logits * (size_t)d->dim.vocab * sizeof(float);
    size_t stands = p->weights + p->constants + p->workspace + reserve;
    size_t left = has > stands ? has - stands : 0;
    p->adapters = bytes[AREA_POOL] = adapters_default_bytes(d, left);
    bytes[AREA_CONSTS] = p->weights + p->constants;
    if (plan_pages(d, left > p->adapters ? left - p->adapters : 0, e)) return -1;
    bytes[AREA_KV] = p->kv;
    p->total = p->weights + p->constants + p->workspace + p->adapters + p->kv;
    return 0;
}

static int start_ranks(struct device *d, struct err *e)
{
    for (int r = 0; r < d->ranks; r++) {
        int rc = rt_use(d->rank[r].device);
        if (!rc) rc = rt_dense_new(&d->rank[r].dense, arena_address(d, r, AREA_DENSE), DENSE_SPACE);
        if (rc) return err_set(e, ERR_UNAVAILABLE, "device %d: %s", d->rank[r].device, rt_error_text(rc));
    }
    return 0;
}

static int backend_start(struct device *d, const struct device_shape *s, const struct device_const *c, int n,
                         struct device_plan *plan, struct err *e)
{
    if (check_shape(d, s, e)) return -1;
    take_shape(d, s);
    augment_plan(d);
    if (place_plan(d, c, n, &d->plan.weights, &d->plan.constants, e)) return -1;
    if (make_plan(d, e) || arena_take(d, e) || start_ranks(d, e)) return -1;
    if (place_copy(d, e) || adapters_new(d, e) || steps_new(d, e)) return -1;
    int rc = augment_start(d);
    if (!rc) rc = measure_products(d);
    if (rc) return err_set(e, ERR_UNAVAILABLE, "trying products on the device: %s", rt_error_text(rc));
    *plan = d->plan;
    return 0;
}

static void *backend_room(struct device *d, enum device_room which)
{
    static const enum cuda_area area[ROOMS] = {
        [ROOM_X] = AREA_X,           [ROOM_Y] = AREA_Y,   [ROOM_Q] = AREA_QKV, [ROOM_H] = AREA_H,   [ROOM_A] = AREA_A,
        [ROOM_LOGITS] = AREA_LOGITS, [ROOM_KV] = AREA_KV, [ROOM_K] = AREA_QKV, [ROOM_V] = AREA_QKV,
    };
    char *p = arena_handle(d, area[which]);
    if (which == ROOM_K) p += (size_t)d->dim.q * 2;
    if (which == ROOM_V) p += (size_t)(d->dim.q + d->dim.kv) * 2;
    return p;
}

static void backend_counts(const struct device *d, struct device_counts *out)
{
    *out = (struct device_counts){.graphs = d->steps.walks, .replays = d->steps.replays};
}

const struct device_backend weft_device_backend = {.version = DEVICE_VERSION,
                                                   .sizes = DEVICE_SIZES,
                                                   .open = backend_open,
                                                   .close = backend_close,
                                                   .about = backend_about,
                                                   .kernels = backend_kernels,
                                                   .start = backend_start,
                                                   .room = backend_room,
                                                   .adapter_put = adapters_put,
                                                   .adapter_drop = adapters_drop,
                                                   .begin = steps_begin,
                                                   .enter = steps_enter,
                                                   .leave = steps_leave,
                                                   .launch = steps_launch,
                                                   .finish = steps_finish,
                                                   .counts = backend_counts,
                                                   .failed = cuda_outcome,
                                                   .progress = backend_progress};
