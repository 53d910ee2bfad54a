/* engine_answers: an engine is a program of its own, perhaps on another machine, and what it says becomes tokens of a bill, a verdict on an adapter, a
 * text in the database: each is looked at here, once. */
#include "gateway/pool/engine_answers.h"
#include "base/json.h"
#include <stdio.h>
#include <string.h>

#define TOKENS_MAX 1000000000
#define STATE_MAX 16

int engine_read_receipt(const char *body, size_t n, bool *runs, struct relay_counts *out)
{
    struct relay_counts c = {.known = true};
    const char *state = "", *finish = "";
    json_t *v = NULL;
    if (json_parse(body, n, &v, NULL)) return -1;
    int rc = json_get_int(v, "prompt_tokens", 0, INT32_MAX, &c.prompt, NULL, NULL) |
             json_get_int(v, "cached_tokens", 0, INT32_MAX, &c.cached, NULL, NULL) |
             json_get_int(v, "output_tokens", 0, INT32_MAX, &c.output, NULL, NULL) |
             json_get_int(v, "policy_before_tokens", 0, INT32_MAX, &c.before, NULL, NULL) |
             json_get_int(v, "policy_after_tokens", 0, INT32_MAX, &c.after, NULL, NULL) |
             json_get_str(v, "state", STATE_MAX, &state, NULL, NULL) |
             json_get_str(v, "finish_reason", sizeof c.finish - 1, &finish, NULL, NULL);
    bool now = strcmp(state, "running") == 0;
    snprintf(c.finish, sizeof c.finish, "%s", finish);
    json_decref(v);
    if (rc) return -1;
    *runs = now;
    *out = c;
    return 0;
}

int64_t engine_read_tokens(const char *body, size_t n)
{
    json_t *o = NULL;
    int64_t tokens = -1;
    if (json_parse(body, n, &o, NULL)) return -1;
    if (json_get_int(o, "prompt_tokens", 0, TOKENS_MAX, &tokens, NULL, NULL)) tokens = -1;
    json_decref(o);
    return tokens;
}

/* --- the self-test --- */

/* As much of it as fits, in whole characters. */
static void copy_name(char *out, size_t cap, const char *name)
{
    size_t used = 0, n = strlen(name);
    bool valid = true;
    while (used < n) {
        size_t k = buf_utf8(name + used, n - used, &valid);
        if (used + k >= cap) break;
        used += k;
    }
    memcpy(out, name, used);
    out[used] = 0;
}

static void find_worst(const json_t *modules, struct engine_selftest *out)
{
    const char *name;
    json_t *v;
    double most = -1;
    json_object_foreach((json_t *)modules, name, v)
    {
        if (json_number_value(v) <= most) continue;
        most = json_number_value(v);
        copy_name(out->worst, sizeof out->worst, name);
    }
}

int engine_read_selftest(int status, const char *body, size_t n, struct engine_selftest *out, struct err *e)
{
    json_t *o = NULL;
    struct err why = {0};
    bool parsed = json_parse(body, n, &o, &why) == 0;
    const json_t *figure = json_object_get(o, "max_error"), *error = json_object_get(o, "error");
    const char *word = json_string_value(json_object_get(error, "code")),
               *msg = json_string_value(json_object_get(error, "message"));
    enum err_code code = word ? err_by_word(word) : ERR_NONE;
    int rc = 0;
    *out = (struct engine_selftest){.ran = false};
    if (status == 200 && json_is_number(figure) && json_number_value(figure) >= 0) {
        out->ran = true;
        out->max_error = json_number_value(figure);
        find_worst(json_object_get(o, "modules"), out);
    } else if (status == 404 && code != ERR_ADAPTER_NOT_LOADED) {
        out->ran = false; /* no such route: another kind of engine */
    } else if (status == 404 || status == 503) {
        rc = err_set(e, ERR_UNAVAILABLE, "the engine could not test the adapter now");
    } else {
        char said[304];
        copy_name(said, sizeof said, msg ? msg : parsed ? "no figure" : why.msg);
        rc = err_set(e, code ? code : ERR_INTERNAL, "the engine's self-test failed: %s", said);
    }
    json_decref(o);
    return rc;
}
