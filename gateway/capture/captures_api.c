/* /v1/captures: what aliases captured, for the tenant's own admin key (SCOPE_KEYS); and below /admin/v1/tenants/{name} what the operator needs of it, which
 * is no text: how much there is, the stop, and the removal.
 *
 *     GET    captures              a list, without texts       alias, start_time, end_time
 *     GET    captures/summary      how many, how large, whether they are stopped
 *     PUT    captures/stop         {"stopped": true}
 *     GET    captures/export       a training set, JSON lines (capture_export.h)
 *     GET    captures/{id}         the whole of one
 *     POST   captures/{id}/answers what another version answers to the same: {"version", "content"}
 *     DELETE captures[/{id}]       gone from the disk when it is answered
 *
 * An export is written into a file without a name in $WEFT_DATA/tmp and sent from there, one at a time: who reads slowly holds no thread and no memory. Each
 * handler runs on one of the database's threads. */
#include "base/clock.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/page.h"
#include "gateway/capture/capture_export.h"
#include "gateway/capture/redact.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/live/event.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/settings.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TIME_MAX 253402300799 /* 9999-12-31 */
#define EXPORT_TYPE "application/jsonl; charset=utf-8"
#define VERSION_LEN (NAME_MAX_LEN + 12)
#define EXPORT_VERSION_MAX 127 /* ADAPTER@VERSION, or a base's name */
#define EXPORT_PAIR_MAX 255
#define ANSWER_BODY (8 * CAPTURE_ANSWER_LEN)

/* --- what is asked --- */

static int read_filter(const struct http_request *r, struct capture_filter *f, struct err *e)
{
    int64_t start = 0, end = TIME_MAX;
    f->alias = http_query(r, "alias");
    if (f->alias && strlen(f->alias) > NAME_MAX_LEN) return err_field(e, ERR_INVALID, "alias", "An alias's name has at most %d characters.", NAME_MAX_LEN);
    if (admin_query_int(r, "start_time", 0, TIME_MAX, &start, e) || admin_query_int(r, "end_time", 0, TIME_MAX, &end, e) || admin_query_in_order(start, end, e)) return -1;
    f->start_us = start * 1000000;
    f->end_us = end * 1000000;
    return 0;
}

static int read_rating(const struct http_request *r, const char *name, double *out, bool *said, struct err *e)
{
    const char *text = http_query(r, name);
    char *end;
    if (!text) return 0;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= -1 && v <= 1)) return err_field(e, ERR_INVALID, name, "'%s' is a number from -1 to 1.", name);
    *out = v;
    *said = true;
    return 0;
}

/* disagreements=A,B: the answer is A's, where B's is another. */
static int read_pair(struct http_request *r, struct capture_ask *a, struct err *e)
{
    const char *text = http_query(r, "disagreements"), *comma = text ? strchr(text, ',') : NULL;
    a->answer = http_query(r, "answer");
    if (!text) return 0;
    if (a->answer || !comma || comma == text || !comma[1] || strchr(comma + 1, ','))
        return err_field(e, ERR_INVALID, "disagreements", "'disagreements' is two versions with a comma between, the first of which is the answer; 'answer' is none beside it.");
    char *first = arena_alloc(r->arena, (size_t)(comma - text) + 1);
    if (!first) return err_set(e, ERR_NO_MEMORY, "no memory for the request");
    memcpy(first, text, (size_t)(comma - text));
    first[comma - text] = 0;
    a->answer = first;
    a->other = comma + 1;
    return 0;
}

static int read_ask(struct http_request *r, struct capture_ask *a, struct err *e)
{
    static const char *const names[] = {"format", "alias", "version", "start_time", "end_time", "rating_below", "rating_above", "answer", "disagreements", "cut", NULL};
    static const struct {
        const char *field;
        size_t most; /* bytes */
    } texts[] = {{"version", EXPORT_VERSION_MAX}, {"answer", EXPORT_VERSION_MAX}, {"disagreements", EXPORT_PAIR_MAX}};
    const char *format = http_query(r, "format"), *cut = http_query(r, "cut");
    *a = (struct capture_ask){.least = -1, .most = 1, .version = http_query(r, "version")};
    if (admin_query_known(r, names, e) || read_filter(r, &a->filter, e) || read_pair(r, a, e) || read_rating(r, "rating_above", &a->least, &a->rated, e) ||
        read_rating(r, "rating_below", &a->most, &a->rated, e))
        return -1;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const char *text = http_query(r, texts[i].field);
        if (text && strlen(text) > texts[i].most) return err_field(e, ERR_INVALID, texts[i].field, "'%s' is too long.", texts[i].field);
    }
    if (format && strcmp(format, "chat") != 0) return err_field(e, ERR_INVALID, "format", "'format' is chat, not '%.40s'.", format);
    if (cut && strcmp(cut, "true") != 0 && strcmp(cut, "false") != 0) return err_field(e, ERR_INVALID, "cut", "'cut' is true or false, not '%.40s'.", cut);
    a->cut = cut && strcmp(cut, "true") == 0;
    return 0;
}

/* --- what is there --- */

static json_t *id_json(const struct capture_id *x)
{
    return json_pack("{ss ss ss sI sI sI}", "id", x->id, "object", "capture", "alias", x->alias, "created_at", (json_int_t)(usage_id_time(x->id) / 1000000), "expires_at",
                     (json_int_t)x->expires_s, "bytes", (json_int_t)x->bytes);
}

/* Newest first, as lists of what happened are: `after` goes back in time. */
static void add_page(const struct page *p, const struct capture_id *v, int n, json_t *data, bool *more)
{
    const char *cursor = page_cursor(p);
    int at = n, step = page_back(p) ? 1 : -1;
    if (*cursor)
        for (at = 0; at < n && strcmp(v[at].id, cursor) < 0;) at++;
    int i = page_back(p) ? at + (at < n && strcmp(v[at].id, cursor) == 0) : at - 1;
    for (int k = 0; k < p->limit && i >= 0 && i < n; k++, i += step) {
        if (page_back(p)) json_array_insert_new(data, 0, id_json(&v[i]));
        else json_array_append_new(data, id_json(&v[i]));
    }
    *more = i >= 0 && i < n;
}

static int fill(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e)
{
    struct capture_filter f;
    struct capture_id *list = NULL;
    int n;
    if (read_filter(r, &f, e)) return -1;
    int rc = captures_list(admin_gateway(r)->captures, admin_tenant(r), &f, &list, &n, e);
    if (rc == 0) add_page(p, list, n, data, more);
    free(list);
    return rc;
}

static void list(struct http_request *r)
{
    static const char *const also[] = {"alias", "start_time", "end_time", NULL};
    admin_answer_page(r, also, "id", fill);
}

static json_t *sum_json(const struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct capture_sum s = captures_sum(g->captures, admin_tenant(r));
    return json_pack("{ss sI sI sI sb}", "object", "capture_summary", "captures", (json_int_t)s.rows, "bytes", (json_int_t)s.bytes, "bytes_max",
                     (json_int_t)(settings_now(g->settings)->capture_mb << 20), "stopped", !captures_on(g->captures, admin_tenant(r)));
}

static void summary(struct http_request *r)
{
    struct err e = {0};
    if (admin_query_none(r, &e)) api_refuse(r, &e);
    else api_reply(r, 200, sum_json(r));
}

/* The words that stand where an id would: they are other routes', by other methods. */
static int no_word(struct http_request *r, struct err *e)
{
    static const struct {
        const char *word, *allow;
    } words[] = {{"summary", "GET, HEAD"}, {"export", "GET, HEAD"}, {"stop", "PUT"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcmp(api_param(r, 0), words[i].word) != 0) continue;
        http_set_header(r, "Allow", words[i].allow);
        return err_set(e, ERR_METHOD, "%.16s is not allowed here, %s is", r->method, words[i].allow);
    }
    return 0;
}

static void get(struct http_request *r)
{
    struct err e = {0};
    json_t *v = NULL;
    if (no_word(r, &e) || admin_query_none(r, &e) || captures_read(admin_gateway(r)->captures, admin_tenant(r), api_param(r, 0), &v, &e)) api_refuse(r, &e);
    else api_reply(r, 200, v);
}

/* --- changes --- */

static void stop(struct http_request *r)
{
    static const char *const names[] = {"stopped", NULL};
    struct actor by = admin_actor(r);
    struct err e = {0};
    json_t *body = NULL;
    bool stopped = false, said = false;
    int rc = admin_query_none(r, &e) || admin_body(r, names, &body, &e) || json_get_bool(body, "stopped", &stopped, &said, &e) ? -1 : 0;
    if (rc == 0 && !said) rc = err_field(&e, ERR_MISSING, "stopped", "'stopped' is missing.");
    if (rc == 0) rc = captures_stop(admin_gateway(r)->captures, &by, admin_tenant(r), stopped, &e);
    json_decref(body);
    if (rc) api_refuse(r, &e);
    else api_reply(r, 200, sum_json(r));
}

struct removal {
    const struct actor *by;
    const char *tenant, *what;
    int n;
};

static int run_note(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct removal *x = u;
    json_t *o = json_pack("{si}", "captures", x->n);
    int rc = o ? event_add(d, c, x->tenant, "capture.deleted", x->what, o, e) : err_set(e, ERR_NO_MEMORY, "no memory for an event");
    if (rc == 0) rc = audit_add(d, c, &(struct audit){x->by, "capture.delete", x->what, o, NULL}, e);
    json_decref(o);
    return rc;
}

static void remove_some(struct http_request *r, const char *id, const struct capture_filter *f)
{
    struct gateway *g = admin_gateway(r);
    struct actor by = admin_actor(r);
    struct err e = {0};
    struct removal x = {&by, admin_tenant(r), id ? id : f->alias ? f->alias : "*", 0};
    int rc = captures_remove(g->captures, admin_tenant(r), id, f, &x.n, &e);
    if (x.n && db_write_wait(g->db, run_note, &x, rc ? NULL : &e)) rc = -1;
    if (rc) api_refuse(r, &e);
    else api_reply(r, 200, json_pack("{ss* ss sb si}", "id", id, "object", "capture", "deleted", 1, "captures", x.n));
}

static void drop(struct http_request *r)
{
    struct err e = {0};
    if (no_word(r, &e) || admin_query_none(r, &e)) api_refuse(r, &e);
    else remove_some(r, api_param(r, 0), NULL);
}

static void drop_all(struct http_request *r)
{
    static const char *const names[] = {"alias", "start_time", "end_time", NULL};
    struct err e = {0};
    struct capture_filter f;
    if (admin_query_known(r, names, &e) || read_filter(r, &f, &e)) api_refuse(r, &e);
    else remove_some(r, NULL, &f);
}

/* --- another version's answer --- */

/* By the rules that the capture itself was redacted by. */
static int redacted(const json_t *row, const char *content, json_t **out, struct err *e)
{
    struct redactor *x = NULL;
    json_t *plain = json_pack("{ss ss}", "role", "assistant", "content", content);
    int rc = plain ? redactor_new(&x, json_object_get(row, "redact"), json_object_get(row, "patterns"), e) : err_set(e, ERR_NO_MEMORY, "no memory for an answer");
    if (rc == 0) rc = redact_json(x, plain, out, e);
    redactor_free(x);
    json_decref(plain);
    return rc;
}

static int put_answer(json_t *row, const char *version, const char *content, struct err *e)
{
    json_t *answers = json_object_get(row, "answers"), *one, *answer = NULL;
    size_t i, at = json_array_size(answers);
    if (strcmp(version, json_string_value(json_object_get(row, "version"))) == 0) return err_field(e, ERR_INVALID, "version", "The capture is that version's own.");
    json_array_foreach(answers, i, one) if (strcmp(version, json_string_value(json_object_get(one, "version"))) == 0) at = i;
    if (at >= CAPTURE_ANSWERS_MAX) return err_set(e, ERR_CONFLICT, "A capture has answers of %d other versions at most.", CAPTURE_ANSWERS_MAX);
    if (redacted(row, content, &answer, e)) return -1;
    one = json_pack("{ss so}", "version", version, "answer", answer);
    int rc = !one ? -1 : at == json_array_size(answers) ? json_array_append_new(answers, one) : json_array_set_new(answers, at, one);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for an answer") : 0;
}

static pthread_mutex_t answering = PTHREAD_MUTEX_INITIALIZER; /* from reading a capture to replacing it: no answer takes another's place */

static int add_to(struct http_request *r, const char *version, const char *content, json_t **row, struct err *e)
{
    struct gateway *g = admin_gateway(r);
    const char *tenant = admin_tenant(r), *id = api_param(r, 0);
    pthread_mutex_lock(&answering);
    int rc = captures_read(g->captures, tenant, id, row, e) || put_answer(*row, version, content, e) ||
                     captures_replace(g->captures, tenant, id, *row, settings_now(g->settings)->capture_mb << 20, e)
                 ? -1
                 : 0;
    pthread_mutex_unlock(&answering);
    return rc;
}

static void add_answer(struct http_request *r)
{
    static const char *const names[] = {"version", "content", NULL};
    struct err e = {0};
    const char *version = NULL, *content = NULL;
    json_t *body = NULL, *row = NULL;
    int rc = admin_query_none(r, &e) || admin_body(r, names, &body, &e) || json_need_str(body, "version", VERSION_LEN, &version, &e) ||
             json_need_str(body, "content", CAPTURE_ANSWER_LEN, &content, &e) || add_to(r, version, content, &row, &e) ? -1 : 0;
    json_decref(body);
    if (rc) {
        json_decref(row);
        api_refuse(r, &e);
    } else {
        api_reply(r, 200, row);
    }
}

/* --- the export --- */

/* A file that nobody finds, and that is gone with its descriptor. */
static int nameless(const char *dir, struct err *e)
{
    char path[1100];
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    snprintf(path, sizeof path, "%s/export.XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) return err_errno(e, "%s", path);
    unlink(path);
    return fd;
}

static atomic_flag exporting = ATOMIC_FLAG_INIT; /* one at a time, of all tenants' */

static void export(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct capture_ask a;
    int rows = 0, fd = -1;
    int rc = read_ask(r, &a, &e);
    if (rc == 0 && atomic_flag_test_and_set(&exporting)) {
        rc = err_later(&e, ERR_RATE_LIMIT, 1, "Another export is being made; try again.");
    } else if (rc == 0) {
        fd = nameless(g->tmp, &e);
        rc = fd < 0 || capture_export(g->captures, g->db, admin_tenant(r), &a, fd, &rows, &e) ? -1 : 0;
        atomic_flag_clear(&exporting);
    }
    if (rc) {
        if (fd >= 0) close(fd);
        api_refuse(r, &e);
        return;
    }
    char count[16];
    snprintf(count, sizeof count, "%d", rows);
    http_set_header(r, "X-Weft-Captures", count);
    http_set_header(r, "Cache-Control", "no-store");
    http_reply_file(r, 200, EXPORT_TYPE, fd, 0, lseek(fd, 0, SEEK_END));
}

/* --- routes --- */

const struct http_route routes_captures[] = {
    TENANT_ROWS(SCOPE_KEYS, "GET", "/captures", HTTP_BODY_NONE, 0, list),
    TENANT_ROWS(SCOPE_KEYS, "DELETE", "/captures", HTTP_BODY_NONE, 0, drop_all),
    TENANT_ROWS(SCOPE_KEYS, "GET", "/captures/summary", HTTP_BODY_NONE, 0, summary),
    TENANT_ROWS(SCOPE_KEYS, "PUT", "/captures/stop", HTTP_BODY_BUFFER, API_BODY_MAX, stop),
    TENANT_ROWS(SCOPE_KEYS, "GET", "/captures/export", HTTP_BODY_NONE, 0, export),
    TENANT_ROWS(SCOPE_KEYS, "GET", "/captures/{id}", HTTP_BODY_NONE, 0, get),
    TENANT_ROWS(SCOPE_KEYS, "DELETE", "/captures/{id}", HTTP_BODY_NONE, 0, drop),
    TENANT_ROWS(SCOPE_KEYS, "POST", "/captures/{id}/answers", HTTP_BODY_BUFFER, ANSWER_BODY, add_answer),
    {0},
};

const struct http_route routes_captures_admin[] = {
    OPERATOR_ROW("DELETE", "/captures", HTTP_BODY_NONE, 0, drop_all),
    OPERATOR_ROW("GET", "/captures/summary", HTTP_BODY_NONE, 0, summary),
    OPERATOR_ROW("PUT", "/captures/stop", HTTP_BODY_BUFFER, API_BODY_MAX, stop),
    {0},
};
