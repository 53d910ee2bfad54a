/* auth: may this key do that, answered from memory.
 *
 * The keys that are valid stand in a snapshot: a hash table by public id, built from the database after each change and never edited. A check
 * takes a reference under a mutex held for two instructions, reads, and lets it go; the last one out frees an old snapshot. So a check
 * never waits for the database, and once auth_reload() has returned no later check sees the old keys.
 *
 * One answer for every cause: unknown id, wrong secret, typo, revoked, expired, disabled tenant, another tenant's path. The HMAC is
 * computed and compared in constant time for unknown ids too, so time doesn't tell either. The counters by cause are for the operator.
 *
 * Last use is noted coarsely: a check leaves the time in memory, at most once a minute, and auth_note_uses() hands what has
 * gathered to the writer as one job a minute. A crash loses that minute, which nobody is billed by. Any thread. */
#include "gateway/auth/auth.h"
#include "base/clock.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTE_US (AUTH_NOTE_S * 1000000ll)
#define NOTES_MAX 4096 /* uses in one job; the rest comes a minute later, beginning where this one ended */
#define KEYS_MAX 1000000
#define LOAD_MS 30000

const char *const auth_cause_name[AUTH_CAUSES] = {"no_key",  "malformed",    "unknown", "wrong_secret",
                                                  "expired", "other_tenant", "scope"};

struct key {
    struct principal who;
    uint8_t hash[SHA256_BYTES];
    bool admin;
    int64_t expires; /* wall us, 0: never */
    _Atomic int64_t last_used;
    int64_t noted; /* what the database has, or was sent; under auth.reloading */
};

struct snapshot {
    int refs; /* under auth.lock */
    struct key *key;
    uint32_t nkeys, cap;
    uint32_t *slot; /* [nslots] index + 1, 0: free; linear probing, at most half full */
    uint32_t nslots;
};

struct auth {
    struct db *db;
    pthread_mutex_t lock; /* covers `now` and every refs */
    pthread_mutex_t
        reloading; /* one reload at a time, so an older state never replaces a newer one; taken before `lock`. It also
                                * covers notes_at and noted_us */
    struct snapshot *now;
    uint32_t notes_at;
    int64_t noted_us; /* monotonic */
    _Atomic int64_t refused[AUTH_CAUSES];
};

bool name_is_valid(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789._-");
    return n >= 1 && n <= NAME_MAX_LEN && !s[n] && s[0] != '.' && s[0] != '_' && s[0] != '-';
}

static void snapshot_free(struct snapshot *s)
{
    if (!s) return;
    if (s->key) explicit_bzero(s->key, s->cap * sizeof *s->key);
    free(s->key);
    free(s->slot);
    free(s);
}

static struct snapshot *snapshot_ref(struct auth *a)
{
    pthread_mutex_lock(&a->lock);
    struct snapshot *s = a->now;
    s->refs++;
    pthread_mutex_unlock(&a->lock);
    return s;
}

static void snapshot_unref(struct auth *a, struct snapshot *s)
{
    pthread_mutex_lock(&a->lock);
    bool last = s && --s->refs == 0;
    pthread_mutex_unlock(&a->lock);
    if (last) snapshot_free(s);
}

static uint32_t hash_id(const char *id)
{
    uint32_t h = 2166136261u; /* FNV-1a; ids are random, so nobody chooses collisions */
    for (; *id; id++) h = (h ^ (uint8_t)*id) * 16777619u;
    return h;
}

static struct key *snapshot_find(const struct snapshot *s, const char *id)
{
    for (uint32_t i = hash_id(id) & (s->nslots - 1); s->slot[i]; i = (i + 1) & (s->nslots - 1)) {
        struct key *k = &s->key[s->slot[i] - 1];
        if (strcmp(k->who.key, id) == 0) return k;
    }
    return NULL;
}

static int snapshot_index(struct snapshot *s, struct err *e)
{
    for (s->nslots = 16; s->nslots < 2 * s->nkeys; s->nslots *= 2) {
    }
    s->slot = calloc(s->nslots, sizeof *s->slot);
    if (!s->slot) return err_set(e, ERR_NO_MEMORY, "no memory for %u keys", s->nkeys);
    for (uint32_t k = 0; k < s->nkeys; k++) {
        uint32_t i = hash_id(s->key[k].who.key) & (s->nslots - 1);
        while (s->slot[i]) i = (i + 1) & (s->nslots - 1);
        s->slot[i] = k + 1;
    }
    return 0;
}

static struct key *snapshot_more(struct snapshot *s, struct err *e)
{
    if (s->nkeys == KEYS_MAX) {
        err_set(e, ERR_LEDGER, "more than %d keys", KEYS_MAX);
        return NULL;
    }
    if (s->nkeys == s->cap) {
        uint32_t cap = s->cap ? 2 * s->cap : 64;
        struct key *bigger = realloc(s->key, cap * sizeof *bigger);
        if (!bigger) {
            err_set(e, ERR_NO_MEMORY, "no memory for %u keys", cap);
            return NULL;
        }
        s->key = bigger;
        s->cap = cap;
    }
    memset(&s->key[s->nkeys], 0, sizeof *s->key);
    return &s->key[s->nkeys++];
}

static void tag_of(const uint8_t *pepper, const char *tenant, char out[33])
{
    uint8_t h[SHA256_BYTES];
    char hex[SHA256_HEX];
    sha256_hmac(pepper, 32, tenant, strlen(tenant), h);
    sha256_hex(h, hex);
    memcpy(out, hex, 32);
    out[32] = 0;
}

/* Columns: id, hash, roles, expires, last_used, tenant, name, weight, private, class, deadline_ms, scopes */
static void fill_key(struct key *k, sqlite3_stmt *st, const uint8_t *pepper)
{
    struct principal *p = &k->who;
    k->admin = sqlite3_column_type(st, 5) == SQLITE_NULL;
    snprintf(p->key, sizeof p->key, "%s", db_text(st, 0));
    memcpy(k->hash, sqlite3_column_blob(st, 1), sizeof k->hash);
    p->scopes = auth_scopes_of(db_text(st, 2), db_text(st, 11), k->admin);
    k->expires = sqlite3_column_int64(st, 3);
    k->last_used = k->noted = sqlite3_column_int64(st, 4);
    p->weight = 1;
    snprintf(p->class, sizeof p->class, "normal");
    if (k->admin) return;
    snprintf(p->tenant, sizeof p->tenant, "%s", db_text(st, 5));
    snprintf(p->tenant_name, sizeof p->tenant_name, "%s", db_text(st, 6));
    p->weight = sqlite3_column_double(st, 7);
    p->private = sqlite3_column_int(st, 8);
    snprintf(p->class, sizeof p->class, "%s", db_text(st, 9));
    p->deadline_ms = sqlite3_column_int64(st, 10);
    tag_of(pepper, p->tenant, p->tag);
}

static int load(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "SELECT k.id, k.hash, k.roles, k.expires, k.last_used, k.tenant, t.name, t.weight, t.private, t.class, "
        "t.deadline_ms, k.scopes"
        " FROM api_key k LEFT JOIN tenant t ON t.id = k.tenant WHERE k.revoked IS NULL AND coalesce(t.disabled, 0) = 0";
    struct snapshot *s = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        struct key *k = snapshot_more(s, e);
        if (!k) return -1;
        fill_key(k, st, db_pepper(d));
    }
    return rc < 0 ? -1 : snapshot_index(s, e);
}

/* Uses that were not written yet go on into the new snapshot. One that is noted in the old one after this is lost; the next is not. */
static void carry_uses(struct snapshot *fresh, struct snapshot *old)
{
    for (uint32_t i = 0; old && i < old->nkeys; i++) {
        int64_t used = old->key[i].last_used;
        struct key *k = used > old->key[i].noted ? snapshot_find(fresh, old->key[i].who.key) : NULL;
        if (k && used > k->last_used) k->last_used = used;
    }
}

int auth_reload(struct auth *a, struct err *e)
{
    struct snapshot *fresh = calloc(1, sizeof *fresh), *old = NULL;
    if (!fresh) return err_set(e, ERR_NO_MEMORY, "no memory for the keys");
    fresh->refs = 1;
    pthread_mutex_lock(&a->reloading);
    int rc = db_read(a->db, load, fresh, LOAD_MS, e);
    if (rc == 0) {
        carry_uses(fresh, a->now); /* only a reload replaces it */
        pthread_mutex_lock(&a->lock);
        old = a->now;
        a->now = fresh;
        pthread_mutex_unlock(&a->lock);
    }
    pthread_mutex_unlock(&a->reloading);
    if (rc)
        snapshot_free(fresh);
    else
        snapshot_unref(a, old);
    return rc;
}

int auth_open(struct auth **out, struct db *d, struct err *e)
{
    struct auth *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NO_MEMORY, "no memory for the keys");
    a->db = d;
    pthread_mutex_init(&a->lock, NULL);
    pthread_mutex_init(&a->reloading, NULL);
    a->noted_us = clock_mono_us();
    if (auth_reload(a, e)) {
        auth_close(a);
        return -1;
    }
    *out = a;
    return 0;
}

struct used {
    int n;
    struct {
        char id[KEY_ID_LEN];
        int64_t at;
    } key[];
};

static int write_used(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE api_key SET last_used = max(coalesce(last_used, 0), ?2) WHERE id = ?1";
    const struct used *w = u;
    for (int i = 0; i < w->n; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        if (!st || db_bind(st, e, "si", w->key[i].id, w->key[i].at) || db_done(st, e)) return -1;
    }
    return 0;
}

static void free_used(void *u, const struct err *e)
{
    (void)e;
    free(u);
}

/* The uses that the database doesn't know, taken as known; NULL: there are none. Holds `reloading`. */
static struct used *gather(struct auth *a)
{
    struct snapshot *s = a->now;
    struct used *w = NULL;
    uint32_t begin = a->notes_at;
    for (uint32_t i = 0; i < s->nkeys; i++) {
        struct key *k = &s->key[(begin + i) % s->nkeys];
        int64_t at = k->last_used;
        if (at <= k->noted) continue;
        if (!w && !(w = calloc(1, sizeof *w + NOTES_MAX * sizeof w->key[0]))) return NULL;
        memcpy(w->key[w->n].id, k->who.key, KEY_ID_LEN);
        w->key[w->n++].at = k->noted = at;
        a->notes_at = (begin + i + 1) % s->nkeys;
        if (w->n == NOTES_MAX) break;
    }
    return w;
}

static void write_uses(struct auth *a)
{
    struct used *w = gather(a);
    if (w && db_write(a->db, &(struct db_job){.run = write_used, .done = free_used, .user = w}, NULL)) free(w);
}

void auth_note_uses(struct auth *a)
{
    int64_t now = clock_mono_us();
    pthread_mutex_lock(&a->reloading);
    if (now - a->noted_us >= NOTE_US) {
        a->noted_us = now;
        write_uses(a);
    }
    pthread_mutex_unlock(&a->reloading);
}

void auth_close(struct auth *a)
{
    if (!a) return;
    if (a->now) write_uses(a);
    snapshot_free(a->now);
    pthread_mutex_destroy(&a->lock);
    pthread_mutex_destroy(&a->reloading);
    free(a);
}

static void note_use(struct key *k, int64_t now)
{
    int64_t last = k->last_used;
    if (now - last >= NOTE_US) atomic_compare_exchange_strong(&k->last_used, &last, now);
}

static int refuse(struct auth *a, enum auth_cause cause, struct err *e)
{
    a->refused[cause]++;
    if (cause == AUTH_SCOPE) return err_set(e, ERR_FORBIDDEN, "The role of this API key does not allow this.");
    return err_set(e, ERR_UNAUTHORIZED, AUTH_REFUSED);
}

static enum auth_cause judge(const struct key *k, const uint8_t hash[32], bool admin, const char *tenant,
                             unsigned scope, int64_t now)
{
    static const uint8_t nothing[SHA256_BYTES];
    bool equal = bytes_equal_ct(hash, k ? k->hash : nothing, SHA256_BYTES);
    if (!k || k->admin != admin) return AUTH_UNKNOWN;
    if (!equal) return AUTH_WRONG_SECRET;
    if (k->expires && now >= k->expires) return AUTH_EXPIRED;
    if (tenant && strcmp(tenant, k->who.tenant_name) != 0) return AUTH_OTHER_TENANT;
    return (k->who.scopes & scope) == scope ? AUTH_CAUSES : AUTH_SCOPE;
}

static int check(struct auth *a, const char *bearer, bool admin, const char *tenant, unsigned scope,
                 struct principal *out, struct err *e)
{
    char id[KEY_ID_LEN], secret[44];
    uint8_t hash[SHA256_BYTES];
    bool is_admin;
    if (!bearer) return refuse(a, AUTH_NO_KEY, e);
    if (!auth_key_parse(bearer, &is_admin, id, secret) || is_admin != admin) return refuse(a, AUTH_MALFORMED, e);
    auth_key_hash(db_pepper(a->db), secret, hash);
    explicit_bzero(secret, sizeof secret);
    int64_t now = clock_wall_us();
    struct snapshot *s = snapshot_ref(a);
    struct key *k = snapshot_find(s, id);
    enum auth_cause cause = judge(k, hash, admin, tenant, scope, now);
    if (cause == AUTH_CAUSES) {
        *out = k->who;
        note_use(k, now);
    }
    snapshot_unref(a, s);
    return cause == AUTH_CAUSES ? 0 : refuse(a, cause, e);
}

int auth_check(struct auth *a, const char *bearer, const char *tenant_in_path, unsigned scope, struct principal *out,
               struct err *e)
{
    return check(a, bearer, false, tenant_in_path, scope, out, e);
}

int auth_check_admin(struct auth *a, const char *bearer, unsigned scope, struct principal *out, struct err *e)
{
    return check(a, bearer, true, NULL, scope, out, e);
}

bool auth_is_private(struct auth *a, const char *key)
{
    struct snapshot *s = snapshot_ref(a);
    const struct key *k = snapshot_find(s, key);
    bool private = k && k->who.private;
    snapshot_unref(a, s);
    return private;
}

bool auth_still(struct auth *a, const struct principal *who, unsigned scope)
{
    struct snapshot *s = snapshot_ref(a);
    const struct key *k = snapshot_find(s, who->key);
    bool good = k && strcmp(k->who.tenant, who->tenant) == 0 && (k->who.scopes & scope) == scope &&
                (!k->expires || clock_wall_us() < k->expires);
    snapshot_unref(a, s);
    return good;
}

int64_t auth_refused(const struct auth *a, enum auth_cause cause)
{
    return a->refused[cause];
}

struct db *auth_db(struct auth *a)
{
    return a->db;
}
