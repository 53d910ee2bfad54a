/* Pre-tokenizers: what may never be merged across is cut first, by the patterns that the vocabulary was trained with.
 *
 * A vocabulary's splitter is a list of steps; each is applied to every piece that the one before it made, as if nothing stood around the
 * piece (Hugging Face's Sequence). So a look-ahead of the second pattern does not see over the first one's cut, which matters for "a  1".
 *
 * Text that is no UTF-8 never reaches a step: the runs of bad bytes are pieces of their own and the valid text between them is
 * split as if nothing stood around it.
 *
 * A step that changes its piece keeps the new text in a buffer of its own, so there is one per step, whatever the text. */
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <string.h>

struct split {
    const struct pre *pre;
    struct matcher *m;
    piece_fn *piece;
    void *u;
    struct err *e;
    struct text room[STEPS_MAX + 1];
};

static int run(struct split *x, int step, const char *s, size_t n, bool first);

/* --- cutting by a pattern --- */

struct cutting {
    struct split *x;
    int step;
    const char *s;
    bool first;
    bool held; /* from..to waits for its neighbour */
    bool held_match;
    size_t from, to;
};

static int give(struct cutting *c, size_t from, size_t to)
{
    return run(c->x, c->step + 1, c->s + from, to - from, c->first && from == 0);
}

static int give_held(struct cutting *c)
{
    bool held = c->held;
    c->held = false;
    return held ? give(c, c->from, c->to) : 0;
}

static void hold(struct cutting *c, size_t from, size_t to, bool match)
{
    c->held = true;
    c->held_match = match;
    c->from = from;
    c->to = to;
}

/* The next stretch of the piece, which is a match or lies between two. */
static int stretch(struct cutting *c, size_t from, size_t to, bool match)
{
    enum behaviour b = c->x->pre->step[c->step].behaviour;
    bool joins = c->held && (b == CONTIGUOUS  ? match == c->held_match
                             : b == WITH_NEXT ? c->held_match && !match
                                              : match && !c->held_match);
    if (b == ISOLATED) return give(c, from, to);
    if (b == REMOVED) return match ? 0 : give(c, from, to);
    if (!joins && give_held(c)) return -1;
    hold(c, joins ? c->from : from, to, match);
    return 0;
}

static int cut_piece(struct split *x, int step, const char *s, size_t n, bool first)
{
    const struct step *p = &x->pre->step[step];
    struct cutting c = {.x = x, .step = step, .s = s, .first = first};
    struct finder f = {0};
    size_t at = 0, from, to;
    int r;
    while ((r = pattern_next(p->pattern, x->m, &f, s, n, &from, &to, x->e)) != 0) {
        if (r < 0 || (from > at && stretch(&c, at, from, p->invert)) || stretch(&c, from, to, !p->invert)) return -1;
        at = to;
    }
    if (at < n && stretch(&c, at, n, p->invert)) return -1;
    return give_held(&c);
}

/* --- steps that change their piece --- */

static int prefix_piece(struct split *x, int step, const char *s, size_t n, bool first)
{
    const struct step *p = &x->pre->step[step];
    struct text *out = &x->room[step];
    size_t len = strlen(p->text);
    bool has = n >= len && !memcmp(s, p->text, len), spaces = p->text[0] != ' ';
    has = has || (spaces && s[0] == ' ');
    out->n = 0;
    if (!has && (p->prefix == PREFIX_ALWAYS || (p->prefix == PREFIX_FIRST && first)) &&
        text_append(out, p->text, len, x->e))
        return -1;
    if (text_room(out, spaces ? n * len : n, x->e)) return -1;
    for (size_t i = 0; i < n; i++) {
        bool space = spaces && s[i] == ' ';
        memcpy(out->s + out->n, space ? p->text : s + i, space ? len : 1);
        out->n += space ? len : 1;
    }
    return run(x, step + 1, out->s, out->n, first);
}

static int map_piece(struct split *x, int step, const char *s, size_t n, bool first)
{
    struct text *out = &x->room[step];
    out->n = 0;
    if (text_room(out, 2 * n + 1, x->e)) return -1;
    for (size_t i = 0; i < n; i++) out->n += (size_t)alphabet_encode((unsigned char)s[i], out->s + out->n);
    return run(x, step + 1, out->s, out->n, first);
}

static int end_piece(struct split *x, const char *s, size_t n)
{
    struct text *out = &x->room[STEPS_MAX];
    if (!x->pre->mapped) return x->piece(x->u, s, n, x->e);
    out->n = 0;
    if (text_room(out, n + 1, x->e)) return -1;
    int64_t len = alphabet_decode(s, n, out->s);
    return len < 0 ? 0 : x->piece(x->u, out->s, (size_t)len, x->e);
}

static int run(struct split *x, int step, const char *s, size_t n, bool first)
{
    if (n == 0) return 0;
    if (step == x->pre->n) return end_piece(x, s, n);
    switch (x->pre->step[step].kind) {
    case STEP_SPLIT:
        return cut_piece(x, step, s, n, first);
    case STEP_PREFIX:
        return prefix_piece(x, step, s, n, first);
    case STEP_ALPHABET:
        return map_piece(x, step, s, n, first);
    }
    return 0;
}

/* --- the whole text --- */

/* Bytes that begin no valid character. */
static size_t bad_run(const char *text, size_t len)
{
    size_t n = 0;
    uint32_t cp;
    while (n < len && utf8_decode(text + n, len - n, &cp) <= 0) n++;
    return n;
}

static int split_any(struct split *x, const char *text, size_t len, bool first)
{
    while (len) {
        size_t good = utf8_valid(text, len), bad = bad_run(text + good, len - good);
        if (run(x, 0, text, good, first)) return -1;
        if (bad && x->piece(x->u, text + good, bad, x->e)) return -1;
        text += good + bad;
        len -= good + bad;
        first = false;
    }
    return 0;
}

int pre_split(const struct pre *p, struct matcher *m, const char *text, size_t len, bool first, piece_fn *piece,
              void *u, struct err *e)
{
    struct split x = {.pre = p, .m = m, .piece = piece, .u = u, .e = e};
    int r = split_any(&x, text, len, first);
    for (int i = 0; i <= STEPS_MAX; i++) text_close(&x.room[i]);
    return r;
}

/* --- making one --- */

int pre_add_split(struct pre *p, struct pattern *pattern, enum behaviour b, bool invert, struct err *e)
{
    if (p->n == STEPS_MAX) {
        pattern_free(pattern);
        return err_set(e, ERR_MODEL, "a pre-tokenizer of more than %d steps", STEPS_MAX);
    }
    p->step[p->n++] = (struct step){.kind = STEP_SPLIT, .pattern = pattern, .behaviour = b, .invert = invert};
    return 0;
}

int pre_add_regex(struct pre *p, const char *regex, struct err *e)
{
    struct pattern *pattern;
    return pattern_regex(&pattern, regex, strlen(regex), e) || pre_add_split(p, pattern, ISOLATED, false, e) ? -1 : 0;
}

void pre_close(struct pre *p)
{
    for (int i = 0; i < p->n; i++) pattern_free(p->step[i].pattern);
    *p = (struct pre){0};
}
