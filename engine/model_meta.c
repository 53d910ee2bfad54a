/* model_meta: a number under two names, read from a GGUF's metadata or from config.json.
 *
 * Idea: what a family needs is the same in both worlds and only spelled differently, so the tables that say what is needed
 * carry both spellings and everything above this file reads one kind of metadata. Absent (in JSON also null) leaves the caller's
 * preset; a value of another kind or outside its range is ERR_MODEL with the key.
 *
 * Called at load only. */
#include "engine/model_family.h"
#include <math.h>
#include <stdio.h>

const char *meta_name(const struct meta *c, struct meta_key k, char name[128])
{
    if (c->g)
        snprintf(name, 128, "%s.%s", c->arch, k.gguf ? k.gguf : "?");
    else
        snprintf(name, 128, "config.json: %s%s", c->j == c->root ? "" : "text_config: ", k.hf ? k.hf : "?");
    return name;
}

static const json_t *value_of(const struct meta *c, struct meta_key k)
{
    const json_t *v = k.hf ? json_object_get(c->j, k.hf) : NULL;
    return json_is_null(v) ? NULL : v;
}

bool meta_has(const struct meta *c, struct meta_key k)
{
    char name[128];
    return c->g ? k.gguf && gguf_has(c->g, meta_name(c, k, name)) : value_of(c, k) != NULL;
}

static int read_number(const struct meta *c, struct meta_key k, const char *name, double *v, struct err *e)
{
    if (c->g) return gguf_f64(c->g, name, v, e);
    const json_t *j = value_of(c, k);
    if (!json_is_number(j)) return err_set(e, ERR_MODEL, "%s is not a number", name);
    *v = json_number_value(j);
    return 0;
}

int meta_num(const struct meta *c, struct meta_key k, double min, double max, double *out, struct err *e)
{
    char name[128];
    double v;
    if (!meta_has(c, k)) return 0;
    if (read_number(c, k, meta_name(c, k, name), &v, e)) return -1;
    if (!(v >= min && v <= max)) return err_set(e, ERR_MODEL, "%s is %g: %g to %g is served", name, v, min, max);
    *out = v;
    return 0;
}

int meta_int(const struct meta *c, struct meta_key k, int min, int max, int multiple, int *out, struct err *e)
{
    char name[128];
    double v;
    if (!meta_has(c, k)) return 0;
    if (read_number(c, k, meta_name(c, k, name), &v, e)) return -1;
    if (v != floor(v)) return err_set(e, ERR_MODEL, "%s is %g: a whole number is needed", name, v);
    if (!(v >= min && v <= max)) return err_set(e, ERR_MODEL, "%s is %.0f: %d to %d is served", name, v, min, max);
    if ((int)v % multiple) return err_set(e, ERR_MODEL, "%s is %.0f, which is not a multiple of %d", name, v, multiple);
    *out = (int)v;
    return 0;
}

int meta_bool(const struct meta *c, struct meta_key k, bool *out, struct err *e)
{
    char name[128];
    if (!meta_has(c, k)) return 0;
    meta_name(c, k, name);
    if (c->g) return gguf_bool(c->g, name, out, e);
    const json_t *j = value_of(c, k);
    if (!json_is_boolean(j)) return err_set(e, ERR_MODEL, "%s is neither true nor false", name);
    *out = json_is_true(j);
    return 0;
}
