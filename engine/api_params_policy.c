/* api_params_policy: the field `weft_prompt_policy`, in which a gateway says what its alias wants done with a prompt (schema/ENGINE_API.md). It is checked as
 * what any client sends, since anybody who reaches the engine may write it; api_policy.c and api_compress.c follow it. Pure. */
#include "engine/api_impl.h"
#include "engine/api_params_impl.h"
#include <string.h>

#define FIELD "weft_prompt_policy"
#define POLICY_BUDGET_MIN 16
#define POLICY_TURNS_MAX 1024
#define POLICY_RATIO_MIN 0.1
#define POLICY_RATIO_MAX 0.95

static int check_members(const json_t *o, const char *const *known, struct err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)o, name, v)
    {
        const char *const *k = known;
        while (*k && strcmp(*k, name) != 0) k++;
        if (!*k) return err_field(e, ERR_UNSUPPORTED, FIELD, "'%.60s' is nothing that this engine can do with a prompt", name);
    }
    return 0;
}

static int parse_truncate(const json_t *o, struct ask_policy *p, struct err *e)
{
    static const char *const known[] = {"max_tokens", "head_turns", "last_turns", "head_tokens", NULL};
    int64_t most = 0, head = 0, last = 1, tokens = 0;
    if (!o) return 0;
    if (!json_is_object(o)) return err_field(e, ERR_INVALID, FIELD, "'truncate' must be an object");
    if (check_members(o, known, e) ||
        json_get_int(o, "max_tokens", POLICY_BUDGET_MIN, POLICY_TOKENS_MAX, &most, NULL, e) ||
        json_get_int(o, "head_turns", 0, POLICY_TURNS_MAX, &head, NULL, e) ||
        json_get_int(o, "last_turns", 1, POLICY_TURNS_MAX, &last, NULL, e) ||
        json_get_int(o, "head_tokens", 0, POLICY_TOKENS_MAX, &tokens, NULL, e))
        return err_within(e, FIELD);
    if (!most) return err_field(e, ERR_MISSING, FIELD, "'truncate' needs 'max_tokens'");
    if (tokens >= most) return err_field(e, ERR_INVALID, FIELD, "'head_tokens' must be less than 'max_tokens'");
    p->max_tokens = (int)most;
    p->head_turns = (int)head;
    p->last_turns = (int)last;
    p->head_tokens = (int)tokens;
    return 0;
}

static int parse_compress(const json_t *o, struct ask_policy *p, struct err *e)
{
    static const char *const known[] = {"ratio", "min_tokens", "unit", NULL};
    int64_t least = 0;
    const char *unit = "sentence";
    if (!o) return 0;
    if (!json_is_object(o)) return err_field(e, ERR_INVALID, FIELD, "'compress' must be an object");
    if (check_members(o, known, e) || json_get_num(o, "ratio", POLICY_RATIO_MIN, POLICY_RATIO_MAX, &p->ratio, NULL, e) ||
        json_get_int(o, "min_tokens", 0, POLICY_TOKENS_MAX, &least, NULL, e) || json_get_str(o, "unit", 16, &unit, NULL, e))
        return err_within(e, FIELD);
    if (p->ratio == 0) return err_field(e, ERR_MISSING, FIELD, "'compress' needs a 'ratio'");
    p->words = strcmp(unit, "word") == 0;
    p->min_tokens = (int)least;
    return p->words || strcmp(unit, "sentence") == 0 ? 0 : err_field(e, ERR_INVALID, FIELD, "'unit' must be sentence or word");
}

static int parse_text(const json_t *o, struct ask_policy *p, struct err *e)
{
    const char *name;
    json_t *v;
    if (o && !json_is_object(o)) return err_field(e, ERR_INVALID, FIELD, "'text' must be an object");
    json_object_foreach((json_t *)o, name, v)
    {
        if (!json_is_string(v)) return err_field(e, ERR_INVALID, FIELD, "'text' must hold strings");
    }
    p->text = o;
    return 0;
}

int ask_parse_policy(struct ask *a, int vocab, struct err *e)
{
    static const char *const known[] = {"truncate", "compress", "text", NULL};
    const json_t *v = ask_given(a, FIELD);
    (void)vocab;
    if (!v) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, FIELD, "'%s' must be an object", FIELD);
    a->policy.on = true;
    if (a->kind == ASK_COMPLETION && json_object_get(v, "compress"))
        return err_field(e, ERR_UNSUPPORTED, "prompt", "a prompt without turns can't be compressed: use /v1/chat/completions");
    return check_members(v, known, e) || parse_truncate(json_object_get(v, "truncate"), &a->policy, e) ||
                   parse_compress(json_object_get(v, "compress"), &a->policy, e) || parse_text(json_object_get(v, "text"), &a->policy, e)
               ? -1
               : 0;
}

json_t *policy_names(void) { return json_pack("[s, s, s]", "truncate", "compress", "text"); }
