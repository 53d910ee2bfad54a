/* Settings: one table per program, schema/<program>_settings.def, is at once the struct, the file, the environment, the
 * command line, --help and the documented default file.
 *
 * A row: X(field, TYPE, "default", min, max, "ENV_NAME", "what it means, with its unit"); TYPE is STR, INT, BOOL or
 * SIZE (bytes; k, m, g suffixes) . Later wins: default < file (--config FILE, lines `name = value`, # comments) <
 * environment < --name VALUE or --name=VALUE. Field underscores are dashes on the command line. Unknown names and
 * values out of range are errors that name the file and line. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum conf_type { CONF_STR, CONF_INT, CONF_BOOL, CONF_SIZE };

#define CONF_CTYPE_STR const char *
#define CONF_CTYPE_INT int64_t
#define CONF_CTYPE_BOOL bool
#define CONF_CTYPE_SIZE int64_t

struct conf_row {
    const char *name; /* with underscores */
    enum conf_type type;
    const char *deflt;
    int64_t min, max; /* INT and SIZE; for STR max is the length, 0: 4096 */
    const char *env;  /* or "" */
    const char *help;
    size_t offset; /* in the program's settings struct */
};

/* A program's struct and its table are these few lines:
 *
 *     struct settings {
 *     #define X CONF_FIELD
 *     #include "schema/gateway_settings.def"
 *     #undef X
 *     };
 *     static const struct conf_row rows[] = {
 *     #define X(...) CONF_ROW(struct settings, __VA_ARGS__)
 *     #include "schema/gateway_settings.def"
 *     #undef X
 *     };
 *     conf_load(rows, CONF_ROWS(rows), &settings, argc, argv, NULL, 0, NULL, &e); */
#define CONF_FIELD(field, TYPE, deflt, min, max, env, help) CONF_CTYPE_##TYPE field;
#define CONF_ROW(st, field, TYPE, deflt, min, max, env, help)                                                          \
    {#field, CONF_##TYPE, deflt, min, max, env, help, offsetof(st, field)},
#define CONF_ROWS(rows) (sizeof(rows) / sizeof *(rows))

/* In the file a comment is a # at the start of a line or after a blank; a value may stand in "double quotes", which
 * then keep blanks and #. No name may occur twice in it. BOOL is true/false, yes/no, on/off or 1/0. After "--" all is
 * positional.
 *
 * Fills `settings`, which must come zeroed (strings are malloc'ed and live as long as the program). argv[0] is skipped;
 * positional arguments are an error unless `positional` is given: then they are stored there, up to max_positional.
 * Returns 0; 1 when --help or --print-config was asked for and printed; -1 with ERR_USAGE. */
int conf_load(const struct conf_row *rows, size_t nrows, void *settings, int argc, char **argv, const char **positional,
              int max_positional, int *npositional, struct err *e);

/* Where a value came from. */
enum conf_source { CONF_DEFAULT, CONF_FILE, CONF_ENV, CONF_ARGUMENT };

/* The same once more, while the program runs: reads defaults, file, environment and command line into `settings`, which must come zeroed,
 * and tells for each row where its value came from. Positional arguments are an error. On failure too, conf_free() is owed. */
int conf_read(const struct conf_row *rows, size_t nrows, void *settings, enum conf_source *source /* [nrows] */, int argc, char **argv,
              struct err *e);
void conf_free(const struct conf_row *rows, size_t nrows, void *settings); /* the strings */
const char *conf_path(int argc, char **argv); /* the settings file, NULL: none */

bool conf_equal(const struct conf_row *row, const void *a, const void *b);
/* Row's value of `from` into `to`, whose string is freed. */
int conf_copy(const struct conf_row *row, void *to, const void *from, struct err *e);

/* The documented default file. */
void conf_print(const struct conf_row *rows, size_t nrows, FILE *f);
