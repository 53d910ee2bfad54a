/* A GGUF file in memory: what is taken has tensors within its bytes, and keys that are read as what they are; a file of its keys alone is taken and says the
 * same. Input: the file; a last byte is not used. */
#include "engine/gguf.h"
#include "tests/fuzz/fuzz.h"

static const char *const keys[] = {"general.architecture", "general.alignment", "general.name", "a", "b", "c",
                                   "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "llama.context_length"};
#define NKEYS ((int)(sizeof keys / sizeof *keys))

struct seen {
    bool has, u, f, b, s;
    uint64_t uv;
    size_t n, nstr, ni32, nf32, text;
};

static void look(const struct gguf *g, const char *key, struct seen *out)
{
    double f = 0;
    bool b = false;
    struct gguf_str s = {0}, *str = NULL;
    int32_t *i32 = NULL;
    float *f32 = NULL;
    *out = (struct seen){0};
    out->has = gguf_has(g, key);
    out->u = gguf_u64(g, key, &out->uv, NULL) == 0;
    out->f = gguf_f64(g, key, &f, NULL) == 0;
    out->b = gguf_bool(g, key, &b, NULL) == 0;
    out->s = gguf_string(g, key, &s, NULL) == 0;
    for (size_t i = 0; i < s.len; i++) out->text += (unsigned char)s.s[i];
    gguf_array_len(g, key, &out->n, NULL);
    if (gguf_array_str(g, key, &str, &out->nstr, NULL) == 0)
        for (size_t i = 0; i < out->nstr; i++)
            for (size_t k = 0; k < str[i].len; k++) out->text += (unsigned char)str[i].s[k];
    gguf_array_i32(g, key, &i32, &out->ni32, NULL);
    gguf_array_f32(g, key, &f32, &out->nf32, NULL);
    free(str);
    free(i32);
    free(f32);
}

static void check_tensor(const struct gguf *g, const struct gguf_tensor *t, const uint8_t *bytes, size_t n)
{
    char name[256];
    FUZZ_NEED(t->ndim >= 1 && t->ndim <= 4 && t->bytes > 0);
    for (int i = 0; i < t->ndim; i++) FUZZ_NEED(t->dim[i] > 0);
    FUZZ_NEED((const uint8_t *)t->data >= bytes && (const uint8_t *)t->data + t->bytes <= bytes + n);
    FUZZ_NEED(gguf_type_name(t->type)[0] && strcmp(gguf_type_name(t->type), "unknown") != 0);
    if (memchr(t->name.s, 0, t->name.len) || t->name.len >= sizeof name) return;
    snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.s);
    FUZZ_NEED(gguf_find(g, name));
}

static void check_keys(const struct gguf *g)
{
    struct gguf *again = NULL;
    void *bytes = NULL;
    size_t n = 0;
    FUZZ_NEED(gguf_keys_only(g, &bytes, &n, NULL) == 0 && gguf_open_memory(&again, bytes, n, NULL) == 0);
    FUZZ_NEED(gguf_tensors(again) == 0);
    for (int i = 0; i < NKEYS; i++) {
        struct seen a, b;
        look(g, keys[i], &a);
        look(again, keys[i], &b);
        FUZZ_NEED(memcmp(&a, &b, sizeof a) == 0);
    }
    gguf_close(again);
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g = NULL;
    struct err e = {0};
    uint8_t *bytes = aligned_alloc(64, n + 64 - n % 64);
    FUZZ_NEED(bytes);
    memcpy(bytes, data, n);
    if (gguf_open_memory(&g, bytes, n, &e))
        FUZZ_NEED(e.code == ERR_MODEL && e.msg[0] && !g);
    else {
        for (int i = 0; i < gguf_tensors(g); i++) check_tensor(g, gguf_tensor_at(g, i), bytes, n);
        FUZZ_NEED(!gguf_find(g, ""));
        check_keys(g);
        gguf_close(g);
    }
    free(bytes);
    return 0;
}
