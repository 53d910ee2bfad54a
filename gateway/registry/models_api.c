/* GET /v1/models and /v1/models/{model}: the base, the tenant's aliases, and its adapters: NAME, and NAME@VERSION for each
 * version that is ready. A NAME that is an alias's is the alias, once.
 *
 * The adapter `parent` is the base's name, as vLLM prints it, so that clients can tell adapters from bases. One
 * statement reads what is listed; whether a model exists is the registry's to say, in the same words as everywhere, so
 * another tenant's adapter and an absent one answer alike. Worker threads. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/registry/alias.h"
#include "gateway/registry/models_kept.h"
#include "gateway/registry/residency.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_MS 2000
#define VERSIONS_MAX 10000 /* listed at most; the setting max_adapters is far below */

struct listing {
    const char *tenant, *owner, *base;
    const char *only; /* one adapter's name, or "" */
    int64_t version;  /* with `only`: one version, or 0: all */
    json_t *data;
};

static json_t *model_json(const char *id, int64_t created_us, const char *owner, const char *base)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:s?, s:s?}", "id", id, "object", "model", "created",
                     (json_int_t)(created_us / 1000000), "owned_by", owner, "root", base, "parent", base);
}

static int add_model(struct listing *l, const char *id, int64_t created_us, struct err *e)
{
    json_t *o = model_json(id, created_us, l->owner, l->base);
    if (!o || json_array_append_new(l->data, o)) return err_set(e, ERR_NO_MEMORY, "no memory for the list of models");
    return 0;
}

static int read_models(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "SELECT a.name, v.version, v.created, EXISTS (SELECT 1 FROM alias l WHERE l.tenant = a.tenant AND l.name = "
        "a.name)"
        " FROM adapter a JOIN version v ON v.adapter = a.row"
        " WHERE a.tenant = ?1 AND (?2 = '' OR a.name = ?2) AND (?3 = 0 OR v.version = ?3) AND v.base = ?4"
        " AND v.state = 'ready' ORDER BY a.name, v.version DESC LIMIT ?5";
    struct listing *l = u;
    char name[NAME_MAX_LEN + 1] = "", id[NAME_MAX_LEN + 32];
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc;

    if (!st || db_bind(st, e, "ssisi", l->tenant, l->only, l->version, l->base, (int64_t)VERSIONS_MAX)) return -1;
    while ((rc = db_row(st, e)) == 1) {
        int64_t created = sqlite3_column_int64(st, 2);
        bool first = strcmp(name, db_text(st, 0)) != 0 && !sqlite3_column_int(st, 3);
        snprintf(name, sizeof name, "%s", db_text(st, 0));
        snprintf(id, sizeof id, "%s@%d", name, sqlite3_column_int(st, 1));
        if ((first && !l->version && add_model(l, name, created, e)) || add_model(l, id, created, e)) return -1;
    }
    return rc;
}

static int read_aliases(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] =
        "SELECT name, created FROM alias WHERE tenant = ?1 AND (?2 = '' OR name = ?2) ORDER BY name LIMIT ?3";
    struct listing *l = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc;
    if (!st || db_bind(st, e, "ssi", l->tenant, l->only, (int64_t)VERSIONS_MAX)) return -1;
    while ((rc = db_row(st, e)) == 1)
        if (add_model(l, db_text(st, 0), sqlite3_column_int64(st, 1), e)) return -1;
    return rc;
}

/* An alias's parent is the base of what it would choose now; none where nothing of it can serve. */
static void name_parents(struct gateway *g, const char *tenant, json_t *aliases)
{
    size_t i;
    json_t *o;
    json_array_foreach(aliases, i, o)
    {
        struct choice c;
        struct alias_ask a = {.tenant = tenant,
                              .model = json_string_value(json_object_get(o, "id")),
                              .request = "",
                              .served = residency_serves,
                              .u = g};
        if (alias_choose(g->registry, &a, &c, NULL)) continue;
        json_object_set_new(o, "root", json_string(c.target[0].base));
        json_object_set_new(o, "parent", json_string(c.target[0].base));
        choice_close(g->registry, &c);
    }
}

/* The tenant's aliases (only: one of them). */
static int list_aliases(struct gateway *g, const struct principal *who, const char *only, json_t *data, struct err *e)
{
    struct listing l = {who->tenant, who->tenant_name, NULL, only, 0, json_array()};
    int rc = db_read(g->db, read_aliases, &l, READ_MS, e);
    name_parents(g, who->tenant, l.data);
    if (rc == 0 && json_array_extend(data, l.data)) rc = err_set(e, ERR_NO_MEMORY, "no memory for the list of models");
    json_decref(l.data);
    return rc;
}

static int64_t started_us(void)
{
    static _Atomic int64_t at;
    if (!at) at = clock_wall_us();
    return at;
}

/* All of a tenant's in one snapshot: two would be twice the locks of the file, which are a tenth of what the request costs. */
struct reading {
    struct listing *aliases, *models;
    const struct base_desc *base;
    int nbases;
};

static int read_all(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct reading *x = u;
    int rc = read_aliases(d, c, x->aliases, e);
    for (int i = 0; i < x->nbases && rc == 0; i++) {
        x->models->base = x->base[i].name;
        rc = read_models(d, c, x->models, e);
    }
    return rc;
}

/* The list's text as it is now. */
static int list_text(struct gateway *g, const struct principal *who, const struct base_desc *all, int n, struct buf *out, struct err *e)
{
    struct listing l = {who->tenant, who->tenant_name, "", "", 0, json_array()}, models = l, aliases = l;
    models.data = json_array();
    aliases.data = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(l.data, model_json(all[i].name, started_us(), "weft", NULL));
    int rc = db_read(g->db, read_all, &(struct reading){&aliases, &models, all, n}, READ_MS, e);
    name_parents(g, who->tenant, aliases.data);
    json_array_extend(l.data, aliases.data);
    json_array_extend(l.data, models.data);
    json_decref(aliases.data);
    json_decref(models.data);
    json_t *o = json_pack("{s:s, s:o}", "object", "list", "data", l.data);
    if (rc == 0 && (!o || json_dump(o, false, out))) rc = err_set(e, ERR_NO_MEMORY, "no memory for the answer");
    json_decref(o);
    return rc;
}

/* Kept, or made and kept. */
static int list_now(struct gateway *g, const struct principal *who, struct buf *bases, struct buf *out, struct err *e)
{
    uint64_t serial = registry_serial(g->registry); /* before what it is a number of */
    struct base_desc *all = malloc(POOL_ENGINES * sizeof *all); /* tens of KB: not cleared for the one that there mostly is */
    int n = all ? residency_bases(g, all, POOL_ENGINES) : 0;
    int rc = n ? 0 : err_set(e, ERR_UNAVAILABLE, "no engine has said yet what it serves; try again");
    for (int i = 0; i < n; i++) {
        buf_adds(bases, all[i].name);
        buf_adds(bases, "\n");
    }
    struct models_key key = {who->tenant, who->tenant_name, serial, bases->data};
    if (rc == 0 && (bases->failed || models_kept_get(g->models, &key, out))) {
        rc = list_text(g, who, all, n, out, e);
        if (rc == 0 && !bases->failed) models_kept_put(g->models, &key, out->data, out->len);
    }
    free(all);
    return rc;
}

void models_list(struct http_request *r)
{
    struct err e = {0};
    struct buf bases, out;
    buf_init(&bases, POOL_ENGINES * sizeof(((struct base_desc *)0)->name));
    buf_init(&out, API_REPLY_MAX);
    if (list_now(r->server_user, r->user, &bases, &out, &e))
        api_refuse(r, &e);
    else
        http_reply(r, 200, NULL, out.data, out.len);
    buf_close(&bases);
    buf_close(&out);
}

/* A base that is served, or what is made for one of those. */
static int find(struct gateway *g, const char *tenant, const char *id, struct target *out, struct err *e)
{
    struct base_desc *all = calloc(POOL_ENGINES, sizeof *all);
    if (!all) return err_set(e, ERR_NO_MEMORY, "no memory for a list of bases");
    int n = residency_bases(g, all, POOL_ENGINES), rc = -1;
    for (int i = 0; i < n && rc; i++) rc = registry_resolve(g->registry, tenant, id, all[i].name, out, NULL);
    free(all);
    if (rc == 0) return 0;
    return err_field(e, ERR_MODEL_NOT_FOUND, "model",
                     "The model `%.200s` does not exist or you do not have access to it.", id);
}

void models_get(struct http_request *r)
{
    struct gateway *g = r->server_user;
    const struct principal *who = r->user;
    const char *id = api_param(r, 0);
    struct target t;
    struct err e = {0};

    json_t *aliases = json_array();
    if (name_is_valid(id) && list_aliases(g, who, id, aliases, &e) == 0 && json_array_size(aliases)) {
        api_reply(r, 200, json_incref(json_array_get(aliases, 0)));
        json_decref(aliases);
        return;
    }
    json_decref(aliases);
    if (e.code || find(g, who->tenant, id, &t, &e)) {
        api_refuse(r, &e);
        return;
    }
    if (t.is_base) {
        api_reply(r, 200, model_json(t.base, started_us(), "weft", NULL));
        return;
    }
    struct listing l = {who->tenant, who->tenant_name, t.base, t.adapter, t.version, json_array()};
    json_t *one = NULL;
    if (db_read(g->db, read_models, &l, READ_MS, &e) == 0) {
        one = json_incref(json_array_get(l.data, 0));
        if (one)
            json_object_set_new(one, "id", json_string(id)); /* NAME where NAME was asked for */
        else if (json_was_short(r->t_start_us))
            err_set(&e, ERR_NO_MEMORY, "no memory for a model");
        else
            err_field(&e, ERR_MODEL_NOT_FOUND, "model",
                      "The model `%.200s` does not exist or you do not have access to it.", id);
    }
    json_decref(l.data);
    if (one)
        api_reply(r, 200, one);
    else
        api_refuse(r, &e);
}
