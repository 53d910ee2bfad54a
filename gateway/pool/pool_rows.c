/* The table `engine`, and the engine of the settings beside it: reading, checking, changing.
 *
 * One change at a time: what memory holds is what the table holds, so a revision is compared in memory and written by the
 * change's own transaction, with its audit row. A change of what an engine is (address, secret, model, settings, locality)
 * replaces the member by a new one under the same name, so the adapters' places stay; requests on the old one end there.
 *
 * A secret is stored sealed (base/seal.h), bound to the engine's name, and leaves this file only towards the engine. The
 * engine of the settings can be drained and disabled here until the next start, and is otherwise changed by the settings. */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/seal.h"
#include "gateway/api/idempotency.h"
#include "gateway/api/revision.h"
#include "gateway/db/db_audit.h"
#include "gateway/pool/pool_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS_READ_MS 10000
#define SETTINGS_MAX 16384 /* bytes of a row's settings as JSON */
#define UNIX_PATH_MAX 107
#define MODEL_NAME_MAX 127

const char *const member_state_name[] = {"enabled", "draining", "disabled"};

void row_close(struct engine_row *r)
{
    json_decref(r->settings);
    explicit_bzero(r->secret, sizeof r->secret);
    r->settings = NULL;
}

int row_copy(struct engine_row *to, const struct engine_row *from, struct err *e)
{
    json_t *own = json_deep_copy(from->settings);
    if (!own) return err_set(e, ERR_NO_MEMORY, "no memory for an engine");
    *to = *from;
    to->settings = own;
    return 0;
}

static void seal_of(struct pool *p, uint8_t key[SEAL_KEY])
{
    seal_key(db_pepper(p->o.db), "secrets of engines", key);
}

/* --- reading --- */

static int word_in(const char *word, const char *const *words, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(words[i], word) == 0) return i;
    return -1;
}

static int read_secret(struct pool *p, sqlite3_stmt *st, int column, struct engine_row *r, struct err *e)
{
    uint8_t key[SEAL_KEY];
    struct buf plain;
    int n = sqlite3_column_bytes(st, column);
    if (n == 0) return 0;
    seal_of(p, key);
    buf_init(&plain, sizeof r->secret - 1);
    int rc = seal_open(key, r->name, sqlite3_column_blob(st, column), (size_t)n, &plain, e);
    if (!rc) snprintf(r->secret, sizeof r->secret, "%s", plain.data);
    explicit_bzero(plain.data, plain.len);
    explicit_bzero(key, sizeof key);
    buf_close(&plain);
    return rc ? err_prefix(e, "the secret of the engine %s", r->name) : 0;
}

static int read_row(struct pool *p, sqlite3_stmt *st, struct engine_row *r, struct err *e)
{
    *r = (struct engine_row){0};
    snprintf(r->name, sizeof r->name, "%s", db_text(st, 0));
    int kind = kind_by_name(db_text(st, 1)), state = word_in(db_text(st, 8), member_state_name, 3);
    if (kind < 0 || state < 0)
        return err_set(e, ERR_IO, "the engine %s is of a kind or state that this program does not know", r->name);
    r->kind = (enum engine_kind)kind;
    r->state = (enum member_state)state;
    snprintf(r->base, sizeof r->base, "%s", db_text(st, 2));
    snprintf(r->url, sizeof r->url, "%s", db_text(st, 3));
    snprintf(r->model, sizeof r->model, "%s", db_text(st, 4));
    r->local = sqlite3_column_int(st, 6);
    r->capacity = sqlite3_column_int(st, 7);
    r->revision = sqlite3_column_int64(st, 9);
    r->created = sqlite3_column_int64(st, 10);
    if (json_parse(db_text(st, 5), strlen(db_text(st, 5)), &r->settings, e) || read_secret(p, st, 11, r, e)) {
        row_close(r);
        return -1;
    }
    return 0;
}

struct rows {
    struct pool *p;
    struct engine_row row[POOL_ENGINES];
    int n;
};

static int read_rows(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "SELECT name, kind, base, url, model, settings, local, capacity, state, revision, created, secret FROM engine"
        " ORDER BY created, name LIMIT ?1";
    struct rows *rows = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc;
    if (!st || db_bind(st, e, "i", (int64_t)POOL_ENGINES)) return -1;
    while ((rc = db_row(st, e)) == 1) {
        if (read_row(rows->p, st, &rows->row[rows->n], e)) return -1;
        rows->n++;
    }
    return rc;
}

static int add_own(struct pool *p, struct err *e)
{
    const struct engine_options *o = p->o.own;
    struct engine_row r = {.kind = ENGINE_WEFT,
                           .local = o->local,
                           .capacity = ENGINE_CAPACITY_MAX,
                           .revision = 1,
                           .created = clock_wall_us() / 1000000,
                           .settings = json_object()};
    snprintf(r.name, sizeof r.name, "%s", o->name);
    snprintf(r.url, sizeof r.url, "%s", o->url);
    snprintf(r.model, sizeof r.model, "%s", o->model);
    snprintf(r.secret, sizeof r.secret, "%s", o->secret);
    int rc = member_add(p, &r, o, e);
    row_close(&r);
    return rc;
}

/* One that can't be opened any more (the folder of sockets has a longer path now) is no reason not to serve from the
 * others. */
static int add_stored(struct pool *p, const struct engine_row *r, struct err *e)
{
    struct err why = {0};
    if (member_check(p, r, &why) == 0) return member_add(p, r, NULL, e);
    log_error("engine_left_out", LS("engine", r->name), LS("error", why.msg));
    return 0;
}

int rows_load(struct pool *p, struct err *e)
{
    struct rows *rows = calloc(1, sizeof *rows);
    if (!rows) return err_set(e, ERR_NO_MEMORY, "no memory for the engines");
    rows->p = p;
    int rc = p->o.own ? add_own(p, e) : 0;
    if (!rc) rc = db_read(p->o.db, read_rows, rows, ROWS_READ_MS, e);
    for (int i = 0; i < rows->n; i++) {
        if (!rc) rc = add_stored(p, &rows->row[i], e);
        row_close(&rows->row[i]);
    }
    free(rows);
    return rc ? -1 : 0;
}

/* --- checking --- */

static bool visible(const char *s, const char *but)
{
    for (; *s; s++)
        if (*s <= ' ' || *s > '~' || strchr(but, *s)) return false;
    return true;
}

static int check_url(const struct engine_row *r, struct err *e)
{
    const char *u = r->url, *host = strstr(u, "://");
    if (strncmp(u, "unix:/", 6) == 0) {
        if (strlen(u + 5) <= UNIX_PATH_MAX && visible(u, "")) return 0;
        return err_field(e, ERR_INVALID, "url", "the path of a socket has 1 to %d visible characters", UNIX_PATH_MAX);
    }
    bool web = strncmp(u, "http://", 7) == 0 || strncmp(u, "https://", 8) == 0;
    if (web && host[3] && host[3] != '/' && visible(u, "@?#\\\"")) return 0;
    return err_field(e, ERR_INVALID, "url",
                     "'url' must be http://HOST[:PORT][/PATH], https://... or unix:/PATH, without a user or a query");
}

static int check_model(const struct engine_row *r, bool spawned, struct err *e)
{
    size_t n = strlen(r->model);
    if (spawned && r->model[0] != '/')
        return err_field(e, ERR_INVALID, "model",
                         "'model' must be the absolute path of the model that is to be started");
    if (!spawned && n > MODEL_NAME_MAX)
        return err_field(e, ERR_INVALID, "model", "the engine's own name of the model has at most %d bytes",
                         MODEL_NAME_MAX);
    for (const char *s = r->model; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 127)
            return err_field(e, ERR_INVALID, "model", "'model' holds a control character");
    return 0;
}

/* What a spawned engine may be told, beside what the gateway tells it. */
static bool is_engine_setting(const char *name)
{
    static const char *const known[] = {
#define X(field, ...) #field,
#include "schema/engine_settings.def"
#undef X
    };
    static const char *const ours[] = {"model", "name",  "socket",   "listen",   "token_file",
                                       "store", "cache", "orphan_s", "log_level"};
    return word_in(name, known, sizeof known / sizeof *known) >= 0 &&
           word_in(name, ours, sizeof ours / sizeof *ours) < 0;
}

static int check_setting(const struct engine_row *r, bool spawned, const char *name, const json_t *v, struct err *e)
{
    if (spawned) {
        if (!is_engine_setting(name))
            return err_field(e, ERR_INVALID, "settings", "a spawned engine has no setting '%.60s'", name);
        if (json_is_string(v) || json_is_integer(v) || json_is_boolean(v)) return 0;
        return err_field(e, ERR_INVALID, "settings", "'%.60s' must be a text, a whole number, true or false", name);
    }
    if (strcmp(name, "store") == 0) {
        const char *s = json_string_value(v);
        if (s && s[0] == '/' && strlen(s) < ENGINE_PATH_LEN / 2) return 0;
        return err_field(e, ERR_INVALID, "settings", "'store' must be an absolute path");
    }
    struct base_desc base;
    struct err why = {0};
    if (strcmp(name, "base") != 0 || r->kind == ENGINE_WEFT)
        return err_field(e, ERR_INVALID, "settings", "an engine of kind %s has no setting '%.60s'",
                         kind_of(r->kind)->name, name);
    if (base_desc_from_json(&base, v, &why)) return err_field(e, ERR_INVALID, "settings", "base: %.300s", why.msg);
    return 0;
}

static int check_settings(const struct engine_row *r, bool spawned, struct err *e)
{
    const char *name;
    json_t *v;
    struct buf b;
    buf_init(&b, SETTINGS_MAX);
    int rc = json_dump(r->settings, false, &b);
    bool full = b.full;
    buf_close(&b);
    if (rc && !full) return err_set(e, ERR_NO_MEMORY, "no memory to look at the settings");
    if (rc) return err_field(e, ERR_INVALID, "settings", "'settings' has more than %d bytes", SETTINGS_MAX);
    if (spawned && json_object_size(r->settings) > ENGINE_EXTRA_MAX / 2)
        return err_field(e, ERR_INVALID, "settings", "more than %d settings", ENGINE_EXTRA_MAX / 2);
    json_object_foreach(r->settings, name, v) if (check_setting(r, spawned, name, v, e)) return -1;
    return 0;
}

static int check_row(const struct engine_row *r, struct err *e)
{
    const struct kind *k = kind_of(r->kind);
    bool spawned = !r->url[0], reached = strncmp(r->url, "http", 4) == 0;
    if (!name_is_valid(r->name))
        return err_field(e, ERR_INVALID, "name",
                         "an engine's name is 1 to %d characters of a-z 0-9 . _ -, the first a letter or digit",
                         NAME_MAX_LEN);
    if (!r->base[0] || !visible(r->base, "\"\\"))
        return err_field(e, ERR_INVALID, "base",
                         "'base' must be the name under which its base is served: visible characters");
    if (spawned && !k->spawns) return err_field(e, ERR_MISSING, "url", "an engine of kind %s has a 'url'", k->name);
    if (spawned && !r->model[0])
        return err_field(e, ERR_MISSING, "url",
                         "give 'url' of an engine that runs, or 'model' of one that is to be started");
    if (!spawned && check_url(r, e)) return -1;
    if (!visible(r->secret, ""))
        return err_field(e, ERR_INVALID, "secret", "'secret' must be one word of visible characters");
    if (r->secret[0] && !reached)
        return err_field(e, ERR_INVALID, "secret", "only an engine with an http or https 'url' has a secret");
    if (check_model(r, spawned, e)) return -1;
    return check_settings(r, spawned, e);
}

/* --- from JSON --- */

static int take_text(const json_t *o, const char *field, char *out, size_t n, struct err *e)
{
    const char *s = out;
    if (json_get_str(o, field, n - 1, &s, NULL, e)) return -1;
    if (s != out) snprintf(out, n, "%s", s);
    return 0;
}

static int take_settings(const json_t *o, struct engine_row *r, struct err *e)
{
    json_t *v = json_object_get(o, "settings");
    if (!v || json_is_null(v)) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "settings", "'settings' must be an object");
    json_decref(r->settings);
    r->settings = json_copy_all(v);
    return r->settings ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an engine");
}

/* Null takes a secret away; what is absent stays. */
static int take_secret(const json_t *o, struct engine_row *r, struct err *e)
{
    if (json_is_null(json_object_get(o, "secret"))) r->secret[0] = 0;
    return take_text(o, "secret", r->secret, sizeof r->secret, e);
}

static int take_row(const json_t *o, struct engine_row *r, struct err *e)
{
    int64_t capacity = r->capacity;
    if (take_text(o, "base", r->base, sizeof r->base, e) || take_text(o, "url", r->url, sizeof r->url, e) ||
        take_text(o, "model", r->model, sizeof r->model, e) || take_settings(o, r, e) || take_secret(o, r, e) ||
        json_get_bool(o, "local", &r->local, NULL, e) ||
        json_get_int(o, "capacity", 1, ENGINE_CAPACITY_MAX, &capacity, NULL, e))
        return -1;
    r->capacity = (int)capacity;
    return check_row(r, e);
}

static int new_row(const json_t *o, struct engine_row *r, struct err *e)
{
    const char *name, *kind = "weft";
    *r = (struct engine_row){
        .capacity = ENGINE_CAPACITY, .revision = 1, .created = clock_wall_us() / 1000000, .settings = json_object()};
    if (!r->settings) return err_set(e, ERR_NO_MEMORY, "no memory for an engine");
    if (json_need_str(o, "name", NAME_MAX_LEN, &name, e) || json_get_str(o, "kind", 16, &kind, NULL, e)) return -1;
    int k = kind_by_name(kind);
    if (k < 0) return err_field(e, ERR_INVALID, "kind", "'kind' must be weft, vllm or openai, not '%.40s'", kind);
    r->kind = (enum engine_kind)k;
    snprintf(r->name, sizeof r->name, "%s", name);
    const char *url = json_string_value(json_object_get(o, "url"));
    r->local = !url || !*url || strncmp(url, "unix:", 5) == 0;
    if (!json_object_get(o, "base")) return err_field(e, ERR_MISSING, "base", "'base' is missing.");
    return take_row(o, r, e);
}

/* --- writing --- */

static json_t *row_json(const struct engine_row *r)
{
    return json_pack("{ss ss ss ss ss so sb si sb ss sI sI}", "name", r->name, "kind", kind_of(r->kind)->name, "base",
                     r->base, "url", r->url, "model", r->model, "settings", json_deep_copy(r->settings), "local", r->local, "capacity",
                     r->capacity, "has_secret", r->secret[0] != 0, "state", member_state_name[r->state], "revision",
                     (json_int_t)r->revision, "created", (json_int_t)r->created);
}

struct change {
    struct pool *p;
    const struct actor *by;
    const char *action;
    const struct engine_row *before, *after; /* NULL: there is none */
    bool in_table;
    json_t *answer; /* of a POST; or NULL */
    int status;
};

static int audit_change(struct db *d, sqlite3 *c, const struct change *k, struct err *e)
{
    json_t *before = k->before ? row_json(k->before) : NULL, *after = k->after ? row_json(k->after) : NULL;
    const char *name = k->after ? k->after->name : k->before->name;
    int rc = audit_add(d, c, &(struct audit){k->by, k->action, name, before, after}, e);
    json_decref(before);
    json_decref(after);
    return rc;
}

static int bind_secret(struct pool *p, sqlite3_stmt *st, int at, const struct engine_row *r, struct buf *sealed,
                       struct err *e)
{
    uint8_t key[SEAL_KEY];
    if (!r->secret[0]) return 0; /* stays NULL */
    seal_of(p, key);
    int rc = seal(key, r->name, r->secret, strlen(r->secret), sealed, e);
    explicit_bzero(key, sizeof key);
    if (rc) return -1;
    if (sqlite3_bind_blob(st, at, sealed->data, (int)sealed->len, SQLITE_STATIC))
        return err_set(e, ERR_IO, "cannot store a secret");
    return 0;
}

static int put_row(struct db *d, sqlite3 *c, struct pool *p, const struct engine_row *r, struct err *e)
{
    static const char sql[] = "INSERT OR REPLACE INTO engine(name, kind, base, url, model, settings, local, capacity, "
                              "state, revision, created, secret)"
                              " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    struct buf settings, sealed;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    buf_init(&settings, SETTINGS_MAX);
    buf_init(&sealed, ENGINE_SECRET_LEN + SEAL_EXTRA);
    int rc = !st || json_dump(r->settings, false, &settings) ||
             db_bind(st, e, "ssssssiisii", r->name, kind_of(r->kind)->name, r->base, r->url, r->model, settings.data,
                     (int64_t)r->local, (int64_t)r->capacity, member_state_name[r->state], r->revision, r->created) ||
             bind_secret(p, st, 12, r, &sealed, e) || db_done(st, e);
    buf_close(&settings);
    buf_close(&sealed);
    return rc ? -1 : 0;
}

static int drop_row(struct db *d, sqlite3 *c, const struct engine_row *r, struct err *e)
{
    static const char sql[] = "DELETE FROM engine WHERE name = ?1", tokens[] = "DELETE FROM engine_token WHERE engine = ?1";
    sqlite3_stmt *st = db_stmt(d, c, tokens, e);
    if (!st || db_bind(st, e, "s", r->name) || db_done(st, e)) return -1;
    st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "s", r->name) || db_done(st, e) ? -1 : 0;
}

static int write_change(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct change *k = u;
    int rc = !k->in_table ? 0 : k->after ? put_row(d, c, k->p, k->after, e) : drop_row(d, c, k->before, e);
    if (rc || audit_change(d, c, k, e)) return -1;
    return k->answer ? once_keep(d, c, k->by, k->status, k->answer, e) : 0;
}

/* --- changes --- */

static struct member *find(struct pool *p, const char *name, int64_t want, struct err *e)
{
    struct member *m = member_ref(p, name);
    if (!m) {
        err_set(e, ERR_NOT_FOUND, "There is no engine '%.64s'.", name);
        return NULL;
    }
    if (revision_check(want, m->row.revision, e) == 0) return m;
    member_unref(m);
    return NULL;
}

/* The name of one that was removed is free again when its last request has ended. */
static int check_free(struct pool *p, const char *name, struct err *e)
{
    int rc = 0, taken = 0;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < POOL_ENGINES; i++) {
        const struct member *m = p->m[i] ? p->m[i] : p->dying[i];
        taken += m != NULL;
        if (!m || strcmp(m->row.name, name) != 0) continue;
        rc = err_field(e, ERR_CONFLICT, "name",
                       p->m[i] ? "There is an engine '%s' already."
                               : "Requests still end on the engine '%s' that was removed.",
                       name);
    }
    pthread_mutex_unlock(&p->lock);
    if (!rc && taken == POOL_ENGINES) rc = err_set(e, ERR_CONFLICT, "There are %d engines already.", POOL_ENGINES);
    return rc;
}

int pool_create(struct pool *p, const struct actor *by, const json_t *body, json_t **out, struct err *e)
{
    struct engine_row r = {0};
    struct change k = {.p = p, .by = by, .action = "engine.create", .after = &r, .in_table = true, .status = 201};
    pthread_mutex_lock(&p->changing);
    int rc = new_row(body, &r, e) || check_free(p, r.name, e) || member_check(p, &r, e);
    if (!rc && !(k.answer = row_answer(&r, NULL))) rc = err_set(e, ERR_NO_MEMORY, "no memory for an engine");
    if (!rc) rc = db_write_wait(p->o.db, write_change, &k, e);
    if (!rc) rc = member_add(p, &r, NULL, e);
    pthread_mutex_unlock(&p->changing);
    if (!rc) *out = json_incref(k.answer);
    json_decref(k.answer);
    row_close(&r);
    return rc ? -1 : 0;
}

static bool same_engine(const struct engine_row *a, const struct engine_row *b)
{
    return strcmp(a->base, b->base) == 0 && strcmp(a->url, b->url) == 0 && strcmp(a->model, b->model) == 0 &&
           strcmp(a->secret, b->secret) == 0 && a->local == b->local && json_equal(a->settings, b->settings);
}

/* In force when it returns. */
static int take_force(struct pool *p, struct member *m, const struct engine_row *r, struct err *e)
{
    if (same_engine(&m->row, r)) {
        pthread_mutex_lock(&p->lock);
        m->row.capacity = r->capacity;
        m->row.state = r->state;
        m->row.revision = r->revision;
        pthread_mutex_unlock(&p->lock);
        return 0;
    }
    return member_replace(p, m, r, e);
}

/* Before the change is written. One that takes another's place needs a slot beside it, until the last request has left
 * that one. */
static int check_force(struct pool *p, const struct member *m, const struct engine_row *r, struct err *e)
{
    int taken = 0;
    if (same_engine(&m->row, r)) return 0;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; i < POOL_ENGINES; i++) taken += p->m[i] || p->dying[i];
    pthread_mutex_unlock(&p->lock);
    if (taken == POOL_ENGINES)
        return err_set(
            e, ERR_CONFLICT,
            "There are %d engines, with those that requests still end on: no room for what '%s' is to become.",
            POOL_ENGINES, r->name);
    return member_check(p, r, e);
}

static int change_row(struct change *k, struct member *m, struct engine_row *r, json_t **out, struct err *e)
{
    r->revision++;
    k->before = &m->row;
    k->after = r;
    k->in_table = !m->own;
    if (check_force(k->p, m, r, e)) return -1;
    if (k->status && !(k->answer = row_answer(r, m))) return err_set(e, ERR_NO_MEMORY, "no memory for an engine");
    int rc = db_write_wait(k->p->o.db, write_change, k, e) || take_force(k->p, m, r, e);
    json_decref(k->answer);
    return rc ? -1 : pool_get(k->p, r->name, out, e);
}

int pool_change(struct pool *p, const struct actor *by, const char *name, int64_t want, const json_t *body,
                json_t **out, struct err *e)
{
    struct change k = {.p = p, .by = by, .action = "engine.update"};
    struct engine_row r = {0};
    pthread_mutex_lock(&p->changing);
    struct member *m = find(p, name, want, e);
    int rc = m ? 0 : -1;
    if (!rc && m->own) rc = err_set(e, ERR_CONFLICT, "The engine '%s' comes from the settings: change it there.", name);
    if (!rc) rc = row_copy(&r, &m->row, e) || take_row(body, &r, e) || change_row(&k, m, &r, out, e);
    pthread_mutex_unlock(&p->changing);
    if (m) member_unref(m);
    row_close(&r);
    return rc ? -1 : 0;
}

int pool_set_state(struct pool *p, const struct actor *by, const char *name, int64_t want, enum member_state s,
                   json_t **out, struct err *e)
{
    static const char *const actions[] = {"engine.enable", "engine.drain", "engine.disable"};
    struct change k = {.p = p, .by = by, .action = actions[s], .status = 200};
    struct engine_row r = {0};
    pthread_mutex_lock(&p->changing);
    struct member *m = find(p, name, want, e);
    int rc = m ? 0 : -1;
    if (!rc) rc = row_copy(&r, &m->row, e);
    r.state = s;
    if (!rc) rc = change_row(&k, m, &r, out, e);
    pthread_mutex_unlock(&p->changing);
    if (m) member_unref(m);
    row_close(&r);
    return rc ? -1 : 0;
}

int pool_remove(struct pool *p, const struct actor *by, const char *name, int64_t want, struct err *e)
{
    struct change k = {.p = p, .by = by, .action = "engine.delete", .in_table = true};
    pthread_mutex_lock(&p->changing);
    struct member *m = find(p, name, want, e);
    int rc = m ? 0 : -1;
    if (!rc && m->own)
        rc = err_set(e, ERR_CONFLICT, "The engine '%s' comes from the settings: it can be drained or disabled here.",
                     name);
    if (!rc) k.before = &m->row;
    if (!rc) rc = db_write_wait(p->o.db, write_change, &k, e);
    if (!rc) member_retire(p, m);
    pthread_mutex_unlock(&p->changing);
    if (m) member_unref(m);
    return rc ? -1 : 0;
}
