/* page: what all lists share (see page.h). A page before a cursor is read backwards and turned round, so both directions are one range of
 * the index that the list is ordered by, however long the list is. Parsing runs anywhere, page_rows where its statement does. */
#include "gateway/api/page.h"
#include "base/json.h"
#include "gateway/api/admin_api.h"
#include <stdlib.h>
#include <string.h>

#define NAMES_MAX 16
#define CURSOR_MAX 255
#define CURSOR_DIGITS 15

static int known(const struct http_request *r, const char *const *also, struct err *e)
{
    const char *names[NAMES_MAX + 1] = {"after", "before", "limit"};
    int n = 3;
    for (; also && *also && n < NAMES_MAX; also++) names[n++] = *also;
    names[n] = NULL;
    return admin_query_known(r, names, e);
}

static int check_cursor(const char *name, const char *value, struct err *e)
{
    if (!value || (*value && strlen(value) <= CURSOR_MAX)) return 0;
    return err_field(e, ERR_INVALID, name, "'%s' must be 1 to %d bytes long.", name, CURSOR_MAX);
}

int page_read(const struct http_request *r, const char *const *also, struct page *out, struct err *e)
{
    int64_t limit = PAGE_DEFAULT;
    if (known(r, also, e) || admin_query_int(r, "limit", 1, PAGE_MAX, &limit, e)) return -1;
    const char *after = http_query(r, "after"), *before = http_query(r, "before");
    if (after && before) return err_field(e, ERR_INVALID, "before", "'after' and 'before' don't go together.");
    if (check_cursor("after", after, e) || check_cursor("before", before, e)) return -1;
    *out = (struct page){after ? after : "", before ? before : "", (int)limit};
    return 0;
}

int page_number(const struct page *p, int64_t *out, struct err *e)
{
    const char *text = page_cursor(p);
    size_t digits = strspn(text, "0123456789");
    int64_t v = digits <= CURSOR_DIGITS ? strtoll(text, NULL, 10) : -1;
    if (text[digits] || v < (*text ? 1 : 0))
        return err_field(e, ERR_INVALID, page_back(p) ? "before" : "after",
                         "The cursor must be a whole number from 1 on, not '%.40s'.", text);
    *out = v;
    return 0;
}

static int add(json_t *list, bool back, json_t *row, struct err *e)
{
    int rc = !row ? -1 : back ? json_array_insert_new(list, 0, row) : json_array_append_new(list, row);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for a list") : 0;
}

int page_rows(sqlite3_stmt *st, const struct page *p, json_t *(*print)(sqlite3_stmt *st), json_t *list, bool *more,
              struct err *e)
{
    int rc = 0, n = 0;
    while ((rc = db_row(st, e)) == 1 && n++ < p->limit)
        if (add(list, page_back(p), print(st), e)) return -1;
    *more = rc == 1;
    sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}
