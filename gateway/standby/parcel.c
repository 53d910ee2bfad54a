/* parcel: sealed and opened (see parcel.h). */
#include "gateway/standby/parcel.h"
#include <string.h>

int parcel_begin(struct buf *b, json_t *head)
{
    int rc = !head || json_dump(head, false, b) || buf_addc(b, '\n') ? -1 : 0;
    json_decref(head);
    return rc;
}

int parcel_end(struct buf *b)
{
    uint8_t digest[SHA256_BYTES];
    if (b->failed) return -1;
    sha256_of(b->data, b->len, digest);
    return buf_add(b, digest, sizeof digest);
}

int parcel_open(const char *text, size_t n, json_t **head, const char **bytes, size_t *len, struct err *e)
{
    uint8_t digest[SHA256_BYTES];
    if (n <= SHA256_BYTES) return err_set(e, ERR_INVALID, "an answer of %zu bytes is no parcel", n);
    n -= SHA256_BYTES;
    sha256_of(text, n, digest);
    if (memcmp(digest, text + n, sizeof digest) != 0) return err_set(e, ERR_INVALID, "an answer was torn or changed on its way: its digest is another");
    const char *line = memchr(text, '\n', n < PARCEL_HEAD_MAX ? n : PARCEL_HEAD_MAX);
    if (!line) return err_set(e, ERR_INVALID, "an answer does not begin as a parcel");
    if (json_parse(text, (size_t)(line - text), head, e)) return -1;
    *bytes = line + 1;
    *len = n - (size_t)(line + 1 - text);
    return 0;
}

void parcel_tag(const uint8_t pepper[32], char out[SHA256_HEX])
{
    static const char what[] = "weft standby";
    uint8_t tag[SHA256_BYTES];
    sha256_hmac(pepper, 32, what, sizeof what - 1, tag);
    sha256_hex(tag, out);
}
