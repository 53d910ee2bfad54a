/* sched_medusa: guesses of heads that read the base's own last hidden state (engine/medusa.h).
 *
 * Idea: the row from which a token was chosen has a hidden state, which the workspace still holds when the next step is
 * planned. The heads' blocks and one product with the lm_head turn it into candidates, for all sequences that ask at once. What
 * becomes rows of the step, and how they see each other, is sched_tree.c's.
 *
 * Guarantees: only the row from which a sequence's last token was chosen is read, in the pass right before (`pass`): after a
 * step without the sequence there are no guesses. With an adapter the hidden state is the adapter's, and heads and lm_head are
 * the base's, so that fewer guesses are right and none is trusted more for it.
 *
 * A sequence whose guesses bring fewer than GAIN_LEAST tokens a step on the average waits, each time twice as long.
 *
 * Step thread, without the lock. */
#include "engine/sched_impl.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SEQUENCES SPEC_SEQUENCES
#define GAIN_LEAST 0.3f  /* tokens a step: what the heads and the further rows cost, about */
#define GAIN_FIRST 1.0f  /* before anything is known */
#define GAIN_AGAIN 0.6f  /* after a pause */
#define GAIN_STEP 0.125f /* weight of the last step in the mean */
#define PAUSE_FIRST 8    /* tokens */
#define PAUSE_MAX 256

struct guesser {
    struct sched *s;
    const struct medusa *m;
    struct act in, h; /* [SEQUENCES][hidden]; [heads][SEQUENCES][hidden], the sequences of one head side by side */
    float *y;         /* as h */
    float *logits;    /* [heads][SEQUENCES][vocab] */
    /* the call that runs */
    int n, row[SEQUENCES];
    struct gen *of[SEQUENCES];
    int ranks; /* candidates that the trees have of a head, at most */
};

/* Of head k. */
static const struct weight *lm_head_of(const struct guesser *u, int k)
{
    const struct medusa *m = u->m;
    return m->own ? &m->own[k] : m->ntokens ? &m->few : u->s->m->head;
}

static int take_memory(struct guesser *u, struct err *e)
{
    const struct medusa *m = u->m;
    size_t rows = (size_t)m->heads * SEQUENCES;
    unsigned forms = weight_act_form(m->block[0].layout) | weight_act_form(lm_head_of(u, 0)->layout);
    int k = (m->hidden + GROUP - 1) / GROUP * GROUP;
    if (act_init(&u->in, SEQUENCES, k, forms, e) || act_init(&u->h, (int)rows, k, forms, e)) return -1;
    u->y = calloc(rows * (size_t)m->hidden, sizeof *u->y);
    u->logits = malloc(rows * (size_t)m->vocab * sizeof *u->logits);
    return u->y && u->logits ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the guesses of Medusa heads");
}

int guesser_new(struct guesser **out, struct sched *s, struct err *e)
{
    const struct medusa *m = s->o.medusa;
    if (m->hidden != s->m->hidden || m->vocab != s->m->vocab)
        return err_set(e, ERR_USAGE, "Medusa heads of hidden size %d and %d tokens beside a base of %d and %d",
                       m->hidden, m->vocab, s->m->hidden, s->m->vocab);
    struct guesser *u = calloc(1, sizeof *u);
    if (!u) return err_set(e, ERR_NO_MEMORY, "no memory for the guesses of Medusa heads");
    u->s = s;
    u->m = m;
    for (int n = 1; n <= MEDUSA_NODES_MAX; n++)
        for (int i = 0; i < n; i++)
            if (m->tree[n].node[i].rank >= u->ranks) u->ranks = m->tree[n].node[i].rank + 1;
    if (take_memory(u, e)) {
        guesser_free(u);
        return -1;
    }
    *out = u;
    return 0;
}

void guesser_free(struct guesser *u)
{
    if (!u) return;
    act_close(&u->in);
    act_close(&u->h);
    free(u->y);
    free(u->logits);
    free(u);
}

/* --- the heads, on every thread of the pool --- */

/* y = W h + b of layer i of all heads; of the first they all read `in`. */
static void products(struct guesser *u, struct kthread *t, int layer)
{
    const struct medusa *m = u->m;
    struct act at[MEDUSA_HEADS_MAX];
    struct mm mm[MEDUSA_HEADS_MAX];
    for (int k = 0; k < m->heads; k++) {
        size_t block = (size_t)(k * m->layers + layer);
        at[k] = layer ? act_rows(&u->h, k * u->n, u->n, m->hidden) : u->in;
        mm[k] = (struct mm){.in = &at[k], .rows = u->n, .nout = 1, .expert = -1};
        mm[k].out[0] = (struct mm_out){.w = &m->block[block],
                                       .y = u->y + (size_t)(k * u->n) * (size_t)m->hidden,
                                       .ldy = m->hidden,
                                       .bias = m->bias + block * (size_t)m->hidden,
                                       .module = MM_BASE};
    }
    u->s->kernels->matmul_list(t, mm, m->heads);
    pool_barrier(t);
}

static void lm_heads(struct guesser *u, struct kthread *t)
{
    const struct medusa *m = u->m;
    struct act at[MEDUSA_HEADS_MAX];
    struct mm mm[MEDUSA_HEADS_MAX];
    int n = m->own ? m->heads : 1, rows = m->own ? u->n : m->heads * u->n;
    for (int k = 0; k < n; k++) {
        at[k] = act_rows(&u->h, k * rows, rows, m->hidden);
        mm[k] = (struct mm){.in = &at[k], .rows = rows, .nout = 1, .expert = -1};
        const struct weight *w = lm_head_of(u, k);
        mm[k].out[0] =
            (struct mm_out){.w = w, .y = u->logits + (size_t)(k * rows) * (size_t)w->n, .ldy = w->n, .module = MM_BASE};
    }
    u->s->kernels->matmul_list(t, mm, n);
    pool_barrier(t);
}

/* The `ranks` largest, largest first; of equal ones the smaller id. */
static void best_of(const float *x, int n, int ranks, int32_t *id)
{
    float least, value[MEDUSA_RANKS];
    for (int i = 0; i < ranks; i++) value[i] = -INFINITY, id[i] = 0;
    least = value[ranks - 1];
    for (int i = 0; i < n; i++) {
        if (!(x[i] > least)) continue;
        int at = ranks - 1;
        for (; at > 0 && x[i] > value[at - 1]; at--) value[at] = value[at - 1], id[at] = id[at - 1];
        value[at] = x[i];
        id[at] = i;
        least = value[ranks - 1];
    }
}

static void choose_candidates(struct guesser *u, struct kthread *t)
{
    const struct model *base = u->s->m;
    const struct medusa *m = u->m;
    int width = lm_head_of(u, 0)->n,
        tokens = base->tokens > 0 ? base->tokens : base->vocab; /* what pads the embedding is never sampled */
    pool_claim_begin(t);
    for (int i; (i = pool_claim(t, m->heads * u->n, 1)) >= 0;) {
        int32_t *top = u->of[i % u->n]->spec.top[i / u->n];
        best_of(u->logits + (size_t)i * (size_t)width, m->ntokens ? m->ntokens : tokens, u->ranks, top);
        for (int r = 0; m->ntokens && r < u->ranks; r++) top[r] = m->token[top[r]];
    }
}

static void run_heads(struct kthread *t, void *arg)
{
    struct guesser *u = arg;
    forward_hidden(u->s->forward, t, u->row, u->n, &u->in);
    pool_barrier(t);
    for (int layer = 0; layer < u->m->layers; layer++) {
        products(u, t, layer);
        add_silu(t, layer ? u->h.x : u->in.x, layer ? u->m->heads * u->n : u->n, u->y, u->m->heads * u->n, u->m->hidden,
                 &u->h);
        pool_barrier(t);
    }
    lm_heads(u, t);
    choose_candidates(u, t);
}

/* --- who asks --- */

static bool has_state(const struct sched *s, const struct gen *g)
{
    return g->nids - g->done == 1 && g->nout > 0 && g->spec.pass == s->passes;
}

static int wanted(const struct sched *s, const struct gen *g)
{
    int left = g->p.max_tokens - g->nout - 1, share = (SPEC_ROWS - s->running.n) / s->running.n;
    int most = s->o.medusa_nodes < share ? s->o.medusa_nodes : share;
    return g->nout < g->spec.tree_again ? 0 : most < left ? most : left;
}

void guesser_guess(struct guesser *u, struct gen *const *g, int n)
{
    assert(n <= SEQUENCES);
    u->n = 0;
    for (int i = 0; i < n; i++) {
        int want = has_state(u->s, g[i]) ? wanted(u->s, g[i]) : 0;
        if (want <= 0) continue;
        g[i]->spec.n = want;
        g[i]->spec.tree = true;
        u->of[u->n] = g[i];
        u->row[u->n++] = g[i]->spec.row;
    }
    if (u->n) pool_run(u->s->pool, run_heads, u);
}

void guesser_learn(struct gen *g, int right)
{
    struct gen_spec *p = &g->spec;
    if (p->gain == 0) p->gain = GAIN_FIRST;
    p->gain += GAIN_STEP * ((float)right - p->gain);
    if (right) p->tree_pause = 0;
    if (p->gain >= GAIN_LEAST) return;
    p->tree_pause = p->tree_pause ? 2 * p->tree_pause : PAUSE_FIRST;
    if (p->tree_pause > PAUSE_MAX) p->tree_pause = PAUSE_MAX;
    p->tree_again = g->nout + p->tree_pause;
    p->gain = GAIN_AGAIN;
}
