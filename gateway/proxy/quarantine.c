/* From exchanges to names, and from names to what is done about them.
 *
 * A request's name is the SHA-256 of a secret of the gateway's, tenant, route and body (as it goes to an engine: with the adapter's digest, so that
 * another version is another request); without the secret nobody can try what the body may have been. It is computed only while somebody is under
 * suspicion or was just lost. What is told of a refused request, in events and to who lists them, is that name, the model and the adapter: never a
 * byte of the body.
 *
 * On the client's thread, a watcher's (quarantine_ended) and the database's (quarantine_lift). */
#include "gateway/proxy/quarantine.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/db/db_audit.h"
#include "gateway/live/event.h"
#include "gateway/proxy/quarantine_store.h"
#include "gateway/proxy/upstream_impl.h"
#include "gateway/registry/upload.h"
#include "gateway/registry/upload_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct actor nobody = {.key = "system", .ip = "", .request = ""};

/* --- names --- */

static void name_request(const struct gateway *g, const char *tenant, const char *path, const struct upstream_route *r, char out[SHA256_HEX])
{
    static const char purpose[] = "names of requests in quarantine";
    uint8_t digest[SHA256_BYTES];
    struct sha256 h;
    sha256_hmac(db_pepper(g->db), SHA256_BYTES, purpose, sizeof purpose - 1, digest);
    sha256_init(&h);
    sha256_add(&h, digest, sizeof digest);
    sha256_add(&h, tenant, strlen(tenant) + 1);
    sha256_add(&h, path, strlen(path) + 1);
    sha256_add(&h, r->body, r->body_len);
    sha256_end(&h, digest);
    sha256_hex(digest, out);
}

/* Of several adapters nobody knows which, and `adapters` are not the model's own. */
static void who_is(const struct exchange *x, struct blame_who *w)
{
    const struct upstream_route *r = x->at;
    *w = (struct blame_who){.version = r->what.version};
    snprintf(w->tenant, sizeof w->tenant, "%s", x->adm.who.tenant);
    snprintf(w->tenant_name, sizeof w->tenant_name, "%s", x->adm.who.tenant_name);
    snprintf(w->model, sizeof w->model, "%.*s", (int)sizeof w->model - 1, x->adm.model);
    if (r->nneeds == 1 && !r->what.is_base && strcmp(x->named_by, "model") == 0)
        snprintf(w->adapter, sizeof w->adapter, "%s", r->what.adapter);
    if (!*r->name) name_request(x->g, w->tenant, x->path, r, x->at->name);
    memcpy(w->request, r->name, sizeof w->request);
}

int quarantine_check(struct gateway *g, const struct upstream_ask *ask, struct err *e)
{
    char name[SHA256_HEX];
    if (blame_quiet(g->blame)) return 0;
    name_request(g, ask->adm.who.tenant, ask->path, &ask->route[0], name);
    return blame_check(g->blame, ask->adm.who.tenant, name, clock_mono_us(), e);
}

/* --- the exchange --- */

int quarantine_route(struct exchange *x, struct upstream_route *r, struct err *e)
{
    const char *tenant = x->adm.who.tenant;
    if (blame_quiet(x->g->blame)) return 0;
    if (!*r->name) name_request(x->g, tenant, x->path, r, r->name);
    return blame_check(x->g->blame, tenant, r->name, clock_mono_us(), e);
}

int quarantine_enter(struct exchange *x, struct err *e)
{
    struct blame_who w = {.version = 0};
    if (blame_quiet(x->g->blame))
        snprintf(w.tenant, sizeof w.tenant, "%s", x->adm.who.tenant);
    else
        who_is(x, &w);
    if (blame_enter(x->g->blame, &x->seat, x->engine, &w, clock_mono_us())) return 0;
    return err_set(e, ERR_QUEUE_FULL, "requests that engines were lost with are tried one by one now; try again");
}

void quarantine_leave(struct exchange *x)
{
    blame_leave(x->g->blame, &x->seat, false, clock_mono_us());
}

void quarantine_lost(struct exchange *x)
{
    struct blame_who w;
    who_is(x, &w);
    blame_lost(x->g->blame, &x->seat, x->engine, x->life, &w, clock_mono_us());
}

/* An engine that answered is done with it; of one whose client went away, or that took too long, nobody knows. */
void quarantine_over(struct exchange *x, enum usage_state state)
{
    struct blame_who w;
    int64_t now = clock_mono_us();
    bool won = state == USAGE_COMPLETED && !blame_quiet(x->g->blame), left = x->seat.at && (state == USAGE_CLIENT_ABORT || state == USAGE_TIMEOUT);
    if (won || left) who_is(x, &w);
    if (won) blame_won(x->g->blame, &x->seat, &w, now);
    if (left) blame_left(x->g->blame, x->engine, x->life, &w, now);
    blame_leave(x->g->blame, &x->seat, state == USAGE_COMPLETED, now);
}

void quarantine_left(struct exchange *x)
{
    struct blame_who w;
    who_is(x, &w);
    blame_left(x->g->blame, x->engine, x->life, &w, clock_mono_us());
}

static void who_tests(const struct version_name *v, struct blame_who *w)
{
    *w = (struct blame_who){.version = v->version};
    snprintf(w->tenant, sizeof w->tenant, "%s", v->tenant);
    snprintf(w->adapter, sizeof w->adapter, "%s", v->name);
}

bool quarantine_enter_test(struct gateway *g, const struct version_name *v, struct blame_seat *seat, const char *engine)
{
    struct blame_who w;
    who_tests(v, &w);
    if (blame_check(g->blame, v->tenant, "", clock_mono_us(), NULL)) return false; /* all of its tenant's are refused */
    return blame_enter(g->blame, seat, engine, &w, clock_mono_us());
}

void quarantine_over_test(struct gateway *g, const struct version_name *v, struct blame_seat *seat, bool completed)
{
    struct blame_who w;
    who_tests(v, &w);
    if (completed) blame_won(g->blame, seat, &w, clock_mono_us());
    blame_leave(g->blame, seat, completed, clock_mono_us());
}

void quarantine_left_test(struct gateway *g, const struct version_name *v, const char *engine, uint64_t life)
{
    struct blame_who w;
    who_tests(v, &w);
    blame_left(g->blame, engine, life, &w, clock_mono_us());
}

void quarantine_lost_load(struct gateway *g, const char *tenant, const char *engine, uint64_t life, bool late)
{
    struct blame_who w = {.version = 0};
    snprintf(w.tenant, sizeof w.tenant, "%s", tenant);
    if (late)
        blame_left(g->blame, engine, life, &w, clock_mono_us());
    else
        blame_lost(g->blame, NULL, engine, life, &w, clock_mono_us());
}

void quarantine_lost_test(struct gateway *g, const struct version_name *v, struct blame_seat *seat, const char *engine, uint64_t life)
{
    struct blame_who w;
    who_tests(v, &w);
    blame_lost(g->blame, seat, engine, life, &w, clock_mono_us());
}

/* --- the verdict --- */

void quarantine_ended(void *u, const char *engine, uint64_t life, bool crashed)
{
    struct gateway *g = u;
    const struct settings *set = g->set;
    blame_end(g->blame, engine, life, crashed, clock_mono_us(), (set ? set->quarantine_s : 1) * 1000000);
}

static void adapter_guilty(void *u, const struct blame_who *w, int crashes)
{
    struct gateway *g = u;
    char detail[64];
    snprintf(detail, sizeof detail, "%d engines were lost with it", crashes);
    uploads_quarantine(g->uploads, w->tenant, w->adapter, w->version, "engine_lost", detail);
    uploads_quarantine_same(g->uploads, w->tenant, w->adapter, w->version, "engine_lost", "engines were lost with the same bytes under another name or number");
}

struct note {
    const struct actor *by;
    const char *type, *action;
    struct blame_refused r;
    int64_t refuse_s; /* 0: it is lifted */
};

/* Of a tenant there is no row: its quarantine ends with the process. */
static int keep_row(struct db *d, sqlite3 *c, const struct note *n, struct err *e)
{
    if (n->r.who.all) return 0;
    return n->refuse_s ? quarantine_row_put(d, c, &n->r, e) : quarantine_row_drop(d, c, n->r.id, e);
}

static int run_note(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct note *n = u;
    json_t *o = json_pack("{ss}", "model", n->r.who.model);
    if (n->refuse_s) json_object_set_new(o, "refused_s", json_integer(n->refuse_s));
    int rc = audit_add(d, c, &(struct audit){n->by, n->action, n->r.id, NULL, o}, e) || event_add(d, c, n->r.who.tenant, n->type, n->r.id, o, e) || keep_row(d, c, n, e);
    json_decref(o);
    return rc ? -1 : 0;
}

static void noted(void *u, const struct err *e)
{
    struct note *n = u;
    if (e) log_error("event_lost", LS("type", n->type), LS("object", n->r.id), LS("reason", e->msg));
    free(n);
}

static void note(struct gateway *g, const char *type, const char *action, const struct blame_refused *r)
{
    struct err e = {0};
    struct note *n = calloc(1, sizeof *n);
    if (!n) return;
    *n = (struct note){&nobody, type, action, *r, g->set->quarantine_s};
    if (db_write(g->db, &(struct db_job){.run = run_note, .done = noted, .user = n, .durable = true}, &e)) noted(n, &e);
}

static void request_guilty(void *u, const struct blame_refused *r)
{
    log_warn("request_quarantined", LS("tenant", r->who.tenant_name), LS("model", r->who.model), LS("request_digest", r->id));
    note(u, "request.quarantined", "request.quarantine", r);
}

static void tenant_guilty(void *u, const struct blame_refused *r)
{
    log_warn("tenant_quarantined", LS("tenant", r->who.tenant_name), LS("quarantine", r->id));
    note(u, "tenant.quarantined", "tenant.quarantine", r);
}

int quarantine_open(struct blame **out, struct gateway *g, struct err *e)
{
    struct blame_options o = {adapter_guilty, request_guilty, tenant_guilty, g};
    return blame_open(out, &o, e) || quarantine_rows_read(g->db, *out, e) ? -1 : 0;
}

int quarantine_lift(struct gateway *g, const struct actor *by, const char *tenant, const char *id, struct err *e)
{
    struct note n = {.by = by, .type = "request.lifted", .action = "request.lift"};
    if (blame_find(g->blame, tenant, id, clock_mono_us(), &n.r.who, e)) return -1;
    if (n.r.who.all) n.type = "tenant.lifted", n.action = "tenant.lift";
    snprintf(n.r.id, sizeof n.r.id, "%s", id);
    if (db_write_wait(g->db, run_note, &n, e)) return -1;
    blame_lift(g->blame, id);
    return 0;
}
