/* Byte-pair encoding of one piece: the pair with the best rank is merged, the leftmost first, until no pair is left.
 *
 * The piece is a linked list of symbols, kept in arrays indexed by where a symbol begins. A heap
 * holds (rank, position) of every pair that may be merged. A merge changes two neighbouring pairs; their old entries stay in the
 * heap and are recognized when they come up, because the rank noted at their position is another by then. Each merge removes a
 * symbol and adds at most two entries, so a piece of n bytes takes O(n log n) whatever it says; the textbook scan for the best pair
 * takes n squared, two minutes for half a megabyte of one letter.
 *
 * Symbols are bytes at first, or characters. A character that the vocabulary lacks becomes its bytes' tokens where there are such
 * ("<0xE2>"), else the unknown token, else nothing, as in Hugging Face's BPE.
 *
 * A vocabulary over characters has no splitter, often: the piece is the whole text. Two characters that stand side by side in
 * no token are never merged across, so a text is cut there (an exact cut: the filter of neighbours may only forget one) and
 * merged in short pieces, which stay in the cache.
 *
 * struct bpe does not change after loading. Source: Sennrich, Haddow, Birch 2016, "Neural machine translation of rare words with
 * subword units". */
#include "engine/tokenizer_impl.h"
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>

#define NO_RANK INT32_MAX
#define GONE (-1)    /* of_byte: no token; next and prev: no symbol */
#define JOIN_BITS 23 /* of the filter of neighbours: 1 MiB */
#define NO_CHAR UINT32_MAX
#define ARITY 4 /* of the heap: half the levels of a binary one, and the children share a cache line */

/* --- pairs --- */

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t pair_slot(const struct bpe *b, uint64_t key)
{
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    size_t i = (h ^ h >> 32) & b->mask;
    while (b->pair[i].key != PAIR_NONE && b->pair[i].key != key) i = (i + 1) & b->mask;
    return i;
}

int bpe_init(struct bpe *b, size_t merges, struct err *e)
{
    size_t size = 16;
    while (size < 2 * merges + 2) size *= 2; /* at most half full: probing ends soon, and there is always a free slot */
    for (int i = 0; i < 256; i++) b->of_byte[i] = GONE;
    b->unk = GONE;
    b->pair = malloc(size * sizeof *b->pair);
    if (!b->pair) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu merges", merges);
    for (size_t i = 0; i < size; i++) b->pair[i].key = PAIR_NONE;
    b->mask = size - 1;
    return 0;
}

void bpe_close(struct bpe *b)
{
    free(b->pair);
    free(b->joins);
    b->pair = NULL;
    b->joins = NULL;
}

void bpe_add(struct bpe *b, int32_t left, int32_t right, int32_t rank, int32_t merged, bool last)
{
    uint64_t key = pair_key(left, right);
    size_t i = pair_slot(b, key);
    if (b->pair[i].key == PAIR_NONE || last) b->pair[i] = (struct pair){key, rank, merged};
}

static const struct pair *find_pair(const struct bpe *b, int32_t left, int32_t right)
{
    const struct pair *p = &b->pair[pair_slot(b, pair_key(left, right))];
    return p->key == PAIR_NONE ? NULL : p;
}

/* --- neighbours --- */

static uint32_t join_bit(uint32_t left, uint32_t right)
{
    return (uint32_t)(pair_key((int32_t)left, (int32_t)right) * 0x9e3779b97f4a7c15u >> (64 - JOIN_BITS));
}

int bpe_note_joins(struct bpe *b, const struct vocab *v, struct err *e)
{
    uint32_t cp, bit;
    size_t n;
    b->joins = calloc((size_t)1 << (JOIN_BITS - 6), sizeof *b->joins);
    if (!b->joins) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory");
    for (int32_t id = 0; id < v->n; id++) {
        const char *s = strings_at(&v->key, id, &n);
        uint32_t before = NO_CHAR;
        for (int len; n && (len = utf8_decode(s, n, &cp)) > 0; s += len, n -= (size_t)len) {
            bit = join_bit(before, cp);
            b->joins[bit >> 6] |= (uint64_t)1 << (bit & 63);
            before = cp;
        }
    }
    return 0;
}

static bool may_join(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint32_t bit = join_bit(left, right);
    return !b->joins || b->joins[bit >> 6] >> (bit & 63) & 1;
}

/* --- heap of rank << 32 | position: the smallest first --- */

static void sift_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t v = h[i];
    for (;;) {
        size_t child = i * ARITY + 1, end = child + ARITY < n ? child + ARITY : n, best = child;
        if (child >= n) break;
        for (size_t c = child + 1; c < end; c++)
            if (h[c] < h[best]) best = c;
        if (h[best] >= v) break;
        h[i] = h[best];
        i = best;
    }
    h[i] = v;
}

static void heap_push(struct bpe_room *r, uint64_t v)
{
    size_t i = r->nheap++;
    while (i && r->heap[(i - 1) / ARITY] > v) {
        r->heap[i] = r->heap[(i - 1) / ARITY];
        i = (i - 1) / ARITY;
    }
    r->heap[i] = v;
}

static uint64_t heap_pop(struct bpe_room *r)
{
    uint64_t top = r->heap[0];
    r->heap[0] = r->heap[--r->nheap];
    if (r->nheap) sift_down(r->heap, r->nheap, 0);
    return top;
}

/* --- a piece --- */

/* The heap's most: n - 1 entries at first, and each of at most n - 1 merges takes one out and puts two in. */
static int make_room(struct bpe_room *r, size_t n, struct err *e)
{
    if (n <= r->cap) return 0;
    bpe_room_close(r);
    size_t cap = n < 256 ? 256 : n;
    r->id = malloc(cap * 4 * sizeof *r->id);
    r->heap = malloc(cap * 2 * sizeof *r->heap);
    if (!r->id || !r->heap) {
        bpe_room_close(r);
        return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for a piece of %zu bytes", n);
    }
    r->next = r->id + cap;
    r->prev = r->next + cap;
    r->rank = r->prev + cap;
    r->cap = cap;
    return 0;
}

void bpe_room_close(struct bpe_room *r)
{
    free(r->id);
    free(r->heap);
    *r = (struct bpe_room){0};
}

/* Note the pair that begins at symbol i, and put it into the heap if it may be merged. */
static void note_pair(const struct bpe *b, struct bpe_room *r, int32_t i)
{
    const struct pair *p = r->next[i] < 0 ? NULL : find_pair(b, r->id[i], r->id[r->next[i]]);
    r->rank[i] = p ? p->rank : NO_RANK;
    if (p) heap_push(r, (uint64_t)(uint32_t)p->rank << 32 | (uint32_t)i);
}

/* --- symbols --- */

struct laying {
    const struct bpe *b;
    const struct vocab *v;
    struct bpe_room *r;
    int32_t n;
    bool unknown; /* an unknown token waits for what follows, which may be part of it */
};

static void lay(struct laying *l, int32_t id)
{
    l->r->id[l->n] = id;
    l->r->prev[l->n] = l->n - 1;
    l->r->next[l->n] = l->n + 1;
    l->n++;
}

static void lay_unknown(struct laying *l)
{
    if (l->unknown) lay(l, l->b->unk);
    l->unknown = false;
}

static void lay_missing(struct laying *l)
{
    if (l->b->unk == GONE) return;
    if (!l->b->fuse) lay_unknown(l);
    l->unknown = true;
}

static void lay_bytes(struct laying *l, const char *s, size_t n)
{
    bool all = true;
    for (size_t i = 0; i < n; i++) all = all && l->b->of_byte[(uint8_t)s[i]] != GONE;
    if (!all) lay_missing(l);
    for (size_t i = 0; i < n && all; i++) lay(l, l->b->of_byte[(uint8_t)s[i]]);
}

/* Characters up to where no token reaches across. How many bytes that was. */
static size_t lay_chars(struct laying *l, const char *s, size_t n)
{
    uint32_t before = NO_CHAR, cp;
    size_t at = 0;
    for (int len, id; at < n; at += (size_t)len) {
        len = utf8_decode(s + at, n - at, &cp);
        if (len <= 0) cp = NO_CHAR;
        if (len <= 0) len = 1;
        id = vocab_find(l->v, s + at, (size_t)len);
        if (id >= 0 && before != NO_CHAR && !may_join(l->b, before, cp)) break;
        before = id >= 0 ? cp : NO_CHAR;
        if (id < 0) {
            lay_bytes(l, s + at, (size_t)len);
            continue;
        }
        lay_unknown(l);
        lay(l, id);
    }
    return at;
}

static size_t lay_all_bytes(struct laying *l, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = l->b->of_byte[(uint8_t)s[i]];
        if (id == GONE)
            lay_missing(l);
        else
            lay_unknown(l);
        if (id != GONE) lay(l, id);
    }
    return n;
}

static void merge_at(const struct bpe *b, struct bpe_room *r, int32_t i)
{
    int32_t gone = r->next[i], after = r->next[gone];
    r->id[i] = find_pair(b, r->id[i], r->id[gone])->merged;
    r->rank[gone] = NO_RANK;
    r->next[i] = after;
    if (after >= 0) r->prev[after] = i;
    note_pair(b, r, i);
    if (r->prev[i] >= 0) note_pair(b, r, r->prev[i]);
}

static int merge_all(const struct bpe *b, struct bpe_room *r, int32_t n, struct ids *out, struct err *e)
{
    if (n == 0) return 0;
    r->next[n - 1] = -1;
    r->nheap = 0;
    for (int32_t i = 0; i < n; i++) note_pair(b, r, i);
    while (r->nheap) {
        uint64_t top = heap_pop(r);
        int32_t i = (int32_t)(uint32_t)top;
        if (r->rank[i] == (int32_t)(top >> 32)) merge_at(b, r, i);
    }
    for (int32_t i = 0; i >= 0; i = r->next[i])
        if (ids_push(out, r->id[i], e)) return -1;
    return 0;
}

int bpe_encode(const struct bpe *b, const struct vocab *v, struct bpe_room *r, const char *piece, size_t n,
               struct ids *out, struct err *e)
{
    int32_t whole = b->whole_first || (b->bytes && n == 1) ? vocab_find(v, piece, n) : GONE;
    if (whole != GONE && v->kind[whole] != CONTROL) return ids_push(out, whole, e);
    if (make_room(r, n, e)) return -1;
    while (n) {
        struct laying l = {b, v, r, 0, false};
        size_t used = b->bytes ? lay_all_bytes(&l, piece, n) : lay_chars(&l, piece, n);
        lay_unknown(&l);
        if (merge_all(b, r, l.n, out, e)) return -1;
        piece += used;
        n -= used;
    }
    return 0;
}
