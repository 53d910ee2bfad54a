/* quantize: a model in memory, matrix by matrix, into a packed file.
 *
 *     model_load(IN) -> plan: one type, or measured (quantize_auto.c) -> source_pack(): keys, texts, vectors
 *                    -> every matrix: as it is packed, or quantized anew -> finish: synced and renamed
 *
 * What is read is what the loader would serve, so every format that can be served can be quantized. A matrix that is
 * small enough already stays as it is (quantizing a 4-bit base to 8 bits would add bytes and errors). Embedding and head
 * are not taken below 8 bits: their errors reach every answer directly, and the embedding is read a row a token.
 * Routers stay exact: they decide, and are tiny.
 *
 * Runs alone in its process: `weft-engine quantize`. */
#include "engine/quantize.h"
#include "base/log.h"
#include "engine/packed.h"
#include "engine/source.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct job {
    const struct quantize_options *o;
    const struct model *m;
    struct packed_writer *w;
    struct quantize_plan plan;
    size_t before, after;
};

/* --- a packed matrix as a source --- */

static int read_row(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    weight_row(s->u, row, out->f);
    return 0;
}

void quantize_source(const struct weight *w, struct weight_source *out)
{
    *out =
        (struct weight_source){.kind = CODES_FLOAT, .n = w->n, .k = w->k, .read = read_row, .u = w, .format = "packed"};
}

bool quantize_shrinks(const struct weight *w, const struct quant_type *t)
{
    size_t bytes = weight_bytes(t->layout, w->n, w->k);
    return bytes > 0 && bytes < w->bytes;
}

/* --- writing --- */

static int put(struct job *j, const struct spot *at, const struct weight *w, const struct quant_type *t, struct err *e)
{
    char name[SOURCE_PLACE_MAX];
    struct weight fresh = {0};
    struct weight_source src;
    const struct weight *use = w;
    if (!w->n) return 0;
    source_place_name(at, name);
    if (t && quantize_shrinks(w, t)) {
        quantize_source(w, &src);
        if (weight_quantize(&fresh, t, &src, NULL, e)) return err_prefix(e, "%s", name);
        use = &fresh;
    }
    int rc = packed_writer_add_weight(j->w, name, use, e);
    j->before += w->bytes;
    j->after += use->bytes;
    if (use == &fresh) weight_close(&fresh);
    return rc;
}

static int put_layer(struct job *j, int layer, struct err *e)
{
    const struct model_layer *l = &j->m->layer[layer];
    const struct quant_type *t = j->plan.layer[layer];
    size_t before = j->before, after = j->after;
    for (int i = 0; i < LORA_MODULES; i++)
        if (put(j, &(struct spot){.at = (enum place)(AT_Q + i), .layer = layer}, &l->module[i], t, e)) return -1;
    if (put(j, &(struct spot){.at = AT_ROUTER, .layer = layer}, &l->router, NULL, e)) return -1;
    for (int x = 0; l->expert && x < j->m->experts; x++)
        for (int i = 0; i < 3; i++) {
            const struct spot at = {.at = (enum place)(AT_EXPERT_GATE + i), .layer = layer, .expert = x};
            if (put(j, &at, &l->expert[x].part[i], t, e)) return -1;
        }
    log_info("layer_quantized", LI("layer", layer), LS("type", t ? t->name : "as loaded"),
             LI("bytes_before", (int64_t)(j->before - before)), LI("bytes_after", (int64_t)(j->after - after)));
    return 0;
}

static int put_all(struct job *j, struct err *e)
{
    const struct model *m = j->m;
    if (put(j, &(struct spot){.at = AT_EMBED}, &m->embed, j->plan.ends, e)) return -1;
    if (m->head == &m->head_own && put(j, &(struct spot){.at = AT_HEAD}, &m->head_own, j->plan.ends, e)) return -1;
    for (int l = 0; l < m->layers; l++)
        if (put_layer(j, l, e)) return -1;
    return 0;
}

static int write_file(struct job *j, const struct source *s, struct err *e)
{
    json_t *meta =
        json_pack("{s:s, s:s, s:s}", "program", "weft-engine quantize", "type", j->o->type, "base", j->m->desc.digest);
    int rc = !meta ? err_set(e, ERR_NO_MEMORY, "no memory for the file's description") : source_pack(s, j->w, e);
    if (rc == 0) rc = put_all(j, e);
    if (rc == 0) rc = packed_writer_finish(j->w, meta, e);
    json_decref(meta);
    return rc;
}

/* --- the plan --- */

static const struct quant_type *type_of_ends(const struct quant_type *t)
{
    const struct quant_type *int8 = quant_type_find("int8");
    return !t || t->bits < int8->bits ? int8 : t;
}

static int make_plan(struct job *j, struct err *e)
{
    const struct quant_type *t = quant_type_find(j->o->type);
    bool chosen = strcmp(j->o->type, "auto") == 0;
    j->plan.layer = calloc((size_t)j->m->layers, sizeof(const struct quant_type *));
    if (!j->plan.layer) return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", j->m->layers);
    j->plan.ends = type_of_ends(t);
    for (int l = 0; l < j->m->layers; l++) j->plan.layer[l] = t;
    return chosen ? quantize_choose(j->o, j->m, &j->plan, e) : 0;
}

static int check(const struct quantize_options *o, struct err *e)
{
    struct stat out;
    if (strcmp(o->type, "auto") != 0 && !quant_type_find(o->type))
        return err_set(e, ERR_USAGE, "no such type: '%s' (bf16, int8, int4, nf4, fp4, mxfp4, mxfp8, int2 or auto)",
                       o->type);
    if (packed_check_other(o->in, o->out, e)) return -1;
    if (stat(o->out, &out) == 0 && !S_ISREG(out.st_mode))
        return err_set(e, ERR_USAGE, "%s is no file that could be replaced", o->out);
    return 0;
}

int quantize(const struct quantize_options *o, struct err *e)
{
    struct job j = {.o = o};
    struct model *m = NULL;
    struct source *s = NULL;
    int rc = check(o, e);
    if (rc == 0) rc = packed_writer_new(&j.w, o->out, e); /* first, for what follows takes minutes */
    if (rc == 0) rc = model_load(&m, o->in, NULL, PREC_FAST, 0, e);
    j.m = m;
    if (rc == 0) rc = make_plan(&j, e);
    if (rc == 0) rc = source_open(&s, o->in, e);
    if (rc == 0) rc = write_file(&j, s, e);
    if (rc == 0)
        log_info("quantized", LS("file", o->out), LS("type", o->type), LI("bytes_before", (int64_t)j.before),
                 LI("bytes_after", (int64_t)j.after));
    packed_writer_free(j.w);
    free((void *)j.plan.layer);
    source_close(s);
    model_free(m);
    return rc;
}
