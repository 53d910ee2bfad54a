/* How the tokens of a tokenizer.json are shown: its decoder, worked out once for each token.
 *
 * Hugging Face decodes a list of tokens; here what a token adds to the text is known when it comes, so that an answer can be
 * shown as it grows. That is possible because decoders look at a token alone, but for three things: the space before a text's
 * first word (kept as vocab.skip), bytes of one character in several tokens (put together where text is shown), and Fuse with a
 * Strip behind it, which strips the beginning of the text. A decoder of another shape is refused by name.
 *
 * One difference is left: of a run of byte tokens that is no UTF-8 as a whole, Hugging Face shows a U+FFFD for each byte; here
 * the characters that are whole are shown, since they were before the bad byte came.
 *
 * Used while a vocabulary is loaded. */
#include "engine/tokenizer_impl.h"
#include <stdlib.h>
#include <string.h>

#define OPS_MAX ((int)(sizeof((struct decode *)0)->op / sizeof *((struct decode *)0)->op))
#define DECODE_DEPTH 4
#define STRIP_MAX 255

/* --- parsing --- */

static int add_op(struct decode *d, int kind, struct err *e)
{
    if (d->n == OPS_MAX) return err_set(e, ERR_MODEL, "tokenizer.json: a decoder of more than %d steps", OPS_MAX);
    if (d->fused)
        return err_set(e, ERR_MODEL,
                       "tokenizer.json: a decoder with a step behind Fuse that is no Strip is not served");
    d->kind = DECODE_CHAIN;
    d->op[d->n++].kind = kind;
    return 0;
}

static int add_replace(struct decode *d, const json_t *j, struct err *e)
{
    const json_t *from = json_object_get(json_object_get(j, "pattern"), "String"), *to = json_object_get(j, "content");
    if (add_op(d, SHOW_REPLACE, e)) return -1;
    if (!json_string_length(from) || !json_is_string(to))
        return err_set(e, ERR_MODEL, "tokenizer.json: a decoder Replace of anything but a String is not served");
    return text_append(&d->op[d->n - 1].from, json_string_value(from), json_string_length(from), e) ||
                   text_append(&d->op[d->n - 1].to, json_string_value(to), json_string_length(to), e)
               ? -1
               : 0;
}

static int add_strip(struct decode *d, const json_t *j, struct err *e)
{
    const char *content = json_string_value(json_object_get(j, "content"));
    json_int_t start = json_integer_value(json_object_get(j, "start")),
               stop = json_integer_value(json_object_get(j, "stop"));
    if (!content || strcmp(content, " ") || start < 0 || start > STRIP_MAX || stop < 0 || stop > STRIP_MAX ||
        (d->fused && stop))
        return err_set(e, ERR_MODEL, "tokenizer.json: a decoder Strip of anything but spaces%s is not served",
                       d->fused ? " at the beginning" : "");
    if (d->fused) {
        d->strip += (int)start;
        return 0;
    }
    if (add_op(d, SHOW_STRIP, e)) return -1;
    d->op[d->n - 1].start = (int)start;
    d->op[d->n - 1].stop = (int)stop;
    return 0;
}

/* The replacement is dropped from the first token unless nothing is prepended. */
static int add_metaspace(struct decode *d, const json_t *j, struct err *e)
{
    const json_t *space = json_object_get(j, "replacement"), *scheme = json_object_get(j, "prepend_scheme");
    const char *s = json_is_string(scheme)                                  ? json_string_value(scheme)
                    : json_is_false(json_object_get(j, "add_prefix_space")) ? "never"
                                                                            : "always";
    if (!json_string_length(space))
        return err_set(e, ERR_MODEL, "tokenizer.json: a decoder Metaspace without \"replacement\"");
    if (add_op(d, SHOW_REPLACE, e)) return -1;
    d->drops = strcmp(s, "never") != 0;
    return text_append(&d->op[d->n - 1].from, json_string_value(space), json_string_length(space), e) ||
                   text_append(&d->op[d->n - 1].to, " ", 1, e)
               ? -1
               : 0;
}

static int parse(struct decode *d, const json_t *j, int depth, struct err *e)
{
    const char *type = json_string_value(json_object_get(j, "type"));
    size_t i;
    json_t *member;
    if (!type) return err_set(e, ERR_MODEL, "tokenizer.json: a decoder without a type");
    if (!strcmp(type, "Replace")) return add_replace(d, j, e);
    if (!strcmp(type, "Strip")) return add_strip(d, j, e);
    if (!strcmp(type, "ByteFallback")) return add_op(d, SHOW_BYTE, e);
    if (!strcmp(type, "ByteLevel")) return add_op(d, SHOW_ALPHABET, e);
    if (!strcmp(type, "Metaspace")) return add_metaspace(d, j, e);
    if (!strcmp(type, "Fuse")) {
        d->kind = DECODE_CHAIN;
        d->fused = true;
        return 0;
    }
    if (strcmp(type, "Sequence") || depth == 0)
        return err_set(e, ERR_MODEL,
                       "tokenizer.json: the decoder \"%.64s\" is not served; ByteLevel, and those of a BPE with byte "
                       "fallback, are",
                       type);
    json_array_foreach(json_object_get(j, "decoders"), i, member)
    {
        if (parse(d, member, depth - 1, e)) return -1;
    }
    return 0;
}

int decode_parse(struct decode *d, const json_t *j, struct err *e)
{
    return !j || json_is_null(j) ? 0 : parse(d, j, DECODE_DEPTH, e);
}

void decode_close(struct decode *d)
{
    for (int i = 0; i < d->n; i++) {
        text_close(&d->op[i].from);
        text_close(&d->op[i].to);
    }
    *d = (struct decode){0};
}

/* --- showing --- */

static int replace(const struct text *from, const struct text *to, const struct text *in, struct text *out,
                   struct err *e)
{
    size_t at = 0;
    const char *hit;
    while (at < in->n && (hit = memmem(in->s + at, in->n - at, from->s, from->n))) {
        size_t gap = (size_t)(hit - in->s) - at;
        if (text_append(out, in->s + at, gap, e) || text_append(out, to->s, to->n, e)) return -1;
        at += gap + from->n;
    }
    return text_append(out, in->s + at, in->n - at, e);
}

static int show_byte(const struct text *in, struct text *out, struct err *e)
{
    int byte = vocab_byte_of(in->s, in->n);
    char c = (char)byte;
    return byte < 0 ? text_append(out, in->s, in->n, e) : text_append(out, &c, 1, e);
}

static int show_alphabet(const struct text *in, struct text *out, struct err *e)
{
    if (text_room(out, in->n + 1, e)) return -1;
    int64_t n = alphabet_decode(in->s, in->n, out->s);
    if (n < 0) return text_append(out, in->s, in->n, e);
    out->n = (size_t)n;
    return 0;
}

static int show_strip(int start, int stop, const struct text *in, struct text *out, struct err *e)
{
    size_t from = 0, to = in->n;
    while (from < to && start-- > 0 && in->s[from] == ' ') from++;
    while (from < to && stop-- > 0 && in->s[to - 1] == ' ') to--;
    return text_append(out, in->s + from, to - from, e);
}

/* One token, from *in, by way of *out. */
static int show(const struct decode *d, struct text *in, struct text *out, struct err *e)
{
    for (int i = 0; i < d->n; i++) {
        struct text t;
        int r = 0;
        out->n = 0;
        switch (d->op[i].kind) {
        case SHOW_REPLACE:
            r = replace(&d->op[i].from, &d->op[i].to, in, out, e);
            break;
        case SHOW_BYTE:
            r = show_byte(in, out, e);
            break;
        case SHOW_ALPHABET:
            r = show_alphabet(in, out, e);
            break;
        case SHOW_STRIP:
            r = show_strip(d->op[i].start, d->op[i].stop, in, out, e);
            break;
        }
        if (r) return -1;
        t = *in;
        *in = *out;
        *out = t;
    }
    return 0;
}

/* How many bytes the token does not show as the first of a text. */
static size_t skipped(const struct decode *d, const struct text *s)
{
    size_t n = 0, most = d->drops ? STRIP_MAX : (size_t)d->strip;
    while (n < s->n && n < most && s->s[n] == ' ') n++;
    return n;
}

int decode_show(const struct decode *d, const struct strings *raw, struct vocab *v, struct err *e)
{
    struct text in = {0}, out = {0};
    int r = 0;
    for (int32_t id = 0; id < v->n && !r; id++) {
        size_t n;
        const char *s = strings_at(raw, id, &n);
        in.n = 0;
        r = (d->kind == DECODE_JOIN && n && text_append(&in, " ", 1, e)) || text_append(&in, s, n, e) ||
            show(d, &in, &out, e) || strings_add(&v->show, id, in.s, in.n, e);
        if (!r) v->skip[id] = (uint8_t)(d->kind == DECODE_JOIN ? n != 0 : skipped(d, &in));
    }
    text_close(&in);
    text_close(&out);
    return r ? -1 : 0;
}
