/* A text in units that may be left out of it, and which of them are: the arithmetic of compressed prompts (docs/POLICIES.md).
 *
 * Selective Context (Li et al., EMNLP 2023) leaves out what a language model finds least informative: -log p of each token under
 * the base model, averaged over a unit of several tokens. LLMLingua (Jiang et al., EMNLP 2023) adds budgets per part of a prompt, which here is
 * one rule: some parts are never touched, and of each other one something stays. No state; any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Where the unit that begins at s[at] ends. Sentences end behind . ! or ? (and closing quotes and brackets) before white space, behind the full stops of other
 * scripts with or without one, and at a line's end; words before white space and, for scripts that have none, behind their full stops and commas. White space
 * belongs to the unit behind it. s: UTF-8. at < n; the result is > at. */
size_t unit_end(const char *s, size_t n, size_t at, bool words);

struct unit {
    int part;     /* which text it is of; not falling */
    int tokens;
    float info;   /* mean of -log p over its tokens, nats; what has none is INFINITY and stays */
    bool left_out;
};

/* Marks units as left out, the least informative first (of equals the earlier), until at most ratio of all tokens stay, or nothing more may go: each part
 * keeps its most informative unit. Returns the tokens that stay. rank: [n], stands: [parts], to work in. */
struct unit_rank {
    float info;
    int at;
};
int units_choose(struct unit *u, int n, double ratio, struct unit_rank *rank, int *stands);
