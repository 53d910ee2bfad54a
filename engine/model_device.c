/* model_device: the list of a model's constants for a device.
 *
 * One walk over the layers names every weight, norm, bias and rope table by its host address; sites that one product
 * reads (q, k, v; gate, up) get a number, so that the device may stack them. Each says what it is to the model: how a
 * group of devices shares it is the backend's affair.
 *
 * The host keeps what it has: self-tests of adapters and the norms of DoRA read it. Loading thread. */
#include "engine/model_device.h"
#include <stdlib.h>

#define ITEMS_LAYER 24 /* of a layer without experts, at most */
#define ITEMS_MODEL 8
#define PIECE 8 /* values of bf16 in 16 bytes */

struct list {
    struct device_const *item;
    int n, sites;
};

static void add_floats(struct list *l, const float *f, size_t n)
{
    if (f) l->item[l->n++] = (struct device_const){.f = f, .n = n};
}

static void add_weight(struct list *l, const struct weight *w, enum device_role role, int site)
{
    if (w->n) l->item[l->n++] = (struct device_const){.w = w, .role = role, .site = site};
}

static const enum device_role role_of[LORA_MODULES] = {
    [LM_Q] = ROLE_Q,       [LM_K] = ROLE_KV,    [LM_V] = ROLE_KV,      [LM_O] = ROLE_O,
    [LM_GATE] = ROLE_GATE, [LM_UP] = ROLE_GATE, [LM_DOWN] = ROLE_DOWN,
};

static void add_dense(struct list *l, const struct model_layer *at, int layer)
{
    int qkv = ++l->sites, gate_up = ++l->sites;
    const int site[LORA_MODULES] = {[LM_Q] = qkv, [LM_K] = qkv, [LM_V] = qkv, [LM_GATE] = gate_up, [LM_UP] = gate_up};
    for (int i = 0, n = l->n; i < LORA_MODULES; i++, n = l->n) {
        add_weight(l, &at->module[i], role_of[i], site[i]);
        if (l->n > n) l->item[n].layer = layer, l->item[n].module = i;
    }
    for (int i = 0; i < LORA_MODULES; i++) add_floats(l, at->bias[i], (size_t)at->module[i].n);
}

static void add_experts(struct list *l, const struct model_layer *at, int experts)
{
    add_weight(l, &at->router, ROLE_WHOLE, 0);
    for (int x = 0; at->expert && x < experts; x++) {
        int site = ++l->sites;
        for (int i = 0; i < EXPERT_PARTS; i++)
            add_weight(l, &at->expert[x].part[i], i < EXPERT_PARTS - 1 ? ROLE_EXPERT_GATE : ROLE_EXPERT_DOWN,
                       i < EXPERT_PARTS - 1 ? site : 0);
        for (int i = l->n - EXPERT_PARTS; i < l->n; i++) l->item[i].grouped = true;
    }
}

static void add_layer(struct list *l, const struct model *m, int layer)
{
    const struct model_layer *at = &m->layer[layer];
    size_t hidden = (size_t)m->hidden, head = (size_t)m->head_dim;
    add_dense(l, at, layer);
    add_experts(l, at, m->experts);
    add_floats(l, at->attn_norm, hidden);
    add_floats(l, at->mlp_norm, hidden);
    add_floats(l, at->attn_post, hidden);
    add_floats(l, at->mlp_post, hidden);
    add_floats(l, at->q_norm, head);
    add_floats(l, at->k_norm, head);
}

static void add_model(struct list *l, const struct model *m)
{
    size_t rope = (size_t)m->max_context * (size_t)(m->rotary > 0 ? m->rotary : m->head_dim);
    add_weight(l, &m->embed, ROLE_EMBED, 0);
    add_weight(l, m->head, ROLE_HEAD, 0);
    add_floats(l, m->final_norm, (size_t)m->hidden);
    add_floats(l, m->rope, rope);
    add_floats(l, m->rope_local, rope);
    add_floats(l, m->rope_none, rope);
}

static bool has_scales(const struct weight *w)
{
    return w->n && w->layout != LAYOUT_BF16 && w->layout != LAYOUT_F32;
}

/* Inputs that stay together: those of a scale, or 16 bytes of bf16. */
static int scale_group(const struct model *m)
{
    for (int l = 0; l < m->layers; l++) {
        const struct model_layer *at = &m->layer[l];
        for (int i = 0; i < LORA_MODULES; i++)
            if (has_scales(&at->module[i])) return GROUP;
        for (int x = 0; at->expert && x < m->experts; x++)
            for (int i = 0; i < EXPERT_PARTS; i++)
                if (has_scales(&at->expert[x].part[i])) return GROUP;
    }
    return PIECE;
}

static struct device_shape shape_of(const struct model *m, const struct model_device_options *o,
                                    const struct weight *const *expert)
{
    int q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    struct device_shape s = {.layers = m->layers,
                             .hidden = m->hidden,
                             .heads = m->heads,
                             .kv_heads = m->kv_heads,
                             .head_dim = m->head_dim,
                             .mlp = m->mlp,
                             .vocab = m->vocab,
                             .tokens = m->tokens > 0 ? m->tokens : m->vocab,
                             .max_context = m->max_context,
                             .modules = LORA_MODULES,
                             .experts = m->experts,
                             .experts_used = m->experts_used,
                             .expert_mlp = m->expert_mlp,
                             .scale_group = scale_group(m),
                             .expert = expert,
                             .kv_type = o->kv_type,
                             .max_rows = o->max_rows,
                             .max_seqs = o->max_seqs,
                             .max_logits = o->max_logits,
                             .max_segs = o->max_segs,
                             .max_rank = o->max_rank,
                             .slots = o->slots,
                             .adapter_bytes = o->adapter_bytes,
                             .kv_bytes = o->kv_bytes,
                             .augment = o->augment,
                             .e4m3_rows = o->e4m3_rows};
    const int n[LORA_MODULES] = {q, kv, kv, m->hidden, m->mlp, m->mlp, m->hidden};
    const int k[LORA_MODULES] = {m->hidden, m->hidden, m->hidden, q, m->hidden, m->hidden, m->mlp};
    for (int i = 0; i < LORA_MODULES; i++)
        s.module[i] = (struct device_module){.n = n[i], .k = k[i], .role = role_of[i]};
    return s;
}

int model_to_device(const struct model *m, struct device *d, const struct model_device_options *o,
                    struct device_plan *plan, struct err *e)
{
    if (m->uneven)
        return err_set(e, ERR_USAGE, "%s has layers of different widths, which are computed on the CPU only: --device cpu",
                       m->name);
    for (int i = 0; i < m->layers; i++)
        for (int x = 0; x < LORA_MODULES; x++)
            if (m->layer[i].module[x].layout == LAYOUT_S24)
                return err_set(e, ERR_USAGE, "%s has 2:4 matrices in a layout of the CPU's: --device cpu", m->name);
    size_t layer = ITEMS_LAYER + (size_t)m->experts * EXPERT_PARTS;
    struct list l = {.item = calloc((size_t)m->layers * layer + ITEMS_MODEL, sizeof *l.item)};
    const struct weight **expert = calloc((size_t)m->layers, sizeof *expert);
    int rc = l.item && expert ? 0 : err_set(e, ERR_NO_MEMORY, "no memory to list the model's constants");
    if (rc == 0) {
        add_model(&l, m);
        for (int i = 0; i < m->layers; i++) {
            add_layer(&l, m, i);
            expert[i] = m->layer[i].expert ? m->layer[i].expert[0].part : NULL;
        }
        const struct device_shape shape = shape_of(m, o, expert);
        rc = device_start(d, &shape, l.item, l.n, plan, e);
    }
    free(l.item);
    free(expert);
    return rc;
}
