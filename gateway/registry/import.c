/* import: URL -> file.
 *
 *     import_write   scheme, host, user part, length: what can be refused at once is refused before there is a job
 *     import_fetch   for each file, up to HOPS times: look at the URL -> connect, judging the address that is dialled
 *                    -> 200: bytes to the file, counted and summed | 3xx: the new URL, looked at like the first
 *
 * https to public addresses only. Hosts of the setting import_hosts are the operator's word: plain http and private
 * addresses are fine there, and only there; a redirect away from them falls under the rule again. The client follows no
 * redirect, reads no proxy or netrc, sends no credentials; a URL with a user part is refused.
 *
 * Bounds: HOPS, import_s for a file's whole transfer, SILENCE_MS, the sizes of parts_limit(). And a least speed: a host from
 * which less than SPEED came, over import_slow_s since it was asked, since its head or since the last look, is given up. */
#include "gateway/registry/import.h"
#include "adapters/adapter.h"
#include "base/clock.h"
#include "base/json.h"
#include "gateway/registry/upload_parts.h"
#include "gateway/settings.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define HOPS 5 /* requests for one file, redirects included */
#define CONNECT_MS 10000
#define SILENCE_MS 30000
#define SPEED 16384 /* bytes a second */

static const char *const file_of[FILES] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};

/* --- URLs --- */

/* May this URL be asked at all; *listed: its address is not judged. */
static int check_url(const struct gateway *g, const char *url, const char *field, bool *listed, struct err *e)
{
    char at[IMPORT_HOST_LEN];
    bool https = false;
    if (import_address_host(url, &https, at, field, e)) return -1;
    *listed = import_address_is_listed(g->set->import_hosts, at);
    if (https || *listed) return 0;
    return err_field(e, ERR_INVALID, field,
                     "'%s' must begin with https://: plain http is for hosts of the setting import_hosts.", field);
}

static int file_url(const struct import_ask *a, int which, char out[IMPORT_URL_MAX + 64])
{
    const char *own = which == FILE_CONFIG ? a->config_url : a->weights_url;
    if (own) return snprintf(out, IMPORT_URL_MAX + 64, "%s", own);
    size_t path = strcspn(a->url, "?#"); /* a query stays behind the name: signed URLs of a folder have one */
    bool slash = path && a->url[path - 1] == '/';
    return snprintf(out, IMPORT_URL_MAX + 64, "%.*s%s%s%s", (int)path, a->url, slash ? "" : "/", file_of[which],
                    a->url + path);
}

int import_write(const struct gateway *g, const struct import_ask *a, char **text, struct err *e)
{
    char url[FILES][IMPORT_URL_MAX + 64];
    static const char *const own[FILES] = {"config_url", "weights_url"};
    bool listed;
    if (!a->url && !a->config_url && !a->weights_url) return err_field(e, ERR_MISSING, "url", "'url' is missing.");
    if (!a->url && !a->config_url) return err_field(e, ERR_MISSING, "config_url", "'config_url' is missing.");
    if (!a->url && !a->weights_url) return err_field(e, ERR_MISSING, "weights_url", "'weights_url' is missing.");
    if (a->url && (a->config_url || a->weights_url))
        return err_field(e, ERR_INVALID, "url", "'url' is a folder; it does not go with config_url and weights_url.");
    if (a->sha256 && !sha256_is_hex(a->sha256))
        return err_field(e, ERR_INVALID, "sha256", "'sha256' must be 64 lower-case hex digits.");
    for (int i = 0; i < FILES; i++) {
        const char *said = a->url ? a->url : i == FILE_CONFIG ? a->config_url : a->weights_url;
        if (check_url(g, said, a->url ? "url" : own[i], &listed, e)) return -1;
        file_url(a, i, url[i]);
    }
    json_t *o = json_pack("{ss ss ss}", "config", url[FILE_CONFIG], "weights", url[FILE_WEIGHTS], "sha256",
                          a->sha256 ? a->sha256 : "");
    *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return *text ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for the import");
}

/* --- fetching --- */

struct fetch {
    const struct gateway *g;
    const atomic_bool *stop;
    bool listed, too_large, io, slow;
    int which, fd, status;
    int64_t got;
    int64_t since_us, came; /* the look at the speed: since when, what came since */
    char next[IMPORT_URL_MAX + 1];
    struct sha256 sum;
};

static int judge(void *u, const struct sockaddr *a)
{
    const struct fetch *f = u;
    return f->listed || import_address_is_public(a) ? 0 : -1;
}

static void look_from_here(struct fetch *f)
{
    f->since_us = clock_mono_us();
    f->came = 0;
}

static int on_tick(void *u)
{
    struct fetch *f = u;
    int64_t slow_s = f->g->set->import_slow_s;
    if (atomic_load(f->stop)) return -1;
    if (clock_mono_us() - f->since_us < slow_s * 1000000) return 0;
    f->slow = f->came < slow_s * SPEED;
    if (f->slow) return -1;
    look_from_here(f);
    return 0;
}

static void on_head(void *u, const struct client_reply *r)
{
    struct fetch *f = u;
    look_from_here(f);
    f->status = r->status;
    bool fits = r->location && strlen(r->location) < sizeof f->next;
    snprintf(f->next, sizeof f->next, "%s", fits ? r->location : "");
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct fetch *f = u;
    f->came += (int64_t)n;
    if (on_tick(f)) return -1;
    if (f->status != 200) return 0;
    f->too_large = (int64_t)n > parts_limit(f->g, f->which) - f->got;
    if (f->too_large) return -1;
    f->got += (int64_t)n;
    sha256_add(&f->sum, bytes, n);
    while (n > 0) {
        ssize_t w = write(f->fd, bytes, n);
        if (w < 0 && errno == EINTR) continue;
        f->io = w <= 0;
        if (f->io) return -1;
        bytes += w;
        n -= (size_t)w;
    }
    return 0;
}

/* One request. 0: the file is here; 1: f->next is where to ask; -1. */
static int ask(struct fetch *f, const char *url, int64_t until_us, struct err *e)
{
    int64_t left_ms = (until_us - clock_mono_us()) / 1000;
    struct err why = {0};
    int status = 0;
    if (check_url(f->g, url, "url", &f->listed, e)) return -1;
    if (left_ms < 1)
        return err_set(e, ERR_UPSTREAM_TIMEOUT, "the import took longer than %lld s", (long long)f->g->set->import_s);
    if (left_ms > INT32_MAX) left_ms = INT32_MAX;
    struct client_request r = {.method = "GET",
                               .url = url,
                               .connect_ms = CONNECT_MS,
                               .first_byte_ms = SILENCE_MS,
                               .idle_ms = SILENCE_MS,
                               .total_ms = (int)left_ms,
                               .on_head = on_head,
                               .on_data = on_data,
                               .on_address = judge,
                               .on_tick = on_tick,
                               .user = f};
    f->status = 0;
    f->got = 0;
    look_from_here(f);
    sha256_init(&f->sum);
    if (client_fetch(&r, 0, &status, NULL, NULL, &why)) {
        if (atomic_load(f->stop)) return err_set(e, ERR_UNAVAILABLE, "shutting down");
        if (f->too_large)
            return err_set(e, ERR_TOO_LARGE, "%s has more than %lld bytes", file_of[f->which],
                           (long long)parts_limit(f->g, f->which));
        if (f->slow)
            return err_set(e, ERR_UPSTREAM_TIMEOUT, "the host of %s is too slow: less than %d KiB a second came over %lld s",
                           file_of[f->which], SPEED >> 10, (long long)f->g->set->import_slow_s);
        if (f->io) return err_set(e, ERR_IO, "cannot store the import");
        return err_set(e, why.code, "%s", why.msg);
    }
    if (status == 200) return 0;
    if (status >= 301 && status <= 308 && status != 304 && *f->next) return 1;
    return err_set(e, ERR_ENGINE, "the host answered with status %d where %s was asked for", status, file_of[f->which]);
}

/* Location may be relative: to the host, or to the folder of the URL. */
static int follow(const char *from, const char *to, char out[IMPORT_URL_MAX + 1], struct err *e)
{
    char next[2 * IMPORT_URL_MAX + 8];
    const char *host = strstr(from, "://") + 3, *path = host + strcspn(host, "/?#");
    size_t folder = strcspn(from, "?#");
    while (folder > (size_t)(path - from) && from[folder - 1] != '/') folder--;
    if (strstr(to, "://") && strcspn(to, ":") < strcspn(to, "/?#"))
        snprintf(next, sizeof next, "%s", to);
    else if (to[0] == '/' && to[1] == '/')
        snprintf(next, sizeof next, "%.*s%s", (int)(strcspn(from, ":") + 1), from, to);
    else if (to[0] == '/')
        snprintf(next, sizeof next, "%.*s%s", (int)(path - from), from, to);
    else
        snprintf(next, sizeof next, "%.*s%s%s", (int)folder, from, folder == (size_t)(path - from) ? "/" : "", to);
    size_t n = strlen(next);
    if (n > IMPORT_URL_MAX) return err_field(e, ERR_INVALID, "url", "a redirect leads to a URL that is too long");
    memcpy(out, next, n + 1);
    return 0;
}

static int fetch_file(struct fetch *f, const char *first, int64_t until_us, struct err *e)
{
    char url[IMPORT_URL_MAX + 1];
    if (strlen(first) > IMPORT_URL_MAX)
        return err_field(e, ERR_INVALID, "url", "the URL of %s is too long", file_of[f->which]);
    snprintf(url, sizeof url, "%s", first);
    for (int i = 0; i < HOPS; i++) {
        int rc = ask(f, url, until_us, e);
        if (rc <= 0) return rc;
        bool was_https = strncasecmp(url, "https://", 8) == 0;
        if (follow(url, f->next, url, e)) return -1;
        if (was_https && strncasecmp(url, "https://", 8) != 0)
            return err_field(e, ERR_INVALID, "url", "a redirect leads from https to something else");
    }
    return err_field(e, ERR_INVALID, "url", "more than %d redirects", HOPS - 1);
}

static int check_sum(struct fetch *f, const char *want, struct err *e)
{
    uint8_t sum[SHA256_BYTES];
    char is[SHA256_HEX];
    sha256_end(&f->sum, sum);
    sha256_hex(sum, is);
    if (!want || !*want || strcmp(want, is) == 0) return 0;
    return err_field(e, ERR_INVALID, "sha256", "the file %s has the SHA-256 %s, not %s", file_of[f->which], is, want);
}

int import_fetch(struct gateway *g, const char *text, const char *dir, const atomic_bool *stop, struct err *e)
{
    json_t *o = NULL;
    int rc = json_parse(text, strlen(text), &o, e);
    for (int i = 0; rc == 0 && i < FILES; i++) {
        struct fetch f = {.g = g, .stop = stop, .which = i};
        const char *url = json_string_value(json_object_get(o, part_file_name[i]));
        char path[2048];
        snprintf(path, sizeof path, "%s/%s", dir, file_of[i]);
        f.fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        rc = f.fd < 0 ? err_errno(e, "cannot store the import")
                      : fetch_file(&f, url ? url : "", clock_mono_us() + g->set->import_s * 1000000, e);
        if (rc == 0) rc = check_sum(&f, i == FILE_WEIGHTS ? json_string_value(json_object_get(o, "sha256")) : NULL, e);
        if (f.fd >= 0 && close(f.fd) && rc == 0) rc = err_errno(e, "cannot store the import");
    }
    json_decref(o);
    return rc;
}
