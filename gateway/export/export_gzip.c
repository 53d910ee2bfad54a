/* export_gzip: see export_gzip.h. At zlib's fastest level: usage rows shrink to about an eighth at any, and the next ones take three times as long. */
#include "gateway/export/export_gzip.h"
#include <stdlib.h>
#include <zlib.h>

#define LEVEL 1
#define WINDOW_GZIP (15 + 16)
#define MEMORY_LEVEL 8
#define PIECE 32768

struct gzip {
    z_stream z;
    unsigned char piece[PIECE];
};

int gzip_new(struct gzip **out, struct err *e)
{
    struct gzip *g = calloc(1, sizeof *g);
    if (!g || deflateInit2(&g->z, LEVEL, Z_DEFLATED, WINDOW_GZIP, MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
        free(g);
        return err_set(e, ERR_NO_MEMORY, "no memory to compress an answer");
    }
    *out = g;
    return 0;
}

void gzip_free(struct gzip *g)
{
    if (g) deflateEnd(&g->z);
    free(g);
}

int gzip_add(struct gzip *g, const void *bytes, size_t n, bool end, struct buf *out, struct err *e)
{
    int rc;
    g->z.next_in = (unsigned char *)bytes;
    g->z.avail_in = (unsigned)n;
    do {
        g->z.next_out = g->piece;
        g->z.avail_out = PIECE;
        rc = deflate(&g->z, end ? Z_FINISH : Z_NO_FLUSH);
        if (buf_add(out, g->piece, PIECE - g->z.avail_out)) return err_set(e, ERR_NO_MEMORY, "no memory to compress an answer");
    } while (rc == Z_OK && (g->z.avail_in || g->z.avail_out == 0 || end));
    return rc == Z_OK || rc == Z_STREAM_END || rc == Z_BUF_ERROR ? 0 : err_set(e, ERR_INTERNAL, "deflate failed: %d", rc);
}
