/* The parts of an alias where memory is short: JSON's allocations fail one after the other while a part is read. What comes of it is a refusal for want of memory, or
 * the whole part as it is read with enough: never one that lacks a field, for it is stored, and who follows it trusts it. */
#include "base/buf.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/route.h"
#include "gateway/registry/alias_draft.h"
#include "gateway/registry/prompt_policy.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FAILURES_MAX 5000

static long left = -1; /* allocations until one fails; -1: none does */

static void *take(size_t n)
{
    if (left >= 0 && left-- == 0) return NULL;
    return malloc(n);
}

static const struct row {
    int (*read)(const json_t *v, json_t **out, struct err *e);
    const char *text;
} rows[] = {
    {evaluation_read, "{\"sample\":0.5,\"rules\":[{\"name\":\"a\",\"kind\":\"regex\",\"pattern\":\"x+\"},{\"name\":\"b\",\"kind\":\"length\",\"max\":9},"
                      "{\"name\":\"c\",\"kind\":\"language\",\"languages\":[\"en\",\"de\"]},{\"name\":\"d\",\"kind\":\"json_schema\",\"schema\":{\"type\":\"object\",\"required\":[\"k\"]}}],"
                      "\"groundedness\":{},\"judge\":{\"model\":\"m\"},\"alert\":{\"below\":0.5}}"},
    {prompt_policy_read, "{\"truncate\":{\"max_tokens\":100},\"compress\":{\"ratio\":0.5},\"template\":{\"messages\":[{\"role\":\"user\",\"content\":\"{{a}} {{b}} {{c}}\"}],"
                         "\"slots\":{\"a\":{\"type\":\"string\",\"default\":\"x\"},\"b\":{\"type\":\"integer\",\"min\":1},\"c\":{\"type\":\"enum\",\"values\":[\"p\",\"q\"]}}}}"},
    {route_rules_read, "{\"arm\":\"small\"}"},
    {capture_policy_read, "{\"redact\":[\"email\",\"phone\"],\"patterns\":[{\"name\":\"p\",\"regex\":\"x+\"}]}"},
    {capture_policy_read, "{\"sample\":0.5}"},
};

static void a_part_that_met_no_memory_is_refused_or_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        json_t *said = json_load(rows[i].text, strlen(rows[i].text), 0, NULL), *whole = NULL;
        assert_non_null(said);
        if (rows[i].read(said, &whole, &e)) fail_msg("%s: %s", rows[i].text, e.msg);
        bool met = true;
        for (int n = 0; met && n < FAILURES_MAX; n++) {
            json_t *out = NULL;
            err_clear(&e);
            left = n;
            int rc = rows[i].read(said, &out, &e);
            met = left < 0;
            left = -1;
            if (rc && e.code != ERR_NO_MEMORY) fail_msg("row %zu, allocation %d: %s", i, n, e.msg);
            if (rc == 0 && !json_equal(out, whole)) fail_msg("row %zu, allocation %d: a part of it is missing", i, n);
            if (rc == 0) json_decref(out);
        }
        assert_false(met);
        json_decref(whole);
        json_decref(said);
    }
}

/* What is compared, answered and kept for a rollback. */
static void an_alias_that_met_no_memory_is_none_or_whole(void **state)
{
    (void)state;
    static const char text[] = "{\"targets\":[{\"adapter\":\"a\",\"version\":3},{\"base\":\"b\"}],\"policy\":\"fallback\",\"system_prefix\":\"Hm.\",\"routing\":{\"arm\":\"small\"},\"capture\":{\"sample\":0.5}}";
    struct err e = {0};
    struct draft d;
    json_t *said = json_load(text, sizeof text - 1, 0, NULL);
    assert_non_null(said);
    if (draft_read(said, &d, &e)) fail_msg("%s", e.msg);
    json_t *whole = draft_json(&d);
    assert_non_null(whole);
    bool met = true;
    for (int n = 0; met && n < FAILURES_MAX; n++) {
        left = n;
        json_t *out = draft_json(&d);
        met = left < 0;
        left = -1;
        if (out && !json_equal(out, whole)) fail_msg("allocation %d: a part of it is missing", n);
        json_decref(out);
    }
    assert_false(met);
    json_decref(whole);
    json_decref(said);
    draft_close(&d);
}

static int set_up(void **state)
{
    (void)state;
    json_set_alloc_funcs(take, free);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_that_met_no_memory_is_refused_or_whole),
        cmocka_unit_test(an_alias_that_met_no_memory_is_none_or_whole),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
