/* stats_rank: the largest names of a time, exactly, without reading all of them (see stats.h).
 *
 * One tenant's names, and dimensions that everybody has rows of, are read whole. Everybody's keys, adapters, versions and models are tens of thousands
 * of names a day; but each is a part of its tenant's sum. So tenants are taken from the largest down, and when the next tenant's whole sum is no more
 * than the smallest of the names that are wanted, no name of those left can be among them. Usage is uneven, so that is soon: with a thousand tenants
 * the top ten adapters need some fifteen of them. What adjustments took off a tenant is added to its bound again.
 *
 *     tenants by sum:  A 900 | B 400 | C 90 | D 80 ...     wanted: 2      A/x 500, B/y 300 -> C's 90 < 300: done
 *
 * A model that is a base's own name is the same for all tenants and counted once; any other belongs to the tenant that called it. */
#include "base/json.h"
#include "gateway/stats/stats.h"
#include <stdio.h>
#include <string.h>

static const enum rollup_dim dims[STATS_BYS] = {
    [BY_NONE] = DIM_STATE,   [BY_TENANT] = DIM_TENANT, [BY_KEY] = DIM_KEY,   [BY_ADAPTER] = DIM_BILL,      [BY_VERSION] = DIM_BILL,
    [BY_MODEL] = DIM_MODEL,  [BY_BASE] = DIM_BILL,     [BY_STATE] = DIM_STATE, [BY_ENDPOINT] = DIM_ENDPOINT,
};

static bool of_tenants(enum stats_by by) { return by == BY_KEY || by == BY_ADAPTER || by == BY_VERSION || by == BY_MODEL; }

struct rank {
    const struct stats_read *x;
    enum stats_by by;
    enum stats_measure measure;
    const char *owner;
    struct stats_tally *t;
    int64_t best[STATS_TOP_MAX]; /* the largest so far, in falling order */
    int most, nbest;
};

static int add_row(void *u, const struct stats_row *row, struct err *e)
{
    struct rank *k = u;
    bool own = k->by == BY_TENANT, shared = k->by == BY_MODEL && *row->base;
    if (shared && *k->owner && !k->x->tenant) return 0; /* counted with everybody's */
    const char *name = k->by == BY_NONE ? "" : k->by == BY_BASE ? row->base : row->name;
    return stats_tally_add(k->t, own ? row->name : k->owner, name, k->by == BY_VERSION ? row->version : 0, &row->sums, e);
}

static int add_bound(void *u, const struct stats_row *row, struct err *e)
{
    struct stats_sums s = row->sums;
    for (int i = 0; i < STATS_SUMS && row->price == ROLLUP_PRICE_ADJUSTED; i++) s.v[i] = s.v[i] < 0 ? -s.v[i] : s.v[i];
    return stats_tally_add(u, "", row->name, 0, &s, e);
}

static void note_best(struct rank *k, int from)
{
    for (int i = from; i < k->t->n; i++) {
        int64_t v = stats_measured(&k->t->item[i].sums, k->measure);
        int at = k->nbest;
        while (at > 0 && k->best[at - 1] < v) at--;
        if (at >= k->most) continue;
        int moved = (k->nbest < k->most ? k->nbest : k->most - 1) - at;
        memmove(&k->best[at + 1], &k->best[at], (size_t)moved * sizeof *k->best);
        k->best[at] = v;
        k->nbest += k->nbest < k->most;
    }
}

static int rank_tenants(struct rank *k, const struct stats_tally *tenants, const struct stats_range *r, struct err *e)
{
    for (int i = 0; i < tenants->n; i++) {
        const struct stats_item *of = &tenants->item[i];
        if (k->nbest == k->most && k->best[k->most - 1] >= stats_measured(&of->sums, k->measure)) break;
        int from = k->t->n;
        k->owner = of->name;
        if (stats_names(k->x, of->name, dims[k->by], NULL, r, add_row, k, e)) return -1;
        note_best(k, from);
    }
    return 0;
}

static int rank_all(struct rank *k, const struct stats_range *r, struct err *e)
{
    struct stats_tally tenants;
    if (k->by == BY_MODEL && stats_names(k->x, "", DIM_MODEL, NULL, r, add_row, k, e)) return -1;
    note_best(k, 0);
    if (stats_tally_init(&tenants, e)) return -1;
    int rc = stats_tenants(k->x, r, add_bound, &tenants, e);
    stats_tally_sort(&tenants, k->measure);
    if (rc == 0) rc = rank_tenants(k, &tenants, r, e);
    stats_tally_close(&tenants);
    return rc;
}

int stats_rank(const struct stats_read *x, enum stats_by by, enum stats_measure m, int most, const struct stats_range *r, struct stats_tally *t, struct err *e)
{
    struct rank k = {.x = x, .by = by, .measure = m, .owner = x->tenant ? x->tenant : "", .t = t, .most = most};
    int rc;
    if (by == BY_TENANT && !x->tenant)
        rc = stats_tenants(x, r, add_row, &k, e);
    else if (of_tenants(by) && !x->tenant)
        rc = rank_all(&k, r, e);
    else
        rc = stats_names(x, k.owner, dims[by], x->adapter, r, add_row, &k, e);
    if (rc == 0) stats_tally_sort(t, m);
    return rc;
}

struct item_walk {
    enum stats_by by;
    const struct stats_item *it;
    stats_each *each;
    void *user;
};

static int item_row(void *u, const struct stats_row *row, struct err *e)
{
    struct item_walk *w = u;
    if (w->by == BY_VERSION && row->version != w->it->version) return 0;
    if (w->by == BY_BASE && strcmp(row->base, w->it->name) != 0) return 0;
    return w->each(w->user, row, e);
}

static const char *item_name(const struct stats_read *x, enum stats_by by, const struct stats_item *it)
{
    return by == BY_NONE || by == BY_BASE ? x->adapter : it->name;
}

int stats_item_rows(const struct stats_read *x, enum stats_by by, const struct stats_item *it, const struct stats_range *r, stats_each *each, void *u,
                    struct err *e)
{
    struct item_walk w = {by, it, each, u};
    return stats_days(x, by == BY_TENANT ? "" : it->owner, dims[by], item_name(x, by, it), r, item_row, &w, e);
}

static int add_sums(void *u, const struct stats_row *row, struct err *e)
{
    (void)e;
    stats_add(u, &row->sums);
    return 0;
}

int stats_item_sums(const struct stats_read *x, enum stats_by by, const struct stats_item *it, const struct stats_range *r, struct stats_sums *out,
                    struct err *e)
{
    struct item_walk w = {by, it, add_sums, out};
    *out = (struct stats_sums){{0}};
    return stats_names(x, by == BY_TENANT ? "" : it->owner, dims[by], item_name(x, by, it), r, item_row, &w, e);
}

/* --- names --- */

static int lookup(const struct stats_read *x, const char *sql, const char *id, json_t **out, struct err *e)
{
    sqlite3_stmt *st = db_stmt(x->d, x->c, sql, e);
    if (!st || db_bind(st, e, "s", id)) return -1;
    int rc = db_row(st, e);
    *out = json_string(rc == 1 ? db_text(st, 0) : id); /* usage may name what is gone */
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int label(const struct stats_read *x, enum stats_by by, const struct stats_item *it, json_t **out, struct err *e)
{
    static const char tenant[] = "SELECT name FROM tenant WHERE id = ?1", key[] = "SELECT name FROM api_key WHERE id = ?1";
    int64_t state = *it->name >= '0' && *it->name <= '9' ? *it->name - '0' : USAGE_STATES;
    switch (by) {
    case BY_TENANT: return lookup(x, tenant, it->name, out, e);
    case BY_KEY: return lookup(x, key, it->name, out, e);
    case BY_STATE: *out = json_string(state < USAGE_STATES ? usage_state_name[state] : "unknown"); return 0;
    case BY_NONE: *out = json_string("all"); return 0;
    case BY_VERSION: *out = *it->name ? json_sprintf("%s@%lld", it->name, (long long)it->version) : json_string("(base)"); return 0;
    default: *out = json_string(*it->name ? it->name : "(base)"); return 0;
    }
}

json_t *stats_item_json(const struct stats_read *x, enum stats_by by, const struct stats_item *it, struct err *e)
{
    static const char tenant[] = "SELECT name FROM tenant WHERE id = ?1";
    json_t *name = NULL, *of = NULL, *o = NULL;
    bool owned = of_tenants(by) && *it->owner;
    if (label(x, by, it, &name, e) || (owned && lookup(x, tenant, it->owner, &of, e))) goto out;
    o = json_pack("{sO}", "name", name);
    if (o && (by == BY_TENANT || by == BY_KEY)) json_object_set_new(o, "id", json_string(it->name));
    if (o && of) json_object_set(o, "tenant", of);
    if (!o) err_set(e, ERR_NO_MEMORY, "no memory for names");
out:
    json_decref(name);
    json_decref(of);
    return o;
}
