/* feed: answers to standbys (see feed.h).
 *
 * Every answer stands for itself: nothing is kept from one request of a standby to its next but the numbers that a person looks at. A state of more than
 * FEED_PAGES changed pages takes several answers, each of a moment of its own; the standby asks again for what changed since the first of them, until one
 * answer holds all that changed, and that one's moment is what it has then.
 *
 * The tag is an HMAC under the pepper: a standby sees that the primary is the one whose pepper it has. On database threads, all but the tick. */
#include "gateway/standby/feed.h"
#include "adapters/adapter.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/db/db_pages.h"
#include "gateway/live/event.h"
#include "gateway/observe/meters.h"
#include "gateway/standby/feed_ask.h"
#include "gateway/standby/parcel.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PARCEL_TYPE "application/octet-stream"

struct seen {
    char key[KEY_ID_LEN], peer[64];
    int64_t seen_us, synced_us; /* wall: the last request, and the moment of the last state that it has: it asks for what came after it */
    int64_t offered_us;         /* of the last answer that is a state once it has come and is kept */
    uint32_t offered;           /* its generation */
    int64_t pages, bytes;       /* given since the start */
    bool told_away;
};

struct feed {
    struct gateway *g;
    _Atomic int inside;   /* requests that have the turn or wait for it */
    pthread_mutex_t turn; /* one answer is made at a time */
    pthread_mutex_t lock; /* covers what follows */
    struct seen seen[FEED_STANDBYS];
    int n;
};

/* --- who follows --- */

/* Under the lock. The one that was not seen for the longest time gives its place. */
static struct seen *place_of(struct feed *f, const char *key)
{
    struct seen *oldest = f->seen;
    for (int i = 0; i < f->n; i++) {
        if (strcmp(f->seen[i].key, key) == 0) return &f->seen[i];
        if (f->seen[i].seen_us < oldest->seen_us) oldest = &f->seen[i];
    }
    struct seen *s = f->n < FEED_STANDBYS ? &f->seen[f->n++] : oldest;
    *s = (struct seen){0};
    snprintf(s->key, sizeof s->key, "%s", key);
    return s;
}

/* have: the generation of the state that it keeps; offered: the generation of an answer that holds a whole look, or 0. */
static void note(struct feed *f, const struct http_request *r, size_t pages, size_t bytes, uint32_t have, uint32_t offered)
{
    int64_t now = clock_wall_us();
    pthread_mutex_lock(&f->lock);
    struct seen *s = place_of(f, admin_who(r)->key);
    bool came = !s->seen_us || s->told_away;
    snprintf(s->peer, sizeof s->peer, "%s", r->peer);
    s->seen_us = now;
    if (have && have == s->offered) s->synced_us = s->offered_us;
    if (offered) {
        s->offered = offered;
        s->offered_us = now;
    }
    s->pages += (int64_t)pages;
    s->bytes += (int64_t)bytes;
    s->told_away = false;
    pthread_mutex_unlock(&f->lock);
    if (came) event_note(f->g->db, "", "standby.follows", admin_who(r)->key, json_pack("{ss}", "peer", r->peer));
}

void feed_tick(struct feed *f)
{
    int64_t now = clock_wall_us();
    for (int i = 0; f && i < FEED_STANDBYS; i++) {
        pthread_mutex_lock(&f->lock);
        struct seen s = f->seen[i];
        bool away = i < f->n && !s.told_away && now - s.seen_us > FEED_AWAY_S * 1000000ll;
        if (away) f->seen[i].told_away = true;
        pthread_mutex_unlock(&f->lock);
        if (!away) continue;
        log_warn("standby_away", LS("key", s.key), LS("peer", s.peer));
        event_note(f->g->db, "", "standby.away", s.key, json_pack("{ss sI}", "peer", s.peer, "synced_at", (json_int_t)(s.synced_us / 1000000)));
    }
}

void feed_meter(struct feed *f, struct metrics *m)
{
    int64_t now = clock_wall_us(), bytes = 0;
    metric_clear(m, GM_STANDBY_AGE);
    pthread_mutex_lock(&f->lock);
    for (int i = 0; i < f->n; i++) {
        const struct seen *s = &f->seen[i];
        if (s->synced_us) metric_set(m, GM_STANDBY_AGE, (const char *[]){s->key}, now > s->synced_us ? (double)(now - s->synced_us) / 1e6 : 0);
        bytes += s->bytes;
    }
    pthread_mutex_unlock(&f->lock);
    metric_set(m, GM_STANDBY_BYTES, NULL, (double)bytes);
}

/* --- an answer --- */

static int head(struct http_request *r)
{
    struct principal who;
    struct err e = {0};
    if (auth_check_admin(admin_gateway(r)->auth, http_bearer(r), SCOPE_BACKUP, &who, &e) == 0) return admin_set_who(r, &who);
    http_reply_error(r, &e);
    return -1;
}

static void answer(struct http_request *r, int rc, struct buf *b, const struct err *e)
{
    http_set_header(r, "Cache-Control", "no-store");
    if (rc) http_reply_error(r, e);
    else http_reply(r, 200, PARCEL_TYPE, b->data, b->len);
    buf_close(b);
}

/* 0: the caller gives it back. */
static int take_turn(struct feed *f, struct err *e)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += FEED_TURN_MS / 1000;
    if (atomic_fetch_add(&f->inside, 1) < FEED_INSIDE && pthread_mutex_clocklock(&f->turn, CLOCK_MONOTONIC, &until) == 0) return 0;
    atomic_fetch_sub(&f->inside, 1);
    return err_later(e, ERR_UNAVAILABLE, 1, "Another standby is being answered; try again.");
}

static void give_turn(struct feed *f)
{
    pthread_mutex_unlock(&f->turn);
    atomic_fetch_sub(&f->inside, 1);
}

/* One standby's question after the other: each may copy megabytes. */
static void in_turn(struct http_request *r, int (*make)(struct feed *f, struct http_request *r, struct buf *b, struct err *e))
{
    struct feed *f = admin_gateway(r)->feed;
    struct err e = {0};
    struct buf b;
    buf_init(&b, PARCEL_BYTES_MAX);
    int rc = take_turn(f, &e);
    if (rc == 0) {
        rc = make(f, r, &b, &e);
        give_turn(f);
    }
    answer(r, rc, &b, &e);
}

static int too_much(struct err *e) { return err_set(e, ERR_NO_MEMORY, "no memory for an answer to a standby"); }

/* --- what a state names --- */

static int add_name(struct buf *b, sqlite3_stmt *st, bool month)
{
    const char *word = db_text(st, 0);
    if (month) return buf_addf(b, "archive/usage_%06d.db %lld %s\n", sqlite3_column_int(st, 0), (long long)sqlite3_column_int64(st, 1), db_text(st, 2));
    return sha256_is_hex(word) ? buf_addf(b, "blobs/%.2s/%s\n", word, word) : 0;
}

static int add_names(sqlite3 *c, const char *sql, bool month, struct buf *b, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(c, sql, -1, &st, NULL) == SQLITE_OK ? 1 : db_error(c, "names", e);
    while (rc == 1 && (rc = db_row(st, e)) == 1)
        if (add_name(b, st, month)) rc = b->full ? err_set(e, ERR_TOO_LARGE, "more adapters than a standby's list takes") : too_much(e);
    sqlite3_finalize(st);
    return rc < 0 ? -1 : 0;
}

static int list_names(sqlite3 *c, struct buf *b, char sha256[SHA256_HEX], struct err *e)
{
    static const char blobs[] = "SELECT digest FROM version WHERE state IN ('validating', 'ready', 'archived', 'quarantined') GROUP BY digest ORDER BY digest";
    static const char months[] = "SELECT month, bytes, sha256 FROM archive WHERE removed IS NULL ORDER BY month";
    uint8_t digest[SHA256_BYTES];
    if (add_names(c, blobs, false, b, e) || add_names(c, months, true, b, e)) return -1;
    sha256_of(b->data, b->len, digest);
    sha256_hex(digest, sha256);
    return 0;
}

/* --- pages --- */

static int read_ask(const struct http_request *r, struct feed_ask *a, struct err *e)
{
    static const char *const fields[] = {"epoch", "since", "from", "ranges", "names", "most", "have", NULL};
    if (admin_query_none(r, e) || admin_body(r, fields, &a->body, e)) return -1;
    return feed_ask_read(a, e);
}

static json_t *moment_json(const struct feed *f, const struct db_snap *s)
{
    const struct db_snap_at *at = db_snap_at(s);
    char tag[SHA256_HEX];
    parcel_tag(db_pepper(f->g->db), tag);
    return json_pack("{si ss ss sI sI sI sI sI sI sI}", "feed", PARCEL_VERSION, "tag", tag, "epoch", at->epoch, "gen", (json_int_t)at->gen, "wall_us", (json_int_t)at->wall_us, "before_us", (json_int_t)at->before_us, "pages",
                     (json_int_t)at->pages, "page_size", (json_int_t)at->page_size, "next", (json_int_t)at->next, "count", (json_int_t)db_snap_count(s));
}

static int add_pages(struct db_snap *s, struct buf *b, struct err *e)
{
    char *page = malloc(db_snap_at(s)->page_size);
    int rc = page ? 0 : too_much(e);
    for (size_t i = 0; rc == 0 && i < db_snap_count(s); i++) {
        uint32_t pgno;
        unsigned char number[4];
        rc = db_snap_page(s, i, &pgno, page, e);
        put_be32(pgno, number);
        if (rc == 0 && (buf_add(b, number, sizeof number) || buf_add(b, page, db_snap_at(s)->page_size))) rc = too_much(e);
    }
    free(page);
    return rc;
}

/* The list goes with the last answer of a moment, where it is another than the standby has. */
static int print_pages(const struct feed *f, struct db_snap *s, const struct feed_ask *a, struct buf *b, struct err *e)
{
    char sha256[SHA256_HEX] = "";
    struct buf names;
    buf_init(&names, FEED_NAMES_MAX);
    bool last = !db_snap_at(s)->next;
    int rc = last ? list_names(db_snap_conn(s), &names, sha256, e) : 0;
    bool same = !last || strcmp(sha256, a->names) == 0;
    json_t *o = moment_json(f, s);
    json_object_set_new(o, "names", json_string(sha256));
    json_object_set_new(o, "names_bytes", json_integer(same ? 0 : (json_int_t)names.len));
    if (rc) json_decref(o);
    else if (parcel_begin(b, o) || (!same && buf_add(b, names.data, names.len))) rc = too_much(e);
    if (rc == 0) rc = add_pages(s, b, e);
    if (rc == 0 && parcel_end(b)) rc = too_much(e);
    buf_close(&names);
    return rc;
}

static int ask_pages(struct feed *f, struct http_request *r, struct feed_ask *a, struct buf *b, struct err *e)
{
    struct db_snap *s = NULL;
    if (read_ask(r, a, e) || db_snap_open(f->g->db, &a->want, &s, e)) return -1;
    int rc = print_pages(f, s, a, b, e);
    bool whole = a->want.from <= 1 && !db_snap_at(s)->next;
    if (rc == 0) note(f, r, db_snap_count(s), b->len, (uint32_t)a->have, whole ? db_snap_at(s)->gen : 0);
    db_snap_close(s);
    return rc;
}

static int make_pages(struct feed *f, struct http_request *r, struct buf *b, struct err *e)
{
    struct feed_ask *a = calloc(1, sizeof *a); /* its ranges are many KB */
    if (!a) return too_much(e);
    int rc = ask_pages(f, r, a, b, e);
    json_decref(a->body);
    free(a);
    return rc;
}

static void post_pages(struct http_request *r) { in_turn(r, make_pages); }

/* --- hashes --- */

static int add_hashes(struct db_snap *s, struct buf *b, struct err *e)
{
    char *page = malloc(db_snap_at(s)->page_size);
    int rc = page ? 0 : too_much(e);
    for (size_t i = 0; rc == 0 && i < db_snap_count(s); i++) {
        uint8_t digest[SHA256_BYTES];
        uint32_t pgno;
        if ((rc = db_snap_page(s, i, &pgno, page, e))) break;
        sha256_of(page, db_snap_at(s)->page_size, digest);
        if (buf_add(b, digest, FEED_HASH_BYTES)) rc = too_much(e);
    }
    free(page);
    return rc;
}

static int make_hashes(struct feed *f, struct http_request *r, struct buf *b, struct err *e)
{
    static const char *const fields[] = {"from", NULL};
    struct db_snap *s = NULL;
    json_t *body = NULL;
    int64_t from = 1;
    int rc = admin_query_none(r, e) || admin_body(r, fields, &body, e) || json_get_int(body, "from", 1, DB_PAGES_MAX, &from, NULL, e) ? -1 : 0;
    json_decref(body);
    struct db_snap_want want = {.from = (uint32_t)from, .most = FEED_HASHES};
    if (rc || db_snap_open(f->g->db, &want, &s, e)) return -1;
    if (parcel_begin(b, moment_json(f, s))) rc = too_much(e);
    if (rc == 0) rc = add_hashes(s, b, e);
    if (rc == 0 && parcel_end(b)) rc = too_much(e);
    if (rc == 0) note(f, r, 0, b->len, 0, 0);
    db_snap_close(s);
    return rc;
}

static void post_hashes(struct http_request *r) { in_turn(r, make_hashes); }

/* --- files --- */

static int read_piece(int fd, int64_t at, int64_t bytes, struct buf *b, struct err *e)
{
    static const size_t step = 1 << 16;
    char some[1 << 16];
    for (int64_t left = bytes - at > FEED_PIECE ? FEED_PIECE : bytes - at; left > 0;) {
        ssize_t n = pread(fd, some, left < (int64_t)step ? (size_t)left : step, at);
        if (n <= 0) return n ? err_errno(e, "a file") : err_set(e, ERR_CONFLICT, "The file became shorter.");
        if (buf_add(b, some, (size_t)n)) return too_much(e);
        at += n;
        left -= n;
    }
    return 0;
}

static int make_piece(struct feed *f, struct http_request *r, struct buf *b, struct err *e)
{
    static const char *const known[] = {"path", "offset", NULL};
    char full[1600];
    struct stat st;
    int64_t at = 0;
    const char *path = http_query(r, "path");
    if (admin_query_known(r, known, e) || admin_query_int(r, "offset", 0, INT64_MAX / 2, &at, e)) return -1;
    if (!path || !feed_gives(path)) return err_set(e, ERR_NOT_FOUND, "There is no such file for a standby.");
    snprintf(full, sizeof full, "%s/%s", db_dir(f->g->db), path);
    int fd = open(full, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "There is no %s any more.", path) : err_errno(e, "%s", path);
    int rc = fstat(fd, &st) ? err_errno(e, "%s", path) : at > st.st_size ? err_field(e, ERR_INVALID, "offset", "%s has %lld bytes.", path, (long long)st.st_size) : 0;
    if (rc == 0 && parcel_begin(b, json_pack("{ss sI sI}", "path", path, "bytes", (json_int_t)st.st_size, "offset", (json_int_t)at))) rc = too_much(e);
    if (rc == 0) rc = read_piece(fd, at, st.st_size, b, e);
    close(fd);
    if (rc == 0 && parcel_end(b)) rc = too_much(e);
    if (rc == 0) note(f, r, 0, b->len, 0, 0);
    return rc;
}

static void get_file(struct http_request *r) { in_turn(r, make_piece); }

/* --- who follows, for a person --- */

static int by_key(const void *a, const void *b) { return strcmp(((const struct seen *)a)->key, ((const struct seen *)b)->key); }

static json_t *seen_json(const struct seen *s, int64_t now)
{
    json_t *synced = s->synced_us ? json_integer(s->synced_us / 1000000) : json_null();
    json_t *behind = s->synced_us ? json_real(now > s->synced_us ? (double)(now - s->synced_us) / 1e6 : 0) : json_null();
    return json_pack("{ss ss ss sI so so sI sI}", "object", "standby", "key", s->key, "peer", s->peer, "seen_at", (json_int_t)(s->seen_us / 1000000),
                     "synced_at", synced, "behind_s", behind, "pages", (json_int_t)s->pages, "bytes", (json_int_t)s->bytes);
}

/* They are few: those of the page are counted off. */
static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    struct feed *f = admin_gateway(r)->feed;
    struct seen seen[FEED_STANDBYS];
    int from = 0, to;
    pthread_mutex_lock(&f->lock);
    int n = f->n;
    memcpy(seen, f->seen, sizeof seen);
    pthread_mutex_unlock(&f->lock);
    qsort(seen, (size_t)n, sizeof *seen, by_key);
    to = n;
    if (page_back(p)) {
        while (to > 0 && strcmp(seen[to - 1].key, p->before) >= 0) to--;
        from = to > p->limit ? to - p->limit : 0;
        *more = from > 0;
    } else {
        while (from < n && strcmp(seen[from].key, p->after) <= 0) from++;
        to = n - from > p->limit ? from + p->limit : n;
        *more = to < n;
    }
    for (; from < to; from++)
        if (json_array_append_new(data, seen_json(&seen[from], clock_wall_us()))) return too_much(e);
    return 0;
}

static void get_standbys(struct http_request *r) { admin_answer_page(r, NULL, "key", fill); }

/* --- from outside --- */

int feed_open(struct feed **out, struct gateway *g, struct err *e)
{
    struct feed *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NO_MEMORY, "no memory for what standbys ask");
    f->g = g;
    pthread_mutex_init(&f->turn, NULL);
    pthread_mutex_init(&f->lock, NULL);
    *out = f;
    return 0;
}

void feed_close(struct feed *f)
{
    if (!f) return;
    pthread_mutex_destroy(&f->turn);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

#define FEED(method, pattern, body, fn)                                                                                \
    {                                                                                                                  \
        method, pattern, body, API_BODY_MAX, head, NULL, admin_pass_on, &(const struct admin_handler)                  \
        {                                                                                                              \
            fn                                                                                                         \
        }                                                                                                              \
    }

const struct http_route routes_standby[] = {
    FEED("POST", "/admin/v1/standby/pages", HTTP_BODY_BUFFER, post_pages),
    FEED("POST", "/admin/v1/standby/hashes", HTTP_BODY_BUFFER, post_hashes),
    FEED("GET", "/admin/v1/standby/files", HTTP_BODY_NONE, get_file),
    ADMIN_READ("/admin/v1/standby", get_standbys),
    {0},
};
