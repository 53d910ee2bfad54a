/* export_focus: usage as FOCUS 1.2 charges (FinOps Open Cost and Usage Specification, focus.finops.org/focus-specification/v1-2).
 *
 *     request      -> up to three charges of category Usage, one a meter that counted something: input, cached input and output tokens, each
 *                     with its own unit price, so that price x quantity = cost holds to the nano-unit in every line
 *     adjustment   -> one charge, Credit (below zero) or Adjustment; of class Correction where it corrects a request of an earlier month
 *
 * A request that used nothing and cost nothing is no charge and has no line. Where the price of a request is not known any more, or its cost was cut
 * to PRICE_COST_MAX, it is one charge of one request at its cost: the sum is always the ledger's. The list price is what the base costs everybody,
 * the contracted price what the tenant paid; there are no further discounts, so billed = effective = contracted cost. A charge's period is the hour
 * of the request's start, its billing period the month. The tenant is the billing account.
 *
 * Columns: all mandatory ones, the conditional ones that apply here, and our own with x_ before them. x_RequestId comes first, for whoever resumes.
 * Null is an empty field. */
#include "gateway/export/export_rows.h"
#include "gateway/export/export_world.h"

#define NANO_NULL INT64_MIN
#define HOUR 3600
#define JOINED_LEN 192

/* A charge, and what all charges of a row have in common. NULL texts and NANO_NULL numbers are null. */
struct charge {
    const char *request, *account, *account_name, *currency, *provider, *category, *class, *description, *frequency, *pricing_category, *pricing_unit,
        *resource_id, *resource_name, *resource_type, *sku, *meter, *consumed_unit, *key, *model, *alias, *base, *endpoint, *state, *adjusts;
    int64_t cost, list_cost, list_price, price, quantity, consumed, hour, hour_end, month, month_end, start_us, version, price_id, cost_nano;
};

enum kind { TEXT, FIXED, NANO, INT, SECOND, MICRO };

static const struct column {
    const char *name;
    enum kind kind;
    size_t at;
    const char *fixed;
} columns[] = {
#define C(name, kind, field) {name, kind, offsetof(struct charge, field), NULL}
    C("x_RequestId", TEXT, request),
    C("BilledCost", NANO, cost),
    C("BillingAccountId", TEXT, account),
    C("BillingAccountName", TEXT, account_name),
    C("BillingCurrency", TEXT, currency),
    C("BillingPeriodEnd", SECOND, month_end),
    C("BillingPeriodStart", SECOND, month),
    C("ChargeCategory", TEXT, category),
    C("ChargeClass", TEXT, class),
    C("ChargeDescription", TEXT, description),
    C("ChargeFrequency", TEXT, frequency),
    C("ChargePeriodEnd", SECOND, hour_end),
    C("ChargePeriodStart", SECOND, hour),
    C("ConsumedQuantity", INT, consumed),
    C("ConsumedUnit", TEXT, consumed_unit),
    C("ContractedCost", NANO, cost),
    C("ContractedUnitPrice", NANO, price),
    C("EffectiveCost", NANO, cost),
    C("InvoiceIssuerName", TEXT, provider),
    C("ListCost", NANO, list_cost),
    C("ListUnitPrice", NANO, list_price),
    C("PricingCategory", TEXT, pricing_category),
    C("PricingQuantity", INT, quantity),
    C("PricingUnit", TEXT, pricing_unit),
    C("ProviderName", TEXT, provider),
    C("PublisherName", TEXT, provider),
    C("ResourceId", TEXT, resource_id),
    C("ResourceName", TEXT, resource_name),
    C("ResourceType", TEXT, resource_type),
    {"ServiceCategory", FIXED, 0, "AI and Machine Learning"},
    {"ServiceName", FIXED, 0, "Weft Inference"},
    {"ServiceSubcategory", FIXED, 0, "Generative AI"},
    C("SkuId", TEXT, sku),
    C("SkuMeter", TEXT, meter),
    C("SkuPriceId", TEXT, sku),
    C("x_AdapterVersion", INT, version),
    C("x_Adjusts", TEXT, adjusts),
    C("x_Alias", TEXT, alias),
    C("x_ApiKeyId", TEXT, key),
    C("x_Base", TEXT, base),
    C("x_CostNano", INT, cost_nano),
    C("x_Endpoint", TEXT, endpoint),
    C("x_Model", TEXT, model),
    C("x_PriceId", INT, price_id),
    C("x_StartedAt", MICRO, start_us),
    C("x_State", TEXT, state),
#undef C
};
#define COLUMNS (sizeof columns / sizeof *columns)

char *export_focus_head(char *at)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        if (i) *at++ = ',';
        at = text_word(at, columns[i].name);
    }
    return text_bytes(at, "\r\n", 2);
}

/* a/b */
static void join(char out[JOINED_LEN], const char *a, const char *b)
{
    char *at = text_bytes(out, a, strnlen(a, JOINED_LEN / 2));
    *at++ = '/';
    at = text_bytes(at, b, strnlen(b, JOINED_LEN / 2 - 2));
    *at = 0;
}

static char *put_value(char *at, const struct column *c, const struct charge *h, struct text_day *day)
{
    const void *field = (const char *)h + c->at;
    if (c->kind == FIXED) return text_word(at, c->fixed);
    if (c->kind == TEXT) {
        const char *s = *(const char *const *)field;
        return s && *s ? text_csv(at, s) : at;
    }
    int64_t v = *(const int64_t *)field;
    if (v == NANO_NULL) return at;
    switch (c->kind) {
    case NANO: return text_nano(at, v);
    case SECOND: return text_time_s(at, day, v);
    case MICRO: return text_time_us(at, day, v);
    default: return text_int(at, v);
    }
}

static char *put_charge(char *at, struct export_writer *w, const struct charge *h)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        if (i) *at++ = ',';
        at = put_value(at, &columns[i], h, &w->day);
    }
    w->sums.lines++;
    return text_bytes(at, "\r\n", 2);
}

/* --- a request's charges --- */

struct meter {
    const char *word, *name, *description;
};
static const struct meter meters[] = {
    {"input", "Input Tokens", "Input tokens"},
    {"cached_input", "Cached Input Tokens", "Input tokens that the prefix cache had"},
    {"output", "Output Tokens", "Output tokens"},
};
static const struct meter whole = {"request", "Requests", "Request at a price that is not listed any more"};
#define METERS (int)(sizeof meters / sizeof *meters)

static char *put_meter(char *at, struct export_writer *w, struct charge *h, const struct meter *m, int64_t quantity, int64_t price, int64_t list)
{
    char sku[JOINED_LEN];
    join(sku, h->base, m->word);
    h->sku = sku;
    h->meter = m->name;
    h->description = m->description;
    h->pricing_unit = h->consumed_unit = m == &whole ? "Requests" : "Tokens";
    h->quantity = h->consumed = quantity;
    h->price = price;
    h->list_price = list;
    h->cost = h->cost_nano = quantity * price;
    h->list_cost = quantity * list;
    return put_charge(at, w, h);
}

/* Products stay far from 2^63: PRICE_MAX by as many tokens as a row of PRICE_COST_MAX can have. */
static bool is_sum(const struct price *p, const int64_t quantity[METERS], int64_t cost)
{
    const int64_t price[] = {p->prompt, p->cached, p->output};
    int64_t sum = 0, part;
    for (int i = 0; i < METERS; i++)
        if (quantity[i] < 0 || __builtin_mul_overflow(quantity[i], price[i], &part) || __builtin_add_overflow(sum, part, &sum)) return false;
    return sum == cost;
}

static bool overflows(const struct price *list, const int64_t quantity[METERS])
{
    const int64_t price[] = {list->prompt, list->cached, list->output};
    int64_t part;
    for (int i = 0; i < METERS; i++)
        if (__builtin_mul_overflow(quantity[i], price[i], &part)) return true;
    return false;
}

static char *put_request(char *at, struct export_writer *w, struct charge *h, const struct usage_row *r, struct err *e)
{
    int64_t cached = r->cached < r->prompt ? r->cached : r->prompt;
    const int64_t quantity[] = {r->prompt - cached, cached, r->output};
    struct price paid, list;
    int found = world_price(w->world, r->price, &paid, e);
    if (found < 0) return NULL;
    h->category = "Usage";
    h->frequency = "Usage-Based";
    h->pricing_category = "Standard";
    if (!found || !is_sum(&paid, quantity, r->cost)) return r->cost ? put_meter(at, w, h, &whole, 1, r->cost, r->cost) : at;
    list = world_list_price(w->world, r->base, r->t_start, &paid);
    if (overflows(&list, quantity)) list = paid;
    const int64_t price[] = {paid.prompt, paid.cached, paid.output}, of_list[] = {list.prompt, list.cached, list.output};
    for (int i = 0; i < METERS; i++)
        if (quantity[i]) at = put_meter(at, w, h, &meters[i], quantity[i], price[i], of_list[i]);
    return at;
}

/* --- adjustments --- */

/* Does it correct what stood on an earlier month's bill? The month of a request is in its id (UUIDv7: 48 bits of milliseconds). */
static bool is_of_earlier_month(const struct usage_row *r, int64_t month)
{
    return r->adjusts && *r->adjusts && usage_id_time(r->adjusts) < month * 1000000;
}

static char *put_adjustment(char *at, struct export_writer *w, struct charge *h, const struct usage_row *r)
{
    h->category = r->cost < 0 ? "Credit" : "Adjustment";
    h->class = is_of_earlier_month(r, h->month) ? "Correction" : NULL;
    h->description = r->cost < 0 ? "Credit" : "Adjustment";
    h->frequency = "One-Time";
    h->cost = h->list_cost = h->cost_nano = r->cost;
    h->price = h->list_price = h->quantity = h->consumed = NANO_NULL;
    return put_charge(at, w, h);
}

char *export_focus_row(char *at, struct export_writer *w, const struct usage_row *r, struct err *e)
{
    int64_t start = r->t_start > 0 ? r->t_start / 1000000 : 0;
    char resource[JOINED_LEN];
    struct charge h = {
        .request = r->id, .account = r->tenant, .currency = world_currency(w->world), .provider = world_provider(w->world),
        .key = r->key, .model = r->model, .alias = r->alias, .base = r->base, .endpoint = r->endpoint,
        .state = r->state >= 0 && r->state < USAGE_STATES ? usage_state_name[r->state] : NULL, .adjusts = r->adjusts,
        .hour = start / HOUR * HOUR, .hour_end = start / HOUR * HOUR + HOUR, .month = text_month_start(start, 0), .month_end = text_month_start(start, 1),
        .start_us = r->t_start, .version = *r->adapter ? r->version : NANO_NULL, .price_id = r->price ? r->price : NANO_NULL,
    };
    if (world_tenant(w->world, r->tenant, &h.account_name, e)) return NULL;
    if (*r->adapter) {
        join(resource, r->tenant, r->adapter);
        h.resource_id = resource;
        h.resource_name = r->adapter;
        h.resource_type = "LoRA Adapter";
    }
    return r->adjusts ? put_adjustment(at, w, &h, r) : put_request(at, w, &h, r, e);
}
