/* The walk over JSON text: where jansson reads an object, the walk finds the same members with the same values and order; and whatever it is given, its
 * spans lie within the bytes. */
#include "gateway/proxy/json_walk.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

static void inside(struct json_span v, const char *s, size_t n)
{
    FUZZ_NEED(v.n > 0 && v.s >= s && v.s + v.n <= s + n);
}

static json_t *read_span(struct json_span v)
{
    return json_loadb(v.s, v.n, JSON_DECODE_ANY, NULL);
}

static void compare(const char *s, size_t n, const json_t *o)
{
    struct json_walk w = json_walk((struct json_span){s, n});
    struct json_member m;
    int rc;
    size_t members = 0;
    while ((rc = json_walk_member(&w, &m)) > 0) {
        json_t *key = read_span(m.key), *value = read_span(m.value);
        FUZZ_NEED(json_is_string(key) && value);
        FUZZ_NEED(json_equal(json_object_get(o, json_string_value(key)), value));
        json_decref(key);
        json_decref(value);
        members++;
    }
    FUZZ_NEED(rc == 0 && members == json_object_size(o));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *s = fuzz_text(data, n), *whole = malloc(n ? n : 1);
    struct json_span v = {whole, n}, x;
    struct json_walk w = json_walk(v);
    struct json_member m;
    int64_t count = -1;
    json_t *o = NULL;
    if (n) memcpy(whole, data, n); /* without a NUL behind it */
    while (json_walk_member(&w, &m) > 0) {
        inside(m.key, whole, n);
        inside(m.value, whole, n);
        FUZZ_NEED(m.key.n >= 2 && m.key.s[0] == '"' && m.key.s[m.key.n - 1] == '"');
    }
    for (w = json_walk(v); json_walk_item(&w, &x) > 0;) inside(x, whole, n);
    if (json_walk_find(v, "usage", &x)) inside(x, whole, n);
    if (json_span_count(v, &count)) FUZZ_NEED(count >= 0 && count <= INT32_MAX && n <= 10);
    if (json_parse(s, n, &o, NULL) == 0) compare(whole, n, o);
    json_decref(o);
    FUZZ_NEED(json_span_is(v, "null") == (n == 4 && memcmp(whole, "null", 4) == 0));
    free(whole);
    free(s);
    return 0;
}
