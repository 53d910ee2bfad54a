/* The tokenizer: the way of a text through a vocabulary, and what is known of its tokens.
 *
 *     text --cut (added tokens)--> spans --norm--> normal text --cut (normalized ones)--> --split--> pieces --bpe--> ids
 *
 * Each span between two added tokens is normalized and split as a text of its own, as Hugging Face does; a vocabulary that
 * writes a space before the first word writes one before each span.
 *
 * Immutable after it was loaded: any thread. What an encode needs is its own. */
#include "engine/tokenizer.h"
#include "engine/tokenizer_impl.h"
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES_MAX (64u << 20) /* positions inside a piece are 32-bit */

void tokenizer_free(struct tokenizer *t)
{
    if (!t) return;
    vocab_close(&t->vocab);
    cut_close(&t->raw);
    cut_close(&t->normal);
    for (int i = 0; i < t->nnorm; i++) norm_close(&t->norm[i]);
    pre_close(&t->pre);
    bpe_close(&t->bpe);
    free(t);
}

/* --- encoding --- */

struct encode {
    const struct tokenizer *t;
    bool control; /* cut out control tokens, too; user-defined ones always are */
    struct ids out;
    struct bpe_room room;
    struct matcher match;
    struct text normal, spare;
};

typedef int span_fn(struct encode *x, const char *s, size_t n, bool first, struct err *e);

static int encode_piece(void *u, const char *s, size_t n, struct err *e)
{
    struct encode *x = u;
    return bpe_encode(&x->t->bpe, &x->t->vocab, &x->room, s, n, &x->out, e);
}

static int encode_plain(struct encode *x, const char *s, size_t n, bool first, struct err *e)
{
    return pre_split(&x->t->pre, &x->match, s, n, first, encode_piece, x, e);
}

/* Gives out the added tokens of a text, and calls `span` for what lies between. */
static int cut_text(struct encode *x, const struct cut *c, const char *s, size_t n, bool first, span_fn *span,
                    struct err *e)
{
    const struct added *a;
    size_t at = 0, begin, end;
    while ((a = cut_next(c, s, n, at, x->control, &begin, &end))) {
        if ((begin > at && span(x, s + at, begin - at, first && at == 0, e)) || ids_push(&x->out, a->id, e)) return -1;
        at = end;
    }
    return at < n ? span(x, s + at, n - at, first && at == 0, e) : 0;
}

static int encode_span(struct encode *x, const char *s, size_t n, bool first, struct err *e)
{
    const struct tokenizer *t = x->t;
    if (t->nnorm == 0) return cut_text(x, &t->normal, s, n, first, encode_plain, e);
    x->normal.n = 0;
    if (text_append(&x->normal, s, n, e) || norm_run(t->norm, t->nnorm, &x->match, &x->normal, &x->spare, e)) return -1;
    return cut_text(x, &t->normal, x->normal.s, x->normal.n, first, encode_plain, e);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special, size_t max_tokens,
                     struct tokens *out, struct err *e)
{
    struct encode x = {.t = t, .control = parse_special, .out = {.max = max_tokens}};
    if (len > TEXT_BYTES_MAX)
        return err_set(e, ERR_CONTEXT_LENGTH, "a text of %zu bytes, more than the %u that are taken", len,
                       TEXT_BYTES_MAX);
    if (matcher_init(&x.match, e)) return -1;
    int r = cut_text(&x, &t->raw, text, len, true, encode_span, e);
    matcher_close(&x.match);
    bpe_room_close(&x.room);
    text_close(&x.normal);
    text_close(&x.spare);
    if (r) {
        free(x.out.id);
        return -1;
    }
    *out = (struct tokens){x.out.id, x.out.n};
    return 0;
}

/* --- what is known of tokens --- */

static bool is_token(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->vocab.n;
}

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    *len = 0;
    return is_token(t, id) ? strings_at(&t->vocab.show, id, len) : "";
}

const char *tokenizer_first_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    const char *s = tokenizer_bytes(t, id, len);
    size_t skip = is_token(t, id) ? t->vocab.skip[id] : 0;
    *len -= skip;
    return s + skip;
}

int tokenizer_vocab(const struct tokenizer *t)
{
    return t->vocab.n;
}

int tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    return is_token(t, id) && t->vocab.end[id];
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return is_token(t, id) && (t->vocab.kind[id] == CONTROL || t->vocab.kind[id] == UNKNOWN);
}
