/* The parts of a tokenizer.json besides its model: normalizer, pre_tokenizer, post_processor. Each type is a row of a table; a type that
 * has no row, and a setting that would change tokens and isn't served, are refused by name.
 *
 * A `Sequence` is its members one after the other; sequences in sequences are walked as deep as PARTS_DEPTH. */
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <string.h>

#define PARTS_DEPTH 4
#define AFFIX_MAX 1024 /* bytes of what Prepend and Replace put into a text */

typedef int part_fn(struct tokenizer *t, const json_t *j, struct err *e);

struct row {
    const char *type;
    part_fn *load;
};

static int walk(struct tokenizer *t, const json_t *j, const char *part, const char *list, const struct row *rows,
                int depth, struct err *e)
{
    const char *type = json_string_value(json_object_get(j, "type"));
    size_t i;
    json_t *member;
    if (!type) return err_set(e, ERR_MODEL, "tokenizer.json: a %s without a type", part);
    if (!strcmp(type, "Sequence")) {
        if (depth == 0) return err_set(e, ERR_MODEL, "tokenizer.json: sequences in sequences of %ss", part);
        if (!json_is_array(json_object_get(j, list)))
            return err_set(e, ERR_MODEL, "tokenizer.json: a Sequence without \"%s\"", list);
        json_array_foreach(json_object_get(j, list), i, member)
        {
            if (walk(t, member, part, list, rows, depth - 1, e)) return -1;
        }
        return 0;
    }
    for (; rows->type; rows++)
        if (!strcmp(rows->type, type))
            return rows->load(t, j, e) ? err_prefix(e, "tokenizer.json, %s %s", part, type) : 0;
    return err_set(
        e, ERR_MODEL,
        "tokenizer.json: the %s \"%.64s\" is not served; a model with a tokenizer like Llama's, Qwen's or Gemma's is",
        part, type);
}

/* --- what several of them have --- */

/* Absent: *out stays. */
static int flag(const json_t *j, const char *name, bool *out, struct err *e)
{
    const json_t *v = json_object_get(j, name);
    if (!v || json_is_null(v)) return 0;
    if (!json_is_boolean(v)) return err_set(e, ERR_MODEL, "\"%s\" is not true or false", name);
    *out = json_is_true(v);
    return 0;
}

static int string(const json_t *j, const char *name, const char **s, size_t *n, struct err *e)
{
    const json_t *v = json_object_get(j, name);
    if (!json_is_string(v)) return err_set(e, ERR_MODEL, "\"%s\" is not a string", name);
    *s = json_string_value(v);
    *n = json_string_length(v);
    return *n > AFFIX_MAX
               ? err_set(e, ERR_MODEL, "\"%s\" is %zu bytes long, at most %d are served", name, *n, AFFIX_MAX)
               : 0;
}

/* {"String": text} or {"Regex": pattern} */
static int pattern(const json_t *j, struct pattern **out, struct err *e)
{
    const json_t *p = json_object_get(j, "pattern"), *text = json_object_get(p, "String"),
                 *regex = json_object_get(p, "Regex");
    if (json_is_string(text)) return pattern_text(out, json_string_value(text), json_string_length(text), e);
    if (json_is_string(regex)) return pattern_regex(out, json_string_value(regex), json_string_length(regex), e);
    return err_set(e, ERR_MODEL, "\"pattern\" is neither a String nor a Regex");
}

/* --- normalizers --- */

static struct norm *new_norm(struct tokenizer *t, enum norm_kind kind, struct err *e)
{
    if (t->nnorm == NORMS_MAX) {
        err_set(e, ERR_MODEL, "more than %d normalizers", NORMS_MAX);
        return NULL;
    }
    t->norm[t->nnorm].kind = kind;
    return &t->norm[t->nnorm++];
}

static int norm_nfc(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)j;
    return new_norm(t, NORM_NFC, e) ? 0 : -1;
}

static int norm_nfd(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)j;
    return new_norm(t, NORM_NFD, e) ? 0 : -1;
}

static int norm_nfkc(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)j;
    return new_norm(t, NORM_NFKC, e) ? 0 : -1;
}

static int norm_nfkd(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)j;
    return new_norm(t, NORM_NFKD, e) ? 0 : -1;
}

static int norm_lower(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)j;
    return new_norm(t, NORM_LOWER, e) ? 0 : -1;
}

static int norm_accents(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)j;
    return new_norm(t, NORM_ACCENTS, e) ? 0 : -1;
}

static int norm_strip(struct tokenizer *t, const json_t *j, struct err *e)
{
    struct norm *n = new_norm(t, NORM_STRIP, e);
    if (!n) return -1;
    n->left = n->right = true;
    return flag(j, "strip_left", &n->left, e) || flag(j, "strip_right", &n->right, e) ? -1 : 0;
}

static int norm_prepend(struct tokenizer *t, const json_t *j, struct err *e)
{
    struct norm *n = new_norm(t, NORM_PREPEND, e);
    const char *s;
    size_t len;
    return !n || string(j, "prepend", &s, &len, e) || text_append(&n->text, s, len, e) ? -1 : 0;
}

static int norm_replace(struct tokenizer *t, const json_t *j, struct err *e)
{
    struct norm *n = new_norm(t, NORM_REPLACE, e);
    const char *s;
    size_t len;
    return !n || string(j, "content", &s, &len, e) || text_append(&n->text, s, len, e) || pattern(j, &n->pattern, e)
               ? -1
               : 0;
}

int parts_normalizer(struct tokenizer *t, const json_t *j, struct err *e)
{
    static const struct row rows[] = {{"NFC", norm_nfc},     {"NFD", norm_nfd},         {"NFKC", norm_nfkc},
                                      {"NFKD", norm_nfkd},   {"Lowercase", norm_lower}, {"StripAccents", norm_accents},
                                      {"Strip", norm_strip}, {"Prepend", norm_prepend}, {"Replace", norm_replace},
                                      {NULL, NULL}};
    return !j || json_is_null(j) ? 0 : walk(t, j, "normalizer", "normalizers", rows, PARTS_DEPTH, e);
}

/* --- pre-tokenizers --- */

static int new_step(struct tokenizer *t, const struct step *s, struct err *e)
{
    if (t->pre.n == STEPS_MAX) return err_set(e, ERR_MODEL, "more than %d steps", STEPS_MAX);
    t->pre.step[t->pre.n++] = *s;
    return 0;
}

/* What follows the alphabet works on its characters; where nothing follows, pieces stay bytes. */
static int pre_byte_level(struct tokenizer *t, const json_t *j, struct err *e)
{
    bool prefix = true, regex = true;
    if (t->bpe.bytes) return err_set(e, ERR_MODEL, "a second one");
    if (flag(j, "add_prefix_space", &prefix, e) || flag(j, "use_regex", &regex, e)) return -1;
    if (prefix && new_step(t, &(struct step){.kind = STEP_PREFIX, .prefix = PREFIX_ALWAYS, .text = " "}, e)) return -1;
    if (regex && pre_add_regex(&t->pre, pre_gpt2, e)) return -1;
    t->bpe.bytes = true;
    t->pre.mapped = true;
    return new_step(t, &(struct step){.kind = STEP_ALPHABET}, e);
}

static int behaviour(const json_t *j, enum behaviour preset, enum behaviour *out, struct err *e)
{
    static const char *const names[] = {[ISOLATED] = "Isolated",
                                        [REMOVED] = "Removed",
                                        [WITH_PREVIOUS] = "MergedWithPrevious",
                                        [WITH_NEXT] = "MergedWithNext",
                                        [CONTIGUOUS] = "Contiguous"};
    const char *s = json_string_value(json_object_get(j, "behavior"));
    *out = preset;
    if (!s && !json_object_get(j, "behavior")) return 0;
    for (size_t i = 0; s && i < sizeof names / sizeof *names; i++) {
        *out = (enum behaviour)i;
        if (!strcmp(names[i], s)) return 0;
    }
    return err_set(e, ERR_MODEL, "the behavior \"%.64s\" is not known", s ? s : "");
}

static int pre_split_by(struct tokenizer *t, const json_t *j, struct err *e)
{
    enum behaviour b;
    bool invert = false;
    struct pattern *p;
    if (behaviour(j, ISOLATED, &b, e) || flag(j, "invert", &invert, e) || pattern(j, &p, e)) return -1;
    return pre_add_split(&t->pre, p, b, invert, e);
}

static int add_class(struct tokenizer *t, enum char_class class, enum behaviour b, struct err *e)
{
    struct pattern *p;
    return pattern_class(&p, class, e) || pre_add_split(&t->pre, p, b, false, e) ? -1 : 0;
}

static int pre_digits(struct tokenizer *t, const json_t *j, struct err *e)
{
    bool each = false;
    if (flag(j, "individual_digits", &each, e)) return -1;
    return add_class(t, CHAR_NUMERIC, each ? ISOLATED : CONTIGUOUS, e);
}

static int pre_punctuation(struct tokenizer *t, const json_t *j, struct err *e)
{
    enum behaviour b;
    return behaviour(j, ISOLATED, &b, e) || add_class(t, CHAR_PUNCT, b, e) ? -1 : 0;
}

static int pre_whitespace(struct tokenizer *t, const json_t *j, struct err *e)
{
    static const char words[] = "\\w+|[^\\w\\s]+";
    struct pattern *p;
    (void)j;
    return pattern_regex(&p, words, sizeof words - 1, e) || pre_add_split(&t->pre, p, REMOVED, true, e) ? -1 : 0;
}

static int pre_white_split(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)j;
    return add_class(t, CHAR_SPACE, REMOVED, e);
}

static int prefix_of(const json_t *j, enum prefix *out, struct err *e)
{
    const json_t *scheme = json_object_get(j, "prepend_scheme");
    const char *s = json_string_value(scheme);
    bool old = true;
    *out = PREFIX_ALWAYS;
    if (!scheme || json_is_null(scheme)) { /* files of old say add_prefix_space */
        if (flag(j, "add_prefix_space", &old, e)) return -1;
        if (!old) *out = PREFIX_NEVER;
        return 0;
    }
    if (!s) return err_set(e, ERR_MODEL, "\"prepend_scheme\" is not a string");
    *out = !strcmp(s, "never") ? PREFIX_NEVER : !strcmp(s, "first") ? PREFIX_FIRST : PREFIX_ALWAYS;
    return *out == PREFIX_ALWAYS && strcmp(s, "always")
               ? err_set(e, ERR_MODEL, "the prepend_scheme \"%.64s\" is not known", s)
               : 0;
}

static int pre_metaspace(struct tokenizer *t, const json_t *j, struct err *e)
{
    struct step step = {.kind = STEP_PREFIX};
    struct pattern *p;
    bool split = true;
    const char *s;
    size_t n;
    uint32_t cp;
    if (prefix_of(j, &step.prefix, e) || flag(j, "split", &split, e) || string(j, "replacement", &s, &n, e)) return -1;
    if (n == 0 || *s == ' ' || utf8_decode(s, n, &cp) != (int)n)
        return err_set(e, ERR_MODEL, "\"replacement\" is not one character");
    memcpy(step.text, s, n);
    if (new_step(t, &step, e)) return -1;
    return split && (pattern_text(&p, s, n, e) || pre_add_split(&t->pre, p, WITH_NEXT, false, e)) ? -1 : 0;
}

int parts_pre_tokenizer(struct tokenizer *t, const json_t *j, struct err *e)
{
    static const struct row rows[] = {{"ByteLevel", pre_byte_level},  {"Split", pre_split_by},
                                      {"Digits", pre_digits},         {"Punctuation", pre_punctuation},
                                      {"Whitespace", pre_whitespace}, {"WhitespaceSplit", pre_white_split},
                                      {"Metaspace", pre_metaspace},   {NULL, NULL}};
    if (!j || json_is_null(j)) return 0;
    if (walk(t, j, "pre_tokenizer", "pretokenizers", rows, PARTS_DEPTH, e)) return -1;
    if (t->pre.mapped &&
        t->pre.step[t->pre.n - 1].kind == STEP_ALPHABET) { /* nothing works on the alphabet's characters */
        t->pre.n--;
        t->pre.mapped = false;
    }
    return 0;
}

/* --- post-processors: which token is put before a text --- */

static int post_nothing(struct tokenizer *t, const json_t *j, struct err *e)
{
    (void)t;
    (void)j;
    (void)e;
    return 0;
}

/* "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}} */
static int template_id(struct tokenizer *t, const json_t *j, const char *name, int32_t *out, struct err *e)
{
    const json_t *ids = json_object_get(json_object_get(json_object_get(j, "special_tokens"), name), "ids");
    json_int_t id = json_integer_value(json_array_get(ids, 0));
    if (json_array_size(ids) != 1 || !json_is_integer(json_array_get(ids, 0)))
        return err_set(e, ERR_MODEL, "the special token \"%.64s\" is not one id", name);
    if (id < 0 || id >= t->vocab.n)
        return err_set(e, ERR_MODEL, "the id %lld is none of the %d tokens", (long long)id, t->vocab.n);
    *out = (int32_t)id;
    return 0;
}

/* What stands behind the text (EOS) is for training and is left out. */
static int post_template(struct tokenizer *t, const json_t *j, struct err *e)
{
    size_t i, before = 0;
    json_t *piece;
    int32_t id = -1;
    json_array_foreach(json_object_get(j, "single"), i, piece)
    {
        const char *name = json_string_value(json_object_get(json_object_get(piece, "SpecialToken"), "id"));
        if (json_object_get(piece, "Sequence")) break;
        if (!name) return err_set(e, ERR_MODEL, "a piece that is neither a SpecialToken nor a Sequence");
        if (template_id(t, j, name, &id, e)) return -1;
        before++;
    }
    if (before > 1) return err_set(e, ERR_MODEL, "%zu tokens before a text; one is served", before);
    if (before) t->bos = id;
    t->adds_bos = before == 1;
    return 0;
}

int parts_post_processor(struct tokenizer *t, const json_t *j, struct err *e)
{
    static const struct row rows[] = {{"ByteLevel", post_nothing}, {"TemplateProcessing", post_template}, {NULL, NULL}};
    return !j || json_is_null(j) ? 0 : walk(t, j, "post_processor", "processors", rows, PARTS_DEPTH, e);
}
