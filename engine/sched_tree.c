/* sched_tree: guesses of which several stand at one position.
 *
 * Idea: a branch is a table of pages of its own. A chain of nodes (medusa_tree.h) is a run of rows at consecutive positions, as
 * any part of a sequence is; what it must see before it are the sequence's tokens and the nodes on its way, each at its own
 * position, and what it must not see are the nodes beside them. So chain 0 runs on in the sequence's own pages, and another
 * one in a table that is the same up to the page in which it begins, and from there on has pages of its own. Of that first page the
 * slots before the chain's are copied from the chain that it hangs on, layer by layer, once that one's keys and values are
 * stored (forward_batch.copy).
 *
 *     position      .. 29 30 31 | 32 33        last token at 30; chain 0: a b c; chain 1: b' c', beside b, behind a
 *     sequence      .. x  L  a  | b  c
 *     chain 1       .. x  L  a  | b' c'        its second page is its own, nothing to copy: b' stands in slot 0
 *     chain 2: a'   .. x  L  a'                its first page is its own, of which x and L are copied
 *
 * Attention is the ordinary one, no mask: rows of a branch see exactly the bits, in exactly the order, that they would see
 * if their way was the answer. So what is sampled from them is that answer's, bit for bit, and where a branch turns out to be right
 * its pages take the place of the sequence's: nothing is copied back.
 *
 * Guarantees: pages are taken when the step is planned and are back, or the sequence's, when its tokens are taken; where there
 * are none nobody guesses. On this processor only.
 *
 * Step thread; tree_open() with the lock held. */
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int page_of(int pos)
{
    return pos / KV_PAGE;
}

/* Where node `at` stands. */
static int position(const struct tree *r, int at)
{
    return r->pos0 + r->shape->node[at].depth;
}

int tree_rooms_init(struct plan *p, const struct sched_options *o, int context, struct err *e)
{
    size_t cap = (size_t)kv_pages_of(context) + 1, branches = SPEC_SEQUENCES * MEDUSA_NODES_MAX;
    if (!o->medusa) return 0;
    p->table = malloc(branches * cap * sizeof *p->table);
    if (!p->table) return err_set(e, ERR_NO_MEMORY, "no memory for trees of guesses");
    for (size_t i = 0; i < branches; i++)
        p->tree[i / MEDUSA_NODES_MAX].branch[i % MEDUSA_NODES_MAX].table = p->table + i * cap;
    return 0;
}

/* --- pages --- */

static void drop_pages(struct kv_pool *kv, struct tree *r)
{
    for (int c = 1; c < r->shape->nchains; c++) {
        struct tree_branch *b = &r->branch[c];
        while (b->npages) kv_page_drop(kv, b->page[--b->npages]);
    }
}

/* Pages of chain c's own, from that of its first node on. */
static bool take_pages(struct kv_pool *kv, struct tree *r, int c)
{
    const struct medusa_chain *chain = &r->shape->chain[c];
    struct tree_branch *b = &r->branch[c];
    b->first = page_of(position(r, chain->first));
    int want = page_of(position(r, chain->first + chain->n - 1)) + 1 - b->first;
    for (b->npages = 0; b->npages < want; b->npages++)
        if ((b->page[b->npages] = kv_page_take(kv)) < 0) return false;
    return true;
}

static const int *table_of(const struct tree *r, int c)
{
    return c ? r->branch[c].table : r->g->kv.page;
}

static void make_table(struct tree *r, int c)
{
    struct tree_branch *b = &r->branch[c];
    memcpy(b->table, table_of(r, r->shape->chain[c].from), (size_t)b->first * sizeof *b->table);
    memcpy(b->table + b->first, b->page, (size_t)b->npages * sizeof *b->table);
}

struct tree *tree_open(struct sched *s, struct plan *p, struct gen *g, int n)
{
    if (p->ntrees == SPEC_SEQUENCES) return NULL;
    struct tree *r = &p->tree[p->ntrees];
    r->g = g;
    r->pos0 = g->nids - 1;
    r->shape = &s->o.medusa->tree[n];
    if (!kv_seq_reserve(&s->kv, &g->kv, g->nids + r->shape->depth)) return NULL;
    bool there = true;
    for (int c = 1; c < r->shape->nchains; c++) r->branch[c].npages = 0;
    for (int c = 1; c < r->shape->nchains && there; c++) there = take_pages(&s->kv, r, c);
    if (!there) {
        drop_pages(&s->kv, r);
        return NULL;
    }
    for (int c = 1; c < r->shape->nchains; c++) make_table(r, c);
    for (int i = 0; i < n; i++) g->ids[g->nids + i] = g->spec.top[r->shape->node[i].depth - 1][r->shape->node[i].rank];
    p->ntrees++;
    return r;
}

/* --- rows --- */

static void add_copy(struct plan *p, const struct tree *r, int c, int slots)
{
    int from = table_of(r, r->shape->chain[c].from)[r->branch[c].first];
    if (slots) p->copy[p->batch.ncopies++] = (struct kv_copy){from, r->branch[c].page[0], slots};
}

int tree_fill(struct plan *p, const struct tree *r, int row, struct attn_seq *out)
{
    const struct medusa_tree *t = r->shape;
    out[0] = (struct attn_seq){.row0 = row, .rows = 1 + t->chain[0].n, .pos0 = r->pos0, .page = r->g->kv.page};
    for (int c = 1; c < t->nchains; c++) {
        int first = t->chain[c].first, pos = position(r, first);
        out[c] =
            (struct attn_seq){.row0 = row + 1 + first, .rows = t->chain[c].n, .pos0 = pos, .page = r->branch[c].table};
        add_copy(p, r, c, pos % KV_PAGE);
    }
    return t->nchains;
}

/* --- results --- */

static bool has_child(const struct medusa_tree *t, int at)
{
    for (int i = at + 1; i < t->n; i++)
        if (t->node[i].parent == at) return true;
    return false;
}

static void note_head(struct sched *s, size_t row, int head)
{
    char label[12];
    snprintf(label, sizeof label, "%d", head);
    note_add(s, row, label, 1);
}

/* A head was asked where all before it were right. */
static void note_heads(struct sched *s, const struct medusa_tree *t, int last)
{
    for (int at = last;; at = t->node[at].parent) {
        int depth = at < 0 ? 0 : t->node[at].depth;
        if (has_child(t, at)) note_head(s, M_MEDUSA_ASKED, depth + 1);
        if (at < 0) return;
        note_head(s, M_MEDUSA_RIGHT, depth);
    }
}

void tree_close(struct sched *s, struct tree *r, int last)
{
    const int *table = table_of(r, last < 0 ? 0 : r->shape->node[last].chain);
    int end = last < 0 ? r->pos0 : position(r, last);
    for (int i = page_of(r->pos0); i <= page_of(end); i++)
        if (table[i] != r->g->kv.page[i]) kv_seq_swap(&s->kv, &r->g->kv, i, table[i]);
    drop_pages(&s->kv, r);
    note_heads(s, r->shape, last);
}
