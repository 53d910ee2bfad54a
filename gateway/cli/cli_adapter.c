/* weft adapter ...: a tenant's adapters.
 *
 *     push      the multipart body (RFC 7578), or with --resume parts (cli_resume.c); then, unless --no-wait, ready or failed
 *     import    the gateway fetches; --wait as above
 *     validate  the multipart body, to the route that keeps nothing
 *     pin, ...  the row's request; --wait as above
 *
 * The multipart body is built in an unlinked temporary file and sent from there, so the weights are never in memory,
 * whatever their size. The copy is made by the kernel (sendfile) in TMPDIR or /var/tmp, which, unlike /tmp, is a disk on
 * every system. One thread. */
#include "base/err.h"
#include "base/sha256.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_FILE "adapter_config.json"
#define WEIGHTS_FILE "adapter_model.safetensors"
#define COPY_STEP (16u << 20)
#define PATH_BYTES 4096
#define READY_MS 600000 /* an upload is checked before it is answered */

/* --- the multipart body --- */

static int temp_file(void)
{
    const char *dirs[] = {getenv("TMPDIR"), "/var/tmp", "/tmp"};
    for (int i = 0; i < CLI_COUNT(dirs); i++) {
        int fd = dirs[i] ? open(dirs[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
        if (fd >= 0) return fd;
        char path[PATH_BYTES]; /* a file system without O_TMPFILE */
        if (!dirs[i] || snprintf(path, sizeof path, "%s/weft-XXXXXX", dirs[i]) >= (int)sizeof path) continue;
        fd = mkostemp(path, O_CLOEXEC);
        if (fd < 0) continue;
        unlink(path);
        return fd;
    }
    return -1;
}

static int put(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t k = write(fd, bytes, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return -1;
        bytes += k;
        n -= (size_t)k;
    }
    return 0;
}

static int put_head(int fd, const char *boundary, const char *rest)
{
    char head[512];
    int n = snprintf(head, sizeof head, "--%s\r\nContent-Disposition: form-data; %s\r\n\r\n", boundary, rest);
    return put(fd, head, (size_t)n);
}

static int copy_all(int to, int from, int64_t bytes)
{
    while (bytes > 0) {
        ssize_t n = sendfile(to, from, NULL, bytes < COPY_STEP ? (size_t)bytes : COPY_STEP);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = EIO; /* it shrank while we read it */
        if (n <= 0) return -1;
        bytes -= n;
    }
    return 0;
}

static int put_file(int to, const char *dir, const char *name)
{
    char path[PATH_BYTES];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return cli_error(CLI_USAGE, "%.80s...: the path is too long", dir);
    int from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = CLI_OK;
    if (from < 0 || fstat(from, &st))
        rc = cli_error(CLI_USAGE, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = cli_error(CLI_USAGE, "%s is not a plain file", path);
    else if (copy_all(to, from, st.st_size))
        rc = cli_error(CLI_FAILED, "%s: %s", path, strerror(errno));
    if (from >= 0) close(from);
    return rc;
}

static int no_room(void)
{
    return cli_error(CLI_FAILED, "can't write the temporary file: %s", strerror(errno));
}

static int put_part_text(int fd, const char *boundary, const char *head, const char *text)
{
    if (!put_head(fd, boundary, head) && !put(fd, text, strlen(text)) && !put(fd, "\r\n", 2)) return CLI_OK;
    return no_room();
}

static int put_part_file(int fd, const char *boundary, const char *head, const char *dir, const char *name)
{
    int rc = put_head(fd, boundary, head) ? no_room() : put_file(fd, dir, name);
    if (!rc && put(fd, "\r\n", 2)) rc = no_room();
    return rc;
}

/* name NULL: without. */
static int put_body(int fd, const struct cli *c, const char *boundary, const char *name, const char *dir)
{
    const char *description = cli_str(c, CLI_DESCRIPTION_FLAG);
    char end[80];
    snprintf(end, sizeof end, "--%s--\r\n", boundary);
    int rc = name ? put_part_text(fd, boundary, "name=\"name\"", name) : CLI_OK;
    if (!rc)
        rc = put_part_file(fd, boundary,
                           "name=\"config\"; filename=\"" CONFIG_FILE "\"\r\nContent-Type: application/json", dir,
                           CONFIG_FILE);
    if (!rc)
        rc = put_part_file(fd, boundary,
                           "name=\"weights\"; filename=\"" WEIGHTS_FILE "\"\r\nContent-Type: application/octet-stream",
                           dir, WEIGHTS_FILE);
    if (!rc && description) rc = put_part_text(fd, boundary, "name=\"description\"", description);
    if (!rc && put(fd, end, strlen(end))) rc = no_room();
    return rc;
}

static int boundary_make(char out[48])
{
    uint8_t bytes[16];
    if (random_bytes(bytes, sizeof bytes)) return -1;
    int n = snprintf(out, 48, "weft-");
    for (size_t i = 0; i < sizeof bytes; i++) n += snprintf(out + n, (size_t)(48 - n), "%02x", bytes[i]);
    return 0;
}

/* POST of the two files in one body. *out is the answer's object. */
static int send_files(const struct cli *c, const char *path, const char *name, const char *dir, json_t **out)
{
    char boundary[48], file[64], type[160];
    struct cli_answer a = {0};
    struct cli_target unused;
    int rc = c->key ? cli_target(c, CLI_TENANT_SIDE, "", &unused) : cli_ask(c, &(struct cli_ask){.path = ""}, &a);
    if (rc) return rc; /* before a large copy is made for nothing */
    if (boundary_make(boundary)) return cli_error(CLI_FAILED, "the system gives no random bytes");
    int fd = temp_file();
    if (fd < 0) return cli_error(CLI_FAILED, "no temporary file: %s", strerror(errno));
    rc = put_body(fd, c, boundary, name, dir);
    snprintf(file, sizeof file, "/proc/self/fd/%d", fd);
    snprintf(type, sizeof type, "Content-Type: multipart/form-data; boundary=%s", boundary);
    struct cli_ask ask = {.side = CLI_TENANT_SIDE,
                          .method = "POST",
                          .path = path,
                          .file = file,
                          .header = {type},
                          .first_byte_ms = READY_MS};
    if (!rc) rc = cli_ask(c, &ask, &a);
    if (!rc) *out = a.json ? json_incref(a.json) : json_object();
    cli_answer_close(&a);
    close(fd);
    return rc;
}

/* --- verdicts --- */

int cli_adapter_verdict(const struct cli *c, const json_t *o)
{
    const char *state = json_string_value(json_object_get(o, "state"));
    bool bad = state && (!strcmp(state, "failed") || !strcmp(state, "quarantined"));
    if (c->json)
        cli_json(o);
    else
        cli_fields(&cli_view_adapter, o);
    return bad ? cli_error(CLI_FAILED, "the adapter can't be served") : CLI_OK;
}

/* NAME@VERSION taken apart; version 0: none. */
static int split_version(const char *arg, char name[256], int64_t *version)
{
    const char *at = strrchr(arg, '@');
    size_t digits = at ? strspn(at + 1, "0123456789") : 0;
    *version = 0;
    if (strlen(arg) >= 256) return cli_error(CLI_USAGE, "the name is too long");
    if (at && (!digits || digits > 9 || at[1 + digits])) return cli_error(CLI_USAGE, "%s: a version is a number", arg);
    snprintf(name, 256, "%.*s", at ? (int)(at - arg) : 255, arg);
    if (at) *version = strtol(at + 1, NULL, 10);
    return CLI_OK;
}

static int wait_and_judge(const struct cli *c, const char *name, int64_t version, bool must)
{
    json_t *o = NULL;
    int rc = cli_wait_ready(c, name, version, must, &o);
    if (!rc) rc = cli_adapter_verdict(c, o);
    json_decref(o);
    return rc;
}

int cli_adapter_push(const struct cli *c)
{
    const char *name = c->arg[0], *dir = c->arg[1];
    bool wait = !cli_has(c, CLI_NO_WAIT_FLAG);
    json_t *o = NULL;
    int rc = cli_has(c, CLI_RESUME_FLAG)
                 ? cli_upload_parts(c, name, dir, &o)
                 : send_files(c, wait ? "/v1/adapters?wait=ready" : "/v1/adapters", name, dir, &o);
    const char *state = json_string_value(json_object_get(o, "state"));
    int64_t version = json_integer_value(json_object_get(o, "version"));
    bool under_way = state && (!strcmp(state, "validating") || !strcmp(state, "uploading"));
    if (!rc) rc = wait && under_way ? wait_and_judge(c, name, version, true) : cli_adapter_verdict(c, o);
    json_decref(o);
    return rc;
}

int cli_adapter_validate(const struct cli *c)
{
    json_t *o = NULL;
    int rc = send_files(c, "/v1/adapters:validate", NULL, c->arg[0], &o);
    if (!rc && c->json)
        rc = cli_json(o);
    else if (!rc)
        cli_fields(&cli_view_validation, o);
    if (!rc && !json_is_true(json_object_get(o, "valid"))) rc = cli_error(CLI_FAILED, "the adapter can't be served");
    json_decref(o);
    return rc;
}

int cli_adapter_import(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *body = NULL, *o = NULL;
    bool two = cli_has(c, CLI_CONFIG_URL_FLAG) && cli_has(c, CLI_WEIGHTS_URL_FLAG);
    if ((c->nargs < 2) != two)
        return cli_error(CLI_USAGE, "give the URL of a folder, or --config-url and --weights-url");
    int rc = cli_fill(c, c->command->path, path);
    if (!rc) rc = cli_body(c, &body);
    if (!rc && c->nargs > 1) json_object_set_new(body, "url", json_string(c->arg[1]));
    if (!rc) rc = cli_call(c, CLI_TENANT_SIDE, "POST", path, body, &o);
    bool wait = cli_has(c, CLI_WAIT_FLAG);
    if (!rc && wait)
        rc = wait_and_judge(c, c->arg[0], json_integer_value(json_object_get(o, "version")), false);
    else if (!rc && c->json)
        rc = cli_json(o);
    else if (!rc)
        cli_fields(&cli_view_upload, o);
    json_decref(body);
    json_decref(o);
    return rc;
}

int cli_adapter_wait(const struct cli *c)
{
    char name[256];
    int64_t version;
    int rc = split_version(c->arg[0], name, &version);
    return rc ? rc : wait_and_judge(c, name, version, true);
}

int cli_adapter_act(const struct cli *c)
{
    char name[256];
    int64_t version;
    int rc = split_version(c->arg[0], name, &version);
    if (!cli_has(c, CLI_WAIT_FLAG)) return rc ? rc : cli_plain(c);
    char path[CLI_URL_MAX];
    if (!rc) rc = cli_fill(c, c->command->path, path);
    if (!rc) rc = cli_call(c, CLI_TENANT_SIDE, c->command->method, path, NULL, NULL);
    return rc ? rc : wait_and_judge(c, name, version, true);
}

/* --- show --- */

int cli_adapter_show(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *o = NULL;
    int rc = cli_fill(c, c->command->path, path);
    if (!rc) rc = cli_call(c, CLI_TENANT_SIDE, "GET", path, NULL, &o);
    const json_t *versions = json_object_get(o, "versions");
    if (!rc && c->json) rc = cli_json(o);
    if (!rc && !c->json) cli_fields(&cli_view_adapter, o);
    if (!rc && !c->json && json_array_size(versions)) {
        putchar('\n');
        cli_table(&cli_view_version, versions);
    }
    json_decref(o);
    return rc;
}

int cli_adapter_versions(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *o = NULL;
    int rc = cli_fill(c, c->command->path, path);
    if (!rc) rc = cli_call(c, CLI_TENANT_SIDE, "GET", path, NULL, &o);
    json_t *versions = json_object_get(o, "versions");
    if (!rc && !json_is_array(versions)) rc = cli_error(CLI_FAILED, "the server's answer has no versions in it");
    if (!rc && c->json) {
        json_t *list = json_pack("{s:s, s:O, s:b}", "object", "list", "data", versions, "has_more", 0);
        rc = cli_json(list);
        json_decref(list);
    } else if (!rc)
        cli_table(&cli_view_version, versions);
    json_decref(o);
    return rc;
}
