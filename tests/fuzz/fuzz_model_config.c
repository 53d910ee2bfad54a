/* What a model says of itself: config.json, tokenizer_config.json, generation_config.json and the chat template of a Hugging Face folder, or a GGUF's metadata. What is
 * taken is a shape that keeps to its bounds (every product of two of its numbers fits, what kernels need in multiples is so), layers with windows and experts
 * within it, frequencies and tables of angles that are finite, a vocabulary no larger than the embedding; it is the same when read again; what is refused says why.
 * Input: a byte of bits, of a folder config.json, a NUL, tokenizer_config.json, a NUL, generation_config.json, a NUL, chat_template.jinja; else the GGUF. The bits:
 * a GGUF; a short context is asked for; there is no head; the embedding isn't of the rows that config.json says; the last text is given as --chat-template; and
 * in three of them which of the rows below the operator asks for beyond the files (docs/LONG_CONTEXT.md), 0: nothing. */
#include "base/log.h"
#include "engine/model_family.h"
#include "engine/source_impl.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>

#define IS_GGUF 1
#define SHORT 2
#define NO_HEAD 4
#define OTHER_ROWS 8
#define GIVEN 16
#define ROWS 272

static const struct model_reach asked[8] = {
    {0},
    {.scaling = "yarn", .factor = 4, .original = 64},
    {.scaling = "linear", .factor = 1e12, .theta = 1e12, .window = 8, .sinks = 64},
    {.scaling = "none", .window = 1, .sinks = 0},
    {.scaling = "yarn", .factor = 1.0000001, .original = 1048576, .window = 1048576},
    {.theta = 1e-3, .window = 20, .sinks = 4},
    {.scaling = "ntk", .factor = 2},
    {.factor = 2, .original = 16},
};

static const char tokenizer_json[] = "{\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                                     "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\xc4\xa0\":3,\"<s>\":4},\"merges\":[\"a b\"]}}";

/* --- sources, as source_open() would fill them --- */

static struct tensor tensors[2];
static bool used[2];
static struct mapped text[TEXT_FILES];

static void put_text(const char *name, const char *bytes)
{
    for (int i = 0; i < TEXT_FILES; i++)
        if (!strcmp(source_text_files[i], name)) {
            snprintf(text[i].name, sizeof text[i].name, "%s", name);
            text[i].p = *bytes ? (const uint8_t *)bytes : NULL;
            text[i].bytes = strlen(bytes);
        }
}

static void put_tensors(struct source *s, unsigned how)
{
    json_int_t rows = json_integer_value(json_object_get(s->config, "vocab_size"));
    if (rows < 1 || rows > 1 << 24 || how & OTHER_ROWS) rows = ROWS;
    tensors[0] = (struct tensor){.name = "lm_head.weight", .dtype = D_BF16, .ndim = 2, .dim = {rows, 64, 1, 1}};
    tensors[1] = (struct tensor){.name = "model.embed_tokens.weight", .dtype = D_BF16, .ndim = 2, .dim = {rows, 64, 1, 1}};
    s->tensor = tensors + (how & NO_HEAD ? 1 : 0);
    s->ntensors = how & NO_HEAD ? 1 : 2;
    s->used = used;
    s->file = text;
}

static int open_folder(struct source *s, unsigned how, const char *config, struct err *e)
{
    s->kind = SOURCE_HF;
    snprintf(s->path, sizeof s->path, "folder");
    if (config_read(s, "folder/config.json", config, strlen(config), e)) return -1;
    put_tensors(s, how);
    return quant_config_read(s, e);
}

static int open_gguf(struct source *s, const uint8_t *data, size_t n, struct err *e)
{
    static struct fuzz_file file;
    s->kind = SOURCE_GGUF;
    snprintf(s->path, sizeof s->path, "file.gguf");
    fuzz_file_fill(&file, data, n);
    return gguf_source_open(s, file.path, e);
}

static void shut(struct source *s)
{
    if (s->kind == SOURCE_GGUF) free(s->used);
    gguf_close(s->g);
    json_decref(s->root);
}

/* --- what was read --- */

static void check_frequencies(const struct rope_spec *r, const struct model *m)
{
    float freq[HEAD_DIM_MAX / 2];
    const int contexts[] = {1, m->max_context, r->reach};
    FUZZ_NEED(r->normal >= 1 && r->reach >= r->normal && r->reach <= 1 << 20 && r->original >= 1 && (float)r->attention > 0 && isfinite((float)r->attention));
    for (int c = 0; c < 3; c++) {
        rope_frequencies(r, contexts[c], m->rotary, freq);
        for (int i = 0; i < m->rotary / 2; i++) FUZZ_NEED(freq[i] >= 0 && isfinite(freq[i] * (float)contexts[c]));
    }
}

static void check_layers(const struct model *m, const struct model_plan *p)
{
    for (int i = 0; i < m->layers; i++) {
        const struct layer_plan *l = &p->layer[i];
        FUZZ_NEED(l->window >= 0 && (l->window < m->max_context || (p->reach && l->window == p->reach->window)));
        FUZZ_NEED(l->sinks >= 0 && l->sinks <= 64 && (!l->sinks || l->window));
        FUZZ_NEED((!l->local || p->own_local) && (!l->sparse || m->experts > 0) && (!l->unturned || p->f->nope_interval));
    }
    FUZZ_NEED(m->experts >= 0 && m->experts_used >= 0 && m->experts_used <= m->experts && (!m->experts || (m->experts_used && m->expert_mlp >= 32)));
    FUZZ_NEED(m->expert_mlp % 32 == 0);
}

static void check_shape(const struct model *m, const struct model_plan *p)
{
    FUZZ_NEED(m->layers >= 1 && m->layers <= 1024 && m->hidden >= 32 && m->hidden <= 65536 && m->hidden % 32 == 0 && m->mlp >= 32 && m->mlp % 32 == 0);
    FUZZ_NEED(m->heads >= 1 && m->kv_heads >= 1 && m->heads % m->kv_heads == 0 && m->heads * m->head_dim % 32 == 0);
    FUZZ_NEED(m->head_dim >= 2 && m->head_dim <= HEAD_DIM_MAX && m->head_dim % 2 == 0 && m->rotary >= 2 && m->rotary <= m->head_dim && m->rotary % 2 == 0);
    FUZZ_NEED(m->vocab >= 1 && m->vocab <= 1 << 20 && m->max_context >= 1 && m->max_context <= 1 << 20);
    FUZZ_NEED(m->norm_eps > 0 && m->norm_eps <= 1 && m->attn_scale > 0 && isfinite(m->attn_scale) && m->embed_scale >= 1 && isfinite(m->embed_scale));
    FUZZ_NEED(m->attn_softcap >= 0 && isfinite(m->attn_softcap) && m->logit_softcap >= 0 && isfinite(m->logit_softcap));
    check_frequencies(&p->rope, m);
    if (p->own_local) check_frequencies(&p->local, m);
    check_layers(m, p);
}

/* Read anew, it is the same. */
static void check_same(const struct meta *c, const struct source *s, int context, const struct model *m, const struct model_plan *p)
{
    struct model again = {0};
    struct model_plan q = {.reach = p->reach};
    FUZZ_NEED(family_shape(c, s, context, &again, &q, NULL) == 0 && memcmp(m, &again, sizeof again) == 0);
    FUZZ_NEED(!memcmp(p->layer, q.layer, (size_t)m->layers * sizeof *q.layer) && !memcmp(p->bias, q.bias, sizeof q.bias) && p->tied == q.tied);
    FUZZ_NEED(p->rope.type == q.rope.type && p->rope.factor == q.rope.factor && p->rope.attention == q.rope.attention && p->rope.original == q.rope.original);
    model_plan_close(&q);
}

/* Tables of angles, where they are short. */
static void check_tables(struct model *m, const struct model_plan *p)
{
    if (m->max_context > 32) return;
    m->layer = calloc((size_t)m->layers, sizeof *m->layer);
    FUZZ_NEED(m->layer && rope_load(m, p, NULL) == 0);
    size_t n = (size_t)m->max_context * (size_t)m->rotary;
    for (int i = 0; i < m->layers; i++)
        for (size_t k = 0; k < n && i < 4; k += 7) FUZZ_NEED(isfinite(m->layer[i].rope[k]));
}

static void read_text(const struct source *s, struct model *m, unsigned how, const char *given)
{
    static struct fuzz_file file;
    struct err e = {0};
    if (text_load(s, m, &e)) {
        FUZZ_NEED(e.code != ERR_NONE && e.msg[0]);
        return;
    }
    FUZZ_NEED(m->tok && m->tokens >= 0 && m->tokens <= m->vocab && tokenizer_bos(m->tok) < m->tokens && tokenizer_eos(m->tok) < m->tokens);
    if (!(how & GIVEN)) return;
    const struct chat_template *before = m->chat;
    fuzz_file_fill(&file, given, strlen(given));
    if (model_set_chat(m, file.path, &e)) FUZZ_NEED(e.msg[0] && m->chat == before);
    FUZZ_NEED(model_set_chat(m, "/dev/null", &e) && model_set_chat(m, "/nowhere/at/all", &e) && (!before || m->chat));
}

static void read_model(struct source *s, unsigned how, const char *given)
{
    struct meta c = {.f = NULL};
    struct model m = {0};
    const struct model_reach *reach = how >> 5 ? &asked[how >> 5] : NULL;
    struct model_plan p = {.reach = reach};
    struct err e = {0};
    int context = how & SHORT ? 16 : 0;
    names_world(s);
    int rc = family_of(s, &c, &e) || family_shape(&c, s, context, &m, &p, &e) ? -1 : 0;
    FUZZ_NEED(rc == 0 || ((e.code == ERR_MODEL || ((context || reach) && e.code == ERR_USAGE)) && e.msg[0]));
    if (rc == 0) {
        check_shape(&m, &p);
        FUZZ_NEED(!context || m.max_context == context);
        check_same(&c, s, context, &m, &p);
        check_tables(&m, &p);
        read_text(s, &m, how, given);
    }
    model_plan_close(&p);
    tokenizer_free(m.tok);
    chat_template_free(m.chat);
    free(m.layer);
    free(m.rope);
    free(m.rope_local);
    free(m.rope_none);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static bool told[TELLS];
    unsigned how = fuzz_byte(&data, &n);
    bool gguf = how & IS_GGUF;
    struct source s = {.told = told};
    struct err e = {0};
    log_init("fuzz", LOG_ERROR);
    memset(told, 0, sizeof told);
    char *config = gguf ? NULL : fuzz_until(&data, &n, 0), *words = gguf ? NULL : fuzz_until(&data, &n, 0), *generation = gguf ? NULL : fuzz_until(&data, &n, 0);
    char *chat = gguf ? NULL : fuzz_until(&data, &n, 0);
    if (!gguf) {
        put_text("tokenizer.json", how & OTHER_ROWS && !*words ? "" : tokenizer_json);
        put_text("tokenizer_config.json", words);
        put_text("generation_config.json", generation);
        put_text("chat_template.jinja", how & GIVEN ? "" : chat);
    }
    if (gguf ? open_gguf(&s, data, n, &e) : open_folder(&s, how, config, &e))
        FUZZ_NEED(e.code != ERR_NONE && e.msg[0]);
    else
        read_model(&s, how, gguf ? "{{ messages }}" : chat);
    shut(&s);
    free(config);
    free(words);
    free(generation);
    free(chat);
    return 0;
}
