/* The settings' three sources: what is taken keeps to its row's range, the environment wins over the file and the command line over both, the programs' way of reading
 * (conf_load) and the one that is read again (conf_read) say the same, and settings that are written as a file or as a command line are read as the same settings.
 * Input: the file; behind a byte 0x1e the command line, a word a line, in which "@" is the file's path; behind another one the environment, NAME=VALUE a line.
 * Without the second part the command line is --config @. */
#include "base/conf.h"
#include "tests/fuzz/fuzz.h"

#define SECTION 0x1e
#define WORDS_MAX 24
#define POSITIONAL_MAX 2

struct settings {
#define X CONF_FIELD
#include "schema/gateway_settings.def"
#undef X
};
static const struct conf_row rows[] = {
#define X(...) CONF_ROW(struct settings, __VA_ARGS__)
#include "schema/gateway_settings.def"
#undef X
};
#define NROWS CONF_ROWS(rows)

struct words {
    int argc;
    char *argv[WORDS_MAX + 2], *own[WORDS_MAX];
    int nown;
};

/* --- what was read --- */

static void check_range(const struct conf_row *row, const void *s)
{
    int64_t v;
    const char *text;
    if (row->type == CONF_INT || row->type == CONF_SIZE) {
        memcpy(&v, (const char *)s + row->offset, sizeof v);
        FUZZ_NEED(v >= row->min && v <= row->max);
    } else if (row->type == CONF_STR) {
        memcpy(&text, (const char *)s + row->offset, sizeof text);
        FUZZ_NEED(text && strlen(text) <= (row->max ? (size_t)row->max : 4096));
    }
}

/* --- the other way --- */

/* As `name = value` of a file, or as the word --name=value. Quotes have no escapes, so what holds one can't be written into a file. */
static bool print_row(FILE *f, const struct conf_row *row, const void *s, bool quoted)
{
    const char *at = (const char *)s + row->offset, *text;
    int64_t v;
    if (row->type == CONF_STR) {
        memcpy(&text, at, sizeof text);
        fprintf(f, quoted ? "%s = \"%s\"\n" : "--%s=%s\n", row->name, text);
        return !quoted || !strchr(text, '"');
    }
    if (row->type == CONF_BOOL) return fprintf(f, quoted ? "%s = %s\n" : "--%s=%s\n", row->name, *(const bool *)at ? "yes" : "no") > 0;
    memcpy(&v, at, sizeof v);
    return fprintf(f, quoted ? "%s = %lld\n" : "--%s=%lld\n", row->name, (long long)v) > 0;
}

/* NULL: it can't be said so. */
static char *print_rows(const struct settings *s, const enum conf_source *source, bool quoted, size_t *len)
{
    char *text = NULL;
    bool fine = true;
    FILE *f = open_memstream(&text, len);
    FUZZ_NEED(f);
    for (size_t i = 0; i < NROWS; i++)
        if (source[i] != CONF_DEFAULT) fine = print_row(f, &rows[i], s, quoted) && fine;
    fclose(f);
    if (fine && *len <= 60 * 1024) return text;
    free(text);
    return NULL;
}

static void need_same(const struct settings *s, const enum conf_source *source, int argc, char **argv, enum conf_source now)
{
    enum conf_source other[NROWS];
    struct settings t = {0};
    struct err e = {0};
    FUZZ_NEED(conf_read(rows, NROWS, &t, other, argc, argv, &e) == 0);
    for (size_t i = 0; i < NROWS; i++) FUZZ_NEED(conf_equal(&rows[i], s, &t) && other[i] == (source[i] == CONF_DEFAULT ? CONF_DEFAULT : now));
    conf_free(rows, NROWS, &t);
}

static void read_again_from_file(const struct settings *s, const enum conf_source *source)
{
    static struct fuzz_file again;
    char program[] = "weft", flag[] = "--config", *argv[] = {program, flag, NULL, NULL};
    size_t len = 0;
    char *text = print_rows(s, source, true, &len);
    if (!text) return;
    fuzz_file_fill(&again, text, len);
    argv[2] = again.path;
    need_same(s, source, 3, argv, CONF_FILE);
    free(text);
}

static void read_again_from_words(const struct settings *s, const enum conf_source *source)
{
    char program[] = "weft", *argv[NROWS + 2] = {program};
    size_t len = 0;
    int argc = 1;
    char *text = print_rows(s, source, false, &len), *rest = text;
    if (!text) return;
    if (strchr(text, '\r') == NULL && len)
        for (char *line; (line = strsep(&rest, "\n")) && *line;) argv[argc++] = line;
    if (argc > 1) need_same(s, source, argc, argv, CONF_ARGUMENT);
    free(text);
}

static void copy_all(const struct settings *s)
{
    struct settings t = {0};
    for (int twice = 0; twice < 2; twice++)
        for (size_t i = 0; i < NROWS; i++) FUZZ_NEED(conf_copy(&rows[i], &t, s, NULL) == 0 && conf_equal(&rows[i], s, &t));
    conf_free(rows, NROWS, &t);
}

static void clear_environment(void)
{
    for (size_t i = 0; i < NROWS; i++)
        if (rows[i].env[0]) unsetenv(rows[i].env);
}

/* The documented file holds every setting, at its default. */
static void read_printed(const char *text, size_t len)
{
    static struct fuzz_file file;
    char program[] = "weft", flag[] = "--config", *argv[] = {program, flag, NULL, NULL};
    enum conf_source source[NROWS];
    struct settings s = {0}, deflt = {0};
    fuzz_file_fill(&file, text, len);
    argv[2] = file.path;
    FUZZ_NEED(conf_read(rows, NROWS, &s, source, 3, argv, NULL) == 0 && conf_load(rows, NROWS, &deflt, 1, argv, NULL, 0, NULL, NULL) == 0);
    for (size_t i = 0; i < NROWS; i++) FUZZ_NEED(source[i] == CONF_FILE && conf_equal(&rows[i], &s, &deflt));
    conf_free(rows, NROWS, &s);
    conf_free(rows, NROWS, &deflt);
}

/* --- the programs' way --- */

static bool is_asked(const struct words *w, const char *flag)
{
    for (int i = 1; i < w->argc && strcmp(w->argv[i], "--"); i++)
        if (!strcmp(w->argv[i], flag)) return true;
    return false;
}

static bool is_word(const struct words *w, const char *s)
{
    for (int i = 1; i < w->argc; i++)
        if (w->argv[i] == s) return true;
    return false;
}

/* s NULL: conf_read() refused. */
static void load(const struct settings *s, const struct words *w)
{
    const char *positional[POSITIONAL_MAX] = {0};
    struct settings t = {0}, none = {0};
    struct err e = {0};
    char *text = NULL;
    size_t len = 0;
    int n = 0;
    bool help = is_asked(w, "--help"), print = is_asked(w, "--print-config");
    FILE *was = stdout, *out = open_memstream(&text, &len);
    FUZZ_NEED(out);
    stdout = out;
    int rc = conf_load(rows, NROWS, &t, w->argc, (char **)w->argv, positional, POSITIONAL_MAX, &n, &e);
    stdout = was;
    fclose(out);
    FUZZ_NEED((rc == 1) == (help || print) && (rc == 1) == (len > 0) && (rc < 0) == (e.code != ERR_NONE) && (rc >= 0 || e.msg[0]));
    if (rc == 1) FUZZ_NEED(!memcmp(&t, &none, sizeof t));
    if (rc == 0) {
        FUZZ_NEED(n >= 0 && n <= POSITIONAL_MAX && (n == 0) == (s != NULL));
        for (int i = 0; i < n; i++) FUZZ_NEED(is_word(w, positional[i]));
        for (size_t i = 0; s && i < NROWS; i++) FUZZ_NEED(conf_equal(&rows[i], s, &t));
    } else
        FUZZ_NEED(rc == 1 || !s);
    if (rc == 1 && !help) {
        clear_environment();
        read_printed(text, len);
    }
    conf_free(rows, NROWS, &t);
    free(text);
}

/* --- what the input is made of --- */

/* A line each. "@", alone or behind "=", is the file. */
static void take_words(struct words *w, const uint8_t *data, size_t n, char *path)
{
    static char program[] = "weft";
    *w = (struct words){.argc = 1, .argv = {program}};
    while (n && w->nown < WORDS_MAX) {
        char *word = w->own[w->nown] = fuzz_until(&data, &n, '\n'), *at = strchr(word, '=');
        if (!strcmp(word, "@"))
            w->argv[w->argc] = path;
        else {
            if (at && !strcmp(at, "=@")) {
                size_t keep = (size_t)(at - word) + 1;
                FUZZ_NEED(w->own[w->nown] = word = realloc(word, keep + strlen(path) + 1));
                memcpy(word + keep, path, strlen(path) + 1);
            }
            w->argv[w->argc] = word;
        }
        w->argc++;
        w->nown++;
    }
}

/* Of the names that are settings'. */
static void take_environment(const uint8_t *data, size_t n, bool set[NROWS])
{
    while (n) {
        char *line = fuzz_until(&data, &n, '\n'), *eq = strchr(line, '=');
        for (size_t i = 0; eq && i < NROWS; i++) {
            if (!rows[i].env[0] || strlen(rows[i].env) != (size_t)(eq - line) || memcmp(rows[i].env, line, (size_t)(eq - line))) continue;
            FUZZ_NEED(setenv(rows[i].env, eq + 1, 1) == 0);
            set[i] = true;
        }
        free(line);
    }
}

/* Where the value of row i says that it comes from, it stands. */
static void check_source(size_t i, const struct settings *s, enum conf_source source, bool in_environment, const struct words *w)
{
    const char *text;
    bool there = false;
    FUZZ_NEED(source <= CONF_ARGUMENT && (!in_environment || source >= CONF_ENV) && (source != CONF_ENV || in_environment));
    if (rows[i].type != CONF_STR) return;
    memcpy(&text, (const char *)s + rows[i].offset, sizeof text);
    if (source == CONF_DEFAULT) FUZZ_NEED(!strcmp(text, rows[i].deflt));
    if (source == CONF_ENV) FUZZ_NEED(!strcmp(text, getenv(rows[i].env)));
    for (int k = 1; source == CONF_ARGUMENT && k < w->argc; k++) {
        const char *eq = strchr(w->argv[k], '=');
        there = there || !strcmp(w->argv[k], text) || (eq && !strcmp(eq + 1, text));
    }
    FUZZ_NEED(source != CONF_ARGUMENT || there);
}

static void read_all(const struct words *w, const bool set[NROWS], const char *file)
{
    enum conf_source source[NROWS];
    struct settings s = {0};
    struct err e = {0};
    const char *path = conf_path(w->argc, (char **)w->argv);
    if (path && strcmp(path, file)) return; /* no other file is read here */
    int rc = conf_read(rows, NROWS, &s, source, w->argc, (char **)w->argv, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && (rc == 0 || e.msg[0]));
    if (rc == 0)
        for (size_t i = 0; i < NROWS; i++) {
            check_range(&rows[i], &s);
            check_source(i, &s, source[i], set[i], w);
        }
    load(rc ? NULL : &s, w);
    clear_environment();
    if (rc == 0) {
        copy_all(&s);
        read_again_from_file(&s, source);
        read_again_from_words(&s, source);
    }
    conf_free(rows, NROWS, &s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const uint8_t usual[] = "--config\n@";
    static struct fuzz_file file;
    static bool begun;
    bool set[NROWS] = {false};
    struct words w;
    const uint8_t *cut = n ? memchr(data, SECTION, n) : NULL;
    size_t len = cut ? (size_t)(cut - data) : n, took = 0;
    if (!begun) clear_environment();
    begun = true;
    fuzz_file_fill(&file, data, len);
    data += len + (cut != NULL);
    n -= len + (cut != NULL);
    if (cut) {
        const uint8_t *more = n ? memchr(data, SECTION, n) : NULL;
        const uint8_t *words = fuzz_take(&data, &n, more ? (size_t)(more - data) : n, &took);
        take_words(&w, words, took, file.path);
        if (more) take_environment(more + 1, n - 1, set);
    } else
        take_words(&w, usual, sizeof usual - 1, file.path);
    read_all(&w, set, file.path);
    clear_environment();
    for (int i = 0; i < w.nown; i++) free(w.own[i]);
    return 0;
}
