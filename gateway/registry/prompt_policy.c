/* prompt_policy: the policy of an alias, checked when it is set and put into requests when they come.
 *
 * A `template` is the gateway's own to fill (prompt_template.c). It counts no tokens, so of the rest it only says what is wanted: `truncate` and `compress` go to the
 * engine as they stand, which counts with its own tokenizer and tells what it made of it. An engine that can't is found out where the request's words are made (gateway/pool/engine_*.c),
 * and the request is refused there: a prompt is never silently longer or shorter than its alias says.
 *
 * Bounds are the engine's (engine/api_policy.c). Pure functions over JSON; any thread. */
#include "gateway/registry/prompt_policy.h"
#include "gateway/registry/prompt_template.h"
#include <string.h>

#define WHERE "prompt_policy"
#define TOKENS_MIN 16
#define TOKENS_MAX 1048576
#define TURNS_MAX 1024
#define RATIO_MIN 0.1
#define RATIO_MAX 0.95

/* --- truncate --- */

static int read_truncate(const json_t *v, json_t **out, struct err *e)
{
    static const char *const names[] = {"max_tokens", "head_turns", "last_turns", "head_tokens", NULL};
    int64_t most = 0, head = 0, last = 1, tokens = 0;
    bool given = false;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "", "It is an object {max_tokens, head_turns, last_turns, head_tokens}.");
    if (json_check_fields(v, names, NULL, e) || json_get_int(v, "max_tokens", TOKENS_MIN, TOKENS_MAX, &most, &given, e) ||
        json_get_int(v, "head_turns", 0, TURNS_MAX, &head, NULL, e) ||
        json_get_int(v, "last_turns", 1, TURNS_MAX, &last, NULL, e) ||
        json_get_int(v, "head_tokens", 0, TOKENS_MAX, &tokens, NULL, e))
        return -1;
    if (!given) return err_field(e, ERR_MISSING, "max_tokens", "'max_tokens' is missing.");
    if (tokens >= most) return err_field(e, ERR_INVALID, "head_tokens", "'head_tokens' must be less than 'max_tokens'.");
    *out = json_pack("{sI sI sI sI}", "max_tokens", (json_int_t)most, "head_turns", (json_int_t)head, "last_turns", (json_int_t)last,
                     "head_tokens", (json_int_t)tokens);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a prompt policy");
}

/* --- compress --- */

static int read_compress(const json_t *v, json_t **out, struct err *e)
{
    static const char *const names[] = {"ratio", "min_tokens", "unit", NULL};
    double ratio = 0;
    int64_t least = 256;
    const char *unit = "sentence";
    bool given = false;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "", "It is an object {ratio, min_tokens, unit}.");
    if (json_check_fields(v, names, NULL, e) || json_get_num(v, "ratio", RATIO_MIN, RATIO_MAX, &ratio, &given, e) ||
        json_get_int(v, "min_tokens", 0, TOKENS_MAX, &least, NULL, e) || json_get_str(v, "unit", 16, &unit, NULL, e))
        return -1;
    if (!given) return err_field(e, ERR_MISSING, "ratio", "'ratio' is missing.");
    if (strcmp(unit, "sentence") != 0 && strcmp(unit, "word") != 0) return err_field(e, ERR_INVALID, "unit", "'unit' must be sentence or word.");
    *out = json_pack("{sf sI ss}", "ratio", ratio, "min_tokens", (json_int_t)least, "unit", unit);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a prompt policy");
}

/* --- all of it --- */

static const struct part {
    const char *name;
    int (*read)(const json_t *v, json_t **out, struct err *e);
    bool engines; /* is the engine's to do */
} parts[] = {
    {"truncate", read_truncate, true},
    {"compress", read_compress, true},
    {"template", prompt_template_read, false},
};
#define PARTS (sizeof parts / sizeof *parts)

static int check_names(const json_t *v, struct err *e)
{
    const char *names[PARTS + 1] = {NULL};
    for (size_t i = 0; i < PARTS; i++) names[i] = parts[i].name;
    return json_check_fields(v, names, WHERE, e);
}

static int check_size(const json_t *o, struct err *e)
{
    struct buf text;
    buf_init(&text, PROMPT_POLICY_MAX);
    bool fits = json_dump(o, true, &text) == 0, large = text.full;
    buf_close(&text);
    if (large) return err_field(e, ERR_INVALID, WHERE, "A policy has at most %d bytes.", PROMPT_POLICY_MAX);
    return fits ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a prompt policy");
}

int prompt_policy_read(const json_t *v, json_t **out, struct err *e)
{
    *out = NULL;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, WHERE, "'%s' must be an object.", WHERE);
    json_t *o = json_object();
    int rc = o ? check_names(v, e) : err_set(e, ERR_NO_MEMORY, "no memory for a prompt policy");
    for (size_t i = 0; i < PARTS && rc == 0; i++) rc = json_read_member(v, parts[i].name, parts[i].read, WHERE, o, e);
    if (rc == 0) rc = check_size(o, e);
    if (rc || json_object_size(o) == 0) {
        json_decref(o);
        return rc;
    }
    *out = o;
    return 0;
}

/* The messages of a structured prompt, and its texts for the engine to check. */
static int fill(const json_t *o, bool chat, json_t *root, json_t *asked, struct err *e)
{
    const json_t *t = json_object_get(o, "template");
    json_t *texts = NULL;
    if (!t) return 0;
    if (!chat) return err_field(e, ERR_UNSUPPORTED, "prompt", "This model makes its messages itself, of 'slots'; it has no prompt: use /v1/chat/completions.");
    if (prompt_template_fill(t, root, &texts, e)) return -1;
    return json_object_set_new(asked, "text", texts) ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

int prompt_policy_apply(const char *text, bool chat, json_t *root, struct err *e)
{
    json_t *o = NULL, *asked = json_object();
    int rc = asked ? json_parse(text, strlen(text), &o, e) : err_set(e, ERR_NO_MEMORY, "no memory for the request");
    if (rc == 0) rc = fill(o, chat, root, asked, e);
    for (size_t i = 0; i < PARTS && rc == 0; i++) {
        json_t *v = json_object_get(o, parts[i].name);
        if (v && parts[i].engines && json_object_set(asked, parts[i].name, v)) rc = err_set(e, ERR_NO_MEMORY, "no memory for the request");
    }
    if (rc == 0 && json_object_size(asked) && json_object_set(root, PROMPT_FIELD, asked)) rc = err_set(e, ERR_NO_MEMORY, "no memory for the request");
    json_decref(asked);
    json_decref(o);
    return rc;
}
