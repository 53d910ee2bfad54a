/* sched_draft: guesses of a second, smaller model of the same vocabulary.
 *
 * Idea: it follows the sequences that ask for guesses with a KV cache of its own, without adapters. One call catches up with what was
 * chosen since, then goes on greedily, token by token, all sequences in one batch. What was guessed wrongly is overwritten: `spec.done` is
 * put back by spec_learn().
 *
 * Guarantees: one call is at most one pass of catching up and one pass per guess; a long prompt is caught up in chunks over several steps,
 * during which it gets no guesses. Where the small pool has no page, or the draft model's context ends, there are none either.
 *
 * Step thread, without the lock. */
#include "engine/sched_impl.h"
#include <assert.h>
#include <stdlib.h>

#define SEQUENCES SPEC_SEQUENCES /* whole contexts that the pool holds */
#define BYTES_MAX (1LL << 30)

struct draft {
    struct sched *s;
    const struct model *m;
    struct kv_pool kv;
    struct forward *f;
    int max_rows;
    int32_t *token; /* [max_rows] */
    /* the pass that runs */
    struct attn_seq seq[SEQUENCES];
    int nseq, rows, nlogits, logit_row[SEQUENCES];
    struct gen *of[SEQUENCES];     /* of each logit */
    struct sample best[SEQUENCES]; /* the same */
    bool finite[SEQUENCES];
};

int draft_new(struct draft **out, struct sched *s, struct err *e)
{
    const struct model *m = s->o.draft;
    if (m->vocab != s->m->vocab)
        return err_set(e, ERR_USAGE, "the draft model has %d tokens, the model %d: they must be the same", m->vocab,
                       s->m->vocab);
    const struct kernels *k = kernels_pick(s->o.kernels, m->prec);
    struct draft *d = calloc(1, sizeof *d);
    if (!k || !d) {
        free(d);
        return err_set(e, ERR_NO_MEMORY, "no memory for the draft model");
    }
    *d = (struct draft){.s = s, .m = m, .max_rows = s->o.step_tokens < SEQUENCES ? SEQUENCES : s->o.step_tokens};
    int context = m->max_context < s->m->max_context ? m->max_context : s->m->max_context;
    int64_t page = (int64_t)kv_bytes_of(m, kv_type_of(m->prec));
    int64_t bytes = page * kv_pages_of(context) * SEQUENCES;
    d->token = calloc((size_t)d->max_rows, sizeof *d->token);
    if (!d->token)
        err_set(e, ERR_NO_MEMORY, "no memory for the draft model");
    else if (kv_pool_init(&d->kv, m,
                          bytes < BYTES_MAX  ? bytes
                          : BYTES_MAX > page ? BYTES_MAX
                                             : page,
                          1, e) == 0 &&
             forward_new(&d->f, m, k, s->pool, &d->kv.cache, d->max_rows, SEQUENCES, 1, e) == 0) {
        *out = d;
        return 0;
    }
    draft_free(d);
    return -1;
}

void draft_free(struct draft *d)
{
    if (!d) return;
    forward_free(d->f);
    if (d->kv.cache.base) kv_pool_close(&d->kv);
    free(d->token);
    free(d);
}

void draft_release(struct draft *d, struct gen *g)
{
    kv_seq_release(&d->kv, &g->spec.kv);
    g->spec.done = 0;
}

/* On every thread of the pool. */
static void pick_best(struct kthread *t, void *u, const float *logits)
{
    static const struct sample_params greedy = {.top_p = 1, .logprobs = -1};
    struct draft *d = u;
    const struct sample_input in = {.p = &greedy};
    pool_claim_begin(t);
    for (int i; (i = pool_claim(t, d->nlogits, 1)) >= 0;)
        d->finite[i] =
            sample_token(d->s->sampler[t->id], logits + (size_t)i * (size_t)d->m->vocab, &in, &d->best[i]) == 0;
}

/* The next rows of one sequence: all that its cache lacks, as far as the pass has room. */
static void add(struct draft *d, struct gen *g)
{
    int all = g->nids + g->spec.n, missing = all - g->spec.done, room = d->max_rows - d->rows;
    int rows = missing < room ? missing : room;
    if (rows <= 0) return;
    for (int i = 0; i < rows; i++) d->token[d->rows + i] = g->ids[g->spec.done + i];
    d->seq[d->nseq++] = (struct attn_seq){.row0 = d->rows, .rows = rows, .pos0 = g->spec.done, .page = g->spec.kv.page};
    d->rows += rows;
    g->spec.done += rows;
    if (g->spec.done < all) return;
    d->logit_row[d->nlogits] = d->rows - 1;
    d->of[d->nlogits++] = g;
}

static void run_pass(struct draft *d)
{
    const struct forward_batch b = {.rows = d->rows,
                                    .token = d->token,
                                    .nseq = d->nseq,
                                    .seq = d->seq,
                                    .nlogits = d->nlogits,
                                    .logit_row = d->logit_row,
                                    .after = pick_best,
                                    .u = d};
    forward_run(d->f, &b);
    for (int i = 0; i < d->nlogits; i++) {
        struct gen *g = d->of[i];
        if (d->finite[i]) g->ids[g->nids + g->spec.n++] = d->best[i].id;
    }
}

static bool has_room(struct draft *d, struct gen *g, int want)
{
    return g->nids + want <= d->m->max_context && kv_seq_reserve(&d->kv, &g->spec.kv, g->nids + want);
}

void draft_guess(struct draft *d, struct gen *const *g, const int *want, int n)
{
    bool fits[SEQUENCES];
    assert(n <= SEQUENCES);
    for (int i = 0; i < n; i++) fits[i] = has_room(d, g[i], want[i]);
    for (int pass = 0; pass < SPECULATE_MAX; pass++) {
        d->nseq = d->rows = d->nlogits = 0;
        for (int i = 0; i < n; i++) /* one that could not catch up in the first pass waits for the next step */
            if (fits[i] && g[i]->spec.n == pass && pass < want[i]) add(d, g[i]);
        if (d->rows == 0) return;
        run_pass(d);
    }
}
