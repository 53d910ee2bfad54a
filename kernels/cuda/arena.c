/* arena: the memory of a device, taken once, and the addresses that stand for it on the host.
 *
 * Idea: everything that the backend ever needs of a device is one block, cut by a plan that is the same on all devices
 * of a group. The host reserves a range of as many addresses that nobody can read or write; an address in it is a
 * *handle*: it can be kept in the structs of ops.h and computed with like the pointers of the CPU's path, means the same
 * place on every device, and faults where host code follows it by mistake.
 *
 *     device address = the device's block + (handle - the range's begin)
 *
 * Step thread and start; nothing here changes after arena_take(). */
#include "kernels/cuda/cuda.h"
#include <assert.h>
#include <sys/mman.h>

static size_t round_up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* The areas of experts, for rows * used places. */
static void plan_moe(struct device *d, size_t rows)
{
    const struct cuda_dims *m = &d->dim;
    size_t *bytes = d->arena.bytes, places = rows * (size_t)m->used, ex = (size_t)m->experts;
    if (!ex) return;
    bytes[AREA_EXPERTS] = (size_t)d->shape.layers * 2 * ex * sizeof(struct cuda_weight);
    bytes[AREA_MOE_LOGITS] = rows * ex * sizeof(float);
    bytes[AREA_MOE_INTS] = (3 * places + ex + 2) * sizeof(int32_t);
    bytes[AREA_MOE_WEIGHT] = places * sizeof(float);
    bytes[AREA_MOE_TILES] = places * sizeof(struct cuda_tile);
    bytes[AREA_MOE_G] = places * (size_t)m->hidden * 2;
    bytes[AREA_MOE_GU] = places * 2 * (size_t)m->expert_mlp * 2;
    bytes[AREA_MOE_A] = places * (size_t)m->expert_mlp * 2;
    bytes[AREA_MOE_Y] = places * (size_t)m->hidden * sizeof(float);
}

static void plan_tables(struct device *d)
{
    const struct device_shape *s = &d->shape;
    size_t *bytes = d->arena.bytes, slots = (size_t)s->slots, module = sizeof(struct cuda_module);
    size_t layers = slots * (size_t)s->layers;
    bytes[AREA_TABLE_MOD] = layers * (size_t)s->modules * module;
    bytes[AREA_TABLE_EXPERT] = layers * (size_t)s->experts * EXPERT_PARTS * module;
    bytes[AREA_TABLE_ROUTER] = s->experts ? layers * module : 0;
    bytes[AREA_TABLE_HEAD] = slots * module;
    bytes[AREA_TABLE_EMBED] = slots * sizeof(struct cuda_embed_module);
    bytes[AREA_TABLE_WHOLE] = slots * sizeof(uint16_t *);
}

static void plan_scratch(struct device *d, size_t rows, size_t places)
{
    const struct device_shape *s = &d->shape;
    const struct cuda_dims *m = &d->dim;
    size_t *bytes = d->arena.bytes, wide = most(most((size_t)m->qkv, 2 * (size_t)m->mlp), (size_t)m->hidden);
    size_t deep = most(most((size_t)m->q, (size_t)m->mlp), (size_t)m->hidden);
    int columns = augment_gap(d, AREA_H), most_rows = (int)most(most(rows, (size_t)s->max_logits), places);
    bytes[AREA_ATTN] = attn_scratch((int)rows, s->max_seqs, m->heads, m->head_dim, s->max_context);
    bytes[AREA_PRODUCT] = product_scratch(most_rows, (int)most(wide, (size_t)m->vocab), (int)deep + columns);
    bytes[AREA_LORA] = lora_scratch(most_rows, s->max_rank);
    bytes[AREA_CHOOSE] = (size_t)s->max_logits * choose_scratch(m->vocab) * sizeof(float);
    bytes[AREA_DENSE] = DENSE_SPACE;
}

void arena_plan(struct device *d)
{
    const struct device_shape *s = &d->shape;
    const struct cuda_dims *m = &d->dim;
    size_t *bytes = d->arena.bytes, rows = (size_t)cuda_rows_of(s->max_rows),
           logits = (size_t)cuda_rows_of(s->max_logits);
    size_t hidden = (size_t)m->hidden, inner = most((size_t)m->q, (size_t)m->mlp);
    bytes[AREA_X] = bytes[AREA_Y] = rows * hidden * sizeof(float);
    bytes[AREA_PART] = group_part_floats(d, rows) * sizeof(float);
    bytes[AREA_GATHER] = group_bytes(d, rows, logits);
    bytes[AREA_QKV] = rows * (size_t)m->qkv * 2;
    bytes[AREA_H] = most(rows, logits) * (hidden + (size_t)augment_gap(d, AREA_H)) * 2;
    bytes[AREA_A] = rows * (inner + (size_t)augment_gap(d, AREA_A)) * 2;
    bytes[AREA_GU] = rows * 2 * (size_t)m->mlp * 2;
    bytes[AREA_LOGITS] = logits * (size_t)m->vocab * sizeof(float);
    bytes[AREA_CHOSEN] = logits * sizeof(struct cuda_chosen);
    bytes[AREA_META] = meta_bytes_max(d);
    plan_scratch(d, rows, rows * (size_t)m->used);
    plan_moe(d, rows);
    plan_tables(d);
}

static int reserve(struct cuda_arena *a, struct err *e)
{
    void *p = mmap(NULL, a->total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return err_set(e, ERR_NO_MEMORY, "no %zu addresses for the device's memory", a->total);
    a->range = p;
    return 0;
}

int arena_take(struct device *d, struct err *e)
{
    struct cuda_arena *a = &d->arena;
    for (int i = 0; i < AREAS; i++) {
        a->at[i] = a->total;
        a->total += round_up(a->bytes[i]);
    }
    if (reserve(a, e)) return -1;
    for (int r = 0; r < d->ranks; r++) {
        int rc = rt_use(d->rank[r].device);
        if (!rc) rc = rt_alloc((void **)&d->rank[r].base, a->total);
        if (rc)
            return err_set(e, ERR_NO_MEMORY, "device %d gives no %zu MB: %s", d->rank[r].device, a->total >> 20,
                           rt_error_text(rc));
    }
    return 0;
}

void arena_close(struct device *d)
{
    for (int r = 0; r < d->ranks; r++) {
        rt_use(d->rank[r].device);
        rt_free(d->rank[r].base);
        d->rank[r].base = NULL;
    }
    if (d->arena.range) munmap(d->arena.range, d->arena.total);
    d->arena = (struct cuda_arena){0};
}

void *arena_handle(const struct device *d, enum cuda_area area)
{
    return d->arena.range + d->arena.at[area];
}

void *arena_address(const struct device *d, int rank, enum cuda_area area)
{
    return d->rank[rank].base + d->arena.at[area];
}

size_t arena_offset(const struct device *d, const void *handle)
{
    size_t at = (size_t)((const char *)handle - d->arena.range);
    assert(at < d->arena.total);
    return at;
}
