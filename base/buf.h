/* Buf: a growing byte string with a limit.
 *
 * Always followed by a NUL, so `b.data` is a C string when the bytes are text. Every append returns 0, or -1 when it
 * would pass the limit or memory is short; the buffer is then marked `failed` and later appends fail too, so a caller
 * may check once at the end. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data; /* never NULL after buf_init() */
    size_t len, cap, limit;
    bool failed;
    bool full; /* failed for the limit, not for want of memory */
};

void buf_init(struct buf *b, size_t limit_bytes);
void buf_close(struct buf *b);
void buf_reset(struct buf *b); /* length 0, memory kept */
char *buf_take(struct buf *b); /* the malloc'ed bytes, now the caller's; b is as after buf_init(); NULL: no memory */
void buf_drop_front(struct buf *b, size_t n);

int buf_add(struct buf *b, const void *bytes, size_t n);
int buf_adds(struct buf *b, const char *s);
int buf_addc(struct buf *b, char c);
int buf_addu(struct buf *b, uint64_t v); /* decimal */
int buf_addi(struct buf *b, int64_t v);
int buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_add_json(struct buf *b, const char *utf8, size_t n); /* as a JSON string with its quotes; bad UTF-8 -> U+FFFD */

/* Length of the UTF-8 character at s (n >= 1 bytes are there); *valid false: of the ill-formed piece, which becomes one
 * U+FFFD ("maximal subpart", Unicode 15 section 3.9). */
size_t buf_utf8(const char *s, size_t n, bool *valid);
/* How many characters n bytes of well-formed UTF-8 are. */
size_t buf_characters(const char *utf8, size_t n);
