/* registry_remove: versions go in two steps, so that a request in flight ends on the version it began with.
 *
 *     registry_remove:   any state --(no alias needs it)--> deleting, entry and event        one transaction
 *                        new snapshot: no request gets it any more, and none can begin to hold it
 *     registry_collect:  deleting and held by nobody --> row gone, event                     one transaction
 *
 * The second step follows at once; what is held then is left for a later one (the keeper of upload.c), or for the next
 * start, when nobody holds anything. A version whose row is gone may leave its bytes without a reference: these digests
 * are given out, and the caller removes them unless an upload brought one back (a claim per digest, upload.c).
 *
 * An adapter that is removed as a whole goes with the last of its versions; they carry the mark "adapter" meanwhile, in
 * `reason`. A version that is added before that keeps the adapter. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/revision.h"
#include "gateway/live/event.h"
#include "gateway/registry/registry_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WITH_ADAPTER "adapter"

/* --- aliases that point here --- */

int registry_unpointed(struct db *d, sqlite3 *c, const char *tenant, const char *name, int version, struct err *e)
{
    /* A target that follows the newest version needs some ready one beside this. */
    static const char sql[] =
        "SELECT l.name FROM adapter a JOIN alias_target t ON t.adapter = a.row JOIN alias l ON l.row = t.alias"
        " WHERE a.tenant = ?1 AND a.name = ?2 AND (?3 = 0 OR t.version = ?3 OR (t.version = 0"
        "  AND EXISTS (SELECT 1 FROM version v WHERE v.adapter = a.row AND v.version = ?3 AND v.state = 'ready')"
        "  AND NOT EXISTS (SELECT 1 FROM version v WHERE v.adapter = a.row AND v.version != ?3 AND v.state = 'ready')))"
        " ORDER BY l.name LIMIT 1";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ssi", tenant, name, (int64_t)version) == 0 ? db_row(st, e) : -1;
    if (rc == 1)
        err_set(e, ERR_CONFLICT, "The alias '%.64s' points at '%.64s'; change it first.", db_text(st, 0), name);
    if (st) sqlite3_reset(st);
    return rc ? -1 : 0;
}

/* --- the first step --- */

struct retiring {
    struct subject s;
    int version; /* 0: all */
    int64_t want;
    int n;
};

/* Each version that goes: its entry, its event. */
static int note_versions(struct db *d, sqlite3 *c, struct retiring *x, struct err *e)
{
    static const char sql[] =
        "SELECT v.version, v.digest, v.base, v.rank, v.bytes FROM adapter a JOIN version v ON v.adapter = a.row"
        " WHERE a.tenant = ?1 AND a.name = ?2 AND (?3 = 0 OR v.version = ?3) AND v.state != 'deleting' ORDER BY "
        "v.version";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ssi", x->s.tenant, x->s.name, (int64_t)x->version)) return -1;
    int rc;
    while ((rc = db_row(st, e)) == 1) {
        json_t *was = registry_version_entry(db_text(st, 1), db_text(st, 2), sqlite3_column_int64(st, 3),
                                             sqlite3_column_int64(st, 4));
        if (registry_note(d, c, &x->s, sqlite3_column_int(st, 0), "version.remove", was, NULL, e) ||
            registry_event(d, c, &x->s, sqlite3_column_int(st, 0), "version.deleting", db_text(st, 1), NULL, e))
            return -1;
        x->n++;
    }
    return rc;
}

static int note_adapter(struct db *d, sqlite3 *c, const struct subject *s, struct err *e)
{
    static const char sql[] = "SELECT description FROM adapter WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "ss", s->tenant, s->name)) return -1;
    int rc = db_row(st, e);
    if (rc == 1)
        rc = registry_note(d, c, s, 0, "adapter.remove", registry_adapter_entry(db_text(st, 0)), NULL, e);
    else if (rc == 0)
        rc = err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s'.", s->name);
    sqlite3_reset(st);
    return rc;
}

static int check_revision(struct db *d, sqlite3 *c, const struct retiring *x, struct err *e)
{
    static const char sql[] = "SELECT revision FROM adapter WHERE tenant = ?1 AND name = ?2";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ss", x->s.tenant, x->s.name) == 0 ? db_row(st, e) : -1;
    int64_t have = rc == 1 ? sqlite3_column_int64(st, 0) : 0;
    if (st) sqlite3_reset(st);
    if (rc < 0) return -1;
    return rc == 1 ? revision_check(x->want, have, e) : 0; /* what is not there is said as such */
}

static int exec(struct db *d, sqlite3 *c, const char *sql, const struct retiring *x, struct err *e)
{
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "ssi", x->s.tenant, x->s.name, (int64_t)x->version) || db_done(st, e) ? -1 : 0;
}

static int run_retire(struct db *d, sqlite3 *c, void *u, struct err *e)
{
#define ITS_ADAPTER "(SELECT row FROM adapter WHERE tenant = ?1 AND name = ?2)"
    static const char one[] =
        "UPDATE version SET state = 'deleting', reason = '', pinned = 0 WHERE adapter = " ITS_ADAPTER
        " AND version = ?3 AND state != 'deleting'";
    static const char all[] = "UPDATE version SET state = 'deleting', reason = '" WITH_ADAPTER
                              "', pinned = 0 WHERE adapter = " ITS_ADAPTER " AND ?3 = 0";
    /* What still comes for a version that goes need not come. */
    static const char uploads[] = "DELETE FROM upload WHERE tenant = ?1 AND adapter = ?2 AND (?3 = 0 OR version = ?3)";
    static const char empty[] = "DELETE FROM adapter WHERE tenant = ?1 AND name = ?2 AND ?3 = 0"
                                " AND NOT EXISTS (SELECT 1 FROM version v WHERE v.adapter = adapter.row)";
    static const char touch[] =
        "UPDATE adapter SET revision = revision + 1 WHERE tenant = ?1 AND name = ?2 AND ?3 = ?3";
    struct retiring *x = u;
    x->n = 0;
    if (check_revision(d, c, x, e) || registry_unpointed(d, c, x->s.tenant, x->s.name, x->version, e) ||
        note_versions(d, c, x, e) || (!x->version && note_adapter(d, c, &x->s, e)))
        return -1;
    if (x->version && !x->n)
        return err_set(e, ERR_NOT_FOUND, "There is no adapter '%.64s' with a version %d.", x->s.name, x->version);
    return exec(d, c, x->version ? one : all, x, e) || exec(d, c, uploads, x, e) || exec(d, c, empty, x, e) ||
                   exec(d, c, touch, x, e)
               ? -1
               : 0;
#undef ITS_ADAPTER
}

/* --- the second step --- */

struct going {
    int64_t adapter, version;
    char tenant[UUID_LEN], name[NAME_MAX_LEN + 1], digest[SHA256_HEX];
    int number;
};

struct collecting {
    struct going *v;
    int n, held, norphans;
    char (*orphan)[SHA256_HEX];
};

static bool is_held(const struct registry *r, const char *digest)
{
    for (int i = 0; i < HOLD_BUCKETS; i++)
        for (const struct hold *h = r->hold[i]; h; h = h->next)
            if (strcmp(h->digest, digest) == 0) return true;
    return false;
}

/* Of one snapshot, under its lock: what is deleting in it can't be held anew. */
static int find_going(struct registry *r, struct collecting *x, struct err *e)
{
    struct catalog *g = catalog_ref(r);
    size_t n = 0;
    int rc = 0;
    for (size_t i = 0; i < g->n; i++) n += g->v[i].state == VERSION_DELETING;
    if (n && (!(x->v = calloc(n, sizeof *x->v)) || !(x->orphan = calloc(n, sizeof *x->orphan))))
        rc = err_set(e, ERR_NO_MEMORY, "no memory to remove %zu versions", n);
    pthread_mutex_lock(&r->lock);
    for (size_t i = 0; n && rc == 0 && i < g->n; i++) {
        const struct known *k = &g->v[i];
        if (k->state != VERSION_DELETING) continue;
        if (is_held(r, k->digest)) {
            x->held++;
            continue;
        }
        struct going *v = &x->v[x->n++];
        *v = (struct going){.adapter = k->adapter_row, .version = k->version_row, .number = k->version};
        memcpy(v->tenant, k->tenant, sizeof v->tenant);
        memcpy(v->name, k->name, sizeof v->name);
        memcpy(v->digest, k->digest, sizeof v->digest);
    }
    pthread_mutex_unlock(&r->lock);
    catalog_unref(r, g);
    return rc;
}

static int drop_row(struct db *d, sqlite3 *c, const struct going *v, struct err *e)
{
    static const char whole[] =
        "DELETE FROM adapter WHERE row = ?2 AND NOT EXISTS (SELECT 1 FROM version v WHERE v.adapter = ?2"
        " AND v.row != ?1) AND EXISTS (SELECT 1 FROM version v WHERE v.row = ?1 AND v.reason = '" WITH_ADAPTER "')";
    static const char one[] = "DELETE FROM version WHERE row = ?1 AND adapter = ?2 AND state = 'deleting'";
    static const struct actor nobody = {.key = "system", .ip = "", .request = ""};
    struct subject s = {&nobody, v->tenant, v->name};
    sqlite3_stmt *st = db_stmt(d, c, whole, e);
    if (!st || db_bind(st, e, "ii", v->version, v->adapter) || db_done(st, e)) return -1;
    bool gone = sqlite3_changes(c) > 0;
    if (!gone) {
        if (!(st = db_stmt(d, c, one, e)) || db_bind(st, e, "ii", v->version, v->adapter) || db_done(st, e)) return -1;
        gone = sqlite3_changes(c) > 0;
    }
    return gone ? registry_event(d, c, &s, v->number, "version.deleted", v->digest, NULL, e) : 0;
}

static int run_collect(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT 1 FROM version WHERE digest = ?1 AND state != 'failed' LIMIT 1";
    struct collecting *x = u;
    x->norphans = 0;
    for (int i = 0; i < x->n; i++)
        if (drop_row(d, c, &x->v[i], e)) return -1;
    for (int i = 0; i < x->n; i++) {
        bool again = !x->v[i].digest[0];
        for (int k = 0; k < x->norphans && !again; k++) again = strcmp(x->orphan[k], x->v[i].digest) == 0;
        if (again) continue;
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        int rc = st && db_bind(st, e, "s", x->v[i].digest) == 0 ? db_row(st, e) : -1;
        if (st) sqlite3_reset(st);
        if (rc < 0) return -1;
        if (rc == 0) memcpy(x->orphan[x->norphans++], x->v[i].digest, SHA256_HEX);
    }
    return 0;
}

int registry_collect(struct registry *r, char (**orphans)[SHA256_HEX], int *norphans, int *draining, struct err *e)
{
    struct collecting x = {.n = 0};
    int rc = find_going(r, &x, e);
    if (rc == 0 && x.n) rc = db_write_wait(r->db, run_collect, &x, e) || registry_reload(r, e) ? -1 : 0;
    free(x.v);
    if (rc) {
        free(x.orphan);
        return -1;
    }
    *orphans = x.orphan;
    *norphans = x.norphans;
    *draining = x.held;
    return 0;
}

int registry_remove(struct registry *r, const struct actor *by, const char *tenant, const char *name, int version,
                    int64_t want, char (**orphans)[SHA256_HEX], int *norphans, int *draining, struct err *e)
{
    struct retiring x = {.s = {by, tenant, name}, .version = version, .want = want};
    if (db_write_wait(r->db, run_retire, &x, e) || registry_reload(r, e)) return -1;
    return registry_collect(r, orphans, norphans, draining, e);
}
