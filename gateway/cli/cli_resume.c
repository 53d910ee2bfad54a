/* weft adapter push --resume: both files in parts, going on where an earlier try ended.
 *
 *     digests of both files -> the upload that was begun with them, or a new one -> what is missing, PART by PART
 *       -> complete -> the version
 *
 * Which upload belongs to which files is kept in $XDG_STATE_HOME/weft/uploads (~/.local/state/weft/uploads), a file per
 * gateway, key, name and contents, holding the upload's id; so another copy of the same folder goes on as well, and a
 * changed one begins anew. A connection that breaks is tried again TRIES times in a row without progress; what arrived
 * counts; a gateway that loses what it had LOSSES times is given up. Each part carries Content-Range and its Content-Digest, and the Repr-Digest of its whole file. Memory: one part. */
#include "base/sha256.h"
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_verbs.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PART (8u << 20)
#define TRIES 5
#define LOSSES 3 /* of what had arrived, in one file */
#define PATH_BYTES 4096
#define FILES 2
#define READY_MS 600000

struct part_file {
    const char *word, *name; /* in the path; on the disk */
    int fd;
    int64_t size, there; /* what the gateway has of it */
    uint8_t sha256[SHA256_BYTES];
};

struct upload {
    const struct cli *c;
    const char *adapter;
    char id[80], state_path[PATH_BYTES];
    struct part_file file[FILES];
    char *part; /* PART bytes */
    bool bar;   /* progress on stderr */
};

/* --- digests --- */

static int read_at(int fd, char *to, size_t n, int64_t at)
{
    while (n) {
        ssize_t k = pread(fd, to, n, at);
        if (k < 0 && errno == EINTR) continue;
        if (k == 0) errno = EIO; /* it shrank */
        if (k <= 0) return -1;
        to += k, at += k, n -= (size_t)k;
    }
    return 0;
}

static int digest(struct upload *u, struct part_file *f)
{
    struct sha256 h;
    sha256_init(&h);
    for (int64_t at = 0; at < f->size;) {
        size_t n = f->size - at < PART ? (size_t)(f->size - at) : PART;
        if (read_at(f->fd, u->part, n, at)) return cli_error(CLI_FAILED, "%s: %s", f->name, strerror(errno));
        sha256_add(&h, u->part, n);
        at += (int64_t)n;
    }
    sha256_end(&h, f->sha256);
    return CLI_OK;
}

static int open_file(struct upload *u, struct part_file *f, const char *dir)
{
    char path[PATH_BYTES];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/%s", dir, f->name) >= (int)sizeof path)
        return cli_error(CLI_USAGE, "%.80s...: the path is too long", dir);
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0 || fstat(f->fd, &st)) return cli_error(CLI_USAGE, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || !st.st_size)
        return cli_error(CLI_USAGE, "%s is %s", path, st.st_size ? "not a plain file" : "empty");
    f->size = st.st_size;
    return digest(u, f);
}

/* --- what was begun --- */

static int make_folders(char *path)
{
    for (char *p = path + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        int failed = mkdir(path, 0700) && errno != EEXIST;
        *p = '/';
        if (failed) return -1;
    }
    return 0;
}

/* Names the state file. A key's public id is in its text; the secret is in no file's name, hashed or not. */
static int state_file(struct upload *u)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME"), *key = u->c->key ? u->c->key : "";
    char id[20], hex[SHA256_HEX];
    uint8_t name[SHA256_BYTES];
    struct sha256 h;
    snprintf(id, sizeof id, "%.16s", key);
    sha256_init(&h);
    sha256_add(&h, u->c->url, strlen(u->c->url) + 1);
    sha256_add(&h, id, strlen(id) + 1);
    sha256_add(&h, u->adapter, strlen(u->adapter) + 1);
    for (int i = 0; i < FILES; i++) sha256_add(&h, u->file[i].sha256, SHA256_BYTES);
    sha256_end(&h, name);
    sha256_hex(name, hex);
    int n = xdg && *xdg
                ? snprintf(u->state_path, PATH_BYTES, "%s/weft/uploads/%.32s", xdg, hex)
                : snprintf(u->state_path, PATH_BYTES, "%s/.local/state/weft/uploads/%.32s", home ? home : "", hex);
    if (n < PATH_BYTES && !make_folders(u->state_path)) return CLI_OK;
    return cli_error(CLI_FAILED, "%s: %s", u->state_path, strerror(errno));
}

static void load_id(struct upload *u)
{
    FILE *f = fopen(u->state_path, "re");
    if (f && !fgets(u->id, sizeof u->id, f)) u->id[0] = 0;
    u->id[strspn(u->id, "0123456789abcdefABCDEF-_")] = 0;
    if (f) fclose(f);
}

static int save_id(const struct upload *u)
{
    int fd = open(u->state_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    size_t n = strlen(u->id);
    bool ok = fd >= 0 && write(fd, u->id, n) == (ssize_t)n;
    if (fd >= 0 && close(fd)) ok = false;
    return ok ? CLI_OK : cli_error(CLI_FAILED, "%s: %s", u->state_path, strerror(errno));
}

/* --- the upload at the gateway --- */

static void path_of(const struct upload *u, const char *tail, char path[CLI_URL_MAX])
{
    char base[CLI_URL_MAX];
    cli_path(base, "/v1/adapters/%s/uploads/%s", u->adapter, u->id, NULL);
    if (snprintf(path, CLI_URL_MAX, "%s%s", base, tail) >= CLI_URL_MAX) path[0] = 0;
}

static int take(struct upload *u, const json_t *o)
{
    const char *id = json_string_value(json_object_get(o, "id"));
    const json_t *files = json_object_get(o, "files");
    if (!id || strlen(id) >= sizeof u->id || !files) return cli_error(CLI_FAILED, "the server's answer is no upload");
    snprintf(u->id, sizeof u->id, "%s", id);
    for (int i = 0; i < FILES; i++) {
        int64_t there = json_integer_value(json_object_get(json_object_get(files, u->file[i].word), "received"));
        if (there < 0 || there > u->file[i].size)
            return cli_error(CLI_FAILED, "the gateway has more of %s than there is", u->file[i].name);
        u->file[i].there = there;
    }
    return CLI_OK;
}

static int begin(struct upload *u)
{
    char path[CLI_URL_MAX];
    const char *description = cli_str(u->c, CLI_DESCRIPTION_FLAG);
    json_t *body = json_object(), *o = NULL;
    cli_path(path, "/v1/adapters/%s/uploads", u->adapter, NULL);
    if (description) json_object_set_new(body, "description", json_string(description));
    int rc = cli_call(u->c, CLI_TENANT_SIDE, "POST", path, body, &o);
    if (!rc) rc = take(u, o);
    if (!rc) rc = save_id(u);
    json_decref(body);
    json_decref(o);
    return rc;
}

/* The one that was begun, if it is still open or under way; *over: nothing is to be sent any more. */
static int look(struct upload *u, bool quiet, bool *over)
{
    char path[CLI_URL_MAX];
    struct cli_answer a;
    path_of(u, "", path);
    int rc = cli_ask(u->c, &(struct cli_ask){.method = "GET", .path = path, .expected = 404, .quiet = quiet}, &a);
    const char *state = json_string_value(json_object_get(a.json, "state"));
    *over = state && strcmp(state, "open");
    if (!rc && state && !strcmp(state, "failed")) rc = CLI_NOT_FOUND; /* once more, from the beginning */
    if (!rc) rc = take(u, a.json);
    cli_answer_close(&a);
    return rc;
}

static int find(struct upload *u, bool *over)
{
    *over = false;
    load_id(u);
    if (!*u->id) return begin(u);
    int rc = look(u, false, over);
    if (rc != CLI_NOT_FOUND) {
        if (!rc && !*over) cli_note("going on with upload %s", u->id);
        return rc;
    }
    u->id[0] = 0;
    *over = false;
    return begin(u);
}

static void show(const struct upload *u)
{
    int64_t done = 0, total = 0;
    if (!u->bar) return;
    for (int i = 0; i < FILES; i++) done += u->file[i].there, total += u->file[i].size;
    cli_progress(done, total);
}

static int send_part(struct upload *u, struct part_file *f, bool quiet)
{
    char path[CLI_URL_MAX], tail[32], range[128], part[SHA256_BASE64], whole[SHA256_BASE64], part_header[96],
        whole_header[96];
    uint8_t sum[SHA256_BYTES];
    struct cli_answer a;
    size_t n = f->size - f->there < PART ? (size_t)(f->size - f->there) : PART;
    if (read_at(f->fd, u->part, n, f->there)) return cli_error(CLI_FAILED, "%s: %s", f->name, strerror(errno));
    sha256_of(u->part, n, sum);
    sha256_base64(sum, part);
    sha256_base64(f->sha256, whole);
    snprintf(tail, sizeof tail, "/%s", f->word);
    path_of(u, tail, path);
    snprintf(range, sizeof range, "Content-Range: bytes %" PRId64 "-%" PRId64 "/%" PRId64, f->there,
             f->there + (int64_t)n - 1, f->size);
    snprintf(part_header, sizeof part_header, "Content-Digest: sha-256=:%s:", part);
    snprintf(whole_header, sizeof whole_header, "Repr-Digest: sha-256=:%s:", whole);
    struct cli_ask ask = {.method = "PUT",
                          .path = path,
                          .bytes = u->part,
                          .nbytes = n,
                          .quiet = quiet,
                          .header = {"Content-Type: application/octet-stream", range, part_header, whole_header}};
    int rc = cli_ask(u->c, &ask, &a);
    if (!rc) rc = take(u, a.json);
    cli_answer_close(&a);
    return rc;
}

static bool passes(int rc)
{
    return rc == CLI_UNREACHABLE || rc == CLI_NOT_READY || rc == CLI_CONFLICT;
}

/* Before the second try a moment, then longer and longer. */
static void rest(int try)
{
    struct timespec pause = {.tv_sec = try > 1 ? 1 << (try - 2) : 0, .tv_nsec = try == 1 ? 100000000 : 0};
    if (try) nanosleep(&pause, NULL);
}

/* A part; where the connection broke, the gateway is asked what came of it, after a while. */
static int push_on(struct upload *u, struct part_file *f)
{
    int64_t before = f->there;
    int rc = CLI_OK;
    bool over;
    for (int try = 0; try < TRIES && f->there == before; try++) {
        rest(try);
        if (try && passes(look(u, true, &over))) continue;
        if (f->there != before) break;
        rc = send_part(u, f, try + 1 < TRIES);
        if (rc && !passes(rc)) return try + 1 < TRIES ? send_part(u, f, false) : rc; /* aloud */
    }
    if (f->there != before) return CLI_OK;
    return rc ? cli_error(rc, "%" PRId64 " of %" PRId64 " bytes are there; the same command goes on", f->there, f->size)
              : cli_error(CLI_FAILED, "the upload makes no progress");
}

/* What the gateway has may become less, as where it was set back to a backup, but not again and again. */
static int send_file(struct upload *u, struct part_file *f)
{
    int lost = 0;
    while (f->there < f->size) {
        int64_t before = f->there;
        show(u);
        int rc = push_on(u, f);
        if (rc) return rc;
        if (f->there < before && ++lost == LOSSES) return cli_error(CLI_FAILED, "the gateway lost parts of %s %d times", f->name, lost);
    }
    return CLI_OK;
}

static int send_all(struct upload *u)
{
    int rc = CLI_OK;
    u->bar = isatty(STDERR_FILENO);
    for (int i = 0; i < FILES && !rc; i++) rc = send_file(u, &u->file[i]);
    if (!rc) show(u);
    return rc;
}

static int complete(struct upload *u, json_t **out)
{
    char path[CLI_URL_MAX];
    struct cli_answer a;
    bool wait = !cli_has(u->c, CLI_NO_WAIT_FLAG);
    path_of(u, wait ? "/complete?wait=ready" : "/complete", path);
    struct cli_ask ask = {.method = "POST", .path = path, .first_byte_ms = READY_MS};
    int rc = CLI_CONFLICT;
    for (int try = 0; try < TRIES && rc == CLI_CONFLICT; try++) { /* the gateway may not be done with the last part */
        if (try) cli_answer_close(&a);
        rest(try);
        ask.expected = try + 1 < TRIES ? 409 : 0;
        rc = cli_ask(u->c, &ask, &a);
    }
    if (!rc) {
        unlink(u->state_path);
        *out = a.json ? json_incref(a.json) : json_object();
    }
    cli_answer_close(&a);
    return rc;
}

int cli_upload_parts(const struct cli *c, const char *name, const char *dir, json_t **out)
{
    struct upload u = {.c = c,
                       .adapter = name,
                       .part = malloc(PART),
                       .file = {{"config", "adapter_config.json", -1, 0, 0, {0}},
                                {"weights", "adapter_model.safetensors", -1, 0, 0, {0}}}};
    bool over;
    int rc = u.part ? CLI_OK : cli_error(CLI_FAILED, "out of memory");
    for (int i = 0; !rc && i < FILES; i++) rc = open_file(&u, &u.file[i], dir);
    if (!rc) rc = state_file(&u);
    if (!rc) rc = find(&u, &over);
    if (!rc && !over) rc = send_all(&u);
    if (!rc) rc = complete(&u, out);
    if (u.bar) cli_progress_end();
    for (int i = 0; i < FILES; i++)
        if (u.file[i].fd >= 0) close(u.file[i].fd);
    free(u.part);
    return rc;
}
