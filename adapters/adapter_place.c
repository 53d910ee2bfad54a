/* Tensors into places: by the name, then by the shape that the base decides.
 *
 * A place is a part of the adapter: a module of a layer, an expert's, the router's, the embedding's, the head's. What
 * holds several at once (qkv_proj, gate_up_proj, the parameters of all experts) waits in the mapping and is taken apart
 * when its rank is known (adapter_agree.c).
 *
 * A tensor without a place is not an error at once: all of them are listed. A place that the base lacks is one, for the
 * name then says what the adapter was trained on.
 *
 * Threads: any. */
#include "adapters/adapter_impl.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNUSED_NAMED 3
#define UNUSED_BYTES 256 /* of names in the message */
#define EXPERT_PLACES_MAX (1 << 18)

int mapping_init(struct mapping *m, struct adapter *a, const struct base_desc *base, struct err *e)
{
    size_t layers = (size_t)base->layers;
    *m = (struct mapping){.a = a, .base = base};
    buf_init(&m->unused, UNUSED_BYTES * 2);
    if ((int64_t)base->layers * base->experts > EXPERT_PLACES_MAX)
        return err_set(e, ERR_ADAPTER_INVALID, "%.128s has %d layers of %d experts: too many to adapt", base->name,
                       base->layers, base->experts);
    a->layers = base->layers;
    a->experts = base->experts;
    a->part = calloc(layers * LORA_MODULES, sizeof *a->part);
    m->fused = calloc(layers * 2, sizeof *m->fused);
    m->stacked = calloc(layers * 2, sizeof *m->stacked);
    if (base->experts) {
        a->expert = calloc(layers * (size_t)base->experts * EXPERT_PARTS_OF, sizeof *a->expert);
        a->router = calloc(layers, sizeof *a->router);
    }
    if (a->part && m->fused && m->stacked && (!base->experts || (a->expert && a->router))) return 0;
    return err_set(e, ERR_NO_MEMORY, "out of memory for an adapter of %d layers", base->layers);
}

void mapping_close(struct mapping *m)
{
    free(m->fused);
    free(m->stacked);
    buf_close(&m->unused);
}

/* --- what has no place --- */

static void note_unused(struct mapping *m, const char *name)
{
    m->nunused++;
    if (m->named == UNUSED_NAMED || m->unused.len + strlen(name) > UNUSED_BYTES) return;
    if (m->named++) buf_adds(&m->unused, ", ");
    buf_adds(&m->unused, name);
}

static int unused_refuse(const struct mapping *m, struct err *e)
{
    if (!m->nunused) return 0;
    return err_set(
        e, ERR_ADAPTER_INVALID,
        "%d of the file's %d tensors would not be used: %s%s; only LoRA as PEFT saves it is served: merge the "
        "adapter into its base",
        m->nunused, m->a->file->ntensors, m->named ? m->unused.data : "(long names)",
        m->named < m->nunused ? ", ..." : "");
}

/* --- one model, one adapter --- */

static int prefix_check(struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    bool head = n->place == PLACE_HEAD, *seen = head ? &m->any_head : &m->any;
    char *prefix = head ? m->head_prefix : m->prefix;
    if (!*seen) snprintf(prefix, TENSOR_NAME_MAX, "%s", n->prefix);
    *seen = true;
    if (strcmp(prefix, n->prefix) == 0) return 0;
    return err_set(e, ERR_ADAPTER_INVALID,
                   "tensor %.256s is under \"%.64s\", others under \"%.64s\": two models in one file; save each alone",
                   t->name, n->prefix, prefix);
}

static int infix_check(struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    if (n->kind == TENSOR_BASE || (n->kind == TENSOR_SAVED && !n->by_wrapper)) return 0;
    if (!*m->infix) snprintf(m->infix, sizeof m->infix, "%s", n->infix);
    if (strcmp(m->infix, n->infix) == 0) return 0;
    return err_set(
        e, ERR_ADAPTER_INVALID,
        "tensor %.256s is of the adapter \"%.64s\", others of \"%.64s\": two adapters in one file; save each alone",
        t->name, n->infix, m->infix);
}

static int moe_check(struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    if (n->place != PLACE_ROUTER && n->place != PLACE_EXPERT && n->place != PLACE_EXPERTS) return 0;
    int names = n->old_moe ? 2 : 1;
    if (!m->moe_names) snprintf(m->first_moe, sizeof m->first_moe, "%s", t->name);
    if (m->moe_names && m->moe_names != names)
        return err_set(e, ERR_ADAPTER_INVALID, "tensors %.150s and %.150s name the experts in two ways; keep one",
                       m->first_moe, t->name);
    m->moe_names = names;
    m->any_router |= n->place == PLACE_ROUTER;
    m->any_expert |= n->place == PLACE_EXPERT;
    m->any_stacked |= n->place == PLACE_EXPERTS;
    if (!m->any_expert || !m->any_stacked) return 0;
    return err_set(e, ERR_ADAPTER_INVALID,
                   "tensor %.256s: the file adapts experts one by one and all together; keep one of the two", t->name);
}

/* --- the base's side --- */

static int no_module(const struct mapping *m, const struct st_tensor *t, const char *what, struct err *e)
{
    return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s: %.64s has no %s" OTHER_BASE, t->name, m->base->name, what);
}

static bool fused_of(const struct base_desc *b, enum lora_module m)
{
    return m <= LM_V ? b->fused_qkv : (m == LM_GATE || m == LM_UP) && b->fused_gate_up;
}

static int module_in_base(const struct mapping *m, const struct st_tensor *t, const struct tensor_name *n,
                          struct err *e)
{
    const char *fused = n->module <= LM_V ? "qkv_proj" : "gate_up_proj";
    if (n->place == PLACE_FUSED) return fused_of(m->base, n->module) ? 0 : no_module(m, t, fused, e);
    if (fused_of(m->base, n->module))
        return err_set(e, ERR_ADAPTER_INVALID,
                       "tensor %.256s: %.64s has no %s of its own but a %s: only adapters of that one fit", t->name,
                       m->base->name, lora_module_name[n->module], fused);
    if (base_desc_out(m->base, n->layer, n->module)) return 0;
    if (!m->base->out[n->module]) return no_module(m, t, lora_module_name[n->module], e);
    return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s: layer %d of %.64s has no %s" OTHER_BASE, t->name, n->layer,
                   m->base->name, lora_module_name[n->module]);
}

static int in_base(const struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    const struct base_desc *b = m->base;
    if (n->layer >= b->layers)
        return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s is of layer %d, and %.64s has %d layers" OTHER_BASE,
                       t->name, n->layer, b->name, b->layers);
    switch (n->place) {
    case PLACE_EMBED:
    case PLACE_HEAD:
        return b->vocab ? 0 : no_module(m, t, "embed_tokens or lm_head to adapt", e);
    case PLACE_ROUTER:
    case PLACE_EXPERTS:
        return b->experts ? 0 : no_module(m, t, "experts", e);
    case PLACE_EXPERT:
        if (!b->experts) return no_module(m, t, "experts", e);
        if (n->expert < b->experts) return 0;
        return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s is of expert %d, and %.64s has %d experts" OTHER_BASE,
                       t->name, n->expert, b->name, b->experts);
    default:
        return module_in_base(m, t, n, e);
    }
}

/* Inputs and outputs of a place: columns of A, rows of B. 0: decided later. */
static void sides(const struct base_desc *b, const struct tensor_name *n, int *in, int *out)
{
    bool down = n->module == LM_DOWN;
    *in = b->hidden;
    switch (n->place) {
    case PLACE_EMBED:
        *in = b->vocab, *out = b->hidden;
        break;
    case PLACE_HEAD:
        *out = b->vocab;
        break;
    case PLACE_ROUTER:
        *out = b->experts;
        break;
    case PLACE_EXPERT:
        *in = down ? b->expert_mlp : b->hidden, *out = down ? b->hidden : b->expert_mlp;
        break;
    case PLACE_EXPERTS:
        *in = *out = 0;
        break;
    case PLACE_FUSED:
        *in = base_desc_in(b, n->layer, n->module), *out = 0;
        for (int i = n->module; i <= (n->module == LM_Q ? LM_V : LM_UP); i++) *out += base_desc_out(b, n->layer, i);
        break;
    case PLACE_MODULE:
        *in = base_desc_in(b, n->layer, n->module), *out = base_desc_out(b, n->layer, n->module);
    }
}

static int want_2d(const struct st_tensor *t, struct err *e)
{
    return t->ndim == 2 ? 0
                        : err_set(e, ERR_ADAPTER_INVALID,
                                  "tensor %.256s has 1 dimension, not 2; save it again by save_pretrained()", t->name);
}

static int factor_shape(const struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    int in, out;
    sides(m->base, n, &in, &out);
    if (want_2d(t, e)) return -1;
    bool is_b = n->kind == TENSOR_B;
    int64_t has = is_b ? t->dim[0] : t->dim[1], want = is_b ? out : in;
    if (!want || has == want) return 0;
    return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s has %" PRId64 " %s, and %.64s needs %" PRId64 OTHER_BASE,
                   t->name, has, is_b ? "rows" : "columns", m->base->name, want);
}

static int magnitude_shape(const struct mapping *m, const struct st_tensor *t, const struct tensor_name *n,
                           struct err *e)
{
    int in, out;
    sides(m->base, n, &in, &out);
    if (n->place == PLACE_EMBED)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "tensor %.256s: DoRA on the embedding is not served; train it without embed_tokens in "
                       "target_modules",
                       t->name);
    if (n->place == PLACE_EXPERTS)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "tensor %.256s: PEFT has no DoRA on bare parameters; save it without use_dora", t->name);
    if (t->dim[0] * t->dim[1] == out && (t->dim[0] == out || t->dim[1] == out)) return 0;
    return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s is no vector of %d magnitudes" OTHER_BASE, t->name, out);
}

static int full_shape(const struct mapping *m, const struct st_tensor *t, struct err *e)
{
    const struct base_desc *b = m->base;
    if (want_2d(t, e)) return -1;
    if (t->dim[0] == b->vocab && t->dim[1] == b->hidden) return 0;
    return err_set(e, ERR_ADAPTER_INVALID,
                   "tensor %.256s is [%" PRId64 ",%" PRId64
                   "], and %.64s has [%d,%d]: an adapter with a resized vocabulary is not served; train it without "
                   "resize_token_embeddings",
                   t->name, t->dim[0], t->dim[1], b->name, b->vocab, b->hidden);
}

/* --- into the part --- */

static struct adapter_part *part_of(struct mapping *m, const struct tensor_name *n)
{
    struct adapter *a = m->a;
    size_t layer = (size_t)n->layer;
    switch (n->place) {
    case PLACE_MODULE:
        return &a->part[layer * LORA_MODULES + n->module];
    case PLACE_FUSED:
        return &m->fused[layer * 2 + (n->module != LM_Q)];
    case PLACE_ROUTER:
        return &a->router[layer];
    case PLACE_EXPERT:
        return &a->expert[(layer * (size_t)a->experts + (size_t)n->expert) * EXPERT_PARTS_OF + n->module - LM_GATE];
    case PLACE_EXPERTS:
        return &m->stacked[layer * 2 + !n->nested];
    case PLACE_EMBED:
        return &a->embed;
    case PLACE_HEAD:
        break;
    }
    return &a->head;
}

static const struct st_tensor **slot_of(struct mapping *m, const struct tensor_name *n)
{
    struct adapter_part *p = part_of(m, n);
    switch (n->kind) {
    case TENSOR_A:
        return &p->a;
    case TENSOR_B:
        return &p->b;
    case TENSOR_MAGNITUDE:
        return &p->magnitude;
    default:
        return n->place == PLACE_EMBED ? &m->a->embed_full : &m->a->head_full;
    }
}

static int shape_check(const struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    if (n->kind == TENSOR_MAGNITUDE) return magnitude_shape(m, t, n, e);
    if (n->kind == TENSOR_SAVED || n->kind == TENSOR_BASE) return full_shape(m, t, e);
    return factor_shape(m, t, n, e);
}

/* A matrix that modules_to_save names is the adapter's own; any other was the base's, and PEFT loads it over the base:
 * over both where head and embedding are one. */
static int saved_check(struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    const struct peft_config *c = m->a->config;
    if (n->kind != TENSOR_SAVED && n->kind != TENSOR_BASE) return 0;
    bool named = n->place == PLACE_EMBED ? c->saves_embed : c->saves_head;
    if (named && n->kind == TENSOR_BASE)
        return err_set(
            e, ERR_ADAPTER_INVALID,
            "tensor %.256s: its module is in modules_to_save, where PEFT has no LoRA on it; save it again by "
            "save_pretrained()",
            t->name);
    if (n->by_wrapper && !named)
        return err_set(
            e, ERR_ADAPTER_INVALID,
            "tensor %.256s: modules_to_save of adapter_config.json does not name its module; take the two files "
            "that were saved together",
            t->name);
    m->a->full_tied |= !named || c->ensure_weight_tying;
    return 0;
}

static int place(struct mapping *m, const struct st_tensor *t, struct err *e)
{
    struct tensor_name n;
    if (!tensor_name_parse(t->name, &n)) {
        note_unused(m, t->name);
        return 0;
    }
    if (prefix_check(m, t, &n, e) || infix_check(m, t, &n, e) || in_base(m, t, &n, e) || shape_check(m, t, &n, e))
        return -1;
    const struct st_tensor **slot = slot_of(m, &n);
    if (*slot)
        return err_set(e, ERR_ADAPTER_INVALID, "tensors %.150s and %.150s are the same weight; keep one", (*slot)->name,
                       t->name);
    *slot = t;
    return moe_check(m, t, &n, e) ? -1 : saved_check(m, t, &n, e);
}

int mapping_place_all(struct mapping *m, struct err *e)
{
    const struct st_file *f = m->a->file;
    for (int i = 0; i < f->ntensors; i++)
        if (place(m, &f->tensor[i], e)) return -1;
    return unused_refuse(m, e);
}
