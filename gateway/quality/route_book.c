/* route_book: models of adaptive aliases, in memory and in route_model (route_book.h).
 *
 *     feedback's job: usage_route of the request -> route_model, or a new one -> route_learn() -> route_model
 *     once committed: the lesson takes the place of the model in memory, where it is newer
 *
 * In memory stands an array of pointers, looked through: an adaptive alias's request compares as many digests as there are such aliases. One lock covers it; it is held for a
 * decision, some microseconds. A model in the file is `changes` old: two ratings at once may come to memory in the other order, and the older is dropped. */
#include "gateway/quality/route_book.h"
#include "base/sha256.h"
#include "gateway/ledger/ledger_rows.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOAD_MS 10000
#define KEY_LEN SHA256_HEX
/* of a model: two beliefs of requests, one of what was seen; of each its matrix and its vector */
#define DOUBLES (2 * (ROUTE_ASK * ROUTE_ASK + ROUTE_ASK) + ROUTE_SEEN * ROUTE_SEEN + ROUTE_SEEN)

struct route_lesson {
    char key[KEY_LEN], targets[SHA256_HEX];
    int64_t changes;
    int64_t t; /* of the newest request that it learned from */
    struct route_model m;
};

struct route_book {
    pthread_mutex_t lock;
    struct route_model fresh; /* of those that learned nothing yet */
    struct route_lesson *known[ROUTE_BOOK_MAX];
    int n, turn; /* turn: whose place the next one takes where all are taken */
};

static void key_of(const char *tenant, const char *alias, char out[KEY_LEN])
{
    struct sha256 h;
    uint8_t sum[SHA256_BYTES];
    sha256_init(&h);
    sha256_add(&h, tenant, strlen(tenant) + 1);
    sha256_add(&h, alias, strlen(alias));
    sha256_end(&h, sum);
    sha256_hex(sum, out);
}

/* --- bytes --- */

static void pack_one(const struct bandit *b, double **at)
{
    memcpy(*at, b->inv, (size_t)(b->d * b->d) * sizeof **at);
    *at += b->d * b->d;
    memcpy(*at, b->b, (size_t)b->d * sizeof **at);
    *at += b->d;
}

static void unpack_one(struct bandit *b, const double **at)
{
    memcpy(b->inv, *at, (size_t)(b->d * b->d) * sizeof **at);
    *at += b->d * b->d;
    memcpy(b->b, *at, (size_t)b->d * sizeof **at);
    *at += b->d;
}

static void pack(const struct route_model *m, double out[DOUBLES])
{
    pack_one(&m->ask, &out);
    pack_one(&m->large, &out);
    pack_one(&m->seen, &out);
}

/* A blob of another size is another version's: the model begins anew. */
static void unpack(struct route_model *m, int64_t n, const void *blob, int bytes)
{
    double v[DOUBLES];
    const double *at = v;
    route_model_init(m);
    if (bytes != (int)sizeof v) return;
    memcpy(v, blob, sizeof v);
    unpack_one(&m->ask, &at);
    unpack_one(&m->large, &at);
    unpack_one(&m->seen, &at);
    m->n = n;
}

size_t route_features_pack(const double x[ROUTE_SEEN], uint8_t *out, size_t cap)
{
    if (cap < ROUTE_SEEN * sizeof(float)) return 0;
    for (int i = 0; i < ROUTE_SEEN; i++) {
        float v = (float)x[i];
        memcpy(out + (size_t)i * sizeof v, &v, sizeof v);
    }
    return ROUTE_SEEN * sizeof(float);
}

static bool unpack_features(const void *blob, int bytes, double *x)
{
    if (bytes != (int)(ROUTE_SEEN * sizeof(float))) return false;
    for (int i = 0; i < ROUTE_SEEN; i++) {
        float v;
        memcpy(&v, (const uint8_t *)blob + (size_t)i * sizeof v, sizeof v);
        x[i] = (double)v;
    }
    return true;
}

/* --- in memory --- */

/* Under the lock; -1: not there. */
static int find(const struct route_book *b, const char *key)
{
    for (int i = 0; i < b->n; i++)
        if (strcmp(b->known[i]->key, key) == 0) return i;
    return -1;
}

/* Under the lock. */
static const struct route_model *model_of(const struct route_book *b, const char *tenant, const char *alias, const char *targets)
{
    char key[KEY_LEN];
    key_of(tenant, alias, key);
    int i = find(b, key);
    return i >= 0 && strcmp(b->known[i]->targets, targets) == 0 ? &b->known[i]->m : &b->fresh;
}

struct route_choice route_book_ask(struct route_book *b, const char *tenant, const char *alias, const char *targets, const struct route_rules *r, const double *x)
{
    pthread_mutex_lock(&b->lock);
    struct route_choice c = route_ask(model_of(b, tenant, alias, targets), r, x);
    pthread_mutex_unlock(&b->lock);
    return c;
}

struct route_choice route_book_seen(struct route_book *b, const char *tenant, const char *alias, const char *targets, const struct route_rules *r, const double *x)
{
    pthread_mutex_lock(&b->lock);
    struct route_choice c = route_seen(model_of(b, tenant, alias, targets), r, x);
    pthread_mutex_unlock(&b->lock);
    return c;
}

/* Under the lock: where a model of this key goes. */
static int place_of(struct route_book *b, const char *key)
{
    int i = find(b, key);
    if (i >= 0) return i;
    if (b->n < ROUTE_BOOK_MAX) return b->n++;
    return b->turn++ % ROUTE_BOOK_MAX;
}

void route_book_learned(struct route_book *b, struct route_lesson *learned)
{
    if (!b || !learned) {
        free(learned);
        return;
    }
    pthread_mutex_lock(&b->lock);
    int i = place_of(b, learned->key);
    struct route_lesson *was = b->known[i];
    bool newer = !was || strcmp(was->key, learned->key) != 0 || strcmp(was->targets, learned->targets) != 0 || was->changes < learned->changes;
    if (newer) b->known[i] = learned;
    pthread_mutex_unlock(&b->lock);
    free(newer ? was : learned);
}

static int load(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT tenant, alias, targets, changes, n, model FROM route_model ORDER BY t DESC LIMIT ?1";
    struct route_book *b = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "i", (int64_t)ROUTE_BOOK_MAX)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        struct route_lesson *x = calloc(1, sizeof *x);
        if (!x) return err_set(e, ERR_NO_MEMORY, "no memory for what routing has learned");
        key_of(db_text(st, 0), db_text(st, 1), x->key);
        snprintf(x->targets, sizeof x->targets, "%s", db_text(st, 2));
        x->changes = sqlite3_column_int64(st, 3);
        unpack(&x->m, sqlite3_column_int64(st, 4), sqlite3_column_blob(st, 5), sqlite3_column_bytes(st, 5));
        route_book_learned(b, x);
    }
    return rc;
}

int route_book_open(struct route_book **out, struct db *d, struct err *e)
{
    struct route_book *b = calloc(1, sizeof *b);
    if (!b) return err_set(e, ERR_NO_MEMORY, "no memory for what routing has learned");
    pthread_mutex_init(&b->lock, NULL);
    route_model_init(&b->fresh);
    if (db_read(d, load, b, LOAD_MS, e)) {
        route_book_close(b);
        return -1;
    }
    *out = b;
    return 0;
}

void route_book_close(struct route_book *b)
{
    if (!b) return;
    for (int i = 0; i < b->n; i++) free(b->known[i]);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

/* --- learning --- */

/* How the request went: 1, 0 where there is nothing to learn, -1. */
static int read_route(struct db *d, sqlite3 *c, const char *request, char alias[NAME_MAX_LEN + 1], char targets[SHA256_HEX], enum route_way *way, double *cost, double *x, struct err *e)
{
    static const char sql[] = "SELECT alias, targets, way, cost, features FROM usage_route WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", request)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) {
        snprintf(alias, NAME_MAX_LEN + 1, "%s", db_text(st, 0));
        snprintf(targets, SHA256_HEX, "%s", db_text(st, 1));
        *way = (enum route_way)sqlite3_column_int(st, 2);
        *cost = sqlite3_column_double(st, 3);
        if (*way >= ROUTE_WAYS || !unpack_features(sqlite3_column_blob(st, 4), sqlite3_column_bytes(st, 4), x)) rc = 0;
    }
    sqlite3_reset(st);
    return rc;
}

/* 1; 0: the alias has learned of later requests to other models, which a late rating of these must not take away; -1. */
static int read_model(struct db *d, sqlite3 *c, const char *tenant, const char *alias, struct route_lesson *l, struct err *e)
{
    static const char sql[] = "SELECT targets, changes, n, model, t FROM route_model WHERE tenant = ?1 AND alias = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", tenant, alias)) return -1;
    int rc = db_row(st, e);
    route_model_init(&l->m);
    bool same = rc == 1 && strcmp(db_text(st, 0), l->targets) == 0, late = rc == 1 && l->t < sqlite3_column_int64(st, 4);
    if (rc == 1) l->changes = sqlite3_column_int64(st, 1);
    if (same) unpack(&l->m, sqlite3_column_int64(st, 2), sqlite3_column_blob(st, 3), sqlite3_column_bytes(st, 3));
    if (same && late) l->t = sqlite3_column_int64(st, 4);
    sqlite3_reset(st);
    return rc < 0 ? -1 : same || !late;
}

/* And no more than are kept: those that learned least lately go. */
static int write_model(struct db *d, sqlite3 *c, const char *tenant, const char *alias, const struct route_lesson *l, struct err *e)
{
    static const char sql[] = "INSERT OR REPLACE INTO route_model(tenant, alias, targets, changes, n, t, model) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    static const char most[] = "DELETE FROM route_model WHERE (tenant, alias) IN (SELECT tenant, alias FROM route_model ORDER BY t DESC LIMIT -1 OFFSET ?1)";
    double v[DOUBLES];
    pack(&l->m, v);
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sssiii", tenant, alias, l->targets, l->changes, l->m.n, l->t)) return -1;
    if (sqlite3_bind_blob(st, 7, v, (int)sizeof v, SQLITE_TRANSIENT)) return db_error(c, "bind", e);
    if (db_done(st, e)) return -1;
    if (l->m.n != 1) return 0; /* there is no new one */
    st = db_stmt(d, c, most, e);
    return st && db_bind(st, e, "i", (int64_t)ROUTE_BOOK_MAX) == 0 ? db_done(st, e) : -1;
}

static double share_of(double rating)
{
    return (rating + 1) / 2;
}

int route_book_learn(struct db *d, sqlite3 *c, const char *tenant, const char *request, const double *was, double rating, struct route_lesson **learned, struct err *e)
{
    char alias[NAME_MAX_LEN + 1];
    double x[ROUTE_SEEN], cost;
    enum route_way way;
    struct route_lesson *l = calloc(1, sizeof *l);
    *learned = NULL;
    if (!l) return err_set(e, ERR_NO_MEMORY, "no memory to learn from feedback");
    l->t = usage_id_time(request);
    int rc = read_route(d, c, request, alias, l->targets, &way, &cost, x, e);
    if (rc == 1) rc = read_model(d, c, tenant, alias, l, e);
    if (rc != 1) {
        free(l);
        return rc;
    }
    key_of(tenant, alias, l->key);
    if (was)
        route_relearn(&l->m, way, x, share_of(*was), share_of(rating));
    else
        route_learn(&l->m, way, x, share_of(rating), cost);
    l->changes++;
    if (write_model(d, c, tenant, alias, l, e)) {
        free(l);
        return -1;
    }
    *learned = l;
    return 0;
}
