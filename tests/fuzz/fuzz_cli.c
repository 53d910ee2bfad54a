/* The command line of `weft`: words and flags are read or refused with the exit status of a wrong command line, never more arguments than the command takes, a request's body and
 * path are whole; a command that is one request is carried out, with a configuration file and an answer of the server's, and asks the address that it is told to, with its key.
 * Commands with a function of their own are read only. Input: the words, a line each; behind a byte 0x1e the configuration file, which is also what "@" names where a file's
 * name may stand; behind another one the server's answer. Other files are left alone. */
int cli_main(int argc, char **argv);
#define main cli_main
#include "gateway/cli/cli.c"
#undef main
#include "base/client.h"
#include "tests/fuzz/fuzz.h"

#define SECTION 0x1e
#define WORDS_MAX 24
#define FETCHES_MAX 3 /* pages that are answered */

static struct fuzz_file file; /* of the configuration, and for a flag that reads one */
static const uint8_t *answer;
static size_t answer_len;
static int fetches;

/* In the place of client_fetch(), by the linker's --wrap (parts.mk): the server answers what the input says, the first byte being which status. */
int __wrap_client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e);
int __wrap_client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e)
{
    static const int statuses[] = {200, 201, 204, 400, 401, 403, 404, 409, 412, 429, 500, 503};
    FUZZ_NEED(!strncmp(r->url, "http://", 7) || !strncmp(r->url, "https://", 8));
    FUZZ_NEED(!r->file && r->headers && r->headers[0] && r->first_byte_ms > 0);
    for (int i = 0; r->headers[i]; i++) FUZZ_NEED(strchr(r->headers[i], ':') && !strpbrk(r->headers[i], "\r\n"));
    if (r->body) {
        json_t *v = json_loadb(r->body, r->body_len, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
        FUZZ_NEED(v);
        json_decref(v);
    }
    if (++fetches > FETCHES_MAX || !answer_len) return err_set(e, ERR_UPSTREAM_TIMEOUT, "nobody there");
    *status = statuses[answer[0] % (sizeof statuses / sizeof *statuses)];
    *len = answer_len - 1 < max_body ? answer_len - 1 : max_body;
    *body = fuzz_text(answer + 1, *len);
    return 0;
}

static void check_flags(const struct cli *c)
{
    for (int i = 0; i < CLI_FLAGS; i++) {
        const json_t *v = c->flag[i];
        if (!v || !json_is_number(v) || cli_flags[i].most == 0) continue;
        if (cli_flags[i].kind != CLI_V_INT && cli_flags[i].kind != CLI_V_NUM) continue;
        FUZZ_NEED(json_number_value(v) >= cli_flags[i].least && json_number_value(v) <= cli_flags[i].most);
    }
}

static void check_request(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *body = NULL;
    if (c->command->run) return;
    if (cli_fill(c, c->command->path, path) == CLI_OK) FUZZ_NEED(path[0] == '/' && memchr(path, 0, sizeof path) && !strpbrk(path, " \t\r\n\"<>"));
    if (cli_body(c, &body) == CLI_OK) FUZZ_NEED(!body || json_is_object(body));
    json_decref(body);
}

/* Every word as a value of every kind up to `last`; amounts are printed and read again as the same. */
static void check_value(const char *word, int last)
{
    char why[CLI_WHY], text[64];
    for (int kind = CLI_V_ON; kind <= last; kind++) {
        json_t *v = NULL, *again = NULL;
        const char *read = kind == CLI_V_FILE ? file.path : word;
        double most = kind == CLI_V_SPAN ? 3600 : 0;
        why[0] = 0;
        if (cli_value_read((enum cli_value_kind)kind, read, 0, most, &v, why)) {
            FUZZ_NEED(why[0] && memchr(why, 0, sizeof why) && !v);
            continue;
        }
        if (kind == CLI_V_SPAN) FUZZ_NEED(json_integer_value(v) >= 0 && json_integer_value(v) <= 3600);
        if (kind == CLI_V_FILE) FUZZ_NEED(json_string_length(v) > 0 && !strpbrk(json_string_value(v), "\r\n"));
        FUZZ_NEED(v);
        text[0] = 0;
        if (kind == CLI_V_COUNT && json_is_integer(v)) cli_value_count(json_integer_value(v), text, sizeof text);
        if (kind == CLI_V_MONEY && json_is_integer(v)) cli_value_money(json_integer_value(v), text, sizeof text);
        if (text[0]) FUZZ_NEED(cli_value_read((enum cli_value_kind)kind, text, 0, 0, &again, why) == 0 && json_equal(v, again));
        json_decref(v);
        json_decref(again);
    }
}

/* A flag that reads a file reads no other one than ours. */
static bool names_other_file(char *const *word, int n)
{
    for (int i = 0; i < n; i++)
        for (int f = 0; f < CLI_FLAGS; f++) {
            size_t len = strlen(cli_flags[f].name);
            if ((cli_flags[f].kind != CLI_V_FILE && f != CLI_CONFIG_FLAG) || strncmp(word[i], cli_flags[f].name, len)) continue;
            const char *value = word[i][len] == '=' ? word[i] + len + 1 : i + 1 < n ? word[i + 1] : "";
            if (strcmp(value, file.path) && *value) return true;
        }
    return false;
}

/* The status of reading alone; -1: what it would do is not done here. */
static int read_line(char **word, int n)
{
    int words, rc;
    const struct cli_command *k = n ? cli_command_find(n, word, &words) : NULL;
    if (!k) return CLI_OK;
    FUZZ_NEED(words >= 1 && words <= n);
    struct cli c = {.command = k};
    rc = read_words(&c, n - words, word + words);
    FUZZ_NEED(rc == CLI_OK || rc == CLI_USAGE);
    FUZZ_NEED(c.nargs <= k->most_args && c.nargs <= CLI_ARGS_MAX);
    for (int i = 0; i < c.nargs; i++) FUZZ_NEED(c.arg[i]);
    bool help = cli_has(&c, CLI_HELP_FLAG);
    if (rc == CLI_OK) check_flags(&c);
    if (rc == CLI_OK && !help) rc = complete(&c);
    FUZZ_NEED(rc == CLI_OK || rc == CLI_USAGE);
    if (rc == CLI_OK && !help) {
        check_request(&c);
        if (k->run) rc = -1;
    }
    cli_close(&c);
    return rc;
}

/* The whole of it. What was found wrong before is wrong again. */
static void carry_out(char **word, int n, int rc)
{
    char program[] = "weft", *argv[WORDS_MAX + 2] = {program};
    memcpy(argv + 1, word, (size_t)n * sizeof *word);
    fetches = 0;
    int status = cli_main(n + 1, argv);
    FUZZ_NEED(status >= CLI_OK && status < CLI_EXITS && (rc != CLI_USAGE || (status == CLI_USAGE && !fetches)));
    FUZZ_NEED(n || status == CLI_USAGE);
}

static void start(void)
{
    static const char *const names[] = {"WEFT_URL", "WEFT_ADMIN_URL", "WEFT_KEY", "WEFT_API_KEY", "WEFT_ADMIN_KEY", "WEFT_PROFILE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
    fuzz_file_fill(&file, "", 0);
    setenv("WEFT_CONFIG", file.path, 1);
    json_start();
}

/* "@", alone or behind "=", is the file. */
static char *take_word(const uint8_t **data, size_t *n)
{
    char *word = fuzz_until(data, n, '\n'), *at = strcmp(word, "@") ? strstr(word, "=@") : word;
    size_t keep = at == word ? 0 : at ? (size_t)(at - word) + 1 : 0;
    if (!at || word[keep + 1]) return word;
    FUZZ_NEED((word = realloc(word, keep + sizeof file.path)));
    memcpy(word + keep, file.path, sizeof file.path);
    return word;
}

/* What is told to people is theirs. */
static void run_quietly(char **word, int n)
{
    static FILE *none;
    FILE *out = stdout, *err = stderr;
    if (!none) none = fopen("/dev/null", "w");
    FUZZ_NEED(none);
    stdout = stderr = none;
    int rc = read_line(word, n);
    if (rc >= 0) carry_out(word, n, rc);
    stdout = out;
    stderr = err;
    cli_print_to(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *word[WORDS_MAX + 1] = {NULL};
    int words = 0;
    const uint8_t *cut = n ? memchr(data, SECTION, n) : NULL, *more;
    size_t len = cut ? (size_t)(cut - data) : n, rest = cut ? n - len - 1 : 0;
    if (!file.path[0]) start();
    more = rest ? memchr(cut + 1, SECTION, rest) : NULL;
    fuzz_file_fill(&file, cut ? cut + 1 : data, more ? (size_t)(more - cut - 1) : rest);
    answer = more ? more + 1 : NULL;
    answer_len = more ? (size_t)(data + n - more - 1) : 0;
    while (len && words < WORDS_MAX) word[words++] = take_word(&data, &len);
    for (int i = 0; i < words; i++) check_value(word[i], i ? CLI_V_FILE - 1 : CLI_V_FILE);
    if (!names_other_file(word, words)) run_quietly(word, words);
    for (int i = 0; i < words; i++) free(word[i]);
    return 0;
}
