/* Tests of the API's description: YAML to JSON, what is added to fragments, and that it describes the routes of both listeners, all of them and
 * nothing else. */
#include "base/json.h"
#include "gateway/api/openapi.h"
#include "gateway/gateway.h"
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENANT "/t/{tenant}"

static json_t *load(const char *yaml)
{
    struct err e = {0};
    json_t *doc = NULL;
    if (openapi_load(yaml, &doc, &e)) fail_msg("%s", e.msg);
    return doc;
}

static const char *refusal(const char *yaml)
{
    static char message[512];
    struct err e = {0};
    json_t *doc = NULL;
    assert_int_equal(openapi_load(yaml, &doc, &e), -1);
    assert_int_equal(e.code, ERR_INTERNAL);
    snprintf(message, sizeof message, "%s", e.msg);
    return message;
}

static json_t *at(const json_t *v, const char *path)
{
    char words[256], *rest = words, *word;
    snprintf(words, sizeof words, "%s", path);
    while (v && (word = strsep(&rest, " "))) v = json_object_get(v, word);
    return (json_t *)v;
}

static void scalars_are_what_the_core_schema_says(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *json;
    } rows[] = {
        {"1", "1"},
        {"-7", "-7"},
        {"1.5", "1.5"},
        {"1e3", "1000.0"},
        {".5", "0.5"},
        {"true", "true"},
        {"false", "false"},
        {"null", "null"},
        {"~", "null"},
        {"", "null"},
        {"\"1\"", "\"1\""},
        {"'true'", "\"true\""},
        {"1m", "\"1m\""},
        {"1.0.4", "\"1.0.4\""},
        {"yes", "\"yes\""},
        {"-", NULL},
        {"e1", "\"e1\""},
        {".", "\".\""},
        {"+", "\"+\""},
        {"[1, \"2\"]", "[1,\"2\"]"},
        {"{a: 1}", "{\"a\":1}"},
        {"&x a", "\"a\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char yaml[64];
        if (!rows[i].json) continue;
        snprintf(yaml, sizeof yaml, "v: %s\n", rows[i].yaml);
        json_t *doc = load(yaml);
        char *text = json_dumps(json_object_get(doc, "v"), JSON_COMPACT | JSON_ENCODE_ANY);
        assert_string_equal(text, rows[i].json);
        free(text);
        json_decref(doc);
    }
}

static void mistakes_in_the_text_are_told_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *says;
    } rows[] = {
        {"a: 1\nb: [1,\n", "line 3"},
        {"a: 1\nc: {}\na: 2\n", "line 3: a key that is there twice"},
        {"b: &b {x: 1}\na:\n  <<: *b\n", "line 3: a merge key"},
        {"? [1]\n: 2\n", "a key that is no text"},
        {"", "empty"},
        {"a: 1\n---\nservers: []\n", "not 'servers'"},
        {"paths: {/a: {get: {}}}\n---\npaths: {/a: {get: {}}}\n", "'get' comes twice"},
        {"components: {schemas: {A: {}}}\n---\ncomponents: {schemas: {A: {}}}\n", "'A' comes twice"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *got = refusal(rows[i].yaml);
        if (!strstr(got, rows[i].says)) fail_msg("%s, not %s", got, rows[i].says);
    }
}

static const char small[] =
    "openapi: 3.1.0\n"
    "tags: [{name: A}, {name: B}]\n"
    "x-added:\n"
    "  servers: {/v1/: [{url: /t}]}\n"
    "  headers: {x-id: {$ref: '#/components/headers/Id'}}\n"
    "  responses:\n"
    "    always: {'500': {$ref: '#/components/responses/R'}}\n"
    "    body: {'408': {$ref: '#/components/responses/R'}}\n"
    "    security: {'401': {$ref: '#/components/responses/R'}}\n"
    "    path: {'404': {$ref: '#/components/responses/R'}}\n"
    "    Once: {'409': {$ref: '#/components/responses/R'}}\n"
    "components: {headers: {Id: {}}, responses: {R: {content: {a: {schema: {$ref: '#/components/schemas/S'}}}}}, "
    "parameters: {Once: {}}}\n"
    "---\n"
    "paths:\n"
    "  /v1/a: {get: {operationId: getA, tags: [A], security: [], responses: {'200': {description: ok, links: {x: "
    "{operationId: putB}}}}}}\n"
    "  /b/{id}: {put: {operationId: putB, tags: [B], security: [{K: []}], parameters: [{$ref: "
    "'#/components/parameters/Once'}], requestBody: {},"
    " responses: {'404': {description: mine}}}}\n"
    "components: {schemas: {S: {items: {$ref: '#/components/schemas/T'}}, T: {}, Unused: {}}}\n";

static void what_routes_have_in_common_is_added_where_it_applies(void **state)
{
    (void)state;
    json_t *doc = load(small);
    json_t *a = at(doc, "paths /v1/a get responses"), *b = at(doc, "paths /b/{id} put responses");
    assert_int_equal(json_object_size(a), 2);
    assert_non_null(at(a, "500"));
    assert_non_null(at(a, "200 headers x-id"));
    for (const char *const *status = (const char *const[]){"500", "408", "401", "404", "409", NULL}; *status; status++)
        assert_non_null(at(b, *status));
    assert_string_equal(json_string_value(at(b, "404 description")), "mine");
    assert_non_null(at(doc, "components responses R headers x-id"));
    assert_int_equal(json_array_size(at(doc, "paths /v1/a servers")), 1);
    assert_null(at(doc, "paths /b/{id} servers"));
    assert_null(at(doc, "x-added"));
    json_decref(doc);
}

static void a_listener_shows_its_own_routes_and_what_they_refer_to(void **state)
{
    (void)state;
    static const struct http_route only_a[] = {
        {.method = "GET", .pattern = "/v1/a"}, {.method = "POST", .pattern = "/b/{id}"}, {0}};
    static const struct http_route only_b[] = {{.method = "PUT", .pattern = "/b/{id...}"}, {0}};
    json_t *whole = load(small), *a = openapi_of(whole, only_a), *b = openapi_of(whole, only_b);
    assert_int_equal(json_object_size(at(a, "paths")), 1);
    assert_non_null(at(a, "paths /v1/a get"));
    assert_null(at(a, "paths /v1/a get responses 200 links")); /* to a route of another listener */
    assert_int_equal(json_array_size(at(a, "tags")), 1);
    assert_non_null(at(a, "components schemas T"));
    assert_null(at(a, "components schemas Unused"));
    assert_null(at(a, "components parameters Once"));
    assert_non_null(at(b, "paths /b/{id} put"));
    assert_non_null(at(b, "components parameters Once"));
    json_decref(a);
    json_decref(b);
    assert_non_null(at(whole, "paths /v1/a get responses 200 links x")); /* the whole stayed as it was */
    json_decref(whole);
}

/* --- the program's own --- */

struct look {
    const struct http_route *const *tables[2];
    int missing;
};

static const struct http_route *find_row(const struct look *l, const char *path, const char *method)
{
    for (int i = 0; i < 2; i++)
        for (const struct http_route *const *t = l->tables[i]; *t; t++)
            for (const struct http_route *r = *t; r->method; r++)
                if (strcasecmp(r->method, method) == 0 && openapi_is_path(r->pattern, path)) return r;
    return NULL;
}

static void look_for_route(void *u, const char *path, const char *method, const json_t *op)
{
    struct look *l = u;
    (void)op;
    if (find_row(l, path, method)) return;
    print_message("# described, not there: %s %s\n", method, path);
    l->missing++;
}

struct search {
    const struct http_route *row;
    const char *pattern;
    bool found;
};

static void look_for_operation(void *u, const char *path, const char *method, const json_t *op)
{
    struct search *s = u;
    (void)op;
    s->found |= strcasecmp(s->row->method, method) == 0 && openapi_is_path(s->pattern, path);
}

static bool is_described(const json_t *doc, const struct http_route *row)
{
    bool own = strncmp(row->pattern, TENANT "/", strlen(TENANT) + 1) == 0;
    struct search s = {row, own ? row->pattern + strlen(TENANT) : row->pattern, false};
    openapi_each(doc, look_for_operation, &s);
    return s.found;
}

static struct look of_program(void)
{
    return (struct look){{gateway_public_routes, gateway_admin_routes}, 0};
}

static void every_route_is_described(void **state)
{
    (void)state;
    struct look l = of_program();
    json_t *doc = load(openapi_text);
    for (int i = 0; i < 2; i++)
        for (const struct http_route *const *t = l.tables[i]; *t; t++)
            for (const struct http_route *r = *t; r->method; r++) {
                if (is_described(doc, r)) continue;
                print_message("# there, not described: %s %s\n", r->method, r->pattern);
                l.missing++;
            }
    json_decref(doc);
    assert_int_equal(l.missing, 0);
}

static void everything_that_is_described_is_a_route(void **state)
{
    (void)state;
    struct look l = of_program();
    json_t *doc = load(openapi_text);
    openapi_each(doc, look_for_route, &l);
    json_decref(doc);
    assert_int_equal(l.missing, 0);
}

/* The description says that /v1/... is also there under the tenant's name. */
static void every_tenant_route_is_there_under_the_tenants_name_too(void **state)
{
    (void)state;
    struct look l = of_program();
    char path[256];
    for (const struct http_route *const *t = gateway_public_routes; *t; t++)
        for (const struct http_route *r = *t; r->method; r++) {
            bool own = strncmp(r->pattern, TENANT "/", strlen(TENANT) + 1) == 0;
            if (!own && strncmp(r->pattern, "/v1/", 4) != 0) continue;
            snprintf(path, sizeof path, "%s%s", own ? "" : TENANT, own ? r->pattern + strlen(TENANT) : r->pattern);
            if (find_row(&l, path, r->method)) continue;
            print_message("# %s %s has no twin %s\n", r->method, r->pattern, path);
            l.missing++;
        }
    assert_int_equal(l.missing, 0);
}

static void note_id(void *u, const char *path, const char *method, const json_t *op)
{
    const char *id = json_string_value(json_object_get(op, "operationId"));
    (void)path, (void)method;
    if (!id || json_object_get(u, id)) fail_msg("the operationId of %s %s is missing or there twice", method, path);
    if (!json_object_get(op, "security")) fail_msg("%s does not say who may call it", id);
    if (!json_string_value(json_object_get(op, "summary"))) fail_msg("%s has no summary", id);
    json_object_set_new(u, id, json_true());
}

static void every_operation_has_a_name_of_its_own_a_summary_and_says_who_may_call_it(void **state)
{
    (void)state;
    json_t *doc = load(openapi_text), *ids = json_object();
    openapi_each(doc, note_id, ids);
    assert_true(json_object_size(ids) > 0);
    json_decref(ids);
    json_decref(doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_are_what_the_core_schema_says),
        cmocka_unit_test(mistakes_in_the_text_are_told_with_their_line),
        cmocka_unit_test(what_routes_have_in_common_is_added_where_it_applies),
        cmocka_unit_test(a_listener_shows_its_own_routes_and_what_they_refer_to),
        cmocka_unit_test(every_route_is_described),
        cmocka_unit_test(everything_that_is_described_is_a_route),
        cmocka_unit_test(every_tenant_route_is_there_under_the_tenants_name_too),
        cmocka_unit_test(every_operation_has_a_name_of_its_own_a_summary_and_says_who_may_call_it),
    };
    json_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
