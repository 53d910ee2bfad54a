/* A vocabulary from a GGUF's metadata.
 *
 * `tokenizer.ggml.model` says of what kind it is; a row of the table loads it:
 *
 *     gpt2     BPE over bytes: tokens in GPT-2's alphabet, merges, a pre-tokenizer by name
 *     gemma4   BPE over characters with merges; spaces are U+2581, missing characters are bytes' tokens
 *     llama    SentencePiece: as gemma4, but what merges is any two tokens whose text together is a token, by its score; a space before
 *              each span unless the file says otherwise
 *
 * Two tokens merge by score exactly if they merge by a list of merges that is made of all ways to halve each token, ranked by
 * the score of the whole (of equal scores the leftmost first, so equal scores are an equal rank). That list is made here.
 *
 * Refused: a vocabulary of another model (WordPiece's "bert", Unigram's "t5", "rwkv"), of an unknown pre-tokenizer, merges of
 * tokens that aren't there, ids outside of the vocabulary: wrong tokens would look like a dull model. */
#include "base/buf.h"
#include "engine/tokenizer_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PAIRS_MAX (64u << 20)

struct model {
    const char *name;
    bool chars, scores;
};

static const struct model models[] = {{"gpt2", false, false}, {"gemma4", true, false}, {"llama", true, true}};

/* --- tokens --- */

static int load_kinds(struct vocab *v, const struct gguf *g, struct err *e)
{
    static const char key[] = "tokenizer.ggml.token_type";
    int32_t *kind;
    size_t n;
    int r = 0;
    if (!gguf_has(g, key)) return 0;
    if (gguf_array_i32(g, key, &kind, &n, e)) return -1;
    if (n != (size_t)v->n) r = err_set(e, ERR_MODEL, "%s has %zu elements, the vocabulary %d", key, n, v->n);
    for (int i = 0; i < v->n && !r; i++) {
        if (kind[i] < NORMAL || kind[i] > BYTE)
            r = err_set(e, ERR_MODEL, "token %d is of the unknown type %d", i, kind[i]);
        else
            v->kind[i] = (uint8_t)kind[i];
    }
    free(kind);
    return r;
}

/* A token of a vocabulary over bytes. One with a character outside of the alphabet can't come from merges and stands as it is. */
static int store_bytes(struct vocab *v, int id, struct gguf_str s, struct text *room, struct err *e)
{
    room->n = 0;
    if (text_room(room, s.len + 1, e)) return -1;
    int64_t n = v->kind[id] == NORMAL ? alphabet_decode(s.s, s.len, room->s) : -1;
    const char *show = n < 0 ? s.s : room->s;
    size_t len = n < 0 ? s.len : (size_t)n;
    return strings_add(&v->key, id, show, n < 0 && v->kind[id] == NORMAL ? 0 : len, e) ||
                   strings_add(&v->show, id, show, len, e)
               ? -1
               : 0;
}

/* A token of a vocabulary over characters: shown with spaces for U+2581, a byte's token as the byte. */
static int store_chars(struct vocab *v, int id, struct gguf_str s, struct text *room, struct err *e)
{
    int byte = v->kind[id] == BYTE ? vocab_byte_of(s.s, s.len) : -1;
    room->n = 0;
    if (text_room(room, s.len + 1, e)) return -1;
    if (byte >= 0) room->s[room->n++] = (char)byte;
    for (size_t at = 0; byte < 0 && at < s.len;) {
        bool space = v->kind[id] != CONTROL && s.len - at >= 3 && !memcmp(s.s + at, METASPACE, 3);
        room->s[room->n++] = space ? ' ' : s.s[at];
        at += space ? 3 : 1;
    }
    return strings_add(&v->key, id, s.s, s.len, e) || strings_add(&v->show, id, room->s, room->n, e) ? -1 : 0;
}

static int load_tokens(struct tokenizer *t, const struct gguf *g, const struct model *m, struct err *e)
{
    struct gguf_str *tokens = NULL;
    struct text room = {0};
    size_t n;
    int r = 0;
    if (gguf_array_str(g, "tokenizer.ggml.tokens", &tokens, &n, e)) return -1;
    r = vocab_init(&t->vocab, n, e) || load_kinds(&t->vocab, g, e) ? -1 : 0;
    for (size_t i = 0; i < n && !r; i++)
        r = m->chars ? store_chars(&t->vocab, (int)i, tokens[i], &room, e)
                     : store_bytes(&t->vocab, (int)i, tokens[i], &room, e);
    text_close(&room);
    free(tokens);
    return r || vocab_index(&t->vocab, e) ? -1 : 0;
}

/* The tokens that bytes have: in a vocabulary over characters those of the type BYTE. */
static void note_bytes(struct tokenizer *t, bool chars)
{
    struct vocab *v = &t->vocab;
    size_t n;
    for (int32_t id = 0; id < v->n; id++) {
        const char *s = strings_at(chars ? &v->show : &v->key, id, &n);
        bool fits = chars ? v->kind[id] == BYTE : v->kind[id] == NORMAL || v->kind[id] == BYTE;
        if (fits && n == 1 && t->bpe.of_byte[(uint8_t)*s] < 0) t->bpe.of_byte[(uint8_t)*s] = id;
    }
}

/* --- merges --- */

/* "LEFT RIGHT", neither of which is empty; a token over characters may hold a space. */
static int load_merge(struct tokenizer *t, struct gguf_str m, int32_t rank, struct text *room, struct err *e)
{
    bool bytes = t->bpe.bytes;
    const char *gap = m.len > 1 && m.len <= TOKEN_BYTES_MAX ? memchr(m.s + 1, ' ', m.len - 1) : NULL;
    if (!gap) return err_set(e, ERR_MODEL, "merge %d of the vocabulary is not two tokens", rank);
    room->n = 0;
    if (text_room(room, m.len + 1, e)) return -1;
    size_t na = (size_t)(gap - m.s), nb = m.len - na - 1;
    int64_t left = (int64_t)na, right = (int64_t)nb;
    if (bytes)
        left = alphabet_decode(m.s, na, room->s);
    else
        memcpy(room->s, m.s, na);
    if (bytes && left >= 0)
        right = alphabet_decode(gap + 1, nb, room->s + left);
    else if (!bytes)
        memcpy(room->s + na, gap + 1, nb);
    int32_t a = left > 0 ? vocab_find(&t->vocab, room->s, (size_t)left) : -1;
    int32_t b = left > 0 && right > 0 ? vocab_find(&t->vocab, room->s + left, (size_t)right) : -1;
    int32_t both = a < 0 || b < 0 ? -1 : vocab_find(&t->vocab, room->s, (size_t)(left + right));
    if (both < 0)
        return err_set(e, ERR_MODEL, "merge %d of the vocabulary, \"%.*s\", is of tokens that it lacks", rank,
                       (int)(m.len < 64 ? m.len : 64), m.s);
    bpe_add(&t->bpe, a, b, rank, both, false);
    return 0;
}

static int load_merges(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct gguf_str *merges;
    struct text room = {0};
    size_t n;
    int r = 0;
    if (gguf_array_str(g, "tokenizer.ggml.merges", &merges, &n, e)) return -1;
    if (n > VOCAB_MAX) r = err_set(e, ERR_MODEL, "a vocabulary of %zu merges, at most %d are served", n, VOCAB_MAX);
    if (!r) r = bpe_init(&t->bpe, n, e);
    for (size_t i = 0; i < n && !r; i++) r = load_merge(t, merges[i], (int32_t)i, &room, e);
    text_close(&room);
    free(merges);
    return r;
}

/* --- merges by score --- */

struct scored {
    float score;
    int32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Tokens that merges can make, the best score first. */
static int sort_scores(const struct vocab *v, const float *score, struct scored **out, int *n, size_t *halvings,
                       struct err *e)
{
    struct scored *s = malloc((size_t)v->n * sizeof *s);
    size_t len;
    *n = 0;
    *halvings = 0;
    if (!s) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %d tokens", v->n);
    for (int32_t id = 0; id < v->n; id++) {
        const char *text = strings_at(&v->key, id, &len);
        if (v->kind[id] != NORMAL && v->kind[id] != USER_DEFINED && v->kind[id] != UNUSED) continue;
        if (!isfinite(score[id])) {
            free(s);
            return err_set(e, ERR_MODEL, "token %d has a score that is not finite", id);
        }
        if (vocab_find(v, text, len) != id) continue;
        *halvings += buf_characters(text, len);
        s[(*n)++] = (struct scored){score[id], id};
    }
    qsort(s, (size_t)*n, sizeof *s, by_score);
    *out = s;
    return 0;
}

static void add_halvings(struct tokenizer *t, int32_t id, int32_t rank)
{
    size_t n;
    const char *s = strings_at(&t->vocab.key, id, &n);
    for (size_t at = 1; at < n; at++) {
        if (((uint8_t)s[at] & 0xc0) == 0x80) continue;
        int32_t a = vocab_find(&t->vocab, s, at), b = a < 0 ? -1 : vocab_find(&t->vocab, s + at, n - at);
        if (b >= 0 && t->vocab.kind[a] != BYTE && t->vocab.kind[b] != BYTE) bpe_add(&t->bpe, a, b, rank, id, false);
    }
}

static int load_scores(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    static const char key[] = "tokenizer.ggml.scores";
    struct scored *s = NULL;
    float *score;
    size_t n, halvings;
    int count, r = 0;
    if (gguf_array_f32(g, key, &score, &n, e)) return -1;
    if (n != (size_t)t->vocab.n)
        r = err_set(e, ERR_MODEL, "%s has %zu elements, the vocabulary %d", key, n, t->vocab.n);
    if (!r) r = sort_scores(&t->vocab, score, &s, &count, &halvings, e);
    if (!r && halvings > PAIRS_MAX)
        r = err_set(e, ERR_MODEL, "the vocabulary's tokens have %zu characters, too many", halvings);
    if (!r) r = bpe_init(&t->bpe, halvings, e);
    for (int i = 0, rank = 0; !r && i < count; i++) {
        if (i && s[i].score != s[i - 1].score) rank = i;
        add_halvings(t, s[i].id, rank);
    }
    free(s);
    free(score);
    return r;
}

/* --- special tokens and the rest --- */

/* Phi-3's file does not say that its special tokens take the white space behind them, but they do. */
static bool strips_right(const struct gguf *g, const struct model *m, const char *s, size_t n)
{
    static const char *const plain[] = {"<unk>", "<s>", "<|endoftext|>"};
    struct gguf_str arch;
    if (!m->scores || !gguf_has(g, "general.architecture") || gguf_string(g, "general.architecture", &arch, NULL))
        return false;
    if (arch.len != 4 || memcmp(arch.s, "phi3", 4)) return false;
    for (size_t i = 0; i < 3; i++)
        if (strlen(plain[i]) == n && !memcmp(plain[i], s, n)) return false;
    return true;
}

static int load_special(struct tokenizer *t, const struct gguf *g, const struct model *m, struct err *e)
{
    struct vocab *v = &t->vocab;
    size_t n;
    for (int32_t id = 0; id < v->n; id++) {
        const char *s = strings_at(&v->key, id, &n);
        if (v->kind[id] != CONTROL && v->kind[id] != USER_DEFINED) continue;
        struct added a = {.id = id, .control = v->kind[id] == CONTROL, .rstrip = strips_right(g, m, s, n)};
        if (cut_add(&t->raw, &a, s, n, e)) return -1;
        if (a.control && vocab_is_end_name(s, n)) v->end[id] = true;
    }
    return cut_sort(&t->raw, e);
}

/* An id from the metadata; *out stays where the key is absent. */
static int load_id(const struct tokenizer *t, const struct gguf *g, const char *key, int32_t *out, struct err *e)
{
    uint64_t id;
    if (!gguf_has(g, key)) return 0;
    if (gguf_u64(g, key, &id, e)) return -1;
    if (id >= (uint64_t)t->vocab.n)
        return err_set(e, ERR_MODEL, "%s is %llu, the vocabulary has %d tokens", key, (unsigned long long)id,
                       t->vocab.n);
    *out = (int32_t)id;
    return 0;
}

static int load_ends(struct tokenizer *t, const struct gguf *g, const struct model *m, struct err *e)
{
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int32_t id = i == 0 && m->scores && t->vocab.n > 2 ? 2 : -1; /* where SentencePiece has them */
        if (load_id(t, g, keys[i], &id, e)) return -1;
        if (id >= 0) t->vocab.end[id] = true;
        if (i == 0) t->eos = id;
    }
    return 0;
}

static int load_bos(struct tokenizer *t, const struct gguf *g, const struct model *m, bool adds, struct err *e)
{
    static const char key[] = "tokenizer.ggml.add_bos_token";
    t->bos = m->scores && t->vocab.n > 1 ? 1 : -1;
    t->adds_bos = adds || m->chars;
    if (load_id(t, g, "tokenizer.ggml.bos_token_id", &t->bos, e)) return -1;
    if (gguf_has(g, key) && gguf_bool(g, key, &t->adds_bos, e)) return -1;
    t->adds_bos = t->adds_bos && t->bos >= 0;
    return 0;
}

/* Spaces become U+2581; one is put before each span, and not shown at the beginning of a text, unless the file says otherwise. */
static int load_spaces(struct tokenizer *t, const struct gguf *g, const struct model *m, struct err *e)
{
    static const char key[] = "tokenizer.ggml.add_space_prefix";
    struct step step = {.kind = STEP_PREFIX, .prefix = PREFIX_NEVER, .text = METASPACE};
    bool prefix = m->scores;
    size_t n;
    if (gguf_has(g, key) && gguf_bool(g, key, &prefix, e)) return -1;
    t->pre.step[t->pre.n++] = step;
    if (!prefix) return 0;
    t->norm[t->nnorm].kind = NORM_PREPEND; /* whatever the text begins with, another space included */
    if (text_append(&t->norm[t->nnorm++].text, METASPACE, 3, e)) return -1;
    for (int32_t id = 0; id < t->vocab.n; id++) {
        const char *s = strings_at(&t->vocab.show, id, &n);
        t->vocab.skip[id] = t->vocab.kind[id] != CONTROL && n && *s == ' ';
    }
    return 0;
}

static const struct model *find_model(const struct gguf *g, struct err *e)
{
    struct gguf_str name;
    if (gguf_string(g, "tokenizer.ggml.model", &name, e)) return NULL;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (strlen(models[i].name) == name.len && !memcmp(models[i].name, name.s, name.len)) return &models[i];
    err_set(e, ERR_MODEL,
            "tokenizer.ggml.model: the vocabulary's model is \"%.*s\"; a model whose vocabulary is BPE (\"gpt2\", "
            "\"gemma4\") or "
            "SentencePiece (\"llama\") is needed",
            (int)(name.len < 64 ? name.len : 64), name.s);
    return NULL;
}

static int load_pre(struct tokenizer *t, const struct gguf *g, const struct model *m, struct pre_traits *traits,
                    struct err *e)
{
    struct gguf_str pre;
    if (m->chars) return 0;
    if (gguf_string(g, "tokenizer.ggml.pre", &pre, e) || pre_by_name(&t->pre, pre.s, pre.len, traits, e)) return -1;
    if (traits->nfc) t->norm[t->nnorm++].kind = NORM_NFC;
    return 0;
}

static int load(struct tokenizer *t, const struct gguf *g, struct err *e)
{
    struct pre_traits traits = {0};
    const struct model *named = find_model(g, e);
    struct model m = named ? *named : (struct model){0};
    if (!named || load_pre(t, g, &m, &traits, e)) return -1;
    m.chars = m.chars || traits.chars;
    t->bpe.bytes = !m.chars;
    t->bpe.whole_first = traits.whole_first;
    if (load_tokens(t, g, &m, e) || (m.scores ? load_scores(t, g, e) : load_merges(t, g, e))) return -1;
    note_bytes(t, m.chars);
    if (m.chars && (bpe_note_joins(&t->bpe, &t->vocab, e) || load_spaces(t, g, &m, e))) return -1;
    t->bpe.fuse = m.chars;
    if (m.chars && load_id(t, g, "tokenizer.ggml.unknown_token_id", &t->bpe.unk, e)) return -1;
    return load_special(t, g, &m, e) || load_ends(t, g, &m, e) || load_bos(t, g, &m, traits.adds_bos, e) ? -1 : 0;
}

int tokenizer_from_gguf(struct tokenizer **out, const struct gguf *g, struct err *e)
{
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    if (load(t, g, e)) {
        tokenizer_free(t);
        return -1;
    }
    *out = t;
    return 0;
}
