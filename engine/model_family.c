/* model_family: the table of architectures, and metadata checked into a shape.
 *
 * Idea: an architecture is a row; what distinguishes it is a column that the loader and the forward pass read. One row
 * added is a family served. The numbers come from keys "ARCH.name"; each is one row of the table `numbers` with its
 * range, so a file with an absurd value is refused by the key's name before anything is allocated from it.
 *
 * Guaranteed after family_shape(): every product of two numbers of the shape fits an int, the dimensions that the
 * kernels need in multiples are so, and no setting that would change the result was passed over: mixtures of experts,
 * partial rotation, rope scaling other than linear and unequal key and value sizes are refused; a sliding window bounds
 * the context instead, since within the window it has no effect.
 *
 * Called at load only. */
#include "engine/model_family.h"
#include <stdio.h>
#include <string.h>

#define LAYERS_MAX 1024
#define HIDDEN_MAX 65536
#define HEADS_MAX 1024
#define HEAD_DIM_MAX 512
#define MLP_MAX 262144
#define VOCAB_MAX (1 << 20)
#define CONTEXT_MAX (1 << 20)
#define KEY_MAX 160

static const struct family families[] = {
    {.arch = "llama", .interleaved_qk = true}, /* Llama 2 and 3, SmolLM2, Mistral */
    {.arch = "qwen2", .qkv_bias = true},       /* Qwen 2 and 2.5 */
};

static const struct number {
    const char *key; /* after "ARCH." */
    size_t field;    /* an int of struct model */
    int min, max;
    int multiple; /* of which the value has to be */
} numbers[] = {
#define FIELD(f) offsetof(struct model, f)
    {"block_count", FIELD(layers), 1, LAYERS_MAX, 1},          {"embedding_length", FIELD(hidden), 32, HIDDEN_MAX, 32},
    {"feed_forward_length", FIELD(mlp), 32, MLP_MAX, 32},      {"attention.head_count", FIELD(heads), 1, HEADS_MAX, 1},
    {"context_length", FIELD(max_context), 1, CONTEXT_MAX, 1},
#undef FIELD
};

const struct family *family_of(const struct gguf *g, struct err *e)
{
    struct gguf_str arch;
    if (gguf_string(g, "general.architecture", &arch, e)) return NULL;
    char known[256] = "";
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const struct family *f = &families[i];
        if (strlen(f->arch) == arch.len && memcmp(f->arch, arch.s, arch.len) == 0) return f;
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s%s", n ? ", " : "", f->arch);
    }
    err_set(e, ERR_MODEL, "the architecture \"%.*s\" is not served (served: %s)", (int)(arch.len < 64 ? arch.len : 64),
            arch.s, known);
    return NULL;
}

static const char *key_of(const struct family *f, const char *name, char key[KEY_MAX])
{
    snprintf(key, KEY_MAX, "%s.%s", f->arch, name);
    return key;
}

static int in_range(const char *key, uint64_t v, int min, int max, int multiple, struct err *e)
{
    if (v < (uint64_t)min || v > (uint64_t)max)
        return err_set(e, ERR_MODEL, "%s is %llu: %d to %d is served", key, (unsigned long long)v, min, max);
    if (v % (uint64_t)multiple)
        return err_set(e, ERR_MODEL, "%s is %llu, which is not a multiple of %d", key, (unsigned long long)v, multiple);
    return 0;
}

/* An int that may be absent: *out keeps its preset value then. */
static int optional_int(const struct family *f, const struct gguf *g, const char *name, int min, int max, int *out,
                        struct err *e)
{
    char key[KEY_MAX];
    uint64_t v;
    if (!gguf_has(g, key_of(f, name, key))) return 0;
    if (gguf_u64(g, key, &v, e) || in_range(key, v, min, max, 1, e)) return -1;
    *out = (int)v;
    return 0;
}

static int optional_float(const struct family *f, const struct gguf *g, const char *name, double *out, struct err *e)
{
    char key[KEY_MAX];
    if (!gguf_has(g, key_of(f, name, key))) return 0;
    return gguf_f64(g, key, out, e);
}

static int read_numbers(const struct family *f, const struct gguf *g, struct model *m, struct err *e)
{
    char key[KEY_MAX];
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const struct number *n = &numbers[i];
        uint64_t v;
        key_of(f, n->key, key);
        if (gguf_u64(g, key, &v, e) || in_range(key, v, n->min, n->max, n->multiple, e)) return -1;
        int small = (int)v;
        memcpy((char *)m + n->field, &small, sizeof small);
    }
    double eps;
    if (gguf_f64(g, key_of(f, "attention.layer_norm_rms_epsilon", key), &eps, e)) return -1;
    if (!(eps > 0 && eps < 1)) return err_set(e, ERR_MODEL, "%s is %g: a value between 0 and 1 is needed", key, eps);
    m->norm_eps = (float)eps;
    return 0;
}

static int read_heads(const struct family *f, const struct gguf *g, struct model *m, struct err *e)
{
    m->kv_heads = m->heads;
    m->head_dim = m->hidden / m->heads;
    if (optional_int(f, g, "attention.head_count_kv", 1, HEADS_MAX, &m->kv_heads, e)) return -1;
    if (optional_int(f, g, "attention.key_length", 2, HEAD_DIM_MAX, &m->head_dim, e)) return -1;
    int value = m->head_dim, rotated = m->head_dim;
    if (optional_int(f, g, "attention.value_length", 2, HEAD_DIM_MAX, &value, e)) return -1;
    if (optional_int(f, g, "rope.dimension_count", 1, HEAD_DIM_MAX, &rotated, e)) return -1;
    if (m->heads % m->kv_heads)
        return err_set(e, ERR_MODEL, "%d attention heads cannot share %d key-value heads", m->heads, m->kv_heads);
    if (m->head_dim < 2 || m->head_dim % 2 || m->head_dim > HEAD_DIM_MAX)
        return err_set(e, ERR_MODEL, "a head size of %d is not served (even, 2 to %d)", m->head_dim, HEAD_DIM_MAX);
    if ((m->heads * m->head_dim) % 32)
        return err_set(e, ERR_MODEL, "%d heads of %d: their product is not a multiple of 32", m->heads, m->head_dim);
    if (value != m->head_dim)
        return err_set(e, ERR_MODEL, "values of %d beside keys of %d per head are not served", value, m->head_dim);
    if (rotated != m->head_dim)
        return err_set(e, ERR_MODEL, "rope over %d of %d dimensions of a head is not served", rotated, m->head_dim);
    return 0;
}

static bool same(struct gguf_str s, const char *word)
{
    return s.len == strlen(word) && memcmp(s.s, word, s.len) == 0;
}

static int read_rope(const struct family *f, const struct gguf *g, struct rope_spec *r, struct err *e)
{
    char key[KEY_MAX];
    *r = (struct rope_spec){.base = 10000, .factor = 1};
    struct gguf_str type = {"none", 4};
    if (optional_float(f, g, "rope.freq_base", &r->base, e)) return -1;
    if (gguf_has(g, key_of(f, "rope.scaling.type", key)) && gguf_string(g, key, &type, e)) return -1;
    if (same(type, "linear")) {
        if (optional_float(f, g, "rope.scaling.factor", &r->factor, e)) return -1;
    } else if (!same(type, "none") && type.len) {
        return err_set(e, ERR_MODEL, "the rope scaling \"%.*s\" is not served (none and linear are)",
                       (int)(type.len < 64 ? type.len : 64), type.s);
    }
    if (optional_float(f, g, "rope.scale_linear", &r->factor, e)) return -1; /* the name of older converters */
    if (!(r->base > 1 && r->base < 1e12)) return err_set(e, ERR_MODEL, "%s.rope.freq_base is %g", f->arch, r->base);
    if (!(r->factor > 0 && r->factor < 1e6)) return err_set(e, ERR_MODEL, "the rope scaling factor is %g", r->factor);
    return 0;
}

static int refuse_experts(const struct family *f, const struct gguf *g, struct err *e)
{
    int experts = 0;
    if (optional_int(f, g, "expert_count", 0, 1 << 20, &experts, e)) return -1;
    if (experts > 0) return err_set(e, ERR_MODEL, "mixtures of experts (%d here) are not served", experts);
    return 0;
}

static int read_context(const struct family *f, const struct gguf *g, int asked, struct model *m, struct err *e)
{
    int window = 0;
    if (optional_int(f, g, "attention.sliding_window", 0, CONTEXT_MAX, &window, e)) return -1;
    if (window > 0 && window < m->max_context) m->max_context = window;
    if (asked > m->max_context)
        return err_set(e, ERR_USAGE, "max_context is %d, the model's own limit is %d", asked, m->max_context);
    if (asked > 0) m->max_context = asked;
    return 0;
}

static int read_vocab(const struct family *f, const struct gguf *g, struct model *m, struct err *e)
{
    const struct gguf_tensor *t = gguf_find(g, "token_embd.weight");
    if (!t) return err_set(e, ERR_MODEL, "the tensor token_embd.weight is missing");
    if (t->ndim != 2 || t->dim[1] < 1 || t->dim[1] > VOCAB_MAX)
        return err_set(e, ERR_MODEL, "token_embd.weight has an odd shape: a matrix of at most %d rows is needed",
                       VOCAB_MAX);
    m->vocab = (int)t->dim[1];
    int stated = m->vocab;
    if (optional_int(f, g, "vocab_size", 1, VOCAB_MAX, &stated, e)) return -1;
    if (stated != m->vocab)
        return err_set(e, ERR_MODEL, "%s.vocab_size is %d, token_embd.weight has %d rows", f->arch, stated, m->vocab);
    return 0;
}

int family_shape(const struct family *f, const struct gguf *g, int max_context, struct model *m, struct rope_spec *r,
                 struct err *e)
{
    if (read_numbers(f, g, m, e) || read_heads(f, g, m, e) || read_rope(f, g, r, e)) return -1;
    if (refuse_experts(f, g, e) || read_vocab(f, g, m, e)) return -1;
    return read_context(f, g, max_context, m, e);
}
