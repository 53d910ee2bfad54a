/* GET .../stats/adapters: a page of the board of adapters (adapter_board.h), each version with where it is resident and which
 * aliases lead to it. On database threads. */
#include "base/clock.h"
#include "gateway/api/page.h"
#include "gateway/live/live_api.h"
#include "gateway/stats/adapter_board.h"
#include <math.h>
#include <string.h>

#define IDLE_DAYS_MAX 3650
#define Q_MAX 129

struct page_read {
    const struct board_row **row;
    int n;
    json_t **aliases, **state; /* [n]; state: {state, changed_at, failure} */
};

/* An alias without a version leads to the newest one that is ready. */
static int read_aliases(struct db *d, sqlite3 *c, struct page_read *x, struct err *e)
{
    static const char sql[] =
        "SELECT DISTINCT al.name FROM alias_target x JOIN alias al ON al.row = x.alias WHERE x.adapter = ?1 AND (x.version = ?2"
        " OR (x.version = 0 AND ?2 = (SELECT max(v.version) FROM version v WHERE v.adapter = ?1 AND v.state = 'ready')))"
        " ORDER BY al.name";
    for (int i = 0; i < x->n; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        if (!st || db_bind(st, e, "ii", x->row[i]->adapter_row, (int64_t)x->row[i]->version)) return -1;
        int rc;
        while ((rc = db_row(st, e)) == 1) json_array_append_new(x->aliases[i], json_string(db_text(st, 0)));
        if (rc < 0) return -1;
    }
    return 0;
}

/* What has changed since the board was made would mislead who acts upon it: the state, since when, and why. A version that is gone meanwhile keeps what
 * the board says. */
static int read_states(struct db *d, sqlite3 *c, struct page_read *x, struct err *e)
{
    static const char sql[] = "SELECT state, changed, reason, tensor FROM version WHERE adapter = ?1 AND version = ?2";
    for (int i = 0; i < x->n; i++) {
        sqlite3_stmt *st = db_stmt(d, c, sql, e);
        if (!st || db_bind(st, e, "ii", x->row[i]->adapter_row, (int64_t)x->row[i]->version)) return -1;
        int rc = db_row(st, e);
        if (rc < 0) return -1;
        x->state[i] = rc ? json_pack("{ss sI so}", "state", db_text(st, 0), "changed_at", (json_int_t)(sqlite3_column_int64(st, 1) / 1000000), "failure",
                                     registry_failure_json(db_text(st, 0), db_text(st, 2), db_text(st, 3)))
                         : json_pack("{ss sI sn}", "state", x->row[i]->state, "changed_at", (json_int_t)(x->row[i]->created / 1000000), "failure");
        sqlite3_reset(st);
    }
    return 0;
}

static int read_page(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    return read_aliases(d, c, u, e) || read_states(d, c, u, e) ? -1 : 0;
}

/* Names of the engines that hold it. */
static json_t *resident(struct gateway *g, const char *digest)
{
    json_t *all = json_array(), *names = json_array(), *one;
    size_t i;
    pool_where(g->pool, digest, all);
    json_array_foreach(all, i, one)
    {
        if (json_is_true(json_object_get(one, "resident"))) json_array_append(names, json_object_get(one, "engine"));
    }
    json_decref(all);
    return names;
}

static json_t *row_json(struct gateway *g, const struct board_row *r, json_t *state, json_t *aliases)
{
    json_t *o = json_pack("{ss ss ss si ss si sI ss sI sb so so}", "object", "adapter.stats", "tenant", r->tenant,
                          "adapter", r->adapter, "version", r->version, "kind", r->kind, "rank",
                          r->rank, "bytes", (json_int_t)r->bytes, "digest", r->digest, "created_at",
                          (json_int_t)(r->created / 1000000), "pinned", r->pinned, "resident", resident(g, r->digest),
                          "last_used", r->last_used ? json_integer(r->last_used / 1000000) : json_null());
    json_t *more = json_pack(
        "{sI sI sI sI sI so so sI sO}", "requests", (json_int_t)r->n, "tokens", (json_int_t)r->tokens, "cost_nano",
        (json_int_t)r->cost, "errors", (json_int_t)r->errors, "cold", (json_int_t)r->cold, "load_ms_avg",
        r->cold ? json_real(rint((double)r->load_us / (double)r->cold) / 1000) : json_null(), "cold_share",
        r->ttft_us ? json_real(rint(fmin((double)r->load_us / (double)r->ttft_us, 1) * 1e4) / 1e4) : json_null(),
        "evictions", (json_int_t)pool_evictions(g->pool, r->digest), "aliases", aliases);
    json_object_update(o, state);
    json_object_update(o, more);
    json_decref(more);
    return o;
}

static int answer(struct http_request *r, const struct board_row **row, int n, const struct board_ask *a, struct err *e)
{
    struct gateway *g = admin_gateway(r);
    json_t *aliases[PAGE_MAX], *state[PAGE_MAX] = {0}, *data = json_array();
    bool more = n > a->limit;
    struct page_read x = {row, more ? a->limit : n, aliases, state};
    char first[BOARD_CURSOR_LEN] = "", last[BOARD_CURSOR_LEN] = "";
    for (int i = 0; i < x.n; i++) aliases[i] = json_array();
    int rc = db_read(g->db, read_page, &x, LIVE_READ_MS, e);
    for (int i = 0; i < x.n; i++) {
        if (rc == 0) json_array_append_new(data, row_json(g, row[i], state[i], aliases[i]));
        json_decref(state[i]);
        json_decref(aliases[i]);
    }
    if (x.n) board_cursor(row[0], a->sort, first), board_cursor(row[x.n - 1], a->sort, last);
    if (rc == 0)
        admin_reply(r, 200,
                    json_pack("{ss sO ss? ss? sb}", "object", "list", "data", data, "first_id", x.n ? first : NULL,
                              "last_id", x.n ? last : NULL, "has_more", more));
    json_decref(data);
    return rc;
}

/* Who looks for what is in quarantine must not miss what came there since the board was made, nor find what was lifted. */
static const char *state_now(void *u, const struct board_row *row)
{
    enum version_state s;
    return registry_state(u, row->tenant_id, row->adapter, row->version, &s, NULL) ? version_state_name[s] : "";
}

static int read_ask(struct http_request *r, struct span *s, struct board_ask *a, struct err *e)
{
    static const char *const also[] = {"state", "idle_days", "q", "sort", "limit", "after", NULL};
    int64_t limit = PAGE_DEFAULT, idle = 0;
    int sort;
    if (span_read(r, also, s, e) || admin_query_int(r, "limit", 1, PAGE_MAX, &limit, e) ||
        admin_query_int(r, "idle_days", 1, IDLE_DAYS_MAX, &idle, e) || span_word(r, "sort", board_sort_word, &sort, e))
        return -1;
    const char *after = http_query(r, "after");
    *a = (struct board_ask){.state = http_query(r, "state"),
                            .q = http_query(r, "q"),
                            .idle_since = idle ? clock_wall_us() - idle * 86400000000LL : 0,
                            .sort = (enum board_sort)sort,
                            .after = after ? after : "",
                            .limit = (int)limit,
                            .state_now = state_now,
                            .user = admin_gateway(r)->registry};
    int state = 0;
    while (a->state && state < VERSION_STATES && strcmp(a->state, version_state_name[state]) != 0) state++;
    if (state == VERSION_STATES)
        return err_field(e, ERR_INVALID, "state", "There is no state '%.40s' of a version.", a->state);
    if (a->q && strlen(a->q) > Q_MAX)
        return err_field(e, ERR_INVALID, "q", "'q' must be at most %d bytes long.", Q_MAX);
    return 0;
}

void adapter_stats_get(struct http_request *r)
{
    struct gateway *g = admin_gateway(r);
    struct err e = {0};
    struct span s;
    struct board_ask a;
    const struct board *x = NULL;
    const struct board_row *row[PAGE_MAX + 1];
    int n;
    int rc = read_ask(r, &s, &a, &e) || board_get(g->boards, s.tenant, s.start, s.end, &x, &e) ||
             board_pick(x, &a, row, &n, &e) || answer(r, row, n, &a, &e);
    if (rc) live_answer(r, -1, NULL, &e);
    board_unref(g->boards, x);
}
