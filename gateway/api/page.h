/* Lists by cursor: {"object":"list","data":[..],"first_id","last_id","has_more"} with ?after, ?before and ?limit (1..100).
 *
 * A list has one order. `after` gives the items that follow that one, `before` those that stand right before it, both in the list's order;
 * has_more says whether there are more in the direction that was asked for. A cursor need not exist any more: it is a place, not an item.
 *
 *     SQL of a list, twice:  ... WHERE name > ?1 ORDER BY name      LIMIT ?2
 *                            ... WHERE name < ?1 ORDER BY name DESC LIMIT ?2      (sql_before)
 *     st = db_stmt(d, c, page_back(p) ? sql_before : sql, e), db_bind(st, e, "si..", page_cursor(p), page_ask(p), ...),
 *     page_rows(st, p, print, list, &more, e)
 */
#pragma once
#include "base/http.h"
#include "gateway/db/db.h"

#define PAGE_DEFAULT 20
#define PAGE_MAX 100

struct json_t;

struct page {
    const char *after, *before; /* "": not said; never both */
    int limit;
};

/* The query: after, before, limit, and the names in `also` (ended by NULL, may be NULL), which the caller reads. */
int page_read(const struct http_request *r, const char *const *also, struct page *out, struct err *e);
/* The cursor of a list that goes by number: 0 when there is none. ERR_INVALID naming after or before when it is no number. */
int page_number(const struct page *p, int64_t *out, struct err *e);

static inline bool page_back(const struct page *p)
{
    return *p->before;
}
static inline const char *page_cursor(const struct page *p)
{
    return *p->before ? p->before : p->after;
}
static inline int64_t page_ask(const struct page *p)
{
    return (int64_t)p->limit + 1;
} /* rows to ask for */

/* Appends up to p->limit rows of st to list, in the list's order; print returns NULL when memory is short. */
int page_rows(sqlite3_stmt *st, const struct page *p, struct json_t *(*print)(sqlite3_stmt *st), struct json_t *list,
              bool *more, struct err *e);
