/* What an adapter is checked against: the base's name, digest and shapes, and how they travel between programs.
 *
 * The engine knows its base from the file, the gateway from the engine, by this JSON. The reader trusts the engine no
 * more than it must: every number is checked, because it becomes the bounds of loops over a stranger's adapter.
 *
 * Names of bases are for people: one model is spelled "meta-llama/Llama-3.1-8B-Instruct",
 * "unsloth/llama-3.1-8b-instruct-bnb-4bit" and "/data/llama". So the rule (base_desc_accepts) refuses only what is
 * certainly another model; shapes and digest do the rest.
 *
 * Threads: any. */
#include "adapters/adapter.h"
#include "base/json.h"
#include <stdio.h>
#include <string.h>

#define DIM_MAX (1 << 20)
#define VOCAB_MAX (1 << 24)
#define EXPERTS_AT_MOST 1024
#define ALSO (int)(sizeof((struct base_desc *)0)->also / sizeof((struct base_desc *)0)->also[0])

/* --- the name rule --- */

/* Copies of a model by quantization; adapters trained on one are served on another. Longer ones first. */
static const char *const suffixes[] = {"-unsloth-bnb-4bit", "-bnb-4bit", "-gptq", "-awq", "-gguf"};

/* The last part of a hub name without the suffixes; its length. */
static size_t model_of(const char *name, const char **start)
{
    const char *slash = strrchr(name, '/');
    *start = slash ? slash + 1 : name;
    size_t n = strlen(*start);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t k = strlen(suffixes[i]);
        if (n > k && !strncasecmp(*start + n - k, suffixes[i], k)) n -= k;
    }
    return n;
}

static bool same_model(const char *a, const char *b)
{
    const char *x, *y;
    size_t n = model_of(a, &x), m = model_of(b, &y);
    return n == m && n > 0 && !strncasecmp(x, y, n);
}

static bool is_local(const char *name)
{
    const char *slash = strchr(name, '/');
    return !*name || strchr("/.~", *name) || strchr(name, '\\') || (slash && strchr(slash + 1, '/'));
}

int base_desc_accepts(const struct base_desc *b, const char *trained_on, struct err *e)
{
    if (is_local(trained_on) || same_model(trained_on, b->name)) return 0;
    for (int i = 0; i < ALSO; i++)
        if (*b->also[i] && same_model(trained_on, b->also[i])) return 0;
    return err_set(
        e, ERR_ADAPTER_INVALID,
        "adapter_config.json: base_model_name_or_path: the adapter was trained on %.128s, and this base is %.128s; "
        "serve it on that one, or correct the name where both are the same",
        trained_on, b->name);
}

/* --- a layer's shapes --- */

int base_desc_out(const struct base_desc *b, int layer, enum lora_module m)
{
    if (!b->uneven) return b->out[m];
    const struct base_widths *w = &b->widths[layer];
    const int out[LORA_MODULES] = {w->q, w->kv, w->kv, w->q ? b->out[LM_O] : 0, w->mlp, w->mlp, w->mlp ? b->out[LM_DOWN] : 0};
    return out[m];
}

int base_desc_in(const struct base_desc *b, int layer, enum lora_module m)
{
    if (!b->uneven) return b->in[m];
    const struct base_widths *w = &b->widths[layer];
    if (m == LM_O || m == LM_DOWN) return m == LM_O ? w->q : w->mlp;
    return base_desc_out(b, layer, m) ? b->in[m] : 0;
}

/* --- the bounds of numbers --- */

static const struct {
    const char *name;
    size_t at;
    int max;
} more[] = {
    {"vocab", offsetof(struct base_desc, vocab), VOCAB_MAX},
    {"hidden", offsetof(struct base_desc, hidden), DIM_MAX},
    {"experts", offsetof(struct base_desc, experts), EXPERTS_AT_MOST},
    {"expert_mlp", offsetof(struct base_desc, expert_mlp), DIM_MAX},
};

static int *more_at(struct base_desc *b, size_t i)
{
    return (int *)((char *)b + more[i].at);
}

static bool is_text(const char *s, size_t room)
{
    return memchr(s, 0, room);
}

static bool has_modules_in_bounds(const struct base_desc *b)
{
    for (int m = 0; m < LORA_MODULES; m++)
        if (b->in[m] < 0 || b->in[m] > DIM_MAX || b->out[m] < 0 || b->out[m] > DIM_MAX || !b->in[m] != !b->out[m]) return false;
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (*more_at((struct base_desc *)b, i) < 0 || *more_at((struct base_desc *)b, i) > more[i].max) return false;
    return (b->hidden || (!b->vocab && !b->experts)) && (b->expert_mlp || !b->experts);
}

/* A layer is nowhere wider than the base's own numbers say. */
static bool has_widths_in_bounds(const struct base_desc *b)
{
    const unsigned char *uneven = (const unsigned char *)&b->uneven;
    if (*uneven > 1 || (*uneven && b->layers > BASE_UNEVEN_MAX)) return false;
    for (int l = 0; *uneven && l < b->layers; l++) {
        const struct base_widths *w = &b->widths[l];
        if (w->q < 0 || w->q > b->out[LM_Q] || w->q > b->in[LM_O] || w->kv < 0 || w->kv > b->out[LM_K] || w->kv > b->out[LM_V]) return false;
        if (w->mlp < 0 || w->mlp > b->out[LM_GATE] || w->mlp > b->out[LM_UP] || w->mlp > b->in[LM_DOWN]) return false;
    }
    return true;
}

int base_desc_check(const struct base_desc *b, struct err *e)
{
    const unsigned char *qkv = (const unsigned char *)&b->fused_qkv, *gate_up = (const unsigned char *)&b->fused_gate_up;
    bool good = is_text(b->name, sizeof b->name) && is_text(b->digest, sizeof b->digest) && sha256_is_hex(b->digest) && *qkv <= 1 && *gate_up <= 1;
    for (int i = 0; i < ALSO; i++) good = good && is_text(b->also[i], sizeof b->also[i]);
    if (good && b->layers >= 1 && b->layers <= PEFT_LAYERS_MAX && has_modules_in_bounds(b) && has_widths_in_bounds(b)) return 0;
    return err_set(e, ERR_INVALID, "it is no description of a base");
}

/* --- JSON --- */

static int put_also(json_t *o, const struct base_desc *b)
{
    json_t *list = json_array();
    int rc = 0;
    for (int i = 0; i < ALSO; i++)
        if (*b->also[i]) rc |= json_array_append_new(list, json_string(b->also[i]));
    return rc | json_object_set_new(o, "also", list);
}

static int put_modules(json_t *o, const struct base_desc *b)
{
    json_t *modules = json_object();
    int rc = 0;
    for (int m = 0; m < LORA_MODULES; m++)
        if (b->out[m]) rc |= json_object_set_new(modules, lora_module_name[m], json_pack("[i,i]", b->out[m], b->in[m]));
    return rc | json_object_set_new(o, "modules", modules);
}

/* What only some bases have, so that readers of older versions find what they know. */
static int put_more(json_t *o, const struct base_desc *b)
{
    int rc = 0;
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        int v = *more_at((struct base_desc *)b, i);
        if (v) rc |= json_object_set_new(o, more[i].name, json_integer(v));
    }
    if (b->fused_qkv) rc |= json_object_set_new(o, "fused_qkv", json_true());
    if (b->fused_gate_up) rc |= json_object_set_new(o, "fused_gate_up", json_true());
    json_t *widths = b->uneven ? json_array() : NULL;
    for (int l = 0; b->uneven && l < b->layers; l++)
        rc |= json_array_append_new(widths, json_pack("[i,i,i]", b->widths[l].q, b->widths[l].kv, b->widths[l].mlp));
    return b->uneven ? rc | json_object_set_new(o, "widths", widths) : rc;
}

json_t *base_desc_to_json(const struct base_desc *b)
{
    json_t *o = json_pack("{s:s,s:s,s:i}", "name", b->name, "digest", b->digest, "layers", b->layers);
    if (o && !put_also(o, b) && !put_modules(o, b) && !put_more(o, b)) return o;
    json_decref(o);
    return NULL;
}

static int get_also(struct base_desc *b, const json_t *list, struct err *e)
{
    size_t n = json_array_size(list);
    if (n > (size_t)ALSO) return err_field(e, ERR_INVALID, "also", "also has %zu names, more than %d", n, ALSO);
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (!s || strlen(s) >= sizeof b->also[i])
            return err_field(e, ERR_INVALID, "also", "also[%zu] is not a name of at most %zu bytes", i,
                             sizeof b->also[i] - 1);
        snprintf(b->also[i], sizeof b->also[i], "%s", s);
    }
    return 0;
}

static int get_modules(struct base_desc *b, const json_t *o, struct err *e)
{
    if (!json_is_object(o)) return err_field(e, ERR_INVALID, "modules", "modules is not an object");
    for (int m = 0; m < LORA_MODULES; m++) {
        const json_t *v = json_object_get(o, lora_module_name[m]);
        if (!v) continue;
        json_int_t out = json_integer_value(json_array_get(v, 0)), in = json_integer_value(json_array_get(v, 1));
        if (json_array_size(v) != 2 || out < 1 || out > DIM_MAX || in < 1 || in > DIM_MAX)
            return err_field(e, ERR_INVALID, "modules", "modules.%s is not [out, in]", lora_module_name[m]);
        b->out[m] = (int)out;
        b->in[m] = (int)in;
    }
    return 0;
}

static int get_more(struct base_desc *b, const json_t *j, struct err *e)
{
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        int64_t v = 0;
        if (json_get_int(j, more[i].name, 0, more[i].max, &v, NULL, e)) return -1;
        *more_at(b, i) = (int)v;
    }
    if ((b->vocab || b->experts) && !b->hidden)
        return err_field(e, ERR_INVALID, "hidden", "hidden is missing beside vocab or experts");
    if (b->experts && !b->expert_mlp)
        return err_field(e, ERR_INVALID, "expert_mlp", "expert_mlp is missing beside experts");
    return json_get_bool(j, "fused_qkv", &b->fused_qkv, NULL, e) ||
                   json_get_bool(j, "fused_gate_up", &b->fused_gate_up, NULL, e)
               ? -1
               : 0;
}

static int get_widths(struct base_desc *b, const json_t *list, struct err *e)
{
    if (!list) return 0;
    if (json_array_size(list) != (size_t)b->layers || b->layers > BASE_UNEVEN_MAX)
        return err_field(e, ERR_INVALID, "widths", "widths does not name %d layers, of at most %d", b->layers,
                         BASE_UNEVEN_MAX);
    for (int l = 0; l < b->layers; l++) {
        const json_t *v = json_array_get(list, (size_t)l);
        int n[3];
        for (size_t i = 0; i < 3; i++) {
            json_int_t x = json_integer_value(json_array_get(v, i));
            n[i] = json_array_size(v) == 3 && x >= 0 && x <= DIM_MAX ? (int)x : -1;
        }
        b->widths[l] = (struct base_widths){n[0], n[1], n[2]};
    }
    b->uneven = true;
    return has_widths_in_bounds(b) ? 0 : err_field(e, ERR_INVALID, "widths", "widths is not a list of [q, kv, mlp]");
}

int base_desc_from_json(struct base_desc *b, const json_t *j, struct err *e)
{
    struct base_desc d = {0};
    const char *name = NULL, *digest = NULL;
    int64_t layers = 0;
    if (json_need_str(j, "name", sizeof d.name - 1, &name, e) ||
        json_need_str(j, "digest", SHA256_HEX - 1, &digest, e) ||
        json_get_int(j, "layers", 1, PEFT_LAYERS_MAX, &layers, NULL, e))
        return -1;
    if (!layers) return err_field(e, ERR_MISSING, "layers", "layers is missing");
    if (!sha256_is_hex(digest)) return err_field(e, ERR_INVALID, "digest", "digest is not 64 hex digits");
    if (get_also(&d, json_object_get(j, "also"), e) || get_modules(&d, json_object_get(j, "modules"), e) ||
        get_more(&d, j, e))
        return -1;
    snprintf(d.name, sizeof d.name, "%s", name);
    snprintf(d.digest, sizeof d.digest, "%s", digest);
    d.layers = (int)layers;
    if (get_widths(&d, json_object_get(j, "widths"), e)) return -1;
    *b = d;
    return 0;
}
