/* source_gguf: places of a model in a GGUF file.
 *
 * The file is the same model as Hugging Face's under other names, with one difference that matters: for the architecture "llama" the
 * converter shuffles the rows of q and k (and their biases), because ggml's graph rotates neighbours there. Whoever reads through a source
 * gets Hugging Face's order: row_of says which row of the file is which.
 *
 * Experts lie in one tensor [experts][n][k], which ggml writes as dimensions (k, n, experts), or one by one in older files.
 *
 * Called at load only. */
#include "engine/quant_ggml.h"
#include "engine/source_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int gguf_source_open(struct source *s, const char *path, struct err *e)
{
    if (gguf_open(&s->g, path, e)) return -1;
    s->used = calloc((size_t)gguf_tensors(s->g) + 1, sizeof *s->used);
    return s->used ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %d tensors", gguf_tensors(s->g));
}

static const struct gguf_tensor *take(const struct source *s, const char *name, struct err *e)
{
    const struct gguf_tensor *t = gguf_find(s->g, name);
    if (t)
        s->used[t - gguf_tensor_at(s->g, 0)] = true;
    else
        err_set(e, ERR_MODEL, "%s: the tensor %s is missing; convert the model again", s->path, name);
    return t;
}

/* The architecture, where it is one whose converter shuffles the rows of q and k; else NULL. */
static const char *shuffled(const struct gguf *g)
{
    static const char *const archs[] = {"llama", "mistral3", "smollm3", "deci"};
    struct gguf_str arch;
    if (gguf_string(g, "general.architecture", &arch, NULL)) return NULL;
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (arch.len == strlen(archs[i]) && memcmp(arch.s, archs[i], arch.len) == 0) return archs[i];
    return NULL;
}

/* A number, or of an array that has one for each layer the layer's. */
static int number_of(const struct gguf *g, const char *key, int layer, uint64_t *out, struct err *e)
{
    int32_t *each;
    size_t n;
    if (gguf_array_len(g, key, &n, NULL)) return gguf_u64(g, key, out, e);
    if (gguf_array_i32(g, key, &each, &n, e)) return -1;
    *out = (size_t)layer < n && each[layer] > 0 ? (uint64_t)each[layer] : 0;
    free(each);
    return 0;
}

/* How many heads the rows of q or k are divided among: ARCH.attention.head_count, or ..._kv where the file has it. */
static int head_count(const struct source *s, const struct spot *of, int rows, int *heads, struct err *e)
{
    enum place at = of->at;
    char key[64];
    uint64_t v = 0;
    snprintf(key, sizeof key, "%s.attention.head_count_kv", shuffled(s->g));
    if (at == AT_Q || !gguf_has(s->g, key)) snprintf(key, sizeof key, "%s.attention.head_count", shuffled(s->g));
    if (number_of(s->g, key, of->layer, &v, e)) return -1;
    if (v < 1 || v > (uint64_t)rows || (uint64_t)rows % v || (uint64_t)rows / v % 2)
        return err_set(e, ERR_MODEL, "%s: %s is %llu, among which %d rows cannot be divided", s->path, key,
                       (unsigned long long)v, rows);
    *heads = (int)v;
    return 0;
}

/* The file's row of each row in Hugging Face's order; NULL with *rc 0: as they are. */
static int *row_order(const struct source *s, const struct spot *at, int rows, int *rc, struct err *e)
{
    int heads = 0;
    *rc = 0;
    if ((at->at != AT_Q && at->at != AT_K) || !shuffled(s->g)) return NULL;
    *rc = head_count(s, at, rows, &heads, e);
    int *row_of = *rc ? NULL : malloc((size_t)rows * sizeof *row_of);
    if (!row_of) {
        *rc = err_set(e, ERR_NO_MEMORY, "no memory for the order of %d rows", rows);
        return NULL;
    }
    int dim = rows / heads, half = dim / 2;
    for (int r = 0; r < rows; r++) {
        int in_head = r % dim; /* row i of half j is the file's 2i + j */
        row_of[r] = r - in_head + 2 * (in_head % half) + in_head / half;
    }
    return row_of;
}

/* Where the rows of the place lie in the tensor; NULL: it has another shape. */
static const uint8_t *rows_of(const struct gguf_tensor *t, enum form form, int expert, int n, int k)
{
    int64_t row = ggml_row_bytes(t->type, k), rows = form == FORM_LOW || form == FORM_HIGH ? 2 * (int64_t)n : n;
    const uint8_t *p = t->data;
    bool stack = form != FORM_MODULE;
    if (t->dim[0] != k || t->dim[1] != rows || t->ndim != (stack ? 3 : 2)) return NULL;
    if (!stack) return p;
    if (expert < 0 || expert >= t->dim[2]) return NULL;
    return p + row * (rows * expert + (form == FORM_HIGH ? n : 0));
}

static int wrong_shape(const struct source *s, const struct gguf_tensor *t, const char *name, int n, int k,
                       struct err *e)
{
    return err_set(e, ERR_MODEL, "%s: %s has %d dimensions, %lld x %lld x %lld: %d x %d is needed", s->path, name,
                   t->ndim, (long long)t->dim[2], (long long)t->dim[1], (long long)t->dim[0], n, k);
}

static void full_name(char out[TENSOR_NAME_MAX + 16], const struct located *at, bool bias)
{
    const char *end = at->form != FORM_MODULE ? "" : bias ? ".bias" : ".weight";
    snprintf(out, TENSOR_NAME_MAX + 16, "%s%s", at->stem, end);
}

int gguf_matrix(const struct source *s, const struct spot *at, const struct located *where, int n, int k,
                struct source_matrix *out, struct err *e)
{
    char name[TENSOR_NAME_MAX + 16], label[TENSOR_NAME_MAX + sizeof s->path + 32];
    int rc;
    full_name(name, where, false);
    const struct gguf_tensor *t = take(s, name, e);
    if (!t) return -1;
    const uint8_t *rows = rows_of(t, where->form, at->expert, n, k);
    if (!rows) return wrong_shape(s, t, name, n, k, e);
    snprintf(label, sizeof label, "%s: %s", s->path, name);
    if (ggml_source(out, t->type, rows, n, k, label, e)) return -1;
    out->row_of = row_order(s, at, n, &rc, e);
    if (rc) source_matrix_close(out);
    return rc;
}

int gguf_vector(const struct source *s, const struct spot *at, const char *name, int n, float *out, struct err *e)
{
    struct source_matrix m;
    int rc;
    const struct gguf_tensor *t = take(s, name, e);
    if (!t) return -1;
    if (!ggml_is_float(t->type) || t->ndim != 1 || t->dim[0] != n)
        return err_set(e, ERR_MODEL, "%s: %s is %lld values of %s: a vector of %d floats is needed", s->path, name,
                       (long long)t->dim[0], gguf_type_name(t->type), n);
    if (ggml_source(&m, t->type, t->data, 1, n, name, e)) return -1;
    rc = m.src.read(&m.src, 0, &(struct weight_row){.f = out}, e);
    source_matrix_close(&m);
    if (rc || !at->bias) return rc;
    int *order = row_order(s, at, n, &rc, e);
    if (!order) return rc;
    float *file = malloc((size_t)n * sizeof *file);
    if (file) {
        memcpy(file, out, (size_t)n * sizeof *file);
        for (int i = 0; i < n; i++) out[i] = file[order[i]];
    }
    free(order);
    free(file);
    return file ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %s", name);
}

bool gguf_shape(const struct source *s, const struct located *at, bool bias, int64_t *n, int64_t *k)
{
    char name[TENSOR_NAME_MAX + 16];
    full_name(name, at, bias);
    const struct gguf_tensor *t = gguf_find(s->g, name);
    if (!t) return false;
    bool half = at->form == FORM_LOW || at->form == FORM_HIGH;
    *k = t->dim[0];
    *n = t->ndim == 1 ? 0 : half ? t->dim[1] / 2 : t->dim[1];
    return true;
}
