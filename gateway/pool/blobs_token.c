/* blobs_token: engines' tokens, who is let in with one, and the thread that reads the disk for them (see blobs.h).
 *
 *     table engine_token  --blobs_open, each change-->  tokens[] in memory  --blobs_enter-->  guest, counted by its engine
 *
 * A check asks no database: there are TOKENS_MAX tokens at most (two an engine: the newest and the one before it), found by their public id, the
 * secret compared in constant time by its HMAC. A change writes its row, its audit entry and the answer in one transaction and reads all rows anew.
 *
 * Lock: blobs.lock covers the tokens, the counts and the queue; nothing is called under it. */
#include "base/clock.h"
#include "base/file_id.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/api/idempotency.h"
#include "gateway/db/db_audit.h"
#include "gateway/gateway.h"
#include "gateway/observe/meters.h"
#include "gateway/pool/blobs.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENS_MAX (4 * POOL_ENGINES)
#define READ_MS 5000
#define SUMS 1024 /* files whose hash is remembered */
#define PIECE (1u << 20)

struct token {
    char id[KEY_ID_LEN], engine[NAME_MAX_LEN + 1];
    uint8_t hash[SHA256_BYTES];
    int64_t created_s, expires_s; /* expires_s 0: not before it is revoked */
    int64_t used_s;               /* since the start; 0: not */
};

/* Requests of an engine. */
struct visitor {
    char engine[NAME_MAX_LEN + 1];
    int inside;
    double left; /* of its BLOB_RATE */
    int64_t since_us;
};

struct task {
    struct http_request *r;
    void (*fn)(struct http_request *r);
    struct task *next;
};

struct blobs {
    struct gateway *g;
    pthread_mutex_t changing; /* one change of tokens at a time, its transaction included */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct token token[TOKENS_MAX];
    int ntokens, inside;
    struct visitor visitor[TOKENS_MAX];
    struct task *first, **last;
    pthread_t thread;
    bool running, stop;
    struct {
        struct file_id id;
        char sum[SHA256_HEX];
    } sum[SUMS]; /* the thread's own */
    unsigned nsums;
};

/* --- reading --- */

struct tokens {
    struct token token[TOKENS_MAX];
    int n;
};

static int read_tokens(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT id, engine, hash, created, coalesce(expires, 0) FROM engine_token"
                              " ORDER BY created DESC, expires IS NOT NULL, expires DESC, id LIMIT ?1";
    struct tokens *all = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc;
    if (!st || db_bind(st, e, "i", (int64_t)TOKENS_MAX)) return -1;
    while ((rc = db_row(st, e)) == 1) {
        struct token *t = &all->token[all->n++];
        snprintf(t->id, sizeof t->id, "%s", db_text(st, 0));
        snprintf(t->engine, sizeof t->engine, "%s", db_text(st, 1));
        memcpy(t->hash, sqlite3_column_blob(st, 2), SHA256_BYTES); /* the table checks its length */
        t->created_s = sqlite3_column_int64(st, 3);
        t->expires_s = sqlite3_column_int64(st, 4);
    }
    return rc;
}

static int64_t used_of(const struct blobs *b, const char *id)
{
    for (int i = 0; i < b->ntokens; i++)
        if (strcmp(b->token[i].id, id) == 0) return b->token[i].used_s;
    return 0;
}

static int reload(struct blobs *b, struct err *e)
{
    struct tokens *all = calloc(1, sizeof *all);
    if (!all) return err_set(e, ERR_NO_MEMORY, "no memory for engines' tokens");
    int rc = db_read(b->g->db, read_tokens, all, READ_MS, e);
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < all->n; i++) all->token[i].used_s = used_of(b, all->token[i].id);
    if (rc == 0) {
        memcpy(b->token, all->token, sizeof b->token);
        b->ntokens = all->n;
    }
    pthread_mutex_unlock(&b->lock);
    free(all);
    return rc;
}

/* What the database said yes to holds at once, though it may not be read again now: none of an engine's tokens lasts longer than until_s (0: none at all). */
static void end_known(struct blobs *b, const char *engine, int64_t until_s)
{
    int n = 0;
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < b->ntokens; i++) {
        struct token t = b->token[i];
        bool own = strcmp(t.engine, engine) == 0;
        if (own && !until_s) continue;
        if (own && (!t.expires_s || t.expires_s > until_s)) t.expires_s = until_s;
        b->token[n++] = t;
    }
    b->ntokens = n;
    pthread_mutex_unlock(&b->lock);
}

/* --- changing --- */

struct change {
    const struct actor *by;
    const char *action, *engine;
    const struct new_key *key; /* NULL: revoke */
    int64_t now_s, grace_s;
    json_t *answer; /* of a new one */
    int revoked;
};

static int end_others(struct db *d, sqlite3 *c, struct change *k, struct err *e)
{
    static const char older[] = "DELETE FROM engine_token WHERE engine = ?1 AND (?2 = 0 OR expires IS NOT NULL)";
    static const char before[] = "UPDATE engine_token SET expires = ?2 WHERE engine = ?1";
    sqlite3_stmt *st = db_stmt(d, c, older, e);
    if (!st || db_bind(st, e, "si", k->engine, k->grace_s) || db_done(st, e)) return -1;
    k->revoked = sqlite3_changes(c);
    st = db_stmt(d, c, before, e);
    return !st || db_bind(st, e, "si", k->engine, k->now_s + k->grace_s) || db_done(st, e) ? -1 : 0;
}

static int add_token(struct db *d, sqlite3 *c, const struct change *k, struct err *e)
{
    static const char sql[] = "INSERT INTO engine_token(id, engine, hash, created) SELECT ?1, name, ?3, ?4 FROM engine WHERE name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssbi", k->key->id, k->engine, k->key->hash, k->now_s) || db_done(st, e)) return -1;
    return sqlite3_changes(c) ? 0 : err_set(e, ERR_NOT_FOUND, "There is no engine '%.64s' of its own row.", k->engine);
}

static int write_change(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct change *k = u;
    if (end_others(d, c, k, e) || (k->key && add_token(d, c, k, e))) return -1;
    json_t *after = k->key ? json_pack("{ss sI}", "id", k->key->id, "grace_s", (json_int_t)k->grace_s) : json_pack("{si}", "revoked", k->revoked);
    int rc = audit_add(d, c, &(struct audit){k->by, k->action, k->engine, NULL, after}, e);
    json_decref(after);
    return rc ? -1 : k->answer ? once_keep(d, c, k->by, 201, k->answer, e) : 0;
}

static int apply(struct blobs *b, struct change *k, struct err *e)
{
    k->now_s = clock_wall_us() / 1000000;
    pthread_mutex_lock(&b->changing);
    int rc = db_write_wait(b->g->db, write_change, k, e);
    if (rc == 0) end_known(b, k->engine, k->grace_s ? k->now_s + k->grace_s : 0);
    if (rc == 0) rc = reload(b, e);
    pthread_mutex_unlock(&b->changing);
    return rc ? -1 : 0;
}

int blobs_make(struct blobs *b, const struct actor *by, const char *engine, int64_t grace_s, json_t **out, struct err *e)
{
    struct new_key key;
    struct change k = {.by = by, .action = "engine.token", .engine = engine, .key = &key, .grace_s = grace_s};
    if (auth_engine_token_make(db_pepper(b->g->db), &key, e)) return -1;
    k.answer = json_pack("{ss ss ss ss sI}", "object", "engine_token", "engine", engine, "id", key.id, "token", key.text, "created_at",
                         (json_int_t)(clock_wall_us() / 1000000));
    int rc = k.answer ? apply(b, &k, e) : err_set(e, ERR_NO_MEMORY, "no memory for the answer");
    explicit_bzero(&key, sizeof key);
    if (rc)
        json_decref(k.answer);
    else
        *out = k.answer;
    return rc;
}

int blobs_revoke(struct blobs *b, const struct actor *by, const char *engine, json_t **out, struct err *e)
{
    struct change k = {.by = by, .action = "engine.token.revoke", .engine = engine};
    if (pool_rights(b->g->pool, engine, &(struct pool_rights){0}, e) || apply(b, &k, e)) return -1;
    *out = json_pack("{ss ss sb}", "id", engine, "object", "engine_token", "deleted", 1);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the answer");
}

void blobs_forget(struct blobs *b, const char *engine)
{
    struct err e = {0};
    pthread_mutex_lock(&b->changing);
    end_known(b, engine, 0);
    if (reload(b, &e)) log_error("engine_tokens", LS("engine", engine), LS("error", e.msg));
    pthread_mutex_unlock(&b->changing);
}

static json_t *seconds(int64_t s)
{
    return s ? json_integer(s) : json_null();
}

int blobs_show(struct blobs *b, const char *engine, json_t **out, struct err *e)
{
    json_t *list = json_array();
    int64_t now_s = clock_wall_us() / 1000000;
    if (pool_rights(b->g->pool, engine, &(struct pool_rights){0}, e)) {
        json_decref(list);
        return -1;
    }
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < b->ntokens; i++) {
        const struct token *t = &b->token[i];
        if (strcmp(t->engine, engine) != 0 || (t->expires_s && t->expires_s <= now_s)) continue;
        json_list_add(&list, json_pack("{ss sI so so}", "id", t->id, "created_at", (json_int_t)t->created_s, "expires_at", seconds(t->expires_s),
                                       "last_used_at", seconds(t->used_s)));
    }
    pthread_mutex_unlock(&b->lock);
    *out = json_pack("{ss ss so}", "object", "engine_tokens", "engine", engine, "tokens", list);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the answer");
}

/* --- at the door --- */

static struct token *find(struct blobs *b, const char *id)
{
    for (int i = 0; i < b->ntokens; i++)
        if (strcmp(b->token[i].id, id) == 0) return &b->token[i];
    return NULL;
}

static struct visitor *visitor_of(struct blobs *b, const char *engine)
{
    struct visitor *idle = NULL;
    for (int i = 0; i < TOKENS_MAX; i++) {
        struct visitor *v = &b->visitor[i];
        if (strcmp(v->engine, engine) == 0) return v;
        if (!v->inside && (!idle || v->since_us < idle->since_us)) idle = v;
    }
    if (!idle) return NULL;
    *idle = (struct visitor){.left = BLOB_RATE, .since_us = clock_mono_us()};
    snprintf(idle->engine, sizeof idle->engine, "%s", engine);
    return idle;
}

static bool has_turn(struct visitor *v)
{
    int64_t now_us = clock_mono_us();
    v->left += (double)(now_us - v->since_us) * BLOB_RATE / 1e6;
    if (v->left > BLOB_RATE) v->left = BLOB_RATE;
    v->since_us = now_us;
    if (v->left < 1) return false;
    v->left--;
    return true;
}

static int refuse(struct blobs *b, enum err_code code, const char *why, struct err *e)
{
    metric_add(b->g->metrics, GM_BLOBS_REFUSED, (const char *[]){code == ERR_UNAUTHORIZED ? "token" : "busy"}, 1);
    return err_set(e, code, "%s", why);
}

int blobs_enter(struct blobs *b, const char *bearer, struct blob_guest *out, struct err *e)
{
    char id[KEY_ID_LEN] = "", secret[44];
    uint8_t hash[SHA256_BYTES];
    bool formed = bearer && auth_engine_token_parse(bearer, id, secret), room = false;
    if (!formed) return refuse(b, ERR_UNAUTHORIZED, "Give an engine's token as 'Authorization: Bearer TOKEN'.", e);
    auth_key_hash(db_pepper(b->g->db), secret, hash);
    explicit_bzero(secret, sizeof secret);
    int64_t now_s = clock_wall_us() / 1000000;
    pthread_mutex_lock(&b->lock);
    struct token *t = find(b, id);
    bool good = t && bytes_equal_ct(t->hash, hash, sizeof hash) && (!t->expires_s || t->expires_s > now_s);
    struct visitor *v = good ? visitor_of(b, t->engine) : NULL;
    if (good) {
        t->used_s = now_s;
        snprintf(out->engine, sizeof out->engine, "%s", t->engine);
    }
    if (v && b->inside < BLOB_AT_A_TIME && v->inside < BLOB_OF_ENGINE && has_turn(v)) {
        room = true;
        v->inside++;
        b->inside++;
    }
    pthread_mutex_unlock(&b->lock);
    if (!good) return refuse(b, ERR_UNAUTHORIZED, "Give an engine's token as 'Authorization: Bearer TOKEN'.", e);
    return room ? 0 : refuse(b, ERR_OVERLOADED, "too many requests for adapters; try again", e);
}

void blobs_leave(struct blobs *b, const struct blob_guest *guest)
{
    pthread_mutex_lock(&b->lock);
    struct visitor *v = visitor_of(b, guest->engine);
    if (v) v->inside--;
    b->inside--;
    pthread_mutex_unlock(&b->lock);
}

/* --- the thread --- */

void blobs_defer(struct blobs *b, struct http_request *r, void (*fn)(struct http_request *r))
{
    struct task *t = arena_alloc(r->arena, sizeof *t);
    struct err e = {0};
    if (!t) {
        err_set(&e, ERR_NO_MEMORY, "no memory for the request");
        http_reply_error(r, &e);
        return;
    }
    *t = (struct task){.r = r, .fn = fn};
    pthread_mutex_lock(&b->lock);
    *b->last = t;
    b->last = &t->next;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}

static void *serve(void *u)
{
    struct blobs *b = u;
    pthread_setname_np(pthread_self(), "blobs");
    pthread_mutex_lock(&b->lock);
    while (!b->stop || b->first) {
        struct task *t = b->first;
        if (!t) {
            pthread_cond_wait(&b->wake, &b->lock);
            continue;
        }
        b->first = t->next;
        if (!b->first) b->last = &b->first;
        pthread_mutex_unlock(&b->lock);
        t->fn(t->r);
        pthread_mutex_lock(&b->lock);
    }
    pthread_mutex_unlock(&b->lock);
    return NULL;
}

static int hash_file(const char *path, struct file_id *id, char out[SHA256_HEX], struct err *e)
{
    static char piece[PIECE]; /* one thread */
    uint8_t sum[SHA256_BYTES];
    struct sha256 h;
    struct stat st;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st)) {
        if (fd >= 0) close(fd);
        return err_set(e, ERR_NOT_FOUND, "no such adapter");
    }
    file_id_of(id, &st);
    sha256_init(&h);
    while ((n = read(fd, piece, sizeof piece)) > 0) sha256_add(&h, piece, (size_t)n);
    int rc = n < 0 ? err_errno(e, "cannot read an adapter") : 0;
    close(fd);
    sha256_end(&h, sum);
    sha256_hex(sum, out);
    return rc;
}

int blobs_sum(struct blobs *b, const char *path, char out[SHA256_HEX], struct err *e)
{
    struct file_id id;
    file_id_at(&id, path);
    for (int i = 0; i < SUMS; i++)
        if (id.size && file_id_same(&id, &b->sum[i].id)) {
            memcpy(out, b->sum[i].sum, SHA256_HEX);
            return 0;
        }
    int64_t began_us = clock_wall_us();
    if (hash_file(path, &id, out, e)) return -1;
    if (!file_id_settled(&id, began_us)) return 0;
    unsigned at = b->nsums++ % SUMS;
    b->sum[at].id = id;
    memcpy(b->sum[at].sum, out, SHA256_HEX);
    return 0;
}

/* --- life --- */

int blobs_open(struct blobs **out, struct gateway *g, struct err *e)
{
    struct blobs *b = calloc(1, sizeof *b);
    if (!b) return err_set(e, ERR_NO_MEMORY, "no memory for engines' tokens");
    b->g = g;
    b->last = &b->first;
    pthread_mutex_init(&b->changing, NULL);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->wake, NULL);
    int rc = reload(b, e);
    if (!rc && pthread_create(&b->thread, NULL, serve, b)) rc = err_errno(e, "no thread for blobs");
    b->running = !rc;
    if (rc)
        blobs_close(b);
    else
        *out = b;
    return rc;
}

void blobs_close(struct blobs *b)
{
    if (!b) return;
    pthread_mutex_lock(&b->lock);
    b->stop = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    if (b->running) pthread_join(b->thread, NULL);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    pthread_mutex_destroy(&b->changing);
    free(b);
}
