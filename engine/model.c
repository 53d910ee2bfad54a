/* model: from a file or directory to packed weights, tokenizer and chat template.
 *
 * The order of a load, cheap before dear, so that a wrong file is refused before a gigabyte is packed:
 *
 *     source -> family_of -> family_shape -> tokenizer, chat template -> names -> digest
 *                 -> every tensor of the plan: found, shape checked, packed -> none left over -> rope tables -> logged
 *
 * Fail closed: a tensor that nobody asked for (a bias, a norm that another architecture has) would change the answers if it was
 * passed over, so it is refused by name; so is one that is missing or has another shape than the metadata says.
 *
 * What a source is opened from, and the copy in the cache that may stand for it, is model_open.c's affair. A packed file stays
 * mapped, since its weights are used where they lie; of others everything that is needed was packed or copied. Afterwards the model is immutable and any thread
 * may read it; nothing of it is freed while anybody may. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/model_family.h"
#include "engine/model_keep.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TALLIES 32

/* What matrices became: a row per (format, layout). */
struct tally {
    char format[24];
    enum layout layout;
    bool changed; /* rounded or quantized anew */
    int count;
    size_t bytes;
};

struct load {
    struct source *s;
    struct meta meta;
    struct model_plan plan;
    struct model *m;
    struct tally tally[TALLIES];
    int tallies;
};

/* --- matrices --- */

static void count(struct load *l, const char *format, const struct weight *w, bool changed)
{
    l->m->weight_bytes += w->bytes;
    int i = 0;
    while (i < l->tallies && (l->tally[i].layout != w->layout || l->tally[i].changed != changed ||
                              strncmp(l->tally[i].format, format, sizeof l->tally[i].format - 1) != 0))
        i++;
    if (i == TALLIES) i--; /* more kinds than anybody mixes: the last row takes the rest */
    if (i == l->tallies) {
        l->tally[l->tallies++] = (struct tally){.layout = w->layout, .changed = changed};
        snprintf(l->tally[i].format, sizeof l->tally[i].format, "%s", format);
    }
    l->tally[i].count++;
    l->tally[i].bytes += w->bytes;
}

static int pack(struct load *l, const struct weight_source *src, const int *row_of, enum precision prec,
                struct weight *w, struct err *e)
{
    bool changed = false;
    if (weight_pack_source(w, src, row_of, prec, LAYOUT_AUTO, &changed, e)) return -1;
    count(l, src->format ? src->format : "?", w, changed);
    return 0;
}

/* Some rows of a fused matrix, as a source of their own. */
struct rows {
    const struct weight_source *whole;
    const int *row_of;
    int from;
};

static int read_row(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    const struct rows *r = s->u;
    int at = r->from + row;
    return r->whole->read(r->whole, r->row_of ? r->row_of[at] : at, out, e);
}

/* Rows from .. from+n of the fused matrix of `total` rows at `at`. */
static int load_rows(struct load *l, const struct spot *at, int total, int from, int n, int k, struct weight *w,
                     struct err *e)
{
    struct source_matrix whole;
    if (source_matrix(l->s, at, total, k, &whole, e)) return -1;
    const struct rows rows = {.whole = &whole.src, .row_of = whole.row_of, .from = from};
    struct weight_source part = whole.src;
    part.n = n;
    part.read = read_row;
    part.u = &rows;
    int rc = pack(l, &part, NULL, l->m->prec, w, e);
    source_matrix_close(&whole);
    return rc;
}

static int load_matrix(struct load *l, const struct spot *at, int n, int k, enum precision prec, struct weight *w,
                       struct err *e)
{
    struct source_matrix from;
    if (source_weight(l->s, at, w)) {
        if (w->n != n || w->k != k)
            return err_set(e, ERR_MODEL, "a packed matrix is %d x %d: %d x %d is needed", w->n, w->k, n, k);
        count(l, "packed", w, false);
        return 0;
    }
    if (source_matrix(l->s, at, n, k, &from, e)) return -1;
    int rc = pack(l, &from.src, from.row_of, prec, w, e);
    source_matrix_close(&from);
    return rc;
}

/* A module of a layer, which may lie in a fused matrix. */
static int load_module(struct load *l, int layer, int i, struct weight *w, struct err *e)
{
    const struct model *m = l->m;
    const struct layer_plan *own = &l->plan.layer[layer];
    int q = own->heads * m->head_dim, kv = own->kv_heads * m->head_dim, mlp = own->mlp;
    const int out[LORA_MODULES] = {q, kv, kv, m->hidden, mlp, mlp, m->hidden};
    const int in[LORA_MODULES] = {m->hidden, m->hidden, m->hidden, q, m->hidden, m->hidden, mlp};
    const int from[LORA_MODULES] = {[LM_K] = q, [LM_V] = q + kv, [LM_UP] = mlp};
    const struct spot mine = {.at = (enum place)(AT_Q + i), .layer = layer};
    const struct spot fused = {.at = i <= LM_V ? AT_QKV : AT_GATE_UP, .layer = layer};
    bool joined = (i <= LM_V || i == LM_GATE || i == LM_UP) && l->meta.f->fused && !source_has(l->s, &mine);
    if (!joined || source_kind(l->s) == SOURCE_PACKED) return load_matrix(l, &mine, out[i], in[i], m->prec, w, e);
    return load_rows(l, &fused, i <= LM_V ? q + 2 * kv : 2 * mlp, from[i], out[i], in[i], w, e);
}

static int load_experts(struct load *l, int layer, struct err *e)
{
    struct model *m = l->m;
    struct model_layer *to = &m->layer[layer];
    const struct spot router = {.at = AT_ROUTER, .layer = layer};
    if (load_matrix(l, &router, m->experts, m->hidden, PREC_EXACT, &to->router, e)) return -1;
    to->expert = calloc((size_t)m->experts, sizeof *to->expert);
    if (!to->expert) return err_set(e, ERR_NO_MEMORY, "no memory for %d experts", m->experts);
    for (int x = 0; x < m->experts; x++)
        for (int i = 0; i < 3; i++) {
            const struct spot at = {.at = (enum place)(AT_EXPERT_GATE + i), .layer = layer, .expert = x};
            int n = i == 2 ? m->hidden : m->expert_mlp, k = i == 2 ? m->expert_mlp : m->hidden;
            if (load_matrix(l, &at, n, k, m->prec, &to->expert[x].part[i], e)) return -1;
        }
    return 0;
}

/* --- vectors --- */

/* Gemma's norms multiply with 1 + w: GGUF's converter has added the 1, Hugging Face's files have not. */
static int load_norm(struct load *l, enum place at, int layer, int n, float **out, struct err *e)
{
    if (source_vector(l->s, &(struct spot){.at = at, .layer = layer}, n, out, e)) return -1;
    for (int i = 0; l->meta.f->norm_less_one && l->meta.j && i < n; i++) (*out)[i] = 1.0f + (*out)[i];
    return 0;
}

static int load_norms(struct load *l, int layer, struct err *e)
{
    const struct model *m = l->m;
    const struct family *f = l->meta.f;
    const struct layer_plan *own = &l->plan.layer[layer];
    struct model_layer *to = &m->layer[layer];
    bool attention = own->heads > 0, mlp = own->sparse || own->mlp > 0;
    const struct {
        enum place at;
        bool has;
        int n;
        float **to;
    } row[] = {{AT_ATTN_NORM, attention, m->hidden, &to->attn_norm},
               {AT_MLP_NORM, mlp, m->hidden, &to->mlp_norm},
               {AT_ATTN_POST, f->post_norms && attention, m->hidden, &to->attn_post},
               {AT_MLP_POST, f->post_norms && mlp, m->hidden, &to->mlp_post},
               {AT_Q_NORM, f->qk_norm && attention, m->head_dim, &to->q_norm},
               {AT_K_NORM, f->qk_norm && attention, m->head_dim, &to->k_norm}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].has && load_norm(l, row[i].at, layer, row[i].n, row[i].to, e)) return -1;
    return 0;
}

/* --- layers --- */

static int load_layer(struct load *l, int layer, struct err *e)
{
    struct model_layer *to = &l->m->layer[layer];
    const struct layer_plan *own = &l->plan.layer[layer];
    bool sparse = own->sparse;
    to->window = own->window;
    to->sinks = own->sinks;
    for (int i = 0; i < LORA_MODULES; i++) {
        if (sparse && i >= LM_GATE) break;
        if (i <= LM_O ? !own->heads : !own->mlp) continue;
        if (load_module(l, layer, i, &to->module[i], e)) return -1;
        const struct spot bias = {.at = (enum place)(AT_Q + i), .bias = true, .layer = layer};
        if (l->plan.bias[i] && source_vector(l->s, &bias, to->module[i].n, &to->bias[i], e)) return -1;
    }
    if (sparse && load_experts(l, layer, e)) return -1;
    return load_norms(l, layer, e);
}

static int load_tensors(struct load *l, struct err *e)
{
    struct model *m = l->m;
    const struct spot embed = {.at = AT_EMBED}, head = {.at = AT_HEAD};
    m->layer = calloc((size_t)m->layers, sizeof *m->layer);
    if (!m->layer) return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", m->layers);
    if (load_matrix(l, &embed, m->vocab, m->hidden, m->prec, &m->embed, e)) return -1;
    m->head = &m->embed;
    if (!l->plan.tied || source_has(l->s, &head)) {
        m->head = &m->head_own;
        if (load_matrix(l, &head, m->vocab, m->hidden, m->prec, &m->head_own, e)) return -1;
    }
    if (load_norm(l, AT_FINAL_NORM, 0, m->hidden, &m->final_norm, e)) return -1;
    for (int i = 0; i < m->layers; i++)
        if (load_layer(l, i, e)) return -1;
    return source_all_used(l->s, e);
}

/* --- whole --- */

static unsigned also_form(unsigned forms, enum layout layout)
{
    unsigned form = weight_act_form(layout);
    return form ? forms | form : forms & ~(unsigned)ACT_NO_F32;
}

/* What the layouts multiply with. Float32 only for those that multiply with that, and where groups span two heads of
 * attention. */
static unsigned forms_needed(const struct model *m)
{
    unsigned forms = also_form(m->head_dim % GROUP ? 0 : ACT_NO_F32, m->head->layout);
    for (int l = 0; l < m->layers; l++) {
        const struct model_layer *at = &m->layer[l];
        for (int i = 0; i < LORA_MODULES; i++)
            if (at->module[i].n) forms = also_form(forms, at->module[i].layout);
        if (at->router.n) forms = also_form(forms, at->router.layout);
        for (int x = 0; at->expert && x < m->experts; x++)
            for (int i = 0; i < 3; i++) forms = also_form(forms, at->expert[x].part[i].layout);
    }
    return forms;
}

static void log_plan(const struct load *l, int64_t took_us)
{
    const struct model *m = l->m;
    for (int i = 0; i < l->tallies; i++)
        log_info("model_weights", LS("format", l->tally[i].format), LS("layout", layout_name[l->tally[i].layout]),
                 LS("values", l->tally[i].changed ? "rounded" : "kept"), LI("matrices", l->tally[i].count),
                 LI("bytes", (int64_t)l->tally[i].bytes));
    log_info("model_loaded", LS("model", m->name), LS("family", l->meta.f->class[0]), LS("digest", m->desc.digest),
             LI("layers", m->layers), LI("hidden", m->hidden), LI("heads", m->heads), LI("kv_heads", m->kv_heads),
             LI("head_dim", m->head_dim), LI("mlp", m->mlp), LI("experts", m->experts), LI("vocab", m->vocab),
             LI("tokens", m->tokens), LI("max_context", m->max_context), LS("embedding", layout_name[m->embed.layout]),
             LS("head", m->head == &m->embed ? "tied" : layout_name[m->head->layout]),
             LS("precision", m->prec == PREC_EXACT ? "exact" : "fast"), LI("bytes", (int64_t)m->weight_bytes),
             LI("ms", took_us / 1000));
    if (m->uneven) log_info("model_uneven", LS("hint", "layers differ; heads, kv_heads and mlp are the largest layer's"));
}

/* `digest` NULL: the source's. */
static int load_all(struct load *l, const char *path, const char *digest, const struct model_options *o, struct err *e)
{
    struct model *m = l->m;
    if (family_of(l->s, &l->meta, e)) return -1;
    l->plan.reach = &o->reach;
    if (family_shape(&l->meta, l->s, o->max_context, m, &l->plan, e) || text_load(l->s, m, e)) return -1;
    if (model_describe(&l->meta, &l->plan, path, o->name, m, e)) return -1;
    if (digest)
        memcpy(m->desc.digest, digest, sizeof m->desc.digest);
    else if (source_digest(l->s, m->desc.digest, e))
        return -1;
    if (load_tensors(l, e) || rope_load(m, &l->plan, e)) return -1;
    if (m->prec == PREC_EXACT) return 0;
    unsigned forms = forms_needed(m);
    m->bf16_for_adapters = !(forms & ACT_BF16);
    m->act_forms = forms | ACT_BF16;
    return 0;
}

int model_from_source(struct model **out, struct source *s, const char *path, const char *digest,
                      const struct model_options *o, struct err *e)
{
    int64_t t0 = clock_mono_us();
    struct load l = {.s = s, .m = calloc(1, sizeof *l.m)};
    if (!l.m) return err_set(e, ERR_NO_MEMORY, "no memory for the model");
    l.m->prec = o->prec;
    int rc = load_all(&l, path, digest, o, e);
    if (rc && e && e->code == ERR_MODEL && !strstr(e->msg, path)) err_prefix(e, "%s", path);
    model_plan_close(&l.plan);
    if (rc) {
        model_free(l.m);
        return -1;
    }
    log_plan(&l, clock_mono_us() - t0);
    if (source_kind(s) == SOURCE_PACKED) l.m->from = s; /* its weights lie in the map */
    *out = l.m;
    return 0;
}

int model_load(struct model **out, const char *path, const char *name, enum precision prec, int max_context,
               struct err *e)
{
    const struct model_options o = {.name = name, .prec = prec, .max_context = max_context, .keep_mapped = true};
    return model_open(out, path, &o, e);
}

/* --- the end --- */

static void free_layer(struct model_layer *l, int experts)
{
    for (int i = 0; i < LORA_MODULES; i++) {
        weight_close(&l->module[i]);
        free(l->bias[i]);
    }
    for (int x = 0; l->expert && x < experts; x++)
        for (int i = 0; i < 3; i++) weight_close(&l->expert[x].part[i]);
    free(l->expert);
    weight_close(&l->router);
    float *const vectors[] = {l->attn_norm, l->mlp_norm, l->attn_post, l->mlp_post, l->q_norm, l->k_norm};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) free(vectors[i]);
}

void model_free(struct model *m)
{
    if (!m) return;
    keeper_stop(m->keeper); /* it reads the weights */
    for (int i = 0; m->layer && i < m->layers; i++) free_layer(&m->layer[i], m->experts);
    free(m->layer);
    weight_close(&m->embed);
    weight_close(&m->head_own);
    free(m->final_norm);
    free(m->rope);
    free(m->rope_local);
    free(m->rope_none);
    tokenizer_free(m->tok);
    chat_template_free(m->chat);
    source_close(m->from);
    free(m);
}
