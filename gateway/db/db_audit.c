/* db_audit: the hash-chained trail of who changed what (see db_audit.h). Rows are only added. audit_add() runs on the writer thread inside
 * the change's own savepoint, so neither exists without the other; the two readers run anywhere. */
#include "gateway/db/db_audit.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/sha256.h"
#include "gateway/api/page.h"
#include <stdio.h>
#include <string.h>

#define OBJECT_BYTES 65536 /* of before or after, as JSON */
#define READ_MS 2000
#define VERIFY_MS 60000

#define COLUMNS "seq, t, actor, ip, request, action, object, before, after, hash"

struct row {
    int64_t seq, t;
    const char *text[7]; /* actor, ip, request, action, object, before, after */
};

static int hash_row(const uint8_t before[32], const struct row *r, uint8_t out[32], struct err *e)
{
    struct buf b;
    buf_init(&b, 4 * OBJECT_BYTES);
    buf_addf(&b, "[%lld,%lld", (long long)r->seq, (long long)r->t);
    for (int i = 0; i < 7; i++) {
        buf_addc(&b, ',');
        buf_add_json(&b, r->text[i], strlen(r->text[i]));
    }
    buf_addc(&b, ']');
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, before, 32);
    sha256_add(&h, b.data, b.len);
    sha256_end(&h, out);
    bool failed = b.failed;
    buf_close(&b);
    return failed ? err_set(e, ERR_NO_MEMORY, "no memory for an audit row") : 0;
}

static int last_of(struct db *d, sqlite3 *c, int64_t *seq, uint8_t hash[32], struct err *e)
{
    static const char sql[] = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    *seq = 0;
    memset(hash, 0, 32);
    if (rc == 1) {
        *seq = sqlite3_column_int64(st, 0);
        memcpy(hash, sqlite3_column_blob(st, 1), 32); /* its length is a CHECK of the table */
        sqlite3_reset(st);
    }
    return rc < 0 ? -1 : 0;
}

static int print(const json_t *v, struct buf *b, struct err *e)
{
    buf_init(b, OBJECT_BYTES);
    if (!v || json_dump(v, true, b) == 0) return 0;
    return err_set(e, json_dumpb(v, NULL, 0, JSON_COMPACT) < OBJECT_BYTES ? ERR_NO_MEMORY : ERR_TOO_LARGE, "the object is larger than %d bytes, or than memory", OBJECT_BYTES);
}

static int insert(struct db *d, sqlite3 *c, const struct row *r, const uint8_t hash[32], struct err *e)
{
    static const char sql[] = "INSERT INTO audit(" COLUMNS ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st) return -1;
    const char *const *t = r->text;
    if (db_bind(st, e, "iisssssssb", r->seq, r->t, t[0], t[1], t[2], t[3], t[4], t[5], t[6], hash)) return -1;
    return db_done(st, e);
}

int audit_add(struct db *d, sqlite3 *c, const struct audit *a, struct err *e)
{
    uint8_t last[32], hash[32];
    struct buf before, after;
    struct row r = {.t = clock_wall_us()};
    int rc = print(a->before, &before, e) | print(a->after, &after, e);
    if (rc == 0) rc = last_of(d, c, &r.seq, last, e);
    r.seq++;
    const char *text[7] = {a->by->key, a->by->ip, a->by->request, a->action, a->object, before.data, after.data};
    memcpy(r.text, text, sizeof text);
    if (rc == 0) rc = hash_row(last, &r, hash, e);
    if (rc == 0) rc = insert(d, c, &r, hash, e);
    buf_close(&before);
    buf_close(&after);
    return rc ? -1 : 0;
}

static struct row row_of(sqlite3_stmt *st)
{
    struct row r = {.seq = sqlite3_column_int64(st, 0), .t = sqlite3_column_int64(st, 1)};
    for (int i = 0; i < 7; i++) r.text[i] = db_text(st, 2 + i);
    return r;
}

static json_t *row_json(sqlite3_stmt *st)
{
    struct row r = row_of(st);
    char hash[SHA256_HEX];
    sha256_hex(sqlite3_column_blob(st, 9), hash);
    json_t *before = *r.text[5] ? json_load(r.text[5], strlen(r.text[5]), 0, NULL) : json_null();
    json_t *after = *r.text[6] ? json_load(r.text[6], strlen(r.text[6]), 0, NULL) : json_null();
    return json_pack("{ss sI sI ss ss ss ss ss so so ss}", "object", "audit", "seq", (json_int_t)r.seq, "created_at",
                     (json_int_t)(r.t / 1000000), "actor", r.text[0], "ip", r.text[1], "request_id", r.text[2],
                     "action", r.text[3], "target", r.text[4], "before", before, "after", after, "hash",
                     hash); /* one that is NULL had no memory: then there is no row either */
}

struct listing {
    const struct page *page;
    int64_t cursor;
    json_t *list;
    bool more;
};

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char older[] = "SELECT " COLUMNS " FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
                      newer[] = "SELECT " COLUMNS " FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    struct listing *l = u;
    sqlite3_stmt *st = db_stmt(d, c, page_back(l->page) ? newer : older, e);
    int64_t from = l->cursor || page_back(l->page) ? l->cursor : INT64_MAX;
    if (!st || db_bind(st, e, "ii", from, page_ask(l->page))) return -1;
    return page_rows(st, l->page, row_json, l->list, &l->more, e);
}

int audit_page(struct db *d, const struct page *p, struct json_t *list, bool *more, struct err *e)
{
    struct listing l = {p, 0, list, false};
    if (page_number(p, &l.cursor, e) || db_read(d, read_page, &l, READ_MS, e)) return -1;
    *more = l.more;
    return 0;
}

int audit_list(struct db *d, int64_t before, int limit, struct json_t *list, bool *more, struct err *e)
{
    char after[24] = "";
    if (before) snprintf(after, sizeof after, "%lld", (long long)before);
    return audit_page(d, &(struct page){after, "", limit}, list, more, e);
}

static int read_chain(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT " COLUMNS " FROM audit ORDER BY seq";
    struct audit_walk *w = u;
    uint8_t last[32] = {0}, hash[32];
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st) return -1;
    int rc;
    while (!w->bad && (rc = db_row(st, e)) != 0) {
        struct row r = row_of(st);
        if (rc < 0 || hash_row(last, &r, hash, e)) return -1;
        if (r.seq != ++w->rows || memcmp(hash, sqlite3_column_blob(st, 9), 32) != 0)
            w->bad = r.seq;
        else
            memcpy(last, hash, 32);
    }
    sha256_hex(last, w->hash);
    return 0;
}

int audit_walk(struct db *d, struct audit_walk *out, struct err *e)
{
    struct audit_walk w = {0};
    if (db_read(d, read_chain, &w, VERIFY_MS, e)) return -1;
    *out = w;
    return 0;
}

int audit_verify(struct db *d, int64_t *rows, int64_t *bad, struct err *e)
{
    struct audit_walk w;
    if (audit_walk(d, &w, e)) return -1;
    *rows = w.rows;
    *bad = w.bad;
    return 0;
}
