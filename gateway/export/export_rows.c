/* export_rows: usage rows as CSV and JSON lines (see export_rows.h; FOCUS stands in export_focus.c).
 *
 * Both formats are one table of columns: what is new in it is in both, under one name. A value that is not there (no first token, no adapter, no
 * alias) is an empty field or null. CSV is RFC 4180 with a line of names; texts that a spreadsheet might run are made harmless, numbers stay
 * numbers. JSON lines are one object a line. Room is reckoned once a row, so that nothing is checked in between. */
#include "gateway/export/export_rows.h"
#include "gateway/export/export_world.h"

enum kind {
    TEXT,
    TEXT_OR_NULL, /* "": none */
    INT,
    COUNT_OF_ADAPTER, /* null where there is no adapter */
    BOOL,
    STATE,
    SOURCE,
    TIME,         /* as text */
    TIME_OR_NULL, /* us; 0: none */
    TENANT,
    CURRENCY,
    KIND, /* request or adjustment */
};

static const struct column {
    const char *name;
    enum kind kind;
    size_t at;
} columns[] = {
#define AT(field) offsetof(struct usage_row, field)
    {"id", TEXT, AT(id)},
    {"time", TIME, AT(t_start)},
    {"kind", KIND, AT(adjusts)},
    {"tenant", TENANT, AT(tenant)},
    {"tenant_id", TEXT, AT(tenant)},
    {"api_key_id", TEXT_OR_NULL, AT(key)},
    {"model", TEXT, AT(model)},
    {"alias", TEXT_OR_NULL, AT(alias)},
    {"base", TEXT, AT(base)},
    {"adapter", TEXT_OR_NULL, AT(adapter)},
    {"version", COUNT_OF_ADAPTER, AT(version)},
    {"endpoint", TEXT, AT(endpoint)},
    {"stream", BOOL, AT(stream)},
    {"state", STATE, AT(state)},
    {"http_status", INT, AT(http_status)},
    {"finish_reason", TEXT_OR_NULL, AT(finish)},
    {"start_us", INT, AT(t_start)},
    {"first_us", TIME_OR_NULL, AT(t_first)},
    {"end_us", INT, AT(t_end)},
    {"input_tokens", INT, AT(prompt)},
    {"input_cached_tokens", INT, AT(cached)},
    {"output_tokens", INT, AT(output)},
    {"produced_tokens", INT, AT(produced)},
    {"count_source", SOURCE, AT(source)},
    {"price_id", INT, AT(price)},
    {"cost_nano", INT, AT(cost)},
    {"currency", CURRENCY, 0},
    {"attempt", INT, AT(attempt)},
    {"cold", BOOL, AT(cold)},
    {"load_us", INT, AT(load_us)},
    {"engine", TEXT_OR_NULL, AT(engine)},
    {"adjusts", TEXT_OR_NULL, AT(adjusts)},
    {"policy_before_tokens", INT, AT(before)},
    {"policy_after_tokens", INT, AT(after)},
#undef AT
};
#define COLUMNS (sizeof columns / sizeof *columns)

const struct export_kind export_kinds[EXPORT_FORMATS] = {
    [EXPORT_CSV] = {"csv", "text/csv; charset=utf-8; header=present", "csv"},
    [EXPORT_JSONL] = {"jsonl", "application/x-ndjson", "jsonl"},
    [EXPORT_FOCUS] = {"focus", "text/csv; charset=utf-8; header=present", "focus.csv"},
};

int export_format_of(const char *word)
{
    for (int i = 0; i < EXPORT_FORMATS; i++)
        if (strcmp(export_kinds[i].word, word) == 0) return i;
    return -1;
}

void export_begin(struct export_writer *w, enum export_format format, struct export_world *world, char *memory, size_t cap)
{
    *w = (struct export_writer){.format = format, .world = world, .out = memory, .cap = cap};
}

static char *csv_head(char *at)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        if (i) *at++ = ',';
        at = text_word(at, columns[i].name);
    }
    return text_bytes(at, "\r\n", 2);
}

void export_head(struct export_writer *w)
{
    char *at = w->out + w->len;
    if (w->format == EXPORT_CSV) at = csv_head(at);
    if (w->format == EXPORT_FOCUS) at = export_focus_head(at);
    w->len = (size_t)(at - w->out);
}

/* --- values --- */

/* A value as both formats begin from it: a text, or a number, or nothing. */
struct value {
    const char *text;
    int64_t number;
    enum { NONE, WORD, NUMBER, TRUTH, MOMENT } is;
};

static struct value word(const char *s) { return (struct value){.text = s, .is = WORD}; }

static struct value number(int64_t v) { return (struct value){.number = v, .is = NUMBER}; }

static struct value value_of(const struct column *c, const struct usage_row *r, const struct export_writer *w, const char *tenant)
{
    const void *field = (const char *)r + c->at;
    const char *text = c->kind <= TEXT_OR_NULL ? *(const char *const *)field : "";
    int64_t v = c->kind > TEXT_OR_NULL && c->kind < TENANT ? *(const int64_t *)field : 0;
    switch (c->kind) {
    case TEXT: return word(text);
    case TEXT_OR_NULL: return text && *text ? word(text) : (struct value){.is = NONE};
    case INT: return number(v);
    case COUNT_OF_ADAPTER: return *r->adapter ? number(v) : (struct value){.is = NONE};
    case BOOL: return (struct value){.number = v, .is = TRUTH};
    case STATE: return word(v >= 0 && v < USAGE_STATES ? usage_state_name[v] : "unknown");
    case SOURCE: return word(v >= 0 && v < COUNT_SOURCES ? count_source_name[v] : "unknown");
    case TIME: return (struct value){.number = v, .is = MOMENT};
    case TIME_OR_NULL: return v ? number(v) : (struct value){.is = NONE};
    case TENANT: return word(tenant);
    case CURRENCY: return word(world_currency(w->world));
    case KIND: return word(r->adjusts ? "adjustment" : "request");
    }
    return (struct value){.is = NONE};
}

static char *csv_value(char *at, struct export_writer *w, struct value v)
{
    switch (v.is) {
    case NONE: return at;
    case WORD: return text_csv(at, v.text);
    case NUMBER: return text_int(at, v.number);
    case TRUTH: return text_word(at, v.number ? "true" : "false");
    case MOMENT: return text_time_us(at, &w->day, v.number);
    }
    return at;
}

static char *csv_row(char *at, struct export_writer *w, const struct usage_row *r, const char *tenant)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        if (i) *at++ = ',';
        at = csv_value(at, w, value_of(&columns[i], r, w, tenant));
    }
    return text_bytes(at, "\r\n", 2);
}

static char *json_value(char *at, struct export_writer *w, struct value v)
{
    switch (v.is) {
    case NONE: return text_word(at, "null");
    case WORD: return text_json(at, v.text);
    case MOMENT:
        *at++ = '"';
        at = text_time_us(at, &w->day, v.number);
        *at++ = '"';
        return at;
    default: return csv_value(at, w, v);
    }
}

static char *json_row(char *at, struct export_writer *w, const struct usage_row *r, const char *tenant)
{
    for (size_t i = 0; i < COLUMNS; i++) {
        *at++ = i ? ',' : '{';
        *at++ = '"';
        at = text_word(at, columns[i].name);
        at = text_bytes(at, "\":", 2);
        at = json_value(at, w, value_of(&columns[i], r, w, tenant));
    }
    return text_bytes(at, "}\n", 2);
}

/* --- rows --- */

static size_t texts_of(const struct usage_row *r)
{
    const char *const texts[] = {r->id, r->tenant, r->key, r->base, r->adapter, r->model, r->alias, r->endpoint, r->finish, r->engine, r->adjusts};
    size_t n = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) n += texts[i] ? strlen(texts[i]) : 0;
    return n;
}

#define OTHER_TEXTS 256 /* the tenant's name, the provider's, words */

/* The texts stand once in a row of CSV or JSON, thrice or less in each of up to three lines of FOCUS. */
static size_t room_for(const struct export_writer *w, const struct usage_row *r)
{
    size_t texts = TEXT_GROWTH * (texts_of(r) + OTHER_TEXTS), fixed = COLUMNS * (TEXT_AROUND + TEXT_TIME + 24);
    return w->format == EXPORT_FOCUS ? 9 * texts + 3 * 2 * fixed : texts + fixed;
}

static void keep_id(char out[UUID_LEN], const char *id)
{
    size_t n = strnlen(id, UUID_LEN - 1);
    memcpy(out, id, n);
    out[n] = 0;
}

static void count(struct export_sums *s, const struct usage_row *r)
{
    if (!*s->first) keep_id(s->first, r->id);
    keep_id(s->last, r->id);
    s->requests += !r->adjusts;
    s->adjustments += r->adjusts != NULL;
    s->input += r->prompt;
    s->cached += r->cached;
    s->output += r->output;
    s->produced += r->produced;
    s->cost += r->cost;
}

int export_row(void *u, const struct usage_row *r, struct err *e)
{
    struct export_writer *w = u;
    size_t need = room_for(w, r);
    const char *tenant;
    if (need > EXPORT_ROW_MAX) return err_set(e, ERR_INTERNAL, "the usage row %.40s is too long", r->id);
    w->full = need > w->cap - w->len;
    if (w->full) return err_set(e, ERR_QUEUE_FULL, "the writer of an export is full");
    if (world_tenant(w->world, r->tenant, &tenant, e)) return -1;
    char *at = w->out + w->len;
    if (w->format == EXPORT_CSV) at = csv_row(at, w, r, tenant);
    if (w->format == EXPORT_JSONL) at = json_row(at, w, r, tenant);
    if (w->format == EXPORT_FOCUS) at = export_focus_row(at, w, r, e);
    if (!at) return -1;
    count(&w->sums, r);
    w->sums.lines += w->format != EXPORT_FOCUS; /* which counts its own */
    w->len = (size_t)(at - w->out);
    return 0;
}
