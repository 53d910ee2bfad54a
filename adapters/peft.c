/* PEFT's adapter_config.json: the fields.
 *
 * One table says of every field of LoraConfig whether it is read, ignored or refused unless neutral, so what is served
 * is seen at a glance and a new method is a row. A silent no-op or a half-applied method is worse than a refusal, so
 * what can change the result and isn't implemented is refused by its name, with the value.
 *
 *     text -> JSON -> table of fields -> struct -> compiled patterns (peft_match.c) -> canonical JSON
 *
 * Guarantees: every number in the struct is in its range; strings live as long as the config (they are the JSON's).
 * Refuses: duplicates, wrong types, numbers out of range, a missing r or alpha (PEFT has defaults, but a file without
 * them was cut by hand, and a guessed scale is a wrong answer).
 *
 * Threads: any, one at a time per config. */
#include "adapters/peft.h"
#include "adapters/safetensors.h"
#include "base/json.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLAINLY "; merge the adapter into its base by merge_and_unload(), or train plain LoRA"
#define AS_SAVED "; upload the file that save_pretrained() wrote"
#define CONVERT                                                                                                        \
    " changes the base's weights; save the adapter converted to plain LoRA, by "                                       \
    "save_pretrained(path_initial_model_for_weight_conversion=...)"

enum rule {
    READ,    /* by code below */
    IGNORE,  /* doesn't change the result of a trained adapter */
    NEUTRAL, /* refused unless null or one of its neutral values */
};

enum { OFF_FALSE = 1, OFF_NONE = 2, OFF_LIST = 4, OFF_OBJECT = 8, NOT_NULL = 16 };

/* PEFT's defaults and what it treats as they; an empty {} turns some methods on. */
static const struct {
    const char *name;
    enum rule rule;
    unsigned neutral; /* false, "none", [], {} count as unset; null does unless NOT_NULL */
    const char *why;  /* of a refusal */
} fields[] = {
    {"peft_type", READ, 0, NULL},
    {"r", READ, 0, NULL},
    {"lora_alpha", READ, 0, NULL},
    {"use_rslora", READ, 0, NULL},
    {"fan_in_fan_out", READ, 0, NULL},
    {"base_model_name_or_path", READ, 0, NULL},
    {"rank_pattern", READ, 0, NULL},
    {"alpha_pattern", READ, 0, NULL},
    {"layers_to_transform", READ, 0, NULL},
    {"layers_pattern", READ, 0, NULL},
    {"target_modules", READ, 0, NULL},
    {"exclude_modules", READ, 0, NULL},
    {"init_lora_weights", READ, 0, NULL},
    {"use_dora", READ, 0, NULL},
    {"alora_invocation_tokens", READ, 0, NULL},
    {"task_type", READ, 0, NULL},
    {"modules_to_save", READ, 0, NULL},
    {"target_parameters", READ, 0, NULL},
    {"ensure_weight_tying", READ, 0, NULL},
    {"bias", NEUTRAL, OFF_NONE | NOT_NULL, "trained biases are not served; train with bias \"none\""},
    {"lora_bias", NEUTRAL, OFF_FALSE, "biases in the adapter are not served; train with lora_bias false"},
    {"trainable_token_indices", NEUTRAL, OFF_OBJECT,
     "single trained rows of the embedding are not served; train embed_tokens by modules_to_save or target_modules"},
    {"layer_replication", NEUTRAL, OFF_LIST,
     "a base with replicated layers is not served; write the replicated model with save_pretrained() and serve that"},
    {"use_qalora", NEUTRAL, OFF_FALSE, "QALoRA is not served" PLAINLY},
    {"use_bdlora", NEUTRAL, OFF_FALSE, "BD-LoRA is not served" PLAINLY},
    {"bdlora_config", NEUTRAL, 0, "BD-LoRA is not served" PLAINLY},
    {"arrow_config", NEUTRAL, 0, "Arrow routing is not served; serve the adapters that it chooses from one by one"},
    {"kasa_config", NEUTRAL, 0, "KaSA, which changes the base, is not served" PLAINLY},
    {"monteclora_config", NEUTRAL, 0, "MonteCLoRA is not served" PLAINLY},
    {"velora_config", NEUTRAL, 0, "VeLoRA is not served" PLAINLY},
    {"corda_config", IGNORE, 0, NULL}, /* these four matter through init_lora_weights alone */
    {"eva_config", IGNORE, 0, NULL},
    {"loftq_config", IGNORE, 0, NULL},
    {"lora_ga_config", IGNORE, 0, NULL},
    {"megatron_config", IGNORE, 0, NULL},
    {"runtime_config", IGNORE, 0, NULL},
};

/* init_lora_weights: how training began. Some ways also take the adapter's start out of the base, whose weights are
 * then not ours. */
static const struct {
    const char *word;
    bool any_case, counted; /* counted: _niter_N may follow */
    const char *changes;    /* what it does to the base and what to do about it; NULL: harmless */
} inits[] = {
    {"gaussian", true, false, NULL},
    {"eva", false, false, NULL},
    {"orthogonal", false, false, NULL},
    {"mica", true, false, NULL},
    {"pissa", true, true, "PiSSA" CONVERT},
    {"olora", true, false, "OLoRA" CONVERT},
    {"corda", true, false, "CorDA" CONVERT},
    {"lora_ga", true, false, "LoRA-GA" CONVERT},
    {"loftq", true, false,
     "LoftQ changes the base's weights; serve the base that LoftQ wrote and set init_lora_weights to true, or merge "
     "the "
     "adapter into it by merge_and_unload()"},
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* --- what is refused --- */

static bool neutral(const json_t *v, unsigned also)
{
    const char *s = json_string_value(v);
    if (json_is_null(v)) return !(also & NOT_NULL);
    return (also & OFF_FALSE && json_is_false(v)) || (also & OFF_NONE && s && !strcmp(s, "none")) ||
           (also & OFF_LIST && json_is_array(v) && !json_array_size(v)) ||
           (also & OFF_OBJECT && json_is_object(v) && !json_object_size(v));
}

/* A field of a newer PEFT, or of somebody's fork. */
static bool unknown_matters(const char *name, const json_t *v)
{
    size_t n = strlen(name);
    bool a_switch = !strncmp(name, "use_", 4), settings = n > 7 && !strcmp(name + n - 7, "_config");
    return (a_switch || settings) && !neutral(v, OFF_FALSE);
}

static int field_check(const char *name, const json_t *v, struct err *e)
{
    for (size_t i = 0; i < COUNT(fields); i++) {
        if (strcmp(name, fields[i].name)) continue;
        if (fields[i].rule != NEUTRAL || neutral(v, fields[i].neutral)) return 0;
        return err_field(e, ERR_ADAPTER_INVALID, name, "adapter_config.json: %s is set: %s", name, fields[i].why);
    }
    if (unknown_matters(name, v))
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: %.80s is set, and this server does not know it" PLAINLY, name);
    return 0;
}

static bool init_is(size_t i, const char *s)
{
    size_t n = strlen(inits[i].word);
    if (inits[i].any_case ? strncasecmp(s, inits[i].word, n) : strncmp(s, inits[i].word, n)) return false;
    if (inits[i].counted && !strncmp(s + n, "_niter_", 7)) n += 7 + strspn(s + n + 7, "0123456789");
    return !s[n];
}

static int init_check(const json_t *v, struct err *e)
{
    const char *s = json_string_value(v);
    if (!v || json_is_null(v) || json_is_boolean(v)) return 0;
    if (!s)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: init_lora_weights is no boolean and no name; true says nothing special");
    for (size_t i = 0; i < COUNT(inits); i++) {
        if (!init_is(i, s)) continue;
        return inits[i].changes ? err_set(e, ERR_ADAPTER_INVALID,
                                          "adapter_config.json: init_lora_weights \"%.40s\": %s", s, inits[i].changes)
                                : 0;
    }
    return err_set(
        e, ERR_ADAPTER_INVALID,
        "adapter_config.json: init_lora_weights \"%.40s\" is not known to leave the base as it is; if it does, "
        "set it to true, else merge the adapter into its base by merge_and_unload()",
        s);
}

static int fields_check(const json_t *o, struct err *e)
{
    const char *name, *type = json_string_value(json_object_get(o, "peft_type"));
    json_t *v;
    if (!type) return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: peft_type is missing" AS_SAVED);
    if (strcmp(type, "LORA"))
        return err_set(
            e, ERR_ADAPTER_INVALID,
            "adapter_config.json: peft_type %.40s is not served, only LORA; train with LoraConfig, or merge the "
            "adapter into its base",
            type);
    json_object_foreach((json_t *)o, name, v) if (field_check(name, v, e)) return -1;
    return init_check(json_object_get(o, "init_lora_weights"), e);
}

/* --- what is read --- */

static int wrong(struct err *e, const char *field, const char *wanted)
{
    return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: %s is not %s" AS_SAVED, field, wanted);
}

/* The getters of base/json.h speak of requests; here it is the adapter that is invalid. */
static int from_json_err(struct err *e, const struct err *why)
{
    enum err_code code = why->code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_ADAPTER_INVALID;
    return err_set(e, code, "adapter_config.json: %.300s" AS_SAVED, why->msg);
}

static int read_scalars(struct peft_config *c, const json_t *o, struct err *e)
{
    struct err why = {0};
    int64_t r = 0;
    bool has_r = false, has_alpha = false;
    c->base_model = "";
    if (json_get_int(o, "r", INT32_MIN, INT32_MAX, &r, &has_r, &why) ||
        json_get_num(o, "lora_alpha", -1e9, 1e9, &c->lora_alpha, &has_alpha, &why) ||
        json_get_bool(o, "use_rslora", &c->use_rslora, NULL, &why) ||
        json_get_bool(o, "use_dora", &c->use_dora, NULL, &why) ||
        json_get_bool(o, "fan_in_fan_out", &c->fan_in_fan_out, NULL, &why) ||
        json_get_bool(o, "ensure_weight_tying", &c->ensure_weight_tying, NULL, &why) ||
        json_get_str(o, "base_model_name_or_path", 4096, &c->base_model, NULL, &why))
        return from_json_err(e, &why);
    if (!has_r) return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: r is missing" AS_SAVED);
    if (!has_alpha) return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: lora_alpha is missing" AS_SAVED);
    if (r < 1 || r > PEFT_RANK_MAX)
        return err_set(
            e, ERR_ADAPTER_INVALID,
            "adapter_config.json: r is %lld, not 1 to %d, which is as far as max_rank goes; train with such a "
            "rank, or merge the adapter into its base",
            (long long)r, PEFT_RANK_MAX);
    c->r = (int)r;
    return 0;
}

static int read_pattern_value(const char *field, const char *key, const json_t *v, bool rank, double *out,
                              struct err *e)
{
    double x = json_number_value(v);
    if (!json_is_number(v) || (rank && !json_is_integer(v)))
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: %s \"%.80s\" is not a number", field, key);
    if (rank && (x < 1 || x > PEFT_RANK_MAX))
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: %s \"%.80s\" is %g, not 1 to %d", field, key, x,
                       PEFT_RANK_MAX);
    if (!(fabs(x) <= 1e9))
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: %s \"%.80s\" is %g, out of range", field, key, x);
    *out = x;
    return 0;
}

static int read_patterns(struct peft_pattern **out, int *count, const json_t *o, const char *field, bool rank,
                         struct err *e)
{
    const json_t *v = json_object_get(o, field);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_object(v)) return wrong(e, field, "an object of patterns");
    size_t n = json_object_size(v);
    if (n > PEFT_PATTERNS)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: %s has %zu patterns, more than %d", field, n,
                       PEFT_PATTERNS);
    *out = calloc(n + 1, sizeof **out);
    if (!*out) return err_set(e, ERR_NO_MEMORY, "out of memory for patterns");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value) /* jansson keeps the file's order, which decides */
    {
        struct peft_pattern *p = &(*out)[*count];
        if (read_pattern_value(field, key, value, rank, &p->value, e)) return -1;
        p->key = key;
        ++*count;
    }
    return 0;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A list of strings, sorted, each once. */
static int read_strings(const char ***out, int *count, const json_t *v, const char *field, int max, struct err *e)
{
    size_t n = json_array_size(v);
    if (n > (size_t)max)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: %s has %zu names, more than %d", field, n, max);
    *out = calloc(n + 1, sizeof **out);
    if (!*out) return err_set(e, ERR_NO_MEMORY, "out of memory for %s", field);
    for (size_t i = 0; i < n; i++) {
        (*out)[i] = json_string_value(json_array_get(v, i));
        if (!(*out)[i] || !*(*out)[i]) return wrong(e, field, "a list of names");
    }
    qsort(*out, n, sizeof **out, by_string);
    for (size_t i = 0; i < n; i++)
        if (!*count || strcmp((*out)[*count - 1], (*out)[i])) (*out)[(*count)++] = (*out)[i];
    return 0;
}

/* null, a regex, or a list of names. */
static int read_modules(const char ***list, int *count, const char **regex, const json_t *o, const char *field,
                        struct err *e)
{
    const json_t *v = json_object_get(o, field);
    if (!v || json_is_null(v)) return 0;
    if (json_is_array(v)) return read_strings(list, count, v, field, PEFT_TARGETS, e);
    if (!json_is_string(v)) return wrong(e, field, "a list of names or a pattern");
    if (json_string_length(v)) *regex = json_string_value(v);
    return 0;
}

static int by_int(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static int read_layer(int *out, const json_t *v, struct err *e)
{
    if (!json_is_integer(v)) return wrong(e, "layers_to_transform", "a layer or a list of layers");
    json_int_t i = json_integer_value(v);
    if (i < 0 || i >= PEFT_LAYERS_MAX)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: layers_to_transform names layer %lld",
                       (long long)i);
    *out = (int)i;
    return 0;
}

static int read_layers(struct peft_config *c, const json_t *v, struct err *e)
{
    if (!v || json_is_null(v) || (json_is_array(v) && !json_array_size(v))) return 0;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > PEFT_LAYERS_MAX) return wrong(e, "layers_to_transform", "a list of at most 1024 layers");
    c->layers_to_transform = calloc(n, sizeof *c->layers_to_transform);
    if (!c->layers_to_transform) return err_set(e, ERR_NO_MEMORY, "out of memory for layers");
    for (size_t i = 0; i < n; i++)
        if (read_layer(&c->layers_to_transform[i], json_is_array(v) ? json_array_get(v, i) : v, e)) return -1;
    qsort(c->layers_to_transform, n, sizeof(int), by_int);
    for (size_t i = 0; i < n; i++)
        if (!i || c->layers_to_transform[i] != c->layers_to_transform[i - 1])
            c->layers_to_transform[c->nlayers_to_transform++] = c->layers_to_transform[i];
    return 0;
}

static int read_layers_pattern(struct peft_config *c, const json_t *v, struct err *e)
{
    if (!v || json_is_null(v)) return 0;
    if (json_is_array(v))
        return read_strings(&c->layers_pattern, &c->nlayers_pattern, v, "layers_pattern", PEFT_PATTERNS, e);
    if (!json_is_string(v)) return wrong(e, "layers_pattern", "a pattern or a list of patterns");
    if (!json_string_length(v)) return 0;
    c->layers_pattern = calloc(1, sizeof *c->layers_pattern);
    if (!c->layers_pattern) return err_set(e, ERR_NO_MEMORY, "out of memory for layers_pattern");
    c->layers_pattern[c->nlayers_pattern++] = json_string_value(v);
    return 0;
}

static bool is_module(const char *name, const char *module)
{
    size_t n = strlen(name), k = strlen(module);
    return n >= k && !strcmp(name + n - k, module) && (n == k || name[n - k - 1] == '.');
}

/* Names in a decoder of the families served. */
static const char *const decoder_names[] = {
    "model",     "layers",
    "self_attn", "mlp",
    "norm",      "input_layernorm",
    "q_norm",    "post_attention_layernorm",
    "k_norm",    "pre_feedforward_layernorm",
    "q_proj",    "post_feedforward_layernorm",
    "k_proj",    "block_sparse_moe",
    "v_proj",    "gate_up_proj",
    "o_proj",    "rotary_emb",
    "qkv_proj",  "resid_attn_dropout",
    "gate_proj", "resid_mlp_dropout",
    "up_proj",   "down_proj",
    "gate",      "experts",
    "act_fn",    "activation_fn",
    "lm_head",   "embed_tokens",
};

/* PEFT saves the modules whose paths end in the name, letter by letter. */
static bool in_decoder(const char *name)
{
    const char *last = strrchr(name, '.');
    last = last ? last + 1 : name;
    size_t k = strlen(last);
    if (strspn(last, "0123456789") == k) return true; /* a layer or an expert */
    for (size_t i = 0; i < COUNT(decoder_names); i++) {
        size_t n = strlen(decoder_names[i]);
        if (n >= k && !strcmp(decoder_names[i] + n - k, last)) return true;
    }
    return false;
}

/* Whole modules beside LoRA: those that have a place of their own in a step. A name of nothing in the model (a
 * classifier's "score") is passed over, as PEFT does; a tensor of it in the file would be found. */
static int read_saved(struct peft_config *c, const json_t *v, struct err *e)
{
    if (!v || json_is_null(v)) return 0;
    if (!json_is_array(v)) return wrong(e, "modules_to_save", "a list of names");
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_array_get(v, i));
        if (!name) return wrong(e, "modules_to_save", "a list of names");
        bool embed = is_module(name, "embed_tokens"), head = is_module(name, "lm_head");
        if (!embed && !head && in_decoder(name))
            return err_field(e, ERR_ADAPTER_INVALID, "modules_to_save",
                             "adapter_config.json: modules_to_save names %.80s: only embed_tokens and lm_head are "
                             "served whole; adapt it by target_modules, or merge the adapter into its base by "
                             "merge_and_unload()",
                             name);
        c->saves_embed |= embed;
        c->saves_head |= head;
    }
    return 0;
}

/* PEFT's own choice for a config without any is the same for all families that are served. */
static int default_targets(struct peft_config *c, const json_t *o, struct err *e)
{
    const json_t *v = json_object_get(o, "target_modules");
    if ((v && !json_is_null(v)) || c->ntarget_parameters) return 0;
    c->target_modules = calloc(3, sizeof *c->target_modules);
    if (!c->target_modules) return err_set(e, ERR_NO_MEMORY, "out of memory for target_modules");
    c->target_modules[c->ntarget_modules++] = "q_proj";
    c->target_modules[c->ntarget_modules++] = "v_proj";
    return 0;
}

static int read_parameters(struct peft_config *c, const json_t *v, struct err *e)
{
    if (!v || json_is_null(v)) return 0;
    if (!json_is_array(v)) return wrong(e, "target_parameters", "a list of names");
    return read_strings(&c->target_parameters, &c->ntarget_parameters, v, "target_parameters", PEFT_TARGETS, e);
}

static int read_invocation(struct peft_config *c, const json_t *v, struct err *e)
{
    if (!v || json_is_null(v)) return 0;
    size_t n = json_array_size(v);
    if (!json_is_array(v) || n < 1 || n > PEFT_INVOCATION_MAX)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: alora_invocation_tokens is not a list of 1 to %d token ids" AS_SAVED,
                       PEFT_INVOCATION_MAX);
    c->invocation = calloc(n, sizeof *c->invocation);
    if (!c->invocation) return err_set(e, ERR_NO_MEMORY, "out of memory for tokens");
    for (; (size_t)c->ninvocation < n; c->ninvocation++) {
        const json_t *id = json_array_get(v, (size_t)c->ninvocation);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return wrong(e, "alora_invocation_tokens", "a list of token ids");
        c->invocation[c->ninvocation] = (int32_t)json_integer_value(id);
    }
    return 0;
}

/* PEFT wakes an aLoRA in models for text alone, and loads whole modules whether it is awake or not. */
static int check_invocation(const struct peft_config *c, const json_t *o, struct err *e)
{
    const char *task = json_string_value(json_object_get(o, "task_type"));
    if (!c->ninvocation) return 0;
    if (c->use_dora || c->ntarget_parameters)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: alora_invocation_tokens does not go with use_dora or target_parameters; "
                       "train with one of them");
    if (c->saves_embed || c->saves_head)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: alora_invocation_tokens is not served with modules_to_save, which would "
                       "count before the invocation too; train without modules_to_save");
    if (task && !strcmp(task, "CAUSAL_LM")) return 0;
    return err_set(
        e, ERR_ADAPTER_INVALID,
        "adapter_config.json: task_type is \"%.40s\", and with alora_invocation_tokens PEFT wakes the adapter "
        "under CAUSAL_LM only; set task_type to CAUSAL_LM",
        task ? task : "");
}

static int read_all(struct peft_config *c, const json_t *o, struct err *e)
{
    if (read_scalars(c, o, e) || read_patterns(&c->rank_pattern, &c->nrank_pattern, o, "rank_pattern", true, e) ||
        read_patterns(&c->alpha_pattern, &c->nalpha_pattern, o, "alpha_pattern", false, e) ||
        read_modules(&c->target_modules, &c->ntarget_modules, &c->target_regex, o, "target_modules", e) ||
        read_modules(&c->exclude_modules, &c->nexclude_modules, &c->exclude_regex, o, "exclude_modules", e) ||
        read_saved(c, json_object_get(o, "modules_to_save"), e) ||
        read_parameters(c, json_object_get(o, "target_parameters"), e) ||
        read_invocation(c, json_object_get(o, "alora_invocation_tokens"), e) ||
        read_layers(c, json_object_get(o, "layers_to_transform"), e) ||
        read_layers_pattern(c, json_object_get(o, "layers_pattern"), e))
        return -1;
    if (default_targets(c, o, e)) return -1;
    if (!c->ntarget_modules && !c->target_regex && !c->ntarget_parameters)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: target_modules is empty" AS_SAVED);
    if (check_invocation(c, o, e)) return -1;
    if (c->target_regex && c->nlayers_to_transform)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: layers_to_transform goes with a list in target_modules, not with a "
                       "pattern; PEFT does "
                       "not count it there: take it out");
    return 0;
}

/* --- the canonical form --- */

static json_t *number(double x)
{
    return x == floor(x) && fabs(x) < 1e15 ? json_integer((json_int_t)x) : json_real(x);
}

/* Takes both; NULL when memory is short, and so through to json_pack(), which then gives up: a digest never lacks a
 * part. */
static json_t *append(json_t *list, json_t *v)
{
    if (!list) {
        json_decref(v);
        return NULL;
    }
    if (!json_array_append_new(list, v)) return list;
    json_decref(list);
    return NULL;
}

/* As pairs, in the file's order: the first match wins, so the order is part of what they mean. */
static json_t *pattern_pairs(const struct peft_pattern *p, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) list = append(list, json_pack("[s,o]", p[i].key, number(p[i].value)));
    return list;
}

static json_t *strings(const char *const *s, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) list = append(list, json_string(s[i]));
    return list;
}

static json_t *ints(const int *v, int n)
{
    if (!n) return json_null();
    json_t *list = json_array();
    for (int i = 0; i < n; i++) list = append(list, json_integer(v[i]));
    return list;
}

/* Fields that adapters without them never had in their digest. */
static int canonical_extend(json_t *o, const struct peft_config *c)
{
    json_t *saved = json_array();
    if (c->saves_embed) saved = append(saved, json_string("embed_tokens"));
    if (c->saves_head) saved = append(saved, json_string("lm_head"));
    int rc = !saved;
    if (json_array_size(saved)) rc |= json_object_set(o, "modules_to_save", saved);
    json_decref(saved);
    if (c->ntarget_parameters)
        rc |= json_object_set_new(o, "target_parameters", strings(c->target_parameters, c->ntarget_parameters));
    if (c->ensure_weight_tying) rc |= json_object_set_new(o, "ensure_weight_tying", json_true());
    return rc;
}

static int canonical_make(struct peft_config *c, struct err *e)
{
    json_t *o =
        json_pack("{s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:b, s:o}", "peft_type", "LORA", "r", c->r,
                  "lora_alpha", number(c->lora_alpha), "target_modules",
                  c->target_regex ? json_string(c->target_regex) : strings(c->target_modules, c->ntarget_modules),
                  "rank_pattern", pattern_pairs(c->rank_pattern, c->nrank_pattern), "alpha_pattern",
                  pattern_pairs(c->alpha_pattern, c->nalpha_pattern), "layers_to_transform",
                  ints(c->layers_to_transform, c->nlayers_to_transform), "layers_pattern",
                  c->nlayers_pattern ? strings(c->layers_pattern, c->nlayers_pattern) : json_null(), "use_rslora",
                  c->use_rslora, "use_dora", c->use_dora, "fan_in_fan_out", c->fan_in_fan_out,
                  "alora_invocation_tokens", ints(c->invocation, c->ninvocation));
    struct buf b;
    buf_init(&b, 4 * PEFT_CONFIG_MAX);
    int rc = o && !canonical_extend(o, c) ? json_dump(o, true, &b) : -1;
    json_decref(o);
    if (!rc) c->canonical = buf_take(&b);
    buf_close(&b);
    return c->canonical ? 0 : err_set(e, ERR_NO_MEMORY, "out of memory for the adapter's config");
}

/* --- life --- */

int peft_parse(struct peft_config **out, const char *text, size_t len, struct err *e)
{
    struct err why = {0};
    json_t *o = NULL;
    if (len == 0) return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json is empty" AS_SAVED);
    if (len >= LFS_LEN && !memcmp(text, LFS_MAGIC, LFS_LEN))
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json " LFS_TOLD);
    if (len > PEFT_CONFIG_MAX)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json has %zu bytes, more than %u", len, PEFT_CONFIG_MAX);
    if (json_parse_wide(text, len, &o, &why)) return from_json_err(e, &why);
    struct peft_config *c = calloc(1, sizeof *c);
    if (!c) {
        json_decref(o);
        return err_set(e, ERR_NO_MEMORY, "out of memory for the adapter's config");
    }
    c->json = o;
    if (fields_check(o, e) || read_all(c, o, e) || peft_match_new(c, e) || canonical_make(c, e)) {
        peft_free(c);
        return -1;
    }
    *out = c;
    return 0;
}

static int read_upto(int fd, char *text, size_t cap, size_t *len, struct err *e)
{
    while (*len < cap) {
        ssize_t n = read(fd, text + *len, cap - *len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_errno(e, "can't read adapter_config.json");
        if (n == 0) break;
        *len += (size_t)n;
    }
    return 0;
}

static int open_plain(const char *path, struct err *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json is missing; save_pretrained() writes it beside adapter_model.safetensors");
    if (fd < 0 && errno == ELOOP)
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json is a symbolic link; copy the file that it names to its place");
    if (fd < 0) return err_errno(e, "can't open adapter_config.json");
    if (!fstat(fd, &st) && S_ISREG(st.st_mode)) return fd;
    close(fd);
    return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json is not a plain file; put the file itself in its place");
}

int peft_load(struct peft_config **out, const char *path, struct err *e)
{
    int fd = open_plain(path, e);
    if (fd < 0) return -1;
    struct stat st;
    bool known = fstat(fd, &st) == 0 && st.st_size < PEFT_CONFIG_MAX;
    size_t len = 0, cap = (known ? (size_t)st.st_size : PEFT_CONFIG_MAX) + 1; /* one more than allowed, so that too much is seen */
    char *text = malloc(cap);
    int rc = text ? read_upto(fd, text, cap, &len, e) : err_set(e, ERR_NO_MEMORY, "out of memory for a config");
    if (!rc) rc = peft_parse(out, text, len, e);
    free(text);
    close(fd);
    return rc;
}

const char *peft_kind(const struct peft_config *c)
{
    return c->ninvocation ? "alora" : c->use_dora ? "dora" : "lora";
}

void peft_free(struct peft_config *c)
{
    if (!c) return;
    peft_match_free(c->match);
    json_decref(c->json);
    free(c->rank_pattern);
    free(c->alpha_pattern);
    free(c->layers_to_transform);
    free(c->layers_pattern);
    free(c->target_modules);
    free(c->exclude_modules);
    free(c->target_parameters);
    free(c->invocation);
    free(c->canonical);
    free(c);
}
