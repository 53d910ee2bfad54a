/* Adapter folders for tests: a small base, a good adapter for it, and a little language for spoiling it.
 *
 * Base "tiny-base": 2 layers, hidden 8, q/o 8, k/v 4, mlp 16. The good adapter: rank 4, alpha 8, q_proj and v_proj, F32,
 * elements 0.01 * index mod 7. fix_write() applies edits, separated by spaces:
 *     -NAME                 leave the tensor out
 *     +NAME=F32:8,4         add it (or give it another dtype or shape)
 *     NAME@5=7fc00000       the bits of element 5, in hex
 * and merges a JSON patch into adapter_config.json (null removes the field). NAME may be short: "0.q.A" stands for
 * base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight. */
#pragma once
#include <assert.h>
#include <dirent.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "adapters/adapter.h"
#include "adapters/store.h"

#define FIX_TENSORS 64
#define FIX_BASE_DIGEST "abababababababababababababababababababababababababababababababab"

struct fix_tensor {
    char name[400], dtype[8];
    long dim[2];
    int ndim;
    long poke_at; /* -1: none */
    uint32_t poke;
};

struct fix {
    struct fix_tensor t[FIX_TENSORS];
    int n;
};

static inline void fix_base(struct base_desc *b)
{
    *b = (struct base_desc){.name = "tiny-base", .digest = FIX_BASE_DIGEST, .also = {"org/Other-Name"}, .layers = 2};
    const int in[] = {8, 8, 8, 8, 8, 8, 16}, out[] = {8, 4, 4, 8, 16, 16, 8};
    for (int m = 0; m < LORA_MODULES; m++) b->in[m] = in[m], b->out[m] = out[m];
    b->vocab = 32, b->hidden = 8;
}

static inline void fix_file(const char *dir, const char *name, const void *bytes, size_t n)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void fix_long_name(const char *s, char out[400])
{
    static const char *const shorts = "qkvogud";
    int layer, used = 0;
    char m, ab;
    if (sscanf(s, "%d.%c.%c%n", &layer, &m, &ab, &used) == 3 && !s[used]) {
        int i = (int)(strchr(shorts, m) - shorts);
        snprintf(out, 400, "base_model.model.model.layers.%d.%s.%s.lora_%c.weight", layer, i < 4 ? "self_attn" : "mlp",
                 lora_module_name[i], ab);
    } else {
        snprintf(out, 400, "%s", s);
    }
}

static inline struct fix_tensor *fix_find(struct fix *f, const char *name, bool add)
{
    char full[400];
    fix_long_name(name, full);
    for (int i = 0; i < f->n; i++)
        if (!strcmp(f->t[i].name, full)) return &f->t[i];
    if (!add) return NULL;
    assert_true(f->n < FIX_TENSORS);
    struct fix_tensor *t = &f->t[f->n++];
    *t = (struct fix_tensor){.poke_at = -1};
    snprintf(t->name, sizeof t->name, "%s", full);
    return t;
}

static inline void fix_shape(struct fix_tensor *t, const char *spec)
{
    t->dim[1] = 1;
    t->ndim = sscanf(spec, "%7[A-Z0-9]:%ld,%ld", t->dtype, &t->dim[0], &t->dim[1]) - 1;
    assert_true(t->ndim >= 1);
}

static inline void fix_edit(struct fix *f, char *word)
{
    char *at = strchr(word, '@'), *eq = strchr(word, '=');
    if (*word == '-') {
        struct fix_tensor *t = fix_find(f, word + 1, false);
        assert_non_null(t);
        memmove(t, t + 1, (size_t)(&f->t[f->n] - t - 1) * sizeof *t);
        f->n--;
    } else if (*word == '+') {
        *eq = 0;
        fix_shape(fix_find(f, word + 1, true), eq + 1);
    } else {
        *at = 0;
        struct fix_tensor *t = fix_find(f, word, false);
        assert_non_null(t);
        t->poke_at = strtol(at + 1, NULL, 10);
        t->poke = (uint32_t)strtoul(eq + 1, NULL, 16);
    }
}

static inline size_t fix_size(const struct fix_tensor *t)
{
    return (strcmp(t->dtype, "F32") ? 2 : 4) * (size_t)t->dim[0] * (size_t)t->dim[1];
}

static inline void fix_fill(const struct fix_tensor *t, char *at)
{
    size_t width = strcmp(t->dtype, "F32") ? 2 : 4;
    memset(at, 0, fix_size(t));
    for (long i = 0; i < t->dim[0] * t->dim[1]; i++) {
        float x = 0.01f * (float)(i % 7);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (width == 2) bits >>= 16; /* right for BF16, some small number for F16 */
        if (i == t->poke_at) bits = t->poke;
        memcpy(at + (size_t)i * width, &bits, width);
    }
}

/* Writes the tensors in the order of `f`, with `pad` spaces after the header. */
static inline void fix_weights(const struct fix *f, const char *dir, int pad)
{
    static char head[65536], data[1 << 20];
    size_t h = 8, d = 0;
    h += (size_t)snprintf(head + h, sizeof head - h, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < f->n; i++) {
        const struct fix_tensor *t = &f->t[i];
        size_t n = fix_size(t);
        assert_true(d + n <= sizeof data);
        h += (size_t)snprintf(head + h, sizeof head - h, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%ld", t->name, t->dtype,
                              t->dim[0]);
        if (t->ndim == 2) h += (size_t)snprintf(head + h, sizeof head - h, ",%ld", t->dim[1]);
        h += (size_t)snprintf(head + h, sizeof head - h, "],\"data_offsets\":[%zu,%zu]}", d, d + n);
        fix_fill(t, data + d);
        d += n;
    }
    h += (size_t)snprintf(head + h, sizeof head - h, "}%*s", pad, "");
    uint64_t len = h - 8;
    memcpy(head, &len, 8);
    char path[1200];
    snprintf(path, sizeof path, "%s/" ADAPTER_WEIGHTS_FILE, dir);
    FILE *w = fopen(path, "wb");
    assert_non_null(w);
    fwrite(head, 1, h, w);
    fwrite(data, 1, d, w);
    assert_int_equal(fclose(w), 0);
}

static inline void fix_good(struct fix *f)
{
    static const char *const good[] = {"+0.q.A=F32:4,8", "+0.q.B=F32:8,4", "+0.v.A=F32:4,8", "+0.v.B=F32:4,4",
                                       "+1.q.A=F32:4,8", "+1.q.B=F32:8,4", "+1.v.A=F32:4,8", "+1.v.B=F32:4,4"};
    f->n = 0;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char word[64];
        snprintf(word, sizeof word, "%s", good[i]);
        fix_edit(f, word);
    }
}

#define FIX_CONFIG                                                                                                     \
    "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\",\"v_proj\"],\"bias\":\"none\","   \
    "\"base_model_name_or_path\":\"org/tiny-base\",\"task_type\":\"CAUSAL_LM\"}"

static inline void fix_config(const char *dir, const char *patch)
{
    json_t *o = json_loads(FIX_CONFIG, 0, NULL), *p = json_loads(patch ? patch : "{}", 0, NULL), *v;
    const char *key;
    assert_non_null(p);
    json_object_foreach(p, key, v)
    {
        if (json_is_null(v))
            json_object_del(o, key);
        else
            json_object_set(o, key, v);
    }
    char *text = json_dumps(o, JSON_INDENT(2));
    fix_file(dir, ADAPTER_CONFIG_FILE, text, strlen(text));
    free(text);
    json_decref(o);
    json_decref(p);
}

static inline void fix_write(const char *dir, const char *patch, const char *edits)
{
    struct fix f;
    char words[2048], *save = NULL;
    fix_good(&f);
    snprintf(words, sizeof words, "%s", edits ? edits : "");
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) fix_edit(&f, w);
    fix_config(dir, patch);
    fix_weights(&f, dir, 0);
}

static inline int fix_dir(void **state)
{
    char path[] = "/tmp/weft-adapters-XXXXXX";
    assert_non_null(mkdtemp(path));
    *state = strdup(path);
    return 0;
}

static inline int fix_dir_gone(void **state)
{
    store_discard(*state);
    free(*state);
    return 0;
}
