/* openapi: one description of the API out of its fragments, and the part of it that a listener serves (see openapi.h).
 *
 *     documents -> merged: paths, components, tags; no name twice -> what routes have in common is added to each operation -> whole
 *     whole + table of routes -> operations that a row serves -> what these refer to, and what that refers to -> a listener's document
 *
 * What is added is a table in openapi.yaml (x-added), not code: which answers every route can give, which come with a key, a body, a path
 * parameter or a header. The test that compares documents with route tables (tests/unit/test_openapi.c) is what keeps both honest; here a
 * path without a route is merely left out. At the start only. */
#include "gateway/api/openapi.h"
#include "base/json.h"
#include <stdlib.h>
#include <string.h>

#define PASSES_MAX 32 /* how deep components refer to components */

static const char *const methods[] = {"get", "put", "post", "delete", "patch", NULL};

static const char not_merged[] = "openapi.yaml: '%s' comes twice";

static bool is_method(const char *word)
{
    for (const char *const *m = methods; *m; m++)
        if (strcmp(*m, word) == 0) return true;
    return false;
}

void openapi_each(const json_t *doc, void (*fn)(void *u, const char *path, const char *method, const json_t *op),
                  void *u)
{
    const char *path, *method;
    json_t *item, *op;
    json_object_foreach(json_object_get(doc, "paths"), path, item)
        json_object_foreach(item, method, op) if (is_method(method)) fn(u, path, method, op);
}

/* --- merging --- */

/* Members of `from` into `into`, where none may be yet. */
static int merge(json_t *into, json_t *from, struct err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach(from, name, v)
    {
        if (json_object_get(into, name)) return err_set(e, ERR_INTERNAL, not_merged, name);
        json_object_set(into, name, v);
    }
    return 0;
}

/* The member, made where it is missing. */
static json_t *member(json_t *o, const char *name)
{
    json_t *v = json_object_get(o, name);
    if (v) return v;
    json_object_set_new(o, name, json_object());
    return json_object_get(o, name);
}

static int merge_each(json_t *into, json_t *from, struct err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach(from, name, v) if (merge(member(into, name), v, e)) return -1;
    return 0;
}

static int add_fragment(json_t *whole, json_t *part, struct err *e)
{
    const char *name;
    json_t *v;
    json_object_foreach(part, name, v)
    {
        if (strcmp(name, "paths") != 0 && strcmp(name, "components") != 0 && strcmp(name, "tags") != 0)
            return err_set(e, ERR_INTERNAL, "openapi.yaml: a fragment has paths, components and tags, not '%s'", name);
    }
    json_array_extend(json_object_get(whole, "tags"), json_object_get(part, "tags"));
    if (merge_each(member(whole, "paths"), json_object_get(part, "paths"), e)) return -1;
    return merge_each(member(whole, "components"), json_object_get(part, "components"), e);
}

/* --- what is added --- */

static bool has_parameter(const json_t *op, const char *component)
{
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(op, "parameters"), i, p)
    {
        const char *ref = json_string_value(json_object_get(p, "$ref")), *last = ref ? strrchr(ref, '/') : NULL;
        if (last && strcmp(last + 1, component) == 0) return true;
    }
    return false;
}

static bool applies(const char *when, const char *path, const json_t *op)
{
    if (strcmp(when, "always") == 0) return true;
    if (strcmp(when, "body") == 0) return json_object_get(op, "requestBody");
    if (strcmp(when, "security") == 0) return json_array_size(json_object_get(op, "security")) > 0;
    if (strcmp(when, "path") == 0) return strchr(path, '{');
    return has_parameter(op, when);
}

struct adding {
    const json_t *added;
};

static void add_responses(void *u, const char *path, const char *method, const json_t *op)
{
    const struct adding *a = u;
    json_t *into = json_object_get(op, "responses"), *rows;
    const char *when;
    (void)method;
    json_object_foreach(json_object_get(a->added, "responses"), when, rows) if (applies(when, path, op))
        json_object_update_missing(into, rows);
}

static void add_headers(const json_t *responses, json_t *headers)
{
    const char *status;
    json_t *r;
    json_object_foreach((json_t *)responses, status, r) if (!json_object_get(r, "$ref"))
        json_object_update_missing(member(r, "headers"), headers);
}

static void add_op_headers(void *u, const char *path, const char *method, const json_t *op)
{
    const struct adding *a = u;
    (void)path, (void)method;
    add_headers(json_object_get(op, "responses"), json_object_get(a->added, "headers"));
}

static void add_servers(json_t *paths, const json_t *added)
{
    const char *path, *prefix;
    json_t *item, *servers;
    json_object_foreach(paths, path, item) json_object_foreach(json_object_get(added, "servers"), prefix,
                                                               servers) if (strncmp(path, prefix, strlen(prefix)) == 0)
        json_object_set(item, "servers", servers);
}

static void add_common(json_t *whole)
{
    struct adding a = {json_object_get(whole, "x-added")};
    openapi_each(whole, add_responses, &a);
    openapi_each(whole, add_op_headers, &a);
    add_headers(json_object_get(json_object_get(whole, "components"), "responses"),
                json_object_get(a.added, "headers"));
    add_servers(json_object_get(whole, "paths"), a.added);
    json_object_del(whole, "x-added");
}

int openapi_load(const char *yaml, json_t **out, struct err *e)
{
    struct openapi_yaml *y;
    json_t *whole = NULL, *part;
    int rc;
    if (openapi_yaml_open(&y, yaml, e)) return -1;
    while ((rc = openapi_yaml_next(y, &part, e)) == 1) {
        if (!whole)
            whole = part;
        else {
            rc = add_fragment(whole, part, e);
            json_decref(part);
        }
        if (rc < 0) break;
    }
    openapi_yaml_close(y);
    if (rc == 0 && !whole) rc = err_set(e, ERR_INTERNAL, "openapi.yaml is empty");
    if (rc == 0) {
        add_common(whole);
        *out = whole;
    } else
        json_decref(whole);
    return rc;
}

/* --- a listener's part --- */

bool openapi_is_path(const char *pattern, const char *path)
{
    while (*pattern && *pattern == *path) pattern++, path++;
    if (strncmp(pattern, "...}", 4) == 0 && *path == '}') return openapi_is_path(pattern + 3, path);
    return !*pattern && !*path;
}

static bool serves(const struct http_route *routes, const char *path, const char *method)
{
    for (const struct http_route *r = routes; r->method; r++)
        if (strcasecmp(r->method, method) == 0 && openapi_is_path(r->pattern, path)) return true;
    return false;
}

/* Of one path: everything that is no operation, and the operations that are served; NULL when none is. */
static json_t *served_path(const char *path, json_t *item, const struct http_route *routes)
{
    const char *name;
    json_t *v, *o = json_object();
    int n = 0;
    json_object_foreach(item, name, v)
    {
        if (is_method(name) && !serves(routes, path, name)) continue;
        n += is_method(name);
        json_object_set_new(o, name, json_deep_copy(v));
    }
    if (n) return o;
    json_decref(o);
    return NULL;
}

static void note_operation(void *u, const char *path, const char *method, const json_t *op)
{
    json_t *seen = u, *tag;
    size_t i;
    (void)path, (void)method;
    json_object_set(member(seen, "operations"), json_string_value(json_object_get(op, "operationId")), json_true());
    json_array_foreach(json_object_get(op, "tags"), i, tag)
        json_object_set(member(seen, "tags"), json_string_value(tag), json_true());
}

/* Links lead to operations of the same listener only. */
static void drop_links(void *u, const char *path, const char *method, const json_t *op)
{
    json_t *operations = u, *response, *link;
    const char *status, *name;
    void *next;
    (void)path, (void)method;
    json_object_foreach(json_object_get(op, "responses"), status, response)
    {
        json_t *links = json_object_get(response, "links");
        json_object_foreach_safe(links, next, name, link)
        {
            const char *to = json_string_value(json_object_get(link, "operationId"));
            if (to && !json_object_get(operations, to)) json_object_del(links, name);
        }
        if (links && json_object_size(links) == 0) json_object_del(response, "links");
    }
}

/* Copies the component that `ref` names from `whole` into `doc`, unless it is there; 1 when it was copied. */
static int take_component(const json_t *whole, json_t *doc, const char *ref)
{
    char kind[64];
    const char *name = strrchr(ref, '/');
    size_t start = strlen("#/components/");
    if (strncmp(ref, "#/components/", start) != 0 || (size_t)(name - ref) < start) return 0;
    size_t n = (size_t)(name - ref) - start;
    if (n >= sizeof kind) return 0;
    memcpy(kind, ref + start, n);
    kind[n] = 0;
    json_t *from = json_object_get(json_object_get(json_object_get(whole, "components"), kind), name + 1);
    json_t *into = member(member(doc, "components"), kind);
    if (!from || json_object_get(into, name + 1)) return 0;
    json_object_set(into, name + 1, from);
    return 1;
}

static int take_refs(const json_t *whole, json_t *doc, json_t *v)
{
    int n = 0;
    size_t i;
    const char *name;
    json_t *sub;
    if (json_is_array(v)) json_array_foreach(v, i, sub) n += take_refs(whole, doc, sub);
    if (!json_is_object(v)) return n;
    const char *ref = json_string_value(json_object_get(v, "$ref"));
    if (ref) n += take_component(whole, doc, ref);
    json_object_foreach(v, name, sub) n += take_refs(whole, doc, sub);
    return n;
}

/* Until nothing refers to what is missing. A copy of what is walked: the walk adds to it. */
static void take_all_refs(const json_t *whole, json_t *doc)
{
    for (int i = 0, more = 1; more && i < PASSES_MAX; i++) {
        json_t *now = json_deep_copy(doc);
        more = take_refs(whole, doc, now);
        json_decref(now);
    }
}

static json_t *served_tags(const json_t *all, const json_t *used)
{
    json_t *list = json_array(), *tag;
    size_t i;
    json_array_foreach((json_t *)all, i,
                       tag) if (json_object_get(used, json_string_value(json_object_get(tag, "name"))))
        json_array_append(list, tag);
    return list;
}

static void take_paths(const json_t *whole, json_t *doc, const struct http_route *routes)
{
    const char *path;
    json_t *item, *paths = json_object();
    json_object_foreach(json_object_get(whole, "paths"), path, item)
    {
        json_t *served = served_path(path, item, routes);
        if (served) json_object_set_new(paths, path, served);
    }
    json_object_set_new(doc, "paths", paths);
}

json_t *openapi_of(const json_t *whole, const struct http_route *routes)
{
    static const char *const as_is[] = {"openapi", "info", "servers"};
    json_t *doc = json_object(), *seen = json_object(), *all = json_object_get(whole, "components");
    for (size_t i = 0; i < sizeof as_is / sizeof *as_is; i++)
        json_object_set(doc, as_is[i], json_object_get(whole, as_is[i]));
    take_paths(whole, doc, routes);
    openapi_each(doc, note_operation, seen);
    openapi_each(doc, drop_links, member(seen, "operations"));
    json_object_set_new(doc, "tags", served_tags(json_object_get(whole, "tags"), member(seen, "tags")));
    json_object_set(member(doc, "components"), "securitySchemes", json_object_get(all, "securitySchemes"));
    take_all_refs(whole, doc);
    json_decref(seen);
    return doc;
}
