/* sched_rows: which rows of a step use which adapters.
 *
 * Idea: a request's adapters are its stack, in the order given, which is the order of the sum. Parts with equal stacks stand together in
 * a step, so that their rows are one segment. An adapter that waits for its invocation (aLoRA, Greenewald et al. 2025) takes part from the
 * last occurrence of those tokens in the prompt on; rows before it use what else the stack has, or the base. So one sequence may have as many
 * segments as adapters.
 *
 * Step thread; rows_place_adapters(): with the scheduler's lock, when the pins have come. */
#include "engine/sched_impl.h"
#include <limits.h>
#include <string.h>

/* Where the last occurrence begins; INT_MAX: nowhere. */
static int last_occurrence(const int32_t *ids, int n, const int32_t *what, int len)
{
    for (int i = n - len; i >= 0; i--)
        if (ids[i] == what[0] && memcmp(ids + i, what, (size_t)len * sizeof *what) == 0) return i;
    return INT_MAX;
}

void rows_place_adapters(struct gen *g)
{
    for (int i = 0; i < g->npins; i++) {
        const struct lora_slot *slot = g->pin[i].slot;
        g->pin[i].from =
            slot->ninvocation > 0 ? last_occurrence(g->ids, g->nprompt, slot->invocation, slot->ninvocation) : 0;
    }
}

int rows_compare(const struct gen *a, const struct gen *b)
{
    if (a->npins != b->npins) return a->npins < b->npins ? -1 : 1;
    for (int i = 0; i < a->npins; i++) {
        int x = a->pin[i].slot->id, y = b->pin[i].slot->id;
        if (x != y) return x < y ? -1 : 1;
        float u = a->pin[i].weight, v = b->pin[i].weight;
        if (u != v) return u < v ? -1 : 1;
    }
    return 0;
}

/* The adapters of position `at`; *until: the next position, at most `end`, that has others. Returns their rank. */
static int use_at(const struct gen *g, int at, int end, struct lora_seg *seg, int *until)
{
    int rank = 0, last = 0;
    *until = end;
    for (int i = 0; i < g->npins; i++) {
        const struct gen_pin *p = &g->pin[i];
        if (p->from <= at) {
            seg->use[seg->nuse++] = (struct lora_use){&p->slot->table, p->weight};
            rank += lora_rank_pad(p->slot->max_rank);
            last = p->slot->max_rank;
        } else if (p->from < *until) {
            *until = p->from;
        }
    }
    return seg->nuse == 1 ? last : rank;
}

static bool same_uses(const struct lora_seg *a, const struct lora_seg *b)
{
    if (a->nuse != b->nuse) return false;
    for (int i = 0; i < a->nuse; i++)
        if (a->use[i].t != b->use[i].t || a->use[i].weight != b->use[i].weight) return false;
    return true;
}

static void append(struct plan *p, const struct lora_seg *seg)
{
    struct lora_batch *l = &p->batch.lora;
    struct lora_seg *last = l->nseg ? &p->seg[l->nseg - 1] : NULL;
    if (last && last->row0 + last->rows == seg->row0 && same_uses(last, seg))
        last->rows += seg->rows;
    else
        p->seg[l->nseg++] = *seg;
}

void rows_add_segments(struct plan *p, const struct part *a, int row)
{
    const struct gen *g = a->g;
    for (int at = a->pos0, end = at + a->rows + a->drafts, until; g->npins && at < end; at = until) {
        struct lora_seg seg = {.row0 = row + at - a->pos0};
        int rank = use_at(g, at, end, &seg, &until);
        seg.rows = until - at;
        if (seg.nuse == 0) continue;
        append(p, &seg);
        if (rank > p->batch.max_rank) p->batch.max_rank = rank;
    }
}
