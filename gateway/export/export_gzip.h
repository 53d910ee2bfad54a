/* gzip for streams (RFC 1952), by zlib: pieces in, pieces out. */
#pragma once
#include "base/buf.h"
#include "base/err.h"

struct gzip;

int gzip_new(struct gzip **out, struct err *e);
void gzip_free(struct gzip *g); /* NULL is fine */
/* Appends to `out` what comes of n bytes; with `end`, also the end of the stream. */
int gzip_add(struct gzip *g, const void *bytes, size_t n, bool end, struct buf *out, struct err *e);
