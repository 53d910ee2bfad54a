/* prune: a base in memory, matrix by matrix, into a checkpoint with zeros, or with fewer heads and channels.
 *
 *     model_load(IN, exact) -> norms of a text (Wanda) -> what stays of each layer -> every matrix: rows and columns that stay, then zeros
 *        IN a directory:  a directory of the same family: config.json changed where shapes or the format did, all other tensors as they are
 *        IN a GGUF:       a packed file with the GGUF's keys: a GGUF's vocabulary has no tokenizer.json that a directory would need
 *
 * Matrices are pruned in the layers only; embedding and head stay, as in the papers. Values are written as bf16. 2:4 in a directory is
 * written as compressed-tensors' sparse-24-bitmask (STEM.compressed [n][k/2], .bitmask [n][k/8] with the first input in the lowest bit,
 * .shape [2][1]), 9/16 of the bytes.
 *
 * Runs alone in its process: `weft-engine prune`. */
#include "engine/prune.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/checkpoint.h"
#include "engine/packed.h"
#include "engine/source_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
    const struct prune_options *o;
    struct model *m;
    struct source *s;
    struct prune_norms norms;
    struct prune_layer *layer; /* [layers]; NULL: all stays */
    struct checkpoint *c;      /* of a directory */
    struct packed_writer *w;   /* of a packed file */
    int64_t weights, zeros;
};

/* --- one matrix, as it will be --- */

struct matrix {
    int n, k, *row_of, *col_of; /* of the model's matrix */
    float *w;                   /* [n][k] */
};

static void matrix_close(struct matrix *x)
{
    free(x->row_of);
    free(x->col_of);
    free(x->w);
}

/* The indices that stay of `all`, where each entry of the list stands for `each` of them; NULL list: all stay. free() */
static int *indices(const int *list, int parts, int each, int all, int *n)
{
    *n = list ? parts * each : all;
    int *out = malloc((size_t)(*n ? *n : 1) * sizeof *out);
    for (int i = 0; out && i < *n; i++) out[i] = list ? list[i / each] * each + i % each : i;
    return out;
}

/* Heads go by key-value head, with all query heads that share it: a part of a group would leave a mapping that no config can say. What one matrix gives
 * in rows the next one takes in columns: q, k, v and o; gate, up and down. */
static int choose_rows(const struct job *j, int layer, int module, struct matrix *x, struct err *e)
{
    static const struct prune_layer all = {0};
    const struct model *m = j->m;
    const struct weight *w = &m->layer[layer].module[module];
    const struct prune_layer *l = j->layer ? &j->layer[layer] : &all;
    int queries = m->heads / m->kv_heads * m->head_dim; /* indices of a group */
    switch (module) {
    case LM_Q:
        x->row_of = indices(l->group, l->groups, queries, w->n, &x->n);
        break;
    case LM_K:
    case LM_V:
        x->row_of = indices(l->group, l->groups, m->head_dim, w->n, &x->n);
        break;
    case LM_GATE:
    case LM_UP:
        x->row_of = indices(l->channel, l->channels, 1, w->n, &x->n);
        break;
    default:
        x->row_of = indices(NULL, 0, 1, w->n, &x->n);
    }
    if (module == LM_O)
        x->col_of = indices(l->group, l->groups, queries, w->k, &x->k);
    else
        x->col_of = indices(module == LM_DOWN ? l->channel : NULL, l->channels, 1, w->k, &x->k);
    return x->row_of && x->col_of ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a matrix");
}

static const float *norm_of(const struct job *j, int layer, int module)
{
    static const enum prune_input input[LORA_MODULES] = {INPUT_Q, INPUT_Q, INPUT_Q, INPUT_O, INPUT_GATE, INPUT_GATE, INPUT_DOWN};
    enum prune_input i = input[module];
    return j->norms.norm[i] ? j->norms.norm[i] + (size_t)layer * (size_t)j->norms.k[i] : NULL;
}

/* Values as bf16 holds them, so that what is compared is what is written. */
static float as_bf16(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&v, &u, sizeof v);
    return v;
}

static uint16_t bf16_bits(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return (uint16_t)(u >> 16);
}

static int make_matrix(struct job *j, int layer, int module, struct matrix *x, struct err *e)
{
    const struct weight *w = &j->m->layer[layer].module[module];
    const float *norm = norm_of(j, layer, module);
    if (choose_rows(j, layer, module, x, e)) return -1;
    size_t values = (size_t)x->n * (size_t)x->k;
    float *row = malloc((size_t)w->k * sizeof *row), *own = malloc((size_t)w->k * sizeof *own);
    struct prune_scored *scratch = malloc((size_t)w->k * sizeof *scratch);
    x->w = malloc((values ? values : 1) * sizeof *x->w);
    int rc = row && own && scratch && x->w ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a matrix of %d x %d", x->n, x->k);
    for (int i = 0; norm && !rc && i < x->k; i++) own[i] = norm[x->col_of[i]];
    for (int o = 0; o < x->n && !rc; o++) {
        float *to = x->w + (size_t)o * (size_t)x->k;
        weight_row(w, x->row_of[o], row);
        for (int i = 0; i < x->k; i++) to[i] = as_bf16(row[x->col_of[i]]);
        prune_row(to, norm ? own : NULL, x->k, j->o->pattern, j->o->ratio, scratch);
        for (int i = 0; i < x->k; i++) j->zeros += to[i] == 0;
        j->weights += x->k;
    }
    free(row);
    free(own);
    free(scratch);
    return rc;
}

/* --- into a directory --- */

static int add_plain(struct job *j, const char *stem, const struct matrix *x, struct err *e)
{
    char name[TENSOR_NAME_MAX + 16];
    size_t values = (size_t)x->n * (size_t)x->k;
    uint16_t *bits = malloc(values * sizeof *bits);
    if (!bits) return err_set(e, ERR_NO_MEMORY, "no memory for %s", stem);
    for (size_t i = 0; i < values; i++) bits[i] = bf16_bits(x->w[i]);
    snprintf(name, sizeof name, "%s.weight", stem);
    int rc = checkpoint_add(j->c, name, "BF16", (int64_t[]){x->n, x->k}, 2, bits, values * sizeof *bits, e);
    free(bits);
    return rc;
}

/* Two of each four stand in `compressed`, in order; where fewer than two aren't zero the first zeros do. */
static void compress_row(const float *w, int k, uint16_t *value, uint8_t *mask)
{
    memset(mask, 0, (size_t)k / 8);
    for (int i = 0; i < k; i += 4) {
        int taken = 0, full = 0;
        for (int x = 0; x < 4; x++) full += w[i + x] != 0;
        for (int x = 0; x < 4 && taken < 2; x++) {
            bool room = full < 2 && w[i + x] == 0;
            if (w[i + x] == 0 && !room) continue;
            full += room;
            *value++ = bf16_bits(w[i + x]);
            mask[(i + x) / 8] |= (uint8_t)(1u << (i + x) % 8);
            taken++;
        }
    }
}

static int add_sparse(struct job *j, const char *stem, const struct matrix *x, struct err *e)
{
    char name[TENSOR_NAME_MAX + 16];
    size_t half = (size_t)x->k / 2, eighth = (size_t)x->k / 8, n = (size_t)x->n;
    const int64_t shape[2] = {x->n, x->k};
    uint16_t *value = calloc(n * half, sizeof *value);
    uint8_t *mask = malloc(n * eighth);
    int rc = value && mask ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %s", stem);
    for (size_t o = 0; o < n && !rc; o++) compress_row(x->w + o * (size_t)x->k, x->k, value + o * half, mask + o * eighth);
    snprintf(name, sizeof name, "%s.compressed", stem);
    if (!rc) rc = checkpoint_add(j->c, name, "BF16", (int64_t[]){x->n, x->k / 2}, 2, value, n * half * sizeof *value, e);
    snprintf(name, sizeof name, "%s.bitmask", stem);
    if (!rc) rc = checkpoint_add(j->c, name, "U8", (int64_t[]){x->n, x->k / 8}, 2, mask, n * eighth, e);
    snprintf(name, sizeof name, "%s.shape", stem);
    if (!rc) rc = checkpoint_add(j->c, name, "I64", (int64_t[]){2, 1}, 2, shape, sizeof shape, e);
    free(value);
    free(mask);
    return rc;
}

static int add_bias(struct job *j, int layer, int module, const char *stem, const struct matrix *x, struct err *e)
{
    char name[TENSOR_NAME_MAX + 16];
    const float *bias = j->m->layer[layer].bias[module];
    float *own = bias ? malloc((size_t)x->n * sizeof *own) : NULL;
    if (!bias) return 0;
    if (!own) return err_set(e, ERR_NO_MEMORY, "no memory for %s", stem);
    for (int i = 0; i < x->n; i++) own[i] = bias[x->row_of[i]];
    snprintf(name, sizeof name, "%s.bias", stem);
    int rc = checkpoint_add(j->c, name, "F32", (int64_t[]){x->n, 0}, 1, own, (size_t)x->n * sizeof *own, e);
    free(own);
    return rc;
}

/* Is the tensor one that a pruned module's files stand for? */
static bool is_pruned(const struct job *j, const char *name)
{
    for (int l = 0; l < j->m->layers; l++)
        for (int i = 0; i < LORA_MODULES; i++) {
            const struct spot at = {.at = (enum place)(AT_Q + i), .layer = l};
            struct located where;
            if (!j->m->layer[l].module[i].n || !names_locate(j->s, &at, &where)) continue;
            size_t n = strlen(where.stem);
            if (strncmp(name, where.stem, n) == 0 && name[n] == '.') return true;
        }
    return false;
}

static int copy_others(struct job *j, struct err *e)
{
    for (int i = 0; i < j->s->ntensors; i++) {
        const struct tensor *t = &j->s->tensor[i];
        if (is_pruned(j, t->name)) continue;
        if (!dtype_is_float(t->dtype) || t->ndim < 1 || t->ndim > 2)
            return err_set(e, ERR_MODEL, "%s: %s is no plain matrix: only bases of plain floats are pruned; dequantize it",
                           j->s->path, t->name);
        if (checkpoint_add(j->c, t->name, dtype_name[t->dtype], t->dim, t->ndim, t->data, t->bytes, e)) return -1;
    }
    return 0;
}

static int put_list(json_t *config, const char *key, const struct job *j, bool heads, int times)
{
    json_t *list = json_array();
    int rc = list ? 0 : -1;
    for (int l = 0; l < j->m->layers && !rc; l++)
        rc = json_array_append_new(list, json_integer((heads ? j->layer[l].groups : j->layer[l].channels) * times));
    return rc | json_object_set_new(config, key, list);
}

static int write_config(struct job *j, struct err *e)
{
    const struct model *m = j->m;
    json_t *config = json_deep_copy(source_config_root(j->s));
    int rc = config ? 0 : -1;
    if (!rc && j->layer)
        rc = put_list(config, "intermediate_size", j, false, 1) |
             put_list(config, "num_attention_heads", j, true, m->heads / m->kv_heads) |
             put_list(config, "num_key_value_heads", j, true, 1) |
             json_object_set_new(config, "head_dim", json_integer(m->head_dim));
    if (!rc && j->o->pattern == PRUNE_24 && !j->o->zeros)
        rc = json_object_set_new(config, "quantization_config",
                                 json_pack("{s:s, s:s, s:{s:s, s:s, s:[s], s:[s]}}", "quant_method", "compressed-tensors",
                                           "format", "dense", "sparsity_config", "format", "sparse-24-bitmask",
                                           "sparsity_structure", "2:4", "targets", "Linear", "ignore", "lm_head"));
    char *text = rc ? NULL : json_dumps(config, JSON_INDENT(2));
    rc = text ? checkpoint_text(j->c, "config.json", text, strlen(text), e)
              : err_set(e, ERR_NO_MEMORY, "no memory for config.json");
    free(text);
    json_decref(config);
    return rc;
}

static int write_texts(struct job *j, struct err *e)
{
    for (int i = 0; i < TEXT_FILES; i++) {
        const char *text;
        size_t len;
        if (source_file(j->s, source_text_files[i], &text, &len) &&
            checkpoint_text(j->c, source_text_files[i], text, len, e))
            return -1;
    }
    return write_config(j, e);
}

static int module_to_folder(struct job *j, int layer, int module, const struct matrix *x, struct err *e)
{
    const struct spot at = {.at = (enum place)(AT_Q + module), .layer = layer};
    struct located where;
    names_locate(j->s, &at, &where);
    bool sparse = j->o->pattern == PRUNE_24 && !j->o->zeros;
    return (sparse ? add_sparse : add_plain)(j, where.stem, x, e) || add_bias(j, layer, module, where.stem, x, e) ? -1 : 0;
}

/* --- into a packed file --- */

static int read_row(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    const struct matrix *x = s->u;
    memcpy(out->f, x->w + (size_t)row * (size_t)x->k, (size_t)x->k * sizeof *out->f);
    return 0;
}

static int add_packed(struct job *j, const struct spot *at, const struct weight_source *src, const int *row_of, int to,
                      struct err *e)
{
    char name[SOURCE_PLACE_MAX];
    struct weight w = {0};
    source_place_name(at, name);
    if (weight_pack_source(&w, src, row_of, PREC_FAST, to, NULL, e)) return -1;
    int rc = packed_writer_add_weight(j->w, name, &w, e);
    weight_close(&w);
    return rc;
}

static int module_to_packed(struct job *j, int layer, int module, const struct matrix *x, struct err *e)
{
    const struct weight_source src = {
        .kind = CODES_FLOAT, .n = x->n, .k = x->k, .read = read_row, .u = x, .format = "pruned"};
    return add_packed(j, &(struct spot){.at = (enum place)(AT_Q + module), .layer = layer}, &src, NULL,
                      j->o->sparse && j->o->pattern == PRUNE_24 ? LAYOUT_S24 : LAYOUT_AUTO, e);
}

/* Embedding and head, as the loader would pack them. */
static int ends_to_packed(struct job *j, struct err *e)
{
    for (int i = 0; i < 2; i++) {
        const struct spot at = {.at = i ? AT_HEAD : AT_EMBED};
        struct source_matrix from;
        if (i && !source_has(j->s, &at)) continue;
        if (source_matrix(j->s, &at, j->m->vocab, j->m->hidden, &from, e)) return -1;
        int rc = add_packed(j, &at, &from.src, from.row_of, LAYOUT_AUTO, e);
        source_matrix_close(&from);
        if (rc) return -1;
    }
    return 0;
}

/* --- whole --- */

static int put_modules(struct job *j, struct err *e)
{
    for (int l = 0; l < j->m->layers; l++) {
        int64_t weights = j->weights, zeros = j->zeros;
        for (int i = 0; i < LORA_MODULES; i++) {
            struct matrix x = {0};
            if (!j->m->layer[l].module[i].n) continue;
            int rc = make_matrix(j, l, i, &x, e);
            if (!rc) rc = j->c ? module_to_folder(j, l, i, &x, e) : module_to_packed(j, l, i, &x, e);
            matrix_close(&x);
            if (rc) return -1;
        }
        log_info("layer_pruned", LI("layer", l), LI("weights", j->weights - weights), LI("zeros", j->zeros - zeros),
                 LI("heads", j->layer ? j->layer[l].groups * (j->m->heads / j->m->kv_heads) : model_heads(j->m, l)),
                 LI("mlp", j->layer ? j->layer[l].channels : model_mlp(j->m, l)));
    }
    return 0;
}

static int write_folder(struct job *j, struct err *e)
{
    int tensors = j->s->ntensors + j->m->layers * LORA_MODULES * 3;
    if (checkpoint_new(&j->c, j->o->out, tensors, e) || copy_others(j, e) || put_modules(j, e) || write_texts(j, e)) return -1;
    return checkpoint_finish(j->c, e);
}

static int write_packed(struct job *j, struct err *e)
{
    if (packed_writer_new(&j->w, j->o->out, e) || source_pack(j->s, j->w, e) || ends_to_packed(j, e) || put_modules(j, e))
        return -1;
    json_t *meta = json_pack("{s:s, s:s}", "program", "weft-engine prune", "base", j->m->desc.digest);
    int rc = meta ? packed_writer_finish(j->w, meta, e) : err_set(e, ERR_NO_MEMORY, "no memory for the description");
    json_decref(meta);
    return rc;
}

/* What isn't one matrix for each module is not pruned. */
static int check_source(const struct job *j, struct err *e)
{
    bool structure = j->o->width < 1 || j->o->heads < 1; /* heads and channels go, not values alone */
    if (source_kind(j->s) == SOURCE_PACKED)
        return err_set(e, ERR_USAGE, "%s is a packed file: prune what it was made from", j->o->in);
    if (j->m->experts || j->m->desc.fused_qkv)
        return err_set(e, ERR_USAGE, "%s has experts or fused matrices, which are not pruned", j->o->in);
    if (structure && source_kind(j->s) != SOURCE_HF)
        return err_set(e, ERR_USAGE, "--width and --heads need a Hugging Face directory: a GGUF's keys are kept as they are");
    if (structure && (j->m->uneven || source_config(j->s) != source_config_root(j->s)))
        return err_set(e, ERR_USAGE, "--width and --heads need a model whose layers are alike, and no composite");
    if (j->o->sparse && (source_kind(j->s) != SOURCE_GGUF || j->o->pattern != PRUNE_24))
        return err_set(e, ERR_USAGE, "--sparse is for 2:4 and a packed file, which a GGUF becomes");
    if (j->s->quant.method != QM_NONE)
        return err_set(e, ERR_USAGE, "%s is quantized: only bases of plain floats are pruned; dequantize it", j->o->in);
    return 0;
}

static int choose(struct job *j, struct err *e)
{
    const struct prune_options *o = j->o;
    const struct prune_norms *norms = o->wanda ? &j->norms : NULL;
    if (o->wanda && prune_calibrate(o, j->m, &j->norms, e)) return -1;
    if (o->width >= 1 && o->heads >= 1) return 0;
    j->layer = calloc((size_t)j->m->layers, sizeof *j->layer);
    if (!j->layer) return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", j->m->layers);
    return prune_choose(o, j->m, norms, j->layer, e);
}

static void job_close(struct job *j)
{
    for (int l = 0; j->layer && l < j->m->layers; l++) {
        free(j->layer[l].channel);
        free(j->layer[l].group);
    }
    free(j->layer);
    prune_norms_close(&j->norms);
    checkpoint_free(j->c);
    packed_writer_free(j->w);
    source_close(j->s);
    model_free(j->m);
}

int prune(const struct prune_options *o, struct err *e)
{
    struct job j = {.o = o};
    int rc = packed_check_other(o->in, o->out, e);
    if (!rc) rc = model_load(&j.m, o->in, NULL, PREC_EXACT, 0, e); /* exact: what is ranked are the values that the file holds */
    if (!rc) rc = source_open(&j.s, o->in, e);
    if (!rc) rc = check_source(&j, e);
    if (!rc) rc = choose(&j, e);
    if (!rc) rc = source_kind(j.s) == SOURCE_HF ? write_folder(&j, e) : write_packed(&j, e);
    if (!rc) log_info("pruned", LS("to", o->out), LI("weights", j.weights), LI("zeros", j.zeros));
    job_close(&j);
    return rc;
}
