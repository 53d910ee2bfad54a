/* api_params_output: what a request says of its answer: how many, of which shape, with which tools and adapters.
 *
 * A shape may be asked for in OpenAI's words (response_format) or in vLLM's (structured_outputs, and guided_* of older
 * clients); at most one of them, and none beside a forced tool, which is a shape too. The schema itself is judged where
 * it is compiled (constrain.h). Runs on HTTP workers; no state of its own. */
#include "base/json.h"
#include "engine/api_params_impl.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define BIAS_LIMIT 100.0
#define WEIGHT_LIMIT 16.0
#define ADAPTER_NAME_MAX 256

/* --- how many --- */

int ask_parse_choices(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    if (a->best_of && a->best_of != a->n)
        return err_field(e, ERR_UNSUPPORTED, "best_of", "'best_of' is only supported where it is equal to 'n'");
    return 0;
}

/* --- logit_bias --- */

static int bias_id(const char *key, int vocab, int32_t *id, struct err *e)
{
    char *end;
    long v = strtol(key, &end, 10);
    if (!isdigit((unsigned char)key[0]) || (key[0] == '0' && key[1]) || *end || v >= vocab)
        return err_field(e, ERR_INVALID, "logit_bias", "'logit_bias' has a key that is no token id below %d", vocab);
    *id = (int32_t)v;
    return 0;
}

int ask_parse_bias(struct ask *a, int vocab, struct err *e)
{
    const json_t *v = ask_given(a, "logit_bias"), *value;
    const char *key;
    if (!v || (json_is_array(v) && json_array_size(v) == 0)) return 0;
    if (!json_is_object(v))
        return err_field(e, ERR_INVALID, "logit_bias", "'logit_bias' must be an object of token ids and numbers");
    size_t n = json_object_size(v);
    if (n > ASK_BIASES_MAX)
        return err_field(e, ERR_INVALID, "logit_bias", "'logit_bias' holds more than %d tokens", ASK_BIASES_MAX);
    struct token_bias *bias = malloc((n ? n : 1) * sizeof *bias);
    if (!bias) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    a->p.bias = bias;
    json_object_foreach((json_t *)v, key, value)
    {
        double d = json_number_value(value);
        if (!json_is_number(value) || d < -BIAS_LIMIT || d > BIAS_LIMIT)
            return err_field(e, ERR_INVALID, "logit_bias", "the bias of token %.40s must be a number from -%g to %g",
                             key, BIAS_LIMIT, BIAS_LIMIT);
        if (bias_id(key, vocab, &bias[a->p.nbias].id, e)) return -1;
        bias[a->p.nbias++].bias = (float)d;
    }
    return 0;
}

/* --- shapes --- */

static int set_format(struct ask *a, enum ask_format kind, const char *field, const json_t *value, struct err *e)
{
    if (a->format.kind)
        return err_field(e, ERR_INVALID, field, "'%s' and '%s' both say what the answer must look like", field,
                         a->format.field);
    a->format.kind = kind;
    a->format.field = field;
    a->format.value = value;
    return 0;
}

static int response_format(struct ask *a, struct err *e)
{
    const char *name = "response_format", *type = NULL;
    const json_t *v = ask_given(a, name);
    if (!v) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, name, "'%s' must be an object", name);
    if (json_need_str(v, "type", 64, &type, e)) return err_within(e, name);
    if (!strcmp(type, "text")) return 0;
    if (!strcmp(type, "json_object")) return set_format(a, FORMAT_JSON_OBJECT, name, NULL, e);
    if (strcmp(type, "json_schema"))
        return err_field(e, ERR_UNSUPPORTED, name,
                         "'%s' of this type is not supported, only \"text\", \"json_object\" and \"json_schema\" are",
                         name);
    const json_t *schema = json_object_get(json_object_get(v, "json_schema"), "schema");
    if (!schema)
        return err_field(e, ERR_MISSING, "response_format.json_schema.schema", "'json_schema' needs a 'schema'");
    return set_format(a, FORMAT_JSON_SCHEMA, name, schema, e);
}

/* A schema may come as JSON text: its value then stands in the request's JSON under `key`, which owns it. */
static int guided_json(struct ask *a, json_t *owner, const char *key, const char *field, struct err *e)
{
    json_t *v = json_object_get(owner, key);
    if (json_is_string(v)) {
        json_error_t je;
        json_t *parsed = json_load(json_string_value(v), json_string_length(v), JSON_REJECT_DUPLICATES, &je);
        if (!parsed && json_lacked_memory(&je)) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
        if (!parsed) return err_field(e, ERR_INVALID, field, "'%s' is a text that is not a JSON object", field);
        if (json_object_set_new(owner, key, parsed)) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
        v = parsed;
    }
    if (!json_is_object(v) && !json_is_boolean(v))
        return err_field(e, ERR_INVALID, field, "'%s' must be a JSON schema", field);
    return set_format(a, FORMAT_JSON_SCHEMA, field, v, e);
}

static int guided_regex(struct ask *a, const json_t *v, const char *field, struct err *e)
{
    if (!json_is_string(v)) return err_field(e, ERR_INVALID, field, "'%s' must be a string", field);
    return set_format(a, FORMAT_REGEX, field, v, e);
}

static int guided_choice(struct ask *a, const json_t *v, const char *field, struct err *e)
{
    size_t n = json_array_size(v);
    if (n == 0 || n > ASK_ALTERNATIVES_MAX)
        return err_field(e, ERR_INVALID, field, "'%s' must be an array of 1 to %d strings", field,
                         ASK_ALTERNATIVES_MAX);
    for (size_t i = 0; i < n; i++)
        if (!json_string_length(json_array_get(v, i)))
            return err_field(e, ERR_INVALID, field, "'%s' must hold strings that are not empty", field);
    return set_format(a, FORMAT_CHOICE, field, v, e);
}

/* vLLM's object: one of its members says the shape. */
static int structured_outputs(struct ask *a, struct err *e)
{
    const char *name = "structured_outputs", *key;
    json_t *v = ask_given(a, name), *value;
    if (!v) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, name, "'%s' must be an object", name);
    json_object_foreach(v, key, value)
    {
        int rc = 0;
        if (json_is_null(value)) continue;
        if (!strcmp(key, "json"))
            rc = guided_json(a, v, "json", name, e);
        else if (!strcmp(key, "regex"))
            rc = guided_regex(a, value, name, e);
        else if (!strcmp(key, "choice"))
            rc = guided_choice(a, value, name, e);
        else if (!strcmp(key, "json_object"))
            rc = json_is_true(value) ? set_format(a, FORMAT_JSON_OBJECT, name, NULL, e) : 0;
        else
            rc = err_field(e, ERR_UNSUPPORTED, name,
                           "'%s' with '%.40s' is not supported (json, regex, choice and json_object are)", name, key);
        if (rc) return rc;
    }
    return 0;
}

int ask_parse_format(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    const json_t *regex = ask_given(a, "guided_regex"), *choice = ask_given(a, "guided_choice");
    if (response_format(a, e) || structured_outputs(a, e)) return -1;
    if (ask_given(a, "guided_json") && guided_json(a, a->root, "guided_json", "guided_json", e)) return -1;
    if (regex && guided_regex(a, regex, "guided_regex", e)) return -1;
    return choice ? guided_choice(a, choice, "guided_choice", e) : 0;
}

/* --- tools --- */

static bool good_tool_name(const char *s)
{
    size_t n = 0;
    for (; s[n]; n++)
        if (!isalnum((unsigned char)s[n]) && !strchr("_-.", s[n])) return false;
    return n > 0 && n <= TOOL_NAME_MAX;
}

static const char *name_of_tool(const json_t *tool)
{
    const char *s = json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
    return s ? s : "";
}

static int check_tool(const struct ask *a, size_t i, struct err *e)
{
    const json_t *tool = json_array_get(a->tools, i), *f = json_object_get(tool, "function");
    const char *type = json_string_value(json_object_get(tool, "type")), *name = NULL;
    if (!json_is_object(tool) || !type || strcmp(type, "function") || !json_is_object(f))
        return err_field(e, ERR_INVALID, "tools", "tool %zu must be {\"type\":\"function\",\"function\":{...}}", i);
    name = json_string_value(json_object_get(f, "name"));
    if (!name || !good_tool_name(name))
        return err_field(e, ERR_INVALID, "tools",
                         "tool %zu needs a 'name' of 1 to %d letters, digits, dots, dashes and underscores", i,
                         TOOL_NAME_MAX);
    const json_t *p = json_object_get(f, "parameters");
    if (p && !json_is_null(p) && !json_is_object(p))
        return err_field(e, ERR_INVALID, "tools", "the 'parameters' of tool %.64s must be a JSON schema", name);
    const json_t *kind = json_object_get(p, "type");
    if (kind && (!json_is_string(kind) || strcmp(json_string_value(kind), "object") != 0))
        return err_field(e, ERR_INVALID, "tools", "the 'parameters' of tool %.64s must be of type \"object\"", name);
    for (size_t k = 0; k < i; k++)
        if (!strcmp(name_of_tool(json_array_get(a->tools, k)), name))
            return err_field(e, ERR_INVALID, "tools", "two tools are called %.64s", name);
    return 0;
}

static int named_choice(struct ask *a, const json_t *v, struct err *e)
{
    const char *name = name_of_tool(v);
    for (size_t i = 0; i < json_array_size(a->tools); i++) {
        if (strcmp(name_of_tool(json_array_get(a->tools, i)), name) != 0) continue;
        a->tool_choice = TOOL_CHOICE_NAMED;
        a->tool_named = name;
        return 0;
    }
    return err_field(e, ERR_INVALID, "tool_choice", "'tool_choice' names '%.64s', which is none of the 'tools'", name);
}

static int parse_tool_choice(struct ask *a, struct err *e)
{
    static const char *const words[] = {"none", "auto", "required"};
    const json_t *v = ask_given(a, "tool_choice");
    const char *word = json_string_value(v);
    a->tool_choice = a->tools ? TOOL_CHOICE_AUTO : TOOL_CHOICE_NONE;
    if (!v) return 0;
    if (json_is_object(v)) return named_choice(a, v, e);
    for (int i = 0; word && i < 3; i++) {
        if (strcmp(word, words[i]) != 0) continue;
        if (i == TOOL_CHOICE_REQUIRED && !a->tools)
            return err_field(e, ERR_INVALID, "tool_choice", "'tool_choice' is \"required\" and there are no 'tools'");
        if (a->tools) a->tool_choice = (enum tool_choice)i;
        return 0;
    }
    return err_field(e, ERR_INVALID, "tool_choice",
                     "'tool_choice' must be \"none\", \"auto\", \"required\" or a function");
}

int ask_parse_tools(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    if (a->kind != ASK_CHAT) return 0;
    const json_t *v = ask_given(a, "tools");
    if (v && !json_is_array(v)) return err_field(e, ERR_INVALID, "tools", "'tools' must be an array");
    if (json_array_size(v) > TOOLS_MAX) return err_field(e, ERR_INVALID, "tools", "more than %d tools", TOOLS_MAX);
    if (json_array_size(v) > 0) a->tools = v;
    for (size_t i = 0; i < json_array_size(a->tools); i++)
        if (check_tool(a, i, e)) return -1;
    a->parallel_tool_calls = true;
    if (json_get_bool(a->root, "parallel_tool_calls", &a->parallel_tool_calls, NULL, e) || parse_tool_choice(a, e))
        return -1;
    if (a->tool_choice >= TOOL_CHOICE_REQUIRED && a->format.kind)
        return err_field(e, ERR_INVALID, "tool_choice",
                         "a forced tool and '%s' both say what the answer must look like", a->format.field);
    return 0;
}

/* --- adapters --- */

static int add_adapter(struct ask *a, const json_t *v, struct err *e)
{
    const char *name = NULL;
    double weight = 1;
    if (a->nadapters == GEN_ADAPTERS)
        return err_field(e, ERR_INVALID, "adapters", "more than %d adapters", GEN_ADAPTERS);
    if (!json_is_object(v))
        return err_field(e, ERR_INVALID, "adapters", "'adapters' must hold objects {\"name\",\"weight\"}");
    if (json_need_str(v, "name", ADAPTER_NAME_MAX, &name, e) ||
        json_get_num(v, "weight", -WEIGHT_LIMIT, WEIGHT_LIMIT, &weight, NULL, e))
        return err_within(e, "adapters");
    for (int i = 0; i < a->nadapters; i++)
        if (!strcmp(a->adapter[i].name, name))
            return err_field(e, ERR_INVALID, "adapters", "the adapter '%.128s' is named twice", name);
    a->adapter[a->nadapters].name = name;
    a->adapter[a->nadapters++].weight = weight;
    return 0;
}

int ask_parse_adapters(struct ask *a, int vocab, struct err *e)
{
    (void)vocab;
    const json_t *v = ask_given(a, "adapters");
    if (!v) return 0;
    if (!json_is_array(v)) return err_field(e, ERR_INVALID, "adapters", "'adapters' must be an array");
    for (size_t i = 0; i < json_array_size(v); i++)
        if (add_adapter(a, json_array_get(v, i), e)) return -1;
    return 0;
}
