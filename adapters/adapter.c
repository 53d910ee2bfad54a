/* An adapter opened against a base: every tensor in its place, or a refusal that says which and why.
 *
 * The idea is a table of places, layers x modules. First each tensor of the file is put into its place by name and
 * shape; what has no place is reported. Then each place is compared with what the config says of that module: named and
 * there, or not named and not there. So a file and a config that disagree in any way are refused, and what is left is
 * exactly what PEFT would have run. The checks go from cheap to dear; a hostile file is turned away before its data is
 * touched:
 *
 *     config -> base's name -> header -> places -> agreement, ranks, scales -> values finite -> digests
 *
 * Guarantees: part[] describes the adapter completely; pointers in it live until adapter_close(). Refuses what peft.c
 * and safetensors.c refuse, and everything above.
 *
 * Called by the gateway's jobs before an upload is ready, and again by the engine's loader before a slot is filled.
 * Threads: any. */
#include "adapters/adapter.h"
#include "adapters/digest.h"
#include "base/buf.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096
#define UNUSED_NAMED 8
#define UNUSED_BYTES 320 /* of names in the message */

static struct adapter_part *part_at(const struct adapter *a, int layer, int module)
{
    return &a->part[layer * LORA_MODULES + module];
}

/* --- tensors into places --- */

struct mapping {
    struct adapter *a;
    const struct base_desc *base;
    char prefix[TENSOR_NAME_MAX]; /* of the first tensor; all must have it */
    int used;
    struct buf unused; /* names */
    int nunused, named;
};

static void note_unused(struct mapping *m, const char *name)
{
    m->nunused++;
    if (m->named == UNUSED_NAMED || m->unused.len + strlen(name) > UNUSED_BYTES) return;
    if (m->named++) buf_adds(&m->unused, ", ");
    buf_adds(&m->unused, name);
}

static int unused_refuse(const struct mapping *m, struct err *e)
{
    if (!m->nunused) return 0;
    return err_set(e, ERR_ADAPTER_INVALID, "%d of the file's %d tensors would not be used: %s%s", m->nunused,
                   m->a->file->ntensors, m->unused.data, m->named < m->nunused ? ", ..." : "");
}

static int in_base(const struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    if (n->layer >= m->base->layers)
        return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s is of layer %d, and %.100s has %d layers", t->name,
                       n->layer, m->base->name, m->base->layers);
    if (!m->base->out[n->module])
        return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s: %.100s has no %s", t->name, m->base->name,
                       lora_module_name[n->module]);
    return 0;
}

/* The side that the base decides: columns of A, rows of B. */
static int shape_check(const struct mapping *m, const struct st_tensor *t, const struct tensor_name *n, struct err *e)
{
    if (t->ndim != 2) return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s has 1 dimension, not 2", t->name);
    int64_t has = n->is_b ? t->dim[0] : t->dim[1];
    int want = n->is_b ? m->base->out[n->module] : m->base->in[n->module];
    if (has == want) return 0;
    return err_set(e, ERR_ADAPTER_INVALID, "tensor %.256s has %" PRId64 " %s, and %.64s needs %d", t->name, has,
                   n->is_b ? "rows" : "columns", m->base->name, want);
}

static int place(struct mapping *m, const struct st_tensor *t, struct err *e)
{
    struct tensor_name n;
    if (!tensor_name_parse(t->name, &n)) {
        note_unused(m, t->name);
        return 0;
    }
    if (!m->used++) snprintf(m->prefix, sizeof m->prefix, "%s", n.prefix);
    if (strcmp(m->prefix, n.prefix))
        return err_set(e, ERR_ADAPTER_INVALID,
                       "tensor %.256s is under \"%.64s\", others under \"%.64s\": two models in one file", t->name,
                       n.prefix, m->prefix);
    if (in_base(m, t, &n, e) || shape_check(m, t, &n, e)) return -1;
    struct adapter_part *p = part_at(m->a, n.layer, n.module);
    const struct st_tensor **slot = n.is_b ? &p->b : &p->a;
    if (*slot)
        return err_set(e, ERR_ADAPTER_INVALID, "tensors %.180s and %.180s are the same weight", (*slot)->name, t->name);
    *slot = t;
    return 0;
}

static int place_all(struct mapping *m, struct err *e)
{
    const struct st_file *f = m->a->file;
    for (int i = 0; i < f->ntensors; i++)
        if (place(m, &f->tensor[i], e)) return -1;
    return unused_refuse(m, e);
}

/* --- places against the config --- */

static int pair_check(const struct adapter_part *p, const char *path, struct err *e)
{
    if (!p->a == !p->b) {
        if (!p->a || p->a->dim[0] == p->b->dim[1]) return 0;
        return err_set(e, ERR_ADAPTER_INVALID, "%.256s: lora_A has %" PRId64 " rows and lora_B %" PRId64 " columns",
                       path, p->a->dim[0], p->b->dim[1]);
    }
    return err_set(e, ERR_ADAPTER_INVALID, "%.256s has lora_%s and no lora_%s", path, p->a ? "A" : "B",
                   p->a ? "B" : "A");
}

static int agree(struct adapter *a, struct adapter_part *p, const char *path, int max_rank, struct err *e)
{
    struct peft_place c;
    if (pair_check(p, path, e) || peft_resolve(a->config, path, &c, e)) return -1;
    if (c.target && !p->a)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json names %.256s, and the file has no tensors for it",
                       path);
    if (!c.target && p->a)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "the file has tensors for %.256s, which adapter_config.json does not name", path);
    if (!p->a) return 0;
    if (p->a->dim[0] > max_rank)
        return err_set(e, ERR_ADAPTER_INVALID, "%.256s has rank %" PRId64 ", above the limit of %d", path, p->a->dim[0],
                       max_rank);
    if (p->a->dim[0] != c.r)
        return err_set(e, ERR_ADAPTER_INVALID, "%.256s has rank %" PRId64 ", and adapter_config.json says %d", path,
                       p->a->dim[0], c.r);
    p->r = c.r;
    p->scale = c.scale;
    return 0;
}

static void sum_up(struct adapter *a, const struct adapter_part *p, int module)
{
    if (p->r > a->max_rank) a->max_rank = p->r;
    a->modules |= 1u << module;
    a->tensor_bytes += p->a->bytes + p->b->bytes;
}

static int agree_all(struct adapter *a, const struct mapping *m, int max_rank, struct err *e)
{
    char path[MODULE_PATH_MAX];
    for (int layer = 0; layer < a->layers; layer++)
        for (int module = 0; module < LORA_MODULES; module++) {
            struct adapter_part *p = part_at(a, layer, module);
            if (!m->base->out[module]) continue;
            module_path(m->prefix, layer, (enum lora_module)module, path);
            if (agree(a, p, path, max_rank, e)) return -1;
            if (p->a) sum_up(a, p, module);
        }
    return a->modules ? 0 : err_set(e, ERR_ADAPTER_INVALID, "the adapter adapts nothing of %.128s", m->base->name);
}

static int map_tensors(struct adapter *a, const struct base_desc *base, int max_rank, struct err *e)
{
    struct mapping m = {.a = a, .base = base};
    a->layers = base->layers;
    a->part = calloc((size_t)base->layers * LORA_MODULES, sizeof *a->part);
    if (!a->part) return err_set(e, ERR_NO_MEMORY, "out of memory for an adapter of %d layers", base->layers);
    buf_init(&m.unused, UNUSED_BYTES * 2);
    int rc = place_all(&m, e) || agree_all(a, &m, max_rank, e) ? -1 : 0;
    buf_close(&m.unused);
    return rc;
}

/* --- values, digests --- */

static int values_check(const struct st_file *f, struct err *e)
{
    for (int i = 0; i < f->ntensors; i++) {
        const struct st_tensor *t = &f->tensor[i];
        int64_t at = st_first_beyond(t);
        if (at < 0) continue;
        return err_set(e, ERR_ADAPTER_INVALID,
                       "tensor %.256s: element [%" PRId64 ",%" PRId64 "] is %.9g, not within +-%g", t->name,
                       at / t->dim[1], at % t->dim[1], (double)st_get(t, at), ST_VALUE_MAX);
    }
    return 0;
}

static void file_digest(struct adapter *a)
{
    uint8_t digest[SHA256_BYTES];
    sha256_of(a->file->map, a->file->file_bytes, digest);
    sha256_hex(digest, a->file_sha256);
}

static int open_file(struct adapter *a, const char *path, size_t max_bytes, struct err *e)
{
    if (st_open(&a->file, path, e)) return -1;
    if (max_bytes && a->file->file_bytes > max_bytes)
        return err_set(e, ERR_ADAPTER_INVALID, "the weights file has %zu bytes, above the limit of %zu",
                       a->file->file_bytes, max_bytes);
    return 0;
}

static int open_all(struct adapter *a, const char *dir, const struct base_desc *base,
                    const struct adapter_limits *limits, struct err *e)
{
    char path[PATH_BYTES];
    int max_rank =
        limits && limits->max_rank > 0 && limits->max_rank < PEFT_RANK_MAX ? limits->max_rank : PEFT_RANK_MAX;
    if (snprintf(path, sizeof path, "%s/" ADAPTER_CONFIG_FILE, dir) >= (int)sizeof path - 32)
        return err_set(e, ERR_IO, "the adapter's folder has too long a path");
    if (peft_load(&a->config, path, e) || base_desc_accepts(base, a->config->base_model, e)) return -1;
    snprintf(path, sizeof path, "%s/" ADAPTER_WEIGHTS_FILE, dir);
    if (open_file(a, path, limits ? limits->max_bytes : 0, e) || map_tensors(a, base, max_rank, e) ||
        values_check(a->file, e) || adapter_digest(a->file, a->config, base->digest, a->digest, e))
        return -1;
    file_digest(a);
    return 0;
}

int adapter_open(struct adapter **out, const char *dir, const struct base_desc *base,
                 const struct adapter_limits *limits, struct err *e)
{
    struct adapter *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NO_MEMORY, "out of memory for an adapter");
    if (open_all(a, dir, base, limits, e)) {
        adapter_close(a);
        return -1;
    }
    *out = a;
    return 0;
}

void adapter_close(struct adapter *a)
{
    if (!a) return;
    peft_free(a->config);
    st_close(a->file);
    free(a->part);
    free(a);
}
