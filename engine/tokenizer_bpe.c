/* Byte-pair encoding of one piece: the pair with the best rank is merged, the leftmost first, until no pair is left.
 *
 * The piece is a linked list of symbols, one per byte at first, kept in arrays indexed by the byte that a symbol begins at. A heap
 * holds (rank, position) of every pair that may be merged. A merge changes two neighbouring pairs; their old entries stay in the
 * heap and are recognized when they come up, because the rank noted at their position is another by then. Each merge removes a
 * symbol and adds at most two entries, so a piece of n bytes takes O(n log n) whatever it says; the textbook scan for the best pair
 * takes n squared, two minutes for half a megabyte of one letter.
 *
 * A byte that the vocabulary lacks is left out before anything is merged, as Hugging Face's BPE without an unknown token does.
 *
 * struct bpe does not change after loading. Source: Sennrich, Haddow, Birch 2016, "Neural machine translation of rare words with
 * subword units". */
#include "engine/tokenizer_impl.h"
#include <stdlib.h>
#include <string.h>

#define NO_RANK INT32_MAX
#define GONE (-1) /* of_byte: no token; next and prev: no symbol */
#define ARITY 4   /* of the heap: half the levels of a binary one, and the children share a cache line */

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
    b->pair = malloc(size * sizeof *b->pair);
    if (!b->pair) return err_set(e, ERR_NO_MEMORY, "tokenizer: out of memory for %zu merges", merges);
    for (size_t i = 0; i < size; i++) b->pair[i].key = PAIR_NONE;
    b->mask = size - 1;
    return 0;
}

void bpe_close(struct bpe *b)
{
    free(b->pair);
    b->pair = NULL;
}

bool bpe_add(struct bpe *b, int32_t left, int32_t right, int32_t rank, int32_t merged)
{
    uint64_t key = pair_key(left, right);
    size_t i = pair_slot(b, key);
    if (b->pair[i].key == key) return false;
    b->pair[i] = (struct pair){key, rank, merged};
    return true;
}

static const struct pair *find_pair(const struct bpe *b, int32_t left, int32_t right)
{
    const struct pair *p = &b->pair[pair_slot(b, pair_key(left, right))];
    return p->key == PAIR_NONE ? NULL : p;
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

/* The number of symbols. */
static int32_t lay_out(const struct bpe *b, struct bpe_room *r, const char *piece, size_t bytes)
{
    int32_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        int32_t id = b->of_byte[(uint8_t)piece[i]];
        if (id == GONE) continue;
        r->id[n] = id;
        r->prev[n] = n - 1;
        r->next[n] = n + 1;
        n++;
    }
    if (n) r->next[n - 1] = -1;
    r->nheap = 0;
    for (int32_t i = 0; i < n; i++) note_pair(b, r, i);
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

int bpe_encode(const struct bpe *b, struct bpe_room *r, const char *piece, size_t n, struct ids *out, struct err *e)
{
    if (make_room(r, n, e)) return -1;
    if (lay_out(b, r, piece, n) == 0) return 0;
    while (r->nheap) {
        uint64_t top = heap_pop(r);
        int32_t i = (int32_t)(uint32_t)top;
        if (r->rank[i] == (int32_t)(top >> 32)) merge_at(b, r, i);
    }
    for (int32_t i = 0; i >= 0; i = r->next[i])
        if (ids_push(out, r->id[i], e)) return -1;
    return 0;
}
