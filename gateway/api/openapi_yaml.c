/* openapi_yaml: YAML to JSON, by libyaml, for the text that this program was built with.
 *
 * Plain scalars are what YAML 1.2's core schema says: null, true, false, whole and decimal numbers; everything else, and everything in
 * quotes, is a string. Keys are strings. Anchors work, for libyaml composes the document; merge keys, tags and non-finite numbers are
 * refused, because a reader of the JSON could not tell. Nothing here is meant for strangers' YAML: DEPTH alone bounds it. */
#include "base/json.h"
#include "gateway/api/openapi.h"
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH 64

struct openapi_yaml {
    yaml_parser_t parser;
};

int openapi_yaml_open(struct openapi_yaml **out, const char *text, struct err *e)
{
    struct openapi_yaml *y = calloc(1, sizeof *y);
    if (!y || !yaml_parser_initialize(&y->parser)) {
        free(y);
        return err_set(e, ERR_NO_MEMORY, "no memory for the API's description");
    }
    yaml_parser_set_input_string(&y->parser, (const unsigned char *)text, strlen(text));
    *out = y;
    return 0;
}

void openapi_yaml_close(struct openapi_yaml *y)
{
    if (!y) return;
    yaml_parser_delete(&y->parser);
    free(y);
}

static int refuse(const yaml_node_t *n, const char *what, struct err *e)
{
    return err_set(e, ERR_INTERNAL, "openapi.yaml, line %zu: %s", n->start_mark.line + 1, what);
}

/* [-+]digits[.digits][e[-+]digits] with at least one digit before or after the point; *real: not whole. */
static bool is_number(const char *s, bool *real)
{
    size_t whole, part = 0;
    if (*s == '-' || *s == '+') s++;
    whole = strspn(s, "0123456789");
    s += whole;
    *real = *s == '.';
    if (*s == '.') part = strspn(s + 1, "0123456789"), s += 1 + part;
    if (whole + part == 0) return false;
    if (*s == 'e' || *s == 'E') {
        s += 1 + (s[1] == '-' || s[1] == '+');
        *real = true;
        if (!strspn(s, "0123456789")) return false;
        s += strspn(s, "0123456789");
    }
    return !*s;
}

static json_t *plain(const char *s)
{
    bool real;
    if (!*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0) return json_null();
    if (strcmp(s, "true") == 0 || strcmp(s, "false") == 0) return json_boolean(*s == 't');
    if (!is_number(s, &real)) return json_string(s);
    return real ? json_real(strtod(s, NULL)) : json_integer(strtoll(s, NULL, 10));
}

static int convert(yaml_document_t *d, int id, int depth, json_t **out, struct err *e);

static int convert_list(yaml_document_t *d, const yaml_node_t *n, int depth, json_t **out, struct err *e)
{
    json_t *list = json_array(), *v;
    for (const yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++) {
        if (convert(d, *i, depth + 1, &v, e) || json_array_append_new(list, v)) {
            json_decref(list);
            return err_set(e, ERR_NO_MEMORY, "no memory for the API's description");
        }
    }
    *out = list;
    return 0;
}

static int add_pair(yaml_document_t *d, const yaml_node_pair_t *p, int depth, json_t *o, struct err *e)
{
    const yaml_node_t *key = yaml_document_get_node(d, p->key);
    const char *name = (const char *)key->data.scalar.value;
    json_t *v;
    if (key->type != YAML_SCALAR_NODE) return refuse(key, "a key that is no text", e);
    if (strcmp(name, "<<") == 0) return refuse(key, "a merge key", e);
    if (json_object_get(o, name)) return refuse(key, "a key that is there twice", e);
    if (convert(d, p->value, depth + 1, &v, e)) return -1;
    return json_object_set_new(o, name, v) ? err_set(e, ERR_NO_MEMORY, "no memory for the API's description") : 0;
}

static int convert_map(yaml_document_t *d, const yaml_node_t *n, int depth, json_t **out, struct err *e)
{
    json_t *o = json_object();
    for (const yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        if (add_pair(d, p, depth, o, e) == 0) continue;
        json_decref(o);
        return -1;
    }
    *out = o;
    return 0;
}

static int convert(yaml_document_t *d, int id, int depth, json_t **out, struct err *e)
{
    const yaml_node_t *n = yaml_document_get_node(d, id);
    if (depth > DEPTH) return refuse(n, "too many levels", e);
    if (n->type == YAML_SEQUENCE_NODE) return convert_list(d, n, depth, out, e);
    if (n->type == YAML_MAPPING_NODE) return convert_map(d, n, depth, out, e);
    const char *text = (const char *)n->data.scalar.value;
    json_t *v = n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? plain(text) : json_string(text);
    if (!v) return refuse(n, "a text that is not UTF-8", e);
    *out = v;
    return 0;
}

int openapi_yaml_next(struct openapi_yaml *y, json_t **out, struct err *e)
{
    yaml_document_t d;
    if (!yaml_parser_load(&y->parser, &d))
        return err_set(e, ERR_INTERNAL, "openapi.yaml, line %zu: %s", y->parser.problem_mark.line + 1,
                       y->parser.problem ? y->parser.problem : "no memory");
    int rc = yaml_document_get_root_node(&d) ? 1 : 0;
    if (rc == 1 && convert(&d, 1, 0, out, e)) rc = -1; /* nodes are numbered from the root, which is 1 */
    yaml_document_delete(&d);
    return rc;
}
