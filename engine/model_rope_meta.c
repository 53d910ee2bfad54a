/* model_rope_meta: the settings of rotary positions, as three generations of config.json and GGUF's keys spell them.
 *
 *     transformers 5   rope_parameters {rope_type, rope_theta, ..}, of Gemma 3 one such object per layer type
 *     transformers 4   rope_scaling {rope_type or type, ..} or null, rope_theta beside it
 *     GGUF             rope.freq_base, rope.scaling.*, tensors rope_freqs, rope_factors_long, rope_factors_short
 *
 * A scaling is a row of `scalings` with the keys that it reads; a key that no row reads is refused, since a setting that was passed
 * over would show only in long texts. Where transformers reads a value from two places, its order is kept.
 *
 * Lengths: `original` is what the unscaled frequencies were trained for. The usual context is the model's own, but of
 * longrope the original length: beyond it all frequencies change, and answers to short prompts with them.
 *
 * Called at load only. */
#include "base/json.h"
#include "engine/model_family.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT_LIMIT (1 << 20)
#define FACTOR_LIMIT 1e6
#define FACTOR_LEAST 1e-6 /* of what is divided by: less is 0 in float32 in the end, and the angles are not finite */

static const struct scaling {
    const char *name[3];
    enum rope_type type;
} scalings[] = {
    {{"default", "none", ""}, ROPE_PLAIN}, {{"linear"}, ROPE_LINEAR},
    {{"dynamic"}, ROPE_DYNAMIC},           {{"yarn"}, ROPE_YARN},
    {{"longrope", "su"}, ROPE_LONG},       {{"llama3"}, ROPE_LLAMA3},
};

static const char *const known_keys[] = {"rope_type",        "type",
                                         "rope_theta",       "partial_rotary_factor",
                                         "factor",           "original_max_position_embeddings",
                                         "attention_factor", "beta_fast",
                                         "beta_slow",        "mscale",
                                         "mscale_all_dim",   "truncate",
                                         "low_freq_factor",  "high_freq_factor",
                                         "short_factor",     "long_factor",
                                         "finetuned"};

static int scaling_of(const char *s, size_t len, enum rope_type *type, struct err *e)
{
    for (size_t i = 0; i < sizeof scalings / sizeof *scalings; i++)
        for (int j = 0; j < 3 && scalings[i].name[j]; j++)
            if (strlen(scalings[i].name[j]) == len && memcmp(scalings[i].name[j], s, len) == 0) {
                *type = scalings[i].type;
                return 0;
            }
    return err_set(e, ERR_MODEL,
                   "the rope scaling \"%.*s\" is not served (default, linear, dynamic, yarn, longrope and llama3 are)",
                   (int)(len < 64 ? len : 64), s);
}

/* --- what both worlds share --- */

static double mscale(double scale, double weight)
{
    return scale <= 1 ? 1 : 0.1 * weight * log(scale) + 1;
}

int rope_check(const struct rope_spec *r, struct err *e)
{
    if (!(r->base > 1 && r->base < 1e12))
        return err_set(e, ERR_MODEL, "the base of rope (freq_base, rope_theta) is %g: more than 1 is needed", r->base);
    if (!(r->factor >= FACTOR_LEAST && r->factor < FACTOR_LIMIT))
        return err_set(e, ERR_MODEL, "the rope scaling factor is %g: %g to %g is served", r->factor, FACTOR_LEAST,
                       FACTOR_LIMIT);
    if (!(r->attention >= FACTOR_LEAST && r->attention < FACTOR_LIMIT))
        return err_set(e, ERR_MODEL, "attention_factor is %g: %g to %g is served", r->attention, FACTOR_LEAST,
                       FACTOR_LIMIT);
    if (r->original < 1 || r->original > CONTEXT_LIMIT)
        return err_set(e, ERR_MODEL, "rope's original length is %d: 1 to %d is served", r->original, CONTEXT_LIMIT);
    if (r->type == ROPE_LLAMA3 && !(r->low_freq > 0 && r->high_freq > r->low_freq && r->high_freq < FACTOR_LIMIT))
        return err_set(e, ERR_MODEL,
                       "llama3 rope scaling from low_freq_factor %g to high_freq_factor %g: the second must be the "
                       "greater",
                       r->low_freq, r->high_freq);
    if (r->type == ROPE_YARN && !(r->beta_slow > 0 && r->beta_fast >= r->beta_slow && r->beta_fast < FACTOR_LIMIT))
        return err_set(e, ERR_MODEL,
                       "yarn rope scaling from beta_fast %g to beta_slow %g: the first must be the greater",
                       r->beta_fast, r->beta_slow);
    for (int i = 0; i < r->factors; i++)
        if (!(r->near_factor[i] >= (float)FACTOR_LEAST) || !(r->far_factor[i] >= (float)FACTOR_LEAST) ||
            !isfinite(r->near_factor[i]) || !isfinite(r->far_factor[i]))
            return err_set(e, ERR_MODEL, "longrope factor %d is not a number of %g or more", i, FACTOR_LEAST);
    return 0;
}

static void set_lengths(struct rope_spec *r, int own)
{
    double reach = own;
    if (r->type == ROPE_YARN) reach = fmax(own, r->factor * r->original);
    if (r->type == ROPE_DYNAMIC) reach = fmax(own, r->factor * own);
    r->reach = reach > CONTEXT_LIMIT ? CONTEXT_LIMIT : (int)reach;
    r->normal = r->type == ROPE_LONG && r->original < own ? r->original : own;
}

/* --- config.json --- */

static const json_t *given(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static int check_keys(const json_t *o, struct err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        bool known = json_is_null(v);
        for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++) known |= strcmp(key, known_keys[i]) == 0;
        if (!known)
            return err_set(
                e, ERR_MODEL,
                "the rope setting \"%.64s\" is not known, and could change the angles; take it out where it does not",
                key);
    }
    return 0;
}

/* Of a family with settings per layer type the old ones are put over the new, in which rope_type always stands, so that
 * an old "type" is passed over. A new object, or NULL. */
static json_t *put_over(const json_t *new, const json_t *old)
{
    json_t *o = new ? json_copy_top(new) : json_object();
    bool bad = !o ||
               (!json_object_get(o, "rope_type") && json_object_set_new(o, "rope_type", json_string("default"))) ||
               (old && json_object_update(o, (json_t *)(uintptr_t)old));
    if (!bad) return o;
    json_decref(o);
    return NULL;
}

/* The object that holds the settings, or NULL: a reference. */
static int find_settings(const struct meta *c, bool local, json_t **out, struct err *e)
{
    const char *const name = local ? "sliding_attention" : "full_attention";
    const json_t *old = given(c->j, "rope_scaling"), *new = given(c->j, "rope_parameters");
    if ((old && !json_is_object(old)) || (new && !json_is_object(new)))
        return err_set(e, ERR_MODEL, "config.json: %s is not an object", old ? "rope_scaling" : "rope_parameters");
    bool nested = given(new, "full_attention") || given(new, "sliding_attention");
    if (new &&nested != (c->f->local_base > 0) && json_object_size(new) > 0)
        return err_set(e, ERR_MODEL, "it has %ssettings per layer type, unlike %s; take the file of the model's author",
                       nested ? "" : "no ", c->f->class[0]);
    const json_t *o = nested ? given(new, name) : new;
    if (o && !json_is_object(o)) return err_set(e, ERR_MODEL, "%s is not an object", name);
    if (c->f->local_base > 0)
        *out = put_over(o, local ? NULL : old);
    else
        *out = json_incref((json_t *)(uintptr_t)(old && json_object_size(old) > 0 ? old : o));
    if (!*out && c->f->local_base > 0) return err_set(e, ERR_NO_MEMORY, "no memory for settings of rope");
    return check_keys(*out, e);
}

static int number(const json_t *o, const char *key, double *out, struct err *e)
{
    const json_t *v = given(o, key);
    if (!v) return 0;
    if (!json_is_number(v)) return err_set(e, ERR_MODEL, "the rope setting %s is not a number", key);
    *out = json_number_value(v);
    return 0;
}

static int factors(const json_t *o, const char *key, int n, float **out, struct err *e)
{
    const json_t *v = given(o, key);
    if (!json_is_array(v) || json_array_size(v) != (size_t)n)
        return err_set(e, ERR_MODEL,
                       "the rope setting %s is not a list of %d numbers; take the file of the model's author", key, n);
    *out = malloc((size_t)n * sizeof **out);
    if (!*out) return err_set(e, ERR_NO_MEMORY, "no memory for %d factors", n);
    for (int i = 0; i < n; i++) (*out)[i] = (float)json_number_value(json_array_get(v, (size_t)i));
    return 0;
}

static int read_type(const struct meta *c, const json_t *o, struct rope_spec *r, struct err *e)
{
    const json_t *v = given(o, "rope_type") ? given(o, "rope_type") : given(o, "type");
    if (v && !json_is_string(v)) return err_set(e, ERR_MODEL, "rope_type is not a string");
    if (v && scaling_of(json_string_value(v), json_string_length(v), &r->type, e)) return -1;
    if (c->f->fused && r->type == ROPE_YARN) r->type = ROPE_LONG; /* Phi3Config reads "yarn" and "su" as longrope */
    return 0;
}

/* original_max_position_embeddings: beside the settings or in them, else the model's own. */
static int read_original(const struct meta *c, const json_t *o, int own, struct rope_spec *r, struct err *e)
{
    double in = 0;
    if (number(o, "original_max_position_embeddings", &in, e)) return -1;
    r->original = own;
    if (r->type != ROPE_YARN && r->type != ROPE_LONG && r->type != ROPE_LLAMA3) return 0;
    if (in >= 1 && in <= CONTEXT_LIMIT) r->original = (int)in;
    if (c->f->original) r->original = c->f->original; /* the class has it, so that transformers sees it beside them */
    return meta_int(c, (struct meta_key){NULL, "original_max_position_embeddings"}, 1, CONTEXT_LIMIT, 1, &r->original,
                    e);
}

/* What cosines and sines are multiplied by, unless attention_factor says it. */
double rope_usual_attention(const struct rope_spec *r, double m, double all)
{
    if (r->type == ROPE_YARN)
        return m != 0 && all != 0 ? mscale(r->factor, m) / mscale(r->factor, all) : mscale(r->factor, 1);
    if (r->type == ROPE_LONG && r->factor > 1 && r->original > 1) return sqrt(1 + log(r->factor) / log(r->original));
    return 1;
}

static int read_numbers(const json_t *o, int own, struct rope_spec *r, struct err *e)
{
    double m = 0, all = 0, stated = 0, fast = 0, slow = 0;
    bool by_length = r->type == ROPE_YARN || r->type == ROPE_LONG;
    r->factor = by_length ? (double)own / r->original : r->type == ROPE_PLAIN ? 1 : 0;
    if ((r->type != ROPE_PLAIN && number(o, "factor", &r->factor, e)) || number(o, "attention_factor", &stated, e) ||
        number(o, "mscale", &m, e) || number(o, "mscale_all_dim", &all, e) || number(o, "beta_fast", &fast, e) ||
        number(o, "beta_slow", &slow, e) || number(o, "low_freq_factor", &r->low_freq, e) ||
        number(o, "high_freq_factor", &r->high_freq, e))
        return -1;
    bool needs = r->type == ROPE_LINEAR || r->type == ROPE_DYNAMIC || r->type == ROPE_LLAMA3;
    if (needs && !given(o, "factor"))
        return err_set(e, ERR_MODEL,
                       "factor is missing, which this rope_type needs; take the file of the model's author");
    if (fast != 0) r->beta_fast = fast;
    if (slow != 0) r->beta_slow = slow;
    r->whole = !json_is_false(given(o, "truncate"));
    r->attention = by_length && stated != 0 ? stated : rope_usual_attention(r, m, all);
    return 0;
}

static int read_settings(const struct meta *c, const json_t *o, int own, int head_dim, bool local, struct rope_spec *r,
                         struct err *e)
{
    if (read_type(c, o, r, e)) return -1;
    const struct meta_key beside = {NULL, local ? "rope_local_base_freq" : "rope_theta"};
    if (meta_num(c, beside, 1, 1e12, &r->base, e) || number(o, "rope_theta", &r->base, e) ||
        meta_num(c, (struct meta_key){NULL, "partial_rotary_factor"}, 0, 1, &r->partial, e) ||
        number(o, "partial_rotary_factor", &r->partial, e))
        return -1;
    if (!(r->partial > 0 && r->partial <= 1))
        return err_set(e, ERR_MODEL, "partial_rotary_factor is %g: more than 0 and at most 1 is served", r->partial);
    if (read_original(c, o, own, r, e) || read_numbers(o, own, r, e)) return -1;
    if (r->type != ROPE_LONG) return 0;
    r->factors = (int)(head_dim * r->partial) / 2;
    return factors(o, "short_factor", r->factors, &r->near_factor, e) ||
                   factors(o, "long_factor", r->factors, &r->far_factor, e)
               ? -1
               : 0;
}

static int read_hf(const struct meta *c, int own, int head_dim, bool local, struct rope_spec *r, struct err *e)
{
    json_t *o = NULL;
    int rc = find_settings(c, local, &o, e) || read_settings(c, o, own, head_dim, local, r, e) ? -1 : 0;
    json_decref(o);
    return rc;
}

/* --- GGUF --- */

static int gguf_type(const struct meta *c, const struct source *s, struct rope_spec *r, struct err *e)
{
    char name[128];
    struct gguf_str word = {"none", 4};
    meta_name(c, (struct meta_key){"rope.scaling.type", NULL}, name);
    if (gguf_has(c->g, name) && gguf_string(c->g, name, &word, e)) return -1;
    if (scaling_of(word.s, word.len, &r->type, e)) return err_prefix(e, "%s", name);
    if (source_has(s, &(struct spot){.at = AT_ROPE_LONG})) r->type = ROPE_LONG; /* older converters left the word out */
    return r->type == ROPE_LLAMA3 || r->type == ROPE_DYNAMIC
               ? err_set(e, ERR_MODEL, "%s is \"%.*s\", which no converter writes; convert the model again", name,
                         (int)word.len, word.s)
               : 0;
}

static int gguf_yarn(const struct meta *c, struct rope_spec *r, struct err *e)
{
    double all = 0, extrapolation = 1, stated = 0;
    if (meta_num(c, (struct meta_key){"rope.scaling.yarn_beta_fast", NULL}, 0, 1e6, &r->beta_fast, e) ||
        meta_num(c, (struct meta_key){"rope.scaling.yarn_beta_slow", NULL}, 0, 1e6, &r->beta_slow, e) ||
        meta_num(c, (struct meta_key){"rope.scaling.yarn_log_multiplier", NULL}, 0, 1e6, &all, e) ||
        meta_num(c, (struct meta_key){"rope.scaling.yarn_ext_factor", NULL}, 1, 1, &extrapolation, e) ||
        meta_num(c, (struct meta_key){"rope.scaling.yarn_attn_factor", NULL}, 0, 1e6, &stated, e))
        return -1;
    r->attention = stated != 0 ? stated : rope_usual_attention(r, 1, all);
    return 0;
}

static int gguf_long(const struct source *s, int rotary, struct rope_spec *r, struct err *e)
{
    r->factors = rotary / 2;
    return source_vector(s, &(struct spot){.at = AT_ROPE_SHORT}, r->factors, &r->near_factor, e) ||
                   source_vector(s, &(struct spot){.at = AT_ROPE_LONG}, r->factors, &r->far_factor, e)
               ? -1
               : 0;
}

/* rope_freqs: Llama 3's scaling, computed by the converter. */
static int gguf_divisors(const struct source *s, int rotary, struct rope_spec *r, struct err *e)
{
    const struct spot at = {.at = AT_ROPE_FREQS};
    if (!source_has(s, &at)) return 0;
    if (source_vector(s, &at, rotary / 2, &r->divisor, e)) return -1;
    for (int i = 0; i < rotary / 2; i++)
        if (!(r->divisor[i] >= (float)FACTOR_LEAST))
            return err_set(e, ERR_MODEL, "rope_freqs.weight[%d] is %g: a divisor of %g or more is needed", i,
                           (double)r->divisor[i], FACTOR_LEAST);
    return 0;
}

static int read_gguf(const struct meta *c, const struct source *s, int own, int head_dim, struct rope_spec *r,
                     struct err *e)
{
    double more = 1;
    int rotary = head_dim;
    if (gguf_type(c, s, r, e)) return -1;
    r->original = own;
    if (meta_num(c, (struct meta_key){"rope.freq_base", NULL}, -1e300, 1e300, &r->base, e) ||
        meta_num(c, (struct meta_key){"rope.scaling.attn_factor", NULL}, 0, 1e6, &more, e) ||
        meta_int(c, (struct meta_key){"rope.dimension_count", NULL}, 2, head_dim, 1, &rotary, e) ||
        meta_int(c, (struct meta_key){"rope.scaling.original_context_length", NULL}, 0, CONTEXT_LIMIT, 1, &r->original,
                 e))
        return -1;
    if (!r->original) r->original = own;
    if ((r->type == ROPE_LINEAR || r->type == ROPE_YARN) &&
        (meta_num(c, (struct meta_key){"rope.scale_linear", NULL}, -1e300, 1e300, &r->factor, e) ||
         meta_num(c, (struct meta_key){"rope.scaling.factor", NULL}, -1e300, 1e300, &r->factor, e)))
        return -1;
    if (r->type == ROPE_YARN && gguf_yarn(c, r, e)) return -1;
    r->attention *= more != 0 ? more : 1;
    return r->type == ROPE_LONG ? gguf_long(s, rotary, r, e) : gguf_divisors(s, rotary, r, e);
}

/* Names the file, where the message does not yet. */
static int in_config(const struct meta *c, struct err *e)
{
    if (c->g && e && e->code == ERR_MODEL && !strstr(e->msg, "rope.")) err_prefix(e, "%s.rope", c->arch);
    if (c->j && e && e->code == ERR_MODEL && strncmp(e->msg, "config.json", 11) != 0)
        err_prefix(e, "config.json: %s", json_object_get(c->j, "rope_scaling") ? "rope_scaling" : "rope_parameters");
    return -1;
}

int rope_read(const struct meta *c, const struct source *s, int context, int head_dim, bool local, struct rope_spec *r,
              struct err *e)
{
    *r = (struct rope_spec){.base = local ? c->f->local_base : c->f->theta,
                            .factor = 1,
                            .attention = 1,
                            .beta_fast = 32,
                            .beta_slow = 1,
                            .whole = true,
                            .original = context,
                            .partial = 1};
    if (c->g && local) {
        if (meta_num(c, (struct meta_key){"rope.freq_base_swa", NULL}, 1, 1e12, &r->base, e)) return -1;
    } else if (c->g ? read_gguf(c, s, context, head_dim, r, e) : read_hf(c, context, head_dim, local, r, e))
        return in_config(c, e);
    set_lengths(r, context);
    return rope_check(r, e) ? in_config(c, e) : 0;
}
