/* The vocabulary: what tokens are looked up by, what is shown of them, and how to find a token by its text.
 *
 * A token has two texts, each kept one behind the other in one block: `key`, by which pieces are looked up, and `show`, which decoding
 * gives out. In a vocabulary over bytes the file writes tokens in GPT-2's alphabet (each byte as a printable character: space is
 * U+0120) and both are the bytes; SentencePiece's "▁the" is looked up as it stands and shown as " the".
 *
 * What is a special token when the index is made is not found: its text in a piece is plain text. Of two equal tokens the first is
 * found.
 *
 * Filled while a vocabulary is loaded, not changed after that. */
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>

#define ALPHABET 324 /* characters of GPT-2's alphabet are below this */

/* --- growing things --- */

int text_room(struct text *t, size_t more, struct err *e)
{
    size_t cap = t->cap ? t->cap : 64;
    if (more <= t->cap - t->n) return 0;
    while (cap - t->n < more) cap *= 2;
    char *p = realloc(t->s, cap);
    if (!p) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu bytes of text", cap);
    t->s = p;
    t->cap = cap;
    return 0;
}

int text_append(struct text *t, const char *s, size_t n, struct err *e)
{
    if (text_room(t, n + 1, e)) return -1;
    if (n) memcpy(t->s + t->n, s, n);
    t->n += n;
    return 0;
}

void text_close(struct text *t)
{
    free(t->s);
    *t = (struct text){0};
}

int ids_push(struct ids *o, int32_t id, struct err *e)
{
    if (o->n == o->max) return err_set(e, ERR_CONTEXT_LENGTH, "the text has more than the %zu tokens that fit", o->max);
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 256;
        int32_t *p = realloc(o->id, cap * sizeof *p);
        if (!p) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu tokens", cap);
        o->id = p;
        o->cap = cap;
    }
    o->id[o->n++] = id;
    return 0;
}

/* --- the alphabet --- */

/* The 188 printable Latin-1 characters stand for themselves, the other bytes, in order, are U+0100 and on. */
static bool stands_for_itself(unsigned b)
{
    return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
}

int alphabet_encode(unsigned char byte, char out[2])
{
    unsigned c = byte;
    if (byte >= '!' && byte <= '~') {
        out[0] = (char)byte;
        return 1;
    }
    if (!stands_for_itself(byte)) c = 256 + (byte <= ' ' ? byte : byte <= 0xa0 ? byte - 0x7fu + 33 : 67);
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

/* The byte that character c stands for, or -1. */
static int alphabet_byte(uint32_t c)
{
    if (c < 256) return stands_for_itself(c) ? (int)c : -1;
    if (c >= ALPHABET) return -1;
    c -= 256;
    return (int)(c <= ' ' ? c : c < 67 ? c - 33 + 0x7f : 0xad);
}

int64_t alphabet_decode(const char *s, size_t n, char *out)
{
    int64_t got = 0;
    uint32_t c;
    for (size_t at = 0; at < n;) {
        int len = utf8_decode(s + at, n - at, &c), byte = len > 0 ? alphabet_byte(c) : -1;
        if (byte < 0) return -1;
        out[got++] = (char)byte;
        at += (size_t)len;
    }
    return got;
}

/* --- strings --- */

const char *strings_at(const struct strings *s, int32_t id, size_t *n)
{
    *n = s->at[id + 1] - s->at[id];
    return s->text.s + s->at[id];
}

int strings_add(struct strings *s, int id, const char *text, size_t n, struct err *e)
{
    if (n > TOKEN_BYTES_MAX)
        return err_set(e, ERR_MODEL, "the vocabulary's token %d is %zu bytes long, more than %d", id, n,
                       TOKEN_BYTES_MAX);
    if (n > UINT32_MAX - s->text.n)
        return err_set(e, ERR_MODEL, "the vocabulary's tokens take more than %u bytes", UINT32_MAX);
    if (text_append(&s->text, text, n, e)) return -1;
    s->at[id + 1] = (uint32_t)s->text.n;
    return 0;
}

int vocab_init(struct vocab *v, size_t n, struct err *e)
{
    if (n == 0 || n > VOCAB_MAX)
        return err_set(e, ERR_MODEL, "a vocabulary of %zu tokens, 1 to %d are served", n, VOCAB_MAX);
    v->n = (int)n;
    v->key.at = calloc(n + 1, sizeof *v->key.at);
    v->show.at = calloc(n + 1, sizeof *v->show.at);
    v->skip = calloc(n, sizeof *v->skip);
    v->kind = malloc(n);
    v->end = calloc(n, sizeof *v->end);
    if (!v->key.at || !v->show.at || !v->skip || !v->kind || !v->end || text_room(&v->key.text, 1, e) ||
        text_room(&v->show.text, 1, e))
        return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu tokens", n);
    memset(v->kind, NORMAL, n);
    return 0;
}

void vocab_close(struct vocab *v)
{
    text_close(&v->key.text);
    text_close(&v->show.text);
    free(v->key.at);
    free(v->show.at);
    free(v->skip);
    free(v->kind);
    free(v->end);
    free(v->found);
    *v = (struct vocab){0};
}

/* --- tokens by their text --- */

static uint64_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a; the vocabulary is the operator's, nobody chooses collisions */
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

static size_t slot_of(const struct vocab *v, const char *s, size_t n)
{
    size_t i = hash_bytes(s, n) & v->mask, len;
    for (; v->found[i] >= 0; i = (i + 1) & v->mask) {
        const char *have = strings_at(&v->key, v->found[i], &len);
        if (len == n && !memcmp(have, s, n)) break;
    }
    return i;
}

int32_t vocab_find(const struct vocab *v, const char *key, size_t n)
{
    return n ? v->found[slot_of(v, key, n)] : -1;
}

int vocab_index(struct vocab *v, struct err *e)
{
    size_t size = 16, len;
    while (size < 2 * (size_t)v->n + 2) size *= 2;
    v->found = malloc(size * sizeof *v->found);
    if (!v->found) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %d tokens", v->n);
    for (size_t i = 0; i < size; i++) v->found[i] = -1;
    v->mask = size - 1;
    for (int32_t id = 0; id < v->n; id++) {
        if (v->kind[id] == CONTROL || v->kind[id] == UNKNOWN) continue;
        const char *s = strings_at(&v->key, id, &len);
        size_t slot = slot_of(v, s, len);
        if (len && v->found[slot] < 0) v->found[slot] = id;
    }
    return 0;
}

/* --- names --- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int vocab_byte_of(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>' || hex_digit(s[3]) < 0 || hex_digit(s[4]) < 0) return -1;
    return hex_digit(s[3]) << 4 | hex_digit(s[4]);
}

bool vocab_is_end_name(const char *s, size_t n)
{
    static const char *const names[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>",      "<|eom_id|>",
                                        "<|end|>",    "<end_of_turn>", "<|end_of_text|>", "<|END_OF_TURN_TOKEN|>",
                                        "</s>",       "<|return|>",    "<|call|>",        "<|eot|>",
                                        "<turn|>",    "<|endofturn|>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && !memcmp(names[i], s, n)) return true;
    return false;
}
