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
#include <stdlib.h>

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

/* --- lists --- */

bool meta_is_list(const struct meta *c, struct meta_key k)
{
    char name[128];
    size_t n;
    if (!meta_has(c, k)) return false;
    return c->g ? gguf_array_len(c->g, meta_name(c, k, name), &n, NULL) == 0 : json_is_array(value_of(c, k));
}

/* As many numbers as there are, in *out, or -1. */
static int load_list(const struct meta *c, struct meta_key k, const char *name, int32_t **out, size_t *n, struct err *e)
{
    if (c->g) return gguf_array_i32(c->g, name, out, n, e);
    const json_t *list = value_of(c, k);
    *n = json_array_size(list);
    *out = calloc(*n + 1, sizeof **out);
    if (!*out) return err_set(e, ERR_NO_MEMORY, "no memory for a list of %zu numbers", *n);
    for (size_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t x = json_is_integer(v) ? json_integer_value(v) : -1;
        (*out)[i] = x >= 0 && x <= INT32_MAX ? (int32_t)x : -1;
    }
    return 0;
}

int meta_list(const struct meta *c, struct meta_key k, int min, int max, int multiple, int n, int **out, struct err *e)
{
    char name[128];
    int32_t *each;
    size_t count;
    int rc = 0;
    meta_name(c, k, name);
    if (load_list(c, k, name, &each, &count, e)) return -1;
    if (count != (size_t)n) rc = err_set(e, ERR_MODEL, "%s names %zu layers of %d", name, count, n);
    for (int i = 0; i < n && !rc; i++)
        if (each[i] < min || each[i] > max || each[i] % multiple)
            rc = err_set(e, ERR_MODEL, "%s: layer %d: a whole number from %d to %d, a multiple of %d, is needed", name, i,
                         min, max, multiple);
    *out = rc ? NULL : each;
    if (rc) free(each);
    return rc;
}
