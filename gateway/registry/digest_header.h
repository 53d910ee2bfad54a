/* Repr-Digest and Content-Digest (RFC 9530): a dictionary of digests, sha-256=:BASE64:, of which we check that one. */
#pragma once
#include "base/err.h"
#include "base/sha256.h"

/* text NULL: no such header. 1: *out is the SHA-256; 0: no header; -1: ERR_UNSUPPORTED when it has no sha-256,
 * ERR_INVALID when that is no digest. name: the header's, for the message. */
int digest_header(const char *text, const char *name, uint8_t out[SHA256_BYTES], struct err *e);

/* Content-Range of a request: "bytes FIRST-LAST/TOTAL", total -1 for "*". ERR_INVALID. */
int content_range(const char *text, int64_t *first, int64_t *last, int64_t *total, struct err *e);
