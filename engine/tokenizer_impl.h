/* Inside the tokenizer: the splitter (tokenizer_pre.c) and the merger (tokenizer_bpe.c), which tokenizer.c puts together. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Ids on their way out, at most `max` of them. */
struct ids {
    int32_t *id;
    size_t n, cap, max;
};

int ids_push(struct ids *o, int32_t id, struct err *e); /* beyond max: ERR_CONTEXT_LENGTH */

/* --- splitting text into pieces --- */

struct pre;

/* What a vocabulary of that pre-tokenizer does besides splitting. */
struct pre_traits {
    bool whole_first; /* a piece that is a token as a whole is that token, merges or not (HF: ignore_merges) */
    bool nfc;         /* text is composed first */
    bool adds_bos;    /* unless the file says otherwise */
};

int pre_new(struct pre **out, const char *name, size_t len, struct err *e); /* ERR_MODEL: not known, named */
void pre_free(struct pre *p);
const struct pre_traits *pre_traits(const struct pre *p);

/* Calls `piece` for each piece in order; the pieces are the text without gaps. A run of bytes that is no UTF-8 is a piece of its
 * own. Stops at the first -1. */
int pre_split(const struct pre *p, const char *text, size_t len,
              int (*piece)(void *u, const char *s, size_t n, struct err *e), void *u, struct err *e);

/* --- merging the bytes of a piece --- */

struct pair {
    uint64_t key; /* left << 32 | right; PAIR_NONE: free */
    int32_t rank, merged;
};

#define PAIR_NONE UINT64_MAX

struct bpe {
    int32_t of_byte[256]; /* -1: the vocabulary has no such byte */
    struct pair *pair;    /* open addressing; size is a power of two */
    size_t mask;
};

/* Scratch of one encode: grows with its longest piece. */
struct bpe_room {
    int32_t *id, *next, *prev, *rank; /* per byte; one block */
    uint64_t *heap;
    size_t cap, nheap;
};

int bpe_init(struct bpe *b, size_t merges, struct err *e); /* of_byte all -1, no pair yet */
void bpe_close(struct bpe *b);
/* false: the pair stands there already (the earlier, better rank is kept). */
bool bpe_add(struct bpe *b, int32_t left, int32_t right, int32_t rank, int32_t merged);

int bpe_encode(const struct bpe *b, struct bpe_room *r, const char *piece, size_t n, struct ids *out, struct err *e);
void bpe_room_close(struct bpe_room *r);
