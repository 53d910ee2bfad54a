/* arena: bump allocation out of a short list of blocks.
 *
 * The header and the first block are one calloc, so an ordinary request costs one allocation and one free. Further
 * blocks double up to BLOCK_MAX; something larger than that gets a block of its own. Memory comes from calloc and is
 * never handed out twice, hence zeroed. The limit counts what was asked for, rounded up to 16 bytes, not what malloc
 * keeps beside it. One owner at a time; no locks. */
#include "base/arena.h"
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 16
#define BLOCK_FIRST 3840 /* header and block together stay under a page */
#define BLOCK_MAX (256 * 1024)

struct block {
    struct block *next;
    size_t used, cap;
    size_t pad; /* data starts at a multiple of ALIGN */
    unsigned char data[];
};

struct arena {
    size_t limit, used;
    size_t next_cap;
    struct block *top; /* the block that is filled now; older ones follow by next */
    bool full;         /* something was refused for the limit */
    _Alignas(ALIGN) struct block first;
};

_Static_assert(sizeof(struct block) % ALIGN == 0, "a block's data is aligned");
_Static_assert(offsetof(struct arena, first) % ALIGN == 0, "the first block's data is aligned");

struct arena *arena_new(size_t limit_bytes)
{
    struct arena *a = calloc(1, sizeof *a + BLOCK_FIRST);
    if (!a) return NULL;
    a->limit = limit_bytes;
    a->next_cap = 2 * BLOCK_FIRST + ALIGN * 16;
    a->first.cap = BLOCK_FIRST;
    a->top = &a->first;
    return a;
}

void arena_free(struct arena *a)
{
    if (!a) return;
    for (struct block *b = a->top, *next; b != &a->first; b = next) {
        next = b->next;
        free(b);
    }
    free(a);
}

static struct block *block_new(size_t cap)
{
    struct block *b = calloc(1, sizeof *b + cap);
    if (b) b->cap = cap;
    return b;
}

/* A block with room for n bytes: on top when it is an ordinary one; beneath the top when it is one thing's own, for the
 * top may still have room. */
static struct block *block_for(struct arena *a, size_t n)
{
    if (a->top->cap - a->top->used >= n) return a->top;
    bool own = n > a->next_cap / 2;
    struct block *b = block_new(own ? n : a->next_cap);
    if (!b) return NULL;
    if (own && a->top != &a->first) {
        b->next = a->top->next;
        a->top->next = b;
        return b;
    }
    b->next = a->top;
    a->top = b;
    if (!own && a->next_cap < BLOCK_MAX) a->next_cap *= 2;
    return b;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
    size_t n = bytes && bytes <= SIZE_MAX / 2 ? (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN;
    if (bytes > a->limit - a->used || bytes > SIZE_MAX / 2 || n > a->limit - a->used) {
        a->full = true;
        return NULL;
    }
    struct block *b = block_for(a, n);
    if (!b) return NULL;
    void *p = b->data + b->used;
    b->used += n;
    a->used += n;
    return p;
}

bool arena_is_full(const struct arena *a)
{
    return a->full;
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    if (n == SIZE_MAX) return NULL;
    char *p = arena_alloc(a, n + 1);
    if (p) memcpy(p, s, n); /* the NUL is there: memory comes zeroed */
    return p;
}

char *arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
    if (!p) return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

size_t arena_used(const struct arena *a)
{
    return a->used;
}
