/* capture_policy: the part `capture` of an alias, read when it is set, with all defaults written out. Pure functions over JSON; any thread. */
#include "gateway/capture/capture_policy.h"
#include "gateway/capture/redact.h"
#include "gateway/proxy/json_walk.h"
#include <stdio.h>
#include <string.h>

#define NAME_LEN 32
#define SAMPLE_LEAST 0.0001

/* By the field's whole name, as the other parts of an alias do. */
static int fail(struct err *e, const struct err *why)
{
    char field[sizeof why->param];
    bool within = *why->param && strncmp(why->param, CAPTURE_FIELD, sizeof CAPTURE_FIELD - 1) != 0;
    if (snprintf(field, sizeof field, CAPTURE_FIELD ".%s", why->param) >= (int)sizeof field) within = false;
    return err_field(e, why->code, within ? field : *why->param ? why->param : CAPTURE_FIELD, "%s", why->msg);
}

static int check_names(const json_t *v, const char *const *names, const char *where, struct err *e)
{
    const char *field;
    json_t *x;
    json_object_foreach((json_t *)v, field, x)
    {
        const char *const *p = names;
        while (*p && strcmp(*p, field) != 0) p++;
        if (!*p) return err_field(e, ERR_INVALID, where, "There is no field '%.60s' here.", field);
    }
    return 0;
}

static bool has_word(const json_t *list, const char *word)
{
    const json_t *v;
    size_t i;
    json_array_foreach(list, i, v) if (strcmp(json_string_value(v), word) == 0) return true;
    return false;
}

/* All kinds where nothing is said; an empty list is said. One that is said again is one. */
static int read_kinds(const json_t *v, json_t **out, struct err *e)
{
    json_t *list = json_array(), *word;
    size_t i;
    if (!v || json_is_null(v))
        for (int k = 0; redact_kind(k); k++) json_list_add(&list, json_string(redact_kind(k)));
    else if (!json_is_array(v) || json_array_size(v) > 16)
        err_field(e, ERR_INVALID, CAPTURE_FIELD ".redact", "'redact' is a list of kinds.");
    json_array_foreach(v, i, word)
    {
        if (e->code) break;
        if (!json_is_string(word) || !redact_is_kind(json_string_value(word)))
            err_field(e, ERR_INVALID, CAPTURE_FIELD ".redact", "'redact' can't be '%.40s'.", json_is_string(word) ? json_string_value(word) : "that");
        else if (!has_word(list, json_string_value(word)))
            json_list_add(&list, json_incref(word));
    }
    if (!e->code && !list) err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    if (e->code) json_decref(list);
    else *out = list;
    return e->code ? -1 : 0;
}

static bool is_word(const char *s)
{
    return *s && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(s);
}

static int read_pattern(const json_t *v, json_t **list, struct err *e)
{
    static const char *const names[] = {"name", "regex", NULL};
    const char *name = NULL, *regex = NULL;
    struct err why = {0};
    if (!json_is_object(v) || check_names(v, names, "", &why) || json_need_str(v, "name", NAME_LEN, &name, &why) ||
        json_need_str(v, "regex", REDACT_PATTERN_LEN, &regex, &why))
        return err_field(e, ERR_INVALID, CAPTURE_FIELD ".patterns", "A pattern is an object {name, regex}: a name of %d characters, a regular expression of %d bytes at most.",
                         NAME_LEN, REDACT_PATTERN_LEN);
    if (!is_word(name)) return err_field(e, ERR_INVALID, CAPTURE_FIELD ".patterns", "A pattern's name has a-z, 0-9, _ and -.");
    json_list_add(list, json_pack("{ss ss}", "name", name, "regex", regex));
    return 0;
}

static int read_patterns(const json_t *v, json_t **out, struct err *e)
{
    json_t *list = json_array(), *one;
    struct redactor *r = NULL;
    struct err why = {0};
    size_t i;
    int rc = 0;
    if (v && !json_is_null(v) && (!json_is_array(v) || json_array_size(v) > REDACT_PATTERNS_MAX))
        rc = err_field(e, ERR_INVALID, CAPTURE_FIELD ".patterns", "'patterns' is a list of at most %d.", REDACT_PATTERNS_MAX);
    json_array_foreach(v, i, one) if (rc == 0) rc = read_pattern(one, &list, e);
    if (rc == 0 && redactor_new(&r, NULL, list, &why)) rc = err_field(e, why.code, CAPTURE_FIELD ".patterns", "%s", why.msg);
    redactor_free(r);
    if (rc == 0 && !list) rc = err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    if (rc) json_decref(list);
    else *out = list;
    return rc;
}

static int read_lists(const json_t *v, json_t **kinds, json_t **patterns, struct err *e)
{
    struct err why = {0};
    if (read_kinds(json_object_get(v, "redact"), kinds, &why)) return fail(e, &why);
    if (read_patterns(json_object_get(v, "patterns"), patterns, e) == 0) return 0;
    json_decref(*kinds);
    return -1;
}

int capture_policy_read(const json_t *v, json_t **out, struct err *e)
{
    static const char *const names[] = {"sample", "expires_days", "max_rows", "top_logprobs", "redact", "patterns", NULL};
    double sample = 1;
    int64_t days = 30, rows = 5000, top = 0;
    json_t *kinds = NULL, *patterns = NULL;
    struct err why = {0};
    *out = NULL;
    if (!v || json_is_null(v) || (json_is_object(v) && json_object_size(v) == 0)) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, CAPTURE_FIELD, "'%s' must be an object.", CAPTURE_FIELD);
    if (check_names(v, names, CAPTURE_FIELD, e)) return -1;
    if (json_get_num(v, "sample", SAMPLE_LEAST, 1, &sample, NULL, &why) || json_get_int(v, "expires_days", 1, CAPTURE_DAYS_MAX, &days, NULL, &why) ||
        json_get_int(v, "max_rows", 1, CAPTURE_ROWS_MAX, &rows, NULL, &why) || json_get_int(v, "top_logprobs", 0, CAPTURE_TOP_MAX, &top, NULL, &why))
        return fail(e, &why);
    if (read_lists(v, &kinds, &patterns, e)) return -1;
    *out = json_pack("{sf sI sI sI so so}", "sample", sample, "expires_days", (json_int_t)days, "max_rows", (json_int_t)rows, "top_logprobs", (json_int_t)top,
                     "redact", kinds, "patterns", patterns);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an alias");
}

int capture_policy_top(const char *text)
{
    struct json_span v;
    int64_t top;
    if (!json_walk_find((struct json_span){text, strlen(text)}, "top_logprobs", &v) || !json_span_count(v, &top)) return 0;
    return top <= CAPTURE_TOP_MAX ? (int)top : 0;
}

bool capture_ask_logprobs(json_t *root, int top)
{
    json_t *said = json_object_get(root, "logprobs");
    if (!top || (said && !json_is_false(said) && !json_is_null(said)) || json_object_get(root, "top_logprobs")) return false;
    return json_object_set_new(root, "logprobs", json_true()) == 0 && json_object_set_new(root, "top_logprobs", json_integer(top)) == 0;
}
