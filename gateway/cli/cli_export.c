/* weft export: usage rows into a file, or to stdout.
 *
 *     the file there is -> keep its whole rows -> GET ...?after=the last kept -> rows -> file
 *                                                    ^        | broke off
 *                                                    `--------'  a rest, TRIES times without a row
 *
 * A row goes into the file when the next one has come, or the end of the answer: so the file has whole rows only, however the command or the
 * connection ends, and what a kill tore is cut off by the next run. FOCUS has up to three lines for one request; lines with the same id (the first
 * field) stay together. The last ones of a file are asked for again: nobody knows whether they were all.
 *
 * Records are told apart as RFC 4180 says: a line end within quotes belongs to the field. One thread. */
#include "base/buf.h"
#include "base/client.h"
#include "base/clock.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TRIES 5
#define RECORD_MAX (1u << 20)
#define GROUP_MAX (4u << 20)
#define ERROR_MAX (64u << 10)
#define PIECE 65536
#define CONNECT_MS 5000
#define FIRST_BYTE_MS 60000
#define IDLE_MS 120000
#define ID_LEN 37

struct export {
    const struct cli *c;
    const char *path; /* NULL: stdout */
    int fd;
    bool json;        /* lines of JSON: no head */
    struct buf record, head, group, out, error;
    bool quoted;      /* within a field in quotes, at the end of record */
    bool head_seen;   /* of this answer, or file */
    bool began;       /* an answer has */
    bool reading;     /* of the file: nothing is written */
    char group_id[ID_LEN], after[ID_LEN];
    int64_t rows, at, keep, whole; /* of the file: bytes seen, up to its last group, up to its last record's end */
    bool uncut;                    /* the file still has what is behind keep */
    int status, wrong;             /* wrong: exit status of an answer that was told to be none */
    char request_id[64];
};

/* --- records --- */

/* The first field of a record is its id. */
static int read_id(const struct export *x, char id[ID_LEN])
{
    static const char lead[] = "{\"id\":\"";
    size_t skip = x->json ? sizeof lead - 1 : 0;
    const char *s = x->record.data + skip;
    if (x->record.len < skip + ID_LEN || (x->json && strncmp(x->record.data, lead, skip))) return -1;
    if (s[ID_LEN - 1] != (x->json ? '"' : ',')) return -1;
    snprintf(id, ID_LEN, "%.36s", s);
    return 0;
}

/* Nothing of a file is given up before there is something to take its place. */
static int cut(struct export *x, int64_t at)
{
    if (!x->uncut) return CLI_OK;
    x->uncut = false;
    return ftruncate(x->fd, at) || lseek(x->fd, at, SEEK_SET) < 0 ? cli_error(CLI_FAILED, "%s: %s", x->path, strerror(errno)) : CLI_OK;
}

static int write_all(struct export *x)
{
    if (x->out.len && cut(x, x->keep)) return CLI_FAILED;
    for (size_t done = 0; done < x->out.len;) {
        ssize_t n = write(x->fd, x->out.data + done, x->out.len - done);
        if (n < 0 && errno != EINTR) return cli_error(CLI_FAILED, "%s: %s", x->path ? x->path : "stdout", strerror(errno));
        if (n > 0) done += (size_t)n;
    }
    buf_reset(&x->out);
    return CLI_OK;
}

/* The rows of one id are whole. */
static int end_group(struct export *x)
{
    if (!*x->group_id) return CLI_OK;
    if (x->reading) x->keep = x->at - (int64_t)x->record.len;
    else if (buf_add(&x->out, x->group.data, x->group.len)) return cli_error(CLI_FAILED, "out of memory");
    snprintf(x->after, ID_LEN, "%s", x->group_id);
    x->group_id[0] = 0;
    buf_reset(&x->group);
    x->rows++;
    return x->out.len >= PIECE ? write_all(x) : CLI_OK;
}

static int take_head(struct export *x)
{
    bool first = !x->head.len;
    x->head_seen = true;
    if (first) buf_add(&x->head, x->record.data, x->record.len);
    if (first && x->reading) x->keep = x->at;
    if (first && !x->reading) buf_add(&x->out, x->record.data, x->record.len);
    bool same = x->head.len == x->record.len && !memcmp(x->head.data, x->record.data, x->head.len);
    return same ? CLI_OK : cli_error(CLI_USAGE, "%s has other columns than this export: it is of another format or version", x->path ? x->path : "stdout");
}

static int take_record(struct export *x)
{
    char id[ID_LEN];
    int rc = CLI_OK;
    if (!x->json && !x->head_seen) return take_head(x);
    if (read_id(x, id)) return cli_error(CLI_FAILED, x->reading ? "%s is no export of this format" : "the server's answer is no export", x->path);
    if (strcmp(id, x->group_id)) rc = end_group(x);
    snprintf(x->group_id, ID_LEN, "%s", id);
    if (!rc && !x->reading && buf_add(&x->group, x->record.data, x->record.len)) rc = cli_error(CLI_FAILED, "a row is too long");
    return rc;
}

static int take_bytes(struct export *x, const char *bytes, size_t n)
{
    while (n) {
        const char *end = memchr(bytes, '\n', n);
        size_t k = end ? (size_t)(end - bytes) + 1 : n;
        for (const char *q = bytes; !x->json && (q = memchr(q, '"', (size_t)(bytes + k - q))); q++) x->quoted = !x->quoted;
        if (buf_add(&x->record, bytes, k)) return cli_error(CLI_FAILED, "a row is too long");
        x->at += (int64_t)k;
        bytes += k, n -= k;
        if (!end || x->quoted) continue;
        int rc = take_record(x);
        if (rc) return rc;
        buf_reset(&x->record);
        if (x->reading) x->whole = x->at;
    }
    return CLI_OK;
}

/* What was not ended is forgotten: it comes again. */
static void forget(struct export *x)
{
    buf_reset(&x->record);
    buf_reset(&x->group);
    x->group_id[0] = 0;
    x->quoted = x->head_seen = false;
}

/* --- the file --- */

static int scan_file(struct export *x)
{
    static char piece[PIECE];
    ssize_t n = 0;
    int rc = CLI_OK;
    x->reading = true;
    while (!rc && (n = read(x->fd, piece, sizeof piece)) > 0) rc = take_bytes(x, piece, (size_t)n);
    if (n < 0) rc = cli_error(CLI_FAILED, "%s: %s", x->path, strerror(errno));
    x->reading = false;
    forget(x);
    x->uncut = true;
    if (!rc && x->rows) cli_note("%s has %" PRId64 " rows; going on after %s", x->path, x->rows, x->after);
    x->rows = 0;
    return rc;
}

static int open_file(struct export *x)
{
    struct stat st;
    if (!x->path) {
        x->fd = STDOUT_FILENO;
        return CLI_OK;
    }
    x->fd = open(x->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (x->fd < 0 || fstat(x->fd, &st)) return cli_error(CLI_FAILED, "%s: %s", x->path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return CLI_OK;
    return scan_file(x);
}

static int close_file(struct export *x)
{
    if (!x->path || x->fd < 0) return CLI_OK;
    struct stat st;
    bool regular = fstat(x->fd, &st) == 0 && S_ISREG(st.st_mode);
    bool bad = regular && fsync(x->fd);
    bad |= close(x->fd) != 0;
    return bad ? cli_error(CLI_FAILED, "%s: %s", x->path, strerror(errno)) : CLI_OK;
}

/* --- the exchange --- */

static void on_head(void *u, const struct client_reply *r)
{
    struct export *x = u;
    x->status = r->status;
    x->began |= r->status == 200;
    snprintf(x->request_id, sizeof x->request_id, "%s", r->request_id ? r->request_id : "");
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct export *x = u;
    if (x->status != 200) return buf_add(&x->error, bytes, n);
    x->wrong = take_bytes(x, bytes, n);
    return x->wrong ? -1 : 0;
}

static int add_time(const struct cli *c, char path[CLI_URL_MAX], const char *name, enum cli_flag f, int64_t otherwise)
{
    char text[24];
    int64_t t = cli_int(c, f, otherwise);
    if (t < 0) return CLI_OK;
    snprintf(text, sizeof text, "%" PRId64, t);
    return cli_query_add(path, name, text);
}

/* The end is said even where nobody asked for one: what is tried again must not grow meanwhile. */
static int make_path(const struct export *x, bool admin, int64_t now, char path[CLI_URL_MAX])
{
    const struct cli *c = x->c;
    const char *format = cli_str(c, CLI_FORMAT_FLAG), *tenant = cli_str(c, CLI_TENANT_FLAG);
    int64_t days = cli_int(c, CLI_DAYS_FLAG, 0), since = days ? (now / 86400 - days + 1) * 86400 : -1;
    snprintf(path, CLI_URL_MAX, admin ? "/admin/v1/exports/usage" : "/v1/exports/usage");
    int rc = format ? cli_query_add(path, "format", format) : CLI_OK;
    if (!rc) rc = add_time(c, path, "start_time", CLI_SINCE_FLAG, since);
    if (!rc) rc = add_time(c, path, "end_time", CLI_UNTIL_FLAG, now + 1);
    if (!rc && tenant) rc = cli_query_add(path, "tenant", tenant);
    if (!rc && cli_has(c, CLI_FRESH_FLAG)) rc = cli_query_add(path, "all", "true");
    if (!rc && cli_has(c, CLI_PARTIAL_FLAG)) rc = cli_query_add(path, "partial", "true");
    return rc;
}

/* One answer; CLI_UNREACHABLE and CLI_NOT_READY may be tried again. */
static int fetch(struct export *x, enum cli_side side, const char *base, bool aloud)
{
    char path[CLI_URL_MAX];
    struct cli_target t;
    struct err e = {0};
    char *none = NULL;
    size_t len = 0;
    snprintf(path, sizeof path, "%s", base);
    int rc = *x->after ? cli_query_add(path, "after", x->after) : CLI_OK;
    if (!rc) rc = cli_target(x->c, side, path, &t);
    if (rc == CLI_UNAUTHORIZED) return cli_error(CLI_USAGE, side == CLI_ADMIN_SIDE ? "no key: set WEFT_ADMIN_KEY" : "no key: set WEFT_KEY");
    if (rc) return rc;
    const char *headers[] = {t.authorization, NULL};
    struct client_request req = {.method = "GET", .url = t.url, .headers = headers, .connect_ms = CONNECT_MS, .first_byte_ms = FIRST_BYTE_MS,
                                 .idle_ms = IDLE_MS, .on_head = on_head, .on_data = on_data, .user = x};
    forget(x);
    buf_reset(&x->error);
    x->status = 0;
    rc = client_fetch(&req, 0, &x->status, &none, &len, &e);
    free(none);
    if (x->status && x->status != 200) {
        int status = cli_exit_of(x->status);
        return aloud || !x->began || status != CLI_NOT_READY ? cli_refused(x->status, x->error.data, x->error.len, x->request_id) : status;
    }
    if (x->wrong) return x->wrong;
    if (!rc) return end_group(x);
    return aloud || !x->began ? cli_broken(&e) : CLI_UNREACHABLE; /* nobody there to begin with: no reason to wait */
}

static void rest(int try)
{
    struct timespec pause = {.tv_sec = try ? 1 << (try - 1) : 0, .tv_nsec = try ? 0 : 100000000};
    nanosleep(&pause, NULL);
}

static int run(struct export *x)
{
    char path[CLI_URL_MAX];
    bool admin = cli_has(x->c, CLI_ALL_FLAG) || cli_has(x->c, CLI_TENANT_FLAG);
    int rc = make_path(x, admin, clock_wall_us() / 1000000, path);
    for (int try = 0; !rc && try < TRIES; try++) {
        int64_t before = x->rows;
        rc = fetch(x, admin ? CLI_ADMIN_SIDE : CLI_TENANT_SIDE, path, try + 1 == TRIES);
        int wrote = write_all(x);
        if (wrote) return wrote;
        if ((rc != CLI_UNREACHABLE && rc != CLI_NOT_READY) || !x->began || try + 1 == TRIES) break;
        if (x->rows > before) try = -1;
        cli_note("the connection broke off after %" PRId64 " rows; going on", x->rows);
        rest(try < 0 ? 0 : try);
        rc = CLI_OK;
    }
    return rc;
}

static int check(const struct cli *c)
{
    if (cli_has(c, CLI_DAYS_FLAG) && cli_has(c, CLI_SINCE_FLAG)) return cli_error(CLI_USAGE, "--days and --since don't go together");
    const char *after = cli_str(c, CLI_AFTER_FLAG);
    return after && strlen(after) != ID_LEN - 1 ? cli_error(CLI_USAGE, "--after %.60s: not the id of a row", after) : CLI_OK;
}

int cli_export(const struct cli *c)
{
    const char *format = cli_str(c, CLI_FORMAT_FLAG), *after = cli_str(c, CLI_AFTER_FLAG);
    struct export x = {.c = c, .path = c->nargs && strcmp(c->arg[0], "-") ? c->arg[0] : NULL, .fd = -1, .json = format && !strcmp(format, "jsonl")};
    buf_init(&x.record, RECORD_MAX), buf_init(&x.head, RECORD_MAX), buf_init(&x.group, GROUP_MAX), buf_init(&x.out, GROUP_MAX + PIECE);
    buf_init(&x.error, ERROR_MAX);
    int rc = check(c);
    if (!rc) rc = open_file(&x);
    if (!rc && after && !*x.after) snprintf(x.after, ID_LEN, "%s", after);
    if (!rc) rc = run(&x);
    if (!rc) rc = cut(&x, x.whole); /* what a kill tore */
    int closed = close_file(&x);
    if (!rc) rc = closed;
    if (!rc && x.path) cli_note("%" PRId64 " rows into %s", x.rows, x.path);
    buf_close(&x.record), buf_close(&x.head), buf_close(&x.group), buf_close(&x.out), buf_close(&x.error);
    return rc;
}
