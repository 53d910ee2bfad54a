/* prune_score: what a weight, a channel, a group of heads is worth.
 *
 * The calibration needs the inputs of every product, and the pass has no place for such a question. So it runs with a table of operations of
 * its own, in which matmul first looks at its input and then calls the real one: a server's pass knows nothing of it. Thread 0 alone looks, in
 * the order of the tokens, so the norms don't depend on how many threads there are.
 *
 * Called by `weft-engine prune` alone, one at a time. */
#include "engine/evaluate.h"
#include "engine/prune.h"
#include <math.h>
#include <stdlib.h>

/* --- single weights --- */

static float score_of(const float *w, const float *norm, int i)
{
    return fabsf(w[i]) * (norm ? norm[i] : 1);
}

/* Of four weights the two of the lower score, of equals the later, become zeros. */
static void prune_four(float w[4], const float *norm)
{
    float score[4];
    for (int i = 0; i < 4; i++) score[i] = score_of(w, norm, i);
    for (int i = 0; i < 4; i++) {
        int before = 0;
        for (int j = 0; j < 4; j++) before += score[j] > score[i] || (score[j] == score[i] && j < i);
        if (before >= 2) w[i] = 0;
    }
}

/* The least first; of equals the later. */
static int by_score(const void *a, const void *b)
{
    const struct prune_scored *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->at > y->at ? -1 : x->at < y->at;
}

void prune_row(float *w, const float *norm, int k, enum prune_pattern pattern, double ratio,
               struct prune_scored *scratch)
{
    int gone = pattern == PRUNE_LOOSE ? (int)(ratio * k + 0.5) : 0;
    for (int i = 0; pattern == PRUNE_24 && i + 4 <= k; i += 4) prune_four(w + i, norm ? norm + i : NULL);
    if (!gone) return;
    for (int i = 0; i < k; i++) scratch[i] = (struct prune_scored){score_of(w, norm, i), i};
    qsort(scratch, (size_t)k, sizeof *scratch, by_score);
    for (int i = 0; i < gone; i++) w[scratch[i].at] = 0;
}

/* --- the inputs of a text --- */

static struct watch {
    const struct kernels *real;
    const struct model *m;
    double *sum[PRUNE_INPUTS]; /* [layers][k] of squares */
    int k[PRUNE_INPUTS];
} watch;

static int input_of(int module)
{
    switch (module) {
    case LM_Q:
        return INPUT_Q;
    case LM_O:
        return INPUT_O;
    case LM_GATE:
        return INPUT_GATE;
    case LM_DOWN:
        return INPUT_DOWN;
    default:
        return -1;
    }
}

/* As the real one, which has the same barriers inside; in EXACT inputs are float32. */
static void matmul_watched(struct kthread *t, const struct mm *mm)
{
    int at = input_of(mm->out[0].module), k = mm->out[0].w->k;
    if (t->id == 0 && at >= 0 && mm->expert < 0) {
        double *sum = watch.sum[at] + (size_t)mm->layer * (size_t)watch.k[at];
        for (int r = 0; r < mm->rows; r++)
            for (int i = 0; i < k; i++) {
                double x = (double)mm->in->x[(size_t)r * (size_t)k + (size_t)i];
                sum[i] += x * x;
            }
    }
    watch.real->matmul(t, mm);
}

static void see_nothing(void *u, int first, int count, const float *logits)
{
    (void)u;
    (void)first;
    (void)count;
    (void)logits;
}

static int run_text(const struct prune_options *o, const struct model *m, const struct tokens *text, struct err *e)
{
    struct evaluator *v;
    struct kernels table = *watch.real;
    int context = o->context < m->max_context ? o->context : m->max_context;
    table.matmul = matmul_watched;
    if (evaluator_new(&v, m, &table, o->threads, context, e)) return -1;
    for (size_t at = 0; at + 1 < text->n; at += (size_t)context) {
        size_t left = text->n - at;
        evaluator_window(v, text->id + at, left < (size_t)context ? (int)left : context, see_nothing, NULL);
    }
    evaluator_free(v);
    return 0;
}

void prune_norms_close(struct prune_norms *n)
{
    for (int i = 0; i < PRUNE_INPUTS; i++) free(n->norm[i]);
    *n = (struct prune_norms){0};
}

static int take_sums(const struct model *m, struct prune_norms *out, struct err *e)
{
    const int k[PRUNE_INPUTS] = {m->hidden, m->heads * m->head_dim, m->hidden, m->mlp};
    for (int i = 0; i < PRUNE_INPUTS; i++) {
        watch.k[i] = out->k[i] = k[i];
        watch.sum[i] = calloc((size_t)m->layers * (size_t)k[i], sizeof *watch.sum[i]);
        out->norm[i] = calloc((size_t)m->layers * (size_t)k[i], sizeof *out->norm[i]);
        if (!watch.sum[i] || !out->norm[i]) return err_set(e, ERR_NO_MEMORY, "no memory for the norms of inputs");
    }
    return 0;
}

int prune_calibrate(const struct prune_options *o, const struct model *m, struct prune_norms *out, struct err *e)
{
    struct tokens text = {0};
    watch = (struct watch){.real = kernels_pick(o->kernels, m->prec), .m = m};
    *out = (struct prune_norms){0};
    if (!watch.real) return err_set(e, ERR_USAGE, "kernels '%s' cannot run on this machine", o->kernels);
    int rc = take_sums(m, out, e) || eval_read_text(m->tok, o->calibration, o->tokens, &text, e) ||
                     run_text(o, m, &text, e)
                 ? -1
                 : 0;
    for (int i = 0; i < PRUNE_INPUTS; i++) {
        for (size_t j = 0; !rc && j < (size_t)m->layers * (size_t)out->k[i]; j++)
            out->norm[i][j] = (float)sqrt(watch.sum[i][j]);
        free(watch.sum[i]);
    }
    free(text.id);
    if (rc) prune_norms_close(out);
    return rc;
}

/* --- channels and groups of heads --- */

/* One of a layer: what it is worth beside the layer's mean. */
struct part {
    double score;
    int layer, at;
};

static int part_order(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* What the columns of down (or o) carry on: the sum over their weights of (|w| norm)^2, `each` columns a part. */
static int score_columns(const struct weight *w, const float *norm, int layer, int each, struct part *out, struct err *e)
{
    float *row = malloc((size_t)w->k * sizeof *row);
    int n = w->k / each;
    double sum = 0;
    if (!row) return err_set(e, ERR_NO_MEMORY, "no memory for a row");
    for (int i = 0; i < n; i++) out[i] = (struct part){.layer = layer, .at = i};
    for (int o = 0; o < w->n; o++) {
        weight_row(w, o, row);
        for (int i = 0; i < w->k; i++) {
            double s = (double)row[i] * (norm ? (double)norm[i] : 1);
            out[i / each].score += s * s;
        }
    }
    for (int i = 0; i < n; i++) sum += out[i].score;
    for (int i = 0; i < n && sum > 0; i++) out[i].score *= n / sum;
    free(row);
    return 0;
}

/* How many of a layer's stay, when `stay` of them would by their scores: a multiple of `step`, not none. */
static int rounded(int stay, int all, int step)
{
    int n = (stay + step / 2) / step * step;
    if (n < step) n = step;
    return n < all ? n : all;
}

/* Of all layers' parts, p[layers][all], the best `share` say how many of each layer stay; that number is rounded, and the layer's best are
 * listed in `out`. */
static int keep_best(struct part *p, int layers, int all, double share, int step, struct prune_layer *out, bool channels,
                     struct err *e)
{
    size_t total = (size_t)layers * (size_t)all, want = (size_t)(share * (double)total + 0.5);
    int *count = calloc((size_t)layers, sizeof *count);
    if (!count) return err_set(e, ERR_NO_MEMORY, "no memory for %d layers", layers);
    qsort(p, total, sizeof *p, part_order);
    for (size_t i = 0; i < want && i < total; i++) count[p[i].layer]++;
    for (int l = 0; l < layers; l++) {
        int n = rounded(count[l], all, step), left = n, *list = calloc((size_t)all, sizeof *list);
        if (!list) {
            free(count);
            return err_set(e, ERR_NO_MEMORY, "no memory for a layer's list");
        }
        for (size_t i = 0; i < total && left > 0; i++)
            if (p[i].layer == l) list[p[i].at] = 1, left--;
        for (int i = 0, at = 0; i < all; i++)
            if (list[i]) list[at++] = i;
        *(channels ? &out[l].channels : &out[l].groups) = n;
        *(channels ? &out[l].channel : &out[l].group) = list;
    }
    free(count);
    return 0;
}

/* Groups of heads come in numbers whose rows are a multiple of 32. */
static int group_step(int group_rows)
{
    int step = 1;
    while (step * group_rows % 32) step *= 2;
    return step;
}

static int choose(const struct prune_options *o, const struct model *m, const struct prune_norms *norms, bool channels,
                  struct prune_layer *out, struct err *e)
{
    int all = channels ? m->mlp : m->kv_heads, each = channels ? 1 : m->heads / m->kv_heads * m->head_dim;
    int input = channels ? INPUT_DOWN : INPUT_O;
    struct part *p = calloc((size_t)m->layers * (size_t)all, sizeof *p);
    int rc = p ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the scores");
    for (int l = 0; l < m->layers && !rc; l++) {
        const float *norm = norms ? norms->norm[input] + (size_t)l * (size_t)norms->k[input] : NULL;
        rc = score_columns(&m->layer[l].module[channels ? LM_DOWN : LM_O], norm, l, each, p + (size_t)l * (size_t)all, e);
    }
    if (!rc)
        rc = keep_best(p, m->layers, all, channels ? o->width : o->heads, channels ? 32 : group_step(each), out, channels, e);
    free(p);
    return rc;
}

int prune_choose(const struct prune_options *o, const struct model *m, const struct prune_norms *norms,
                 struct prune_layer *out, struct err *e)
{
    return choose(o, m, norms, true, out, e) || choose(o, m, norms, false, out, e) ? -1 : 0;
}
