/* client_call: one exchange: what is asked of libcurl, what it tells us, and how it ended in plain English.
 *
 * Redirects, proxies, netrc, cookies and protocols other than http and https are off, so that a URL means one
 * connection to the host it names. The head is told when its last line came, 1xx heads are skipped. client_fetch() runs
 * one on the calling thread. Bounds: a body to read is limited by its caller, a header that we keep is cut. */
#include "base/client_internal.h"
#include "base/clock.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_BUFFER 2048L /* libcurl's, per call: four thousand streams may be open, and one that never ends gets a hundred of them in its turn */
#define STATUS_MAX 999 /* three digits; libcurl takes more */
#define FETCH_BUFFER 65536L /* of one exchange on its own thread */

/* --- what libcurl tells --- */

static size_t on_header(char *line, size_t size, size_t n, void *user)
{
    struct client_call *k = user;
    n *= size;
    k->last_us = clock_mono_us();
    client_head_line(&k->head, line, n);
    if (k->status || (line[0] != '\r' && line[0] != '\n')) return n; /* what libcurl takes for the head's end begins so; or trailers */
    long status = 0;
    curl_easy_getinfo(k->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status < 200 || status > STATUS_MAX) return n;
    k->status = (int)status;
    client_call_near(k);
    struct client_reply r = client_call_reply(k);
    if (k->req.on_head) k->req.on_head(k->req.user, &r);
    return n;
}

/* libcurl is content with half a head, and with a status that is none. */
static void no_head(const struct client_call *k, struct err *e)
{
    err_set(e, ERR_ENGINE, "the exchange with %s broke off: its answer has no whole head", k->url_shown);
}

static size_t on_write(char *bytes, size_t size, size_t n, void *user)
{
    struct client_call *k = user;
    if (k->paused_until_us) return CURL_WRITEFUNC_PAUSE;
    k->last_us = clock_mono_us();
    if (!k->status) {
        no_head(k, &k->cause);
        return size * n + 1;
    }
    if (k->into) return buf_add(k->into, bytes, size * n) ? size * n + 1 : size * n;
    if (!k->req.on_data || k->req.on_data(k->req.user, bytes, size * n) == 0) return size * n;
    err_set(&k->cause, ERR_ENGINE, "the call was cut by its reader");
    return size * n + 1; /* anything but size * n fails the transfer */
}

static size_t on_read(char *to, size_t size, size_t n, void *user)
{
    struct client_call *k = user;
    size_t got = fread(to, 1, size * n, k->file);
    k->last_us = clock_mono_us();
    k->sent += (int64_t)got;
    if (ferror(k->file)) return CURL_READFUNC_ABORT;
    if (k->req.progress) k->req.progress(k->req.user, k->sent, k->file_size);
    return got;
}

static int on_seek(void *user, curl_off_t at, int origin)
{
    struct client_call *k = user;
    if (fseeko(k->file, at, origin)) return CURL_SEEKFUNC_FAIL;
    k->sent = at;
    return CURL_SEEKFUNC_OK;
}

static curl_socket_t on_open(void *user, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct client_call *k = user;
    (void)purpose;
    if (k->req.on_address && k->req.on_address(k->req.user, &a->addr)) {
        err_set(&k->cause, ERR_INVALID, "the address of %s is not allowed", k->url_shown);
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* --- making one --- */

static void start_once(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

void client_global_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start_once);
}

/* No user part, no query: they may hold secrets. */
static void show_url(struct client_call *k, const char *url)
{
    size_t scheme = strcspn(url, ":"), n = strcspn(url, "?#");
    const char *host = strncmp(url + scheme, "://", 3) == 0 ? url + scheme + 3 : url;
    const char *path = strchr(host, '/'), *at = memchr(host, '@', (size_t)((path ? path : url + strlen(url)) - host));
    if (at)
        snprintf(k->url_shown, sizeof k->url_shown, "%.*s",
                 n > (size_t)(at + 1 - url) ? (int)(n - (size_t)(at + 1 - url)) : 0, at + 1);
    else
        snprintf(k->url_shown, sizeof k->url_shown, "%.*s", (int)n, url);
}

static int add_header(struct client_call *k, const char *line)
{
    struct curl_slist *more = curl_slist_append(k->headers, line);
    if (!more) return -1;
    k->headers = more;
    return 0;
}

static int add_headers(struct client_call *k, const struct client_request *req, struct err *e)
{
    bool typed = false;
    for (const char *const *h = req->headers; h && *h; h++) {
        if (strpbrk(*h, "\r\n")) return err_set(e, ERR_INVALID, "a header holds a line end");
        typed |= strncasecmp(*h, "content-type:", 13) == 0;
        if (add_header(k, *h)) return err_set(e, ERR_NO_MEMORY, "no memory for headers");
    }
    int rc = 0;
    if (!typed && req->body) rc |= add_header(k, "Content-Type: application/json");
    if (!typed && req->file) rc |= add_header(k, "Content-Type: application/octet-stream");
    if (!req->file) rc |= add_header(k, "Expect:"); /* a small body goes with its head */
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for headers") : 0;
}

static int open_file(struct client_call *k, const char *path, struct err *e)
{
    struct stat st;
    k->file = fopen(path, "re");
    if (!k->file) return err_errno(e, "cannot open %s", path);
    if (fstat(fileno(k->file), &st)) return err_errno(e, "cannot read %s", path);
    if (!S_ISREG(st.st_mode)) return err_set(e, ERR_IO, "%s is no regular file", path);
    k->file_size = st.st_size;
    return 0;
}

static CURLcode set_payload(struct client_call *k, const struct client_request *req)
{
    CURLcode rc = CURLE_OK;
    if (req->file) {
        rc |= curl_easy_setopt(k->easy, CURLOPT_UPLOAD, 1L);
        rc |= curl_easy_setopt(k->easy, CURLOPT_INFILESIZE_LARGE, (curl_off_t)k->file_size);
        rc |= curl_easy_setopt(k->easy, CURLOPT_READFUNCTION, on_read);
        rc |= curl_easy_setopt(k->easy, CURLOPT_READDATA, k);
        rc |= curl_easy_setopt(k->easy, CURLOPT_SEEKFUNCTION, on_seek);
        rc |= curl_easy_setopt(k->easy, CURLOPT_SEEKDATA, k);
    } else if (k->body || strcmp(req->method, "POST") == 0) {
        rc |= curl_easy_setopt(k->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(k->body ? req->body_len : 0));
        rc |= curl_easy_setopt(k->easy, CURLOPT_POSTFIELDS, k->body ? k->body : "");
    } else if (strcmp(req->method, "HEAD") == 0) {
        return curl_easy_setopt(k->easy, CURLOPT_NOBODY, 1L);
    }
    return rc | curl_easy_setopt(k->easy, CURLOPT_CUSTOMREQUEST, req->method);
}

static CURLcode set_target(struct client_call *k, const struct client_request *req)
{
    CURLcode rc = curl_easy_setopt(k->easy, CURLOPT_URL, req->url);
    if (req->unix_socket)
        rc |= curl_easy_setopt(k->easy, CURLOPT_UNIX_SOCKET_PATH, req->unix_socket);
    else if (req->on_address) {
        rc |= curl_easy_setopt(k->easy, CURLOPT_OPENSOCKETFUNCTION, on_open);
        rc |= curl_easy_setopt(k->easy, CURLOPT_OPENSOCKETDATA, k);
        if (!req->keep) /* none that another call opened unjudged */
            rc |= curl_easy_setopt(k->easy, CURLOPT_FRESH_CONNECT, 1L);
    }
    if (req->ca_file) rc |= curl_easy_setopt(k->easy, CURLOPT_CAINFO, req->ca_file); /* the system's are in CAPATH, which stays */
    rc |= curl_easy_setopt(k->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    rc |= curl_easy_setopt(k->easy, CURLOPT_PROXY, "");
    rc |= curl_easy_setopt(k->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    return rc;
}

static CURLcode set_manner(struct client_call *k, const struct client_request *req)
{
    CURLcode rc = curl_easy_setopt(k->easy, CURLOPT_NOSIGNAL, 1L);
    rc |= curl_easy_setopt(k->easy, CURLOPT_BUFFERSIZE, READ_BUFFER);
    rc |= curl_easy_setopt(k->easy, CURLOPT_CONNECTTIMEOUT_MS, req->connect_ms ? (long)req->connect_ms : 0x7fffffffL);
    rc |= curl_easy_setopt(k->easy, CURLOPT_TIMEOUT_MS, (long)req->total_ms);
    rc |= curl_easy_setopt(k->easy, CURLOPT_HTTPHEADER, k->headers);
    rc |= curl_easy_setopt(k->easy, CURLOPT_HEADERFUNCTION, on_header);
    rc |= curl_easy_setopt(k->easy, CURLOPT_HEADERDATA, k);
    rc |= curl_easy_setopt(k->easy, CURLOPT_WRITEFUNCTION, on_write);
    rc |= curl_easy_setopt(k->easy, CURLOPT_WRITEDATA, k);
    rc |= curl_easy_setopt(k->easy, CURLOPT_PRIVATE, k);
    return rc;
}

int client_call_new(struct client_call **out, const struct client_request *req, struct err *e)
{
    struct client_call *k = calloc(1, sizeof *k);
    if (!k) return err_set(e, ERR_NO_MEMORY, "no memory for a call");
    k->req = *req;
    k->last_us = clock_mono_us();
    show_url(k, req->url);
    client_global_start();
    if (req->body && !req->file) {
        k->body = malloc(req->body_len + 1);
        if (k->body) memcpy(k->body, req->body, req->body_len);
    }
    k->easy = curl_easy_init();
    if (!k->easy || (req->body && !req->file && !k->body)) {
        err_set(e, ERR_NO_MEMORY, "no memory for a call");
        goto fail;
    }
    if ((req->file && open_file(k, req->file, e)) || add_headers(k, req, e)) goto fail;
    CURLcode set = set_target(k, req) | set_manner(k, req) | set_payload(k, req);
    if (set) {
        if (set == CURLE_OUT_OF_MEMORY) /* libcurl copies strings */
            err_set(e, ERR_NO_MEMORY, "no memory for a call to %s", k->url_shown);
        else
            err_set(e, ERR_INVALID, "cannot call %s", k->url_shown);
        goto fail;
    }
    *out = k;
    return 0;
fail:
    client_call_free(k);
    return -1;
}

void client_call_free(struct client_call *k)
{
    if (k->easy) curl_easy_cleanup(k->easy);
    if (k->file) fclose(k->file);
    curl_slist_free_all(k->headers);
    free(k->head.location);
    free(k->body);
    free(k);
}

/* --- how it goes and ends --- */

struct client_reply client_call_reply(const struct client_call *k)
{
    return (struct client_reply){.status = k->status,
                                 .content_type = k->head.content_type[0] ? k->head.content_type : NULL,
                                 .retry_after = k->head.retry_after[0] ? k->head.retry_after : NULL,
                                 .request_id = k->head.request_id[0] ? k->head.request_id : NULL,
                                 .etag = k->head.etag[0] ? k->head.etag : NULL,
                                 .weft_time = k->head.weft_time[0] ? k->head.weft_time : NULL,
                                 .location = k->head.location};
}

int64_t client_call_deadline(const struct client_call *k)
{
    if (k->paused_until_us) return k->paused_until_us;
    int ms = k->status ? k->req.idle_ms : k->req.first_byte_ms;
    return ms > 0 ? k->last_us + (int64_t)ms * 1000 : INT64_MAX;
}

void client_call_near(struct client_call *k)
{
    int64_t until = client_call_deadline(k);
    if (k->nearest_us && until < *k->nearest_us) *k->nearest_us = until;
}

void client_call_silent(struct client_call *k)
{
    if (k->status)
        err_set(&k->cause, ERR_UPSTREAM_TIMEOUT, "%s sent nothing for %d ms", k->url_shown, k->req.idle_ms);
    else
        err_set(&k->cause, ERR_UPSTREAM_TIMEOUT, "%s did not begin to answer within %d ms", k->url_shown,
                k->req.first_byte_ms);
}

/* What is wrong with a certificate, by what libcurl has from GnuTLS: bits of its gnutls_certificate_status_t; none: all but the name is right. */
static const char *certificate_fault(const struct client_call *k)
{
    enum { SIGNER_NOT_FOUND = 1 << 6, NOT_ACTIVATED = 1 << 9, EXPIRED = 1 << 10 };
    long bits = 0;
    curl_easy_getinfo(k->easy, CURLINFO_SSL_VERIFYRESULT, &bits);
    if (bits & SIGNER_NOT_FOUND) return "is signed by no authority that is trusted here";
    if (bits & EXPIRED) return "is out of date";
    if (bits & NOT_ACTIVATED) return "is not valid yet";
    return bits ? "is not valid" : "is for another name";
}

void client_call_verdict(const struct client_call *k, CURLcode code, struct err *e)
{
    if (code == CURLE_OK && !k->status) no_head(k, e);
    if (code == CURLE_OK) return;
    if (k->cause.code) {
        err_set(e, k->cause.code, "%s", k->cause.msg);
        return;
    }
    const char *why = curl_easy_strerror(code);
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        err_set(e, ERR_UPSTREAM_TIMEOUT, "%s did not finish in time", k->url_shown);
        break;
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
        err_set(e, ERR_UNAVAILABLE, "cannot connect to %s: %s", k->url_shown, why);
        break;
    case CURLE_OUT_OF_MEMORY:
        err_set(e, ERR_NO_MEMORY, "no memory for a call to %s", k->url_shown);
        break;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
        err_set(e, ERR_INVALID, "cannot call %s: %s", k->url_shown, why);
        break;
    case CURLE_PEER_FAILED_VERIFICATION:
        err_set(e, ERR_UNAVAILABLE, "cannot connect to %s: its certificate %s", k->url_shown, certificate_fault(k));
        break;
    case CURLE_SSL_CONNECT_ERROR:
        err_set(e, ERR_UNAVAILABLE, "cannot connect to %s: no TLS could be agreed on", k->url_shown);
        break;
    case CURLE_SSL_CACERT_BADFILE:
        err_set(e, ERR_IO, "cannot call %s: the file of authorities can't be read", k->url_shown);
        break;
    default:
        err_set(e, ERR_ENGINE, "the exchange with %s broke off: %s", k->url_shown, why);
    }
}

/* --- one on the calling thread --- */

static int fetch_tick(void *u, curl_off_t dt, curl_off_t dn, curl_off_t ut, curl_off_t un)
{
    (void)dt, (void)dn, (void)ut, (void)un;
    struct client_call *k = u;
    if (k->req.on_tick && k->req.on_tick(k->req.user)) return 1;
    if (clock_mono_us() < client_call_deadline(k)) return 0;
    client_call_silent(k);
    return 1;
}

int client_fetch(const struct client_request *req, size_t max_body, int *status, char **body, size_t *body_len,
                 struct err *e)
{
    struct client_call *k;
    struct buf b;
    if (client_call_new(&k, req, e)) return -1;
    buf_init(&b, max_body);
    k->into = req->on_data ? NULL : &b;
    curl_easy_setopt(k->easy, CURLOPT_BUFFERSIZE, FETCH_BUFFER); /* nobody else waits on this thread */
    curl_easy_setopt(k->easy, CURLOPT_XFERINFOFUNCTION, fetch_tick);
    curl_easy_setopt(k->easy, CURLOPT_XFERINFODATA, k);
    curl_easy_setopt(k->easy, CURLOPT_NOPROGRESS, 0L);
    CURLcode code = curl_easy_perform(k->easy);
    struct err end = {0};
    client_call_verdict(k, code, &end);
    int rc = -1;
    if (b.failed)
        err_set(e, ERR_ENGINE, "the answer of %s is longer than %zu bytes", k->url_shown, max_body);
    else if (end.code)
        err_set(e, end.code, "%s", end.msg);
    else {
        size_t n = b.len;
        char *bytes = body ? buf_take(&b) : NULL;
        rc = body && !bytes ? err_set(e, ERR_NO_MEMORY, "no memory for an answer") : 0;
        if (rc == 0) *status = k->status;
        if (rc == 0 && body) *body = bytes;
        if (rc == 0 && body_len) *body_len = n;
    }
    buf_close(&b);
    client_call_free(k);
    return rc;
}
