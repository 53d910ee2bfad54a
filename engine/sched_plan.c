/* sched_plan: which rows the next step computes.
 *
 * Idea: a sequence is its tokens and a mark `done`: positions before it are in the KV cache. What it needs next is always the tokens from
 * `done` on: a whole prompt when it is new, one token when it decodes, everything again when it was preempted. So there is one way to plan,
 * and a resumed sequence takes the same road as a new one.
 *
 *   1. pages: each running sequence, oldest first, gets the page for its next token; when none is free the youngest is preempted
 *   2. preempted sequences come back, oldest first; then ready ones by turn, while there are places and pages
 *   3. rows: one for every sequence that lacks one token, then chunks of the others, oldest first, up to step_tokens
 *   4. order: base rows first, then by adapter slot, so that rows of one adapter are one segment
 *
 * Guarantees: a sequence in prefill holds the pages of all its tokens, so two prompts can't block each other halfway; the oldest is never
 * preempted while others run, and sched_submit() refuses what the whole pool can't hold, so the oldest always gets through; prefill takes
 * only the rows that decoding leaves.
 *
 * Step thread, with the lock held. */
#include "base/clock.h"
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <stdlib.h>

int plan_init(struct plan *p, const struct sched_options *o, struct err *e)
{
    size_t n = (size_t)o->max_running;
    *p = (struct plan){.part = calloc(n, sizeof *p->part),
                       .token = calloc((size_t)o->step_tokens, sizeof *p->token),
                       .seq = calloc(n, sizeof *p->seq),
                       .seg = calloc(n, sizeof *p->seg),
                       .logit_row = calloc(n, sizeof *p->logit_row),
                       .logit_gen = calloc(n, sizeof *p->logit_gen),
                       .sample = calloc(n, sizeof *p->sample),
                       .sample_rc = calloc(n, sizeof *p->sample_rc)};
    if (p->part && p->token && p->seq && p->seg && p->logit_row && p->logit_gen && p->sample && p->sample_rc) return 0;
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
    free(p->logit_gen);
    free(p->sample);
    free(p->sample_rc);
    *p = (struct plan){0};
}

/* --- pages --- */

static void preempt(struct sched *s, struct gen *g)
{
    kv_seq_release(&s->kv, &g->kv);
    g->done = 0;
    queue_move(g, PLACE_PREEMPTED);
    s->preemptions++;
    note_add(s, M_PREEMPTIONS, NULL, 1);
}

static void grow_running(struct sched *s)
{
    for (struct gen *g = s->running.first, *next; g; g = next) {
        bool stays = true;
        while (stays && !kv_seq_reserve(&s->kv, &g->kv, g->nids)) {
            struct gen *youngest = s->running.last;
            stays = youngest != g;
            preempt(s, youngest);
        }
        if (!stays) break; /* g was the last */
        next = g->next;
    }
}

/* Newcomers leave some pages to those who run, or they would be preempted at the next page's edge. */
static bool has_pages(const struct sched *s, const struct gen *g)
{
    int spare = s->running.n ? 1 + s->running.n / 8 : 0;
    return s->kv.nfree >= kv_pages_of(g->nids) + spare;
}

static bool start(struct sched *s, struct gen *g)
{
    if (s->running.n >= s->o.max_running || !has_pages(s, g)) return false;
    if (!kv_seq_reserve(&s->kv, &g->kv, g->nids)) return false;
    queue_move(g, PLACE_RUNNING);
    return true;
}

static void admit(struct sched *s)
{
    while (s->preempted.first)
        if (!start(s, s->preempted.first)) return;
    for (struct gen *g; (g = queue_next(s));) {
        g->stamp = s->stamps + 1;
        if (!start(s, g)) return;
        s->stamps++;
        g->admitted_us = clock_mono_us();
        queue_charge(g, COST_PROMPT * g->nprompt);
    }
}

/* --- rows --- */

static void add_part(struct plan *p, struct gen *g, int rows)
{
    p->part[p->nparts++] = (struct part){g, rows};
    p->rows += rows;
    if (g->nout == 0 || rows > 1) p->prefill_rows += rows;
}

static void share_rows(struct sched *s, struct plan *p)
{
    for (struct gen *g = s->running.first; g; g = g->next)
        if (g->nids - g->done == 1) add_part(p, g, 1);
    for (struct gen *g = s->running.first; g && p->rows < s->o.step_tokens; g = g->next) {
        int missing = g->nids - g->done, left = s->o.step_tokens - p->rows;
        if (missing > 1) add_part(p, g, missing < left ? missing : left);
    }
}

static int slot_of(const struct gen *g)
{
    return g->slot ? g->slot->id : -1;
}

static int by_adapter(const void *x, const void *y)
{
    const struct gen *a = ((const struct part *)x)->g, *b = ((const struct part *)y)->g;
    int sa = slot_of(a), sb = slot_of(b);
    if (sa != sb) return sa < sb ? -1 : 1;
    return a->stamp < b->stamp ? -1 : a->stamp > b->stamp;
}

static void add_segment(struct plan *p, const struct gen *g, int row0, int rows)
{
    if (!g->slot) return;
    struct lora_batch *l = &p->batch.lora;
    if (l->nseg > 0 && p->seg[l->nseg - 1].use[0].t == &g->slot->table) {
        p->seg[l->nseg - 1].rows += rows;
        return;
    }
    p->seg[l->nseg++] = (struct lora_seg){.row0 = row0, .rows = rows, .nuse = 1, .use = {{&g->slot->table, 1}}};
    if (g->slot->max_rank > p->batch.max_rank) p->batch.max_rank = g->slot->max_rank;
}

static void fill(struct plan *p)
{
    int row = 0;
    for (int i = 0; i < p->nparts; i++) {
        struct gen *g = p->part[i].g;
        int rows = p->part[i].rows;
        for (int j = 0; j < rows; j++) p->token[row + j] = g->ids[g->done + j];
        p->seq[i] = (struct attn_seq){.row0 = row, .rows = rows, .pos0 = g->done, .page = g->kv.page};
        add_segment(p, g, row, rows);
        row += rows;
        if (g->done + rows < g->nids) continue;
        p->logit_row[p->nlogits] = row - 1;
        p->logit_gen[p->nlogits++] = g;
    }
}

bool plan_make(struct sched *s)
{
    struct plan *p = &s->plan;
    grow_running(s);
    admit(s);
    p->nparts = p->rows = p->nlogits = p->prefill_rows = 0;
    p->batch = (struct forward_batch){
        .token = p->token, .seq = p->seq, .logit_row = p->logit_row, .lora = {.seg = p->seg, .modules = LORA_MODULES}};
    share_rows(s, p);
    if (p->nparts == 0) return false;
    qsort(p->part, (size_t)p->nparts, sizeof *p->part, by_adapter);
    fill(p);
    p->adapters = p->batch.lora.nseg;
    p->batch.rows = p->rows;
    p->batch.nseq = p->nparts;
    p->batch.nlogits = p->nlogits;
    return true;
}
