/* alias: which version answers, chosen in memory from one snapshot.
 *
 *     NAME@N                    -> that version
 *     NAME, an alias, weighted  -> one of the targets that can serve, by the point and their weights
 *     NAME, an alias, fallback  -> those that can serve, in order
 *     NAME                      -> the newest ready version
 *
 * What a request got is held before the choice is given out, and only where the snapshot is still the one that was asked:
 * so when a version has left the snapshot and nobody holds it, nobody ever will, and its bytes may go (registry_change.c).
 * A snapshot that changed meanwhile is asked again; changes are rare, so TRIES is never met.
 *
 * A weighted target that can't serve (quarantined, its base not there) leaves its share to the others. */
#include "gateway/registry/alias.h"
#include "base/sha256.h"
#include "gateway/registry/alias_parts.h"
#include "gateway/registry/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIASES_MAX 1000000
#define TRIES 100
#define POINT_BITS 53

const char *const alias_policy_name[ALIAS_POLICIES] = {"weighted", "fallback"};
const char *const alias_sticky_name[ALIAS_STICKIES] = {"request", "user", "key"};

/* --- into the snapshot --- */

static struct alias_known *catalog_more_alias(struct catalog *g, struct err *e)
{
    if (g->naliases == ALIASES_MAX) {
        err_set(e, ERR_LEDGER, "more than %d aliases", ALIASES_MAX);
        return NULL;
    }
    if (g->naliases == g->aliases_cap) {
        size_t cap = g->aliases_cap ? 2 * g->aliases_cap : 16;
        struct alias_known *bigger = realloc(g->alias, cap * sizeof *bigger);
        if (!bigger) {
            err_set(e, ERR_NO_MEMORY, "no memory for %zu aliases", cap);
            return NULL;
        }
        g->alias = bigger;
        g->aliases_cap = cap;
    }
    g->alias[g->naliases] = (struct alias_known){0};
    return &g->alias[g->naliases++];
}

/* A column's text, or NULL where it is empty; false: no memory. */
static bool take_text(sqlite3_stmt *st, int column, char **out)
{
    *out = *db_text(st, column) ? strdup(db_text(st, column)) : NULL;
    return *out || !*db_text(st, column);
}

static int read_alias(sqlite3_stmt *st, struct alias_known *a, struct err *e)
{
    snprintf(a->tenant, sizeof a->tenant, "%s", db_text(st, 1));
    snprintf(a->name, sizeof a->name, "%s", db_text(st, 2));
    a->row = sqlite3_column_int64(st, 0);
    a->revision = sqlite3_column_int64(st, 6);
    a->policy = strcmp(db_text(st, 3), alias_policy_name[ALIAS_FALLBACK]) == 0 ? ALIAS_FALLBACK : ALIAS_WEIGHTED;
    for (int i = 0; i < ALIAS_STICKIES; i++)
        if (strcmp(db_text(st, 4), alias_sticky_name[i]) == 0) a->sticky = (enum alias_sticky)i;
    bool had = take_text(st, 5, &a->prefix);
    for (int i = 0; i < ALIAS_PARTS; i++) had = had && take_text(st, 11 + i, &a->part[i]);
    return had ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an alias");
}

static void read_target(sqlite3_stmt *st, struct alias_known *a)
{
    if (sqlite3_column_type(st, 8) == SQLITE_NULL || a->ntargets == ALIAS_TARGETS) return; /* no target at all */
    struct alias_target_known *t = &a->target[a->ntargets++];
    snprintf(t->adapter, sizeof t->adapter, "%s", db_text(st, 7));
    t->version = sqlite3_column_int(st, 8);
    snprintf(t->base, sizeof t->base, "%s", db_text(st, 9));
    t->weight = sqlite3_column_int(st, 10);
}

int alias_load(struct db *d, sqlite3 *c, struct catalog *g, struct err *e)
{
    static const char sql[] =
        "SELECT l.row, l.tenant, l.name, l.policy, l.sticky, l.system_prefix, l.revision, a.name, t.version, t.base, "
        "t.weight, " ALIAS_PART_COLUMNS
        " FROM alias l LEFT JOIN alias_target t ON t.alias = l.row LEFT JOIN adapter a ON a.row = t.adapter"
        " ORDER BY l.tenant, l.name, t.position";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        struct alias_known *a = g->naliases ? &g->alias[g->naliases - 1] : NULL;
        if (!a || a->row != sqlite3_column_int64(st, 0)) {
            if (!(a = catalog_more_alias(g, e)) || read_alias(st, a, e)) return -1;
        }
        read_target(st, a);
    }
    return rc;
}

const struct alias_known *catalog_alias(const struct catalog *g, const char *tenant, const char *name)
{
    size_t lo = 0, hi = g->naliases;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int cmp = strcmp(g->alias[mid].tenant, tenant);
        if (cmp == 0) cmp = strcmp(g->alias[mid].name, name);
        if (cmp == 0) return &g->alias[mid];
        if (cmp < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* --- choosing --- */

uint64_t alias_point(const char *tenant, const char *name, const char *key)
{
    struct sha256 h;
    uint8_t sum[SHA256_BYTES];
    uint64_t v = 0;
    sha256_init(&h);
    sha256_add(&h, tenant, strlen(tenant) + 1); /* with the NUL, so that no two triples are one text */
    sha256_add(&h, name, strlen(name) + 1);
    sha256_add(&h, key, strlen(key));
    sha256_end(&h, sum);
    for (int i = 0; i < 8; i++) v = v << 8 | sum[i];
    return v >> (64 - POINT_BITS);
}

int alias_pick(const int *weight, int n, uint64_t point)
{
    uint64_t sum = 0, upto = 0;
    for (int i = 0; i < n; i++) sum += (uint64_t)weight[i];
    if (!sum) return -1;
    uint64_t at = (uint64_t)(((unsigned __int128)point * sum) >> POINT_BITS);
    for (int i = 0; i < n; i++)
        if (at < (upto += (uint64_t)weight[i])) return i;
    return -1;
}

static bool resolve_target(const struct catalog *g, const struct alias_ask *a, const struct alias_target_known *t,
                           struct target *out)
{
    if (!t->adapter[0]) {
        *out = (struct target){.is_base = true};
        memcpy(out->base, t->base, sizeof out->base);
        return a->served(a->u, t->base);
    }
    const struct known *k = catalog_find(g, a->tenant, t->adapter, t->version, a->served, a->u);
    if (k) *out = target_of(k);
    return k != NULL;
}

static const char *sticks_to(const struct alias_known *l, const struct alias_ask *a)
{
    if (l->sticky == ALIAS_KEY) return a->key;
    return l->sticky == ALIAS_USER && a->user && *a->user ? a->user : a->request;
}

static int choose_weighted(const struct catalog *g, const struct alias_known *l, const struct alias_ask *a,
                           struct target *out)
{
    struct target can[ALIAS_TARGETS];
    int weight[ALIAS_TARGETS];
    for (int i = 0; i < l->ntargets; i++)
        weight[i] = resolve_target(g, a, &l->target[i], &can[i]) ? l->target[i].weight : 0;
    int at = alias_pick(weight, l->ntargets, alias_point(a->tenant, l->name, sticks_to(l, a)));
    if (at >= 0) *out = can[at];
    return at >= 0;
}

static int choose_chain(const struct catalog *g, const struct alias_known *l, const struct alias_ask *a,
                        struct target out[ALIAS_CHAIN])
{
    int n = 0;
    for (int i = 0; i < l->ntargets && n < ALIAS_CHAIN; i++) n += resolve_target(g, a, &l->target[i], &out[n]);
    return n;
}

/* How many targets; 0: not found. *by is the alias that led there, in the snapshot, or NULL. */
static int choose(const struct catalog *g, const struct alias_ask *a, struct target out[ALIAS_CHAIN],
                  const struct alias_known **by)
{
    char name[NAME_MAX_LEN + 1];
    int version;
    *by = NULL;
    if (!model_split(a->model, name, &version)) return 0;
    const struct alias_known *l = version ? NULL : catalog_alias(g, a->tenant, name);
    if (l) {
        *by = l;
        return l->policy == ALIAS_FALLBACK ? choose_chain(g, l, a, out) : choose_weighted(g, l, a, out);
    }
    const struct known *k = catalog_find(g, a->tenant, name, version, a->served, a->u);
    if (k) out[0] = target_of(k);
    return k != NULL;
}

static bool copy_text(const char *from, char **out)
{
    return !from || (*out = strdup(from));
}

static bool copy_texts(const struct alias_known *from, struct choice *out)
{
    bool whole = copy_text(from->prefix, &out->prefix);
    for (int i = 0; i < ALIAS_PARTS; i++) whole = whole && copy_text(from->part[i], &out->part[i]);
    return whole;
}

/* 0, -1, or 1 where the snapshot changed meanwhile. */
static int choose_now(struct registry *r, const struct alias_ask *a, struct choice *out, struct err *e)
{
    struct choice c = {.n = 0};
    const struct alias_known *by;
    struct catalog *g = catalog_ref(r);
    c.n = choose(g, a, c.target, &by);
    c.aliased = by != NULL;
    int rc = c.n ? registry_hold(r, g, c.target, c.n) : 0;
    if (rc < 0) err_set(e, ERR_NO_MEMORY, "no memory for the request");
    if (rc == 0 && by && c.n && !copy_texts(by, &c)) {
        choice_close(r, &c);
        rc = err_set(e, ERR_NO_MEMORY, "no memory for the request");
    }
    catalog_unref(r, g);
    if (rc == 0) *out = c;
    return rc;
}

/* The asker's own, so that it may be told. An alias whose targets are all gone is as absent as before. */
static bool in_quarantine(struct registry *r, const struct alias_ask *a)
{
    char name[NAME_MAX_LEN + 1];
    int version;
    if (!model_split(a->model, name, &version)) return false;
    struct catalog *g = catalog_ref(r);
    bool is = catalog_in(g, a->tenant, name, version, VERSION_QUARANTINED);
    catalog_unref(r, g);
    return is;
}

int alias_choose(struct registry *r, const struct alias_ask *a, struct choice *out, struct err *e)
{
    int rc = 1;
    for (int i = 0; i < TRIES && rc > 0; i++) rc = choose_now(r, a, out, e);
    if (rc > 0) return err_set(e, ERR_UNAVAILABLE, "the adapters change too fast; try again");
    if (rc < 0 || out->n) return rc;
    if (in_quarantine(r, a))
        return err_field(e, ERR_QUARANTINED, "model", "`%.200s` is in quarantine: its adapter took engines down or gave values that are not finite; restore it to have it tested anew.",
                         a->model);
    return err_field(e, ERR_MODEL_NOT_FOUND, "model",
                     "The model `%.200s` does not exist or you do not have access to it.", a->model);
}

void choice_close(struct registry *r, struct choice *c)
{
    for (int i = 0; i < c->n; i++)
        if (!c->target[i].is_base) registry_release(r, c->target[i].digest);
    free(c->prefix);
    for (int i = 0; i < ALIAS_PARTS; i++) free(c->part[i]);
    *c = (struct choice){.n = 0};
}

/* --- what it still says --- */

static bool any_base(void *u, const char *base)
{
    (void)u, (void)base;
    return true;
}

static bool leads_to(const struct catalog *g, const struct alias_known *l, const struct alias_target_known *t, const char *version)
{
    char text[sizeof ((struct known *)0)->base + NAME_MAX_LEN + 16];
    const struct known *k = *t->adapter ? catalog_find(g, l->tenant, t->adapter, t->version, any_base, NULL) : NULL;
    if (l->policy == ALIAS_WEIGHTED && !t->weight) return false;
    if (*t->adapter && !k) return false;
    if (k) snprintf(text, sizeof text, "%s@%d", k->name, k->version);
    else snprintf(text, sizeof text, "base:%s", t->base);
    return strcmp(text, version) == 0;
}

bool alias_still(struct registry *r, const char *tenant, const char *name, enum alias_part part, const char *version, bool (*says)(const char *text, const void *u), const void *u)
{
    struct catalog *g = catalog_ref(r);
    const struct alias_known *l = catalog_alias(g, tenant, name);
    bool leads = false;
    for (int i = 0; l && i < l->ntargets && !leads; i++) leads = leads_to(g, l, &l->target[i], version);
    bool is = leads && l->part[part] && says(l->part[part], u);
    catalog_unref(r, g);
    return is;
}

bool alias_has(struct registry *r, const char *tenant, const char *name, enum alias_part part)
{
    struct catalog *g = catalog_ref(r);
    const struct alias_known *l = catalog_alias(g, tenant, name);
    bool has = l && l->part[part];
    catalog_unref(r, g);
    return has;
}
