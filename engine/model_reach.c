/* model_reach: a base is served with positions beyond what its files say.
 *
 * Two ways, apart or together:
 *
 *     a scaling   takes the place of the files' own: the same frequencies as if config.json had it (model_rope.c), and a context of
 *                 factor times the original length
 *     a window    on every layer that sees farther: the last `window` positions, and the first `sinks` as StreamingLLM numbers them
 *                 (Xiao et al. 2023; kernels/attention_sinks.h). No two positions are ever farther apart than sinks + window, so the
 *                 context may be as long as the tables of angles
 *
 * Refused: what would be passed over. A factor without a scaling, a window that the scaling does not reach, and another scaling for a
 * base whose own one is a list of factors (llama3, longrope), which was trained with it.
 *
 * Called at load only. */
#include "engine/model_family.h"
#include "engine/reach_settings.h"
#include <stdlib.h>
#include <string.h>

static bool is_set(const char *word)
{
    return word && *word;
}

static int reach_type(const char *word, enum rope_type *type, struct err *e)
{
    static const struct {
        const char *word;
        enum rope_type type;
    } row[] = {{"none", ROPE_PLAIN}, {"linear", ROPE_LINEAR}, {"yarn", ROPE_YARN}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (strcmp(word, row[i].word) == 0) {
            *type = row[i].type;
            return 0;
        }
    return err_set(e, ERR_USAGE, "rope_scaling is '%.32s': none, linear or yarn", word);
}

static int check_asked(const struct model_reach *w, const struct rope_spec *r, struct err *e)
{
    bool scaled = is_set(w->scaling) && strcmp(w->scaling, "none") != 0;
    if ((w->factor != 0 || w->original != 0) && !scaled)
        return err_set(e, ERR_USAGE, "rope_factor and rope_original go with rope_scaling linear or yarn");
    if (scaled && !(w->factor > 1))
        return err_set(e, ERR_USAGE, "rope_scaling %s needs a rope_factor of more than 1, not %g", w->scaling, w->factor);
    if (is_set(w->scaling) && (r->type == ROPE_LLAMA3 || r->type == ROPE_LONG || r->divisor))
        return err_set(e, ERR_USAGE,
                       "rope_scaling %s: the base has a scaling of its own, a list of factors that it was trained with; it stays",
                       w->scaling);
    return 0;
}

int reach_rope(const struct model_reach *w, int own, struct rope_spec *r, struct err *e)
{
    if (!w) return 0;
    if (check_asked(w, r, e)) return -1;
    if (w->theta != 0) r->base = w->theta;
    if (!is_set(w->scaling)) return rope_check(r, e);
    if (reach_type(w->scaling, &r->type, e)) return -1;
    r->factor = w->factor > 0 ? w->factor : 1;
    if (w->original) r->original = w->original;
    if (r->type == ROPE_PLAIN && r->original > own) r->original = own;
    r->attention = rope_usual_attention(r, 0, 0);
    double reach = r->factor * r->original;
    r->reach = r->normal = reach > CONTEXT_MAX ? CONTEXT_MAX : (int)reach;
    return rope_check(r, e);
}

int reach_context(const struct model_reach *w, const struct rope_spec *r)
{
    bool bounded = w && w->window > 0 && w->window + w->sinks <= r->reach;
    return bounded ? CONTEXT_MAX : r->reach;
}

int reach_length(const struct model_reach *w, int context)
{
    int within = w && w->window > 0 ? w->window + w->sinks : context;
    return within < context ? within : context;
}

void reach_windows(const struct model_reach *w, const struct model *m, struct model_plan *p)
{
    if (!w || w->window == 0 || w->window + w->sinks >= m->max_context) return;
    for (int i = 0; i < m->layers; i++) {
        struct layer_plan *l = &p->layer[i];
        if (l->window > 0 && l->window <= w->window) continue;
        l->window = w->window;
        l->sinks = w->sinks;
    }
}

int reach_number(const char *name, const char *text, double *out, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 0 && v <= 1e12)) return err_set(e, ERR_USAGE, "%s is '%.40s': a number from 0 to 1e12 is needed", name, text);
    *out = v;
    return 0;
}
