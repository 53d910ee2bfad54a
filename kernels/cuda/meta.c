/* meta: a step's metadata, written by the host in one go (meta.h says what is in it).
 *
 * Idea: where an array lies is set by the bucket alone, so pointers can be baked into the bucket's graph, and the arrays
 * of a small bucket lie close together: what is brought over for 32 decoding rows is 6 KB and their page lists. These come
 * last, for they are as long as the step's sequences, and what is not used of them is not copied.
 *
 * Rows beyond the step's: token 0, position 0, no sequence, no adapter; wanted logits beyond: row -1.
 *
 * Step thread. The host never reads what it wrote. */
#include "kernels/cuda/cuda.h"
#include <string.h>

#define LINE 64
#define SMALL_ROWS 64 /* buckets up to here have tiles of 8 rows: decoding rows rarely share an adapter */

/* The arrays of a bucket, in the order in which they lie. */
enum part {
    PART_COUNT,
    PART_TOKEN,
    PART_POS,
    PART_SEQ_OF,
    PART_SEG_OF,
    PART_SEQ,
    PART_LOGIT_ROW,
    PART_CHOICE,
    PART_SEG,
    PART_TILE,
    PART_HEAD_TILE,
    PART_HOT,
    PARTS
};

/* Offsets; `page` is where the page lists begin. */
struct meta_offsets {
    size_t at[PARTS], page;
};

static struct meta_offsets lay_out(const struct cuda_bucket *b)
{
    size_t rows = (size_t)b->rows, seqs = (size_t)b->seqs, logits = (size_t)b->logits, tile = sizeof(struct cuda_tile);
    bool lora = b->lora != LORA_NONE;
    const size_t bytes[PARTS] = {
        [PART_COUNT] = COUNTS * sizeof(int32_t),     [PART_TOKEN] = rows * sizeof(int32_t),
        [PART_POS] = rows * sizeof(int32_t),         [PART_SEQ_OF] = rows * sizeof(int32_t),
        [PART_SEG_OF] = rows * sizeof(int32_t),      [PART_SEQ] = seqs * sizeof(struct cuda_seq),
        [PART_LOGIT_ROW] = logits * sizeof(int32_t), [PART_CHOICE] = logits * sizeof(struct cuda_choice),
        [PART_SEG] = lora ? rows * tile : 0,         [PART_TILE] = lora ? rows * tile : 0,
        [PART_HEAD_TILE] = lora ? logits * tile : 0, [PART_HOT] = lora ? META_HOT * sizeof(int32_t) : 0};
    struct meta_offsets l = {.page = 0};
    for (int i = 0; i < PARTS; i++) {
        l.at[i] = l.page;
        l.page += (bytes[i] + LINE - 1) / LINE * LINE;
    }
    return l;
}

static size_t pages_of_context(const struct device *d)
{
    return ((size_t)d->shape.max_context + KV_PAGE - 1) / KV_PAGE;
}

size_t meta_bytes_max(const struct device *d)
{
    struct cuda_bucket most = {.rows = cuda_rows_of(d->shape.max_rows),
                               .seqs = cuda_rows_of(d->shape.max_seqs),
                               .logits = cuda_rows_of(d->shape.max_logits),
                               .lora = LORA_PLAIN};
    return lay_out(&most).page + (size_t)d->shape.max_seqs * pages_of_context(d) * sizeof(int32_t);
}

struct cuda_meta meta_layout(const struct cuda_bucket *b, const char *base)
{
    struct meta_offsets l = lay_out(b);
    return (struct cuda_meta){.count = (const int32_t *)(base + l.at[PART_COUNT]),
                              .token = (const int32_t *)(base + l.at[PART_TOKEN]),
                              .pos = (const int32_t *)(base + l.at[PART_POS]),
                              .seq_of = (const int32_t *)(base + l.at[PART_SEQ_OF]),
                              .seg_of = (const int32_t *)(base + l.at[PART_SEG_OF]),
                              .seq = (const struct cuda_seq *)(base + l.at[PART_SEQ]),
                              .page = (const int32_t *)(base + l.page),
                              .logit_row = (const int32_t *)(base + l.at[PART_LOGIT_ROW]),
                              .seg = (const struct cuda_tile *)(base + l.at[PART_SEG]),
                              .tile = (const struct cuda_tile *)(base + l.at[PART_TILE]),
                              .head_tile = (const struct cuda_tile *)(base + l.at[PART_HEAD_TILE]),
                              .choice = (const struct cuda_choice *)(base + l.at[PART_CHOICE]),
                              .hot = (const int32_t *)(base + l.at[PART_HOT]),
                              .max_rows = b->rows,
                              .max_seqs = b->seqs,
                              .max_logits = b->logits};
}

int meta_tile_rows(const struct cuda_bucket *b)
{
    return b->rows <= SMALL_ROWS ? 8 : TILE_ROWS;
}

/* --- writing --- */

/* The step's buffer, and the counts that are found on the way. */
struct writing {
    const struct device *d;
    const struct device_step *s;
    const struct cuda_bucket *b;
    char *host;
    struct meta_offsets l;
    int32_t *count;
    size_t pages;
};

static void *part_at(const struct writing *w, enum part part)
{
    return w->host + w->l.at[part];
}

static void write_rows(struct writing *w)
{
    int32_t *token = part_at(w, PART_TOKEN), *pos = part_at(w, PART_POS), *seq_of = part_at(w, PART_SEQ_OF);
    int32_t *seg_of = part_at(w, PART_SEG_OF);
    memcpy(token, w->s->token, (size_t)w->s->rows * sizeof *token);
    memset(token + w->s->rows, 0, (size_t)(w->b->rows - w->s->rows) * sizeof *token);
    memset(pos, 0, (size_t)w->b->rows * sizeof *pos);
    for (int i = 0; i < w->b->rows; i++) seq_of[i] = seg_of[i] = -1;
    w->count[COUNT_ROWS] = w->s->rows;
}

static void write_seqs(struct writing *w)
{
    int32_t *pos = part_at(w, PART_POS), *seq_of = part_at(w, PART_SEQ_OF), *page = (int32_t *)(w->host + w->l.page);
    struct cuda_seq *to = part_at(w, PART_SEQ);
    for (int i = 0; i < w->s->nseq; i++) {
        const struct attn_seq *q = &w->s->seq[i];
        int end = q->pos0 + q->rows, pages = (end + KV_PAGE - 1) / KV_PAGE;
        to[i] = (struct cuda_seq){q->row0, q->rows, q->pos0, (int32_t)w->pages};
        for (int r = 0; r < q->rows; r++) {
            pos[q->row0 + r] = q->pos0 + r;
            seq_of[q->row0 + r] = i;
        }
        memcpy(page + w->pages, q->page, (size_t)pages * sizeof *page);
        w->pages += (size_t)pages;
    }
    w->count[COUNT_SEQS] = w->s->nseq;
}

static void write_logits(struct writing *w)
{
    int32_t *row = part_at(w, PART_LOGIT_ROW);
    struct cuda_choice *to = part_at(w, PART_CHOICE);
    for (int i = 0; i < w->b->logits; i++) {
        bool there = i < w->s->nlogits;
        const struct device_choice *c = there && w->s->choice ? &w->s->choice[i] : NULL;
        row[i] = there ? w->s->logit_row[i] : -1;
        to[i] = (struct cuda_choice){.how = CHOOSE_NOT};
        if (!c || !c->here) continue;
        bool greedy = !(c->temperature >= DEVICE_GREEDY_BELOW);
        to[i] = (struct cuda_choice){.how = greedy ? CHOOSE_GREEDY : CHOOSE_DRAW,
                                     .top_k = c->top_k,
                                     .inv_t = greedy ? 1 : 1.0f / c->temperature,
                                     .top_p = c->top_p,
                                     .min_p = c->min_p,
                                     .seed = c->seed,
                                     .index = c->index};
    }
    w->count[COUNT_LOGITS] = w->s->nlogits;
}

/* Segments as they are, and the segment of each row. */
static int write_segs(struct writing *w, struct err *e)
{
    const struct lora_batch *b = w->s->lora;
    struct cuda_tile *seg = part_at(w, PART_SEG);
    int32_t *seg_of = part_at(w, PART_SEG_OF);
    int n = 0;
    for (int i = 0; b && i < b->nseg; i++) {
        const struct lora_seg *from = &b->seg[i];
        if (from->nuse == 0) continue;
        struct cuda_tile to = {.row0 = from->row0, .rows = from->rows, .nuse = from->nuse};
        for (int u = 0; u < from->nuse; u++) {
            struct lora_resident at;
            if (adapters_resident((void *)w->d, from->use[u].t, &at))
                return err_set(e, ERR_INTERNAL, "an adapter of rows %d.. is not on the device", from->row0);
            to.use[u] = (struct cuda_use){.slot = at.slot, .weight = from->use[u].weight};
        }
        for (int r = from->row0; r < from->row0 + from->rows; r++) seg_of[r] = n;
        seg[n++] = to;
    }
    w->count[COUNT_SEGS] = n;
    return 0;
}

/* The slots that rows have as columns: lora_tiles_build() has the same rule. */
static void write_hot(struct writing *w)
{
    const struct lora_batch *b = w->s->lora;
    int32_t *hot = part_at(w, PART_HOT);
    for (int i = 0; i < META_HOT; i++) hot[i] = -1;
    for (int i = 0; b && i < b->nseg; i++) {
        struct lora_resident at;
        if (b->seg[i].nuse != 1 || adapters_resident((void *)w->d, b->seg[i].use[0].t, &at)) continue;
        if (at.columns) hot[at.slot] = at.slot;
    }
}

static int write_tiles(struct writing *w, struct err *e)
{
    struct lora_tiles rows = {.tile = part_at(w, PART_TILE), .max = w->b->rows};
    struct lora_tiles head = {.tile = part_at(w, PART_HEAD_TILE), .max = w->b->logits};
    int tile_rows = meta_tile_rows(w->b), most = w->b->ranks;
    void *u = (void *)w->d;
    if (lora_tiles_build(&rows, w->s->lora, w->s->rows, tile_rows, most, adapters_resident, u, e)) return -1;
    if (lora_tiles_build(&head, w->s->head_lora, w->s->nlogits, tile_rows, most, adapters_resident, u, e)) return -1;
    write_hot(w);
    w->count[COUNT_COLD_TILES] = rows.cold;
    w->count[COUNT_TILES] = rows.n;
    w->count[COUNT_ALL_TILES] = rows.all;
    w->count[COUNT_HEAD_TILES] = head.n;
    return 0;
}

int meta_write(const struct device *d, const struct device_step *s, const struct cuda_bucket *b, char *host,
               size_t *bytes, struct err *e)
{
    struct writing w = {.d = d, .s = s, .b = b, .host = host, .l = lay_out(b)};
    w.count = part_at(&w, PART_COUNT);
    memset(w.count, 0, COUNTS * sizeof *w.count);
    write_rows(&w);
    write_seqs(&w);
    write_logits(&w);
    if (b->lora != LORA_NONE && (write_segs(&w, e) || write_tiles(&w, e))) return -1;
    *bytes = w.l.page + w.pages * sizeof(int32_t);
    return 0;
}
