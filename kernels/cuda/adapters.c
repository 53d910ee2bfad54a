/* adapters: the pool that resident adapters lie in, and the tables that kernels find them by.
 *
 * Idea: a slot of the engine's set of adapters is a slot here. What the engine packed for the CPU (A in rows, B in panels)
 * is laid out for the kernels (lora_layout.h) on the loader's thread and copied on a stream of its own, then the slot's
 * rows of the resident tables. Steps never wait for this. It waits for steps in one case: a step is begun while the one
 * before it runs, so it may still read an adapter whose last request ended in the one before. So each slot knows the
 * last step that was begun with it, and what is copied after such a slot was dropped stays behind that step.
 *
 * The pool is cut into pages of 64 KB; an adapter takes a run of pages per layer, so that dropping many small ones leaves
 * room for a large one nearly always. Where it does not, ERR_NO_SLOT, and the loader drops another.
 *
 * A group's devices hold what shard.h says of the base's matrix: A is cut like its inputs (o and down), B, DoRA's factors
 * and matrices in the base's place like its outputs (the others, and the head by vocabulary). Offsets are the same on
 * all, room is what the largest part takes. What belongs to the embedding is whole on each, as the embedding is.
 *
 * Loader's thread; adapters_drop also by who holds the set's lock: it does not wait. */
#include "kernels/convert.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/lora_layout.h"
#include "kernels/lora.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_ALIGN 128
#define HOST_FULL 2 /* no memory on the host; the runtime says the same of the device's, which nobody asks for here */
#define SHARE 4     /* of what is left beside the weights, the adapters' pool gets 1/4 where nobody says otherwise */

/* A run of pages. */
struct piece {
    int page, pages;
};

/* A module where it will lie: `at` from the pool's begin. */
struct place {
    const struct lora_mod *mod;
    struct device_module shape; /* whole, not a rank's part */
    size_t at;
    struct cuda_module *row; /* of the host's copy of the table */
};

/* What a slot's tables say, on the host, for one rank. */
struct tables {
    struct cuda_module *mod, *expert, *router, *head;
    struct cuda_embed_module embed;
    const uint16_t *whole;
};

/* --- pages --- */

static bool is_used(const struct cuda_pool *p, int page)
{
    return p->used[page / 64] >> (page % 64) & 1;
}

static void mark(struct cuda_pool *p, const struct piece *piece, bool used)
{
    for (int i = piece->page; i < piece->page + piece->pages; i++) {
        if (used)
            p->used[i / 64] |= (uint64_t)1 << (i % 64);
        else
            p->used[i / 64] &= ~((uint64_t)1 << (i % 64));
    }
}

/* First fit. */
static bool take_pages(struct cuda_pool *p, int pages, struct piece *out)
{
    int run = 0;
    for (int i = 0; i < p->pages; i++) {
        run = is_used(p, i) ? 0 : run + 1;
        if (run < pages) continue;
        *out = (struct piece){.page = i - pages + 1, .pages = pages};
        mark(p, out, true);
        return true;
    }
    return false;
}

static void give_back(struct cuda_pool *p, struct cuda_slot *slot)
{
    for (int i = 0; i < slot->npieces; i++) mark(p, &slot->piece[i], false);
    if (slot->step > p->read_until) p->read_until = slot->step;
    free(slot->piece);
    *slot = (struct cuda_slot){.table = NULL};
}

/* --- sizes --- */

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static struct shard part_of(const struct device *d, const struct device_module *m, int rank)
{
    return cuda_shard(d, m->role, m->n, m->k, rank);
}

/* Of the first rank's part: no other one is larger. */
static size_t module_bytes(const struct device *d, const struct lora_mod *mod, const struct device_module *whole)
{
    size_t b_at;
    if (mod->r == 0) return 0;
    struct shard m = part_of(d, whole, 0);
    size_t factors = mod->row_scale ? (size_t)m.n * sizeof(float) : 0;
    return round_up(lora_layout_bytes(mod->r, m.n, m.k, &b_at), PIECE_ALIGN) + round_up(factors, PIECE_ALIGN);
}

/* Shapes of what is no column of the mod tables. */
static struct device_module expert_shape(const struct device_shape *s, int part)
{
    bool down = part == EXPERT_PARTS - 1;
    return (struct device_module){.n = down ? s->hidden : s->expert_mlp,
                                  .k = down ? s->expert_mlp : s->hidden,
                                  .role = down ? ROLE_EXPERT_DOWN : ROLE_EXPERT_GATE};
}
static struct device_module router_shape(const struct device_shape *s)
{
    return (struct device_module){.n = s->experts, .k = s->hidden};
}
static struct device_module head_shape(const struct device_shape *s)
{
    return (struct device_module){.n = s->vocab, .k = s->hidden, .role = ROLE_HEAD};
}
static struct device_module embed_shape(const struct device_shape *s)
{
    return (struct device_module){.n = s->vocab, .k = s->hidden, .role = ROLE_EMBED};
}

static size_t layer_bytes(const struct device *d, const struct lora_table *t, int layer)
{
    const struct device_shape *s = &d->shape;
    size_t sum = 0;
    for (int m = 0; m < s->modules; m++)
        sum += module_bytes(d, &t->mod[(size_t)layer * (size_t)s->modules + (size_t)m], &s->module[m]);
    for (int x = 0; t->expert && x < s->experts * EXPERT_PARTS; x++) {
        struct device_module shape = expert_shape(s, x % EXPERT_PARTS);
        sum += module_bytes(d, &t->expert[(size_t)(layer * s->experts * EXPERT_PARTS + x)], &shape);
    }
    struct device_module router = router_shape(s);
    return sum + (t->router ? module_bytes(d, &t->router[layer], &router) : 0);
}

static size_t whole_bytes(const struct device *d, const struct weight *w, struct device_module whole)
{
    struct shard s = part_of(d, &whole, 0);
    return w ? round_up((size_t)s.n * (size_t)s.k * 2, PIECE_ALIGN) : 0;
}

static size_t rest_bytes(const struct device *d, const struct lora_table *t)
{
    const struct device_shape *s = &d->shape;
    struct device_module head = head_shape(s);
    size_t sum = t->head ? module_bytes(d, t->head, &head) : 0;
    if (t->embed)
        sum += round_up((size_t)s->vocab * (size_t)t->embed->r * sizeof(float), PIECE_ALIGN) +
               round_up((size_t)s->hidden * (size_t)t->embed->r * sizeof(float), PIECE_ALIGN);
    return sum + whole_bytes(d, t->embed_full, embed_shape(s)) + whole_bytes(d, t->head_full, head);
}

/* --- copying: everything goes through `bring`, to one rank --- */

struct bringing {
    struct device *d;
    int rank, rc;
    size_t at; /* of the next, from the pool's begin */
};

static char *pool_at(const struct bringing *b, size_t at)
{
    return (char *)arena_address(b->d, b->rank, AREA_POOL) + at;
}

/* Returns where it lies on the device. */
static void *bring(struct bringing *b, const void *host, size_t bytes)
{
    char *to = pool_at(b, b->at);
    if (!b->rc) b->rc = rt_copy_in(to, host, bytes, b->d->rank[b->rank].side);
    if (!b->rc) b->rc = rt_stream_sync(b->d->rank[b->rank].side); /* host memory is taken back */
    cuda_progress();
    b->at += round_up(bytes, PIECE_ALIGN);
    return to;
}

/* A's inputs k0.. and B's outputs n0.. of the CPU's layout, row-major. */
static void unpack(const struct lora_mod *mod, const struct device_module *whole, struct shard part, uint16_t *a,
                   uint16_t *b)
{
    size_t r = (size_t)mod->r, n = (size_t)part.n, k = (size_t)part.k;
    for (size_t j = 0; j < r; j++)
        memcpy(a + j * k, (const uint16_t *)mod->a + j * (size_t)whole->k + (size_t)part.k0, k * sizeof *a);
    for (size_t i = 0; i < n; i++) {
        size_t o = (size_t)part.row0 + i;
        const uint16_t *panel = (const uint16_t *)mod->b + o / PANEL * r * PANEL + lora_b_index((int)(o % PANEL));
        for (size_t j = 0; j < r; j++) b[i * r + j] = panel[j * PANEL];
    }
}

static void bring_module(struct bringing *b, const struct lora_mod *mod, const struct device_module *whole,
                         struct cuda_module *row)
{
    struct shard part = part_of(b->d, whole, b->rank);
    *row = (struct cuda_module){.r = 0};
    if (mod->r == 0 || part.n == 0) return;
    size_t b_at, bytes = lora_layout_bytes(mod->r, part.n, part.k, &b_at);
    size_t na = (size_t)mod->r * (size_t)part.k, nb = (size_t)part.n * (size_t)mod->r;
    char *packed = aligned_alloc(PIECE_ALIGN, round_up(bytes, PIECE_ALIGN) + round_up((na + nb) * 2, PIECE_ALIGN));
    if (!packed || !bytes) {
        b->rc = b->rc ? b->rc : RT_BAD_SHAPE;
        free(packed);
        return;
    }
    uint16_t *flat = (uint16_t *)(packed + round_up(bytes, PIECE_ALIGN));
    unpack(mod, whole, part, flat, flat + na);
    lora_layout_pack(packed, mod->r, part.n, part.k, flat, flat + na);
    char *to = bring(b, packed, bytes);
    free(packed);
    *row = (struct cuda_module){.a = to, .b = to + b_at, .r = mod->r, .scale = mod->scale};
    if (mod->row_scale) row->row_scale = bring(b, mod->row_scale + part.row0, (size_t)part.n * sizeof(float));
}

static const uint16_t *bring_whole(struct bringing *b, const struct weight *w, struct device_module whole)
{
    struct shard part = part_of(b->d, &whole, b->rank);
    if (!w || part.n == 0) return NULL;
    size_t k = (size_t)w->k;
    float *row = malloc(k * sizeof *row);
    uint16_t *all = malloc((size_t)part.n * k * sizeof *all);
    if (!row || !all) b->rc = HOST_FULL;
    for (int i = 0; !b->rc && i < part.n; i++) {
        weight_row(w, part.row0 + i, row);
        for (size_t j = 0; j < k; j++) all[(size_t)i * k + j] = bf16_of_f32(row[j]);
    }
    const uint16_t *to = b->rc ? NULL : bring(b, all, (size_t)part.n * k * sizeof *all);
    free(row);
    free(all);
    return to;
}

static void bring_layer(struct bringing *b, const struct lora_table *t, int layer, struct tables *to)
{
    const struct device_shape *s = &b->d->shape;
    for (int m = 0; m < s->modules; m++) {
        size_t at = (size_t)layer * (size_t)s->modules + (size_t)m;
        bring_module(b, &t->mod[at], &s->module[m], &to->mod[at]);
    }
    for (int x = 0; t->expert && x < s->experts * EXPERT_PARTS; x++) {
        struct device_module shape = expert_shape(s, x % EXPERT_PARTS);
        size_t at = (size_t)(layer * s->experts * EXPERT_PARTS + x);
        bring_module(b, &t->expert[at], &shape, &to->expert[at]);
    }
    struct device_module router = router_shape(s);
    if (t->router) bring_module(b, &t->router[layer], &router, &to->router[layer]);
}

static void bring_rest(struct bringing *b, const struct lora_table *t, struct tables *to)
{
    const struct device_shape *s = &b->d->shape;
    struct device_module head = head_shape(s);
    if (t->head) bring_module(b, t->head, &head, to->head);
    if (t->embed) {
        size_t r = (size_t)t->embed->r;
        to->embed.r = t->embed->r;
        to->embed.scale = t->embed->scale;
        to->embed.a = bring(b, t->embed->a, (size_t)s->vocab * r * sizeof(float));
        to->embed.b = bring(b, t->embed->b, (size_t)s->hidden * r * sizeof(float));
    }
    to->embed.full = bring_whole(b, t->embed_full, embed_shape(s));
    to->whole = bring_whole(b, t->head_full, head);
}

/* --- tables --- */

/* The rows of a slot, one behind the other in one block. */
static struct cuda_module *tables_new(const struct device *d, struct tables *t)
{
    const struct device_shape *s = &d->shape;
    size_t mods = (size_t)(s->layers * s->modules), experts = (size_t)(s->layers * s->experts * EXPERT_PARTS);
    size_t routers = s->experts ? (size_t)s->layers : 0;
    struct cuda_module *block = calloc(mods + experts + routers + 1, sizeof *block);
    *t = (struct tables){.mod = block, .expert = block + mods, .router = block + mods + experts};
    t->head = t->router + routers;
    return block;
}

static void bring_rows(struct bringing *b, enum cuda_area area, int slot, const void *rows)
{
    size_t bytes = b->d->arena.bytes[area] / (size_t)b->d->shape.slots;
    char *to = (char *)arena_address(b->d, b->rank, area) + (size_t)slot * bytes;
    if (!b->rc) b->rc = rt_copy_in(to, rows, bytes, b->d->rank[b->rank].side);
}

static void bring_tables(struct bringing *b, int slot, const struct tables *t)
{
    bring_rows(b, AREA_TABLE_MOD, slot, t->mod);
    bring_rows(b, AREA_TABLE_EXPERT, slot, t->expert);
    bring_rows(b, AREA_TABLE_ROUTER, slot, t->router);
    bring_rows(b, AREA_TABLE_HEAD, slot, t->head);
    bring_rows(b, AREA_TABLE_EMBED, slot, &t->embed);
    bring_rows(b, AREA_TABLE_WHOLE, slot, &t->whole);
    if (!b->rc) b->rc = rt_stream_sync(b->d->rank[b->rank].side);
}

/* read_until: the last step that may read what lay there. */
static int put_rank(struct device *d, int rank, int slot, const struct lora_table *t, const struct piece *piece,
                    uint64_t read_until)
{
    struct tables host;
    struct cuda_module *block = tables_new(d, &host);
    struct bringing b = {.d = d, .rank = rank};
    if (!block) return HOST_FULL;
    b.rc = rt_use(d->rank[rank].device);
    if (!b.rc) b.rc = steps_hold(d, rank, read_until);
    for (int l = 0; l <= d->shape.layers; l++) {
        b.at = (size_t)piece[l].page * ADAPTER_PAGE;
        if (l < d->shape.layers)
            bring_layer(&b, t, l, &host);
        else
            bring_rest(&b, t, &host);
    }
    bring_tables(&b, slot, &host);
    free(block);
    return b.rc;
}

/* --- what others call --- */

static bool has_factors(const struct device *d, const struct lora_table *t)
{
    const struct device_shape *s = &d->shape;
    for (int i = 0; i < s->layers * s->modules; i++)
        if (t->mod[i].r && t->mod[i].row_scale) return true;
    for (int i = 0; t->expert && i < s->layers * s->experts * EXPERT_PARTS; i++)
        if (t->expert[i].r && t->expert[i].row_scale) return true;
    return t->head && t->head->row_scale;
}

static int most_rank(const struct device *d, const struct lora_table *t)
{
    const struct device_shape *s = &d->shape;
    int most = t->head ? t->head->r : 0;
    for (int i = 0; i < s->layers * s->modules; i++) most = t->mod[i].r > most ? t->mod[i].r : most;
    for (int i = 0; t->expert && i < s->layers * s->experts * EXPERT_PARTS; i++)
        most = t->expert[i].r > most ? t->expert[i].r : most;
    for (int i = 0; t->router && i < s->layers; i++) most = t->router[i].r > most ? t->router[i].r : most;
    return (most + LORA_RANK_STEP - 1) / LORA_RANK_STEP * LORA_RANK_STEP;
}

/* A run of pages for each layer, and one for what belongs to none. */
static bool take_room(struct device *d, const struct lora_table *t, struct cuda_slot *slot)
{
    int n = d->shape.layers + 1;
    slot->piece = calloc((size_t)n, sizeof *slot->piece);
    if (!slot->piece) return false;
    for (int l = 0; l < n; l++) {
        size_t bytes = l < d->shape.layers ? layer_bytes(d, t, l) : rest_bytes(d, t);
        struct piece *p = &slot->piece[slot->npieces++];
        if (bytes && !take_pages(&d->pool, (int)((bytes + ADAPTER_PAGE - 1) / ADAPTER_PAGE), p)) return false;
    }
    return true;
}

int adapters_put(struct device *d, int slot, const struct lora_table *t, struct err *e)
{
    struct cuda_pool *p = &d->pool;
    assert(slot >= 0 && slot < d->shape.slots && !p->slot[slot].table);
    struct cuda_slot fresh = {.table = t, .mode = LORA_PLAIN, .rank = most_rank(d, t)};
    fresh.columns = fresh.rank <= d->augment.ranks && !has_factors(d, t);
    if (fresh.columns) fresh.mode = LORA_COLUMNS;
    if (t->alone && (has_factors(d, t) || t->head_full)) fresh.mode = LORA_SCALED;
    pthread_mutex_lock(&p->lock);
    bool fits = take_room(d, t, &fresh);
    if (!fits) give_back(p, &fresh);
    uint64_t read_until = p->read_until;
    pthread_mutex_unlock(&p->lock);
    if (!fits) return err_set(e, ERR_NO_SLOT, "the device's pool of adapters has no room for it");
    for (int r = 0; r < d->ranks; r++) {
        int rc = put_rank(d, r, slot, t, fresh.piece, read_until);
        if (!rc) continue;
        bool its_own = rc == RT_BAD_SHAPE || rc == HOST_FULL; /* else the device is of no use any more */
        if (!its_own) cuda_failed(d, "copying an adapter", rc);
        pthread_mutex_lock(&p->lock);
        give_back(p, &fresh);
        pthread_mutex_unlock(&p->lock);
        return err_set(e, its_own ? ERR_NO_MEMORY : ERR_UNAVAILABLE, "copying the adapter to the device: %s",
                       rt_error_text(rc));
    }
    int rc = augment_put(d, slot);
    if (rc) {
        cuda_failed(d, "columns of an adapter", rc);
        return err_set(e, ERR_UNAVAILABLE, "columns of an adapter: %s", rt_error_text(rc));
    }
    p->slot[slot] = fresh;
    return 0;
}

void adapters_drop(struct device *d, int slot)
{
    pthread_mutex_lock(&d->pool.lock);
    give_back(&d->pool, &d->pool.slot[slot]);
    pthread_mutex_unlock(&d->pool.lock);
}

void adapters_use(struct device *d, const struct lora_batch *b, uint64_t step)
{
    for (int s = 0; b && s < b->nseg; s++)
        for (int u = 0; u < b->seg[s].nuse; u++) {
            struct lora_resident at;
            if (!adapters_resident(d, b->seg[s].use[u].t, &at)) d->pool.slot[at.slot].step = step;
        }
}

int adapters_new(struct device *d, struct err *e)
{
    struct cuda_pool *p = &d->pool;
    p->pages = (int)(d->arena.bytes[AREA_POOL] / ADAPTER_PAGE);
    p->used = calloc((size_t)p->pages / 64 + 1, sizeof *p->used);
    p->slot = calloc((size_t)d->shape.slots, sizeof *p->slot);
    p->ready = pthread_mutex_init(&p->lock, NULL) == 0;
    return p->used && p->slot && p->ready ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the adapters' pool");
}

void adapters_free(struct device *d)
{
    struct cuda_pool *p = &d->pool;
    for (int i = 0; p->slot && i < d->shape.slots; i++) give_back(p, &p->slot[i]);
    if (p->ready) pthread_mutex_destroy(&p->lock);
    free(p->slot);
    free(p->used);
    *p = (struct cuda_pool){.pages = 0};
}

size_t adapters_default_bytes(const struct device *d, size_t left)
{
    size_t bytes = d->shape.adapter_bytes > 0 ? (size_t)d->shape.adapter_bytes : left / SHARE;
    /* Each run of pages wastes half a page on average. */
    bytes += (size_t)d->shape.slots * (size_t)(d->shape.layers + 1) * ADAPTER_PAGE / 2;
    return d->shape.slots ? round_up(bytes, ADAPTER_PAGE) : 0;
}

int adapters_resident(void *u, const struct lora_table *t, struct lora_resident *out)
{
    const struct device *d = u;
    if (t->slot < 0 || t->slot >= d->shape.slots || d->pool.slot[t->slot].table != t) return -1;
    const struct cuda_slot *slot = &d->pool.slot[t->slot];
    *out = (struct lora_resident){t->slot, slot->rank, slot->columns};
    return 0;
}

void adapters_need(const struct device *d, const struct lora_batch *b, enum lora_mode *mode, int *ranks)
{
    *mode = LORA_NONE;
    *ranks = 0;
    for (int s = 0; b && s < b->nseg; s++) {
        int sum = 0;
        for (int u = 0; u < b->seg[s].nuse; u++) {
            struct lora_resident at;
            if (adapters_resident((void *)d, b->seg[s].use[u].t, &at)) continue; /* meta_write() says so */
            const struct cuda_slot *slot = &d->pool.slot[at.slot];
            if (slot->mode > *mode) *mode = slot->mode;
            if (*mode < LORA_PLAIN && b->seg[s].nuse > 1) *mode = LORA_PLAIN;
            sum += at.rank;
        }
        if (sum > *ranks) *ranks = sum;
    }
}
