/* A vocabulary from Hugging Face's tokenizer.json.
 *
 *     the file --slices--> model: tokens by text ─┐
 *                          added_tokens ──────────┴─> tokens by id --> keys, shown texts --> index --> merges
 *                          normalizer, pre_tokenizer, post_processor --> tokenizer_parts.c; decoder --> tokenizer_decode.c
 *
 * The big parts (a quarter of a million tokens, twice as many merges) are read in place; only the small ones become a tree.
 *
 * An added token has the id that the file gives it. transformers adds what tokenizer_config's added_tokens_decoder says on top, so
 * the flags there count. A token with `normalized` is looked for in normalized text, by its own normalized text, as Hugging Face does.
 *
 * Refused by name: models other than BPE, and what of BPE families don't use (dropout, prefixes and suffixes of subwords); two tokens
 * of one id, one token of two ids, merges of tokens that aren't there, ids beyond VOCAB_MAX. */
#include "base/json.h"
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_json.h"
#include "engine/tokenizer_utf8.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART_BYTES_MAX (4u << 20)
#define ADDED_MAX (1 << 20)
#define NAME_MAX_BYTES 64 /* of a key */

struct slice {
    const char *s; /* NULL: absent */
    size_t n;
};

struct entry { /* a token of the model or an added one; its text lies in hf.texts */
    size_t at, n;
    size_t normal_at, normal_n; /* added: its text after normalizing */
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
};

struct entries {
    struct entry *e;
    size_t n, cap;
};

enum { VERSION, TRUNCATION, PADDING, ADDED, NORMALIZER, PRE, POST, DECODER, MODEL, TOPS };
enum { TYPE, VOCAB, MERGES, UNK, FALLBACK, FUSE, WHOLE, DROPOUT, PREFIX, SUFFIX, FIELDS };

struct hf {
    struct tokenizer *t;
    struct slice top[TOPS], model[FIELDS];
    struct entries tokens, added;
    struct text texts, room;
    struct strings raw;           /* the tokens' texts by id */
    int32_t *token_of, *added_of; /* [vocab] index into tokens, added, or -1 */
    struct err *e;
};

/* --- slices --- */

static int slices(struct js *j, const char *const *names, struct slice *out, int n)
{
    char buf[NAME_MAX_BYTES];
    struct text key = {0};
    bool first = true;
    int r, i = 0;
    while ((r = js_next(j, '{', &first, &key)) > 0) {
        struct slice s;
        for (i = 0; i < n && (strlen(names[i]) != key.n || memcmp(names[i], key.s, key.n)); i++) continue;
        if (js_skip(j, &s.s, &s.n)) break;
        if (i < n && out[i].s) {
            snprintf(buf, sizeof buf, "\"%.32s\" twice", names[i]);
            js_fail(j, buf);
            break;
        }
        if (i < n) out[i] = s;
    }
    text_close(&key);
    return r == 0 ? 0 : -1;
}

static struct js reader(const struct hf *h, struct slice s)
{
    return (struct js){s.s, s.s ? s.s + s.n : NULL, h->e};
}

static bool is_null(struct slice s)
{
    return !s.s || (s.n == 4 && !memcmp(s.s, "null", 4));
}

static int tree(const struct hf *h, int part, json_t **out)
{
    struct slice s = h->top[part];
    json_error_t why;
    *out = NULL;
    if (is_null(s)) return 0;
    if (s.n > PART_BYTES_MAX)
        return err_set(h->e, ERR_MODEL, "tokenizer.json: a part of %zu bytes besides the model, at most %u are served",
                       s.n, PART_BYTES_MAX);
    *out = json_load(s.s, s.n, JSON_ALLOW_NUL | JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &why);
    return *out ? 0 : err_set(h->e, ERR_MODEL, "tokenizer.json: %s", why.text);
}

/* --- tokens by text --- */

static struct entry *new_entry(struct hf *h, struct entries *list, size_t max, const char *s, size_t n)
{
    if (list->n == max) {
        err_set(h->e, ERR_MODEL, "tokenizer.json: more than %zu %stokens", max, list == &h->added ? "added " : "");
        return NULL;
    }
    if (list->n == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 256;
        struct entry *p = realloc(list->e, cap * sizeof *p);
        if (!p) {
            err_set(h->e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu tokens", cap);
            return NULL;
        }
        list->e = p;
        list->cap = cap;
    }
    if (text_append(&h->texts, s, n, h->e)) return NULL;
    struct entry *x = &list->e[list->n++];
    *x = (struct entry){.at = h->texts.n - n, .n = n};
    return x;
}

static int set_id(struct hf *h, struct entry *x, int64_t id)
{
    if (id < 0 || id >= VOCAB_MAX)
        return err_set(h->e, ERR_MODEL, "tokenizer.json: the token \"%.*s\" has the id %lld, ids below %d are served",
                       (int)(x->n < 64 ? x->n : 64), h->texts.s + x->at, (long long)id, VOCAB_MAX);
    x->id = (int32_t)id;
    return 0;
}

static int read_vocab(struct hf *h)
{
    struct js j = reader(h, h->model[VOCAB]);
    struct text key = {0};
    bool first = true;
    int64_t id;
    int r;
    if (!h->model[VOCAB].s) return err_set(h->e, ERR_MODEL, "tokenizer.json: the model has no vocab");
    while ((r = js_next(&j, '{', &first, &key)) > 0) {
        struct entry *x = new_entry(h, &h->tokens, VOCAB_MAX, key.s, key.n);
        r = !x || js_int(&j, &id) || set_id(h, x, id) ? -1 : 0;
        if (r) break;
    }
    text_close(&key);
    return r;
}

static int read_added_field(struct hf *h, struct js *j, const struct text *key, struct entry *x, struct text *content)
{
    const struct {
        const char *name;
        bool *out;
    } flags[] = {{"special", &x->special},
                 {"normalized", &x->normalized},
                 {"lstrip", &x->lstrip},
                 {"rstrip", &x->rstrip},
                 {"single_word", &x->single_word}};
    struct slice skipped;
    int64_t id;
    (void)h;
    if (key->n == 2 && !memcmp(key->s, "id", 2)) {
        if (js_int(j, &id)) return -1;
        x->id = id < 0 || id >= VOCAB_MAX ? -1 : (int32_t)id;
        return 0;
    }
    if (key->n == 7 && !memcmp(key->s, "content", 7)) return js_string(j, content);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strlen(flags[i].name) == key->n && !memcmp(flags[i].name, key->s, key->n)) return js_bool(j, flags[i].out);
    return js_skip(j, &skipped.s, &skipped.n);
}

static int read_added_token(struct hf *h, struct js *j, struct text *key, struct text *content)
{
    struct entry x = {.id = -1, .normalized = true}, *to;
    bool first = true;
    int r;
    content->n = 0;
    while ((r = js_next(j, '{', &first, key)) > 0)
        if (read_added_field(h, j, key, &x, content)) return -1;
    if (r) return -1;
    if (x.id < 0 || content->n == 0)
        return err_set(h->e, ERR_MODEL, "tokenizer.json: the added token \"%.*s\" has no text, or no id below %d",
                       (int)(content->n < 64 ? content->n : 64), content->n ? content->s : "", VOCAB_MAX);
    to = new_entry(h, &h->added, ADDED_MAX, content->s, content->n);
    if (!to) return -1;
    x.at = to->at;
    x.n = to->n;
    *to = x;
    return 0;
}

static int read_added(struct hf *h)
{
    struct js j = reader(h, h->top[ADDED]);
    struct text key = {0}, content = {0};
    bool first = true;
    int r = 0;
    if (!is_null(h->top[ADDED]))
        while ((r = js_next(&j, '[', &first, NULL)) > 0 && (r = read_added_token(h, &j, &key, &content)) == 0) continue;
    text_close(&key);
    text_close(&content);
    return r;
}

/* tokenizer_config's added_tokens_decoder: {"ID": {"content", flags}}. */
static int read_config_added(struct hf *h, const json_t *config)
{
    const char *name;
    json_t *o;
    json_object_foreach((json_t *)json_object_get(config, "added_tokens_decoder"), name, o)
    {
        const json_t *content = json_object_get(o, "content");
        char *end;
        long id = strtol(name, &end, 10);
        if (*end || !json_string_length(content))
            return err_set(h->e, ERR_MODEL,
                           "tokenizer_config.json: added_tokens_decoder \"%.64s\" is no id with a content", name);
        struct entry *x = new_entry(h, &h->added, ADDED_MAX, json_string_value(content), json_string_length(content));
        if (!x || set_id(h, x, id)) return -1;
        x->special = json_is_true(json_object_get(o, "special"));
        x->normalized = !json_is_false(json_object_get(o, "normalized"));
        x->lstrip = json_is_true(json_object_get(o, "lstrip"));
        x->rstrip = json_is_true(json_object_get(o, "rstrip"));
        x->single_word = json_is_true(json_object_get(o, "single_word"));
    }
    return 0;
}

/* --- tokens by id --- */

static int32_t *new_map(int n)
{
    int32_t *p = malloc((size_t)n * sizeof *p);
    for (int i = 0; p && i < n; i++) p[i] = -1;
    return p;
}

static bool same_text(const struct hf *h, const struct entry *a, const struct entry *b)
{
    return a->n == b->n && !memcmp(h->texts.s + a->at, h->texts.s + b->at, a->n);
}

static int conflict(const struct hf *h, const struct entry *a, const struct entry *b)
{
    return err_set(h->e, ERR_MODEL, "tokenizer.json: \"%.*s\" and \"%.*s\" both have the id %d",
                   (int)(a->n < 64 ? a->n : 64), h->texts.s + a->at, (int)(b->n < 64 ? b->n : 64), h->texts.s + b->at,
                   a->id);
}

/* Of two added tokens of one id and text the later one counts. */
static int map_ids(struct hf *h)
{
    for (size_t i = 0; i < h->tokens.n; i++) {
        int32_t *at = &h->token_of[h->tokens.e[i].id];
        if (*at >= 0) return conflict(h, &h->tokens.e[i], &h->tokens.e[*at]);
        *at = (int32_t)i;
    }
    for (size_t i = 0; i < h->added.n; i++) {
        const struct entry *x = &h->added.e[i];
        int32_t *at = &h->added_of[x->id], of = h->token_of[x->id];
        if (*at >= 0 && !same_text(h, x, &h->added.e[*at])) return conflict(h, x, &h->added.e[*at]);
        if (of >= 0 && !same_text(h, x, &h->tokens.e[of])) return conflict(h, x, &h->tokens.e[of]);
        *at = (int32_t)i;
    }
    return 0;
}

/* What a text of the file is looked up by; false: by nothing, it cannot come from pieces. */
static bool key_of(struct hf *h, const char *s, size_t n, const char **key, size_t *len)
{
    *key = s;
    *len = n;
    if (!h->t->bpe.bytes) return true;
    h->room.n = 0;
    if (text_room(&h->room, n + 1, h->e)) return false;
    int64_t got = alphabet_decode(s, n, h->room.s);
    *key = h->room.s;
    *len = got < 0 ? 0 : (size_t)got;
    return got >= 0;
}

static int32_t find(struct hf *h, const char *s, size_t n)
{
    const char *key;
    size_t len;
    return key_of(h, s, n, &key, &len) ? vocab_find(&h->t->vocab, key, len) : -1;
}

/* The token of an id, the added one first; NULL: a hole. */
static const struct entry *entry_of(const struct hf *h, int32_t id)
{
    if (h->added_of[id] >= 0) return &h->added.e[h->added_of[id]];
    return h->token_of[id] >= 0 ? &h->tokens.e[h->token_of[id]] : NULL;
}

/* An added word that is looked for in normalized text is shown as it was found there. */
static int store(struct hf *h, int32_t id)
{
    const struct entry *x = entry_of(h, id);
    bool normal = x && h->added_of[id] >= 0 && x->normalized && !x->special;
    const char *key = "";
    size_t len = 0;
    if (x && h->token_of[id] >= 0) key_of(h, h->texts.s + x->at, x->n, &key, &len);
    return strings_add(&h->raw, id, x ? h->texts.s + (normal ? x->normal_at : x->at) : "",
                       x ? normal ? x->normal_n : x->n : 0, h->e) ||
                   strings_add(&h->t->vocab.key, id, key, len, h->e)
               ? -1
               : 0;
}

static int normalize_added(struct hf *h)
{
    struct text s = {0}, spare = {0};
    struct matcher m;
    int r = 0;
    if (matcher_init(&m, h->e)) return -1;
    for (size_t i = 0; i < h->added.n && !r; i++) {
        struct entry *x = &h->added.e[i];
        s.n = 0;
        r = text_append(&s, h->texts.s + x->at, x->n, h->e);
        if (!r && x->normalized) r = norm_run(h->t->norm, h->t->nnorm, &m, &s, &spare, h->e);
        if (!r) r = text_append(&h->texts, s.s, s.n, h->e);
        x->normal_at = h->texts.n - s.n;
        x->normal_n = s.n;
    }
    matcher_close(&m);
    text_close(&s);
    text_close(&spare);
    return r;
}

static int build_vocab(struct hf *h)
{
    struct vocab *v = &h->t->vocab;
    int32_t most = -1;
    int r = 0;
    for (size_t i = 0; i < h->tokens.n; i++) most = h->tokens.e[i].id > most ? h->tokens.e[i].id : most;
    for (size_t i = 0; i < h->added.n; i++) most = h->added.e[i].id > most ? h->added.e[i].id : most;
    if (vocab_init(v, (size_t)(most + 1), h->e)) return -1;
    h->token_of = new_map(v->n);
    h->added_of = new_map(v->n);
    h->raw.at = calloc((size_t)v->n + 1, sizeof *h->raw.at);
    if (!h->token_of || !h->added_of || !h->raw.at || text_room(&h->raw.text, 1, h->e))
        return err_set(h->e, ERR_NO_MEMORY, "tokenizer: out of memory for %d tokens", v->n);
    if (map_ids(h) || normalize_added(h)) return -1;
    for (int32_t id = 0; id < v->n && !r; id++) r = store(h, id);
    return r || vocab_index(v, h->e) ? -1 : 0;
}

/* --- merges --- */

static int add_merge(struct hf *h, struct text *left, struct text *right, int32_t rank)
{
    const char *key;
    size_t na = left->n, len;
    int32_t a, b, both;
    if (na + right->n > TOKEN_BYTES_MAX)
        return err_set(h->e, ERR_MODEL, "tokenizer.json: merge %d makes a token that is too long", rank);
    if (h->t->bpe.bytes && (!key_of(h, left->s, na, &key, &len) || !key_of(h, right->s, right->n, &key, &len)))
        return 0; /* not of the alphabet: it never comes to pass */
    a = find(h, left->s, na);
    b = find(h, right->s, right->n);
    if (text_append(left, right->s, right->n, h->e)) return -1;
    both = a < 0 || b < 0 ? -1 : find(h, left->s, left->n);
    if (both < 0)
        return err_set(h->e, ERR_MODEL,
                       "tokenizer.json: merge %d, \"%.*s\" and \"%.*s\", is of tokens that the vocabulary lacks", rank,
                       (int)(na < 64 ? na : 64), left->s, (int)(right->n < 64 ? right->n : 64), right->s);
    bpe_add(&h->t->bpe, a, b, rank, both, true);
    return 0;
}

/* "LEFT RIGHT" or ["LEFT", "RIGHT"] */
static int read_merge(struct hf *h, struct js *j, struct text *left, struct text *right, int32_t rank)
{
    bool first = true;
    if (js_peek(j) == '[') {
        if (js_next(j, '[', &first, NULL) != 1 || js_string(j, left) || js_next(j, '[', &first, NULL) != 1 ||
            js_string(j, right))
            return js_fail(j, "a merge is not of two tokens");
        return js_next(j, '[', &first, NULL) ? js_fail(j, "a merge is not of two tokens")
                                             : add_merge(h, left, right, rank);
    }
    if (js_string(j, left)) return -1;
    char *gap = memchr(left->s, ' ', left->n);
    size_t n = gap ? (size_t)(gap - left->s) : 0;
    if (!gap || memchr(gap + 1, ' ', left->n - n - 1))
        return js_fail(j, "a merge is not of two tokens with a space between them");
    right->n = 0;
    if (text_append(right, gap + 1, left->n - n - 1, h->e)) return -1;
    left->n = n;
    return add_merge(h, left, right, rank);
}

static int count_merges(struct hf *h, size_t *n)
{
    struct js j = reader(h, h->model[MERGES]);
    struct slice s;
    bool first = true;
    int r;
    for (*n = 0; (r = js_next(&j, '[', &first, NULL)) > 0; ++*n) {
        if (*n == VOCAB_MAX) return err_set(h->e, ERR_MODEL, "tokenizer.json: more than %d merges", VOCAB_MAX);
        if (js_skip(&j, &s.s, &s.n)) return -1;
    }
    return r;
}

static int read_merges(struct hf *h)
{
    struct js j = reader(h, h->model[MERGES]);
    struct text left = {0}, right = {0};
    bool first = true;
    int32_t rank = 0;
    size_t n;
    int r;
    if (!h->model[MERGES].s) return err_set(h->e, ERR_MODEL, "tokenizer.json: the model has no merges");
    if (count_merges(h, &n) || bpe_init(&h->t->bpe, n, h->e)) return -1;
    while ((r = js_next(&j, '[', &first, NULL)) > 0 && (r = read_merge(h, &j, &left, &right, rank++)) == 0) continue;
    text_close(&left);
    text_close(&right);
    return r;
}

/* --- the model's settings --- */

static int read_flag(struct hf *h, int field, bool *out)
{
    struct js j = reader(h, h->model[field]);
    return is_null(h->model[field]) ? 0 : js_bool(&j, out);
}

/* What is null, absent or empty, or 0, says nothing. */
static int refuse_setting(struct hf *h, int field, const char *name)
{
    struct slice s = h->model[field];
    if (is_null(s) || (s.n == 2 && !memcmp(s.s, "\"\"", 2)) || (s.n == 3 && !memcmp(s.s, "0.0", 3))) return 0;
    return err_set(h->e, ERR_MODEL, "tokenizer.json: the model's %s is %.*s, which is not served; null or left out is",
                   name, (int)(s.n < 64 ? s.n : 64), s.s);
}

static int read_type(struct hf *h)
{
    struct slice s = h->model[TYPE];
    if (s.s ? s.n == 5 && !memcmp(s.s, "\"BPE\"", 5) : h->model[MERGES].s != NULL) return 0;
    return err_set(h->e, ERR_MODEL,
                   "tokenizer.json: the model is %.*s; \"BPE\" is served: take a model whose tokenizer is one",
                   s.s ? (int)(s.n < 64 ? s.n : 64) : 7, s.s ? s.s : "unnamed");
}

static int read_unk(struct hf *h)
{
    struct js j = reader(h, h->model[UNK]);
    struct text name = {0};
    bool all = true;
    int r = 0;
    for (int b = 0; b < 256; b++) all = all && h->t->bpe.of_byte[b] >= 0;
    if (is_null(h->model[UNK]) || all) return 0; /* nothing is unknown */
    r = js_string(&j, &name);
    h->t->bpe.unk = r ? -1 : find(h, name.s, name.n);
    if (!r && h->t->bpe.unk < 0)
        r = err_set(h->e, ERR_MODEL, "tokenizer.json: the unk_token \"%.64s\" is not in the vocabulary",
                    name.n ? name.s : "");
    text_close(&name);
    return r;
}

static int read_bytes(struct hf *h)
{
    struct bpe *b = &h->t->bpe;
    bool fallback = false;
    char s[8];
    if (read_flag(h, FALLBACK, &fallback)) return -1;
    for (int i = 0; i < 256; i++) {
        s[0] = (char)i;
        if (!b->bytes) snprintf(s, sizeof s, "<0x%02X>", i);
        if (b->bytes || fallback) b->of_byte[i] = vocab_find(&h->t->vocab, s, b->bytes ? 1 : 6);
    }
    return 0;
}

static int load_model(struct hf *h)
{
    struct bpe *b = &h->t->bpe;
    if (refuse_setting(h, DROPOUT, "dropout") || refuse_setting(h, PREFIX, "continuing_subword_prefix") ||
        refuse_setting(h, SUFFIX, "end_of_word_suffix") || read_flag(h, FUSE, &b->fuse) ||
        read_flag(h, WHOLE, &b->whole_first))
        return -1;
    if (read_merges(h) || read_bytes(h) || read_unk(h)) return -1;
    return b->bytes ? 0 : bpe_note_joins(b, &h->t->vocab, h->e);
}

/* --- added tokens --- */

static int add_one(struct hf *h, const struct entry *x)
{
    struct cut *c = x->normalized ? &h->t->normal : &h->t->raw;
    struct added a = {x->id, x->lstrip, x->rstrip, x->single_word, x->special};
    int32_t same = find(h, h->texts.s + x->at, x->n);
    if (same >= 0 && same != x->id)
        return err_set(h->e, ERR_MODEL, "tokenizer.json: \"%.*s\" has the ids %d and %d", (int)(x->n < 64 ? x->n : 64),
                       h->texts.s + x->at, x->id, same);
    return cut_add(c, &a, h->texts.s + x->normal_at, x->normal_n, h->e);
}

static int load_added(struct hf *h)
{
    struct vocab *v = &h->t->vocab;
    for (int32_t id = 0; id < v->n; id++) {
        const struct entry *x = entry_of(h, id);
        bool added = h->added_of[id] >= 0;
        if (added && add_one(h, x)) return -1;
        v->kind[id] = !x ? UNUSED : !added ? NORMAL : x->special ? CONTROL : USER_DEFINED;
        v->end[id] = v->kind[id] == CONTROL && vocab_is_end_name(h->texts.s + x->at, x->n);
    }
    return cut_sort(&h->t->raw, h->e) || cut_sort(&h->t->normal, h->e) ? -1 : 0;
}

/* --- beginning and end --- */

/* The id of a token that a configuration names: a string, or an object with "content". -1: none. */
static int32_t named(struct hf *h, const json_t *config, const char *name)
{
    const json_t *v = json_object_get(config, name), *s = json_is_object(v) ? json_object_get(v, "content") : v;
    size_t n = json_string_length(s);
    for (int32_t id = 0; n && id < h->t->vocab.n; id++) {
        const struct entry *x = entry_of(h, id);
        if (x && x->n == n && !memcmp(h->texts.s + x->at, json_string_value(s), n)) return id;
    }
    return -1;
}

static int add_end(struct hf *h, const json_t *id)
{
    json_int_t i = json_integer_value(id);
    if (!json_is_integer(id) || i < 0 || i >= h->t->vocab.n)
        return err_set(h->e, ERR_MODEL, "generation_config.json: an eos_token_id that is none of the %d tokens",
                       h->t->vocab.n);
    h->t->vocab.end[i] = true;
    if (h->t->eos < 0) h->t->eos = (int32_t)i;
    return 0;
}

static int load_ends(struct hf *h, const json_t *config, const json_t *generation)
{
    const json_t *ids = json_object_get(generation, "eos_token_id"), *adds = json_object_get(config, "add_bos_token");
    struct tokenizer *t = h->t;
    int32_t bos = named(h, config, "bos_token");
    t->eos = named(h, config, "eos_token");
    if (t->eos >= 0) t->vocab.end[t->eos] = true;
    if (ids && !json_is_null(ids) && !json_is_array(ids) && add_end(h, ids)) return -1;
    for (size_t i = 0; i < json_array_size(ids); i++)
        if (add_end(h, json_array_get(ids, i))) return -1;
    if (t->bos < 0 || (bos >= 0 && !t->adds_bos)) t->bos = bos;
    if (json_is_boolean(adds)) t->adds_bos = json_is_true(adds);
    t->adds_bos = t->adds_bos && t->bos >= 0;
    return 0;
}

/* --- the whole --- */

static int load_parts(struct hf *h)
{
    static int (*const loads[])(struct tokenizer *, const json_t *, struct err *) = {parts_normalizer,
                                                                                     parts_pre_tokenizer};
    json_t *j;
    for (int i = 0; i < 2; i++) {
        if (tree(h, i == 0 ? NORMALIZER : PRE, &j)) return -1;
        int r = loads[i](h->t, j, h->e);
        json_decref(j);
        if (r) return -1;
    }
    return 0;
}

static int load_behind(struct hf *h)
{
    struct decode d = {0};
    json_t *j, *k = NULL;
    int r = tree(h, DECODER, &j) || tree(h, POST, &k) || decode_parse(&d, j, h->e) ||
                    decode_show(&d, &h->raw, &h->t->vocab, h->e) || parts_post_processor(h->t, k, h->e)
                ? -1
                : 0;
    decode_close(&d);
    json_decref(j);
    json_decref(k);
    return r;
}

static int load(struct hf *h, const char *s, size_t n, const json_t *config, const json_t *generation)
{
    static const char *const tops[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", "model"};
    static const char *const fields[] = {"type",
                                         "vocab",
                                         "merges",
                                         "unk_token",
                                         "byte_fallback",
                                         "fuse_unk",
                                         "ignore_merges",
                                         "dropout",
                                         "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    struct js j = {s, s + n, h->e}, m;
    if (slices(&j, tops, h->top, TOPS)) return -1;
    if (js_peek(&j)) return js_fail(&j, "something follows the end");
    if (is_null(h->top[MODEL])) return js_fail(&j, "it has no model");
    m = reader(h, h->top[MODEL]);
    if (slices(&m, fields, h->model, FIELDS) || read_type(h) || load_parts(h)) return -1;
    if (read_vocab(h) || read_added(h) || read_config_added(h, config) || build_vocab(h) || load_model(h)) return -1;
    return load_behind(h) || load_added(h) || load_ends(h, config, generation) ? -1 : 0;
}

int tokenizer_from_hf(struct tokenizer **out, const char *tokenizer_json, size_t len, const json_t *tokenizer_config,
                      const json_t *generation_config, struct err *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    struct hf h = {.t = t, .e = e};
    if (!t) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    t->bos = t->eos = -1;
    int r = load(&h, tokenizer_json, len, tokenizer_config, generation_config);
    free(h.tokens.e);
    free(h.added.e);
    free(h.token_of);
    free(h.added_of);
    free(h.raw.at);
    text_close(&h.raw.text);
    text_close(&h.texts);
    text_close(&h.room);
    if (r)
        tokenizer_free(t);
    else
        *out = t;
    return r;
}
