/* registry: which adapter versions there are, answered from memory.
 *
 * Like auth's keys, the versions stand in a snapshot that is built from the database after each change and never
 * edited: an array sorted by (tenant, name, version descending), so a name is one binary search and its newest ready
 * version comes first. A lookup never waits for the database. The tenant is part of what is searched for: another
 * tenant's adapter is not found and then refused, it is not found, by the same code with the same words.
 *
 * What changes the rows is registry_change.c; it ends in registry_reload(). */
#include "gateway/registry/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSIONS_MAX 1000000
#define LOAD_MS 60000
#define VERSION_DIGITS 9

const char *const version_state_name[VERSION_STATES] = {"uploading", "validating",  "ready",   "failed",
                                                        "archived",  "quarantined", "deleting"};

static void catalog_free(struct catalog *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->naliases; i++) {
        free(g->alias[i].prefix);
        for (int k = 0; k < ALIAS_PARTS; k++) free(g->alias[i].part[k]);
    }
    free(g->alias);
    free(g->v);
    free(g->digests);
    free(g);
}

struct catalog *catalog_ref(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    struct catalog *g = r->now;
    g->refs++;
    pthread_mutex_unlock(&r->lock);
    return g;
}

void catalog_unref(struct registry *r, struct catalog *g)
{
    if (!g) return;
    pthread_mutex_lock(&r->lock);
    bool last = --g->refs == 0;
    pthread_mutex_unlock(&r->lock);
    if (last) catalog_free(g);
}

static struct known *catalog_more(struct catalog *g, struct err *e)
{
    if (g->n == VERSIONS_MAX) {
        err_set(e, ERR_LEDGER, "more than %d adapter versions", VERSIONS_MAX);
        return NULL;
    }
    if (g->n == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 64;
        struct known *bigger = realloc(g->v, cap * sizeof *bigger);
        if (!bigger) {
            err_set(e, ERR_NO_MEMORY, "no memory for %zu adapter versions", cap);
            return NULL;
        }
        g->v = bigger;
        g->cap = cap;
    }
    g->v[g->n] = (struct known){0};
    return &g->v[g->n++];
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int index_digests(struct catalog *g, struct err *e)
{
    g->digests = calloc(g->n + 1, sizeof *g->digests);
    if (!g->digests) return err_set(e, ERR_NO_MEMORY, "no memory for %zu digests", g->n);
    for (size_t i = 0; i < g->n; i++)
        if (g->v[i].state != VERSION_FAILED && g->v[i].digest[0]) g->digests[g->ndigests++] = g->v[i].digest;
    qsort(g->digests, g->ndigests, sizeof *g->digests, by_text);
    return 0;
}

static enum version_state read_state(const char *word)
{
    int i = VERSION_STATES - 1;
    while (i > 0 && strcmp(version_state_name[i], word) != 0) i--;
    return (enum version_state)i;
}

static int load(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "SELECT a.tenant, a.name, v.digest, v.base, a.row, v.row, v.version, v.state, v.bytes, v.pinned FROM adapter a"
        " JOIN version v ON v.adapter = a.row ORDER BY a.tenant, a.name, v.version DESC";
    struct catalog *g = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        struct known *k = catalog_more(g, e);
        if (!k) return -1;
        snprintf(k->tenant, sizeof k->tenant, "%s", db_text(st, 0));
        snprintf(k->name, sizeof k->name, "%s", db_text(st, 1));
        snprintf(k->digest, sizeof k->digest, "%s", db_text(st, 2));
        snprintf(k->base, sizeof k->base, "%s", db_text(st, 3));
        k->adapter_row = sqlite3_column_int64(st, 4);
        k->version_row = sqlite3_column_int64(st, 5);
        k->version = sqlite3_column_int(st, 6);
        k->state = read_state(db_text(st, 7));
        k->bytes = sqlite3_column_int64(st, 8);
        k->pinned = sqlite3_column_int(st, 9);
        g->in[k->state]++;
    }
    return rc < 0 || alias_load(d, c, g, e) ? -1 : index_digests(g, e);
}

int registry_reload(struct registry *r, struct err *e)
{
    struct catalog *fresh = calloc(1, sizeof *fresh), *old = NULL;
    atomic_fetch_add(&r->serial, 1);
    if (!fresh) return err_set(e, ERR_NO_MEMORY, "no memory for the registry");
    fresh->refs = 1;
    pthread_mutex_lock(&r->reloading);
    int rc = db_read(r->db, load, fresh, LOAD_MS, e);
    if (rc == 0) {
        pthread_mutex_lock(&r->lock);
        old = r->now;
        r->now = fresh;
        atomic_fetch_add(&r->serial, 1);
        pthread_mutex_unlock(&r->lock);
    }
    pthread_mutex_unlock(&r->reloading);
    if (rc)
        catalog_free(fresh);
    else
        catalog_unref(r, old);
    return rc;
}

uint64_t registry_serial(struct registry *r)
{
    return atomic_load(&r->serial);
}

int registry_open(struct registry **out, struct db *d, struct err *e)
{
    struct registry *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NO_MEMORY, "no memory for the registry");
    r->db = d;
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->reloading, NULL);
    if (registry_reload(r, e)) {
        registry_close(r);
        return -1;
    }
    *out = r;
    return 0;
}

void registry_close(struct registry *r)
{
    if (!r) return;
    catalog_free(r->now);
    for (int i = 0; i < HOLD_BUCKETS; i++)
        for (struct hold *h = r->hold[i], *next; h; h = next) {
            next = h->next;
            free(h);
        }
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->reloading);
    free(r);
}

/* The first index whose (tenant, name) is not less than these. */
static size_t lower_bound(const struct catalog *g, const char *tenant, const char *name)
{
    size_t lo = 0, hi = g->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int cmp = strcmp(g->v[mid].tenant, tenant);
        if (cmp == 0) cmp = strcmp(g->v[mid].name, name);
        if (cmp < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* NAME or NAME@VERSION; *version 0: the newest. */
bool model_split(const char *model, char name[NAME_MAX_LEN + 1], int *version)
{
    const char *at = strchrnul(model, '@');
    size_t n = (size_t)(at - model);
    if (n > NAME_MAX_LEN) return false;
    memcpy(name, model, n);
    name[n] = 0;
    *version = 0;
    if (!name_is_valid(name)) return false;
    if (!*at) return true;
    const char *digit = at + 1;
    size_t len = strspn(digit, "0123456789");
    if (len < 1 || len > VERSION_DIGITS || digit[len] || *digit == '0') return false;
    *version = (int)strtol(digit, NULL, 10);
    return true;
}

/* The end of what this name has, from its lower bound on. */
static size_t upper_bound(const struct catalog *g, size_t i, const char *tenant, const char *name)
{
    while (i < g->n && strcmp(g->v[i].tenant, tenant) == 0 && strcmp(g->v[i].name, name) == 0) i++;
    return i;
}

const struct known *catalog_find(const struct catalog *g, const char *tenant, const char *name, int version,
                                 bool (*served)(void *u, const char *base), void *u)
{
    size_t i = lower_bound(g, tenant, name), end = upper_bound(g, i, tenant, name);
    for (; i < end; i++) {
        const struct known *k = &g->v[i];
        if (k->state == VERSION_READY && (!version || k->version == version) && served(u, k->base)) return k;
    }
    return NULL;
}

bool catalog_in(const struct catalog *g, const char *tenant, const char *name, int version, enum version_state state)
{
    size_t i = lower_bound(g, tenant, name), end = upper_bound(g, i, tenant, name);
    for (; i < end; i++)
        if (g->v[i].state == state && (!version || g->v[i].version == version)) return true;
    return false;
}

const struct known *catalog_version(const struct catalog *g, const char *tenant, const char *name, int version)
{
    size_t i = lower_bound(g, tenant, name), end = upper_bound(g, i, tenant, name);
    while (i < end && g->v[i].version != version) i++;
    return i < end ? &g->v[i] : NULL;
}

struct target target_of(const struct known *k)
{
    struct target t = {.adapter_row = k->adapter_row, .version_row = k->version_row, .version = k->version};
    memcpy(t.base, k->base, sizeof t.base);
    memcpy(t.adapter, k->name, sizeof t.adapter);
    memcpy(t.digest, k->digest, sizeof t.digest);
    return t;
}

static bool is_this(void *u, const char *base)
{
    return strcmp(u, base) == 0;
}

int registry_resolve(struct registry *r, const char *tenant, const char *model, const char *base, struct target *out,
                     struct err *e)
{
    char name[NAME_MAX_LEN + 1];
    int version;
    if (strcmp(model, base) == 0) {
        *out = (struct target){.is_base = true};
        snprintf(out->base, sizeof out->base, "%s", base);
        return 0;
    }
    bool found = false;
    if (model_split(model, name, &version)) {
        struct catalog *g = catalog_ref(r);
        const struct known *k = catalog_find(g, tenant, name, version, is_this, (void *)base);
        if ((found = k != NULL)) *out = target_of(k);
        catalog_unref(r, g);
    }
    if (found) return 0;
    return err_field(e, ERR_MODEL_NOT_FOUND, "model",
                     "The model `%.200s` does not exist or you do not have access to it.", model);
}

/* --- holds --- */

static struct hold **find_hold(struct registry *r, const char *digest)
{
    unsigned h = 0;
    for (int i = 0; i < 8 && digest[i]; i++) h = h * 31 + (unsigned char)digest[i];
    struct hold **p = &r->hold[h % HOLD_BUCKETS];
    while (*p && strcmp((*p)->digest, digest) != 0) p = &(*p)->next;
    return p;
}

static int hold_one(struct registry *r, const char *digest)
{
    struct hold **p = find_hold(r, digest);
    if (!*p && !(*p = calloc(1, sizeof **p))) return -1;
    if (!(*p)->n++) memcpy((*p)->digest, digest, SHA256_HEX);
    return 0;
}

static void drop_one(struct registry *r, const char *digest)
{
    struct hold **p = find_hold(r, digest), *h = *p;
    if (!h || --h->n > 0) return;
    *p = h->next;
    free(h);
}

int registry_hold(struct registry *r, const struct catalog *g, const struct target *t, int n)
{
    int i = 0;
    pthread_mutex_lock(&r->lock);
    int rc = r->now == g ? 0 : 1;
    for (; rc == 0 && i < n; i++)
        if (!t[i].is_base && hold_one(r, t[i].digest)) {
            rc = -1;
            while (i-- > 0)
                if (!t[i].is_base) drop_one(r, t[i].digest);
        }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

void registry_release(struct registry *r, const char *digest)
{
    pthread_mutex_lock(&r->lock);
    drop_one(r, digest);
    pthread_mutex_unlock(&r->lock);
}

int registry_held(struct registry *r, const char *digest)
{
    pthread_mutex_lock(&r->lock);
    struct hold *h = *find_hold(r, digest);
    int n = h ? h->n : 0;
    pthread_mutex_unlock(&r->lock);
    return n;
}

/* --- what is asked of the snapshot --- */

bool registry_has_digest(struct registry *r, const char *digest)
{
    struct catalog *g = catalog_ref(r);
    bool found = bsearch(&digest, g->digests, g->ndigests, sizeof *g->digests, by_text) != NULL;
    catalog_unref(r, g);
    return found;
}

int registry_count(struct registry *r, const char *tenant, int64_t *bytes)
{
    struct catalog *g = catalog_ref(r);
    size_t first = lower_bound(g, tenant, ""), i = first;
    int64_t sum = 0;
    for (; i < g->n && strcmp(g->v[i].tenant, tenant) == 0; i++) sum += g->v[i].bytes;
    catalog_unref(r, g);
    if (bytes) *bytes = sum;
    return (int)(i - first);
}

int registry_count_in(struct registry *r, const char *tenant, enum version_state state)
{
    struct catalog *g = catalog_ref(r);
    int n = tenant ? 0 : g->in[state];
    for (size_t i = tenant ? lower_bound(g, tenant, "") : g->n; i < g->n && strcmp(g->v[i].tenant, tenant) == 0; i++) n += g->v[i].state == state;
    catalog_unref(r, g);
    return n;
}

bool registry_base_of(struct registry *r, const char *digest, char base[128])
{
    struct catalog *g = catalog_ref(r);
    size_t i = 0;
    while (i < g->n && strcmp(g->v[i].digest, digest) != 0) i++;
    bool found = i < g->n;
    if (found) memcpy(base, g->v[i].base, sizeof g->v[i].base);
    catalog_unref(r, g);
    return found;
}

bool registry_state(struct registry *r, const char *tenant, const char *name, int version, enum version_state *state,
                    char digest[SHA256_HEX])
{
    struct catalog *g = catalog_ref(r);
    const struct known *k = catalog_version(g, tenant, name, version);
    if (k) *state = k->state;
    if (k && digest) memcpy(digest, k->digest, SHA256_HEX);
    catalog_unref(r, g);
    return k != NULL;
}

int registry_newest(struct registry *r, const char *tenant, const char *name, unsigned states)
{
    struct catalog *g = catalog_ref(r);
    size_t i = lower_bound(g, tenant, name), end = upper_bound(g, i, tenant, name);
    while (i < end && !(states >> g->v[i].state & 1)) i++;
    int version = i < end ? g->v[i].version : 0;
    catalog_unref(r, g);
    return version;
}

void registry_each(struct registry *r, unsigned states, void (*fn)(void *u, const struct version_id *v), void *u)
{
    struct catalog *g = catalog_ref(r);
    for (size_t i = 0; i < g->n; i++) {
        const struct known *k = &g->v[i];
        struct version_id v = {.version = k->version, .pinned = k->pinned};
        if (!(states >> k->state & 1)) continue;
        memcpy(v.tenant, k->tenant, sizeof v.tenant);
        memcpy(v.name, k->name, sizeof v.name);
        memcpy(v.digest, k->digest, sizeof v.digest);
        fn(u, &v);
    }
    catalog_unref(r, g);
}
