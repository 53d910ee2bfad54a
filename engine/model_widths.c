/* model_widths: how many heads each layer has and how wide its MLP is.
 *
 * Most models say one number for all layers. What was pruned by structure says one for each, in one of these ways, and all end as the same
 * columns of the plan:
 *
 *     GGUF                   feed_forward_length, attention.head_count, attention.head_count_kv as arrays (llama.cpp)
 *     config.json            the three keys as lists; num_key_value_heads_per_layer (DeciLM-7B)
 *     block_configs          a block per layer: n_heads_in_group, ffn_mult, no_op (Nemotron-NAS, DeciLMForCausalLM's own code)
 *
 * A layer without heads has no attention, one of width 0 no MLP: what flows through is left as it is, and the norm before it isn't there
 * either. Lists that don't name every layer, blocks that hold what isn't served (linear in the place of attention, sinks, experts) are
 * refused by their key. The numbers of the model itself become the largest of its layers: what workspace is taken for.
 *
 * Called at load only. */
#include "engine/model_family.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HEADS_MAX 1024
#define MLP_MAX 262144
#define BLOCK_MULTIPLE 256 /* DeciLM rounds an MLP's width up to it */

static const struct count {
    struct meta_key key;
    size_t field;  /* an int of struct layer_plan */
    size_t preset; /* an int of struct family: what config.json means without the key; 0: none */
    int max, multiple;
} counts[] = {
#define FIELD(f) offsetof(struct layer_plan, f)
#define PRESET(f) offsetof(struct family, f)
    {{"feed_forward_length", "intermediate_size"}, FIELD(mlp), PRESET(mlp), MLP_MAX, 32},
    {{"attention.head_count", "num_attention_heads"}, FIELD(heads), PRESET(heads), HEADS_MAX, 1},
    {{"attention.head_count_kv", "num_key_value_heads"}, FIELD(kv_heads), PRESET(kv_heads), HEADS_MAX, 1},
#undef FIELD
#undef PRESET
};
enum { COUNT_MLP, COUNT_HEADS, COUNT_KV };

static const struct meta_key blocks_key = {NULL, "block_configs"},
                             each_kv_key = {NULL, "num_key_value_heads_per_layer"};

static int *at_layer(struct model_plan *p, const struct count *n, int layer)
{
    return (int *)(void *)((char *)&p->layer[layer] + n->field);
}

/* One number, or a list of one for each layer. `otherwise` 0: the key must be there. */
static int read_count(const struct meta *c, const struct count *n, struct meta_key key, int otherwise, int layers,
                      struct model_plan *p, struct err *e)
{
    char name[128];
    int v = otherwise, *each = NULL;
    if (meta_is_list(c, key)) {
        if (meta_list(c, key, 0, n->max, n->multiple, layers, &each, e)) return -1;
        for (int i = 0; i < layers; i++) *at_layer(p, n, i) = each[i];
        free(each);
        return 0;
    }
    if (meta_int(c, key, 1, n->max, n->multiple, &v, e)) return -1;
    if (!v)
        return err_set(e, ERR_MODEL, "%s is missing; %s", meta_name(c, key, name),
                       c->g ? "convert the model again" : "take the file that save_pretrained() wrote");
    for (int i = 0; i < layers; i++) *at_layer(p, n, i) = v;
    return 0;
}

static int preset_of(const struct meta *c, const struct count *n)
{
    int v = 0;
    if (c->j && n->preset) memcpy(&v, (const char *)c->f + n->preset, sizeof v);
    return v;
}

/* Without a key of their own there are as many key-value heads as heads; a layer without attention has none. */
static int read_kv(const struct meta *c, int layers, struct model_plan *p, struct err *e)
{
    const struct count *n = &counts[COUNT_KV];
    struct meta_key key = meta_is_list(c, each_kv_key) ? each_kv_key : n->key;
    bool listed = meta_is_list(c, key);
    int preset = preset_of(c, n);
    if (meta_has(c, key) || preset) {
        if (read_count(c, n, key, preset, layers, p, e)) return -1;
    } else {
        for (int i = 0; i < layers; i++) p->layer[i].kv_heads = p->layer[i].heads;
    }
    for (int i = 0; i < layers; i++)
        if (!listed && !p->layer[i].heads) p->layer[i].kv_heads = 0;
    return 0;
}

/* --- block_configs --- */

static int block_bad(int layer, const char *half, const char *key, struct err *e)
{
    return err_set(e, ERR_MODEL, "config.json: block_configs[%d].%s.%s is set to what is not served", layer, half, key);
}

/* Keys that were read, and others that say nothing. */
static int block_keys(const json_t *half, int layer, const char *name, const char *const known[], struct err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)half, key, v)
    {
        int i = 0;
        while (known[i] && strcmp(known[i], key) != 0) i++;
        if (!known[i] && !json_is_null(v) && !json_is_false(v)) return block_bad(layer, name, key, e);
    }
    return 0;
}

static int block_attention(const json_t *a, int layer, struct layer_plan *l, struct err *e)
{
    static const char *const known[] = {"no_op", "n_heads_in_group", NULL};
    json_int_t group = json_integer_value(json_object_get(a, "n_heads_in_group"));
    if (!json_is_object(a)) return block_bad(layer, "attention", "no_op", e);
    if (block_keys(a, layer, "attention", known, e)) return -1;
    if (json_is_true(json_object_get(a, "no_op"))) {
        l->heads = l->kv_heads = 0;
        return 0;
    }
    if (group < 1 || group > l->heads || l->heads % group) return block_bad(layer, "attention", "n_heads_in_group", e);
    l->kv_heads = l->heads / (int)group;
    return 0;
}

static int block_mlp(const json_t *f, int layer, int hidden, struct layer_plan *l, struct err *e)
{
    static const char *const known[] = {"no_op", "ffn_mult", "intermediate_size", NULL};
    const json_t *width = json_object_get(f, "intermediate_size");
    double mult = json_number_value(json_object_get(f, "ffn_mult"));
    if (!json_is_object(f)) return block_bad(layer, "ffn", "no_op", e);
    if (block_keys(f, layer, "ffn", known, e)) return -1;
    l->mlp = 0;
    if (json_is_true(json_object_get(f, "no_op"))) return 0;
    bool stated = json_is_integer(width);
    double v = stated ? (double)json_integer_value(width) : floor(2 * mult * hidden / 3);
    if (!(v >= 1 && v <= MLP_MAX)) return block_bad(layer, "ffn", stated ? "intermediate_size" : "ffn_mult", e);
    l->mlp = (int)v;
    if (!stated) l->mlp = (l->mlp + BLOCK_MULTIPLE - 1) / BLOCK_MULTIPLE * BLOCK_MULTIPLE;
    return l->mlp % 32 ? block_bad(layer, "ffn", "intermediate_size", e) : 0;
}

static int read_blocks(const struct meta *c, int hidden, int layers, struct model_plan *p, struct err *e)
{
    const json_t *list = json_object_get(c->j, blocks_key.hf);
    if (!json_is_array(list) || json_array_size(list) != (size_t)layers)
        return err_set(e, ERR_MODEL, "config.json: block_configs does not name %d layers", layers);
    for (int i = 0; i < layers; i++) {
        const json_t *block = json_array_get(list, (size_t)i);
        if (block_attention(json_object_get(block, "attention"), i, &p->layer[i], e) ||
            block_mlp(json_object_get(block, "ffn"), i, hidden, &p->layer[i], e))
            return -1;
    }
    return 0;
}

/* --- whole --- */

static int check_layer(const struct layer_plan *l, int layer, struct err *e)
{
    if (!l->heads != !l->kv_heads)
        return err_set(e, ERR_MODEL,
                       "layer %d has %d heads and %d key-value heads: attention that was replaced by a matrix is not "
                       "served",
                       layer, l->heads, l->kv_heads);
    return 0;
}

/* The model's own numbers are its largest layer's. */
static int sum_up(struct model *m, const struct model_plan *p, struct err *e)
{
    const struct layer_plan *l = p->layer;
    for (int i = 0; i < m->layers; i++) {
        if (check_layer(&l[i], i, e)) return -1;
        m->uneven |= l[i].heads != l[0].heads || l[i].kv_heads != l[0].kv_heads || l[i].mlp != l[0].mlp;
        if (l[i].heads > m->heads) m->heads = l[i].heads;
        if (l[i].kv_heads > m->kv_heads) m->kv_heads = l[i].kv_heads;
        if (l[i].mlp > m->mlp) m->mlp = l[i].mlp;
    }
    if (m->uneven && m->layers > BASE_UNEVEN_MAX)
        return err_set(e, ERR_MODEL, "%d layers of different widths: at most %d are served", m->layers, BASE_UNEVEN_MAX);
    if (!m->heads || !m->mlp)
        return err_set(e, ERR_MODEL, "no layer has %s: that is no model that is served",
                       m->heads ? "an MLP" : "attention");
    return 0;
}

int family_widths(const struct meta *c, struct model *m, struct model_plan *p, struct err *e)
{
    bool blocks = c->j && meta_has(c, blocks_key);
    p->layer = calloc((size_t)m->layers, sizeof *p->layer);
    if (!p->layer) return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", m->layers);
    if (!blocks &&
        read_count(c, &counts[COUNT_MLP], counts[COUNT_MLP].key, preset_of(c, &counts[COUNT_MLP]), m->layers, p, e))
        return -1;
    if (read_count(c, &counts[COUNT_HEADS], counts[COUNT_HEADS].key, preset_of(c, &counts[COUNT_HEADS]), m->layers, p,
                   e))
        return -1;
    if (blocks ? read_blocks(c, m->hidden, m->layers, p, e) : read_kv(c, m->layers, p, e)) return -1;
    return sum_up(m, p, e);
}
