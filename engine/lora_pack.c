/* lora_pack: an opened adapter into the memory that products read.
 *
 * One block holds everything that a step touches, one part behind the other; the tables that say where are beside it.
 * Rows of B are in Hugging Face's order, as the base's are after loading: no reordering.
 *
 *     part       A, B as lora_mod_pack() lays them, under DoRA then a factor for each output row:
 *                    g = magnitude / || W + s B A ||        (Liu et al. 2024, section 4.3; PEFT's DoraLinearLayer)
 *                from the base's dequantized rows, in float64
 *     embedding  A transposed, [vocab][r], so that a token is one run of floats; B transposed
 *     wholes     a matrix in the base's place, packed like a weight; one that holds the base's own values is dropped
 *                (PEFT saves those of an adapted embedding along)
 *
 * On a base whose head is its embedding: a whole matrix that was not the adapter's own replaces both, as PEFT loads it
 * over the one parameter that both are; LoRA on the embedding reaches the head only under ensure_weight_tying.
 *
 * The loader's thread. */
#include "engine/lora_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LINE 64
#define ROWS_A_BREATH 16 /* of DoRA's norms, the dearest rows, and of whole matrices */

static const enum tensor_type type_of[] = {[ST_F32] = T_F32, [ST_F16] = T_F16, [ST_BF16] = T_BF16};

/* A packing under way. With block NULL it only counts. */
struct packing {
    const struct model *m;
    const struct adapter *a;
    struct slot *slot;
    struct lora_pace *pace;
    enum lora_type type;
    char *block;
    size_t used;
};

static void *take(struct packing *p, size_t bytes)
{
    void *at = p->block ? p->block + p->used : NULL;
    p->used += (bytes + LINE - 1) / LINE * LINE;
    return at;
}

const struct weight *lora_base_of(const struct model *m, int layer, int expert, int module)
{
    static const struct weight none;
    const struct model_layer *l = &m->layer[layer];
    if (expert < 0) return &l->module[module];
    return l->expert ? &l->expert[expert].part[module - LM_GATE] : &none;
}

/* --- one part --- */

static const void *element_at(const struct st_tensor *t, int64_t i)
{
    return (const char *)t->data + (size_t)i * st_dtype_bytes(t->dtype);
}

/* B's rows as they are in the file, or NULL where the part's are not one run. */
static const void *b_rows(const struct adapter_part *p)
{
    return p->b_step == 1 && p->b->dim[1] == p->r ? element_at(p->b, p->b_row0 * p->r) : NULL;
}

/* A and B as float32, malloc'ed: a [r][in], b [out][r]. */
static int part_floats(const struct adapter_part *p, int out, int in, float **a, float **b, struct err *e)
{
    size_t na = (size_t)p->r * (size_t)in, nb = (size_t)out * (size_t)p->r;
    *a = malloc(na * sizeof **a);
    *b = malloc(nb * sizeof **b);
    if (!*a || !*b) return err_set(e, ERR_NO_MEMORY, "no memory to convert %s", p->a->name);
    tensor_to_f32(type_of[p->a->dtype], element_at(p->a, p->a_row0 * in), (int64_t)na, *a);
    for (int o = 0; o < out; o++)
        for (int j = 0; j < p->r; j++) (*b)[(size_t)o * (size_t)p->r + (size_t)j] = adapter_part_b(p, o, j);
    return 0;
}

static int row_factors(const struct adapter_part *p, const struct weight *w, const float *a, const float *b, float *g,
                       struct lora_pace *pace, struct err *e)
{
    float *row = malloc((size_t)w->k * sizeof *row);
    double *scratch = malloc((size_t)w->k * sizeof *scratch), c[PEFT_RANK_MAX];
    int rc = row && scratch ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the norms of %s", p->a->name);
    for (int o = 0; !rc && o < w->n; o++) {
        for (int j = 0; j < p->r; j++) c[j] = (double)p->scale * (double)b[(size_t)o * (size_t)p->r + (size_t)j];
        weight_row(w, o, row);
        if (o % ROWS_A_BREATH == 0) lora_breathe(pace);
        double norm = lora_row_norm(row, a, c, p->r, w->k, scratch);
        g[o] = (float)((double)st_get(p->magnitude, p->b_row0 + o) / norm);
        if (!isfinite(g[o]))
            rc = err_set(e, ERR_ADAPTER_INVALID,
                         "%.200s: row %d of the adapted matrix has the norm %g: DoRA's factor "
                         "is no number",
                         p->magnitude->name, o, norm);
    }
    free(row);
    free(scratch);
    return rc;
}

static int fill_part(const struct packing *k, struct lora_mod *mod, void *dst, float *factors,
                     const struct adapter_part *p, const struct weight *w, struct err *e)
{
    const void *rows = b_rows(p);
    float *a = NULL, *b = NULL;
    bool as_it_is = rows && p->a->dtype == p->b->dtype;
    int rc = as_it_is && !p->magnitude ? 0 : part_floats(p, w->n, w->k, &a, &b, e);
    if (!rc && as_it_is)
        lora_mod_pack(mod, k->type, dst, p->r, w->n, w->k, p->scale, type_of[p->a->dtype],
                      element_at(p->a, p->a_row0 * w->k), rows, NULL);
    else if (!rc)
        lora_mod_pack(mod, k->type, dst, p->r, w->n, w->k, p->scale, T_F32, a, b, NULL);
    if (!rc && p->magnitude) {
        rc = row_factors(p, w, a, b, factors, k->pace, e);
        mod->row_scale = factors;
    }
    free(a);
    free(b);
    return rc;
}

static int pack_part(struct packing *k, struct lora_mod *mod, const struct adapter_part *p, const struct weight *w,
                     struct err *e)
{
    if (!p->a) return 0;
    if (!w->n)
        return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s: this layer of %.100s has no such module", p->a->name,
                       k->m->desc.name);
    void *dst = take(k, lora_mod_bytes(k->type, p->r, w->n, w->k));
    float *factors = p->magnitude ? take(k, (size_t)w->n * sizeof *factors) : NULL;
    if (k->block) lora_breathe(k->pace);
    return k->block ? fill_part(k, mod, dst, factors, p, w, e) : 0;
}

/* --- embedding --- */

static void fill_embed(struct lora_embed *to, float *a, float *b, const struct adapter_part *p, int vocab, int hidden)
{
    for (int j = 0; j < p->r; j++)
        for (int t = 0; t < vocab; t++) a[(size_t)t * (size_t)p->r + (size_t)j] = adapter_part_a(p, j, t);
    for (int h = 0; h < hidden; h++)
        for (int j = 0; j < p->r; j++) b[(size_t)j * (size_t)hidden + (size_t)h] = adapter_part_b(p, h, j);
    *to = (struct lora_embed){.r = p->r, .scale = p->scale, .a = a, .b = b};
}

static void pack_embed(struct packing *k)
{
    const struct adapter_part *p = &k->a->embed;
    int vocab = k->m->desc.vocab, hidden = k->m->desc.hidden;
    if (!p->a) return;
    float *a = take(k, (size_t)vocab * (size_t)p->r * sizeof *a),
          *b = take(k, (size_t)hidden * (size_t)p->r * sizeof *b);
    if (k->block) fill_embed(&k->slot->embed, a, b, p, vocab, hidden);
}

/* ensure_weight_tying on a tied base: the head's A is the embedding's B turned around, and the reverse. */
static int pack_tied_head(struct packing *k, struct err *e)
{
    const struct adapter_part *p = &k->a->embed;
    const struct weight *w = k->m->head;
    void *dst = take(k, lora_mod_bytes(k->type, p->r, w->n, w->k));
    if (!k->block) return 0;
    size_t na = (size_t)p->r * (size_t)w->k, nb = (size_t)w->n * (size_t)p->r;
    float *f = malloc((na + nb) * sizeof *f);
    if (!f) return err_set(e, ERR_NO_MEMORY, "no memory to convert %s", p->a->name);
    for (int j = 0; j < p->r; j++)
        for (int i = 0; i < w->k; i++) f[(size_t)j * (size_t)w->k + (size_t)i] = adapter_part_b(p, i, j);
    for (int o = 0; o < w->n; o++)
        for (int j = 0; j < p->r; j++) f[na + (size_t)o * (size_t)p->r + (size_t)j] = adapter_part_a(p, j, o);
    lora_mod_pack(&k->slot->head, k->type, dst, p->r, w->n, w->k, k->a->head.scale, T_F32, f, f + na, NULL);
    free(f);
    return 0;
}

/* --- all parts --- */

static int pack_experts(struct packing *k, int layer, struct err *e)
{
    const struct adapter *a = k->a;
    for (int x = 0; a->expert && x < a->experts; x++)
        for (int i = 0; i < EXPERT_PARTS; i++) {
            size_t at = ((size_t)layer * (size_t)a->experts + (size_t)x) * EXPERT_PARTS + (size_t)i;
            if (pack_part(k, &k->slot->expert[at], &a->expert[at], lora_base_of(k->m, layer, x, LM_GATE + i), e))
                return -1;
        }
    return 0;
}

/* The matrix that the adapter's rows of the head come through, whose norms DoRA takes. */
static const struct weight *head_of(const struct packing *k)
{
    const struct slot *s = k->slot;
    bool one = k->a->full_tied && k->m->head == &k->m->embed && !k->a->head_full;
    return s->head_full.n ? &s->head_full : one && s->embed_full.n ? &s->embed_full : k->m->head;
}

static int pack_all(struct packing *k, struct err *e)
{
    const struct model *m = k->m;
    const struct adapter *a = k->a;
    const struct weight *head = head_of(k);
    for (int l = 0; l < a->layers; l++) {
        for (int i = 0; i < LORA_MODULES; i++) {
            size_t at = (size_t)l * LORA_MODULES + (size_t)i;
            if (pack_part(k, &k->slot->pub.mod[at], &a->part[at], &m->layer[l].module[i], e)) return -1;
        }
        if (pack_experts(k, l, e)) return -1;
        if (a->router && pack_part(k, &k->slot->router[l], &a->router[l], &m->layer[l].router, e)) return -1;
    }
    pack_embed(k);
    if (a->tied && !a->head.a && m->head == &m->embed) return pack_tied_head(k, e);
    return pack_part(k, &k->slot->head, &a->head, head, e);
}

/* --- wholes --- */

/* A whole matrix of the file as rows, resting between some of them. */
struct whole {
    const struct st_tensor *t;
    struct lora_pace *pace;
};

static int read_whole(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    const struct whole *w = s->u;
    tensor_to_f32(type_of[w->t->dtype], element_at(w->t, (int64_t)row * s->k), s->k, out->f);
    if (row % ROWS_A_BREATH == 0) lora_breathe(w->pace);
    return 0;
}

static int fill_whole(struct packing *k, struct weight *w, const struct st_tensor *t, struct err *e)
{
    const struct whole u = {.t = t, .pace = k->pace};
    const struct weight_source s = {.kind = CODES_FLOAT,
                                    .n = (int)t->dim[0],
                                    .k = (int)t->dim[1],
                                    .read = read_whole,
                                    .u = &u,
                                    .format = st_dtype_name(t->dtype)};
    return weight_pack_source(w, &s, NULL, k->m->prec, LAYOUT_AUTO, NULL, e);
}

static int same_values(const struct weight *w, const struct weight *base, struct lora_pace *pace, bool *same,
                       struct err *e)
{
    float *x = malloc(2 * (size_t)w->k * sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory to compare a matrix with the base's");
    *same = w->n == base->n && w->k == base->k;
    for (int row = 0; *same && row < w->n; row++) {
        if (row % ROWS_A_BREATH == 0) lora_breathe(pace);
        weight_row(w, row, x);
        weight_row(base, row, x + w->k);
        *same = memcmp(x, x + w->k, (size_t)w->k * sizeof *x) == 0;
    }
    free(x);
    return 0;
}

static int pack_whole(struct packing *k, struct weight *w, const struct st_tensor *t, const struct weight *base,
                      struct err *e)
{
    bool same = false;
    if (!t) return 0;
    if (fill_whole(k, w, t, e) || same_values(w, base, k->pace, &same, e)) return -1;
    if (same) weight_close(w);
    if (same) *w = (struct weight){0};
    k->slot->pub.bytes += w->bytes;
    return 0;
}

/* Where both are one, two that were the base's can't be loaded over it. */
static int check_tied(const struct packing *k, struct err *e)
{
    const struct adapter *a = k->a;
    const struct st_tensor *x = a->embed_full, *y = a->head_full;
    bool base_s = !a->config->saves_embed && !a->config->saves_head;
    if (!x || !y || k->m->head != &k->m->embed || !(base_s || a->config->ensure_weight_tying)) return 0;
    for (int64_t i = 0, n = x->dim[0] * x->dim[1]; i < n; i++)
        if (st_get(x, i) != st_get(y, i))
            return err_set(e, ERR_ADAPTER_INVALID,
                           ADAPTER_WEIGHTS_FILE
                           ": %.120s and %.120s differ, and in %.60s they are one matrix; save the "
                           "adapter with save_embedding_layers=False",
                           x->name, y->name, k->m->desc.name);
    return 0;
}

/* PEFT computes with them at every position; here an adapter that sleeps takes no part at all. */
static int check_asleep(const struct packing *k, struct err *e)
{
    const struct slot *s = k->slot;
    if (!k->a->config->ninvocation || (!s->embed_full.n && !s->head_full.n)) return 0;
    return err_set(e, ERR_ADAPTER_INVALID,
                   ADAPTER_WEIGHTS_FILE ": %.160s has other values than %.60s, which is not served with "
                                        "alora_invocation_tokens; save the adapter with save_embedding_layers=False",
                   s->embed_full.n ? k->a->embed_full->name : k->a->head_full->name, k->m->desc.name);
}

static int pack_wholes(struct packing *k, struct err *e)
{
    const struct adapter *a = k->a;
    if (check_tied(k, e)) return -1;
    return pack_whole(k, &k->slot->embed_full, a->embed_full, &k->m->embed, e) ||
                   pack_whole(k, &k->slot->head_full, a->head_full, k->m->head, e) || check_asleep(k, e)
               ? -1
               : 0;
}

static void point_to_wholes(struct packing *k)
{
    struct slot *s = k->slot;
    const struct weight *embed = s->embed_full.n ? &s->embed_full : NULL, *head = s->head_full.n ? &s->head_full : NULL;
    bool one = k->a->full_tied && k->m->head == &k->m->embed;
    s->pub.table.embed_full = embed || !one || k->a->embed_full ? embed : head;
    s->pub.table.head_full = head || !one || k->a->head_full ? head : embed;
}

/* --- whole --- */

static int check_invocation(const struct model *m, const struct peft_config *c, struct err *e)
{
    for (int i = 0; i < c->ninvocation; i++)
        if (c->invocation[i] >= m->vocab)
            return err_set(e, ERR_ADAPTER_INVALID, "alora_invocation_tokens holds %d, and the vocabulary has %d tokens",
                           c->invocation[i], m->vocab);
    return 0;
}

static int take_tables(struct packing *k, struct err *e)
{
    struct slot *s = k->slot;
    size_t layers = (size_t)k->a->layers;
    s->pub.mod = calloc(layers * LORA_MODULES, sizeof *s->pub.mod);
    if (k->a->expert) {
        s->expert = calloc(layers * (size_t)k->a->experts * EXPERT_PARTS, sizeof *s->expert);
        s->router = calloc(layers, sizeof *s->router);
    }
    bool whole = s->pub.mod && (!k->a->expert || (s->expert && s->router));
    return whole ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an adapter of %d layers", k->a->layers);
}

/* What pack_whole() will take, before it is known whether it is the base's own. */
static int64_t whole_bytes(const struct model *m, const struct st_tensor *t)
{
    enum layout to = m->prec == PREC_EXACT ? LAYOUT_F32 : LAYOUT_BF16;
    return t ? (int64_t)weight_bytes(to, (int)t->dim[0], (int)t->dim[1]) : 0;
}

int lora_pack_bytes(const struct model *m, const struct adapter *a, int64_t *bytes, struct err *e)
{
    struct slot nowhere = {.block = NULL};
    struct packing k = {.m = m, .a = a, .slot = &nowhere, .type = m->prec == PREC_EXACT ? LORA_F32 : LORA_BF16};
    int rc = take_tables(&k, e) || pack_all(&k, e) ? -1 : 0;
    if (rc == 0) *bytes = (int64_t)k.used + whole_bytes(m, a->embed_full) + whole_bytes(m, a->head_full);
    lora_pack_free(&nowhere);
    return rc;
}

static int fill_block(struct packing *k, struct err *e)
{
    if (pack_all(k, e)) return -1; /* counts */
    size_t bytes = k->used;
    struct slot *s = k->slot;
    if (!s->block && bytes) {
        s->block = big_alloc(bytes);
        s->block_bytes = bytes;
        lora_touch(s->block, bytes, k->pace);
    }
    if (!s->block && bytes) return err_set(e, ERR_NO_MEMORY, "no memory for an adapter of %zu bytes", bytes);
    k->block = s->block;
    k->used = 0;
    return k->block ? pack_all(k, e) : 0;
}

static void publish(struct packing *k)
{
    const struct peft_config *c = k->a->config;
    struct slot *s = k->slot;
    s->pub.table.mod = s->pub.mod;
    s->pub.table.expert = k->a->modules & ADAPTS_EXPERTS ? s->expert : NULL;
    s->pub.table.router = k->a->modules & ADAPTS_ROUTER ? s->router : NULL;
    s->pub.table.head = s->head.r ? &s->head : NULL;
    s->pub.table.embed = s->embed.r ? &s->embed : NULL;
    point_to_wholes(k);
    s->pub.table.alone = c->use_dora || s->pub.table.embed_full || s->pub.table.head_full;
    if (c->ninvocation) memcpy(s->invocation, c->invocation, (size_t)c->ninvocation * sizeof *c->invocation);
    s->pub.invocation = s->invocation;
    s->pub.ninvocation = c->ninvocation;
    s->pub.kind = peft_kind(c);
    s->pub.bytes += k->used;
    s->pub.max_rank = k->a->max_rank;
}

int lora_pack(const struct model *m, const struct adapter *a, struct slot *slot, struct lora_pace *pace, struct err *e)
{
    struct packing k = {
        .m = m, .a = a, .slot = slot, .pace = pace, .type = m->prec == PREC_EXACT ? LORA_F32 : LORA_BF16};
    slot->pub.bytes = 0;
    if (check_invocation(m, a->config, e) || take_tables(&k, e) || pack_wholes(&k, e) || fill_block(&k, e)) {
        lora_pack_free(slot);
        return -1;
    }
    publish(&k);
    return 0;
}

void lora_pack_free(struct slot *slot)
{
    if (slot->block) big_free(slot->block, slot->block_bytes);
    if (slot->embed_full.n) weight_close(&slot->embed_full);
    if (slot->head_full.n) weight_close(&slot->head_full);
    free(slot->pub.mod);
    free(slot->expert);
    free(slot->router);
    slot->block = NULL;
    slot->block_bytes = 0;
    slot->embed_full = slot->head_full = (struct weight){0};
    slot->embed = (struct lora_embed){0};
    slot->head = (struct lora_mod){0};
    slot->pub.mod = slot->expert = slot->router = NULL;
}
