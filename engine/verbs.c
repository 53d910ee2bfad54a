/* verbs: `weft-engine quantize` and `weft-engine eval`: arguments in, a packed file or a table of figures out.
 *
 * Figures go to standard output as `name value` lines, which people read and scripts cut; everything else is log. Run on
 * the main thread of a process of their own. */
#include "engine/verbs.h"
#include "base/clock.h"
#include "base/conf.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/evaluate.h"
#include "engine/quantize.h"
#include "engine/reach_settings.h"
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = 0, BAD_USAGE = 2, BAD_MODEL = 3 };

struct quantize_settings {
#define X CONF_FIELD
#include "schema/quantize_settings.def"
#undef X
};
static const struct conf_row quantize_rows[] = {
#define X(...) CONF_ROW(struct quantize_settings, __VA_ARGS__)
#include "schema/quantize_settings.def"
#undef X
};

struct eval_settings {
#define X CONF_FIELD
#include "schema/eval_settings.def"
#undef X
};
static const struct conf_row eval_rows[] = {
#define X(...) CONF_ROW(struct eval_settings, __VA_ARGS__)
#include "schema/eval_settings.def"
#undef X
};

static int refuse(const struct err *e)
{
    fprintf(stderr, "weft-engine: %s\n", e->msg);
    return e->code == ERR_USAGE ? BAD_USAGE : BAD_MODEL;
}

static int start_log(const char *level, struct err *e)
{
    int n = log_level_parse(level);
    if (n < 0) return err_set(e, ERR_USAGE, "no such log level: '%s' (debug, info, warn or error)", level);
    log_init("weft-engine", (enum log_level)n);
    json_start();
    signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is an error of write(2), which is told and cleaned up */
    return 0;
}

/* --- quantize --- */

static int read_kl(const char *text, double *out, struct err *e)
{
    char *end;
    *out = strtod(text, &end);
    if (end != text && !*end && *out >= 0 && isfinite(*out)) return 0;
    return err_set(e, ERR_USAGE, "--max-kl is '%s': a number of 0 and more is needed", text);
}

int verb_quantize(int argc, char **argv)
{
    static struct quantize_settings s;
    struct err e = {0};
    const char *path[3] = {NULL};
    int n = 0, rc = conf_load(quantize_rows, CONF_ROWS(quantize_rows), &s, argc, argv, path, 3, &n, &e);
    struct quantize_options o = {0};
    if (rc > 0) return DONE;
    if (rc == 0 && (n != 3 || !s.type[0]))
        rc = err_set(&e, ERR_USAGE, "usage: weft-engine quantize IN OUT --type TYPE; see quantize --help");
    if (rc || start_log(s.log_level, &e) || read_kl(s.max_kl, &o.max_kl, &e)) return refuse(&e);
    o.in = path[1];
    o.out = path[2];
    o.type = s.type;
    o.text = s.text;
    o.tokens = (int)s.tokens;
    o.threads = (int)s.threads;
    o.kernels = s.kernels;
    return quantize(&o, &e) ? refuse(&e) : DONE;
}

/* --- eval --- */

struct eval_job {
    const struct eval_settings *s;
    struct model *m, *base;
    struct evaluator *v, *reference;
    struct tokens text;
};

static int open_side(const struct eval_settings *s, const char *path, enum precision prec, struct model **m,
                     struct evaluator **v, struct err *e)
{
    const struct kernels *k = kernels_pick(s->kernels, prec);
    if (!k) return err_set(e, ERR_USAGE, "kernels '%s' cannot run on this machine", s->kernels);
    struct model_options o = {.prec = prec, .reach = REACH_OF(s), .keep_mapped = true};
    if (reach_number("rope_factor", s->rope_factor, &o.reach.factor, e) || reach_number("rope_theta", s->rope_theta, &o.reach.theta, e))
        return -1;
    if (o.reach.window > 0) o.max_context = (int)s->context;
    if (model_open(m, path, &o, e)) return -1;
    int context = (int)s->context < (*m)->max_context ? (int)s->context : (*m)->max_context;
    enum kv_type type = prec == PREC_EXACT ? KV_F32 : strcmp(s->kv_type, "int8") ? KV_BF16 : KV_INT8;
    return evaluator_new_as(v, *m, k, type, (int)s->threads, context, e);
}

static int same_vocabulary(const struct model *a, const struct model *b, struct err *e)
{
    if (a->tokens == b->tokens && a->vocab == b->vocab) return 0;
    return err_set(e, ERR_USAGE, "%s has %d tokens and %s %d: only models of one vocabulary can be compared", a->name,
                   a->tokens, b->name, b->tokens);
}

static int open_eval(struct eval_job *j, struct err *e)
{
    const struct eval_settings *s = j->s;
    bool exact = strcmp(s->precision, "exact") == 0;
    if (!exact && strcmp(s->precision, "fast") != 0)
        return err_set(e, ERR_USAGE, "no such precision: '%s' (fast or exact)", s->precision);
    if (open_side(s, s->model, exact ? PREC_EXACT : PREC_FAST, &j->m, &j->v, e)) return -1;
    if (eval_read_text(j->m->tok, s->text, (int)s->tokens, &j->text, e)) return -1;
    if (!s->against[0]) return 0;
    if (open_side(s, s->against, PREC_EXACT, &j->base, &j->reference, e)) return -1;
    return same_vocabulary(j->m, j->base, e);
}

static void print_eval(const struct eval_job *j, const struct eval_result *r, double seconds)
{
    double n = (double)r->tokens;
    printf("model %s\n", j->m->name);
    printf("weight_bytes %zu\n", j->m->weight_bytes);
    printf("tokens %lld\n", (long long)r->tokens);
    printf("perplexity %.4f\n", eval_perplexity(r));
    for (int i = 0, from = 0, to = EVAL_NEAR; j->s->positions && i < EVAL_OCTAVES; i++, from = to, to *= 2)
        if (r->octave[i].tokens) printf("perplexity_%d_%d %.4f\n", from, to - 1, exp(r->octave[i].nll / (double)r->octave[i].tokens));
    if (j->base) {
        printf("base_weight_bytes %zu\n", j->base->weight_bytes);
        printf("mean_kl %.6f\n", r->kl / n);
        printf("max_kl %.6f\n", r->kl_max);
        printf("same_top1 %.4f\n", (double)r->same_top / n);
    }
    printf("seconds %.2f\n", seconds);
}

int verb_eval(int argc, char **argv)
{
    static struct eval_settings s;
    struct eval_job j = {.s = &s};
    struct eval_result r;
    struct err e = {0};
    const char *verb[1] = {NULL};
    int n = 0, rc = conf_load(eval_rows, CONF_ROWS(eval_rows), &s, argc, argv, verb, 1, &n, &e);
    if (rc > 0) return DONE;
    if (rc == 0 && (!s.model[0] || !s.text[0]))
        rc = err_set(&e, ERR_USAGE,
                     "usage: weft-engine eval --model PATH --text FILE [--against PATH]; see eval --help");
    if (rc == 0) rc = start_log(s.log_level, &e);
    if (rc == 0) rc = open_eval(&j, &e);
    if (rc == 0) {
        int64_t t0 = clock_mono_us();
        evaluate(j.v, j.reference, j.text.id, (int)j.text.n, &r);
        print_eval(&j, &r, (double)(clock_mono_us() - t0) / 1e6);
    }
    evaluator_free(j.v);
    evaluator_free(j.reference);
    model_free(j.m);
    model_free(j.base);
    free(j.text.id);
    return rc ? refuse(&e) : DONE;
}
