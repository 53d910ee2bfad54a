/* capture_policy: the part `capture` of an alias, read when it is set, with all defaults written out. Pure functions over JSON; any thread. */
#include "gateway/capture/capture_policy.h"
#include "gateway/capture/redact.h"
#include "gateway/proxy/json_walk.h"
#include <string.h>

#define NAME_LEN 32
#define SAMPLE_LEAST 0.0001
#define KINDS_MAX 16 /* words that `redact` may have */

static int read_kind(json_t *word, json_t **list, struct err *e)
{
    const char *kind = json_string_value(word);
    if (!kind || !redact_is_kind(kind)) return err_field(e, ERR_INVALID, "redact", "'redact' can't be '%.40s'.", kind ? kind : "that");
    if (redact_names(*list, kind)) return err_field(e, ERR_INVALID, "redact", "'redact' names '%s' twice.", kind);
    json_list_add(list, json_incref(word));
    return 0;
}

/* All kinds where nothing is said; an empty list is said. */
static int read_kinds(const json_t *v, json_t **out, struct err *e)
{
    json_t *list = json_array(), *word;
    size_t i;
    int rc = 0;
    if (!v || json_is_null(v))
        for (int k = 0; redact_kind(k); k++) json_list_add(&list, json_string(redact_kind(k)));
    else if (!json_is_array(v) || json_array_size(v) > KINDS_MAX)
        rc = err_field(e, ERR_INVALID, "redact", "'redact' is a list of kinds.");
    json_array_foreach(v, i, word) if (rc == 0) rc = read_kind(word, &list, e);
    if (rc == 0 && !list) rc = err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    if (rc) json_decref(list);
    else *out = list;
    return rc;
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
    if (!json_is_object(v) || json_check_fields(v, names, "", &why) || json_need_str(v, "name", NAME_LEN, &name, &why) ||
        json_need_str(v, "regex", REDACT_PATTERN_LEN, &regex, &why))
        return err_field(e, ERR_INVALID, "patterns", "A pattern is an object {name, regex}: a name of %d characters, a regular expression of %d bytes at most.",
                         NAME_LEN, REDACT_PATTERN_LEN);
    if (!is_word(name)) return err_field(e, ERR_INVALID, "patterns", "A pattern's name has a-z, 0-9, _ and -.");
    json_list_add(list, json_pack("{ss ss}", "name", name, "regex", regex));
    return 0;
}

static int read_patterns(const json_t *v, json_t **out, struct err *e)
{
    json_t *list = json_array(), *one;
    struct redactor *r = NULL;
    size_t i;
    int rc = 0;
    if (v && !json_is_null(v) && (!json_is_array(v) || json_array_size(v) > REDACT_PATTERNS_MAX))
        rc = err_field(e, ERR_INVALID, "patterns", "'patterns' is a list of at most %d.", REDACT_PATTERNS_MAX);
    json_array_foreach(v, i, one) if (rc == 0) rc = read_pattern(one, &list, e);
    if (rc == 0) rc = redactor_new(&r, NULL, list, e);
    redactor_free(r);
    if (rc == 0 && !list) rc = err_set(e, ERR_NO_MEMORY, "no memory for an alias");
    if (rc) json_decref(list);
    else *out = list;
    return rc;
}

static int read_lists(const json_t *v, json_t **kinds, json_t **patterns, struct err *e)
{
    if (read_kinds(json_object_get(v, "redact"), kinds, e)) return -1;
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
    *out = NULL;
    if (!v || json_is_null(v) || (json_is_object(v) && json_object_size(v) == 0)) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, CAPTURE_FIELD, "'%s' must be an object.", CAPTURE_FIELD);
    if (json_check_fields(v, names, "", e) || json_get_num(v, "sample", SAMPLE_LEAST, 1, &sample, NULL, e) ||
        json_get_int(v, "expires_days", 1, CAPTURE_DAYS_MAX, &days, NULL, e) || json_get_int(v, "max_rows", 1, CAPTURE_ROWS_MAX, &rows, NULL, e) ||
        json_get_int(v, "top_logprobs", 0, CAPTURE_TOP_MAX, &top, NULL, e) || read_lists(v, &kinds, &patterns, e))
        return err_within(e, CAPTURE_FIELD);
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

void capture_unask_logprobs(json_t *root)
{
    json_object_del(root, "logprobs");
    json_object_del(root, "top_logprobs");
}

bool capture_ask_logprobs(json_t *root, int top)
{
    json_t *said = json_object_get(root, "logprobs");
    if (!top || (said && !json_is_false(said) && !json_is_null(said)) || json_object_get(root, "top_logprobs")) return false;
    return json_object_set_new(root, "logprobs", json_true()) == 0 && json_object_set_new(root, "top_logprobs", json_integer(top)) == 0;
}
