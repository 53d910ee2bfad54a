/* Inside structured output: a vocabulary as tries of its tokens' bytes, and the walk that makes a mask. */
#pragma once
#include "engine/grammar_machine.h"
#include "engine/tokenizer.h"

#define TOKEN_BYTES_MAX 255 /* longer tokens are never offered */

struct tnode {
    uint32_t skip; /* the first node that is not below this one */
    uint32_t
        first; /* order[first .. first+ntok): the tokens that end here; up to the first of `skip`: those below as well */
    uint32_t ntok : 16, byte : 8, depth : 8;
};

struct trie {
    struct tnode *node; /* in the order of a walk; one more as a sentinel */
    uint32_t n;
};

struct lexicon {
    const struct tokenizer *tok;
    int n, words;
    int32_t *order;          /* plain tokens by their bytes, then the rest by theirs */
    struct trie plain, rest; /* plain: well-formed UTF-8 without quote, backslash and control characters */
    uint32_t *plain_mask;
    int32_t *end;
    int nend;
};

int lexicon_init(struct lexicon *v, const struct tokenizer *t, struct err *e);
void lexicon_close(struct lexicon *v);
/* The mask of a state, from its memory or walked; borrowed from the machine. NULL: no memory. */
const uint32_t *lexicon_mask(const struct lexicon *v, struct machine *m, int32_t state);
