/* source_packed: a packed file as a source, and what of a source goes into one.
 *
 * A packed file (packed.h) holds weights under the names of their places, vectors as the first source gave them, and that source's
 * metadata whole: a GGUF's keys as a GGUF file without tensors, or config.json and the text files. So whoever reads settings or the
 * vocabulary finds what they would have found in the original, and nothing is translated:
 *
 *     GGUF, directory --source_pack()--> blobs and vectors  \
 *                      \--the caller packs matrices------->  packed file --source_open()--> the same metadata, weights adopted
 *
 * The entries were checked when the file was opened; values of vectors are checked here. One thread, at load. */
#include "engine/packed.h"
#include "engine/source_impl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS "gguf" /* blobs */
#define CONFIG "config.json"

/* --- names --- */

static const char *const place_words[PLACES] = {
    [AT_EMBED] = "embed",
    [AT_HEAD] = "head",
    [AT_FINAL_NORM] = "final_norm",
    [AT_ROPE_FREQS] = "rope_freqs",
    [AT_ROPE_LONG] = "rope_long",
    [AT_ROPE_SHORT] = "rope_short",
    [AT_ATTN_NORM] = "attn_norm",
    [AT_MLP_NORM] = "mlp_norm",
    [AT_ATTN_POST] = "attn_post",
    [AT_MLP_POST] = "mlp_post",
    [AT_Q_NORM] = "q_norm",
    [AT_K_NORM] = "k_norm",
    [AT_Q] = "q",
    [AT_K] = "k",
    [AT_V] = "v",
    [AT_O] = "o",
    [AT_GATE] = "gate",
    [AT_UP] = "up",
    [AT_DOWN] = "down",
    [AT_QKV] = "qkv",
    [AT_GATE_UP] = "gate_up",
    [AT_ROUTER] = "router",
    [AT_EXPERT_GATE] = "gate",
    [AT_EXPERT_UP] = "up",
    [AT_EXPERT_DOWN] = "down",
};

void source_place_name(const struct spot *at, char out[SOURCE_PLACE_MAX])
{
    const char *word = place_words[at->at], *bias = at->bias ? ".bias" : "";
    if (at->at < AT_ATTN_NORM)
        snprintf(out, SOURCE_PLACE_MAX, "%s%s", word, bias);
    else if (at->at >= AT_EXPERT_GATE)
        snprintf(out, SOURCE_PLACE_MAX, "layers.%d.experts.%d.%s%s", at->layer, at->expert, word, bias);
    else
        snprintf(out, SOURCE_PLACE_MAX, "layers.%d.%s%s", at->layer, word, bias);
}

/* --- reading --- */

/* Where the entry of that name and kind is; -1: nowhere. */
static int find(const struct source *s, const char *name, enum packed_kind kind)
{
    int low = 0, high = packed_count(s->packed);
    while (low < high) {
        enum packed_kind k;
        int middle = low + (high - low) / 2, c = strcmp(packed_name(s->packed, middle, &k), name);
        if (c == 0) return k == kind ? middle : -1;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

static int read_meta(struct source *s, const char *path, struct err *e)
{
    const void *p;
    size_t n;
    if (packed_blob(s->packed, KEYS, &p, &n)) return gguf_open_memory(&s->g, p, n, e) ? err_prefix(e, "%s", path) : 0;
    if (packed_blob(s->packed, CONFIG, &p, &n)) return config_read(s, path, p, n, e);
    return err_set(e, ERR_MODEL, "%s holds neither a model's " CONFIG " nor a GGUF's keys: quantize the model again",
                   path);
}

int packed_source_open(struct source *s, const char *path, struct err *e)
{
    s->kind = SOURCE_PACKED;
    if (packed_open(&s->packed, path, e) || read_meta(s, path, e)) return -1;
    s->used = calloc((size_t)packed_count(s->packed) + 1, sizeof *s->used);
    return s->used ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %d entries", packed_count(s->packed));
}

static int find_spot(const struct source *s, const struct spot *at, enum packed_kind kind, char name[SOURCE_PLACE_MAX])
{
    source_place_name(at, name);
    return find(s, name, kind);
}

bool packed_source_has(const struct source *s, const struct spot *at)
{
    char name[SOURCE_PLACE_MAX];
    return find_spot(s, at, PACKED_WEIGHT, name) >= 0 || find_spot(s, at, PACKED_VECTOR, name) >= 0;
}

bool packed_source_shape(const struct source *s, const struct spot *at, int64_t *n, int64_t *k)
{
    char name[SOURCE_PLACE_MAX];
    struct weight w;
    const float *v;
    int len;
    source_place_name(at, name);
    if (packed_weight(s->packed, name, &w)) {
        *n = w.n;
        *k = w.k;
        return true;
    }
    if (!packed_vector(s->packed, name, &v, &len)) return false;
    *n = 0;
    *k = len;
    return true;
}

bool packed_source_weight(const struct source *s, const struct spot *at, struct weight *out)
{
    char name[SOURCE_PLACE_MAX];
    int i = find_spot(s, at, PACKED_WEIGHT, name);
    if (i < 0 || !packed_weight(s->packed, name, out)) return false;
    s->used[i] = true;
    return true;
}

int packed_source_vector(const struct source *s, const struct spot *at, int n, float **out, struct err *e)
{
    char name[SOURCE_PLACE_MAX];
    int len, i = find_spot(s, at, PACKED_VECTOR, name);
    const float *v;
    if (i < 0 || !packed_vector(s->packed, name, &v, &len))
        return err_set(e, ERR_MODEL, "%s: %s is missing", s->path, name);
    if (len != n) return err_set(e, ERR_MODEL, "%s: %s has %d values, %d are needed", s->path, name, len, n);
    for (int j = 0; j < n; j++)
        if (!isfinite(v[j])) return err_set(e, ERR_MODEL, "%s: %s holds a value that is not finite", s->path, name);
    *out = malloc((size_t)n * sizeof **out);
    if (!*out) return err_set(e, ERR_NO_MEMORY, "no memory for %s", name);
    memcpy(*out, v, (size_t)n * sizeof *v);
    s->used[i] = true;
    return 0;
}

int packed_source_all_used(const struct source *s, struct err *e)
{
    for (int i = 0; i < packed_count(s->packed); i++) {
        enum packed_kind kind;
        const char *name = packed_name(s->packed, i, &kind);
        if (kind != PACKED_BLOB && !s->used[i])
            return err_set(e, ERR_MODEL, "%s: %s has no place in this model: it would be passed over", s->path, name);
    }
    return 0;
}

const json_t *source_meta(const struct source *s)
{
    return packed_meta(s->packed);
}

void source_move(struct source *s, const atomic_bool *stop)
{
    packed_move(s->packed, stop);
}

size_t source_moved(const struct source *s)
{
    return packed_moved(s->packed);
}

/* --- writing --- */

static int add_vector(const struct source *s, const struct spot *at, struct packed_writer *w, struct err *e)
{
    char name[SOURCE_PLACE_MAX];
    int64_t n, k;
    float *v;
    if (!source_has(s, at) || !source_shape(s, at, &n, &k)) return 0;
    source_place_name(at, name);
    if (n != 0 || k < 1 || k > INT32_MAX) return err_set(e, ERR_MODEL, "%s: %s is no vector", s->path, name);
    if (source_vector(s, at, (int)k, &v, e)) return -1;
    int rc = packed_writer_add_vector(w, name, v, (int)k, e);
    free(v);
    return rc;
}

static int add_vectors(const struct source *s, struct packed_writer *w, struct err *e)
{
    for (int p = AT_FINAL_NORM; p <= AT_ROPE_SHORT; p++)
        if (add_vector(s, &(struct spot){.at = (enum place)p}, w, e)) return -1;
    for (int l = 0; l < SOURCE_LAYERS_MAX && source_has(s, &(struct spot){.at = AT_ATTN_NORM, .layer = l}); l++) {
        for (int p = AT_ATTN_NORM; p <= AT_K_NORM; p++)
            if (add_vector(s, &(struct spot){.at = (enum place)p, .layer = l}, w, e)) return -1;
        for (int p = AT_Q; p <= AT_DOWN; p++)
            if (add_vector(s, &(struct spot){.at = (enum place)p, .layer = l, .bias = true}, w, e)) return -1;
    }
    return 0;
}

static int add_keys(const struct source *s, struct packed_writer *w, struct err *e)
{
    void *bytes;
    size_t n;
    if (gguf_keys_only(s->g, &bytes, &n, e)) return -1;
    int rc = packed_writer_add_blob(w, KEYS, bytes, n, e);
    free(bytes);
    return rc;
}

static int add_config(const struct source *s, struct packed_writer *w, struct err *e)
{
    const void *p = s->config_file.p;
    size_t n = s->config_file.bytes;
    if (s->kind == SOURCE_PACKED && !packed_blob(s->packed, CONFIG, &p, &n)) return 0;
    return packed_writer_add_blob(w, CONFIG, p, n, e);
}

int source_pack(const struct source *s, struct packed_writer *w, struct err *e)
{
    if (s->g ? add_keys(s, w, e) : add_config(s, w, e)) return -1;
    for (int i = 0; i < TEXT_FILES; i++) {
        const char *text;
        size_t len;
        if (!source_file(s, source_text_files[i], &text, &len)) continue;
        if (packed_writer_add_blob(w, source_text_files[i], text, len, e)) return -1;
    }
    return add_vectors(s, w, e);
}
