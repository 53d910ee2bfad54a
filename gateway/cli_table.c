/* Tables and fields for people, from the server's JSON.
 *
 * A column names the fields that it may come from; what isn't there prints as "-", so an older server shows less
 * instead of failing. Cells are rendered twice, once to measure and once to print, so nothing is kept but one cell.
 *
 * What a server says ends on a terminal, and adapters are made by strangers: control characters never pass. One thread.
 */
#include "gateway/cli.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CELL 256
#define COLUMNS_MAX 16
#define SHORT 12 /* of a digest */

/* --- cells --- */

static const json_t *first_field(const json_t *o, const char *fields)
{
    char name[64];
    for (const char *p = fields; *p;) {
        size_t n = strcspn(p, "|");
        snprintf(name, sizeof name, "%.*s", (int)n, p);
        const json_t *v = json_object_get(o, name);
        bool empty = json_is_string(v) && !json_string_length(v);
        if (v && !json_is_null(v) && !empty) return v;
        p += n + (p[n] == '|');
    }
    return NULL;
}

static void render_bytes(double n, char out[CELL])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    int u = 0;
    while (n >= 1000 && u < 4) n /= 1000, u++;
    snprintf(out, CELL, u && n < 100 ? "%.1f %s" : "%.0f %s", n, units[u]);
}

static void render_time(const json_t *v, char out[CELL])
{
    time_t t = (time_t)json_integer_value(v);
    struct tm tm;
    if (json_is_string(v))
        snprintf(out, CELL, "%.19s", json_string_value(v));
    else if (t <= 0 || !gmtime_r(&t, &tm) || !strftime(out, CELL, "%Y-%m-%d %H:%M", &tm))
        snprintf(out, CELL, "-");
}

static void render_list(const json_t *v, char out[CELL])
{
    size_t used = 0;
    for (size_t i = 0; i < json_array_size(v) && used < CELL; i++) {
        const char *s = json_string_value(json_array_get(v, i));
        used += (size_t)snprintf(out + used, CELL - used, "%s%s", i ? "," : "", s ? s : "?");
    }
    if (!used) snprintf(out, CELL, "-");
}

static void render_plain(const json_t *v, int most, char out[CELL])
{
    if (json_is_string(v))
        snprintf(out, CELL, "%.*s", most, json_string_value(v));
    else if (json_is_integer(v))
        snprintf(out, CELL, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, CELL, "%g", json_real_value(v));
    else
        snprintf(out, CELL, "%s", json_is_boolean(v) ? json_is_true(v) ? "yes" : "no" : "-");
}

static void tame(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f) *s = '?';
}

static void render(const struct cli_column *c, const json_t *row, char out[CELL])
{
    const json_t *v = first_field(row, c->fields);
    if (!v)
        snprintf(out, CELL, "-");
    else if (c->kind == CLI_BYTES && json_is_number(v))
        render_bytes(json_number_value(v), out);
    else if (c->kind == CLI_TIME)
        render_time(v, out);
    else if (c->kind == CLI_LIST && json_is_array(v))
        render_list(v, out);
    else if (c->kind == CLI_YES)
        snprintf(out, CELL, "%s", json_is_true(v) ? "yes" : "no");
    else
        render_plain(v, c->kind == CLI_SHORT ? SHORT : CELL - 1, out);
    tame(out);
}

/* Characters of UTF-8: near enough to columns of a terminal. */
static int width_of(const char *s)
{
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

/* --- tables --- */

static void print_cell(const char *s, int width, bool right, bool last)
{
    int pad = width - width_of(s);
    if (right) printf("%*s", pad, "");
    fputs(s, stdout);
    if (!right && !last) printf("%*s", pad, "");
    fputs(last ? "\n" : "  ", stdout);
}

static bool is_right(enum cli_kind k)
{
    return k == CLI_COUNT || k == CLI_BYTES;
}

void cli_table(const struct cli_column *columns, int ncolumns, const json_t *rows)
{
    int width[COLUMNS_MAX];
    char cell[CELL];
    size_t i;
    json_t *row;
    if (ncolumns > COLUMNS_MAX) ncolumns = COLUMNS_MAX;
    for (int k = 0; k < ncolumns; k++) {
        width[k] = width_of(columns[k].title);
        json_array_foreach((json_t *)rows, i, row)
        {
            render(&columns[k], row, cell);
            if (width_of(cell) > width[k]) width[k] = width_of(cell);
        }
    }
    for (int k = 0; k < ncolumns; k++)
        print_cell(columns[k].title, width[k], is_right(columns[k].kind), k + 1 == ncolumns);
    json_array_foreach((json_t *)rows, i, row) for (int k = 0; k < ncolumns; k++)
    {
        render(&columns[k], row, cell);
        print_cell(cell, width[k], is_right(columns[k].kind), k + 1 == ncolumns);
    }
}

void cli_fields(const struct cli_column *columns, int ncolumns, const json_t *o)
{
    char cell[CELL];
    for (int k = 0; k < ncolumns; k++) {
        if (!first_field(o, columns[k].fields)) continue;
        render(&columns[k], o, cell);
        printf("%-12s  %s\n", columns[k].title, cell);
    }
}

void cli_puts(const char *s, size_t n)
{
    if (!isatty(STDOUT_FILENO)) {
        fwrite(s, 1, n, stdout);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char b = (unsigned char)s[i];
        bool c1 = b == 0xc2 && i + 1 < n && (unsigned char)s[i + 1] >= 0x80 && (unsigned char)s[i + 1] < 0xa0;
        if (c1) i++; /* U+0080..9F steer terminals as ESC does */
        if (c1 || (b < ' ' && b != '\n' && b != '\t') || b == 0x7f)
            putchar('?');
        else
            putchar(b);
    }
}
