/* The lines of `weft top`: totals, engines, tenants, adapters with the engines that they are on. */
#include "gateway/cli/cli.h"
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_top.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>

#define PLACES 256

const char *const cli_top_sort_names[CLI_TOP_SORTS] = {"in_flight", "tokens", "queue", "name"};

static const struct cli_column engine_columns[] = {
    {"engine", "name", CLI_TEXT, CLI_IN_LIST},
    {"kind", "kind", CLI_TEXT, CLI_IN_LIST},
    {"base", "base", CLI_TEXT, CLI_IN_LIST},
    {"state", "status.state|state", CLI_STATE_CELL, CLI_IN_LIST},
    {"in flight", "status.in_flight", CLI_COUNT_CELL, CLI_IN_LIST},
    {"of", "capacity", CLI_COUNT_CELL, CLI_IN_LIST},
    {"running", "status.running", CLI_COUNT_CELL, CLI_IN_LIST},
    {"waiting", "status.waiting", CLI_COUNT_CELL, CLI_IN_LIST},
    {"kv", "status.kv_used", CLI_TEXT, CLI_IN_LIST},
    {"adapters", "status.adapters", CLI_COUNT_CELL, CLI_IN_LIST},
    {"requests", "status.requests", CLI_COUNT_CELL, CLI_IN_LIST},
    {"lost", "status.lost", CLI_COUNT_CELL, CLI_IN_LIST},
    {"why", "status.why", CLI_TEXT, CLI_IN_LIST},
};

static const struct cli_column tenant_columns[] = {
    {"tenant", "tenant", CLI_TEXT, CLI_IN_LIST},
    {"in flight", "in_flight", CLI_COUNT_CELL, CLI_IN_LIST},
    {"tokens/s", "rate", CLI_COUNT_CELL, CLI_IN_LIST},
};

static const struct cli_column adapter_columns[] = {
    {"adapter", "label", CLI_TEXT, CLI_IN_LIST},       {"in flight", "in_flight", CLI_COUNT_CELL, CLI_IN_LIST},
    {"tokens/s", "rate", CLI_COUNT_CELL, CLI_IN_LIST}, {"digest", "digest", CLI_SHORT, CLI_IN_LIST},
    {"engines", "places", CLI_TEXT, CLI_IN_LIST},
};

/* --- rows --- */

/* "a (3), b": on which engines, with what is in flight there. */
static void places_of(const json_t *row, char out[PLACES])
{
    size_t used = 0, i;
    json_t *e;
    out[0] = 0;
    json_array_foreach(json_object_get(row, "engines"), i, e)
    {
        const char *name = json_string_value(json_is_object(e) ? json_object_get(e, "engine") : e);
        json_int_t n = json_integer_value(json_object_get(e, "in_flight"));
        if (used < PLACES)
            used += (size_t)snprintf(out + used, PLACES - used, "%s%s", i ? ", " : "", name ? name : "?");
        if (used < PLACES && n) used += (size_t)snprintf(out + used, PLACES - used, " (%" JSON_INTEGER_FORMAT ")", n);
    }
}

/* What the tables show beside what came. */
static void add_words(json_t *rows)
{
    size_t i;
    json_t *row;
    char places[PLACES];
    json_array_foreach(rows, i, row)
    {
        const char *tenant = json_string_value(json_object_get(row, "tenant")),
                   *adapter = json_string_value(json_object_get(row, "adapter"));
        json_int_t version = json_integer_value(json_object_get(row, "version"));
        places_of(row, places);
        json_object_set_new(row, "rate", json_sprintf("%.1f", json_number_value(json_object_get(row, "tokens_per_s"))));
        if (*places) json_object_set_new(row, "places", json_string(places));
        if (adapter)
            json_object_set_new(row, "label",
                                json_sprintf("%s/%s@%" JSON_INTEGER_FORMAT, tenant ? tenant : "?", adapter, version));
    }
}

/* --- order --- */

static const char *name_of(const json_t *row)
{
    static const char *const fields[] = {"label", "name", "tenant"};
    for (int i = 0; i < CLI_COUNT(fields); i++)
        if (json_object_get(row, fields[i])) return json_string_value(json_object_get(row, fields[i]));
    return "";
}

static double number_of(const json_t *row, enum cli_top_sort sort)
{
    const json_t *status = json_object_get(row, "status");
    const char *field = sort == CLI_TOP_TOKENS ? "tokens_per_s" : sort == CLI_TOP_QUEUE ? "waiting" : "in_flight";
    const json_t *v = json_object_get(row, field);
    return json_number_value(v ? v : json_object_get(status, field));
}

static int compare(const void *a, const void *b, void *u)
{
    const json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    enum cli_top_sort sort = *(const enum cli_top_sort *)u;
    double p = number_of(x, sort), q = number_of(y, sort);
    const char *m = name_of(x), *n = name_of(y);
    if (sort != CLI_TOP_NAME && p != q) return p < q ? 1 : -1;
    return strcmp(m ? m : "", n ? n : "");
}

/* A sorted copy with the words; the caller's. */
static json_t *ordered(const json_t *o, const char *field, enum cli_top_sort sort)
{
    json_t *rows = json_deep_copy(json_object_get(o, field)), *out = json_array();
    size_t n = json_array_size(rows);
    json_t **at = calloc(n + 1, sizeof *at);
    if (rows) add_words(rows);
    for (size_t i = 0; at && i < n; i++) at[i] = json_array_get(rows, i);
    if (at) qsort_r(at, n, sizeof *at, compare, &sort);
    for (size_t i = 0; at && i < n; i++) json_array_append(out, at[i]);
    free(at);
    json_decref(rows);
    return out;
}

/* --- the frame --- */

static void put_totals(FILE *f, const json_t *o, const struct cli_top_look *look)
{
    char at[32] = "-";
    time_t t = (time_t)json_number_value(json_object_get(o, "time"));
    struct tm tm;
    size_t i;
    json_t *row;
    int ready = 0, engines = 0;
    double in_flight = 0, tokens = 0;
    if (t > 0 && gmtime_r(&t, &tm)) strftime(at, sizeof at, "%H:%M:%S", &tm);
    json_array_foreach(json_object_get(o, "engines"), i, row)
    {
        const char *state = json_string_value(json_object_get(json_object_get(row, "status"), "state"));
        engines++;
        ready += state && !strcmp(state, "ready");
        in_flight += number_of(row, CLI_TOP_IN_FLIGHT);
    }
    json_array_foreach(json_object_get(o, "tenants"), i, row) tokens += number_of(row, CLI_TOP_TOKENS);
    fprintf(f, "%sweft top%s  %s UTC  by %s%s  in flight %.0f  tokens/s %.1f  engines ready %d of %d  %s\n",
            cli_colour(CLI_BOLD), cli_colour(CLI_PLAIN), at, cli_top_sort_names[look->sort],
            look->paused ? ", paused" : "", in_flight, tokens, ready, engines, look->where);
    if (*look->trouble) fprintf(f, "%s%s%s\n", cli_colour(CLI_RED), look->trouble, cli_colour(CLI_PLAIN));
}

void cli_top_frame(FILE *f, const json_t *o, const struct cli_top_look *look)
{
    static const struct {
        const char *field;
        struct cli_view view;
    } parts[] = {{"engines", {engine_columns, CLI_COUNT(engine_columns)}},
                 {"tenants", {tenant_columns, CLI_COUNT(tenant_columns)}},
                 {"adapters", {adapter_columns, CLI_COUNT(adapter_columns)}}};
    put_totals(f, o, look);
    for (int i = 0; i < CLI_COUNT(parts); i++) {
        json_t *rows = ordered(o, parts[i].field, look->sort);
        fputc('\n', f);
        cli_table(&parts[i].view, rows);
        json_decref(rows);
    }
}

/* --- cutting --- */

/* Bytes of an escape sequence of ours at s, "ESC [ ... m"; 0: none. */
static size_t escape_at(const char *s)
{
    if (s[0] != '\33' || s[1] != '[') return 0;
    size_t n = 2 + strcspn(s + 2, "m\n");
    return s[n] == 'm' ? n + 1 : 0;
}

static void put_line(FILE *f, const char *s, size_t n, int columns)
{
    mbstate_t state = {0};
    for (size_t i = 0; i < n;) {
        size_t k = escape_at(s + i);
        if (!k) {
            wchar_t w;
            k = mbrtowc(&w, s + i, n - i, &state);
            bool bad = k == (size_t)-1 || k == (size_t)-2 || !k;
            int wide = bad ? 1 : wcwidth(w);
            if (bad) k = 1, state = (mbstate_t){0};
            columns -= wide > 0 ? wide : 0;
            if (columns < 0) break;
        }
        fwrite(s + i, 1, k, f);
        i += k;
    }
    fputs(cli_colour(CLI_PLAIN), f);
    fputs("\33[K\r\n", f);
}

void cli_top_cut(FILE *f, const char *text, int rows, int columns)
{
    for (int i = 0; *text && i + 1 < rows; i++) {
        size_t n = strcspn(text, "\n");
        put_line(f, text, n, columns);
        text += n + (text[n] != 0);
    }
}
