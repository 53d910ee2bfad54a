/* medusa: the files of Medusa heads.
 *
 * Heads for another base would not make answers wrong, for guesses are checked, but slow: so all that can be checked is, and
 * what does not fit is refused with its name when the engine starts, not noticed in a graph of acceptance later.
 *
 *     config.json -> numbers -> tensors by name, shapes against the base -> packed like the base's own -> trees
 *
 * Who publishes heads calls their file medusa_lm_head.safetensors. One thread, at load. */
#include "engine/medusa.h"
#include "adapters/safetensors.h"
#include "base/log.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX (1u << 20)
#define FILE_NAME "medusa_lm_head.safetensors"
#define PREFIX "medusa_head."
#define NAME_LEN 48

/* --- config.json --- */

static int load_config(struct medusa *m, const char *folder, struct err *e)
{
    char path[PATH_MAX], *text = malloc(CONFIG_MAX + 1);
    snprintf(path, sizeof path, "%s/config.json", folder);
    FILE *f = text ? fopen(path, "re") : NULL;
    if (!f) {
        free(text);
        return text ? err_errno(e, "cannot open %s", path) : err_set(e, ERR_NO_MEMORY, "no memory for %s", path);
    }
    size_t n = fread(text, 1, CONFIG_MAX + 1, f);
    bool whole = feof(f) && !ferror(f);
    fclose(f);
    int rc = whole && n <= CONFIG_MAX
                 ? medusa_config(m, text, n, e)
                 : err_set(e, ERR_MODEL, "it cannot be read whole, or is longer than %u bytes", CONFIG_MAX);
    free(text);
    return rc ? err_prefix(e, "config.json") : 0;
}

/* --- tensors --- */

struct reading {
    struct medusa *m;
    const struct st_file *file;
    const char *prefix;
    enum precision prec;
    int used;
};

static const enum tensor_type type_of[] = {[ST_F32] = T_F32, [ST_F16] = T_F16, [ST_BF16] = T_BF16};

/* The tensor of that name, of n x k, or n values where k is 0; finite. */
static const struct st_tensor *take(struct reading *r, const char *name, int64_t n, int64_t k, struct err *e)
{
    char full[NAME_LEN + sizeof PREFIX];
    snprintf(full, sizeof full, "%s%s", r->prefix, name);
    const struct st_tensor *t = st_find(r->file, full);
    if (!t) {
        err_set(e, ERR_MODEL, "tensor %s is missing", full);
        return NULL;
    }
    if (t->ndim != (k ? 2 : 1) || t->dim[0] != n || (k && t->dim[1] != k)) {
        err_set(e, ERR_MODEL, "tensor %s is %lld x %lld, this base wants %lld x %lld", full, (long long)t->dim[0],
                t->ndim > 1 ? (long long)t->dim[1] : 1LL, (long long)n, k ? (long long)k : 1LL);
        return NULL;
    }
    if (st_first_beyond(t) >= 0) {
        err_set(e, ERR_MODEL, "tensor %s has a value that is not finite, or beyond %g", full, ST_VALUE_MAX);
        return NULL;
    }
    r->used++;
    return t;
}

static int take_matrix(struct reading *r, const char *name, int n, int k, struct weight *out, struct err *e)
{
    const struct st_tensor *t = take(r, name, n, k, e);
    if (!t || weight_pack(out, type_of[t->dtype], t->data, n, k, NULL, r->prec, e)) return -1;
    r->m->bytes += out->bytes;
    return 0;
}

static int take_block(struct reading *r, int head, int layer, struct err *e)
{
    struct medusa *m = r->m;
    char name[NAME_LEN];
    int at = head * m->layers + layer;
    snprintf(name, sizeof name, "%d.%d.linear.weight", head, layer);
    if (take_matrix(r, name, m->hidden, m->hidden, &m->block[at], e)) return -1;
    snprintf(name, sizeof name, "%d.%d.linear.bias", head, layer);
    const struct st_tensor *t = take(r, name, m->hidden, 0, e);
    if (!t) return -1;
    tensor_to_f32(type_of[t->dtype], t->data, m->hidden, m->bias + (size_t)at * (size_t)m->hidden);
    return 0;
}

/* Has head 0 an lm_head of its own? */
static bool has_own(const struct reading *r)
{
    char name[NAME_LEN + sizeof PREFIX];
    snprintf(name, sizeof name, "%s0.%d.weight", r->prefix, r->m->layers);
    return st_find(r->file, name) != NULL;
}

static int take_own(struct reading *r, struct err *e)
{
    struct medusa *m = r->m;
    char name[NAME_LEN];
    if (!has_own(r)) return 0;
    m->own = calloc((size_t)m->heads, sizeof *m->own);
    if (!m->own) return err_set(e, ERR_NO_MEMORY, "no memory for Medusa heads");
    for (int k = 0; k < m->heads; k++) {
        snprintf(name, sizeof name, "%d.%d.weight", k, m->layers);
        if (take_matrix(r, name, m->vocab, m->hidden, &m->own[k], e)) return -1;
    }
    return 0;
}

/* The first tensor whose name none of those that were taken has: all of them have a head and a layer of the config. */
static int check_used(const struct reading *r, struct err *e)
{
    for (int i = 0; i < r->file->ntensors; i++) {
        const char *full = r->file->tensor[i].name, *name = full + strlen(r->prefix);
        int head, layer, end = 0; /* end stays 0 where the second point is missing: %n comes behind it */
        bool block = !strncmp(full, r->prefix, strlen(r->prefix)) &&
                     sscanf(name, "%d.%d.%n", &head, &layer, &end) == 2 && end > 0 && head >= 0 &&
                     head < r->m->heads && layer >= 0;
        bool fits =
            block && (layer < r->m->layers ? !strcmp(name + end, "linear.weight") || !strcmp(name + end, "linear.bias")
                                           : layer == r->m->layers && r->m->own && !strcmp(name + end, "weight"));
        if (!fits) return err_set(e, ERR_MODEL, "tensor %s is used by nothing", full);
    }
    if (r->used != r->file->ntensors)
        return err_set(e, ERR_MODEL, "%d of %d tensors are used by nothing", r->file->ntensors - r->used,
                       r->file->ntensors);
    return 0;
}

static int take_all(struct reading *r, struct err *e)
{
    struct medusa *m = r->m;
    size_t blocks = (size_t)m->heads * (size_t)m->layers;
    m->block = calloc(blocks, sizeof *m->block);
    m->bias = calloc(blocks * (size_t)m->hidden, sizeof *m->bias);
    if (!m->block || !m->bias) return err_set(e, ERR_NO_MEMORY, "no memory for Medusa heads");
    for (int k = 0; k < m->heads; k++)
        for (int i = 0; i < m->layers; i++)
            if (take_block(r, k, i, e)) return -1;
    return take_own(r, e) || check_used(r, e) ? -1 : 0;
}

static int load_tensors(struct medusa *m, const char *folder, enum precision prec, struct err *e)
{
    char path[PATH_MAX];
    struct st_file *file;
    snprintf(path, sizeof path, "%s/" FILE_NAME, folder);
    if (st_open(&file, path, e)) return -1;
    bool named = file->ntensors && !strncmp(file->tensor[0].name, PREFIX, strlen(PREFIX));
    struct reading r = {.m = m, .file = file, .prefix = named ? PREFIX : "", .prec = prec};
    int rc = take_all(&r, e);
    st_close(file);
    return rc ? err_prefix(e, FILE_NAME) : 0;
}

/* --- rows of the base's lm_head --- */

static int read_row(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    const void *const *u = s->u;
    (void)e;
    weight_row(u[0], ((const int32_t *)u[1])[row], out->f);
    return 0;
}

/* As bytes, whatever the base's are: guesses need no more. */
static int take_few(struct medusa *m, const struct model *base, struct err *e)
{
    const void *const u[] = {base->head, m->token};
    struct weight_source src = {
        .kind = CODES_FLOAT, .n = m->ntokens, .k = m->hidden, .read = read_row, .u = u, .format = "float"};
    if (!m->ntokens) return 0;
    if (m->own)
        return err_set(e, ERR_MODEL, "medusa_tokens goes with the base's lm_head, and these heads have their own");
    int to = base->prec == PREC_FAST && m->hidden % GROUP == 0 ? (int)LAYOUT_Q8 : LAYOUT_AUTO;
    if (weight_pack_source(&m->few, &src, NULL, base->prec, to, NULL, e)) return -1;
    m->bytes += m->few.bytes;
    return 0;
}

/* --- both --- */

int medusa_load(struct medusa **out, const char *folder, const struct model *base, struct err *e)
{
    struct medusa *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_NO_MEMORY, "no memory for Medusa heads");
    m->hidden = base->hidden;
    m->vocab = base->vocab;
    if (load_config(m, folder, e) || load_tensors(m, folder, base->prec, e) || take_few(m, base, e)) {
        medusa_free(m);
        if (e && e->code != ERR_IO && e->code != ERR_NO_MEMORY)
            e->code = ERR_MODEL; /* whatever readers of requests call it */
        return err_prefix(e, "Medusa heads %s", folder);
    }
    for (int n = 1; n <= MEDUSA_NODES_MAX; n++) medusa_tree_make(&m->tree[n], n, m->heads, m->right);
    log_info("medusa_heads", LI("heads", m->heads), LI("layers", m->layers), LI("own_lm_heads", m->own != NULL),
             LI("tokens", m->ntokens ? m->ntokens : m->vocab), LI("measured", m->measured),
             LI("bytes", (int64_t)m->bytes));
    *out = m;
    return 0;
}

void medusa_free(struct medusa *m)
{
    if (!m) return;
    for (int i = 0; m->block && i < m->heads * m->layers; i++) weight_close(&m->block[i]);
    for (int i = 0; m->own && i < m->heads; i++) weight_close(&m->own[i]);
    if (m->few.n) weight_close(&m->few);
    free(m->token);
    free(m->block);
    free(m->bias);
    free(m->own);
    free(m);
}
