/* What `weft` makes of a gateway's answers, in commands that are more than one request: whatever is answered, the command ends, with one of its exit statuses, and asks no more than
 * there are answers; a request's body is JSON and its headers are lines. Input: a byte for the command (below), then answers, a byte 0x1e between them: a byte for the status, the body.
 * Behind the last one nobody answers. Files of commands that read some are not there. */
int cli_main(int argc, char **argv);
#define main cli_main
#include "gateway/cli/cli.c"
#undef main
#include "base/client.h"
#include "tests/fuzz/fuzz.h"
#include <time.h>

#define SECTION 0x1e
#define WORDS_MAX 16

static const char *const lines[] = {
    "usage", "usage --json", "usage --all --group-by tenant,model,key", "usage top", "usage top adapters --all --sort cost", "usage top keys --tenant t --json", "usage latency", "usage latency --all --days 3", "usage verify",
    "costs", "costs --all --group-by tenant --json", "costs --group-by model,key", "invoice", "invoice 2026-10 --all", "invoice 2026-10 --tenant t --json", "canary a", "canary a --tenant t --json", "adapter idle", "adapter idle --all --json",
    "ledger health", "ledger health --json", "event list", "event list --own --limit 2", "limit show", "limit show --tenant t", "limit show k --json", "limit set --tenant t tokens_per_day=1M",
    "limit clear --tenant t", "webhook create w https://x --own", "webhook rotate w", "webhook redeliver w from=3d", "adapter show n", "adapter show n@2 --json", "adapter versions n", "adapter wait n", "adapter wait n@1 --timeout 2s",
    "adapter import n --url https://x/y", "adapter disable n --wait", "alias set a n@1=90% n=10%", "alias set a n --json", "engine add e --base b --url http://x", "engine-token list e", "settings", "settings --json", "reload", "audit verify", "backup create",
    "backup verify 20261123T000000.000Z", "model list", "model list --json", "key create --tenant t", "admin-key create", "top --once", "top --count 2 --interval 1s", "adapter archive n", "usage latency ttft --json", "event list --json",
};
#define LINES (sizeof lines / sizeof *lines)

/* --- time passes while one waits (parts.mk: --wrap) --- */

static int64_t now_us = 1;
int64_t __wrap_clock_mono_us(void);
int64_t __wrap_clock_mono_us(void) { return now_us; }
int __wrap_nanosleep(const struct timespec *t, struct timespec *rest);
int __wrap_nanosleep(const struct timespec *t, struct timespec *rest)
{
    (void)rest;
    now_us += t->tv_sec * 1000000 + t->tv_nsec / 1000 + 1;
    return 0;
}

/* --- the gateway --- */

static const uint8_t *said;
static size_t left;
static bool over; /* nobody answers any more */

int __wrap_client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e);
int __wrap_client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e)
{
    static const int statuses[] = {200, 201, 202, 204, 400, 401, 403, 404, 409, 412, 429, 503};
    FUZZ_NEED(!strncmp(r->url, "http://", 7) && !strpbrk(r->url, " \r\n") && r->headers && r->first_byte_ms > 0 && !r->file);
    for (int i = 0; r->headers[i]; i++) FUZZ_NEED(strchr(r->headers[i], ':') && !strpbrk(r->headers[i], "\r\n"));
    if (r->body) {
        json_t *v = json_load(r->body, r->body_len, JSON_ALLOW_NUL, NULL);
        FUZZ_NEED(v);
        json_decref(v);
    }
    now_us += 1000;
    if (over || !left) {
        over = true;
        now_us += 3600 * 1000000ll;
        return err_set(e, ERR_UPSTREAM_TIMEOUT, "nobody there");
    }
    const uint8_t *end = memchr(said, SECTION, left);
    size_t n = end ? (size_t)(end - said) : left, k;
    const uint8_t *answer = fuzz_take(&said, &left, n, &k);
    if (end) fuzz_byte(&said, &left);
    *status = statuses[fuzz_byte(&answer, &n) % (sizeof statuses / sizeof *statuses)];
    struct client_reply head = {.status = *status, .etag = "\"5\"", .request_id = "r"};
    if (r->on_head) r->on_head(r->user, &head);
    if (r->on_data) return n && r->on_data(r->user, (const char *)answer, n) ? err_set(e, ERR_ENGINE, "cut") : 0;
    *len = n < max_body ? n : max_body;
    *body = fuzz_text(answer, *len);
    return 0;
}

static void begin(void)
{
    static struct fuzz_file none;
    fuzz_file_fill(&none, "", 0);
    unsetenv("WEFT_PROFILE");
    unsetenv("WEFT_API_KEY");
    setenv("WEFT_CONFIG", none.path, 1);
    setenv("WEFT_URL", "http://gateway", 1);
    setenv("WEFT_ADMIN_URL", "http://gateway:1", 1);
    setenv("WEFT_KEY", "wf_k", 1);
    setenv("WEFT_ADMIN_KEY", "wfa_k", 1);
    json_start();
}

static int carry_out(const char *line)
{
    static FILE *none;
    char text[256], program[] = "weft", *argv[WORDS_MAX + 2] = {program}, *save = NULL;
    int words = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *w = strtok_r(text, " ", &save); w && words <= WORDS_MAX; w = strtok_r(NULL, " ", &save)) argv[words++] = w;
    FILE *out = stdout, *err = stderr;
    if (!none) none = fopen("/dev/null", "w");
    FUZZ_NEED(none);
    stdout = stderr = none;
    int status = cli_main(words, argv);
    stdout = out;
    stderr = err;
    cli_print_to(out);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static bool started;
    if (!started) begin();
    started = true;
    unsigned which = fuzz_byte(&data, &n);
    said = data;
    left = n;
    over = false;
    now_us = 1;
    int status = carry_out(lines[which % LINES]);
    FUZZ_NEED(status >= CLI_OK && status < CLI_EXITS);
    FUZZ_NEED(!over || status != CLI_OK || !strncmp(lines[which % LINES], "top", 3));
    return 0;
}
