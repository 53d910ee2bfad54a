/* conf: one table of settings read from four places, each naming itself when it is wrong.
 *
 * Every value, whatever its source, goes through set_value(), which knows the types and the ranges; a source only adds
 * where it was found ("weft.conf:12", "WEFT_LISTEN", "--listen"). Defaults go the same way, so a default out of range
 * is found by the first start. Runs once, on the main thread, before others exist. Bounds: a file of FILE_MAX bytes, a
 * value of STR_MAX unless its row says otherwise. */
#include "base/conf.h"
#include "base/buf.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (64 * 1024)
#define STR_MAX 4096

struct table {
    const struct conf_row *rows;
    size_t n;
    void *settings;
    enum conf_source from, *source; /* source[n], or NULL: nobody asks */
};

/* --- values --- */

static int parse_bool(const char *s, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(s, words[i])) continue;
        *out = i % 2;
        return 0;
    }
    return -1;
}

/* A decimal integer; with `suffixes` also k, m, g for powers of 1024. */
static int parse_int(const char *s, bool suffixes, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (end == s || errno || isspace((unsigned char)*s)) return -1;
    int64_t unit = 1;
    if (suffixes && *end) {
        const char *letters = "kmg", *at = strchr(letters, tolower((unsigned char)*end));
        if (!at) return -1;
        for (int i = 0; i <= at - letters; i++) unit *= 1024;
        end++;
    }
    if (*end) return -1;
    int64_t scaled;
    if (__builtin_mul_overflow((int64_t)v, unit, &scaled)) return -1;
    *out = scaled;
    return 0;
}

static int set_str(const struct conf_row *row, const char **to, const char *value, const char *where, struct err *e)
{
    size_t max = row->max > 0 ? (size_t)row->max : STR_MAX, len = strlen(value);
    if (len > max) return err_set(e, ERR_USAGE, "%s: %s is longer than %zu bytes", where, row->name, max);
    if (row->min > 0 && len < (size_t)row->min)
        return err_set(e, ERR_USAGE, "%s: %s must have at least %" PRId64 " bytes", where, row->name, row->min);
    char *copy = strdup(value);
    if (!copy) return err_set(e, ERR_NO_MEMORY, "no memory for settings");
    free((void *)*to);
    *to = copy;
    return 0;
}

static int set_int(const struct conf_row *row, int64_t *to, const char *value, const char *where, struct err *e)
{
    int64_t v;
    bool size = row->type == CONF_SIZE;
    if (parse_int(value, size, &v))
        return err_set(e, ERR_USAGE, "%s: %s must be %s, not '%.100s'", where, row->name,
                       size ? "a number of bytes (k, m, g allowed)" : "an integer", value);
    if (v < row->min || v > row->max)
        return err_set(e, ERR_USAGE, "%s: %s must be from %" PRId64 " to %" PRId64 ", not %" PRId64, where, row->name,
                       row->min, row->max, v);
    *to = v;
    return 0;
}

static int set_value(const struct table *t, const struct conf_row *row, const char *value, const char *where,
                     struct err *e)
{
    void *to = (char *)t->settings + row->offset;
    if (t->source) t->source[row - t->rows] = t->from;
    switch (row->type) {
    case CONF_STR:
        return set_str(row, to, value, where, e);
    case CONF_INT:
    case CONF_SIZE:
        return set_int(row, to, value, where, e);
    case CONF_BOOL:
        break;
    }
    if (parse_bool(value, to))
        return err_set(e, ERR_USAGE, "%s: %s must be true or false, not '%.100s'", where, row->name, value);
    return 0;
}

/* Dashes and underscores are the same. n bytes of name. */
static const struct conf_row *find(const struct table *t, const char *name, size_t n)
{
    for (size_t i = 0; i < t->n; i++) {
        const char *s = t->rows[i].name;
        size_t k = 0;
        while (k < n && s[k] && (s[k] == name[k] || (s[k] == '_' && name[k] == '-'))) k++;
        if (k == n && !s[k]) return &t->rows[i];
    }
    return NULL;
}

/* --- the file --- */

static char *trim(char *s)
{
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) s[--n] = 0;
    return s;
}

/* Cuts the comment off; a # inside double quotes or after a visible character belongs to the value. */
static void cut_comment(char *line)
{
    bool quoted = false;
    for (char *p = line; *p; p++) {
        if (*p == '"') quoted = !quoted;
        if (*p == '#' && !quoted && (p == line || isspace((unsigned char)p[-1]))) {
            *p = 0;
            return;
        }
    }
}

static char *unquote(char *s)
{
    size_t n = strlen(s);
    if (n < 2 || s[0] != '"' || s[n - 1] != '"') return s;
    s[n - 1] = 0;
    return s + 1;
}

static int read_line(const struct table *t, char *line, const char *where, int number, int *seen, struct err *e)
{
    cut_comment(line);
    line = trim(line);
    if (!*line) return 0;
    char *eq = strchr(line, '=');
    if (!eq) return err_set(e, ERR_USAGE, "%s: expected 'name = value', found '%.100s'", where, line);
    *eq = 0;
    const char *name = trim(line);
    const struct conf_row *row = find(t, name, strlen(name));
    if (!row) return err_set(e, ERR_USAGE, "%s: no setting is called '%.100s'", where, name);
    int *first = &seen[row - t->rows];
    if (*first) return err_set(e, ERR_USAGE, "%s: %s was set in line %d already", where, row->name, *first);
    *first = number;
    return set_value(t, row, unquote(trim(eq + 1)), where, e);
}

static int slurp(const char *path, char text[FILE_MAX + 1], struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f) return err_errno(e, "cannot open the settings file %s", path);
    size_t n = fread(text, 1, FILE_MAX + 1, f);
    int error = ferror(f) ? errno : 0;
    fclose(f);
    errno = error;
    if (error) return err_errno(e, "cannot read the settings file %s", path);
    if (n > FILE_MAX) return err_set(e, ERR_USAGE, "%s: longer than %d bytes", path, FILE_MAX);
    text[n] = 0;
    if (memchr(text, 0, n)) return err_set(e, ERR_USAGE, "%s: contains a NUL byte", path);
    return 0;
}

static int read_file(const struct table *t, const char *path, struct err *e)
{
    char *text = malloc(FILE_MAX + 1);
    int *seen = calloc(t->n + 1, sizeof *seen); /* line in which a row was set */
    int rc = -1;
    if (!text || !seen) {
        err_set(e, ERR_NO_MEMORY, "no memory for settings");
        goto out;
    }
    if (slurp(path, text, e)) goto out;
    char *rest = text;
    for (int number = 1; rest; number++) {
        char *line = strsep(&rest, "\n");
        char where[256];
        snprintf(where, sizeof where, "%.200s:%d", path, number);
        if (read_line(t, line, where, number, seen, e)) goto out;
    }
    rc = 0;
out:
    free(text);
    free(seen);
    return rc;
}

/* --- the command line --- */

struct args {
    int argc, at;
    char **argv;
};

/* The value of option argv[at]: behind its '=' or the next argument. *name_len is the option's name without dashes. */
static const char *option_value(struct args *a, size_t *name_len)
{
    const char *name = a->argv[a->at] + 2, *eq = strchr(name, '=');
    *name_len = eq ? (size_t)(eq - name) : strlen(name);
    if (eq) return eq + 1;
    return a->at + 1 < a->argc ? a->argv[++a->at] : NULL;
}

static bool is_option(const char *arg)
{
    return arg[0] == '-' && arg[1] == '-' && arg[2];
}

static bool is_named(const char *arg, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(arg, name, len) == 0;
}

static int read_option(const struct table *t, struct args *a, struct err *e)
{
    const char *arg = a->argv[a->at];
    size_t n;
    const char *value = option_value(a, &n);
    const struct conf_row *row = find(t, arg + 2, n);
    char where[80];
    if (!row && !is_named(arg + 2, n, "config")) return err_set(e, ERR_USAGE, "no option is called '%.100s'", arg);
    if (!value) return err_set(e, ERR_USAGE, "option %.100s needs a value", arg);
    if (!row) return 0; /* --config was read before */
    snprintf(where, sizeof where, "--%.*s", (int)(n < 70 ? n : 70), arg + 2);
    return set_value(t, row, value, where, e);
}

static int read_args(const struct table *t, int argc, char **argv, const char **positional, int max_positional,
                     int *npositional, struct err *e)
{
    struct args a = {.argc = argc, .at = 1, .argv = argv};
    int n = 0;
    bool only_positional = false;
    for (; a.at < argc; a.at++) {
        const char *arg = argv[a.at];
        if (!only_positional && strcmp(arg, "--") == 0) {
            only_positional = true;
        } else if (!only_positional && is_option(arg)) {
            if (read_option(t, &a, e)) return -1;
        } else if (!only_positional && arg[0] == '-' && arg[1]) {
            return err_set(e, ERR_USAGE, "no option is called '%.100s'", arg);
        } else {
            if (!positional || n >= max_positional) return err_set(e, ERR_USAGE, "unexpected argument '%.100s'", arg);
            positional[n++] = arg;
        }
    }
    if (npositional) *npositional = n;
    return 0;
}

/* The last --config on the command line, before anything else is read: the file comes below the environment. */
const char *conf_path(int argc, char **argv)
{
    struct args a = {.argc = argc, .at = 1, .argv = argv};
    const char *path = NULL;
    for (; a.at < argc && strcmp(argv[a.at], "--"); a.at++) {
        if (!is_option(argv[a.at])) continue;
        const char *arg = argv[a.at] + 2;
        size_t n;
        const char *value = option_value(&a, &n);
        if (is_named(arg, n, "config")) path = value;
    }
    return path;
}

static bool has_flag(int argc, char **argv, const char *flag)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
        if (strcmp(argv[i], flag) == 0) return true;
    return false;
}

/* --- what conf_load does --- */

static const char *const type_words[] = {"TEXT", "N", "BOOL", "BYTES"};

static void print_option(const struct conf_row *row)
{
    char name[80];
    snprintf(name, sizeof name, "--%.60s %s", row->name, type_words[row->type]);
    for (char *p = name; *p && *p != ' '; p++)
        if (*p == '_') *p = '-';
    printf("  %-32s %s", name, row->help);
    if (row->deflt[0]) printf(" [%s]", row->deflt);
    if (row->env[0]) printf(" (%s)", row->env);
    putchar('\n');
}

static int print_help(const struct table *t, const char *program, bool positional)
{
    const char *slash = strrchr(program, '/');
    printf("usage: %s [--config FILE] [--option VALUE]...%s\n\n", slash ? slash + 1 : program,
           positional ? " [ARGUMENT]..." : "");
    for (size_t i = 0; i < t->n; i++) print_option(&t->rows[i]);
    printf("  %-32s %s\n", "--config TEXT", "settings file, lines 'name = value'");
    printf("  %-32s %s\n", "--print-config", "print the documented default file");
    printf("  %-32s %s\n", "--help", "this text");
    return 1;
}

static int read_defaults(const struct table *t, struct err *e)
{
    for (size_t i = 0; i < t->n; i++)
        if (set_value(t, &t->rows[i], t->rows[i].deflt, "default", e)) return -1;
    return 0;
}

static int read_env(const struct table *t, struct err *e)
{
    for (size_t i = 0; i < t->n; i++) {
        const char *env = t->rows[i].env, *value = *env ? getenv(env) : NULL;
        if (value && set_value(t, &t->rows[i], value, env, e)) return -1;
    }
    return 0;
}

static int read_all(struct table *t, int argc, char **argv, const char **positional, int max_positional, int *npositional, struct err *e)
{
    const char *path = conf_path(argc, argv);
    struct err inner = {0};
    t->from = CONF_DEFAULT;
    int rc = read_defaults(t, &inner);
    t->from = CONF_FILE;
    if (!rc && path) rc = read_file(t, path, &inner);
    t->from = CONF_ENV;
    if (!rc) rc = read_env(t, &inner);
    t->from = CONF_ARGUMENT;
    if (!rc) rc = read_args(t, argc, argv, positional, max_positional, npositional, &inner);
    return rc ? err_set(e, inner.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_USAGE, "%s", inner.msg) : 0;
}

int conf_load(const struct conf_row *rows, size_t nrows, void *settings, int argc, char **argv, const char **positional,
              int max_positional, int *npositional, struct err *e)
{
    struct table t = {.rows = rows, .n = nrows, .settings = settings};
    if (has_flag(argc, argv, "--help")) return print_help(&t, argv[0], positional != NULL);
    if (has_flag(argc, argv, "--print-config")) {
        conf_print(rows, nrows, stdout);
        return 1;
    }
    return read_all(&t, argc, argv, positional, max_positional, npositional, e);
}

int conf_read(const struct conf_row *rows, size_t nrows, void *settings, enum conf_source *source, int argc, char **argv, struct err *e)
{
    struct table t = {.rows = rows, .n = nrows, .settings = settings, .source = source};
    return read_all(&t, argc, argv, NULL, 0, NULL, e);
}

static const void *value_of(const struct conf_row *row, const void *settings)
{
    return (const char *)settings + row->offset;
}

void conf_free(const struct conf_row *rows, size_t nrows, void *settings)
{
    for (size_t i = 0; i < nrows; i++)
        if (rows[i].type == CONF_STR) free((void *)*(const char *const *)value_of(&rows[i], settings));
}

bool conf_equal(const struct conf_row *row, const void *a, const void *b)
{
    const void *x = value_of(row, a), *y = value_of(row, b);
    switch (row->type) {
    case CONF_STR:
        return strcmp(*(const char *const *)x, *(const char *const *)y) == 0;
    case CONF_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case CONF_INT:
    case CONF_SIZE:
        break;
    }
    return *(const int64_t *)x == *(const int64_t *)y;
}

int conf_copy(const struct conf_row *row, void *to, const void *from, struct err *e)
{
    void *x = (char *)to + row->offset;
    const void *y = value_of(row, from);
    if (row->type == CONF_BOOL) {
        memcpy(x, y, sizeof(bool));
    } else if (row->type == CONF_STR) {
        char *copy = strdup(*(const char *const *)y);
        if (!copy) return err_set(e, ERR_NO_MEMORY, "no memory for settings");
        free((void *)*(const char **)x);
        *(const char **)x = copy;
    } else {
        memcpy(x, y, sizeof(int64_t));
    }
    return 0;
}

void conf_print(const struct conf_row *rows, size_t nrows, FILE *f)
{
    for (size_t i = 0; i < nrows; i++) {
        const struct conf_row *r = &rows[i];
        fprintf(f, "%s# %s", i ? "\n" : "", r->help);
        if (r->type == CONF_INT || r->type == CONF_SIZE) fprintf(f, "; from %" PRId64 " to %" PRId64, r->min, r->max);
        if (r->env[0]) fprintf(f, "; %s", r->env);
        bool quote = r->type == CONF_STR && (strpbrk(r->deflt, " #\"") || !r->deflt[0]);
        fprintf(f, "\n%s = %s%s%s\n", r->name, quote ? "\"" : "", r->deflt, quote ? "\"" : "");
    }
}
