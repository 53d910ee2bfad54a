/* costs: what usage cost, day by day (see costs.h).
 *
 *     group_by                everybody                       one tenant
 *     nothing                 STATE of ''                     STATE
 *     tenant                  TENANT of ''                    STATE
 *     line_item               BILL of ''                      BILL
 *     adapter, tenant+item    BILL of each tenant             BILL
 *     key, model              KEY, MODEL of each tenant       KEY, MODEL
 *
 * Each day is added up and printed alone, so memory is that of a day. A part of a tenant (key, adapter, model) is always told with its tenant: two tenants'
 * adapters of one name are two things. */
#include "gateway/stats/costs_internal.h"
#include "base/clock.h"
#include "gateway/stats/stats_kept.h"
#include <stdio.h>
#include <string.h>

#define RESULTS_MAX 50000

const char *const costs_item_word[COSTS_ITEMS] = {"input", "cached input", "output", "tokens", "adjustment"};

/* --- a bill's parts --- */

static int find_price(const struct stats_read *x, struct costs_prices *known, int64_t row, struct costs_price *out, struct err *e)
{
    struct price p;
    for (int i = 0; i < known->n; i++)
        if (known->known[i].row == row) {
            *out = known->known[i];
            return 0;
        }
    int rc = price_of_row(x->d, x->c, row, &p, e);
    if (rc < 0) return -1;
    *out = rc ? (struct costs_price){row, {p.prompt, p.cached, p.output}} : (struct costs_price){row, {-1, -1, -1}};
    if (known->n < COSTS_PRICES) known->known[known->n++] = *out;
    return 0;
}

/* Is the cost what the tokens come to? It is not where a request's was cut to PRICE_COST_MAX, and then no line could say "tokens times price". In 128 bits:
 * a trillion tokens at a whole unit are more than 64 have; where the sum is the cost, its parts fit again, for none is below zero. */
static bool is_product(const int64_t tokens[3], const struct costs_price *p, int64_t cost)
{
    __int128 sum = 0;
    for (int i = 0; i < 3; i++) {
        if (tokens[i] < 0 || p->unit[i] < 0) return false;
        sum += (__int128)tokens[i] * p->unit[i];
    }
    return sum == cost;
}

int costs_split(const struct stats_read *x, struct costs_prices *p, int64_t price, const struct stats_sums *sums, struct costs_part part[COSTS_ITEMS],
                struct err *e)
{
    const int64_t *v = sums->v, tokens[3] = {v[SUM_INPUT] - v[SUM_CACHED], v[SUM_CACHED], v[SUM_OUTPUT]};
    struct costs_price unit = {0};
    struct costs_part all = {tokens[0] + tokens[1] + tokens[2], v[SUM_COST], -1, true};
    memset(part, 0, COSTS_ITEMS * sizeof *part);
    if (price != ROLLUP_PRICE_ADJUSTED && find_price(x, p, price, &unit, e)) return -1;
    if (price == ROLLUP_PRICE_ADJUSTED)
        part[ITEM_ADJUSTMENT] = all;
    else if (!is_product(tokens, &unit, v[SUM_COST]))
        part[ITEM_TOKENS] = all;
    else
        for (int i = 0; i < 3; i++) part[i] = (struct costs_part){tokens[i], tokens[i] * unit.unit[i], unit.unit[i], tokens[i] > 0};
    return 0;
}

/* --- a day --- */

struct costs {
    struct stats_read x;
    const struct costs_query *q;
    struct stats_range day;
    const char *owner;
    struct stats_tally t; /* owner, name, and as version the line item */
    struct costs_prices prices;
    struct buf *data;
    json_t *names; /* of tenants that were told, by id */
    int results;
};

static int add_parts(struct costs *k, const char *name, const struct stats_row *row, struct err *e)
{
    struct costs_part part[COSTS_ITEMS];
    if (costs_split(&k->x, &k->prices, row->price, &row->sums, part, e)) return -1;
    for (int i = 0; i < COSTS_ITEMS; i++) {
        struct stats_sums s = {.v = {[SUM_INPUT] = part[i].tokens, [SUM_COST] = part[i].amount}};
        if (part[i].there && stats_tally_add(&k->t, k->owner, name, i, &s, e)) return -1;
    }
    return 0;
}

static int add_row(void *u, const struct stats_row *row, struct err *e)
{
    struct costs *k = u;
    unsigned group = k->q->group;
    const char *name = group & (COSTS_KEY | COSTS_ADAPTER | COSTS_MODEL) ? row->name : "";
    if (group & COSTS_LINE_ITEM) return add_parts(k, name, row, e);
    bool by_tenant = group == COSTS_TENANT && !k->x.tenant;
    return stats_tally_add(&k->t, by_tenant ? row->name : k->owner, name, -1, &row->sums, e);
}

static enum rollup_dim dim_of(const struct costs *k)
{
    unsigned group = k->q->group;
    if (group & COSTS_KEY) return DIM_KEY;
    if (group & COSTS_MODEL) return DIM_MODEL;
    if (group & (COSTS_ADAPTER | COSTS_LINE_ITEM)) return DIM_BILL;
    return group & COSTS_TENANT && !k->x.tenant ? DIM_TENANT : DIM_STATE;
}

static int add_tenants_row(void *u, const struct stats_row *row, struct err *e)
{
    struct costs *k = u;
    k->owner = row->tenant;
    return add_row(k, row, e);
}

static int add_day(struct costs *k, struct err *e)
{
    unsigned group = k->q->group;
    bool each = group & (COSTS_KEY | COSTS_ADAPTER | COSTS_MODEL) || (group & COSTS_TENANT && group & COSTS_LINE_ITEM);
    if (each && !k->x.tenant) return stats_each_tenant(&k->x, dim_of(k), k->day.start, add_tenants_row, k, e);
    k->owner = k->x.tenant ? k->x.tenant : "";
    return stats_days(&k->x, k->owner, dim_of(k), NULL, &k->day, add_row, k, e);
}

/* --- printing: as text, for a tree of some thousand results took most of the time --- */

void costs_add_money(struct buf *b, int64_t nano)
{
    uint64_t v = nano < 0 ? 0 - (uint64_t)nano : (uint64_t)nano;
    char part[16];
    int n = snprintf(part, sizeof part, ".%09llu", (unsigned long long)(v % 1000000000));
    while (n > 2 && part[n - 1] == '0') n--;
    if (nano < 0) buf_addc(b, '-');
    buf_addu(b, v / 1000000000);
    buf_add(b, part, (size_t)n);
}

static void add_text(struct buf *b, const char *field, bool there, const char *text)
{
    buf_adds(b, field);
    if (there)
        buf_add_json(b, text, strlen(text));
    else
        buf_adds(b, "null");
}

/* NULL: failed. Good as long as k->names is. */
static const char *tenant_name(const struct costs *k, const char *id, struct err *e)
{
    struct stats_item it = {.owner = "", .name = id};
    const char *known = json_string_value(json_object_get(k->names, id));
    if (known) return known;
    json_t *o = stats_item_json(&k->x, BY_TENANT, &it, e);
    int rc = o ? json_object_set(k->names, id, json_object_get(o, "name")) : -1;
    json_decref(o);
    if (rc) err_set(e, ERR_NO_MEMORY, "no memory for costs");
    return rc ? NULL : json_string_value(json_object_get(k->names, id));
}

static int add_result(const struct costs *k, const struct stats_item *it, struct err *e)
{
    unsigned group = k->q->group;
    struct buf *b = k->data;
    bool shown = *it->owner && (group & COSTS_TENANT || !k->x.tenant), item = it->version >= 0;
    const char *adapter = *it->name ? it->name : "(base)", *tenant = shown ? tenant_name(k, it->owner, e) : "";
    if (!tenant) return -1;
    buf_adds(b, "{\"object\":\"organization.costs.result\",\"amount\":{\"value\":");
    costs_add_money(b, it->sums.v[SUM_COST]);
    add_text(b, ",\"currency\":", true, k->q->currency);
    buf_adds(b, "},\"amount_nano\":");
    buf_addi(b, it->sums.v[SUM_COST]);
    add_text(b, ",\"line_item\":", item, item ? costs_item_word[it->version] : "");
    buf_adds(b, ",\"quantity\":");
    if (item)
        buf_addi(b, it->sums.v[SUM_INPUT]);
    else
        buf_adds(b, "null");
    add_text(b, ",\"tenant\":", shown, tenant);
    add_text(b, ",\"project_id\":", shown, it->owner);
    add_text(b, ",\"api_key_id\":", group & COSTS_KEY, it->name);
    add_text(b, ",\"adapter\":", group & COSTS_ADAPTER, adapter);
    add_text(b, ",\"model\":", group & COSTS_MODEL, it->name);
    return buf_addc(b, '}') ? err_set(e, ERR_NO_MEMORY, "no memory for costs") : 0;
}

static int print_day(struct costs *k, struct err *e)
{
    struct buf *b = k->data;
    stats_tally_sort(&k->t, MEASURE_COST);
    buf_adds(b, k->day.start > k->q->start ? ",{\"object\":\"bucket\",\"start_time\":" : "{\"object\":\"bucket\",\"start_time\":");
    buf_addi(b, k->day.start);
    buf_adds(b, ",\"end_time\":");
    buf_addi(b, k->day.end);
    buf_adds(b, ",\"results\":[");
    for (int i = 0; i < k->t.n; i++) {
        if (k->results++ >= RESULTS_MAX) return err_field(e, ERR_INVALID, "limit", "More than %d results; ask for fewer days or groups.", RESULTS_MAX);
        if (i) buf_addc(b, ',');
        if (add_result(k, &k->t.item[i], e)) return -1;
    }
    return buf_adds(b, "]}") ? err_set(e, ERR_NO_MEMORY, "no memory for costs") : 0;
}

static int read_costs(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct costs *k = u;
    if (stats_begin(&k->x, d, c, e)) return -1;
    for (int64_t t = k->q->start; t < k->q->end; t += STATS_DAY) {
        k->day = (struct stats_range){t, t + STATS_DAY, STATS_DAY};
        if (stats_tally_init(&k->t, e)) return -1;
        int rc = add_day(k, e) || print_day(k, e);
        stats_tally_close(&k->t);
        if (rc) return -1;
    }
    return 0;
}

int costs_of_days(struct stats_kept *kept, const struct costs_query *asked, struct buf *data, int64_t *next, struct err *e)
{
    struct stats_range all = stats_range(asked->start, asked->end, STATS_DAY);
    struct costs_query q = *asked;
    int64_t page_end = all.start + (int64_t)q.limit * STATS_DAY;
    q.start = all.start;
    q.end = page_end < all.end ? page_end : all.end;
    struct costs k = {.x = {.tenant = q.tenant, .now = clock_wall_us() / 1000000, .kept = kept}, .q = &q, .data = data, .names = json_object()};
    buf_addc(data, '[');
    int rc = k.names ? db_read(stats_kept_db(kept), read_costs, &k, STATS_READ_MS, e) : err_set(e, ERR_NO_MEMORY, "no memory for costs");
    json_decref(k.names);
    if (rc || buf_addc(data, ']')) return rc ? -1 : err_set(e, ERR_NO_MEMORY, "no memory for costs");
    *next = page_end < all.end ? page_end : 0;
    return 0;
}
