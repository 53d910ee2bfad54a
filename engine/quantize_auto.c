/* quantize_auto: the cheapest type per layer within a divergence that the operator allows.
 *
 *   1. the unquantized model's predictions on the text are the reference; 8-bit ends alone cost `base`
 *   2. each layer alone is quantized to each candidate type: what it adds to `base`, and the bytes it saves
 *   3. steps to smaller types are taken in the order of divergence per byte saved, while the sum stays within the budget
 *   4. the whole plan is measured, the budget moved by how far the limit was missed, and 3 repeated; of the plans that
 *      keep to the limit the smallest is taken
 *
 * Idea: with one layer changed at a time, divergences nearly add up, so that n layers of k types cost n k measurements
 * and not k^n. The last measurement is what counts: a plan that does not keep to the limit is never returned.
 *
 * The trial model shares everything with the loaded one but its table of layers; a layer's matrices are swapped in and
 * out between passes. Embedding and head are 8-bit in every plan. */
#include "base/log.h"
#include "engine/evaluate.h"
#include "engine/quantize.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 6 /* budgets tried */
#define CONTEXT 256
#define BUDGET_STEP 3.0 /* by which the budget moves at most between two rounds */

static const char *const candidates[] = {"int8", "int4", "int2"}; /* large to small */
#define CANDIDATES ((int)(sizeof candidates / sizeof *candidates))

struct cost {
    double kl;
    size_t bytes; /* of the layer's matrices */
};

struct chooser {
    const struct quantize_options *o;
    const struct model *m;
    struct model trial;
    struct evaluator *reference, *v;
    struct tokens text;
    struct cost (*cost)[1 + CANDIDATES]; /* [layers]; 0: as loaded */
    int *level, *best;                   /* [layers] 0: as loaded, 1 + index of a candidate */
    size_t best_bytes;                   /* SIZE_MAX: no plan was found yet */
    double base;                         /* divergence with no layer changed */
};

/* --- a layer's matrices --- */

static size_t layer_bytes(const struct model *m, const struct model_layer *l)
{
    size_t n = 0;
    for (int i = 0; i < LORA_MODULES; i++) n += l->module[i].bytes;
    for (int x = 0; l->expert && x < m->experts; x++)
        for (int i = 0; i < 3; i++) n += l->expert[x].part[i].bytes;
    return n;
}

static int pack_one(const struct weight *from, const struct quant_type *t, struct weight *to, struct err *e)
{
    struct weight_source src;
    if (!from->n || !quantize_shrinks(from, t)) return 0; /* stays as it is: to is a copy of it */
    quantize_source(from, &src);
    return weight_quantize(to, t, &src, NULL, e);
}

static void close_one(const struct weight *from, struct weight *to)
{
    if (to->data != from->data) weight_close(to);
}

static void restore(struct chooser *c, int layer)
{
    const struct model_layer *from = &c->m->layer[layer];
    struct model_layer *to = &c->trial.layer[layer];
    for (int i = 0; i < LORA_MODULES; i++) close_one(&from->module[i], &to->module[i]);
    for (int x = 0; to->expert != from->expert && x < c->m->experts; x++)
        for (int i = 0; i < 3; i++) close_one(&from->expert[x].part[i], &to->expert[x].part[i]);
    if (to->expert != from->expert) free(to->expert);
    *to = *from;
}

static int copy_experts(const struct chooser *c, struct model_layer *to, struct err *e)
{
    size_t bytes = (size_t)c->m->experts * sizeof *to->expert;
    struct model_expert *own = malloc(bytes);
    if (!own) return err_set(e, ERR_NO_MEMORY, "no memory for %d experts", c->m->experts);
    memcpy(own, to->expert, bytes);
    to->expert = own;
    return 0;
}

static int swap_in(struct chooser *c, int layer, int level, struct err *e)
{
    restore(c, layer);
    if (level == 0) return 0;
    const struct quant_type *t = quant_type_find(candidates[level - 1]);
    const struct model_layer *from = &c->m->layer[layer];
    struct model_layer *to = &c->trial.layer[layer];
    for (int i = 0; i < LORA_MODULES; i++)
        if (pack_one(&from->module[i], t, &to->module[i], e)) return -1;
    if (!from->expert) return 0;
    if (copy_experts(c, to, e)) return -1;
    for (int x = 0; x < c->m->experts; x++)
        for (int i = 0; i < 3; i++)
            if (pack_one(&from->expert[x].part[i], t, &to->expert[x].part[i], e)) return -1;
    return 0;
}

/* --- measuring --- */

static double mean_kl(struct chooser *c)
{
    struct eval_result r;
    evaluate(c->v, c->reference, c->text.id, (int)c->text.n, &r);
    double kl = r.kl / (double)r.tokens;
    return isfinite(kl) ? kl : INFINITY;
}

static int measure_layer(struct chooser *c, int layer, struct err *e)
{
    for (int level = 0; level <= CANDIDATES; level++) {
        if (swap_in(c, layer, level, e)) return -1;
        struct cost *cost = &c->cost[layer][level];
        cost->bytes = layer_bytes(c->m, &c->trial.layer[layer]);
        cost->kl = level ? fmax(mean_kl(c) - c->base, 0) : 0;
    }
    restore(c, layer);
    log_info("layer_measured", LI("layer", layer), LD("kl_int8", c->cost[layer][1].kl),
             LD("kl_int4", c->cost[layer][2].kl), LD("kl_int2", c->cost[layer][3].kl));
    return 0;
}

/* --- choosing --- */

struct step {
    int layer, to;
    double kl;
    double price; /* divergence per byte saved */
};

/* The best step down from where the layers stand, of those that the budget allows; false: none. */
static bool best_step(const struct chooser *c, double left, struct step *best)
{
    bool found = false;
    for (int l = 0; l < c->m->layers; l++)
        for (int to = c->level[l] + 1; to <= CANDIDATES; to++) {
            const struct cost *a = &c->cost[l][c->level[l]], *b = &c->cost[l][to];
            if (b->bytes >= a->bytes) continue;
            double kl = b->kl - a->kl, price = kl / (double)(a->bytes - b->bytes);
            if (kl > left || (found && price >= best->price)) continue;
            *best = (struct step){l, to, kl, price};
            found = true;
        }
    return found;
}

static void take_steps(struct chooser *c, double budget)
{
    struct step s;
    memset(c->level, 0, (size_t)c->m->layers * sizeof *c->level);
    while (best_step(c, budget, &s)) {
        c->level[s.layer] = s.to;
        budget -= s.kl;
    }
}

static int apply(struct chooser *c, double *kl, struct err *e)
{
    for (int l = 0; l < c->m->layers; l++)
        if (swap_in(c, l, c->level[l], e)) return -1;
    *kl = mean_kl(c);
    for (int l = 0; l < c->m->layers; l++) restore(c, l);
    return 0;
}

static size_t plan_bytes(const struct chooser *c)
{
    size_t n = 0;
    for (int l = 0; l < c->m->layers; l++) n += c->cost[l][c->level[l]].bytes;
    return n;
}

static void keep_if_best(struct chooser *c)
{
    size_t bytes = plan_bytes(c);
    if (bytes >= c->best_bytes) return;
    c->best_bytes = bytes;
    memcpy(c->best, c->level, (size_t)c->m->layers * sizeof *c->best);
}

static int settle(struct chooser *c, struct err *e)
{
    double limit = c->o->max_kl, budget = limit - c->base, kl;
    if (budget < 0)
        return err_set(e, ERR_USAGE, "a mean KL of %g cannot be kept: 8-bit embeddings alone give %g", limit, c->base);
    keep_if_best(c); /* nothing changed */
    for (int round = 0; round < ROUNDS; round++) {
        take_steps(c, budget);
        if (apply(c, &kl, e)) return -1;
        log_info("plan_measured", LD("kl", kl), LD("budget", budget), LD("limit", limit),
                 LI("bytes", (int64_t)plan_bytes(c)));
        if (kl <= limit) keep_if_best(c);
        double miss = (limit - c->base) / fmax(kl - c->base, 1e-9);
        budget *= fmin(fmax(0.97 * miss, 1.0 / BUDGET_STEP), BUDGET_STEP);
    }
    return 0;
}

/* --- whole --- */

static int prepare(struct chooser *c, struct err *e)
{
    const struct quantize_options *o = c->o;
    const struct model *m = c->m;
    const struct kernels *k = kernels_pick(o->kernels, m->prec);
    int context = m->max_context < CONTEXT ? m->max_context : CONTEXT;
    if (!k) return err_set(e, ERR_USAGE, "kernels '%s' cannot run on this machine", o->kernels);
    if (!o->text || !*o->text) return err_set(e, ERR_USAGE, "--type auto needs --text FILE to measure on");
    c->trial = *m;
    c->trial.act_forms = ACT_BF16 | ACT_Q8;
    c->trial.bf16_for_adapters = false;
    c->trial.layer = malloc((size_t)m->layers * sizeof *c->trial.layer);
    c->cost = calloc((size_t)m->layers, sizeof *c->cost);
    c->level = calloc((size_t)m->layers, sizeof *c->level);
    c->best = calloc((size_t)m->layers, sizeof *c->best);
    c->best_bytes = SIZE_MAX;
    if (!c->trial.layer || !c->cost || !c->level || !c->best)
        return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", m->layers);
    memcpy(c->trial.layer, m->layer, (size_t)m->layers * sizeof *c->trial.layer);
    if (eval_read_text(m->tok, o->text, o->tokens, &c->text, e)) return -1;
    if (evaluator_new(&c->reference, m, k, o->threads, context, e)) return -1;
    return evaluator_new(&c->v, &c->trial, k, o->threads, context, e);
}

static int pack_ends(struct chooser *c, const struct quant_type *ends, struct err *e)
{
    const struct model *m = c->m;
    if (!ends) return 0;
    if (pack_one(&m->embed, ends, &c->trial.embed, e)) return -1;
    if (m->head == &m->head_own && pack_one(&m->head_own, ends, &c->trial.head_own, e)) return -1;
    return 0;
}

int quantize_choose(const struct quantize_options *o, const struct model *m, struct quantize_plan *plan, struct err *e)
{
    struct chooser c = {.o = o, .m = m};
    int rc = prepare(&c, e);
    c.trial.head = m->head == &m->embed ? &c.trial.embed : &c.trial.head_own;
    if (rc == 0) rc = pack_ends(&c, plan->ends, e);
    if (rc == 0) c.base = mean_kl(&c);
    for (int l = 0; rc == 0 && l < m->layers; l++) rc = measure_layer(&c, l, e);
    if (rc == 0) rc = settle(&c, e);
    for (int l = 0; rc == 0 && l < m->layers; l++)
        plan->layer[l] = c.best[l] ? quant_type_find(candidates[c.best[l] - 1]) : NULL;
    for (int l = 0; c.trial.layer && l < m->layers; l++) restore(&c, l);
    evaluator_free(c.v);
    evaluator_free(c.reference);
    close_one(&m->embed, &c.trial.embed);
    if (c.trial.head_own.data) close_one(&m->head_own, &c.trial.head_own);
    free(c.trial.layer);
    free(c.cost);
    free(c.level);
    free(c.best);
    free(c.text.id);
    return rc;
}
