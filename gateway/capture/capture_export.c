/* capture_export: which captures are lines of a training set, and what a line says (see capture_export.h).
 *
 * Ratings are read first, all in one snapshot; then file by file, so memory holds one capture at a time. A capture that goes meanwhile is left out. On a
 * database thread. */
#include "gateway/capture/capture_export.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_MS 10000
#define CUT "length" /* finish_reason of an answer that is not whole */

struct rating {
    bool there;
    double value;
    char label[65];
};

struct rated {
    const char *tenant;
    const struct capture_id *row;
    struct rating *rating;
    int n;
};

static int read_ratings(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT rating, label FROM feedback WHERE tenant = ?1 AND request = ?2";
    const struct rated *x = u;
    for (int i = 0; i < x->n; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        int rc = st && db_bind(st, e, "ss", x->tenant, x->row[i].id) == 0 ? db_row(st, e) : -1;
        if (rc < 0) return -1;
        x->rating[i].there = rc == 1;
        if (rc == 1) x->rating[i].value = sqlite3_column_double(st, 0);
        if (rc == 1) strncat(x->rating[i].label, db_text(st, 1), sizeof x->rating[i].label - 1);
        sqlite3_reset(st);
    }
    return 0;
}

/* The message that a version answered with; NULL: it was not asked. */
static json_t *answer_of(const json_t *row, const char *version)
{
    json_t *own = json_object_get(row, "answer"), *one;
    size_t i;
    if (!version || strcmp(version, json_string_value(json_object_get(row, "version"))) == 0) return own;
    json_array_foreach(json_object_get(row, "answers"), i, one)
    {
        if (strcmp(version, json_string_value(json_object_get(one, "version"))) == 0) return json_object_get(one, "answer");
    }
    return NULL;
}

/* Texts alike but for spaces around them, and the same calls of tools. */
static bool same(const json_t *a, const json_t *b)
{
    const char *s = json_string_value(json_object_get(a, "content")), *t = json_string_value(json_object_get(b, "content"));
    static const char space[] = " \t\r\n";
    s = s ? s + strspn(s, space) : "";
    t = t ? t + strspn(t, space) : "";
    size_t n = strlen(s), m = strlen(t);
    while (n && strchr(space, s[n - 1])) n--;
    while (m && strchr(space, t[m - 1])) m--;
    const json_t *calls = json_object_get(a, "tool_calls"), *others = json_object_get(b, "tool_calls");
    return n == m && memcmp(s, t, n) == 0 && !calls == !others && (!calls || json_equal(calls, others));
}

/* The line; NULL: it is none of this set. */
static json_t *line_of(const json_t *row, const struct rating *r, const struct capture_ask *a)
{
    const char *version = json_string_value(json_object_get(row, "version")), *finish = json_string_value(json_object_get(row, "finish_reason"));
    json_t *answer = answer_of(row, a->answer), *other = a->other ? answer_of(row, a->other) : NULL;
    bool own = answer == json_object_get(row, "answer");
    if (!version || !answer || (a->version && strcmp(version, a->version) != 0)) return NULL;
    if (own && !a->cut && finish && strcmp(finish, CUT) == 0) return NULL;
    if (a->rated && (!r->there || r->value < a->least || r->value > a->most)) return NULL;
    if (a->other && (!other || same(answer, other))) return NULL;
    json_t *messages = json_copy_top(json_object_get(row, "messages")), *tools = json_object_get(row, "tools");
    json_list_add(&messages, json_incref(answer));
    json_t *weft = json_pack("{sO sO sO ss}", "request", json_object_get(row, "id"), "created_at", json_object_get(row, "created_at"), "alias",
                             json_object_get(row, "alias"), "version", a->answer ? a->answer : version);
    if (r->there) json_object_put(&weft, "rating", json_real(r->value));
    if (*r->label) json_object_put(&weft, "label", json_string(r->label));
    if (own && json_object_get(row, "logprobs")) json_object_put(&weft, "logprobs", json_incref(json_object_get(row, "logprobs")));
    if (other) json_object_put(&weft, "other", json_pack("{ss sO}", "version", a->other, "answer", other));
    json_t *o = json_pack("{so so}", "messages", messages, "weft", weft);
    if (tools) json_object_put(&o, "tools", json_incref(tools));
    return o;
}

static int write_all(int fd, const char *s, size_t n, struct err *e)
{
    while (n) {
        ssize_t k = write(fd, s, n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return err_errno(e, "an export");
        s += k;
        n -= (size_t)k;
    }
    return 0;
}

static int write_line(int fd, json_t *o, struct err *e)
{
    struct buf b;
    buf_init(&b, 4 * (size_t)CAPTURE_ROW_MAX);
    int rc = json_dump(o, false, &b) || buf_addc(&b, '\n') ? err_set(e, ERR_NO_MEMORY, "no memory for an export") : write_all(fd, b.data, b.len, e);
    buf_close(&b);
    return rc;
}

static int export_one(struct captures *c, const char *tenant, const char *id, const struct rating *r, const struct capture_ask *a, int fd, int *rows, struct err *e)
{
    json_t *row = NULL;
    struct err why = {0};
    if (captures_read(c, tenant, id, &row, &why)) return why.code == ERR_NOT_FOUND ? 0 : err_set(e, why.code, "%s", why.msg);
    json_t *line = line_of(row, r, a);
    int rc = line ? write_line(fd, line, e) : 0;
    if (line && rc == 0) ++*rows;
    json_decref(line);
    json_decref(row);
    return rc;
}

int capture_export(struct captures *c, struct db *d, const char *tenant, const struct capture_ask *a, int fd, int *rows, struct err *e)
{
    struct rated x = {.tenant = tenant};
    struct capture_id *list = NULL;
    int rc = captures_list(c, tenant, &a->filter, &list, &x.n, e);
    x.row = list;
    x.rating = rc ? NULL : calloc((size_t)x.n + 1, sizeof *x.rating);
    if (rc == 0 && !x.rating) rc = err_set(e, ERR_NO_MEMORY, "no memory for an export");
    if (rc == 0) rc = db_read_alone(d, read_ratings, &x, READ_MS, e);
    for (int i = 0; rc == 0 && i < x.n; i++) rc = export_one(c, tenant, list[i].id, &x.rating[i], a, fd, rows, e);
    free(x.rating);
    free(list);
    return rc;
}
