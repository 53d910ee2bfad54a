/* exports_api: usage rows to take away, over HTTP (docs/EXPORTS.md).
 *
 *     GET exports/usage   format=csv|jsonl|focus  start_time, end_time  after=ID  all=true  partial=true  tenant=NAME (the operator)
 *
 * One code serves the tenant (its own rows) and the operator (everybody's). The event thread checks the key, a database thread the query and where the
 * cursor lies; then gateway/export/export_stream.c has it. Only rows that are final are told unless `all` asks for the newest, too: who resumes after the
 * last one he has misses none. X-Weft-Complete-Before says up to when (Unix seconds) nothing more will come.
 *
 * Who says where to begin wants all rows from there on: 410 where retention took some, unless `partial` asks for what is left. Who doesn't begins with the
 * first row that is kept. X-Weft-Removed-Before says before when rows are missing. */
#include "base/clock.h"
#include "gateway/api/admin_api.h"
#include "gateway/api/header.h"
#include "gateway/export/export_stream.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/proxy/chat_api.h"
#include <stdio.h>
#include <string.h>

#define TIME_MAX 253402300799 /* 9999-12-31 */

static int read_format(const struct http_request *r, enum export_format *out, struct err *e)
{
    const char *word = http_query(r, "format");
    int format = word ? export_format_of(word) : EXPORT_CSV;
    if (format < 0) return err_field(e, ERR_INVALID, "format", "'format' is csv, jsonl or focus, not '%.40s'.", word);
    *out = (enum export_format)format;
    return 0;
}

static int read_bool(const struct http_request *r, const char *name, bool *out, struct err *e)
{
    const char *word = http_query(r, name);
    if (!word || strcmp(word, "false") == 0) return 0;
    *out = strcmp(word, "true") == 0;
    return *out ? 0 : err_field(e, ERR_INVALID, name, "'%s' is true or false, not '%.40s'.", name, word);
}

static int read_times(const struct http_request *r, struct rows_query *q, struct err *e)
{
    q->end = clock_wall_us() / 1000000 + 1; /* of an export without an end: it must come to one */
    if (admin_query_int(r, "start_time", 0, TIME_MAX, &q->start, e) || admin_query_int(r, "end_time", 0, TIME_MAX, &q->end, e)) return -1;
    if (q->start < q->end) return 0;
    return err_field(e, ERR_INVALID, "start_time", "'start_time' (%lld) must be before 'end_time' (%lld).", (long long)q->start, (long long)q->end);
}

static int note_month(void *u, const struct usage_row *row, struct err *e)
{
    (void)e;
    struct rows_cursor *at = u;
    at->month = row->month;
    return 0;
}

/* A row's month is in its table's name; an id that is nowhere is a place all the same, in the month that it says. */
static int read_after(const struct http_request *r, struct export_ask *ask, struct err *e)
{
    const char *id = http_query(r, "after");
    if (!id) return 0;
    if (!uuid_is(id)) return err_field(e, ERR_INVALID, "after", "'after' must be the id of a usage row.");
    int found = ledger_row(admin_gateway(r)->ledger, ask->rows.tenant, id, 0, note_month, &ask->after, e);
    if (found < 0) return -1;
    int64_t t = usage_id_time(id) / 1000000;
    if (!found && t > TIME_MAX) return err_field(e, ERR_INVALID, "after", "'after' is no id of a usage row.");
    if (!found) ask->after.month = month_of(t * 1000000);
    snprintf(ask->after.id, sizeof ask->after.id, "%s", id);
    return 0;
}

/* Of all tenants' rows: a month's file is removed whole, and nobody knows any more whose rows it had. */
static int look_for_gone(const struct http_request *r, struct export_ask *ask, struct err *e)
{
    const struct rows_gone *gone = &ask->gone;
    ask->first = month_of(ask->rows.start * 1000000);
    ask->last = month_of((ask->rows.end - 1) * 1000000);
    if (ask->after.month > ask->first) ask->first = ask->after.month;
    if (ledger_rows_gone(admin_gateway(r)->ledger, ask->first, ask->last, &ask->gone, e)) return -1;
    if (!gone->months || ask->partial || !(http_query(r, "start_time") || http_query(r, "after"))) return 0;
    int next = month_after(gone->last);
    return err_field(e, ERR_GONE, "start_time", "Usage rows of %d month%s from %04d-%02d to %04d-%02d were removed (archive_keep_months). Rows from %04d-%02d-01"
                     " on are all there: ask with start_time=%lld; or with partial=true for what is left.", gone->months, gone->months > 1 ? "s" : "",
                     gone->first / 100, gone->first % 100, gone->last / 100, gone->last % 100, next / 100, next % 100, (long long)month_start(next));
}

static int read_ask(struct http_request *r, struct export_ask *ask, struct err *e)
{
    static const char *const own[] = {"format", "start_time", "end_time", "after", "all", "partial", NULL};
    static const char *const of_all[] = {"format", "start_time", "end_time", "after", "all", "partial", "tenant", NULL};
    if (admin_query_known(r, ask->admin ? of_all : own, e) || read_format(r, &ask->format, e) || read_bool(r, "all", &ask->rows.all, e) ||
        read_bool(r, "partial", &ask->partial, e) || read_times(r, &ask->rows, e) || (ask->admin && admin_query_tenant(r, &ask->rows.tenant, e)))
        return -1;
    ask->gzip = header_takes_gzip(http_header(r, "accept-encoding"));
    return read_after(r, ask, e) || look_for_gone(r, ask, e) ? -1 : 0;
}

static void answer(struct http_request *r, bool admin)
{
    struct err e = {0};
    struct export_ask ask = {.admin = admin};
    if (!admin) ask.rows.tenant = admin_tenant(r);
    if (read_ask(r, &ask, &e) || exports_start(admin_gateway(r)->exports, r, &ask, &e)) http_reply_error(r, &e);
}

static void own_usage(struct http_request *r) { answer(r, false); }

static void all_usage(struct http_request *r) { answer(r, true); }

static void get_own(struct http_request *r) { admin_defer(r, own_usage); }

static const struct api_route by_key = {.scope = SCOPE_USAGE}, in_path = {.scope = SCOPE_USAGE, .in_path = true};

const struct http_route routes_exports[] = {
    {"GET", "/v1/exports/usage", HTTP_BODY_NONE, 0, api_who, NULL, get_own, &by_key},
    {"GET", "/t/{tenant}/v1/exports/usage", HTTP_BODY_NONE, 0, api_who, NULL, get_own, &in_path},
    {0},
};

const struct http_route routes_exports_admin[] = {
    ADMIN_READ("/admin/v1/exports/usage", all_usage),
    {0},
};
