/* sched_plan: which rows the next step computes.
 *
 * Idea: a sequence is its tokens and a mark `done`: positions before it are in the KV cache. What it needs next is always the tokens from
 * `done` on: a whole prompt when it is new, one token when it decodes, everything again when it was preempted. So there is one way to plan,
 * and a resumed sequence takes the same road as a new one.
 *
 *   1. pages and places: sched_room.c
 *   2. rows: one for every sequence that lacks one token, with those that were guessed behind it; then chunks of the others (sched_budget.c),
 *      but for those whose next page is computed by one before them
 *   3. order: base rows first, then by adapters, so that rows of equal adapters are one segment
 *
 * Guarantees: prefill takes only the rows that decoding leaves; guesses take only pages that nobody has to give up. Logits are one per
 * sequence and SCHED_EXTRA.
 *
 * Step thread, with the lock held. */
#include "engine/sched_impl.h"
#include <stdlib.h>

#define MASKS_US 2000 /* of a step, for each thread: masks of grammars that are not known yet */
#define MASK_US 500   /* what one is taken to cost before there was one */

int plan_init(struct plan *p, const struct sched_options *o, struct err *e)
{
    size_t n = (size_t)o->max_running, logits = n + SCHED_EXTRA;
    *p = (struct plan){.part = calloc(n, sizeof *p->part),
                       .token = calloc((size_t)o->step_tokens, sizeof *p->token),
                       .seq = calloc(n + SPEC_SEQUENCES * MEDUSA_NODES_MAX, sizeof *p->seq),
                       .seg = calloc(n * GEN_ADAPTERS, sizeof *p->seg),
                       .logit_row = calloc(logits, sizeof *p->logit_row),
                       .choice = calloc(logits, sizeof *p->choice),
                       .job = calloc(logits, sizeof *p->job),
                       .sample = calloc(logits, sizeof *p->sample)};
    if (p->part && p->token && p->seq && p->seg && p->logit_row && p->choice && p->job && p->sample) return 0;
    plan_close(p);
    return err_set(e, ERR_NO_MEMORY, "no memory to plan steps of %d sequences", o->max_running);
}

void plan_close(struct plan *p)
{
    free(p->part);
    free(p->token);
    free(p->seq);
    free(p->seg);
    free(p->logit_row);
    free(p->choice);
    free(p->job);
    free(p->sample);
    free(p->table);
    *p = (struct plan){0};
}

/* --- rows --- */

static void add_part(struct plan *p, struct gen *g, int rows, int drafts, int given)
{
    struct part *a = &p->part[p->nparts++];
    *a = (struct part){.g = g, .pos0 = g->done, .rows = rows, .drafts = drafts, .given = given};
    p->rows += rows + drafts;
    p->draft_rows += drafts;
    p->extra += drafts + given;
    bool prompt = g->nout == 0 || rows > 1;
    if (prompt) p->prefill_rows += rows;
    budget_note_part(p, a, prompt);
}

void plan_add_next(struct plan *p, struct gen *g, int logit)
{
    struct part *a = &p->part[p->nparts++];
    *a = (struct part){.g = g, .pos0 = g->nids, .rows = 1, .chooses = true, .token = TOKEN_CHOSEN(logit)};
    p->rows++;
    budget_note_part(p, a, false);
}

static int min_of(int a, int b)
{
    return a < b ? a : b;
}

/* `left`: rows of the step that nobody needs. */
static int drafts_of(struct sched *s, struct gen *g, int left, struct tree **tree)
{
    int n = min_of(min_of(g->spec.n, left), SCHED_EXTRA - s->plan->extra);
    g->spec.n = 0;
    if (n > 0 && g->spec.tree) return (*tree = tree_open(s, s->plan, g, n)) ? n : 0;
    return n > 0 && kv_seq_reserve(&s->kv, &g->kv, g->nids + n) ? n : 0;
}

/* Prompt tokens whose logits stand among the next rows; with too few places for logits the rows become fewer. */
static int given_of(const struct plan *p, const struct gen *g, int *rows)
{
    int first = g->told - 1, room = SCHED_EXTRA - p->extra; /* position `first` tells token `told` */
    int n = min_of(g->done + *rows, g->nprompt - 1) - first;
    if (g->told >= g->nprompt || n <= 0) return 0;
    if (n <= room) return n;
    *rows = first + room - g->done;
    return room;
}

static bool wants_mask(const struct gen *g)
{
    return g->grammar && g->nids - g->done == 1 && !grammar_mask_known(g->grammar);
}

/* Masks that are not known yet take up to milliseconds each, and everybody waits for the step: there is time for some of
 * them, in turn, for one at least; who gets none sits the step out. What one takes is what its last one took. */
static void deal_masks(struct sched *s)
{
    int64_t left = (int64_t)MASKS_US * pool_threads(s->pool);
    uint64_t after = s->masked;
    for (struct gen *g = s->running.first; g; g = g->next) g->sits_out = wants_mask(g);
    for (int round = 0; round < 2; round++)
        for (struct gen *g = s->running.first; g && left > 0; g = g->next) {
            if (!g->sits_out || (g->stamp > after) != (round == 0)) continue;
            g->sits_out = false;
            s->masked = g->stamp;
            left -= g->mask_us ? g->mask_us : MASK_US;
        }
}

static void add_decode(struct sched *s, struct plan *p)
{
    int ones = 0;
    deal_masks(s);
    for (struct gen *g = s->running.first; g; g = g->next) ones += g->nids - g->done == 1;
    for (struct gen *g = s->running.first; g; g = g->next) {
        if (g->nids - g->done != 1) continue;
        ones--;
        if (g->sits_out) continue;
        struct tree *tree = NULL;
        int rows = 1, drafts = drafts_of(s, g, s->o.step_tokens - p->rows - 1 - ones, &tree), given = given_of(p, g, &rows);
        if (!rows) continue;
        add_part(p, g, rows, drafts, given);
        p->part[p->nparts - 1].tree = tree;
    }
}

void plan_add_prompt(struct sched *s, struct gen *g, int rows)
{
    rows = min_of(rows, g->kv.npages * KV_PAGE - g->done); /* fewer where the prefix cache brought it on in this step (sched_evict.c) */
    int given = given_of(s->plan, g, &rows);
    if (rows > 0) add_part(s->plan, g, rows, 0, given);
}

static void share_rows(struct sched *s, struct plan *p)
{
    for (struct gen *g = s->running.first; g; g = g->next)
        if (g->nids - g->done > 1) queue_charge(g, -COST_PROMPT * prefix_catch_up(s, g));
    if (budget_express(s)) return;
    add_decode(s, p);
    budget_prompts(s);
}

static int by_adapters(const void *x, const void *y)
{
    const struct gen *a = ((const struct part *)x)->g, *b = ((const struct part *)y)->g;
    int order = rows_compare(a, b);
    if (order) return order;
    return a->stamp < b->stamp ? -1 : a->stamp > b->stamp;
}

static void add_job(struct plan *p, struct gen *g, int row, int n, int given)
{
    p->job[p->njobs++] = (struct job){.g = g, .logit = p->nlogits, .n = n, .given = given};
    for (int i = 0; i < n; i++) p->logit_row[p->nlogits++] = row + i;
}

static void add_jobs(struct plan *p, struct part *a, int row)
{
    struct gen *g = a->g;
    a->job0 = p->njobs;
    for (int i = 0; i < a->given; i++) add_job(p, g, row + g->told - 1 - a->pos0 + i, 1, g->told + i);
    a->chooses = a->pos0 + a->rows >= g->nids;
    if (!a->chooses) return;
    add_job(p, g, row + a->rows - 1, 1 + a->drafts, 0);
    p->job[p->njobs - 1].tree = a->tree ? a->tree->shape : NULL;
}

/* Returns how many. */
static int add_seqs(struct plan *p, const struct part *a, int row)
{
    struct attn_seq *out = &p->seq[p->batch.nseq];
    if (a->tree) return tree_fill(p, a->tree, row, out);
    *out = (struct attn_seq){.row0 = row, .rows = a->rows + a->drafts, .pos0 = a->pos0, .page = a->g->kv.page};
    return 1;
}

static void fill(struct plan *p)
{
    int row = 0;
    p->batch.nseq = 0;
    for (int i = 0; i < p->nparts; i++) {
        struct part *a = &p->part[i];
        struct gen *g = a->g;
        int rows = a->rows + a->drafts;
        for (int j = 0; j < rows; j++) p->token[row + j] = p->follows ? a->token : g->ids[a->pos0 + j];
        p->batch.nseq += add_seqs(p, a, row);
        rows_add_segments(p, a, row);
        add_jobs(p, a, row);
        row += rows;
    }
}

void plan_clear(struct plan *p, bool follows)
{
    p->follows = follows;
    p->ntrees = 0;
    p->nparts = p->rows = p->njobs = p->nlogits = p->prefill_rows = p->draft_rows = 0;
    p->extra = p->chosen = p->accepted = p->discarded = 0;
    p->shape = (struct step_shape){0};
    p->batch = (struct forward_batch){
        .token = p->token, .copy = p->copy, .seq = p->seq, .logit_row = p->logit_row, .lora = {.seg = p->seg, .modules = LORA_MODULES}};
}

void plan_settle(struct sched *s, struct plan *p)
{
    budget_note_ranks(s, p);
    p->estimate_us = cost_of(&s->cost, &p->shape);
    qsort(p->part, (size_t)p->nparts, sizeof *p->part, by_adapters);
    fill(p);
    p->adapters = p->batch.lora.nseg;
    p->batch.rows = p->rows;
    p->batch.nlogits = p->nlogits;
}

bool plan_make(struct sched *s)
{
    struct plan *p = s->plan;
    room_grow(s);
    room_admit(s);
    plan_clear(p, false);
    share_rows(s, p);
    if (p->nparts == 0) return false;
    plan_settle(s, p);
    return true;
}
