/* source_hf: a model as Hugging Face keeps it, a directory of config.json and safetensors.
 *
 * Opening is cheap and final: every shard is mapped, every header read and checked, and all tensors stand in one sorted table before
 * anything is asked for. So a missing shard, a tensor in two places or an index that points out of the directory is refused before a
 * gigabyte is packed.
 *
 *     config.json -> model.safetensors, or the files that model.safetensors.index.json names -> headers -> sorted, unique -> index checked
 *
 * The index may only name plain files beside itself (no '/', no "..", ending in .safetensors). Files may be symbolic links: the Hub's
 * cache is made of them, and the directory is the operator's own.
 *
 * Refused by name: pickled weights (pytorch_model.bin), an adapter's directory, a directory without config.json.
 * Called at load only. */
#include "engine/source_impl.h"
#include "engine/source_json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define DAMAGED ": damaged, or training diverged; download it again or take another checkpoint"
#define PATH_BYTES 4096

static int join(char out[PATH_BYTES], const char *dir, const char *name, struct err *e)
{
    if (snprintf(out, PATH_BYTES, "%s/%s", dir, name) >= PATH_BYTES)
        return err_set(e, ERR_MODEL, "the path of %s is longer than %d bytes", name, PATH_BYTES - 1);
    return 0;
}

/* --- config.json --- */

int config_read(struct source *s, const char *path, const char *text, size_t len, struct err *e)
{
    struct err why = {0};
    if (json_parse_wide(text, len, &s->root, &why))
        return err_set(e, why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_MODEL, "%s: %.200s; download it again", path,
                       why.msg);
    const json_t *inner = json_object_get(s->root, "text_config");
    s->config = json_is_object(inner) ? inner : s->root;
    return 0;
}

int check_stands(const char *path, struct err *e)
{
    struct stat st;
    if (lstat(path, &st)) return 0;
    return err_set(e, ERR_MODEL, "%s %s; download it again", path,
                   S_ISLNK(st.st_mode) && access(path, F_OK) ? "is a symbolic link to nothing" : "is empty");
}

int hf_config(struct source *s, const char *dir, struct err *e)
{
    char path[PATH_BYTES];
    struct mapped *m = &s->config_file;
    snprintf(m->name, sizeof m->name, "config.json");
    if (join(path, dir, m->name, e) || map_whole(path, true, SOURCE_CONFIG_MAX, m, e)) return -1;
    if (!m->p) {
        if (check_stands(path, e)) return -1;
        bool adapter = !join(path, dir, "adapter_config.json", NULL) && access(path, F_OK) == 0;
        return err_set(e, ERR_MODEL, "%s has no config.json%s", dir,
                       adapter ? ": it is an adapter, not a base model; give the base here, and upload the adapter"
                               : "; download the whole repository, or save the model by save_pretrained()");
    }
    return config_read(s, path, (const char *)m->p, m->bytes, e);
}

/* --- shards --- */

static int shard_add(struct source *s, const char *dir, const char *name, struct err *e)
{
    char path[PATH_BYTES];
    if (s->nshards == SOURCE_SHARDS_MAX)
        return err_set(e, ERR_MODEL, "%s: more than %d shards", dir, SOURCE_SHARDS_MAX);
    struct mapped *m = &s->shard[s->nshards];
    *m = (struct mapped){0};
    snprintf(m->name, sizeof m->name, "%s", name);
    if (join(path, dir, name, e)) return -1;
    if (access(path, F_OK) && strcmp(name, SINGLE) != 0)
        return err_set(e, ERR_MODEL, "%s: the file %s, which " INDEX " names, is missing; download it", dir, name);
    if (map_whole(path, false, SIZE_MAX >> 1, m, e)) return -1;
    s->nshards++;
    return 0;
}

static bool shard_name_ok(const struct json_word *w)
{
    static const char end[] = ".safetensors";
    size_t k = sizeof end - 1;
    if (w->len <= k || w->len >= TENSOR_NAME_MAX || w->s[0] == '.' || memcmp(w->s + w->len - k, end, k) != 0)
        return false;
    for (size_t i = 0; i < w->len; i++)
        if (w->s[i] <= 32 || w->s[i] > 126 || w->s[i] == '/' || w->s[i] == '\\') return false;
    return true;
}

static int shard_of(const struct source *s, const struct json_word *w)
{
    for (int i = s->nshards - 1; i >= 0; i--) /* neighbours mostly lie in the same */
        if (word_is(w, s->shard[i].name)) return i;
    return -1;
}

static int shard_named(struct source *s, const char *dir, const struct json_word *file, struct err *e)
{
    char name[TENSOR_NAME_MAX];
    if (!shard_name_ok(file))
        return err_set(e, ERR_MODEL, "%s: it names the file \"%.*s\": only a plain *.safetensors beside it is allowed",
                       INDEX, (int)(file->len < 80 ? file->len : 80), file->s);
    if (shard_of(s, file) >= 0) return 0;
    snprintf(name, sizeof name, "%.*s", (int)file->len, file->s);
    return shard_add(s, dir, name, e);
}

/* Calls each(tensor's name, file's name) for the members of weight_map; those in other members are skipped. */
typedef int each_entry(struct source *s, const char *dir, const struct json_word *tensor, const struct json_word *file,
                       struct err *e);

static int walk_map(struct json_walk *w, struct source *s, const char *dir, each_entry *each)
{
    bool more = true;
    if (walk_expect(w, '{')) return -1;
    if (walk_sees(w, '}')) return walk_expect(w, '}');
    while (more) {
        struct json_word tensor, file;
        if (walk_word(w, &tensor) || walk_expect(w, ':') || walk_word(w, &file)) return -1;
        if (each(s, dir, &tensor, &file, w->e) || walk_next(w, '}', &more)) return -1;
    }
    return 0;
}

static int walk_index(const uint8_t *p, size_t n, struct source *s, const char *dir, each_entry *each, struct err *e)
{
    const char *text = (const char *)p;
    struct json_walk w = {text, text, text + n, INDEX, e};
    bool more = true, found = false;
    if (walk_expect(&w, '{')) return -1;
    more = !walk_sees(&w, '}');
    while (more) {
        struct json_word key;
        if (walk_word(&w, &key) || walk_expect(&w, ':')) return -1;
        bool map = word_is(&key, "weight_map");
        if (map && found) return err_set(e, ERR_MODEL, INDEX ": weight_map stands there twice");
        found |= map;
        if (map ? walk_map(&w, s, dir, each) : walk_skip(&w)) return -1;
        if (walk_next(&w, '}', &more)) return -1;
    }
    return found ? 0 : err_set(e, ERR_MODEL, INDEX ": it has no weight_map; download it again");
}

static int note_file(struct source *s, const char *dir, const struct json_word *tensor, const struct json_word *file,
                     struct err *e)
{
    (void)tensor;
    return shard_named(s, dir, file, e);
}

/* What the index says of a tensor must be so. */
static int check_place(struct source *s, const char *dir, const struct json_word *tensor, const struct json_word *file,
                       struct err *e)
{
    char name[TENSOR_NAME_MAX];
    (void)dir;
    snprintf(name, sizeof name, "%.*s", (int)(tensor->len < sizeof name ? tensor->len : sizeof name - 1), tensor->s);
    const struct tensor *t = tensor->len < sizeof name ? hf_find(s, name) : NULL; /* cut, it would be another's name */
    if (!t || t->shard != shard_of(s, file))
        return err_set(e, ERR_MODEL, INDEX ": the tensor %s is not in %.*s; download both again", name, (int)file->len,
                       file->s);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static int read_headers(struct source *s, struct err *e)
{
    for (int i = 0; i < s->nshards; i++)
        if (st_shard(s, i, e)) return -1;
    if (s->ntensors == 0)
        return err_set(e, ERR_MODEL, "%s: %s no tensors; download it again", s->path,
                       s->nshards ? s->nshards > 1 ? "its safetensors hold" : SINGLE " holds" : INDEX " names");
    qsort(s->tensor, (size_t)s->ntensors, sizeof *s->tensor, by_name);
    for (int i = 1; i < s->ntensors; i++)
        if (by_name(&s->tensor[i - 1], &s->tensor[i]) == 0)
            return err_set(e, ERR_MODEL, "the tensor %s stands in %s and in %s", s->tensor[i].name,
                           s->shard[s->tensor[i - 1].shard].name, s->shard[s->tensor[i].shard].name);
    s->used = calloc((size_t)s->ntensors, sizeof *s->used);
    return s->used ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %d tensors", s->ntensors);
}

static int refuse_weightless(const char *dir, struct err *e)
{
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"};
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++)
        if (!join(path, dir, pickles[i], NULL) && access(path, F_OK) == 0)
            return err_set(e, ERR_MODEL,
                           "%s has %s only: pickled weights are not served; save them as safetensors "
                           "(load the model in transformers and save_pretrained())",
                           dir, pickles[i]);
    return err_set(e, ERR_MODEL,
                   "%s has neither " SINGLE " nor " INDEX
                   "; download the whole repository, or save the model by save_pretrained()",
                   dir);
}

int hf_shards(struct source *s, const char *dir, struct err *e)
{
    char path[PATH_BYTES];
    struct mapped index = {.p = NULL};
    s->shard = calloc(SOURCE_SHARDS_MAX, sizeof *s->shard);
    if (!s->shard) return err_set(e, ERR_NO_MEMORY, "no memory for shards");
    if (join(path, dir, SINGLE, e)) return -1;
    if (access(path, F_OK) == 0) return shard_add(s, dir, SINGLE, e) || read_headers(s, e) ? -1 : 0;
    if (join(path, dir, INDEX, e) || map_whole(path, true, SOURCE_INDEX_MAX, &index, e)) return -1;
    const uint8_t *p = index.p;
    size_t n = index.bytes;
    if (!p) return refuse_weightless(dir, e);
    int rc = walk_index(p, n, s, dir, note_file, e) || read_headers(s, e) || walk_index(p, n, s, dir, check_place, e)
                 ? -1
                 : 0;
    munmap((void *)(uintptr_t)p, n);
    return rc;
}

/* --- tensors --- */

const struct tensor *hf_find(const struct source *s, const char *name)
{
    struct tensor key = {.name = name};
    return s->ntensors ? bsearch(&key, s->tensor, (size_t)s->ntensors, sizeof key, by_name) : NULL;
}

const struct tensor *hf_take(const struct source *s, const char *stem, const char *suffix)
{
    char name[TENSOR_NAME_MAX + 64];
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    const struct tensor *t = hf_find(s, name);
    if (t) s->used[t - s->tensor] = true;
    return t;
}

int hf_vector(const struct source *s, const char *name, int n, float *out, struct err *e)
{
    const struct tensor *t = hf_take(s, name, "");
    if (!t)
        return err_set(e, ERR_MODEL,
                       "%s: the tensor %s is missing; config.json belongs to another model, or a shard is missing",
                       s->path, name);
    if (!dtype_is_float(t->dtype) || t->count != n)
        return err_set(e, ERR_MODEL, "%s: %s is %lld values of %s: a vector of %d floats is needed",
                       s->shard[t->shard].name, name, (long long)t->count, dtype_name[t->dtype], n);
    if (floats_read(t->dtype, t->data, 0, 1, n, out))
        return err_set(e, ERR_MODEL, "%s: %s holds a value that is not finite" DAMAGED, s->shard[t->shard].name, name);
    return 0;
}

/* --- matrices of floats --- */

/* Element (row, column) lies at from + row * down + column * across. */
struct float_rows {
    const struct tensor *t;
    const struct source *s;
    int64_t from, down, across;
};

static int read_floats(const struct weight_source *src, int row, struct weight_row *out, struct err *e)
{
    const struct float_rows *f = src->u;
    if (floats_read(f->t->dtype, f->t->data, f->from + row * f->down, f->across, src->k, out->f))
        return err_set(e, ERR_MODEL, "%s: %s, row %d: a value is not finite" DAMAGED, f->s->shard[f->t->shard].name,
                       f->t->name, row);
    return 0;
}

static int wrong_shape(const struct source *s, const struct tensor *t, int n, int k, struct err *e)
{
    char shape[96] = "";
    for (int i = 0; i < t->ndim && i < 4; i++) {
        size_t at = strlen(shape);
        snprintf(shape + at, sizeof shape - at, "%s%lld", i ? " x " : "", (long long)t->dim[i]);
    }
    if (!dtype_is_float(t->dtype))
        return err_set(e, ERR_MODEL,
                       "%s: %s is of the type %s, which is not served as a plain matrix; save it as F32, F16 or BF16",
                       s->shard[t->shard].name, t->name, dtype_name[t->dtype]);
    return err_set(e, ERR_MODEL, "%s: %s is %s of %s: by config.json %d x %d is needed", s->shard[t->shard].name,
                   t->name, shape[0] ? shape : "one value", dtype_name[t->dtype], n, k);
}

/* Where the matrix of an expert lies in a stack; false: the stack has another shape. Square ones are taken as transformers 5 has them,
 * [experts][n][k]. */
static bool stack_place(const struct tensor *t, enum form form, int expert, int n, int k, struct float_rows *f)
{
    int64_t rows = form == FORM_STACK ? n : 2 * (int64_t)n, skip = form == FORM_HIGH ? n : 0;
    if (t->ndim != 3 || expert < 0 || expert >= t->dim[0]) return false;
    if (t->dim[1] == rows && t->dim[2] == k) {
        f->down = k;
        f->across = 1;
    } else if (t->dim[1] == k && t->dim[2] == rows) {
        f->down = 1;
        f->across = rows;
    } else {
        return false;
    }
    f->from = expert * rows * k + skip * f->down;
    return true;
}

static int float_matrix(const struct source *s, const struct tensor *t, const struct float_rows *place, int n, int k,
                        struct source_matrix *out, struct err *e)
{
    struct float_rows *f = malloc(sizeof *f);
    if (!f) return err_set(e, ERR_NO_MEMORY, "no memory for %s", t->name);
    *f = *place;
    f->s = s;
    f->t = t;
    *out = (struct source_matrix){
        .src = {.kind = CODES_FLOAT, .n = n, .k = k, .read = read_floats, .u = f, .format = dtype_name[t->dtype]},
        .room = f};
    return 0;
}

static int stack_matrix(const struct source *s, const struct located *at, int expert, int n, int k,
                        struct source_matrix *out, struct err *e)
{
    struct float_rows f = {0};
    const struct tensor *t = hf_take(s, at->stem, "");
    if (!t) return err_set(e, ERR_MODEL, "%s: the tensor %s is missing", s->path, at->stem);
    if (!dtype_is_float(t->dtype))
        return err_set(
            e, ERR_MODEL,
            "%s: %s is of type %s: experts in one stack are served as F32, F16 or BF16; quantize each expert's matrix",
            s->shard[t->shard].name, t->name, dtype_name[t->dtype]);
    if (!stack_place(t, at->form, expert, n, k, &f)) return wrong_shape(s, t, n, k, e);
    return float_matrix(s, t, &f, n, k, out, e);
}

int hf_matrix(const struct source *s, const struct located *at, int expert, int n, int k, struct source_matrix *out,
              struct err *e)
{
    if (at->form != FORM_MODULE) return stack_matrix(s, at, expert, n, k, out, e);
    struct module_of m = {s, at->stem, n, k};
    int taken = quant_matrix(&m, out, e);
    if (taken) return taken > 0 ? 0 : -1;
    const struct tensor *t = hf_take(s, at->stem, ".weight");
    if (!t)
        return err_set(
            e, ERR_MODEL,
            "%s: the tensor %s.weight is missing; config.json belongs to another model, or a shard is missing", s->path,
            at->stem);
    if (!dtype_is_float(t->dtype) || t->ndim != 2 || t->dim[0] != n || t->dim[1] != k)
        return wrong_shape(s, t, n, k, e);
    return float_matrix(s, t, &(struct float_rows){.down = k, .across = 1}, n, k, out, e);
}

bool hf_shape(const struct source *s, const struct located *at, bool bias, int64_t *n, int64_t *k)
{
    char name[TENSOR_NAME_MAX + 16];
    snprintf(name, sizeof name, "%s%s", at->stem, bias ? ".bias" : ".weight");
    const struct tensor *t = hf_find(s, name);
    if (at->form != FORM_MODULE || !t || t->ndim < 1 || t->ndim > 2 || t->dtype == D_U8) return false;
    *n = t->ndim == 2 ? t->dim[0] : 0;
    *k = t->ndim == 2 ? t->dim[1] : t->dim[0];
    return true;
}
