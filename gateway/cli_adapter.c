/* weft adapter ...: a tenant's adapters.
 *
 * push builds the multipart body (RFC 7578) in an unlinked temporary file and lets the HTTP client send that, so the
 * weights are never in memory, whatever their size. The copy is made by the kernel (sendfile) in TMPDIR or /var/tmp,
 * which, unlike /tmp, is a disk on every system.
 *
 * The server's answer is about the version: ready, or failed with the reason, which is exit status 1. One thread. */
#include "base/err.h"
#include "base/sha256.h"
#include "gateway/cli.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(a) (int)(sizeof(a) / sizeof *(a))
#define CONFIG_FILE "adapter_config.json"
#define WEIGHTS_FILE "adapter_model.safetensors"
#define COPY_STEP (16u << 20)
#define PATH_BYTES 4096

static const struct cli_column list_columns[] = {
    {"NAME", "name", CLI_TEXT},
    {"VERSION", "version|latest_version", CLI_COUNT},
    {"STATE", "state", CLI_TEXT},
    {"KIND", "kind", CLI_TEXT},
    {"RANK", "rank", CLI_COUNT},
    {"SIZE", "bytes", CLI_BYTES},
    {"REQUESTS", "requests", CLI_COUNT},
    {"LAST USED", "last_used_at|last_used", CLI_TIME},
    {"DIGEST", "digest", CLI_SHORT},
};

static const struct cli_column show_columns[] = {
    {"name", "name", CLI_TEXT},
    {"description", "description", CLI_TEXT},
    {"version", "version|latest_version", CLI_COUNT},
    {"state", "state", CLI_TEXT},
    {"reason", "reason", CLI_TEXT},
    {"base", "base|parent", CLI_TEXT},
    {"kind", "kind", CLI_TEXT},
    {"rank", "rank", CLI_COUNT},
    {"modules", "modules", CLI_LIST},
    {"scale", "scale", CLI_TEXT},
    {"size", "bytes", CLI_BYTES},
    {"digest", "digest", CLI_TEXT},
    {"created", "created_at|created", CLI_TIME},
    {"requests", "requests", CLI_COUNT},
    {"last used", "last_used_at|last_used", CLI_TIME},
};

static const struct cli_column version_columns[] = {
    {"VERSION", "version", CLI_COUNT},
    {"STATE", "state", CLI_TEXT},
    {"KIND", "kind", CLI_TEXT},
    {"RANK", "rank", CLI_COUNT},
    {"SIZE", "bytes", CLI_BYTES},
    {"CREATED", "created_at|created", CLI_TIME},
    {"DIGEST", "digest", CLI_SHORT},
    {"REASON", "reason", CLI_TEXT},
};

/* --- push: the body --- */

static int temp_file(void)
{
    const char *dirs[] = {getenv("TMPDIR"), "/var/tmp", "/tmp"};
    for (int i = 0; i < COUNT(dirs); i++) {
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
        rc = cli_error(CLI_REFUSED, "%s: %s", path, strerror(errno));
    if (from >= 0) close(from);
    return rc;
}

static int put_part_text(int fd, const char *boundary, const char *head, const char *text)
{
    if (!put_head(fd, boundary, head) && !put(fd, text, strlen(text)) && !put(fd, "\r\n", 2)) return CLI_OK;
    return cli_error(CLI_REFUSED, "can't write the temporary file: %s", strerror(errno));
}

static int put_part_file(int fd, const char *boundary, const char *head, const char *dir, const char *name)
{
    int rc = put_head(fd, boundary, head)
                 ? cli_error(CLI_REFUSED, "can't write the temporary file: %s", strerror(errno))
                 : put_file(fd, dir, name);
    if (!rc && put(fd, "\r\n", 2)) rc = cli_error(CLI_REFUSED, "can't write the temporary file: %s", strerror(errno));
    return rc;
}

static int put_body(int fd, const struct cli *c, const char *boundary)
{
    const char *name = c->arg[0], *dir = c->arg[1];
    char end[80];
    snprintf(end, sizeof end, "--%s--\r\n", boundary);
    int rc = put_part_text(fd, boundary, "name=\"name\"", name);
    if (!rc)
        rc = put_part_file(fd, boundary,
                           "name=\"config\"; filename=\"" CONFIG_FILE "\"\r\nContent-Type: application/json", dir,
                           CONFIG_FILE);
    if (!rc)
        rc = put_part_file(fd, boundary,
                           "name=\"weights\"; filename=\"" WEIGHTS_FILE "\"\r\nContent-Type: application/octet-stream",
                           dir, WEIGHTS_FILE);
    if (!rc && c->description) rc = put_part_text(fd, boundary, "name=\"description\"", c->description);
    if (!rc && put(fd, end, strlen(end))) rc = cli_error(CLI_REFUSED, "can't write the temporary file");
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

/* --- push: the answer --- */

static int push_verdict(const json_t *o)
{
    const char *state = json_string_value(json_object_get(o, "state"));
    bool failed = state && !strcmp(state, "failed");
    cli_fields(show_columns, COUNT(show_columns), o);
    return failed ? cli_error(CLI_REFUSED, "the adapter can't be served") : CLI_OK;
}

int cli_adapter_push(const struct cli *c)
{
    char boundary[48], file[64];
    json_t *o = NULL;
    struct cli_target unused;
    int rc = cli_target(c, CLI_TENANT, "", &unused); /* before a large copy is made for nothing */
    if (rc) return rc;
    if (boundary_make(boundary)) return cli_error(CLI_REFUSED, "the system gives no random bytes");
    int fd = temp_file();
    if (fd < 0) return cli_error(CLI_REFUSED, "no temporary file: %s", strerror(errno));
    rc = put_body(fd, c, boundary);
    snprintf(file, sizeof file, "/proc/self/fd/%d", fd);
    if (!rc) rc = cli_upload(c, "/v1/adapters?wait=ready", file, boundary, &o);
    if (!rc && o) rc = push_verdict(o);
    json_decref(o);
    close(fd);
    return rc;
}

/* --- list, show, rm --- */

static void add_row(void *rows, json_t *item)
{
    json_array_append(rows, item);
}

int cli_adapter_list(const struct cli *c)
{
    json_t *rows = json_array();
    int rc = cli_pages(c, CLI_TENANT, "/v1/adapters", add_row, rows);
    if (!rc && !c->json) cli_table(list_columns, COUNT(list_columns), rows);
    json_decref(rows);
    return rc;
}

int cli_adapter_show(const struct cli *c)
{
    char path[CLI_URL_MAX];
    json_t *o = NULL;
    cli_path(path, "/v1/adapters/%s", c->arg[0], NULL);
    int rc = cli_call(c, CLI_TENANT, "GET", path, NULL, &o);
    if (o) {
        const json_t *versions = json_object_get(o, "versions");
        cli_fields(show_columns, COUNT(show_columns), o);
        if (json_array_size(versions)) {
            putchar('\n');
            cli_table(version_columns, COUNT(version_columns), versions);
        }
    }
    json_decref(o);
    return rc;
}

int cli_adapter_rm(const struct cli *c)
{
    char path[CLI_URL_MAX], name[256];
    const char *at = strrchr(c->arg[0], '@');
    if (strlen(c->arg[0]) >= sizeof name) return cli_error(CLI_USAGE, "the name is too long");
    if (at && (!at[1] || strspn(at + 1, "0123456789") != strlen(at + 1)))
        return cli_error(CLI_USAGE, "%s: a version is a number", c->arg[0]);
    snprintf(name, sizeof name, "%.*s", at ? (int)(at - c->arg[0]) : (int)sizeof name - 1, c->arg[0]);
    if (at)
        cli_path(path, "/v1/adapters/%s/versions/%s", name, at + 1, NULL);
    else
        cli_path(path, "/v1/adapters/%s", name, NULL);
    int rc = cli_call(c, CLI_TENANT, "DELETE", path, NULL, NULL);
    if (!rc && !c->json) fprintf(stderr, "%s is removed\n", c->arg[0]);
    return rc;
}
