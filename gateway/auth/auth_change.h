/* What changes of tenants' and keys' rows share (auth_tenants.c, auth_keys.c); nobody else includes this.
 *
 * A change is a struct that begins with a struct change and travels to the writer thread. There run() reads the row into `before`, changes it,
 * reads it again into `after`, and notes both in the audit trail, all in its savepoint; what it read last is the answer. So the answer, the
 * trail and the row can't differ. Then the caller's thread renews auth's snapshot. */
#pragma once
#include "base/json.h"
#include "gateway/auth/auth_store.h"

#define STORE_READ_MS 2000

struct change {
    const struct actor *by;
    json_t *before, *after;
};

/* Sends it to the writer; *out gets `after` once it is committed and in force. Lets go of both in any case. */
int change_apply(struct auth *a, int (*run)(struct db *, sqlite3 *, void *, struct err *), struct change *w,
                 json_t **out, struct err *e);
int auth_note(struct db *d, sqlite3 *c, const struct change *w, const char *action, const char *object,
                struct err *e);

/* The row of one name or id as JSON: 0 with *out NULL when there is none. */
int row_get(struct db *d, sqlite3 *c, const char *sql, json_t *(*print)(sqlite3_stmt *), const char *key, json_t **out,
            struct err *e);
/* want 0: any will do. */
int row_check_revision(const json_t *row, int64_t want, struct err *e);
json_t *row_seconds(sqlite3_stmt *st, int column); /* a time in microseconds as Unix seconds, or null */

/* One page of rows: sql[0] forward, sql[1] backward (gateway/api/page.h); ?1 the cursor, ?2 how many to ask for, ?3 tenant's name or NULL. */
struct row_page {
    const char *const *sql;
    const char *tenant;
    const struct page *page;
    json_t *(*print)(sqlite3_stmt *st);
    json_t *list;
    bool more;
};
int row_page(struct auth *a, struct row_page *p, struct err *e);

/* ERR_NOT_FOUND when it isn't there. */
int tenant_need(struct db *d, sqlite3 *c, const char *name, json_t **out, struct err *e);
