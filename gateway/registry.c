/* registry: which adapter versions there are, answered from memory.
 *
 * Like auth's keys, the versions stand in a snapshot that is built from the database after each change and never
 * edited: an array sorted by (tenant, name, version descending), so a name is one binary search and its newest ready
 * version comes first. A lookup never waits for the database. The tenant is part of what is searched for: another
 * tenant's adapter is not found and then refused, it is not found, by the same code with the same words.
 *
 * What changes the rows is registry_change.c; it ends in registry_reload(). */
#include "gateway/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSIONS_MAX 1000000
#define LOAD_MS 60000
#define VERSION_DIGITS 9

const char *const version_state_name[] = {"uploading", "validating", "ready", "failed"};

static void catalog_free(struct catalog *g)
{
    if (!g) return;
    free(g->v);
    free(g->digests);
    free(g);
}

static struct catalog *catalog_ref(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    struct catalog *g = r->now;
    g->refs++;
    pthread_mutex_unlock(&r->lock);
    return g;
}

static void catalog_unref(struct registry *r, struct catalog *g)
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
    for (size_t i = 0; i < g->n; i++) g->digests[i] = g->v[i].digest;
    qsort(g->digests, g->n, sizeof *g->digests, by_text);
    return 0;
}

static int load(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "SELECT a.tenant, a.name, v.digest, v.base, a.row, v.row, v.version, v.state = 'ready' FROM adapter a"
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
        k->ready = sqlite3_column_int(st, 7);
    }
    return rc < 0 ? -1 : index_digests(g, e);
}

int registry_reload(struct registry *r, struct err *e)
{
    struct catalog *fresh = calloc(1, sizeof *fresh), *old = NULL;
    if (!fresh) return err_set(e, ERR_NO_MEMORY, "no memory for the registry");
    fresh->refs = 1;
    pthread_mutex_lock(&r->reloading);
    int rc = db_read(r->db, load, fresh, LOAD_MS, e);
    if (rc == 0) {
        pthread_mutex_lock(&r->lock);
        old = r->now;
        r->now = fresh;
        pthread_mutex_unlock(&r->lock);
    }
    pthread_mutex_unlock(&r->reloading);
    if (rc)
        catalog_free(fresh);
    else
        catalog_unref(r, old);
    return rc;
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
static bool split(const char *model, char name[NAME_MAX_LEN + 1], int *version)
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

static const struct known *find(const struct catalog *g, const char *tenant, const char *name, int version,
                                const char *base)
{
    for (size_t i = lower_bound(g, tenant, name); i < g->n; i++) {
        const struct known *k = &g->v[i];
        if (strcmp(k->tenant, tenant) != 0 || strcmp(k->name, name) != 0) return NULL;
        if (k->ready && (!version || k->version == version) && strcmp(k->base, base) == 0) return k;
    }
    return NULL;
}

static struct target target_of(const struct known *k)
{
    struct target t = {.adapter_row = k->adapter_row, .version_row = k->version_row, .version = k->version};
    memcpy(t.base, k->base, sizeof t.base);
    memcpy(t.adapter, k->name, sizeof t.adapter);
    memcpy(t.digest, k->digest, sizeof t.digest);
    return t;
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
    if (split(model, name, &version)) {
        struct catalog *g = catalog_ref(r);
        const struct known *k = find(g, tenant, name, version, base);
        if ((found = k != NULL)) *out = target_of(k);
        catalog_unref(r, g);
    }
    if (found) return 0;
    return err_field(e, ERR_MODEL_NOT_FOUND, "model",
                     "The model `%.200s` does not exist or you do not have access to it.", model);
}

bool registry_has_digest(struct registry *r, const char *digest)
{
    struct catalog *g = catalog_ref(r);
    bool found = bsearch(&digest, g->digests, g->n, sizeof *g->digests, by_text) != NULL;
    catalog_unref(r, g);
    return found;
}

int registry_count(struct registry *r, const char *tenant)
{
    struct catalog *g = catalog_ref(r);
    size_t first = lower_bound(g, tenant, ""), i = first;
    while (i < g->n && strcmp(g->v[i].tenant, tenant) == 0) i++;
    catalog_unref(r, g);
    return (int)(i - first);
}
