/* source_quant: quantization_config, and which decoder a module of a checkpoint needs.
 *
 * The tensors decide, not the lists of the configuration: a module whose matrix is stored as plain floats is plain, whatever the lists of
 * exceptions (ignore, modules_to_not_convert, targets) say, and one that is stored packed is unpacked. What the configuration adds is the
 * method, since GPTQ and AWQ share names, and settings that tensors don't show. What both must agree on is the method: a packed tensor
 * that the configured method would not write is refused.
 *
 * All methods are served as formats of weights. What they say about activations would only round further, and is passed over with one
 * line in the log.
 *
 * Called at load only. */
#include "base/log.h"
#include "engine/source_impl.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const method_words[QM_COUNT] = {
    [QM_GPTQ] = "gptq", [QM_AWQ] = "awq", [QM_BNB] = "bitsandbytes", [QM_FP8] = "fp8", [QM_CT] = "compressed-tensors"};

static const struct form_row {
    const char *suffix;
    enum dtype dtype;
    enum quant_method method;
    quant_open *open;
} forms[] = {
    {".qweight", D_I32, QM_GPTQ, gptq_open},
    {".qweight", D_I32, QM_AWQ, awq_open},
    {".weight_packed", D_I32, QM_CT, ct_packed_open},
    {".compressed", D_BF16, QM_CT, ct_sparse_open},
    {".compressed", D_F16, QM_CT, ct_sparse_open},
    {".compressed", D_F32, QM_CT, ct_sparse_open},
    {".weight", D_E4M3, QM_FP8, fp8_open},
    {".weight", D_E4M3, QM_CT, fp8_open},
    {".weight", D_I8, QM_BNB, bnb8_open},
    {".weight", D_I8, QM_CT, ct_int_open},
    {".weight", D_U8, QM_BNB, bnb4_open},
};

/* --- quantization_config --- */

static const char *string_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static int refuse_format(const struct source *s, const char *what, struct err *e)
{
    return err_set(e, ERR_MODEL,
                   "config.json: the %s format \"%.60s\" is not served; save it as %s, as one of the other served "
                   "methods, as plain "
                   "weights or as GGUF",
                   s->quant.word, what,
                   s->quant.method == QM_CT ? "pack-quantized, int-quantized or float-quantized" : "GEMM");
}

static int read_gptq(struct source *s, const json_t *q, struct err *e)
{
    const char *format = string_of(q, "checkpoint_format");
    if (!*format) format = string_of(q, "format");
    bool first = !*format || !strcmp(format, "gptq");
    if (!first && strcmp(format, "gptq_v2") != 0)
        return err_set(e, ERR_MODEL,
                       "config.json: the gptq checkpoint_format \"%.60s\" is not served; save it as gptq or gptq_v2",
                       format);
    s->quant.zeros_minus_one = first;
    return 0;
}

static int read_awq(struct source *s, const json_t *q, struct err *e)
{
    const char *version = string_of(q, "version");
    if (*version && strcasecmp(version, "gemm") != 0) return refuse_format(s, version, e);
    return 0;
}

static int read_block(struct source *s, const json_t *pair, struct err *e)
{
    for (size_t i = 0; i < 2 && pair && !json_is_null(pair); i++) {
        const json_t *v = json_array_get(pair, i);
        if (json_array_size(pair) != 2 || !json_is_integer(v) || json_integer_value(v) < 1 ||
            json_integer_value(v) > 1 << 20)
            return err_set(e, ERR_MODEL, "config.json: the block of the scales is not a pair of sizes");
        s->quant.block[i] = (int)json_integer_value(v);
    }
    return 0;
}

static int read_fp8(struct source *s, const json_t *q, struct err *e)
{
    const char *fmt = string_of(q, "fmt");
    if (*fmt && strcmp(fmt, "e4m3") != 0 && strcmp(fmt, "float8_e4m3fn") != 0)
        return err_set(e, ERR_MODEL, "config.json: fp8 of the kind \"%.60s\" is not served (e4m3 is)", fmt);
    source_tell(s, TELL_ACTIVATIONS, "activation_quantization_ignored", string_of(q, "activation_scheme"));
    return read_block(s, json_object_get(q, "weight_block_size"), e);
}

static int read_ct_group(struct source *s, const char *name, const json_t *group, struct err *e)
{
    static const char *const known[] = {
        "", "dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized"};
    const json_t *w = json_object_get(group, "weights"), *acts = json_object_get(group, "input_activations");
    const char *format = string_of(group, "format");
    bool ok = false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) ok |= !strcmp(format, known[i]);
    if (!ok) return refuse_format(s, format, e);
    if (json_is_object(acts)) source_tell(s, TELL_ACTIVATIONS, "activation_quantization_ignored", name);
    return json_is_object(w) ? read_block(s, json_object_get(w, "block_structure"), e) : 0;
}

static int read_ct(struct source *s, const json_t *q, struct err *e)
{
    const char *name;
    json_t *group, *groups = json_object_get(q, "config_groups");
    const json_t *transform = json_object_get(q, "transform_config");
    if (transform && !json_is_null(transform) && json_object_size(transform) > 0)
        return err_set(e, ERR_MODEL,
                       "config.json: quantization_config: transform_config is set: turned activations are not served; "
                       "quantize the model without transforms");
    const char *sparse = string_of(json_object_get(q, "sparsity_config"), "format");
    if (*sparse && strcmp(sparse, "dense") != 0 && strcmp(sparse, "sparse-24-bitmask") != 0) return refuse_format(s, sparse, e);
    const char *format = string_of(q, "format");
    s->quant.plain = !strcmp(format, "dense");
    if (strcmp(format, "mixed-precision") != 0 && read_ct_group(s, "config_groups", q, e)) return -1;
    json_object_foreach(groups, name, group) if (read_ct_group(s, name, group, e)) return -1;
    return 0;
}

static int read_settings(struct source *s, const json_t *q, struct err *e)
{
    switch (s->quant.method) {
    case QM_GPTQ:
        return read_gptq(s, q, e);
    case QM_AWQ:
        return read_awq(s, q, e);
    case QM_FP8:
        return read_fp8(s, q, e);
    case QM_CT:
        return read_ct(s, q, e);
    default:
        return 0;
    }
}

int quant_config_read(struct source *s, struct err *e)
{
    const json_t *q = json_object_get(s->root, "quantization_config");
    if (!q || json_is_null(q)) q = json_object_get(s->config, "quantization_config");
    if (!q || json_is_null(q)) q = json_object_get(s->root, "compression_config");
    s->quant = (struct quant_config){.word = "", .block = {128, 128}};
    if (!q || json_is_null(q)) return 0;
    if (!json_is_object(q)) return err_set(e, ERR_MODEL, "config.json: quantization_config is not an object");
    s->quant.word = string_of(q, "quant_method");
    for (int i = QM_NONE + 1; i < QM_COUNT; i++)
        if (!strcmp(s->quant.word, method_words[i])) s->quant.method = (enum quant_method)i;
    /* GPTQ's tools write AWQ's results in their own packing. */
    if (s->quant.method == QM_AWQ && !strncmp(string_of(q, "checkpoint_format"), "gptq", 4)) s->quant.method = QM_GPTQ;
    if (s->quant.method == QM_NONE)
        return err_set(e, ERR_MODEL,
                       "config.json: quant_method \"%.60s\" is not served (gptq, awq, bitsandbytes, fp8 and "
                       "compressed-tensors are); "
                       "dequantize the model, or convert it to GGUF",
                       s->quant.word);
    return read_settings(s, q, e);
}

/* --- modules --- */

int module_bad(const struct module_of *m, struct err *e, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_set(e, ERR_MODEL, "%s: %s (%d x %d): %s", m->s->path, m->stem, m->n, m->k, text);
}

const struct tensor *module_need(const struct module_of *m, const char *suffix, struct err *e)
{
    const struct tensor *t = hf_take(m->s, m->stem, suffix);
    if (!t) module_bad(m, e, "its tensor %s is missing", suffix);
    return t;
}

int quant_matrix(const struct module_of *m, struct source_matrix *out, struct err *e)
{
    const struct form_row *other = NULL;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char name[TENSOR_NAME_MAX + 16];
        snprintf(name, sizeof name, "%s%s", m->stem, forms[i].suffix);
        const struct tensor *t = hf_find(m->s, name);
        if (!t || t->dtype != forms[i].dtype) continue;
        if (!other) other = &forms[i];
        if (forms[i].method != m->s->quant.method) continue;
        if (m->k % GROUP) return module_bad(m, e, "its rows are no multiple of %d long", GROUP);
        m->s->told[SAW_QUANTIZED] = true;
        return forms[i].open(m, out, e) ? -1 : 1;
    }
    if (!other) return 0;
    return module_bad(m, e, "%s is of type %s, as %s writes it; quant_method in config.json is \"%.40s\"",
                      other->suffix, dtype_name[other->dtype], method_words[other->method], m->s->quant.word);
}

/* transformers would quantize plain weights anew, or miss the packed ones. */
int quant_unseen(const struct source *s, struct err *e)
{
    if (s->kind != SOURCE_HF || s->quant.method == QM_NONE || s->quant.plain || s->told[SAW_QUANTIZED]) return 0;
    return err_set(
        e, ERR_MODEL,
        "%s: config.json: quantization_config says %s, and all weights are plain; take quantization_config out "
        "to serve them as they are, or save the quantized model",
        s->path, s->quant.word);
}

void source_tell(const struct source *s, int bit, const char *event, const char *what)
{
    if (s->told[bit]) return;
    s->told[bit] = true;
    log_info(event, LS("model", s->path), LS("method", s->quant.word), LS("what", what));
}
