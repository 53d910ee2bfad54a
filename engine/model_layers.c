/* model_layers: what differs from layer to layer: windows, which table rotates, which layers have experts.
 *
 * Each family has one rule of each kind (columns of model_family.c); a list in the metadata that names every layer
 * (layer_types, sliding_window_pattern, no_rope_layers) comes before the rule. A list shorter than the layers, or a word in it that
 * is not known, is refused: guessing would change the answers.
 *
 * Called at load only. */
#include "engine/model_family.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_MAX (1 << 20)

/* --- windows --- */

static bool windowed_by_rule(const struct family *f, const struct model_plan *p, int layer, int pattern, int first)
{
    switch (f->window) {
    case WINDOW_UNTURNED:
        return p->layer[layer].unturned;
    case WINDOW_TAIL:
        return layer >= first;
    case WINDOW_PATTERN:
        return pattern == 0 || (layer + 1) % pattern != 0;
    default:
        return true;
    }
}

/* layer_types: an entry per layer. */
static int read_layer_types(const json_t *list, int layers, bool *windowed, struct err *e)
{
    if (json_array_size(list) < (size_t)layers)
        return err_set(e, ERR_MODEL, "config.json: layer_types does not name %d layers", layers);
    for (int i = 0; i < layers; i++) {
        const char *s = json_string_value(json_array_get(list, (size_t)i));
        if (!s || (strcmp(s, "sliding_attention") != 0 && strcmp(s, "full_attention") != 0))
            return err_set(
                e, ERR_MODEL,
                "config.json: layer_types: \"%.64s\" is not served (full_attention and sliding_attention are)",
                s ? s : "?");
        windowed[i] = strcmp(s, "sliding_attention") == 0;
    }
    return 0;
}

/* transformers takes the window away where the switch is off, and fails over a layer that wants one. SmolLM3's masks
 * don't look at the switch. */
static int check_window(const struct family *f, bool on, int window, const bool *windowed, int layers, struct err *e)
{
    for (int i = 0; i < layers; i++)
        if (windowed[i] && ((!on && f->window != WINDOW_UNTURNED) || !window))
            return err_set(e, ERR_MODEL,
                           "config.json: layer_types has sliding_attention, and %s; set it, or name the layer "
                           "full_attention",
                           window ? "use_sliding_window is false" : "sliding_window is not set");
    return 0;
}

/* config.json: the window, 0: none, and which layers have it. */
static int hf_windows(const struct meta *c, const struct model_plan *p, int layers, int *window, bool *windowed,
                      struct err *e)
{
    const struct family *f = c->f;
    bool switched = f->window == WINDOW_SWITCHED || f->window == WINDOW_TAIL || f->window == WINDOW_UNTURNED,
         on = !switched;
    int pattern = f->pattern, first = 28; /* max_window_layers' default in Qwen2Config and Qwen3Config */
    const json_t *types = json_object_get(c->j, "layer_types");
    if (json_is_null(types)) types = NULL;
    if (types && !json_is_array(types)) return err_set(e, ERR_MODEL, "config.json: layer_types is not a list of names");
    *window = json_object_get(c->j, "sliding_window") ? 0 : f->window_default;
    if (meta_bool(c, (struct meta_key){NULL, "use_sliding_window"}, &on, e)) return -1;
    if (f->window == WINDOW_NONE) {
        *window = 0;
        return on && json_is_true(json_object_get(c->j, "use_sliding_window"))
                   ? err_set(e, ERR_MODEL,
                             "config.json: use_sliding_window is true, which is not served for %s; set it to false",
                             f->class[0])
                   : 0;
    }
    if (meta_int(c, (struct meta_key){NULL, "sliding_window"}, 0, WINDOW_MAX, 1, window, e) ||
        meta_int(c, (struct meta_key){NULL, "max_window_layers"}, 0, 1 << 20, 1, &first, e) ||
        meta_int(c, (struct meta_key){NULL, "sliding_window_pattern"}, 1, 1 << 20, 1, &pattern, e))
        return -1;
    bool by_types = types && (f->window == WINDOW_TAIL || f->window == WINDOW_PATTERN || f->window == WINDOW_UNTURNED);
    if (by_types)
        return read_layer_types(types, layers, windowed, e) || check_window(f, on, *window, windowed, layers, e) ? -1
                                                                                                                 : 0;
    if (!on) *window = 0;
    for (int i = 0; i < layers; i++) windowed[i] = windowed_by_rule(f, p, i, pattern, first);
    return 0;
}

/* A GGUF's sliding_window_pattern: a number, or a truth value per layer. */
static int gguf_pattern(const struct meta *c, const char *key, int layers, bool *windowed, struct err *e)
{
    uint64_t n;
    int32_t *each;
    size_t count;
    if (gguf_u64(c->g, key, &n, NULL) == 0) {
        if (n > 1 << 20) return err_set(e, ERR_MODEL, "%s is %llu", key, (unsigned long long)n);
        for (int i = 0; i < layers; i++) windowed[i] = n == 0 || ((uint64_t)i + 1) % n != 0;
        return 0;
    }
    if (gguf_array_i32(c->g, key, &each, &count, e)) return -1;
    for (int i = 0; i < layers && (size_t)i < count; i++) windowed[i] = each[i] != 0;
    free(each);
    return count >= (size_t)layers ? 0 : err_set(e, ERR_MODEL, "%s names %zu layers of %d", key, count, layers);
}

static int gguf_windows(const struct meta *c, const struct model_plan *p, int layers, int *window, bool *windowed,
                        struct err *e)
{
    const struct meta_key each = {"attention.sliding_window_pattern", NULL};
    const struct family *f = c->f;
    char name[128];
    *window = 0;
    if (meta_int(c, (struct meta_key){"attention.sliding_window", NULL}, 0, WINDOW_MAX, 1, window, e)) return -1;
    for (int i = 0; i < layers; i++) windowed[i] = windowed_by_rule(f, p, i, f->pattern, 0);
    if (meta_has(c, each)) return gguf_pattern(c, meta_name(c, each, name), layers, windowed, e);
    if (*window && f->window == WINDOW_TAIL)
        return err_set(
            e, ERR_MODEL,
            "%s.attention.sliding_window is %d, and %s does not say in which layers; convert the model again", c->arch,
            *window, meta_name(c, each, name));
    return 0;
}

static int read_windows(const struct meta *c, const struct model *m, struct model_plan *p, struct err *e)
{
    int window;
    bool *windowed = calloc((size_t)m->layers, sizeof *windowed);
    if (!windowed) return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", m->layers);
    int rc =
        c->g ? gguf_windows(c, p, m->layers, &window, windowed, e) : hf_windows(c, p, m->layers, &window, windowed, e);
    for (int i = 0; rc == 0 && i < m->layers; i++) {
        p->layer[i].window = windowed[i] && window < m->max_context ? window : 0; /* one that sees all is none */
        p->layer[i].local = windowed[i] && p->own_local;
    }
    free(windowed);
    return rc;
}

/* --- rotation --- */

static int read_unturned(const struct meta *c, const struct model *m, struct model_plan *p, struct err *e)
{
    int interval = c->f->nope_interval;
    if (!interval) return 0;
    if (meta_int(c, (struct meta_key){NULL, "no_rope_layer_interval"}, 1, 1 << 20, 1, &interval, e)) return -1;
    const json_t *list = c->j ? json_object_get(c->j, "no_rope_layers") : NULL;
    bool given = list && !json_is_null(list);
    if (given && (!json_is_array(list) || json_array_size(list) < (size_t)m->layers))
        return err_set(e, ERR_MODEL, "config.json: no_rope_layers does not name %d layers", m->layers);
    for (int i = 0; i < m->layers; i++)
        p->layer[i].unturned =
            given ? json_integer_value(json_array_get(list, (size_t)i)) == 0 : (i + 1) % interval == 0;
    return 0;
}

/* --- experts --- */

static bool in_list(const json_t *list, int layer)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_integer_value(json_array_get(list, i)) == layer) return true;
    return false;
}

static int read_sparse(const struct meta *c, const struct source *s, const struct model *m, struct model_plan *p,
                       struct err *e)
{
    int step = 1;
    if (meta_int(c, (struct meta_key){NULL, "decoder_sparse_step"}, 1, 1 << 20, 1, &step, e)) return -1;
    const json_t *dense = c->j ? json_object_get(c->j, "mlp_only_layers") : NULL;
    for (int i = 0; i < m->layers; i++)
        p->layer[i].sparse = c->g || c->f->experts == EXPERTS_ALL
                                 ? c->j || source_has(s, &(struct spot){.at = AT_ROUTER, .layer = i})
                                 : (i + 1) % step == 0 && !in_list(dense, i);
    return 0;
}

static int read_experts(const struct meta *c, const struct source *s, struct model *m, struct model_plan *p,
                        struct err *e)
{
    const struct meta_key count = {"expert_count", "num_local_experts"}, other = {NULL, "num_experts"},
                          used = {"expert_used_count", "num_experts_per_tok"},
                          mlp = {"expert_feed_forward_length", "moe_intermediate_size"};
    char name[128];
    if (meta_int(c, count, 0, EXPERTS_MAX, 1, &m->experts, e) || meta_int(c, other, 0, EXPERTS_MAX, 1, &m->experts, e))
        return -1;
    if (!m->experts && c->f->experts != EXPERTS_STEP) return 0;
    if (!m->experts || c->f->experts == EXPERTS_NONE)
        return err_set(e, ERR_MODEL,
                       "%s is %d: mixtures of experts are not served for %s; a model of Mixtral or Qwen3-MoE is",
                       meta_name(c, meta_has(c, count) ? count : other, name), m->experts, c->f->class[0]);
    if (m->uneven)
        return err_set(e, ERR_MODEL, "layers of different widths are not served in mixtures of experts");
    m->expert_mlp = c->f->experts == EXPERTS_ALL ? m->mlp : 0;
    if (meta_int(c, used, 1, m->experts, 1, &m->experts_used, e) ||
        meta_int(c, mlp, 32, 1 << 18, 32, &m->expert_mlp, e))
        return -1;
    if (!m->experts_used || !m->expert_mlp) {
        return err_set(e, ERR_MODEL, "%s is missing", meta_name(c, m->experts_used ? mlp : used, name));
    }
    m->norm_topk = c->f->norm_topk_fixed || c->g; /* llama.cpp's graphs of these families always norm */
    if (!c->f->norm_topk_fixed &&
        meta_bool(c, (struct meta_key){"expert_weights_norm", "norm_topk_prob"}, &m->norm_topk, e))
        return -1;
    return read_sparse(c, s, m, p, e);
}

int family_layers(const struct meta *c, const struct source *s, struct model *m, struct model_plan *p, struct err *e)
{
    if (read_unturned(c, m, p, e) || read_windows(c, m, p, e)) return -1;
    return read_experts(c, s, m, p, e);
}
