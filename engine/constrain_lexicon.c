/* constrain_lexicon: a vocabulary's tokens as tries of bytes, and the walk that finds which of them an automaton can read.
 *
 * A trie is one array in the order of a depth-first walk, each node knowing where its subtree ends, so a walk is a loop that goes on by one
 * or skips. A dead state skips a subtree; so from most states a walk looks at few hundred nodes.
 *
 * Inside a JSON string it would look at all. But there nearly every token is allowed: tokens of well-formed text without quote, backslash
 * and control characters ("plain" ones) have a trie and a ready mask of their own, and a state that such text leads back to
 * (machine_loops) takes the mask instead of a walk; a subtree that is entered in such a state is allowed as a whole.
 *
 * A token's last byte needs no transition, only a look whether the byte leads on (machine_live); most nodes are such ends, and for the
 * rest a transition is built once and remembered. A walk is bounded in work as well, for patterns whose states are many and large: past
 * WALK_WORK it starts again with tokens of three bytes, of two, and of one. Fewer tokens are offered then, never a wrong one, and the count
 * does not depend on what was remembered before. */
#include "engine/constrain_lexicon.h"
#include "base/buf.h"
#include <stdlib.h>
#include <string.h>

#define WALK_WORK 80000 /* places read and built: a millisecond or two */
#define PRICE_OF_TARGET 4u
#define VOCAB_MAX (1 << 24)

struct entry {
    const uint8_t *s;
    uint32_t len;
    int32_t id;
};

/* --- building --- */

static bool is_plain(const struct entry *t)
{
    for (size_t i = 0; i < t->len;) {
        bool valid;
        uint8_t c = t->s[i];
        if (c < 0x20 || c == '"' || c == '\\') return false;
        i += buf_utf8((const char *)t->s + i, t->len - i, &valid);
        if (!valid) return false;
    }
    return true;
}

static int by_bytes(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);
    if (c) return c;
    return x->len != y->len ? (x->len > y->len) - (x->len < y->len) : (x->id > y->id) - (x->id < y->id);
}

static size_t shared(const struct entry *a, const struct entry *b)
{
    size_t n = 0;
    while (n < a->len && n < b->len && a->s[n] == b->s[n]) n++;
    return n;
}

/* Nodes for the sorted entries e[0..n), whose ids stand in v->order from `first` on. */
static int build_trie(struct trie *t, const struct entry *e, size_t n, uint32_t first)
{
    size_t nodes = 1;
    uint32_t open[TOKEN_BYTES_MAX + 1]; /* the node of each depth on the way to the last entry */
    for (size_t i = 0; i < n; i++) nodes += e[i].len - (i ? shared(&e[i - 1], &e[i]) : 0);
    t->node = malloc(nodes * sizeof *t->node);
    if (!t->node) return -1;
    for (size_t i = 0; i < n; i++) {
        size_t from = i ? shared(&e[i - 1], &e[i]) : 0;
        for (size_t d = i ? e[i - 1].len : 0; d > from; d--) t->node[open[d]].skip = t->n;
        for (size_t d = from + 1; d <= e[i].len; d++) {
            open[d] = t->n;
            t->node[t->n++] =
                (struct tnode){.first = first + (uint32_t)i, .byte = e[i].s[d - 1], .depth = (uint8_t)d & 255u};
        }
        struct tnode *last = &t->node[open[e[i].len]];
        if (last->ntok < 65535) last->ntok++;
    }
    for (size_t d = n ? e[n - 1].len : 0; d > 0; d--) t->node[open[d]].skip = t->n;
    t->node[t->n] = (struct tnode){.skip = t->n, .first = first + (uint32_t)n};
    return 0;
}

static void set_bit(uint32_t *mask, int32_t id)
{
    mask[id / 32] |= 1u << (id % 32);
}

/* The tokens with text into plain[] and rest[], the ends into v->end. */
static void sort_out(struct lexicon *v, struct entry *plain, size_t *nplain, struct entry *rest, size_t *nrest)
{
    for (int id = 0; id < v->n; id++) {
        size_t len = 0;
        const char *s = tokenizer_bytes(v->tok, id, &len);
        struct entry t = {.s = (const uint8_t *)s, .len = (uint32_t)len, .id = id};
        if (tokenizer_is_end(v->tok, id)) {
            v->end[v->nend++] = id;
        } else if (s && len > 0 && len <= TOKEN_BYTES_MAX && !tokenizer_is_special(v->tok, id)) {
            if (is_plain(&t)) {
                plain[(*nplain)++] = t;
                set_bit(v->plain_mask, id);
            } else {
                rest[(*nrest)++] = t;
            }
        }
    }
    qsort(plain, *nplain, sizeof *plain, by_bytes);
    qsort(rest, *nrest, sizeof *rest, by_bytes);
}

int lexicon_init(struct lexicon *v, const struct tokenizer *t, struct err *e)
{
    *v = (struct lexicon){.tok = t, .n = tokenizer_vocab(t)};
    if (v->n < 1 || v->n > VOCAB_MAX)
        return err_set(e, ERR_MODEL, "a vocabulary of %d tokens, 1 to %d are served", v->n, VOCAB_MAX);
    size_t n = (size_t)v->n, nplain = 0, nrest = 0;
    int rc = -1;
    v->words = (v->n + 31) / 32;
    v->order = malloc(n * sizeof *v->order);
    v->end = malloc(n * sizeof *v->end);
    v->plain_mask = calloc((size_t)v->words, sizeof *v->plain_mask);
    struct entry *plain = malloc(2 * n * sizeof *plain), *rest = plain + n;
    if (!v->order || !v->end || !v->plain_mask || !plain) goto out;
    sort_out(v, plain, &nplain, rest, &nrest);
    for (size_t i = 0; i < nplain; i++) v->order[i] = plain[i].id;
    for (size_t i = 0; i < nrest; i++) v->order[nplain + i] = rest[i].id;
    if (build_trie(&v->plain, plain, nplain, 0) == 0 && build_trie(&v->rest, rest, nrest, (uint32_t)nplain) == 0)
        rc = 0;
out:
    free(plain);
    if (rc) {
        lexicon_close(v);
        err_set(e, ERR_NO_MEMORY, "no memory for the masks of %zu tokens", n);
    }
    return rc;
}

void lexicon_close(struct lexicon *v)
{
    free(v->order);
    free(v->end);
    free(v->plain_mask);
    free(v->plain.node);
    free(v->rest.node);
    *v = (struct lexicon){0};
}

/* --- walking --- */

struct walk {
    const struct lexicon *v;
    struct machine *m;
    uint32_t *mask;
    uint8_t deepest; /* longer tokens are left out */
    uint64_t work;   /* left; less than 0 counts as 0 */
    bool tired;      /* no work was left */
};

static void allow(struct walk *w, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++) set_bit(w->mask, w->v->order[i]);
}

/* The first time that this walk takes a transition it pays for what building it costs, whether or not it was built before. */
static bool pay(struct walk *w, int32_t from, uint8_t klass, int32_t to)
{
    uint32_t *paid = &w->m->state[from].paid[klass];
    if (*paid == w->m->walk) return true;
    *paid = w->m->walk;
    uint64_t price = w->m->state[from].n + PRICE_OF_TARGET * (uint64_t)w->m->state[to].n;
    w->tired = price > w->work;
    w->work -= w->tired ? w->work : price;
    return !w->tired;
}

static int walk_trie(struct walk *w, const struct trie *t, bool plain, int32_t start)
{
    struct machine *m = w->m;
    int32_t at[TOKEN_BYTES_MAX + 1];
    at[0] = start;
    machine_live(m, start);
    for (uint32_t i = 0; i < t->n;) {
        struct tnode d = t->node[i];
        int32_t from = at[d.depth - 1];
        const struct mstate *s = &m->state[from];
        if (!byte_set_has(&s->live, d.byte)) {
            i = d.skip;
            continue;
        }
        if (d.skip == i + 1 || d.depth >= w->deepest) { /* nothing to see behind it */
            allow(w, d.first, d.first + d.ntok);
            i = d.skip;
            continue;
        }
        uint8_t klass = m->net->klass[d.byte];
        int32_t to = s->next[klass];
        if (to < 0 && (to = machine_step(m, from, d.byte)) < 0) return -1;
        if (!pay(w, from, klass, to)) return 0;
        if (plain && w->deepest == TOKEN_BYTES_MAX && machine_loops(m, to)) {
            allow(w, d.first, t->node[d.skip].first);
            i = d.skip;
            continue;
        }
        machine_live(m, to);
        allow(w, d.first, d.first + d.ntok);
        at[d.depth] = to;
        i++;
    }
    return 0;
}

static int walk_all(struct walk *w, int32_t state)
{
    memset(w->mask, 0, (size_t)w->v->words * sizeof *w->mask);
    if (w->deepest == TOKEN_BYTES_MAX && machine_loops(w->m, state))
        memcpy(w->mask, w->v->plain_mask, (size_t)w->v->words * sizeof *w->mask);
    else if (walk_trie(w, &w->v->plain, true, state))
        return -1;
    return w->tired ? 0 : walk_trie(w, &w->v->rest, false, state);
}

static bool is_empty(const struct lexicon *v, const uint32_t *mask)
{
    for (int i = 0; i < v->words; i++)
        if (mask[i]) return false;
    return true;
}

const uint32_t *lexicon_mask(const struct lexicon *v, struct machine *m, int32_t state)
{
    /* One byte costs no transition, so the last is never tired. What one walk paid for is free for the next. */
    static const struct {
        uint8_t deepest;
        uint32_t work;
    } tries[] = {{TOKEN_BYTES_MAX, WALK_WORK}, {3, WALK_WORK / 4}, {2, WALK_WORK / 4}, {1, 0}};
    if (m->state[state].mask) return m->state[state].mask;
    uint32_t *mask = machine_alloc(m, (size_t)v->words * sizeof *mask);
    struct walk w = {.v = v, .m = m, .mask = mask, .tired = true};
    if (!mask) return NULL;
    m->walk++;
    for (size_t i = 0; i < sizeof tries / sizeof *tries && w.tired; i++) {
        w.deepest = tries[i].deepest;
        w.work = tries[i].work;
        w.tired = false;
        if (walk_all(&w, state)) return NULL;
    }
    struct mstate *s = &m->state[state];
    s->stuck = !s->final && is_empty(v, mask);
    for (int i = 0; (s->final || s->stuck) && i < v->nend; i++) set_bit(mask, v->end[i]);
    return s->mask = mask;
}
