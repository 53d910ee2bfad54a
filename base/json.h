/* JSON from strangers, by jansson, behind a scan that bounds what jansson would allocate.
 *
 * json_parse() first walks the text once: at most JSON_DEPTH nested levels and JSON_TOKENS values, or it refuses. Then
 * jansson parses with JSON_REJECT_DUPLICATES | JSON_DECODE_ANY off. The getters below say which field is wrong and put
 * its name into err.param, in OpenAI's manner. */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define JSON_DEPTH 64
#define JSON_TOKENS 200000 /* a prompt of token ids may be long */

/* Once at program start: seeds jansson's hash from getrandom, and has its memory come from here (json_load). */
void json_start(void);
void json_load_start(void); /* the latter alone */

/* json_loadb() that ends at the first allocation that fails: jansson itself would read on past the end of its buffer (base/json_load.c). For texts of ours,
 * too; je may be NULL. Nobody calls json_loads() or json_loadb() but this. */
json_t *json_load(const char *text, size_t len, size_t flags, json_error_t *je);

/* Whether one of jansson's allocations failed on this thread, in a parse or out of it, at since_us (clock_mono_us()) or later: what was built from then on
 * may lack something, for nobody looks at each json_array_append_new(). Whoever asks says when its own work began, for a request http_request.t_start_us,
 * so there is nothing to be reset before: what earlier work met does not count. json_short_is_told: nor does it from here on for those who began before,
 * but were not the ones that met it (base/http_reply.c, with each answer). */
bool json_was_short(int64_t since_us);
void json_short_is_told(void);

/* Whether json_load() gave NULL for want of memory, and not for what the text says. */
bool json_lacked_memory(const json_error_t *je);

/* The root must be an object. The caller owns *out (json_decref). */
int json_parse(const char *text, size_t len, json_t **out, struct err *e);

/* The same for files of models: integers of more than 18 digits are read as reals. (transformers says "no limit" as
 * model_max_length 1000000000000000019884624838656.) */
int json_parse_wide(const char *text, size_t len, json_t **out, struct err *e);

/* Each getter: absent or null -> *out is left as it is and 0 is returned (so preset the default);
 * wrong type or out of range -> -1 with ERR_INVALID and the field's name. `present` may be NULL. */
int json_get_int(const json_t *o, const char *field, int64_t min, int64_t max, int64_t *out, bool *present,
                 struct err *e);
int json_get_num(const json_t *o, const char *field, double min, double max, double *out, bool *present, struct err *e);
int json_get_bool(const json_t *o, const char *field, bool *out, bool *present, struct err *e);
int json_get_str(const json_t *o, const char *field, size_t max_len, const char **out, bool *present, struct err *e);

/* The field must be there: ERR_MISSING otherwise. */
int json_need_str(const json_t *o, const char *field, size_t max_len, const char **out, struct err *e);

/* The member `name` of `from`, read into what is stored of it, which goes into `to` by the same name; absent or null: nothing does. What read() says of a field is said of
 * where.name.field; what it made before it failed is given up. ERR_NO_MEMORY names what `where` is. */
int json_read_member(const json_t *from, const char *name, int (*read)(const json_t *v, json_t **out, struct err *e), const char *where, json_t *to, struct err *e);

/* The first field of o that is none of `names` (ended by NULL), in o's memory; NULL: there is none such. */
const char *json_other_field(const json_t *o, const char *const *names);
/* o must have no other field than `names`: ERR_INVALID names `where` as at fault, or the field itself where that is NULL. */
int json_check_fields(const json_t *o, const char *const *names, const char *where, struct err *e);

/* Dump compactly (keys sorted when `canonical`) to the end of b. */
int json_dump(const json_t *v, bool canonical, struct buf *b);

/* For values that are being made: v (taken, NULL: no memory) goes to the end of *list, or into *object. Where one of them has no memory the whole is
 * given up, *list or *object becomes NULL, and stays that: no answer lacks a part of itself. */
void json_list_add(json_t **list, json_t *v);
void json_object_put(json_t **object, const char *key, json_t *v);

/* A copy, one level of it or all; NULL: no memory. jansson's own leave out what they have no memory for, and say nothing. */
json_t *json_copy_top(const json_t *v);
json_t *json_copy_all(const json_t *v);

/* {"error":{"message","type","param","code"}} of an error, as OpenAI prints it, to the end of b. */
int json_error(const struct err *e, struct buf *b);
