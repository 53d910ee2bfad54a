/* json: jansson with its costs bounded before it starts.
 *
 * jansson spends up to 60 bytes of heap on a byte of input ("[{},{},...]": 628 MB for 10 MB), so one pass over the text
 * counts nesting and values first and refuses what is too deep or too many; it needs no memory and no stack. What the
 * scan passes need not be JSON: jansson decides that. jansson quotes the offending text in its messages; that part is
 * cut off, for a message may be logged and the text is a user's prompt. Any thread, after json_start(). */
#include "base/json.h"
#include "base/sha256.h"
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_start(void)
{
    size_t seed = 0;
    if (random_bytes(&seed, sizeof seed) || seed == 0)
        seed = (size_t)&seed; /* 0 would let jansson choose by the time */
    json_object_seed(seed);
    json_load_start();
}

/* The end of the string whose opening quote is at i: the index of its closing quote, or len. */
static size_t string_end(const char *text, size_t len, size_t i)
{
    for (i++; i < len && text[i] != '"'; i++)
        if (text[i] == '\\') i++;
    return i < len ? i : len;
}

static bool is_scalar_byte(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '+' ||
           c == '.';
}

/* Upper bounds, true for every text that is JSON: keys count as values, for they cost memory as well. */
static int scan(const char *text, size_t len, struct err *e)
{
    int depth = 0, tokens = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (!c) return err_set(e, ERR_INVALID_JSON, "the JSON holds a NUL byte"); /* jansson passes over it */
        if (c == '}' || c == ']') depth--;
        bool opens = c == '{' || c == '[';
        if (opens && ++depth > JSON_DEPTH)
            return err_set(e, ERR_INVALID_JSON, "the JSON is nested deeper than %d levels", JSON_DEPTH);
        if (!opens && c != '"' && !is_scalar_byte(c)) continue;
        if (++tokens > JSON_TOKENS)
            return err_set(e, ERR_INVALID_JSON, "the JSON holds more than %d values", JSON_TOKENS);
        if (c == '"') i = string_end(text, len, i);
        while (is_scalar_byte(c) && i + 1 < len && is_scalar_byte(text[i + 1])) i++;
    }
    return 0;
}

/* jansson's own words where they would speak of its options. */
static const char *plain_words(const json_error_t *je)
{
    if (json_error_code(je) == json_error_null_character) return "a string holds \\u0000, which is not served";
    if (json_error_code(je) == json_error_numeric_overflow) return "a number is too large";
    return je->text;
}

bool json_lacked_memory(const json_error_t *je)
{
    return json_error_code(je) == json_error_out_of_memory;
}

static int refuse(const json_error_t *je, struct err *e)
{
    const char *text = plain_words(je);
    const char *near = strstr(text, " near '");
    int shown = near ? (int)(near - text) : (int)strlen(text);
    if (json_lacked_memory(je))
        return err_set(e, ERR_NO_MEMORY, "no memory to parse the JSON");
    if (json_error_code(je) == json_error_duplicate_key) shown = (int)strlen("duplicate object key");
    return err_set(e, ERR_INVALID_JSON, "invalid JSON at line %d, column %d: %.*s", je->line, je->column, shown, text);
}

int json_parse(const char *text, size_t len, json_t **out, struct err *e)
{
    json_error_t je;
    if (len == 0 || !text) return err_set(e, ERR_INVALID_JSON, "the body is empty, a JSON object was expected");
    if (scan(text, len, e)) return -1;
    json_t *v = json_load(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!v) return refuse(&je, e);
    if (!json_is_object(v)) {
        json_decref(v);
        return err_set(e, ERR_INVALID_JSON, "the JSON must be an object");
    }
    *out = v;
    return 0;
}

#define INT_DIGITS 18 /* that any 64-bit integer can have */

/* text with ".0" behind every integer that is too long; strings are left alone. */
static void widen(const char *text, size_t len, struct buf *out)
{
    bool in_string = false;
    for (size_t i = 0; i < len;) {
        size_t n = 1;
        if (in_string) {
            if (text[i] == '\\' && i + 1 < len) n = 2;
            in_string = text[i] != '"';
        } else if (text[i] == '"') {
            in_string = true;
        } else if (isdigit((unsigned char)text[i])) {
            size_t digits = 1;
            while (i + n < len && text[i + n] && strchr("0123456789.eE+-", text[i + n])) digits += (size_t)(isdigit((unsigned char)text[i + n++]) != 0);
            buf_add(out, text + i, n);
            if (n > INT_DIGITS && digits == n) buf_adds(out, ".0");
            i += n;
            continue;
        }
        buf_add(out, text + i, n);
        i += n;
    }
}

int json_parse_wide(const char *text, size_t len, json_t **out, struct err *e)
{
    struct buf wide;
    if (len == 0 || !text) return json_parse(text, len, out, e);
    buf_init(&wide, 2 * len + 64);
    widen(text, len, &wide);
    int rc = wide.failed ? err_set(e, ERR_NO_MEMORY, "no memory for JSON of %zu bytes", len)
                         : json_parse(wide.data, wide.len, out, e);
    buf_close(&wide);
    return rc;
}

/* The field's value, NULL when absent or null; sets *present. */
static const json_t *field_of(const json_t *o, const char *field, bool *present)
{
    const json_t *v = json_object_get(o, field);
    if (v && json_is_null(v)) v = NULL;
    if (present) *present = v != NULL;
    return v;
}

int json_get_int(const json_t *o, const char *field, int64_t min, int64_t max, int64_t *out, bool *present,
                 struct err *e)
{
    const json_t *v = field_of(o, field, present);
    if (!v) return 0;
    if (!json_is_integer(v)) return err_field(e, ERR_INVALID, field, "'%s' must be an integer", field);
    int64_t n = json_integer_value(v);
    if (n < min || n > max)
        return err_field(e, ERR_INVALID, field, "'%s' must be from %" PRId64 " to %" PRId64 ", not %" PRId64, field,
                         min, max, n);
    *out = n;
    return 0;
}

int json_get_num(const json_t *o, const char *field, double min, double max, double *out, bool *present, struct err *e)
{
    const json_t *v = field_of(o, field, present);
    if (!v) return 0;
    if (!json_is_number(v)) return err_field(e, ERR_INVALID, field, "'%s' must be a number", field);
    double n = json_number_value(v);
    if (!(n >= min && n <= max))
        return err_field(e, ERR_INVALID, field, "'%s' must be from %g to %g, not %g", field, min, max, n);
    *out = n;
    return 0;
}

int json_get_bool(const json_t *o, const char *field, bool *out, bool *present, struct err *e)
{
    const json_t *v = field_of(o, field, present);
    if (!v) return 0;
    if (!json_is_boolean(v)) return err_field(e, ERR_INVALID, field, "'%s' must be true or false", field);
    *out = json_is_true(v);
    return 0;
}

int json_get_str(const json_t *o, const char *field, size_t max_len, const char **out, bool *present, struct err *e)
{
    const json_t *v = field_of(o, field, present);
    if (!v) return 0;
    if (!json_is_string(v)) return err_field(e, ERR_INVALID, field, "'%s' must be a string", field);
    if (json_string_length(v) > max_len)
        return err_field(e, ERR_INVALID, field, "'%s' is longer than %zu bytes", field, max_len);
    *out = json_string_value(v);
    return 0;
}

int json_need_str(const json_t *o, const char *field, size_t max_len, const char **out, struct err *e)
{
    bool present;
    if (json_get_str(o, field, max_len, out, &present, e)) return -1;
    return present ? 0 : err_field(e, ERR_MISSING, field, "'%s' is required", field);
}

const char *json_other_field(const json_t *o, const char *const *names)
{
    const char *field;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, field, v)
    {
        const char *const *p = names;
        while (*p && strcmp(*p, field) != 0) p++;
        if (!*p) return field;
    }
    return NULL;
}

int json_check_fields(const json_t *o, const char *const *names, const char *where, struct err *e)
{
    const char *field = json_other_field(o, names);
    return field ? err_field(e, ERR_INVALID, where ? where : field, "There is no field '%.60s' here.", field) : 0;
}

int json_read_member(const json_t *from, const char *name, int (*read)(const json_t *v, json_t **out, struct err *e), const char *where, json_t *to, struct err *e)
{
    const json_t *v = json_object_get(from, name);
    json_t *part = NULL;
    if (!v || json_is_null(v)) return 0;
    if (read(v, &part, e)) {
        json_decref(part);
        err_within(e, name);
        return err_within(e, where);
    }
    return json_object_set_new(to, name, part) ? err_set(e, ERR_NO_MEMORY, "no memory for '%.60s'", where) : 0;
}

static int append(const char *bytes, size_t n, void *b)
{
    return buf_add(b, bytes, n);
}

int json_dump(const json_t *v, bool canonical, struct buf *b)
{
    size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | (canonical ? JSON_SORT_KEYS : 0);
    if (json_dump_callback(v, append, b, flags)) b->failed = true;
    return b->failed ? -1 : 0;
}

static void give_up_if(bool failed, json_t **v)
{
    if (!failed) return;
    json_decref(*v);
    *v = NULL;
}

void json_list_add(json_t **list, json_t *v)
{
    give_up_if(json_array_append_new(*list, v), list);
}

void json_object_put(json_t **object, const char *key, json_t *v)
{
    give_up_if(json_object_set_new(*object, key, v), object);
}

static json_t *if_equal(json_t *copy, const json_t *v)
{
    give_up_if(!json_equal(copy, v), &copy);
    return copy;
}

json_t *json_copy_top(const json_t *v)
{
    return if_equal(json_copy((json_t *)(uintptr_t)v), v);
}

json_t *json_copy_all(const json_t *v)
{
    return if_equal(json_deep_copy(v), v);
}

int json_error(const struct err *e, struct buf *b)
{
    const struct err_info *info = err_info(e->code);
    buf_adds(b, "{\"error\":{\"message\":");
    buf_add_json(b, e->msg, strlen(e->msg));
    buf_addf(b, ",\"type\":\"%s\",\"param\":", info->type);
    if (e->param[0])
        buf_add_json(b, e->param, strlen(e->param));
    else
        buf_adds(b, "null");
    if (info->code) return buf_addf(b, ",\"code\":\"%s\"}}", info->code);
    return buf_adds(b, ",\"code\":null}}");
}
