/* rule: the table of kinds, and those that need few lines.
 *
 * A pattern is compiled for each text it judges: ten microseconds on a thread where nobody waits, and nothing to keep. Its search has limits (RULE_MATCH_STEPS, MATCH_*), for
 * PCRE2 backtracks and both pattern and text are strangers'; meeting one is "not scored", never "failed". */
#include "gateway/quality/rule.h"
#include "base/buf.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MATCH_DEPTH 2000
#define MATCH_HEAP_KIB 4096
#define LENGTH_MAX 1048576

/* A note stands in JSON: what is left of a character that was cut goes. */
static void end_note(struct verdict *v)
{
    size_t n = strlen(v->note), at = n;
    bool whole;
    while (at > 0 && n - at < 3 && ((unsigned char)v->note[at - 1] & 0xc0) == 0x80) at--;
    if (at > 0 && (buf_utf8(v->note + at - 1, n - at + 1, &whole) != n - at + 1 || !whole)) v->note[at - 1] = 0;
}

void verdict_pass(struct verdict *v, bool passed, const char *why, ...)
{
    va_list args;
    *v = (struct verdict){.scored = true, .passed = passed, .score = passed ? 1 : 0};
    if (passed) return;
    va_start(args, why);
    vsnprintf(v->note, sizeof v->note, why, args);
    va_end(args);
    end_note(v);
}

void verdict_skip(struct verdict *v, const char *why)
{
    *v = (struct verdict){.scored = false};
    snprintf(v->note, sizeof v->note, "%s", why);
    end_note(v);
}

/* --- patterns --- */

/* As pcre2_match(), within the limits. */
static int search(const pcre2_code *p, const char *s, size_t n, uint32_t steps)
{
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    int code = PCRE2_ERROR_NOMEMORY;
    if (m && limits) {
        pcre2_set_match_limit(limits, steps);
        pcre2_set_depth_limit(limits, MATCH_DEPTH);
        pcre2_set_heap_limit(limits, MATCH_HEAP_KIB);
        code = pcre2_match(p, (PCRE2_SPTR)s, n, 0, 0, m, limits);
    }
    pcre2_match_context_free(limits);
    pcre2_match_data_free(m);
    return code;
}

int rule_match(const char *pattern, bool ignore_case, const char *s, size_t n, uint32_t steps, char why[RULE_NOTE_LEN])
{
    int code;
    PCRE2_SIZE at;
    pcre2_code *p = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | (ignore_case ? PCRE2_CASELESS : 0), &code, &at, NULL);
    if (p) code = s ? search(p, s, n, steps) : PCRE2_ERROR_NOMATCH;
    bool failed = !p || (code < 0 && code != PCRE2_ERROR_NOMATCH);
    if (failed) pcre2_get_error_message(code, (PCRE2_UCHAR *)why, RULE_NOTE_LEN);
    pcre2_code_free(p);
    return failed ? -1 : code >= 0;
}

/* Takes the fields over, NULL included, into a rule that is being read. */
static int put_fields(json_t *to, json_t *fields, struct err *e)
{
    int rc = fields ? json_object_update(to, fields) : -1;
    json_decref(fields);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for a rule") : 0;
}

static int regex_read(const json_t *v, json_t *to, struct err *e)
{
    const char *pattern = NULL, *expect = "match";
    char why[RULE_NOTE_LEN];
    bool ignore_case = false;
    if (json_need_str(v, "pattern", RULE_PATTERN_MAX, &pattern, e) || json_get_str(v, "expect", 16, &expect, NULL, e) || json_get_bool(v, "ignore_case", &ignore_case, NULL, e))
        return -1;
    if (strcmp(expect, "match") != 0 && strcmp(expect, "no_match") != 0) return err_field(e, ERR_INVALID, "expect", "'expect' must be match or no_match.");
    if (rule_match(pattern, ignore_case, NULL, 0, 0, why)) return err_field(e, ERR_INVALID, "pattern", "'pattern' is no regular expression: %.120s.", why);
    return put_fields(to, json_pack("{ss ss sb}", "pattern", pattern, "expect", expect, "ignore_case", (int)ignore_case), e);
}

static void regex_apply(const json_t *rule, const struct rule_text *t, struct verdict *v)
{
    char why[RULE_NOTE_LEN];
    bool want = strcmp(json_string_value(json_object_get(rule, "expect")), "match") == 0;
    int is = rule_match(json_string_value(json_object_get(rule, "pattern")), json_is_true(json_object_get(rule, "ignore_case")), t->s, t->n, RULE_MATCH_STEPS, why);
    if (is < 0) verdict_skip(v, why);
    else verdict_pass(v, is == want, want ? "the pattern is not in the answer" : "the pattern is in the answer");
}

/* --- length --- */

static const char *const unit_name[] = {"characters", "words", "tokens", NULL};
enum unit { UNIT_CHARACTERS, UNIT_WORDS, UNIT_TOKENS };

static int length_read(const json_t *v, json_t *to, struct err *e)
{
    const char *unit = "characters";
    int64_t min = 0, max = LENGTH_MAX;
    bool least = false, most = false;
    if (json_get_str(v, "unit", 16, &unit, NULL, e) || json_get_int(v, "min", 0, LENGTH_MAX, &min, &least, e) || json_get_int(v, "max", 0, LENGTH_MAX, &max, &most, e)) return -1;
    const char *const *u = unit_name;
    while (*u && strcmp(*u, unit) != 0) u++;
    if (!*u) return err_field(e, ERR_INVALID, "unit", "'unit' must be characters, words or tokens.");
    if (!least && !most) return err_field(e, ERR_MISSING, "max", "A length needs 'min' or 'max'.");
    if (min > max) return err_field(e, ERR_INVALID, "min", "'min' must not be greater than 'max'.");
    return put_fields(to, json_pack("{ss sI sI}", "unit", unit, "min", (json_int_t)min, "max", (json_int_t)max), e);
}

static int64_t length_of(const char *unit, const struct rule_text *t)
{
    int64_t n = 0;
    struct word w;
    if (strcmp(unit, unit_name[UNIT_TOKENS]) == 0) return t->tokens;
    if (strcmp(unit, unit_name[UNIT_WORDS]) == 0) {
        for (size_t at = 0; word_next(t->s, t->n, &at, &w);) n++;
        return n;
    }
    return (int64_t)buf_characters(t->s, t->n);
}

static void length_apply(const json_t *rule, const struct rule_text *t, struct verdict *v)
{
    const char *unit = json_string_value(json_object_get(rule, "unit"));
    int64_t n = length_of(unit, t);
    bool in = n >= json_integer_value(json_object_get(rule, "min")) && n <= json_integer_value(json_object_get(rule, "max"));
    verdict_pass(v, in, "%lld %s", (long long)n, unit);
}

/* --- all kinds --- */

static const struct kind {
    const char *name;
    int (*read)(const json_t *v, json_t *to, struct err *e);
    void (*apply)(const json_t *rule, const struct rule_text *t, struct verdict *v);
    const char *fields[8];
} kinds[] = {
    {"regex", regex_read, regex_apply, {"pattern", "expect", "ignore_case"}},
    {"json_schema", rule_schema_read, rule_schema_apply, {"schema"}},
    {"length", length_read, length_apply, {"unit", "min", "max"}},
    {"language", rule_language_read, rule_language_apply, {"languages"}},
};
#define KINDS (sizeof kinds / sizeof *kinds)

static const struct kind *kind_of(const char *name)
{
    for (size_t i = 0; i < KINDS; i++)
        if (name && strcmp(kinds[i].name, name) == 0) return &kinds[i];
    return NULL;
}

static bool has_field(const struct kind *k, const char *field)
{
    const char *const *p = k->fields;
    while (*p && strcmp(*p, field) != 0) p++;
    return *p;
}

/* Another kind's field may be there as null, as clients send what is not set. */
static bool of_another(const char *field)
{
    for (size_t i = 0; i < KINDS; i++)
        if (has_field(&kinds[i], field)) return true;
    return false;
}

static int check_fields(const json_t *v, const struct kind *k, struct err *e)
{
    const char *field;
    json_t *one;
    json_object_foreach((json_t *)v, field, one)
    {
        bool known = has_field(k, field) || strcmp(field, "name") == 0 || strcmp(field, "kind") == 0 || (json_is_null(one) && of_another(field));
        if (!known) return err_field(e, ERR_INVALID, field, "There is no field '%.60s' in a rule of kind %s.", field, k->name);
    }
    return 0;
}

static bool name_is_good(const char *s)
{
    size_t n = strlen(s);
    return n >= 1 && n <= RULE_NAME_MAX && strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

int rule_read(const json_t *v, json_t **out, struct err *e)
{
    const char *name = NULL, *kind = NULL;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "", "A rule is an object {name, kind, ...}.");
    if (json_need_str(v, "name", RULE_NAME_MAX, &name, e) || json_need_str(v, "kind", 32, &kind, e)) return -1;
    if (!name_is_good(name)) return err_field(e, ERR_INVALID, "name", "A rule's name is 1 to %d characters of a-z 0-9 . _ -", RULE_NAME_MAX);
    const struct kind *k = kind_of(kind);
    if (!k) return err_field(e, ERR_INVALID, "kind", "'kind' must be regex, json_schema, length or language.");
    json_t *o = json_pack("{ss ss}", "name", name, "kind", kind);
    if (!o) return err_set(e, ERR_NO_MEMORY, "no memory for a rule");
    if (check_fields(v, k, e) || k->read(v, o, e)) {
        json_decref(o);
        return -1;
    }
    *out = o;
    return 0;
}

void rule_apply(const json_t *rule, const struct rule_text *t, struct verdict *v)
{
    const struct kind *k = kind_of(json_string_value(json_object_get(rule, "kind")));
    if (k) k->apply(rule, t, v);
    else verdict_skip(v, "a kind of rule that is not known");
}
