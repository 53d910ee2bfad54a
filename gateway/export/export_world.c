/* export_world: names and prices for exports (see export_world.h).
 *
 * Both caches are tables of sets of four places by a hash of the key; the place that was filled longest ago makes room. Sizes are for a thousand
 * tenants that alternate row by row; more cost a read of some ten microseconds now and then, never memory. A price that was removed since is found
 * where its words were kept (price_of_row): a bill must be explained also after the price list was cleaned up. */
#include "gateway/export/export_world.h"
#include "base/sha256.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 2000
#define SET_BITS 10
#define SETS (1 << SET_BITS)
#define WAYS 4

struct tenant {
    char id[UUID_LEN], name[72];
};

struct known_price {
    int64_t row;
    bool found;
    struct price price;
};

struct export_world {
    struct db *db;
    struct prices *prices;
    const char *currency, *provider;
    struct tenant tenant[SETS][WAYS];
    struct known_price price[SETS][WAYS];
    uint8_t next_tenant[SETS], next_price[SETS];
};

int export_world_new(struct export_world **out, struct db *d, struct prices *prices, const char *currency, const char *provider, struct err *e)
{
    struct export_world *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NO_MEMORY, "no memory for an export");
    w->db = d;
    w->prices = prices;
    w->currency = currency;
    w->provider = *provider ? provider : "Weft";
    *out = w;
    return 0;
}

void export_world_free(struct export_world *w) { free(w); }

const char *world_currency(const struct export_world *w) { return w->currency; }

const char *world_provider(const struct export_world *w) { return w->provider; }

/* Fibonacci hashing: the upper bits of the product hang on all of h. */
static size_t set_of(uint64_t h)
{
    return (size_t)((h * 0x9e3779b97f4a7c15u) >> (64 - SET_BITS));
}

/* Ids differ at their ends. */
static uint64_t hash_id(const char *id)
{
    uint64_t h = 0;
    size_t n = strlen(id), k = n < sizeof h ? n : sizeof h;
    memcpy(&h, id + n - k, k);
    return h;
}

/* --- tenants --- */

static int read_name(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT name FROM tenant WHERE id = ?1";
    struct tenant *t = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", t->id)) return -1;
    int rc = db_row(st, e);
    if (rc >= 0) snprintf(t->name, sizeof t->name, "%s", rc ? db_text(st, 0) : t->id);
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

int world_tenant(struct export_world *w, const char *id, const char **name, struct err *e)
{
    size_t set = set_of(hash_id(id));
    struct tenant fresh = {.name = ""};
    for (int i = 0; i < WAYS; i++)
        if (strcmp(w->tenant[set][i].id, id) == 0) {
            *name = w->tenant[set][i].name;
            return 0;
        }
    snprintf(fresh.id, sizeof fresh.id, "%s", id);
    if (db_read(w->db, read_name, &fresh, READ_MS, e)) return -1;
    struct tenant *t = &w->tenant[set][w->next_tenant[set]++ % WAYS];
    *t = fresh;
    *name = t->name;
    return 0;
}

/* --- prices --- */

static int read_price(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct known_price *k = u;
    int rc = price_of_row(d, c, k->row, &k->price, e);
    k->found = rc == 1;
    return rc < 0 ? -1 : 0;
}

int world_price(struct export_world *w, int64_t row, struct price *out, struct err *e)
{
    size_t set = set_of((uint64_t)row);
    struct known_price fresh = {.row = row};
    const struct known_price *k = NULL;
    *out = (struct price){0};
    if (!row) return 1;
    for (int i = 0; i < WAYS && !k; i++)
        if (w->price[set][i].row == row) k = &w->price[set][i];
    if (!k) {
        if (db_read(w->db, read_price, &fresh, READ_MS, e)) return -1;
        struct known_price *place = &w->price[set][w->next_price[set]++ % WAYS];
        *place = fresh;
        k = place;
    }
    *out = k->price;
    return k->found;
}

struct price world_list_price(struct export_world *w, const char *base, int64_t wall_us, const struct price *paid)
{
    struct price list = w->prices ? price_of(w->prices, base, "", "", wall_us) : (struct price){0};
    return list.row ? list : *paid;
}
