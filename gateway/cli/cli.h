/* The command `weft`: what a person types. It knows the gateway's HTTP API; only `weft doctor` looks at files as well, and `weft plan` at nothing else.
 *
 * A command is a row of the table in cli_commands.c: its words, arguments, flags; the request that it is, or a function
 * for those that are more than one request (cli_NAME.c). Flags are the rows of cli_flags.def. Answers go to stdout,
 * everything about them to stderr, so `KEY=$(weft key create --tenant acme)` does what it looks like. */
#pragma once
#include "base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum cli_exit {
    CLI_OK = 0,
    CLI_FAILED = 1,       /* refused, or the answer makes no sense, or a check failed */
    CLI_USAGE = 2,        /* the command line is wrong */
    CLI_UNREACHABLE = 3,  /* nobody there, or the exchange broke off */
    CLI_UNAUTHORIZED = 4, /* 401, 403 */
    CLI_NOT_FOUND = 5,    /* 404 */
    CLI_CONFLICT = 6,     /* 409, 412: it exists, is in use, or has changed */
    CLI_LIMITED = 7,      /* 429: a limit or a budget */
    CLI_NOT_READY = 8,    /* 502, 503, 504: try again */
    CLI_EXITS
};

#define CLI_ARGS_MAX 24
#define CLI_URL_MAX 4096
#define CLI_KEY_MAX 256
#define CLI_COUNT(a) (int)(sizeof(a) / sizeof *(a))

enum cli_flag {
#define X(id, ...) CLI_##id##_FLAG,
#include "gateway/cli/cli_flags.def"
#undef X
    CLI_FLAGS
};
#define CLI_COMMON_FLAGS (CLI_CONFIG_FLAG + 1) /* the first ones */

struct cli_command;

struct cli {
    const struct cli_command *command;
    char *url, *admin_url, *key, *admin_key; /* flag, environment or file; keys may be NULL */
    bool json;
    json_t *flag[CLI_FLAGS]; /* as read, NULL: not given */
    const char *arg[CLI_ARGS_MAX];
    int nargs;
};

void cli_close(struct cli *c); /* what it owns: flags, addresses, keys */

bool cli_has(const struct cli *c, enum cli_flag f);
const char *cli_str(const struct cli *c, enum cli_flag f); /* or NULL */
int64_t cli_int(const struct cli *c, enum cli_flag f, int64_t otherwise);

int cli_error(int status, const char *format, ...) __attribute__((format(printf, 2, 3))); /* "weft: ..."; status */
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2)));             /* the same, no error */

/* --- cli_http.c: one exchange; failures are told on stderr, once, and returned as enum cli_exit --- */

enum cli_side { CLI_TENANT_SIDE, CLI_ADMIN_SIDE };

struct cli_ask {
    enum cli_side side;
    const char *method, *path; /* path as from cli_path() */
    const json_t *body;        /* or NULL */
    const void *bytes;         /* instead of body, with a Content-Type among the headers */
    size_t nbytes;
    const char *file;              /* instead of both; progress on a terminal */
    const char *header[4];         /* further ones, NULL-terminated */
    int connect_ms, first_byte_ms; /* 0: the usual */
    int expected;                  /* this status is not told */
    bool quiet;                    /* no failure is told */
    bool keyless;                  /* without a key */
};

struct cli_answer {
    int status;
    char *text; /* as it came; NULL: none */
    json_t *json;
    char request_id[64], etag[64];
    struct err broken; /* how the exchange failed, with CLI_UNREACHABLE */
};

/* The answer is the caller's also on failure: cli_answer_close(). */
int cli_ask(const struct cli *c, const struct cli_ask *ask, struct cli_answer *out);
void cli_answer_close(struct cli_answer *a);

/* cli_ask() for JSON. *out (or NULL) is the caller's, untouched on failure. */
int cli_call(const struct cli *c, enum cli_side side, const char *method, const char *path, const json_t *body,
             json_t **out);

/* A cursor list, page after page (`path` may hold a query): add() for each item until it returns not CLI_OK. */
int cli_pages(const struct cli *c, enum cli_side side, const char *path, int (*add)(void *u, json_t *item), void *u);
/* The same as one array, at most `most` (0: all); told as too long above CLI_ROWS_MAX. */
#define CLI_ROWS_MAX 1000000
int cli_list(const struct cli *c, enum cli_side side, const char *path, int64_t most, json_t **out);

/* `format` with each %s replaced by its argument, percent-encoded; ends at a NULL argument. */
void cli_path(char out[CLI_URL_MAX], const char *format, ...) __attribute__((sentinel));
int cli_query_add(char path[CLI_URL_MAX], const char *name, const char *value);

/* The whole URL and the key's header of a side; what cli_ask does before. 0 or CLI_USAGE. */
struct cli_target {
    char url[CLI_URL_MAX * 2], authorization[CLI_KEY_MAX + 32];
};
int cli_target(const struct cli *c, enum cli_side side, const char *path, struct cli_target *out);

int cli_broken(const struct err *e);                                               /* tells it; the exit status */
int cli_refused(int status, const char *body, size_t len, const char *request_id); /* the same for an error answer */
int cli_exit_of(int status);                                                       /* of an HTTP status */
