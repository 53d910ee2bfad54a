/* model: from a GGUF file to packed weights, tokenizer and chat template.
 *
 * The order of a load, cheap before dear, so that a wrong file is refused before a gigabyte is packed:
 *
 *     gguf_open -> family_of -> family_shape -> names of all tensors known -> tokenizer, chat template -> digest
 *               -> rope table -> every tensor: found, shape checked, packed -> plan logged
 *
 * Fail closed: a tensor that this table of names does not hold (a bias, a norm that another architecture has) would
 * change the answers if it was passed over, so it is refused by name; so is one that is missing or has another shape
 * than the metadata says.
 *
 * The file is unmapped when model_load() returns: everything that is needed was packed or copied. Afterwards the model
 * is immutable and any thread may read it; nothing of it is freed while anybody may. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/model_family.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NAME_BYTES 96

struct load {
    const struct gguf *g;
    const struct family *f;
    struct model *m;
    int *row_of[2]; /* of q, of k; NULL: as in the file */
};

/* The matrices of a layer, by LoRA's names and GGUF's. */
static const char *const matrix_name[LORA_MODULES] = {
    [LM_Q] = "attn_q",      [LM_K] = "attn_k",  [LM_V] = "attn_v",      [LM_O] = "attn_output",
    [LM_GATE] = "ffn_gate", [LM_UP] = "ffn_up", [LM_DOWN] = "ffn_down",
};
static const char *const layer_vectors[] = {"attn_norm.weight", "ffn_norm.weight"};
static const char *const global_names[] = {"token_embd.weight", "output.weight", "output_norm.weight",
                                           "rope_freqs.weight"};

/* --- names --- */

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool layer_name_known(const struct family *f, const char *rest)
{
    for (size_t i = 0; i < sizeof layer_vectors / sizeof *layer_vectors; i++)
        if (strcmp(rest, layer_vectors[i]) == 0) return true;
    for (int i = 0; i < LORA_MODULES; i++) {
        size_t n = strlen(matrix_name[i]);
        if (strncmp(rest, matrix_name[i], n) != 0) continue;
        if (strcmp(rest + n, ".weight") == 0) return true;
        if (f->qkv_bias && i <= LM_V && strcmp(rest + n, ".bias") == 0) return true;
    }
    return false;
}

static bool name_known(const struct load *l, const char *name)
{
    for (size_t i = 0; i < sizeof global_names / sizeof *global_names; i++)
        if (strcmp(name, global_names[i]) == 0) return true;
    if (strncmp(name, "blk.", 4) != 0 || !isdigit((unsigned char)name[4])) return false;
    char *end;
    unsigned long layer = strtoul(name + 4, &end, 10);
    return layer < (unsigned long)l->m->layers && *end == '.' && layer_name_known(l->f, end + 1);
}

static int check_names(const struct load *l, struct err *e)
{
    for (int i = 0; i < gguf_tensors(l->g); i++) {
        struct gguf_str s = gguf_tensor_at(l->g, i)->name;
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%.*s", (int)(s.len < sizeof name ? s.len : sizeof name - 1), s.s);
        if (!name_known(l, name))
            return err_set(e, ERR_MODEL,
                           "the tensor %s has no place in a %s model of %d layers: it would be passed over", name,
                           l->f->arch, l->m->layers);
    }
    return 0;
}

/* --- tensors --- */

/* The tensor `name` of exactly [n][k] (n 0: a vector of k); NULL with ERR_MODEL. */
static const struct gguf_tensor *need(const struct load *l, const char *name, int n, int k, enum tensor_type *type,
                                      struct err *e)
{
    const struct gguf_tensor *t = gguf_find(l->g, name);
    if (!t) {
        err_set(e, ERR_MODEL, "the tensor %s is missing", name);
        return NULL;
    }
    if (gguf_tensor_type(t, type, e)) return NULL;
    int64_t cols = t->ndim > 0 ? t->dim[0] : 0, rows = t->ndim == 2 ? t->dim[1] : 1;
    if (t->ndim != (n ? 2 : 1) || cols != k || rows != (n ? n : 1)) {
        err_set(e, ERR_MODEL, "the tensor %s has %d dimensions, %lld x %lld: %d x %d is needed", name, t->ndim,
                (long long)rows, (long long)cols, n ? n : 1, k);
        return NULL;
    }
    size_t bytes = tensor_bytes(*type, n ? n : 1, k);
    if (!bytes || bytes != t->bytes) {
        err_set(e, ERR_MODEL, "the tensor %s has %zu bytes: its type and shape need %zu", name, t->bytes, bytes);
        return NULL;
    }
    return t;
}

static int load_matrix(struct load *l, const char *name, int n, int k, const int *row_of, struct weight *w,
                       struct err *e)
{
    enum tensor_type type;
    const struct gguf_tensor *t = need(l, name, n, k, &type, e);
    if (!t) return -1;
    if (weight_pack(w, type, t->data, n, k, row_of, l->m->prec, e)) return err_prefix(e, "%s", name);
    l->m->weight_bytes += w->bytes;
    return 0;
}

static int load_vector(struct load *l, const char *name, int n, const int *order, float **out, struct err *e)
{
    enum tensor_type type;
    const struct gguf_tensor *t = need(l, name, 0, n, &type, e);
    if (!t) return -1;
    if (type != T_F32 && type != T_F16 && type != T_BF16)
        return err_set(e, ERR_MODEL, "the tensor %s is quantized: a vector of floats is needed", name);
    float *v = malloc((size_t)n * sizeof *v), *sorted = order ? malloc((size_t)n * sizeof *v) : NULL;
    if (!v || (order && !sorted)) {
        free(v);
        free(sorted);
        return err_set(e, ERR_NO_MEMORY, "no memory for %s", name);
    }
    tensor_to_f32(type, t->data, n, v);
    if (order) {
        for (int i = 0; i < n; i++) sorted[i] = v[order[i]];
        free(v);
        v = sorted;
    }
    *out = v;
    return 0;
}

static const int *row_order(const struct load *l, int module)
{
    return module <= LM_K ? l->row_of[module] : NULL;
}

static int load_layer(struct load *l, int layer, struct err *e)
{
    struct model *m = l->m;
    struct model_layer *to = &m->layer[layer];
    char name[NAME_BYTES];
    for (int i = 0; i < LORA_MODULES; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.weight", layer, matrix_name[i]);
        if (load_matrix(l, name, m->desc.out[i], m->desc.in[i], row_order(l, i), &to->module[i], e)) return -1;
    }
    for (int i = LM_Q; l->f->qkv_bias && i <= LM_V; i++) {
        snprintf(name, sizeof name, "blk.%d.%s.bias", layer, matrix_name[i]);
        if (load_vector(l, name, m->desc.out[i], row_order(l, i), &to->bias[i], e)) return -1;
    }
    snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
    if (load_vector(l, name, m->hidden, NULL, &to->attn_norm, e)) return -1;
    snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", layer);
    return load_vector(l, name, m->hidden, NULL, &to->mlp_norm, e);
}

static int load_tensors(struct load *l, struct err *e)
{
    struct model *m = l->m;
    m->layer = calloc((size_t)m->layers, sizeof *m->layer);
    if (!m->layer) return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", m->layers);
    if (load_matrix(l, "token_embd.weight", m->vocab, m->hidden, NULL, &m->embed, e)) return -1;
    m->head = &m->embed;
    if (gguf_find(l->g, "output.weight")) {
        if (load_matrix(l, "output.weight", m->vocab, m->hidden, NULL, &m->head_own, e)) return -1;
        m->head = &m->head_own;
    }
    if (load_vector(l, "output_norm.weight", m->hidden, NULL, &m->final_norm, e)) return -1;
    for (int i = 0; i < m->layers; i++)
        if (load_layer(l, i, e)) return -1;
    return 0;
}

static int order_rows(struct load *l, struct err *e)
{
    const struct model *m = l->m;
    if (!l->f->interleaved_qk) return 0;
    int heads[2] = {m->heads, m->kv_heads};
    for (int i = 0; i < 2; i++) {
        l->row_of[i] = malloc((size_t)(heads[i] * m->head_dim) * sizeof *l->row_of[i]);
        if (!l->row_of[i])
            return err_set(e, ERR_NO_MEMORY, "no memory for the order of %d rows", heads[i] * m->head_dim);
        qk_row_order(heads[i], m->head_dim, l->row_of[i]);
    }
    return 0;
}

static int load_rope(struct load *l, const struct rope_spec *r, struct err *e)
{
    struct model *m = l->m;
    float *divisor = NULL;
    if (gguf_find(l->g, "rope_freqs.weight") && load_vector(l, "rope_freqs.weight", m->head_dim / 2, NULL, &divisor, e))
        return -1;
    for (int i = 0; divisor && i < m->head_dim / 2; i++)
        if (!(divisor[i] > 0)) {
            err_set(e, ERR_MODEL, "rope_freqs.weight[%d] is %g: a positive divisor is needed", i, (double)divisor[i]);
            free(divisor);
            return -1;
        }
    m->rope = rope_table(r, divisor, m->max_context, m->head_dim);
    free(divisor);
    return m->rope ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the rope table of %d positions", m->max_context);
}

/* --- names that the model is known by --- */

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Is s[0..n) a type suffix: Q4_1, q8_0, IQ4_NL, Q4_K_M, F16, BF16, MXFP4? */
static bool is_type_word(const char *s, size_t n)
{
    static const char *const starts[] = {"iq", "q", "bf", "f", "mxfp", "tq"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        size_t k = strlen(starts[i]);
        if (n > k && strncasecmp(s, starts[i], k) == 0 && isdigit((unsigned char)s[k])) return true;
    }
    return false;
}

/* "dir/SmolLM2-135M-Instruct.Q4_1.gguf" -> "SmolLM2-135M-Instruct" */
static void file_stem(const char *path, char out[128])
{
    snprintf(out, 128, "%s", base_name(path));
    size_t n = strlen(out);
    if (n > 5 && ends_with(out, ".gguf")) out[n -= 5] = 0;
    char *cut = n > 1 ? strpbrk(out + 1, ".-") : NULL;
    for (char *next; cut && (next = strpbrk(cut + 1, ".-")); cut = next) {
    }
    if (cut && is_type_word(cut + 1, strlen(cut + 1))) *cut = 0;
}

static void copy_string_key(const struct gguf *g, const char *key, char out[128])
{
    struct gguf_str s;
    if (gguf_has(g, key) && gguf_string(g, key, &s, NULL) == 0 && s.len < 128)
        snprintf(out, 128, "%.*s", (int)s.len, s.s);
}

static int describe(struct load *l, const char *path, const char *name, struct err *e)
{
    struct model *m = l->m;
    struct base_desc *d = &m->desc;
    copy_string_key(l->g, "general.name", d->also[0]);
    copy_string_key(l->g, "general.basename", d->also[1]);
    file_stem(path, d->also[2]);
    if (name && *name) {
        if (strlen(name) >= sizeof m->name)
            return err_set(e, ERR_USAGE, "the model's name is longer than %zu bytes", sizeof m->name - 1);
        snprintf(m->name, sizeof m->name, "%s", name);
    } else {
        for (size_t i = 0; i < sizeof m->name; i++) m->name[i] = (char)tolower((unsigned char)d->also[2][i]);
    }
    memcpy(d->name, m->name, sizeof d->name);
    d->layers = m->layers;
    int q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    const int in[LORA_MODULES] = {m->hidden, m->hidden, m->hidden, q, m->hidden, m->hidden, m->mlp};
    const int out[LORA_MODULES] = {q, kv, kv, m->hidden, m->mlp, m->mlp, m->hidden};
    memcpy(d->in, in, sizeof in);
    memcpy(d->out, out, sizeof out);
    struct stat st;
    m->created = stat(path, &st) == 0 ? (int64_t)st.st_mtime : clock_wall_us() / 1000000;
    return gguf_digest(l->g, d->digest, e);
}

/* --- text side --- */

/* A special token's text with a NUL, cut where it is absurdly long. */
static void token_text(const struct tokenizer *t, int id, char out[256])
{
    size_t n = 0;
    const char *s = id >= 0 ? tokenizer_bytes(t, id, &n) : "";
    snprintf(out, 256, "%.*s", (int)(n < 255 ? n : 255), s);
}

static int load_text(struct load *l, struct err *e)
{
    struct model *m = l->m;
    if (tokenizer_from_gguf(&m->tok, l->g, e)) return -1;
    if (tokenizer_vocab(m->tok) != m->vocab)
        return err_set(e, ERR_MODEL, "the vocabulary has %d tokens, token_embd.weight %d rows", tokenizer_vocab(m->tok),
                       m->vocab);
    if (!gguf_has(l->g, "tokenizer.chat_template")) return 0;
    struct gguf_str source;
    char bos[256], eos[256];
    token_text(m->tok, tokenizer_bos(m->tok), bos);
    token_text(m->tok, tokenizer_eos(m->tok), eos);
    if (gguf_string(l->g, "tokenizer.chat_template", &source, e)) return -1;
    if (chat_template_new(&m->chat, source.s, source.len, bos, eos, e)) return err_prefix(e, "the chat template");
    return 0;
}

/* --- whole --- */

/* What activations are rounded to: int8 where a quantized layout multiplies, bf16 for the others and for adapters. */
static unsigned forms_needed(const struct model *m)
{
    if (m->prec == PREC_EXACT) return 0;
    unsigned forms = ACT_BF16;
    for (int l = 0; l < m->layers; l++)
        for (int i = 0; i < LORA_MODULES; i++)
            if (m->layer[l].module[i].layout >= LAYOUT_Q8) forms |= ACT_Q8;
    return m->head->layout >= LAYOUT_Q8 ? forms | ACT_Q8 : forms;
}

static void log_plan(const struct model *m, int64_t took_us)
{
    static const char *const layouts[LAYOUTS] = {"f32", "bf16", "q8", "q4"};
    size_t bytes[LAYOUTS] = {0};
    for (int l = 0; l < m->layers; l++)
        for (int i = 0; i < LORA_MODULES; i++) bytes[m->layer[l].module[i].layout] += m->layer[l].module[i].bytes;
    for (int i = 0; i < LAYOUTS; i++)
        if (bytes[i]) log_info("model_layers", LS("layout", layouts[i]), LI("bytes", (int64_t)bytes[i]));
    log_info("model_loaded", LS("model", m->name), LS("digest", m->desc.digest), LI("layers", m->layers),
             LI("hidden", m->hidden), LI("heads", m->heads), LI("kv_heads", m->kv_heads), LI("head_dim", m->head_dim),
             LI("mlp", m->mlp), LI("vocab", m->vocab), LI("max_context", m->max_context),
             LS("embedding", layouts[m->embed.layout]),
             LS("head", m->head == &m->embed ? "tied" : layouts[m->head->layout]),
             LS("precision", m->prec == PREC_EXACT ? "exact" : "fast"), LI("bytes", (int64_t)m->weight_bytes),
             LI("ms", took_us / 1000));
}

static int load_all(struct load *l, const char *path, const char *name, int max_context, struct err *e)
{
    struct rope_spec rope;
    l->f = family_of(l->g, e);
    if (!l->f) return -1;
    if (family_shape(l->f, l->g, max_context, l->m, &rope, e) || check_names(l, e)) return -1;
    if (load_text(l, e) || describe(l, path, name, e)) return -1;
    if (load_rope(l, &rope, e) || order_rows(l, e) || load_tensors(l, e)) return -1;
    l->m->act_forms = forms_needed(l->m);
    return 0;
}

int model_load(struct model **out, const char *path, const char *name, enum precision prec, int max_context,
               struct err *e)
{
    int64_t t0 = clock_mono_us();
    struct gguf *g;
    if (gguf_open(&g, path, e)) return -1;
    struct load l = {.g = g, .m = calloc(1, sizeof *l.m)};
    int rc = l.m ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the model");
    if (rc == 0) {
        l.m->prec = prec;
        rc = load_all(&l, path, name, max_context, e);
    }
    gguf_close(g);
    free(l.row_of[0]);
    free(l.row_of[1]);
    if (rc) {
        model_free(l.m);
        return -1;
    }
    log_plan(l.m, clock_mono_us() - t0);
    *out = l.m;
    return 0;
}

static void free_layer(struct model_layer *l)
{
    for (int i = 0; i < LORA_MODULES; i++) {
        weight_close(&l->module[i]);
        free(l->bias[i]);
    }
    free(l->attn_norm);
    free(l->mlp_norm);
}

void model_free(struct model *m)
{
    if (!m) return;
    for (int i = 0; m->layer && i < m->layers; i++) free_layer(&m->layer[i]);
    free(m->layer);
    weight_close(&m->embed);
    weight_close(&m->head_own);
    free(m->final_norm);
    free(m->rope);
    tokenizer_free(m->tok);
    chat_template_free(m->chat);
    free(m);
}
