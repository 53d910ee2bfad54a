/* model_rope: angles of rotary positions.
 *
 * Idea: the kernel knows one table of cosines and sines, [position][rotary/2][2]; everything that families and scalings
 * differ in is in how its frequencies are made. They are made once, for the context that is served: scalings that
 * depend on a prompt's length in transformers (dynamic, longrope) take here the length of the context, so that a sequence's keys
 * never have to be rotated anew and a prefix is worth the same to every request.
 *
 * The rounding follows transformers, since answers are compared with it: frequency, and frequency times position, are
 * rounded to float32 before the cosine is taken. Computing the angle in double would be "better" and differ in the
 * fourth digit at position 8,000.
 *
 * Sources: Su et al. 2021; Peng et al. 2023 (yarn); Ding et al. 2024 (longrope); Llama 3.1's release; transformers'
 * modeling_rope_utils for the exact formulas. Called at load only. */
#include "engine/model_family.h"
#include <math.h>
#include <stdlib.h>

void rope_spec_close(struct rope_spec *r)
{
    free(r->divisor);
    free(r->near_factor);
    free(r->far_factor);
    r->divisor = r->near_factor = r->far_factor = NULL;
}

static float power_of(double base, int i, int rotary)
{
    return (float)pow(base, (double)((float)(2 * i) / (float)rotary));
}

static float llama3(const struct rope_spec *r, float f)
{
    float wave = (float)(2 * M_PI) / f, old = (float)r->original;
    if (wave < old / (float)r->high_freq) return f;
    if (wave > old / (float)r->low_freq) return f / (float)r->factor;
    float smooth = (old / wave - (float)r->low_freq) / (float)(r->high_freq - r->low_freq);
    return (1 - smooth) * f / (float)r->factor + smooth * f;
}

/* The dimension whose wave turns `turns` times within the original length. */
static double turning_dimension(const struct rope_spec *r, double turns, int rotary)
{
    return rotary * log(r->original / (turns * 2 * M_PI)) / (2 * log(r->base));
}

/* Fast waves are kept, slow ones stretched by the factor, a ramp lies between. */
static float yarn(const struct rope_spec *r, int i, int rotary)
{
    double low = turning_dimension(r, r->beta_fast, rotary), high = turning_dimension(r, r->beta_slow, rotary);
    if (r->whole) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, rotary - 1);
    if (low == high) high += 0.001;
    float ramp = ((float)i - (float)low) / (float)(high - low), p = power_of(r->base, i, rotary);
    float keep = 1 - fminf(fmaxf(ramp, 0), 1);
    return 1 / ((float)r->factor * p) * (1 - keep) + 1 / p * keep;
}

/* NTK-aware: the base grows with the length. */
static double dynamic_base(const struct rope_spec *r, int context, int rotary)
{
    if (context <= r->original || rotary <= 2) return r->base;
    return r->base * pow(r->factor * context / r->original - (r->factor - 1), rotary / (rotary - 2.0));
}

static float frequency(const struct rope_spec *r, int context, int i, int rotary)
{
    const float *stretch = context > r->original ? r->far_factor : r->near_factor;
    switch (r->type) {
    case ROPE_LINEAR:
        return 1 / power_of(r->base, i, rotary) / (float)r->factor;
    case ROPE_DYNAMIC:
        return 1 / power_of(dynamic_base(r, context, rotary), i, rotary);
    case ROPE_YARN:
        return yarn(r, i, rotary);
    case ROPE_LONG:
        return 1 / (stretch[i] * power_of(r->base, i, rotary));
    case ROPE_LLAMA3:
        return llama3(r, 1 / power_of(r->base, i, rotary));
    default:
        return 1 / power_of(r->base, i, rotary);
    }
}

void rope_frequencies(const struct rope_spec *r, int context, int rotary, float *freq)
{
    for (int i = 0; i < rotary / 2; i++) {
        freq[i] = frequency(r, context, i, rotary);
        if (r->divisor) freq[i] /= r->divisor[i];
    }
}

/* freq NULL: nothing turns. */
static float *make_table(const float *freq, float attention, int context, int rotary)
{
    size_t half = (size_t)rotary / 2;
    float *table = malloc((size_t)context * half * 2 * sizeof *table);
    if (!table) return NULL;
    for (size_t i = 0; i < half; i++)
        for (int pos = 0; pos < context; pos++) {
            float angle = freq ? (float)pos * freq[i] : 0;
            float *at = table + ((size_t)pos * half + i) * 2;
            at[0] = (float)cos((double)angle) * attention;
            at[1] = (float)sin((double)angle) * attention;
        }
    return table;
}

/* `length`: that scalings are made for which depend on it. */
static int add_table(const struct rope_spec *r, int length, const struct model *m, float **out, struct err *e)
{
    float freq[HEAD_DIM_MAX / 2];
    if (r) rope_frequencies(r, length, m->rotary, freq);
    *out = make_table(r ? freq : NULL, r ? (float)r->attention : 1, m->max_context, m->rotary);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the rope table of %d positions", m->max_context);
}

int rope_load(struct model *m, const struct model_plan *p, struct err *e)
{
    bool unturned = false;
    int length = reach_length(p->reach, m->max_context);
    for (int i = 0; i < m->layers; i++) unturned |= p->layer[i].unturned;
    if (add_table(&p->rope, length, m, &m->rope, e)) return -1;
    if (p->own_local && add_table(&p->local, length, m, &m->rope_local, e)) return -1;
    if (unturned && add_table(NULL, length, m, &m->rope_none, e)) return -1;
    for (int i = 0; i < m->layers; i++)
        m->layer[i].rope = p->layer[i].unturned ? m->rope_none : p->layer[i].local ? m->rope_local : m->rope;
    return 0;
}
