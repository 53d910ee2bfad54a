/* pull_fetch: one adapter from the gateway into a folder; nearly the whole life of a process that is made for it (pull_keep.c).
 *
 *     list of files -> room? -> tmp/ID: each file, its SHA-256 while it comes -> all of it opened and hashed as the loader will
 *
 * Nothing is parsed before its bytes are those of the list: the config and the weights are read only once both files have the hashes that the gateway
 * named. And nothing is kept because the gateway named it: the adapter's digest is computed anew, from the files, against the base (adapter_open), so
 * whoever stands between the two, or in the gateway's place, can refuse an adapter and not change one. All of that happens here, where a fault of a
 * parser costs one pull.
 *
 * A cut is made good: what came stays, and the rest is asked for by Range. Tries follow each other at 0.1 to 2 s, without end as long as bytes come,
 * else TRIES in a row, and never past total_s. Where the disk is full room on it is asked for, once. A refusal (401, 403, 404) is final. Bytes that are not what they should be are asked for once more, for
 * wires err; the second time is the last. Nothing is synced to the disk: what a power cut garbles
 * is found when it is loaded (its digest), and fetched again. */
#include "adapters/adapter.h"
#include "base/client.h"
#include "base/clock.h"
#include "base/json.h"
#include "engine/pull_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONNECT_MS 5000
#define TRIES 6 /* in a row without a byte */
#define WAIT_FIRST_MS 100
#define WAIT_MOST_MS 2000
#define LIST_MAX 4096 /* bytes */
#define URL_MAX 1024

struct fetch {
    const struct pull_options *o;
    const struct pull_ask *ask;
    const struct pull_way *way;
    int64_t until_us;
    const char *auth;
    /* Of the file in hand. */
    const struct pull_file *file;
    int fd, status;
    int64_t got;
    struct sha256 sum;
    bool grew, cut, too_long, full;
    int io; /* errno of a write that failed */
};

/* --- the list --- */

static int read_file(struct pull_list *out, const json_t *v, struct err *e)
{
    static const struct {
        const char *name;
        int64_t max;
    } known[PULL_FILES] = {{ADAPTER_CONFIG_FILE, PEFT_CONFIG_MAX}, {ADAPTER_WEIGHTS_FILE, INT64_MAX / 4}};
    const char *name = "", *sum = "";
    int64_t bytes = 0;
    if (json_need_str(v, "name", 64, &name, e) || json_need_str(v, "sha256", SHA256_HEX - 1, &sum, e)) return -1;
    for (int i = 0; i < PULL_FILES; i++) {
        struct pull_file *f = &out->file[i];
        if (strcmp(name, known[i].name) != 0) continue;
        if (f->name || !sha256_is_hex(sum) || json_get_int(v, "bytes", 1, known[i].max, &bytes, NULL, NULL) || !bytes) break;
        f->name = known[i].name;
        f->bytes = bytes;
        memcpy(f->sha256, sum, SHA256_HEX);
        out->bytes += bytes;
        return 0;
    }
    return err_set(e, ERR_ENGINE, "an adapter has no such file, or not so");
}

int pull_list_parse(struct pull_list *out, const char *text, size_t n, const char *digest, int64_t max_bytes, struct err *e)
{
    json_t *v = NULL;
    struct err why = {0};
    const char *said = "";
    struct pull_list l = {0};
    int rc = json_parse(text, n, &v, &why) || json_need_str(v, "digest", SHA256_HEX - 1, &said, &why);
    const json_t *files = json_object_get(v, "files");
    if (!rc && (strcmp(said, digest) != 0 || json_array_size(files) != PULL_FILES)) rc = err_set(&why, ERR_ENGINE, "it is another's, or not of two files");
    for (size_t i = 0; !rc && i < PULL_FILES; i++) rc = read_file(&l, json_array_get(files, i), &why);
    json_decref(v);
    if (rc) return err_set(e, ERR_ENGINE, "the gateway's list of files makes no sense: %s", why.msg);
    if (l.bytes > max_bytes)
        return err_set(e, ERR_TOO_LARGE, "the adapter has %lld MB, the engine's store may have %lld", (long long)(l.bytes >> 20), (long long)(max_bytes >> 20));
    *out = l;
    return 0;
}

/* --- asking --- */

static bool is_final(enum err_code c)
{
    return c == ERR_UNAUTHORIZED || c == ERR_NOT_FOUND || c == ERR_IO || c == ERR_NO_MEMORY || c == ERR_INVALID;
}

static int judge(int status, bool with_rest, struct err *e)
{
    if (status == (with_rest ? 206 : 200)) return 0;
    if (status == 401 || status == 403) return err_set(e, ERR_UNAUTHORIZED, "the gateway does not take this engine's pull token");
    if (status == 404) return err_set(e, ERR_NOT_FOUND, "the gateway has no such adapter for this engine");
    return err_set(e, ERR_ENGINE, "the gateway answered with status %d", status);
}

static int on_tick(void *u)
{
    struct fetch *f = u;
    f->cut |= f->way->is_cut(f->way->u);
    return f->cut ? -1 : 0;
}

/* Waits before the next try; -1: no more of them. */
static int wait_again(struct fetch *f, int tries, struct err *why, struct err *e)
{
    int64_t ms = WAIT_FIRST_MS << (tries < 6 ? tries : 5);
    if (ms > WAIT_MOST_MS) ms = WAIT_MOST_MS;
    if (f->cut) return err_set(e, ERR_UNAVAILABLE, "it was called off");
    if (is_final(why->code) || tries >= TRIES || clock_mono_us() + ms * 1000 >= f->until_us) return err_set(e, why->code, "%s", why->msg);
    for (int64_t at = 0; at < ms && !f->way->is_cut(f->way->u); at += WAIT_FIRST_MS) poll(NULL, 0, WAIT_FIRST_MS);
    *why = (struct err){0};
    return 0;
}

static int begin(struct fetch *f, struct client_request *r, const char *tail, char url[URL_MAX], struct err *e)
{
    int64_t left_ms = (f->until_us - clock_mono_us()) / 1000;
    if (left_ms < 1) return err_set(e, ERR_UPSTREAM_TIMEOUT, "it took longer than %d s", f->o->total_s);
    if (snprintf(url, URL_MAX, "%s/weft/v1/blobs/%s%s", f->o->url, f->ask->digest, tail) >= URL_MAX) return err_set(e, ERR_INVALID, "pull_url is too long");
    r->method = "GET";
    r->url = url;
    r->ca_file = *f->o->ca_file ? f->o->ca_file : NULL;
    r->connect_ms = CONNECT_MS;
    r->first_byte_ms = r->idle_ms = f->o->stall_s * 1000;
    r->total_ms = (int)left_ms;
    r->on_tick = on_tick;
    r->user = f;
    return 0;
}

static int ask_list(struct fetch *f, struct pull_list *out, struct err *e)
{
    const char *headers[] = {f->auth, NULL};
    struct err why = {0};
    for (int tries = 0;; tries++) {
        char url[URL_MAX], *body = NULL;
        size_t n = 0;
        int status = 0;
        struct client_request r = {.headers = headers};
        int rc = begin(f, &r, "", url, &why) || client_fetch(&r, LIST_MAX, &status, &body, &n, &why) || judge(status, false, &why);
        if (!rc) rc = pull_list_parse(out, body, n, f->ask->digest, f->o->max_bytes, &why);
        free(body);
        if (!rc) return 0;
        if (why.code == ERR_TOO_LARGE) return err_set(e, why.code, "%s", why.msg);
        if (wait_again(f, tries, &why, e)) return -1;
    }
}

/* --- a file --- */

static void on_head(void *u, const struct client_reply *r)
{
    struct fetch *f = u;
    f->status = r->status;
    if (r->status != 200 || f->got == 0) return;
    f->got = 0; /* the rest was asked for, and all of it comes */
    sha256_init(&f->sum);
    if (lseek(f->fd, 0, SEEK_SET) < 0) f->io = errno;
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct fetch *f = u;
    if (f->status != 200 && f->status != 206) return 0;
    f->too_long = (int64_t)n > f->file->bytes - f->got;
    if (f->too_long || f->io) return -1;
    f->grew = true;
    f->got += (int64_t)n;
    sha256_add(&f->sum, bytes, n);
    while (n > 0) {
        ssize_t w = write(f->fd, bytes, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) {
            f->io = w < 0 ? errno : ENOSPC;
            return -1;
        }
        bytes += w;
        n -= (size_t)w;
    }
    return 0;
}

static int store_failed(struct fetch *f, int number, struct err *e)
{
    f->full |= number == ENOSPC || number == EDQUOT;
    return err_set(e, ERR_IO, "the engine's store can't be written: %s", strerror(number));
}

/* One request for what is missing of the file. */
static int ask_rest(struct fetch *f, struct err *e)
{
    char url[URL_MAX], tail[80], range[64];
    const char *headers[] = {f->auth, f->got ? range : NULL, NULL};
    struct client_request r = {.headers = headers, .on_head = on_head, .on_data = on_data};
    struct err why = {0};
    int status = 0;
    int64_t had = f->got;
    snprintf(tail, sizeof tail, "/%s", f->file->name);
    snprintf(range, sizeof range, "Range: bytes=%lld-", (long long)f->got);
    f->status = 0;
    if (begin(f, &r, tail, url, e)) return -1;
    int rc = client_fetch(&r, 0, &status, NULL, NULL, &why);
    if (f->io) return store_failed(f, f->io, e);
    if (f->too_long) return err_set(e, ERR_ADAPTER_INVALID, "more bytes came than %s has", f->file->name);
    if (rc) return err_set(e, why.code, "%s", why.msg);
    if (judge(status, had && status != 200, e)) return -1;
    return f->got == f->file->bytes ? 0 : err_set(e, ERR_ENGINE, "%s came in part", f->file->name);
}

static int gather(struct fetch *f, struct err *e)
{
    struct err why = {0};
    uint8_t sum[SHA256_BYTES];
    char hex[SHA256_HEX];
    f->got = 0;
    sha256_init(&f->sum);
    if (lseek(f->fd, 0, SEEK_SET) < 0) return store_failed(f, errno, e);
    for (int tries = 0; ask_rest(f, &why); tries++) {
        if (why.code == ERR_ADAPTER_INVALID) return err_set(e, why.code, "%s", why.msg);
        if (f->grew) tries = 0;
        f->grew = false;
        if (wait_again(f, tries, &why, e)) return -1;
    }
    sha256_end(&f->sum, sum);
    sha256_hex(sum, hex);
    if (strcmp(hex, f->file->sha256) == 0) return 0;
    return err_set(e, ERR_ADAPTER_INVALID, "%s has not the bytes that the gateway named", f->file->name);
}

/* Room on the disk is taken at once, so that a full one is known before the wire is used. */
static int take_file(struct fetch *f, const char *dir, struct err *e)
{
    char path[STORE_PATH_MAX + 64];
    struct err why = {0};
    snprintf(path, sizeof path, "%s/%s", dir, f->file->name);
    f->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (f->fd < 0) return store_failed(f, errno, e);
    int number = posix_fallocate(f->fd, 0, f->file->bytes), rc;
    if (number && number != EOPNOTSUPP && number != EPERM && number != EINVAL)
        rc = store_failed(f, number, e);
    else if ((rc = gather(f, &why)) && why.code == ERR_ADAPTER_INVALID)
        rc = gather(f, e);
    else if (rc)
        err_set(e, why.code, "%s", why.msg);
    if (close(f->fd) && !rc) rc = store_failed(f, errno, e);
    return rc;
}

/* --- all of it --- */

int pull_read_auth(const char *token_file, char auth[PULL_AUTH_MAX], struct err *e)
{
    char token[PULL_AUTH_MAX - 32];
    FILE *in = fopen(token_file, "re");
    size_t n = in ? fread(token, 1, sizeof token - 1, in) : 0;
    bool whole = in && feof(in);
    if (in) fclose(in);
    while (n && strchr(" \t\r\n", token[n - 1])) n--;
    token[n] = 0;
    bool good = whole && n > 0;
    for (size_t i = 0; i < n; i++) good &= token[i] > 0x20 && token[i] < 0x7f;
    if (good) snprintf(auth, PULL_AUTH_MAX, "Authorization: Bearer %s", token);
    explicit_bzero(token, sizeof token);
    return good ? 0 : err_set(e, ERR_UNAUTHORIZED, "the file of the engine's pull token holds none");
}

/* As the loader will look at it. */
static int check(const struct fetch *f, const char *dir, struct err *e)
{
    const struct adapter_limits limits = {.max_rank = f->ask->max_rank, .unsummed = true};
    struct adapter *a;
    if (adapter_open(&a, dir, &f->ask->base, &limits, e)) return -1;
    bool same = strcmp(a->digest, f->ask->digest) == 0;
    adapter_close(a);
    return same ? 0 : err_set(e, ERR_ADAPTER_INVALID, "what the gateway gave has another digest");
}

int pull_temp(const char *store, char out[STORE_PATH_MAX], struct err *e)
{
    if (snprintf(out, STORE_PATH_MAX, "%s/tmp", store) < STORE_PATH_MAX) return 0;
    return err_set(e, ERR_USAGE, "the store's path is too long");
}

int pull_temp_of(const char *store, uint32_t id, char out[STORE_PATH_MAX], struct err *e)
{
    if (snprintf(out, STORE_PATH_MAX, "%s/tmp/%u", store, (unsigned)id) < STORE_PATH_MAX) return 0;
    return err_set(e, ERR_USAGE, "the store's path is too long");
}

static int take_files(struct fetch *f, const struct pull_list *l, const char *dir, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < PULL_FILES && !rc; i++) {
        f->file = &l->file[i];
        rc = take_file(f, dir, e);
    }
    return rc;
}

static void remove_files(const struct pull_list *l, const char *dir)
{
    for (int i = 0; i < PULL_FILES; i++) {
        char path[STORE_PATH_MAX + 64];
        snprintf(path, sizeof path, "%s/%s", dir, l->file[i].name);
        unlink(path);
    }
}

static int take_all(struct fetch *f, const struct pull_list *l, const char *dir, struct err *e)
{
    struct err why = {0};
    if (take_files(f, l, dir, &why)) {
        if (!f->full) return err_set(e, why.code, "%s", why.msg);
        remove_files(l, dir);
        f->io = 0;
        if (f->way->full(f->way->u, e) || take_files(f, l, dir, e)) return -1;
    }
    return check(f, dir, e);
}

int pull_fetch(const struct pull_options *o, const struct pull_ask *a, const struct pull_way *way, const char *dir, const char *auth, struct err *e)
{
    struct fetch f = {.o = o, .ask = a, .way = way, .auth = auth, .until_us = clock_mono_us() + (int64_t)o->total_s * 1000000, .fd = -1};
    struct pull_list l;
    return ask_list(&f, &l, e) || way->need(way->u, l.bytes, e) || take_all(&f, &l, dir, e) ? -1 : 0;
}
