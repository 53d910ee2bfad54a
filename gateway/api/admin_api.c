/* admin_api: the routes of the admin listener, and what all JSON handlers here share.
 *
 *     head (event thread): key -> principal, or 401/403 before any body is read
 *     handle (event thread): deferred -> handler (database thread): query, body, answer
 *
 * Every handler may block in the database, so none runs on an event thread. Unknown query arguments and body fields are refused by name:
 * a misspelt one would else be a silent no. Changes carry an actor (key, address, request id) to their audit row. */
#include "gateway/api/admin_api.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/page.h"
#include "gateway/auth/auth_store.h"
#include "gateway/ledger/ledger_query.h"
#include "gateway/proxy/chat_api.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUERY_ARGS_MAX 32

int admin_set_who(struct http_request *r, const struct principal *who)
{
    struct principal *kept = arena_alloc(r->arena, sizeof *kept);
    if (!kept) {
        http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for a request"});
        return -1;
    }
    *kept = *who;
    r->who = r->user = kept;
    return 0;
}

int admin_for_tenant(struct http_request *r, struct err *e)
{
    struct principal who = *admin_who(r);
    json_t *o;
    if (tenant_get(admin_gateway(r)->auth, r->param[0], &o, e)) return -1;
    snprintf(who.tenant, sizeof who.tenant, "%s", json_string_value(json_object_get(o, "id")));
    json_decref(o);
    struct principal *kept = arena_alloc(r->arena, sizeof *kept);
    if (!kept) return err_set(e, ERR_NO_MEMORY, "no memory for a request");
    *kept = who;
    r->user = kept;
    return 0;
}

/* Who asks, of which tenant: that of the key, which must be the path's where it names one. */
static int tenant_head(struct http_request *r, unsigned scope)
{
    struct principal who;
    struct err e = {0};
    const char *tenant = strncmp(r->path, "/t/", 3) == 0 ? r->param[0] : NULL;
    if (auth_check(admin_gateway(r)->auth, http_bearer(r), tenant, scope, &who, &e) == 0) return admin_set_who(r, &who);
    http_reply_error(r, &e);
    return -1;
}

int admin_usage_head(struct http_request *r) { return tenant_head(r, SCOPE_USAGE); }
int admin_keys_head(struct http_request *r) { return tenant_head(r, SCOPE_KEYS); }
int admin_any_head(struct http_request *r) { return tenant_head(r, 0); }

int admin_head(struct http_request *r)
{
    struct principal who;
    struct err e = {0};
    unsigned scope = strcmp(r->method, "GET") == 0 ? SCOPE_ADMIN_READ : SCOPE_ADMIN;
    if (auth_check_admin(admin_gateway(r)->auth, http_bearer(r), scope, &who, &e) == 0) return admin_set_who(r, &who);
    http_reply_error(r, &e);
    return -1;
}

void admin_reply(struct http_request *r, int status, json_t *v)
{
    struct buf b;
    buf_init(&b, ADMIN_ANSWER_MAX);
    bool whole = !json_was_short(r->t_start_us);
    if (v && json_dump(v, false, &b) == 0 && whole)
        http_reply(r, status, NULL, b.data, b.len);
    else
        http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for the answer"});
    buf_close(&b);
    json_decref(v);
}

void admin_reply_buckets(struct http_request *r, const struct buf *data, int64_t next)
{
    struct buf b;
    buf_init(&b, ADMIN_ANSWER_MAX);
    buf_adds(&b, "{\"object\":\"page\",\"data\":");
    buf_add(&b, data->data, data->len);
    buf_adds(&b, next ? ",\"has_more\":true,\"next_page\":\"" : ",\"has_more\":false,\"next_page\":null}");
    if (next) buf_addi(&b, next), buf_adds(&b, "\"}");
    if (data->failed || b.failed)
        http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for the answer"});
    else
        http_reply(r, 200, NULL, b.data, b.len);
    buf_close(&b);
}

void admin_reply_list(struct http_request *r, json_t *data, const char *id, bool more)
{
    size_t n = json_array_size(data);
    json_t *first = json_object_get(json_array_get(data, 0), id),
           *last = n ? json_object_get(json_array_get(data, n - 1), id) : NULL;
    admin_reply(r, 200,
                json_pack("{ss so sO? sO? sb}", "object", "list", "data", data, "first_id", first, "last_id", last,
                          "has_more", more));
}

void admin_answer_page(struct http_request *r, const char *const *also, const char *id,
                       int (*fill)(const struct http_request *r, const struct page *p, json_t *data, bool *more, struct err *e))
{
    struct err e = {0};
    struct page p;
    bool more = false;
    json_t *data = json_array();
    if (page_read(r, also, &p, &e) == 0 && fill(r, &p, data, &more, &e) == 0) {
        admin_reply_list(r, data, id, more);
        return;
    }
    json_decref(data);
    api_refuse(r, &e);
}

struct deferred {
    struct http_request *r;
    void (*work)(struct http_request *r);
};

static void hash_text(struct sha256 *h, const char *text)
{
    sha256_add(h, text, strlen(text) + 1);
}

static void hash_arg(void *u, const char *name, const char *value)
{
    hash_text(u, name);
    hash_text(u, value);
}

/* 0: go on; with an Idempotency-Key, r->layer is the request's once. -1: it has replied. */
static int look_up(struct http_request *r)
{
    const char *key = strcmp(r->method, "POST") == 0 ? http_header(r, "idempotency-key") : NULL;
    struct err e = {0};
    struct sha256 h;
    uint8_t body[SHA256_BYTES];
    struct once_answer stored;
    struct once *once = NULL;
    if (!key) return 0;
    sha256_init(&h);
    hash_text(&h, r->path);
    http_query_each(r, hash_arg, &h);
    sha256_add(&h, "", 1);
    sha256_add(&h, r->body, r->body_len);
    sha256_end(&h, body);
    if (once_begin(admin_gateway(r)->once, admin_who(r)->key, key, body, &once, &stored, &e)) {
        http_reply_error(r, &e);
        return -1;
    }
    r->layer = once;
    if (!stored.body) return 0;
    http_set_header(r, "Idempotent-Replayed", "true");
    http_set_header(r, "Cache-Control", "no-store");
    http_reply(r, stored.status, NULL, stored.body, strlen(stored.body));
    explicit_bzero(stored.body, strlen(stored.body));
    free(stored.body);
    return -1;
}

/* When work returns, the request may be gone. */
static void run_deferred(void *u)
{
    struct deferred *d = u;
    if (look_up(d->r)) return;
    struct once *once = d->r->layer;
    d->work(d->r);
    once_end(once);
}

void admin_defer(struct http_request *r, void (*work)(struct http_request *r))
{
    struct err e = {0};
    struct deferred *d = arena_alloc(r->arena, sizeof *d);
    if (d) *d = (struct deferred){r, work};
    if (!d) err_set(&e, ERR_NO_MEMORY, "no memory for a request");
    if (!d || db_defer(admin_gateway(r)->db, run_deferred, d, &e)) http_reply_error(r, &e);
}

struct known_args {
    const char *const *names;
    const char *seen[QUERY_ARGS_MAX];
    int n;
    struct err *e;
};

static void look_at(void *u, const char *name, const char *value)
{
    (void)value;
    struct known_args *k = u;
    const char *const *p = k->names;
    while (*p && strcmp(*p, name) != 0) p++;
    if (!*p) err_field(k->e, ERR_INVALID, name, "There is no query parameter '%.60s' here.", name);
    bool repeatable = strncmp(name, "group_by", 8) == 0;
    for (int i = 0; i < k->n && !repeatable; i++)
        if (strcmp(k->seen[i], name) == 0)
            err_field(k->e, ERR_INVALID, name, "The query parameter '%.60s' comes twice.", name);
    if (k->n < QUERY_ARGS_MAX)
        k->seen[k->n++] = name;
    else
        err_set(k->e, ERR_INVALID, "more than %d query parameters", QUERY_ARGS_MAX);
}

int admin_query_known(const struct http_request *r, const char *const *names, struct err *e)
{
    struct err found = {0};
    struct known_args k = {.names = names, .e = &found};
    http_query_each(r, look_at, &k);
    if (!found.code) return 0;
    return err_field(e, found.code, found.param, "%s", found.msg);
}

int admin_query_none(const struct http_request *r, struct err *e)
{
    static const char *const none[] = {NULL};
    return admin_query_known(r, none, e);
}

int admin_query_wait(const struct http_request *r, bool *wait, struct err *e)
{
    static const char *const names[] = {"wait", NULL};
    const char *text = http_query(r, "wait");
    if (admin_query_known(r, names, e)) return -1;
    if (text && strcmp(text, "ready") != 0) return err_field(e, ERR_INVALID, "wait", "wait can only be 'ready'");
    *wait = text != NULL;
    return 0;
}

int admin_query_int(const struct http_request *r, const char *name, int64_t min, int64_t max, int64_t *out,
                    struct err *e)
{
    const char *text = http_query(r, name);
    if (!text) return 0;
    size_t digits = strspn(text, "0123456789");
    int64_t v = digits >= 1 && digits <= 18 && !text[digits] ? strtoll(text, NULL, 10) : -1;
    if (v < min || v > max)
        return err_field(e, ERR_INVALID, name, "'%s' must be a whole number from %lld to %lld, not '%.40s'.", name,
                         (long long)min, (long long)max, text);
    *out = v;
    return 0;
}

int admin_query_tenant(struct http_request *r, const char **id, struct err *e)
{
    const char *name = http_query(r, "tenant");
    json_t *o;
    if (!name) return 0;
    if (tenant_get(admin_gateway(r)->auth, name, &o, e)) return -1;
    *id = arena_strdup(r->arena, json_string_value(json_object_get(o, "id")));
    json_decref(o);
    return *id ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for a request");
}

int admin_query_in_order(int64_t start, int64_t end, struct err *e)
{
    if (start < end) return 0;
    return err_field(e, ERR_INVALID, "start_time", "'start_time' (%lld) must be before 'end_time' (%lld).", (long long)start, (long long)end);
}

struct group_args {
    const struct admin_group *known;
    size_t n;
    unsigned bits;
    struct err *e;
};

static int add_group(struct group_args *p, const char *word, size_t n)
{
    char all[256] = "";
    for (size_t i = 0; i < p->n; i++) {
        size_t len = strlen(all);
        if (strlen(p->known[i].word) == n && memcmp(p->known[i].word, word, n) == 0) {
            p->bits |= p->known[i].bit;
            return 0;
        }
        snprintf(all + len, sizeof all - len, "%s%s", i ? ", " : "", p->known[i].word);
    }
    return err_field(p->e, ERR_INVALID, "group_by", "'group_by' knows %s, not '%.*s'.", all, n > 40 ? 40 : (int)n, word);
}

static void look_at_group(void *u, const char *name, const char *value)
{
    struct group_args *p = u;
    if (strcmp(name, "group_by") != 0 && strcmp(name, "group_by[]") != 0) return;
    for (const char *word = value;; word++) {
        size_t n = strcspn(word, ",");
        if (add_group(p, word, n)) return;
        word += n;
        if (!*word) return;
    }
}

int admin_query_groups(const struct http_request *r, const struct admin_group *known, size_t n, unsigned *out, struct err *e)
{
    struct err bad = {0};
    struct group_args p = {known, n, 0, &bad};
    http_query_each(r, look_at_group, &p);
    if (bad.code) return err_field(e, bad.code, bad.param, "%s", bad.msg);
    *out = p.bits;
    return 0;
}

int admin_page(const struct http_request *r, struct admin_page *out, struct err *e)
{
    static const char *const names[] = {"after", "limit", NULL};
    int64_t limit = API_PAGE_DEFAULT;
    if (admin_query_known(r, names, e) || admin_query_int(r, "limit", 1, API_PAGE_MAX, &limit, e)) return -1;
    const char *after = http_query(r, "after");
    *out = (struct admin_page){after ? after : "", (int)limit};
    return 0;
}

int admin_body(const struct http_request *r, const char *const *names, json_t **out, struct err *e)
{
    json_t *o;
    if (!r->body) return err_set(e, ERR_INVALID_JSON, "The body must be a JSON object; it is empty.");
    if (json_parse(r->body, r->body_len, &o, e)) return -1;
    if (json_check_fields(o, names, NULL, e)) {
        json_decref(o);
        return -1;
    }
    *out = o;
    return 0;
}

struct actor admin_actor(const struct http_request *r)
{
    return (struct actor){admin_who(r)->key, r->peer, r->id, r->layer, admin_who(r)->scopes};
}

/* --- audit, usage, ledger --- */

static void audit_get(struct http_request *r)
{
    struct err e = {0};
    struct page p;
    bool more;
    json_t *list = json_array();
    if (page_read(r, NULL, &p, &e) || audit_page(admin_gateway(r)->db, &p, list, &more, &e)) {
        json_decref(list);
        http_reply_error(r, &e);
        return;
    }
    admin_reply_list(r, list, "seq", more);
}

static void audit_verify_get(struct http_request *r)
{
    static const char *const names[] = {NULL};
    struct err e = {0};
    struct audit_walk w;
    if (admin_query_known(r, names, &e) || audit_walk(admin_gateway(r)->db, &w, &e)) {
        http_reply_error(r, &e);
        return;
    }
    admin_reply(r, 200,
                json_pack("{ss sb sI so ss}", "object", "audit.verification", "valid", w.bad == 0, "rows", (json_int_t)w.rows, "first_bad",
                          w.bad ? json_integer(w.bad) : json_null(), "hash", w.hash));
}

static void usage_get(struct http_request *r)
{
    usage_answer(r, NULL);
}

static void ledger_get(struct http_request *r)
{
    static const char *const names[] = {"verify", NULL};
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    int64_t verify = 0, rows, bad, entries, broken;
    struct receipt_check receipts;
    if (admin_query_known(r, names, &e) || admin_query_int(r, "verify", 0, 1, &verify, &e)) {
        http_reply_error(r, &e);
        return;
    }
    json_t *o = json_pack("{ss sI si sI sI sb}", "object", "ledger", "open_admissions",
                          (json_int_t)ledger_open_admissions(g->ledger), "queue", db_queue_len(g->db), "settled",
                          (json_int_t)ledger_settled(g->ledger), "retried", (json_int_t)ledger_retried(g->ledger),
                          "writable", db_writable(g->db));
    if (o && verify) {
        if (ledger_verify(g->ledger, &rows, &bad, &e) || audit_verify(g->db, &entries, &broken, &e) ||
            ledger_check_receipts(g->ledger, pool_receipt, g->pool, &receipts, &e)) {
            json_decref(o);
            http_reply_error(r, &e);
            return;
        }
        json_object_set_new(o, "verify",
                            json_pack("{sI sI}", "rows", (json_int_t)rows, "bad_buckets", (json_int_t)bad));
        json_object_set_new(o, "receipts",
                            json_pack("{si si si}", "asked", receipts.asked, "known", receipts.known, "differ", receipts.differ));
        json_object_set_new(o, "audit",
                            json_pack("{sI sI}", "rows", (json_int_t)entries, "first_bad", (json_int_t)broken));
    }
    admin_reply(r, 200, o);
}

/* --- routes: the event thread only passes the request on to the row's handler --- */

void admin_pass_on(struct http_request *r)
{
    admin_defer(r, ((const struct admin_handler *)r->route->data)->work);
}

static const struct admin_handler *tenants_handler(const struct http_request *r)
{
    return api_route(r)->what;
}

void admin_pass_on_own(struct http_request *r)
{
    admin_defer(r, tenants_handler(r)->work);
}

static void work_for(struct http_request *r)
{
    struct err e = {0};
    if (admin_for_tenant(r, &e))
        api_refuse(r, &e);
    else
        tenants_handler(r)->work(r);
}

void admin_pass_on_for(struct http_request *r)
{
    admin_defer(r, work_for);
}

const struct http_route routes_admin[] = {
    ADMIN_CHANGE("POST", "/admin/v1/tenants", admin_tenants_post),
    ADMIN_READ("/admin/v1/tenants", admin_tenants_get),
    ADMIN_READ("/admin/v1/tenants/{name}", admin_tenant_get),
    ADMIN_CHANGE("PATCH", "/admin/v1/tenants/{name}", admin_tenant_patch),
    ADMIN_CHANGE("POST", "/admin/v1/tenants/{name}/keys", admin_keys_post),
    ADMIN_READ("/admin/v1/tenants/{name}/keys", admin_keys_get),
    ADMIN_READ("/admin/v1/keys/{id}", admin_key_get),
    ADMIN_CHANGE("PATCH", "/admin/v1/keys/{id}", admin_key_patch),
    ADMIN_CHANGE("DELETE", "/admin/v1/keys/{id}", admin_key_delete),
    ADMIN_CHANGE("POST", "/admin/v1/keys/{id}/rotate", admin_key_rotate),
    ADMIN_CHANGE("POST", "/admin/v1/admin-keys", admin_admin_keys_post),
    ADMIN_READ("/admin/v1/admin-keys", admin_admin_keys_get),
    ADMIN_READ("/admin/v1/admin-keys/{id}", admin_admin_key_get),
    ADMIN_CHANGE("DELETE", "/admin/v1/admin-keys/{id}", admin_admin_key_delete),
    ADMIN_READ("/admin/v1/settings", admin_settings_get),
    ADMIN_CHANGE("POST", "/admin/v1/reload", admin_reload_post),
    ADMIN_READ("/admin/v1/audit", audit_get),
    ADMIN_READ("/admin/v1/audit/verify", audit_verify_get),
    ADMIN_READ("/admin/v1/usage", usage_get),
    ADMIN_READ("/admin/v1/ledger", ledger_get),
    {0},
};
