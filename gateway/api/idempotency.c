/* idempotency: answers that are kept with their effects (see idempotency.h).
 *
 *     begin: not under way -> under way -> row? --there--> replay, over
 *                                           `---none----> the handler runs -> once_keep in its job -> once_end, over
 *
 * Under way is memory: a process that dies has no request under way, and what its jobs committed is in the table. A request enters the list
 * before it looks for the row, and its row is committed before it leaves, so of two equal ones at a time exactly one runs. A client may have
 * its answer a moment before the handler has returned; the next request with that key finds the row, or, after a refusal, waits LEAVE_MS for it.
 *
 * Bounds: as many under way as there are threads that run handlers; ANSWER_MAX; SWEEP old rows are removed with each new one. begin and end
 * on threads that may block, keep on the writer thread. */
#include "gateway/api/idempotency.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/seal.h"
#include "gateway/auth/auth.h"
#include "gateway/db/db_audit.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ANSWER_MAX (1u << 20)
#define SWEEP 100
#define READ_MS 2000
#define LEAVE_MS 50

struct once_book {
    struct db *db;
    uint8_t key[SEAL_KEY];
    pthread_mutex_t lock; /* covers the list and refs */
    pthread_cond_t left;
    struct once *first;
};

struct once {
    struct once_book *book;
    char actor[KEY_ID_LEN], key[ONCE_KEY_MAX + 1];
    uint8_t body[SHA256_BYTES];
    int refs;
    struct once *next;
};

int once_open(struct once_book **out, struct db *d, struct err *e)
{
    struct once_book *b = calloc(1, sizeof *b);
    pthread_condattr_t mono;
    if (!b) return err_set(e, ERR_NO_MEMORY, "no memory for repeated requests");
    b->db = d;
    seal_key(db_pepper(d), "weft idempotency answers", b->key);
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&mono);
    pthread_condattr_setclock(&mono, CLOCK_MONOTONIC);
    pthread_cond_init(&b->left, &mono);
    pthread_condattr_destroy(&mono);
    *out = b;
    return 0;
}

void once_close(struct once_book *b)
{
    if (!b) return;
    explicit_bzero(b->key, sizeof b->key);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->left);
    free(b);
}

/* --- under way --- */

static struct once *find(const struct once_book *b, const struct once *like)
{
    struct once *o = b->first;
    while (o && (strcmp(o->actor, like->actor) != 0 || strcmp(o->key, like->key) != 0)) o = o->next;
    return o;
}

static int reused(struct err *e)
{
    return err_field(e, ERR_KEY_REUSED, "Idempotency-Key",
                     "This Idempotency-Key was used for another request: route, query or body differ.");
}

static int enter(struct once *o, struct err *e)
{
    struct once_book *b = o->book;
    int64_t until = clock_mono_us() + LEAVE_MS * 1000;
    struct timespec at = {.tv_sec = until / 1000000, .tv_nsec = until % 1000000 * 1000};
    int rc = 0, late = 0;
    pthread_mutex_lock(&b->lock);
    for (struct once *other; rc == 0 && (other = find(b, o));) {
        if (memcmp(other->body, o->body, sizeof o->body) != 0)
            rc = reused(e);
        else if (late)
            rc = err_field(e, ERR_CONFLICT, "Idempotency-Key",
                           "A request with this Idempotency-Key is still under way.");
        else
            late = pthread_cond_timedwait(&b->left, &b->lock, &at);
    }
    if (rc == 0) {
        o->next = b->first;
        b->first = o;
    }
    pthread_mutex_unlock(&b->lock);
    return rc;
}

struct once *once_ref(struct once *o)
{
    if (!o) return NULL;
    pthread_mutex_lock(&o->book->lock);
    o->refs++;
    pthread_mutex_unlock(&o->book->lock);
    return o;
}

void once_end(struct once *o)
{
    if (!o) return;
    struct once_book *b = o->book;
    pthread_mutex_lock(&b->lock);
    bool over = --o->refs == 0;
    if (over) {
        struct once **p = &b->first;
        while (*p != o) p = &(*p)->next;
        *p = o->next;
        pthread_cond_broadcast(&b->left);
    }
    pthread_mutex_unlock(&b->lock);
    if (over) free(o);
}

/* --- kept answers --- */

struct lookup {
    const struct once *o;
    struct once_answer *stored;
};

static void about(const struct once *o, struct buf *out)
{
    buf_init(out, KEY_ID_LEN + ONCE_KEY_MAX + 2);
    buf_addf(out, "%s %s", o->actor, o->key);
}

static void to_hex(const struct buf *in, struct buf *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < in->len; i++) {
        unsigned char c = (unsigned char)in->data[i];
        buf_addc(out, digits[c >> 4]);
        buf_addc(out, digits[c & 15]);
    }
}

static int nibble(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 0;
}

static int open_answer(const struct once *o, const char *hex, char **body, struct err *e)
{
    struct buf sealed, plain, what;
    buf_init(&sealed, ANSWER_MAX + SEAL_EXTRA);
    buf_init(&plain, ANSWER_MAX);
    about(o, &what);
    for (; hex[0] && hex[1]; hex += 2) buf_addc(&sealed, (char)(nibble(hex[0]) << 4 | nibble(hex[1])));
    int rc = seal_open(o->book->key, what.data, sealed.data, sealed.len, &plain, e);
    if (rc == 0 && !(*body = buf_take(&plain))) rc = err_set(e, ERR_NO_MEMORY, "no memory for a kept answer");
    buf_close(&sealed);
    buf_close(&plain);
    buf_close(&what);
    return rc;
}

static int read_answer(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT body, status, answer FROM idempotency WHERE actor = ?1 AND key = ?2 AND t > ?3";
    struct lookup *l = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", l->o->actor, l->o->key, clock_wall_us() - ONCE_KEEP_S * 1000000ll)) return -1;
    int rc = db_row(st, e);
    if (rc != 1) return rc;
    if (memcmp(sqlite3_column_blob(st, 0), l->o->body, SHA256_BYTES) != 0)
        return reused(e); /* its length is a CHECK of the table */
    l->stored->status = sqlite3_column_int(st, 1);
    return open_answer(l->o, db_text(st, 2), &l->stored->body, e);
}

static int check_key(const char *key, struct err *e)
{
    size_t n = strnlen(key, ONCE_KEY_MAX + 1);
    bool plain = true;
    for (size_t i = 0; i < n; i++) plain &= key[i] > ' ' && key[i] <= '~';
    if (n >= 1 && n <= ONCE_KEY_MAX && plain) return 0;
    return err_field(e, ERR_INVALID, "Idempotency-Key",
                     "Idempotency-Key must be 1 to %d printable characters without spaces.", ONCE_KEY_MAX);
}

int once_begin(struct once_book *b, const char *actor, const char *key, const uint8_t body[SHA256_BYTES],
               struct once **out, struct once_answer *stored, struct err *e)
{
    if (check_key(key, e)) return -1;
    struct once *o = calloc(1, sizeof *o);
    if (!o) return err_set(e, ERR_NO_MEMORY, "no memory for a request");
    o->book = b;
    o->refs = 1;
    memccpy(o->actor, actor, 0, sizeof o->actor - 1);
    memccpy(o->key, key, 0, sizeof o->key - 1);
    memcpy(o->body, body, sizeof o->body);
    *stored = (struct once_answer){0};
    if (enter(o, e)) {
        free(o);
        return -1;
    }
    struct lookup l = {o, stored};
    int rc = db_read(b->db, read_answer, &l, READ_MS, e);
    if (rc == 0 && !stored->body)
        *out = o;
    else
        once_end(o);
    return rc < 0 ? -1 : 0;
}

static int seal_answer(const struct once *o, const json_t *answer, struct buf *hex, struct err *e)
{
    struct buf plain, sealed, what;
    buf_init(&plain, ANSWER_MAX);
    buf_init(&sealed, ANSWER_MAX + SEAL_EXTRA);
    about(o, &what);
    int rc = json_dump(answer, false, &plain)
                 ? err_set(e, json_dumpb(answer, NULL, 0, JSON_COMPACT) < ANSWER_MAX ? ERR_NO_MEMORY : ERR_TOO_LARGE, "the answer is larger than %u bytes, or than memory", ANSWER_MAX)
                 : 0;
    if (rc == 0) rc = seal(o->book->key, what.data, plain.data, plain.len, &sealed, e);
    if (rc == 0) to_hex(&sealed, hex);
    if (rc == 0 && hex->failed) rc = err_set(e, ERR_NO_MEMORY, "no memory for an answer");
    explicit_bzero(plain.data, plain.len);
    buf_close(&plain);
    buf_close(&sealed);
    buf_close(&what);
    return rc;
}

static int sweep(struct db *d, sqlite3 *c, int64_t now, struct err *e)
{
    static const char sql[] = "DELETE FROM idempotency WHERE (actor, key) IN"
                              " (SELECT actor, key FROM idempotency INDEXED BY idempotency_t WHERE t <= ?1 LIMIT ?2)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ii", now - ONCE_KEEP_S * 1000000ll, (int64_t)SWEEP)) return -1;
    return db_done(st, e);
}

static int insert(struct db *d, sqlite3 *c, const struct once *o, int status, const char *hex, int64_t now,
                  struct err *e)
{
    static const char sql[] =
        "INSERT OR REPLACE INTO idempotency(actor, key, body, status, answer, t) VALUES(?1, ?2, ?3, ?4, ?5, ?6)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssbisi", o->actor, o->key, o->body, (int64_t)status, hex, now)) return -1;
    return db_done(st, e);
}

int once_keep(struct db *d, sqlite3 *c, const struct actor *by, int status, const json_t *answer, struct err *e)
{
    if (!by->once) return 0;
    int64_t now = clock_wall_us();
    struct buf hex;
    buf_init(&hex, 2 * (ANSWER_MAX + SEAL_EXTRA));
    int rc = sweep(d, c, now, e);
    if (rc == 0) rc = seal_answer(by->once, answer, &hex, e);
    if (rc == 0) rc = insert(d, c, by->once, status, hex.data, now, e);
    buf_close(&hex);
    return rc;
}
