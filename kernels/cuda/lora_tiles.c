/* From segments to tiles (lora_tiles.h). Three passes over the segments in the order of rows: the first two write the tiles
 * that have adapters, those that are no columns before, the third the gaps between them. A segment whose list of uses is empty counts as a gap.
 *
 * Tiles are cut from a segment's front, so only its last one is short. The step's thread calls it, on pinned memory that
 * it alone writes: nothing is read back from there. */
#include "kernels/cuda/lora_tiles.h"

_Static_assert(META_STACK == LORA_STACK, "a tile holds a segment's uses");

static int resolve(struct cuda_tile *tile, const struct lora_seg *seg, int max_rank, lora_resident_fn *resident,
                   void *u, bool *columns, struct err *e)
{
    int sum = 0;
    *columns = seg->nuse == 1;
    if (seg->nuse > META_STACK) return err_set(e, ERR_INTERNAL, "%d adapters on a row", seg->nuse);
    for (int i = 0; i < seg->nuse; i++) {
        struct lora_resident at;
        if (resident(u, seg->use[i].t, &at) != 0)
            return err_set(e, ERR_INTERNAL, "an adapter of rows %d.. is not resident", seg->row0);
        sum += at.rank;
        *columns = *columns && at.columns;
        tile->use[i] = (struct cuda_use){.slot = at.slot, .weight = seg->use[i].weight};
    }
    if (sum > max_rank) return err_set(e, ERR_INTERNAL, "rank %d in sum on a row, %d at most", sum, max_rank);
    tile->nuse = seg->nuse;
    return 0;
}

/* Rows row0 .. row0+rows-1 as tiles like `like`, from tile[n] on; the new n, or -1. */
static int cut(struct lora_tiles *out, int n, struct cuda_tile like, int row0, int rows, int tile_rows)
{
    for (; rows > 0; rows -= tile_rows, row0 += tile_rows) {
        if (n == out->max) return -1;
        like.row0 = row0;
        like.rows = rows < tile_rows ? rows : tile_rows;
        out->tile[n++] = like;
    }
    return n;
}

static int check(const struct lora_seg *seg, int next, int rows, struct err *e)
{
    if (seg->row0 >= next && seg->rows >= 0 && seg->rows <= rows - seg->row0) return 0;
    return err_set(e, ERR_INTERNAL, "segment of rows %d..%d in a step of %d", seg->row0, seg->row0 + seg->rows - 1,
                   rows);
}

/* Tiles of the segments that are columns, or of those that are not, from tile[n] on; the new n, or -1. */
static int adapted(struct lora_tiles *out, int n, bool columns, const struct lora_batch *b, int rows, int tile_rows,
                   int max_rank, lora_resident_fn *resident, void *u, struct err *e)
{
    for (int i = 0, next = 0; i < b->nseg; i++) {
        const struct lora_seg *seg = &b->seg[i];
        struct cuda_tile like = {0};
        bool hot;
        if (check(seg, next, rows, e) != 0) return -1;
        next = seg->row0 + seg->rows;
        if (seg->nuse == 0) continue;
        if (resolve(&like, seg, max_rank, resident, u, &hot, e) != 0) return -1;
        if (hot == columns && (n = cut(out, n, like, seg->row0, seg->rows, tile_rows)) < 0)
            return err_set(e, ERR_INTERNAL, "more than %d tiles", out->max);
    }
    return n;
}

static int gaps(struct lora_tiles *out, int n, const struct lora_batch *b, int rows, int tile_rows)
{
    int next = 0;
    for (int i = 0; b && i < b->nseg && n >= 0; i++) {
        if (b->seg[i].nuse == 0) continue;
        n = cut(out, n, (struct cuda_tile){0}, next, b->seg[i].row0 - next, tile_rows);
        next = b->seg[i].row0 + b->seg[i].rows;
    }
    return n < 0 ? n : cut(out, n, (struct cuda_tile){0}, next, rows - next, tile_rows);
}

int lora_tiles_build(struct lora_tiles *out, const struct lora_batch *b, int rows, int tile_rows, int max_rank,
                     lora_resident_fn *resident, void *u, struct err *e)
{
    int cold = b ? adapted(out, 0, false, b, rows, tile_rows, max_rank, resident, u, e) : 0;
    int n = b && cold >= 0 ? adapted(out, cold, true, b, rows, tile_rows, max_rank, resident, u, e) : cold;
    if (n < 0) return -1;
    int all = gaps(out, n, b, rows, tile_rows);
    if (all < 0) return err_set(e, ERR_INTERNAL, "more than %d tiles", out->max);
    out->cold = cold;
    out->n = n;
    out->all = all;
    return 0;
}
