/* evaluate: a text goes through a model window by window, and its predictions are scored.
 *
 * Idea: the same forward pass that serves requests, with logits asked for at every row. Logits are the bulk of the
 * memory, so a window goes through in parts of EVAL_ROWS rows whose keys and values stay in the window's pages. Two models
 * are compared by keeping the reference's rows of a part until the other one has made its own.
 *
 * All sums are made in double in the order of the text, so the result does not depend on threads. */
#include "engine/evaluate.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EVAL_ROWS 32               /* rows of logits held at a time */
#define EVAL_TEXT_MAX (256u << 20) /* bytes of a text file */

struct evaluator {
    const struct model *m;
    struct pool *pool;
    struct kv_pool kv;
    struct kv_seq seq;
    struct forward *forward;
    int context;
};

int evaluator_new(struct evaluator **out, const struct model *m, const struct kernels *k, int threads, int context,
                  struct err *e)
{
    return evaluator_new_as(out, m, k, kv_type_of(m->prec), threads, context, e);
}

int evaluator_new_as(struct evaluator **out, const struct model *m, const struct kernels *k, enum kv_type type, int threads, int context,
                     struct err *e)
{
    if (context < 2 || context > m->max_context)
        return err_set(e, ERR_USAGE, "a window of %d tokens: 2 to %d are served by %s", context, m->max_context,
                       m->name);
    struct evaluator *v = calloc(1, sizeof *v);
    if (!v) return err_set(e, ERR_NO_MEMORY, "no memory to evaluate");
    v->m = m;
    v->context = context;
    size_t page = kv_bytes_of(m, type);
    int64_t bytes = (int64_t)page * (kv_pages_of(context) + 1);
    if (pool_new(&v->pool, threads, e) || kv_pool_init_as(&v->kv, m, type, bytes, 1, e) || kv_seq_init(&v->seq, context, e) ||
        forward_new(&v->forward, m, k, v->pool, &v->kv.cache, EVAL_ROWS, EVAL_ROWS, 1, e)) {
        evaluator_free(v);
        return -1;
    }
    *out = v;
    return 0;
}

void evaluator_free(struct evaluator *v)
{
    if (!v) return;
    forward_free(v->forward);
    if (v->seq.page) {
        kv_seq_release(&v->kv, &v->seq);
        kv_seq_close(&v->seq);
    }
    if (v->kv.cache.base) kv_pool_close(&v->kv);
    if (v->pool) pool_free(v->pool);
    free(v);
}

/* --- one part --- */

/* Positions pos .. pos+rows-1 of the window: their logits, valid until the next part. */
static const float *run_part(struct evaluator *v, const int32_t *token, int pos, int rows)
{
    int logit_row[EVAL_ROWS];
    for (int i = 0; i < rows; i++) logit_row[i] = i;
    kv_seq_reserve(&v->kv, &v->seq, pos + rows); /* the pool has a page for each position of the window */
    struct attn_seq seq = {.row0 = 0, .rows = rows, .pos0 = pos, .page = v->seq.page};
    struct forward_batch b = {
        .rows = rows, .token = token + pos, .nseq = 1, .seq = &seq, .nlogits = rows, .logit_row = logit_row};
    return forward_run(v->forward, &b);
}

static int part_rows(int n, int pos)
{
    return n - pos < EVAL_ROWS ? n - pos : EVAL_ROWS;
}

void evaluator_window(struct evaluator *v, const int32_t *token, int n,
                      void (*see)(void *u, int first, int count, const float *logits), void *u)
{
    for (int pos = 0; pos < n - 1; pos += EVAL_ROWS) {
        int rows = part_rows(n - 1, pos);
        see(u, pos, rows, run_part(v, token, pos, rows));
    }
    kv_seq_release(&v->kv, &v->seq);
}

/* --- scores --- */

static double log_sum(const float *x, int n, double *max)
{
    double m = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        if ((double)x[i] > m) m = (double)x[i];
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - m);
    if (max) *max = m;
    return m + log(sum);
}

double eval_logprob(const float *logits, int n, int32_t id)
{
    return (double)logits[id] - log_sum(logits, n, NULL);
}

double eval_kl(const float *p, const float *q, int n)
{
    double zp = log_sum(p, n, NULL), zq = log_sum(q, n, NULL), kl = 0;
    for (int i = 0; i < n; i++) {
        double lp = (double)p[i] - zp;
        kl += exp(lp) * (lp - ((double)q[i] - zq));
    }
    return kl > 0 ? kl : 0;
}

double eval_perplexity(const struct eval_result *r)
{
    return r->tokens ? exp(r->nll / (double)r->tokens) : NAN;
}

static int best_of(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void compare_row(const float *p, const float *q, int n, struct eval_result *r)
{
    double kl = eval_kl(p, q, n);
    r->kl += kl;
    if (kl > r->kl_max) r->kl_max = kl;
    r->same_top += best_of(p, n) == best_of(q, n);
}

static int octave_of(int pos)
{
    int i = 0;
    while (i + 1 < EVAL_OCTAVES && pos >= EVAL_NEAR << i) i++;
    return i;
}

static void score_part(struct evaluator *v, struct evaluator *reference, const int32_t *token, int pos, int rows,
                       struct eval_result *r)
{
    int vocab = v->m->vocab, n = v->m->tokens ? v->m->tokens : vocab;
    const float *p = reference ? run_part(reference, token, pos, rows) : NULL;
    const float *q = run_part(v, token, pos, rows);
    for (int i = 0; i < rows; i++) {
        const float *row = q + (size_t)i * (size_t)vocab;
        double nll = -eval_logprob(row, n, token[pos + i + 1]);
        int octave = octave_of(pos + i);
        r->nll += nll;
        r->octave[octave].nll += nll;
        r->octave[octave].tokens++;
        if (p) compare_row(p + (size_t)i * (size_t)vocab, row, n, r);
        r->tokens++;
    }
}

void evaluate(struct evaluator *v, struct evaluator *reference, const int32_t *token, int n, struct eval_result *out)
{
    *out = (struct eval_result){0};
    for (int at = 0; at + 1 < n; at += v->context) {
        int len = n - at < v->context ? n - at : v->context;
        for (int pos = 0; pos < len - 1; pos += EVAL_ROWS)
            score_part(v, reference, token + at, pos, part_rows(len - 1, pos), out);
        kv_seq_release(&v->kv, &v->seq);
        if (reference) kv_seq_release(&reference->kv, &reference->seq);
    }
}

/* --- the text --- */

static char *read_file(const char *path, size_t *len, struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f) {
        err_errno(e, "cannot open %s", path);
        return NULL;
    }
    size_t cap = 1 << 16, n = 0;
    char *s = malloc(cap);
    while (s && (n += fread(s + n, 1, cap - n, f)) == cap && cap < EVAL_TEXT_MAX) {
        char *more = realloc(s, cap *= 2);
        if (!more) free(s);
        s = more;
    }
    bool bad = ferror(f);
    fclose(f);
    if (!s)
        err_set(e, ERR_NO_MEMORY, "no memory for %s", path);
    else if (bad)
        err_set(e, ERR_IO, "%s could not be read", path);
    if (s && !bad) {
        *len = n;
        return s;
    }
    free(s);
    return NULL;
}

int eval_read_text(const struct tokenizer *t, const char *path, int max, struct tokens *out, struct err *e)
{
    size_t len, lead = tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0;
    struct tokens all = {0};
    char *text = read_file(path, &len, e);
    if (!text) return -1;
    int rc = tokenizer_encode(t, text, len, false, len + 1, &all, e);
    free(text);
    if (rc) return err_prefix(e, "%s", path);
    if (all.n < 2) {
        free(all.id);
        return err_set(e, ERR_USAGE, "%s has %zu tokens: 2 at least are needed", path, all.n);
    }
    size_t n = all.n + lead < (size_t)max ? all.n : (size_t)max - lead;
    int32_t *id = malloc((n + lead) * sizeof *id);
    if (id && lead) id[0] = tokenizer_bos(t);
    if (id) memcpy(id + lead, all.id, n * sizeof *id);
    free(all.id);
    if (!id) return err_set(e, ERR_NO_MEMORY, "no memory for %zu tokens", n);
    *out = (struct tokens){.id = id, .n = n + lead};
    return 0;
}
