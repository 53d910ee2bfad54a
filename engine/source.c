/* source: one face for all the ways in which a model is kept.
 *
 * The idea: the loader asks for places ("k of layer 3, a 1024 x 4096 matrix"), and gets rows of codes or a vector of floats. Which
 * tensors stand behind a place, in which order their rows lie and how they are quantized is known here and below:
 *
 *     source.c -> source_names.c   place -> name
 *              -> source_gguf.c    -> quant_ggml.c                          one file, ggml's blocks
 *              -> source_hf.c      -> source_st.c, source_quant.c, quant_*.c  a directory of safetensors
 *              -> source_packed.c                                           what `weft-engine quantize` wrote
 *              -> source_id.c      which files they are, and their digests
 *
 * Fail closed: every tensor that was handed out is marked; source_all_used() refuses a file with one that nobody asked for, since passing
 * it over could change the answers.
 *
 * The mapped files are the operator's own; that they shrink while they are mapped is not defended against. One thread, at load. */
#include "engine/source.h"
#include "engine/packed.h"
#include "engine/source_impl.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMES_MAX ((size_t)SOURCE_TENSORS_MAX * TENSOR_NAME_MAX)

/* The text files that a directory may have. */
const char *const source_text_files[] = {"tokenizer.json",     "tokenizer_config.json",  "chat_template.jinja",
                                         "chat_template.json", "generation_config.json", "special_tokens_map.json"};
_Static_assert(sizeof source_text_files / sizeof *source_text_files == TEXT_FILES, "counted");

/* --- open and close --- */

static int map_texts(struct source *s, const char *dir, struct err *e)
{
    char path[4096];
    s->file = calloc(TEXT_FILES, sizeof *s->file);
    if (!s->file) return err_set(e, ERR_NO_MEMORY, "no memory for a source");
    for (int i = 0; i < TEXT_FILES; i++) {
        struct mapped *m = &s->file[i];
        snprintf(m->name, sizeof m->name, "%s", source_text_files[i]);
        if (snprintf(path, sizeof path, "%s/%s", dir, m->name) >= (int)sizeof path)
            return err_set(e, ERR_MODEL, "the path of %s is too long", m->name);
        if (map_whole(path, true, SOURCE_FILE_MAX, m, e) || (!m->p && check_stands(path, e))) return -1;
    }
    return 0;
}

/* A head that is tied by the configuration and stored all the same: transformers ties it when both are equal. */
static void find_copied_head(struct source *s)
{
    char embed[TENSOR_NAME_MAX + 16], head[TENSOR_NAME_MAX + 16];
    struct located at;
    if (!names_locate(s, &(struct spot){.at = AT_EMBED}, &at)) return;
    snprintf(embed, sizeof embed, "%s.weight", at.stem);
    if (!names_locate(s, &(struct spot){.at = AT_HEAD}, &at)) return;
    snprintf(head, sizeof head, "%s.weight", at.stem);
    const struct tensor *a = hf_find(s, embed), *b = hf_find(s, head);
    bool tied = json_is_true(json_object_get(s->config, "tie_word_embeddings")) ||
                json_is_true(json_object_get(s->root, "tie_word_embeddings"));
    if (!a || !b || !tied || a->dtype != b->dtype || a->bytes != b->bytes || memcmp(a->data, b->data, a->bytes) != 0)
        return;
    s->head_is_copy = true;
    s->used[b - s->tensor] = true;
}

static int open_directory(struct source *s, const char *path, struct err *e)
{
    s->kind = SOURCE_HF;
    s->names = arena_new(NAMES_MAX);
    if (!s->names) return err_set(e, ERR_NO_MEMORY, "no memory for a source");
    if (hf_config(s, path, e) || quant_config_read(s, e) || hf_shards(s, path, e)) return -1;
    names_world(s);
    find_copied_head(s);
    return map_texts(s, path, e);
}

/* What cannot be read is no packed file: the other reader says why. */
static bool begins_packed(const char *path)
{
    char head[sizeof PACKED_MAGIC - 1];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? 0 : pread(fd, head, sizeof head, 0);
    if (fd >= 0) close(fd);
    return n > 0 && packed_is(head, (size_t)n);
}

static bool is_safetensors(const char *path)
{
    static const char end[] = ".safetensors";
    size_t n = strlen(path), k = sizeof end - 1;
    return n > k && strcmp(path + n - k, end) == 0;
}

static int open_any(struct source *s, const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st)) return err_errno(e, "cannot open the model %s", path);
    file_id_of(&s->id, &st);
    if (S_ISDIR(st.st_mode)) return open_directory(s, path, e);
    if (is_safetensors(path))
        return err_set(e, ERR_MODEL,
                       "%s: one file of a model; give the folder, with config.json and tokenizer.json in it", path);
    if (begins_packed(path)) return packed_source_open(s, path, e);
    s->kind = SOURCE_GGUF;
    return gguf_source_open(s, path, e);
}

int source_open(struct source **out, const char *path, struct err *e)
{
    struct source *s = calloc(1, sizeof *s);
    if (s) s->told = calloc(TELLS, sizeof *s->told);
    if (!s || !s->told) {
        free(s);
        return err_set(e, ERR_NO_MEMORY, "no memory for a source");
    }
    snprintf(s->path, sizeof s->path, "%s", path);
    if (open_any(s, path, e)) {
        if (e && e->code == ERR_MODEL && !strstr(e->msg, path)) err_prefix(e, "%s", path);
        source_close(s);
        return -1;
    }
    *out = s;
    return 0;
}

static void unmap_all(struct mapped *m, int n)
{
    for (int i = 0; m && i < n; i++)
        if (m[i].p) munmap((void *)(uintptr_t)m[i].p, m[i].bytes);
    free(m);
}

void source_close(struct source *s)
{
    if (!s) return;
    gguf_close(s->g); /* may lie in the packed file */
    packed_close(s->packed);
    if (s->config_file.p) munmap((void *)(uintptr_t)s->config_file.p, s->config_file.bytes);
    unmap_all(s->shard, s->nshards);
    unmap_all(s->file, TEXT_FILES);
    json_decref(s->root);
    arena_free(s->names);
    free(s->tensor);
    free(s->used);
    free(s->told);
    free(s);
}

/* --- what it is --- */

enum source_kind source_kind(const struct source *s)
{
    return s->kind;
}

const struct gguf *source_gguf(const struct source *s)
{
    return s->g;
}

const json_t *source_config(const struct source *s)
{
    return s->config;
}

const json_t *source_config_root(const struct source *s)
{
    return s->root;
}

static bool packed_file(const struct source *s, const char *name, const char **text, size_t *len)
{
    const void *p;
    if (!packed_blob(s->packed, name, &p, len)) return false;
    *text = p;
    return true;
}

bool source_file(const struct source *s, const char *name, const char **text, size_t *len)
{
    if (s->kind == SOURCE_PACKED) return packed_file(s, name, text, len);
    for (int i = 0; s->file && i < TEXT_FILES; i++) {
        const struct mapped *m = &s->file[i];
        if (!m->p || strcmp(m->name, name) != 0) continue;
        *text = (const char *)m->p;
        *len = m->bytes;
        return true;
    }
    return false;
}

/* --- places --- */

static bool layer_ok(const struct spot *at)
{
    return at->layer >= 0 && at->layer < SOURCE_LAYERS_MAX && at->expert >= 0;
}

static bool has_bias(const struct source *s, const char *stem)
{
    char name[TENSOR_NAME_MAX + 16];
    snprintf(name, sizeof name, "%s.bias", stem);
    return s->kind == SOURCE_GGUF ? gguf_find(s->g, name) != NULL : hf_find(s, name) != NULL;
}

bool source_has(const struct source *s, const struct spot *at)
{
    struct located where;
    if (!layer_ok(at)) return false;
    if (s->kind == SOURCE_PACKED) return packed_source_has(s, at);
    if (!names_locate(s, at, &where)) return false;
    return at->bias ? where.form == FORM_MODULE && has_bias(s, where.stem) : true;
}

bool source_shape(const struct source *s, const struct spot *at, int64_t *n, int64_t *k)
{
    struct located where;
    if (!layer_ok(at)) return false;
    if (s->kind == SOURCE_PACKED) return packed_source_shape(s, at, n, k);
    if (!names_locate(s, at, &where)) return false;
    return s->kind == SOURCE_GGUF ? gguf_shape(s, &where, at->bias, n, k) : hf_shape(s, &where, at->bias, n, k);
}

static int locate(const struct source *s, const struct spot *at, struct located *where, struct err *e)
{
    if (s->kind == SOURCE_PACKED) { /* its matrices are weights already, given by source_weight() */
        source_place_name(at, where->stem);
        return err_set(e, ERR_MODEL, "%s: %s is missing", s->path, where->stem);
    }
    if (layer_ok(at) && names_locate(s, at, where)) return 0;
    return err_set(e, ERR_MODEL, "%s: the tensor %s%s is missing; %s", s->path, where->stem,
                   where->form == FORM_MODULE ? at->bias ? ".bias" : ".weight" : "",
                   s->kind == SOURCE_GGUF ? "convert the model again"
                                          : "config.json belongs to another model, or a shard is missing");
}

int source_matrix(const struct source *s, const struct spot *at, int n, int k, struct source_matrix *out, struct err *e)
{
    struct located where = {.stem = ""};
    if (locate(s, at, &where, e)) return -1;
    if (n < 1 || k < 1) return err_set(e, ERR_MODEL, "%s: %s cannot be %d x %d", s->path, where.stem, n, k);
    return s->kind == SOURCE_GGUF ? gguf_matrix(s, at, &where, n, k, out, e)
                                  : hf_matrix(s, &where, at->expert, n, k, out, e);
}

void source_matrix_close(struct source_matrix *m)
{
    free(m->room);
    free((void *)(uintptr_t)m->row_of);
    *m = (struct source_matrix){0};
}

int source_vector(const struct source *s, const struct spot *at, int n, float **out, struct err *e)
{
    struct located where = {.stem = ""};
    char name[TENSOR_NAME_MAX + 16];
    if (s->kind == SOURCE_PACKED) return packed_source_vector(s, at, n, out, e);
    if (locate(s, at, &where, e)) return -1;
    if (n < 1) return err_set(e, ERR_MODEL, "%s: %s cannot have %d values", s->path, where.stem, n);
    snprintf(name, sizeof name, "%s%s", where.stem, at->bias ? ".bias" : ".weight");
    float *v = malloc((size_t)n * sizeof *v);
    if (!v) return err_set(e, ERR_NO_MEMORY, "no memory for %s", name);
    if (s->kind == SOURCE_GGUF ? gguf_vector(s, at, name, n, v, e) : hf_vector(s, name, n, v, e)) {
        free(v);
        return -1;
    }
    *out = v;
    return 0;
}

bool source_weight(const struct source *s, const struct spot *at, struct weight *out)
{
    return s->kind == SOURCE_PACKED && layer_ok(at) && packed_source_weight(s, at, out);
}

/* --- fail closed --- */

/* A bias of zeros adds nothing: GPTQ's tools write one for every matrix. */
static bool is_zero_bias(const struct tensor *t)
{
    size_t n = strlen(t->name);
    if (n < 5 || strcmp(t->name + n - 5, ".bias") != 0 || !dtype_is_float(t->dtype)) return false;
    for (size_t i = 0; i < t->bytes; i++)
        if (t->data[i]) return false;
    return true;
}

int source_all_used(const struct source *s, struct err *e)
{
    char name[TENSOR_NAME_MAX];
    if (s->kind == SOURCE_PACKED) return packed_source_all_used(s, e);
    if (quant_unseen(s, e)) return -1;
    int n = s->kind == SOURCE_GGUF ? gguf_tensors(s->g) : s->ntensors;
    for (int i = 0; i < n; i++) {
        if (s->used[i]) continue;
        if (s->kind == SOURCE_GGUF) {
            struct gguf_str g = gguf_tensor_at(s->g, i)->name;
            snprintf(name, sizeof name, "%.*s", (int)(g.len < sizeof name ? g.len : sizeof name - 1), g.s);
        } else {
            snprintf(name, sizeof name, "%s", s->tensor[i].name);
            if (is_zero_bias(&s->tensor[i])) continue;
        }
        if (!names_harmless(s, name))
            return err_set(
                e, ERR_MODEL,
                "%s: the tensor %s has no place in this model: it would be passed over; take it out, or serve a "
                "model whose config tells of it",
                s->path, name);
    }
    return 0;
}
