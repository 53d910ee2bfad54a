/* takeover: read once at the start, for nothing but `promote` changes it (see takeover.h). */
#include "gateway/standby/takeover.h"
#include "base/sha256.h"
#include <stdio.h>

#define READ_MS 30000

static int read_count(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT value FROM meta WHERE name = 'takeovers'";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    if (rc == 1) *(int64_t *)u = sqlite3_column_int64(st, 0);
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

int takeover_read(struct db *d, char out[TAKEOVER_LEN], struct err *e)
{
    static const char what[] = "weft takeover";
    uint8_t tag[SHA256_BYTES];
    char hex[SHA256_HEX];
    int64_t n = 0;
    if (db_read(d, read_count, &n, READ_MS, e)) return -1;
    sha256_hmac(db_pepper(d), 32, what, sizeof what - 1, tag);
    sha256_hex(tag, hex);
    snprintf(out, TAKEOVER_LEN, "%.32s-%d", hex, (int)n);
    return 0;
}
