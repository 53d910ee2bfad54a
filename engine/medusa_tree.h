/* Which of the heads' candidates are tried together: a tree, whose nodes are rows of one step.
 *
 * A node is a candidate of one head: head 1 guesses what follows the last token, head 2 the token behind that one. It hangs on
 * a candidate of the head before. Nodes are dealt into chains, which stand one after the other: a chain's nodes follow each
 * other, its first hangs on a node of a chain before it. Chain 0 begins at the last token itself (Cai et al. 2024, "Medusa",
 * section 2.3.3: trees by the heads' accuracies, greedily). */
#pragma once
#include <stdint.h>

#define MEDUSA_NODES_MAX 8
#define MEDUSA_HEADS_MAX 8
#define MEDUSA_RANKS 8 /* candidates of a head */

struct medusa_node {
    int parent;      /* a node before it; -1: the last token */
    int depth, rank; /* of the head from 1; of its candidates from 0 */
    int chain;
};

struct medusa_chain {
    int first, n; /* nodes */
    int from;     /* the chain that holds the first one's parent; of chain 0: itself */
};

struct medusa_tree {
    int n, depth, nchains;
    struct medusa_node node[MEDUSA_NODES_MAX];
    struct medusa_chain chain[MEDUSA_NODES_MAX];
};

/* The tree of n nodes (1 .. MEDUSA_NODES_MAX) that is most likely to hold many right ones, when `right`[head][rank] is how
 * often a candidate is: each node is worth the product of those on its way. Ties: the shallower, then the one before. */
void medusa_tree_make(struct medusa_tree *t, int n, int heads, const float right[][MEDUSA_RANKS]);

/* The node below `node` (-1: the last token) whose token is id, tokens being [n]; -1: none. */
int medusa_tree_child(const struct medusa_tree *t, int node, const int32_t *token, int32_t id);
