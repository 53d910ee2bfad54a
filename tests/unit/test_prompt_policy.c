/* Prompt policies of aliases: what may be set, and what a template makes of the slots of a request. */
#include "gateway/registry/prompt_policy.h"
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static json_t *parse(const char *text)
{
    json_t *o = json_load(text, strlen(text), JSON_DECODE_ANY, NULL);
    if (!o) fail_msg("not JSON: %s", text);
    return o;
}

static char *dump(const json_t *o)
{
    char *s = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    assert_non_null(s);
    return s;
}

struct set {
    const char *policy, *want, *param; /* want: what is stored, or NULL and the field at fault */
};

#define TEMPLATE(slots, content) "{\"template\":{\"slots\":" slots ",\"messages\":[{\"role\":\"user\",\"content\":\"" content "\"}]}}"
#define SLOT(slot) TEMPLATE("{\"a\":" slot "}", "{{a}}")

static const struct set sets[] = {
    {"null", "null", NULL},
    {"{}", "null", NULL},
    {"{\"truncate\":null,\"template\":null}", "null", NULL},
    {"[]", NULL, "prompt_policy"},
    {"{\"x\":1}", NULL, "prompt_policy"},
    {"{\"truncate\":{\"max_tokens\":16}}", "{\"truncate\":{\"head_tokens\":0,\"head_turns\":0,\"last_turns\":1,\"max_tokens\":16}}", NULL},
    {"{\"truncate\":{\"max_tokens\":16,\"head_tokens\":16}}", NULL, "prompt_policy.truncate.head_tokens"},
    {"{\"truncate\":{\"max_tokens\":16.5}}", NULL, "prompt_policy.truncate.max_tokens"},
    {"{\"compress\":{\"ratio\":0.5}}", "{\"compress\":{\"min_tokens\":256,\"ratio\":0.5,\"unit\":\"sentence\"}}", NULL},
    {"{\"compress\":{\"ratio\":0.5,\"unit\":\"word\",\"min_tokens\":0}}", "{\"compress\":{\"min_tokens\":0,\"ratio\":0.5,\"unit\":\"word\"}}", NULL},
    {"{\"compress\":{}}", NULL, "prompt_policy.compress.ratio"},
    {"{\"compress\":{\"ratio\":1}}", NULL, "prompt_policy.compress.ratio"},
    {"{\"compress\":{\"ratio\":0.5,\"unit\":\"page\"}}", NULL, "prompt_policy.compress.unit"},
    {SLOT("{\"type\":\"string\"}"),
     "{\"template\":{\"messages\":[{\"content\":\"{{a}}\",\"role\":\"user\"}],\"slots\":{\"a\":{\"max_length\":4096,\"type\":\"string\"}}}}", NULL},
    {SLOT("{\"type\":\"integer\",\"min\":1,\"max\":3,\"default\":2}"),
     "{\"template\":{\"messages\":[{\"content\":\"{{a}}\",\"role\":\"user\"}],\"slots\":{\"a\":{\"default\":2,\"max\":3,\"min\":1,\"type\":\"integer\"}}}}", NULL},
    {SLOT("{\"type\":\"number\"}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"string\",\"max_length\":0}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"string\",\"min\":0}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"string\",\"max_length\":2,\"default\":\"abc\"}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"integer\",\"min\":3,\"max\":1}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"integer\",\"default\":\"x\"}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"enum\"}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"enum\",\"values\":[]}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"enum\",\"values\":[1]}"), NULL, "prompt_policy.template.slots.a"},
    {SLOT("{\"type\":\"enum\",\"values\":[\"x\"],\"default\":\"y\"}"), NULL, "prompt_policy.template.slots.a"},
    {TEMPLATE("{\"A\":{\"type\":\"string\"}}", "x"), NULL, "prompt_policy.template.slots"},
    {TEMPLATE("{\"a\":{\"type\":\"string\"}}", "nothing of it"), NULL, "prompt_policy.template.slots"},
    {TEMPLATE("{}", "{{a}}"), NULL, "prompt_policy.template.messages.0"},
    {TEMPLATE("{}", "{{a"), NULL, "prompt_policy.template.messages.0"},
    {TEMPLATE("{}", "{{ a }}"), NULL, "prompt_policy.template.messages.0"},
    {"{\"template\":{\"messages\":[]}}", NULL, "prompt_policy.template.messages"},
    {"{\"template\":{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}}", NULL, "prompt_policy.template.messages.0"},
    {"{\"template\":{\"messages\":[{\"role\":\"user\"}]}}", NULL, "prompt_policy.template.messages.0"},
    {"{\"template\":{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"name\":\"y\"}]}}", NULL, "prompt_policy.template.messages.0"},
    {"{\"template\":[]}", NULL, "prompt_policy.template"},
};

static void what_is_set_is_written_out_or_refused_by_its_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        json_t *v = parse(sets[i].policy), *out = NULL;
        struct err e = {0};
        int rc = prompt_policy_read(v, &out, &e);
        assert_int_equal(rc, e.code ? -1 : 0);
        char *got = rc ? NULL : out ? dump(out) : strdup("null");
        if (sets[i].want && (!got || strcmp(got, sets[i].want) != 0)) fail_msg("%s: %s", sets[i].policy, got ? got : e.msg);
        if (!sets[i].want && !rc) fail_msg("%s: was taken", sets[i].policy);
        if (sets[i].param && strcmp(e.param, sets[i].param) != 0) fail_msg("%s: names '%s': %s", sets[i].policy, e.param, e.msg);
        free(got);
        json_decref(v);
        json_decref(out);
    }
}

static void a_policy_beyond_its_bytes_is_refused(void **state)
{
    (void)state;
    struct err e = {0};
    json_t *out = NULL, *list = json_array();
    char text[2001];
    memset(text, 'x', 2000);
    text[2000] = 0;
    for (int i = 0; i < 40; i++) json_array_append_new(list, json_pack("{ss ss}", "role", "user", "content", text));
    json_t *v = json_pack("{s{so}}", "template", "messages", list);
    assert_int_equal(prompt_policy_read(v, &out, &e), -1);
    assert_string_equal(e.param, "prompt_policy");
    json_decref(v);
}

static const char letter[] =
    "{\"template\":{\"messages\":[{\"role\":\"system\",\"content\":\"You sort {{lang}} letters, at most {{n}}.\"},"
    "{\"role\":\"user\",\"content\":\"{{text}}|{{text}}|{{short}}|{{data}}\"}],\"slots\":{\"lang\":{\"type\":\"enum\",\"values\":[\"German\",\"French\"]},"
    "\"n\":{\"type\":\"integer\",\"min\":1,\"max\":9,\"default\":3},\"text\":{\"type\":\"string\",\"max_length\":12},"
    "\"short\":{\"type\":\"boolean\",\"default\":false},\"data\":{\"type\":\"json\",\"max_length\":30,\"default\":null}}}}";

struct fill {
    const char *slots, *system, *user; /* or NULL and the field */
    const char *param;
};

static const struct fill fills[] = {
    {"{\"lang\":\"German\",\"text\":\"Hello\"}", "You sort German letters, at most 3.", "Hello|Hello|false|null", NULL},
    {"{\"lang\":\"French\",\"text\":\"\",\"n\":9,\"short\":true,\"data\":{\"b\":[1,\"x\"],\"a\":null}}", "You sort French letters, at most 9.",
     "||true|{\"a\":null,\"b\":[1,\"x\"]}", NULL},
    {"{\"lang\":\"German\",\"text\":\"{{lang}}{{n\"}", "You sort German letters, at most 3.", "{{lang}}{{n|{{lang}}{{n|false|null", NULL},
    {"{\"lang\":\"German\",\"text\":\"\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac\"}", "You sort German letters, at most 3.",
     "\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac|\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac\xc3\xa4\xc3\xb6\xc3\xbc\xe2\x82\xac|false|null", NULL},
    {"{\"lang\":\"German\",\"text\":\"thirteen long\"}", NULL, NULL, "slots.text"},
    {"{\"lang\":\"German\"}", NULL, NULL, "slots.text"},
    {"{\"text\":\"x\"}", NULL, NULL, "slots.lang"},
    {"null", NULL, NULL, "slots.lang"},
    {"[]", NULL, NULL, "slots"},
    {"{\"lang\":\"Dutch\",\"text\":\"x\"}", NULL, NULL, "slots.lang"},
    {"{\"lang\":1,\"text\":\"x\"}", NULL, NULL, "slots.lang"},
    {"{\"lang\":\"German\",\"text\":7}", NULL, NULL, "slots.text"},
    {"{\"lang\":\"German\",\"text\":\"x\",\"n\":10}", NULL, NULL, "slots.n"},
    {"{\"lang\":\"German\",\"text\":\"x\",\"n\":\"3\"}", NULL, NULL, "slots.n"},
    {"{\"lang\":\"German\",\"text\":\"x\",\"n\":1.5}", NULL, NULL, "slots.n"},
    {"{\"lang\":\"German\",\"text\":\"x\",\"short\":0}", NULL, NULL, "slots.short"},
    {"{\"lang\":\"German\",\"text\":\"x\",\"data\":\"0123456789012345678901234567890\"}", NULL, NULL, "slots.data"},
    {"{\"lang\":\"German\",\"text\":\"x\",\"more\":1}", NULL, NULL, "slots.more"},
};

static char *stored(const char *policy)
{
    json_t *v = parse(policy), *out = NULL;
    struct err e = {0};
    if (prompt_policy_read(v, &out, &e)) fail_msg("%s", e.msg);
    char *text = dump(out);
    json_decref(v);
    json_decref(out);
    return text;
}

static const char *content(const json_t *root, size_t i)
{
    return json_string_value(json_object_get(json_array_get(json_object_get(root, "messages"), i), "content"));
}

static void slots_become_messages_or_are_refused_by_their_name(void **state)
{
    (void)state;
    char *policy = stored(letter);
    for (size_t i = 0; i < sizeof fills / sizeof *fills; i++) {
        json_t *root = json_pack("{ss so}", "model", "m", "slots", parse(fills[i].slots));
        struct err e = {0};
        int rc = prompt_policy_apply(policy, true, root, &e);
        if (fills[i].param) {
            if (!rc || strcmp(e.param, fills[i].param) != 0) fail_msg("%s: names '%s': %s", fills[i].slots, e.param, e.msg);
        } else {
            if (rc) fail_msg("%s: %s", fills[i].slots, e.msg);
            assert_int_equal(json_array_size(json_object_get(root, "messages")), 2);
            assert_string_equal(content(root, 0), fills[i].system);
            assert_string_equal(content(root, 1), fills[i].user);
            assert_null(json_object_get(root, "slots"));
            json_t *text = json_object_get(json_object_get(root, PROMPT_FIELD), "text");
            assert_int_equal(json_object_size(text), 2); /* what may hold any text */
            assert_non_null(json_object_get(text, "text"));
            assert_non_null(json_object_get(text, "data"));
        }
        json_decref(root);
    }
    free(policy);
}

static void a_template_takes_no_messages_and_no_prompt(void **state)
{
    (void)state;
    char *policy = stored(letter);
    static const struct {
        const char *body, *param;
        bool chat, good;
    } rows[] = {
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"slots\":{\"lang\":\"German\",\"text\":\"x\"}}", "messages", true, false},
        {"{\"messages\":[],\"slots\":{\"lang\":\"German\",\"text\":\"x\"}}", "", true, true},
        {"{\"prompt\":\"x\"}", "prompt", false, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *root = parse(rows[i].body);
        struct err e = {0};
        assert_int_equal(prompt_policy_apply(policy, rows[i].chat, root, &e), rows[i].good ? 0 : -1);
        assert_string_equal(e.param, rows[i].param);
        json_decref(root);
    }
    free(policy);
}

/* A slot may stand in a message often: what comes of it is bounded all the same. */
static void what_slots_blow_up_is_refused(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    buf_adds(&b, "{\"template\":{\"slots\":{\"a\":{\"type\":\"string\",\"max_length\":65536}},\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 200; i++) buf_adds(&b, "{{a}}");
    buf_adds(&b, "\"}]}}");
    char *policy = stored(b.data), *text = malloc(65537);
    memset(text, 'x', 65536);
    text[65536] = 0;
    json_t *root = json_pack("{s{ss}}", "slots", "a", text);
    struct err e = {0};
    assert_int_equal(prompt_policy_apply(policy, true, root, &e), -1);
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_string_equal(e.param, "slots");
    json_decref(root);
    free(policy);
    free(text);
    buf_close(&b);
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_set_is_written_out_or_refused_by_its_field),
        cmocka_unit_test(a_policy_beyond_its_bytes_is_refused),
        cmocka_unit_test(slots_become_messages_or_are_refused_by_their_name),
        cmocka_unit_test(a_template_takes_no_messages_and_no_prompt),
        cmocka_unit_test(what_slots_blow_up_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
