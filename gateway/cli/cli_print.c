/* Tables and fields for people, from the server's JSON.
 *
 * A column names the fields that it may come from; what isn't there prints as "-", so an older server shows less instead
 * of failing, and a column that no row has is left out. Cells are rendered twice, once to measure and once to print, so
 * nothing is kept but one cell.
 *
 * Columns align by what a terminal shows: wide characters are two, combining ones none (wcwidth of the C library, in a
 * UTF-8 locale whatever the user's is). Colour is on a terminal only, and not with NO_COLOR (no-color.org) or on a dumb
 * one. What a server says ends on a terminal, and adapters are made by strangers: control characters never pass. One
 * thread. */
#include "gateway/cli/cli_print.h"
#include "base/buf.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/cli_value.h"
#include <inttypes.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#define COLUMNS_MAX 24
#define JSON_SHOWN 72
#define SHORT 12 /* of a digest */
#define TITLE 48
#define PRECISION 15 /* of reals: 0.1 stays 0.1 */

static bool coloured, on_terminal;
static FILE *to; /* stdout, or a frame that is made */

void cli_print_start(void)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    if (!setlocale(LC_CTYPE, "C.UTF-8")) setlocale(LC_CTYPE, "");
    to = stdout;
    on_terminal = isatty(STDOUT_FILENO);
    coloured = on_terminal && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

void cli_print_to(FILE *f)
{
    to = f;
}

const char *cli_colour(enum cli_colour c)
{
    static const char *const codes[] = {"\33[0m", "\33[1m", "\33[2m", "\33[32m", "\33[33m", "\33[31m"};
    return coloured ? codes[c] : "";
}

/* --- cells --- */

static const json_t *reach(const json_t *o, const char *path, size_t n)
{
    char name[64];
    while (n && o) {
        size_t k = 0;
        while (k < n && path[k] != '.') k++;
        snprintf(name, sizeof name, "%.*s", (int)k, path);
        o = json_object_get(o, name);
        path += k + (k < n);
        n -= k + (k < n);
    }
    return o;
}

static const json_t *first_field(const json_t *o, const char *fields)
{
    for (const char *p = fields; *p;) {
        size_t n = strcspn(p, "|");
        const json_t *v = reach(o, p, n);
        bool empty = json_is_string(v) && !json_string_length(v);
        if (v && !json_is_null(v) && !empty) return v;
        p += n + (p[n] == '|');
    }
    return NULL;
}

static void render_bytes(double n, char out[CLI_CELL])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    while (n >= 1000 && u < 4) n /= 1000, u++;
    snprintf(out, CLI_CELL, u && n < 100 ? "%.1f %s" : "%.0f %s", n, units[u]);
}

static void render_time(const json_t *v, char out[CLI_CELL])
{
    double at = json_number_value(v);
    time_t t = (time_t)at;
    struct tm tm;
    if (json_is_string(v))
        snprintf(out, CLI_CELL, "%.19s", json_string_value(v));
    else if (!(at > 0) || at > 253402300799.0 || !gmtime_r(&t, &tm) || !strftime(out, CLI_CELL, "%Y-%m-%d %H:%M", &tm))
        snprintf(out, CLI_CELL, "-");
}

static const char *word_of(const json_t *v)
{
    const char *s = json_string_value(json_is_object(v) ? json_object_get(v, "name") : v);
    return s ? s : "?";
}

/* "sql@1=90%": a share of the sum, or a place in the chain. */
static void add_target(struct buf *b, const json_t *t, double sum)
{
    const char *adapter = json_string_value(json_object_get(t, "adapter")),
               *base = json_string_value(json_object_get(t, "base"));
    int64_t version = json_integer_value(json_object_get(t, "version"));
    double weight = json_number_value(json_object_get(t, "weight"));
    if (adapter && *adapter)
        buf_adds(b, adapter);
    else
        buf_addf(b, "base:%s", base ? base : "");
    if (version) buf_addf(b, "@%" PRId64, version);
    if (sum > 0) buf_addf(b, "=%.4g%%", weight * 100 / sum);
}

static void render_targets(const json_t *row, const json_t *v, char out[CLI_CELL])
{
    const char *policy = json_string_value(json_object_get(row, "policy"));
    bool chain = policy && !strcmp(policy, "fallback");
    double sum = 0;
    size_t i;
    json_t *t;
    struct buf b;
    buf_init(&b, CLI_CELL * 4);
    json_array_foreach((json_t *)v, i, t) sum += json_number_value(json_object_get(t, "weight"));
    json_array_foreach((json_t *)v, i, t)
    {
        if (i) buf_adds(&b, chain ? " > " : ",");
        add_target(&b, t, chain ? 0 : sum);
    }
    snprintf(out, CLI_CELL, "%s", b.data);
    buf_close(&b);
}

static void render_list(const json_t *v, char out[CLI_CELL])
{
    size_t used = 0;
    for (size_t i = 0; i < json_array_size(v) && used < CLI_CELL; i++)
        used += (size_t)snprintf(out + used, CLI_CELL - used, "%s%s", i ? "," : "", word_of(json_array_get(v, i)));
    if (!used) snprintf(out, CLI_CELL, "-");
}

/* Members that are null say nothing; the rest is cut between characters. */
static void render_json(const json_t *v, char out[CLI_CELL])
{
    json_t *o = json_object(), *member;
    const char *name;
    json_object_foreach((json_t *)v, name, member) if (!json_is_null(member)) json_object_set(o, name, member);
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(PRECISION));
    size_t n = text ? strlen(text) : 0;
    bool cut = n > JSON_SHOWN;
    if (cut) n = JSON_SHOWN;
    while (cut && n && ((unsigned char)text[n] & 0xc0) == 0x80) n--;
    snprintf(out, CLI_CELL, "%.*s%s", (int)n, text && json_object_size(o) ? text : "", cut ? "..." : "");
    if (!*out) snprintf(out, CLI_CELL, "-");
    free(text);
    json_decref(o);
}

static void render_plain(const json_t *v, int most, char out[CLI_CELL])
{
    if (json_is_string(v))
        snprintf(out, CLI_CELL, "%.*s", most, json_string_value(v));
    else if (json_is_integer(v))
        snprintf(out, CLI_CELL, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, CLI_CELL, "%g", json_real_value(v));
    else if (json_is_boolean(v))
        snprintf(out, CLI_CELL, "%s", json_is_true(v) ? "yes" : "no");
    else {
        char *text = json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(PRECISION) | JSON_ENCODE_ANY);
        snprintf(out, CLI_CELL, "%s", text && strcmp(text, "{}") ? text : "-");
        free(text);
    }
}

void cli_tame(char *s)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        bool valid;
        size_t k = buf_utf8(s + i, n - i, &valid);
        bool c1 = k == 2 && (unsigned char)s[i] == 0xc2 && (unsigned char)s[i + 1] < 0xa0;
        if (!valid || c1 || (unsigned char)s[i] < ' ' || s[i] == 0x7f) memset(s + i, '?', k);
        i += k;
    }
}

void cli_cell(const struct cli_column *c, const json_t *row, char out[CLI_CELL])
{
    const json_t *v = first_field(row, c->fields);
    int64_t n = cli_value_whole(v);
    if (!v)
        snprintf(out, CLI_CELL, "-");
    else if (c->kind == CLI_BYTES_CELL && json_is_number(v))
        render_bytes(json_number_value(v), out);
    else if (c->kind == CLI_MONEY_CELL && json_is_number(v))
        cli_value_money(n, out, CLI_CELL);
    else if (c->kind == CLI_PRICE_CELL && json_is_number(v))
        cli_value_money(__builtin_mul_overflow(n, 1000000, &n) ? INT64_MAX : n, out, CLI_CELL);
    else if (c->kind == CLI_TIME_CELL)
        render_time(v, out);
    else if (c->kind == CLI_TARGETS && json_is_array(v))
        render_targets(row, v, out);
    else if (c->kind == CLI_LIST_CELL && json_is_array(v))
        render_list(v, out);
    else if (c->kind == CLI_JSON_CELL && json_is_object(v))
        render_json(v, out);
    else if (c->kind == CLI_YES)
        snprintf(out, CLI_CELL, "%s", json_is_true(v) ? "yes" : "no");
    else
        render_plain(v, c->kind == CLI_SHORT ? SHORT : CLI_CELL - 1, out);
    cli_tame(out);
}

int cli_width(const char *s)
{
    mbstate_t state = {0};
    int columns = 0;
    for (size_t n = strlen(s); n;) {
        wchar_t w;
        size_t k = mbrtowc(&w, s, n, &state);
        bool bad = k == (size_t)-1 || k == (size_t)-2;
        int wide = bad ? 1 : wcwidth(w);
        if (bad) k = 1, state = (mbstate_t){0};
        if (!k) break;
        columns += wide > 0 ? wide : 0;
        s += k, n -= k;
    }
    return columns;
}

/* --- colours of states --- */

static enum cli_colour colour_of(const struct cli_column *c, const char *cell)
{
    static const struct {
        const char *word;
        enum cli_colour colour;
    } words[] = {
        {"ready", CLI_GREEN},       {"healthy", CLI_GREEN},   {"enabled", CLI_GREEN},    {"failed", CLI_RED},
        {"quarantined", CLI_RED},   {"ejected", CLI_RED},     {"down", CLI_RED},         {"unhealthy", CLI_RED},
        {"validating", CLI_YELLOW}, {"draining", CLI_YELLOW}, {"uploading", CLI_YELLOW}, {"starting", CLI_YELLOW},
        {"deleting", CLI_YELLOW},   {"archived", CLI_DIM},    {"disabled", CLI_DIM},     {"revoked", CLI_DIM}};
    if (c->kind != CLI_STATE_CELL) return CLI_PLAIN;
    for (int i = 0; i < CLI_COUNT(words); i++)
        if (!strcmp(words[i].word, cell)) return words[i].colour;
    return CLI_PLAIN;
}

static void put_cell(const char *s, int width, bool right, bool last, enum cli_colour colour)
{
    int pad = width - cli_width(s);
    if (right) fprintf(to, "%*s", pad, "");
    if (colour != CLI_PLAIN && *cli_colour(colour))
        fprintf(to, "%s%s%s", cli_colour(colour), s, cli_colour(CLI_PLAIN));
    else
        fputs(s, to);
    if (!right && !last) fprintf(to, "%*s", pad, "");
    fputs(last ? "\n" : "  ", to);
}

static bool is_right(enum cli_cell k)
{
    return k == CLI_COUNT_CELL || k == CLI_BYTES_CELL || k == CLI_MONEY_CELL || k == CLI_PRICE_CELL;
}

/* --- tables --- */

struct table {
    const struct cli_column *column[COLUMNS_MAX];
    char title[COLUMNS_MAX][TITLE];
    int width[COLUMNS_MAX], n;
};

static void head_of(const char *title, char out[TITLE])
{
    snprintf(out, TITLE, "%s", title);
    for (char *p = out; *p; p++) *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
}

/* The widest cell of a column; 0: no row has it. */
static int measure(const struct cli_column *c, const json_t *rows)
{
    char cell[CLI_CELL];
    int widest = 0;
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)rows, i, row)
    {
        cli_cell(c, row, cell);
        int w = cli_width(cell);
        if (strcmp(cell, "-") && w > widest) widest = w;
    }
    return widest;
}

static void lay_out(struct table *t, const struct cli_view *view, const json_t *rows)
{
    t->n = 0;
    for (int k = 0; k < view->n && t->n < COLUMNS_MAX; k++) {
        const struct cli_column *c = &view->columns[k];
        int widest = c->where & CLI_IN_LIST ? measure(c, rows) : 0;
        if (!(c->where & CLI_IN_LIST) || (!widest && json_array_size(rows))) continue;
        head_of(c->title, t->title[t->n]);
        int title = cli_width(t->title[t->n]);
        t->column[t->n] = c;
        t->width[t->n++] = widest > title ? widest : title;
    }
}

static void put_row(const struct table *t, const json_t *row)
{
    char cell[CLI_CELL];
    for (int k = 0; k < t->n; k++) {
        cli_cell(t->column[k], row, cell);
        put_cell(cell, t->width[k], is_right(t->column[k]->kind), k + 1 == t->n, colour_of(t->column[k], cell));
    }
}

void cli_rows(const struct cli_view *view, const json_t *rows, bool heads)
{
    struct table t;
    size_t i;
    json_t *row;
    lay_out(&t, view, rows);
    for (int k = 0; heads && k < t.n; k++)
        put_cell(t.title[k], t.width[k], is_right(t.column[k]->kind), k + 1 == t.n, CLI_BOLD);
    json_array_foreach((json_t *)rows, i, row) put_row(&t, row);
}

void cli_table(const struct cli_view *view, const json_t *rows)
{
    cli_rows(view, rows, true);
}

void cli_fields(const struct cli_view *view, const json_t *o)
{
    char cell[CLI_CELL];
    int width = 0;
    for (int k = 0; k < view->n; k++) {
        const struct cli_column *c = &view->columns[k];
        if (c->where & CLI_IN_SHOW && first_field(o, c->fields) && cli_width(c->title) > width)
            width = cli_width(c->title);
    }
    for (int k = 0; k < view->n; k++) {
        const struct cli_column *c = &view->columns[k];
        if (!(c->where & CLI_IN_SHOW) || !first_field(o, c->fields)) continue;
        cli_cell(c, o, cell);
        fprintf(to, "%s%-*s%s  ", cli_colour(CLI_DIM), width, c->title, cli_colour(CLI_PLAIN));
        put_cell(cell, 0, false, true, colour_of(c, cell));
    }
}

int cli_json(const json_t *o)
{
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(PRECISION) | JSON_ENCODE_ANY);
    if (!text) return cli_error(CLI_FAILED, "out of memory");
    cli_puts(text, strlen(text));
    fputc('\n', to);
    free(text);
    return CLI_OK;
}

void cli_puts(const char *s, size_t n)
{
    if (!on_terminal) {
        fwrite(s, 1, n, to);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)s[i];
        bool c1 = b == 0xc2 && i + 1 < n && (unsigned char)s[i + 1] >= 0x80 && (unsigned char)s[i + 1] < 0xa0;
        if (c1) i++; /* U+0080..9F steer terminals as ESC does */
        if (c1 || (b < ' ' && b != '\n' && b != '\t') || b == 0x7f)
            fputc('?', to);
        else
            fputc(b, to);
    }
}

/* --- progress --- */

#define BAR 30

void cli_progress(long long done, long long total)
{
    int percent = total > 0 ? (int)(done * 100 / total) : 100, full = percent * BAR / 100;
    char bar[BAR + 1];
    for (int i = 0; i < BAR; i++) bar[i] = i < full ? '#' : '.';
    bar[BAR] = 0;
    fprintf(stderr, "\r[%s] %3d %% of %.1f MB%s\33[K", bar, percent, (double)total / 1e6,
            percent == 100 ? ", being checked" : "");
    fflush(stderr);
}

void cli_progress_end(void)
{
    fputs("\r\33[K", stderr);
    fflush(stderr);
}
