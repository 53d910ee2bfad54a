/* Places against the config: what adapter_config.json names is there, what it does not name is not, ranks and scales are
 * those that it says. So a file and a config that disagree in any way are refused, and what is left is exactly what PEFT
 * would have run.
 *
 * Modules that hold several of ours are then taken apart, without copying: the parts are views of the same tensors.
 *
 *     qkv_proj       one A; B and magnitude by rows: q, k, v                      gate_up_proj the same
 *     experts' parameters (target_parameters; PEFT's ParamWrapper): A is [experts * r][in], expert e's rows are e r ...;
 *                    B is [out][r * experts], expert e's rank j is column j experts + e; of gate_up_proj the first half
 *                    of the rows is the gate
 *
 * Which of two parameters a wrapper belongs to: PEFT wraps gate_up_proj first, so with both the inner is gate_up_proj.
 *
 * A linear layer's weight may be named by target_parameters as well ("q_proj.weight"): PEFT wraps it then, and saves and
 * computes the same.
 *
 * Experts and router: since transformers 5 they are parameters that target_modules does not reach, so a config that
 * names them ("gate_proj", "all-linear") may come with no tensor for any of them; with some, all must be there.
 *
 * Threads: any. */
#include "adapters/adapter_impl.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TOGETHER "; take the two files that were saved together"
#define AGAIN "; save it again by save_pretrained()"
#define MERGE "; raise it, or merge the adapter into its base"

static int invalid_count(struct err *e, const char *path, const char *what)
{
    return err_set(e, ERR_ADAPTER_INVALID, "%.256s %s", path, what);
}

/* --- one part --- */

static int pair_check(const struct adapter_part *p, const char *path, bool dora, struct err *e)
{
    if (!p->a != !p->b)
        return err_set(e, ERR_ADAPTER_INVALID, "%.256s has lora_%s and no lora_%s; both are needed" AGAIN, path,
                       p->a ? "A" : "B", p->a ? "B" : "A");
    if (p->a && p->a->dim[0] != p->b->dim[1])
        return err_set(e, ERR_ADAPTER_INVALID,
                       "%.256s: lora_A has %" PRId64 " rows and lora_B %" PRId64 " columns; both are the rank" AGAIN,
                       path, p->a->dim[0], p->b->dim[1]);
    if (p->magnitude && !dora)
        return invalid_count(e, path,
                             "has a lora_magnitude_vector, and adapter_config.json does not say use_dora" TOGETHER);
    if (p->magnitude && !p->a) return invalid_count(e, path, "has a lora_magnitude_vector and no lora_A" AGAIN);
    return 0;
}

static int there_check(const struct adapter_part *p, const char *path, bool target, struct err *e)
{
    if (target && !p->a)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json names %.200s, and " ADAPTER_WEIGHTS_FILE " has no tensors for it" TOGETHER,
                       path);
    if (!target && p->a)
        return err_set(e, ERR_ADAPTER_INVALID,
                       ADAPTER_WEIGHTS_FILE " has tensors for %.200s, which adapter_config.json does not name" TOGETHER,
                       path);
    return 0;
}

/* `times`: experts that share the tensors, each with rank r. */
static int rank_check(const struct adapter_part *p, const char *path, int r, int times, int max_rank, struct err *e)
{
    if (p->a->dim[0] > (int64_t)max_rank * times)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "%.256s has rank %" PRId64 ", above the limit of %d (the setting max_rank)" MERGE, path,
                       p->a->dim[0] / times, max_rank);
    if (p->a->dim[0] == (int64_t)r * times) return 0;
    if (times > 1)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "%.256s: lora_A has %" PRId64 " rows, not %d for each of %d experts" TOGETHER, path,
                       p->a->dim[0], r, times);
    return err_set(e, ERR_ADAPTER_INVALID, "%.256s has rank %" PRId64 ", and adapter_config.json says %d" TOGETHER,
                   path, p->a->dim[0], r);
}

static void sum_up(struct adapter *a, const struct adapter_part *p, unsigned bit)
{
    if (p->r > a->max_rank) a->max_rank = p->r;
    a->modules |= bit;
}

static void count_bytes(struct adapter *a, const struct adapter_part *p)
{
    a->tensor_bytes += p->a->bytes + p->b->bytes + (p->magnitude ? p->magnitude->bytes : 0);
}

/* The part against what the config says of `path`; c comes from peft_resolve() or peft_resolve_parameter(). */
static int fits(struct adapter *a, struct adapter_part *p, const char *path, const struct peft_place *c, int times,
                int max_rank, struct err *e)
{
    bool dora = a->config->use_dora;
    if (pair_check(p, path, dora, e) || there_check(p, path, c->target, e)) return -1;
    if (!p->a) return 0;
    if (rank_check(p, path, c->r, times, max_rank, e)) return -1;
    if (dora && !p->magnitude)
        return invalid_count(e, path, "has no lora_magnitude_vector, and adapter_config.json says use_dora" TOGETHER);
    p->r = c->r;
    p->scale = c->scale;
    p->b_step = times;
    count_bytes(a, p);
    return 0;
}

static bool occupied(const struct adapter_part *p)
{
    return p->a || p->b || p->magnitude;
}

static struct tensor_name name_at(const struct mapping *m, enum tensor_place place, int layer, int module)
{
    struct tensor_name n = {.place = place, .layer = layer, .module = (enum lora_module)module};
    n.old_moe = (place == PLACE_ROUTER || place == PLACE_EXPERT) && m->moe_names == 2;
    snprintf(n.prefix, sizeof n.prefix, "%s", place == PLACE_HEAD ? m->head_prefix : m->prefix);
    return n;
}

/* Named by target_parameters, or else by target_modules. The embedding is no linear layer: its tensors would have other
 * names. */
static int resolve(const struct peft_config *c, const struct tensor_name *n, const char *path, struct peft_place *out,
                   struct err *e)
{
    char weight[MODULE_PATH_MAX + 8];
    snprintf(weight, sizeof weight, "%s.weight", path);
    if (c->ntarget_parameters && n->place != PLACE_EMBED) {
        if (peft_resolve_parameter(c, weight, out, e)) return -1;
        if (out->target) return 0;
    }
    return peft_resolve(c, path, out, e);
}

static int agree(struct mapping *m, struct adapter_part *p, const struct tensor_name *n, unsigned bit, int max_rank,
                 struct err *e)
{
    char path[MODULE_PATH_MAX];
    struct peft_place c;
    module_path(n, path);
    if (resolve(m->a->config, n, path, &c, e)) return -1;
    if (fits(m->a, p, path, &c, 1, max_rank, e)) return -1;
    if (p->a) sum_up(m->a, p, bit);
    return 0;
}

/* --- the modules of a layer --- */

/* Rows of a fused module's B to one of ours. */
static void slice(struct mapping *m, int layer, int module, const struct adapter_part *from, int64_t row0)
{
    struct adapter_part *p = &m->a->part[layer * LORA_MODULES + module];
    *p = *from;
    p->b_row0 = row0;
    sum_up(m->a, p, 1u << module);
}

static int agree_fused(struct mapping *m, int layer, int module, int max_rank, struct err *e)
{
    struct adapter_part *p = &m->fused[layer * 2 + (module != LM_Q)];
    struct tensor_name n = name_at(m, PLACE_FUSED, layer, module);
    if (agree(m, p, &n, 0, max_rank, e)) return -1;
    int last = module == LM_Q ? LM_V : LM_UP;
    int64_t row0 = 0;
    for (int i = module; p->a && i <= last; row0 += base_desc_out(m->base, layer, i++)) slice(m, layer, i, p, row0);
    return 0;
}

static int agree_layer(struct mapping *m, int layer, int max_rank, struct err *e)
{
    const struct base_desc *b = m->base;
    for (int i = 0; i < LORA_MODULES; i++) {
        bool qkv = b->fused_qkv && i <= LM_V, gate_up = b->fused_gate_up && (i == LM_GATE || i == LM_UP);
        struct adapter_part *p = &m->a->part[layer * LORA_MODULES + i];
        if (!base_desc_out(b, layer, i)) continue;
        if (qkv || gate_up) {
            if ((i == LM_Q || i == LM_GATE) && agree_fused(m, layer, i, max_rank, e)) return -1;
            continue;
        }
        if (b->experts && i >= LM_GATE && !occupied(p)) continue; /* perhaps a layer of experts */
        struct tensor_name n = name_at(m, PLACE_MODULE, layer, i);
        if (agree(m, p, &n, 1u << i, max_rank, e)) return -1;
    }
    return 0;
}

/* --- experts and router --- */

static int agree_expert(struct mapping *m, int layer, int expert, int max_rank, struct err *e)
{
    struct adapter_part *p = &m->a->expert[((size_t)layer * (size_t)m->a->experts + (size_t)expert) * EXPERT_PARTS_OF];
    for (int i = LM_GATE; i <= LM_DOWN; i++) {
        struct tensor_name n = name_at(m, PLACE_EXPERT, layer, i);
        n.expert = expert;
        if (agree(m, &p[i - LM_GATE], &n, 1u << i | ADAPTS_EXPERTS, max_rank, e)) return -1;
    }
    return 0;
}

/* Must the layer's places hold what the config names, though the file has none of it? `any`: other layers have some.
 * Where the base has dense layers too, this may be one. */
static bool all_layers(const struct mapping *m, bool any)
{
    return any && !m->base->out[LM_GATE];
}

static bool layer_has_experts(const struct mapping *m, int layer)
{
    size_t n = (size_t)m->a->experts * EXPERT_PARTS_OF;
    for (size_t i = 0; i < n; i++)
        if (occupied(&m->a->expert[(size_t)layer * n + i])) return true;
    return false;
}

static int agree_experts(struct mapping *m, int layer, int max_rank, struct err *e)
{
    if (!layer_has_experts(m, layer) && !all_layers(m, m->any_expert)) return 0;
    for (int i = 0; i < m->a->experts; i++)
        if (agree_expert(m, layer, i, max_rank, e)) return -1;
    return 0;
}

/* The router is a linear layer that target_modules names, or a parameter that target_parameters does. */
static int agree_router(struct mapping *m, int layer, int max_rank, struct err *e)
{
    struct adapter_part *p = &m->a->router[layer];
    if (!occupied(p) && !all_layers(m, m->any_router)) return 0;
    struct tensor_name n = name_at(m, PLACE_ROUTER, layer, 0);
    return agree(m, p, &n, ADAPTS_ROUTER, max_rank, e);
}

/* --- parameters of all experts --- */

static int stacked_shape(const struct mapping *m, const struct adapter_part *p, const char *path, bool down,
                         struct err *e)
{
    int in = down ? m->base->expert_mlp : m->base->hidden, out = down ? m->base->hidden : 2 * m->base->expert_mlp;
    if (!p->a || !p->b || (p->a->dim[1] == in && p->b->dim[0] == out)) return 0;
    return err_set(e, ERR_ADAPTER_INVALID,
                   "%.256s: lora_A has %" PRId64 " columns and lora_B %" PRId64
                   " rows, and %.64s needs %d and %d" OTHER_BASE,
                   path, p->a->dim[1], p->b->dim[0], m->base->name, in, out);
}

static void view(struct mapping *m, int layer, int expert, int module, const struct adapter_part *from, int64_t row0)
{
    struct adapter_part *p = &m->a->expert[((size_t)layer * (size_t)m->a->experts + (size_t)expert) * EXPERT_PARTS_OF +
                                           (size_t)(module - LM_GATE)];
    *p = *from;
    p->a_row0 = (int64_t)expert * from->r;
    p->b_col0 = expert;
    p->b_row0 = row0;
    sum_up(m->a, p, 1u << module | ADAPTS_EXPERTS);
}

static int agree_stacked(struct mapping *m, int layer, bool down, struct adapter_part *p, int max_rank, struct err *e)
{
    char path[MODULE_PATH_MAX];
    struct peft_place c;
    struct tensor_name n = name_at(m, PLACE_EXPERTS, layer, down ? LM_DOWN : LM_GATE);
    module_path(&n, path);
    if (peft_resolve_parameter(m->a->config, path, &c, e) || stacked_shape(m, p, path, down, e) ||
        fits(m->a, p, path, &c, m->a->experts, max_rank, e))
        return -1;
    for (int i = 0; p->a && i < m->a->experts; i++) {
        view(m, layer, i, down ? LM_DOWN : LM_GATE, p, 0);
        if (!down) view(m, layer, i, LM_UP, p, m->base->expert_mlp);
    }
    return 0;
}

static int agree_parameters(struct mapping *m, int layer, int max_rank, struct err *e)
{
    struct adapter_part *inner = &m->stacked[layer * 2], *outer = inner + 1, none = {0};
    char path[MODULE_PATH_MAX];
    struct peft_place gate_up;
    struct tensor_name n = name_at(m, PLACE_EXPERTS, layer, LM_GATE);
    module_path(&n, path);
    if (!occupied(inner) && !occupied(outer) && !all_layers(m, m->any_stacked)) return 0;
    if (peft_resolve_parameter(m->a->config, path, &gate_up, e)) return -1;
    bool both = inner->a || inner->b, down = both || !gate_up.target;
    if (agree_stacked(m, layer, false, both ? inner : down ? &none : outer, max_rank, e)) return -1;
    return agree_stacked(m, layer, true, down ? outer : &none, max_rank, e);
}

/* --- the ends --- */

/* ensure_weight_tying: PEFT lets the head share the embedding's factors, turned around, and saves them again though the
 * config need not name it. Their rank is the embedding's; the scale is that of the head's own name. */
static int agree_head(struct mapping *m, int max_rank, struct err *e)
{
    struct adapter *a = m->a;
    char path[MODULE_PATH_MAX];
    struct peft_place c;
    struct tensor_name n = name_at(m, PLACE_HEAD, 0, 0);
    module_path(&n, path);
    if (resolve(a->config, &n, path, &c, e)) return -1;
    if (a->tied && a->head.a) c.target = true;
    if (a->tied && a->head.a && a->head.a->dim[0] == a->embed.r) c.r = a->embed.r;
    if (a->tied) a->head.scale = c.scale;
    if (fits(a, &a->head, path, &c, 1, max_rank, e)) return -1;
    if (a->head.a) sum_up(a, &a->head, ADAPTS_HEAD);
    return 0;
}

static int agree_ends(struct mapping *m, int max_rank, struct err *e)
{
    struct adapter *a = m->a;
    if (!m->base->vocab) return 0;
    struct tensor_name embed = name_at(m, PLACE_EMBED, 0, 0);
    if (agree(m, &a->embed, &embed, ADAPTS_EMBED, max_rank, e)) return -1;
    if (a->embed.a && a->config->ninvocation)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: alora_invocation_tokens goes with linear layers, and target_modules names "
                       "embed_tokens; train without it");
    a->tied = a->embed.a && a->config->ensure_weight_tying;
    return agree_head(m, max_rank, e);
}

static int agree_saved(struct adapter *a, struct err *e)
{
    const struct {
        bool named;
        const struct st_tensor *t;
        const char *module;
    } saved[] = {{a->config->saves_embed, a->embed_full, "embed_tokens"},
                 {a->config->saves_head, a->head_full, "lm_head"}};
    for (int i = 0; i < 2; i++) {
        bool other = a->config->ensure_weight_tying && saved[!i].t; /* one stands for both */
        if (saved[i].named && !saved[i].t && !other)
            return err_set(e, ERR_ADAPTER_INVALID,
                           "adapter_config.json: modules_to_save names %s, and " ADAPTER_WEIGHTS_FILE
                           " has no weight of it" TOGETHER,
                           saved[i].module);
        if (!saved[i].t) continue;
        a->modules |= i ? ADAPTS_HEAD : ADAPTS_EMBED;
        a->tensor_bytes += saved[i].t->bytes;
    }
    return 0;
}

/* --- which number is the layer --- */

/* Is an expert adapted that layers_to_transform leaves out by the first number in its name? Then the file was made when
 * PEFT took the last. */
static int choose_number(struct mapping *m, struct err *e)
{
    struct adapter *a = m->a;
    char path[MODULE_PATH_MAX];
    struct peft_place c = {.target = true};
    size_t parts =
        m->any_expert && a->config->nlayers_to_transform ? (size_t)a->layers * (size_t)a->experts * EXPERT_PARTS_OF : 0;
    for (size_t i = 0; i < parts && c.target; i++) {
        if (!occupied(&a->expert[i])) continue;
        size_t expert = i / EXPERT_PARTS_OF;
        struct tensor_name n =
            name_at(m, PLACE_EXPERT, (int)(expert / (size_t)a->experts), LM_GATE + (int)(i % EXPERT_PARTS_OF));
        n.expert = (int)(expert % (size_t)a->experts);
        module_path(&n, path);
        if (peft_resolve(a->config, path, &c, e)) return -1;
    }
    a->config->last_number = !c.target;
    return 0;
}

int mapping_agree(struct mapping *m, int max_rank, struct err *e)
{
    struct adapter *a = m->a;
    if (choose_number(m, e)) return -1;
    for (int layer = 0; layer < a->layers; layer++) {
        if (agree_layer(m, layer, max_rank, e)) return -1;
        if (!m->base->experts) continue;
        if (agree_experts(m, layer, max_rank, e) || agree_router(m, layer, max_rank, e) ||
            agree_parameters(m, layer, max_rank, e))
            return -1;
    }
    if (agree_ends(m, max_rank, e) || agree_saved(a, e)) return -1;
    return a->modules ? 0
                      : err_set(e, ERR_ADAPTER_INVALID,
                                "adapter_config.json: the adapter adapts nothing of %.128s; it is for another base",
                                m->base->name);
}
