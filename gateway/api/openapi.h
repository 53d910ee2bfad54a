/* The description of the HTTP API: schema/openapi.yaml and schema/openapi/, joined by the build and embedded, as JSON for each listener.
 *
 * openapi_load() gives the whole: fragments merged, what follows from how routes are built added (x-added in openapi.yaml). openapi_of() takes
 * of it what a table of routes serves. Both run once, at the start; what docs_api.c serves of it is immutable. */
#pragma once
#include "base/buf.h"
#include "base/http.h"

struct json_t;

extern const char openapi_text[]; /* YAML, one document per file, the first is openapi.yaml; NUL-terminated */
extern const char docs_page[];    /* gateway/api/docs.html */

/* ERR_INTERNAL with the line at fault: a mistake of ours that every start would show. */
int openapi_load(const char *yaml, struct json_t **out, struct err *e);

/* The next document of a stream of them as JSON: 1 there is one, 0 none, -1 failed. Mappings with a key twice, and what has no place in JSON,
 * are refused. (openapi_yaml.c) */
struct openapi_yaml;
int openapi_yaml_open(struct openapi_yaml **out, const char *text, struct err *e);
int openapi_yaml_next(struct openapi_yaml *y, struct json_t **out, struct err *e);
void openapi_yaml_close(struct openapi_yaml *y);

/* A new reference: the operations that these routes serve, and the components, tags and links that they use. */
struct json_t *openapi_of(const struct json_t *whole, const struct http_route *routes);

/* Whether a row's pattern is this path of the document: {rest...} is written {rest}. */
bool openapi_is_path(const char *pattern, const char *path);

/* Calls fn for each operation of a document; *op is its object. */
void openapi_each(const struct json_t *doc,
                  void (*fn)(void *u, const char *path, const char *method, const struct json_t *op), void *u);

/* What the two listeners serve at /openapi.json and /docs (docs_api.c). */
struct docs;
enum docs_listener { DOCS_PUBLIC, DOCS_ADMIN, DOCS_LISTENERS };
int docs_open(struct docs **out, const struct http_route *const routes[DOCS_LISTENERS], struct err *e);
void docs_close(struct docs *d); /* NULL is fine */
