/* A weft-engine's receipt, its count of a text's tokens, its self-test of an adapter: figures are none below 0 and what jansson finds in the body, names and words end and are
 * UTF-8 (they become JSON of ours), a refusal has words. Input: a byte for what (modulo 3), for a self-test one for the status, the body. */
#include "base/json.h"
#include "gateway/pool/engine_answers.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>

static void need_text(const char *s, size_t cap)
{
    FUZZ_NEED(memchr(s, 0, cap));
    json_t *v = json_string(s);
    FUZZ_NEED(v);
    json_decref(v);
}

static void need_count(const json_t *v, const char *field, int64_t is)
{
    const json_t *said = json_object_get(v, field);
    FUZZ_NEED(is >= 0 && is <= INT32_MAX && is == (json_is_integer(said) ? json_integer_value(said) : 0));
}

static void check_receipt(const char *body, size_t n, const json_t *v)
{
    struct relay_counts c;
    bool runs = false;
    memset(&c, 0xa5, sizeof c);
    if (engine_read_receipt(body, n, &runs, &c)) {
        FUZZ_NEED(!runs && (unsigned char)c.finish[0] == 0xa5);
        return;
    }
    const char *state = json_string_value(json_object_get(v, "state"));
    FUZZ_NEED(v && c.known && !c.estimated && runs == (state && !strcmp(state, "running")));
    need_count(v, "prompt_tokens", c.prompt);
    need_count(v, "cached_tokens", c.cached);
    need_count(v, "policy_before_tokens", c.before);
    need_count(v, "policy_after_tokens", c.after);
    need_count(v, "output_tokens", c.output);
    need_text(c.finish, sizeof c.finish);
}

static void check_tokens(const char *body, size_t n, const json_t *v)
{
    int64_t tokens = engine_read_tokens(body, n);
    const json_t *said = json_object_get(v, "prompt_tokens");
    FUZZ_NEED(tokens >= -1 && (tokens < 0 || (json_is_integer(said) && json_integer_value(said) == tokens)));
}

static void check_selftest(int status, const char *body, size_t n, const json_t *v)
{
    struct engine_selftest t;
    struct err e = {0};
    int rc = engine_read_selftest(status, body, n, &t, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && (!rc || (e.msg[0] && !t.ran)));
    need_text(t.worst, sizeof t.worst);
    need_text(e.msg, sizeof e.msg);
    FUZZ_NEED(!t.ran || (status == 200 && isfinite(t.max_error) && t.max_error >= 0 && t.max_error == json_number_value(json_object_get(v, "max_error"))));
    FUZZ_NEED(rc || t.ran || status == 404); /* what says nothing is no good test */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const int statuses[] = {200, 404, 503, 500, 422, 0};
    unsigned what = fuzz_byte(&data, &n) % 3;
    int status = what == 2 ? statuses[fuzz_byte(&data, &n) % 6] : 200;
    char *body = fuzz_text(data, n);
    json_t *v = NULL;
    json_parse(body, n, &v, NULL);
    if (what == 0) check_receipt(body, n, v);
    else if (what == 1) check_tokens(body, n, v);
    else check_selftest(status, body, n, v);
    json_decref(v);
    free(body);
    return 0;
}
