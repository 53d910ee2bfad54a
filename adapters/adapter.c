/* An adapter opened against a base: every tensor in its place, or a refusal that says which and why.
 *
 * The idea is a table of places. First each tensor of the file is put into its place by name and shape
 * (adapter_place.c); what has no place is reported. Then each place is compared with what the config says of that
 * module (adapter_agree.c). The checks go from cheap to dear; a hostile file is turned away before its data is touched:
 *
 *     config -> base's name -> header -> places -> agreement, ranks, scales -> values finite -> digests
 *                                                                               (not again for files that did not change)
 *
 * Guarantees: the parts describe the adapter completely; pointers in them live until adapter_close(). Refuses what peft.c
 * and safetensors.c refuse, and everything above.
 *
 * Called by the gateway's jobs before an upload is ready, and again by the engine's loader before a slot is filled.
 * Threads: any. */
#include "adapters/adapter_impl.h"
#include "adapters/digest.h"
#include "base/clock.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096
/* --- views --- */

float adapter_part_a(const struct adapter_part *p, int64_t j, int64_t i)
{
    return st_get(p->a, (p->a_row0 + j) * p->a->dim[1] + i);
}

float adapter_part_b(const struct adapter_part *p, int64_t o, int64_t j)
{
    return st_get(p->b, (p->b_row0 + o) * p->b->dim[1] + p->b_col0 + j * p->b_step);
}

/* --- tensors --- */

static int map_tensors(struct adapter *a, const struct base_desc *base, int max_rank, struct err *e)
{
    struct mapping m;
    int rc = mapping_init(&m, a, base, e) || mapping_place_all(&m, e) || mapping_agree(&m, max_rank, e) ? -1 : 0;
    mapping_close(&m);
    if (rc && e && e->code == ERR_ADAPTER_INVALID && strncmp(e->msg, "adapter_", 8) != 0)
        err_prefix(e, ADAPTER_WEIGHTS_FILE);
    return rc;
}

/* --- values, digests --- */

static int values_check(const struct st_file *f, const struct adapter_limits *limits, struct err *e)
{
    for (int i = 0; i < f->ntensors; i++) {
        const struct st_tensor *t = &f->tensor[i];
        int64_t at = st_first_beyond(t);
        if (limits->breathe) limits->breathe(limits->u);
        if (at < 0) continue;
        return err_set(e, ERR_ADAPTER_INVALID,
                       ADAPTER_WEIGHTS_FILE ": tensor %.256s: element [%" PRId64 ",%" PRId64
                                            "] is %.9g, not within +-%g; training diverged: take an earlier checkpoint",
                       t->name, at / t->dim[1], at % t->dim[1], (double)st_get(t, at), ST_VALUE_MAX);
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
        return err_set(e, ERR_ADAPTER_INVALID,
                       ADAPTER_WEIGHTS_FILE
                       " has %zu bytes, above the limit of %zu; save it as bf16, or with a smaller rank",
                       a->file->file_bytes, max_bytes);
    return 0;
}

/* Words that the base cannot read would never wake the adapter. */
static int check_invocation(const struct peft_config *c, const struct base_desc *base, struct err *e)
{
    for (int i = 0; i < c->ninvocation; i++)
        if (base->vocab && c->invocation[i] >= base->vocab)
            return err_set(
                e, ERR_ADAPTER_INVALID,
                ADAPTER_CONFIG_FILE
                ": alora_invocation_tokens holds %d, and %.128s has the tokens 0 to %d; it was trained with another "
                "vocabulary",
                c->invocation[i], base->name, base->vocab - 1);
    return 0;
}

/* Whether these are the files that were checked and hashed before. The config was read between two looks at it. */
static bool is_known(const struct adapter_limits *limits, const struct file_id *config, const struct file_id *weights)
{
    const struct adapter_stamp *k = limits->known;
    return k && k->config.size && file_id_same(&k->config, config) && file_id_same(&k->weights, weights);
}

static int check_contents(struct adapter *a, const struct base_desc *base, const struct adapter_limits *limits,
                          struct err *e)
{
    return values_check(a->file, limits, e) ||
                   adapter_digest(a->file, a->config, base->digest, limits->breathe, limits->u, a->digest, e)
               ? -1
               : 0;
}

static int open_all(struct adapter *a, const char *dir, const struct base_desc *base,
                    const struct adapter_limits *limits, struct err *e)
{
    char path[PATH_BYTES], config[PATH_BYTES];
    struct file_id before, after;
    int64_t began_us = clock_wall_us();
    int max_rank = limits->max_rank > 0 && limits->max_rank < PEFT_RANK_MAX ? limits->max_rank : PEFT_RANK_MAX;
    if (snprintf(path, sizeof path, "%s/" ADAPTER_CONFIG_FILE, dir) >= (int)sizeof path - 32)
        return err_set(e, ERR_IO, "the adapter's folder has too long a path");
    memcpy(config, path, sizeof config);
    file_id_at(&before, config);
    if (peft_load(&a->config, path, e) || base_desc_accepts(base, a->config->base_model, e) ||
        check_invocation(a->config, base, e))
        return -1;
    snprintf(path, sizeof path, "%s/" ADAPTER_WEIGHTS_FILE, dir);
    if (open_file(a, path, limits->max_bytes, e) || map_tensors(a, base, max_rank, e)) return -1;
    file_id_at(&after, config);
    bool same = file_id_same(&before, &after);
    if (same && is_known(limits, &before, &a->file->id))
        memcpy(a->digest, limits->known->digest, sizeof a->digest);
    else if (check_contents(a, base, limits, e))
        return -1;
    if (same && file_id_settled(&before, began_us) && file_id_settled(&a->file->id, began_us)) {
        a->stamp = (struct adapter_stamp){.config = before, .weights = a->file->id};
        memcpy(a->stamp.digest, a->digest, sizeof a->digest);
    }
    if (!limits->unsummed) file_digest(a);
    return 0;
}

int adapter_open(struct adapter **out, const char *dir, const struct base_desc *base,
                 const struct adapter_limits *limits, struct err *e)
{
    struct adapter *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NO_MEMORY, "out of memory for an adapter");
    if (open_all(a, dir, base, limits ? limits : &(struct adapter_limits){0}, e)) {
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
    free(a->expert);
    free(a->router);
    free(a);
}
