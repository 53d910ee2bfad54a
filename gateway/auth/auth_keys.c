/* auth_keys: keys as rows (see auth_store.h and auth_change.h).
 *
 *     active --rotate--> replaced: valid until the grace is over, then expired
 *        |                  |
 *        +----- revoke -----+----> revoked: refused when the call returns, for good
 *
 * Who may touch a key is decided where the change is made, in its transaction: the caller's own key is read there again, so one that is being
 * taken away can't make others meanwhile, and none hands out what it lacks: scopes, a later end, or freedom from the limits that the operator set
 * on it (limits and use of its budgets go on to the keys it makes and to the one that replaces it). The last admin stays. */
#include "base/clock.h"
#include "gateway/api/idempotency.h"
#include "gateway/auth/auth_change.h"
#include <stdio.h>
#include <string.h>

#define US 1000000ll

#define KEY_COLUMNS                                                                                                    \
    "SELECT k.id, t.name, k.name, k.roles, k.created, k.created_by, k.expires, k.revoked, k.last_used, k.tenant, "     \
    "k.scopes, k.replaced_by,"                                                                                         \
    " k.revision FROM api_key k LEFT JOIN tenant t ON t.id = k.tenant "

static int add_words(json_t *list, const char *words_of_row)
{
    char words[KEY_WORDS_LEN], *rest = words, *word;
    snprintf(words, sizeof words, "%s", words_of_row);
    while ((word = strsep(&rest, ",")))
        if (*word && json_array_append_new(list, json_string(word))) return -1;
    return 0;
}

static json_t *scopes_json(unsigned scopes)
{
    json_t *list = json_array();
    const char *word;
    for (int at = 0; (word = auth_scope_word(scopes, &at));)
        if (json_array_append_new(list, json_string(word))) break;
    return list;
}

static json_t *key_json(sqlite3_stmt *st)
{
    bool admin = sqlite3_column_type(st, 9) == SQLITE_NULL;
    bool replaced = sqlite3_column_type(st, 11) != SQLITE_NULL;
    char shown[KEY_ID_LEN + 8];
    json_t *roles = json_array();
    snprintf(shown, sizeof shown, "%s%s...", admin ? "wfa_" : "wft_", db_text(st, 0));
    if (add_words(roles, db_text(st, 3))) {
        json_decref(roles);
        return NULL;
    }
    return json_pack("{ss ss ss* ss ss so so so ss so so so so sI}", "object", "key", "id", db_text(st, 0), "tenant",
                     admin ? NULL : db_text(st, 1), "name", db_text(st, 2), "redacted", shown, "roles", roles, "scopes",
                     scopes_json(auth_scopes_of(db_text(st, 3), db_text(st, 10), admin)), "created_at",
                     row_seconds(st, 4), "created_by", db_text(st, 5), "expires_at", row_seconds(st, 6), "revoked_at",
                     row_seconds(st, 7), "last_used_at", row_seconds(st, 8), "replaced_by",
                     replaced ? json_string(db_text(st, 11)) : json_null(), "revision",
                     (json_int_t)sqlite3_column_int64(st, 12));
}

static const char sql_key[] = KEY_COLUMNS "WHERE k.id = ?1";

/* --- rules --- */

/* What the rules ask of a key's row. */
struct held {
    unsigned scopes;
    int64_t created, expires, revoked; /* us, 0: never */
    bool admin, replaced;
    char tenant[UUID_LEN];
};

/* 1 it is there, 0 not, -1 failed. */
static int read_held(struct db *d, sqlite3 *c, const char *id, struct held *h, struct err *e)
{
    static const char sql[] =
        "SELECT roles, scopes, created, expires, revoked, replaced_by IS NOT NULL, tenant FROM api_key WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", id)) return -1;
    int rc = db_row(st, e);
    if (rc == 1) {
        h->admin = sqlite3_column_type(st, 6) == SQLITE_NULL;
        h->scopes = auth_scopes_of(db_text(st, 0), db_text(st, 1), h->admin);
        h->created = sqlite3_column_int64(st, 2);
        h->expires = sqlite3_column_int64(st, 3);
        h->revoked = sqlite3_column_int64(st, 4);
        h->replaced = sqlite3_column_int(st, 5);
        snprintf(h->tenant, sizeof h->tenant, "%s", db_text(st, 6));
    }
    sqlite3_reset(st);
    return rc;
}

static bool is_active(const struct held *h, int64_t now)
{
    return !h->revoked && (!h->expires || h->expires > now);
}

/* The key, where it is in reach. */
static int need_key(struct db *d, sqlite3 *c, const struct key_reach *in, const char *id, struct held *h, struct err *e)
{
    int rc = read_held(d, c, id, h, e);
    if (rc < 0) return -1;
    bool fits = rc == 1 && h->admin == in->admin && (!in->tenant || strcmp(in->tenant, h->tenant) == 0);
    return fits ? 0 : err_set(e, ERR_NOT_FOUND, "There is no key '%.16s'.", id);
}

/* The caller's key as it stands in this transaction; without a maker, one that may do anything. */
static int need_maker(struct db *d, sqlite3 *c, const char *maker, struct held *h, struct err *e)
{
    *h = (struct held){.scopes = ~0u};
    if (!maker) return 0;
    int rc = read_held(d, c, maker, h, e);
    if (rc < 0) return -1;
    return rc == 1 && is_active(h, clock_wall_us()) ? 0 : err_set(e, ERR_UNAUTHORIZED, AUTH_REFUSED);
}

static int check_scopes(const struct held *maker, unsigned scopes, struct err *e)
{
    int at = 0;
    const char *lacks = auth_scope_word(scopes & ~maker->scopes, &at);
    return lacks
               ? err_set(e, ERR_FORBIDDEN,
                         "The key that asks does not have the scope '%s', so it has no say over one that does.", lacks)
               : 0;
}

static int check_end(const struct held *maker, int64_t expires, struct err *e)
{
    if (!maker->expires || (expires && expires <= maker->expires)) return 0;
    return err_field(e, ERR_INVALID, "expires_at", "'expires_at' must be at most %lld, when the key that asks ends.",
                     (long long)(maker->expires / US));
}

/* Somebody must be left who can make keys. */
static int check_not_last(struct db *d, sqlite3 *c, const char *id, const struct held *h, struct err *e)
{
    static const char sql[] = "SELECT roles, scopes FROM api_key WHERE tenant IS NULL AND id <> ?1 AND revoked IS NULL"
                              " AND (expires IS NULL OR expires > ?2)";
    int64_t now = clock_wall_us();
    if (!h->admin || !(h->scopes & SCOPE_ADMIN) || !is_active(h, now)) return 0;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", id, now)) return -1;
    int rc;
    bool other = false;
    while (!other && (rc = db_row(st, e)) == 1)
        other = auth_scopes_of(db_text(st, 0), db_text(st, 1), true) & SCOPE_ADMIN;
    sqlite3_reset(st);
    if (!other && rc < 0) return -1;
    return other ? 0
                 : err_set(e, ERR_CONFLICT,
                           "This is the last admin key that may change anything; make another one first.");
}

/* Roles and scopes as a row holds them. */
struct rights {
    char roles[KEY_WORDS_LEN], scopes[KEY_WORDS_LEN];
    unsigned all;
};

static int join_words(const char *const *word, int n, const char *field, bool admin, char out[KEY_WORDS_LEN],
                      struct err *e)
{
    static const char *const words[2][2] = {
        {"admin, writer, inference and billing", "inference, adapters, usage and keys"},
        {"admin, viewer and backup", "read, write and backup"}};
    bool scopes = strcmp(field, "scopes") == 0;
    unsigned bits;
    size_t len = 0;
    out[0] = 0;
    for (int i = 0; i < n; i++) {
        if (!(scopes ? auth_scope : auth_role)(word[i], admin, &bits))
            return err_field(e, ERR_INVALID, field, "There is no %s '%.40s' for %s; there are %s.",
                             scopes ? "scope" : "role", word[i], admin ? "an admin key" : "a tenant's key",
                             words[admin][scopes]);
        len += (size_t)snprintf(out + len, KEY_WORDS_LEN - len, "%s%s", i ? "," : "", word[i]); /* 8 known words fit */
    }
    return 0;
}

static int read_rights(const struct key_wish *w, bool admin, struct rights *r, struct err *e)
{
    if (w->nroles + w->nscopes < 1)
        return err_field(e, ERR_MISSING, "roles", "'roles' or 'scopes' must name at least one.");
    if (join_words(w->role, w->nroles, "roles", admin, r->roles, e) ||
        join_words(w->scope, w->nscopes, "scopes", admin, r->scopes, e))
        return -1;
    r->all = auth_scopes_of(r->roles, r->scopes, admin);
    return 0;
}

/* --- changes --- */

struct key_write {
    struct change w; /* first: run() gets its address */
    const char *id;
    const struct key_reach *in;
    const struct key_wish *wish;
    const struct key_change *set;
    const struct key_rotation *how;
    const struct new_key *fresh;
    struct rights rights;
    int64_t revision;
};

static const char *kind_action(bool admin, const char *tenants, const char *admins)
{
    return admin ? admins : tenants;
}

/* What the operator set on a key, and what it used of its budgets, holds for the other one too. */
static int copy_limits(struct db *d, sqlite3 *c, const char *from, const char *to, struct err *e)
{
    static const char limits[] = "INSERT INTO limits(subject, requests_per_minute, tokens_per_minute, "
                                 "concurrent_requests, tokens_per_day, tokens_per_month, cost_per_day,"
                                 " cost_per_month, tokens_per_day_soft, tokens_per_month_soft, cost_per_day_soft, "
                                 "cost_per_month_soft, adapters, adapter_bytes, adapter_rank,"
                                 " adapters_pinned, revision, changed, since)"
                                 " SELECT 'key:' || ?2, requests_per_minute, tokens_per_minute, concurrent_requests, "
                                 "tokens_per_day, tokens_per_month, cost_per_day,"
                                 " cost_per_month, tokens_per_day_soft, tokens_per_month_soft, cost_per_day_soft, "
                                 "cost_per_month_soft, adapters, adapter_bytes, adapter_rank,"
                                 " adapters_pinned, 1, ?3, ?3 / 1000000 FROM limits WHERE subject = 'key:' || ?1";
    static const char use[] =
        "INSERT INTO budget_use(subject, period, t, tokens, cost, alerted, carried_tokens, carried_cost)"
        " SELECT 'key:' || ?2, period, t, tokens, cost, alerted, tokens, cost FROM budget_use WHERE subject = 'key:' || ?1"
        " AND EXISTS(SELECT 1 FROM limits WHERE subject = 'key:' || ?1)";
    sqlite3_stmt *st = db_stmt(d, c, limits, e);
    if (!st || db_bind(st, e, "ssi", from, to, clock_wall_us()) || db_done(st, e)) return -1;
    st = db_stmt(d, c, use, e);
    return st && db_bind(st, e, "ss", from, to) == 0 ? db_done(st, e) : -1;
}

/* ?7 the tenant's name: its id is looked up in the same statement. */
static int insert_key(struct db *d, sqlite3 *c, const struct new_key *k, const struct key_wish *w,
                      const struct rights *r, const char *by, struct err *e)
{
    static const char sql[] =
        "INSERT INTO api_key(id, hash, name, roles, scopes, created_by, tenant, created, expires)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, (SELECT id FROM tenant WHERE name = ?7), ?8, nullif(?9, 0))";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sbsssssii", k->id, k->hash, w->name, r->roles, r->scopes, by, w->tenant, clock_wall_us(),
                       w->expires * US))
        return -1;
    return db_done(st, e);
}

/* With the new one among them: what was written is undone where there are too many. */
static int check_room(struct db *d, sqlite3 *c, const char *id, struct err *e)
{
    static const char sql[] = "SELECT count(*) FROM (SELECT 1 FROM api_key WHERE tenant = (SELECT tenant FROM api_key WHERE id = ?1)"
                              " AND revoked IS NULL AND (expires IS NULL OR expires > ?2) LIMIT ?3)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sii", id, clock_wall_us(), (int64_t)KEYS_TENANT_MAX + 1) || db_row(st, e) != 1) return -1;
    bool fits = sqlite3_column_int64(st, 0) <= KEYS_TENANT_MAX;
    sqlite3_reset(st);
    return fits ? 0 : err_set(e, ERR_CONFLICT, "The tenant has %d keys already, and may have no more; revoke some.", KEYS_TENANT_MAX);
}

/* The trail gets the key without its text, the answer with it. */
static int close_new(struct db *d, sqlite3 *c, struct key_write *k, const char *action, const char *object,
                     struct err *e)
{
    if (check_room(d, c, k->fresh->id, e) || auth_note(d, c, &k->w, action, object, e)) return -1;
    if (json_object_set_new(k->w.after, "key", json_string(k->fresh->text)))
        return err_set(e, ERR_NO_MEMORY, "no memory for a key");
    return once_keep(d, c, k->w.by, 201, k->w.after, e);
}

static int run_create(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct key_write *k = u;
    const struct key_wish *w = k->wish;
    struct held maker;
    json_t *tenant = NULL;
    if (w->tenant && tenant_need(d, c, w->tenant, &tenant, e)) return -1;
    json_decref(tenant);
    if (need_maker(d, c, w->maker, &maker, e) || check_scopes(&maker, k->rights.all, e) ||
        check_end(&maker, w->expires * US, e))
        return -1;
    if (insert_key(d, c, k->fresh, w, &k->rights, k->w.by->key, e)) return -1;
    if (w->maker && copy_limits(d, c, w->maker, k->fresh->id, e)) return -1;
    if (row_get(d, c, sql_key, key_json, k->fresh->id, &k->w.after, e)) return -1;
    return close_new(d, c, k, kind_action(!w->tenant, "key.create", "admin_key.create"), k->fresh->id, e);
}

/* Applies a change that makes a key. */
static int apply_new(struct auth *a, int (*run)(struct db *, sqlite3 *, void *, struct err *), struct key_write *k,
                     bool admin, json_t **out, struct err *e)
{
    struct new_key fresh;
    if (auth_key_make(db_pepper(auth_db(a)), admin, &fresh, e)) return -1;
    k->fresh = &fresh;
    int rc = change_apply(a, run, &k->w, out, e);
    explicit_bzero(&fresh, sizeof fresh);
    return rc;
}

int key_create(struct auth *a, const struct actor *by, const struct key_wish *wish, json_t **out, struct err *e)
{
    struct key_write k = {.w.by = by, .wish = wish};
    if (read_rights(wish, !wish->tenant, &k.rights, e)) return -1;
    return apply_new(a, run_create, &k, !wish->tenant, out, e);
}

/* The row of the key that is to be changed, in reach, of the revision asked for. */
static int open_key(struct db *d, sqlite3 *c, struct key_write *k, struct held *h, struct err *e)
{
    if (need_key(d, c, k->in, k->id, h, e) || row_get(d, c, sql_key, key_json, k->id, &k->w.before, e)) return -1;
    return row_check_revision(k->w.before, k->revision, e);
}

static int close_key(struct db *d, sqlite3 *c, struct key_write *k, const char *action, struct err *e)
{
    if (row_get(d, c, sql_key, key_json, k->id, &k->w.after, e)) return -1;
    return auth_note(d, c, &k->w, action, k->id, e);
}

static int check_alive(const struct held *h, const char *id, struct err *e)
{
    if (h->revoked) return err_set(e, ERR_CONFLICT, "The key '%.16s' was revoked.", id);
    return h->replaced ? err_set(e, ERR_CONFLICT, "The key '%.16s' was replaced already.", id) : 0;
}

static int run_update(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "UPDATE api_key SET name = coalesce(?2, name), roles = iif(?3, ?4, roles), scopes = iif(?3, ?5, scopes),"
        " expires = iif(?6, nullif(?7, 0), expires), revision = revision + 1 WHERE id = ?1";
    struct key_write *k = u;
    const struct key_change *s = k->set;
    struct held h;
    if (open_key(d, c, k, &h, e) || check_alive(&h, k->id, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssissii", k->id, s->name, (int64_t)(s->rights != NULL), k->rights.roles,
                       k->rights.scopes, (int64_t)s->set_expires, s->expires * US))
        return -1;
    if (db_done(st, e)) return -1;
    return close_key(d, c, k, "key.update", e);
}

int key_update(struct auth *a, const struct actor *by, const struct key_reach *in, const char *id,
               const struct key_change *change, json_t **out, struct err *e)
{
    struct key_write k = {.w.by = by, .in = in, .id = id, .set = change, .revision = change->revision};
    if (change->rights && read_rights(change->rights, in->admin, &k.rights, e)) return -1;
    return change_apply(a, run_update, &k.w, out, e);
}

static int run_revoke(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "UPDATE api_key SET revoked = ?2, revision = revision + 1 WHERE id = ?1";
    struct key_write *k = u;
    struct held h, maker;
    if (open_key(d, c, k, &h, e) || need_maker(d, c, k->in->maker, &maker, e) || check_scopes(&maker, h.scopes, e))
        return -1;
    if (h.revoked) { /* as it was asked for; no entry for what changes nothing */
        k->w.after = json_incref(k->w.before);
        return 0;
    }
    if (check_not_last(d, c, k->id, &h, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "si", k->id, clock_wall_us()) || db_done(st, e)) return -1;
    return close_key(d, c, k, kind_action(h.admin, "key.revoke", "admin_key.revoke"), e);
}

int key_revoke(struct auth *a, const struct actor *by, const struct key_reach *in, const char *id, int64_t revision,
               json_t **out, struct err *e)
{
    struct key_write k = {.w.by = by, .in = in, .id = id, .revision = revision};
    return change_apply(a, run_revoke, &k.w, out, e);
}

/* --- rotation --- */

/* When the new key ends: when it is told, or as long after now as the old one was to live, but not after the key that asks. 0: never. */
static int new_end(const struct key_rotation *how, const struct held *old, const struct held *maker, int64_t now,
                   int64_t *end, struct err *e)
{
    *end = old->expires ? now + old->expires - old->created : 0;
    if (how->expires)
        *end = how->expires * US;
    else if (maker->expires && (!*end || *end > maker->expires))
        *end = maker->expires;
    return check_end(maker, *end, e);
}

static int insert_successor(struct db *d, sqlite3 *c, const struct key_write *k, int64_t now, int64_t end,
                            struct err *e)
{
    static const char sql[] =
        "INSERT INTO api_key(id, hash, name, roles, scopes, created_by, tenant, created, expires)"
        " SELECT ?1, ?2, name, roles, scopes, ?3, tenant, ?4, nullif(?5, 0) FROM api_key WHERE id = ?6";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "sbsiis", k->fresh->id, k->fresh->hash, k->w.by->key, now, end, k->id) || db_done(st, e))
        return -1;
    return copy_limits(d, c, k->id, k->fresh->id, e);
}

static int end_old(struct db *d, sqlite3 *c, const struct key_write *k, int64_t now, struct err *e)
{
    static const char sql[] =
        "UPDATE api_key SET replaced_by = ?2, expires = min(coalesce(expires, ?3), ?3), revoked = iif(?4, ?5, revoked),"
        " revision = revision + 1 WHERE id = ?1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st ||
        db_bind(st, e, "ssiii", k->id, k->fresh->id, now + k->how->grace_s * US, (int64_t)(k->how->grace_s == 0), now))
        return -1;
    return db_done(st, e);
}

static int run_rotate(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct key_write *k = u;
    struct held old, maker;
    int64_t now = clock_wall_us(), end;
    json_t *before = NULL;
    if (open_key(d, c, k, &old, e) || check_alive(&old, k->id, e)) return -1;
    if (!is_active(&old, now)) return err_set(e, ERR_CONFLICT, "The key '%.16s' has expired.", k->id);
    if (need_maker(d, c, k->in->maker, &maker, e) || check_scopes(&maker, old.scopes, e) ||
        new_end(k->how, &old, &maker, now, &end, e))
        return -1;
    if (insert_successor(d, c, k, now, end, e) || end_old(d, c, k, now, e)) return -1;
    if (row_get(d, c, sql_key, key_json, k->fresh->id, &k->w.after, e) ||
        row_get(d, c, sql_key, key_json, k->id, &before, e))
        return -1;
    json_object_set_new(k->w.after, "replaces", before);
    return close_new(d, c, k, "key.rotate", k->id, e);
}

int key_rotate(struct auth *a, const struct actor *by, const struct key_reach *in, const char *id,
               const struct key_rotation *how, json_t **out, struct err *e)
{
    struct key_write k = {.w.by = by, .in = in, .id = id, .how = how, .revision = how->revision};
    return apply_new(a, run_rotate, &k, in->admin, out, e);
}

/* --- reading --- */

#define OF_TENANT KEY_COLUMNS "WHERE k.tenant = (SELECT id FROM tenant WHERE name = ?3) AND k.id "
#define OF_NOBODY KEY_COLUMNS "WHERE k.tenant IS NULL AND ?3 IS NULL AND k.id "

int key_list(struct auth *a, const char *tenant, const struct page *page, json_t *list, bool *more, struct err *e)
{
    static const char *const of_tenant[] = {OF_TENANT "> ?1 ORDER BY k.id LIMIT ?2",
                                            OF_TENANT "< ?1 ORDER BY k.id DESC LIMIT ?2"};
    static const char *const of_nobody[] = {OF_NOBODY "> ?1 ORDER BY k.id LIMIT ?2",
                                            OF_NOBODY "< ?1 ORDER BY k.id DESC LIMIT ?2"};
    struct row_page p = {
        .sql = tenant ? of_tenant : of_nobody, .tenant = tenant, .page = page, .print = key_json, .list = list};
    if (row_page(a, &p, e)) return -1;
    *more = p.more;
    return 0;
}

struct one {
    const struct key_reach *in;
    const char *id;
    json_t *out;
};

static int read_key(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct one *o = u;
    struct held h;
    return need_key(d, c, o->in, o->id, &h, e) ? -1 : row_get(d, c, sql_key, key_json, o->id, &o->out, e);
}

int key_get(struct auth *a, const struct key_reach *in, const char *id, json_t **out, struct err *e)
{
    struct one o = {.in = in, .id = id};
    if (db_read(auth_db(a), read_key, &o, STORE_READ_MS, e)) return -1;
    *out = o.out;
    return 0;
}

/* --- the command line's admin keys --- */

struct first {
    struct new_key key;
    bool only_first, made;
};

static int run_first(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const struct actor local = {.key = "local", .ip = "", .request = ""};
    static const struct held nobody = {.admin = true, .scopes = SCOPE_ADMIN};
    static const struct rights admin = {.roles = "admin"};
    static const struct key_wish wish = {.name = "made on the command line"};
    struct first *f = u;
    struct err none = {0};
    if (f->only_first && check_not_last(d, c, "", &nobody, &none) == 0) return 0;
    if (none.code && none.code != ERR_CONFLICT) return err_set(e, none.code, "%s", none.msg);
    struct change w = {.by = &local};
    int rc = insert_key(d, c, &f->key, &wish, &admin, local.key, e);
    if (rc == 0) rc = row_get(d, c, sql_key, key_json, f->key.id, &w.after, e);
    if (rc == 0) rc = auth_note(d, c, &w, "admin_key.create", f->key.id, e);
    json_decref(w.after);
    f->made = rc == 0;
    return rc;
}

static int make_admin_key(struct db *d, bool only_first, char key_text[KEY_TEXT_LEN], struct err *e)
{
    struct first f = {.only_first = only_first};
    if (auth_key_make(db_pepper(d), true, &f.key, e)) return -1;
    int rc = db_write_wait(d, run_first, &f, e);
    if (rc == 0) snprintf(key_text, KEY_TEXT_LEN, "%s", f.made ? f.key.text : "");
    explicit_bzero(&f, sizeof f);
    return rc;
}

int auth_first_admin_key(struct db *d, char key_text[KEY_TEXT_LEN], struct err *e)
{
    return make_admin_key(d, true, key_text, e);
}

int auth_new_admin_key(struct db *d, char key_text[KEY_TEXT_LEN], struct err *e)
{
    return make_admin_key(d, false, key_text, e);
}
