/* medusa_tree: the shape of guesses.
 *
 * Idea: a node's worth is the chance that it and all above it are right, taken as the product of the accuracies that were
 * measured head by head. The tree grows by the node that is worth most until it has n. Since a child is worth at most what
 * its parent is, a tree of n nodes is the one of n-1 and one more.
 *
 * Then the nodes are put in order. Rows of a sequence that stand at consecutive positions of one table of pages are computed
 * together, so the best way down from the last token is one chain, and each other child begins a chain of its own. Parents
 * come before their children, and so a node of depth d has d-1 nodes before it at least: whoever walks down may write what
 * was accepted over the places of nodes that he has passed (sched_sample.c does).
 *
 * Any thread; nothing is allocated. */
#include "engine/medusa_tree.h"
#include <assert.h>

/* A tree that grows: nodes in the order in which they came. */
struct growth {
    int n;
    struct medusa_node node[MEDUSA_NODES_MAX];
    float worth[MEDUSA_NODES_MAX];
};

/* Children that `parent` has. */
static int children(const struct growth *g, int parent)
{
    int k = 0;
    for (int i = 0; i < g->n; i++) k += g->node[i].parent == parent;
    return k;
}

static void grow(struct growth *g, int heads, const float right[][MEDUSA_RANKS])
{
    struct medusa_node best = {.parent = -2};
    float most = -1;
    for (int at = -1; at < g->n; at++) {
        int depth = at < 0 ? 0 : g->node[at].depth, rank = children(g, at);
        if (depth >= heads || rank >= MEDUSA_RANKS) continue;
        float worth = (at < 0 ? 1 : g->worth[at]) * right[depth][rank];
        if (worth <= most) continue;
        most = worth;
        best = (struct medusa_node){.parent = at, .depth = depth + 1, .rank = rank};
    }
    assert(best.parent >= -1);
    g->worth[g->n] = most;
    g->node[g->n++] = best;
}

/* The rank-th child; -1: there is none. */
static int child_of(const struct growth *g, int parent, int rank)
{
    for (int i = 0; i < g->n; i++)
        if (g->node[i].parent == parent && g->node[i].rank == rank) return i;
    return -1;
}

/* A chain from node `at` down its first children; `parent` is where at's parent stands in the tree. */
static void add_chain(struct medusa_tree *t, const struct growth *g, int at, int parent, int place[])
{
    struct medusa_chain *c = &t->chain[t->nchains];
    *c = (struct medusa_chain){.first = t->n, .from = parent < 0 ? 0 : t->node[parent].chain};
    for (; at >= 0; at = child_of(g, at, 0)) {
        t->node[t->n] = g->node[at];
        t->node[t->n].parent = parent;
        t->node[t->n].chain = t->nchains;
        place[t->n] = at;
        parent = t->n++;
        c->n++;
        if (g->node[at].depth > t->depth) t->depth = g->node[at].depth;
    }
    t->nchains++;
}

void medusa_tree_make(struct medusa_tree *t, int n, int heads, const float right[][MEDUSA_RANKS])
{
    struct growth g = {0};
    int place[MEDUSA_NODES_MAX]; /* of the growing one's nodes, by the tree's */
    assert(n >= 1 && n <= MEDUSA_NODES_MAX && heads >= 1 && heads <= MEDUSA_HEADS_MAX);
    for (int i = 0; i < n; i++) grow(&g, heads, right);
    *t = (struct medusa_tree){0};
    add_chain(t, &g, child_of(&g, -1, 0), -1, place);
    for (int at = -1; at < t->n; at++) /* which becomes longer meanwhile */
        for (int rank = 1, child; (child = child_of(&g, at < 0 ? -1 : place[at], rank)) >= 0; rank++)
            add_chain(t, &g, child, at, place);
    assert(t->n == n);
}

int medusa_tree_child(const struct medusa_tree *t, int node, const int32_t *token, int32_t id)
{
    for (int i = node + 1; i < t->n; i++)
        if (t->node[i].parent == node && token[i] == id) return i;
    return -1;
}
