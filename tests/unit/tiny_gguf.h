/* A tiny model for tests, written as a GGUF file, and adapters for it, written as PEFT folders.
 *
 * Every weight is a function of (seed, tensor, layer, row, column) in Hugging Face's row order, so that a test may
 * compute with it beside the engine and nothing has to be kept. The writer does what converters do: it shuffles the
 * rows of q and k of the llama architecture, and quantizes. The vocabulary is byte-level: 256 bytes, 40 unused words,
 * and four special tokens at the end. */
#pragma once
#include "adapters/adapter.h"
#include "kernels/weight.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define TINY_VOCAB 300
#define TINY_END (TINY_VOCAB - 4)   /* <|endoftext|>, bos */
#define TINY_START (TINY_VOCAB - 3) /* <|im_start|> */
#define TINY_STOP (TINY_VOCAB - 2)  /* <|im_end|>, eos */
#define TINY_TENSORS 64

enum tiny_type { TINY_F32 = 0, TINY_Q4_1 = 3, TINY_Q8_0 = 8 }; /* ggml's numbers */

struct tiny {
    const char *arch; /* NULL: "llama" */
    enum tiny_type type;
    bool untied, freqs; /* an output.weight; a rope_freqs.weight */
    uint64_t seed;
    const char *drop;      /* a tensor to leave out */
    const char *extra;     /* a tensor of one value to add */
    const char *bad_shape; /* a tensor whose last dimension is halved */
    const char *key;       /* a metadata key after "ARCH." to add or change, with the value */
    double value;
    const char *scaling; /* rope.scaling.type */
};

/* A test that wants another shape sets it before it makes a model; rows are at most TINY_ROW long. */
static struct {
    int layers, hidden, heads, kv_heads, head_dim, mlp, context;
} tiny_dim = {2, 64, 4, 2, 16, 96, 256};
#define TINY_ROW 512

/* Numbers of tensors, for tiny_weight(): modules as enum lora_module, then these. */
enum {
    TINY_EMBED = 10,
    TINY_OUTPUT,
    TINY_ATTN_NORM,
    TINY_FFN_NORM,
    TINY_OUT_NORM,
    TINY_BIAS = 20,
    TINY_A = 30,
    TINY_B = 40
};

static inline double tiny_uniform(uint64_t seed, int tensor, int layer, int64_t i) /* -1 .. 1 */
{
    uint64_t z = seed * 0x9E3779B97F4A7C15u + (uint64_t)tensor * 0xD1B54A32D192ED03u +
                 (uint64_t)layer * 0x8CB92BA72F3D8DD7u + (uint64_t)i;
    for (int k = 0; k < 2; k++) {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
    }
    return (double)(z >> 11) / (double)(1ull << 52) - 1;
}

static inline void tiny_shape(int module, int *n, int *k)
{
    int q = tiny_dim.heads * tiny_dim.head_dim, kv = tiny_dim.kv_heads * tiny_dim.head_dim;
    const int out[] = {q, kv, kv, tiny_dim.hidden, tiny_dim.mlp, tiny_dim.mlp, tiny_dim.hidden};
    const int in[] = {tiny_dim.hidden, tiny_dim.hidden, tiny_dim.hidden, q,
                      tiny_dim.hidden, tiny_dim.hidden, tiny_dim.mlp};
    *n = module >= LORA_MODULES ? TINY_VOCAB : out[module];
    *k = module >= LORA_MODULES ? tiny_dim.hidden : in[module];
}

static inline float tiny_weight(uint64_t seed, int tensor, int layer, int row, int col)
{
    if (tensor >= TINY_ATTN_NORM && tensor <= TINY_OUT_NORM)
        return (float)(1 + 0.3 * tiny_uniform(seed, tensor, layer, col));
    if (tensor >= TINY_BIAS) return (float)(0.5 * tiny_uniform(seed, tensor, layer, col));
    int n, k;
    tiny_shape(tensor, &n, &k);
    return (float)(tiny_uniform(seed, tensor, layer, (int64_t)row * k + col) *
                   (tensor == TINY_EMBED ? 1.0 : 3.0 / sqrt(k)));
}

/* --- the file --- */

struct tiny_bytes {
    uint8_t *b;
    size_t n, cap;
};

static inline void tiny_put(struct tiny_bytes *f, const void *p, size_t n)
{
    if (f->n + n > f->cap) {
        f->cap = (f->n + n) * 2;
        f->b = realloc(f->b, f->cap);
        assert_non_null(f->b);
    }
    memcpy(f->b + f->n, p, n);
    f->n += n;
}

static inline void tiny_put32(struct tiny_bytes *f, uint32_t v)
{
    tiny_put(f, &v, 4);
}
static inline void tiny_put64(struct tiny_bytes *f, uint64_t v)
{
    tiny_put(f, &v, 8);
}
static inline void tiny_puts(struct tiny_bytes *f, const char *s)
{
    tiny_put64(f, strlen(s));
    tiny_put(f, s, strlen(s));
}

static inline uint16_t tiny_half(float x) /* of a positive normal number, rounded to nearest */
{
    uint32_t b;
    memcpy(&b, &x, 4);
    b += 0x1000;
    int e = (int)(b >> 23 & 0xFF) - 127 + 15;
    if (x == 0 || e <= 0) return 0;
    return (uint16_t)((b >> 16 & 0x8000) | (uint32_t)e << 10 | (b >> 13 & 0x3FF));
}

static inline float tiny_of_half(uint16_t h)
{
    uint32_t b =
        h ? ((uint32_t)(h & 0x8000) << 16 | ((uint32_t)(h >> 10 & 0x1F) + 127 - 15) << 23 | (uint32_t)(h & 0x3FF) << 13)
          : 0;
    float x;
    memcpy(&x, &b, 4);
    return x;
}

static inline uint16_t tiny_signed_half(float x)
{
    return x < 0 ? (uint16_t)(tiny_half(-x) | 0x8000) : tiny_half(x);
}

static inline void tiny_put_block(struct tiny_bytes *f, enum tiny_type type, const float *w) /* 32 weights */
{
    float lo = w[0], hi = w[0];
    for (int i = 1; i < 32; i++) lo = fminf(lo, w[i]), hi = fmaxf(hi, w[i]);
    bool q8 = type == TINY_Q8_0;
    uint16_t d = tiny_half(q8 ? fmaxf(-lo, hi) / 127 : (hi - lo) / 15), m = tiny_signed_half(lo);
    float scale = tiny_of_half(d), min = tiny_of_half(m);
    int q[32];
    for (int i = 0; i < 32; i++) {
        q[i] = (int)lrintf((q8 ? w[i] : w[i] - min) / scale);
        int least = q8 ? -127 : 0, most = q8 ? 127 : 15;
        q[i] = q[i] < least ? least : q[i] > most ? most : q[i];
    }
    tiny_put(f, &d, 2);
    if (!q8) tiny_put(f, &m, 2);
    for (int i = 0; i < (q8 ? 32 : 16); i++) {
        uint8_t b = (uint8_t)(q8 ? q[i] : q[i] | q[i + 16] << 4);
        tiny_put(f, &b, 1);
    }
}

struct tiny_tensor {
    char name[96];
    int tensor, layer, n, k; /* n 0: a vector */
};

/* Row of the file -> row in Hugging Face's order. */
static inline int tiny_row(const struct tiny *t, int tensor, int row)
{
    if (tensor > LM_K || (t->arch && strcmp(t->arch, "llama") != 0)) return row;
    int hd = tiny_dim.head_dim, h = row / hd, r = row % hd;
    return h * hd + (r % 2) * (hd / 2) + r / 2;
}

static inline void tiny_put_data(struct tiny_bytes *f, const struct tiny *t, const struct tiny_tensor *at)
{
    float row[TINY_ROW];
    for (int r = 0; r < (at->n ? at->n : 1); r++) {
        int hf = at->n ? tiny_row(t, at->tensor, r) : 0;
        for (int c = 0; c < at->k; c++) {
            int col =
                !at->n && at->tensor >= TINY_BIAS && at->tensor < TINY_A ? tiny_row(t, at->tensor - TINY_BIAS, c) : c;
            row[c] = at->tensor < 0 ? 1 + (float)c : tiny_weight(t->seed, at->tensor, at->layer, hf, col);
        }
        if (!at->n || t->type == TINY_F32)
            tiny_put(f, row, (size_t)at->k * 4);
        else
            for (int c = 0; c < at->k; c += 32) tiny_put_block(f, t->type, row + c);
    }
}

static inline void tiny_add(const struct tiny *t, struct tiny_tensor *list, int *n, const char *name, int tensor,
                            int layer)
{
    struct tiny_tensor *at = &list[*n];
    *at = (struct tiny_tensor){.tensor = tensor, .layer = layer, .k = tiny_dim.hidden};
    snprintf(at->name, sizeof at->name, "%s", name);
    if (tensor >= 0 && tensor <= TINY_OUTPUT) tiny_shape(tensor, &at->n, &at->k);
    if (tensor >= TINY_BIAS) {
        int in;
        tiny_shape(tensor - TINY_BIAS, &at->k, &in);
    }
    if (tensor < 0) at->k = strcmp(name, "rope_freqs.weight") == 0 ? tiny_dim.head_dim / 2 : 1;
    if (t->bad_shape && strcmp(name, t->bad_shape) == 0) {
        if (at->n)
            at->n /= 2;
        else
            at->k /= 2;
    }
    if (!t->drop || strcmp(name, t->drop) != 0) (*n)++;
}

static inline int tiny_list(const struct tiny *t, struct tiny_tensor *list)
{
    static const char *const module[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    char name[80];
    int n = 0;
    tiny_add(t, list, &n, "token_embd.weight", TINY_EMBED, 0);
    for (int l = 0; l < tiny_dim.layers; l++) {
        for (int m = 0; m < LORA_MODULES; m++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, module[m]);
            tiny_add(t, list, &n, name, m, l);
            snprintf(name, sizeof name, "blk.%d.%s.bias", l, module[m]);
            if (t->arch && strcmp(t->arch, "qwen2") == 0 && m <= LM_V) tiny_add(t, list, &n, name, TINY_BIAS + m, l);
        }
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", l);
        tiny_add(t, list, &n, name, TINY_ATTN_NORM, l);
        snprintf(name, sizeof name, "blk.%d.ffn_norm.weight", l);
        tiny_add(t, list, &n, name, TINY_FFN_NORM, l);
    }
    tiny_add(t, list, &n, "output_norm.weight", TINY_OUT_NORM, 0);
    if (t->untied) tiny_add(t, list, &n, "output.weight", TINY_OUTPUT, 0);
    if (t->freqs) tiny_add(t, list, &n, "rope_freqs.weight", -1, 0);
    if (t->extra) tiny_add(t, list, &n, t->extra, -1, 0);
    return n;
}

static inline void tiny_put_key(struct tiny_bytes *f, int *keys, const char *arch, const char *key, double v, int kind)
{
    char name[96];
    snprintf(name, sizeof name, "%s.%s", arch, key);
    tiny_puts(f, name);
    tiny_put32(f, (uint32_t)kind);
    float x = (float)v;
    if (kind == 6)
        tiny_put(f, &x, 4);
    else
        tiny_put32(f, (uint32_t)v);
    ++*keys;
}

static inline void tiny_put_string_key(struct tiny_bytes *f, int *keys, const char *key, const char *v)
{
    tiny_puts(f, key);
    tiny_put32(f, 8);
    tiny_puts(f, v);
    ++*keys;
}

/* The token's text in GPT-2's byte alphabet. */
static inline void tiny_token_text(int id, char out[32])
{
    static const char *const special[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<spare>"};
    if (id >= TINY_END)
        snprintf(out, 32, "%s", special[id - TINY_END]);
    else if (id >= 256)
        snprintf(out, 32, id > 256 ? "word%d" : "wo", id);
    else {
        bool plain = (id >= 33 && id <= 126) || (id >= 161 && id <= 172) || id >= 174;
        int cp = id;
        if (!plain) {
            cp = 256;
            for (int b = 0; b < id; b++) cp += !((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174);
        }
        if (cp < 128)
            snprintf(out, 32, "%c", cp);
        else
            snprintf(out, 32, "%c%c", 0xC0 | cp >> 6, 0x80 | (cp & 63));
    }
}

static inline void tiny_put_vocabulary(struct tiny_bytes *f, int *keys)
{
    char text[32];
    tiny_put_string_key(f, keys, "tokenizer.ggml.model", "gpt2");
    tiny_put_string_key(f, keys, "tokenizer.ggml.pre", "smollm");
    tiny_puts(f, "tokenizer.ggml.tokens");
    tiny_put32(f, 9);
    tiny_put32(f, 8);
    tiny_put64(f, TINY_VOCAB);
    for (int i = 0; i < TINY_VOCAB; i++) {
        tiny_token_text(i, text);
        tiny_puts(f, text);
    }
    tiny_puts(f, "tokenizer.ggml.token_type");
    tiny_put32(f, 9);
    tiny_put32(f, 5);
    tiny_put64(f, TINY_VOCAB);
    for (int i = 0; i < TINY_VOCAB; i++) tiny_put32(f, i >= TINY_END ? 3 : 1);
    tiny_puts(f, "tokenizer.ggml.merges");
    tiny_put32(f, 9);
    tiny_put32(f, 8);
    tiny_put64(f, 1);
    tiny_puts(f, "w o");
    *keys += 3;
    tiny_put_key(f, keys, "tokenizer.ggml", "bos_token_id", TINY_END, 4);
    tiny_put_key(f, keys, "tokenizer.ggml", "eos_token_id", TINY_STOP, 4);
}

static inline void tiny_put_keys(struct tiny_bytes *f, int *keys, const struct tiny *t)
{
    const char *arch = t->arch ? t->arch : "llama";
    const struct {
        const char *key;
        double v;
        int kind;
    } row[] = {{"block_count", tiny_dim.layers, 4},
               {"embedding_length", tiny_dim.hidden, 4},
               {"feed_forward_length", tiny_dim.mlp, 4},
               {"attention.head_count", tiny_dim.heads, 4},
               {"attention.head_count_kv", tiny_dim.kv_heads, 4},
               {"context_length", tiny_dim.context, 4},
               {"attention.layer_norm_rms_epsilon", 1e-5, 6},
               {"rope.freq_base", 10000, 6}};
    bool seen = false;
    tiny_put_string_key(f, keys, "general.architecture", arch);
    tiny_put_string_key(f, keys, "general.name", "Tiny Test");
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        bool mine = t->key && strcmp(t->key, row[i].key) == 0;
        seen |= mine;
        tiny_put_key(f, keys, arch, row[i].key, mine ? t->value : row[i].v, row[i].kind);
    }
    if (t->key && !seen) tiny_put_key(f, keys, arch, t->key, t->value, t->value == floor(t->value) ? 4 : 6);
    char name[96];
    snprintf(name, sizeof name, "%s.rope.scaling.type", arch);
    if (t->scaling) tiny_put_string_key(f, keys, name, t->scaling);
    tiny_put_vocabulary(f, keys);
}

static inline size_t tiny_data_bytes(const struct tiny *t, const struct tiny_tensor *at)
{
    size_t n = (size_t)(at->n ? at->n : 1) * (size_t)at->k;
    return !at->n || t->type == TINY_F32 ? n * 4 : n / 32 * (t->type == TINY_Q8_0 ? 34 : 20);
}

static inline void tiny_save(const char *path, const void *b, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Write the model to `path`. */
static inline void tiny_gguf(const char *path, const struct tiny *t)
{
    struct tiny_tensor list[TINY_TENSORS];
    struct tiny_bytes keys = {0}, f = {0};
    int nkeys = 0, n = tiny_list(t, list);
    size_t offset = 0;
    tiny_put_keys(&keys, &nkeys, t);
    tiny_put(&f, "GGUF", 4);
    tiny_put32(&f, 3);
    tiny_put64(&f, (uint64_t)n);
    tiny_put64(&f, (uint64_t)nkeys);
    tiny_put(&f, keys.b, keys.n);
    for (int i = 0; i < n; i++) {
        tiny_puts(&f, list[i].name);
        tiny_put32(&f, list[i].n ? 2 : 1);
        tiny_put64(&f, (uint64_t)list[i].k);
        if (list[i].n) tiny_put64(&f, (uint64_t)list[i].n);
        tiny_put32(&f, list[i].n ? (uint32_t)t->type : 0);
        tiny_put64(&f, offset);
        offset = (offset + tiny_data_bytes(t, &list[i]) + 31) & ~(size_t)31;
    }
    while (f.n % 32) tiny_put(&f, "", 1);
    for (int i = 0; i < n; i++) {
        tiny_put_data(&f, t, &list[i]);
        while (f.n % 32) tiny_put(&f, "", 1);
    }
    tiny_save(path, f.b, f.n);
    free(keys.b);
    free(f.b);
}

/* --- adapters --- */

#define TINY_HUGE 99999 /* a seed: its values are as large as is let in; with as large a scale, rank and weight sums overflow */

struct tiny_adapter {
    uint64_t seed;
    int rank;
    double alpha;
    unsigned modules; /* bits of enum lora_module */
};

static inline float tiny_a(const struct tiny_adapter *a, int module, int layer, int64_t i)
{
    return (float)((a->seed == TINY_HUGE ? 9e3 : 0.3) * tiny_uniform(a->seed, TINY_A + module, layer, i));
}
static inline float tiny_b(const struct tiny_adapter *a, int module, int layer, int64_t i)
{
    return (float)((a->seed == TINY_HUGE ? 9e3 : 0.3) * tiny_uniform(a->seed, TINY_B + module, layer, i));
}

static inline void tiny_write_tensors(const char *path, const struct tiny_adapter *a)
{
    static const char *const part[] = {"self_attn", "self_attn", "self_attn", "self_attn", "mlp", "mlp", "mlp"};
    struct tiny_bytes head = {0}, data = {0}, f = {0};
    char line[256];
    tiny_put(&head, "{", 1);
    for (int l = 0; l < tiny_dim.layers; l++)
        for (int m = 0; m < LORA_MODULES; m++) {
            int n, k;
            if (!(a->modules >> m & 1)) continue;
            tiny_shape(m, &n, &k);
            for (int ab = 0; ab < 2; ab++) {
                int rows = ab ? n : a->rank, cols = ab ? a->rank : k;
                size_t from = data.n;
                for (int64_t i = 0; i < (int64_t)rows * cols; i++) {
                    float v = ab ? tiny_b(a, m, l, i) : tiny_a(a, m, l, i);
                    tiny_put(&data, &v, 4);
                }
                int len = snprintf(line, sizeof line,
                                   "%s\"base_model.model.model.layers.%d.%s.%s.lora_%c.weight\":{\"dtype\":\"F32\","
                                   "\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}",
                                   head.n > 1 ? "," : "", l, part[m], lora_module_name[m], ab ? 'B' : 'A', rows, cols,
                                   from, data.n);
                tiny_put(&head, line, (size_t)len);
            }
        }
    tiny_put(&head, "}", 1);
    while (head.n % 8) tiny_put(&head, " ", 1);
    tiny_put64(&f, head.n);
    tiny_put(&f, head.b, head.n);
    tiny_put(&f, data.b, data.n);
    tiny_save(path, f.b, f.n);
    free(head.b);
    free(data.b);
    free(f.b);
}

/* Write the adapter into the new folder `dir`, and tell its digest for that base. */
static inline void tiny_peft(const char *dir, const struct tiny_adapter *a, const struct base_desc *base,
                             char digest[SHA256_HEX])
{
    char path[512], names[256] = "", config[512];
    struct err e = {0};
    struct adapter *opened;
    assert_int_equal(mkdir(dir, 0700), 0);
    for (int m = 0; m < LORA_MODULES; m++) {
        size_t n = strlen(names);
        if (a->modules >> m & 1) snprintf(names + n, sizeof names - n, "%s\"%s\"", n ? "," : "", lora_module_name[m]);
    }
    int len = snprintf(config, sizeof config,
                       "{\"peft_type\":\"LORA\",\"r\":%d,\"lora_alpha\":%g,\"target_modules\":[%s],\"bias\":\"none\"}",
                       a->rank, a->alpha, names);
    snprintf(path, sizeof path, "%s/" ADAPTER_CONFIG_FILE, dir);
    tiny_save(path, config, (size_t)len);
    snprintf(path, sizeof path, "%s/" ADAPTER_WEIGHTS_FILE, dir);
    tiny_write_tensors(path, a);
    if (adapter_open(&opened, dir, base, &(struct adapter_limits){0}, &e)) fail_msg("%s", e.msg);
    memcpy(digest, opened->digest, SHA256_HEX);
    adapter_close(opened);
}

/* A folder for a test's files, and its removal. */
static inline void tiny_folder(char out[64])
{
    snprintf(out, 64, "/tmp/weft-test-XXXXXX");
    assert_non_null(mkdtemp(out));
}

static inline void tiny_remove(const char *dir)
{
    char cmd[512];
    static const char *const names[] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
    for (int i = 0; i < 64; i++) {
        char sub[256];
        snprintf(sub, sizeof sub, "%s/a%d", dir, i);
        for (int j = 0; j < 2; j++) {
            snprintf(cmd, sizeof cmd, "%s/%s", sub, names[j]);
            unlink(cmd);
        }
        rmdir(sub);
    }
    snprintf(cmd, sizeof cmd, "%s/model.gguf", dir);
    unlink(cmd);
    rmdir(dir);
}
